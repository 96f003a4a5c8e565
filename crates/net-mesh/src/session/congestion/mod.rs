//! Congestion control that knows of routes.
//!
//! QUIC believes that it has one path. When the route beneath it changes, two of its beliefs are wrong: how much
//! the path carries, and what is in flight on it. So each session's controller keeps one controller
//! ([`Cubic`](quinn::congestion::Cubic)) for each of its last routes, and forgets what was in flight when the route
//! changes: neither does a slow relay get a fast path's window, nor is a fast path filled with a slow one's memory,
//! nor does QUIC wait for acknowledgements that cannot come any more.
//!
//! The route is set from outside, by [`Congestion::switch`], at any moment and on any thread. The controller
//! notices with the next packet; until then its window is what the new route allows besides what is in flight.
//!
//! **Stale.** Packets sent before the last change are *stale*. They fill no window, their acknowledgements open
//! none, and their losses are nobody's fault.
//!
//! Slow start ends by HyStart++ ([`hystart`]), which quinn's controllers lack.

mod hystart;
#[cfg(test)]
mod tests;

use std::any::Any;
use std::collections::VecDeque;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use net_mesh_proto::route::Route;
use quinn::congestion::{Controller, ControllerFactory, ControllerMetrics, Cubic, CubicConfig};
use quinn_proto::RttEstimator;

use hystart::{CSS_DIVISOR, HyStart, Phase};

/// The window of a route that nothing is known of, in bytes: ten packets (RFC 9002 §7.2).
const INITIAL_WINDOW: u64 = 14_720;

/// Routes whose controllers are kept. A session goes back and forth between a direct path and one or two relays.
const KEPT: usize = 4;

/// What Cubic leaves of its window after a loss.
const BETA: f64 = 0.7;

#[derive(Clone, Copy, Debug, Default)]
struct Target {
    /// The route that packets go over, once known.
    route: Option<Route>,
    /// Whether half of the present window is a fair guess where the route is new.
    seeded: bool,
}

#[derive(Debug, Default)]
struct Shared {
    /// Counts the changes of route.
    epoch: AtomicU64,
    target: Mutex<Target>,
}

impl Shared {
    fn target(&self) -> MutexGuard<'_, Target> {
        self.target.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The handle by which a connection's controller is told of its route.
#[derive(Clone, Debug, Default)]
pub(crate) struct Congestion(Arc<Shared>);

impl Congestion {
    /// What makes the connection's controller.
    pub(super) fn factory(&self) -> Arc<dyn ControllerFactory + Send + Sync> {
        Arc::new(Factory(Arc::clone(&self.0)))
    }

    /// The connection was set up over `route`.
    pub(super) fn begin(&self, route: Route) {
        self.0.target().route.get_or_insert(route);
    }

    /// Packets go over `route` from now on, and what is in flight is forgotten. If `seeded`, the route is better than the
    /// one before, and half of its window is a fair guess.
    pub(super) fn switch(&self, route: Route, seeded: bool) {
        *self.0.target() = Target { route: Some(route), seeded };
        self.0.epoch.fetch_add(1, Ordering::Release);
    }
}

struct Factory(Arc<Shared>);

impl ControllerFactory for Factory {
    fn build(self: Arc<Self>, now: Instant, mtu: u16) -> Box<dyn Controller> {
        Box::new(RouteController::new(Arc::clone(&self.0), now, mtu))
    }
}

/// One route's own state.
#[derive(Clone, Debug)]
struct State {
    cubic: Cubic,
    hystart: HyStart,
}

impl State {
    fn new(now: Instant, mtu: u16, window: u64) -> Self {
        let mut config = CubicConfig::default();
        config.initial_window(window);
        Self { cubic: Cubic::new(Arc::new(config), now, mtu), hystart: HyStart::default() }
    }

    fn in_slow_start(&self) -> bool {
        self.cubic.metrics().ssthresh.is_some_and(|threshold| self.cubic.window() < threshold)
    }
}

/// The controller of one connection.
#[derive(Clone)]
struct RouteController {
    shared: Arc<Shared>,
    /// The changes of route that were noticed.
    seen: u64,
    route: Option<Route>,
    current: State,
    /// Those of routes before, latest last.
    saved: VecDeque<(Route, State)>,
    switched: Option<Instant>,
    /// Bytes in flight that were sent before the last change.
    stale: u64,
    in_flight: u64,
    mtu: u16,
}

impl RouteController {
    fn new(shared: Arc<Shared>, now: Instant, mtu: u16) -> Self {
        Self {
            seen: shared.epoch.load(Ordering::Acquire),
            shared,
            route: None,
            current: State::new(now, mtu, INITIAL_WINDOW),
            saved: VecDeque::new(),
            switched: None,
            stale: 0,
            in_flight: 0,
            mtu,
        }
    }

    fn has_changed(&self) -> bool {
        self.shared.epoch.load(Ordering::Acquire) != self.seen
    }

    /// The window that a route starts with: what it had, unless that collapsed when the route died.
    fn window_of(&self, target: Target) -> u64 {
        let known = if target.route == self.route {
            Some(self.current.cubic.window())
        } else {
            self.saved.iter().find(|(route, _)| Some(*route) == target.route).map(|(_, s)| s.cubic.window())
        };
        let guess = if target.seeded { self.current.cubic.window() / 2 } else { 0 };
        known.unwrap_or(guess).max(INITIAL_WINDOW)
    }

