//! What a NAT does, in the field's words (RFC 4787 §4 and §5, RFC 5780), and the familiar class
//! names that follow from it.

use core::fmt;
use core::net::SocketAddr;

/// How the NAT chooses the external address of an internal one (RFC 4787 §4.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Mapping {
    /// There is no NAT: others see the local address.
    None,
    /// One external address, whatever the destination.
    EndpointIndependent,
    /// One external address per destination IP.
    AddressDependent,
    /// One external address per destination IP and port.
    AddressAndPortDependent,
    /// Depends on the destination, and it is not known whether on its IP alone.
    EndpointDependent,
    /// Not known.
    Unknown,
}

/// Which inbound packets the NAT or firewall lets through an open mapping (RFC 4787 §5).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Filtering {
    /// From anyone.
    EndpointIndependent,
    /// From IPs that were sent to.
    AddressDependent,
    /// From addresses and ports that were sent to.
    AddressAndPortDependent,
    /// Not known.
    Unknown,
}

/// How the NAT picks external ports.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum PortRule {
    /// The external port is the internal one.
    Preserving,
    /// Each new mapping gets a port a little above the one before.
    Sequential,
    /// No rule was recognised.
    Random,
    /// Not known.
    Unknown,
}

/// The familiar name of a NAT's behaviour as its peers experience it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum NatClass {
    /// No NAT and nothing filtered: anyone can reach the node.
    Direct,
    /// Behind a NAT, and anyone can reach the mapped address.
    FullCone,
    /// Reachable from IPs the node has sent to.
    RestrictedCone,
    /// Reachable from addresses and ports the node has sent to; also a stateful firewall without NAT.
    PortRestricted,
    /// The mapping depends on the destination.
    Symmetric,
    /// Not known.
    Unknown,
}

impl NatClass {
    /// The class of a mapping and a filtering behaviour. A mapping that depends on the destination makes
    /// it symmetric whatever the filter; otherwise the filter decides.
    #[must_use]
    pub const fn of(mapping: Mapping, filtering: Filtering) -> Self {
        match (mapping, filtering) {
            (
                Mapping::AddressDependent | Mapping::AddressAndPortDependent | Mapping::EndpointDependent,
                _,
            ) => Self::Symmetric,
            (Mapping::Unknown, _) | (_, Filtering::Unknown) => Self::Unknown,
            (Mapping::None, Filtering::EndpointIndependent) => Self::Direct,
            (Mapping::EndpointIndependent, Filtering::EndpointIndependent) => Self::FullCone,
            (_, Filtering::AddressDependent) => Self::RestrictedCone,
            (_, Filtering::AddressAndPortDependent) => Self::PortRestricted,
        }
    }
}

/// What is known about the NAT in front of a node.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Verdict {
    /// How external addresses are chosen.
    pub mapping: Mapping,
    /// What is let in.
    pub filtering: Filtering,
    /// How external ports are chosen.
    pub port_rule: PortRule,
    /// How sure, from 0 (a guess; never reported) to 1.
    pub confidence: f32,
    /// The external address that the verdict was reached with, where one was seen.
    pub mapped: Option<SocketAddr>,
}

impl Verdict {
    /// Nothing is known.
    pub const UNKNOWN: Self = Self {
        mapping: Mapping::Unknown,
        filtering: Filtering::Unknown,
        port_rule: PortRule::Unknown,
        confidence: 0.0,
        mapped: None,
    };

    /// The familiar name.
    #[must_use]
    pub const fn class(&self) -> NatClass {
        NatClass::of(self.mapping, self.filtering)
    }
}

macro_rules! words {
    ($type:ident { $($variant:ident => $word:literal = $code:literal,)+ }) => {
        impl $type {
            /// Every value, in the order of their bytes on the wire.
            pub const ALL: &'static [Self] = &[$(Self::$variant,)+];

            /// The word used in output.
            #[must_use]
            pub const fn word(self) -> &'static str {
                match self { $(Self::$variant => $word,)+ }
            }

            /// The byte used on the wire.
            #[must_use]
            pub const fn code(self) -> u8 {
                match self { $(Self::$variant => $code,)+ }
            }

            /// The value of a byte from the wire.
            #[must_use]
            pub const fn from_code(code: u8) -> Option<Self> {
                match code { $($code => Some(Self::$variant),)+ _ => None }
            }
        }

        impl fmt::Display for $type {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.pad(self.word())
            }
        }
    };
}

words!(Mapping {
    Unknown => "unknown" = 0,
    None => "none" = 1,
    EndpointIndependent => "endpoint-independent" = 2,
    AddressDependent => "address-dependent" = 3,
    AddressAndPortDependent => "address-and-port-dependent" = 4,
    EndpointDependent => "endpoint-dependent" = 5,
});
words!(Filtering {
    Unknown => "unknown" = 0,
    EndpointIndependent => "endpoint-independent" = 1,
    AddressDependent => "address-dependent" = 2,
    AddressAndPortDependent => "address-and-port-dependent" = 3,
});
words!(PortRule {
    Unknown => "unknown" = 0,
    Preserving => "preserving" = 1,
    Sequential => "sequential" = 2,
    Random => "random" = 3,
});
words!(NatClass {
    Unknown => "unknown" = 0,
    Direct => "direct" = 1,
    FullCone => "full-cone" = 2,
    RestrictedCone => "restricted-cone" = 3,
    PortRestricted => "port-restricted" = 4,
    Symmetric => "symmetric" = 5,
});
