//! At which address do others see me?
//!
//! A node asks its peers and, if it was given any, plain STUN servers, and it answers anyone who asks: both
//! sides speak STUN Binding (RFC 8489) on the mesh's own socket, as the address of any other socket says nothing
//! about this one.
//!
//! | file | what |
//! |---|---|
//! | [`stun`] | the bytes, and the law that nobody gets more out of a node than they put in |
//! | [`client`] | whom to ask and when, which answers count, what follows from them |
//! | [`server`] | answering, rate limits, and vouching for who was seen where |
//!
//! It refuses answers to questions it did not ask, answers from elsewhere than where it asked, and requests beyond
//! their source's rate. Everything remembered is in tables of fixed size.

pub mod client;
pub mod server;
pub mod stun;
#[cfg(test)]
mod tests;

use alloc::vec::Vec;
use core::net::SocketAddr;

pub use client::{Asked, Client, Observation, ServerView};
pub use server::{Server, Told};

use crate::id::NodeId;
use crate::outbox::{Outbox, SocketId};
use crate::rng::Rng;
use crate::time::{Deadline, Time};
use stun::{BindingRequest, Message};

/// Whom to ask.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum ServerKey {
    /// A peer that is reached directly. Asked from both sockets.
    Peer(NodeId),
    /// A plain STUN server, by its address. Asked from the main socket.
    Stun(SocketAddr),
}

/// What changed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// The addresses at which the main socket is seen, most supported first.
    Reflexive(Vec<SocketAddr>),
    /// The addresses at which the other socket is seen, most supported first.
    OtherExternal(Vec<SocketAddr>),
}

/// Both sides of the protocol.
#[derive(Debug)]
pub struct Reflex {
    client: Client,
    server: Server,
}

impl Reflex {
    /// A machine that knows no server. `rng` is a stream of its own: transaction ids come from it.
    #[must_use]
    pub fn new(rng: Rng) -> Self {
        Self { client: Client::new(rng), server: Server::default() }
    }

    /// Asks `key`, reached at `addr`, now and from time to time; replaces its earlier address.
    pub fn add_server(&mut self, now: Time, key: ServerKey, addr: SocketAddr, out: &mut Outbox<Event>) {
        self.client.add_server(now, key, addr, out);
    }

    /// Stops asking `key` and forgets what it saw.
    pub fn remove_server(&mut self, key: &ServerKey, out: &mut Outbox<Event>) {
        self.client.remove_server(key, out);
    }

    /// The host's network has changed: asks everyone again.
    pub fn network_changed(&mut self, now: Time, out: &mut Outbox<Event>) {
        self.client.network_changed(now, out);
    }

    /// Answers a Binding request. `authorised` is what
    /// [`Classifier::handle_probe`](crate::classify::Classifier::handle_probe) said of it, false where it carries
    /// no PROBE.
    pub fn handle_request(
        &mut self,
        now: Time,
        socket: SocketId,
        from: SocketAddr,
        request: &BindingRequest,
        authorised: bool,
        out: &mut Outbox<Event>,
    ) {
        self.server.handle_request(now, socket, from, request, authorised, out);
    }

    /// Takes a response that arrived on the main or the other socket.
    pub fn handle_response(
        &mut self,
        now: Time,
        socket: SocketId,
        from: SocketAddr,
        message: &Message,
        out: &mut Outbox<Event>,
    ) {
        self.client.handle_response(now, socket, from, message, out);
    }

    /// The next instant at which there is something to do.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<Deadline> {
        self.client.poll_timeout()
    }

    /// Does what is due.
    pub fn handle_timeout(&mut self, now: Time, out: &mut Outbox<Event>) {
        self.client.handle_timeout(now, out);
    }

    /// The distinct addresses at which the main socket is seen, most supported first.
    #[must_use]
    pub fn reflexive(&self) -> Vec<SocketAddr> {
        self.client.external(SocketId::MAIN)
    }

    /// The distinct addresses at which the other socket is seen, most supported first.
    #[must_use]
    pub fn other_external(&self) -> Vec<SocketAddr> {
        self.client.external(SocketId::OTHER)
    }

    /// What each server saw.
    pub fn servers(&self) -> impl Iterator<Item = ServerView> + '_ {
        self.client.servers()
    }

    /// What was asked by this node and of it since the start, and what came of it.
    #[must_use]
    pub const fn counts(&self) -> (Asked, Told) {
        (self.client.counts(), self.server.counts())
    }

    /// Whether the transaction `txid` was answered on the main socket, to `from`, within the last 10 s.
    #[must_use]
    pub fn saw(&self, now: Time, txid: u128, from: SocketAddr) -> bool {
        self.server.saw(now, txid, from)
    }

    /// The answering side, for those who only need it to vouch.
    #[must_use]
    pub const fn server(&self) -> &Server {
        &self.server
    }
}
