//! A dialer with everything that it looks at, and time that passes when a test says so.

use alloc::vec;
use alloc::vec::Vec;
use core::net::{Ipv4Addr, SocketAddr};
use core::time::Duration;

use super::super::{RTT, addr};
use crate::id::{MeshId, NodeId};
use crate::membership::{self, Identity, Membership, Message};
use crate::nat::{Filtering, Mapping, NatClass};
use crate::node::{ConnId, DialFailure, DialId, Direction};
use crate::outbox::Outbox;
use crate::peer::arbiter::Arbiter;
use crate::peer::dialer::{self, Dialer, SMALL_MESH, StartState, View};
use crate::peer::local::Local;
use crate::peer::ways::{Help, Way};
use crate::rng::Rng;
use crate::route::Route;
use crate::time::Time;

/// A dialer and what it looks at.
pub(super) struct Bench {
    pub(super) now: Time,
    pub(super) local: Local,
    pub(super) membership: Membership,
    pub(super) arbiter: Arbiter,
    pub(super) dialer: Dialer,
    pub(super) help: Others,
    pub(super) me: NodeId,
    /// Whom a rendezvous was wanted with.
    pub(super) sought: Vec<NodeId>,
    pub(super) conns: u64,
    /// Records given out, so that each is newer than the last.
    pub(super) records: u64,
}

/// What others do for the bench.
#[derive(Clone, Copy, Debug)]
pub(super) struct Others {
    pub(super) relay: bool,
    pub(super) introduce: bool,
    pub(super) found: Option<SocketAddr>,
    pub(super) carried: Option<NodeId>,
    pub(super) own: NatClass,
}

impl Default for Others {
    fn default() -> Self {
        Self { relay: false, introduce: false, found: None, carried: None, own: NatClass::Unknown }
    }
}

impl Others {
    pub(super) fn all() -> Self {
        Self { relay: true, introduce: true, own: NatClass::PortRestricted, ..Self::default() }
    }
}

impl Help for Others {
    fn relays(&self, _: &NodeId) -> bool {
        self.relay
    }
    fn introduces(&self, _: &NodeId) -> bool {
        self.introduce
    }
    fn found_at(&self, _: &NodeId) -> Option<SocketAddr> {
        self.found
    }
    fn carries(&self, peer: &NodeId) -> bool {
        self.carried == Some(*peer)
    }
    fn own_class(&self) -> NatClass {
        self.own
    }
}

/// How a member of the bench is behind its NAT.
#[derive(Clone, Copy)]
pub(super) enum Nat {
    Unknown,
    Open,
    Restricted,
    Hard,
}

pub(super) fn mesh() -> MeshId {
    MeshId([7; 32])
}

pub(super) fn record_of(n: u8, nat: Nat, candidates: Vec<SocketAddr>, newer: u64) -> (NodeId, Message) {
    let (secret, mesh) = ([n; 32], mesh());
    let identity =
        Identity { secret: &secret, mesh: &mesh, name: "n", boot: 1, unix_ms: 1_000 + 1_000 * newer };
    let mut other = Membership::new(Time::ZERO, &Rng::from_u64(1), &identity);
    other.set_candidates(Time::ZERO, candidates);
    let (mapping, filtering) = match nat {
        Nat::Unknown => (Mapping::Unknown, Filtering::Unknown),
        Nat::Open => (Mapping::None, Filtering::EndpointIndependent),
        Nat::Restricted => (Mapping::EndpointIndependent, Filtering::AddressAndPortDependent),
        Nat::Hard => (Mapping::AddressAndPortDependent, Filtering::AddressAndPortDependent),
    };
    let verdict = crate::nat::Verdict { mapping, filtering, ..crate::nat::Verdict::UNKNOWN };
    other.set_verdict(Time::ZERO, (&verdict).into());
    let mut out = Outbox::new();
    other.session_up(Time::ZERO, NodeId([0; 32]), true, &mut out);
    let Some(crate::membership::Event::Send { message, .. }) = out.pop_event() else {
        panic!("no record");
    };
    (other.id(), message)
}

impl Bench {
    pub(super) fn new(bootstrap: &[SocketAddr]) -> Self {
        let (secret, mesh) = ([200; 32], mesh());
        let identity = Identity { secret: &secret, mesh: &mesh, name: "me", boot: 1, unix_ms: 1_000 };
        let membership = Membership::new(Time::ZERO, &Rng::from_u64(0), &identity);
        let mut local = Local::default();
        local.set_network(vec![Ipv4Addr::new(198, 51, 100, 1).into()], [Some(7000), None], [None; 2]);
        let arbiter = Arbiter::new(NodeId([0; 32]), 1);
        let mut dialer = Dialer::new(Rng::from_u64(5), bootstrap, SMALL_MESH);
        dialer.network_changed(Time::ZERO);
        Self {
            now: Time::ZERO,
            local,
            membership,
            arbiter,
            dialer,
            help: Others::default(),
            me: NodeId([0; 32]),
            sought: vec![],
            conns: 0,
            records: 0,
        }
    }

