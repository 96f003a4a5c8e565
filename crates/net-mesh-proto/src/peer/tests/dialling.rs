//! Promises of the dialer, and of what a node knows of its own place.

use alloc::collections::BTreeSet;
use alloc::vec;
use alloc::vec::Vec;
use core::net::{Ipv4Addr, SocketAddr};
use core::time::Duration;

use super::{RTT, addr, millis, secs};
use crate::id::{MeshId, NodeId};
use crate::membership::{self, Identity, Membership, Message};
use crate::nat::{Filtering, Mapping};
use crate::node::{ConnId, DialFailure, DialId, Direction};
use crate::outbox::Outbox;
use crate::peer::arbiter::Arbiter;
use crate::peer::dialer::{self, ANCHORS, Dialer, MAX_DIALS, MAX_FURTHER, View};
use crate::peer::local::Local;
use crate::rng::Rng;
use crate::time::Time;

/// A dialer and what it looks at.
struct Bench {
    now: Time,
    local: Local,
    membership: Membership,
    arbiter: Arbiter,
    dialer: Dialer,
    conns: u64,
    /// Records given out, so that each is newer than the last.
    records: u64,
}

/// How a member of the bench is behind its NAT.
#[derive(Clone, Copy)]
enum Nat {
    Unknown,
    Open,
    Hard,
}

fn mesh() -> MeshId {
    MeshId([7; 32])
}

