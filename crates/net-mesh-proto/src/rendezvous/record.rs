//! What was tried, and what came of it: the part of a rendezvous that outlives it.

use alloc::collections::VecDeque;
use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;
use core::net::SocketAddr;
use core::time::Duration;

use super::plan::Plan;
use super::wire::Decline;
use super::{AFRESH_EVERY, AFRESH_IN_A_ROW};
use crate::id::NodeId;
use crate::time::Time;

/// Attempts kept for each peer.
pub const HISTORY: usize = 4;

/// The first rest after all plans have failed. A mapping that was spoilt by a packet which came too early is
/// remembered for up to the two minutes that mappings live (RFC 4787 REQ-5); to try sooner would find it
/// spoilt still, and renew it.
pub const MIN_REST: Duration = Duration::from_secs(130);

/// The longest one. Rests are up to a quarter longer than they say, by chance, and never shorter.
pub const MAX_REST: Duration = Duration::from_secs(600);

/// Between two plans, and after the first mediator that did not help; that doubles with each further one.
const NEXT_PLAN: Duration = Duration::from_millis(300);

/// After a success, how long the same pair is not tried again: what was found is being proven meanwhile.
const AFTER_SUCCESS: Duration = Duration::from_secs(10);

/// Attempts made one after the other before a pair rests, at least. Where there are fewer plans they come round again,
/// as the first may have failed by loss alone. After each rest all plans have their turn again, best first: what they
/// spoilt for each other is forgotten.
const IN_A_ROW: u32 = 3;

/// What came of an attempt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The peer answered a check that was sent to this address.
    Found {
        /// Where.
        addr: SocketAddr,
        /// The round trip of that check.
        rtt: Duration,
    },
    /// No check was answered.
    TimedOut,
    /// The mediator declined.
    Declined(Decline),
    /// The mediator said nothing.
    Unanswered,
    /// Both sides asked at once, and the other attempt was kept; or a new one replaced it.
    Superseded,
}

impl Outcome {
    /// In a word.
    #[must_use]
    pub const fn word(&self) -> &'static str {
        match self {
            Self::Found { .. } => "found",
            Self::TimedOut => "timed out",
            Self::Declined(_) => "declined",
            Self::Unanswered => "unanswered",
            Self::Superseded => "superseded",
        }
    }
}

/// One attempt at a direct way, as one of its two sides saw it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Attempt {
    /// Its number, the same on both sides.
    pub id: u128,
    /// With whom.
    pub peer: NodeId,
    /// Whether this node asked for it.
    pub seeker: bool,
    /// Who introduced the two; `None` where one of them did so over their session.
    pub mediator: Option<NodeId>,
    /// What was tried.
    pub plan: Plan,
    /// When it began.
    pub began: Time,
    /// When it ended; `None` while it lasts.
    pub ended: Option<Time>,
    /// The addresses of this node that the other side was told.
    pub own: Vec<SocketAddr>,
    /// The addresses of the other side.
    pub theirs: Vec<SocketAddr>,
    /// Checks sent.
    pub sent: u32,
    /// Genuine checks of the other side that arrived.
    pub heard: u32,
    /// What came of it; `None` while it lasts.
    pub outcome: Option<Outcome>,
}

impl Attempt {
    /// What came of it, in a sentence.
    #[must_use]
    pub fn reason(&self) -> String {
        reason(self.outcome, self.sent, self.heard)
    }
}

/// What came of an attempt with so many checks `sent` and genuine ones `heard`, in a sentence.
pub(crate) fn reason(outcome: Option<Outcome>, sent: u32, heard: u32) -> String {
    match outcome {
        None => String::from("It is under way."),
        Some(Outcome::Found { addr, rtt }) => {
            format!("A check to {addr} was answered after {} ms.", rtt.as_millis())
        }
        Some(Outcome::TimedOut) if sent == 0 => {
            String::from("This side sent no check, and none of the other side's arrived.")
        }
        Some(Outcome::TimedOut) if heard > 0 => {
            format!("{heard} checks of the other side arrived, and none of the {sent} sent was answered.")
        }
        Some(Outcome::TimedOut) => {
            format!("None of the {sent} checks sent was answered, and none of the other side's arrived.")
        }
        Some(Outcome::Declined(Decline::NoSession)) => {
            String::from("The mediator has no session with the other side.")
        }
        Some(Outcome::Declined(Decline::Busy)) => String::from("The mediator was asked too often."),
        Some(Outcome::Unanswered) => String::from("The mediator said nothing."),
        Some(Outcome::Superseded) => String::from("Another attempt of the same pair took its place."),
    }
}

/// What is known about a pair.
#[derive(Clone, Debug, Default)]
pub struct History {
    attempts: VecDeque<Attempt>,
    /// Plans that failed, since things last changed.
    failed: u32,
    /// Mediators that did not help, since a plan last failed.
    refused: u32,
    /// Attempts to make in a row.
    row: u32,
    rests_until: Time,
    lonely: bool,
    afresh_at: Time,
    /// How often the peer was believed since.
    afresh: u8,
    /// When the operator may end a rest again, and how often that was of no use.
    insist_at: Time,
    insisted: u32,
}

