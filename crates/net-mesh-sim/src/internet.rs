//! The simulated internet: datagrams in, datagrams out, in virtual time.
//!
//! A datagram goes up its sender's access link, outwards through the boxes around the sender, across the
//! core, inwards through the boxes around the receiver, and down the receiver's access link. Boxes stand at
//! the far end of the access link, so what they decide, they decide when the packet gets there. Inside one
//! network packets go straight across in [`LAN_DELAY`].
//!
//! Pure: time comes in, nothing is ever waited for. One seed and the same calls give the same packets, drops
//! and times; [`Trace::hash`] is the proof. Memory is bounded by what is in flight, plus each NAT's table.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap, VecDeque};
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use net_mesh_proto::portmap::{Answer, Failure, Request};
use net_mesh_proto::rng::Rng;
use net_mesh_proto::time::Time;
use net_mesh_proto::wire::DatagramKind;

use crate::host::{BindError, Families, HostId};
use crate::link::Link;
use crate::nat::{Chain, Nat};
use crate::topology::{NatId, Place, Port, RealmId, Site, Topology};
use crate::trace::{Lost, PacketEvent, Trace};

mod faults;

/// One way between two hosts of the same network, and from a host to itself.
pub const LAN_DELAY: Duration = Duration::from_micros(200);

/// A datagram that reached a socket.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Delivery {
    /// When.
    pub at: Time,
    /// At which host.
    pub host: HostId,
    /// The address it arrived at, as the host knows it.
    pub local: SocketAddr,
    /// The source address it bears.
    pub from: SocketAddr,
    /// The datagram.
    pub payload: Vec<u8>,
}

#[derive(Debug, PartialEq, Eq)]
struct Packet {
    sent: Time,
    sender: HostId,
    src: SocketAddr,
    dst: SocketAddr,
    payload: Vec<u8>,
}

/// How far a packet has come.
#[derive(Debug, PartialEq, Eq)]
enum Stage {
    /// At the near side of the boxes around the sender.
    Edge,
    /// In `realm`, in front of who has the address there.
    Entering(RealmId),
    /// At the end of the receiver's access link.
    Arriving(HostId),
}

#[derive(Debug, PartialEq, Eq)]
struct Event {
    at: Time,
    /// Breaks ties in the order of scheduling.
    order: u64,
    stage: Stage,
    packet: Packet,
}

impl Ord for Event {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        (self.at, self.order).cmp(&(other.at, other.order))
    }
}

impl PartialOrd for Event {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

/// Hosts, NATs and links, and the packets between them.
#[derive(Debug)]
pub struct Internet {
    pub(crate) topology: Topology,
    events: BinaryHeap<Reverse<Event>>,
    scheduled: u64,
    deliveries: VecDeque<Delivery>,
    /// From whom nothing passes to whom whose payload is larger than this.
    cuts: BTreeMap<(HostId, HostId), usize>,
    trace: Trace,
}

impl Internet {
    /// An empty internet. Everything random in it comes from `seed`.
    #[must_use]
    pub fn new(seed: u64) -> Self {
        Self {
            topology: Topology::new(Rng::from_u64(seed).fork("internet")),
            events: BinaryHeap::new(),
            scheduled: 0,
            deliveries: VecDeque::new(),
            cuts: BTreeMap::new(),
            trace: Trace::default(),
        }
    }

    /// Adds a NAT or firewall.
    pub fn add_nat(&mut self, place: Place, nat: Nat) -> NatId {
        self.topology.add_nat(place, nat)
    }

    /// Adds an IPv4 host at `place`.
    pub fn add_host(&mut self, place: Place) -> HostId {
        self.topology.add_host(place, Families::V4)
    }

    /// Adds a host of the given families at `place`.
    pub fn add_host_with(&mut self, place: Place, families: Families) -> HostId {
        self.topology.add_host(place, families)
    }

    /// Adds an IPv4 host behind boxes of its own.
    pub fn add_behind(&mut self, chain: impl Into<Chain>) -> HostId {
        let place = self.topology.add_chain(Place::Public, &chain.into());
        self.add_host(place)
    }

    /// The boxes around a host, nearest first.
    #[must_use]
    pub fn nats(&self, host: HostId) -> Vec<NatId> {
        self.topology.boxes(host)
    }

