//! Routers that are asked for ports: what becomes possible, and what is not believed.
#![allow(clippy::unwrap_used, reason = "a test file")]

mod common;

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use common::{member, secs, with_public};
use net_mesh_proto::nat::NatClass;
use net_mesh_proto::node::Event;
use net_mesh_proto::portmap::{Protocol, Report, Status, Useless};
use net_mesh_sim::nat::Inside;
use net_mesh_sim::world::Spec;
use net_mesh_sim::{Chain, Link, Nat, NodeIx, PathKind, Router, World};

/// Kinds of home whose nodes are not reached by strangers without help.
fn closed() -> [Nat; 3] {
    [Nat::symmetric(), Nat::port_restricted(), Nat::restricted_cone()]
}

fn add(world: &mut World, chain: impl Into<Chain>, asks: bool) -> NodeIx {
    let spec = member(world, chain, &Link::default());
    world.add_with(Spec { port_mapping: asks, ..spec })
}

fn status(world: &World, ix: NodeIx) -> Status {
    world.node(ix).unwrap().port_mapping().unwrap()
}

fn believed(world: &World, ix: NodeIx) -> Option<SocketAddr> {
    match status(world, ix) {
        Status::Mapped { external, proven_by: Some(_), .. } => Some(external),
        _ => None,
    }
}

/// What `who` reads in the record of `whom`.
fn record(world: &World, who: NodeIx, whom: NodeIx) -> (NatClass, bool, Vec<SocketAddr>) {
    let id = world.id(whom).unwrap();
    let node = world.node(who).unwrap();
    let view = node.member(&id).unwrap();
    (view.record.verdict.class(), view.record.flags.mapped, view.record.candidates.clone())
}

fn reports(world: &World, ix: NodeIx) -> Vec<Report> {
    let report = |(_, event): &(_, Event)| match event {
        Event::PortMapping(report) => Some(report.clone()),
        _ => None,
    };
    world.events(ix).filter_map(report).collect()
}

/// Both say something; they must go straight, both ways, within `limit`.
fn go_straight(world: &mut World, a: NodeIx, b: NodeIx, limit: Duration) {
    world.publish(a, b, 1);
    world.publish(b, a, 1);
    let straight = |world: &World| {
        world.path(a, b) == PathKind::Direct && world.path(b, a) == PathKind::Direct && world.all_delivered()
    };
    let met = world.run_until(limit, straight);
    let why = world.node(a).unwrap().why(world.now(), &world.id(b).unwrap());
    assert!(met, "{:?}, {:?}, {why:?}\n{}", world.path(a, b), world.path(b, a), world.net().diagram(40));
}

#[test]
fn a_mapping_on_one_side_makes_every_pair_direct() {
    for (seed, (mine, theirs)) in
        closed().into_iter().flat_map(|mine| closed().map(move |theirs| (mine.clone(), theirs))).enumerate()
    {
        let mut world = with_public(seed as u64, 2, &Link::default());
        let mapped = add(&mut world, mine.clone().with_router(Router::default()), true);
        let other = add(&mut world, theirs.clone(), false);
        world.run_for(secs(20));
        let external = believed(&world, mapped).unwrap_or_else(|| panic!("{:?}", status(&world, mapped)));
        assert_eq!(
            record(&world, other, mapped),
            (NatClass::FullCone, true, record(&world, other, mapped).2),
            "others read what they experience"
        );
        assert_eq!(record(&world, other, mapped).2[0], external);
        go_straight(&mut world, mapped, other, secs(5));
        let rendezvous = world.events(other).any(|(_, event)| matches!(event, Event::Rendezvous(_)));
        assert!(!rendezvous, "{mine:?} x {theirs:?}: who can be dialled needs no introduction");
    }
}

#[test]
fn each_protocol_alone_does() {
    for protocol in Protocol::ALL {
        let mut world = with_public(3, 2, &Link::default());
        let router = Router { only: Some(protocol), ..Router::default() };
        let node = add(&mut world, Nat::symmetric().with_router(router), true);
        world.run_for(secs(20));
        assert!(
            matches!(status(&world, node), Status::Mapped { protocol: by, proven_by: Some(_), .. } if by == protocol)
        );
    }
}

#[test]
fn nobody_is_asked_without_the_operators_word() {
    let mut world = with_public(4, 2, &Link::default());
    let node = add(&mut world, Nat::symmetric().with_router(Router::default()), false);
    world.run_for(secs(60));
    assert_eq!(world.node(node).unwrap().port_mapping(), None);
    let nat = world.net().nats(world.host(node))[0];
    assert_eq!(world.net().ports_given(world.now(), nat), 0);
}

