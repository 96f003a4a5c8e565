//! The network of the machine, counted: every datagram that a node sends or receives, on whichever socket.

use std::io::{self, IoSliceMut};
use std::net::{IpAddr, SocketAddr};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll};

use net_mesh::net::{Changes, Network, SystemNetwork};
use net_mesh_proto::wire::DatagramKind;
use quinn::udp::{RecvMeta, Transmit};
use quinn::{AsyncUdpSocket, UdpPoller};

#[derive(Debug, Default)]
pub struct Counting {
    pub counters: Arc<Counters>,
}

#[derive(Debug, Default)]
pub struct Counters {
    sent: AtomicU64,
    sent_bytes: AtomicU64,
    received: AtomicU64,
    received_bytes: AtomicU64,
    other_bytes: AtomicU64,
}

/// What was counted so far: datagrams, and bytes of UDP payload.
#[derive(Clone, Copy, Debug)]
pub struct Counts {
    pub sent: u64,
    pub sent_bytes: u64,
    pub received: u64,
    pub received_bytes: u64,
    /// Of all bytes, those that are not QUIC's.
    pub other_bytes: u64,
}

impl Counters {
    pub fn read(&self) -> Counts {
        let value = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        Counts {
            sent: value(&self.sent),
            sent_bytes: value(&self.sent_bytes),
            received: value(&self.received),
            received_bytes: value(&self.received_bytes),
            other_bytes: value(&self.other_bytes),
        }
    }

    fn other(&self, contents: &[u8], stride: usize) {
        let other =
            |datagram: &&[u8]| datagram.first().is_some_and(|b| DatagramKind::of(*b) != DatagramKind::Quic);
        let bytes: usize = contents.chunks(stride.max(1)).filter(other).map(<[u8]>::len).sum();
        self.other_bytes.fetch_add(bytes as u64, Ordering::Relaxed);
    }
}

impl Network for Counting {
    fn bind(&self, addr: SocketAddr) -> io::Result<Arc<dyn AsyncUdpSocket>> {
        Ok(Arc::new(Counted { socket: SystemNetwork.bind(addr)?, counters: Arc::clone(&self.counters) }))
    }

    fn ips(&self) -> Vec<IpAddr> {
        SystemNetwork.ips()
    }

    fn changes(&self) -> Option<Changes> {
        SystemNetwork.changes()
    }
}

#[derive(Debug)]
struct Counted {
    socket: Arc<dyn AsyncUdpSocket>,
    counters: Arc<Counters>,
}

impl AsyncUdpSocket for Counted {
    fn create_io_poller(self: Arc<Self>) -> Pin<Box<dyn UdpPoller>> {
        Arc::clone(&self.socket).create_io_poller()
    }

    fn try_send(&self, transmit: &Transmit<'_>) -> io::Result<()> {
        self.socket.try_send(transmit)?;
        let stride = transmit.segment_size.unwrap_or(transmit.contents.len()).max(1);
        let counters = &self.counters;
        counters.sent.fetch_add(transmit.contents.len().div_ceil(stride) as u64, Ordering::Relaxed);
        counters.sent_bytes.fetch_add(transmit.contents.len() as u64, Ordering::Relaxed);
        counters.other(transmit.contents, stride);
        Ok(())
    }

    fn poll_recv(
        &self,
        cx: &mut Context<'_>,
        bufs: &mut [IoSliceMut<'_>],
        meta: &mut [RecvMeta],
    ) -> Poll<io::Result<usize>> {
        let received = self.socket.poll_recv(cx, bufs, meta);
        if let Poll::Ready(Ok(count)) = received {
            for (buf, meta) in bufs.iter().zip(&*meta).take(count) {
                let datagrams = meta.len.div_ceil(meta.stride.max(1));
                self.counters.received.fetch_add(datagrams as u64, Ordering::Relaxed);
                self.counters.received_bytes.fetch_add(meta.len as u64, Ordering::Relaxed);
                self.counters.other(&buf[..meta.len], meta.stride);
            }
        }
        received
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        self.socket.local_addr()
    }

    fn max_transmit_segments(&self) -> usize {
        self.socket.max_transmit_segments()
    }

    fn max_receive_segments(&self) -> usize {
        self.socket.max_receive_segments()
    }

    fn may_fragment(&self) -> bool {
        self.socket.may_fragment()
    }
}
