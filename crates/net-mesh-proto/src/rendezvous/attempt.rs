//! An attempt under way: what is sent when, and which checks and answers count.
//!
//! **Life.** Asked (by this node only: the mediator has not answered yet) -> checking -> over. Checks are sent as the
//! plan says, and beyond that to addresses that genuine checks came from. The first genuine answer ends the
//! sending, but for addresses that may be nearer, and the attempt lingers to answer the other side.
//!
//! **What counts.** A check: its name says the other side of a known attempt, its signature is right, and its
//! transaction is new. An answer: to a transaction of this attempt, from the address that was asked, with
//! the right signature. Anything else is counted and dropped in silence.

use alloc::collections::BTreeSet;
use alloc::vec::Vec;
use core::net::SocketAddr;
use core::time::Duration;

use super::plan::{Shot, Side, schedule};
use super::record::{Attempt, Outcome};
use super::wire::Introduction;
use super::{Event, MAX_DELAY, Rendezvous, View};
use crate::drops::DropReason;
use crate::outbox::{Outbox, SocketId};
use crate::reflex::stun::{self, CheckName};
use crate::time::{Deadline, Time};
use crate::wire::addr::{Scope, scope};

/// Addresses checked in one attempt because checks came from there: a symmetric NAT shows one, chained ones two.
pub const MAX_TRIGGERED: usize = 4;

/// Checks of the other side answered in one attempt. It sends six to each of sixteen addresses of this node, and three
/// to each of [`MAX_TRIGGERED`] more.
pub const MAX_HEARD: usize = 128;

/// How long a mediator may take.
const ASK_LIMIT: Duration = Duration::from_secs(3);

/// How long after firing an attempt is over: the last checks are sent within two seconds, and their answers take
/// a round trip.
const LIMIT: Duration = Duration::from_secs(3);

/// After a success, how long a better address may still come, and the peer's checks are answered.
const LINGER: Duration = Duration::from_secs(3);

/// When the check of an address that a check came from is sent, from the first on.
const TRIGGERED: [Duration; 3] = [Duration::ZERO, Duration::from_millis(150), Duration::from_millis(450)];

/// An attempt under way.
#[derive(Debug)]
pub(super) struct Active {
    pub(super) record: Attempt,
    pub(super) stage: Stage,
}

#[derive(Debug)]
pub(super) enum Stage {
    /// The mediator has been asked.
    Asked,
    /// Checks are sent and answered.
    Checking(Checking),
}

#[derive(Debug)]
pub(super) struct Checking {
    key: [u8; 32],
    /// What is still to be sent, in the order of time.
    shots: Vec<(Time, SocketAddr)>,
    /// What was sent and not answered.
    sent: Vec<Sent>,
    /// The transactions of the other side's checks, so that each counts once.
    heard: BTreeSet<u128>,
    triggered: Vec<SocketAddr>,
    found: Option<SocketAddr>,
    ends: Time,
}

#[derive(Clone, Copy, Debug)]
struct Sent {
    txid: u128,
    to: SocketAddr,
    at: Time,
}

impl Active {
    /// Whether it has neither found anything nor ended.
    pub(super) fn is_open(&self) -> bool {
        self.record.outcome.is_none()
    }

    pub(super) fn poll_timeout(&self) -> Deadline {
        match &self.stage {
            Stage::Asked => Deadline::new(self.record.began + ASK_LIMIT, "the mediator does not answer"),
            Stage::Checking(checking) => match checking.shots.first() {
                Some((at, _)) if *at < checking.ends => Deadline::new(*at, "the next check"),
                _ => Deadline::new(checking.ends, "the rendezvous is over"),
            },
        }
    }

    /// What it has come to, if it is over.
    pub(super) fn is_over(&self, now: Time) -> Option<Outcome> {
        match &self.stage {
            Stage::Asked => (now >= self.record.began + ASK_LIMIT).then_some(Outcome::Unanswered),
            Stage::Checking(checking) => (now >= checking.ends).then_some(Outcome::TimedOut),
        }
    }
}

impl Checking {
    /// Why a check of the other side is none, if it is none; else notes that it counts from now on.
    fn refusal(
        &mut self,
        seeker: bool,
        from: SocketAddr,
        (txid, name): (u128, CheckName),
        bytes: &[u8],
    ) -> Option<DropReason> {
        if name.by_seeker == seeker || from.port() == 0 || !stun::is_signed(bytes, &self.key) {
            Some(DropReason::BadAuthentication)
        } else if self.heard.len() >= MAX_HEARD {
            Some(DropReason::RateLimited)
        } else {
            (!self.heard.insert(txid)).then_some(DropReason::UnknownTransaction)
        }
    }

