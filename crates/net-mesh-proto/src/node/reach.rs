//! Ways to peers beyond their addresses, as the node wires them: routes over other members, circuits,
//! introductions, and the ways of each session.
//!
//! What these machines do for one another:
//! - the dialer asks for a way through others: [`Node::dial`] opens a circuit along the nearest route;
//! - a session that travels over a circuit is looked after: an introduction is sought for it, a nearer circuit is
//!   offered to it, and one that has lost its circuit gets another ([`Node::look_after`]);
//! - a circuit that no session needs any more is closed, [`LINGER`] after both sides changed over.

use alloc::collections::BTreeMap;
use alloc::vec::Vec;
use core::net::SocketAddr;
use core::time::Duration;

use super::control::Control;
use super::{ConnId, DialFailure, DialId, Event, Node, Output};
use crate::bounded::BoundedMap;
use crate::drops::DropCounts;
use crate::id::NodeId;
use crate::liveness::SessionKey;
use crate::nat::NatClass;
use crate::outbox::Outbox;
use crate::path::{self, Paths};
use crate::peer::Session;
use crate::peer::ways::{Help, Way};
use crate::reflex::stun;
use crate::relay::{self, Refusal, Relay};
use crate::rendezvous::{self, Rendezvous};
use crate::rng::Rng;
use crate::route::{CircuitId, Route};
use crate::routing::Routes;
use crate::time::{Deadline, Time};

/// How often sessions over circuits are looked after when nothing happens.
pub(super) const LOOK_AFTER: Duration = Duration::from_secs(5);

/// How long the side with the higher id leaves it to the other one to look for a direct way.
const SEEK_ANYWAY: Duration = Duration::from_secs(15);

/// Sessions that are given another circuit in one turn: each costs a message to the same neighbour, whose queue is
/// bounded.
const RESCUES: usize = 32;

/// After which the others follow.
const NEXT_RESCUES: Duration = Duration::from_millis(20);

/// How soon, at most, they are looked after again.
const LOOK_PAUSE: Duration = Duration::from_millis(100);

/// How soon a session that has lost its way is looked after again when there was no other one.
const STRANDED_AGAIN: Duration = Duration::from_millis(500);

/// How long a circuit outlives its use: packets are still on their way, and the direct way may not last.
const LINGER: Duration = Duration::from_secs(30);

/// How long a member that refuses to relay is left out of routes.
const AVOID: Duration = Duration::from_secs(30);

/// The same for one that would but could not: what it misses is probably coming.
const AVOID_BRIEFLY: Duration = Duration::from_secs(2);

/// Ended circuits remembered: those that connections may still be coming up over.
const MAX_ENDED: usize = 64;

/// Members left out of routes at a time.
const MAX_AVOIDED: usize = 256;

/// Between two computations of the routes: a change of a record is seldom alone.
const ROUTES_PAUSE: Duration = Duration::from_millis(50);

/// What is added to that for each member: in a mesh of thousands a computation takes tens of milliseconds, and
/// there is always some record that changes.
const PAUSE_PER_MEMBER: Duration = Duration::from_micros(200);

/// A circuit replaces another one only if it is expected to save this share of the round trip, and a few
/// milliseconds: estimates of two ways differ by as much without a reason.
const WORTHWHILE: (f64, Duration) = (0.75, Duration::from_millis(10));

/// The machines, and what the node remembers between them.
#[derive(Debug)]
pub(super) struct Reach {
    pub(super) relay: Relay,
    pub(super) rendezvous: Option<Rendezvous>,
    pub(super) paths: Paths,
    pub(super) routes: Routes,
    pub(super) heard_relay: Outbox<relay::Event>,
    heard_rendezvous: Outbox<rendezvous::Event>,
    pub(super) heard_paths: Outbox<path::Event>,
    /// When the routes were computed, and whether anything changed since.
    computed: Option<Time>,
    stale: bool,
    avoided: BoundedMap<NodeId, Time>,
    /// The keys of connections that are up.
    keys: BTreeMap<ConnId, SessionKey>,
    /// The circuits that attempts to connect go over.
    dialled: BTreeMap<CircuitId, DialId>,
    /// Circuits of this node's that were not needed when last looked at, and since when.
    spare: BTreeMap<CircuitId, Time>,
    /// Circuits that ended lately.
    ended: BoundedMap<CircuitId, ()>,
    /// Sessions that have lost their way, and when to find them another.
    pub(super) stranded: BTreeMap<NodeId, Time>,
    look_at: Option<Time>,
}

