//! The network a node lives on: the operating system's, or another one put in its place.

use std::fmt::Debug;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use quinn::{AsyncUdpSocket, Runtime as _, TokioRuntime};
use socket2::{Domain, Protocol, Socket, Type};

/// Receive and send buffer asked of the system for each socket, in bytes.
///
/// At the system's default (about 200 KB on Linux) a sender on the same machine overruns the
/// receiver; from 4 MiB on nothing is lost on loopback. The system may grant less.
const SOCKET_BUFFER: usize = 4 << 20;

/// Where a node's sockets come from.
///
/// [`SystemNetwork`] is the real one. A simulated internet implements this to run whole nodes in
/// virtual time.
pub trait Network: Send + Sync + Debug + 'static {
    /// Opens a UDP socket on `addr`; port 0 lets the network choose.
    ///
    /// # Errors
    /// If the address cannot be used or the port is taken.
    fn bind(&self, addr: SocketAddr) -> io::Result<Arc<dyn AsyncUdpSocket>>;

    /// The addresses of this host's interfaces.
    fn ips(&self) -> Vec<IpAddr>;
}

/// The network of the machine.
#[derive(Clone, Copy, Debug, Default)]
pub struct SystemNetwork;

impl Network for SystemNetwork {
    fn bind(&self, addr: SocketAddr) -> io::Result<Arc<dyn AsyncUdpSocket>> {
        let socket = Socket::new(Domain::for_address(addr), Type::DGRAM, Some(Protocol::UDP))?;
        if addr.is_ipv6() {
            // One socket per family: an IPv6 socket that also takes IPv4 would show every IPv4
            // peer under a second form of its address.
            socket.set_only_v6(true)?;
        }
        // Smaller buffers cost speed, not function.
        let _ = socket.set_recv_buffer_size(SOCKET_BUFFER);
        let _ = socket.set_send_buffer_size(SOCKET_BUFFER);
        socket.bind(&addr.into())?;
        TokioRuntime.wrap_udp_socket(socket.into())
    }

    fn ips(&self) -> Vec<IpAddr> {
        let mut ips: Vec<IpAddr> =
            if_addrs::get_if_addrs().unwrap_or_default().into_iter().map(|i| i.ip()).collect();
        ips.sort_unstable();
        ips.dedup();
        ips
    }
}
