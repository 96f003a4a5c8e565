//! Did this host sleep, or was this process stopped?
//!
//! The clock that runs on through a sleep ([`boottime`](ClockId::Boottime)) is read whenever someone asks. The
//! driver asks at least once a second; where much more than that has passed between two questions, nobody ran.
//! Sleep of the host, a paused virtual machine, `SIGSTOP`, a machine so busy that nothing ran for seconds: mappings
//! have gone stale in all of them alike, so nobody has to tell them apart.

use std::time::Duration;

use rustix::time::{ClockId, clock_gettime};

/// From when a pause between two questions counts as sleep.
///
/// A second is usual; two more are what a busy machine may take, and less than any mapping of a NAT lives.
const LONG: Duration = Duration::from_secs(3);

/// Watches for pauses.
#[derive(Debug)]
pub(super) struct Sleep {
    asked: Duration,
}

impl Sleep {
    pub(super) fn new() -> Self {
        Self { asked: clock() }
    }

    /// How long nobody ran, if it was long. To be called every second.
    pub(super) fn check(&mut self) -> Option<Duration> {
        self.check_at(clock())
    }

    fn check_at(&mut self, now: Duration) -> Option<Duration> {
        let pause = now.saturating_sub(self.asked);
        self.asked = now;
        (pause > LONG).then_some(pause)
    }
}

/// Time since the machine was started, sleep included.
fn clock() -> Duration {
    let time = clock_gettime(ClockId::Boottime);
    let nanos = u32::try_from(time.tv_nsec).unwrap_or(0);
    Duration::new(u64::try_from(time.tv_sec).unwrap_or(0), nanos)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pause_counts_once_and_a_busy_second_does_not() {
        let mut sleep = Sleep { asked: Duration::from_secs(100) };
        assert_eq!(sleep.check_at(Duration::from_secs(101)), None);
        assert_eq!(sleep.check_at(Duration::from_secs(104)), None);
        assert_eq!(sleep.check_at(Duration::from_secs(111)), Some(Duration::from_secs(7)));
        assert_eq!(sleep.check_at(Duration::from_secs(112)), None);
    }

    #[test]
    fn the_clock_goes_forward() {
        let mut sleep = Sleep::new();
        assert!(sleep.asked > Duration::ZERO);
        assert_eq!(sleep.check(), None);
    }
}
