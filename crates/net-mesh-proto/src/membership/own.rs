//! The record a node makes of itself: what it says, and when it says it again.
//!
//! A change is published after a moment's wait for others that come with it, and not sooner after the
//! last publication than its urgency allows. Without changes the record is made anew every
//! [`REFRESH`], a little earlier at random, so that others know the node is still there.

use alloc::vec::Vec;
use core::net::SocketAddr;
use core::time::Duration;

use ed25519_dalek::SigningKey;

use super::record::{Flags, MAX_CANDIDATES, MAX_LINKS, MAX_SUBSCRIPTIONS, Record, SEQ_LIMIT, SignedRecord};
use super::{Identity, VerdictSummary};
use crate::id::{ChannelId, MeshId, NodeId};
use crate::rng::Rng;
use crate::time::{Deadline, Time};

/// How often a record is made anew when nothing changes, at most; up to a fifth sooner.
///
/// Three of these fit the lifetime of a record, so that two may be lost. Shorter would make records the
/// main traffic of a large idle mesh.
pub const REFRESH: Duration = Duration::from_secs(300);

/// How long a change waits for others. A network change arrives as several at one instant.
const COALESCE: Duration = Duration::from_millis(20);

/// Between two publications when addresses, verdict, flags or channels changed. Others wait for these, and
/// one a second per node is still bearable when every record reaches everyone.
const URGENT: Duration = Duration::from_secs(1);

/// Between two publications when only the set of links changed: it changes often in a busy mesh, and
/// serves routing, which has the old links until then.
const LINKS: Duration = Duration::from_secs(5);

/// Between two publications when only round-trip times changed.
const RTTS: Duration = Duration::from_secs(60);

/// Below this difference a round-trip time counts as unchanged, however small it is.
const RTT_STEP_MS: u16 = 20;

#[derive(Debug)]
pub(super) struct Own {
    key: SigningKey,
    mesh: MeshId,
    draft: Record,
    published: Option<SignedRecord>,
    published_at: Time,
    /// The highest sequence number ever used for this node, by this run or, as far as we heard, another.
    floor: u64,
    start: Time,
    unix_ms: u64,
    due: Option<Time>,
    refresh_at: Time,
    rng: Rng,
}

impl Own {
    pub(super) fn new(now: Time, rng: Rng, identity: &Identity<'_>) -> Self {
        let key = SigningKey::from_bytes(identity.secret);
        let node = NodeId(key.verifying_key().to_bytes());
        Self {
            draft: Record::new(node, identity.boot, identity.name),
            key,
            mesh: *identity.mesh,
            published: None,
            published_at: now,
            floor: 0,
            start: now,
            unix_ms: identity.unix_ms,
            due: Some(now + COALESCE),
            refresh_at: now + REFRESH,
            rng,
        }
    }

    pub(super) const fn id(&self) -> NodeId {
        self.draft.node
    }

    pub(super) const fn published(&self) -> Option<&SignedRecord> {
        self.published.as_ref()
    }

    pub(super) const fn left(&self) -> bool {
        self.draft.flags.leaving
    }

    pub(super) fn age(&self, now: Time) -> Duration {
        now - self.published_at
    }

    pub(super) fn set_candidates(&mut self, now: Time, mut candidates: Vec<SocketAddr>) {
        candidates.truncate(MAX_CANDIDATES);
        self.draft.candidates = candidates;
        self.touch(now);
    }

    pub(super) fn set_verdict(&mut self, now: Time, verdict: VerdictSummary) {
        self.draft.verdict = verdict;
        self.touch(now);
    }

    pub(super) fn set_mapped(&mut self, now: Time, mapped: bool) {
        self.draft.flags.mapped = mapped;
        self.touch(now);
    }

    pub(super) fn set_relays(&mut self, now: Time, relays: bool) {
        self.draft.flags.relays = relays;
        self.touch(now);
    }

