//! Which ways lead to a peer: the candidates of a session being set up, then the one that is used, and what has
//! passed over them.

use std::collections::VecDeque;
use std::sync::{Mutex, MutexGuard, PoisonError};

use net_mesh_proto::route::Route;
use net_mesh_proto::time::Time;

use super::counts::Counts;
use super::ring::{Ring, Run};
use super::slots::{SlotId, remember_id};

/// Ways tried for one session: as many addresses as a record holds, and one circuit. More would only be
/// more strangers.
pub(crate) const MAX_CANDIDATES: usize = net_mesh_proto::membership::MAX_CANDIDATES + 1;

/// The ways to one peer.
///
/// Until one of the candidates has proved itself, everything is sent over all of them: a first packet
/// that only tries one way would wait for a timeout when that one is dead.
#[derive(Debug)]
pub(crate) struct PeerRoutes {
    slot: SlotId,
    state: Mutex<State>,
    /// Apart from the rest: who counts what arrives does not wait while something is kept.
    ring: Mutex<Ring>,
}

#[derive(Debug, Default)]
struct State {
    candidates: Vec<Route>,
    chosen: Option<Route>,
    also: Option<Route>,
    settled: bool,
    counts: Counts,
    /// As the table of slots has them.
    ids: VecDeque<u64>,
}

/// Where packets go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Lines {
    pub(super) route: Route,
    /// Where copies go.
    pub(super) also: Option<Route>,
    /// Whether the peer is authenticated.
    pub(super) settled: bool,
}

/// What is new of a session after something arrived.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct News {
    /// There is something to tell of its counts, and was not before.
    pub(super) untold: bool,
    /// Its peer uses a connection id that it has not used before.
    pub(super) new_id: bool,
}

impl State {
    /// Changes the counts. True if there is now something to tell of the session, and was not before.
    fn count(&mut self, change: impl FnOnce(&mut Counts)) -> bool {
        let before = self.counts.changed();
        change(&mut self.counts);
        // A handshake's counts wait until it is known whose they are.
        self.settled && !before
    }
}

impl PeerRoutes {
    pub(super) fn new(slot: SlotId) -> Self {
        Self { slot, state: Mutex::default(), ring: Mutex::default() }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn ring(&self) -> MutexGuard<'_, Ring> {
        self.ring.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The route in use, once one has proved itself or was set.
    pub(crate) fn chosen(&self) -> Option<Route> {
        self.state().chosen
    }

    /// The route in use and the one that copies go over.
    pub(super) fn lines(&self) -> Option<Lines> {
        let state = self.state();
        state.chosen.map(|route| Lines { route, also: state.also, settled: state.settled })
    }

    /// Every way the peer may be reached.
    pub(crate) fn candidates(&self) -> Vec<Route> {
        self.state().candidates.clone()
    }

    /// Adds a way the peer may be reached. False if there is no room.
    pub(super) fn add_candidate(&self, route: Route) -> bool {
        let mut state = self.state();
        if state.candidates.contains(&route) {
            return true;
        }
        let room = state.candidates.len() < MAX_CANDIDATES;
        if room {
            state.candidates.push(route);
        }
        room
    }

    /// Notes that packets pass both ways over `route`. The first such route is used: it answered fastest.
    pub(super) fn proven(&self, route: Route) {
        self.state().chosen.get_or_insert(route);
    }

    /// Uses `route` from now on, and `also` for copies.
    pub(super) fn set(&self, route: Route, also: Option<Route>) {
        let mut state = self.state();
        (state.chosen, state.also) = (Some(route), also.filter(|also| *also != route));
    }

    /// Ends the search: the peer is authenticated, and what was found stays. Returns the route in use, and whether
    /// there is now something to tell of the session.
    pub(super) fn settle(&self) -> (Option<Route>, bool) {
        let mut state = self.state();
        let first = !std::mem::replace(&mut state.settled, true);
        if state.chosen.is_none() {
            state.chosen = state.candidates.first().copied();
        }
        (state.chosen, first && state.counts.changed())
    }

    /// Counts datagrams that were sent over `route`. True if there is now something to tell of the session, and
    /// was not before.
    pub(super) fn sent(&self, now: Time, route: Route, datagrams: u64) -> bool {
        self.state().count(|counts| counts.sent(now, route, datagrams))
    }

    /// Counts datagrams that arrived over `route`, the last of them with `id`, a connection id that this node chose.
    pub(super) fn received(&self, now: Time, route: Route, datagrams: u64, id: u64) -> News {
        let mut state = self.state();
        let untold = state.count(|counts| counts.received(now, route, datagrams));
        let new_id = !state.ids.contains(&id);
        if new_id {
            remember_id(&mut state.ids, id);
        }
        News { untold, new_id }
    }

    /// Lets `tell` see and tell the session's counts.
    pub(super) fn tell_counts<T>(&self, tell: impl FnOnce(SlotId, &mut Counts) -> T) -> T {
        tell(self.slot, &mut self.state().counts)
    }

    /// When something last came over a route.
    pub(super) fn heard(&self, route: Route) -> Option<Time> {
        self.state().counts.heard(route)
    }

    /// Keeps what was sent, for the case that the route turns out to be dead.
    pub(super) fn remember(&self, now: Time, contents: &[u8], segment: usize) {
        self.ring().push(now, contents, segment);
    }

    /// What was sent at `after` or later, to be sent again at `now`.
    pub(super) fn since(&self, now: Time, after: Option<Time>) -> Vec<Run> {
        self.ring().since(now, after)
    }

    /// Frees what was kept if nothing has been sent since `limit`.
    pub(super) fn forget_before(&self, limit: Time) {
        let mut ring = self.ring();
        if ring.last().is_some_and(|last| last < limit) {
            *ring = Ring::default();
        }
    }
}
