//! What QUIC is given when, out of buffers that hold several things.

use super::relaying::{addr, end, forward, frame};
use super::*;

/// A node with a direct session, and two circuits through one relay.
fn with_sessions() -> (Bench, [SlotId; 3]) {
    let bench = bench();
    bench.socket.apply(end(5, addr(1), 1, 6));
    bench.socket.apply(end(7, addr(1), 2, 8));
    bench.socket.apply(forward(9, addr(1), addr(2), 10));
    let circuit = |n| Route::Relayed(net_mesh_proto::route::CircuitId(n));
    let slots = [
        bench.session(Route::Direct(addr(1)), 1),
        bench.session(circuit(1), 2),
        bench.session(circuit(2), 3),
    ];
    (bench, slots)
}

#[test]
fn a_buffer_for_several_slots_is_given_out_piece_by_piece() {
    let (mut bench, [direct, first, second]) = with_sessions();
    let batch = [
        frame(5, b"Abc"),
        b"Direct--one.".to_vec(),
        frame(7, b"Xyz"),
        frame(5, b"Bcd"),
        frame(9, b"on!"),
        frame(7, b"\x81pi"),
        b"Direct--two.".to_vec(),
        frame(5, b"C"),
    ];
    bench.arrive(vec![(addr(1), 12, batch.concat())]);
    assert_eq!(bench.poll(), Some(vec![(first.addr(), 3, b"AbcBcdC".to_vec())]));
    let rest: [Got; 3] = [
        (direct.addr(), 12, b"Direct--one.".to_vec()),
        (second.addr(), 3, b"Xyz".to_vec()),
        (direct.addr(), 12, b"Direct--two.".to_vec()),
    ];
    assert_eq!(bench.poll(), Some(rest.to_vec()));
    assert_eq!(bench.poll(), None);
    assert_eq!(bench.sent(), [Sent { to: addr(2), segment: None, bytes: frame(10, b"on!") }]);
    assert!(matches!(bench.inbox.try_recv().unwrap(), Datagram::Frame { route: Route::Relayed(_), .. }));
}

#[test]
fn what_waits_for_a_slot_is_not_overtaken() {
    let (bench, [_, first, second]) = with_sessions();
    let batch = |frames: [Vec<u8>; 2]| (addr(1), 12, frames.concat());
    bench.arrive(vec![
        batch([frame(5, b"A01"), frame(7, b"B01")]),
        batch([frame(7, b"B02"), frame(5, b"A02")]),
    ]);
    bench.arrive(vec![(addr(1), 12, frame(7, b"B03"))]);
    let all = bench.poll_all();
    let of = |slot: SlotId| -> Vec<u8> {
        all.iter().filter(|(a, ..)| *a == slot.addr()).flat_map(|(.., bytes)| bytes.clone()).collect()
    };
    assert_eq!(of(first), b"A01A02");
    assert_eq!(of(second), b"B01B02B03");
}

#[test]
fn all_buffers_of_a_round_are_used() {
    let (bench, [direct, first, _]) = with_sessions();
    bench.arrive(vec![
        (addr(1), 3, b"AbcBcd".to_vec()),
        (addr(1), 12, frame(9, b"on!")),
        (addr(1), 12, [frame(5, b"Abc"), frame(5, b"Bcd")].concat()),
    ]);
    let got = bench.poll_all();
    assert_eq!(got, [(direct.addr(), 3, b"AbcBcd".to_vec()), (first.addr(), 3, b"AbcBcd".to_vec())]);
    assert_eq!(bench.sent().len(), 1);
}

#[test]
fn a_relay_under_load_gives_others_their_turn_and_comes_back() {
    let (bench, _) = with_sessions();
    for _ in 0..20 {
        bench.arrive(vec![(addr(1), 12, frame(9, b"on!")); 4]);
    }
    assert_eq!(bench.poll(), None);
    assert_eq!((bench.sent().len(), bench.woken()), (MAX_BUFFERS, 1));
    assert_eq!(bench.poll(), None);
    assert_eq!((bench.sent().len(), bench.woken()), (MAX_BUFFERS, 1));
    assert_eq!(bench.poll(), None);
    assert_eq!((bench.sent().len(), bench.woken()), (80 - 2 * MAX_BUFFERS, 0), "now the system wakes it");
}

#[test]
fn what_waits_is_bounded() {
    let (bench, [direct, ..]) = with_sessions();
    // The first run of a buffer stays in it; the other waits.
    let batch = [&b"Q".repeat(30_009)[..], &frame(5, &b"Q".repeat(30_000))].concat();
    let round = vec![(addr(1), 30_009, batch); 4];
    let mut bufs: Vec<Vec<u8>> = Vec::new();
    for (from, stride, bytes) in round.iter().cycle().take(80) {
        bufs.push(bench.receive(*from, *stride, bytes).0);
    }
    assert!(bufs.iter().all(|b| b.len() == 30_009), "the direct session is not concerned");
    let dropped = bench.drops.of(DropReason::QueueFull);
    let waiting: usize = bench.poll_all().iter().map(|(.., bytes)| bytes.len()).sum();
    assert_eq!(waiting, (2 << 20) / 30_000 * 30_000);
    assert_eq!(dropped, 80 - (2 << 20) / 30_000);
    assert_eq!(bench.receive(addr(1), 3, b"Abc").1, direct.addr());
}
