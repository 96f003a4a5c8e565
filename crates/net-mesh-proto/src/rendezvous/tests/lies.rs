//! Wrong input: forged and repeated introductions, false addresses and times, floods, wrong keys.

use alloc::collections::BTreeMap;
use alloc::vec::Vec;
use core::net::{IpAddr, Ipv4Addr, SocketAddr};
use core::time::Duration;

use super::super::*;
use super::model::{PORT_RESTRICTED, World, millis, secs, verdict};
use crate::membership::MAX_CANDIDATES;
use crate::reflex::stun::{self, CheckName};

/// The mediator that lies, by number; 0 is an honest one.
const LIAR: usize = 1;

fn victim(port: u16) -> SocketAddr {
    SocketAddr::new(Ipv4Addr::new(192, 0, 2, 99).into(), port)
}

/// Two nodes that could meet: the lower id first.
fn two(seed: u64) -> (World, usize, usize) {
    let mut world = World::seeded(seed);
    let (a, b) = (world.add(PORT_RESTRICTED, millis(5)), world.add(PORT_RESTRICTED, millis(20)));
    if world.nodes[a].id < world.nodes[b].id { (world, a, b) } else { (world, b, a) }
}

fn introduction(attempt: u128, peer: NodeId, candidates: &[SocketAddr]) -> Introduction {
    Introduction {
        attempt,
        peer,
        to_seeker: false,
        plan: Plan::FireTogether,
        verdict: verdict(PORT_RESTRICTED),
        candidates: candidates.to_vec(),
        key: [7; 32],
        fire_in_ms: 0,
        span_ms: 10,
    }
}

/// `b` is told by the liar that `a` is looking for it.
fn told(world: &mut World, b: usize, intro: Introduction) {
    world.say(LIAR, b, Message::Introduction(intro));
    world.run_for(millis(50));
}

/// The most datagrams sent to one address, and to one host, within any of the windows that begin with one of them.
fn worst(world: &World, chosen: impl Fn(&SocketAddr) -> bool) -> (usize, usize) {
    let sent: Vec<(Time, SocketAddr)> =
        world.sent.iter().map(|(_, at, t)| (*at, t.to)).filter(|(_, to)| chosen(to)).collect();
    let mut worst = (0, 0);
    for (n, (begin, _)) in sent.iter().enumerate().step_by(97) {
        let mut addresses: BTreeMap<SocketAddr, usize> = BTreeMap::new();
        let mut hosts: BTreeMap<IpAddr, usize> = BTreeMap::new();
        for (_, to) in sent[n..].iter().take_while(|(at, _)| *at - *begin < WINDOW) {
            *addresses.entry(*to).or_default() += 1;
            *hosts.entry(to.ip()).or_default() += 1;
        }
        worst.0 = worst.0.max(addresses.into_values().max().unwrap_or(0));
        worst.1 = worst.1.max(hosts.into_values().max().unwrap_or(0));
    }
    worst
}

#[test]
fn an_introduction_that_was_not_asked_for_sends_nothing_to_a_seeker() {
    let (mut world, a, b) = two(1);
    let peer = world.nodes[b].id;
    let forged = Introduction { to_seeker: true, ..introduction(5, peer, &[victim(1)]) };
    told(&mut world, a, forged.clone());
    assert_eq!(world.nodes[a].drops.of(DropReason::UnknownTransaction), 1);
    // Nor where another mediator was asked, even if the number were known.
    world.want(a, b);
    world.run_for(millis(1));
    let asked = world.nodes[a].machine.under_way(&peer).unwrap();
    assert_eq!(asked.mediator, Some(world.nodes[0].id));
    let attempt = asked.id;
    let now = world.now;
    let from = world.nodes[LIAR].id;
    world.act(a, |m, view, out| {
        m.handle(now, from, Message::Introduction(Introduction { attempt, ..forged }), view, out);
        m.handle(now, from, Message::Declined { attempt, why: Decline::Busy }, view, out);
    });
    assert_eq!(world.nodes[a].drops.of(DropReason::UnknownTransaction), 3);
    world.run_for(secs(5));
    assert_eq!(world.sent_to(victim(1)), 0);
    assert!(!world.nodes[a].found.is_empty(), "what was really asked for goes on");
}

#[test]
fn a_mediator_cannot_introduce_another_than_was_asked_for() {
    let (mut world, a, b) = two(1);
    let third = world.add(PORT_RESTRICTED, millis(5));
    world.want(a, b);
    world.run_for(millis(1));
    let (peer, other) = (world.nodes[b].id, world.nodes[third].id);
    let attempt = world.nodes[a].machine.under_way(&peer).unwrap().id;
    let forged = Introduction { to_seeker: true, ..introduction(attempt, other, &[victim(1)]) };
    let (now, from) = (world.now, world.nodes[0].id);
    world.act(a, |m, view, out| m.handle(now, from, Message::Introduction(forged), view, out));
    assert_eq!(world.nodes[a].drops.of(DropReason::UnknownTransaction), 1);
}

