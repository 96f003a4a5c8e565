//! Routers: which is asked for what, and what they answer.

use super::*;

#[test]
fn a_good_router_is_asked_once_and_believed_when_a_member_got_through() {
    let mut scene = Scene::new(Router::good());
    scene.network();
    let Some(believed) = scene.mapper.believed() else { panic!("{:?}", scene.mapper.status()) };
    assert_eq!(believed.ip().to_string(), OUTSIDE);
    assert_ne!(believed.port(), MAIN, "a port that may be open without a mapping proves nothing");
    assert_eq!((scene.maps(), scene.asked.len()), (1, 2), "two members say so");
    assert!(
        matches!(scene.reports[..], [Report::Mapped { .. }, Report::Proven { .. }]),
        "{:?}",
        scene.reports
    );
}

#[test]
fn protocols_are_tried_in_order_and_the_one_that_works_is_tried_first_next_time() {
    let mut scene = Scene::new(Router { speaks: vec![Protocol::UpnpIgd], ..Router::good() });
    scene.network();
    let protocols = |scene: &Scene| -> Vec<Protocol> {
        let protocol = |(_, r): &(Time, Request)| match r {
            Request::Map { protocol, .. } => Some(*protocol),
            Request::Release { .. } => None,
        };
        scene.requests.iter().filter_map(protocol).collect()
    };
    assert_eq!(protocols(&scene), Protocol::ALL);
    scene.requests.clear();
    // Another network: everything anew.
    let mut local = home(Some(MAIN));
    local.set_network(vec!["10.0.0.7".parse().unwrap()], [Some(MAIN), None], [None, None]);
    scene.now += MIN_PAUSE;
    scene.router.leads_to = "10.0.0.7".parse().unwrap();
    scene.mapper.network_changed(scene.now, &local, &mut scene.out);
    scene.settle();
    assert_eq!(protocols(&scene), [Protocol::UpnpIgd]);
    assert_eq!(scene.releases(), 1, "what led to the old address is given back");
}

#[test]
fn without_a_router_it_is_quiet_until_the_network_changes() {
    let mut scene = Scene::new(Router { speaks: vec![], ..Router::good() });
    scene.network();
    assert_eq!(scene.mapper.status(), Status::NoRouter);
    scene.run_for(REST - Duration::from_secs(1));
    assert_eq!(scene.maps(), 3, "each protocol once");
    // A network that flaps is no reason to ask for ever.
    for _ in 0..100 {
        scene.now += Duration::from_millis(100);
        scene.network();
    }
    scene.run_for(Duration::from_secs(1));
    assert!(scene.maps() <= 9, "{} requests in 11 s", scene.maps());
    assert!(scene.reports.iter().all(|r| matches!(r, Report::NoRouter)));
}

#[test]
fn a_host_without_a_private_address_asks_nobody() {
    let mut scene = Scene::new(Router::good());
    let mut local = home(Some(MAIN));
    local.set_network(vec![OUTSIDE.parse().unwrap()], [Some(MAIN), None], [None, None]);
    scene.mapper.network_changed(scene.now, &local, &mut scene.out);
    scene.settle();
    scene.run_for(Duration::from_secs(7200));
    assert_eq!((scene.maps(), scene.mapper.status()), (0, Status::NotNeeded));
}

#[test]
fn a_lease_is_renewed_long_before_it_ends() {
    let lease = Duration::from_secs(40);
    let mut scene = Scene::new(Router { lease: Some(lease), ..Router::good() });
    scene.network();
    scene.run_for(Duration::from_secs(400));
    let times: Vec<Time> = scene.requests.iter().map(|(at, _)| *at).collect();
    assert!(times.windows(2).all(|w| w[1] - w[0] <= lease / 2), "{times:?}");
    assert!(scene.maps() <= 21, "{} requests", scene.maps());
    assert!(scene.mapper.believed().is_some());
    let ports: Vec<u16> = scene
        .requests
        .iter()
        .map(|(_, r)| match r {
            Request::Map { external, .. } | Request::Release { external, .. } => *external,
        })
        .collect();
    assert!(ports.windows(2).all(|w| w[0] == w[1]), "the port stays: {ports:?}");
}

