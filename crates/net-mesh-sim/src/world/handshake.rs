//! How simulated connections come about.
//!
//! A dial is honest: handshake datagrams go from the main socket over every route, again at
//! [`ATTEMPTS`], for [`DIAL_LIMIT`] at most. Whoever is meant answers along the way they came; the first
//! answer over a route that was asked settles it for the opener, the opener's first data for the other
//! side. So a connection exists only where packets pass both ways through all NATs.

use std::cmp::Reverse;
use std::time::Duration;

use net_mesh_proto::id::NodeId;
use net_mesh_proto::node::{ConnId, DialFailure, DialId, Direction, Input};
use net_mesh_proto::rng::Rng;
use net_mesh_proto::route::Route;
use net_mesh_proto::time::Time;

use super::conn::Conn;
use super::machine::{Machine, Timer};
use super::packet::{Body, Packet};
use crate::internet::Internet;

/// When handshake datagrams are sent, in milliseconds from the start: pauses double, as QUIC's do.
const ATTEMPTS: [u64; 5] = [0, 300, 900, 2100, 4500];

/// When a dial is given up: the next pause of the series would be over at 9.3 s.
const DIAL_LIMIT: Duration = Duration::from_secs(8);

/// Connections asked for by others and not settled, at most. More are not answered.
const MAX_HALF: usize = 1024;

/// How long one of those is kept: longer than a dial lasts.
const HALF_LIMIT: Duration = Duration::from_secs(10);

#[derive(Debug)]
pub(super) struct Dial {
    peer: Option<NodeId>,
    routes: Vec<Route>,
    key: u64,
    started: Time,
    round: usize,
    sent: Time,
    refused: bool,
}

#[derive(Debug)]
pub(super) struct Half {
    from: NodeId,
    at: Time,
}

/// The key that TLS would export, the same on both sides.
fn exported(key: u64) -> [u8; 32] {
    let mut rng = Rng::from_u64(key).fork("exported");
    let mut bytes = [0; 32];
    bytes.chunks_mut(8).for_each(|chunk| chunk.copy_from_slice(&rng.u64().to_le_bytes()));
    bytes
}

impl Machine {
    /// Someone wants a connection.
    pub(super) fn asked(
        &mut self,
        net: &mut Internet,
        now: Time,
        from: Route,
        key: u64,
        (peer, wanted): (NodeId, Option<NodeId>),
    ) {
        let answer = |body| Packet { key, by_opener: false, body };
        if wanted.is_some_and(|id| id != self.id) {
            return self.send(net, now, from, &answer(Body::Refuse));
        }
        if !self.by_key.contains_key(&(key, false)) {
            if self.half.len() >= MAX_HALF {
                self.half.retain(|_, half| now < half.at + HALF_LIMIT);
            }
            if self.half.len() >= MAX_HALF && !self.half.contains_key(&key) {
                return;
            }
            self.half.entry(key).or_insert(Half { from: peer, at: now });
        }
        self.send(net, now, from, &answer(Body::Welcome { from: self.id }));
    }

    /// Someone answered a dial.
    pub(super) fn welcomed(&mut self, net: &mut Internet, now: Time, from: Route, key: u64, peer: NodeId) {
        let found = self.dials.iter().find(|(_, dial)| dial.key == key && dial.routes.contains(&from));
        let Some((id, wanted, sent)) = found.map(|(id, dial)| (*id, dial.peer, dial.sent)) else { return };
        if wanted.is_some_and(|wanted| wanted != peer) {
            return;
        }
        self.dials.remove(&id);
        let rtt = now - sent;
        let conn = Conn::new(now, key, true, peer, from, rtt);
        self.connected(net, now, conn, Some(id));
    }

    /// The opener's first data: the connection is up on this side too.
    pub(super) fn settle(&mut self, net: &mut Internet, now: Time, from: Route, key: u64, body: Body) {
        let Some(half) = self.half.remove(&key) else { return };
        let conn = Conn::new(now, key, false, half.from, from, now - half.at);
        let id = self.connected(net, now, conn, None);
        self.hear(net, now, id, from, body);
    }

    /// Someone else answered a dial.
    pub(super) fn refused(&mut self, from: Route, key: u64) {
        let dial = self.dials.values_mut().find(|dial| dial.key == key && dial.routes.contains(&from));
        if let Some(dial) = dial {
            dial.refused = true;
        }
    }

    fn connected(&mut self, net: &mut Internet, now: Time, conn: Conn, dial: Option<DialId>) -> ConnId {
        let id = ConnId(self.next_conn);
        self.next_conn += 1;
        let direction = if conn.opener { Direction::Outgoing } else { Direction::Incoming };
        let (peer, route, rtt) = (conn.peer, conn.route, conn.rtt);
        let key = exported(conn.key);
        self.by_key.insert((conn.key, conn.opener), id);
        self.conns.insert(id, conn);
        self.poll_conn(net, now, id);
        self.inputs.push_back(Input::Connected { conn: id, peer, direction, dial, route, rtt, key });
        id
    }

    pub(super) fn dial(
        &mut self,
        net: &mut Internet,
        now: Time,
        id: DialId,
        peer: Option<NodeId>,
        mut routes: Vec<Route>,
    ) {
        routes.retain(|route| match route {
            Route::Direct(addr) => self.main_port(addr.is_ipv6()).is_some(),
            Route::Relayed(circuit) => self.labels().out(*circuit).is_some(),
        });
        if routes.is_empty() {
            let failure = DialFailure::Unusable;
            return self.inputs.push_back(Input::DialFailed { dial: id, failure });
        }
        let key = self.rng.u64();
        self.dials.insert(id, Dial { peer, routes, key, started: now, round: 0, sent: now, refused: false });
        self.poll_dial(net, now, id);
    }

    pub(super) fn poll_dial(&mut self, net: &mut Internet, now: Time, id: DialId) {
        let Some(dial) = self.dials.get_mut(&id) else { return };
        if now >= dial.started + DIAL_LIMIT {
            let failure = if dial.refused { DialFailure::Rejected } else { DialFailure::Timeout };
            self.dials.remove(&id);
            return self.inputs.push_back(Input::DialFailed { dial: id, failure });
        }
        dial.round += 1;
        dial.sent = now;
        let next = ATTEMPTS.get(dial.round).map(|ms| dial.started + Duration::from_millis(*ms));
        self.timers.push(Reverse((next.unwrap_or(dial.started + DIAL_LIMIT), Timer::Dial(id))));
        let body = Body::Hello { from: self.id, to: dial.peer };
        let packet = Packet { key: dial.key, by_opener: true, body };
        for to in dial.routes.clone() {
            self.send(net, now, to, &packet);
        }
    }
}
