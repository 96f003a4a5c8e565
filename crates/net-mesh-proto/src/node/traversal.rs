//! What concerns the NAT: reflexive addresses and classification, and how the node wires them.
//!
//! Every session's peer is asked for the node's reflexive address and is a helper for classification, at
//! the address its packets come from. Reflexive addresses and the verdict go into the record.
//!
//! Questions that arrive on the main or the other socket are answered; on a fresh socket they are not,
//! since one must never send to anybody but those it was opened for.
//!
//! With [`Config::nat_traversal`](super::Config::nat_traversal) off, none of it exists: STUN is not
//! answered, nothing is asked, and the verdict stays unknown.

use alloc::vec::Vec;
use core::net::SocketAddr;
use core::time::Duration;

use super::control::Control;
use super::{Event, Node, Output};
use crate::classify::evidence::PortsSeen;
use crate::classify::{self, Classifier, HelperInfo};
use crate::drops::{DropCounts, DropReason};
use crate::id::NodeId;
use crate::nat::{NatClass, Verdict};
use crate::outbox::{Outbox, SocketId};
use crate::peer::Local;
use crate::portmap::Witness;
use crate::reflex::stun::Message;
use crate::reflex::{self, Reflex, ServerKey};
use crate::rng::Rng;
use crate::time::{Deadline, Time};

/// What is missing for a verdict where nothing concerning the NAT is done at all.
const SWITCHED_OFF: &str = "NAT traversal is switched off";

/// What is missing before the first classification has ended.
const NOT_YET: &str = "not classified yet";

/// The machines that concern the NAT.
#[derive(Debug)]
pub(super) struct Traversal {
    reflex: Reflex,
    classifier: Classifier,
    heard_reflex: Outbox<reflex::Event>,
    heard_classifier: Outbox<classify::Event>,
    stun_servers: Vec<SocketAddr>,
}

impl Traversal {
    pub(super) fn new(rng: &Rng, stun_servers: Vec<SocketAddr>) -> Self {
        Self {
            reflex: Reflex::new(rng.fork("reflex")),
            classifier: Classifier::new(rng.fork("classify")),
            heard_reflex: Outbox::new(),
            heard_classifier: Outbox::new(),
            stun_servers,
        }
    }

    pub(super) fn poll_timeout(&self) -> Option<Deadline> {
        Deadline::earliest(self.reflex.poll_timeout(), self.classifier.poll_timeout())
    }

    pub(super) fn handle_timeout(&mut self, now: Time) {
        self.reflex.handle_timeout(now, &mut self.heard_reflex);
        self.classifier.handle_timeout(now, &mut self.heard_classifier);
    }

    pub(super) fn take_drops(&mut self) -> DropCounts {
        let mut drops = self.heard_reflex.take_drops();
        drops.add(&self.heard_classifier.take_drops());
        drops
    }

    /// How many tokens are remembered for others who classify themselves.
    pub(super) fn tokens(&self) -> usize {
        self.classifier.tokens()
    }

    /// What was asked for reflexive addresses, and what came of it.
    pub(super) const fn reflex_counts(&self) -> (reflex::Asked, reflex::Told) {
        self.reflex.counts()
    }

    pub(super) fn external_ports(&self) -> Option<PortsSeen> {
        self.classifier.external_ports()
    }

    pub(super) fn network_changed(&mut self, now: Time, local: &Local) {
        self.reflex.network_changed(now, &mut self.heard_reflex);
        for server in self.stun_servers.iter().filter(|server| local.can_send_to(**server)) {
            self.reflex.add_server(now, ServerKey::Stun(*server), *server, &mut self.heard_reflex);
        }
        self.classifier.set_local(now, local.ips().to_vec(), &mut self.heard_classifier);
        self.classifier.network_changed(now, &mut self.heard_classifier);
    }

    /// A NAT gives this node another mapping: what was known of it is old.
    pub(super) fn rebound(&mut self, now: Time) {
        self.reflex.network_changed(now, &mut self.heard_reflex);
        self.classifier.reclassify(now);
    }

