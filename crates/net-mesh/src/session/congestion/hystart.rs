//! When does slow start end? HyStart++ (RFC 9406): when the delay is clearly above that of the round before, growth
//! slows down to a quarter (conservative slow start, CSS); if the delay does not fall again within five rounds,
//! slow start is over.
//!
//! A round lasts until a packet that was sent in it is acknowledged. The standard compares the least delay of a
//! round. Where the window passes the path's capacity in the middle of one, that notices it a round later, when
//! the window is twice as large: on 100 Mbit/s with 40 ms of round trip and 40 ms of queue, a thousand packets are
//! dropped. Here it suffices that the delay has been up for eight samples in a row and for [`MIN_INCREASE`]; a
//! burst of late acknowledgements does not. In CSS, for the same reason, packets count that were sent since it
//! began.
//!
//! After a change of route everything sent within the first round trip shares the new route with what is sent
//! again, so its delays say nothing of the window: they count towards the route's minimum alone.

use std::time::{Duration, Instant};

/// Samples that a judgement takes (RFC 9406 §4.3).
const MIN_SAMPLES: u8 = 8;

/// An increase below this is noise (§4.3).
const MIN_INCREASE: Duration = Duration::from_millis(4);

/// An increase of this much slows growth down on any path (§4.3).
const MAX_INCREASE: Duration = Duration::from_millis(16);

/// Between the two: this part of the round trip (§4.3).
const INCREASE_DIVISOR: u32 = 8;

/// How much slower the window grows in CSS (§4.3).
const CSS_DIVISOR: u64 = 4;

/// Rounds that CSS lasts (§4.3).
const CSS_ROUNDS: u8 = 5;

/// Samples in a row, since when, and the least delay of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Run {
    since: Instant,
    samples: u8,
    least: Duration,
}

impl Run {
    fn extend(run: Option<Self>, now: Instant, rtt: Duration) -> Self {
        let run = run.unwrap_or(Self { since: now, samples: 0, least: rtt });
        Self { samples: run.samples.saturating_add(1), least: run.least.min(rtt), ..run }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    SlowStart {
        /// Delays that are up.
        high: Option<Run>,
    },
    Conservative {
        began: Instant,
        /// A delay below this shows that growth was slowed down for nothing.
        baseline: Duration,
        rounds: u8,
        /// Delays of packets sent since, in this round.
        run: Option<Run>,
    },
    Over,
}

/// Watches the delays of one route during its first slow start.
#[derive(Clone, Debug)]
pub(super) struct HyStart {
    phase: Phase,
    /// When the connection came to this route, until a packet of the second round trip is acknowledged.
    arrived: Option<Instant>,
    /// When the round began.
    round: Option<Instant>,
    /// The least delay of the round before.
    last: Option<Duration>,
    /// The least delay of this one.
    current: Option<Duration>,
    /// The least delay ever seen on this route.
    min: Option<Duration>,
}

impl HyStart {
    pub(super) const fn new() -> Self {
        let phase = Phase::SlowStart { high: None };
        Self { phase, arrived: None, round: None, last: None, current: None, min: None }
    }

    /// The connection travels over this route from now on, for the first time or again.
    pub(super) const fn arrive(&mut self, now: Instant) {
        self.arrived = Some(now);
        if !matches!(self.phase, Phase::Over) {
            // What it was compared with was another day's.
            self.phase = Phase::SlowStart { high: None };
        }
    }

    /// Slow start has ended, by loss or as [`sample`](Self::sample) said. It is not watched again: a later one
    /// knows where to stop (§4.3).
    pub(super) const fn end(&mut self) {
        self.phase = Phase::Over;
    }

    /// The part of the acknowledged bytes by which the window grows.
    pub(super) const fn growth(&self, acked: u64) -> u64 {
        match self.phase {
            Phase::Conservative { .. } => acked / CSS_DIVISOR,
            Phase::SlowStart { .. } | Phase::Over => acked,
        }
    }

