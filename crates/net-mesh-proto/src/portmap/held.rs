//! What follows from having a mapping: renewal, proof, and its end.

use alloc::vec::Vec;
use core::net::SocketAddr;
use core::time::Duration;

use super::belief::{Belief, Step};
use super::mapper::{PortMapper, Rest, State, makes_sense, port};
use super::wire::{Ask, Message};
use super::{
    Answer, CHECK, CHECK_UPNP, Event, Failure, Granted, MIN_PAUSE, Protocol, REST, Report, Request, Status,
    Useless,
};
use crate::id::NodeId;
use crate::nat::Filtering;
use crate::outbox::Outbox;
use crate::time::{Deadline, Time};
use crate::wire::addr::{Scope, scope};

/// The longest lease reckoned with: what routers call for ever.
const LONGEST: Duration = Duration::from_secs(30 * 86_400);

/// How long members may see this node elsewhere than at the router's external address: what they see is told again
/// within this time.
const SEEN_GRACE: Duration = Duration::from_secs(10);

/// How long until a request for renewal that failed is made again, at first; it doubles up to [`CHECK`], and is never
/// more than half of what remains of the lease.
const RENEW_AGAIN: Duration = Duration::from_secs(5);

/// However little remains.
const RENEW_AT_LEAST: Duration = Duration::from_secs(1);

/// The least time between two renewals that a change of the network causes.
const MIN_REFRESH: Duration = Duration::from_secs(5);

/// A mapping that is held.
#[derive(Debug)]
pub(super) struct Held {
    pub(super) protocol: Protocol,
    pub(super) internal: u16,
    pub(super) granted: Granted,
    at: Time,
    refresh_at: Time,
    pub(super) asked: Option<super::RequestId>,
    /// Renewals that failed since one did not.
    failures: u32,
    pub(super) belief: Belief,
    /// It has been proven once.
    proven: bool,
    /// Since when members see this node elsewhere.
    elsewhere: Option<Time>,
    /// Protocols that have not been tried yet, should this one turn out to be of no use.
    left: Vec<Protocol>,
    /// What is to be said if none of them is.
    verdict: Option<Status>,
}

impl Held {
    fn new(now: Time, protocol: Protocol, internal: u16, granted: Granted) -> Self {
        let mut held = Self {
            protocol,
            internal,
            granted,
            at: now,
            refresh_at: now,
            asked: None,
            failures: 0,
            belief: Belief::new(now),
            proven: false,
            elsewhere: None,
            left: Vec::new(),
            verdict: None,
        };
        held.renew(now, granted);
        held
    }

    pub(super) fn expires(&self) -> Option<Time> {
        self.granted.lease.map(|lease| self.at + lease.min(LONGEST))
    }

    /// Takes in what the router granted, now or again.
    fn renew(&mut self, now: Time, granted: Granted) {
        (self.granted, self.at, self.failures) = (granted, now, 0);
        let check = if self.protocol == Protocol::UpnpIgd { CHECK_UPNP } else { CHECK };
        self.refresh_at = now + granted.lease.map_or(check, |lease| (lease / 2).min(check));
    }

    /// It was not renewed.
    fn try_again(&mut self, now: Time) {
        let wait = RENEW_AGAIN.saturating_mul(1 << self.failures.min(5)).min(CHECK);
        let most = self.expires().map_or(wait, |end| (end.since(now) / 2).max(RENEW_AT_LEAST));
        self.failures += 1;
        self.refresh_at = now + wait.min(most);
        // It may be gone with the router's memory.
        self.belief.doubt(now);
    }

    /// Something may have changed: the router is asked again soon, and members too.
    pub(super) fn doubt(&mut self, now: Time) {
        self.refresh_at = self.refresh_at.min(now.max(self.at + MIN_REFRESH));
        self.belief.doubt(now);
    }

    /// Nothing is known of it any more until the router or a member says so; returns whether it was believed.
    pub(super) fn forget_proof(&mut self, now: Time) -> bool {
        self.refresh_at = now;
        let was = self.belief.proven_by().is_some();
        self.belief = Belief::new(now);
        was
    }

