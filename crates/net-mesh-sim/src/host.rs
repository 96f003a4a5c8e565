//! A host: where it is attached and its addresses there, its access link, and which of its ports are open.
//!
//! A host may be attached to several networks; packets leave through the first that is plugged in, from its address
//! there, and come in at any. All share one access link. Sockets bound to no address in particular outlive it all.

use std::collections::BTreeMap;
use std::fmt;
use std::net::{IpAddr, SocketAddr};

use net_mesh_proto::rng::Rng;

use crate::link::{Line, Link};
use crate::topology::RealmId;

/// A host of a simulated internet.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct HostId(pub u32);

/// Which address families a host has.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Families {
    /// IPv4 only.
    #[default]
    V4,
    /// IPv6 only.
    V6,
    /// Both.
    Dual,
}

impl Families {
    /// Whether IPv4 is among them.
    #[must_use]
    pub const fn v4(self) -> bool {
        matches!(self, Self::V4 | Self::Dual)
    }

    /// Whether IPv6 is among them.
    #[must_use]
    pub const fn v6(self) -> bool {
        matches!(self, Self::V6 | Self::Dual)
    }
}

/// Why a port could not be opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BindError {
    /// The port is taken, or no port is left.
    InUse,
    /// The host does not have the address.
    NoSuchAddress,
}

impl fmt::Display for BindError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::InUse => "the port is in use",
            Self::NoSuchAddress => "the host does not have this address",
        })
    }
}

impl std::error::Error for BindError {}

/// Where a host is attached, and its addresses there.
#[derive(Debug)]
pub(crate) struct Interface {
    pub(crate) realm: RealmId,
    pub(crate) ips: Vec<IpAddr>,
    pub(crate) plugged: bool,
}

#[derive(Debug)]
pub(crate) struct Host {
    pub(crate) name: String,
    /// The first is where packets leave, if it is plugged in; else the first that is.
    interfaces: Vec<Interface>,
    /// Addresses that lead nowhere for anybody else.
    useless: Vec<IpAddr>,
    /// The addresses it has now, those where packets leave first.
    ips: Vec<IpAddr>,
    pub(crate) up: Line,
    pub(crate) down: Line,
    /// Open ports per family, with the address each is bound to.
    sockets: BTreeMap<(bool, u16), IpAddr>,
    rng: Rng,
}

/// The ports a host gives out when asked for any: IANA's dynamic range as Linux narrows it.
const EPHEMERAL: (u16, u16) = (32_768, 60_999);

impl Host {
    pub(crate) fn new(name: String, realm: RealmId, ips: Vec<IpAddr>, rng: &Rng) -> Self {
        Self {
            name,
            interfaces: vec![Interface { realm, ips: ips.clone(), plugged: true }],
            useless: Vec::new(),
            ips,
            up: Line::new(Link::default(), rng.fork("up")),
            down: Line::new(Link::default(), rng.fork("down")),
            sockets: BTreeMap::new(),
            rng: rng.fork("ports"),
        }
    }

    /// The addresses it has now.
    pub(crate) fn ips(&self) -> &[IpAddr] {
        &self.ips
    }

    /// The network that its packets leave through, also while it is not plugged in.
    pub(crate) fn realm(&self) -> RealmId {
        self.outgoing().unwrap_or(&self.interfaces[0]).realm
    }

    fn outgoing(&self) -> Option<&Interface> {
        self.interfaces.iter().find(|interface| interface.plugged)
    }

    /// The network in which it has `ip`, if it is plugged in there.
    pub(crate) fn realm_of(&self, ip: IpAddr) -> Option<RealmId> {
        let plugged = self.interfaces.iter().filter(|interface| interface.plugged);
        plugged.filter(|interface| interface.ips.contains(&ip)).map(|interface| interface.realm).next()
    }

    pub(crate) fn add_useless(&mut self, ip: IpAddr) {
        self.useless.push(ip);
        self.refresh();
    }

    /// Attaches it to one more network.
    pub(crate) fn attach(&mut self, realm: RealmId, ips: Vec<IpAddr>) {
        self.interfaces.push(Interface { realm, ips, plugged: true });
        self.refresh();
    }

