//! What does the NAT in front of this node do?
//!
//! The questions are those of RFC 5780, asked of members of the mesh: does the external address depend on the
//! destination (*mapping*), and whose packets are let in (*filtering*)?
//!
//! # Roles
//! **A** classifies itself. **P**, the primary helper, has a session with A and listens on two ports, *main* and
//! *other*. **H**, the third node, is on another IP and has a session with P.
//!
//! # The protocol
//! 1. A opens fresh sockets: **F** to test filters, **G** and **G'** to test mappings. F sends Binding to P's
//!    main port, repeatedly until answered or five times, and learns its address M1 in transaction T1. F never
//!    sends to any other address.
//! 2. A sends P `ProbeSetup{T1, M1, exclude}` over the session. P answers `ProbeRefused` unless it saw T1 come
//!    from M1: so probes only go to an address that the requester has proved is its own. P makes a
//!    random token, picks an H, sends it `ProbeGrant{token, M1, count}`, gets `ProbeReady`, and sends A
//!    `ProbeOffer{T1, token, address of its other port, H}`; without H if none is fit or none answers in a second.
//! 3. In slots 50 ms apart, A sends Binding requests:
//!    * F to P's main port, with the token. P answers, and probes: an indication from its *other* port to M1.
//!    * G to H, with the token. H answers G, and probes: an indication from its main port to M1.
//!    * G and G' to P's main port, P's other port and H, as long as they have not answered. From the
//!      fifth slot on, the first of these carries the token until P's other port was heard: P then sends an indication
//!      from that port to G too, which by then has sent there.
//! 4. An H that others may be unable to reach is also asked (`count`) to send a few probes on its own.
//! 5. The attempt ends as soon as more slots could not tell more, or after 32 slots.
//!
//! # Why this is never wrong
//! * *Loss is not filtering.* Each silent slot has a control: the answer that left the same helper in the same
//!   instant, and in P's case even went to the same socket through the same mapping. Silence counts only where the control
//!   arrived, only after a grace for stragglers, and only in sufficient number; an arrival is proof at once.
//! * *A broken helper is not a filter.* Silence of P's other port counts only if something else from that port
//!   arrived: its answer, or its indication to G. The latter works even where P's own firewall lets
//!   nobody in on that port, as G has opened A's NAT towards it.
//! * *A moving network is not a NAT.* If F's mapping, or any other, changes between slots, the attempt is void.
//! * *A neighbour is not the internet.* P and H must be at public addresses, see public addresses of A, and not
//!   share A's. A mesh without such members gets no verdict: what NATs may lie beyond, nobody knows.
//! * *One coincidence is not a rule.* Mappings are compared on two sockets.
//!
//! What follows from the evidence is in [`evidence`], as a pure function.
//!
//! # When
//! At the start, when the network changes, when the reflexive address is no longer the one in the verdict, and
//! when the verdict is [`REDO_AFTER`] old. An attempt that leaves an axis open is followed by others with
//! another P or H, three in all; then the result is unknown, with what was missing, and tried again after a
//! while that doubles from [`RETRY`], or as soon as the helpers improve. A known verdict stays until it is
//! replaced, its network is gone, or it is twice [`REDO_AFTER`] old.
//!
//! # Known limits
//! A NAT that filters by what *any* socket or host behind it has contacted, rather than by mapping, looks as open as it
//! is towards nodes already contacted, H included. Helpers are members and are believed; one that lies is not found out.

mod attempt;
pub mod evidence;
mod helper;
mod probing;
#[cfg(test)]
mod tests;
pub mod wire;

use alloc::boxed::Box;
use alloc::collections::VecDeque;
use alloc::vec::Vec;
use core::net::{IpAddr, SocketAddr};
use core::time::Duration;

use attempt::{Attempt, Outcome};
use evidence::{Findings, PortsSeen};
use helper::Prober;

use crate::drops::DropReason;
use crate::id::NodeId;
use crate::nat::{Mapping, NatClass, Verdict};
use crate::outbox::{Outbox, SocketId};
use crate::reflex::Server;
use crate::reflex::stun::{self, Probe};
use crate::rng::Rng;
use crate::time::{Deadline, Time};
use crate::wire::addr::{Scope, scope};

/// The time between slots. Twenty a second make eight slots fit in less than a burst of loss, and
/// are no burden: 2 to 4 KB/s to each helper, for a second.
const SLOT_PACE: Duration = Duration::from_millis(50);

/// Helpers kept, at most; more would not be asked anyway.
const MAX_HELPERS: usize = 64;

