//! Every kind of NAT with every kind, on good lines and bad ones: held to the oracle.
#![allow(clippy::unwrap_used, reason = "a test file")]

mod common;

use std::collections::BTreeMap;
use std::time::Duration;

use common::{Pair, member, secs, settle, story, watch, with_public};
use net_mesh_sim::{Chain, Link, Nat, NodeIx, PathKind};

const KINDS: [(&str, Option<Nat>); 5] = [
    ("direct", None),
    ("full cone", Some(Nat::full_cone())),
    ("restricted", Some(Nat::restricted_cone())),
    ("port-restricted", Some(Nat::port_restricted())),
    ("symmetric", Some(Nat::symmetric())),
];

const SEEDS: u64 = 100;

/// What was seen of one cell of the matrix over all seeds.
#[derive(Default)]
struct Cell {
    kind: Option<PathKind>,
    took: Vec<Duration>,
    first: Vec<Duration>,
}

/// Two nodes of each kind; each one of the first five says something to each one of the other five.
/// `poison`: their NATs remember whoever knocks too early.
fn run(seed: u64, link: &Link, poison: bool, limit: Duration, cells: &mut BTreeMap<(usize, usize), Cell>) {
    let mut world = with_public(seed, 2, link);
    let mut add = |kind: &Option<Nat>| {
        let chain = kind.clone().map_or_else(Chain::default, |nat| Nat { poison, ..nat }.into());
        let spec = member(&world, chain, link);
        world.add_with(spec)
    };
    let nodes: Vec<(NodeIx, NodeIx)> = KINDS.iter().map(|(_, kind)| (add(kind), add(kind))).collect();
    world.run_for(secs(20));
    let mut pairs = Vec::new();
    for (from, _) in &nodes {
        for (_, to) in &nodes {
            pairs.push(Pair::publish(&mut world, *from, *to));
            watch(&mut world, Duration::from_millis(300), &mut pairs);
        }
    }
    if poison {
        // What a lost introduction spoils takes minutes to be tried again; a session that nobody uses is closed
        // before that.
        pairs.iter().for_each(|pair| world.talk(pair.from, pair.to, secs(30)));
    }
    let settled = settle(&mut world, limit, &mut pairs);
    pairs.iter().for_each(|pair| world.hush(pair.from, pair.to));
    if !settled {
        let failed = pairs.iter().find(|p| p.took.is_none() || p.first(&world).is_none());
        panic!("seed {seed}: {}", story(&world, failed.unwrap()));
    }
    // What is settled stays so, and carries more.
    pairs.iter().for_each(|pair| world.publish(pair.from, pair.to, 3));
    world.run_for(secs(10));
    for (i, pair) in pairs.iter().enumerate() {
        let kind = world.path(pair.from, pair.to);
        let complete = world.flow(pair.from, pair.to).unwrap().is_complete();
        assert!(kind == pair.wanted() && complete, "seed {seed}: {}", story(&world, pair));
        let cell = cells.entry((i / KINDS.len(), i % KINDS.len())).or_default();
        cell.kind = Some(kind);
        cell.took.extend(pair.took);
        cell.first.extend(pair.first(&world));
    }
}

/// How long a pair gets whose NATs early packets poison, where packets are lost as well: a few rests, and the time
/// after which a verdict is redone, since one in hundreds is wrong there.
const PATIENCE: Duration = secs(2_700);

/// All seeds; every fourth with NATs that early packets poison.
fn hold(link: &Link, limit: Duration) {
    let mut cells = BTreeMap::new();
    for seed in 0..SEEDS {
        let poison = seed % 4 == 3;
        let lossy = *link != Link::default();
        run(seed, link, poison, if poison && lossy { PATIENCE } else { limit }, &mut cells);
    }
    let median = |times: &mut Vec<Duration>| {
        times.sort_unstable();
        (times[times.len() / 2].as_millis(), times.last().unwrap().as_millis())
    };
    for ((from, to), cell) in &mut cells {
        let ((took, slowest), (first, slowest_first)) = (median(&mut cell.took), median(&mut cell.first));
        println!(
            "{:>15} to {:<15} {:?} after {took} ms (slowest {slowest}), first message after {first} ms \
             (slowest {slowest_first})",
            KINDS[*from].0,
            KINDS[*to].0,
            cell.kind.unwrap(),
        );
    }
}

/// Lines that let packets overtake each other, too.
fn reordering(loss: f64) -> Link {
    Link { jitter: Duration::from_millis(15), ..Link::lossy(loss) }
}

#[test]
fn on_clean_lines_every_pair_is_as_direct_as_the_oracle_says() {
    hold(&Link::default(), secs(20));
}

#[test]
fn two_percent_of_loss_and_reordering_change_nothing_but_the_time() {
    hold(&reordering(0.02), secs(90));
}

#[test]
fn five_percent_of_loss_change_nothing_but_the_time() {
    hold(&Link::lossy(0.05), secs(90));
}
