//! Segments: runs of events, encoded once for every subscriber.
//!
//! On a stream, a segment is a header of 24 bytes (first sequence number and base time in Unix
//! milliseconds as 64-bit numbers, count and length as 32-bit numbers) and then, for each event, the
//! payload's length and the time after the base in milliseconds (zigzag), both as variable-length
//! integers (RFC 9000 §16), and the payload. Sequence numbers follow each other within a segment.

use bytes::{BufMut, Bytes, BytesMut};
use net_mesh_proto::wire::{Malformed, Reader};

use super::MAX_EVENT;

/// Length of a segment's header, in bytes.
pub(super) const HEADER: usize = 24;

/// A segment is closed once it is this long, in bytes. Long enough that a write per segment costs little
/// per event (a write each costs ten times more), short enough to be a small unit of loss.
pub(super) const FULL: usize = 16 << 10;

/// Longest body, in bytes: one event of the largest size, or several that together are not full.
const MAX_BODY: usize = MAX_EVENT + FULL;

/// What a segment costs whoever holds it besides its bytes: the allocation's own bookkeeping and a place in
/// a queue, 200 bytes as measured by their sizes, rounded up. Both ends of a stream charge it, so that a
/// credit of bytes bounds the memory that tiny segments take.
const OVERHEAD: usize = 256;

/// The most that a segment can cost.
pub(super) const MAX_COST: usize = cost(MAX_BODY);

const fn cost(body: usize) -> usize {
    body + HEADER + OVERHEAD
}

/// A run of encoded events.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Segment {
    /// Sequence number of the first event.
    pub(super) first: u64,
    /// How many there are; at least one.
    pub(super) count: u32,
    /// What their times count from, in Unix milliseconds.
    pub(super) base_ms: u64,
    /// The events.
    pub(super) body: Bytes,
}

impl Segment {
    /// The sequence number after the last event.
    pub(super) fn end(&self) -> u64 {
        self.first + u64::from(self.count)
    }

    /// What it takes of a credit and of a log, in bytes.
    pub(super) const fn cost(&self) -> usize {
        cost(self.body.len())
    }

    /// The header to send before the body.
    pub(super) fn header(&self) -> Bytes {
        let mut out = BytesMut::with_capacity(HEADER);
        out.put_u64(self.first);
        out.put_u64(self.base_ms);
        out.put_u32(self.count);
        out.put_u32(u32::try_from(self.body.len()).unwrap_or(u32::MAX));
        out.freeze()
    }
}

/// A segment's header, checked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Header {
    first: u64,
    base_ms: u64,
    count: u32,
    /// How long the body is, in bytes.
    pub(super) length: usize,
}

impl Header {
    /// Parses a header. An event takes at least two bytes, which bounds the count.
    pub(super) fn parse(bytes: &[u8; HEADER]) -> Result<Self, Malformed> {
        let mut from = Reader::new(bytes);
        let (first, base_ms, count) = (from.u64()?, from.u64()?, from.u32()?);
        let length = usize::try_from(from.u32()?).unwrap_or(usize::MAX);
        if length > MAX_BODY {
            return Err(Malformed::TooLong("a segment"));
        }
        let fits = usize::try_from(count).is_ok_and(|n| n >= 1 && n <= length / 2);
        if !fits || first == 0 || first.checked_add(u64::from(count)).is_none() {
            return Err(Malformed::Invalid("a segment's count"));
        }
        Ok(Self { first, base_ms, count, length })
    }

    /// What the segment will cost; see [`Segment::cost`].
    pub(super) const fn cost(&self) -> usize {
        cost(self.length)
    }

    /// The segment with this header and `body`, if the body is what the header says.
    pub(super) fn with_body(self, body: Bytes) -> Result<Segment, Malformed> {
        let mut from = Reader::new(&body);
        for _ in 0..self.count {
            let length = from.count(MAX_EVENT, "an event")?;
            from.varint()?;
            from.bytes(length)?;
        }
        from.finish()?;
        Ok(Segment { first: self.first, count: self.count, base_ms: self.base_ms, body })
    }
}

/// Parses a whole segment; what a subscriber does with what a publisher sends.
pub(super) fn parse(bytes: &[u8]) -> Result<Segment, Malformed> {
    let (header, body) = bytes.split_first_chunk().ok_or(Malformed::Truncated)?;
    let header = Header::parse(header)?;
    if body.len() < header.length {
        return Err(Malformed::Truncated);
    }
    header.with_body(Bytes::copy_from_slice(body))
}

/// A segment being filled.
#[derive(Debug, Default)]
pub(super) struct Builder {
    body: BytesMut,
    count: u32,
    base_ms: u64,
}

impl Builder {
    /// Adds an event of at most [`MAX_EVENT`] bytes.
    pub(super) fn push(&mut self, unix_ms: u64, payload: &[u8]) {
        if self.count == 0 {
            self.base_ms = unix_ms;
        }
        self.count += 1;
        put_varint(&mut self.body, payload.len() as u64);
        put_varint(&mut self.body, zigzag(unix_ms.cast_signed().wrapping_sub(self.base_ms.cast_signed())));
        self.body.extend_from_slice(payload);
    }

    pub(super) fn len(&self) -> usize {
        self.body.len()
    }

    pub(super) const fn count(&self) -> u32 {
        self.count
    }

    /// What was filled in, as a segment that starts with sequence number `first`; `None` if nothing was.
    pub(super) fn take(&mut self, first: u64) -> Option<Segment> {
        let count = std::mem::take(&mut self.count);
        let body = self.body.split().freeze();
        (count > 0).then_some(Segment { first, count, base_ms: self.base_ms, body })
    }
}

