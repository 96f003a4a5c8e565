//! Promises of the dialer, and of what a node knows of its own place.

mod bench;

use alloc::collections::BTreeSet;
use alloc::vec;
use alloc::vec::Vec;
use core::net::{Ipv4Addr, SocketAddr};
use core::time::Duration;

use self::bench::{Bench, Nat, Others};
use super::{addr, millis, secs};
use crate::id::NodeId;
use crate::membership::MAX_CANDIDATES;
use crate::nat::NatClass;
use crate::node::{DialId, Direction};
use crate::outbox::Outbox;
use crate::peer::dialer::{ANCHORS, Dialer, MAX_DIALS, MAX_FURTHER, SMALL_MESH, StartState};
use crate::peer::local::Local;
use crate::peer::ways::{GRACE, RELAY_AFTER, Way};
use crate::rng::Rng;
use crate::time::Time;

#[test]
fn bootstrap_addresses_are_tried_until_there_is_a_session_and_again_when_all_are_lost() {
    let mut bench = Bench::new(&[addr(1), addr(2)]);
    let first = bench.until(millis(10));
    assert_eq!(first.iter().map(|d| d.3.clone()).collect::<Vec<_>>(), [vec![addr(1)], vec![addr(2)]]);
    assert_eq!(bench.starts(), [StartState::Trying; 2]);
    bench.fail(first[1].1);
    let peer = bench.member(1, Nat::Hard);
    let conn = bench.session(peer, Direction::Outgoing, Some(first[0].1));
    assert_eq!(bench.starts(), [StartState::Connected, StartState::Silent { attempts: 1 }]);
    // The other address belongs to nobody known: it is tried, but ever more rarely.
    let tried = bench.failing_until(secs(3600));
    let pauses: Vec<u64> = tried.windows(2).map(|w| (w[1] - w[0]).as_secs()).collect();
    assert!(tried.len() <= 18 && pauses.windows(2).all(|w| w[0] <= w[1] + 1), "{pauses:?}");
    assert!(pauses.first().is_some_and(|first| *first <= 45), "{pauses:?}");
    bench.arbiter.closed(bench.now, conn, &mut Outbox::new());
    bench.dialer.session_down(bench.now, peer);
    let again: BTreeSet<_> = bench.until(secs(3630)).into_iter().flat_map(|d| d.3).collect();
    assert!(again.contains(&addr(1)), "{again:?}");
}

#[test]
fn other_addresses_to_start_from_are_tried_at_once() {
    let mut bench = Bench::new(&[addr(1)]);
    assert!(!bench.failing_until(secs(100)).is_empty());
    bench.dialer.set_bootstrap(bench.now, &[addr(1), addr(2)]);
    let at = bench.now;
    let dials = bench.until(at.since(Time::ZERO) + secs(1));
    assert_eq!(dials.into_iter().map(|d| d.3).collect::<Vec<_>>(), [vec![addr(2)]]);
    assert_eq!(bench.starts()[1], StartState::Trying);
    bench.dialer.set_bootstrap(bench.now, &[]);
    assert!(bench.starts().is_empty());
}

#[test]
fn addresses_to_start_from_that_cannot_be_sent_to_are_told_apart_from_silent_ones() {
    let mut bench = Bench::new(&["[2001:db8::1]:7000".parse().unwrap(), addr(1)]);
    bench.dialer.stop();
    assert_eq!(bench.starts(), [StartState::Unusable, StartState::Untried]);
    let peer = bench.member(1, Nat::Open);
    let starts = bench.dialer.starts(&bench.local, bench.membership.members(), &bench.arbiter);
    assert_eq!(starts[1].node, Some(peer), "its record names the address");
}

#[test]
fn rests_double_up_to_a_minute() {
    let mut bench = Bench::new(&[addr(1)]);
    let times = bench.failing_until(secs(600));
    let gaps: Vec<_> = times.windows(2).map(|w| (w[1] - w[0]).as_secs_f64()).collect();
    for (n, gap) in gaps.iter().enumerate() {
        let expected = f64::from(1u32 << n.min(10)).min(60.0);
        assert!((0.74 * expected..1.3 * expected).contains(gap), "rest {n}: {gap} s");
    }
    assert!(gaps.len() > 10);
}

