//! What a rendezvous promises: machines with NATs between them, in virtual time.

mod lies;
mod machine;
mod matrix;
mod model;
mod plans;

use alloc::collections::{BTreeMap, BTreeSet};
use alloc::vec;
use alloc::vec::Vec;
use core::net::{IpAddr, SocketAddr};
use core::time::Duration;

use super::plan::{Plan, Side, plans};
use super::wire::{Introduction, Seek};
use super::{
    Event, MAX_DELAY, MAX_FROM_ONE, MAX_REST, Message, Outcome, PER_ADDRESS, PER_IP, Rendezvous, View,
};
use crate::drops::DropReason;
use crate::id::{MeshId, NodeId};
use crate::membership::{self, Identity, Membership, Record, VerdictSummary};
use crate::nat::{Filtering, Mapping, Verdict};
use crate::outbox::Outbox;
use crate::peer::Local;
use crate::reflex::stun;
use crate::rng::Rng;
use crate::time::Time;

fn millis(n: u64) -> Duration {
    Duration::from_millis(n)
}

fn secs(n: u64) -> Duration {
    Duration::from_secs(n)
}

/// A kind of NAT: whether its mapping depends on the destination, and its filter.
type Kind = (bool, Filtering);

const OPEN: Kind = (false, Filtering::EndpointIndependent);
const RESTRICTED: Kind = (false, Filtering::AddressDependent);
const PORT_RESTRICTED: Kind = (false, Filtering::AddressAndPortDependent);
const SYMMETRIC: Kind = (true, Filtering::AddressAndPortDependent);

fn verdict((symmetric, filtering): Kind) -> VerdictSummary {
    let mapping = if symmetric { Mapping::AddressAndPortDependent } else { Mapping::EndpointIndependent };
    VerdictSummary { mapping, filtering, confidence: 99, ..VerdictSummary::UNKNOWN }
}

struct Host {
    id: NodeId,
    machine: Rendezvous,
    local: Local,
    members: Membership,
    kind: Kind,
    /// Its NAT's address, as everybody sees it; of a symmetric one, as others were shown it.
    external: SocketAddr,
    /// External ports by destination, for a symmetric NAT and after a knock.
    ports: BTreeMap<SocketAddr, u16>,
    sent_to: BTreeSet<SocketAddr>,
    knocked_by: BTreeSet<SocketAddr>,
    /// What it sends when, and what came of it.
    shots: Vec<(Time, SocketAddr)>,
    events: Vec<Event>,
    to_mediator: Duration,
}

/// Hosts, of which the last mediates.
struct World {
    now: Time,
    hosts: Vec<Host>,
    between: Duration,
    poison: bool,
    lose: u64,
    rng: Rng,
    control: Vec<(Time, usize, NodeId, Message)>,
    packets: Vec<(Time, usize, SocketAddr, Vec<u8>)>,
    introductions: Vec<(usize, Introduction)>,
    drops: Vec<DropReason>,
}

