//! Ports that an operator opened by hand, in a cloud's rules for instance: who finds out, and what follows.
#![allow(clippy::unwrap_used, reason = "a test file")]

mod common;

use common::{member, secs, with_public};
use net_mesh_proto::nat::NatClass;
use net_mesh_proto::node::Event;
use net_mesh_sim::world::Spec;
use net_mesh_sim::{Chain, Link, Nat, NodeIx, PathKind, World};

const PORT: u16 = 4433;

fn add(world: &mut World, chain: impl Into<Chain>) -> NodeIx {
    let spec = member(world, chain, &Link::default());
    world.add_with(Spec { port: PORT, ..spec })
}

fn class(world: &World, who: NodeIx, whom: NodeIx) -> NatClass {
    let id = world.id(whom).unwrap();
    world.node(who).unwrap().member(&id).unwrap().record.verdict.class()
}

#[test]
fn who_opened_one_port_is_dialled_by_everyone() {
    for (seed, theirs) in [Nat::symmetric(), Nat::port_restricted()].into_iter().enumerate() {
        let mut world = with_public(seed as u64, 2, &Link::default());
        let open = add(&mut world, Nat { open: Some(PORT), ..Nat::firewall() });
        let other = add(&mut world, theirs);
        world.run_for(secs(20));
        assert_eq!(world.node(open).unwrap().open_port().map(|(addr, _)| addr.port()), Some(PORT));
        assert_eq!(class(&world, other, open), NatClass::FullCone);
        world.publish(other, open, 1);
        world.publish(open, other, 1);
        let straight = |world: &World| {
            world.path(open, other) == PathKind::Direct
                && world.path(other, open) == PathKind::Direct
                && world.all_delivered()
        };
        assert!(world.run_until(secs(5), straight), "{:?}", world.path(other, open));
        let rendezvous = world.events(other).any(|(_, event)| matches!(event, Event::Rendezvous(_)));
        assert!(!rendezvous, "who can be dialled needs no introduction");
    }
}

#[test]
fn a_firewall_that_is_closed_and_a_nat_are_not_taken_for_open() {
    for (seed, chain) in [Nat::firewall(), Nat::port_restricted(), Nat::restricted_cone(), Nat::symmetric()]
        .into_iter()
        .enumerate()
    {
        let mut world = with_public(seed as u64, 3, &Link::default());
        let node = add(&mut world, chain.clone());
        world.run_for(secs(120));
        assert_eq!(world.node(node).unwrap().open_port(), None, "{chain:?}");
        let reports = world.events(node).filter(|(_, event)| matches!(event, Event::PortMapping(_))).count();
        assert_eq!(reports, 0);
    }
}

#[test]
fn a_port_that_is_closed_again_is_taken_back() {
    let mut world = with_public(7, 3, &Link::default());
    let node = add(&mut world, Nat { open: Some(PORT), ..Nat::firewall() });
    world.run_for(secs(30));
    assert!(world.node(node).unwrap().open_port().is_some());
    let wall = world.net().nats(world.host(node))[0];
    world.net_mut().open_port(wall, None);
    world.run_for(secs(1000));
    assert_eq!(world.node(node).unwrap().open_port(), None);
    assert_eq!(world.node(node).unwrap().experienced_class(world.now()), NatClass::PortRestricted);
}
