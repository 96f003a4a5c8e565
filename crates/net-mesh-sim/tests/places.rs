//! Places with something special about them: shared NATs, carriers, IPv6, useless addresses, blocked UDP.
#![allow(clippy::unwrap_used, reason = "a test file")]

mod common;

use std::net::{IpAddr, Ipv4Addr};
use std::time::Duration;

use common::{Pair, member, secs, settle, story, with_public};
use net_mesh_sim::nat::Inside;
use net_mesh_sim::world::Spec;
use net_mesh_sim::{Chain, Families, Link, Nat, NodeIx, PathKind, Place, World};

/// Lets both sides say something; they end as the oracle says.
fn meet(world: &mut World, a: NodeIx, b: NodeIx, limit: Duration) -> PathKind {
    world.run_for(secs(20));
    let mut pairs = [(a, b), (b, a)].map(|(from, to)| Pair::publish(world, from, to));
    let settled = settle(world, limit, &mut pairs);
    assert!(settled && world.all_delivered(), "{}", story(world, &pairs[0]));
    pairs[0].wanted()
}

fn two(seed: u64, link: &Link, chains: [Chain; 2]) -> (World, NodeIx, NodeIx) {
    let mut world = with_public(seed, 2, link);
    let [a, b] = chains.map(|chain| {
        let spec = member(&world, chain, link);
        world.add_with(spec)
    });
    (world, a, b)
}

#[test]
fn two_behind_one_nat_without_hairpin_meet_on_their_own_network() {
    for (seed, nat) in [Nat::symmetric(), Nat::port_restricted(), Nat::full_cone()].into_iter().enumerate() {
        let mut world = with_public(seed as u64, 2, &Link::default());
        let home = world.net_mut().add_nat(Place::Public, nat);
        let [a, b] = [(), ()].map(|()| {
            let spec = member(&world, Chain::default(), &Link::default());
            world.add_with(Spec { place: Place::Behind(home), ..spec })
        });
        assert_eq!(meet(&mut world, a, b, secs(20)), PathKind::Direct);
    }
}

/// Both have an address of one range, as most homes do: whoever has the peer's address here is another one.
#[test]
fn homes_with_the_same_private_addresses_do_not_confuse_anyone() {
    for seed in 0..5 {
        let mut world = with_public(seed, 2, &Link::default());
        // The ranges repeat after four homes.
        let homes = [(); 5].map(|()| world.net_mut().add_nat(Place::Public, Nat::port_restricted()));
        let mut add = |home| {
            let spec = member(&world, Chain::default(), &Link::default());
            world.add_with(Spec { place: Place::Behind(home), port: 5000, ..spec })
        };
        let [_neighbour, caller, peer] = [add(homes[0]), add(homes[0]), add(homes[4])];
        assert_eq!(meet(&mut world, caller, peer, secs(30)), PathKind::Direct);
    }
}

#[test]
fn two_nats_in_a_row_on_both_sides_are_passed_where_they_keep_their_mappings() {
    let outer = Nat { inside: Inside::Carrier, ..Nat::port_restricted() };
    for seed in 0..5 {
        let chain = || Chain::from([Nat::port_restricted(), outer.clone()]);
        let (mut world, a, b) = two(seed, &Link::default(), [chain(), chain()]);
        assert_eq!(meet(&mut world, a, b, secs(30)), PathKind::Direct);
    }
}

#[test]
fn a_home_and_a_symmetric_carrier_use_a_relay() {
    let (mut world, a, b) = two(1, &Link::default(), [Nat::port_restricted().into(), Nat::cgn()]);
    assert_eq!(meet(&mut world, a, b, secs(20)), PathKind::Relayed);
}

/// Only one of the two would seek a direct way, and knows at once that there is none.
#[test]
fn both_sides_of_a_hopeless_pair_say_why_it_is_relayed() {
    let (mut world, a, b) = two(2, &Link::default(), [Nat::symmetric(), Nat::symmetric()].map(Chain::from));
    assert_eq!(meet(&mut world, a, b, secs(20)), PathKind::Relayed);
    for (from, to) in [(a, b), (b, a)] {
        let (node, to) = (world.node(from).unwrap(), world.id(to).unwrap());
        let why = node.why(world.now(), &to).unwrap();
        assert!(why.reason.contains("because both sides are symmetric"), "{}", why.reason);
    }
}

#[test]
fn a_restricted_cone_and_a_symmetric_carrier_are_direct() {
    for seed in 0..5 {
        let (mut world, a, b) = two(seed, &Link::default(), [Nat::restricted_cone().into(), Nat::cgn()]);
        assert_eq!(meet(&mut world, a, b, secs(30)), PathKind::Direct);
    }
}

