//! Nodes for tests, on loopback.
#![allow(dead_code, reason = "not every test file uses everything")]
#![allow(clippy::unwrap_used, reason = "a test that cannot set up its nodes has failed")]

use std::future::Future;
use std::net::{SocketAddr, UdpSocket};
use std::time::Duration;

use net_mesh::{Identity, Mesh, MeshSecret, NodeKey};

pub(crate) fn secret(byte: u8) -> MeshSecret {
    MeshSecret::from_bytes([byte; 32])
}

pub(crate) fn key(byte: u8) -> NodeKey {
    NodeKey::from_bytes([byte; 32])
}

/// A node on a port of the system's choosing, starting from another one.
pub(crate) async fn node(secret: &MeshSecret, key: &NodeKey, from: Option<&Mesh>) -> Mesh {
    let any = SocketAddr::from(([127, 0, 0, 1], 0));
    node_at(secret, key, any, from.map(|m| m.local_addrs()[0])).await
}

/// A node at an address, starting from another one.
pub(crate) async fn node_at(
    secret: &MeshSecret,
    key: &NodeKey,
    at: SocketAddr,
    from: Option<SocketAddr>,
) -> Mesh {
    let mut builder = Mesh::builder(Identity::from_secret(secret, key).unwrap()).listen(at);
    if let Some(from) = from {
        builder = builder.bootstrap(from);
    }
    builder.start().await.unwrap()
}

/// Two ports that were free a moment ago.
pub(crate) fn free_ports() -> (SocketAddr, SocketAddr) {
    let sockets = [(), ()].map(|()| UdpSocket::bind("127.0.0.1:0").unwrap());
    (sockets[0].local_addr().unwrap(), sockets[1].local_addr().unwrap())
}

/// What a future comes to, which must not take for ever. The limit is far above what is expected, and only
/// turns a hang into a failure.
pub(crate) async fn within<T>(what: &str, future: impl Future<Output = T>) -> T {
    tokio::time::timeout(Duration::from_secs(20), future)
        .await
        .unwrap_or_else(|_| panic!("{what} never came"))
}
