//! Whose datagrams may pass, and whose must not, when more is asked of a relay than it gives?
//!
//! Everything is counted twice: in a bucket of the whole node, refilled at the rate it gives, and in one of
//! the user on whose account it is forwarded, refilled at an equal share of that rate among those who were active
//! within about the last second.
//! - While the node's bucket is **at least half full**, anyone passes: what nobody else wants is not held back.
//! - **Below half**, only users with something left in their own bucket pass: those within their share.
//!
//! So the rate is used up whenever there is demand for it, and a user who asks for no more than an equal share
//! gets it, whatever the others do: greedy ones push the node's bucket down to its half, never further, because
//! what all users' buckets can hold together is the other half. Once everyone is greedy, all get the same.
//!
//! A run of datagrams is never split. It passes if there is anything left, and what it takes beyond that is
//! owed: a node owes at most what is passed in one run by each user, a user at most [`MAX_RUN`].
//!
//! Bounds: as many users as the table has room for circuits. One who has no labels left keeps its account until
//! another needs the place, so closing and opening again gains nothing.

use alloc::collections::BTreeMap;
use alloc::vec::Vec;

use super::table::{Traffic, UserStats};
use crate::id::NodeId;
use crate::time::Time;

/// The longest run there can be, in bytes: a full receive buffer, which is a 16-bit length of UDP.
pub(super) const MAX_RUN: u64 = 65_535;

/// What the node's bucket holds: this part of what the rate makes in a second, at least [`MIN_BURST`].
///
/// 50 ms is a round trip within a continent: senders that share the relay need about that long to learn that they
/// are too fast. Much less would drop what arrives in one piece after a pause of the scheduler; much more would
/// let a relay's uplink queue fill before the first drop tells anyone.
const BURST_PARTS: u64 = 20;

/// What the node's bucket holds at least, in bytes: each half has room for two of the longest runs, so that a greedy
/// user's one run over the line cannot take the node into debt at the expense of those within their share.
const MIN_BURST: u64 = 4 * (MAX_RUN + 1);

/// Half of the time within which a user counts as active. Shorter would forget a user between two bursts of
/// acknowledgements over a slow way; longer would keep a share for one who has stopped.
const EPOCH_MS: u64 = 500;

/// Tokens are counted in billionths of a byte: a nanosecond of a byte per second, so that no refill is lost to
/// rounding however often there is one.
const BYTE: i128 = 1_000_000_000;

/// A user's place in [`Meter`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct UserSlot(u32);

#[derive(Clone, Debug)]
struct User {
    id: NodeId,
    /// Labels that are forwarded on its account.
    labels: usize,
    tokens: i128,
    refilled: Time,
    /// The epoch in which it was last seen.
    epoch: u64,
    forwarded: Traffic,
    limited: Traffic,
}

/// The node's bucket, and those of its users.
#[derive(Debug)]
pub(super) struct Meter {
    /// Bytes per second; `None` where there is no limit.
    rate: Option<u64>,
    burst: i128,
    tokens: i128,
    refilled: Time,
    users: Vec<User>,
    slots: BTreeMap<NodeId, u32>,
    max_users: usize,
    /// The epoch that is running, users seen in it, and users seen in it or in the one before.
    epoch: u64,
    seen: u64,
    active: u64,
}

fn tokens(bytes: u64) -> i128 {
    i128::from(bytes) * BYTE
}

/// What `rate` bytes per second make since `since`.
fn refill(rate: u64, since: Time, now: Time) -> i128 {
    // Half of what fits, so that adding it to a bucket does not overflow either: 146 years.
    let nanos = now.as_nanos().saturating_sub(since.as_nanos()).min(1 << 62);
    i128::from(nanos) * i128::from(rate)
}

impl Meter {
    /// A meter that lets `rate` bytes pass in a second, without limit where that is `u64::MAX`.
    pub(super) fn new(rate: u64, max_users: usize) -> Self {
        let burst = match rate {
            0 => 0,
            _ => tokens((rate / BURST_PARTS).max(MIN_BURST)),
        };
        Self {
            rate: (rate != u64::MAX).then_some(rate),
            burst,
            tokens: burst,
            refilled: Time::ZERO,
            users: Vec::new(),
            slots: BTreeMap::new(),
            max_users,
            epoch: 0,
            seen: 0,
            active: 0,
        }
    }

