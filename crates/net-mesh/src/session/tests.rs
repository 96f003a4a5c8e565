//! Sessions over a network in memory, in virtual time.

use std::collections::{HashMap, VecDeque};
use std::io::{self, IoSliceMut};
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use bytes::Bytes;
use net_mesh_proto::drops::DropReason;
use net_mesh_proto::id::NodeId;
use net_mesh_proto::node::{DialFailure, DialId, Switch};
use net_mesh_proto::relay::{Change, Limits};
use net_mesh_proto::route::{CircuitId, Route};
use net_mesh_proto::time::Time;
use quinn::udp::{RecvMeta, Transmit};
use quinn::{AsyncUdpSocket, ConnectionError, RecvStream, SendStream, UdpPoller};
use tokio::sync::mpsc;
use tokio::time::timeout;

use super::{HANDSHAKE_TIMEOUT, LINGER, Link, Served, Services, Sessions};
use crate::driver::{Clock, Signal};
use crate::identity::{Identity, MeshSecret, NodeKey};
use crate::socket::MeshSocket;

/// What waits for a socket: from whom, and what.
#[derive(Default)]
struct Inbox {
    queue: VecDeque<(SocketAddr, Vec<u8>)>,
    reader: Option<Waker>,
    /// Tells the socket that has the address from those that had it before.
    socket: usize,
}

/// A network without loss. Datagrams to one address are late.
struct Net {
    inboxes: Mutex<HashMap<SocketAddr, Inbox>>,
    late: Option<SocketAddr>,
    /// A socket behind a NAT, and the address it is seen at.
    nat: Mutex<Option<(SocketAddr, SocketAddr)>>,
    bound: AtomicUsize,
}

const LATE: Duration = Duration::from_millis(50);

impl Net {
    fn new(late: Option<SocketAddr>) -> Arc<Self> {
        Arc::new(Self { inboxes: Mutex::default(), late, nat: Mutex::default(), bound: AtomicUsize::new(0) })
    }

    /// A socket at `local`. Whoever had the address before is cut off.
    fn bind(self: &Arc<Self>, local: SocketAddr) -> Arc<dyn AsyncUdpSocket> {
        let number = self.bound.fetch_add(1, Ordering::Relaxed);
        self.inboxes.lock().unwrap().insert(local, Inbox { socket: number, ..Inbox::default() });
        Arc::new(MemorySocket { net: Arc::clone(self), local, number })
    }

    /// Cuts off the socket at `local`.
    fn unplug(&self, local: SocketAddr) {
        self.inboxes.lock().unwrap().remove(&local);
    }

    /// Lets the socket at `local` be seen, and reached, at `outside` alone.
    fn rebind(&self, local: SocketAddr, outside: SocketAddr) {
        *self.nat.lock().unwrap() = Some((local, outside));
    }

    fn deliver(&self, from: SocketAddr, to: SocketAddr, bytes: Vec<u8>) {
        let (mut from, mut to) = (from, to);
        if let Some((local, outside)) = *self.nat.lock().unwrap() {
            if to == local {
                return;
            }
            from = if from == local { outside } else { from };
            to = if to == outside { local } else { to };
        }
        let reader = self.inboxes.lock().unwrap().get_mut(&to).and_then(|inbox| {
            inbox.queue.push_back((from, bytes));
            inbox.reader.take()
        });
        if let Some(reader) = reader {
            reader.wake();
        }
    }
}

struct MemorySocket {
    net: Arc<Net>,
    local: SocketAddr,
    number: usize,
}

impl MemorySocket {
    /// What is left for this socket; `None` once it is cut off.
    fn inbox<T>(&self, f: impl FnOnce(&mut Inbox) -> T) -> Option<T> {
        let mut inboxes = self.net.inboxes.lock().unwrap();
        inboxes.get_mut(&self.local).filter(|inbox| inbox.socket == self.number).map(f)
    }
}

impl std::fmt::Debug for MemorySocket {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.local.fmt(f)
    }
}

#[derive(Debug)]
struct Writable;

