//! Where may a member be tried, and which of the two sides begins?
//!
//! | the member | it is tried |
//! |---|---|
//! | admits anyone (`Direct`, `FullCone`) | at its addresses; through others too after [`RELAY_AFTER`] |
//! | seems to be behind the same NAT | at its private addresses and through others, at once |
//! | anything else, and others can help | through others at once; its addresses are rendezvous' business |
//! | anything else, and nobody can help | at its addresses: if both sides try, their packets may cross |
//!
//! The third row matters: a packet that reaches a NAT before its owner has sent one the other way can spoil
//! the mapping that a rendezvous needs, so nobody knocks where knocking does not open.

use alloc::vec::Vec;
use core::fmt::Debug;
use core::net::SocketAddr;
use core::time::Duration;

use super::local::Local;
use crate::id::NodeId;
use crate::membership::{MAX_CANDIDATES, Record};
use crate::nat::NatClass;
use crate::wire::addr::{Scope, scope};

/// How long addresses that should answer are waited for before a relay is asked as well: RFC 8305 §5
/// gives a first attempt 250 ms; a handshake over a long path takes that long alone.
pub const RELAY_AFTER: Duration = Duration::from_millis(400);

/// How long the side that has no reason to begin leaves the other one to it. Longer than a record takes
/// to reach everyone and an attempt to open; shorter than anyone's patience.
pub const GRACE: Duration = Duration::from_secs(3);

/// One way to try a target.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Way {
    /// At this address.
    Addr(SocketAddr),
    /// Through other members.
    Relay,
}

impl Way {
    /// The address, where it is one.
    #[must_use]
    pub const fn addr(self) -> Option<SocketAddr> {
        match self {
            Self::Addr(addr) => Some(addr),
            Self::Relay => None,
        }
    }
}

/// What others can do for this node, as the dialer asks it.
pub trait Help: Debug {
    /// Whether members relay between this node and `peer`.
    fn relays(&self, peer: &NodeId) -> bool;
    /// Whether a member can introduce the two.
    fn introduces(&self, peer: &NodeId) -> bool;
    /// Where a rendezvous found `peer` lately.
    fn found_at(&self, peer: &NodeId) -> Option<SocketAddr>;
    /// Whether the session with `peer` carries circuits, of this node's or of others.
    fn carries(&self, peer: &NodeId) -> bool;
    /// What this node's own NAT is.
    fn own_class(&self) -> NatClass;
}

/// Nobody helps.
#[derive(Clone, Copy, Debug)]
pub struct Alone;

impl Help for Alone {
    fn relays(&self, _: &NodeId) -> bool {
        false
    }
    fn introduces(&self, _: &NodeId) -> bool {
        false
    }
    fn found_at(&self, _: &NodeId) -> Option<SocketAddr> {
        None
    }
    fn carries(&self, _: &NodeId) -> bool {
        false
    }
    fn own_class(&self) -> NatClass {
        NatClass::Unknown
    }
}

/// Whether anyone may send to a node of this class.
pub(super) const fn admits_anyone(class: NatClass) -> bool {
    match class {
        NatClass::Direct | NatClass::FullCone => true,
        NatClass::RestrictedCone | NatClass::PortRestricted | NatClass::Symmetric | NatClass::Unknown => {
            false
        }
    }
}

/// How a member can be tried at present.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Manner {
    /// At its addresses, which should answer.
    Open,
    /// At its private addresses, and through others.
    Near,
    /// Through others.
    Helped,
    /// At its addresses, for want of anything better.
    Unhelped,
}

pub(super) fn manner(local: &Local, help: &dyn Help, record: &Record) -> Manner {
    let global = |addr: &SocketAddr| scope(addr.ip()) == Scope::Global;
    let usable = || record.candidates.iter().filter(|addr| local.worth_dialling(**addr));
    let seen_at = |addr: &SocketAddr| local.reflexive().iter().any(|own| own.ip() == addr.ip());
    if admits_anyone(record.verdict.class()) && usable().any(global) {
        Manner::Open
    } else if !help.relays(&record.node) && !help.introduces(&record.node) {
        Manner::Unhelped
    } else if record.candidates.iter().filter(|addr| global(addr)).any(seen_at) {
        Manner::Near
    } else {
        Manner::Helped
    }
}

/// Whether a rendezvous is worth its packets.
pub(super) fn needs_help(local: &Local, help: &dyn Help, record: &Record) -> bool {
    matches!(manner(local, help, record), Manner::Near | Manner::Helped)
}

/// Where to try a member now, best first; `trying_for` is how long it has been tried already.
pub(super) fn ways(local: &Local, help: &dyn Help, record: &Record, trying_for: Duration) -> Vec<Way> {
    let manner = manner(local, help, record);
    let wanted = |addr: &SocketAddr| match manner {
        Manner::Open | Manner::Unhelped => true,
        Manner::Near => scope(addr.ip()) < Scope::Global,
        Manner::Helped => false,
    };
    let usable = record.candidates.iter().copied().filter(|addr| local.worth_dialling(*addr));
    let mut ways: Vec<Way> = usable.filter(wanted).take(MAX_CANDIDATES).map(Way::Addr).collect();
    let relayed = help.relays(&record.node) && (manner != Manner::Open || trying_for >= RELAY_AFTER);
    // A session over a relay moves by itself to where the peer was found.
    let found = help.found_at(&record.node).filter(|_| !relayed || trying_for >= RELAY_AFTER);
    for way in found.map(Way::Addr).into_iter().chain(relayed.then_some(Way::Relay)) {
        if !ways.contains(&way) {
            ways.push(way);
        }
    }
    ways
}

/// Whether it is this node's part to begin, where nothing is urgent. Of two that need help one is enough;
/// and who can be reached by anyone leaves it to who cannot.
pub(super) fn begins(local: &Local, help: &dyn Help, me: NodeId, record: &Record) -> bool {
    match manner(local, help, record) {
        Manner::Open | Manner::Unhelped => true,
        Manner::Near => me < record.node,
        Manner::Helped => me < record.node && !admits_anyone(help.own_class()),
    }
}
