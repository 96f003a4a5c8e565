//! What has passed over each route of each session, and who wants to know.
//!
//! A session keeps the counts of its own routes, so that counting costs a short lock of the session's for each
//! batch and nothing is shared between sessions. Sessions with counts that were not told yet are in a list, each
//! once, so that asking costs as much as there is to tell; who asks is woken by the first change after a time
//! without any, so that an idle node sleeps.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use net_mesh_proto::liveness::Traffic;
use net_mesh_proto::route::Route;
use net_mesh_proto::time::Time;
use tokio::sync::Notify;

use super::routes::PeerRoutes;
use super::slots::{MAX_ACCEPTED, SlotId};

/// A session's counts, the route that was used last first.
///
/// As many as there are routes that can lead to a session; past that the one not used for longest is
/// forgotten, and starts from zero if it is used again.
#[derive(Debug, Default)]
pub(super) struct Counts {
    routes: Vec<Count>,
    /// Whether some of them were not told yet.
    changed: bool,
}

#[derive(Debug)]
struct Count {
    route: Route,
    traffic: Traffic,
    /// Whether it was not told yet.
    changed: bool,
}

impl Counts {
    /// `datagrams` were handed to the system at `now`.
    pub(super) fn sent(&mut self, now: Time, route: Route, datagrams: u64) {
        let traffic = self.change(route);
        if traffic.heard.is_some_and(|heard| heard > now) {
            // They were answered before they could be counted: nobody waits for them.
            traffic.sent += datagrams;
        } else {
            traffic.sent(now, datagrams);
        }
    }

    /// `datagrams` of the peer's arrived at `now`.
    pub(super) fn received(&mut self, now: Time, route: Route, datagrams: u64) {
        self.change(route).received(now, datagrams);
    }

    /// When something last came over a route.
    pub(super) fn heard(&self, route: Route) -> Option<Time> {
        self.routes.iter().find(|count| count.route == route)?.traffic.heard
    }

    /// Whether some of the counts were not told yet.
    pub(super) const fn changed(&self) -> bool {
        self.changed
    }

    /// Adds counts that were not told yet to `told`, up to `max` there. False if some are left.
    fn tell(&mut self, slot: SlotId, max: usize, told: &mut Vec<(SlotId, Route, Traffic)>) -> bool {
        for count in self.routes.iter_mut().filter(|count| count.changed) {
            if told.len() >= max {
                return false;
            }
            count.changed = false;
            told.push((slot, count.route, count.traffic));
        }
        self.changed = false;
        true
    }

    fn change(&mut self, route: Route) -> &mut Traffic {
        match self.routes.iter().position(|count| count.route == route) {
            Some(at) => self.routes[..=at].rotate_right(1),
            None => {
                self.routes.truncate(MAX_ACCEPTED - 1);
                self.routes.insert(0, Count { route, traffic: Traffic::default(), changed: false });
            }
        }
        self.changed = true;
        self.routes[0].changed = true;
        &mut self.routes[0].traffic
    }
}

/// The sessions whose counts have changed.
#[derive(Debug, Default)]
pub(super) struct Changed {
    /// Oldest change first. A session is here once at most.
    sessions: Mutex<VecDeque<Weak<PeerRoutes>>>,
    news: Notify,
}

impl Changed {
    fn sessions(&self) -> MutexGuard<'_, VecDeque<Weak<PeerRoutes>>> {
        self.sessions.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A session has counts to tell, and had none before.
    pub(super) fn add(&self, session: &Arc<PeerRoutes>) {
        let mut sessions = self.sessions();
        sessions.push_back(Arc::downgrade(session));
        if sessions.len() == 1 {
            self.news.notify_one();
        }
    }

    /// At most `max` of the counts that have changed since they were last told.
    pub(super) fn take(&self, max: usize) -> Vec<(SlotId, Route, Traffic)> {
        let mut told = Vec::new();
        while told.len() < max {
            let Some(next) = self.sessions().pop_front() else { return told };
            if let Some(session) = next.upgrade()
                && !session.tell_counts(|slot, counts| counts.tell(slot, max, &mut told))
            {
                self.sessions().push_front(next);
            }
        }
        if !self.sessions().is_empty() {
            self.news.notify_one();
        }
        told
    }

    /// Waits until there is something to [`take`](Self::take); resolves once for it.
    pub(super) async fn news(&self) {
        loop {
            self.news.notified().await;
            // It may have been taken by someone who did not wait for it.
            if !self.sessions().is_empty() {
                return;
            }
        }
    }

