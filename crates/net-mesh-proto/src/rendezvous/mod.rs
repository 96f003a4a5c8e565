//! How do two nodes that cannot dial each other come to exchange packets directly?
//!
//! **Flow.** A node that wants a direct way to a peer (the *seeker*) picks a plan for the pair ([`plan`]) and a mediator:
//! a member that both have a session with, nearest first. The mediator sends both sides an
//! [introduction](wire::Introduction): who, where, what to try, a key, and a delay
//! after which to fire, such that both fire at one instant although its messages take different times. Without a
//! mediator, but with a session over relays, the seeker introduces itself over that, and fires half a
//! round trip later.
//!
//! Both then send *checks* as the plan says: Binding requests signed with the key (RFC 8489 §14.6). A genuine check is
//! answered, and answered with a check of one's own to where it came from: that is how an address that nobody
//! could know is found. A genuine answer from the address that was asked means that packets pass both ways: the
//! address is [`Found`](Event::Found).
//!
//! **Afterwards.** An attempt that found nothing is followed by one with the next plan, and the next mediator; when
//! all plans have been tried, by a rest of [`MIN_REST`] doubling to [`MAX_REST`]. A change of the network, of either
//! verdict or of either side's addresses ends the rest and starts afresh. Pairs without a plan are not tried.
//! The last [`HISTORY`] attempts are kept for each peer, to say why.
//!
//! **What nobody can do with it.** A check without the key does nothing, and is counted. An introduction counts once,
//! and only from the mediator that was asked, or, to the sought side, from a session peer within its
//! allowance. Delays are capped at [`MAX_DELAY`]. Whatever a mediator says, an address that never answered gets
//! [`PER_ADDRESS`] small packets in [`ADDRESS_WINDOW`], and all ports of one IP together [`PER_IP`]. When both sides seek each
//! other at once, both keep the attempt of the lower id; attempts of different mediators do not end one another,
//! so that none of them can keep a pair apart.
//!
//! **Bounds.** [`MAX_SEEKING`] attempts of one's own under way, [`MAX_SOUGHT`] of others', [`MAX_TRIGGERED`] addresses
//! checked because checks came from there, [`MAX_ADDRESSES`] addresses counted.

mod mediator;
pub mod plan;
mod record;
#[cfg(test)]
mod tests;
pub mod wire;

use alloc::boxed::Box;
use alloc::collections::{BTreeMap, VecDeque};
use alloc::vec::Vec;
use core::fmt;
use core::net::{IpAddr, SocketAddr};
use core::time::Duration;

pub use plan::Plan;
pub use record::{Attempt, Outcome};
pub use wire::{Decline, Message};

use crate::bounded::BoundedMap;
use crate::drops::DropReason;
use crate::id::NodeId;
use crate::membership::{MAX_MEMBERS, Member, Record};
use crate::outbox::{Outbox, SocketId};
use crate::peer::Local;
use crate::reflex::stun::{self, CheckName};
use crate::rng::Rng;
use crate::time::{Deadline, Time};
use crate::wire::addr::{Scope, scope};
use mediator::{Mediator, Meter, draw_key, millis};
use plan::{Shot, Side, schedule};
use wire::{Introduction, Seek};

/// Attempts kept for each peer.
pub const HISTORY: usize = 4;

/// Own attempts under way at a time.
pub const MAX_SEEKING: usize = 16;

/// Attempts that others asked for under way at a time.
pub const MAX_SOUGHT: usize = 64;

/// The longest delay before firing, and the longest span, that a mediator can ask for.
pub const MAX_DELAY: Duration = Duration::from_secs(2);

/// Checks to one address that never answered, in [`ADDRESS_WINDOW`]: three attempts' worth, as plans are tried one
/// after the other.
pub const PER_ADDRESS: u32 = 18;

/// Checks to all ports of one IP that never answered, in the same time. Sixteen members behind one address may be
/// met at once; a host that answers nobody is left alone after that.
pub const PER_IP: u32 = 16 * PER_ADDRESS;

/// Attempts under way that one peer may have introduced.
pub const MAX_FROM_ONE: usize = 8;

