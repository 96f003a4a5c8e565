//! Which machine is a datagram or a control message for?

use super::control::{Control, ControlError};
use super::{ConnId, Node};
use crate::drops::DropReason;
use crate::time::Time;

impl Node {
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
            Control::Membership(_) if !in_session => self.drops_now(DropReason::StaleConnection),
            Control::Membership(message) => {
                self.membership.handle(now, peer, message, &mut self.heard.membership);
            }
        }
    }

    /// Counts something the node itself discards.
    pub(super) fn drops_now(&mut self, reason: DropReason) {
        self.unreported.count(reason);
    }
}
