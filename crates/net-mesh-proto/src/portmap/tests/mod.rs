//! A mapper, its router, and members who can be asked to send to it.

mod asking;
mod proof;
mod prover;

use core::net::Ipv4Addr;
use std::collections::VecDeque;
use std::string::ToString as _;
use std::vec;
use std::vec::Vec;

use super::wire::{Ask, Message, Outcome, Told};
use super::*;
use crate::outbox::Outbox;
use crate::peer::Local;
use crate::reflex::stun::ProbeToken;
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
    /// What its clock always says.
    clock: Option<u32>,
    forwards: bool,
    /// The address of this host by which the router knows it.
    leads_to: IpAddr,
}

impl Router {
    fn good() -> Self {
        Self {
            speaks: Protocol::ALL.to_vec(),
            external: OUTSIDE.parse().unwrap(),
            lease: Some(Duration::from_secs(3600)),
            refusals: VecDeque::new(),
            epoch_began: Some(Time::ZERO),
            clock: None,
            forwards: true,
            leads_to: HOME.parse().unwrap(),
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
    /// Members who say that they have sent, and have not.
    liars: Vec<NodeId>,
    /// Protocols whose mappings are not forwarded.
    useless_by: Vec<Protocol>,
    /// What the last member was asked with.
    asked_with: Option<ProbeToken>,
    /// From which port of theirs members send.
    from_port: u16,
    out: Outbox<Event>,
    requests: Vec<(Time, Request)>,
    asked: Vec<NodeId>,
    reports: Vec<Report>,
}

fn member(n: u8) -> NodeId {
    NodeId([n; 32])
}

fn witness(n: u8) -> Witness {
    Witness { id: member(n), addr: (Ipv4Addr::new(203, 0, 113, n), 7000).into() }
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
            liars: vec![],
            useless_by: vec![],
            asked_with: None,
            from_port: 7001,
            out: Outbox::new(),
            requests: Vec::new(),
            asked: Vec::new(),
            reports: Vec::new(),
        };
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
                    host: self.router.leads_to,
                    external: SocketAddr::new(self.router.external, external),
                    lease: self.router.lease.filter(|_| lease > Duration::ZERO),
                    epoch: self.router.clock.or_else(|| {
                        let since = self.now - self.router.epoch_began?;
                        u32::try_from(since.as_secs()).ok()
                    }),
                }),
            },
        }
    }

    fn member_hears(&mut self, peer: NodeId, ask: Ask) {
        self.asked.push(peer);
        self.asked_with = Some(ask.token);
        let useless = matches!(
            self.mapper.status(), Status::Mapped { protocol, .. } if self.useless_by.contains(&protocol)
        );
        if !self.members_answer {
            return;
        }
        let told = Told { token: ask.token, outcome: Outcome::Sent };
        self.mapper.handle_told(self.now, peer, told, &mut self.out);
        if self.router.forwards && !useless && !self.liars.contains(&peer) {
            let from = SocketAddr::from((Ipv4Addr::new(203, 0, 113, peer.0[0]), self.from_port));
            for _ in 0..3 {
                assert!(self.mapper.heard(self.now, from, ask.token, &mut self.out));
            }
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

proptest::proptest! {
    #![proptest_config(proptest::prelude::ProptestConfig { failure_persistence: None, ..Default::default() })]

    /// Whatever routers and members do: requests are few, nothing unproven is believed, and leaving ends it.
    #[test]
    fn whatever_happens_it_stays_calm_and_believes_only_what_was_proven(
        steps in proptest::collection::vec((0u8..13, 0u64..200), 1..60), seed: u64,
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
                9 => scene.from_port = if seconds % 2 == 0 { 7000 } else { 7001 },
                10 => scene.router.leads_to = if seconds % 4 == 0 { "192.168.1.99" } else { HOME }.parse().unwrap(),
                11 => { changes += 1; scene.mapper.slept(scene.now, &mut scene.out); scene.settle(); }
                _ => {}
            }
            scene.run_for(Duration::from_secs(seconds));
            if let Some(believed) = scene.mapper.believed() {
                // Since it was mapped, or mapped again, this very address was reached.
                let since = scene.reports.iter().rposition(|r| {
                    matches!(r, Report::Mapped { .. } | Report::Lost { .. } | Report::Useless { .. })
                });
                let proven = scene.reports[since.unwrap_or(0)..]
                    .iter()
                    .any(|r| matches!(r, Report::Proven { external, .. } if *external == believed));
                proptest::prop_assert!(proven, "{:?}", scene.reports);
            }
        }
        // Leases shorter than a minute may be renewed every five seconds, or every second when they end; changes may each
        // cost a search.
        let elapsed = (scene.now - start).as_secs();
        let most = elapsed / 2 + u64::from(changes) * 16 + 40;
        proptest::prop_assert!((scene.requests.len() as u64) < most, "{} requests in {elapsed} s", scene.requests.len());
        scene.mapper.leave(&mut scene.out);
        scene.settle();
        proptest::prop_assert_eq!(scene.mapper.status(), Status::Left);
        proptest::prop_assert_eq!(scene.mapper.believed(), None);
        proptest::prop_assert!(scene.mapper.poll_timeout().is_none());
    }
}
