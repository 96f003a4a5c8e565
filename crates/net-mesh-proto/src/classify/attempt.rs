//! One attempt to classify: fresh sockets, one P, at most one H.
//!
//! `Opening` (the sockets) -> `Locating` (F's address, from P) -> `Arranging` (P's offer) -> `Probing`.
//! Any step can fail the attempt; the classifier then decides whether to make another. What each step asks
//! and why is in the specification at the head of [`super`].

use alloc::boxed::Box;
use alloc::collections::BTreeMap;
use alloc::vec::Vec;
use core::net::{IpAddr, SocketAddr};
use core::time::Duration;

use super::evidence::{self, Evidence, Findings, Views};
use super::probing::{MAPPERS, MAX_SLOTS, Probing, Purpose, ROUND, Slot, series};
use super::wire::{Message, ProbeOffer, ProbeSetup};
use super::{Event, HelperInfo, SLOT_PACE, is_public};
use crate::drops::DropReason;
use crate::id::NodeId;
use crate::outbox::{Outbox, SocketId};
use crate::reflex::stun::{self, Probe};
use crate::rng::Rng;
use crate::time::{Deadline, Time};

/// How long the system may take to open a socket.
const OPEN_TIMEOUT: Duration = Duration::from_secs(2);

/// Copies of F's first question. Sent over a second or more, so that a burst of loss does not cover them.
const LOCATE_TRIES: u8 = 5;

/// The least and the longest wait for F's first answer.
const LOCATE_WAIT: (Duration, Duration) = (Duration::from_millis(200), Duration::from_millis(800));

/// How long P may take to offer help. It gives H a second; the rest is for a session that retransmits.
const OFFER_TIMEOUT: Duration = Duration::from_secs(3);

/// The least and the most time that a probe gets to arrive after its slot. Within these, twice the longest
/// round trip seen: jitter and reordering may delay a probe more than its control, rarely by a round trip.
const GRACE: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(2));

/// Probes kept that arrive before P's offer. H sends at most 16 on its own; the rest is someone's nonsense.
const MAX_EARLY: usize = 16;

pub(super) const NEEDS_SOCKETS: &str = "a free UDP socket";
pub(super) const NEEDS_PRIMARY: &str = "two members reachable at public addresses";

/// How an attempt ended.
#[derive(Clone, Debug)]
pub(super) enum Outcome {
    /// With findings, complete or not. `unfit` is an H that never answered; `again` says whether the same P may
    /// do better next time.
    Done { findings: Findings, unfit: Option<NodeId>, again: bool },
    /// Without. `again` says whether the same P may do better next time.
    Failed { missing: &'static str, again: bool },
}

#[derive(Clone, Copy, Debug)]
struct Sock {
    id: SocketId,
    port: Option<u16>,
}

/// A request that was sent from the sockets of this attempt.
#[derive(Clone, Copy, Debug)]
struct Ask {
    socket: SocketId,
    to: SocketAddr,
    sent: Time,
    purpose: Purpose,
}

#[derive(Clone, Debug)]
enum Stage {
    Opening { until: Time },
    Locating { txid: u128, tries: u8, due: Time },
    Arranging { txid: u128, mapped: SocketAddr, until: Time },
    Probing(Box<Probing>),
}

/// One attempt.
#[derive(Debug)]
pub(super) struct Attempt {
    rng: Rng,
    pub(super) primary: HelperInfo,
    exclude: Vec<NodeId>,
    local_ips: Vec<IpAddr>,
    filter: Sock,
    mappers: [Sock; MAPPERS],
    stage: Stage,
    /// Bounded by what an attempt sends: at most eight requests a slot.
    asks: BTreeMap<u128, Ask>,
    slowest: Duration,
    early: Vec<(SocketId, SocketAddr, Probe)>,
}

/// Sockets that an attempt uses.
pub(super) const SOCKETS: u32 = 1 + MAPPERS as u32;

impl Attempt {
    /// Opens the sockets, numbered from `first`.
    pub(super) fn start(
        now: Time,
        rng: Rng,
        primary: HelperInfo,
        exclude: Vec<NodeId>,
        local_ips: Vec<IpAddr>,
        first: u32,
        out: &mut Outbox<Event>,
    ) -> Self {
        let sock = |n: u32| Sock { id: SocketId(first + n), port: None };
        let attempt = Self {
            rng,
            primary,
            exclude,
            local_ips,
            filter: sock(0),
            mappers: [sock(1), sock(2)],
            stage: Stage::Opening { until: now + OPEN_TIMEOUT },
            asks: BTreeMap::new(),
            slowest: primary.rtt,
            early: Vec::new(),
        };
        for socket in attempt.sockets() {
            out.event(Event::OpenSocket { socket, v6: primary.addr.is_ipv6() });
        }
        attempt
    }

