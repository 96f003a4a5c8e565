//! Laws that hold for every machine, tested over all of them at once through the node.
//!
//! 1. After `handle_timeout(t)` the next deadline is later than `t`.
//! 2. The same seed and inputs make the same outputs.
//! 3. Arbitrary bytes never panic, and never grow what is remembered past its bounds.
//! 4. Unauthenticated input never causes more bytes out than it brought, but for what
//!    [`MAX_SURPLUS`] allows an answer to a STUN request.
#![allow(clippy::unwrap_used, reason = "test code outside of test functions")]

mod common;

use std::net::SocketAddr;

use common::{Setup, World, addr, millis, secs};
use net_mesh_proto::id::{ChannelId, NodeId};
use net_mesh_proto::membership::{MAX_MEMBERS, MAX_RECORD_BYTES};
use net_mesh_proto::node::{Command, ConnId, DialFailure, DialId, Direction, Input, Node, Output, Sizes};
use net_mesh_proto::outbox::SocketId;
use net_mesh_proto::peer::arbiter::MAX_CONNECTIONS;
use net_mesh_proto::peer::dialer::MAX_DIALS;
use net_mesh_proto::reflex::stun::MAX_SURPLUS;
use net_mesh_proto::rng::Rng;
use net_mesh_proto::route::Route;
use net_mesh_proto::time::Time;
use proptest::prelude::*;

/// A number below `bound`, as an index.
fn index(rng: &mut Rng, bound: usize) -> usize {
    usize::try_from(rng.below(bound as u64)).unwrap()
}

fn random_bytes(rng: &mut Rng, longest: usize) -> Vec<u8> {
    (0..index(rng, longest)).map(|_| u8::try_from(rng.below(256)).unwrap()).collect()
}

fn random_addr(rng: &mut Rng) -> SocketAddr {
    let port = u16::try_from(rng.below(65_536)).unwrap();
    if rng.chance(0.2) {
        SocketAddr::new(std::net::Ipv6Addr::from_bits(rng.u96() << 32).into(), port)
    } else {
        SocketAddr::new(std::net::Ipv4Addr::from_bits(u32::try_from(rng.u64() >> 32).unwrap()).into(), port)
    }
}

/// A valid message with a few bytes changed, added, repeated or missing.
fn mutated(rng: &mut Rng, original: &[u8]) -> Vec<u8> {
    let mut bytes = original.to_vec();
    for _ in 0..=rng.below(4) {
        let at = index(rng, bytes.len().max(1));
        match rng.below(6) {
            0 => bytes.truncate(at),
            1 => bytes.insert(at.min(bytes.len()), u8::try_from(rng.below(256)).unwrap()),
            2 => {
                if let Some(byte) = bytes.get_mut(at) {
                    *byte ^= 1 << rng.below(8);
                }
            }
            3 => {
                if let Some(byte) = bytes.get_mut(at) {
                    *byte = [0, 1, 0x3f, 0x7f, 0x80, 0xff][index(rng, 6)];
                }
            }
            4 => {
                let tail = bytes[at.min(bytes.len())..].to_vec();
                bytes.extend(tail.into_iter().take(64));
            }
            _ => {
                if at < bytes.len() {
                    bytes.remove(at);
                }
            }
        }
    }
    bytes
}

/// A busy little world whose messages were recorded.
fn busy(seed: u8) -> World {
    let mut world = World::star(seed, 4);
    world.run(millis(1_500));
    world.input(1, Input::Command(Command::Subscriptions(vec![ChannelId::of("a")])));
    world.input(2, Input::Command(Command::Reclassify));
    world.run(secs(35));
    world.input(3, Input::Command(Command::Leave));
    world.run(secs(1));
    world
}

fn assert_bounded(sizes: Sizes) {
    assert!(sizes.members <= MAX_MEMBERS && sizes.buried <= MAX_MEMBERS, "{sizes:?}");
    assert!(sizes.connections <= MAX_CONNECTIONS * MAX_MEMBERS, "{sizes:?}");
    assert!(sizes.dials <= MAX_DIALS && sizes.tokens <= 64, "{sizes:?}");
}