/// The events of a segment whose body was checked, from some sequence number on.
#[derive(Debug)]
pub(super) struct Events {
    body: Bytes,
    at: usize,
    seq: u64,
    end: u64,
    base_ms: u64,
}

impl Events {
    pub(super) fn of(segment: Segment, from: u64) -> Self {
        let end = segment.end();
        let (first, base_ms) = (segment.first, segment.base_ms);
        let mut events = Self { body: segment.body, at: 0, seq: first, end, base_ms };
        while events.seq < from && events.next().is_some() {}
        events
    }

    /// Sequence number, Unix milliseconds and payload of the next event.
    pub(super) fn next(&mut self) -> Option<(u64, u64, Bytes)> {
        if self.seq >= self.end {
            return None;
        }
        let mut from = Reader::new(self.body.get(self.at..)?);
        let length = usize::try_from(from.varint().ok()?).ok()?;
        let after = unzigzag(from.varint().ok()?);
        let start = self.body.len() - from.rest().len();
        if from.rest().len() < length {
            return None;
        }
        self.at = start + length;
        let seq = self.seq;
        self.seq += 1;
        let unix_ms = self.base_ms.cast_signed().wrapping_add(after).cast_unsigned();
        Some((seq, unix_ms, self.body.slice(start..start + length)))
    }
}

const fn zigzag(value: i64) -> u64 {
    ((value << 1) ^ (value >> 63)).cast_unsigned()
}

const fn unzigzag(value: u64) -> i64 {
    (value >> 1).cast_signed() ^ -((value & 1).cast_signed())
}

/// The largest that fits a variable-length integer; times further apart than that are clock faults.
const MAX_VARINT: u64 = (1 << 62) - 1;

/// Appends a variable-length integer (RFC 9000 §16).
fn put_varint(out: &mut BytesMut, value: u64) {
    match value {
        0..=0x3f => out.put_u8(value.to_be_bytes()[7]),
        0x40..=0x3fff => out.put_slice(&(value | 0x4000).to_be_bytes()[6..]),
        0x4000..=0x3fff_ffff => out.put_slice(&(value | 0x8000_0000).to_be_bytes()[4..]),
        _ => out.put_u64(value.min(MAX_VARINT) | 0xc000_0000_0000_0000),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn encoded(segment: &Segment) -> Vec<u8> {
        [segment.header(), segment.body.clone()].concat()
    }

    fn segment(first: u64, events: &[(u64, &[u8])]) -> Segment {
        let mut builder = Builder::default();
        for (ms, payload) in events {
            builder.push(*ms, payload);
        }
        builder.take(first).unwrap()
    }

    #[test]
    fn a_segment_has_these_bytes() {
        let segment = segment(7, &[(1000, b"ab"), (1003, b""), (999, b"c")]);
        #[rustfmt::skip]
        let golden = [
            0, 0, 0, 0, 0, 0, 0, 7,  0, 0, 0, 0, 0, 0, 3, 0xe8,  0, 0, 0, 3,  0, 0, 0, 9,
            2, 0, b'a', b'b',  0, 6,  1, 1, b'c',
        ];
        assert_eq!(encoded(&segment), golden);
        assert_eq!(parse(&golden), Ok(segment.clone()));
        let mut events = Events::of(segment, 8);
        assert_eq!(events.next(), Some((8, 1003, Bytes::new())));
        assert_eq!(events.next(), Some((9, 999, Bytes::from_static(b"c"))));
        assert_eq!(events.next(), None);
    }

    #[test]
    fn a_segment_cut_anywhere_is_refused() {
        let bytes = encoded(&segment(1, &[(5, b"hello"), (6, b"world")]));
        for end in 0..bytes.len() {
            assert!(parse(&bytes[..end]).is_err(), "cut at {end}");
        }
        assert!(parse(&[&bytes[..], &[0]].concat()).is_err(), "one byte more");
    }

    #[test]
    fn what_a_header_claims_is_checked_before_anything_is_allocated() {
        let with = |first: u64, count: u32, length: u32| {
            let mut bytes = [0; HEADER];
            bytes[..8].copy_from_slice(&first.to_be_bytes());
            bytes[16..20].copy_from_slice(&count.to_be_bytes());
            bytes[20..].copy_from_slice(&length.to_be_bytes());
            Header::parse(&bytes)
        };
        assert!(with(1, 1, 2).is_ok());
        assert!(with(1, 0, 2).is_err() && with(1, 2, 3).is_err() && with(0, 1, 2).is_err());
        assert!(with(1, 1, u32::MAX).is_err() && with(u64::MAX, 1, 2).is_err());
    }

    proptest! {
        #[test]
        fn what_goes_in_comes_out(
            first in 1..u64::MAX / 2,
            events in prop::collection::vec((0..1u64 << 50, prop::collection::vec(any::<u8>(), 0..300)), 1..50),
        ) {
            let slices: Vec<_> = events.iter().map(|(ms, p)| (*ms, &p[..])).collect();
            let parsed = parse(&encoded(&segment(first, &slices))).unwrap();
            let mut out = Events::of(parsed, first);
            for (i, (ms, payload)) in (0u64..).zip(&events) {
                prop_assert_eq!(out.next(), Some((first + i, *ms, Bytes::copy_from_slice(payload))));
            }
            prop_assert_eq!(out.next(), None);
        }

        #[test]
        fn arbitrary_bytes_are_refused_or_read_to_the_end(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            if let Ok(segment) = parse(&bytes) {
                let count = segment.count;
                let mut events = Events::of(segment, 0);
                for _ in 0..count {
                    prop_assert!(events.next().is_some());
                }
            }
        }
    }
}
