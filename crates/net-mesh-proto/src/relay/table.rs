//! Where does a relayed datagram go?
//!
//! Asked once for each run of datagrams with one label from one source: one look-up, no allocation. A label means
//! something only from the address it was set up for, and only until it ends. What is forwarded for others is
//! metered (see `meter`); what ends here is not.
//!
//! Bounds: two labels for each circuit that the limits allow, and one for each that may begin or end here
//! ([`MAX_OWN`], [`MAX_ENDED`]). Changes beyond that are refused and counted; the machine that makes
//! them, [`Relay`](super::Relay), never comes that far.

use alloc::collections::BTreeMap;
use core::net::SocketAddr;

use super::circuits::{MAX_ENDED, MAX_OWN};
use super::meter::{Meter, UserSlot};
use crate::drops::DropReason;
use crate::id::NodeId;
use crate::route::CircuitId;
use crate::time::Time;

/// What a node is prepared to carry for others.
///
/// The defaults are meant to be left on: a home's uplink is below 64 MiB/s, so its kernel is the limit there,
/// and a server's is not filled by it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Circuits through this node at a time, for everyone together. Some 500 bytes each.
    pub circuits: usize,
    /// Circuits through this node that one neighbour may have opened at a time.
    pub circuits_per_neighbour: usize,
    /// Payload bytes forwarded in a second, for everyone together; without limit where it is
    /// [`UNLIMITED`](Self::UNLIMITED). Headers are not counted. When it is not enough, neighbours get equal shares.
    pub bytes_per_second: u64,
}

impl Limits {
    /// No limit on the bytes per second: nothing is metered.
    pub const UNLIMITED: u64 = u64::MAX;

    /// Of a node that carries nothing for others. Its own circuits are served all the same.
    pub const NONE: Self = Self { circuits: 0, circuits_per_neighbour: 0, bytes_per_second: 0 };
}

impl Default for Limits {
    fn default() -> Self {
        Self { circuits: 4096, circuits_per_neighbour: 256, bytes_per_second: 64 << 20 }
    }
}

/// Datagrams, and their payload bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Traffic {
    /// How many datagrams.
    pub packets: u64,
    /// Their bytes in all, without the headers of relaying.
    pub bytes: u64,
}

impl Traffic {
    pub(super) fn add(&mut self, other: Self) {
        self.packets = self.packets.saturating_add(other.packets);
        self.bytes = self.bytes.saturating_add(other.bytes);
    }
}

/// What came by since the table was made. Counted each time the table is asked: a datagram that is
/// kept until its label is known, and asked for again, counts twice.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Stats {
    /// Datagrams sent on for others.
    pub packets: u64,
    /// Their payload bytes.
    pub bytes: u64,
    /// Datagrams not sent on, because they were beyond what this node carries.
    pub limited: u64,
    /// Their payload bytes.
    pub limited_bytes: u64,
    /// Datagrams of circuits that end here.
    pub delivered: u64,
    /// Datagrams with a label that is not known.
    pub unknown: u64,
    /// Datagrams with a label that is known, from an address it does not belong to.
    pub foreign: u64,
    /// Datagrams with a label that has ended.
    pub expired: u64,
    /// Changes that there was no room for.
    pub refused_changes: u64,
}

/// What one neighbour had this node forward.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct UserStats {
    /// Who.
    pub user: NodeId,
    /// Sent on.
    pub forwarded: Traffic,
    /// Not sent on, because it was beyond what this node carries.
    pub limited: Traffic,
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
    Forward { to: SocketAddr, out: u64, user: UserSlot },
    End { circuit: CircuitId, out: u64 },
}

/// The labels a node knows.
#[derive(Debug)]
pub struct LabelTable {
    entries: BTreeMap<u64, Entry>,
    circuits: BTreeMap<CircuitId, u64>,
    meter: Meter,
    stats: Stats,
    /// Labels that are forwarded, at most.
    most_forwards: usize,
    /// The latest time seen: changes do not carry one.
    latest: Time,
}

impl LabelTable {
    /// An empty table.
    #[must_use]
    pub fn new(limits: Limits) -> Self {
        Self {
            entries: BTreeMap::new(),
            circuits: BTreeMap::new(),
            meter: Meter::new(limits.bytes_per_second, limits.circuits),
            stats: Stats::default(),
            most_forwards: limits.circuits.saturating_mul(2),
            latest: Time::ZERO,
        }
    }

