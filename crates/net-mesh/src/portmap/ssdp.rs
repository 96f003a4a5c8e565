//! Which UPnP device is the default gateway?
//!
//! The crate's search takes the first device of the network that answers, and reads what that one points to before it
//! looks at the next. So it does not search by itself: it asks a [`Sieve`] on this host, which asks the gateway alone
//! (UPnP Device Architecture 2.0 §1.3.2), soon after everybody, and passes on only what bears the gateway's address.
//! Others are not heard, however early, often or slowly they answer.

use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::Duration;

use tokio::net::UdpSocket;
use tokio::time::{Instant, sleep_until};

/// Where a device listens for a search that is meant for it alone.
const PORT: u16 = 1900;

/// How long the gateway alone is asked: it is the next hop, and answers in milliseconds. What only hears the multicast
/// is left three seconds, over which devices are asked to spread their answers.
pub(super) const ALONE: Duration = Duration::from_millis(400);

/// Texts of a search that are passed on; the crate sends one for each kind of device and service.
const MAX_TEXTS: usize = 8;

/// Longest datagram passed on, in bytes: the crate reads as much.
const MAX_DATAGRAM: usize = 1500;

/// Stands between the crate's search and the network.
#[derive(Debug)]
pub(super) struct Sieve {
    /// Where the crate sends its search.
    inside: UdpSocket,
    outside: UdpSocket,
    gateway: Ipv4Addr,
    /// Where everybody hears a search.
    everybody: SocketAddr,
}

impl Sieve {
    /// One for `gateway`, from the address `host` of this host.
    pub(super) async fn new(host: Ipv4Addr, gateway: Ipv4Addr, everybody: SocketAddr) -> io::Result<Self> {
        let inside = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).await?;
        let outside = UdpSocket::bind((host, 0)).await?;
        Ok(Self { inside, outside, gateway, everybody })
    }

    /// Where to send the search, from an address of loopback.
    pub(super) fn addr(&self) -> io::Result<SocketAddr> {
        self.inside.local_addr()
    }

    /// Passes on searches and answers until it is dropped, or a socket fails.
    pub(super) async fn run(self) -> io::Error {
        let Err(error) = self.pass_on().await;
        error
    }

    async fn pass_on(&self) -> io::Result<std::convert::Infallible> {
        let own = self.addr()?.to_string();
        let (mut request, mut answer) = ([0; MAX_DATAGRAM], [0; MAX_DATAGRAM]);
        let mut texts: Vec<String> = Vec::new();
        let mut asker = None;
        let (mut everybody_at, mut all_asked) = (Instant::now(), false);
        loop {
            tokio::select! {
                received = self.inside.recv_from(&mut request) => {
                    let (length, from) = received?;
                    if texts.len() == MAX_TEXTS || *asker.get_or_insert(from) != from {
                        continue;
                    }
                    let text = String::from_utf8_lossy(&request[..length]).into_owned();
                    self.send(&text, &own, (self.gateway, PORT).into()).await;
                    if texts.is_empty() {
                        everybody_at = Instant::now() + ALONE;
                    }
                    texts.push(text);
                }
                received = self.outside.recv_from(&mut answer) => {
                    let (length, from) = received?;
                    if let Some(asker) = asker.filter(|_| from.ip() == IpAddr::V4(self.gateway)) {
                        self.inside.send_to(&answer[..length], asker).await?;
                    }
                }
                () = sleep_until(everybody_at), if !texts.is_empty() && !all_asked => {
                    all_asked = true;
                    for text in &texts {
                        self.send(text, &own, self.everybody).await;
                    }
                }
            }
        }
    }

    /// A search names the address that it is sent to. One that cannot be sent is as good as lost: the others may do.
    async fn send(&self, text: &str, own: &str, to: SocketAddr) {
        let _ = self.outside.send_to(text.replace(own, &to.to_string()).as_bytes(), to).await;
    }
}
