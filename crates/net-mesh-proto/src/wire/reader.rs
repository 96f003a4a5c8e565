//! Reading a message: every access is checked, and nothing is read twice.

use core::str;

use thiserror::Error;

/// A message that does not parse, and what was wrong with it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum Malformed {
    /// It ends in the middle of a field.
    #[error("the message ends early")]
    Truncated,
    /// Bytes are left after its last field.
    #[error("bytes are left after the message")]
    TrailingBytes,
    /// A field has a value that the format does not allow.
    #[error("{0} is not valid")]
    Invalid(&'static str),
    /// A count or a length is above its limit.
    #[error("{0} is above its limit")]
    TooLong(&'static str),
}

/// A cursor over the bytes of one message.
#[derive(Clone, Debug)]
pub struct Reader<'a> {
    rest: &'a [u8],
}

impl<'a> Reader<'a> {
    /// A cursor at the start of `bytes`.
    #[must_use]
    pub const fn new(bytes: &'a [u8]) -> Self {
        Self { rest: bytes }
    }

    /// The next `n` bytes.
    pub fn bytes(&mut self, n: usize) -> Result<&'a [u8], Malformed> {
        let (head, tail) = self.rest.split_at_checked(n).ok_or(Malformed::Truncated)?;
        self.rest = tail;
        Ok(head)
    }

    /// The next `N` bytes, as an array.
    pub fn array<const N: usize>(&mut self) -> Result<[u8; N], Malformed> {
        let (head, tail) = self.rest.split_first_chunk().ok_or(Malformed::Truncated)?;
        self.rest = tail;
        Ok(*head)
    }

    /// A byte.
    pub fn u8(&mut self) -> Result<u8, Malformed> {
        Ok(u8::from_be_bytes(self.array()?))
    }

    /// A 16-bit number.
    pub fn u16(&mut self) -> Result<u16, Malformed> {
        Ok(u16::from_be_bytes(self.array()?))
    }

    /// A 32-bit number.
    pub fn u32(&mut self) -> Result<u32, Malformed> {
        Ok(u32::from_be_bytes(self.array()?))
    }

    /// A 64-bit number.
    pub fn u64(&mut self) -> Result<u64, Malformed> {
        Ok(u64::from_be_bytes(self.array()?))
    }

    /// A truth value: a byte that is 0 or 1.
    pub fn bool(&mut self) -> Result<bool, Malformed> {
        match self.u8()? {
            0 => Ok(false),
            1 => Ok(true),
            _ => Err(Malformed::Invalid("a truth value")),
        }
    }

    /// A variable-length integer (RFC 9000 §16).
    pub fn varint(&mut self) -> Result<u64, Malformed> {
        let first = self.u8()?;
        let extra = (1usize << (first >> 6)) - 1;
        let mut value = u64::from(first & 0x3f);
        for byte in self.bytes(extra)? {
            value = value << 8 | u64::from(*byte);
        }
        Ok(value)
    }

    /// A count of things, at most `limit`, as a variable-length integer. `what` names them in the error.
    pub fn count(&mut self, limit: usize, what: &'static str) -> Result<usize, Malformed> {
        match usize::try_from(self.varint()?) {
            Ok(n) if n <= limit => Ok(n),
            _ => Err(Malformed::TooLong(what)),
        }
    }

    /// A length of at most `limit` and as many bytes of UTF-8. `what` names it in the error.
    pub fn text(&mut self, limit: usize, what: &'static str) -> Result<&'a str, Malformed> {
        let length = self.count(limit, what)?;
        str::from_utf8(self.bytes(length)?).map_err(|_| Malformed::Invalid(what))
    }

    /// What has not been read yet.
    #[must_use]
    pub const fn rest(&self) -> &'a [u8] {
        self.rest
    }

    /// Ends the message: anything left over is an error.
    pub fn finish(self) -> Result<(), Malformed> {
        if self.rest.is_empty() { Ok(()) } else { Err(Malformed::TrailingBytes) }
    }
}