    /// Carries out a change.
    pub fn apply(&mut self, change: Change) {
        let fits = match change {
            Change::Forward { label, from, to, out, user, expires } => self
                .forward(label, user, |user| Entry { from, next: Next::Forward { to, out, user }, expires }),
            Change::End { label, from, circuit, out, expires } => {
                self.end(label, circuit, Entry { from, next: Next::End { circuit, out }, expires })
            }
            Change::Remove { label } => {
                self.remove(label);
                true
            }
        };
        self.stats.refused_changes += u64::from(!fits);
    }

    fn forward(&mut self, label: u64, user: NodeId, entry: impl FnOnce(UserSlot) -> Entry) -> bool {
        self.remove(label);
        let full = |table: &Self| table.entries.len() - table.circuits.len() >= table.most_forwards;
        if full(self) {
            self.sweep();
        }
        if full(self) {
            return false;
        }
        let slot = self.meter.join(user).or_else(|| {
            self.sweep();
            self.meter.join(user)
        });
        let Some(slot) = slot else { return false };
        self.entries.insert(label, entry(slot));
        true
    }

    fn end(&mut self, label: u64, circuit: CircuitId, entry: Entry) -> bool {
        self.remove(label);
        if let Some(earlier) = self.circuits.get(&circuit).copied() {
            self.remove(earlier);
        }
        if self.circuits.len() >= MAX_OWN + MAX_ENDED {
            self.sweep();
        }
        if self.circuits.len() >= MAX_OWN + MAX_ENDED {
            return false;
        }
        self.entries.insert(label, entry);
        self.circuits.insert(circuit, label);
        true
    }

    fn remove(&mut self, label: u64) {
        match self.entries.remove(&label).map(|entry| entry.next) {
            Some(Next::End { circuit, .. }) => {
                self.circuits.remove(&circuit);
            }
            Some(Next::Forward { user, .. }) => self.meter.leave(user),
            None => {}
        }
    }

    /// Makes room: what has ended is of no use to anyone.
    fn sweep(&mut self) {
        let now = self.latest;
        let Self { entries, circuits, meter, .. } = self;
        entries.retain(|_, entry| {
            let lives = entry.expires > now;
            match entry.next {
                Next::End { circuit, .. } if !lives => drop(circuits.remove(&circuit)),
                Next::Forward { user, .. } if !lives => meter.leave(user),
                Next::End { .. } | Next::Forward { .. } => {}
            }
            lives
        });
    }

    /// What to do with `count` datagrams of `bytes` payload bytes in all that came from `from` with `label`. They
    /// pass together or not at all.
    pub fn step(&mut self, now: Time, from: SocketAddr, label: u64, count: usize, bytes: usize) -> Step {
        self.latest = self.latest.max(now);
        let run = Traffic { packets: count as u64, bytes: bytes as u64 };
        let stats = &mut self.stats;
        let (counter, step) = match self.entries.get(&label) {
            None => (&mut stats.unknown, Step::Drop(DropReason::UnknownLabel)),
            Some(entry) if entry.from != from => (&mut stats.foreign, Step::Drop(DropReason::UnknownLabel)),
            Some(entry) if entry.expires <= now => (&mut stats.expired, Step::Drop(DropReason::UnknownLabel)),
            Some(Entry { next: Next::End { circuit, .. }, .. }) => {
                (&mut stats.delivered, Step::Deliver(*circuit))
            }
            Some(Entry { next: Next::Forward { to, out, user }, .. }) => {
                if self.meter.pass(now, *user, run) {
                    stats.bytes = stats.bytes.saturating_add(run.bytes);
                    (&mut stats.packets, Step::Forward { to: *to, label: *out })
                } else {
                    stats.limited_bytes = stats.limited_bytes.saturating_add(run.bytes);
                    (&mut stats.limited, Step::Drop(DropReason::RelayLimit))
                }
            }
        };
        *counter = counter.saturating_add(run.packets);
        step
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

    /// What came by so far.
    #[must_use]
    pub const fn stats(&self) -> Stats {
        self.stats
    }

    /// What each neighbour had forwarded: those with labels now, and as many earlier ones as there is
    /// room for. At most [`Limits::circuits`].
    pub fn users(&self) -> impl Iterator<Item = UserStats> + '_ {
        self.meter.users()
    }

    /// How many labels and how many users there are, for bounds.
    #[must_use]
    pub fn len(&self) -> (usize, usize) {
        (self.entries.len(), self.meter.len())
    }

    /// Whether there are no labels.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }
}

#[cfg(test)]
mod tests;
