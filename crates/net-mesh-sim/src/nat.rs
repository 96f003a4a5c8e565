//! What a NAT or firewall can be told to do, in RFC 4787's terms, and the usual kinds of it.
//!
//! A [`Nat`] is a description; the box that acts on it is in `nat/table.rs`. Translation concerns IPv4
//! only: IPv6 packets keep their addresses, and the box filters them as the firewall of RFC 6092 would,
//! with the same filtering rule. A [`Chain`] is what stands between a host and the public internet, nearest
//! box first.

use std::time::Duration;

use net_mesh_proto::nat::{Filtering, Mapping, PortRule};

mod router;
pub(crate) mod table;
#[cfg(test)]
mod tests;

pub use router::Router;

/// On how much of the remote endpoint a behaviour depends (RFC 4787 §4.1 for mapping, §5 for filtering).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Dependence {
    /// On nothing of it.
    Independent,
    /// On its IP.
    Address,
    /// On its IP and its port.
    AddressAndPort,
}

impl Dependence {
    /// All three, least dependent first.
    pub const ALL: [Self; 3] = [Self::Independent, Self::Address, Self::AddressAndPort];

    /// As a mapping behaviour.
    #[must_use]
    pub const fn mapping(self) -> Mapping {
        match self {
            Self::Independent => Mapping::EndpointIndependent,
            Self::Address => Mapping::AddressDependent,
            Self::AddressAndPort => Mapping::AddressAndPortDependent,
        }
    }

    /// As a filtering behaviour.
    #[must_use]
    pub const fn filtering(self) -> Filtering {
        match self {
            Self::Independent => Filtering::EndpointIndependent,
            Self::Address => Filtering::AddressDependent,
            Self::AddressAndPort => Filtering::AddressAndPortDependent,
        }
    }
}

/// What the box does to packets at all.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Translates IPv4 addresses, and filters.
    Translator,
    /// Filters only: hosts behind it have addresses of the network in front of it.
    Firewall,
    /// Drops all UDP in both directions.
    UdpBlock,
}

/// How external ports are picked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ports {
    /// The internal port where it is free, else a random one.
    Preserving,
    /// The port `step` above the one given out last, skipping those in use.
    Sequential {
        /// The distance; at least 1.
        step: u16,
    },
    /// Any free port.
    Random,
}

impl Ports {
    /// As a verdict names it.
    #[must_use]
    pub const fn rule(self) -> PortRule {
        match self {
            Self::Preserving => PortRule::Preserving,
            Self::Sequential { .. } => PortRule::Sequential,
            Self::Random => PortRule::Random,
        }
    }
}

/// The external IPs of a translator (RFC 4787 §4.1, "IP address pooling").
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pool {
    /// So many; one internal IP always gets the same.
    Paired(u8),
    /// So many; each new mapping gets any of them.
    Arbitrary(u8),
}

impl Pool {
    /// How many addresses; at least one.
    #[must_use]
    pub const fn size(self) -> u8 {
        match self {
            Self::Paired(0) | Self::Arbitrary(0) => 1,
            Self::Paired(n) | Self::Arbitrary(n) => n,
        }
    }
}

/// The private range inside a translator.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Inside {
    /// A home: one of a few usual ranges (192.168.1.0 and the like), so different homes do overlap.
    Home,
    /// A carrier's shared space, 100.64.0.0/10 (RFC 6598).
    Carrier,
}

/// The description of a NAT, a firewall, or a place where UDP is blocked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Nat {
    /// What it does at all. The other fields mean nothing for [`Kind::UdpBlock`]; mapping, ports, pool and
    /// hairpin mean nothing for [`Kind::Firewall`].
    pub kind: Kind,
    /// When two remote endpoints see the same external address.
    pub mapping: Dependence,
    /// Who may send in through a mapping, given whom packets went out to.
    pub filtering: Dependence,
    /// How external ports are picked.
    pub ports: Ports,
    /// The external ports it may use, both ends included.
    pub port_range: (u16, u16),
    /// A mapping, and the permission for one remote endpoint, ends after this long without an outbound packet.
    pub idle: Duration,
    /// A mapping ends this long after it was made, whatever the traffic.
    pub lifetime: Option<Duration>,
    /// Inbound packets count as use too (RFC 4787 REQ-6 calls for outbound and allows this).
    pub refresh_inbound: bool,
    /// Packets from inside to an external address of its own come back in, from the sender's external
    /// address (RFC 4787 REQ-9).
    pub hairpin: bool,
    /// Pairs of internal and remote endpoint it remembers. New ones are dropped when it is full.
    pub sessions: usize,
    /// Its external IPs.
    pub pool: Pool,
    /// An unsolicited inbound packet is remembered for 30 s, and an outbound packet that would be its answer
    /// gets another port than the one that was knocked at, as with Linux connection tracking.
    pub poison: bool,
    /// The addresses inside.
    pub inside: Inside,
    /// How it answers those inside who ask it for a port; not at all where `None`.
    pub router: Option<Router>,
    /// A port of the hosts inside that is open to anyone, as an operator opens one by hand; [`Kind::Firewall`] only.
    pub open: Option<u16>,
}

