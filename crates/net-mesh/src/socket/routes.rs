//! Where a peer can be reached: the candidates of a session being set up, then the one that works.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

/// Addresses tried for one session. A record holds as many; more would only be more strangers.
pub(crate) const MAX_CANDIDATES: usize = net_mesh_proto::membership::MAX_CANDIDATES;

/// The ways to one peer.
///
/// Until one of the candidates has proved itself, everything is sent to all of them: a first packet
/// that only tries one address would wait for a timeout when that one is dead.
#[derive(Debug, Default)]
pub(crate) struct PeerRoutes {
    state: Mutex<State>,
    settled: AtomicBool,
}

#[derive(Debug, Default)]
struct State {
    candidates: Vec<SocketAddr>,
    chosen: Option<SocketAddr>,
}

impl PeerRoutes {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The route in use, once one has proved itself.
    pub(crate) fn chosen(&self) -> Option<SocketAddr> {
        self.state().chosen
    }

    /// Every address the peer may be at.
    pub(crate) fn candidates(&self) -> Vec<SocketAddr> {
        self.state().candidates.clone()
    }

    /// Adds an address the peer may be at. False if there is no room.
    pub(crate) fn add_candidate(&self, addr: SocketAddr) -> bool {
        let mut state = self.state();
        if state.candidates.contains(&addr) {
            return true;
        }
        let room = state.candidates.len() < MAX_CANDIDATES;
        if room {
            state.candidates.push(addr);
        }
        room
    }

    /// Notes that packets pass both ways with `addr`. The first such address is the route: it answered
    /// fastest. Free once the routes are settled.
    pub(crate) fn proven(&self, addr: SocketAddr) {
        if !self.settled.load(Ordering::Relaxed) {
            self.state().chosen.get_or_insert(addr);
        }
    }

    /// Ends the search: the peer is authenticated, and what was found stays.
    pub(crate) fn settle(&self) -> Option<SocketAddr> {
        self.settled.store(true, Ordering::Relaxed);
        let mut state = self.state();
        if state.chosen.is_none() {
            state.chosen = state.candidates.first().copied();
        }
        state.chosen
    }
}
