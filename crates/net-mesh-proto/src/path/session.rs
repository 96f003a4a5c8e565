//! One session: its ways, what is asked and answered on them, and what is due.

use alloc::vec::Vec;
use core::time::Duration;

use super::way::{BENCHED_PROBE, Standing, Way};
use super::window::Window;
use super::{DEAD_AFTER, Event, MAX_WAYS};
use crate::drops::DropReason;
use crate::id::NodeId;
use crate::liveness::mapping::{Lifetimes, PAUSE};
use crate::liveness::{Cause, Evidence, Frame, Health, Issue, Kind, SessionKey, Traffic, View, Witness};
use crate::node::ConnId;
use crate::outbox::Outbox;
use crate::route::{CircuitId, Route};
use crate::time::{Deadline, Time};

/// Traffic within this time makes a session busy: its way is probed as fast as it answers.
const BUSY: Duration = Duration::from_secs(1);

/// A session that the application used within this time keeps a second way ready.
const WARM: Duration = Duration::from_secs(30);

/// A busy way is probed after so many datagrams sent, and no sooner: probes are then a few percent of what passes.
const PROBE_EVERY: u64 = 16;

/// The shortest pause between the probes of a busy way.
const PROBE_LEAST: Duration = Duration::from_millis(25);

/// A busy way that the application uses is probed at least this often, however little is sent.
const PROBE_MOST: Duration = Duration::from_millis(500);

/// When an idle way is probed again whose probe was not answered.
const LATE_AGAIN: Duration = Duration::from_millis(200);

/// The same for a way that is in use, and not just now.
const WARM_PROBE: Duration = Duration::from_secs(5);

/// How often the second way of a busy session is probed.
const STANDBY_PROBE: Duration = Duration::from_secs(3);

/// How often the peer is told that the way in use is doubted.
const DOUBT_EVERY: Duration = Duration::from_millis(200);

/// For how long it believes that.
const DOUBT_LEASE: Duration = Duration::from_millis(700);

/// How long the side with the higher id leaves it to the other one to keep the session alive, and to find it a
/// second way: parts of a hundred of the pause, and a time.
const FOLLOWER_PATIENCE: (u32, Duration) = (150, Duration::from_secs(3));

/// Between two questions to others whether they can be heard.
const WITNESSES_AGAIN: Duration = Duration::from_secs(1);

/// Between two wishes for a second way: when all is well, and when it is not.
const STANDBY_AGAIN: (Duration, Duration) = (Duration::from_secs(5), Duration::from_millis(500));

/// The longest such pause, where nobody could help several times.
const STANDBY_MOST: Duration = Duration::from_secs(30);

/// A way that is silent for less than this has lost nothing that QUIC would not repeat as soon.
const REVIVE_AFTER: Duration = Duration::from_millis(200);

/// An observation of a mapping sooner than this after the network changed says nothing of the NAT.
const SETTLED: Duration = Duration::from_secs(5);

/// What one peer tells of the NAT counts if another one says the same within this time.
const AGREES_WITHIN: Duration = Duration::from_secs(60);

/// An idle mapping that is gone sooner than this is gone early (RFC 4787 §4.3).
const EARLY: Duration = Duration::from_secs(120);

/// What a session is told by the machine around it.
pub(super) struct Cx<'a> {
    pub(super) now: Time,
    /// The end of the last time in which nobody was looking.
    pub(super) excuse: Time,
    /// When anything was last heard from anybody.
    pub(super) heard: Time,
    /// How many sessions there are.
    pub(super) sessions: usize,
    /// Which peer last told of another mapping, and when.
    pub(super) lesson: &'a mut Option<(NodeId, Time)>,
    /// When the host's network changed last, or a NAT did what changes addresses.
    pub(super) changed: &'a mut Time,
    pub(super) lifetimes: &'a mut Lifetimes,
    pub(super) out: &'a mut Outbox<Event>,
}

