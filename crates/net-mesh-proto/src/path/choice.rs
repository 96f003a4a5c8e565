//! Which way does a session go, and which way do its packets go meanwhile?
//!
//! Two questions with two answers. *Officially* a session travels one way: that is what the peer table shows, and
//! what links and routes follow from. It changes seldom. The *lines* are where packets go at the moment: the
//! official way while it is well; while it is suspect the best of the others, and copies over the suspect one.

use core::time::Duration;

use super::Event;
use super::session::{Cx, Lines, Session};
use super::way::{Standing, Way};
use crate::liveness::detector::{CLEAN, KNOWN_PROBES};
use crate::liveness::{Cause, Health};
use crate::node::Switch;
use crate::route::Route;
use crate::time::Time;

/// A direct way replaces another direct one only if it saves more than this: changing over costs a burst of
/// acknowledgements, and measurements of one way differ by milliseconds.
const WORTHWHILE: Duration = Duration::from_millis(5);

/// How long packets go two ways before a way that stays suspect is given up officially.
const COPIES_FOR: Duration = Duration::from_secs(3);

/// The same for a way that answers again, but not reliably.
const WATCHED_FOR: Duration = Duration::from_secs(30);

/// How long a way must have been silent for a session to be called cut off.
const CUT_OFF_AFTER: Duration = Duration::from_secs(4);

/// A peer that pings on a way it opened is heard there; for so long that counts for a circuit that is not proven
/// from this side yet.
const HEARD_LATELY: Duration = Duration::from_secs(2);

/// Between two changes of the main line among ways that are not well.
const SWITCH_PAUSE: Duration = Duration::from_millis(500);

/// A direct way that another one replaces is remembered for so long.
const REPLACED_FOR: Duration = Duration::from_secs(10);

impl Session {
    /// Decides, and tells what has changed.
    pub(super) fn settle(&mut self, cx: &mut Cx<'_>) {
        let lost = self.lines.is_some_and(|lines| self.is_unsound(cx.now, lines.main));
        if let Some(next) = self.official(cx.now) {
            self.travel(cx, next);
        }
        self.set_lines(cx, lost);
        self.forget_replaced(cx.now);
        let stranded = self.is_stranded();
        if stranded && !self.stranded {
            cx.out.event(Event::Stranded { peer: self.peer });
        }
        self.stranded = stranded;
    }

    /// Whether what was sent lately over `route` may be lost.
    fn is_unsound(&self, now: Time, route: Route) -> bool {
        let moved = self.theirs.is_some_and(|(theirs, since)| {
            theirs != route
                && self.way(route).and_then(|way| way.detector.heard()).is_none_or(|at| at < since)
        });
        let _ = now;
        moved || self.way(route).is_none_or(|way| way.health() != Health::Healthy)
    }

    /// Whether no way is known to work.
    pub(super) fn is_stranded(&self) -> bool {
        !self.ways.iter().any(|way| way.standing() <= Standing::Untried)
    }

    /// Whether no way works: each is silent or was never known to work, and one has been silent for so long that it is no
    /// passing weakness. Where nobody can be heard, ways do not fail: it is not the peers' fault.
    pub(super) fn is_cut_off(&self, now: Time) -> bool {
        let silent_long = |way: &Way| {
            matches!(way.standing(), Standing::Silent | Standing::Failed)
                && way.detector.reason().1 + CUT_OFF_AFTER <= now
        };
        self.ways.iter().all(|way| way.standing() >= Standing::Untried) && self.ways.iter().any(silent_long)
    }