impl Reach {
    pub(super) fn new(me: NodeId, rng: &Rng, limits: Option<relay::Limits>, nat_traversal: bool) -> Self {
        Self {
            relay: Relay::new(me, rng.fork("relay"), limits),
            rendezvous: nat_traversal.then(|| Rendezvous::new(me, rng.fork("rendezvous"))),
            paths: Paths::new(me),
            routes: Routes::default(),
            heard_relay: Outbox::new(),
            heard_rendezvous: Outbox::new(),
            heard_paths: Outbox::new(),
            computed: None,
            stale: false,
            avoided: BoundedMap::new(MAX_AVOIDED),
            keys: BTreeMap::new(),
            dialled: BTreeMap::new(),
            spare: BTreeMap::new(),
            ended: BoundedMap::new(MAX_ENDED),
            stranded: BTreeMap::new(),
            look_at: None,
        }
    }

    pub(super) fn poll_timeout(&self) -> Option<Deadline> {
        let stranded = self.stranded.values().min().copied();
        let own = [
            self.look_at.map(|at| Deadline::new(at, "look after sessions over circuits")),
            stranded.map(|at| Deadline::new(at, "find another way for a session")),
        ];
        let machines = [
            self.relay.poll_timeout(),
            self.paths.poll_timeout(),
            self.rendezvous.as_ref().and_then(Rendezvous::poll_timeout),
        ];
        machines.into_iter().chain(own).fold(None, Deadline::earliest)
    }

    pub(super) fn take_drops(&mut self) -> DropCounts {
        let mut drops = self.heard_relay.take_drops();
        drops.add(&self.heard_rendezvous.take_drops());
        drops.add(&self.heard_paths.take_drops());
        drops
    }

    /// Something that routes are computed from has changed.
    pub(super) fn changed(&mut self) {
        self.stale = true;
    }

    /// Something that routes lead over is gone: they are computed anew when one is asked for.
    pub(super) fn forget_routes(&mut self) {
        (self.computed, self.stale) = (None, true);
    }

    pub(super) fn look_soon(&mut self, at: Time) {
        self.look_at = Some(self.look_at.map_or(at, |already| already.min(at)));
    }
}

/// What the dialer may ask.
#[derive(Debug)]
pub(super) struct Helpers<'a> {
    pub(super) reach: &'a Reach,
    pub(super) now: Time,
    pub(super) own: NatClass,
}

impl Help for Helpers<'_> {
    fn relays(&self, peer: &NodeId) -> bool {
        self.reach.routes.to(peer).is_some_and(|way| !way.inner.is_empty())
    }

    fn introduces(&self, peer: &NodeId) -> bool {
        self.reach.rendezvous.is_some() && !self.reach.routes.mediators(peer).is_empty()
    }

    fn found_at(&self, peer: &NodeId) -> Option<SocketAddr> {
        self.reach.paths.found_at(self.now, peer)
    }

    fn carries(&self, peer: &NodeId) -> bool {
        self.reach.relay.carries(peer)
    }

    fn own_class(&self) -> NatClass {
        self.own
    }
}

/// Whom to leave out of routes, and for how long, after a circuit came to nothing.
const fn avoided(reason: relay::Reason) -> Option<(NodeId, Duration)> {
    match reason {
        relay::Reason::Refused { at, why: Refusal::NotRelaying | Refusal::TooMany } => Some((at, AVOID)),
        relay::Reason::Refused { at, .. } | relay::Reason::TimedOut { at } => Some((at, AVOID_BRIEFLY)),
        relay::Reason::LinkLost | relay::Reason::Closed | relay::Reason::Expired => None,
    }
}

