//! What is known of the capacity of one route: a window, and how it came about.

use std::sync::Arc;
use std::time::{Duration, Instant};

use quinn_proto::RttEstimator;
use quinn_proto::congestion::{Controller, ControllerMetrics, Cubic, CubicConfig};

use super::INITIAL_WINDOW;
use super::hystart::HyStart;

/// Datagrams at the least that may be in flight (RFC 9002 §7.2).
const MIN_DATAGRAMS: u64 = 2;

/// How long what is known of a route is believed while the connection is elsewhere. A window that has not been
/// used for five minutes counts as unknown (RFC 7661 §4.4.3).
const SAVED_FOR: Duration = Duration::from_secs(300);

/// Cubic with HyStart++, whose clock stands still while the connection travels elsewhere: growth follows the
/// time since the last loss, and time spent elsewhere has proven nothing.
#[derive(Clone, Debug)]
pub(super) struct RouteState {
    cubic: Cubic,
    hystart: HyStart,
    mtu: u64,
    /// Time spent elsewhere, in all.
    away: Duration,
    /// Since when the connection has been elsewhere.
    left: Option<Instant>,
    /// When the newest packet was sent of those acknowledged at once.
    newest: Option<Instant>,
    /// HyStart has spoken.
    leaves_slow_start: bool,
    /// The part of the window that may be used, as long as a return to this route is not a round trip old.
    released: Option<u64>,
}

impl RouteState {
    /// A route that nothing is known of, with a window to begin with.
    pub(super) fn new(now: Instant, window: u64, mtu: u16) -> Self {
        let mut config = CubicConfig::default();
        config.initial_window(window);
        Self {
            cubic: Cubic::new(Arc::new(config), now, mtu),
            hystart: HyStart::new(),
            mtu: u64::from(mtu),
            away: Duration::ZERO,
            left: None,
            newest: None,
            leaves_slow_start: false,
            released: None,
        }
    }

    pub(super) fn window(&self) -> u64 {
        let window = self.cubic.window().max(MIN_DATAGRAMS * self.mtu);
        self.released.map_or(window, |released| released.min(window))
    }

    pub(super) fn metrics(&self) -> ControllerMetrics {
        self.cubic.metrics()
    }

    pub(super) const fn leave(&mut self, now: Instant) {
        self.left = Some(now);
    }

    /// How long the connection has been elsewhere; zero where it travels here.
    fn absent(&self, now: Instant) -> Duration {
        self.left.map_or(Duration::ZERO, |left| now.saturating_duration_since(left))
    }

    /// The connection travels here again, from now on; what it sent elsewhere is none of this route's business.
    /// `None` where a newcomer's window says more than this one: it has not been used for too long, or it had
    /// collapsed, as on a route that was dying.
    ///
    /// The route's pipe is empty, and QUIC knows the round trip of another one: the whole window would leave in
    /// a burst, of which a queue may drop what the pipe would have held. So half of it comes first (but never
    /// less than any newcomer has), and the other half as the first is acknowledged.
    pub(super) fn resumed(&self, now: Instant) -> Option<Self> {
        if self.absent(now) >= SAVED_FOR || self.cubic.window() < INITIAL_WINDOW {
            return None;
        }
        let released = Some((self.cubic.window() / 2).max(INITIAL_WINDOW));
        Some(Self { away: self.away + self.absent(now), left: None, released, ..self.clone() })
    }

    /// The connection has come here; packets are of at most `mtu` bytes.
    pub(super) fn arrive(&mut self, now: Instant, mtu: u16) {
        self.newest = None;
        self.hystart.arrive(now);
        self.on_mtu_update(mtu);
    }

    pub(super) fn on_mtu_update(&mut self, mtu: u16) {
        self.mtu = u64::from(mtu);
        self.cubic.on_mtu_update(mtu);
    }

    pub(super) fn on_ack(
        &mut self,
        now: Instant,
        sent: Instant,
        bytes: u64,
        app_limited: bool,
        rtt: &RttEstimator,
    ) {
        let (here, then) = (self.local(now), self.local(sent));
        if std::mem::take(&mut self.leaves_slow_start) {
            self.leave_slow_start(here, rtt);
        }
        self.newest = Some(self.newest.map_or(sent, |newest| newest.max(sent)));
        self.cubic.on_ack(here, then, self.hystart.growth(bytes), app_limited, rtt);
        self.released = self
            .released
            .map(|released| released.saturating_add(bytes))
            .filter(|released| *released < self.cubic.window());
    }

    pub(super) fn on_end_acks(&mut self, now: Instant, app_limited: bool) {
        // Delay that the application's trickle meets is not of its own making.
        if let Some(sent) = self.newest.take().filter(|_| !app_limited)
            && self.hystart.sample(now, sent)
        {
            self.leaves_slow_start = true;
        }
    }

    pub(super) fn on_congestion_event(&mut self, now: Instant, sent: Instant, persistent: bool, lost: u64) {
        self.hystart.end();
        self.leaves_slow_start = false;
        self.released = None;
        self.cubic.on_congestion_event(self.local(now), self.local(sent), persistent, lost);
    }

    /// This route's time.
    fn local(&self, at: Instant) -> Instant {
        at.checked_sub(self.away).unwrap_or(at)
    }

    /// Goes on in congestion avoidance, with the window as it is.
    ///
    /// Cubic offers no way to say so. One that has just met persistent congestion grows from its least window
    /// to a threshold, and then goes on as after a slow start without loss (RFC 9438 §4.10). So one is made
    /// whose threshold is just below the present window, and taken there by one acknowledgement.
    fn leave_slow_start(&mut self, now: Instant, rtt: &RttEstimator) {
        self.hystart.end();
        let (window, least) = (self.cubic.window(), MIN_DATAGRAMS * self.mtu);
        // Twice reduced to 0.7 that is 0.98 of the window, which must not be below the least.
        if window < 2 * least {
            return;
        }
        let mut config = CubicConfig::default();
        config.initial_window(2 * window);
        let mtu = u16::try_from(self.mtu).unwrap_or(u16::MAX);
        let mut cubic = Cubic::new(Arc::new(config), now, mtu);
        cubic.on_congestion_event(now, now, true, 0);
        cubic.on_ack(now, now, window - cubic.window(), false, rtt);
        self.cubic = cubic;
    }
}