/// Public nodes with both families, and a pair as `families` and `chains` say.
fn dual(seed: u64, families: [Families; 2], chains: [Chain; 2]) -> (World, NodeIx, NodeIx) {
    let mut world = World::seeded(seed);
    for _ in 0..2 {
        let spec = member(&world, Chain::default(), &Link::default());
        world.add_with(Spec { families: Families::Dual, ..spec });
    }
    world.run_for(secs(5));
    let [first, second] = families;
    let [one, two] = chains;
    let [a, b] = [(first, one), (second, two)].map(|(families, chain)| {
        let host = world.host(NodeIx(0));
        let spec = member(&world, chain, &Link::default());
        let port = spec.join[0].port();
        let ips: Vec<IpAddr> = world.net().ips(host).to_vec();
        let join = ips.into_iter().map(|ip| (ip, port).into()).collect();
        world.add_with(Spec { families, join, ..spec })
    });
    (world, a, b)
}

#[test]
fn ipv6_hosts_behind_stateful_firewalls_are_direct() {
    for seed in 0..5 {
        let firewall = || Chain::from(Nat::firewall());
        let (mut world, a, b) = dual(seed, [Families::V6; 2], [firewall(), firewall()]);
        assert_eq!(meet(&mut world, a, b, secs(30)), PathKind::Direct);
    }
}

/// IPv4 alone would not do: both are symmetric there.
#[test]
fn symmetric_homes_with_ipv6_are_direct_over_ipv6() {
    for seed in 0..5 {
        let symmetric = || Chain::from(Nat::symmetric());
        let (mut world, a, b) = dual(seed, [Families::Dual; 2], [symmetric(), symmetric()]);
        assert_eq!(meet(&mut world, a, b, secs(30)), PathKind::Direct);
        let route = world.route(a, b).and_then(net_mesh_proto::route::Route::direct);
        assert!(route.is_some_and(|addr| addr.is_ipv6()), "{route:?}");
    }
}

#[test]
fn a_host_with_ipv4_only_and_one_with_both_are_direct() {
    for seed in 0..5 {
        let home = || Chain::from(Nat::port_restricted());
        let (mut world, a, b) = dual(seed, [Families::V4, Families::Dual], [home(), home()]);
        assert_eq!(meet(&mut world, a, b, secs(30)), PathKind::Direct);
    }
}

#[test]
fn hosts_without_a_family_in_common_talk_through_one_that_has_both() {
    let home = || Chain::from(Nat::port_restricted());
    let (mut world, a, b) = dual(1, [Families::V4, Families::V6], [home(), home()]);
    world.run_for(secs(20));
    world.publish(a, b, 1);
    world.publish(b, a, 1);
    assert!(world.run_until(secs(20), World::all_delivered));
    assert_eq!(world.path(a, b), PathKind::Relayed);
}

#[test]
fn thirty_two_useless_addresses_on_one_side_change_nothing() {
    for seed in 0..5 {
        let mut world = with_public(seed, 2, &Link::default());
        let useless = (0..32).map(|n| IpAddr::V4(Ipv4Addr::new(172, 17, n, 1))).collect();
        let spec = member(&world, Nat::port_restricted(), &Link::default());
        let a = world.add_with(Spec { useless, ..spec.clone() });
        let b = world.add_with(spec);
        assert_eq!(meet(&mut world, a, b, secs(30)), PathKind::Direct);
    }
}

#[test]
fn a_node_whose_udp_is_blocked_knows_it_within_seconds_and_disturbs_nobody() {
    let (mut world, blocked, other) =
        two(1, &Link::default(), [Nat::udp_blocked().into(), Nat::port_restricted().into()]);
    world.run_for(secs(6));
    assert_eq!(world.node(blocked).unwrap().udp(world.now()), net_mesh_proto::node::Udp::Silent);
    assert_eq!(world.node(other).unwrap().udp(world.now()), net_mesh_proto::node::Udp::Works);
    world.run_for(secs(20));
    assert_eq!(world.path(blocked, other), PathKind::None);
}

#[test]
fn long_and_lossy_access_lines_on_both_sides_cost_time_only() {
    for (seed, loss) in [(0, 0.01), (1, 0.01), (2, 0.05), (3, 0.05)] {
        let link = Link { delay: Duration::from_millis(50), ..Link::lossy(loss) };
        let home = || Chain::from(Nat::port_restricted());
        let (mut world, a, b) = two(seed, &link, [home(), home()]);
        assert_eq!(meet(&mut world, a, b, secs(60)), PathKind::Direct);
    }
}
