//! Promises of anonymity: nothing of whoever posts it stays, and what belongs together still does.

use super::*;
use crate::doctor::facts::{Facts, id, start};
use crate::json::doctor::{AbsentJson, DoctorJson, LookupJson};

fn masked(facts: &DoctorJson) -> (DoctorJson, String) {
    let mut facts = facts.clone();
    facts.conclude();
    let masked = anonymized(&facts).unwrap();
    let all = serde_json::to_string(&masked).unwrap() + &masked.text();
    (masked, all)
}

/// A report with something to hide in every field.
fn telling() -> DoctorJson {
    let mut facts = Facts::working();
    facts.listen = vec!["192.168.1.7:4433".parse().unwrap(), "[::]:4433".parse().unwrap()];
    facts.ipv4.inside = ["127.0.0.1", "192.168.1.7", "10.9.8.7", "100.70.1.1", "169.254.7.7", "172.20.0.9"]
        .map(|ip| ip.parse().unwrap())
        .to_vec();
    facts.ipv6.inside = ["2a02:1:2::7", "fd12:3456::7", "fe80::77"].map(|ip| ip.parse().unwrap()).to_vec();
    facts.ipv6.outside = vec!["[2a02:1:2::7]:4433".parse().unwrap()];
    facts.port_mapping.state = "useless".into();
    facts.port_mapping.gateway = Some("192.168.1.254".parse().unwrap());
    facts.port_mapping.external = Some("44.10.1.2:4433".parse().unwrap());
    facts.port_mapping.proven_by = Some("fra-1".into());
    facts.port_mapping.reason =
        Some("fra-1 and attic say: the router claims 44.10.1.2, members see (44.10.1.2:4433).".into());
    facts.hairpin.seen_with = Some("cellar of Zoë".into());
    facts.start.push(start("44.10.9.2:1", "silent"));
    facts.start.push(start("44.10.1.2:4433", "itself"));
    facts.members.failed = 1;
    facts
}

#[test]
fn no_address_name_or_id_is_left() {
    let (_, all) = masked(&telling());
    for secret in [
        "attic",
        "fra-1",
        "Zo",
        "cellar",
        "44.10",
        "192.168.1.",
        "10.9.8",
        "100.70",
        "254.7.7",
        "172.20",
        "2a02",
        "3456",
        "::77",
        &id("a"),
        &id("b"),
        &id("m"),
        "aaaaaaaaaa",
        "bbbbbbbbbb",
    ] {
        assert!(!all.contains(secret), "{secret} is left:\n{all}");
    }
}

#[test]
fn the_same_value_has_the_same_replacement_everywhere() {
    let (facts, _) = masked(&telling());
    assert_eq!((facts.name.as_str(), facts.node_id.as_str()), ("node-1", "id-1"));
    let outside = facts.ipv4.outside[0];
    assert_eq!(facts.port_mapping.external, Some(outside));
    assert_eq!(facts.start[2].addr, outside);
    assert_eq!(facts.port_mapping.proven_by, facts.start[0].name);
    assert_eq!(facts.start[0].node_id.as_deref(), Some("id-2"));
    assert_eq!(facts.start[0].name.as_deref(), Some("node-2"), "the number is the node's");
    let said = format!("node-2 and node-1 say: the router claims {}, members see ({outside}).", outside.ip());
    assert_eq!(facts.port_mapping.reason, Some(said));
    assert_eq!(facts.ipv4.inside[1], facts.listen[0].ip());
    assert_eq!(facts.ipv6.inside[0], facts.ipv6.outside[0].ip());
}

#[test]
fn ranges_ports_and_verdicts_stay() {
    let before = telling();
    let (facts, _) = masked(&before);
    let inside: Vec<String> = facts.ipv4.inside.iter().map(ToString::to_string).collect();
    // Two addresses of 192.168/16: the router's is the other one.
    let wanted = ["127.0.0.1", "192.168.0.1", "10.0.0.1", "100.64.0.1", "169.254.1.1", "172.16.0.1"];
    let order = |ip: &&String| !ip.starts_with("192.168.0.");
    let others = |all: &[String]| all.iter().filter(order).cloned().collect::<Vec<_>>();
    assert_eq!(others(&inside), others(&wanted.map(String::from)));
    assert!(inside[1].starts_with("192.168.0."));
    let v6: Vec<String> = facts.ipv6.inside.iter().map(ToString::to_string).collect();
    assert_eq!(v6, ["2001:db8::1", "fd00::1", "fe80::1"]);
    assert_eq!(facts.listen.iter().map(|addr| addr.port()).collect::<Vec<_>>(), [4433, 4433]);
    assert!(facts.listen[1].ip().is_unspecified());
    assert_eq!((facts.nat.class, facts.version), (before.nat.class, before.version));
    assert_eq!(facts.can_work, before.members.direct > 0);
}

/// A member may be called what a verdict is called.
#[test]
fn names_that_are_words_of_the_report_do_not_change_it() {
    let mut facts = Facts::working();
    facts.start[0].name = Some("works".into());
    let (masked, _) = masked(&facts);
    assert_eq!((masked.udp.as_str(), masked.start[0].name.as_deref()), ("works", Some("node-2")));
}

#[test]
fn more_addresses_than_documentation_has_are_still_told_apart() {
    let mut masks = Masks::default();
    let ip = |n: u32| IpAddr::V4(Ipv4Addr::from_bits(0x2c0a_0000 + n));
    let found: std::collections::BTreeSet<IpAddr> = (0..1000).map(|n| masks.ip(ip(n))).collect();
    assert_eq!(found.len(), 1000);
    let lab = |ip: &IpAddr| ip.to_string().starts_with("203.0.113.") || ip.to_string().starts_with("198.18.");
    assert!(found.iter().all(lab), "nobody's addresses");
}

#[test]
fn a_home_without_a_node_is_nobodys_home() {
    let mut facts = AbsentJson {
        running: false,
        home: "/home/zoe/mesh".into(),
        version: "1.2.3".into(),
        name: Some("attic".into()),
        error: Some(
            "others may read /home/zoe/mesh/node.key: run `chmod 600 /home/zoe/mesh/node.key`".into(),
        ),
        ipv4: Some([44, 10, 1, 2].into()),
        ipv6: None,
        start: vec![
            LookupJson { host: "mesh.example:7".into(), addrs: vec!["44.10.1.2:7".parse().unwrap()] },
            LookupJson { host: "44.10.1.2:7".into(), addrs: vec!["44.10.1.2:7".parse().unwrap()] },
        ],
        remembered: 0,
        can_work: false,
        verdict: String::new(),
        improve: vec![],
    };
    facts.conclude();
    let masked = anonymized(&facts).unwrap();
    let all = serde_json::to_string(&masked).unwrap() + &masked.text();
    for secret in ["zoe", "attic", "mesh.example", "44.10"] {
        assert!(!all.contains(secret), "{secret} is left:\n{all}");
    }
    assert_eq!(masked.start[0].host, "host-1:7");
    assert_eq!(masked.start[1].host, masked.start[0].addrs[0].to_string());
    assert_eq!(masked.verdict, "no node is running in the-home, and none can as it is");
}
