//! A bulk transfer whose route changes, through the mesh socket and a real relay on a simulated internet in
//! virtual time: with a controller per route, and with Cubic as QUIC has it.
//!
//! `cargo test -p net-mesh --lib transfer -- --nocapture --test-threads 1` prints the figures.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use net_mesh_proto::node::{ConnId, Switch};
use net_mesh_proto::relay::{Change, Limits};
use net_mesh_proto::route::{CircuitId, Route};
use net_mesh_proto::time::Time;
use net_mesh_sim::{HostId, Internet, Link as Line, Lost, Nat, SimNet};
use quinn::{Connection, Endpoint, TokioRuntime};
use quinn_proto::congestion::{ControllerFactory, CubicConfig};
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep_until};

use super::Congestion;
use crate::driver::Clock;
use crate::identity::{Identity, MeshSecret, NodeKey};
use crate::session::{Link, config, connection_ids, peer_of};
use crate::socket::MeshSocket;
use crate::socket::slots::SlotId;

const HERE: Route = Route::Relayed(CircuitId(4));
const THERE: Route = Route::Relayed(CircuitId(7));

fn line(bits_per_s: u64, queue: usize) -> Line {
    Line { delay: Duration::from_millis(5), bandwidth: Some(bits_per_s), queue, ..Line::default() }
}

/// A node without its machine.
struct End {
    identity: Identity,
    endpoint: Endpoint,
    socket: Arc<MeshSocket>,
    addr: SocketAddr,
}

impl End {
    fn new(net: &SimNet, host: HostId, key: u8) -> Self {
        let secret = MeshSecret::from_bytes([1; 32]);
        let identity = Identity::from_secret(&secret, &NodeKey::from_bytes([key; 32])).unwrap();
        let wire = net.bind(host, "0.0.0.0:7".parse().unwrap()).unwrap();
        let ids = connection_ids(&identity);
        let (inbox, drops) = (mpsc::channel(1).0, Arc::default());
        let limits = Limits::default();
        let socket = MeshSocket::new(vec![wire], inbox, drops, ids, Clock::start(), limits).unwrap();
        let endpoint = Endpoint::new_with_abstract_socket(
            config::endpoint(&identity, Some([key; 32])),
            Some(config::server(&identity).unwrap()),
            Arc::clone(&socket) as _,
            Arc::new(TokioRuntime),
        );
        let addr = SocketAddr::new(net.ips(host)[0], 7);
        Self { identity, endpoint: endpoint.unwrap(), socket, addr }
    }
}

/// Two hosts, and one for the relay. From any to any other it takes 20 ms.
fn internet(relay: u64) -> (SimNet, [HostId; 3]) {
    let mut internet = Internet::new(1);
    let hosts = [(); 3].map(|()| internet.add_behind(Nat::direct()));
    let end = line(100_000_000, 500_000);
    for (host, line) in hosts.into_iter().zip([end.clone(), end, line(relay, 200_000)]) {
        internet.set_link(Time::ZERO, host, &line);
        internet.set_distance(host, Duration::from_millis(5));
    }
    (SimNet::new(internet), hosts)
}

/// One end's connection, and its congestion state where the test has one.
struct Half {
    connection: Connection,
    slot: SlotId,
    link: Option<Arc<Link>>,
}

impl Half {
    fn new(end: &End, slot: SlotId, connection: Connection, congestion: Option<Congestion>) -> Self {
        let peer = peer_of(&connection).unwrap();
        let route = end.socket.slots().settle(slot, peer).unwrap();
        let link = congestion.map(|congestion| {
            congestion.begin(route);
            Link::new(ConnId(1), peer, slot, route, (connection.clone(), congestion))
        });
        Self { connection, slot, link }
    }

    fn switch(&self, end: &End, route: Route, switch: Switch) {
        assert!(end.socket.set_route(self.slot, route, None));
        if let Some(link) = &self.link {
            link.switched(route, switch);
        }
    }
}

/// Two nodes 100 Mbit/s and 20 ms apart, and a relay between them: 40 ms, one way.
struct World {
    net: SimNet,
    hosts: [HostId; 3],
    ends: [End; 2],
    _relay: End,
    halves: [Half; 2],
    received: Arc<AtomicU64>,
    /// The longest time in which nothing was delivered, in ms.
    gap: Arc<AtomicU64>,
}

