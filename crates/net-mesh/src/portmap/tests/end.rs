//! What becomes of requests that another one cuts short, and of those that are too many.

use net_mesh_proto::portmap::RequestId;
use tokio::sync::mpsc;

use super::by_http::{decent, here, upnp};
use super::*;
use crate::driver::Signal;
use crate::portmap::worker::Worker;

/// The shortest time in which nothing else than being cut short ends a request to a device that does not answer.
const SOON: Duration = Duration::from_secs(4);

/// A device that takes each request and does not answer those to map while `mute`, and the thread that asks it.
struct Scene {
    worker: Option<Worker>,
    answers: mpsc::Receiver<Signal>,
    /// Keeps the queue open, as the node does.
    _signals: mpsc::Sender<Signal>,
    mute: Arc<AtomicU8>,
    /// The requests about ports that arrived: what, and which port of the router.
    seen: Arc<Mutex<Vec<(&'static str, u16)>>>,
    gateway: Ipv4Addr,
}

fn map(external: u16) -> Request {
    Request::Map { protocol: Protocol::UpnpIgd, internal: 7000, external, lease: Duration::from_secs(600) }
}

fn port_in(request: &str) -> u16 {
    let (_, rest) = request.split_once("<NewExternalPort>").unwrap();
    rest.split_once('<').unwrap().0.parse().unwrap()
}

impl Scene {
    fn new() -> Self {
        let (mute, seen) = (Arc::new(AtomicU8::new(1)), Arc::new(Mutex::new(Vec::new())));
        let (is_mute, saw) = (Arc::clone(&mute), Arc::clone(&seen));
        let page = decent(move |request, stream| {
            let adds = request.contains("#AddPortMapping");
            if adds || request.contains("#DeletePortMapping") {
                let word = if adds { "map" } else { "delete" };
                saw.lock().unwrap().push((word, port_in(request)));
            }
            let silent = adds && is_mute.load(Ordering::Relaxed) == 1;
            if silent {
                let _ = stream.read(&mut [0; 1]);
            }
            silent
        });
        let device = upnp(page, 1, here);
        let (signals, answers) = mpsc::channel(64);
        let place = Place { gateway: Some(device.ip), ssdp: device.ssdp };
        let worker = Worker::start(place, [7; 32], signals.downgrade()).unwrap();
        Self { worker: Some(worker), answers, _signals: signals, mute, seen, gateway: device.ip }
    }

    fn ask(&self, id: u64, request: Request) -> Option<Answer> {
        self.worker.as_ref().unwrap().ask(RequestId(id), request)
    }

    fn release(&self, external: u16) -> Request {
        let (gateway, host) = (self.gateway.into(), Ipv4Addr::LOCALHOST.into());
        Request::Release { protocol: Protocol::UpnpIgd, gateway, host, internal: 7000, external }
    }

    fn seen(&self) -> Vec<(&'static str, u16)> {
        self.seen.lock().unwrap().clone()
    }

