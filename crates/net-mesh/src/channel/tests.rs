//! Promises of the log, in virtual time.

use std::time::Duration;

use net_mesh_proto::id::NodeId;
use net_mesh_proto::rng::Rng;
use tokio::time::Instant;

use super::log::{CREDIT, CursorId, Log, MEMBER_CURSORS, PENDING_WINDOW, RESUME_WINDOW, Resume, Room};
use super::segment::{Events, FULL};

const LIMIT: usize = 100_000;
const STALL: Duration = Duration::from_secs(5);

fn peer(n: u8) -> NodeId {
    NodeId([n; 32])
}

fn remote(n: u8) -> CursorId {
    CursorId::Remote(peer(n), 0)
}

/// Goes on at `next`, with nothing in hand.
fn at(next: u64) -> Option<Resume> {
    Some(Resume { taken: next, next })
}

fn log() -> Log {
    Log::new(LIMIT, STALL, 1)
}

/// The sequence numbers that a cursor is handed now.
fn drain(log: &mut Log, id: CursorId, generation: u64, from: u64) -> Vec<u64> {
    let mut seqs = Vec::new();
    while let Some(segment) = log.next_for(id, generation) {
        let mut events = Events::of(segment, from);
        while let Some((seq, ..)) = events.next() {
            seqs.push(seq);
        }
    }
    seqs
}

/// Publishes until there is no room; returns how many were published.
fn fill(log: &mut Log, now: Instant) -> u64 {
    let mut n = 0;
    while log.room(now, 1024) == Room::Free {
        log.push(0, &[0; 1000]);
        n += 1;
        assert!(n < 1000, "the log has no bound");
    }
    n
}

#[tokio::test(start_paused = true)]
async fn without_subscribers_nothing_is_kept() {
    let (mut log, now) = (log(), Instant::now());
    for seq in 1..=1000 {
        assert_eq!(log.room(now, 1024), Room::Free);
        assert_eq!(log.push(0, &[0; 1000]), seq);
    }
    assert_eq!(log.held(), 0);
    let (generation, first) = log.attach(now, remote(1), 0, None).unwrap();
    assert_eq!(first, 1001, "a new subscriber starts with what comes next");
    log.push(0, b"x");
    assert_eq!(drain(&mut log, remote(1), generation, first), [1001]);
}

#[tokio::test(start_paused = true)]
async fn a_full_log_waits_for_a_subscriber_in_progress_and_loses_nothing() {
    let (mut log, start) = (log(), Instant::now());
    let (generation, first) = log.attach(start, remote(1), 0, None).unwrap();
    let (mut published, mut acked) = (0, first);
    let mut received = Vec::new();
    for step in 1..=20 {
        // Slow, but never silent for as long as the stall time.
        let now = start + step * STALL / 2;
        published += fill(&mut log, now);
        assert!(log.held() <= LIMIT + FULL);
        assert!(matches!(log.room(now, 1024), Room::Full(_)));
        received.extend(drain(&mut log, remote(1), generation, first));
        // Half of what is outstanding is acknowledged.
        acked += (published + 1 - acked).div_ceil(2);
        log.ack(now, remote(1), generation, acked);
    }
    assert_eq!(received, (1..=published).collect::<Vec<_>>());
}

#[tokio::test(start_paused = true)]
async fn a_stopped_subscriber_delays_the_others_once_and_is_told_what_it_lost() {
    let (mut log, start) = (log(), Instant::now());
    let (stopped, _) = log.attach(start, remote(1), 0, None).unwrap();
    let (live, first) = log.attach(start, remote(2), 0, None).unwrap();
    let mut published = fill(&mut log, start);
    let Room::Full(until) = log.room(start, 1024) else { panic!("there is room") };
    assert_eq!(until, start + STALL);
    let mut received = drain(&mut log, remote(2), live, first);
    log.ack(start, remote(2), live, published + 1);
    for _ in 0..500 {
        assert_eq!(log.room(until, 1024), Room::Free, "delayed a second time");
        log.push(0, &[0; 1000]);
        published += 1;
        received.extend(drain(&mut log, remote(2), live, first));
        log.ack(until, remote(2), live, published + 1);
    }
    assert_eq!(received, (1..=published).collect::<Vec<_>>());
    let seqs = drain(&mut log, remote(1), stopped, 0);
    assert_eq!(seqs.last(), Some(&published));
    assert!(seqs[0] > 1 && seqs.len() as u64 == published + 1 - seqs[0], "one gap, at the start");
    log.ack(until, remote(1), stopped, published + 1);
    assert_eq!(log.held(), 0);
}

