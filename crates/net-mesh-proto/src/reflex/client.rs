//! At which addresses do others see this node's sockets?
//!
//! **Flow.** Every server, a directly reached peer or a plain STUN server, is sent a Binding request from
//! the main socket when it is added, again when the network changes, and when its answer is
//! [`MAX_AGE`] old. Peers are asked from the other socket as well, so that the node can tell helpers' clients
//! where its second port is. A request is repeated under one transaction id until it is answered or given up
//! (RFC 8489 §6.2.1).
//!
//! **What counts.** A response counts only if its transaction id, its source address and the socket it
//! arrived on are those of the question. Addresses of servers that no longer answer are forgotten.
//!
//! **Bounds.** At most [`MAX_SERVERS`] servers, one open question per server and socket.

use alloc::vec::Vec;
use core::net::SocketAddr;
use core::time::Duration;

use super::stun::{self, Message};
use super::{Event, ServerKey};
use crate::bounded::BoundedMap;
use crate::drops::DropReason;
use crate::outbox::{Outbox, SocketId};
use crate::rng::Rng;
use crate::time::{Deadline, Time};

/// Servers asked, at most; the one added longest ago makes room.
///
/// A node has sessions with tens of peers, rarely with hundreds. Each costs two small questions in
/// [`MAX_AGE`], and agreement of a few already settles the address.
pub const MAX_SERVERS: usize = 64;

/// How old an answer may get before its server is asked again.
///
/// An address changes with the network (asked at once) or when the NAT forgets the mapping, which the traffic
/// of a session prevents; so asking is a check, not a keepalive. Half a minute would be a packet a second
/// with 30 peers, an hour would leave a wrong address in the record for an hour.
pub const MAX_AGE: Duration = Duration::from_secs(300);

/// The first wait for an answer. RFC 8489 §6.2.1 says 500 ms unless the round-trip time is known better;
/// most are below 250 ms, and whoever is farther merely gets a second copy of the question.
const FIRST_RTO: Duration = Duration::from_millis(250);

/// Copies of one question: sent after 0, 250, 750, 1750 and 3750 ms. Bursts of loss last up to 500 ms, and the
/// chance of losing five at 10 % a link is below 1 in 2000. More would only delay the next attempt.
const TRIES: u32 = 5;

/// How long to wait after the last copy: the 16 first waits of RFC 8489 §6.2.1.
const LAST_WAIT: Duration = Duration::from_millis(16 * 250);

/// What a server last answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Observation {
    /// The address it saw.
    pub mapped: SocketAddr,
    /// When the answer arrived.
    pub at: Time,
    /// The round-trip time, where the answer cannot be to an earlier copy of the question.
    pub rtt: Option<Duration>,
}

/// What is known through one server.
#[derive(Clone, Copy, Debug)]
pub struct ServerView {
    /// Which.
    pub key: ServerKey,
    /// Where it is asked.
    pub addr: SocketAddr,
    /// What it saw of the main socket.
    pub main: Option<Observation>,
    /// What it saw of the other socket.
    pub other: Option<Observation>,
}

#[derive(Clone, Copy, Debug)]
struct Open {
    txid: u128,
    sent: Time,
    tries: u32,
    due: Time,
}

/// The questions from one socket to one server.
#[derive(Clone, Copy, Debug)]
enum Question {
    /// Waiting for an answer.
    Open(Open),
    /// To be asked again at this time.
    Due(Time),
}

#[derive(Clone, Debug)]
struct Line {
    socket: SocketId,
    question: Question,
    seen: Option<Observation>,
}

#[derive(Clone, Debug)]
struct Server {
    addr: SocketAddr,
    lines: Vec<Line>,
}

/// What was asked, and what came of it, since the start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Asked {
    /// Requests sent, each copy counted.
    pub sent: u64,
    /// Answers with an address in them.
    pub answered: u64,
    /// Answers that refuse.
    pub refused: u64,
    /// Answers to nothing that was asked, or from elsewhere.
    pub unmatched: u64,
    /// Questions of which no copy was answered.
    pub given_up: u64,
}

/// The asking side of the protocol.
#[derive(Debug)]
pub struct Client {
    rng: Rng,
    servers: BoundedMap<ServerKey, Server>,
    told_main: Vec<SocketAddr>,
    told_other: Vec<SocketAddr>,
    asked: Asked,
}

impl Client {
    /// A client that knows no server.
    #[must_use]
    pub fn new(rng: Rng) -> Self {
        let servers = BoundedMap::new(MAX_SERVERS);
        Self { rng, servers, told_main: Vec::new(), told_other: Vec::new(), asked: Asked::default() }
    }

    /// Asks `key`, reached at `addr`, now and from time to time. Nothing changes if it is known at that address.
    pub fn add_server(&mut self, now: Time, key: ServerKey, addr: SocketAddr, out: &mut Outbox<Event>) {
        let addr = stun::canonical(addr);
        if self.servers.get(&key).is_some_and(|s| s.addr == addr) {
            return;
        }
        let sockets: &[SocketId] = match key {
            ServerKey::Peer(_) => &[SocketId::MAIN, SocketId::OTHER],
            ServerKey::Stun(_) => &[SocketId::MAIN],
        };
        let lines = sockets
            .iter()
            .map(|socket| Line { socket: *socket, question: Question::Due(now), seen: None })
            .collect();
        if self.servers.insert(key, Server { addr, lines }).is_some() {
            out.drop(DropReason::TableFull);
        }
        self.handle_timeout(now, out);
        self.tell(out);
    }

