//! What routes promise.

use alloc::collections::BTreeMap;
use alloc::vec;
use alloc::vec::Vec;

use super::{HOP_COST_MS, MAX_HOPS, Routes, Way, ways};
use crate::id::{MeshId, NodeId};
use crate::membership::{self, Identity, Membership};
use crate::outbox::Outbox;
use crate::rng::Rng;
use crate::time::Time;

const NOBODY: &dyn Fn(&NodeId) -> bool = &|_| false;

/// Members with these links, of which some relay. Number 0 is this node.
struct Mesh {
    ids: Vec<NodeId>,
    members: Membership,
    own: Vec<(NodeId, u32)>,
}

impl Mesh {
    /// `links` are (from, to, milliseconds) as `from` names them.
    fn new(count: u8, relays: &[u8], links: &[(u8, u8, u16)]) -> Self {
        let mesh = MeshId([7; 32]);
        let make = |n: u8| {
            let secret = [n + 1; 32];
            let identity = Identity { secret: &secret, mesh: &mesh, name: "n", boot: 1, unix_ms: 1_000 };
            Membership::new(Time::ZERO, &Rng::from_u64(u64::from(n)), &identity)
        };
        let ids: Vec<NodeId> = (0..count).map(|n| make(n).id()).collect();
        let mut members = make(0);
        for n in 1..count {
            let mut other = make(n);
            other.set_relays(Time::ZERO, relays.contains(&n));
            let named = links.iter().filter(|(from, ..)| *from == n);
            other.set_links(Time::ZERO, named.map(|(_, to, ms)| (ids[usize::from(*to)], *ms)).collect());
            let mut out = Outbox::new();
            other.session_up(Time::ZERO, ids[0], true, &mut out);
            while let Some(event) = out.pop_event() {
                if let membership::Event::Send {
                    message: message @ membership::Message::Records(_), ..
                } = event
                {
                    members.handle(Time::ZERO, other.id(), message, &mut Outbox::new());
                }
            }
        }
        assert_eq!(members.members().len(), usize::from(count) - 1);
        let own = links.iter().filter(|(from, ..)| *from == 0);
        let own = own.map(|(_, to, ms)| (ids[usize::from(*to)], u32::from(*ms))).collect();
        Self { ids, members, own }
    }

    fn routes(&self) -> Routes {
        ways(self.ids[0], &self.own, self.members.members(), NOBODY)
    }

    /// The inner nodes of the way to `to`, by number.
    fn inner(&self, to: u8) -> Option<Vec<u8>> {
        Some(self.numbers(&self.routes().to(&self.ids[usize::from(to)])?.inner))
    }

    fn numbers(&self, ids: &[NodeId]) -> Vec<u8> {
        let number = |id: &NodeId| self.ids.iter().position(|known| known == id).unwrap();
        ids.iter().map(|id| u8::try_from(number(id)).unwrap()).collect()
    }
}

#[test]
fn a_chain_of_which_only_neighbours_can_talk_is_a_route() {
    let mesh = Mesh::new(4, &[1, 2], &[(0, 1, 10), (1, 2, 20), (3, 2, 30)]);
    assert_eq!(mesh.inner(3), Some(vec![1, 2]));
    assert_eq!(mesh.inner(1), Some(vec![]));
    assert_eq!(mesh.routes().to(&mesh.ids[3]).unwrap().rtt_ms, 60);
}

#[test]
fn inner_nodes_must_relay_and_the_ends_need_not() {
    let links = [(0, 1, 10), (1, 3, 10), (0, 2, 50), (2, 3, 50)];
    assert_eq!(Mesh::new(4, &[1, 2], &links).inner(3), Some(vec![1]));
    assert_eq!(Mesh::new(4, &[2], &links).inner(3), Some(vec![2]));
    assert_eq!(Mesh::new(4, &[0, 3], &links).inner(3), None);
}

#[test]
fn who_claims_to_be_near_is_believed_only_as_far_as_the_other_end_agrees() {
    let honest = [(0, 1, 10), (1, 3, 10), (3, 1, 10), (0, 2, 1), (2, 3, 1), (3, 2, 40)];
    assert_eq!(Mesh::new(4, &[1, 2], &honest).inner(3), Some(vec![1]));
}

