//! A connection between two simulated nodes once it is up: control messages in order, whatever is lost.
//!
//! The opener starts with a message of its own that proves the path to the other side. A message is cut into
//! chunks; each is sent again when no acknowledgement came for a while, with the pause doubling up to a second.
//! Chunks in flight are bounded by [`WINDOW`]; what waits is bounded by what the node says.
//!
//! Packets travel over one route, and over a second one besides while the node says so; they are taken from any
//! route that was accepted: what QUIC does on top of the mesh's socket. A change of route is followed by a ping,
//! which measures the new one. If what was sent before may be lost, all that was not acknowledged goes again at once,
//! and so does the last acknowledgement: the socket's replay and its kick.
//!
//! Liveness is the node's: a connection lasts until the node closes it, and is silent when there is nothing to say.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use net_mesh_proto::id::NodeId;
use net_mesh_proto::node::Switch;
use net_mesh_proto::route::Route;
use net_mesh_proto::time::Time;

use super::packet::{Body, CHUNK, Packet};

/// Chunks in flight.
const WINDOW: usize = 64;

/// Routes that packets are taken from, at most; the oldest that is not sent on goes first.
const MAX_ROUTES: usize = 8;

/// Between two measurements of a connection that is used.
const MEASURE: Duration = Duration::from_secs(1);

/// The longest pause before a chunk is sent again.
const MAX_PAUSE: Duration = Duration::from_secs(1);

#[derive(Debug)]
struct Chunk {
    seq: u64,
    last: bool,
    bytes: Vec<u8>,
    sent: Time,
    tries: u32,
}

impl Chunk {
    fn body(&self) -> Body {
        Body::Data { seq: self.seq, last: self.last, chunk: self.bytes.clone() }
    }
}

/// What a connection tells its node.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Heard {
    /// A control message.
    Message(Vec<u8>),
    /// A message of the application's.
    Payload(Vec<u8>),
    Rtt(Duration),
}

/// Whose a message is; its first byte on the wire.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum Owner {
    Node = 0,
    Application = 1,
}

/// A way that packets are taken from.
#[derive(Clone, Copy, Debug)]
struct Accepted {
    route: Route,
    /// The peer was heard there, or hears this side there.
    proven: bool,
}

#[derive(Debug)]
pub(crate) struct Conn {
    pub(crate) key: u64,
    pub(crate) opener: bool,
    pub(crate) peer: NodeId,
    /// The way its packets go.
    pub(crate) route: Route,
    /// The way a copy of each goes.
    pub(crate) also: Option<Route>,
    /// The ways its packets come, oldest first.
    accepted: Vec<Accepted>,
    pub(crate) rtt: Duration,
    /// When its timer goes off next: the driver's note.
    pub(crate) armed: Option<Time>,
    /// When the node was last told that the application uses it: the driver's note.
    pub(crate) told: Option<Time>,
    next_seq: u64,
    waiting: VecDeque<Chunk>,
    flying: VecDeque<Chunk>,
    /// When the first of those is sent again, or a little before: as of the last poll.
    again: Option<Time>,
    next_in: u64,
    early: BTreeMap<u64, (bool, Vec<u8>)>,
    partial: Vec<u8>,
    /// The opener's first message ends the handshake and is not the node's.
    finishing: bool,
    pinged: Option<Time>,
    measured: Time,
    /// The round-trip time is that of another route.
    stale: bool,
}

impl Conn {
    pub(crate) fn new(now: Time, key: u64, opener: bool, peer: NodeId, route: Route, rtt: Duration) -> Self {
        let mut conn = Self {
            key,
            opener,
            peer,
            route,
            also: None,
            accepted: vec![Accepted { route, proven: true }],
            rtt,
            armed: None,
            told: None,
            next_seq: 0,
            waiting: VecDeque::new(),
            flying: VecDeque::new(),
            again: None,
            next_in: 0,
            early: BTreeMap::new(),
            partial: Vec::new(),
            finishing: !opener,
            pinged: None,
            measured: now,
            stale: false,
        };
        if opener {
            conn.send(now, Owner::Node, b"finished");
        }
        conn
    }

