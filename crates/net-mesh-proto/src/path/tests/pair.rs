//! Two ends of one session, the lines between them, and what an application sends.

use alloc::collections::{BTreeMap, BTreeSet};
use alloc::vec;
use alloc::vec::Vec;
use core::net::SocketAddr;
use core::time::Duration;

use super::super::{Event, Paths};
use crate::drops::DropReason;
use crate::id::NodeId;
use crate::liveness::{Health, SessionKey, Traffic};
use crate::node::{ConnId, Switch};
use crate::outbox::Outbox;
use crate::rng::Rng;
use crate::route::{CircuitId, Route};
use crate::time::Time;

pub(super) const IDS: [NodeId; 2] = [NodeId([1; 32]), NodeId([2; 32])];

/// Between two looks at the counts.
const SAMPLE: Duration = millis(10);

pub(super) fn addr(side: usize, n: u16) -> SocketAddr {
    SocketAddr::from(([198, 51, 100, u8::try_from(side).unwrap()], n))
}

pub(super) const fn millis(n: u64) -> Duration {
    Duration::from_millis(n)
}

/// A way between the two, as each side names it.
#[derive(Clone, Copy)]
pub(super) struct Line {
    pub(super) names: [Route; 2],
    pub(super) delay: Duration,
    /// Whether what this side sends gets through.
    pub(super) carries: [bool; 2],
    /// Whether more than 600 bytes get through.
    pub(super) large: bool,
    /// The share that is lost.
    pub(super) loss: f64,
}

pub(super) fn circuit(n: u64) -> Line {
    let names = [Route::Relayed(CircuitId(n)), Route::Relayed(CircuitId(100 + n))];
    Line { names, delay: millis(40), carries: [true; 2], large: true, loss: 0.0 }
}

pub(super) fn direct(n: u16) -> Line {
    let names = [Route::Direct(addr(1, n)), Route::Direct(addr(0, n))];
    Line { names, delay: millis(20), carries: [true; 2], large: true, loss: 0.0 }
}

enum Packet {
    Frame(Vec<u8>),
    Data(u64),
    Ack,
}

/// One side publishes packets of this size this often.
#[derive(Clone, Copy)]
pub(super) struct Talk {
    pub(super) side: usize,
    pub(super) every: Duration,
    pub(super) bytes: usize,
}

/// Two ends of one session, and the lines between them.
pub(super) struct Pair {
    pub(super) now: Time,
    pub(super) ends: [Paths; 2],
    pub(super) lines: Vec<Line>,
    flying: Vec<(Time, usize, Route, Packet)>,
    pub(super) events: [Vec<(Time, Event)>; 2],
    pub(super) drops: Vec<DropReason>,
    pub(super) told: [(Route, Option<Route>); 2],
    counts: [BTreeMap<Route, Traffic>; 2],
    sampled: [BTreeMap<Route, Traffic>; 2],
    talk: Option<(Talk, Time)>,
    published: u64,
    missing: BTreeSet<u64>,
    pub(super) delivered: Vec<Time>,
    unacked: u32,
    next_sample: Time,
    rng: Rng,
}

impl Pair {
    /// A session over the first line.
    pub(super) fn over(lines: Vec<Line>) -> Self {
        let ends = [0, 1].map(|side| Paths::new(IDS[side]));
        let told = [0, 1].map(|side| (lines[0].names[side], None));
        let mut pair = Self {
            now: Time::from_millis(1),
            ends,
            lines,
            flying: vec![],
            events: [vec![], vec![]],
            drops: vec![],
            told,
            counts: [BTreeMap::new(), BTreeMap::new()],
            sampled: [BTreeMap::new(), BTreeMap::new()],
            talk: None,
            published: 0,
            missing: BTreeSet::new(),
            delivered: vec![],
            unacked: 0,
            next_sample: Time::ZERO,
            rng: Rng::from_u64(5),
        };
        for side in [0, 1] {
            let route = pair.lines[0].names[side];
            pair.with(side, |end, now, out| {
                end.session_up(now, IDS[1 - side], ConnId(1), SessionKey::new([7; 32]), route, out);
            });
        }
        pair
    }

    pub(super) fn with(&mut self, side: usize, act: impl FnOnce(&mut Paths, Time, &mut Outbox<Event>)) {
        let mut out = Outbox::new();
        for (route, traffic) in self.counts[side].clone() {
            if self.sampled[side].get(&route) != Some(&traffic) {
                self.sampled[side].insert(route, traffic);
                self.ends[side].handle_traffic(self.now, &IDS[1 - side], route, traffic, &mut out);
            }
        }
        act(&mut self.ends[side], self.now, &mut out);
        while let Some(event) = out.pop_event() {
            match &event {
                Event::Frame { route, bytes } => {
                    self.put(side, *route, bytes.len(), Packet::Frame(bytes.clone()));
                }
                Event::Lines { main, also, switch, .. } => {
                    self.told[side] = (*main, *also);
                    if *switch == Switch::Urgent && self.talk.is_some_and(|(talk, _)| talk.side == side) {
                        for seq in self.missing.clone() {
                            self.data(seq);
                        }
                    }
                }
                _ => {}
            }
            self.events[side].push((self.now, event));
        }
        self.drops.extend(out.take_drops().iter().map(|(reason, _)| reason));
    }

    fn put(&mut self, side: usize, route: Route, bytes: usize, packet: Packet) {
        let Some(line) = self.lines.iter().find(|line| line.names[side] == route).copied() else { return };
        if line.carries[side] && (line.large || bytes <= 600) && !self.rng.chance(line.loss) {
            self.flying.push((self.now + line.delay, 1 - side, line.names[1 - side], packet));
        }
    }

