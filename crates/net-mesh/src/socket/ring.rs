//! The last packets of a session, as they were sent.
//!
//! QUIC's packets can be sent again as they are: a receiver drops what it has had (RFC 9000 §12.3). So when a route
//! dies, what was on it goes over the next one without waiting for anybody's timeout.
//!
//! Batches are copied, whole, into one buffer that is written round and round. It grows with what is sent, so that
//! a session that says little holds little.

use std::collections::VecDeque;
use std::ops::Range;

use net_mesh_proto::time::Time;

/// Bytes kept for one session: what 5 Mbit/s carry in the tenth of a second in which a dead route is noticed. More would
/// take long to pass a slow relay.
pub(super) const RING_BYTES: usize = 64 << 10;

/// Batches kept for one session: small packets must not cost more to describe than to keep.
pub(super) const MAX_BATCHES: usize = 1024;

/// Bytes up to which packets of one length are put together again, so that they leave in one call.
const MAX_RUN: usize = 60_000;

/// Packets, `segment` bytes each but the last, that left together.
#[derive(Debug)]
struct Batch {
    at: Time,
    segment: usize,
    /// Where in the buffer they are.
    bytes: Range<usize>,
}

/// Packets to be sent again, `segment` bytes each but the last.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Run {
    pub(super) segment: usize,
    pub(super) bytes: Vec<u8>,
}

/// The last packets of a session. An empty one holds no memory.
#[derive(Debug, Default)]
pub(super) struct Ring {
    buffer: Vec<u8>,
    /// Where the next batch goes.
    end: usize,
    /// Oldest first. Those of the round before lie behind `end`, the others before it.
    batches: VecDeque<Batch>,
}

impl Ring {
    /// Keeps a batch that was sent; of one that is too large, its last packets.
    pub(super) fn push(&mut self, at: Time, contents: &[u8], segment: usize) {
        let segment = segment.max(1);
        let over = contents.len().saturating_sub(RING_BYTES).div_ceil(segment) * segment;
        let Some(contents) = contents.get(over..).filter(|contents| !contents.is_empty()) else { return };
        if self.end + contents.len() > RING_BYTES {
            self.forget_behind(usize::MAX);
            self.end = 0;
        }
        let bytes = self.end..self.end + contents.len();
        self.forget_behind(bytes.end);
        if self.batches.len() >= MAX_BATCHES {
            self.batches.pop_front();
        }
        if bytes.end <= self.buffer.len() {
            self.buffer[bytes.clone()].copy_from_slice(contents);
        } else {
            self.buffer.truncate(bytes.start);
            if bytes.end > self.buffer.capacity() {
                let capacity = (bytes.end * 2).min(RING_BYTES);
                self.buffer.reserve_exact(capacity - self.buffer.len());
            }
            self.buffer.extend_from_slice(contents);
        }
        self.end = bytes.end;
        self.batches.push_back(Batch { at, segment, bytes });
    }

    /// What was sent at `after` or later, oldest first. It is sent again at `now`.
    pub(super) fn since(&mut self, now: Time, after: Option<Time>) -> Vec<Run> {
        let mut runs: Vec<Run> = Vec::new();
        for batch in self.batches.iter_mut().filter(|batch| after.is_none_or(|after| batch.at >= after)) {
            batch.at = now;
            let bytes = &self.buffer[batch.bytes.clone()];
            match runs.last_mut().filter(|run| run.takes(batch.segment, bytes.len())) {
                Some(run) => run.bytes.extend_from_slice(bytes),
                None => runs.push(Run { segment: batch.segment, bytes: bytes.to_vec() }),
            }
        }
        runs
    }

    /// When the last batch was sent.
    pub(super) fn last(&self) -> Option<Time> {
        self.batches.back().map(|batch| batch.at)
    }

    /// Forgets the batches of the round before that begin before `limit`.
    fn forget_behind(&mut self, limit: usize) {
        let behind = self.end..limit;
        while self.batches.front().is_some_and(|oldest| behind.contains(&oldest.bytes.start)) {
            self.batches.pop_front();
        }
    }
}

impl Run {
    /// Whether `len` bytes in packets of `segment` can follow: only the last packet of a run may be shorter.
    const fn takes(&self, segment: usize, len: usize) -> bool {
        let joins = segment == self.segment || (len <= segment && segment < self.segment);
        joins && self.bytes.len().is_multiple_of(self.segment) && self.bytes.len() + len <= MAX_RUN
    }
}

#[cfg(test)]
#[path = "ring_tests.rs"]
mod tests;
