//! When is which router asked for what, and what follows from its answers?

use alloc::string::String;
use alloc::vec::Vec;
use core::net::{IpAddr, SocketAddr};
use core::time::Duration;

use super::belief::{Belief, Step, Witness};
use super::wire::{Ask, Message, Told};
use super::{
    Answer, CHECK, CHECK_UPNP, Event, Failure, Granted, LEASES, MIN_LEASE, MIN_PAUSE, Protocol, REST, Report,
    Request, RequestId, Settings, Status, Useless,
};
use crate::id::NodeId;
use crate::outbox::Outbox;
use crate::peer::Local;
use crate::reflex::stun::ProbeToken;
use crate::rng::Rng;
use crate::time::{Deadline, Time};
use crate::wire::addr::{Scope, scope};

/// Other ports tried where one is taken.
const MOVES: u8 = 4;

/// The longest lease reckoned with: what routers call for ever.
const LONGEST: Duration = Duration::from_secs(30 * 86_400);

/// How long members may see this node elsewhere than at the router's external address: what they see is told again
/// within this time.
const SEEN_GRACE: Duration = Duration::from_secs(10);

/// How long until a request for renewal that failed is made again, at first; it doubles up to [`CHECK`].
const RENEW_AGAIN: Duration = Duration::from_secs(5);

/// Renewals of a mapping without end that may fail before it is taken for lost.
const MAX_FAILURES: u32 = 5;

/// The least time between two renewals that a change of the network causes.
const MIN_REFRESH: Duration = Duration::from_secs(5);

/// External ports are chosen from here on: below are those of services.
const FIRST_PORT: u16 = 20_000;

/// A search: one protocol after the other.
#[derive(Debug)]
struct Search {
    /// Those that have not been tried, the next one last.
    left: Vec<Protocol>,
    protocol: Protocol,
    asked: RequestId,
    external: u16,
    lease: Duration,
    moves: u8,
    /// What someone said who answered.
    refused: Option<(Protocol, Failure, String)>,
}

/// A mapping that is held.
#[derive(Debug)]
struct Held {
    protocol: Protocol,
    internal: u16,
    granted: Granted,
    at: Time,
    refresh_at: Time,
    asked: Option<RequestId>,
    failures: u32,
    belief: Belief,
    /// Since when members see this node elsewhere.
    elsewhere: Option<Time>,
}

impl Held {
    fn expires(&self) -> Option<Time> {
        self.granted.lease.map(|lease| self.at + lease.min(LONGEST))
    }

    /// Takes in what the router granted, now or again.
    fn renew(&mut self, now: Time, granted: Granted) {
        (self.granted, self.at, self.failures) = (granted, now, 0);
        let check = if self.protocol == Protocol::UpnpIgd { CHECK_UPNP } else { CHECK };
        self.refresh_at = now + granted.lease.map_or(check, |lease| (lease / 2).min(check));
    }

    fn refresh_soon(&mut self, now: Time) {
        self.refresh_at = self.refresh_at.min(now.max(self.at + MIN_REFRESH));
    }

    /// Whether the router has forgotten everything since it was asked last (RFC 6886 §3.6, RFC 6887 §8.5).
    fn restarted(&self, now: Time, epoch: Option<u32>) -> bool {
        let (Some(before), Some(after)) = (self.granted.epoch, epoch) else { return false };
        let passed = (now - self.at).as_secs();
        u64::from(after) + 2 < u64::from(before) + passed - passed / 8
    }
}

#[derive(Debug)]
enum State {
    /// There is nothing to ask for.
    Idle,
    /// Waiting for this instant, or for a change.
    Resting(Time, Status),
    Searching(Search),
    Held(Held),
    Left,
}

/// A deletion that the router has not answered yet.
#[derive(Clone, Copy, Debug)]
struct Release {
    id: RequestId,
    external: SocketAddr,
    for_ever: bool,
}

