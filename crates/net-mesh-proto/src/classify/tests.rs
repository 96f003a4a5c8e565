//! What a classification promises, over a small internet in virtual time.

mod world;

use std::vec::Vec;

use self::world::{Line, Nat, World, ms};
use super::attempt::NEEDS_PRIMARY;
use super::evidence::{NEEDS_ANSWERS, NEEDS_THIRD};
use super::wire::{Message, ProbeGrant, ProbeSetup, Refusal};
use super::*;
use crate::nat::{Filtering, Mapping, PortRule};
use crate::reflex::stun::ProbeToken;

const MAPPINGS: [Mapping; 3] =
    [Mapping::EndpointIndependent, Mapping::AddressDependent, Mapping::AddressAndPortDependent];
const FILTERS: [Filtering; 3] =
    [Filtering::EndpointIndependent, Filtering::AddressDependent, Filtering::AddressAndPortDependent];
const PORTS: [PortRule; 3] = [PortRule::Preserving, PortRule::Sequential, PortRule::Random];

const HOME: &str = "198.51.100.7";
const A: usize = 0;

fn secs(s: u64) -> Time {
    Time::from_millis(s * 1000)
}

fn line(delay: u64) -> Line {
    Line { delay: ms(delay), jitter: ms(5), ..Line::default() }
}

/// A behind `nat` (or at a public address), and two open public nodes it has sessions with.
fn world(seed: u64, nat: Option<Nat>, shape: impl Fn(Line) -> Line) -> World {
    let mut world = World::seeded(seed);
    let ip = match &nat {
        Some(nat) if nat.mapping != Mapping::None => "192.168.1.5",
        _ => HOME,
    };
    let a = world.add(ip, shape(line(20)), nat);
    let p = world.add("203.0.113.1", shape(line(10)), None);
    let h = world.add("203.0.114.2", shape(line(15)), None);
    world.connect(p, h);
    world.connect(a, p);
    world.connect(a, h);
    world
}

fn home(mapping: Mapping, filtering: Filtering, ports: PortRule) -> Option<Nat> {
    Some(Nat::new(HOME, mapping, filtering, ports))
}

fn has_verdict(world: &World) -> bool {
    world.hosts[A].classifier.verdict().is_some()
}

/// Tallies of a series of runs.
#[derive(Debug, Default)]
struct Tally {
    runs: u32,
    unknown: u32,
    millis: Vec<u64>,
}

fn all_nine(seeds: u64, shape: impl Fn(Line) -> Line) -> Tally {
    let mut tally = Tally::default();
    for mapping in MAPPINGS {
        for filtering in FILTERS {
            for seed in 0..seeds {
                let ports = PORTS[usize::try_from(seed % 3).unwrap()];
                let mut world = world(seed, home(mapping, filtering, ports), &shape);
                world.run(secs(60), has_verdict);
                let (verdict, at) = world.hosts[A].classifier.verdict().expect("a result within a minute");
                let context = std::format!("seed {seed}, {mapping} {filtering} {ports}: {verdict:?}");
                assert!(
                    verdict.mapping == mapping
                        || verdict.mapping == Mapping::Unknown
                        || verdict.mapping == Mapping::EndpointDependent
                            && mapping != Mapping::EndpointIndependent,
                    "{context}"
                );
                assert!([filtering, Filtering::Unknown].contains(&verdict.filtering), "{context}");
                tally.runs += 1;
                let exact = verdict.mapping == mapping && verdict.filtering == filtering;
                tally.unknown += u32::from(!exact);
                tally.millis.push(at.as_millis());
            }
        }
    }
    tally.millis.sort_unstable();
    tally
}

#[test]
fn every_nat_is_recognised_on_clean_lines_within_a_second() {
    let tally = all_nine(100, |line| line);
    assert_eq!(tally.unknown, 0);
    // 200 ms of settling after the start are part of it.
    assert!(*tally.millis.last().unwrap() < 1200, "{:?}", tally.millis.last());
}

#[test]
fn no_nat_is_mistaken_at_five_percent_loss_and_few_stay_unknown() {
    let tally = all_nine(100, |line| Line { loss: 0.05, ..line });
    assert!(tally.unknown * 200 <= tally.runs, "{} of {}", tally.unknown, tally.runs);
}

