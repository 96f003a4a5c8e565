//! The nearest way to a member over others that relay, and who can introduce it.
//!
//! Computed from this node's own direct links and from the links that members name in their records: the
//! least round-trip time over at most [`MAX_HOPS`] inner nodes, all of which relay. A link counts if either end
//! names it, with the larger of the two times that are claimed: whoever claims to be near to attract traffic is
//! believed only as far as the other end agrees. What this node is linked to it knows itself.
//!
//! The search is Dijkstra's. Where it finds that the nearest way to some node has too many hops, it is done again with
//! one more dimension: a dearer way with fewer hops may go on where the cheapest cannot. A node is then settled
//! once for each number of hops that is smaller than any before (`search`). Ties are broken by hops and then by ids, so that equal
//! knowledge gives equal routes.
//!
//! Bounds: work and memory grow with the number of links named, at most [`MAX_LINKS`](crate::membership::MAX_LINKS) in
//! each record; a node is settled at most once for each number of hops.

mod search;
#[cfg(test)]
mod tests;

use alloc::collections::BTreeMap;
use alloc::vec;
use alloc::vec::Vec;

use crate::id::NodeId;
use crate::membership::{Member, Record};
use search::{Reached, Search};

/// Inner nodes of a route. Each adds a queue and a way to fail; the longest chain of homes that know only
/// their neighbours is hardly longer.
pub const MAX_HOPS: usize = 6;

/// What one more inner node costs, in milliseconds: the time to forward is far below that, but one node
/// more is one more that can leave. It also keeps ways short among links so near that their records say zero.
const HOP_COST_MS: u32 = 2;

/// Mediators named for one member. A seeker tries one after the other and is done long before.
pub const MAX_MEDIATORS: usize = 8;

/// A way to a member over others.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Way {
    /// The members that relay, in order from here; none where there is a direct link.
    pub inner: Vec<NodeId>,
    /// The round-trip time to expect, in milliseconds.
    pub rtt_ms: u32,
}

/// The ways from one node to all others.
#[derive(Clone, Debug, Default)]
pub struct Routes {
    names: Names,
    /// Every settled way, each a step longer than an earlier one.
    reached: Vec<Reached>,
    /// For each node, its best way.
    best: Vec<Option<u32>>,
    /// For each node, where its part of `mediators` begins, and for the last where it ends.
    mediators_at: Vec<u32>,
    mediators: Vec<NodeId>,
}

/// The ways from `me`, which has direct links to `own` (with their round-trip times in milliseconds), over
/// `members`. Those for which `avoid` holds are not asked to relay or to introduce.
#[must_use]
pub fn ways(
    me: NodeId,
    own: &[(NodeId, u32)],
    members: &BTreeMap<NodeId, Member>,
    avoid: &dyn Fn(&NodeId) -> bool,
) -> Routes {
    let present: Vec<&Record> =
        members.values().map(Member::record).filter(|record| !record.flags.leaving).collect();
    let linked = own.iter().map(|(peer, _)| *peer);
    let all = present.iter().map(|record| record.node).chain(linked);
    let names = Names::new(all.filter(|id| *id != me).collect());
    let mut near = vec![None; names.len()];
    for (peer, rtt_ms) in own {
        if let Some(n) = names.number(peer) {
            near[n as usize] = Some(*rtt_ms);
        }
    }
    let links = Links::new(&names, &present);
    let avoided: Vec<bool> = names.ids.iter().map(avoid).collect();
    let mut relays = vec![false; names.len()];
    for n in present.iter().filter(|record| record.flags.relays).filter_map(|r| names.number(&r.node)) {
        relays[n as usize] = !avoided[n as usize];
    }
    let search = |bounded| Search::new(&links, names.len(), bounded).run(&near, &relays);
    let (reached, best) = search(false).or_else(|| search(true)).unwrap_or_default();
    let mut routes = Routes { reached, best, names, ..Routes::default() };
    routes.find_mediators(&links, &near, &avoided);
    routes
}

impl Routes {
    /// The nearest way to `peer`, if there is any.
    #[must_use]
    pub fn to(&self, peer: &NodeId) -> Option<Way> {
        let last = self.at(*self.best.get(self.names.number(peer)? as usize)?)?;
        let mut inner = Vec::new();
        let mut before = self.at(last.before);
        // Every step is an earlier entry than the one after it.
        while let Some(step) = before {
            inner.push(self.names.id(step.node)?);
            before = self.at(step.before);
        }
        inner.reverse();
        Some(Way { inner, rtt_ms: last.rtt_ms })
    }

    fn at(&self, entry: Option<u32>) -> Option<Reached> {
        self.reached.get(entry? as usize).copied()
    }

    /// The members that have a direct link to `peer` and to this node, nearest first; at most [`MAX_MEDIATORS`].
    #[must_use]
    pub fn mediators(&self, peer: &NodeId) -> &[NodeId] {
        let part = || {
            let n = self.names.number(peer)? as usize;
            let (from, to) = (*self.mediators_at.get(n)?, *self.mediators_at.get(n + 1)?);
            self.mediators.get(from as usize..to as usize)
        };
        part().unwrap_or(&[])
    }

