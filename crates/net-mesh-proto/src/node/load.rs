//! What does a node see of who does how much?

use alloc::collections::BTreeMap;

use super::Node;
use crate::id::NodeId;
use crate::load::{ATTEMPTS, Seen};
use crate::relay::Limits;
use crate::route::Route;
use crate::time::Time;

impl Node {
    /// What there is to see of loads now, but for the bytes that were carried and the introductions that were made: whoever
    /// carries and counts them knows.
    #[must_use]
    pub fn loads(&self, now: Time) -> Seen {
        let limits = self.reach.relay.limits();
        let count = |n: usize| u64::try_from(n).unwrap_or(u64::MAX);
        let mut relays: BTreeMap<NodeId, u64> = BTreeMap::new();
        for session in self.arbiter.sessions() {
            let next = match session.route {
                Route::Relayed(_) => self.via(session.route).first().copied(),
                Route::Direct(_) => None,
            };
            if let Some(next) = next {
                *relays.entry(next).or_default() += 1;
            }
        }
        let mut mediators: BTreeMap<NodeId, u64> = BTreeMap::new();
        let recent = self.attempts().filter(|attempt| now.since(attempt.began) < ATTEMPTS);
        for mediator in recent.filter_map(|attempt| attempt.mediator) {
            *mediators.entry(mediator).or_default() += 1;
        }
        let rate = limits.map(|limits| limits.bytes_per_second).filter(|rate| *rate != Limits::UNLIMITED);
        Seen {
            members: count(self.membership.members().len()).saturating_add(1),
            circuits: (count(self.carried()), limits.map_or(0, |limits| count(limits.circuits))),
            bytes: (0, rate),
            introductions: 0,
            relays: relays.into_iter().collect(),
            mediators: mediators.into_iter().collect(),
        }
    }
}
