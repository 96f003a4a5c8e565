//! Meshes of nodes as they are: nearly all pairs that can be direct are, and all that can talk at all do.
#![allow(clippy::unwrap_used, reason = "a test file")]

mod common;

use std::collections::VecDeque;
use std::time::Duration;

use common::{Pair, secs, story, with_public};
use net_mesh_proto::rng::Rng;
use net_mesh_sim::population::{Class, Mix};
use net_mesh_sim::world::Spec;
use net_mesh_sim::{Link, NodeIx, PathKind};

/// Nodes of a mesh; the first two are public, so that the others have whom to join and ask.
const NODES: u32 = 50;
const PUBLIC: u32 = 2;

/// Between two pairs that begin to talk: 1225 pairs take two minutes.
const PACE: Duration = Duration::from_millis(100);

/// How long a pair has to become direct.
const PATIENCE: Duration = Duration::from_secs(30);

#[derive(Default)]
struct Tally {
    possible: usize,
    direct: usize,
    failures: Vec<String>,
}

/// Every pair is wanted once, in an order of its own per seed, by one side.
fn run(seed: u64, tally: &mut Tally) {
    let mut rng = Rng::from_u64(seed).fork("population");
    let mix = Mix::standard();
    let mut world = with_public(seed, PUBLIC, &Link::default());
    let mut classes = vec![Class::Open; PUBLIC as usize];
    for _ in PUBLIC..NODES {
        let resident = mix.draw(&mut rng);
        let join = world.address(NodeIx(u32::try_from(rng.below(2)).unwrap())).into_iter().collect();
        classes.push(resident.class);
        world.add_with(Spec { chain: resident.chain, link: resident.link, join, ..Spec::default() });
        world.run_for(Duration::from_millis(100));
    }
    world.run_for(secs(30));

    let mut waiting = pairs(&mut rng);
    let mut young: VecDeque<Pair> = VecDeque::new();
    while !waiting.is_empty() || !young.is_empty() {
        if let Some((from, to)) = waiting.pop() {
            young.push_back(Pair::publish(&mut world, from, to));
        }
        world.run_for(PACE);
        young.iter_mut().for_each(|pair| pair.look(&world));
        while young.front().is_some_and(|pair| pair.took.is_some() || pair.said + PATIENCE <= world.now()) {
            let pair = young.pop_front().unwrap();
            if pair.wanted() == PathKind::Direct {
                tally.possible += 1;
                tally.direct += usize::from(pair.took.is_some());
                if pair.took.is_none() {
                    let class = |ix: NodeIx| classes[ix.0 as usize];
                    tally.failures.push(format!(
                        "seed {seed}, {} to {}: {}",
                        class(pair.from),
                        class(pair.to),
                        story(&world, &pair)
                    ));
                }
            }
        }
    }
    world.run_for(secs(30));
    for (from, to) in pairs(&mut rng) {
        let blocked = [from, to].into_iter().any(|ix| classes[ix.0 as usize] == Class::UdpBlocked);
        let flow = world.flow(from, to).or_else(|| world.flow(to, from)).unwrap();
        assert!(blocked || flow.is_complete(), "seed {seed}: {from:?} to {to:?}, {flow:?}");
    }
}

/// All pairs, in any order, either side first.
fn pairs(rng: &mut Rng) -> Vec<(NodeIx, NodeIx)> {
    let mut all: Vec<(u64, NodeIx, NodeIx)> = Vec::new();
    for a in 0..NODES {
        for b in 0..a {
            let (from, to) = if rng.chance(0.5) { (a, b) } else { (b, a) };
            all.push((rng.u64(), NodeIx(from), NodeIx(to)));
        }
    }
    all.sort_unstable();
    all.into_iter().map(|(_, from, to)| (from, to)).collect()
}

fn hold(seeds: std::ops::Range<u64>) {
    let mut tally = Tally::default();
    seeds.for_each(|seed| run(seed, &mut tally));
    println!("{} of {} pairs that can be direct are", tally.direct, tally.possible);
    for failure in tally.failures.iter().take(10) {
        println!("{failure}");
    }
    assert!(
        tally.direct * 100 >= tally.possible * 97,
        "{} of {}, for example {}",
        tally.direct,
        tally.possible,
        tally.failures[0]
    );
}

#[test]
fn of_fifty_nodes_nearly_all_pairs_that_can_be_direct_are_and_all_deliver() {
    hold(0..2);
}

#[test]
fn the_same_with_other_nodes() {
    hold(2..4);
}
