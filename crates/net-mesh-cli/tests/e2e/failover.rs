//! Networks that fail under 500 events a second: nothing is lost, nothing comes twice, and no session is opened
//! anew.
//!
//! Every test makes one kind of fault once. `figures`, which is not run with the others, makes each many times and
//! prints how long the stream paused; `cargo xtask bench failover` runs it.

use std::collections::BTreeMap;
use std::time::{Duration, Instant, SystemTime};
use std::{env, thread};

use patchbay::Nat;

use crate::support::faults::{Hole, describe, dig, fill};
use crate::support::line::Quality;
use crate::support::mesh::Mesh;
use crate::support::net::{Behind, Host, Net};
use crate::support::node::Node;
use crate::support::stream::Stream;
use crate::support::wait_until;

/// A crossing of one access line: two make a round trip of 40 ms between homes, and 80 ms through a relay.
const CROSSING: Duration = Duration::from_millis(10);

/// How long things may take that are no promise of this test's: generous, since machines are busy.
const LIMIT: Duration = Duration::from_secs(60);

/// How long a lab is left alone before a fault, so that the one before is forgiven.
const CALM: Duration = Duration::from_secs(2);

/// How long a path must have been well before a fault of it counts as its first.
const FORGIVEN: Duration = Duration::from_secs(9);

/// What a fault did.
#[derive(Clone, Debug, Default)]
struct Outcome {
    /// The longest time without an event while it lasted.
    gap: Duration,
    /// From its end to the next event.
    back: Option<Duration>,
    /// From its end to a direct path.
    direct: Option<Duration>,
    /// What the publisher said of the direct way, and when after the fault.
    suspect: Option<Duration>,
    failed: Option<Duration>,
}

/// Who talks, through whom, and where.
struct Scene {
    net: Net,
    mesh: Mesh,
    hosts: [Host; 2],
}

fn quality(seed: u64) -> Quality {
    Quality { delay: CROSSING, loss: 0.0, seed }
}

impl Scene {
    fn new(left: Behind, right: Option<Behind>) -> Self {
        let mut net = Net::new();
        let helpers =
            [("fra", 1), ("lon", 2)].map(|(name, seed)| net.host_over(name, Behind::Nothing, quality(seed)));
        let left = net.host_over("left", left, quality(3));
        let right = match right {
            Some(behind) => net.host_over("right", behind, quality(4)),
            None => net.host_with_two_uplinks("right", quality(4)),
        };
        let mesh = Mesh::around(helpers.into(), vec![left.clone(), right.clone()]);
        Self { net, mesh, hosts: [left, right] }
    }
}

/// A scene in which everybody runs and the left one publishes to the right one.
struct Play<'a> {
    scene: &'a Scene,
    nodes: BTreeMap<usize, Node<'a>>,
    stream: Option<Stream>,
    ups: [usize; 2],
}

const LEFT: usize = 2;
const RIGHT: usize = 3;

impl<'a> Play<'a> {
    fn begin(scene: &'a Scene, direct: bool, bytes: usize) -> Self {
        let mut nodes: BTreeMap<usize, Node<'a>> = (0..4).map(|n| (n, scene.mesh.start(n))).collect();
        nodes.values_mut().for_each(Node::wait_until_it_answers);
        let mut play = Self { scene, nodes, stream: None, ups: [0, 0] };
        let (left, right) = (scene.mesh.home(LEFT), scene.mesh.home(RIGHT));
        wait_until("they know each other", LIMIT, || {
            let knows =
                |n: usize, name: &str| play.nodes[&n].peers().iter().any(|peer| peer["name"] == *name);
            (knows(LEFT, "right") && knows(RIGHT, "left")).then_some(())
        });
        play.stream = Some(Stream::start(left, right, "news", bytes));
        if direct {
            play.wait_until_direct();
        } else {
            play.wait_until_relayed();
        }
        play.calm();
        play.ups = play.session_ups();
        play
    }

    fn stream(&self) -> &Stream {
        self.stream.as_ref().unwrap()
    }

    fn path(&self, from: usize, to: &str) -> (String, Vec<String>) {
        let peers = self.nodes[&from].peers();
        let peer = peers.iter().find(|peer| peer["name"] == *to);
        let path = peer.map(|peer| peer["path"].clone()).unwrap_or_default();
        let via = path["via"].as_array().cloned().unwrap_or_default();
        let via = via.iter().filter_map(|name| name.as_str().map(str::to_owned)).collect();
        (path["kind"].as_str().unwrap_or_default().to_owned(), via)
    }

