//! Which way does a session travel, and is that way alive?
//!
//! A session is one connection for its whole life; the ways beneath it come and go. For each session this
//! machine keeps the way it travels, the ways being tried, and what is known of each
//! ([`Detector`](crate::liveness::Detector)).
//!
//! **Proof.** A way is used once it is proven in both directions by the session itself: a [`Ping`](Kind::Ping) on it,
//! as long as the packets that are to follow, was answered by a genuine [`Pong`](Kind::Pong). Rendezvous says where it is worth
//! trying, and is not believed: whoever introduced the two knows the key of their checks, and nobody else knows the
//! session's. A ping is sent at once and repeated at [`PAUSES`], or when the peer pings on the same way;
//! then the way is forgotten.
//!
//! **Choice.** Each side decides for the packets it sends. A direct way is better than a relayed one, unless it
//! loses much and the relayed one does not; of two direct ones a proven one replaces the one in use only where it is much
//! nearer; of two circuits the one that was offered last is meant to replace the other.
//!
//! **Doubt.** While the way in use is suspect, packets go over the best of the others, copies go over the suspect one,
//! and pings on the other tell the peer to do the same ([`choice`]). A way that fails is left for good, and
//! probed on: when it heals and stays well, the session returns. A busy session keeps a second way ready for that.
//!
//! **The other side.** A way is accepted before it is pinged, and a genuine ping on a new one before it is answered,
//! so that no packet is lost when the peer changes over. A direct way that the peer pings on is tried from here too: that is
//! also how a peer is followed whose NAT has given it another address. When the peer announces a way of the same
//! kind as the one this side uses, the side with the higher id follows: both are to send on one way, since relays know each
//! neighbour by one address, and two that follow each other would never rest.
//!
//! **Replay.** Every ping has a nonce of its own, and nonces grow. One that was heard before, or is older than
//! [`WINDOW`] others, is answered on ways that are known, and changes nothing: who recorded a ping cannot use it to move a
//! session, nor to make a node ping somebody.
//!
//! **Oneself.** Late timers, a network that has just changed, and everybody being silent at once are not the peers'
//! fault: patience begins anew after a stall, and before a way is called failed others are asked.
//!
//! | file | the question it answers |
//! |---|---|
//! | `way` | how far is a way proven, and when is it probed? |
//! | `session` | what is asked, answered and due in one session? |
//! | [`choice`] | which way does a session go, and which way its packets meanwhile? |
//! | `window` | which pings were heard before? |
//!
//! Bounds: [`MAX_WAYS`] ways for each session, [`MAX_FOUND`] addresses found for peers without one, for [`FOUND_FOR`].

pub mod choice;
mod session;
#[cfg(test)]
mod tests;
mod way;
mod window;

use alloc::collections::{BTreeMap, BTreeSet};
use alloc::vec::Vec;
use core::net::SocketAddr;
use core::time::Duration;

pub use way::PAUSES;
pub use window::WINDOW;

use crate::bounded::BoundedMap;
use crate::drops::DropReason;
use crate::id::NodeId;
use crate::liveness::mapping::Lifetimes;
use crate::liveness::wire::{PADDED_BYTES, Unverified};
use crate::liveness::{Cause, Evidence, Health, Issue, Kind, SessionKey, Traffic};
use crate::node::{ConnId, Switch};
use crate::outbox::Outbox;
use crate::route::{CircuitId, Route};
use crate::time::{Deadline, Time};
use session::{Cx, Session};

/// Ways remembered for one session. Two families, a local network and a spare of each, and two circuits;
/// beyond that the worst that is not in use is forgotten.
pub const MAX_WAYS: usize = 8;

/// Addresses kept for peers that there is no session with yet.
pub const MAX_FOUND: usize = 256;

/// How long such an address is kept. A session over a relay takes a few round trips to open.
pub const FOUND_FOR: Duration = Duration::from_secs(10);

/// A peer that answers on no way for so long is given up, and its session closed: a minute without a network is
/// everyday, and whoever comes back later than this makes a new session within a round trip.
pub const DEAD_AFTER: Duration = Duration::from_secs(150);

/// A timer that goes off so late was not the fault of any peer.
const STALL: Duration = Duration::from_millis(50);

