//! Which virtual address stands for whom.
//!
//! A slot is a virtual address: a ULA (RFC 4193) with the slot's number. QUIC ties a connection to one
//! for life. A dial makes a slot with the peer's candidate routes; an Initial from a stranger makes
//! a *provisional* one, keyed by its destination connection id, so that copies of it over several routes
//! end in one connection. Packets find their slot by the route they came over.
//!
//! A slot's hold on a route is *proven* once a packet came over it with a connection id that this node
//! chose: only who hears this node knows one. A settled slot keeps the routes that were tried and not proven,
//! since its peer may yet answer over them, but loses them to whoever else turns up there: two homes may
//! use the same private addresses.
//!
//! Provisional slots are bounded: past [`MAX_PROVISIONAL`] the oldest that nobody works on is given up,
//! which at worst costs its handshake. Dialled and adopted ones are as many as the node has sessions.

use std::collections::hash_map::Entry;
use std::collections::{HashMap, VecDeque};
use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};
use std::time::Duration;

use net_mesh_proto::drops::DropReason;
use net_mesh_proto::id::NodeId;
use net_mesh_proto::route::Route;
use net_mesh_proto::time::Time;
use tokio::time::Instant;

use super::counters::DropCounters;
use super::counts::Changed;
use super::routes::PeerRoutes;

/// Handshakes by strangers in progress at a time. A handshake lasts a few round trips, so this admits
/// hundreds of joins a second; each costs about a hundred bytes here and the QUIC state beside it.
pub(crate) const MAX_PROVISIONAL: usize = 1024;

/// Routes that copies of one Initial may come over: answers go over all of them until one proves itself,
/// and addresses may be forged.
const MAX_SOURCES: usize = 4;

/// Routes that lead to one settled slot. A session has one in use, some that are being proved, and those
/// of before; past this the oldest that is not in use makes room.
pub(super) const MAX_ACCEPTED: usize = 32;

/// Connection ids of this node's that a slot's peer is known to use: QUIC gives out a few for each connection,
/// and a peer that never migrates uses one of them for long.
const MAX_IDS: usize = 4;

/// Shortest time between two packets of an earlier run's connections that QUIC gets to answer. QUIC itself
/// sends stateless resets no faster.
const STRAY_INTERVAL: Duration = Duration::from_millis(20);

/// The slot through which QUIC answers packets of connections that this run of the node knows nothing of.
const STRAY: SlotId = SlotId(u64::MAX);

/// How long a stranger's slot waits to become a handshake. A handshake over a slow satellite path with a
/// lost packet takes about three seconds.
const HANDSHAKE_LIMIT: Duration = Duration::from_secs(15);

/// `fd6e:6574:6d65:7368::/64`.
const PREFIX: [u16; 4] = [0xfd6e, 0x6574, 0x6d65, 0x7368];

/// Longest connection id of QUIC version 1 (RFC 9000 §17.2), and its length.
type Dcid = ([u8; 20], u8);

/// A slot's number.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct SlotId(u64);

impl SlotId {
    /// A slot of no table, for tests of what merely names one.
    #[cfg(test)]
    pub(crate) const fn for_test(n: u64) -> Self {
        Self(n)
    }

    /// The address that QUIC knows the slot by.
    pub(crate) fn addr(self) -> SocketAddr {
        let [a, b, c, d] = PREFIX;
        let n = self.0.to_be_bytes();
        let at = |i: usize| u16::from_be_bytes([n[i], n[i + 1]]);
        SocketAddr::new(IpAddr::V6(Ipv6Addr::new(a, b, c, d, at(0), at(2), at(4), at(6))), 1)
    }

    /// The slot that QUIC knows by `addr`.
    pub(crate) fn of(addr: SocketAddr) -> Option<Self> {
        let IpAddr::V6(ip) = addr.ip() else { return None };
        (ip.segments()[..4] == PREFIX).then(|| {
            let low: [u8; 8] = ip.octets()[8..].try_into().unwrap_or_default();
            Self(u64::from_be_bytes(low))
        })
    }
}

