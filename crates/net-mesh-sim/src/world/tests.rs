use net_mesh_proto::drops::DropReason;
use net_mesh_proto::node::{ConnId, DialId, Output, Switch};
use net_mesh_proto::relay::Change;
use net_mesh_proto::route::CircuitId;

use super::*;

const fn secs(secs: u64) -> Duration {
    Duration::from_secs(secs)
}

/// A number that no node gives.
const DIAL: DialId = DialId(u64::MAX);
const CIRCUIT: CircuitId = CircuitId(u64::MAX);

fn act(world: &mut World, ix: NodeIx, output: Output) {
    let machine = world.seats[ix.0 as usize].machine.as_mut().unwrap();
    machine.act(&mut world.net, world.now, output);
    machine.carry_out(&mut world.net, world.now);
    world.arm(ix);
    world.hear(ix);
}

/// A circuit from `a` to `b` through `relay`, put up by hand.
fn circuit(world: &mut World, a: NodeIx, relay: NodeIx, b: NodeIx) {
    let expires = world.now + secs(600);
    let [at_a, at_relay, at_b] = [a, relay, b].map(|ix| world.address(ix).unwrap());
    let user = world.id(a).unwrap();
    let end = |label, out| Change::End { label, from: at_relay, circuit: CIRCUIT, out, expires };
    act(world, a, Output::Label(end(2, 1)));
    act(world, b, Output::Label(end(3, 4)));
    let there = Change::Forward { label: 1, from: at_a, to: at_b, out: 3, user, expires };
    let back = Change::Forward { label: 4, from: at_b, to: at_a, out: 2, user, expires };
    [there, back].into_iter().for_each(|change| act(world, relay, Output::Label(change)));
}

/// Three public nodes, two of which cannot hear each other, with a circuit between those two.
fn apart(seed: u64) -> (World, [NodeIx; 3]) {
    let mut world = World::seeded(seed);
    let relay = world.add_with(Spec { relays: false, ..Spec::default() });
    let join: Vec<SocketAddr> = world.address(relay).into_iter().collect();
    let spec = Spec { join, relays: false, nat_traversal: false, ..Spec::default() };
    let [a, b] = [(), ()].map(|()| world.add_with(spec.clone()));
    world.forbid(a, b);
    world.run_for(secs(3));
    assert_eq!((world.path(a, relay), world.path(a, b)), (PathKind::Direct, PathKind::None));
    circuit(&mut world, a, relay, b);
    (world, [a, relay, b])
}

fn dial(world: &mut World, a: NodeIx, b: NodeIx) {
    let peer = world.id(b);
    act(world, a, Output::Dial { dial: DIAL, peer, routes: vec![Route::Relayed(CIRCUIT)] });
}

#[test]
fn a_connection_opens_over_a_circuit_and_carries_messages_in_order() {
    let (mut world, [a, relay, b]) = apart(1);
    dial(&mut world, a, b);
    world.publish(a, b, 5);
    world.publish(b, a, 200);
    world.run_for(secs(3));
    assert_eq!(world.path(a, b), PathKind::Relayed);
    assert_eq!((world.via(a, b), world.via(b, a)), (vec![relay], vec![relay]));
    assert!(world.all_delivered());
    assert_eq!(world.flow(a, b).map(|flow| flow.delivered), Some(5));
}

#[test]
fn packets_of_a_connection_are_dropped_unless_they_come_over_an_accepted_route() {
    let (mut world, [a, _, b]) = apart(2);
    dial(&mut world, a, b);
    world.run_for(secs(3));
    [(a, b), (b, a)].into_iter().for_each(|(from, to)| world.set_cut(from, to, false));
    let (before, to_b) = (world.drops(b).of(DropReason::UnknownSource), world.address(b).unwrap());
    let peer = world.id(b).unwrap();
    let conn = world.node(a).unwrap().sessions().find(|s| s.peer == peer).unwrap().conn;
    act(
        &mut world,
        a,
        Output::SetRoute { conn, route: Route::Direct(to_b), also: None, switch: Switch::Planned },
    );
    world.publish(a, b, 1);
    world.run_for(secs(3));
    assert!(!world.all_delivered(), "{to_b} was told nothing of this route");
    assert!(world.drops(b).of(DropReason::UnknownSource) > before);

    let at_b = world.node(b).unwrap().sessions().find(|s| Some(s.peer) == world.id(a)).unwrap().conn;
    let route = Route::Direct(world.address(a).unwrap());
    act(&mut world, b, Output::Accept { conn: at_b, route });
    world.run_for(secs(3));
    assert!(world.all_delivered());
}

#[test]
fn what_was_not_heard_goes_again_on_the_connection_that_takes_over() {
    let mut world = World::seeded(3).with_public_nodes(2);
    let (a, b) = (NodeIx(0), NodeIx(1));
    world.run_for(secs(3));
    world.talk(a, b, Duration::from_millis(100));
    world.run_for(secs(1));
    world.crash(b);
    world.run_for(secs(5));
    world.start(b);
    world.run_for(secs(60));
    world.hush(a, b);
    assert!(world.run_until(secs(10), World::all_delivered));
    let flow = world.flow(a, b).unwrap();
    assert!(flow.delivered >= 640 && flow.slowest >= secs(4), "{flow:?}");
}

/// The way from `a` that `b` is connected over.
fn conn_to(world: &World, a: NodeIx, b: NodeIx) -> ConnId {
    let peer = world.id(b).unwrap();
    world.node(a).unwrap().sessions().find(|s| s.peer == peer).unwrap().conn
}

#[test]
fn copies_arrive_where_the_packets_themselves_do_not() {
    let (mut world, [a, _, b]) = apart(4);
    dial(&mut world, a, b);
    world.run_for(secs(3));
    // Straight ways are still cut; acknowledgements come back over the circuit.
    let straight = [a, b].map(|ix| Route::Direct(world.address(ix).unwrap()));
    let [at_a, at_b] = [(a, b), (b, a)].map(|(from, to)| conn_to(&world, from, to));
    act(&mut world, b, Output::Accept { conn: at_b, route: straight[0] });
    let set = |also, switch| Output::SetRoute { conn: at_a, route: straight[1], also, switch };
    act(&mut world, a, set(Some(Route::Relayed(CIRCUIT)), Switch::Planned));
    world.publish(a, b, 10);
    world.run_for(Duration::from_millis(200));
    assert!(world.all_delivered());

    act(&mut world, a, set(None, Switch::Keep));
    world.publish(a, b, 10);
    world.run_for(Duration::from_millis(200));
    assert!(!world.all_delivered(), "no copies, no packets");
    let back = Route::Relayed(CIRCUIT);
    act(&mut world, a, Output::SetRoute { conn: at_a, route: back, also: None, switch: Switch::Urgent });
    world.run_for(Duration::from_millis(41));
    assert!(world.all_delivered(), "one way over the circuit takes 40 ms");
}

#[test]
fn a_route_that_another_peer_is_heard_on_is_refused() {
    let (mut world, [a, relay, b]) = apart(5);
    dial(&mut world, a, b);
    world.run_for(secs(3));
    let (conn, to_relay) = (conn_to(&world, a, b), Route::Direct(world.address(relay).unwrap()));
    let before = world.route(a, b);
    act(&mut world, a, Output::SetRoute { conn, route: to_relay, also: None, switch: Switch::Urgent });
    world.publish(a, b, 1);
    world.run_for(secs(1));
    assert!(world.all_delivered(), "nothing changed");
    assert_eq!(world.route(a, b), before);
}
