//! What the controller promises.

mod changing_routes;

use std::sync::{Arc, Mutex, OnceLock};
use std::time::{Duration, Instant};

use net_mesh_proto::route::{CircuitId, Route};
use proptest::prelude::*;
use quinn::congestion::{Controller, ControllerFactory};
use quinn_proto::RttEstimator;

use super::{Congestion, INITIAL_WINDOW, KEPT, RouteController};

const DIRECT: Route = Route::Relayed(CircuitId(1000));

const fn relay(n: u64) -> Route {
    Route::Relayed(CircuitId(n))
}

/// Keeps what QUIC shows of its round-trip times: they cannot be made up.
struct Spy(Arc<Mutex<Option<RttEstimator>>>);

struct SpyController(Box<dyn Controller>, Arc<Mutex<Option<RttEstimator>>>);

impl ControllerFactory for Spy {
    fn build(self: Arc<Self>, now: Instant, mtu: u16) -> Box<dyn Controller> {
        let cubic = Arc::new(quinn::congestion::CubicConfig::default()).build(now, mtu);
        Box::new(SpyController(cubic, Arc::clone(&self.0)))
    }
}

impl Controller for SpyController {
    fn on_ack(&mut self, now: Instant, sent: Instant, bytes: u64, limited: bool, rtt: &RttEstimator) {
        *self.1.lock().unwrap() = Some(*rtt);
        self.0.on_ack(now, sent, bytes, limited, rtt);
    }
    fn on_congestion_event(&mut self, now: Instant, sent: Instant, persistent: bool, lost: u64) {
        self.0.on_congestion_event(now, sent, persistent, lost);
    }
    fn on_mtu_update(&mut self, new_mtu: u16) {
        self.0.on_mtu_update(new_mtu);
    }
    fn window(&self) -> u64 {
        self.0.window()
    }
    fn clone_box(&self) -> Box<dyn Controller> {
        Box::new(Self(self.0.clone_box(), Arc::clone(&self.1)))
    }
    fn initial_window(&self) -> u64 {
        self.0.initial_window()
    }
    fn into_any(self: Box<Self>) -> Box<dyn std::any::Any> {
        self
    }
}

/// Round-trip times of a connection of 40 ms.
fn rtt() -> RttEstimator {
    static RTT: OnceLock<RttEstimator> = OnceLock::new();
    *RTT.get_or_init(|| {
        let seen = Arc::new(Mutex::new(None));
        let spy = Arc::new(Spy(Arc::clone(&seen)));
        let runtime =
            tokio::runtime::Builder::new_current_thread().enable_all().start_paused(true).build().unwrap();
        runtime.block_on(changing_routes::converse(spy));
        seen.lock().unwrap().take().unwrap()
    })
}

struct Driver {
    congestion: Congestion,
    controller: RouteController,
    now: Instant,
    packet: u64,
    flying: Vec<(Instant, u64)>,
}

impl Driver {
    fn new() -> Self {
        let congestion = Congestion::default();
        congestion.begin(DIRECT);
        let now = Instant::now();
        let controller = RouteController::new(Arc::clone(&congestion.0), now, 1200);
        Self { congestion, controller, now, packet: 0, flying: Vec::new() }
    }

    fn send(&mut self, bytes: u64) {
        self.packet += 1;
        self.controller.on_sent(self.now, bytes, self.packet);
        self.flying.push((self.now, bytes));
    }

    fn in_flight(&self) -> u64 {
        self.flying.iter().map(|(_, bytes)| bytes).sum()
    }

    /// Everything in flight is acknowledged after `time`.
    fn ack_all(&mut self, time: Duration) {
        self.now += time;
        let rtt = rtt();
        for (sent, bytes) in std::mem::take(&mut self.flying) {
            self.controller.on_ack(self.now, sent, bytes, false, &rtt);
        }
        self.controller.on_end_acks(self.now, 0, false, Some(self.packet));
    }

    /// Fills the window, and everything arrives.
    fn round(&mut self) {
        while self.in_flight() + 1200 <= self.controller.window() {
            self.send(1200);
        }
        self.ack_all(Duration::from_millis(40));
    }

    fn lose_all(&mut self) {
        self.now += Duration::from_millis(100);
        let Some((last, _)) = self.flying.last().copied() else { return };
        let lost = self.in_flight();
        self.flying.clear();
        self.controller.on_congestion_event(self.now, last, false, lost);
        self.controller.on_end_acks(self.now, 0, false, None);
    }
}

