//! The neighbours over which circuits go: where they are, what each has here, and how fast it may ask for more.

use alloc::collections::BTreeMap;
use core::net::SocketAddr;
use core::time::Duration;

use crate::id::NodeId;
use crate::time::Time;

/// Openings that a neighbour may ask for in one go. A busy relay that has just come up passes on those of a whole
/// mesh; its circuits are limited anyway, so this is only about opening and closing over and over.
pub(super) const OPENINGS_AT_ONCE: u32 = 1024;

/// Time in which a neighbour earns one more opening: 64 a second. Each costs a few hundred bytes and a message to the
/// next hop, so that a neighbour that does nothing else has 20 KB/s sent on.
pub(super) const OPENING_EVERY: Duration = Duration::from_micros(15_625);

#[derive(Debug)]
struct Neighbour {
    addr: SocketAddr,
    /// Circuits it has opened through this node, and to it.
    carried: usize,
    ending: usize,
    /// Until when its openings are used up, at the rate at which it earns them.
    opened_until: Time,
}

/// The nodes that this one has a direct session with. As many as the node has sessions.
#[derive(Debug, Default)]
pub(super) struct Neighbours {
    known: BTreeMap<NodeId, Neighbour>,
}

/// What a circuit that a neighbour opened is here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Part {
    /// It goes through this node.
    Carried,
    /// It ends at this node.
    Ending,
}

impl Neighbours {
    /// The direct session with `id` is at `addr` now. Returns whether it was somewhere else before.
    pub(super) fn set(&mut self, id: NodeId, addr: SocketAddr) -> bool {
        let fresh = Neighbour { addr, carried: 0, ending: 0, opened_until: Time::ZERO };
        let neighbour = self.known.entry(id).or_insert(fresh);
        core::mem::replace(&mut neighbour.addr, addr) != addr
    }

    /// There is no direct session with `id` any more.
    pub(super) fn remove(&mut self, id: &NodeId) {
        self.known.remove(id);
    }

    pub(super) fn addr(&self, id: &NodeId) -> Option<SocketAddr> {
        Some(self.known.get(id)?.addr)
    }

    /// Whether `id` may ask for one more opening now; if so, it has.
    pub(super) fn may_open(&mut self, now: Time, id: &NodeId) -> bool {
        let Some(neighbour) = self.known.get_mut(id) else { return false };
        let until = neighbour.opened_until.max(now) + OPENING_EVERY;
        let may = until <= now + OPENING_EVERY * OPENINGS_AT_ONCE;
        if may {
            neighbour.opened_until = until;
        }
        may
    }

    fn part(&mut self, id: &NodeId, part: Part) -> Option<&mut usize> {
        let neighbour = self.known.get_mut(id)?;
        Some(match part {
            Part::Carried => &mut neighbour.carried,
            Part::Ending => &mut neighbour.ending,
        })
    }

    /// How many circuits of that sort `id` has opened.
    pub(super) fn count(&mut self, id: &NodeId, part: Part) -> usize {
        self.part(id, part).map_or(0, |count| *count)
    }

    pub(super) fn opened(&mut self, id: &NodeId, part: Part) {
        if let Some(count) = self.part(id, part) {
            *count += 1;
        }
    }

    pub(super) fn closed(&mut self, id: &NodeId, part: Part) {
        if let Some(count) = self.part(id, part) {
            *count = count.saturating_sub(1);
        }
    }
}
