//! Promises of advice, held to meshes made by hand and to counting every pair.

use std::vec;
use std::vec::Vec;

use super::*;
use crate::membership::MAX_MEMBERS;

/// A member, as its record would say it.
struct Made {
    node: NodeId,
    verdict: VerdictSummary,
    candidates: Vec<SocketAddr>,
    links: Vec<(NodeId, u16)>,
}

fn id(n: u16) -> NodeId {
    let mut bytes = [0; 32];
    bytes[..2].copy_from_slice(&n.to_be_bytes());
    NodeId(bytes)
}

fn made(n: u16, mapping: Mapping, filtering: Filtering, candidates: &[&str]) -> Made {
    let verdict = VerdictSummary { mapping, filtering, port_rule: PortRule::Unknown, confidence: 100 };
    let candidates = candidates.iter().map(|addr| addr.parse().unwrap()).collect();
    Made { node: id(n), verdict, candidates, links: vec![] }
}

fn v4(n: u16) -> std::string::String {
    std::format!("198.51.{}.{}:7000", 100 + n / 250, 1 + n % 250)
}

fn public(n: u16) -> Made {
    made(n, Mapping::None, Filtering::EndpointIndependent, &[&v4(n)])
}

fn port_restricted(n: u16) -> Made {
    made(n, Mapping::EndpointIndependent, Filtering::AddressAndPortDependent, &[&v4(n), "10.0.0.2:7000"])
}

fn symmetric(n: u16) -> Made {
    made(n, Mapping::AddressAndPortDependent, Filtering::AddressAndPortDependent, &[&v4(n)])
}

fn unknown(n: u16) -> Made {
    made(n, Mapping::Unknown, Filtering::Unknown, &[&v4(n)])
}

fn told(members: &[Made]) -> Advice {
    let about = members.iter().map(|made| About {
        node: made.node,
        verdict: made.verdict,
        candidates: &made.candidates,
        links: &made.links,
    });
    advise(&about.collect::<Vec<_>>())
}

fn pairs(advice: &Advice) -> [u64; 3] {
    [advice.direct, advice.undecided, advice.relayed]
}

#[test]
fn a_mesh_that_is_direct_throughout_needs_nothing() {
    let advice = told(&[public(1), public(2), port_restricted(3), port_restricted(4)]);
    assert_eq!((pairs(&advice), advice.open, advice.members), ([6, 0, 0], 2, 4));
    assert_eq!(advice.suggestions, []);
    assert_eq!(pairs(&told(&[])), [0; 3]);
    assert_eq!(pairs(&told(&[symmetric(1)])), [0; 3]);
}

#[test]
fn one_symmetric_member_among_cones_is_the_one_to_open() {
    let advice = told(&[public(1), public(2), port_restricted(3), port_restricted(4), symmetric(5)]);
    assert_eq!(pairs(&advice), [8, 0, 2]);
    let open = |n, pairs, others| Suggestion { change: Change::OpenRouter(id(n)), pairs, others };
    // Either cone would do for its own pair, the symmetric one for both.
    assert_eq!(advice.suggestions, [open(5, 2, 0), open(3, 1, 1)]);
}

#[test]
fn a_firewall_is_opened_and_not_its_router() {
    let firewall = made(3, Mapping::None, Filtering::AddressAndPortDependent, &["203.0.113.3:7000"]);
    let advice = told(&[symmetric(1), symmetric(2), firewall]);
    assert_eq!(pairs(&advice), [0, 0, 3]);
    let changes: Vec<_> = advice.suggestions.iter().map(|s| (s.change, s.pairs, s.others)).collect();
    assert_eq!(changes, [(Change::OpenRouter(id(1)), 2, 2)]);
    let firewall = made(1, Mapping::None, Filtering::AddressAndPortDependent, &["203.0.113.3:7000"]);
    assert_eq!(told(&[firewall, symmetric(2)]).suggestions[0].change, Change::OpenFirewall(id(1)));
}

