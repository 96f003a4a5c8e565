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

/// One end's connection, and its congestion state where the test has one.
struct Half {
    connection: Connection,
    slot: SlotId,
    link: Option<Arc<Link>>,
}

impl Half {
    fn new(end: &End, slot: SlotId, connection: Connection, congestion: Option<Arc<Congestion>>) -> Self {
        let peer = peer_of(&connection).unwrap();
        let route = end.socket.slots().settle(slot, peer).unwrap();
        let link = congestion.map(|c| Link::new(ConnId(1), peer, slot, route, connection.clone(), c));
        Self { connection, slot, link }
    }

    fn switch(&self, end: &End, route: Route, switch: Switch) {
        assert!(end.socket.set_route(self.slot, route));
        if let Some(link) = &self.link {
            link.switched(route, switch);
        }
    }
}

/// Two nodes 100 Mbit/s and 20 ms apart, and a relay between them: 40 ms, one way.
struct World {
    net: SimNet,
    ends: [End; 2],
    _relay: End,
    halves: [Half; 2],
    received: Arc<AtomicU64>,
}

impl World {
    /// A connection over `first`, which is filled from now on. With a `relay` of so many bits per second.
    async fn start(ours: bool, relay: u64, over_relay: bool) -> Self {
        let mut internet = Internet::new(1);
        let hosts = [(); 3].map(|()| internet.add_behind(Nat::direct()));
        for (host, line) in hosts.into_iter().zip([
            line(100_000_000, 500_000),
            line(100_000_000, 500_000),
            line(relay, 200_000),
        ]) {
            internet.set_link(Time::ZERO, host, &line);
            internet.set_distance(host, Duration::from_millis(5));
        }
        let net = SimNet::new(internet);
        let [a, b, relay] = [0, 1, 2].map(|i| End::new(&net, hosts[i], 1 + u8::try_from(i).unwrap()));
        circuit(&a, &relay, &b);
        let first = if over_relay { HERE } else { Route::Direct(b.addr) };
        let halves = connect(&a, &b, first, ours).await;
        for (half, end, route) in [(&halves[0], &a, b.addr), (&halves[1], &b, a.addr)] {
            assert!(end.socket.accept(half.slot, Route::Direct(route)));
        }
        let received = Arc::new(AtomicU64::new(0));
        let mut send = halves[0].connection.open_uni().await.unwrap();
        tokio::spawn(async move { while send.write_all(&[7; 32 << 10]).await.is_ok() {} });
        let mut recv = halves[1].connection.accept_uni().await.unwrap();
        let count = Arc::clone(&received);
        tokio::spawn(async move {
            while let Ok(Some(chunk)) = recv.read_chunk(usize::MAX, true).await {
                count.fetch_add(chunk.bytes.len() as u64, Ordering::Relaxed);
            }
        });
        Self { net, ends: [a, b], _relay: relay, halves, received }
    }

    fn switch(&self, relayed: bool, switch: Switch) {
        let [a, b] = &self.ends;
        let routes = if relayed { [HERE, THERE] } else { [Route::Direct(b.addr), Route::Direct(a.addr)] };
        for ((half, end), route) in self.halves.iter().zip(&self.ends).zip(routes) {
            half.switch(end, route, switch);
        }
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

async fn connect(a: &End, b: &End, route: Route, ours: bool) -> [Half; 2] {
    let states = [(); 2].map(|()| ours.then(Congestion::new));
    let [here, there] = states.clone().map(|state| {
        let factory: Arc<dyn ControllerFactory + Send + Sync> = match state {
            Some(state) => state,
            None => Arc::new(CubicConfig::default()),
        };
        config::transport(factory)
    });
    let slot = a.socket.slots().dial(Some(b.identity.node_id()), &[route]).unwrap();
    let config = config::client(&a.identity, Some(b.identity.node_id()), here).unwrap();
    let connecting = a.endpoint.connect_with(config, slot.addr(), "mesh").unwrap();
    let server = config::server(&b.identity).unwrap();
    let accepting = async {
        let incoming = b.endpoint.accept().await.unwrap();
        let slot = SlotId::of(incoming.remote_address()).unwrap();
        assert!(b.socket.slots().hold(slot));
        (slot, incoming.accept_with(config::accepting(&server, there)).unwrap().await.unwrap())
    };
    let (connection, (accepted, peer)) = tokio::join!(connecting, accepting);
    let [here, there] = states;
    [Half::new(a, slot, connection.unwrap(), here), Half::new(b, accepted, peer, there)]
}

const DOWN: &[u64] = &[100, 200, 300, 400, 500, 1000, 2000, 5000];

#[tokio::test(start_paused = true)]
async fn a_transfer_that_moves_to_a_slower_relay_does_not_flood_it_and_comes_back_at_full_speed() {
    for ours in [false, true] {
        let world = World::start(ours, 5_000_000, false).await;
        let before = world.measure(&[1000, 5000]).await;
        before.print("direct", &[1000, 5000]);
        world.switch(true, Switch::Planned);
        let down = world.measure(DOWN).await;
        down.print("down", DOWN);
        world.switch(false, Switch::Planned);
        let up = world.measure(DOWN).await;
        up.print("back", DOWN);
    }
}

#[tokio::test(start_paused = true)]
async fn a_transfer_that_moves_from_a_relay_to_a_direct_route_uses_it_at_once() {
    for ours in [false, true] {
        let world = World::start(ours, 20_000_000, true).await;
        let before = world.measure(&[1000, 5000]).await;
        before.print("relay", &[1000, 5000]);
        world.switch(false, Switch::Planned);
        let up = world.measure(DOWN).await;
        up.print("up", DOWN);
        world.switch(true, Switch::Planned);
        let up = world.measure(DOWN).await;
        up.print("back", DOWN);
    }
}
