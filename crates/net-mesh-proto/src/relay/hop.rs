//! What a node keeps of one circuit: its own, one that ends here, or one it carries.

use alloc::vec::Vec;

use super::circuits::{CircuitView, OPEN_LIMIT};
use crate::id::NodeId;
use crate::route::CircuitId;
use crate::time::Time;

/// A hop: a neighbour, and the circuit's number there.
pub(super) type Hop = (NodeId, u64);

/// What a hop belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Owner {
    Own(CircuitId),
    Ending(CircuitId),
    Carried(u64),
}

/// Where the end of a circuit came from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Side {
    /// The origin's.
    Before,
    /// The target's.
    Next,
    /// This node's own decision.
    Here,
}

#[derive(Debug)]
pub(super) struct Own {
    pub(super) peer: NodeId,
    pub(super) path: Vec<NodeId>,
    pub(super) next: Hop,
    pub(super) forward: u64,
    pub(super) back: u64,
    pub(super) opened: Time,
    pub(super) confirmed: bool,
    pub(super) renewed: Time,
}

#[derive(Debug)]
pub(super) struct Ending {
    pub(super) origin: NodeId,
    /// The inner nodes, in order from here.
    pub(super) path: Vec<NodeId>,
    pub(super) before: Hop,
    pub(super) forward: u64,
    pub(super) back: u64,
    pub(super) opened: Time,
    pub(super) renewed: Time,
}

#[derive(Debug)]
pub(super) struct Carried {
    pub(super) before: Hop,
    pub(super) next: Hop,
    /// The label that frames of the origin arrive with, and the one they leave with.
    pub(super) forward: (u64, u64),
    /// The label that frames of the target arrive with, and the one they leave with.
    pub(super) back: (u64, u64),
    pub(super) confirmed: bool,
    pub(super) renewed: Time,
}

impl Own {
    /// When something is to be done about it.
    pub(super) fn due(&self) -> Time {
        if self.confirmed { self.renewed + super::circuits::RENEW_EVERY } else { self.opened + OPEN_LIMIT }
    }

    /// Whether `node` is on it, besides this one.
    pub(super) fn has(&self, node: &NodeId) -> bool {
        self.peer == *node || self.path.contains(node)
    }

    pub(super) fn view(&self, circuit: CircuitId) -> CircuitView<'_> {
        let Self { peer, ref path, confirmed, opened, .. } = *self;
        CircuitView { circuit, peer, path, opened_by_us: true, confirmed, since: opened }
    }
}

impl Ending {
    pub(super) fn view(&self, circuit: CircuitId) -> CircuitView<'_> {
        let Self { origin, ref path, opened, .. } = *self;
        CircuitView { circuit, peer: origin, path, opened_by_us: false, confirmed: true, since: opened }
    }
}
