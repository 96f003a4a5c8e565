//! What this node knows of its own place in the network.

use alloc::vec::Vec;
use core::net::{IpAddr, SocketAddr};

use crate::membership::MAX_CANDIDATES;
use crate::wire::addr::{Scope, scope};

/// Interface addresses taken note of; hosts with more have a routing problem of another kind.
const MAX_IPS: usize = 64;

/// The addresses of this node, as far as it knows them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Local {
    ips: Vec<IpAddr>,
    main: [Option<u16>; 2],
    other: [Option<u16>; 2],
    reflexive: Vec<SocketAddr>,
    mapped: Option<SocketAddr>,
    open: bool,
}

impl Local {
    /// The addresses of the host's interfaces, and the ports of the main and the other socket (IPv4, IPv6).
    /// Returns whether anything changed.
    pub fn set_network(
        &mut self,
        mut ips: Vec<IpAddr>,
        main: [Option<u16>; 2],
        other: [Option<u16>; 2],
    ) -> bool {
        ips.sort_unstable();
        ips.dedup();
        ips.truncate(MAX_IPS);
        let changed = (&self.ips, self.main, self.other) != (&ips, main, other);
        (self.ips, self.main, self.other) = (ips, main, other);
        changed
    }

    /// The addresses at which others see the main socket. Returns whether anything changed.
    pub fn set_reflexive(&mut self, mut reflexive: Vec<SocketAddr>) -> bool {
        reflexive.truncate(MAX_CANDIDATES);
        let changed = self.reflexive != reflexive;
        self.reflexive = reflexive;
        changed
    }

    /// The address of a port mapping by which anyone can reach the main socket. Returns whether it changed.
    pub fn set_mapped(&mut self, mapped: Option<SocketAddr>) -> bool {
        core::mem::replace(&mut self.mapped, mapped) != mapped
    }

    /// The address of a port mapping, while it is believed.
    #[must_use]
    pub const fn mapped(&self) -> Option<SocketAddr> {
        self.mapped
    }

    /// Whether anyone can reach the main socket at its reflexive addresses.
    pub const fn set_open(&mut self, open: bool) {
        self.open = open;
    }

    /// Whether the network has been described at all.
    #[must_use]
    pub fn is_known(&self) -> bool {
        self.main.iter().any(Option::is_some)
    }

    /// The addresses of the host's interfaces.
    #[must_use]
    pub fn ips(&self) -> &[IpAddr] {
        &self.ips
    }

    /// The ports of the main socket: IPv4, IPv6.
    #[must_use]
    pub const fn main(&self) -> [Option<u16>; 2] {
        self.main
    }

    /// The ports of the other socket: IPv4, IPv6.
    #[must_use]
    pub const fn other(&self) -> [Option<u16>; 2] {
        self.other
    }

    /// The addresses at which others see the main socket.
    #[must_use]
    pub fn reflexive(&self) -> &[SocketAddr] {
        &self.reflexive
    }

    /// Where others may reach this node, best first: a port mapping, as seen from outside, then global interface
    /// addresses, then private ones. Beside a port mapping, reflexive addresses that not everyone can reach are left out: who
    /// knocks there may spoil the NAT's mapping for those who can. Loopback only if there is nothing else: then all nodes that this
    /// one can meet are on the same machine.
    #[must_use]
    pub fn candidates(&self) -> Vec<SocketAddr> {
        let interfaces = || self.ips.iter().filter_map(|ip| Some(SocketAddr::new(*ip, self.main_port(*ip)?)));
        let seen = |wanted: Scope| self.reflexive.iter().copied().filter(move |a| scope(a.ip()) == wanted);
        let own = |wanted: Scope| interfaces().filter(move |a| scope(a.ip()) == wanted);
        let mut found: Vec<SocketAddr> = self.mapped.into_iter().collect();
        let beside =
            |addr: &SocketAddr| self.open || self.mapped.is_none_or(|m| m.is_ipv4() != addr.is_ipv4());
        for wanted in [Scope::Global, Scope::Private, Scope::Loopback] {
            if wanted == Scope::Loopback && !found.is_empty() {
                break;
            }
            for candidate in seen(wanted).filter(beside).chain(own(wanted)) {
                if !found.contains(&candidate) && found.len() < MAX_CANDIDATES {
                    found.push(candidate);
                }
            }
        }
        found
    }

    /// Whether nothing beyond this machine can be reached or reach it, as far as is known.
    #[must_use]
    pub fn loopback_only(&self) -> bool {
        let all = self.ips.iter().copied().chain(self.reflexive.iter().map(SocketAddr::ip));
        all.map(scope).all(|s| s < Scope::Private)
    }

    /// Whether `addr` is this node itself.
    #[must_use]
    pub fn is_own(&self, addr: SocketAddr) -> bool {
        let here = self.ips.contains(&addr.ip()) || scope(addr.ip()) == Scope::Loopback;
        (here && self.main_port(addr.ip()) == Some(addr.port()))
            || self.reflexive.contains(&addr)
            || self.mapped == Some(addr)
    }

    /// Whether a datagram from the main socket could go to `addr` at all: it has the family and a port.
    #[must_use]
    pub fn can_send_to(&self, addr: SocketAddr) -> bool {
        addr.port() != 0
            && self.main_port(addr.ip()).is_some()
            && !matches!(scope(addr.ip()), Scope::Unusable)
    }

    /// Whether it makes sense to try a stranger's candidate `addr`: it is not this node, and leads
    /// somewhere that is the same place for both.
    #[must_use]
    pub fn worth_dialling(&self, addr: SocketAddr) -> bool {
        let meaningful = match scope(addr.ip()) {
            Scope::Global | Scope::Private => true,
            Scope::Loopback => self.loopback_only(),
            Scope::LinkLocal | Scope::Unusable => false,
        };
        meaningful && self.can_send_to(addr) && !self.is_own(addr)
    }

    /// Whether `ip` looks like a neighbour's: it shares the first 24 bits (IPv4) or 64 bits (IPv6) with an address
    /// of this host. Masks are not known here; these are the usual ones.
    #[must_use]
    pub fn shares_network(&self, ip: IpAddr) -> bool {
        self.ips.iter().any(|own| match (own, ip) {
            (IpAddr::V4(a), IpAddr::V4(b)) => a.octets()[..3] == b.octets()[..3],
            (IpAddr::V6(a), IpAddr::V6(b)) => a.segments()[..4] == b.segments()[..4],
            (IpAddr::V4(_), IpAddr::V6(_)) | (IpAddr::V6(_), IpAddr::V4(_)) => false,
        })
    }

    fn main_port(&self, ip: IpAddr) -> Option<u16> {
        self.main[usize::from(ip.is_ipv6())]
    }
}
