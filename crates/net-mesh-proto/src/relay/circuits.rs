//! Setting circuits up, keeping them, and taking them down.
//!
//! A circuit leads from its origin over inner nodes, which the origin names, to its target. One message per hop
//! sets it up: whoever sends it proposes the label it will put on its frames, and names the one it wants on
//! those that come back. So frames may follow at once, and the answer, [`Message::Opened`], merely confirms.
//!
//! | what happens | what follows |
//! |---|---|
//! | a node on the way refuses | the refusal travels back and names the node; the circuit is down |
//! | either end closes it | the closing travels to the other end |
//! | a session on the way ends | both sides of it close what went over it |
//! | the origin vanishes without a word | labels end [`LIFETIME`] after the last renewal |
//! | nothing is heard of an opening for [`OPEN_LIMIT`] | the origin gives it up |
//!
//! **Bounds.** Circuits carried for others: as [`Limits`] say, for all and for each neighbour. Circuits that end here:
//! [`MAX_ENDING`] over each neighbour. This node's own: [`MAX_OWN`]. Paths: [`MAX_HOPS`] inner nodes.
//!
//! **Refused**: paths that lead back to a node that is on them, labels that are in use, hops without a direct
//! session. A message about a circuit that is not known is counted and ignored: the two ends of a hop may
//! close it at the same time.

use alloc::collections::{BTreeMap, BTreeSet};
use alloc::vec::Vec;
use core::net::SocketAddr;
use core::time::Duration;

use super::wire::{Message, Open, Refusal};
use super::{Change, Limits, MAX_HOPS};
use crate::drops::DropReason;
use crate::id::NodeId;
use crate::outbox::Outbox;
use crate::rng::Rng;
use crate::route::CircuitId;
use crate::time::{Deadline, Time};

/// How long labels last after they were set up or renewed. Two renewals may be lost to a slow session; what a
/// crashed origin leaves behind is gone in two minutes.
pub const LIFETIME: Duration = Duration::from_secs(120);

/// How often the origin renews.
pub const RENEW_EVERY: Duration = Duration::from_secs(45);

/// How long an opening may go unconfirmed: several round trips over the longest path, with losses.
pub const OPEN_LIMIT: Duration = Duration::from_secs(5);

/// Circuits of this node's own. Each serves one session; a node has at most as many sessions.
pub const MAX_OWN: usize = 4096;

/// Circuits that end here over one neighbour.
pub const MAX_ENDING: usize = 1024;

/// What a circuit machine tells the node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// Send `message` in the session with `to`.
    Send {
        /// To whom.
        to: NodeId,
        /// What.
        message: Message,
    },
    /// Change the label table.
    Label(Change),
    /// A circuit from `peer`, as the hop before says, now ends here.
    Opened {
        /// Which.
        circuit: CircuitId,
        /// From whom.
        peer: NodeId,
    },
    /// A circuit of this node's reaches its target.
    Confirmed {
        /// Which.
        circuit: CircuitId,
        /// How long the answer took.
        rtt: Duration,
    },
    /// A circuit that began or ended here is over.
    Down {
        /// Which.
        circuit: CircuitId,
        /// Who is at the other end.
        peer: NodeId,
        /// Why.
        reason: Reason,
    },
}

/// Why a circuit is over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reason {
    /// A node refused it.
    Refused {
        /// Which.
        at: NodeId,
        /// Why.
        why: Refusal,
    },
    /// Nothing was heard of the opening.
    TimedOut {
        /// The first node on the way.
        at: NodeId,
    },
    /// The session with the neighbour it went over has ended.
    LinkLost,
    /// Someone on the way, or at the other end, closed it.
    Closed,
    /// It was not renewed.
    Expired,
}

/// A circuit that begins or ends here.
#[derive(Clone, Copy, Debug)]
pub struct CircuitView<'a> {
    /// Which.
    pub circuit: CircuitId,
    /// Who is at the other end; where this node did not open it, as the last hop says.
    pub peer: NodeId,
    /// The inner nodes, in order from here; of a circuit that was opened from the other end, the last one.
    pub path: &'a [NodeId],
    /// Whether this node opened it.
    pub opened_by_us: bool,
    /// Whether it is known to reach the other end.
    pub confirmed: bool,
}

/// A hop: a neighbour, and the circuit's number there.
type Hop = (NodeId, u64);

#[derive(Debug)]
struct Own {
    peer: NodeId,
    path: Vec<NodeId>,
    next: Hop,
    forward: u64,
    back: u64,
    opened: Time,
    confirmed: bool,
    renew_at: Time,
}