impl World {
    fn new(kinds: &[Kind]) -> Self {
        let mesh = MeshId([7; 32]);
        let membership = |n: usize| {
            let secret = [u8::try_from(n).unwrap() + 1; 32];
            let identity = Identity { secret: &secret, mesh: &mesh, name: "n", boot: 1, unix_ms: 1_000 };
            Membership::new(Time::ZERO, &Rng::from_u64(n as u64), &identity)
        };
        let external = |n: usize| SocketAddr::from(([203, 0, 113, u8::try_from(n).unwrap() + 1], 4000));
        let kinds: Vec<Kind> = kinds.iter().copied().chain([OPEN]).collect();
        let hosts = kinds.iter().enumerate().map(|(n, kind)| {
            let mut members = membership(n);
            members.set_candidates(Time::ZERO, vec![external(n)]);
            members.set_verdict(Time::ZERO, verdict(*kind));
            for (m, kind) in kinds.iter().enumerate().filter(|(m, _)| *m != n) {
                let mut other = membership(m);
                other.set_candidates(Time::ZERO, vec![external(m)]);
                other.set_verdict(Time::ZERO, verdict(*kind));
                let mut out = Outbox::new();
                other.session_up(Time::ZERO, members.id(), true, &mut out);
                while let Some(event) = out.pop_event() {
                    if let membership::Event::Send {
                        message: records @ membership::Message::Records(_),
                        ..
                    } = event
                    {
                        members.handle(Time::ZERO, other.id(), records, &mut Outbox::new());
                    }
                }
            }
            let mut local = Local::default();
            let ip = IpAddr::from([10, 0, u8::try_from(n).unwrap(), 2]);
            local.set_network(vec![ip], [Some(4000), None], [None; 2]);
            let id = members.id();
            Host {
                id,
                machine: Rendezvous::new(id, Rng::from_u64(50 + n as u64)),
                local,
                members,
                kind: *kind,
                external: external(n),
                ports: BTreeMap::new(),
                sent_to: BTreeSet::new(),
                knocked_by: BTreeSet::new(),
                shots: vec![],
                events: vec![],
                to_mediator: millis(20),
            }
        });
        Self {
            now: Time::from_millis(1_000),
            hosts: hosts.collect(),
            between: millis(20),
            poison: false,
            lose: 0,
            rng: Rng::from_u64(9),
            control: vec![],
            packets: vec![],
            introductions: vec![],
            drops: vec![],
        }
    }

    fn mediator(&self) -> usize {
        self.hosts.len() - 1
    }

    fn number(&self, id: NodeId) -> usize {
        self.hosts.iter().position(|host| host.id == id).unwrap()
    }

