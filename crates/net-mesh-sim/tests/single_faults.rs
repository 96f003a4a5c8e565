//! One fault at a time, to the millisecond: two nodes that say something to each other every few milliseconds, 40 ms
//! apart straight and 80 ms through a relay, and what becomes of their conversation.
#![allow(clippy::unwrap_used, reason = "a test file")]

mod common;

use std::time::Duration;

use common::{member, secs, with_public};
use net_mesh_proto::liveness::Health;
use net_mesh_proto::node::{ConnId, Event};
use net_mesh_proto::time::Time;
use net_mesh_sim::world::Spec;
use net_mesh_sim::{Chain, Dependence, Families, Link, Nat, NodeIx, PathKind, World};

/// 200 messages a second, each way.
const PACE: Duration = Duration::from_millis(5);

const SEEDS: u64 = 20;

const fn ms(ms: u64) -> Duration {
    Duration::from_millis(ms)
}

/// Two nodes in conversation.
struct Talk {
    seed: u64,
    world: World,
    a: NodeIx,
    b: NodeIx,
    conns: [Option<ConnId>; 2],
}

/// What a fault did.
#[derive(Debug, Default)]
struct Effect {
    /// The longest time from the publication of a message to its arrival, above what it takes when all is well.
    slowest: Duration,
    /// From the fault to the first suspicion and failure of a direct way, at either side.
    suspect: Option<Duration>,
    failed: Option<Duration>,
}

impl Talk {
    fn new(seed: u64, of_a: impl Into<Chain>, of_b: impl Into<Chain>) -> Self {
        let mut world = with_public(seed, 2, &Link::default());
        let [a, b] = [of_a.into(), of_b.into()].map(|chain| {
            let spec = member(&world, chain, &Link::default());
            world.add_with(Spec { relays: false, ..spec })
        });
        world.run_for(secs(30));
        world.talk(a, b, PACE);
        world.run_for(secs(30));
        let mut talk = Self { seed, world, a, b, conns: [None; 2] };
        assert_eq!(talk.world.path(a, b), PathKind::Direct, "seed {seed}");
        talk.conns = talk.sessions();
        // Faults begin anywhere between two messages.
        talk.world.run_for(Duration::from_micros(seed * 617));
        talk
    }

    fn sessions(&self) -> [Option<ConnId>; 2] {
        [(self.a, self.b), (self.b, self.a)].map(|(from, to)| {
            let peer = self.world.id(to)?;
            self.world.node(from)?.sessions().find(|session| session.peer == peer).map(|session| session.conn)
        })
    }

    /// Whether neither session was opened anew.
    fn same_sessions(&self) -> bool {
        self.sessions() == self.conns
    }

    /// Lets time pass after a fault that began at `since`.
    fn run(&mut self, since: Time, time: Duration) -> Effect {
        self.world.reset_slowest();
        self.world.run_for(time);
        let slowest = self.world.slowest().max(self.world.longest_waiting());
        let first = |wanted: Health| {
            let both = [self.a, self.b].into_iter().flat_map(|ix| self.world.events(ix));
            let such = both.filter_map(|(at, event)| match event {
                Event::Health { health, route, .. } if *health == wanted && route.direct().is_some() => {
                    Some(*at)
                }
                _ => None,
            });
            such.filter(|at| *at >= since).min().map(|at| at - since)
        };
        Effect {
            slowest: slowest.saturating_sub(ms(20)),
            suspect: first(Health::Suspect),
            failed: first(Health::Failed),
        }
    }

    fn direct_within(&mut self, limit: Duration) -> Option<Duration> {
        let (from, a, b) = (self.world.now(), self.a, self.b);
        self.world
            .run_until(limit, |world| world.path(a, b) == PathKind::Direct)
            .then(|| self.world.now() - from)
    }

    /// Everything that was ever said arrives.
    fn finish(mut self) {
        self.world.hush(self.a, self.b);
        assert!(self.world.run_until(secs(5), World::all_delivered), "seed {}", self.seed);
    }
}

/// The middle and the last of some durations, in milliseconds.
fn spread(mut times: Vec<Duration>) -> (u128, u128) {
    times.sort_unstable();
    (times[times.len() / 2].as_millis(), times.last().unwrap().as_millis())
}

/// How quickly a fault of the direct way must be bridged.
struct Bounds {
    gap: Duration,
    suspect: Duration,
    failed: (Duration, Duration),
}

const BLACK_HOLE: Bounds = Bounds { gap: ms(400), suspect: ms(300), failed: (secs(2), secs(10)) };

