//! One direction of an access link: how long a packet takes, and whether it survives.
//!
//! A packet meets, in this order: the cut, the MTU, the burst, independent loss, the queue, the stall. Bursts and
//! stalls follow the clock and not the packets (two-state Gilbert-Elliott processes whose bad state loses everything,
//! or holds it until it is over), so a second attempt 10 ms later falls into the same one, as on a real radio link.

use std::time::Duration;

use net_mesh_proto::rng::Rng;
use net_mesh_proto::time::Time;

use crate::trace::Lost;

/// The rule of one direction of a host's access link. The default is a perfect line of 5 ms.
#[derive(Clone, Debug, PartialEq)]
pub struct Link {
    /// Propagation delay.
    pub delay: Duration,
    /// Extra delay, drawn uniformly from zero to this for each packet. Packets overtake each other.
    pub jitter: Duration,
    /// Probability that a packet is lost on its own, 0 to 1.
    pub loss: f64,
    /// Periods in which everything is lost.
    pub bursts: Option<Bursts>,
    /// Periods in which everything is held back; what has gathered comes at their end.
    pub stalls: Option<Bursts>,
    /// Bits per second; unlimited where `None`.
    pub bandwidth: Option<u64>,
    /// Bytes that may wait for the line; more are dropped at the tail. Means nothing without a bandwidth.
    pub queue: usize,
    /// The largest IP packet, in bytes, headers included. Larger ones are dropped, never fragmented.
    pub mtu: usize,
    /// Nothing passes.
    pub cut: bool,
}

/// Periods in which a link loses everything, or holds it back.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Bursts {
    /// The shortest.
    pub min: Duration,
    /// The longest; lengths are uniform between the two.
    pub max: Duration,
    /// The share of time spent in them, above 0 and below 1.
    pub fraction: f64,
}

impl Default for Link {
    fn default() -> Self {
        Self {
            delay: Duration::from_millis(5),
            jitter: Duration::ZERO,
            loss: 0.0,
            bursts: None,
            stalls: None,
            bandwidth: None,
            queue: 256 * 1024,
            mtu: 1500,
            cut: false,
        }
    }
}

impl Link {
    /// The default line with independent loss of probability `loss`.
    #[must_use]
    pub fn lossy(loss: f64) -> Self {
        Self { loss, ..Self::default() }
    }

    /// The default line, but for bursts of 200 to 500 ms during 5 % of the time, the pattern seen on
    /// wireless links.
    #[must_use]
    pub fn bursty() -> Self {
        let bursts =
            Bursts { min: Duration::from_millis(200), max: Duration::from_millis(500), fraction: 0.05 };
        Self { bursts: Some(bursts), ..Self::default() }
    }
}

impl Link {
    /// The default line, but for stalls of 1 to 3 s during 2 % of the time, as of a radio that changes its cell.
    #[must_use]
    pub fn stalling() -> Self {
        let stalls = Bursts { min: Duration::from_secs(1), max: Duration::from_secs(3), fraction: 0.02 };
        Self { stalls: Some(stalls), ..Self::default() }
    }
}

/// Whether a period is going on, and until when.
#[derive(Debug)]
struct Periods {
    rule: Option<Bursts>,
    rng: Rng,
    on: bool,
    flip_at: Time,
}

impl Periods {
    fn new(rule: Option<Bursts>, now: Time, rng: Rng) -> Self {
        let mut periods = Self { rule: None, rng, on: false, flip_at: Time::ZERO };
        periods.set_rule(now, rule);
        periods
    }

    fn set_rule(&mut self, now: Time, rule: Option<Bursts>) {
        if self.rule == rule {
            return;
        }
        self.rule = rule;
        if let Some(bursts) = rule {
            self.on = self.rng.chance(bursts.fraction);
            self.flip_at = now + self.draw(bursts);
        }
    }

