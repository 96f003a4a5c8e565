//! Is the router to open a port, and can others reach us there?
//!
//! A port of the router is asked for in the protocols that routers speak (PCP, RFC 6887; NAT-PMP, RFC 6886; UPnP-IGD), one after
//! the other. Nothing here speaks them: a [`Request`] goes out, an [`Answer`] comes back.
//!
//! **A router is not believed.** It may stand behind another NAT, forget, or grant what it does not do. A mapping is
//! therefore *proven*: a member elsewhere is asked to send to it ([`wire::Ask`]) from a port that this node has never
//! sent to, and something must arrive. Only then is the address told to others, and the node shown as what
//! they experience: one that anyone can reach.
//!
//! | file | the question it answers |
//! |---|---|
//! | `mapper` | when is which router asked for what? |
//! | `search` | one protocol after the other: which router maps a port? |
//! | `held` | what follows from having a mapping: renewal, proof, and its end |
//! | `debts` | what has the router still to answer although nobody uses it any more? |
//! | `belief` | whether a mapping has been proven, and who is asked to |
//! | `open` | is the main port open to strangers although nothing else is? |
//! | `prover` | the other role: sending to a member's mapping |
//! | [`wire`] | the two messages |
//!
//! # When
//! At the start and when the network changes, [`MIN_PAUSE`] apart at least, and twice as long after each search that came to
//! nothing; a router that does not answer or refuses is otherwise left alone for [`REST`]. Nothing is searched for while the router has
//! still to answer a deletion. What is held is asked for again at half of its lease, and every [`CHECK`] at least: the same request
//! renews, brings back what a router has forgotten, and tells by its epoch that it had.

mod belief;
mod debts;
mod held;
mod mapper;
mod open;
mod prover;
mod search;
#[cfg(test)]
mod tests;
pub mod wire;

use alloc::string::String;
use core::net::{IpAddr, SocketAddr};
use core::time::Duration;

pub use belief::Witness;
pub use mapper::PortMapper;
pub use open::OpenPort;
pub use prover::Prover;

use crate::id::NodeId;
use crate::time::Time;

/// The least time between two searches for a router: networks that come up change several times.
pub const MIN_PAUSE: Duration = Duration::from_secs(10);

/// How long a router that does not answer, or refuses, or whose mapping is of no use, is left alone; unless the network
/// changes.
pub const REST: Duration = Duration::from_secs(1800);

/// How often what is held is asked for again at least. A router that restarts forgets; one small
/// exchange in the local network a minute is a price that nobody notices.
pub const CHECK: Duration = Duration::from_secs(60);

/// The same for UPnP-IGD, whose exchange is an HTTP request and may make a small router write.
pub const CHECK_UPNP: Duration = Duration::from_secs(300);

/// How long a proof is good for.
pub const PROVE_AGAIN: Duration = Duration::from_secs(900);

/// The shortest lease that is taken: below it nearly every packet would be about renewal.
pub const MIN_LEASE: Duration = Duration::from_secs(10);

/// What is asked for: the lease that RFC 6886 §3.3 recommends.
pub const LEASE: Duration = Duration::from_secs(7200);

/// The leases that may be asked for.
pub const LEASES: (Duration, Duration) = (Duration::from_secs(20), Duration::from_secs(86_400));

/// A protocol in which routers are asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Protocol {
    /// Port Control Protocol, RFC 6887.
    Pcp,
    /// NAT Port Mapping Protocol, RFC 6886.
    NatPmp,
    /// UPnP Internet Gateway Device, versions 1 and 2.
    UpnpIgd,
}

impl Protocol {
    /// All, in the order in which they are tried: the newest first, and last the one that needs a search.
    pub const ALL: [Self; 3] = [Self::Pcp, Self::NatPmp, Self::UpnpIgd];

    /// The name used in output.
    #[must_use]
    pub const fn word(self) -> &'static str {
        match self {
            Self::Pcp => "PCP",
            Self::NatPmp => "NAT-PMP",
            Self::UpnpIgd => "UPnP-IGD",
        }
    }
}

impl core::fmt::Display for Protocol {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.pad(self.word())
    }
}

