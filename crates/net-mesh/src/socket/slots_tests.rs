//! What the table of slots promises.

use net_mesh_proto::route::CircuitId;

use super::*;

fn addr(n: u16) -> Route {
    Route::Direct(SocketAddr::from(([192, 0, 2, 1], n)))
}

fn slots() -> Slots {
    Slots::new(Arc::new(DropCounters::default()))
}

#[test]
fn a_virtual_address_and_its_slot_stand_for_each_other() {
    for n in [0, 1, 0x1234_5678_9abc_def0] {
        assert_eq!(SlotId::of(SlotId(n).addr()), Some(SlotId(n)));
    }
    assert_eq!(SlotId::of(SocketAddr::from(([192, 0, 2, 1], 1))), None);
}

#[test]
fn copies_of_one_initial_over_two_routes_share_a_slot() {
    let slots = slots();
    let a = slots.by_initial(b"12345678", addr(1)).unwrap().slot;
    let b = slots.by_initial(b"12345678", addr(2)).unwrap().slot;
    assert_eq!(a, b);
    assert_eq!(slots.routes(a.addr()).unwrap().candidates(), [addr(1), addr(2)]);
    for n in 3..=4 {
        assert!(slots.by_initial(b"12345678", addr(n)).is_some());
    }
    assert!(slots.by_initial(b"12345678", addr(5)).is_none(), "answers would go to too many");
    let c = slots.by_initial(b"87654321", addr(6)).unwrap().slot;
    assert_ne!(a, c);
    assert_eq!(slots.provisional(), 2);
}

#[test]
fn a_flood_of_initials_evicts_the_oldest_handshake_and_no_settled_session() {
    let slots = slots();
    let session = slots.by_initial(b"session!", addr(1)).unwrap().slot;
    slots.settle(session, NodeId([1; 32]));
    let first = slots.by_initial(b"first...", addr(2)).unwrap().slot;
    let worked_on = slots.by_initial(b"workedon", addr(3)).unwrap().slot;
    assert!(slots.hold(worked_on));
    for n in 0..MAX_PROVISIONAL as u64 {
        let source = addr(1000 + u16::try_from(n).unwrap());
        slots.by_initial(&n.to_be_bytes(), source).unwrap();
    }
    assert_eq!(slots.provisional(), MAX_PROVISIONAL);
    assert!(slots.routes(session.addr()).is_some());
    assert!(slots.routes(first.addr()).is_none());
    assert!(slots.routes(worked_on.addr()).is_some());
    assert!(slots.by_source(addr(2)).is_none(), "nothing is left of it");
}

#[test]
fn a_released_slot_leaves_nothing_behind() {
    let slots = slots();
    let slot = slots.dial(None, &[addr(1), addr(2)]).unwrap();
    assert_eq!(slots.by_source(addr(2)).unwrap().slot, slot);
    slots.release(slot);
    assert!(slots.by_source(addr(1)).is_none());
    assert!(slots.routes(slot.addr()).is_none());
    assert_eq!(slots.provisional(), 0);
}

#[test]
fn two_peers_with_one_private_address_do_not_get_each_others_packets() {
    let slots = slots();
    let (x, y) = (NodeId([1; 32]), NodeId([2; 32]));
    let first = slots.dial(Some(x), &[addr(1), addr(2)]).unwrap();
    assert_eq!(slots.dial(Some(y), &[addr(1)]), None);
    let second = slots.dial(Some(y), &[addr(1), addr(3)]).unwrap();
    assert_ne!(first, second);
    assert_eq!(slots.routes(second.addr()).unwrap().candidates(), [addr(3)]);
    assert_eq!(slots.dial(Some(x), &[addr(2), addr(4)]), Some(first), "the same peer shares its slot");
    slots.release(first);
    assert_eq!(slots.by_source(addr(4)).unwrap().slot, first, "it is still in use");
    slots.release(first);
    assert!(slots.by_source(addr(4)).is_none());
}

