//! Which ports a node takes that is free to choose.
#![allow(clippy::unwrap_used, reason = "a test file")]

use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, UdpSocket};
use std::sync::Arc;

use net_mesh::net::{Network, SystemNetwork};
use net_mesh::{Identity, Mesh, MeshSecret, NodeKey};
use quinn::AsyncUdpSocket;

/// An address of loopback that nothing else uses, and no IPv6.
const HERE: Ipv4Addr = Ipv4Addr::new(127, 61, 7, 3);

#[derive(Debug)]
struct Loopback;

impl Network for Loopback {
    fn bind(&self, addr: SocketAddr) -> io::Result<Arc<dyn AsyncUdpSocket>> {
        if addr.is_ipv6() {
            return Err(io::ErrorKind::AddrNotAvailable.into());
        }
        SystemNetwork.bind((HERE, addr.port()).into())
    }

    fn ips(&self) -> Vec<IpAddr> {
        vec![]
    }
}

async fn ports(prefer: u16) -> Vec<u16> {
    let identity = Identity::from_secret(&MeshSecret::from_bytes([3; 32]), &NodeKey::generate().unwrap());
    let builder = Mesh::builder(identity.unwrap()).network(Arc::new(Loopback)).prefer_port(prefer);
    let mesh = builder.start().await.unwrap();
    let ports = mesh.local_addrs().iter().map(SocketAddr::port).collect();
    mesh.shutdown().await;
    ports
}

#[tokio::test]
async fn the_port_that_is_preferred_is_taken_where_it_is_free_and_another_one_where_it_is_not() {
    let taken = UdpSocket::bind((HERE, 0)).unwrap();
    let port = taken.local_addr().unwrap().port();
    let other = ports(port).await;
    assert!(other[0] != port && other[0] != 0, "{other:?}");
    drop(taken);
    assert_eq!(ports(port).await[0], port);
}