    /// Whether a check came from a new place, which is then checked in return.
    fn is_news(&mut self, now: Time, from: SocketAddr) -> bool {
        let known = self.triggered.contains(&from) || self.found == Some(from);
        let news = !known && self.triggered.len() < MAX_TRIGGERED;
        if news {
            self.triggered.push(from);
            self.shots.extend(TRIGGERED.iter().map(|after| (now + *after, from)));
            self.shots.sort_by_key(|(at, _)| *at);
        }
        news
    }
}

impl Rendezvous {
    /// The other side is known: lays out what is sent when.
    pub(super) fn fire(&mut self, now: Time, intro: &Introduction, view: View<'_>) {
        let Some(active) = self.active.get_mut(&intro.attempt) else { return };
        let delay = |ms: u16| Duration::from_millis(u64::from(ms)).min(MAX_DELAY);
        let at = now + delay(intro.fire_in_ms);
        let own = Side { verdict: view.own.verdict, candidates: &view.own.candidates };
        let theirs = Side { verdict: intro.verdict, candidates: &intro.candidates };
        let planned =
            schedule(intro.plan, active.record.seeker, view.local, (&own, &theirs), delay(intro.span_ms));
        active.record.theirs.clone_from(&intro.candidates);
        active.stage = Stage::Checking(Checking {
            key: intro.key,
            shots: planned.into_iter().map(|Shot { after, to }| (at + after, to)).collect(),
            sent: Vec::new(),
            heard: BTreeSet::new(),
            triggered: Vec::new(),
            found: None,
            ends: at + LIMIT,
        });
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
        let Some(Active { record, stage }) = self.active.get_mut(&name.attempt) else { return false };
        let from = stun::canonical(from);
        let reason = match stage {
            // The other side was told sooner. It repeats its checks.
            Stage::Asked => Some(DropReason::UnknownTransaction),
            Stage::Checking(checking) => checking.refusal(record.seeker, from, (txid, name), bytes),
        };
        match (stage, reason) {
            (Stage::Checking(checking), None) => {
                record.heard += 1;
                out.send(SocketId::MAIN, from, stun::check_response(txid, from, &checking.key));
                if checking.is_news(now, from) {
                    self.shoot(now, name.attempt, out);
                }
            }
            (_, reason) => reason.into_iter().for_each(|reason| out.drop(reason)),
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
        let asked = self.active.iter().find_map(|(id, active)| {
            let Stage::Checking(checking) = &active.stage else { return None };
            let sent = checking.sent.iter().find(|sent| sent.txid == txid)?;
            Some((*id, checking.key, *sent))
        });
        let Some((attempt, key, Sent { to, at, .. })) = asked else { return false };
        if to == stun::canonical(from) && stun::is_signed(bytes, &key) {
            self.budget.answered(to);
            self.answered(now, attempt, to, now - at, out);
        } else {
            out.drop(DropReason::BadAuthentication);
        }
        true
    }

    /// `addr` answers: that is what was looked for, unless something as good is known already.
    fn answered(
        &mut self,
        now: Time,
        attempt: u128,
        addr: SocketAddr,
        rtt: Duration,
        out: &mut Outbox<Event>,
    ) {
        let Some(Active { record, stage: Stage::Checking(checking) }) = self.active.get_mut(&attempt) else {
            return;
        };
        checking.sent.retain(|sent| sent.to != addr);
        let is_near = |addr: &SocketAddr| scope(addr.ip()) < Scope::Global;
        let better = checking.found.is_none_or(|known| is_near(&addr) && !is_near(&known));
        if !better {
            return;
        }
        checking.found = Some(addr);
        checking.ends = now + LINGER;
        // Only what may be nearer is still worth a packet.
        checking.shots.retain(|(_, to)| is_near(to) && !is_near(&addr));
        (record.ended, record.outcome) = (Some(now), Some(Outcome::Found { addr, rtt }));
        let record = record.clone();
        out.event(Event::Found { peer: record.peer, addr, rtt });
        self.remember(now, record, out);
    }

    /// Sends what is due in one attempt.
    pub(super) fn shoot(&mut self, now: Time, attempt: u128, out: &mut Outbox<Event>) {
        let Some(Active { record, stage: Stage::Checking(checking) }) = self.active.get_mut(&attempt) else {
            return;
        };
        let due = checking.shots.iter().take_while(|(at, _)| *at <= now).count();
        for (_, to) in checking.shots.drain(..due) {
            if !self.budget.take(now, to) {
                out.drop(DropReason::RateLimited);
                continue;
            }
            let txid = self.rng.u96();
            let name = CheckName { attempt, by_seeker: record.seeker };
            out.send(SocketId::MAIN, to, stun::check_request(txid, name, &checking.key));
            checking.sent.push(Sent { txid, to, at: now });
            record.sent += 1;
        }
    }
}
