//! Which way does a session travel?
//!
//! A session is one connection for its whole life; the ways beneath it come and go. For each session this
//! machine keeps the way its packets are sent on, and the ways being tried.
//!
//! **Proof.** A way is used once it is proven in both directions by the session itself: a [`Ping`](Kind::Ping) on it was
//! answered by a genuine [`Pong`](Kind::Pong). Rendezvous says where it is worth trying, and is not believed: whoever
//! introduced the two knows the key of their checks, and nobody else knows the session's. A ping is sent at once
//! and repeated at [`PAUSES`], or when the peer pings on the same way; then the way is forgotten.
//!
//! **Choice.** Each side decides for the packets it sends. A direct way is better than a relayed one; of two
//! direct ones a proven one replaces the one in use only where it is much nearer; of two circuits the one that was
//! offered last is meant to replace the other. Whoever changes over announces it in pings on the new way
//! (`in_use`), until one is answered. One that never is takes the way down again.
//!
//! **The other side.** A way is accepted before it is pinged, and a genuine ping on a new one before it is answered, so that no packet is lost when
//! the peer changes over. A direct way that the peer pings on is tried from here too. When the peer announces
//! a way of the same kind as the one this side uses, the side with the higher id follows: both are to send on one
//! way, since relays know each neighbour by one address, and two that follow each other would never rest.
//!
//! **Replay.** Every ping has a nonce of its own, and nonces grow. One that was heard before, or is older than
//! [`WINDOW`] others, is answered on ways that are known, and changes nothing: who recorded a ping cannot use it to move a
//! session, nor to make a node ping somebody.
//!
//! **Loss.** When the circuit in use ends, another proven way takes over at once; without one the node is told,
//! so that it looks for another circuit. The first genuine ping on any way then decides.
//!
//! Bounds: [`MAX_WAYS`] ways for each session, [`MAX_FOUND`] addresses found for peers without one, for [`FOUND_FOR`].

#[cfg(test)]
mod tests;

use alloc::collections::BTreeMap;
use alloc::vec::Vec;
use core::net::SocketAddr;
use core::time::Duration;

use crate::bounded::BoundedMap;
use crate::drops::DropReason;
use crate::id::NodeId;
use crate::liveness::wire::Unverified;
use crate::liveness::{Frame, Kind, SessionKey};
use crate::node::ConnId;
use crate::outbox::Outbox;
use crate::route::{CircuitId, Route};
use crate::time::{Deadline, Time};

/// Ways remembered for one session. Two families, a local network and a spare of each, and two circuits;
/// beyond that the oldest that is not in use is forgotten.
pub const MAX_WAYS: usize = 8;

/// Addresses kept for peers that there is no session with yet.
pub const MAX_FOUND: usize = 256;

/// How long such an address is kept. A session over a relay takes a few round trips to open.
pub const FOUND_FOR: Duration = Duration::from_secs(10);

/// Between the pings on one way. Loss comes in bursts of up to half a second, and the first tries may all fall into a few
/// of them: seven span over twelve seconds.
pub const PAUSES: [Duration; 7] = [
    Duration::from_millis(100),
    Duration::from_millis(200),
    Duration::from_millis(400),
    Duration::from_millis(800),
    Duration::from_millis(1600),
    Duration::from_millis(3200),
    Duration::from_millis(6400),
];

/// Nonces before the highest one that may still come: pings on several ways overtake each other.
pub const WINDOW: u64 = 63;

/// A ping is repeated at once when the peer pings on the same way, unless it is younger than this.
const ON_OCCASION: Duration = Duration::from_millis(10);

/// A direct way replaces another direct one only if it saves more than this: changing over costs a burst of
/// acknowledgements, and measurements of one way differ by milliseconds.
const WORTHWHILE: Duration = Duration::from_millis(5);

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
    /// The session with `peer` has no way left.
    Stranded {
        /// With whom.
        peer: NodeId,
    },
}

/// A question that waits for its answer.
#[derive(Clone, Copy, Debug)]
struct Asked {
    /// The copies sent: nonce and time.
    copies: [Option<(u64, Time)>; PAUSES.len()],
    due: Time,
}

impl Asked {
    fn tries(&self) -> usize {
        self.copies.iter().flatten().count()
    }

    fn last(&self) -> Option<Time> {
        self.copies.iter().flatten().map(|(_, at)| *at).max()
    }

    fn sent(&self, nonce: u64) -> Option<Time> {
        self.copies.iter().flatten().find(|(copy, _)| *copy == nonce).map(|(_, at)| *at)
    }
}

/// Which nonces of the peer's have been heard: the highest one, and which of the [`WINDOW`] before it.
#[derive(Clone, Copy, Debug, Default)]
struct Window {
    highest: u64,
    seen: u64,
}

