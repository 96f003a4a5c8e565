//! A node whose network changes, on a simulated internet in virtual time.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use futures_util::stream;
use net_mesh::net::{Change, Changes, Network};
use net_mesh::{Identity, Mesh, MeshSecret, NodeKey};
use net_mesh_sim::{HostId, Internet, Nat, SimHost, SimNet};
use tokio::time::Instant;

/// How long changes are gathered before the node is told, and what timers add.
const TOLD: Duration = Duration::from_millis(52);

/// How often a node looks by itself where nobody tells it.
const LOOKS: Duration = Duration::from_secs(1);

/// A host whose system tells of changes, or does not.
#[derive(Debug)]
struct HostNetwork {
    host: SimHost,
    tells: bool,
}

impl Network for HostNetwork {
    fn bind(&self, addr: SocketAddr) -> io::Result<Arc<dyn quinn::AsyncUdpSocket>> {
        self.host.bind(addr)
    }

    fn ips(&self) -> Vec<IpAddr> {
        self.host.ips()
    }

    fn changes(&self) -> Option<Changes> {
        let told = self.tells.then(|| self.host.changes())?;
        Some(Box::pin(stream::unfold(told, |mut told| async {
            told.changed().await.ok()?;
            Some((Change::Unknown, told))
        })))
    }
}

/// Two nodes that know each other.
async fn pair(tells: bool) -> (SimNet, Vec<HostId>, [Mesh; 2]) {
    let mut internet = Internet::new(7);
    let hosts: Vec<HostId> = (0..2).map(|_| internet.add_behind(Nat::direct())).collect();
    let net = SimNet::new(internet);
    let secret = MeshSecret::from_bytes([1; 32]);
    let mut nodes = Vec::new();
    for (n, host) in (0u8..).zip(&hosts) {
        let identity = Identity::from_secret(&secret, &NodeKey::from_bytes([n + 1; 32])).unwrap();
        let mut builder = Mesh::builder(identity)
            .listen(([0, 0, 0, 0], 4433).into())
            .network(Arc::new(HostNetwork { host: net.host(*host), tells }))
            .reproducible([n; 32], 1_700_000_000_000);
        if n > 0 {
            builder = builder.bootstrap(SocketAddr::new(net.ips(hosts[0])[0], 4433));
        }
        nodes.push(builder.start().await.unwrap());
    }
    let nodes: [Mesh; 2] = nodes.try_into().ok().unwrap();
    until("they know each other", || nodes.iter().all(|node| node.peers().len() == 1)).await;
    (net, hosts, nodes)
}

/// Waits in steps of a millisecond; how long it took.
async fn until(what: &str, is_so: impl Fn() -> bool) -> Duration {
    let start = Instant::now();
    while !is_so() {
        assert!(start.elapsed() < Duration::from_secs(30), "it never came true that {what}");
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    start.elapsed()
}

/// How long after a new address the first of `nodes` offers it to the other one.
async fn offers_a_new_address(net: &SimNet, host: HostId, nodes: &[Mesh; 2]) -> Duration {
    // Not in step with what the node does once a second.
    tokio::time::sleep(Duration::from_millis(3_141)).await;
    let new: IpAddr = [10, 9, 8, 7].into();
    net.with(|net, _| net.add_useless(host, new));
    let offers = |why: net_mesh::Why| why.own_candidates.iter().any(|addr| addr.ip() == new);
    until("the new address is offered", || nodes[0].why(nodes[1].node_id()).is_ok_and(offers)).await
}

#[tokio::test(start_paused = true)]
async fn a_node_that_is_told_of_changes_acts_on_them_at_once() {
    let (net, hosts, nodes) = pair(true).await;
    let took = offers_a_new_address(&net, hosts[0], &nodes).await;
    assert!(took <= TOLD, "{took:?}");
}

#[tokio::test(start_paused = true)]
async fn a_node_that_is_told_nothing_looks_once_a_second() {
    let (net, hosts, nodes) = pair(false).await;
    let took = offers_a_new_address(&net, hosts[0], &nodes).await;
    assert!(took > TOLD && took <= LOOKS, "{took:?}");
}

#[tokio::test(start_paused = true)]
async fn a_host_is_told_of_its_own_changes_alone() {
    let mut internet = Internet::new(1);
    let hosts: Vec<HostId> = (0..2).map(|_| internet.add_behind(Nat::direct())).collect();
    let net = SimNet::new(internet);
    let told = hosts.iter().map(|host| net.changes(*host)).collect::<Vec<_>>();
    net.with(|net, _| net.add_useless(hosts[0], [10, 0, 0, 1].into()));
    assert_eq!([0, 1].map(|n| told[n].has_changed().unwrap()), [true, false]);
    net.network_changed(hosts[1]);
    assert!(told[1].has_changed().unwrap());
}
