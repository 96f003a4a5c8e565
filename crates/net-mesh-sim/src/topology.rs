//! Who is behind what: networks ("realms"), the boxes between them, and the addresses in them.
//!
//! The public internet is the root realm; each NAT or firewall has one realm inside. Inside a translator,
//! IPv4 addresses are private and may repeat elsewhere; inside a firewall they belong to the network in
//! front of it, and so do IPv6 addresses everywhere. A realm knows, for each address it can reach without
//! going outwards, which host or which box has it.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::time::Duration;

use net_mesh_proto::rng::Rng;

use crate::host::{Families, Host, HostId};
use crate::nat::table::Table;
use crate::nat::{Chain, Inside, Nat};

/// A NAT or firewall of a simulated internet.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct NatId(pub u32);

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct RealmId(pub(crate) u32);

impl RealmId {
    pub(crate) const PUBLIC: Self = Self(0);
}

/// Where something is attached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// To the public internet.
    Public,
    /// To the network inside a NAT or firewall.
    Behind(NatId),
}

/// Who has an address in a realm.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Port {
    Host(HostId),
    Nat(NatId),
}

/// What is attached to the public internet itself; core distances are between these.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Site {
    Host(HostId),
    Nat(NatId),
}

#[derive(Debug)]
pub(crate) struct Realm {
    /// The box this realm is inside of; none for the public internet.
    pub(crate) owner: Option<NatId>,
    pub(crate) routes: BTreeMap<IpAddr, Port>,
    first: u32,
    used: u32,
}

#[derive(Debug)]
pub(crate) struct Gate {
    pub(crate) table: Table,
    pub(crate) inside: RealmId,
    pub(crate) outside: RealmId,
}

#[derive(Debug)]
pub(crate) struct Topology {
    pub(crate) hosts: Vec<Host>,
    pub(crate) gates: Vec<Gate>,
    realms: Vec<Realm>,
    distances: BTreeMap<Site, Duration>,
    pairs: BTreeMap<(Site, Site), Duration>,
    next_v6: u32,
    rng: Rng,
}

/// One way from a site to the middle of the core. Two sites are twice this apart; with two default links
/// that makes a round trip of 40 ms, one across a country.
const DISTANCE: Duration = Duration::from_millis(5);

/// The public internet's first IPv4 address: 198.18.0.0/15 (RFC 2544), for benchmarks and never routed.
const PUBLIC_V4: u32 = u32::from_be_bytes([198, 18, 0, 1]);

/// The ranges homes use. Few, because real homes share a few too: an address in one home often exists in
/// another, where somebody else has it.
const HOMES: [[u8; 4]; 4] = [[192, 168, 1, 10], [192, 168, 0, 10], [192, 168, 178, 20], [10, 0, 0, 2]];

impl Topology {
    pub(crate) fn new(rng: Rng) -> Self {
        let public = Realm { owner: None, routes: BTreeMap::new(), first: PUBLIC_V4, used: 0 };
        Self {
            hosts: Vec::new(),
            gates: Vec::new(),
            realms: vec![public],
            distances: BTreeMap::new(),
            pairs: BTreeMap::new(),
            next_v6: 1,
            rng,
        }
    }

    pub(crate) fn realm(&self, id: RealmId) -> &Realm {
        &self.realms[id.0 as usize]
    }

    pub(crate) fn gate(&self, id: NatId) -> &Gate {
        &self.gates[id.0 as usize]
    }

    pub(crate) fn gate_mut(&mut self, id: NatId) -> &mut Gate {
        &mut self.gates[id.0 as usize]
    }

    pub(crate) fn host(&self, id: HostId) -> &Host {
        &self.hosts[id.0 as usize]
    }

    pub(crate) fn host_mut(&mut self, id: HostId) -> &mut Host {
        &mut self.hosts[id.0 as usize]
    }

    pub(crate) fn place(&self, place: Place) -> RealmId {
        match place {
            Place::Public => RealmId::PUBLIC,
            Place::Behind(nat) => self.gate(nat).inside,
        }
    }

    pub(crate) fn add_nat(&mut self, place: Place, nat: Nat) -> NatId {
        let outside = self.place(place);
        let id = NatId(u32::try_from(self.gates.len()).unwrap_or(u32::MAX));
        let inside = RealmId(u32::try_from(self.realms.len()).unwrap_or(u32::MAX));
        let first = match nat.inside {
            Inside::Home => HOMES[id.0 as usize % HOMES.len()],
            Inside::Carrier => [100, 64, 0, 2],
        };
        let rng = self.rng.fork(&format!("nat {}", id.0));
        let external = self.external_ips(outside, id, &nat);
        self.gates.push(Gate { table: Table::new(nat, external, rng), inside, outside });
        let first = u32::from_be_bytes(first);
        self.realms.push(Realm { owner: Some(id), routes: BTreeMap::new(), first, used: 0 });
        id
    }

    fn external_ips(&mut self, outside: RealmId, id: NatId, nat: &Nat) -> Vec<Ipv4Addr> {
        let count = if nat.translates() { nat.pool.size() } else { 0 };
        (0..count).map(|_| self.assign_v4(outside, Port::Nat(id))).collect()
    }

    /// Adds the boxes of `chain` at `place`, outermost first, and returns where a host behind them goes.
    pub(crate) fn add_chain(&mut self, place: Place, chain: &Chain) -> Place {
        chain.0.iter().rev().fold(place, |place, nat| Place::Behind(self.add_nat(place, nat.clone())))
    }

