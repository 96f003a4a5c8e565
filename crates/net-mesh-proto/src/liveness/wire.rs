//! The bytes of pings and pongs.
//!
//! | bytes | what |
//! |---|---|
//! | 1 | [`PING`] or [`PONG`] |
//! | 1 | flags: bit 0, the session travels this way; bit 1, the sender doubts the way that the session travels |
//! | 8 | which session: a hash of its key |
//! | 8 | a nonce; a pong repeats its ping's |
//! | 4 | how many datagrams of the session the sender has sent this way, modulo 2^32 |
//! | 4 | how many it has received this way, modulo 2^32 |
//! | 18 | an address, IPv4 as IPv6 maps it (RFC 4291 §2.5.5.2), and a port: in a ping where it is sent to, in a pong where the ping came from; zeros over a circuit |
//! | 16 | HMAC-SHA256 (RFC 2104) of all that and the sender's id, cut to 128 bits |
//! | any | zeros: a ping may be as long as the packets that are to follow it |
//!
//! The sender's id is covered so that a frame thrown back at its sender means nothing. The padding is not covered:
//! whoever cuts it off could as well drop the whole frame.

use alloc::vec::Vec;
use core::net::{IpAddr, Ipv6Addr, SocketAddr};

use hmac::{Hmac, KeyInit, Mac};
use sha2::Sha256;

use crate::id::NodeId;
use crate::wire::frame::{PING, PONG};
use crate::wire::{Malformed, Reader, Writer};

/// The length of a frame without padding, in bytes. A pong is never longer than a ping: nobody gets more than was sent.
pub const FRAME_BYTES: usize = 1 + 1 + 8 + 8 + 4 + 4 + ADDR + MAC;

/// The length of a padded ping, in bytes: what QUIC needs every way to carry (RFC 9000 §14).
pub const PADDED_BYTES: usize = 1200;

/// The longest frame that is parsed, in bytes.
const MAX_BYTES: usize = 1500;

const ADDR: usize = 16 + 2;

const MAC: usize = 16;
const IN_USE: u8 = 1;
const DOUBT: u8 = 2;

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
    /// Whether the session travels this way, as far as the sender is concerned.
    pub in_use: bool,
    /// Whether the sender doubts the way that it travels.
    pub doubt: bool,
    /// Chosen by who pings.
    pub nonce: u64,
    /// Datagrams of the session that the sender has sent this way, modulo 2^32.
    pub sent: u32,
    /// Those that it has received this way, modulo 2^32.
    pub received: u32,
    /// In a ping where it is sent to, in a pong where the ping came from; `None` over a circuit.
    pub addr: Option<SocketAddr>,
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
        let flags = if self.in_use { IN_USE } else { 0 } | if self.doubt { DOUBT } else { 0 };
        out.u8(kind).u8(flags).u64(key.hint()).u64(self.nonce).u32(self.sent).u32(self.received);
        let (ip, port) = self.addr.map_or(([0; 16], 0), |addr| (octets(addr.ip()), addr.port()));
        out.bytes(&ip).u16(port);
        let mut bytes = out.finish();
        let mac = key.hmac(&[&bytes, &sender.0]);
        bytes.extend_from_slice(mac.first_chunk::<MAC>().map_or(&[], |mac| mac));
        bytes
    }

    /// The same, with zeros up to [`PADDED_BYTES`].
    #[must_use]
    pub fn encode_padded(&self, key: &SessionKey, sender: &NodeId) -> Vec<u8> {
        let mut bytes = self.encode(key, sender);
        bytes.resize(PADDED_BYTES, 0);
        bytes
    }
}

const fn octets(ip: IpAddr) -> [u8; 16] {
    match ip {
        IpAddr::V4(ip) => ip.to_ipv6_mapped().octets(),
        IpAddr::V6(ip) => ip.octets(),
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
        if flags & !(IN_USE | DOUBT) != 0 {
            return Err(Malformed::Invalid("a flag"));
        }
        let (hint, nonce) = (from.u64()?, from.u64()?);
        let (sent, received) = (from.u32()?, from.u32()?);
        let ip = Ipv6Addr::from(from.array::<16>()?).to_canonical();
        let port = from.u16()?;
        let addr = (!ip.is_unspecified() && port != 0).then(|| SocketAddr::new(ip, port));
        let mac = from.array()?;
        let padding = from.rest();
        if bytes.len() > MAX_BYTES
            || kind == Kind::Pong && !padding.is_empty()
            || padding.iter().any(|b| *b != 0)
        {
            return Err(Malformed::Invalid("padding"));
        }
        let covered = bytes.get(..FRAME_BYTES - MAC).ok_or(Malformed::Truncated)?;
        let frame = Frame {
            kind,
            in_use: flags & IN_USE != 0,
            doubt: flags & DOUBT != 0,
            nonce,
            sent,
            received,
            addr,
        };
        Ok(Self { frame, hint, covered, mac })
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
        Frame {
            kind: Kind::Ping,
            in_use: true,
            doubt: false,
            nonce: 0x0102_0304_0506_0708,
            sent: 0x0a0b_0c0d,
            received: 7,
            addr: Some("198.51.100.4:4433".parse().unwrap()),
        }
    }

    #[test]
    fn a_ping_has_these_bytes() {
        let bytes = frame().encode(&key(), &A);
        assert_eq!((bytes.len(), FRAME_BYTES), (60, 60));
        assert_eq!(bytes[..2], [0x81, 1]);
        assert_eq!(bytes[2..10], key().hint().to_be_bytes());
        assert_eq!(bytes[10..18], [1, 2, 3, 4, 5, 6, 7, 8]);
        assert_eq!(bytes[18..26], [10, 11, 12, 13, 0, 0, 0, 7]);
        assert_eq!(bytes[26..38], [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff]);
        assert_eq!(bytes[38..44], [198, 51, 100, 4, 0x11, 0x51]);
        let pong = Frame { kind: Kind::Pong, in_use: false, doubt: true, addr: None, ..frame() };
        let bytes = pong.encode(&key(), &A);
        assert_eq!(bytes[..2], [0x82, 2]);
        assert_eq!(bytes[26..44], [0; 18]);
    }

    #[test]
    fn a_frame_survives_the_journey_and_only_with_its_key_and_sender() {
        let pong = Frame { kind: Kind::Pong, in_use: false, doubt: true, nonce: 9, addr: None, ..frame() };
        let v6 = Frame { addr: Some("[2001:db8::1]:1".parse().unwrap()), ..frame() };
        for frame in [frame(), pong, v6] {
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
    fn a_ping_may_be_padded_with_zeros_and_a_pong_may_not() {
        let bytes = frame().encode_padded(&key(), &A);
        assert_eq!(bytes.len(), PADDED_BYTES);
        assert_eq!(Unverified::parse(&bytes).unwrap().verify(&key(), &A), Some(frame()));
        let pong = Frame { kind: Kind::Pong, ..frame() }.encode_padded(&key(), &A);
        assert!(Unverified::parse(&pong).is_err());
        let mut other = frame().encode(&key(), &A);
        other.push(1);
        assert!(Unverified::parse(&other).is_err());
        let mut long = frame().encode(&key(), &A);
        long.resize(MAX_BYTES + 1, 0);
        assert!(Unverified::parse(&long).is_err());
    }

    #[test]
    fn a_frame_cut_anywhere_is_malformed() {
        let bytes = frame().encode(&key(), &A);
        for end in 0..bytes.len() {
            assert!(Unverified::parse(&bytes[..end]).is_err(), "cut at {end}");
        }
    }
}
