//! Which virtual address stands for whom.
//!
//! A slot is a virtual address: a ULA (RFC 4193) with the slot's number. QUIC ties a connection to one
//! for life. A dial makes a slot with the peer's candidate addresses; an Initial from a stranger makes
//! a *provisional* one, keyed by its destination connection id, so that copies of it over several routes
//! end in one connection. Packets find their slot by source address.
//!
//! Provisional slots are bounded: past [`MAX_PROVISIONAL`] the oldest that nobody works on is given up,
//! which at worst costs its handshake. Dialled and adopted ones are as many as the node has sessions.

use std::collections::{HashMap, VecDeque};
use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};
use std::time::Duration;

use net_mesh_proto::drops::DropReason;
use net_mesh_proto::id::NodeId;
use tokio::time::Instant;

use super::counters::DropCounters;
use super::routes::PeerRoutes;

/// Handshakes by strangers in progress at a time. A handshake lasts a few round trips, so this admits
/// hundreds of joins a second; each costs about a hundred bytes here and the QUIC state beside it.
pub(crate) const MAX_PROVISIONAL: usize = 1024;

/// Addresses that copies of one Initial may come from: answers go to all of them until one proves itself,
/// and they may be forged.
const MAX_SOURCES: usize = 4;

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
    /// The source addresses that lead here.
    sources: Vec<SocketAddr>,
    /// Whose it is, once that is known.
    owner: Option<NodeId>,
    /// How many connections and attempts use it.
    users: usize,
    /// For a stranger's slot, while the peer is not authenticated: the connection id that leads here,
    /// and since when.
    handshake: Option<(Dcid, Instant)>,
}

#[derive(Debug, Default)]
struct Table {
    slots: HashMap<SlotId, Slot>,
    by_source: HashMap<SocketAddr, SlotId>,
    by_dcid: HashMap<Dcid, SlotId>,
    /// Provisional slots, oldest first. May name slots that are gone or settled.
    provisional: VecDeque<SlotId>,
    provisional_len: usize,
    next: u64,
}

/// The table of slots.
#[derive(Debug)]
pub(crate) struct Slots {
    table: RwLock<Table>,
    drops: Arc<DropCounters>,
}

impl Slots {
    pub(crate) fn new(drops: Arc<DropCounters>) -> Self {
        Self { table: RwLock::default(), drops }
    }