#[test]
fn a_small_mesh_is_fully_connected() {
    let mut bench = Bench::new(&[]);
    let members: BTreeSet<_> = (1..=7).map(|n| bench.member(n, Nat::Hard)).collect();
    let dialled: BTreeSet<_> = bench.until(secs(1)).into_iter().filter_map(|d| d.2).collect();
    assert_eq!(dialled, members);
}

#[test]
fn in_a_large_mesh_a_few_public_members_are_enough() {
    let mut bench = Bench::new(&[]);
    let open: Vec<_> = (1..=5).map(|n| bench.member(n, Nat::Open)).collect();
    for n in 10..30 {
        bench.member(n, Nat::Hard);
        bench.member(n + 40, Nat::Unknown);
    }
    let dials = bench.until(secs(1));
    assert_eq!(dials.len(), ANCHORS);
    assert!(dials.iter().all(|d| open.contains(&d.2.unwrap())), "public ones before unknown ones");
    for (_, dial, peer, _) in dials {
        bench.session(peer.unwrap(), Direction::Outgoing, Some(dial));
    }
    assert!(bench.until(secs(100)).is_empty(), "and nobody else is dialled");
}

#[test]
fn members_of_unknown_class_stand_in_for_public_ones() {
    let mut bench = Bench::new(&[]);
    let open = bench.member(1, Nat::Open);
    let unknown: BTreeSet<_> = (2..=9).map(|n| bench.member(n, Nat::Unknown)).collect();
    let dialled: Vec<_> = bench.until(secs(1)).into_iter().filter_map(|d| d.2).collect();
    assert_eq!(dialled.len(), ANCHORS);
    assert_eq!(dialled[0], open);
    assert!(dialled[1..].iter().all(|id| unknown.contains(id)));
}

#[test]
fn a_wanted_peer_is_dialled_at_once_and_quickly_again() {
    let mut bench = Bench::new(&[]);
    let peers: Vec<_> = (1..=20).map(|n| bench.member(n, Nat::Hard)).collect();
    assert!(bench.until(secs(1)).is_empty(), "nobody there is worth an anchor");
    bench.dialer.want(bench.now, peers[3]);
    let first = bench.until(secs(1) + millis(30));
    assert_eq!(first.iter().map(|d| d.2).collect::<Vec<_>>(), [Some(peers[3])]);
    bench.fail(first[0].1);
    let times = bench.failing_until(secs(3));
    assert!(times.len() >= 3, "{times:?}");
    assert!(times[1] < secs(2), "{times:?}");
    let times = bench.failing_until(secs(200));
    assert!(times.iter().all(|at| *at < secs(62)), "no longer wanted, no longer dialled: {times:?}");
}

#[test]
fn a_new_address_ends_a_rest() {
    let mut bench = Bench::new(&[]);
    bench.member(1, Nat::Unknown);
    let times = bench.failing_until(secs(100));
    assert!(times.len() < 12);
    bench.member_at(1, Nat::Unknown, vec![addr(1), addr(2)]);
    assert_eq!(bench.until(secs(100) + millis(30)).len(), 1);
}

#[test]
fn a_new_network_ends_all_rests() {
    let mut bench = Bench::new(&[addr(40)]);
    bench.failing_until(secs(100));
    bench.dialer.network_changed(bench.now);
    assert_eq!(bench.until(secs(100) + millis(30)).len(), 1);
}

#[test]
fn attempts_under_way_are_bounded_and_each_makes_room_for_another() {
    let mut bench = Bench::new(&[]);
    let peers: Vec<_> = (1..=60).map(|n| bench.member(n, Nat::Hard)).collect();
    for peer in &peers {
        bench.dialer.want(bench.now, *peer);
    }
    let dials = bench.until(secs(1));
    assert_eq!(dials.len(), MAX_DIALS);
    bench.session(dials[0].2.unwrap(), Direction::Outgoing, Some(dials[0].1));
    assert_eq!(bench.until(secs(2)).len(), 1);
}

#[test]
fn loopback_and_own_addresses_of_others_are_not_dialled_except_where_there_is_nothing_else() {
    let loopback: SocketAddr = "127.0.0.1:9000".parse().unwrap();
    let own: SocketAddr = "198.51.100.1:7000".parse().unwrap();
    let lan: SocketAddr = "192.168.1.5:7000".parse().unwrap();
    let zero: SocketAddr = "203.0.113.1:0".parse().unwrap();
    let mut bench = Bench::new(&[]);
    bench.member_at(1, Nat::Unknown, vec![loopback, own, zero, "[2001:db8::1]:7000".parse().unwrap(), lan]);
    assert_eq!(bench.until(secs(1))[0].3, [lan]);
    let mut bench = Bench::new(&[]);
    bench.local.set_network(vec![Ipv4Addr::LOCALHOST.into()], [Some(7000), None], [None; 2]);
    bench.member_at(1, Nat::Unknown, vec![loopback]);
    assert_eq!(bench.until(secs(1))[0].3, [loopback], "two processes on one machine");
}

