//! Whose datagrams may pass, and whose must not, when more is asked of a relay than it gives?
//!
//! Everything is counted twice: in a bucket of the whole node, refilled at the rate it gives, and in one of
//! the user on whose account it is forwarded, refilled at a share of that rate.
//! - While the node's bucket is **at least half full**, anyone passes: what nobody else wants is not held back.
//! - **Below half**, only users with something left in their own bucket pass: those within their share.
//! - **Below a quarter**, a share is the rate divided among the users active within about the last second, less a
//!   small reserve ([`RESERVE_PARTS`]). Between a quarter and a half it grows towards the whole rate: what some
//!   do not use of their shares fills the bucket, and so becomes part of everyone's share.
//!
//! So the rate is used up whenever there is demand for it; a user who asks for no more than an equal share gets
//! it, whatever the others do; and those who want more settle at one and the same share, at the level of the bucket
//! where all of them together take what flows in. Being the first or the fastest to ask gains nothing.
//!
//! A run of datagrams is never split: it passes if there is anything left, and what it takes beyond that is
//! owed. So in any time, what passes is at most what the rate makes in it, one full bucket of the node, and
//! one run ([`MAX_RUN`]) for each user.
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

/// What the node's bucket holds at least, in bytes: each half has room for two of the longest runs, so that one
/// run does not make the difference between plenty and nothing.
const MIN_BURST: u64 = 4 * (MAX_RUN + 1);

/// The part of the rate that is not given out in shares below a quarter, so that the bucket finds its way back there
/// after every rush: within about this many times the time it takes to fill. A larger reserve would be
/// quicker, and keep more from users within their share meanwhile.
const RESERVE_PARTS: u64 = 16;

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
    /// Users with labels.
    joined: i64,
    /// What a user can save up: used all at once by all, it is half of what the node has.
    most: i128,
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

/// What one of `active` users may have of `rate`, with the node's bucket at `level` of `full`.
fn share(rate: u64, active: u64, level: i128, full: i128) -> u64 {
    const STEPS: u64 = 1024;
    let least = (rate - rate / RESERVE_PARTS) / active.max(1);
    let quarter = full / 4;
    // In units of about a byte, in which both fit.
    let units = |tokens: i128| u64::try_from(tokens >> 30).unwrap_or(0);
    let above = units(level - quarter) / (units(quarter) / STEPS).max(1);
    let more = u128::from(rate - least) * u128::from(above.min(STEPS)) / u128::from(STEPS);
    least + u64::try_from(more).unwrap_or(0)
}

impl Meter {
    /// A meter that lets `rate` bytes pass in a second, without limit where that is `u64::MAX`.
    pub(super) fn new(rate: u64, max_users: usize) -> Self {
        let burst = tokens((rate / BURST_PARTS).max(MIN_BURST));
        Self {
            rate: (rate != u64::MAX).then_some(rate),
            burst,
            tokens: burst,
            refilled: Time::ZERO,
            users: Vec::new(),
            slots: BTreeMap::new(),
            max_users,
            joined: 0,
            most: burst / 2,
            epoch: 0,
            seen: 0,
            active: 0,
        }
    }

    /// An account for one more label of `id`; `None` if there are too many users.
    pub(super) fn join(&mut self, id: NodeId) -> Option<UserSlot> {
        if let Some(slot) = self.slots.get(&id).copied() {
            let user = self.users.get_mut(slot as usize)?;
            user.labels += 1;
            let first = user.labels == 1;
            self.count(i64::from(first));
            return Some(UserSlot(slot));
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
        self.count(1);
        Some(UserSlot(slot))
    }

    /// One label of the user at `slot` is gone.
    pub(super) fn leave(&mut self, slot: UserSlot) {
        if let Some(user) = self.users.get_mut(slot.0 as usize) {
            user.labels = user.labels.saturating_sub(1);
            let last = user.labels == 0;
            self.count(-i64::from(last));
        }
    }

    fn count(&mut self, change: i64) {
        self.joined += change;
        self.most = self.burst / 2 / i128::from(self.joined.max(1));
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
        let share = share(rate, self.active, self.tokens, self.burst);
        user.tokens = (user.tokens + refill(share, user.refilled, now)).min(self.most);
        user.refilled = user.refilled.max(now);
        let passes = rate > 0 && (self.tokens >= self.burst / 2 || user.tokens > 0);
        if passes {
            let cost = tokens(bytes);
            self.tokens -= cost;
            // What others left and it took is not held against it for longer than one run.
            user.tokens = (user.tokens - cost).max(-tokens(MAX_RUN));
        }
        passes
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

    /// How many users have an account.
    pub(super) fn len(&self) -> usize {
        self.users.len()
    }

    /// What each user had forwarded and was refused, in the order in which they came.
    pub(super) fn users(&self) -> impl Iterator<Item = UserStats> + '_ {
        self.users.iter().map(|u| UserStats { user: u.id, forwarded: u.forwarded, limited: u.limited })
    }
}
