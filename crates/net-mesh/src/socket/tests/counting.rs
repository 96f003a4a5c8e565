//! What is counted of a session's traffic, by route.

use net_mesh_proto::liveness::Traffic;
use net_mesh_proto::route::CircuitId;
use tokio::time::{Duration, advance, timeout};

use super::relaying::{addr, end, frame};
use super::*;

/// A packet of a session of the node under test, with a short header and `len` bytes.
fn data(id: &[u8], len: usize) -> Vec<u8> {
    let mut packet = [&[0x41], id].concat();
    packet.resize(len, 0);
    packet
}

fn batch(slot: SlotId, contents: &[u8], segment: usize) -> Transmit<'_> {
    let segment_size = (contents.len() > segment).then_some(segment);
    Transmit { destination: slot.addr(), ecn: None, contents, segment_size, src_ip: None }
}

fn straight(n: u8) -> Route {
    Route::Direct(addr(n))
}

/// What is told of the only route that has changed.
fn only(bench: &Bench) -> (SlotId, Route, Traffic) {
    let told = bench.socket.sample(8);
    assert_eq!(told.len(), 1, "{told:?}");
    told[0]
}

#[tokio::test(start_paused = true)]
async fn datagrams_are_counted_by_route_and_not_by_batch() {
    let bench = bench();
    let slot = bench.session(straight(1), 1);
    advance(Duration::from_millis(5)).await;
    bench.socket.try_send(&batch(slot, &[0x41; 250], 100)).unwrap();
    let (of, route, traffic) = only(&bench);
    assert_eq!((of, route, traffic.sent, traffic.received), (slot, straight(1), 3, 0));
    let waiting = traffic.waiting.unwrap();
    assert_eq!((waiting.since.as_millis(), waiting.count), (5, 3));
    advance(Duration::from_millis(5)).await;
    let id = our_id();
    bench.arrive(vec![(addr(1), 40, [data(&id, 40), data(&id, 40), data(&id, 30)].concat())]);
    bench.poll_all();
    let (_, _, traffic) = only(&bench);
    assert_eq!((traffic.sent, traffic.received, traffic.waiting), (3, 3, None));
    assert_eq!(traffic.heard.unwrap().as_millis(), 10);
    assert_eq!(bench.socket.sample(8), []);
}

#[test]
fn what_does_not_carry_a_connection_id_of_ours_is_no_sign_of_the_peer() {
    let bench = bench();
    bench.session(straight(1), 1);
    let (id, mut foreign) = (our_id(), our_id().to_vec());
    foreign[5] ^= 1;
    bench.arrive(vec![(addr(1), 40, [data(&foreign, 40), data(&id, 40), data(&foreign, 40)].concat())]);
    assert_eq!(bench.poll_all().len(), 1, "QUIC gets them all the same");
    assert_eq!(only(&bench).2.received, 1);
    bench.arrive(vec![(addr(1), 40, data(&foreign, 40))]);
    bench.poll_all();
    assert_eq!(bench.socket.sample(8), []);
}

#[test]
fn both_routes_of_a_session_count_what_comes_over_them() {
    let bench = bench();
    bench.socket.apply(end(5, addr(2), 1, 6));
    let (slot, circuit) = (bench.session(straight(1), 1), Route::Relayed(CircuitId(1)));
    assert!(bench.socket.set_route(slot, straight(1), Some(circuit)));
    let id = our_id();
    let relayed = [frame(5, &data(&id, 40)), frame(5, &data(&id, 40))].concat();
    bench.arrive(vec![(addr(1), 40, data(&id, 40)), (addr(2), 49, relayed)]);
    let got = bench.poll_all();
    assert!(got.iter().all(|(from, ..)| *from == slot.addr()));
    assert_eq!(got.iter().map(|(.., bytes)| bytes.len()).sum::<usize>(), 3 * 40);
    let mut told = bench.socket.sample(8);
    told.sort_by_key(|(_, route, _)| *route);
    let received: Vec<_> = told.iter().map(|(_, route, traffic)| (*route, traffic.received)).collect();
    assert_eq!(received, [(straight(1), 1), (circuit, 2)]);
}