impl History {
    /// The last attempts that are over, oldest first; at most [`HISTORY`].
    pub fn attempts(&self) -> impl DoubleEndedIterator<Item = &Attempt> {
        self.attempts.iter()
    }

    /// Whether nobody could introduce the two when it was last wanted.
    #[must_use]
    pub const fn is_lonely(&self) -> bool {
        self.lonely
    }

    /// No attempt is made before.
    #[must_use]
    pub const fn rests_until(&self) -> Time {
        self.rests_until
    }

    /// Whose turn it is: the next plan, and the next mediator, `None` being the session of the two. A plan that comes round again
    /// meets another mediator than before.
    pub(super) fn turn(
        &mut self,
        plans: &[Plan],
        mediators: &[Option<NodeId>],
    ) -> Option<(Plan, Option<NodeId>)> {
        self.lonely = mediators.is_empty();
        let count = u32::try_from(plans.len()).unwrap_or(u32::MAX);
        self.row = count.max(IN_A_ROW);
        let round = self.failed.checked_div(count)?;
        let plan = *plans.get(at(self.failed, plans.len())?)?;
        let turn = self.failed.wrapping_add(round).wrapping_add(self.refused);
        let mediator = *mediators.get(at(turn, mediators.len())?)?;
        Some((plan, mediator))
    }

    /// Notes what came of an attempt, and for how long the pair rests. Whether it is news, and not only a better
    /// end of an attempt that is noted already. `jitter` is what the rest is multiplied with, at least 1.
    pub(super) fn note(&mut self, now: Time, record: &Attempt, jitter: f64) -> bool {
        if let Some(known) = self.attempts.iter_mut().find(|a| a.id == record.id) {
            known.clone_from(record);
            return false;
        }
        match record.outcome {
            // Unless the session moves there, it was one failure more.
            Some(Outcome::Found { .. }) => {
                self.rests_until = now + self.failed_once_more().max(AFTER_SUCCESS).mul_f64(jitter);
            }
            Some(Outcome::Superseded) | None => {}
            // Whoever asked decides about the next one.
            Some(_) if !record.seeker => {}
            Some(Outcome::TimedOut) => {
                self.rests_until = now + self.failed_once_more().mul_f64(jitter);
            }
            Some(Outcome::Declined(_) | Outcome::Unanswered) => {
                self.rests_until = now + doubled(NEXT_PLAN, self.refused).mul_f64(jitter);
                self.refused = self.refused.saturating_add(1);
            }
        }
        if self.attempts.len() == HISTORY {
            self.attempts.pop_front();
        }
        self.attempts.push_back(record.clone());
        true
    }

    /// Counts a plan that did not help; returns how long to rest for it.
    fn failed_once_more(&mut self) -> Duration {
        (self.failed, self.refused) = (self.failed.saturating_add(1), 0);
        match (self.failed.checked_div(self.row), self.failed.checked_rem(self.row)) {
            (Some(rounds), Some(0)) => doubled(MIN_REST, rounds.saturating_sub(1)),
            _ => NEXT_PLAN,
        }
    }

    /// Whatever failed before is past.
    pub(super) fn succeeded(&mut self) {
        (self.failed, self.refused) = (0, 0);
    }

    /// The session travels directly.
    pub(super) fn arrived(&mut self) {
        self.succeeded();
        (self.insist_at, self.insisted) = (Time::ZERO, 0);
    }

    /// The operator wants a direct way now. Whoever asks for one every second does not make the two try for ever:
    /// the time to the next round doubles.
    pub(super) fn insist(&mut self, now: Time) {
        if now >= self.insist_at {
            self.insist_at = now + doubled(AFRESH_EVERY, self.insisted);
            self.insisted = self.insisted.saturating_add(1);
            self.start_afresh(now);
        }
    }

    /// Something changed, so what failed may work now.
    pub(super) fn start_afresh(&mut self, now: Time) {
        self.succeeded();
        self.rests_until = self.rests_until.min(now);
    }

    /// The peer says that something changed with it; believed every now and then.
    pub(super) fn peer_changed(&mut self, now: Time) {
        if now >= self.afresh_at {
            (self.afresh_at, self.afresh) = (now + AFRESH_EVERY, 0);
        }
        if self.afresh < AFRESH_IN_A_ROW {
            self.afresh += 1;
            self.start_afresh(now);
        }
    }
}

/// `turn` as an index into a list of `length`; `None` if that is empty.
fn at(turn: u32, length: usize) -> Option<usize> {
    usize::try_from(turn).unwrap_or(usize::MAX).checked_rem(length)
}

/// `rest` after `times` doublings, and no longer than [`MAX_REST`].
fn doubled(rest: Duration, times: u32) -> Duration {
    (rest * (1 << times.min(11))).min(MAX_REST)
}