impl Node {
    /// Computes the routes again if anything changed, and not more often than it is worth.
    pub(super) fn refresh_routes(&mut self, now: Time) {
        let members = u32::try_from(self.membership.members().len()).unwrap_or(u32::MAX);
        let pause = ROUTES_PAUSE + PAUSE_PER_MEMBER.saturating_mul(members);
        let recent = self.reach.computed.is_some_and(|at| now < at + pause);
        if !self.reach.stale || recent {
            return;
        }
        self.reach.avoided.retain(|_, until| *until > now);
        let links = self.own_links(None);
        let avoided = &self.reach.avoided;
        self.reach.routes =
            crate::routing::ways(self.id, &links, self.membership.members(), &|id| avoided.contains_key(id));
        (self.reach.computed, self.reach.stale) = (Some(now), false);
    }

    /// The direct links that are well, but the one to `except`.
    fn own_links(&self, except: Option<NodeId>) -> Vec<(NodeId, u32)> {
        let straight = self.arbiter.sessions().filter(|s| s.route.direct().is_some());
        let well = straight.filter(|s| Some(s.peer) != except && self.reach.paths.is_well(&s.peer));
        well.map(|s| (s.peer, u32::try_from(s.rtt.as_millis()).unwrap_or(u32::MAX))).collect()
    }

    /// The nearest way to `peer` over others than those that its session goes over now. Mostly there is someone who
    /// is linked to both; else the routes are computed without the link between the two.
    fn route_around(&self, peer: NodeId) -> Option<Vec<NodeId>> {
        let used = self.reach.paths.current(&peer).map(|route| self.via(route)).unwrap_or_default();
        let (members, avoided) = (self.membership.members(), &self.reach.avoided);
        let avoid = |id: &NodeId| avoided.contains_key(id) || used.contains(id);
        let relays = |id: &NodeId| members.get(id).is_some_and(|member| member.record().flags.relays);
        let near = |id: &&NodeId| relays(id) && !avoid(id) && self.reach.paths.is_well(id);
        if let Some(nearest) = self.reach.routes.mediators(&peer).iter().find(near) {
            return Some(Vec::from([*nearest]));
        }
        let links = self.own_links(Some(peer));
        crate::routing::ways(self.id, &links, members, &avoid).to(&peer).map(|way| way.inner)
    }

    /// The dialer wants a connection.
    pub(super) fn dial(&mut self, now: Time, dial: DialId, peer: Option<NodeId>, ways: Vec<Way>) {
        let mut routes: Vec<Route> = ways.iter().filter_map(|way| way.addr()).map(Route::Direct).collect();
        if let Some(peer) = peer.filter(|_| ways.contains(&Way::Relay))
            && let Some(circuit) = self.open_circuit(now, peer, false)
        {
            self.reach.dialled.insert(circuit, dial);
            routes.push(Route::Relayed(circuit));
        }
        if routes.is_empty() {
            self.dialer.dial_failed(now, dial, DialFailure::Unusable, &mut self.heard.dialer);
        } else {
            self.silence.asked(now);
            self.outputs.push_back(Output::Dial { dial, peer, routes });
        }
    }

    /// Opens a circuit along the nearest route; `beside` the way in use, it leads around that.
    fn open_circuit(&mut self, now: Time, peer: NodeId, beside: bool) -> Option<CircuitId> {
        self.refresh_routes(now);
        let nearest = || self.reach.routes.to(&peer).map(|way| way.inner);
        let inner = if beside { self.route_around(peer) } else { nearest() };
        let inner = inner.filter(|inner| !inner.is_empty())?;
        self.reach.look_soon(now + LOOK_AFTER);
        let circuit = self.reach.relay.open(now, peer, inner, &mut self.reach.heard_relay);
        // What is sent over the circuit must not leave before it exists here and is announced there.
        while let Some(event) = self.reach.heard_relay.pop_event() {
            self.hear_relay(now, event);
        }
        circuit
    }

    /// A connection came up; whether it becomes the session is seen later.
    pub(super) fn remember_key(&mut self, conn: ConnId, key: [u8; 32]) {
        self.reach.keys.insert(conn, SessionKey::new(key));
    }

    pub(super) fn forget_key(&mut self, conn: ConnId) {
        self.reach.keys.remove(&conn);
    }

