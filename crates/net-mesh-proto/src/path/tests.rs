//! What the ways of a session promise.

mod failover;
mod pair;

use alloc::vec;
use core::time::Duration;

use super::{Event, MAX_WAYS};
use crate::drops::DropReason;
use crate::liveness::SessionKey;
use crate::node::ConnId;
use crate::route::{CircuitId, Route};
use pair::{IDS, Line, Pair, addr, circuit, direct, millis};

#[test]
fn both_sides_move_to_a_direct_way_that_one_of_them_found() {
    let mut pair = Pair::over(vec![circuit(1), direct(7)]);
    pair.with(0, |end, now, out| end.found(now, IDS[1], addr(1, 7), out));
    pair.run(millis(41));
    assert_eq!(pair.current()[0], Some(Route::Direct(addr(1, 7))), "a round trip later");
    pair.run(millis(100));
    assert_eq!(pair.current(), direct(7).names.map(Some));
    let accepted = pair.events[1].iter().position(|e| matches!(e, (_, Event::Accept { .. })));
    let answered = pair.events[1]
        .iter()
        .position(|e| matches!(e, (_, Event::Frame { route, .. }) if *route == direct(7).names[1]));
    assert!(accepted < answered, "its packets are let in before it may send them");
    assert!(pair.is_spare(0, CircuitId(1)));
    assert!(pair.is_spare(1, CircuitId(101)));
    pair.run(Duration::from_secs(60));
    assert!(pair.frames(0) + pair.frames(1) <= 40, "and then it is merely kept alive");
}

#[test]
fn a_way_that_carries_in_one_direction_only_is_not_used() {
    for carries in [[true, false], [false, true], [false, false]] {
        let mut pair = Pair::over(vec![circuit(1), Line { carries, ..direct(7) }]);
        for side in [0, 1] {
            pair.with(side, |end, now, out| end.found(now, IDS[1 - side], addr(1 - side, 7), out));
        }
        pair.run(Duration::from_secs(20));
        assert_eq!(pair.current(), circuit(1).names.map(Some), "{carries:?}");
        assert!(pair.frames(0) <= 20, "the tries are bounded");
        assert!(!pair.is_spare(0, CircuitId(1)));
    }
}

#[test]
fn a_ping_that_came_before_the_peers_session_is_repeated_when_the_peer_pings() {
    let mut pair = Pair::over(vec![circuit(1), direct(7)]);
    pair.ends[1].session_down(&IDS[0]);
    pair.with(0, |end, now, out| end.found(now, IDS[1], addr(1, 7), out));
    pair.with(1, |end, now, out| end.found(now, IDS[0], addr(0, 7), out));
    pair.run(millis(30));
    let route = circuit(1).names[1];
    pair.with(1, |end, now, out| {
        end.session_up(now, IDS[0], ConnId(1), SessionKey::new([7; 32]), route, out);
    });
    pair.run(millis(61));
    assert_eq!(pair.current(), direct(7).names.map(Some), "a round trip and a half later, and no pause");
}

#[test]
fn an_address_found_before_the_session_is_tried_when_it_comes_up_and_not_for_ever() {
    for (wait, current) in [(millis(5_000), Route::Direct(addr(1, 7))), (millis(10_001), circuit(1).names[0])]
    {
        let mut pair = Pair::over(vec![circuit(1), direct(7)]);
        pair.ends[0].session_down(&IDS[1]);
        pair.with(0, |end, now, out| end.found(now, IDS[1], addr(1, 7), out));
        pair.run(wait);
        let route = circuit(1).names[0];
        pair.with(0, |end, now, out| {
            end.session_up(now, IDS[1], ConnId(2), SessionKey::new([7; 32]), route, out);
        });
        pair.run(millis(500));
        assert_eq!(pair.current()[0], Some(current));
    }
}

