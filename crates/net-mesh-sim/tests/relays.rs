//! Relays come and go; sessions over them do not mind for long.
#![allow(clippy::unwrap_used, reason = "a test file")]

mod common;

use std::time::Duration;

use common::{member, secs, with_public};
use net_mesh_sim::world::Spec;
use net_mesh_sim::{Link, Nat, NodeIx, PathKind, World};

const PACE: Duration = Duration::from_millis(100);

/// Two nodes that need a relay, and two or three that relay; they have talked for a while.
fn pair(seed: u64, relays: u32, link: &Link) -> (World, NodeIx, NodeIx) {
    let mut world = with_public(seed, relays, link);
    let [a, b] = [(), ()].map(|()| {
        let spec = member(&world, Nat::symmetric(), link);
        world.add_with(spec)
    });
    world.run_for(secs(20));
    world.talk(a, b, PACE);
    world.run_for(secs(10));
    assert_eq!(world.path(a, b), PathKind::Relayed, "seed {seed}");
    assert!(world.flow(a, b).unwrap().delivered > 80 && world.flow(b, a).unwrap().delivered > 80);
    (world, a, b)
}

/// How long the slowest message took on its way, of all that were said in the end.
fn slowest(world: &mut World, a: NodeIx, b: NodeIx) -> Duration {
    world.hush(a, b);
    assert!(world.run_until(secs(60), World::all_delivered), "{:?}", world.flow(a, b));
    world.flow(a, b).unwrap().slowest.max(world.flow(b, a).unwrap().slowest)
}

#[test]
fn when_a_relay_leaves_another_one_takes_over_within_seconds() {
    for (seed, relays) in [(0, 3), (1, 3), (2, 3), (3, 2), (4, 2)] {
        let (mut world, a, b) = pair(seed, relays, &Link::default());
        let [relay] = world.via(a, b)[..] else { panic!("seed {seed}: {:?}", world.via(a, b)) };
        world.leave(relay);
        world.run_for(secs(20));
        assert_eq!(world.path(a, b), PathKind::Relayed, "seed {seed} of {relays} relays");
        let [other] = world.via(a, b)[..] else { panic!("seed {seed}: {:?}", world.via(a, b)) };
        assert!(other != relay && world.via(b, a) == [other], "seed {seed}");
        let slowest = slowest(&mut world, a, b);
        println!("seed {seed}: {slowest:?}");
        assert!(slowest < secs(2), "seed {seed}: {slowest:?}");
    }
}

/// Until someone notices that the relay is silent, messages wait.
#[test]
fn when_a_relay_crashes_nothing_is_lost_and_another_one_takes_over() {
    for seed in 5..10 {
        let (mut world, a, b) = pair(seed, 2, &Link::lossy(0.01));
        let [relay] = world.via(a, b)[..] else { panic!("seed {seed}: {:?}", world.via(a, b)) };
        world.crash(relay);
        world.run_for(secs(60));
        assert_eq!(world.via(a, b), [NodeIx(1 - relay.0)], "seed {seed}");
        let slowest = slowest(&mut world, a, b);
        println!("seed {seed}: {slowest:?}");
        assert!(slowest < secs(50), "seed {seed}: {slowest:?}");
    }
}

#[test]
fn when_the_only_relay_restarts_the_pair_talks_again() {
    let mut world = with_public(10, 1, &Link::default());
    let [a, b] = [(), ()].map(|()| {
        let spec = member(&world, Nat::symmetric(), &Link::default());
        world.add_with(spec)
    });
    world.run_for(secs(20));
    world.talk(a, b, PACE);
    world.run_for(secs(10));
    world.crash(NodeIx(0));
    world.run_for(secs(3));
    world.start(NodeIx(0));
    world.run_for(secs(90));
    assert_eq!(world.path(a, b), PathKind::Relayed);
    slowest(&mut world, a, b);
}

#[test]
fn who_does_not_relay_is_not_asked_to() {
    let link = Link::default();
    let mut world = World::seeded(11);
    let add = |world: &mut World, relays: bool, chain: Option<Nat>| {
        let chain = chain.map_or_else(Nat::direct, Into::into);
        let spec = member(world, chain, &link);
        world.add_with(Spec { relays, ..spec })
    };
    let [_, _, willing] = [false, false, true].map(|relays| add(&mut world, relays, None));
    let [a, b] = [(), ()].map(|()| add(&mut world, false, Some(Nat::symmetric())));
    world.run_for(secs(30));
    world.publish(a, b, 1);
    world.run_for(secs(10));
    assert!(world.all_delivered());
    assert_eq!(world.via(a, b), [willing]);

    world.leave(willing);
    world.run_for(secs(200));
    world.publish(a, b, 1);
    world.run_for(secs(30));
    assert!(!world.all_delivered(), "nobody relays, and they cannot reach each other");
    assert_eq!(world.path(a, b), PathKind::None);
}

/// A conversation outlives the lifetime of labels.
#[test]
fn a_circuit_that_is_used_does_not_expire() {
    let (mut world, a, b) = pair(12, 2, &Link::default());
    world.run_for(secs(400));
    let slowest = slowest(&mut world, a, b);
    assert!(slowest < secs(1), "{slowest:?}");
    assert_eq!(world.path(a, b), PathKind::Relayed);
}
