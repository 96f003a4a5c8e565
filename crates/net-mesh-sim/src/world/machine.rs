//! One simulated node: what drives its [`Node`] and plays QUIC and the mesh's socket for it.
//!
//! Connections come about in `handshake.rs`. A packet of a connection is taken from the routes that were accepted
//! for it and dropped otherwise; what passes is counted in `traffic.rs`, and the node hears of it. Relayed datagrams are looked up in `labels.rs` and sent on, or taken off their
//! labels and treated as if they had come straight, but for the route.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap, VecDeque};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use net_mesh_proto::drops::{DropCounts, DropReason};
use net_mesh_proto::id::NodeId;
use net_mesh_proto::node::{Config, ConnId, DialId, Event, Input, Node, Output, Switch};
use net_mesh_proto::outbox::{SocketId, Transmit};
use net_mesh_proto::relay::Step;
use net_mesh_proto::rng::Rng;
use net_mesh_proto::route::Route;
use net_mesh_proto::time::{Deadline, Time};
use net_mesh_proto::wire::DatagramKind;
use net_mesh_proto::wire::frame::{self, RELAY, RELAY_HEADER};

use super::conn::{Conn, Heard, Owner};
use super::handshake::{Dial, Half};
use super::labels::{self, Labels};
use super::packet::{Body, Packet};
use super::traffic::Meter;
use crate::host::HostId;
use crate::internet::{Delivery, Internet};

/// Events kept for queries; the oldest go first.
const MAX_EVENTS: usize = 4096;

/// Between two words to the node that the application uses a connection.
const TELL: Duration = Duration::from_secs(1);

/// Timeouts a node may handle at one instant. Several machines may be due at once; a hundred are a loop.
const BUSY: u32 = 100;

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Timer {
    Dial(DialId),
    Conn(ConnId),
}

/// What the world wants to know of a node at once.
#[derive(Debug)]
pub(crate) enum News {
    /// It has a session, or another connection for one.
    Up(NodeId),
    /// It has none any more.
    Down(NodeId),
    /// A message of the application's has come.
    Payload(NodeId, Vec<u8>),
}

/// A node and its sockets, dials and connections.
pub(crate) struct Machine {
    pub(crate) host: HostId,
    pub(crate) id: NodeId,
    pub(crate) node: Node,
    pub(crate) events: VecDeque<(Time, Event)>,
    sockets: BTreeMap<SocketId, [Option<SocketAddr>; 2]>,
    by_port: BTreeMap<(bool, u16), SocketId>,
    pub(super) dials: BTreeMap<DialId, Dial>,
    pub(super) half: BTreeMap<u64, Half>,
    pub(super) conns: BTreeMap<ConnId, Conn>,
    /// By key and whether this side opened it.
    pub(super) by_key: BTreeMap<(u64, bool), ConnId>,
    pub(super) next_conn: u64,
    pub(super) rng: Rng,
    pub(super) timers: BinaryHeap<Reverse<(Time, Timer)>>,
    pub(super) inputs: VecDeque<Input<'static>>,
    /// When the node wants to be woken, unless it was given something since.
    node_due: Option<Deadline>,
    touched: bool,
    labels: Labels,
    meter: Meter,
    /// What the node itself never saw.
    drops: DropCounts,
    news: Vec<News>,
    busy: (Time, u32),
}

