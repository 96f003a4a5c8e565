//! What passed over each route of each connection, as the mesh's socket counts it, and when the node hears of it.
//!
//! A count that changed is told [`SOON`] after the first change since the node was told last, and at once where the
//! node is about to handle a timeout, so that it never acts on what is no longer so. What does not change costs
//! nothing. Bounded by the connections there are and the routes each of them remembers.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use net_mesh_proto::liveness::Traffic;
use net_mesh_proto::node::{ConnId, Input};
use net_mesh_proto::route::Route;
use net_mesh_proto::time::Time;

/// Between a change and the node's hearing of it.
const SOON: Duration = Duration::from_millis(10);

#[derive(Debug, Default)]
pub(super) struct Meter {
    counts: BTreeMap<(ConnId, Route), Traffic>,
    changed: BTreeSet<(ConnId, Route)>,
    due: Option<Time>,
}

impl Meter {
    /// A packet of `conn` leaves over `route`.
    pub(super) fn sent(&mut self, now: Time, conn: ConnId, route: Route) {
        self.counts.entry((conn, route)).or_default().sent(now, 1);
        self.touch(now, (conn, route));
    }

    /// A packet of `conn` has come over `route`.
    pub(super) fn received(&mut self, now: Time, conn: ConnId, route: Route) {
        self.counts.entry((conn, route)).or_default().received(now, 1);
        self.touch(now, (conn, route));
    }

    fn touch(&mut self, now: Time, what: (ConnId, Route)) {
        self.changed.insert(what);
        self.due.get_or_insert(now + SOON);
    }

    /// When the node is to be told.
    pub(super) const fn due(&self) -> Option<Time> {
        self.due
    }

    /// What has changed since the last call.
    pub(super) fn take(&mut self) -> Vec<Input<'static>> {
        self.due = None;
        let changed = std::mem::take(&mut self.changed);
        let told = changed.into_iter().filter_map(|(conn, route)| {
            let traffic = *self.counts.get(&(conn, route))?;
            Some(Input::Traffic { conn, route, traffic })
        });
        told.collect()
    }

    /// Forgets a route that a connection does not take packets from any more.
    pub(super) fn forget_route(&mut self, conn: ConnId, route: Route) {
        self.counts.remove(&(conn, route));
    }

    /// Forgets a connection.
    pub(super) fn forget(&mut self, conn: ConnId) {
        self.counts.retain(|(of, _), _| *of != conn);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told(meter: &mut Meter) -> Vec<(ConnId, Traffic)> {
        let told = meter.take().into_iter();
        told.map(|input| match input {
            Input::Traffic { conn, traffic, .. } => (conn, traffic),
            other => panic!("{other:?}"),
        })
        .collect()
    }

    #[test]
    fn a_change_is_told_once_soon_after_the_first_and_nothing_is_told_where_nothing_changed() {
        let ms = Time::from_millis;
        let route = Route::Direct("198.18.0.1:1".parse().unwrap());
        let mut meter = Meter::default();
        assert_eq!(meter.due(), None);
        (100..104).for_each(|at| meter.sent(ms(at), ConnId(1), route));
        meter.received(ms(104), ConnId(2), route);
        assert_eq!(meter.due(), Some(ms(110)));
        let [(first, of_first), (second, of_second)] = told(&mut meter)[..] else { panic!("two counts") };
        assert_eq!((first, of_first.sent, of_first.heard), (ConnId(1), 4, None));
        assert_eq!(of_first.waiting.map(|waiting| (waiting.since, waiting.count)), Some((ms(100), 4)));
        assert_eq!((second, of_second.received, of_second.heard), (ConnId(2), 1, Some(ms(104))));
        assert_eq!((meter.due(), told(&mut meter).len()), (None, 0));

        meter.sent(ms(200), ConnId(1), route);
        meter.forget(ConnId(1));
        assert!(told(&mut meter).is_empty(), "of what has ended nothing is told");
    }
}
