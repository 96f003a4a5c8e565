//! What an operator sees of relayed, direct, suspect and failed peers, and how it comes to be otherwise.

use std::process::Stdio;
use std::thread;
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::support::faults::{Hole, dig, fill};
use crate::support::line::Quality;
use crate::support::mesh::Mesh;
use crate::support::net::{Behind, Host, Net};
use crate::support::node::{Home, Node};
use crate::support::wait_until;

/// One crossing of an access line: long enough that a first answer, over a relay, is there before a direct path is.
const CROSSING: Duration = Duration::from_millis(25);

/// How long things may take that are no promise of these tests: generous, since machines are busy.
const LIMIT: Duration = Duration::from_secs(60);

const FRA: usize = 0;
const LON: usize = 1;
const LEFT: usize = 2;
const RIGHT: usize = 3;

/// Two public members, and two behind NATs.
fn four(net: &mut Net, left: Behind, right: Behind) -> (Mesh, [Host; 2]) {
    let mut host =
        |name: &str, behind, seed| net.host_over(name, behind, Quality { delay: CROSSING, loss: 0.0, seed });
    let helpers = vec![host("fra", Behind::Nothing, 1), host("lon", Behind::Nothing, 2)];
    let hosts = [host("left", left, 3), host("right", right, 4)];
    (Mesh::around(helpers, hosts.clone().into()), hosts)
}

fn start(mesh: &Mesh, members: impl IntoIterator<Item = usize>) -> Vec<Node<'_>> {
    let mut nodes: Vec<Node<'_>> = members.into_iter().map(|member| mesh.start(member)).collect();
    nodes.iter_mut().for_each(Node::wait_until_it_answers);
    nodes
}

fn peer(home: &Home, name: &str) -> Value {
    let peers = home.json(&["peers", "--json"]);
    let peers = peers.as_array().unwrap().iter();
    peers.into_iter().find(|peer| peer["name"] == name).cloned().unwrap_or_default()
}

fn wait_for_kind(home: &Home, name: &str, kind: &str) {
    let what = format!("{name} is {kind}");
    wait_until(&what, LIMIT, || (peer(home, name)["path"]["kind"] == kind).then_some(()));
}

/// The ids of the attempts in `list` with this outcome.
fn ids(list: &Value, outcome: &str) -> Vec<String> {
    let attempts = list.as_array().unwrap().iter();
    let wanted = attempts.filter(|attempt| attempt["outcome"] == outcome);
    wanted.map(|attempt| attempt["id"].as_str().unwrap().to_owned()).collect()
}

#[test]
fn a_ping_shows_the_relayed_path_and_then_the_direct_one_that_it_led_to() {
    let mut net = Net::new();
    let (mesh, hosts) = four(&mut net, Behind::PortRestricted, Behind::PortRestricted);
    dig(Hole::BothWays, &hosts[0], &hosts[1]);
    let nodes = start(&mesh, 0..4);
    let left = mesh.home(LEFT);
    wait_for_kind(left, "right", "relayed");
    wait_until("the two have given up for now", LIMIT, || {
        [(LEFT, "right"), (RIGHT, "left")].into_iter().find_map(|(member, other)| {
            let why = mesh.home(member).json(&["why", other, "--own", "--json"]);
            why["next_attempt_ms"].as_u64().filter(|ms| *ms > 60_000)
        })
    });
    let relayed = peer(left, "right");
    fill(&hosts[0]);

    let begun = Instant::now();
    let out = left.ok(&["ping", "right", "--until-direct"]);
    println!("{out}");
    assert!(begun.elapsed() < Duration::from_secs(20), "it did not wait for the pair to have rested");
    let replies: Vec<&str> = out.lines().filter(|line| line.starts_with("from right (")).collect();
    let (first, last) = (replies.first().unwrap(), replies.last().unwrap());
    assert!(first.contains(": via fra in ") || first.contains(": via lon in "), "{out}");
    assert!(last.contains(&format!(": direct {}:", hosts[1].outside)) && last.contains(" in "), "{out}");

    let direct = peer(left, "right");
    let since = |peer: &Value| peer["since_ms"].as_u64().unwrap();
    assert!(since(&relayed) > since(&direct), "{relayed:#}\n{direct:#}");
    assert!(since(&direct) < 30_000, "{direct:#}");
    let table = left.ok(&["peers"]);
    println!("{table}");
    assert!(table.lines().nth(1).unwrap().starts_with("left "), "self comes first: {table}");
    assert!(!table.contains('\x1b'), "colours are for terminals: {table}");

    let text = left.ok(&["why", "right"]);
    println!("{text}");
    let why = left.json(&["why", "right", "--json"]);
    assert_eq!(why["other_side"]["state"], "told", "{why:#}");
    let (own, theirs) = (ids(&why["attempts"], "found"), ids(&why["other_side"]["attempts"], "found"));
    let shared =
        own.iter().find(|id| theirs.contains(id)).unwrap_or_else(|| panic!("no common attempt: {why:#}"));
    let lines = why["timeline"].as_array().unwrap();
    for side in ["this", "peer"] {
        let of_side = |line: &&Value| line["side"] == side;
        assert!(lines.iter().filter(of_side).any(|line| line["attempt"] == **shared), "{side}: {why:#}");
        let moved = |line: &Value| line["text"].as_str().unwrap().starts_with("sends directly to ");
        assert!(lines.iter().filter(of_side).any(moved), "{side}: {why:#}");
    }
    nodes.into_iter().for_each(Node::stop);
}

