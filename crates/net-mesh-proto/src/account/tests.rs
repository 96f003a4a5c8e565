use alloc::format;
use alloc::string::String;
use alloc::vec;

use super::*;

const PEER: NodeId = NodeId([1; 32]);

fn at(ms: u64) -> Time {
    Time::from_millis(ms)
}

fn addr() -> SocketAddr {
    "203.0.113.7:4433".parse().unwrap()
}

#[test]
fn a_path_lasts_since_it_last_changed() {
    let mut stories = Stories::default();
    assert_eq!(stories.since(&PEER), None);
    stories.travels(at(1), PEER, Line::None);
    assert_eq!(stories.since(&PEER), None, "there was never one");
    stories.travels(at(5), PEER, Line::Direct(addr()));
    stories.travels(at(9), PEER, Line::Direct(addr()));
    assert_eq!(stories.since(&PEER), Some(at(5)), "the same path again is no change");
    stories.travels(at(12), PEER, Line::Relayed(vec![NodeId([2; 32])]));
    stories.travels(at(13), PEER, Line::Relayed(vec![NodeId([3; 32])]));
    stories.travels(at(20), PEER, Line::None);
    assert_eq!(stories.since(&PEER), Some(at(20)));
    assert_eq!(stories.told(at(30), &PEER).len(), 4);
    stories.forget(&PEER);
    assert_eq!(stories.told(at(30), &PEER), []);
}

#[test]
fn a_flapping_way_pushes_out_old_notes_and_not_since_when_the_path_is_used() {
    let mut stories = Stories::default();
    stories.travels(at(1), PEER, Line::Direct(addr()));
    for n in 0..100 {
        let health = if n % 2 == 0 { Health::Suspect } else { Health::Healthy };
        stories.health(at(10 + n), PEER, Route::Direct(addr()), health, Cause::Latency);
    }
    let told = stories.told(at(200), &PEER);
    assert_eq!(told.len(), NOTES);
    assert_eq!(told.last().map(|(ago, _)| *ago), Some(Duration::from_millis(91)));
    assert_eq!(stories.since(&PEER), Some(at(1)));
}

#[test]
fn a_peer_that_asks_again_and_again_is_answered_now_and_then() {
    let mut stories = Stories::default();
    let asked = |stories: &mut Stories, from: u64, to: u64| {
        (from..to).filter(|ms| stories.may_answer(at(*ms), PEER)).count()
    };
    assert_eq!(asked(&mut stories, 1_000, 2_000), usize::from(ANSWERS));
    assert_eq!(asked(&mut stories, 2_000, 22_000), 10);
    assert!(stories.may_answer(at(22_000), NodeId([9; 32])), "another one has an allowance of its own");
    assert_eq!(
        asked(&mut stories, 1_000_000, 1_001_000),
        usize::from(ANSWERS),
        "and after a pause all of it"
    );
}

fn account(attempts: Vec<Try>, changes: Vec<(u64, Change)>) -> Account {
    Account {
        line: Line::None,
        since: None,
        reason: String::new(),
        rests_for: None,
        attempts,
        changes: changes.into_iter().map(|(ms, change)| (Duration::from_millis(ms), change)).collect(),
    }
}

fn attempt(id: u128, seeker: bool, ago: u64, took: Option<u64>) -> Try {
    let ms = Duration::from_millis;
    Try {
        id,
        seeker,
        mediator: None,
        plan: Plan::Dial,
        ago: ms(ago),
        took: took.map(ms),
        sent: 0,
        heard: 0,
        outcome: None,
    }
}

fn words(entries: &[Entry]) -> Vec<String> {
    let word = |entry: &Entry| {
        let what = match &entry.happened {
            Happened::Began(a) => format!("began {}", a.id),
            Happened::Ended(a) => format!("ended {}", a.id),
            Happened::Changed(Change::Path(_)) => "path".into(),
            Happened::Changed(Change::Health { .. }) => "health".into(),
        };
        format!("{} {:?} {what}", entry.ago.as_millis(), entry.whose)
    };
    entries.iter().map(word).collect()
}

#[test]
fn two_accounts_are_laid_on_each_other_where_an_attempt_began() {
    let path = || Change::Path(Line::Direct(addr()));
    let own = account(
        vec![attempt(1, true, 9_000, Some(3_000)), attempt(2, false, 5_000, Some(400))],
        vec![(4_000, path())],
    );
    // This side's clock is two and a half seconds behind, or its answer took as long.
    let theirs = account(
        vec![attempt(1, false, 6_500, Some(3_100)), attempt(2, true, 2_500, Some(300))],
        vec![(1_600, path()), (8_500, path())],
    );
    assert_eq!(
        words(&timeline(&own, Some(&theirs))),
        [
            "11000 Theirs path",
            "9000 Own began 1",
            "9000 Theirs began 1",
            "6000 Own ended 1",
            "5900 Theirs ended 1",
            "5000 Theirs began 2",
            "5000 Own began 2",
            "4700 Theirs ended 2",
            "4600 Own ended 2",
            "4100 Theirs path",
            "4000 Own path",
        ]
    );
}

#[test]
fn one_half_alone_is_a_timeline_too_and_so_are_two_without_a_common_attempt() {
    let path = || Change::Path(Line::None);
    let own = account(vec![attempt(1, true, 900, None)], vec![(500, path())]);
    assert_eq!(words(&timeline(&own, None)), ["900 Own began 1", "500 Own path"]);
    let theirs = account(vec![attempt(7, true, 700, None)], vec![(u64::MAX, path())]);
    let words = words(&timeline(&own, Some(&theirs)));
    assert_eq!(words[1..], ["900 Own began 1", "700 Theirs began 7", "500 Own path"]);
}
