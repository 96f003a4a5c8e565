//! Does one member do too much for the others?
//!
//! Members mediate and relay for one another, and the mesh works as long as one of them does. It is worth an operator's
//! while to know where that is: whom everybody depends on is missed by everybody. A node looks once in [`LOOK`] at what it
//! does itself, which it knows best, and at who does how much of what others do for it.
//!
//! A share is outsized if it was at least so high at [`STEADY`] looks in a row, and is so until it has been low; in between
//! it stays what it was. It is told at most once in [`AGAIN`]. Shares of few are none: below `Rule::least` nothing is
//! said, since somebody has to be the one.

use alloc::vec::Vec;
use core::time::Duration;

use crate::id::NodeId;
use crate::time::Time;

/// Between two looks.
pub const LOOK: Duration = Duration::from_secs(60);

/// Looks in a row at which a share must have been high: a relay that restarts sends everybody elsewhere for a moment.
pub const STEADY: u8 = 3;

/// Between two warnings of one kind: nobody adds a machine within an hour.
pub const AGAIN: Duration = Duration::from_secs(3600);

/// How old attempts may be that count for the shares of mediators.
pub const ATTEMPTS: Duration = Duration::from_secs(3600);

/// When a share is outsized.
#[derive(Clone, Copy, Debug)]
struct Rule {
    /// The least whole that there can be shares of.
    least: u64,
    /// In percent of the whole: from here on it is high.
    high: u64,
    /// Below this it is not any more.
    low: u64,
}

/// Of what this node can carry. At three quarters there is still time to add another one.
const CAPACITY: Rule = Rule { least: 1, high: 75, low: 50 };

/// Of what others do for this node. With two that are equally near each has half, more or less.
const OTHERS: Rule = Rule { least: 8, high: 75, low: 60 };

/// Introductions a minute, of the number of members: were every member introduced to someone all the time, a
/// pair would be tried by one mediator alone more often than it rests. Small meshes that form are no load.
const INTRODUCING: Rule = Rule { least: 32, high: 100, low: 50 };

/// What a node sees at one look.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Seen {
    /// Members, this node among them.
    pub members: u64,
    /// Circuits of others through this node, and how many it would carry.
    pub circuits: (u64, u64),
    /// Bytes carried for others since the start, and how many it would carry in a second; `None` without a limit.
    pub bytes: (u64, Option<u64>),
    /// Introductions made since the start.
    pub introductions: u64,
    /// Of this node's relayed sessions, how many each member next to it carries.
    pub relays: Vec<(NodeId, u64)>,
    /// Of its attempts within [`ATTEMPTS`], how many each member introduced it for.
    pub mediators: Vec<(NodeId, u64)>,
}

/// An outsized share.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Warning {
    /// This node carries so many circuits of those that it would.
    Circuits {
        /// How many.
        carried: u64,
        /// Of how many.
        limit: u64,
    },
    /// This node carries so many bytes a second of those that it would.
    Bytes {
        /// How many a second.
        carried: u64,
        /// Of how many.
        limit: u64,
    },
    /// This node introduces others so many times a minute.
    Introductions {
        /// How many times.
        made: u64,
        /// In a mesh of how many.
        members: u64,
    },
    /// A member carries so many of this node's relayed sessions.
    Relay {
        /// Who.
        member: NodeId,
        /// How many.
        carried: u64,
        /// Of how many.
        all: u64,
    },
    /// A member introduced this node so many times.
    Mediator {
        /// Who.
        member: NodeId,
        /// How many times.
        made: u64,
        /// Of how many.
        all: u64,
    },
}

/// One share over time.
#[derive(Clone, Copy, Debug, Default)]
struct Gauge {
    /// Whose share it is, where that may change.
    whose: Option<NodeId>,
    high: u8,
    outsized: bool,
    told: Option<Time>,
}

