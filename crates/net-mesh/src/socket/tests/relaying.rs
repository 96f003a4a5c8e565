//! Relayed datagrams: forwarding, circuits that end here, and frames that come too early.

use std::time::Duration;

use net_mesh_proto::relay::Change;
use net_mesh_proto::route::CircuitId;
use net_mesh_proto::time::Time;
use net_mesh_proto::wire::frame::relay_header;

use super::*;

pub(super) fn addr(n: u8) -> SocketAddr {
    SocketAddr::from(([203, 0, 113, n], 7))
}

pub(super) fn forward(label: u64, from: SocketAddr, to: SocketAddr, out: u64) -> Change {
    let expires = Time::from_nanos(u64::MAX);
    Change::Forward { label, from, to, out, user: NodeId([7; 32]), expires }
}

pub(super) fn end(label: u64, from: SocketAddr, circuit: u64, out: u64) -> Change {
    Change::End { label, from, circuit: CircuitId(circuit), out, expires: Time::from_nanos(u64::MAX) }
}

pub(super) fn frame(label: u64, payload: &[u8]) -> Vec<u8> {
    [&relay_header(label), payload].concat()
}

fn run(label: u64, payloads: &[&[u8]]) -> Vec<u8> {
    payloads.iter().flat_map(|p| frame(label, p)).collect()
}

fn circuit(n: u64) -> Route {
    Route::Relayed(CircuitId(n))
}

#[test]
fn a_run_with_one_label_is_sent_on_as_one_batch_under_its_new_label() {
    let bench = bench();
    bench.socket.apply(forward(5, addr(1), addr(2), 6));
    let payloads: Vec<Vec<u8>> = (0..10).map(|n| vec![0x41 + n; 100]).collect();
    let mut payloads: Vec<&[u8]> = payloads.iter().map(Vec::as_slice).collect();
    payloads.push(&[0x55; 7]);
    bench.arrive(vec![(addr(1), 109, run(5, &payloads))]);
    assert_eq!(bench.poll(), None);
    assert_eq!(bench.sent(), [Sent { to: addr(2), segment: Some(109), bytes: run(6, &payloads) }]);
}

#[test]
fn each_label_of_a_mixed_buffer_goes_its_own_way() {
    let bench = bench();
    bench.socket.apply(forward(5, addr(1), addr(2), 6));
    bench.socket.apply(forward(8, addr(1), addr(3), 9));
    let batch = [run(5, &[b"aa", b"bb"]), run(8, &[b"cc"]), run(5, &[b"dd"]), run(4, &[b"ee"])].concat();
    bench.arrive(vec![(addr(1), 11, batch)]);
    assert_eq!(bench.poll(), None);
    let sent = |to, segment, bytes| Sent { to: addr(to), segment, bytes };
    assert_eq!(
        bench.sent(),
        [
            sent(2, Some(11), run(6, &[b"aa", b"bb"])),
            sent(3, None, run(9, &[b"cc"])),
            sent(2, None, run(6, &[b"dd"])),
        ]
    );
    assert_eq!(bench.drops.of(DropReason::UnknownLabel), 1);
}

#[test]
fn a_label_is_worth_nothing_from_another_address() {
    let bench = bench();
    bench.socket.apply(forward(5, addr(1), addr(2), 6));
    bench.arrive(vec![(addr(4), 11, run(5, &[b"aa", b"bb"]))]);
    assert_eq!(bench.poll(), None);
    assert!(bench.sent().is_empty());
    assert_eq!(bench.drops.of(DropReason::UnknownLabel), 2);
}

#[test]
fn a_run_longer_than_the_system_takes_is_sent_in_pieces() {
    let bench = bench();
    bench.wire.segments.store(4, Ordering::Relaxed);
    bench.socket.apply(forward(5, addr(1), addr(2), 6));
    bench.arrive(vec![(addr(1), 10, run(5, &[&b"x"[..]; 9]))]);
    bench.poll();
    let sizes: Vec<_> = bench.sent().iter().map(|s| (s.segment, s.bytes.len())).collect();
    assert_eq!(sizes, [(Some(10), 40), (Some(10), 40), (None, 10)]);
}

#[test]
fn what_a_full_send_buffer_refuses_to_forward_is_counted_and_lost() {
    let bench = bench();
    bench.socket.apply(forward(5, addr(1), addr(2), 6));
    bench.wire.full.store(true, Ordering::Relaxed);
    bench.arrive(vec![(addr(1), 10, run(5, &[&b"x"[..]; 9]))]);
    assert_eq!(bench.poll(), None);
    assert_eq!(bench.drops.of(DropReason::SendBufferFull), 9);
}