#[test]
fn a_session_changes_over_to_the_circuit_that_is_offered_and_the_other_side_follows() {
    let mut pair = Pair::over(vec![circuit(1), circuit(2)]);
    pair.with(0, |end, now, out| end.offer(now, IDS[1], CircuitId(2), true, out));
    pair.run(millis(500));
    assert_eq!(pair.current(), circuit(2).names.map(Some));
    assert!(pair.is_spare(0, CircuitId(1)));
    assert!(!pair.is_spare(0, CircuitId(2)));
}

#[test]
fn when_the_circuit_ends_the_next_one_takes_over_and_without_one_the_node_is_told() {
    let mut pair = Pair::over(vec![circuit(1), circuit(2)]);
    pair.run(millis(500));
    for side in [0, 1] {
        let name = circuit(1).names[side].circuit().unwrap();
        pair.with(side, |end, now, out| end.circuit_down(now, name, out));
        assert!(pair.events[side].iter().any(|(_, e)| *e == Event::Stranded { peer: IDS[1 - side] }));
    }
    assert_eq!(pair.current(), [None, None]);
    pair.with(0, |end, now, out| end.offer(now, IDS[1], CircuitId(2), true, out));
    pair.run(millis(41));
    assert_eq!(pair.current()[1], Some(circuit(2).names[1]), "the first genuine ping decides");
    pair.run(millis(500));
    assert_eq!(pair.current(), circuit(2).names.map(Some));
}

#[test]
fn a_direct_way_is_not_given_up_for_a_circuit_and_only_for_a_much_nearer_direct_one() {
    let near = Line { delay: millis(1), ..direct(8) };
    let same = Line { delay: millis(19), ..direct(9) };
    let mut pair = Pair::over(vec![circuit(1), direct(7), same, near, circuit(2)]);
    for (port, expected) in [(7, 7), (9, 7), (8, 8), (7, 8)] {
        pair.with(0, |end, now, out| end.found(now, IDS[1], addr(1, port), out));
        pair.run(millis(500));
        assert_eq!(pair.current()[0], Some(Route::Direct(addr(1, expected))));
    }
    pair.with(0, |end, now, out| end.offer(now, IDS[1], CircuitId(2), true, out));
    pair.run(millis(500));
    assert_eq!(pair.current()[0], Some(Route::Direct(addr(1, 8))));
}

#[test]
fn frames_of_others_and_repeated_answers_do_nothing_and_are_counted() {
    let mut pair = Pair::over(vec![circuit(1), direct(7)]);
    pair.with(0, |end, now, out| end.found(now, IDS[1], addr(1, 7), out));
    let ping = pair.first_frame();
    // Thrown back at its sender from elsewhere.
    pair.with(0, |end, now, out| end.handle_frame(now, Route::Direct(addr(9, 9)), &ping, out));
    assert_eq!(pair.drops, [DropReason::BadAuthentication]);
    pair.run(millis(500));
    pair.drops.clear();
    let pong = pair.events[1].iter().find_map(|event| match event {
        (_, Event::Frame { bytes, .. }) if bytes[0] == 0x82 => Some(bytes.clone()),
        _ => None,
    });
    let before = pair.current();
    pair.with(0, |end, now, out| end.handle_frame(now, Route::Direct(addr(9, 9)), &pong.unwrap(), out));
    assert_eq!(pair.drops, [DropReason::UnknownTransaction]);
    pair.with(0, |end, now, out| end.handle_frame(now, Route::Direct(addr(9, 9)), &[0x81; 60], out));
    assert_eq!(pair.drops.last(), Some(&DropReason::MalformedFrame));
    assert_eq!(pair.current(), before);
}

#[test]
fn a_peer_that_pings_from_everywhere_makes_a_node_remember_little() {
    let mut pair = Pair::over((0..100).map(direct).collect());
    for port in 0..100 {
        pair.with(1, |end, now, out| end.found(now, IDS[0], addr(0, port), out));
        pair.run(millis(1));
    }
    pair.run(Duration::from_secs(10));
    assert!(pair.ends[0].ways() <= MAX_WAYS);
    assert!(pair.ends[1].ways() <= MAX_WAYS);
}