    pub(crate) fn add_host(&mut self, place: Place, families: Families) -> HostId {
        let realm = self.place(place);
        let id = HostId(u32::try_from(self.hosts.len()).unwrap_or(u32::MAX));
        let ips = self.assign(realm, id, families);
        let rng = self.rng.fork(&format!("host {}", id.0));
        self.hosts.push(Host::new(format!("h{}", id.0), realm, ips, &rng));
        id
    }

    fn assign(&mut self, realm: RealmId, host: HostId, families: Families) -> Vec<IpAddr> {
        let v4 = families.v4().then(|| IpAddr::V4(self.assign_v4(realm, Port::Host(host))));
        let v6 = families.v6().then(|| IpAddr::V6(self.assign_v6(realm, host)));
        v4.into_iter().chain(v6).collect()
    }

    /// Attaches a host to one more network, with new addresses there, unless it is already.
    pub(crate) fn attach(&mut self, host: HostId, place: Place, families: Families) {
        let realm = self.place(place);
        if !self.host(host).is_attached(realm) {
            let ips = self.assign(realm, host, families);
            self.host_mut(host).attach(realm, ips);
        }
    }

    /// Takes a host off a network, unless it is the only one. Nobody gets its addresses there.
    pub(crate) fn detach(&mut self, host: HostId, place: Place) {
        let realm = self.place(place);
        for ip in self.host_mut(host).detach(realm) {
            self.unroute(realm, ip, Port::Host(host));
        }
    }

    /// From `realm` outwards, makes `ip` unknown where it led to `port`. Elsewhere somebody else may have it.
    fn unroute(&mut self, realm: RealmId, ip: IpAddr, port: Port) {
        let (mut at, mut via) = (realm, port);
        while self.realm(at).routes.get(&ip) == Some(&via) {
            self.realms[at.0 as usize].routes.remove(&ip);
            let Some(owner) = self.realm(at).owner else { return };
            (at, via) = (self.gate(owner).outside, Port::Nat(owner));
        }
    }

    /// Gives `port`, in `realm`, an address of the nearest realm that has its own IPv4 addresses, and tells
    /// the realms in between which way it is.
    fn assign_v4(&mut self, realm: RealmId, port: Port) -> Ipv4Addr {
        let mut home = realm;
        while let Some(owner) = self.realm(home).owner {
            let gate = self.gate(owner);
            if gate.table.rule().translates() {
                break;
            }
            home = gate.outside;
        }
        let pool = &mut self.realms[home.0 as usize];
        let ip = Ipv4Addr::from_bits(pool.first + pool.used);
        pool.used += 1;
        self.route(home, realm, IpAddr::V4(ip), port);
        ip
    }

    fn assign_v6(&mut self, realm: RealmId, host: HostId) -> Ipv6Addr {
        let ip = Ipv6Addr::from_bits((0x2001_0db8_u128 << 96) | (u128::from(self.next_v6) << 64) | 1);
        self.next_v6 += 1;
        self.route(RealmId::PUBLIC, realm, IpAddr::V6(ip), Port::Host(host));
        ip
    }

    /// From `realm` outwards to `home`, makes `ip` known.
    fn route(&mut self, home: RealmId, realm: RealmId, ip: IpAddr, port: Port) {
        let (mut at, mut via) = (realm, port);
        loop {
            self.realms[at.0 as usize].routes.insert(ip, via);
            let Some(owner) = self.realm(at).owner.filter(|_| at != home) else { return };
            (at, via) = (self.gate(owner).outside, Port::Nat(owner));
        }
    }

    /// A NAT forgets everything; with `renumber` it also gets new external IPs.
    pub(crate) fn reboot(&mut self, id: NatId, renumber: bool) {
        let external = renumber.then(|| {
            let gate = self.gate(id);
            let (outside, nat) = (gate.outside, gate.table.rule().clone());
            for realm in &mut self.realms {
                realm
                    .routes
                    .retain(|ip, port| *port != Port::Nat(id) || !self.gates[id.0 as usize].table.owns(*ip));
            }
            self.external_ips(outside, id, &nat)
        });
        self.gate_mut(id).table.reboot(external);
    }

    /// The boxes from a host outwards.
    pub(crate) fn boxes(&self, host: HostId) -> Vec<NatId> {
        let mut boxes = Vec::new();
        let mut realm = self.host(host).realm();
        while let Some(owner) = self.realm(realm).owner {
            boxes.push(owner);
            realm = self.gate(owner).outside;
        }
        boxes
    }

    pub(crate) fn site(&self, host: HostId) -> Site {
        self.boxes(host).last().map_or(Site::Host(host), |nat| Site::Nat(*nat))
    }

    pub(crate) fn set_distance(&mut self, host: HostId, distance: Duration) {
        self.distances.insert(self.site(host), distance);
    }

    pub(crate) fn set_core_delay(&mut self, a: HostId, b: HostId, delay: Duration) {
        let (a, b) = (self.site(a), self.site(b));
        self.pairs.insert((a.min(b), a.max(b)), delay);
    }

    /// One way between the edges of two sites.
    pub(crate) fn core_delay(&self, a: Site, b: Site) -> Duration {
        let distance = |site| self.distances.get(&site).copied().unwrap_or(DISTANCE);
        self.pairs.get(&(a.min(b), a.max(b))).copied().unwrap_or_else(|| distance(a) + distance(b))
    }
}
