//! A world of nodes without NATs: every datagram, connection and control message arrives after a fixed
//! delay, unless its host is down or cut off. For promises of the node itself; what NATs do is the
//! simulator's business.
#![allow(dead_code, reason = "each test file uses its own part")]
#![allow(unreachable_pub, reason = "shared by several test crates")]
#![allow(clippy::unwrap_used, reason = "test code outside of test functions")]

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::Duration;

use net_mesh_proto::id::{MeshId, NodeId};
use net_mesh_proto::node::{Config, ConnId, DialFailure, DialId, Direction, Event, Input, Node, Output};
use net_mesh_proto::outbox::SocketId;
use net_mesh_proto::route::Route;
use net_mesh_proto::time::Time;

/// One way between any two hosts.
pub const DELAY: Duration = Duration::from_millis(20);
/// How long a dial to nobody takes to fail.
pub const DIAL_TIMEOUT: Duration = Duration::from_secs(5);
/// Every node's main port.
pub const PORT: u16 = 7000;

pub fn secs(n: u64) -> Duration {
    Duration::from_secs(n)
}

pub fn millis(n: u64) -> Duration {
    Duration::from_millis(n)
}

/// Something on its way to a host.
#[derive(Clone, Debug)]
enum Travel {
    Datagram { from: SocketAddr, to: SocketAddr, bytes: Vec<u8> },
    Opened { socket: SocketId, port: u16 },
    Connected { conn: ConnId, peer: usize, direction: Direction, dial: Option<DialId> },
    DialFailed { dial: DialId, failure: DialFailure },
    Control { conn: ConnId, bytes: Vec<u8> },
    Closed { conn: ConnId },
}

/// A node and the host it runs on.
pub struct Host {
    pub node: Node,
    pub ip: IpAddr,
    pub up: bool,
    pub events: Vec<(Time, Event)>,
    sockets: BTreeMap<SocketId, u16>,
    conns: BTreeMap<ConnId, usize>,
    next_port: u16,
    boot: u64,
    /// What the node last named.
    deadline: Option<Time>,
}

/// What a host is told to start with.
#[derive(Clone)]
pub struct Setup {
    pub bootstrap: Vec<usize>,
    pub nat_traversal: bool,
}

pub struct World {
    pub now: Time,
    pub hosts: Vec<Host>,
    /// Everything the nodes asked for, as text, where wanted.
    pub trace: Option<Vec<String>>,
    /// Datagrams and control messages that were sent, for mutation.
    pub corpus: Vec<(bool, Vec<u8>)>,
    /// Hosts that hear nothing from each other.
    pub cut: BTreeSet<(usize, usize)>,
    /// Bytes of STUN sent.
    pub stun_bytes: usize,
    pub dials: usize,
    flying: BTreeMap<(Time, u64), (usize, Travel)>,
    order: u64,
    next_conn: u64,
    seed: u8,
}

pub fn ip(n: usize) -> IpAddr {
    IpAddr::V4(Ipv4Addr::new(198, 51, u8::try_from(n / 200).unwrap(), u8::try_from(n % 200 + 1).unwrap()))
}

pub fn addr(n: usize) -> SocketAddr {
    SocketAddr::new(ip(n), PORT)
}

impl World {
    pub fn seeded(seed: u8) -> Self {
        Self {
            now: Time::from_millis(1_000),
            hosts: Vec::new(),
            trace: None,
            corpus: Vec::new(),
            cut: BTreeSet::new(),
            stun_bytes: 0,
            dials: 0,
            flying: BTreeMap::new(),
            order: 0,
            next_conn: 0,
            seed,
        }
    }

    /// Adds a host and starts its node.
    pub fn add(&mut self, setup: &Setup) -> usize {
        let n = self.hosts.len();
        let node = self.make(n, 1, setup);
        self.hosts.push(Host {
            node,
            ip: ip(n),
            up: true,
            events: Vec::new(),
            sockets: BTreeMap::new(),
            conns: BTreeMap::new(),
            next_port: 40_000,
            boot: 1,
            deadline: None,
        });
        self.start(n);
        n
    }

    /// `count` hosts that all start from the first.
    pub fn star(seed: u8, count: usize) -> Self {
        let mut world = Self::seeded(seed);
        for n in 0..count {
            let bootstrap = if n == 0 { vec![] } else { vec![0] };
            world.add(&Setup { bootstrap, nat_traversal: true });
        }
        world
    }

