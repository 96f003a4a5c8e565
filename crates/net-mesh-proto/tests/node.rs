//! Promises of the node: what its machines do together.
#![allow(clippy::unwrap_used, reason = "test code outside of test functions")]

mod common;

use common::{DELAY, PORT, Setup, World, addr, ip, millis, secs};
use net_mesh_proto::drops::DropReason;
use net_mesh_proto::id::ChannelId;
use net_mesh_proto::nat::NatClass;
use net_mesh_proto::node::{Command, Event, Input};
use net_mesh_proto::route::Route;

fn plain(bootstrap: &[usize]) -> Setup {
    Setup { bootstrap: bootstrap.to_vec(), nat_traversal: true }
}

#[test]
fn two_nodes_that_share_an_address_have_one_session_and_know_each_other() {
    let mut world = World::star(1, 2);
    world.run(millis(300));
    let conn = world.session(0, 1);
    assert!(conn.is_some());
    assert_eq!(conn, world.session(1, 0));
    world.run(secs(20));
    assert_eq!(world.session(0, 1), conn, "and it stays");
    assert_eq!(world.conns(), 2, "one connection, seen from both ends");
    assert_eq!(world.hosts[0].node.member(&world.id(1)).unwrap().record.name, "host 1");
    assert_eq!(world.hosts[1].node.member(&world.id(0)).unwrap().record.candidates, [addr(0)]);
}

#[test]
fn a_simultaneous_dial_ends_in_one_connection() {
    let mut world = World::seeded(2);
    world.add(&plain(&[1]));
    world.add(&plain(&[0]));
    world.run(secs(20));
    assert!(world.dials >= 2);
    assert!(world.session(0, 1).is_some());
    assert_eq!(world.session(0, 1), world.session(1, 0));
    assert_eq!(world.conns(), 2);
    let downs = |n: usize| {
        world.hosts[n].events.iter().filter(|(_, e)| matches!(e, Event::SessionDown { .. })).count()
    };
    assert_eq!((downs(0), downs(1)), (0, 0));
}

#[test]
fn a_small_mesh_connects_everyone_and_finds_itself_public() {
    let mut world = World::star(3, 6);
    world.run(secs(10));
    for a in 0..6 {
        for b in (0..6).filter(|b| *b != a) {
            assert!(world.has_session(a, b), "{a} to {b}");
            assert_eq!(world.session(a, b), world.session(b, a));
            let class = world.hosts[a].node.member(&world.id(b)).unwrap().record.verdict.class();
            assert_eq!(class, NatClass::Direct, "{b} as {a} knows it");
        }
        let (verdict, age, missing) = world.hosts[a].node.verdict(world.now);
        assert_eq!((verdict.class(), missing), (NatClass::Direct, None));
        assert!(age.unwrap() < secs(10));
        assert_eq!(world.hosts[a].node.reflexive(), [addr(a)]);
    }
    assert_eq!(world.conns(), 30);
}

#[test]
fn a_larger_mesh_knows_everyone_with_a_few_sessions_each() {
    let mut world = World::star(4, 40);
    world.run(secs(30));
    for n in 0..40 {
        assert_eq!(world.hosts[n].node.members().count(), 39, "node {n}");
        assert!(world.hosts[n].node.sessions().count() >= 3, "node {n}");
        assert_eq!(world.hosts[n].node.verdict(world.now).0.class(), NatClass::Direct, "node {n}");
    }
    let sessions: usize = world.hosts.iter().map(|h| h.node.sessions().count()).sum();
    assert!(sessions < 40 * 20, "{sessions} session ends");
    let dials = world.dials;
    world.run(secs(60));
    assert_eq!(world.dials, dials, "and then it is quiet");
}

#[test]
fn traffic_opens_a_session_in_a_few_round_trips() {
    let mut world = World::star(5, 40);
    world.run(secs(30));
    let (a, b) = (0..40)
        .flat_map(|a| (0..40).map(move |b| (a, b)))
        .find(|(a, b)| a != b && !world.has_session(*a, *b))
        .unwrap();
    let peer = world.id(b);
    world.input(a, Input::Command(Command::Want { peer }));
    world.run(DELAY * 8);
    assert!(world.has_session(a, b) && world.has_session(b, a));
}