#[test]
fn what_a_router_forgot_is_noticed_by_its_epoch_and_made_again_within_a_minute() {
    let mut scene = Scene::new(Router::good());
    scene.network();
    scene.run_for(Duration::from_secs(600));
    scene.reports.clear();
    scene.router.epoch_began = Some(scene.now);
    scene.run_for(CHECK);
    assert!(
        scene.reports.iter().any(|r| matches!(r, Report::Renewed { forgotten: true, .. })),
        "{:?}",
        scene.reports
    );
    assert_eq!(scene.asked.len(), 3, "and it is proven anew");
    assert!(scene.mapper.believed().is_some());
}

#[test]
fn an_epoch_that_runs_a_little_slow_is_no_restart() {
    let mut scene = Scene::new(Router::good());
    scene.network();
    for _ in 0..60 {
        scene.run_for(Duration::from_secs(59));
        // RFC 6886 §3.6 allows for an eighth.
        scene.router.epoch_began = scene.router.epoch_began.map(|at| at + Duration::from_secs(5));
    }
    assert!(!scene.reports.iter().any(|r| matches!(r, Report::Renewed { forgotten: true, .. })));
}

#[test]
fn a_taken_port_is_left_for_another_one() {
    let refusals = VecDeque::from([Failure::Conflict, Failure::Conflict]);
    let mut scene = Scene::new(Router { refusals, ..Router::good() });
    scene.network();
    assert_eq!(scene.maps(), 3);
    assert!(scene.mapper.believed().is_some());
    let port = |n: usize| match scene.requests[n].1 {
        Request::Map { external, .. } | Request::Release { external, .. } => external,
    };
    assert!(port(0) != port(1) && port(1) != port(2));
}

#[test]
fn where_every_port_is_taken_it_ends() {
    let refusals = core::iter::repeat_n(Failure::Conflict, 1000).collect();
    let mut scene = Scene::new(Router { refusals, ..Router::good() });
    scene.network();
    assert!(matches!(scene.mapper.status(), Status::Refused { failure: Failure::Conflict, .. }));
    assert!(scene.maps() <= 15, "{}", scene.maps());
}

#[test]
fn a_port_given_to_another_host_meanwhile_is_moved() {
    let mut scene = Scene::new(Router::good());
    scene.network();
    let before = scene.mapper.believed().unwrap();
    scene.router.refusals.push_back(Failure::Conflict);
    scene.run_for(CHECK + MIN_PAUSE);
    let after = scene.mapper.believed().unwrap();
    assert_ne!(before.port(), after.port());
    assert!(scene.reports.iter().any(|r| matches!(r, Report::Lost { external, .. } if *external == before)));
}

#[test]
fn a_router_of_permanent_leases_gets_what_it_wants_and_is_asked_to_delete_it() {
    let mut scene =
        Scene::new(Router { refusals: VecDeque::from([Failure::PermanentOnly]), ..Router::good() });
    scene.network();
    let lease = match scene.requests[1].1 {
        Request::Map { lease, .. } => lease,
        Request::Release { .. } => panic!(),
    };
    assert_eq!(lease, Duration::ZERO);
    assert!(matches!(scene.mapper.status(), Status::Mapped { expires: None, proven_by: Some(_), .. }));
    scene.run_for(Duration::from_secs(3600));
    assert!(
        scene
            .requests
            .iter()
            .skip(1)
            .all(|(_, r)| matches!(r, Request::Map { lease, .. } if lease.is_zero()))
    );
    scene.mapper.leave(&mut scene.out);
    scene.settle();
    assert_eq!(scene.releases(), 1);
    assert_eq!(scene.mapper.status(), Status::Left);
}

#[test]
fn a_router_that_wants_both_ports_the_same_gets_that() {
    let mut scene = Scene::new(Router { refusals: VecDeque::from([Failure::SamePort]), ..Router::good() });
    scene.network();
    assert_eq!(scene.mapper.believed().map(|a| a.port()), Some(MAIN));
    let mut stubborn = Scene::new(Router {
        refusals: core::iter::repeat_n(Failure::SamePort, 99).collect(),
        ..Router::good()
    });
    stubborn.network();
    assert!(stubborn.maps() <= 6, "{}", stubborn.maps());
}

