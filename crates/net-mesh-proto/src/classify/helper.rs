//! The two roles of helping others: P, whom the node that classifies itself has asked, and H, whom P asks in turn.
//!
//! **P.** On `ProbeSetup` checks, in its own reflex server's memory, that the named transaction came from
//! exactly the named address: only then is the address the requester's. It makes a token, picks an H, sends
//! it `ProbeGrant`, and answers the requester with `ProbeOffer` once H said yes, H said no and nobody else
//! is left, or [`READY_TIMEOUT`] is over. From then on a Binding request with the token makes P's *other*
//! port send an indication to where the request came from, besides the answer from the main port.
//!
//! **H.** On `ProbeGrant` stores the token. A Binding request with it makes H's main port send an indication to
//! the granted address, besides the answer to whoever asked. H may also be asked to send a few on its own.
//!
//! **Who is picked as H.** A peer at a public address of the same family as the target, on an IP that is neither
//! P's nor the target's, that the requester did not exclude. Best are those known to be reachable by anyone,
//! then those not classified yet, then the rest; among equals chance decides, which spreads the load.
//!
//! **Bounds.** [`MAX_GRANTS`] tokens, [`MAX_GRANTS_PER_PEER`] from one peer, [`PROBES_PER_TOKEN`] probes each,
//! [`GRANT_LIFE`]. A new one is refused rather than an old one evicted. A probe is one datagram of 36 bytes.

use alloc::vec::Vec;
use core::net::{IpAddr, SocketAddr};
use core::time::Duration;

use super::wire::{
    MAX_SELF_PACED, Message, ProbeGrant, ProbeOffer, ProbeReady, ProbeRefused, ProbeSetup, Refusal, Third,
};
use super::{Event, HelperInfo, SLOT_PACE, is_public, reachability};
use crate::bounded::BoundedMap;
use crate::drops::DropReason;
use crate::id::NodeId;
use crate::outbox::{Outbox, SocketId};
use crate::reflex::Server;
use crate::reflex::stun::{self, Probe, ProbeToken};
use crate::rng::Rng;
use crate::time::{Deadline, Time};

/// Tokens that are valid at once. Each stands for one classification, which takes about a second.
const MAX_GRANTS: usize = 64;

/// Tokens from one peer: the attempts of one classification follow each other faster than tokens expire, and a
/// P may help several nodes with the same H.
const MAX_GRANTS_PER_PEER: usize = 8;

/// Probes sent for one token. The longest attempt asks for 56.
const PROBES_PER_TOKEN: u8 = 64;

/// How long a token is valid. The longest attempt takes about 5 s.
const GRANT_LIFE: Duration = Duration::from_secs(10);

/// How long P waits for H's answer: several round trips of nearly any session, and less than what the requester waits.
const READY_TIMEOUT: Duration = Duration::from_secs(1);

/// Probes that an H which may not be reachable is asked to send on its own. Arrival of one is enough, so this
/// is for loss alone: eight over 400 ms outlast most bursts.
const SELF_PACED: u8 = 8;

const _: () = assert!(SELF_PACED <= MAX_SELF_PACED);

#[derive(Clone, Debug)]
enum Role {
    /// Helping `requester`, before or after the offer.
    Primary { requester: NodeId, setup: ProbeSetup, asked: Option<Asked> },
    /// Probing `target` for someone `granted_by` helps.
    Third { granted_by: NodeId, target: SocketAddr, self_paced: u8, next: Time },
}

/// The H that P is waiting for.
#[derive(Clone, Copy, Debug)]
struct Asked {
    third: Third,
    until: Time,
}

#[derive(Clone, Debug)]
struct Grant {
    role: Role,
    expires: Time,
    left: u8,
}

impl Grant {
    fn peer(&self) -> NodeId {
        match self.role {
            Role::Primary { requester, .. } => requester,
            Role::Third { granted_by, .. } => granted_by,
        }
    }
}

/// The helping side of the protocol.
#[derive(Debug)]
pub(super) struct Prober {
    rng: Rng,
    grants: BoundedMap<ProbeToken, Grant>,
    own_ips: Vec<IpAddr>,
    other: Vec<SocketAddr>,
}

impl Prober {
    pub(super) fn new(rng: Rng) -> Self {
        Self { rng, grants: BoundedMap::new(MAX_GRANTS), own_ips: Vec::new(), other: Vec::new() }
    }