    /// Takes packets from `route` too. Returns the route that had to make room.
    pub(crate) fn accept(&mut self, route: Route) -> Option<Route> {
        if self.accepts(route) {
            return None;
        }
        let used = |known: &Accepted| known.route == self.route || Some(known.route) == self.also;
        let full = self.accepted.len() >= MAX_ROUTES;
        let oldest = full.then(|| self.accepted.iter().position(|known| !used(known))).flatten();
        let gone = oldest.map(|oldest| self.accepted.remove(oldest).route);
        self.accepted.push(Accepted { route, proven: false });
        gone
    }

    pub(crate) fn accepts(&self, route: Route) -> bool {
        self.accepted.iter().any(|known| known.route == route)
    }

    /// Whether `route` is known to lead to the peer.
    pub(crate) fn owns(&self, route: Route) -> bool {
        self.accepted.iter().any(|known| known.route == route && known.proven)
    }

    /// A packet of the peer's came over `route`.
    pub(crate) fn heard_over(&mut self, route: Route) {
        if let Some(known) = self.accepted.iter_mut().find(|known| known.route == route) {
            known.proven = true;
        }
    }

    /// Sends over `route` from now on, and a copy over `also`; both are accepted already.
    pub(crate) fn set_route(
        &mut self,
        now: Time,
        (route, also): (Route, Option<Route>),
        switch: Switch,
        out: &mut Vec<Packet>,
    ) {
        let moved = self.route != route;
        (self.route, self.also) = (route, also.filter(|also| *also != route));
        self.stale |= moved;
        self.heard_over(route);
        match switch {
            Switch::Keep => {}
            Switch::Planned if !moved => {}
            Switch::Planned => self.ping(now, out),
            Switch::Urgent => {
                self.repeat(now, out);
                self.ping(now, out);
            }
        }
    }

    /// Sends again what is not known to have arrived, and what the peer may not know to have arrived.
    fn repeat(&mut self, now: Time, out: &mut Vec<Packet>) {
        let mut again = Vec::new();
        for chunk in self.flying.iter_mut().filter(|chunk| chunk.tries > 0) {
            (chunk.sent, chunk.tries) = (now, 1);
            again.push(chunk.body());
        }
        again.into_iter().for_each(|body| self.put(body, out));
        self.put(Body::Ack { next: self.next_in, echo: false }, out);
    }

    fn ping(&mut self, now: Time, out: &mut Vec<Packet>) {
        (self.pinged, self.measured) = (Some(now), now);
        self.put(Body::Ping, out);
    }

    /// Queues a message.
    pub(crate) fn send(&mut self, now: Time, owner: Owner, message: &[u8]) {
        let message = [&[owner as u8], message].concat();
        let count = message.len().div_ceil(CHUNK).max(1);
        for i in 0..count {
            let bytes = message[i * CHUNK..message.len().min((i + 1) * CHUNK)].to_vec();
            let last = i + 1 == count;
            self.waiting.push_back(Chunk { seq: self.next_seq, last, bytes, sent: now, tries: 0 });
            self.next_seq += 1;
        }
    }

    /// A packet of the peer's, other than those that open and close.
    pub(crate) fn handle(&mut self, now: Time, body: Body, out: &mut Vec<Packet>) -> Vec<Heard> {
        let mut heard = Vec::new();
        match body {
            Body::Data { seq, last, chunk } => {
                if seq >= self.next_in && seq < self.next_in + WINDOW as u64 {
                    self.early.insert(seq, (last, chunk));
                }
                self.assemble(&mut heard);
                self.put(Body::Ack { next: self.next_in, echo: false }, out);
            }
            Body::Ack { next, echo } => {
                while self.flying.front().is_some_and(|chunk| chunk.seq < next) {
                    self.flying.pop_front();
                }
                if let Some(at) = self.pinged.take_if(|_| echo) {
                    let stale = std::mem::take(&mut self.stale);
                    self.rtt = if stale { now - at } else { (self.rtt * 7 + (now - at)) / 8 };
                    heard.push(Heard::Rtt(self.rtt));
                }
            }
            Body::Ping => self.put(Body::Ack { next: self.next_in, echo: true }, out),
            Body::Hello { .. } | Body::Welcome { .. } | Body::Refuse | Body::Close => {}
        }
        heard
    }