    pub(super) const fn draft(&self) -> &Record {
        &self.draft
    }

    pub(super) fn set_subscriptions(&mut self, now: Time, mut channels: Vec<ChannelId>) {
        channels.sort_unstable();
        channels.dedup();
        self.draft.flags.subscribes_to_many = channels.len() > MAX_SUBSCRIPTIONS;
        channels.truncate(MAX_SUBSCRIPTIONS);
        self.draft.subscriptions = channels;
        self.touch(now);
    }

    /// `links` need not be sorted. Those named before stay, so that a node with many sessions does not
    /// change its record with each of them.
    pub(super) fn set_links(&mut self, now: Time, mut links: Vec<(NodeId, u16)>) {
        let named: &[(NodeId, u16)] = self.published.as_ref().map_or(&[], |p| &p.record().links);
        links.sort_unstable_by_key(|(peer, rtt)| (!named.iter().any(|(n, _)| n == peer), *rtt, *peer));
        links.truncate(MAX_LINKS);
        links.sort_unstable();
        self.draft.links = links;
        self.touch(now);
    }

    /// Someone has a record of this node with sequence number `seq`, which this run did not make.
    pub(super) fn outbid(&mut self, now: Time, seq: u64) {
        self.floor = self.floor.max(seq);
        self.due = Some((self.published_at + URGENT).max(now + COALESCE));
    }

    pub(super) fn leave(&mut self, now: Time) {
        self.draft.flags = Flags { leaving: true, ..self.draft.flags };
        self.publish(now);
    }

    fn touch(&mut self, now: Time) {
        let Some(published) = &self.published else { return };
        let outbid = (self.floor > published.record().seq).then_some(URGENT);
        self.due = outbid.or_else(|| urgency(published.record(), &self.draft)).map(|interval| {
            let due = (self.published_at + interval).max(now + COALESCE);
            self.due.map_or(due, |already| already.min(due))
        });
    }

    pub(super) fn publish(&mut self, now: Time) -> SignedRecord {
        let wall =
            self.unix_ms.saturating_add(u64::try_from((now - self.start).as_millis()).unwrap_or(u64::MAX));
        let seq = wall.max(self.floor + 1).min(SEQ_LIMIT - 1);
        self.floor = seq;
        self.draft.seq = seq;
        let signed = self.draft.clone().sign(&self.key, &self.mesh);
        self.published = Some(signed.clone());
        self.published_at = now;
        self.due = None;
        self.refresh_at = now + REFRESH.mul_f64(1.0 - 0.2 * self.rng.unit());
        signed
    }

    /// The new record, if it is time for one.
    pub(super) fn handle_timeout(&mut self, now: Time) -> Option<SignedRecord> {
        let due = !self.left() && self.poll_timeout().is_some_and(|deadline| deadline.at <= now);
        due.then(|| self.publish(now))
    }

    pub(super) fn poll_timeout(&self) -> Option<Deadline> {
        if self.left() {
            return None;
        }
        let due = self.due.map(|at| Deadline::new(at, "publish the own record"));
        Deadline::earliest(due, Some(Deadline::new(self.refresh_at, "refresh the own record")))
    }
}

/// How soon after the last publication the difference may be published; `None` if there is none worth it.
fn urgency(old: &Record, new: &Record) -> Option<Duration> {
    let urgent = old.candidates != new.candidates
        || old.verdict != new.verdict
        || old.flags != new.flags
        || old.subscriptions != new.subscriptions;
    if urgent {
        return Some(URGENT);
    }
    if old.links.len() != new.links.len() || old.links.iter().zip(&new.links).any(|(a, b)| a.0 != b.0) {
        return Some(LINKS);
    }
    let moved = |(a, b): (&(NodeId, u16), &(NodeId, u16))| a.1.abs_diff(b.1) > RTT_STEP_MS.max(a.1 / 2);
    old.links.iter().zip(&new.links).any(moved).then_some(RTTS)
}