/// Others that are asked whether they can be heard when one cannot, and how long the answer counts.
const WITNESSES: usize = 3;
const WITNESS_AGE: Duration = Duration::from_millis(200);

/// What this machine tells the node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// Send a frame.
    Frame {
        /// Which way.
        route: Route,
        /// The frame.
        bytes: Vec<u8>,
    },
    /// Packets that arrive over `route` belong to the session with `peer`.
    Accept {
        /// With whom.
        peer: NodeId,
        /// Its connection.
        conn: ConnId,
        /// Which way.
        route: Route,
    },
    /// The packets of the session with `peer` go over `main` now, and copies over `also`.
    Lines {
        /// With whom.
        peer: NodeId,
        /// Its connection.
        conn: ConnId,
        /// Where packets go.
        main: Route,
        /// Where their copies go.
        also: Option<Route>,
        /// What becomes of what was sent before.
        switch: Switch,
    },
    /// The session with `peer` travels over `route` now.
    Moved {
        /// With whom.
        peer: NodeId,
        /// Its connection.
        conn: ConnId,
        /// Which way.
        route: Route,
        /// The round-trip time of a ping on it.
        rtt: Duration,
    },
    /// A way has changed its health.
    Health {
        /// To whom.
        peer: NodeId,
        /// Which way.
        route: Route,
        /// What it is now.
        health: Health,
        /// Why.
        evidence: Evidence,
    },
    /// The network to `peer` has a fault with a name; told once in a session.
    Issue {
        /// To whom.
        peer: NodeId,
        /// Which.
        issue: Issue,
    },
    /// A peer sees this node at another address than before, though its network has not changed.
    Rebound,
    /// The session with `peer` should have a second way.
    Standby {
        /// With whom.
        peer: NodeId,
        /// Whether its present way is not well.
        urgent: bool,
    },
    /// The session with `peer` has no way that works.
    Stranded {
        /// With whom.
        peer: NodeId,
    },
    /// `peer` has not answered on any way for [`DEAD_AFTER`].
    Dead {
        /// Who.
        peer: NodeId,
        /// Its connection.
        conn: ConnId,
    },
}

/// What is known of the way a session travels.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WayView {
    /// How it is doing.
    pub health: Health,
    /// Why, and since when.
    pub reason: (Cause, Time),
    /// The smoothed round-trip time of pings on it.
    pub rtt: Option<Duration>,
    /// The share that it loses, in parts of a thousand, once known.
    pub loss: Option<u16>,
}

/// The ways of all sessions of one node.
#[derive(Debug)]
pub struct Paths {
    me: NodeId,
    sessions: BTreeMap<NodeId, Session>,
    by_hint: BTreeMap<u64, NodeId>,
    found: BoundedMap<NodeId, (SocketAddr, Time)>,
    /// When each session wants to be looked at.
    due: BTreeSet<(Time, NodeId)>,
    deadlines: BTreeMap<NodeId, Deadline>,
    lifetimes: Lifetimes,
    /// The end of the last time in which nobody was looking.
    excuse: Time,
    /// When anything was heard of anybody.
    heard: Time,
    changed: Time,
    lesson: Option<(NodeId, Time)>,
    /// Others are being asked whether they can be heard.
    asking: bool,
}

impl Paths {
    /// The machine of the node `me`.
    #[must_use]
    pub fn new(me: NodeId) -> Self {
        Self {
            me,
            sessions: BTreeMap::new(),
            by_hint: BTreeMap::new(),
            found: BoundedMap::new(MAX_FOUND),
            due: BTreeSet::new(),
            deadlines: BTreeMap::new(),
            lifetimes: Lifetimes::default(),
            excuse: Time::ZERO,
            heard: Time::ZERO,
            changed: Time::ZERO,
            lesson: None,
            asking: false,
        }
    }