#[test]
fn a_bootstrap_address_that_is_this_node_is_left_alone() {
    let mut bench = Bench::new(&["198.51.100.1:7000".parse().unwrap(), addr(3)]);
    let dials = bench.until(secs(1));
    assert_eq!(dials.iter().map(|d| d.3.clone()).collect::<Vec<_>>(), [vec![addr(3)]]);
    bench.dialer.dialled_self(bench.now, Some(dials[0].1));
    assert!(bench.until(secs(200)).is_empty(), "seen from outside it was this node after all");
    assert_eq!(bench.starts(), [StartState::Itself; 2]);
}

// ---------------------------------------------------------------- addresses that become known later

fn lan(last: u8) -> SocketAddr {
    SocketAddr::new(Ipv4Addr::new(10, 0, 0, last).into(), 7000)
}

/// A bench with one member that is being dialled at its private address, and the attempt.
fn dialling_a_private_address() -> (Bench, NodeId, DialId) {
    let mut bench = Bench::new(&[]);
    let peer = bench.member_at(1, Nat::Hard, vec![lan(1)]);
    let first = bench.until(secs(1));
    assert_eq!(first.iter().map(|d| d.3.clone()).collect::<Vec<_>>(), [vec![lan(1)]]);
    (bench, peer, first[0].1)
}

#[test]
fn an_address_learned_during_an_attempt_is_tried_at_once_and_alone() {
    let (mut bench, peer, first) = dialling_a_private_address();
    bench.member_at(1, Nat::Hard, vec![addr(1), lan(1)]);
    let further = bench.until(secs(1) + millis(20));
    assert_eq!(further.iter().map(|d| (d.2, d.3.clone())).collect::<Vec<_>>(), [(Some(peer), vec![addr(1)])]);
    assert_ne!(further[0].1, first, "under a name of its own");
    bench.member_at(1, Nat::Unknown, vec![lan(1), addr(1)]);
    assert!(bench.until(secs(8)).is_empty(), "a record with nothing new in it is no reason for another");
    bench.fail(first);
    assert!(bench.until(secs(9)).is_empty(), "nor is a failure beside an attempt under way");
    bench.member_at(1, Nat::Hard, vec![lan(1), addr(1)]);
    assert!(bench.until(secs(10)).is_empty(), "and what was tried is not tried again meanwhile");
}

#[test]
fn a_target_has_failed_once_when_its_last_attempt_has() {
    let (mut bench, _, first) = dialling_a_private_address();
    bench.member_at(1, Nat::Hard, vec![addr(1), lan(1)]);
    let second = bench.until(secs(2))[0].1;
    bench.fail(first);
    bench.fail(second);
    let again = bench.until(secs(2) + millis(1_300));
    let addrs: Vec<_> = again.iter().map(|d| d.3.clone()).collect();
    assert_eq!(addrs, [vec![addr(1), lan(1)]], "after the first rest, not the second; and at everything");
    assert!(again[0].0.since(Time::ZERO + secs(2)) >= millis(740), "but after a rest");
}

#[test]
fn what_is_left_when_one_attempt_succeeds_neither_adds_a_rest_nor_is_waited_for() {
    for direction in [Direction::Outgoing, Direction::Incoming] {
        let (mut bench, peer, first) = dialling_a_private_address();
        bench.member_at(1, Nat::Hard, vec![addr(1), lan(1)]);
        let second = bench.until(secs(2))[0].1;
        let own = (direction == Direction::Outgoing).then_some(second);
        let conn = bench.session(peer, direction, own);
        assert!(bench.until(secs(3)).is_empty());
        bench.member_at(1, Nat::Hard, vec![addr(1), lan(1), addr(77)]);
        assert!(bench.until(secs(4)).is_empty(), "there is a session: nothing more to try");
        bench.arbiter.closed(bench.now, conn, &mut Outbox::new());
        bench.dialer.session_down(bench.now, peer);
        let again = bench.until(secs(4) + millis(520));
        assert_eq!(again.len(), 1, "{direction:?}: the old attempts are not waited for");
        assert_eq!(again[0].3, [addr(1), lan(1), addr(77)]);
        bench.fail(first);
        bench.fail(again[0].1);
        let after = bench.until(secs(4) + millis(520 + 1_300));
        assert_eq!(after.len(), 1, "{direction:?}: one failure, one first rest");
    }
}