/// The machine that asks the router.
#[derive(Debug)]
pub struct PortMapper {
    rng: Rng,
    settings: Settings,
    /// The port of this host, where there is something to ask for.
    internal: Option<u16>,
    ips: Vec<IpAddr>,
    seen: Vec<SocketAddr>,
    witnesses: Vec<Witness>,
    /// What worked last.
    preferred: Option<Protocol>,
    /// The external port that is wished for, the same for as long as it can be had.
    wish: u16,
    searched: Option<Time>,
    next_id: u64,
    state: State,
    releasing: Option<Release>,
    /// A request of a search that is over, which may still be granted.
    abandoned: Option<(RequestId, Protocol, u16)>,
}

impl PortMapper {
    /// One that has not seen a network yet. `rng` is a stream of its own.
    #[must_use]
    pub fn new(mut rng: Rng, settings: Settings) -> Self {
        let lease = settings.lease.clamp(LEASES.0, LEASES.1);
        let wish = port(&mut rng);
        Self {
            rng,
            settings: Settings { lease },
            internal: None,
            ips: Vec::new(),
            seen: Vec::new(),
            witnesses: Vec::new(),
            preferred: None,
            wish,
            searched: None,
            next_id: 0,
            state: State::Idle,
            releasing: None,
            abandoned: None,
        }
    }

    /// How things stand.
    #[must_use]
    pub fn status(&self) -> Status {
        match &self.state {
            State::Idle => Status::NotNeeded,
            State::Resting(_, status) => status.clone(),
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
        let private: Vec<IpAddr> =
            local.ips().iter().copied().filter(|ip| ip.is_ipv4() && scope(*ip) == Scope::Private).collect();
        let internal = local.main()[0].filter(|port| *port != 0 && !private.is_empty());
        let moved = self.ips != private || self.internal != internal;
        if matches!(self.state, State::Left) {
            return;
        }
        if moved {
            self.abandon();
        }
        (self.ips, self.internal) = (private, internal);
        if internal.is_none() {
            self.give_up("this host has no private address any more", State::Idle, out);
            return;
        }
        match &mut self.state {
            State::Held(held) if !moved => {
                held.refresh_soon(now);
                held.belief.doubt(now);
            }
            // What it was granted leads to an address that this host no longer has.
            State::Held(_) => {
                let soon = State::Resting(now, Status::Asking);
                self.give_up("this host has another address", soon, out);
            }
            State::Searching(_) if !moved => {}
            State::Idle | State::Resting(..) | State::Searching(_) => {
                let at = self.searched.map_or(now, |at| now.max(at + MIN_PAUSE));
                let status = match &self.state {
                    State::Resting(_, status) => status.clone(),
                    _ => Status::Asking,
                };
                self.state = State::Resting(at, status);
            }
            State::Left => {}
        }
        self.handle_timeout(now, out);
    }

    /// The addresses at which members see this node.
    pub fn set_seen(&mut self, now: Time, seen: &[SocketAddr], out: &mut Outbox<Event>) {
        if self.seen != seen {
            self.seen = seen.to_vec();
            match &mut self.state {
                State::Held(held) => {
                    // A router with a new address may have restarted.
                    held.refresh_soon(now);
                    held.belief.doubt(now);
                }
                State::Resting(at, Status::Useless { .. }) => *at = (*at).min(now + MIN_PAUSE),
                _ => {}
            }
        }
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
        if self.releasing.is_some_and(|release| release.id == id) {
            return self.released(answer, out);
        }
        match &self.state {
            State::Searching(search) if search.asked == id => self.found(now, answer, out),
            State::Held(held) if held.asked == Some(id) => self.renewed(now, answer, out),
            _ => self.unwanted(id, &answer, out),
        }
        self.handle_timeout(now, out);
    }

    /// An answer that nobody waits for any more: what was granted is given back.
    fn unwanted(&mut self, id: RequestId, answer: &Answer, out: &mut Outbox<Event>) {
        let Some((_, protocol, internal)) = self.abandoned.take_if(|(asked, ..)| *asked == id) else {
            return;
        };
        if let Answer::Mapped(granted) = answer {
            self.release_this(protocol, internal, granted, out);
        }
    }

    /// A member answers whether it has sent.
    pub fn handle_told(&mut self, now: Time, peer: NodeId, told: Told, out: &mut Outbox<Event>) {
        if let State::Held(held) = &mut self.state {
            held.belief.told(now, peer, told.token, told.outcome);
        }
        self.handle_timeout(now, out);
    }

    /// A probe with `token` arrived on the main socket; returns whether it was asked for here.
    pub fn heard(&mut self, now: Time, token: ProbeToken, out: &mut Outbox<Event>) -> bool {
        let State::Held(held) = &mut self.state else { return false };
        let was = held.belief.proven_by();
        let Some(by) = held.belief.heard(now, token) else { return false };
        if was.is_none() {
            let external = held.granted.external;
            out.event(Event::Report(Report::Proven { external, by }));
            out.event(Event::Believed);
        }
        true
    }

    /// The node is leaving: gives back what it holds.
    pub fn leave(&mut self, out: &mut Outbox<Event>) {
        self.give_up("this node is leaving", State::Left, out);
    }

    /// Whether a deletion is under way.
    #[must_use]
    pub const fn is_releasing(&self) -> bool {
        self.releasing.is_some() || self.abandoned.is_some()
    }

    /// When [`Self::handle_timeout`] wants to be called.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<Deadline> {
        match &self.state {
            State::Resting(at, _) => Some(Deadline::new(*at, "look for a router")),
            State::Held(held) => {
                let refresh =
                    held.asked.is_none().then(|| Deadline::new(held.refresh_at, "renew the port mapping"));
                let end = held.expires().map(|at| Deadline::new(at, "the port mapping ends"));
                let elsewhere = held.elsewhere.map(|since| {
                    Deadline::new(since + SEEN_GRACE, "the port mapping is not where members see this node")
                });
                let prove = held
                    .elsewhere
                    .is_none()
                    .then(|| Deadline::new(held.belief.due(), "prove the port mapping"));
                [refresh, end, elsewhere, prove].into_iter().fold(None, Deadline::earliest)
            }
            State::Idle | State::Searching(_) | State::Left => None,
        }
    }