    fn with(&mut self, n: usize, act: impl FnOnce(&mut Rendezvous, Time, View<'_>, &mut Outbox<Event>)) {
        let (now, mediator) = (self.now, self.mediator());
        let mediator_id = self.hosts[mediator].id;
        let times: BTreeMap<NodeId, Duration> = if n == mediator {
            self.hosts.iter().map(|host| (host.id, host.to_mediator * 2)).collect()
        } else {
            BTreeMap::from([(mediator_id, self.hosts[n].to_mediator * 2)])
        };
        let mut out = Outbox::new();
        let host = &mut self.hosts[n];
        let own: Record = host.members.own_draft().clone();
        let view = View {
            local: &host.local,
            own: &own,
            members: host.members.members(),
            mediators: &|_| if n == mediator { vec![] } else { vec![mediator_id] },
            rtt: &|id| times.get(id).copied(),
        };
        act(&mut host.machine, now, view, &mut out);
        while let Some(transmit) = out.pop_transmit() {
            self.send(n, transmit.to, transmit.bytes);
        }
        while let Some(event) = out.pop_event() {
            if let Event::Send { to, message } = &event {
                let to = self.number(*to);
                if let Message::Introduction(intro) = message {
                    self.introductions.push((to, intro.clone()));
                }
                let delay = self.hosts[n.min(to)].to_mediator;
                self.control.push((now + delay, to, self.hosts[n].id, message.clone()));
            }
            self.hosts[n].events.push(event);
        }
        self.drops.extend(out.take_drops().iter().map(|(reason, _)| reason));
    }

    /// Out through the sender's NAT, and in through the receiver's.
    fn send(&mut self, n: usize, to: SocketAddr, bytes: Vec<u8>) {
        let poison = self.poison;
        let host = &mut self.hosts[n];
        host.shots.push((self.now, to));
        host.sent_to.insert(to);
        let spoilt = poison && host.knocked_by.contains(&to);
        let count = u16::try_from(host.ports.len()).unwrap();
        let port = if host.kind.0 || spoilt {
            *host.ports.entry(to).or_insert(50_000 + count)
        } else {
            host.external.port()
        };
        let from = SocketAddr::new(host.external.ip(), port);
        if self.lose > 0 && self.rng.below(100) < self.lose {
            return;
        }
        self.packets.push((self.now + self.between, n, from, [&encode(to)[..], &bytes].concat()));
    }

    fn arrive(&mut self, from: SocketAddr, packet: &[u8]) {
        let (to, bytes) = decode(packet);
        let Some(n) = self.hosts.iter().position(|host| host.external.ip() == to.ip()) else { return };
        let host = &mut self.hosts[n];
        let mapping = to.port() == host.external.port()
            || host.ports.iter().any(|(dst, port)| *port == to.port() && dst.ip() == from.ip());
        let admitted = match host.kind.1 {
            Filtering::AddressDependent => host.sent_to.iter().any(|a| a.ip() == from.ip()),
            Filtering::AddressAndPortDependent => host.sent_to.contains(&from),
            _ => true,
        };
        if !mapping || !admitted {
            host.knocked_by.insert(from);
            return;
        }
        self.with(n, |machine, now, _, out| match stun::Message::parse(bytes) {
            Ok(stun::Message::BindingRequest(request)) => {
                let name = request.check.unwrap();
                machine.handle_check(now, from, (request.txid, name), bytes, out);
            }
            Ok(stun::Message::BindingResponse { txid, .. }) => {
                machine.handle_answer(now, from, txid, bytes, out);
            }
            other => panic!("{other:?}"),
        });
    }

    fn run(&mut self, time: Duration) {
        let end = self.now + time;
        loop {
            self.control.sort_by_key(|(at, ..)| *at);
            self.packets.sort_by_key(|(at, ..)| *at);
            let timers = self.hosts.iter().filter_map(|host| Some(host.machine.poll_timeout()?.at)).min();
            let control = self.control.first().map(|(at, ..)| *at);
            let packet = self.packets.first().map(|(at, ..)| *at);
            let Some(next) = [timers, control, packet].into_iter().flatten().min().filter(|at| *at <= end)
            else {
                break;
            };
            self.now = self.now.max(next);
            if control == Some(next) {
                let (_, to, from, message) = self.control.remove(0);
                self.with(to, |machine, now, view, out| machine.handle(now, from, message, view, out));
            } else if packet == Some(next) {
                let (_, _, from, packet) = self.packets.remove(0);
                self.arrive(from, &packet);
            } else {
                for n in 0..self.hosts.len() {
                    self.with(n, |machine, now, _, out| machine.handle_timeout(now, out));
                    let next = self.hosts[n].machine.poll_timeout();
                    assert!(next.is_none_or(|deadline| deadline.at > self.now));
                }
            }
        }
        self.now = end;
    }

    fn seek(&mut self, from: usize, to: usize) {
        let peer = self.hosts[to].id;
        self.with(from, |machine, now, view, out| machine.seek(now, peer, view, out));
    }

    fn found(&self, n: usize) -> bool {
        self.hosts[n].events.iter().any(|event| matches!(event, Event::Found { .. }))
    }

    fn ended(&self, n: usize) -> Vec<(Plan, Outcome)> {
        let ended = |event: &Event| match event {
            Event::Ended(attempt) => Some((attempt.plan, attempt.outcome.unwrap())),
            _ => None,
        };
        self.hosts[n].events.iter().filter_map(ended).collect()
    }
}

fn encode(addr: SocketAddr) -> [u8; 6] {
    let IpAddr::V4(ip) = addr.ip() else { panic!("{addr}") };
    let ([a, b, c, d], [e, f]) = (ip.octets(), addr.port().to_be_bytes());
    [a, b, c, d, e, f]
}

fn decode(packet: &[u8]) -> (SocketAddr, &[u8]) {
    let ([a, b, c, d, e, f], bytes) = packet.split_first_chunk().unwrap();
    (SocketAddr::from(([*a, *b, *c, *d], u16::from_be_bytes([*e, *f]))), bytes)
}

/// Whether two kinds can be direct, as the field knows it.
fn possible(a: Kind, b: Kind) -> bool {
    match (a.0, b.0) {
        (false, false) => true,
        (true, true) => false,
        (true, false) => b.1 != Filtering::AddressAndPortDependent,
        (false, true) => a.1 != Filtering::AddressAndPortDependent,
    }
}

#[test]
fn every_pair_of_kinds_finds_a_way_or_knows_why_there_is_none_whoever_asks() {
    for a in [OPEN, RESTRICTED, PORT_RESTRICTED, SYMMETRIC] {
        for b in [OPEN, RESTRICTED, PORT_RESTRICTED, SYMMETRIC] {
            for poison in [false, true] {
                let mut world = World::new(&[a, b]);
                world.poison = poison;
                world.seek(0, 1);
                world.run(secs(5));
                let both = world.found(0) && world.found(1);
                assert_eq!(both, possible(a, b), "{a:?} {b:?} {poison}: {:?}", world.ended(0));
                assert!(possible(a, b) || world.hosts[0].shots.is_empty(), "no packet for nothing");
            }
        }
    }
}

#[test]
fn both_fire_at_one_instant_however_far_the_mediator_is_from_each() {
    for (near, far) in [(1, 1), (5, 150), (150, 5)] {
        let mut world = World::new(&[PORT_RESTRICTED, PORT_RESTRICTED]);
        world.poison = true;
        world.hosts[0].to_mediator = millis(near);
        world.hosts[1].to_mediator = millis(far);
        world.seek(0, 1);
        world.run(secs(5));
        let [a, b] = [0, 1].map(|n| world.hosts[n].shots[0].0);
        assert!(a.since(b).max(b.since(a)) <= millis(1), "{a:?} {b:?}");
        assert!(world.found(0) && world.found(1), "first packets cross, and spoil nothing");
    }
}

#[test]
fn a_cone_opens_before_the_symmetric_side_fires() {
    for (seeker, sought) in [(RESTRICTED, SYMMETRIC), (SYMMETRIC, RESTRICTED)] {
        let mut world = World::new(&[seeker, sought]);
        world.seek(0, 1);
        world.run(secs(5));
        let (cone, symmetric) = if seeker == RESTRICTED { (0, 1) } else { (1, 0) };
        let [opened, fired] = [cone, symmetric].map(|n| world.hosts[n].shots[0].0);
        assert!(fired >= opened + millis(20));
        let to_old_port = world.hosts[symmetric].external;
        let openers = world.hosts[cone].shots.iter().filter(|(_, to)| *to == to_old_port).count();
        assert!((1..=3).contains(&openers));
    }
}

#[test]
fn loss_costs_time_and_repeats_and_no_pair() {
    for lose in [5, 20] {
        for seed in 0..30 {
            let mut world = World::new(&[PORT_RESTRICTED, RESTRICTED]);
            (world.lose, world.rng) = (lose, Rng::from_u64(seed));
            for _ in 0..30 {
                if !world.found(0) || !world.found(1) {
                    world.seek(0, 1);
                    world.run(secs(20));
                }
            }
            assert!(world.found(0) && world.found(1), "{lose} % seed {seed}: {:?}", world.ended(0));
        }
    }
}

#[test]
fn a_failed_attempt_is_followed_by_another_plan_and_then_by_rests_that_double() {
    let mut world = World::new(&[PORT_RESTRICTED, PORT_RESTRICTED]);
    world.lose = 100;
    let mut began = Vec::new();
    while world.now < Time::from_millis(4_000_000) {
        let before = world.hosts[0].events.len();
        world.seek(0, 1);
        if world.hosts[0].events.len() > before {
            began.push(world.now);
        }
        world.run(millis(500));
    }
    let tried: Vec<Plan> = world.ended(0).iter().map(|(plan, _)| *plan).collect();
    assert_eq!(tried[..3], [Plan::FireTogether, Plan::SeekerFirst, Plan::SoughtFirst]);
    assert!(world.ended(0).iter().all(|(_, outcome)| *outcome == Outcome::TimedOut));
    let gaps: Vec<f64> = began.windows(2).map(|w| (w[1] - w[0]).as_secs_f64()).collect();
    assert!(gaps[..2].iter().all(|gap| *gap < 5.0), "{gaps:?}");
    assert!(gaps[2] > 130.0 && gaps[3..5].iter().all(|gap| *gap < 5.0), "{gaps:?}");
    assert!(gaps[5] > 1.5 * gaps[2], "{gaps:?}");
    assert!(gaps.iter().all(|gap| *gap < 1.3 * MAX_REST.as_secs_f64() + 5.0));
}

#[test]
fn a_change_of_ones_own_or_of_the_peers_record_ends_a_rest() {
    for own in [true, false] {
        let mut world = World::new(&[PORT_RESTRICTED, PORT_RESTRICTED]);
        world.lose = 100;
        for _ in 0..3 {
            world.seek(0, 1);
            world.run(secs(5));
        }
        let sent = world.introductions.len();
        world.seek(0, 1);
        world.run(secs(5));
        assert_eq!(world.introductions.len(), sent, "it rests");
        let peer = world.hosts[1].id;
        world.with(
            0,
            |machine, now, _, _| {
                if own { machine.own_changed(now) } else { machine.member_changed(now, peer) }
            },
        );
        world.seek(0, 1);
        world.run(secs(5));
        assert!(world.introductions.len() > sent);
    }
}

#[test]
fn when_both_ask_at_once_both_keep_the_attempt_of_the_lower_id() {
    let mut world = World::new(&[PORT_RESTRICTED, PORT_RESTRICTED]);
    world.seek(0, 1);
    world.seek(1, 0);
    world.run(secs(8));
    assert!(world.found(0) && world.found(1));
    let lower = usize::from(world.hosts[0].id > world.hosts[1].id);
    let superseded = |n: usize| world.ended(n).iter().filter(|(_, o)| *o == Outcome::Superseded).count();
    assert_eq!((superseded(lower), superseded(1 - lower)), (0, 1));
}

fn introduction(world: &World, peer: usize, attempt: u128) -> Introduction {
    Introduction {
        attempt,
        peer: world.hosts[peer].id,
        to_seeker: false,
        plan: Plan::FireTogether,
        verdict: verdict(PORT_RESTRICTED),
        candidates: vec![world.hosts[peer].external],
        key: [3; 32],
        fire_in_ms: u16::MAX,
        span_ms: u16::MAX,
    }
}

fn give(world: &mut World, to: usize, from: usize, intro: &Introduction) {
    let (from, message) = (world.hosts[from].id, Message::Introduction(intro.clone()));
    world.with(to, |machine, now, view, out| machine.handle(now, from, message, view, out));
}

#[test]
fn an_introduction_counts_once_and_not_from_those_who_were_not_asked() {
    let mut world = World::new(&[PORT_RESTRICTED, PORT_RESTRICTED]);
    let mediator = world.mediator();
    let intro = introduction(&world, 1, 5);
    give(&mut world, 0, mediator, &Introduction { to_seeker: true, ..intro.clone() });
    assert_eq!(world.drops, [DropReason::UnknownTransaction], "nobody asked");
    give(&mut world, 0, mediator, &intro);
    let begun = world.now;
    world.run(secs(10));
    let first = world.hosts[0].shots[0].0;
    assert!(first <= begun + MAX_DELAY, "absurd times are capped");
    let shots = world.hosts[0].shots.len();
    give(&mut world, 0, mediator, &intro);
    world.run(secs(10));
    assert_eq!(
        (world.hosts[0].shots.len(), world.drops.last()),
        (shots, Some(&DropReason::Refused)),
        "a replay"
    );
    let stranger = Introduction { peer: NodeId([99; 32]), attempt: 6, ..intro };
    give(&mut world, 0, mediator, &stranger);
    assert_eq!(world.drops.last(), Some(&DropReason::Refused));
}

#[test]
fn a_lying_mediator_makes_a_node_send_few_packets_to_its_victim() {
    let mut world = World::new(&[PORT_RESTRICTED, PORT_RESTRICTED]);
    let mediator = world.mediator();
    let victim = |port| SocketAddr::from(([198, 51, 100, 9], port));
    for n in 0..2_000u16 {
        let candidates = (0..16).map(|port| victim(1 + port + 16 * (n % 100))).collect();
        let intro = Introduction { candidates, fire_in_ms: 0, ..introduction(&world, 1, u128::from(n)) };
        give(&mut world, 0, mediator, &intro);
        world.run(millis(25));
        let (active, _) = world.hosts[0].machine.sizes();
        assert!(active <= MAX_FROM_ONE);
    }
    let sent = &world.hosts[0].shots;
    let ports: BTreeSet<u16> = sent.iter().map(|(_, to)| to.port()).collect();
    for port in ports {
        let count = sent.iter().filter(|(_, to)| to.port() == port).count();
        assert!(count <= usize::try_from(PER_ADDRESS).unwrap(), "{count} to one port");
    }
    // 50 seconds fit one window.
    assert!(sent.len() <= usize::try_from(PER_IP).unwrap(), "{} to one host", sent.len());
}

#[test]
fn checks_without_the_key_thrown_back_or_of_no_attempt_do_nothing() {
    let mut world = World::new(&[PORT_RESTRICTED, PORT_RESTRICTED]);
    let mediator = world.mediator();
    let intro = Introduction { fire_in_ms: 0, ..introduction(&world, 1, 5) };
    give(&mut world, 0, mediator, &intro);
    world.run(millis(200));
    let from = world.hosts[1].external;
    let check = |attempt, by_seeker, key: [u8; 32]| {
        let name = stun::CheckName { attempt, by_seeker };
        (name, stun::check_request(7, name, &key))
    };
    let shots = world.hosts[0].shots.len();
    for (attempt, by_seeker, key, known) in
        [(5, true, [4; 32], true), (5, false, [3; 32], true), (6, true, [3; 32], false)]
    {
        let (name, bytes) = check(attempt, by_seeker, key);
        let mut taken = None;
        world.with(0, |machine, now, _, out| {
            taken = Some(machine.handle_check(now, from, (7, name), &bytes, out));
        });
        assert_eq!(taken, Some(known));
        assert_eq!(world.hosts[0].shots.len(), shots, "no answer");
    }
    let answer = stun::check_response(1234, from, &[3; 32]);
    world.with(0, |machine, now, _, out| assert!(!machine.handle_answer(now, from, 1234, &answer, out)));
    assert!(!world.found(0));
    assert!(world.drops.contains(&DropReason::BadAuthentication));
}

#[test]
fn an_answer_from_elsewhere_or_without_the_key_finds_nothing() {
    let mut world = World::new(&[PORT_RESTRICTED, OPEN]);
    world.seek(0, 1);
    let mediator = world.mediator();
    // Until the first check is on its way.
    while world.packets.is_empty() {
        world.run(millis(1));
        assert!(world.now < Time::from_millis(5_000), "{mediator}");
    }
    let (_, _, _, packet) = world.packets.remove(0);
    let (to, bytes) = decode(&packet);
    let Ok(stun::Message::BindingRequest(request)) = stun::Message::parse(bytes) else { panic!() };
    let key = world.introductions[0].1.key;
    let elsewhere = SocketAddr::new(to.ip(), to.port() + 1);
    for (from, key) in [(elsewhere, key), (to, [0; 32])] {
        let answer = stun::check_response(request.txid, from, &key);
        world.with(0, |machine, now, _, out| {
            assert!(machine.handle_answer(now, from, request.txid, &answer, out));
        });
        assert!(!world.found(0));
    }
    let answer = stun::check_response(request.txid, to, &key);
    world.with(0, |machine, now, _, out| {
        machine.handle_answer(now, to, request.txid, &answer, out);
    });
    assert!(world.found(0));
}

#[test]
fn a_mediator_declines_whom_it_does_not_know_and_who_asks_too_often() {
    let mut world = World::new(&[PORT_RESTRICTED, PORT_RESTRICTED]);
    let mediator = world.mediator();
    let (from, target) = (world.hosts[0].id, world.hosts[1].id);
    let seek = |target, attempt| {
        let verdict = VerdictSummary::UNKNOWN;
        Message::Seek(Seek { attempt, target, plan: Plan::Dial, verdict, candidates: vec![] })
    };
    world.with(mediator, |machine, now, view, out| {
        machine.handle(now, from, seek(NodeId([99; 32]), 1), view, out);
    });
    for attempt in 0..500 {
        world.with(mediator, |machine, now, view, out| {
            machine.handle(now, from, seek(target, attempt), view, out)
        });
    }
    let declined = |why| {
        let is = |e: &&Event| matches!(e, Event::Send { message: Message::Declined { why: w, .. }, .. } if *w == why);
        world.hosts[mediator].events.iter().filter(is).count()
    };
    assert_eq!(declined(super::Decline::NoSession), 1);
    assert!(declined(super::Decline::Busy) > 400);
}

#[test]
fn same_seed_same_course() {
    let course = || {
        let mut world = World::new(&[PORT_RESTRICTED, SYMMETRIC, RESTRICTED]);
        world.lose = 10;
        for n in 0..20 {
            world.seek(n % 3, (n + 1) % 3);
            world.run(secs(7));
        }
        let shots: Vec<_> = world.hosts.iter().map(|host| host.shots.clone()).collect();
        (shots, world.introductions)
    };
    assert_eq!(course(), course());
}

/// The plans for every combination of what NATs do, against what must come true.
#[test]
fn there_is_a_plan_exactly_where_packets_can_pass() {
    let mappings = [
        Mapping::None,
        Mapping::EndpointIndependent,
        Mapping::AddressDependent,
        Mapping::AddressAndPortDependent,
    ];
    let filters =
        [Filtering::EndpointIndependent, Filtering::AddressDependent, Filtering::AddressAndPortDependent];
    let all: Vec<VerdictSummary> = mappings
        .iter()
        .flat_map(|mapping| filters.iter().map(|filtering| (*mapping, *filtering)))
        .map(|(mapping, filtering)| VerdictSummary {
            mapping,
            filtering,
            ..VerdictSummary::from(&Verdict::UNKNOWN)
        })
        .collect();
    let symmetric =
        |v: &VerdictSummary| v.mapping >= Mapping::AddressDependent && v.mapping != Mapping::Unknown;
    for a in &all {
        for b in &all {
            let [at_a, at_b] = [1, 2].map(|n| [SocketAddr::from(([203, 0, 113, n], 1))]);
            let side = |verdict: &VerdictSummary, at| Side { verdict: *verdict, candidates: at };
            let planned = plans(&side(a, &at_a[..]), &side(b, &at_b[..]));
            assert_eq!(
                planned.is_ok(),
                plans(&side(b, &at_b[..]), &side(a, &at_a[..])).is_ok(),
                "both agree"
            );
            let expected = match (symmetric(a), symmetric(b)) {
                (false, false) => true,
                (true, false) => b.filtering != Filtering::AddressAndPortDependent,
                (false, true) => a.filtering != Filtering::AddressAndPortDependent,
                (true, true) => {
                    let one_admits = |x: &VerdictSummary, y: &VerdictSummary| {
                        x.filtering == Filtering::EndpointIndependent
                            && y.filtering != Filtering::AddressAndPortDependent
                    };
                    let kept = [a, b].iter().any(|v| v.mapping == Mapping::AddressDependent);
                    kept && (one_admits(a, b) || one_admits(b, a))
                }
            };
            assert_eq!(planned.is_ok(), expected, "{a:?} {b:?}: {planned:?}");
        }
    }
    let near = [SocketAddr::from(([203, 0, 113, 1], 1)), SocketAddr::from(([10, 0, 0, 2], 1))];
    let hard = VerdictSummary {
        mapping: Mapping::AddressAndPortDependent,
        filtering: Filtering::AddressAndPortDependent,
        ..VerdictSummary::UNKNOWN
    };
    let here = Side { verdict: hard, candidates: &near };
    assert_eq!(plans(&here, &here), Ok(vec![Plan::LocalFirst]), "behind one NAT");
    let v6 = ["[2001:db8::1]:1".parse().unwrap()];
    let there = Side { verdict: hard, candidates: &v6 };
    assert_eq!(plans(&there, &there), Ok(vec![Plan::OverIpv6]));
}