    /// An acknowledgement came at `now` whose newest packet was sent at `sent`. True if slow start is over.
    pub(super) fn sample(&mut self, now: Instant, sent: Instant) -> bool {
        let rtt = now.saturating_duration_since(sent);
        let min = self.min.map_or(rtt, |min| min.min(rtt));
        self.min = Some(min);
        if self.phase == Phase::Over {
            return false;
        }
        if let Some(arrived) = self.arrived {
            if sent < arrived + min {
                return false;
            }
            self.arrived = None;
            self.begin_round(now, Some(min));
        } else if self.round.is_none_or(|began| sent >= began) && self.begin_round(now, self.current) {
            return true;
        }
        self.current = Some(self.current.map_or(rtt, |current| current.min(rtt)));
        self.judge(now, sent, rtt);
        false
    }

    /// True if the one before was the last of slow start.
    const fn begin_round(&mut self, now: Instant, last: Option<Duration>) -> bool {
        self.round = Some(now);
        self.last = last;
        self.current = None;
        match &mut self.phase {
            Phase::SlowStart { high } => *high = None,
            Phase::Conservative { rounds, run, .. } => {
                *rounds += 1;
                *run = None;
                return *rounds >= CSS_ROUNDS;
            }
            Phase::Over => {}
        }
        false
    }