    fn read(&self) -> RwLockReadGuard<'_, Table> {
        self.table.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self) -> RwLockWriteGuard<'_, Table> {
        self.table.write().unwrap_or_else(PoisonError::into_inner)
    }

    /// A slot for dialling `peer` (any member where `None`) at these addresses, held until it is
    /// [released](Self::release).
    ///
    /// One source leads to one slot only. Where an address already leads to a slot of the same peer, or
    /// of a stranger whose handshake is in progress (most likely the same peer dialling us), that slot
    /// is shared; where it leads to someone else's (two homes may use the same private addresses), the
    /// address is left out. `None` if no address is left.
    pub(crate) fn dial(&self, peer: Option<NodeId>, candidates: &[SocketAddr]) -> Option<SlotId> {
        let mut table = self.write();
        let taken = |table: &Table, addr: &SocketAddr| {
            let slot = *table.by_source.get(addr)?;
            Some((slot, table.slots.get(&slot)?.owner))
        };
        let shared = candidates
            .iter()
            .filter_map(|a| taken(&table, a))
            .find_map(|(slot, owner)| (owner.is_none() || peer.is_none() || owner == peer).then_some(slot));
        let free: Vec<_> = candidates.iter().filter(|a| taken(&table, a).is_none()).copied().collect();
        if shared.is_none() && free.is_empty() {
            return None;
        }
        let slot = shared.unwrap_or_else(|| table.create(None));
        for addr in free {
            table.add_source(slot, addr);
        }
        let entry = table.slots.get_mut(&slot)?;
        entry.users += 1;
        entry.owner = entry.owner.or(peer);
        Some(slot)
    }

    /// The slot that packets from `source` belong to.
    pub(super) fn by_source(&self, source: SocketAddr) -> Option<(SlotId, Arc<PeerRoutes>)> {
        let table = self.read();
        let id = *table.by_source.get(&source)?;
        Some((id, Arc::clone(&table.slots.get(&id)?.routes)))
    }

    /// The slot for an Initial with the destination connection id `dcid` from a new `source`.
    pub(super) fn by_initial(&self, dcid: &[u8], source: SocketAddr) -> Option<(SlotId, Arc<PeerRoutes>)> {
        let mut key = ([0; 20], u8::try_from(dcid.len()).ok()?);
        key.0.get_mut(..dcid.len())?.copy_from_slice(dcid);
        let mut table = self.write();
        let id = match table.by_dcid.get(&key) {
            Some(id) => *id,
            None => {
                if table.provisional_len >= MAX_PROVISIONAL {
                    self.drops.count(DropReason::TooManyHandshakes);
                    if !table.evict() {
                        return None;
                    }
                }
                let id = table.create(Some((key, Instant::now())));
                table.by_dcid.insert(key, id);
                table.provisional.push_back(id);
                table.provisional_len += 1;
                table.oldest_handshake();
                id
            }
        };
        let crowded = table.slots.get(&id).is_none_or(|s| {
            s.handshake.is_some() && s.sources.len() >= MAX_SOURCES && !s.sources.contains(&source)
        });
        if crowded || !table.add_source(id, source) {
            self.drops.count(DropReason::TableFull);
            return None;
        }
        Some((id, Arc::clone(&table.slots.get(&id)?.routes)))
    }

    /// The routes behind a virtual address.
    pub(crate) fn routes(&self, addr: SocketAddr) -> Option<Arc<PeerRoutes>> {
        let id = SlotId::of(addr)?;
        self.read().slots.get(&id).map(|s| Arc::clone(&s.routes))
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
    pub(crate) fn settle(&self, slot: SlotId, peer: NodeId) -> Option<SocketAddr> {
        let mut table = self.write();
        table.end_handshake(slot);
        let entry = table.slots.get_mut(&slot)?;
        entry.owner = Some(peer);
        entry.routes.settle()
    }

    /// A connection on the slot has ended. If it was the last, the slot still serves for saying so, but its
    /// addresses are free: the next attempt must not be tied to the route that may have died.
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

    /// Removes strangers' slots that became no handshake within [`HANDSHAKE_LIMIT`].
    pub(crate) fn sweep(&self) {
        let now = Instant::now();
        let mut table = self.write();
        while let Some(oldest) = table.oldest_handshake() {
            let stale = table.slots.get(&oldest).is_some_and(|s| {
                s.users == 0 && s.handshake.is_some_and(|(_, since)| now - since > HANDSHAKE_LIMIT)
            });
            if !stale {
                return;
            }
            table.remove(oldest);
        }
    }
}

impl Table {
    fn create(&mut self, handshake: Option<(Dcid, Instant)>) -> SlotId {
        let id = SlotId(self.next);
        self.next += 1;
        let slot = Slot { routes: Arc::default(), sources: Vec::new(), owner: None, users: 0, handshake };
        self.slots.insert(id, slot);
        id
    }

    /// Lets packets from `source` lead to `slot`. False if the slot has too many sources.
    fn add_source(&mut self, slot: SlotId, source: SocketAddr) -> bool {
        let Some(entry) = self.slots.get_mut(&slot) else { return false };
        if !entry.routes.add_candidate(source) {
            return false;
        }
        self.by_source.entry(source).or_insert_with(|| {
            entry.sources.push(source);
            slot
        });
        true
    }

    fn end_handshake(&mut self, slot: SlotId) {
        if let Some((dcid, _)) = self.slots.get_mut(&slot).and_then(|s| s.handshake.take()) {
            self.by_dcid.remove(&dcid);
            self.provisional_len -= 1;
        }
    }

