//! Every kind of NAT on every kind of line: a node never says of its NAT what is not true.
#![allow(clippy::unwrap_used, reason = "a test file")]

use std::time::Duration;

use net_mesh_proto::nat::NatClass;
use net_mesh_sim::nat::Ports;
use net_mesh_sim::scenario::{Classification, classify};
use net_mesh_sim::{Chain, Dependence, Link, Nat};

const SEEDS: u64 = 100;

/// How long a node may take on a line that loses packets. The first attempts of a node are over by then.
const LIMIT: Duration = Duration::from_secs(20);

/// Runs all seeds; no verdict is ever wrong, `unknown` is left after [`LIMIT`] at most `rarely` in a hundred,
/// and half of the nodes know within `typically`.
fn hold(chain: impl Into<Chain>, link: &Link, rarely: usize, typically: Duration) {
    let chain = chain.into();
    let runs: Vec<Classification> = (0..SEEDS).map(|seed| classify(seed, &chain, link, 2, LIMIT)).collect();
    for (seed, run) in runs.iter().enumerate() {
        assert_eq!(run.wrong, None, "seed {seed}");
    }
    let mut took: Vec<Duration> = runs.iter().filter_map(|run| run.took).collect();
    took.sort_unstable();
    let unknown = runs.len() - took.len();
    let first = runs.iter().position(|run| run.took.is_none()).map(|seed| (seed, &runs[seed]));
    println!(
        "{unknown} of {SEEDS} unknown; median {:?}, slowest {:?}",
        took.get(took.len() / 2),
        took.last()
    );
    assert!(unknown <= rarely, "{unknown} of {SEEDS} unknown, the first: {first:?}");
    assert!(took[took.len() / 2] <= typically, "median {:?}", took[took.len() / 2]);
}

fn clean(chain: impl Into<Chain>) {
    hold(chain, &Link::default(), 0, Duration::from_millis(1500));
}

fn lossy(chain: impl Into<Chain>) {
    hold(chain, &Link::lossy(0.05), 2, Duration::from_millis(3000));
}

fn bursty(chain: impl Into<Chain>) {
    hold(chain, &Link::bursty(), 2, Duration::from_millis(3000));
}

macro_rules! combinations {
    ($($name:ident: $mapping:ident, $filtering:ident;)+) => {$(
        mod $name {
            use super::*;

            const NAT: Nat = Nat::new(Dependence::$mapping, Dependence::$filtering);

            #[test]
            fn is_recognised_without_loss_every_time() {
                clean(NAT);
            }

            #[test]
            fn is_never_mistaken_with_five_percent_loss_on_every_link() {
                lossy(NAT);
            }

            #[test]
            fn is_never_mistaken_with_bursts_of_loss() {
                bursty(NAT);
            }
        }
    )+};
}

combinations! {
    independent_mapping_independent_filtering: Independent, Independent;
    independent_mapping_address_filtering: Independent, Address;
    independent_mapping_address_and_port_filtering: Independent, AddressAndPort;
    address_mapping_independent_filtering: Address, Independent;
    address_mapping_address_filtering: Address, Address;
    address_mapping_address_and_port_filtering: Address, AddressAndPort;
    address_and_port_mapping_independent_filtering: AddressAndPort, Independent;
    address_and_port_mapping_address_filtering: AddressAndPort, Address;
    address_and_port_mapping_address_and_port_filtering: AddressAndPort, AddressAndPort;
}

#[test]
fn a_host_without_nat_knows_that_it_is_direct() {
    clean(Nat::direct());
    lossy(Nat::direct());
    bursty(Nat::direct());
}

#[test]
fn a_public_host_behind_a_stateful_firewall_is_not_taken_for_direct() {
    for filtering in Dependence::ALL {
        clean(Nat { filtering, ..Nat::firewall() });
    }
    lossy(Nat::firewall());
    bursty(Nat::firewall());
}

#[test]
fn chained_nats_are_seen_as_the_strictest_of_them() {
    clean(Nat::cgn());
    clean([Nat::full_cone(), Nat::restricted_cone()]);
    clean([Nat::restricted_cone(), Nat::full_cone()]);
    clean([Nat::symmetric(), Nat::full_cone()]);
    lossy(Nat::cgn());
    bursty(Nat::cgn());
}

#[test]
fn symmetric_nats_with_sequential_ports_are_recognised() {
    for step in [1, 2] {
        clean(Nat::symmetric().with_ports(Ports::Sequential { step }));
    }
}

#[test]
fn a_reordering_line_misleads_nobody() {
    let link = Link { jitter: Duration::from_millis(60), ..Link::default() };
    for nat in [Nat::full_cone(), Nat::restricted_cone(), Nat::port_restricted(), Nat::symmetric()] {
        hold(nat, &link, 0, Duration::from_millis(3000));
    }
}

#[test]
fn one_public_helper_alone_gives_no_verdict_but_a_reason() {
    for chain in [Nat::full_cone().into(), Nat::symmetric().into(), Nat::direct()] {
        for seed in 0..20 {
            let run = classify(seed, &chain, &Link::default(), 1, LIMIT);
            assert_eq!((run.wrong, run.verdict.class()), (None, NatClass::Unknown), "seed {seed}");
            assert!(run.missing.is_some_and(|missing| !missing.is_empty()), "seed {seed}");
        }
    }
}

#[test]
fn where_udp_is_blocked_nothing_is_claimed() {
    let run = classify(1, &Nat::udp_blocked().into(), &Link::default(), 2, LIMIT);
    assert_eq!((run.wrong, run.verdict.class(), run.took), (None, NatClass::Unknown, None));
}

#[test]
fn one_seed_takes_one_course() {
    let course = |seed| classify(seed, &Nat::symmetric().into(), &Link::lossy(0.05), 2, LIMIT);
    assert_eq!(course(4), course(4));
    assert_ne!(course(4).trace, course(5).trace);
}
