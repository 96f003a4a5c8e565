//! What is believed of a router, and what not.

use super::*;
use crate::nat::Filtering;

#[test]
fn a_private_or_shared_external_address_is_double_nat() {
    for external in ["10.1.2.3", "192.168.0.2", "100.64.7.7"] {
        let mut scene = Scene::new(Router { external: external.parse().unwrap(), ..Router::good() });
        scene.network();
        assert!(
            matches!(scene.mapper.status(), Status::Useless { why: Useless::Private, .. }),
            "{external}: {:?}",
            scene.mapper.status()
        );
        assert_eq!(scene.asked.len(), 0, "nobody is bothered");
        assert_eq!((scene.maps(), scene.releases()), (3, 3), "each protocol's is given back");
        assert_eq!(scene.mapper.believed(), None);
    }
}

#[test]
fn an_external_address_that_nobody_sees_is_double_nat_after_a_grace() {
    let mut scene = Scene::new(Router::good());
    scene.seen_at("192.0.2.200");
    scene.network();
    assert!(matches!(scene.mapper.status(), Status::Mapped { proven_by: None, .. }));
    scene.run_for(Duration::from_secs(31));
    let elsewhere = Useless::NotWhereSeen("192.0.2.200".parse().unwrap());
    assert!(matches!(scene.mapper.status(), Status::Useless { why, .. } if why == elsewhere));
    assert!(scene.asked.is_empty());
    // Members see it where the router is, after all: it is tried again.
    scene.seen_at(OUTSIDE);
    scene.run_for(Duration::from_secs(11));
    assert!(scene.mapper.believed().is_some());
}

#[test]
fn a_router_that_maps_and_does_not_forward_is_found_out() {
    let mut scene = Scene::new(Router { forwards: false, ..Router::good() });
    scene.network();
    scene.run_for(Duration::from_secs(60));
    assert!(matches!(scene.mapper.status(), Status::Useless { why: Useless::Unreached, .. }));
    assert_eq!((scene.asked.len(), scene.maps(), scene.releases()), (9, 3, 3), "in each protocol");
    assert!(scene.asked.contains(&member(1)) && scene.asked.contains(&member(2)), "{:?}", scene.asked);
    assert!(!scene.reports.iter().any(|r| matches!(r, Report::Proven { .. })));
    scene.run_for(REST - Duration::from_secs(120));
    assert_eq!(scene.maps(), 3, "it is left alone");
}

#[test]
fn silence_of_members_is_no_evidence_against_the_router() {
    let mut scene = Scene::new(Router::good());
    scene.members_answer = false;
    scene.network();
    scene.run_for(Duration::from_secs(3600));
    assert!(matches!(scene.mapper.status(), Status::Mapped { proven_by: None, .. }));
    assert!(scene.asked.len() < 40, "nor a reason to ask for ever: {}", scene.asked.len());
    scene.members_answer = true;
    scene.run_for(Duration::from_secs(310));
    assert!(scene.mapper.believed().is_some());
}

#[test]
fn a_mapping_that_stops_working_is_withdrawn_at_the_next_proof() {
    let mut scene = Scene::new(Router::good());
    scene.network();
    scene.router.forwards = false;
    scene.run_for(PROVE_AGAIN + Duration::from_secs(60));
    assert!(matches!(scene.mapper.status(), Status::Useless { why: Useless::Unreached, .. }));
    assert_eq!(scene.mapper.believed(), None);
}

#[test]
fn a_router_that_goes_silent_is_asked_on_and_the_mapping_proven() {
    let mut scene = Scene::new(Router::good());
    scene.network();
    scene.router.speaks.clear();
    scene.run_for(Duration::from_secs(300));
    assert!(scene.mapper.believed().is_some(), "what members still reach is believed");
    assert!(scene.asked.len() > 1);
    let before = scene.maps();
    scene.run_for(Duration::from_secs(600));
    assert!(scene.maps() - before <= 11, "once a minute at most");
    scene.run_for(Duration::from_secs(3600));
    assert_eq!(scene.mapper.believed(), None, "the lease has ended");
}

#[test]
fn a_probe_that_nobody_asked_for_proves_nothing() {
    let mut scene = Scene::new(Router::good());
    scene.members_answer = false;
    scene.network();
    for token in 0..1000 {
        assert!(!scene.mapper.heard(
            scene.now,
            "203.0.113.1:7001".parse().unwrap(),
            ProbeToken(token),
            &mut scene.out
        ));
    }
    assert_eq!(scene.mapper.believed(), None);
}

