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
//! cursor for [`PENDING_WINDOW`]. What waits at a pending or detached cursor may be *pushed* before the
//! member asks: a cursor of its own goes along with the push, and becomes the subscription's when the member
//! says which one took it. Where the member refuses, or asks by itself, nothing has happened to the others.
//!
//! A subscriber numbers what it asks for and what it takes. Streams of one subscription may cross, on one
//! connection or on two, and arrive in any order; the highest number is its last word, and an attachment
//! with a lower one is refused.
//!
//! A member has at most [`MEMBER_CURSORS`] of the [`MAX_CURSORS`] places. Pure: time comes in as an argument.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use net_mesh_proto::id::NodeId;
use tokio::time::Instant;

use super::segment::{Builder, FULL, Segment};

/// How long a subscription that lost its session may come back without loss.
pub(super) const RESUME_WINDOW: Duration = Duration::from_secs(120);

/// How long events wait for a member that is known to subscribe.
pub(super) const PENDING_WINDOW: Duration = Duration::from_secs(60);

/// Cursors of one channel. Each costs about a hundred bytes, and memory for events is bounded apart
/// from them; a publisher with more subscribers than this needs a tree, not a star.
pub(super) const MAX_CURSORS: usize = 4096;

/// Cursors of one member in one channel. Programs that share a node on one machine have one each; more than
/// this on one channel is no use that is known. Sixteen members would have to conspire to keep others out.
pub(super) const MEMBER_CURSORS: usize = 256;

/// How long a pending cursor stays for a member's other subscriptions when the first one has come: they
/// come with it.
const OTHERS_WINDOW: Duration = Duration::from_secs(1);

/// How far a subscriber is sent ahead of what its application has taken, in bytes, and thus what a
/// subscription that is not read makes its node hold per publisher. Counted as [`Segment::cost`]. At 100 ms of round trip this carries
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
    /// What is sent to a member before it asks: to one of its subscriptions, or to whichever takes it.
    Push(NodeId, Option<u64>),
}

/// Where a subscription goes on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Resume {
    /// The first event that its application has not taken.
    pub(super) taken: u64,
    /// The first event that it does not hold; not below `taken`.
    pub(super) next: u64,
}