    fn assemble(&mut self, heard: &mut Vec<Heard>) {
        while let Some((last, chunk)) = self.early.remove(&self.next_in) {
            self.next_in += 1;
            self.partial.extend(chunk);
            if last {
                let message = std::mem::take(&mut self.partial);
                if std::mem::take(&mut self.finishing) {
                    continue;
                }
                heard.extend(match message.split_first() {
                    Some((&owner, rest)) if owner == Owner::Application as u8 => {
                        Some(Heard::Payload(rest.to_vec()))
                    }
                    Some((_, rest)) => Some(Heard::Message(rest.to_vec())),
                    None => None,
                });
            }
        }
    }

    /// What is due.
    pub(crate) fn poll(&mut self, now: Time, out: &mut Vec<Packet>) {
        while self.flying.len() < WINDOW {
            let Some(chunk) = self.waiting.pop_front() else { break };
            self.flying.push_back(chunk);
        }
        let mut due = Vec::new();
        let rtt = self.rtt;
        self.again = None;
        for chunk in &mut self.flying {
            let mut again = again_at(chunk, rtt);
            if now >= again {
                (chunk.sent, chunk.tries) = (now, chunk.tries + 1);
                due.push(chunk.body());
                again = again_at(chunk, rtt);
            }
            self.again = Some(self.again.map_or(again, |first| first.min(again)));
        }
        let used = !due.is_empty();
        for body in due {
            self.put(body, out);
        }
        if used && now >= self.measured + MEASURE {
            self.ping(now, out);
        }
    }

    /// When to poll next; true after a poll only.
    pub(crate) fn poll_timeout(&self) -> Option<Time> {
        let waiting = self.waiting.front().filter(|_| self.flying.len() < WINDOW).map(|chunk| chunk.sent);
        [self.again, waiting].into_iter().flatten().min()
    }

    pub(crate) fn packet(&self, body: Body) -> Packet {
        Packet { key: self.key, by_opener: self.opener, body }
    }

    fn put(&self, body: Body, out: &mut Vec<Packet>) {
        out.push(self.packet(body));
    }
}

/// When a chunk is sent (again): at once, then after 1.5 round trips and a bit, doubling.
fn again_at(chunk: &Chunk, rtt: Duration) -> Time {
    if chunk.tries == 0 {
        return chunk.sent;
    }
    let pause = (rtt + rtt / 2 + Duration::from_millis(25)) * (1 << (chunk.tries - 1).min(6));
    chunk.sent + pause.min(MAX_PAUSE)
}

#[cfg(test)]
mod tests {
    use std::net::{IpAddr, Ipv4Addr, SocketAddr};

    use net_mesh_proto::rng::Rng;
    use net_mesh_proto::route::CircuitId;

    use super::*;

    #[test]
    fn messages_arrive_whole_and_in_order_over_a_line_that_loses_a_third_and_reorders() {
        let ms = Duration::from_millis;
        let conn = |opener| {
            let route = Route::Direct("198.18.0.1:1".parse().unwrap());
            Conn::new(Time::ZERO, 1, opener, NodeId([0; 32]), route, ms(40))
        };
        let mut ends = [conn(true), conn(false)];
        let mut rng = Rng::from_u64(1);
        let messages: Vec<Vec<u8>> = [0, 1, 1100, 1101, 200_000, 5].map(|len| vec![len as u8; len]).into();
        for (i, message) in messages.iter().enumerate() {
            let owner = if i % 2 == 0 { Owner::Node } else { Owner::Application };
            ends[0].send(Time::ZERO, owner, message);
        }
        let mut now = Time::ZERO;
        let mut flying: Vec<(Time, usize, Packet)> = Vec::new();
        let mut heard = Vec::new();
        while now < Time::from_millis(60_000) {
            for (side, end) in ends.iter_mut().enumerate() {
                let mut out = Vec::new();
                end.poll(now, &mut out);
                let arrived = flying.extract_if(.., |(at, to, _)| *at <= now && *to == side);
                for (_, _, packet) in arrived.collect::<Vec<_>>() {
                    heard.extend(end.handle(now, packet.body, &mut out));
                }
                out.retain(|_| !rng.chance(0.33));
                flying.extend(out.into_iter().map(|p| (now + ms(10 + rng.below(20)), 1 - side, p)));
            }
            now += ms(1);
        }
        heard.retain(|h| !matches!(h, Heard::Rtt(_)));
        let whole = |(i, message)| if i % 2 == 0 { Heard::Message(message) } else { Heard::Payload(message) };
        assert_eq!(heard, messages.into_iter().enumerate().map(whole).collect::<Vec<_>>());
    }

