//! How long the first event takes where there is no session, on a simulated internet in virtual time.

#![cfg(feature = "nat-traversal")]
#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use net_mesh::net::Network;
use net_mesh::{Event, Identity, Mesh, MeshSecret, NodeId, NodeKey, PathKind, Subscription};
use net_mesh_sim::{HostId, Internet, Link, Nat, SimHost, SimNet};
use tokio::time::Instant;

/// Enough that a mesh of them does not keep a session between everyone and every newcomer.
const HUBS: usize = 9;

/// From any host to any other, one way, access links included.
const CROSSING: Duration = Duration::from_millis(40);

/// What tokio's timers may add to each crossing.
const TICK: Duration = Duration::from_millis(1);

#[derive(Debug)]
struct HostNetwork(SimHost);

impl Network for HostNetwork {
    fn bind(&self, addr: SocketAddr) -> io::Result<Arc<dyn quinn::AsyncUdpSocket>> {
        self.0.bind(addr)
    }

    fn ips(&self) -> Vec<IpAddr> {
        self.0.ips()
    }
}

/// Nodes at public addresses, equally far from each other.
struct World {
    net: SimNet,
    hosts: Vec<HostId>,
    secret: MeshSecret,
    seed: u8,
    hubs: Vec<Mesh>,
}

impl World {
    /// A mesh of hubs, which know each other, and hosts for two nodes more.
    async fn new(seed: u8) -> Self {
        let mut internet = Internet::new(u64::from(seed));
        let hosts: Vec<_> = (0..HUBS + 2).map(|_| internet.add_behind(Nat::direct())).collect();
        for host in &hosts {
            internet.set_distance(*host, CROSSING / 2 - 2 * internet.uplink(*host).delay / 2);
        }
        let net = SimNet::new(internet);
        let mut world = Self { net, hosts, secret: MeshSecret::from_bytes([1; 32]), seed, hubs: Vec::new() };
        for _ in 0..HUBS {
            let hub = world.start(world.hubs.len()).await;
            world.hubs.push(hub);
        }
        until("the hubs know each other", || world.hubs.iter().all(|h| h.peers().len() == HUBS - 1)).await;
        world
    }

    async fn start(&self, index: usize) -> Mesh {
        let key = NodeKey::from_bytes([u8::try_from(index + 1).unwrap(); 32]);
        let mut builder = Mesh::builder(Identity::from_secret(&self.secret, &key).unwrap())
            .listen(([0, 0, 0, 0], 4433).into())
            .network(Arc::new(HostNetwork(self.net.host(self.hosts[index]))))
            .reproducible([self.seed ^ u8::try_from(index).unwrap(); 32], 1_700_000_000_000);
        if index > 0 {
            builder = builder.bootstrap(SocketAddr::new(self.net.ips(self.hosts[0])[0], 4433));
        }
        builder.start().await.unwrap()
    }

    /// Two nodes more, the one with the lower id first.
    async fn leaves(&self) -> [Mesh; 2] {
        let one = self.start(HUBS).await;
        // Not so early that the mesh looks small to it.
        until("the first leaf knows all", || one.peers().len() == HUBS).await;
        let mut leaves = [one, self.start(HUBS + 1).await];
        leaves.sort_by_key(Mesh::node_id);
        leaves
    }

    /// What happens to packets on the leaves' access links from now on.
    fn set_leaf_links(&self, link: &Link) {
        self.net.with(|net, now| self.hosts[HUBS..].iter().for_each(|h| net.set_link(now, *h, link)));
    }
}