fn black_hole(name: &str, bounds: &Bounds, begin: impl Fn(&mut Talk), end: impl Fn(&mut Talk)) {
    let (mut gaps, mut suspects, mut fails, mut back) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
    for seed in 0..SEEDS {
        let mut talk = Talk::new(seed, Nat::port_restricted(), Nat::port_restricted());
        let since = talk.world.now();
        begin(&mut talk);
        let effect = talk.run(since, secs(20));
        end(&mut talk);
        assert!(talk.same_sessions(), "{name}, seed {seed}");
        gaps.push(effect.slowest);
        suspects.push(effect.suspect.unwrap_or_else(|| panic!("{name}, seed {seed}: no suspicion")));
        fails.push(effect.failed.unwrap_or_else(|| panic!("{name}, seed {seed}: no failure")));
        back.push(
            talk.direct_within(secs(60)).unwrap_or_else(|| panic!("{name}, seed {seed}: not direct again")),
        );
        let healed = talk.world.now();
        let effect = talk.run(healed, secs(5));
        assert!(effect.slowest <= ms(100), "{name}, seed {seed}: the way back costs {:?}", effect.slowest);
        talk.finish();
    }
    let earliest = *fails.iter().min().unwrap();
    let [gap, suspect, failed, direct] = [gaps, suspects, fails, back].map(spread);
    println!(
        "{name:>14}: gap p50 {} most {} ms; suspect {} / {}; failed {} / {}; direct again {} / {}",
        gap.0, gap.1, suspect.0, suspect.1, failed.0, failed.1, direct.0, direct.1
    );
    assert!(gap.1 <= bounds.gap.as_millis(), "{name}: longest gap {} ms", gap.1);
    assert!(suspect.1 <= bounds.suspect.as_millis(), "{name}: suspect after {} ms", suspect.1);
    let (soonest, latest) = bounds.failed;
    assert!(earliest >= soonest && failed.1 <= latest.as_millis(), "{name}: failed after {} ms", failed.1);
    assert!(direct.1 <= 10_000, "{name}: direct again after {} ms", direct.1);
}

#[test]
fn a_black_hole_both_ways_is_bridged_within_four_tenths_of_a_second() {
    black_hole("both ways", &BLACK_HOLE, |t| t.world.forbid(t.a, t.b), |t| t.world.allow(t.a, t.b));
}

#[test]
fn a_black_hole_one_way_is_bridged_within_four_tenths_of_a_second() {
    let cut = |on| move |t: &mut Talk| t.world.set_cut(t.a, t.b, on);
    black_hole("a to b", &BLACK_HOLE, cut(true), cut(false));
    let cut = |on| move |t: &mut Talk| t.world.set_cut(t.b, t.a, on);
    black_hole("b to a", &BLACK_HOLE, cut(true), cut(false));
}

/// Lets only datagrams of up to 600 bytes pass from `a` to `b`, and back where `both`; or all.
fn limit(limited: bool, both: bool) -> impl Fn(&mut Talk) {
    move |t: &mut Talk| {
        t.world.set_message_bytes(1000);
        t.world.set_limit(t.a, t.b, limited.then_some(600));
        if both {
            t.world.set_limit(t.b, t.a, limited.then_some(600));
        }
    }
}

/// Probes and acknowledgements pass, and what they are about does not.
#[test]
fn a_way_on_which_only_small_packets_pass_is_bridged_within_four_tenths_of_a_second() {
    black_hole("large", &BLACK_HOLE, limit(true, true), limit(false, true));
}

/// Acknowledgements of what comes the other way pass too, so that half of everything arrives.
#[test]
fn a_way_that_loses_large_packets_one_way_is_left_within_seconds() {
    let mut gaps = Vec::new();
    for seed in 0..SEEDS {
        let mut talk = Talk::new(seed, Nat::port_restricted(), Nat::port_restricted());
        let since = talk.world.now();
        limit(true, false)(&mut talk);
        gaps.push(talk.run(since, secs(30)).slowest);
        limit(false, false)(&mut talk);
        assert!(talk.same_sessions(), "seed {seed}");
        assert!(talk.direct_within(secs(60)).is_some(), "seed {seed}: not direct again");
        talk.finish();
    }
    let (middle, most) = spread(gaps);
    println!("large, one way: gap p50 {middle} most {most} ms");
    assert!(most <= 6_000, "{most} ms");
}