#[tokio::test(start_paused = true)]
async fn a_subscription_that_comes_back_in_time_goes_on_where_it_was() {
    let (mut log, now) = (log(), Instant::now());
    let (generation, first) = log.attach(now, remote(1), 0, None).unwrap();
    for _ in 0..10 {
        log.push(0, b"event");
    }
    assert_eq!(drain(&mut log, remote(1), generation, first).len(), 10);
    log.ack(now, remote(1), generation, 4);
    log.detach(now, remote(1), generation);
    log.push(0, b"event");
    let later = now + RESUME_WINDOW - Duration::from_millis(1);
    log.expire(later);
    // It holds up to 5 and could not say so.
    let (generation, first) = log.attach(later, remote(1), 0, at(6)).unwrap();
    assert_eq!(first, 6);
    assert_eq!(drain(&mut log, remote(1), generation, first), [6, 7, 8, 9, 10, 11]);
    log.remove(remote(1), generation - 1);
    log.push(0, b"event");
    assert_eq!(drain(&mut log, remote(1), generation, 12), [12], "the end of the old stream is no matter");
}

#[tokio::test(start_paused = true)]
async fn a_subscription_that_comes_back_too_late_sees_the_gap() {
    let (mut log, now) = (log(), Instant::now());
    let (generation, _) = log.attach(now, remote(1), 0, None).unwrap();
    log.detach(now, remote(1), generation);
    log.push(0, b"event");
    log.expire(now + RESUME_WINDOW);
    assert_eq!(log.held(), 0);
    assert_eq!(log.attach(now, remote(1), 0, at(1)).unwrap().1, 2);
}

#[tokio::test(start_paused = true)]
async fn what_is_published_before_an_expected_member_comes_waits_for_it() {
    let (mut log, now) = (log(), Instant::now());
    log.expect(now, peer(1));
    log.push(0, b"early");
    log.push(0, b"bird");
    let (generation, first) = log.attach(now, remote(1), 0, None).unwrap();
    assert_eq!(drain(&mut log, remote(1), generation, first), [1, 2]);
    log.expire(now + Duration::from_secs(2));
    log.expect(now, peer(1));
    log.ack(now, remote(1), generation, 3);
    assert_eq!(log.held(), 0, "it is here: nothing waits besides");

    log.expect(now, peer(2));
    log.push(0, b"never fetched");
    log.ack(now, remote(1), generation, 4);
    log.expire(now + PENDING_WINDOW);
    log.push(0, b"x");
    assert_eq!(drain(&mut log, remote(1), generation, 0), [3, 4]);
    log.ack(now, remote(1), generation, 5);
    assert_eq!(log.held(), 0);
}

#[tokio::test(start_paused = true)]
async fn a_subscriber_is_sent_its_credit_ahead_and_more_when_it_takes_some() {
    let (mut log, now) = (Log::new(4 * CREDIT as usize, STALL, 1), Instant::now());
    let (generation, first) = log.attach(now, remote(1), 0, None).unwrap();
    for _ in 0..8000 {
        log.push(0, &[0; 1000]);
    }
    let mut cost = 0;
    while let Some(segment) = log.next_for(remote(1), generation) {
        cost += segment.cost() as u64;
    }
    assert!((CREDIT..CREDIT + 2 * FULL as u64).contains(&cost), "{cost} bytes were sent");
    log.ack(now, remote(1), generation, 1001);
    let more = drain(&mut log, remote(1), generation, first).len() as u64;
    assert!((980..=1020).contains(&more), "{more} more were sent for 1000 taken");
}

