//! Thousands of nodes in one thread: the protocol crate's [`Node`]s on the simulated internet, without QUIC.
//!
//! A stand-in for QUIC carries handshakes, control messages and messages of applications as datagrams through the
//! same links and NATs, so that loss costs time, NATs see the traffic they would see, and a connection exists only
//! where packets pass both ways (`machine.rs`, `handshake.rs`, `conn.rs`, `packet.rs`). Relayed datagrams are looked
//! up in the real label table (`labels.rs`), what passes is counted for the node (`traffic.rs`), applications say things
//! to each other (`flows.rs`), and things go wrong (`faults.rs`). Everything else is the real node. One seed, one course: compare [`Internet::trace`]'s fingerprints. When a test panics, the
//! world prints its seed and the last packets.
//!
//! ```
//! use std::time::Duration;
//! use net_mesh_sim::{Nat, World};
//!
//! let mut world = World::seeded(7).with_public_nodes(2);
//! let home = world.add(Nat::full_cone());
//! world.run_for(Duration::from_secs(5));
//! assert_eq!(world.members(home).len(), 2, "it has learnt of both others");
//! ```

mod conn;
mod faults;
mod flows;
mod handshake;
mod labels;
mod machine;
mod packet;
mod traffic;

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap};
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use net_mesh_proto::drops::DropCounts;
use net_mesh_proto::id::{MeshId, NodeId};
use net_mesh_proto::nat::Verdict;
use net_mesh_proto::node::{Command, Config, Event, Input, Node};
use net_mesh_proto::peer::dialer::SMALL_MESH;
use net_mesh_proto::portmap::Settings;
use net_mesh_proto::relay::Limits;
use net_mesh_proto::rng::Rng;
use net_mesh_proto::route::Route;
use net_mesh_proto::time::Time;

use crate::host::{Families, HostId};
use crate::internet::Internet;
use crate::link::Link;
use crate::nat::Chain;
use crate::oracle::{self, Means, Nature, Outlook, Reach};
use crate::topology::Place;
pub use faults::NOTICED;
pub use flows::Flow;
use flows::FlowTimer;
use machine::Machine;

/// A node of a world, in the order they were added. It keeps its number when it restarts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct NodeIx(pub u32);

/// How two nodes communicate.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum PathKind {
    /// They have a session, and both send straight to the other.
    Direct,
    /// They have a session, and one of them at least sends through others.
    Relayed,
    /// They have no session.
    None,
}

impl From<Reach> for PathKind {
    fn from(reach: Reach) -> Self {
        match reach {
            Reach::Direct => Self::Direct,
            Reach::Relayed => Self::Relayed,
            Reach::None => Self::None,
        }
    }
}

/// Where and how a node is added.
#[derive(Clone, Debug)]
pub struct Spec {
    /// Where its host is attached.
    pub place: Place,
    /// The boxes between that place and the host.
    pub chain: Chain,
    /// Its host's address families.
    pub families: Families,
    /// Both directions of its access link.
    pub link: Link,
    /// The port of its main socket; 0 for any, which on a public host without boxes means 4433.
    pub port: u16,
    /// Whom it joins through.
    pub join: Vec<SocketAddr>,
    /// Whether it asks for its NAT's behaviour and answers such questions.
    pub nat_traversal: bool,
    /// Whether it carries datagrams for others, within the default limits.
    pub relays: bool,
    /// Members up to which it keeps a session with everyone.
    pub full_mesh: usize,
    /// Whether it asks its router for a port.
    pub port_mapping: bool,
    /// Addresses of interfaces that lead nowhere for anybody else, as of containers and tunnels.
    pub useless: Vec<IpAddr>,
}

impl Default for Spec {
    fn default() -> Self {
        Self {
            place: Place::Public,
            chain: Chain::default(),
            families: Families::V4,
            link: Link::default(),
            port: 0,
            join: Vec::new(),
            nat_traversal: true,
            relays: true,
            full_mesh: SMALL_MESH,
            port_mapping: false,
            useless: Vec::new(),
        }
    }
}