#[test]
fn an_introduction_counts_once() {
    let (mut world, a, b) = two(1);
    let intro = introduction(5, world.nodes[a].id, &[victim(1)]);
    told(&mut world, b, intro.clone());
    world.run_for(secs(10));
    let sent = world.sent_to(victim(1));
    assert!(sent > 0);
    told(&mut world, b, intro.clone());
    world.run_for(secs(120));
    told(&mut world, b, intro);
    world.run_for(secs(10));
    assert_eq!(world.sent_to(victim(1)), sent);
    assert_eq!(world.nodes[b].drops.of(DropReason::Refused), 2);
}

#[test]
fn a_stranger_or_oneself_cannot_be_introduced() {
    let (mut world, _, b) = two(1);
    told(&mut world, b, introduction(5, NodeId([42; 32]), &[victim(1)]));
    let own = world.nodes[b].id;
    told(&mut world, b, introduction(6, own, &[victim(1)]));
    world.run_for(secs(10));
    assert_eq!((world.sent_by(b), world.nodes[b].drops.of(DropReason::Refused)), (0, 2));
}

#[test]
fn a_mediator_that_names_one_address_over_and_over_has_a_few_packets_sent_there() {
    let (mut world, _, b) = two(1);
    let others = world.add_public(40);
    for round in 0..900_u32 {
        let peer = others[usize::try_from(round).unwrap() % others.len()];
        told(&mut world, b, introduction(u128::from(round), peer, &[victim(53)]));
        world.run_for(millis(150));
    }
    let (at_one, _) = worst(&world, |to| *to == victim(53));
    assert!(at_one <= usize::try_from(PER_ADDRESS).unwrap(), "{at_one}");
    assert!(world.sent_to(victim(53)) > usize::try_from(PER_ADDRESS).unwrap(), "the allowance comes back");
    assert!(world.nodes[b].drops.of(DropReason::RateLimited) > 0);
}

#[test]
fn a_mediator_that_names_all_ports_of_a_host_does_not_have_it_flooded_either() {
    let (mut world, _, b) = two(1);
    let others = world.add_public(40);
    let count = u32::try_from(MAX_CANDIDATES).unwrap();
    for round in 0..600_u32 {
        let ports = (0..count).map(|n| 1 + u16::try_from((round * count + n) % 60_000).unwrap());
        let candidates: Vec<SocketAddr> = ports.map(victim).collect();
        let peer = others[usize::try_from(round).unwrap() % others.len()];
        told(&mut world, b, introduction(u128::from(round), peer, &candidates));
        world.run_for(millis(150));
    }
    let (_, at_host) = worst(&world, |to| to.ip() == victim(1).ip());
    // A window may begin in the middle of the one that the node counts in.
    assert!(at_host <= 2 * usize::try_from(PER_IP).unwrap(), "{at_host}");
    let (active, counted) = world.nodes[b].machine.sizes();
    assert!(active <= MAX_SEEKING + MAX_SOUGHT && counted <= MAX_ADDRESSES);
}

#[test]
fn false_times_delay_the_first_packet_by_two_seconds_at_most() {
    let (mut world, a, b) = two(1);
    let late = Introduction {
        fire_in_ms: u16::MAX,
        span_ms: u16::MAX,
        ..introduction(5, world.nodes[a].id, &[victim(1)])
    };
    told(&mut world, b, Introduction { plan: Plan::SeekerFirst, ..late });
    let told_at = world.now;
    world.run_for(secs(100));
    let (first, last) = (world.sent.first().unwrap().1, world.sent.last().unwrap().1);
    assert!(first - told_at <= MAX_DELAY + millis(250), "{:?}", first - told_at);
    assert!(last - first <= secs(3));
    assert_eq!(world.nodes[b].machine.sizes().0, 0, "and it ends");
}

#[test]
fn nobody_is_sent_anything_at_addresses_that_are_not_meant_for_strangers() {
    let (mut world, a, b) = two(1);
    let own = world.reflexive(b);
    let bad: Vec<SocketAddr> = [
        "127.0.0.1:7000",
        "0.0.0.0:7000",
        "224.0.0.1:7000",
        "255.255.255.255:7000",
        "169.254.1.1:7000",
        "[::1]:7000",
        "[ff02::1]:7000",
        "203.0.113.200:0",
    ]
    .iter()
    .map(|text| text.parse().unwrap())
    .chain([own, world.addr(b)])
    .collect();
    let peer = world.nodes[a].id;
    told(&mut world, b, introduction(5, peer, &bad));
    world.run_for(secs(10));
    assert_eq!(world.sent_by(b), 0, "{:?}", world.sent);
}

