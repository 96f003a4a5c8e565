//! What happens to a session under traffic when a way dies.

use alloc::vec;
use core::time::Duration;

use super::pair::{IDS, Line, Pair, Talk, circuit, direct, millis};
use crate::liveness::Health;
use crate::route::CircuitId;

const SECOND: Duration = Duration::from_secs(1);

const TALK: Talk = Talk { side: 0, every: millis(2), bytes: 130 };

/// A session over a direct way of 40 ms, under traffic, with a circuit of 80 ms beside it.
fn busy(talk: Talk) -> Pair {
    let mut pair = Pair::over(vec![direct(7), circuit(1)]);
    pair.talk(talk);
    pair.run(millis(200));
    pair.with(0, |end, now, out| end.offer(now, IDS[1], CircuitId(1), false, out));
    pair.run(2 * SECOND);
    assert_eq!(pair.current(), direct(7).names.map(Some));
    assert_eq!(pair.told, direct(7).names.map(|name| (name, None)));
    pair
}

fn fault(pair: &mut Pair, change: impl Fn(&mut Line)) {
    change(&mut pair.lines[0]);
}

#[test]
fn a_hole_in_the_direct_way_is_bridged_by_the_circuit_and_healed_when_it_closes() {
    for (holes, bytes) in
        [([false, false], 130), ([true, false], 130), ([false, true], 130), ([true, true], 1000)]
    {
        for phase in 0..20 {
            let mut pair = busy(Talk { bytes, ..TALK });
            pair.run(millis(7 * phase));
            let at = pair.now;
            fault(&mut pair, |line| (line.carries, line.large) = (holes, holes != [true, true]));
            pair.run(12 * SECOND);
            let gap = pair.gap(at);
            assert!(gap <= millis(200), "{holes:?} {phase}: {gap:?}");
            assert!(pair.turned(0, Health::Suspect, at) <= Some(millis(300)));
            let failed = pair.turned(0, Health::Failed, at);
            if holes != [true, true] {
                assert!((2 * SECOND..10 * SECOND).contains(&failed.unwrap()), "{failed:?}");
            }
            assert_eq!(pair.current(), circuit(1).names.map(Some), "{holes:?}");
            assert_eq!(pair.told, circuit(1).names.map(|name| (name, None)), "no copies any more");
            let at = pair.now;
            fault(&mut pair, |line| (line.carries, line.large) = ([true; 2], true));
            pair.run(10 * SECOND);
            assert_eq!(pair.current(), direct(7).names.map(Some), "direct again");
            assert!(pair.gap(at) <= millis(60), "{:?}", pair.gap(at));
            pair.hush();
            pair.run(SECOND);
            assert_eq!(pair.missing(), 0);
        }
    }
}

#[test]
fn a_burst_of_loss_costs_copies_and_no_change_of_way() {
    let mut pair = busy(TALK);
    for _ in 0..5 {
        let at = pair.now;
        fault(&mut pair, |line| line.carries = [false; 2]);
        pair.run(millis(400));
        fault(&mut pair, |line| line.carries = [true; 2]);
        pair.run(2 * SECOND);
        assert!(pair.gap(at) <= millis(200), "{:?}", pair.gap(at));
        assert_eq!(pair.current(), direct(7).names.map(Some));
        pair.run(70 * SECOND);
        assert_eq!(pair.told, direct(7).names.map(|name| (name, None)));
    }
    for side in [0, 1] {
        assert_eq!(pair.turned(side, Health::Failed, crate::time::Time::ZERO), None);
    }
}

#[test]
fn a_lossy_direct_way_loses_against_a_clean_circuit_and_wins_when_it_is_clean_again() {
    let mut pair = busy(TALK);
    fault(&mut pair, |line| line.loss = 0.25);
    pair.run(20 * SECOND);
    assert_eq!(pair.current(), circuit(1).names.map(Some));
    fault(&mut pair, |line| line.loss = 0.0);
    pair.run(30 * SECOND);
    assert_eq!(pair.current(), direct(7).names.map(Some));
}

#[test]
fn a_way_that_loses_little_is_kept() {
    let mut pair = busy(TALK);
    fault(&mut pair, |line| line.loss = 0.03);
    pair.run(60 * SECOND);
    assert_eq!(pair.current(), direct(7).names.map(Some));
    for side in [0, 1] {
        assert_eq!(pair.turned(side, Health::Failed, crate::time::Time::ZERO), None);
    }
}

#[test]
fn without_another_way_everything_goes_on_as_soon_as_the_only_one_heals() {
    let mut pair = Pair::over(vec![direct(7)]);
    pair.talk(TALK);
    pair.run(SECOND);
    for outage in [2, 10, 60] {
        fault(&mut pair, |line| line.carries = [false; 2]);
        pair.run(outage * SECOND);
        assert_eq!(pair.current(), direct(7).names.map(Some));
        let at = pair.now;
        fault(&mut pair, |line| line.carries = [true; 2]);
        pair.run(10 * SECOND);
        let next = pair.delivered.iter().find(|d| **d >= at).unwrap();
        assert!(*next - at < SECOND, "after {outage} s: {:?}", *next - at);
    }
}

#[test]
fn an_idle_session_costs_little_and_a_silent_one_is_given_up() {
    let mut pair = Pair::over(vec![direct(7)]);
    pair.run(10 * SECOND);
    let before = [pair.frames(0), pair.frames(1)];
    pair.run(600 * SECOND);
    let frames = pair.frames(0) + pair.frames(1) - before[0] - before[1];
    // 60 bytes and 28 of headers, over ten minutes, for both directions together.
    assert!(frames * 88 / 600 < 20, "{frames} frames");
    fault(&mut pair, |line| line.carries = [false; 2]);
    pair.run(200 * SECOND);
    for side in [0, 1] {
        let dead = pair.events[side].iter().filter(|(_, e)| matches!(e, super::Event::Dead { .. })).count();
        assert_eq!(dead, 1);
    }
}

/// As where the default route moves: the way has the same name, and leads another way.
#[test]
fn what_a_way_lost_in_another_network_is_not_held_against_it() {
    let mut pair = busy(TALK);
    fault(&mut pair, |line| line.loss = 0.25);
    pair.run(20 * SECOND);
    assert_eq!(pair.current(), circuit(1).names.map(Some));
    // Without the news it is benched for minutes, by relapses.
    fault(&mut pair, |line| line.loss = 0.0);
    for side in [0, 1] {
        pair.with(side, |end, now, out| end.network_changed(now, out));
    }
    pair.run(2 * SECOND);
    assert_eq!(pair.current(), direct(7).names.map(Some));
}
