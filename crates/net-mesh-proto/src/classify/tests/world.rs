//! A very small internet in virtual time: hosts with reflex and classifier, NATs, lossy access lines.
//!
//! Every host has an access line with a delay, jitter, independent loss and bursts, each way. Control
//! messages are reliable: what a line would lose arrives late instead.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;
use std::vec::Vec;

use crate::classify::{Classifier, Event, HelperInfo, wire};
use crate::drops::DropCounts;
use crate::id::NodeId;
use crate::nat::{Filtering, Mapping, NatClass, PortRule, Verdict};
use crate::outbox::{Outbox, SocketId, Transmit};
use crate::reflex::stun::Message;
use crate::reflex::{self, Reflex, ServerKey};
use crate::rng::Rng;
use crate::time::Time;

pub(super) fn ms(millis: u64) -> Duration {
    Duration::from_millis(millis)
}

#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Line {
    pub(super) delay: Duration,
    pub(super) jitter: Duration,
    pub(super) loss: f64,
    /// Mean time between bursts, in which everything is lost for 200 to 500 ms.
    pub(super) burst_gap: Option<Duration>,
}

/// What stands between a host and the internet: a NAT, or a firewall if the mapping is `None`.
#[derive(Clone, Debug)]
pub(super) struct Nat {
    pub(super) mapping: Mapping,
    pub(super) filtering: Filtering,
    pub(super) ports: PortRule,
    pub(super) ip: IpAddr,
    /// Ports of the local host that anyone may reach, as a forwarding rule would have it.
    pub(super) open_ports: Vec<u16>,
    table: BTreeMap<(SocketAddr, Option<IpAddr>, Option<u16>), u16>,
    locals: BTreeMap<u16, SocketAddr>,
    contacted: BTreeMap<u16, BTreeSet<SocketAddr>>,
    last: u16,
}

impl Nat {
    pub(super) fn new(ip: &str, mapping: Mapping, filtering: Filtering, ports: PortRule) -> Self {
        Self {
            mapping,
            filtering,
            ports,
            ip: ip.parse().unwrap(),
            open_ports: Vec::new(),
            table: BTreeMap::new(),
            locals: BTreeMap::new(),
            contacted: BTreeMap::new(),
            last: 30_000,
        }
    }

    fn outbound(&mut self, from: SocketAddr, to: SocketAddr, rng: &mut Rng) -> SocketAddr {
        let key = match self.mapping {
            Mapping::None | Mapping::EndpointIndependent | Mapping::Unknown => (from, None, None),
            Mapping::AddressDependent => (from, Some(to.ip()), None),
            Mapping::AddressAndPortDependent | Mapping::EndpointDependent => {
                (from, Some(to.ip()), Some(to.port()))
            }
        };
        let port = match self.table.get(&key) {
            Some(port) => *port,
            None => {
                let port = self.allocate(from.port(), rng);
                self.table.insert(key, port);
                self.locals.insert(port, from);
                port
            }
        };
        self.contacted.entry(port).or_default().insert(to);
        if self.mapping == Mapping::None { from } else { SocketAddr::new(self.ip, port) }
    }

    fn allocate(&mut self, local: u16, rng: &mut Rng) -> u16 {
        let preserving = self.mapping == Mapping::None || self.ports == PortRule::Preserving;
        if preserving && !self.locals.contains_key(&local) {
            return local;
        }
        loop {
            let port = if self.ports == PortRule::Sequential {
                self.last += 1 + u16::try_from(rng.below(3)).unwrap();
                self.last
            } else {
                1024 + u16::try_from(rng.below(64_512)).unwrap()
            };
            if !self.locals.contains_key(&port) {
                return port;
            }
        }
    }

    fn inbound(&self, from: SocketAddr, to: SocketAddr) -> Option<SocketAddr> {
        if self.mapping == Mapping::None && self.open_ports.contains(&to.port()) {
            return Some(to);
        }
        let contacted = self.contacted.get(&to.port());
        let admitted = match self.filtering {
            Filtering::EndpointIndependent => true,
            Filtering::AddressDependent => contacted?.iter().any(|c| c.ip() == from.ip()),
            Filtering::AddressAndPortDependent | Filtering::Unknown => contacted?.contains(&from),
        };
        let local =
            if self.mapping == Mapping::None { Some(to) } else { self.locals.get(&to.port()).copied() };
        local.filter(|_| admitted)
    }
}

