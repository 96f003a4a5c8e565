//! What the controller promises, callback by callback, in virtual time.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::{Mutex, OnceLock};
use std::time::Duration;

use net_mesh_proto::route::CircuitId;
use proptest::prelude::*;
use quinn_proto::congestion::CubicConfig;

use super::*;

const MTU: u64 = 1200;

const RTT: Duration = Duration::from_millis(40);

fn direct(n: u8) -> Route {
    Route::Direct(SocketAddr::from(([192, 0, 2, n], 7)))
}

const fn relay(n: u64) -> Route {
    Route::Relayed(CircuitId(n))
}

/// Takes QUIC's estimate of the round trip with the first acknowledgement.
struct Spy(Mutex<Option<RttEstimator>>);

struct Eye(Arc<Spy>, Box<dyn Controller>);

impl ControllerFactory for Spy {
    fn build(self: Arc<Self>, now: Instant, mtu: u16) -> Box<dyn Controller> {
        Box::new(Eye(self, Arc::new(CubicConfig::default()).build(now, mtu)))
    }
}

impl Controller for Eye {
    fn on_ack(&mut self, _: Instant, _: Instant, _: u64, _: bool, rtt: &RttEstimator) {
        *self.0.0.lock().unwrap() = Some(*rtt);
    }
    fn on_congestion_event(&mut self, _: Instant, _: Instant, _: bool, _: u64) {}
    fn on_mtu_update(&mut self, _: u16) {}
    fn window(&self) -> u64 {
        self.1.window()
    }
    fn clone_box(&self) -> Box<dyn Controller> {
        Box::new(Self(Arc::clone(&self.0), self.1.clone_box()))
    }
    fn initial_window(&self) -> u64 {
        self.1.initial_window()
    }
    fn into_any(self: Box<Self>) -> Box<dyn Any> {
        self
    }
}

/// An estimate of 40 ms. QUIC makes them for nobody but its own connections.
fn estimate() -> &'static RttEstimator {
    static ESTIMATE: OnceLock<RttEstimator> = OnceLock::new();
    ESTIMATE.get_or_init(|| {
        let mut builder = tokio::runtime::Builder::new_current_thread();
        let runtime = builder.enable_time().start_paused(true).build().unwrap();
        runtime.block_on(async {
            let spy = Arc::new(Spy(Mutex::new(None)));
            let plain = Arc::new(CubicConfig::default());
            let (_world, here, _there) =
                super::transfer_tests::connected([Arc::clone(&spy) as _, plain]).await;
            for _ in 0..20 {
                here.send_datagram(bytes::Bytes::from_static(b"?")).unwrap();
                tokio::time::sleep(4 * RTT).await;
            }
            let seen = *spy.0.lock().unwrap();
            seen.unwrap()
        })
    })
}

/// QUIC's part: which packets are in flight.
struct Quic {
    congestion: Congestion,
    cc: RouteController,
    now: Instant,
    number: u64,
    /// When each packet was sent, its size, and whether it probes the MTU.
    flying: BTreeMap<u64, (Instant, u64, bool)>,
    /// The last packet that was sent before the route changed.
    stale: Option<u64>,
}

impl Quic {
    fn on(route: Route) -> Self {
        let (congestion, now) = (Congestion::default(), Instant::now());
        let cc = RouteController::new(Arc::clone(&congestion.0), now, 1200);
        congestion.begin(route);
        Self { congestion, cc, now, number: 0, flying: BTreeMap::new(), stale: None }
    }

    fn in_flight(&self) -> u64 {
        self.flying.values().map(|(_, size, _)| size).sum()
    }

    /// What is in flight since before the last change.
    fn in_flight_before(&self) -> u64 {
        let Some(stale) = self.stale else { return 0 };
        self.flying.range(..=stale).map(|(_, (_, size, _))| size).sum()
    }

    fn has_room(&self) -> bool {
        self.in_flight() + MTU < self.cc.window()
    }

    /// Sends a packet whatever the window says.
    fn send(&mut self, size: u64) {
        self.number += 1;
        self.flying.insert(self.number, (self.now, size, false));
        self.cc.on_sent(self.now, size, self.number);
    }

    /// Fills the window, with at most so many packets.
    fn fill(&mut self, most: usize) -> usize {
        (0..most)
            .take_while(|_| {
                self.has_room() && {
                    self.send(MTU);
                    true
                }
            })
            .count()
    }

    /// Packets that carry an acknowledgement and nothing else.
    fn acknowledge(&mut self, count: usize) {
        for _ in 0..count {
            self.number += 1;
            self.cc.on_sent(self.now, 60, self.number);
        }
    }

