//! What routes promise.

use alloc::collections::BTreeMap;
use alloc::vec;
use alloc::vec::Vec;

use ed25519_dalek::SigningKey;

use super::{HOP_COST_MS, MAX_HOPS, MAX_MEDIATORS, Routes, Way, ways};
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

#[test]
fn a_dearer_way_with_fewer_hops_goes_further_than_the_cheapest() {
    // Along the chain, number 9 is too far; number 4 is dear to reach at once, but leaves hops to go on.
    let mut links: Vec<(u8, u8, u16)> = (0..9).map(|n| (n, n + 1, 1)).collect();
    links.push((0, 4, 100));
    let relays: Vec<u8> = (1..9).collect();
    let mesh = Mesh::new(10, &relays, &links);
    assert_eq!(mesh.inner(4), Some(vec![1, 2, 3]));
    assert_eq!(mesh.inner(9), Some(vec![4, 5, 6, 7, 8]));
    assert_eq!(mesh.routes().to(&mesh.ids[9]).unwrap().rtt_ms, 105);
}

#[test]
fn of_equal_ways_the_one_with_fewer_hops_and_then_the_lower_ids_is_taken() {
    let hop = u16::try_from(HOP_COST_MS).unwrap();
    let links = [(0, 1, 10), (1, 4, 10), (0, 2, 10), (2, 4, 10), (0, 3, 30 + hop), (1, 3, 10), (3, 4, 0)];
    let mesh = Mesh::new(5, &[1, 2, 3], &links);
    let lower = if mesh.ids[1] < mesh.ids[2] { 1 } else { 2 };
    assert_eq!(mesh.inner(4), Some(vec![lower]));
    let detour = [(0, 1, 10), (1, 3, 10), (3, 4, 10), (0, 2, 15 + hop), (2, 4, 15)];
    assert_eq!(Mesh::new(5, &[1, 2, 3], &detour).inner(4), Some(vec![2]));
}

#[test]
fn nobody_is_reached_through_this_node_or_through_who_is_not_a_member() {
    let mesh = Mesh::new(3, &[1, 2], &[(1, 0, 5), (2, 0, 5)]);
    assert_eq!((mesh.inner(1), mesh.inner(2)), (None, None), "what this node is linked to it knows itself");
    let stranger = NodeId([9; 32]);
    let routes = ways(mesh.ids[0], &[(stranger, 7)], mesh.members.members(), NOBODY);
    assert_eq!(routes.to(&stranger), Some(Way { inner: vec![], rtt_ms: 7 }));
    assert_eq!(routes.to(&mesh.ids[0]), None);
    assert!(routes.mediators(&stranger).is_empty());
    assert_eq!(Routes::default().to(&stranger), None);
    assert!(Routes::default().mediators(&stranger).is_empty());
}

#[test]
fn a_large_mesh_takes_work_and_memory_in_proportion_to_its_links() {
    let (count, mesh) = (600u16, MeshId([7; 32]));
    let key = |n: u16| {
        let mut secret = [1; 32];
        secret[..2].copy_from_slice(&n.to_be_bytes());
        SigningKey::from_bytes(&secret)
    };
    let ids: Vec<NodeId> = (0..count).map(|n| NodeId(key(n).verifying_key().to_bytes())).collect();
    let mut rng = Rng::from_u64(3);
    let secret = [9; 32];
    let identity = Identity { secret: &secret, mesh: &mesh, name: "n", boot: 1, unix_ms: 1_000 };
    let mut members = Membership::new(Time::ZERO, &rng, &identity);
    for n in 0..count {
        let mut record = membership::Record::new(ids[usize::from(n)], 1, "n");
        record.seq = 1;
        record.flags.relays = rng.chance(0.8);
        let mut link =
            || (ids[usize::try_from(rng.below(u64::from(count))).unwrap()], 1 + (rng.u64() % 300) as u16);
        record.links = (0..membership::MAX_LINKS).map(|_| link()).collect();
        let bytes = record.sign(&key(n), &mesh).bytes().clone();
        let message = membership::Message::Records(membership::wire::Records { items: vec![(0, bytes)] });
        members.handle(Time::ZERO, ids[0], message, &mut Outbox::new());
    }
    assert_eq!(members.members().len(), usize::from(count));
    let own: Vec<(NodeId, u32)> = ids.iter().take(8).map(|id| (*id, 20)).collect();
    let routes = ways(members.id(), &own, members.members(), NOBODY);
    assert!(ids.iter().all(|id| routes.to(id).is_some_and(|way| way.inner.len() <= MAX_HOPS)));
    assert!(ids.iter().all(|id| routes.mediators(id).len() <= MAX_MEDIATORS));
    assert!(routes.reached.len() <= usize::from(count) * (MAX_HOPS + 1));
}