    /// The way that the session should officially travel, if that is another one.
    fn official(&mut self, now: Time) -> Option<Route> {
        let current = self.current_way();
        let best = self.ways.iter().filter(|way| Some(way.route) != self.current && way.is_proven());
        let best = best.min_by_key(|way| (way.standing(), way.is_relay(), self.is_other(way), rtt(way)));
        let best = best.map(|way| (way.route, way.standing(), way.is_relay()));
        let Some(current) = current else {
            // Anything is better than nothing.
            return best.map(|(route, ..)| route).or_else(|| self.ways.first().map(|way| way.route));
        };
        let (route, standing, relay) = best?;
        let (_, since) = current.detector.reason();
        // One that answers now and then is not silent since it fell under suspicion.
        let silent = current.detector.answered().map_or(since, |at| at.max(since));
        // Whatever silences the one may silence the other: it counts for what it has answered since.
        let alive = self.way(route).and_then(|way| way.detector.answered()).is_some_and(|at| at >= since);
        if !alive && current.standing() >= Standing::Stirring {
            return None;
        }
        match (current.standing(), standing) {
            (Standing::Good, Standing::Good) => self.preferred(now),
            (Standing::Lossy, Standing::Good) => self.cleaner(now),
            (Standing::Failed, Standing::Good | Standing::Lossy | Standing::Stirring) => Some(route),
            (Standing::Stirring | Standing::Silent, Standing::Good) => {
                // A mapping that is expected to end works until it does.
                let expected = current.detector.reason().0 == Cause::MappingEnds;
                let watched = now.since(since) >= WATCHED_FOR && !expected;
                let lasts = now.since(silent) >= COPIES_FOR || watched;
                // Another straight way is as good in kind: there is nothing to wait for.
                let straight = !relay && current.route.direct().is_some();
                (straight || lasts).then_some(route)
            }
            (Standing::Silent, Standing::Stirring) => (now.since(silent) >= COPIES_FOR).then_some(route),
            _ => None,
        }
    }

    /// Of circuits the one that is meant comes first.
    fn is_other(&self, way: &Way) -> bool {
        way.is_relay() && self.offered.map(Route::Relayed) != Some(way.route)
    }

    /// Of ways that are well, the one that is better than the present one.
    fn preferred(&self, now: Time) -> Option<Route> {
        let current = self.current_way()?;
        let good =
            self.ways.iter().filter(|way| way.standing() == Standing::Good && way.route != current.route);
        let better = good.filter(|way| self.is_better(now, way, current));
        better.min_by_key(|way| (way.is_relay(), rtt(way))).map(|way| way.route)
    }

    fn is_better(&self, now: Time, way: &Way, current: &Way) -> bool {
        // The peer has moved there, and is not heard on the way of before any more, or leads. It may not know yet that
        // this side has moved as well: two that follow each other at once never meet.
        let announced = self.theirs.filter(|(theirs, _)| *theirs == way.route);
        let gone = announced.is_some_and(|(_, since)| {
            let silent = current.detector.heard().is_none_or(|at| at < since);
            silent && now.since(since) >= current.detector.rtt().patience()
        });
        match (current.route, way.route) {
            (Route::Relayed(_), Route::Direct(_)) => true,
            (Route::Direct(_), Route::Relayed(_)) => false,
            (Route::Relayed(_), Route::Relayed(circuit)) => {
                self.offered == Some(circuit) || (announced.is_some() && (gone || !self.leads()))
            }
            (Route::Direct(_), Route::Direct(_)) => {
                if announced.is_some() && (gone || !self.leads()) {
                    return true;
                }
                let (Some(new), Some(old)) =
                    (way.detector.rtt().smoothed(), current.detector.rtt().smoothed())
                else {
                    return false;
                };
                // Who follows leaves this to the other side.
                self.leads() && new + WORTHWHILE < old
            }
        }
    }

    /// A way that loses little, where the present one loses much.
    fn cleaner(&self, now: Time) -> Option<Route> {
        let present = self.current_way()?.detector.loss(now)?;
        let clean = |way: &&Way| {
            let (loss, known) = way.detector.odds();
            let less = loss <= CLEAN && 2 * loss < present && known >= KNOWN_PROBES;
            way.standing() == Standing::Good && less && Some(way.route) != self.current
        };
        self.ways.iter().filter(clean).min_by_key(|way| (way.is_relay(), rtt(way))).map(|way| way.route)
    }

    /// The session travels `route` from now on.
    pub(super) fn travel(&mut self, cx: &mut Cx<'_>, route: Route) {
        let now = cx.now;
        let leaves_lossy = self.current_way().is_some_and(|way| way.standing() == Standing::Lossy);
        if let Some(way) = self.current.and_then(|current| self.way_mut(current)).filter(|_| leaves_lossy) {
            way.bench(now);
        }
        self.current = Some(route);
        // Whatever was offered is in use now, or has come too late.
        self.offered = None;
        let rtt = self.way(route).and_then(|way| way.detector.rtt().smoothed()).unwrap_or_default();
        cx.out.event(Event::Moved { peer: self.peer, conn: self.conn, route, rtt });
        self.ping(cx, route);
    }