    fn probe_mtu(&mut self) {
        if !self.flying.values().any(|(_, _, probe)| *probe) {
            self.number += 1;
            self.flying.insert(self.number, (self.now, MTU, true));
        }
    }

    /// An acknowledgement comes for those of the oldest `count` packets in flight that `arrived` says.
    fn acked(&mut self, count: usize, persistent: bool, arrived: impl Fn(usize) -> bool) {
        let numbers: Vec<u64> = self.flying.keys().copied().take(count).collect();
        let acked = numbers.iter().enumerate().filter(|(i, _)| arrived(*i)).map(|(_, number)| *number);
        let acked: Vec<u64> = acked.collect();
        let Some(largest) = acked.last().copied() else { return };
        for number in acked {
            let (sent, size, _) = self.flying.remove(&number).unwrap();
            self.cc.on_ack(self.now, sent, size, false, estimate());
        }
        self.cc.on_end_acks(self.now, self.in_flight(), false, Some(largest));
        assert!(self.cc.flight.stale() <= self.in_flight());
        let lost: Vec<u64> = self.flying.range(..(largest + 1).saturating_sub(3)).map(|(n, _)| *n).collect();
        let lost: Vec<_> = lost.iter().map(|n| self.flying.remove(n).unwrap()).filter(|l| !l.2).collect();
        if let Some((sent, _, _)) = lost.last() {
            let bytes = lost.iter().map(|(_, size, _)| size).sum();
            self.cc.on_congestion_event(self.now, *sent, persistent, bytes);
        }
    }

    /// A round trip in which all of the window is used and arrives.
    fn round(&mut self) {
        self.fill(100_000);
        self.now += RTT;
        self.acked(usize::MAX, false, |_| true);
    }

    fn switch(&mut self, route: Route, switch: Switch) {
        if self.congestion.switch(self.now, route, switch) {
            self.stale = Some(self.number);
        }
    }
}

#[test]
fn what_the_route_before_loses_does_not_shrink_the_window() {
    let mut quic = Quic::on(direct(1));
    for _ in 0..4 {
        quic.round();
    }
    quic.fill(100_000);
    quic.switch(relay(1), Switch::Planned);
    quic.now += Duration::from_millis(1);
    assert_eq!(quic.fill(100_000), 10, "the first ten packets of a newcomer, beside what is in flight");
    let before = quic.cc.current.window();
    quic.now += 2 * RTT;
    // Everything old is lost, for so long that it counts as persistent congestion; what is new arrives.
    let old = quic.flying.len() - 10;
    assert!(old > 100);
    quic.acked(usize::MAX, true, |i| i >= old);
    assert_eq!(quic.cc.current.window(), before + 10 * MTU);
    assert_eq!((quic.in_flight(), quic.cc.window()), (0, quic.cc.current.window()));
}

#[test]
fn what_the_new_route_loses_does_shrink_it_but_not_to_nothing() {
    let mut quic = Quic::on(direct(1));
    quic.fill(100_000);
    quic.switch(relay(1), Switch::Urgent);
    quic.fill(1);
    quic.now += Duration::from_millis(1);
    quic.fill(100_000);
    quic.now += 2 * RTT;
    let count = quic.flying.len();
    quic.acked(usize::MAX, true, |i| i == count - 1);
    assert_eq!(quic.cc.current.window(), (INITIAL_WINDOW + MTU) * 7 / 10, "all that both lost is one loss");
}

#[test]
fn a_congested_newcomer_meets_persistent_congestion_as_anyone_does() {
    let mut quic = Quic::on(direct(1));
    quic.switch(relay(1), Switch::Urgent);
    quic.round();
    quic.fill(100_000);
    quic.now += 20 * RTT;
    let count = quic.flying.len();
    quic.acked(usize::MAX, true, |i| i == count - 1);
    assert_eq!(quic.cc.window(), 2 * MTU);
}

#[test]
fn a_full_window_opens_as_soon_as_the_route_changes_and_before_anything_is_heard() {
    for switch in [Switch::Planned, Switch::Urgent] {
        let mut quic = Quic::on(direct(1));
        quic.round();
        quic.fill(100_000);
        assert!(!quic.has_room());
        quic.switch(direct(2), switch);
        assert!(quic.has_room());
        assert_eq!(quic.fill(100_000), 10);
    }
}