/// Every path there is, tried out: the least cost, and the fewest inner nodes at that cost.
fn brute_force(links: &BTreeMap<(u8, u8), u32>, relays: &[u8], to: u8) -> Option<(u32, usize)> {
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
        if hops > MAX_HOPS || (at != 0 && !relays.contains(&at)) {
            return;
        }
        for ((_, next), rtt_ms) in links.range((at, 0)..=(at, u8::MAX)) {
            if !seen.contains(next) {
                seen.push(*next);
                let extra = if at == 0 { 0 } else { HOP_COST_MS };
                walk(*next, to, seen, (links, relays), (cost + rtt_ms + extra, hops + 1), best);
                seen.pop();
            }
        }
    }
    let mut best = None;
    walk(0, to, &mut vec![0], (links, relays), (0, 0), &mut best);
    best
}

/// Links at random: all over, or a chain of near ones with a few far shortcuts, along which hops run out.
fn random_links(rng: &mut Rng, count: u8, chain: bool) -> Vec<(u8, u8, u16)> {
    let mut named = Vec::new();
    for a in 0..count {
        for b in (0..count).filter(|b| *b != a) {
            let ms = u16::try_from(rng.below(100)).unwrap();
            if chain && a.abs_diff(b) == 1 {
                named.push((a, b, ms / 30));
            } else if rng.chance(if chain { 0.06 } else { 0.3 }) {
                named.push((a, b, ms));
            }
        }
    }
    named
}

#[test]
fn routes_are_the_shortest_of_all_paths() {
    let mut scarce = 0;
    for seed in 0..80 {
        let mut rng = Rng::from_u64(seed);
        let chain = seed % 2 == 1;
        let count = if chain { 11 } else { 6 };
        let named = random_links(&mut rng, count, chain);
        let mut links: BTreeMap<(u8, u8), u32> = BTreeMap::new();
        // What this node is linked to it knows itself.
        for (a, b, ms) in named.iter().filter(|(_, b, _)| *b != 0) {
            for pair in [(*a, *b), (*b, *a)] {
                let known = links.entry(pair).or_insert(u32::from(*ms));
                *known = u32::from(*ms).max(*known);
            }
        }
        let relays: Vec<u8> = (1..count).filter(|_| chain || rng.chance(0.7)).collect();
        let mesh = Mesh::new(count, &relays, &named);
        let routes = mesh.routes();
        for to in 1..count {
            let way = routes.to(&mesh.ids[usize::from(to)]);
            let cost = way.map(|Way { inner, rtt_ms }| {
                let hops = u32::try_from(inner.len()).unwrap();
                (rtt_ms + hops * HOP_COST_MS, inner.len())
            });
            let expected = brute_force(&links, &relays, to);
            assert_eq!(cost, expected, "seed {seed}, to {to}: {named:?} {relays:?}");
            scarce += u32::from(expected.is_none_or(|(_, inner)| inner == MAX_HOPS));
        }
    }
    assert!(scarce > 20, "hops ran out {scarce} times");
}