/// How often a change of this node's addresses, or of a member's, ends rests, where the network is the same: a
/// symmetric NAT shows a new address with every session.
const AFRESH_EVERY: Duration = Duration::from_secs(30);

/// For how long they are counted.
pub const ADDRESS_WINDOW: Duration = Duration::from_secs(60);

/// Addresses counted at a time.
pub const MAX_ADDRESSES: usize = 4096;

/// Addresses checked in one attempt because checks came from there: a symmetric NAT shows one, chained ones two.
pub const MAX_TRIGGERED: usize = 4;

/// The first rest after all plans have failed. A mapping that was spoilt by a packet which came too early is
/// remembered for up to the two minutes that mappings live (RFC 4787 REQ-5); to try sooner would find it
/// spoilt still, and renew it.
pub const MIN_REST: Duration = Duration::from_secs(130);

/// The longest one.
pub const MAX_REST: Duration = Duration::from_secs(600);

/// Between two plans.
const NEXT_PLAN: Duration = Duration::from_millis(300);

/// How long a mediator may take.
const ASK_LIMIT: Duration = Duration::from_secs(3);

/// How long after firing an attempt is over: the last checks are sent within two seconds, and their answers take
/// a round trip.
const LIMIT: Duration = Duration::from_secs(3);

/// After a success, how long a better address may still come, and the peer's checks are answered.
const LINGER: Duration = Duration::from_secs(3);

/// After a success, how long the same pair is not tried again: what was found is being proven meanwhile.
const AFTER_SUCCESS: Duration = Duration::from_secs(10);

/// When the check of an address that a check came from is sent, from the first on.
const TRIGGERED: [Duration; 3] = [Duration::ZERO, Duration::from_millis(150), Duration::from_millis(450)];

/// Attempt numbers remembered, so that an introduction counts once.
const MAX_SEEN: usize = 1024;

/// What this machine looks at to decide.
#[derive(Clone, Copy)]
pub struct View<'a> {
    /// This node's place in the network.
    pub local: &'a Local,
    /// What this node says of itself.
    pub own: &'a Record,
    /// The other members.
    pub members: &'a BTreeMap<NodeId, Member>,
    /// The members that have a direct session with this node and with the one named, nearest first.
    pub mediators: &'a dyn Fn(&NodeId) -> Vec<NodeId>,
    /// The round-trip time of the session with a member, if there is one.
    pub rtt: &'a dyn Fn(&NodeId) -> Option<Duration>,
}

impl fmt::Debug for View<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("View").field("local", self.local).finish_non_exhaustive()
    }
}

/// What this machine tells the node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// Send `message` in the session with `to`.
    Send {
        /// To whom.
        to: NodeId,
        /// What.
        message: Message,
    },
    /// Packets pass both ways between this node's main socket and `addr`, where `peer` is, if the mediator is
    /// honest.
    Found {
        /// Who.
        peer: NodeId,
        /// Where.
        addr: SocketAddr,
        /// The round trip of the check.
        rtt: Duration,
    },
    /// An attempt is over.
    Ended(Box<Attempt>),
    /// This node introduced two others.
    Introduced {
        /// Who asked.
        seeker: NodeId,
        /// Who was sought.
        sought: NodeId,
        /// The number of the attempt.
        attempt: u128,
        /// What they are to try.
        plan: Plan,
    },
}

/// What is known about a pair.
#[derive(Clone, Debug, Default)]
pub struct History {
    attempts: VecDeque<Attempt>,
    failures: u32,
    rests_until: Time,
    lonely: bool,
    afresh_at: Time,
}

impl History {
    /// The last attempts that are over, oldest first.
    pub fn attempts(&self) -> impl DoubleEndedIterator<Item = &Attempt> {
        self.attempts.iter()
    }

    /// Whether nobody could introduce the two when it was last wanted.
    #[must_use]
    pub const fn is_lonely(&self) -> bool {
        self.lonely
    }

    /// No attempt is made before.
    #[must_use]
    pub const fn rests_until(&self) -> Time {
        self.rests_until
    }
}