    pub(super) fn session_up(&mut self, now: Time, peer: NodeId, remote: SocketAddr) {
        self.reflex.add_server(now, ServerKey::Peer(peer), remote, &mut self.heard_reflex);
    }

    pub(super) fn session_down(&mut self, now: Time, peer: NodeId) {
        self.reflex.remove_server(&ServerKey::Peer(peer), &mut self.heard_reflex);
        self.classifier.session_lost(now, peer, &mut self.heard_classifier);
    }

    /// Whether there is a port besides the main one to send from, in one family.
    pub(super) fn has_other_port(&self, v6: bool) -> bool {
        self.reflex.other_external().iter().any(|addr| addr.is_ipv6() == v6)
    }

    pub(super) fn set_helpers(&mut self, now: Time, helpers: Vec<HelperInfo>) {
        self.classifier.set_helpers(now, helpers);
    }

    pub(super) fn socket_opened(&mut self, now: Time, socket: SocketId, local: SocketAddr) {
        self.classifier.socket_opened(now, socket, local, &mut self.heard_classifier);
    }

    pub(super) fn socket_failed(&mut self, now: Time, socket: SocketId) {
        self.classifier.socket_failed(now, socket, &mut self.heard_classifier);
    }

    pub(super) fn reclassify(&mut self, now: Time) {
        self.classifier.reclassify(now);
    }

    pub(super) fn handle_control(&mut self, now: Time, peer: NodeId, message: classify::wire::Message) {
        let server = self.reflex.server();
        self.classifier.handle_control(now, peer, message, server, &mut self.heard_classifier);
    }

    pub(super) fn handle_stun(&mut self, now: Time, socket: SocketId, from: SocketAddr, message: &Message) {
        let fresh = socket >= SocketId::FIRST_FRESH;
        match message {
            Message::BindingRequest(_) if fresh => self.heard_reflex.drop(DropReason::UnsupportedStun),
            Message::BindingRequest(request) => {
                let (classifier, out) = (&mut self.classifier, &mut self.heard_classifier);
                let authorised =
                    request.probe.is_some_and(|probe| classifier.handle_probe(now, socket, from, probe, out));
                self.reflex.handle_request(now, socket, from, request, authorised, &mut self.heard_reflex);
            }
            _ if fresh => {
                self.classifier.handle_stun(now, socket, from, message, &mut self.heard_classifier);
            }
            Message::BindingResponse { .. } | Message::BindingError { .. } => {
                self.reflex.handle_response(now, socket, from, message, &mut self.heard_reflex);
            }
            // On the main socket they prove port mappings, which is not this machine's business.
            Message::ProbeIndication(_) => self.heard_reflex.drop(DropReason::UnknownToken),
        }
    }
}

/// When the NAT may be looked at again for the sake of those that can only be relayed: at once, which only begins to count, and
/// so long after that.
pub(super) const FIRST_DOUBT: (Time, Duration) = (Time::ZERO, Duration::from_secs(60));

/// The longest time until it is.
const DOUBT_AT_MOST: Duration = Duration::from_secs(1800);

impl Node {
    /// The sessions there are, as classification looks at them.
    pub(super) fn update_helpers(&mut self, now: Time) {
        let Some(traversal) = &mut self.traversal else { return };
        let members = self.membership.members();
        // By a port mapping anyone can reach a member, but not at the address that its session comes from; unless that is the
        // very one that is open.
        let class = |id: &NodeId, addr: SocketAddr| match members.get(id).map(|m| m.record()) {
            Some(record) if record.flags.mapped && record.candidates.first() != Some(&addr) => {
                NatClass::PortRestricted
            }
            Some(record) => record.verdict.class(),
            None => NatClass::Unknown,
        };
        // Who is reached through others sees the address of the last of those.
        let helper = |s: crate::peer::Session| {
            let addr = s.route.direct()?;
            Some(HelperInfo { id: s.peer, addr, class: class(&s.peer, addr), rtt: s.rtt })
        };
        let helpers: Vec<HelperInfo> = self.arbiter.sessions().filter_map(helper).collect();
        let witnesses: Vec<Witness> = helpers.iter().map(|h| Witness { id: h.id, addr: h.addr }).collect();
        traversal.set_helpers(now, helpers);
        self.for_mapper(|mapper, out| mapper.set_witnesses(now, witnesses.clone(), out));
        self.for_open_port(|open, out| open.set_witnesses(now, witnesses, out));
    }

