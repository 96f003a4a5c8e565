//! Promises of arbitration and of the dialer.

use alloc::collections::{BTreeMap, BTreeSet};
use alloc::vec;
use alloc::vec::Vec;
use core::net::{IpAddr, Ipv4Addr, SocketAddr};
use core::time::Duration;

use super::arbiter::{self, Arbiter, DECISION_TIMEOUT, HELLO_TIMEOUT, MAX_CONNECTIONS, SETTLED};
use super::dialer::{self, ANCHORS, Dialer, MAX_DIALS, View};
use super::local::Local;
use super::wire::{Adopt, Hello};
use crate::id::{MeshId, NodeId};
use crate::membership::{Identity, Membership, Message};
use crate::nat::{Filtering, Mapping};
use crate::node::{ConnId, DialFailure, DialId, Direction};
use crate::outbox::Outbox;
use crate::rng::Rng;
use crate::time::Time;
use crate::wire::Writer;

const RTT: Duration = Duration::from_millis(40);

fn secs(n: u64) -> Duration {
    Duration::from_secs(n)
}

fn millis(n: u64) -> Duration {
    Duration::from_millis(n)
}

fn addr(last: u8) -> SocketAddr {
    SocketAddr::new(IpAddr::V4(Ipv4Addr::new(203, 0, 113, last)), 7000)
}

// ---------------------------------------------------------------- wire

fn cut_anywhere_fails<T: core::fmt::Debug>(
    bytes: &[u8],
    parse: impl Fn(&[u8]) -> Result<T, crate::wire::Malformed>,
) {
    for end in 0..bytes.len() {
        assert!(parse(&bytes[..end]).is_err(), "cut at {end}");
    }
    let longer = [bytes, &[0]].concat();
    assert!(parse(&longer).is_err(), "a byte too many");
}

#[test]
fn a_greeting_has_these_bytes() {
    let hello = Hello { version: 1, boot: 0x0102_0304_0506_0708, has_session: true };
    let mut out = Writer::new();
    hello.write(&mut out);
    let bytes = out.finish();
    assert_eq!(bytes, [0, 1, 1, 2, 3, 4, 5, 6, 7, 8, 1]);
    assert_eq!(Hello::parse(&bytes), Ok(hello));
    cut_anywhere_fails(&bytes, Hello::parse);
}

#[test]
fn an_adoption_has_these_bytes() {
    let adopt = Adopt { count: 3 };
    let mut out = Writer::new();
    adopt.write(&mut out);
    let bytes = out.finish();
    assert_eq!(bytes, [0, 0, 0, 0, 0, 0, 0, 3]);
    assert_eq!(Adopt::parse(&bytes), Ok(adopt));
    cut_anywhere_fails(&bytes, Adopt::parse);
}

// ---------------------------------------------------------------- arbitration: two nodes and a wire

/// What travels in the model.
#[derive(Clone, Copy, Debug)]
enum Travel {
    Up,
    Hello(Hello),
    Adopt(Adopt),
    End,
}

/// Two nodes, and connections between them that deliver in order, each with a delay of its own, until
/// they end or die.
struct Pair {
    now: Time,
    nodes: [Arbiter; 2],
    boots: [u64; 2],
    /// For each connection: delay, the earliest arrival each way, and on which sides it is still there.
    wires: BTreeMap<ConnId, Wire>,
    flying: BTreeMap<(Time, u64), (usize, ConnId, Travel)>,
    order: u64,
    up: [Option<ConnId>; 2],
    log: Vec<(Time, usize, arbiter::Event)>,
}

struct Wire {
    delay: Duration,
    arrival: [Time; 2],
    alive: [bool; 2],
    opener: usize,
}

const IDS: [NodeId; 2] = [NodeId([1; 32]), NodeId([2; 32])];

impl Pair {
    fn new() -> Self {
        Self {
            now: Time::from_millis(1_000),
            nodes: [Arbiter::new(IDS[0], 10), Arbiter::new(IDS[1], 20)],
            boots: [10, 20],
            wires: BTreeMap::new(),
            flying: BTreeMap::new(),
            order: 0,
            up: [None, None],
            log: Vec::new(),
        }
    }

    fn fly(&mut self, to: usize, conn: ConnId, travel: Travel) {
        let Some(wire) = self.wires.get_mut(&conn) else { return };
        let at = wire.arrival[to].max(self.now + wire.delay);
        wire.arrival[to] = at;
        self.order += 1;
        self.flying.insert((at, self.order), (to, conn, travel));
    }

