//! Joins the events that are ready into one piece of a streamed response.
//!
//! A piece per event would cost a system call each; waiting for more would delay the last one. So a piece
//! ends as soon as nothing more is ready, or at [`FULL`] bytes. Back-pressure is the subscription's own:
//! nothing is taken from it before the connection asks for the next piece.

use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::{Bytes, BytesMut};
use futures_util::stream::{Fuse, Stream, StreamExt as _};

/// When a piece is large enough: a large event goes out alone, and small ones cost no call of their own.
const FULL: usize = 64 * 1024;

/// Pieces made of the items of `S` with `write`.
pub(super) struct Batches<S, F> {
    items: Fuse<S>,
    write: F,
}

impl<S: Stream, F> Batches<S, F> {
    pub(super) fn new(items: S, write: F) -> Self {
        Self { items: items.fuse(), write }
    }
}

impl<S, F> Stream for Batches<S, F>
where
    S: Stream + Unpin,
    F: FnMut(&S::Item, &mut BytesMut) + Unpin,
{
    type Item = Result<Bytes, std::convert::Infallible>;

    fn poll_next(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let this = self.get_mut();
        let mut piece = BytesMut::new();
        while piece.len() < FULL {
            match Pin::new(&mut this.items).poll_next(cx) {
                Poll::Ready(Some(item)) => {
                    if piece.capacity() == 0 {
                        piece.reserve(4 * 1024);
                    }
                    (this.write)(&item, &mut piece);
                }
                Poll::Ready(None) if piece.is_empty() => return Poll::Ready(None),
                Poll::Pending if piece.is_empty() => return Poll::Pending,
                Poll::Ready(None) | Poll::Pending => break,
            }
        }
        Poll::Ready(Some(Ok(piece.freeze())))
    }
}

#[cfg(test)]
mod tests {
    use futures_util::{FutureExt as _, stream};

    use super::*;

    fn append(item: &&[u8], out: &mut BytesMut) {
        out.extend_from_slice(item);
    }

    #[test]
    fn what_is_ready_goes_out_together_and_at_once() {
        let items = stream::iter([&b"a"[..], b"b"]).chain(stream::pending());
        let mut batches = Batches::new(items, append);
        assert_eq!(batches.next().now_or_never(), Some(Some(Ok(Bytes::from_static(b"ab")))));
        assert_eq!(batches.next().now_or_never(), None);
    }

    #[test]
    fn a_piece_is_bounded_and_the_end_comes_after_the_last() {
        let items = stream::iter([&[0; 1000][..]; 100]);
        let sizes: Vec<usize> = Batches::new(items, append)
            .map(|piece| piece.unwrap().len())
            .collect::<Vec<_>>()
            .now_or_never()
            .unwrap();
        assert_eq!(sizes, [66_000, 34_000]);
    }
}
