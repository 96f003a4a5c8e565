//! The mesh's own frames: datagrams whose first byte is in `0x80..=0xbf`.
//!
//! | first byte | what | layout |
//! |---|---|---|
//! | [`RELAY`] | a relayed datagram | type, 64-bit label, payload |
//! | [`PING`] | "do you hear me on this way?" | see `liveness` |
//! | [`PONG`] | the answer | see `liveness` |

/// A relayed datagram.
pub const RELAY: u8 = 0x80;
/// Asks whether the peer hears this node on the way this frame travels.
pub const PING: u8 = 0x81;
/// Answers a ping.
pub const PONG: u8 = 0x82;

/// Bytes before the payload of a relayed datagram: the type and the label, big-endian.
pub const RELAY_HEADER: usize = 1 + 8;

/// The label of a relayed datagram. `None` if this is none, or it is too short to have a payload.
#[must_use]
pub fn label(datagram: &[u8]) -> Option<u64> {
    let (header, payload) = datagram.split_first_chunk::<RELAY_HEADER>()?;
    let (kind, label) = header.split_first()?;
    if *kind != RELAY || payload.is_empty() {
        return None;
    }
    Some(u64::from_be_bytes(label.try_into().ok()?))
}

/// The header of a relayed datagram that carries `label`.
#[must_use]
pub fn relay_header(label: u64) -> [u8; RELAY_HEADER] {
    let mut header = [RELAY; RELAY_HEADER];
    let (_, rest) = header.split_at_mut(1);
    rest.copy_from_slice(&label.to_be_bytes());
    header
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_relay_header_has_these_bytes_and_its_label_is_read_back() {
        let header = relay_header(0x0102_0304_0506_0708);
        assert_eq!(header, [0x80, 1, 2, 3, 4, 5, 6, 7, 8]);
        let frame = [&header[..], b"x"].concat();
        assert_eq!(label(&frame), Some(0x0102_0304_0506_0708));
        for end in 0..frame.len() {
            assert_eq!(label(&frame[..end]), None, "cut at {end}");
        }
        assert_eq!(label(&[0x81; 10]), None);
    }
}
