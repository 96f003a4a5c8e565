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
//! all plans have been tried, by a rest of [`MIN_REST`] doubling to [`MAX_REST`], and then by all plans again. A change of the network, of either
//! verdict or of either side's addresses ends the rest and starts afresh. Pairs without a plan are not tried.
//! So does an operator who insists: at once, then `AFRESH_EVERY` later, and ever more rarely the longer it is of no use.
//! The last [`HISTORY`] attempts are kept for each peer, to say why.
//!
//! **What nobody can do with it.** A check without the key does nothing, and is counted. An introduction counts once,
//! and only from the mediator that was asked, or, to the sought side, from a session peer within its
//! allowance. Delays are capped at [`MAX_DELAY`]. Whatever a mediator says, an address that never answered gets
//! [`PER_ADDRESS`] small packets in [`WINDOW`], and its host [`PER_IP`]. When both sides seek each other at once, both keep the attempt
//! of the lower id.
//!
//! **Bounds.** [`MAX_SEEKING`] attempts of one's own under way, [`MAX_SOUGHT`] of others', [`MAX_TRIGGERED`] addresses
//! checked because checks came from there, [`MAX_ADDRESSES`] addresses counted.

pub mod advice;
mod attempt;
mod budget;
mod mediator;
pub mod plan;
pub(crate) mod record;
#[cfg(test)]
mod tests;
pub mod wire;

use alloc::boxed::Box;
use alloc::collections::BTreeMap;
use alloc::vec::Vec;
use core::fmt;
use core::net::SocketAddr;
use core::time::Duration;

pub use attempt::{MAX_HEARD, MAX_TRIGGERED};
pub use budget::{MAX_ADDRESSES, PER_ADDRESS, PER_IP, WINDOW};
pub use plan::Plan;
pub use record::{Attempt, HISTORY, History, MAX_REST, MIN_REST, Outcome};
pub use wire::{Decline, Message};

use crate::bounded::BoundedMap;
use crate::drops::DropReason;
use crate::id::NodeId;
use crate::membership::{MAX_MEMBERS, Member, Record};
use crate::outbox::Outbox;
use crate::peer::Local;
use crate::rng::Rng;
use crate::time::{Deadline, Time};
use attempt::{Active, Stage};
use budget::Budget;
use mediator::{Mediator, Meter, SOUGHT, draw_key, millis};
use plan::Side;
use wire::{Introduction, Seek};

/// Own attempts under way at a time.
pub const MAX_SEEKING: usize = 16;

/// Attempts that others asked for under way at a time.
pub const MAX_SOUGHT: usize = 64;

/// Attempts that others asked for with the same peer under way at a time, each by way of another mediator.
pub const MAX_SIDE_BY_SIDE: usize = 3;

/// Attempts under way that one peer may have introduced.
pub const MAX_FROM_ONE: usize = 8;

/// How often a change of this node's addresses, or of a member's, ends rests, where the network is the same: a
/// symmetric NAT shows a new address with every session.
const AFRESH_EVERY: Duration = Duration::from_secs(30);

/// Changes of a member that end rests within that time: one that moves loses its old addresses first, then names new ones, and
/// knows its NAT last.
const AFRESH_IN_A_ROW: u8 = 3;

