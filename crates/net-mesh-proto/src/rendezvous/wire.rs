//! The messages of a rendezvous: two nodes and the one that introduces them.

use alloc::vec::Vec;
use core::net::SocketAddr;

use super::plan::Plan;
use crate::id::NodeId;
use crate::membership::{MAX_CANDIDATES, VerdictSummary, read_verdict, write_verdict};
use crate::wire::{Malformed, Reader, Writer, addr};

/// A message of this protocol.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Message {
    /// To a mediator: introduce me.
    Seek(Seek),
    /// From a mediator, or from a peer that introduces itself: this is who, where, how and when.
    Introduction(Introduction),
    /// From a mediator: no.
    Declined {
        /// Which attempt.
        attempt: u128,
        /// Why.
        why: Decline,
    },
}

/// A request to be introduced.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Seek {
    /// The attempt, by a random number.
    pub attempt: u128,
    /// To whom.
    pub target: NodeId,
    /// What to try.
    pub plan: Plan,
    /// What the sender's NAT does.
    pub verdict: VerdictSummary,
    /// Where the sender may be reached; at most [`MAX_CANDIDATES`].
    pub candidates: Vec<SocketAddr>,
}

/// An introduction.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Introduction {
    /// The attempt.
    pub attempt: u128,
    /// The other one.
    pub peer: NodeId,
    /// Whether the receiver asked for it.
    pub to_seeker: bool,
    /// What to try.
    pub plan: Plan,
    /// What the other one's NAT does.
    pub verdict: VerdictSummary,
    /// Where the other one may be reached; at most [`MAX_CANDIDATES`].
    pub candidates: Vec<SocketAddr>,
    /// What checks are signed with.
    pub key: [u8; 32],
    /// When to fire, in milliseconds from the arrival of this.
    pub fire_in_ms: u16,
    /// One way between the two, by way of the mediator, in milliseconds.
    pub span_ms: u16,
}

/// Why a mediator declines.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Decline {
    /// It has no session with the other one, or no record of it.
    NoSession,
    /// It was asked too often, or for that node.
    Busy,
}

impl Decline {
    pub(crate) const fn code(self) -> u8 {
        match self {
            Self::NoSession => 1,
            Self::Busy => 2,
        }
    }

    pub(crate) fn from_code(code: u8) -> Result<Self, Malformed> {
        let known = [Self::NoSession, Self::Busy];
        known.into_iter().find(|why| why.code() == code).ok_or(Malformed::Invalid("a reason to decline"))
    }
}

fn write_candidates(out: &mut Writer, candidates: &[SocketAddr]) {
    let candidates = candidates.get(..MAX_CANDIDATES).unwrap_or(candidates);
    out.count(candidates.len());
    for candidate in candidates {
        addr::write(out, *candidate);
    }
}

fn read_candidates(from: &mut Reader<'_>) -> Result<Vec<SocketAddr>, Malformed> {
    (0..from.count(MAX_CANDIDATES, "candidates")?).map(|_| addr::read(from)).collect()
}

fn u128_of(from: &mut Reader<'_>) -> Result<u128, Malformed> {
    Ok(u128::from_be_bytes(from.array()?))
}

/// Which message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// [`Message::Seek`].
    Seek,
    /// [`Message::Introduction`].
    Introduction,
    /// [`Message::Declined`].
    Declined,
}

impl Message {
    /// Which message it is.
    #[must_use]
    pub const fn kind(&self) -> Kind {
        match self {
            Self::Seek(_) => Kind::Seek,
            Self::Introduction(_) => Kind::Introduction,
            Self::Declined { .. } => Kind::Declined,
        }
    }