#[test]
fn no_nat_is_mistaken_in_bursts_of_loss_and_few_stay_unknown() {
    let tally = all_nine(100, |line| Line { loss: 0.01, burst_gap: Some(ms(2000)), ..line });
    assert!(tally.unknown * 100 <= tally.runs, "{} of {}", tally.unknown, tally.runs);
}

#[test]
fn no_nat_is_mistaken_on_lines_that_lose_a_fifth_and_reorder() {
    all_nine(40, |line| Line { loss: 0.2, jitter: ms(80), burst_gap: Some(ms(3000)), ..line });
}

fn verdict_of(world: &World, host: usize) -> Verdict {
    world.hosts[host].classifier.verdict().expect("a verdict").0
}

fn port_restricted() -> Option<Nat> {
    home(Mapping::EndpointIndependent, Filtering::AddressAndPortDependent, PortRule::Preserving)
}

#[test]
fn a_public_host_is_direct() {
    let mut world = world(1, None, |line| line);
    world.run(secs(10), has_verdict);
    assert_eq!(verdict_of(&world, A).class(), NatClass::Direct);
    assert_eq!(verdict_of(&world, A).port_rule, PortRule::Preserving);
}

#[test]
fn a_public_host_behind_a_stateful_firewall_is_port_restricted_without_a_nat() {
    let mut world =
        world(1, home(Mapping::None, Filtering::AddressAndPortDependent, PortRule::Preserving), |line| line);
    world.run(secs(10), has_verdict);
    let verdict = verdict_of(&world, A);
    assert_eq!((verdict.mapping, verdict.class()), (Mapping::None, NatClass::PortRestricted));
}

#[test]
fn an_ipv6_host_behind_a_stateful_firewall_is_port_restricted_without_a_nat() {
    let mut world = World::seeded(2);
    let ip = "2001:db8::7";
    let firewall = Nat::new(ip, Mapping::None, Filtering::AddressAndPortDependent, PortRule::Preserving);
    let a = world.add(ip, line(20), Some(firewall));
    let p = world.add("2001:db8:1::1", line(10), None);
    let h = world.add("2001:db8:2::2", line(15), None);
    for (x, y) in [(p, h), (a, p), (a, h)] {
        world.connect(x, y);
    }
    world.run(secs(10), has_verdict);
    let verdict = verdict_of(&world, a);
    assert_eq!((verdict.mapping, verdict.class()), (Mapping::None, NatClass::PortRestricted));
}

#[test]
fn port_rules_are_told_apart() {
    for ports in PORTS {
        let nat = home(Mapping::AddressAndPortDependent, Filtering::AddressAndPortDependent, ports);
        let mut world = world(3, nat, |line| line);
        world.run(secs(10), has_verdict);
        // A symmetric NAT can preserve a port only once, so what follows is random.
        let expected = if ports == PortRule::Preserving { PortRule::Random } else { ports };
        assert_eq!(verdict_of(&world, A).port_rule, expected, "{ports}");
    }
    let mut world = world(3, port_restricted(), |line| line);
    world.run(secs(10), has_verdict);
    assert_eq!(verdict_of(&world, A).port_rule, PortRule::Preserving);
}

#[test]
fn with_one_helper_the_mapping_stays_unknown_and_the_missing_one_is_named() {
    let mut world = World::seeded(5);
    let a = world.add("192.168.1.5", line(20), port_restricted());
    let p = world.add("203.0.113.1", line(10), None);
    world.connect(a, p);
    world.run(secs(30), |_| false);
    assert_eq!(verdict_of(&world, a).class(), NatClass::Unknown);
    assert_eq!(verdict_of(&world, a).mapping, Mapping::Unknown);
    assert_eq!(world.hosts[a].classifier.missing(), Some(NEEDS_THIRD));
}

#[test]
fn without_a_public_helper_there_is_no_verdict() {
    let mut world = World::seeded(5);
    let a = world.add("192.168.1.5", line(1), None);
    let siblings = [world.add("192.168.1.6", line(1), None), world.add("192.168.2.7", line(1), None)];
    world.connect(siblings[0], siblings[1]);
    for sibling in siblings {
        world.connect(a, sibling);
    }
    world.run(secs(60), |_| false);
    assert_eq!(verdict_of(&world, a), Verdict::UNKNOWN);
    assert_eq!(world.hosts[a].classifier.missing(), Some(NEEDS_PRIMARY));
}

