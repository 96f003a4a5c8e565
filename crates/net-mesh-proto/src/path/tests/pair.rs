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

/// What QUIC does besides: how long an acknowledgement waits for a second packet, when the last packet is repeated that
/// asks for one, and how many packets of an application's one of its peer's tells that it took.
const ACK_DELAY: Duration = millis(25);
const REPEAT: Duration = millis(70);
const TAKEN: u64 = 20;

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
    /// Whether more than 600 bytes of what this side sends get through.
    pub(super) large: [bool; 2],
    /// The share that is lost.
    pub(super) loss: f64,
    /// By how much one packet may take longer than another.
    pub(super) jitter: Duration,
    /// Until when everything is held back.
    pub(super) stalled: Time,
}

const LINE: Line = Line {
    names: [Route::Relayed(CircuitId(0)); 2],
    delay: Duration::ZERO,
    carries: [true; 2],
    large: [true; 2],
    loss: 0.0,
    jitter: Duration::ZERO,
    stalled: Time::ZERO,
};

pub(super) fn circuit(n: u64) -> Line {
    let names = [Route::Relayed(CircuitId(n)), Route::Relayed(CircuitId(100 + n))];
    Line { names, delay: millis(40), ..LINE }
}

pub(super) fn direct(n: u16) -> Line {
    let names = [Route::Direct(addr(1, n)), Route::Direct(addr(0, n))];
    Line { names, delay: millis(20), ..LINE }
}

enum Packet {
    Frame(Vec<u8>),
    Data(u64),
    /// Something of the application's that asks for an acknowledgement.
    Note,
    Ack,
}

/// What one end owes the other, and is owed.
#[derive(Clone, Copy, Default)]
struct Quic {
    unacked: u32,
    ack_at: Option<Time>,
    /// When the last note was sent, and how often it was repeated.
    note: Option<(Time, u32)>,
    taken: u64,
}

impl Quic {
    fn due(&self) -> Option<Time> {
        let repeat = self.note.map(|(at, times)| at + REPEAT * (1 << times.min(6)));
        self.ack_at.into_iter().chain(repeat).min()
    }
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
    talks: Vec<(Talk, Time)>,
    published: u64,
    /// Who published it, and its number.
    missing: BTreeSet<(usize, u64)>,
    /// When something was delivered, and who had published it.
    delivered: Vec<(usize, Time)>,
    quic: [Quic; 2],
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
            talks: vec![],
            published: 0,
            missing: BTreeSet::new(),
            delivered: vec![],
            quic: [Quic::default(); 2],
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
                    if *switch == Switch::Urgent {
                        self.replay(side);
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
        if line.carries[side] && (line.large[side] || bytes <= 600) && !self.rng.chance(line.loss) {
            let jitter = self.rng.below(line.jitter.as_micros() as u64 + 1);
            let at = self.now.max(line.stalled) + line.delay + Duration::from_micros(jitter);
            self.flying.push((at, 1 - side, line.names[1 - side], packet));
        }
    }

    fn send(&mut self, side: usize, bytes: usize, packet: impl Fn() -> Packet) {
        let (main, also) = self.told[side];
        for route in [Some(main), also].into_iter().flatten() {
            self.counts[side].entry(route).or_default().sent(self.now, 1);
            self.put(side, route, bytes, packet());
        }
    }

    /// What one side published and the other one does not have is sent again.
    fn replay(&mut self, side: usize) {
        let Some(bytes) = self.bytes(side) else { return };
        let missing: Vec<u64> =
            self.missing.iter().filter(|(of, _)| *of == side).map(|(_, seq)| *seq).collect();
        for seq in missing {
            self.send(side, bytes, || Packet::Data(seq));
        }
    }

    fn bytes(&self, side: usize) -> Option<usize> {
        self.talks.iter().find(|(talk, _)| talk.side == side).map(|(talk, _)| talk.bytes)
    }

    /// One side talks from now on, whether or not the other one does.
    pub(super) fn talk(&mut self, talk: Talk) {
        self.talks.push((talk, self.now));
    }

    pub(super) fn hush(&mut self) {
        self.talks.clear();
    }

    fn arrive(&mut self, side: usize, route: Route, packet: Packet) {
        if let Packet::Frame(bytes) = packet {
            return self.with(side, |p, now, out| p.handle_frame(now, route, &bytes, out));
        }
        self.counts[side].entry(route).or_default().received(self.now, 1);
        let now = self.now;
        let quic = &mut self.quic[side];
        if let Packet::Data(seq) = packet
            && self.missing.remove(&(1 - side, seq))
        {
            self.delivered.push((1 - side, now));
            quic.taken += 1;
            if quic.taken.is_multiple_of(TAKEN) {
                quic.note = Some((now, 0));
                self.send(side, 60, || Packet::Note);
            }
        }
        let quic = &mut self.quic[side];
        if matches!(packet, Packet::Ack) {
            quic.note = quic.note.filter(|(at, _)| now.since(*at) < 2 * self.lines[0].delay);
            return;
        }
        quic.unacked += 1;
        quic.ack_at.get_or_insert(now + ACK_DELAY);
        if quic.unacked >= 2 {
            self.ack(side);
        }
    }

