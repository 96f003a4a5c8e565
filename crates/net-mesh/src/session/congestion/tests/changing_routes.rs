//! A transfer whose route changes under it, between a fast path and a slow relay, with this controller and without.

use std::collections::VecDeque;
use std::io::{self, IoSliceMut};
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use net_mesh_proto::route::{CircuitId, Route};
use quinn::congestion::{ControllerFactory, CubicConfig};
use quinn::udp::{RecvMeta, Transmit};
use quinn::{AsyncUdpSocket, Endpoint, EndpointConfig, TokioRuntime, TransportConfig, UdpPoller};
use tokio::time::{Instant, sleep, sleep_until};

use super::super::Congestion;
use crate::identity::{Identity, MeshSecret, NodeKey};
use crate::session::config;

/// A line: bytes a second, one way, and how much may wait for it.
#[derive(Clone, Copy)]
struct Line {
    rate: u64,
    delay: Duration,
    queue: u64,
}

const PATH: Line = Line { rate: 12_500_000, delay: Duration::from_millis(20), queue: 500_000 };
const RELAY: Line = Line { rate: 625_000, delay: Duration::from_millis(40), queue: 100_000 };

/// Two lines between two sockets, one of which is in use.
struct Wire {
    lines: [Line; 2],
    used: AtomicUsize,
    sides: [Mutex<Side>; 2],
    dropped: AtomicUsize,
}

#[derive(Default)]
struct Side {
    /// When each line towards this side is free again.
    free: [Option<Instant>; 2],
    coming: VecDeque<(Instant, Vec<u8>)>,
    reader: Option<Waker>,
}

struct End(Arc<Wire>, usize);

impl std::fmt::Debug for End {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "end {}", self.1)
    }
}

fn addr(side: usize) -> SocketAddr {
    SocketAddr::from(([192, 0, 2, u8::try_from(side + 1).unwrap()], 4433))
}

#[derive(Debug)]
struct Always;