    /// The node's own addresses as seen from outside.
    pub(super) fn set_external(&mut self, main: &[SocketAddr], other: &[SocketAddr]) {
        self.own_ips = main.iter().map(SocketAddr::ip).collect();
        self.other = other.to_vec();
    }

    /// A asks P.
    pub(super) fn handle_setup(
        &mut self,
        now: Time,
        requester: NodeId,
        setup: ProbeSetup,
        helpers: &[HelperInfo],
        server: &Server,
        out: &mut Outbox<Event>,
    ) {
        let refusal = if !is_public(setup.mapped) {
            Some(Refusal::Scope)
        } else if !server.saw(now, setup.txid, setup.mapped) {
            Some(Refusal::NotSeen)
        } else if !self.has_room(now, requester) {
            Some(Refusal::Busy)
        } else {
            None
        };
        if let Some(reason) = refusal {
            let refused = ProbeRefused { txid: setup.txid, reason };
            return out.event(Event::ToPeer { peer: requester, message: Message::Refused(refused) });
        }
        let token = ProbeToken(self.rng.u64());
        let role = Role::Primary { requester, setup, asked: None };
        self.grants.insert(token, Grant { role, expires: now + GRANT_LIFE, left: PROBES_PER_TOKEN });
        self.ask_third(now, token, helpers, out);
    }

    fn has_room(&mut self, now: Time, peer: NodeId) -> bool {
        self.grants.retain(|_, grant| grant.expires > now);
        let of_peer = self.grants.iter().filter(|(_, g)| g.peer() == peer).count();
        self.grants.len() < MAX_GRANTS && of_peer < MAX_GRANTS_PER_PEER
    }

    /// Picks an H and asks it, or makes the offer without one.
    fn ask_third(&mut self, now: Time, token: ProbeToken, helpers: &[HelperInfo], out: &mut Outbox<Event>) {
        let Some(Grant { role: Role::Primary { requester, setup, asked }, .. }) = self.grants.get_mut(&token)
        else {
            return;
        };
        let fit = |h: &&HelperInfo| {
            is_public(h.addr)
                && h.addr.is_ipv4() == setup.mapped.is_ipv4()
                && h.addr.ip() != setup.mapped.ip()
                && !self.own_ips.contains(&h.addr.ip())
                && h.id != *requester
                && !setup.exclude.contains(&h.id)
        };
        let best = helpers.iter().filter(fit).map(|h| reachability(h.class)).min();
        let equals: Vec<&HelperInfo> =
            helpers.iter().filter(fit).filter(|h| Some(reachability(h.class)) == best).collect();
        let index = usize::try_from(self.rng.below(equals.len() as u64)).unwrap_or(0);
        let Some(chosen) = equals.get(index) else {
            *asked = None;
            return self.offer(token, None, out);
        };
        let rank = reachability(chosen.class);
        let third = Third { id: chosen.id, addr: chosen.addr, reachable: rank <= 1 };
        *asked = Some(Asked { third, until: now + READY_TIMEOUT });
        let count = if rank == 0 { 0 } else { SELF_PACED };
        let grant = ProbeGrant { token, target: setup.mapped, count };
        out.event(Event::ToPeer { peer: third.id, message: Message::Grant(grant) });
    }

    fn offer(&mut self, token: ProbeToken, third: Option<Third>, out: &mut Outbox<Event>) {
        let Some(Grant { role: Role::Primary { requester, setup, asked }, .. }) = self.grants.get_mut(&token)
        else {
            return;
        };
        *asked = None;
        let other_addr = self.other.iter().copied().find(|a| a.is_ipv4() == setup.mapped.is_ipv4());
        let offer = ProbeOffer { txid: setup.txid, token, other_addr, third };
        out.event(Event::ToPeer { peer: *requester, message: Message::Offer(offer) });
    }

    /// P asks H.
    pub(super) fn handle_grant(
        &mut self,
        now: Time,
        peer: NodeId,
        grant: ProbeGrant,
        out: &mut Outbox<Event>,
    ) {
        let accepted =
            is_public(grant.target) && self.has_room(now, peer) && !self.grants.contains_key(&grant.token);
        let ready = ProbeReady { token: grant.token, accepted };
        out.event(Event::ToPeer { peer, message: Message::Ready(ready) });
        if accepted {
            let role = Role::Third {
                granted_by: peer,
                target: grant.target,
                self_paced: grant.count.min(MAX_SELF_PACED),
                next: now,
            };
            self.grants
                .insert(grant.token, Grant { role, expires: now + GRANT_LIFE, left: PROBES_PER_TOKEN });
            self.send_self_paced(now, out);
        }
    }