#[test]
fn nonsense_that_is_granted_is_not_taken() {
    let odd = [
        Granted {
            gateway: GATEWAY.parse().unwrap(),
            host: HOME.parse().unwrap(),
            external: "0.0.0.0:5000".parse().unwrap(),
            lease: None,
            epoch: None,
        },
        Granted {
            gateway: GATEWAY.parse().unwrap(),
            host: HOME.parse().unwrap(),
            external: "198.51.100.9:0".parse().unwrap(),
            lease: None,
            epoch: None,
        },
        Granted {
            gateway: GATEWAY.parse().unwrap(),
            host: HOME.parse().unwrap(),
            external: "198.51.100.9:5000".parse().unwrap(),
            lease: Some(Duration::ZERO),
            epoch: None,
        },
    ];
    for granted in odd {
        let mut scene = Scene::new(Router::good());
        scene.mapper.network_changed(scene.now, &home(Some(MAIN)), &mut scene.out);
        for _ in 0..20 {
            while let Some(event) = scene.out.pop_event() {
                if let Event::Router { id, .. } = event {
                    scene.mapper.answered(scene.now, id, Answer::Mapped(granted), &mut scene.out);
                }
            }
        }
        assert!(
            matches!(scene.mapper.status(), Status::Refused { failure: Failure::Broken, .. }),
            "{granted:?}"
        );
    }
}

#[test]
fn a_lease_of_ages_does_not_overflow() {
    let mut scene =
        Scene::new(Router { lease: Some(Duration::from_secs(u64::from(u32::MAX))), ..Router::good() });
    scene.network();
    scene.run_for(Duration::from_secs(86_400));
    assert!(scene.mapper.believed().is_some());
}

#[test]
fn what_is_granted_after_the_node_left_is_given_back() {
    let mut scene = Scene::new(Router::good());
    scene.mapper.network_changed(scene.now, &home(Some(MAIN)), &mut scene.out);
    let Some(Event::Router { id, request }) = scene.out.pop_event() else { panic!() };
    scene.mapper.leave(&mut scene.out);
    assert!(scene.mapper.is_releasing(), "the end waits for it");
    let answer = scene.router_says(request);
    scene.mapper.answered(scene.now, id, answer, &mut scene.out);
    scene.settle();
    assert_eq!(scene.releases(), 1);
    assert!(!scene.mapper.is_releasing());
    assert_eq!(scene.mapper.status(), Status::Left);
    scene.network();
    assert_eq!(scene.maps(), 0, "and nothing begins again");
}

#[test]
fn a_router_that_does_not_delete_is_named() {
    let mut scene = Scene::new(Router::good());
    scene.network();
    scene.mapper.leave(&mut scene.out);
    let mut ids = vec![];
    while let Some(event) = scene.out.pop_event() {
        if let Event::Router { id, .. } = event {
            ids.push(id);
        }
    }
    let answer = Answer::Failed { failure: Failure::NoRouter, detail: "silence".to_string() };
    scene.mapper.answered(scene.now, ids[0], answer, &mut scene.out);
    scene.settle();
    assert!(matches!(scene.reports.last(), Some(Report::NotReleased { for_ever: false, .. })));
}

#[test]
fn other_interfaces_come_and_go_and_the_mapping_stays() {
    let mut scene = Scene::new(Router::good());
    scene.network();
    scene.requests.clear();
    for n in 0..20u8 {
        scene.run_for(Duration::from_secs(7));
        let mut local = Local::default();
        let mut ips = vec![HOME.parse().unwrap()];
        if n % 2 == 0 {
            ips.push(Ipv4Addr::new(172, 17, 0, n).into());
        }
        local.set_network(ips, [Some(MAIN), None], [Some(MAIN + 1), None]);
        scene.mapper.network_changed(scene.now, &local, &mut scene.out);
        scene.settle();
    }
    assert_eq!(scene.releases(), 0);
    assert!(scene.mapper.believed().is_some());
    assert!(scene.maps() <= 22 && scene.asked.len() <= 9, "{} and {}", scene.maps(), scene.asked.len());
}

#[test]
fn a_network_that_changes_while_it_is_searched_is_searched_again_soon() {
    let mut scene = Scene::new(Router { speaks: vec![], ..Router::good() });
    scene.mapper.network_changed(scene.now, &home(Some(MAIN)), &mut scene.out);
    let Some(Event::Router { id, .. }) = scene.out.pop_event() else { panic!() };
    // The router's own link has just come up.
    scene.mapper.network_changed(scene.now, &home(Some(MAIN)), &mut scene.out);
    let nobody = Answer::Failed { failure: Failure::NoRouter, detail: "silence".to_string() };
    scene.mapper.answered(scene.now, id, nobody, &mut scene.out);
    scene.settle();
    assert_eq!(scene.mapper.status(), Status::NoRouter);
    scene.router.speaks = Protocol::ALL.to_vec();
    scene.run_for(2 * MIN_PAUSE);
    assert!(scene.mapper.believed().is_some(), "{:?}", scene.mapper.status());
}