// The world asserts the first law at every timeout of every node; this drives it through a long and
// eventful life.
#[test]
fn after_a_timeout_the_next_deadline_is_later() {
    for seed in 0..6 {
        let mut world = World::star(seed, 5);
        let mut rng = Rng::from_u64(u64::from(seed));
        for _ in 0..40 {
            let n = index(&mut rng, 5);
            match rng.below(6) {
                0 if world.hosts[n].up => world.crash(n),
                0 | 1 if !world.hosts[n].up => {
                    world.restart(n, &Setup { bootstrap: vec![0, 1], nat_traversal: rng.chance(0.8) });
                }
                2 => {
                    let b = index(&mut rng, 5);
                    if !world.cut.remove(&(n.min(b), n.max(b))) {
                        world.cut.insert((n.min(b), n.max(b)));
                    }
                }
                3 if world.hosts[n].up => {
                    let peer = world.id(index(&mut rng, 5));
                    world.input(n, Input::Command(Command::Want { peer }));
                }
                4 if world.hosts[n].up => world.input(n, Input::Command(Command::Reclassify)),
                _ => {}
            }
            world.run(millis(rng.below(20_000)));
        }
        world.run(secs(2_000));
    }
}

/// Calling too late, or for no reason, must not make a deadline that has passed.
#[test]
fn a_timeout_at_any_moment_leaves_no_deadline_behind() {
    let mut world = busy(1);
    let mut rng = Rng::from_u64(9);
    let mut now = world.now;
    for _ in 0..2_000 {
        now += millis(rng.below(3_000));
        let node = &mut world.hosts[0].node;
        node.handle_timeout(now);
        while node.poll_output().is_some() {}
        let next = node.poll_timeout();
        assert!(next.is_none_or(|deadline| deadline.at > now), "{next:?} at {now:?}");
    }
}

#[test]
fn the_same_seed_and_inputs_make_the_same_outputs() {
    let life = |seed: u8| {
        let mut world = World::seeded(seed);
        world.trace = Some(Vec::new());
        for n in 0..6 {
            let bootstrap = if n == 0 { vec![] } else { vec![0, n - 1] };
            world.add(&Setup { bootstrap, nat_traversal: true });
        }
        world.run(secs(4));
        world.crash(2);
        world.run(secs(40));
        world.restart(2, &Setup { bootstrap: vec![0], nat_traversal: true });
        world.input(1, Input::Command(Command::Leave));
        world.run(secs(30));
        world.trace.unwrap()
    };
    let (first, second, other) = (life(7), life(7), life(8));
    assert!(first.len() > 500);
    if let Some(n) = first.iter().zip(&second).position(|(a, b)| a != b) {
        panic!("output {n} differs:\n{}\n{}", first[n], second[n]);
    }
    assert_eq!(first.len(), second.len());
    assert!(first.iter().zip(&other).any(|(a, b)| a != b), "the seed matters");
}

#[test]
fn mutated_messages_never_panic_and_never_grow_the_state_past_its_bounds() {
    for seed in 0..3 {
        let mut world = busy(seed);
        let corpus = std::mem::take(&mut world.corpus);
        let mut rng = Rng::from_u64(100 + u64::from(seed));
        let members = world.hosts[0].node.sizes().members;
        for _ in 0..20_000 {
            let (control, original) = &corpus[index(&mut rng, corpus.len())];
            let bytes = mutated(&mut rng, original);
            let conn = world.session(0, 1 + index(&mut rng, 2));
            match conn.filter(|_| *control) {
                Some(conn) => world.hosts[0].node.handle(world.now, Input::Control { conn, bytes: &bytes }),
                None => {
                    let socket = SocketId(u32::try_from(rng.below(6)).unwrap());
                    let from = if rng.chance(0.5) { addr(index(&mut rng, 4)) } else { random_addr(&mut rng) };
                    let input = Input::Datagram { socket, from, bytes: &bytes };
                    world.hosts[0].node.handle(world.now, input);
                }
            }
            while world.hosts[0].node.poll_output().is_some() {}
            world.now += millis(rng.below(30));
            if rng.chance(0.1) {
                world.hosts[0].node.handle_timeout(world.now);
                let next = world.hosts[0].node.poll_timeout();
                assert!(next.is_none_or(|deadline| deadline.at > world.now));
            }
        }
        let sizes = world.hosts[0].node.sizes();
        assert_bounded(sizes);
        // Nobody can speak for a node without its key, so mutation makes no members.
        assert!(sizes.members <= members + 1, "{sizes:?}");
    }
}

