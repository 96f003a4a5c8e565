//! Where does a relayed datagram go, and is there room for it?
//!
//! Asked once for each run of datagrams with one label from one source, on the path of every packet: one
//! lookup, no allocation.
//!
//! **Metering.** What is forwarded for others is bounded to [`Limits::bytes_per_second`]: a bucket of [`BURST`] for all.
//! As long as it is at least half full, anyone may take from it, so nothing is held back while there is room.
//! Below that it is short, and each *user* (the neighbour that opened the circuit) may take only what a
//! bucket of its own has, which fills at an equal share of the rate for each user that was active within
//! [`ACTIVE`]. So a user that asks for less than its share gets all of it, whatever the others do, and what it
//! leaves is there for the others. A datagram that does not fit is dropped, as a full queue would.
//!
//! **Bounds.** Labels: two for each circuit carried, one for each that begins or ends here; the control machine
//! bounds both. Meters: one for each neighbour with a circuit through this node.

use alloc::collections::BTreeMap;
use core::net::SocketAddr;
use core::time::Duration;

use crate::drops::DropReason;
use crate::id::NodeId;
use crate::route::CircuitId;
use crate::time::Time;

/// How much may be forwarded at once after a pause, as time at the full rate. Long enough for the bursts in which
/// senders hand out packets; short enough that a queue further on is not filled by it.
const BURST: Duration = Duration::from_millis(50);

/// The smallest bucket, in bytes: one whole receive buffer must fit at any rate.
const MIN_BURST: u64 = 128 << 10;

/// How long a user counts as active after its last datagram.
const ACTIVE: Duration = Duration::from_secs(1);

/// Between two counts of the active users, which go through all meters.
const COUNT_EVERY: Duration = Duration::from_millis(100);

/// What a node is prepared to carry for others.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Circuits through this node at a time, for everyone together.
    pub circuits: usize,
    /// Circuits through this node that one neighbour may have opened at a time.
    pub circuits_per_neighbour: usize,
    /// Payload bytes forwarded in a second, for everyone together. [`Limits::UNLIMITED`] if they are not to be
    /// counted.
    pub bytes_per_second: u64,
}

impl Limits {
    /// As fast as the machine can.
    pub const UNLIMITED: u64 = u64::MAX;
}

impl Default for Limits {
    fn default() -> Self {
        Self { circuits: 4096, circuits_per_neighbour: 256, bytes_per_second: 64 << 20 }
    }
}

/// What changes in the table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    /// What arrives with `label` from `from` goes on to `to` with the label `out`. Replaces what was said of
    /// `label` before.
    Forward {
        /// The label it arrives with.
        label: u64,
        /// The previous hop's address.
        from: SocketAddr,
        /// The next hop's address.
        to: SocketAddr,
        /// The label it leaves with.
        out: u64,
        /// The neighbour on whose account it is forwarded.
        user: NodeId,
        /// When the label ends.
        expires: Time,
    },
    /// What arrives with `label` from `from` is for this node, over `circuit`; what this node sends over
    /// `circuit` goes to `from` with the label `out`. Replaces what was said of `label` before.
    End {
        /// The label it arrives with.
        label: u64,
        /// The neighbour's address.
        from: SocketAddr,
        /// Which circuit.
        circuit: CircuitId,
        /// The label for what leaves.
        out: u64,
        /// When the label ends.
        expires: Time,
    },
    /// Nothing is to arrive with `label` any more.
    Remove {
        /// Which.
        label: u64,
    },
}

/// What to do with a run of datagrams.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// Send it on.
    Forward {
        /// To whom.
        to: SocketAddr,
        /// With which label in the place of the one it came with.
        label: u64,
    },
    /// It is for this node.
    Deliver(CircuitId),
    /// Discard it.
    Drop(DropReason),
}

/// What was forwarded since the start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Stats {
    /// Datagrams.
    pub packets: u64,
    /// Their payload bytes.
    pub bytes: u64,
    /// Datagrams that were discarded because there was no room for them.
    pub limited: u64,
}

#[derive(Clone, Copy, Debug)]
struct Entry {
    from: SocketAddr,
    next: Next,
    expires: Time,
}