    /// When the period that is going on at `now` ends; `None` if none is.
    fn until(&mut self, now: Time) -> Option<Time> {
        let bursts = self.rule?;
        while self.flip_at <= now {
            self.on = !self.on;
            let period = self.draw(bursts).max(Duration::from_micros(1));
            self.flip_at += period;
        }
        self.on.then_some(self.flip_at)
    }

    /// A quiet period is uniform over twice its mean, which needs no logarithm: results are the same to the
    /// last bit on every platform.
    fn draw(&mut self, bursts: Bursts) -> Duration {
        let unit = self.rng.unit();
        if self.on {
            bursts.min + bursts.max.saturating_sub(bursts.min).mul_f64(unit)
        } else {
            let mean = (bursts.min + bursts.max).mul_f64(0.5 * (1.0 - bursts.fraction) / bursts.fraction);
            mean.mul_f64(2.0 * unit)
        }
    }
}

/// A link direction in operation.
#[derive(Debug)]
pub(crate) struct Line {
    rule: Link,
    rng: Rng,
    free_at: Time,
    bursts: Periods,
    stalls: Periods,
    /// A stall by hand ends then.
    held_until: Time,
}

impl Line {
    pub(crate) fn new(rule: Link, rng: Rng) -> Self {
        let bursts = Periods::new(rule.bursts, Time::ZERO, rng.fork("bursts"));
        let stalls = Periods::new(rule.stalls, Time::ZERO, rng.fork("stalls"));
        Self { rule, rng, free_at: Time::ZERO, bursts, stalls, held_until: Time::ZERO }
    }

    pub(crate) fn rule(&self) -> &Link {
        &self.rule
    }

    pub(crate) fn set_rule(&mut self, now: Time, rule: Link) {
        self.bursts.set_rule(now, rule.bursts);
        self.stalls.set_rule(now, rule.stalls);
        self.rule = rule;
    }

    /// Holds everything back until then.
    pub(crate) fn stall(&mut self, until: Time) {
        self.held_until = self.held_until.max(until);
    }

    /// When a packet of `size` bytes (headers included) that enters at `now` comes out.
    pub(crate) fn pass(&mut self, now: Time, size: usize) -> Result<Time, Lost> {
        self.admit(size)?;
        if self.bursts.until(now).is_some() {
            return Err(Lost::Burst);
        }
        if self.rule.loss > 0.0 && self.rng.chance(self.rule.loss) {
            return Err(Lost::Loss);
        }
        let held = self.stalls.until(now).into_iter().fold(self.held_until, Time::max);
        let sent = self.queued(now, size)?.max(held);
        let jitter = u64::try_from(self.rule.jitter.as_nanos()).unwrap_or(u64::MAX);
        let extra = if jitter == 0 { 0 } else { self.rng.below(jitter.saturating_add(1)) };
        Ok(sent + self.rule.delay + Duration::from_nanos(extra))
    }

    /// Whether a packet gets through at all: what holds for traffic inside the host's own network too.
    pub(crate) fn admit(&self, size: usize) -> Result<(), Lost> {
        if self.rule.cut {
            return Err(Lost::Cut);
        }
        if size > self.rule.mtu {
            return Err(Lost::Mtu);
        }
        Ok(())
    }

