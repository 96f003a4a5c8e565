//! What the mesh socket promises. Here: telling datagrams apart.

mod any_buffer;
mod counting;
mod polling;
mod relaying;
mod replaying;

use std::collections::VecDeque;
use std::io::IoSliceMut;
use std::sync::Mutex;
use std::sync::atomic::AtomicBool;

use net_mesh_proto::id::NodeId;
use quinn_proto::ConnectionIdGenerator as _;

use super::*;

/// What left through a recorder.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Sent {
    to: SocketAddr,
    segment: Option<usize>,
    bytes: Vec<u8>,
}

/// A GRO buffer: who sent it, how long each datagram is, and the datagrams.
type Arrival = (SocketAddr, usize, Vec<u8>);

/// A socket that receives what a test hands it, and notes what is sent.
#[derive(Debug, Default)]
struct Recorder {
    sent: Mutex<Vec<Sent>>,
    /// Rounds of receiving to come; each fills as many buffers as it has entries.
    rounds: Mutex<VecDeque<Vec<Arrival>>>,
    full: AtomicBool,
    /// Where nothing can be sent, and why.
    refused: Mutex<Option<(SocketAddr, io::ErrorKind)>>,
    segments: AtomicUsize,
}

impl Recorder {
    /// Sending to `addr` fails from now on.
    fn refuses(&self, addr: SocketAddr, error: io::ErrorKind) {
        *self.refused.lock().unwrap() = Some((addr, error));
    }
}

impl AsyncUdpSocket for Recorder {
    fn create_io_poller(self: Arc<Self>) -> Pin<Box<dyn UdpPoller>> {
        Box::pin(AllWritable { pollers: vec![] })
    }
    fn try_send(&self, transmit: &Transmit<'_>) -> io::Result<()> {
        if self.full.load(Ordering::Relaxed) {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        if let Some((to, error)) = *self.refused.lock().unwrap()
            && to == transmit.destination
        {
            return Err(error.into());
        }
        self.sent.lock().unwrap().push(Sent {
            to: transmit.destination,
            segment: transmit.segment_size,
            bytes: transmit.contents.to_vec(),
        });
        Ok(())
    }
    fn poll_recv(
        &self,
        _: &mut Context<'_>,
        bufs: &mut [IoSliceMut<'_>],
        metas: &mut [RecvMeta],
    ) -> Poll<io::Result<usize>> {
        let Some(round) = self.rounds.lock().unwrap().pop_front() else { return Poll::Pending };
        let count = round.len();
        for ((buf, meta), (from, stride, bytes)) in bufs.iter_mut().zip(metas).zip(round) {
            buf[..bytes.len()].copy_from_slice(&bytes);
            *meta = RecvMeta::default();
            (meta.addr, meta.len, meta.stride) = (from, bytes.len(), stride);
        }
        Poll::Ready(Ok(count))
    }
    fn max_transmit_segments(&self) -> usize {
        self.segments.load(Ordering::Relaxed)
    }
    fn local_addr(&self) -> io::Result<SocketAddr> {
        Ok(SocketAddr::from(([192, 0, 2, 9], 9)))
    }
}

/// Counts how often it wakes.
#[derive(Debug, Default)]
struct Wakes(AtomicUsize);

impl std::task::Wake for Wakes {
    fn wake(self: Arc<Self>) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }
}

struct Bench {
    socket: Arc<MeshSocket>,
    wire: Arc<Recorder>,
    inbox: mpsc::Receiver<Datagram>,
    drops: Arc<DropCounters>,
    wakes: Arc<Wakes>,
}

fn bench() -> Bench {
    let (tx, inbox) = mpsc::channel(INBOX);
    let ids = quinn_proto::HashedConnectionIdGenerator::from_key(1);
    let drops = Arc::new(DropCounters::default());
    let wire = Arc::new(Recorder { segments: 64.into(), ..Recorder::default() });
    let (clock, limits) = (Clock::start(), Limits::default());
    let wires = vec![Arc::clone(&wire) as _];
    let socket = MeshSocket::new(wires, tx, Arc::clone(&drops), ids, clock, limits).unwrap();
    Bench { socket, wire, inbox, drops, wakes: Arc::default() }
}

/// What QUIC got: under which address, how long each datagram is, and the datagrams.
type Got = (SocketAddr, usize, Vec<u8>);

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

    /// Lets a round of buffers arrive.
    fn arrive(&self, round: Vec<Arrival>) {
        self.wire.rounds.lock().unwrap().push_back(round);
    }

    /// One call of QUIC's, with four buffers of 64 KiB. `None` if nothing is ready.
    fn poll(&self) -> Option<Vec<Got>> {
        let mut space = vec![0; 4 << 16];
        let mut bufs: Vec<_> = space.chunks_mut(1 << 16).map(IoSliceMut::new).collect();
        let mut metas = [RecvMeta::default(); 4];
        let waker = Arc::clone(&self.wakes).into();
        match self.socket.poll_recv(&mut Context::from_waker(&waker), &mut bufs, &mut metas) {
            Poll::Pending => None,
            Poll::Ready(count) => {
                let filled = bufs.iter().zip(&metas).take(count.unwrap());
                Some(filled.map(|(b, m)| (m.addr, m.stride, b[..m.len].to_vec())).collect())
            }
        }
    }

    /// Everything that QUIC gets until nothing is ready, empty buffers left out.
    fn poll_all(&self) -> Vec<Got> {
        let mut all = Vec::new();
        while let Some(got) = self.poll() {
            all.extend(got.into_iter().filter(|(_, _, bytes)| !bytes.is_empty()));
        }
        all
    }

    fn sent(&self) -> Vec<Sent> {
        std::mem::take(&mut *self.wire.sent.lock().unwrap())
    }