/// An attempt under way.
#[derive(Debug)]
struct Active {
    record: Attempt,
    stage: Stage,
}

#[derive(Debug)]
enum Stage {
    /// The mediator has been asked.
    Asked,
    /// Checks are sent and answered.
    Checking {
        key: [u8; 32],
        /// What is still to be sent, in the order of time.
        shots: Vec<(Time, SocketAddr)>,
        /// What was sent and not answered.
        sent: Vec<(u128, SocketAddr, Time)>,
        triggered: Vec<SocketAddr>,
        found: Option<(SocketAddr, Time)>,
        ends: Time,
    },
}

#[derive(Clone, Copy, Debug)]
struct Spent {
    count: u32,
    since: Time,
}

/// The rendezvous machine of one node: seeking, being sought, and mediating.
#[derive(Debug)]
pub struct Rendezvous {
    me: NodeId,
    rng: Rng,
    mediator: Mediator,
    /// How often each peer may introduce somebody to this node.
    introductions: Meter<NodeId>,
    active: BTreeMap<u128, Active>,
    seen: BoundedMap<u128, ()>,
    peers: BoundedMap<NodeId, History>,
    spent: BoundedMap<SocketAddr, Spent>,
    spent_ips: BoundedMap<IpAddr, Spent>,
    afresh_at: Time,
}

impl Rendezvous {
    /// The machine of the node `me`.
    #[must_use]
    pub fn new(me: NodeId, rng: Rng) -> Self {
        Self {
            me,
            mediator: Mediator::new(rng.fork("mediator")),
            rng,
            introductions: Meter::new(),
            active: BTreeMap::new(),
            seen: BoundedMap::new(MAX_SEEN),
            peers: BoundedMap::new(MAX_MEMBERS),
            spent: BoundedMap::new(MAX_ADDRESSES),
            spent_ips: BoundedMap::new(MAX_ADDRESSES),
            afresh_at: Time::ZERO,
        }
    }

    /// A direct way to `peer` is wanted. Does nothing while one is being tried, while the pair rests, and where no
    /// plan exists.
    pub fn seek(&mut self, now: Time, peer: NodeId, view: View<'_>, out: &mut Outbox<Event>) {
        let Some(record) = view.members.get(&peer).map(Member::record) else { return };
        if self.peers.get(&peer).is_some_and(|history| history.rests_until > now) {
            return;
        }
        let mut history = self.peers.get(&peer).cloned().unwrap_or_default();
        let seeking = self.active.values().filter(|a| a.record.seeker).count();
        if self.of_peer(&peer).is_some() || seeking >= MAX_SEEKING {
            return;
        }
        let own = Side { verdict: view.own.verdict, candidates: &view.own.candidates };
        let theirs = Side { verdict: record.verdict, candidates: &record.candidates };
        let plans = plan::plans(&own, &theirs).unwrap_or_default();
        let turn = usize::try_from(history.failures).unwrap_or(usize::MAX);
        let others = (view.mediators)(&peer).into_iter().filter(|m| *m != peer).map(Some);
        // Where there is a session already, the two can do without anyone.
        let mediators: Vec<Option<NodeId>> = others.chain((view.rtt)(&peer).map(|_| None)).collect();
        // The plan changes with every failure, the mediator too, but not in step with it.
        let shift = turn + turn.checked_div(plans.len()).unwrap_or(0);
        let mediator = shift.checked_rem(mediators.len()).and_then(|n| mediators.get(n)).copied().flatten();
        let plan = turn.checked_rem(plans.len()).and_then(|n| plans.get(n)).copied();
        history.lonely = mediators.is_empty();
        let lonely = history.lonely;
        self.peers.insert(peer, history);
        let Some(plan) = plan.filter(|_| !lonely) else { return };
        let attempt = self.rng.u96() << 32 | u128::from(self.rng.u64() >> 32);
        let record = Attempt {
            id: attempt,
            peer,
            seeker: true,
            mediator,
            plan,
            began: now,
            ended: None,
            own: view.own.candidates.clone(),
            theirs: record.candidates.clone(),
            sent: 0,
            heard: 0,
            outcome: None,
        };
        self.active.insert(attempt, Active { record, stage: Stage::Asked });
        self.seen.insert(attempt, ());
        match mediator {
            Some(to) => {
                let (verdict, candidates) = (own.verdict, own.candidates.to_vec());
                let seek = Seek { attempt, target: peer, plan, verdict, candidates };
                out.event(Event::Send { to, message: Message::Seek(seek) });
            }
            None => self.introduce_myself(now, attempt, peer, view, out),
        }
    }