    fn is(&self, kind: &str) -> bool {
        self.path(LEFT, "right").0 == kind && self.path(RIGHT, "left").0 == kind
    }

    fn wait_until_direct(&self) -> Duration {
        let start = Instant::now();
        wait_until("both go straight", LIMIT, || self.is("direct").then_some(()));
        start.elapsed()
    }

    fn wait_until_relayed(&self) {
        wait_until("both are relayed", LIMIT, || self.is("relayed").then_some(()));
    }

    fn calm(&self) {
        let well = || {
            let health = |n: usize, to: &str| {
                self.nodes[&n].peers().iter().any(|peer| peer["name"] == *to && peer["health"] == "healthy")
            };
            health(LEFT, "right") && health(RIGHT, "left")
        };
        wait_until("both are well", LIMIT, || well().then_some(()));
        thread::sleep(CALM);
    }

    fn log(&self, n: usize) -> String {
        self.nodes[&n].process.log()
    }

    /// How often the two have opened a session with each other.
    fn session_ups(&self) -> [usize; 2] {
        [(LEFT, "right"), (RIGHT, "left")].map(|(n, other)| {
            let log = self.log(n);
            log.lines()
                .filter(|line| line.contains("session up") && line.contains(&format!("name=\"{other}\"")))
                .count()
        })
    }

    /// When the left one first said that a direct way to the right one has this health, after `since`.
    fn said(&self, health: &str, since: SystemTime) -> Option<Duration> {
        let log = self.log(LEFT);
        let word = format!("health={health}");
        let said = log.lines().filter(|line| line.contains(&word) && line.contains("name=\"right\""));
        let straight = said.filter(|line| !line.contains("route=circuit"));
        straight
            .filter_map(|line| parse_time(line.split_whitespace().next()?))
            .find_map(|at| at.duration_since(since).ok())
    }

    /// Makes a fault, and ends it.
    fn fault(&self, lasts: Duration, begin: impl FnOnce(), end: impl FnOnce(), direct: bool) -> Outcome {
        let (start, clock) = (Instant::now(), SystemTime::now());
        begin();
        thread::sleep(lasts);
        let healed = Instant::now();
        end();
        let ended = Instant::now();
        let back = self.stream().next_after(ended, LIMIT);
        let gap = self.stream().gap(start, healed);
        let direct = direct.then(|| {
            self.wait_until_direct();
            healed.elapsed()
        });
        Outcome {
            gap,
            back,
            direct,
            suspect: self.said("suspect", clock),
            failed: self.said("failed", clock),
        }
    }

    /// Ends the stream, and checks what must hold after everything.
    fn end(mut self, sessions_live_on: bool) -> u64 {
        let stream = self.stream.take().unwrap();
        let ended = stream.end();
        let ups = self.session_ups();
        let logs = || format!("{}\n{}\n{}", self.log(LEFT), self.log(RIGHT), describe(&self.scene.hosts[1]));
        let count = ended.unwrap_or_else(|problem| panic!("{problem}\n{}", logs()));
        if sessions_live_on {
            assert_eq!(ups, self.ups, "a session was opened anew:\n{}", logs());
        }
        for (_, node) in std::mem::take(&mut self.nodes) {
            node.stop();
        }
        count
    }
}

/// `2026-11-23T04:05:06.123456Z`
fn parse_time(text: &str) -> Option<SystemTime> {
    let text = text.trim_end_matches('Z');
    let (date, time) = text.split_once('T')?;
    let mut date = date.split('-').map(|n| n.parse::<i64>().ok());
    let (year, month, day) = (date.next()??, date.next()??, date.next()??);
    let mut time = time.split(':').map(|n| n.parse::<f64>().ok());
    let seconds = time.next()?? * 3600.0 + time.next()?? * 60.0 + time.next()??;
    // Days since 1970, by the civil calendar: years begin in March, so that the leap day is last.
    let (y, m) = if month <= 2 { (year - 1, month + 9) } else { (year, month - 3) };
    let days = 365 * y + y / 4 - y / 100 + y / 400 + (153 * m + 2) / 5 + day - 1 - 719_468;
    let days = u64::try_from(days).ok()?;
    Some(SystemTime::UNIX_EPOCH + Duration::from_secs(days * 86_400) + Duration::from_secs_f64(seconds))
}

#[test]
fn the_times_of_a_log_are_understood() {
    let at = parse_time("2026-11-23T04:05:06.250000Z").unwrap();
    let since = at.duration_since(SystemTime::UNIX_EPOCH).unwrap();
    assert_eq!(since, Duration::from_millis(1_795_406_706_250));
}

