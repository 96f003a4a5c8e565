//! Who is in the mesh, and what do they say of themselves?
//!
//! Every node makes one [`Record`] of itself, signed, with a sequence number. Records travel in two ways:
//! - **pushed**: whoever learns a new one sends it to all its other sessions at once;
//! - **anti-entropy**: when a session comes up, a node sends a digest (ids and sequence numbers). The receiver
//!   answers with what is newer here and asks for what is newer there, so two nodes agree after one and a half
//!   round trips, whatever was lost before. Every [`DIGEST_EVERY`] it sends one session in turn a summary, a hash of
//!   the same; whoever knows something else answers with its digest.
//!
//! A record lives for [`TTL`] after its node made it, wherever it has travelled meanwhile: its age
//! travels with it. So the name of a node that vanished without a word disappears everywhere at most
//! [`TTL`] plus [`SWEEP`] after its last record, and a node that says goodbye disappears at once. Both leave a
//! grave, so that a copy that comes around later is not taken for news.
//!
//! **Clocks.** Sequence numbers start from their node's wall clock, and are never compared with anyone
//! else's: a node whose clock is years off in either direction is a full member, and cannot hurt others
//! with it. What a wrong clock can break is its node's own succession (a run with the clock ahead,
//! then one with the clock right). So a node that is shown a record of its own that it did not make, and
//! that is not older than its latest, jumps above it and publishes again.
//!
//! Bounds: [`MAX_MEMBERS`] members and as many graves, 2.2 KB each at most. When the table is full,
//! newcomers are refused, so that a flood of invented identities (each needs a member's help) cannot
//! displace those who are there. Signatures are checked after sequence numbers: a copy costs no curve
//! arithmetic.

mod own;
mod record;
mod table;
pub mod wire;

#[cfg(test)]
mod tests;

use alloc::collections::{BTreeMap, BTreeSet};
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::net::SocketAddr;
use core::time::Duration;

pub use own::REFRESH;
pub use record::{
    Flags, MAX_CANDIDATES, MAX_LINKS, MAX_NAME, MAX_RECORD_BYTES, MAX_SUBSCRIPTIONS, Record, RecordError,
    SEQ_LIMIT, SignedRecord, Unverified, VerdictSummary, sanitised,
};
pub(crate) use record::{read_verdict, write_verdict};
pub use table::Member;

use crate::drops::DropReason;
use crate::id::{ChannelId, MeshId, NodeId};
use crate::outbox::Outbox;
use crate::rng::Rng;
use crate::time::{Deadline, Time};
use own::Own;
use table::{Stored, Table, seconds};
use wire::{Digest, MAX_DIGEST_ENTRIES, MAX_WANTED, Records, Summary, Want};

/// Members besides this node.
///
/// Records reach everyone, so the traffic of a mesh grows with the square of this; at 4096 a refresh
/// every five minutes already means 14 records a second at every node. A larger mesh needs another
/// way to spread records, not a larger table.
pub const MAX_MEMBERS: usize = 4096;

/// How long a record lives after its node made it: three refreshes and a minute for the journey.
/// Shorter forgets nodes that are merely cut off for a while; longer shows ghosts.
pub const TTL: Duration = Duration::from_secs(16 * 60);

/// How often a node compares notes with one of its sessions. Pushes carry the news; this repairs what they
/// missed, and a missed record is found within this times the number of sessions.
pub const DIGEST_EVERY: Duration = Duration::from_secs(30);

/// How often expired records are looked for; what that adds to a lifetime.
pub const SWEEP: Duration = Duration::from_secs(10);

/// Who this node is.
#[derive(Clone, Copy, Debug)]
pub struct Identity<'a> {
    /// The Ed25519 secret key.
    pub secret: &'a [u8; 32],
    /// The mesh whose records it makes and believes.
    pub mesh: &'a MeshId,
    /// Its name, sanitised and cut as records need it.
    pub name: &'a str,
    /// Tells this run from earlier ones.
    pub boot: u64,
    /// The wall clock now, in milliseconds since the Unix epoch.
    pub unix_ms: u64,
}

/// A message of this protocol.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Message {
    /// What the sender knows.
    Digest(Digest),
    /// The same in a few bytes.
    Summary(Summary),
    /// Records.
    Records(Records),
    /// Which records the sender asks for.
    Want(Want),
}