async fn until(what: &str, mut is_so: impl FnMut() -> bool) {
    let limit = Instant::now() + Duration::from_secs(120);
    while !is_so() {
        assert!(Instant::now() < limit, "it never came true that {what}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

fn has_session(a: &Mesh, b: NodeId) -> bool {
    a.peers().iter().any(|p| p.node_id == b && p.path.kind != PathKind::None)
}

/// Waits until each knows of the other and of what it subscribes to, and both have come to rest. Whether they
/// have no session: one may be the other's anchor by chance.
async fn are_cold(a: &Mesh, b: &Mesh) -> bool {
    let knows = |a: &Mesh, b: &Mesh| a.peers().iter().any(|p| p.node_id == b.node_id());
    until("they know each other", || knows(a, b) && knows(b, a)).await;
    tokio::time::sleep(Duration::from_secs(30)).await;
    !has_session(a, b.node_id())
}

async fn next(events: &mut Subscription) -> Event {
    let limit = Duration::from_secs(100);
    tokio::time::timeout(limit, events.next()).await.expect("an event never came").expect("it ended")
}

/// From a publish without a session to delivery, in round trips.
async fn first_event(publisher: &Mesh, subscriber: &Mesh) -> f64 {
    let mut events = subscriber.subscribe("news").unwrap();
    assert!(are_cold(publisher, subscriber).await, "there is a session: this tests nothing");
    let began = Instant::now();
    publisher.publish("news", "the first").await.unwrap();
    let event = next(&mut events).await;
    let took = began.elapsed();
    assert_eq!((event.from, event.seq, event.missed), (publisher.node_id(), 1, 0));
    let rtt = publisher.ping(subscriber.node_id()).await.unwrap().rtt;
    assert!(rtt >= 2 * CROSSING && rtt <= 2 * (CROSSING + TICK), "{rtt:?}");
    // Three crossings are the least that it can take, each with a timer's tick.
    took.saturating_sub(3 * TICK).as_secs_f64() / (2 * CROSSING).as_secs_f64()
}

#[tokio::test(start_paused = true)]
async fn the_first_event_of_a_cold_publish_takes_at_most_two_round_trips_whoever_has_the_lower_id() {
    let world = World::new(1).await;
    let [low, high] = world.leaves().await;
    let up = first_event(&low, &high).await;
    let world = World::new(2).await;
    let [low, high] = world.leaves().await;
    let down = first_event(&high, &low).await;
    println!("round trips to the first event: {up:.2} from the lower id, {down:.2} from the higher");
    assert!(up <= 2.0 && down <= 2.0, "{up} and {down} round trips");
}

/// Publishes `numbers` on `channel`, some of them at a time.
async fn publish(publisher: &Mesh, channel: &str, numbers: std::ops::RangeInclusive<u64>) {
    for n in numbers {
        publisher.publish(channel, n.to_string()).await.unwrap();
        if n % 10 == 0 {
            tokio::time::sleep(Duration::from_millis(7)).await;
        }
    }
}

/// That exactly `numbers` come, in order.
async fn expect(events: &mut Subscription, from: &Mesh, numbers: std::ops::RangeInclusive<u64>, seed: u8) {
    for n in numbers {
        let event = next(events).await;
        let got = (event.from, event.seq, event.missed, event.payload);
        assert_eq!(got, (from.node_id(), n, 0, n.to_string().into()), "seed {seed}");
    }
}

#[tokio::test(start_paused = true)]
async fn pushed_asked_for_crossing_or_interrupted_every_event_comes_once_and_in_order() {
    let mut tested = 0;
    for seed in 0..12 {
        let world = World::new(seed).await;
        let [a, b] = world.leaves().await;
        // Two subscriptions on one side; and each side wants the other, so that both dial and both push.
        let mut at_b = [b.subscribe("from a").unwrap(), b.subscribe("from a").unwrap()];
        let mut at_a = a.subscribe("from b").unwrap();
        tested += u32::from(are_cold(&a, &b).await);
        world.set_leaf_links(&Link { loss: 0.05 * f64::from(seed % 3), ..Link::default() });
        let mut done = 0;
        for silence in [0, 3, 45, 45, 100] {
            let apart = Link { cut: true, ..Link::default() };
            if silence > 0 {
                world.set_leaf_links(&apart);
                // What is published while they are apart, and perhaps do not know it yet.
                publish(&a, "from a", done + 1..=done + 50).await;
                publish(&b, "from b", done + 1..=done + 50).await;
                tokio::time::sleep(Duration::from_secs(silence)).await;
                world.set_leaf_links(&Link { loss: 0.05 * f64::from(seed % 3), ..Link::default() });
                done += 50;
            }
            let numbers = done + 1..=done + 300;
            let sends = async {
                tokio::join!(publish(&a, "from a", numbers.clone()), publish(&b, "from b", numbers.clone()))
            };
            let all = done + 1 - if silence > 0 { 50 } else { 0 }..=done + 300;
            let [one, two] = &mut at_b;
            tokio::join!(
                sends,
                expect(one, &a, all.clone(), seed),
                expect(two, &a, all.clone(), seed),
                expect(&mut at_a, &b, all.clone(), seed)
            );
            done += 300;
        }
        // What another stream could bring besides would have come by then.
        tokio::time::sleep(Duration::from_secs(20)).await;
        let more = at_b.iter_mut().chain([&mut at_a]).find_map(Subscription::try_next);
        assert_eq!(more, None, "seed {seed}: an event came twice");
    }
    assert!(tested >= 6, "only {tested} pairs began without a session");
}
