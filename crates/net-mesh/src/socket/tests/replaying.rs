//! Copies over a second route, and what is sent again over another one.

use net_mesh_proto::route::CircuitId;
use tokio::time::{Duration, advance};

use super::relaying::{addr, end, frame};
use super::*;

const RTT: Duration = Duration::from_millis(40);

fn straight(n: u8) -> Route {
    Route::Direct(addr(n))
}

impl Bench {
    /// QUIC sends a batch of packets, `segment` bytes each but the last.
    fn quic(&self, slot: SlotId, contents: &[u8], segment: usize) -> io::Result<()> {
        let segment_size = (contents.len() > segment).then_some(segment);
        let destination = slot.addr();
        self.socket.try_send(&Transmit { destination, ecn: None, contents, segment_size, src_ip: None })
    }

    /// The session's peer says something over `route`.
    fn hears(&self, from: SocketAddr) {
        let packet = [&[0x41], &our_id()[..], &[0; 21]].concat();
        assert!(!self.receive(from, 30, &packet).0.is_empty());
    }
}

fn sent(n: u8, segment: Option<usize>, bytes: &[u8]) -> Sent {
    Sent { to: addr(n), segment, bytes: bytes.to_vec() }
}

#[test]
fn a_copy_of_each_packet_goes_over_the_second_route_until_there_is_none() {
    let bench = bench();
    let slot = bench.session(straight(1), 1);
    bench.socket.apply(end(5, addr(9), 1, 6));
    assert!(bench.socket.set_route(slot, straight(2), Some(Route::Relayed(CircuitId(1)))));
    bench.quic(slot, &[7; 150], 100).unwrap();
    let copy = [frame(6, &[7; 100]), frame(6, &[7; 50])].concat();
    assert_eq!(bench.sent(), [sent(2, Some(100), &[7; 150]), sent(9, Some(109), &copy)]);
    let mut told: Vec<_> = bench.socket.sample(8).into_iter().map(|(_, r, t)| (r, t.sent)).collect();
    told.sort_unstable();
    assert_eq!(told, [(straight(2), 2), (Route::Relayed(CircuitId(1)), 2)]);
    assert!(bench.socket.set_route(slot, straight(2), Some(straight(2))));
    bench.quic(slot, &[8; 10], 10).unwrap();
    assert_eq!(bench.sent(), [sent(2, None, &[8; 10])], "no route is second to itself");
    assert!(bench.socket.set_route(slot, straight(2), None));
    bench.quic(slot, &[9; 10], 10).unwrap();
    assert_eq!(bench.sent(), [sent(2, None, &[9; 10])]);
}

#[test]
fn a_copy_that_cannot_leave_is_dropped_and_the_packet_leaves() {
    let bench = bench();
    let slot = bench.session(straight(1), 1);
    assert!(bench.socket.set_route(slot, straight(1), Some(straight(2))));
    bench.wire.refuses(addr(2), io::ErrorKind::WouldBlock);
    bench.quic(slot, &[7; 150], 100).unwrap();
    assert_eq!(bench.sent(), [sent(1, Some(100), &[7; 150])]);
    assert_eq!(bench.drops.of(DropReason::SendBufferFull), 2);
    assert_eq!(bench.socket.sample(8).len(), 1, "and it does not count as sent");
    bench.wire.refuses(addr(2), io::ErrorKind::NetworkUnreachable);
    bench.quic(slot, &[8; 10], 10).unwrap();
    assert_eq!(bench.sent(), [sent(1, None, &[8; 10])]);
    assert_eq!(bench.drops.of(DropReason::SendFailed), 1);
}

#[test]
fn a_second_route_that_is_another_peers_is_left_out() {
    let bench = bench();
    let slot = bench.session(straight(1), 1);
    bench.session(straight(2), 2);
    assert!(bench.socket.set_route(slot, straight(1), Some(straight(2))));
    bench.quic(slot, &[7; 10], 10).unwrap();
    assert_eq!(bench.sent(), [sent(1, None, &[7; 10])]);
}

