//! Introducing two others: from their round-trip times to the moment at which both fire.
//!
//! A mediator remembers nothing of an introduction. What it does for others is metered: so many introductions
//! for each member that asks, and fewer for each whom it asks for.

use core::time::Duration;

use super::wire::{Decline, Introduction, Message, Seek};
use super::{Event, View};
use crate::bounded::BoundedMap;
use crate::id::NodeId;
use crate::membership::MAX_MEMBERS;
use crate::outbox::Outbox;
use crate::rng::Rng;
use crate::time::Time;

/// For one member that asks. A node that has just joined a mesh of hundreds asks for dozens; more than one in a quarter
/// of a second for ever is no rendezvous.
const ASKING: Rate = Rate { burst: 64, every: Duration::from_millis(250) };

/// For one member that asks, to one whom it asks for: the plans of a pair, again and again after changes.
const PAIR: Rate = Rate { burst: 16, every: Duration::from_secs(1) };

/// For one mediator, with the member that is sought. Above what a single one can ask it for, so that a single one that
/// floods does not use up everybody's.
pub(super) const SOUGHT: Rate = Rate { burst: 160, every: Duration::from_millis(100) };

/// What is added to the later side's time, so that it can still be ready for it: the time that messages wait in
/// busy nodes.
const SLACK: Duration = Duration::from_millis(5);

#[derive(Clone, Copy, Debug)]
struct Allowance {
    left: u32,
    at: Time,
}

/// Introductions at once, and how often another one is granted.
#[derive(Clone, Copy, Debug)]
pub(super) struct Rate {
    burst: u32,
    every: Duration,
}

/// A token bucket for each member, or each pair of them.
#[derive(Debug)]
pub(super) struct Meter<K> {
    rate: Rate,
    left: BoundedMap<K, Allowance>,
}

impl<K: Ord + Clone> Meter<K> {
    pub(super) fn new(rate: Rate) -> Self {
        Self { rate, left: BoundedMap::new(MAX_MEMBERS) }
    }

    pub(super) fn take(&mut self, now: Time, id: K) -> bool {
        let Rate { burst, every } = self.rate;
        let known = self.left.get(&id).copied().unwrap_or(Allowance { left: burst, at: now });
        let gained = u32::try_from((now - known.at).as_nanos() / every.as_nanos()).unwrap_or(u32::MAX);
        let left = known.left.saturating_add(gained).min(burst);
        // What is not a whole one yet is kept, but for a bucket that overflows.
        let at = if left == burst { now } else { known.at + every * gained };
        self.left.insert(id, Allowance { left: left.saturating_sub(1), at });
        left > 0
    }
}

/// The mediating part of a node.
#[derive(Debug)]
pub(super) struct Mediator {
    rng: Rng,
    asking: Meter<NodeId>,
    /// Of each member that asks, and whom it asks for: one that asks too often is in nobody else's way.
    pairs: Meter<(NodeId, NodeId)>,
}

impl Mediator {
    pub(super) fn new(rng: Rng) -> Self {
        Self { rng, asking: Meter::new(ASKING), pairs: Meter::new(PAIR) }
    }

    /// `from` wants to be introduced.
    pub(super) fn introduce(
        &mut self,
        now: Time,
        from: NodeId,
        seek: Seek,
        view: &View<'_>,
        out: &mut Outbox<Event>,
    ) {
        let attempt = seek.attempt;
        if let Err(why) = self.try_introduce(now, from, seek, view, out) {
            out.event(Event::Send { to: from, message: Message::Declined { attempt, why } });
        }
    }

    fn try_introduce(
        &mut self,
        now: Time,
        from: NodeId,
        seek: Seek,
        view: &View<'_>,
        out: &mut Outbox<Event>,
    ) -> Result<(), Decline> {
        let target = seek.target;
        let known = view.members.get(&target).filter(|_| target != from);
        let times = (view.rtt)(&from).zip((view.rtt)(&target));
        let (Some(member), Some((to_seeker, to_sought))) = (known, times) else {
            return Err(Decline::NoSession);
        };
        if !self.asking.take(now, from) || !self.pairs.take(now, (from, target)) {
            return Err(Decline::Busy);
        }
        let (near, far) = (to_seeker / 2, to_sought / 2);
        let both = near.max(far) + SLACK;
        let (key, span_ms) = (draw_key(&mut self.rng), millis(near + far));
        let record = member.record();
        let plan = seek.plan;
        let introduction = |peer, to_seeker, one_way: Duration| Introduction {
            attempt: seek.attempt,
            peer,
            to_seeker,
            plan,
            verdict: if to_seeker { record.verdict } else { seek.verdict },
            candidates: if to_seeker { record.candidates.clone() } else { seek.candidates.clone() },
            key,
            fire_in_ms: millis(both.saturating_sub(one_way)),
            span_ms,
        };
        let first = Message::Introduction(introduction(from, false, far));
        let second = Message::Introduction(introduction(target, true, near));
        out.event(Event::Send { to: target, message: first });
        out.event(Event::Send { to: from, message: second });
        out.event(Event::Introduced { seeker: from, sought: target, attempt: seek.attempt, plan });
        Ok(())
    }
}

pub(super) fn draw_key(rng: &mut Rng) -> [u8; 32] {
    let mut key = [0; 32];
    for part in key.chunks_exact_mut(8) {
        part.copy_from_slice(&rng.u64().to_be_bytes());
    }
    key
}

pub(super) fn millis(time: Duration) -> u16 {
    u16::try_from(time.as_millis()).unwrap_or(u16::MAX)
}
