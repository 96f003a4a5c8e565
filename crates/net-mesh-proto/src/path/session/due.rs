//! What a session does by itself, and when: it judges its ways, probes them, and wishes for a second one.

use alloc::vec::Vec;
use core::time::Duration;

use super::{Cx, PROBE_LEAST, Session};
use crate::liveness::{Cause, Health, Issue, View, Witness};
use crate::path::way::{BENCHED_PROBE, Standing, Way};
use crate::path::{DEAD_AFTER, Event};
use crate::route::Route;
use crate::time::{Deadline, Time};

/// A busy way is probed after so many datagrams sent, and no sooner: probes are then a few percent of what passes.
const PROBE_EVERY: u64 = 16;

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

/// How long the side with the higher id leaves it to the other one to keep the session alive, and to find it a
/// second way: parts of a hundred of the pause, and a time.
const FOLLOWER_PATIENCE: (u32, Duration) = (150, Duration::from_secs(3));

/// Between two questions to others whether they can be heard.
const WITNESSES_AGAIN: Duration = Duration::from_secs(1);

/// Between two wishes for a second way: when all is well, and when it is not.
const STANDBY_AGAIN: (Duration, Duration) = (Duration::from_secs(5), Duration::from_millis(500));

/// The longest such pause, where nobody could help several times.
const STANDBY_MOST: Duration = Duration::from_secs(30);

/// For how long it believes that.
const DOUBT_LEASE: Duration = Duration::from_millis(700);

impl Session {
    /// Looks at everything: what has changed its health, which way to go, what to ask.
    pub(in crate::path) fn tick(&mut self, cx: &mut Cx<'_>) {
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
        if self.standby_at(cx.now).is_none_or(|at| at > cx.now) {
            return;
        }
        self.standby_asked = Some(cx.now);
        let urgent = self.is_unwell();
        cx.out.event(Event::Standby { peer: self.peer, urgent });
    }

    /// Whether the way in use is not well, for whatever reason.
    pub(in crate::path) fn is_unwell(&self) -> bool {
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
    pub(in crate::path) fn is_dead(&self, now: Time, excuse: Time) -> bool {
        now >= self.alive.max(excuse) + DEAD_AFTER
    }

    /// When something is due.
    pub(in crate::path) fn poll_timeout(&self, cx: &Cx<'_>) -> Option<Deadline> {
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
