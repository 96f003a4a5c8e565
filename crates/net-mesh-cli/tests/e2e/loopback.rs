//! Two real processes on loopback: everything arrives, complete and in order. Rates and peak memory are
//! printed, not judged: they depend on the machine and on how the program was built.

use std::thread;
use std::time::Instant;

use crate::support::alone;
use crate::support::pair::{Pair, Subscriber, publish};

const SMALL_EVENTS: usize = 1_000_000;

const LARGE_BYTES: usize = 64 * 1024;
const LARGE_EVENTS: usize = (1 << 30) / LARGE_BYTES;

fn stream(name: &str, count: usize, payload: impl Fn(usize) -> String + Copy + Send + Sync) {
    let _alone = alone();
    let pair = Pair::new();
    let nodes = pair.up();
    let mut subscriber = Subscriber::ready(&pair.homes[1], &pair.homes[0], "load");
    let start = Instant::now();
    let mut bytes = 0;
    thread::scope(|scope| {
        publish(scope, &pair.homes[0], "load", (0..count).map(payload));
        for n in 0..count {
            let expected = payload(n);
            bytes += expected.len();
            subscriber.expect(&expected);
        }
    });
    let seconds = start.elapsed().as_secs_f64();
    #[allow(clippy::cast_precision_loss, reason = "far below 2^52")]
    let (rate, mib_per_second) = (count as f64 / seconds, bytes as f64 / seconds / f64::from(1 << 20));
    let [sender, receiver] = [&nodes[0], &nodes[1]].map(|node| node.process.peak_kib() / 1024);
    println!(
        "{name}: {count} events, {bytes} bytes in {seconds:.1} s: {rate:.0} events/s, {mib_per_second:.1} MiB/s; \
         peak memory: publisher's node {sender} MiB, subscriber's node {receiver} MiB"
    );
    drop(subscriber);
    for node in nodes {
        node.stop();
    }
}

#[test]
fn a_million_small_events_arrive_complete_and_in_order() {
    stream("small events", SMALL_EVENTS, |n| format!("event {n}"));
}

#[test]
fn a_gibibyte_of_large_events_arrives_complete_and_in_order() {
    let filler = "x".repeat(LARGE_BYTES - 8);
    stream("large events", LARGE_EVENTS, |n| format!("{n:08}{filler}"));
}

#[test]
fn subscribe_ends_after_as_many_events_as_it_was_told() {
    let pair = Pair::new();
    let nodes = pair.up();
    let watcher = Subscriber::ready(&pair.homes[1], &pair.homes[0], "few");
    let three = ["subscribe", "few", "-n", "3"];
    let out = pair.homes[1].beside("three");
    let file = std::fs::File::create(&out).unwrap();
    let mut process = pair.homes[1].background(&three, std::process::Stdio::null(), file.into());
    let mut said = 0;
    while process.is_running() {
        assert!(said < 1_000, "three events never came:\n{}", process.log());
        pair.homes[0].ok(&["publish", "few", &format!("word {said}")]);
        said += 1;
    }
    assert_eq!(process.wait(std::time::Duration::ZERO).and_then(|status| status.code()), Some(0));
    let text = std::fs::read_to_string(&out).unwrap();
    let words: Vec<usize> =
        text.lines().map(|line| line.strip_prefix("word ").unwrap().parse().unwrap()).collect();
    assert_eq!(words, (words[0]..words[0] + 3).collect::<Vec<_>>(), "{text}");
    drop(watcher);
    for node in nodes {
        node.stop();
    }
}
