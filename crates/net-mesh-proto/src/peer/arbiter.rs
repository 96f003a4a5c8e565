//! Which of the connections to a peer is the session?
//!
//! Two nodes that want each other may both dial, and both dials may succeed. **The node with the lower id
//! decides.** Both sides greet on every new connection ([`Hello`]); the lower node sends [`Adopt`] on the
//! one it chooses, and the higher node uses a connection only once it has been adopted.
//!
//! The lower node adopts at once when it has no session with the peer. When it has one, it waits for the
//! greeting on the new connection, and replaces the old one if the peer has restarted since, or if the
//! peer says it has no session although the old one was adopted more than [`SETTLED`] ago (it died for
//! the peer, and not yet for us); otherwise the new connection is a duplicate and is closed. The higher
//! node follows the latest adoption, and falls back to an earlier one while that still lives.
//!
//! When the session's connection ends and another is there, that one takes over; only when none can is the
//! session down. Everything that waits has a limit: a greeting [`HELLO_TIMEOUT`], a decision
//! [`DECISION_TIMEOUT`]; a peer has at most [`MAX_CONNECTIONS`], and of more the longest undecided one goes.

use alloc::collections::{BTreeMap, BTreeSet};
use alloc::vec::Vec;
use core::time::Duration;

use super::wire::{Adopt, Hello, PROTOCOL_VERSION};
use crate::drops::DropReason;
use crate::id::NodeId;
use crate::node::{ConnId, Direction};
use crate::outbox::Outbox;
use crate::route::Route;
use crate::time::{Deadline, Time};

/// Live connections to one peer. Two come from a simultaneous dial, a third from a restart in the middle
/// of it; one is spare.
pub const MAX_CONNECTIONS: usize = 4;

/// Peers with a connection. Every one of them is a member, so the members' bound is the natural one.
pub const MAX_PEERS: usize = crate::membership::MAX_MEMBERS;

/// How old an adoption must be before a peer that claims to have no session is believed. Within this time
/// the claim may have crossed the adoption on the way: three round trips of a second with a loss.
pub const SETTLED: Duration = Duration::from_secs(5);

/// How long the lower node waits for the greeting on a second connection. It is the first thing a peer
/// sends, so a live connection has it after a round trip.
pub const HELLO_TIMEOUT: Duration = Duration::from_secs(5);

/// How long the higher node waits for a decision on a connection. Longer than what the lower node may
/// wait, with slow round trips on top, so that both do not close different ones.
pub const DECISION_TIMEOUT: Duration = Duration::from_secs(15);

/// What the arbiter tells the node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// Greet on a connection.
    Hello(ConnId, Hello),
    /// Tell the peer that a connection is the session.
    Adopt(ConnId, Adopt),
    /// Close a connection.
    Close(ConnId),
    /// `peer` is now reached over this connection, in place of any earlier one.
    Up {
        /// Whom.
        peer: NodeId,
        /// Over which.
        conn: ConnId,
        /// Whether there was a session before, over another connection.
        replaced: bool,
    },
    /// There is no session with this peer any more.
    Down(NodeId),
}

/// A session, as it is now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Session {
    /// With whom.
    pub peer: NodeId,
    /// Over which connection.
    pub conn: ConnId,
    /// Who opened that.
    pub direction: Direction,
    /// The way its packets travel.
    pub route: Route,
    /// Its smoothed round-trip time.
    pub rtt: Duration,
    /// Since when this connection is the session.
    pub since: Time,
}

#[derive(Clone, Debug)]
struct Connection {
    id: ConnId,
    direction: Direction,
    route: Route,
    rtt: Duration,
    opened: Time,
    hello: Option<Hello>,
    /// The adoption sent (by the lower node) or received (by the higher).
    adopted: Option<u64>,
}

/// All that is known of the connections to one peer.
#[derive(Debug, Default)]
struct Remote {
    connections: Vec<Connection>,
    current: Option<(ConnId, Time)>,
    adoptions: u64,
    wake: Option<Time>,
}

/// What the lower node does with a connection beside the current one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Judgement {
    Wait(Time),
    Replace,
    Close,
}

