//! One session: its ways, and what is asked and answered on them. What it does by itself, and when, is in `due`.

mod due;

use alloc::vec::Vec;
use core::time::Duration;

use super::way::{Standing, Way};
use super::window::Window;
use super::{Event, MAX_WAYS};
use crate::drops::DropReason;
use crate::id::NodeId;
use crate::liveness::mapping::{Lifetimes, PAUSE};
use crate::liveness::{Cause, Evidence, Frame, Health, Issue, Kind, SessionKey, Traffic};
use crate::node::ConnId;
use crate::outbox::Outbox;
use crate::route::{CircuitId, Route};
use crate::time::Time;

/// Traffic within this time makes a session busy: its way is probed as fast as it answers.
const BUSY: Duration = Duration::from_secs(1);

/// A session that the application used within this time keeps a second way ready.
const WARM: Duration = Duration::from_secs(30);

/// The shortest pause between the probes of a busy way.
const PROBE_LEAST: Duration = Duration::from_millis(25);

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
}
