use std::collections::VecDeque;
use std::string::ToString as _;
use std::vec;
use std::vec::Vec;

use super::wire::{Ask, Message, Outcome, Told};
use super::*;
use crate::outbox::{Outbox, SocketId};
use crate::peer::Local;
use crate::reflex::stun::{self, ProbeToken};
use crate::rng::Rng;
use crate::time::Time;

const GATEWAY: &str = "192.168.1.1";
const OUTSIDE: &str = "198.51.100.9";
const HOME: &str = "192.168.1.20";
const MAIN: u16 = 7000;

/// What a router does when asked.
#[derive(Clone, Debug)]
struct Router {
    speaks: Vec<Protocol>,
    external: IpAddr,
    lease: Option<Duration>,
    /// Answers other than a grant, one for each request that would be granted.
    refusals: VecDeque<Failure>,
    epoch_began: Option<Time>,
    forwards: bool,
}

impl Router {
    fn good() -> Self {
        Self {
            speaks: Protocol::ALL.to_vec(),
            external: OUTSIDE.parse().unwrap(),
            lease: Some(Duration::from_secs(3600)),
            refusals: VecDeque::new(),
            epoch_began: Some(Time::ZERO),
            forwards: true,
        }
    }
}

/// A mapper, its router, and members who can be asked to send to it.
struct Scene {
    now: Time,
    mapper: PortMapper,
    router: Router,
    /// Members answer the question and send, and the router lets it in.
    members_answer: bool,
    out: Outbox<Event>,
    requests: Vec<(Time, Request)>,
    asked: Vec<NodeId>,
    reports: Vec<Report>,
}

fn member(n: u8) -> NodeId {
    NodeId([n; 32])
}

fn home(port: Option<u16>) -> Local {
    let mut local = Local::default();
    local.set_network(vec![HOME.parse().unwrap()], [port, None], [port.map(|p| p + 1), None]);
    local
}

impl Scene {
    fn new(router: Router) -> Self {
        let mut scene = Self {
            now: Time::from_millis(1000),
            mapper: PortMapper::new(Rng::from_u64(1), Settings::default()),
            router,
            members_answer: true,
            out: Outbox::new(),
            requests: Vec::new(),
            asked: Vec::new(),
            reports: Vec::new(),
        };
        let witness = |n: u8| Witness { id: member(n), addr: (Ipv4Addr::new(203, 0, 113, n), 7000).into() };
        scene.mapper.set_witnesses(scene.now, vec![witness(1), witness(2)], &mut scene.out);
        scene.seen_at(OUTSIDE);
        scene
    }

    fn seen_at(&mut self, ip: &str) {
        let seen = SocketAddr::new(ip.parse().unwrap(), 41_000);
        self.mapper.set_seen(self.now, &[seen], &mut self.out);
        self.settle();
    }

    fn network(&mut self) {
        self.mapper.network_changed(self.now, &home(Some(MAIN)), &mut self.out);
        self.settle();
    }

    /// Lets everybody answer at once until nobody has anything left to say.
    fn settle(&mut self) {
        while let Some(event) = self.out.pop_event() {
            match event {
                Event::Router { id, request } => {
                    self.requests.push((self.now, request));
                    let answer = self.router_says(request);
                    self.mapper.answered(self.now, id, answer, &mut self.out);
                }
                Event::ToPeer { peer, message: Message::Ask(ask) } => self.member_hears(peer, ask),
                Event::ToPeer { message, .. } => panic!("a mapper says {message:?}"),
                Event::Believed => {}
                Event::Report(report) => self.reports.push(report),
            }
        }
    }

    fn router_says(&mut self, request: Request) -> Answer {
        let failed = |failure| Answer::Failed { failure, detail: "so".to_string() };
        match request {
            Request::Release { .. } => Answer::Released,
            Request::Map { protocol, .. } if !self.router.speaks.contains(&protocol) => {
                failed(Failure::NoRouter)
            }
            Request::Map { external, lease, .. } => match self.router.refusals.pop_front() {
                Some(failure) => failed(failure),
                None => Answer::Mapped(Granted {
                    gateway: GATEWAY.parse().unwrap(),
                    external: SocketAddr::new(self.router.external, external),
                    lease: self.router.lease.filter(|_| lease > Duration::ZERO),
                    epoch: self
                        .router
                        .epoch_began
                        .map(|at| u32::try_from((self.now - at).as_secs()).unwrap()),
                }),
            },
        }
    }

    fn member_hears(&mut self, peer: NodeId, ask: Ask) {
        self.asked.push(peer);
        if !self.members_answer {
            return;
        }
        let told = Told { token: ask.token, outcome: Outcome::Sent };
        self.mapper.handle_told(self.now, peer, told, &mut self.out);
        if self.router.forwards {
            assert!(self.mapper.heard(self.now, ask.token, &mut self.out));
        }
    }