impl World {
    /// A connection over `first`, which is filled from now on. With a `relay` of so many bits per second.
    async fn start(ours: bool, relay: u64, over_relay: bool) -> Self {
        let (net, hosts) = internet(relay);
        let [a, b, relay] = [0, 1, 2].map(|i| End::new(&net, hosts[i], 1 + u8::try_from(i).unwrap()));
        circuit(&a, &relay, &b);
        let first = if over_relay { HERE } else { Route::Direct(b.addr) };
        let halves = connect(&a, &b, first, ours).await;
        for (half, end, route) in [(&halves[0], &a, b.addr), (&halves[1], &b, a.addr)] {
            assert!(end.socket.accept(half.slot, Route::Direct(route)));
        }
        let (received, gap) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicU64::new(0)));
        let mut send = halves[0].connection.open_uni().await.unwrap();
        tokio::spawn(async move { while send.write_all(&[7; 32 << 10]).await.is_ok() {} });
        let mut recv = halves[1].connection.accept_uni().await.unwrap();
        let (count, longest) = (Arc::clone(&received), Arc::clone(&gap));
        tokio::spawn(async move {
            let mut last = Instant::now();
            while let Ok(Some(chunk)) = recv.read_chunk(usize::MAX, true).await {
                count.fetch_add(chunk.bytes.len() as u64, Ordering::Relaxed);
                let gap = std::mem::replace(&mut last, Instant::now()).elapsed();
                longest.fetch_max(u64::try_from(gap.as_millis()).unwrap(), Ordering::Relaxed);
            }
        });
        Self { net, hosts, ends: [a, b], _relay: relay, halves, received, gap }
    }

    fn switch(&self, relayed: bool, switch: Switch) {
        let [a, b] = &self.ends;
        let routes = if relayed { [HERE, THERE] } else { [Route::Direct(b.addr), Route::Direct(a.addr)] };
        for ((half, end), route) in self.halves.iter().zip(&self.ends).zip(routes) {
            half.switch(end, route, switch);
        }
    }

    /// Lets nothing pass straight between the ends, or lets it pass again.
    fn cut(&self, cut: bool) {
        let [a, b, _] = self.hosts;
        self.net.with(|net, _| {
            net.set_cut(a, b, cut);
            net.set_cut(b, a, cut);
        });
    }

    /// Packets that QUIC gave up, and packets that queues really dropped.
    fn lost(&self) -> [u64; 2] {
        let dropped = self.net.with(|net, _| net.trace().counts().lost(Lost::Queue));
        [self.halves[0].connection.stats().path.lost_packets, dropped]
    }

    /// What is delivered between these instants, in ms from now on, and what is lost meanwhile.
    async fn measure(&self, marks: &[u64]) -> Outcome {
        let start = Instant::now();
        let lost = self.lost();
        let mut rates = Vec::new();
        let (mut before, mut bytes) = (0, self.received.load(Ordering::Relaxed));
        for mark in marks {
            sleep_until(start + Duration::from_millis(*mark)).await;
            let now = self.received.load(Ordering::Relaxed);
            // Bits per millisecond are kilobits per second.
            rates.push((now - bytes) as f64 * 8.0 / (mark - before) as f64 / 1000.0);
            (before, bytes) = (*mark, now);
        }
        let [given_up, dropped] = self.lost();
        Outcome { rates, given_up: given_up - lost[0], dropped: dropped - lost[1] }
    }
}

/// After a change of route.
#[derive(Debug)]
struct Outcome {
    /// Mbit/s delivered in each interval.
    rates: Vec<f64>,
    given_up: u64,
    dropped: u64,
}

impl Outcome {
    fn print(&self, what: &str, marks: &[u64]) {
        let rates: Vec<String> =
            marks.iter().zip(&self.rates).map(|(mark, rate)| format!("<{mark} {rate:.1}")).collect();
        println!("{what}: {} | given up {}, dropped {}", rates.join(", "), self.given_up, self.dropped);
    }
}

fn circuit(a: &End, relay: &End, b: &End) {
    let expires = Time::from_nanos(u64::MAX);
    let end = |label, out, circuit| Change::End { label, from: relay.addr, circuit, out, expires };
    a.socket.apply(end(11, 12, CircuitId(4)));
    b.socket.apply(end(21, 22, CircuitId(7)));
    let user = a.identity.node_id();
    let forward = |label, from, to, out| Change::Forward { label, from, to, out, user, expires };
    relay.socket.apply(forward(12, a.addr, b.addr, 21));
    relay.socket.apply(forward(22, b.addr, a.addr, 11));
}

