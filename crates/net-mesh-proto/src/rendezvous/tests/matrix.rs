//! Every kind of NAT with every kind, from both sides, on good lines and bad ones.

use core::time::Duration;

use super::super::*;
use super::model::{
    FULL_CONE, KINDS, OPEN, PORT_RESTRICTED, RESTRICTED, Rule, SYMMETRIC, World, millis, secs,
};
use crate::nat::{Filtering, Mapping};

/// The lines of a test: one way from the middle to the seeker and to the sought one, and what is lost.
#[derive(Clone, Copy)]
struct Lines {
    delays: (Duration, Duration),
    loss: f64,
    poison: bool,
}

const GOOD: Lines = Lines { delays: (millis(5), millis(20)), loss: 0.0, poison: false };

fn pair(seed: u64, a: Option<Rule>, b: Option<Rule>, lines: Lines) -> (World, usize, usize) {
    let mut world = World::seeded(seed);
    (world.loss, world.poison) = (lines.loss, lines.poison);
    let a = world.add(a, lines.delays.0);
    let b = world.add(b, lines.delays.1);
    (world, a, b)
}

fn is_hopeless(a: Option<Rule>, b: Option<Rule>) -> bool {
    [(a, b), (b, a)].iter().any(|(x, y)| *x == SYMMETRIC && [PORT_RESTRICTED, SYMMETRIC].contains(y))
}

fn both_found(world: &World, a: usize, b: usize) -> bool {
    [a, b].iter().all(|n| !world.nodes[*n].found.is_empty())
}

/// One is enough: it proves the address to the other one with what only their session can tell.
fn one_found(world: &World, a: usize, b: usize) -> bool {
    [a, b].iter().any(|n| !world.nodes[*n].found.is_empty())
}

/// Runs every pair; returns how long those took that found each other, and how many attempts they made.
fn run_all(seeds: core::ops::Range<u64>, lines: Lines, limit: Duration) -> Vec<(Duration, usize)> {
    let mut took = Vec::new();
    for seed in seeds {
        for (a, b) in KINDS.iter().flat_map(|a| KINDS.iter().map(move |b| (*a, *b))) {
            let (mut world, x, y) = pair(seed, a, b, lines);
            let began = world.now;
            world.want(x, y);
            let found = world.run_until(began + limit, |world| {
                both_found(world, x, y) || (lines.loss > 0.0 && one_found(world, x, y))
            });
            let peer = world.nodes[y].id;
            let history = world.nodes[x].machine.history(&peer).unwrap();
            if is_hopeless(a, b) {
                assert!(!found && history.attempts().count() == 0, "seed {seed}: {a:?} with {b:?}");
                assert_eq!((world.sent_by(x), world.sent_by(y)), (0, 0), "nothing is tried in vain");
                continue;
            }
            let attempts: Vec<&Attempt> = history.attempts().collect();
            assert!(found, "seed {seed}: {a:?} with {b:?}: {attempts:#?}");
            took.push((world.now - began, world.nodes[x].ended.len().max(1)));
        }
    }
    took
}

#[test]
fn on_good_lines_every_possible_pair_finds_a_way_at_once_and_hopeless_ones_are_not_tried() {
    // To the mediator, from it to the farther side, its slack; the symmetric side waits for the opener; a check, and one
    // in return with its answer, one place behind another candidate.
    let limit = millis(15 + 30 + 5) + millis(45) + millis(25 + 50 + 10);
    let took = run_all(0..3, GOOD, limit);
    assert_eq!(took.len(), 3 * 22);
    assert!(took.iter().all(|(_, attempts)| *attempts == 1), "{took:?}");
}

#[test]
fn nats_that_remember_early_packets_are_met_at_the_right_moment() {
    // The nearer one hears from the mediator 180 ms before the other one does.
    for delays in [(millis(5), millis(185)), (millis(185), millis(5)), (millis(1), millis(1))] {
        let took = run_all(0..3, Lines { delays, loss: 0.0, poison: true }, secs(2));
        assert!(took.iter().all(|(_, attempts)| *attempts == 1), "{delays:?}: {took:?}");
    }
}

#[test]
fn one_packet_in_twenty_lost_on_both_links_and_a_long_way_cost_little() {
    let lines = Lines { delays: (millis(50), millis(50)), loss: 0.05, poison: false };
    let took = run_all(0..20, lines, secs(20));
    let at_once = took.iter().filter(|(_, attempts)| *attempts == 1).count();
    assert!(at_once * 100 >= took.len() * 97, "{at_once} of {}", took.len());
}

#[test]
fn one_packet_in_five_lost_on_both_links_takes_retries_at_worst() {
    let lines = Lines { delays: (millis(50), millis(50)), loss: 0.2, poison: false };
    let took = run_all(0..20, lines, secs(60));
    let at_once = took.iter().filter(|(_, attempts)| *attempts == 1).count();
    assert!(at_once * 100 >= took.len() * 85, "{at_once} of {}", took.len());
}