    /// Whether the router has forgotten everything since it was asked last (RFC 6886 §3.6, RFC 6887 §8.5). A clock that
    /// stands still tells nothing.
    fn restarted(&self, now: Time, epoch: Option<u32>) -> bool {
        let (Some(before), Some(after)) = (self.granted.epoch, epoch) else { return false };
        let passed = (now - self.at).as_secs();
        after != before && u64::from(after) + 2 < u64::from(before) + passed - passed / 8
    }

    /// What is due next.
    pub(super) fn poll_timeout(&self) -> Option<Deadline> {
        let refresh = self.asked.is_none().then(|| Deadline::new(self.refresh_at, "renew the port mapping"));
        let end = self.expires().map(|at| Deadline::new(at, "the port mapping ends"));
        let grace =
            |since| Deadline::new(since + SEEN_GRACE, "the port mapping is not where members see this node");
        let prove =
            self.elsewhere.is_none().then(|| Deadline::new(self.belief.due(), "prove the port mapping"));
        [refresh, end, self.elsewhere.map(grace), prove].into_iter().fold(None, Deadline::earliest)
    }
}

impl PortMapper {
    /// Takes what the router granted; `left` and `verdict` are those of the search that found it.
    pub(super) fn hold(
        &mut self,
        now: Time,
        (protocol, granted): (Protocol, Granted),
        (left, verdict): (Vec<Protocol>, Option<Status>),
        out: &mut Outbox<Event>,
    ) {
        let Some(internal) = self.internal else { return };
        (self.preferred, self.wish) = (Some(protocol), granted.external.port());
        self.state = State::Held(Held { left, verdict, ..Held::new(now, protocol, internal, granted) });
        out.event(Event::Report(Report::Mapped { protocol, granted }));
    }

    pub(super) fn look_at_held(&mut self, now: Time, out: &mut Outbox<Event>) {
        let State::Held(held) = &mut self.state else { return };
        if held.expires().is_some_and(|at| at <= now) {
            return self.lose(now, "its lease ended and could not be renewed", out);
        }
        if held.asked.is_none() && held.refresh_at <= now {
            let lease = if held.granted.lease.is_some() { self.settings.lease } else { Duration::ZERO };
            let request = Request::Map {
                protocol: held.protocol,
                internal: held.internal,
                external: held.granted.external.port(),
                lease,
            };
            let id = self.ids.next();
            held.asked = Some(id);
            out.event(Event::Router { id, request });
        }
        self.look_at_belief(now, out);
    }

    fn look_at_belief(&mut self, now: Time, out: &mut Outbox<Event>) {
        let State::Held(held) = &mut self.state else { return };
        let external = held.granted.external;
        if scope(external.ip()) != Scope::Global {
            return self.useless(now, Useless::Private, out);
        }
        let mut seen = self.seen.iter().map(SocketAddr::ip).filter(|ip| ip.is_ipv4() == external.is_ipv4());
        match seen.clone().next() {
            // Nobody has said anything yet.
            None => held.elsewhere = None,
            Some(_) if seen.any(|ip| ip == external.ip()) => held.elsewhere = None,
            Some(ip) => {
                let since = *held.elsewhere.get_or_insert(now);
                if since + SEEN_GRACE <= now {
                    self.useless(now, Useless::NotWhereSeen(ip), out);
                }
                return;
            }
        }
        // Where the NAT sends from this very port, whoever was sent to may be let in without any mapping.
        let hole = matches!(self.filtering, Filtering::AddressDependent | Filtering::Unknown);
        let provable = !(hole && self.seen.contains(&external));
        match held.belief.step(now, (external, provable), &self.witnesses, &mut self.rng) {
            Step::Ask(peer, token) => {
                let message = Message::Ask(Ask { token, addr: external });
                out.event(Event::ToPeer { peer, message });
            }
            Step::Proven(by) => self.proven(by, out),
            Step::Disproved => self.useless(now, Useless::Unreached, out),
            Step::Nothing => {}
        }
    }

