//! The messages that set circuits up, hop by hop over authenticated sessions.
//!
//! A circuit has a number of its own on each hop, drawn by who opens that hop.

use alloc::vec::Vec;

use super::MAX_HOPS;
use crate::id::NodeId;
use crate::wire::{Malformed, Reader, Writer};

/// A message of this protocol.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Message {
    /// Set up a circuit.
    Open(Open),
    /// The circuit reaches its target.
    Opened {
        /// Which.
        circuit: u64,
    },
    /// The circuit cannot be.
    Refused {
        /// Which.
        circuit: u64,
        /// Who refused.
        at: NodeId,
        /// Why.
        why: Refusal,
    },
    /// The circuit is still needed.
    Renew {
        /// Which.
        circuit: u64,
    },
    /// The circuit is over.
    Close {
        /// Which.
        circuit: u64,
        /// Whether the message comes from the side that opened it.
        by_opener: bool,
    },
}

/// A request for a circuit.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Open {
    /// Its number on this hop.
    pub circuit: u64,
    /// Who wants it, as the hop before says.
    pub origin: NodeId,
    /// The nodes after the receiver, the target last; empty where the receiver is the target. At most
    /// [`MAX_HOPS`].
    pub path: Vec<NodeId>,
    /// The inner nodes before the receiver, in order from the origin, as they say; at most [`MAX_HOPS`]. They tell
    /// the target which way it is reached, and nothing depends on them.
    pub passed: Vec<NodeId>,
    /// The label on what the sender sends the receiver.
    pub forward: u64,
    /// The label on what the receiver sends the sender.
    pub back: u64,
}

/// Why a node refuses a circuit.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Refusal {
    /// It does not relay.
    NotRelaying,
    /// It carries as many as it is prepared to, for everyone or for this neighbour.
    TooMany,
    /// It has no direct session with the next node.
    NoLink,
    /// The path leads back, or to nobody.
    BadPath,
    /// A label is in use.
    InUse,
    /// It has no direct session with the node that asked it.
    NotDirect,
    /// It is asked more often than it answers.
    TooFast,
    /// A reason of a later version, by its code.
    Other(u8),
}

impl Refusal {
    const fn code(self) -> u8 {
        match self {
            Self::NotRelaying => 1,
            Self::TooMany => 2,
            Self::NoLink => 3,
            Self::BadPath => 4,
            Self::InUse => 5,
            Self::NotDirect => 6,
            Self::TooFast => 7,
            Self::Other(code) => code,
        }
    }

    const fn from_code(code: u8) -> Self {
        match code {
            1 => Self::NotRelaying,
            2 => Self::TooMany,
            3 => Self::NoLink,
            4 => Self::BadPath,
            5 => Self::InUse,
            6 => Self::NotDirect,
            7 => Self::TooFast,
            other => Self::Other(other),
        }
    }

    /// In words, after "it".
    #[must_use]
    pub const fn words(self) -> &'static str {
        match self {
            Self::NotRelaying => "does not relay",
            Self::TooMany => "carries as much as it is prepared to",
            Self::NoLink => "has no direct session with the next node",
            Self::BadPath => "was named a path that leads nowhere",
            Self::InUse => "has the label in use",
            Self::NotDirect => "has no direct session with the node before it",
            Self::TooFast => "is asked for circuits too often",
            Self::Other(_) => "refuses for a reason that this version does not know",
        }
    }
}

/// Which message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// [`Message::Open`].
    Open,
    /// [`Message::Opened`].
    Opened,
    /// [`Message::Refused`].
    Refused,
    /// [`Message::Renew`].
    Renew,
    /// [`Message::Close`].
    Close,
}

fn nodes(from: &mut Reader<'_>) -> Result<Vec<NodeId>, Malformed> {
    (0..from.count(MAX_HOPS, "a path")?).map(|_| Ok(NodeId(from.array()?))).collect()
}

impl Message {
    /// Which message it is.
    #[must_use]
    pub const fn kind(&self) -> Kind {
        match self {
            Self::Open(_) => Kind::Open,
            Self::Opened { .. } => Kind::Opened,
            Self::Refused { .. } => Kind::Refused,
            Self::Renew { .. } => Kind::Renew,
            Self::Close { .. } => Kind::Close,
        }
    }

    /// The body of the message.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Writer::new();
        match self {
            Self::Open(open) => {
                out.u64(open.circuit).bytes(&open.origin.0);
                for nodes in [&open.path, &open.passed] {
                    out.count(nodes.len());
                    nodes.iter().for_each(|node| {
                        out.bytes(&node.0);
                    });
                }
                out.u64(open.forward).u64(open.back);
            }
            Self::Opened { circuit } | Self::Renew { circuit } => {
                out.u64(*circuit);
            }
            Self::Refused { circuit, at, why } => {
                out.u64(*circuit).bytes(&at.0).u8(why.code());
            }
            Self::Close { circuit, by_opener } => {
                out.u64(*circuit).bool(*by_opener);
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
        let circuit = from.u64()?;
        let message = match kind {
            Kind::Open => {
                let origin = NodeId(from.array()?);
                let (path, passed) = (nodes(&mut from)?, nodes(&mut from)?);
                Self::Open(Open { circuit, origin, path, passed, forward: from.u64()?, back: from.u64()? })
            }
            Kind::Opened => Self::Opened { circuit },
            Kind::Refused => {
                Self::Refused { circuit, at: NodeId(from.array()?), why: Refusal::from_code(from.u8()?) }
            }
            Kind::Renew => Self::Renew { circuit },
            Kind::Close => Self::Close { circuit, by_opener: from.bool()? },
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
        let id = 0x0102_0304_0506_0708;
        let circuit = [1, 2, 3, 4, 5, 6, 7, 8];
        let (a, b) = (NodeId([0xaa; 32]), NodeId([0xbb; 32]));
        let open = Open { circuit: id, origin: a, path: vec![b], passed: vec![a], forward: 9, back: 10 };
        let labels = [0, 0, 0, 0, 0, 0, 0, 9, 0, 0, 0, 0, 0, 0, 0, 10];
        vec![
            (
                Message::Open(open),
                [&circuit[..], &[0xaa; 32], &[1], &[0xbb; 32], &[1], &[0xaa; 32], &labels].concat(),
            ),
            (Message::Opened { circuit: id }, circuit.to_vec()),
            (
                Message::Refused { circuit: id, at: a, why: Refusal::NoLink },
                [&circuit[..], &[0xaa; 32], &[3]].concat(),
            ),
            (Message::Renew { circuit: id }, circuit.to_vec()),
            (Message::Close { circuit: id, by_opener: true }, [&circuit[..], &[1]].concat()),
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

    #[test]
    fn every_reason_has_its_code_and_those_of_later_versions_are_passed_on() {
        for code in 0..=u8::MAX {
            let why = Refusal::from_code(code);
            assert_eq!(why.code(), code);
            assert_eq!(matches!(why, Refusal::Other(_)), !(1..=7).contains(&code));
            assert!(!why.words().is_empty());
        }
    }

    #[test]
    fn a_path_longer_than_any_may_be_is_malformed() {
        let path = vec![NodeId([1; 32]); MAX_HOPS + 1];
        let open = Open { circuit: 1, origin: NodeId([2; 32]), path, passed: vec![], forward: 1, back: 2 };
        assert!(Message::decode(Kind::Open, &Message::Open(open).encode()).is_err());
    }
}