/// What the socket was told: where packets go, and where their copies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Lines {
    pub(super) main: Route,
    pub(super) also: Option<Route>,
}

#[derive(Debug)]
pub(super) struct Session {
    pub(super) me: NodeId,
    pub(super) peer: NodeId,
    pub(super) conn: ConnId,
    pub(super) key: SessionKey,
    /// The way it travels, officially.
    pub(super) current: Option<Route>,
    pub(super) lines: Option<Lines>,
    /// The circuit that was offered last: meant to replace the one in use.
    pub(super) offered: Option<CircuitId>,
    /// What the peer said last about the way it travels, and when it began to say so.
    pub(super) theirs: Option<(Route, Time)>,
    nonce: u64,
    window: Window,
    pub(super) ways: Vec<Way>,
    /// When a datagram of the session's passed last.
    busy: Option<Time>,
    /// When the application last used it, and since when it has.
    used: Option<Time>,
    used_since: Time,
    /// Datagrams sent since the last probe.
    packets: u64,
    /// When the peer last said that it doubts the way in use.
    doubted: Option<Time>,
    standby_asked: Option<Time>,
    told_doubt: Option<Time>,
    /// When a probe was last answered, on whatever way.
    pub(super) alive: Time,
    /// The way in use was silent and answers again: what was sent meanwhile is to be sent again.
    pub(super) revived: bool,
    pub(super) stranded: bool,
    /// Fell under suspicion since the machine last asked.
    pub(super) newly_suspect: bool,
    issues: u8,
    /// How often small packets arrived and nothing else did.
    undelivered: u32,
    /// When packets last began to go another way, or were sent again.
    pub(super) switched: Option<Time>,
    /// When others were last asked whether they can be heard.
    witnesses_asked: Option<Time>,
    /// Wishes for a second way in a row that came to nothing.
    pub(super) standby_failures: u32,
}

impl Session {
    pub(super) fn new(
        now: Time,
        me: NodeId,
        peer: NodeId,
        conn: ConnId,
        key: SessionKey,
        route: Route,
    ) -> Self {
        // The handshake passed both ways over it.
        let mut first = Way::new(now, route);
        first.accepted = true;
        Self {
            me,
            peer,
            conn,
            key,
            current: Some(route),
            lines: Some(Lines { main: route, also: None }),
            offered: None,
            theirs: Some((route, now)),
            nonce: 0,
            window: Window::default(),
            ways: Vec::from([first]),
            busy: None,
            used: None,
            used_since: now,
            packets: 0,
            doubted: None,
            standby_asked: None,
            told_doubt: None,
            alive: now,
            revived: false,
            stranded: false,
            newly_suspect: false,
            issues: 0,
            undelivered: 0,
            switched: None,
            witnesses_asked: None,
            standby_failures: 0,
        }
    }

    /// Whether this side decides where both could.
    pub(super) fn leads(&self) -> bool {
        self.me < self.peer
    }

    pub(super) fn way(&self, route: Route) -> Option<&Way> {
        self.ways.iter().find(|way| way.route == route)
    }

    pub(super) fn way_mut(&mut self, route: Route) -> Option<&mut Way> {
        self.ways.iter_mut().find(|way| way.route == route)
    }

    pub(super) fn has(&self, route: Route) -> bool {
        self.way(route).is_some()
    }

    pub(super) fn current_way(&self) -> Option<&Way> {
        self.way(self.current?)
    }

    fn is_busy(&self, now: Time) -> bool {
        self.busy.is_some_and(|at| now.since(at) < BUSY)
    }

    /// Whether a second way is to be kept ready.
    pub(super) fn is_warm(&self, now: Time) -> bool {
        self.used.is_some_and(|at| now.since(at) < WARM)
    }

    /// Whether the way in use is not well, by this side's own evidence. A way that answers again is only watched: two
    /// sides that wait for each other would never trust it.
    fn doubts(&self) -> bool {
        self.current_way().is_some_and(|way| {
            let own = way.detector.reason().0 != Cause::PeerDoubts;
            way.health() != Health::Healthy && own && way.standing() != Standing::Stirring
        })
    }