    /// Closes the sockets; whatever still arrives on them is nobody's.
    pub(super) fn close(&self, out: &mut Outbox<Event>) {
        for socket in self.sockets() {
            out.event(Event::CloseSocket { socket });
        }
    }

    fn sockets(&self) -> impl Iterator<Item = SocketId> + use<> {
        let [a, b] = self.mappers;
        [self.filter.id, a.id, b.id].into_iter()
    }

    pub(super) fn socket_opened(
        &mut self,
        now: Time,
        socket: SocketId,
        port: u16,
        out: &mut Outbox<Event>,
    ) -> Option<Outcome> {
        let mine = core::iter::once(&mut self.filter).chain(&mut self.mappers).find(|s| s.id == socket);
        mine?.port = Some(port);
        let open = self.filter.port.is_some() && self.mappers.iter().all(|s| s.port.is_some());
        if open && matches!(self.stage, Stage::Opening { .. }) {
            self.stage = Stage::Locating { txid: self.rng.u96(), tries: 0, due: now };
            return self.handle_timeout(now, out);
        }
        None
    }

    pub(super) fn socket_failed(&self, socket: SocketId) -> Option<Outcome> {
        self.sockets().any(|s| s == socket).then_some(Outcome::Failed { missing: NEEDS_SOCKETS, again: true })
    }

    /// A Binding response arrived on one of the sockets.
    pub(super) fn handle_response(
        &mut self,
        now: Time,
        socket: SocketId,
        from: SocketAddr,
        txid: u128,
        mapped: SocketAddr,
        out: &mut Outbox<Event>,
    ) -> Option<Outcome> {
        if let Stage::Locating { txid: asked, .. } = self.stage
            && (asked, self.filter.id, self.primary.addr) == (txid, socket, from)
        {
            return self.located(now, txid, mapped, out);
        }
        let asked = self.asks.get(&txid).filter(|a| a.socket == socket && a.to == from).copied();
        let Some(ask) = asked else {
            out.drop(DropReason::UnknownTransaction);
            return None;
        };
        self.asks.remove(&txid);
        self.slowest = self.slowest.max(now - ask.sent);
        let Stage::Probing(probing) = &mut self.stage else { return None };
        if !probing.note_answer(ask.purpose, mapped) {
            return Some(Outcome::Failed { missing: evidence::NEEDS_STEADY, again: true });
        }
        self.conclude(now)
    }

    /// F knows its address: asks P for help with it.
    fn located(
        &mut self,
        now: Time,
        txid: u128,
        mapped: SocketAddr,
        out: &mut Outbox<Event>,
    ) -> Option<Outcome> {
        // P sees a private address, or shares ours: it is on our side of the NAT and cannot judge it.
        if !is_public(mapped) || mapped.ip() == self.primary.addr.ip() {
            return Some(Outcome::Failed { missing: NEEDS_PRIMARY, again: false });
        }
        let setup = ProbeSetup { txid, mapped, exclude: self.exclude.clone() };
        out.event(Event::ToPeer { peer: self.primary.id, message: Message::Setup(setup) });
        self.stage = Stage::Arranging { txid, mapped, until: now + OFFER_TIMEOUT };
        None
    }