    /// How many hosts there are; their ids are `0..count`.
    #[must_use]
    pub fn hosts(&self) -> u32 {
        u32::try_from(self.topology.hosts.len()).unwrap_or(u32::MAX)
    }

    /// The addresses of a host's interfaces.
    #[must_use]
    pub fn ips(&self, host: HostId) -> &[IpAddr] {
        self.topology.host(host).ips()
    }

    /// The external IPv4 addresses of a NAT.
    #[must_use]
    pub fn external_ips(&self, nat: NatId) -> Vec<IpAddr> {
        self.topology.gate(nat).table.external().iter().copied().map(IpAddr::V4).collect()
    }

    /// What the box nearest to a host says when the host asks it for a port.
    pub fn ask_router(&mut self, now: Time, host: HostId, request: Request) -> Answer {
        let ip = self.ips(host).iter().copied().find(IpAddr::is_ipv4);
        match (self.nats(host).first(), ip) {
            (Some(nearest), Some(ip)) => self.topology.gate_mut(*nearest).table.ask(now, ip, request),
            _ => Answer::Failed { failure: Failure::NoRouter, detail: String::new() },
        }
    }

    /// How many ports a NAT has given away to hosts inside at `now`.
    #[must_use]
    pub fn ports_given(&self, now: Time, nat: NatId) -> usize {
        self.topology.gate(nat).table.given(now)
    }

    /// A NAT forgets the ports it has given away, and nothing else.
    pub fn forget_ports(&mut self, now: Time, nat: NatId) {
        self.topology.gate_mut(nat).table.forget_given(now);
    }

    /// An operator opens a port of the hosts inside a firewall to anyone, or closes it again.
    pub fn open_port(&mut self, nat: NatId, port: Option<u16>) {
        self.topology.gate_mut(nat).table.open(port);
    }

    /// How many mappings a NAT has at `now`.
    #[must_use]
    pub fn mappings(&self, now: Time, nat: NatId) -> usize {
        self.topology.gate(nat).table.mappings(now)
    }

    /// What a host is called in diagrams; `h<id>` unless named.
    #[must_use]
    pub fn name(&self, host: HostId) -> &str {
        &self.topology.host(host).name
    }

    /// Names a host.
    pub fn set_name(&mut self, host: HostId, name: impl Into<String>) {
        self.topology.host_mut(host).name = name.into();
    }

    /// Opens a UDP port of a host, of its choosing where the port is 0; the IP may be unspecified.
    ///
    /// # Errors
    /// Where the port is taken or the host does not have the address.
    pub fn bind(&mut self, host: HostId, addr: SocketAddr) -> Result<SocketAddr, BindError> {
        self.topology.host_mut(host).bind(plain(addr))
    }

    /// Closes a port; packets for it are dropped from then on.
    pub fn close(&mut self, host: HostId, local: SocketAddr) {
        self.topology.host_mut(host).close(local);
    }

    /// The outgoing direction of a host's access link.
    #[must_use]
    pub fn uplink(&self, host: HostId) -> &Link {
        self.topology.host(host).up.rule()
    }

    /// The incoming direction of a host's access link.
    #[must_use]
    pub fn downlink(&self, host: HostId) -> &Link {
        self.topology.host(host).down.rule()
    }

    /// Changes the outgoing direction of a host's access link from `now` on.
    pub fn set_uplink(&mut self, now: Time, host: HostId, link: Link) {
        self.topology.host_mut(host).up.set_rule(now, link);
    }

    /// Changes the incoming direction of a host's access link from `now` on.
    pub fn set_downlink(&mut self, now: Time, host: HostId, link: Link) {
        self.topology.host_mut(host).down.set_rule(now, link);
    }

    /// Changes both directions of a host's access link from `now` on.
    pub fn set_link(&mut self, now: Time, host: HostId, link: &Link) {
        self.set_uplink(now, host, link.clone());
        self.set_downlink(now, host, link.clone());
    }

    /// Puts the site of `host` (its outermost box, or itself) so far from the middle of the core, one way.
    /// Two sites are the sum of their distances apart. 5 ms unless set.
    pub fn set_distance(&mut self, host: HostId, distance: Duration) {
        self.topology.set_distance(host, distance);
    }