    /// Members have reached it: others are told.
    pub(super) fn proven(&mut self, by: NodeId, out: &mut Outbox<Event>) {
        let State::Held(held) = &mut self.state else { return };
        held.proven = true;
        held.left.clear();
        held.verdict = None;
        out.event(Event::Report(Report::Proven { external: held.granted.external, by }));
        out.event(Event::Believed);
    }

    /// An answer to a request for renewal.
    pub(super) fn renewed(&mut self, now: Time, answer: Answer, out: &mut Outbox<Event>) {
        let State::Held(held) = &mut self.state else { return };
        held.asked = None;
        let (failure, detail) = match answer {
            Answer::Mapped(granted) if makes_sense(&granted) => {
                return self.granted_again(now, granted, out);
            }
            Answer::Mapped(granted) => (Failure::Broken, alloc::format!("it granted {granted:?}")),
            Answer::Released => (Failure::Broken, alloc::string::String::new()),
            Answer::Failed { failure, detail } => (failure, detail),
        };
        let external = held.granted.external;
        held.try_again(now);
        out.event(Event::Report(Report::NotRenewed { external, failure, detail }));
        if failure == Failure::Conflict {
            self.wish = port(&mut self.rng);
            self.lose(now, "the router gave the port to another host", out);
        }
    }

    fn granted_again(&mut self, now: Time, granted: Granted, out: &mut Outbox<Event>) {
        let State::Held(held) = &mut self.state else { return };
        let protocol = held.protocol;
        let same =
            |a: &Granted, b: &Granted| a.external == b.external && a.gateway == b.gateway && a.host == b.host;
        if !same(&granted, &held.granted) {
            let search = (core::mem::take(&mut held.left), held.verdict.take());
            self.withdraw("the router has another address for it", out);
            return self.hold(now, (protocol, granted), search, out);
        }
        let forgotten = held.restarted(now, granted.epoch);
        held.renew(now, granted);
        if forgotten {
            held.belief.doubt(now);
        }
        out.event(Event::Report(Report::Renewed { protocol, granted, forgotten }));
    }

    /// Members are no longer told.
    pub(super) fn withdraw(&mut self, why: &'static str, out: &mut Outbox<Event>) {
        let State::Held(held) = &mut self.state else { return };
        let external = held.granted.external;
        let was = held.belief.proven_by().is_some();
        held.belief = Belief::new(Time::ZERO);
        out.event(Event::Report(Report::Lost { external, why }));
        if was {
            out.event(Event::Believed);
        }
    }

    /// The mapping is gone: look for another one.
    fn lose(&mut self, now: Time, why: &'static str, out: &mut Outbox<Event>) {
        self.withdraw(why, out);
        self.state = State::Resting(Rest::new(self.later(now, MIN_PAUSE), Status::Asking));
    }

    /// Gives it back, and tries what has not been tried.
    fn useless(&mut self, now: Time, why: Useless, out: &mut Outbox<Event>) {
        let State::Held(held) = &mut self.state else { return };
        let (external, left) = (held.granted.external, core::mem::take(&mut held.left));
        let status =
            Status::Useless { protocol: held.protocol, gateway: held.granted.gateway, external, why };
        let verdict = held.verdict.take().unwrap_or_else(|| status.clone());
        // What was of use once may be so again soon: a router that has been restarted or exchanged.
        let soon = held.proven || held.failures > 0;
        let at = match (left.is_empty(), soon) {
            (false, _) => now,
            (true, true) => now + self.pause(),
            (true, false) => now + REST,
        };
        self.vain = self.vain.saturating_add(1);
        out.event(Event::Report(Report::Useless { external, why }));
        self.release(out);
        let status = if left.is_empty() { verdict.clone() } else { status };
        self.state = State::Resting(Rest { at, status, left, verdict: Some(verdict) });
        out.event(Event::Believed);
    }
}
