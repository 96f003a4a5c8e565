//! Many nodes: who learns of whom, who reaches whom, and who is forgotten.
#![allow(clippy::unwrap_used, reason = "a test file")]

use std::time::Duration;

use net_mesh_proto::node::{DialFailure, Event};
use net_mesh_sim::oracle::Means;
use net_mesh_sim::world::Spec;
use net_mesh_sim::{Chain, Families, Link, Nat, NodeIx, PathKind, Place, World};

const fn secs(secs: u64) -> Duration {
    Duration::from_secs(secs)
}

fn everyone_but(count: u32, ix: NodeIx) -> Vec<NodeIx> {
    (0..count).map(NodeIx).filter(|other| *other != ix).collect()
}

fn all_know_all(world: &World, count: u32) -> bool {
    (0..count).map(NodeIx).all(|ix| world.members(ix) == everyone_but(count, ix))
}

fn kinds() -> Vec<Chain> {
    vec![
        Nat::full_cone().into(),
        Nat::restricted_cone().into(),
        Nat::port_restricted().into(),
        Nat::symmetric().into(),
        Nat::firewall().into(),
        Nat::cgn(),
    ]
}

/// Twenty nodes of all kinds; three are public and know one another's addresses.
fn twenty(seed: u64, link: &Link) -> World {
    let mut world = World::seeded(seed).with_public_nodes_on(3, link);
    world.run_for(secs(5));
    for i in 0..17 {
        // Any member that can be reached will do: they take turns.
        let through = NodeIx(i % 3);
        let join = world.address(through).into_iter().collect();
        let chain = kinds()[i as usize % kinds().len()].clone();
        world.add_with(Spec { chain, link: link.clone(), join, ..Spec::default() });
    }
    world
}

#[test]
fn a_node_that_joins_through_any_one_member_learns_all() {
    for (seed, link) in [(1, Link::default()), (2, Link::lossy(0.05)), (3, Link::bursty())] {
        let mut world = twenty(seed, &link);
        let learnt = world.run_until(secs(60), |world| all_know_all(world, 20));
        assert!(learnt, "seed {seed}: n5 knows {:?}", world.members(NodeIx(5)));
    }
}

#[test]
fn a_member_that_left_disappears_and_the_others_stay() {
    let mut world = twenty(4, &Link::default());
    assert!(world.run_until(secs(60), |world| all_know_all(world, 20)));
    world.leave(NodeIx(19));
    let gone = |world: &World| {
        (0..19)
            .map(NodeIx)
            .all(|ix| world.members(ix).len() == 18 && !world.members(ix).contains(&NodeIx(19)))
    };
    assert!(world.run_until(secs(60), gone), "n4 knows {:?}", world.members(NodeIx(4)));
    world.run_for(secs(600));
    assert!(gone(&world), "ten minutes later it has not come back, and nobody else has gone");
}

#[test]
fn a_member_that_crashed_is_forgotten_in_the_documented_time() {
    let mut world = World::seeded(5).with_public_nodes(3);
    world.run_for(secs(10));
    assert!(all_know_all(&world, 3));
    world.crash(NodeIx(2));
    world.run_for(secs(100));
    assert_eq!(world.sessions(NodeIx(0)), [NodeIx(1), NodeIx(2)], "it may only be cut off");
    world.run_for(secs(100));
    assert_eq!(world.sessions(NodeIx(0)), [NodeIx(1)]);
    assert!(world.members(NodeIx(0)).contains(&NodeIx(2)), "it may come back");
    world.run_for(net_mesh_proto::membership::TTL + net_mesh_proto::membership::SWEEP);
    assert_eq!(world.members(NodeIx(0)), [NodeIx(1)]);
    assert_eq!(world.members(NodeIx(1)), [NodeIx(0)]);
}

#[test]
fn a_member_that_restarts_is_reached_again() {
    let mut world = World::seeded(6).with_public_nodes(3);
    let home = world.add(Nat::port_restricted());
    world.run_for(secs(20));
    for ix in [home, NodeIx(1)] {
        world.crash(ix);
        world.run_for(secs(3));
        world.start(ix);
        let back = world.run_until(secs(120), |world| {
            all_know_all(world, 4) && (0..3).map(NodeIx).all(|p| world.path(home, p) == PathKind::Direct)
        });
        assert!(back, "{ix:?}: sessions {:?}", world.sessions(home));
    }
}

/// Every pair of kinds wants a session.
#[test]
fn every_pair_gets_the_best_that_the_oracle_says_it_can_have() {
    let mut kinds = kinds();
    kinds.push(Nat::direct());
    kinds.push(Nat::udp_blocked().into());
    for seed in 0..3 {
        let mut world = World::seeded(seed).with_public_nodes(3);
        let nodes: Vec<NodeIx> = kinds.iter().map(|kind| world.add(kind.clone())).collect();
        world.run_for(secs(20));
        for (i, a) in nodes.iter().enumerate() {
            nodes[i + 1..].iter().for_each(|b| _ = world.connect(*a, *b));
        }
        world.run_for(secs(30));
        for (i, a) in nodes.iter().enumerate() {
            for b in &nodes[i + 1..] {
                let outlook = world.outlook(*a, *b, Means { rendezvous: true, relay: true });
                let wanted = PathKind::from(outlook.reach);
                assert_eq!(world.path(*a, *b), wanted, "seed {seed}: {a:?} {b:?} {outlook:?}");
            }
        }
    }
}

