//! What applications say to each other: messages that arrive once and in order, whatever happens to sessions.
//!
//! A flow goes from one node to another. While a message of it is under way its sender wants a session with
//! the receiver, says so again every [`WANT_AGAIN`], and sends on whatever connection is the session. When
//! another connection takes over, what has not arrived goes again. The world knows what has arrived, so
//! acknowledgements are not modelled; the packets are.

use std::cmp::Reverse;
use std::collections::VecDeque;
use std::time::Duration;

use net_mesh_proto::node::{Command, ConnId};
use net_mesh_proto::time::Time;

use super::machine::News;
use super::{NodeIx, World};

/// How often a sender with something to say wants its session again: well before the last wish is forgotten.
const WANT_AGAIN: Duration = Duration::from_secs(20);

/// Bytes of a message unless told otherwise: a small event.
pub(super) const MESSAGE_BYTES: usize = 64;

/// Messages from one node to another, and how they fared.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Flow {
    /// Messages published.
    pub published: u64,
    /// Messages that have arrived.
    pub delivered: u64,
    /// From the publication of the first message to its arrival.
    pub first: Option<Duration>,
    /// The longest time between the publication of a message and its arrival, of those that arrived.
    pub slowest: Duration,
    /// When those that have not arrived were published.
    under_way: VecDeque<Time>,
    /// On which connection they were sent, and up to which one.
    sent: Option<(ConnId, u64)>,
    wanting: bool,
    /// Between two turns of a conversation, and how much is said at each.
    every: Option<(Duration, u64)>,
}

impl Flow {
    /// Whether everything that was published has arrived.
    #[must_use]
    pub const fn is_complete(&self) -> bool {
        self.published == self.delivered
    }

