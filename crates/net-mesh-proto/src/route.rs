//! How packets of a session travel from here.

use core::fmt;
use core::net::SocketAddr;

/// A circuit through other members that ends at this node, as the node numbers them. Never reused while
/// a node runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct CircuitId(pub u64);

/// A way to a peer: where packets go to, and where they come from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Route {
    /// Straight to and from this UDP address.
    Direct(SocketAddr),
    /// Through other members, over this circuit.
    Relayed(CircuitId),
}

impl Route {
    /// The peer's address, where packets go there straight.
    #[must_use]
    pub const fn direct(self) -> Option<SocketAddr> {
        match self {
            Self::Direct(addr) => Some(addr),
            Self::Relayed(_) => None,
        }
    }

    /// The circuit, where there is one.
    #[must_use]
    pub const fn circuit(self) -> Option<CircuitId> {
        match self {
            Self::Direct(_) => None,
            Self::Relayed(circuit) => Some(circuit),
        }
    }
}

impl fmt::Display for Route {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Direct(addr) => write!(f, "{addr}"),
            Self::Relayed(circuit) => write!(f, "circuit {}", circuit.0),
        }
    }
}