    /// A handshake from `opener` completes: for it now, for the other side a delay later.
    fn open(&mut self, conn: ConnId, opener: usize, delay: Duration) {
        let wire = Wire { delay, arrival: [self.now; 2], alive: [true, false], opener };
        self.wires.insert(conn, wire);
        self.wires.get_mut(&conn).unwrap().alive = [opener == 0, opener == 1];
        self.fly(1 - opener, conn, Travel::Up);
        self.came_up(opener, conn);
    }

    fn came_up(&mut self, side: usize, conn: ConnId) {
        let opener = self.wires[&conn].opener;
        let direction = if opener == side { Direction::Outgoing } else { Direction::Incoming };
        let mut out = Outbox::new();
        self.nodes[side].connected(self.now, conn, IDS[1 - side], direction, addr(1), RTT, &mut out);
        self.hear(side, out);
    }

    /// The connection ends on `side` without a word to the other, who notices `later`.
    fn die(&mut self, side: usize, conn: ConnId, later: Duration) {
        if !self.wires.get(&conn).is_some_and(|wire| wire.alive[side]) {
            return;
        }
        self.end_at(side, conn);
        let wire = self.wires.get_mut(&conn).unwrap();
        let at = wire.arrival[1 - side].max(self.now + later);
        // What is under way is lost with it.
        self.flying.retain(|_, (_, c, travel)| *c != conn || matches!(travel, Travel::End));
        self.order += 1;
        self.flying.insert((at, self.order), (1 - side, conn, Travel::End));
    }

    fn end_at(&mut self, side: usize, conn: ConnId) {
        if let Some(wire) = self.wires.get_mut(&conn) {
            wire.alive[side] = false;
        }
        let mut out = Outbox::new();
        self.nodes[side].closed(self.now, conn, &mut out);
        self.hear(side, out);
    }

    fn hear(&mut self, side: usize, mut out: Outbox<arbiter::Event>) {
        while let Some(event) = out.pop_event() {
            self.log.push((self.now, side, event.clone()));
            match event {
                arbiter::Event::Hello(conn, hello) => self.fly(1 - side, conn, Travel::Hello(hello)),
                arbiter::Event::Adopt(conn, adopt) => self.fly(1 - side, conn, Travel::Adopt(adopt)),
                arbiter::Event::Close(conn) => {
                    if let Some(wire) = self.wires.get_mut(&conn) {
                        wire.alive[side] = false;
                    }
                    self.fly(1 - side, conn, Travel::End);
                }
                arbiter::Event::Up { conn, replaced, .. } => {
                    assert_eq!(replaced, self.up[side].is_some(), "{:#?}", self.log);
                    self.up[side] = Some(conn);
                }
                arbiter::Event::Down(_) => {
                    assert!(self.up[side].take().is_some(), "down twice: {:#?}", self.log);
                }
            }
        }
    }

    /// The process on `side` dies and comes back with a higher boot; the other side notices late or by a new
    /// connection.
    fn restart(&mut self, side: usize, later: Duration) {
        self.boots[side] += 1;
        let old = core::mem::replace(&mut self.nodes[side], Arbiter::new(IDS[side], self.boots[side]));
        drop(old);
        self.up[side] = None;
        for conn in self.wires.keys().copied().collect::<Vec<_>>() {
            // Also where its end of the handshake was still under way: the other side must notice.
            self.wires.get_mut(&conn).unwrap().alive[side] = true;
            self.die(side, conn, later);
        }
    }

    fn deliver(&mut self, side: usize, conn: ConnId, travel: Travel) {
        let Some(wire) = self.wires.get_mut(&conn) else { return };
        if matches!(travel, Travel::Up) {
            wire.alive[side] = true;
            return self.came_up(side, conn);
        }
        if !wire.alive[side] {
            return;
        }
        let mut out = Outbox::new();
        match travel {
            Travel::Up => {}
            Travel::Hello(hello) => self.nodes[side].handle_hello(self.now, conn, hello, &mut out),
            Travel::Adopt(adopt) => self.nodes[side].handle_adopt(self.now, conn, adopt, &mut out),
            Travel::End => return self.end_at(side, conn),
        }
        self.hear(side, out);
    }

    /// Runs until `until`, or for as long as there is anything to do.
    fn run(&mut self, until: Option<Time>) {
        loop {
            let timers = self.nodes.iter().filter_map(Arbiter::poll_timeout).map(|d| d.at).min();
            let flight = self.flying.keys().next().map(|(at, _)| *at);
            let Some(at) = timers.into_iter().chain(flight).min() else { break };
            if until.is_some_and(|until| at > until) {
                break;
            }
            self.now = self.now.max(at);
            if flight == Some(at) {
                let (_, (side, conn, travel)) = self.flying.pop_first().unwrap();
                self.deliver(side, conn, travel);
            } else {
                for side in 0..2 {
                    let mut out = Outbox::new();
                    self.nodes[side].handle_timeout(self.now, &mut out);
                    assert!(self.nodes[side].poll_timeout().is_none_or(|d| d.at > self.now));
                    self.hear(side, out);
                }
            }
        }
        if let Some(until) = until {
            self.now = self.now.max(until);
        }
    }