#[test]
fn after_an_urgent_change_to_the_same_route_what_was_in_flight_is_forgotten_and_the_window_kept() {
    let mut quic = Quic::on(direct(1));
    for _ in 0..3 {
        quic.round();
    }
    let window = quic.cc.window();
    quic.fill(100_000);
    quic.switch(direct(1), Switch::Urgent);
    // Half of it at once.
    assert_eq!(quic.cc.window() - quic.in_flight(), window / 2 + MTU);
    quic.now += RTT;
    let fresh = quic.fill(100_000);
    quic.now += RTT;
    let count = quic.flying.len();
    quic.acked(usize::MAX, false, |i| i >= count - fresh);
    assert!(quic.cc.window() > window);
}

#[test]
fn a_planned_change_to_the_same_route_and_one_that_keeps_it_change_nothing() {
    let mut quic = Quic::on(direct(1));
    quic.fill(100_000);
    for switch in [Switch::Planned, Switch::Keep] {
        quic.switch(direct(1), switch);
        assert!(!quic.has_room());
    }
    quic.switch(relay(1), Switch::Urgent);
    quic.switch(direct(1), Switch::Planned);
    assert!(!quic.has_room(), "nothing was sent over the other one");
}

#[test]
fn a_route_that_was_used_before_gets_its_own_window_back() {
    let mut quic = Quic::on(direct(1));
    for _ in 0..4 {
        quic.round();
    }
    let window = quic.cc.window();
    assert!(window > 10 * INITIAL_WINDOW);
    quic.switch(relay(1), Switch::Urgent);
    quic.round();
    assert!(quic.cc.window() < 3 * INITIAL_WINDOW);
    quic.switch(direct(1), Switch::Planned);
    quic.now += Duration::from_secs(1);
    quic.fill(1);
    assert_eq!(quic.cc.current.window(), window / 2, "half of it at once");
    quic.round();
    assert!(quic.cc.window() >= window);
}

#[test]
fn a_window_is_forgotten_after_five_minutes_elsewhere_and_after_four_other_routes() {
    let back_after = |away: Duration, others: u64| {
        let mut quic = Quic::on(direct(1));
        for _ in 0..4 {
            quic.round();
        }
        for other in 0..others {
            quic.switch(relay(other), Switch::Urgent);
            quic.round();
        }
        assert!(quic.cc.saved.len() <= MAX_SAVED);
        quic.now += away;
        quic.switch(direct(1), Switch::Urgent);
        quic.fill(1);
        quic.cc.current.window()
    };
    assert!(back_after(Duration::from_secs(290), 4) > 5 * INITIAL_WINDOW);
    assert_eq!(back_after(Duration::from_secs(301), 1), INITIAL_WINDOW);
    assert_eq!(back_after(Duration::ZERO, 5), INITIAL_WINDOW);
}

#[test]
fn a_route_whose_window_had_collapsed_begins_anew() {
    for back in [direct(1), relay(1)] {
        let mut quic = Quic::on(direct(1));
        quic.fill(100_000);
        quic.now += 20 * RTT;
        let count = quic.flying.len();
        quic.acked(usize::MAX, true, |i| i == count - 1);
        assert_eq!(quic.cc.window(), 2 * MTU);
        if back == relay(1) {
            quic.switch(back, Switch::Urgent);
            quic.round();
        }
        quic.switch(direct(1), Switch::Urgent);
        quic.fill(1);
        assert_eq!(quic.cc.current.window(), INITIAL_WINDOW);
    }
}

#[test]
fn a_planned_change_from_a_relay_to_an_address_begins_with_half_the_window() {
    let begin = |from, to, switch| {
        let mut quic = Quic::on(from);
        for _ in 0..4 {
            quic.round();
        }
        let window = quic.cc.window();
        quic.switch(to, switch);
        quic.fill(1);
        (quic.cc.current.window(), window)
    };
    let (seeded, before) = begin(relay(1), direct(1), Switch::Planned);
    assert_eq!(seeded, before / 2);
    for (from, to, switch) in [
        (relay(1), direct(1), Switch::Urgent),
        (relay(1), relay(2), Switch::Planned),
        (direct(1), relay(1), Switch::Planned),
        (direct(1), direct(2), Switch::Planned),
    ] {
        assert_eq!(begin(from, to, switch).0, INITIAL_WINDOW, "{from} to {to}");
    }
}