#[test]
fn a_flood_of_requests_is_declined_and_the_sought_hear_little_of_it() {
    let (mut world, a, b) = two(1);
    let third = world.add(PORT_RESTRICTED, millis(5));
    let target = world.nodes[b].id;
    let seek = |attempt| {
        let (verdict, candidates) = (verdict(PORT_RESTRICTED), Vec::from([victim(1)]));
        Message::Seek(Seek { attempt, target, plan: Plan::FireTogether, verdict, candidates })
    };
    for n in 0..2_000 {
        world.say(a, 0, seek(n));
        world.run_for(millis(10));
    }
    // 16 at once, one a second for twenty seconds.
    let introduced = world.nodes[0].introduced;
    assert!((16..=16 + 21).contains(&introduced), "{introduced}");
    let declined = world.nodes[a].heard.iter().filter(|(_, m)| matches!(m, Message::Declined { .. }));
    assert!(declined.count() > 1_800);
    let (at_one, _) = worst(&world, |to| *to == victim(1));
    assert!(at_one <= usize::try_from(PER_ADDRESS).unwrap());
    // Somebody else is introduced to the same node by the same mediator all the while.
    world.want(third, b);
    let end = world.now + secs(1);
    assert!(world.run_until(end, |world| !world.nodes[third].found.is_empty()));
}

#[test]
fn what_a_mediator_cannot_do_it_declines() {
    let (mut world, a, _) = two(1);
    let (own, public) = (world.nodes[a].id, world.nodes[1].id);
    for (n, target) in [NodeId([42; 32]), own, world.nodes[0].id].into_iter().enumerate() {
        let (verdict, candidates) = (verdict(PORT_RESTRICTED), Vec::new());
        let attempt = u128::try_from(n).unwrap();
        let seek = Seek { attempt, target, plan: Plan::FireTogether, verdict, candidates };
        world.say(a, 0, Message::Seek(seek));
    }
    world.nodes[0].sessions.remove(&public);
    world.run_for(secs(1));
    let heard = &world.nodes[a].heard;
    assert_eq!(heard.len(), 3);
    assert!(heard.iter().all(|(_, m)| matches!(m, Message::Declined { why: Decline::NoSession, .. })));
}

/// `b` expects checks of attempt 5, signed with [7; 32], from someone that is nowhere.
fn expecting() -> (World, usize) {
    let (mut world, a, b) = two(1);
    let peer = world.nodes[a].id;
    told(&mut world, b, Introduction { plan: Plan::Dial, ..introduction(5, peer, &[]) });
    assert_eq!((world.sent_by(b), world.nodes[b].machine.sizes().0), (0, 1));
    (world, b)
}

const SEEKERS: CheckName = CheckName { attempt: 5, by_seeker: true };

#[test]
fn a_check_with_a_wrong_key_name_or_side_is_dropped_in_silence_and_counted() {
    let (mut world, b) = expecting();
    let unsigned = stun::binding_request(3, None);
    assert!(!stun::is_signed(&unsigned, &[7; 32]));
    world.inject(b, victim(1), &stun::check_request(1, SEEKERS, &[8; 32]));
    world.inject(b, victim(1), &stun::check_request(2, CheckName { by_seeker: false, ..SEEKERS }, &[7; 32]));
    world.inject(b, victim(0), &stun::check_request(3, SEEKERS, &[7; 32]));
    assert_eq!(world.nodes[b].drops.of(DropReason::BadAuthentication), 3);
    world.inject(b, victim(1), &stun::check_request(4, CheckName { attempt: 6, ..SEEKERS }, &[7; 32]));
    world.run_for(secs(10));
    assert_eq!(world.sent_by(b), 0, "one of an unknown attempt is nothing to this machine");
}

#[test]
fn a_genuine_check_is_answered_where_it_came_from_and_checked_once_in_return() {
    let (mut world, b) = expecting();
    let check = stun::check_request(1, SEEKERS, &[7; 32]);
    let mapped: SocketAddr = "[::ffff:192.0.2.99]:4444".parse().unwrap();
    world.inject(b, mapped, &check);
    let (answer, triggered) = (&world.sent[0].2, &world.sent[1].2);
    assert_eq!((answer.to, triggered.to), (victim(4444), victim(4444)), "one form for one address");
    assert!(answer.bytes.len() <= check.len() && stun::is_signed(&answer.bytes, &[7; 32]));
    for txid in 2..10 {
        world.inject(b, victim(4444), &stun::check_request(txid, SEEKERS, &[7; 32]));
    }
    world.run_for(secs(10));
    assert_eq!(world.sent_to(victim(4444)), 9 + 3, "nine answers, and one check in three copies");
}

