//! Whole nodes on loopback: who gets a session with whom, and what it carries.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod support;

use std::time::Duration;

use net_mesh::{Health, MeshSecret, NodeKey, PathKind, PeerError, ResolveError};
use support::{key, node, node_at, secret, within};

#[tokio::test]
async fn two_nodes_of_one_mesh_find_each_other_and_talk() {
    let a = node(&secret(1), &key(1), None).await;
    let b = node(&secret(1), &key(2), Some(&a)).await;
    within("a session", async {
        while a.peers().iter().all(|p| p.path.kind != PathKind::Direct) {
            a.changed().await;
        }
    })
    .await;
    let pong = within("a pong", b.ping(a.node_id())).await.unwrap();
    assert_eq!(pong.path.kind, PathKind::Direct);
    assert_eq!(pong.path.addr, Some(a.local_addrs()[0]));

    let (mut send, mut recv) = within("a stream", b.open_stream(a.node_id())).await.unwrap();
    send.write_all(b"hello").await.unwrap();
    send.finish().unwrap();
    let (from, mut back, mut there) = within("its arrival", a.accept_stream()).await.unwrap();
    assert_eq!(from, b.node_id());
    assert_eq!(there.read_to_end(100).await.unwrap(), b"hello");
    back.write_all(b"hello yourself").await.unwrap();
    back.finish().unwrap();
    assert_eq!(within("the answer", recv.read_to_end(100)).await.unwrap(), b"hello yourself");

    within("sending", a.send_datagram(b.node_id(), b"ping")).await.unwrap();
    let (from, datagram) = within("a datagram", b.recv_datagram()).await.unwrap();
    assert_eq!((from, &datagram[..]), (a.node_id(), &b"ping"[..]));
    let too_large = a.send_datagram(b.node_id(), &[0; 2000]).await;
    assert!(matches!(too_large, Err(PeerError::TooLarge { limit: 1100.., .. })), "{too_large:?}");

    let peers = b.peers();
    assert_eq!(peers.len(), 1);
    assert_eq!((peers[0].node_id, peers[0].health), (a.node_id(), Health::Healthy));
    assert!(peers[0].tx_bytes > 0 && peers[0].rx_bytes > 0 && peers[0].rtt.is_some());
    a.shutdown().await;
    b.shutdown().await;
}

#[tokio::test]
async fn a_node_of_another_mesh_is_refused_and_disturbs_nobody() {
    let a = node(&secret(1), &key(1), None).await;
    let b = node(&secret(1), &key(2), Some(&a)).await;
    let stranger = node(&secret(2), &key(3), Some(&a)).await;
    assert!(within("the members' session", loop_ping(&b, &a)).await);
    tokio::time::sleep(Duration::from_millis(700)).await;
    assert!(stranger.peers().is_empty());
    assert_eq!(a.peers().len(), 1);
    assert!(within("a pong", loop_ping(&b, &a)).await);
}

