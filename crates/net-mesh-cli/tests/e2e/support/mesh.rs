//! A mesh of real nodes in a lab, and what some of them say to each other from the first moment on.
//!
//! Those who talk start first and alone, and subscribe; only then come those through whom they meet. So
//! whoever hears of a talker for the first time hears of its subscription as well, and may publish at once:
//! not one event may be lost from then on, whatever way there is and however it changes.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs::{self, File};
use std::io::Write as _;
use std::net::SocketAddr;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::path::PathBuf;
use std::process::{ChildStdin, Stdio};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use serde_json::Value;

use super::net::Host;
use super::node::{Home, Node};
use super::process::Running;
use super::wait_until;

/// The port that every node listens on.
pub(crate) const PORT: u16 = 7_400;

/// How long nodes may take to hear of each other: those who started alone rest for some seconds between their
/// attempts.
const MEET: Duration = Duration::from_secs(40);

/// How long a new subscription may wait for its place in the record of its node, which changes once a second at
/// most.
const RECORD: Duration = Duration::from_secs(2);

/// Between two events of one publisher, and between two looks at the paths.
const EVERY: Duration = Duration::from_millis(50);
const LOOK: Duration = Duration::from_millis(250);

/// How long talk goes on after all paths are what they should be.
const AFTERWARDS: Duration = Duration::from_secs(1);

/// How long the last events may be under way.
const LAST_EVENTS: Duration = Duration::from_secs(15);

/// How two members must reach each other in the end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Way {
    Direct,
    /// Through others, and `why` must say this word among its reasons.
    Relayed {
        because: &'static str,
    },
    /// Through exactly these, in order from the left one; `why` must have a reason.
    Via(&'static [&'static str]),
}

/// Two members by their places in the mesh, and the way between them.
pub(crate) type Pair = (usize, usize, Way);

struct Member {
    host: Host,
    home: Home,
    /// What its `up` is told besides where to listen.
    options: &'static [&'static str],
}

/// Members that are ready to start.
pub(crate) struct Mesh {
    members: Vec<Member>,
}

impl Mesh {
    /// A mesh of hosts, each with the addresses it starts from; the first one needs none.
    fn new(hosts: Vec<(Host, Vec<SocketAddr>)>) -> Self {
        let mut members: Vec<Member> = Vec::new();
        for (host, start) in hosts {
            let home = Home::new(host.place());
            match members.first() {
                None => home.init(&host.name),
                Some(first) => home.join(&first.home.invite(&start), &host.name),
            }
            members.push(Member { host, home, options: &[] });
        }
        Self { members }
    }

    /// Everyone starts from the addresses of `helpers`, which come first in the mesh.
    pub(crate) fn around(helpers: Vec<Host>, others: Vec<Host>) -> Self {
        let start: Vec<SocketAddr> = helpers.iter().flat_map(|host| host.all_at(PORT)).collect();
        Self::new(helpers.into_iter().chain(others).map(|host| (host, start.clone())).collect())
    }

    /// Everyone starts from the one before, at the address it has towards the next.
    pub(crate) fn in_a_row(hosts: Vec<Host>) -> Self {
        let mut before = None;
        let start = |host: Host| {
            let own = host.all_at(PORT).last().copied();
            let start = before.take();
            before = own;
            (host, start.into_iter().collect())
        };
        Self::new(hosts.into_iter().map(start).collect())
    }

    /// The place of a member in the mesh.
    pub(crate) fn place(&self, name: &str) -> usize {
        self.members.iter().position(|m| m.host.name == name).unwrap()
    }

    pub(crate) fn home(&self, member: usize) -> &Home {
        &self.members[member].home
    }

    fn name(&self, member: usize) -> &str {
        &self.members[member].host.name
    }