/// Local ports of earlier attempts remembered: those of the last ten, which span more than any mapping lives.
const MAX_PORTS: usize = 32;

/// Attempts in a row before the result is unknown. The first fails where its P or H is unfit or its line
/// is bad just then; three failures in a row mean that something is missing.
const ATTEMPTS: u8 = 3;

/// How long to wait after a change before starting: interfaces come up one after the other, and sessions too.
const SETTLE: Duration = Duration::from_millis(200);

/// The least time between the end of one classification and a start caused by better helpers. A node that
/// joins learns of many within a second.
const BREATHER: Duration = Duration::from_secs(1);

/// The least time before an unfamiliar reflexive address causes a new classification. Carrier NATs
/// that pool addresses show a new one every few minutes, which tells nothing new.
const ADDRESS_BREATHER: Duration = Duration::from_secs(30);

/// The waits before an unknown verdict is tried again: the first, and the longest. Five seconds because what was
/// missing is most often a member that is just joining; five minutes because a mesh that cannot help stays so.
pub const RETRY: (Duration, Duration) = (Duration::from_secs(5), Duration::from_secs(300));

/// How old a verdict may get. NATs change their ways under load, over hours; a reboot or a new network is
/// noticed otherwise. One classification is some 60 small packets, so twice an hour costs nothing.
pub const REDO_AFTER: Duration = Duration::from_secs(1800);

/// Something for the node to do.
#[derive(Clone, Debug, PartialEq)]
pub enum Event {
    /// Open a UDP socket on a port of the system's choosing, for IPv6 if `v6`; answer with
    /// [`Classifier::socket_opened`] or [`Classifier::socket_failed`].
    OpenSocket {
        /// The name it will have; never used before.
        socket: SocketId,
        /// The address family.
        v6: bool,
    },
    /// Close a socket asked for earlier; it may not have opened, or have failed.
    CloseSocket {
        /// Which.
        socket: SocketId,
    },
    /// Send a control message over the session with `peer`.
    ToPeer {
        /// To whom.
        peer: NodeId,
        /// What.
        message: wire::Message,
    },
    /// There is a new verdict.
    Verdict {
        /// The verdict.
        verdict: Verdict,
        /// What was missing, where an axis is unknown.
        missing: Option<&'static str>,
    },
}

/// A peer that this node has a direct session with.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct HelperInfo {
    /// Who.
    pub id: NodeId,
    /// The address its session's packets come from.
    pub addr: SocketAddr,
    /// The class in its record.
    pub class: NatClass,
    /// The session's round-trip time.
    pub rtt: Duration,
}

/// Whether an address can be reached from everywhere, as far as an address tells.
fn is_public(addr: SocketAddr) -> bool {
    scope(addr.ip()) == Scope::Global && addr.port() != 0
}

/// How well strangers can reach a node of this class: 0 always, 1 not known, 2 not.
const fn reachability(class: NatClass) -> u8 {
    match class {
        NatClass::Direct | NatClass::FullCone => 0,
        NatClass::Unknown => 1,
        NatClass::RestrictedCone | NatClass::PortRestricted | NatClass::Symmetric => 2,
    }
}

/// A classification under way.
#[derive(Debug)]
struct Run {
    attempt: Attempt,
    attempts: u8,
    /// Nodes that were P already.
    tried: Vec<NodeId>,
    /// Nodes that were H already, without success.
    exclude: Vec<NodeId>,
    so_far: Option<Findings>,
}

#[derive(Debug)]
enum State {
    /// Waiting for this, or for a change.
    Idle(Option<Deadline>),
    Running(Box<Run>),
}

#[derive(Clone, Copy, Debug)]
struct Current {
    verdict: Verdict,
    missing: Option<&'static str>,
    ports: Option<PortsSeen>,
    at: Time,
}

/// The machine: classifies this node, and helps others to classify themselves.
#[derive(Debug)]
pub struct Classifier {
    rng: Rng,
    prober: Prober,
    helpers: Vec<HelperInfo>,
    local_ips: Vec<IpAddr>,
    next_socket: u32,
    state: State,
    current: Option<Current>,
    /// The network the current verdict was reached on is gone.
    outdated: bool,
    /// Helpers improved while a classification was under way.
    improved: bool,
    failures: u32,
    ended: Time,
    /// The local ports of earlier attempts, oldest first.
    ports: VecDeque<u16>,
}