    /// The body of the message.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Writer::new();
        match self {
            Self::Seek(seek) => {
                out.bytes(&seek.attempt.to_be_bytes()).bytes(&seek.target.0).u8(seek.plan.code());
                write_verdict(&mut out, &seek.verdict);
                write_candidates(&mut out, &seek.candidates);
            }
            Self::Introduction(intro) => {
                out.bytes(&intro.attempt.to_be_bytes()).bytes(&intro.peer.0);
                out.bool(intro.to_seeker).u8(intro.plan.code());
                write_verdict(&mut out, &intro.verdict);
                write_candidates(&mut out, &intro.candidates);
                out.bytes(&intro.key).u16(intro.fire_in_ms).u16(intro.span_ms);
            }
            Self::Declined { attempt, why } => {
                out.bytes(&attempt.to_be_bytes()).u8(why.code());
            }
        }
        out.finish()
    }

    /// Reads a whole body.
    ///
    /// # Errors
    /// When it is not of that kind.
    pub fn decode(kind: Kind, body: &[u8]) -> Result<Self, Malformed> {
        let mut from = Reader::new(body);
        let attempt = u128_of(&mut from)?;
        let message = match kind {
            Kind::Seek => {
                let (target, plan) = (NodeId(from.array()?), Plan::from_code(from.u8()?)?);
                let verdict = read_verdict(&mut from)?;
                Self::Seek(Seek { attempt, target, plan, verdict, candidates: read_candidates(&mut from)? })
            }
            Kind::Introduction => {
                let (peer, to_seeker) = (NodeId(from.array()?), from.bool()?);
                let plan = Plan::from_code(from.u8()?)?;
                let verdict = read_verdict(&mut from)?;
                let candidates = read_candidates(&mut from)?;
                let (key, fire_in_ms, span_ms) = (from.array()?, from.u16()?, from.u16()?);
                Self::Introduction(Introduction {
                    attempt,
                    peer,
                    to_seeker,
                    plan,
                    verdict,
                    candidates,
                    key,
                    fire_in_ms,
                    span_ms,
                })
            }
            Kind::Declined => Self::Declined { attempt, why: Decline::from_code(from.u8()?)? },
        };
        from.finish()?;
        Ok(message)
    }
}

#[cfg(test)]
mod tests {
    use alloc::vec;

    use super::*;

    fn one_of_each() -> Vec<(Message, Vec<u8>)> {
        let attempt = 0x0102_0304_0506_0708_090a_0b0c_0d0e_0f10;
        let number: Vec<u8> = (1..=16).collect();
        let peer = NodeId([0xaa; 32]);
        let candidates = vec!["203.0.113.7:4433".parse().unwrap()];
        let verdict = VerdictSummary { confidence: 90, ..VerdictSummary::UNKNOWN };
        let what = [0, 0, 0, 90, 1, 4, 203, 0, 113, 7, 0x11, 0x51];
        let seek =
            Seek { attempt, target: peer, plan: Plan::FireTogether, verdict, candidates: candidates.clone() };
        let intro = Introduction {
            attempt,
            peer,
            to_seeker: true,
            plan: Plan::FireTogether,
            verdict,
            candidates,
            key: [7; 32],
            fire_in_ms: 300,
            span_ms: 40,
        };
        vec![
            (Message::Seek(seek), [&number[..], &[0xaa; 32], &[4], &what].concat()),
            (
                Message::Introduction(intro),
                [&number[..], &[0xaa; 32], &[1, 4], &what, &[7; 32], &[1, 44, 0, 40]].concat(),
            ),
            (Message::Declined { attempt, why: Decline::Busy }, [&number[..], &[2]].concat()),
        ]
    }

    #[test]
    fn every_message_has_these_bytes_and_survives_the_journey() {
        for (message, bytes) in one_of_each() {
            assert_eq!(message.encode(), bytes, "{message:?}");
            assert_eq!(Message::decode(message.kind(), &bytes), Ok(message));
        }
    }

    #[test]
    fn a_message_cut_anywhere_or_with_more_behind_it_is_malformed() {
        for (message, mut bytes) in one_of_each() {
            for end in 0..bytes.len() {
                assert!(Message::decode(message.kind(), &bytes[..end]).is_err(), "{message:?} cut at {end}");
            }
            bytes.push(0);
            assert!(Message::decode(message.kind(), &bytes).is_err());
        }
    }
}