    /// Over the session with the peer itself.
    fn introduce_myself(
        &mut self,
        now: Time,
        attempt: u128,
        peer: NodeId,
        view: View<'_>,
        out: &mut Outbox<Event>,
    ) {
        let Some(one_way) = (view.rtt)(&peer).map(|rtt| rtt / 2) else { return };
        let Some((plan, record)) =
            self.active.get(&attempt).map(|a| a.record.plan).zip(view.members.get(&peer).map(Member::record))
        else {
            return;
        };
        let (key, span_ms) = (draw_key(&mut self.rng), millis(one_way));
        let (verdict, candidates) = (view.own.verdict, view.own.candidates.clone());
        let theirs = Introduction {
            attempt,
            peer: self.me,
            to_seeker: false,
            plan,
            verdict,
            candidates,
            key,
            fire_in_ms: 0,
            span_ms,
        };
        out.event(Event::Send { to: peer, message: Message::Introduction(theirs) });
        let mine = Introduction {
            attempt,
            peer,
            to_seeker: true,
            plan,
            verdict: record.verdict,
            candidates: record.candidates.clone(),
            key,
            fire_in_ms: millis(one_way),
            span_ms,
        };
        self.fire(now, &mine, view);
    }

    /// A message arrived in the session with `from`.
    pub fn handle(
        &mut self,
        now: Time,
        from: NodeId,
        message: Message,
        view: View<'_>,
        out: &mut Outbox<Event>,
    ) {
        match message {
            Message::Seek(seek) => self.mediator.introduce(now, from, seek, &view, out),
            Message::Introduction(intro) if intro.to_seeker => {
                let asked = |a: &Active| {
                    matches!(a.stage, Stage::Asked)
                        && a.record.mediator == Some(from)
                        && a.record.peer == intro.peer
                        && a.record.plan == intro.plan
                };
                if self.active.get(&intro.attempt).is_some_and(asked) {
                    self.fire(now, &intro, view);
                } else {
                    out.drop(DropReason::UnknownTransaction);
                }
            }
            Message::Introduction(intro) => self.sought(now, from, &intro, view, out),
            Message::Declined { attempt, why } => {
                let asked = |a: &Active| matches!(a.stage, Stage::Asked) && a.record.mediator == Some(from);
                if self.active.get(&attempt).is_some_and(asked) {
                    self.end(now, attempt, Outcome::Declined(why), out);
                } else {
                    out.drop(DropReason::UnknownTransaction);
                }
            }
        }
    }

    /// Somebody wants this node.
    fn sought(
        &mut self,
        now: Time,
        from: NodeId,
        intro: &Introduction,
        view: View<'_>,
        out: &mut Outbox<Event>,
    ) {
        let peer = intro.peer;
        if self.seen.contains_key(&intro.attempt) || peer == self.me || !view.members.contains_key(&peer) {
            return out.drop(DropReason::Refused);
        }
        let of_others = self.active.values().filter(|a| !a.record.seeker).count();
        let introduced_by =
            |a: &&Active| !a.record.seeker && a.record.mediator.unwrap_or(a.record.peer) == from;
        let of_this = self.active.values().filter(introduced_by).count();
        if of_others >= MAX_SOUGHT || of_this >= MAX_FROM_ONE || !self.introductions.take(now, from) {
            return out.drop(DropReason::RateLimited);
        }
        let mediator = (from != peer).then_some(from);
        let under_way: Vec<(u128, bool, bool)> = self
            .active
            .iter()
            .filter(|(_, a)| a.record.peer == peer && a.record.outcome.is_none())
            .map(|(id, a)| (*id, a.record.seeker, a.record.mediator == mediator))
            .collect();
        // Both ask at once: both keep the one of the lower id.
        if self.me < peer && under_way.iter().any(|(_, seeker, _)| *seeker) {
            return out.drop(DropReason::Refused);
        }
        for (id, seeker, same) in under_way {
            // Who asks again the same way means the new one.
            if seeker || same {
                self.end(now, id, Outcome::Superseded, out);
            }
        }
        self.seen.insert(intro.attempt, ());
        let record = Attempt {
            id: intro.attempt,
            peer,
            seeker: false,
            mediator,
            plan: intro.plan,
            began: now,
            ended: None,
            own: view.own.candidates.clone(),
            theirs: intro.candidates.clone(),
            sent: 0,
            heard: 0,
            outcome: None,
        };
        self.active.insert(intro.attempt, Active { record, stage: Stage::Asked });
        self.fire(now, intro, view);
    }