#[test]
fn the_addresses_of_an_ended_session_are_free_while_its_end_is_still_being_told() {
    let slots = slots();
    let peer = Some(NodeId([1; 32]));
    let ended = slots.dial(peer, &[addr(1)]).unwrap();
    slots.settle(ended, NodeId([1; 32]));
    slots.retire(ended);
    let next = slots.dial(peer, &[addr(1), addr(2)]).unwrap();
    assert_ne!(next, ended);
    assert_eq!(slots.routes(next.addr()).unwrap().candidates(), [addr(1), addr(2)]);
    assert_eq!(slots.routes(ended.addr()).unwrap().chosen(), Some(addr(1)));
    slots.release(ended);
    assert_eq!(slots.by_source(addr(1)).unwrap().slot, next, "the end of the old slot takes nothing away");
}

#[tokio::test(start_paused = true)]
async fn what_never_becomes_a_handshake_is_swept_away() {
    let slots = slots();
    let held = slots.by_initial(b"held....", addr(1)).unwrap().slot;
    slots.settle(held, NodeId([1; 32]));
    slots.by_initial(b"junk....", addr(2)).unwrap();
    tokio::time::advance(HANDSHAKE_LIMIT + Duration::from_millis(1)).await;
    slots.sweep(Time::ZERO);
    assert_eq!(slots.provisional(), 0);
    assert!(slots.by_source(addr(2)).is_none());
    assert!(slots.by_source(addr(1)).is_some());
}

fn node(n: u8) -> NodeId {
    NodeId([n; 32])
}

/// A settled slot of `peer` that has proven the first of these routes.
fn settled(slots: &Slots, peer: u8, routes: &[Route]) -> SlotId {
    let slot = slots.dial(Some(node(peer)), routes).unwrap();
    slots.prove(slot, routes[0]);
    assert_eq!(slots.settle(slot, node(peer)), Some(routes[0]));
    slot
}

#[test]
fn an_address_that_a_session_never_proved_is_free_for_a_dial() {
    let slots = slots();
    let session = settled(&slots, 1, &[addr(1), addr(2)]);
    let other = slots.dial(Some(node(2)), &[addr(1), addr(2)]).unwrap();
    assert_ne!(other, session);
    assert_eq!(slots.routes(other.addr()).unwrap().candidates(), [addr(2)], "the other one is proven");
    assert_eq!(slots.by_source(addr(2)).unwrap().slot, other);
    slots.release(session);
    assert_eq!(slots.by_source(addr(2)).unwrap().slot, other, "the end of the first takes nothing away");
}

#[test]
fn a_dial_adds_no_routes_to_a_strangers_slot() {
    let slots = slots();
    let stranger = slots.by_initial(b"12345678", addr(1)).unwrap().slot;
    assert_eq!(slots.dial(Some(node(1)), &[addr(1), addr(2)]), Some(stranger));
    assert_eq!(slots.routes(stranger.addr()).unwrap().candidates(), [addr(1)]);
    assert!(slots.by_source(addr(2)).is_none());
}

#[test]
fn late_copies_of_an_initial_belong_to_the_session_it_became() {
    let slots = slots();
    let slot = slots.by_initial(b"12345678", addr(1)).unwrap().slot;
    assert!(slots.hold(slot));
    slots.prove(slot, addr(1));
    slots.settle(slot, node(1));
    assert_eq!(slots.by_initial(b"12345678", addr(2)).unwrap().slot, slot);
    slots.release(slot);
    assert_ne!(slots.by_initial(b"12345678", addr(1)).unwrap().slot, slot, "nothing is left of it");
}

#[test]
fn a_session_is_given_a_route_unless_another_one_has_proven_it() {
    let slots = slots();
    let session = settled(&slots, 1, &[Route::Relayed(CircuitId(1))]);
    let other = settled(&slots, 2, &[addr(1), addr(2)]);
    let stranger = slots.by_initial(b"12345678", addr(3)).unwrap().slot;
    for (route, free) in [(addr(1), false), (addr(2), true), (addr(3), true), (addr(4), true)] {
        assert_eq!(slots.accept(session, route), free, "{route}");
        let holder = if free { session } else { other };
        assert_eq!(slots.by_source(route).unwrap().slot, holder, "{route}");
    }
    assert!(!slots.by_source(addr(4)).unwrap().proven, "who sends from there is known, not who hears there");
    assert_eq!(slots.routes(session.addr()).unwrap().chosen(), Some(Route::Relayed(CircuitId(1))));
    slots.release(stranger);
    assert_eq!(slots.by_source(addr(3)).unwrap().slot, session);
}