#[test]
fn helpers_that_see_a_private_address_are_on_the_wrong_side_to_judge() {
    let mut world = World::seeded(5);
    let a = world.add("192.168.1.5", line(1), None);
    let p = world.add("203.0.113.1", line(10), None);
    let h = world.add("203.0.114.2", line(15), None);
    for (x, y) in [(p, h), (a, p), (a, h)] {
        world.connect(x, y);
    }
    world.run(secs(10), has_verdict);
    assert_eq!(verdict_of(&world, a), Verdict::UNKNOWN);
    assert_eq!(world.hosts[a].classifier.missing(), Some(NEEDS_PRIMARY));
}

#[test]
fn silence_is_not_judged_before_stragglers_had_their_time() {
    let mut world = world(17, port_restricted(), |line| line);
    world.run(secs(10), has_verdict);
    let (verdict, at) = world.hosts[A].classifier.verdict().expect("a verdict");
    let sent: Vec<Time> =
        world.trace.iter().filter(|(_, from, ..)| Some(*from) == verdict.mapped).map(|t| t.0).collect();
    // The first request located the socket; the sixth slot is the earliest that can complete the proof.
    assert!(at - sent[6] >= ms(100), "{:?} after the sixth slot", at - sent[6]);
}

#[test]
fn a_helper_that_joins_later_brings_the_verdict_at_once() {
    let mut world = World::seeded(6);
    let a = world.add("192.168.1.5", line(20), port_restricted());
    let p = world.add("203.0.113.1", line(10), None);
    let h = world.add("203.0.114.2", line(15), None);
    world.connect(a, p);
    world.run(secs(20), |_| false);
    assert_eq!(verdict_of(&world, a).class(), NatClass::Unknown);
    world.connect(p, h);
    world.connect(a, h);
    world.run(secs(23), |w| verdict_of(w, A).class() != NatClass::Unknown);
    assert_eq!(verdict_of(&world, a).class(), NatClass::PortRestricted);
}

#[test]
fn a_helper_with_a_firewall_around_its_other_port_still_proves_silence() {
    let mut world = world(7, port_restricted(), |line| line);
    for (helper, ip) in [(1, "203.0.113.1"), (2, "203.0.114.2")] {
        let mut firewall =
            Nat::new(ip, Mapping::None, Filtering::AddressAndPortDependent, PortRule::Preserving);
        firewall.open_ports.push(4000);
        world.hosts[helper].nat = Some(firewall);
    }
    world.run(secs(10), has_verdict);
    assert_eq!(verdict_of(&world, A).class(), NatClass::PortRestricted);
}

#[test]
fn a_helper_whose_other_port_is_mute_proves_nothing_by_its_silence() {
    for filtering in FILTERS {
        let nat = home(Mapping::EndpointIndependent, filtering, PortRule::Random);
        let mut world = world(8, nat, |line| line);
        world.hosts[1].other_is_mute = true;
        world.hosts[2].other_is_mute = true;
        world.run(secs(20), has_verdict);
        let verdict = verdict_of(&world, A);
        if filtering == Filtering::EndpointIndependent {
            assert_eq!(verdict.filtering, filtering, "the third node's probe is proof");
        } else {
            assert_eq!(verdict.filtering, Filtering::Unknown, "{filtering}");
            assert_eq!(world.hosts[A].classifier.missing(), Some(NEEDS_ANSWERS));
        }
    }
}

#[test]
fn a_third_node_that_cannot_be_reached_still_proves_openness_by_its_own_probes() {
    let nat = home(Mapping::EndpointIndependent, Filtering::EndpointIndependent, PortRule::Random);
    let mut world = World::seeded(9);
    let a = world.add("192.168.1.5", line(20), nat);
    let p = world.add("203.0.113.1", line(10), None);
    let hidden = Nat::new(
        "203.0.114.2",
        Mapping::EndpointIndependent,
        Filtering::AddressAndPortDependent,
        PortRule::Random,
    );
    let h = world.add("192.168.7.7", line(15), Some(hidden));
    world.hosts[h].class = NatClass::PortRestricted;
    world.connect(p, h);
    world.connect(a, p);
    world.run(secs(30), has_verdict);
    let verdict = verdict_of(&world, a);
    assert_eq!(verdict.filtering, Filtering::EndpointIndependent);
    assert_eq!(verdict.mapping, Mapping::Unknown, "nobody else was there to compare with");
}