    /// Lets a session act, and notes when it wants to be looked at next.
    fn with<T>(
        &mut self,
        now: Time,
        peer: &NodeId,
        out: &mut Outbox<Event>,
        act: impl FnOnce(&mut Session, &mut Cx<'_>) -> T,
    ) -> Option<T> {
        self.note_stall(now);
        let sessions = self.sessions.len();
        let session = self.sessions.get_mut(peer)?;
        let mut cx = Cx {
            now,
            excuse: self.excuse,
            heard: self.heard,
            sessions,
            lesson: &mut self.lesson,
            changed: &mut self.changed,
            lifetimes: &mut self.lifetimes,
            out,
        };
        let result = act(session, &mut cx);
        session.tick(&mut cx);
        let next = session.poll_timeout(&cx);
        if let Some(earlier) = self.deadlines.remove(peer) {
            self.due.remove(&(earlier.at, *peer));
        }
        if let Some(deadline) = next {
            self.due.insert((deadline.at, *peer));
            self.deadlines.insert(*peer, deadline);
        }
        if core::mem::take(&mut session.newly_suspect) {
            self.ask_witnesses(now, *peer, out);
        }
        Some(result)
    }

    /// A timer that should have gone off long ago shows that nobody was looking.
    fn note_stall(&mut self, now: Time) {
        if self.due.first().is_some_and(|(at, _)| now.since(*at) > STALL) {
            self.excuse = now;
        }
    }

    /// One cannot be heard: can others? Asked of a few, the nearest by their numbers, so that no peer of a large mesh
    /// is asked by everyone.
    fn ask_witnesses(&mut self, now: Time, suspect: NodeId, out: &mut Outbox<Event>) {
        let silent = self.sessions.get(&suspect).and_then(|session| session.current_way()?.detector.heard());
        let others = self.heard > silent.unwrap_or_default() + WITNESS_AGE;
        if others || core::mem::replace(&mut self.asking, true) {
            return;
        }
        let after = self.sessions.range(suspect..).map(|(id, _)| *id);
        let others = after.chain(self.sessions.keys().copied()).filter(|id| *id != suspect);
        let others: Vec<NodeId> = others.take(WITNESSES).collect();
        for other in others {
            self.with(now, &other, out, |session, cx| {
                if let Some(route) = session.current.filter(|_| !session.is_unwell()) {
                    session.ping(cx, route);
                }
            });
        }
        self.asking = false;
    }

    /// There is a session with `peer` over `conn`, which travels over `route`. Replaces any earlier one.
    #[allow(clippy::too_many_arguments, reason = "one call per session; they are its description")]
    pub fn session_up(
        &mut self,
        now: Time,
        peer: NodeId,
        conn: ConnId,
        key: SessionKey,
        route: Route,
        out: &mut Outbox<Event>,
    ) {
        self.session_down(&peer);
        self.heard = now;
        self.by_hint.insert(key.hint(), peer);
        self.sessions.insert(peer, Session::new(now, self.me, peer, conn, key, route));
        self.with(now, &peer, out, |_, _| ());
        let found = self.found.remove(&peer).filter(|(_, at)| now.since(*at) <= FOUND_FOR);
        if let Some((addr, _)) = found.filter(|_| route.direct().is_none()) {
            self.try_addrs(now, peer, &[addr], out);
        }
    }

    /// There is no session with `peer` any more.
    pub fn session_down(&mut self, peer: &NodeId) {
        if let Some(session) = self.sessions.remove(peer) {
            self.by_hint.remove(&session.key.hint());
        }
        if let Some(deadline) = self.deadlines.remove(peer) {
            self.due.remove(&(deadline.at, *peer));
        }
    }

    /// `peer` may be reached at `addr`. Tried at once in its session, or kept until there is one.
    pub fn found(&mut self, now: Time, peer: NodeId, addr: SocketAddr, out: &mut Outbox<Event>) {
        if self.sessions.contains_key(&peer) {
            self.try_addrs(now, peer, &[addr], out);
        } else {
            self.found.insert(peer, (addr, now));
        }
    }

    /// `peer` may be reached at `addrs`: tried in its session, if there is one.
    pub fn try_addrs(&mut self, now: Time, peer: NodeId, addrs: &[SocketAddr], out: &mut Outbox<Event>) {
        self.with(now, &peer, out, |session, cx| {
            for addr in addrs {
                session.try_route(cx, Route::Direct(*addr));
            }
        });
    }

    /// Where `peer` was found lately, while there is no session with it.
    #[must_use]
    pub fn found_at(&self, now: Time, peer: &NodeId) -> Option<SocketAddr> {
        self.found.get(peer).filter(|(_, at)| now.since(*at) <= FOUND_FOR).map(|(addr, _)| *addr)
    }

    /// A circuit to `peer` that this node opened for its session: to replace the one in use if `replaces`, else to be
    /// ready beside the way in use.
    pub fn offer(
        &mut self,
        now: Time,
        peer: NodeId,
        circuit: CircuitId,
        replaces: bool,
        out: &mut Outbox<Event>,
    ) {
        self.with(now, &peer, out, |session, cx| {
            if replaces {
                session.offered = Some(circuit);
            }
            session.standby_failures = 0;
            session.try_route(cx, Route::Relayed(circuit));
        });
    }

    /// Nobody could help with a second way for the session with `peer`.
    pub fn standby_failed(&mut self, peer: &NodeId) {
        if let Some(session) = self.sessions.get_mut(peer) {
            session.standby_failures = session.standby_failures.saturating_add(1);
        }
    }

    /// `circuit` has ended.
    pub fn circuit_down(&mut self, now: Time, circuit: CircuitId, out: &mut Outbox<Event>) {
        let route = Route::Relayed(circuit);
        let users: Vec<NodeId> =
            self.sessions.iter().filter(|(_, s)| s.has(route)).map(|(id, _)| *id).collect();
        for peer in users {
            self.with(now, &peer, out, |session, _| {
                session.ways.retain(|way| way.route != route);
                if session.current == Some(route) {
                    session.current = None;
                }
                if session.offered == Some(circuit) {
                    session.offered = None;
                }
            });
        }
    }

    /// The host's network has changed: every way is doubted, and asked at once.
    pub fn network_changed(&mut self, now: Time, out: &mut Outbox<Event>) {
        (self.excuse, self.changed) = (now, now);
        self.lifetimes = Lifetimes::default();
        let peers: Vec<NodeId> = self.sessions.keys().copied().collect();
        for peer in peers {
            self.with(now, &peer, out, Session::network_changed);
        }
    }

    /// What has passed over a way of the session with `peer`.
    pub fn handle_traffic(
        &mut self,
        now: Time,
        peer: &NodeId,
        route: Route,
        traffic: Traffic,
        out: &mut Outbox<Event>,
    ) {
        self.heard = self.heard.max(traffic.heard.unwrap_or_default());
        self.with(now, peer, out, |session, cx| session.count(cx, route, traffic));
    }

    /// The application uses the session with `peer`.
    pub fn used(&mut self, now: Time, peer: &NodeId, out: &mut Outbox<Event>) {
        self.with(now, peer, out, |session, _| session.used(now));
    }

    /// The system refuses to send over `route`.
    pub fn send_failed(&mut self, now: Time, route: Route, out: &mut Outbox<Event>) {
        let users = self.sessions.iter().filter(|(_, s)| s.current == Some(route)).map(|(id, _)| *id);
        let users: Vec<NodeId> = users.collect();
        for peer in users {
            self.with(now, &peer, out, |session, cx| session.doubt(cx, route, Cause::SendFailed));
        }
    }

    /// The socket gives `route` to another peer: it is no way of the session with `peer`.
    pub fn refused(&mut self, now: Time, peer: &NodeId, route: Route, out: &mut Outbox<Event>) {
        self.with(now, peer, out, |session, _| {
            session.ways.retain(|way| way.route != route);
            session.current = session.current.filter(|current| *current != route);
        });
    }

    /// A frame arrived over `route`.
    pub fn handle_frame(&mut self, now: Time, route: Route, bytes: &[u8], out: &mut Outbox<Event>) {
        let Ok(unverified) = Unverified::parse(bytes) else {
            return out.drop(DropReason::MalformedFrame);
        };
        let Some(peer) = self.by_hint.get(&unverified.hint()).copied() else {
            return out.drop(DropReason::StaleConnection);
        };
        let genuine = self.sessions.get(&peer).and_then(|s| unverified.verify(&s.key, &peer));
        let Some(frame) = genuine else {
            return out.drop(DropReason::BadAuthentication);
        };
        self.heard = now;
        self.with(now, &peer, out, |session, cx| match frame.kind {
            Kind::Ping => session.pinged(cx, route, frame, bytes.len() >= PADDED_BYTES),
            Kind::Pong => {
                if session.ponged(cx, route, frame).is_none() {
                    cx.out.drop(DropReason::UnknownTransaction);
                }
            }
        });
    }

    /// Does what is due.
    pub fn handle_timeout(&mut self, now: Time, out: &mut Outbox<Event>) {
        self.note_stall(now);
        let excuse = self.excuse;
        while let Some((at, peer)) = self.due.first().copied()
            && at <= now
        {
            self.with(now, &peer, out, |_, _| ());
            if let Some(session) = self.sessions.get_mut(&peer).filter(|session| session.is_dead(now, excuse))
            {
                session.alive = now;
                out.event(Event::Dead { peer, conn: session.conn });
                self.with(now, &peer, out, |_, _| ());
            }
        }
        self.found.retain(|_, (_, at)| now.since(*at) <= FOUND_FOR);
    }

    /// When [`Self::handle_timeout`] has something to do.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<Deadline> {
        let (_, peer) = self.due.first()?;
        self.deadlines.get(peer).copied()
    }

