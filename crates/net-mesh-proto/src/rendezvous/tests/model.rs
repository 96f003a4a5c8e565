//! A small internet for the machines of a few nodes: NATs that map and filter, delays, loss, virtual time.
//!
//! A node's NAT is beside it, so packets sent at one instant cross between the two NATs. Sessions are given, and lose
//! nothing. The nodes with the numbers 0 and 1 are public, and have a session with everybody.

use alloc::collections::{BTreeMap, BTreeSet};
use alloc::vec;
use alloc::vec::Vec;
use core::net::{IpAddr, Ipv4Addr, SocketAddr};
use core::time::Duration;

use ed25519_dalek::SigningKey;

use super::super::*;
use crate::drops::DropCounts;
use crate::id::MeshId;
use crate::membership::{self, Identity, Membership, VerdictSummary};
use crate::nat::{Filtering, Mapping, PortRule};
use crate::outbox::Transmit;
use crate::reflex::stun;

const MESH: MeshId = MeshId([7; 32]);
const PORT: u16 = 7000;

/// How often a node that wants a peer says so.
const TICK: Duration = millis(100);

pub(super) const fn millis(n: u64) -> Duration {
    Duration::from_millis(n)
}

pub(super) const fn secs(n: u64) -> Duration {
    Duration::from_secs(n)
}

/// What a NAT does. `None` of it: a public node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Rule {
    pub(super) mapping: Mapping,
    pub(super) filtering: Filtering,
}

pub(super) const OPEN: Option<Rule> = None;
pub(super) const FULL_CONE: Option<Rule> =
    Some(Rule { mapping: Mapping::EndpointIndependent, filtering: Filtering::EndpointIndependent });
pub(super) const RESTRICTED: Option<Rule> =
    Some(Rule { mapping: Mapping::EndpointIndependent, filtering: Filtering::AddressDependent });
pub(super) const PORT_RESTRICTED: Option<Rule> =
    Some(Rule { mapping: Mapping::EndpointIndependent, filtering: Filtering::AddressAndPortDependent });
pub(super) const SYMMETRIC: Option<Rule> =
    Some(Rule { mapping: Mapping::AddressAndPortDependent, filtering: Filtering::AddressAndPortDependent });

pub(super) const KINDS: [Option<Rule>; 5] = [OPEN, FULL_CONE, RESTRICTED, PORT_RESTRICTED, SYMMETRIC];

pub(super) fn verdict(rule: Option<Rule>) -> VerdictSummary {
    let (mapping, filtering) =
        rule.map_or((Mapping::None, Filtering::EndpointIndependent), |r| (r.mapping, r.filtering));
    VerdictSummary { mapping, filtering, port_rule: PortRule::Random, confidence: 95 }
}

struct Nat {
    rule: Rule,
    ip: IpAddr,
    /// A packet that is not admitted spoils the mapping towards its sender.
    poison: bool,
    /// (inner address, spoilt, what the mapping is for) -> external port
    flows: BTreeMap<(SocketAddr, bool, Option<SocketAddr>), u16>,
    /// External port -> inner address, and who was sent to from it.
    ports: BTreeMap<u16, (SocketAddr, BTreeSet<SocketAddr>)>,
    knocked: BTreeSet<(u16, SocketAddr)>,
}

impl Nat {
    fn port(&mut self, flow: (SocketAddr, bool, Option<SocketAddr>)) -> u16 {
        let next = 20_000 + 37 * u16::try_from(self.ports.len()).unwrap();
        let port = *self.flows.entry(flow).or_insert(next);
        self.ports.entry(port).or_insert((flow.0, BTreeSet::new()));
        port
    }

    fn send(&mut self, inner: SocketAddr, to: SocketAddr) -> SocketAddr {
        let key = match self.rule.mapping {
            Mapping::EndpointIndependent => None,
            Mapping::AddressDependent => Some(SocketAddr::new(to.ip(), 0)),
            _ => Some(to),
        };
        let mut port = self.port((inner, false, key));
        if self.poison && self.knocked.contains(&(port, to)) {
            port = self.port((inner, true, Some(to)));
        }
        self.ports.get_mut(&port).unwrap().1.insert(to);
        SocketAddr::new(self.ip, port)
    }

