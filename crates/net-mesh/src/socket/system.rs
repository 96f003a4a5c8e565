//! A UDP socket of the system that tells when the system refuses to send.
//!
//! QUIC's own socket keeps that to itself, since QUIC takes it for loss. Here "network is unreachable" is news: the
//! uplink is gone, and the next way should be taken at once.

use std::fmt;
use std::io::{self, IoSliceMut};
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use quinn::udp::{RecvMeta, Transmit, UdpSocketState};
use quinn::{AsyncUdpSocket, UdpPoller};
use tokio::io::Interest;
use tokio::net::UdpSocket;

/// A socket of the system, with batches in both directions where it has them.
#[derive(Debug)]
pub(crate) struct SystemSocket {
    io: UdpSocket,
    state: UdpSocketState,
}

impl SystemSocket {
    /// Takes over a bound socket. To be called within a tokio runtime.
    pub(crate) fn new(socket: std::net::UdpSocket) -> io::Result<Arc<Self>> {
        // This also makes it one that does not block.
        let state = UdpSocketState::new((&socket).into())?;
        Ok(Arc::new(Self { io: UdpSocket::from_std(socket)?, state }))
    }
}

impl AsyncUdpSocket for SystemSocket {
    fn create_io_poller(self: Arc<Self>) -> Pin<Box<dyn UdpPoller>> {
        Box::pin(Writable { socket: self, waiting: None })
    }

    fn try_send(&self, transmit: &Transmit<'_>) -> io::Result<()> {
        self.io.try_io(Interest::WRITABLE, || self.state.try_send((&self.io).into(), transmit))
    }

    fn poll_recv(
        &self,
        cx: &mut Context<'_>,
        bufs: &mut [IoSliceMut<'_>],
        metas: &mut [RecvMeta],
    ) -> Poll<io::Result<usize>> {
        loop {
            ready!(self.io.poll_recv_ready(cx))?;
            let received =
                self.io.try_io(Interest::READABLE, || self.state.recv((&self.io).into(), bufs, metas));
            match received {
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => {}
                received => return Poll::Ready(received),
            }
        }
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        self.io.local_addr()
    }

    fn may_fragment(&self) -> bool {
        self.state.may_fragment()
    }

    fn max_transmit_segments(&self) -> usize {
        self.state.max_gso_segments()
    }

    fn max_receive_segments(&self) -> usize {
        self.state.gro_segments()
    }
}

type Waiting = Pin<Box<dyn Future<Output = io::Result<()>> + Send + Sync>>;

/// Waits until the socket takes more. Each connection has its own, since several may wait at a time.
struct Writable {
    socket: Arc<SystemSocket>,
    waiting: Option<Waiting>,
}

impl UdpPoller for Writable {
    fn poll_writable(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = &mut *self;
        let waiting = this.waiting.get_or_insert_with(|| {
            let socket = Arc::clone(&this.socket);
            Box::pin(async move { socket.io.writable().await })
        });
        let result = ready!(waiting.as_mut().poll(cx));
        this.waiting = None;
        Poll::Ready(result)
    }
}

impl fmt::Debug for Writable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Writable").finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Two sockets on loopback.
    async fn pair() -> [Arc<SystemSocket>; 2] {
        [(); 2].map(|()| SystemSocket::new(std::net::UdpSocket::bind("127.0.0.1:0").unwrap()).unwrap())
    }

    fn transmit(destination: SocketAddr, contents: &[u8], segment_size: Option<usize>) -> Transmit<'_> {
        Transmit { destination, ecn: None, contents, segment_size, src_ip: None }
    }

    /// What arrives next, cut into datagrams.
    async fn receive(socket: &SystemSocket) -> Vec<Vec<u8>> {
        let mut buf = vec![0; 1 << 16];
        let mut meta = [RecvMeta::default()];
        let count =
            std::future::poll_fn(|cx| socket.poll_recv(cx, &mut [IoSliceMut::new(&mut buf)], &mut meta));
        assert_eq!(count.await.unwrap(), 1);
        buf[..meta[0].len].chunks(meta[0].stride).map(<[u8]>::to_vec).collect()
    }

    #[tokio::test]
    async fn batches_travel_both_ways() {
        let [a, b] = pair().await;
        for (from, to) in [(&a, &b), (&b, &a)] {
            let segments = from.max_transmit_segments().min(3);
            let bytes = [[1; 100], [2; 100], [3; 100]].concat();
            let bytes = &bytes[..segments * 100 - 50];
            let mut poller = Arc::clone(from).create_io_poller();
            std::future::poll_fn(|cx| poller.as_mut().poll_writable(cx)).await.unwrap();
            from.try_send(&transmit(to.local_addr().unwrap(), bytes, Some(100))).unwrap();
            let mut got = Vec::new();
            while got.len() < segments {
                got.extend(receive(to).await);
            }
            assert_eq!(got, bytes.chunks(100).map(<[u8]>::to_vec).collect::<Vec<_>>());
        }
    }

    #[tokio::test]
    async fn what_the_system_refuses_is_told() {
        let [a, _] = pair().await;
        // A socket bound to loopback cannot reach any other network, whatever this host is connected to.
        let to = SocketAddr::from(([198, 51, 100, 1], 9));
        assert!(a.try_send(&transmit(to, b"lost", None)).is_err());
    }
}