    /// The way the session with `peer` travels, unless it has lost it.
    #[must_use]
    pub fn current(&self, peer: &NodeId) -> Option<Route> {
        self.sessions.get(peer)?.current
    }

    /// What is known of the way that the session with `peer` travels.
    #[must_use]
    pub fn view(&self, now: Time, peer: &NodeId) -> Option<WayView> {
        let session = self.sessions.get(peer)?;
        Some(view(now, session.current_way()?))
    }

    /// How `peer` is doing: its direct way, where there is one or was one that may come back, or else the way
    /// that its session travels.
    #[must_use]
    pub fn health(&self, peer: &NodeId) -> Option<Health> {
        let session = self.sessions.get(peer)?;
        let current = session.current_way();
        let direct = session.ways.iter().filter(|way| way.route.direct().is_some() && way.is_proven());
        let known =
            current.filter(|way| way.route.direct().is_some()).or_else(|| direct.min_by_key(|w| w.health()));
        known.or(current).map(way::Way::health).or(Some(Health::Failed))
    }

    /// What is wrong with the network to `peer`, as far as it has a name.
    #[must_use]
    pub fn issues(&self, peer: &NodeId) -> Vec<Issue> {
        self.sessions.get(peer).map(|session| session.issues().collect()).unwrap_or_default()
    }

