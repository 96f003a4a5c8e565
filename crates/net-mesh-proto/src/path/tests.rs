//! What the ways of a session promise.

use alloc::vec;
use alloc::vec::Vec;
use core::net::SocketAddr;
use core::time::Duration;

use super::{Event, MAX_WAYS, Paths};
use crate::drops::DropReason;
use crate::id::NodeId;
use crate::liveness::SessionKey;
use crate::node::ConnId;
use crate::outbox::Outbox;
use crate::route::{CircuitId, Route};
use crate::time::Time;

const IDS: [NodeId; 2] = [NodeId([1; 32]), NodeId([2; 32])];

fn addr(side: usize, n: u16) -> SocketAddr {
    SocketAddr::from(([198, 51, 100, u8::try_from(side).unwrap()], n))
}

fn millis(n: u64) -> Duration {
    Duration::from_millis(n)
}

/// A way between the two, as each side names it.
#[derive(Clone, Copy)]
struct Line {
    names: [Route; 2],
    delay: Duration,
    /// Whether frames of this side get through.
    carries: [bool; 2],
}

/// Two ends of one session, and the lines between them.
struct Pair {
    now: Time,
    ends: [Paths; 2],
    lines: Vec<Line>,
    flying: Vec<(Time, usize, Route, Vec<u8>)>,
    events: [Vec<Event>; 2],
    drops: Vec<DropReason>,
}

impl Pair {
    /// A session over the first line.
    fn over(lines: Vec<Line>) -> Self {
        let ends = [0, 1].map(|side| Paths::new(IDS[side]));
        let mut pair = Self {
            now: Time::from_millis(1),
            ends,
            lines,
            flying: vec![],
            events: [vec![], vec![]],
            drops: vec![],
        };
        for side in [0, 1] {
            let route = pair.lines[0].names[side];
            pair.with(side, |end, now, out| {
                end.session_up(now, IDS[1 - side], ConnId(1), SessionKey::new([7; 32]), route, out);
            });
        }
        pair
    }

    fn with(&mut self, side: usize, act: impl FnOnce(&mut Paths, Time, &mut Outbox<Event>)) {
        let mut out = Outbox::new();
        act(&mut self.ends[side], self.now, &mut out);
        while let Some(event) = out.pop_event() {
            if let Event::Frame { route, bytes } = &event {
                let line = self.lines.iter().find(|line| line.names[side] == *route);
                if let Some(line) = line.filter(|line| line.carries[side]) {
                    self.flying.push((self.now + line.delay, 1 - side, line.names[1 - side], bytes.clone()));
                }
            }
            self.events[side].push(event);
        }
        self.drops.extend(out.take_drops().iter().map(|(reason, _)| reason));
    }

    fn run(&mut self, time: Duration) {
        let end = self.now + time;
        loop {
            self.flying.sort_by_key(|(at, ..)| *at);
            let arrival = self.flying.first().map(|(at, ..)| *at);
            let timers = self.ends.iter().filter_map(|end| Some(end.poll_timeout()?.at));
            let Some(next) = timers.chain(arrival).min().filter(|at| *at <= end) else { break };
            self.now = next;
            if arrival == Some(next) {
                let (_, side, route, bytes) = self.flying.remove(0);
                self.with(side, |p, now, out| p.handle_frame(now, route, &bytes, out));
            } else {
                for side in [0, 1] {
                    self.with(side, |p, now, out| p.handle_timeout(now, out));
                    let next = self.ends[side].poll_timeout();
                    assert!(next.is_none_or(|deadline| deadline.at > self.now));
                }
            }
        }
        self.now = end;
    }

    fn current(&self) -> [Option<Route>; 2] {
        [0, 1].map(|side| self.ends[side].current(&IDS[1 - side]))
    }

    fn frames(&self, side: usize) -> usize {
        self.events[side].iter().filter(|e| matches!(e, Event::Frame { .. })).count()
    }
}

