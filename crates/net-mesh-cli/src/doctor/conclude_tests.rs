//! Promises of the conclusion: which facts make which verdict.

use super::*;
use crate::doctor::facts::{Facts, start};

fn verdict_of(facts: &DoctorJson) -> Verdict {
    let conclusion = conclude(facts);
    assert_eq!(conclusion.verdict.can_work(), matches!(conclusion.verdict, Verdict::Works | Verdict::Alone));
    conclusion.verdict
}

fn hints(facts: &DoctorJson) -> Vec<Hint> {
    conclude(facts).hints
}

#[test]
fn a_node_that_reaches_everyone_directly_needs_nothing() {
    let facts = Facts::working();
    assert_eq!((verdict_of(&facts), hints(&facts)), (Verdict::Works, vec![]));
}

#[test]
fn blocked_udp_is_the_reason_whatever_else_is_known() {
    let mut facts = Facts::working();
    facts.udp = "blocked".into();
    assert_eq!(verdict_of(&facts), Verdict::UdpBlocked);
    assert_eq!(hints(&facts)[0], Hint::AllowUdp);
}

#[test]
fn a_node_alone_is_well_and_one_that_finds_nobody_is_not() {
    let mut facts = Facts::alone();
    assert_eq!((verdict_of(&facts), hints(&facts)), (Verdict::Alone, vec![Hint::Invite]));
    facts.start = vec![start("203.0.113.1:1", "itself")];
    assert_eq!(verdict_of(&facts), Verdict::Alone);
    facts.start.push(start("203.0.113.2:1", "trying"));
    assert_eq!((verdict_of(&facts), hints(&facts)), (Verdict::NotYet, vec![Hint::Wait]));
    facts.udp = "works".into();
    facts.start[1].state = "silent".into();
    assert_eq!((verdict_of(&facts), hints(&facts)), (Verdict::NobodyReached, vec![Hint::CheckStart]));
    facts.start[1].state = "refused".into();
    assert_eq!((verdict_of(&facts), hints(&facts)), (Verdict::Stranger, vec![Hint::JoinAgain]));
    facts.start[1].state = "unusable".into();
    assert_eq!((verdict_of(&facts), hints(&facts)), (Verdict::NoUsableStart, vec![Hint::GiveStart]));
}

#[test]
fn members_that_are_all_lost_make_a_node_that_cannot_work() {
    let mut facts = Facts::working();
    (facts.members.direct, facts.members.failed) = (0, 3);
    assert_eq!(verdict_of(&facts), Verdict::NobodyReached);
    facts.members.direct = 1;
    assert_eq!((verdict_of(&facts), hints(&facts)[0]), (Verdict::Works, Hint::SeeLost));
}

#[test]
fn what_would_make_relayed_paths_direct_depends_on_what_is_in_the_way() {
    let with = |change: &dyn Fn(&mut DoctorJson)| {
        let mut facts = Facts::working();
        facts.members.relayed = 1;
        facts.nat.class = "symmetric".into();
        facts.nat.mapping = "address-and-port-dependent".into();
        facts.port_mapping_built = true;
        change(&mut facts);
        hints(&facts)
    };
    assert_eq!(with(&|_| {}), [Hint::AskRouter, Hint::LookAtMesh]);
    assert_eq!(with(&|f| f.port_mapping_built = false), [Hint::BuildPortMapping, Hint::LookAtMesh]);
    assert_eq!(with(&|f| f.port_mapping.state = "refused".into()), [Hint::LookAtMesh]);
    assert_eq!(with(&|f| f.double_nat.state = "yes".into()), [Hint::SecondNat, Hint::LookAtMesh]);
    assert_eq!(with(&|f| f.nat.mapping = "none".into()), [Hint::LetUdpIn, Hint::LookAtMesh]);
    assert_eq!(with(&|f| f.nat.class = "full-cone".into()), [Hint::LookAtMesh]);
}

#[test]
fn smaller_troubles_are_told_of_a_node_that_works() {
    let mut facts = Facts::working();
    facts.relays.direct = 0;
    facts.start.push(start("203.0.113.9:1", "silent"));
    facts.clock = Some(crate::json::doctor::ClockJson { ahead_ms: -120_001, members: 2 });
    facts.datagram.as_mut().unwrap().black_holes = 1;
    facts.nat.class = "unknown".into();
    facts.nat.missing = Some("a second member".into());
    let wanted = [Hint::SecondHelper, Hint::NoRelay, Hint::SilentStarts, Hint::SetClock, Hint::BlackHoles];
    assert_eq!((verdict_of(&facts), hints(&facts)), (Verdict::Works, wanted.to_vec()));
    facts.clock = Some(crate::json::doctor::ClockJson { ahead_ms: 120_000, members: 2 });
    assert!(!hints(&facts).contains(&Hint::SetClock), "clocks are never quite equal");
}

fn nats(inside: &[&str], outside: &[&str], router: Option<&str>) -> (String, Option<String>) {
    let ipv4 = FamilyJson {
        inside: inside.iter().map(|ip| ip.parse().unwrap()).collect(),
        outside: outside.iter().map(|addr| addr.parse().unwrap()).collect(),
    };
    let nat = Facts::working().nat;
    let external = router.map(|addr| addr.parse().unwrap());
    let found = double_nat(&ipv4, &nat, &PortMappingJson { external, ..PortMappingJson::default() });
    (found.state, found.evidence)
}

#[test]
fn a_second_nat_shows_in_addresses_or_not_at_all() {
    let said =
        |state: &str, evidence: &str| (state.to_owned(), (!evidence.is_empty()).then(|| evidence.to_owned()));
    let home = ["127.0.0.1", "192.168.1.7"];
    let outside = ["203.0.113.5:700"];
    assert_eq!(nats(&home, &outside, None), said("unknown", ""));
    assert_eq!(nats(&home, &[], None), said("unknown", ""));
    assert_eq!(nats(&home, &outside, Some("203.0.113.5:9")), said("no", "router-agrees"));
    assert_eq!(nats(&home, &outside, Some("203.0.113.6:9")), said("yes", "router-sees-another"));
    assert_eq!(nats(&home, &outside, Some("100.64.1.2:9")), said("yes", "router-is-inside"));
    assert_eq!(nats(&home, &outside, Some("10.1.2.3:9")), said("yes", "router-is-inside"));
    assert_eq!(nats(&home, &["203.0.113.5:7", "203.0.113.6:7"], None), said("likely", "several-outside"));
    assert_eq!(nats(&["100.64.3.4"], &outside, None), said("yes", "shared-address"));
    // An overlay network beside a home's.
    assert_eq!(nats(&["100.64.3.4", "192.168.1.7"], &outside, None), said("unknown", ""));
    assert_eq!(nats(&["203.0.113.5"], &outside, None), said("no-nat", ""));
    assert_eq!(
        nats(&["203.0.113.5", "172.17.0.1"], &outside, None),
        said("no-nat", ""),
        "a container bridge"
    );
    assert_eq!(nats(&[], &[], None), said("no-ipv4", ""));
    assert_eq!(nats(&["127.0.0.1"], &["127.0.0.1:7"], None), said("no-ipv4", ""));
}
