//! Which attempts are under way, and in which ways has a target been tried meanwhile?
//!
//! Attempts at one target that overlap are a *generation*. It begins with an attempt at all addresses known
//! then; addresses that become known later get further attempts of their own, since the first may last
//! seconds more and a driver cannot be told to widen it. In one generation each address is tried once. It
//! fails when its last attempt does, and is [settled](Attempts::settle) by success: what is left of it
//! then runs out without consequences.
//!
//! At most [`MAX_DIALS`] attempts are kept, [`MAX_FURTHER`] further ones at one target at a time, and
//! [`MAX_TRIED`] addresses in a generation, however often a record changes.

use alloc::collections::BTreeMap;
use alloc::vec::Vec;
use core::net::SocketAddr;
use core::time::Duration;

use super::ways::Way;
use crate::id::NodeId;
use crate::membership::MAX_CANDIDATES;
use crate::node::DialId;
use crate::time::Time;

/// Attempts under way at once. Each may last seconds and spray a handshake at sixteen addresses; more at
/// once would look like a scan to a home router, and fill its table.
pub const MAX_DIALS: usize = 16;

/// Further attempts at one target under way at once. A node that starts learns its reflexive address in one
/// family and then in the other, a relay may come in later, and a rendezvous may find an address: four. More
/// would let one peer take the attempts of all.
pub const MAX_FURTHER: usize = 4;

/// Addresses tried in one generation: those of the first record, and of two with nothing in common with
/// it. A peer whose record changes without end is tried again after a rest, as if it had failed.
const MAX_TRIED: usize = 3 * MAX_CANDIDATES;

/// What is dialled.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Target {
    /// An address to start from, whoever answers.
    Address(SocketAddr),
    /// A member.
    Peer(NodeId),
}

/// What an attempt is to its target.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Role {
    /// It began a generation.
    First,
    /// It tries what became known later.
    Further,
}

#[derive(Clone, Debug)]
struct Attempt {
    target: Target,
    role: Role,
    ways: Vec<Way>,
    started: Time,
    /// Its generation was settled without it.
    superseded: bool,
}

/// An attempt that is over.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Ended {
    /// Who was meant.
    pub(super) target: Target,
    /// Where it was tried.
    pub(super) ways: Vec<Way>,
    /// Whether its generation ended with it, and nothing came of any of them before.
    pub(super) last: bool,
}

/// The attempts under way.
#[derive(Debug, Default)]
pub(super) struct Attempts {
    by_dial: BTreeMap<DialId, Attempt>,
    /// The addresses tried so far, for each target with a generation under way.
    generations: BTreeMap<Target, Vec<Way>>,
    next: u64,
}

impl Attempts {
    /// How many there are.
    pub(super) fn len(&self) -> usize {
        self.by_dial.len()
    }

    /// Whether no more may be started.
    pub(super) fn is_full(&self) -> bool {
        self.by_dial.len() >= MAX_DIALS
    }

    /// The targets with a generation under way.
    pub(super) fn targets(&self) -> impl Iterator<Item = Target> + '_ {
        self.generations.keys().copied()
    }

    /// Whether a generation at `target` is under way.
    pub(super) fn under_way(&self, target: Target) -> bool {
        self.generations.contains_key(&target)
    }

    /// How long `target` has been tried.
    pub(super) fn trying_for(&self, now: Time, target: Target) -> Duration {
        let started = self.by_dial.values().filter(|a| a.target == target).map(|a| a.started).min();
        started.map_or(Duration::ZERO, |started| now.since(started))
    }

    /// When the oldest was started.
    pub(super) fn oldest(&self) -> Option<Time> {
        self.by_dial.values().map(|a| a.started).min()
    }

    /// Those of `ways` that a further attempt at `target` is to try now.
    pub(super) fn untried(&self, target: Target, mut ways: Vec<Way>) -> Vec<Way> {
        let of_target = |a: &&Attempt| a.target == target && a.role == Role::Further;
        let further = self.by_dial.values().filter(of_target).count();
        let Some(tried) = self.generations.get(&target).filter(|_| further < MAX_FURTHER) else {
            return Vec::new();
        };
        ways.retain(|way| !tried.contains(way));
        ways.truncate(MAX_TRIED.saturating_sub(tried.len()));
        ways
    }

    /// Starts an attempt at `ways`: a generation, or a further one of that under way.
    pub(super) fn start(&mut self, now: Time, target: Target, ways: Vec<Way>) -> DialId {
        let dial = DialId(self.next);
        self.next += 1;
        let role = if self.under_way(target) { Role::Further } else { Role::First };
        self.generations.entry(target).or_default().extend(&ways);
        self.by_dial.insert(dial, Attempt { target, role, ways, started: now, superseded: false });
        dial
    }

    /// The attempt `dial` is over.
    pub(super) fn end(&mut self, dial: DialId) -> Option<Ended> {
        let Attempt { target, ways, superseded, .. } = self.by_dial.remove(&dial)?;
        let others = self.by_dial.values().any(|a| a.target == target && !a.superseded);
        let last = !superseded && !others;
        if last {
            self.generations.remove(&target);
        }
        Some(Ended { target, ways, last })
    }

    /// The generation at `target`, if any, has served its purpose.
    pub(super) fn settle(&mut self, target: Target) {
        if self.generations.remove(&target).is_some() {
            for attempt in self.by_dial.values_mut().filter(|a| a.target == target) {
                attempt.superseded = true;
            }
        }
    }

    /// Those that have been under way for `limit` or longer.
    pub(super) fn lasting(&self, now: Time, limit: Duration) -> Vec<DialId> {
        let long = |a: &Attempt| now.since(a.started) >= limit;
        self.by_dial.iter().filter(|(_, a)| long(a)).map(|(dial, _)| *dial).collect()
    }
}

impl Target {
    pub(super) const fn peer(self) -> Option<NodeId> {
        match self {
            Self::Address(_) => None,
            Self::Peer(peer) => Some(peer),
        }
    }
}