    /// Sets the one-way delay across the core between the sites of two hosts, whatever their distances.
    pub fn set_core_delay(&mut self, a: HostId, b: HostId, delay: Duration) {
        self.topology.set_core_delay(a, b, delay);
    }

    /// Gives a host an interface whose address means nothing to anyone else, such as a bridge of containers.
    pub fn add_useless(&mut self, host: HostId, ip: IpAddr) {
        self.topology.host_mut(host).add_useless(ip);
    }

    /// Counts, the last packets and the fingerprint.
    #[must_use]
    pub const fn trace(&self) -> &Trace {
        &self.trace
    }

    /// The same, to change how much is remembered.
    pub const fn trace_mut(&mut self) -> &mut Trace {
        &mut self.trace
    }

    /// A drawing of the last `limit` packets.
    #[must_use]
    pub fn diagram(&self, limit: usize) -> String {
        self.trace.diagram(limit, |host| self.name(host).to_owned())
    }

    /// Sends a datagram from the socket bound at `local`. False where the host refuses at once, having no way to
    /// send it; what becomes of it later shows in the trace only, as in life.
    pub fn send(
        &mut self,
        now: Time,
        host: HostId,
        local: SocketAddr,
        dst: SocketAddr,
        payload: Vec<u8>,
    ) -> bool {
        self.trace.sent();
        let (local, dst) = (plain(local), plain(dst));
        let mut packet = Packet { sent: now, sender: host, src: local, dst, payload };
        let Some(src) = self.topology.host(host).source(local, dst) else {
            self.lose(now, &packet, Lost::NoSource);
            return false;
        };
        packet.src = src;
        self.send_from(now, host, packet);
        true
    }

    fn send_from(&mut self, now: Time, host: HostId, packet: Packet) {
        let dst = packet.dst;
        if dst.ip().is_loopback() {
            return self.schedule(now + LAN_DELAY, Stage::Arriving(host), packet);
        }
        let size = wire_size(&packet);
        if self.topology.host(host).ips().contains(&dst.ip()) {
            return self.send_across_lan(now, host, size, packet);
        }
        let realm = self.topology.host(host).realm();
        if let Some(Port::Host(neighbour)) = self.topology.realm(realm).routes.get(&dst.ip()).copied()
            && realm != RealmId::PUBLIC
        {
            return self.send_across_lan(now, neighbour, size, packet);
        }
        match self.topology.host_mut(host).up.pass(now, size) {
            Ok(at) => self.schedule(at, Stage::Edge, packet),
            Err(reason) => self.lose(now, &packet, reason),
        }
    }

    /// The instant of the next thing that happens, or of the oldest delivery not yet collected.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<Time> {
        let waiting = self.deliveries.front().map(|d| d.at);
        waiting.or_else(|| self.events.peek().map(|Reverse(event)| event.at))
    }

    /// The next datagram that has arrived by `now`.
    pub fn poll_delivery(&mut self, now: Time) -> Option<Delivery> {
        while self.deliveries.is_empty() && self.events.peek().is_some_and(|Reverse(event)| event.at <= now) {
            let Some(Reverse(event)) = self.events.pop() else { break };
            self.step(event);
        }
        self.deliveries.pop_front()
    }

    fn step(&mut self, event: Event) {
        let Event { at, stage, packet, .. } = event;
        match stage {
            Stage::Edge => self.leave(at, packet),
            Stage::Entering(realm) => self.enter(at, realm, packet),
            Stage::Arriving(host) => self.arrive(at, host, packet),
        }
    }

    fn send_across_lan(&mut self, now: Time, neighbour: HostId, size: usize, packet: Packet) {
        let (from, to) = (self.topology.host(packet.sender), self.topology.host(neighbour));
        match from.up.admit(size).and_then(|()| to.down.admit(size)) {
            Ok(()) => self.schedule(now + LAN_DELAY, Stage::Arriving(neighbour), packet),
            Err(reason) => self.lose(now, &packet, reason),
        }
    }

