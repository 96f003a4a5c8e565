//! The search itself: the cheapest ways with a bounded number of hops.

use alloc::collections::BinaryHeap;
use alloc::vec;
use alloc::vec::Vec;
use core::cmp::Reverse;

use super::{HOP_COST_MS, Links, MAX_HOPS};

/// A way to a node, as the last step of it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Reached {
    /// Which node.
    pub(super) node: u32,
    /// The way to the node before it; `None` where it is this node.
    pub(super) before: Option<u32>,
    /// The round-trip time, in milliseconds.
    pub(super) rtt_ms: u32,
    /// The inner nodes before it.
    inner: usize,
}

/// What is known of ways with a certain number of inner nodes.
const UNKNOWN: u64 = u64::MAX;

/// Ways with 0 to [`MAX_HOPS`] inner nodes.
const LAYERS: usize = MAX_HOPS + 1;

/// Above the number of inner nodes of any way that is looked at: room for it beside a cost, where both count at once.
const MORE_HOPS: u64 = MAX_HOPS as u64 + 2;

/// Cheapest first, then fewest hops, then lowest ids: a way to go on, and the entry before.
type Step = (u64, usize, u32, Option<u32>);

pub(super) struct Search<'a> {
    links: &'a Links,
    /// For each node and number of inner nodes, the cheapest way that is in the queue or settled. Not bounded, the
    /// first number alone is used, for the cheapest of all.
    cheapest: Vec<[u64; LAYERS]>,
    /// For each node, the fewest inner nodes of a settled way.
    fewest: Vec<usize>,
    queue: BinaryHeap<Reverse<Step>>,
    reached: Vec<Reached>,
    best: Vec<Option<u32>>,
    /// Whether ways with few hops are kept beside cheaper ones with more.
    bounded: bool,
}

impl<'a> Search<'a> {
    pub(super) fn new(links: &'a Links, count: usize, bounded: bool) -> Self {
        Self {
            links,
            cheapest: vec![[UNKNOWN; LAYERS]; count],
            fewest: vec![usize::MAX; count],
            queue: BinaryHeap::new(),
            reached: Vec::new(),
            best: vec![None; count],
            bounded,
        }
    }

    /// All settled ways, and for each node which of them is its best. `None` if some node's way has too many hops,
    /// which cannot be when the search is bounded. `near` are this node's own
    /// links, and `relays` says who goes between.
    pub(super) fn run(
        mut self,
        near: &[Option<u32>],
        relays: &[bool],
    ) -> Option<(Vec<Reached>, Vec<Option<u32>>)> {
        for (n, rtt_ms) in (0u32..).zip(near) {
            if let Some(rtt_ms) = rtt_ms {
                self.offer(u64::from(*rtt_ms), 0, n, None);
            }
        }
        while let Some(Reverse((cost, inner, node, before))) = self.queue.pop() {
            let n = node as usize;
            // A way that is dearer than a settled one is of use only if it has fewer hops.
            if inner >= self.fewest[n] {
                continue;
            }
            self.fewest[n] = if self.bounded { inner } else { 0 };
            if inner > MAX_HOPS {
                return None;
            }
            let Ok(entry) = u32::try_from(self.reached.len()) else { break };
            let hops = u64::from(HOP_COST_MS) * inner as u64;
            let rtt_ms = u32::try_from(cost - hops).unwrap_or(u32::MAX);
            self.reached.push(Reached { node, before, rtt_ms, inner });
            self.best[n].get_or_insert(entry);
            if relays[n] && (inner < MAX_HOPS || !self.bounded) {
                self.go_on(cost, entry);
            }
        }
        Some((self.reached, self.best))
    }

    /// Offers every node that is linked to the last one of a settled way.
    fn go_on(&mut self, cost: u64, entry: u32) {
        let Reached { node, inner, .. } = self.reached[entry as usize];
        let links = self.links;
        for (next, rtt_ms) in links.of(node as usize) {
            self.offer(cost + u64::from(*rtt_ms) + u64::from(HOP_COST_MS), inner + 1, *next, Some(entry));
        }
    }

    fn offer(&mut self, cost: u64, inner: usize, node: u32, before: Option<u32>) {
        let known = &mut self.cheapest[node as usize];
        // As cheap with as few hops is known already: by the same or a lower id, since ways are settled in order.
        let (layer, key) = if self.bounded { (inner, cost) } else { (0, cost * MORE_HOPS + inner as u64) };
        if known[..=layer].iter().any(|known| *known <= key) {
            return;
        }
        known[layer] = key;
        self.queue.push(Reverse((cost, inner, node, before)));
    }
}