    /// P offers to help.
    pub(super) fn handle_offer(
        &mut self,
        now: Time,
        peer: NodeId,
        offer: ProbeOffer,
        out: &mut Outbox<Event>,
    ) -> Option<Outcome> {
        let Stage::Arranging { txid, mapped, .. } = self.stage else {
            out.drop(DropReason::UnknownToken);
            return None;
        };
        if peer != self.primary.id || offer.txid != txid {
            out.drop(DropReason::UnknownToken);
            return None;
        }
        let primary = self.primary.addr;
        let same_family = |a: SocketAddr| a.is_ipv4() == primary.is_ipv4();
        let third = offer.third.filter(|t| {
            is_public(t.addr)
                && same_family(t.addr)
                && t.addr.ip() != primary.ip()
                && t.addr.ip() != mapped.ip()
        });
        let other_addr = offer
            .other_addr
            .filter(|a| a.ip() == primary.ip() && a.port() != primary.port() && a.port() != 0);
        let port = |s: &Sock| s.port.unwrap_or(0);
        let [a, b] = &self.mappers;
        let probing = Probing {
            token: offer.token,
            mapped,
            other_addr,
            third,
            slots: Vec::new(),
            next: now,
            views: [a, b].map(|s| Views { local_port: port(s), ..Views::default() }),
            hearing: 0,
            other_heard: false,
            other_arrived: 0,
            third_arrived: 0,
        };
        self.stage = Stage::Probing(Box::new(probing));
        for (socket, from, probe) in core::mem::take(&mut self.early) {
            if let Some(outcome) = self.handle_probe(now, socket, from, probe, out) {
                return Some(outcome);
            }
        }
        self.handle_timeout(now, out)
    }

    /// P does not help.
    pub(super) fn handle_refused(&self, peer: NodeId, txid: u128) -> Option<Outcome> {
        match self.stage {
            Stage::Arranging { txid: asked, .. } if peer == self.primary.id && txid == asked => {
                Some(Outcome::Failed { missing: evidence::NEEDS_ANSWERS, again: true })
            }
            _ => None,
        }
    }

    /// A probe arrived.
    pub(super) fn handle_probe(
        &mut self,
        now: Time,
        socket: SocketId,
        from: SocketAddr,
        probe: Probe,
        out: &mut Outbox<Event>,
    ) -> Option<Outcome> {
        let primary = self.primary.addr;
        let filter = self.filter.id;
        let Stage::Probing(probing) = &mut self.stage else {
            self.keep_early(socket, from, probe, out);
            return None;
        };
        let from_other = from.ip() == primary.ip() && from.port() != primary.port();
        // A helper on our side of the NAT proves nothing about it.
        let from_third = from.ip() != primary.ip() && from.ip() != probing.mapped.ip() && is_public(from);
        if probe.token != probing.token || !(from_other || from_third) {
            out.drop(DropReason::UnknownToken);
            return None;
        }
        probing.other_heard |= from_other;
        if from_other {
            // P may not know it yet, and it is where G must ask.
            probing.other_addr.get_or_insert(from);
        }
        if socket == filter {
            probing.other_arrived += u32::from(from_other);
            probing.third_arrived += u32::from(from_third);
        }
        self.conclude(now)
    }

    /// H's own probes can overtake P's offer: they are kept until the token is known.
    fn keep_early(&mut self, socket: SocketId, from: SocketAddr, probe: Probe, out: &mut Outbox<Event>) {
        if self.early.len() < MAX_EARLY && matches!(self.stage, Stage::Arranging { .. }) {
            self.early.push((socket, from, probe));
        } else {
            out.drop(DropReason::UnknownToken);
        }
    }

    pub(super) fn poll_timeout(&self) -> Deadline {
        match &self.stage {
            Stage::Opening { until } => Deadline::new(*until, "a fresh socket does not open"),
            Stage::Locating { due, .. } => Deadline::new(*due, "no address for the filter socket yet"),
            Stage::Arranging { until, .. } => Deadline::new(*until, "the helper does not answer"),
            Stage::Probing(probing) => Deadline::new(probing.next, "the next probe slot"),
        }
    }

