//! What has become of the addresses to start from?

use alloc::vec::Vec;
use core::net::SocketAddr;

use super::super::attempts::Target;
use super::Dialer;
use crate::id::NodeId;
use crate::membership::Member;
use crate::peer::{Arbiter, Local};
use crate::route::Route;
use alloc::collections::BTreeMap;

/// What is known of an address to start from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StartState {
    /// It is this node's own address.
    Itself,
    /// Nothing can be sent there: this node has no socket of its family, or the address is none to send to.
    Unusable,
    /// There is a session with who answered there.
    Connected,
    /// Someone answered there, at the last attempt.
    Answered,
    /// Someone did, in so many attempts in a row, who is no member of this mesh or does not take this node for one.
    Refused {
        /// How many.
        attempts: u32,
    },
    /// Nobody did, in so many attempts in a row.
    Silent {
        /// How many.
        attempts: u32,
    },
    /// The first attempt is under way.
    Trying,
    /// It was not tried: it was not needed.
    Untried,
}

/// An address to start from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Start {
    /// The address.
    pub addr: SocketAddr,
    /// What is known of it.
    pub state: StartState,
    /// Whose it is, as far as is known.
    pub node: Option<NodeId>,
}

impl Dialer {
    /// What has become of the addresses to start from, at most [`MAX_BOOTSTRAP`](super::MAX_BOOTSTRAP), in the order
    /// in which they were given.
    #[must_use]
    pub fn starts(&self, local: &Local, members: &BTreeMap<NodeId, Member>, arbiter: &Arbiter) -> Vec<Start> {
        let start = |addr: &SocketAddr| {
            let progress = self.targets.get(&Target::Address(*addr));
            let session = arbiter.sessions().find(|session| session.route == Route::Direct(*addr));
            let named =
                || members.values().find(|m| m.record().candidates.contains(addr)).map(|m| m.record().node);
            let reached = progress.and_then(|p| p.reached).or(session.map(|session| session.peer));
            let connected = session.is_some() || reached.is_some_and(|peer| arbiter.session(&peer).is_some());
            let failures = progress.map_or(0, |p| p.failures);
            let state = if local.is_own(*addr) || progress.is_some_and(|p| p.itself) {
                StartState::Itself
            } else if !local.can_send_to(*addr) {
                StartState::Unusable
            } else if connected {
                StartState::Connected
            } else if failures > 0 && progress.is_some_and(|p| p.refused) {
                StartState::Refused { attempts: failures }
            } else if failures > 0 {
                StartState::Silent { attempts: failures }
            } else if self.attempts.under_way(Target::Address(*addr)) {
                StartState::Trying
            } else if reached.is_some() {
                StartState::Answered
            } else {
                StartState::Untried
            };
            Start { addr: *addr, state, node: reached.or_else(named) }
        };
        self.bootstrap.iter().map(start).collect()
    }
}