impl Window {
    /// Whether `nonce` is heard for the first time. Notes it.
    fn is_fresh(&mut self, nonce: u64) -> bool {
        if nonce > self.highest {
            let shift = u32::try_from(nonce - self.highest).unwrap_or(u32::MAX);
            self.seen = self.seen.checked_shl(shift).unwrap_or(0) | 1;
            self.highest = nonce;
            return true;
        }
        let bit = 1u64.checked_shl(u32::try_from(self.highest - nonce).unwrap_or(u32::MAX)).unwrap_or(0);
        let fresh = bit != 0 && self.seen & bit == 0;
        self.seen |= bit;
        fresh
    }
}

#[derive(Clone, Copy, Debug)]
struct Way {
    route: Route,
    asked: Option<Asked>,
    /// The round-trip time, once proven in both directions.
    proven: Option<Duration>,
    /// Whether the outside was told that packets on it are the session's.
    accepted: bool,
    /// When it became known, for choosing what to forget.
    since: Time,
}

#[derive(Debug)]
struct Session {
    conn: ConnId,
    key: SessionKey,
    current: Option<Route>,
    /// The circuit that was offered last: meant to replace the one in use.
    offered: Option<CircuitId>,
    /// What the peer said last about the way it sends on.
    theirs: Option<Route>,
    /// The last nonce used.
    nonce: u64,
    heard: Window,
    ways: Vec<Way>,
}

/// The ways of all sessions of one node.
#[derive(Debug)]
pub struct Paths {
    me: NodeId,
    sessions: BTreeMap<NodeId, Session>,
    by_hint: BTreeMap<u64, NodeId>,
    found: BoundedMap<NodeId, (SocketAddr, Time)>,
}

impl Paths {
    /// The machine of the node `me`.
    #[must_use]
    pub fn new(me: NodeId) -> Self {
        Self { me, sessions: BTreeMap::new(), by_hint: BTreeMap::new(), found: BoundedMap::new(MAX_FOUND) }
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
        self.by_hint.insert(key.hint(), peer);
        // The handshake passed both ways over it.
        let first = Way { route, asked: None, proven: Some(Duration::MAX), accepted: true, since: now };
        self.sessions.insert(
            peer,
            Session {
                conn,
                key,
                current: Some(route),
                offered: None,
                theirs: Some(route),
                nonce: 0,
                heard: Window::default(),
                ways: Vec::from([first]),
            },
        );
        let found = self.found.remove(&peer).filter(|(_, at)| now.since(*at) <= FOUND_FOR);
        if let Some((addr, _)) = found.filter(|_| route.direct().is_none()) {
            self.try_route(now, peer, Route::Direct(addr), out);
        }
    }

    /// There is no session with `peer` any more.
    pub fn session_down(&mut self, peer: &NodeId) {
        if let Some(session) = self.sessions.remove(peer) {
            self.by_hint.remove(&session.key.hint());
        }
    }

    /// `peer` may be reached at `addr`. Tried at once in its session, or kept until there is one.
    pub fn found(&mut self, now: Time, peer: NodeId, addr: SocketAddr, out: &mut Outbox<Event>) {
        if self.sessions.contains_key(&peer) {
            self.try_route(now, peer, Route::Direct(addr), out);
        } else {
            self.found.insert(peer, (addr, now));
        }
    }

    /// Where `peer` was found lately, while there is no session with it.
    #[must_use]
    pub fn found_at(&self, now: Time, peer: &NodeId) -> Option<SocketAddr> {
        self.found.get(peer).filter(|(_, at)| now.since(*at) <= FOUND_FOR).map(|(addr, _)| *addr)
    }

    /// A circuit to `peer` that this node opened for its session: it is to replace the one in use.
    pub fn offer(&mut self, now: Time, peer: NodeId, circuit: CircuitId, out: &mut Outbox<Event>) {
        if let Some(session) = self.sessions.get_mut(&peer) {
            session.offered = Some(circuit);
            self.try_route(now, peer, Route::Relayed(circuit), out);
        }
    }

    /// `circuit` has ended.
    pub fn circuit_down(&mut self, now: Time, circuit: CircuitId, out: &mut Outbox<Event>) {
        self.lost(now, Route::Relayed(circuit), out);
    }

    fn lost(&mut self, now: Time, route: Route, out: &mut Outbox<Event>) {
        let users: Vec<NodeId> =
            self.sessions.iter().filter(|(_, s)| s.has(route)).map(|(id, _)| *id).collect();
        for peer in users {
            let Some(session) = self.sessions.get_mut(&peer) else { continue };
            session.ways.retain(|way| way.route != route);
            if session.current != Some(route) {
                continue;
            }
            session.current = None;
            match session.best() {
                Some((best, rtt)) => self.move_to(now, peer, best, rtt, out),
                None => out.event(Event::Stranded { peer }),
            }
        }
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
        match frame.kind {
            Kind::Ping => self.pinged(now, peer, route, frame, out),
            Kind::Pong => self.ponged(now, peer, route, frame, out),
        }
    }

