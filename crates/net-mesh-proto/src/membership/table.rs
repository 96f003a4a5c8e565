//! The records of others, and the graves of those that left.

use alloc::collections::BTreeMap;
use alloc::sync::Arc;
use core::time::Duration;

use super::record::{Record, SignedRecord};
use super::{MAX_MEMBERS, TTL};
use crate::bounded::BoundedMap;
use crate::id::NodeId;
use crate::time::Time;

/// What is known of another node.
#[derive(Clone, Debug)]
pub struct Member {
    signed: SignedRecord,
    expires: Time,
}

impl Member {
    /// What it says of itself.
    #[must_use]
    pub const fn record(&self) -> &Record {
        self.signed.record()
    }

    /// How long ago it said so, to the second.
    #[must_use]
    pub fn age(&self, now: Time) -> Duration {
        TTL.saturating_sub(self.expires - now)
    }

    pub(super) fn item(&self, now: Time) -> (u32, Arc<[u8]>) {
        (seconds(self.age(now)), self.signed.bytes().clone())
    }
}

/// Why nothing up to `seq` is believed of a node any more.
#[derive(Clone, Debug)]
struct Grave {
    seq: u64,
    until: Time,
    /// Its last words, where it left on its own account: others are still to hear them.
    farewell: Option<SignedRecord>,
}

/// What became of a record that was offered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stored {
    /// It is there, and new; `reachability` if it differs in addresses, verdict or boot.
    Changed { reachability: bool },
    /// Its node left; it was a member until now.
    Left,
    /// Its node left, and was not a member.
    LeftUnknown,
    /// There is no room.
    Full,
}

#[derive(Debug)]
pub(super) struct Table {
    members: BTreeMap<NodeId, Member>,
    graves: BoundedMap<NodeId, Grave>,
}

impl Table {
    pub(super) fn new() -> Self {
        Self { members: BTreeMap::new(), graves: BoundedMap::new(MAX_MEMBERS) }
    }

    pub(super) const fn members(&self) -> &BTreeMap<NodeId, Member> {
        &self.members
    }

    pub(super) fn buried(&self) -> usize {
        self.graves.len()
    }

    /// The highest sequence number seen of `id`, alive or buried.
    pub(super) fn seq(&self, id: &NodeId) -> Option<u64> {
        let alive = self.members.get(id).map(|m| m.record().seq);
        alive.max(self.graves.get(id).map(|g| g.seq))
    }

    /// The record to pass on for `id`: a member's, or the farewell of one that left.
    pub(super) fn item(&self, id: &NodeId, now: Time) -> Option<(u32, Arc<[u8]>)> {
        if let Some(member) = self.members.get(id) {
            return Some(member.item(now));
        }
        let grave = self.graves.get(id)?;
        let age = TTL.saturating_sub(grave.until - now);
        Some((seconds(age), grave.farewell.as_ref()?.bytes().clone()))
    }

    /// Every node there is something to say about, with its sequence number, ascending by id.
    pub(super) fn known(&self) -> BTreeMap<NodeId, u64> {
        let farewells = self.graves.iter().filter(|(_, g)| g.farewell.is_some()).map(|(id, g)| (*id, g.seq));
        let members = self.members.iter().map(|(id, m)| (*id, m.record().seq));
        farewells.chain(members).collect()
    }

    /// Takes a record newer than anything known of its node, `age` after it was made.
    pub(super) fn store(&mut self, now: Time, signed: SignedRecord, age: Duration) -> Stored {
        let (id, seq) = (signed.record().node, signed.record().seq);
        let expires = now + TTL.saturating_sub(age);
        if signed.record().flags.leaving {
            self.graves.insert(id, Grave { seq, until: expires, farewell: Some(signed) });
            return if self.members.remove(&id).is_some() { Stored::Left } else { Stored::LeftUnknown };
        }
        let old = self.members.get(&id);
        if old.is_none() && self.members.len() >= MAX_MEMBERS {
            return Stored::Full;
        }
        let reachability = old.is_none_or(|old| differs(old.record(), signed.record()));
        self.graves.remove(&id);
        self.members.insert(id, Member { signed, expires });
        Stored::Changed { reachability }
    }

    /// Buries the members whose records have expired, and calls `gone` with each; opens old graves.
    pub(super) fn expire(&mut self, now: Time, mut gone: impl FnMut(NodeId)) {
        let graves = &mut self.graves;
        graves.retain(|_, grave| grave.until > now);
        self.members.retain(|id, member| {
            if member.expires > now {
                return true;
            }
            graves.insert(*id, Grave { seq: member.record().seq, until: now + TTL, farewell: None });
            gone(*id);
            false
        });
    }
}

fn differs(old: &Record, new: &Record) -> bool {
    old.candidates != new.candidates || old.verdict != new.verdict || old.boot != new.boot
}

pub(super) fn seconds(age: Duration) -> u32 {
    u32::try_from(age.as_secs()).unwrap_or(u32::MAX)
}
