//! Which plans a pair gets, and when each side sends what.

use alloc::vec;
use alloc::vec::Vec;
use core::net::SocketAddr;
use core::time::Duration;

use super::super::plan::{Plan, Shot, Side, plans, schedule};
use super::model::{FULL_CONE, OPEN, PORT_RESTRICTED, RESTRICTED, Rule, SYMMETRIC, millis, secs, verdict};
use crate::membership::{MAX_CANDIDATES, VerdictSummary};
use crate::peer::Local;

fn addrs(texts: &[&str]) -> Vec<SocketAddr> {
    texts.iter().map(|text| text.parse().unwrap()).collect()
}

fn local() -> Local {
    let mut local = Local::default();
    let ips = vec!["10.0.0.2".parse().unwrap(), "2001:db8:1::2".parse().unwrap()];
    local.set_network(ips, [Some(7000); 2], [None; 2]);
    local.set_reflexive(addrs(&["198.51.100.1:7000"]));
    local
}

fn plans_of(a: Option<Rule>, b: Option<Rule>) -> Result<Vec<Plan>, &'static str> {
    let (of_a, of_b) = (addrs(&["198.51.100.1:1"]), addrs(&["198.51.100.2:1"]));
    plans(&Side { verdict: verdict(a), candidates: &of_a }, &Side { verdict: verdict(b), candidates: &of_b })
}

/// What the side described as `own` sends to `theirs`.
fn shots(plan: Plan, is_seeker: bool, own: Option<Rule>, theirs: (Option<Rule>, &[SocketAddr])) -> Vec<Shot> {
    let local = local();
    let candidates = local.candidates();
    let own = Side { verdict: verdict(own), candidates: &candidates };
    let theirs = Side { verdict: verdict(theirs.0), candidates: theirs.1 };
    schedule(plan, is_seeker, &local, (&own, &theirs), millis(60))
}

fn first(shots: &[Shot], to: &SocketAddr) -> Option<Duration> {
    shots.iter().find(|shot| shot.to == *to).map(|shot| shot.after)
}

#[test]
fn each_pair_of_kinds_has_its_plans_in_this_order() {
    let in_turn = vec![Plan::FireTogether, Plan::SeekerFirst, Plan::SoughtFirst];
    assert_eq!(plans_of(SYMMETRIC, OPEN), Ok(vec![Plan::Dial, Plan::FireTogether]));
    assert_eq!(plans_of(SYMMETRIC, FULL_CONE), Ok(vec![Plan::Dial, Plan::FireTogether]));
    assert_eq!(plans_of(OPEN, SYMMETRIC), Ok(vec![Plan::AskToBeDialled, Plan::FireTogether]));
    assert_eq!(plans_of(PORT_RESTRICTED, RESTRICTED), Ok(in_turn));
    assert_eq!(plans_of(SYMMETRIC, RESTRICTED), Ok(vec![Plan::SymmetricSide, Plan::FireTogether]));
    assert_eq!(plans_of(RESTRICTED, SYMMETRIC), Ok(vec![Plan::SymmetricSide, Plan::FireTogether]));
    assert!(plans_of(SYMMETRIC, PORT_RESTRICTED).unwrap_err().contains("next port is unknown"));
    assert!(plans_of(SYMMETRIC, SYMMETRIC).unwrap_err().contains("both sides are symmetric"));
}

#[test]
fn ipv6_on_both_sides_is_a_last_resort_and_the_only_one_where_ipv4_is_hopeless() {
    let with_v6 = |n: u8| addrs(&[&std::format!("198.51.100.{n}:1"), &std::format!("[2001:db8:{n}::1]:1")]);
    let (of_a, of_b) = (with_v6(1), with_v6(2));
    let side = |rule, candidates| Side { verdict: verdict(rule), candidates };
    let pair = |a, b| plans(&side(a, &of_a), &side(b, &of_b)).unwrap();
    assert_eq!(pair(SYMMETRIC, SYMMETRIC), [Plan::OverIpv6]);
    assert_eq!(pair(SYMMETRIC, RESTRICTED).last(), Some(&Plan::OverIpv6));
    let one_has = plans(&side(SYMMETRIC, &of_a), &side(SYMMETRIC, &of_b[..1]));
    assert!(one_has.is_err());
}

#[test]
fn nodes_that_are_seen_at_one_address_try_their_private_ones_first() {
    let theirs = addrs(&["198.51.100.1:9", "10.0.0.3:7000", "192.168.7.3:7000"]);
    let own = local().candidates();
    let side = |candidates| Side { verdict: verdict(SYMMETRIC), candidates };
    assert_eq!(plans(&side(&own), &side(&theirs)), Ok(vec![Plan::LocalFirst]));
    let shots = shots(Plan::LocalFirst, true, SYMMETRIC, (SYMMETRIC, &theirs));
    let times: Vec<_> = theirs.iter().map(|to| first(&shots, to).unwrap()).collect();
    assert!(times[1] < times[0] && times[2] < times[0], "{times:?}");
}

