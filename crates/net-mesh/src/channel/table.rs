//! Which channels there are: those that this node uses itself, and those that peers ask for.
//!
//! A channel is this node's *own* once it is published on or subscribed to here, and *asked for* as long as
//! only peers subscribe. The two kinds have bounds of their own, so that peers cannot keep this node from
//! using channels; and every channel asked for is charged to one member that subscribes to it, of which
//! each has a share, so that no member can keep the others from it.
//!
//! A channel that nobody has a place in or a handle for is freed: at once where nothing was ever published,
//! else when it has been so for [`IDLE`]. What is kept of it is the number of its next event, because a
//! subscriber that comes back after however long must not take new events for old ones. When there are
//! [`MAX_NUMBERS`] of those, channels that were published on stay.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use net_mesh_proto::id::{ChannelId, NodeId};
use tokio::time::Instant;

use super::ChannelConfig;
use super::hub::Channel;

/// Channels of this node's own. Each costs a few hundred bytes while nothing is kept.
pub(super) const MAX_CHANNELS: usize = 4096;

/// Channels that peers ask for. Eight members can use their whole share at a time.
pub(super) const MAX_ASKED: usize = 8192;

/// Channels charged to one member: as many as a node may have subscriptions.
pub(super) const MEMBER_CHANNELS: usize = super::hub::MAX_SUBSCRIPTIONS;

/// How long a channel that was published on stays when nobody uses it. Coming back within this time, a
/// publisher finds its subscribers looked up.
pub(super) const IDLE: Duration = Duration::from_secs(60);

/// Numbers kept of channels that were freed, 16 bytes each. A node that publishes on more channels than
/// this in one run has stopped naming channels and names events.
pub(super) const MAX_NUMBERS: usize = 1 << 16;

#[derive(Debug)]
struct Entry {
    channel: Arc<Channel>,
    /// Whom it is charged to, if it is not this node's own.
    asker: Option<NodeId>,
    /// Since when nobody uses it, as far as is known.
    idle: Option<Instant>,
}

/// The channels of a node.
#[derive(Debug, Default)]
pub(super) struct Table {
    entries: BTreeMap<Arc<str>, Entry>,
    asked: BTreeMap<NodeId, usize>,
    all_asked: usize,
    /// The next number of each channel that was freed.
    numbers: BTreeMap<ChannelId, u64>,
}

impl Table {
    /// The channel called `name`, for this node's own use; made if there is room.
    pub(super) fn own(&mut self, name: &str, config: &ChannelConfig) -> Option<Arc<Channel>> {
        if let Some(entry) = self.entries.get_mut(name).filter(|e| e.asker.is_none()) {
            entry.idle = None;
            return Some(Arc::clone(&entry.channel));
        }
        let full = |table: &Self| table.entries.len() - table.all_asked >= MAX_CHANNELS;
        if full(self) {
            // All that can be freed, however short a time it has not been used.
            self.free(|_, _| true);
            if full(self) {
                return None;
            }
        }
        let Some(entry) = self.entries.get_mut(name) else {
            return Some(self.insert(name, None, config));
        };
        entry.idle = None;
        let (channel, asker) = (Arc::clone(&entry.channel), entry.asker.take());
        self.discharge(asker);
        Some(channel)
    }

    /// The channel called `name`, for `peer` which asks for it; made if there is room.
    pub(super) fn asked(&mut self, name: &str, peer: NodeId, config: &ChannelConfig) -> Option<Arc<Channel>> {
        if let Some(entry) = self.entries.get_mut(name) {
            entry.idle = None;
            return Some(Arc::clone(&entry.channel));
        }
        // What is freed is found when the table is swept: a peer that asks in vain must not make this node look
        // through all of it each time.
        if self.all_asked >= MAX_ASKED || self.asked.get(&peer).is_some_and(|n| *n >= MEMBER_CHANNELS) {
            return None;
        }
        self.charge(peer);
        Some(self.insert(name, Some(peer), config))
    }

    fn insert(&mut self, name: &str, asker: Option<NodeId>, config: &ChannelConfig) -> Arc<Channel> {
        let name: Arc<str> = name.into();
        let next = self.numbers.remove(&ChannelId::of(&name)).unwrap_or(1);
        let channel = Arc::new(Channel::new(Arc::clone(&name), config, next));
        self.entries.insert(name, Entry { channel: Arc::clone(&channel), asker, idle: None });
        channel
    }

    fn charge(&mut self, peer: NodeId) {
        *self.asked.entry(peer).or_default() += 1;
        self.all_asked += 1;
    }

    fn discharge(&mut self, asker: Option<NodeId>) {
        let Some(peer) = asker else { return };
        self.all_asked -= 1;
        if let Some(n) = self.asked.get_mut(&peer) {
            *n -= 1;
            if *n == 0 {
                self.asked.remove(&peer);
            }
        }
    }

    /// All channels.
    pub(super) fn all(&self) -> impl Iterator<Item = &Arc<Channel>> {
        self.entries.values().map(|entry| &entry.channel)
    }

    /// Forgets the places of those who did not come back, charges channels to those who use them, and frees
    /// those that nobody does.
    pub(super) fn sweep(&mut self, now: Instant) {
        let mut moved = Vec::new();
        for entry in self.entries.values_mut() {
            let mut log = entry.channel.log();
            let expired = log.expire(now);
            if let Some(asker) = entry.asker
                && let Some(user) = log.user(asker)
                && user != asker
            {
                entry.asker = Some(user);
                moved.push((asker, user));
            }
            drop(log);
            if expired {
                entry.channel.shrunk();
            }
            match unused(&entry.channel) {
                Some(_) => _ = entry.idle.get_or_insert(now),
                None => entry.idle = None,
            }
        }
        for (from, to) in moved {
            self.discharge(Some(from));
            self.charge(to);
        }
        self.free(|idle, next| next == 1 || idle.is_some_and(|since| now - since >= IDLE));
    }

    fn free(&mut self, may_go: impl Fn(Option<Instant>, u64) -> bool) {
        let mut gone = Vec::new();
        for (name, entry) in &self.entries {
            let Some(next) = unused(&entry.channel) else { continue };
            if may_go(entry.idle, next) && (next == 1 || self.numbers.len() < MAX_NUMBERS) {
                if next > 1 {
                    self.numbers.insert(ChannelId::of(name), next);
                }
                gone.push(Arc::clone(name));
            }
        }
        for name in gone {
            let entry = self.entries.remove(&name);
            self.discharge(entry.and_then(|e| e.asker));
        }
    }
}

/// The number of the next event, if nobody uses the channel. Handles come from the table alone, so nobody can
/// come by one while it is borrowed.
fn unused(channel: &Arc<Channel>) -> Option<u64> {
    if Arc::strong_count(channel) > 1 { None } else { channel.log().only_number() }
}
