//! When is which router asked for what?

use alloc::vec::Vec;
use core::net::{IpAddr, SocketAddr};
use core::time::Duration;

use super::belief::{Heard, Witness};
use super::debts::Debts;
use super::held::Held;
use super::search::Search;
use super::wire::Told;
use super::{
    Answer, Event, Granted, LEASES, MIN_LEASE, MIN_PAUSE, Protocol, REST, RequestId, Settings, Status,
    Useless,
};
use crate::id::NodeId;
use crate::nat::Filtering;
use crate::outbox::Outbox;
use crate::peer::Local;
use crate::reflex::stun::ProbeToken;
use crate::rng::Rng;
use crate::time::{Deadline, Time};
use crate::wire::addr::{Scope, scope};

/// External ports are chosen from here on: below are those of services.
const FIRST_PORT: u16 = 20_000;

/// Names requests.
#[derive(Debug, Default)]
pub(super) struct Ids(u64);

impl Ids {
    pub(super) const fn next(&mut self) -> RequestId {
        self.0 += 1;
        RequestId(self.0)
    }
}

/// Waiting for an instant, or for a change.
#[derive(Debug)]
pub(super) struct Rest {
    pub(super) at: Time,
    pub(super) status: Status,
    /// The protocols to go on with; all of them where empty.
    pub(super) left: Vec<Protocol>,
    /// What is to be said if none of those maps either.
    pub(super) verdict: Option<Status>,
}

impl Rest {
    /// Until `at`; then everything is tried anew.
    pub(super) const fn new(at: Time, status: Status) -> Self {
        Self { at, status, left: Vec::new(), verdict: None }
    }
}

#[derive(Debug)]
#[allow(clippy::large_enum_variant, reason = "there is one of them in a node")]
pub(super) enum State {
    /// There is nothing to ask for.
    Idle,
    Resting(Rest),
    Searching(Search),
    Held(Held),
    Left,
}

/// The machine that asks the router.
#[derive(Debug)]
pub struct PortMapper {
    pub(super) rng: Rng,
    pub(super) settings: Settings,
    /// The port of this host, where there is something to ask for.
    pub(super) internal: Option<u16>,
    /// The private addresses of this host.
    pub(super) ips: Vec<IpAddr>,
    pub(super) seen: Vec<SocketAddr>,
    /// Whom the NAT lets in without a mapping.
    pub(super) filtering: Filtering,
    pub(super) witnesses: Vec<Witness>,
    /// What worked last.
    pub(super) preferred: Option<Protocol>,
    /// The external port that is wished for, the same for as long as it can be had.
    pub(super) wish: u16,
    pub(super) searched: Option<Time>,
    /// Searches that came to nothing, since the network was another.
    pub(super) vain: u32,
    pub(super) ids: Ids,
    pub(super) state: State,
    pub(super) debts: Debts,
}

impl PortMapper {
    /// One that has not seen a network yet. `rng` is a stream of its own.
    #[must_use]
    pub fn new(mut rng: Rng, settings: Settings) -> Self {
        let lease = settings.lease.clamp(LEASES.0, LEASES.1);
        let wish = settings.wish.map_or_else(|| port(&mut rng), |n| FIRST_PORT + n % (u16::MAX - FIRST_PORT));
        Self {
            rng,
            settings: Settings { lease, ..settings },
            internal: None,
            ips: Vec::new(),
            seen: Vec::new(),
            filtering: Filtering::Unknown,
            witnesses: Vec::new(),
            preferred: None,
            wish,
            searched: None,
            vain: 0,
            ids: Ids::default(),
            state: State::Idle,
            debts: Debts::default(),
        }
    }

    /// How things stand.
    #[must_use]
    pub fn status(&self) -> Status {
        match &self.state {
            State::Idle => Status::NotNeeded,
            State::Resting(rest) => rest.status.clone(),
            State::Searching(_) => Status::Asking,
            State::Left => Status::Left,
            State::Held(held) => Status::Mapped {
                protocol: held.protocol,
                gateway: held.granted.gateway,
                external: held.granted.external,
                expires: held.expires(),
                proven_by: held.belief.proven_by(),
            },
        }
    }