    fn admit(&mut self, port: u16, from: SocketAddr) -> Option<SocketAddr> {
        let (inner, contacted) = self.ports.get(&port)?;
        let admits = match self.rule.filtering {
            Filtering::EndpointIndependent => true,
            Filtering::AddressDependent => contacted.iter().any(|known| known.ip() == from.ip()),
            _ => contacted.contains(&from),
        };
        if !admits {
            self.knocked.insert((port, from));
            return None;
        }
        Some(*inner)
    }
}

pub(super) struct Node {
    pub(super) id: NodeId,
    pub(super) machine: Rendezvous,
    pub(super) local: Local,
    pub(super) record: Record,
    /// The round-trip times of its sessions.
    pub(super) sessions: BTreeMap<NodeId, Duration>,
    /// By number.
    pub(super) mediators: Vec<usize>,
    pub(super) found: Vec<(Time, SocketAddr)>,
    pub(super) ended: Vec<Attempt>,
    pub(super) introduced: usize,
    pub(super) drops: DropCounts,
    /// Control messages that arrived, and from whom.
    pub(super) heard: Vec<(NodeId, Message)>,
    /// Takes messages and does nothing.
    pub(super) mute: bool,
    wants: Option<usize>,
    outbox: Outbox<Event>,
    key: SigningKey,
    addr: SocketAddr,
    v6: Option<SocketAddr>,
    /// Whom its stateful IPv6 firewall has seen it send to.
    v6_contacted: BTreeSet<SocketAddr>,
    nat: Option<usize>,
    /// One way between it and the middle of the internet.
    delay: Duration,
}

enum Parcel {
    Packet { from: SocketAddr, to: SocketAddr, bytes: Vec<u8>, sender: usize },
    Control { from: NodeId, to: usize, message: Message },
}

pub(super) struct World {
    pub(super) now: Time,
    pub(super) nodes: Vec<Node>,
    /// Loss at each access link a packet passes.
    pub(super) loss: f64,
    pub(super) poison: bool,
    /// Everything that was sent from a socket: by whom, when, where.
    pub(super) sent: Vec<(usize, Time, Transmit)>,
    nats: Vec<Nat>,
    queue: BTreeMap<(Time, u64), Parcel>,
    order: u64,
    rng: Rng,
    members: Membership,
    tick: Time,
}

impl World {
    /// Two public nodes, 10 and 15 ms from the middle.
    pub(super) fn seeded(seed: u64) -> Self {
        let rng = Rng::from_u64(seed);
        let identity = Identity { secret: &[99; 32], mesh: &MESH, name: "registry", boot: 1, unix_ms: 1 };
        let members = Membership::new(Time::ZERO, &rng, &identity);
        let mut world = Self {
            now: Time::from_millis(1),
            nodes: Vec::new(),
            loss: 0.0,
            poison: false,
            sent: Vec::new(),
            nats: Vec::new(),
            queue: BTreeMap::new(),
            order: 0,
            rng: rng.fork("world"),
            members,
            tick: Time::ZERO,
        };
        world.add(OPEN, millis(10));
        world.add(OPEN, millis(15));
        world
    }

    /// A node with a session with each public one.
    pub(super) fn add(&mut self, rule: Option<Rule>, delay: Duration) -> usize {
        let n = u8::try_from(self.nodes.len()).unwrap();
        let nat = rule.map(|rule| {
            let ip = Ipv4Addr::new(198, 51, 100, n).into();
            let (flows, ports) = (BTreeMap::new(), BTreeMap::new());
            self.nats.push(Nat { rule, ip, poison: self.poison, flows, ports, knocked: BTreeSet::new() });
            self.nats.len() - 1
        });
        let ip = if nat.is_some() { Ipv4Addr::new(10, 0, n, 2) } else { Ipv4Addr::new(203, 0, 113, n) };
        self.join(ip.into(), nat, verdict(rule), delay)
    }

    /// Public nodes, by their ids.
    pub(super) fn add_public(&mut self, count: usize) -> Vec<NodeId> {
        let numbers: Vec<usize> = (0..count).map(|_| self.add(OPEN, millis(5))).collect();
        numbers.into_iter().map(|n| self.nodes[n].id).collect()
    }

