//! The last packets of a session, as they were sent.
//!
//! QUIC's packets can be sent again as they are: a receiver drops what it has had (RFC 9000 §12.3). So when a route
//! dies, what was on it goes over the next one without waiting for anybody's timeout.

use std::collections::VecDeque;

use net_mesh_proto::time::Time;

/// Bytes kept for one session: what 5 Mbit/s carry in the tenth of a second in which a dead route is noticed. More would
/// take long to pass a slow relay.
pub(super) const RING_BYTES: usize = 64 << 10;

/// A batch of packets, `segment` bytes each but the last.
#[derive(Debug)]
pub(super) struct Batch {
    pub(super) at: Time,
    pub(super) segment: usize,
    pub(super) bytes: Vec<u8>,
}

/// The last packets of a session. Empty ones hold no memory.
#[derive(Debug, Default)]
pub(super) struct Ring {
    batches: VecDeque<Batch>,
    bytes: usize,
    /// The buffer that was freed last, to be filled again.
    spare: Vec<u8>,
}

impl Ring {
    /// Keeps a batch that was sent; of one that is too large, its end.
    pub(super) fn push(&mut self, at: Time, contents: &[u8], segment: usize) {
        let segment = segment.max(1);
        let over = contents.len().saturating_sub(RING_BYTES).div_ceil(segment) * segment;
        let Some(contents) = contents.get(over..).filter(|contents| !contents.is_empty()) else { return };
        while self.bytes + contents.len() > RING_BYTES {
            let Some(oldest) = self.batches.pop_front() else { break };
            self.bytes -= oldest.bytes.len();
            self.spare = oldest.bytes;
        }
        let mut bytes = std::mem::take(&mut self.spare);
        bytes.clear();
        bytes.extend_from_slice(contents);
        self.bytes += contents.len();
        self.batches.push_back(Batch { at, segment, bytes });
    }

    /// What was sent after `after`, oldest first; taken out, since sending it puts it in again.
    pub(super) fn take_since(&mut self, after: Option<Time>) -> Vec<Batch> {
        let all = std::mem::take(&mut self.batches);
        self.bytes = 0;
        all.into_iter().filter(|batch| after.is_none_or(|after| batch.at > after)).collect()
    }

    /// When the last batch was sent.
    pub(super) fn last(&self) -> Option<Time> {
        self.batches.back().map(|batch| batch.at)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(ms: u64) -> Time {
        Time::from_millis(ms)
    }

    #[test]
    fn the_last_packets_are_kept_and_what_was_answered_is_left_out() {
        let mut ring = Ring::default();
        (0..10).for_each(|n| ring.push(at(n), &[n as u8; 100], 100));
        let since: Vec<u8> = ring.take_since(Some(at(6))).iter().map(|batch| batch.bytes[0]).collect();
        assert_eq!(since, [7, 8, 9]);
        assert!(ring.take_since(None).is_empty(), "they are kept again when they are sent again");
    }

    #[test]
    fn no_more_is_kept_than_the_bound() {
        let mut ring = Ring::default();
        for n in 0..200 {
            ring.push(at(n), &[n as u8; 12_000], 1200);
            assert!(ring.bytes <= RING_BYTES);
        }
        assert_eq!(ring.take_since(None).len(), 5);
        let large = vec![7; 200_000];
        ring.push(at(0), &large, 1200);
        let kept = ring.take_since(None);
        assert!(kept[0].bytes.len() <= RING_BYTES && kept[0].bytes.len() > RING_BYTES - 1200);
        // A batch is cut between two packets: its end stays whole.
        assert_eq!((200_000 - kept[0].bytes.len()) % 1200, 0);
    }
}
