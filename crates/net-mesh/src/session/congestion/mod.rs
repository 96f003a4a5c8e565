//! Congestion control that belongs to the route: what has been learnt about one says nothing about another.
//!
//! QUIC has one controller per connection and does not know that the connection's route changed. The one it is
//! given here holds a [`RouteState`] (Cubic with HyStart++) for each of the last few routes, and the [`Congestion`]
//! that the session keeps tells it, through an epoch, that the connection has moved. At the first callback in the
//! new epoch
//! - the route's own state takes over: the one saved when the connection left, or a fresh one;
//! - what is in flight is stale ([`flight`]): it does not count against the new window, its loss is no sign of
//!   congestion, its acknowledgement no sign of capacity.
//!
//! QUIC asks for the window before anything else happens, so the window is already the new one then. The session
//! makes QUIC ask by sending a tiny datagram.
//!
//! A planned change from a relay to the peer's own address begins with half the relay's window: a direct path is seldom
//! narrower, and slow start from nothing would take several round trips.
//!
//! Bounds: [`MAX_SAVED`] routes besides the present one.

mod flight;
mod hystart;
mod route;
#[cfg(test)]
mod tests;
#[cfg(test)]
mod transfer_tests;

use std::any::Any;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use net_mesh_proto::node::Switch;
use net_mesh_proto::route::Route;
use quinn_proto::RttEstimator;
use quinn_proto::congestion::{Controller, ControllerFactory, ControllerMetrics};

use flight::{Flight, Lost};
use route::RouteState;

/// The window of a route that nothing is known of, in bytes: ten packets (RFC 9002 §7.2).
const INITIAL_WINDOW: u64 = 12_000;

/// Routes remembered besides the present one. A session goes back and forth between its best way and one or two
/// substitutes; older ones are most likely gone.
const MAX_SAVED: usize = 4;

/// By which a connection's controller is told of its route. Clones stand for the same connection.
#[derive(Clone, Debug, Default)]
pub(crate) struct Congestion(Arc<Shared>);

#[derive(Debug, Default)]
struct Shared {
    /// Counts changes of route. What changed is in `target`, which knows its own epoch.
    epoch: AtomicU64,
    target: Mutex<Target>,
}

/// Where the connection travels.
#[derive(Clone, Copy, Debug, Default)]
struct Target {
    epoch: u64,
    /// The route it was set up on.
    first: Option<Route>,
    /// The last change.
    change: Option<Change>,
}

#[derive(Clone, Copy, Debug)]
struct Change {
    route: Route,
    planned: bool,
    at: Instant,
}

impl Congestion {
    /// What makes the connection's controller.
    pub(super) fn factory(&self) -> Arc<dyn ControllerFactory + Send + Sync> {
        Arc::new(Factory(Arc::clone(&self.0)))
    }

    /// The connection was set up over `route`: what is known belongs to it.
    pub(super) fn begin(&self, route: Route) {
        self.0.target().first = Some(route);
    }

    /// The connection travels over `route` from now on. True if that begins a new epoch, which QUIC must be made to
    /// notice.
    pub(super) fn switch(&self, now: Instant, route: Route, switch: Switch) -> bool {
        let planned = match switch {
            Switch::Keep => return false,
            Switch::Planned => true,
            Switch::Urgent => false,
        };
        let mut target = self.0.target();
        target.epoch += 1;
        target.change = Some(Change { route, planned, at: now });
        self.0.epoch.store(target.epoch, Ordering::Release);
        true
    }
}

impl Shared {
    fn target(&self) -> MutexGuard<'_, Target> {
        self.target.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

struct Factory(Arc<Shared>);

impl ControllerFactory for Factory {
    fn build(self: Arc<Self>, now: Instant, mtu: u16) -> Box<dyn Controller> {
        Box::new(RouteController::new(Arc::clone(&self.0), now, mtu))
    }
}

/// What QUIC takes for its controller.
#[derive(Clone)]
struct RouteController {
    shared: Arc<Shared>,
    /// The epoch that `current` is of.
    seen: u64,
    /// The route that `current` is of, once there has been a change.
    route: Option<Route>,
    current: RouteState,
    /// Routes used before; the one left last is last.
    saved: Vec<(Route, RouteState)>,
    flight: Flight,
    mtu: u16,
}

impl RouteController {
    fn new(shared: Arc<Shared>, now: Instant, mtu: u16) -> Self {
        Self {
            shared,
            seen: 0,
            route: None,
            current: RouteState::new(now, INITIAL_WINDOW, mtu),
            saved: Vec::new(),
            flight: Flight::default(),
            mtu,
        }
    }