    /// An account for one more label of `id`; `None` if there are too many users.
    pub(super) fn join(&mut self, id: NodeId) -> Option<UserSlot> {
        if let Some(slot) = self.slots.get(&id) {
            let user = self.users.get_mut(*slot as usize)?;
            user.labels += 1;
            return Some(UserSlot(*slot));
        }
        let user = User {
            id,
            labels: 1,
            tokens: self.burst,
            refilled: Time::ZERO,
            epoch: 0,
            forwarded: Traffic::default(),
            limited: Traffic::default(),
        };
        let slot = if self.users.len() < self.max_users {
            self.users.push(user);
            u32::try_from(self.users.len() - 1).ok()?
        } else {
            // Whoever has been away for longest. Linear, and only where a table is full of neighbours.
            let idle = self.users.iter().enumerate().filter(|(_, u)| u.labels == 0);
            let (slot, _) = idle.min_by_key(|(_, u)| u.refilled)?;
            let evicted = core::mem::replace(self.users.get_mut(slot)?, user);
            self.slots.remove(&evicted.id);
            u32::try_from(slot).ok()?
        };
        self.slots.insert(id, slot);
        Some(UserSlot(slot))
    }

    /// One label of the user at `slot` is gone.
    pub(super) fn leave(&mut self, slot: UserSlot) {
        if let Some(user) = self.users.get_mut(slot.0 as usize) {
            user.labels = user.labels.saturating_sub(1);
        }
    }

    /// Whether a run of `run.packets` datagrams of `run.bytes` bytes in all may pass, on the account of `slot`.
    pub(super) fn pass(&mut self, now: Time, slot: UserSlot, run: Traffic) -> bool {
        let passes = match self.rate {
            Some(rate) => self.within(now, rate, slot, run.bytes),
            None => true,
        };
        if let Some(user) = self.users.get_mut(slot.0 as usize) {
            (if passes { &mut user.forwarded } else { &mut user.limited }).add(run);
            user.refilled = user.refilled.max(now);
        }
        passes
    }

    fn within(&mut self, now: Time, rate: u64, slot: UserSlot, bytes: u64) -> bool {
        self.tokens = (self.tokens + refill(rate, self.refilled, now)).min(self.burst);
        self.refilled = self.refilled.max(now);
        self.roll(now);
        let Some(user) = self.users.get_mut(slot.0 as usize) else { return false };
        if user.epoch != self.epoch {
            self.seen += 1;
            self.active += u64::from(user.epoch + 1 != self.epoch);
            user.epoch = self.epoch;
        }
        let active = self.active.max(1);
        // All users' buckets together hold half of the node's: used at once, they leave something there.
        let most = self.burst / 2 / i128::from(active);
        user.tokens = (user.tokens + refill(rate / active, user.refilled, now)).min(most);
        user.refilled = user.refilled.max(now);
        let plenty = self.tokens >= self.burst / 2;
        if self.tokens <= 0 || !(plenty || user.tokens > 0) {
            return false;
        }
        let cost = tokens(bytes);
        self.tokens -= cost;
        // What was left over by others and taken is not held against anyone for long.
        user.tokens = (user.tokens - cost).max(-tokens(MAX_RUN));
        true
    }

    /// Epochs start at 2, so that a user who was never seen is in neither of the two that count.
    fn roll(&mut self, now: Time) {
        let epoch = now.as_millis() / EPOCH_MS + 2;
        if epoch > self.epoch {
            self.active = if epoch == self.epoch + 1 { self.seen } else { 0 };
            self.seen = 0;
            self.epoch = epoch;
        }
    }

    /// What each user had forwarded and was refused, in the order in which they came.
    pub(super) fn users(&self) -> impl Iterator<Item = UserStats> + '_ {
        self.users.iter().map(|u| UserStats { user: u.id, forwarded: u.forwarded, limited: u.limited })
    }
}
