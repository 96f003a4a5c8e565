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
//! | something is said of a circuit that is not known here any more | whoever said it is told |
//! | nothing is heard of an opening for [`OPEN_LIMIT`] | the origin gives it up |
//!
//! **Bounds.** Circuits carried for others: as [`Limits`] say, for all and for each neighbour. Circuits that end here:
//! [`MAX_ENDED`], and [`MAX_ENDING`] over each neighbour. This node's own: [`MAX_OWN`]. Paths: [`MAX_HOPS`] inner nodes.
//! A neighbour asks for openings and renewals only so often (`neighbours`, [`RENEW_PAUSE`]), because each makes
//! this node say something to the next one.
//!
//! **Refused**: paths that lead back to a node that is on them, labels that are in use, hops without a direct
//! session. A message about a circuit that is not known is counted: the two ends of a hop may close it at
//! the same time.

use alloc::collections::{BTreeMap, BTreeSet};
use alloc::vec::Vec;
use core::net::SocketAddr;
use core::time::Duration;

use super::hop::{Carried, Ending, Hop, Own, Owner, Side};
use super::neighbours::{Neighbours, Part};
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

/// A renewal sooner than this after the last one is not passed on: it would change nothing.
pub const RENEW_PAUSE: Duration = Duration::from_secs(15);

/// How long an opening may go unconfirmed: several round trips over the longest path, with losses.
pub const OPEN_LIMIT: Duration = Duration::from_secs(5);

/// Circuits of this node's own. Each serves one session; a node has at most as many sessions.
pub const MAX_OWN: usize = 4096;

/// Circuits of others that end here, at a time: one from every member there can be.
pub const MAX_ENDED: usize = 4096;

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
    /// The inner nodes, in order from here; of a circuit that was opened from the other end, as those say.
    pub path: &'a [NodeId],
    /// Whether this node opened it.
    pub opened_by_us: bool,
    /// Whether it is known to reach the other end.
    pub confirmed: bool,
    /// When it was opened, as this node saw it.
    pub since: Time,
}