/// Until there are two helpers, nobody knows what is in front of it, and a direct path is tried.
#[test]
fn a_symmetric_pair_is_told_at_once_why_it_stays_relayed() {
    let mut net = Net::new();
    let (mesh, _) = four(&mut net, Behind::Symmetric, Behind::Symmetric);
    let mut nodes = start(&mesh, [FRA, LEFT, RIGHT]);
    let left = mesh.home(LEFT);
    wait_for_kind(left, "right", "relayed");
    wait_until("an attempt came to nothing", LIMIT, || {
        let why = left.json(&["why", "right", "--own", "--json"]);
        (!ids(&why["attempts"], "timed out").is_empty()).then_some(())
    });
    nodes.extend(start(&mesh, [LON]));
    wait_until("both know what they are behind", LIMIT, || {
        let why = left.json(&["why", "right", "--own", "--json"]);
        (why["hopeless"] == true).then_some(())
    });

    let begun = Instant::now();
    let done = left.run(&["ping", "right", "--until-direct", "--timeout", "20"]);
    assert!(begun.elapsed() < Duration::from_secs(15), "it waited for what cannot be");
    assert!(done.stdout.contains(": via fra in ") || done.stdout.contains(": via lon in "), "{done:?}");
    let line = done.failure("ping --until-direct");
    assert!(line.contains("no direct path: relayed via ") && line.contains("symmetric"), "{line}");

    let why = left.json(&["why", "right", "--json"]);
    let (own, theirs) =
        (ids(&why["attempts"], "timed out"), ids(&why["other_side"]["attempts"], "timed out"));
    assert!(own.iter().any(|id| theirs.contains(id)), "{why:#}");
    let text = left.ok(&["why", "right"]);
    println!("{text}");
    assert!(text.contains("right itself says: relayed via "), "{text}");
    nodes.into_iter().for_each(Node::stop);
}

#[test]
fn a_peer_that_dies_is_suspect_and_then_failed_in_the_table() {
    let mut net = Net::new();
    let (mesh, _) = four(&mut net, Behind::PortRestricted, Behind::Nothing);
    let mut nodes = start(&mesh, 0..4);
    let left = mesh.home(LEFT);
    nodes[LEFT].wait_for_direct_peers(&["fra", "lon", "right"], LIMIT);
    let _talk = left.background(&["ping", "lon", "-c", "60"], Stdio::null(), Stdio::null());
    thread::sleep(Duration::from_secs(2));
    assert_eq!(peer(left, "lon")["health"], "healthy");
    nodes[LON].process.signal("KILL");
    for health in ["suspect", "failed"] {
        let table = wait_until(health, LIMIT, || {
            let table = left.ok(&["peers"]);
            let row = table.lines().find(|line| line.starts_with("lon "))?;
            row.contains(health).then(|| table.clone())
        });
        println!("{table}");
        let others = table.lines().filter(|line| line.starts_with("fra ") || line.starts_with("right "));
        assert!(others.clone().count() == 2 && others.clone().all(|row| row.contains("healthy")), "{table}");
    }
    let why = left.json(&["why", "lon", "--json"]);
    let texts: Vec<&str> =
        why["timeline"].as_array().unwrap().iter().filter_map(|l| l["text"].as_str()).collect();
    for word in ["suspect", "failed"] {
        assert!(texts.iter().any(|text| text.contains(word)), "{word}: {texts:?}");
    }
    assert_eq!(why["other_side"]["state"], "unknown", "the dead tell nothing");
    drop(nodes.remove(LON));
    nodes.into_iter().for_each(Node::stop);
}