pub(super) struct Host {
    pub(super) id: NodeId,
    ip: IpAddr,
    pub(super) line: Line,
    bursts: Vec<(Time, Time)>,
    pub(super) nat: Option<Nat>,
    /// The class that this host's record shows to others.
    pub(super) class: NatClass,
    /// Sends nothing from its other port.
    pub(super) other_is_mute: bool,
    pub(super) reflex: Reflex,
    pub(super) classifier: Classifier,
    sockets: BTreeMap<SocketId, SocketAddr>,
    next_port: u16,
    pub(super) verdicts: Vec<(Time, Verdict, Option<&'static str>)>,
    pub(super) drops: DropCounts,
    peers: Vec<usize>,
}

enum Action {
    Datagram { from: SocketAddr, to: SocketAddr, bytes: Vec<u8> },
    Control { from: NodeId, to: usize, message: wire::Message },
}

pub(super) struct World {
    pub(super) now: Time,
    rng: Rng,
    seq: u64,
    queue: BTreeMap<(Time, u64), Action>,
    pub(super) hosts: Vec<Host>,
    /// Every datagram as it left its NAT: time, from, to, length.
    pub(super) trace: Vec<(Time, SocketAddr, SocketAddr, usize)>,
}

impl World {
    pub(super) fn seeded(seed: u64) -> Self {
        Self {
            now: Time::ZERO,
            rng: Rng::from_u64(seed),
            seq: 0,
            queue: BTreeMap::new(),
            hosts: Vec::new(),
            trace: Vec::new(),
        }
    }

    /// Adds a host at `ip`, behind `nat` where there is one.
    pub(super) fn add(&mut self, ip: &str, line: Line, nat: Option<Nat>) -> usize {
        let index = self.hosts.len();
        let ip: IpAddr = ip.parse().unwrap();
        let rng = self.rng.fork(&std::format!("host {index}"));
        let mut bursts = Vec::new();
        if let Some(gap) = line.burst_gap {
            let mut draw = rng.fork("bursts");
            let mut at = Time::ZERO;
            while at.as_millis() < 60_000 {
                at += gap.mul_f64(-(1.0 - draw.unit()).ln());
                let end = at + ms(200 + draw.below(300));
                bursts.push((at, end));
                at = end;
            }
        }
        self.hosts.push(Host {
            id: NodeId([u8::try_from(index).unwrap() + 1; 32]),
            ip,
            line,
            bursts,
            nat,
            class: NatClass::Unknown,
            other_is_mute: false,
            reflex: Reflex::new(rng.fork("reflex")),
            classifier: Classifier::new(rng.fork("classify")),
            sockets: [
                (SocketId::MAIN, SocketAddr::new(ip, 4000)),
                (SocketId::OTHER, SocketAddr::new(ip, 4001)),
            ]
            .into(),
            next_port: 50_000 + u16::try_from(index).unwrap() * 100,
            verdicts: Vec::new(),
            drops: DropCounts::default(),
            peers: Vec::new(),
        });
        self.with(index, |host, now, out| host.classifier.set_local(now, std::vec![host.ip], out));
        index
    }

    /// Gives `a` and `b` a session with each other.
    pub(super) fn connect(&mut self, a: usize, b: usize) {
        for (me, peer) in [(a, b), (b, a)] {
            self.hosts[me].peers.push(peer);
            let addr = self.public(peer);
            let key = ServerKey::Peer(self.hosts[peer].id);
            self.with_reflex(me, |host, now, out| host.reflex.add_server(now, key, addr, out));
            self.refresh_helpers(me);
        }
    }

    pub(super) fn disconnect(&mut self, a: usize, b: usize) {
        for (me, peer) in [(a, b), (b, a)] {
            self.hosts[me].peers.retain(|p| *p != peer);
            let id = self.hosts[peer].id;
            self.with_reflex(me, |host, _, out| host.reflex.remove_server(&ServerKey::Peer(id), out));
            self.with(me, |host, now, out| host.classifier.session_lost(now, id, out));
            self.refresh_helpers(me);
        }
    }