    /// Does what is due.
    pub fn handle_timeout(&mut self, now: Time, out: &mut Outbox<Event>) {
        self.look_at_held(now, out);
        if let State::Resting(at, _) = &self.state
            && *at <= now
        {
            self.search(now, out);
        }
    }

    fn look_at_held(&mut self, now: Time, out: &mut Outbox<Event>) {
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
            let id = RequestId(self.next_id);
            self.next_id += 1;
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
        match held.belief.step(now, external, &self.witnesses, &mut self.rng) {
            Step::Ask(peer, token) => {
                let message = Message::Ask(Ask { token, addr: external });
                out.event(Event::ToPeer { peer, message });
            }
            Step::Disproved => self.useless(now, Useless::Unreached, out),
            Step::Nothing => {}
        }
    }

    /// Begins with the first protocol.
    fn search(&mut self, now: Time, out: &mut Outbox<Event>) {
        if self.internal.is_none() {
            self.state = State::Idle;
            return;
        }
        self.searched = Some(now);
        let mut left: Vec<Protocol> = Protocol::ALL.into_iter().rev().collect();
        if let Some(preferred) = self.preferred {
            left.retain(|protocol| *protocol != preferred);
            left.push(preferred);
        }
        self.try_next(now, left, None, out);
    }

    fn try_next(
        &mut self,
        now: Time,
        mut left: Vec<Protocol>,
        refused: Option<(Protocol, Failure, String)>,
        out: &mut Outbox<Event>,
    ) {
        let Some(protocol) = left.pop() else {
            return self.nobody_maps(now, refused, out);
        };
        // A port at which members see this node already would be open to some of them without any mapping.
        while self.seen.iter().any(|seen| seen.port() == self.wish) || self.internal == Some(self.wish) {
            self.wish = port(&mut self.rng);
        }
        let search = Search {
            left,
            protocol,
            asked: RequestId(0),
            external: self.wish,
            lease: self.settings.lease,
            moves: 0,
            refused,
        };
        self.ask(search, out);
    }