struct Seat {
    host: HostId,
    config: Config,
    port: u16,
    machine: Option<Machine>,
    /// Known since its first start.
    id: Option<NodeId>,
    armed: Option<Time>,
}

/// A simulated internet with nodes on it, and the present instant.
pub struct World {
    net: Internet,
    now: Time,
    seed: u64,
    seats: Vec<Seat>,
    by_host: BTreeMap<HostId, NodeIx>,
    by_id: BTreeMap<NodeId, NodeIx>,
    due: BinaryHeap<Reverse<(Time, NodeIx)>>,
    /// When nodes hear of changes of their networks.
    notices: BinaryHeap<Reverse<(Time, NodeIx)>>,
    flows: BTreeMap<(NodeIx, NodeIx), Flow>,
    message_bytes: usize,
    flow_due: BinaryHeap<Reverse<(Time, FlowTimer, NodeIx, NodeIx)>>,
}

/// Packets drawn when a test fails.
const DRAWN: usize = 80;

/// 2026-01-01, in milliseconds since the Unix epoch: when every world begins.
const BEGINNING: u64 = 1_767_225_600_000;

/// How long a node that leaves stays for its goodbye to be heard.
const GOODBYE: Duration = Duration::from_secs(1);

impl World {
    /// A world without hosts. Everything random in it comes from `seed`.
    #[must_use]
    pub fn seeded(seed: u64) -> Self {
        Self {
            net: Internet::new(seed),
            now: Time::ZERO,
            seed,
            seats: Vec::new(),
            by_host: BTreeMap::new(),
            by_id: BTreeMap::new(),
            due: BinaryHeap::new(),
            notices: BinaryHeap::new(),
            flows: BTreeMap::new(),
            message_bytes: flows::MESSAGE_BYTES,
            flow_due: BinaryHeap::new(),
        }
    }

    /// Adds `count` nodes on the public internet. The first node of a world founds the mesh; each later one
    /// joins through it.
    #[must_use]
    pub fn with_public_nodes(self, count: u32) -> Self {
        self.with_public_nodes_on(count, &Link::default())
    }

    /// The same on given access links.
    #[must_use]
    pub fn with_public_nodes_on(mut self, count: u32, link: &Link) -> Self {
        for _ in 0..count {
            self.add_on(Chain::default(), link.clone());
        }
        self
    }

    /// Adds a node behind boxes of its own that joins through the first node.
    pub fn add(&mut self, chain: impl Into<Chain>) -> NodeIx {
        let join = self.first_address().into_iter().collect();
        self.add_with(Spec { chain: chain.into(), join, ..Spec::default() })
    }

    /// The same on a given access link.
    pub fn add_on(&mut self, chain: impl Into<Chain>, link: Link) -> NodeIx {
        let join = self.first_address().into_iter().collect();
        self.add_with(Spec { chain: chain.into(), link, join, ..Spec::default() })
    }

    /// Adds a node.
    pub fn add_with(&mut self, spec: Spec) -> NodeIx {
        let place = self.net.topology.add_chain(spec.place, &spec.chain);
        let host = self.net.add_host_with(place, spec.families);
        self.net.set_link(self.now, host, &spec.link);
        spec.useless.iter().for_each(|ip| self.net.add_useless(host, *ip));
        let ix = NodeIx(u32::try_from(self.seats.len()).unwrap_or(u32::MAX));
        let mut rng = Rng::from_u64(self.seed).fork(&format!("node {}", ix.0));
        let mut secret = [0; 32];
        secret.chunks_mut(8).for_each(|chunk| chunk.copy_from_slice(&rng.u64().to_le_bytes()));
        let config = Config {
            secret,
            mesh: MeshId([7; 32]),
            name: format!("n{}", ix.0),
            boot: 0,
            unix_ms: BEGINNING,
            bootstrap: spec.join,
            stun_servers: Vec::new(),
            nat_traversal: spec.nat_traversal,
            relay: spec.relays.then(Limits::default),
            port_mapping: spec.port_mapping.then(Settings::default),
            full_mesh: spec.full_mesh,
        };
        self.net.set_name(host, config.name.clone());
        // Public nodes are found again after a restart.
        let port = if spec.port == 0 && self.net.nats(host).is_empty() { PUBLIC_PORT } else { spec.port };
        self.seats.push(Seat { host, config, port, machine: None, id: None, armed: None });
        self.by_host.insert(host, ix);
        self.start(ix);
        ix
    }