#[derive(Clone, Copy, Debug)]
enum Next {
    Forward { to: SocketAddr, out: u64, user: NodeId },
    End { circuit: CircuitId, out: u64 },
}

/// The meter of one user.
#[derive(Clone, Copy, Debug)]
struct Meter {
    bucket: Bucket,
    last: Time,
    /// How many labels refer to it.
    labels: usize,
}

/// A token bucket, counted in bytes.
#[derive(Clone, Copy, Debug)]
struct Bucket {
    level: u64,
    filled: Time,
}

impl Bucket {
    /// Fills it at `rate` bytes a second, up to `capacity`.
    fn fill(&mut self, now: Time, rate: u64, capacity: u64) {
        let nanos = (now - self.filled).as_nanos();
        let gained = nanos.saturating_mul(u128::from(rate)) / 1_000_000_000;
        // What is less than a byte is kept for the next time.
        if gained > 0 {
            self.level = self.level.saturating_add(u64::try_from(gained).unwrap_or(u64::MAX)).min(capacity);
            self.filled = now;
        }
    }

    fn take(&mut self, bytes: u64) -> bool {
        let enough = self.level >= bytes;
        if enough {
            self.level -= bytes;
        }
        enough
    }
}

/// The labels a node knows, and what it has room for.
#[derive(Debug)]
pub struct LabelTable {
    entries: BTreeMap<u64, Entry>,
    circuits: BTreeMap<CircuitId, u64>,
    meters: BTreeMap<NodeId, Meter>,
    rate: u64,
    capacity: u64,
    all: Bucket,
    active: u64,
    counted: Option<Time>,
    stats: Stats,
}

impl LabelTable {
    /// An empty table.
    #[must_use]
    pub fn new(limits: Limits) -> Self {
        let rate = limits.bytes_per_second;
        let burst = u128::from(rate) * BURST.as_millis() / 1000;
        let capacity = u64::try_from(burst).unwrap_or(u64::MAX).max(MIN_BURST);
        Self {
            entries: BTreeMap::new(),
            circuits: BTreeMap::new(),
            meters: BTreeMap::new(),
            rate,
            capacity,
            all: Bucket { level: capacity, filled: Time::ZERO },
            active: 1,
            counted: None,
            stats: Stats::default(),
        }
    }

    /// Carries out a change.
    pub fn apply(&mut self, change: Change) {
        match change {
            Change::Forward { label, from, to, out, user, expires } => {
                let full = Bucket { level: self.capacity, filled: Time::ZERO };
                let meter = Meter { bucket: full, last: Time::ZERO, labels: 0 };
                // Counted before the entry that is replaced is forgotten, so that its meter stays.
                self.meters.entry(user).or_insert(meter).labels += 1;
                self.insert(label, Entry { from, next: Next::Forward { to, out, user }, expires });
            }
            Change::End { label, from, circuit, out, expires } => {
                self.insert(label, Entry { from, next: Next::End { circuit, out }, expires });
                self.circuits.insert(circuit, label);
            }
            Change::Remove { label } => self.remove(label),
        }
    }

    fn insert(&mut self, label: u64, entry: Entry) {
        self.remove(label);
        self.entries.insert(label, entry);
    }

    fn remove(&mut self, label: u64) {
        match self.entries.remove(&label).map(|entry| entry.next) {
            Some(Next::End { circuit, .. }) => {
                self.circuits.remove(&circuit);
            }
            Some(Next::Forward { user, .. }) => {
                if let Some(meter) = self.meters.get_mut(&user) {
                    meter.labels = meter.labels.saturating_sub(1);
                    if meter.labels == 0 {
                        self.meters.remove(&user);
                    }
                }
            }
            None => {}
        }
    }