#[derive(Debug)]
struct Slot {
    routes: Arc<PeerRoutes>,
    /// The routes that lead here, oldest first.
    sources: Vec<Route>,
    /// Whose it is, or is to be, once that is known.
    owner: Option<NodeId>,
    /// Whether the peer is authenticated.
    settled: bool,
    /// How many connections and attempts use it.
    users: usize,
    /// The connection id that leads here, for a slot made by an Initial.
    dcid: Option<Dcid>,
    /// The connection ids in [`Table::ids`], oldest first.
    ids: VecDeque<u64>,
    /// For a stranger's slot, while the peer is not authenticated: since when.
    handshake: Option<Instant>,
}

/// Where packets of a route belong.
#[derive(Clone, Copy, Debug)]
struct Source {
    slot: SlotId,
    proven: bool,
}

/// What is known of the slot that a route leads to.
#[derive(Clone, Debug)]
pub(super) struct Found {
    pub(super) slot: SlotId,
    pub(super) routes: Arc<PeerRoutes>,
    /// Whether the slot's peer has proved that it is at the other end of the route.
    pub(super) proven: bool,
    /// Whether the slot's peer is authenticated.
    pub(super) settled: bool,
}

#[derive(Debug, Default)]
struct Table {
    slots: HashMap<SlotId, Slot>,
    by_source: HashMap<Route, Source>,
    by_dcid: HashMap<Dcid, SlotId>,
    /// Connection ids that this node chose and that the peers of these slots use.
    ids: HashMap<u64, SlotId>,
    /// Provisional slots, oldest first. May name slots that are gone or settled.
    provisional: VecDeque<SlotId>,
    provisional_len: usize,
    next: u64,
    /// When [`STRAY`] was used last.
    stray: Option<Instant>,
}

/// The table of slots.
#[derive(Debug)]
pub(crate) struct Slots {
    table: RwLock<Table>,
    changed: Changed,
    drops: Arc<DropCounters>,
}

impl Slots {
    pub(crate) fn new(drops: Arc<DropCounters>) -> Self {
        Self { table: RwLock::default(), changed: Changed::default(), drops }
    }