impl Gauge {
    /// Takes a share of a whole; returns whether to warn of it.
    fn look(&mut self, now: Time, rule: Rule, whose: Option<NodeId>, (part, whole): (u64, u64)) -> bool {
        if whose != self.whose {
            (self.whose, self.high, self.outsized) = (whose, 0, false);
        }
        let counts = whole >= rule.least && whole > 0;
        let reaches = |percent: u64| counts && part.saturating_mul(100) >= whole.saturating_mul(percent);
        self.high = if reaches(rule.high) { self.high.saturating_add(1) } else { 0 };
        self.outsized = if self.outsized { reaches(rule.low) } else { self.high >= STEADY };
        let due = self.told.is_none_or(|told| now >= told + AGAIN);
        let warn = self.outsized && due;
        if warn {
            self.told = Some(now);
        }
        warn
    }
}

/// Looks at loads over time.
#[derive(Clone, Debug, Default)]
pub struct Watch {
    /// When it looked last, and what had been carried and introduced by then.
    last: Option<(Time, u64, u64)>,
    circuits: Gauge,
    bytes: Gauge,
    introductions: Gauge,
    relay: Gauge,
    mediator: Gauge,
}

impl Watch {
    /// Whether it is time for [`Self::look`].
    #[must_use]
    pub fn is_due(&self, now: Time) -> bool {
        self.last.is_none_or(|(at, ..)| now >= at + LOOK)
    }

    /// Takes what is seen now; returns what to warn of.
    pub fn look(&mut self, now: Time, seen: &Seen) -> Vec<Warning> {
        let (bytes, introduced) = (seen.bytes.0, seen.introductions);
        let Some((before, bytes_before, introduced_before)) = self.last.replace((now, bytes, introduced))
        else {
            return Vec::new();
        };
        let millis = u64::try_from(now.since(before).as_millis()).unwrap_or(u64::MAX).max(1);
        let rate = |n: u64, per: u64| n.saturating_mul(per) / millis;
        let carried = rate(bytes.saturating_sub(bytes_before), 1_000);
        let made = rate(introduced.saturating_sub(introduced_before), 60_000);
        let mut warnings = Vec::new();
        let (circuits, limit) = seen.circuits;
        if self.circuits.look(now, CAPACITY, None, seen.circuits) {
            warnings.push(Warning::Circuits { carried: circuits, limit });
        }
        let limit = seen.bytes.1.unwrap_or(0);
        if self.bytes.look(now, CAPACITY, None, (carried, limit)) {
            warnings.push(Warning::Bytes { carried, limit });
        }
        let members = seen.members;
        if self.introductions.look(now, INTRODUCING, None, (made, members)) {
            warnings.push(Warning::Introductions { made, members });
        }
        if let Some((member, carried, all)) = most(&seen.relays)
            && self.relay.look(now, OTHERS, Some(member), (carried, all))
        {
            warnings.push(Warning::Relay { member, carried, all });
        }
        if let Some((member, made, all)) = most(&seen.mediators)
            && self.mediator.look(now, OTHERS, Some(member), (made, all))
        {
            warnings.push(Warning::Mediator { member, made, all });
        }
        warnings
    }
}

/// Who has the most, how much, and of how much.
fn most(shares: &[(NodeId, u64)]) -> Option<(NodeId, u64, u64)> {
    let all = shares.iter().map(|(_, part)| part).sum();
    shares.iter().max_by_key(|(id, part)| (*part, *id)).map(|(id, part)| (*id, *part, all))
}

#[cfg(test)]
mod tests {
    use alloc::vec;

    use super::*;

    const A: NodeId = NodeId([1; 32]);
    const B: NodeId = NodeId([2; 32]);

    /// What is warned of when the watch looks once a minute and sees this.
    struct Minutes {
        watch: Watch,
        now: Time,
    }

    impl Minutes {
        fn new() -> Self {
            let mut watch = Watch::default();
            assert!(watch.is_due(Time::ZERO));
            watch.look(Time::ZERO, &Seen::default());
            Self { watch, now: Time::ZERO }
        }