#[derive(Debug)]
struct Ending {
    origin: NodeId,
    /// The last inner node, as a path of one.
    path: [NodeId; 1],
    before: Hop,
    forward: u64,
    back: u64,
    expires: Time,
}

#[derive(Debug)]
struct Carried {
    before: Hop,
    next: Hop,
    /// The label that frames of the origin arrive with, and the one they leave with.
    forward: (u64, u64),
    /// The label that frames of the target arrive with, and the one they leave with.
    back: (u64, u64),
    expires: Time,
}

/// What a hop belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Owner {
    Own(CircuitId),
    Ending(CircuitId),
    Carried(u64),
}

/// The circuits of one node: its own, those that end here, and those it carries.
#[derive(Debug)]
pub struct Relay {
    me: NodeId,
    rng: Rng,
    limits: Option<Limits>,
    links: BTreeMap<NodeId, SocketAddr>,
    own: BTreeMap<CircuitId, Own>,
    ending: BTreeMap<CircuitId, Ending>,
    carried: BTreeMap<u64, Carried>,
    /// Hops that this node opened, and hops that a neighbour opened.
    to_next: BTreeMap<Hop, Owner>,
    from_before: BTreeMap<Hop, Owner>,
    /// Labels that frames may arrive with.
    labels: BTreeSet<u64>,
    next_circuit: u64,
    next_carried: u64,
}

impl Relay {
    /// The machine of the node `me`, which carries for others as far as `limits` say, or nothing.
    #[must_use]
    pub fn new(me: NodeId, rng: Rng, limits: Option<Limits>) -> Self {
        Self {
            me,
            rng,
            limits,
            links: BTreeMap::new(),
            own: BTreeMap::new(),
            ending: BTreeMap::new(),
            carried: BTreeMap::new(),
            to_next: BTreeMap::new(),
            from_before: BTreeMap::new(),
            labels: BTreeSet::new(),
            next_circuit: 0,
            next_carried: 0,
        }
    }

    /// The address of the direct session with `peer`; `None` if there is none any more. What went over an ended
    /// one is over; what goes over a moved one moves.
    pub fn set_link(&mut self, now: Time, peer: NodeId, addr: Option<SocketAddr>, out: &mut Outbox<Event>) {
        let before = match addr {
            Some(addr) => self.links.insert(peer, addr),
            None => self.links.remove(&peer),
        };
        let hops = |hops: &BTreeMap<Hop, Owner>| -> Vec<Owner> {
            let whole = (peer, u64::MIN)..=(peer, u64::MAX);
            hops.range(whole).map(|(_, owner)| *owner).collect()
        };
        let (next, prior) = (hops(&self.to_next), hops(&self.from_before));
        if addr.is_none() {
            for owner in next {
                self.end(owner, Side::Next, Reason::LinkLost, None, out);
            }
            for owner in prior {
                self.end(owner, Side::Before, Reason::LinkLost, None, out);
            }
        } else if before.is_some() && before != addr {
            for owner in next.into_iter().chain(prior) {
                self.install(now, owner, out);
            }
        }
    }

    /// Opens a circuit to `peer` over `path`, its inner nodes in order from here, at least one. It may be used at
    /// once. `None` if there is no direct session with the first one, the path cannot be, or there are too
    /// many circuits.
    pub fn open(
        &mut self,
        now: Time,
        peer: NodeId,
        path: Vec<NodeId>,
        out: &mut Outbox<Event>,
    ) -> Option<CircuitId> {
        let first = *path.first()?;
        let possible = self.links.contains_key(&first)
            && self.own.len() < MAX_OWN
            && path.len() <= MAX_HOPS
            && self.is_sound(&path, &[self.me, peer]);
        if !possible {
            return None;
        }
        let circuit = self.new_circuit();
        let next = (first, self.rng.u64());
        let (forward, back) = (self.rng.u64(), self.new_label());
        let mut rest = path.get(1..)?.to_vec();
        rest.push(peer);
        self.to_next.insert(next, Owner::Own(circuit));
        let own = Own {
            peer,
            path,
            next,
            forward,
            back,
            opened: now,
            confirmed: false,
            renew_at: now + RENEW_EVERY,
        };
        self.own.insert(circuit, own);
        self.install(now, Owner::Own(circuit), out);
        let open = Open { circuit: next.1, origin: self.me, path: rest, forward, back };
        out.event(Event::Send { to: first, message: Message::Open(open) });
        Some(circuit)
    }

