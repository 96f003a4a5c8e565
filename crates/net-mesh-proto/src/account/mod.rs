//! What does one side of a pair know of the way between the two?
//!
//! **Flow.** A node notes, for each peer, when the path of their session and the health of their ways changed
//! ([`Stories`]). Together with the attempts at direct ways that is its [`Account`] of the pair. Either side may ask the
//! other for its own, in their session; [`timeline`](fn@timeline) merges the two.
//!
//! **Time.** No clock is compared with another: an account says how long ago things were, on the clock of its side. What
//! both sides know of is an attempt, by its number; there the two are laid on each other.
//!
//! **Bounds.** [`NOTES`] notes and one moment for each of [`MAX_MEMBERS`] peers; an account of at most
//! [`MAX_BYTES`](wire::MAX_BYTES). A peer is answered [`ANSWERS`] times at once, then once in [`ANSWER_EVERY`].

mod timeline;
pub mod wire;

use alloc::collections::VecDeque;
use alloc::string::String;
use alloc::vec::Vec;
use core::net::SocketAddr;
use core::time::Duration;

pub use timeline::{Entry, Happened, Whose, timeline};

use crate::bounded::BoundedMap;
use crate::id::NodeId;
use crate::liveness::{Cause, Health};
use crate::membership::MAX_MEMBERS;
use crate::rendezvous::{Attempt, Outcome, Plan, record};
use crate::route::Route;
use crate::time::Time;

/// Notes kept for each peer. A change of the path is usually one of the health and one of the path, twice; this is
/// four faults, and fits a screen.
pub const NOTES: usize = 16;

/// Accounts that one peer is given at once: a person who looks twice, and one on the other side.
pub const ANSWERS: u8 = 4;

/// How soon it is given another one.
pub const ANSWER_EVERY: Duration = Duration::from_secs(2);

/// The path of a session, as far as it can be told to others.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub enum Line {
    /// There is none.
    #[default]
    None,
    /// Straight to this address.
    Direct(SocketAddr),
    /// Over these members, in order from the side that tells; who ends a circuit knows its last hop only.
    Relayed(Vec<NodeId>),
}

impl Line {
    /// The path over `route`, on which the members `via` relay.
    #[must_use]
    pub fn of(path: Option<(Route, Vec<NodeId>)>) -> Self {
        match path {
            None => Self::None,
            Some((Route::Direct(addr), _)) => Self::Direct(addr),
            Some((Route::Relayed(_), via)) => Self::Relayed(via),
        }
    }
}

/// A change.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    /// The session travels this way now.
    Path(Line),
    /// A way is doing so now.
    Health {
        /// The address it leads to; `None` if others relay.
        direct: Option<SocketAddr>,
        /// How it is doing.
        health: Health,
        /// Why.
        cause: Cause,
    },
}

/// A change, and when it was.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Note {
    at: Time,
    change: Change,
}

/// What became of the way to one peer.
#[derive(Clone, Debug, Default)]
struct Story {
    line: Line,
    since: Option<Time>,
    notes: VecDeque<Note>,
    /// Answers given since the bucket was full, and when it has one more.
    answered: u8,
    answer_at: Time,
}

impl Story {
    fn note(&mut self, now: Time, change: Change) {
        if self.notes.len() == NOTES {
            self.notes.pop_front();
        }
        self.notes.push_back(Note { at: now, change });
    }
}

/// What became of the ways to all peers.
#[derive(Debug)]
pub struct Stories(BoundedMap<NodeId, Story>);

impl Default for Stories {
    fn default() -> Self {
        Self(BoundedMap::new(MAX_MEMBERS))
    }
}

impl Stories {
    /// The session with `peer` travels this way. No news if it did before.
    pub fn travels(&mut self, now: Time, peer: NodeId, line: Line) {
        if line == Line::None && !self.0.contains_key(&peer) {
            return;
        }
        let story = self.0.get_or_insert_with(peer, Story::default);
        if story.line != line {
            story.line.clone_from(&line);
            story.since = Some(now);
            story.note(now, Change::Path(line));
        }
    }

    /// The way of `route` to `peer` changed its health.
    pub fn health(&mut self, now: Time, peer: NodeId, route: Route, health: Health, cause: Cause) {
        let change = Change::Health { direct: route.direct(), health, cause };
        self.0.get_or_insert_with(peer, Story::default).note(now, change);
    }

    /// `peer` is no member any more.
    pub fn forget(&mut self, peer: &NodeId) {
        self.0.remove(peer);
    }

    /// Since when the session with `peer` travels as it does, or has no way; `None` if there was never one.
    #[must_use]
    pub fn since(&self, peer: &NodeId) -> Option<Time> {
        self.0.get(peer)?.since
    }

    /// Whether `peer` may be given an account now; counts it.
    pub fn may_answer(&mut self, now: Time, peer: NodeId) -> bool {
        let story = self.0.get_or_insert_with(peer, Story::default);
        while story.answered > 0 && story.answer_at <= now {
            story.answered -= 1;
            story.answer_at += ANSWER_EVERY;
        }
        if story.answered == ANSWERS {
            return false;
        }
        if story.answered == 0 {
            story.answer_at = now + ANSWER_EVERY;
        }
        story.answered += 1;
        true
    }

    /// The changes with `peer`, oldest first, and how long ago each was.
    pub(crate) fn told(&self, now: Time, peer: &NodeId) -> Vec<(Duration, Change)> {
        let notes = self.0.get(peer).into_iter().flat_map(|story| &story.notes);
        notes.map(|note| (now.since(note.at), note.change.clone())).collect()
    }
}

/// One attempt at a direct way, as one side saw it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Try {
    /// Its number, the same on both sides.
    pub id: u128,
    /// Whether the side that tells asked for it.
    pub seeker: bool,
    /// Who introduced the two; `None` where one of them did so over their session.
    pub mediator: Option<NodeId>,
    /// What was tried.
    pub plan: Plan,
    /// How long ago it began.
    pub ago: Duration,
    /// How long it took; `None` while it lasts.
    pub took: Option<Duration>,
    /// Checks sent.
    pub sent: u32,
    /// Genuine checks of the other side that arrived.
    pub heard: u32,
    /// What came of it; `None` while it lasts.
    pub outcome: Option<Outcome>,
}

impl Try {
    /// An attempt of this node's.
    #[must_use]
    pub fn of(now: Time, attempt: &Attempt) -> Self {
        Self {
            id: attempt.id,
            seeker: attempt.seeker,
            mediator: attempt.mediator,
            plan: attempt.plan,
            ago: now.since(attempt.began),
            took: attempt.ended.map(|ended| ended.since(attempt.began)),
            sent: attempt.sent,
            heard: attempt.heard,
            outcome: attempt.outcome,
        }
    }

    /// What came of it, in a sentence.
    #[must_use]
    pub fn reason(&self) -> String {
        record::reason(self.outcome, self.sent, self.heard)
    }
}

/// What one side knows of the way between the two of a pair. All times are on the clock of that side.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Account {
    /// The path of their session.
    pub line: Line,
    /// How long it has been that.
    pub since: Option<Duration>,
    /// Why that way, in a sentence; from another node it is what that node likes to say.
    pub reason: String,
    /// How long until that side's next attempt, where it rests.
    pub rests_for: Option<Duration>,
    /// The last attempts, oldest first.
    pub attempts: Vec<Try>,
    /// The last changes, oldest first, and how long ago they were.
    pub changes: Vec<(Duration, Change)>,
}

#[cfg(test)]
mod tests;