    fn make(&self, n: usize, boot: u64, setup: &Setup) -> Node {
        let mut secret = [9; 32];
        secret[..8].copy_from_slice(&(n as u64).to_be_bytes());
        let mut seed = [self.seed; 32];
        seed[..8].copy_from_slice(&(n as u64 * 1_000 + boot).to_be_bytes());
        let config = Config {
            secret,
            mesh: MeshId([7; 32]),
            name: format!("host {n}"),
            boot,
            unix_ms: 1_700_000_000_000 + self.now.as_millis(),
            bootstrap: setup.bootstrap.iter().map(|n| addr(*n)).collect(),
            stun_servers: Vec::new(),
            nat_traversal: setup.nat_traversal,
            relay: None,
            port_mapping: None,
            full_mesh: net_mesh_proto::peer::dialer::SMALL_MESH,
        };
        Node::new(self.now, seed, config)
    }

    fn start(&mut self, n: usize) {
        let host = &mut self.hosts[n];
        host.sockets = BTreeMap::from([(SocketId::MAIN, PORT), (SocketId::OTHER, PORT + 1)]);
        let ips = vec![host.ip, IpAddr::V4(Ipv4Addr::LOCALHOST)];
        let (main, other) = ([Some(PORT), None], [Some(PORT + 1), None]);
        self.input(n, Input::Network { ips, main, other });
    }

    /// The process ends without a word.
    pub fn crash(&mut self, n: usize) {
        self.hosts[n].up = false;
        let conns = std::mem::take(&mut self.hosts[n].conns);
        for (conn, peer) in conns {
            // The other side notices by an idle timeout.
            self.fly(peer, secs(30), Travel::Closed { conn });
        }
    }

    /// The process comes back and remembers nothing.
    pub fn restart(&mut self, n: usize, setup: &Setup) {
        self.hosts[n].boot += 1;
        let node = self.make(n, self.hosts[n].boot, setup);
        self.hosts[n].node = node;
        self.hosts[n].up = true;
        self.hosts[n].events.clear();
        self.start(n);
    }

    pub fn id(&self, n: usize) -> NodeId {
        self.hosts[n].node.node_id()
    }

    pub fn has_session(&self, a: usize, b: usize) -> bool {
        let peer = self.id(b);
        self.hosts[a].node.sessions().any(|s| s.peer == peer)
    }

    pub fn session(&self, a: usize, b: usize) -> Option<ConnId> {
        let peer = self.id(b);
        self.hosts[a].node.sessions().find(|s| s.peer == peer).map(|s| s.conn)
    }

    pub fn conns(&self) -> usize {
        self.hosts.iter().map(|h| h.conns.len()).sum()
    }

    /// Hands something in and carries out what follows.
    pub fn input(&mut self, n: usize, input: Input<'_>) {
        self.hosts[n].node.handle(self.now, input);
        self.carry_out(n);
    }

    fn fly(&mut self, to: usize, after: Duration, travel: Travel) {
        self.order += 1;
        self.flying.insert((self.now + after, self.order), (to, travel));
    }

    fn blocked(&self, a: usize, b: usize) -> bool {
        self.cut.contains(&(a.min(b), a.max(b)))
    }

    fn host_at(&self, ip: IpAddr) -> Option<usize> {
        self.hosts.iter().position(|h| h.ip == ip && h.up)
    }

    fn carry_out(&mut self, n: usize) {
        self.hosts[n].deadline = self.hosts[n].node.poll_timeout().map(|d| d.at);
        while let Some(output) = self.hosts[n].node.poll_output() {
            if let Some(trace) = &mut self.trace {
                trace.push(format!("{:?} {n} {output:?}", self.now));
            }
            match output {
                // No relays in this world.
                Output::Accept { .. }
                | Output::SetRoute { .. }
                | Output::Frame { .. }
                | Output::Label(_)
                | Output::PortMap { .. } => {}
                Output::Transmit(t) => {
                    let Some(port) = self.hosts[n].sockets.get(&t.from).copied() else { continue };
                    self.stun_bytes += t.bytes.len();
                    self.corpus.push((false, t.bytes.clone()));
                    let from = SocketAddr::new(self.hosts[n].ip, port);
                    if let Some(to) = self.host_at(t.to.ip()).filter(|to| !self.blocked(n, *to)) {
                        self.fly(to, DELAY, Travel::Datagram { from, to: t.to, bytes: t.bytes });
                    }
                }
                Output::OpenSocket { socket, .. } => {
                    self.hosts[n].next_port += 1;
                    let port = self.hosts[n].next_port;
                    self.fly(n, Duration::ZERO, Travel::Opened { socket, port });
                }
                Output::CloseSocket { socket } => {
                    self.hosts[n].sockets.remove(&socket);
                }
                Output::Control { conn, bytes } => {
                    self.corpus.push((true, bytes.clone()));
                    if let Some(peer) = self.hosts[n].conns.get(&conn).copied() {
                        self.fly(peer, DELAY, Travel::Control { conn, bytes });
                    }
                }
                Output::Dial { dial, peer, routes } => {
                    let addrs: Vec<_> = routes.into_iter().filter_map(Route::direct).collect();
                    self.dial(n, dial, peer, &addrs);
                }
                Output::CloseConnection { conn } | Output::GiveUp { conn } => self.close(n, conn),
                Output::Event(event) => {
                    let now = self.now;
                    self.hosts[n].events.push((now, event));
                }
            }
        }
    }

