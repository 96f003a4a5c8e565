//! What leaves: QUIC's batches over a session's routes, frames of the mesh's own, and what is sent again.
//!
//! What is sent counts as traffic of its route, also where the system refused it: it is lost, as on the way. A
//! send buffer that is full says nothing of the route: QUIC is told to wait, and nothing is counted.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use net_mesh_proto::drops::DropReason;
use net_mesh_proto::route::Route;
use net_mesh_proto::time::Time;
use quinn::udp::Transmit;

use super::MeshSocket;
use super::ring::Run;
use super::routes::{Lines, PeerRoutes};
use super::slots::SlotId;

/// How much of what was sent lately may be lost although something was heard meanwhile: a route that is dead in one
/// direction brings what the peer sends, and it takes this long to notice.
const DOUBTED: Duration = Duration::from_millis(250);

impl MeshSocket {
    /// Sends a frame of the mesh's own. False if the system refuses to send there, or nothing leads there. Where the
    /// send buffer is full the frame is lost and counted, which is nobody's fault.
    pub(crate) fn send_frame(&self, route: Route, frame: &[u8]) -> bool {
        self.send_piece(route, frame, None).unwrap_or_else(|_| {
            self.drops.count(DropReason::SendBufferFull);
            true
        })
    }

    /// Sends one datagram that is not QUIC.
    pub(crate) fn send_raw(&self, to: SocketAddr, contents: &[u8]) {
        self.send_frame(Route::Direct(to), contents);
    }

    /// Sends again what was sent on `slot` since something was last heard over `old`, or `rtt` before, and at least
    /// what was sent within [`DOUBTED`], over the route in use, oldest first. Returns the bytes that the system took.
    pub(crate) fn replay(&self, slot: SlotId, old: Route, rtt: Duration) -> usize {
        let Some(routes) = self.slots.routes(slot.addr()) else { return 0 };
        let Some(Lines { route, .. }) = routes.lines() else { return 0 };
        let now = self.clock.now();
        let since = |at: Time, before: Duration| Time::ZERO + at.since(Time::ZERO).saturating_sub(before);
        let after = routes.heard(old).map(|at| since(at.min(since(now, DOUBTED)), rtt));
        let (mut bytes, mut full) = (0, false);
        for run in routes.since(now, after) {
            let count = run.bytes.len().div_ceil(run.segment);
            if full || self.send_run(route, &run).is_err() {
                // QUIC repeats the rest in its own time.
                full = true;
                self.drops.add(DropReason::SendBufferFull, count);
                continue;
            }
            bytes += run.bytes.len();
            self.count_sent(&routes, now, route, (count, run.bytes.len()));
        }
        bytes
    }

    /// Sends QUIC's packets over the session's route, with a copy over the second one, and keeps them for the case
    /// that the route is dead. The only error is `WouldBlock`, and then nothing was sent.
    pub(super) fn send_lines(
        &self,
        routes: &Arc<PeerRoutes>,
        lines: Lines,
        transmit: &Transmit<'_>,
    ) -> io::Result<()> {
        // Before it leaves: what answers it is heard later than this.
        let now = self.clock.now();
        let segment = transmit.segment_size.unwrap_or(transmit.contents.len()).max(1);
        let count = transmit.contents.len().div_ceil(segment);
        let passed = (count, transmit.contents.len());
        self.send_on(lines.route, transmit)?;
        self.count_sent(routes, now, lines.route, passed);
        if lines.settled {
            routes.remember(now, transmit.contents, segment);
        }
        let Some(also) = lines.also else { return Ok(()) };
        // Nobody waits for a copy.
        match self.send_on(also, transmit) {
            Ok(()) => self.count_sent(routes, now, also, passed),
            Err(_) => self.drops.add(DropReason::SendBufferFull, count),
        }
        Ok(())
    }

    /// Sends QUIC's packets over a route. The only error is `WouldBlock`.
    pub(super) fn send_on(&self, route: Route, transmit: &Transmit<'_>) -> io::Result<()> {
        self.send_piece(route, transmit.contents, transmit.segment_size).map(|_| ())
    }

    /// Sends on the wire of the destination's family. False if the system [refuses](is_refusal) to send there; the
    /// only error is `WouldBlock`.
    pub(super) fn send_on_wire(&self, transmit: &Transmit<'_>) -> io::Result<bool> {
        let Some(wire) = self.wire(transmit.destination.is_ipv6()) else {
            self.drops.count(DropReason::SendFailed);
            return Ok(false);
        };
        match wire.socket.try_send(transmit) {
            Err(e) if e.kind() != io::ErrorKind::WouldBlock => {
                tracing::trace!(to = %transmit.destination, error = %e, "datagram not sent");
                self.drops.count(DropReason::SendFailed);
                Ok(!is_refusal(e.kind()))
            }
            result => result.map(|()| true),
        }
    }

    /// Sends datagrams as they are over a route: at most as many as the system takes in one call. Results as in
    /// [`send_on_wire`](Self::send_on_wire).
    fn send_piece(&self, route: Route, contents: &[u8], segment_size: Option<usize>) -> io::Result<bool> {
        match route {
            Route::Direct(destination) => {
                self.send_on_wire(&Transmit { destination, ecn: None, contents, segment_size, src_ip: None })
            }
            Route::Relayed(circuit) => {
                let segment = segment_size.unwrap_or(contents.len()).max(1);
                self.send_over(circuit, contents, segment)
            }
        }
    }

    /// Sends any number of datagrams over a route. The only error is `WouldBlock`, and then nothing was sent.
    fn send_run(&self, route: Route, run: &Run) -> io::Result<bool> {
        match route {
            Route::Direct(to) => self.send_batch(to, &run.bytes, run.segment, true),
            Route::Relayed(circuit) => self.send_over(circuit, &run.bytes, run.segment),
        }
    }

    /// Counts datagrams and their bytes.
    fn count_sent(
        &self,
        routes: &Arc<PeerRoutes>,
        now: Time,
        route: Route,
        (datagrams, bytes): (usize, usize),
    ) {
        self.passed.sent(route, datagrams, bytes);
        if routes.sent(now, route, datagrams as u64) {
            self.slots.changed().add(routes);
        }
    }
}

/// Whether an error says that nothing can be sent there: there is no way, no address to send from, or a filter of
/// this host's. Others are about one datagram or one moment, such as a size or a queue.
const fn is_refusal(error: io::ErrorKind) -> bool {
    use io::ErrorKind::{
        AddrNotAvailable, HostUnreachable, InvalidInput, NetworkDown, NetworkUnreachable, PermissionDenied,
    };
    matches!(
        error,
        NetworkUnreachable
            | HostUnreachable
            | NetworkDown
            | AddrNotAvailable
            | PermissionDenied
            | InvalidInput
    )
}