#[test]
fn families_without_a_packet_in_common_are_relayed_until_one_has_both() {
    let only_v6 = made(2, Mapping::None, Filtering::EndpointIndependent, &["[2001:db8::2]:7000"]);
    let advice = told(&[public(1), only_v6]);
    assert_eq!(pairs(&advice), [0, 0, 1]);
    let changes: Vec<_> = advice.suggestions.iter().map(|s| s.change).collect();
    assert_eq!(changes, [Change::GiveIpv4(id(2)), Change::GiveIpv6(id(1))]);
}

#[test]
fn two_symmetric_members_with_ipv6_are_direct() {
    let with_v6 = |n| {
        let v6 = std::format!("[2001:db8::{n}]:7000");
        made(n, Mapping::AddressAndPortDependent, Filtering::AddressAndPortDependent, &[&v4(n), &v6])
    };
    assert_eq!(pairs(&told(&[with_v6(1), with_v6(2)])), [1, 0, 0]);
    let advice = told(&[with_v6(1), with_v6(2), symmetric(3)]);
    assert_eq!(pairs(&advice), [1, 0, 2]);
    let change = |change, pairs, others| Suggestion { change, pairs, others };
    let third = [Change::OpenRouter(id(3)), Change::GiveIpv6(id(3))].map(|c| change(c, 2, 0));
    assert_eq!(advice.suggestions[..2], third);
}

/// Guessed ports, a forwarding rule, a NAT that is better than its verdict: what is, is.
#[test]
fn a_link_that_a_member_names_is_direct_whatever_the_plans_say() {
    let mut members = [public(1), symmetric(2), symmetric(3), unknown(4)];
    assert_eq!(pairs(&told(&members)), [3, 2, 1]);
    members[1].links = vec![(id(3), 20), (id(1), 5), (id(77), 1), (id(2), 1)];
    let advice = told(&members);
    assert_eq!(pairs(&advice), [4, 2, 0]);
    let best = advice.suggestions[0];
    assert_eq!((best.change, best.pairs), (Change::OpenRouter(id(4)), 2));
    members[2].links = vec![(id(2), 20), (id(4), 9)];
    members[3].links = vec![(id(2), 20)];
    assert_eq!(pairs(&told(&members)), [6, 0, 0], "named by one or by both");
    assert_eq!(told(&members).suggestions, []);
}

#[test]
fn members_of_one_home_meet_there() {
    let at = |n, addr| made(n, Mapping::AddressAndPortDependent, Filtering::AddressAndPortDependent, &[addr]);
    let home = [at(1, "198.51.100.1:1"), at(2, "198.51.100.1:2"), at(3, "198.51.100.9:3")];
    let advice = told(&home);
    assert_eq!(pairs(&advice), [1, 0, 2]);
    let counts: Vec<_> = advice.suggestions.iter().map(|s| (s.change, s.pairs)).collect();
    assert_eq!(counts, [(Change::OpenRouter(id(3)), 2), (Change::OpenRouter(id(1)), 1)]);
}

#[test]
fn nats_that_nobody_could_classify_need_a_second_public_member() {
    let advice = told(&[public(1), unknown(2), unknown(3), unknown(4)]);
    assert_eq!(pairs(&advice), [3, 3, 0]);
    let add = Suggestion { change: Change::AddPublicMember, pairs: 3, others: 0 };
    assert_eq!(advice.suggestions[0], add);
    let advice = told(&[public(1), public(5), unknown(2), unknown(3)]);
    assert!(advice.suggestions.iter().all(|s| s.change != Change::AddPublicMember), "two are there");
}