    /// What to do with `count` datagrams of `bytes` payload bytes in all that came from `from` with `label`.
    pub fn step(&mut self, now: Time, from: SocketAddr, label: u64, count: usize, bytes: usize) -> Step {
        let known = self.entries.get(&label).filter(|entry| entry.from == from && entry.expires > now);
        let Some(Entry { next, .. }) = known.copied() else {
            return Step::Drop(DropReason::UnknownLabel);
        };
        match next {
            Next::End { circuit, .. } => Step::Deliver(circuit),
            Next::Forward { to, out, user } => {
                let (count, bytes) = (count as u64, bytes as u64);
                if self.rate != Limits::UNLIMITED && !self.has_room(now, user, bytes) {
                    self.stats.limited += count;
                    return Step::Drop(DropReason::RelayLimit);
                }
                self.stats.packets += count;
                self.stats.bytes += bytes;
                Step::Forward { to, label: out }
            }
        }
    }

    /// Takes `bytes` on `user`'s account, if there is room.
    fn has_room(&mut self, now: Time, user: NodeId, bytes: u64) -> bool {
        self.count_active(now);
        self.all.fill(now, self.rate, self.capacity);
        let share = self.rate / self.active.max(1);
        let Some(meter) = self.meters.get_mut(&user) else { return false };
        if now.since(meter.last) >= ACTIVE {
            self.active += 1;
        }
        meter.last = now;
        meter.bucket.fill(now, share, self.capacity / 2);
        let plenty = self.all.level >= self.capacity / 2;
        if plenty && self.all.take(bytes) {
            // What was free still counts as part of the share, as far as that goes.
            meter.bucket.level = meter.bucket.level.saturating_sub(bytes);
            return true;
        }
        if self.all.level < bytes || !meter.bucket.take(bytes) {
            return false;
        }
        self.all.take(bytes)
    }

    /// Counts the users that forwarded something lately, now and then.
    fn count_active(&mut self, now: Time) {
        if self.counted.is_some_and(|at| now.since(at) < COUNT_EVERY) {
            return;
        }
        self.counted = Some(now);
        let active =
            self.meters.values().filter(|m| m.last != Time::ZERO && now.since(m.last) < ACTIVE).count();
        self.active = active as u64;
    }

    /// Where what leaves over `circuit` goes, and with which label.
    #[must_use]
    pub fn out(&self, circuit: CircuitId) -> Option<(SocketAddr, u64)> {
        let entry = self.entries.get(self.circuits.get(&circuit)?)?;
        match entry.next {
            Next::End { out, .. } => Some((entry.from, out)),
            Next::Forward { .. } => None,
        }
    }

    /// What was forwarded since the start.
    #[must_use]
    pub const fn stats(&self) -> Stats {
        self.stats
    }

    /// Labels and meters known, for bounds.
    #[must_use]
    pub fn len(&self) -> (usize, usize) {
        (self.entries.len(), self.meters.len())
    }

    /// Whether nothing is known.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rng::Rng;

    const RATE: u64 = 10_000_000;

    fn user(n: u8) -> NodeId {
        NodeId([n; 32])
    }

    fn addr(n: u8) -> SocketAddr {
        SocketAddr::from(([203, 0, 113, n], 7000))
    }

    fn table(users: u8) -> LabelTable {
        let mut table = LabelTable::new(Limits { bytes_per_second: RATE, ..Limits::default() });
        for n in 0..users {
            table.apply(forward(n, Time::from_millis(1_000_000)));
        }
        table
    }

    fn forward(n: u8, expires: Time) -> Change {
        let (label, out) = (u64::from(n), 1000 + u64::from(n));
        Change::Forward { label, from: addr(n), to: addr(200), out, user: user(n), expires }
    }

    /// The bytes a second that each user gets through in the last 5 of 10 seconds, if it offers so much in batches.
    fn shares(offered: &[u64]) -> std::vec::Vec<u64> {
        const BATCH: u64 = 12_000;
        let mut table = table(u8::try_from(offered.len()).unwrap());
        let mut rng = Rng::from_u64(5);
        let mut passed = std::vec![0; offered.len()];
        let (mut now, mut due) = (Time::from_millis(10), std::vec![0.0; offered.len()]);
        while now < Time::from_millis(10_010) {
            for (n, rate) in offered.iter().enumerate() {
                due[n] += *rate as f64 / 10_000.0;
                while due[n] >= BATCH as f64 {
                    due[n] -= BATCH as f64 * (0.5 + rng.unit());
                    let n8 = u8::try_from(n).unwrap();
                    let step = table.step(now, addr(n8), u64::from(n8), 10, usize::try_from(BATCH).unwrap());
                    if matches!(step, Step::Forward { .. }) && now >= Time::from_millis(5_010) {
                        passed[n] += BATCH;
                    }
                }
            }
            now += Duration::from_micros(100);
        }
        passed.iter().map(|bytes| bytes / 5).collect()
    }

