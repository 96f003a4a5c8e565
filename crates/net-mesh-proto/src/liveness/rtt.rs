//! How long does an answer take, and how long is one waited for? (RFC 6298, with RFC 9002's granularity)

use core::time::Duration;

/// What is added to the time that answers take before one is late: the peer may be busy, and QUIC itself may
/// hold an acknowledgement back for as long (RFC 9000 §18.2).
const SLACK: Duration = Duration::from_millis(25);

/// The shortest patience. On a local network a process that is merely descheduled is late by tens of milliseconds.
const LEAST_PATIENCE: Duration = Duration::from_millis(50);

/// The longest patience: a way that needs longer is as good as dead for whoever waits.
const MOST_PATIENCE: Duration = Duration::from_secs(1);

/// Patience before anything was measured.
const FIRST_PATIENCE: Duration = Duration::from_millis(500);

/// Answers that take more than this many times the least and [`RUNAWAY_MARGIN`] more have run away: some queue on the
/// way holds seconds of somebody's traffic.
const RUNAWAY: u32 = 4;

const RUNAWAY_MARGIN: Duration = Duration::from_millis(200);

/// Round-trip times of one way.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Rtt {
    smoothed: Option<Duration>,
    variance: Duration,
    least: Duration,
}

impl Rtt {
    /// Nothing is known.
    #[must_use]
    pub const fn new() -> Self {
        Self { smoothed: None, variance: Duration::ZERO, least: Duration::ZERO }
    }

    /// An answer took this long.
    pub fn sample(&mut self, rtt: Duration) {
        let Some(smoothed) = self.smoothed else {
            (self.smoothed, self.variance, self.least) = (Some(rtt), rtt / 4, rtt);
            return;
        };
        self.variance = (self.variance * 3 + smoothed.abs_diff(rtt)) / 4;
        self.smoothed = Some((smoothed * 7 + rtt) / 8);
        // Creeps up, since a way may get longer for good.
        self.least = rtt.min(self.least + (rtt.saturating_sub(self.least)) / 256);
    }

    /// The smoothed round-trip time, once measured.
    #[must_use]
    pub const fn smoothed(&self) -> Option<Duration> {
        self.smoothed
    }

    /// The least round-trip time of late, once measured.
    #[must_use]
    pub fn least(&self) -> Option<Duration> {
        self.smoothed.map(|_| self.least)
    }

    /// After which an answer is late.
    #[must_use]
    pub fn patience(&self) -> Duration {
        let Some(smoothed) = self.smoothed else { return FIRST_PATIENCE };
        (smoothed + 4 * self.variance + SLACK).clamp(LEAST_PATIENCE, MOST_PATIENCE)
    }

    /// Whether answers take many times as long as they should.
    #[must_use]
    pub fn has_run_away(&self) -> bool {
        self.smoothed.is_some_and(|smoothed| smoothed > RUNAWAY * self.least + RUNAWAY_MARGIN)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn ms(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    #[test]
    fn a_steady_way_is_waited_for_little_longer_than_it_takes() {
        let mut rtt = Rtt::default();
        assert_eq!(rtt.patience(), FIRST_PATIENCE);
        (0..20).for_each(|_| rtt.sample(ms(40)));
        assert_eq!(rtt.smoothed(), Some(ms(40)));
        assert!((ms(65)..ms(67)).contains(&rtt.patience()), "{:?}", rtt.patience());
    }

    #[test]
    fn a_jittery_way_gets_more_patience_and_no_way_gets_more_than_a_second() {
        let mut rtt = Rtt::default();
        (0..50).for_each(|n| rtt.sample(ms(if n % 2 == 0 { 40 } else { 70 })));
        assert!(rtt.patience() > ms(110), "{:?}", rtt.patience());
        (0..50).for_each(|_| rtt.sample(ms(5000)));
        assert_eq!(rtt.patience(), MOST_PATIENCE);
    }

    #[test]
    fn a_queue_that_fills_up_is_a_runaway_and_a_longer_way_is_not() {
        let mut rtt = Rtt::default();
        (0..20).for_each(|_| rtt.sample(ms(40)));
        (0..20).for_each(|_| rtt.sample(ms(150)));
        assert!(!rtt.has_run_away());
        (0..20).for_each(|_| rtt.sample(ms(800)));
        assert!(rtt.has_run_away());
    }
}