    /// Forgets sessions that have ended, in case nobody asks.
    pub(super) fn sweep(&self) {
        self.sessions().retain(|session| session.strong_count() > 0);
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::time::timeout;

    use super::*;

    fn at(ms: u64) -> Time {
        Time::from_millis(ms)
    }

    fn route(port: u16) -> Route {
        Route::Direct(([192, 0, 2, 1], port).into())
    }

    /// A settled session.
    fn session(slot: u64) -> Arc<PeerRoutes> {
        let session = Arc::new(PeerRoutes::new(SlotId::for_test(slot)));
        assert_eq!(session.settle(), (None, false));
        session
    }

    struct Bench {
        changed: Changed,
        a: Arc<PeerRoutes>,
        b: Arc<PeerRoutes>,
    }

    impl Bench {
        fn new() -> Self {
            Self { changed: Changed::default(), a: session(1), b: session(2) }
        }

        fn sent(&self, session: &Arc<PeerRoutes>, ms: u64, port: u16, datagrams: u64) {
            if session.sent(at(ms), route(port), datagrams) {
                self.changed.add(session);
            }
        }

        fn received(&self, session: &Arc<PeerRoutes>, ms: u64, port: u16, datagrams: u64) {
            if session.received(at(ms), route(port), datagrams, 7).untold {
                self.changed.add(session);
            }
        }

        /// Slot, port, sent, received of what is told.
        fn take(&self, max: usize) -> Vec<(SlotId, Route, u64, u64)> {
            self.changed.take(max).into_iter().map(|(s, r, t)| (s, r, t.sent, t.received)).collect()
        }
    }

    #[test]
    fn what_has_changed_is_told_once_and_the_rest_with_the_next_call() {
        let bench = Bench::new();
        let (one, two) = (SlotId::for_test(1), SlotId::for_test(2));
        assert_eq!(bench.take(8), []);
        bench.sent(&bench.a, 1, 1, 3);
        bench.sent(&bench.a, 2, 1, 2);
        bench.received(&bench.a, 3, 2, 1);
        bench.received(&bench.b, 3, 3, 4);
        assert_eq!(bench.take(1), [(one, route(2), 0, 1)]);
        bench.received(&bench.a, 4, 2, 1);
        assert_eq!(bench.take(2), [(one, route(2), 0, 2), (one, route(1), 5, 0)]);
        assert_eq!(bench.take(2), [(two, route(3), 0, 4)]);
        assert_eq!(bench.take(2), []);
        bench.sent(&bench.b, 5, 3, 1);
        assert_eq!(bench.take(2), [(two, route(3), 1, 4)]);
    }

    #[test]
    fn what_is_answered_before_it_is_counted_is_not_waited_for() {
        let bench = Bench::new();
        bench.received(&bench.a, 5, 1, 1);
        bench.sent(&bench.a, 4, 1, 10);
        let traffic = bench.changed.take(1)[0].2;
        assert_eq!((traffic.sent, traffic.waiting), (10, None));
        bench.sent(&bench.a, 5, 1, 2);
        let waiting = bench.changed.take(1)[0].2.waiting.unwrap();
        assert_eq!((waiting.since, waiting.count), (at(5), 2));
    }

    #[test]
    fn a_session_that_has_ended_is_not_told_of_and_leaves_nothing_behind() {
        let Bench { changed, a, b } = Bench::new();
        assert!(a.sent(at(1), route(1), 1));
        changed.add(&a);
        assert!(b.sent(at(1), route(2), 1));
        changed.add(&b);
        drop(a);
        changed.sweep();
        assert_eq!(changed.sessions().len(), 1);
        let told = changed.take(8);
        assert_eq!(told.len(), 1);
        assert_eq!(told[0].0, SlotId::for_test(2));
    }

    #[test]
    fn a_handshake_is_told_of_when_its_peer_is_known() {
        let strange = Arc::new(PeerRoutes::new(SlotId::for_test(1)));
        assert!(!strange.received(at(1), route(1), 1, 7).untold, "a stranger wakes nobody");
        assert_eq!(strange.settle(), (None, true));
        assert_eq!(strange.settle(), (None, false), "once");
        assert!(!strange.received(at(2), route(1), 1, 7).untold, "it is in the list");
    }

    #[test]
    fn the_routes_that_are_counted_are_bounded_and_the_one_in_use_stays() {
        let bench = Bench::new();
        for port in 1..100 {
            bench.sent(&bench.a, 1, port, 1);
            bench.sent(&bench.a, 1, 1, 1);
        }
        let told = bench.take(1000);
        assert_eq!(told.len(), MAX_ACCEPTED);
        assert!(told.contains(&(SlotId::for_test(1), route(1), 100, 0)));
    }

    #[tokio::test(start_paused = true)]
    async fn who_waits_is_woken_by_the_first_change_and_not_again_before_it_has_asked() {
        let bench = Bench::new();
        let idle = Duration::from_secs(60);
        assert!(timeout(idle, bench.changed.news()).await.is_err(), "nothing has passed");
        bench.sent(&bench.a, 1, 1, 1);
        bench.sent(&bench.b, 1, 2, 1);
        assert!(timeout(idle, bench.changed.news()).await.is_ok());
        bench.sent(&bench.b, 1, 1, 1);
        assert!(timeout(idle, bench.changed.news()).await.is_err());
        assert_eq!(bench.take(1).len(), 1);
        assert!(timeout(idle, bench.changed.news()).await.is_ok(), "some are left");
        assert_eq!(bench.take(8).len(), 2);
        bench.sent(&bench.a, 1, 1, 1);
        assert_eq!(bench.take(8).len(), 1, "asked without having waited");
        assert!(timeout(idle, bench.changed.news()).await.is_err(), "and so there is no news");
        bench.sent(&bench.a, 1, 1, 1);
        assert!(timeout(idle, bench.changed.news()).await.is_ok());
    }
}