    /// The public address of the first node that is on the public internet.
    fn first_address(&self) -> Option<SocketAddr> {
        let public = |ix: &NodeIx| self.net.nats(self.host(*ix)).is_empty();
        (0..u32::try_from(self.seats.len()).unwrap_or(0))
            .map(NodeIx)
            .find(public)
            .and_then(|ix| self.address(ix))
    }

    /// Starts a node that does not run, with a boot number above its last.
    pub fn start(&mut self, ix: NodeIx) {
        let (now, seat) = (self.now, &mut self.seats[ix.0 as usize]);
        if seat.machine.is_some() {
            return;
        }
        // Connections are numbered from the beginning again.
        self.flows.iter_mut().filter(|((from, _), _)| *from == ix).for_each(|(_, flow)| flow.forget_sent());
        seat.config.boot += 1;
        seat.config.unix_ms = BEGINNING + now.as_millis();
        let machine = Machine::start(&mut self.net, now, seat.host, seat.config.clone(), seat.port);
        self.by_id.insert(machine.id, ix);
        seat.id = Some(machine.id);
        seat.machine = Some(machine);
        self.arm(ix);
    }

    /// Ends a node without a word.
    pub fn crash(&mut self, ix: NodeIx) {
        if let Some(mut machine) = self.seats[ix.0 as usize].machine.take() {
            machine.crash(&mut self.net);
        }
    }

    /// Ends a node in order: it says goodbye, and is gone a second later.
    pub fn leave(&mut self, ix: NodeIx) {
        self.command(ix, Command::Leave);
        self.run_for(GOODBYE);
        if let Some(mut machine) = self.seats[ix.0 as usize].machine.take() {
            machine.stop(&mut self.net, self.now);
        }
    }

    /// Gives a node a command. Nothing happens where it does not run.
    pub fn command(&mut self, ix: NodeIx, command: Command) {
        if let Some(machine) = &mut self.seats[ix.0 as usize].machine {
            machine.handle(&mut self.net, self.now, Input::Command(command));
            self.arm(ix);
            self.hear(ix);
        }
    }

    /// Lets both nodes want a session with each other.
    pub fn connect(&mut self, a: NodeIx, b: NodeIx) -> &mut Self {
        let (of_a, of_b) = (self.id(a), self.id(b));
        if let (Some(of_a), Some(of_b)) = (of_a, of_b) {
            self.command(a, Command::Want { peer: of_b });
            self.command(b, Command::Want { peer: of_a });
        }
        self
    }

    /// Changes both directions of a node's access link.
    pub fn set_link(&mut self, ix: NodeIx, link: &Link) {
        self.net.set_link(self.now, self.host(ix), link);
    }

    /// Lets time pass.
    pub fn run_for(&mut self, time: Duration) {
        let end = self.now + time;
        while self.step(end) {}
        self.now = end;
    }

    /// Lets time pass until `done`, for `limit` at most; whether it came true.
    pub fn run_until(&mut self, limit: Duration, mut done: impl FnMut(&Self) -> bool) -> bool {
        let end = self.now + limit;
        while !done(self) {
            if !self.step(end) {
                self.now = end;
                return done(self);
            }
        }
        true
    }