fn record_of(n: u8, nat: Nat, candidates: Vec<SocketAddr>, newer: u64) -> (NodeId, Message) {
    let (secret, mesh) = ([n; 32], mesh());
    let identity =
        Identity { secret: &secret, mesh: &mesh, name: "n", boot: 1, unix_ms: 1_000 + 1_000 * newer };
    let mut other = Membership::new(Time::ZERO, &Rng::from_u64(1), &identity);
    other.set_candidates(Time::ZERO, candidates);
    let (mapping, filtering) = match nat {
        Nat::Unknown => (Mapping::Unknown, Filtering::Unknown),
        Nat::Open => (Mapping::None, Filtering::EndpointIndependent),
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
    fn new(bootstrap: &[SocketAddr]) -> Self {
        let (secret, mesh) = ([200; 32], mesh());
        let identity = Identity { secret: &secret, mesh: &mesh, name: "me", boot: 1, unix_ms: 1_000 };
        let membership = Membership::new(Time::ZERO, &Rng::from_u64(0), &identity);
        let mut local = Local::default();
        local.set_network(vec![Ipv4Addr::new(198, 51, 100, 1).into()], [Some(7000), None], [None; 2]);
        let arbiter = Arbiter::new(NodeId([0; 32]), 1);
        let mut dialer = Dialer::new(Rng::from_u64(5), bootstrap);
        dialer.network_changed(Time::ZERO);
        Self { now: Time::ZERO, local, membership, arbiter, dialer, conns: 0, records: 0 }
    }

    fn member(&mut self, n: u8, nat: Nat) -> NodeId {
        self.member_at(n, nat, vec![addr(n)])
    }

    fn member_at(&mut self, n: u8, nat: Nat, candidates: Vec<SocketAddr>) -> NodeId {
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
    fn until(&mut self, at: Duration) -> Vec<(Time, DialId, Option<NodeId>, Vec<SocketAddr>)> {
        let end = Time::ZERO + at;
        let mut dials = Vec::new();
        while let Some(deadline) = self.dialer.poll_timeout().filter(|d| d.at <= end) {
            self.now = self.now.max(deadline.at);
            let mut out = Outbox::new();
            let view =
                View { local: &self.local, members: self.membership.members(), arbiter: &self.arbiter };
            self.dialer.handle_timeout(self.now, view, &mut out);
            assert!(self.dialer.poll_timeout().is_none_or(|d| d.at > self.now), "busy loop");
            while let Some(dialer::Event::Dial { dial, peer, addrs }) = out.pop_event() {
                dials.push((self.now, dial, peer, addrs));
            }
        }
        self.now = end;
        dials
    }

    fn fail(&mut self, dial: DialId) {
        self.dialer.dial_failed(self.now, dial, DialFailure::Timeout, &mut Outbox::new());
    }

    fn session(&mut self, peer: NodeId, direction: Direction, dial: Option<DialId>) -> ConnId {
        self.conns += 1;
        let (conn, remote) = (ConnId(self.conns), addr(99));
        self.dialer.connected(self.now, peer, direction, dial);
        self.arbiter.connected(self.now, conn, peer, direction, remote, RTT, &mut Outbox::new());
        self.dialer.session_up(self.now, peer);
        conn
    }

    /// Fails every attempt at once until `end`; returns when each was made.
    fn failing_until(&mut self, end: Duration) -> Vec<Duration> {
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

#[test]
fn bootstrap_addresses_are_tried_until_there_is_a_session_and_again_when_all_are_lost() {
    let mut bench = Bench::new(&[addr(1), addr(2)]);
    let first = bench.until(millis(10));
    assert_eq!(first.iter().map(|d| d.3.clone()).collect::<Vec<_>>(), [vec![addr(1)], vec![addr(2)]]);
    bench.fail(first[1].1);
    let peer = bench.member(1, Nat::Hard);
    let conn = bench.session(peer, Direction::Outgoing, Some(first[0].1));
    // The other address belongs to nobody known: it is tried, but rarely.
    assert!(bench.until(secs(299)).is_empty());
    assert_eq!(bench.until(secs(320)).len(), 1);
    bench.arbiter.closed(bench.now, conn, &mut Outbox::new());
    bench.dialer.session_down(bench.now, peer);
    let again: BTreeSet<_> = bench.until(secs(330)).into_iter().flat_map(|d| d.3).collect();
    assert!(again.contains(&addr(1)), "{again:?}");
}

#[test]
fn rests_double_up_to_a_minute() {
    let mut bench = Bench::new(&[addr(1)]);
    let times = bench.failing_until(secs(600));
    let gaps: Vec<_> = times.windows(2).map(|w| (w[1] - w[0]).as_secs_f64()).collect();
    for (n, gap) in gaps.iter().enumerate() {
        let expected = f64::from(1u32 << n.min(10)).min(60.0);
        assert!((0.74 * expected..1.3 * expected).contains(gap), "rest {n}: {gap} s");
    }
    assert!(gaps.len() > 10);
}

#[test]
fn a_small_mesh_is_fully_connected() {
    let mut bench = Bench::new(&[]);
    let members: BTreeSet<_> = (1..=7).map(|n| bench.member(n, Nat::Hard)).collect();
    let dialled: BTreeSet<_> = bench.until(secs(1)).into_iter().filter_map(|d| d.2).collect();
    assert_eq!(dialled, members);
}

#[test]
fn in_a_large_mesh_a_few_public_members_are_enough() {
    let mut bench = Bench::new(&[]);
    let open: Vec<_> = (1..=5).map(|n| bench.member(n, Nat::Open)).collect();
    for n in 10..30 {
        bench.member(n, Nat::Hard);
        bench.member(n + 40, Nat::Unknown);
    }
    let dials = bench.until(secs(1));
    assert_eq!(dials.len(), ANCHORS);
    assert!(dials.iter().all(|d| open.contains(&d.2.unwrap())), "public ones before unknown ones");
    for (_, dial, peer, _) in dials {
        bench.session(peer.unwrap(), Direction::Outgoing, Some(dial));
    }
    assert!(bench.until(secs(100)).is_empty(), "and nobody else is dialled");
}

#[test]
fn members_of_unknown_class_stand_in_for_public_ones() {
    let mut bench = Bench::new(&[]);
    let open = bench.member(1, Nat::Open);
    let unknown: BTreeSet<_> = (2..=9).map(|n| bench.member(n, Nat::Unknown)).collect();
    let dialled: Vec<_> = bench.until(secs(1)).into_iter().filter_map(|d| d.2).collect();
    assert_eq!(dialled.len(), ANCHORS);
    assert_eq!(dialled[0], open);
    assert!(dialled[1..].iter().all(|id| unknown.contains(id)));
}

#[test]
fn a_wanted_peer_is_dialled_at_once_and_quickly_again() {
    let mut bench = Bench::new(&[]);
    let peers: Vec<_> = (1..=20).map(|n| bench.member(n, Nat::Hard)).collect();
    assert!(bench.until(secs(1)).is_empty(), "nobody there is worth an anchor");
    bench.dialer.want(bench.now, peers[3]);
    let first = bench.until(secs(1) + millis(30));
    assert_eq!(first.iter().map(|d| d.2).collect::<Vec<_>>(), [Some(peers[3])]);
    bench.fail(first[0].1);
    let times = bench.failing_until(secs(3));
    assert!(times.len() >= 3, "{times:?}");
    assert!(times[1] < secs(2), "{times:?}");
    let times = bench.failing_until(secs(200));
    assert!(times.iter().all(|at| *at < secs(62)), "no longer wanted, no longer dialled: {times:?}");
}

#[test]
fn a_new_address_ends_a_rest() {
    let mut bench = Bench::new(&[]);
    bench.member(1, Nat::Unknown);
    let times = bench.failing_until(secs(100));
    assert!(times.len() < 12);
    bench.member_at(1, Nat::Unknown, vec![addr(1), addr(2)]);
    assert_eq!(bench.until(secs(100) + millis(30)).len(), 1);
}

#[test]
fn a_new_network_ends_all_rests() {
    let mut bench = Bench::new(&[addr(40)]);
    bench.failing_until(secs(100));
    bench.dialer.network_changed(bench.now);
    assert_eq!(bench.until(secs(100) + millis(30)).len(), 1);
}

#[test]
fn attempts_under_way_are_bounded_and_each_makes_room_for_another() {
    let mut bench = Bench::new(&[]);
    let peers: Vec<_> = (1..=60).map(|n| bench.member(n, Nat::Hard)).collect();
    for peer in &peers {
        bench.dialer.want(bench.now, *peer);
    }
    let dials = bench.until(secs(1));
    assert_eq!(dials.len(), MAX_DIALS);
    bench.session(dials[0].2.unwrap(), Direction::Outgoing, Some(dials[0].1));
    assert_eq!(bench.until(secs(2)).len(), 1);
}

#[test]
fn loopback_and_own_addresses_of_others_are_not_dialled_except_where_there_is_nothing_else() {
    let loopback: SocketAddr = "127.0.0.1:9000".parse().unwrap();
    let own: SocketAddr = "198.51.100.1:7000".parse().unwrap();
    let lan: SocketAddr = "192.168.1.5:7000".parse().unwrap();
    let zero: SocketAddr = "203.0.113.1:0".parse().unwrap();
    let mut bench = Bench::new(&[]);
    bench.member_at(1, Nat::Unknown, vec![loopback, own, zero, "[2001:db8::1]:7000".parse().unwrap(), lan]);
    assert_eq!(bench.until(secs(1))[0].3, [lan]);
    let mut bench = Bench::new(&[]);
    bench.local.set_network(vec![Ipv4Addr::LOCALHOST.into()], [Some(7000), None], [None; 2]);
    bench.member_at(1, Nat::Unknown, vec![loopback]);
    assert_eq!(bench.until(secs(1))[0].3, [loopback], "two processes on one machine");
}

#[test]
fn a_bootstrap_address_that_is_this_node_is_left_alone() {
    let mut bench = Bench::new(&["198.51.100.1:7000".parse().unwrap(), addr(3)]);
    let dials = bench.until(secs(1));
    assert_eq!(dials.iter().map(|d| d.3.clone()).collect::<Vec<_>>(), [vec![addr(3)]]);
    bench.dialer.dialled_self(bench.now, Some(dials[0].1));
    assert!(bench.until(secs(200)).is_empty(), "seen from outside it was this node after all");
}

// ---------------------------------------------------------------- own addresses

#[test]
fn candidates_are_best_first_and_loopback_only_where_there_is_nothing_else() {
    let mut local = Local::default();
    let ips = ["10.0.0.5", "127.0.0.1", "198.51.100.1", "169.254.1.1", "fe80::1"];
    local.set_network(ips.map(|ip| ip.parse().unwrap()).to_vec(), [Some(7000), Some(7001)], [None; 2]);
    local.set_reflexive(vec!["203.0.113.9:4242".parse().unwrap(), "10.0.0.5:7000".parse().unwrap()]);
    let expected = ["203.0.113.9:4242", "198.51.100.1:7000", "10.0.0.5:7000"];
    assert_eq!(local.candidates(), expected.map(|a| a.parse().unwrap()));
    let mut local = Local::default();
    local.set_network(vec!["127.0.0.1".parse().unwrap()], [Some(7000), None], [None; 2]);
    assert_eq!(local.candidates(), ["127.0.0.1:7000".parse().unwrap()]);
    assert!(local.loopback_only());
}