    /// The other side is known: lays out what is sent when.
    fn fire(&mut self, now: Time, intro: &Introduction, view: View<'_>) {
        let Some(active) = self.active.get_mut(&intro.attempt) else { return };
        let delay = |ms: u16| Duration::from_millis(u64::from(ms)).min(MAX_DELAY);
        let at = now + delay(intro.fire_in_ms);
        let own = Side { verdict: view.own.verdict, candidates: &view.own.candidates };
        let theirs = Side { verdict: intro.verdict, candidates: &intro.candidates };
        let planned =
            schedule(intro.plan, active.record.seeker, view.local, (&own, &theirs), delay(intro.span_ms));
        active.record.theirs.clone_from(&intro.candidates);
        active.stage = Stage::Checking {
            key: intro.key,
            shots: planned.into_iter().map(|Shot { after, to }| (at + after, to)).collect(),
            sent: Vec::new(),
            triggered: Vec::new(),
            found: None,
            ends: at + LIMIT,
        };
    }

    /// A check arrived on the main socket: `name` is what it says, `bytes` the whole of it. False if it belongs to
    /// no attempt that is known here, and is an ordinary Binding request as far as this machine can tell.
    pub fn handle_check(
        &mut self,
        now: Time,
        from: SocketAddr,
        (txid, name): (u128, CheckName),
        bytes: &[u8],
        out: &mut Outbox<Event>,
    ) -> bool {
        let Some(active) = self.active.get_mut(&name.attempt) else { return false };
        let Stage::Checking { key, shots, triggered, found, .. } = &mut active.stage else {
            // The other side was told sooner. It repeats its checks.
            return true;
        };
        if name.by_seeker == active.record.seeker || !stun::is_signed(bytes, key) {
            out.drop(DropReason::BadAuthentication);
            return true;
        }
        active.record.heard += 1;
        out.send(SocketId::MAIN, from, stun::check_response(txid, from, key));
        let known = triggered.contains(&from) || found.is_some_and(|(addr, _)| addr == from);
        if !known && triggered.len() < MAX_TRIGGERED {
            triggered.push(from);
            shots.extend(TRIGGERED.iter().map(|after| (now + *after, from)));
            shots.sort_by_key(|(at, _)| *at);
            self.shoot(now, name.attempt, out);
        }
        true
    }

    /// An answer arrived on the main socket. False if it answers no check.
    pub fn handle_answer(
        &mut self,
        now: Time,
        from: SocketAddr,
        txid: u128,
        bytes: &[u8],
        out: &mut Outbox<Event>,
    ) -> bool {
        let asked = self.active.iter_mut().find_map(|(id, active)| {
            let Stage::Checking { key, sent, .. } = &mut active.stage else { return None };
            let n = sent.iter().position(|(asked, ..)| *asked == txid)?;
            Some((*id, *key, *sent.get(n)?))
        });
        let Some((attempt, key, (_, to, at))) = asked else { return false };
        if to != stun::canonical(from) || !stun::is_signed(bytes, &key) {
            out.drop(DropReason::BadAuthentication);
            return true;
        }
        self.spent.remove(&to);
        self.spent_ips.remove(&to.ip());
        self.answered(now, attempt, to, now - at, out);
        true
    }

