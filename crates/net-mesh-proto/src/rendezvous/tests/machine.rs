//! The life of attempts: crossing ones, retries, rests, fresh starts, records.

use alloc::vec::Vec;

use super::super::*;
use super::model::{PORT_RESTRICTED, RESTRICTED, SYMMETRIC, World, millis, secs};
use crate::reflex::stun;

/// Two nodes that could meet: the lower id first.
fn two(seed: u64) -> (World, usize, usize) {
    let mut world = World::seeded(seed);
    let (a, b) = (world.add(PORT_RESTRICTED, millis(5)), world.add(PORT_RESTRICTED, millis(20)));
    if world.nodes[a].id < world.nodes[b].id { (world, a, b) } else { (world, b, a) }
}

fn plans(world: &World, n: usize) -> Vec<Plan> {
    world.nodes[n].ended.iter().map(|attempt| attempt.plan).collect()
}

#[test]
fn when_both_ask_at_once_both_keep_the_attempt_of_the_lower_id() {
    let (mut world, low, high) = two(1);
    world.want(low, high);
    world.want(high, low);
    world.run_for(secs(5));
    assert!(!world.nodes[low].found.is_empty() && !world.nodes[high].found.is_empty());
    let kept = world.nodes[low].ended.iter().find(|a| a.seeker).unwrap();
    assert!(matches!(kept.outcome, Some(Outcome::Found { .. })));
    let of_high: Vec<(u128, bool)> = world.nodes[high].ended.iter().map(|a| (a.id, a.seeker)).collect();
    assert_eq!(of_high.len(), 2);
    assert_eq!(of_high[1], (kept.id, false), "{of_high:?}");
    assert_eq!(world.nodes[high].ended[0].outcome, Some(Outcome::Superseded));
    assert_eq!(world.nodes[low].drops.of(DropReason::Refused), 1);
}

/// A pair whose packets never arrive.
fn apart(seed: u64) -> (World, usize, usize) {
    let (mut world, a, b) = two(seed);
    world.loss = 1.0;
    (world, a, b)
}

#[test]
fn a_failed_attempt_is_followed_by_another_plan_and_mediator_and_then_by_a_growing_rest() {
    let (mut world, a, b) = apart(1);
    world.want(a, b);
    world.run_for(secs(20));
    assert_eq!(plans(&world, a), [Plan::FireTogether, Plan::SeekerFirst, Plan::SoughtFirst]);
    let mediators: Vec<_> = world.nodes[a].ended.iter().map(|attempt| attempt.mediator).collect();
    assert!(mediators[0].is_some() && mediators[0] != mediators[1], "{mediators:?}");
    world.run_for(secs(7_200));
    let ended = &world.nodes[a].ended;
    let rests: Vec<Duration> = ended.windows(2).map(|two| two[1].began - two[0].ended.unwrap()).collect();
    let (between, rounds): (Vec<_>, Vec<_>) = rests.into_iter().zip(1..).partition(|(_, n)| n % 3 != 0);
    assert!(between.iter().all(|(rest, _)| *rest < secs(1)), "{between:?}");
    for ((rest, _), doublings) in rounds.iter().zip(0..) {
        let least = (MIN_REST * (1 << doublings)).min(MAX_REST);
        assert!((least..=least.mul_f64(1.25) + millis(100)).contains(rest), "{doublings}: {rest:?}");
    }
    assert!((8..20).contains(&rounds.len()), "two hours cost few rounds: {rounds:?}");
    assert!(ended.chunks_exact(3).all(|round| round[0].plan == Plan::FireTogether), "best first");
}

#[test]
fn only_the_last_attempts_are_kept_and_each_says_why() {
    let (mut world, a, b) = apart(1);
    world.want(a, b);
    world.run_for(secs(3_600));
    let peer = world.nodes[b].id;
    let history = world.nodes[a].machine.history(&peer).unwrap();
    assert_eq!(history.attempts().count(), HISTORY);
    assert!(history.rests_until() > world.now);
    for attempt in history.attempts() {
        assert!(attempt.sent > 0 && attempt.heard == 0 && !attempt.theirs.is_empty());
        assert!(attempt.reason().starts_with("None of the"), "{}", attempt.reason());
    }
}

#[test]
fn both_sides_and_the_mediator_tell_of_an_attempt_once() {
    let (mut world, a, b) = two(1);
    world.want(a, b);
    world.run_for(secs(30));
    let (of_a, of_b) = (&world.nodes[a].ended, &world.nodes[b].ended);
    assert_eq!((of_a.len(), of_b.len(), world.nodes[0].introduced + world.nodes[1].introduced), (1, 1, 1));
    assert_eq!((of_a[0].id, of_a[0].plan, of_a[0].mediator), (of_b[0].id, of_b[0].plan, of_b[0].mediator));
    assert!(of_a[0].seeker && !of_b[0].seeker);
    assert_eq!((&of_a[0].own, &of_a[0].theirs), (&of_b[0].theirs, &of_b[0].own));
    assert!(of_a[0].reason().contains("was answered after"), "{}", of_a[0].reason());
}

