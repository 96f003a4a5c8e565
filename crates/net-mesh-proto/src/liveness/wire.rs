//! The bytes of pings and pongs.
//!
//! | bytes | what |
//! |---|---|
//! | 1 | [`PING`] or [`PONG`] |
//! | 1 | flags: bit 0 says that the sender sends its packets on this way now |
//! | 8 | which session: a hash of its key |
//! | 8 | a nonce; a pong repeats its ping's |
//! | 16 | HMAC-SHA256 (RFC 2104) of all that and the sender's id, cut to 128 bits |
//!
//! The sender's id is covered so that a frame thrown back at its sender means nothing.

use alloc::vec::Vec;

use hmac::{Hmac, KeyInit, Mac};
use sha2::Sha256;

use crate::id::NodeId;
use crate::wire::frame::{PING, PONG};
use crate::wire::{Malformed, Reader, Writer};

/// The length of a frame, in bytes. A pong is as long as a ping: nobody gets more than was sent.
pub const FRAME_BYTES: usize = 1 + 1 + 8 + 8 + MAC;

const MAC: usize = 16;
const IN_USE: u8 = 1;

/// The key of one session, exported from its TLS (RFC 8446 §7.5).
#[derive(Clone, PartialEq, Eq)]
pub struct SessionKey([u8; 32]);

impl core::fmt::Debug for SessionKey {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.write_str("SessionKey")
    }
}

impl SessionKey {
    /// The key with these bytes.
    #[must_use]
    pub const fn new(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    /// What names the session in frames: says nothing about the key.
    #[must_use]
    pub fn hint(&self) -> u64 {
        let mac = self.hmac(&[b"net-mesh session hint"]);
        mac.first_chunk().map_or(0, |bytes| u64::from_be_bytes(*bytes))
    }

    fn hmac(&self, parts: &[&[u8]]) -> [u8; 32] {
        // Cannot fail: HMAC takes keys of any length.
        let Ok(mut mac) = Hmac::<Sha256>::new_from_slice(&self.0) else { return [0; 32] };
        parts.iter().for_each(|part| mac.update(part));
        mac.finalize().into_bytes().into()
    }
}

/// Which of the two frames.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A question.
    Ping,
    /// Its answer.
    Pong,
}

/// A frame without its authentication code.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Frame {
    /// Which frame.
    pub kind: Kind,
    /// Whether the sender sends its packets on this way now.
    pub in_use: bool,
    /// Chosen by who pings.
    pub nonce: u64,
}

/// A frame that has been parsed, whose authentication code has not been looked at.
#[derive(Clone, Debug)]
pub struct Unverified<'a> {
    frame: Frame,
    hint: u64,
    covered: &'a [u8],
    mac: [u8; MAC],
}

impl Frame {
    /// The bytes of the frame that `sender` sends in the session with `key`.
    #[must_use]
    pub fn encode(&self, key: &SessionKey, sender: &NodeId) -> Vec<u8> {
        let mut out = Writer::new();
        let kind = match self.kind {
            Kind::Ping => PING,
            Kind::Pong => PONG,
        };
        out.u8(kind).u8(if self.in_use { IN_USE } else { 0 }).u64(key.hint()).u64(self.nonce);
        let mut bytes = out.finish();
        let mac = key.hmac(&[&bytes, &sender.0]);
        bytes.extend_from_slice(mac.first_chunk::<MAC>().map_or(&[], |mac| mac));
        bytes
    }
}

impl<'a> Unverified<'a> {
    /// Parses a whole frame.
    ///
    /// # Errors
    /// When it is no ping or pong.
    pub fn parse(bytes: &'a [u8]) -> Result<Self, Malformed> {
        let mut from = Reader::new(bytes);
        let kind = match from.u8()? {
            PING => Kind::Ping,
            PONG => Kind::Pong,
            _ => return Err(Malformed::Invalid("a kind of frame")),
        };
        let flags = from.u8()?;
        if flags & !IN_USE != 0 {
            return Err(Malformed::Invalid("a flag"));
        }
        let (hint, nonce, mac) = (from.u64()?, from.u64()?, from.array()?);
        from.finish()?;
        let covered = bytes.get(..bytes.len() - MAC).ok_or(Malformed::Truncated)?;
        Ok(Self { frame: Frame { kind, in_use: flags & IN_USE != 0, nonce }, hint, covered, mac })
    }

    /// Which session it says it belongs to.
    #[must_use]
    pub const fn hint(&self) -> u64 {
        self.hint
    }

    /// The frame, if `sender` sent it in the session with `key`.
    #[must_use]
    pub fn verify(&self, key: &SessionKey, sender: &NodeId) -> Option<Frame> {
        let mut mac = Hmac::<Sha256>::new_from_slice(&key.0).ok()?;
        mac.update(self.covered);
        mac.update(&sender.0);
        mac.verify_truncated_left(&self.mac).ok().map(|()| self.frame)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: NodeId = NodeId([1; 32]);
    const B: NodeId = NodeId([2; 32]);

    fn key() -> SessionKey {
        SessionKey::new([7; 32])
    }

    fn frame() -> Frame {
        Frame { kind: Kind::Ping, in_use: true, nonce: 0x0102_0304_0506_0708 }
    }

    #[test]
    fn a_ping_has_these_bytes() {
        let bytes = frame().encode(&key(), &A);
        assert_eq!(bytes.len(), FRAME_BYTES);
        assert_eq!(bytes[..2], [0x81, 1]);
        assert_eq!(bytes[2..10], key().hint().to_be_bytes());
        assert_eq!(bytes[10..18], [1, 2, 3, 4, 5, 6, 7, 8]);
    }

    #[test]
    fn a_frame_survives_the_journey_and_only_with_its_key_and_sender() {
        for frame in [frame(), Frame { kind: Kind::Pong, in_use: false, nonce: 9 }] {
            let bytes = frame.encode(&key(), &A);
            let parsed = Unverified::parse(&bytes).unwrap();
            assert_eq!(parsed.hint(), key().hint());
            assert_eq!(parsed.verify(&key(), &A), Some(frame));
            assert_eq!(parsed.verify(&key(), &B), None, "thrown back");
            assert_eq!(parsed.verify(&SessionKey::new([8; 32]), &A), None);
            for bit in 0..bytes.len() * 8 {
                let mut flipped = bytes.clone();
                flipped[bit / 8] ^= 1 << (bit % 8);
                let genuine = Unverified::parse(&flipped).ok().and_then(|p| p.verify(&key(), &A));
                assert_eq!(genuine, None, "bit {bit}");
            }
        }
    }

    #[test]
    fn a_frame_cut_anywhere_or_with_more_behind_it_is_malformed() {
        let mut bytes = frame().encode(&key(), &A);
        for end in 0..bytes.len() {
            assert!(Unverified::parse(&bytes[..end]).is_err(), "cut at {end}");
        }
        bytes.push(0);
        assert!(Unverified::parse(&bytes).is_err());
    }
}