    fn assert_near(got: u64, expected: u64, what: &str) {
        let tenth = expected / 10;
        assert!((expected - tenth..=expected + tenth).contains(&got), "{what}: {got} instead of {expected}");
    }

    #[test]
    fn one_user_gets_all_there_is_and_no_more() {
        assert_near(shares(&[10 * RATE])[0], RATE, "greedy");
        assert_near(shares(&[RATE / 2])[0], RATE / 2, "modest");
    }

    #[test]
    fn greedy_users_get_equal_shares() {
        let got = shares(&[5 * RATE; 5]);
        for share in &got {
            assert_near(*share, RATE / 5, "share");
        }
    }

    #[test]
    fn modest_users_get_all_they_ask_for_beside_a_greedy_one_which_gets_the_rest() {
        let modest = RATE / 10;
        let got = shares(&[20 * RATE, modest, modest, modest]);
        for share in &got[1..] {
            assert_near(*share, modest, "modest");
        }
        assert_near(got[0], RATE - 3 * modest, "greedy");
    }

    #[test]
    fn what_ends_here_and_what_is_unlimited_is_not_metered() {
        let mut table = LabelTable::new(Limits { bytes_per_second: 1, ..Limits::default() });
        let expires = Time::from_millis(10);
        table.apply(Change::End { label: 1, from: addr(1), circuit: CircuitId(3), out: 2, expires });
        let mut free = LabelTable::new(Limits { bytes_per_second: Limits::UNLIMITED, ..Limits::default() });
        free.apply(forward(1, expires));
        for _ in 0..1000 {
            assert_eq!(table.step(Time::ZERO, addr(1), 1, 50, 60_000), Step::Deliver(CircuitId(3)));
            assert!(matches!(free.step(Time::ZERO, addr(1), 1, 50, 60_000), Step::Forward { .. }));
        }
        assert_eq!(table.out(CircuitId(3)), Some((addr(1), 2)));
        assert_eq!(free.stats(), Stats { packets: 50_000, bytes: 60_000_000, limited: 0 });
    }

    #[test]
    fn labels_are_unknown_to_others_after_their_end_and_when_removed() {
        let mut table = table(0);
        let unknown = Step::Drop(DropReason::UnknownLabel);
        table.apply(forward(1, Time::from_millis(10)));
        assert!(matches!(table.step(Time::ZERO, addr(1), 1, 1, 1), Step::Forward { label: 1001, .. }));
        assert_eq!(table.step(Time::ZERO, addr(2), 1, 1, 1), unknown);
        assert_eq!(table.step(Time::ZERO, addr(1), 2, 1, 1), unknown);
        assert_eq!(table.step(Time::from_millis(10), addr(1), 1, 1, 1), unknown);
        table.apply(forward(1, Time::from_millis(20)));
        assert_eq!(table.len(), (1, 1), "a renewal is no second label");
        assert!(matches!(table.step(Time::from_millis(10), addr(1), 1, 1, 1), Step::Forward { .. }));
        table.apply(Change::Remove { label: 1 });
        assert_eq!((table.len(), table.is_empty()), ((0, 0), true));
    }

    #[test]
    fn a_circuit_whose_label_is_replaced_leads_nowhere_any_more() {
        let mut table = table(0);
        let expires = Time::from_millis(10);
        table.apply(Change::End { label: 1, from: addr(1), circuit: CircuitId(3), out: 2, expires });
        table.apply(Change::End { label: 1, from: addr(1), circuit: CircuitId(4), out: 2, expires });
        assert_eq!(table.out(CircuitId(3)), None);
        assert_eq!(table.out(CircuitId(4)), Some((addr(1), 2)));
    }
}