#[tokio::test(start_paused = true)]
async fn a_stopped_subscriber_is_sent_its_credit_and_no_more_however_far_the_log_goes_on() {
    let (mut log, start) = (Log::new(6 << 20, STALL, 1), Instant::now());
    let (stopped, first) = log.attach(start, remote(1), 0, None).unwrap();
    let (live, _) = log.attach(start, remote(2), 0, None).unwrap();
    let (mut sent, mut now) = (0, start);
    for n in 1..=30_000 {
        if let Room::Full(until) = log.room(now, 1024) {
            now = until;
            assert_eq!(log.room(now, 1024), Room::Free);
        }
        log.push(0, &[0; 1000]);
        sent += drain(&mut log, remote(1), stopped, first).len() as u64;
        drain(&mut log, remote(2), live, first);
        log.ack(now, remote(2), live, n + 1);
    }
    assert!(sent * 1003 < CREDIT + 2 * FULL as u64, "{sent} events were sent");
    log.ack(now, remote(1), stopped, sent + 1);
    let more = drain(&mut log, remote(1), stopped, first);
    assert!(more[0] > sent + 1 && more.len() > 1000, "what is left comes once it takes again");
}

#[tokio::test(start_paused = true)]
async fn tiny_segments_are_charged_what_they_cost_to_hold() {
    let (mut log, now) = (Log::new(4 * CREDIT as usize, STALL, 1), Instant::now());
    let (generation, _) = log.attach(now, remote(1), 0, None).unwrap();
    let mut sent = 0;
    for _ in 0..100_000 {
        log.push(0, b"x");
        sent += u64::from(log.next_for(remote(1), generation).is_some());
    }
    // A segment each, as long as there was credit; each one costs its holder some 200 bytes besides its own.
    assert!((CREDIT / 400..CREDIT / 200).contains(&sent), "{sent} segments were sent");
}

#[tokio::test(start_paused = true)]
async fn a_stream_opened_anew_is_no_new_credit() {
    let (mut log, now) = (Log::new(4 * CREDIT as usize, STALL, 1), Instant::now());
    let (mut generation, first) = log.attach(now, remote(1), 1, None).unwrap();
    for _ in 0..8000 {
        log.push(0, &[0; 1000]);
    }
    let sent = drain(&mut log, remote(1), generation, first).len() as u64;
    for attempt in 2..10 {
        log.detach(now, remote(1), generation);
        let resume = Some(Resume { taken: 1, next: sent + 1 });
        let (again, start) = log.attach(now, remote(1), attempt, resume).unwrap();
        assert_eq!(start, sent + 1);
        assert_eq!(drain(&mut log, remote(1), again, start), [0; 0], "attempt {attempt}");
        generation = again;
    }
    log.ack(now, remote(1), generation, 1001);
    let more = drain(&mut log, remote(1), generation, sent + 1);
    assert_eq!(more[0], sent + 1);
    assert!((980..=1020).contains(&more.len()), "{} more were sent for 1000 taken", more.len());
}

#[tokio::test(start_paused = true)]
async fn what_waits_is_pushed_once_and_becomes_the_subscription_that_took_it() {
    let (mut log, now) = (log(), Instant::now());
    let push = CursorId::Push(peer(1), None);
    log.expect(now, peer(1));
    assert!(log.waiting_for(peer(1)).is_empty(), "nothing was published");
    log.push(0, b"one");
    assert_eq!(log.waiting_for(peer(1)), [None]);
    assert!(log.waiting_for(peer(2)).is_empty());
    let (generation, first) = log.begin_push(now, peer(1), None).unwrap();
    assert_eq!(log.begin_push(now, peer(1), None), None, "over one connection at a time");
    assert_eq!(drain(&mut log, push, generation, first), [1]);
    let taken = log.push_taken(now, push, generation, 1, &[7, 8]).unwrap();
    assert_eq!(taken, CursorId::Remote(peer(1), 7));
    log.push(0, b"two");
    assert_eq!(drain(&mut log, taken, generation, first), [2], "it goes on where the push was");
    log.ack(now, taken, generation, 3);
    // The peer's other subscription comes long after; it was named, so it is owed the same.
    let later = now + RESUME_WINDOW - Duration::from_millis(1);
    log.expire(later);
    let (other, first) = log.attach(later, CursorId::Remote(peer(1), 8), 1, None).unwrap();
    assert_eq!(drain(&mut log, CursorId::Remote(peer(1), 8), other, first), [1, 2]);
    assert!(log.waiting_for(peer(1)).is_empty(), "both are here");
}