#[test]
fn a_record_that_changes_without_end_gets_few_attempts_at_a_time_and_few_addresses_in_all() {
    let (mut bench, ..) = dialling_a_private_address();
    let other = |n: u16| SocketAddr::new(Ipv4Addr::new(203, 0, 113, 7).into(), n);
    let mut dialled = Vec::new();
    for n in 0..200u16 {
        bench.member_at(1, Nat::Hard, vec![other(1_000 + n)]);
        let started = bench.until(secs(2) + millis(100 * u64::from(n)));
        dialled.extend(started.into_iter().map(|d| (d.1, d.3)));
        assert!(bench.dialer.attempts() <= 1 + MAX_FURTHER);
        if n % 2 == 1 && dialled.len() > 1 {
            // One further attempt ends, the first is still there: the generation goes on.
            bench.fail(dialled[dialled.len() - 2].0);
        }
    }
    let addrs: Vec<_> = dialled.iter().flat_map(|d| d.1.clone()).collect();
    assert_eq!(addrs.iter().collect::<BTreeSet<_>>().len(), addrs.len(), "each address once");
    // One went to the first attempt.
    assert_eq!(addrs.len(), 3 * MAX_CANDIDATES - 1);
}

#[test]
fn further_attempts_count_among_all_and_wait_for_room() {
    let mut bench = Bench::new(&[]);
    let peers: Vec<_> = (1..=60).map(|n| bench.member_at(n, Nat::Hard, vec![lan(n)])).collect();
    for peer in &peers {
        bench.dialer.want(bench.now, *peer);
    }
    let dials = bench.until(secs(1));
    assert_eq!(dials.len(), MAX_DIALS);
    let n = (1..=60).find(|n| dials[3].3 == [lan(*n)]).unwrap();
    bench.member_at(n, Nat::Hard, vec![lan(n), addr(n)]);
    assert!(bench.until(secs(2)).is_empty());
    bench.fail(dials[9].1);
    let next = bench.until(secs(2) + millis(50));
    assert_eq!(next.iter().map(|d| d.3.clone()).collect::<Vec<_>>(), [vec![addr(n)]]);
    assert_eq!(bench.dialer.attempts(), MAX_DIALS);
}

#[test]
fn a_rest_ends_early_when_the_peer_connects_or_its_verdict_or_addresses_change() {
    let changes: [fn(&mut Bench, NodeId); 3] = [
        |bench, _| {
            bench.member_at(1, Nat::Unknown, vec![addr(1)]);
        },
        |bench, _| {
            bench.member_at(1, Nat::Hard, vec![addr(1), lan(1)]);
        },
        // Its connection ends before it is a session.
        |bench, peer| {
            bench.dialer.connected(bench.now, peer, Direction::Incoming, None, true);
            bench.dialer.connection_lost(bench.now, peer);
        },
    ];
    for wanted in [false, true] {
        for (n, change) in changes.iter().enumerate() {
            let mut bench = Bench::new(&[]);
            let peer = bench.member(1, Nat::Hard);
            bench.failing_until(secs(200));
            if wanted {
                bench.dialer.want(bench.now, peer);
                bench.failing_until(secs(220));
            }
            let at = bench.now;
            let next = bench.dialer.poll_timeout().unwrap().at;
            assert!(next.since(at) > millis(1_300), "it rests: {:?}", next.since(at));
            change(&mut bench, peer);
            let dials = bench.until(at.since(Time::ZERO) + millis(1_300));
            assert_eq!(dials.len(), 1, "change {n}, wanted {wanted}");
        }
    }
}

/// How long a driver tries.
const ATTEMPT: Duration = Duration::from_secs(8);

/// An attempt that one of two nodes made: from when to when, and where.
type Made = (Time, Time, Vec<SocketAddr>);