#[test]
fn what_ends_here_reaches_the_slot_of_its_circuit_without_its_header() {
    let bench = bench();
    bench.socket.apply(end(5, addr(1), 1, 6));
    let slot = bench.session(circuit(1), 1);
    bench.arrive(vec![(addr(1), 12, run(5, &[b"Abc", b"Bcd", b"Ce"]))]);
    assert_eq!(bench.poll(), Some(vec![(slot.addr(), 3, b"AbcBcdCe".to_vec())]));
}

#[test]
fn a_stranger_over_a_circuit_gets_a_slot_and_is_answered_over_the_circuit() {
    let bench = bench();
    bench.socket.apply(end(5, addr(1), 1, 6));
    bench.arrive(vec![(addr(1), 1209, frame(5, &initial()))]);
    let got = bench.poll().unwrap();
    let (from, ..) = got[0];
    assert_eq!(got, [(from, 1200, initial())]);
    let answer =
        Transmit { destination: from, ecn: None, contents: b"Yes", segment_size: None, src_ip: None };
    bench.socket.try_send(&answer).unwrap();
    assert_eq!(bench.sent(), [Sent { to: addr(1), segment: None, bytes: frame(6, b"Yes") }]);
    bench.arrive(vec![(addr(1), 39, frame(5, &handshake()))]);
    bench.poll_all();
    assert_eq!(bench.socket.slots().routes(from).unwrap().chosen(), Some(circuit(1)));
}

#[test]
fn an_initial_is_sprayed_over_addresses_and_a_circuit_until_one_way_answers() {
    let bench = bench();
    bench.socket.apply(end(5, addr(1), 1, 6));
    let ways = [Route::Direct(addr(2)), circuit(1)];
    let slot = bench.socket.slots().dial(None, &ways).unwrap();
    let packet =
        Transmit { destination: slot.addr(), ecn: None, contents: b"Ini", segment_size: None, src_ip: None };
    bench.socket.try_send(&packet).unwrap();
    let straight = Sent { to: addr(2), segment: None, bytes: b"Ini".to_vec() };
    let relayed = Sent { to: addr(1), segment: None, bytes: frame(6, b"Ini") };
    assert_eq!(bench.sent(), [straight, relayed.clone()]);
    bench.arrive(vec![(addr(1), 39, frame(5, &handshake()))]);
    bench.poll_all();
    bench.socket.try_send(&packet).unwrap();
    assert_eq!(bench.sent(), [relayed]);
    assert_eq!(bench.socket.slots().settle(slot, NodeId([1; 32])), Some(circuit(1)));
}

#[test]
fn a_batch_over_a_circuit_leaves_as_one_batch_with_a_header_per_packet() {
    let bench = bench();
    bench.socket.apply(end(5, addr(1), 1, 6));
    let slot = bench.session(circuit(1), 1);
    let contents: Vec<u8> = [[0x41; 50], [0x42; 50], [0x43; 50]].concat();
    let packets = Transmit {
        destination: slot.addr(),
        ecn: None,
        contents: &contents[..120],
        segment_size: Some(50),
        src_ip: None,
    };
    bench.socket.try_send(&packets).unwrap();
    let bytes = run(6, &[&[0x41; 50], &[0x42; 50], &[0x43; 20]]);
    assert_eq!(bench.sent(), [Sent { to: addr(1), segment: Some(59), bytes }]);
    bench.wire.full.store(true, Ordering::Relaxed);
    assert_eq!(bench.socket.try_send(&packets).unwrap_err().kind(), io::ErrorKind::WouldBlock);
}

#[test]
fn headers_never_make_a_batch_larger_than_the_system_takes() {
    let bench = bench();
    bench.socket.apply(end(5, addr(1), 1, 6));
    let slot = bench.session(circuit(1), 1);
    let contents = vec![0x41; 64 * 1020];
    let packets = Transmit {
        destination: slot.addr(),
        ecn: None,
        contents: &contents,
        segment_size: Some(1020),
        src_ip: None,
    };
    bench.socket.try_send(&packets).unwrap();
    let sizes: Vec<_> = bench.sent().iter().map(|s| s.bytes.len()).collect();
    assert_eq!(sizes, [63 * 1029, 1029], "64 of 1029 bytes would be more than 65507");
}

#[test]
fn frames_of_ours_travel_over_circuits_too() {
    let mut bench = bench();
    bench.socket.apply(end(5, addr(1), 1, 6));
    assert!(bench.socket.send_frame(circuit(1), b"\x81ping"));
    assert_eq!(bench.sent(), [Sent { to: addr(1), segment: None, bytes: frame(6, b"\x81ping") }]);
    bench.arrive(vec![(addr(1), 14, run(5, &[b"\x82pong", b"\x80nest", b"\x00stun", b"\x10what"]))]);
    assert_eq!(bench.poll(), None);
    let bytes = Bytes::from_static(b"\x82pong");
    assert_eq!(bench.inbox.try_recv().unwrap(), Datagram::Frame { route: circuit(1), bytes });
    assert!(bench.inbox.try_recv().is_err(), "STUN says where a datagram came from, and this one did not");
    assert_eq!(bench.drops.of(DropReason::UnknownFrame), 1);
    assert_eq!(bench.drops.of(DropReason::UnknownFirstByte), 2);
    assert!(!bench.socket.send_frame(circuit(2), b"\x81ping"));
    assert!(bench.sent().is_empty());
    assert_eq!(bench.drops.of(DropReason::UnknownLabel), 1);
}

