//! What a publisher keeps of one channel, and for whom: a bounded log with a cursor per subscription.
//!
//! An event stays until every cursor's acknowledgement has passed it: until every subscriber's
//! application has taken it. A subscriber is sent at most [`CREDIT`] bytes ahead of that, so that one
//! that is not read fills neither its node's memory nor the session that it shares with others. When the log is full, publishing
//! waits, as long as some cursor that needs the oldest segment makes progress. A cursor that has made
//! none for the stall time, while the log was full all along, is *stalled*: it no longer holds anything
//! up, and loses the oldest segments until it moves again. Its subscriber sees from the sequence
//! numbers how many events it lost.
//!
//! A cursor outlives its session: it stays, detached, for [`RESUME_WINDOW`], so that the subscription
//! goes on where it was. A member that is known to subscribe but has not come yet gets a *pending*
//! cursor for [`PENDING_WINDOW`]. Pure: time comes in as an argument.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use net_mesh_proto::id::NodeId;
use tokio::time::Instant;

use super::segment::{Builder, FULL, HEADER, Segment};

/// How long a subscription that lost its session may come back without loss.
pub(super) const RESUME_WINDOW: Duration = Duration::from_secs(120);

/// How long events wait for a member that is known to subscribe.
pub(super) const PENDING_WINDOW: Duration = Duration::from_secs(60);

/// Cursors of one channel. Each costs about a hundred bytes, and memory for events is bounded apart
/// from them; a publisher with more subscribers than this needs a tree, not a star.
pub(super) const MAX_CURSORS: usize = 4096;

/// How far a subscriber is sent ahead of what its application has taken, in bytes, and thus what a
/// subscription that is not read makes its node hold per publisher. At 100 ms of round trip this carries
/// 320 Mbit/s, as much as the stream's own window.
pub(super) const CREDIT: u64 = 4 << 20;

/// Whose place in the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum CursorId {
    /// A subscription of this node's own.
    Local(u64),
    /// A subscription of a peer's.
    Remote(NodeId, u64),
    /// A member whose subscription has not come yet.
    Pending(NodeId),
}

#[derive(Debug)]
struct Cursor {
    /// The first event not acknowledged.
    acked: u64,
    /// The first event not handed out.
    sent: u64,
    /// Where the segment of the first event not acknowledged begins, in bytes since the start.
    acked_at: u64,
    /// Where the last segment handed out ends, in bytes since the start.
    sent_to: u64,
    /// Tells this attachment from earlier ones under the same id.
    generation: u64,
    progressed: Instant,
    stalled: bool,
    /// When it goes, unless someone attaches.
    expires: Option<Instant>,
}

/// Whether an event may be added now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Room {
    /// Yes.
    Free,
    /// Not before an acknowledgement, or this instant at the latest.
    Full(Instant),
}

/// A segment in the log.
#[derive(Debug)]
struct Sealed {
    segment: Segment,
    /// Where it begins, in bytes since the start.
    offset: u64,
}

impl Sealed {
    fn end(&self) -> u64 {
        self.segment.end()
    }

    fn size(&self) -> usize {
        self.segment.body.len() + HEADER
    }
}

/// The log.
#[derive(Debug)]
pub(super) struct Log {
    limit: usize,
    stall: Duration,
    sealed: VecDeque<Sealed>,
    /// Where the next segment to be sealed begins, in bytes since the start.
    sealed_to: u64,
    open: Builder,
    /// Sequence number of the next event.
    next: u64,
    bytes: usize,
    full_since: Option<Instant>,
    cursors: BTreeMap<CursorId, Cursor>,
    generations: u64,
}

impl Log {
    pub(super) fn new(limit: usize, stall: Duration) -> Self {
        Self {
            limit,
            stall,
            sealed: VecDeque::new(),
            sealed_to: 0,
            open: Builder::default(),
            next: 1,
            bytes: 0,
            full_since: None,
            cursors: BTreeMap::new(),
            generations: 0,
        }
    }