/// The same, pair by pair.
fn by_hand(members: &[Made]) -> [u64; 3] {
    let mut counts = [0; 3];
    for (n, a) in members.iter().enumerate() {
        for b in &members[n + 1..] {
            let sides = [a, b].map(|m| Side { verdict: m.verdict, candidates: &m.candidates });
            let plan = plans(&sides[0], &sides[1]);
            let is_open = |m: &&Made| matches!(m.verdict.class(), NatClass::Direct | NatClass::FullCone);
            let unknown = |m: &&Made| m.verdict.class() == NatClass::Unknown;
            let near = plan.as_ref().is_ok_and(|plans| plans[..] == [super::super::Plan::LocalFirst]);
            let vague = [a, b].iter().any(unknown) && ![a, b].iter().any(is_open);
            let fate = match plan {
                Err(_) => Fate::Relayed,
                Ok(_) if vague && !near => Fate::Undecided,
                Ok(_) => Fate::Direct,
            };
            counts[fate as usize] += 1;
        }
    }
    counts
}

const MAPPINGS: [Mapping; 6] = [
    Mapping::Unknown,
    Mapping::None,
    Mapping::EndpointIndependent,
    Mapping::AddressDependent,
    Mapping::AddressAndPortDependent,
    Mapping::EndpointDependent,
];
const FILTERINGS: [Filtering; 4] = [
    Filtering::Unknown,
    Filtering::EndpointIndependent,
    Filtering::AddressDependent,
    Filtering::AddressAndPortDependent,
];

/// Every behaviour there is, some in one home with others.
fn motley(count: u16, homes: u16) -> Vec<Made> {
    let member = |n: u16| {
        let (mapping, filtering) = (MAPPINGS[usize::from(n) % 6], FILTERINGS[usize::from(n) / 6 % 4]);
        made(n, mapping, filtering, &[&v4(n * 7 % homes), &v4(n * 3 % homes)])
    };
    (0..count).map(member).collect()
}

#[test]
fn the_tables_count_what_counting_every_pair_counts() {
    for homes in [1, 5, 40, 1000] {
        let members = motley(150, homes);
        assert_eq!(pairs(&told(&members)), by_hand(&members), "{homes} homes");
    }
}

/// What is said of each change is what counting again after it gives.
#[test]
fn every_change_does_what_is_said_of_it() {
    let members = motley(60, 500);
    let before = by_hand(&members);
    let advice = told(&members);
    assert!(!advice.suggestions.is_empty() && advice.suggestions.len() <= MAX_CHANGES);
    for suggestion in advice.suggestions {
        let (Change::OpenRouter(node) | Change::OpenFirewall(node)) = suggestion.change else {
            panic!("nobody has IPv6 here, and there are helpers: {suggestion:?}");
        };
        let mut after = motley(60, 500);
        let opened = after.iter_mut().find(|made| made.node == node).unwrap();
        opened.verdict.mapping = Mapping::EndpointIndependent;
        opened.verdict.filtering = Filtering::EndpointIndependent;
        assert_eq!(by_hand(&after)[0] - before[0], suggestion.pairs, "{suggestion:?}");
    }
}

#[test]
fn a_full_mesh_of_every_sort_has_every_pair_counted() {
    let count = u64::try_from(MAX_MEMBERS).unwrap();
    for homes in [1, 700, 30_000] {
        let members = motley(u16::try_from(MAX_MEMBERS).unwrap(), homes);
        let advice = told(&members);
        assert_eq!(pairs(&advice).iter().sum::<u64>(), count * (count - 1) / 2, "{homes} homes");
    }
}

/// The worst for the counting of neighbours: no two have the same addresses, and all have one in common.
#[test]
fn members_that_claim_each_others_addresses_are_all_near() {
    let mut members = motley(u16::try_from(MAX_MEMBERS).unwrap(), 30_000);
    for made in &mut members {
        made.candidates.insert(0, "203.0.113.1:1".parse().unwrap());
    }
    let advice = told(&members);
    let count = u64::try_from(MAX_MEMBERS).unwrap();
    assert_eq!(pairs(&advice), [count * (count - 1) / 2, 0, 0]);
    assert_eq!(vec![advice.suggestions.len()], [0]);
}
