//! The mesh's socket: what QUIC takes for its network.
//!
//! QUIC sees *virtual* addresses, one per [slot](slots), and knows nothing of where a peer really is.
//! This socket translates them, per batch, into the peer's route, tells the protocols on the wire
//! apart by the first byte of every datagram, forwards what it relays, and hands to the driver what is
//! neither. Batches stay batches: what arrives as one GRO buffer is delivered or forwarded as one, what
//! leaves as one GSO buffer is sent as one.
//!
//! | file | the question it answers |
//! |---|---|
//! | [`slots`] | which virtual address stands for whom, and which routes lead to it? |
//! | [`routes`] | which way do a peer's packets go? |
//! | [`counts`] | what has passed over each route? |
//! | [`ring`] | what was sent lately, for the case that its route is dead? |
//! | [`receive`] | what is this datagram, and whose? |
//! | [`send`] | which calls of the system does a batch become, and what is sent again? |
//! | [`relay`] | where do relayed datagrams go, and how do packets leave over a circuit? |
//! | [`early`] | what of frames that overtook the announcement of their label? |
//! | [`system`] | what does the operating system do? |
//! | [`overflow`] | what of packets that do not fit into one buffer for QUIC? |
//!
//! Sending never fails as far as QUIC can tell: what cannot be sent is a counted drop, as if the
//! network had lost it. ECN marks are removed in both directions, because their counts would not add
//! up when a session changes its route.

mod counters;
mod counts;
mod early;
mod overflow;
mod receive;
mod relay;
mod ring;
mod routes;
mod send;
pub(crate) mod slots;
mod system;
#[cfg(test)]
mod tests;

use std::fmt;
use std::io::{self, IoSliceMut};
use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use net_mesh_proto::drops::DropReason;
use net_mesh_proto::liveness::Traffic;
use net_mesh_proto::relay::Limits;
use net_mesh_proto::route::Route;
use net_mesh_proto::time::Time;
use quinn::udp::{RecvMeta, Transmit};
use quinn::{AsyncUdpSocket, UdpPoller};
use quinn_proto::HashedConnectionIdGenerator;
use tokio::sync::mpsc;

use counters::Passed;
pub(crate) use counters::{DropCounters, Volume};
use early::Early;
use overflow::Overflow;
use relay::Labels;
use slots::{SlotId, Slots};
pub(crate) use system::SystemSocket;

use crate::driver::Clock;

/// Datagrams waiting for the driver. Past this they are dropped and counted: the driver is busy, and
/// whoever sent them repeats what matters.
pub(crate) const INBOX: usize = 1024;

/// Errors taken in a row before others get their turn: as many ICMP messages may wait, but a socket that
/// fails for good must not hold the thread.
const MAX_ERRORS: usize = 64;

/// Buffers received in one call that leave nothing for QUIC, before others get their turn: one round of the
/// system's. A relay under load must not keep its own sessions waiting.
const MAX_BUFFERS: usize = 32;

/// What a session sent last is kept for so long after it.
const KEPT: Duration = Duration::from_secs(10);

/// A datagram for the driver.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Datagram {
    /// STUN, which only ever comes straight.
    Stun {
        /// Who sent it.
        from: SocketAddr,
        /// The message.
        bytes: Bytes,
    },
    /// A frame of the mesh's own other than a relayed datagram.
    Frame {
        /// Which way it came.
        route: Route,
        /// The whole frame.
        bytes: Bytes,
    },
}

/// One real socket.
struct Wire {
    socket: Arc<dyn AsyncUdpSocket>,
    local: SocketAddr,
}

/// The socket given to QUIC.
pub(crate) struct MeshSocket {
    wires: Vec<Wire>,
    slots: Slots,
    clock: Clock,
    labels: Labels,
    early: Early,
    overflow: Overflow,
    inbox: mpsc::Sender<Datagram>,
    drops: Arc<DropCounters>,
    passed: Passed,
    /// Recognises the connection ids that this node gave out.
    ids: HashedConnectionIdGenerator,
    /// Which wire is asked first next time, so that a busy one does not starve the other.
    turn: AtomicUsize,
}