    /// Whether no way of the session with `peer` is known to work.
    #[must_use]
    pub fn is_stranded(&self, peer: &NodeId) -> bool {
        self.sessions.get(peer).is_some_and(Session::is_stranded)
    }

    /// Whether there is a session with `peer`, and none of its ways works.
    #[must_use]
    pub fn is_cut_off(&self, now: Time, peer: &NodeId) -> bool {
        self.sessions.get(peer).is_some_and(|session| session.is_cut_off(now))
    }

    /// Whether the session with `peer` travels a way that is well.
    #[must_use]
    pub fn is_well(&self, peer: &NodeId) -> bool {
        self.sessions.get(peer).is_some_and(|session| !session.is_unwell())
    }

    /// What was learned of the NAT's mappings.
    #[must_use]
    pub const fn lifetimes(&self) -> &Lifetimes {
        &self.lifetimes
    }

    /// Whether neither side needs `circuit` any more: both are known to send another way, no change over to it is under
    /// way, and it is not kept for the case that the way in use dies.
    #[must_use]
    pub fn is_spare(&self, now: Time, peer: &NodeId, circuit: CircuitId) -> bool {
        let route = Route::Relayed(circuit);
        self.sessions.get(peer).is_none_or(|session| {
            session.current.is_some_and(|current| current != route)
                && session.theirs.is_some_and(|(theirs, _)| theirs != route)
                && session.offered != Some(circuit)
                && session.lines.is_none_or(|lines| lines.main != route && lines.also != Some(route))
                && !session.is_warm(now)
                && !session.is_unwell()
        })
    }

    /// How many ways are remembered, for bounds.
    #[must_use]
    pub fn ways(&self) -> usize {
        self.sessions.values().map(|session| session.ways.len()).sum()
    }
}

fn view(now: Time, way: &way::Way) -> WayView {
    WayView {
        health: way.health(),
        reason: way.detector.reason(),
        rtt: way.detector.rtt().smoothed(),
        loss: way.detector.loss(now),
    }
}