type Factory = Arc<dyn ControllerFactory + Send + Sync>;

async fn connect(a: &End, b: &End, route: Route, ours: bool) -> [Half; 2] {
    let states = [(); 2].map(|()| ours.then(Congestion::default));
    let factories = states.clone().map(|state| match state {
        Some(state) => state.factory(),
        None => Arc::new(CubicConfig::default()),
    });
    let [(slot, connection), (accepted, peer)] = connect_with(a, b, route, factories).await;
    let [here, there] = states;
    [Half::new(a, slot, connection, here), Half::new(b, accepted, peer, there)]
}

async fn connect_with(a: &End, b: &End, route: Route, factories: [Factory; 2]) -> [(SlotId, Connection); 2] {
    let [here, there] = factories.map(config::transport);
    let slot = a.socket.slots().dial(Some(b.identity.node_id()), &[route]).unwrap();
    let mut config = config::client(&a.identity, Some(b.identity.node_id()), &Congestion::default()).unwrap();
    config.transport_config(here);
    let connecting = a.endpoint.connect_with(config, slot.addr(), "mesh").unwrap();
    let mut server = config::server(&b.identity).unwrap();
    server.transport_config(there);
    let accepting = async {
        let incoming = b.endpoint.accept().await.unwrap();
        let slot = SlotId::of(incoming.remote_address()).unwrap();
        assert!(b.socket.slots().hold(slot));
        (slot, incoming.accept_with(Arc::new(server)).unwrap().await.unwrap())
    };
    let (connection, (accepted, peer)) = tokio::join!(connecting, accepting);
    [(slot, connection.unwrap()), (accepted, peer)]
}

/// A connection whose ends control their congestion in these ways; it ends when the first value is dropped.
pub(super) async fn connected(factories: [Factory; 2]) -> (impl Sized, Connection, Connection) {
    let (net, hosts) = internet(20_000_000);
    let [a, b] = [0, 1].map(|i| End::new(&net, hosts[i], 1 + u8::try_from(i).unwrap()));
    let [(_, here), (_, there)] = connect_with(&a, &b, Route::Direct(b.addr), factories).await;
    ((a, b, net), here, there)
}

/// Ends of the intervals in which what is delivered is told, in ms after a change.
const MARKS: &[u64] = &[100, 200, 300, 400, 500, 1000, 2000, 5000];

/// The mean rate from one mark to another, in Mbit/s.
fn between(outcome: &Outcome, from: u64, to: u64) -> f64 {
    let starts = std::iter::once(&0).chain(MARKS);
    let parts = starts.zip(MARKS).zip(&outcome.rates).filter(|((start, _), _)| (from..to).contains(*start));
    parts.map(|((start, end), rate)| rate * (end - start) as f64).sum::<f64>() / (to - from) as f64
}

/// A transfer that begins over one kind of route for five seconds, changes to the other, and back.
async fn there_and_back(ours: bool, relay: u64, over_relay: bool) -> [Outcome; 2] {
    let who = if ours { "per route" } else { "stock" };
    let world = World::start(ours, relay, over_relay).await;
    let begin = world.measure(&[1000, 5000]).await;
    begin.print(&format!("{who}, begin"), &[1000, 5000]);
    world.switch(!over_relay, Switch::Planned);
    let there = world.measure(MARKS).await;
    there.print(&format!("{who}, there"), MARKS);
    world.switch(over_relay, Switch::Planned);
    let back = world.measure(MARKS).await;
    back.print(&format!("{who}, back"), MARKS);
    [there, back]
}

