//! Which ways lead to a peer: the candidates of a session being set up, then the one that is used.

use std::sync::{Mutex, MutexGuard, PoisonError};

use net_mesh_proto::route::Route;
use net_mesh_proto::time::Time;

use super::ring::{Batch, Ring};

/// Ways tried for one session: as many addresses as a record holds, and one circuit. More would only be
/// more strangers.
pub(crate) const MAX_CANDIDATES: usize = net_mesh_proto::membership::MAX_CANDIDATES + 1;

/// The ways to one peer.
///
/// Until one of the candidates has proved itself, everything is sent over all of them: a first packet
/// that only tries one way would wait for a timeout when that one is dead.
#[derive(Debug, Default)]
pub(crate) struct PeerRoutes {
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    candidates: Vec<Route>,
    chosen: Option<Route>,
    also: Option<Route>,
    ring: Ring,
}

impl PeerRoutes {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The route in use, once one has proved itself or was set.
    pub(crate) fn chosen(&self) -> Option<Route> {
        self.state().chosen
    }

    /// The route in use and the one that copies go over.
    pub(crate) fn lines(&self) -> Option<(Route, Option<Route>)> {
        let state = self.state();
        state.chosen.map(|chosen| (chosen, state.also))
    }

    /// Keeps what was sent, for the case that the route turns out to be dead.
    pub(super) fn remember(&self, now: Time, contents: &[u8], segment: usize) {
        self.state().ring.push(now, contents, segment);
    }

    /// What was sent after `after`.
    pub(super) fn since(&self, after: Option<Time>) -> Vec<Batch> {
        self.state().ring.take_since(after)
    }

    /// Frees what was kept if nothing has been sent since `limit`.
    pub(super) fn forget_before(&self, limit: Time) {
        let mut state = self.state();
        if state.ring.last().is_some_and(|last| last < limit) {
            state.ring = Ring::default();
        }
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
        (state.chosen, state.also) = (Some(route), also);
    }

    /// Ends the search: the peer is authenticated, and what was found stays.
    pub(super) fn settle(&self) -> Option<Route> {
        let mut state = self.state();
        if state.chosen.is_none() {
            state.chosen = state.candidates.first().copied();
        }
        state.chosen
    }
}