#[test]
fn the_filter_socket_sends_to_nobody_but_the_helpers_main_port() {
    for seed in 0..20 {
        let mut world = world(seed, port_restricted(), |line| Line { loss: 0.05, ..line });
        world.run(secs(10), has_verdict);
        let mapped = verdict_of(&world, A).mapped.expect("an address");
        let to: std::collections::BTreeSet<_> =
            world.trace.iter().filter(|(_, from, ..)| *from == mapped).map(|(_, _, to, _)| *to).collect();
        assert_eq!(to.len(), 1, "seed {seed}: {to:?}");
        assert_eq!(to.first().map(|a| a.port()), Some(4000));
    }
}

#[test]
fn losing_the_helper_in_the_middle_moves_on_to_another() {
    let mut world = World::seeded(11);
    let a = world.add("192.168.1.5", line(20), port_restricted());
    let helpers: Vec<usize> =
        (1..=3).map(|i| world.add(&std::format!("203.0.113.{i}"), line(10 * i), None)).collect();
    for (i, x) in helpers.iter().enumerate() {
        for y in &helpers[i + 1..] {
            world.connect(*x, *y);
        }
        world.connect(a, *x);
    }
    world.run(Time::from_millis(450), |_| false);
    world.disconnect(a, helpers[0]);
    world.run(secs(10), has_verdict);
    assert_eq!(verdict_of(&world, a).class(), NatClass::PortRestricted);
}

#[test]
fn a_verdict_follows_the_network_and_is_renewed_with_age() {
    let mut world = world(12, port_restricted(), |line| line);
    world.run(secs(10), has_verdict);
    assert_eq!(verdict_of(&world, A).class(), NatClass::PortRestricted);
    world.run(secs(12), |_| false);

    world.hosts[A].nat = home(Mapping::EndpointIndependent, Filtering::EndpointIndependent, PortRule::Random);
    world.with(A, |host, now, out| host.classifier.network_changed(now, out));
    world.run(secs(15), |_| false);
    assert_eq!(verdict_of(&world, A).class(), NatClass::FullCone);

    world.hosts[A].nat = port_restricted();
    let renewed = secs(15) + REDO_AFTER * 2;
    world.run(renewed, |w| verdict_of(w, A).class() != NatClass::FullCone);
    assert_eq!(verdict_of(&world, A).class(), NatClass::PortRestricted);
    assert!(world.hosts[A].verdicts.iter().all(|(_, v, _)| v.class() != NatClass::Unknown));
}

#[test]
fn a_known_verdict_outlives_a_failed_renewal_but_not_for_ever() {
    let mut world = world(13, port_restricted(), |line| line);
    world.run(secs(10), has_verdict);
    for helper in 1..=2 {
        world.hosts[helper].line.loss = 1.0;
    }
    world.run(secs(10) + REDO_AFTER * 3 / 2, |_| false);
    assert_eq!(verdict_of(&world, A).class(), NatClass::PortRestricted);
    world.run(secs(10) + REDO_AFTER * 3, |_| false);
    assert_eq!(verdict_of(&world, A).class(), NatClass::Unknown);
}

#[test]
fn the_same_seed_gives_the_same_datagrams() {
    let trace = || {
        let mut world = world(14, port_restricted(), |line| Line { loss: 0.1, ..line });
        world.run(secs(20), |_| false);
        world.trace
    };
    let (first, second) = (trace(), trace());
    assert!(first.len() > 50);
    assert_eq!(first, second);
}

