//! What passed over one route of a session, as whoever moves its packets counts it.
//!
//! Every datagram of the session's own counts, frames of the mesh's do not: they are counted by who makes them. A
//! datagram is *received* if it carries what only the peer can know, such as a connection id that this node chose
//! (RFC 9000 §5.1), which whoever merely forges addresses does not.

use crate::time::Time;

/// Counts of one route of one session, from the moment the route was first used.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Traffic {
    /// Datagrams sent.
    pub sent: u64,
    /// Datagrams received.
    pub received: u64,
    /// When the last one was received.
    pub heard: Option<Time>,
    /// What was sent since the last one was received.
    pub waiting: Option<Waiting>,
}

/// Datagrams that nothing has followed from the peer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Waiting {
    /// When the first of them was sent.
    pub since: Time,
    /// How many there are.
    pub count: u64,
}

impl Traffic {
    /// `count` datagrams were sent.
    pub fn sent(&mut self, now: Time, count: u64) {
        self.sent += count;
        let waiting = self.waiting.get_or_insert(Waiting { since: now, count: 0 });
        waiting.count += count;
    }

    /// `count` datagrams were received.
    pub fn received(&mut self, now: Time, count: u64) {
        self.received += count;
        self.heard = Some(now);
        self.waiting = None;
    }
}