    fn ack(&mut self, side: usize) {
        (self.quic[side].unacked, self.quic[side].ack_at) = (0, None);
        self.send(side, 60, || Packet::Ack);
    }

    /// Acknowledgements that waited, and notes that were not acknowledged.
    fn quic(&mut self, side: usize) {
        let quic = self.quic[side];
        if quic.ack_at.is_some_and(|at| at <= self.now) {
            return self.ack(side);
        }
        if let Some((_, times)) = quic.note {
            self.quic[side].note = Some((self.now, times + 1));
            self.send(side, 60, || Packet::Note);
        }
    }

    fn publish(&mut self, which: usize) {
        let (talk, due) = &mut self.talks[which];
        *due += talk.every;
        self.published += 1;
        let (side, bytes, seq) = (talk.side, talk.bytes, self.published);
        if self.published % 100 == 1 {
            for side in [side, 1 - side] {
                self.with(side, |end, now, out| end.used(now, &IDS[1 - side], out));
            }
        }
        self.missing.insert((side, seq));
        self.send(side, bytes, || Packet::Data(seq));
    }

    pub(super) fn run(&mut self, time: Duration) {
        let end = self.now + time;
        loop {
            self.flying.sort_by_key(|(at, ..)| *at);
            let arrival = self.flying.first().map(|(at, ..)| *at);
            let timers = self.ends.iter().filter_map(|end| Some(end.poll_timeout()?.at));
            let talk = self.talks.iter().enumerate().map(|(n, (_, due))| (*due, n)).min();
            let quic = [0, 1].into_iter().filter_map(|side| Some((self.quic[side].due()?, side))).min();
            let sample = (self.counts != self.sampled).then_some(self.next_sample.max(self.now));
            let own = talk.into_iter().chain(quic).map(|(at, _)| at);
            let next = timers.chain(arrival).chain(own).chain(sample).min();
            let Some(next) = next.filter(|at| *at <= end) else { break };
            self.now = self.now.max(next);
            if arrival == Some(next) {
                let (_, side, route, packet) = self.flying.remove(0);
                self.arrive(side, route, packet);
            } else if let Some((_, which)) = talk.filter(|(at, _)| *at == next) {
                self.publish(which);
            } else if let Some((_, side)) = quic.filter(|(at, _)| *at <= self.now) {
                self.quic(side);
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
            Packet::Data(_) | Packet::Note | Packet::Ack => None,
        });
        frames.next_back().unwrap()
    }

    /// When a side first said so of any way after `since`.
    pub(super) fn turned(&self, side: usize, health: Health, since: Time) -> Option<Duration> {
        let turns = self.events[side].iter().filter(|(at, _)| *at >= since);
        let mut turns = turns.filter(|(_, e)| matches!(e, Event::Health { health: h, .. } if *h == health));
        turns.next().map(|(at, _)| *at - since)
    }

    /// When the next thing that `side` published was delivered after `since`.
    pub(super) fn next_delivery(&self, side: usize, since: Time) -> Option<Time> {
        self.delivered.iter().find(|(of, at)| *of == side && *at >= since).map(|(_, at)| *at)
    }

    /// For how long a way was under suspicion on this side, and how often.
    pub(super) fn suspected(&self, side: usize, of: Route, since: Time) -> (Duration, usize) {
        let turns = self.events[side].iter().filter_map(|(at, event)| match event {
            Event::Health { route, health, .. } if *route == of && *at >= since => Some((*at, *health)),
            _ => None,
        });
        let (mut time, mut times, mut began) = (Duration::ZERO, 0, None);
        for (at, health) in turns.chain([(self.now, Health::Healthy)]) {
            time += began.take().map_or(Duration::ZERO, |began| at - began);
            if health != Health::Healthy {
                times += usize::from(health == Health::Suspect);
                began = Some(at);
            }
        }
        (time, times)
    }

    /// The longest time in which nothing that `side` published was delivered, from `since` on.
    pub(super) fn gap(&self, side: usize, since: Time) -> Duration {
        let of = |side| self.delivered.iter().filter(move |(of, _)| *of == side).map(|(_, at)| *at);
        let times = of(side).filter(|at| *at >= since).chain([self.now]);
        let mut before = of(side).filter(|at| *at <= since).max().unwrap_or(since);
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
