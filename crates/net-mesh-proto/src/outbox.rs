//! Where a machine puts its effects: datagrams to send, events to tell, drops to count.

use alloc::collections::VecDeque;
use alloc::vec::Vec;
use core::net::SocketAddr;

use crate::drops::{DropCounts, DropReason};

/// One of the node's UDP sockets, as the machines name them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SocketId(pub u32);

impl SocketId {
    /// The socket the mesh lives on: sessions, reflex and everything that must share their mapping.
    /// It stands for one UDP socket per address family; the destination picks.
    pub const MAIN: Self = Self(0);
    /// The node's other port: same host, different port, used only to help others classify their NAT.
    pub const OTHER: Self = Self(1);
    /// The first id free for short-lived sockets.
    pub const FIRST_FRESH: Self = Self(2);
}

/// A datagram to send.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Transmit {
    /// From which of the node's sockets.
    pub from: SocketId,
    /// To which address.
    pub to: SocketAddr,
    /// The payload of the datagram.
    pub bytes: Vec<u8>,
}

/// The effects of one machine, in the order it decided on them.
#[derive(Debug)]
pub struct Outbox<E> {
    transmits: VecDeque<Transmit>,
    events: VecDeque<E>,
    drops: DropCounts,
}

impl<E> Default for Outbox<E> {
    fn default() -> Self {
        Self { transmits: VecDeque::new(), events: VecDeque::new(), drops: DropCounts::default() }
    }
}

impl<E> Outbox<E> {
    /// An empty outbox.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Sends `bytes` to `to` from the socket `from`.
    pub fn send(&mut self, from: SocketId, to: SocketAddr, bytes: Vec<u8>) {
        self.transmits.push_back(Transmit { from, to, bytes });
    }

    /// Tells the node that something happened.
    pub fn event(&mut self, event: E) {
        self.events.push_back(event);
    }

    /// Counts something that was discarded, and why.
    pub fn drop(&mut self, reason: DropReason) {
        self.drops.count(reason);
    }

    /// The next datagram to send, if any.
    pub fn pop_transmit(&mut self) -> Option<Transmit> {
        self.transmits.pop_front()
    }

    /// The next event, if any.
    pub fn pop_event(&mut self) -> Option<E> {
        self.events.pop_front()
    }

    /// Takes the drop counts since the last call.
    pub fn take_drops(&mut self) -> DropCounts {
        core::mem::take(&mut self.drops)
    }
}