    fn read(&self) -> RwLockReadGuard<'_, Table> {
        self.table.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self) -> RwLockWriteGuard<'_, Table> {
        self.table.write().unwrap_or_else(PoisonError::into_inner)
    }

    /// A slot for dialling `peer` (any member where `None`) over these routes, held until it is
    /// [released](Self::release).
    ///
    /// One route leads to one slot only. Where one already leads to a slot of the same peer, or of a
    /// stranger whose handshake is in progress (most likely the same peer dialling us), that slot is
    /// shared; where it leads to someone else's, it is left out, unless that is settled and has not proven
    /// it. A stranger's slot gets no further routes: it may not be the peer's. `None` if no route is left.
    pub(crate) fn dial(&self, peer: Option<NodeId>, candidates: &[Route]) -> Option<SlotId> {
        let mut table = self.write();
        let mut shared = None;
        let mut free = Vec::new();
        for route in candidates {
            match table.holder(*route) {
                Some((slot, entry)) if entry.owner.is_none() || peer.is_none() || entry.owner == peer => {
                    shared = shared.or(Some(slot));
                }
                Some(_) => {}
                None => free.push(*route),
            }
        }
        if shared.is_none() && free.is_empty() {
            return None;
        }
        let slot = shared.unwrap_or_else(|| table.create(None));
        if table.slots.get(&slot).is_some_and(|s| s.handshake.is_none()) {
            for route in free {
                table.add_source(slot, route);
            }
        }
        let entry = table.slots.get_mut(&slot)?;
        entry.users += 1;
        entry.owner = entry.owner.or(peer);
        Some(slot)
    }

    /// The slot that packets over `route` belong to.
    pub(super) fn by_source(&self, route: Route) -> Option<Found> {
        let table = self.read();
        let source = table.by_source.get(&route)?;
        let slot = table.slots.get(&source.slot)?;
        let (routes, settled) = (Arc::clone(&slot.routes), slot.settled);
        Some(Found { slot: source.slot, routes, proven: source.proven, settled })
    }

    /// Whether `route` is proven to lead to an authenticated peer.
    pub(super) fn is_session(&self, route: Route) -> bool {
        self.by_source(route).is_some_and(|found| found.proven && found.settled)
    }

    /// The slot for an Initial with the destination connection id `dcid` over a route that is new, or that
    /// leads to a settled slot which has not proven it.
    pub(super) fn by_initial(&self, dcid: &[u8], route: Route) -> Option<Found> {
        let mut key = ([0; 20], u8::try_from(dcid.len()).ok()?);
        key.0.get_mut(..dcid.len())?.copy_from_slice(dcid);
        let mut table = self.write();
        let slot = match table.by_dcid.get(&key) {
            Some(slot) => *slot,
            None => {
                if table.provisional_len >= MAX_PROVISIONAL {
                    self.drops.count(DropReason::TooManyHandshakes);
                    if !table.evict() {
                        return None;
                    }
                }
                let slot = table.create(Some(key));
                table.provisional.push_back(slot);
                table.provisional_len += 1;
                table.oldest_handshake();
                slot
            }
        };
        let entry = table.slots.get(&slot)?;
        let (routes, settled) = (Arc::clone(&entry.routes), entry.settled);
        let crowded = entry.sources.len() >= MAX_SOURCES && !entry.sources.contains(&route);
        if crowded || !table.add_source(slot, route) {
            self.drops.count(DropReason::TableFull);
            return None;
        }
        Some(Found { slot, routes, proven: false, settled })
    }

    /// A packet over `route` carried a connection id that this node chose.
    pub(super) fn prove(&self, slot: SlotId, route: Route) {
        let mut table = self.write();
        if let Some(source) = table.by_source.get_mut(&route).filter(|s| s.slot == slot) {
            source.proven = true;
            if let Some(entry) = table.slots.get(&slot) {
                entry.routes.proven(route);
            }
        }
    }

    /// A slot through which QUIC can answer one packet from `route` for a connection of an earlier run of
    /// this node, which it does with a stateless reset (RFC 9000 §10.3). `None` more often than every
    /// [`STRAY_INTERVAL`]. It serves until the next packet of this kind, or a [`sweep`](Self::sweep).
    pub(super) fn stray(&self, route: Route) -> Option<SlotId> {
        let mut table = self.write();
        let now = Instant::now();
        if table.stray.is_some_and(|last| now - last < STRAY_INTERVAL) {
            return None;
        }
        table.stray = Some(now);
        let slot = Slot::new(STRAY, None);
        slot.routes.set(route, None);
        table.slots.insert(STRAY, slot);
        Some(STRAY)
    }

    /// The routes behind a virtual address.
    pub(crate) fn routes(&self, addr: SocketAddr) -> Option<Arc<PeerRoutes>> {
        let slot = SlotId::of(addr)?;
        self.read().slots.get(&slot).map(|s| Arc::clone(&s.routes))
    }

    /// Sessions whose counts have changed.
    pub(super) const fn changed(&self) -> &Changed {
        &self.changed
    }

    /// The peer of `slot` uses `id`, which this node chose.
    pub(super) fn learn(&self, slot: SlotId, id: u64) {
        let table = &mut *self.write();
        let Some(entry) = table.slots.get_mut(&slot) else { return };
        // Who was first has it: a session's packets may come over what is a stranger's route for the moment.
        if let Entry::Vacant(vacant) = table.ids.entry(id) {
            vacant.insert(slot);
            if let Some(oldest) = remember_id(&mut entry.ids, id) {
                table.ids.remove(&oldest);
            }
        }
    }

    /// Whether the peer of a slot uses `id`.
    pub(super) fn is_in_use(&self, id: u64) -> bool {
        self.read().ids.contains_key(&id)
    }

    /// Handshakes by strangers in progress.
    pub(crate) fn provisional(&self) -> usize {
        self.read().provisional_len
    }

    /// Takes part in a stranger's slot, for a handshake. False if it has been given up already.
    pub(crate) fn hold(&self, slot: SlotId) -> bool {
        self.write().slots.get_mut(&slot).map(|s| s.users += 1).is_some()
    }

    /// The peer behind a slot is authenticated: its route is fixed and returned.
    pub(crate) fn settle(&self, slot: SlotId, peer: NodeId) -> Option<Route> {
        let mut table = self.write();
        table.end_handshake(slot);
        let entry = table.slots.get_mut(&slot)?;
        entry.owner = Some(peer);
        entry.settled = true;
        let (route, untold) = entry.routes.settle();
        if untold {
            self.changed.add(&entry.routes);
        }
        route
    }

    /// Packets over `route` belong to the settled `slot` from now on. False if another peer's slot has proven
    /// the route, or `slot` is gone.
    pub(super) fn accept(&self, slot: SlotId, route: Route) -> bool {
        self.write().accept(slot, route)
    }

    /// As [`accept`](Self::accept), and `slot`'s packets go over `route` from now on. The caller knows that
    /// the peer hears this node there, which makes the route proven.
    pub(super) fn set_route(&self, slot: SlotId, route: Route, also: Option<Route>) -> bool {
        let mut table = self.write();
        if !table.accept(slot, route) {
            return false;
        }
        if let Some(source) = table.by_source.get_mut(&route) {
            source.proven = true;
        }
        if let Some(also) = also {
            table.accept(slot, also);
        }
        let Some(entry) = table.slots.get(&slot) else { return false };
        // A second route that is another peer's is left out: what is lost is a copy.
        let also = also.filter(|also| table.leads(slot, *also));
        entry.routes.set(route, also);
        true
    }

    /// A connection on the slot has ended. If it was the last, the slot still serves for saying so, but its
    /// routes are free: the next attempt must not be tied to the one that may have died.
    pub(crate) fn retire(&self, slot: SlotId) {
        let mut table = self.write();
        let Some(entry) = table.slots.get_mut(&slot).filter(|s| s.users <= 1) else { return };
        for source in std::mem::take(&mut entry.sources) {
            table.by_source.remove(&source);
        }
    }

    /// One connection or attempt less uses the slot; the last one removes it.
    pub(crate) fn release(&self, slot: SlotId) {
        let mut table = self.write();
        if let Some(entry) = table.slots.get_mut(&slot) {
            entry.users = entry.users.saturating_sub(1);
            if entry.users == 0 {
                table.remove(slot);
            }
        }
    }

    /// Removes strangers' slots that became no handshake within [`HANDSHAKE_LIMIT`], and frees what sessions keep that
    /// have sent nothing since `limit`.
    pub(super) fn sweep(&self, limit: Time) {
        self.changed.sweep();
        for slot in self.read().slots.values() {
            slot.routes.forget_before(limit);
        }
        let now = Instant::now();
        let mut table = self.write();
        if table.stray.is_some_and(|last| now - last > STRAY_INTERVAL) {
            table.slots.remove(&STRAY);
        }
        while let Some(oldest) = table.oldest_handshake() {
            let stale = table.slots.get(&oldest).is_some_and(|s| {
                s.users == 0 && s.handshake.is_some_and(|since| now - since > HANDSHAKE_LIMIT)
            });
            if !stale {
                return;
            }
            table.remove(oldest);
        }
    }
}

