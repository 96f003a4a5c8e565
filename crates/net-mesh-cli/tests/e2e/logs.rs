//! What a node says while it works, and what it never says.

use std::fs;
use std::thread;

use data_encoding::{BASE32_NOPAD, HEXLOWER};
use serde_json::Value;

use crate::support::node::{Home, Node, net_mesh};
use crate::support::pair::{MEET_LIMIT, Pair, Subscriber, publish};
use crate::support::wait_until;

/// Starts both nodes with these options, and waits until each sees the other.
fn up<'a>(pair: &'a Pair, options: &[&str]) -> [Node<'a>; 2] {
    let nodes = [0, 1].map(|n| {
        let listen = pair.addrs[n].to_string();
        pair.homes[n].up(&[&["--listen", &listen], options].concat())
    });
    nodes[0].wait_for_direct_peers(&["two"], MEET_LIMIT);
    nodes[1].wait_for_direct_peers(&["one"], MEET_LIMIT);
    nodes
}

fn log(home: &Home) -> String {
    fs::read_to_string(home.beside("log")).unwrap()
}

#[test]
fn every_line_is_an_object_and_an_event_has_its_fields() {
    let pair = Pair::new();
    let nodes = up(&pair, &["--log-format", "json", "--log", "debug"]);
    let ids = [0, 1].map(|n| nodes[n].status()["node_id"].as_str().unwrap().to_owned());
    for home in &pair.homes {
        wait_until("a verdict", MEET_LIMIT, || log(home).contains("NAT not classified").then_some(()));
    }
    nodes.into_iter().for_each(Node::stop);
    for (n, home) in pair.homes.iter().enumerate() {
        let text = log(home);
        let parse = |line| serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}"));
        let lines: Vec<Value> = text.lines().map(parse).collect();
        for line in &lines {
            for field in ["timestamp", "level", "target", "message"] {
                assert!(line[field].as_str().is_some_and(|text| !text.is_empty()), "no {field}: {line}");
            }
        }
        let of = |message: &str| {
            lines
                .iter()
                .find(|line| line["message"] == message)
                .unwrap_or_else(|| panic!("no {message}: {text}"))
        };
        let up = of("session up");
        let peer = &ids[1 - n];
        assert!(peer.starts_with(up["peer"].as_str().unwrap()) && !up["peer"].as_str().unwrap().is_empty());
        assert_eq!((up["level"].as_str(), up["target"].as_str()), (Some("INFO"), Some("net_mesh::driver")));
        assert_eq!(up["route"], pair.addrs[1 - n].to_string(), "{up}");
        // A session may be up before the peer's record, with its name, has come.
        assert!(["", ["two", "one"][n]].contains(&up["name"].as_str().unwrap()), "{up}");
        assert_eq!((&of("path")["peer"], &of("path")["route"]), (&up["peer"], &up["route"]));
        assert!(of("NAT not classified")["missing"].is_string());
        assert_eq!(of("stopping")["level"], "INFO");
    }
}

/// In the simulated internet that the program carries, whose nodes write to one log.
#[test]
fn a_rendezvous_is_one_line_of_each_side_and_one_of_the_mediator() {
    let mut command = net_mesh("/nonexistent".as_ref());
    let out = command.args(["lab", "--log-format", "json"]).env("RUST_LOG", "info").output().unwrap();
    let text = String::from_utf8(out.stderr).unwrap();
    // The lab's own words stand between them.
    let said = text.lines().filter(|line| line.starts_with('{'));
    let lines: Vec<Value> = said.map(|line| serde_json::from_str(line).unwrap()).collect();
    let of = |message: &str| lines.iter().filter(|line| line["message"] == message).collect::<Vec<_>>();
    let found: Vec<_> = of("rendezvous").into_iter().filter(|line| line["outcome"] == "found").collect();
    assert!(found.len() >= 4, "{text}");
    for line in &found {
        for field in ["attempt", "node", "peer", "name", "mediator", "role", "plan", "reason"] {
            assert!(line[field].as_str().is_some_and(|text| !text.is_empty()), "no {field}: {line}");
        }
        for field in ["packets", "heard", "took_ms"] {
            assert!(line[field].is_u64(), "no {field}: {line}");
        }
        let same = |other: &&&Value| other["attempt"] == line["attempt"];
        let sides: Vec<_> = of("rendezvous").into_iter().filter(|other| same(&other)).collect();
        assert_eq!(sides.len(), 2, "{line} {sides:?}");
        assert_eq!((&sides[0]["node"], &sides[0]["peer"]), (&sides[1]["peer"], &sides[1]["node"]));
        if line["mediator"] != "their session" {
            let introduced = of("introduced");
            let introduced = introduced.iter().find(same).unwrap_or_else(|| panic!("{line}"));
            assert_eq!(introduced["plan"], line["plan"]);
        }
    }
}

/// Every secret of a home, in each form in which it could come to the log.
fn secrets(home: &Home) -> Vec<String> {
    let mut secrets = Vec::new();
    for entry in fs::read_dir(home.path()).unwrap() {
        let path = entry.unwrap().path();
        let Ok(text) = fs::read_to_string(&path) else { continue };
        let Some(key) = BASE32_NOPAD.decode(text.trim().to_ascii_uppercase().as_bytes()).ok() else {
            continue;
        };
        if key.len() != 32 {
            continue;
        }
        secrets.push(text.trim().to_owned());
        secrets.push(HEXLOWER.encode(&key));
        // The middle of what `{:?}` makes of it.
        let numbers: Vec<String> = key[8..16].iter().map(ToString::to_string).collect();
        secrets.push(numbers.join(", "));
    }
    assert!(secrets.len() >= 6, "a home has the mesh's secret and the node's key");
    secrets
}

#[test]
fn no_secret_is_said_however_much_is_asked_for() {
    let pair = Pair::new();
    let nodes = up(&pair, &["--log", "trace"]);
    pair.homes[0].ok(&["ping", "two"]);
    let ticket = pair.homes[0].invite(&pair.addrs[..1]);
    nodes.into_iter().for_each(Node::stop);
    for home in &pair.homes {
        let text = log(home).to_lowercase();
        assert!(text.contains("trace"), "the log says everything");
        assert!(!text.contains(&ticket[..40].to_lowercase()), "a ticket");
        for secret in secrets(home) {
            assert!(!text.contains(&secret.to_lowercase()), "the log has {secret}");
        }
    }
}

#[test]
fn nothing_is_said_per_packet() {
    let pair = Pair::new();
    let nodes = up(&pair, &["--log", "debug"]);
    let mut subscriber = Subscriber::ready(&pair.homes[1], &pair.homes[0], "load");
    let lines = || pair.homes.iter().map(|home| log(home).lines().count()).sum::<usize>();
    let before = lines();
    let count = 20_000;
    let line = |n: usize| format!("{n:08}{}", "x".repeat(1_000));
    thread::scope(|scope| {
        publish(scope, &pair.homes[0], "load", (0..count).map(line));
        (0..count).for_each(|n| subscriber.expect(&line(n)));
    });
    let said = lines() - before;
    assert!(said < 100, "{said} lines for {count} events of more than ten thousand packets");
    drop(subscriber);
    nodes.into_iter().for_each(Node::stop);
}