#[test]
fn a_home_behind_a_carrier_is_double_nat_and_told_nobody() {
    for (seed, claims) in [None, Some("198.51.100.77".parse::<IpAddr>().unwrap())].into_iter().enumerate() {
        let outer = Nat { inside: Inside::Carrier, ..Nat::port_restricted() };
        let mut world = with_public(seed as u64, 2, &Link::default());
        let router = Router { claims, ..Router::default() };
        let home = Nat::port_restricted().with_router(router);
        let node = add(&mut world, Chain::from([home, outer]), true);
        let other = add(&mut world, Nat::symmetric(), false);
        world.run_for(secs(60));
        match (claims, status(&world, node)) {
            (None, Status::Useless { why: Useless::Private, .. })
            | (Some(_), Status::Useless { why: Useless::NotWhereSeen(_), .. }) => {}
            (_, wrong) => panic!("{wrong:?}"),
        }
        let nat = world.net().nats(world.host(node))[0];
        assert_eq!(world.net().ports_given(world.now(), nat), 0, "it is given back");
        let (class, mapped, candidates) = record(&world, other, node);
        assert_eq!((class, mapped), (NatClass::PortRestricted, false));
        assert!(!candidates.iter().any(|addr| Some(addr.ip()) == claims), "{candidates:?}");
    }
}

#[test]
fn a_router_that_maps_and_does_not_forward_is_told_nobody() {
    for (seed, nat) in closed().into_iter().enumerate() {
        let mut world = with_public(seed as u64, 3, &Link::default());
        let router = Router { forwards: false, ..Router::default() };
        let node = add(&mut world, nat.clone().with_router(router), true);
        let other = add(&mut world, Nat::port_restricted(), false);
        world.run_for(secs(60));
        assert!(
            matches!(status(&world, node), Status::Useless { why: Useless::Unreached, .. }),
            "{nat:?}: {:?}",
            status(&world, node)
        );
        assert!(!reports(&world, node).iter().any(|r| matches!(r, Report::Proven { .. })));
        assert!(!record(&world, other, node).1);
    }
}

#[test]
fn without_a_router_everything_is_as_before() {
    let run = |asks: bool| {
        let mut world = with_public(9, 2, &Link::default());
        let a = add(&mut world, Nat::port_restricted(), asks);
        let b = add(&mut world, Nat::port_restricted(), false);
        world.run_for(secs(20));
        go_straight(&mut world, a, b, secs(20));
        (world.verdict(a).0.class(), record(&world, b, a).2.len())
    };
    assert_eq!(run(true), run(false));
}

#[test]
fn a_router_that_forgets_makes_it_again_within_about_a_minute() {
    let mut world = with_public(10, 2, &Link::default());
    let node = add(&mut world, Nat::symmetric().with_router(Router::default()), true);
    let other = add(&mut world, Nat::symmetric(), false);
    world.run_for(secs(300));
    let external = believed(&world, node).unwrap();
    let nat = world.net().nats(world.host(node))[0];
    let now = world.now();
    world.net_mut().forget_ports(now, nat);
    world.run_for(secs(65));
    assert_eq!(world.net().ports_given(world.now(), nat), 1);
    assert_eq!(believed(&world, node), Some(external));
    assert!(reports(&world, node).iter().any(|r| matches!(r, Report::Renewed { forgotten: true, .. })));
    go_straight(&mut world, other, node, secs(5));
}

#[test]
fn a_node_that_crashes_leaves_a_lease_that_ends_and_one_that_leaves_gives_it_back() {
    let lease = secs(600);
    for leaves in [false, true] {
        let mut world = with_public(11, 2, &Link::default());
        let router = Router { lease, ..Router::default() };
        let node = add(&mut world, Nat::symmetric().with_router(router), true);
        world.run_for(secs(30));
        assert!(believed(&world, node).is_some());
        let nat = world.net().nats(world.host(node))[0];
        if leaves {
            world.leave(node);
            world.run_for(secs(2));
        } else {
            world.crash(node);
            world.run_for(secs(2));
            assert_eq!(world.net().ports_given(world.now(), nat), 1);
            world.run_for(lease);
        }
        assert_eq!(world.net().ports_given(world.now(), nat), 0, "leaves: {leaves}");
    }
}

#[test]
fn two_at_home_get_a_port_each() {
    let mut world = with_public(12, 2, &Link::default());
    let home =
        world.net_mut().add_nat(net_mesh_sim::Place::Public, Nat::symmetric().with_router(Router::default()));
    let [a, b] = [(), ()].map(|()| {
        let spec = member(&world, Chain::default(), &Link::default());
        world.add_with(Spec {
            place: net_mesh_sim::Place::Behind(home),
            port: 5000,
            port_mapping: true,
            ..spec
        })
    });
    world.run_for(secs(30));
    let [x, y] = [a, b].map(|ix| believed(&world, ix).unwrap_or_else(|| panic!("{:?}", status(&world, ix))));
    assert_eq!(x.ip(), y.ip());
    assert_ne!(x.port(), y.port());
    go_straight(&mut world, a, b, secs(20));
}

#[test]
fn a_nat_with_another_address_gets_another_proof() {
    let mut world = with_public(13, 2, &Link::default());
    let node = add(&mut world, Nat::port_restricted().with_router(Router::default()), true);
    let other = add(&mut world, Nat::symmetric(), false);
    world.run_for(secs(60));
    let before = believed(&world, node).unwrap();
    let nat = world.net().nats(world.host(node))[0];
    let now = world.now();
    world.net_mut().reboot_nat(nat, true);
    world.net_mut().forget_ports(now, nat);
    world.run_for(secs(90));
    let after = believed(&world, node).unwrap_or_else(|| panic!("{:?}", status(&world, node)));
    assert_ne!(before.ip(), after.ip());
    assert_eq!(record(&world, other, node).2[0], after);
    go_straight(&mut world, other, node, secs(10));
}