        fn pass(&mut self, count: u32, seen: &Seen) -> Vec<Warning> {
            let mut warnings = Vec::new();
            for _ in 0..count {
                assert!(!self.watch.is_due(self.now));
                self.now += LOOK;
                assert!(self.watch.is_due(self.now));
                warnings.extend(self.watch.look(self.now, seen));
            }
            warnings
        }
    }

    fn relays(a: u64, b: u64) -> Seen {
        Seen { relays: vec![(A, a), (B, b)], ..Seen::default() }
    }

    #[test]
    fn a_relay_with_an_outsized_share_is_named_once_an_hour() {
        let mut minutes = Minutes::new();
        assert_eq!(minutes.pass(2, &relays(9, 1)), [], "for a moment");
        let warning = Warning::Relay { member: A, carried: 9, all: 10 };
        assert_eq!(minutes.pass(1, &relays(9, 1)), [warning]);
        assert_eq!(minutes.pass(59, &relays(9, 1)), []);
        assert_eq!(minutes.pass(1, &relays(9, 1)), [warning]);
    }

    #[test]
    fn a_share_that_goes_up_and_down_around_the_limit_is_told_once_and_an_even_one_never() {
        let mut minutes = Minutes::new();
        assert_eq!(minutes.pass(600, &relays(5, 5)), []);
        assert_eq!(minutes.pass(3, &relays(8, 2)).len(), 1);
        for _ in 0..20 {
            assert_eq!(minutes.pass(1, &relays(7, 3)), []);
            assert_eq!(minutes.pass(1, &relays(8, 2)), []);
        }
        // Once it has been low it must be high for a while again, hour or not.
        minutes.pass(60, &relays(5, 5));
        assert_eq!(minutes.pass(2, &relays(8, 2)), []);
        assert_eq!(minutes.pass(1, &relays(8, 2)).len(), 1);
    }

    #[test]
    fn few_sessions_are_no_share_and_another_member_is_another_matter() {
        let mut minutes = Minutes::new();
        assert_eq!(minutes.pass(100, &relays(7, 0)), []);
        assert_eq!(minutes.pass(2, &relays(8, 0)), []);
        assert_eq!(minutes.pass(2, &relays(0, 8)), []);
        assert_eq!(minutes.pass(1, &relays(0, 8)), [Warning::Relay { member: B, carried: 8, all: 8 }]);
    }

    #[test]
    fn a_mediator_is_named_as_well() {
        let seen = Seen { mediators: vec![(A, 2), (B, 14)], ..Seen::default() };
        let warnings = Minutes::new().pass(3, &seen);
        assert_eq!(warnings, [Warning::Mediator { member: B, made: 14, all: 16 }]);
    }

    #[test]
    fn a_node_knows_when_it_is_close_to_what_it_would_carry() {
        let mut minutes = Minutes::new();
        let full = Seen { circuits: (3_072, 4_096), ..Seen::default() };
        assert_eq!(minutes.pass(3, &full), [Warning::Circuits { carried: 3_072, limit: 4_096 }]);
        let mut seen = Seen { bytes: (0, Some(1_000)), ..Seen::default() };
        let mut warnings = Vec::new();
        for _ in 0..3 {
            seen.bytes.0 += 48_000;
            warnings.extend(minutes.pass(1, &seen));
        }
        assert_eq!(warnings, [Warning::Bytes { carried: 800, limit: 1_000 }]);
    }

    #[test]
    fn a_node_that_does_not_relay_or_has_no_limit_is_not_near_it() {
        let seen = Seen { bytes: (u64::MAX, None), ..Seen::default() };
        assert_eq!(Minutes::new().pass(10, &seen), []);
    }

    #[test]
    fn a_node_that_introduces_more_than_there_are_members_says_so() {
        let mut minutes = Minutes::new();
        let mut seen = Seen { members: 40, ..Seen::default() };
        let mut warnings = Vec::new();
        for _ in 0..3 {
            seen.introductions += 50;
            warnings.extend(minutes.pass(1, &seen));
        }
        assert_eq!(warnings, [Warning::Introductions { made: 50, members: 40 }]);
    }
}