    /// Outwards, box by box, until somebody has the destination address.
    fn leave(&mut self, now: Time, mut packet: Packet) {
        let Some(mut realm) = self.topology.host(packet.sender).realm_of(packet.src.ip()) else {
            return self.lose(now, &packet, Lost::Unplugged);
        };
        let mut site = Site::Host(packet.sender);
        loop {
            let known = self.topology.realm(realm).routes.get(&packet.dst.ip()).copied();
            match (known, self.topology.realm(realm).owner) {
                (Some(port), None) => return self.cross_core(now, site, port, packet),
                (Some(_), Some(_)) => return self.enter(now, realm, packet),
                (None, None) => return self.lose(now, &packet, Lost::NoRoute),
                (None, Some(owner)) => {
                    let gate = self.topology.gate_mut(owner);
                    let hairpin = gate.table.owns(packet.dst.ip());
                    if hairpin && !gate.table.rule().hairpin {
                        return self.lose(now, &packet, Lost::NoHairpin);
                    }
                    match gate.table.outbound(now, packet.src, packet.dst) {
                        Ok(src) => packet.src = src,
                        Err(reason) => return self.lose(now, &packet, reason),
                    }
                    realm = gate.outside;
                    site = Site::Nat(owner);
                    if hairpin {
                        return self.enter(now, realm, packet);
                    }
                }
            }
        }
    }

    fn cross_core(&mut self, now: Time, from: Site, port: Port, packet: Packet) {
        let to = match port {
            Port::Host(host) => Site::Host(host),
            Port::Nat(nat) => Site::Nat(nat),
        };
        let at = now + self.topology.core_delay(from, to);
        self.schedule(at, Stage::Entering(RealmId::PUBLIC), packet);
    }

    /// Inwards, box by box, to the host.
    fn enter(&mut self, now: Time, mut realm: RealmId, mut packet: Packet) {
        loop {
            match self.topology.realm(realm).routes.get(&packet.dst.ip()).copied() {
                None => return self.lose(now, &packet, Lost::NoRoute),
                Some(Port::Nat(nat)) => {
                    let gate = self.topology.gate_mut(nat);
                    match gate.table.inbound(now, packet.src, packet.dst) {
                        Ok(dst) => packet.dst = dst,
                        Err(reason) => return self.lose(now, &packet, reason),
                    }
                    realm = gate.inside;
                }
                Some(Port::Host(host)) => {
                    let size = wire_size(&packet);
                    return match self.topology.host_mut(host).down.pass(now, size) {
                        Ok(at) => self.schedule(at, Stage::Arriving(host), packet),
                        Err(reason) => self.lose(now, &packet, reason),
                    };
                }
            }
        }
    }

    fn arrive(&mut self, now: Time, host: HostId, packet: Packet) {
        if self.cuts.get(&(packet.sender, host)).is_some_and(|above| packet.payload.len() > *above) {
            return self.lose(now, &packet, Lost::Cut);
        }
        let at = packet.dst.ip();
        if !at.is_loopback() && !self.topology.host(host).ips().contains(&at) {
            return self.lose(now, &packet, Lost::Unplugged);
        }
        if !self.topology.host(host).listens(packet.dst) {
            return self.lose(now, &packet, Lost::Unbound);
        }
        self.trace.ended(event_of(now, &packet, Ok(host)));
        let Packet { src: from, dst: local, payload, .. } = packet;
        self.deliveries.push_back(Delivery { at: now, host, local, from, payload });
    }

    fn schedule(&mut self, at: Time, stage: Stage, packet: Packet) {
        self.scheduled += 1;
        self.events.push(Reverse(Event { at, order: self.scheduled, stage, packet }));
    }

    fn lose(&mut self, now: Time, packet: &Packet, reason: Lost) {
        self.trace.ended(event_of(now, packet, Err(reason)));
    }
}

fn event_of(now: Time, packet: &Packet, fate: Result<HostId, Lost>) -> PacketEvent {
    PacketEvent {
        sent: packet.sent,
        ended: now,
        from: packet.sender,
        src: packet.src,
        dst: packet.dst,
        size: packet.payload.len(),
        kind: packet.payload.first().map(|byte| DatagramKind::of(*byte)),
        fate,
    }
}

/// Payload, UDP header and IP header.
fn wire_size(packet: &Packet) -> usize {
    packet.payload.len() + if packet.dst.is_ipv6() { 48 } else { 28 }
}

/// Without flow label and scope, which nothing here looks at.
fn plain(addr: SocketAddr) -> SocketAddr {
    SocketAddr::new(addr.ip(), addr.port())
}

#[cfg(test)]
mod tests;