    async fn until_seen(&self, wanted: &[(&'static str, u16)]) {
        let began = Instant::now();
        while self.seen() != wanted {
            assert!(began.elapsed() < SOON, "{:?} instead of {wanted:?}", self.seen());
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    /// The next answer, which must come soon: the number of the request, and what became of it.
    async fn answer(&mut self) -> (u64, &'static str) {
        let next = tokio::time::timeout(SOON, self.answers.recv()).await.expect("no answer");
        let Some(Signal::PortMapped { id, answer }) = next else { panic!("no answer") };
        let word = match answer {
            Answer::Mapped(_) => "mapped",
            Answer::Released => "released",
            Answer::Failed { detail, .. } if detail.contains("given up") => "given up",
            Answer::Failed { .. } => "failed",
        };
        (id.0, word)
    }
}

#[tokio::test]
async fn a_deletion_does_not_wait_for_a_request_to_map_and_undoes_it() {
    let mut scene = Scene::new();
    assert_eq!(scene.ask(1, map(40_000)), None);
    scene.until_seen(&[("map", 40_000)]).await;
    assert_eq!(scene.ask(2, scene.release(40_000)), None);
    assert_eq!(scene.answer().await, (2, "released"));
    assert_eq!(scene.answer().await, (1, "given up"));
    scene.until_seen(&[("map", 40_000), ("delete", 40_000)]).await;
}

#[tokio::test]
async fn a_request_that_the_deletion_of_another_mapping_cuts_short_is_made_again() {
    let mut scene = Scene::new();
    scene.ask(1, map(40_000));
    scene.until_seen(&[("map", 40_000)]).await;
    scene.mute.store(0, Ordering::Relaxed);
    scene.ask(2, scene.release(40_001));
    assert_eq!(scene.answer().await, (2, "released"));
    assert_eq!(scene.answer().await, (1, "mapped"));
    scene.until_seen(&[("map", 40_000), ("delete", 40_001), ("map", 40_000)]).await;
}

#[tokio::test]
async fn a_deletion_makes_only_what_was_asked_before_pointless() {
    let mut scene = Scene::new();
    scene.ask(1, map(40_000));
    scene.until_seen(&[("map", 40_000)]).await;
    scene.mute.store(0, Ordering::Relaxed);
    for (id, request) in [(2, scene.release(40_000)), (3, map(40_000))] {
        scene.ask(id, request);
    }
    for expected in [(2, "released"), (1, "given up"), (3, "mapped")] {
        assert_eq!(scene.answer().await, expected);
    }
}

#[tokio::test]
async fn a_node_that_leaves_undoes_what_it_was_asking_for_and_asks_for_nothing_more() {
    let mut scene = Scene::new();
    scene.ask(1, map(40_000));
    scene.until_seen(&[("map", 40_000)]).await;
    scene.ask(2, map(40_001));
    scene.worker.as_ref().unwrap().leave();
    assert_eq!(scene.answer().await, (1, "given up"));
    assert_eq!(scene.answer().await, (2, "given up"));
    scene.ask(3, scene.release(40_002));
    assert_eq!(scene.answer().await, (3, "released"));
    scene.until_seen(&[("map", 40_000), ("delete", 40_000), ("delete", 40_002)]).await;
}

#[tokio::test]
async fn a_node_that_is_dropped_undoes_what_it_was_asking_for() {
    let mut scene = Scene::new();
    scene.ask(1, map(40_000));
    scene.until_seen(&[("map", 40_000)]).await;
    scene.worker = None;
    scene.until_seen(&[("map", 40_000), ("delete", 40_000)]).await;
}

#[tokio::test]
async fn however_many_requests_wait_deletions_find_room_and_none_is_lost() {
    let mut scene = Scene::new();
    let refused: Vec<u64> = (0..200).filter(|id| scene.ask(*id, map(40_000)).is_some()).collect();
    assert!(refused.len() > 100, "what waits is bounded: only {refused:?} were refused");
    let ports = 50_000..50_010;
    for port in ports.clone() {
        assert_eq!(scene.ask(port.into(), scene.release(port)), None, "{port}");
    }
    scene.worker.as_ref().unwrap().leave();
    for port in ports.clone() {
        assert_eq!(scene.answer().await, (port.into(), "released"));
    }
    for id in (0..200).filter(|id| !refused.contains(id)) {
        assert_eq!(scene.answer().await, (id, "given up"));
    }
}

#[tokio::test]
async fn a_release_that_finds_no_room_is_answered_and_so_told() {
    let scene = Scene::new();
    let refused = (0..200).filter_map(|id| scene.ask(id, scene.release(40_000))).collect::<Vec<_>>();
    assert!(!refused.is_empty());
    assert!(refused.iter().all(|answer| failure(answer) == Some(Failure::Local)));
}

/// The nonce of a request in PCP to a router at `gateway`, by a node with `secret`.
fn nonce(gateway: Ipv4Addr, secret: u8, internal: u16) -> Vec<u8> {
    let socket = UdpSocket::bind((gateway, 5351)).unwrap();
    socket.set_read_timeout(Some(HANG)).unwrap();
    let listener = thread::spawn(move || {
        let mut buffer = [0; 2048];
        socket.recv_from(&mut buffer).unwrap();
        buffer[24..36].to_vec()
    });
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let place = Place { gateway: Some(gateway), ssdp: (gateway, 1).into() };
    let mut router = Router::new(place, [secret; 32]);
    let lease = Duration::from_secs(600);
    let request = Request::Map { protocol: Protocol::Pcp, internal, external: 40_000, lease };
    runtime.block_on(super::ask(&mut router, request));
    listener.join().unwrap()
}

#[test]
fn the_nonce_outlives_the_process_and_tells_neither_the_node_nor_its_other_ports() {
    let (here, there) = (address(), address());
    let first = nonce(here, 7, 7000);
    assert_eq!(nonce(here, 7, 7000), first, "after a restart");
    for other in [nonce(here, 7, 7001), nonce(here, 8, 7000), nonce(there, 7, 7000)] {
        assert_ne!(other, first);
    }
}
