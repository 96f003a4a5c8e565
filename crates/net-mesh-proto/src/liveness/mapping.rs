//! How long do mappings last here?
//!
//! Peers say in their pongs where they see this node. When that changes although the host's network did not, a NAT
//! has made a new mapping: after a pause because the old one had expired, or in the middle of traffic because the NAT
//! gives none for longer. What is learned holds for all sessions, as it is the node's NAT that does it, and
//! until the network changes.
//!
//! - After an expiry, sessions are kept alive [twice as often](Lifetimes::keep_alive) as it took.
//! - After two replacements at about the same age, the [end](Lifetimes::ends) of the next mapping is known in advance.
//!
//! A mapping that expires and comes back the same is not noticed, and need not be: whoever sends first after the
//! pause renews it, and what the peer sends meanwhile is noticed as silence.

use core::time::Duration;

/// How often an idle session is kept alive where nothing else is known: half of 30 s, after which the most impatient
/// home NATs and Linux (for mappings that were never replied to) forget one.
pub const KEEP_ALIVE: Duration = Duration::from_secs(15);

/// No oftener than this: ten seconds are the shortest lifetime seen in carrier networks.
pub const KEEP_ALIVE_LEAST: Duration = Duration::from_secs(4);

/// Up to this where longer pauses were survived: a minute is too short a life for a mapping, and four of them in it are
/// enough.
pub const KEEP_ALIVE_MOST: Duration = Duration::from_secs(25);

/// Pauses survived after which a longer one is tried.
const LONGER_AFTER: u32 = 20;

/// How much longer.
const STEP: Duration = Duration::from_secs(5);

/// A shorter pause than this is none: a mapping that ends within it was not idle.
pub const PAUSE: Duration = Duration::from_secs(3);

/// Of the age at which mappings are replaced, the part after which the next end is expected, and the part after
/// which it has not come. In percent.
const EXPECTED: (u32, u32) = (85, 125);

/// What was learned of the NAT in front of this node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Lifetimes {
    keep_alive: Duration,
    /// The shortest pause that a mapping did not survive.
    expired: Option<Duration>,
    survived: u32,
    /// The age at which the last mapping was replaced, and how often in a row that was about the same.
    replaced: Option<(Duration, u32)>,
}

impl Default for Lifetimes {
    fn default() -> Self {
        Self { keep_alive: KEEP_ALIVE, expired: None, survived: 0, replaced: None }
    }
}

impl Lifetimes {
    /// How often an idle session must be kept alive.
    #[must_use]
    pub const fn keep_alive(&self) -> Duration {
        self.keep_alive
    }

    /// The shortest pause after which a mapping was gone.
    #[must_use]
    pub const fn expired_after(&self) -> Option<Duration> {
        self.expired
    }

    /// The age at which mappings are replaced although they are in use, once that has been seen twice.
    #[must_use]
    pub fn replaced_after(&self) -> Option<Duration> {
        self.replaced.filter(|(_, times)| *times >= 2).map(|(age, _)| age)
    }

    /// A mapping was gone after nothing had been sent for `pause`.
    pub fn expired(&mut self, pause: Duration) {
        self.expired = Some(self.expired.map_or(pause, |known| known.min(pause)));
        self.keep_alive = (pause / 2).clamp(KEEP_ALIVE_LEAST, self.keep_alive);
        self.survived = 0;
    }

    /// A mapping was still there after `pause`.
    pub fn survived(&mut self, pause: Duration) {
        if pause + PAUSE < self.keep_alive {
            return;
        }
        self.survived += 1;
        if self.survived >= LONGER_AFTER {
            let most = self.expired.map_or(KEEP_ALIVE_MOST, |expired| (expired / 2).max(KEEP_ALIVE_LEAST));
            self.keep_alive = (self.keep_alive + STEP).min(most).min(KEEP_ALIVE_MOST);
            self.survived = 0;
        }
    }

    /// A mapping in use was replaced at this age.
    pub fn replaced(&mut self, age: Duration) {
        let same = |known: Duration| age.abs_diff(known) <= known / 5;
        self.replaced = Some(match self.replaced {
            Some((known, times)) if same(known) => (age.min(known), times.saturating_add(1)),
            Some(_) | None => (age, 1),
        });
    }

    /// From which age on a mapping is expected to be replaced, and from which on it has outlived what was expected.
    #[must_use]
    pub fn ends(&self) -> Option<(Duration, Duration)> {
        let age = self.replaced_after()?;
        Some((age * EXPECTED.0 / 100, age * EXPECTED.1 / 100))
    }

    /// A mapping has outlived what was expected.
    pub const fn outlived(&mut self) {
        self.replaced = None;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn secs(s: u64) -> Duration {
        Duration::from_secs(s)
    }

    #[test]
    fn mappings_that_expire_are_kept_alive_twice_as_often_and_those_that_last_less_often() {
        let mut lifetimes = Lifetimes::default();
        assert_eq!(lifetimes.keep_alive(), secs(15));
        (0..20).for_each(|_| lifetimes.survived(secs(15)));
        assert_eq!(lifetimes.keep_alive(), secs(20));
        (0..200).for_each(|_| lifetimes.survived(secs(25)));
        assert_eq!(lifetimes.keep_alive(), KEEP_ALIVE_MOST);
        lifetimes.expired(secs(20));
        assert_eq!(lifetimes.keep_alive(), secs(10));
        (0..200).for_each(|_| lifetimes.survived(secs(10)));
        assert_eq!(lifetimes.keep_alive(), secs(10), "never more than half of what was too long");
        lifetimes.expired(secs(3));
        assert_eq!(lifetimes.keep_alive(), KEEP_ALIVE_LEAST);
    }

    #[test]
    fn short_pauses_say_nothing_about_long_ones() {
        let mut lifetimes = Lifetimes::default();
        (0..200).for_each(|_| lifetimes.survived(secs(5)));
        assert_eq!(lifetimes.keep_alive(), KEEP_ALIVE);
    }

    #[test]
    fn two_mappings_replaced_at_the_same_age_foretell_the_third() {
        let mut lifetimes = Lifetimes::default();
        lifetimes.replaced(secs(60));
        assert_eq!(lifetimes.ends(), None);
        lifetimes.replaced(secs(30));
        assert_eq!(lifetimes.ends(), None, "another age");
        lifetimes.replaced(secs(32));
        assert_eq!(lifetimes.replaced_after(), Some(secs(30)), "the shorter of the two");
        let (expected, outlived) = lifetimes.ends().unwrap();
        assert!(expected < secs(30) && outlived > secs(32));
        lifetimes.outlived();
        assert_eq!(lifetimes.ends(), None);
    }
}