    fn dial(&mut self, n: usize, dial: DialId, peer: Option<NodeId>, addrs: &[SocketAddr]) {
        self.dials += 1;
        let answering = addrs.iter().filter(|a| a.port() == PORT).find_map(|a| self.host_at(a.ip()));
        let Some(to) = answering.filter(|to| !self.blocked(n, *to)) else {
            return self.fly(n, DIAL_TIMEOUT, Travel::DialFailed { dial, failure: DialFailure::Timeout });
        };
        if peer.is_some_and(|peer| peer != self.id(to)) {
            let failure = DialFailure::Rejected;
            return self.fly(n, DELAY * 2, Travel::DialFailed { dial, failure });
        }
        self.next_conn += 1;
        let conn = ConnId(self.next_conn);
        let direction = Direction::Outgoing;
        self.fly(n, DELAY * 2, Travel::Connected { conn, peer: to, direction, dial: Some(dial) });
        let direction = Direction::Incoming;
        self.fly(to, DELAY * 3, Travel::Connected { conn, peer: n, direction, dial: None });
    }

    /// A connection is closed by `n`.
    pub fn close(&mut self, n: usize, conn: ConnId) {
        if let Some(peer) = self.hosts[n].conns.remove(&conn) {
            self.fly(peer, DELAY, Travel::Closed { conn });
        }
    }

    fn deliver(&mut self, n: usize, travel: Travel) {
        if !self.hosts[n].up {
            return;
        }
        match travel {
            Travel::Datagram { from, to, bytes } => {
                let socket = self.hosts[n].sockets.iter().find(|(_, port)| **port == to.port());
                if let Some(socket) = socket.map(|(socket, _)| *socket) {
                    self.input(n, Input::Datagram { socket, from, bytes: &bytes });
                }
            }
            Travel::Opened { socket, port } => {
                self.hosts[n].sockets.insert(socket, port);
                let local = SocketAddr::new(Ipv4Addr::UNSPECIFIED.into(), port);
                self.input(n, Input::SocketOpened { socket, local });
            }
            Travel::Connected { conn, peer, direction, dial } => {
                self.hosts[n].conns.insert(conn, peer);
                let (peer, route) = (self.id(peer), Route::Direct(addr(peer)));
                let (rtt, key) = (DELAY * 2, [0; 32]);
                self.input(n, Input::Connected { conn, peer, direction, dial, route, rtt, key });
            }
            Travel::DialFailed { dial, failure } => self.input(n, Input::DialFailed { dial, failure }),
            Travel::Control { conn, bytes } => {
                if self.hosts[n].conns.contains_key(&conn) {
                    self.input(n, Input::Control { conn, bytes: &bytes });
                }
            }
            Travel::Closed { conn } => {
                if self.hosts[n].conns.remove(&conn).is_some() {
                    self.input(n, Input::Closed { conn });
                }
            }
        }
    }

    /// Lets time pass, and holds every node to the law about deadlines.
    pub fn run(&mut self, span: Duration) {
        let end = self.now + span;
        loop {
            let timer = (0..self.hosts.len())
                .filter(|n| self.hosts[*n].up)
                .filter_map(|n| Some((self.hosts[n].deadline?, n)))
                .min();
            let flight = self.flying.keys().next().map(|(at, _)| *at);
            let Some(at) = timer.map(|t| t.0).into_iter().chain(flight).min().filter(|at| *at <= end) else {
                break;
            };
            self.now = self.now.max(at);
            if flight == Some(at) {
                let (_, (n, travel)) = self.flying.pop_first().unwrap();
                self.deliver(n, travel);
            } else if let Some((_, n)) = timer {
                self.hosts[n].node.handle_timeout(self.now);
                let next = self.hosts[n].node.poll_timeout();
                assert!(next.is_none_or(|d| d.at > self.now), "busy loop at {:?}: {next:?}", self.now);
                self.carry_out(n);
            }
        }
        self.now = end;
    }
}
