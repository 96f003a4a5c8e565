//! One simulated node: what drives its [`Node`] and plays QUIC for it.
//!
//! A dial is honest: handshake datagrams go from the main socket to every address, again at
//! [`ATTEMPTS`], for [`DIAL_LIMIT`] at most. Whoever is meant answers along the way they came; the first
//! answer from an address that was asked settles it for the opener, the opener's first data for the other
//! side. So a connection exists only where packets pass both ways through all NATs.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap, VecDeque};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use net_mesh_proto::id::NodeId;
use net_mesh_proto::node::{Config, ConnId, DialFailure, DialId, Direction, Event, Input, Node, Output};
use net_mesh_proto::outbox::SocketId;
use net_mesh_proto::rng::Rng;
use net_mesh_proto::route::Route;
use net_mesh_proto::time::Time;
use net_mesh_proto::wire::DatagramKind;

use super::conn::{Conn, Heard};
use super::packet::{Body, Packet};
use crate::host::HostId;
use crate::internet::{Delivery, Internet};

/// When handshake datagrams are sent, in milliseconds from the start: pauses double, as QUIC's do.
const ATTEMPTS: [u64; 5] = [0, 300, 900, 2100, 4500];

/// When a dial is given up: the next pause of the series would be over at 9.3 s.
const DIAL_LIMIT: Duration = Duration::from_secs(8);

/// Connections asked for by others and not settled, at most. More are not answered.
const MAX_HALF: usize = 1024;

/// How long one of those is kept: longer than a dial lasts.
const HALF_LIMIT: Duration = Duration::from_secs(10);

/// Events kept for queries; the oldest go first.
const MAX_EVENTS: usize = 4096;

/// Timeouts a node may handle at one instant. Several machines may be due at once; a hundred are a loop.
const BUSY: u32 = 100;

#[derive(Debug)]
struct Dial {
    peer: Option<NodeId>,
    addrs: Vec<SocketAddr>,
    key: u64,
    started: Time,
    round: usize,
    sent: Time,
    refused: bool,
}

#[derive(Debug)]
struct Half {
    from: NodeId,
    at: Time,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Timer {
    Dial(DialId),
    Conn(ConnId),
}

/// A node and its sockets, dials and connections.
pub(crate) struct Machine {
    pub(crate) host: HostId,
    pub(crate) id: NodeId,
    pub(crate) node: Node,
    pub(crate) events: VecDeque<(Time, Event)>,
    sockets: BTreeMap<SocketId, [Option<SocketAddr>; 2]>,
    by_port: BTreeMap<(bool, u16), SocketId>,
    dials: BTreeMap<DialId, Dial>,
    half: BTreeMap<u64, Half>,
    conns: BTreeMap<ConnId, Conn>,
    /// By key and whether this side opened it.
    by_key: BTreeMap<(u64, bool), ConnId>,
    next_conn: u64,
    rng: Rng,
    timers: BinaryHeap<Reverse<(Time, Timer)>>,
    inputs: VecDeque<Input<'static>>,
    busy: (Time, u32),
}

impl Machine {
    /// Binds the sockets and starts the node. `main` is the port of the main socket, 0 for any.
    pub(crate) fn start(net: &mut Internet, now: Time, host: HostId, config: Config, main: u16) -> Self {
        let rng = Rng::from_seed(config.secret).fork(&format!("machine {}", config.boot));
        let mut seed = [0; 32];
        let mut seeds = rng.fork("node");
        seed.chunks_mut(8).for_each(|chunk| chunk.copy_from_slice(&seeds.u64().to_le_bytes()));
        let node = Node::new(now, seed, config);
        let mut machine = Self {
            host,
            id: node.node_id(),
            node,
            events: VecDeque::new(),
            sockets: BTreeMap::new(),
            by_port: BTreeMap::new(),
            dials: BTreeMap::new(),
            half: BTreeMap::new(),
            conns: BTreeMap::new(),
            by_key: BTreeMap::new(),
            next_conn: 0,
            rng,
            timers: BinaryHeap::new(),
            inputs: VecDeque::new(),
            busy: (now, 0),
        };
        let ips = net.ips(host).to_vec();
        for (socket, port) in [(SocketId::MAIN, main), (SocketId::OTHER, 0)] {
            for v6 in [false, true] {
                if ips.iter().any(|ip| ip.is_ipv6() == v6) {
                    machine.open(net, socket, v6, port);
                }
            }
        }
        let [main, other] = [SocketId::MAIN, SocketId::OTHER].map(|socket| machine.ports(socket));
        machine.handle(net, now, Input::Network { ips, main, other });
        machine
    }