/// The longest delay before firing, and the longest span, that a mediator can ask for.
pub const MAX_DELAY: Duration = Duration::from_secs(2);

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
    budget: Budget,
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
            introductions: Meter::new(SOUGHT),
            active: BTreeMap::new(),
            seen: BoundedMap::new(MAX_SEEN),
            peers: BoundedMap::new(MAX_MEMBERS),
            budget: Budget::new(),
            afresh_at: Time::ZERO,
        }
    }

    /// A direct way to `peer` is wanted. Does nothing while one is being tried, while the pair rests, and where no
    /// plan exists.
    pub fn seek(&mut self, now: Time, peer: NodeId, view: View<'_>, out: &mut Outbox<Event>) {
        let Some(record) = view.members.get(&peer).map(Member::record) else { return };
        let rests = self.peers.get(&peer).is_some_and(|history| history.rests_until() > now);
        let seeking = self.active.values().filter(|a| a.record.seeker).count();
        if rests || seeking >= MAX_SEEKING || self.open(&peer).next().is_some() {
            return;
        }
        let own = Side { verdict: view.own.verdict, candidates: &view.own.candidates };
        let theirs = Side { verdict: record.verdict, candidates: &record.candidates };
        let others = (view.mediators)(&peer).into_iter().filter(|m| *m != peer).map(Some);
        // Where there is a session already, the two can do without anyone.
        let mediators: Vec<Option<NodeId>> = others.chain((view.rtt)(&peer).map(|_| None)).collect();
        let plans = plan::plans(&own, &theirs).unwrap_or_default();
        let Some((plan, mediator)) = self.history_of(peer).turn(&plans, &mediators) else { return };
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
        if let Err(reason) = self.make_way(now, from, peer, out) {
            return out.drop(reason);
        }
        self.seen.insert(intro.attempt, ());
        let record = Attempt {
            id: intro.attempt,
            peer,
            seeker: false,
            mediator: (from != peer).then_some(from),
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

    /// Ends what `peer` means to replace by having `from` introduce it.
    ///
    /// Both ask at once: both keep the attempt of the lower id. The same mediator again: the earlier attempt has failed
    /// on the other side. Attempts by way of others go on, so that none of them can keep the rest from
    /// succeeding.
    fn make_way(
        &mut self,
        now: Time,
        from: NodeId,
        peer: NodeId,
        out: &mut Outbox<Event>,
    ) -> Result<(), DropReason> {
        let mediator = (from != peer).then_some(from);
        if self.open(&peer).any(|(_, a)| a.record.seeker) && self.me < peer {
            return Err(DropReason::Refused);
        }
        let replaced = |a: &Active| a.record.seeker || a.record.mediator == mediator;
        let over: Vec<u128> = self.open(&peer).filter(|(_, a)| replaced(a)).map(|(id, _)| id).collect();
        for id in over {
            self.end(now, id, Outcome::Superseded, out);
        }
        if self.open(&peer).count() >= MAX_SIDE_BY_SIDE { Err(DropReason::RateLimited) } else { Ok(()) }
    }

    /// Sends what is due, and ends what is over.
    pub fn handle_timeout(&mut self, now: Time, out: &mut Outbox<Event>) {
        for attempt in self.active.keys().copied().collect::<Vec<_>>() {
            self.shoot(now, attempt, out);
            if let Some(outcome) = self.active.get(&attempt).and_then(|active| active.is_over(now)) {
                self.end(now, attempt, outcome, out);
            }
        }
    }

    /// When [`Self::handle_timeout`] has something to do.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<Deadline> {
        self.active.values().map(Active::poll_timeout).min_by_key(|deadline| deadline.at)
    }

    /// The attempt is over. One that found something was told of when it did.
    fn end(&mut self, now: Time, attempt: u128, outcome: Outcome, out: &mut Outbox<Event>) {
        let Some(Active { mut record, .. }) = self.active.remove(&attempt) else { return };
        if record.outcome.is_none() {
            (record.ended, record.outcome) = (Some(now), Some(outcome));
            self.remember(now, record, out);
        }
    }

    /// Notes what came of an attempt, for the first time or a better one.
    fn remember(&mut self, now: Time, record: Attempt, out: &mut Outbox<Event>) {
        let jitter = 1.0 + 0.25 * self.rng.unit();
        if self.history_of(record.peer).note(now, &record, jitter) {
            out.event(Event::Ended(Box::new(record)));
        }
    }

    fn history_of(&mut self, peer: NodeId) -> &mut History {
        self.peers.get_or_insert_with(peer, History::default)
    }

    /// The attempts with `peer` that may still find something.
    fn open(&self, peer: &NodeId) -> impl Iterator<Item = (u128, &Active)> {
        let of_peer = move |a: &Active| a.record.peer == *peer && a.is_open();
        self.active.iter().filter(move |(_, a)| of_peer(a)).map(|(id, a)| (*id, a))
    }

    /// The session with `peer` travels directly: whatever failed before is past.
    pub fn succeeded(&mut self, peer: &NodeId) {
        if let Some(history) = self.peers.get_mut(peer) {
            history.arrived();
        }
    }

    /// The operator wants a direct way to `peer` now: a rest is over, now and then.
    pub fn insist(&mut self, now: Time, peer: &NodeId) {
        if let Some(history) = self.peers.get_mut(peer) {
            history.insist(now);
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
            history.start_afresh(now);
        }
    }

    /// This node's network changed. Where it is seen now turns out a little later, and counts then.
    pub fn network_changed(&mut self, now: Time) {
        self.own_changed(now);
        self.afresh_at = now;
    }

    /// The addresses or the verdict of `peer` changed.
    pub fn member_changed(&mut self, now: Time, peer: NodeId) {
        if let Some(history) = self.peers.get_mut(&peer) {
            history.peer_changed(now);
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
        self.open(peer).next().map(|(_, active)| &active.record)
    }

    /// All attempts that are remembered, of all peers, those under way among them; in no order of time.
    pub fn attempts(&self) -> impl Iterator<Item = &Attempt> {
        let open = self.active.values().filter(|active| active.is_open()).map(|active| &active.record);
        self.peers.iter().flat_map(|(_, history)| history.attempts()).chain(open)
    }

    /// Attempts remembered, and addresses counted, for bounds.
    #[must_use]
    pub fn sizes(&self) -> (usize, usize) {
        (self.active.len(), self.budget.len())
    }
}