#[derive(Clone, Debug)]
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
    /// The subscriber's number for it.
    attempt: u64,
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
        self.segment.cost()
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
    /// An empty log that holds at most `limit` bytes, whose first event will have number `next`.
    pub(super) fn new(limit: usize, stall: Duration, next: u64) -> Self {
        Self {
            limit,
            stall,
            sealed: VecDeque::new(),
            sealed_to: 0,
            open: Builder::default(),
            next,
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
                !matches!(id, CursorId::Pending(_) | CursorId::Push(..)) && !c.stalled && c.acked < oldest_end
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
    /// are too many, or a later attempt has been heard of.
    pub(super) fn attach(
        &mut self,
        now: Instant,
        id: CursorId,
        attempt: u64,
        resume: Option<Resume>,
    ) -> Option<(u64, u64)> {
        let known = self.cursors.get(&id).cloned();
        if known.as_ref().map_or(!self.has_place(id), |c| c.attempt > attempt) {
            return None;
        }
        let waiting = self.meet(now, id);
        // What follows the cursor must not share a segment with what came before it.
        self.seal();
        let wanted = resume.map(|r| r.next).or(known.as_ref().map(|c| c.acked)).or(waiting);
        let start = wanted.unwrap_or(self.next).clamp(self.oldest(), self.next);
        let sent_to = self.offset_of(start).unwrap_or(self.sealed_to);
        // What the application has not taken counts as sent, so that a new stream is no new credit.
        let taken = resume.map_or(start, |r| r.taken.min(start));
        let taken_at = self.offset_of(taken).or(known.as_ref().map(|c| c.acked_at));
        let (acked, acked_at) = match taken_at {
            Some(at) => (taken, at.min(sent_to)),
            None => (start, sent_to),
        };
        let generation = self.next_generation();
        let cursor = Cursor {
            acked,
            sent: start,
            acked_at,
            sent_to,
            generation,
            attempt,
            progressed: now,
            stalled: false,
            expires: None,
        };
        self.cursors.insert(id, cursor);
        self.trim();
        Some((generation, start))
    }

    fn next_generation(&mut self) -> u64 {
        self.generations += 1;
        self.generations
    }

    /// Where the segment that holds `seq` begins, if it is here.
    fn offset_of(&self, seq: u64) -> Option<u64> {
        self.sealed.get(self.index_of(seq)).filter(|s| s.segment.first <= seq).map(|s| s.offset)
    }

    /// Whether there is a place for one more cursor, of the one whom `id` belongs to.
    fn has_place(&self, id: CursorId) -> bool {
        let share = match id {
            CursorId::Remote(peer, _) => self.remote(peer).count() < MEMBER_CURSORS,
            CursorId::Local(_) | CursorId::Pending(_) | CursorId::Push(..) => true,
        };
        share && self.cursors.len() < MAX_CURSORS
    }

    /// The cursors of a peer's subscriptions.
    fn remote(&self, peer: NodeId) -> impl Iterator<Item = (&CursorId, &Cursor)> {
        self.cursors.range(CursorId::Remote(peer, 0)..=CursorId::Remote(peer, u64::MAX))
    }

    /// A peer that has a place here: `peer` if it has one.
    pub(super) fn user(&self, peer: NodeId) -> Option<NodeId> {
        if self.remote(peer).next().is_some() {
            return Some(peer);
        }
        self.cursors.keys().find_map(|id| match id {
            CursorId::Remote(user, _) => Some(*user),
            CursorId::Local(_) | CursorId::Pending(_) | CursorId::Push(..) => None,
        })
    }

    /// Where a pending cursor waits for the one that has come. It stays a moment for the others of its peer.
    fn meet(&mut self, now: Instant, id: CursorId) -> Option<u64> {
        let CursorId::Remote(peer, _) = id else { return None };
        let cursor = self.cursors.get_mut(&CursorId::Pending(peer))?;
        cursor.expires = Some(now + OTHERS_WINDOW);
        Some(cursor.acked)
    }

    /// What waits for `peer` and may be sent before it asks: for a subscription that lost its session, or for
    /// any where none has come yet.
    pub(super) fn waiting_for(&self, peer: NodeId) -> Vec<Option<u64>> {
        let pending = self.cursors.get(&CursorId::Pending(peer)).filter(|c| c.acked < self.next);
        if pending.is_some() && self.remote(peer).next().is_none() {
            return vec![None];
        }
        let subscription = |(id, c): (&CursorId, &Cursor)| match id {
            CursorId::Remote(_, id) if c.expires.is_some() && c.acked < self.next => Some(Some(*id)),
            _ => None,
        };
        self.remote(peer).filter_map(subscription).collect()
    }

    /// Begins to send what waits. Returns the generation of the cursor `Push(peer, subscription)` and the
    /// first event; `None` if that is being sent already, or nothing waits there.
    pub(super) fn begin_push(
        &mut self,
        now: Instant,
        peer: NodeId,
        subscription: Option<u64>,
    ) -> Option<(u64, u64)> {
        let from = subscription.map_or(CursorId::Pending(peer), |s| CursorId::Remote(peer, s));
        let id = CursorId::Push(peer, subscription);
        if self.cursors.contains_key(&id) || !self.has_place(id) {
            return None;
        }
        let waiting = self.cursors.get(&from).filter(|c| c.expires.is_some())?.clone();
        // What waits may be gone in part.
        let first = waiting.acked.max(self.oldest());
        let at = self.offset_of(first).unwrap_or(self.sealed_to);
        let generation = self.next_generation();
        let expires = Some(now + PENDING_WINDOW);
        let push =
            Cursor { acked: first, sent: first, acked_at: at, sent_to: at, generation, expires, ..waiting };
        self.cursors.insert(id, push);
        Some((generation, first))
    }

    /// The peer took what was pushed: the first of `subscriptions` is fed by it, the others will ask, and
    /// get the same events. Returns the cursor that goes on under the push's generation; `None` if a
    /// later attempt has been heard of.
    pub(super) fn push_taken(
        &mut self,
        now: Instant,
        push: CursorId,
        generation: u64,
        attempt: u64,
        subscriptions: &[u64],
    ) -> Option<CursorId> {
        let CursorId::Push(peer, _) = push else { return None };
        let sent = self.cursors.get(&push).filter(|c| c.generation == generation)?.clone();
        let id = CursorId::Remote(peer, *subscriptions.first()?);
        let known = self.cursors.get(&id);
        if known.map_or(!self.has_place(id), |known| known.attempt > attempt) {
            return None;
        }
        // What the subscription holds of earlier streams counts on.
        let (acked, acked_at) = known.map_or((sent.acked, sent.acked_at), |k| {
            (k.acked.min(sent.acked), k.acked_at.min(sent.acked_at))
        });
        let taken = Cursor {
            acked,
            acked_at,
            attempt,
            progressed: now,
            stalled: false,
            expires: None,
            ..sent.clone()
        };
        self.cursors.remove(&push);
        self.cursors.remove(&CursorId::Pending(peer));
        self.cursors.insert(id, taken);
        for id in subscriptions.iter().skip(1).map(|s| CursorId::Remote(peer, *s)) {
            if !self.cursors.contains_key(&id) && self.has_place(id) {
                let generation = self.next_generation();
                let (at, expires) = (sent.acked_at, Some(now + RESUME_WINDOW));
                let other =
                    Cursor { sent: sent.acked, sent_to: at, generation, attempt: 0, expires, ..sent.clone() };
                self.cursors.insert(id, other);
            }
        }
        self.trim();
        Some(id)
    }

    /// Makes `peer`'s subscription, when it comes, start here; unless it is here already.
    pub(super) fn expect(&mut self, now: Instant, peer: NodeId) {
        let known = |id: &CursorId| match id {
            CursorId::Remote(p, _) | CursorId::Pending(p) => *p == peer,
            CursorId::Local(_) | CursorId::Push(..) => false,
        };
        if self.cursors.keys().any(known) {
            return;
        }
        if let Some((generation, _)) = self.attach(now, CursorId::Pending(peer), 0, None) {
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

    /// Removes cursors that waited too long; whether there were any.
    pub(super) fn expire(&mut self, now: Instant) -> bool {
        let before = self.cursors.len();
        self.cursors.retain(|_, c| c.expires.is_none_or(|at| at > now));
        let expired = self.cursors.len() < before;
        if expired {
            self.trim();
        }
        expired
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
        let at = self.offset_of(upto);
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

    /// The sequence number of the next event, if nothing else of this log matters: nobody has a place in
    /// it, so it holds nothing.
    pub(super) fn only_number(&self) -> Option<u64> {
        self.cursors.is_empty().then_some(self.next)
    }

    /// Encoded events that are held, in bytes.
    #[cfg(test)]
    pub(super) fn held(&self) -> usize {
        self.bytes + self.open.len()
    }
}
