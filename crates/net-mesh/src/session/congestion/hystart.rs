//! When to leave slow start: HyStart++ (RFC 9406).
//!
//! Slow start doubles what is in flight every round trip until something is lost; by then the queue on the way is full.
//! Here it ends when round-trip times begin to grow: first it goes on at a quarter of its speed for
//! [`CSS_ROUNDS`] rounds, to see whether that was chance, and then it is over.

use std::time::Duration;

/// Samples in a round before it is judged (RFC 9406 §4.3).
const SAMPLES: u32 = 8;

/// How much longer than in the round before a round trip may take: an eighth of it, within these limits.
const LEAST_GROWTH: Duration = Duration::from_millis(4);
const MOST_GROWTH: Duration = Duration::from_millis(16);
const GROWTH_DIVISOR: u32 = 8;

/// By how much growth is slowed while in doubt, and for how many rounds.
pub(super) const CSS_DIVISOR: u64 = 4;
const CSS_ROUNDS: u32 = 5;

/// Where slow start stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Phase {
    /// It goes on.
    SlowStart,
    /// It goes on slowly: round trips have become longer than in this round.
    Conservative {
        /// What the shortest round trip was before they did.
        baseline: Duration,
        rounds: u32,
    },
    /// It is over.
    Done,
}

/// The state of one slow start.
#[derive(Clone, Copy, Debug)]
pub(super) struct HyStart {
    phase: Phase,
    last_round: Option<Duration>,
    this_round: Option<Duration>,
    samples: u32,
    /// The round ends when this packet is acknowledged.
    round_ends: u64,
    last_sent: u64,
    /// It has just ended, because round trips have become longer.
    ended: bool,
}

impl Default for HyStart {
    fn default() -> Self {
        Self {
            phase: Phase::SlowStart,
            last_round: None,
            this_round: None,
            samples: 0,
            round_ends: 0,
            last_sent: 0,
            ended: false,
        }
    }
}

impl HyStart {
    /// Where it stands.
    pub(super) const fn phase(&self) -> Phase {
        self.phase
    }

    /// Slow start has ended for another reason.
    pub(super) const fn end(&mut self) {
        self.phase = Phase::Done;
    }

    /// A packet was sent.
    pub(super) const fn sent(&mut self, packet: u64) {
        self.last_sent = packet;
    }

    /// A packet was acknowledged after `rtt`.
    pub(super) fn sample(&mut self, rtt: Duration) {
        if self.phase == Phase::Done {
            return;
        }
        self.this_round = Some(self.this_round.map_or(rtt, |least| least.min(rtt)));
        self.samples += 1;
        let (Some(this), true) = (self.this_round, self.samples >= SAMPLES) else { return };
        match self.phase {
            Phase::SlowStart => {
                let Some(last) = self.last_round else { return };
                let growth = (last / GROWTH_DIVISOR).clamp(LEAST_GROWTH, MOST_GROWTH);
                if this >= last + growth {
                    self.phase = Phase::Conservative { baseline: this, rounds: 0 };
                }
            }
            Phase::Conservative { baseline, .. } if this < baseline => self.phase = Phase::SlowStart,
            Phase::Conservative { .. } | Phase::Done => {}
        }
    }

    /// Acknowledgements up to `largest` have been handled.
    pub(super) fn acked(&mut self, largest: u64) {
        // A round with few samples, because little was sent, goes on with the next one.
        if largest < self.round_ends || self.samples < SAMPLES {
            return;
        }
        self.round_ends = self.last_sent.max(largest + 1);
        (self.last_round, self.this_round, self.samples) = (self.this_round.or(self.last_round), None, 0);
        if let Phase::Conservative { rounds, .. } = &mut self.phase {
            *rounds += 1;
            // The round in which it began counts.
            if *rounds >= CSS_ROUNDS {
                (self.phase, self.ended) = (Phase::Done, true);
            }
        }
    }

    /// Whether it has ended because round trips have become longer; says so once. A later slow start, after a loss, has a
    /// threshold of its own and is not for this to end.
    pub(super) const fn take_end(&mut self) -> bool {
        std::mem::replace(&mut self.ended, false)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Rounds of ten packets with these round-trip times, in milliseconds.
    fn run(rounds: &[u64]) -> HyStart {
        let mut state = HyStart::default();
        let mut packet = 0;
        for rtt in rounds {
            for _ in 0..10 {
                packet += 1;
                state.sent(packet);
            }
            for n in 0..10 {
                state.sample(Duration::from_millis(*rtt));
                state.acked(packet - 9 + n);
            }
        }
        state
    }

    #[test]
    fn steady_round_trips_leave_slow_start_alone() {
        assert_eq!(run(&[40; 50]).phase(), Phase::SlowStart);
        assert_eq!(run(&[40, 43, 40, 44, 42]).phase(), Phase::SlowStart, "jitter below the threshold");
    }

    #[test]
    fn a_queue_that_grows_slows_it_down_and_then_ends_it() {
        assert!(matches!(run(&[40, 40, 50, 50]).phase(), Phase::Conservative { .. }));
        assert_eq!(run(&[40, 40, 50, 50, 60, 60, 60, 60, 60, 60, 60]).phase(), Phase::Done);
    }

    #[test]
    fn a_queue_that_was_chance_is_forgotten() {
        assert_eq!(run(&[40, 40, 50, 40, 40, 40, 40, 40, 40, 40, 40]).phase(), Phase::SlowStart);
    }

    #[test]
    fn a_few_samples_are_no_round() {
        let mut state = HyStart::default();
        for (packet, rtt) in [(1, 40), (2, 80), (3, 160), (4, 320)] {
            state.sent(packet);
            state.sample(Duration::from_millis(rtt));
            state.acked(packet);
        }
        assert_eq!(state.phase(), Phase::SlowStart);
    }
}