/// What membership tells the node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// Send `message` in the session with `to`.
    Send {
        /// To whom.
        to: NodeId,
        /// What.
        message: Message,
    },
    /// The record of `peer` is new or has changed.
    Changed {
        /// Whose.
        peer: NodeId,
        /// Whether what matters for reaching it changed: addresses, verdict, or it is a new run.
        reachability: bool,
    },
    /// `peer` left or was forgotten.
    Gone {
        /// Who.
        peer: NodeId,
    },
    /// A run of this node has published that began later than this one: another machine has a copy of its key. Told at
    /// most every ten minutes.
    Doubled,
}

/// Between two words about a copy of this node.
const DOUBLED_EVERY: Duration = Duration::from_secs(600);

/// The membership machine of one node.
#[derive(Debug)]
pub struct Membership {
    own: Own,
    mesh: MeshId,
    table: Table,
    sessions: BTreeSet<NodeId>,
    /// The session that was sent the last periodic digest.
    turn: Option<NodeId>,
    digest_at: Time,
    sweep_at: Time,
    /// Words of this node's own by runs that began later.
    later_runs: u32,
    /// When it was last told that another run goes on beside this one.
    doubled_at: Option<Time>,
    rng: Rng,
}

impl Membership {
    /// A machine that knows only itself.
    #[must_use]
    pub fn new(now: Time, rng: &Rng, identity: &Identity<'_>) -> Self {
        Self {
            own: Own::new(now, rng.fork("own"), identity),
            mesh: *identity.mesh,
            table: Table::new(),
            sessions: BTreeSet::new(),
            turn: None,
            digest_at: now + DIGEST_EVERY,
            sweep_at: now + SWEEP,
            later_runs: 0,
            doubled_at: None,
            rng: rng.fork("digest"),
        }
    }

    /// This node's id.
    #[must_use]
    pub const fn id(&self) -> NodeId {
        self.own.id()
    }

    /// This node's own record as it was last published.
    #[must_use]
    pub fn own(&self) -> Option<&Record> {
        self.own.published().map(SignedRecord::record)
    }

    /// Whether goodbye has been said.
    #[must_use]
    pub const fn left(&self) -> bool {
        self.own.left()
    }

    /// The other members, by id.
    #[must_use]
    pub const fn members(&self) -> &BTreeMap<NodeId, Member> {
        self.table.members()
    }

    /// Nodes that are remembered as gone, for bounds.
    #[must_use]
    pub fn buried(&self) -> usize {
        self.table.buried()
    }

    /// Where this node may be reached, best first.
    pub fn set_candidates(&mut self, now: Time, candidates: Vec<SocketAddr>) {
        self.own.set_candidates(now, candidates);
    }

    /// What this node's NAT does.
    pub fn set_verdict(&mut self, now: Time, verdict: VerdictSummary) {
        self.own.set_verdict(now, verdict);
    }

    /// Whether anyone can reach this node by a port mapping.
    pub fn set_mapped(&mut self, now: Time, mapped: bool) {
        self.own.set_mapped(now, mapped);
    }

    /// Whether this node carries traffic between others.
    pub fn set_relays(&mut self, now: Time, relays: bool) {
        self.own.set_relays(now, relays);
    }

    /// Where this node may be reached and what its NAT does, as its next record will say.
    #[must_use]
    pub const fn own_draft(&self) -> &Record {
        self.own.draft()
    }

    /// The channels this node subscribes to.
    pub fn set_subscriptions(&mut self, now: Time, channels: Vec<ChannelId>) {
        self.own.set_subscriptions(now, channels);
    }

    /// The sessions of this node, with their round-trip times in milliseconds.
    pub fn set_links(&mut self, now: Time, links: Vec<(NodeId, u16)>) {
        self.own.set_links(now, links);
    }

    /// There is a session with `peer`. The one who `initiates` the comparison sends a digest; exactly one
    /// of the two should. The other's own record goes out with its answer.
    pub fn session_up(&mut self, now: Time, peer: NodeId, initiates: bool, out: &mut Outbox<Event>) {
        self.sessions.insert(peer);
        if self.own.published().is_none() {
            self.own.publish(now);
        }
        if initiates {
            self.send_records(peer, self.own_item(now), out);
            self.send_digest(peer, out);
        }
    }

    /// There is no session with `peer` any more.
    pub fn session_down(&mut self, peer: &NodeId) {
        self.sessions.remove(peer);
    }

