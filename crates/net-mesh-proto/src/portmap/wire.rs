//! The two control messages, as bytes: the body of each, without the kind that the node puts in front.

use alloc::vec::Vec;
use core::net::SocketAddr;

use crate::reflex::stun::ProbeToken;
use crate::wire::{Malformed, Reader, Writer, addr};

/// A message of the protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Message {
    /// To a member: send to this address of mine.
    Ask(Ask),
    /// The answer.
    Told(Told),
}

/// A member is asked to send three probes (STUN indications, RFC 8489 §5) from its other port.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ask {
    /// What the probes carry.
    pub token: ProbeToken,
    /// Where they go. Only the asker's own IP, as the member sees it, is served.
    pub addr: SocketAddr,
}

/// What the member did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Told {
    /// Which request this answers.
    pub token: ProbeToken,
    /// What became of it.
    pub outcome: Outcome,
}

/// What became of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The first probe is on its way, two follow.
    Sent,
    /// The member sees the asker at another IP.
    NotYours,
    /// It has enough of these.
    Busy,
    /// It has no port to send from.
    CannotSend,
}

/// Which message a body is. The node maps it to and from the kinds of its control messages.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// [`Ask`].
    Ask,
    /// [`Told`].
    Told,
}

impl Message {
    /// Which message this is.
    #[must_use]
    pub const fn kind(&self) -> Kind {
        match self {
            Self::Ask(_) => Kind::Ask,
            Self::Told(_) => Kind::Told,
        }
    }

    /// The bytes of the body.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Writer::new();
        match self {
            Self::Ask(ask) => {
                out.u64(ask.token.0);
                addr::write(&mut out, ask.addr);
            }
            Self::Told(told) => {
                out.u64(told.token.0).u8(match told.outcome {
                    Outcome::Sent => 1,
                    Outcome::NotYours => 2,
                    Outcome::Busy => 3,
                    Outcome::CannotSend => 4,
                });
            }
        }
        out.finish()
    }

    /// Reads a body of the given kind.
    ///
    /// # Errors
    /// [`Malformed`] if it is not exactly one such message.
    pub fn decode(kind: Kind, body: &[u8]) -> Result<Self, Malformed> {
        let mut from = Reader::new(body);
        let token = ProbeToken(from.u64()?);
        let message = match kind {
            Kind::Ask => Self::Ask(Ask { token, addr: addr::read(&mut from)? }),
            Kind::Told => {
                let outcome = match from.u8()? {
                    1 => Outcome::Sent,
                    2 => Outcome::NotYours,
                    3 => Outcome::Busy,
                    4 => Outcome::CannotSend,
                    _ => return Err(Malformed::Invalid("an outcome")),
                };
                Self::Told(Told { token, outcome })
            }
        };
        from.finish()?;
        Ok(message)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::string::String;

    fn examples() -> [(Message, &'static str); 3] {
        let token = ProbeToken(0x1112_1314_1516_1718);
        [
            (
                Message::Ask(Ask { token, addr: "198.51.100.7:40000".parse().unwrap() }),
                "111213141516171804c63364079c40",
            ),
            (Message::Told(Told { token, outcome: Outcome::Sent }), "111213141516171801"),
            (Message::Told(Told { token, outcome: Outcome::CannotSend }), "111213141516171804"),
        ]
    }

    #[test]
    fn every_message_has_these_bytes_and_reads_back() {
        for (message, golden) in examples() {
            let bytes = message.encode();
            let hex: String = bytes.iter().map(|b| std::format!("{b:02x}")).collect();
            assert_eq!(hex, golden, "{message:?}");
            assert_eq!(Message::decode(message.kind(), &bytes), Ok(message));
        }
    }

    #[test]
    fn a_message_cut_anywhere_or_continued_is_refused() {
        for (message, _) in examples() {
            let mut bytes = message.encode();
            for cut in 0..bytes.len() {
                assert!(Message::decode(message.kind(), &bytes[..cut]).is_err(), "{message:?} cut at {cut}");
            }
            bytes.push(0);
            assert_eq!(Message::decode(message.kind(), &bytes), Err(Malformed::TrailingBytes));
        }
    }

    #[test]
    fn an_outcome_that_is_not_defined_is_refused() {
        let mut bytes = examples()[1].0.encode();
        *bytes.last_mut().unwrap() = 9;
        assert_eq!(Message::decode(Kind::Told, &bytes), Err(Malformed::Invalid("an outcome")));
    }

    proptest::proptest! {
        #[test]
        fn arbitrary_bytes_never_panic(
            told: bool, bytes in proptest::collection::vec(proptest::prelude::any::<u8>(), 0..40),
        ) {
            let kind = if told { Kind::Told } else { Kind::Ask };
            if let Ok(message) = Message::decode(kind, &bytes) {
                proptest::prop_assert_eq!(message.encode(), bytes);
            }
        }
    }
}
