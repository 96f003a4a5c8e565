//! What the label table promises.
#![allow(clippy::cast_precision_loss, reason = "rates in tests are small")]

use alloc::vec;
use alloc::vec::Vec;
use core::time::Duration;

use super::super::meter::MAX_RUN;
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

/// A neighbour that has datagrams forwarded: bytes a second, in batches of about this many bytes, from this time on
/// in milliseconds, perhaps with a new circuit in the place of the old one before every batch.
#[derive(Clone, Copy)]
struct Sender {
    rate: u64,
    batch: u64,
    from_ms: u64,
    churns: bool,
}

const fn steady(rate: u64) -> Sender {
    Sender { rate, batch: 12_000, from_ms: 0, churns: false }
}

/// The bytes that each sender gets through between `from_ms` and `to_ms`, a second.
fn passed(table: &mut LabelTable, senders: &[Sender], from_ms: u64, to_ms: u64) -> Vec<u64> {
    let mut rng = Rng::from_u64(5);
    let mut passed = vec![0; senders.len()];
    let mut due = vec![0i64; senders.len()];
    let mut now = Time::from_millis(10);
    while now < Time::from_millis(to_ms) {
        for (n, sender) in senders.iter().enumerate().filter(|(_, s)| now >= Time::from_millis(s.from_ms)) {
            let n8 = u8::try_from(n).unwrap();
            due[n] += i64::try_from(sender.rate / 10_000).unwrap();
            while due[n] > 0 {
                let bytes = (sender.batch / 2 + rng.below(sender.batch)).min(MAX_RUN);
                due[n] -= i64::try_from(bytes).unwrap();
                if sender.churns {
                    table.apply(Change::Remove { label: n as u64 });
                    table.apply(forward(n8, Time::from_millis(1_000_000)));
                }
                let step = table.step(now, addr(n8), n as u64, 10, usize::try_from(bytes).unwrap());
                if matches!(step, Step::Forward { .. }) && now >= Time::from_millis(from_ms) {
                    passed[n] += bytes;
                }
            }
        }
        now += Duration::from_micros(100);
    }
    passed.iter().map(|bytes| bytes * 1_000 / (to_ms - from_ms)).collect()
}

/// The bytes a second that each sender gets through in the last 5 of 10 seconds.
fn settled(senders: &[Sender]) -> Vec<u64> {
    passed(&mut table(u8::try_from(senders.len()).unwrap()), senders, 5_000, 10_000)
}

