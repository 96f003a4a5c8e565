//! What does Linux say about its network?
//!
//! The kernel tells every change of links, addresses, routes and rules to whoever has subscribed (rtnetlink(7)). It
//! also repeats itself: a router's advertisement renews addresses and routes that are there, statistics and scans
//! come as messages about links. So what is known is remembered, and only what differs from it is a [`Change`].
//!
//! What is not one: an interface without an address that can be used, which is what containers come and go with;
//! link-local and loopback addresses; routes to single hosts, and those the kernel derives from an address.
//!
//! Why not the crate `netwatch` (0.20): it waits until 250 ms pass without any message, so
//! a host whose interfaces flap stays deaf, and compares only states before and after, in which another gateway
//! behind the same interface, or the same address in another network, are not to be seen.
//!
//! Bounds: [`MAX_KNOWN`] addresses, links and default routes each. Past that they are forgotten, and the worst is a
//! change reported that was none.

mod socket;
#[cfg(test)]
mod tests;
mod wire;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::io;
use std::net::IpAddr;
use std::os::fd::OwnedFd;
use std::task::{Context, Poll};

use if_addrs::IfOperStatus;
use rustix::net::netlink::SocketAddrNetlink;
use rustix::net::{AddressFamily, RecvFlags, SocketFlags, SocketType, bind, recvfrom, socket_with};
use tokio::io::unix::AsyncFd;
use wire::{DefaultRoute, Notice};

use super::Change;
pub(super) use socket::overflowed;

/// `RTMGRP_LINK`, `RTMGRP_IPV4_IFADDR`, `RTMGRP_IPV4_ROUTE`, `RTMGRP_IPV6_IFADDR`, `RTMGRP_IPV6_ROUTE`.
const GROUPS: u32 = 0x1 | 0x10 | 0x40 | 0x100 | 0x400;

/// Longest datagram taken, in bytes: what the kernel writes into one.
const MAX_DATAGRAM: usize = 32 * 1024;

/// Datagrams taken in a row before others get their turn.
const MAX_READS: usize = 64;

/// Addresses, links and default routes remembered, each: more than hosts of many containers have.
const MAX_KNOWN: usize = 16 * 1024;

/// A subscription to the kernel's messages.
#[derive(Debug)]
pub(super) struct Netlink {
    socket: AsyncFd<OwnedFd>,
    known: Known,
    /// Changes not handed out yet, none twice.
    waiting: VecDeque<Change>,
    buffer: Vec<u8>,
}

impl Netlink {
    /// Subscribes, in the network namespace of this thread.
    pub(super) fn open() -> io::Result<Self> {
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let socket = socket_with(AddressFamily::NETLINK, SocketType::RAW, flags, None)?;
        bind(&socket, &SocketAddrNetlink::new(0, GROUPS))?;
        let socket = register(socket)?;
        // In this order: what changes in between is told, and is no news then.
        let known = Known::of_this_host();
        Ok(Self { socket, known, waiting: VecDeque::new(), buffer: vec![0; MAX_DATAGRAM] })
    }

