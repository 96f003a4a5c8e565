//! Has a member elsewhere reached the mapped address?
//!
//! **Silence counts only where somebody spoke.** A member says that it has sent; without that word nothing is concluded, for
//! then the question may have been lost, or the member be gone. [`ASKS`] who have sent and were not heard are a no; another
//! one each time, where there are several.
//!
//! **One member's word is not taken where there are two.** The first who gets through is followed by another one; only if
//! nobody else can tell, the first is believed. What comes from the very address to which this node has a session proves nothing:
//! that has a hole of its own in the NAT.

use alloc::vec::Vec;
use core::net::SocketAddr;
use core::time::Duration;

use super::PROVE_AGAIN;
use super::wire::Outcome;
use crate::id::NodeId;
use crate::reflex::stun::ProbeToken;
use crate::rng::Rng;
use crate::time::Time;

/// Silences in a row that make a no: each covers a burst of loss of half a second by itself.
const ASKS: usize = 3;

/// How long to wait for the word and the probes: the last leaves 600 ms after the question has arrived.
const WAIT: Duration = Duration::from_secs(3);

/// How long until another question, after one that told nothing.
const AGAIN: Duration = Duration::from_secs(5);

/// The longest such time: the wait doubles while nobody can tell.
const AGAIN_AT_MOST: Duration = Duration::from_secs(300);

/// Between two questions at least, where a change of the network raises doubt.
const DOUBTS: Duration = Duration::from_secs(30);

/// Members who must get through, where there are as many.
const ENOUGH: usize = 2;

/// A member that can be asked: there is a direct session with it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Witness {
    /// Who.
    pub id: NodeId,
    /// Where its packets come from.
    pub addr: SocketAddr,
}

/// A question that is open.
#[derive(Clone, Copy, Debug)]
struct Question {
    peer: NodeId,
    /// Where the member's session comes from.
    addr: SocketAddr,
    token: ProbeToken,
    until: Time,
    /// The member says that it has sent.
    sent: bool,
}

/// What a step came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Step {
    /// Ask this member to send.
    Ask(NodeId, ProbeToken),
    /// This member got through, and nobody can say otherwise.
    Proven(NodeId),
    /// What was sent does not arrive.
    Disproved,
    /// Nothing.
    Nothing,
}

/// What a probe says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Heard {
    /// Nobody asked for it.
    Unknown,
    /// Nothing, or not yet.
    Nothing,
    /// The mapping still works.
    Again,
    /// It works.
    Proven(NodeId),
}

/// Whether one mapped address is believed.
#[derive(Debug)]
pub(super) struct Belief {
    /// Who reached it last.
    proven_by: Option<NodeId>,
    /// Who reached it while that was not enough.
    reached: Vec<NodeId>,
    open: Option<Question>,
    /// The question that was answered last: its probes come three times.
    done: Option<ProbeToken>,
    asked: Option<Time>,
    /// Those whose packets did not arrive, since one's did.
    silent: Vec<NodeId>,
    /// Questions in a row that told nothing.
    futile: u32,
    next: Time,
}

impl Belief {
    /// Nothing is known of it; it is to be proven from `now` on.
    pub(super) const fn new(now: Time) -> Self {
        Self {
            proven_by: None,
            reached: Vec::new(),
            open: None,
            done: None,
            asked: None,
            silent: Vec::new(),
            futile: 0,
            next: now,
        }
    }

    pub(super) const fn proven_by(&self) -> Option<NodeId> {
        self.proven_by
    }

    /// Something may have changed: prove it again soon.
    pub(super) fn doubt(&mut self, now: Time) {
        self.futile = 0;
        let soon = self.asked.map_or(now, |at| now.max(at + DOUBTS));
        self.next = self.next.min(soon);
    }

    /// When [`Self::step`] wants to be called.
    pub(super) fn due(&self) -> Time {
        self.open.map_or(self.next, |question| question.until)
    }

    /// Asks the next member, if it is time; `external` is the address in question, and `provable` whether what arrives there
    /// would prove anything.
    pub(super) fn step(
        &mut self,
        now: Time,
        (external, provable): (SocketAddr, bool),
        witnesses: &[Witness],
        rng: &mut Rng,
    ) -> Step {
        if self.due() > now {
            return Step::Nothing;
        }
        let mut told_nothing = false;
        if let Some(question) = self.open.take() {
            told_nothing = !question.sent;
            if question.sent {
                self.silent.push(question.peer);
            }
            if self.silent.len() >= ASKS {
                (self.proven_by, self.reached) = (None, Vec::new());
                return Step::Disproved;
            }
        }
        // A neighbour behind the same router proves nothing about who is beyond it.
        let fit = |w: &&Witness| {
            provable
                && w.addr.is_ipv4() == external.is_ipv4()
                && w.addr.ip() != external.ip()
                && crate::wire::addr::scope(w.addr.ip()) == crate::wire::addr::Scope::Global
        };
        let fresh = |w: &&Witness| !self.silent.contains(&w.id) && !self.reached.contains(&w.id);
        let mut choice: Vec<&Witness> = witnesses.iter().filter(fit).filter(fresh).collect();
        if let Some(by) = self.reached.first().copied()
            && (told_nothing || choice.is_empty())
        {
            self.believe(now, by);
            return Step::Proven(by);
        }
        if choice.is_empty() {
            choice = witnesses.iter().filter(fit).collect();
        }
        let index = usize::try_from(rng.below(choice.len() as u64)).unwrap_or(0);
        let Some(chosen) = choice.get(index).filter(|_| !told_nothing) else {
            self.told_nothing(now);
            return Step::Nothing;
        };
        let token = ProbeToken(rng.u64());
        self.asked = Some(now);
        self.open =
            Some(Question { peer: chosen.id, addr: chosen.addr, token, until: now + WAIT, sent: false });
        Step::Ask(chosen.id, token)
    }

    fn believe(&mut self, now: Time, by: NodeId) {
        self.silent.clear();
        self.reached.clear();
        self.futile = 0;
        self.next = now + PROVE_AGAIN;
        self.proven_by = Some(by);
    }

    fn told_nothing(&mut self, now: Time) {
        self.next = now + AGAIN.saturating_mul(1 << self.futile.min(6)).min(AGAIN_AT_MOST);
        self.futile += 1;
    }

    /// A member answers.
    pub(super) fn told(&mut self, now: Time, peer: NodeId, token: ProbeToken, outcome: Outcome) {
        let Some(open) = self.open.as_mut().filter(|open| open.peer == peer && open.token == token) else {
            return;
        };
        match outcome {
            Outcome::Sent => open.sent = true,
            // Found out at once, as if the time were over.
            Outcome::NotYours | Outcome::Busy | Outcome::CannotSend => open.until = now,
        }
    }

    /// A probe arrived from `from`.
    pub(super) fn heard(&mut self, now: Time, from: SocketAddr, token: ProbeToken) -> Heard {
        if self.done == Some(token) {
            return Heard::Nothing;
        }
        let Some(question) = self.open.take_if(|open| open.token == token) else { return Heard::Unknown };
        self.done = Some(token);
        if from == question.addr || from.ip() != question.addr.ip() {
            self.told_nothing(now);
            return Heard::Nothing;
        }
        if self.proven_by.is_some() {
            self.believe(now, question.peer);
            return Heard::Again;
        }
        self.reached.push(question.peer);
        if self.reached.len() >= ENOUGH {
            self.believe(now, question.peer);
            return Heard::Proven(question.peer);
        }
        self.next = now;
        Heard::Nothing
    }
}