impl UdpPoller for Writable {
    fn poll_writable(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

impl AsyncUdpSocket for MemorySocket {
    fn create_io_poller(self: Arc<Self>) -> Pin<Box<dyn UdpPoller>> {
        Box::pin(Writable)
    }

    fn try_send(&self, transmit: &Transmit<'_>) -> io::Result<()> {
        let (net, from, to) = (Arc::clone(&self.net), self.local, transmit.destination);
        let bytes = transmit.contents.to_vec();
        if self.inbox(|_| ()).is_none() {
            return Ok(());
        }
        if net.late == Some(to) {
            tokio::spawn(async move {
                tokio::time::sleep(LATE).await;
                net.deliver(from, to, bytes);
            });
        } else {
            net.deliver(from, to, bytes);
        }
        Ok(())
    }

    fn poll_recv(
        &self,
        cx: &mut Context<'_>,
        bufs: &mut [IoSliceMut<'_>],
        metas: &mut [RecvMeta],
    ) -> Poll<io::Result<usize>> {
        let next = self.inbox(|inbox| {
            let next = inbox.queue.pop_front();
            if next.is_none() {
                inbox.reader = Some(cx.waker().clone());
            }
            next
        });
        let Some(Some((from, bytes))) = next else { return Poll::Pending };
        bufs[0][..bytes.len()].copy_from_slice(&bytes);
        metas[0] = RecvMeta::default();
        (metas[0].addr, metas[0].len, metas[0].stride) = (from, bytes.len(), bytes.len());
        Poll::Ready(Ok(1))
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        Ok(self.local)
    }
}

/// Notes the application's datagrams, and serves nothing else.
struct Ear(mpsc::UnboundedSender<Bytes>);

impl Services for Ear {
    fn connected(&self, _: &Arc<Link>) {}
    fn events(&self, _: Arc<Link>, _: SendStream, _: RecvStream) -> Served {
        Box::pin(std::future::ready(()))
    }
    fn push(&self, _: Arc<Link>, _: SendStream, _: RecvStream) -> Served {
        Box::pin(std::future::ready(()))
    }
    fn account(&self, _: NodeId) -> Option<Vec<u8>> {
        None
    }
    fn stream(&self, _: Arc<Link>, _: SendStream, _: RecvStream) {}
    fn datagram(&self, _: NodeId, payload: Bytes) {
        let _ = self.0.send(payload);
    }
}

struct Node {
    sessions: Arc<Sessions>,
    socket: Arc<MeshSocket>,
    signals: mpsc::Receiver<Signal>,
    heard: mpsc::UnboundedReceiver<Bytes>,
}

fn addr(n: u8) -> SocketAddr {
    SocketAddr::from(([192, 0, 2, n], 7))
}

fn id(key: u8) -> NodeId {
    NodeKey::from_bytes([key; 32]).id()
}

/// A node of the mesh with this secret, listening on `addr(key)`.
fn node(net: &Arc<Net>, secret: u8, key: u8) -> Node {
    let secret = MeshSecret::from_bytes([secret; 32]);
    let identity = Identity::from_secret(&secret, &NodeKey::from_bytes([key; 32])).unwrap();
    let (inbox, _) = mpsc::channel(1);
    let ids = super::connection_ids(&identity);
    let wires = vec![net.bind(addr(key))];
    let socket =
        MeshSocket::new(wires, inbox, Arc::default(), ids, Clock::start(), Limits::default()).unwrap();
    let (tell, signals) = mpsc::channel(64);
    let (ear, heard) = mpsc::unbounded_channel();
    let sessions =
        Sessions::start(identity, None, Arc::clone(&socket), tell, Arc::new(Ear(ear))).ok().unwrap();
    Node { sessions, socket, signals, heard }
}

impl Node {
    /// How a dial of the node with this key over these routes ends.
    async fn dial(&mut self, key: u8, routes: &[Route]) -> Result<Arc<Link>, DialFailure> {
        tokio::spawn(Arc::clone(&self.sessions).dial(DialId(1), Some(id(key)), routes.to_vec()));
        loop {
            match self.signals.recv().await.unwrap() {
                Signal::Connected { link, dial: Some(_), .. } => return Ok(link),
                Signal::DialFailed { failure, .. } => return Err(failure),
                _ => {}
            }
        }
    }

    /// The application's next datagram.
    async fn hears(&mut self) -> Bytes {
        timeout(Duration::from_secs(1), self.heard.recv()).await.unwrap().unwrap()
    }

    async fn connected(&mut self) -> Arc<Link> {
        loop {
            if let Signal::Connected { link, .. } = self.signals.recv().await.unwrap() {
                return link;
            }
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_peer_is_found_though_a_stranger_answers_first_at_one_of_its_addresses() {
    let net = Net::new(Some(addr(2)));
    let (mut caller, _peer) = (node(&net, 1, 1), node(&net, 1, 2));
    let (_of_another_mesh, _another_member) = (node(&net, 9, 3), node(&net, 1, 4));
    let routes = [3, 4, 2].map(|n| Route::Direct(addr(n)));
    let link = caller.dial(2, &routes).await.unwrap();
    assert_eq!((link.peer, link.route), (id(2), routes[2]));
    assert_eq!(caller.socket.slots().routes(link.slot.addr()).unwrap().chosen(), Some(routes[2]));
    assert_eq!(caller.dial(5, &routes[..2]).await.unwrap_err(), DialFailure::Rejected);
    assert_eq!(caller.dial(5, &[Route::Direct(addr(5))]).await.unwrap_err(), DialFailure::Timeout);
    assert_eq!(caller.dial(5, &[Route::Relayed(CircuitId(1))]).await.unwrap_err(), DialFailure::Unusable);
}

/// Whether a restarted node ends the session that its peer still believes in. `dials` is who opened it.
async fn restart(peer_dials: bool) {
    let net = Net::new(None);
    let (mut peer, mut first_run) = (node(&net, 1, 1), node(&net, 1, 2));
    let link = if peer_dials {
        peer.dial(2, &[Route::Direct(addr(2))]).await.unwrap()
    } else {
        first_run.dial(1, &[Route::Direct(addr(1))]).await.unwrap();
        peer.connected().await
    };
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert_eq!(link.connection.close_reason(), None);
    net.unplug(addr(2));
    drop(first_run);
    let _second_run = node(&net, 1, 2);
    link.send_datagram(b"are you there?").unwrap();
    let end = timeout(Duration::from_secs(1), link.connection.closed()).await;
    assert_eq!(end, Ok(ConnectionError::Reset));
}

#[tokio::test(start_paused = true)]
async fn a_restarted_node_ends_the_sessions_that_it_had_been_dialled_for() {
    restart(true).await;
}

#[tokio::test(start_paused = true)]
async fn a_restarted_node_ends_the_sessions_that_it_had_opened() {
    restart(false).await;
}

#[tokio::test(start_paused = true)]
async fn a_session_opens_over_a_relay_and_moves_to_a_direct_route_without_noticing() {
    let net = Net::new(None);
    let (mut a, relay, mut b) = (node(&net, 1, 1), node(&net, 1, 2), node(&net, 1, 3));
    let expires = Time::from_nanos(u64::MAX);
    let circuit = Route::Relayed(CircuitId(4));
    let end = |label, out, circuit| Change::End { label, from: addr(2), circuit, out, expires };
    a.socket.apply(end(11, 12, CircuitId(4)));
    b.socket.apply(end(21, 22, CircuitId(7)));
    let forward = |label, from, to, out| Change::Forward { label, from, to, out, user: id(1), expires };
    relay.socket.apply(forward(12, addr(1), addr(3), 21));
    relay.socket.apply(forward(22, addr(3), addr(1), 11));
    let here = a.dial(3, &[circuit]).await.unwrap();
    let there = b.connected().await;
    assert_eq!((here.route, there.route), (circuit, Route::Relayed(CircuitId(7))));
    here.send_datagram(b"relayed").unwrap();
    assert_eq!(b.hears().await, "relayed");
    // Each side decides for itself, and must only know whose the other's packets are.
    assert!(b.socket.accept(there.slot, Route::Direct(addr(1))));
    assert!(a.socket.set_route(here.slot, Route::Direct(addr(3)), None));
    assert!(b.socket.set_route(there.slot, Route::Direct(addr(1)), None));
    net.unplug(addr(2));
    here.send_datagram(b"direct").unwrap();
    assert_eq!(b.hears().await, "direct");
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert_eq!(here.connection.close_reason(), None);
    assert_eq!(here.connection.stats().path.lost_packets, 0);
}

/// Whether a session lives through a new mapping at the NAT of one side. `moves` is whether that is who opened it.
async fn rebinding(moves: bool) {
    let net = Net::new(None);
    let (mut a, mut b) = (node(&net, 1, 1), node(&net, 1, 2));
    let here = a.dial(2, &[Route::Direct(addr(2))]).await.unwrap();
    let there = b.connected().await;
    here.send_datagram(b"before").unwrap();
    assert_eq!(b.hears().await, "before");
    there.send_datagram(b"before").unwrap();
    assert_eq!(a.hears().await, "before");
    tokio::time::sleep(Duration::from_secs(1)).await;
    let (moved, known, n) = if moves { (&here, &there, 1) } else { (&there, &here, 2) };
    let (mut sees, mut told) = if moves { (b, a) } else { (a, b) };
    net.rebind(addr(n), addr(9));
    for _ in 0..20 {
        moved.send_datagram(b"after").unwrap();
        tokio::time::sleep(Duration::from_millis(25)).await;
    }
    assert!(sees.heard.try_recv().is_err(), "QUIC takes nothing from where the peer has not proved to be");
    assert!(sees.socket.drops().of(DropReason::UnknownSource) >= 20);
    assert_eq!((here.connection.close_reason(), there.connection.close_reason()), (None, None));
    assert!(sees.socket.accept(known.slot, Route::Direct(addr(9))));
    moved.send_datagram(b"here I am").unwrap();
    assert_eq!(sees.hears().await, "here I am");
    assert!(sees.socket.set_route(known.slot, Route::Direct(addr(9)), None));
    known.send_datagram(b"welcome").unwrap();
    assert_eq!(told.hears().await, "welcome");
    tokio::time::sleep(Duration::from_secs(5)).await;
    assert_eq!((here.connection.close_reason(), there.connection.close_reason()), (None, None));
}

#[tokio::test(start_paused = true)]
async fn a_session_lives_through_a_new_mapping_of_the_peer_that_opened_it() {
    rebinding(true).await;
}

#[tokio::test(start_paused = true)]
async fn a_session_lives_through_a_new_mapping_of_the_peer_that_was_dialled() {
    rebinding(false).await;
}

/// After this there is nothing left of a handshake that came to nothing.
const ENDED: Duration = HANDSHAKE_TIMEOUT.saturating_add(LINGER);

#[tokio::test(start_paused = true)]
async fn a_dial_that_nobody_answers_ends() {
    let net = Net::new(None);
    let mut caller = node(&net, 1, 1);
    let begun = tokio::time::Instant::now();
    assert_eq!(caller.dial(2, &[Route::Direct(addr(2))]).await.unwrap_err(), DialFailure::Timeout);
    assert_eq!(begun.elapsed(), HANDSHAKE_TIMEOUT);
    tokio::time::sleep(LINGER).await;
    assert_eq!(caller.sessions.endpoint.open_connections(), 0);
}

#[tokio::test(start_paused = true)]
async fn a_handshake_in_which_the_stranger_falls_silent_ends() {
    let net = Net::new(Some(addr(1)));
    let (stranger, node) = (node(&net, 1, 1), node(&net, 1, 2));
    tokio::spawn(Arc::clone(&stranger.sessions).dial(DialId(1), Some(id(2)), vec![Route::Direct(addr(2))]));
    tokio::time::sleep(LATE / 2).await;
    net.unplug(addr(1));
    assert_eq!(node.sessions.endpoint.open_connections(), 1);
    tokio::time::sleep(ENDED).await;
    assert_eq!(node.sessions.endpoint.open_connections(), 0);
    assert_eq!(node.socket.slots().provisional(), 0);
}

#[tokio::test(start_paused = true)]
async fn a_session_with_nothing_to_say_lasts_and_sends_nothing() {
    let net = Net::new(None);
    let (mut a, mut b) = (node(&net, 1, 1), node(&net, 1, 2));
    let here = a.dial(2, &[Route::Direct(addr(2))]).await.unwrap();
    let there = b.connected().await;
    let sent = || [&here, &there].map(|link| link.connection.stats().udp_tx.datagrams);
    // Longer than any handshake takes, and QUIC's search for the path's MTU; that begins anew every ten minutes.
    tokio::time::sleep(Duration::from_secs(60)).await;
    let before = sent();
    tokio::time::sleep(Duration::from_secs(500)).await;
    assert_eq!(sent(), before);
    assert_eq!([&here, &there].map(|link| link.connection.close_reason()), [None, None]);
    here.send_datagram(b"still there?").unwrap();
    assert_eq!(b.hears().await, "still there?");
}

#[tokio::test(start_paused = true)]
async fn a_change_of_route_makes_quic_send_and_the_application_hears_nothing_of_it() {
    let net = Net::new(None);
    let (mut a, mut b) = (node(&net, 1, 1), node(&net, 1, 2));
    let here = a.dial(2, &[Route::Direct(addr(2))]).await.unwrap();
    let there = b.connected().await;
    tokio::time::sleep(Duration::from_secs(60)).await;
    let seen = || there.connection.stats().frame_rx.datagram;
    for (switch, kicks) in [(Switch::Keep, 0), (Switch::Planned, 1), (Switch::Urgent, 2)] {
        here.switched(here.route, switch);
        tokio::time::sleep(Duration::from_millis(10)).await;
        assert_eq!(seen(), kicks, "{switch:?}");
    }
    assert!(!there.take_activity(), "nobody used the session");
    here.send_datagram(b"heard").unwrap();
    assert_eq!(b.hears().await, "heard");
    assert!(b.heard.is_empty());
}