impl Slot {
    fn new(id: SlotId, dcid: Option<Dcid>) -> Self {
        Self {
            routes: Arc::new(PeerRoutes::new(id)),
            sources: Vec::new(),
            owner: None,
            settled: false,
            users: 0,
            dcid,
            ids: VecDeque::new(),
            handshake: dcid.map(|_| Instant::now()),
        }
    }
}

impl Table {
    fn create(&mut self, dcid: Option<Dcid>) -> SlotId {
        let id = SlotId(self.next);
        self.next += 1;
        self.slots.insert(id, Slot::new(id, dcid));
        if let Some(dcid) = dcid {
            self.by_dcid.insert(dcid, id);
        }
        id
    }

    fn leads(&self, slot: SlotId, route: Route) -> bool {
        self.by_source.get(&route).is_some_and(|source| source.slot == slot)
    }

    /// The slot that has more right to `route` than whoever comes next.
    fn holder(&self, route: Route) -> Option<(SlotId, &Slot)> {
        let source = self.by_source.get(&route)?;
        let slot = self.slots.get(&source.slot)?;
        (source.proven || !slot.settled).then_some((source.slot, slot))
    }

    /// Lets packets over `route` lead to `slot`, if nobody has more right to it, and makes it a candidate.
    /// False if the slot has too many.
    fn add_source(&mut self, slot: SlotId, route: Route) -> bool {
        if !self.slots.get(&slot).is_some_and(|s| s.routes.add_candidate(route)) {
            return false;
        }
        if self.holder(route).is_none() {
            self.point(route, slot);
        }
        true
    }