    /// Stops asking `key` and forgets what it saw.
    pub fn remove_server(&mut self, key: &ServerKey, out: &mut Outbox<Event>) {
        if self.servers.remove(key).is_some() {
            self.tell(out);
        }
    }

    /// The network has changed: asks everyone again. What they saw stays until they answer or do not.
    pub fn network_changed(&mut self, now: Time, out: &mut Outbox<Event>) {
        for (_, server) in self.servers.iter_mut() {
            for line in &mut server.lines {
                line.question = Question::Due(now);
            }
        }
        self.handle_timeout(now, out);
    }

    /// A response arrived on `socket` from `from`.
    pub fn handle_response(
        &mut self,
        now: Time,
        socket: SocketId,
        from: SocketAddr,
        message: &Message,
        out: &mut Outbox<Event>,
    ) {
        let (txid, mapped) = match message {
            Message::BindingResponse { txid, mapped } => (*txid, Some(*mapped)),
            Message::BindingError { txid, .. } => (*txid, None),
            Message::BindingRequest(_) | Message::ProbeIndication(_) => {
                return out.drop(DropReason::UnsupportedStun);
            }
        };
        let from = stun::canonical(from);
        let Some((line, open)) = self.question(socket, from, txid) else {
            self.asked.unmatched += 1;
            return out.drop(DropReason::UnknownTransaction);
        };
        line.question = Question::Due(now + MAX_AGE);
        line.seen = mapped.map(|mapped| Observation {
            mapped,
            at: now,
            rtt: (open.tries == 1).then(|| now - open.sent),
        });
        match mapped {
            Some(_) => self.asked.answered += 1,
            None => self.asked.refused += 1,
        }
        self.tell(out);
    }

    fn question(&mut self, socket: SocketId, from: SocketAddr, txid: u128) -> Option<(&mut Line, Open)> {
        self.servers
            .iter_mut()
            .filter(|(_, server)| server.addr == from)
            .flat_map(|(_, server)| server.lines.iter_mut())
            .find_map(|line| match line.question {
                Question::Open(open) if open.txid == txid && line.socket == socket => Some((line, open)),
                Question::Open(_) | Question::Due(_) => None,
            })
    }

    /// The next instant at which there is something to do.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<Deadline> {
        self.servers
            .iter()
            .flat_map(|(_, server)| &server.lines)
            .map(|line| match line.question {
                Question::Open(open) => Deadline::new(open.due, "no answer to a Binding request yet"),
                Question::Due(at) => Deadline::new(at, "a reflexive address is old"),
            })
            .fold(None, |best, next| Deadline::earliest(best, Some(next)))
    }

    /// Does what is due.
    pub fn handle_timeout(&mut self, now: Time, out: &mut Outbox<Event>) {
        for (_, server) in self.servers.iter_mut() {
            for line in &mut server.lines {
                let mut open = match line.question {
                    Question::Due(at) if at <= now => {
                        Open { txid: self.rng.u96(), sent: now, tries: 0, due: now }
                    }
                    Question::Open(open) if open.due <= now => open,
                    Question::Open(_) | Question::Due(_) => continue,
                };
                if open.tries == TRIES {
                    self.asked.given_up += 1;
                    line.seen = None;
                    line.question = Question::Due(now + MAX_AGE);
                    continue;
                }
                open.tries += 1;
                open.due =
                    now + if open.tries == TRIES { LAST_WAIT } else { FIRST_RTO * (1 << (open.tries - 1)) };
                self.asked.sent += 1;
                out.send(line.socket, server.addr, stun::binding_request(open.txid, None));
                line.question = Question::Open(open);
            }
        }
        self.tell(out);
    }

    /// What each server saw, in the order of their keys.
    pub fn servers(&self) -> impl Iterator<Item = ServerView> + '_ {
        self.servers.iter().map(|(key, server)| {
            let seen = |socket| server.lines.iter().find(|l| l.socket == socket).and_then(|l| l.seen);
            ServerView {
                key: *key,
                addr: server.addr,
                main: seen(SocketId::MAIN),
                other: seen(SocketId::OTHER),
            }
        })
    }

    /// What was asked so far, and what came of it.
    #[must_use]
    pub const fn counts(&self) -> Asked {
        self.asked
    }

    /// The distinct addresses at which `socket` is seen; those that most servers agree on come first,
    /// and of equally supported ones the lower.
    #[must_use]
    pub fn external(&self, socket: SocketId) -> Vec<SocketAddr> {
        let mut counts: Vec<(usize, SocketAddr)> = Vec::new();
        let lines = self.servers.iter().flat_map(|(_, server)| &server.lines);
        for seen in lines.filter(|l| l.socket == socket).filter_map(|l| l.seen) {
            match counts.iter_mut().find(|(_, addr)| *addr == seen.mapped) {
                Some((count, _)) => *count += 1,
                None => counts.push((1, seen.mapped)),
            }
        }
        counts.sort_by(|a, b| b.0.cmp(&a.0).then(a.1.cmp(&b.1)));
        counts.into_iter().map(|(_, addr)| addr).collect()
    }

    /// Tells of changes since the last time.
    fn tell(&mut self, out: &mut Outbox<Event>) {
        let main = self.external(SocketId::MAIN);
        if main != self.told_main {
            self.told_main.clone_from(&main);
            out.event(Event::Reflexive(main));
        }
        let other = self.external(SocketId::OTHER);
        if other != self.told_other {
            self.told_other.clone_from(&other);
            out.event(Event::OtherExternal(other));
        }
    }
}