    fn refresh_helpers(&mut self, me: usize) {
        let line = self.hosts[me].line;
        let helpers = self.hosts[me].peers.clone();
        let helpers = helpers
            .into_iter()
            .map(|p| {
                let addr = self.public(p);
                let host = &self.hosts[p];
                let rtt = (line.delay + host.line.delay) * 2;
                HelperInfo { id: host.id, addr, class: host.class, rtt }
            })
            .collect();
        let now = self.now;
        self.hosts[me].classifier.set_helpers(now, helpers);
    }

    /// Where others reach a host's main socket.
    pub(super) fn public(&mut self, host: usize) -> SocketAddr {
        let host = &mut self.hosts[host];
        let local = host.sockets[&SocketId::MAIN];
        let probe = "192.0.2.255:9".parse().unwrap();
        match &mut host.nat {
            Some(nat) => nat.outbound(local, probe, &mut self.rng),
            None => local,
        }
    }

    pub(super) fn with<T>(
        &mut self,
        host: usize,
        f: impl FnOnce(&mut Host, Time, &mut Outbox<Event>) -> T,
    ) -> T {
        let mut out = Outbox::new();
        let result = f(&mut self.hosts[host], self.now, &mut out);
        self.carry_out(host, out);
        result
    }

    fn with_reflex<T>(
        &mut self,
        host: usize,
        f: impl FnOnce(&mut Host, Time, &mut Outbox<reflex::Event>) -> T,
    ) -> T {
        let mut out = Outbox::new();
        let result = f(&mut self.hosts[host], self.now, &mut out);
        self.hosts[host].drops.add(&out.take_drops());
        while let Some(transmit) = out.pop_transmit() {
            self.transmit(host, transmit);
        }
        if out.pop_event().is_some() {
            let host = &mut self.hosts[host];
            let (main, other) = (host.reflex.reflexive(), host.reflex.other_external());
            host.classifier.set_external(self.now, &main, &other);
        }
        result
    }

    fn carry_out(&mut self, index: usize, mut out: Outbox<Event>) {
        self.hosts[index].drops.add(&out.take_drops());
        while let Some(transmit) = out.pop_transmit() {
            self.transmit(index, transmit);
        }
        while let Some(event) = out.pop_event() {
            match event {
                Event::OpenSocket { socket, .. } => {
                    let host = &mut self.hosts[index];
                    let local = SocketAddr::new(host.ip, host.next_port);
                    host.next_port += 1;
                    assert!(host.sockets.insert(socket, local).is_none(), "a socket id was reused");
                    self.with(index, |host, now, out| host.classifier.socket_opened(now, socket, local, out));
                }
                Event::CloseSocket { socket } => {
                    self.hosts[index].sockets.remove(&socket);
                }
                Event::ToPeer { peer, message } => self.control(index, peer, message),
                Event::Verdict { verdict, missing } => {
                    let now = self.now;
                    self.hosts[index].verdicts.push((now, verdict, missing));
                }
            }
        }
    }

    fn control(&mut self, index: usize, peer: NodeId, message: wire::Message) {
        let Some(to) = self.hosts.iter().position(|h| h.id == peer) else { return };
        if !self.hosts[index].peers.contains(&to) {
            return;
        }
        let bytes = message.encode();
        let message = wire::Message::decode(message.kind(), &bytes).unwrap();
        let mut at = self.now;
        while let Some(lost_until) = self.lost(index, at).or(self.lost(to, at)) {
            at = lost_until.max(at + ms(200));
        }
        at += self.hosts[index].line.delay + self.hosts[to].line.delay;
        let from = self.hosts[index].id;
        self.push(at, Action::Control { from, to, message });
    }

    fn push(&mut self, at: Time, action: Action) {
        self.seq += 1;
        self.queue.insert((at, self.seq), action);
    }

    /// Whether the line of `host` loses what crosses it at `at`, and until when if in a burst.
    fn lost(&mut self, host: usize, at: Time) -> Option<Time> {
        let host = &self.hosts[host];
        if let Some((_, end)) = host.bursts.iter().find(|(from, end)| *from <= at && at < *end) {
            return Some(*end);
        }
        self.rng.chance(host.line.loss).then_some(at)
    }

    fn crossing(&mut self, host: usize) -> Duration {
        let line = self.hosts[host].line;
        line.delay + line.jitter.mul_f64(self.rng.unit())
    }