#[test]
fn useless_candidates_delay_a_good_one_by_less_than_a_fifth_of_a_second() {
    let good: SocketAddr = "198.51.100.2:7000".parse().unwrap();
    let mut theirs: Vec<SocketAddr> = (0..15).map(|n| SocketAddr::from(([203, 0, 113, n], 9))).collect();
    theirs.push(good);
    assert_eq!(theirs.len(), MAX_CANDIDATES);
    let shots = shots(Plan::FireTogether, true, PORT_RESTRICTED, (PORT_RESTRICTED, &theirs));
    assert!(first(&shots, &good).unwrap() < millis(200));
}

#[test]
fn private_addresses_of_another_network_get_no_packets() {
    let theirs = addrs(&["198.51.100.2:1", "192.168.7.3:7000", "10.0.0.9:7000"]);
    let shots = shots(Plan::FireTogether, true, PORT_RESTRICTED, (PORT_RESTRICTED, &theirs));
    assert_eq!(first(&shots, &theirs[1]), None, "a network that this node is not in");
    assert!(first(&shots, &theirs[2]).is_some(), "one that it is in");
}

#[test]
fn every_schedule_is_paced_bounded_and_over_within_three_seconds() {
    let theirs: Vec<SocketAddr> = (0..16).map(|n| SocketAddr::from(([203, 0, 113, n], 9))).collect();
    let all = [Plan::Dial, Plan::LocalFirst, Plan::FireTogether, Plan::SeekerFirst, Plan::SoughtFirst];
    for (plan, is_seeker) in all.into_iter().flat_map(|plan| [(plan, true), (plan, false)]) {
        let shots = shots(plan, is_seeker, PORT_RESTRICTED, (PORT_RESTRICTED, &theirs));
        assert!(shots.len() <= 6 * theirs.len() && shots.is_sorted_by_key(|shot| shot.after));
        assert!(shots.last().is_none_or(|last| last.after < secs(3)), "{plan:?}");
        let mut firsts: Vec<_> = theirs.iter().filter_map(|to| first(&shots, to)).collect();
        firsts.sort_unstable();
        assert!(firsts.windows(2).all(|two| two[1] - two[0] >= millis(10)), "{firsts:?}");
    }
}

#[test]
fn the_one_that_goes_second_waits_for_the_first_to_get_about_half_way() {
    let theirs = addrs(&["198.51.100.2:1"]);
    let begins = |plan, is_seeker| {
        let shots = shots(plan, is_seeker, PORT_RESTRICTED, (PORT_RESTRICTED, &theirs));
        shots.first().map(|shot| shot.after)
    };
    assert_eq!(begins(Plan::SeekerFirst, true), Some(Duration::ZERO));
    assert_eq!(begins(Plan::SeekerFirst, false), Some(millis(60)));
    assert_eq!(begins(Plan::SoughtFirst, true), Some(millis(60)));
    assert_eq!(begins(Plan::SoughtFirst, false), Some(Duration::ZERO));
    assert_eq!((begins(Plan::Dial, false), begins(Plan::AskToBeDialled, true)), (None, None));
}

#[test]
fn a_cone_opens_for_an_ip_before_the_symmetric_side_fires() {
    let seen = addrs(&["198.51.100.2:40000", "198.51.100.2:40001", "[2001:db8:2::1]:1"]);
    let openers = shots(Plan::SymmetricSide, true, RESTRICTED, (SYMMETRIC, &seen));
    assert!(openers.iter().all(|shot| shot.to == seen[0]), "one port is as good as another: {openers:?}");
    assert!((1..=3).contains(&openers.len()) && openers[0].after.is_zero());
    let cone = addrs(&["198.51.100.2:40000"]);
    let fired = shots(Plan::SymmetricSide, false, SYMMETRIC, (RESTRICTED, &cone));
    assert!(fired[0].after >= millis(20), "{fired:?}");
}

#[test]
fn what_is_not_known_is_tried() {
    let unknown = Side { verdict: VerdictSummary::UNKNOWN, candidates: &[] };
    for known in [SYMMETRIC, PORT_RESTRICTED] {
        let known = Side { verdict: verdict(known), candidates: &[] };
        assert!(plans(&known, &unknown).is_ok() && plans(&unknown, &known).is_ok());
    }
}

#[test]
fn over_ipv6_leaves_ipv4_alone() {
    let theirs = addrs(&["198.51.100.2:1", "[2001:db8:2::1]:1"]);
    let shots = shots(Plan::OverIpv6, true, SYMMETRIC, (SYMMETRIC, &theirs));
    assert!(!shots.is_empty() && shots.iter().all(|shot| shot.to.is_ipv6()));
}