/// A kind of fault: its name, the scene for it, and what is done.
struct Fault {
    name: &'static str,
    scene: fn() -> Scene,
    /// Whether the two go straight before and after it.
    direct: bool,
    bytes: usize,
    sessions_live_on: bool,
    act: fn(&mut Play<'_>) -> Outcome,
}

fn homes() -> Scene {
    Scene::new(Behind::PortRestricted, Some(Behind::PortRestricted))
}

fn hole(play: &Play<'_>, hole: Hole) -> Outcome {
    let [left, right] = &play.scene.hosts;
    play.fault(Duration::from_secs(6), || dig(hole, left, right), || fill(left), true)
}

fn unplugged(play: &Play<'_>, seconds: u64) -> Outcome {
    let right = &play.scene.hosts[1];
    play.fault(Duration::from_secs(seconds), || right.plug(0, false), || right.plug(0, true), true)
}

const FAULTS: [Fault; 14] = [
    Fault {
        name: "hole both ways",
        scene: homes,
        direct: true,
        bytes: 100,
        sessions_live_on: true,
        act: |play| hole(play, Hole::BothWays),
    },
    Fault {
        name: "hole to the subscriber",
        scene: homes,
        direct: true,
        bytes: 100,
        sessions_live_on: true,
        act: |play| hole(play, Hole::There),
    },
    Fault {
        name: "hole to the publisher",
        scene: homes,
        direct: true,
        bytes: 100,
        sessions_live_on: true,
        act: |play| hole(play, Hole::Back),
    },
    Fault {
        name: "hole above 600 B",
        scene: homes,
        direct: true,
        bytes: 1000,
        sessions_live_on: true,
        act: |play| hole(play, Hole::Large),
    },
    Fault {
        name: "relay killed",
        scene: || Scene::new(Behind::Symmetric, Some(Behind::Symmetric)),
        direct: false,
        bytes: 100,
        sessions_live_on: true,
        act: |play| {
            let (_, via) = play.path(LEFT, "right");
            let relay = play.scene.mesh.place(via.first().expect("a relay"));
            let node = play.nodes.remove(&relay).unwrap();
            let killed = std::cell::RefCell::new(Some(node));
            let outcome = play.fault(
                Duration::from_secs(6),
                || killed.borrow_mut().as_mut().unwrap().process.signal("KILL"),
                || drop(killed.borrow_mut().take()),
                false,
            );
            let mut again = play.scene.mesh.start(relay);
            again.wait_until_it_answers();
            play.nodes.insert(relay, again);
            thread::sleep(Duration::from_secs(8));
            outcome
        },
    },
    Fault {
        name: "uplink out for 2 s",
        scene: homes,
        direct: true,
        bytes: 100,
        sessions_live_on: true,
        act: |play| unplugged(play, 2),
    },
    Fault {
        name: "uplink out for 10 s",
        scene: homes,
        direct: true,
        bytes: 100,
        sessions_live_on: true,
        act: |play| unplugged(play, 10),
    },
    Fault {
        name: "uplink out for 60 s",
        scene: homes,
        direct: true,
        bytes: 100,
        sessions_live_on: true,
        act: |play| unplugged(play, 60),
    },
    Fault {
        name: "second uplink takes over",
        scene: || Scene::new(Behind::PortRestricted, None),
        direct: true,
        bytes: 100,
        sessions_live_on: true,
        act: |play| {
            let right = &play.scene.hosts[1];
            let swap = || {
                right.plug(0, false);
                right.route_over(1);
            };
            play.fault(Duration::from_secs(6), swap, || right.plug(0, true), true)
        },
    },
    Fault {
        name: "default route moved",
        scene: || Scene::new(Behind::PortRestricted, None),
        direct: true,
        bytes: 100,
        sessions_live_on: true,
        act: |play| {
            let right = &play.scene.hosts[1];
            play.fault(Duration::from_secs(6), || right.route_over(1), || right.route_over(0), true)
        },
    },
    Fault {
        name: "NAT flushed, cone",
        scene: homes,
        direct: true,
        bytes: 100,
        sessions_live_on: true,
        act: |play| {
            let right = &play.scene.hosts[1];
            play.fault(Duration::from_secs(4), || right.flush_nat(), || {}, true)
        },
    },
    Fault {
        name: "NAT rebinds, symmetric subscriber",
        scene: || Scene::new(Behind::FullCone, Some(Behind::Symmetric)),
        direct: true,
        bytes: 100,
        sessions_live_on: true,
        act: |play| {
            let right = &play.scene.hosts[1];
            play.fault(Duration::from_secs(4), || right.flush_nat(), || {}, true)
        },
    },
    Fault {
        name: "NAT rebinds, symmetric publisher",
        scene: || Scene::new(Behind::Symmetric, Some(Behind::FullCone)),
        direct: true,
        bytes: 100,
        sessions_live_on: true,
        act: |play| {
            let left = &play.scene.hosts[0];
            play.fault(Duration::from_secs(4), || left.flush_nat(), || {}, true)
        },
    },
    Fault {
        name: "cone becomes symmetric and cone again",
        scene: homes,
        direct: true,
        bytes: 100,
        sessions_live_on: true,
        act: |play| {
            let right = &play.scene.hosts[1];
            let net = &play.scene.net;
            let lasts = Duration::from_secs(10);
            play.fault(
                lasts,
                || net.change_nat(right, Nat::Strict),
                || net.change_nat(right, Nat::Moderate),
                true,
            )
        },
    },
];

fn once(name: &str) {
    let fault = FAULTS.iter().find(|fault| fault.name == name).unwrap();
    let scene = (fault.scene)();
    let mut play = Play::begin(&scene, fault.direct, fault.bytes);
    let outcome = (fault.act)(&mut play);
    println!("{name}: {outcome:?}");
    assert!(outcome.back.is_some(), "no event came any more");
    play.end(fault.sessions_live_on);
}

macro_rules! faults {
    ($($test:ident: $name:literal,)*) => {
        $(#[test]
        fn $test() {
            once($name);
        })*
    };
}

faults! {
    a_direct_path_that_is_a_hole_both_ways: "hole both ways",
    a_direct_path_that_is_a_hole_to_the_subscriber: "hole to the subscriber",
    a_direct_path_that_is_a_hole_to_the_publisher: "hole to the publisher",
    a_direct_path_that_carries_nothing_large: "hole above 600 B",
    a_relay_that_is_killed: "relay killed",
    an_uplink_that_is_out_for_ten_seconds: "uplink out for 10 s",
    a_second_uplink_that_takes_over: "second uplink takes over",
    a_default_route_that_moves: "default route moved",
    a_nat_that_forgets: "NAT flushed, cone",
    a_symmetric_nat_that_rebinds: "NAT rebinds, symmetric subscriber",
    a_nat_that_changes_its_kind: "cone becomes symmetric and cone again",
}

fn percentile(sorted: &[Duration], share: f64) -> Duration {
    #[allow(clippy::cast_precision_loss, clippy::cast_possible_truncation, clippy::cast_sign_loss)]
    let at = ((sorted.len() as f64 - 1.0) * share).round() as usize;
    sorted[at]
}

fn spread(mut values: Vec<Duration>) -> String {
    values.sort_unstable();
    if values.is_empty() {
        return "-".to_owned();
    }
    format!("{} / {}", percentile(&values, 0.5).as_millis(), percentile(&values, 0.99).as_millis())
}

#[test]
#[ignore = "takes half an hour; `cargo xtask bench failover` runs it"]
fn figures() {
    let runs: usize = env::var("NET_MESH_RUNS").ok().and_then(|runs| runs.parse().ok()).unwrap_or(20);
    let wanted = env::var("NET_MESH_FAULTS").unwrap_or_default();
    println!("| fault | runs | gap | next event after it | direct after it | suspect | failed | events |");
    println!("|---|---|---|---|---|---|---|---|");
    for fault in FAULTS.iter().filter(|fault| fault.name.contains(&wanted)) {
        let scene = (fault.scene)();
        let mut play = Play::begin(&scene, fault.direct, fault.bytes);
        let mut outcomes = Vec::new();
        // A minute each is too long for twenty.
        let runs = if fault.name.contains("60 s") { runs.div_ceil(4) } else { runs };
        for _ in 0..runs {
            outcomes.push((fault.act)(&mut play));
            play.calm();
            thread::sleep(FORGIVEN);
        }
        let of =
            |which: fn(&Outcome) -> Option<Duration>| spread(outcomes.iter().filter_map(which).collect());
        let count = play.end(fault.sessions_live_on);
        println!(
            "| {} | {runs} | {} | {} | {} | {} | {} | {count} |",
            fault.name,
            of(|o| Some(o.gap)),
            of(|o| o.back),
            of(|o| o.direct),
            of(|o| o.suspect),
            of(|o| o.failed),
        );
        println!("<!-- {outcomes:?} -->");
    }
}
