//! Plain QUIC over simulated sockets, in virtual time.
#![allow(clippy::unwrap_used, reason = "a test file")]

use std::io::IoSliceMut;
use std::net::SocketAddr;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use net_mesh_sim::{HostId, Internet, Link, Lost, Nat, SimNet};
use quinn::udp::{RecvMeta, Transmit};
use quinn::{AsyncUdpSocket, ClientConfig, Endpoint, EndpointConfig, ServerConfig, TokioRuntime};

const ANY: &str = "0.0.0.0:0";

/// Ed25519, because its signatures have one length: ECDSA's vary, and traces with them.
fn tls() -> (ServerConfig, ClientConfig) {
    let key = rcgen::KeyPair::generate_for(&rcgen::PKCS_ED25519).unwrap();
    let params = rcgen::CertificateParams::new(vec!["node".into()]).unwrap();
    let cert = params.self_signed(&key).unwrap().der().clone();
    let secret = rustls::pki_types::PrivatePkcs8KeyDer::from(key.serialize_der());
    let server = ServerConfig::with_single_cert(vec![cert.clone()], secret.into()).unwrap();
    let mut roots = rustls::RootCertStore::empty();
    roots.add(cert).unwrap();
    (server, ClientConfig::with_root_certificates(Arc::new(roots)).unwrap())
}

fn endpoint(socket: Arc<dyn AsyncUdpSocket>, server: Option<ServerConfig>) -> Endpoint {
    let mut config = EndpointConfig::default();
    config.rng_seed(Some([9; 32]));
    Endpoint::new_with_abstract_socket(config, server, socket, Arc::new(TokioRuntime)).unwrap()
}

fn datagram(destination: SocketAddr, contents: &[u8]) -> Transmit<'_> {
    Transmit { destination, ecn: None, contents, segment_size: None, src_ip: None }
}

/// Where a host's socket is seen from outside: these NATs preserve ports.
fn external(net: &SimNet, host: HostId, socket: &dyn AsyncUdpSocket) -> SocketAddr {
    let ip = net.with(|net, _| net.external_ips(net.nats(host)[0])[0]);
    SocketAddr::new(ip, socket.local_addr().unwrap().port())
}

/// Sends 100 kB to a server behind `nat` from a port-restricted home and back; the trace's fingerprint and how long it took.
async fn echo_through(nat: Nat, seed: u64) -> (u64, Duration) {
    let mut internet = Internet::new(seed);
    let (home, away) = (internet.add_behind(Nat::port_restricted()), internet.add_behind(nat));
    let link = Link { loss: 0.01, jitter: Duration::from_millis(2), ..Link::default() };
    internet.set_link(net_mesh_proto::time::Time::ZERO, home, &link);
    let net = SimNet::new(internet);
    let any: SocketAddr = ANY.parse().unwrap();
    let (near, far) = (net.host(home).bind(any).unwrap(), net.host(away).bind(any).unwrap());
    let there = external(&net, away, far.as_ref());
    let here = external(&net, home, near.as_ref());
    far.try_send(&datagram(here, b"opens the NAT")).unwrap();

    let (server_config, client_config) = tls();
    let server = endpoint(far, Some(server_config));
    let client = endpoint(near, None);
    let started = tokio::time::Instant::now();
    let serve = async {
        let conn = server.accept().await.unwrap().await.unwrap();
        let (mut tx, mut rx) = conn.accept_bi().await.unwrap();
        let data = rx.read_to_end(200_000).await.unwrap();
        tx.write_all(&data).await.unwrap();
        tx.finish().unwrap();
        conn.closed().await;
    };
    let ask = async {
        let conn = client.connect_with(client_config, there, "node").unwrap().await.unwrap();
        let (mut tx, mut rx) = conn.open_bi().await.unwrap();
        let data: Vec<u8> = (0..100_000u32).map(|i| u8::try_from(i % 251).unwrap()).collect();
        tx.write_all(&data).await.unwrap();
        tx.finish().unwrap();
        assert_eq!(rx.read_to_end(200_000).await.unwrap(), data);
        conn.close(0u32.into(), b"done");
    };
    tokio::join!(serve, ask);
    (net.trace_hash(), started.elapsed())
}

#[tokio::test(start_paused = true)]
async fn quic_crosses_a_full_cone_and_a_port_restricted_nat_the_same_way_for_the_same_seed() {
    for nat in [Nat::full_cone(), Nat::port_restricted()] {
        let (first, took) = echo_through(nat.clone(), 1).await;
        assert!(took < Duration::from_secs(3), "{took:?} of virtual time");
        assert_eq!(echo_through(nat.clone(), 1).await.0, first);
        assert_ne!(echo_through(nat, 2).await.0, first);
    }
}