#[test]
fn a_change_on_either_side_ends_the_rest() {
    for own in [true, false] {
        let (mut world, a, b) = apart(1);
        world.want(a, b);
        world.run_for(secs(30));
        let (now, peer) = (world.now, world.nodes[b].id);
        assert!(world.nodes[a].machine.history(&peer).unwrap().rests_until() > now + secs(30));
        world.loss = 0.0;
        world.act(a, |m, _, _| if own { m.own_changed(now) } else { m.member_changed(now, peer) });
        world.run_for(secs(1));
        assert!(!world.nodes[a].found.is_empty());
        assert_eq!(plans(&world, a).last(), Some(&Plan::FireTogether), "from the first plan on");
    }
}

#[test]
fn who_insists_all_the_time_makes_the_two_try_at_once_and_then_ever_more_rarely() {
    let (mut world, a, b) = apart(1);
    let peer = world.nodes[b].id;
    world.want(a, b);
    world.run_for(secs(20));
    assert_eq!(plans(&world, a).len(), 3);
    for _ in 0..600 {
        let now = world.now;
        world.act(a, |machine, _, _| machine.insist(now, &peer));
        world.run_for(secs(1));
    }
    // At once, and after 30, 90, 210 and 450 seconds; and the rest of 130 s and more after each is what there was before.
    let rounds = plans(&world, a).len().div_ceil(3);
    assert!((6..=9).contains(&rounds), "{rounds} rounds");
    world.loss = 0.0;
    world.run_for(secs(600));
    let (now, found) = (world.now, world.nodes[a].found.len());
    assert!(found > 0);
    world.act(a, |machine, _, _| {
        machine.succeeded(&peer);
        machine.insist(now, &peer);
    });
    assert!(world.nodes[a].machine.history(&peer).unwrap().rests_until() <= now, "a new matter");
}

#[test]
fn a_hopeless_pair_is_tried_when_it_is_hopeless_no_longer() {
    let mut world = World::seeded(1);
    let (a, b) = (world.add(SYMMETRIC, millis(5)), world.add(SYMMETRIC, millis(5)));
    let peer = world.nodes[b].id;
    world.want(a, b);
    world.run_for(secs(60));
    assert!(world.nodes[a].machine.history(&peer).is_some() && world.nodes[a].ended.is_empty());
    world.give_ipv6(a);
    world.give_ipv6(b);
    world.run_for(secs(1));
    assert!(!world.nodes[a].found.is_empty());
}

#[test]
fn a_mediator_that_does_not_help_costs_no_plan() {
    // One that has no session with the sought one, and one that says nothing.
    for silent in [false, true] {
        let (mut world, a, b) = two(1);
        let peer = world.nodes[b].id;
        if silent {
            world.nodes[0].mute = true;
        } else {
            world.nodes[0].sessions.remove(&peer);
        }
        world.nodes[a].mediators = Vec::from([0, 1]);
        world.want(a, b);
        world.run_for(secs(5));
        let ended = &world.nodes[a].ended;
        let expected = if silent { Outcome::Unanswered } else { Outcome::Declined(Decline::NoSession) };
        assert_eq!(ended[0].outcome, Some(expected));
        assert_eq!(ended[0].sent, 0);
        assert_eq!((ended[1].plan, ended[1].mediator), (ended[0].plan, Some(world.nodes[1].id)));
        assert!(!world.nodes[a].found.is_empty());
    }
}

#[test]
fn mediators_that_never_help_are_asked_less_and_less() {
    let (mut world, a, b) = two(1);
    let peer = world.nodes[b].id;
    for public in 0..2 {
        world.nodes[public].sessions.remove(&peer);
    }
    world.want(a, b);
    world.run_for(secs(3_600));
    let asked = world.nodes[a].ended.len();
    assert!((8..25).contains(&asked), "{asked}");
}

#[test]
fn every_plan_of_a_long_list_is_tried_before_a_rest() {
    let (mut world, a, b) = apart(1);
    world.give_ipv6(a);
    world.give_ipv6(b);
    world.want(a, b);
    world.run_for(secs(30));
    let all = [Plan::FireTogether, Plan::SeekerFirst, Plan::SoughtFirst, Plan::OverIpv6];
    assert_eq!(plans(&world, a), all);
}

#[test]
fn a_plan_that_comes_round_again_meets_another_mediator() {
    let mut world = World::seeded(1);
    let (a, b) = (world.add(SYMMETRIC, millis(5)), world.add(RESTRICTED, millis(5)));
    world.loss = 1.0;
    world.want(a, b);
    world.run_for(secs(30));
    let tried: Vec<_> = world.nodes[a].ended.iter().map(|a| (a.plan, a.mediator)).collect();
    assert_eq!((tried.len(), tried[0].0), (3, tried[2].0));
    assert_ne!(tried[0].1, tried[2].1);
}

