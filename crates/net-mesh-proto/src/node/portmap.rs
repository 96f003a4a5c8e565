//! The port of the router, as the node wires it: who is asked, what is told to others, what they see instead of the NAT.

use core::net::SocketAddr;

use super::control::Control;
use super::{Event, Node, Output};
use crate::drops::{DropCounts, DropReason};
use crate::id::NodeId;
use crate::membership::VerdictSummary;
use crate::nat::{Filtering, Mapping, NatClass, Verdict};
use crate::outbox::Outbox;
use crate::portmap::{self, PortMapper, Prover, RequestId, Settings, Status, wire};
use crate::reflex::stun::ProbeToken;
use crate::rng::Rng;
use crate::time::{Deadline, Time};

/// The machines that concern port mapping.
#[derive(Debug)]
pub(super) struct PortMap {
    /// Where the operator wants it.
    mapper: Option<PortMapper>,
    prover: Prover,
    heard: Outbox<portmap::Event>,
}

impl PortMap {
    pub(super) fn new(rng: &Rng, settings: Option<Settings>) -> Self {
        Self {
            mapper: settings.map(|settings| PortMapper::new(rng.fork("port mapper"), settings)),
            prover: Prover::new(rng.fork("mapping prover")),
            heard: Outbox::new(),
        }
    }

    pub(super) fn poll_timeout(&self) -> Option<Deadline> {
        let mapper = self.mapper.as_ref().and_then(PortMapper::poll_timeout);
        Deadline::earliest(mapper, self.prover.poll_timeout())
    }

    pub(super) fn handle_timeout(&mut self, now: Time) {
        self.prover.handle_timeout(now, &mut self.heard);
        if let Some(mapper) = &mut self.mapper {
            mapper.handle_timeout(now, &mut self.heard);
        }
    }

    pub(super) fn take_drops(&mut self) -> DropCounts {
        self.heard.take_drops()
    }

    /// Members whose mappings are being proven.
    pub(super) fn served(&self) -> usize {
        self.prover.len()
    }
}

impl Node {
    pub(super) fn for_mapper(&mut self, act: impl FnOnce(&mut PortMapper, &mut Outbox<portmap::Event>)) {
        if let Some(mapper) = &mut self.port_map.mapper {
            act(mapper, &mut self.port_map.heard);
        }
    }

    pub(super) fn router_answered(&mut self, now: Time, id: RequestId, answer: portmap::Answer) {
        self.for_mapper(|mapper, out| mapper.answered(now, id, answer, out));
    }

    pub(super) fn handle_port_map(&mut self, now: Time, peer: NodeId, message: wire::Message) {
        let Some(traversal) = &self.traversal else { return self.drops_now(DropReason::UnknownControl) };
        match message {
            wire::Message::Ask(ask) => {
                let seen = self.arbiter.session(&peer).and_then(|session| session.route.direct());
                let can_send = traversal.has_other_port(ask.addr.is_ipv6());
                let PortMap { prover, heard, .. } = &mut self.port_map;
                prover.handle_ask(now, peer, (seen, can_send), ask, heard);
            }
            wire::Message::Told(told) => {
                self.for_mapper(|mapper, out| mapper.handle_told(now, peer, told, out));
            }
        }
    }

    /// A probe arrived on the main socket.
    pub(super) fn handle_reached(&mut self, now: Time, from: SocketAddr, token: ProbeToken) {
        let mut known = false;
        self.for_mapper(|mapper, out| known = mapper.heard(now, from, token, out));
        if !known {
            self.drops_now(DropReason::UnknownToken);
        }
    }

    /// Hears the next thing that these machines have to say; returns whether there was one.
    pub(super) fn hear_port_map(&mut self, now: Time) -> bool {
        if let Some(transmit) = self.port_map.heard.pop_transmit() {
            self.outputs.push_back(Output::Transmit(transmit));
            return true;
        }
        let Some(event) = self.port_map.heard.pop_event() else { return false };
        match event {
            portmap::Event::Router { id, request } => {
                self.outputs.push_back(Output::PortMap { id, request });
            }
            portmap::Event::ToPeer { peer, message } => self.send_to(peer, &Control::PortMap(message)),
            portmap::Event::Believed => {
                let mapped = self.port_map.mapper.as_ref().and_then(PortMapper::believed);
                if self.local.set_mapped(mapped) {
                    self.describe_reach(now);
                }
            }
            portmap::Event::Report(report) => self.tell(Event::PortMapping(report)),
        }
        true
    }

    /// Tells others what they experience: the NAT, or the port mapping that leads through it, and the addresses.
    pub(super) fn describe_reach(&mut self, now: Time) {
        let (measured, ..) = self.current_verdict(now);
        self.for_mapper(|mapper, out| mapper.set_filtering(now, measured.filtering, out));
        let mapped = self.local.mapped().is_some();
        let summary = VerdictSummary::from(&self.as_experienced(measured));
        if self.membership.own_draft().verdict.class() != summary.class() {
            self.for_rendezvous(|rendezvous| rendezvous.own_changed(now));
        }
        self.membership.set_verdict(now, summary);
        self.membership.set_mapped(now, mapped);
        self.local.set_open(matches!(measured.class(), NatClass::Direct | NatClass::FullCone));
        self.membership.set_candidates(now, self.local.candidates());
    }

    /// What others experience of a NAT that does `measured`: by a proven port mapping anyone can reach this node.
    pub(super) fn as_experienced(&self, measured: Verdict) -> Verdict {
        let open = matches!(measured.class(), NatClass::Direct | NatClass::FullCone);
        match self.local.mapped() {
            Some(_) if !open => Verdict {
                mapping: Mapping::EndpointIndependent,
                filtering: Filtering::EndpointIndependent,
                confidence: 1.0,
                ..measured
            },
            _ => measured,
        }
    }

    /// The class that others experience: by a proven port mapping anyone can reach this node.
    #[must_use]
    pub fn experienced_class(&self, now: Time) -> NatClass {
        self.as_experienced(self.current_verdict(now).0).class()
    }

    /// How things stand with the router; `None` where the operator does not want it to be asked.
    #[must_use]
    pub fn port_mapping(&self) -> Option<Status> {
        self.port_map.mapper.as_ref().map(PortMapper::status)
    }

    /// Whether the router has been asked to delete something and has not answered.
    #[must_use]
    pub fn is_releasing_port(&self) -> bool {
        self.port_map.mapper.as_ref().is_some_and(PortMapper::is_releasing)
    }
}
