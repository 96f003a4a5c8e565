//! A connection between two simulated nodes once it is up: control messages in order, whatever is lost.
//!
//! The opener starts with a message of its own that proves the path to the other side. A message is cut into chunks; each is sent again when no acknowledgement came for a while, with the pause
//! doubling up to a second. A ping goes out when nothing was sent for [`KEEP_ALIVE`]. Silence for
//! [`SILENCE`] ends the connection. Chunks in flight are bounded by [`WINDOW`]; what waits is bounded by
//! what the node says.
//!
//! Packets travel over one route, and are taken from any route that was accepted: what QUIC does on top of the
//! mesh's socket. A change of route is followed by a ping, which measures the new one.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use net_mesh_proto::id::NodeId;
use net_mesh_proto::route::Route;
use net_mesh_proto::time::Time;

use super::packet::{Body, CHUNK, Packet};

/// Pause after which an idle connection is pinged: under half of the shortest NAT timeouts that are common.
pub(crate) const KEEP_ALIVE: Duration = Duration::from_secs(10);

/// Silence after which a connection is over: QUIC's idle timeout as the sessions set it.
pub(crate) const SILENCE: Duration = Duration::from_secs(30);

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

#[derive(Debug)]
pub(crate) struct Conn {
    pub(crate) key: u64,
    pub(crate) opener: bool,
    pub(crate) peer: NodeId,
    /// The way its packets go.
    pub(crate) route: Route,
    /// The ways its packets come, oldest first.
    accepted: Vec<Route>,
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
    heard_at: Time,
    sent_at: Time,
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
            accepted: vec![route],
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
            heard_at: now,
            sent_at: now,
            pinged: None,
            measured: now,
            stale: false,
        };
        if opener {
            conn.send(now, Owner::Node, b"finished");
        }
        conn
    }

    /// Takes packets from `route` too.
    pub(crate) fn accept(&mut self, route: Route) {
        if self.accepts(route) {
            return;
        }
        if self.accepted.len() == MAX_ROUTES
            && let Some(oldest) = self.accepted.iter().position(|known| *known != self.route)
        {
            self.accepted.remove(oldest);
        }
        self.accepted.push(route);
    }

    pub(crate) fn accepts(&self, route: Route) -> bool {
        self.accepted.contains(&route)
    }

    /// Sends over `route` from now on.
    pub(crate) fn set_route(&mut self, now: Time, route: Route, out: &mut Vec<Packet>) {
        self.accept(route);
        if self.route != route {
            self.route = route;
            self.stale = true;
            self.ping(now, out);
        }
    }

    fn ping(&mut self, now: Time, out: &mut Vec<Packet>) {
        (self.pinged, self.measured) = (Some(now), now);
        self.put(now, Body::Ping, out);
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
        self.heard_at = now;
        let mut heard = Vec::new();
        match body {
            Body::Data { seq, last, chunk } => {
                if seq >= self.next_in && seq < self.next_in + WINDOW as u64 {
                    self.early.insert(seq, (last, chunk));
                }
                self.assemble(&mut heard);
                self.put(now, Body::Ack { next: self.next_in, echo: false }, out);
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
            Body::Ping => self.put(now, Body::Ack { next: self.next_in, echo: true }, out),
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

    /// What is due. False where the connection is over.
    pub(crate) fn poll(&mut self, now: Time, out: &mut Vec<Packet>) -> bool {
        if now >= self.heard_at + SILENCE {
            return false;
        }
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
                due.push(Body::Data { seq: chunk.seq, last: chunk.last, chunk: chunk.bytes.clone() });
                again = again_at(chunk, rtt);
            }
            self.again = Some(self.again.map_or(again, |first| first.min(again)));
        }
        let used = !due.is_empty();
        for body in due {
            self.put(now, body, out);
        }
        if now >= self.sent_at + KEEP_ALIVE || (used && now >= self.measured + MEASURE) {
            self.ping(now, out);
        }
        true
    }

    /// When to poll next; true after a poll only.
    pub(crate) fn poll_timeout(&self) -> Time {
        let waiting = self.waiting.front().filter(|_| self.flying.len() < WINDOW).map(|chunk| chunk.sent);
        let idle = (self.sent_at + KEEP_ALIVE).min(self.heard_at + SILENCE);
        [self.again, waiting].into_iter().flatten().fold(idle, Time::min)
    }

    pub(crate) fn packet(&self, body: Body) -> Packet {
        Packet { key: self.key, by_opener: self.opener, body }
    }

    fn put(&mut self, now: Time, body: Body, out: &mut Vec<Packet>) {
        self.sent_at = now;
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
                assert!(end.poll(now, &mut out));
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
    fn an_idle_connection_is_pinged_and_silence_ends_it() {
        let route = Route::Direct("198.18.0.1:1".parse().unwrap());
        let mut conn = Conn::new(Time::ZERO, 1, false, NodeId([0; 32]), route, Duration::ZERO);
        let mut out = Vec::new();
        let mut pings = 0;
        loop {
            let now = conn.poll_timeout();
            if !conn.poll(now, &mut out) {
                assert_eq!(now, Time::from_millis(30_000));
                break;
            }
            assert!(conn.poll_timeout() > now);
            pings += out.drain(..).filter(|p| p.body == Body::Ping).count();
        }
        assert_eq!(pings, 2);
    }

    #[test]
    fn a_change_of_route_is_measured_at_once_and_the_old_route_stays_accepted() {
        let ms = Time::from_millis;
        let direct = Route::Direct("198.18.0.1:1".parse().unwrap());
        let circuit = Route::Relayed(CircuitId(1));
        let mut conn = Conn::new(ms(0), 1, false, NodeId([0; 32]), circuit, Duration::from_millis(80));
        assert!(!conn.accepts(direct));
        let mut out = Vec::new();
        conn.set_route(ms(10), direct, &mut out);
        conn.set_route(ms(11), direct, &mut out);
        assert_eq!(out.iter().filter(|p| p.body == Body::Ping).count(), 1, "told twice, changed once");
        assert!(conn.accepts(direct) && conn.accepts(circuit));
        let heard = conn.handle(ms(30), Body::Ack { next: 0, echo: true }, &mut out);
        assert_eq!(heard, [Heard::Rtt(Duration::from_millis(20))]);
    }

    #[test]
    fn few_routes_are_accepted_and_the_one_sent_on_always() {
        let first = Route::Relayed(CircuitId(0));
        let mut conn = Conn::new(Time::ZERO, 1, true, NodeId([0; 32]), first, Duration::ZERO);
        (1..20).for_each(|n| conn.accept(Route::Relayed(CircuitId(n))));
        assert_eq!(conn.accepted.len(), MAX_ROUTES);
        assert!(conn.accepts(first) && conn.accepts(Route::Relayed(CircuitId(19))));
    }
}