#[test]
fn subscriptions_are_known_throughout_the_mesh() {
    let mut world = World::star(6, 12);
    world.run(secs(10));
    let channel = ChannelId::of("news");
    world.input(7, Input::Command(Command::Subscriptions(vec![channel])));
    world.run(secs(2));
    for n in (0..12).filter(|n| *n != 7) {
        let subscribers: Vec<_> = world.hosts[n]
            .node
            .members()
            .filter(|m| m.record.subscribes_to(channel))
            .map(|m| m.record.node)
            .collect();
        assert_eq!(subscribers, [world.id(7)], "as node {n} knows it");
    }
}

#[test]
fn a_node_that_leaves_is_forgotten_at_once_and_dials_nobody_any_more() {
    let mut world = World::star(7, 6);
    world.run(secs(10));
    world.input(3, Input::Command(Command::Leave));
    world.run(DELAY * 3);
    let gone = world.id(3);
    for n in (0..6).filter(|n| *n != 3) {
        assert!(world.hosts[n].node.member(&gone).is_none(), "node {n}");
        let told = world.hosts[n]
            .events
            .iter()
            .any(|(_, e)| matches!(e, Event::MemberGone { peer } if *peer == gone));
        assert!(told, "node {n}");
    }
    let conns: Vec<_> = world.hosts[3].node.sessions().map(|s| s.conn).collect();
    for conn in conns {
        world.close(3, conn);
        world.input(3, Input::Closed { conn });
    }
    let dials = world.dials;
    world.run(secs(100));
    assert_eq!(world.dials, dials);
}

#[test]
fn a_crashed_node_that_restarts_is_back_within_its_first_round_trips() {
    let mut world = World::star(8, 5);
    world.run(secs(10));
    world.crash(2);
    world.run(secs(5));
    world.restart(2, &plain(&[0]));
    world.run(secs(3));
    for n in [0, 1, 3, 4] {
        assert!(world.has_session(2, n), "to {n}");
        assert_eq!(world.session(2, n), world.session(n, 2), "with {n}");
        assert_eq!(world.hosts[n].node.member(&world.id(2)).unwrap().record.boot, 2);
    }
    world.run(secs(60));
    for n in [0, 1, 3, 4] {
        assert_eq!(world.session(2, n), world.session(n, 2), "with {n}, when the old ones have timed out");
        assert!(world.has_session(2, n));
    }
}

#[test]
fn a_mesh_cut_in_two_grows_together_again() {
    let mut world = World::star(9, 6);
    world.run(secs(10));
    for a in 0..3 {
        for b in 3..6 {
            world.cut.insert((a, b));
            for (x, y) in [(a, b), (b, a)] {
                if let Some(conn) = world.session(x, y) {
                    world.close(x, conn);
                    world.input(x, Input::Closed { conn });
                }
            }
        }
    }
    world.run(secs(120));
    assert!(!world.has_session(0, 3));
    world.cut.clear();
    world.run(secs(80));
    for a in 0..3 {
        for b in 3..6 {
            assert!(world.has_session(a, b), "{a} to {b}");
        }
    }
}

#[test]
fn a_new_network_is_asked_about_at_once_and_told_to_all() {
    let mut world = World::star(10, 4);
    world.run(secs(10));
    world.hosts[3].ip = ip(77);
    let (main, other) = ([Some(PORT), None], [Some(PORT + 1), None]);
    world.input(3, Input::Network { ips: vec![ip(77)], main, other });
    world.run(secs(2));
    assert_eq!(world.hosts[3].node.reflexive(), [addr(77)]);
    let record = world.hosts[0].node.member(&world.id(3)).unwrap().record.clone();
    assert_eq!(record.candidates, [addr(77)]);
}