#[tokio::test(start_paused = true)]
async fn a_transfer_that_moves_to_a_slower_relay_does_not_flood_it_and_comes_back_at_full_speed() {
    println!("100 Mbit/s, then a relay with 5, then back");
    let stock = there_and_back(false, 5_000_000, false).await;
    let ours = there_and_back(true, 5_000_000, false).await;
    assert!(ours[0].dropped <= 20 && ours[0].given_up <= 20, "{:?}", ours[0]);
    assert!(stock[0].dropped > 200, "{:?}", stock[0]);
    // The relay is full within half a second, and stays so; in order, stock delivers next to nothing meanwhile.
    assert!(between(&ours[0], 500, 5000) > 4.3, "{:?}", ours[0]);
    assert!(between(&stock[0], 500, 2000) < 2.0, "{:?}", stock[0]);
    // Back on the route that it knows.
    assert_eq!(ours[1].dropped, 0);
    assert!(between(&ours[1], 100, 1000) > 85.0, "{:?}", ours[1]);
    assert!(between(&stock[1], 100, 1000) < 50.0, "{:?}", stock[1]);
}

#[tokio::test(start_paused = true)]
async fn a_transfer_that_moves_from_a_relay_to_a_direct_route_uses_it_at_once() {
    println!("A relay with 20 Mbit/s, then 100 Mbit/s, then back");
    let stock = there_and_back(false, 20_000_000, true).await;
    let ours = there_and_back(true, 20_000_000, true).await;
    assert!(between(&ours[0], 100, 1000) > 80.0, "{:?}", ours[0]);
    assert!(between(&stock[0], 100, 1000) < 60.0, "{:?}", stock[0]);
    assert!(ours[0].dropped < 500, "{:?}", ours[0]);
    assert!(ours[1].dropped <= 20, "{:?}", ours[1]);
    assert!(between(&ours[1], 200, 5000) > 17.0, "{:?}", ours[1]);
}

/// The longest pause in a transfer whose direct route loses everything for `hole`, until both ends send over a
/// relay instead, or over the same route, which works again.
async fn pause(ours: bool, hole: Duration, relayed: bool) -> u64 {
    let world = World::start(ours, 20_000_000, false).await;
    world.measure(&[1500]).await;
    world.gap.store(0, Ordering::Relaxed);
    world.cut(true);
    tokio::time::sleep(hole).await;
    world.cut(false);
    world.switch(relayed, Switch::Urgent);
    world.measure(&[4000]).await;
    let who = if ours { "per route" } else { "stock" };
    let gap = world.gap.load(Ordering::Relaxed);
    println!(
        "{who}, {} ms, then {}: {gap} ms",
        hole.as_millis(),
        if relayed { "a relay" } else { "the same" }
    );
    gap
}

#[tokio::test(start_paused = true)]
async fn a_transfer_whose_route_died_goes_on_at_once_over_another_or_the_same_one() {
    for hole in [200, 3000] {
        for (relayed, trip) in [(true, 80), (false, 40)] {
            let hole = Duration::from_millis(hole);
            let stock = pause(false, hole, relayed).await;
            let ours = pause(true, hole, relayed).await;
            // One round trip shows what is missing, half a one brings it; 20 ms were on their way at first.
            let limit = u64::try_from(hole.as_millis()).unwrap() + trip + trip / 2 + 20;
            assert!(ours <= limit, "{ours} ms for a hole of {hole:?}");
            assert!(ours <= stock, "{ours} ms, stock {stock}");
        }
    }
}

/// Whatever instant of QUIC's a change falls into, on threads of their own.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_transfer_survives_changes_of_route_at_any_moment() {
    const BYTES: usize = 8 << 20;
    let pair = crate::session::testing::pair(1).await;
    let mut send = pair.link.connection.open_uni().await.unwrap();
    let sending = tokio::spawn(async move {
        send.write_all(&vec![7; BYTES]).await.unwrap();
        send.finish().unwrap();
    });
    let (link, peer) = (Arc::clone(&pair.link), pair.peer.clone());
    let (stop, stopped) = std::sync::mpsc::channel::<()>();
    let switching = std::thread::spawn(move || {
        let mut changes = 0_u64;
        while stopped.try_recv() == Err(std::sync::mpsc::TryRecvError::Empty) {
            let switch = if changes.is_multiple_of(3) { Switch::Planned } else { Switch::Urgent };
            link.switched(Route::Relayed(CircuitId(changes % 7)), switch);
            changes += 1;
            std::thread::sleep(Duration::from_micros(200));
        }
        changes
    });
    let mut recv = peer.accept_uni().await.unwrap();
    assert_eq!(recv.read_to_end(BYTES).await.unwrap().len(), BYTES);
    sending.await.unwrap();
    drop(stop);
    assert!(switching.join().unwrap() > 0);
    assert_eq!(pair.link.connection.close_reason(), None);
}
