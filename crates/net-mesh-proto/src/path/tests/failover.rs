//! What happens to a session under traffic when a way dies.

use alloc::format;
use alloc::vec;
use alloc::vec::Vec;
use core::time::Duration;
use std::println;

use super::pair::{IDS, Line, Pair, Talk, circuit, direct, millis};
use crate::liveness::Health;
use crate::route::CircuitId;
use crate::time::Time;

const SECOND: Duration = Duration::from_secs(1);

const TALK: Talk = Talk { side: 0, every: millis(2), bytes: 130 };

/// A session over a direct way of 40 ms, under traffic, with a circuit of 80 ms beside it.
fn busy(talks: &[Talk]) -> Pair {
    let mut pair = Pair::over(vec![direct(7), circuit(1)]);
    talks.iter().for_each(|talk| pair.talk(*talk));
    pair.run(millis(200));
    pair.with(0, |end, now, out| end.offer(now, IDS[1], CircuitId(1), false, out));
    pair.run(2 * SECOND);
    assert_eq!(pair.current(), direct(7).names.map(Some));
    assert_eq!(pair.told, direct(7).names.map(|name| (name, None)));
    pair
}

fn fault(pair: &mut Pair, change: impl FnOnce(&mut Line)) {
    change(&mut pair.lines[0]);
}

/// What becomes of the direct way, who talks, and how long the pause may be at most, in the middle and the worst of twenty.
struct Hole {
    name: &'static str,
    talks: &'static [Talk],
    carries: [bool; 2],
    large: [bool; 2],
    /// Who leaves the direct way: of whose packets some are lost.
    leaves: [bool; 2],
    gap: [u64; 2],
}

const HOLE: Hole = Hole {
    name: "both ways",
    talks: &[TALK],
    carries: [false; 2],
    large: [true; 2],
    leaves: [true; 2],
    gap: [100, 110],
};

const LARGE: Talk = Talk { bytes: 1000, ..TALK };

const HOLES: [Hole; 7] = [
    HOLE,
    Hole { name: "to the subscriber", carries: [false, true], gap: [130, 170], ..HOLE },
    Hole { name: "to the publisher", carries: [true, false], gap: [30, 60], ..HOLE },
    Hole {
        name: "large, both ways",
        talks: &[LARGE],
        carries: [true; 2],
        large: [false; 2],
        gap: [130, 140],
        ..HOLE
    },
    Hole {
        name: "to one of two",
        talks: &[TALK, Talk { side: 1, ..TALK }],
        carries: [false, true],
        gap: [140, 150],
        ..HOLE
    },
    Hole {
        name: "large, to one of two",
        talks: &[LARGE, Talk { side: 1, ..LARGE }],
        carries: [true; 2],
        large: [false, true],
        leaves: [true, false],
        gap: [210, 230],
    },
    // Most of what goes that way is acknowledgements, and arrives.
    Hole {
        name: "few large, to one of two",
        talks: &[Talk { every: millis(10), ..LARGE }, Talk { side: 1, ..TALK }],
        carries: [true; 2],
        large: [false, true],
        leaves: [true, false],
        gap: [430, 450],
    },
];

#[test]
fn a_hole_in_the_direct_way_is_bridged_by_the_circuit_and_healed_when_it_closes() {
    for hole in HOLES {
        let (mut gaps, mut suspects) = (vec![], vec![]);
        for phase in 0..20 {
            let mut pair = busy(hole.talks);
            // By now it is known to lose nothing.
            pair.run(3 * SECOND + millis(7 * phase));
            let at = pair.now;
            fault(&mut pair, |line| (line.carries, line.large) = (hole.carries, hole.large));
            pair.run(12 * SECOND);
            gaps.push(pair.gap(0, at));
            suspects.push(pair.turned(0, Health::Suspect, at).unwrap_or(Duration::MAX));
            let failed = pair.turned(0, Health::Failed, at);
            if hole.carries != [true; 2] {
                assert!((2 * SECOND..10 * SECOND).contains(&failed.unwrap()), "{}: {failed:?}", hole.name);
            }
            for side in [0, 1] {
                let way = if hole.leaves[side] { circuit(1) } else { direct(7) }.names[side];
                assert_eq!(pair.current()[side], Some(way), "{}", hole.name);
                assert_eq!(pair.told[side], (way, None), "no copies any more");
            }
            let at = pair.now;
            fault(&mut pair, |line| (line.carries, line.large) = ([true; 2], [true; 2]));
            pair.run(10 * SECOND);
            assert_eq!(pair.current(), direct(7).names.map(Some), "direct again");
            assert!(pair.gap(0, at) <= millis(60), "{}: {:?}", hole.name, pair.gap(0, at));
            pair.hush();
            pair.run(SECOND);
            assert_eq!(pair.missing(), 0);
        }
        let [gap, suspect] = [gaps, suspects].map(spread);
        println!(
            "{:>20}: gap {} / {}; suspect {} / {} ms",
            hole.name, gap[0], gap[1], suspect[0], suspect[1]
        );
        assert!(gap[0] <= hole.gap[0] && gap[1] <= hole.gap[1], "{}: {gap:?}", hole.name);
        assert!(suspect[1] <= hole.gap[1].max(300), "{}: {suspect:?}", hole.name);
    }
}