    /// Where packets are to go now.
    fn wanted_lines(&self, now: Time) -> Option<Lines> {
        let current = self.current_way()?;
        let lines = Lines { main: current.route, also: None };
        if current.health() == Health::Healthy {
            return Some(lines);
        }
        // A network that has changed takes all ways with it: the first that answers is it.
        let others = self.ways.iter().filter(|way| way.route != current.route);
        let usable = others.filter(|way| way.is_proven() || self.is_usable_circuit(now, way));
        let best = usable.min_by_key(|way| (way.standing(), way.is_relay(), rtt(way)));
        let Some(best) = best else { return Some(lines) };
        let copies = (current.health() == Health::Suspect).then_some(current.route);
        if best.standing() < current.standing() || (best.standing() == Standing::Untried && copies.is_some())
        {
            return Some(Lines { main: best.route, also: copies });
        }
        let also = (best.health() != Health::Failed && copies.is_some()).then_some(best.route);
        Some(Lines { main: current.route, also })
    }

    /// A circuit carries from the moment it is opened; who opened it says so on it at once.
    fn is_usable_circuit(&self, now: Time, way: &Way) -> bool {
        let heard = way.detector.heard().is_some_and(|at| now.since(at) < HEARD_LATELY);
        way.is_relay() && (heard || now.since(way.since) < HEARD_LATELY)
    }

    fn set_lines(&mut self, cx: &mut Cx<'_>, lost: bool) {
        let revived = core::mem::take(&mut self.revived);
        let Some(wanted) = self.wanted_lines(cx.now) else { return };
        let just = self.switched.is_some_and(|at| cx.now.since(at) < SWITCH_PAUSE);
        let revived = revived && !just;
        if just && self.lines.is_some_and(|lines| self.is_no_better(lines, wanted)) {
            return;
        }
        let before = self.lines.replace(wanted);
        let switch = match before {
            Some(before) if before.main != wanted.main && !lost => Switch::Planned,
            Some(before) if before.main != wanted.main => Switch::Urgent,
            Some(_) if revived => Switch::Urgent,
            Some(before) if before != wanted => Switch::Keep,
            Some(_) => return,
            None => Switch::Urgent,
        };
        if switch != Switch::Keep {
            self.switched = Some(cx.now);
        }
        let Lines { main, also } = wanted;
        cx.out.event(Event::Lines { peer: self.peer, conn: self.conn, main, also, switch });
        if before.is_none_or(|before| before.main != main) && self.current != Some(main) {
            // So that the peer knows at once, and does the same.
            self.ping(cx, main);
        }
    }

    /// Whether another main line would be one bad way for another. Both answer now and then, and each change costs
    /// a repetition.
    fn is_no_better(&self, lines: Lines, wanted: Lines) -> bool {
        let there = self.way(lines.main).is_some_and(|way| way.health() != Health::Failed);
        let good = self.way(wanted.main).is_some_and(|way| way.standing() <= Standing::Lossy);
        lines.main != wanted.main && there && !good
    }

    /// Addresses at which a peer is not any more are not pinged for long.
    fn forget_replaced(&mut self, now: Time) {
        let well = self
            .current_way()
            .is_some_and(|way| way.route.direct().is_some() && way.standing() <= Standing::Lossy);
        let current = self.current;
        self.ways.retain(|way| {
            let since = way.detector.reason().1;
            let replaced = well && way.route.direct().is_some() && way.health() != Health::Healthy;
            let old = now.since(since) >= REPLACED_FOR;
            let given_up = way.health() == Health::Failed && now.since(since) >= super::way::GIVEN_UP_AFTER;
            Some(way.route) == current || !((replaced && old) || given_up)
        });
    }

    /// When something changes because a suspicion lasts.
    pub(super) fn bench_at(&self, now: Time) -> Option<Time> {
        let way = self.current_way().filter(|way| way.health() == Health::Suspect)?;
        let since = way.detector.reason().1;
        let again = self.switched.map(|at| at + SWITCH_PAUSE);
        [again, Some(since + COPIES_FOR), Some(since + WATCHED_FOR)]
            .into_iter()
            .flatten()
            .filter(|at| *at > now)
            .min()
    }

    /// Everything is doubted: the host's network has changed.
    pub(super) fn network_changed(&mut self, cx: &mut Cx<'_>) {
        let routes: alloc::vec::Vec<Route> = self.ways.iter().map(|way| way.route).collect();
        for route in routes {
            if let Some(way) = self.way_mut(route) {
                way.begin_anew();
            }
            self.doubt(cx, route, Cause::NetworkChanged);
            self.ping(cx, route);
        }
    }
}

fn rtt(way: &Way) -> Duration {
    way.detector.rtt().smoothed().unwrap_or(Duration::MAX)
}