    fn pinged(&mut self, now: Time, peer: NodeId, route: Route, ping: Frame, out: &mut Outbox<Event>) {
        let leads = self.me < peer;
        let Some(session) = self.sessions.get_mut(&peer) else { return };
        if !session.heard.is_fresh(ping.nonce) {
            if session.has(route) {
                session.answer(route, ping, &self.me, out);
            }
            return out.drop(DropReason::UnknownTransaction);
        }
        if ping.in_use {
            session.theirs = Some(route);
        }
        let known = session.has(route);
        let in_use = session.current == Some(route);
        session.remember(now, route);
        session.accept(peer, route, out);
        session.answer(route, ping, &self.me, out);
        let same_kind = session.current.is_some_and(|c| c.circuit().is_some() == route.circuit().is_some());
        let follows = ping.in_use && same_kind && !in_use && !leads;
        if session.current.is_none() || follows {
            self.move_to(now, peer, route, Duration::MAX, out);
        } else if !known {
            self.try_route(now, peer, route, out);
        } else if session.waits(now, route) {
            // The peer may not have known the session yet when it was asked.
            session.repeat(now, route, &self.me, out);
        }
    }

    fn ponged(&mut self, now: Time, peer: NodeId, route: Route, pong: Frame, out: &mut Outbox<Event>) {
        let Some(session) = self.sessions.get_mut(&peer) else { return };
        let way = session.ways.iter_mut().find(|way| way.route == route);
        let sent = way.as_ref().and_then(|way| way.asked?.sent(pong.nonce));
        let (Some(way), Some(sent)) = (way, sent) else {
            return out.drop(DropReason::UnknownTransaction);
        };
        way.asked = None;
        let rtt = now - sent;
        way.proven = Some(rtt);
        if pong.in_use {
            session.theirs = Some(route);
        }
        if session.prefers(route, rtt) {
            self.move_to(now, peer, route, rtt, out);
        }
    }

    /// Sends the session's packets over `route` from now on, and announces it.
    fn move_to(&mut self, now: Time, peer: NodeId, route: Route, rtt: Duration, out: &mut Outbox<Event>) {
        let Some(session) = self.sessions.get_mut(&peer) else { return };
        session.current = Some(route);
        // Whatever was offered is in use now, or has come too late.
        session.offered = None;
        out.event(Event::Moved { peer, conn: session.conn, route, rtt });
        self.ask(now, peer, route, out);
    }

    /// Asks on `route` unless that is being done, or the route is in use.
    fn try_route(&mut self, now: Time, peer: NodeId, route: Route, out: &mut Outbox<Event>) {
        let Some(session) = self.sessions.get_mut(&peer) else { return };
        session.remember(now, route);
        // The peer may change over as soon as it hears the ping.
        session.accept(peer, route, out);
        let idle = session.way(route).is_some_and(|way| way.asked.is_none());
        if idle && session.current != Some(route) {
            self.ask(now, peer, route, out);
        }
    }

    fn ask(&mut self, now: Time, peer: NodeId, route: Route, out: &mut Outbox<Event>) {
        let Some(session) = self.sessions.get_mut(&peer) else { return };
        let asked = Asked { copies: [None; PAUSES.len()], due: now };
        if let Some(way) = session.ways.iter_mut().find(|way| way.route == route) {
            way.asked = Some(asked);
        }
        session.repeat(now, route, &self.me, out);
    }

    /// Repeats what was not answered, and gives up what never is.
    pub fn handle_timeout(&mut self, now: Time, out: &mut Outbox<Event>) {
        let mut dead = Vec::new();
        for session in self.sessions.values_mut() {
            for route in session.due(now) {
                if session.repeat(now, route, &self.me, out) {
                    dead.push(route);
                }
            }
        }
        dead.into_iter().for_each(|route| self.lost(now, route, out));
        self.found.retain(|_, (_, at)| now.since(*at) <= FOUND_FOR);
    }