impl Classifier {
    /// A machine that knows nothing. `rng` is a stream of its own: tokens and transaction ids come from it.
    #[must_use]
    pub fn new(rng: Rng) -> Self {
        Self {
            prober: Prober::new(rng.fork("prober")),
            rng: rng.fork("classifier"),
            helpers: Vec::new(),
            local_ips: Vec::new(),
            next_socket: SocketId::FIRST_FRESH.0,
            state: State::Idle(None),
            current: None,
            outdated: false,
            improved: false,
            failures: 0,
            ended: Time::ZERO,
            ports: VecDeque::new(),
        }
    }

    /// The verdict and when it was reached, if there is one.
    #[must_use]
    pub fn verdict(&self) -> Option<(Verdict, Time)> {
        self.current.map(|c| (c.verdict, c.at))
    }

    /// What was missing for a verdict, where an axis is unknown.
    #[must_use]
    pub fn missing(&self) -> Option<&'static str> {
        self.current.and_then(|c| c.missing)
    }

    /// The external ports at which the sockets of the last classification were seen.
    #[must_use]
    pub fn external_ports(&self) -> Option<PortsSeen> {
        self.current.and_then(|c| c.ports)
    }

    /// The peers with direct sessions, as they are now. At most 64 are kept.
    pub fn set_helpers(&mut self, now: Time, mut helpers: Vec<HelperInfo>) {
        for helper in &mut helpers {
            helper.addr = stun::canonical(helper.addr);
        }
        helpers.sort_by_key(|h| (!is_public(h.addr), reachability(h.class), h.rtt, h.id));
        helpers.truncate(MAX_HELPERS);
        let known = |new: &HelperInfo| {
            self.helpers.iter().any(|h| {
                h.id == new.id && h.addr == new.addr && reachability(h.class) <= reachability(new.class)
            })
        };
        let better = helpers.iter().any(|h| is_public(h.addr) && !known(h));
        self.helpers = helpers;
        if better {
            self.improved = true;
            self.failures = 0;
            self.reconsider(now);
        }
    }

    /// The addresses of the host's interfaces. If they changed, everything is asked anew.
    pub fn set_local(&mut self, now: Time, mut ips: Vec<IpAddr>, out: &mut Outbox<Event>) {
        ips.sort_unstable();
        ips.dedup();
        let first = self.current.is_none() && matches!(self.state, State::Idle(None));
        if first || ips != self.local_ips {
            self.local_ips = ips;
            self.network_changed(now, out);
        }
    }

    /// The network has changed in some other way: everything is asked anew.
    pub fn network_changed(&mut self, now: Time, out: &mut Outbox<Event>) {
        self.outdated = true;
        self.failures = 0;
        if let State::Running(run) = &self.state {
            run.attempt.close(out);
        }
        self.state = State::Idle(Some(Deadline::new(now + SETTLE, "the network has changed")));
    }

    /// The addresses at which the main and the other socket are seen, from [`crate::reflex`].
    pub fn set_external(&mut self, now: Time, main: &[SocketAddr], other: &[SocketAddr]) {
        self.prober.set_external(main, other);
        let Some(mapped) = self.current.and_then(|c| c.verdict.mapped) else { return };
        let mut family = main.iter().filter(|a| a.is_ipv4() == mapped.is_ipv4()).peekable();
        let elsewhere = family.peek().is_some() && !family.any(|a| a.ip() == mapped.ip());
        if elsewhere {
            self.start_by(later(now + SETTLE, self.ended + ADDRESS_BREATHER), "the reflexive address is new");
        }
    }

    /// Classifies now, or as soon as the classification under way is over.
    pub fn reclassify(&mut self, now: Time) {
        self.failures = 0;
        self.start_by(now, "asked to");
    }

    /// A socket is open, on this local address.
    pub fn socket_opened(&mut self, now: Time, socket: SocketId, local: SocketAddr, out: &mut Outbox<Event>) {
        if let State::Running(run) = &mut self.state {
            // The NAT may still have the mapping that the port had in an earlier attempt, open for those it was
            // used with then: a probe that passes would prove nothing.
            let outcome = if self.ports.contains(&local.port()) {
                run.attempt.socket_failed(socket)
            } else {
                run.attempt.socket_opened(now, socket, local.port(), out)
            };
            if self.ports.len() == MAX_PORTS {
                self.ports.pop_front();
            }
            self.ports.push_back(local.port());
            self.follow(now, outcome, out);
        }
    }

    /// A socket could not be opened.
    pub fn socket_failed(&mut self, now: Time, socket: SocketId, out: &mut Outbox<Event>) {
        if let State::Running(run) = &mut self.state {
            let outcome = run.attempt.socket_failed(socket);
            self.follow(now, outcome, out);
        }
    }

    /// A STUN message other than a request arrived on a fresh socket.
    pub fn handle_stun(
        &mut self,
        now: Time,
        socket: SocketId,
        from: SocketAddr,
        message: &stun::Message,
        out: &mut Outbox<Event>,
    ) {
        let from = stun::canonical(from);
        let State::Running(run) = &mut self.state else {
            return out.drop(DropReason::UnknownTransaction);
        };
        let outcome = match message {
            stun::Message::BindingResponse { txid, mapped } => {
                run.attempt.handle_response(now, socket, from, *txid, *mapped, out)
            }
            stun::Message::ProbeIndication(probe) => run.attempt.handle_probe(now, socket, from, *probe, out),
            stun::Message::BindingRequest(_) | stun::Message::BindingError { .. } => {
                return out.drop(DropReason::UnsupportedStun);
            }
        };
        self.follow(now, outcome, out);
    }

    /// A Binding request with a PROBE arrived on the main or the other socket. Says whether this node gave the token
    /// out, for [`Reflex::handle_request`](crate::reflex::Reflex::handle_request), which answers it.
    pub fn handle_probe(
        &mut self,
        now: Time,
        socket: SocketId,
        from: SocketAddr,
        probe: Probe,
        out: &mut Outbox<Event>,
    ) -> bool {
        self.prober.handle_probe(now, socket, from, probe, out)
    }

    /// A control message of this protocol arrived from `peer`. `server` vouches for transactions.
    pub fn handle_control(
        &mut self,
        now: Time,
        peer: NodeId,
        message: wire::Message,
        server: &Server,
        out: &mut Outbox<Event>,
    ) {
        let outcome = match (message, &mut self.state) {
            (wire::Message::Setup(m), _) => {
                return self.prober.handle_setup(now, peer, m, &self.helpers, server, out);
            }
            (wire::Message::Grant(m), _) => return self.prober.handle_grant(now, peer, m, out),
            (wire::Message::Ready(m), _) => {
                return self.prober.handle_ready(now, peer, m, &self.helpers, out);
            }
            (wire::Message::Offer(m), State::Running(run)) => run.attempt.handle_offer(now, peer, m, out),
            (wire::Message::Refused(m), State::Running(run)) => run.attempt.handle_refused(peer, m.txid),
            (wire::Message::Offer(_) | wire::Message::Refused(_), State::Idle(_)) => {
                return out.drop(DropReason::UnknownToken);
            }
        };
        self.follow(now, outcome, out);
    }

    /// There is no session with `peer` any more.
    pub fn session_lost(&mut self, now: Time, peer: NodeId, out: &mut Outbox<Event>) {
        self.helpers.retain(|h| h.id != peer);
        self.prober.session_lost(peer, out);
        if let State::Running(run) = &self.state
            && run.attempt.primary.id == peer
        {
            let failed = Outcome::Failed { missing: attempt::NEEDS_PRIMARY, again: false };
            self.follow(now, Some(failed), out);
        }
    }

    /// The next instant at which there is something to do.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<Deadline> {
        let own = match &self.state {
            State::Idle(due) => *due,
            State::Running(run) => Some(run.attempt.poll_timeout()),
        };
        Deadline::earliest(own, self.prober.poll_timeout())
    }

    /// Does what is due.
    pub fn handle_timeout(&mut self, now: Time, out: &mut Outbox<Event>) {
        self.prober.handle_timeout(now, out);
        match &mut self.state {
            State::Idle(Some(due)) if due.at <= now => self.begin(now, out),
            State::Idle(_) => {}
            State::Running(run) => {
                let outcome = run.attempt.handle_timeout(now, out);
                self.follow(now, outcome, out);
            }
        }
    }

    /// How many tokens are remembered for others.
    #[must_use]
    pub fn tokens(&self) -> usize {
        self.prober.len()
    }

    /// Starts by `at` at the latest, if nothing is under way.
    fn start_by(&mut self, at: Time, why: &'static str) {
        if let State::Idle(due) = &mut self.state {
            *due = Deadline::earliest(*due, Some(Deadline::new(at, why)));
        }
    }

    /// The helpers are better than before: that matters if something is still unknown.
    fn reconsider(&mut self, now: Time) {
        let complete = self.current.is_some_and(|c| c.missing.is_none()) && !self.outdated;
        if !complete {
            self.start_by(later(now + SETTLE, self.ended + BREATHER), "better helpers");
        }
    }

    fn begin(&mut self, now: Time, out: &mut Outbox<Event>) {
        self.improved = false;
        match self.pick(&[]) {
            None => self.end(now, Findings::nothing(attempt::NEEDS_PRIMARY), out),
            Some(primary) => {
                let attempt = self.start_attempt(now, primary, Vec::new(), out);
                self.state = State::Running(Box::new(Run {
                    attempt,
                    attempts: 1,
                    tried: alloc::vec![primary.id],
                    exclude: Vec::new(),
                    so_far: None,
                }));
            }
        }
    }

    /// The best helper that was not tried yet.
    fn pick(&self, tried: &[NodeId]) -> Option<HelperInfo> {
        let fit = |h: &&HelperInfo| is_public(h.addr) && !tried.contains(&h.id);
        self.helpers.iter().filter(fit).min_by_key(|h| (reachability(h.class), h.rtt, h.id)).copied()
    }

    fn start_attempt(
        &mut self,
        now: Time,
        primary: HelperInfo,
        exclude: Vec<NodeId>,
        out: &mut Outbox<Event>,
    ) -> Attempt {
        let first = self.next_socket;
        self.next_socket = first.saturating_add(attempt::SOCKETS);
        let label = alloc::format!("attempt {first}");
        Attempt::start(now, self.rng.fork(&label), primary, exclude, self.local_ips.clone(), first, out)
    }

    /// Goes on after an attempt has ended.
    fn follow(&mut self, now: Time, outcome: Option<Outcome>, out: &mut Outbox<Event>) {
        let Some(outcome) = outcome else { return };
        let State::Running(run) = core::mem::replace(&mut self.state, State::Idle(None)) else { return };
        run.attempt.close(out);
        let Run { attempt, attempts, mut tried, mut exclude, so_far } = *run;
        let (found, may_repeat) = match outcome {
            Outcome::Done { findings, unfit, again } => {
                exclude.extend(unfit);
                (findings, again)
            }
            Outcome::Failed { missing, again } => (Findings::nothing(missing), again),
        };
        exclude.truncate(wire::MAX_EXCLUDE);
        let so_far = so_far.map_or(found, |earlier: Findings| earlier.merge(found));
        if so_far.is_complete() || attempts == ATTEMPTS {
            return self.end(now, so_far, out);
        }
        let again = self.helpers.iter().find(|h| may_repeat && h.id == attempt.primary.id).copied();
        let Some(primary) = self.pick(&tried).or(again) else {
            return self.end(now, so_far, out);
        };
        tried.push(primary.id);
        let attempt = self.start_attempt(now, primary, exclude.clone(), out);
        let run = Run { attempt, attempts: attempts + 1, tried, exclude, so_far: Some(so_far) };
        self.state = State::Running(Box::new(run));
    }

    /// The classification is over: publishes the result and plans the next one.
    fn end(&mut self, now: Time, findings: Findings, out: &mut Outbox<Event>) {
        self.ended = now;
        let complete = findings.is_complete();
        let keep = self
            .current
            .is_some_and(|c| c.missing.is_none() && !self.outdated && now - c.at < REDO_AFTER * 2);
        if complete || !keep {
            self.publish(now, &findings, out);
        }
        self.outdated = false;
        self.state = State::Idle(if complete {
            self.failures = 0;
            Some(Deadline::new(now + self.jittered(REDO_AFTER), "the verdict is old"))
        } else if self.improved {
            Some(Deadline::new(now + BREATHER, "better helpers"))
        } else if self.pick(&[]).is_none() {
            None
        } else {
            let wait = RETRY.1.min(RETRY.0 * (1 << self.failures.min(8)));
            self.failures += 1;
            Some(Deadline::new(now + self.jittered(wait), "the verdict is unknown"))
        });
    }

    fn publish(&mut self, now: Time, findings: &Findings, out: &mut Outbox<Event>) {
        let (verdict, missing) = (findings.verdict(), findings.missing);
        let news = self.current.is_none_or(|c| c.verdict != verdict || c.missing != missing);
        self.current = Some(Current { verdict, missing, ports: findings.ports, at: now });
        if news || verdict.mapping != Mapping::Unknown {
            out.event(Event::Verdict { verdict, missing });
        }
    }

    /// `wait`, give or take a tenth: nodes that started together do not all ask together for ever.
    fn jittered(&mut self, wait: Duration) -> Duration {
        let tenth = u64::try_from(wait.as_nanos() / 10).unwrap_or(0);
        wait - Duration::from_nanos(tenth) + Duration::from_nanos(self.rng.below(2 * tenth))
    }
}

fn later(a: Time, b: Time) -> Time {
    if a < b { b } else { a }
}