/// The arbitration machine of one node.
#[derive(Debug)]
pub struct Arbiter {
    me: NodeId,
    boot: u64,
    remotes: BTreeMap<NodeId, Remote>,
    owners: BTreeMap<ConnId, NodeId>,
    /// The peers with something undecided.
    undecided: BTreeSet<NodeId>,
}

impl Arbiter {
    /// A machine for the node `me` in its run `boot`.
    #[must_use]
    pub const fn new(me: NodeId, boot: u64) -> Self {
        Self { me, boot, remotes: BTreeMap::new(), owners: BTreeMap::new(), undecided: BTreeSet::new() }
    }

    /// The peer at the other end of `conn`, while it lives.
    #[must_use]
    pub fn peer_of(&self, conn: ConnId) -> Option<NodeId> {
        self.owners.get(&conn).copied()
    }

    /// Whether `conn` is the session with its peer.
    #[must_use]
    pub fn is_session(&self, conn: ConnId) -> bool {
        let remote = self.peer_of(conn).and_then(|peer| self.remotes.get(&peer));
        remote.is_some_and(|remote| remote.is_current(conn))
    }

    /// Whether there is any connection to `peer`, decided or not.
    #[must_use]
    pub fn is_connected(&self, peer: &NodeId) -> bool {
        self.remotes.contains_key(peer)
    }

    /// How many connections there are, for bounds.
    #[must_use]
    pub fn connections(&self) -> usize {
        self.owners.len()
    }

    /// The session with `peer`.
    #[must_use]
    pub fn session(&self, peer: &NodeId) -> Option<Session> {
        self.remotes.get(peer)?.session(*peer)
    }