#[test]
fn a_session_changes_its_route_and_still_hears_the_old_one() {
    let slots = slots();
    let circuit = Route::Relayed(CircuitId(1));
    let session = settled(&slots, 1, &[circuit]);
    assert!(slots.set_route(session, addr(1), None));
    assert_eq!(slots.routes(session.addr()).unwrap().chosen(), Some(addr(1)));
    assert!(slots.is_session(addr(1)));
    assert_eq!(slots.by_source(circuit).unwrap().slot, session);
    let other = settled(&slots, 2, &[addr(2)]);
    assert!(!slots.set_route(other, addr(1), None));
    assert_eq!(slots.routes(other.addr()).unwrap().chosen(), Some(addr(2)));
    slots.release(session);
    assert!(!slots.set_route(session, addr(5), None), "it is gone");
    assert!(slots.by_source(addr(5)).is_none());
}

#[test]
fn a_connection_takes_over_the_route_of_another_one_with_the_same_peer() {
    let slots = slots();
    let relayed = settled(&slots, 1, &[Route::Relayed(CircuitId(1))]);
    let direct = settled(&slots, 1, &[addr(1)]);
    assert_ne!(relayed, direct);
    assert!(slots.set_route(relayed, addr(1), None));
    assert_eq!(slots.by_source(addr(1)).unwrap().slot, relayed);
}

#[test]
fn the_routes_a_session_has_had_are_bounded_and_the_one_in_use_stays() {
    let slots = slots();
    let session = settled(&slots, 1, &[addr(1)]);
    assert!(slots.accept(session, addr(2)));
    assert!(slots.set_route(session, addr(1), Some(addr(3))));
    for n in 4..100 {
        assert!(slots.accept(session, addr(n)));
    }
    let known = (1..100).filter(|n| slots.by_source(addr(*n)).is_some()).count();
    assert_eq!(known, MAX_ACCEPTED);
    assert!(slots.by_source(addr(1)).is_some());
    assert!(slots.by_source(addr(2)).is_none());
    assert!(slots.by_source(addr(3)).is_some(), "copies go there");
    assert!(slots.by_source(addr(99)).is_some());
}

#[test]
fn a_dial_of_somebody_else_keeps_its_route_until_it_ends() {
    let slots = slots();
    let session = settled(&slots, 1, &[addr(1)]);
    let dial = slots.dial(Some(node(2)), &[addr(2)]).unwrap();
    assert!(!slots.accept(session, addr(2)));
    assert!(!slots.set_route(session, addr(2), None));
    assert!(slots.set_route(session, addr(1), Some(addr(2))), "what is lost is a copy");
    assert_eq!(slots.routes(session.addr()).unwrap().lines().unwrap().also, None);
    assert_eq!(slots.by_source(addr(2)).unwrap().slot, dial);
    slots.release(dial);
    assert!(slots.accept(session, addr(2)));
    let same = slots.dial(Some(node(1)), &[addr(3)]).unwrap();
    assert!(slots.accept(session, addr(3)), "its own peer's");
    assert_eq!(slots.by_source(addr(3)).unwrap().slot, session);
    slots.release(same);
}

#[test]
fn the_connection_ids_of_a_slot_are_bounded_and_end_with_it() {
    let slots = slots();
    let (a, b) = (settled(&slots, 1, &[addr(1)]), settled(&slots, 2, &[addr(2)]));
    for id in 0..10 {
        slots.learn(a, id);
    }
    assert_eq!((0..10).filter(|id| slots.is_in_use(*id)).count(), MAX_IDS);
    slots.learn(b, 9);
    slots.learn(b, 10);
    slots.release(b);
    assert!(slots.is_in_use(9), "it was another's first");
    assert!(!slots.is_in_use(10));
    slots.release(a);
    assert!((0..11).all(|id| !slots.is_in_use(id)));
}