#[test]
fn who_refused_is_left_out() {
    let mesh = Mesh::new(4, &[1, 2], &[(0, 1, 10), (1, 3, 10), (0, 2, 50), (2, 3, 50)]);
    let avoided = |id: &NodeId| *id == mesh.ids[1];
    let routes = ways(mesh.ids[0], &mesh.own, mesh.members.members(), &avoided);
    assert_eq!(routes.to(&mesh.ids[3]).unwrap().inner, [mesh.ids[2]]);
    assert_eq!(routes.mediators(&mesh.ids[3]), [mesh.ids[2]]);
    assert_eq!(mesh.routes().mediators(&mesh.ids[3]), [mesh.ids[1], mesh.ids[2]], "nearest first");
}

#[test]
fn a_route_has_no_more_inner_nodes_than_a_circuit_may_have() {
    let count = u8::try_from(MAX_HOPS).unwrap() + 3;
    let links: Vec<(u8, u8, u16)> = (0..count - 1).map(|n| (n, n + 1, 5)).collect();
    let relays: Vec<u8> = (1..count).collect();
    let mesh = Mesh::new(count, &relays, &links);
    assert_eq!(mesh.inner(count - 2).map(|inner| inner.len()), Some(MAX_HOPS));
    assert_eq!(mesh.inner(count - 1), None);
}

/// Every path there is, tried out.
fn brute_force(mesh: &Mesh, links: &BTreeMap<(u8, u8), u32>, relays: &[u8], to: u8) -> Option<(u32, usize)> {
    fn walk(
        at: u8,
        to: u8,
        seen: &mut Vec<u8>,
        (links, relays): (&BTreeMap<(u8, u8), u32>, &[u8]),
        (cost, hops): (u32, usize),
        best: &mut Option<(u32, usize)>,
    ) {
        if at == to {
            let here = (cost, hops - 1);
            *best = Some(best.map_or(here, |best| best.min(here)));
            return;
        }
        if at != 0 && !relays.contains(&at) {
            return;
        }
        for ((_, next), rtt_ms) in links.iter().filter(|((from, _), _)| *from == at) {
            if !seen.contains(next) {
                seen.push(*next);
                let extra = if at == 0 { 0 } else { HOP_COST_MS };
                walk(*next, to, seen, (links, relays), (cost + rtt_ms + extra, hops + 1), best);
                seen.pop();
            }
        }
    }
    let _ = mesh;
    let mut best = None;
    walk(0, to, &mut vec![0], (links, relays), (0, 0), &mut best);
    best.filter(|(_, hops)| *hops <= MAX_HOPS)
}

#[test]
fn routes_are_the_shortest_of_all_paths() {
    for seed in 0..60 {
        let mut rng = Rng::from_u64(seed);
        let count = 6u8;
        let mut named = Vec::new();
        let mut links: BTreeMap<(u8, u8), u32> = BTreeMap::new();
        for a in 0..count {
            for b in 0..count {
                if a != b && rng.chance(0.3) {
                    let ms = u16::try_from(1 + rng.below(100)).unwrap();
                    named.push((a, b, ms));
                }
            }
        }
        for (a, b, ms) in &named {
            // What this node is linked to it knows itself.
            if *b == 0 {
                continue;
            }
            for pair in [(*a, *b), (*b, *a)] {
                let known = links.entry(pair).or_insert(u32::from(*ms));
                *known = u32::from(*ms).max(*known);
            }
        }
        let relays: Vec<u8> = (1..count).filter(|_| rng.chance(0.7)).collect();
        let mesh = Mesh::new(count, &relays, &named);
        let routes = mesh.routes();
        for to in 1..count {
            let way = routes.to(&mesh.ids[usize::from(to)]);
            let cost = way.map(|Way { inner, rtt_ms }| {
                let hops = u32::try_from(inner.len()).unwrap();
                (rtt_ms + hops * HOP_COST_MS, inner.len())
            });
            assert_eq!(
                cost,
                brute_force(&mesh, &links, &relays, to),
                "seed {seed}, to {to}: {named:?} {relays:?}"
            );
        }
    }
}