    pub(super) fn remember(&mut self, now: Time, route: Route) {
        if self.has(route) {
            return;
        }
        if self.ways.len() >= MAX_WAYS {
            let lines = self.lines;
            let used = |way: &&Way| {
                Some(way.route) == self.current
                    || lines.is_some_and(|l| l.main == way.route || l.also == Some(way.route))
            };
            let spare = self.ways.iter().filter(|way| !used(way));
            let worst = spare.max_by_key(|way| (way.standing(), core::cmp::Reverse(way.since)));
            let worst = worst.map(|way| way.route);
            self.ways.retain(|way| Some(way.route) != worst);
        }
        self.ways.push(Way::new(now, route));
    }

    /// Tells the outside, once, that packets on a remembered way are the session's.
    pub(super) fn accept(&mut self, route: Route, out: &mut Outbox<Event>) {
        let (peer, conn) = (self.peer, self.conn);
        if let Some(way) = self.way_mut(route).filter(|way| !way.accepted) {
            way.accepted = true;
            out.event(Event::Accept { peer, conn, route });
        }
    }

    /// Tries a way, unless that is being done or it is proven already.
    pub(super) fn try_route(&mut self, cx: &mut Cx<'_>, route: Route) {
        let known = self.has(route);
        self.remember(cx.now, route);
        // The peer may change over as soon as it hears the ping.
        self.accept(route, cx.out);
        let now = cx.now;
        let Some(way) = self.way_mut(route) else { return };
        if !known {
            way.begin_trial(now);
            self.try_again(cx, route);
        } else if way.health() != Health::Healthy {
            self.ping(cx, route);
        }
    }

    /// Sends the next ping of a trial; after the last one the way is forgotten.
    fn try_again(&mut self, cx: &mut Cx<'_>, route: Route) {
        let now = cx.now;
        let Some(way) = self.way_mut(route) else { return };
        if way.try_again(now) {
            return self.ping(cx, route);
        }
        if self.offered.map(Route::Relayed) == Some(route) {
            self.offered = None;
        }
        self.ways.retain(|way| way.route != route);
    }

    pub(super) fn ping(&mut self, cx: &mut Cx<'_>, route: Route) {
        let (now, in_use, doubt) = (cx.now, self.current == Some(route), self.doubts());
        self.nonce += 1;
        let nonce = self.nonce;
        if self.lines.is_some_and(|lines| lines.main == route) {
            self.packets = 0;
        }
        if doubt && !in_use {
            self.told_doubt = Some(now);
        }
        let Some(way) = self.way_mut(route) else { return };
        way.sends(now);
        let traffic = way.detector.traffic();
        // Of 64 bits the lower 32 are exchanged.
        let (sent, received) = (traffic.sent as u32, traffic.received as u32);
        way.detector.probed(now, nonce, sent);
        let ping = Frame {
            kind: Kind::Ping,
            in_use,
            doubt: doubt && !in_use,
            nonce,
            sent,
            received,
            addr: route.direct(),
        };
        let bytes = if way.pads() {
            ping.encode_padded(&self.key, &self.me)
        } else {
            ping.encode(&self.key, &self.me)
        };
        cx.out.event(Event::Frame { route, bytes });
    }

    fn pong(&mut self, cx: &mut Cx<'_>, route: Route, ping: Frame) {
        let in_use = self.current == Some(route);
        let now = cx.now;
        let traffic = self.way_mut(route).map(|way| {
            way.sends(now);
            way.detector.traffic()
        });
        let traffic = traffic.unwrap_or_default();
        let pong = Frame {
            kind: Kind::Pong,
            in_use,
            doubt: false,
            nonce: ping.nonce,
            sent: traffic.sent as u32,
            received: traffic.received as u32,
            addr: route.direct(),
        };
        cx.out.event(Event::Frame { route, bytes: pong.encode(&self.key, &self.me) });
    }

