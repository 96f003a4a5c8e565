//! Cuts a body that arrives in pieces of any size into lines.
//!
//! Bounds: holds one piece and at most one line of the longest length. A line end is one `\n`; what comes
//! before it is the event, byte for byte, also when that is nothing. A last line needs no end.

use bytes::{Buf as _, Bytes, BytesMut};

/// The state between two pieces.
pub(super) struct Lines {
    piece: Bytes,
    partial: BytesMut,
    longest: usize,
}

/// A line is longer than an event may be.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct TooLong;

impl Lines {
    /// For lines of at most `longest` bytes.
    pub(super) fn new(longest: usize) -> Self {
        Self { piece: Bytes::new(), partial: BytesMut::new(), longest }
    }

    /// Adds the next piece. The one before must have been used up with [`Self::next`].
    pub(super) fn push(&mut self, piece: Bytes) {
        debug_assert!(self.piece.is_empty());
        self.piece = piece;
    }

    /// The next whole line, if there is one.
    pub(super) fn next(&mut self) -> Result<Option<Bytes>, TooLong> {
        let Some(end) = memchr::memchr(b'\n', &self.piece) else {
            let rest = std::mem::take(&mut self.piece);
            self.extend(&rest)?;
            return Ok(None);
        };
        let mut line = self.piece.split_to(end);
        self.piece.advance(1);
        if !self.partial.is_empty() {
            self.extend(&line)?;
            line = self.partial.split().freeze();
        }
        if line.len() > self.longest { Err(TooLong) } else { Ok(Some(line)) }
    }

    /// The last line, if it has no line end.
    pub(super) fn finish(self) -> Option<Bytes> {
        (!self.partial.is_empty()).then(|| self.partial.freeze())
    }

    fn extend(&mut self, bytes: &[u8]) -> Result<(), TooLong> {
        if self.partial.len() + bytes.len() > self.longest {
            return Err(TooLong);
        }
        self.partial.extend_from_slice(bytes);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cut(pieces: &[&[u8]], longest: usize) -> Result<Vec<Bytes>, TooLong> {
        let (mut lines, mut all) = (Lines::new(longest), Vec::new());
        for piece in pieces {
            lines.push(Bytes::copy_from_slice(piece));
            while let Some(line) = lines.next()? {
                all.push(line);
            }
        }
        all.extend(lines.finish());
        Ok(all)
    }

    #[test]
    fn lines_are_the_same_wherever_the_body_is_cut() {
        let body = b"one\n\ntwo \r\n\xff\x00\nlast";
        let want: Vec<&[u8]> = vec![b"one", b"", b"two \r", b"\xff\x00", b"last"];
        for first in 0..body.len() {
            for second in first..body.len() {
                let pieces = [&body[..first], &body[first..second], &body[second..]];
                assert_eq!(cut(&pieces, 6).unwrap(), want, "{first} {second}");
            }
        }
    }

    #[test]
    fn a_line_end_at_the_end_adds_no_event() {
        assert_eq!(cut(&[b"a\n"], 9).unwrap(), [&b"a"[..]]);
        assert!(cut(&[b""], 9).unwrap().is_empty());
    }

    #[test]
    fn a_line_may_be_as_long_as_an_event_and_no_longer() {
        for pieces in [&[&b"12345\n"[..]][..], &[b"123", b"45\n"], &[b"12345"], &[b"12345", b"\n"]] {
            assert_eq!(cut(pieces, 5).unwrap(), [&b"12345"[..]]);
            assert_eq!(cut(pieces, 4), Err(TooLong));
        }
    }
}