    fn send(&mut self, side: usize, bytes: usize, packet: impl Fn() -> Packet) {
        let (main, also) = self.told[side];
        for route in [Some(main), also].into_iter().flatten() {
            self.counts[side].entry(route).or_default().sent(self.now, 1);
            self.put(side, route, bytes, packet());
        }
    }

    fn data(&mut self, seq: u64) {
        if let Some((talk, _)) = self.talk {
            self.send(talk.side, talk.bytes, || Packet::Data(seq));
        }
    }

    /// One side talks from now on.
    pub(super) fn talk(&mut self, talk: Talk) {
        self.talk = Some((talk, self.now));
    }

    pub(super) fn hush(&mut self) {
        self.talk = None;
    }

    fn arrive(&mut self, side: usize, route: Route, packet: Packet) {
        match packet {
            Packet::Frame(bytes) => {
                self.with(side, |p, now, out| p.handle_frame(now, route, &bytes, out));
                return;
            }
            Packet::Data(seq) => {
                if self.missing.remove(&seq) {
                    self.delivered.push(self.now);
                }
                self.unacked += 1;
            }
            Packet::Ack => {}
        }
        self.counts[side].entry(route).or_default().received(self.now, 1);
        if self.unacked >= 2 {
            self.unacked = 0;
            self.send(side, 60, || Packet::Ack);
        }
    }

    fn publish(&mut self) {
        let Some((talk, due)) = &mut self.talk else { return };
        *due += talk.every;
        self.published += 1;
        let side = talk.side;
        if self.published % 100 == 1 {
            for side in [side, 1 - side] {
                self.with(side, |end, now, out| end.used(now, &IDS[1 - side], out));
            }
        }
        self.missing.insert(self.published);
        self.data(self.published);
    }

    pub(super) fn run(&mut self, time: Duration) {
        let end = self.now + time;
        loop {
            self.flying.sort_by_key(|(at, ..)| *at);
            let arrival = self.flying.first().map(|(at, ..)| *at);
            let timers = self.ends.iter().filter_map(|end| Some(end.poll_timeout()?.at));
            let talk = self.talk.map(|(_, due)| due);
            let sample = (self.counts != self.sampled).then_some(self.next_sample.max(self.now));
            let next = timers.chain(arrival).chain(talk).chain(sample).min();
            let Some(next) = next.filter(|at| *at <= end) else { break };
            self.now = self.now.max(next);
            if arrival == Some(next) {
                let (_, side, route, packet) = self.flying.remove(0);
                self.arrive(side, route, packet);
            } else if talk == Some(next) {
                self.publish();
            } else {
                self.next_sample = self.now + SAMPLE;
                for side in [0, 1] {
                    self.with(side, |p, now, out| p.handle_timeout(now, out));
                    let next = self.ends[side].poll_timeout();
                    assert!(next.is_none_or(|d| d.at > self.now), "{side} loops: {next:?} at {:?}", self.now);
                }
            }
        }
        self.now = end;
    }

    pub(super) fn current(&self) -> [Option<Route>; 2] {
        [0, 1].map(|side| self.ends[side].current(&IDS[1 - side]))
    }

    pub(super) fn is_spare(&self, side: usize, circuit: CircuitId) -> bool {
        self.ends[side].is_spare(self.now, &IDS[1 - side], circuit)
    }

    pub(super) fn frames(&self, side: usize) -> usize {
        self.events[side].iter().filter(|(_, e)| matches!(e, Event::Frame { .. })).count()
    }

    /// The datagrams in flight that are frames.
    pub(super) fn first_frame(&self) -> Vec<u8> {
        let mut frames = self.flying.iter().filter_map(|(.., packet)| match packet {
            Packet::Frame(bytes) => Some(bytes.clone()),
            Packet::Data(_) | Packet::Ack => None,
        });
        frames.next_back().unwrap()
    }

    /// When a side first said so of any way after `since`.
    pub(super) fn turned(&self, side: usize, health: Health, since: Time) -> Option<Duration> {
        let turns = self.events[side].iter().filter(|(at, _)| *at >= since);
        let mut turns = turns.filter(|(_, e)| matches!(e, Event::Health { health: h, .. } if *h == health));
        turns.next().map(|(at, _)| *at - since)
    }

    /// The longest time without a delivery from `since` on.
    pub(super) fn gap(&self, since: Time) -> Duration {
        let times = self.delivered.iter().copied().filter(|at| *at >= since).chain([self.now]);
        let mut before = self.delivered.iter().copied().filter(|at| *at <= since).max().unwrap_or(since);
        let mut longest = Duration::ZERO;
        for at in times {
            longest = longest.max(at - before);
            before = at;
        }
        longest
    }

    pub(super) fn missing(&self) -> usize {
        self.missing.len()
    }
}

/// Prints what happened when a test fails.
impl Drop for Pair {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            return;
        }
        let mut story: Vec<(Time, usize, &Event)> = vec![];
        for (side, events) in self.events.iter().enumerate() {
            story.extend(events.iter().map(|(at, event)| (*at, side, event)));
        }
        story.retain(|(.., event)| !matches!(event, Event::Frame { .. }));
        story.sort_by_key(|(at, side, _)| (*at, *side));
        for (at, side, event) in story.iter().skip(story.len().saturating_sub(60)) {
            std::eprintln!("{at:?} {side} {event:?}");
        }
    }
}