impl UdpPoller for Always {
    fn poll_writable(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

impl AsyncUdpSocket for End {
    fn create_io_poller(self: Arc<Self>) -> Pin<Box<dyn UdpPoller>> {
        Box::pin(Always)
    }

    fn try_send(&self, transmit: &Transmit<'_>) -> io::Result<()> {
        let Self(wire, side) = self;
        let n = wire.used.load(Ordering::Relaxed);
        let line = wire.lines[n];
        let mut there = wire.sides[1 - side].lock().unwrap();
        let now = Instant::now();
        for packet in transmit.contents.chunks(transmit.segment_size.unwrap_or(transmit.contents.len())) {
            let free = there.free[n].unwrap_or(now).max(now);
            let waiting = (free - now).as_secs_f64() * line.rate as f64;
            if waiting as u64 + packet.len() as u64 > line.queue {
                wire.dropped.fetch_add(1, Ordering::Relaxed);
                continue;
            }
            let sent = free + Duration::from_secs_f64(packet.len() as f64 / line.rate as f64);
            there.free[n] = Some(sent);
            let at = there.coming.partition_point(|(at, _)| *at <= sent + line.delay);
            there.coming.insert(at, (sent + line.delay, packet.to_vec()));
        }
        if let Some(reader) = there.reader.take() {
            reader.wake();
        }
        Ok(())
    }

    fn poll_recv(
        &self,
        cx: &mut Context<'_>,
        bufs: &mut [IoSliceMut<'_>],
        meta: &mut [RecvMeta],
    ) -> Poll<io::Result<usize>> {
        let mut here = self.0.sides[self.1].lock().unwrap();
        let now = Instant::now();
        match here.coming.front().map(|(at, _)| *at) {
            Some(at) if at <= now => {
                let (_, packet) = here.coming.pop_front().unwrap();
                bufs[0][..packet.len()].copy_from_slice(&packet);
                meta[0] = RecvMeta::default();
                (meta[0].addr, meta[0].len, meta[0].stride) = (addr(1 - self.1), packet.len(), packet.len());
                Poll::Ready(Ok(1))
            }
            next => {
                here.reader = Some(cx.waker().clone());
                if let Some(at) = next {
                    let waker = cx.waker().clone();
                    tokio::spawn(async move {
                        sleep_until(at).await;
                        waker.wake();
                    });
                }
                Poll::Pending
            }
        }
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        Ok(addr(self.1))
    }

    fn may_fragment(&self) -> bool {
        false
    }
}

fn wire(lines: [Line; 2]) -> Arc<Wire> {
    Arc::new(Wire {
        lines,
        used: AtomicUsize::new(0),
        sides: Default::default(),
        dropped: AtomicUsize::new(0),
    })
}

/// A connection over the wire: the sender's end, and the receiver's.
async fn connect(
    wire: &Arc<Wire>,
    controller: Arc<dyn ControllerFactory + Send + Sync>,
) -> (quinn::Connection, quinn::Connection, [Endpoint; 2]) {
    let identity =
        |n| Identity::from_secret(&MeshSecret::from_bytes([1; 32]), &NodeKey::from_bytes([n; 32])).unwrap();
    let endpoint = |side: usize, server| {
        let mut config = EndpointConfig::default();
        config.rng_seed(Some([9; 32]));
        let socket = Arc::new(End(Arc::clone(wire), side));
        Endpoint::new_with_abstract_socket(config, server, socket, Arc::new(TokioRuntime)).unwrap()
    };
    let server = endpoint(1, Some(config::server(&identity(2)).unwrap()));
    let client = endpoint(0, None);
    let mut transport = TransportConfig::default();
    transport.congestion_controller_factory(controller).initial_rtt(Duration::from_millis(100));
    let mut ours = config::client(&identity(1), None, &Congestion::default()).unwrap();
    ours.transport_config(Arc::new(transport));
    let connecting = client.connect_with(ours, addr(1), "mesh").unwrap();
    let accepting = async { server.accept().await.unwrap().await.unwrap() };
    let (here, there) = tokio::join!(connecting, accepting);
    (here.unwrap(), there, [client, server])
}

/// Sends something and waits for the acknowledgements.
pub(super) async fn converse(controller: Arc<dyn ControllerFactory + Send + Sync>) {
    let (here, there, _endpoints) = connect(&wire([PATH, RELAY]), controller).await;
    let mut send = here.open_uni().await.unwrap();
    send.write_all(&[7; 20_000]).await.unwrap();
    send.finish().unwrap();
    let mut receive = there.accept_uni().await.unwrap();
    receive.read_to_end(30_000).await.unwrap();
    sleep(Duration::from_secs(1)).await;
}

/// What came of a transfer.
#[derive(Clone, Debug)]
struct Figures {
    /// Megabits a second, in the half seconds after the change.
    after: Vec<f64>,
    /// Packets that did not fit into a queue after the change.
    dropped: usize,
}

/// A bulk transfer of three seconds on the first line, and of four on the second.
async fn transfer(lines: [Line; 2], by_route: bool) -> Figures {
    let (wire, congestion) = (wire(lines), Congestion::default());
    let routes = [Route::Relayed(CircuitId(0)), Route::Direct(addr(1))];
    let routes = if lines[0].rate > lines[1].rate { [routes[1], routes[0]] } else { routes };
    congestion.begin(routes[0]);
    let factory: Arc<dyn ControllerFactory + Send + Sync> =
        if by_route { congestion.factory() } else { Arc::new(CubicConfig::default()) };
    let (here, there, _endpoints) = connect(&wire, factory).await;
    let sending = here.clone();
    tokio::spawn(async move {
        let mut send = sending.open_uni().await.unwrap();
        while send.write_all(&[7; 65_536]).await.is_ok() {}
    });
    let received = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&received);
    let reading = there.clone();
    tokio::spawn(async move {
        let mut receive = reading.accept_uni().await.unwrap();
        while let Ok(Some(chunk)) = receive.read_chunk(usize::MAX, true).await {
            count.fetch_add(chunk.bytes.len(), Ordering::Relaxed);
        }
    });
    sleep(Duration::from_secs(3)).await;
    wire.used.store(1, Ordering::Relaxed);
    if by_route {
        congestion.switch(routes[1], lines[1].rate > lines[0].rate);
    }
    // As a session does after every change.
    let _ = here.send_datagram(vec![0].into());
    let _ = there.send_datagram(vec![0].into());
    let (before, dropped) = (received.load(Ordering::Relaxed), wire.dropped.load(Ordering::Relaxed));
    let mut at = before;
    let mut after = Vec::new();
    for _ in 0..8 {
        sleep(Duration::from_millis(500)).await;
        let now = received.load(Ordering::Relaxed);
        after.push((now - at) as f64 * 8.0 / 500_000.0);
        at = now;
    }
    here.close(0u32.into(), b"");
    Figures { after, dropped: wire.dropped.load(Ordering::Relaxed) - dropped }
}

fn print(what: &str, figures: &Figures) {
    let after: Vec<String> = figures.after.iter().map(|rate| format!("{rate:.0}")).collect();
    println!("| {what} | {} | {} |", after.join(" | "), figures.dropped);
}

#[tokio::test(start_paused = true)]
async fn a_slow_relay_is_not_flooded_with_a_fast_paths_window() {
    let stock = transfer([PATH, RELAY], false).await;
    let ours = transfer([PATH, RELAY], true).await;
    print("down, stock", &stock);
    print("down, by route", &ours);
    assert!(ours.dropped * 10 < stock.dropped, "{ours:?} and {stock:?}");
    let rate = RELAY.rate as f64 * 8.0 / 1e6;
    // In order: what waited for a packet that was lost comes in one go.
    let later = &ours.after[2..];
    assert!(later.iter().all(|r| *r > 0.8 * rate), "{ours:?}");
}

#[tokio::test(start_paused = true)]
async fn a_fast_path_is_not_filled_with_a_slow_relays_memory() {
    let stock = transfer([RELAY, PATH], false).await;
    let ours = transfer([RELAY, PATH], true).await;
    print("up, stock", &stock);
    print("up, by route", &ours);
    let sum = |figures: &Figures| figures.after[..4].iter().sum::<f64>();
    assert!(sum(&ours) > 1.5 * sum(&stock), "{ours:?} and {stock:?}");
    assert!(ours.after[2..].iter().all(|rate| *rate > 80.0), "{ours:?}");
}