#[tokio::test(start_paused = true)]
async fn what_was_sent_since_the_old_route_was_heard_goes_over_the_new_one_as_it_was() {
    let bench = bench();
    let slot = bench.session(straight(1), 1);
    bench.quic(slot, &[1; 100], 100).unwrap();
    advance(Duration::from_millis(100)).await;
    bench.quic(slot, &[2; 100], 100).unwrap();
    advance(Duration::from_millis(30)).await;
    bench.hears(addr(1));
    for n in 3..=4 {
        bench.quic(slot, &[n; 100], 100).unwrap();
    }
    bench.quic(slot, &[5; 60], 60).unwrap();
    assert!(bench.socket.set_route(slot, straight(2), Some(straight(1))));
    bench.sent();
    bench.socket.sample(8);
    advance(Duration::from_millis(200)).await;
    assert_eq!(bench.socket.replay(slot, straight(1), RTT), 360);
    let bytes = [&[2; 100][..], &[3; 100], &[4; 100], &[5; 60]].concat();
    assert_eq!(bench.sent(), [sent(2, Some(100), &bytes)], "one batch, no copies");
    let (_, route, traffic) = bench.socket.sample(8)[0];
    assert_eq!((route, traffic.sent), (straight(2), 4));
    assert_eq!(traffic.waiting.unwrap().since.as_millis(), 330);
    bench.socket.apply(end(5, addr(9), 1, 6));
    assert!(bench.socket.set_route(slot, Route::Relayed(CircuitId(1)), None));
    advance(Duration::from_millis(300)).await;
    assert_eq!(bench.socket.replay(slot, straight(2), RTT), 460, "nothing was ever heard there");
    let packets = [vec![1; 100], vec![2; 100], vec![3; 100], vec![4; 100], vec![5; 60]];
    let relayed: Vec<u8> = packets.iter().flat_map(|packet| frame(6, packet)).collect();
    assert_eq!(bench.sent(), [sent(9, Some(109), &relayed)]);
}

#[tokio::test(start_paused = true)]
async fn a_session_that_sends_nothing_for_ten_seconds_keeps_nothing() {
    let bench = bench();
    let slot = bench.session(straight(1), 1);
    bench.quic(slot, &[1; 100], 100).unwrap();
    advance(Duration::from_millis(9_900)).await;
    bench.socket.sweep();
    assert_eq!(bench.socket.replay(slot, straight(1), RTT), 100);
    advance(Duration::from_millis(9_900)).await;
    bench.socket.sweep();
    assert_eq!(bench.socket.replay(slot, straight(1), RTT), 100, "it was sent again");
    advance(Duration::from_millis(10_100)).await;
    bench.socket.sweep();
    assert_eq!(bench.socket.replay(slot, straight(1), RTT), 0);
    bench.socket.slots().release(slot);
    assert_eq!(bench.socket.replay(slot, straight(1), RTT), 0, "it is gone");
}

#[test]
fn what_was_sent_to_a_stranger_is_not_kept() {
    let bench = bench();
    let (_, from) = bench.receive(addr(1), 1200, &initial());
    bench.receive(addr(1), 30, &handshake());
    let slot = SlotId::of(from).unwrap();
    bench.quic(slot, &[1; 100], 100).unwrap();
    bench.socket.slots().settle(slot, NodeId([1; 32]));
    assert_eq!(bench.socket.replay(slot, straight(1), RTT), 0);
}

#[test]
fn no_more_is_sent_again_than_the_bound_and_in_pieces_that_the_system_takes() {
    let bench = bench();
    bench.wire.segments.store(10, Ordering::Relaxed);
    let slot = bench.session(straight(1), 1);
    for n in 0..20 {
        bench.quic(slot, &[n; 12_000], 1200).unwrap();
    }
    bench.sent();
    let bytes = bench.socket.replay(slot, straight(1), RTT);
    assert!((48_000..=64 << 10).contains(&bytes), "{bytes}");
    let again = bench.sent();
    assert!(again.iter().all(|piece| piece.segment == Some(1200) && piece.bytes.len() <= 12_000));
    assert_eq!(again.iter().map(|piece| piece.bytes.len()).sum::<usize>(), bytes);
    assert_eq!(again.last().unwrap().bytes, [19; 12_000]);
}

#[test]
fn what_a_full_buffer_turns_away_is_not_sent_again_and_counted() {
    let bench = bench();
    let slot = bench.session(straight(1), 1);
    bench.quic(slot, &[1; 300], 100).unwrap();
    bench.quic(slot, &[2; 200], 200).unwrap();
    bench.socket.sample(8);
    bench.wire.full.store(true, Ordering::Relaxed);
    assert_eq!(bench.socket.replay(slot, straight(1), RTT), 0);
    assert_eq!(bench.drops.of(DropReason::SendBufferFull), 4);
    assert_eq!(bench.socket.sample(8), []);
}