    /// The sender runs anew: what has not arrived goes on another connection.
    pub(super) const fn forget_sent(&mut self) {
        self.sent = None;
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum FlowTimer {
    Want,
    Talk,
}

impl World {
    /// Lets `from` say `count` things to `to`.
    pub fn publish(&mut self, from: NodeIx, to: NodeIx, count: u64) {
        let now = self.now;
        let flow = self.flows.entry((from, to)).or_default();
        flow.published += count;
        flow.under_way.extend((0..count).map(|_| now));
        self.push(from, to);
        self.want(from, to);
        self.hear(from);
    }

    /// Lets two nodes talk: each says something to the other now and at every such interval.
    pub fn talk(&mut self, a: NodeIx, b: NodeIx, every: Duration) {
        self.talk_in_bursts(a, b, every, 1);
    }

    /// The same with `count` things each time.
    pub fn talk_in_bursts(&mut self, a: NodeIx, b: NodeIx, every: Duration, count: u64) {
        for (from, to) in [(a, b), (b, a)] {
            let flow = self.flows.entry((from, to)).or_default();
            if flow.every.replace((every, count)).is_none() {
                self.flow_due.push(Reverse((self.now, FlowTimer::Talk, from, to)));
            }
        }
    }

    /// Says messages of `bytes` bytes from now on; they hold a number, so eight is the least.
    pub fn set_message_bytes(&mut self, bytes: usize) {
        self.message_bytes = bytes.max(8);
    }

    /// Ends the conversation of two nodes. What was said still arrives.
    pub fn hush(&mut self, a: NodeIx, b: NodeIx) {
        for pair in [(a, b), (b, a)] {
            if let Some(flow) = self.flows.get_mut(&pair) {
                flow.every = None;
            }
        }
    }

    /// The longest time that a message has taken, of all that have arrived since the last reset.
    #[must_use]
    pub fn slowest(&self) -> Duration {
        self.flows.values().map(|flow| flow.slowest).max().unwrap_or_default()
    }

    /// For how long the oldest message that has not arrived has been under way.
    #[must_use]
    pub fn longest_waiting(&self) -> Duration {
        let oldest = self.flows.values().filter_map(|flow| flow.under_way.front()).min();
        oldest.map_or(Duration::ZERO, |at| self.now - *at)
    }

    /// Forgets how long messages have taken so far.
    pub fn reset_slowest(&mut self) {
        self.flows.values_mut().for_each(|flow| flow.slowest = Duration::ZERO);
    }

    /// What `from` said to `to`; `None` if nothing ever.
    #[must_use]
    pub fn flow(&self, from: NodeIx, to: NodeIx) -> Option<&Flow> {
        self.flows.get(&(from, to))
    }

    /// Whether everything that anyone said has arrived.
    #[must_use]
    pub fn all_delivered(&self) -> bool {
        self.flows.values().all(Flow::is_complete)
    }

    pub(super) fn wake_flow(&mut self) {
        let Some(Reverse((_, timer, from, to))) = self.flow_due.pop() else { return };
        let Some(flow) = self.flows.get_mut(&(from, to)) else { return };
        match timer {
            FlowTimer::Want => {
                flow.wanting = false;
                if !flow.is_complete() {
                    self.want(from, to);
                }
            }
            FlowTimer::Talk => {
                let Some((every, count)) = flow.every else { return };
                self.flow_due.push(Reverse((self.now + every, FlowTimer::Talk, from, to)));
                self.publish(from, to, count);
            }
        }
    }

    /// The sender wants its session, unless it said so a moment ago.
    fn want(&mut self, from: NodeIx, to: NodeIx) {
        let Some(flow) = self.flows.get_mut(&(from, to)).filter(|flow| !flow.wanting) else { return };
        flow.wanting = true;
        self.flow_due.push(Reverse((self.now + WANT_AGAIN, FlowTimer::Want, from, to)));
        if let Some(peer) = self.seats[to.0 as usize].id {
            self.command(from, Command::Want { peer });
        }
    }

    /// Sends what has not been sent on the connection that is the session now.
    fn push(&mut self, from: NodeIx, to: NodeIx) {
        let (Some(flow), Some(peer)) = (self.flows.get_mut(&(from, to)), self.seats[to.0 as usize].id) else {
            return;
        };
        let Some(machine) = &mut self.seats[from.0 as usize].machine else { return };
        let Some(conn) = machine.node.sessions().find(|s| s.peer == peer).map(|s| s.conn) else { return };
        let next = match flow.sent {
            Some((last, next)) if last == conn => next,
            _ => flow.delivered,
        };
        flow.sent = Some((conn, flow.published));
        let size = self.message_bytes;
        let message = |number: u64| {
            let mut bytes = number.to_be_bytes().to_vec();
            bytes.resize(size, 0);
            bytes
        };
        machine.send_payloads(&mut self.net, self.now, conn, (next..flow.published).map(message));
        self.arm(from);
    }

    /// Hears what happened at a node.
    pub(super) fn hear(&mut self, ix: NodeIx) {
        while let Some(machine) = &mut self.seats[ix.0 as usize].machine {
            let news = machine.take_news();
            if news.is_empty() {
                return;
            }
            for news in news {
                self.hear_one(ix, news);
            }
        }
    }

    fn hear_one(&mut self, ix: NodeIx, news: News) {
        let peer = match &news {
            News::Up(peer) | News::Down(peer) | News::Payload(peer, _) => peer,
        };
        let Some(other) = self.by_id.get(peer).copied() else { return };
        match news {
            News::Up(_) => self.push(ix, other),
            News::Down(_) => {
                // The sender notices, and does not wait for its next turn.
                if let Some(flow) = self.flows.get_mut(&(ix, other)).filter(|flow| !flow.is_complete()) {
                    flow.wanting = false;
                    self.want(ix, other);
                }
            }
            News::Payload(_, bytes) => self.arrived(other, ix, &bytes),
        }
    }

    fn arrived(&mut self, from: NodeIx, to: NodeIx, message: &[u8]) {
        let (Some(flow), Some(number)) = (self.flows.get_mut(&(from, to)), message.first_chunk()) else {
            return;
        };
        let number = u64::from_be_bytes(*number);
        assert!(number <= flow.delivered, "{from:?} to {to:?}: {number} before {}", flow.delivered);
        if number < flow.delivered {
            // Sent again on another connection, and both copies came.
            return;
        }
        flow.delivered += 1;
        if let Some(at) = flow.under_way.pop_front() {
            let took = self.now - at;
            flow.first.get_or_insert(took);
            flow.slowest = flow.slowest.max(took);
        }
    }
}