    fn find_mediators(&mut self, links: &Links, near: &[Option<u32>], avoided: &[bool]) {
        let mut found: Vec<(u64, u32)> = Vec::new();
        for n in 0..near.len() {
            self.mediators_at.push(u32::try_from(self.mediators.len()).unwrap_or(u32::MAX));
            found.clear();
            for (other, rtt_ms) in links.of(n) {
                let near = near.get(*other as usize).copied().flatten();
                if let Some(own) = near.filter(|_| avoided.get(*other as usize) == Some(&false)) {
                    found.push((u64::from(own) + u64::from(*rtt_ms), *other));
                }
            }
            found.sort_unstable();
            let nearest = found.iter().take(MAX_MEDIATORS);
            self.mediators.extend(nearest.filter_map(|(_, other)| self.names.id(*other)));
        }
        self.mediators_at.push(u32::try_from(self.mediators.len()).unwrap_or(u32::MAX));
    }
}

/// Nodes by number, in the order of their ids.
#[derive(Clone, Debug, Default)]
struct Names {
    ids: Vec<NodeId>,
    /// The first bytes of the ids: searching these touches an eighth of the memory.
    heads: Vec<u64>,
    /// Where the ids begin whose first `bits` bits are 0, 1, 2 and so on. Ids are random, so this leaves about one
    /// to look at; of ids that someone has chosen alike, a binary search is left.
    parts: Vec<u32>,
    bits: u32,
}

impl Names {
    fn new(mut ids: Vec<NodeId>) -> Self {
        ids.sort_unstable();
        ids.dedup();
        let heads: Vec<u64> = ids.iter().map(head).collect();
        let bits = (usize::BITS - ids.len().leading_zeros()).clamp(1, 24);
        let mut parts = vec![0; (1 << bits) + 1];
        for head in &heads {
            parts[(head >> (u64::BITS - bits)) as usize + 1] += 1;
        }
        let mut sum = 0;
        for part in &mut parts {
            sum += *part;
            *part = sum;
        }
        Self { ids, heads, parts, bits }
    }

    fn len(&self) -> usize {
        self.ids.len()
    }

    fn id(&self, number: u32) -> Option<NodeId> {
        self.ids.get(number as usize).copied()
    }

    fn number(&self, id: &NodeId) -> Option<u32> {
        let head = head(id);
        let part = usize::try_from(head.checked_shr(u64::BITS - self.bits)?).ok()?;
        let (from, to) = (*self.parts.get(part)? as usize, *self.parts.get(part + 1)? as usize);
        let first = from + self.heads.get(from..to)?.partition_point(|known| *known < head);
        let same = self.heads.get(first..to)?.iter().take_while(|known| **known == head).count();
        let at = self.ids.get(first..first + same)?.iter().position(|known| known == id)?;
        u32::try_from(first + at).ok()
    }
}

fn head(id: &NodeId) -> u64 {
    let [a, b, c, d, e, f, g, h, ..] = id.0;
    u64::from_be_bytes([a, b, c, d, e, f, g, h])
}

/// The links between others, from both ends, each once, with the larger of the times that are claimed.
#[derive(Debug)]
struct Links {
    /// Where the links of each node begin and end in `all`.
    parts: Vec<(u32, u32)>,
    all: Vec<(u32, u16)>,
}

impl Links {
    fn new(names: &Names, records: &[&Record]) -> Self {
        let mut named: Vec<(u32, u32, u16)> = Vec::new();
        let mut counts = vec![0u32; names.len()];
        let mut known = vec![false; names.len()];
        for n in records.iter().filter_map(|record| names.number(&record.node)) {
            known[n as usize] = true;
        }
        for record in records {
            let Some(a) = names.number(&record.node) else { continue };
            for (peer, rtt_ms) in &record.links {
                match names.number(peer) {
                    Some(b) if b != a && known[b as usize] => {
                        named.push((a, b, *rtt_ms));
                        counts[a as usize] += 1;
                        counts[b as usize] += 1;
                    }
                    _ => {}
                }
            }
        }
        Self::sorted(&named, &counts)
    }

    /// Puts the links of each node side by side.
    fn sorted(named: &[(u32, u32, u16)], counts: &[u32]) -> Self {
        let mut end = 0;
        let mut parts: Vec<(u32, u32)> = counts
            .iter()
            .map(|count| {
                let start = end;
                end += count;
                (start, start)
            })
            .collect();
        let mut all = vec![(0, 0); end as usize];
        for (a, b, rtt_ms) in named.iter().copied() {
            for (a, b) in [(a, b), (b, a)] {
                let part = &mut parts[a as usize];
                all[part.1 as usize] = (b, rtt_ms);
                part.1 += 1;
            }
        }
        let mut links = Self { parts, all };
        links.merge(counts.len());
        links
    }

    /// Makes one link of what both ends name.
    fn merge(&mut self, count: usize) {
        // For each node, where in the part at hand it is already.
        let mut place = vec![(u32::MAX, 0u32); count];
        for (n, part) in (0u32..).zip(&mut self.parts) {
            let mut end = part.0;
            for i in part.0..part.1 {
                let (other, rtt_ms) = self.all[i as usize];
                let seen = &mut place[other as usize];
                if seen.0 == n {
                    let known = &mut self.all[seen.1 as usize].1;
                    *known = rtt_ms.max(*known);
                } else {
                    *seen = (n, end);
                    self.all[end as usize] = (other, rtt_ms);
                    end += 1;
                }
            }
            part.1 = end;
        }
    }

    fn of(&self, node: usize) -> &[(u32, u16)] {
        let part = self.parts.get(node).and_then(|(from, to)| self.all.get(*from as usize..*to as usize));
        part.unwrap_or(&[])
    }
}