/// What the operator says about it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Settings {
    /// The lease to ask for, within [`LEASES`]; routers may grant another.
    pub lease: Duration,
    /// Any number that is the same whenever this node starts: the external port to wish for is chosen by it, so that a node
    /// that crashed is given its old mapping again, and no second one beside it. `None`: chosen at random.
    pub wish: Option<u16>,
}

impl Default for Settings {
    fn default() -> Self {
        Self { lease: LEASE, wish: None }
    }
}

/// A request, as the machine numbers them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RequestId(pub u64);

/// Something to ask the router.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Request {
    /// Map a UDP port of the router to this host. The same again renews.
    Map {
        /// In which protocol.
        protocol: Protocol,
        /// The port of this host.
        internal: u16,
        /// The port of the router that is wished for.
        external: u16,
        /// For how long; zero: until it is deleted (UPnP-IGD only).
        lease: Duration,
    },
    /// Delete a mapping; nobody else's: nothing is asked where this host has another router or address by now.
    Release {
        /// In which protocol.
        protocol: Protocol,
        /// The router that granted it.
        gateway: IpAddr,
        /// The address of this host to which it leads.
        host: IpAddr,
        /// The port of this host.
        internal: u16,
        /// The port of the router, as granted.
        external: u16,
    },
}

/// What became of a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    /// It is mapped.
    Mapped(Granted),
    /// It is deleted.
    Released,
    /// Neither.
    Failed {
        /// Why.
        failure: Failure,
        /// For the log: printable, at most 200 bytes.
        detail: String,
    },
}

/// A mapping as the router granted it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Granted {
    /// The router.
    pub gateway: IpAddr,
    /// The address of this host to which it leads.
    pub host: IpAddr,
    /// The address that the router says is open.
    pub external: SocketAddr,
    /// For how long; `None`: until it is deleted.
    pub lease: Option<Duration>,
    /// For how many seconds the router has had its tables (RFC 6886 §3.6, RFC 6887 §8.5).
    pub epoch: Option<u32>,
}

/// Why a router did not do what it was asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Failure {
    /// There is no router, or it does not answer in this protocol.
    NoRouter,
    /// It answers, and does not speak this protocol, or this part of it.
    Unsupported,
    /// It refuses.
    Refused,
    /// The external port is another host's (UPnP error 718).
    Conflict,
    /// It makes mappings without end only (UPnP error 725).
    PermanentOnly,
    /// Both ports must be the same (UPnP error 724).
    SamePort,
    /// It has no more to give.
    Exhausted,
    /// Its answer makes no sense, or never ends.
    Broken,
    /// This host cannot send.
    Local,
}

impl Failure {
    /// All of them.
    pub const ALL: [Self; 9] = [
        Self::NoRouter,
        Self::Unsupported,
        Self::Refused,
        Self::Conflict,
        Self::PermanentOnly,
        Self::SamePort,
        Self::Exhausted,
        Self::Broken,
        Self::Local,
    ];

    /// A clause for output.
    #[must_use]
    pub const fn words(self) -> &'static str {
        match self {
            Self::NoRouter => "no router answers",
            Self::Unsupported => "the router does not support it",
            Self::Refused => "the router refuses",
            Self::Conflict => "the ports asked for are taken",
            Self::PermanentOnly => "the router makes mappings without end only, and then does not",
            Self::SamePort => "the router wants both ports to be the same, and then refuses",
            Self::Exhausted => "the router has no ports left",
            Self::Broken => "the router's answers make no sense",
            Self::Local => "this host cannot send to the router",
        }
    }

    /// A short word for metrics.
    #[must_use]
    pub const fn word(self) -> &'static str {
        match self {
            Self::NoRouter => "no_router",
            Self::Unsupported => "unsupported",
            Self::Refused => "refused",
            Self::Conflict => "conflict",
            Self::PermanentOnly => "permanent_only",
            Self::SamePort => "same_port",
            Self::Exhausted => "exhausted",
            Self::Broken => "broken",
            Self::Local => "local",
        }
    }
}

/// Why a mapping that a router granted is of no use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Useless {
    /// The router's own external address is private or shared (RFC 1918, RFC 6598).
    Private,
    /// Members see this node at another address than the router's.
    NotWhereSeen(IpAddr),
    /// What members sent to it did not arrive.
    Unreached,
}

