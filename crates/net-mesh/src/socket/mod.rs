//! The mesh's socket: what QUIC takes for its network.
//!
//! QUIC sees *virtual* addresses, one per [slot](slots), and knows nothing of where a peer really is.
//! This socket translates them, per batch, into the peer's route, tells the protocols on the wire
//! apart by the first byte of every datagram, and hands to the driver what is not QUIC. Batches stay
//! batches: what arrives as one GRO buffer is delivered as one, what leaves as one GSO buffer is sent
//! as one.
//!
//! Sending never fails as far as QUIC can tell: what cannot be sent is a counted drop, as if the
//! network had lost it. ECN marks are removed in both directions, because their counts would not add
//! up when a session changes its route.

mod counters;
mod receive;
mod routes;
pub(crate) mod slots;
#[cfg(test)]
mod tests;

use std::fmt;
use std::io::{self, IoSliceMut};
use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use net_mesh_proto::drops::DropReason;
use quinn::udp::{RecvMeta, Transmit};
use quinn::{AsyncUdpSocket, UdpPoller};
use quinn_proto::HashedConnectionIdGenerator;
use tokio::sync::mpsc;

pub(crate) use counters::DropCounters;
use slots::Slots;

/// Datagrams waiting for the driver. Past this they are dropped and counted: the driver is busy, and
/// whoever sent them repeats what matters.
pub(crate) const INBOX: usize = 1024;

/// Errors taken in a row before others get their turn: as many ICMP messages may wait, but a socket that
/// fails for good must not hold the thread.
const MAX_ERRORS: usize = 64;

/// A datagram for the driver: who sent it, and what.
pub(crate) type Datagram = (SocketAddr, Bytes);

/// One real socket.
struct Wire {
    socket: Arc<dyn AsyncUdpSocket>,
    local: SocketAddr,
}

/// The socket given to QUIC.
pub(crate) struct MeshSocket {
    wires: Vec<Wire>,
    slots: Slots,
    inbox: mpsc::Sender<Datagram>,
    drops: Arc<DropCounters>,
    /// Recognises the connection ids that this node gave out.
    ids: HashedConnectionIdGenerator,
    /// Which wire is asked first next time, so that a busy one does not starve the other.
    turn: AtomicUsize,
}

impl MeshSocket {
    /// A mesh socket over `sockets`, at most one per address family, at least one.
    pub(crate) fn new(
        sockets: Vec<Arc<dyn AsyncUdpSocket>>,
        inbox: mpsc::Sender<Datagram>,
        drops: Arc<DropCounters>,
        ids: HashedConnectionIdGenerator,
    ) -> io::Result<Arc<Self>> {
        let wires = sockets
            .into_iter()
            .map(|socket| Ok(Wire { local: socket.local_addr()?, socket }))
            .collect::<io::Result<Vec<_>>>()?;
        if wires.is_empty() {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "no socket to use"));
        }
        let slots = Slots::new(Arc::clone(&drops));
        Ok(Arc::new(Self { wires, slots, inbox, drops, ids, turn: AtomicUsize::new(0) }))
    }

    /// The table of peers.
    pub(crate) const fn slots(&self) -> &Slots {
        &self.slots
    }

    /// The local addresses, one per family in use.
    pub(crate) fn local_addrs(&self) -> Vec<SocketAddr> {
        self.wires.iter().map(|w| w.local).collect()
    }

    /// The local port of the IPv4 (`false`) or IPv6 (`true`) socket.
    pub(crate) fn port(&self, v6: bool) -> Option<u16> {
        self.wire(v6).map(|w| w.local.port())
    }

    /// Sends one datagram that is not QUIC.
    pub(crate) fn send_raw(&self, to: SocketAddr, contents: &[u8]) {
        let transmit = Transmit { destination: to, ecn: None, contents, segment_size: None, src_ip: None };
        match self.send_on_wire(&transmit) {
            Err(e) if e.kind() == io::ErrorKind::WouldBlock => self.drops.count(DropReason::SendBufferFull),
            _ => {}
        }
    }

    fn wire(&self, v6: bool) -> Option<&Wire> {
        self.wires.iter().find(|w| w.local.is_ipv6() == v6)
    }

    /// Sends on the wire of the destination's family. The only error is `WouldBlock`.
    fn send_on_wire(&self, transmit: &Transmit<'_>) -> io::Result<()> {
        let Some(wire) = self.wire(transmit.destination.is_ipv6()) else {
            self.drops.count(DropReason::SendFailed);
            return Ok(());
        };
        match wire.socket.try_send(transmit) {
            Err(e) if e.kind() != io::ErrorKind::WouldBlock => {
                tracing::trace!(to = %transmit.destination, error = %e, "datagram not sent");
                self.drops.count(DropReason::SendFailed);
                Ok(())
            }
            result => result,
        }
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
        let on_route = |destination| Transmit {
            destination,
            ecn: None,
            contents: transmit.contents,
            segment_size: transmit.segment_size,
            src_ip: None,
        };
        if let Some(route) = routes.chosen() {
            return self.send_on_wire(&on_route(route));
        }
        for candidate in routes.candidates() {
            // One full buffer must not keep the others from being tried; QUIC repeats what is lost.
            if self.send_on_wire(&on_route(candidate)).is_err() {
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
        let first = self.turn.fetch_add(1, Ordering::Relaxed);
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
            }
        }
        Poll::Pending
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