/// A fault that is over soon, and of which the peers learn only by what does not arrive.
fn hiccup(name: &str, nats: [Nat; 2], limit: Duration, mut fault: impl FnMut(&mut Talk)) {
    let (mut gaps, mut back) = (Vec::new(), Vec::new());
    for seed in 0..SEEDS {
        let [of_a, of_b] = nats.clone();
        let mut talk = Talk::new(seed, of_a, of_b);
        let since = talk.world.now();
        fault(&mut talk);
        let effect = talk.run(since, secs(20));
        gaps.push(effect.slowest);
        back.push(
            talk.direct_within(secs(60)).unwrap_or_else(|| panic!("{name}, seed {seed}: not direct again")),
        );
        assert!(talk.same_sessions(), "{name}, seed {seed}");
        talk.finish();
    }
    let [gap, direct] = [gaps, back].map(spread);
    println!(
        "{name:>14}: gap p50 {} most {} ms; direct 20 s later, or after {} / {} ms more",
        gap.0, gap.1, direct.0, direct.1
    );
    assert!(gap.1 <= limit.as_millis(), "{name}: longest gap {} ms", gap.1);
}

#[test]
fn a_nat_that_rebinds_interrupts_nobody_for_a_second() {
    let cone = || Nat::full_cone();
    hiccup("rebind", [Nat::port_restricted(), cone()], secs(1), |t| t.world.rebind_nats(t.a));
    hiccup("rebind sym.", [Nat::symmetric(), cone()], secs(1), |t| t.world.rebind_nats(t.a));
}

#[test]
fn nat_state_that_is_flushed_interrupts_nobody_for_a_second() {
    hiccup("flush", [Nat::port_restricted(), Nat::port_restricted()], secs(1), |t| {
        t.world.reboot_nats(t.a, false)
    });
    hiccup("new public ip", [Nat::port_restricted(), Nat::full_cone()], secs(1), |t| {
        t.world.reboot_nats(t.a, true)
    });
}

#[test]
fn a_node_that_moves_to_another_network_keeps_its_sessions_and_is_silent_for_less_than_a_second() {
    hiccup("roam", [Nat::port_restricted(), Nat::full_cone()], secs(1), |t| {
        t.world.roam(t.a, Nat::port_restricted(), Families::V4);
    });
}

#[test]
fn a_default_route_that_moves_is_followed_within_a_second() {
    hiccup("default route", [Nat::port_restricted(), Nat::full_cone()], secs(1), |t| {
        let second = t.world.attach(t.a, Nat::port_restricted(), Families::V4);
        t.world.set_default(t.a, second);
    });
}

#[test]
fn an_uplink_that_is_unplugged_for_two_seconds_is_used_again_within_a_second_of_its_return() {
    hiccup("replug 2 s", [Nat::port_restricted(), Nat::full_cone()], secs(3), |t| {
        let place = t.world.unplug(t.a);
        t.world.run_for(secs(2));
        t.world.plug(t.a, place);
    });
}

/// Some carrier NATs give a mapping 50 to 75 seconds whatever its traffic.
fn scheduled_deaths(mapping: Dependence) -> [Duration; 2] {
    let mut most = [Duration::ZERO; 2];
    for seed in 0..10 {
        let nat = Nat { lifetime: Some(ms(50_000 + seed * 2_500)), ..Nat::carrier(mapping) };
        let mut talk = Talk::new(seed, nat, Nat::full_cone());
        for most in &mut most {
            let since = talk.world.now();
            let effect = talk.run(since, secs(300));
            *most = (*most).max(effect.slowest);
        }
        assert!(talk.same_sessions(), "seed {seed}");
        talk.finish();
    }
    println!("{mapping:?}: gap most {most:?} in the first and the next 300 s");
    most
}

/// All ways of the node die at once, as they share one mapping.
#[test]
fn a_mapping_of_all_ways_that_dies_on_schedule_costs_half_a_second() {
    let most = scheduled_deaths(Dependence::Independent);
    assert!(most.iter().all(|most| *most <= ms(500)), "{most:?}");
}

#[test]
fn mappings_that_die_on_schedule_one_by_one_cost_less_than_a_second() {
    let most = scheduled_deaths(Dependence::AddressAndPort);
    assert!(most.iter().all(|most| *most <= secs(1)), "{most:?}");
}

/// Idle sessions find out how often they must be kept alive.
#[test]
fn an_idle_session_survives_mappings_that_expire_soon() {
    for idle in [10, 20, 35, 65, 200] {
        let mut world = with_public(idle, 2, &Link::default());
        let nat = Nat::carrier(Dependence::Independent).with_idle(secs(idle));
        let spec = member(&world, nat, &Link::default());
        let home = world.add_with(spec);
        world.run_for(secs(600));
        // It was idle for ten minutes; now the other side has something to say.
        world.publish(NodeIx(0), home, 1);
        assert!(world.run_until(secs(1), World::all_delivered), "idle timeout of {idle} s");
    }
}