fn circuit(n: u64) -> Line {
    let names = [Route::Relayed(CircuitId(n)), Route::Relayed(CircuitId(100 + n))];
    Line { names, delay: millis(40), carries: [true; 2] }
}

fn direct(n: u16) -> Line {
    let names = [Route::Direct(addr(1, n)), Route::Direct(addr(0, n))];
    Line { names, delay: millis(20), carries: [true; 2] }
}

#[test]
fn both_sides_move_to_a_direct_way_that_one_of_them_found() {
    let mut pair = Pair::over(vec![circuit(1), direct(7)]);
    pair.with(0, |end, now, out| end.found(now, IDS[1], addr(1, 7), out));
    pair.run(millis(41));
    assert_eq!(pair.current()[0], Some(Route::Direct(addr(1, 7))), "a round trip later");
    pair.run(millis(100));
    assert_eq!(pair.current(), direct(7).names.map(Some));
    let accepted = pair.events[1].iter().position(|e| matches!(e, Event::Accept { .. }));
    let answered = pair.events[1].iter().position(|e| matches!(e, Event::Frame { .. }));
    assert!(accepted < answered, "its packets are let in before it may send them");
    assert!(pair.ends[0].is_spare(&IDS[1], CircuitId(1)));
    assert!(pair.ends[1].is_spare(&IDS[0], CircuitId(101)));
    pair.run(Duration::from_secs(60));
    assert!(pair.frames(0) + pair.frames(1) <= 10, "and then there is silence");
}

#[test]
fn a_way_that_carries_in_one_direction_only_is_not_used() {
    for carries in [[true, false], [false, true], [false, false]] {
        let mut pair = Pair::over(vec![circuit(1), Line { carries, ..direct(7) }]);
        for side in [0, 1] {
            pair.with(side, |end, now, out| end.found(now, IDS[1 - side], addr(1 - side, 7), out));
        }
        pair.run(Duration::from_secs(20));
        assert_eq!(pair.current(), circuit(1).names.map(Some), "{carries:?}");
        assert!(pair.frames(0) <= 20, "the tries are bounded");
        assert!(!pair.ends[0].is_spare(&IDS[1], CircuitId(1)));
    }
}

#[test]
fn a_ping_that_came_before_the_peers_session_is_repeated_when_the_peer_pings() {
    let mut pair = Pair::over(vec![circuit(1), direct(7)]);
    pair.ends[1].session_down(&IDS[0]);
    pair.with(0, |end, now, out| end.found(now, IDS[1], addr(1, 7), out));
    pair.with(1, |end, now, out| end.found(now, IDS[0], addr(0, 7), out));
    pair.run(millis(30));
    let route = circuit(1).names[1];
    pair.with(1, |end, now, out| {
        end.session_up(now, IDS[0], ConnId(1), SessionKey::new([7; 32]), route, out);
    });
    pair.run(millis(61));
    assert_eq!(pair.current(), direct(7).names.map(Some), "a round trip and a half later, and no pause");
}

#[test]
fn an_address_found_before_the_session_is_tried_when_it_comes_up_and_not_for_ever() {
    for (wait, current) in [(millis(5_000), Route::Direct(addr(1, 7))), (millis(10_001), circuit(1).names[0])]
    {
        let mut pair = Pair::over(vec![circuit(1), direct(7)]);
        pair.ends[0].session_down(&IDS[1]);
        pair.with(0, |end, now, out| end.found(now, IDS[1], addr(1, 7), out));
        pair.run(wait);
        let route = circuit(1).names[0];
        pair.with(0, |end, now, out| {
            end.session_up(now, IDS[1], ConnId(2), SessionKey::new([7; 32]), route, out);
        });
        pair.run(millis(500));
        assert_eq!(pair.current()[0], Some(current));
    }
}