#[test]
fn a_repeated_check_moves_nothing_wherever_it_comes_from() {
    let (mut world, b) = expecting();
    let check = stun::check_request(1, SEEKERS, &[7; 32]);
    world.inject(b, victim(4444), &check);
    world.run_for(secs(1));
    let sent = world.sent.len();
    (0..1_000).for_each(|port| world.inject(b, victim(port), &check));
    world.run_for(secs(1));
    assert_eq!(world.sent.len(), sent);
    assert_eq!(world.nodes[b].drops.of(DropReason::UnknownTransaction), 1_000 - 1);
    assert_eq!(world.nodes[b].drops.of(DropReason::BadAuthentication), 1, "the one from port 0");
}

#[test]
fn whoever_has_the_key_gets_no_more_out_of_it_than_an_honest_side_would() {
    let (mut world, b) = expecting();
    for n in 0..2_000_u16 {
        world.inject(b, victim(n + 1), &stun::check_request(u128::from(n), SEEKERS, &[7; 32]));
    }
    world.run_for(secs(10));
    assert!(world.sent.len() <= MAX_HEARD + 3 * MAX_TRIGGERED, "{}", world.sent.len());
}

#[test]
fn an_answer_counts_only_from_where_it_was_asked_and_with_the_key() {
    let (mut world, a, b) = two(1);
    let peer = world.nodes[a].id;
    told(&mut world, b, introduction(5, peer, &[victim(1)]));
    let check = world.sent.iter().find(|(.., t)| t.to == victim(1)).unwrap().2.clone();
    let Ok(stun::Message::BindingRequest(request)) = stun::Message::parse(&check.bytes) else { panic!() };
    let own = world.reflexive(b);
    let genuine = stun::check_response(request.txid, own, &[7; 32]);
    world.inject(b, victim(2), &genuine);
    world.inject(b, victim(1), &stun::check_response(request.txid, own, &[8; 32]));
    world.inject(b, victim(1), &stun::binding_response(request.txid, own, true));
    assert_eq!(world.nodes[b].drops.of(DropReason::BadAuthentication), 3);
    assert!(world.nodes[b].found.is_empty());
    world.inject(b, victim(1), &genuine);
    assert_eq!(world.nodes[b].found.len(), 1);
    world.inject(b, victim(1), &genuine);
    assert_eq!(world.nodes[b].found.len(), 1, "an answer counts once");
}

#[test]
fn a_liar_cannot_end_what_an_honest_mediator_began() {
    let (mut world, a, b) = two(1);
    world.nodes[a].mediators = Vec::from([0]);
    let peer = world.nodes[a].id;
    world.want(a, b);
    // The liar is heard right after the honest one, again and again.
    for n in 0..20 {
        world.say(LIAR, b, Message::Introduction(introduction(n, peer, &[victim(1)])));
        world.run_for(millis(5));
    }
    world.run_for(secs(1));
    assert!(!world.nodes[a].found.is_empty() && !world.nodes[b].found.is_empty());
    let honest = &world.nodes[a].ended[0];
    let seen = world.nodes[b].ended.iter().find(|attempt| attempt.id == honest.id).unwrap();
    assert!(matches!(seen.outcome, Some(Outcome::Found { .. })), "{seen:?}");
}

#[test]
fn nothing_that_others_can_send_grows_the_machine_beyond_its_bounds() {
    let (mut world, _, b) = two(1);
    let others = world.add_public(200);
    let (now, mut attempt) = (world.now, 0);
    for (n, mediator) in others.iter().enumerate() {
        for peer in &others {
            attempt += 1;
            let host = Ipv4Addr::from_bits(0x0100_0000 + u32::try_from(attempt).unwrap());
            let candidates = [SocketAddr::new(host.into(), u16::try_from(n + 1).unwrap())];
            let intro = introduction(attempt, *peer, &candidates);
            let after = now + Duration::from_millis(u64::try_from(attempt).unwrap());
            world.act(b, |m, view, out| {
                m.handle(after, *mediator, Message::Introduction(intro), view, out);
                m.handle_timeout(after, out);
            });
            let (active, counted) = world.nodes[b].machine.sizes();
            assert!(active <= MAX_SOUGHT && counted <= MAX_ADDRESSES);
        }
    }
    assert!(world.nodes[b].drops.of(DropReason::RateLimited) > 0);
}