    /// Gives a member further options of `up`.
    pub(crate) fn with_options(mut self, name: &str, options: &'static [&'static str]) -> Self {
        let member = self.place(name);
        self.members[member].options = options;
        self
    }

    /// Starts a member without waiting for it.
    pub(crate) fn start(&self, member: usize) -> Node<'_> {
        let Member { host, home, options } = &self.members[member];
        let addrs = host.all_at(PORT);
        let listen = |any: &str, v4: bool| {
            let listens = addrs.iter().any(|addr| addr.is_ipv4() == v4);
            listens.then(|| ["--listen".to_owned(), format!("{any}:{PORT}")])
        };
        let listen = [listen("0.0.0.0", true), listen("[::]", false)];
        let listen: Vec<String> = listen.into_iter().flatten().flatten().collect();
        let arguments: Vec<&str> = listen.iter().map(String::as_str).chain(options.iter().copied()).collect();
        home.start(&arguments)
    }

    fn peers(&self, member: usize) -> Value {
        self.home(member).json(&["peers", "--json"])
    }

    /// Whether the path from one member, whose `peers` these are, to another is the wanted one.
    fn problem(&self, peers: &Value, from: usize, to: usize, way: Way, reversed: bool) -> Option<String> {
        let (kind, via) = path_in(peers, self.name(to));
        let pair = format!("{} to {}", self.name(from), self.name(to));
        let direct = way == Way::Direct;
        if (kind == "direct") != direct || (kind == "relayed") == direct {
            return Some(format!("{pair}: {kind} via {via:?} instead of {way:?}"));
        }
        if direct {
            return None;
        }
        let why = self.home(from).run(&["why", self.name(to), "--json"]);
        let answer: Value = serde_json::from_str(&why.stdout).unwrap_or_default();
        let Some(reason) = answer["reason"].as_str() else {
            return Some(format!("{pair}: via {via:?}, and `why` says {why:?}"));
        };
        let fits = match way {
            Way::Direct => true,
            Way::Relayed { because } => !via.is_empty() && reason.contains(because),
            Way::Via(wanted) => {
                let mut wanted = wanted.to_vec();
                if reversed {
                    wanted.reverse();
                }
                via == wanted && !reason.is_empty()
            }
        };
        (!fits).then(|| format!("{pair}: via {via:?} for this reason: {reason:?} instead of {way:?}"))
    }

    /// What a human needs to find out why a pair did not do what it should.
    fn describe(&self, left: usize, right: usize) -> String {
        let mut text = String::new();
        for (from, to) in [(left, right), (right, left)] {
            let (name, home) = (self.name(from), self.home(from));
            let _ = writeln!(text, "--- {name}: status, and why {} ---", self.name(to));
            let _ = writeln!(text, "{}", home.run(&["status"]).stdout);
            let why = home.run(&["why", self.name(to)]);
            let _ = writeln!(text, "{}{}", why.stdout, why.stderr);
            text += &self.members[from].host.describe_routers();
        }
        text
    }
}

fn path_in(peers: &Value, name: &str) -> (String, Vec<String>) {
    let peer = peers.as_array().and_then(|peers| peers.iter().find(|peer| peer["name"] == name));
    let path = peer.map_or(&Value::Null, |peer| &peer["path"]);
    let via = path["via"].as_array().cloned().unwrap_or_default();
    let via = via.iter().filter_map(|name| name.as_str().map(str::to_owned)).collect();
    (path["kind"].as_str().unwrap_or("unknown").to_owned(), via)
}

/// A `publish` that is fed line by line.
struct Speaker {
    member: usize,
    process: Running,
    stdin: ChildStdin,
    said: usize,
}

/// A `subscribe` that writes to a file.
struct Listener {
    member: usize,
    process: Running,
    heard: PathBuf,
    channel: &'static str,
}

/// The channel on which the left members of pairs publish, and the one of the right members.
const CHANNELS: [&str; 2] = ["from-left", "from-right"];

