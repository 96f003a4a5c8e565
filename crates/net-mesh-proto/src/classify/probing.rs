//! The probing step of an attempt: what each slot asks, what was answered, and when nothing more can be learnt.

use alloc::vec::Vec;
use core::net::SocketAddr;
use core::time::Duration;

use super::evidence::{Evidence, Findings, Series, Views};
use super::wire::Third;
use crate::nat::{Filtering, Mapping};
use crate::outbox::SocketId;
use crate::reflex::stun::{Probe, ProbeToken};
use crate::time::Time;

/// Slots in a round. Silence takes six controlled ones, two are spare.
pub(super) const ROUND: usize = 8;

/// Slots in an attempt: four rounds, two to three seconds, which outlasts bursts of half a second.
pub(super) const MAX_SLOTS: usize = 4 * ROUND;

/// Requests with P's token from a mapping socket, at most: with one in each slot from the filter socket
/// they stay below the 64 that P grants.
const MAX_HEARING: usize = 24;

/// Slots in which a mapping socket has sent to P's other port before it asks to hear from there. What comes from
/// there before anything went out can make some NATs use another port towards it, and a cone look symmetric; four
/// requests are all lost on the way out once in 160 000 times at 5 % loss. P's other port has mostly answered by then, and
/// need not be asked at all.
const BEFORE_HEARING: usize = 4;

/// So many slots in a row without an answer are an outage and not a sample of the line's loss: 200 ms,
/// the shortest of bursts. Such slots prove nothing either way; at 10 % loss chance makes one in 10 000.
const OUTAGE: u32 = 4;

/// Sockets that ask for mappings. One would do in principle; with two, a NAT that draws from a block of
/// 512 ports looks endpoint-independent by chance once in 250 000 times instead of once in 512.
pub(super) const MAPPERS: usize = 2;

/// Which of the helper's addresses a request went to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Via {
    Primary,
    Other,
    Third,
}

/// What a request was for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Purpose {
    /// The control of P's probe, from the filter socket.
    FilterControl { slot: usize },
    /// How a mapping socket is seen; `slot` where it is also the control of H's probe.
    View { mapper: usize, via: Via, slot: Option<usize> },
}

#[derive(Clone, Copy, Debug)]
pub(super) struct Slot {
    pub(super) sent: Time,
    pub(super) primary_answered: bool,
    pub(super) third_answered: bool,
}

#[derive(Clone, Debug)]
pub(super) struct Probing {
    pub(super) token: ProbeToken,
    pub(super) mapped: SocketAddr,
    pub(super) other_addr: Option<SocketAddr>,
    pub(super) third: Option<Third>,
    pub(super) slots: Vec<Slot>,
    pub(super) next: Time,
    pub(super) views: [Views; MAPPERS],
    pub(super) hearing: usize,
    pub(super) other_heard: bool,
    pub(super) other_arrived: u32,
    pub(super) third_arrived: u32,
}

/// Counts slots by whether their control was answered, leaving out outages.
pub(super) fn series(answered: impl Iterator<Item = bool>, arrived: u32) -> Series {
    let (mut slots, mut controlled, mut lost_in_a_row) = (0, 0, 0);
    for answered in answered {
        slots += 1;
        if answered {
            controlled += 1;
            lost_in_a_row = 0;
        } else {
            lost_in_a_row += 1;
            match lost_in_a_row {
                0..OUTAGE => {}
                OUTAGE => slots -= OUTAGE,
                _ => slots -= 1,
            }
        }
    }
    Series { slots, controlled, arrived }
}

pub(super) type Question = (SocketId, SocketAddr, Purpose, Option<Probe>);

impl Probing {
    /// What the next slot asks.
    pub(super) fn questions(
        &mut self,
        primary: SocketAddr,
        filter: SocketId,
        mappers: [SocketId; MAPPERS],
    ) -> Vec<Question> {
        let slot = self.slots.len();
        let probe = Probe { token: self.token, slot: u8::try_from(slot).unwrap_or(u8::MAX) };
        let mut questions = Vec::new();
        questions.push((filter, primary, Purpose::FilterControl { slot }, Some(probe)));
        for (mapper, socket) in mappers.into_iter().enumerate() {
            let view = self.views[mapper];
            let purpose = |via, slot| Purpose::View { mapper, via, slot };
            let listening = mapper == 0 && !self.other_heard;
            if listening && slot >= BEFORE_HEARING && self.hearing < MAX_HEARING {
                self.hearing += 1;
                questions.push((socket, primary, purpose(Via::Primary, None), Some(probe)));
            } else if view.primary.is_none() {
                questions.push((socket, primary, purpose(Via::Primary, None), None));
            }
            if let Some(other) = self.other_addr.filter(|_| view.other.is_none() || listening) {
                questions.push((socket, other, purpose(Via::Other, None), None));
            }
            let Some(third) = self.third.filter(|t| t.reachable) else { continue };
            if mapper == 0 {
                questions.push((socket, third.addr, purpose(Via::Third, Some(slot)), Some(probe)));
            } else if view.third.is_none() {
                questions.push((socket, third.addr, purpose(Via::Third, None), None));
            }
        }
        questions
    }