    /// H answers P.
    pub(super) fn handle_ready(
        &mut self,
        now: Time,
        peer: NodeId,
        ready: ProbeReady,
        helpers: &[HelperInfo],
        out: &mut Outbox<Event>,
    ) {
        let waiting = match self.grants.get_mut(&ready.token) {
            Some(Grant { role: Role::Primary { setup, asked: Some(asked), .. }, .. })
                if asked.third.id == peer =>
            {
                if !ready.accepted {
                    setup.exclude.push(peer);
                }
                *asked
            }
            _ => return out.drop(DropReason::UnknownToken),
        };
        if ready.accepted {
            self.offer(ready.token, Some(waiting.third), out);
        } else {
            self.ask_third(now, ready.token, helpers, out);
        }
    }

    /// A Binding request with `probe` arrived; says whether this node gave the token out, after sending the probe.
    pub(super) fn handle_probe(
        &mut self,
        now: Time,
        socket: SocketId,
        from: SocketAddr,
        probe: Probe,
        out: &mut Outbox<Event>,
    ) -> bool {
        let grant = self.grants.get_mut(&probe.token).filter(|g| g.expires > now && g.left > 0);
        let Some(grant) = grant.filter(|_| socket == SocketId::MAIN) else {
            out.drop(DropReason::UnknownToken);
            return false;
        };
        grant.left -= 1;
        let indication = stun::probe_indication(self.rng.u96(), probe);
        match grant.role {
            Role::Primary { .. } => out.send(SocketId::OTHER, stun::canonical(from), indication),
            Role::Third { target, .. } => out.send(SocketId::MAIN, target, indication),
        }
        true
    }

    /// There is no session with `peer` any more.
    pub(super) fn session_lost(&mut self, peer: NodeId, out: &mut Outbox<Event>) {
        self.grants.retain(|_, grant| grant.peer() != peer);
        let waiting: Vec<ProbeToken> =
            self.asked().filter(|(_, a)| a.third.id == peer).map(|(t, _)| t).collect();
        for token in waiting {
            self.offer(token, None, out);
        }
    }

    fn asked(&self) -> impl Iterator<Item = (ProbeToken, Asked)> + '_ {
        self.grants.iter().filter_map(|(token, grant)| match grant.role {
            Role::Primary { asked: Some(asked), .. } => Some((*token, asked)),
            Role::Primary { asked: None, .. } | Role::Third { .. } => None,
        })
    }

    pub(super) fn poll_timeout(&self) -> Option<Deadline> {
        self.grants
            .iter()
            .filter_map(|(_, grant)| match grant.role {
                Role::Primary { asked: Some(asked), .. } => {
                    Some(Deadline::new(asked.until, "the third node does not answer"))
                }
                Role::Third { self_paced: 1.., next, .. } => {
                    Some(Deadline::new(next, "the next probe for someone"))
                }
                Role::Primary { asked: None, .. } | Role::Third { self_paced: 0, .. } => None,
            })
            .fold(None, |best, next| Deadline::earliest(best, Some(next)))
    }

    pub(super) fn handle_timeout(&mut self, now: Time, out: &mut Outbox<Event>) {
        let late: Vec<ProbeToken> = self.asked().filter(|(_, a)| a.until <= now).map(|(t, _)| t).collect();
        for token in late {
            self.offer(token, None, out);
        }
        self.send_self_paced(now, out);
    }

    fn send_self_paced(&mut self, now: Time, out: &mut Outbox<Event>) {
        for (token, grant) in self.grants.iter_mut() {
            let Role::Third { target, self_paced, next, .. } = &mut grant.role else { continue };
            if *self_paced == 0 || *next > now {
                continue;
            }
            let probe = Probe { token: *token, slot: *self_paced };
            out.send(SocketId::MAIN, *target, stun::probe_indication(self.rng.u96(), probe));
            *self_paced -= 1;
            *next = now + SLOT_PACE;
        }
    }

    /// How many tokens are remembered.
    pub(super) fn len(&self) -> usize {
        self.grants.len()
    }
}

#[cfg(test)]
#[path = "helper_tests.rs"]
mod tests;