    #[test]
    fn a_connection_with_nothing_to_say_is_silent() {
        let mut conn = Conn::new(Time::ZERO, 1, false, NodeId([0; 32]), DIRECT, Duration::ZERO);
        let mut out = Vec::new();
        conn.poll(Time::ZERO, &mut out);
        assert_eq!((conn.poll_timeout(), out.len()), (None, 0));
    }

    const DIRECT: Route = Route::Direct(SocketAddr::new(IpAddr::V4(Ipv4Addr::new(198, 18, 0, 1)), 1));
    const CIRCUIT: Route = Route::Relayed(CircuitId(1));

    #[test]
    fn a_planned_change_of_route_is_measured_at_once_and_the_old_route_stays_accepted() {
        let ms = Time::from_millis;
        let mut conn = Conn::new(ms(0), 1, false, NodeId([0; 32]), CIRCUIT, Duration::from_millis(80));
        assert!(!conn.accepts(DIRECT));
        conn.accept(DIRECT);
        assert!(conn.accepts(DIRECT) && !conn.owns(DIRECT), "nothing has come there");
        let mut out = Vec::new();
        conn.set_route(ms(10), (DIRECT, None), Switch::Planned, &mut out);
        conn.set_route(ms(11), (DIRECT, None), Switch::Planned, &mut out);
        assert_eq!(out.iter().filter(|p| p.body == Body::Ping).count(), 1, "told twice, changed once");
        assert!(conn.accepts(DIRECT) && conn.accepts(CIRCUIT));
        let heard = conn.handle(ms(30), Body::Ack { next: 0, echo: true }, &mut out);
        assert_eq!(heard, [Heard::Rtt(Duration::from_millis(20))]);
    }

    #[test]
    fn what_was_not_acknowledged_goes_again_at_once_when_it_may_be_lost_and_only_then() {
        let ms = Time::from_millis;
        let mut conn = Conn::new(ms(0), 1, false, NodeId([0; 32]), DIRECT, Duration::from_millis(40));
        let mut out = Vec::new();
        (0..3).for_each(|n| conn.send(ms(0), Owner::Application, &[n]));
        conn.poll(ms(0), &mut out);
        conn.handle(ms(5), Body::Ack { next: 1, echo: false }, &mut out);
        conn.send(ms(6), Owner::Application, b"waits for its turn");
        conn.accept(CIRCUIT);
        let seqs = |out: &mut Vec<Packet>| {
            let bodies = out.drain(..).map(|packet| packet.body);
            let data =
                bodies.filter_map(|body| if let Body::Data { seq, .. } = body { Some(seq) } else { None });
            data.collect::<Vec<_>>()
        };
        out.clear();
        conn.set_route(ms(7), (CIRCUIT, None), Switch::Planned, &mut out);
        conn.set_route(ms(8), (CIRCUIT, Some(DIRECT)), Switch::Keep, &mut out);
        assert_eq!((seqs(&mut out), conn.also), (vec![], Some(DIRECT)));
        conn.set_route(ms(9), (CIRCUIT, Some(CIRCUIT)), Switch::Urgent, &mut out);
        assert!(out.iter().any(|p| matches!(p.body, Body::Ack { next: 0, .. })), "acknowledgements too");
        assert_eq!((seqs(&mut out), conn.also), (vec![1, 2], None), "no copy goes the same way");
        conn.poll(ms(10), &mut out);
        assert_eq!(seqs(&mut out), [3]);
    }

    #[test]
    fn few_routes_are_accepted_and_those_sent_on_always() {
        let first = Route::Relayed(CircuitId(0));
        let mut conn = Conn::new(Time::ZERO, 1, true, NodeId([0; 32]), first, Duration::ZERO);
        conn.accept(CIRCUIT);
        conn.set_route(Time::ZERO, (first, Some(CIRCUIT)), Switch::Keep, &mut Vec::new());
        let gone: Vec<Route> = (2..20).filter_map(|n| conn.accept(Route::Relayed(CircuitId(n)))).collect();
        assert_eq!(gone, (2..14).map(|n| Route::Relayed(CircuitId(n))).collect::<Vec<_>>());
        assert_eq!(conn.accepted.len(), MAX_ROUTES);
        assert!(conn.accepts(first) && conn.accepts(CIRCUIT) && conn.accepts(Route::Relayed(CircuitId(19))));
    }
}