    /// Notes an answer; false if it shows that the ground has moved.
    pub(super) fn note_answer(&mut self, purpose: Purpose, mapped: SocketAddr) -> bool {
        match purpose {
            Purpose::FilterControl { slot } => {
                if let Some(slot) = self.slots.get_mut(slot) {
                    slot.primary_answered = true;
                }
                mapped == self.mapped
            }
            Purpose::View { mapper, via, slot } => {
                if let Some(slot) = slot.and_then(|s| self.slots.get_mut(s)) {
                    slot.third_answered = true;
                }
                self.other_heard |= via == Via::Other;
                let views = &mut self.views[mapper];
                let view = match via {
                    Via::Primary => &mut views.primary,
                    Via::Other => &mut views.other,
                    Via::Third => &mut views.third,
                };
                *view.get_or_insert(mapped) == mapped
            }
        }
    }

    /// Whether so many rounds are over, grace included.
    pub(super) fn over(&self, rounds: usize, now: Time, grace: Duration) -> bool {
        self.slots.get(rounds * ROUND - 1).is_some_and(|s| s.sent + grace <= now)
    }

    /// Whether H can be expected to answer requests.
    pub(super) fn third_answers(&self, now: Time, grace: Duration) -> bool {
        self.third.is_some_and(|t| t.reachable)
            && (!self.over(2, now, grace) || self.slots.iter().any(|s| s.third_answered))
    }

    pub(super) fn filter_is_settled(
        &self,
        findings: &Findings,
        evidence: &Evidence,
        now: Time,
        grace: Duration,
    ) -> bool {
        let third_answers = self.third_answers(now, grace);
        match findings.filtering {
            Filtering::EndpointIndependent | Filtering::AddressDependent => true,
            // Certain already, but H's silence agrees with it and costs nothing.
            Filtering::AddressAndPortDependent => {
                !third_answers || evidence.from_third.is_silent() || self.over(2, now, grace)
            }
            Filtering::Unknown => {
                let only_third_can_tell = self.other_arrived > 0 && !third_answers;
                only_third_can_tell && (self.third.is_none() || self.over(1, now, grace))
            }
        }
    }

    pub(super) fn mapping_is_settled(&self, findings: &Findings, now: Time, grace: Duration) -> bool {
        let third_answers = self.third_answers(now, grace);
        let complete = self.views.iter().all(|v| {
            v.primary.is_some()
                && (v.other.is_some() || self.other_addr.is_none())
                && (v.third.is_some() || !third_answers)
        });
        let enough = match findings.mapping {
            Mapping::Unknown => !third_answers,
            Mapping::None
            | Mapping::EndpointIndependent
            | Mapping::AddressDependent
            | Mapping::AddressAndPortDependent => true,
            // P's other port may yet make it known, and tell more.
            Mapping::EndpointDependent => return self.over(1, now, grace),
        };
        complete || (enough && self.over(1, now, grace))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nobody_is_asked_to_probe_a_mapping_socket_from_where_it_has_not_sent_several_times() {
        let primary: SocketAddr = "203.0.113.1:7000".parse().unwrap();
        let other: SocketAddr = "203.0.113.1:7001".parse().unwrap();
        let mut probing = Probing {
            token: ProbeToken(1),
            mapped: "198.51.100.1:40000".parse().unwrap(),
            other_addr: Some(other),
            third: None,
            slots: Vec::new(),
            next: Time::ZERO,
            views: [Views::default(), Views::default()],
            hearing: 0,
            other_heard: false,
            other_arrived: 0,
            third_arrived: 0,
        };
        let (filter, mappers) = (SocketId(2), [SocketId(3), SocketId(4)]);
        let (mut sent, mut asked) = (0, 0);
        for slot in 0..MAX_SLOTS {
            for (socket, to, _, probe) in probing.questions(primary, filter, mappers) {
                let token = probe.is_some() && socket != filter;
                assert!(!token || (to == primary && sent >= BEFORE_HEARING), "slot {slot}");
                asked += usize::from(token);
                sent += usize::from(socket == mappers[0] && to == other);
            }
            probing.slots.push(Slot { sent: Time::ZERO, primary_answered: false, third_answered: false });
        }
        assert_eq!(asked, MAX_HEARING, "it is asked in the end, where that port stays silent");
    }
}