#[test]
fn a_frame_without_payload_is_malformed() {
    let bench = bench();
    bench.socket.apply(forward(5, addr(1), addr(2), 6));
    bench.arrive(vec![(addr(1), 9, run(5, &[b"", b""])), (addr(1), 4, vec![0x80, 1, 2, 3, 0x80, 0])]);
    assert_eq!(bench.poll(), None);
    assert_eq!(bench.drops.of(DropReason::MalformedFrame), 4);
    assert!(bench.sent().is_empty());
}

#[tokio::test(start_paused = true)]
async fn frames_that_overtook_their_label_are_handled_when_it_comes() {
    let bench = bench();
    bench.session(Route::Direct(addr(1)), 1);
    let slot = bench.session(circuit(1), 2);
    bench.arrive(vec![(addr(1), 12, run(5, &[b"Abc", b"Bcd"]))]);
    bench.arrive(vec![(addr(1), 12, run(8, &[b"Cde", b"Def"]))]);
    assert_eq!(bench.poll(), None);
    tokio::time::advance(Duration::from_millis(200)).await;
    bench.socket.apply(end(5, addr(1), 1, 6));
    assert_eq!(bench.woken(), 1, "QUIC is told that there is something");
    assert_eq!(bench.poll(), Some(vec![(slot.addr(), 3, b"AbcBcd".to_vec())]));
    bench.socket.apply(forward(8, addr(1), addr(3), 9));
    assert_eq!(bench.sent(), [Sent { to: addr(3), segment: Some(12), bytes: run(9, &[b"Cde", b"Def"]) }]);
    assert_eq!(bench.poll(), None);
    assert_eq!(bench.drops.of(DropReason::UnknownLabel), 0);
}

#[tokio::test(start_paused = true)]
async fn frames_without_a_label_are_kept_for_members_only_few_and_not_for_long() {
    let bench = bench();
    bench.session(Route::Direct(addr(1)), 1);
    bench.arrive(vec![(addr(4), 12, run(5, &[b"Abc", b"Bcd"]))]);
    assert_eq!(bench.poll(), None);
    assert_eq!(bench.drops.of(DropReason::UnknownLabel), 2, "from a stranger");
    for _ in 0..3 {
        bench.arrive(vec![(addr(1), 12, run(5, &[&b"Abc"[..]; 10]))]);
    }
    assert_eq!(bench.poll(), None);
    assert_eq!(bench.drops.of(DropReason::UnknownLabel), 2 + 14, "16 are kept of 30");
    tokio::time::advance(Duration::from_millis(251)).await;
    bench.socket.sweep();
    assert_eq!(bench.drops.of(DropReason::UnknownLabel), 2 + 30);
    bench.socket.apply(forward(5, addr(1), addr(3), 9));
    assert!(bench.sent().is_empty());
    bench.arrive(vec![(addr(1), 15_000, frame(6, &[0; 14_991])), (addr(1), 15_000, frame(6, &[0; 14_991]))]);
    assert_eq!(bench.poll(), None);
    assert_eq!(bench.drops.of(DropReason::UnknownLabel), 2 + 30 + 1, "25600 bytes are kept of 30000");
}

#[tokio::test(start_paused = true)]
async fn a_neighbour_whose_label_never_comes_takes_no_room_from_the_others() {
    let bench = bench();
    for n in 1..=6 {
        bench.session(Route::Direct(addr(n)), n);
    }
    for n in [1, 1, 1, 1, 2, 3, 4] {
        bench.arrive(vec![(addr(n), 12, run(n.into(), &[&b"Abc"[..]; 16]))]);
    }
    assert_eq!(bench.poll(), None);
    assert_eq!(bench.drops.of(DropReason::UnknownLabel), 3 * 16);
    bench.arrive(vec![(addr(5), 12, run(5, &[&b"Abc"[..]; 16]))]);
    assert_eq!(bench.poll(), None);
    assert_eq!(bench.drops.of(DropReason::UnknownLabel), 4 * 16, "all of them together are bounded too");
    bench.socket.apply(forward(2, addr(2), addr(9), 12));
    assert_eq!(bench.sent().iter().map(|sent| sent.bytes.len()).sum::<usize>(), 16 * 12);
    bench.arrive(vec![(addr(5), 12, run(5, &[&b"Abc"[..]; 16]))]);
    assert_eq!(bench.poll(), None);
    assert_eq!(bench.drops.of(DropReason::UnknownLabel), 4 * 16, "there is room again");
}