#[tokio::test(start_paused = true)]
async fn a_push_that_comes_to_nothing_costs_nothing() {
    let (mut log, now) = (log(), Instant::now());
    log.expect(now, peer(1));
    log.push(0, b"one");
    let (generation, first) = log.begin_push(now, peer(1), None).unwrap();
    let push = CursorId::Push(peer(1), None);
    assert_eq!(drain(&mut log, push, generation, first), [1]);
    log.remove(push, generation);
    assert!(log.push_taken(now, push, generation, 1, &[0]).is_none(), "too late");
    let (generation, first) = log.attach(now, remote(1), 2, None).unwrap();
    assert_eq!(drain(&mut log, remote(1), generation, first), [1]);
}

#[tokio::test(start_paused = true)]
async fn of_a_push_and_a_request_that_crossed_the_subscribers_last_word_counts() {
    for request_first in [true, false] {
        let (mut log, now) = (log(), Instant::now());
        log.expect(now, peer(1));
        log.push(0, b"one");
        let push = CursorId::Push(peer(1), None);
        let (pushed, _) = log.begin_push(now, peer(1), None).unwrap();
        assert_eq!(drain(&mut log, push, pushed, 1), [1]);
        // It asked, then took the push.
        if request_first {
            let (asked, _) = log.attach(now, remote(1), 1, None).unwrap();
            assert_eq!(log.push_taken(now, push, pushed, 2, &[0]), Some(remote(1)));
            assert!(log.next_for(remote(1), asked).is_none());
        } else {
            assert_eq!(log.push_taken(now, push, pushed, 2, &[0]), Some(remote(1)));
            assert!(log.attach(now, remote(1), 1, None).is_none());
        }
        log.push(0, b"two");
        assert_eq!(drain(&mut log, remote(1), pushed, 1), [2]);
        // It took the push, then asked on another connection.
        let (asked, first) = log.attach(now, remote(1), 3, at(2)).unwrap();
        assert!(log.next_for(remote(1), pushed).is_none());
        assert_eq!(drain(&mut log, remote(1), asked, first), [2]);
    }
}

#[tokio::test(start_paused = true)]
async fn a_subscription_whose_session_was_closed_is_pushed_what_comes_next() {
    let (mut log, now) = (log(), Instant::now());
    let (generation, _) = log.attach(now, remote(1), 1, None).unwrap();
    log.push(0, b"one");
    assert_eq!(drain(&mut log, remote(1), generation, 1), [1]);
    log.ack(now, remote(1), generation, 2);
    log.push(0, b"two");
    assert!(log.waiting_for(peer(1)).is_empty(), "it is here");
    log.detach(now, remote(1), generation);
    assert_eq!(log.waiting_for(peer(1)), [Some(0)]);
    let (generation, first) = log.begin_push(now, peer(1), Some(0)).unwrap();
    let push = CursorId::Push(peer(1), Some(0));
    assert_eq!((first, drain(&mut log, push, generation, first)), (2, vec![2]));
    assert_eq!(log.push_taken(now, push, generation, 2, &[0]), Some(remote(1)));
    assert!(log.waiting_for(peer(1)).is_empty());
    log.ack(now, remote(1), generation, 3);
    assert_eq!(log.held(), 0);
}

#[tokio::test(start_paused = true)]
async fn a_member_has_its_share_of_places_and_leaves_the_rest_to_others() {
    let (mut log, now) = (log(), Instant::now());
    let many = |n: u8| (0..10_000).map(move |s| CursorId::Remote(peer(n), s));
    let got = many(1).filter(|id| log.attach(now, *id, 1, None).is_some()).count();
    assert_eq!(got, MEMBER_CURSORS);
    assert!(log.attach(now, CursorId::Remote(peer(1), 0), 2, at(1)).is_some(), "what it has it keeps");
    assert!(log.attach(now, remote(2), 1, None).is_some());
    log.expect(now, peer(3));
    log.push(0, b"x");
    let (generation, _) = log.begin_push(now, peer(3), None).unwrap();
    let all: Vec<u64> = (0..1024).collect();
    assert!(log.push_taken(now, CursorId::Push(peer(3), None), generation, 1, &all).is_some());
    let more = many(3).filter(|id| log.attach(now, *id, 1, None).is_some()).count();
    assert_eq!(more, MEMBER_CURSORS, "taking a push is no way round it");
}

