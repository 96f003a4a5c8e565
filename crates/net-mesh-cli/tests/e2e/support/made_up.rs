//! Meshes that nobody runs, as the dashboard would be told of them: as large as one likes, and always the same.

use serde_json::{Value, json};

const CLASSES: [&str; 6] =
    ["port-restricted", "full-cone", "symmetric", "direct", "restricted-cone", "unknown"];

/// How many of the first members are relays in public, which all others have links to.
const HUBS: usize = 8;

/// The id of the member with a number; zero is the node that answers.
pub(crate) fn id(n: usize) -> String {
    format!("{}{}", digits(n), &"abcdefghijklmnopqrstuvwxyz".repeat(2)[..46])
}

/// Ids have no digits above seven.
fn digits(n: usize) -> String {
    format!("{n:06}").chars().map(|c| char::from(b'a' + u8::try_from(c).unwrap() - b'0')).collect()
}

pub(crate) fn name(n: usize) -> String {
    match n {
        0 => "here".to_owned(),
        n if n <= HUBS => format!("hub-{n}"),
        n => format!("site-{:02}-{n}", n % 23),
    }
}

/// A fixed shuffle of numbers: what is drawn must not depend on chance.
const fn mixed(n: usize, salt: usize) -> usize {
    (n.wrapping_mul(2_654_435_761).wrapping_add(salt.wrapping_mul(40_503)) >> 7) % 10_007
}

fn class(n: usize) -> &'static str {
    if n <= HUBS { "direct" } else { CLASSES[mixed(n, 1) % CLASSES.len()] }
}

fn rtt(n: usize) -> f64 {
    f64::from(u32::try_from(2 + mixed(n, 2) % 180).unwrap()) + 0.25
}

/// A snapshot of a mesh of `members`, `seconds` after the first one.
pub(crate) fn snapshot(members: usize, seconds: usize) -> Value {
    let others = 1..members;
    let bytes = |n: usize| 40_000 + mixed(n, 3) * 91 + seconds * (mixed(n, 4) % 900);
    let peers: Vec<Value> = others.clone().map(|n| peer(n, bytes(n))).collect();
    let member = |n: usize| {
        let link = |to: usize| json!({ "node_id": id(to), "rtt_ms": rtt(n + to).floor() });
        let links: Vec<Value> = linked(n, members).into_iter().map(link).collect();
        let age = if n == 0 { Value::Null } else { json!(mixed(n, 5) * 50) };
        json!({ "node_id": id(n), "name": name(n), "nat": class(n), "relays": n <= HUBS, "age_ms": age, "links": links })
    };
    json!({
        "status": {
            "node_id": id(0), "name": name(0), "version": "0.0.0", "mesh_id": id(999_999), "listen": ["0.0.0.0:4433"],
            "reflexive": ["203.0.113.7:4433"], "udp": "works", "problem": null, "peers": members - 1, "drops": {},
            "nat": { "class": "direct", "mapping": "none", "filtering": "endpoint-independent",
                "port_rule": "preserving", "confidence": 1.0, "age_ms": 5000, "missing": null },
            "port_mapping": { "state": "proven", "protocol": "PCP", "external": "203.0.113.7:40001" }, "relay": { "circuits": 12, "packets": 1000, "bytes": 900_000, "limited": 0 },
        },
        "peers": peers,
        "mesh": (0..members).map(member).collect::<Vec<_>>(),
        "rendezvous": (0..12.min(members - 1)).map(attempt).collect::<Vec<_>>(),
        "sample": sample(seconds),
    })
}

fn peer(n: usize, bytes: usize) -> Value {
    let (kind, via) = match mixed(n, 6) % 10 {
        _ if n <= HUBS => ("direct", vec![]),
        0..=4 => ("direct", vec![]),
        5..=7 => ("relayed", vec![1 + n % HUBS]),
        _ => ("none", vec![]),
    };
    let health = match mixed(n, 7) % 60 {
        0 => "suspect",
        1 | 2 => "failed",
        _ => "healthy",
    };
    let addr = (kind == "direct").then(|| format!("198.51.{}.{}:{}", n / 250, n % 250, 40_000 + n));
    let reached = kind != "none";
    json!({
        "node_id": id(n), "name": name(n), "nat": class(n), "health": health, "issues": [],
        "path": { "kind": kind, "addr": addr, "via": via.iter().map(|n| name(*n)).collect::<Vec<_>>(),
            "via_ids": via.iter().map(|n| id(*n)).collect::<Vec<_>>() },
        "rtt_ms": reached.then(|| rtt(n)), "loss": reached.then_some(0.0),
        "tx_bytes": if reached { bytes } else { 0 }, "rx_bytes": if reached { bytes * 2 } else { 0 },
    })
}

/// Whom a member has direct links with: three hubs, and one other.
fn linked(n: usize, members: usize) -> Vec<usize> {
    let hubs = [1 + n % HUBS, 1 + (n / HUBS) % HUBS, 1 + mixed(n, 8) % HUBS];
    let mut all: Vec<usize> = hubs.into_iter().chain([mixed(n, 9) % members]).collect();
    all.retain(|other| *other != n && *other < members);
    all.sort_unstable();
    all.dedup();
    all
}

fn attempt(n: usize) -> Value {
    let found = !n.is_multiple_of(3);
    let peer = n + 1;
    json!({
        "peer": id(peer), "name": name(peer), "id": format!("{n:032x}"), "at_ms_ago": n * 17_000 + 400,
        "took_ms": if n == 0 { Value::Null } else { json!(80 + n * 31) }, "plan": "both sides punch",
        "mediator": name(1), "role": "seeker", "outcome": if found { "found" } else { "timed out" }, "packets": 6,
        "reason": if found { "A check to 198.51.100.4:40101 was answered after 31 ms." } else {
            "None of the 6 checks sent was answered, and none of the other side's arrived." },
    })
}

fn sample(second: usize) -> Value {
    let wave = |salt: usize, scale: usize| (mixed(second / 9, salt) % 40 + 20) * scale;
    json!({
        "at_ms": second * 1000, "tx": wave(1, 4000), "rx": wave(2, 7000), "rtt_ms": wave(3, 1), "rtt_max_ms": wave(4, 3),
        "direct": 250, "relayed": 150, "none": 99, "suspect": 8, "failed": 16,
    })
}

/// The samples of ten minutes.
pub(crate) fn history(last: usize) -> Value {
    (last.saturating_sub(599)..=last).map(sample).collect()
}