impl Machine {
    /// Binds the sockets and starts the node. `main` is the port of the main socket, 0 for any.
    pub(crate) fn start(net: &mut Internet, now: Time, host: HostId, config: Config, main: u16) -> Self {
        let rng = Rng::from_seed(config.secret).fork(&format!("machine {}", config.boot));
        let mut seed = [0; 32];
        let mut seeds = rng.fork("node");
        seed.chunks_mut(8).for_each(|chunk| chunk.copy_from_slice(&seeds.u64().to_le_bytes()));
        let labels = Labels::new(config.relay);
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
            node_due: None,
            touched: true,
            labels,
            meter: Meter::default(),
            drops: DropCounts::default(),
            news: Vec::new(),
            busy: (now, 0),
        };
        let ips = net.ips(host).to_vec();
        machine.bind_missing(net, &ips, main);
        let [main, other] = machine.all_ports();
        machine.handle(net, now, Input::Network { ips, main, other });
        machine
    }

    /// What happened since the last call.
    pub(crate) fn take_news(&mut self) -> Vec<News> {
        std::mem::take(&mut self.news)
    }

    /// What was discarded since the start, by the node and before it.
    pub(crate) fn drops(&self) -> DropCounts {
        let mut drops = self.node.drops();
        drops.add(&self.drops);
        drops
    }

    pub(crate) const fn labels(&self) -> &Labels {
        &self.labels
    }

    /// Opens the node's two sockets for each address family that the host has, where they are not open.
    pub(super) fn bind_missing(&mut self, net: &mut Internet, ips: &[IpAddr], main: u16) {
        for (socket, port) in [(SocketId::MAIN, main), (SocketId::OTHER, 0)] {
            for v6 in [false, true] {
                let open = self.ports(socket)[usize::from(v6)].is_some();
                if !open && ips.iter().any(|ip| ip.is_ipv6() == v6) {
                    self.open(net, socket, v6, port);
                }
            }
        }
    }

    /// The local ports of the main and the other socket.
    pub(super) fn all_ports(&self) -> [[Option<u16>; 2]; 2] {
        [SocketId::MAIN, SocketId::OTHER].map(|socket| self.ports(socket))
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

    /// When to wake it. The node is asked only where it was given something: that is much of what a large world
    /// spends its time on.
    pub(crate) fn poll_timeout(&mut self) -> Option<Time> {
        if std::mem::take(&mut self.touched) {
            self.node_due = self.node.poll_timeout();
        }
        let node = self.node_due.map(|deadline| deadline.at);
        let own = self.timers.peek().map(|Reverse((at, _))| *at);
        [node, own, self.meter.due()].into_iter().flatten().min()
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
        let due = |machine: &Self| machine.node.poll_timeout().filter(|deadline| deadline.at <= now);
        if self.meter.due().is_some_and(|at| at <= now) || due(self).is_some() {
            self.tell_traffic(now);
        }
        if let Some(deadline) = due(self) {
            self.busy = if self.busy.0 == now { (now, self.busy.1 + 1) } else { (now, 1) };
            assert!(self.busy.1 < BUSY, "{:?} loops at {now:?}: {}", self.id, deadline.why);
            self.touched = true;
            self.node.handle_timeout(now);
        }
        self.carry_out(net, now);
    }

    fn tell(&mut self, now: Time, input: Input<'_>) {
        self.touched = true;
        self.node.handle(now, input);
    }

    fn tell_traffic(&mut self, now: Time) {
        for told in self.meter.take() {
            self.tell(now, told);
        }
    }

    pub(crate) fn handle(&mut self, net: &mut Internet, now: Time, input: Input<'_>) {
        self.tell(now, input);
        self.carry_out(net, now);
    }

    pub(super) fn carry_out(&mut self, net: &mut Internet, now: Time) {
        loop {
            if let Some(output) = self.node.poll_output() {
                self.act(net, now, output);
            } else if let Some(input) = self.inputs.pop_front() {
                self.tell(now, input);
            } else {
                return;
            }
        }
    }

    pub(super) fn act(&mut self, net: &mut Internet, now: Time, output: Output) {
        match output {
            Output::Transmit(Transmit { from, to, bytes }) => {
                if !self.transmit(net, now, from, to, bytes) {
                    self.drops.count(DropReason::SendFailed);
                }
            }
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
                    live.send(now, Owner::Node, &bytes);
                    self.poll_conn(net, now, conn);
                }
            }
            Output::Dial { dial, peer, routes } => self.dial(net, now, dial, peer, routes),
            Output::Accept { conn, route } => _ = self.accept(conn, route),
            Output::SetRoute { conn, route, also, switch } => {
                self.set_route(net, now, conn, (route, also), switch);
            }
            Output::Frame { route, bytes } => {
                if !self.send_over(net, now, route, bytes) {
                    self.inputs.push_back(Input::SendFailed { route });
                }
            }
            Output::Label(change) => {
                for early in self.labels.apply(now, change, &mut self.drops) {
                    self.handle_frame(net, now, early.from, &early.datagram);
                }
            }
            Output::PortMap { id, request } => {
                let answer = net.ask_router(now, self.host, request);
                self.inputs.push_back(Input::PortMapped { id, answer });
            }
            Output::CloseConnection { conn } | Output::GiveUp { conn } => self.close(net, now, conn),
            Output::Event(event) => {
                match &event {
                    Event::SessionUp { peer, .. } => self.news.push(News::Up(*peer)),
                    Event::SessionDown { peer } => self.news.push(News::Down(*peer)),
                    _ => {}
                }
                if self.events.len() == MAX_EVENTS {
                    self.events.pop_front();
                }
                self.events.push_back((now, event));
            }
        }
    }

    /// False where the host refuses.
    fn transmit(
        &self,
        net: &mut Internet,
        now: Time,
        from: SocketId,
        to: SocketAddr,
        bytes: Vec<u8>,
    ) -> bool {
        let locals = self.sockets.get(&from).copied().unwrap_or_default();
        locals[usize::from(to.is_ipv6())].is_some_and(|local| net.send(now, self.host, local, to, bytes))
    }

    /// False where the host refuses. What a circuit's label is missing for is lost without a word.
    fn send_over(&mut self, net: &mut Internet, now: Time, route: Route, bytes: Vec<u8>) -> bool {
        match route {
            Route::Direct(to) => self.transmit(net, now, SocketId::MAIN, to, bytes),
            Route::Relayed(circuit) => match self.labels.out(circuit) {
                Some((to, label)) => self.transmit(net, now, SocketId::MAIN, to, labels::wrap(label, &bytes)),
                None => {
                    self.drops.count(DropReason::UnknownLabel);
                    true
                }
            },
        }
    }

    pub(super) fn send(&mut self, net: &mut Internet, now: Time, route: Route, packet: &Packet) {
        self.send_over(net, now, route, packet.encode());
    }

    /// Sends packets of a connection the way it goes, and a copy of each the other way if there is one.
    fn send_on(&mut self, net: &mut Internet, now: Time, id: ConnId, packets: &[Packet]) {
        let Some(conn) = self.conns.get(&id) else { return };
        let routes = [Some(conn.route), conn.also];
        for packet in packets {
            for route in routes.into_iter().flatten() {
                self.meter.sent(now, id, route);
                self.send(net, now, route, packet);
            }
        }
    }

    /// A datagram that reached one of the sockets.
    pub(crate) fn receive(&mut self, net: &mut Internet, now: Time, delivery: &Delivery) {
        let local = delivery.local;
        let Some(socket) = self.by_port.get(&(local.is_ipv6(), local.port())).copied() else { return };
        let (from, bytes) = (delivery.from, &delivery.payload[..]);
        match bytes.first().map(|first| DatagramKind::of(*first)) {
            Some(DatagramKind::Stun) => self.handle(net, now, Input::Datagram { socket, from, bytes }),
            Some(DatagramKind::Quic) if socket == SocketId::MAIN => {
                self.handle_quic(net, now, Route::Direct(from), bytes);
            }
            Some(DatagramKind::Frame) if socket == SocketId::MAIN => self.handle_frame(net, now, from, bytes),
            _ => self.drops.count(DropReason::UnknownFirstByte),
        }
        self.carry_out(net, now);
    }

    /// A frame of the mesh's own, straight from `from`.
    fn handle_frame(&mut self, net: &mut Internet, now: Time, from: SocketAddr, bytes: &[u8]) {
        let Some(label) = frame::label(bytes) else {
            if bytes.first() == Some(&RELAY) {
                return self.drops.count(DropReason::MalformedFrame);
            }
            self.tell_traffic(now);
            let frame = Input::Frame { route: Route::Direct(from), bytes };
            return self.tell(now, frame);
        };
        match self.labels.step(now, from, label, bytes) {
            Step::Forward { to, label } => {
                let datagram = labels::wrap(label, &bytes[RELAY_HEADER..]);
                self.transmit(net, now, SocketId::MAIN, to, datagram);
            }
            Step::Deliver(circuit) => {
                self.handle_payload(net, now, Route::Relayed(circuit), &bytes[RELAY_HEADER..]);
            }
            Step::Drop(DropReason::UnknownLabel) if self.has_session_at(from) => {
                self.labels.keep(now, from, label, bytes, &mut self.drops);
            }
            Step::Drop(reason) => self.drops.count(reason),
        }
    }

    /// What came out of a circuit.
    fn handle_payload(&mut self, net: &mut Internet, now: Time, route: Route, bytes: &[u8]) {
        match bytes.first().map(|first| DatagramKind::of(*first)) {
            Some(DatagramKind::Quic) => self.handle_quic(net, now, route, bytes),
            Some(DatagramKind::Frame) if bytes.first() != Some(&RELAY) => {
                self.tell_traffic(now);
                self.tell(now, Input::Frame { route, bytes });
            }
            _ => self.drops.count(DropReason::UnknownFirstByte),
        }
    }

    fn has_session_at(&self, addr: SocketAddr) -> bool {
        self.conns.values().any(|conn| conn.accepts(Route::Direct(addr)))
    }

    fn handle_quic(&mut self, net: &mut Internet, now: Time, from: Route, bytes: &[u8]) {
        match Packet::decode(bytes) {
            Ok(packet) => self.handle_packet(net, now, from, packet),
            Err(_) => self.drops.count(DropReason::UnknownSource),
        }
    }

    fn handle_packet(&mut self, net: &mut Internet, now: Time, from: Route, packet: Packet) {
        let Packet { key, by_opener, body } = packet;
        let conn = self.by_key.get(&(key, !by_opener)).copied();
        let settled = conn.filter(|_| !matches!(body, Body::Hello { .. }));
        if settled.and_then(|id| self.conns.get(&id)).is_some_and(|conn| !conn.accepts(from)) {
            return self.drops.count(DropReason::UnknownSource);
        }
        match (body, conn) {
            (Body::Hello { from: peer, to }, _) => self.asked(net, now, from, key, (peer, to)),
            (Body::Welcome { from: peer }, None) => self.welcomed(net, now, from, key, peer),
            (Body::Refuse, None) => self.refused(from, key),
            (Body::Close, Some(conn)) => self.forget(conn),
            (body @ (Body::Data { .. } | Body::Ack { .. } | Body::Ping), Some(conn)) => {
                self.hear(net, now, conn, from, body);
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

    pub(super) fn hear(&mut self, net: &mut Internet, now: Time, id: ConnId, from: Route, body: Body) {
        let Some(conn) = self.conns.get_mut(&id) else { return };
        self.meter.received(now, id, from);
        conn.heard_over(from);
        let mut out = Vec::new();
        let heard = conn.handle(now, body, &mut out);
        let peer = conn.peer;
        self.send_on(net, now, id, &out);
        self.poll_conn(net, now, id);
        // What was heard before is told first.
        self.carry_out(net, now);
        for heard in heard {
            match heard {
                Heard::Message(bytes) => self.handle(net, now, Input::Control { conn: id, bytes: &bytes }),
                Heard::Payload(bytes) => {
                    self.news.push(News::Payload(peer, bytes));
                    self.used(now, id);
                }
                Heard::Rtt(rtt) => {
                    self.handle(net, now, Input::Link { conn: id, rtt, active: false, pinned: false })
                }
            }
        }
    }

    pub(super) fn poll_conn(&mut self, net: &mut Internet, now: Time, id: ConnId) {
        let Some(conn) = self.conns.get_mut(&id) else { return };
        let mut out = Vec::new();
        conn.poll(now, &mut out);
        if let Some(next) = conn.poll_timeout()
            && conn.armed.is_none_or(|armed| armed > next || armed <= now)
        {
            conn.armed = Some(next);
            self.timers.push(Reverse((next, Timer::Conn(id))));
        }
        self.send_on(net, now, id, &out);
    }

    fn close(&mut self, net: &mut Internet, now: Time, id: ConnId) {
        if let Some(conn) = self.conns.get(&id) {
            let packet = conn.packet(Body::Close);
            self.send_on(net, now, id, &[packet]);
        }
        self.forget(id);
    }

    fn forget(&mut self, id: ConnId) {
        if let Some(conn) = self.conns.remove(&id) {
            self.by_key.remove(&(conn.key, conn.opener));
            self.meter.forget(id);
            self.inputs.push_back(Input::Closed { conn: id });
        }
    }

    /// Takes a connection's packets from `route` too; false, and the node hears of it, where the route is known to
    /// be another peer's.
    fn accept(&mut self, id: ConnId, route: Route) -> bool {
        let Some(peer) = self.conns.get(&id).map(|conn| conn.peer) else { return false };
        if self.conns.values().any(|conn| conn.peer != peer && conn.owns(route)) {
            self.inputs.push_back(Input::RouteRefused { conn: id, route });
            return false;
        }
        let Some(conn) = self.conns.get_mut(&id) else { return false };
        if let Some(gone) = conn.accept(route) {
            self.meter.forget_route(id, gone);
        }
        true
    }

    fn set_route(
        &mut self,
        net: &mut Internet,
        now: Time,
        id: ConnId,
        (route, also): (Route, Option<Route>),
        switch: Switch,
    ) {
        if !self.accept(id, route) {
            return;
        }
        let also = also.filter(|also| self.accept(id, *also));
        let Some(conn) = self.conns.get_mut(&id) else { return };
        let mut out = Vec::new();
        conn.set_route(now, (route, also), switch, &mut out);
        self.send_on(net, now, id, &out);
        self.poll_conn(net, now, id);
    }

    /// Sends messages of the application's on a connection.
    pub(crate) fn send_payloads(
        &mut self,
        net: &mut Internet,
        now: Time,
        id: ConnId,
        payloads: impl Iterator<Item = Vec<u8>>,
    ) {
        let Some(conn) = self.conns.get_mut(&id) else { return };
        payloads.for_each(|payload| conn.send(now, Owner::Application, &payload));
        self.poll_conn(net, now, id);
        self.used(now, id);
        self.carry_out(net, now);
    }

    /// The application uses a connection: the node hears of it once in a while.
    fn used(&mut self, now: Time, id: ConnId) {
        let Some(conn) = self.conns.get_mut(&id) else { return };
        if conn.told.is_none_or(|told| told + TELL <= now) {
            conn.told = Some(now);
            self.inputs.push_back(Input::Link { conn: id, rtt: conn.rtt, active: true, pinned: false });
        }
    }
}
