//! Which machine is a datagram or a control message for?

use core::net::SocketAddr;

use super::control::{Control, ControlError};
use super::{ConnId, Node};
use crate::drops::DropReason;
use crate::outbox::SocketId;
use crate::reflex::stun::Message;
use crate::time::Time;

impl Node {
    /// STUN is the only protocol whose datagrams come here.
    pub(super) fn handle_datagram(&mut self, now: Time, socket: SocketId, from: SocketAddr, bytes: &[u8]) {
        if self.traversal.is_none() {
            return self.drops_now(DropReason::UnsupportedStun);
        }
        match Message::parse(bytes) {
            Ok(message) if socket == SocketId::MAIN && self.reach_stun(now, from, &message, bytes) => {}
            Ok(Message::ProbeIndication(probe)) if socket == SocketId::MAIN => {
                self.handle_reached(now, from, probe.token);
            }
            Ok(message) => {
                if message.is_answer() {
                    self.silence.heard();
                }
                self.for_traversal(|traversal| traversal.handle_stun(now, socket, from, &message));
            }
            Err(reason) => self.drops_now(reason),
        }
    }

    /// Greetings and adoptions count on every connection, everything else only on the one that is the session.
    pub(super) fn handle_control(&mut self, now: Time, conn: ConnId, bytes: &[u8]) {
        let Some(peer) = self.arbiter.peer_of(conn) else {
            return self.drops_now(DropReason::StaleConnection);
        };
        let control = match Control::parse(bytes) {
            Ok(control) => control,
            Err(ControlError::UnknownKind(_)) => return self.drops_now(DropReason::UnknownControl),
            Err(ControlError::Malformed(_)) => return self.drops_now(DropReason::MalformedControl),
        };
        let in_session = self.arbiter.is_session(conn);
        match control {
            Control::Hello(hello) => self.arbiter.handle_hello(now, conn, hello, &mut self.heard.arbiter),
            Control::Adopt(adopt) => self.arbiter.handle_adopt(now, conn, adopt, &mut self.heard.arbiter),
            Control::Membership(_)
            | Control::Classify(_)
            | Control::Relay(_)
            | Control::Rendezvous(_)
            | Control::PortMap(_)
                if !in_session =>
            {
                self.drops_now(DropReason::StaleConnection);
            }
            Control::PortMap(message) => self.handle_port_map(now, peer, message),
            Control::Membership(message) => {
                self.membership.handle(now, peer, message, &mut self.heard.membership);
            }
            Control::Rendezvous(message) => {
                self.with_rendezvous(|rendezvous, view, out| {
                    rendezvous.handle(now, peer, message, view, out)
                });
            }
            Control::Relay(message) => self.reach_relay(now, peer, message),
            Control::Classify(message) => match &mut self.traversal {
                Some(traversal) => traversal.handle_control(now, peer, message),
                None => self.drops_now(DropReason::UnknownControl),
            },
        }
    }

    /// Counts something the node itself discards.
    pub(super) fn drops_now(&mut self, reason: DropReason) {
        self.unreported.count(reason);
    }
}