    fn ask(&mut self, mut search: Search, out: &mut Outbox<Event>) {
        let Some(internal) = self.internal else { return };
        search.asked = RequestId(self.next_id);
        self.next_id += 1;
        let Search { protocol, external, lease, .. } = search;
        let request = Request::Map { protocol, internal, external, lease };
        out.event(Event::Router { id: search.asked, request });
        self.state = State::Searching(search);
    }

    fn nobody_maps(
        &mut self,
        now: Time,
        refused: Option<(Protocol, Failure, String)>,
        out: &mut Outbox<Event>,
    ) {
        let (status, report) = match refused {
            None => (Status::NoRouter, Report::NoRouter),
            Some((protocol, failure, detail)) => {
                (Status::Refused { protocol, failure }, Report::Refused { protocol, failure, detail })
            }
        };
        self.state = State::Resting(now + REST, status);
        out.event(Event::Report(report));
    }

    /// An answer while searching.
    fn found(&mut self, now: Time, answer: Answer, out: &mut Outbox<Event>) {
        let State::Searching(mut search) = core::mem::replace(&mut self.state, State::Idle) else { return };
        let protocol = search.protocol;
        let (failure, detail) = match answer {
            Answer::Mapped(granted) if makes_sense(&granted) => {
                return self.hold(now, protocol, granted, out);
            }
            Answer::Mapped(granted) => (Failure::Broken, alloc::format!("it granted {granted:?}")),
            Answer::Released => (Failure::Broken, String::new()),
            Answer::Failed { failure, detail } => (failure, detail),
        };
        match failure {
            Failure::Conflict if search.moves < MOVES => {
                search.moves += 1;
                self.wish = port(&mut self.rng);
                search.external = self.wish;
                return self.ask(search, out);
            }
            Failure::PermanentOnly if search.lease > Duration::ZERO => {
                search.lease = Duration::ZERO;
                return self.ask(search, out);
            }
            Failure::SamePort if self.internal.is_some_and(|port| port != search.external) => {
                search.external = self.internal.unwrap_or(search.external);
                return self.ask(search, out);
            }
            _ => {}
        }
        let answered = !matches!(failure, Failure::NoRouter | Failure::Unsupported | Failure::Local);
        let refused = if answered { Some((protocol, failure, detail)) } else { None };
        self.try_next(now, search.left, search.refused.or(refused), out);
    }

    fn hold(&mut self, now: Time, protocol: Protocol, granted: Granted, out: &mut Outbox<Event>) {
        let Some(internal) = self.internal else { return };
        (self.preferred, self.wish) = (Some(protocol), granted.external.port());
        let mut held = Held {
            protocol,
            internal,
            granted,
            at: now,
            refresh_at: now,
            asked: None,
            failures: 0,
            belief: Belief::new(now),
            elsewhere: None,
        };
        held.renew(now, granted);
        self.state = State::Held(held);
        out.event(Event::Report(Report::Mapped { protocol, granted }));
    }

