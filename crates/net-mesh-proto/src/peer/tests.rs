//! Promises of arbitration, with two nodes and a wire between them.

mod dialling;

use alloc::collections::{BTreeMap, BTreeSet};
use alloc::vec::Vec;
use core::net::{IpAddr, Ipv4Addr, SocketAddr};
use core::time::Duration;

use super::arbiter::{self, Arbiter, DECISION_TIMEOUT, HELLO_TIMEOUT, MAX_CONNECTIONS, SETTLED};
use super::wire::{Adopt, Hello};
use crate::id::NodeId;
use crate::node::{ConnId, Direction};
use crate::outbox::Outbox;
use crate::rng::Rng;
use crate::route::Route;
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
        self.nodes[side].connected(
            self.now,
            conn,
            IDS[1 - side],
            direction,
            Route::Direct(addr(1)),
            RTT,
            &mut out,
        );
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

    /// The process on `side` dies and comes back with another boot number; the other side notices late or by
    /// a new connection.
    fn restart(&mut self, side: usize, boot: u64, later: Duration) {
        self.boots[side] = boot;
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
                // Most clocks go forward between two runs.
                let boot = if rng.chance(0.8) { pair.boots[side] + 1 } else { rng.below(20) };
                pair.restart(side, boot, millis(rng.below(30_000)));
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
    assert_eq!(pair.session(0), Some(ConnId(1)), "and nothing is replaced");
    assert!(!pair.log.iter().any(|(.., e)| matches!(e, arbiter::Event::Down(_))));
}

#[test]
fn a_restarted_peer_is_believed_at_once() {
    for side in 0..2 {
        let mut pair = Pair::new();
        pair.open(ConnId(1), side, millis(20));
        let until = pair.now + millis(500);
        pair.run(Some(until));
        pair.restart(side, 30, secs(30));
        pair.open(ConnId(2), side, millis(20));
        let until = pair.now + millis(100);
        pair.run(Some(until));
        assert_eq!((pair.session(0), pair.session(1)), (Some(ConnId(2)), Some(ConnId(2))), "side {side}");
    }
}

#[test]
fn a_restarted_peer_whose_clock_went_back_is_believed_too() {
    for side in 0..2 {
        let mut pair = Pair::new();
        pair.open(ConnId(1), side, millis(20));
        let until = pair.now + SETTLED + secs(1);
        pair.run(Some(until));
        pair.restart(side, 3, secs(30));
        pair.open(ConnId(2), side, millis(20));
        let until = pair.now + millis(100);
        pair.run(Some(until));
        assert_eq!((pair.session(0), pair.session(1)), (Some(ConnId(2)), Some(ConnId(2))), "side {side}");
    }
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
        arbiter.connected(now, ConnId(n), peer, Direction::Incoming, Route::Direct(addr(1)), RTT, &mut out);
    }
    arbiter.closed(now, ConnId(1), &mut out);
    let events: Vec<_> = core::iter::from_fn(|| out.pop_event()).collect();
    assert!(events.contains(&arbiter::Event::Up { peer, conn: ConnId(2), replaced: true }), "{events:?}");
    assert!(!events.contains(&arbiter::Event::Down(peer)), "{events:?}");
}

#[test]
fn an_adoption_that_was_overtaken_by_a_later_one_changes_nothing() {
    let (me, peer) = (IDS[1], IDS[0]);
    let mut arbiter = Arbiter::new(me, 1);
    let (now, mut out) = (Time::from_millis(5), Outbox::new());
    for n in [1, 2] {
        arbiter.connected(now, ConnId(n), peer, Direction::Incoming, Route::Direct(addr(1)), RTT, &mut out);
        let hello = Hello { version: 1, boot: 4, has_session: false };
        arbiter.handle_hello(now, ConnId(n), hello, &mut out);
    }
    arbiter.handle_adopt(now, ConnId(1), Adopt { count: 2 }, &mut out);
    arbiter.handle_adopt(now, ConnId(2), Adopt { count: 1 }, &mut out);
    assert!(arbiter.is_session(ConnId(1)));
    arbiter.closed(now, ConnId(1), &mut out);
    assert!(arbiter.is_session(ConnId(2)), "and is good for falling back to");
}

#[test]
fn a_second_connection_that_stays_silent_is_closed() {
    let (me, peer) = (IDS[0], IDS[1]);
    let mut arbiter = Arbiter::new(me, 1);
    let (now, mut out) = (Time::from_millis(5), Outbox::new());
    for n in [1, 2] {
        arbiter.connected(now, ConnId(n), peer, Direction::Incoming, Route::Direct(addr(1)), RTT, &mut out);
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
    arbiter.connected(now, ConnId(1), peer, Direction::Outgoing, Route::Direct(addr(1)), RTT, &mut out);
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
            arbiter.connected(
                now,
                ConnId(n),
                IDS[1 - me],
                Direction::Incoming,
                Route::Direct(addr(1)),
                RTT,
                &mut out,
            );
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
        arbiter.connected(now, ConnId(n), IDS[1], Direction::Incoming, Route::Direct(addr(1)), RTT, &mut out);
    }
    arbiter.handle_adopt(now, ConnId(2), Adopt { count: 9 }, &mut out);
    assert!(arbiter.is_session(ConnId(1)) && !arbiter.is_session(ConnId(2)));
    assert_eq!(out.take_drops().iter().count(), 1);
}

#[test]
fn a_node_does_not_talk_to_itself() {
    let mut arbiter = Arbiter::new(IDS[0], 1);
    let mut out = Outbox::new();
    arbiter.connected(
        Time::ZERO,
        ConnId(1),
        IDS[0],
        Direction::Outgoing,
        Route::Direct(addr(1)),
        RTT,
        &mut out,
    );
    assert_eq!(out.pop_event(), Some(arbiter::Event::Close(ConnId(1))));
    assert_eq!(arbiter.connections(), 0);
}