/// What a member can do to another over its session in one message, in bytes it makes it send, is bounded
/// by what that one knows.
#[test]
fn one_message_of_a_member_is_answered_with_no_more_than_everything() {
    let mut world = busy(5);
    let corpus = std::mem::take(&mut world.corpus);
    let members = world.hosts[0].node.sizes().members + 2;
    let conn = world.session(0, 1).unwrap();
    for (_, bytes) in corpus.iter().filter(|(control, _)| *control) {
        world.hosts[0].node.handle(world.now, Input::Control { conn, bytes });
        let mut out = 0;
        while let Some(output) = world.hosts[0].node.poll_output() {
            if let Output::Control { bytes, .. } = output {
                out += bytes.len();
            }
        }
        // Records pushed on to each session, records in answer, and a request.
        assert!(out <= 4 * members * (MAX_RECORD_BYTES + 64), "{out} bytes");
    }
}

#[test]
fn strangers_get_no_more_bytes_than_they_bring() {
    for seed in 0..4 {
        let mut world = busy(seed);
        let corpus = std::mem::take(&mut world.corpus);
        let mut rng = Rng::from_u64(200 + u64::from(seed));
        let node = &mut world.hosts[0].node;
        node.handle_timeout(world.now);
        while node.poll_output().is_some() {}
        let (mut brought, mut answered) = (0, 0);
        for n in 0..20_000 {
            let (_, original) = &corpus[index(&mut rng, corpus.len())];
            let bytes = match n % 3 {
                0 => original.clone(),
                1 => mutated(&mut rng, original),
                _ => random_bytes(&mut rng, 200),
            };
            let socket = SocketId(u32::try_from(rng.below(4)).unwrap());
            let from = random_addr(&mut rng);
            node.handle(world.now, Input::Datagram { socket, from, bytes: &bytes });
            let mut out = 0;
            while let Some(output) = node.poll_output() {
                match output {
                    Output::Transmit(t) => {
                        assert_eq!((t.to, t.from), (from, socket), "only whoever asked is answered");
                        out += t.bytes.len();
                    }
                    Output::Event(_) => {}
                    other => panic!("a stranger's {bytes:x?} caused {other:?}"),
                }
            }
            assert!(out == 0 || out <= bytes.len() + MAX_SURPLUS, "{out} bytes for {}", bytes.len());
            brought += bytes.len();
            answered += out;
            world.now += millis(rng.below(2));
        }
        assert!(answered > 0, "some were answered, or this would prove nothing");
        assert!(answered < brought);
    }
}

fn lone(seed: [u8; 32]) -> (Time, Node) {
    let mut world = World::seeded(seed[0]);
    world.add(&Setup { bootstrap: vec![9], nat_traversal: true });
    let host = world.hosts.pop().unwrap();
    (world.now, host.node)
}

#[derive(Clone, Debug)]
enum Action {
    Datagram(u32, u16, Vec<u8>),
    Control(u64, u16, Vec<u8>),
    Connected(u64, u8, bool, Option<u64>),
    Closed(u64),
    DialFailed(u64),
    Opened(u32, bool),
    Want(u8),
    Leave,
    Reclassify,
    Wait(u64),
}

