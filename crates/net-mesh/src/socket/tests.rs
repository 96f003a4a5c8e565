use std::io::IoSliceMut;

use quinn_proto::ConnectionIdGenerator as _;

use super::*;

/// A socket that is never read and takes everything.
#[derive(Debug)]
struct Sink;

impl AsyncUdpSocket for Sink {
    fn create_io_poller(self: Arc<Self>) -> Pin<Box<dyn UdpPoller>> {
        Box::pin(AllWritable { pollers: vec![] })
    }
    fn try_send(&self, _: &Transmit<'_>) -> io::Result<()> {
        Ok(())
    }
    fn poll_recv(
        &self,
        _: &mut Context<'_>,
        _: &mut [IoSliceMut<'_>],
        _: &mut [RecvMeta],
    ) -> Poll<io::Result<usize>> {
        Poll::Pending
    }
    fn local_addr(&self) -> io::Result<SocketAddr> {
        Ok(SocketAddr::from(([192, 0, 2, 9], 9)))
    }
}

struct Bench {
    socket: Arc<MeshSocket>,
    inbox: mpsc::Receiver<Datagram>,
    drops: Arc<DropCounters>,
}

fn bench() -> Bench {
    let (tx, inbox) = mpsc::channel(INBOX);
    let ids = quinn_proto::HashedConnectionIdGenerator::from_key(1);
    let drops = Arc::new(DropCounters::default());
    let (clock, limits) = (Clock::start(), Limits::default());
    let socket = MeshSocket::new(vec![Arc::new(Sink)], tx, Arc::clone(&drops), ids, clock, limits).unwrap();
    Bench { socket, inbox, drops }
}

impl Bench {
    /// What QUIC gets of a GRO buffer from `source`, and under which address.
    fn receive(&self, source: SocketAddr, stride: usize, bytes: &[u8]) -> (Vec<u8>, SocketAddr) {
        let mut buf = bytes.to_vec();
        let mut meta = RecvMeta::default();
        (meta.addr, meta.len, meta.stride) = (source, bytes.len(), stride);
        self.socket.sort(&mut [IoSliceMut::new(&mut buf)], std::slice::from_mut(&mut meta));
        buf.truncate(meta.len);
        (buf, meta.addr)
    }
}

fn peer() -> SocketAddr {
    SocketAddr::from(([198, 51, 100, 1], 4433))
}

/// A QUIC version 1 Initial of 1200 bytes.
fn initial() -> Vec<u8> {
    let mut packet = vec![0xc3, 0, 0, 0, 1, 8];
    packet.extend_from_slice(b"dcid-of-");
    packet.resize(1200, 0);
    packet
}

/// A connection id that the node under test chose.
fn our_id() -> quinn::ConnectionId {
    quinn_proto::HashedConnectionIdGenerator::from_key(1).generate_cid()
}

/// A packet with a long header that answers the node under test, of 30 bytes.
fn handshake() -> Vec<u8> {
    let id = our_id();
    let mut packet = vec![0xe1, 0, 0, 0, 1, u8::try_from(id.len()).unwrap()];
    packet.extend_from_slice(&id);
    packet.resize(30, 0);
    packet
}

#[test]
fn every_stride_of_a_batch_is_sorted_by_its_own_first_byte() {
    let mut bench = bench();
    let slot = bench.socket.slots().dial(None, &[Route::Direct(peer())]).unwrap();
    let batch = [[0x41, 1, 1], [0x00, 2, 2], [0x42, 3, 3], [0x10, 4, 4], [0x43, 5, 5], [0x8f, 6, 6]].concat();
    let (left, from) = bench.receive(peer(), 3, &[batch, vec![0x44, 7]].concat());
    assert_eq!(left, [0x41, 1, 1, 0x42, 3, 3, 0x43, 5, 5, 0x44, 7]);
    assert_eq!(from, slot.addr());
    assert_eq!(
        bench.inbox.try_recv().unwrap(),
        Datagram::Stun { from: peer(), bytes: Bytes::from_static(&[0x00, 2, 2]) }
    );
    assert_eq!(bench.drops.of(DropReason::UnknownFirstByte), 1);
    assert_eq!(bench.drops.of(DropReason::UnknownFrame), 1);
}

#[test]
fn a_stranger_gets_a_slot_for_a_full_initial_and_for_nothing_less() {
    let bench = bench();
    assert!(bench.receive(peer(), 3, &[0x41, 1, 1]).0.is_empty());
    assert_eq!(bench.drops.of(DropReason::UnknownSource), 1);
    assert!(bench.receive(peer(), 600, &initial()[..600]).0.is_empty());
    assert_eq!(bench.drops.of(DropReason::ShortInitial), 1);
    let (left, from) = bench.receive(peer(), 1200, &initial());
    assert_eq!(left.len(), 1200);
    assert!(slots::SlotId::of(from).is_some());
    assert_eq!(bench.receive(peer(), 3, &[0x41, 1, 1]), (vec![0x41, 1, 1], from), "it is known now");
}

#[test]
fn a_route_is_proven_by_what_answers_us() {
    let bench = bench();
    let (_, from) = bench.receive(peer(), 1200, &initial());
    let routes = bench.socket.slots().routes(from).unwrap();
    assert_eq!(routes.chosen(), None);
    bench.receive(peer(), 30, &[0xe1; 30]);
    assert_eq!(routes.chosen(), None, "anyone could have sent that");
    bench.receive(peer(), 30, &handshake());
    assert_eq!(routes.chosen(), Some(Route::Direct(peer())));
}

#[test]
fn no_buffer_however_cut_makes_it_panic() {
    let bench = bench();
    let full = initial();
    for end in 0..40 {
        bench.receive(peer(), 7, &full[..end]);
    }
    for first in 0..=255u8 {
        bench.receive(peer(), 2, &[first, 0, first]);
        bench.receive(peer(), 1, &[first]);
    }
    assert_eq!(bench.socket.slots().provisional(), 0);
}

#[test]
fn a_full_inbox_drops_and_counts() {
    let bench = bench();
    for _ in 0..=INBOX {
        bench.receive(peer(), 2, &[0, 1]);
    }
    assert_eq!(bench.drops.of(DropReason::QueueFull), 1);
}