    fn ports(&self, socket: SocketId) -> [Option<u16>; 2] {
        self.sockets.get(&socket).copied().unwrap_or_default().map(|local| local.map(|local| local.port()))
    }

    /// The local port of the main socket.
    pub(crate) fn main_port(&self, v6: bool) -> Option<u16> {
        self.ports(SocketId::MAIN)[usize::from(v6)]
    }

    fn open(&mut self, net: &mut Internet, socket: SocketId, v6: bool, port: u16) -> Option<SocketAddr> {
        let any = if v6 { IpAddr::V6(Ipv6Addr::UNSPECIFIED) } else { IpAddr::V4(Ipv4Addr::UNSPECIFIED) };
        let local = net.bind(self.host, SocketAddr::new(any, port)).ok()?;
        self.sockets.entry(socket).or_default()[usize::from(v6)] = Some(local);
        self.by_port.insert((v6, local.port()), socket);
        Some(local)
    }

    fn close_socket(&mut self, net: &mut Internet, socket: SocketId) {
        for local in self.sockets.remove(&socket).into_iter().flatten().flatten() {
            self.by_port.remove(&(local.is_ipv6(), local.port()));
            net.close(self.host, local);
        }
    }

    /// Ends it without a word: a crash.
    pub(crate) fn crash(&mut self, net: &mut Internet) {
        let sockets: Vec<SocketId> = self.sockets.keys().copied().collect();
        sockets.into_iter().for_each(|socket| self.close_socket(net, socket));
    }

    /// Ends it in order: closes every connection, then the sockets.
    pub(crate) fn stop(&mut self, net: &mut Internet, now: Time) {
        let conns: Vec<ConnId> = self.conns.keys().copied().collect();
        for id in conns {
            self.close(net, now, id);
        }
        self.crash(net);
    }

    pub(crate) fn poll_timeout(&self) -> Option<Time> {
        let node = self.node.poll_timeout().map(|deadline| deadline.at);
        let own = self.timers.peek().map(|Reverse((at, _))| *at);
        [node, own].into_iter().flatten().min()
    }

    pub(crate) fn handle_timeout(&mut self, net: &mut Internet, now: Time) {
        while let Some(Reverse((at, timer))) = self.timers.peek().copied() {
            if at > now {
                break;
            }
            self.timers.pop();
            match timer {
                Timer::Dial(dial) => self.poll_dial(net, now, dial),
                Timer::Conn(conn) => self.poll_conn(net, now, conn),
            }
        }
        if let Some(deadline) = self.node.poll_timeout().filter(|deadline| deadline.at <= now) {
            self.busy = if self.busy.0 == now { (now, self.busy.1 + 1) } else { (now, 1) };
            assert!(self.busy.1 < BUSY, "{:?} loops at {now:?}: {}", self.id, deadline.why);
            self.node.handle_timeout(now);
        }
        self.carry_out(net, now);
    }

    pub(crate) fn handle(&mut self, net: &mut Internet, now: Time, input: Input<'_>) {
        self.node.handle(now, input);
        self.carry_out(net, now);
    }

    fn carry_out(&mut self, net: &mut Internet, now: Time) {
        loop {
            if let Some(output) = self.node.poll_output() {
                self.act(net, now, output);
            } else if let Some(input) = self.inputs.pop_front() {
                self.node.handle(now, input);
            } else {
                return;
            }
        }
    }

    fn act(&mut self, net: &mut Internet, now: Time, output: Output) {
        match output {
            Output::Transmit(transmit) => self.transmit(net, now, transmit.from, transmit.to, transmit.bytes),
            Output::OpenSocket { socket, v6 } => {
                let opened = self.open(net, socket, v6, 0);
                self.inputs.push_back(match opened {
                    Some(local) => Input::SocketOpened { socket, local },
                    None => Input::SocketFailed { socket },
                });
            }
            Output::CloseSocket { socket } => self.close_socket(net, socket),
            Output::Control { conn, bytes } => {
                if let Some(live) = self.conns.get_mut(&conn) {
                    live.send(now, &bytes);
                    self.poll_conn(net, now, conn);
                }
            }
            Output::Dial { dial, peer, routes } => {
                let addrs = routes.into_iter().filter_map(Route::direct).collect();
                self.dial(net, now, dial, peer, addrs);
            }
            Output::Accept { .. } | Output::SetRoute { .. } | Output::Frame { .. } | Output::Label(_) => {}
            Output::CloseConnection { conn } => self.close(net, now, conn),
            Output::Event(event) => {
                if self.events.len() == MAX_EVENTS {
                    self.events.pop_front();
                }
                self.events.push_back((now, event));
            }
        }
    }