/// A subscriber of the model: what it holds, and how far it has got.
struct Model {
    id: CursorId,
    generation: Option<u64>,
    attempt: u64,
    next: u64,
    missed: u64,
    got: u64,
}

#[tokio::test(start_paused = true)]
async fn whatever_happens_each_event_arrives_once_in_order_or_is_counted_as_missed() {
    let mut pushed = 0;
    for seed in 0..300 {
        let mut rng = Rng::from_u64(seed);
        let (mut log, mut now) = (Log::new(20_000, STALL, 1), Instant::now());
        let mut model: Vec<Model> = (1..=3)
            .map(|n| {
                let (generation, next) = log.attach(now, remote(n), 0, None).unwrap();
                Model { id: remote(n), generation: Some(generation), attempt: 0, next, missed: 0, got: 0 }
            })
            .collect();
        let mut published = 0;
        for _ in 0..400 {
            let who = usize::try_from(rng.below(3)).unwrap();
            let one = &mut model[who];
            match rng.below(11) {
                0..4 => {
                    let payload = vec![0; usize::try_from(rng.below(3000)).unwrap()];
                    if log.room(now, payload.len() + 32) == Room::Free {
                        log.push(0, &payload);
                        published += 1;
                    }
                }
                4..7 => receive(&mut log, now, one, rng.chance(0.5)),
                7 => {
                    if let Some(generation) = one.generation.take() {
                        log.detach(now, one.id, generation);
                    }
                }
                8 => {
                    one.attempt += 1;
                    let (generation, _) = log.attach(now, one.id, one.attempt, at(one.next)).unwrap();
                    one.generation = Some(generation);
                }
                9 if one.generation.is_none() => {
                    pushed += u32::from(offer(&mut log, now, one, rng.chance(0.7)));
                }
                _ => {
                    now += Duration::from_millis(rng.below(8000));
                    log.expire(now);
                }
            }
            assert!(log.held() <= 20_000 + FULL, "seed {seed}: {} bytes held", log.held());
        }
        for one in &mut model {
            let (generation, _) = log.attach(now, one.id, u64::MAX, at(one.next)).unwrap();
            one.generation = Some(generation);
            receive(&mut log, now, one, true);
            assert_eq!(one.got + one.missed, published, "seed {seed}: {:?}", one.id);
        }
        assert_eq!(log.held(), 0, "seed {seed}");
    }
    assert!(pushed > 300, "{pushed} pushes were taken");
}

/// Pushes to a subscriber that is away; whether it took that.
fn offer(log: &mut Log, now: Instant, one: &mut Model, willing: bool) -> bool {
    let CursorId::Remote(peer, subscription) = one.id else { panic!("not a subscription") };
    let Some((generation, first)) = log.begin_push(now, peer, Some(subscription)) else { return false };
    let (id, push) = (one.id, CursorId::Push(peer, Some(subscription)));
    if !willing || first != one.next {
        log.remove(push, generation);
        return false;
    }
    (one.id, one.generation) = (push, Some(generation));
    receive(log, now, one, false);
    one.id = id;
    one.attempt += 1;
    assert_eq!(log.push_taken(now, push, generation, one.attempt, &[subscription]), Some(id));
    true
}

fn receive(log: &mut Log, now: Instant, one: &mut Model, ack: bool) {
    let Some(generation) = one.generation else { return };
    while let Some(segment) = log.next_for(one.id, generation) {
        let (first, end) = (segment.first, segment.end());
        if end <= one.next {
            continue;
        }
        one.missed += first.saturating_sub(one.next);
        let mut events = Events::of(segment, one.next);
        let mut expected = first.max(one.next);
        while let Some((seq, ..)) = events.next() {
            assert_eq!(seq, expected);
            expected += 1;
            one.got += 1;
        }
        one.next = end;
    }
    if ack {
        log.ack(now, one.id, generation, one.next);
    }
}
