//! Frames that overtook the message which announces their label.
//!
//! Whoever opens a circuit may send over it at once, and a datagram can be faster than the stream that the
//! announcement travels on. Frames with an unknown label from the address of a live session are therefore
//! kept for a moment, and handled again when the label becomes known.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use net_mesh_proto::drops::DropReason;
use tokio::time::Instant;

use super::counters::DropCounters;

/// Datagrams kept of one neighbour's: a first flight over a new circuit, which has about ten.
const SHARE_DATAGRAMS: usize = 16;

/// Bytes kept of one neighbour's: as many datagrams of Ethernet's size.
const SHARE_BYTES: usize = 25 << 10;

/// Neighbours that can use all of their share at a time: that many circuits begin at once where a node has just
/// found its mesh.
const SHARES: usize = 4;

/// Datagrams kept.
const MAX_DATAGRAMS: usize = SHARES * SHARE_DATAGRAMS;

/// Bytes kept.
const MAX_BYTES: usize = SHARES * SHARE_BYTES;

/// How long they are kept. An announcement that was lost is repeated after a round trip and a half, which
/// this covers up to 150 ms; later the frames' sender has repeated them anyway.
const PATIENCE: Duration = Duration::from_millis(250);

/// Datagrams with one label that arrived together.
#[derive(Debug)]
pub(super) struct Held {
    label: u64,
    since: Instant,
    pub(super) from: SocketAddr,
    pub(super) stride: usize,
    pub(super) bytes: Vec<u8>,
}

impl Held {
    fn count(&self) -> usize {
        self.bytes.len().div_ceil(self.stride)
    }
}

#[derive(Debug, Default)]
struct Kept {
    runs: VecDeque<Held>,
    datagrams: usize,
    bytes: usize,
}

/// The store of such frames.
#[derive(Debug, Default)]
pub(super) struct Early {
    kept: Mutex<Kept>,
}

impl Early {
    fn lock(&self) -> MutexGuard<'_, Kept> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Keeps what there is room for of the frames `bytes` of the neighbour at `from`, `stride` long each but the
    /// last.
    pub(super) fn hold(
        &self,
        label: u64,
        from: SocketAddr,
        stride: usize,
        bytes: &[u8],
        drops: &DropCounters,
    ) {
        let now = Instant::now();
        let mut kept = self.lock();
        kept.expire(now, drops);
        let room = kept.room(from, stride);
        let held = &bytes[..bytes.len().min(room * stride)];
        drops.add(DropReason::UnknownLabel, (bytes.len() - held.len()).div_ceil(stride));
        if held.is_empty() {
            return;
        }
        let run = Held { label, since: now, from, stride, bytes: held.to_vec() };
        kept.datagrams += run.count();
        kept.bytes += run.bytes.len();
        kept.runs.push_back(run);
    }

    /// Takes out what came with `label`, oldest first.
    pub(super) fn take(&self, label: u64, drops: &DropCounters) -> Vec<Held> {
        let mut kept = self.lock();
        kept.expire(Instant::now(), drops);
        let (taken, left): (Vec<_>, Vec<_>) =
            std::mem::take(&mut kept.runs).into_iter().partition(|r| r.label == label);
        kept.runs = left.into();
        kept.datagrams -= taken.iter().map(Held::count).sum::<usize>();
        kept.bytes -= taken.iter().map(|r| r.bytes.len()).sum::<usize>();
        taken
    }

    /// Drops what has waited in vain.
    pub(super) fn sweep(&self, drops: &DropCounters) {
        self.lock().expire(Instant::now(), drops);
    }
}

impl Kept {
    /// How many more datagrams of `stride` bytes are kept for the neighbour at `from`.
    fn room(&self, from: SocketAddr, stride: usize) -> usize {
        let (mut datagrams, mut bytes) = (0, 0);
        for run in self.runs.iter().filter(|run| run.from == from) {
            datagrams += run.count();
            bytes += run.bytes.len();
        }
        let datagrams = (MAX_DATAGRAMS - self.datagrams).min(SHARE_DATAGRAMS - datagrams);
        let bytes = (MAX_BYTES - self.bytes).min(SHARE_BYTES - bytes);
        datagrams.min(bytes / stride)
    }

    fn expire(&mut self, now: Instant, drops: &DropCounters) {
        while self.runs.front().is_some_and(|run| now - run.since > PATIENCE) {
            let Some(run) = self.runs.pop_front() else { break };
            self.datagrams -= run.count();
            self.bytes -= run.bytes.len();
            drops.add(DropReason::UnknownLabel, run.count());
        }
    }
}