    fn transmit(&self, net: &mut Internet, now: Time, from: SocketId, to: SocketAddr, bytes: Vec<u8>) {
        let locals = self.sockets.get(&from).copied().unwrap_or_default();
        if let Some(local) = locals[usize::from(to.is_ipv6())] {
            net.send(now, self.host, local, to, bytes);
        }
    }

    fn send(&self, net: &mut Internet, now: Time, to: SocketAddr, packet: &Packet) {
        self.transmit(net, now, SocketId::MAIN, to, packet.encode());
    }

    /// A datagram that reached one of the sockets.
    pub(crate) fn receive(&mut self, net: &mut Internet, now: Time, delivery: &Delivery) {
        let local = delivery.local;
        let Some(socket) = self.by_port.get(&(local.is_ipv6(), local.port())).copied() else { return };
        let (from, bytes) = (delivery.from, &delivery.payload[..]);
        match bytes.first().map(|first| DatagramKind::of(*first)) {
            Some(DatagramKind::Stun) => self.handle(net, now, Input::Datagram { socket, from, bytes }),
            Some(DatagramKind::Quic) if socket == SocketId::MAIN => {
                if let Ok(packet) = Packet::decode(bytes) {
                    self.handle_packet(net, now, from, packet);
                    self.carry_out(net, now);
                }
            }
            _ => {}
        }
    }

    fn handle_packet(&mut self, net: &mut Internet, now: Time, from: SocketAddr, packet: Packet) {
        let Packet { key, by_opener, body } = packet;
        let conn = self.by_key.get(&(key, !by_opener)).copied();
        match (body, conn) {
            (Body::Hello { from: peer, to }, _) => self.asked(net, now, from, key, (peer, to)),
            (Body::Welcome { from: peer }, None) => self.welcomed(net, now, from, key, peer),
            (Body::Refuse, None) => {
                let dial = self.dials.values_mut().find(|dial| dial.key == key && dial.addrs.contains(&from));
                if let Some(dial) = dial {
                    dial.refused = true;
                }
            }
            (Body::Close, Some(conn)) => self.forget(conn),
            (body @ (Body::Data { .. } | Body::Ack { .. } | Body::Ping), Some(conn)) => {
                self.hear(net, now, conn, body);
            }
            (body @ Body::Data { .. }, None) if by_opener && self.half.contains_key(&key) => {
                self.settle(net, now, from, key, body);
            }
            (Body::Data { .. } | Body::Ack { .. } | Body::Ping, None) => {
                if !self.half.contains_key(&key) {
                    self.send(net, now, from, &Packet { key, by_opener: !by_opener, body: Body::Close });
                }
            }
            (Body::Welcome { .. } | Body::Refuse, Some(_)) | (Body::Close, None) => {}
        }
    }

    /// Someone wants a connection.
    fn asked(
        &mut self,
        net: &mut Internet,
        now: Time,
        from: SocketAddr,
        key: u64,
        (peer, wanted): (NodeId, Option<NodeId>),
    ) {
        let answer = |body| Packet { key, by_opener: false, body };
        if wanted.is_some_and(|id| id != self.id) {
            return self.send(net, now, from, &answer(Body::Refuse));
        }
        if !self.by_key.contains_key(&(key, false)) {
            if self.half.len() >= MAX_HALF {
                self.half.retain(|_, half| now < half.at + HALF_LIMIT);
            }
            if self.half.len() >= MAX_HALF && !self.half.contains_key(&key) {
                return;
            }
            self.half.entry(key).or_insert(Half { from: peer, at: now });
        }
        self.send(net, now, from, &answer(Body::Welcome { from: self.id }));
    }

    /// Someone answered a dial.
    fn welcomed(&mut self, net: &mut Internet, now: Time, from: SocketAddr, key: u64, peer: NodeId) {
        let found = self.dials.iter().find(|(_, dial)| dial.key == key && dial.addrs.contains(&from));
        let Some((id, wanted, sent)) = found.map(|(id, dial)| (*id, dial.peer, dial.sent)) else { return };
        if wanted.is_some_and(|wanted| wanted != peer) {
            return;
        }
        self.dials.remove(&id);
        let rtt = now - sent;
        let conn = Conn::new(now, key, true, peer, from, rtt);
        self.connected(net, now, conn, Some(id));
    }