#[test]
fn what_was_in_flight_when_the_route_changed_fills_no_window_and_its_loss_is_nobodys_fault() {
    let mut driver = Driver::new();
    (0..3).for_each(|_| driver.round());
    let window = driver.controller.window();
    assert!(window > 4 * INITIAL_WINDOW);
    while driver.in_flight() + 1200 <= driver.controller.window() {
        driver.send(1200);
    }
    let stuck = driver.in_flight();
    driver.congestion.switch(relay(1), false);
    assert_eq!(driver.controller.window(), INITIAL_WINDOW + stuck, "at once, before any packet");
    driver.now += Duration::from_millis(1);
    driver.send(1200);
    assert_eq!(driver.controller.window(), INITIAL_WINDOW + stuck);
    driver.now += Duration::from_millis(1);
    driver.send(1200);
    let (first, rest) = (driver.flying.remove(0), driver.flying.split_off(driver.flying.len() - 1));
    driver.controller.on_congestion_event(driver.now, first.0, true, stuck);
    assert_eq!(driver.controller.window(), INITIAL_WINDOW, "neither larger nor smaller");
    driver.flying = rest;
    driver.lose_all();
    assert!(driver.controller.window() < INITIAL_WINDOW, "its own losses count");
}

#[test]
fn a_route_that_comes_back_has_its_window_and_one_that_collapsed_begins_anew() {
    let mut driver = Driver::new();
    (0..4).for_each(|_| driver.round());
    let window = driver.controller.window();
    driver.congestion.switch(relay(1), false);
    driver.round();
    driver.congestion.switch(DIRECT, true);
    driver.send(1200);
    assert_eq!(driver.controller.window(), window);
    for _ in 0..30 {
        driver.send(1200);
        driver.lose_all();
    }
    assert!(driver.controller.window() < INITIAL_WINDOW);
    driver.congestion.switch(DIRECT, false);
    driver.send(1200);
    assert_eq!(driver.controller.window(), INITIAL_WINDOW, "it works again");
}

#[test]
fn a_better_route_begins_with_half_of_the_window_and_a_worse_one_does_not() {
    for (seeded, share) in [(true, 2), (false, 1000)] {
        let mut driver = Driver::new();
        (0..4).for_each(|_| driver.round());
        let window = driver.controller.window();
        driver.congestion.switch(relay(7), seeded);
        driver.send(1200);
        assert_eq!(driver.controller.window(), (window / share).max(INITIAL_WINDOW));
    }
}

#[test]
fn few_routes_are_remembered() {
    let mut driver = Driver::new();
    for n in 0..100 {
        driver.congestion.switch(relay(n), false);
        driver.round();
    }
    assert_eq!(driver.controller.saved.len(), KEPT);
}

#[test]
fn slow_start_ends_without_loss_when_round_trips_grow() {
    let mut driver = Driver::new();
    let mut queue = 40;
    for _ in 0..20 {
        while driver.in_flight() + 1200 <= driver.controller.window() {
            driver.send(1200);
        }
        driver.ack_all(Duration::from_millis(queue));
        queue += if driver.controller.window() > 200_000 { 30 } else { 0 };
    }
    assert!(!driver.controller.current.in_slow_start());
    let window = driver.controller.window();
    assert!((200_000..2_000_000).contains(&window), "{window}");
}

#[derive(Clone, Copy, Debug)]
enum Step {
    Send(u16),
    AckOldest,
    LoseOldest,
    Switch(u8, bool),
    Wait(u8),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        4 => (40..1300u16).prop_map(Step::Send),
        3 => Just(Step::AckOldest),
        1 => Just(Step::LoseOldest),
        1 => (0..6u8, any::<bool>()).prop_map(|(route, seeded)| Step::Switch(route, seeded)),
        2 => (1..80u8).prop_map(Step::Wait),
    ]
}

proptest! {
    #[test]
    fn whatever_happens_the_window_lets_two_packets_out_and_nothing_stale_is_left_behind(
        steps in prop::collection::vec(step(), 1..300)
    ) {
        let mut driver = Driver::new();
        let rtt = rtt();
        for step in steps {
            match step {
                Step::Send(bytes) => driver.send(bytes.into()),
                Step::AckOldest if !driver.flying.is_empty() => {
                    let (sent, bytes) = driver.flying.remove(0);
                    driver.controller.on_ack(driver.now, sent, bytes, false, &rtt);
                    let in_flight = driver.in_flight();
                    driver.controller.on_end_acks(driver.now, in_flight, false, None);
                }
                Step::LoseOldest if !driver.flying.is_empty() => {
                    let (sent, bytes) = driver.flying.remove(0);
                    driver.controller.on_congestion_event(driver.now, sent, false, bytes);
                }
                Step::AckOldest | Step::LoseOldest => {}
                Step::Switch(route, seeded) => driver.congestion.switch(relay(route.into()), seeded),
                Step::Wait(ms) => driver.now += Duration::from_millis(ms.into()),
            }
            let controller = &driver.controller;
            prop_assert!(controller.stale <= controller.in_flight, "{} of {}", controller.stale, controller.in_flight);
            prop_assert!(controller.in_flight <= driver.in_flight());
            prop_assert!(controller.window() >= controller.stale + 2400);
        }
        driver.ack_all(Duration::from_secs(1));
        prop_assert_eq!((driver.controller.in_flight, driver.controller.stale), (0, 0));
    }
}