    /// Says goodbye to everyone. Nothing is published after that.
    pub fn leave(&mut self, now: Time, out: &mut Outbox<Event>) {
        if !self.own.left() {
            self.own.leave(now);
            self.push(self.own_item(now).into_iter().collect(), None, out);
        }
    }

    /// A message arrived in the session with `from`.
    pub fn handle(&mut self, now: Time, from: NodeId, message: Message, out: &mut Outbox<Event>) {
        match message {
            Message::Digest(digest) => self.handle_digest(now, from, &digest, out),
            Message::Summary(summary) => {
                if summary != Summary::of(&self.known()) {
                    self.send_digest(from, out);
                }
            }
            Message::Records(records) => self.handle_records(now, from, &records, out),
            Message::Want(want) => {
                let items: Vec<_> = want.ids.iter().filter_map(|id| self.item(now, id)).collect();
                self.send_records(from, items, out);
            }
        }
    }

    /// Does what is due.
    pub fn handle_timeout(&mut self, now: Time, out: &mut Outbox<Event>) {
        if self.own.handle_timeout(now).is_some() {
            self.push(self.own_item(now).into_iter().collect(), None, out);
        }
        if self.digest_at <= now {
            self.digest_at = now + DIGEST_EVERY.mul_f64(0.9 + 0.2 * self.rng.unit());
            if let Some(peer) = self.next_in_turn() {
                self.turn = Some(peer);
                let message = Message::Summary(Summary::of(&self.known()));
                out.event(Event::Send { to: peer, message });
            }
        }
        if self.sweep_at <= now {
            self.sweep_at = now + SWEEP;
            self.table.expire(now, |peer| out.event(Event::Gone { peer }));
        }
    }