#[test]
fn an_address_that_was_not_proved_is_refused_and_never_probed() {
    let mut world = world(15, None, |line| line);
    world.run(secs(5), |_| false);
    let sent = world.trace.len();
    let victim: SocketAddr = "198.51.100.99:9999".parse().unwrap();
    let requester = world.hosts[A].id;
    let setup = ProbeSetup { txid: 77, mapped: victim, exclude: Vec::new() };
    let mut out = Outbox::new();
    let host = &mut world.hosts[1];
    host.classifier.handle_control(
        world.now,
        requester,
        Message::Setup(setup),
        host.reflex.server(),
        &mut out,
    );
    let Some(Event::ToPeer { message: Message::Refused(refused), .. }) = out.pop_event() else {
        panic!("not refused");
    };
    assert_eq!(refused.reason, Refusal::NotSeen);
    assert!(out.pop_transmit().is_none());
    world.run(secs(20), |_| false);
    assert!(world.trace[sent..].iter().all(|(_, _, to, _)| *to != victim));
}

#[test]
fn tokens_are_bounded_for_each_peer_and_in_total_and_so_are_their_probes() {
    let mut machine = Classifier::new(Rng::from_u64(1));
    let server = Server::default();
    let mut out = Outbox::new();
    let target: SocketAddr = "198.51.100.99:9999".parse().unwrap();
    for n in 0..1000u64 {
        let peer = NodeId([u8::try_from(n % 16).unwrap(); 32]);
        let grant = ProbeGrant { token: ProbeToken(n), target, count: 0 };
        machine.handle_control(Time::ZERO, peer, Message::Grant(grant), &server, &mut out);
    }
    assert_eq!(machine.tokens(), 64);
    let of_one = |n: u64| n.is_multiple_of(16);
    let accepted = core::iter::from_fn(|| out.pop_event())
        .filter(|e| {
            matches!(e, Event::ToPeer { message: Message::Ready(r), .. } if r.accepted && of_one(r.token.0))
        })
        .count();
    assert!(accepted <= 8, "{accepted} of one peer");
    let from = "203.0.113.9:1".parse().unwrap();
    let probe = Probe { token: ProbeToken(0), slot: 0 };
    let sent =
        (0..500).filter(|_| machine.handle_probe(Time::ZERO, SocketId::MAIN, from, probe, &mut out)).count();
    assert_eq!(sent, 64);
    let late = Time::ZERO + Duration::from_secs(11);
    let probe = Probe { token: ProbeToken(1), slot: 0 };
    assert!(!machine.handle_probe(late, SocketId::MAIN, from, probe, &mut out), "an expired token");
}

proptest::proptest! {
    #![proptest_config(proptest::prelude::ProptestConfig::with_cases(64))]
    #[test]
    fn nothing_that_arrives_makes_it_panic_or_grow(
        inputs in proptest::collection::vec(
            (0u8..5, proptest::collection::vec(proptest::prelude::any::<u8>(), 0..90), 0u32..6, 0u16..3), 0..200,
        ),
    ) {
        let mut world = world(16, port_restricted(), |line| line);
        world.run(Time::from_millis(500), |_| false);
        for (kind, bytes, socket, from) in inputs {
            let from_addr = SocketAddr::new([203, 0, 113, 1].into(), 4000 + from);
            let kind = wire::Kind::ALL[usize::from(kind)];
            let peer = world.hosts[usize::from(from)].id;
            world.with(A, |host, now, out| {
                if let Ok(message) = Message::decode(kind, &bytes) {
                    host.classifier.handle_control(now, peer, message, host.reflex.server(), out);
                }
                if let Ok(message) = stun::Message::parse(&bytes) {
                    host.classifier.handle_stun(now, SocketId(socket), from_addr, &message, out);
                }
                let probe = Probe { token: ProbeToken(u64::from(from)), slot: 0 };
                host.classifier.handle_probe(now, SocketId::MAIN, from_addr, probe, out);
                let txid = u128::from(socket);
                let answer = stun::Message::BindingResponse { txid, mapped: from_addr };
                host.classifier.handle_stun(now, SocketId(socket), from_addr, &answer, out);
                host.classifier.handle_stun(
                    now, SocketId(socket), from_addr, &stun::Message::ProbeIndication(probe), out,
                );
            });
            proptest::prop_assert!(world.hosts[A].classifier.tokens() <= 64);
        }
        world.run(secs(10), has_verdict);
        proptest::prop_assert_eq!(verdict_of(&world, A).class(), NatClass::PortRestricted);
    }
}
