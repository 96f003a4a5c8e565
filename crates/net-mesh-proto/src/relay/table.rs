//! Where does a relayed datagram go?
//!
//! Asked once for each run of datagrams with one label from one source.

use alloc::collections::BTreeMap;
use core::net::SocketAddr;

use crate::drops::DropReason;
use crate::id::NodeId;
use crate::route::CircuitId;
use crate::time::Time;

/// What a node is prepared to carry for others.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Circuits through this node at a time, for everyone together.
    pub circuits: usize,
    /// Circuits through this node that one neighbour may have opened at a time.
    pub circuits_per_neighbour: usize,
    /// Payload bytes forwarded in a second, for everyone together.
    pub bytes_per_second: u64,
}

impl Default for Limits {
    fn default() -> Self {
        Self { circuits: 4096, circuits_per_neighbour: 256, bytes_per_second: 64 << 20 }
    }
}

/// What changes in the table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    /// What arrives with `label` from `from` goes on to `to` with the label `out`. Replaces what was said of
    /// `label` before.
    Forward {
        /// The label it arrives with.
        label: u64,
        /// The previous hop's address.
        from: SocketAddr,
        /// The next hop's address.
        to: SocketAddr,
        /// The label it leaves with.
        out: u64,
        /// The neighbour on whose account it is forwarded.
        user: NodeId,
        /// When the label ends.
        expires: Time,
    },
    /// What arrives with `label` from `from` is for this node, over `circuit`; what this node sends over
    /// `circuit` goes to `from` with the label `out`. Replaces what was said of `label` before.
    End {
        /// The label it arrives with.
        label: u64,
        /// The neighbour's address.
        from: SocketAddr,
        /// Which circuit.
        circuit: CircuitId,
        /// The label for what leaves.
        out: u64,
        /// When the label ends.
        expires: Time,
    },
    /// Nothing is to arrive with `label` any more.
    Remove {
        /// Which.
        label: u64,
    },
}

/// What to do with a run of datagrams.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// Send it on.
    Forward {
        /// To whom.
        to: SocketAddr,
        /// With which label in the place of the one it came with.
        label: u64,
    },
    /// It is for this node.
    Deliver(CircuitId),
    /// Discard it.
    Drop(DropReason),
}

#[derive(Clone, Copy, Debug)]
struct Entry {
    from: SocketAddr,
    next: Next,
    expires: Time,
}

#[derive(Clone, Copy, Debug)]
enum Next {
    Forward { to: SocketAddr, out: u64, user: NodeId },
    End { circuit: CircuitId, out: u64 },
}

/// The labels a node knows.
#[derive(Debug)]
pub struct LabelTable {
    entries: BTreeMap<u64, Entry>,
    circuits: BTreeMap<CircuitId, u64>,
}

impl LabelTable {
    /// An empty table.
    #[must_use]
    pub fn new(_limits: Limits) -> Self {
        Self { entries: BTreeMap::new(), circuits: BTreeMap::new() }
    }

    /// Carries out a change.
    pub fn apply(&mut self, change: Change) {
        match change {
            Change::Forward { label, from, to, out, user, expires } => {
                self.insert(label, Entry { from, next: Next::Forward { to, out, user }, expires });
            }
            Change::End { label, from, circuit, out, expires } => {
                self.insert(label, Entry { from, next: Next::End { circuit, out }, expires });
                self.circuits.insert(circuit, label);
            }
            Change::Remove { label } => self.remove(label),
        }
    }

    fn insert(&mut self, label: u64, entry: Entry) {
        self.remove(label);
        self.entries.insert(label, entry);
    }

    fn remove(&mut self, label: u64) {
        if let Some(Entry { next: Next::End { circuit, .. }, .. }) = self.entries.remove(&label) {
            self.circuits.remove(&circuit);
        }
    }

    /// What to do with `count` datagrams of `bytes` payload bytes in all that came from `from` with `label`.
    pub fn step(&mut self, now: Time, from: SocketAddr, label: u64, count: usize, bytes: usize) -> Step {
        let _ = (count, bytes);
        match self.entries.get(&label) {
            Some(entry) if entry.from != from => Step::Drop(DropReason::UnknownLabel),
            Some(entry) if entry.expires <= now => Step::Drop(DropReason::UnknownLabel),
            None => Step::Drop(DropReason::UnknownLabel),
            Some(Entry { next: Next::Forward { to, out, .. }, .. }) => Step::Forward { to: *to, label: *out },
            Some(Entry { next: Next::End { circuit, .. }, .. }) => Step::Deliver(*circuit),
        }
    }

    /// Where what leaves over `circuit` goes, and with which label.
    #[must_use]
    pub fn out(&self, circuit: CircuitId) -> Option<(SocketAddr, u64)> {
        let entry = self.entries.get(self.circuits.get(&circuit)?)?;
        match entry.next {
            Next::End { out, .. } => Some((entry.from, out)),
            Next::Forward { .. } => None,
        }
    }
}