impl Nat {
    /// A translator with these two behaviours. Endpoint-independent mapping preserves ports, the others pick
    /// random ones; mappings idle out after 120 s; no hairpin; 65 536 sessions; one external IP.
    #[must_use]
    pub const fn new(mapping: Dependence, filtering: Dependence) -> Self {
        Self {
            kind: Kind::Translator,
            mapping,
            filtering,
            ports: match mapping {
                Dependence::Independent => Ports::Preserving,
                Dependence::Address | Dependence::AddressAndPort => Ports::Random,
            },
            port_range: (1024, 65_535),
            idle: Duration::from_secs(120),
            lifetime: None,
            refresh_inbound: false,
            hairpin: false,
            sessions: 65_536,
            pool: Pool::Paired(1),
            poison: false,
            inside: Inside::Home,
            router: None,
            open: None,
        }
    }

    /// Nothing between the host and the public internet.
    #[must_use]
    pub const fn direct() -> Chain {
        Chain(Vec::new())
    }

    /// One external address for all; anyone may send in.
    #[must_use]
    pub const fn full_cone() -> Self {
        Self::new(Dependence::Independent, Dependence::Independent)
    }

    /// One external address for all; IPs that were sent to may send in.
    #[must_use]
    pub const fn restricted_cone() -> Self {
        Self::new(Dependence::Independent, Dependence::Address)
    }

    /// One external address for all; endpoints that were sent to may send in.
    #[must_use]
    pub const fn port_restricted() -> Self {
        Self::new(Dependence::Independent, Dependence::AddressAndPort)
    }

    /// Another external address for each remote endpoint, with a random port; only it may send in.
    #[must_use]
    pub const fn symmetric() -> Self {
        Self::new(Dependence::AddressAndPort, Dependence::AddressAndPort)
    }

    /// A public address behind a stateful firewall: endpoints that were sent to may send in.
    #[must_use]
    pub const fn firewall() -> Self {
        Self { kind: Kind::Firewall, ..Self::port_restricted() }
    }

    /// A network that drops UDP.
    #[must_use]
    pub const fn udp_blocked() -> Self {
        Self { kind: Kind::UdpBlock, ..Self::port_restricted() }
    }

    /// A carrier's translator: address-and-port-dependent filtering, random ports, mappings idle out after
    /// 60 s, the shared address space inside, hairpin as RFC 6888 demands.
    #[must_use]
    pub const fn carrier(mapping: Dependence) -> Self {
        Self {
            ports: Ports::Random,
            idle: Duration::from_secs(60),
            hairpin: true,
            inside: Inside::Carrier,
            ..Self::new(mapping, Dependence::AddressAndPort)
        }
    }

    /// A port-restricted home NAT behind a carrier's symmetric one.
    #[must_use]
    pub fn cgn() -> Chain {
        Chain(vec![Self::port_restricted(), Self::carrier(Dependence::AddressAndPort)])
    }

    /// The same with other ports.
    #[must_use]
    pub const fn with_ports(mut self, ports: Ports) -> Self {
        self.ports = ports;
        self
    }

    /// The same, but giving away ports.
    #[must_use]
    pub const fn with_router(mut self, router: Router) -> Self {
        self.router = Some(router);
        self
    }

    /// The same with another idle timeout.
    #[must_use]
    pub const fn with_idle(mut self, idle: Duration) -> Self {
        self.idle = idle;
        self
    }

    /// The same, but hairpinning.
    #[must_use]
    pub const fn with_hairpin(mut self) -> Self {
        self.hairpin = true;
        self
    }

    /// The same, but poisoned by unsolicited packets.
    #[must_use]
    pub const fn with_poison(mut self) -> Self {
        self.poison = true;
        self
    }

    /// The same with other external IPs.
    #[must_use]
    pub const fn with_pool(mut self, pool: Pool) -> Self {
        self.pool = pool;
        self
    }

    /// Whether it gives hosts behind it addresses of their own.
    #[must_use]
    pub const fn translates(&self) -> bool {
        matches!(self.kind, Kind::Translator)
    }
}

/// The boxes between a host and the public internet, nearest to the host first. Empty: none.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Chain(pub Vec<Nat>);

impl From<Nat> for Chain {
    fn from(nat: Nat) -> Self {
        Self(vec![nat])
    }
}

impl<const N: usize> From<[Nat; N]> for Chain {
    fn from(nats: [Nat; N]) -> Self {
        Self(nats.into())
    }
}