fn actions() -> impl Strategy<Value = Vec<Action>> {
    let bytes = || proptest::collection::vec(any::<u8>(), 0..120);
    // Kinds that exist are worth trying more often than chance would.
    let kind = || {
        proptest::sample::select(vec![1u16, 2, 0x101, 0x102, 0x103, 0x201, 0x202, 0x203, 0x204, 0x205, 0x999])
    };
    let action = prop_oneof![
        4 => (0..5u32, any::<u16>(), bytes()).prop_map(|(s, p, b)| Action::Datagram(s, p, b)),
        6 => (0..6u64, kind(), bytes()).prop_map(|(c, k, b)| Action::Control(c, k, b)),
        3 => (0..6u64, 0..4u8, any::<bool>(), proptest::option::of(0..6u64))
            .prop_map(|(c, p, d, dial)| Action::Connected(c, p, d, dial)),
        2 => (0..6u64).prop_map(Action::Closed),
        1 => (0..6u64).prop_map(Action::DialFailed),
        1 => (0..6u32, any::<bool>()).prop_map(|(s, ok)| Action::Opened(s, ok)),
        1 => (0..4u8).prop_map(Action::Want),
        1 => Just(Action::Leave),
        1 => Just(Action::Reclassify),
        4 => (0..100_000u64).prop_map(Action::Wait),
    ];
    proptest::collection::vec(action, 0..60)
}

fn act(node: &mut Node, now: Time, action: Action) {
    let port = |p: u16| SocketAddr::new(common::ip(150), p);
    match action {
        Action::Datagram(socket, p, bytes) => {
            node.handle(now, Input::Datagram { socket: SocketId(socket), from: port(p), bytes: &bytes });
        }
        Action::Control(conn, kind, bytes) => {
            let bytes = [&kind.to_be_bytes()[..], &bytes].concat();
            node.handle(now, Input::Control { conn: ConnId(conn), bytes: &bytes });
        }
        Action::Connected(conn, peer, outgoing, dial) => {
            let direction = if outgoing { Direction::Outgoing } else { Direction::Incoming };
            let input = Input::Connected {
                conn: ConnId(conn),
                peer: NodeId([peer * 80; 32]),
                direction,
                dial: dial.map(DialId),
                route: Route::Direct(port(1_000)),
                rtt: millis(30),
                key: [0; 32],
            };
            node.handle(now, input);
        }
        Action::Closed(conn) => node.handle(now, Input::Closed { conn: ConnId(conn) }),
        Action::DialFailed(dial) => {
            node.handle(now, Input::DialFailed { dial: DialId(dial), failure: DialFailure::Timeout });
        }
        Action::Opened(socket, true) => {
            node.handle(now, Input::SocketOpened { socket: SocketId(socket), local: port(9) });
        }
        Action::Opened(socket, false) => node.handle(now, Input::SocketFailed { socket: SocketId(socket) }),
        Action::Want(peer) => {
            node.handle(now, Input::Command(Command::Want { peer: NodeId([peer * 80; 32]) }));
        }
        Action::Leave => node.handle(now, Input::Command(Command::Leave)),
        Action::Reclassify => node.handle(now, Input::Command(Command::Reclassify)),
        Action::Wait(_) => node.handle_timeout(now),
    }
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(400) })]

    #[test]
    fn any_order_of_any_inputs_keeps_all_laws(seed in any::<[u8; 32]>(), actions in actions()) {
        let (mut now, mut node) = lone(seed);
        let (_, mut twin) = lone(seed);
        for action in actions {
            if let Action::Wait(ms) = action {
                now += millis(ms);
            }
            let timeout = matches!(action, Action::Wait(_));
            act(&mut node, now, action.clone());
            act(&mut twin, now, action);
            if timeout {
                prop_assert!(node.poll_timeout().is_none_or(|deadline| deadline.at > now));
            }
            loop {
                let (a, b) = (node.poll_output(), twin.poll_output());
                prop_assert_eq!(format!("{a:?}"), format!("{b:?}"));
                if a.is_none() {
                    break;
                }
            }
            assert_bounded(node.sizes());
        }
        // At most one session to each of the four peers, with at most a few connections beside it.
        prop_assert!(node.sizes().connections <= 4 * MAX_CONNECTIONS);
    }
}