    fn session(&self, side: usize) -> Option<ConnId> {
        self.nodes[side].session(&IDS[1 - side]).map(|session| session.conn)
    }

    fn alive(&self) -> BTreeSet<ConnId> {
        self.wires.iter().filter(|(_, w)| w.alive == [true; 2]).map(|(conn, _)| *conn).collect()
    }

    fn assert_agreed(&self, seed: u64) {
        let alive = self.alive();
        let (a, b) = (self.session(0), self.session(1));
        assert_eq!(a, self.up[0], "seed {seed}: events and state differ: {:#?}", self.log);
        assert_eq!(b, self.up[1], "seed {seed}: events and state differ: {:#?}", self.log);
        assert_eq!(a, b, "seed {seed}: different sessions: {:#?}", self.log);
        assert_eq!(alive.into_iter().collect::<Vec<_>>(), Vec::from_iter(a), "seed {seed}: {:#?}", self.log);
    }
}

#[test]
fn at_rest_both_sides_use_the_one_connection_that_lives() {
    for seed in 0..5_000 {
        let mut rng = Rng::from_u64(seed);
        let mut pair = Pair::new();
        for n in 0..1 + rng.below(6) {
            let pause = [0, 5, 60, 1_500, 7_000, 20_000][usize::try_from(rng.below(6)).unwrap()];
            let until = pair.now + millis(rng.below(pause + 1));
            pair.run(Some(until));
            let opener = usize::try_from(rng.below(2)).unwrap();
            pair.open(ConnId(n), opener, millis(1 + rng.below(300)));
            if rng.chance(0.3) {
                let until = pair.now + millis(rng.below(400));
                pair.run(Some(until));
                let side = usize::try_from(rng.below(2)).unwrap();
                pair.die(side, ConnId(rng.below(n + 1)), millis(rng.below(10_000)));
            }
            if rng.chance(0.1) {
                let side = usize::try_from(rng.below(2)).unwrap();
                pair.restart(side, millis(rng.below(30_000)));
            }
        }
        pair.run(None);
        pair.assert_agreed(seed);
    }
}

#[test]
fn a_simultaneous_dial_keeps_one_connection_and_loses_no_time() {
    let mut pair = Pair::new();
    pair.open(ConnId(1), 0, millis(20));
    pair.open(ConnId(2), 1, millis(20));
    assert_eq!(pair.session(0), Some(ConnId(1)), "the lower node uses its own at once");
    let until = pair.now + millis(21);
    pair.run(Some(until));
    assert_eq!(pair.session(1), Some(ConnId(1)), "the higher one follows a crossing later");
    pair.run(None);
    pair.assert_agreed(0);
    assert!(!pair.log.iter().any(|(.., e)| matches!(e, arbiter::Event::Down(_))));
}

#[test]
fn a_restarted_peer_is_believed_at_once() {
    let mut pair = Pair::new();
    pair.open(ConnId(1), 1, millis(20));
    let until = pair.now + millis(500);
    pair.run(Some(until));
    pair.restart(1, secs(30));
    pair.open(ConnId(2), 1, millis(20));
    let until = pair.now + millis(100);
    pair.run(Some(until));
    assert_eq!((pair.session(0), pair.session(1)), (Some(ConnId(2)), Some(ConnId(2))));
}

#[test]
fn a_session_that_died_for_one_side_only_is_replaced_once_it_has_settled() {
    let mut pair = Pair::new();
    pair.open(ConnId(1), 0, millis(20));
    let until = pair.now + SETTLED + secs(1);
    pair.run(Some(until));
    pair.die(1, ConnId(1), secs(60));
    pair.open(ConnId(2), 1, millis(20));
    let until = pair.now + millis(200);
    pair.run(Some(until));
    assert_eq!((pair.session(0), pair.session(1)), (Some(ConnId(2)), Some(ConnId(2))));
}

#[test]
fn a_waiting_connection_takes_over_without_the_session_going_down() {
    let (me, peer) = (IDS[0], IDS[1]);
    let mut arbiter = Arbiter::new(me, 1);
    let (now, mut out) = (Time::from_millis(5), Outbox::new());
    for n in [1, 2] {
        arbiter.connected(now, ConnId(n), peer, Direction::Incoming, addr(1), RTT, &mut out);
    }
    arbiter.closed(now, ConnId(1), &mut out);
    let events: Vec<_> = core::iter::from_fn(|| out.pop_event()).collect();
    assert!(events.contains(&arbiter::Event::Up { peer, conn: ConnId(2), replaced: true }), "{events:?}");
    assert!(!events.contains(&arbiter::Event::Down(peer)), "{events:?}");
}

