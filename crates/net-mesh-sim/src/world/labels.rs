//! What a simulated node does with relayed datagrams: the part of the mesh's socket that looks up labels.

use std::collections::{BTreeMap, VecDeque};
use std::net::SocketAddr;
use std::time::Duration;

use net_mesh_proto::drops::{DropCounts, DropReason};
use net_mesh_proto::relay::{Change, LabelTable, Limits, Step};
use net_mesh_proto::route::CircuitId;
use net_mesh_proto::time::Time;
use net_mesh_proto::wire::frame::{RELAY_HEADER, relay_header};

/// How long a datagram waits for its label. It may overtake the message that announces the label, by the
/// time of a retransmission at worst.
const EARLY_FOR: Duration = Duration::from_millis(250);

/// Datagrams that wait for their labels.
const MAX_EARLY: usize = 64;

/// A relayed datagram whose label is not known yet.
#[derive(Debug)]
pub(crate) struct Early {
    at: Time,
    label: u64,
    pub(crate) from: SocketAddr,
    pub(crate) datagram: Vec<u8>,
}

/// The labels of one node, and what waits for them.
#[derive(Debug)]
pub(crate) struct Labels {
    table: LabelTable,
    /// Where a label leads: for the world's eyes, which ask without sending.
    hops: BTreeMap<u64, (SocketAddr, u64)>,
    early: VecDeque<Early>,
}

impl Labels {
    pub(crate) fn new(limits: Option<Limits>) -> Self {
        // Circuits end at nodes that carry nothing for others too.
        let table = LabelTable::new(limits.unwrap_or_default());
        Self { table, hops: BTreeMap::new(), early: VecDeque::new() }
    }

    /// Carries out a change; returns what waited for it.
    pub(crate) fn apply(&mut self, now: Time, change: Change, drops: &mut DropCounts) -> Vec<Early> {
        self.expire(now, drops);
        let label = match &change {
            Change::Forward { label, to, out, .. } => {
                self.hops.insert(*label, (*to, *out));
                *label
            }
            Change::End { label, .. } => *label,
            Change::Remove { label } => {
                self.hops.remove(label);
                self.table.apply(change);
                return Vec::new();
            }
        };
        self.table.apply(change);
        let early = std::mem::take(&mut self.early);
        let (due, waiting): (Vec<Early>, Vec<Early>) = early.into_iter().partition(|e| e.label == label);
        self.early = waiting.into();
        due
    }

    /// What to do with a datagram.
    pub(crate) fn step(&mut self, now: Time, from: SocketAddr, label: u64, datagram: &[u8]) -> Step {
        self.table.step(now, from, label, 1, datagram.len() - RELAY_HEADER)
    }

    /// Keeps a datagram whose label may be announced any moment.
    pub(crate) fn keep(
        &mut self,
        now: Time,
        from: SocketAddr,
        label: u64,
        datagram: &[u8],
        drops: &mut DropCounts,
    ) {
        self.expire(now, drops);
        if self.early.len() == MAX_EARLY {
            return drops.count(DropReason::TableFull);
        }
        self.early.push_back(Early { at: now, label, from, datagram: datagram.to_vec() });
    }

    fn expire(&mut self, now: Time, drops: &mut DropCounts) {
        while self.early.front().is_some_and(|early| early.at + EARLY_FOR <= now) {
            self.early.pop_front();
            drops.count(DropReason::UnknownLabel);
        }
    }

    /// Where what leaves over `circuit` goes, and with which label.
    pub(crate) fn out(&self, circuit: CircuitId) -> Option<(SocketAddr, u64)> {
        self.table.out(circuit)
    }

    /// Where what arrives with `label` goes on to, and with which label.
    pub(crate) fn hop(&self, label: u64) -> Option<(SocketAddr, u64)> {
        self.hops.get(&label).copied()
    }
}

/// A relayed datagram.
pub(crate) fn wrap(label: u64, payload: &[u8]) -> Vec<u8> {
    [&relay_header(label)[..], payload].concat()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn addr(n: u8) -> SocketAddr {
        SocketAddr::from(([198, 18, 0, n], 7))
    }

    fn end(label: u64) -> Change {
        let expires = Time::from_millis(60_000);
        Change::End { label, from: addr(1), circuit: CircuitId(4), out: 9, expires }
    }

    #[test]
    fn what_overtook_the_announcement_of_its_label_waits_a_moment_and_is_tried_again() {
        let mut labels = Labels::new(None);
        let mut drops = DropCounts::default();
        let now = Time::from_millis(1000);
        let datagram = wrap(5, b"payload");
        labels.keep(now, addr(1), 5, &datagram, &mut drops);
        labels.keep(now, addr(1), 6, &wrap(6, b"other"), &mut drops);
        let due = labels.apply(now + Duration::from_millis(249), end(5), &mut drops);
        assert_eq!(due.len(), 1);
        assert_eq!((due[0].from, &due[0].datagram), (addr(1), &datagram));
        assert_eq!(labels.step(now, addr(1), 5, &datagram), Step::Deliver(CircuitId(4)));
        assert_eq!(labels.out(CircuitId(4)), Some((addr(1), 9)));

        let late = labels.apply(now + EARLY_FOR, end(6), &mut drops);
        assert!(late.is_empty());
        assert_eq!(drops.of(DropReason::UnknownLabel), 1);
    }

    #[test]
    fn few_datagrams_wait_for_their_labels() {
        let mut labels = Labels::new(None);
        let mut drops = DropCounts::default();
        for label in 0..100 {
            labels.keep(Time::ZERO, addr(1), label, &wrap(label, b"x"), &mut drops);
        }
        assert_eq!(labels.early.len(), MAX_EARLY);
        assert_eq!(drops.of(DropReason::TableFull), 100 - MAX_EARLY as u64);
    }
}