    /// The address at which anyone can reach this node by its mapping, once a member has.
    #[must_use]
    pub fn believed(&self) -> Option<SocketAddr> {
        match &self.state {
            State::Held(held) if held.belief.proven_by().is_some() => Some(held.granted.external),
            _ => None,
        }
    }

    /// The network is as it is now: at the start, and whenever it may have changed, also where nothing looks different.
    pub fn network_changed(&mut self, now: Time, local: &Local, out: &mut Outbox<Event>) {
        if matches!(self.state, State::Left) {
            return;
        }
        let private = |ip: &IpAddr| ip.is_ipv4() && scope(*ip) == Scope::Private;
        let ips: Vec<IpAddr> = local.ips().iter().copied().filter(private).collect();
        let internal = local.main()[0].filter(|port| *port != 0 && !ips.is_empty());
        let same_port = self.internal == internal;
        if !same_port {
            self.abandon();
        }
        if self.ips != ips {
            // Interfaces that come and go are no reason to ask as if nobody had before.
            self.vain = self.vain.min(1);
        }
        (self.ips, self.internal) = (ips, internal);
        if internal.is_none() {
            self.give_up("this host has no private address any more", State::Idle, out);
            return;
        }
        let later = self.later(now, self.pause());
        match &mut self.state {
            State::Held(held) if same_port && self.ips.contains(&held.granted.host) => held.doubt(now),
            // What it was granted leads to an address that this host no longer has.
            State::Held(_) => {
                let soon = State::Resting(Rest::new(self.later(now, MIN_PAUSE), Status::Asking));
                self.give_up("this host has another address", soon, out);
            }
            State::Searching(search) if same_port => search.again = true,
            State::Idle | State::Searching(_) => {
                self.state = State::Resting(Rest::new(later, Status::Asking));
            }
            State::Resting(rest) => rest.at = rest.at.min(later),
            State::Left => {}
        }
        self.handle_timeout(now, out);
    }

    /// The host slept: how long is not known, and whatever was proven is not any more.
    pub fn slept(&mut self, now: Time, out: &mut Outbox<Event>) {
        if let State::Held(held) = &mut self.state
            && held.forget_proof(now)
        {
            out.event(Event::Believed);
        }
        self.handle_timeout(now, out);
    }

    /// The addresses at which members see this node.
    pub fn set_seen(&mut self, now: Time, seen: &[SocketAddr], out: &mut Outbox<Event>) {
        let before = ips(&self.seen);
        self.seen = seen.to_vec();
        let after = ips(&self.seen);
        if before != after {
            let later = self.later(now, MIN_PAUSE);
            match &mut self.state {
                // A router with a new address may have restarted.
                State::Held(held) => held.doubt(now),
                State::Resting(rest) => {
                    if let Status::Useless { external, why: Useless::NotWhereSeen(_), .. } = &rest.status
                        && after.contains(&external.ip())
                    {
                        rest.at = rest.at.min(later);
                    }
                }
                _ => {}
            }
        }
        self.handle_timeout(now, out);
    }

    /// Whom the NAT lets in, as far as that has been measured.
    pub fn set_filtering(&mut self, now: Time, filtering: Filtering, out: &mut Outbox<Event>) {
        self.filtering = filtering;
        self.handle_timeout(now, out);
    }

    /// The members with direct sessions.
    pub fn set_witnesses(&mut self, now: Time, witnesses: Vec<Witness>, out: &mut Outbox<Event>) {
        let more = witnesses.iter().any(|w| !self.witnesses.contains(w));
        self.witnesses = witnesses;
        if let State::Held(held) = &mut self.state
            && more
            && held.belief.proven_by().is_none()
        {
            held.belief.doubt(now);
        }
        self.handle_timeout(now, out);
    }

    /// The router has answered, or has not in time.
    pub fn answered(&mut self, now: Time, id: RequestId, answer: Answer, out: &mut Outbox<Event>) {
        if let Some(answer) = self.settle_debt(id, answer, out) {
            match &self.state {
                State::Searching(search) if search.asked == id => self.found(now, answer, out),
                State::Held(held) if held.asked == Some(id) => self.renewed(now, answer, out),
                // What was renewed after it was given back is given back by the deletion that went out behind it.
                _ => {}
            }
        }
        self.handle_timeout(now, out);
    }

