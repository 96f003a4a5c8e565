//! What is known of the node and its peers, as the operator sees it.

use std::fmt;
use std::net::SocketAddr;
use std::time::Duration;

use net_mesh_proto::id::NodeId;
use net_mesh_proto::liveness::Issue;
use net_mesh_proto::nat::{Filtering, Mapping, NatClass, PortRule};
use net_mesh_proto::route::Route;

/// How packets to a peer travel.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum PathKind {
    /// Straight to its address.
    Direct,
    /// Through other members.
    Relayed,
    /// Not at all, at present.
    None,
}

impl fmt::Display for PathKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Direct => "direct",
            Self::Relayed => "relayed",
            Self::None => "none",
        })
    }
}

/// The path to a peer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Path {
    /// Of which kind.
    pub kind: PathKind,
    /// The peer's UDP address, where packets go there straight.
    pub addr: Option<SocketAddr>,
    /// The members that relay, in order from here. Of a path that the peer set up over several of them, the
    /// nearest is known.
    pub via: Vec<NodeId>,
}

impl Path {
    /// No path.
    pub(crate) const NONE: Self = Self { kind: PathKind::None, addr: None, via: Vec::new() };

    /// The way that a session travels, by its route and the members that relay on it.
    pub(crate) fn of(route: Route, via: Vec<NodeId>) -> Self {
        match route {
            Route::Direct(addr) => Self { kind: PathKind::Direct, addr: Some(addr), via },
            Route::Relayed(_) => Self { kind: PathKind::Relayed, addr: None, via },
        }
    }
}

/// How a peer is doing, as far as this node can tell: its direct path, where there is one or was one that may
/// come back, or else the path there is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Health {
    /// Nothing speaks against it: what is sent arrives, or nothing was to be sent.
    Healthy,
    /// Something that should have come has not. Packets go another way as well, if there is one.
    Suspect,
    /// Nothing has come for seconds, however often it was asked for, or no session could be opened. Where
    /// the path is relayed, others still reach it.
    Failed,
}

impl From<net_mesh_proto::liveness::Health> for Health {
    fn from(health: net_mesh_proto::liveness::Health) -> Self {
        match health {
            net_mesh_proto::liveness::Health::Healthy => Self::Healthy,
            net_mesh_proto::liveness::Health::Suspect => Self::Suspect,
            net_mesh_proto::liveness::Health::Failed => Self::Failed,
        }
    }
}

impl fmt::Display for Health {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Healthy => "healthy",
            Self::Suspect => "suspect",
            Self::Failed => "failed",
        })
    }
}

/// Another member of the mesh.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct PeerInfo {
    /// Its id.
    pub node_id: NodeId,
    /// The name it goes by. Names need not be unique.
    pub name: String,
    /// What it says of its NAT.
    pub nat: NatClass,
    /// Whether anyone can reach it by a port mapping of its router, or by a port opened by hand; the class above says so
    /// too.
    pub port_mapped: bool,
    /// How packets get there.
    pub path: Path,
    /// How long the path has been that; `None` if there was never one.
    pub since: Option<Duration>,
    /// The smoothed round-trip time of the path.
    pub rtt: Option<Duration>,
    /// The share of packets lost on the path lately, from 0 to 1, once enough have passed.
    pub loss: Option<f32>,
    /// How it is doing.
    pub health: Health,
    /// What is wrong with the network between here and there, where it has a name.
    pub issues: Vec<Issue>,
    /// Bytes sent to it in UDP payloads over the present session.
    pub tx_bytes: u64,
    /// Bytes received from it in UDP payloads over the present session.
    pub rx_bytes: u64,
}

/// A port that was opened by hand, in the rules of a cloud or the settings of a router.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct OpenPort {
    /// The address at which members see the main socket.
    pub addr: SocketAddr,
    /// The member that reached it last, from a port to which this node had never sent.
    pub reached_by: NodeId,
}

/// What is known of the NAT in front of this node.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Nat {
    /// The familiar name of what others experience.
    pub class: NatClass,
    /// The familiar name of what the NAT does by itself, where a port mapping or an open port leads through it.
    pub class_without_mapping: Option<NatClass>,
    /// Where anyone can reach this node although the NAT or firewall lets nobody in elsewhere: the main port was opened by
    /// hand.
    pub open_port: Option<OpenPort>,
    /// How external addresses are chosen (RFC 4787 §4.1).
    pub mapping: Mapping,
    /// What is let in (RFC 4787 §5).
    pub filtering: Filtering,
    /// How external ports are chosen.
    pub port_rule: PortRule,
    /// How sure the verdict is, from 0 to 1.
    pub confidence: f32,
    /// How long ago it was reached.
    pub age: Option<Duration>,
    /// What is missing for a verdict, where there is none.
    pub missing: Option<String>,
}

/// Whether UDP works.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Udp {
    /// Something came back.
    Works,
    /// Nothing has come back for several seconds, from anyone.
    Blocked,
    /// Nobody was asked yet, or the answers may still come.
    Unknown,
}

impl fmt::Display for Udp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Works => "works",
            Self::Blocked => "blocked",
            Self::Unknown => "unknown",
        })
    }
}

/// What a node has carried for others.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Relayed {
    /// Circuits through it at present.
    pub circuits: usize,
    /// Datagrams forwarded since the start.
    pub packets: u64,
    /// Their bytes, without the headers of relaying.
    pub bytes: u64,
    /// Datagrams that were not forwarded because they were above the limits.
    pub limited: u64,
}

/// What this node knows of itself.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Status {
    /// Its id.
    pub node_id: NodeId,
    /// Its name.
    pub name: String,
    /// The addresses it listens on.
    pub listen: Vec<SocketAddr>,
    /// The addresses others see it at.
    pub reflexive: Vec<SocketAddr>,
    /// Its NAT.
    pub nat: Nat,
    /// The port of the router; `None` where it is not asked for one.
    pub port_mapping: Option<crate::PortMapping>,
    /// How many other members are known.
    pub peers: usize,
    /// Whether UDP works.
    pub udp: Udp,
    /// What is wrong with the network and what to do, where something is.
    pub problem: Option<String>,
    /// What it carries for others; `None` where it does not.
    pub relay: Option<Relayed>,
    /// What was discarded since the start: reason and count, without the zeros.
    pub drops: Vec<(&'static str, u64)>,
}

/// The answer to a ping.
#[derive(Clone, Debug)]
pub struct Pong {
    /// How long it took.
    pub rtt: Duration,
    /// Which way it went.
    pub path: Path,
}