    fn remove(&mut self, slot: SlotId) {
        self.end_handshake(slot);
        if let Some(entry) = self.slots.remove(&slot) {
            for source in entry.sources {
                self.by_source.remove(&source);
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

#[cfg(test)]
mod tests {
    use super::*;

    fn addr(n: u16) -> SocketAddr {
        SocketAddr::from(([192, 0, 2, 1], n))
    }

    fn slots() -> Slots {
        Slots::new(Arc::new(DropCounters::default()))
    }

    #[test]
    fn a_virtual_address_and_its_slot_stand_for_each_other() {
        for n in [0, 1, 0x1234_5678_9abc_def0] {
            assert_eq!(SlotId::of(SlotId(n).addr()), Some(SlotId(n)));
        }
        assert_eq!(SlotId::of(addr(1)), None);
    }

    #[test]
    fn copies_of_one_initial_over_two_routes_share_a_slot() {
        let slots = slots();
        let (a, _) = slots.by_initial(b"12345678", addr(1)).unwrap();
        let (b, routes) = slots.by_initial(b"12345678", addr(2)).unwrap();
        assert_eq!(a, b);
        assert_eq!(routes.candidates(), [addr(1), addr(2)]);
        for n in 3..=4 {
            assert!(slots.by_initial(b"12345678", addr(n)).is_some());
        }
        assert!(slots.by_initial(b"12345678", addr(5)).is_none(), "answers would go to too many");
        let (c, _) = slots.by_initial(b"87654321", addr(6)).unwrap();
        assert_ne!(a, c);
        assert_eq!(slots.provisional(), 2);
    }

    #[test]
    fn a_flood_of_initials_evicts_the_oldest_handshake_and_no_settled_session() {
        let slots = slots();
        let (session, _) = slots.by_initial(b"session!", addr(1)).unwrap();
        slots.settle(session, NodeId([1; 32]));
        let (first, _) = slots.by_initial(b"first...", addr(2)).unwrap();
        let (worked_on, _) = slots.by_initial(b"workedon", addr(3)).unwrap();
        assert!(slots.hold(worked_on));
        for n in 0..MAX_PROVISIONAL as u64 {
            let source = SocketAddr::from(([198, 51, 100, 7], 1000 + u16::try_from(n).unwrap()));
            slots.by_initial(&n.to_be_bytes(), source).unwrap();
        }
        assert_eq!(slots.provisional(), MAX_PROVISIONAL);
        assert!(slots.routes(session.addr()).is_some());
        assert!(slots.routes(first.addr()).is_none());
        assert!(slots.routes(worked_on.addr()).is_some());
        assert!(slots.by_source(addr(2)).is_none(), "nothing is left of it");
    }

    #[test]
    fn a_released_slot_leaves_nothing_behind() {
        let slots = slots();
        let slot = slots.dial(None, &[addr(1), addr(2)]).unwrap();
        assert_eq!(slots.by_source(addr(2)).unwrap().0, slot);
        slots.release(slot);
        assert!(slots.by_source(addr(1)).is_none());
        assert!(slots.routes(slot.addr()).is_none());
        assert_eq!(slots.provisional(), 0);
    }

    #[test]
    fn two_peers_with_one_private_address_do_not_get_each_others_packets() {
        let slots = slots();
        let (x, y) = (NodeId([1; 32]), NodeId([2; 32]));
        let first = slots.dial(Some(x), &[addr(1), addr(2)]).unwrap();
        assert_eq!(slots.dial(Some(y), &[addr(1)]), None);
        let second = slots.dial(Some(y), &[addr(1), addr(3)]).unwrap();
        assert_ne!(first, second);
        assert_eq!(slots.routes(second.addr()).unwrap().candidates(), [addr(3)]);
        assert_eq!(slots.dial(Some(x), &[addr(2), addr(4)]), Some(first), "the same peer shares its slot");
        slots.release(first);
        assert_eq!(slots.by_source(addr(4)).unwrap().0, first, "it is still in use");
        slots.release(first);
        assert!(slots.by_source(addr(4)).is_none());
    }

    #[test]
    fn the_addresses_of_an_ended_session_are_free_while_its_end_is_still_being_told() {
        let slots = slots();
        let peer = Some(NodeId([1; 32]));
        let ended = slots.dial(peer, &[addr(1)]).unwrap();
        slots.settle(ended, NodeId([1; 32]));
        slots.retire(ended);
        let next = slots.dial(peer, &[addr(1), addr(2)]).unwrap();
        assert_ne!(next, ended);
        assert_eq!(slots.routes(next.addr()).unwrap().candidates(), [addr(1), addr(2)]);
        assert_eq!(slots.routes(ended.addr()).unwrap().chosen(), Some(addr(1)));
        slots.release(ended);
        assert_eq!(slots.by_source(addr(1)).unwrap().0, next, "the end of the old slot takes nothing away");
    }

    #[tokio::test(start_paused = true)]
    async fn what_never_becomes_a_handshake_is_swept_away() {
        let slots = slots();
        let (held, _) = slots.by_initial(b"held....", addr(1)).unwrap();
        slots.settle(held, NodeId([1; 32]));
        slots.by_initial(b"junk....", addr(2)).unwrap();
        tokio::time::advance(HANDSHAKE_LIMIT + Duration::from_millis(1)).await;
        slots.sweep();
        assert_eq!(slots.provisional(), 0);
        assert!(slots.by_source(addr(2)).is_none());
        assert!(slots.by_source(addr(1)).is_some());
    }
}