    /// Takes it off a network, unless it is the only one; its addresses there.
    pub(crate) fn detach(&mut self, realm: RealmId) -> Vec<IpAddr> {
        let at = self.interfaces.iter().position(|interface| interface.realm == realm);
        let Some(at) = at.filter(|_| self.interfaces.len() > 1) else { return Vec::new() };
        let gone = self.interfaces.remove(at);
        self.refresh();
        gone.ips
    }

    pub(crate) fn is_attached(&self, realm: RealmId) -> bool {
        self.interfaces.iter().any(|interface| interface.realm == realm)
    }

    /// Lets packets leave through `realm` from now on.
    pub(crate) fn prefer(&mut self, realm: RealmId) {
        self.interfaces.sort_by_key(|interface| interface.realm != realm);
        self.refresh();
    }

    /// Plugs it into `realm`, or pulls the plug.
    pub(crate) fn set_plugged(&mut self, realm: RealmId, plugged: bool) {
        let there = self.interfaces.iter_mut().filter(|interface| interface.realm == realm);
        there.for_each(|interface| interface.plugged = plugged);
        self.refresh();
    }

    fn refresh(&mut self) {
        let plugged = self.interfaces.iter().filter(|interface| interface.plugged);
        self.ips = plugged.flat_map(|interface| &interface.ips).chain(&self.useless).copied().collect();
    }

    /// Opens a port; any where it is 0. The IP may be unspecified.
    pub(crate) fn bind(&mut self, addr: SocketAddr) -> Result<SocketAddr, BindError> {
        let v6 = addr.is_ipv6();
        let known = self.ips.contains(&addr.ip()) || addr.ip().is_loopback();
        let mut all = self.interfaces.iter().flat_map(|interface| &interface.ips);
        let any = addr.ip().is_unspecified() && all.any(|ip| ip.is_ipv6() == v6);
        if !known && !any {
            return Err(BindError::NoSuchAddress);
        }
        let port = if addr.port() == 0 { self.free_port(v6)? } else { addr.port() };
        if self.sockets.contains_key(&(v6, port)) {
            return Err(BindError::InUse);
        }
        self.sockets.insert((v6, port), addr.ip());
        Ok(SocketAddr::new(addr.ip(), port))
    }

    fn free_port(&mut self, v6: bool) -> Result<u16, BindError> {
        let (low, high) = EPHEMERAL;
        let span = high - low + 1;
        let start = u16::try_from(self.rng.below(u64::from(span))).unwrap_or(0);
        (0..span)
            .map(|i| low + u16::try_from((u32::from(start) + u32::from(i)) % u32::from(span)).unwrap_or(0))
            .find(|port| !self.sockets.contains_key(&(v6, *port)))
            .ok_or(BindError::InUse)
    }

    pub(crate) fn close(&mut self, local: SocketAddr) {
        self.sockets.remove(&(local.is_ipv6(), local.port()));
    }

    /// Whether a socket takes packets for `local`.
    pub(crate) fn listens(&self, local: SocketAddr) -> bool {
        self.sockets
            .get(&(local.is_ipv6(), local.port()))
            .is_some_and(|ip| ip.is_unspecified() || *ip == local.ip())
    }

    /// The source address a packet from the socket `local` to `dst` bears.
    pub(crate) fn source(&self, local: SocketAddr, dst: SocketAddr) -> Option<SocketAddr> {
        if local.is_ipv6() != dst.is_ipv6() || !self.sockets.contains_key(&(local.is_ipv6(), local.port())) {
            return None;
        }
        if dst.ip().is_loopback() {
            return Some(SocketAddr::new(dst.ip(), local.port()));
        }
        let outgoing = self.outgoing()?;
        let ip = if local.ip().is_unspecified() {
            *outgoing.ips.iter().find(|ip| ip.is_ipv6() == dst.is_ipv6())?
        } else {
            *self.ips.iter().find(|ip| **ip == local.ip())?
        };
        Some(SocketAddr::new(ip, local.port()))
    }
}