    /// A member answers whether it has sent.
    pub fn handle_told(&mut self, now: Time, peer: NodeId, told: Told, out: &mut Outbox<Event>) {
        if let State::Held(held) = &mut self.state {
            held.belief.told(now, peer, told.token, told.outcome);
        }
        self.handle_timeout(now, out);
    }

    /// A probe with `token` arrived on the main socket, sent by `from`; returns whether it was asked for here.
    pub fn heard(&mut self, now: Time, from: SocketAddr, token: ProbeToken, out: &mut Outbox<Event>) -> bool {
        let State::Held(held) = &mut self.state else { return false };
        match held.belief.heard(now, from, token) {
            Heard::Unknown => return false,
            Heard::Nothing => {}
            Heard::Again => self.vain = 0,
            Heard::Proven(by) => self.proven(by, out),
        }
        self.handle_timeout(now, out);
        true
    }

    /// The node is leaving: gives back what it holds.
    pub fn leave(&mut self, out: &mut Outbox<Event>) {
        self.abandon();
        self.give_up("this node is leaving", State::Left, out);
    }

    /// Whether a deletion is under way.
    #[must_use]
    pub const fn is_releasing(&self) -> bool {
        !self.debts.is_empty()
    }

    /// When [`Self::handle_timeout`] wants to be called.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<Deadline> {
        match &self.state {
            // What is given back comes first: its answer is waited for.
            State::Resting(rest) if self.debts.is_empty() => {
                Some(Deadline::new(rest.at, "look for a router"))
            }
            State::Held(held) => held.poll_timeout(),
            State::Idle | State::Resting(_) | State::Searching(_) | State::Left => None,
        }
    }

    /// Does what is due.
    pub fn handle_timeout(&mut self, now: Time, out: &mut Outbox<Event>) {
        self.look_at_held(now, out);
        if let State::Resting(rest) = &self.state
            && rest.at <= now
            && self.debts.is_empty()
        {
            self.search(now, out);
        }
    }

    /// How long after a search another one may begin because something has changed: longer each time that it came to
    /// nothing.
    pub(super) fn pause(&self) -> Duration {
        MIN_PAUSE.saturating_mul(1 << self.vain.min(8)).min(REST)
    }

    /// When the next search may begin, `pause` after the last one.
    pub(super) fn later(&self, now: Time, pause: Duration) -> Time {
        self.searched.map_or(now, |at| now.max(at + pause))
    }

    /// Lets go of what is held, if anything, and becomes `next`.
    fn give_up(&mut self, why: &'static str, next: State, out: &mut Outbox<Event>) {
        self.release(out);
        self.withdraw(why, out);
        self.state = next;
    }

    /// The search is over, whatever its last request comes to.
    fn abandon(&mut self) {
        if let (State::Searching(search), Some(internal)) = (&self.state, self.internal) {
            self.debts.abandon(search.asked, search.protocol, internal);
        }
    }

    /// Asks the router to delete what is held.
    pub(super) fn release(&mut self, out: &mut Outbox<Event>) {
        let State::Held(held) = &self.state else { return };
        let (protocol, internal, granted) = (held.protocol, held.internal, held.granted);
        self.release_this(protocol, internal, &granted, out);
    }
}

/// The different IPs among `addrs`.
fn ips(addrs: &[SocketAddr]) -> Vec<IpAddr> {
    let mut ips: Vec<IpAddr> = addrs.iter().map(SocketAddr::ip).collect();
    ips.sort_unstable();
    ips.dedup();
    ips
}

/// One to wish for.
pub(super) fn port(rng: &mut Rng) -> u16 {
    let span = u64::from(u16::MAX - FIRST_PORT);
    FIRST_PORT + u16::try_from(rng.below(span)).unwrap_or(0)
}

/// Whether a grant can be what the router means.
pub(super) fn makes_sense(granted: &Granted) -> bool {
    granted.external.port() != 0
        && scope(granted.external.ip()) > Scope::LinkLocal
        && granted.lease.is_none_or(|lease| lease >= MIN_LEASE)
}
