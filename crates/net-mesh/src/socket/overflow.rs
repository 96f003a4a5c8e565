//! What was received for QUIC and did not fit into the buffer it arrived in.
//!
//! QUIC is given one address and one stride per buffer. A buffer that holds datagrams of several slots, or
//! of several lengths, keeps the first run; the others wait here, copied, and are what QUIC gets next.

use std::collections::VecDeque;
use std::io::IoSliceMut;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::task::Waker;

use net_mesh_proto::drops::DropReason;
use quinn::udp::RecvMeta;

use super::counters::DropCounters;

/// Bytes that may wait. One round of receiving brings up to 32 buffers of 64 KiB, and in the worst case
/// most of it is here.
const MAX_BYTES: usize = 2 << 20;

/// Runs that may wait: as many as one round of unlike datagrams brings.
const MAX_RUNS: usize = 32 * 64;

/// Bytes up to which runs of one slot are joined: what fits every buffer of QUIC's.
const MAX_RUN: usize = 60_000;

/// Datagrams of one length for one slot, the last perhaps shorter.
#[derive(Debug)]
struct Run {
    /// The slot's virtual address.
    addr: SocketAddr,
    stride: usize,
    bytes: Vec<u8>,
}

#[derive(Debug, Default)]
struct Queue {
    runs: VecDeque<Run>,
    bytes: usize,
    reader: Option<Waker>,
}

/// The queue of such runs.
#[derive(Debug, Default)]
pub(super) struct Overflow {
    queue: Mutex<Queue>,
    /// How many runs wait: the packet path must not take a lock to learn that there are none.
    len: AtomicUsize,
}

impl Overflow {
    fn lock(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn is_empty(&self) -> bool {
        self.len.load(Ordering::Acquire) == 0
    }

    /// Whether something waits for the slot at `addr`: what comes after must not overtake it.
    pub(super) fn has(&self, addr: SocketAddr) -> bool {
        !self.is_empty() && self.lock().runs.iter().any(|run| run.addr == addr)
    }

    /// Adds one datagram of a run. False if there is no room.
    pub(super) fn push(&self, addr: SocketAddr, stride: usize, datagram: &[u8]) -> bool {
        let queue = &mut *self.lock();
        if queue.bytes + datagram.len() > MAX_BYTES {
            return false;
        }
        let full = queue.runs.len() >= MAX_RUNS;
        let joins = |run: &&mut Run| {
            run.addr == addr
                && run.stride == stride
                && run.bytes.len().is_multiple_of(stride)
                && run.bytes.len() + datagram.len() <= MAX_RUN
        };
        match queue.runs.back_mut().filter(joins) {
            Some(run) => run.bytes.extend_from_slice(datagram),
            None if full => return false,
            None => queue.runs.push_back(Run { addr, stride, bytes: datagram.to_vec() }),
        }
        queue.bytes += datagram.len();
        self.len.store(queue.runs.len(), Ordering::Release);
        true
    }

    /// Moves what waits into buffers. Returns how many of them are filled.
    pub(super) fn fill(
        &self,
        bufs: &mut [IoSliceMut<'_>],
        metas: &mut [RecvMeta],
        drops: &DropCounters,
    ) -> usize {
        if self.is_empty() {
            return 0;
        }
        let mut queue = self.lock();
        let mut filled = 0;
        for (buf, meta) in bufs.iter_mut().zip(metas) {
            let Some(run) = queue.runs.pop_front() else { break };
            queue.bytes -= run.bytes.len();
            // Whole datagrams only: a piece of one is none.
            let fits = run.bytes.len().min(buf.len() / run.stride * run.stride);
            drops.add(DropReason::QueueFull, (run.bytes.len() - fits).div_ceil(run.stride));
            buf[..fits].copy_from_slice(&run.bytes[..fits]);
            *meta = RecvMeta::default();
            (meta.addr, meta.len, meta.stride) = (run.addr, fits, run.stride);
            filled += 1;
        }
        self.len.store(queue.runs.len(), Ordering::Release);
        filled
    }

    /// Wakes `reader` when something is added from elsewhere than its own reading. False if something waits
    /// already.
    pub(super) fn register(&self, reader: &Waker) -> bool {
        let mut queue = self.lock();
        match &mut queue.reader {
            Some(waker) => waker.clone_from(reader),
            none => *none = Some(reader.clone()),
        }
        queue.runs.is_empty()
    }

    /// Wakes the reader.
    pub(super) fn wake(&self) {
        let reader = self.lock().reader.take();
        if let Some(reader) = reader {
            reader.wake();
        }
    }
}
