//! The other role: a member asks this node to send to its mapped address.
//!
//! **Nobody else can be made a target.** Probes go only to the IP that the asker's own session comes from, a
//! member's request is served once in [`PAUSE`], and each makes three datagrams of 36 bytes.

use alloc::vec::Vec;
use core::net::SocketAddr;
use core::time::Duration;

use super::Event;
use super::wire::{Ask, Message, Outcome, Told};
use crate::bounded::BoundedMap;
use crate::id::NodeId;
use crate::outbox::{Outbox, SocketId};
use crate::reflex::stun::{self, Probe};
use crate::rng::Rng;
use crate::time::{Deadline, Time};
use crate::wire::addr::{Scope, scope};

/// When the probes leave. One lost alone proves nothing, and bursts of loss last up to half a second.
const SHOTS: [Duration; 3] = [Duration::ZERO, Duration::from_millis(150), Duration::from_millis(600)];

/// Between two requests of one member.
const PAUSE: Duration = Duration::from_secs(1);

/// Requests served at a time.
const MAX_SERVED: usize = 32;

/// Members remembered as having asked lately.
const MAX_ASKERS: usize = 256;

#[derive(Clone, Copy, Debug)]
struct Service {
    ask: Ask,
    began: Time,
    sent: usize,
}

impl Service {
    fn next(&self) -> Option<Time> {
        SHOTS.get(self.sent).map(|after| self.began + *after)
    }
}

/// What is sent for others.
#[derive(Debug)]
pub struct Prover {
    rng: Rng,
    services: Vec<Service>,
    asked: BoundedMap<NodeId, Time>,
}

impl Prover {
    /// One that has nothing to do. `rng` is a stream of its own.
    #[must_use]
    pub fn new(rng: Rng) -> Self {
        Self { rng, services: Vec::new(), asked: BoundedMap::new(MAX_ASKERS) }
    }

    /// `peer` asks. `seen` is the address its session comes from, where that is a direct one; `can_send` says whether
    /// there is another port to send from.
    pub fn handle_ask(
        &mut self,
        now: Time,
        peer: NodeId,
        (seen, can_send): (Option<SocketAddr>, bool),
        ask: Ask,
        out: &mut Outbox<Event>,
    ) {
        let public = scope(ask.addr.ip()) == Scope::Global && ask.addr.port() != 0;
        let outcome = if !public || seen.is_none_or(|seen| seen.ip() != ask.addr.ip()) {
            Outcome::NotYours
        } else if !can_send {
            Outcome::CannotSend
        } else if self.services.len() >= MAX_SERVED
            || self.asked.get(&peer).is_some_and(|at| now < *at + PAUSE)
        {
            Outcome::Busy
        } else {
            self.asked.insert(peer, now);
            self.services.push(Service { ask, began: now, sent: 0 });
            Outcome::Sent
        };
        out.event(Event::ToPeer { peer, message: Message::Told(Told { token: ask.token, outcome }) });
        self.handle_timeout(now, out);
    }

    /// When [`Self::handle_timeout`] wants to be called.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<Deadline> {
        let next = self.services.iter().filter_map(Service::next).min()?;
        Some(Deadline::new(next, "a probe of a member's port mapping"))
    }

    /// Sends what is due.
    pub fn handle_timeout(&mut self, now: Time, out: &mut Outbox<Event>) {
        for service in &mut self.services {
            while service.next().is_some_and(|at| at <= now) {
                service.sent += 1;
                let slot = u8::try_from(service.sent).unwrap_or(u8::MAX);
                let probe = Probe { token: service.ask.token, slot };
                let indication = stun::probe_indication(self.rng.u96(), probe);
                out.send(SocketId::OTHER, service.ask.addr, indication);
            }
        }
        self.services.retain(|service| service.next().is_some());
    }

    /// Requests being served; at most 32.
    #[must_use]
    pub fn len(&self) -> usize {
        self.services.len()
    }

    /// Whether none is.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.services.is_empty()
    }
}
