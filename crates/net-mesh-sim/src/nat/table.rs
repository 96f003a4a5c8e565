//! A NAT or firewall at work: its mappings, whom they admit, and when they end.
//!
//! Everything here is bounded: sessions by the description, remembered knocks by [`KNOCKS`]. Expired
//! entries are dropped when they are met, and swept at most once a second when room is short.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::Duration;

use net_mesh_proto::bounded::BoundedMap;
use net_mesh_proto::portmap::{Answer, Failure, Request};
use net_mesh_proto::rng::Rng;
use net_mesh_proto::time::Time;

use super::router::Ports as Given;
use super::{Dependence, Kind, Nat, Pool, Ports};
use crate::trace::Lost;

/// Unsolicited packets remembered by a poisoned NAT. A punch knocks at a handful of ports; a spray at up to
/// 2 048. Beyond that the oldest is forgotten, which only makes the NAT kinder.
const KNOCKS: usize = 2048;

/// How long an unsolicited packet is remembered: Linux's timeout for a UDP flow seen in one direction.
const KNOCK_LASTS: Duration = Duration::from_secs(30);

/// How often a full table is swept for expired entries: a sweep visits all of it, and a flood must not
/// cause one per packet.
const SWEEP_EVERY: Duration = Duration::from_secs(1);

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Remote {
    Any,
    Ip(IpAddr),
    Endpoint(SocketAddr),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Key {
    internal: SocketAddr,
    remote: Remote,
}

#[derive(Debug)]
struct Entry {
    external: SocketAddr,
    made: Time,
    used: Time,
    /// Remote endpoints that were sent to, and when last.
    remotes: BTreeMap<SocketAddr, Time>,
}

#[derive(Debug)]
pub(crate) struct Table {
    rule: Nat,
    external: Vec<Ipv4Addr>,
    rng: Rng,
    entries: BTreeMap<Key, Entry>,
    by_external: BTreeMap<SocketAddr, Key>,
    sessions: usize,
    knocks: BoundedMap<(SocketAddr, SocketAddr), Time>,
    /// External addresses that are not given out any more.
    burnt: BTreeSet<SocketAddr>,
    next_port: u16,
    sweep_at: Time,
    given: Given,
}

impl Table {
    pub(crate) fn new(rule: Nat, external: Vec<Ipv4Addr>, mut rng: Rng) -> Self {
        let (low, high) = rule.port_range;
        let span = u64::from(high.saturating_sub(low)) + 1;
        let next_port = low + u16::try_from(rng.below(span)).unwrap_or(0);
        Self {
            rule,
            external,
            rng,
            entries: BTreeMap::new(),
            by_external: BTreeMap::new(),
            sessions: 0,
            knocks: BoundedMap::new(KNOCKS),
            burnt: BTreeSet::new(),
            next_port,
            sweep_at: Time::ZERO,
            given: Given::new(Time::ZERO),
        }
    }

    pub(crate) fn rule(&self) -> &Nat {
        &self.rule
    }

    /// Opens a port of the hosts inside to anyone, or none.
    pub(crate) const fn open(&mut self, port: Option<u16>) {
        self.rule.open = port;
    }

    pub(crate) fn external(&self) -> &[Ipv4Addr] {
        &self.external
    }

    pub(crate) fn owns(&self, ip: IpAddr) -> bool {
        matches!(ip, IpAddr::V4(ip) if self.external.contains(&ip))
    }

    /// What the box says to the host at `host` inside, which asks it for a port.
    pub(crate) fn ask(&mut self, now: Time, host: IpAddr, request: Request) -> Answer {
        match (&self.rule.router, self.external.first()) {
            (Some(router), Some(own)) => self.given.ask(now, (router, IpAddr::V4(*own)), host, request),
            _ => Answer::Failed { failure: Failure::NoRouter, detail: String::new() },
        }
    }

    /// Ports given away to hosts inside.
    pub(crate) fn given(&self, now: Time) -> usize {
        self.given.len(now)
    }

    /// Forgets the ports it has given away, as a router does whose daemon restarts.
    pub(crate) fn forget_given(&mut self, now: Time) {
        self.given = Given::new(now);
    }

    /// Forgets everything, as after a power cut, and takes new external IPs where there are any.
    pub(crate) fn reboot(&mut self, external: Option<Vec<Ipv4Addr>>) {
        self.entries.clear();
        self.by_external.clear();
        self.sessions = 0;
        self.knocks.retain(|_, _| false);
        self.external = external.unwrap_or_else(|| std::mem::take(&mut self.external));
        self.burnt.clear();
    }

    /// Forgets every mapping, and gives none of their external addresses out again before the next time.
    pub(crate) fn rebind(&mut self, now: Time) {
        let live = self.entries.values().filter(|entry| self.alive(now, entry));
        let burnt = live.map(|entry| entry.external).collect();
        self.reboot(None);
        self.burnt = burnt;
    }

    /// Forgets everything, and follows `rule` from now on, but for what its addresses depend on.
    pub(crate) fn change(&mut self, rule: Nat) {
        self.reboot(None);
        let (kind, pool, inside) = (self.rule.kind, self.rule.pool, self.rule.inside);
        self.rule = Nat { kind, pool, inside, ..rule };
        let (low, high) = self.rule.port_range;
        self.next_port = self.next_port.clamp(low, high);
    }

    /// Mappings alive at `now`.
    pub(crate) fn mappings(&self, now: Time) -> usize {
        self.entries.values().filter(|e| self.alive(now, e)).count()
    }

    /// Lets a packet out: the source address it has outside.
    pub(crate) fn outbound(
        &mut self,
        now: Time,
        src: SocketAddr,
        dst: SocketAddr,
    ) -> Result<SocketAddr, Lost> {
        if self.rule.kind == Kind::UdpBlock {
            return Err(Lost::UdpBlocked);
        }
        if let (Some(port), Some(own)) = (self.given.outbound(src, dst), self.external.first()) {
            return Ok(SocketAddr::new(IpAddr::V4(*own), port));
        }
        let key = self.live_key(now, src, dst);
        let known = self.entries.get(&key).is_some_and(|e| e.remotes.contains_key(&dst));
        if !known && self.sessions >= self.rule.sessions {
            self.sweep(now);
            if self.sessions >= self.rule.sessions {
                return Err(Lost::NatFull);
            }
        }
        if !self.entries.contains_key(&key) {
            let external = self.allocate(now, key, dst).ok_or(Lost::NatFull)?;
            let entry = Entry { external, made: now, used: now, remotes: BTreeMap::new() };
            self.entries.insert(key, entry);
            self.by_external.insert(external, key);
        }
        let entry = self.entries.get_mut(&key).ok_or(Lost::NatFull)?;
        entry.used = now;
        if entry.remotes.insert(dst, now).is_none() {
            self.sessions += 1;
        }
        Ok(entry.external)
    }

    /// Lets a packet in: the address inside that it is for.
    pub(crate) fn inbound(
        &mut self,
        now: Time,
        src: SocketAddr,
        dst: SocketAddr,
    ) -> Result<SocketAddr, Lost> {
        if self.rule.kind == Kind::UdpBlock {
            return Err(Lost::UdpBlocked);
        }
        let open = self.rule.open == Some(dst.port());
        if !self.translates(dst) && (open || self.rule.filtering == Dependence::Independent) {
            return Ok(dst);
        }
        let forwards = self.rule.router.as_ref().is_some_and(|router| router.forwards);
        if forwards
            && self.translates(dst)
            && let Some(internal) = self.given.inbound(now, src, dst.port())
        {
            return Ok(internal);
        }
        let Some(key) = self.by_external.get(&dst).copied().filter(|key| self.keep_alive_only(now, *key))
        else {
            self.knock(now, src, dst);
            return Err(if self.translates(dst) { Lost::NoMapping } else { Lost::Filtered });
        };
        let (idle, refresh) = (self.rule.idle, self.rule.refresh_inbound);
        let Some(entry) = self.entries.get_mut(&key) else { return Err(Lost::NoMapping) };
        let fresh = |sent: &Time| now < *sent + idle;
        let admitted = match self.rule.filtering {
            Dependence::Independent => true,
            Dependence::Address => {
                let (first, last) = (SocketAddr::new(src.ip(), 0), SocketAddr::new(src.ip(), u16::MAX));
                entry.remotes.range(first..=last).any(|(_, sent)| fresh(sent))
            }
            Dependence::AddressAndPort => entry.remotes.get(&src).is_some_and(fresh),
        };
        if !admitted {
            self.knock(now, src, dst);
            return Err(Lost::Filtered);
        }
        if refresh {
            entry.used = now;
            if let Some(sent) = entry.remotes.get_mut(&src) {
                *sent = now;
            }
        }
        Ok(key.internal)
    }

    fn translates(&self, addr: SocketAddr) -> bool {
        self.rule.translates() && addr.is_ipv4()
    }

    fn alive(&self, now: Time, entry: &Entry) -> bool {
        now < entry.used + self.rule.idle && self.rule.lifetime.is_none_or(|l| now < entry.made + l)
    }

    /// Whether `key` has a live mapping; a dead one is removed.
    fn keep_alive_only(&mut self, now: Time, key: Key) -> bool {
        match self.entries.get(&key) {
            Some(entry) if self.alive(now, entry) => true,
            Some(_) => {
                self.remove(key);
                false
            }
            None => false,
        }
    }

    fn remove(&mut self, key: Key) {
        if let Some(entry) = self.entries.remove(&key) {
            self.sessions -= entry.remotes.len();
            self.by_external.remove(&entry.external);
        }
    }

    fn sweep(&mut self, now: Time) {
        if now < self.sweep_at {
            return;
        }
        self.sweep_at = now + SWEEP_EVERY;
        let dead: Vec<Key> =
            self.entries.iter().filter(|(_, e)| !self.alive(now, e)).map(|(k, _)| *k).collect();
        for key in dead {
            self.remove(key);
        }
        let (idle, mut dropped) = (self.rule.idle, 0);
        for entry in self.entries.values_mut() {
            let before = entry.remotes.len();
            entry.remotes.retain(|_, sent| now < *sent + idle);
            dropped += before - entry.remotes.len();
        }
        self.sessions -= dropped;
    }

    /// The mapping that a packet from `src` to `dst` uses, live or still to be made.
    fn live_key(&mut self, now: Time, src: SocketAddr, dst: SocketAddr) -> Key {
        let remote = if self.translates(src) {
            match self.rule.mapping {
                Dependence::Independent => Remote::Any,
                Dependence::Address => Remote::Ip(dst.ip()),
                Dependence::AddressAndPort => Remote::Endpoint(dst),
            }
        } else {
            Remote::Any
        };
        let usual = Key { internal: src, remote };
        if !self.rule.poison || !self.translates(src) {
            self.keep_alive_only(now, usual);
            return usual;
        }
        // After a knock the answer has a mapping to itself, which goes before the usual one.
        let own = Key { internal: src, remote: Remote::Endpoint(dst) };
        if self.keep_alive_only(now, own) {
            return own;
        }
        let wanted = if self.keep_alive_only(now, usual) {
            self.entries.get(&usual).filter(|e| !e.remotes.contains_key(&dst)).map(|e| e.external)
        } else if self.rule.ports == Ports::Preserving && self.external.len() == 1 {
            Some(SocketAddr::new(IpAddr::V4(self.external[0]), src.port()))
        } else {
            None
        };
        if wanted.is_some_and(|external| self.knocked(now, external, dst)) { own } else { usual }
    }

    fn knock(&mut self, now: Time, src: SocketAddr, dst: SocketAddr) {
        if self.rule.poison && self.translates(dst) {
            self.knocks.insert((dst, src), now + KNOCK_LASTS);
        }
    }

    fn knocked(&self, now: Time, external: SocketAddr, remote: SocketAddr) -> bool {
        self.knocks.get(&(external, remote)).is_some_and(|until| now < *until)
    }

    fn allocate(&mut self, now: Time, key: Key, dst: SocketAddr) -> Option<SocketAddr> {
        if !self.translates(key.internal) {
            return Some(key.internal);
        }
        let ip = IpAddr::V4(self.pick_ip(key.internal.ip())?);
        let at = |port| SocketAddr::new(ip, port);
        match self.rule.ports {
            Ports::Preserving => {
                let same = at(key.internal.port());
                if self.free(now, same, dst) { Some(same) } else { self.random_port(now, ip, dst) }
            }
            Ports::Sequential { step } => self.sequential_port(now, ip, dst, step.max(1)),
            Ports::Random => self.random_port(now, ip, dst),
        }
    }

    fn pick_ip(&mut self, internal: IpAddr) -> Option<Ipv4Addr> {
        let count = self.external.len();
        let index = match (self.rule.pool, internal) {
            (_, _) if count < 2 => 0,
            (Pool::Paired(_), IpAddr::V4(ip)) => ip.to_bits() as usize % count,
            (Pool::Paired(_), IpAddr::V6(_)) => 0,
            (Pool::Arbitrary(_), _) => usize::try_from(self.rng.below(count as u64)).unwrap_or(0),
        };
        self.external.get(index).copied()
    }

    fn span(&self) -> u32 {
        let (low, high) = self.rule.port_range;
        u32::from(high.saturating_sub(low)) + 1
    }

    /// The port `offset` above the lowest, around the end of the range.
    fn port(&self, offset: u32) -> u16 {
        self.rule.port_range.0 + u16::try_from(offset % self.span()).unwrap_or(0)
    }

    fn sequential_port(&mut self, now: Time, ip: IpAddr, dst: SocketAddr, step: u16) -> Option<SocketAddr> {
        for _ in 0..self.span() {
            let port = self.next_port;
            let offset = u32::from(port - self.rule.port_range.0);
            self.next_port = self.port(offset + u32::from(step));
            let external = SocketAddr::new(ip, port);
            if self.free(now, external, dst) {
                return Some(external);
            }
        }
        None
    }

    fn random_port(&mut self, now: Time, ip: IpAddr, dst: SocketAddr) -> Option<SocketAddr> {
        let start = u32::try_from(self.rng.below(u64::from(self.span()))).unwrap_or(0);
        for i in 0..self.span() {
            let external = SocketAddr::new(ip, self.port(start + i));
            if self.free(now, external, dst) {
                return Some(external);
            }
        }
        None
    }

    fn free(&mut self, now: Time, external: SocketAddr, dst: SocketAddr) -> bool {
        let taken =
            self.by_external.get(&external).copied().is_some_and(|key| self.keep_alive_only(now, key));
        !taken && !self.knocked(now, external, dst) && !self.burnt.contains(&external)
    }
}