/// The same where all send steadily.
fn shares(offered: &[u64]) -> Vec<u64> {
    settled(&offered.iter().map(|rate| steady(*rate)).collect::<Vec<_>>())
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
    let expected = Stats { packets: 50_000, bytes: 60_000_000, ..Stats::default() };
    assert_eq!(free.stats(), expected);
    assert_eq!(table.stats(), Stats { delivered: 50_000, ..Stats::default() });
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
    assert_eq!((table.len(), table.is_empty()), ((0, 1), true), "an account outlives its labels");
    let Stats { packets, foreign, unknown, expired, .. } = table.stats();
    assert_eq!((packets, foreign, unknown, expired), (2, 1, 1, 1));
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

#[test]
fn a_circuit_with_a_new_label_has_no_old_one() {
    let mut table = table(0);
    let (expires, from, circuit) = (Time::from_millis(10), addr(1), CircuitId(3));
    table.apply(Change::End { label: 1, from, circuit, out: 2, expires });
    table.apply(Change::End { label: 5, from, circuit, out: 6, expires });
    assert_eq!(table.len().0, 1);
    assert_eq!(table.step(Time::ZERO, from, 1, 1, 1), Step::Drop(DropReason::UnknownLabel));
    assert_eq!(table.step(Time::ZERO, from, 5, 1, 1), Step::Deliver(circuit));
    table.apply(Change::Remove { label: 1 });
    assert_eq!(table.out(circuit), Some((from, 6)));
}

#[test]
fn greedy_users_get_equal_shares_whatever_they_offer_and_in_batches_of_whatever_size() {
    let batches = [200, 1_200, 12_000, 40_000, 65_000];
    let offered = [2, 3, 5, 10, 20];
    let senders: Vec<Sender> = batches
        .into_iter()
        .zip(offered)
        .map(|(batch, times)| Sender { batch, ..steady(times * RATE) })
        .collect();
    for (share, batch) in settled(&senders).into_iter().zip(batches) {
        assert_near(share, RATE / 5, &std::format!("in batches of {batch}"));
    }
}

#[test]
fn what_modest_users_leave_is_shared_equally_by_the_greedy_whoever_is_faster() {
    let greedy = Sender { batch: 40_000, ..steady(20 * RATE) };
    let got = settled(&[greedy, steady(RATE / 20), steady(2 * RATE), steady(RATE / 10), steady(RATE)]);
    assert_near(got[1], RATE / 20, "modest");
    assert_near(got[3], RATE / 10, "less modest");
    for share in [got[0], got[2], got[4]] {
        assert_near(share, (RATE - RATE / 20 - RATE / 10) / 3, "greedy");
    }
}

#[test]
fn closing_and_opening_again_gains_nothing() {
    let churning = Sender { churns: true, ..steady(5 * RATE) };
    let got = settled(&[steady(5 * RATE), steady(5 * RATE), churning, churning]);
    for share in got {
        assert_near(share, RATE / 4, "share");
    }
}

#[test]
fn a_modest_user_hardly_notices_a_crowd_that_comes_all_at_once() {
    let mut crowd = vec![Sender { from_ms: 3_000, ..steady(RATE) }; 60];
    crowd[0] = Sender { batch: 1_200, ..steady(RATE / 100) };
    let got = passed(&mut table(60), &crowd, 3_000, 4_000);
    assert_near(got[0], RATE / 100, "modest, in the second in which they come");
    let all: u64 = got.iter().sum();
    assert!(all <= RATE + RATE / 2, "{all} is more than the rate and what was saved up");
}

#[test]
fn what_others_leave_is_used_from_the_first_moment_and_given_back_within_a_second() {
    let late = Sender { from_ms: 4_000, ..steady(5 * RATE) };
    let senders = [steady(5 * RATE), late];
    let before = passed(&mut table(2), &senders, 1_000, 4_000);
    assert_near(before[0], RATE, "alone");
    let after = passed(&mut table(2), &senders, 5_000, 7_000);
    assert_near(after[0], RATE / 2, "the first");
    assert_near(after[1], RATE / 2, "the second");
}

#[test]
fn small_rates_are_kept_over_time_however_often_the_table_is_asked() {
    for rate in [10_000, 150_000] {
        let mut table = LabelTable::new(Limits { bytes_per_second: rate, ..Limits::default() });
        table.apply(forward(0, Time::from_millis(1_000_000)));
        let got = passed(&mut table, &[Sender { batch: 1_200, ..steady(4_000_000) }], 60_000, 160_000);
        assert_near(got[0], rate, "greedy");
    }
    let mut table = LabelTable::new(Limits { bytes_per_second: 0, ..Limits::default() });
    table.apply(forward(0, Time::from_millis(1_000_000)));
    assert_eq!(table.step(Time::ZERO, addr(0), 0, 1, 1), Step::Drop(DropReason::RelayLimit));
}

#[test]
fn what_each_user_had_is_counted() {
    let mut table = LabelTable::new(Limits { bytes_per_second: 1, ..Limits::default() });
    let later = Time::from_millis(1_000_000);
    (0..2).for_each(|n| table.apply(forward(n, later)));
    let mut limited = 0;
    for _ in 0..10 {
        limited +=
            u64::from(table.step(Time::ZERO, addr(0), 0, 2, 60_000) == Step::Drop(DropReason::RelayLimit));
    }
    assert!((1..10).contains(&limited));
    assert!(matches!(table.step(Time::ZERO, addr(1), 1, 1, 0), Step::Forward { .. }));
    let users: Vec<UserStats> = table.users().collect();
    let part = |runs: u64| Traffic { packets: 2 * runs, bytes: 60_000 * runs };
    let first = UserStats { user: user(0), forwarded: part(10 - limited), limited: part(limited) };
    let second = Traffic { packets: 1, bytes: 0 };
    let second = UserStats { user: user(1), forwarded: second, limited: Traffic::default() };
    assert_eq!(users, [first, second]);
    let stats = table.stats();
    assert_eq!((stats.limited, stats.limited_bytes), (2 * limited, 60_000 * limited));
}

#[test]
fn labels_and_users_are_bounded_and_what_has_ended_makes_room() {
    let mut table = LabelTable::new(Limits { circuits: 2, ..Limits::default() });
    for n in 0..10 {
        table.apply(forward(n, Time::from_millis(10)));
        assert!(table.len().0 <= 4 && table.len().1 <= 2, "{n}: {:?}", table.len());
    }
    assert_eq!(table.stats().refused_changes, 8, "one label each, and two users");
    let _ = table.step(Time::from_millis(10), addr(0), 0, 1, 1);
    (20..24).for_each(|n| {
        table.apply(Change::Forward {
            label: n,
            from: addr(1),
            to: addr(2),
            out: n,
            user: user(9),
            expires: Time::from_millis(20),
        })
    });
    assert_eq!((table.len(), table.stats().refused_changes), ((4, 2), 8));
    table.apply(forward(30, Time::from_millis(20)));
    assert_eq!((table.len(), table.stats().refused_changes), ((4, 2), 9));
}

#[test]
fn who_carries_nothing_for_others_still_has_circuits_of_its_own() {
    let mut table = LabelTable::new(Limits::NONE);
    let expires = Time::from_millis(10);
    table.apply(forward(1, expires));
    assert_eq!(table.step(Time::ZERO, addr(1), 1, 1, 1), Step::Drop(DropReason::UnknownLabel));
    for n in 0..10_000 {
        let circuit = CircuitId(n);
        table.apply(Change::End { label: n, from: addr(1), circuit, out: n, expires });
    }
    assert_eq!(table.len(), (MAX_OWN + MAX_ENDED, 0));
    assert_eq!(table.step(Time::ZERO, addr(1), 7, 1, 1), Step::Deliver(CircuitId(7)));
}