    fn transmit(&mut self, index: usize, transmit: Transmit) {
        let Transmit { from, to, bytes } = transmit;
        let host = &mut self.hosts[index];
        let Some(local) = host.sockets.get(&from).copied() else { return };
        if from == SocketId::OTHER && host.other_is_mute {
            return;
        }
        let source = match &mut host.nat {
            Some(nat) => nat.outbound(local, to, &mut self.rng),
            None => local,
        };
        self.trace.push((self.now, source, to, bytes.len()));
        if self.lost(index, self.now).is_some() {
            return;
        }
        let at = self.now + self.crossing(index);
        let Some(target) = self.owner(to) else { return };
        if self.lost(target, at).is_some() {
            return;
        }
        let at = at + self.crossing(target);
        self.push(at, Action::Datagram { from: source, to, bytes });
    }

    fn owner(&self, addr: SocketAddr) -> Option<usize> {
        self.hosts.iter().position(|h| match &h.nat {
            Some(nat) if nat.mapping != Mapping::None => nat.ip == addr.ip(),
            _ => h.ip == addr.ip(),
        })
    }

    fn arrive(&mut self, from: SocketAddr, to: SocketAddr, bytes: &[u8]) {
        let Some(index) = self.owner(to) else { return };
        let host = &self.hosts[index];
        let local = match &host.nat {
            Some(nat) => nat.inbound(from, to),
            None => Some(to),
        };
        let Some(local) = local else { return };
        let Some(socket) = host.sockets.iter().find(|(_, a)| **a == local).map(|(s, _)| *s) else { return };
        let message = Message::parse(bytes).unwrap();
        match &message {
            Message::BindingRequest(request) => {
                let authorised = request.probe.is_some_and(|probe| {
                    self.with(index, |h, now, out| h.classifier.handle_probe(now, socket, from, probe, out))
                });
                self.with_reflex(index, |h, now, out| {
                    h.reflex.handle_request(now, socket, from, request, authorised, out);
                });
            }
            _ if socket >= SocketId::FIRST_FRESH => {
                self.with(index, |h, now, out| h.classifier.handle_stun(now, socket, from, &message, out));
            }
            _ => {
                self.with_reflex(index, |h, now, out| {
                    h.reflex.handle_response(now, socket, from, &message, out);
                });
            }
        }
    }

    /// Runs until `until`, or until `done` holds.
    pub(super) fn run(&mut self, until: Time, done: impl Fn(&Self) -> bool) {
        while !done(self) {
            let timers = self.hosts.iter().enumerate().flat_map(|(i, h)| {
                [(i, true, h.reflex.poll_timeout()), (i, false, h.classifier.poll_timeout())]
            });
            let timer = timers.filter_map(|(i, r, d)| d.map(|d| (d.at, i, r))).min();
            let arrival = self.queue.keys().next().map(|(at, _)| *at);
            let next = [timer.map(|t| t.0), arrival].into_iter().flatten().min();
            let Some(next) = next.filter(|n| *n <= until) else { break };
            self.now = self.now.max(next);
            if arrival == Some(next) {
                let (_, action) = self.queue.pop_first().unwrap();
                match action {
                    Action::Datagram { from, to, bytes } => self.arrive(from, to, &bytes),
                    Action::Control { from, to, message } => self.with(to, |h, now, out| {
                        h.classifier.handle_control(now, from, message, h.reflex.server(), out);
                    }),
                }
            } else if let Some((_, index, is_reflex)) = timer {
                self.fire(index, is_reflex);
            }
        }
        if !done(self) {
            self.now = self.now.max(until);
        }
    }

    fn fire(&mut self, index: usize, is_reflex: bool) {
        let now = self.now;
        if is_reflex {
            self.with_reflex(index, |h, now, out| h.reflex.handle_timeout(now, out));
            let next = self.hosts[index].reflex.poll_timeout();
            assert!(next.is_none_or(|d| d.at > now), "reflex stays at {next:?}");
        } else {
            self.with(index, |h, now, out| h.classifier.handle_timeout(now, out));
            let next = self.hosts[index].classifier.poll_timeout();
            assert!(next.is_none_or(|d| d.at > now), "the classifier stays at {next:?}");
        }
    }
}