    /// Hears the next thing that these machines have to say; returns whether there was one.
    pub(super) fn hear_traversal(&mut self, now: Time) -> bool {
        let Some(traversal) = &mut self.traversal else { return false };
        let transmit =
            traversal.heard_reflex.pop_transmit().or_else(|| traversal.heard_classifier.pop_transmit());
        if let Some(transmit) = transmit {
            self.outputs.push_back(Output::Transmit(transmit));
        } else if let Some(event) = traversal.heard_reflex.pop_event() {
            self.hear_reflex(now, event);
        } else if let Some(event) = traversal.heard_classifier.pop_event() {
            self.hear_classifier(now, event);
        } else {
            return false;
        }
        true
    }

    fn hear_reflex(&mut self, now: Time, event: reflex::Event) {
        let Some(traversal) = &mut self.traversal else { return };
        let other = traversal.reflex.other_external();
        match event {
            reflex::Event::Reflexive(main) => {
                traversal.classifier.set_external(now, &main, &other);
                if self.local.set_reflexive(main) {
                    self.membership.set_candidates(now, self.local.candidates());
                    self.for_rendezvous(|rendezvous| rendezvous.own_varied(now));
                    self.tell(Event::Reflexive(self.local.reflexive().to_vec()));
                    let seen = self.local.reflexive().to_vec();
                    self.for_mapper(|mapper, out| mapper.set_seen(now, &seen, out));
                    self.describe_reach(now);
                }
            }
            reflex::Event::OtherExternal(other) => {
                traversal.classifier.set_external(now, self.local.reflexive(), &other);
            }
        }
    }

    fn hear_classifier(&mut self, now: Time, event: classify::Event) {
        match event {
            classify::Event::OpenSocket { socket, v6 } => {
                self.outputs.push_back(Output::OpenSocket { socket, v6 });
            }
            classify::Event::CloseSocket { socket } => {
                self.outputs.push_back(Output::CloseSocket { socket });
            }
            classify::Event::ToPeer { peer, message } => self.send_to(peer, &Control::Classify(message)),
            classify::Event::Verdict { verdict, missing } => {
                self.describe_reach(now);
                self.tell(Event::Classified { verdict, missing });
            }
        }
    }

    /// Looks at the NAT again while somebody can only be relayed for what it was found to do: it may be another one by now, or
    /// have been taken for worse in a bad moment. Ever more rarely.
    pub(super) fn doubt_verdict(&mut self, now: Time) {
        let (at, pause) = self.doubt;
        if now < at {
            return;
        }
        let relayed =
            |s: &crate::peer::Session| s.route.direct().is_none() && self.hopeless(&s.peer).is_some();
        if self.arbiter.sessions().any(|s| relayed(&s)) {
            self.doubt = (now + pause, (2 * pause).min(DOUBT_AT_MOST));
            // The first look is at what has only just been found.
            if at > Time::ZERO {
                self.for_traversal(|traversal| traversal.reclassify(now));
            }
        } else {
            self.doubt = FIRST_DOUBT;
        }
    }

    pub(super) fn current_verdict(&self, now: Time) -> (Verdict, Option<Duration>, Option<&'static str>) {
        let Some(traversal) = &self.traversal else {
            return (Verdict::UNKNOWN, None, Some(SWITCHED_OFF));
        };
        match traversal.classifier.verdict() {
            Some((verdict, at)) => (verdict, Some(now - at), traversal.classifier.missing()),
            None => (Verdict::UNKNOWN, None, Some(NOT_YET)),
        }
    }
}
