//! The first-byte table: which protocol a datagram on the mesh's socket belongs to (after RFC 9443).

/// What a datagram is, judged by its first byte.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DatagramKind {
    /// STUN (RFC 8489): `0x00..=0x03`.
    Stun,
    /// QUIC with its fixed bit set (RFC 9000 §17): `0x40..=0x7f` short header, `0xc0..=0xff` long header.
    Quic,
    /// A frame of the mesh's own: `0x80..=0xbf`.
    Frame,
    /// None of these.
    Unknown,
}

impl DatagramKind {
    /// The kind of a datagram that starts with `first`.
    ///
    /// Total because sessions never grease the QUIC bit (RFC 9287).
    #[must_use]
    pub const fn of(first: u8) -> Self {
        match first {
            0x00..=0x03 => Self::Stun,
            0x40..=0x7f | 0xc0..=0xff => Self::Quic,
            0x80..=0xbf => Self::Frame,
            0x04..=0x3f => Self::Unknown,
        }
    }
}