    fn accept(&mut self, slot: SlotId, route: Route) -> bool {
        let Some(entry) = self.slots.get(&slot) else { return false };
        let (owner, used) = (entry.owner, entry.routes.lines());
        let in_use = |r: Route| used.is_some_and(|lines| lines.route == r || lines.also == Some(r));
        match self.by_source.get(&route).copied() {
            Some(source) if source.slot == slot => return true,
            Some(source) if source.proven => {
                // Connections with one peer may replace each other on a route.
                let same =
                    self.slots.get(&source.slot).is_some_and(|s| s.owner.is_some() && s.owner == owner);
                if !same {
                    return false;
                }
            }
            // An attempt to reach somebody else there has begun, and will end.
            Some(source)
                if self
                    .slots
                    .get(&source.slot)
                    .is_some_and(|s| !s.settled && s.owner.is_some_and(|o| Some(o) != owner)) =>
            {
                return false;
            }
            _ => {}
        }
        let oldest =
            entry.sources.iter().find(|r| entry.sources.len() >= MAX_ACCEPTED && !in_use(**r)).copied();
        if let Some(oldest) = oldest {
            self.unpoint(oldest);
        }
        self.point(route, slot);
        true
    }

    /// Makes `route` lead to `slot`, and to no other.
    fn point(&mut self, route: Route, slot: SlotId) {
        if self.by_source.get(&route).is_some_and(|s| s.slot == slot) {
            return;
        }
        self.unpoint(route);
        if let Some(entry) = self.slots.get_mut(&slot) {
            entry.sources.push(route);
            self.by_source.insert(route, Source { slot, proven: false });
        }
    }

    fn unpoint(&mut self, route: Route) {
        if let Some(source) = self.by_source.remove(&route)
            && let Some(entry) = self.slots.get_mut(&source.slot)
        {
            entry.sources.retain(|r| *r != route);
        }
    }

    /// The connection id keeps leading to the slot: late copies of the Initial are still that handshake's.
    fn end_handshake(&mut self, slot: SlotId) {
        if self.slots.get_mut(&slot).and_then(|s| s.handshake.take()).is_some() {
            self.provisional_len -= 1;
        }
    }

    fn remove(&mut self, slot: SlotId) {
        self.end_handshake(slot);
        if let Some(entry) = self.slots.remove(&slot) {
            for source in entry.sources {
                self.by_source.remove(&source);
            }
            if let Some(dcid) = entry.dcid {
                self.by_dcid.remove(&dcid);
            }
            for id in entry.ids {
                self.ids.remove(&id);
            }
        }
    }

    /// The stranger's slot that has waited longest. Forgets those that are settled or gone on the way.
    fn oldest_handshake(&mut self) -> Option<SlotId> {
        while let Some(oldest) = self.provisional.front().copied() {
            if self.slots.get(&oldest).is_some_and(|s| s.handshake.is_some()) {
                return Some(oldest);
            }
            self.provisional.pop_front();
        }
        None
    }

    /// Gives up the oldest handshake that nobody works on. False if there is none.
    fn evict(&mut self) -> bool {
        let idle = |id: &&SlotId| self.slots.get(id).is_some_and(|s| s.handshake.is_some() && s.users == 0);
        let Some(oldest) = self.provisional.iter().find(idle).copied() else { return false };
        self.remove(oldest);
        true
    }
}

/// Adds one of a slot's connection ids; returns the one that made room for it.
pub(super) fn remember_id(ids: &mut VecDeque<u64>, id: u64) -> Option<u64> {
    ids.push_back(id);
    if ids.len() > MAX_IDS { ids.pop_front() } else { None }
}

#[cfg(test)]
#[path = "slots_tests.rs"]
mod tests;