#[test]
fn what_a_full_buffer_turns_away_is_not_sent_and_what_the_system_refuses_is_lost() {
    let bench = bench();
    let slot = bench.session(straight(1), 1);
    bench.wire.full.store(true, Ordering::Relaxed);
    assert!(bench.socket.try_send(&batch(slot, &[0x41; 40], 40)).is_err());
    assert_eq!(bench.socket.sample(8), []);
    bench.wire.full.store(false, Ordering::Relaxed);
    bench.wire.refuses(addr(1), io::ErrorKind::NetworkUnreachable);
    bench.socket.try_send(&batch(slot, &[0x41; 40], 40)).unwrap();
    assert_eq!(only(&bench).2.waiting.unwrap().count, 1);
    assert_eq!(bench.drops.of(DropReason::SendFailed), 1);
}

#[test]
fn frames_are_not_counted_as_a_sessions_traffic() {
    let bench = bench();
    let slot = bench.session(straight(1), 1);
    assert!(bench.socket.set_route(slot, straight(1), Some(straight(2))));
    assert!(bench.socket.send_frame(straight(1), b"\x81ping"));
    bench.arrive(vec![(addr(1), 6, b"\x82pong!".to_vec())]);
    bench.poll_all();
    assert_eq!(bench.socket.sample(8), []);
    assert_eq!(bench.sent().len(), 1, "nor copied");
}

#[tokio::test(start_paused = true)]
async fn a_strangers_handshake_wakes_nobody_until_its_peer_is_known() {
    let bench = bench();
    let (_, from) = bench.receive(addr(1), 1200, &initial());
    bench.receive(addr(1), 30, &handshake());
    let slot = SlotId::of(from).unwrap();
    bench.socket.try_send(&batch(slot, &[0xe1; 40], 40)).unwrap();
    assert!(timeout(Duration::from_secs(60), bench.socket.traffic()).await.is_err());
    assert_eq!(bench.socket.sample(8), []);
    bench.socket.slots().settle(slot, NodeId([1; 32]));
    assert!(timeout(Duration::from_secs(60), bench.socket.traffic()).await.is_ok());
    let (_, _, traffic) = only(&bench);
    assert_eq!((traffic.sent, traffic.received), (1, 1));
}

#[test]
fn the_system_says_whether_a_frame_could_leave() {
    let bench = bench();
    let frame = b"\x81ping";
    assert!(bench.socket.send_frame(straight(1), frame));
    for (error, taken) in [
        (io::ErrorKind::NetworkUnreachable, false),
        (io::ErrorKind::HostUnreachable, false),
        (io::ErrorKind::PermissionDenied, false),
        (io::ErrorKind::Other, true),
    ] {
        bench.wire.refuses(addr(2), error);
        assert_eq!(bench.socket.send_frame(straight(2), frame), taken, "{error:?}");
    }
    assert_eq!(bench.drops.of(DropReason::SendFailed), 4);
    let v6 = Route::Direct(SocketAddr::from((Ipv6Addr::LOCALHOST, 7)));
    assert!(!bench.socket.send_frame(v6, frame), "there is no such socket");
    bench.socket.apply(end(5, addr(2), 1, 6));
    bench.wire.refuses(addr(2), io::ErrorKind::NetworkUnreachable);
    assert!(!bench.socket.send_frame(Route::Relayed(CircuitId(1)), frame));
    bench.wire.full.store(true, Ordering::Relaxed);
    assert!(bench.socket.send_frame(straight(1), frame), "a full buffer says nothing of the route");
    assert_eq!(bench.drops.of(DropReason::SendBufferFull), 1);
}
