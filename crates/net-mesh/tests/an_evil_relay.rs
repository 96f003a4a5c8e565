//! What a relay can do to those it relays for: nothing but lose their packets.
//!
//! Whole nodes on a simulated internet, in virtual time. The pair cannot be punched, and the one member that
//! relays is evil: it is a genuine member with everything one legitimately has, and its socket sees and
//! changes whatever it forwards.
#![cfg(feature = "nat-traversal")]
#![allow(clippy::unwrap_used, reason = "a test file")]

use std::io::{self, IoSliceMut};
use std::net::{IpAddr, SocketAddr};
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};
use std::time::Duration;

use net_mesh::net::Network;
use net_mesh::{Identity, Mesh, MeshSecret, NatClass, NodeKey, PathKind, Subscription};
use net_mesh_proto::rng::Rng;
use net_mesh_sim::{Internet, Nat, SimHost, SimNet};
use quinn::udp::{RecvMeta, Transmit};
use quinn::{AsyncUdpSocket, UdpPoller};
use tokio::time::{sleep, timeout};

/// What begins a relayed datagram: the type and a label.
const HEADER: usize = 9;
const RELAY: u8 = 0x80;

/// What an evil relay does to what it forwards.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Evil {
    /// Writes it down.
    Captures,
    /// Changes a bit of every fifth datagram.
    FlipsBits,
    /// Sends every second one again, and old ones now and then.
    Replays,
    /// Loses every tenth.
    Drops,
    /// Sends every fourth one with the label of another circuit.
    SwapsLabels,
    /// Adds datagrams of its own making.
    Forges,
}

#[derive(Debug)]
struct Deeds {
    evil: Evil,
    rng: Rng,
    seen: Vec<Vec<u8>>,
    done: usize,
}

impl Deeds {
    /// What leaves in the place of one forwarded datagram.
    fn tamper(&mut self, datagram: &[u8]) -> Vec<Vec<u8>> {
        let mut out = vec![datagram.to_vec()];
        let chance = |rng: &mut Rng, one_in: u64| rng.below(one_in) == 0;
        match self.evil {
            Evil::Captures => self.done += 1,
            Evil::FlipsBits if chance(&mut self.rng, 5) => {
                let bit = HEADER as u64 * 8 + self.rng.below((datagram.len() - HEADER) as u64 * 8);
                out[0][usize::try_from(bit / 8).unwrap()] ^= 1 << (bit % 8);
                self.done += 1;
            }
            Evil::Replays if chance(&mut self.rng, 2) => {
                out.push(datagram.to_vec());
                let old = self.rng.below(self.seen.len() as u64 + 1);
                out.extend(self.seen.get(usize::try_from(old).unwrap()).cloned());
                self.done += 1;
            }
            Evil::Drops if chance(&mut self.rng, 10) => {
                out.clear();
                self.done += 1;
            }
            Evil::SwapsLabels if chance(&mut self.rng, 4) => {
                let other = self.seen.iter().find(|seen| seen[..HEADER] != datagram[..HEADER]);
                if let Some(other) = other {
                    out[0][..HEADER].copy_from_slice(&other[..HEADER]);
                    self.done += 1;
                }
            }
            Evil::Forges => {
                let mut forged = datagram[..HEADER].to_vec();
                let first = if chance(&mut self.rng, 2) { 0x40 } else { 0xc0 };
                forged.push(first | u8::try_from(self.rng.below(0x40)).unwrap());
                // Connection ids are not secret: what follows the header is copied, the rest is made up.
                forged.extend(&datagram[HEADER + 1..datagram.len().min(HEADER + 12)]);
                forged.extend((0..self.rng.below(1200)).map(|_| u8::try_from(self.rng.below(256)).unwrap()));
                out.push(forged);
                self.done += 1;
            }
            _ => {}
        }
        if self.seen.len() < 20_000 {
            self.seen.push(datagram.to_vec());
        }
        out
    }
}

/// A socket whose owner looks at what it forwards.
#[derive(Debug)]
struct EvilSocket {
    inner: Arc<dyn AsyncUdpSocket>,
    deeds: Arc<Mutex<Deeds>>,
}

impl AsyncUdpSocket for EvilSocket {
    fn create_io_poller(self: Arc<Self>) -> Pin<Box<dyn UdpPoller>> {
        Arc::clone(&self.inner).create_io_poller()
    }

    fn try_send(&self, transmit: &Transmit<'_>) -> io::Result<()> {
        if transmit.contents.first() != Some(&RELAY) {
            return self.inner.try_send(transmit);
        }
        let segment = transmit.segment_size.unwrap_or(transmit.contents.len());
        for datagram in transmit.contents.chunks(segment) {
            let sent = self.deeds.lock().unwrap().tamper(datagram);
            for contents in &sent {
                let Transmit { destination, .. } = *transmit;
                let changed = Transmit { destination, ecn: None, contents, segment_size: None, src_ip: None };
                self.inner.try_send(&changed)?;
            }
        }
        Ok(())
    }

    fn poll_recv(
        &self,
        cx: &mut Context<'_>,
        bufs: &mut [IoSliceMut<'_>],
        meta: &mut [RecvMeta],
    ) -> Poll<io::Result<usize>> {
        self.inner.poll_recv(cx, bufs, meta)
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        self.inner.local_addr()
    }
}

#[derive(Debug)]
struct HostNetwork(SimHost, Option<Arc<Mutex<Deeds>>>);

impl Network for HostNetwork {
    fn bind(&self, addr: SocketAddr) -> io::Result<Arc<dyn AsyncUdpSocket>> {
        let inner = self.0.bind(addr)?;
        Ok(match &self.1 {
            Some(deeds) => Arc::new(EvilSocket { inner, deeds: Arc::clone(deeds) }),
            None => inner,
        })
    }