impl core::fmt::Display for Useless {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        match self {
            Self::Private => {
                f.write_str("the router's external address is not public: there is another NAT beyond it")
            }
            Self::NotWhereSeen(ip) => write!(
                f,
                "members see this node at {ip}, not at the router's external address: there is another NAT beyond it"
            ),
            Self::Unreached => {
                f.write_str("the router granted it, but what members send there does not arrive")
            }
        }
    }
}

/// How things stand.
#[derive(Clone, Debug, PartialEq)]
pub enum Status {
    /// Nothing is asked for: this host has no private IPv4 address, so there is no NAT of its network to ask.
    NotNeeded,
    /// A router is being asked.
    Asking,
    /// None answers.
    NoRouter,
    /// One answers, and does not map.
    Refused {
        /// In which protocol.
        protocol: Protocol,
        /// Why.
        failure: Failure,
    },
    /// What it maps is of no use, and has been given back.
    Useless {
        /// In which protocol.
        protocol: Protocol,
        /// The router.
        gateway: IpAddr,
        /// The address that the router says is open.
        external: SocketAddr,
        /// Why.
        why: Useless,
    },
    /// A port is mapped.
    Mapped {
        /// In which protocol.
        protocol: Protocol,
        /// The router.
        gateway: IpAddr,
        /// The address that the router says is open.
        external: SocketAddr,
        /// When the lease ends, if it does.
        expires: Option<Time>,
        /// Which member has reached it; others are told of the address from then on.
        proven_by: Option<NodeId>,
    },
    /// The node is leaving, and has given back what it held.
    Left,
}

/// Something that happened, for the operator.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Report {
    /// No router maps ports here.
    NoRouter,
    /// A router answers, and does not map.
    Refused {
        /// In which protocol.
        protocol: Protocol,
        /// Why.
        failure: Failure,
        /// What it said.
        detail: String,
    },
    /// A port is mapped.
    Mapped {
        /// In which protocol.
        protocol: Protocol,
        /// What was granted.
        granted: Granted,
    },
    /// The lease runs anew.
    Renewed {
        /// In which protocol.
        protocol: Protocol,
        /// What was granted.
        granted: Granted,
        /// The router had forgotten the mapping, and made it again.
        forgotten: bool,
    },
    /// A lease could not be renewed; it is tried again.
    NotRenewed {
        /// The address.
        external: SocketAddr,
        /// Why.
        failure: Failure,
        /// What the router said.
        detail: String,
    },
    /// A member reached the mapped address: others are told of it.
    Proven {
        /// The address.
        external: SocketAddr,
        /// Who.
        by: NodeId,
    },
    /// The mapping is no more: others are no longer told of it.
    Lost {
        /// The address.
        external: SocketAddr,
        /// Why; a clause.
        why: &'static str,
    },
    /// The mapping is of no use, and is given back.
    Useless {
        /// The address.
        external: SocketAddr,
        /// Why.
        why: Useless,
    },
    /// A mapping was deleted on the router.
    Released {
        /// The address.
        external: SocketAddr,
    },
    /// The router did not delete it: it stays until its lease ends.
    NotReleased {
        /// The address.
        external: SocketAddr,
        /// Why.
        failure: Failure,
        /// What it said.
        detail: String,
        /// It has no end: someone has to delete it by hand.
        for_ever: bool,
    },
    /// Members who were never sent to reached the main socket where others see it: it was opened by hand, and others
    /// are told.
    Open {
        /// The address.
        addr: SocketAddr,
        /// Who.
        by: NodeId,
    },
    /// That is not so any more.
    Closed {
        /// The address.
        addr: SocketAddr,
    },
}

/// Something for the node to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// Ask the router; the answer goes to [`PortMapper::answered`].
    Router {
        /// The name of the request.
        id: RequestId,
        /// What to ask.
        request: Request,
    },
    /// Send a control message over the session with `peer`.
    ToPeer {
        /// To whom.
        peer: NodeId,
        /// What.
        message: wire::Message,
    },
    /// [`PortMapper::believed`] or [`OpenPort::open`] has changed.
    Believed,
    /// Tell the operator.
    Report(Report),
}