    /// Whether `size` bytes more may be added. Makes room at the cost of stalled cursors where it must.
    pub(super) fn room(&mut self, now: Instant, size: usize) -> Room {
        loop {
            let used = self.bytes + self.open.len();
            if used == 0 || used + size <= self.limit {
                self.full_since = None;
                return Room::Free;
            }
            let full_since = *self.full_since.get_or_insert(now);
            self.seal();
            let Some(oldest_end) = self.sealed.front().map(Sealed::end) else {
                return Room::Free;
            };
            let mut wait: Option<Instant> = None;
            // What waits for a member that may never come holds nobody up.
            let holding = |(id, c): &(&CursorId, &mut Cursor)| {
                !matches!(id, CursorId::Pending(_)) && !c.stalled && c.acked < oldest_end
            };
            for (_, cursor) in self.cursors.iter_mut().filter(holding) {
                let until = cursor.progressed.max(full_since) + self.stall;
                if until <= now {
                    cursor.stalled = true;
                } else {
                    wait = Some(wait.map_or(until, |w| w.max(until)));
                }
            }
            if let Some(until) = wait {
                return Room::Full(until);
            }
            self.pop_oldest();
        }
    }

    /// Adds an event and returns its sequence number. [`Log::room`] was asked.
    pub(super) fn push(&mut self, unix_ms: u64, payload: &[u8]) -> u64 {
        let seq = self.next;
        self.next += 1;
        if self.cursors.is_empty() {
            return seq;
        }
        self.open.push(unix_ms, payload);
        if self.open.len() >= FULL {
            self.seal();
        }
        seq
    }

    fn seal(&mut self) {
        let first = self.next - u64::from(self.open.count());
        if let Some(segment) = self.open.take(first) {
            let sealed = Sealed { segment, offset: self.sealed_to };
            self.bytes += sealed.size();
            self.sealed_to += sealed.size() as u64;
            self.sealed.push_back(sealed);
        }
    }

    fn pop_oldest(&mut self) {
        if let Some(sealed) = self.sealed.pop_front() {
            self.bytes -= sealed.size();
        }
    }

    /// Drops what no cursor needs any more.
    fn trim(&mut self) {
        let needed = self.cursors.values().map(|c| c.acked).min().unwrap_or(self.next);
        if needed >= self.next {
            self.seal();
        }
        while self.sealed.front().is_some_and(|s| s.end() <= needed) {
            self.pop_oldest();
        }
    }

    /// The oldest event still here, or the next to come.
    fn oldest(&self) -> u64 {
        self.sealed.front().map_or(self.next - u64::from(self.open.count()), |s| s.segment.first)
    }

    /// Attaches a cursor: where it was if it is known, else where a pending one of its peer waits, else at
    /// `resume` or the end. Returns its generation and the first event it will get; `None` if there
    /// are too many.
    pub(super) fn attach(&mut self, now: Instant, id: CursorId, resume: Option<u64>) -> Option<(u64, u64)> {
        let pending = match id {
            CursorId::Remote(peer, _) => self.cursors.get_mut(&CursorId::Pending(peer)),
            CursorId::Local(_) | CursorId::Pending(_) => None,
        };
        let waiting = pending.map(|cursor| {
            // It stays a moment for the peer's other subscriptions, which come with this one.
            cursor.expires = Some(now + Duration::from_secs(1));
            cursor.acked
        });
        if !self.cursors.contains_key(&id) && self.cursors.len() >= MAX_CURSORS {
            return None;
        }
        // What follows the cursor must not share a segment with what came before it.
        self.seal();
        let known = self.cursors.get(&id).map(|c| c.acked);
        let wanted = resume.or(known).or(waiting).unwrap_or(self.next);
        let start = wanted.clamp(self.oldest(), self.next);
        self.generations += 1;
        let generation = self.generations;
        let at = self.sealed.get(self.index_of(start)).map_or(self.sealed_to, |s| s.offset);
        let cursor = Cursor {
            acked: start,
            sent: start,
            acked_at: at,
            sent_to: at,
            generation,
            progressed: now,
            stalled: false,
            expires: None,
        };
        self.cursors.insert(id, cursor);
        self.trim();
        Some((generation, start))
    }