    pub(super) fn handle_timeout(&mut self, now: Time, out: &mut Outbox<Event>) -> Option<Outcome> {
        if now < self.poll_timeout().at {
            return None;
        }
        match &mut self.stage {
            Stage::Opening { .. } => Some(Outcome::Failed { missing: NEEDS_SOCKETS, again: true }),
            Stage::Locating { txid, tries, due, .. } => {
                if *tries == LOCATE_TRIES {
                    return Some(Outcome::Failed { missing: NEEDS_PRIMARY, again: true });
                }
                *tries += 1;
                *due = now + (self.primary.rtt * 3 / 2).clamp(LOCATE_WAIT.0, LOCATE_WAIT.1);
                out.send(self.filter.id, self.primary.addr, stun::binding_request(*txid, None));
                None
            }
            Stage::Arranging { .. } => {
                Some(Outcome::Failed { missing: evidence::NEEDS_ANSWERS, again: true })
            }
            Stage::Probing(_) => self.next_slot(now, out),
        }
    }

    fn grace(&self) -> Duration {
        (self.slowest * 2).clamp(GRACE.0, GRACE.1)
    }

    /// Concludes, or sends the next slot.
    fn next_slot(&mut self, now: Time, out: &mut Outbox<Event>) -> Option<Outcome> {
        if let Some(outcome) = self.conclude(now) {
            return Some(outcome);
        }
        let grace = self.grace();
        let Stage::Probing(probing) = &mut self.stage else { return None };
        if let Some(last) = probing.slots.last() {
            // An answer may just have shown a longer round trip: then the pause after a round grows.
            if probing.slots.len().is_multiple_of(ROUND) && now < last.sent + grace {
                probing.next = last.sent + grace;
                return None;
            }
        }
        if probing.slots.len() == MAX_SLOTS {
            return Some(self.findings(now));
        }
        for (socket, to, purpose, probe) in
            probing.questions(self.primary.addr, self.filter.id, self.mappers.map(|m| m.id))
        {
            let txid = self.rng.u96();
            self.asks.insert(txid, Ask { socket, to, sent: now, purpose });
            out.send(socket, to, stun::binding_request(txid, probe));
        }
        probing.slots.push(Slot { sent: now, primary_answered: false, third_answered: false });
        let round_over = probing.slots.len().is_multiple_of(ROUND);
        probing.next = now + if round_over { grace.max(SLOT_PACE) } else { SLOT_PACE };
        None
    }

    /// Ends the attempt if more slots could not tell more.
    fn conclude(&self, now: Time) -> Option<Outcome> {
        let Stage::Probing(probing) = &self.stage else { return None };
        let evidence = self.evidence(probing, now);
        let findings = evidence::judge(&evidence);
        let settled = probing.filter_is_settled(&findings, &evidence, now, self.grace())
            && probing.mapping_is_settled(&findings, now, self.grace());
        settled.then(|| self.done(probing, findings))
    }

    fn findings(&self, now: Time) -> Outcome {
        match &self.stage {
            Stage::Probing(probing) => self.done(probing, evidence::judge(&self.evidence(probing, now))),
            Stage::Opening { .. } | Stage::Locating { .. } | Stage::Arranging { .. } => {
                Outcome::Failed { missing: evidence::NEEDS_ANSWERS, again: true }
            }
        }
    }

    fn done(&self, probing: &Probing, findings: Findings) -> Outcome {
        let answered = probing.slots.iter().any(|s| s.third_answered);
        Outcome::Done {
            findings,
            unfit: probing.third.filter(|_| !answered).map(|t| t.id),
            again: probing.third.is_some(),
        }
    }

    fn evidence(&self, probing: &Probing, now: Time) -> Evidence {
        let filter = Views {
            local_port: self.filter.port.unwrap_or(0),
            primary: Some(probing.mapped),
            other: None,
            third: None,
        };
        let grace = self.grace();
        let ripe: Vec<&Slot> = probing.slots.iter().filter(|s| s.sent + grace <= now).collect();
        let from_other = series(ripe.iter().map(|s| s.primary_answered), probing.other_arrived);
        let from_third = series(ripe.iter().map(|s| s.third_answered), probing.third_arrived);
        Evidence {
            local_ips: self.local_ips.clone(),
            views: core::iter::once(filter).chain(probing.views).collect(),
            other_heard: probing.other_heard,
            from_other,
            from_third,
        }
    }
}