#[test]
fn time_spent_elsewhere_does_not_let_a_window_grow() {
    // Grows for ten seconds after a loss; the second time with an hour elsewhere between, in pieces.
    let grow = |away: Duration| {
        let mut quic = Quic::on(direct(1));
        for _ in 0..4 {
            quic.round();
        }
        quic.fill(100_000);
        quic.now += RTT;
        quic.acked(usize::MAX, false, |i| i > 0);
        for i in 0..250 {
            if i % 25 == 0 && !away.is_zero() {
                quic.switch(relay(1), Switch::Urgent);
                quic.round();
                quic.now += away;
                quic.switch(direct(1), Switch::Urgent);
            }
            quic.round();
        }
        quic.cc.window()
    };
    let (here, away) = (grow(Duration::ZERO), grow(Duration::from_secs(240)));
    assert!(away <= here && away > here / 2, "{away}, {here} without");
}

#[test]
fn acknowledgements_sent_do_not_pass_for_bytes_in_flight() {
    let mut quic = Quic::on(direct(1));
    quic.fill(3);
    quic.acknowledge(100_000);
    quic.switch(relay(1), Switch::Planned);
    assert!(quic.cc.window() <= 2 * INITIAL_WINDOW + 2 * MTU, "{}", quic.cc.window());
}

#[test]
fn packets_sent_on_a_dead_route_beyond_its_window_do_not_block_the_next_one() {
    let mut quic = Quic::on(direct(1));
    quic.fill(100_000);
    for _ in 0..60 {
        quic.now += 10 * RTT;
        quic.send(MTU);
    }
    quic.probe_mtu();
    quic.switch(relay(1), Switch::Urgent);
    assert!(quic.fill(100_000) >= 9);
}

#[derive(Clone, Debug)]
enum Op {
    Fill(usize),
    Acknowledge(usize),
    ProbeMtu,
    Timeout,
    Wait(u64),
    Acked { count: usize, persistent: bool, pattern: u32 },
    Switch(u8, Switch),
}

fn op() -> impl Strategy<Value = Op> {
    prop_oneof![
        4 => (1..60_usize).prop_map(Op::Fill),
        1 => (1..300_usize).prop_map(Op::Acknowledge),
        1 => Just(Op::ProbeMtu),
        1 => Just(Op::Timeout),
        4 => (0..80_u64).prop_map(Op::Wait),
        6 => (1..60_usize, any::<bool>(), any::<u32>(), any::<u32>())
            .prop_map(|(count, persistent, a, b)| Op::Acked { count, persistent, pattern: a | b }),
        2 => (0..7_u8, prop_oneof![Just(Switch::Keep), Just(Switch::Planned), Just(Switch::Urgent)])
            .prop_map(|(route, switch)| Op::Switch(route, switch)),
    ]
}

proptest! {
    #[test]
    fn the_window_always_leaves_room_and_the_ledger_never_leaks(
        ops in proptest::collection::vec(op(), 1..200)
    ) {
        let route = |n: u8| if n.is_multiple_of(2) { direct(n) } else { relay(n.into()) };
        let mut quic = Quic::on(route(0));
        let mut at = route(0);
        for op in ops {
            match op {
                Op::Fill(most) => _ = quic.fill(most),
                Op::Acknowledge(count) => quic.acknowledge(count),
                Op::ProbeMtu => quic.probe_mtu(),
                Op::Timeout => quic.send(MTU),
                Op::Wait(ms) => quic.now += Duration::from_millis(ms),
                Op::Acked { count, persistent, pattern } => {
                    quic.acked(count, persistent, |i| pattern >> (i % 32) & 1 == 1);
                }
                Op::Switch(to, switch) => {
                    let moves = at != route(to);
                    // What is sent at one instant is on one route: a packet leaves before the next change.
                    quic.now += Duration::from_micros(1);
                    if switch == Switch::Keep || (!moves && switch == Switch::Planned) {
                        let before = (quic.cc.window(), quic.stale);
                        quic.switch(route(to), switch);
                        prop_assert_eq!(quic.cc.window(), before.0);
                        quic.stale = before.1;
                    } else {
                        at = route(to);
                        quic.switch(at, switch);
                        prop_assert!(quic.has_room());
                        prop_assert!(quic.fill(1) == 1);
                    }
                }
            }
            prop_assert!(quic.cc.current.window() >= 2 * MTU);
            prop_assert!(quic.cc.window() >= quic.cc.current.window() + quic.in_flight_before());
            prop_assert!(quic.cc.saved.len() <= MAX_SAVED);
        }
        // Everything in flight is acknowledged: nothing stale is left.
        quic.now += RTT;
        quic.fill(1);
        quic.acked(usize::MAX, false, |_| true);
        prop_assert_eq!(quic.in_flight(), 0);
        prop_assert_eq!(quic.cc.window(), quic.cc.current.window());
    }
}