#[test]
fn two_nodes_in_one_home_meet_on_private_addresses_without_hairpin() {
    let mut world = World::seeded(9).with_public_nodes(2);
    let home = world.net_mut().add_nat(Place::Public, Nat::symmetric());
    let join: Vec<_> = world.address(NodeIx(0)).into_iter().collect();
    let place = Place::Behind(home);
    let [a, b] = [(), ()].map(|()| world.add_with(Spec { place, join: join.clone(), ..Spec::default() }));
    world.run_for(secs(10));
    assert_eq!(world.path(a, b), PathKind::Direct);
}

/// Many homes use one private range and one port: a dial to a peer's private address finds the neighbour. Here
/// nobody helps, so that private addresses are all there is.
#[test]
fn a_neighbour_with_the_private_address_of_a_peer_is_not_taken_for_it() {
    let mut world = World::seeded(12);
    let alone = Spec { relays: false, nat_traversal: false, ..Spec::default() };
    let public = world.add_with(alone.clone());
    let join: Vec<_> = world.address(public).into_iter().collect();
    let homes = [(); 5].map(|()| world.net_mut().add_nat(Place::Public, Nat::symmetric()));
    let mut add = |home| {
        let place = Place::Behind(home);
        world.add_with(Spec { place, port: 5000, join: join.clone(), ..alone.clone() })
    };
    let [neighbour, caller, peer] = [add(homes[0]), add(homes[0]), add(homes[4])];
    assert_eq!(world.address(neighbour), world.address(peer));
    world.run_for(secs(10));
    world.connect(caller, peer).run_for(secs(15));
    assert_eq!(world.path(caller, peer), PathKind::None);
    assert_eq!(world.path(caller, neighbour), PathKind::Direct);
    let id = world.id(peer);
    let refused = world.events(caller).any(|(_, event)| {
        matches!(event, Event::DialFailed { peer, failure: DialFailure::Rejected, .. } if *peer == id)
    });
    assert!(refused, "the neighbour answered, and said that it is someone else");
}

#[test]
fn nodes_with_ipv6_only_join_through_a_node_with_both() {
    let mut world = World::seeded(10);
    let dual = world.add_with(Spec { families: Families::Dual, ..Spec::default() });
    world.run_for(secs(1));
    let host = world.host(dual);
    let v6 = world.net().ips(host)[1];
    let port = world.node(dual).unwrap().local().main()[1].unwrap();
    let spec = Spec { families: Families::V6, join: vec![(v6, port).into()], ..Spec::default() };
    let [a, b] =
        [spec.clone(), Spec { chain: Nat::firewall().into(), ..spec }].map(|spec| world.add_with(spec));
    world.run_for(secs(20));
    assert_eq!(world.members(a), [dual, b]);
    assert_eq!(world.path(a, b), PathKind::Direct);
}

#[test]
fn a_line_that_is_cut_for_minutes_ends_sessions_and_a_healed_one_brings_them_back() {
    let mut world = World::seeded(11).with_public_nodes(2);
    let home = world.add(Nat::port_restricted());
    world.run_for(secs(10));
    world.set_link(home, &Link { cut: true, ..Link::default() });
    world.run_for(secs(200));
    assert_eq!(world.path(home, NodeIx(0)), PathKind::None);
    world.set_link(home, &Link::default());
    assert!(world.run_until(secs(90), |world| world.path(home, NodeIx(0)) == PathKind::Direct));
}

#[test]
fn a_line_that_is_cut_for_a_minute_keeps_its_sessions() {
    let mut world = World::seeded(11).with_public_nodes(2);
    let home = world.add(Nat::port_restricted());
    world.run_for(secs(10));
    let conn =
        |world: &World| world.node(home).unwrap().sessions().map(|s| (s.peer, s.conn)).collect::<Vec<_>>();
    let before = conn(&world);
    world.set_link(home, &Link { cut: true, ..Link::default() });
    world.run_for(secs(60));
    world.set_link(home, &Link::default());
    world.publish(NodeIx(0), home, 1);
    assert!(world.run_until(secs(10), World::all_delivered));
    assert_eq!(conn(&world), before);
}

#[test]
fn one_seed_takes_one_course_with_many_nodes_too() {
    let course = |seed| {
        let mut world = twenty(seed, &Link::lossy(0.05));
        world.run_for(secs(30));
        world.net().trace().hash()
    };
    assert_eq!(course(1), course(1));
    assert_ne!(course(1), course(2));
}