    /// What changed since the last callback.
    fn pending(&self) -> Option<Target> {
        (self.shared.epoch.load(Ordering::Acquire) != self.seen).then(|| *self.shared.target())
    }

    /// The state that takes over with a change; `None` where nothing changes.
    fn arrival(&self, from: Option<Route>, change: Change) -> Option<RouteState> {
        if from == Some(change.route) {
            // There and back again without a packet between, or the same route after a failure.
            let fresh = || RouteState::new(change.at, INITIAL_WINDOW, self.mtu);
            return (!change.planned).then(|| self.current.resumed(change.at).unwrap_or_else(fresh));
        }
        let saved = self.saved.iter().find(|(route, _)| *route == change.route);
        let saved = saved.and_then(|(_, state)| state.resumed(change.at));
        if saved.is_some() {
            return saved;
        }
        let upgrade =
            change.planned && matches!((from, change.route), (Some(Route::Relayed(_)), Route::Direct(_)));
        let window = if upgrade { self.current.window() / 2 } else { 0 };
        Some(RouteState::new(change.at, window.max(INITIAL_WINDOW), self.mtu))
    }

    /// Enters the present epoch.
    fn sync(&mut self, now: Instant) {
        let Some(target) = self.pending() else { return };
        self.seen = target.epoch;
        let from = self.route.or(target.first);
        let Some(change) = target.change else { return };
        let Some(mut next) = self.arrival(from, change) else { return };
        next.arrive(now, self.mtu);
        let mut before = std::mem::replace(&mut self.current, next);
        self.saved.retain(|(route, _)| *route != change.route);
        if let Some(from) = from.filter(|from| *from != change.route) {
            before.leave(now);
            if self.saved.len() >= MAX_SAVED {
                self.saved.remove(0);
            }
            self.saved.push((from, before));
        }
        self.route = Some(change.route);
        self.flight.change(now, u64::from(self.mtu));
    }
}

impl Controller for RouteController {
    fn on_sent(&mut self, now: Instant, bytes: u64, last_packet_number: u64) {
        self.sync(now);
        let window = self.window();
        self.flight.on_sent(bytes, last_packet_number, window, u64::from(self.mtu));
    }

    fn on_ack(&mut self, now: Instant, sent: Instant, bytes: u64, app_limited: bool, rtt: &RttEstimator) {
        self.sync(now);
        if self.flight.on_ack(sent, bytes) {
            self.current.on_ack(now, sent, bytes, app_limited, rtt);
        }
    }

    fn on_end_acks(&mut self, now: Instant, in_flight: u64, app_limited: bool, largest: Option<u64>) {
        self.sync(now);
        self.flight.on_end_acks(in_flight, largest);
        self.current.on_end_acks(now, app_limited);
    }

    fn on_congestion_event(&mut self, now: Instant, sent: Instant, persistent: bool, lost: u64) {
        self.sync(now);
        match self.flight.on_lost(sent, lost) {
            Lost::Before => {}
            // How long nothing came through was measured over both routes.
            Lost::Both => self.current.on_congestion_event(now, sent, false, lost),
            Lost::Here => self.current.on_congestion_event(now, sent, persistent, lost),
        }
    }

    fn on_mtu_update(&mut self, new_mtu: u16) {
        self.mtu = new_mtu;
        self.current.on_mtu_update(new_mtu);
    }

    /// The window of the route, and what is stale. QUIC asks at any time, also before it is told anything else in
    /// a new epoch.
    fn window(&self) -> u64 {
        let change = self.pending().and_then(|target| {
            let change = target.change?;
            self.arrival(self.route.or(target.first), change)
        });
        match change {
            Some(next) => next.window().saturating_add(self.flight.all(u64::from(self.mtu))),
            None => self.current.window().saturating_add(self.flight.stale()),
        }
    }

    fn metrics(&self) -> ControllerMetrics {
        self.current.metrics()
    }

    fn clone_box(&self) -> Box<dyn Controller> {
        Box::new(self.clone())
    }

    fn initial_window(&self) -> u64 {
        INITIAL_WINDOW
    }

    fn into_any(self: Box<Self>) -> Box<dyn Any> {
        self
    }
}
