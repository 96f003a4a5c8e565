//! What has passed over each route of each session, and who wants to know.
//!
//! Counting costs a short lock for each batch. Counts that have changed since they were last asked for are
//! kept in a list, so that asking costs as much as there is to tell; who asks is woken by the first change after
//! a time without any, so that an idle node sleeps.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use net_mesh_proto::liveness::Traffic;
use net_mesh_proto::route::Route;
use net_mesh_proto::time::Time;
use tokio::sync::Notify;

use super::slots::SlotId;

/// Whose, and over which route.
type Key = (SlotId, Route);

#[derive(Debug, Default)]
struct Table {
    counts: HashMap<Key, (Traffic, bool)>,
    /// Those that have changed, oldest change first.
    changed: Vec<Key>,
}

/// The counts of all sessions.
#[derive(Debug, Default)]
pub(super) struct Counts {
    table: Mutex<Table>,
    news: Notify,
}

impl Counts {
    fn table(&self) -> MutexGuard<'_, Table> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn change(&self, slot: SlotId, route: Route, change: impl FnOnce(&mut Traffic)) {
        let mut table = self.table();
        let Table { counts, changed } = &mut *table;
        let (traffic, told) = counts.entry((slot, route)).or_default();
        change(traffic);
        if !std::mem::replace(told, true) {
            changed.push((slot, route));
            if changed.len() == 1 {
                self.news.notify_one();
            }
        }
    }

    pub(super) fn sent(&self, now: Time, slot: SlotId, route: Route, datagrams: usize) {
        self.change(slot, route, |traffic| traffic.sent(now, datagrams as u64));
    }

    pub(super) fn received(&self, now: Time, slot: SlotId, route: Route, datagrams: usize) {
        self.change(slot, route, |traffic| traffic.received(now, datagrams as u64));
    }

    /// When something last came over a route.
    pub(super) fn heard(&self, slot: SlotId, route: Route) -> Option<Time> {
        self.table().counts.get(&(slot, route))?.0.heard
    }

    /// At most `max` of the counts that have changed since they were last told.
    pub(super) fn take(&self, max: usize) -> Vec<(SlotId, Route, Traffic)> {
        let mut table = self.table();
        let Table { counts, changed } = &mut *table;
        let some = changed.len().min(max);
        let told = changed.drain(..some).filter_map(|key| {
            let (traffic, told) = counts.get_mut(&key)?;
            *told = false;
            Some((key.0, key.1, *traffic))
        });
        let told = told.collect();
        if !changed.is_empty() {
            self.news.notify_one();
        }
        told
    }

    /// Waits until a count has changed that was not told.
    pub(super) async fn news(&self) {
        self.news.notified().await;
    }

    /// Forgets what `keep` does not hold for.
    pub(super) fn retain(&self, keep: impl Fn(SlotId, Route) -> bool) {
        self.table().counts.retain(|(slot, route), _| keep(*slot, *route));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn route(port: u16) -> Route {
        Route::Direct(([192, 0, 2, 1], port).into())
    }

    #[test]
    fn what_has_changed_is_told_once_and_the_rest_with_the_next_call() {
        let counts = Counts::default();
        let (a, b) = (SlotId::for_test(1), SlotId::for_test(2));
        assert!(counts.take(8).is_empty());
        counts.sent(Time::from_millis(1), a, route(1), 3);
        counts.sent(Time::from_millis(2), a, route(1), 2);
        counts.received(Time::from_millis(3), b, route(2), 1);
        let [(slot, _, traffic)] = counts.take(1)[..] else { panic!("one") };
        assert_eq!((slot, traffic.sent, traffic.waiting.map(|w| w.count)), (a, 5, Some(5)));
        let [(slot, _, traffic)] = counts.take(8)[..] else { panic!("the other") };
        assert_eq!((slot, traffic.received, traffic.heard), (b, 1, Some(Time::from_millis(3))));
        assert!(counts.take(8).is_empty());
        counts.retain(|slot, _| slot == b);
        assert_eq!(
            (counts.heard(a, route(1)), counts.heard(b, route(2))),
            (None, Some(Time::from_millis(3)))
        );
    }

    #[tokio::test(start_paused = true)]
    async fn who_waits_is_woken_by_the_first_change_and_not_again_before_it_has_asked() {
        let counts = Counts::default();
        let idle = std::time::Duration::from_secs(60);
        assert!(tokio::time::timeout(idle, counts.news()).await.is_err(), "nothing has passed");
        (0..5).for_each(|_| counts.sent(Time::ZERO, SlotId::for_test(1), route(1), 1));
        assert!(tokio::time::timeout(idle, counts.news()).await.is_ok());
        assert!(tokio::time::timeout(idle, counts.news()).await.is_err());
        assert_eq!(counts.take(8).len(), 1);
        counts.sent(Time::ZERO, SlotId::for_test(1), route(1), 1);
        assert!(tokio::time::timeout(idle, counts.news()).await.is_ok());
    }
}