/// The circuits of one node: its own, those that end here, and those it carries.
#[derive(Debug)]
pub struct Relay {
    me: NodeId,
    rng: Rng,
    limits: Option<Limits>,
    neighbours: Neighbours,
    own: BTreeMap<CircuitId, Own>,
    ending: BTreeMap<CircuitId, Ending>,
    carried: BTreeMap<u64, Carried>,
    /// Hops that this node opened, and hops that a neighbour opened.
    to_next: BTreeMap<Hop, Owner>,
    from_before: BTreeMap<Hop, Owner>,
    /// Labels that frames may arrive with.
    labels: BTreeSet<u64>,
    /// When something is to be done about each circuit.
    timers: BTreeSet<(Time, Owner)>,
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
            neighbours: Neighbours::default(),
            own: BTreeMap::new(),
            ending: BTreeMap::new(),
            carried: BTreeMap::new(),
            to_next: BTreeMap::new(),
            from_before: BTreeMap::new(),
            labels: BTreeSet::new(),
            timers: BTreeSet::new(),
            next_circuit: 0,
            next_carried: 0,
        }
    }

    /// The address of the direct session with `peer`; `None` if there is none any more. What went over an ended
    /// one is over; what goes over a moved one moves.
    pub fn set_link(&mut self, _now: Time, peer: NodeId, addr: Option<SocketAddr>, out: &mut Outbox<Event>) {
        let whole = (peer, u64::MIN)..=(peer, u64::MAX);
        let next: Vec<Owner> = self.to_next.range(whole.clone()).map(|(_, owner)| *owner).collect();
        let before: Vec<Owner> = self.from_before.range(whole).map(|(_, owner)| *owner).collect();
        let Some(addr) = addr else {
            for owner in next {
                self.end(owner, Side::Next, Reason::LinkLost, out);
            }
            for owner in before {
                self.end(owner, Side::Before, Reason::LinkLost, out);
            }
            return self.neighbours.remove(&peer);
        };
        if self.neighbours.set(peer, addr) {
            for owner in next.into_iter().chain(before) {
                self.install(owner, out);
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
        let possible = self.neighbours.addr(&first).is_some()
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
        let own = Own { peer, path, next, forward, back, opened: now, confirmed: false, renewed: now };
        self.timers.insert((own.due(), Owner::Own(circuit)));
        self.own.insert(circuit, own);
        self.install(Owner::Own(circuit), out);
        let passed = Vec::new();
        let open = Open { circuit: next.1, origin: self.me, path: rest, passed, forward, back };
        out.event(Event::Send { to: first, message: Message::Open(open) });
        Some(circuit)
    }

    /// Closes a circuit that begins or ends here.
    pub fn close(&mut self, circuit: CircuitId, out: &mut Outbox<Event>) {
        for owner in [Owner::Own(circuit), Owner::Ending(circuit)] {
            self.end(owner, Side::Here, Reason::Closed, out);
        }
    }

    /// A message arrived in the session with `from`.
    pub fn handle(&mut self, now: Time, from: NodeId, message: Message, out: &mut Outbox<Event>) {
        match message {
            Message::Open(open) => self.handle_open(now, from, open, out),
            Message::Opened { circuit } => self.handle_opened(now, (from, circuit), out),
            Message::Refused { circuit, at, why } => {
                self.end_hop((from, circuit), Side::Next, Reason::Refused { at, why }, out);
            }
            Message::Renew { circuit } => self.handle_renew(now, (from, circuit), out),
            Message::Close { circuit, by_opener } => {
                let side = if by_opener { Side::Before } else { Side::Next };
                self.end_hop((from, circuit), side, Reason::Closed, out);
            }
        }
    }

    fn handle_open(&mut self, now: Time, from: NodeId, open: Open, out: &mut Outbox<Event>) {
        let before = (from, open.circuit);
        if self.from_before.contains_key(&before) {
            // A refusal would be taken for one of the circuit that has the number.
            return out.drop(DropReason::Refused);
        }
        match self.admit(now, from, &open) {
            Ok(Some((next, path))) => self.carry(now, before, next, path, &open, out),
            Ok(None) => self.end_here(now, before, &open, out),
            Err(why) => {
                out.drop(DropReason::Refused);
                let message = Message::Refused { circuit: open.circuit, at: self.me, why };
                out.event(Event::Send { to: from, message });
            }
        }
    }

    /// Whether a circuit may be: the next node and the path from there, or `None` where it ends here.
    fn admit(
        &mut self,
        now: Time,
        from: NodeId,
        open: &Open,
    ) -> Result<Option<(NodeId, Vec<NodeId>)>, Refusal> {
        if self.neighbours.addr(&from).is_none() {
            return Err(Refusal::NotDirect);
        }
        if !self.neighbours.may_open(now, &from) {
            return Err(Refusal::TooFast);
        }
        // Who opens a circuit to a neighbour of its own has no need of one.
        let pointless = open.path.is_empty() && open.origin == from;
        if pointless || open.origin == self.me || !self.is_sound(&open.path, &[self.me, from, open.origin]) {
            return Err(Refusal::BadPath);
        }
        // The last node that it passed is the one it comes from, unless that is the origin.
        let came_from = open.passed.last().copied().unwrap_or(open.origin);
        if came_from != from || open.passed.len() + open.path.len() > MAX_HOPS + 1 {
            return Err(Refusal::BadPath);
        }
        if self.labels.contains(&open.forward) {
            return Err(Refusal::InUse);
        }
        let Some((next, path)) = open.path.split_first() else {
            let full = self.ending.len() >= MAX_ENDED;
            let crowded = self.neighbours.count(&from, Part::Ending) >= MAX_ENDING;
            return if full || crowded { Err(Refusal::TooMany) } else { Ok(None) };
        };
        let limits = self.limits.ok_or(Refusal::NotRelaying)?;
        let of_neighbour = self.neighbours.count(&from, Part::Carried);
        if self.carried.len() >= limits.circuits || of_neighbour >= limits.circuits_per_neighbour {
            return Err(Refusal::TooMany);
        }
        if self.neighbours.addr(next).is_none() {
            return Err(Refusal::NoLink);
        }
        Ok(Some((*next, path.to_vec())))
    }

    fn carry(
        &mut self,
        now: Time,
        before: Hop,
        next: NodeId,
        path: Vec<NodeId>,
        open: &Open,
        out: &mut Outbox<Event>,
    ) {
        let (number, forward) = (self.rng.u64(), self.rng.u64());
        self.labels.insert(open.forward);
        let back = self.new_label();
        let owner = Owner::Carried(self.next_carried);
        let carried = Carried {
            before,
            next: (next, number),
            forward: (open.forward, forward),
            back: (back, open.back),
            confirmed: false,
            renewed: now,
        };
        self.carried.insert(self.next_carried, carried);
        self.next_carried += 1;
        self.neighbours.opened(&before.0, Part::Carried);
        self.from_before.insert(before, owner);
        self.to_next.insert((next, number), owner);
        self.timers.insert((now + LIFETIME, owner));
        self.install(owner, out);
        let mut passed = open.passed.clone();
        passed.push(self.me);
        let onward = Open { circuit: number, origin: open.origin, path, passed, forward, back };
        out.event(Event::Send { to: next, message: Message::Open(onward) });
    }

    fn end_here(&mut self, now: Time, before: Hop, open: &Open, out: &mut Outbox<Event>) {
        let circuit = self.new_circuit();
        let owner = Owner::Ending(circuit);
        let ending = Ending {
            origin: open.origin,
            path: open.passed.iter().rev().copied().collect(),
            before,
            forward: open.forward,
            back: open.back,
            opened: now,
            renewed: now,
        };
        self.labels.insert(open.forward);
        self.ending.insert(circuit, ending);
        self.neighbours.opened(&before.0, Part::Ending);
        self.from_before.insert(before, owner);
        self.timers.insert((now + LIFETIME, owner));
        self.install(owner, out);
        out.event(Event::Opened { circuit, peer: open.origin });
        out.event(Event::Send { to: before.0, message: Message::Opened { circuit: before.1 } });
    }

    fn handle_opened(&mut self, now: Time, hop: Hop, out: &mut Outbox<Event>) {
        match self.to_next.get(&hop).copied() {
            Some(owner @ Owner::Own(circuit)) => {
                if let Some(own) = self.own.get_mut(&circuit).filter(|own| !own.confirmed) {
                    let was_due = own.due();
                    own.confirmed = true;
                    self.timers.remove(&(was_due, owner));
                    self.timers.insert((own.due(), owner));
                    out.event(Event::Confirmed { circuit, rtt: now - own.opened });
                }
            }
            Some(Owner::Carried(n)) => {
                if let Some(carried) = self.carried.get_mut(&n).filter(|carried| !carried.confirmed) {
                    carried.confirmed = true;
                    let (to, circuit) = carried.before;
                    out.event(Event::Send { to, message: Message::Opened { circuit } });
                }
            }
            Some(Owner::Ending(_)) | None => out.drop(DropReason::UnknownTransaction),
        }
    }

    fn handle_renew(&mut self, now: Time, hop: Hop, out: &mut Outbox<Event>) {
        let Some(owner) = self.from_before.get(&hop).copied() else {
            out.drop(DropReason::UnknownTransaction);
            // It ended here, and its opener does not know.
            let message = Message::Close { circuit: hop.1, by_opener: false };
            return out.event(Event::Send { to: hop.0, message });
        };
        let (renewed, onward) = match owner {
            Owner::Ending(circuit) => (self.ending.get_mut(&circuit).map(|e| &mut e.renewed), None),
            Owner::Carried(n) => match self.carried.get_mut(&n) {
                Some(carried) => (Some(&mut carried.renewed), Some(carried.next)),
                None => (None, None),
            },
            Owner::Own(_) => (None, None),
        };
        let Some(renewed) = renewed else { return };
        if now < *renewed + RENEW_PAUSE {
            return;
        }
        self.timers.remove(&(*renewed + LIFETIME, owner));
        *renewed = now;
        self.timers.insert((now + LIFETIME, owner));
        if let Some((to, circuit)) = onward {
            out.event(Event::Send { to, message: Message::Renew { circuit } });
        }
        self.install(owner, out);
    }

    /// Gives up what was not confirmed or renewed, and renews this node's own.
    pub fn handle_timeout(&mut self, now: Time, out: &mut Outbox<Event>) {
        while let Some((at, owner)) = self.timers.first().copied().filter(|(at, _)| *at <= now) {
            self.timers.remove(&(at, owner));
            match owner {
                Owner::Own(circuit) => self.own_due(now, circuit, out),
                Owner::Ending(_) | Owner::Carried(_) => self.end(owner, Side::Here, Reason::Expired, out),
            }
        }
    }

    fn own_due(&mut self, now: Time, circuit: CircuitId, out: &mut Outbox<Event>) {
        let owner = Owner::Own(circuit);
        let Some(own) = self.own.get_mut(&circuit) else { return };
        let (at, number) = own.next;
        if !own.confirmed {
            return self.end(owner, Side::Here, Reason::TimedOut { at }, out);
        }
        own.renewed = now;
        self.timers.insert((own.due(), owner));
        out.event(Event::Send { to: at, message: Message::Renew { circuit: number } });
        self.install(owner, out);
    }

    /// When [`Self::handle_timeout`] has something to do.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<Deadline> {
        self.timers.first().map(|(at, _)| Deadline::new(*at, "renew circuits, or let them end"))
    }

    /// A circuit that begins or ends here.
    #[must_use]
    pub fn circuit(&self, circuit: CircuitId) -> Option<CircuitView<'_>> {
        let own = self.own.get(&circuit).map(|own| own.view(circuit));
        own.or_else(|| self.ending.get(&circuit).map(|ending| ending.view(circuit)))
    }

    /// All circuits that begin or end here, this node's own first.
    pub fn circuits(&self) -> impl Iterator<Item = CircuitView<'_>> {
        let own = self.own.iter().map(|(circuit, own)| own.view(*circuit));
        own.chain(self.ending.iter().map(|(circuit, ending)| ending.view(*circuit)))
    }

    /// How many circuits of others go through this node.
    #[must_use]
    pub fn carried(&self) -> usize {
        self.carried.len()
    }

    /// What this node carries for others; `None` if nothing.
    #[must_use]
    pub const fn limits(&self) -> Option<Limits> {
        self.limits
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
    fn install(&self, owner: Owner, out: &mut Outbox<Event>) {
        let addr = |hop: &Hop| self.neighbours.addr(&hop.0);
        match owner {
            Owner::Own(circuit) => {
                let Some(own) = self.own.get(&circuit) else { return };
                if let Some(from) = addr(&own.next) {
                    let (label, expires) = (own.back, own.renewed + LIFETIME);
                    out.event(Event::Label(Change::End { label, from, circuit, out: own.forward, expires }));
                }
            }
            Owner::Ending(circuit) => {
                let Some(ending) = self.ending.get(&circuit) else { return };
                if let Some(from) = addr(&ending.before) {
                    let (label, expires) = (ending.forward, ending.renewed + LIFETIME);
                    out.event(Event::Label(Change::End { label, from, circuit, out: ending.back, expires }));
                }
            }
            Owner::Carried(n) => {
                let Some(c) = self.carried.get(&n) else { return };
                if let (Some(before), Some(next)) = (addr(&c.before), addr(&c.next)) {
                    let (user, expires) = (c.before.0, c.renewed + LIFETIME);
                    let change =
                        |(label, out), from, to| Change::Forward { label, from, to, out, user, expires };
                    out.event(Event::Label(change(c.forward, before, next)));
                    out.event(Event::Label(change(c.back, next, before)));
                }
            }
        }
    }

    /// The hop is over, as the neighbour at its other end says.
    fn end_hop(&mut self, hop: Hop, side: Side, reason: Reason, out: &mut Outbox<Event>) {
        let owner = match side {
            Side::Next => self.to_next.get(&hop),
            Side::Before => self.from_before.get(&hop),
            Side::Here => None,
        };
        match owner.copied() {
            Some(owner) => self.end(owner, side, reason, out),
            None => out.drop(DropReason::UnknownTransaction),
        }
    }

    /// Ends a circuit, and tells those who do not know it yet: `side` is where the end came from.
    fn end(&mut self, owner: Owner, side: Side, reason: Reason, out: &mut Outbox<Event>) {
        match owner {
            Owner::Own(circuit) => {
                let Some(own) = self.own.remove(&circuit) else { return };
                self.timers.remove(&(own.due(), owner));
                self.to_next.remove(&own.next);
                if side != Side::Next {
                    tell_next(own.next, out);
                }
                self.forget(own.back, out);
                let reason = match reason {
                    // Nobody else has anything to do with it: whoever passed that on made it up.
                    Reason::Refused { at, why } if !own.has(&at) => Reason::Refused { at: own.next.0, why },
                    other => other,
                };
                out.event(Event::Down { circuit, peer: own.peer, reason });
            }
            Owner::Ending(circuit) => {
                let Some(ending) = self.ending.remove(&circuit) else { return };
                self.timers.remove(&(ending.renewed + LIFETIME, owner));
                self.from_before.remove(&ending.before);
                self.neighbours.closed(&ending.before.0, Part::Ending);
                if side != Side::Before {
                    tell_before(ending.before, reason, out);
                }
                self.forget(ending.forward, out);
                out.event(Event::Down { circuit, peer: ending.origin, reason });
            }
            Owner::Carried(n) => {
                let Some(carried) = self.carried.remove(&n) else { return };
                self.timers.remove(&(carried.renewed + LIFETIME, owner));
                self.from_before.remove(&carried.before);
                self.to_next.remove(&carried.next);
                self.neighbours.closed(&carried.before.0, Part::Carried);
                if side != Side::Before {
                    tell_before(carried.before, reason, out);
                }
                if side != Side::Next {
                    tell_next(carried.next, out);
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

/// Tells the node towards the target that a circuit is over.
fn tell_next((to, circuit): Hop, out: &mut Outbox<Event>) {
    out.event(Event::Send { to, message: Message::Close { circuit, by_opener: true } });
}

/// Tells the node towards the origin that a circuit is over, or was refused.
fn tell_before((to, circuit): Hop, reason: Reason, out: &mut Outbox<Event>) {
    let message = match reason {
        Reason::Refused { at, why } => Message::Refused { circuit, at, why },
        Reason::TimedOut { .. } | Reason::LinkLost | Reason::Closed | Reason::Expired => {
            Message::Close { circuit, by_opener: false }
        }
    };
    out.event(Event::Send { to, message });
}