    pub(super) fn starts(&self) -> Vec<StartState> {
        let starts = self.dialer.starts(&self.local, self.membership.members(), &self.arbiter);
        starts.into_iter().map(|start| start.state).collect()
    }

    pub(super) fn member(&mut self, n: u8, nat: Nat) -> NodeId {
        self.member_at(n, nat, vec![addr(n)])
    }

    pub(super) fn member_at(&mut self, n: u8, nat: Nat, candidates: Vec<SocketAddr>) -> NodeId {
        self.records += 1;
        let (id, message) = record_of(n, nat, candidates, self.records);
        let mut out = Outbox::new();
        self.membership.handle(self.now, id, message, &mut out);
        let events: Vec<_> = core::iter::from_fn(|| out.pop_event()).collect();
        let change = events.into_iter().find_map(|event| match event {
            membership::Event::Changed { peer, reachability } if peer == id => Some(reachability),
            _ => None,
        });
        self.dialer.member_changed(self.now, id, change.expect("a newer record is news"));
        id
    }

    /// What is dialled up to `at`, with the time of each.
    pub(super) fn until(&mut self, at: Duration) -> Vec<(Time, DialId, Option<NodeId>, Vec<SocketAddr>)> {
        let addrs = |ways: Vec<Way>| ways.into_iter().filter_map(Way::addr).collect();
        let dials = self.ways_until(at).0;
        dials.into_iter().map(|(at, dial, peer, ways)| (at, dial, peer, addrs(ways))).collect()
    }

    /// What is dialled, in all its ways, and what is closed.
    #[allow(clippy::type_complexity, reason = "looked at by tests at once")]
    pub(super) fn ways_until(
        &mut self,
        at: Duration,
    ) -> (Vec<(Time, DialId, Option<NodeId>, Vec<Way>)>, Vec<ConnId>) {
        let end = Time::ZERO + at;
        let (mut dials, mut closed) = (Vec::new(), Vec::new());
        while let Some(deadline) = self.dialer.poll_timeout().filter(|d| d.at <= end) {
            self.now = self.now.max(deadline.at);
            let mut out = Outbox::new();
            let view = View {
                local: &self.local,
                members: self.membership.members(),
                arbiter: &self.arbiter,
                help: &self.help,
                me: self.me,
            };
            self.dialer.handle_timeout(self.now, view, &mut out);
            assert!(self.dialer.poll_timeout().is_none_or(|d| d.at > self.now), "busy loop");
            while let Some(event) = out.pop_event() {
                match event {
                    dialer::Event::Dial { dial, peer, ways } => dials.push((self.now, dial, peer, ways)),
                    dialer::Event::Seek(peer) => self.sought.push(peer),
                    dialer::Event::Close(conn) => {
                        self.arbiter.closed(self.now, conn, &mut Outbox::new());
                        closed.push(conn);
                    }
                    failed @ dialer::Event::Failed { .. } => panic!("{failed:?}"),
                }
            }
        }
        self.now = end;
        (dials, closed)
    }

    pub(super) fn fail(&mut self, dial: DialId) {
        self.dialer.dial_failed(self.now, dial, DialFailure::Timeout, &mut Outbox::new());
    }

    pub(super) fn session(&mut self, peer: NodeId, direction: Direction, dial: Option<DialId>) -> ConnId {
        self.conns += 1;
        let (conn, route) = (ConnId(self.conns), Route::Direct(addr(99)));
        self.dialer.connected(self.now, peer, direction, dial, true);
        self.arbiter.connected(self.now, conn, peer, direction, route, RTT, &mut Outbox::new());
        self.dialer.session_up(self.now, peer);
        conn
    }

    /// Fails every attempt at once until `end`; returns when each was made.
    pub(super) fn failing_until(&mut self, end: Duration) -> Vec<Duration> {
        let mut times = Vec::new();
        while let Some(at) = self.dialer.poll_timeout().map(|d| d.at).filter(|at| *at <= Time::ZERO + end) {
            for (at, dial, ..) in self.until(at.since(Time::ZERO)) {
                times.push(at.since(Time::ZERO));
                self.fail(dial);
            }
        }
        times
    }
}
