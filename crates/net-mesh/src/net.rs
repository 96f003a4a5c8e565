//! The network a node lives on: the operating system's, or another one put in its place.
//!
//! | file | the question it answers |
//! |---|---|
//! | `watch` | when is the node told that its network changed? |
//! | `netlink` | what does Linux say about its network? |
//! | `sleep` | did this host sleep, or was this process stopped? |

#[cfg(any(target_os = "linux", target_os = "android"))]
mod netlink;
#[cfg(any(target_os = "linux", target_os = "android"))]
mod sleep;
mod watch;

use std::fmt::Debug;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
#[cfg(any(target_os = "linux", target_os = "android"))]
use std::task::Poll;

use quinn::AsyncUdpSocket;
use socket2::{Domain, Protocol, Socket, Type};
pub use watch::{Change, Changes};
pub(crate) use watch::{Kinds, Watch, words};

use crate::socket::SystemSocket;

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
    /// Where its `try_send` fails because there is no way to the destination, the node takes the next way at once;
    /// where it keeps such errors to itself, the node finds out by silence.
    ///
    /// # Errors
    /// If the address cannot be used or the port is taken.
    fn bind(&self, addr: SocketAddr) -> io::Result<Arc<dyn AsyncUdpSocket>>;

    /// The addresses of this host's interfaces.
    fn ips(&self) -> Vec<IpAddr>;

    /// Whether this is the machine's own network. Only then is the machine's router asked for a port, where the
    /// operator wants that.
    fn is_the_machines(&self) -> bool {
        false
    }

    /// Changes of this network from now on, each told as soon as it is seen; the node gathers them.
    ///
    /// Without any (`None`, as it is unless implemented) the node compares [`ips`](Self::ips) once a second, and
    /// does not notice what leaves the addresses as they are: another default route, or a host that slept.
    /// Called within a tokio runtime, once for a node.
    fn changes(&self) -> Option<Changes> {
        None
    }
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
        Ok(SystemSocket::new(socket.into())?)
    }

    fn ips(&self) -> Vec<IpAddr> {
        let mut ips: Vec<IpAddr> =
            if_addrs::get_if_addrs().unwrap_or_default().into_iter().map(|i| i.ip()).collect();
        ips.sort_unstable();
        ips.dedup();
        ips
    }

    fn is_the_machines(&self) -> bool {
        true
    }

    #[cfg(any(target_os = "linux", target_os = "android"))]
    fn changes(&self) -> Option<Changes> {
        let mut netlink = netlink::Netlink::open()
            .inspect_err(|error| tracing::warn!(%error, "the kernel does not tell of changes of the network"))
            .ok()?;
        let mut sleep = sleep::Sleep::new();
        Some(Box::pin(futures_util::stream::poll_fn(move |cx| {
            // The driver asks once a second at least.
            if let Some(pause) = sleep.check() {
                tracing::info!(?pause, "this process did not run");
                return Poll::Ready(Some(Change::Slept));
            }
            netlink.poll_change(cx).map(|change| {
                change
                    .inspect_err(|error| tracing::warn!(%error, "cannot hear of changes of the network"))
                    .ok()
            })
        })))
    }
}