    /// Closes a circuit that begins or ends here.
    pub fn close(&mut self, circuit: CircuitId, out: &mut Outbox<Event>) {
        for owner in [Owner::Own(circuit), Owner::Ending(circuit)] {
            self.end(owner, Side::Here, Reason::Closed, None, out);
        }
    }

    /// A message arrived in the session with `from`.
    pub fn handle(&mut self, now: Time, from: NodeId, message: Message, out: &mut Outbox<Event>) {
        match message {
            Message::Open(open) => {
                let circuit = open.circuit;
                if let Err(why) = self.handle_open(now, from, open, out) {
                    out.drop(DropReason::Refused);
                    let message = Message::Refused { circuit, at: self.me, why };
                    out.event(Event::Send { to: from, message });
                }
            }
            Message::Opened { circuit } => self.handle_opened(now, (from, circuit), out),
            Message::Refused { circuit, at, why } => {
                let reason = Reason::Refused { at, why };
                self.end_hop((from, circuit), Side::Next, reason, Some((at, why)), out);
            }
            Message::Renew { circuit } => self.handle_renew(now, (from, circuit), out),
            Message::Close { circuit, by_opener } => {
                let side = if by_opener { Side::Before } else { Side::Next };
                self.end_hop((from, circuit), side, Reason::Closed, None, out);
            }
        }
    }

    fn handle_open(
        &mut self,
        now: Time,
        from: NodeId,
        open: Open,
        out: &mut Outbox<Event>,
    ) -> Result<(), Refusal> {
        let before = (from, open.circuit);
        if !self.links.contains_key(&from) {
            return Err(Refusal::NoLink);
        }
        if self.labels.contains(&open.forward) || self.from_before.contains_key(&before) {
            return Err(Refusal::InUse);
        }
        if open.origin == self.me || !self.is_sound(&open.path, &[self.me, from, open.origin]) {
            return Err(Refusal::BadPath);
        }
        let Some(next) = open.path.first().copied() else {
            return self.end_here(now, before, &open, out);
        };
        let limits = self.limits.ok_or(Refusal::NotRelaying)?;
        let of_neighbour = self.carried.values().filter(|c| c.before.0 == from).count();
        if self.carried.len() >= limits.circuits || of_neighbour >= limits.circuits_per_neighbour {
            return Err(Refusal::TooMany);
        }
        if !self.links.contains_key(&next) {
            return Err(Refusal::NoLink);
        }
        let (number, forward) = (self.rng.u64(), self.rng.u64());
        self.labels.insert(open.forward);
        let back = self.new_label();
        let owner = Owner::Carried(self.next_carried);
        let carried = Carried {
            before,
            next: (next, number),
            forward: (open.forward, forward),
            back: (back, open.back),
            expires: now + LIFETIME,
        };
        self.carried.insert(self.next_carried, carried);
        self.next_carried += 1;
        self.from_before.insert(before, owner);
        self.to_next.insert((next, number), owner);
        self.install(now, owner, out);
        let path = open.path.get(1..).unwrap_or_default().to_vec();
        let onward = Open { circuit: number, origin: open.origin, path, forward, back };
        out.event(Event::Send { to: next, message: Message::Open(onward) });
        Ok(())
    }

    fn end_here(
        &mut self,
        now: Time,
        before: Hop,
        open: &Open,
        out: &mut Outbox<Event>,
    ) -> Result<(), Refusal> {
        if self.ending.values().filter(|e| e.before.0 == before.0).count() >= MAX_ENDING {
            return Err(Refusal::TooMany);
        }
        let circuit = self.new_circuit();
        let ending = Ending {
            origin: open.origin,
            path: [before.0],
            before,
            forward: open.forward,
            back: open.back,
            expires: now + LIFETIME,
        };
        self.labels.insert(open.forward);
        self.ending.insert(circuit, ending);
        self.from_before.insert(before, Owner::Ending(circuit));
        self.install(now, Owner::Ending(circuit), out);
        out.event(Event::Opened { circuit, peer: open.origin });
        out.event(Event::Send { to: before.0, message: Message::Opened { circuit: before.1 } });
        Ok(())
    }

    fn handle_opened(&mut self, now: Time, hop: Hop, out: &mut Outbox<Event>) {
        match self.to_next.get(&hop) {
            Some(Owner::Own(circuit)) => {
                if let Some(own) = self.own.get_mut(circuit).filter(|own| !own.confirmed) {
                    own.confirmed = true;
                    out.event(Event::Confirmed { circuit: *circuit, rtt: now - own.opened });
                }
            }
            Some(Owner::Carried(n)) => {
                if let Some(carried) = self.carried.get(n) {
                    let (to, circuit) = carried.before;
                    out.event(Event::Send { to, message: Message::Opened { circuit } });
                }
            }
            Some(Owner::Ending(_)) | None => out.drop(DropReason::UnknownTransaction),
        }
    }