    fn woken(&self) -> usize {
        self.wakes.0.swap(0, Ordering::Relaxed)
    }

    /// A session with the peer behind `route`, which has proven it.
    fn session(&self, route: Route, peer: u8) -> SlotId {
        let peer = NodeId([peer; 32]);
        let slot = self.socket.slots().dial(Some(peer), &[route]).unwrap();
        self.socket.slots().prove(slot, route);
        assert_eq!(self.socket.slots().settle(slot, peer), Some(route));
        slot
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

#[test]
fn pings_and_pongs_go_to_the_driver_and_other_frames_nowhere() {
    let mut bench = bench();
    assert!(bench.receive(peer(), 3, &[0x81, 1, 1, 0x82, 2, 2, 0x83, 3, 3, 0xbf, 4]).0.is_empty());
    let route = Route::Direct(peer());
    for bytes in [[0x81, 1, 1], [0x82, 2, 2]] {
        let bytes = Bytes::copy_from_slice(&bytes);
        assert_eq!(bench.inbox.try_recv().unwrap(), Datagram::Frame { route, bytes });
    }
    assert!(bench.inbox.try_recv().is_err());
    assert_eq!(bench.drops.of(DropReason::UnknownFrame), 2);
}

#[test]
fn another_node_at_an_address_that_a_session_never_reached_is_let_in() {
    let bench = bench();
    let (reached, elsewhere) = (Route::Direct(SocketAddr::from(([192, 0, 2, 1], 1))), Route::Direct(peer()));
    let slots = bench.socket.slots();
    let slot = slots.dial(Some(NodeId([1; 32])), &[reached, elsewhere]).unwrap();
    slots.prove(slot, reached);
    assert_eq!(
        bench.receive(peer(), 1200, &initial()).1,
        slot.addr(),
        "it may be the peer until it is settled"
    );
    slots.settle(slot, NodeId([1; 32]));
    assert_eq!(bench.receive(peer(), 30, &[0x41; 30]).1, slot.addr(), "it may be the peer");
    let (left, from) = bench.receive(peer(), 1200, &initial());
    assert_eq!(left.len(), 1200);
    assert_ne!(from, slot.addr());
    assert_eq!(bench.receive(peer(), 30, &handshake()).1, from, "the route is the newcomer's");
    assert!(slots.by_source(elsewhere).unwrap().proven);
}

#[test]
fn a_peer_that_starts_anew_on_its_proven_route_keeps_its_slot() {
    let bench = bench();
    let slot = bench.session(Route::Direct(peer()), 1);
    assert_eq!(bench.receive(peer(), 1200, &initial()).1, slot.addr());
}

#[test]
fn data_of_a_session_proves_nothing_for_a_strangers_handshake() {
    let bench = bench();
    let (_, from) = bench.receive(peer(), 1200, &initial());
    bench.receive(peer(), 30, &[&[0x41], &our_id()[..], &[0; 21]].concat());
    assert_eq!(bench.socket.slots().routes(from).unwrap().chosen(), None);
}

#[tokio::test(start_paused = true)]
async fn packets_of_an_earlier_run_reach_quic_so_that_it_can_say_so_but_not_many() {
    let bench = bench();
    let packet = [&[0x41], &our_id()[..], &[0; 21]].concat();
    let (left, from) = bench.receive(peer(), 30, &packet);
    assert_eq!(left, packet);
    let answer =
        Transmit { destination: from, ecn: None, contents: &[0x41; 22], segment_size: None, src_ip: None };
    bench.socket.try_send(&answer).unwrap();
    assert_eq!(bench.sent(), [Sent { to: peer(), segment: None, bytes: vec![0x41; 22] }]);
    assert!(bench.receive(peer(), 30, &packet).0.is_empty(), "too soon");
    tokio::time::advance(std::time::Duration::from_millis(21)).await;
    assert_eq!(bench.receive(peer(), 30, &packet).1, from);
    tokio::time::advance(std::time::Duration::from_millis(21)).await;
    bench.socket.sweep();
    bench.socket.try_send(&answer).unwrap();
    assert!(bench.sent().is_empty(), "it is forgotten");
    let mut foreign = packet.clone();
    foreign[3] ^= 1;
    for packet in [&foreign[..], &packet[..22]] {
        assert!(bench.receive(peer(), 30, packet).0.is_empty());
    }
    assert!(bench.socket.slots().by_source(Route::Direct(peer())).is_none());
    assert_eq!(bench.drops.of(DropReason::UnknownSource), 3);
}

#[tokio::test(start_paused = true)]
async fn packets_of_a_live_session_from_a_new_address_are_dropped_and_never_answered() {
    let bench = bench();
    let (old, new) = (Route::Direct(peer()), SocketAddr::from(([198, 51, 100, 1], 4999)));
    let slot = bench.session(old, 1);
    let packet = [&[0x41], &our_id()[..], &[0; 21]].concat();
    assert_eq!(bench.receive(peer(), 30, &packet), (packet.clone(), slot.addr()));
    for _ in 0..5 {
        tokio::time::advance(std::time::Duration::from_millis(21)).await;
        assert!(bench.receive(new, 30, &packet).0.is_empty(), "QUIC would not, but must not have to know");
    }
    assert_eq!(bench.drops.of(DropReason::UnknownSource), 5);
    assert!(bench.socket.accept(slot, Route::Direct(new)));
    assert_eq!(bench.receive(new, 30, &packet), (packet.clone(), slot.addr()));
    bench.socket.slots().release(slot);
    let (left, from) = bench.receive(new, 30, &packet);
    assert_eq!(left, packet, "now it is a packet of a session that is gone");
    assert_ne!(from, slot.addr());
}