impl MeshSocket {
    /// A mesh socket over `sockets`, at most one per address family, at least one. Labels expire by `clock`,
    /// and what is forwarded keeps to `limits`.
    pub(crate) fn new(
        sockets: Vec<Arc<dyn AsyncUdpSocket>>,
        inbox: mpsc::Sender<Datagram>,
        drops: Arc<DropCounters>,
        ids: HashedConnectionIdGenerator,
        clock: Clock,
        limits: Limits,
    ) -> io::Result<Arc<Self>> {
        let wires = sockets
            .into_iter()
            .map(|socket| Ok(Wire { local: socket.local_addr()?, socket }))
            .collect::<io::Result<Vec<_>>>()?;
        if wires.is_empty() {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "no socket to use"));
        }
        Ok(Arc::new(Self {
            wires,
            slots: Slots::new(Arc::clone(&drops)),
            clock,
            labels: Labels::new(limits, clock),
            early: Early::default(),
            overflow: Overflow::default(),
            inbox,
            drops,
            passed: Passed::default(),
            ids,
            turn: AtomicUsize::new(0),
        }))
    }

    /// The table of peers.
    pub(crate) const fn slots(&self) -> &Slots {
        &self.slots
    }

    /// What was dropped, for tests of what runs on the socket.
    #[cfg(test)]
    pub(crate) fn drops(&self) -> &DropCounters {
        &self.drops
    }

    /// The local addresses, one per family in use.
    pub(crate) fn local_addrs(&self) -> Vec<SocketAddr> {
        self.wires.iter().map(|w| w.local).collect()
    }

    /// The local port of the IPv4 (`false`) or IPv6 (`true`) socket.
    pub(crate) fn port(&self, v6: bool) -> Option<u16> {
        self.wire(v6).map(|w| w.local.port())
    }

    /// Packets that arrive over `route` belong to the session on `slot` from now on, unless another peer's
    /// session has proven the route, in which case nothing changes and this is false.
    pub(crate) fn accept(&self, slot: SlotId, route: Route) -> bool {
        self.slots.accept(slot, route)
    }

    /// The packets of the session on `slot` go over `route` from now on, and copies of them over `also`; those
    /// that arrive over either belong to it. False, and nothing changes, as in [`accept`](Self::accept).
    pub(crate) fn set_route(&self, slot: SlotId, route: Route, also: Option<Route>) -> bool {
        self.slots.set_route(slot, route, also)
    }

    /// The route that the packets of the session on `slot` go over.
    pub(crate) fn route(&self, slot: SlotId) -> Option<Route> {
        self.slots.routes(slot.addr())?.chosen()
    }

    /// At most `max` of the counts of traffic that have changed since they were last taken; the rest comes with the
    /// next call. Only sessions whose peer is known have counts here.
    pub(crate) fn sample(&self, max: usize) -> Vec<(SlotId, Route, Traffic)> {
        self.slots.changed().take(max)
    }

    /// QUIC's packets of sessions since the start: those sent and those received, each straight and over circuits.
    pub(crate) fn passed(&self) -> [[Volume; 2]; 2] {
        self.passed.read()
    }

    /// Waits until there is something to [`sample`](Self::sample), and resolves once for it: again only when there
    /// has been a sample, and something was left by it or has changed since. May be dropped while it waits.
    pub(crate) async fn traffic(&self) {
        self.slots.changed().news().await;
    }

    /// Forgets what has waited long enough. To be called every second or so.
    pub(crate) fn sweep(&self) {
        let limit = self.clock.now().since(Time::ZERO).saturating_sub(KEPT);
        self.slots.sweep(Time::ZERO + limit);
        self.early.sweep(&self.drops);
    }

    fn wire(&self, v6: bool) -> Option<&Wire> {
        self.wires.iter().find(|w| w.local.is_ipv6() == v6)
    }
}

