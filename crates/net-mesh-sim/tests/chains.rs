//! Nodes that can reach some others only, with nobody in the middle.
#![allow(clippy::unwrap_used, reason = "a test file")]

mod common;

use std::time::Duration;

use common::secs;
use net_mesh_sim::world::Spec;
use net_mesh_sim::{Link, NodeIx, PathKind, World};

/// So many public nodes in a row; each reaches its neighbours only.
fn chain(seed: u64, count: u32, link: &Link) -> World {
    let mut world = World::seeded(seed);
    let nodes: Vec<NodeIx> = (0..count).map(|_| add(&mut world, link)).collect();
    for a in 0..nodes.len() {
        (0..a.saturating_sub(1)).for_each(|b| world.forbid(nodes[a], nodes[b]));
    }
    world
}

/// Joins through the one before it.
fn add(world: &mut World, link: &Link) -> NodeIx {
    let last = (0..).map(NodeIx).take_while(|ix| ix.0 < world.len()).last();
    let join = last.and_then(|ix| world.address(ix)).into_iter().collect();
    world.add_with(Spec { join, link: link.clone(), ..Spec::default() })
}

#[test]
fn in_a_row_of_four_where_only_neighbours_can_talk_everyone_talks_to_everyone() {
    for (seed, link) in [(1, Link::default()), (2, Link::lossy(0.02)), (3, Link::lossy(0.05))] {
        let mut world = chain(seed, 4, &link);
        let [a, b, c, d] = [0, 1, 2, 3].map(NodeIx);
        world.run_for(secs(40));
        for (from, to) in [(a, d), (d, a), (a, c), (b, d), (a, b)] {
            world.publish(from, to, 10);
        }
        assert!(world.run_until(secs(60), World::all_delivered), "seed {seed}: {:?}", world.flow(a, d));
        assert_eq!((world.path(a, d), world.via(a, d)), (PathKind::Relayed, vec![b, c]), "seed {seed}");
        assert_eq!(world.via(d, a), [c, b], "seed {seed}");
        assert_eq!(world.via(a, c), [b], "seed {seed}");
        assert_eq!(world.path(b, c), PathKind::Direct, "seed {seed}");
    }
}

#[test]
fn a_row_of_six_works_too() {
    let mut world = chain(4, 6, &Link::default());
    world.run_for(secs(60));
    world.publish(NodeIx(0), NodeIx(5), 1);
    assert!(world.run_until(secs(60), World::all_delivered));
    assert_eq!(world.via(NodeIx(0), NodeIx(5)), [1, 2, 3, 4].map(NodeIx));
}

#[test]
fn who_hears_but_is_not_heard_is_reached_through_others() {
    let mut world = World::seeded(5).with_public_nodes(2);
    let [a, b] = [0, 1].map(NodeIx);
    let c = add(&mut world, &Link::default());
    world.set_cut(a, c, true);
    world.run_for(secs(20));
    world.publish(a, c, 1);
    world.publish(c, a, 1);
    assert!(world.run_until(secs(60), World::all_delivered));
    assert_eq!((world.path(a, c), world.via(a, c)), (PathKind::Relayed, vec![b]));
}

#[test]
fn when_the_middle_of_a_row_restarts_the_ends_talk_again() {
    let mut world = chain(6, 4, &Link::default());
    let [a, _, c, d] = [0, 1, 2, 3].map(NodeIx);
    world.run_for(secs(40));
    world.talk(a, d, Duration::from_millis(200));
    world.run_for(secs(10));
    assert_eq!(world.path(a, d), PathKind::Relayed);
    world.crash(c);
    world.run_for(secs(2));
    world.start(c);
    world.run_for(secs(90));
    world.hush(a, d);
    assert!(world.run_until(secs(30), World::all_delivered), "{:?}", world.flow(a, d));
    assert_eq!(world.path(a, d), PathKind::Relayed);
}
