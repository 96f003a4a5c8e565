//! Two nodes that have never spoken: how long the first event and the direct way take, as round trips.

use std::fs::{self, File};
use std::process::Stdio;
use std::thread;
use std::time::{Duration, Instant};

use crate::support::line::Quality;
use crate::support::mesh::Mesh;
use crate::support::net::{Behind, Host, Net};
use crate::support::node::Node;
use crate::support::wait_until;

/// What each of the two access lines holds a packet for. Long, so that the machine's own slowness is small
/// beside it.
const DELAY: Duration = Duration::from_millis(100);

/// A round trip between the two, straight or through a helper: over both lines and back. The helpers' own
/// lines take no time.
const ROUND_TRIP: Duration = DELAY.saturating_mul(4);

/// So many public nodes that with the two the mesh is no small one, in which everyone keeps a session with everyone.
const HELPERS: [&str; 7] = ["ams", "cdg", "fra", "hel", "lon", "mad", "waw"];

/// What may be added to the sums of round trips by starting `publish`, and by nine unoptimised nodes on two
/// processors.
const LATE: Duration = Duration::from_millis(400);

/// How long everything else may take.
const LIMIT: Duration = Duration::from_secs(60);

/// From when all know all, so that nothing is under way any more.
const CALM: Duration = Duration::from_secs(5);

const CHANNEL: &str = "first-words";
const WORD: &str = "the first word";

/// Waits until a node knows its NAT and all others' names.
fn wait_until_it_knows_all(node: &Node<'_>) {
    let known = |node: &Node<'_>| {
        let named = node.peers().iter().filter(|peer| peer["name"] != "").count();
        named == HELPERS.len() + 1 && node.status()["nat"]["class"] == "port-restricted"
    };
    wait_until("all know all", LIMIT, || known(node).then_some(()));
}

/// Whether a log says that the session with `peer` travels straight.
fn is_direct(log: &str, peer: &str) -> bool {
    let name = format!("name=\"{peer}\"");
    let path = |line: &&str| line.contains(": path peer=") && line.contains(&name);
    log.lines().rfind(path).is_some_and(|line| line.ends_with("via=[]"))
}

/// From now on until `is_so`, asked very often.
fn time_until(what: &str, start: Instant, is_so: impl Fn() -> bool) -> Duration {
    while !is_so() {
        assert!(start.elapsed() < LIMIT, "it never came true that {what}");
        thread::sleep(Duration::from_millis(1));
    }
    start.elapsed()
}

fn in_round_trips(time: Duration) -> f64 {
    time.as_secs_f64() / ROUND_TRIP.as_secs_f64()
}

#[test]
fn the_first_event_takes_two_round_trips_and_a_direct_way_three_more() {
    let mut net = Net::new();
    let helpers: Vec<Host> = HELPERS.iter().map(|name| net.host(name, Behind::Nothing)).collect();
    let hosts = [("left", 1), ("right", 2)].map(|(name, seed)| {
        net.host_over(name, Behind::PortRestricted, Quality { delay: DELAY, loss: 0.0, seed })
    });
    let mesh = Mesh::around(helpers, hosts.into());
    let [left, right] = ["left", "right"].map(|name| mesh.place(name));

    // The right one last, and only when the left one knows that the mesh is large.
    let mut nodes: Vec<Node<'_>> = (0..=left).map(|member| mesh.start(member)).collect();
    nodes.iter_mut().for_each(Node::wait_until_it_answers);
    wait_until("the left one knows all helpers", LIMIT, || {
        (nodes[left].peers().len() == HELPERS.len()).then_some(())
    });
    nodes.push(mesh.start(right));
    nodes[right].wait_until_it_answers();
    let heard = mesh.home(right).beside("heard");
    let out = File::create(&heard).unwrap();
    let mut listener = mesh.home(right).background(&["subscribe", CHANNEL], Stdio::null(), out.into());
    nodes[left..].iter().for_each(wait_until_it_knows_all);
    thread::sleep(CALM);
    assert!(listener.is_running());
    let speaks = |node: &Node<'_>, to: &str| node.process.log().contains(&format!("name=\"{to}\" route="));
    assert!(!speaks(&nodes[left], "right"), "they know each other:\n{}", nodes[left].process.log());

    let start = Instant::now();
    let (first, direct) = thread::scope(|scope| {
        let first = scope.spawn(|| {
            time_until("the event arrives", start, || fs::read_to_string(&heard).unwrap().contains(WORD))
        });
        let direct = scope.spawn(|| {
            time_until("both send straight", start, || {
                is_direct(&nodes[left].process.log(), "right")
                    && is_direct(&nodes[right].process.log(), "left")
            })
        });
        mesh.home(left).ok(&["publish", CHANNEL, WORD]);
        (first.join().unwrap(), direct.join().unwrap())
    });
    let after = direct.saturating_sub(first);
    println!(
        "round trip {ROUND_TRIP:?}: first event after {first:.0?} ({:.2} round trips), direct {after:.0?} later ({:.2})",
        in_round_trips(first),
        in_round_trips(after)
    );
    assert!(first <= ROUND_TRIP * 2 + LATE, "the first event took {first:?}");
    assert!(after <= ROUND_TRIP * 3 + LATE, "a direct way took {after:?} more");
    drop(listener);
    nodes.into_iter().for_each(Node::stop);
}