    fn queued(&mut self, now: Time, size: usize) -> Result<Time, Lost> {
        let Some(bandwidth) = self.rule.bandwidth else { return Ok(now) };
        let bandwidth = u128::from(bandwidth.max(1));
        let waiting = self.free_at.since(now).as_nanos() * bandwidth / 8_000_000_000;
        if waiting + size as u128 > self.rule.queue as u128 {
            return Err(Lost::Queue);
        }
        let nanos = size as u128 * 8_000_000_000 / bandwidth;
        self.free_at = self.free_at.max(now) + Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX));
        Ok(self.free_at)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(rule: Link) -> Line {
        Line::new(rule, Rng::from_u64(1))
    }

    fn at(ms: u64) -> Time {
        Time::from_millis(ms)
    }

    #[test]
    fn a_line_delays_by_its_delay_and_at_most_its_jitter() {
        let mut line = line(Link { jitter: Duration::from_millis(4), ..Link::default() });
        let arrivals: Vec<Time> = (0..200).map(|_| line.pass(at(0), 100).unwrap()).collect();
        assert!(arrivals.iter().all(|t| *t >= at(5) && *t <= at(9)));
        assert!(arrivals.windows(2).any(|w| w[1] < w[0]), "jitter reorders");
    }

    #[test]
    fn a_slow_line_spaces_packets_and_drops_at_the_tail_of_its_queue() {
        let rule = Link { bandwidth: Some(8_000_000), queue: 3000, ..Link::default() };
        let mut line = line(rule);
        assert_eq!(line.pass(at(0), 1000), Ok(at(6)), "1000 bytes take 1 ms at 1 MB/s");
        assert_eq!(line.pass(at(0), 1000), Ok(at(7)));
        assert_eq!(line.pass(at(0), 1000), Ok(at(8)));
        assert_eq!(line.pass(at(0), 1000), Err(Lost::Queue));
        assert_eq!(line.pass(at(1), 1000), Ok(at(9)), "there is room again once one has left");
    }

    #[test]
    fn a_stall_holds_everything_back_and_lets_it_go_in_order_when_it_is_over() {
        let mut line = line(Link::default());
        line.stall(at(2000));
        assert_eq!(
            [at(10), at(1999), at(2000)].map(|now| line.pass(now, 100)),
            [2005, 2005, 2005].map(|ms| Ok(at(ms)))
        );

        let mut line = self::line(Link::stalling());
        let delays: Vec<Duration> =
            (0..3_000_000).step_by(10).map(|ms| line.pass(at(ms), 100).unwrap() - at(ms)).collect();
        let held = delays.iter().filter(|delay| **delay > Duration::from_millis(5)).count();
        assert!((3_000..9_000).contains(&held), "{held} of 300000 at 2 %");
        let longest = delays.iter().max().unwrap();
        assert!((2500..=3005).contains(&longest.as_millis()), "{longest:?}");
    }

    #[test]
    fn packets_above_the_mtu_and_on_a_cut_line_are_dropped() {
        let mut line = line(Link { mtu: 1280, ..Link::default() });
        assert_eq!(line.pass(at(0), 1281), Err(Lost::Mtu));
        assert!(line.pass(at(0), 1280).is_ok());
        line.set_rule(at(1), Link { cut: true, ..Link::default() });
        assert_eq!(line.pass(at(1), 100), Err(Lost::Cut));
        line.set_rule(at(2), Link::default());
        assert!(line.pass(at(2), 100).is_ok());
    }

    #[test]
    fn independent_loss_is_as_frequent_as_asked() {
        let mut line = line(Link::lossy(0.05));
        let lost = (0..20_000).filter(|_| line.pass(at(0), 100).is_err()).count();
        assert!((800..1200).contains(&lost), "{lost} of 20000 at 5 %");
    }

    #[test]
    fn bursts_last_as_long_as_asked_and_take_their_share_of_the_time() {
        let mut line = line(Link::bursty());
        let (mut lost, mut run, mut runs) = (0u64, 0u64, Vec::new());
        for ms in 0..1_000_000 {
            if line.pass(at(ms), 100).is_err() {
                (lost, run) = (lost + 1, run + 1);
            } else if run > 0 {
                runs.push(std::mem::take(&mut run));
            }
        }
        assert!((35_000..65_000).contains(&lost), "{lost} ms of 1000000 at 5 %");
        // Two bursts may touch, so a rare longer run is no fault.
        let typical = runs.iter().filter(|r| (199..=501).contains(*r)).count();
        assert!(typical * 100 >= runs.len() * 95, "{runs:?}");
    }
}
