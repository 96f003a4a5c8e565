//! What may the outside look at?

use alloc::vec::Vec;
use core::net::SocketAddr;
use core::time::Duration;

use super::traversal::Traversal;
use super::{Node, Udp};
use crate::classify::evidence::PortsSeen;
use crate::drops::DropCounts;
use crate::id::NodeId;
use crate::liveness::mapping::Lifetimes;
use crate::membership::{Member, Record};
use crate::nat::Verdict;
use crate::peer::dialer::Start;
use crate::peer::{Local, Session};
use crate::reflex::{Asked, Told};
use crate::rendezvous::{Attempt, Rendezvous};
use crate::route::Route;
use crate::time::Time;

/// Another member, as this node knows it.
#[derive(Clone, Copy, Debug)]
pub struct MemberView<'a> {
    /// What it says of itself.
    pub record: &'a Record,
    member: &'a Member,
}

impl MemberView<'_> {
    /// How long ago it said so, to the second.
    #[must_use]
    pub fn age(&self, now: Time) -> Duration {
        self.member.age(now)
    }
}

/// How much a node remembers of what others can make it remember; each has a bound.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sizes {
    /// Members, at most [`MAX_MEMBERS`](crate::membership::MAX_MEMBERS).
    pub members: usize,
    /// Nodes remembered as gone, at most as many.
    pub buried: usize,
    /// Connections, at most [`MAX_CONNECTIONS`](crate::peer::arbiter::MAX_CONNECTIONS) to a peer.
    pub connections: usize,
    /// Attempts to connect, at most [`MAX_DIALS`](crate::peer::dialer::MAX_DIALS).
    pub dials: usize,
    /// Ways of sessions, at most [`MAX_WAYS`](crate::path::MAX_WAYS) for each.
    pub ways: usize,
    /// Circuits of others through this node, at most as many as its limits say.
    pub carried: usize,
    /// Tokens given to others who classify themselves, at most 64.
    pub tokens: usize,
    /// Members whose port mappings are being proven, at most 32.
    pub proving: usize,
}

impl Node {
    /// This node's id.
    #[must_use]
    pub const fn node_id(&self) -> NodeId {
        self.id
    }

    /// This node's own record, as it was last published.
    #[must_use]
    pub fn own_record(&self) -> Option<&Record> {
        self.membership.own()
    }

    /// The other members, by id.
    pub fn members(&self) -> impl Iterator<Item = MemberView<'_>> + '_ {
        self.membership.members().values().map(|member| MemberView { record: member.record(), member })
    }

    /// One other member.
    #[must_use]
    pub fn member(&self, peer: &NodeId) -> Option<MemberView<'_>> {
        let member = self.membership.members().get(peer)?;
        Some(MemberView { record: member.record(), member })
    }

    /// The sessions, by the peer's id.
    pub fn sessions(&self) -> impl Iterator<Item = Session> + '_ {
        self.arbiter.sessions()
    }

    /// The way the session with `peer` travels, and the members that relay on it, in order from here. Who ends a
    /// circuit knows its last hop only. `None` without a session, or while it has no way.
    #[must_use]
    pub fn path(&self, peer: &NodeId) -> Option<(Route, Vec<NodeId>)> {
        let route = self.reach.paths.current(peer)?;
        Some((route, self.via(route)))
    }

    /// The way the session with `peer` travels; `None` without a session, or while it has no way.
    #[must_use]
    pub fn route(&self, peer: &NodeId) -> Option<Route> {
        self.reach.paths.current(peer)
    }

    /// The attempts at direct ways that are remembered, of all peers, those under way among them; in no order
    /// of time. At most [`HISTORY`](crate::rendezvous::HISTORY) for each member, and those under way.
    pub fn attempts(&self) -> impl Iterator<Item = &Attempt> {
        self.reach.rendezvous.iter().flat_map(Rendezvous::attempts)
    }

    /// How many circuits of others go through this node.
    #[must_use]
    pub fn carried(&self) -> usize {
        self.reach.relay.carried()
    }

    /// What is known of the NAT in front of this node, for how long, and what was missing where an axis
    /// stayed unknown.
    #[must_use]
    pub fn verdict(&self, now: Time) -> (Verdict, Option<Duration>, Option<&'static str>) {
        self.current_verdict(now)
    }

    /// The addresses at which others see the main socket, most supported first.
    #[must_use]
    pub fn reflexive(&self) -> Vec<SocketAddr> {
        self.local.reflexive().to_vec()
    }

    /// What this node asked for reflexive addresses and others asked of it, and what came of it; all zero where NAT
    /// traversal is off.
    #[must_use]
    pub fn reflex_counts(&self) -> (Asked, Told) {
        self.traversal.as_ref().map(Traversal::reflex_counts).unwrap_or_default()
    }

    /// Whether anything comes back over UDP.
    #[must_use]
    pub fn udp(&self, now: Time) -> Udp {
        let mut sessions = self.arbiter.sessions().peekable();
        // Sessions outlive the network for minutes, so that they can go on when it is back.
        if sessions.peek().is_some() && sessions.all(|session| self.is_cut_off(now, &session.peer)) {
            return Udp::Silent;
        }
        self.silence.verdict(now, self.is_alone())
    }

    /// Whether there is a session with `peer`, and no way of it works at present.
    #[must_use]
    pub fn is_cut_off(&self, now: Time, peer: &NodeId) -> bool {
        self.reach.paths.is_cut_off(now, peer)
    }

    pub(super) fn is_alone(&self) -> bool {
        self.arbiter.sessions().next().is_none()
    }

    /// This node's own place in the network.
    #[must_use]
    pub const fn local(&self) -> &Local {
        &self.local
    }

    /// What has become of the addresses to start from.
    #[must_use]
    pub fn starts(&self) -> Vec<Start> {
        self.dialer.starts(&self.local, self.membership.members(), &self.arbiter)
    }

    /// The external ports at which the NAT has shown the sockets of the last classification.
    #[must_use]
    pub fn external_ports(&self) -> Option<PortsSeen> {
        self.traversal.as_ref().and_then(Traversal::external_ports)
    }

    /// What was learned of how long mappings last.
    #[must_use]
    pub const fn lifetimes(&self) -> &Lifetimes {
        self.reach.paths.lifetimes()
    }

    /// What was discarded since the node started.
    #[must_use]
    pub fn drops(&self) -> DropCounts {
        let mut drops = self.drops;
        drops.add(&self.unreported);
        drops
    }

    /// How much is remembered, for holding it to its bounds.
    #[must_use]
    pub fn sizes(&self) -> Sizes {
        Sizes {
            members: self.membership.members().len(),
            buried: self.membership.buried(),
            connections: self.arbiter.connections(),
            dials: self.dialer.attempts(),
            ways: self.reach.paths.ways(),
            carried: self.reach.relay.carried(),
            tokens: self.traversal.as_ref().map_or(0, Traversal::tokens),
            proving: self.port_map.served(),
        }
    }
}