    fn run_for(&mut self, time: Duration) {
        let end = self.now + time;
        for _ in 0..100_000 {
            let Some(deadline) = self.mapper.poll_timeout().filter(|d| d.at <= end) else { break };
            self.now = self.now.max(deadline.at);
            self.mapper.handle_timeout(self.now, &mut self.out);
            self.settle();
        }
        assert!(self.mapper.poll_timeout().is_none_or(|d| d.at > end), "it does not come to rest");
        self.now = end;
    }

    fn maps(&self) -> usize {
        self.requests.iter().filter(|(_, r)| matches!(r, Request::Map { .. })).count()
    }

    fn releases(&self) -> usize {
        self.requests.len() - self.maps()
    }
}

use core::net::Ipv4Addr;

#[test]
fn a_good_router_is_asked_once_and_believed_when_a_member_got_through() {
    let mut scene = Scene::new(Router::good());
    scene.network();
    let Some(believed) = scene.mapper.believed() else { panic!("{:?}", scene.mapper.status()) };
    assert_eq!(believed.ip().to_string(), OUTSIDE);
    assert_ne!(believed.port(), MAIN, "a port that may be open without a mapping proves nothing");
    assert_eq!((scene.maps(), scene.asked.len()), (1, 1));
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
    assert_eq!(scene.asked.len(), 2, "and it is proven anew");
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
fn a_private_or_shared_external_address_is_double_nat() {
    for external in ["10.1.2.3", "192.168.0.2", "100.64.7.7"] {
        let mut scene = Scene::new(Router { external: external.parse().unwrap(), ..Router::good() });
        scene.network();
        assert!(
            matches!(scene.mapper.status(), Status::Useless { why: Useless::Private, .. }),
            "{external}: {:?}",
            scene.mapper.status()
        );
        assert_eq!((scene.releases(), scene.asked.len()), (1, 0), "given back, and nobody is bothered");
        assert_eq!(scene.mapper.believed(), None);
    }
}

#[test]
fn an_external_address_that_nobody_sees_is_double_nat_after_a_grace() {
    let mut scene = Scene::new(Router::good());
    scene.seen_at("192.0.2.200");
    scene.network();
    assert!(matches!(scene.mapper.status(), Status::Mapped { proven_by: None, .. }));
    scene.run_for(Duration::from_secs(11));
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
    assert_eq!((scene.asked.len(), scene.releases()), (3, 1));
    assert!(scene.asked.contains(&member(1)) && scene.asked.contains(&member(2)), "{:?}", scene.asked);
    assert!(!scene.reports.iter().any(|r| matches!(r, Report::Proven { .. })));
    scene.run_for(REST - Duration::from_secs(120));
    assert_eq!(scene.maps(), 1, "it is left alone");
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
fn nonsense_that_is_granted_is_not_taken() {
    let odd = [
        Granted {
            gateway: GATEWAY.parse().unwrap(),
            external: "0.0.0.0:5000".parse().unwrap(),
            lease: None,
            epoch: None,
        },
        Granted {
            gateway: GATEWAY.parse().unwrap(),
            external: "198.51.100.9:0".parse().unwrap(),
            lease: None,
            epoch: None,
        },
        Granted {
            gateway: GATEWAY.parse().unwrap(),
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
fn a_probe_that_nobody_asked_for_proves_nothing() {
    let mut scene = Scene::new(Router::good());
    scene.members_answer = false;
    scene.network();
    for token in 0..1000 {
        assert!(!scene.mapper.heard(scene.now, ProbeToken(token), &mut scene.out));
    }
    assert_eq!(scene.mapper.believed(), None);
}

#[test]
fn a_prover_sends_three_probes_to_the_askers_own_ip_and_nowhere_else() {
    let mut prover = Prover::new(Rng::from_u64(3));
    let mut out = Outbox::new();
    let ask = Ask { token: ProbeToken(9), addr: "198.51.100.9:5000".parse().unwrap() };
    let seen: SocketAddr = "198.51.100.9:41000".parse().unwrap();
    let now = Time::from_millis(10);
    let told = |out: &mut Outbox<Event>| match out.pop_event() {
        Some(Event::ToPeer { message: Message::Told(told), .. }) => told.outcome,
        other => panic!("{other:?}"),
    };
    prover.handle_ask(now, member(1), (Some(seen), true), ask, &mut out);
    assert_eq!(told(&mut out), Outcome::Sent);
    let mut at = now;
    let mut sent = vec![];
    while let Some(deadline) = prover.poll_timeout() {
        at = deadline.at;
        prover.handle_timeout(at, &mut out);
    }
    while let Some(transmit) = out.pop_transmit() {
        sent.push(transmit);
    }
    assert_eq!(sent.len(), 3);
    assert!(at - now < Duration::from_secs(1));
    for transmit in sent {
        assert_eq!((transmit.from, transmit.to), (SocketId::OTHER, ask.addr));
        assert!(transmit.bytes.len() <= 36);
        assert!(matches!(
            stun::Message::parse(&transmit.bytes),
            Ok(stun::Message::ProbeIndication(probe)) if probe.token == ask.token
        ));
    }
    // The same member again at once, one seen elsewhere, one over a relay, a private target, no other port.
    let other: SocketAddr = "192.0.2.1:41000".parse().unwrap();
    let private = Ask { addr: "192.168.1.20:5000".parse().unwrap(), ..ask };
    let later = now + Duration::from_secs(10);
    prover.handle_ask(now, member(1), (Some(seen), true), ask, &mut out);
    prover.handle_ask(later, member(2), (Some(other), true), ask, &mut out);
    prover.handle_ask(later, member(3), (None, true), ask, &mut out);
    prover.handle_ask(later, member(4), (Some("192.168.1.20:1".parse().unwrap()), true), private, &mut out);
    prover.handle_ask(later, member(5), (Some(seen), false), ask, &mut out);
    let outcomes: Vec<Outcome> = (0..5).map(|_| told(&mut out)).collect();
    assert_eq!(
        outcomes,
        [Outcome::Busy, Outcome::NotYours, Outcome::NotYours, Outcome::NotYours, Outcome::CannotSend]
    );
    assert!(out.pop_transmit().is_none());
}

#[test]
fn a_prover_serves_a_bounded_number() {
    let mut prover = Prover::new(Rng::from_u64(3));
    let mut out = Outbox::new();
    let seen: SocketAddr = "198.51.100.9:41000".parse().unwrap();
    for n in 0..=255 {
        let ask = Ask { token: ProbeToken(n), addr: "198.51.100.9:5000".parse().unwrap() };
        let peer = member(u8::try_from(n).unwrap());
        prover.handle_ask(Time::from_millis(5), peer, (Some(seen), true), ask, &mut out);
    }
    assert_eq!(prover.len(), 32);
}

proptest::proptest! {
    #![proptest_config(proptest::prelude::ProptestConfig { failure_persistence: None, ..Default::default() })]

    /// Whatever routers and members do: requests are few, nothing unproven is believed, and leaving ends it.
    #[test]
    fn whatever_happens_it_stays_calm_and_believes_only_what_was_proven(
        steps in proptest::collection::vec((0u8..10, 0u64..200), 1..60), seed: u64,
    ) {
        let mut scene = Scene::new(Router::good());
        scene.mapper = PortMapper::new(Rng::from_u64(seed), Settings::default());
        let start = scene.now;
        let mut changes = 0u32;
        for (what, seconds) in steps {
            match what {
                0 => scene.router.forwards = !scene.router.forwards,
                1 => scene.router.speaks = if seconds % 2 == 0 { vec![] } else { vec![Protocol::NatPmp] },
                2 => scene.router.refusals.push_back(Failure::ALL[usize::try_from(seconds).unwrap() % 9]),
                3 => scene.members_answer = !scene.members_answer,
                4 => scene.router.external = if seconds % 2 == 0 { OUTSIDE } else { "100.64.0.1" }.parse().unwrap(),
                5 => scene.router.epoch_began = Some(scene.now),
                6 => { changes += 1; scene.network(); }
                7 => { changes += 1; scene.seen_at(if seconds % 2 == 0 { OUTSIDE } else { "192.0.2.77" }); }
                8 => scene.router.lease = Some(Duration::from_secs(seconds)),
                _ => {}
            }
            scene.run_for(Duration::from_secs(seconds));
            if scene.mapper.believed().is_some() {
                let proven = scene.reports.iter().any(|r| matches!(r, Report::Proven { .. }));
                proptest::prop_assert!(proven);
            }
        }
        // Leases shorter than a minute may be renewed every five seconds; changes may each cost a search.
        let elapsed = (scene.now - start).as_secs();
        let most = elapsed / 5 + u64::from(changes) * 16 + 40;
        proptest::prop_assert!((scene.requests.len() as u64) < most, "{} requests in {elapsed} s", scene.requests.len());
        scene.mapper.leave(&mut scene.out);
        scene.settle();
        proptest::prop_assert_eq!(scene.mapper.status(), Status::Left);
        proptest::prop_assert_eq!(scene.mapper.believed(), None);
        proptest::prop_assert!(scene.mapper.poll_timeout().is_none());
    }
}