#[test]
fn a_private_address_that_answers_a_little_later_is_the_better_one() {
    let mut world = World::seeded(1);
    let a = world.add(PORT_RESTRICTED, millis(5));
    let b = world.add_beside(a, millis(5));
    let (now, peer) = (world.now, world.nodes[b].id);
    let (public, private) = (world.addr(0), world.addr(b));
    let intro = wire::Introduction {
        attempt: 5,
        peer,
        to_seeker: false,
        plan: Plan::LocalFirst,
        verdict: world.nodes[b].record.verdict,
        candidates: Vec::from([private, public, world.reflexive(b)]),
        key: [7; 32],
        fire_in_ms: 0,
        span_ms: 10,
    };
    let from = world.nodes[1].id;
    world.act(a, |m, view, out| {
        m.handle(now, from, Message::Introduction(intro), view, out);
        m.handle_timeout(now, out);
    });
    world.run_for(millis(20));
    let txid_to = |world: &World, to: SocketAddr| {
        let (.., sent) = world.sent.iter().find(|(.., sent)| sent.to == to).unwrap();
        match stun::Message::parse(&sent.bytes) {
            Ok(stun::Message::BindingRequest(request)) => request.txid,
            other => panic!("{other:?}"),
        }
    };
    let own = world.reflexive(a);
    for to in [public, private, public] {
        let answer = stun::check_response(txid_to(&world, to), own, &[7; 32]);
        world.inject(a, to, &answer);
    }
    let found: Vec<SocketAddr> = world.nodes[a].found.iter().map(|(_, addr)| *addr).collect();
    assert_eq!(found, [public, private]);
    let sent = world.sent_by(a);
    world.run_for(secs(5));
    assert_eq!(world.sent_by(a), sent, "nothing is sent after the best has been found");
    let history = world.nodes[a].machine.history(&peer).unwrap();
    assert_eq!((history.attempts().count(), world.nodes[a].ended.len()), (1, 1));
    let last = history.attempts().last().unwrap();
    assert!(matches!(last.outcome, Some(Outcome::Found { addr, .. }) if addr == private), "{last:?}");
}

#[test]
fn what_is_found_stops_the_checks() {
    let (mut world, a, b) = two(1);
    world.want(a, b);
    let end = world.now + secs(2);
    assert!(world.run_until(end, |w| !w.nodes[a].found.is_empty() && !w.nodes[b].found.is_empty()));
    let sent = world.sent.len();
    world.run_for(secs(20));
    assert!(world.sent.len() <= sent + 4, "answers to what is on its way, and no more");
    assert_eq!(world.nodes[a].machine.sizes().0 + world.nodes[b].machine.sizes().0, 0);
}

#[test]
fn own_attempts_under_way_are_bounded() {
    let mut world = World::seeded(1);
    let a = world.add(PORT_RESTRICTED, millis(5));
    let others = world.add_public(40);
    let now = world.now;
    for peer in others {
        world.act(a, |m, view, out| m.seek(now, peer, view, out));
    }
    assert_eq!(world.nodes[a].machine.sizes().0, MAX_SEEKING);
}

#[test]
fn a_peer_that_leaves_is_forgotten_with_its_attempts() {
    let (mut world, a, b) = apart(1);
    world.want(a, b);
    world.run_for(millis(500));
    let peer = world.nodes[b].id;
    assert!(world.nodes[a].machine.under_way(&peer).is_some());
    world.act(a, |m, _, _| m.forget(&peer));
    assert!(world.nodes[a].machine.under_way(&peer).is_none());
    assert!(world.nodes[a].machine.history(&peer).is_none());
    assert_eq!(world.nodes[a].machine.poll_timeout(), None);
}

#[test]
fn the_same_seed_sends_the_same_bytes() {
    let run = |seed| {
        let (mut world, a, b) = two(seed);
        world.loss = 0.3;
        world.want(a, b);
        world.run_for(secs(600));
        world.sent
    };
    assert_eq!(run(5), run(5));
    assert_ne!(run(5), run(6));
}

proptest::proptest! {
    #[test]
    fn arbitrary_bytes_never_panic_and_send_nothing(
        bytes in proptest::collection::vec(proptest::prelude::any::<u8>(), 0..300),
        attempt in 0..3_u128,
    ) {
        let (mut world, a, b) = two(1);
        let (now, from) = (world.now, world.addr(0));
        let (sender, peer) = (world.nodes[0].id, world.nodes[b].id);
        for kind in [wire::Kind::Seek, wire::Kind::Introduction, wire::Kind::Declined] {
            if let Ok(message) = Message::decode(kind, &bytes) {
                world.act(a, |m, view, out| m.handle(now, sender, message, view, out));
            }
        }
        world.act(a, |m, view, out| m.seek(now, peer, view, out));
        let before = world.sent.len();
        let name = stun::CheckName { attempt, by_seeker: true };
        world.act(a, |m, _, out| {
            m.handle_check(now, from, (attempt, name), &bytes, out);
            m.handle_answer(now, from, attempt, &bytes, out);
        });
        proptest::prop_assert_eq!(world.sent.len(), before);
        proptest::prop_assert_eq!(world.nodes[a].machine.sizes().0, 1);
    }
}