#[tokio::test]
async fn a_member_learns_of_all_through_any_one_and_knows_who_left() {
    let a = node(&secret(1), &key(1), None).await;
    let b = node(&secret(1), &key(2), Some(&a)).await;
    let c = node(&secret(1), &key(3), Some(&b)).await;
    within("everyone's table", async {
        while [&a, &b, &c].iter().any(|n| n.peers().len() < 2) {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    })
    .await;
    within("a pong from one never named", c.ping(a.node_id())).await.unwrap();
    let gone = b.node_id();
    b.shutdown().await;
    within("its departure", async {
        while a.peers().iter().chain(&c.peers()).any(|p| p.node_id == gone) {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    })
    .await;
}

#[tokio::test]
async fn a_name_or_the_start_of_an_id_names_a_member() {
    let a = node(&secret(1), &key(1), None).await;
    assert_eq!(a.resolve(a.name()).unwrap(), a.node_id());
    assert_eq!(a.resolve(&a.node_id().to_string()[..12].to_uppercase()).unwrap(), a.node_id());
    assert!(matches!(a.resolve("nobody"), Err(ResolveError::Unknown(_))));
    assert!(matches!(a.resolve(""), Err(ResolveError::Unknown(_))));
    let unknown = NodeKey::from_bytes([99; 32]).id();
    assert!(matches!(a.ping(unknown).await, Err(PeerError::Unknown(_))));
}

#[tokio::test]
async fn both_dialling_at_once_ends_in_one_session() {
    for round in 0..5 {
        let secret = MeshSecret::from_bytes([round + 10; 32]);
        let (ports, keys) = (support::free_ports(), (key(1), key(2)));
        let (a, b) = tokio::join!(
            node_at(&secret, &keys.0, ports.0, Some(ports.1)),
            node_at(&secret, &keys.1, ports.1, Some(ports.0))
        );
        let (x, y) = tokio::join!(
            within("a pong", async { loop_ping(&a, &b).await }),
            within("a pong", async { loop_ping(&b, &a).await })
        );
        assert!(x && y);
        // What one sends over its session, the other receives over what it takes for the session.
        const BYTES: usize = 200_000;
        let (mut send, _recv) = within("a stream", a.open_stream(b.node_id())).await.unwrap();
        send.write_all(&[7; BYTES]).await.unwrap();
        send.finish().unwrap();
        let (_, _send, mut recv) = within("its arrival", b.accept_stream()).await.unwrap();
        assert_eq!(within("all of it", recv.read_to_end(BYTES)).await.unwrap().len(), BYTES);
        assert!(b.peers()[0].rx_bytes > BYTES as u64, "round {round}: two connections are in use");
    }
}

async fn loop_ping(from: &net_mesh::Mesh, to: &net_mesh::Mesh) -> bool {
    loop {
        if from.ping(to.node_id()).await.is_ok() {
            return true;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

#[tokio::test]
async fn a_node_that_is_dropped_tells_its_peers_and_frees_its_port() {
    let a = node(&secret(1), &key(1), None).await;
    let b = node(&secret(1), &key(2), Some(&a)).await;
    assert!(within("a pong", loop_ping(&a, &b)).await);
    let port = b.local_addrs()[0];
    drop(b);
    // Much sooner than the 30 s after which silence would tell.
    within("the end of the session", async {
        while a.peers().iter().any(|p| p.path.kind == PathKind::Direct) {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    })
    .await;
    within("the port", async {
        while std::net::UdpSocket::bind(port).is_err() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    })
    .await;
}

/// An authority, and what it gives to nodes, as an operator's own tools would make them.
struct Authority(rcgen::Issuer<'static, rcgen::KeyPair>, String);

impl Authority {
    fn new() -> Self {
        let key = rcgen::KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256).unwrap();
        let mut params = rcgen::CertificateParams::default();
        params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
        let pem = params.self_signed(&key).unwrap().pem();
        Self(rcgen::Issuer::new(params, key), pem)
    }

    async fn node(&self, from: Option<&net_mesh::Mesh>) -> net_mesh::Mesh {
        let key = rcgen::KeyPair::generate_for(&rcgen::PKCS_ED25519).unwrap();
        let params = rcgen::CertificateParams::new(vec!["host.example".to_owned()]).unwrap();
        let cert = params.signed_by(&key, &self.0).unwrap();
        let identity = net_mesh::Identity::from_pem(&self.1, &cert.pem(), &key.serialize_pem()).unwrap();
        let mut builder = net_mesh::Mesh::builder(identity).listen("127.0.0.1:0".parse().unwrap());
        if let Some(from) = from {
            builder = builder.bootstrap(from.local_addrs()[0]);
        }
        builder.start().await.unwrap()
    }
}

#[tokio::test]
async fn nodes_with_an_operators_certificates_talk_and_those_of_another_operator_do_not() {
    let (ours, theirs) = (Authority::new(), Authority::new());
    let a = ours.node(None).await;
    let b = ours.node(Some(&a)).await;
    let stranger = theirs.node(Some(&a)).await;
    assert!(within("a pong", loop_ping(&b, &a)).await);
    tokio::time::sleep(Duration::from_millis(700)).await;
    assert!(stranger.peers().is_empty());
    assert_eq!(a.peers().len(), 1);
}