    /// An answer to a request for renewal.
    fn renewed(&mut self, now: Time, answer: Answer, out: &mut Outbox<Event>) {
        let State::Held(held) = &mut self.state else { return };
        held.asked = None;
        let (failure, detail) = match answer {
            Answer::Mapped(granted) if makes_sense(&granted) => {
                let forgotten = held.restarted(now, granted.epoch);
                let elsewhere =
                    granted.external != held.granted.external || granted.gateway != held.granted.gateway;
                if elsewhere {
                    let protocol = held.protocol;
                    self.withdraw("the router has another address for it", out);
                    return self.hold(now, protocol, granted, out);
                }
                held.renew(now, granted);
                if forgotten {
                    held.belief.doubt(now);
                }
                let protocol = held.protocol;
                out.event(Event::Report(Report::Renewed { protocol, granted, forgotten }));
                return;
            }
            Answer::Mapped(_) | Answer::Released => (Failure::Broken, String::new()),
            Answer::Failed { failure, detail } => (failure, detail),
        };
        let external = held.granted.external;
        out.event(Event::Report(Report::NotRenewed { external, failure, detail }));
        if failure == Failure::Conflict {
            self.wish = port(&mut self.rng);
            return self.lose(now, "the router gave the port to another host", out);
        }
        held.failures += 1;
        if held.granted.lease.is_none() && held.failures >= MAX_FAILURES {
            return self.lose(now, "the router does not answer any more", out);
        }
        held.refresh_at = now + RENEW_AGAIN.saturating_mul(1 << held.failures.min(5)).min(CHECK);
        // It may be gone with the router's memory.
        held.belief.doubt(now);
    }

    /// Members are no longer told.
    fn withdraw(&mut self, why: &'static str, out: &mut Outbox<Event>) {
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
        let at = self.searched.map_or(now, |at| now.max(at + MIN_PAUSE));
        self.state = State::Resting(at, Status::Asking);
    }

    fn useless(&mut self, now: Time, why: Useless, out: &mut Outbox<Event>) {
        let State::Held(held) = &self.state else { return };
        let external = held.granted.external;
        let status =
            Status::Useless { protocol: held.protocol, gateway: held.granted.gateway, external, why };
        out.event(Event::Report(Report::Useless { external, why }));
        self.release(out);
        self.state = State::Resting(now + REST, status);
        out.event(Event::Believed);
    }

    /// Lets go of what is held, if anything, and becomes `next`.
    fn give_up(&mut self, why: &'static str, next: State, out: &mut Outbox<Event>) {
        self.abandon();
        self.release(out);
        self.withdraw(why, out);
        self.state = next;
    }

    /// The search is over, whatever its last request comes to.
    fn abandon(&mut self) {
        if let (State::Searching(search), Some(internal)) = (&self.state, self.internal) {
            self.abandoned = Some((search.asked, search.protocol, internal));
        }
    }

    /// Asks the router to delete what is held.
    fn release(&mut self, out: &mut Outbox<Event>) {
        let State::Held(held) = &self.state else { return };
        let (protocol, internal, granted) = (held.protocol, held.internal, held.granted);
        self.release_this(protocol, internal, &granted, out);
    }

    fn release_this(
        &mut self,
        protocol: Protocol,
        internal: u16,
        granted: &Granted,
        out: &mut Outbox<Event>,
    ) {
        let external = granted.external;
        let request = Request::Release { protocol, internal, external: external.port() };
        let id = RequestId(self.next_id);
        self.next_id += 1;
        self.releasing = Some(Release { id, external, for_ever: granted.lease.is_none() });
        out.event(Event::Router { id, request });
    }

    fn released(&mut self, answer: Answer, out: &mut Outbox<Event>) {
        let Some(Release { external, for_ever, .. }) = self.releasing.take() else { return };
        let report = match answer {
            Answer::Released => Report::Released { external },
            Answer::Mapped(_) => {
                Report::NotReleased { external, failure: Failure::Broken, detail: String::new(), for_ever }
            }
            Answer::Failed { failure, detail } => Report::NotReleased { external, failure, detail, for_ever },
        };
        out.event(Event::Report(report));
    }
}

fn port(rng: &mut Rng) -> u16 {
    let span = u64::from(u16::MAX - FIRST_PORT);
    FIRST_PORT + u16::try_from(rng.below(span)).unwrap_or(0)
}

/// Whether a grant can be what the router means.
fn makes_sense(granted: &Granted) -> bool {
    granted.external.port() != 0
        && scope(granted.external.ip()) > Scope::LinkLocal
        && granted.lease.is_none_or(|lease| lease >= MIN_LEASE)
}
