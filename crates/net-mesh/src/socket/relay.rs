//! Relayed datagrams on the socket: what is forwarded, and what leaves over a circuit.
//!
//! A run of datagrams with one label stays one piece from the receive buffer to the send call: its labels
//! are rewritten where they lie. Nothing is allocated or copied on the way, and the table of labels is not
//! locked during a system call.

use std::cell::Cell;
use std::io;
use std::net::SocketAddr;
use std::sync::{Mutex, MutexGuard, PoisonError};

use net_mesh_proto::drops::DropReason;
use net_mesh_proto::relay::{Change, LabelTable, Limits, Stats, Step};
use net_mesh_proto::route::{CircuitId, Route};
use net_mesh_proto::wire::frame::{RELAY_HEADER, relay_header};
use quinn::udp::{RecvMeta, Transmit};

use super::MeshSocket;
use crate::driver::Clock;

/// Most bytes given to the system in one call: the payload of the largest IPv4 datagram, which bounds a
/// whole batch (more is refused with `EMSGSIZE`).
const MAX_TRANSMIT: usize = 65_535 - 20 - 8;

thread_local! {
    /// Where headers and payloads are put together before they leave over a circuit.
    static SCRATCH: Cell<Vec<u8>> = const { Cell::new(Vec::new()) };
}

/// The labels this node knows, and the clock by which they expire.
#[derive(Debug)]
pub(super) struct Labels {
    table: Mutex<LabelTable>,
    clock: Clock,
}

impl Labels {
    pub(super) fn new(limits: Limits, clock: Clock) -> Self {
        Self { table: Mutex::new(LabelTable::new(limits)), clock }
    }

    fn table(&self) -> MutexGuard<'_, LabelTable> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What to do with `count` datagrams of `bytes` payload bytes in all.
    pub(super) fn step(&self, from: SocketAddr, label: u64, count: usize, bytes: usize) -> Step {
        self.table().step(self.clock.now(), from, label, count, bytes)
    }

    pub(super) fn stats(&self) -> Stats {
        self.table().stats()
    }

    fn out(&self, circuit: CircuitId) -> Option<(SocketAddr, u64)> {
        self.table().out(circuit)
    }
}

impl MeshSocket {
    /// What was forwarded for others since the start.
    pub(crate) fn carried(&self) -> Stats {
        self.labels.stats()
    }

    /// Changes the table of labels. Frames that waited for a label are handled now.
    pub(crate) fn apply(&self, change: Change) {
        let label = match &change {
            Change::Forward { label, .. } | Change::End { label, .. } => Some(*label),
            Change::Remove { .. } => None,
        };
        self.labels.table().apply(change);
        let Some(label) = label else { return };
        for mut held in self.early.take(label, &self.drops) {
            let mut meta = RecvMeta::default();
            (meta.addr, meta.len, meta.stride) = (held.from, held.bytes.len(), held.stride);
            self.sort_batch(&mut held.bytes, &mut meta);
            for datagram in held.bytes[..meta.len].chunks(meta.stride.max(1)) {
                if !self.overflow.push(meta.addr, meta.stride, datagram) {
                    self.drops.count(DropReason::QueueFull);
                }
            }
        }
        if !self.overflow.is_empty() {
            self.overflow.wake();
        }
    }

    /// Whether packets can be sent over `route` at all.
    pub(crate) fn is_usable(&self, route: Route) -> bool {
        match route {
            Route::Direct(addr) => self.port(addr.is_ipv6()).is_some(),
            Route::Relayed(circuit) => self.labels.out(circuit).is_some(),
        }
    }

    /// Sends a run of relayed datagrams on, `stride` bytes each but the last.
    pub(super) fn forward(&self, to: SocketAddr, label: u64, run: &mut [u8], stride: usize) {
        let header = relay_header(label);
        for frame in run.chunks_mut(stride) {
            frame[..RELAY_HEADER].copy_from_slice(&header);
        }
        let _ = self.send_batch(to, run, stride, false);
    }

    /// Sends QUIC's or the driver's datagrams over a circuit, `segment` bytes each but the last. False if there is
    /// no such circuit, or the system refuses some of it. The only error is `WouldBlock`, and then nothing was sent.
    pub(super) fn send_over(&self, circuit: CircuitId, contents: &[u8], segment: usize) -> io::Result<bool> {
        let Some((to, label)) = self.labels.out(circuit) else {
            self.drops.add(DropReason::UnknownLabel, contents.len().div_ceil(segment));
            return Ok(false);
        };
        let header = relay_header(label);
        let mut scratch = SCRATCH.take();
        scratch.clear();
        for payload in contents.chunks(segment) {
            scratch.extend_from_slice(&header);
            scratch.extend_from_slice(payload);
        }
        let sent = self.send_batch(to, &scratch, segment + RELAY_HEADER, true);
        SCRATCH.set(scratch);
        sent
    }

    /// Sends datagrams of `stride` bytes each (the last may be shorter) in as few calls as the system allows.
    /// With `may_block` a send buffer that is full from the start is an error; else it is a counted drop. False if the
    /// system refuses some of it.
    pub(super) fn send_batch(
        &self,
        to: SocketAddr,
        contents: &[u8],
        stride: usize,
        may_block: bool,
    ) -> io::Result<bool> {
        let mut taken = true;
        let segments = self.wire(to.is_ipv6()).map_or(1, |w| w.socket.max_transmit_segments());
        let piece = segments.min(MAX_TRANSMIT / stride).max(1) * stride;
        for (i, contents) in contents.chunks(piece).enumerate() {
            let segment_size = (contents.len() > stride).then_some(stride);
            let transmit = Transmit { destination: to, ecn: None, contents, segment_size, src_ip: None };
            match self.send_on_wire(&transmit) {
                Err(e) if may_block && i == 0 => return Err(e),
                Err(_) => self.drops.add(DropReason::SendBufferFull, contents.len().div_ceil(stride)),
                Ok(piece) => taken &= piece,
            }
        }
        Ok(taken)
    }
}