    /// All sessions, by id.
    pub fn sessions(&self) -> impl Iterator<Item = Session> + '_ {
        self.remotes.iter().filter_map(|(peer, remote)| remote.session(*peer))
    }

    /// A connection came up. Its id must be new.
    #[allow(clippy::too_many_arguments, reason = "one call per connection; they are its description")]
    pub fn connected(
        &mut self,
        now: Time,
        id: ConnId,
        peer: NodeId,
        direction: Direction,
        route: Route,
        rtt: Duration,
        out: &mut Outbox<Event>,
    ) {
        let crowded = self.remotes.len() >= MAX_PEERS && !self.remotes.contains_key(&peer);
        if peer == self.me || crowded || self.owners.contains_key(&id) {
            out.drop(if crowded { DropReason::TableFull } else { DropReason::StaleConnection });
            if !self.owners.contains_key(&id) {
                out.event(Event::Close(id));
            }
            return;
        }
        let remote = self.remotes.entry(peer).or_default();
        if remote.connections.len() >= MAX_CONNECTIONS
            && let Some(victim) = remote.longest_undecided()
        {
            remote.forget(victim);
            self.owners.remove(&victim);
            out.event(Event::Close(victim));
        }
        let has_session = remote.current.is_some();
        remote.connections.push(Connection {
            id,
            direction,
            route,
            rtt,
            opened: now,
            hello: None,
            adopted: None,
        });
        self.owners.insert(id, peer);
        out.event(Event::Hello(id, Hello { version: PROTOCOL_VERSION, boot: self.boot, has_session }));
        self.decide(now, peer, out);
    }

    /// The peer greeted on `conn`.
    pub fn handle_hello(&mut self, now: Time, conn: ConnId, hello: Hello, out: &mut Outbox<Event>) {
        let Some((peer, connection)) = self.connection_mut(conn) else {
            return out.drop(DropReason::StaleConnection);
        };
        // The first one counts: a peer that changes its mind opens another connection.
        connection.hello.get_or_insert(hello);
        self.decide(now, peer, out);
    }

    /// The peer adopted `conn`.
    pub fn handle_adopt(&mut self, now: Time, conn: ConnId, adopt: Adopt, out: &mut Outbox<Event>) {
        let me = self.me;
        let Some((peer, connection)) = self.connection_mut(conn).filter(|(peer, _)| *peer < me) else {
            return out.drop(DropReason::StaleConnection);
        };
        connection.adopted = Some(adopt.count);
        self.decide(now, peer, out);
    }

    /// `conn` has ended.
    pub fn closed(&mut self, now: Time, conn: ConnId, out: &mut Outbox<Event>) {
        if let Some(peer) = self.owners.remove(&conn) {
            if let Some(remote) = self.remotes.get_mut(&peer) {
                remote.connections.retain(|c| c.id != conn);
            }
            self.decide(now, peer, out);
        }
    }

    /// The round-trip time of `conn` was measured.
    pub fn set_rtt(&mut self, conn: ConnId, rtt: Duration) {
        if let Some((_, connection)) = self.connection_mut(conn) {
            connection.rtt = rtt;
        }
    }

    /// `conn` travels another way now.
    pub fn set_route(&mut self, conn: ConnId, route: Route) {
        if let Some((_, connection)) = self.connection_mut(conn) {
            connection.route = route;
        }
    }

    /// Decides what can no longer wait.
    pub fn handle_timeout(&mut self, now: Time, out: &mut Outbox<Event>) {
        let due = |peer: &&NodeId| {
            self.remotes.get(*peer).is_some_and(|remote| remote.wake.is_some_and(|at| at <= now))
        };
        for peer in self.undecided.iter().filter(due).copied().collect::<Vec<_>>() {
            self.decide(now, peer, out);
        }
    }

    /// When [`Self::handle_timeout`] has something to do.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<Deadline> {
        let wakes = self.undecided.iter().filter_map(|peer| self.remotes.get(peer)?.wake);
        wakes.min().map(|at| Deadline::new(at, "decide about a second connection"))
    }

    fn connection_mut(&mut self, conn: ConnId) -> Option<(NodeId, &mut Connection)> {
        let peer = *self.owners.get(&conn)?;
        let connection = self.remotes.get_mut(&peer)?.connections.iter_mut().find(|c| c.id == conn)?;
        Some((peer, connection))
    }

    /// Brings one peer's connections in order after anything about them changed.
    fn decide(&mut self, now: Time, peer: NodeId, out: &mut Outbox<Event>) {
        let Some(remote) = self.remotes.get_mut(&peer) else { return };
        let before = remote.current.map(|(conn, _)| conn);
        if remote.current.is_some_and(|(conn, _)| remote.connection(conn).is_none()) {
            remote.current = None;
        }
        remote.wake = None;
        let closed = if self.me < peer { remote.arbitrate(now, out) } else { remote.follow(now) };
        let after = remote.current.map(|(conn, _)| conn);
        match after {
            Some(conn) if before != after => {
                out.event(Event::Up { peer, conn, replaced: before.is_some() });
            }
            None if before.is_some() => out.event(Event::Down(peer)),
            Some(_) | None => {}
        }
        for conn in closed {
            self.owners.remove(&conn);
            out.event(Event::Close(conn));
        }
        if remote.wake.is_some() {
            self.undecided.insert(peer);
        } else {
            self.undecided.remove(&peer);
        }
        if remote.connections.is_empty() {
            self.remotes.remove(&peer);
        }
    }
}

impl Remote {
    fn connection(&self, conn: ConnId) -> Option<&Connection> {
        self.connections.iter().find(|c| c.id == conn)
    }

    fn is_current(&self, conn: ConnId) -> bool {
        self.current.is_some_and(|(current, _)| current == conn)
    }

    fn session(&self, peer: NodeId) -> Option<Session> {
        let (conn, since) = self.current?;
        let Connection { direction, route, rtt, .. } = *self.connection(conn)?;
        Some(Session { peer, conn, direction, route, rtt, since })
    }

    fn longest_undecided(&self) -> Option<ConnId> {
        let spare = self.connections.iter().filter(|c| !self.is_current(c.id));
        spare.min_by_key(|c| (c.adopted.is_some(), c.opened, c.id)).map(|c| c.id)
    }

    fn forget(&mut self, conn: ConnId) {
        self.connections.retain(|c| c.id != conn);
    }

    fn wake_at(&mut self, at: Time) {
        self.wake = Some(self.wake.map_or(at, |wake| wake.min(at)));
    }