/// Runs the mesh until every pair has the way it must have, while both sides of every pair publish to each
/// other. Fails, with all that could explain it, where a way is not the wanted one within `limit`, or an
/// event is missing, repeated or out of place.
pub(crate) fn talk(mesh: &Mesh, pairs: &[Pair], limit: Duration) {
    let side = |side: usize| {
        let mut members: Vec<usize> = pairs.iter().map(|pair| [pair.0, pair.1][side]).collect();
        members.sort_unstable();
        members.dedup();
        members
    };
    let sides = [side(0), side(1)];
    let talkers: Vec<usize> = sides.iter().flatten().copied().collect();
    let mut nodes: Vec<Node<'_>> = talkers.iter().map(|&member| mesh.start(member)).collect();
    nodes.iter_mut().for_each(Node::wait_until_it_answers);
    let mut listeners: Vec<Listener> = Vec::new();
    for (side, members) in sides.iter().enumerate() {
        listeners.extend(members.iter().map(|&member| listen(mesh, member, CHANNELS[1 - side])));
    }
    for listener in &mut listeners {
        listener.wait_until_it_hears_itself(mesh);
    }
    thread::sleep(RECORD);
    let others = (0..mesh.members.len()).filter(|member| !talkers.contains(member));
    nodes.extend(others.map(|member| mesh.start(member)));
    nodes.iter_mut().for_each(Node::wait_until_it_answers);

    let talk = Talk { mesh, pairs, sides, speakers: Mutex::default(), over: AtomicBool::new(false) };
    let mut problems = thread::scope(|scope| {
        let speaking = scope.spawn(|| talk.speak());
        // A panic must not leave the scope waiting for a thread that goes on for ever.
        let problems = catch_unwind(AssertUnwindSafe(|| talk.watch(limit)));
        talk.over.store(true, Ordering::Relaxed);
        speaking.join().unwrap();
        problems.unwrap_or_else(|panic| resume_unwind(panic))
    });
    let speakers = talk.speakers.into_inner().unwrap();
    let said: Vec<(usize, usize)> = speakers.into_iter().map(|speaker| speaker.end(mesh)).collect();
    let deadline = Instant::now() + LAST_EVENTS;
    problems.extend(listeners.iter().flat_map(|listener| listener.problems(mesh, pairs, &said, deadline)));

    if problems.is_empty() {
        drop(listeners);
        nodes.into_iter().for_each(Node::stop);
        return;
    }
    let mut text = String::new();
    let mut described = Vec::new();
    for (pair, problem) in &problems {
        let _ = writeln!(text, "{problem}");
        // A few in full: the others are likely to have the same reason.
        if !described.contains(pair) && described.len() < 3 {
            described.push(*pair);
        }
    }
    for (left, right) in described {
        text += &mesh.describe(left, right);
    }
    panic!("{} problems:\n{text}", problems.len());
}

/// What is wrong, and with which pair.
type Problem = ((usize, usize), String);

struct Talk<'a> {
    mesh: &'a Mesh,
    pairs: &'a [Pair],
    sides: [Vec<usize>; 2],
    speakers: Mutex<Vec<Speaker>>,
    over: AtomicBool,
}

impl Talk<'_> {
    /// Lets every speaker say its next line, again and again.
    fn speak(&self) {
        while !self.over.load(Ordering::Relaxed) {
            for speaker in self.speakers.lock().unwrap().iter_mut() {
                let line = format!("{} {}\n", self.mesh.name(speaker.member), speaker.said);
                if let Err(error) = speaker.stdin.write_all(line.as_bytes()) {
                    panic!("publish ended: {error}\n{}", speaker.process.log());
                }
                speaker.said += 1;
            }
            thread::sleep(EVERY);
        }
    }

    fn peers_of(&self, members: &[usize]) -> BTreeMap<usize, Value> {
        members.iter().map(|&member| (member, self.mesh.peers(member))).collect()
    }

    /// Adds speakers as soon as they know their listeners; then waits until the ways are the wanted ones.
    fn watch(&self, limit: Duration) -> Vec<Problem> {
        let start = Instant::now();
        let mut silent: Vec<(usize, usize)> =
            [0, 1].iter().flat_map(|&side| self.sides[side].iter().map(move |&m| (side, m))).collect();
        wait_until("everybody hears of everybody", MEET, || {
            silent.retain(|&(side, member)| {
                let peers = self.mesh.peers(member);
                let knows = |&other: &usize| path_in(&peers, self.mesh.name(other)).0 != "unknown";
                let ready = self.sides[1 - side].iter().all(knows);
                if ready {
                    let speaker = Speaker::start(self.mesh, member, CHANNELS[side]);
                    self.speakers.lock().unwrap().push(speaker);
                }
                !ready
            });
            silent.is_empty().then_some(())
        });
        let met = start.elapsed();
        let mut missing: Vec<&Pair> = self.pairs.iter().collect();
        let mut found = Vec::new();
        while !missing.is_empty() && start.elapsed() < met + limit {
            thread::sleep(LOOK);
            let peers = self.peers_of(&self.sides[0]);
            missing.retain(|&&(left, right, way)| {
                let problem = self.mesh.problem(&peers[&left], left, right, way, false);
                if problem.is_none() {
                    let names = [left, right].map(|m| self.mesh.name(m));
                    found.push(format!(
                        "{} to {}: {way:?} after {:.1?}",
                        names[0],
                        names[1],
                        start.elapsed() - met
                    ));
                }
                problem.is_some()
            });
        }
        println!("all met after {met:.1?}\n{}", found.join("\n"));
        thread::sleep(AFTERWARDS);
        // Only now: who was direct by accident, or for a moment, is found out as well.
        let peers = [0, 1].map(|side| self.peers_of(&self.sides[side]));
        let ways = self.pairs.iter().flat_map(|&(left, right, way)| {
            let there = self.mesh.problem(&peers[0][&left], left, right, way, false);
            let back = self.mesh.problem(&peers[1][&right], right, left, way, true);
            there.into_iter().chain(back).map(move |problem| ((left, right), problem))
        });
        ways.collect()
    }
}