#[test]
fn a_session_changes_over_to_the_circuit_that_is_offered_and_the_other_side_follows() {
    let mut pair = Pair::over(vec![circuit(1), circuit(2)]);
    pair.with(0, |end, now, out| end.offer(now, IDS[1], CircuitId(2), out));
    pair.run(millis(500));
    assert_eq!(pair.current(), circuit(2).names.map(Some));
    assert!(pair.ends[0].is_spare(&IDS[1], CircuitId(1)));
    assert!(!pair.ends[0].is_spare(&IDS[1], CircuitId(2)));
}

#[test]
fn when_the_circuit_ends_the_next_one_takes_over_and_without_one_the_node_is_told() {
    let mut pair = Pair::over(vec![circuit(1), circuit(2)]);
    for side in [0, 1] {
        let name = circuit(1).names[side].circuit().unwrap();
        pair.with(side, |end, now, out| end.circuit_down(now, name, out));
        assert_eq!(pair.events[side].last(), Some(&Event::Stranded { peer: IDS[1 - side] }));
    }
    assert_eq!(pair.current(), [None, None]);
    pair.with(0, |end, now, out| end.offer(now, IDS[1], CircuitId(2), out));
    pair.run(millis(41));
    assert_eq!(pair.current()[1], Some(circuit(2).names[1]), "the first genuine ping decides");
    pair.run(millis(500));
    assert_eq!(pair.current(), circuit(2).names.map(Some));
}

#[test]
fn a_direct_way_is_not_given_up_for_a_circuit_and_only_for_a_much_nearer_direct_one() {
    let near = Line { delay: millis(1), ..direct(8) };
    let same = Line { delay: millis(19), ..direct(9) };
    let mut pair = Pair::over(vec![circuit(1), direct(7), same, near, circuit(2)]);
    for (port, expected) in [(7, 7), (9, 7), (8, 8), (7, 8)] {
        pair.with(0, |end, now, out| end.found(now, IDS[1], addr(1, port), out));
        pair.run(millis(500));
        assert_eq!(pair.current()[0], Some(Route::Direct(addr(1, expected))));
    }
    pair.with(0, |end, now, out| end.offer(now, IDS[1], CircuitId(2), out));
    pair.run(millis(500));
    assert_eq!(pair.current()[0], Some(Route::Direct(addr(1, 8))));
}

#[test]
fn frames_of_others_and_repeated_answers_do_nothing_and_are_counted() {
    let mut pair = Pair::over(vec![circuit(1), direct(7)]);
    pair.with(0, |end, now, out| end.found(now, IDS[1], addr(1, 7), out));
    let ping = pair.flying[0].3.clone();
    // Thrown back at its sender from elsewhere.
    pair.with(0, |end, now, out| end.handle_frame(now, Route::Direct(addr(9, 9)), &ping, out));
    assert_eq!(pair.drops, [DropReason::BadAuthentication]);
    pair.run(millis(500));
    pair.drops.clear();
    let pong = pair.events[1].iter().find_map(|event| match event {
        Event::Frame { bytes, .. } if bytes[0] == 0x82 => Some(bytes.clone()),
        _ => None,
    });
    let before = pair.current();
    pair.with(0, |end, now, out| end.handle_frame(now, Route::Direct(addr(9, 9)), &pong.unwrap(), out));
    assert_eq!(pair.drops, [DropReason::UnknownTransaction]);
    pair.with(0, |end, now, out| end.handle_frame(now, Route::Direct(addr(9, 9)), &[0x81; 34], out));
    assert_eq!(pair.drops.last(), Some(&DropReason::MalformedFrame));
    assert_eq!(pair.current(), before);
}

#[test]
fn a_peer_that_pings_from_everywhere_makes_a_node_remember_little() {
    let mut pair = Pair::over((0..100).map(direct).collect());
    for port in 0..100 {
        pair.with(1, |end, now, out| end.found(now, IDS[0], addr(0, port), out));
        pair.run(millis(1));
    }
    pair.run(Duration::from_secs(10));
    assert!(pair.ends[0].ways() <= MAX_WAYS);
    assert!(pair.ends[1].ways() <= MAX_WAYS);
}