    /// Does what comes next, unless that is after `end`.
    fn step(&mut self, end: Time) -> bool {
        let timer = self.due.peek().map(|Reverse((at, _))| *at);
        let flow = self.flow_due.peek().map(|Reverse((at, ..))| *at);
        let notice = self.notices.peek().map(|Reverse((at, _))| *at);
        let packet = self.net.poll_timeout();
        let Some(next) =
            [timer, flow, notice, packet].into_iter().flatten().min().filter(|next| *next <= end)
        else {
            return false;
        };
        self.now = self.now.max(next);
        if let Some(delivery) = self.net.poll_delivery(next) {
            let Some(ix) = self.by_host.get(&delivery.host).copied() else { return true };
            if let Some(machine) = &mut self.seats[ix.0 as usize].machine {
                machine.receive(&mut self.net, self.now, &delivery);
                self.arm(ix);
                self.hear(ix);
            }
        } else if timer.is_some_and(|at| at <= next) {
            self.wake();
        } else if flow.is_some_and(|at| at <= next) {
            self.wake_flow();
        } else if notice.is_some_and(|at| at <= next) {
            self.tell_network();
        }
        true
    }

    fn wake(&mut self) {
        let Some(Reverse((at, ix))) = self.due.pop() else { return };
        let seat = &mut self.seats[ix.0 as usize];
        if seat.armed == Some(at) {
            seat.armed = None;
        }
        if let Some(machine) = &mut seat.machine {
            if machine.poll_timeout().is_some_and(|due| due <= self.now) {
                machine.handle_timeout(&mut self.net, self.now);
            }
            self.arm(ix);
            self.hear(ix);
        }
    }

    /// Makes sure that a node is woken when it asked to be.
    fn arm(&mut self, ix: NodeIx) {
        let seat = &mut self.seats[ix.0 as usize];
        let next = seat.machine.as_mut().and_then(Machine::poll_timeout).map(|next| next.max(self.now));
        if let Some(next) = next
            && seat.armed.is_none_or(|armed| next < armed)
        {
            seat.armed = Some(next);
            self.due.push(Reverse((next, ix)));
        }
    }

    /// The present instant.
    #[must_use]
    pub const fn now(&self) -> Time {
        self.now
    }

    /// The internet the nodes are on.
    #[must_use]
    pub const fn net(&self) -> &Internet {
        &self.net
    }

    /// The same, to change it.
    pub const fn net_mut(&mut self) -> &mut Internet {
        &mut self.net
    }

    /// How many nodes there are, running or not; their numbers are `0..len`.
    #[must_use]
    pub fn len(&self) -> u32 {
        u32::try_from(self.seats.len()).unwrap_or(u32::MAX)
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.seats.is_empty()
    }

    /// The host of a node.
    #[must_use]
    pub fn host(&self, ix: NodeIx) -> HostId {
        self.seats[ix.0 as usize].host
    }

    /// A node's machine; `None` while it does not run.
    #[must_use]
    pub fn node(&self, ix: NodeIx) -> Option<&Node> {
        self.seats[ix.0 as usize].machine.as_ref().map(|machine| &machine.node)
    }

    /// A node's id; `None` while it does not run.
    #[must_use]
    pub fn id(&self, ix: NodeIx) -> Option<NodeId> {
        self.seats[ix.0 as usize].machine.as_ref().map(|machine| machine.id)
    }

    /// The address of a node's main socket at its first interface; `None` while it does not run.
    #[must_use]
    pub fn address(&self, ix: NodeIx) -> Option<SocketAddr> {
        let seat = &self.seats[ix.0 as usize];
        let ip = *self.net.ips(seat.host).first()?;
        Some(SocketAddr::new(ip, seat.machine.as_ref()?.main_port(ip.is_ipv6())?))
    }

    /// What a node found its NAT to be, and what it missed where an axis stayed unknown.
    #[must_use]
    pub fn verdict(&self, ix: NodeIx) -> (Verdict, Option<&'static str>) {
        self.node(ix).map_or((Verdict::UNKNOWN, None), |node| {
            let (verdict, _, missing) = node.verdict(self.now);
            (verdict, missing)
        })
    }