impl AsyncUdpSocket for MeshSocket {
    fn create_io_poller(self: Arc<Self>) -> Pin<Box<dyn UdpPoller>> {
        let pollers = self.wires.iter().map(|w| Arc::clone(&w.socket).create_io_poller()).collect();
        Box::pin(AllWritable { pollers })
    }

    fn try_send(&self, transmit: &Transmit<'_>) -> io::Result<()> {
        let Some(routes) = self.slots.routes(transmit.destination) else {
            // The peer's slot went while QUIC still had something to say to it.
            return Ok(());
        };
        if let Some(lines) = routes.lines() {
            return self.send_lines(&routes, lines, transmit);
        }
        for candidate in routes.candidates() {
            // One full buffer must not keep the others from being tried; QUIC repeats what is lost.
            if self.send_on(candidate, transmit).is_err() {
                self.drops.count(DropReason::SendBufferFull);
            }
        }
        Ok(())
    }

    fn poll_recv(
        &self,
        cx: &mut Context<'_>,
        bufs: &mut [IoSliceMut<'_>],
        meta: &mut [RecvMeta],
    ) -> Poll<io::Result<usize>> {
        let waiting = self.overflow.fill(bufs, meta, &self.drops);
        if waiting > 0 {
            return Poll::Ready(Ok(waiting));
        }
        let first = self.turn.fetch_add(1, Ordering::Relaxed);
        let mut budget = MAX_BUFFERS;
        for i in 0..self.wires.len() {
            let wire = &self.wires[(first + i) % self.wires.len()];
            let mut errors = 0;
            while let Poll::Ready(received) = wire.socket.poll_recv(cx, bufs, meta) {
                let count = match received {
                    Ok(count) => count,
                    Err(e) if errors < MAX_ERRORS => {
                        // An ICMP error for an earlier datagram; says nothing about this socket.
                        tracing::trace!(error = %e, "receiving failed");
                        errors += 1;
                        continue;
                    }
                    Err(e) => {
                        tracing::debug!(error = %e, "receiving fails again and again");
                        cx.waker().wake_by_ref();
                        break;
                    }
                };
                if self.sort(&mut bufs[..count], &mut meta[..count]) {
                    return Poll::Ready(Ok(count));
                }
                budget = budget.saturating_sub(count.max(1));
                if budget == 0 {
                    cx.waker().wake_by_ref();
                    return Poll::Pending;
                }
            }
        }
        if self.overflow.register(cx.waker()) {
            return Poll::Pending;
        }
        // A change of labels brought something meanwhile.
        match self.overflow.fill(bufs, meta, &self.drops) {
            0 => Poll::Pending,
            filled => Poll::Ready(Ok(filled)),
        }
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        // QUIC asks only to know the family of the addresses it will see: virtual ones are IPv6.
        Ok(SocketAddr::new(IpAddr::V6(Ipv6Addr::UNSPECIFIED), self.wires[0].local.port()))
    }

    fn max_transmit_segments(&self) -> usize {
        self.wires.iter().map(|w| w.socket.max_transmit_segments()).min().unwrap_or(1)
    }

    fn max_receive_segments(&self) -> usize {
        self.wires.iter().map(|w| w.socket.max_receive_segments()).max().unwrap_or(1)
    }

    fn may_fragment(&self) -> bool {
        self.wires.iter().any(|w| w.socket.may_fragment())
    }
}

impl fmt::Debug for MeshSocket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MeshSocket").field("local", &self.local_addrs()).finish_non_exhaustive()
    }
}

/// Writable when every wire is: waiting for one while another is what blocked would spin.
#[derive(Debug)]
struct AllWritable {
    pollers: Vec<Pin<Box<dyn UdpPoller>>>,
}

impl UdpPoller for AllWritable {
    fn poll_writable(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        for poller in &mut self.pollers {
            ready!(poller.as_mut().poll_writable(cx))?;
        }
        Poll::Ready(Ok(()))
    }
}