#[test]
fn what_only_a_member_without_another_port_or_place_says_proves_nothing() {
    let mut scene = Scene::new(Router::good());
    scene.from_port = 7000;
    scene.network();
    scene.run_for(Duration::from_secs(60));
    assert_eq!(scene.mapper.believed(), None, "its session's address has a hole of its own");
    let mut scene = Scene::new(Router::good());
    scene.members_answer = false;
    scene.network();
    let token = scene.asked_with.unwrap();
    assert!(scene.mapper.heard(scene.now, "192.0.2.66:7001".parse().unwrap(), token, &mut scene.out));
    scene.settle();
    assert_eq!(scene.mapper.believed(), None, "from elsewhere");
}

#[test]
fn one_liar_among_three_neither_makes_nor_breaks_a_mapping() {
    for seed in 0..50 {
        let mut scene = Scene::new(Router::good());
        scene.mapper = PortMapper::new(Rng::from_u64(seed), Settings::default());
        scene.mapper.set_witnesses(scene.now, vec![witness(1), witness(2), witness(3)], &mut scene.out);
        scene.liars = vec![member(2)];
        scene.seen_at(OUTSIDE);
        scene.network();
        scene.run_for(Duration::from_secs(20));
        assert!(scene.mapper.believed().is_some(), "seed {seed}: {:?}", scene.mapper.status());
    }
}

#[test]
fn where_only_one_member_can_tell_it_is_believed() {
    let mut scene = Scene::new(Router::good());
    scene.mapper.set_witnesses(scene.now, vec![witness(1)], &mut scene.out);
    scene.network();
    assert!(scene.mapper.believed().is_some());
    assert_eq!(scene.asked.len(), 1);
}

#[test]
fn a_port_from_which_the_nat_sends_anyway_is_proven_only_where_it_lets_nobody_else_in() {
    for (filtering, provable) in [
        (Filtering::Unknown, false),
        (Filtering::AddressDependent, false),
        (Filtering::AddressAndPortDependent, true),
        (Filtering::EndpointIndependent, true),
    ] {
        let mut scene =
            Scene::new(Router { refusals: VecDeque::from([Failure::SamePort]), ..Router::good() });
        scene.mapper.set_filtering(scene.now, filtering, &mut scene.out);
        let seen = SocketAddr::new(OUTSIDE.parse().unwrap(), MAIN);
        scene.mapper.set_seen(scene.now, &[seen], &mut scene.out);
        scene.network();
        scene.run_for(Duration::from_secs(60));
        assert_eq!(scene.mapper.believed().is_some(), provable, "{filtering:?}");
        assert!(matches!(scene.mapper.status(), Status::Mapped { .. }));
    }
}

#[test]
fn a_router_exchanged_for_another_is_found_within_minutes() {
    let mut scene =
        Scene::new(Router { refusals: VecDeque::from([Failure::PermanentOnly]), ..Router::good() });
    scene.network();
    scene.run_for(Duration::from_secs(100));
    // The new one knows no such mapping, and speaks something else.
    scene.useless_by = vec![Protocol::Pcp];
    scene.router.speaks = vec![Protocol::UpnpIgd];
    scene.run_for(Duration::from_secs(100));
    assert!(scene.mapper.believed().is_some(), "{:?}", scene.mapper.status());
}

#[test]
fn what_one_protocol_maps_in_vain_another_one_may_map() {
    let mut scene = Scene::new(Router::good());
    scene.useless_by = vec![Protocol::Pcp];
    scene.network();
    scene.run_for(Duration::from_secs(30));
    assert!(
        matches!(
            scene.mapper.status(),
            Status::Mapped { protocol: Protocol::NatPmp, proven_by: Some(_), .. }
        ),
        "{:?}",
        scene.mapper.status()
    );
    assert_eq!(scene.releases(), 1);
}

#[test]
fn after_a_sleep_it_is_believed_only_once_proven_again() {
    let mut scene = Scene::new(Router::good());
    scene.network();
    assert!(scene.mapper.believed().is_some());
    scene.members_answer = false;
    scene.requests.clear();
    scene.mapper.slept(scene.now, &mut scene.out);
    assert_eq!(scene.mapper.believed(), None);
    scene.settle();
    assert_eq!(scene.maps(), 1, "the router is asked at once");
    scene.members_answer = true;
    scene.run_for(Duration::from_secs(15));
    assert!(scene.mapper.believed().is_some());
}