#[test]
fn where_packets_are_lost_and_nats_remember_early_ones_patience_finds_a_way() {
    let lines = Lines { delays: (millis(50), millis(50)), loss: 0.05, poison: true };
    // In this model what is spoilt stays so for ever: only a plan that avoids the spoilt side can help.
    let took = run_all(0..20, lines, secs(3600));
    let at_once = took.iter().filter(|(_, attempts)| *attempts == 1).count();
    assert!(at_once * 100 >= took.len() * 95, "{at_once} of {}", took.len());
}

fn rule(mapping: Mapping, filtering: Filtering) -> Option<Rule> {
    Some(Rule { mapping, filtering })
}

#[test]
fn two_symmetric_sides_get_through_where_one_admits_strangers_and_an_address_lasts() {
    let generous = rule(Mapping::AddressDependent, Filtering::EndpointIndependent);
    let by_ip = rule(Mapping::AddressAndPortDependent, Filtering::AddressDependent);
    for (a, b) in [(generous, by_ip), (by_ip, generous), (generous, generous)] {
        let (mut world, x, y) = pair(1, a, b, GOOD);
        world.want(x, y);
        let end = world.now + secs(30);
        assert!(world.run_until(end, |world| both_found(world, x, y)), "{a:?} with {b:?}");
    }
}

#[test]
fn a_symmetric_mapping_with_a_loose_filter_reaches_every_cone_but_the_strictest() {
    let loose = rule(Mapping::AddressDependent, Filtering::AddressDependent);
    for (cone, possible) in [(FULL_CONE, true), (RESTRICTED, true), (PORT_RESTRICTED, false)] {
        for (a, b) in [(loose, cone), (cone, loose)] {
            let (mut world, x, y) = pair(1, a, b, GOOD);
            world.want(x, y);
            let end = world.now + secs(5);
            assert_eq!(world.run_until(end, |world| both_found(world, x, y)), possible, "{a:?} with {b:?}");
        }
    }
}

#[test]
fn behind_one_nat_without_hairpin_the_private_addresses_win() {
    for kind in [FULL_CONE, PORT_RESTRICTED, SYMMETRIC] {
        let (mut world, a, _) = pair(1, kind, OPEN, GOOD);
        let beside = world.add_beside(a, millis(5));
        world.want(a, beside);
        let end = world.now + secs(2);
        assert!(world.run_until(end, |world| both_found(world, a, beside)));
        assert_eq!(world.nodes[a].found[0].1, world.addr(beside));
        let last = &world.nodes[a].ended[0];
        assert_eq!(last.plan, Plan::LocalFirst);
    }
}

#[test]
fn a_hopeless_pair_with_ipv6_on_both_sides_meets_there_through_both_firewalls() {
    let (mut world, a, b) = pair(1, SYMMETRIC, SYMMETRIC, GOOD);
    world.give_ipv6(a);
    world.give_ipv6(b);
    world.want(a, b);
    let end = world.now + secs(2);
    assert!(world.run_until(end, |world| both_found(world, a, b)));
    assert!([a, b].iter().all(|n| world.nodes[*n].found[0].1.is_ipv6()));
    assert!(world.sent.iter().all(|(.., transmit)| transmit.to.is_ipv6()), "IPv4 is left alone");
}

#[test]
fn without_a_common_mediator_a_session_over_relays_serves_as_well() {
    let lines = Lines { poison: true, ..GOOD };
    for (a, b) in [(PORT_RESTRICTED, RESTRICTED), (SYMMETRIC, RESTRICTED), (RESTRICTED, SYMMETRIC)] {
        let (mut world, x, y) = pair(1, a, b, lines);
        world.nodes[x].mediators.clear();
        world.run_for(secs(1));
        let peer = world.nodes[y].id;
        world.want(x, y);
        world.run_for(secs(5));
        assert!(world.nodes[x].machine.history(&peer).unwrap().is_lonely());
        assert_eq!(world.sent_by(x), 0);
        world.connect(x, y);
        let end = world.now + secs(1);
        assert!(world.run_until(end, |world| both_found(world, x, y)), "{a:?} with {b:?}");
        assert!(!world.nodes[x].machine.history(&peer).unwrap().is_lonely());
        assert_eq!(world.nodes[x].ended[0].mediator, None);
    }
}

#[test]
fn an_unknown_verdict_is_no_reason_not_to_try() {
    let (mut world, a, b) = pair(1, PORT_RESTRICTED, RESTRICTED, GOOD);
    for n in [a, b] {
        world.publish(n, |record| record.verdict = crate::membership::VerdictSummary::UNKNOWN);
    }
    world.want(a, b);
    let end = world.now + secs(1);
    assert!(world.run_until(end, |world| both_found(world, a, b)));
}