impl Speaker {
    fn start(mesh: &Mesh, member: usize, channel: &str) -> Self {
        let mut process = mesh.home(member).background(&["publish", channel], Stdio::piped(), Stdio::null());
        let stdin = process.child().stdin.take().unwrap();
        Self { member, process, stdin, said: 0 }
    }

    /// Says no more; who it was, and how much it said.
    fn end(self, mesh: &Mesh) -> (usize, usize) {
        let Self { member, mut process, stdin, said } = self;
        drop(stdin);
        let status = process.wait(LAST_EVENTS).and_then(|status| status.code());
        assert_eq!(status, Some(0), "publish of {}:\n{}", mesh.name(member), process.log());
        assert!(said > 0, "{} said nothing", mesh.name(member));
        (member, said)
    }
}

fn listen(mesh: &Mesh, member: usize, channel: &'static str) -> Listener {
    let home = mesh.home(member);
    let heard = home.beside("heard");
    let out = File::create(&heard).unwrap();
    let process = home.background(&["subscribe", channel], Stdio::null(), out.into());
    Listener { member, process, heard, channel }
}

/// What a listener says to itself.
const HELLO: &str = "hello";

impl Listener {
    fn text(&self) -> String {
        fs::read_to_string(&self.heard).unwrap()
    }

    fn wait_until_it_hears_itself(&mut self, mesh: &Mesh) {
        // A subscription hears its own node as well. Nobody else has heard of this node yet.
        wait_until("a subscription", MEET, || {
            assert!(self.process.is_running(), "subscribe of {} ended", mesh.name(self.member));
            mesh.home(self.member).ok(&["publish", self.channel, HELLO]);
            self.text().contains(HELLO).then_some(())
        });
    }

    /// Waits for the last events of all whom it listens to, and compares.
    fn problems(
        &self,
        mesh: &Mesh,
        pairs: &[Pair],
        said: &[(usize, usize)],
        deadline: Instant,
    ) -> Vec<Problem> {
        let others = pairs.iter().filter_map(|&(left, right, _)| match self.member {
            member if member == left => Some(((left, right), right)),
            member if member == right => Some(((left, right), left)),
            _ => None,
        });
        let problem = |(pair, other): ((usize, usize), usize)| {
            let &(_, said) = said.iter().find(|(speaker, _)| *speaker == other)?;
            let wanted: Vec<String> = (0..said).map(|n| n.to_string()).collect();
            loop {
                let text = self.text();
                let lines = text.lines().filter_map(|line| line.split_once(' '));
                let own = lines.filter(|(name, _)| *name == mesh.name(other)).map(|(_, n)| n);
                let heard: Vec<&str> = own.collect();
                if heard == wanted {
                    return None;
                }
                if heard.len() > wanted.len() || Instant::now() > deadline {
                    let at = heard.iter().zip(&wanted).take_while(|(a, b)| *a == *b).count();
                    let names = [other, self.member].map(|member| mesh.name(member));
                    let [from, to] = names;
                    let next: Vec<_> = heard[at..].iter().take(3).collect();
                    let counts = format!("{} of {said} events", heard.len());
                    return Some((
                        pair,
                        format!("{from} to {to}: {counts}; after {at} in order come {next:?}"),
                    ));
                }
                thread::sleep(EVERY);
            }
        };
        others.filter_map(problem).collect()
    }
}
