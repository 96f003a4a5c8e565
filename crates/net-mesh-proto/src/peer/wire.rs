//! The bytes with which two nodes agree on one connection.

use crate::wire::{Malformed, Reader, Writer};

/// The version of the control protocol that this node speaks.
pub const PROTOCOL_VERSION: u16 = 1;

/// The first message on every connection, from both sides.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Hello {
    /// The version of the control protocol that the sender speaks. Differences are for later versions
    /// to bridge: kinds that are not known are skipped.
    pub version: u16,
    /// Tells this run of the sender from earlier ones.
    pub boot: u64,
    /// Whether the sender had a session with the receiver when the connection came up.
    pub has_session: bool,
}

/// The arbiter's word that this connection is the session.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Adopt {
    /// Counts the adoptions of this peer in this run of the arbiter. Messages on different connections
    /// overtake each other; the highest count is the last word.
    pub count: u64,
}

impl Hello {
    /// Appends the body.
    pub fn write(&self, out: &mut Writer) {
        out.u16(self.version).u64(self.boot).bool(self.has_session);
    }

    /// Reads a whole body.
    ///
    /// # Errors
    /// When the bytes are no greeting.
    pub fn parse(bytes: &[u8]) -> Result<Self, Malformed> {
        let mut from = Reader::new(bytes);
        let hello = Self { version: from.u16()?, boot: from.u64()?, has_session: from.bool()? };
        from.finish()?;
        Ok(hello)
    }
}

impl Adopt {
    /// Appends the body.
    pub fn write(&self, out: &mut Writer) {
        out.u64(self.count);
    }

    /// Reads a whole body.
    ///
    /// # Errors
    /// When the bytes are no adoption.
    pub fn parse(bytes: &[u8]) -> Result<Self, Malformed> {
        let mut from = Reader::new(bytes);
        let adopt = Self { count: from.u64()? };
        from.finish()?;
        Ok(adopt)
    }
}
