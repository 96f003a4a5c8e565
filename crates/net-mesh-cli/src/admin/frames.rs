//! Events with any bytes in them, one after the other.
//!
//! A frame is the payload's length (4 bytes), how many events of the same publisher were lost right before
//! it (31 bits, more counts as the largest) below a bit that says that the publisher has restarted, both
//! big-endian, and the payload.

use bytes::{Buf as _, BufMut as _, Bytes, BytesMut};

const HEADER: usize = 8;

/// In the word of lost events: the publisher has restarted.
const RESTARTED: u32 = 1 << 31;

/// One event as it travels.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Frame {
    /// Events of the same publisher lost right before this one.
    pub missed: u32,
    /// Whether the publisher has restarted since the one before.
    pub restarted: bool,
    /// The event.
    pub payload: Bytes,
}

/// Appends the frame of an event to `out`.
pub(super) fn encode(payload: &[u8], missed: u64, restarted: bool, out: &mut BytesMut) {
    let len = u32::try_from(payload.len()).expect("an event is far below 4 GiB");
    out.reserve(HEADER + payload.len());
    out.put_u32(len);
    let missed = u32::try_from(missed).unwrap_or(u32::MAX).min(RESTARTED - 1);
    out.put_u32(missed | if restarted { RESTARTED } else { 0 });
    out.extend_from_slice(payload);
}

/// Takes the next whole frame from the front of `buffer`.
pub(crate) fn decode(buffer: &mut BytesMut) -> Option<Frame> {
    let mut header = buffer.get(..HEADER)?;
    let len = usize::try_from(header.get_u32()).ok()?;
    let word = header.get_u32();
    let (missed, restarted) = (word & !RESTARTED, word & RESTARTED != 0);
    if buffer.len() - HEADER < len {
        return None;
    }
    buffer.advance(HEADER);
    Some(Frame { missed, restarted, payload: buffer.split_to(len).freeze() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_frame_is_length_missed_payload() {
        let mut out = BytesMut::new();
        encode(b"ab\n", 258, true, &mut out);
        assert_eq!(&out[..], b"\0\0\0\x03\x80\0\x01\x02ab\n");
    }

    #[test]
    fn frames_come_back_wherever_the_stream_is_cut() {
        let mut bytes = BytesMut::new();
        encode(b"one", 0, true, &mut bytes);
        encode(b"", u64::MAX, false, &mut bytes);
        for cut in 0..bytes.len() {
            let mut buffer = BytesMut::from(&bytes[..cut]);
            let mut frames: Vec<Frame> = std::iter::from_fn(|| decode(&mut buffer)).collect();
            buffer.extend_from_slice(&bytes[cut..]);
            frames.extend(std::iter::from_fn(|| decode(&mut buffer)));
            let want = [
                Frame { missed: 0, restarted: true, payload: Bytes::from_static(b"one") },
                Frame { missed: u32::MAX >> 1, restarted: false, payload: Bytes::new() },
            ];
            assert_eq!(frames, want, "{cut}");
            assert!(buffer.is_empty());
        }
    }
}
