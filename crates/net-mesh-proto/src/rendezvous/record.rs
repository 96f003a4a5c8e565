//! What was tried, and what came of it: the part of a rendezvous that outlives it.

use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;
use core::net::SocketAddr;
use core::time::Duration;

use super::plan::Plan;
use super::wire::Decline;
use crate::id::NodeId;
use crate::time::Time;

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
        match self.outcome {
            None => String::from("It is under way."),
            Some(Outcome::Found { addr, rtt }) => {
                format!("A check to {addr} was answered after {} ms.", rtt.as_millis())
            }
            Some(Outcome::TimedOut) if self.sent == 0 => {
                String::from("The other side was to send first, and none of its checks arrived.")
            }
            Some(Outcome::TimedOut) if self.heard > 0 => format!(
                "{} checks of the other side arrived, and none of the {} sent was answered.",
                self.heard, self.sent
            ),
            Some(Outcome::TimedOut) => {
                format!(
                    "None of the {} checks sent was answered, and none of the other side's arrived.",
                    self.sent
                )
            }
            Some(Outcome::Declined(Decline::NoSession)) => {
                String::from("The mediator has no session with the other side.")
            }
            Some(Outcome::Declined(Decline::Busy)) => String::from("The mediator was asked too often."),
            Some(Outcome::Unanswered) => String::from("The mediator said nothing."),
            Some(Outcome::Superseded) => String::from("Another attempt of the same pair took its place."),
        }
    }
}