    fn answered(
        &mut self,
        now: Time,
        attempt: u128,
        addr: SocketAddr,
        rtt: Duration,
        out: &mut Outbox<Event>,
    ) {
        let Some(Active { record, stage: Stage::Checking { shots, found, ends, sent, .. } }) =
            self.active.get_mut(&attempt)
        else {
            return;
        };
        sent.retain(|(_, to, _)| *to != addr);
        let is_near = |addr: &SocketAddr| scope(addr.ip()) < Scope::Global;
        let better = found.is_none_or(|(known, _)| is_near(&addr) && !is_near(&known));
        if !better {
            return;
        }
        let first = found.is_none();
        *found = Some((addr, now));
        *ends = now + LINGER;
        // Only what may be nearer is still worth a packet.
        shots.retain(|(_, to)| is_near(to) && !is_near(&addr));
        let peer = record.peer;
        out.event(Event::Found { peer, addr, rtt });
        if first {
            (record.ended, record.outcome) = (Some(now), Some(Outcome::Found { addr, rtt }));
            let record = record.clone();
            self.remember(now, record, out);
        }
    }

    /// Sends what is due in one attempt.
    fn shoot(&mut self, now: Time, attempt: u128, out: &mut Outbox<Event>) {
        let Some(Active { record, stage: Stage::Checking { key, shots, sent, .. } }) =
            self.active.get_mut(&attempt)
        else {
            return;
        };
        let due = shots.iter().take_while(|(at, _)| *at <= now).count();
        for (_, to) in shots.drain(..due) {
            if !spend(&mut self.spent, now, to, PER_ADDRESS)
                || !spend(&mut self.spent_ips, now, to.ip(), PER_IP)
            {
                out.drop(DropReason::RateLimited);
                continue;
            }
            let txid = self.rng.u96();
            let name = CheckName { attempt, by_seeker: record.seeker };
            out.send(SocketId::MAIN, to, stun::check_request(txid, name, key));
            sent.push((txid, to, now));
            record.sent += 1;
        }
    }

    /// Sends what is due, and ends what is over.
    pub fn handle_timeout(&mut self, now: Time, out: &mut Outbox<Event>) {
        for attempt in self.active.keys().copied().collect::<Vec<_>>() {
            self.shoot(now, attempt, out);
            let Some(active) = self.active.get(&attempt) else { continue };
            match &active.stage {
                Stage::Asked if now >= active.record.began + ASK_LIMIT => {
                    self.end(now, attempt, Outcome::Unanswered, out);
                }
                Stage::Checking { ends, .. } if now >= *ends => {
                    self.end(now, attempt, Outcome::TimedOut, out);
                }
                Stage::Asked | Stage::Checking { .. } => {}
            }
        }
    }

