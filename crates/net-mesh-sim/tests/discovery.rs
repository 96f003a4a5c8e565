//! An operator who wants a direct path now, and what both ends know of how it came about.
#![allow(clippy::unwrap_used, reason = "a test file")]

use std::time::Duration;

use net_mesh_proto::account::wire::Answer;
use net_mesh_proto::account::{Happened, Line, Whose, timeline};
use net_mesh_proto::node::{Command, Event};
use net_mesh_sim::{Nat, NodeIx, PathKind, World};

const fn secs(secs: u64) -> Duration {
    Duration::from_secs(secs)
}

/// A relayed pair that could be direct, but has given up for minutes, both sides.
fn resting(seed: u64) -> (World, NodeIx, NodeIx) {
    let mut world = World::seeded(seed).with_public_nodes(2);
    world.run_for(secs(5));
    let (a, b) = (world.add(Nat::port_restricted()), world.add(Nat::port_restricted()));
    world.forbid(a, b);
    world.run_for(secs(10));
    world.connect(a, b).run_for(secs(60));
    assert_eq!(world.path(a, b), PathKind::Relayed);
    world.allow(a, b);
    world.run_for(secs(20));
    assert_eq!(world.path(a, b), PathKind::Relayed, "they rest");
    (world, a, b)
}

fn rendezvous(world: &World, ix: NodeIx) -> usize {
    world.events(ix).filter(|(_, event)| matches!(event, Event::Rendezvous(_))).count()
}

#[test]
fn a_pair_that_rests_becomes_direct_at_once_when_it_is_asked_for() {
    for seed in 1..=5 {
        for from_a in [true, false] {
            let (mut world, a, b) = resting(seed);
            let (from, to) = if from_a { (a, b) } else { (b, a) };
            let peer = world.id(to).unwrap();
            world.command(from, Command::Discover { peer });
            let direct = world.run_until(secs(5), |world| world.path(a, b) == PathKind::Direct);
            assert!(direct, "seed {seed}, from_a {from_a}");
        }
    }
}

#[test]
fn asking_every_second_for_what_cannot_be_is_no_storm() {
    let (mut world, a, b) = resting(1);
    world.forbid(a, b);
    let (peer, before) = (world.id(b).unwrap(), rendezvous(&world, a));
    for _ in 0..600 {
        world.command(a, Command::Discover { peer });
        world.run_for(secs(1));
    }
    // Five or six rounds of three plans that are asked for, and those that were due anyway on either side.
    let made = rendezvous(&world, a) - before;
    assert!((15..=45).contains(&made), "{made} attempts in ten minutes");
}

#[test]
fn both_ends_tell_of_one_attempt_and_of_the_change_that_it_led_to() {
    let (mut world, a, b) = resting(3);
    let ids = [a, b].map(|ix| world.id(ix).unwrap());
    world.command(a, Command::Discover { peer: ids[1] });
    assert!(world.run_until(secs(5), |world| world.path(a, b) == PathKind::Direct));
    world.run_for(secs(5));
    let now = world.now();
    let own = world.node(a).unwrap().account(now, &ids[1]).unwrap();
    let theirs = world.node(b).unwrap().account(now, &ids[0]).unwrap();
    // As it travels.
    let Ok(Answer::Told(theirs)) = Answer::decode(&Answer::Told(theirs).encode()) else {
        panic!("unreadable")
    };
    assert!(matches!((&own.line, &theirs.line), (Line::Direct(_), Line::Direct(_))));
    assert!(own.since.unwrap() < secs(15) && theirs.since.unwrap() < secs(15));
    let shared = own.attempts.iter().rev().find(|o| theirs.attempts.iter().any(|t| t.id == o.id)).unwrap().id;
    let lines = timeline(&own, Some(&theirs));
    let of_attempt: Vec<Whose> = lines
        .iter()
        .filter(|line| matches!(&line.happened, Happened::Began(t) | Happened::Ended(t) if t.id == shared))
        .map(|line| line.whose)
        .collect();
    assert_eq!(of_attempt[..2], [Whose::Own, Whose::Theirs], "who asks comes first");
    assert_eq!(of_attempt.len(), 4);
    assert!(lines.is_sorted_by_key(|line| std::cmp::Reverse(line.ago)));
    assert!(world.node(a).unwrap().account(now, &world.id(NodeIx(0)).unwrap()).is_some());
}