    /// A node behind the NAT of `other`, at the address after its own.
    pub(super) fn add_beside(&mut self, other: usize, delay: Duration) -> usize {
        let IpAddr::V4(ip) = self.nodes[other].addr.ip() else { unreachable!() };
        let (nat, verdict) = (self.nodes[other].nat, self.nodes[other].record.verdict);
        self.join(Ipv4Addr::from_bits(ip.to_bits() + 1).into(), nat, verdict, delay)
    }

    fn join(&mut self, ip: IpAddr, nat: Option<usize>, verdict: VerdictSummary, delay: Duration) -> usize {
        let number = self.nodes.len();
        let key = SigningKey::from_bytes(&[u8::try_from(number).unwrap() + 1; 32]);
        let id = NodeId(key.verifying_key().to_bytes());
        let addr = SocketAddr::new(ip, PORT);
        let mut local = Local::default();
        local.set_network(vec![ip], [Some(PORT), None], [None; 2]);
        let mut record = Record::new(id, 1, "node");
        record.verdict = verdict;
        self.nodes.push(Node {
            id,
            machine: Rendezvous::new(id, self.rng.fork(&std::format!("machine {number}"))),
            local,
            record,
            sessions: BTreeMap::new(),
            mediators: vec![0, 1],
            found: Vec::new(),
            ended: Vec::new(),
            introduced: 0,
            drops: DropCounts::default(),
            heard: Vec::new(),
            mute: false,
            wants: None,
            outbox: Outbox::new(),
            key,
            addr,
            v6: None,
            v6_contacted: BTreeSet::new(),
            nat,
            delay,
        });
        for public in (0..2).filter(|public| *public < number) {
            self.connect(number, public);
        }
        self.reflect(number);
        number
    }

    /// A session between the two.
    pub(super) fn connect(&mut self, a: usize, b: usize) {
        let rtt = 2 * (self.nodes[a].delay + self.nodes[b].delay);
        let (of_a, of_b) = (self.nodes[a].id, self.nodes[b].id);
        self.nodes[a].sessions.insert(of_b, rtt);
        self.nodes[b].sessions.insert(of_a, rtt);
    }

    /// The node asks the public ones for its address, and publishes what it knows.
    pub(super) fn reflect(&mut self, n: usize) {
        let (own, nat) = (self.nodes[n].addr, self.nodes[n].nat);
        let mut seen = Vec::new();
        for public in 0..2.min(self.nodes.len()) {
            let to = self.nodes[public].addr;
            let addr = nat.map_or(own, |nat| self.nats[nat].send(own, to));
            if !seen.contains(&addr) {
                seen.push(addr);
            }
        }
        self.nodes[n].local.set_reflexive(seen);
        let candidates = self.nodes[n].local.candidates();
        self.publish(n, |record| record.candidates = candidates);
    }

    /// A global IPv6 address behind a stateful firewall.
    pub(super) fn give_ipv6(&mut self, n: usize) {
        let node = &mut self.nodes[n];
        let v6: IpAddr = std::format!("2001:db8:{n}::2").parse().unwrap();
        node.v6 = Some(SocketAddr::new(v6, PORT));
        node.local.set_network(vec![node.addr.ip(), v6], [Some(PORT); 2], [None; 2]);
        self.reflect(n);
    }

    /// Changes what a node says of itself; the others know at once.
    pub(super) fn publish(&mut self, n: usize, change: impl FnOnce(&mut Record)) {
        let node = &mut self.nodes[n];
        change(&mut node.record);
        node.record.seq += 1;
        let bytes = node.record.clone().sign(&node.key, &MESH).bytes().clone();
        let records = membership::wire::Records { items: vec![(0, bytes)] };
        let message = membership::Message::Records(records);
        self.members.handle(Time::ZERO, node.id, message, &mut Outbox::new());
    }

    pub(super) fn addr(&self, n: usize) -> SocketAddr {
        self.nodes[n].addr
    }

    /// The address at which the public node 0 sees it.
    pub(super) fn reflexive(&self, n: usize) -> SocketAddr {
        self.nodes[n].local.reflexive()[0]
    }