/// Two nodes that are behind port-restricted NATs and want each other. Each dials into the void until
/// `end`; node n learns the other's reflexive address at `learns[n]`.
fn two_that_want_each_other(seed: u64, wants: [Time; 2], learns: [Time; 2], end: Time) -> [Vec<Made>; 2] {
    core::array::from_fn(|n| {
        let mut bench = Bench::new(&[]);
        bench.dialer = Dialer::new(Rng::from_u64(seed * 2 + u64::try_from(n).unwrap()), &[], SMALL_MESH);
        for other in 20..28 {
            bench.member(other, Nat::Hard);
        }
        let peer = bench.member_at(1, Nat::Restricted, vec![lan(1)]);
        let (mut made, mut under_way) = (Vec::<Made>::new(), BTreeSet::new());
        let mut todo = BTreeSet::from([(wants[n], false), (learns[n], true)]);
        loop {
            let alarm = bench.dialer.poll_timeout().map(|d| d.at);
            let failure = under_way.first().map(|(at, _)| *at);
            let step = todo.first().map(|(at, _)| *at);
            let Some(at) = alarm.into_iter().chain(failure).chain(step).min().filter(|at| *at < end) else {
                return made;
            };
            bench.now = bench.now.max(at);
            if failure == Some(at) {
                let (_, dial) = under_way.pop_first().unwrap();
                bench.fail(dial);
            } else if step == Some(at) {
                let (_, learns) = todo.pop_first().unwrap();
                if learns {
                    bench.member_at(1, Nat::Restricted, vec![addr(1), lan(1)]);
                } else {
                    bench.dialer.want(at, peer);
                }
            }
            for (started, dial, to, addrs) in bench.until(bench.now.since(Time::ZERO)) {
                assert_eq!(to, Some(peer), "nobody else is worth dialling");
                under_way.insert((started + ATTEMPT, dial));
                made.push((started, started + ATTEMPT, addrs));
            }
        }
    })
}

#[test]
fn two_behind_port_restricted_nats_try_each_others_reflexive_address_at_the_same_time() {
    let mut rng = Rng::from_u64(9);
    for seed in 0..200 {
        let wants = [(); 2].map(|()| Time::from_millis(100 + rng.below(12_000)));
        let earlier = Time::from_millis(rng.below(25_000)).max(wants[0]).max(wants[1]);
        let later = earlier + millis(rng.below(2_001));
        let learns = if rng.chance(0.5) { [earlier, later] } else { [later, earlier] };
        let made = two_that_want_each_other(seed, wants, learns, later + secs(20));
        let reflexive = |n: usize| made[n].iter().filter(|(.., addrs)| addrs.contains(&addr(1)));
        let overlaps = reflexive(0)
            .flat_map(|a| reflexive(1).map(move |b| (a.0.max(b.0), a.1.min(b.1))))
            .filter(|(from, until)| *from <= later + secs(1) && *until >= *from + secs(5));
        assert!(overlaps.count() > 0, "seed {seed}: wants {wants:?}, learns {learns:?}: {made:#?}");
    }
}

// ---------------------------------------------------------------- own addresses

#[test]
fn candidates_are_best_first_and_loopback_only_where_there_is_nothing_else() {
    let mut local = Local::default();
    let ips = ["10.0.0.5", "127.0.0.1", "198.51.100.1", "169.254.1.1", "fe80::1"];
    local.set_network(ips.map(|ip| ip.parse().unwrap()).to_vec(), [Some(7000), Some(7001)], [None; 2]);
    local.set_reflexive(vec!["203.0.113.9:4242".parse().unwrap(), "10.0.0.5:7000".parse().unwrap()]);
    let expected = ["203.0.113.9:4242", "198.51.100.1:7000", "10.0.0.5:7000"];
    assert_eq!(local.candidates(), expected.map(|a| a.parse().unwrap()));
    let mut local = Local::default();
    local.set_network(vec!["127.0.0.1".parse().unwrap()], [Some(7000), None], [None; 2]);
    assert_eq!(local.candidates(), ["127.0.0.1:7000".parse().unwrap()]);
    assert!(local.loopback_only());
}

#[test]
fn who_cannot_be_knocked_at_is_tried_through_others_alone() {
    let mut bench = Bench::new(&[]);
    bench.help = Others::all();
    let peer = bench.member(1, Nat::Restricted);
    bench.dialer.want(Time::ZERO, peer);
    let (dials, _) = bench.ways_until(secs(5));
    assert_eq!(dials.len(), 1);
    assert_eq!(dials[0].3, [Way::Relay], "its NAT is not disturbed");
    assert_eq!(bench.sought, [peer], "a direct way is looked for at the same time");
}