    pub(super) fn reach_frame(&mut self, now: Time, route: Route, bytes: &[u8]) {
        self.reach.paths.handle_frame(now, route, bytes, &mut self.reach.heard_paths);
    }

    /// Whether a STUN message belonged to a rendezvous.
    pub(super) fn reach_stun(
        &mut self,
        now: Time,
        from: SocketAddr,
        message: &stun::Message,
        bytes: &[u8],
    ) -> bool {
        let out = &mut self.reach.heard_rendezvous;
        let Some(rendezvous) = &mut self.reach.rendezvous else { return false };
        match message {
            stun::Message::BindingRequest(request) => request
                .check
                .is_some_and(|name| rendezvous.handle_check(now, from, (request.txid, name), bytes, out)),
            stun::Message::BindingResponse { txid, .. } => {
                let ours = rendezvous.handle_answer(now, from, *txid, bytes, out);
                if ours {
                    self.silence.heard();
                }
                ours
            }
            stun::Message::BindingError { .. } | stun::Message::ProbeIndication(_) => false,
        }
    }

    pub(super) fn reach_relay(&mut self, now: Time, from: NodeId, message: relay::Message) {
        self.reach.relay.handle(now, from, message, &mut self.reach.heard_relay);
    }

    pub(super) fn for_rendezvous(&mut self, act: impl FnOnce(&mut Rendezvous)) {
        if let Some(rendezvous) = &mut self.reach.rendezvous {
            act(rendezvous);
        }
    }

    /// There is a session with `peer`, perhaps in place of an earlier one.
    pub(super) fn reach_session_up(&mut self, now: Time, session: &Session) {
        let Session { peer, conn, route, .. } = *session;
        self.reach.stranded.remove(&peer);
        // A peer that came back knows nothing of its circuits.
        self.reach.relay.set_link(now, peer, None, &mut self.reach.heard_relay);
        if let Some(key) = self.reach.keys.get(&conn).cloned() {
            self.reach.paths.session_up(now, peer, conn, key, route, &mut self.reach.heard_paths);
        }
        // The circuit may have ended before anyone knew whose it was.
        if let Some(circuit) = route.circuit().filter(|circuit| self.reach.ended.contains_key(circuit)) {
            self.reach.paths.circuit_down(now, circuit, &mut self.reach.heard_paths);
        }
        self.reach.relay.set_link(now, peer, route.direct(), &mut self.reach.heard_relay);
        self.reach.changed();
        if route.circuit().is_some() {
            self.reach.look_soon(now);
        }
        self.tell_path(now, peer);
    }

    /// There is no session with `peer` any more.
    pub(super) fn reach_session_down(&mut self, now: Time, peer: NodeId) {
        self.reach.stranded.remove(&peer);
        self.reach.paths.session_down(&peer);
        self.note_path(now, peer);
        self.reach.relay.set_link(now, peer, None, &mut self.reach.heard_relay);
        self.reach.changed();
        self.reach.look_soon(now + LOOK_AFTER);
    }

    /// Wants a direct way to `peer`.
    pub(super) fn seek(&mut self, now: Time, peer: NodeId) {
        self.refresh_routes(now);
        self.with_rendezvous(|rendezvous, view, out| rendezvous.seek(now, peer, view, out));
    }