    /// The next change.
    pub(super) fn poll_change(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<Change>> {
        for _ in 0..MAX_READS {
            if let Some(change) = self.waiting.pop_front() {
                return Poll::Ready(Ok(change));
            }
            let mut ready = std::task::ready!(self.socket.poll_read_ready(cx))?;
            let (buffer, known) = (&mut self.buffer, &mut self.known);
            let Ok(changes) = ready.try_io(|socket| receive(socket.get_ref(), buffer, known)) else {
                continue;
            };
            for change in changes? {
                if !self.waiting.contains(&change) {
                    self.waiting.push_back(change);
                }
            }
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    }
}

#[allow(unsafe_code, reason = "tokio leaves it to us that the descriptor stays the same")]
fn register(socket: OwnedFd) -> io::Result<AsyncFd<OwnedFd>> {
    // SAFETY: an `OwnedFd` keeps its descriptor until it is dropped, which it is together with the `AsyncFd`.
    Ok(unsafe { AsyncFd::register(socket) }?)
}

fn receive(socket: &OwnedFd, buffer: &mut [u8], known: &mut Known) -> io::Result<Vec<Change>> {
    let (length, from) = match recvfrom(socket, &mut *buffer, RecvFlags::empty()) {
        Ok((length, _, from)) => (length, from),
        // The kernel had more to say than the socket holds.
        Err(rustix::io::Errno::NOBUFS) => {
            *known = Known::of_this_host();
            return Ok(vec![Change::Missed]);
        }
        Err(rustix::io::Errno::INTR) => return Ok(Vec::new()),
        Err(error) => return Err(error.into()),
    };
    let kernel =
        from.and_then(|from| SocketAddrNetlink::try_from(from).ok()).is_some_and(|from| from.pid() == 0);
    let datagram = buffer.get(..length).filter(|_| kernel).unwrap_or_default();
    Ok(wire::notices(datagram).into_iter().filter_map(|notice| known.learn(notice)).collect())
}

/// What the host's network looks like, as far as it has been told.
#[derive(Debug, Default)]
struct Known {
    /// Addresses that matter, with the interface each is on.
    addrs: BTreeSet<(u32, IpAddr)>,
    /// Whether an interface carries packets.
    links: BTreeMap<u32, bool>,
    /// Rank and way of each default route, by family.
    defaults: BTreeSet<(bool, Vec<u8>, Vec<u8>)>,
}

impl Known {
    fn of_this_host() -> Self {
        let mut known = Self::default();
        for interface in if_addrs::get_if_addrs().unwrap_or_default() {
            let Some(index) = interface.index else { continue };
            if matters(interface.ip()) {
                known.addrs.insert((index, interface.ip()));
            }
            if interface.oper_status == IfOperStatus::Up {
                known.links.insert(index, true);
            }
        }
        known
    }

    /// Takes in what the kernel says; a change if it was not known.
    fn learn(&mut self, notice: Notice) -> Option<Change> {
        match notice {
            Notice::Address { index, ip, usable } => self.address(index, ip, usable),
            Notice::Link { index, running } => self.link(index, running),
            Notice::Default(route) => self.default_route(route),
            Notice::Route => Some(Change::Route),
        }
    }

    fn address(&mut self, index: u32, ip: IpAddr, usable: bool) -> Option<Change> {
        if !matters(ip) {
            return None;
        }
        if self.addrs.len() >= MAX_KNOWN {
            self.addrs.clear();
        }
        let news = if usable {
            self.addrs.insert((index, ip))
        } else {
            self.routes_may_have_gone();
            self.addrs.remove(&(index, ip))
        };
        news.then_some(Change::Address { v6: ip.is_ipv6() })
    }

    /// The kernel takes IPv4 routes along with their interface or address, and does not say so.
    fn routes_may_have_gone(&mut self) {
        self.defaults.clear();
    }

    fn link(&mut self, index: u32, running: bool) -> Option<Change> {
        if !running {
            self.routes_may_have_gone();
        }
        if self.links.len() >= MAX_KNOWN {
            self.links.clear();
        }
        let news = self.links.insert(index, running) != Some(running);
        let used = self.addrs.range((index, FIRST_IP)..).next().is_some_and(|(i, _)| *i == index);
        (news && used).then_some(Change::Link)
    }

    fn default_route(&mut self, route: DefaultRoute) -> Option<Change> {
        let DefaultRoute { v6, rank, to, added, replaces } = route;
        if self.defaults.len() >= MAX_KNOWN {
            self.defaults.clear();
        }
        let key = (v6, rank, to);
        if !added {
            self.defaults.remove(&key);
            return Some(Change::DefaultRoute { v6 });
        }
        let news = !self.defaults.contains(&key);
        if replaces {
            self.defaults.retain(|(family, rank, _)| (*family, rank) != (key.0, &key.1));
        }
        self.defaults.insert(key);
        news.then_some(Change::DefaultRoute { v6 })
    }
}

/// The least of all addresses.
const FIRST_IP: IpAddr = IpAddr::V4(std::net::Ipv4Addr::UNSPECIFIED);

/// Whether other hosts beyond the link could know this one by the address.
fn matters(ip: IpAddr) -> bool {
    !ip.is_loopback()
        && match ip {
            IpAddr::V4(ip) => !ip.is_link_local(),
            IpAddr::V6(ip) => !ip.is_unicast_link_local(),
        }
}