/// The middle and the worst, in milliseconds.
fn spread(mut times: Vec<Duration>) -> [u64; 2] {
    times.sort_unstable();
    [times[times.len() / 2], times[times.len() - 1]].map(|time| time.as_millis() as u64)
}

/// Under traffic, for ten minutes: the share of time under suspicion, in parts of ten thousand.
fn doubted(name: &str, talks: &[Talk], mut weather: impl FnMut(&mut Line, Time)) -> u128 {
    let mut pair = busy(talks);
    let since = pair.now;
    for _ in 0..600 {
        let now = pair.now;
        fault(&mut pair, |line| weather(line, now));
        pair.run(SECOND);
    }
    let of = |side: usize| pair.suspected(side, direct(7).names[side], since);
    let [(here, times), (there, as_often)] = [of(0), of(1)];
    let share = (here + there).as_millis() * 10_000 / (2 * (pair.now - since).as_millis());
    println!("{name:>32}: {share:>5} / 10000 of the time, {times} and {as_often} times");
    share
}

/// What is under suspicion for less than this much of the time: as above, and of a link that loses so much, packets of which
/// overtake each other by so much.
const WEATHERS: [(f64, u64, u128); 4] = [(0.0, 15, 0), (0.01, 5, 20), (0.05, 5, 300), (0.2, 5, 1000)];

#[test]
fn what_is_not_a_hole_is_seldom_taken_for_one() {
    let both: &[Talk] = &[TALK, Talk { side: 1, ..TALK }];
    let slow: &[Talk] = &[Talk { every: millis(20), ..TALK }];
    for (name, talks) in [("500/s", &[TALK][..]), ("500/s each way", both), ("50/s", slow)] {
        for (loss, jitter, most) in WEATHERS {
            let name = format!("{name}, {loss} lost");
            let share = doubted(&name, talks, |line, _| (line.loss, line.jitter) = (loss, millis(jitter)));
            assert!(share <= most, "{name}: {share} / 10000");
        }
        // Who is held up every second is soon known for it.
        for stall in [20, 40, 60] {
            let name = format!("{name}, stalls of {stall} ms");
            let share = doubted(&name, talks, |line, now| line.stalled = now + millis(stall));
            assert!(share <= 20, "{name}: {share} / 10000");
        }
    }
}

#[test]
fn a_burst_of_loss_costs_copies_and_no_change_of_way() {
    let mut pair = busy(&[TALK]);
    for _ in 0..5 {
        let at = pair.now;
        fault(&mut pair, |line| line.carries = [false; 2]);
        pair.run(millis(400));
        fault(&mut pair, |line| line.carries = [true; 2]);
        pair.run(2 * SECOND);
        assert!(pair.gap(0, at) <= millis(200), "{:?}", pair.gap(0, at));
        assert_eq!(pair.current(), direct(7).names.map(Some));
        pair.run(70 * SECOND);
        assert_eq!(pair.told, direct(7).names.map(|name| (name, None)));
    }
    for side in [0, 1] {
        assert_eq!(pair.turned(side, Health::Failed, Time::ZERO), None);
    }
}

#[test]
fn a_lossy_direct_way_loses_against_a_clean_circuit_and_wins_when_it_is_clean_again() {
    let mut pair = busy(&[TALK]);
    fault(&mut pair, |line| line.loss = 0.25);
    pair.run(20 * SECOND);
    assert_eq!(pair.current(), circuit(1).names.map(Some));
    fault(&mut pair, |line| line.loss = 0.0);
    pair.run(30 * SECOND);
    assert_eq!(pair.current(), direct(7).names.map(Some));
}

#[test]
fn a_way_that_loses_little_is_kept() {
    let mut pair = busy(&[TALK]);
    fault(&mut pair, |line| line.loss = 0.03);
    pair.run(60 * SECOND);
    assert_eq!(pair.current(), direct(7).names.map(Some));
    for side in [0, 1] {
        assert_eq!(pair.turned(side, Health::Failed, Time::ZERO), None);
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
        let next = pair.next_delivery(0, at).unwrap();
        assert!(next - at < SECOND, "after {outage} s: {:?}", next - at);
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
    let mut pair = busy(&[TALK]);
    fault(&mut pair, |line| line.loss = 0.25);
    pair.run(20 * SECOND);
    assert_eq!(pair.current(), circuit(1).names.map(Some));
    // Without the news it is benched for minutes, by relapses.
    fault(&mut pair, |line| line.loss = 0.0);
    for side in [0, 1] {
        pair.with(side, |end, now, out| end.network_changed(now, out));
    }
    // A way that was suspect has to be well for a while.
    pair.run(4 * SECOND);
    assert_eq!(pair.current(), direct(7).names.map(Some));
}