#[tokio::test(start_paused = true)]
async fn a_socket_splits_segments_bounds_its_buffer_and_closes_its_port_when_dropped() {
    let mut internet = Internet::new(1);
    let (a, b) = (internet.add_behind(Nat::direct()), internet.add_behind(Nat::direct()));
    let net = SimNet::new(internet);
    let tx = net.bind(a, ANY.parse().unwrap()).unwrap();
    let rx = net.bind(b, ANY.parse().unwrap()).unwrap();
    let to = SocketAddr::new(net.ips(b)[0], rx.local_addr().unwrap().port());
    let batch = vec![7; 2500];
    tx.try_send(&Transmit { segment_size: Some(1000), ..datagram(to, &batch) }).unwrap();
    tokio::time::sleep(Duration::from_millis(30)).await;

    let mut cx = Context::from_waker(Waker::noop());
    let mut space = [[0; 1500]; 4];
    let mut bufs = space.each_mut().map(|s| IoSliceMut::new(s));
    let mut meta = [RecvMeta::default(); 4];
    assert!(matches!(rx.poll_recv(&mut cx, &mut bufs, &mut meta), Poll::Ready(Ok(3))));
    assert_eq!(meta.map(|m| m.len), [1000, 1000, 500, 0]);
    assert!(rx.poll_recv(&mut cx, &mut bufs, &mut meta).is_pending());

    let many = vec![7; 1000 * 5000];
    tx.try_send(&Transmit { segment_size: Some(1000), ..datagram(to, &many) }).unwrap();
    tokio::time::sleep(Duration::from_millis(30)).await;
    let lost = |reason| net.with(|net, _| net.trace().counts().lost(reason));
    let room = u64::try_from(net_mesh_sim::socket::RECEIVE_BUFFER / 1000).unwrap();
    assert_eq!(lost(Lost::ReceiveBuffer), 5000 - room);

    drop(rx);
    tx.try_send(&datagram(to, b"late")).unwrap();
    tokio::time::sleep(Duration::from_millis(30)).await;
    assert_eq!(lost(Lost::Unbound), 1);
    assert!(net.bind(b, to).is_ok(), "the port is free again");
    let taken = net.bind(a, tx.local_addr().unwrap()).unwrap_err();
    assert_eq!(taken.kind(), std::io::ErrorKind::AddrInUse);
}

#[tokio::test(start_paused = true)]
async fn a_socket_with_batches_joins_what_one_sender_sent_in_one_length() {
    let mut internet = Internet::new(1);
    let [a, b, c] = [(); 3].map(|()| internet.add_behind(Nat::direct()));
    let net = SimNet::new(internet);
    net.set_segments(10);
    let [one, other, rx] = [a, b, c].map(|host| net.bind(host, ANY.parse().unwrap()).unwrap());
    assert_eq!((rx.max_transmit_segments(), rx.max_receive_segments()), (10, 10));
    let to = SocketAddr::new(net.ips(c)[0], rx.local_addr().unwrap().port());
    let batch = vec![7; 2500];
    one.try_send(&Transmit { segment_size: Some(1000), ..datagram(to, &batch) }).unwrap();
    other.try_send(&Transmit { segment_size: Some(500), ..datagram(to, &batch[..1500]) }).unwrap();
    other.try_send(&datagram(to, &batch[..600])).unwrap();
    other.try_send(&Transmit { segment_size: Some(100), ..datagram(to, &batch[..1200]) }).unwrap();
    tokio::time::sleep(Duration::from_millis(30)).await;

    let mut cx = Context::from_waker(Waker::noop());
    let mut space = [[0; 15_000]; 8];
    let mut bufs = space.each_mut().map(|s| IoSliceMut::new(s));
    let mut meta = [RecvMeta::default(); 8];
    assert!(matches!(rx.poll_recv(&mut cx, &mut bufs, &mut meta), Poll::Ready(Ok(5))));
    let seen: Vec<(usize, usize)> = meta.iter().map(|m| (m.len, m.stride)).take(5).collect();
    // A shorter one ends a batch, a longer one begins another, and ten are the most.
    assert_eq!(seen, [(2500, 1000), (1500, 500), (700, 600), (1000, 100), (100, 100)]);
}
