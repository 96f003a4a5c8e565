//! Counters that the packet path can bump without a lock.

use std::sync::atomic::{AtomicU64, Ordering};

use net_mesh_proto::drops::DropReason;
use net_mesh_proto::route::Route;

/// A counter per [`DropReason`].
#[derive(Debug)]
pub(crate) struct DropCounters([AtomicU64; DropReason::ALL.len()]);

impl Default for DropCounters {
    fn default() -> Self {
        Self([const { AtomicU64::new(0) }; DropReason::ALL.len()])
    }
}

impl DropCounters {
    /// Counts one drop.
    pub(crate) fn count(&self, reason: DropReason) {
        self.add(reason, 1);
    }

    /// Counts `count` drops.
    pub(crate) fn add(&self, reason: DropReason, count: usize) {
        self.0[reason as usize].fetch_add(count as u64, Ordering::Relaxed);
    }

    /// How many were dropped for `reason` since the start.
    pub(crate) fn of(&self, reason: DropReason) -> u64 {
        self.0[reason as usize].load(Ordering::Relaxed)
    }
}

/// Datagrams, and their bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Volume {
    pub(crate) packets: u64,
    pub(crate) bytes: u64,
}

#[derive(Debug, Default)]
struct Counter {
    packets: AtomicU64,
    bytes: AtomicU64,
}

impl Counter {
    fn add(&self, packets: usize, bytes: usize) {
        self.packets.fetch_add(packets as u64, Ordering::Relaxed);
        self.bytes.fetch_add(bytes as u64, Ordering::Relaxed);
    }

    fn read(&self) -> Volume {
        let [packets, bytes] = [&self.packets, &self.bytes].map(|n| n.load(Ordering::Relaxed));
        Volume { packets, bytes }
    }
}

/// QUIC's packets of sessions, over all of them: those sent and those received, straight and over circuits.
///
/// Added to once for each batch.
#[derive(Debug, Default)]
pub(super) struct Passed([[Counter; 2]; 2]);

impl Passed {
    fn of(&self, route: Route, received: bool) -> &Counter {
        &self.0[usize::from(received)][usize::from(route.direct().is_none())]
    }

    pub(super) fn sent(&self, route: Route, packets: usize, bytes: usize) {
        self.of(route, false).add(packets, bytes);
    }

    pub(super) fn received(&self, route: Route, packets: usize, bytes: usize) {
        self.of(route, true).add(packets, bytes);
    }

    /// What was sent and what was received, each straight and over circuits.
    pub(super) fn read(&self) -> [[Volume; 2]; 2] {
        [0, 1].map(|received: usize| [0, 1].map(|relayed: usize| self.0[received][relayed].read()))
    }
}