    fn handle_renew(&mut self, now: Time, hop: Hop, out: &mut Outbox<Event>) {
        let Some(owner) = self.from_before.get(&hop).copied() else {
            return out.drop(DropReason::UnknownTransaction);
        };
        let expires = now + LIFETIME;
        if let Owner::Ending(circuit) = owner
            && let Some(ending) = self.ending.get_mut(&circuit)
        {
            ending.expires = expires;
        }
        if let Owner::Carried(n) = owner
            && let Some(carried) = self.carried.get_mut(&n)
        {
            carried.expires = expires;
            let (to, circuit) = carried.next;
            out.event(Event::Send { to, message: Message::Renew { circuit } });
        }
        self.install(now, owner, out);
    }

    /// Gives up what was not confirmed or renewed, and renews this node's own.
    pub fn handle_timeout(&mut self, now: Time, out: &mut Outbox<Event>) {
        let late = |own: &Own| !own.confirmed && now >= own.opened + OPEN_LIMIT;
        let given_up: Vec<_> =
            self.own.iter().filter(|(_, own)| late(own)).map(|(c, own)| (*c, own.next.0)).collect();
        for (circuit, at) in given_up {
            self.end(Owner::Own(circuit), Side::Here, Reason::TimedOut { at }, None, out);
        }
        let due: Vec<CircuitId> =
            self.own.iter().filter(|(_, own)| own.renew_at <= now).map(|(circuit, _)| *circuit).collect();
        for circuit in due {
            if let Some(own) = self.own.get_mut(&circuit) {
                own.renew_at = now + RENEW_EVERY;
                let (to, number) = own.next;
                out.event(Event::Send { to, message: Message::Renew { circuit: number } });
            }
            self.install(now, Owner::Own(circuit), out);
        }
        let ending = self.ending.iter().filter(|(_, e)| e.expires <= now).map(|(c, _)| Owner::Ending(*c));
        let carried = self.carried.iter().filter(|(_, c)| c.expires <= now).map(|(n, _)| Owner::Carried(*n));
        for owner in ending.chain(carried).collect::<Vec<_>>() {
            self.end(owner, Side::Here, Reason::Expired, None, out);
        }
    }

