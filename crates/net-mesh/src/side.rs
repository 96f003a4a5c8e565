//! The sockets besides the main one: the other port, and the short-lived ones for classification.
//! They carry only the protocol machines' datagrams.

use std::io::{self, IoSliceMut};
use std::net::SocketAddr;
use std::sync::Arc;

use bytes::Bytes;
use net_mesh_proto::drops::DropReason;
use net_mesh_proto::outbox::SocketId;
use quinn::AsyncUdpSocket;
use quinn::udp::{RecvMeta, Transmit};
use tokio::sync::mpsc;
use tokio::task::AbortHandle;

use crate::driver::Signal;
use crate::socket::DropCounters;

/// Longest datagram looked at, in bytes: STUN messages of ours are far shorter.
const MAX_DATAGRAM: usize = 1500;

/// A socket of the node's, for one or both address families.
#[derive(Default)]
pub(crate) struct SideSocket {
    sockets: Vec<(Arc<dyn AsyncUdpSocket>, SocketAddr, AbortHandle)>,
}

impl SideSocket {
    /// Adds a bound socket, and starts reading it. Returns its address.
    pub(crate) fn add(
        &mut self,
        udp: Arc<dyn AsyncUdpSocket>,
        id: SocketId,
        signals: mpsc::WeakSender<Signal>,
    ) -> io::Result<SocketAddr> {
        let local = udp.local_addr()?;
        let reader = tokio::spawn(read(Arc::clone(&udp), id, signals)).abort_handle();
        self.sockets.push((udp, local, reader));
        Ok(local)
    }

    /// The local port of a family's socket.
    pub(crate) fn port(&self, v6: bool) -> Option<u16> {
        self.sockets.iter().find(|(_, local, _)| local.is_ipv6() == v6).map(|(_, local, _)| local.port())
    }

    /// Sends a datagram, or counts it as dropped.
    pub(crate) fn send(&self, to: SocketAddr, contents: &[u8], drops: &DropCounters) {
        let transmit = Transmit { destination: to, ecn: None, contents, segment_size: None, src_ip: None };
        let socket = self.sockets.iter().find(|(_, local, _)| local.is_ipv6() == to.is_ipv6());
        if socket.is_none_or(|(socket, ..)| socket.try_send(&transmit).is_err()) {
            drops.count(DropReason::SendFailed);
        }
    }
}

impl Drop for SideSocket {
    fn drop(&mut self) {
        for (_, _, reader) in &self.sockets {
            reader.abort();
        }
    }
}

async fn read(udp: Arc<dyn AsyncUdpSocket>, socket: SocketId, signals: mpsc::WeakSender<Signal>) {
    let mut buffer = vec![0; MAX_DATAGRAM * udp.max_receive_segments()];
    loop {
        let mut meta = [RecvMeta::default()];
        let received =
            std::future::poll_fn(|cx| udp.poll_recv(cx, &mut [IoSliceMut::new(&mut buffer)], &mut meta));
        // An error concerns an earlier datagram, not the socket.
        if received.await.is_err() {
            tokio::task::yield_now().await;
            continue;
        }
        let Some(signals) = signals.upgrade() else { return };
        let [RecvMeta { addr, len, stride, .. }] = meta;
        let from = SocketAddr::new(addr.ip().to_canonical(), addr.port());
        for datagram in buffer[..len.min(buffer.len())].chunks(stride.max(1)) {
            let bytes = Bytes::copy_from_slice(datagram);
            if signals.send(Signal::Side { socket, from, bytes }).await.is_err() {
                return;
            }
        }
    }
}