    /// A genuine ping arrived.
    pub(super) fn pinged(&mut self, cx: &mut Cx<'_>, route: Route, ping: Frame, padded: bool) {
        let now = cx.now;
        if !self.window.is_fresh(ping.nonce) {
            if self.has(route) {
                self.pong(cx, route, ping);
            }
            return cx.out.drop(DropReason::UnknownTransaction);
        }
        let known = self.has(route);
        self.remember(now, route);
        self.accept(route, cx.out);
        self.alive = now;
        if let Some(way) = self.way_mut(route) {
            way.detector.hear(now, ping.sent);
        }
        if ping.in_use && self.theirs.is_none_or(|(theirs, _)| theirs != route) {
            self.theirs = Some((route, now));
        }
        if ping.doubt && self.current.is_some_and(|current| current != route) {
            self.doubted = Some(now);
            if let Some(current) = self.current {
                self.doubt(cx, current, Cause::PeerDoubts);
            }
        }
        self.pong(cx, route, ping);
        if !known {
            if let Some(way) = self.way_mut(route) {
                way.begin_trial(now);
                // Until it is proven nobody gets much more than they sent (RFC 9000 §8.1).
                way.small = !padded;
            }
            self.try_again(cx, route);
        } else if self.way(route).is_some_and(|way| way.waits(now)) {
            // The peer may not have known the session yet when it was asked.
            self.try_again(cx, route);
        } else if self
            .way(route)
            .is_some_and(|way| way.health() != Health::Healthy && self.is_quiet(now, way))
        {
            // It comes through again.
            self.ping(cx, route);
        }
    }

    fn is_quiet(&self, now: Time, way: &Way) -> bool {
        way.detector
            .last_probe()
            .is_none_or(|at| now.since(at) >= PROBE_LEAST.max(way.detector.rtt().patience()))
    }

    /// A genuine pong arrived. Returns whether it was an answer, and whether that proved the way.
    pub(super) fn ponged(&mut self, cx: &mut Cx<'_>, route: Route, pong: Frame) -> Option<bool> {
        let now = cx.now;
        let (main, was) = (self.lines.map(|lines| lines.main), self.alive);
        let way = self.way_mut(route)?;
        let silent = way.standing() >= Standing::Silent;
        way.detector.answer(now, pong.nonce, pong.received, pong.sent)?;
        let proved = way.trial.take().is_some();
        let (peer_lost, pause) = (way.seen, core::mem::take(&mut way.pause));
        if let Some(addr) = pong.addr.filter(|_| route.direct().is_some())
            && peer_lost.is_none_or(|(seen, _)| seen != addr)
        {
            way.seen = Some((addr, now));
            if peer_lost.is_some() {
                // The peer counts for each address of this node's by itself.
                way.begin_anew();
            }
            if let Some((_, since)) = peer_lost.filter(|_| now.since(*cx.changed) > SETTLED) {
                self.mapping_changed(cx, pause, now.since(since));
            }
        } else if route.direct().is_some() {
            cx.lifetimes.survived(pause);
        }
        self.alive = now;
        if pong.in_use && self.theirs.is_none_or(|(theirs, _)| theirs != route) {
            self.theirs = Some((route, now));
        }
        self.revived |= silent && main == Some(route) && now.since(was) >= REVIVE_AFTER;
        Some(proved)
    }

    fn mapping_changed(&mut self, cx: &mut Cx<'_>, pause: Duration, age: Duration) {
        // Others will notice as well: it is one lesson.
        *cx.changed = cx.now;
        cx.out.event(Event::Rebound);
        // One peer alone may be wrong, or lie: what is learned here changes all sessions.
        let told = cx.lesson.replace((self.peer, cx.now));
        let agrees = told.is_some_and(|(peer, at)| peer != self.peer && cx.now.since(at) < AGREES_WITHIN);
        if !agrees && cx.sessions > 1 {
            return;
        }
        if pause >= PAUSE {
            cx.lifetimes.expired(pause);
            if pause < EARLY {
                self.report(cx, Issue::MappingExpiresEarly);
            }
        } else {
            cx.lifetimes.replaced(age);
            self.report(cx, Issue::MappingReplaced);
        }
    }