    fn judge(&mut self, now: Instant, sent: Instant, rtt: Duration) {
        match &mut self.phase {
            Phase::SlowStart { high } => {
                let Some(last) = self.last else { return };
                let increase = (last / INCREASE_DIVISOR).clamp(MIN_INCREASE, MAX_INCREASE);
                if rtt < last + increase {
                    *high = None;
                    return;
                }
                let run = Run::extend(*high, now, rtt);
                *high = Some(run);
                if run.samples >= MIN_SAMPLES && now.saturating_duration_since(run.since) >= MIN_INCREASE {
                    self.phase =
                        Phase::Conservative { began: now, baseline: run.least, rounds: 0, run: None };
                }
            }
            Phase::Conservative { began, baseline, run, .. } if sent >= *began => {
                let judged = Run::extend(*run, now, rtt);
                *run = Some(judged);
                if judged.samples >= MIN_SAMPLES && judged.least < *baseline {
                    self.phase = Phase::SlowStart { high: None };
                }
            }
            Phase::Conservative { .. } | Phase::Over => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn ms(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    /// From one packet to the next.
    const STEP: Duration = Duration::from_millis(1);

    /// One route in virtual time.
    struct Line {
        hystart: HyStart,
        now: Instant,
    }

    impl Line {
        fn new() -> Self {
            Self { hystart: HyStart::new(), now: Instant::now() }
        }

        /// A round of `samples` packets, sent from now on, each of which takes `rtt`. Whether slow start ended.
        fn round(&mut self, samples: u32, rtt: Duration) -> bool {
            let sent = self.now;
            self.now += rtt + STEP * samples;
            (0..samples).any(|n| self.hystart.sample(sent + rtt + STEP * n, sent + STEP * n))
        }

        fn is_slow(&self) -> bool {
            self.hystart.growth(1000) == 250
        }
    }

    #[test]
    fn a_steady_delay_keeps_slow_start_going() {
        let mut line = Line::new();
        for _ in 0..100 {
            assert!(!line.round(20, ms(40)) && !line.is_slow());
        }
    }

    #[test]
    fn a_round_with_an_eighth_more_delay_slows_growth_down_and_five_such_rounds_end_it() {
        let mut line = Line::new();
        line.round(20, ms(80));
        line.round(20, ms(80));
        line.round(20, ms(89));
        assert!(!line.is_slow(), "less than an eighth");
        line.round(20, ms(101));
        assert!(line.is_slow());
        for _ in 0..4 {
            assert!(!line.round(20, ms(101)));
        }
        assert!(line.round(20, ms(101)), "the partial round and four whole ones");
    }

    #[test]
    fn the_threshold_stays_within_4_and_16_ms() {
        for (rtt, below, enough) in [(8, 11, 12), (400, 415, 416)] {
            let slow = |then| {
                let mut line = Line::new();
                line.round(20, ms(rtt));
                line.round(20, ms(rtt));
                line.round(20, ms(then));
                line.is_slow()
            };
            assert!(!slow(below) && slow(enough), "{rtt} ms");
        }
    }

    #[test]
    fn seven_samples_are_too_few_to_judge_a_round() {
        let mut line = Line::new();
        line.round(20, ms(40));
        line.round(20, ms(40));
        line.round(7, ms(90));
        assert!(!line.is_slow());
        line.round(8, ms(140));
        assert!(line.is_slow());
    }

    #[test]
    fn a_delay_that_rises_in_the_middle_of_a_round_slows_growth_down_in_that_round() {
        let mut line = Line::new();
        line.round(20, ms(40));
        line.round(20, ms(40));
        let sent = line.now;
        for n in 0..20 {
            let rtt = ms(40 + u64::from(n) * 2);
            line.hystart.sample(sent + STEP * n + rtt, sent + STEP * n);
        }
        assert!(line.is_slow());
        // Packets that were sent before that say nothing against it.
        let (now, sent) = (line.now + ms(80), sent + STEP * 21);
        for n in 0..20 {
            line.hystart.sample(now + STEP * n, (sent + STEP * n).max(now + STEP * n - ms(41)));
        }
        assert!(line.is_slow());
    }

    #[test]
    fn acknowledgements_that_are_late_together_do_not_slow_growth_down() {
        let mut line = Line::new();
        line.round(20, ms(40));
        line.round(20, ms(40));
        let (sent, now) = (line.now, line.now + ms(80));
        for n in 0..20 {
            line.hystart.sample(now + Duration::from_micros(10) * n, sent + STEP * n);
        }
        assert!(!line.is_slow());
    }

    #[test]
    fn a_delay_that_falls_again_resumes_slow_start() {
        let mut line = Line::new();
        line.round(20, ms(40));
        line.round(20, ms(40));
        line.round(20, ms(60));
        assert!(line.is_slow());
        line.round(20, ms(59));
        assert!(!line.is_slow());
        // ... and the next increase is judged anew.
        line.round(20, ms(70));
        assert!(line.is_slow());
    }

    #[test]
    fn the_first_round_trip_after_a_change_of_route_says_nothing() {
        let mut line = Line::new();
        line.hystart.arrive(line.now);
        let arrived = line.now;
        // What is sent again stands in the queue: the delays rise, and every packet is of the first round trip.
        for n in 0..60_u32 {
            let sent = arrived + Duration::from_micros(500) * n;
            assert!(!line.hystart.sample(sent + ms(40) + Duration::from_micros(1500) * n, sent));
            assert!(!line.is_slow());
        }
        // From then on the least of them is what a round is compared with.
        line.now = arrived + ms(130);
        line.round(20, ms(44));
        assert!(!line.is_slow());
        line.round(20, ms(50));
        assert!(line.is_slow());
    }

    #[test]
    fn a_route_is_remembered_with_its_own_least_delay() {
        let mut line = Line::new();
        line.round(20, ms(40));
        line.round(20, ms(42));
        line.now += ms(5000);
        line.hystart.arrive(line.now);
        // As long as its least delay, nothing counts; then rounds are compared with it.
        line.round(20, ms(70));
        assert!(!line.is_slow());
        line.round(20, ms(46));
        assert!(line.is_slow());
    }

    #[test]
    fn what_has_ended_is_not_watched_again() {
        let mut line = Line::new();
        line.hystart.end();
        for rtt in [40, 80, 120, 160, 200, 240, 280, 320] {
            assert!(!line.round(20, ms(rtt)) && !line.is_slow());
        }
        line.hystart.arrive(line.now);
        line.round(20, ms(400));
        line.round(20, ms(900));
        line.round(20, ms(1900));
        assert!(!line.is_slow());
    }
}
