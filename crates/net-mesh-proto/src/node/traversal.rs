//! What concerns the NAT: reflexive addresses and classification, and how the node wires them.
//!
//! With [`Config::nat_traversal`](super::Config::nat_traversal) off, none of it exists: STUN is not answered, nothing is asked, and
//! the verdict stays unknown.

use alloc::vec::Vec;
use core::net::SocketAddr;
use core::time::Duration;

use super::{Event, Node, Output};
use crate::drops::{DropCounts, DropReason};
use crate::id::NodeId;
use crate::nat::Verdict;
use crate::outbox::{Outbox, SocketId};
use crate::reflex::stun::Message;
use crate::reflex::{self, Reflex, ServerKey};
use crate::rng::Rng;
use crate::time::{Deadline, Time};

/// The machines that concern the NAT.
#[derive(Debug)]
pub(super) struct Traversal {
    reflex: Reflex,
    heard_reflex: Outbox<reflex::Event>,
    stun_servers: Vec<SocketAddr>,
}

impl Traversal {
    pub(super) fn new(rng: &Rng, stun_servers: Vec<SocketAddr>) -> Self {
        Self { reflex: Reflex::new(rng.fork("reflex")), heard_reflex: Outbox::new(), stun_servers }
    }

    pub(super) fn poll_timeout(&self) -> Option<Deadline> {
        self.reflex.poll_timeout()
    }

    pub(super) fn handle_timeout(&mut self, now: Time) {
        self.reflex.handle_timeout(now, &mut self.heard_reflex);
    }

    pub(super) fn take_drops(&mut self) -> DropCounts {
        self.heard_reflex.take_drops()
    }

    fn network_changed(&mut self, now: Time) {
        self.reflex.network_changed(now, &mut self.heard_reflex);
        for server in &self.stun_servers {
            self.reflex.add_server(now, ServerKey::Stun(*server), *server, &mut self.heard_reflex);
        }
    }

    fn handle_stun(&mut self, now: Time, socket: SocketId, from: SocketAddr, message: &Message) {
        let out = &mut self.heard_reflex;
        match message {
            Message::BindingRequest(request) => {
                self.reflex.handle_request(now, socket, from, request, false, out);
            }
            Message::BindingResponse { .. } | Message::BindingError { .. } => {
                self.reflex.handle_response(now, socket, from, message, out);
            }
            Message::ProbeIndication(_) => out.drop(DropReason::UnknownToken),
        }
    }
}

impl Node {
    /// STUN is the only thing that arrives as a datagram.
    pub(super) fn handle_datagram(&mut self, now: Time, socket: SocketId, from: SocketAddr, bytes: &[u8]) {
        let Some(traversal) = &mut self.traversal else {
            return self.drops_now(DropReason::UnsupportedStun);
        };
        match Message::parse(bytes) {
            Ok(message) => traversal.handle_stun(now, socket, from, &message),
            Err(reason) => self.drops_now(reason),
        }
    }

    pub(super) fn handle_socket_opened(&mut self, _now: Time, _socket: SocketId, _local: SocketAddr) {}

    pub(super) fn handle_socket_failed(&mut self, _now: Time, _socket: SocketId) {}

    pub(super) fn reclassify(&mut self, _now: Time) {}

    pub(super) fn traversal_network_changed(&mut self, now: Time) {
        if let Some(traversal) = &mut self.traversal {
            traversal.network_changed(now);
        }
    }

    pub(super) fn traversal_session_up(&mut self, now: Time, peer: NodeId) {
        if let (Some(traversal), Some(session)) = (&mut self.traversal, self.arbiter.session(&peer)) {
            let key = ServerKey::Peer(peer);
            traversal.reflex.add_server(now, key, session.remote, &mut traversal.heard_reflex);
        }
    }

    pub(super) fn traversal_session_down(&mut self, _now: Time, peer: NodeId) {
        if let Some(traversal) = &mut self.traversal {
            traversal.reflex.remove_server(&ServerKey::Peer(peer), &mut traversal.heard_reflex);
        }
    }

    pub(super) fn traversal_member_changed(&mut self, _now: Time, _peer: NodeId) {}

    /// Hears the next thing that these machines have to say; returns whether there was one.
    pub(super) fn hear_traversal(&mut self, now: Time) -> bool {
        let Some(traversal) = &mut self.traversal else { return false };
        if let Some(transmit) = traversal.heard_reflex.pop_transmit() {
            self.outputs.push_back(Output::Transmit(transmit));
            return true;
        }
        match traversal.heard_reflex.pop_event() {
            Some(reflex::Event::Reflexive(addrs)) => self.hear_reflexive(now, addrs),
            Some(reflex::Event::OtherExternal(_)) => {}
            None => return false,
        }
        true
    }

    fn hear_reflexive(&mut self, now: Time, addrs: Vec<SocketAddr>) {
        if self.local.set_reflexive(addrs) {
            self.membership.set_candidates(now, self.local.candidates());
            self.tell(Event::Reflexive(self.local.reflexive().to_vec()));
        }
    }

    pub(super) fn traversal_verdict(&self, _now: Time) -> (Verdict, Option<Duration>, Option<&'static str>) {
        (Verdict::UNKNOWN, None, None)
    }
}
