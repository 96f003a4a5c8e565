//! The nearest way to a member over others that relay, and who can introduce it.
//!
//! Computed from this node's own direct links and from the links that members name in their records: the
//! shortest path by round-trip time (Dijkstra) whose inner nodes all relay. A link counts if either end names
//! it, with the larger of the two times that are claimed: whoever claims to be near to attract traffic is
//! believed only as far as the other end agrees. Ties are broken by ids, so that equal knowledge gives equal
//! routes.
//!
//! Bounds: [`MAX_HOPS`] inner nodes; work grows with the number of links named, at most
//! [`MAX_LINKS`](crate::membership::MAX_LINKS) in each record.

#[cfg(test)]
mod tests;

use alloc::collections::{BTreeMap, BTreeSet};
use alloc::vec::Vec;

use crate::id::NodeId;
use crate::membership::Member;

/// Inner nodes of a route. Each adds a queue and a way to fail; the longest chain of homes that know only
/// their neighbours is hardly longer.
pub const MAX_HOPS: usize = 6;

/// What one more inner node costs, in milliseconds: the time to forward is far below that, but one node
/// more is one more that can leave.
const HOP_COST_MS: u32 = 2;

/// A way to a member over others.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Way {
    /// The members that relay, in order from here; none where there is a direct link.
    pub inner: Vec<NodeId>,
    /// The round-trip time to expect, in milliseconds.
    pub rtt_ms: u32,
}

#[derive(Clone, Copy, Debug)]
struct Reached {
    cost: u32,
    hops: usize,
    rtt_ms: u32,
    /// The node before it; this node itself where there is a direct link.
    before: NodeId,
}

/// The ways from one node to all others.
#[derive(Clone, Debug, Default)]
pub struct Routes {
    me: Option<NodeId>,
    reached: BTreeMap<NodeId, Reached>,
    /// For each member, those that have a direct link to it and to this node, best first.
    mediators: BTreeMap<NodeId, Vec<NodeId>>,
}

/// Links by both ends, with the larger of the times that are claimed.
type Links = BTreeMap<NodeId, BTreeMap<NodeId, u32>>;

/// The ways from `me`, which has direct links to `own` (with their round-trip times in milliseconds), over
/// `members`. Those for which `avoid` holds are not asked to relay or to introduce.
#[must_use]
pub fn ways(
    me: NodeId,
    own: &[(NodeId, u32)],
    members: &BTreeMap<NodeId, Member>,
    avoid: &dyn Fn(&NodeId) -> bool,
) -> Routes {
    let links = links(me, own, members);
    let relays = |id: &NodeId| members.get(id).is_some_and(|m| m.record().flags.relays) && !avoid(id);
    let reached = shortest(me, &links, &relays);
    let mediators = mediators(me, own, &links, avoid);
    Routes { me: Some(me), reached, mediators }
}

fn links(me: NodeId, own: &[(NodeId, u32)], members: &BTreeMap<NodeId, Member>) -> Links {
    let mut links = Links::new();
    let mut name = |a: NodeId, b: NodeId, rtt_ms: u32| {
        for (a, b) in [(a, b), (b, a)] {
            let known = links.entry(a).or_default().entry(b).or_insert(rtt_ms);
            *known = rtt_ms.max(*known);
        }
    };
    for (id, member) in members {
        for (peer, rtt_ms) in &member.record().links {
            // What this node is linked to it knows itself.
            if *peer != me && *peer != *id && members.contains_key(peer) {
                name(*id, *peer, u32::from(*rtt_ms));
            }
        }
    }
    for (peer, rtt_ms) in own.iter().filter(|(peer, _)| *peer != me) {
        name(me, *peer, *rtt_ms);
    }
    links
}

fn shortest(me: NodeId, links: &Links, relays: &dyn Fn(&NodeId) -> bool) -> BTreeMap<NodeId, Reached> {
    let mut reached: BTreeMap<NodeId, Reached> = BTreeMap::new();
    let mut open: BTreeSet<(u32, usize, NodeId)> = BTreeSet::from([(0, 0, me)]);
    while let Some((cost, hops, at)) = open.pop_first() {
        let here = reached.get(&at).copied();
        if here.is_some_and(|r| (r.cost, r.hops) < (cost, hops)) {
            continue;
        }
        // From here on `at` is an inner node, which must relay; this node itself need not.
        let inner = if at == me { 0 } else { hops + 1 };
        if at != me && (inner > MAX_HOPS || !relays(&at)) {
            continue;
        }
        let extra = if at == me { 0 } else { HOP_COST_MS };
        let before_rtt = here.map_or(0, |r| r.rtt_ms);
        for (next, rtt_ms) in links.get(&at).into_iter().flatten().filter(|(next, _)| **next != me) {
            let cost = cost.saturating_add(*rtt_ms).saturating_add(extra);
            let better = reached.get(next).is_none_or(|r| (cost, inner, at) < (r.cost, r.hops, r.before));
            if better {
                let rtt_ms = before_rtt.saturating_add(*rtt_ms);
                reached.insert(*next, Reached { cost, hops: inner, rtt_ms, before: at });
                open.insert((cost, inner, *next));
            }
        }
    }
    reached
}

fn mediators(
    me: NodeId,
    own: &[(NodeId, u32)],
    links: &Links,
    avoid: &dyn Fn(&NodeId) -> bool,
) -> BTreeMap<NodeId, Vec<NodeId>> {
    let mut found: BTreeMap<NodeId, Vec<(u32, NodeId)>> = BTreeMap::new();
    for (mediator, rtt_ms) in own.iter().filter(|(id, _)| *id != me && !avoid(id)) {
        for (peer, their_rtt_ms) in links.get(mediator).into_iter().flatten().filter(|(p, _)| **p != me) {
            found.entry(*peer).or_default().push((rtt_ms.saturating_add(*their_rtt_ms), *mediator));
        }
    }
    let ordered = found.into_iter().map(|(peer, mut mediators)| {
        mediators.sort_unstable();
        (peer, mediators.into_iter().map(|(_, id)| id).collect())
    });
    ordered.collect()
}

impl Routes {
    /// The nearest way to `peer`, if there is any.
    #[must_use]
    pub fn to(&self, peer: &NodeId) -> Option<Way> {
        let last = self.reached.get(peer)?;
        let mut inner = Vec::new();
        let mut at = last.before;
        // At most as many steps as there are hops; paths lead back to this node by construction.
        while Some(at) != self.me && inner.len() < MAX_HOPS {
            inner.push(at);
            at = self.reached.get(&at)?.before;
        }
        inner.reverse();
        Some(Way { inner, rtt_ms: last.rtt_ms })
    }

    /// The members that have a direct link to `peer` and to this node, nearest first.
    #[must_use]
    pub fn mediators(&self, peer: &NodeId) -> &[NodeId] {
        self.mediators.get(peer).map_or(&[], Vec::as_slice)
    }
}
