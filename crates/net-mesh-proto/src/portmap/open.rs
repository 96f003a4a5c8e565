//! Is the main port open to strangers although nothing else is?
//!
//! What an operator opens by hand, in the rules of a cloud or the settings of a router, is the main port alone; the ports from
//! which a NAT is classified are others. So members are asked to send to the address at which they see the main
//! socket, each from a port that this node has never sent to, as a port mapping is proven (`belief`).
//!
//! **Only where the NAT lets in nobody but the very addresses that were sent to** does that prove anything: there the hole that
//! a session makes is no way for another port of the same member.

use alloc::vec::Vec;
use core::net::SocketAddr;

use super::belief::{Belief, Heard, Step, Witness};
use super::wire::{Ask, Message, Told};
use super::{Event, REST, Report};
use crate::id::NodeId;
use crate::outbox::Outbox;
use crate::reflex::stun::ProbeToken;
use crate::rng::Rng;
use crate::time::{Deadline, Time};

/// The machine that finds out.
#[derive(Debug)]
pub struct OpenPort {
    rng: Rng,
    /// The address in question, where it can be proven.
    addr: Option<SocketAddr>,
    belief: Belief,
    /// It has been said that it is open.
    told: bool,
    witnesses: Vec<Witness>,
}

impl OpenPort {
    /// One without an address in question. `rng` is a stream of its own.
    #[must_use]
    pub const fn new(rng: Rng) -> Self {
        Self { rng, addr: None, belief: Belief::new(Time::ZERO), told: false, witnesses: Vec::new() }
    }

    /// The address in question, if there is one: where members see the main socket.
    #[must_use]
    pub const fn addr(&self) -> Option<SocketAddr> {
        self.addr
    }

    /// The address that is open, and who reached it last.
    #[must_use]
    pub fn open(&self) -> Option<(SocketAddr, NodeId)> {
        self.addr.zip(self.belief.proven_by())
    }

    /// The address in question is this one from now on.
    pub fn set_addr(&mut self, now: Time, addr: Option<SocketAddr>, out: &mut Outbox<Event>) {
        if self.addr != addr {
            self.close(now, out);
            self.addr = addr;
        }
        self.handle_timeout(now, out);
    }

    /// The members with direct sessions.
    pub fn set_witnesses(&mut self, now: Time, witnesses: Vec<Witness>, out: &mut Outbox<Event>) {
        self.witnesses = witnesses;
        self.handle_timeout(now, out);
    }

    /// The network may have changed although the address has not.
    pub fn network_changed(&mut self, now: Time, out: &mut Outbox<Event>) {
        if self.told {
            self.belief.doubt(now);
        }
        self.handle_timeout(now, out);
    }

    /// A member answers whether it has sent.
    pub fn handle_told(&mut self, now: Time, peer: NodeId, told: Told, out: &mut Outbox<Event>) {
        self.belief.told(now, peer, told.token, told.outcome);
        self.handle_timeout(now, out);
    }

    /// A probe with `token` arrived on the main socket, sent by `from`; returns whether it was asked for here.
    pub fn heard(&mut self, now: Time, from: SocketAddr, token: ProbeToken, out: &mut Outbox<Event>) -> bool {
        match self.belief.heard(now, from, token) {
            Heard::Unknown => return false,
            Heard::Nothing | Heard::Again => {}
            Heard::Proven(by) => self.proven(by, out),
        }
        self.handle_timeout(now, out);
        true
    }

    /// When [`Self::handle_timeout`] wants to be called.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<Deadline> {
        self.addr.map(|_| Deadline::new(self.belief.due(), "prove that the main port is open"))
    }

    /// Asks the next member, if it is time.
    pub fn handle_timeout(&mut self, now: Time, out: &mut Outbox<Event>) {
        let Some(addr) = self.addr else { return };
        match self.belief.step(now, (addr, true), &self.witnesses, &mut self.rng) {
            Step::Ask(peer, token) => {
                out.event(Event::ToPeer { peer, message: Message::Ask(Ask { token, addr }) });
            }
            Step::Proven(by) => self.proven(by, out),
            Step::Disproved => self.close(now + REST, out),
            Step::Nothing => {}
        }
    }

    fn proven(&mut self, by: NodeId, out: &mut Outbox<Event>) {
        let Some(addr) = self.addr else { return };
        self.told = true;
        out.event(Event::Report(Report::Open { addr, by }));
        out.event(Event::Believed);
    }

    /// It is not open, and is looked at again at `next`.
    fn close(&mut self, next: Time, out: &mut Outbox<Event>) {
        self.belief = Belief::new(next);
        if let (Some(addr), true) = (self.addr, core::mem::take(&mut self.told)) {
            out.event(Event::Report(Report::Closed { addr }));
            out.event(Event::Believed);
        }
    }
}
