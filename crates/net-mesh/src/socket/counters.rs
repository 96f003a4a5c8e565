//! Drop counters that the packet path can bump without a lock.

use std::sync::atomic::{AtomicU64, Ordering};

use net_mesh_proto::drops::DropReason;

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