    /// Notices a change of route.
    fn sync(&mut self, now: Instant) {
        let epoch = self.shared.epoch.load(Ordering::Acquire);
        if epoch == self.seen {
            return;
        }
        self.seen = epoch;
        let limit = self.current.cubic.window() + self.stale + u64::from(self.mtu);
        let target = *self.shared.target();
        let window = self.window_of(target);
        let fresh = || State::new(now, self.mtu, window);
        if target.route == self.route {
            if self.current.cubic.window() < window {
                self.current = fresh();
            }
        } else {
            let known = self.saved.iter().position(|(route, _)| Some(*route) == target.route);
            let next = known.and_then(|n| self.saved.remove(n)).map(|(_, state)| state);
            let next = next.filter(|state| state.cubic.window() >= window).unwrap_or_else(fresh);
            let before = std::mem::replace(&mut self.current, next);
            if let Some(route) = std::mem::replace(&mut self.route, target.route) {
                if self.saved.len() == KEPT {
                    self.saved.pop_front();
                }
                self.saved.push_back((route, before));
            }
        }
        // What was counted as sent includes packets that are never in flight, which no acknowledgement takes out.
        (self.stale, self.switched) = (self.in_flight.min(limit), Some(now));
        self.in_flight = self.in_flight.min(limit);
    }

    /// Whether a packet sent at `sent` was sent before the last change.
    fn is_stale(&self, sent: Instant) -> bool {
        self.switched.is_some_and(|at| sent < at)
    }

    /// Leaves slow start with the window as it is. Cubic offers no other way than a loss, after which it keeps
    /// a part of the window: so that is made larger before by as much.
    fn leave_slow_start(&mut self, now: Instant, rtt: &RttEstimator) {
        let cubic = &mut self.current.cubic;
        let window = cubic.window();
        #[allow(clippy::cast_precision_loss, clippy::cast_possible_truncation, clippy::cast_sign_loss)]
        let more = (window as f64 * (1.0 / BETA - 1.0)) as u64;
        cubic.on_ack(now, now, more, false, rtt);
        cubic.on_congestion_event(now, now, false, 0);
    }
}

impl Controller for RouteController {
    fn on_sent(&mut self, now: Instant, bytes: u64, last_packet_number: u64) {
        if self.route.is_none() {
            self.route = self.shared.target().route.filter(|_| !self.has_changed());
        }
        self.sync(now);
        self.in_flight += bytes;
        self.current.cubic.on_sent(now, bytes, last_packet_number);
        self.current.hystart.sent(last_packet_number);
    }

    fn on_ack(&mut self, now: Instant, sent: Instant, bytes: u64, app_limited: bool, rtt: &RttEstimator) {
        self.sync(now);
        self.in_flight = self.in_flight.saturating_sub(bytes);
        if self.is_stale(sent) {
            self.stale = self.stale.saturating_sub(bytes);
            return;
        }
        let taken = now - sent;
        // What is sent in the first round trip after a change travels with what is sent again.
        let early = self.switched.is_some_and(|at| sent < at + taken);
        if !self.current.in_slow_start() {
            self.current.hystart.end();
        } else if !early {
            self.current.hystart.sample(taken);
        }
        let bytes = match self.current.hystart.phase() {
            Phase::Conservative { .. } => bytes / CSS_DIVISOR,
            Phase::SlowStart | Phase::Done => bytes,
        };
        self.current.cubic.on_ack(now, sent, bytes, app_limited, rtt);
        if self.current.hystart.take_end() && self.current.in_slow_start() {
            self.leave_slow_start(now, rtt);
        }
    }

    fn on_end_acks(&mut self, now: Instant, in_flight: u64, app_limited: bool, largest: Option<u64>) {
        self.sync(now);
        // The truth: what was counted as sent includes packets that are never in flight.
        self.in_flight = in_flight;
        self.stale = self.stale.min(in_flight);
        self.current.cubic.on_end_acks(now, in_flight, app_limited, largest);
        if let Some(largest) = largest {
            self.current.hystart.acked(largest);
        }
    }

    fn on_congestion_event(&mut self, now: Instant, sent: Instant, persistent: bool, lost_bytes: u64) {
        self.sync(now);
        self.in_flight = self.in_flight.saturating_sub(lost_bytes);
        // Of packets sent at the very moment of the change it is not known which way they went.
        if self.is_stale(sent) || self.switched == Some(sent) {
            self.stale = self.stale.saturating_sub(lost_bytes);
            return;
        }
        // Losses are told for the latest packet lost: all older ones are lost with it.
        self.stale = 0;
        self.current.hystart.end();
        self.current.cubic.on_congestion_event(now, sent, persistent, lost_bytes);
    }

    fn on_mtu_update(&mut self, new_mtu: u16) {
        self.mtu = new_mtu;
        self.current.cubic.on_mtu_update(new_mtu);
        self.saved.iter_mut().for_each(|(_, state)| state.cubic.on_mtu_update(new_mtu));
    }

    fn window(&self) -> u64 {
        if self.has_changed() {
            self.window_of(*self.shared.target()) + self.in_flight
        } else {
            self.current.cubic.window() + self.stale
        }
    }

    fn metrics(&self) -> ControllerMetrics {
        let mut metrics = self.current.cubic.metrics();
        metrics.congestion_window = self.window();
        metrics
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
