//! The table of control messages: which kind is whose.
//!
//! A control message is a 16-bit kind and a body. Kinds are never reused; a node skips those it does not
//! know, so a new protocol is a new row. The rows of one protocol share their upper byte.

use alloc::vec::Vec;

use crate::membership;
use crate::membership::wire::{Digest, Records, Want};
use crate::peer::wire::{Adopt, Hello};
use crate::wire::{Malformed, Reader, Writer};

/// A greeting: the first message on every connection.
pub const HELLO: u16 = 0x0001;
/// The arbiter's choice of a connection.
pub const ADOPT: u16 = 0x0002;
/// Which records the sender has.
pub const DIGEST: u16 = 0x0101;
/// Records.
pub const RECORDS: u16 = 0x0102;
/// Which records the sender asks for.
pub const WANT: u16 = 0x0103;

/// A control message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Control {
    /// Kind [`HELLO`].
    Hello(Hello),
    /// Kind [`ADOPT`].
    Adopt(Adopt),
    /// Kinds [`DIGEST`], [`RECORDS`] and [`WANT`].
    Membership(membership::Message),
}

/// Why a control message was not taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ControlError {
    /// Its kind is not in the table.
    UnknownKind(u16),
    /// It does not parse.
    Malformed(Malformed),
}

impl From<Malformed> for ControlError {
    fn from(error: Malformed) -> Self {
        Self::Malformed(error)
    }
}

impl Control {
    /// The whole message.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Writer::new();
        match self {
            Self::Hello(hello) => hello.write(out.u16(HELLO)),
            Self::Adopt(adopt) => adopt.write(out.u16(ADOPT)),
            Self::Membership(membership::Message::Digest(digest)) => digest.write(out.u16(DIGEST)),
            Self::Membership(membership::Message::Records(records)) => records.write(out.u16(RECORDS)),
            Self::Membership(membership::Message::Want(want)) => want.write(out.u16(WANT)),
        }
        out.finish()
    }

    /// Reads a whole message.
    ///
    /// # Errors
    /// When the kind is not known or the body is not of that kind.
    pub fn parse(bytes: &[u8]) -> Result<Self, ControlError> {
        let mut from = Reader::new(bytes);
        let kind = from.u16()?;
        let body = from.rest();
        Ok(match kind {
            HELLO => Self::Hello(Hello::parse(body)?),
            ADOPT => Self::Adopt(Adopt::parse(body)?),
            DIGEST => Self::Membership(membership::Message::Digest(Digest::parse(body)?)),
            RECORDS => Self::Membership(membership::Message::Records(Records::parse(body)?)),
            WANT => Self::Membership(membership::Message::Want(Want::parse(body)?)),
            unknown => return Err(ControlError::UnknownKind(unknown)),
        })
    }
}