    fn report(&mut self, cx: &mut Cx<'_>, issue: Issue) {
        let bit = Issue::ALL.iter().position(|known| *known == issue).map_or(0, |n| 1u8 << n);
        if self.issues & bit == 0 {
            self.issues |= bit;
            cx.out.event(Event::Issue { peer: self.peer, issue });
        }
    }

    /// The issues that were found.
    pub(super) fn issues(&self) -> impl Iterator<Item = Issue> + '_ {
        Issue::ALL.into_iter().enumerate().filter(|(n, _)| self.issues & 1 << n != 0).map(|(_, issue)| issue)
    }

    /// What has passed on a way so far.
    pub(super) fn count(&mut self, cx: &mut Cx<'_>, route: Route, traffic: Traffic) {
        let now = cx.now;
        let main = self.lines.map(|lines| lines.main);
        let Some(way) = self.way_mut(route) else { return };
        let sent = way.detector.count(now, traffic);
        if sent > 0 {
            way.sends(now);
        }
        let heard = way.detector.traffic().heard;
        if main == Some(route) {
            self.packets += sent;
        }
        self.alive = self.alive.max(heard.unwrap_or_default());
        self.busy = Some(now);
    }

    /// The application uses the session.
    pub(super) fn used(&mut self, now: Time) {
        if !self.is_warm(now) {
            self.used_since = now;
        }
        self.used = Some(now);
    }

    pub(super) fn doubt(&mut self, cx: &mut Cx<'_>, route: Route, cause: Cause) {
        let now = cx.now;
        let news = self.way_mut(route).and_then(|way| way.detector.doubt(now, cause));
        if let Some(evidence) = news {
            self.tell_health(cx, route, Health::Suspect, evidence);
        }
    }

    fn tell_health(&mut self, cx: &mut Cx<'_>, route: Route, health: Health, evidence: Evidence) {
        self.newly_suspect |= health == Health::Suspect && self.current == Some(route);
        let (loss, _) = self.way(route).map_or((0, 0), |way| way.detector.odds());
        if evidence.cause == Cause::Undelivered && loss < 500 {
            // Once may be a report that overtook what it speaks of.
            self.undelivered += 1;
            if self.undelivered >= 2 {
                self.report(cx, Issue::LargePacketsLost);
            }
        }
        cx.out.event(Event::Health { peer: self.peer, route, health, evidence });
    }

    /// Looks at everything: what has changed its health, which way to go, what to ask.
    pub(super) fn tick(&mut self, cx: &mut Cx<'_>) {
        self.assess(cx);
        self.settle(cx);
        self.probe(cx);
        self.want_standby(cx);
    }

    fn assess(&mut self, cx: &mut Cx<'_>) {
        let barred = self.doubted.is_some_and(|at| cx.now.since(at) < DOUBT_LEASE);
        let mut turned = Vec::new();
        let heard = self.ways.iter().filter_map(|way| way.detector.traffic().heard).max();
        let mut throttled = false;
        for way in self.ways.iter_mut().filter(|way| way.is_proven()) {
            way.judge_loss(cx.now);
            throttled |= way.is_throttled(cx.now);
            let silent = way.detector.answered().unwrap_or(way.since);
            let witness = if cx.heard > silent + Duration::from_millis(500) {
                Witness::Others
            } else if cx.sessions <= 1 {
                Witness::Nobody
            } else {
                Witness::AllSilent
            };
            let (cause, doubted) = way.detector.reason();
            let expects_end = cause == Cause::MappingEnds
                && way.seen.is_some_and(|(_, since)| {
                    let lasts =
                        cx.lifetimes.ends().is_some_and(|(_, outlived)| cx.now.since(since) < outlived);
                    since < doubted && lasts
                });
            let barred = (barred && Some(way.route) == self.current) || expects_end;
            let expects = way.detector.traffic().heard >= heard;
            let view = View { excuse: cx.excuse, witness, barred, expects };
            if let Some(evidence) = way.detector.assess(cx.now, view) {
                turned.push((way.route, way.health(), evidence));
            }
            let unheard = way.health() == Health::Suspect && witness == Witness::AllSilent;
            if unheard && self.witnesses_asked.is_none_or(|at| cx.now.since(at) >= WITNESSES_AGAIN) {
                self.witnesses_asked = Some(cx.now);
                self.newly_suspect = true;
            }
        }
        if throttled {
            self.report(cx, Issue::Throttled);
        }
        for (route, health, evidence) in turned {
            self.tell_health(cx, route, health, evidence);
        }
        self.expect_end(cx);
    }

    /// A mapping that is about to be replaced is doubted in time, and one that was not is a lesson.
    fn expect_end(&mut self, cx: &mut Cx<'_>) {
        let Some((expected, outlived)) = cx.lifetimes.ends() else { return };
        let current = self.current_way().filter(|way| way.route.direct().is_some());
        let Some((route, age)) = current.and_then(|way| Some((way.route, cx.now.since(way.seen?.1)))) else {
            return;
        };
        if age >= outlived {
            cx.lifetimes.outlived();
        } else if age >= expected && self.is_warm(cx.now) {
            self.doubt(cx, route, Cause::MappingEnds);
        }
    }

    /// Sends the probes that are due.
    fn probe(&mut self, cx: &mut Cx<'_>) {
        let due: Vec<Route> = self
            .ways
            .iter()
            .filter(|way| self.probe_at(cx, way).is_some_and(|at| at <= cx.now))
            .map(|way| way.route)
            .collect();
        for route in due {
            match self.way(route).map(Way::is_proven) {
                Some(true) => self.ping(cx, route),
                Some(false) => self.try_again(cx, route),
                None => {}
            }
        }
    }

    fn is_line(&self, route: Route) -> bool {
        self.lines.is_some_and(|lines| lines.main == route)
    }

    /// When a way is probed next.
    fn probe_at(&self, cx: &Cx<'_>, way: &Way) -> Option<Time> {
        let now = cx.now;
        if !way.is_proven() {
            return way.trial_due();
        }
        let busy = self.is_busy(now);
        let main = self.is_line(way.route);
        let doubt = self.doubts() && main && Some(way.route) != self.current;
        let tell = doubt.then(|| self.told_doubt.map_or(now, |at| at + DOUBT_EVERY));
        let own = if main && way.health() == Health::Healthy {
            Some(self.main_probe(cx, way, busy))
        } else {
            // Whether it loses less than the way in use is to be known soon.
            let lossy = self.current_way().is_some_and(|way| way.standing() == Standing::Lossy);
            let pace = if lossy && busy { BENCHED_PROBE } else { STANDBY_PROBE };
            let standby = self.is_warm(now).then_some(pace);
            way.spare_probe(now, busy, standby)
        };
        [own, tell].into_iter().flatten().min()
    }

    /// When the way that packets go over is probed next.
    fn main_probe(&self, cx: &Cx<'_>, way: &Way, busy: bool) -> Time {
        let now = cx.now;
        let Some(last) = way.detector.last_probe() else { return now };
        let pressing = way.detector.pressing();
        if way.detector.is_late(now, cx.excuse) && pressing.is_some_and(|since| last < since.max(cx.excuse)) {
            return now;
        }
        if busy && self.packets >= PROBE_EVERY {
            let pace = way.detector.rtt().smoothed().unwrap_or(PROBE_MOST);
            return last + pace.clamp(PROBE_LEAST, PROBE_MOST);
        }
        if self.is_warm(now) {
            return last + if busy { PROBE_MOST } else { WARM_PROBE };
        }
        if way.detector.has_late() {
            return last + way.detector.rtt().patience().max(LATE_AGAIN);
        }
        let pause = cx.lifetimes.keep_alive();
        if self.leads() {
            return last.max(way.detector.heard().unwrap_or(last).min(way.sent_at)) + pause;
        }
        last.max(way.detector.heard().unwrap_or(last)) + pause * FOLLOWER_PATIENCE.0 / 100
    }

    fn want_standby(&mut self, cx: &mut Cx<'_>) {
        let Some(at) = self.standby_at(cx.now).filter(|at| *at <= cx.now) else { return };
        let _ = at;
        self.standby_asked = Some(cx.now);
        let urgent = self.is_unwell();
        cx.out.event(Event::Standby { peer: self.peer, urgent });
    }

    /// Whether the way in use is not well, for whatever reason.
    pub(super) fn is_unwell(&self) -> bool {
        self.current_way().is_none_or(|way| way.health() != Health::Healthy)
    }

    /// When a second way is wished for next, if at all.
    fn standby_at(&self, now: Time) -> Option<Time> {
        let unwell = self.is_unwell();
        let spare = self.ways.iter().any(|way| {
            Some(way.route) != self.current && way.is_relay() && way.standing() <= Standing::Untried
        });
        if spare || self.stranded || (!unwell && !self.is_warm(now)) {
            return None;
        }
        let again = if unwell { STANDBY_AGAIN.1 } else { STANDBY_AGAIN.0 };
        let again = again.saturating_mul(1 << self.standby_failures.min(6)).min(STANDBY_MOST);
        let first = if unwell || self.leads() { Time::ZERO } else { self.used_since + FOLLOWER_PATIENCE.1 };
        Some(self.standby_asked.map_or(first, |at| first.max(at + again)))
    }

    /// Whether it has been out of reach for so long that it should be given up.
    pub(super) fn is_dead(&self, now: Time, excuse: Time) -> bool {
        now >= self.alive.max(excuse) + DEAD_AFTER
    }

    /// When something is due.
    pub(super) fn poll_timeout(&self, cx: &Cx<'_>) -> Option<Deadline> {
        let now = cx.now;
        let probes = self.ways.iter().filter_map(|way| self.probe_at(cx, way));
        let health = self.ways.iter().filter(|way| way.is_proven());
        let health = health.filter_map(|way| way.detector.poll_timeout(now, cx.excuse));
        let unwell = self.is_unwell();
        let own = [
            probes.min().map(|at| Deadline::new(at, "probe a way")),
            health.min().map(|at| Deadline::new(at, "an answer is late")),
            self.standby_at(now).map(|at| Deadline::new(at, "a second way is wished for")),
            self.bench_at(now).map(|at| Deadline::new(at, "a way stays under suspicion")),
            self.end_at(cx).map(|at| Deadline::new(at, "a mapping is expected to end")),
            unwell.then(|| Deadline::new(self.alive.max(cx.excuse) + DEAD_AFTER, "give a session up")),
            self.lease_ends(now).map(|at| Deadline::new(at, "the peer's doubt ends")),
        ];
        own.into_iter().fold(None, Deadline::earliest)
    }

    fn lease_ends(&self, now: Time) -> Option<Time> {
        self.doubted.map(|at| at + DOUBT_LEASE).filter(|at| *at > now)
    }

    fn end_at(&self, cx: &Cx<'_>) -> Option<Time> {
        let (expected, outlived) = cx.lifetimes.ends()?;
        let way = self.current_way().filter(|way| way.route.direct().is_some())?;
        let since = way.seen?.1;
        let warm = self.is_warm(cx.now);
        [warm.then(|| since + expected), Some(since + outlived)].into_iter().flatten().find(|at| *at > cx.now)
    }
}