    fn ips(&self) -> Vec<IpAddr> {
        self.0.ips()
    }
}

/// An evil relay, two public nodes that do not relay, and three homes that only the relay connects.
struct Scene {
    homes: Vec<Mesh>,
    others: Vec<Mesh>,
    deeds: Arc<Mutex<Deeds>>,
}

async fn scene(evil: Evil) -> Scene {
    let rng = Rng::from_u64(evil as u64);
    let deeds = Deeds { evil, rng: rng.fork("evil"), seen: vec![], done: 0 };
    let deeds = Arc::new(Mutex::new(deeds));
    let mut internet = Internet::new(evil as u64);
    let mut hosts: Vec<_> = (0..3).map(|_| internet.add_behind(Nat::direct())).collect();
    hosts.extend((0..3).map(|_| internet.add_behind(Nat::symmetric())));
    let start = SocketAddr::new(internet.ips(hosts[0])[0], 4433);
    let net = SimNet::new(internet);
    let secret = MeshSecret::from_bytes([1; 32]);
    let mut meshes = Vec::new();
    for (i, host) in hosts.into_iter().enumerate() {
        let key = NodeKey::from_bytes([u8::try_from(i).unwrap() + 1; 32]);
        let tampers = (i == 0).then(|| Arc::clone(&deeds));
        let mut builder = Mesh::builder(Identity::from_secret(&secret, &key).unwrap())
            .name(format!("n{i}"))
            .listen(([0, 0, 0, 0], if i < 3 { 4433 } else { 0 }).into())
            .bootstrap(start)
            .network(Arc::new(HostNetwork(net.host(host), tampers)))
            .full_mesh(0)
            .reproducible([u8::try_from(i).unwrap(); 32], 1_700_000_000_000);
        if i != 0 {
            builder = builder.relay(None);
        }
        meshes.push(builder.start().await.unwrap());
    }
    let homes = meshes.split_off(3);
    Scene { homes, others: meshes, deeds }
}

fn payload(n: usize) -> String {
    format!("the secret word {n} is written here, and nobody but the two ends may read or change it")
}

async fn ready(scene: &Scene) {
    let all: Vec<&Mesh> = scene.homes.iter().chain(&scene.others).collect();
    let known =
        |mesh: &&Mesh| mesh.peers().len() == all.len() - 1 && mesh.status().nat.class != NatClass::Unknown;
    while !all.iter().all(known) {
        sleep(Duration::from_millis(100)).await;
    }
    sleep(Duration::from_secs(3)).await;
}

/// Every event, once and in order, from the only publisher there is.
async fn receive(events: &mut Subscription, from: &Mesh, count: usize) {
    for n in 0..count {
        let event = events.next().await.unwrap();
        assert_eq!((event.from, event.missed), (from.node_id(), 0));
        assert_eq!(event.payload, payload(n).as_bytes(), "event {n}");
    }
}

async fn exchange(evil: Evil) -> Scene {
    const EVENTS: usize = 200;
    let scene = scene(evil).await;
    let mut subscriptions: Vec<_> = scene.homes[1..].iter().map(|m| m.subscribe("secret").unwrap()).collect();
    timeout(Duration::from_secs(60), ready(&scene)).await.expect("the nodes meet");
    let publish = async {
        for n in 0..EVENTS {
            scene.homes[0].publish("secret", payload(n)).await.unwrap();
            sleep(Duration::from_millis(20)).await;
        }
    };
    let listen = async {
        for events in &mut subscriptions {
            receive(events, &scene.homes[0], EVENTS).await;
        }
    };
    let both = async { tokio::join!(publish, listen) };
    timeout(Duration::from_secs(120), both).await.unwrap_or_else(|_| panic!("{evil:?} stops delivery"));
    for events in &mut subscriptions {
        let more = timeout(Duration::from_secs(5), events.next()).await;
        assert!(more.is_err(), "{evil:?} makes events: {more:?}");
    }
    let relayed =
        scene.homes[0].peers().into_iter().filter(|peer| peer.path.kind == PathKind::Relayed).count();
    assert_eq!(relayed, 2, "{evil:?}");
    assert!(scene.deeds.lock().unwrap().done > 20, "{evil:?} was idle");
    scene
}

#[tokio::test(start_paused = true)]
async fn a_relay_finds_no_payload_in_what_it_forwards() {
    let scene = exchange(Evil::Captures).await;
    let deeds = scene.deeds.lock().unwrap();
    let bytes: usize = deeds.seen.iter().map(Vec::len).sum();
    assert!(bytes > 200 * payload(0).len(), "it carried all events, twice: {bytes}");
    for word in [&b"secret word"[..], b"nobody but the two ends", b"net-mesh"] {
        let found = deeds.seen.iter().filter(|d| d.windows(word.len()).any(|w| w == word)).count();
        assert_eq!(found, 0, "{:?} was read", String::from_utf8_lossy(word));
    }
}

#[tokio::test(start_paused = true)]
async fn a_relay_that_flips_bits_causes_loss_and_nothing_else() {
    exchange(Evil::FlipsBits).await;
}

#[tokio::test(start_paused = true)]
async fn a_relay_that_replays_causes_nothing_at_all() {
    exchange(Evil::Replays).await;
}

#[tokio::test(start_paused = true)]
async fn a_relay_that_drops_delays_what_it_drops() {
    exchange(Evil::Drops).await;
}

#[tokio::test(start_paused = true)]
async fn a_relay_that_swaps_labels_causes_loss_and_nothing_else() {
    exchange(Evil::SwapsLabels).await;
}

#[tokio::test(start_paused = true)]
async fn a_relay_cannot_make_a_payload() {
    exchange(Evil::Forges).await;
}