    /// When [`Self::handle_timeout`] has something to do.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<Deadline> {
        let own = self.own.values().map(|own| {
            let late = own.opened + OPEN_LIMIT;
            if own.confirmed { own.renew_at } else { own.renew_at.min(late) }
        });
        let ending = self.ending.values().map(|e| e.expires);
        let carried = self.carried.values().map(|c| c.expires);
        let at = own.chain(ending).chain(carried).min();
        at.map(|at| Deadline::new(at, "renew circuits, or let them end"))
    }

    /// A circuit that begins or ends here.
    #[must_use]
    pub fn circuit(&self, circuit: CircuitId) -> Option<CircuitView<'_>> {
        let own = self.own.get(&circuit).map(|own| view_own(circuit, own));
        own.or_else(|| self.ending.get(&circuit).map(|ending| view_ending(circuit, ending)))
    }

    /// All circuits that begin or end here, this node's own first.
    pub fn circuits(&self) -> impl Iterator<Item = CircuitView<'_>> {
        let own = self.own.iter().map(|(circuit, own)| view_own(*circuit, own));
        own.chain(self.ending.iter().map(|(circuit, ending)| view_ending(*circuit, ending)))
    }

    /// How many circuits of others go through this node.
    #[must_use]
    pub fn carried(&self) -> usize {
        self.carried.len()
    }

    /// Whether any circuit goes over the session with `peer`.
    #[must_use]
    pub fn carries(&self, peer: &NodeId) -> bool {
        let whole = (*peer, u64::MIN)..=(*peer, u64::MAX);
        self.to_next.range(whole.clone()).next().is_some() || self.from_before.range(whole).next().is_some()
    }

    /// Whether every node of `path` is on it once, and none is one of `others`, which are on the circuit already.
    fn is_sound(&self, path: &[NodeId], others: &[NodeId]) -> bool {
        let mut seen: BTreeSet<&NodeId> = others.iter().collect();
        path.iter().all(|node| seen.insert(node))
    }

    fn new_circuit(&mut self) -> CircuitId {
        let circuit = CircuitId(self.next_circuit);
        self.next_circuit += 1;
        circuit
    }

    fn new_label(&mut self) -> u64 {
        loop {
            let label = self.rng.u64();
            if self.labels.insert(label) {
                return label;
            }
        }
    }

    /// Tells the label table of a circuit, as it is now.
    fn install(&self, now: Time, owner: Owner, out: &mut Outbox<Event>) {
        let addr = |hop: &Hop| self.links.get(&hop.0).copied();
        match owner {
            Owner::Own(circuit) => {
                let Some(own) = self.own.get(&circuit) else { return };
                if let Some(from) = addr(&own.next) {
                    let (label, expires) = (own.back, now + LIFETIME);
                    out.event(Event::Label(Change::End { label, from, circuit, out: own.forward, expires }));
                }
            }
            Owner::Ending(circuit) => {
                let Some(ending) = self.ending.get(&circuit) else { return };
                if let Some(from) = addr(&ending.before) {
                    let (label, expires) = (ending.forward, ending.expires);
                    out.event(Event::Label(Change::End { label, from, circuit, out: ending.back, expires }));
                }
            }
            Owner::Carried(n) => {
                let Some(c) = self.carried.get(&n) else { return };
                if let (Some(before), Some(next)) = (addr(&c.before), addr(&c.next)) {
                    let (user, expires) = (c.before.0, c.expires);
                    let change =
                        |(label, out), from, to| Change::Forward { label, from, to, out, user, expires };
                    out.event(Event::Label(change(c.forward, before, next)));
                    out.event(Event::Label(change(c.back, next, before)));
                }
            }
        }
    }

    /// The hop is over, as the neighbour at its other end says.
    fn end_hop(
        &mut self,
        hop: Hop,
        side: Side,
        reason: Reason,
        refused: Option<(NodeId, Refusal)>,
        out: &mut Outbox<Event>,
    ) {
        let owner = match side {
            Side::Next => self.to_next.get(&hop),
            Side::Before => self.from_before.get(&hop),
            Side::Here => None,
        };
        match owner.copied() {
            Some(owner) => self.end(owner, side, reason, refused, out),
            None => out.drop(DropReason::UnknownTransaction),
        }
    }

    /// Ends a circuit, and tells those who do not know it yet: `side` is where the end came from.
    fn end(
        &mut self,
        owner: Owner,
        side: Side,
        reason: Reason,
        refused: Option<(NodeId, Refusal)>,
        out: &mut Outbox<Event>,
    ) {
        let mut close = |(to, circuit): Hop, by_opener: bool| {
            let message = match refused {
                Some((at, why)) if !by_opener => Message::Refused { circuit, at, why },
                _ => Message::Close { circuit, by_opener },
            };
            out.event(Event::Send { to, message });
        };
        match owner {
            Owner::Own(circuit) => {
                let Some(own) = self.own.remove(&circuit) else { return };
                self.to_next.remove(&own.next);
                if side != Side::Next {
                    close(own.next, true);
                }
                self.forget(own.back, out);
                out.event(Event::Down { circuit, peer: own.peer, reason });
            }
            Owner::Ending(circuit) => {
                let Some(ending) = self.ending.remove(&circuit) else { return };
                self.from_before.remove(&ending.before);
                if side != Side::Before && reason != Reason::Expired {
                    close(ending.before, false);
                }
                self.forget(ending.forward, out);
                out.event(Event::Down { circuit, peer: ending.origin, reason });
            }
            Owner::Carried(n) => {
                let Some(carried) = self.carried.remove(&n) else { return };
                self.from_before.remove(&carried.before);
                self.to_next.remove(&carried.next);
                if side != Side::Before && reason != Reason::Expired {
                    close(carried.before, false);
                }
                if side != Side::Next && reason != Reason::Expired {
                    close(carried.next, true);
                }
                self.forget(carried.forward.0, out);
                self.forget(carried.back.0, out);
            }
        }
    }

    fn forget(&mut self, label: u64, out: &mut Outbox<Event>) {
        self.labels.remove(&label);
        out.event(Event::Label(Change::Remove { label }));
    }
}

/// Where the end of a circuit came from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Side {
    /// The origin's.
    Before,
    /// The target's.
    Next,
    /// This node's own decision.
    Here,
}

fn view_own(circuit: CircuitId, own: &Own) -> CircuitView<'_> {
    let Own { peer, path, confirmed, .. } = own;
    CircuitView { circuit, peer: *peer, path, opened_by_us: true, confirmed: *confirmed }
}

fn view_ending(circuit: CircuitId, ending: &Ending) -> CircuitView<'_> {
    let Ending { origin, path, .. } = ending;
    CircuitView { circuit, peer: *origin, path, opened_by_us: false, confirmed: true }
}