    /// The opener's first data: the connection is up on this side too.
    fn settle(&mut self, net: &mut Internet, now: Time, from: SocketAddr, key: u64, body: Body) {
        let Some(half) = self.half.remove(&key) else { return };
        let conn = Conn::new(now, key, false, half.from, from, now - half.at);
        let id = self.connected(net, now, conn, None);
        self.hear(net, now, id, body);
    }

    fn connected(&mut self, net: &mut Internet, now: Time, conn: Conn, dial: Option<DialId>) -> ConnId {
        let id = ConnId(self.next_conn);
        self.next_conn += 1;
        let direction = if conn.opener { Direction::Outgoing } else { Direction::Incoming };
        let (peer, route, rtt) = (conn.peer, Route::Direct(conn.remote), conn.rtt);
        self.by_key.insert((conn.key, conn.opener), id);
        self.conns.insert(id, conn);
        self.poll_conn(net, now, id);
        self.inputs.push_back(Input::Connected { conn: id, peer, direction, dial, route, rtt, key: [0; 32] });
        id
    }

    fn hear(&mut self, net: &mut Internet, now: Time, id: ConnId, body: Body) {
        let Some(conn) = self.conns.get_mut(&id) else { return };
        let mut out = Vec::new();
        let heard = conn.handle(now, body, &mut out);
        let remote = conn.remote;
        for packet in &out {
            self.send(net, now, remote, packet);
        }
        self.poll_conn(net, now, id);
        // What was heard before is told first.
        self.carry_out(net, now);
        for heard in heard {
            match heard {
                Heard::Message(bytes) => self.handle(net, now, Input::Control { conn: id, bytes: &bytes }),
                Heard::Rtt(rtt) => self.handle(net, now, Input::Link { conn: id, rtt, active: false }),
            }
        }
    }

    fn poll_conn(&mut self, net: &mut Internet, now: Time, id: ConnId) {
        let Some(conn) = self.conns.get_mut(&id) else { return };
        let mut out = Vec::new();
        if !conn.poll(now, &mut out) {
            return self.forget(id);
        }
        let (remote, next) = (conn.remote, conn.poll_timeout());
        if conn.armed.is_none_or(|armed| armed > next || armed <= now) {
            conn.armed = Some(next);
            self.timers.push(Reverse((next, Timer::Conn(id))));
        }
        for packet in &out {
            self.send(net, now, remote, packet);
        }
    }

    fn close(&mut self, net: &mut Internet, now: Time, id: ConnId) {
        if let Some(conn) = self.conns.get(&id) {
            self.send(net, now, conn.remote, &conn.packet(Body::Close));
        }
        self.forget(id);
    }

    fn forget(&mut self, id: ConnId) {
        if let Some(conn) = self.conns.remove(&id) {
            self.by_key.remove(&(conn.key, conn.opener));
            self.inputs.push_back(Input::Closed { conn: id });
        }
    }

    fn dial(
        &mut self,
        net: &mut Internet,
        now: Time,
        id: DialId,
        peer: Option<NodeId>,
        mut addrs: Vec<SocketAddr>,
    ) {
        let main = self.sockets.get(&SocketId::MAIN).copied().unwrap_or_default();
        addrs.retain(|addr| main[usize::from(addr.is_ipv6())].is_some());
        if addrs.is_empty() {
            let failure = DialFailure::Unusable;
            return self.inputs.push_back(Input::DialFailed { dial: id, failure });
        }
        let key = self.rng.u64();
        self.dials.insert(id, Dial { peer, addrs, key, started: now, round: 0, sent: now, refused: false });
        self.poll_dial(net, now, id);
    }

    fn poll_dial(&mut self, net: &mut Internet, now: Time, id: DialId) {
        let Some(dial) = self.dials.get_mut(&id) else { return };
        if now >= dial.started + DIAL_LIMIT {
            let failure = if dial.refused { DialFailure::Rejected } else { DialFailure::Timeout };
            self.dials.remove(&id);
            return self.inputs.push_back(Input::DialFailed { dial: id, failure });
        }
        dial.round += 1;
        dial.sent = now;
        let next = ATTEMPTS.get(dial.round).map(|ms| dial.started + Duration::from_millis(*ms));
        self.timers.push(Reverse((next.unwrap_or(dial.started + DIAL_LIMIT), Timer::Dial(id))));
        let body = Body::Hello { from: self.id, to: dial.peer };
        let packet = Packet { key: dial.key, by_opener: true, body };
        for to in dial.addrs.clone() {
            self.send(net, now, to, &packet);
        }
    }
}