    /// When [`Self::handle_timeout`] has something to do.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<Deadline> {
        let ways = self.sessions.values().flat_map(|session| &session.ways);
        let due = ways.filter_map(|way| way.asked).map(|asked| asked.due).min();
        due.map(|at| Deadline::new(at, "ping again on a way that is being tried"))
    }

    /// The way the session with `peer` travels, unless it has lost it.
    #[must_use]
    pub fn current(&self, peer: &NodeId) -> Option<Route> {
        self.sessions.get(peer)?.current
    }

    /// Whether neither side needs `circuit` any more: both are known to send another way, and no change over
    /// to it is under way.
    #[must_use]
    pub fn is_spare(&self, peer: &NodeId, circuit: CircuitId) -> bool {
        let route = Route::Relayed(circuit);
        self.sessions.get(peer).is_none_or(|session| {
            session.current.is_some_and(|current| current != route)
                && session.theirs.is_some_and(|theirs| theirs != route)
                && session.offered != Some(circuit)
        })
    }

    /// How many ways are remembered, for bounds.
    #[must_use]
    pub fn ways(&self) -> usize {
        self.sessions.values().map(|session| session.ways.len()).sum()
    }
}

impl Session {
    fn way(&self, route: Route) -> Option<&Way> {
        self.ways.iter().find(|way| way.route == route)
    }

    fn has(&self, route: Route) -> bool {
        self.way(route).is_some()
    }

    fn remember(&mut self, now: Time, route: Route) {
        if self.has(route) {
            return;
        }
        if self.ways.len() >= MAX_WAYS {
            let spare = |way: &&Way| Some(way.route) != self.current;
            let oldest = self.ways.iter().filter(spare).min_by_key(|way| way.since).map(|way| way.route);
            self.ways.retain(|way| Some(way.route) != oldest);
        }
        self.ways.push(Way { route, asked: None, proven: None, accepted: false, since: now });
    }

    /// Tells the outside, once, that packets on a remembered way are the session's.
    fn accept(&mut self, peer: NodeId, route: Route, out: &mut Outbox<Event>) {
        let conn = self.conn;
        if let Some(way) = self.ways.iter_mut().find(|way| way.route == route && !way.accepted) {
            way.accepted = true;
            out.event(Event::Accept { peer, conn, route });
        }
    }

    /// The best proven way.
    fn best(&self) -> Option<(Route, Duration)> {
        let proven = self.ways.iter().filter_map(|way| Some((way.route, way.proven?)));
        proven.min_by_key(|(route, rtt)| (route.circuit().is_some(), *rtt))
    }

    /// Whether `route`, proven now with `rtt`, is to replace the way in use.
    fn prefers(&self, route: Route, rtt: Duration) -> bool {
        let Some(current) = self.current else { return true };
        if current == route {
            return false;
        }
        match (current, route) {
            (Route::Relayed(_), Route::Direct(_)) => true,
            (Route::Direct(_), Route::Relayed(_)) => false,
            (Route::Relayed(_), Route::Relayed(circuit)) => self.offered == Some(circuit),
            (Route::Direct(_), Route::Direct(_)) => {
                let known = self.way(current).and_then(|way| way.proven);
                known.is_some_and(|known| known != Duration::MAX && rtt + WORTHWHILE < known)
            }
        }
    }

    /// Whether a question on `route` has waited for long enough to be asked again on occasion.
    fn waits(&self, now: Time, route: Route) -> bool {
        let asked = self.way(route).and_then(|way| way.asked);
        asked.is_some_and(|asked| {
            asked.tries() < PAUSES.len() && asked.last().is_none_or(|last| now.since(last) >= ON_OCCASION)
        })
    }

    fn due(&self, now: Time) -> Vec<Route> {
        let due = self.ways.iter().filter(|way| way.asked.is_some_and(|asked| asked.due <= now));
        due.map(|way| way.route).collect()
    }

    /// Sends the next copy of the question on `route`; after the last one the way is forgotten. True if it was in
    /// use and nobody answers there.
    fn repeat(&mut self, now: Time, route: Route, me: &NodeId, out: &mut Outbox<Event>) -> bool {
        let in_use = self.current == Some(route);
        let Some(way) = self.ways.iter_mut().find(|way| way.route == route) else { return false };
        let Some(asked) = &mut way.asked else { return false };
        let tries = asked.tries();
        let (Some(pause), Some(copy)) = (PAUSES.get(tries), asked.copies.get_mut(tries)) else {
            way.asked = None;
            if self.offered.map(Route::Relayed) == Some(route) {
                self.offered = None;
            }
            if !in_use {
                self.ways.retain(|way| way.route != route);
            }
            return in_use;
        };
        self.nonce += 1;
        (*copy, asked.due) = (Some((self.nonce, now)), now + *pause);
        let ping = Frame { kind: Kind::Ping, in_use, nonce: self.nonce };
        out.event(Event::Frame { route, bytes: ping.encode(&self.key, me) });
        false
    }

    fn answer(&self, route: Route, ping: Frame, me: &NodeId, out: &mut Outbox<Event>) {
        let pong = Frame { kind: Kind::Pong, in_use: self.current == Some(route), nonce: ping.nonce };
        out.event(Event::Frame { route, bytes: pong.encode(&self.key, me) });
    }
}