#[test]
fn a_second_connection_that_stays_silent_is_closed() {
    let (me, peer) = (IDS[0], IDS[1]);
    let mut arbiter = Arbiter::new(me, 1);
    let (now, mut out) = (Time::from_millis(5), Outbox::new());
    for n in [1, 2] {
        arbiter.connected(now, ConnId(n), peer, Direction::Incoming, addr(1), RTT, &mut out);
    }
    assert_eq!(arbiter.poll_timeout().unwrap().at, now + HELLO_TIMEOUT);
    arbiter.handle_timeout(now + HELLO_TIMEOUT, &mut out);
    let events: Vec<_> = core::iter::from_fn(|| out.pop_event()).collect();
    assert_eq!(events.last(), Some(&arbiter::Event::Close(ConnId(2))));
    assert_eq!(arbiter.poll_timeout(), None);
}

#[test]
fn a_connection_that_nobody_adopts_is_given_up() {
    let (me, peer) = (IDS[1], IDS[0]);
    let mut arbiter = Arbiter::new(me, 1);
    let (now, mut out) = (Time::from_millis(5), Outbox::new());
    arbiter.connected(now, ConnId(1), peer, Direction::Outgoing, addr(1), RTT, &mut out);
    assert_eq!(arbiter.session(&peer), None, "the higher node waits for the word");
    arbiter.handle_timeout(now + DECISION_TIMEOUT, &mut out);
    assert_eq!(arbiter.connections(), 0);
}

#[test]
fn a_peer_cannot_hold_more_than_a_few_connections() {
    for me in 0..2 {
        let mut arbiter = Arbiter::new(IDS[me], 1);
        let mut out = Outbox::new();
        for n in 0..100 {
            let now = Time::from_millis(n);
            arbiter.connected(now, ConnId(n), IDS[1 - me], Direction::Incoming, addr(1), RTT, &mut out);
            assert!(arbiter.connections() <= MAX_CONNECTIONS);
        }
    }
}

#[test]
fn only_the_lower_node_may_adopt() {
    let mut arbiter = Arbiter::new(IDS[0], 1);
    let mut out = Outbox::new();
    let now = Time::from_millis(1);
    for n in [1, 2] {
        arbiter.connected(now, ConnId(n), IDS[1], Direction::Incoming, addr(1), RTT, &mut out);
    }
    arbiter.handle_adopt(now, ConnId(2), Adopt { count: 9 }, &mut out);
    assert!(arbiter.is_session(ConnId(1)) && !arbiter.is_session(ConnId(2)));
    assert_eq!(out.take_drops().iter().count(), 1);
}

#[test]
fn a_node_does_not_talk_to_itself() {
    let mut arbiter = Arbiter::new(IDS[0], 1);
    let mut out = Outbox::new();
    arbiter.connected(Time::ZERO, ConnId(1), IDS[0], Direction::Outgoing, addr(1), RTT, &mut out);
    assert_eq!(out.pop_event(), Some(arbiter::Event::Close(ConnId(1))));
    assert_eq!(arbiter.connections(), 0);
}

// ---------------------------------------------------------------- the dialer

/// A dialer and what it looks at.
struct Bench {
    now: Time,
    local: Local,
    membership: Membership,
    arbiter: Arbiter,
    dialer: Dialer,
    conns: u64,
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

fn record_of(n: u8, nat: Nat, candidates: Vec<SocketAddr>) -> (NodeId, Message) {
    let (secret, mesh) = ([n; 32], mesh());
    let identity = Identity { secret: &secret, mesh: &mesh, name: "n", boot: 1, unix_ms: 1_000 };
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
    other.session_up(Time::ZERO, NodeId([0; 32]), false, &mut out);
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
        Self { now: Time::ZERO, local, membership, arbiter, dialer, conns: 0 }
    }

    fn member(&mut self, n: u8, nat: Nat) -> NodeId {
        self.member_at(n, nat, vec![addr(n)])
    }

    fn member_at(&mut self, n: u8, nat: Nat, candidates: Vec<SocketAddr>) -> NodeId {
        let (id, message) = record_of(n, nat, candidates);
        self.membership.handle(self.now, id, message, &mut Outbox::new());
        assert!(self.membership.members().contains_key(&id));
        self.dialer.member_changed(self.now, id, true);
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
    bench.dialer.member_changed(bench.now, record_of(1, Nat::Unknown, vec![]).0, true);
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