    /// From now on, `n` wants a direct way to `peer`.
    pub(super) fn want(&mut self, n: usize, peer: usize) {
        self.nodes[n].wants = Some(peer);
        self.tick = self.now;
    }

    /// Lets the machine of `n` act, and carries what it says.
    pub(super) fn act(&mut self, n: usize, act: impl FnOnce(&mut Rendezvous, View<'_>, &mut Outbox<Event>)) {
        let ids: Vec<NodeId> = self.nodes[n].mediators.iter().map(|m| self.nodes[*m].id).collect();
        let Node { machine, local, record, sessions, outbox, .. } = &mut self.nodes[n];
        let view = View {
            local,
            own: record,
            members: self.members.members(),
            mediators: &|_| ids.clone(),
            rtt: &|peer| sessions.get(peer).copied(),
        };
        act(machine, view, outbox);
        self.carry(n);
    }

    /// `from` says something to `to` in their session.
    pub(super) fn say(&mut self, from: usize, to: usize, message: Message) {
        let id = self.nodes[from].id;
        let after = self.nodes[from].sessions[&self.nodes[to].id] / 2;
        self.post(after, Parcel::Control { from: id, to, message });
    }

    /// A datagram from `from`, which may be forged, reaches the main socket of `to` now.
    pub(super) fn inject(&mut self, to: usize, from: SocketAddr, bytes: &[u8]) {
        self.receive(to, from, bytes);
    }

    fn post(&mut self, after: Duration, parcel: Parcel) {
        self.order += 1;
        self.queue.insert((self.now + after, self.order), parcel);
    }

    fn carry(&mut self, n: usize) {
        while let Some(transmit) = self.nodes[n].outbox.pop_transmit() {
            self.sent.push((n, self.now, transmit.clone()));
            self.transmit(n, transmit);
        }
        while let Some(event) = self.nodes[n].outbox.pop_event() {
            match event {
                Event::Send { to, message } => {
                    let to = self.nodes.iter().position(|node| node.id == to).unwrap();
                    self.say(n, to, message);
                }
                Event::Found { addr, .. } => {
                    let now = self.now;
                    self.nodes[n].found.push((now, addr));
                }
                Event::Ended(attempt) => self.nodes[n].ended.push(*attempt),
                Event::Introduced { .. } => self.nodes[n].introduced += 1,
            }
        }
        let drops = self.nodes[n].outbox.take_drops();
        self.nodes[n].drops.add(&drops);
    }

    fn transmit(&mut self, n: usize, Transmit { to, bytes, .. }: Transmit) {
        let beyond = self.delay_of(to.ip());
        let node = &mut self.nodes[n];
        let (own, nat, delay) = (node.addr, node.nat, node.delay + beyond);
        if let Some(v6) = node.v6.filter(|_| to.is_ipv6()) {
            node.v6_contacted.insert(to);
            return self.post(delay, Parcel::Packet { from: v6, to, bytes, sender: n });
        }
        let local = self.nodes.iter().any(|other| other.nat == nat && other.addr == to);
        let from = match nat {
            Some(nat) if !local => {
                if self.nats[nat].ip == to.ip() {
                    return; // no hairpin
                }
                self.nats[nat].send(own, to)
            }
            _ => own,
        };
        let after = if local && nat.is_some() { millis(1) } else { delay };
        self.post(after, Parcel::Packet { from, to, bytes, sender: n });
    }

    /// The packet has come to the last box on its way.
    fn deliver(&mut self, from: SocketAddr, to: SocketAddr, bytes: &[u8], sender: usize) {
        let lost = self.rng.chance(self.loss) || self.rng.chance(self.loss);
        if lost {
            return;
        }
        let home = |n: &usize| self.nodes[*n].nat == self.nodes[sender].nat || self.nodes[*n].nat.is_none();
        let mut all = 0..self.nodes.len();
        if let Some(n) = all.find(|n| self.nodes[*n].v6 == Some(to)) {
            if self.nodes[n].v6_contacted.contains(&from) {
                self.receive(n, from, bytes);
            }
        } else if let Some(n) = (0..self.nodes.len()).filter(home).find(|n| self.nodes[*n].addr == to) {
            self.receive(n, from, bytes);
        } else if let Some(nat) = self.nats.iter_mut().find(|nat| nat.ip == to.ip())
            && let Some(inner) = nat.admit(to.port(), from)
            && let Some(n) = (0..self.nodes.len()).find(|n| self.nodes[*n].addr == inner)
        {
            self.receive(n, from, bytes);
        }
    }

    fn receive(&mut self, n: usize, from: SocketAddr, bytes: &[u8]) {
        let now = self.now;
        match stun::Message::parse(bytes) {
            Ok(stun::Message::BindingRequest(request)) => {
                let Some(name) = request.check else { return };
                self.act(n, |m, _, out| {
                    m.handle_check(now, from, (request.txid, name), bytes, out);
                });
            }
            Ok(stun::Message::BindingResponse { txid, .. }) => {
                self.act(n, |m, _, out| {
                    m.handle_answer(now, from, txid, bytes, out);
                });
            }
            _ => {}
        }
    }

    /// Time of the next thing to happen.
    fn next(&self) -> Time {
        let queued = self.queue.keys().next().map(|(at, _)| *at);
        let due = self.nodes.iter().filter_map(|node| node.machine.poll_timeout()).map(|d| d.at).min();
        [queued, due, Some(self.tick)].into_iter().flatten().min().unwrap()
    }

    pub(super) fn run_for(&mut self, time: Duration) {
        let end = self.now + time;
        self.run_until(end, |_| false);
    }

    /// Runs until `end`, or until `done`. Whether it was done.
    pub(super) fn run_until(&mut self, end: Time, done: impl Fn(&Self) -> bool) -> bool {
        while self.next() <= end {
            self.now = self.now.max(self.next());
            self.step();
            if done(self) {
                return true;
            }
        }
        self.now = end;
        false
    }

    fn step(&mut self) {
        let now = self.now;
        while let Some((at, order)) = self.queue.keys().next().copied().filter(|(at, _)| *at <= now) {
            match self.queue.remove(&(at, order)) {
                Some(Parcel::Control { to, .. }) if self.nodes[to].mute => {}
                Some(Parcel::Control { from, to, message }) => {
                    self.nodes[to].heard.push((from, message.clone()));
                    self.act(to, |m, view, out| m.handle(now, from, message, view, out));
                }
                Some(Parcel::Packet { from, to, bytes, sender }) => self.deliver(from, to, &bytes, sender),
                None => {}
            }
        }
        for n in 0..self.nodes.len() {
            if self.nodes[n].machine.poll_timeout().is_some_and(|due| due.at <= now) {
                self.act(n, |m, _, out| m.handle_timeout(now, out));
                let next = self.nodes[n].machine.poll_timeout();
                assert!(next.is_none_or(|next| next.at > now), "node {n} at {now:?}: {next:?}");
            }
        }
        if self.tick <= now {
            self.tick = now + TICK;
            for n in 0..self.nodes.len() {
                let Some(peer) = self.nodes[n].wants.filter(|_| self.nodes[n].found.is_empty()) else {
                    continue;
                };
                let id = self.nodes[peer].id;
                self.act(n, |m, view, out| m.seek(now, id, view, out));
            }
        }
    }

    /// One way between the middle of the internet and whoever is at `ip`.
    fn delay_of(&self, ip: IpAddr) -> Duration {
        let is_here = |node: &&Node| {
            let outside = node.nat.map_or(node.addr.ip(), |nat| self.nats[nat].ip);
            outside == ip || node.v6.is_some_and(|v6| v6.ip() == ip)
        };
        self.nodes.iter().find(is_here).map_or(Duration::ZERO, |node| node.delay)
    }

    /// How many datagrams were sent to `addr`.
    pub(super) fn sent_to(&self, addr: SocketAddr) -> usize {
        self.sent.iter().filter(|(.., transmit)| transmit.to == addr).count()
    }

    /// How many datagrams `n` has sent.
    pub(super) fn sent_by(&self, n: usize) -> usize {
        self.sent.iter().filter(|(by, ..)| *by == n).count()
    }
}