    /// When [`Self::handle_timeout`] has something to do.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<Deadline> {
        let digest = (!self.sessions.is_empty())
            .then(|| Deadline::new(self.digest_at, "compare records with a session"));
        let idle = self.table.members().is_empty() && self.table.buried() == 0;
        let sweep = (!idle).then(|| Deadline::new(self.sweep_at, "look for expired records"));
        Deadline::earliest(self.own.poll_timeout(), Deadline::earliest(digest, sweep))
    }

    fn next_in_turn(&self) -> Option<NodeId> {
        let after = self.turn.and_then(|last| self.sessions.range(last..).find(|id| **id != last));
        after.or_else(|| self.sessions.first()).copied()
    }

    fn handle_digest(&mut self, now: Time, from: NodeId, digest: &Digest, out: &mut Outbox<Event>) {
        let mut newer_here = Vec::new();
        let mut wanted = Vec::new();
        let mut mine = self.known();
        mine.retain(|id, _| (digest.from..=digest.to).contains(id));
        for (id, theirs) in &digest.entries {
            mine.remove(id);
            match self.seq(id) {
                Some(ours) if ours > *theirs => newer_here.extend(self.item(now, id)),
                Some(ours) if ours == *theirs => {}
                Some(_) | None => wanted.push(*id),
            }
        }
        newer_here.extend(mine.keys().filter_map(|id| self.item(now, id)));
        self.send_records(from, newer_here, out);
        for ids in wanted.chunks(MAX_WANTED) {
            out.event(Event::Send { to: from, message: Message::Want(Want { ids: ids.to_vec() }) });
        }
    }

    fn handle_records(&mut self, now: Time, from: NodeId, records: &Records, out: &mut Outbox<Event>) {
        let mut news = Vec::new();
        for (age, bytes) in &records.items {
            let age = Duration::from_secs(u64::from(*age));
            match self.take_record(now, age, bytes, out) {
                Ok(Some(id)) => news.extend(self.table.item(&id, now)),
                Ok(None) => {}
                Err(reason) => out.drop(reason),
            }
        }
        self.push(news, Some(from), out);
    }

    /// Looks at one record; returns its node if it is news for others too.
    fn take_record(
        &mut self,
        now: Time,
        age: Duration,
        bytes: &[u8],
        out: &mut Outbox<Event>,
    ) -> Result<Option<NodeId>, DropReason> {
        let offered = Unverified::parse(bytes).map_err(|error| match error {
            RecordError::UnknownVersion(_) => DropReason::UnknownControl,
            RecordError::Malformed(_) => DropReason::BadRecord,
        })?;
        let (id, seq) = (offered.claims().node, offered.claims().seq);
        if id == self.id() {
            return self.take_own(now, offered, bytes, out).map(|()| None);
        }
        if age >= TTL || self.table.seq(&id).is_some_and(|known| known >= seq) {
            return Err(DropReason::OldRecord);
        }
        let signed = offered.verify(&self.mesh).ok_or(DropReason::BadRecord)?;
        match self.table.store(now, signed, age) {
            Stored::Changed { reachability } => out.event(Event::Changed { peer: id, reachability }),
            Stored::Left => out.event(Event::Gone { peer: id }),
            Stored::LeftUnknown => {}
            Stored::Full => return Err(DropReason::TableFull),
        }
        Ok(Some(id))
    }

    /// A record of this node came from outside: an echo, or the words of another run.
    fn take_own(
        &mut self,
        now: Time,
        offered: Unverified<'_>,
        bytes: &[u8],
        out: &mut Outbox<Event>,
    ) -> Result<(), DropReason> {
        let latest = self.own.published();
        if latest.is_some_and(|own| own.bytes()[..] == *bytes) {
            return Ok(());
        }
        let (seq, boot) = (offered.claims().seq, offered.claims().boot);
        if latest.is_some_and(|own| own.record().seq > seq) {
            return Err(DropReason::OldRecord);
        }
        offered.verify(&self.mesh).ok_or(DropReason::BadRecord)?;
        self.own.outbid(now, seq);
        if boot > self.own.draft().boot {
            // Once may be the last word of an earlier run whose clock was ahead.
            self.later_runs = self.later_runs.saturating_add(1);
            if self.later_runs > 1 && self.doubled_at.is_none_or(|at| at + DOUBLED_EVERY <= now) {
                self.doubled_at = Some(now);
                out.event(Event::Doubled);
            }
        }
        Ok(())
    }

    /// Sends `items` to every session but the one they came from.
    fn push(&self, items: Vec<(u32, Arc<[u8]>)>, except: Option<NodeId>, out: &mut Outbox<Event>) {
        let messages = wire::pack(items);
        for to in self.sessions.iter().filter(|id| Some(**id) != except) {
            for message in &messages {
                out.event(Event::Send { to: *to, message: Message::Records(message.clone()) });
            }
        }
    }

    fn send_records(
        &self,
        to: NodeId,
        items: impl IntoIterator<Item = (u32, Arc<[u8]>)>,
        out: &mut Outbox<Event>,
    ) {
        for message in wire::pack(items) {
            out.event(Event::Send { to, message: Message::Records(message) });
        }
    }

    /// Sends all that is known, as digests that cover the whole space of ids without a gap.
    fn send_digest(&self, to: NodeId, out: &mut Outbox<Event>) {
        let entries: Vec<_> = self.known().into_iter().collect();
        let mut from = NodeId([0; 32]);
        let mut chunks = entries.chunks(MAX_DIGEST_ENTRIES).peekable();
        while let Some(chunk) = chunks.next() {
            let last = chunks.peek().and_then(|_| chunk.last());
            let upper = last.map_or(NodeId([0xff; 32]), |(id, _)| *id);
            let digest = Digest { from, to: upper, entries: chunk.to_vec() };
            out.event(Event::Send { to, message: Message::Digest(digest) });
            from = successor(upper);
        }
    }

    fn known(&self) -> BTreeMap<NodeId, u64> {
        let mut known = self.table.known();
        known.extend(self.own.published().map(|own| (self.id(), own.record().seq)));
        known
    }

    fn seq(&self, id: &NodeId) -> Option<u64> {
        if *id == self.id() {
            return self.own.published().map(|own| own.record().seq);
        }
        self.table.seq(id)
    }

    fn item(&self, now: Time, id: &NodeId) -> Option<(u32, Arc<[u8]>)> {
        if *id == self.id() { self.own_item(now) } else { self.table.item(id, now) }
    }

    fn own_item(&self, now: Time) -> Option<(u32, Arc<[u8]>)> {
        Some((seconds(self.own.age(now)), self.own.published()?.bytes().clone()))
    }
}

/// The id after `id`; the first one after the last.
fn successor(id: NodeId) -> NodeId {
    let mut bytes = id.0;
    for byte in bytes.iter_mut().rev() {
        let (next, carried) = byte.overflowing_add(1);
        *byte = next;
        if !carried {
            break;
        }
    }
    NodeId(bytes)
}