#[test]
fn without_nat_traversal_a_node_joins_and_talks_and_asks_nothing() {
    let mut world = World::seeded(11);
    for n in 0..3 {
        let bootstrap = if n == 0 { vec![] } else { vec![0] };
        world.add(&Setup { bootstrap, nat_traversal: false });
    }
    world.run(secs(20));
    assert!(world.has_session(0, 1) && world.has_session(1, 2));
    assert_eq!(world.stun_bytes, 0);
    let (verdict, age, missing) = world.hosts[0].node.verdict(world.now);
    assert_eq!((verdict.class(), age), (NatClass::Unknown, None));
    assert!(missing.is_some(), "and says why it knows nothing");
    let request = [&[0, 1, 0, 0, 0x21, 0x12, 0xa4, 0x42][..], &[5; 12]].concat();
    let (socket, from) = (net_mesh_proto::outbox::SocketId::MAIN, addr(150));
    world.input(0, Input::Datagram { socket, from, bytes: &request });
    assert_eq!(world.stun_bytes, 0);
    assert_eq!(world.hosts[0].node.drops().of(DropReason::UnsupportedStun), 1);
}

#[test]
fn a_lone_node_says_what_is_missing_for_a_verdict() {
    let mut world = World::star(12, 2);
    world.run(secs(10));
    let (verdict, _, missing) = world.hosts[0].node.verdict(world.now);
    assert_eq!(verdict.class(), NatClass::Unknown);
    assert!(missing.is_some());
}

#[test]
fn messages_of_unknown_kinds_are_skipped_and_counted_and_the_session_goes_on() {
    let mut world = World::star(13, 2);
    world.run(secs(2));
    let conn = world.session(0, 1).unwrap();
    for bytes in [&[0x77, 0x77, 1, 2, 3][..], &[0x01], &[0x01, 0x02, 0xff]] {
        world.input(0, Input::Control { conn, bytes });
    }
    let drops = world.hosts[0].node.drops();
    assert_eq!(drops.of(DropReason::UnknownControl), 1);
    assert_eq!(drops.of(DropReason::MalformedControl), 2);
    world.run(secs(2));
    assert_eq!(world.session(0, 1), Some(conn));
    let told: u64 = world.hosts[0]
        .events
        .iter()
        .map(|(_, e)| if let Event::Dropped { count, .. } = e { *count } else { 0 })
        .sum();
    assert_eq!(told, drops.iter().map(|(_, n)| n).sum::<u64>(), "every drop is told, in time");
}

#[test]
fn only_the_session_may_speak_for_a_peer() {
    use net_mesh_proto::node::{ConnId, Direction};
    let mut world = World::star(14, 2);
    world.run(secs(2));
    let digest =
        world.corpus.iter().find(|(control, bytes)| *control && bytes[..2] == [1, 1]).unwrap().1.clone();
    let before = world.hosts[0].node.drops().of(DropReason::StaleConnection);
    let (peer, direction, route) = (world.id(1), Direction::Incoming, Route::Direct(addr(1)));
    let conn = ConnId(9_999);
    world.input(0, Input::Connected { conn, peer, direction, dial: None, route, rtt: DELAY, key: [0; 32] });
    world.input(0, Input::Control { conn, bytes: &digest });
    world.input(0, Input::Control { conn: ConnId(12_345), bytes: &digest });
    assert_eq!(world.hosts[0].node.drops().of(DropReason::StaleConnection), before + 2);
}

#[test]
fn a_node_that_reaches_itself_lets_go() {
    let mut world = World::seeded(15);
    world.add(&plain(&[0]));
    // Its own address is not recognisable as such: it believes to be elsewhere.
    let (main, other) = ([Some(PORT), None], [Some(PORT + 1), None]);
    world.input(0, Input::Network { ips: vec!["10.0.0.1".parse().unwrap()], main, other });
    world.run(secs(100));
    assert!(world.dials <= 2, "{} dials", world.dials);
    assert_eq!(world.hosts[0].node.sessions().count(), 0);
}