    /// Lets the rendezvous machine act on what the node knows.
    pub(super) fn with_rendezvous(
        &mut self,
        act: impl FnOnce(&mut Rendezvous, rendezvous::View<'_>, &mut Outbox<rendezvous::Event>),
    ) {
        let reach = &mut self.reach;
        let Some(rendezvous) = &mut reach.rendezvous else { return };
        let (arbiter, routes) = (&self.arbiter, &reach.routes);
        let view = rendezvous::View {
            local: &self.local,
            own: self.membership.own_draft(),
            members: self.membership.members(),
            mediators: &|peer| routes.mediators(peer).to_vec(),
            rtt: &|peer| arbiter.session(peer).map(|session| session.rtt),
        };
        act(rendezvous, view, &mut reach.heard_rendezvous);
    }

    /// Does what is due.
    pub(super) fn reach_timeout(&mut self, now: Time) {
        self.reach.relay.handle_timeout(now, &mut self.reach.heard_relay);
        self.reach.paths.handle_timeout(now, &mut self.reach.heard_paths);
        if let Some(rendezvous) = &mut self.reach.rendezvous {
            rendezvous.handle_timeout(now, &mut self.reach.heard_rendezvous);
        }
        let due = |at: &Time| *at <= now;
        let stranded: Vec<NodeId> =
            self.reach.stranded.iter().filter(|(_, at)| due(at)).map(|(id, _)| *id).collect();
        for (n, peer) in stranded.into_iter().enumerate() {
            if n < RESCUES {
                self.rescue(now, peer);
            } else {
                self.reach.stranded.insert(peer, now + NEXT_RESCUES);
            }
        }
        if self.reach.look_at.as_ref().is_some_and(due) {
            self.look_after(now);
        }
    }

    /// Looks after sessions over circuits, and after circuits.
    fn look_after(&mut self, now: Time) {
        self.reach.look_at = None;
        self.refresh_routes(now);
        let relayed: Vec<Session> =
            self.arbiter.sessions().filter(|session| self.is_to_be_looked_after(session)).collect();
        for session in &relayed {
            // One of the two is enough, unless it does not.
            if self.id < session.peer || now.since(session.since) > SEEK_ANYWAY {
                self.seek(now, session.peer);
            }
            self.offer_nearer(now, session);
        }
        self.close_spare(now);
        if !relayed.is_empty() || self.reach.relay.circuits().next().is_some() {
            self.reach.look_soon(now + LOOK_AFTER);
        }
    }

    /// Whether a session may need a direct way: it has none, or one that does not work.
    fn is_to_be_looked_after(&self, session: &Session) -> bool {
        session.route.circuit().is_some() || !self.reach.paths.is_well(&session.peer)
    }

    /// Whether there is a session with `peer` that may need a direct way.
    pub(super) fn lacks_a_direct_way(&self, peer: &NodeId) -> bool {
        self.arbiter.session(peer).is_some_and(|session| self.is_to_be_looked_after(&session))
    }

    /// Offers a session another circuit where that is expected to be much nearer. Whoever opened the present
    /// one does.
    fn offer_nearer(&mut self, now: Time, session: &Session) {
        let Some(circuit) = session.route.circuit() else { return };
        let Some(view) = self.reach.relay.circuit(circuit).filter(|view| view.opened_by_us) else { return };
        let Some(way) = self.reach.routes.to(&session.peer).filter(|way| !way.inner.is_empty()) else {
            return;
        };
        let (share, margin) = WORTHWHILE;
        let expected = Duration::from_millis(u64::from(way.rtt_ms));
        if way.inner != view.path && expected + margin < session.rtt.mul_f64(share) {
            self.give_circuit(now, session.peer, true);
        }
    }

    /// Opens a circuit for the session with `peer`: in place of the one in use if `replaces`, else beside its way.
    pub(super) fn give_circuit(&mut self, now: Time, peer: NodeId, replaces: bool) -> bool {
        let Some(circuit) = self.open_circuit(now, peer, !replaces) else { return false };
        self.reach.paths.offer(now, peer, circuit, replaces, &mut self.reach.heard_paths);
        true
    }

    /// Finds another way for a session that has none.
    pub(super) fn rescue(&mut self, now: Time, peer: NodeId) {
        if !self.reach.paths.is_stranded(&peer) || self.arbiter.session(&peer).is_none() {
            self.reach.stranded.remove(&peer);
            return;
        }
        // What it travelled over is gone: the routes of a moment ago are no good.
        self.reach.changed();
        self.give_circuit(now, peer, true);
        self.try_candidates(now, peer);
        self.reach.stranded.insert(peer, now + STRANDED_AGAIN);
    }

    /// Closes this node's circuits that nothing has travelled over for a while.
    fn close_spare(&mut self, now: Time) {
        let own: Vec<(CircuitId, NodeId)> =
            self.reach.relay.circuits().filter(|c| c.opened_by_us).map(|c| (c.circuit, c.peer)).collect();
        self.reach.spare.retain(|circuit, _| own.iter().any(|(own, _)| own == circuit));
        for (circuit, peer) in own {
            if self.reach.dialled.contains_key(&circuit) || !self.reach.paths.is_spare(now, &peer, circuit) {
                self.reach.spare.remove(&circuit);
                continue;
            }
            let since = *self.reach.spare.entry(circuit).or_insert(now);
            if now >= since + LINGER {
                self.reach.spare.remove(&circuit);
                self.reach.relay.close(circuit, &mut self.reach.heard_relay);
            }
        }
    }

    /// The attempt `dial` came to nothing. If it went over a circuit that seemed to be there, somebody on the way
    /// does not carry what it should: another way is tried next.
    pub(super) fn dial_in_vain(&mut self, now: Time, dial: DialId) {
        let circuits: Vec<CircuitId> =
            self.reach.dialled.iter().filter(|(_, of)| **of == dial).map(|(circuit, _)| *circuit).collect();
        for circuit in circuits {
            let path = self.reach.relay.circuit(circuit).map(|view| view.path.to_vec());
            for node in path.into_iter().flatten() {
                self.reach.avoided.insert(node, now + AVOID);
            }
            self.reach.changed();
        }
        self.dial_over(dial);
    }

    /// The attempt `dial` is over: its circuit is its session's now, or nobody's.
    pub(super) fn dial_over(&mut self, dial: DialId) {
        self.reach.dialled.retain(|_, of| *of != dial);
    }

    /// Hears the next thing that these machines have to say; returns whether there was one.
    pub(super) fn hear_reach(&mut self, now: Time) -> bool {
        if let Some(event) = self.reach.heard_relay.pop_event() {
            self.hear_relay(now, event);
        } else if let Some(event) = self.reach.heard_paths.pop_event() {
            self.hear_paths(now, event);
        } else if let Some(transmit) = self.reach.heard_rendezvous.pop_transmit() {
            self.outputs.push_back(Output::Transmit(transmit));
        } else if let Some(event) = self.reach.heard_rendezvous.pop_event() {
            self.hear_rendezvous(now, event);
        } else {
            return false;
        }
        true
    }

    fn hear_relay(&mut self, now: Time, event: relay::Event) {
        match event {
            relay::Event::Send { to, message } => self.send_to(to, &Control::Relay(message)),
            relay::Event::Label(change) => self.outputs.push_back(Output::Label(change)),
            relay::Event::Opened { .. } | relay::Event::Confirmed { .. } => {}
            relay::Event::Down { circuit, reason, .. } => {
                if let Some((node, time)) = avoided(reason) {
                    self.reach.avoided.insert(node, now + time);
                    self.reach.changed();
                }
                self.reach.ended.insert(circuit, ());
                self.reach.paths.circuit_down(now, circuit, &mut self.reach.heard_paths);
                if let Some(dial) = self.reach.dialled.remove(&circuit) {
                    self.dialer.circuit_lost(now, dial);
                }
            }
        }
    }

    fn hear_rendezvous(&mut self, now: Time, event: rendezvous::Event) {
        match event {
            rendezvous::Event::Send { to, message } => self.send_to(to, &Control::Rendezvous(message)),
            rendezvous::Event::Introduced { seeker, sought, attempt, plan } => {
                self.tell(Event::Introduced { seeker, sought, attempt, plan });
            }
            rendezvous::Event::Found { peer, addr, .. } => {
                let direct = self.arbiter.session(&peer).is_some_and(|s| s.route.direct().is_some());
                if !direct || !self.reach.paths.is_well(&peer) {
                    self.reach.paths.found(now, peer, addr, &mut self.reach.heard_paths);
                    self.dialer.found(now, peer);
                }
            }
            rendezvous::Event::Ended(attempt) => {
                let rests_until = self.reach.rendezvous.as_ref().and_then(|r| r.history(&attempt.peer));
                let rests_until = rests_until.map_or(now, rendezvous::History::rests_until);
                self.reach.look_soon(rests_until.clamp(now + LOOK_PAUSE, now + LOOK_AFTER));
                self.tell(Event::Rendezvous(attempt));
            }
        }
    }
}