#[test]
fn changes_that_lead_to_nothing_are_followed_ever_more_rarely() {
    let mut scene = Scene::new(Router { speaks: vec![], ..Router::good() });
    for _ in 0..3600 {
        scene.network();
        scene.run_for(Duration::from_secs(1));
    }
    assert!(scene.maps() <= 3 * 10, "{} requests in an hour", scene.maps());
}

#[test]
fn what_was_granted_and_makes_no_sense_is_given_back() {
    let mut scene = Scene::new(Router { lease: Some(Duration::from_secs(1)), ..Router::good() });
    scene.network();
    assert!(matches!(scene.mapper.status(), Status::Refused { failure: Failure::Broken, .. }));
    assert_eq!((scene.maps(), scene.releases()), (3, 3));
    let mut scene = Scene::new(Router { leads_to: "192.168.1.99".parse().unwrap(), ..Router::good() });
    scene.network();
    assert!(matches!(scene.mapper.status(), Status::Refused { failure: Failure::Broken, .. }));
    assert_eq!((scene.maps(), scene.releases()), (3, 3), "what leads to where nobody listens, too");
}

#[test]
fn a_permanent_mapping_is_never_forgotten_because_the_router_is_silent_for_a_while() {
    let mut scene =
        Scene::new(Router { refusals: VecDeque::from([Failure::PermanentOnly]), ..Router::good() });
    scene.network();
    scene.router.speaks.clear();
    scene.run_for(Duration::from_secs(3600));
    assert!(scene.mapper.believed().is_some(), "members still reach it");
    scene.mapper.leave(&mut scene.out);
    scene.settle();
    assert_eq!(scene.releases(), 1);
}

#[test]
fn a_lease_about_to_end_is_asked_for_more_and_more_often() {
    let lease = Duration::from_secs(40);
    let mut scene = Scene::new(Router { lease: Some(lease), ..Router::good() });
    scene.network();
    let granted = scene.now;
    scene.router.speaks.clear();
    scene.run_for(lease - Duration::from_secs(2));
    let last = scene.requests.last().unwrap().0;
    assert!(last - granted >= lease - Duration::from_secs(5), "{:?}", last - granted);
    assert!(scene.maps() < 12, "{}", scene.maps());
    scene.router.speaks = Protocol::ALL.to_vec();
    scene.run_for(Duration::from_secs(3));
    assert!(!scene.reports.iter().any(|r| matches!(r, Report::Lost { .. })), "{:?}", scene.reports);
}

#[test]
fn a_clock_that_stands_still_is_no_restart() {
    let mut scene = Scene::new(Router { clock: Some(0), ..Router::good() });
    scene.network();
    scene.run_for(Duration::from_secs(800));
    assert!(!scene.reports.iter().any(|r| matches!(r, Report::Renewed { forgotten: true, .. })));
}

#[test]
fn a_search_waits_until_the_router_has_answered_a_deletion() {
    let mut scene = Scene::new(Router::good());
    scene.network();
    scene.run_for(Duration::from_secs(100));
    let mut local = Local::default();
    local.set_network(vec!["10.0.0.7".parse().unwrap()], [Some(MAIN), None], [None, None]);
    scene.mapper.network_changed(scene.now, &local, &mut scene.out);
    let mut asked = vec![];
    while let Some(event) = scene.out.pop_event() {
        if let Event::Router { id, request } = event {
            asked.push((id, request));
        }
    }
    let [(id, Request::Release { gateway, host, .. })] = asked[..] else { panic!("{asked:?}") };
    assert_eq!((gateway.to_string(), host.to_string()), (GATEWAY.to_string(), HOME.to_string()));
    assert_eq!(scene.mapper.poll_timeout(), None);
    scene.router.leads_to = "10.0.0.7".parse().unwrap();
    scene.mapper.answered(scene.now, id, Answer::Released, &mut scene.out);
    scene.settle();
    assert!(scene.mapper.believed().is_some());
}