    /// The lower node's part. Returns the connections to close.
    fn arbitrate(&mut self, now: Time, out: &mut Outbox<Event>) -> Vec<ConnId> {
        if self.current.is_none() {
            // A greeting proves that the connection carries; among those that do, the latest has most of
            // its life before it.
            let best = self.connections.iter().max_by_key(|c| (c.hello.is_some(), c.opened, c.id));
            if let Some(conn) = best.map(|c| c.id) {
                self.adopt(now, conn, out);
            }
        }
        let mut closed = Vec::new();
        while let Some((conn, judgement)) = self.next_judgement(now) {
            match judgement {
                Judgement::Replace => {
                    let old = self.current.map(|(old, _)| old);
                    self.adopt(now, conn, out);
                    closed.extend(old);
                    self.connections.retain(|c| Some(c.id) != old);
                }
                Judgement::Close => {
                    closed.push(conn);
                    self.forget(conn);
                }
                Judgement::Wait(_) => {}
            }
        }
        closed
    }

    fn adopt(&mut self, now: Time, conn: ConnId, out: &mut Outbox<Event>) {
        self.adoptions += 1;
        let count = self.adoptions;
        if let Some(connection) = self.connections.iter_mut().find(|c| c.id == conn) {
            connection.adopted = Some(count);
            self.current = Some((conn, now));
            out.event(Event::Adopt(conn, Adopt { count }));
        }
    }

    /// The next connection something is to be done with now; sets the alarm for those that must wait.
    fn next_judgement(&mut self, now: Time) -> Option<(ConnId, Judgement)> {
        self.wake = None;
        let (current, adopted_at) = self.current?;
        let greeted = self.connection(current)?.hello;
        let judged: Vec<_> = self
            .connections
            .iter()
            .filter(|c| c.id != current)
            .map(|c| (c.id, judge(now, greeted, adopted_at, c)))
            .collect();
        for (_, judgement) in &judged {
            if let Judgement::Wait(until) = judgement {
                self.wake_at(*until);
            }
        }
        judged.into_iter().find(|(_, judgement)| !matches!(judgement, Judgement::Wait(_)))
    }

    /// The higher node's part. Returns the connections to close.
    fn follow(&mut self, now: Time) -> Vec<ConnId> {
        let best = self.connections.iter().filter(|c| c.adopted.is_some()).reduce(later_adoption);
        match (best.map(|c| c.id), self.current) {
            (Some(conn), Some((current, _))) if conn == current => {}
            (Some(conn), _) => self.current = Some((conn, now)),
            (None, _) => {}
        }
        let patience = self.current.map_or(Time::ZERO, |(_, since)| since + DECISION_TIMEOUT);
        let mut closed = Vec::new();
        for connection in
            self.connections.iter().filter(|c| !self.is_current(c.id)).cloned().collect::<Vec<_>>()
        {
            let until = patience.max(connection.opened + DECISION_TIMEOUT);
            if until <= now {
                self.forget(connection.id);
                closed.push(connection.id);
            } else {
                self.wake_at(until);
            }
        }
        closed
    }
}

/// Of two adopted connections, the one that was adopted last. Counts are comparable within one run of the
/// arbiter; of two runs the one that came up later is right, whatever its clock made of its boot number.
fn later_adoption<'a>(a: &'a Connection, b: &'a Connection) -> &'a Connection {
    let same_run = a.hello.map(|h| h.boot) == b.hello.map(|h| h.boot);
    let later = if same_run { b.adopted > a.adopted } else { (b.opened, b.id) > (a.opened, a.id) };
    if later { b } else { a }
}

/// What to do with `other`, given the current connection's greeting and when it was adopted.
fn judge(now: Time, greeted: Option<Hello>, adopted_at: Time, other: &Connection) -> Judgement {
    let Some(hello) = other.hello else {
        let until = other.opened + HELLO_TIMEOUT;
        return if until <= now { Judgement::Close } else { Judgement::Wait(until) };
    };
    let settled_at = adopted_at + SETTLED;
    match greeted {
        Some(current) if hello.boot > current.boot => Judgement::Replace,
        Some(_) if hello.has_session || settled_at > now => Judgement::Close,
        // An adopted connection without a greeting for so long carries nothing.
        Some(_) | None if settled_at <= now => Judgement::Replace,
        Some(_) | None => Judgement::Wait(settled_at),
    }
}