#[test]
fn without_relays_a_peer_is_dialled_where_the_rendezvous_found_it() {
    let mut bench = Bench::new(&[]);
    bench.help = Others { relay: false, ..Others::all() };
    let peer = bench.member(1, Nat::Restricted);
    bench.dialer.want(Time::ZERO, peer);
    assert!(bench.until(secs(1)).is_empty());
    assert_eq!(bench.sought, [peer]);
    bench.help.found = Some(addr(77));
    bench.dialer.found(bench.now, peer);
    let dials = bench.until(secs(2));
    assert_eq!(dials.len(), 1);
    assert_eq!(dials[0].3, [addr(77)]);
}

#[test]
fn who_admits_anyone_is_dialled_and_a_relay_comes_in_when_nobody_answers() {
    let mut bench = Bench::new(&[]);
    bench.help = Others::all();
    let peer = bench.member(1, Nat::Open);
    let (dials, _) = bench.ways_until(secs(1));
    assert_eq!(dials[0].3, [Way::Addr(addr(1))]);
    assert_eq!((dials[1].0, &dials[1].3[..]), (Time::ZERO + RELAY_AFTER, &[Way::Relay][..]));
    assert_eq!((dials.len(), dials[1].2), (2, Some(peer)));
}

#[test]
fn of_two_that_need_help_the_lower_begins_and_the_other_waits_for_it() {
    for (me, begins_at) in [([0; 32], Time::ZERO), ([255; 32], Time::ZERO + GRACE)] {
        let mut bench = Bench::new(&[]);
        bench.help = Others::all();
        bench.me = NodeId(me);
        bench.member(1, Nat::Restricted);
        let (dials, _) = bench.ways_until(secs(5));
        assert_eq!(dials[0].0, begins_at, "{me:?}");
    }
    let mut bench = Bench::new(&[]);
    bench.help = Others { own: NatClass::Direct, ..Others::all() };
    bench.member(1, Nat::Restricted);
    assert_eq!(bench.ways_until(secs(5)).0[0].0, Time::ZERO + GRACE, "who can be dialled waits for it");
    let mut bench = Bench::new(&[]);
    (bench.help, bench.me) = (Others::all(), NodeId([255; 32]));
    let peer = bench.member(1, Nat::Restricted);
    bench.dialer.want(Time::ZERO, peer);
    assert_eq!(bench.ways_until(secs(5)).0[0].0, Time::ZERO, "who has something to say does not wait");
}

#[test]
fn a_circuit_that_ends_under_an_attempt_is_replaced_at_once() {
    let mut bench = Bench::new(&[]);
    bench.help = Others::all();
    let peer = bench.member(1, Nat::Restricted);
    bench.dialer.want(Time::ZERO, peer);
    let (dials, _) = bench.ways_until(millis(10));
    bench.dialer.circuit_lost(bench.now, dials[0].1);
    assert_eq!(bench.ways_until(millis(500)).0.len(), 1);
}

#[test]
fn in_a_large_mesh_idle_sessions_close_but_for_anchors_incoming_ones_and_those_that_carry_others() {
    let mut bench = Bench::new(&[]);
    for n in 10..30 {
        bench.member(n, Nat::Hard);
    }
    let anchors: Vec<_> = (1..=3).map(|n| bench.member(n, Nat::Open)).collect();
    for peer in anchors {
        bench.session(peer, Direction::Outgoing, None);
    }
    let ids: Vec<NodeId> = (40..44).map(|n| bench.member(n, Nat::Hard)).collect();
    let idle = bench.session(ids[0], Direction::Outgoing, None);
    bench.session(ids[1], Direction::Incoming, None);
    bench.session(ids[2], Direction::Outgoing, None);
    bench.help.carried = Some(ids[2]);
    let busy = bench.session(ids[3], Direction::Outgoing, None);
    assert_eq!(bench.ways_until(secs(119)).1, []);
    bench.dialer.used(bench.now, ids[3]);
    assert_eq!(bench.ways_until(secs(130)).1, [idle]);
    assert_eq!(bench.ways_until(secs(250)).1, [busy]);
    assert_eq!(bench.ways_until(secs(3_000)).1, []);
}
