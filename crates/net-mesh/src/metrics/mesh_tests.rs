//! What a whole mesh records: rendezvous, relaying and both kinds of paths, on a simulated internet in virtual time.

#![allow(clippy::unwrap_used, reason = "a test file")]

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use net_mesh_sim::{Internet, Nat, SimHost, SimNet};
use tokio::time::{sleep, timeout};

use super::tests::Kept;
use crate::net::Network;
use crate::{Identity, Mesh, MeshSecret, NodeKey, PathKind};

#[derive(Debug)]
struct HostNetwork(SimHost);

impl Network for HostNetwork {
    fn bind(&self, addr: SocketAddr) -> std::io::Result<Arc<dyn quinn::AsyncUdpSocket>> {
        self.0.bind(addr)
    }

    fn ips(&self) -> Vec<IpAddr> {
        self.0.ips()
    }

    fn overflowed(&self, local: SocketAddr) -> Option<u64> {
        Some(if local.is_ipv6() { 0 } else { 7 })
    }
}

/// Three public nodes, two behind port-restricted NATs, and two behind symmetric ones, which cannot reach each other nor
/// those straight.
async fn mesh() -> Vec<Mesh> {
    let mut internet = Internet::new(5);
    let mut hosts: Vec<_> = (0..3).map(|_| internet.add_behind(Nat::direct())).collect();
    hosts.extend((0..2).map(|_| internet.add_behind(Nat::port_restricted())));
    hosts.extend((0..2).map(|_| internet.add_behind(Nat::symmetric())));
    let start = SocketAddr::new(internet.ips(hosts[0])[0], 4433);
    let net = SimNet::new(internet);
    let secret = MeshSecret::from_bytes([1; 32]);
    let mut members = Vec::new();
    for (n, host) in (1..).zip(hosts) {
        let identity = Identity::from_secret(&secret, &NodeKey::from_bytes([n; 32])).unwrap();
        let builder = Mesh::builder(identity)
            .name(format!("n{n}"))
            .listen(([0, 0, 0, 0], 4433).into())
            .bootstrap(start)
            .network(Arc::new(HostNetwork(net.host(host))))
            .reproducible([n; 32], 1_700_000_000_000);
        members.push(builder.start().await.unwrap());
    }
    members
}

#[tokio::test(start_paused = true)]
async fn relayed_and_punched_sessions_are_told_apart() {
    let kept = Kept::default();
    let _guard = ::metrics::set_default_local_recorder(&kept);
    let mesh = mesh().await;
    let relayed = |m: &Mesh| m.peers().iter().filter(|p| p.path.kind == PathKind::Relayed).count();
    let settled = async {
        while mesh.iter().map(relayed).collect::<Vec<_>>() != [0, 0, 0, 2, 2, 3, 3] {
            sleep(Duration::from_millis(100)).await;
        }
    };
    timeout(Duration::from_secs(60), settled).await.expect("everyone has found their ways");
    let mut events = mesh[6].subscribe("load").unwrap();
    sleep(Duration::from_secs(5)).await;
    let before = kept.sum("net_mesh_session_bytes_total", &[("path", "relayed"), ("direction", "received")]);
    let sent = 200_000_u32;
    mesh[5].publish("load", vec![7; sent as usize]).await.unwrap();
    timeout(Duration::from_secs(30), events.next()).await.unwrap().unwrap();
    sleep(Duration::from_secs(2)).await;
    kept.check();

    // Counters are sums over all seven nodes.
    let sum = |name: &str, labels: &[(&str, &str)]| kept.sum(name, labels);
    let received = sum("net_mesh_session_bytes_total", &[("path", "relayed"), ("direction", "received")]);
    assert!(received - before >= f64::from(sent), "{received} after {before}");
    assert!(sum("net_mesh_relay_bytes_total", &[]) >= f64::from(sent));
    assert!(sum("net_mesh_relay_packets_total", &[]) > 100.0);
    assert!(sum("net_mesh_relay_delivered_packets_total", &[]) > 100.0);
    assert_eq!(sum("net_mesh_relay_dropped_packets_total", &[("reason", "limit")]), 0.0);
    assert!(sum("net_mesh_path_changes_total", &[("path", "relayed")]) >= 10.0);
    let found = sum("net_mesh_rendezvous_total", &[("outcome", "found"), ("reason", "answered")]);
    assert!(found >= 2.0, "both sides of the port-restricted pair at least: {found}");
    assert!(sum("net_mesh_introductions_total", &[]) >= 1.0);
    assert!(sum("net_mesh_rendezvous_checks_total", &[("direction", "received")]) >= 2.0);
    // Simulated sockets say seven, each.
    assert_eq!(sum("net_mesh_socket_dropped_packets_total", &[("family", "ipv4")]), 49.0);
    assert!(sum("net_mesh_nat_classifications_total", &[("nat_class", "symmetric")]) >= 2.0);
    // Gauges are what one of them said last, and they agree on who is there.
    let classes = ["direct", "port-restricted", "symmetric", "unknown"]
        .map(|class| (class, sum("net_mesh_members", &[("nat_class", class)])));
    assert_eq!(classes, [("direct", 3.0), ("port-restricted", 2.0), ("symmetric", 2.0), ("unknown", 0.0)]);
    assert_eq!(sum("net_mesh_relaying_members", &[]), 7.0);
}