    /// Makes `peer`'s subscription, when it comes, start here; unless it is here already.
    pub(super) fn expect(&mut self, now: Instant, peer: NodeId) {
        let known = |id: &CursorId| match id {
            CursorId::Remote(p, _) | CursorId::Pending(p) => *p == peer,
            CursorId::Local(_) => false,
        };
        if self.cursors.keys().any(known) {
            return;
        }
        if let Some((generation, _)) = self.attach(now, CursorId::Pending(peer), None) {
            self.detach_for(now, CursorId::Pending(peer), generation, PENDING_WINDOW);
        }
    }

    /// The session of a subscription ended: its cursor waits for it to come back.
    pub(super) fn detach(&mut self, now: Instant, id: CursorId, generation: u64) {
        self.detach_for(now, id, generation, RESUME_WINDOW);
    }

    fn detach_for(&mut self, now: Instant, id: CursorId, generation: u64, window: Duration) {
        if let Some(cursor) = self.cursors.get_mut(&id).filter(|c| c.generation == generation) {
            cursor.expires = Some(now + window);
        }
    }

    /// A subscription ended.
    pub(super) fn remove(&mut self, id: CursorId, generation: u64) {
        if self.cursors.get(&id).is_some_and(|c| c.generation == generation) {
            self.cursors.remove(&id);
            self.trim();
        }
    }

    /// Removes cursors that waited too long.
    pub(super) fn expire(&mut self, now: Instant) {
        let before = self.cursors.len();
        self.cursors.retain(|_, c| c.expires.is_none_or(|at| at > now));
        if self.cursors.len() < before {
            self.trim();
        }
    }

    /// The next segment for a cursor, if there is one and the cursor is not [`CREDIT`] ahead of what was
    /// acknowledged.
    pub(super) fn next_for(&mut self, id: CursorId, generation: u64) -> Option<Segment> {
        let cursor = self.cursors.get(&id).filter(|c| c.generation == generation)?;
        let (acked, sent, ahead) = (cursor.acked, cursor.sent, cursor.sent_to - cursor.acked_at);
        if sent >= self.next || (sent > acked && ahead >= CREDIT) {
            return None;
        }
        if self.sealed.back().is_none_or(|s| s.end() <= sent) {
            self.seal();
        }
        let next = self.sealed.get(self.index_of(sent))?;
        let (segment, offset, end) = (next.segment.clone(), next.offset, next.offset + next.size() as u64);
        let cursor = self.cursors.get_mut(&id)?;
        if sent <= acked {
            // Nothing is outstanding, or what was between is gone.
            cursor.acked_at = offset;
        }
        cursor.sent_to = end;
        cursor.sent = segment.end();
        Some(segment)
    }

    /// Which of the sealed segments holds `seq`; the first one where it is gone.
    fn index_of(&self, seq: u64) -> usize {
        self.sealed.partition_point(|s| s.end() <= seq)
    }

    /// The subscriber's application has taken everything before `upto`.
    pub(super) fn ack(&mut self, now: Instant, id: CursorId, generation: u64, upto: u64) {
        let at = self.sealed.get(self.index_of(upto)).filter(|s| s.segment.first <= upto).map(|s| s.offset);
        let Some(cursor) = self.cursors.get_mut(&id).filter(|c| c.generation == generation) else { return };
        // Nobody has what was not sent.
        let upto = upto.min(cursor.sent);
        if upto > cursor.acked {
            cursor.acked = upto;
            cursor.acked_at =
                if upto == cursor.sent { cursor.sent_to } else { at.unwrap_or(cursor.acked_at) };
            cursor.progressed = now;
            cursor.stalled = false;
            self.trim();
        }
    }

    /// Whether everybody who is attached has everything.
    pub(super) fn is_drained(&self) -> bool {
        let waiting = |c: &&Cursor| c.expires.is_none() && !c.stalled;
        self.cursors.values().filter(waiting).all(|c| c.acked >= self.next)
    }

    /// Whether nothing would be lost by forgetting this log: nothing was ever published in it, and nobody
    /// has a place in it.
    pub(super) fn is_untouched(&self) -> bool {
        self.next == 1 && self.cursors.is_empty()
    }

    /// Encoded events that are held, in bytes.
    #[cfg(test)]
    pub(super) fn held(&self) -> usize {
        self.bytes + self.open.len()
    }
}