    /// When [`Self::handle_timeout`] has something to do.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<Deadline> {
        let next = |active: &Active| match &active.stage {
            Stage::Asked => active.record.began + ASK_LIMIT,
            Stage::Checking { shots, ends, .. } => shots.first().map_or(*ends, |(at, _)| (*at).min(*ends)),
        };
        let at = self.active.values().map(next).min();
        at.map(|at| Deadline::new(at, "go on with a rendezvous"))
    }

    /// The attempt is over. One that found something was told of when it did.
    fn end(&mut self, now: Time, attempt: u128, outcome: Outcome, out: &mut Outbox<Event>) {
        let Some(Active { mut record, .. }) = self.active.remove(&attempt) else { return };
        if record.outcome.is_none() {
            (record.ended, record.outcome) = (Some(now), Some(outcome));
            self.remember(now, record, out);
        }
    }

    /// Notes what came of an attempt, and for how long the pair rests.
    fn remember(&mut self, now: Time, record: Attempt, out: &mut Outbox<Event>) {
        let jitter = 0.75 + 0.5 * self.rng.unit();
        let mut history = self.peers.get(&record.peer).cloned().unwrap_or_default();
        match record.outcome {
            // Unless the session moves there, it was one failure more.
            Some(Outcome::Found { .. }) => {
                history.failures = history.failures.saturating_add(1);
                history.rests_until = now + rest(history.failures).max(AFTER_SUCCESS);
            }
            Some(Outcome::Superseded) | None => {}
            // Whoever asked decides about the next one.
            Some(_) if !record.seeker => {}
            Some(_) => {
                history.failures = history.failures.saturating_add(1);
                history.rests_until = now + rest(history.failures).mul_f64(jitter);
            }
        }
        if history.attempts.len() == HISTORY {
            history.attempts.pop_front();
        }
        history.attempts.push_back(record.clone());
        self.peers.insert(record.peer, history);
        out.event(Event::Ended(Box::new(record)));
    }

    fn of_peer(&self, peer: &NodeId) -> Option<(u128, bool)> {
        let of_peer = |(id, a): (&u128, &Active)| {
            (a.record.peer == *peer && a.record.outcome.is_none()).then_some((*id, a.record.seeker))
        };
        self.active.iter().find_map(of_peer)
    }

    /// The session with `peer` travels directly: whatever failed before is past.
    pub fn succeeded(&mut self, peer: &NodeId) {
        if let Some(history) = self.peers.get_mut(peer) {
            history.failures = 0;
        }
    }

    /// This node's addresses changed a little: what failed may work now, but not for ever anew.
    pub fn own_varied(&mut self, now: Time) {
        if now >= self.afresh_at {
            self.own_changed(now);
        }
    }

    /// This node's network or verdict changed: what failed may work now.
    pub fn own_changed(&mut self, now: Time) {
        self.afresh_at = now + AFRESH_EVERY;
        for (_, history) in self.peers.iter_mut() {
            history.failures = 0;
            history.rests_until = history.rests_until.min(now);
        }
    }

    /// The addresses or the verdict of `peer` changed.
    pub fn member_changed(&mut self, now: Time, peer: NodeId) {
        if let Some(history) = self.peers.get_mut(&peer).filter(|history| now >= history.afresh_at) {
            history.failures = 0;
            history.rests_until = history.rests_until.min(now);
            history.afresh_at = now + AFRESH_EVERY;
        }
    }

    /// `peer` is no member any more.
    pub fn forget(&mut self, peer: &NodeId) {
        self.peers.remove(peer);
        self.active.retain(|_, active| active.record.peer != *peer);
    }

    /// What is known about the pair with `peer`.
    #[must_use]
    pub fn history(&self, peer: &NodeId) -> Option<&History> {
        self.peers.get(peer)
    }

    /// The attempt with `peer` that is under way.
    #[must_use]
    pub fn under_way(&self, peer: &NodeId) -> Option<&Attempt> {
        let (id, _) = self.of_peer(peer)?;
        self.active.get(&id).map(|active| &active.record)
    }

    /// Attempts remembered, and addresses counted, for bounds.
    #[must_use]
    pub fn sizes(&self) -> (usize, usize) {
        (self.active.len(), self.spent.len())
    }
}

/// Counts a packet to `key`; false if there were `limit` already within [`ADDRESS_WINDOW`].
fn spend<K: Ord + Clone>(spent: &mut BoundedMap<K, Spent>, now: Time, key: K, limit: u32) -> bool {
    let known = spent.get(&key).copied().filter(|s| now.since(s.since) < ADDRESS_WINDOW);
    let before = known.unwrap_or(Spent { count: 0, since: now });
    let allowed = before.count < limit;
    if allowed {
        spent.insert(key, Spent { count: before.count + 1, ..before });
    }
    allowed
}

/// How long a pair rests after so many failures.
fn rest(failures: u32) -> Duration {
    // The longest list of plans has four.
    let doublings = failures.saturating_sub(PLANS_IN_A_ROW);
    if failures < PLANS_IN_A_ROW { NEXT_PLAN } else { (MIN_REST * (1 << doublings.min(10))).min(MAX_REST) }
}

/// Attempts made one after the other before a pair rests.
const PLANS_IN_A_ROW: u32 = 3;
