//! What a classification promises, over a small internet in virtual time.

mod world;

use std::vec::Vec;

use self::world::{Line, Nat, World, ms};
use super::evidence::{NEEDS_ANSWERS, NEEDS_THIRD};
use super::*;
use crate::nat::{Filtering, Mapping, PortRule};

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
                world.run(secs(15), has_verdict);
                let (verdict, at) = world.hosts[A].classifier.verdict().expect("a result within 15 s");
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
                if !exact { std::eprintln!("{context} {:?} {}", world.hosts[A].classifier.missing(), at.as_millis()); }
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