    /// What a node's NATs really are.
    #[must_use]
    pub fn actual(&self, ix: NodeIx) -> Nature {
        oracle::actual(&self.net, self.host(ix))
    }

    /// How two nodes can communicate at best.
    #[must_use]
    pub fn outlook(&self, a: NodeIx, b: NodeIx, means: Means) -> Outlook {
        oracle::pair(&self.net, self.host(a), self.host(b), means)
    }

    /// The other members that a node knows, by number.
    #[must_use]
    pub fn members(&self, ix: NodeIx) -> Vec<NodeIx> {
        let known = self.node(ix).into_iter().flat_map(|node| node.members().map(|m| m.record.node));
        let mut members: Vec<NodeIx> = known.filter_map(|id| self.by_id.get(&id).copied()).collect();
        members.sort_unstable();
        members
    }

    /// The nodes that a node has a session with, by number.
    #[must_use]
    pub fn sessions(&self, ix: NodeIx) -> Vec<NodeIx> {
        let peers = self.node(ix).into_iter().flat_map(|node| node.sessions().map(|s| s.peer));
        let mut sessions: Vec<NodeIx> = peers.filter_map(|id| self.by_id.get(&id).copied()).collect();
        sessions.sort_unstable();
        sessions
    }

    /// How two nodes communicate now. Both must have the session.
    #[must_use]
    pub fn path(&self, a: NodeIx, b: NodeIx) -> PathKind {
        match (self.route(a, b), self.route(b, a)) {
            (Some(Route::Direct(_)), Some(Route::Direct(_))) => PathKind::Direct,
            (Some(_), Some(_)) => PathKind::Relayed,
            (None, _) | (_, None) => PathKind::None,
        }
    }

    /// How a node's packets travel to another one now; `None` where it has no session with it, or knows no way.
    #[must_use]
    pub fn route(&self, from: NodeIx, to: NodeIx) -> Option<Route> {
        let peer = self.id(to)?;
        self.node(from)?.path(&peer).map(|(route, _)| route)
    }

    /// The nodes that forward what `from` sends to `to`, in order; none where there is no session, or it is
    /// direct. Stops where nobody knows the label.
    #[must_use]
    pub fn via(&self, from: NodeIx, to: NodeIx) -> Vec<NodeIx> {
        let circuit = self.route(from, to).and_then(Route::circuit);
        let machine = |ix: NodeIx| self.seats[ix.0 as usize].machine.as_ref();
        let mut hop = circuit.and_then(|circuit| machine(from)?.labels().out(circuit));
        let (mut at, mut via) = (from, Vec::new());
        while let Some((addr, label)) = hop {
            let neighbour = |s: net_mesh_proto::peer::Session| s.route.direct() == Some(addr);
            let next = self.node(at).and_then(|node| node.sessions().find(|s| neighbour(*s)));
            let Some(next) = next.and_then(|session| self.by_id.get(&session.peer).copied()) else { break };
            if next == to || via.len() == self.seats.len() {
                break;
            }
            via.push(next);
            hop = machine(next).and_then(|machine| machine.labels().hop(label));
            at = next;
        }
        via
    }

    /// What was discarded at a node since it started.
    #[must_use]
    pub fn drops(&self, ix: NodeIx) -> DropCounts {
        self.seats[ix.0 as usize].machine.as_ref().map(Machine::drops).unwrap_or_default()
    }

    /// The last events of a node since it started, at most 4 096, with their instants.
    pub fn events(&self, ix: NodeIx) -> impl DoubleEndedIterator<Item = &(Time, Event)> {
        self.seats[ix.0 as usize].machine.iter().flat_map(|machine| machine.events.iter())
    }
}

/// Where public nodes listen unless told otherwise.
const PUBLIC_PORT: u16 = 4433;

impl Drop for World {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("world of seed {} at {} ms:", self.seed, self.now.as_millis());
            eprintln!("{}", self.net.diagram(DRAWN));
        }
    }
}

#[cfg(test)]
mod tests;
