//! Is a way alive?
//!
//! One detector watches one way of a session. It is told what was sent and heard, and says when the way's
//! [`Health`] changes, with the evidence. What it does not do is act: which way packets take is the business of
//! [`path`](crate::path).
//!
//! | from | to | when |
//! |---|---|---|
//! | healthy | suspect | [`MANY`] datagrams were sent, nothing came back, and answers take less time: to them, or to what went a round trip before the last sign of life |
//! | | | as many probes in a row are late as is suspicious at the measured loss ([`Odds::suspicious`]); what should have followed other datagrams counts as one |
//! | | | probes are answered, but nothing arrived of what was sent between them, or for a while much less than usual |
//! | | | answers take many times as long as they used to |
//! | | | somebody else says so ([`Detector::doubt`]) |
//! | suspect | failed | no probe was answered for [`FAIL_AFTER`], so many in a row that it cannot be chance at the measured loss, and others can be heard |
//! | suspect, failed | healthy | [`GOOD_PROBES`] probes in a row were answered, over a time that doubles with each relapse |
//!
//! **Evidence of life** is any authenticated frame and any datagram of the session. Only an answered probe shows
//! that both directions work.
//!
//! **One's own stalls**: whoever drives the detector says up to when it was not looking (`excuse`), and whether
//! anyone else is heard ([`Witness`]).

use alloc::collections::VecDeque;
use core::time::Duration;

use super::health::{Cause, Evidence, Health};
use super::loss::{Delivery, Odds};
use super::owed::Owed;
use super::rtt::Rtt;
use super::traffic::Traffic;
use crate::time::Time;

/// Datagrams without any answer that are more than chance: at a loss of a fifth, in both directions, eight are
/// lost once in 3 000 times, and then the suspicion costs a second of copies.
pub const MANY: u64 = 8;

/// Datagrams without any answer that ask for one. A conversation ends with an acknowledgement that nothing follows, or
/// with two; what is sent a minute later must not be taken to be a minute late.
pub const FEW: u64 = 3;

/// Probes that must be late where the peer can be heard: only its answers do not come.
pub const LATE_PROBES_HEARD: usize = 3;

/// With more probes lost than this, in parts of a thousand, answers that do not come are more likely lost than late.
const QUITE_CLEAN: u16 = 100;

/// How long a way must be silent before it has failed. Wi-Fi and cellular links stall for one to three
/// seconds and come back; the session goes another way meanwhile, so waiting costs little.
pub const FAIL_AFTER: Duration = Duration::from_secs(4);

/// The same where nobody else could be heard: it may be this node's own network.
pub const FAIL_ALONE: Duration = Duration::from_secs(8);

/// For how long all others being silent too excuses a way. Then it does not matter whose fault it is.
pub const FAIL_AT_LAST: Duration = Duration::from_secs(120);

/// Probes in a row whose answers restore trust.
pub const GOOD_PROBES: u32 = 3;

/// Over how long a time they must be spread: bursts of loss last up to half a second.
pub const HOLD: Duration = Duration::from_secs(1);

/// The same after many relapses.
pub const HOLD_MOST: Duration = Duration::from_secs(60);

/// Late answers that come within this time come at once: probes are never sent faster than every 25 ms, and those
/// of a way under suspicion are 50 ms apart at least.
const BUNCH: Duration = Duration::from_millis(20);

/// A suspicion that an answer ends sooner than this was a hiccup, and is no relapse.
const HICCUP: Duration = Duration::from_millis(500);

/// For each time that a way has been well for so long it is forgiven one relapse.
pub const FORGIVEN_AFTER: Duration = Duration::from_secs(10);

/// What is added to the patience with datagrams that need not be acknowledged at once (RFC 9000 §18.2).
const ACK_DELAY: Duration = Duration::from_millis(25);

/// Probes in flight that are remembered: at four a second on a way whose answers take seconds.
const FLIGHT: usize = 16;

/// What a way loses before it is lossy, and below what it is clean again, in parts of a thousand. An eighth makes
/// QUIC's throughput collapse, a twentieth is what bad Wi-Fi does every day.
pub const LOSSY: u16 = 125;

/// See [`LOSSY`].
pub const CLEAN: u16 = 50;

/// Probes that must be known for a judgement of loss by them.
pub const KNOWN_PROBES: u32 = 16;

/// Who else can be heard.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Witness {
    /// Someone was heard after the way had fallen silent.
    Others,
    /// There is nobody else to hear.
    Nobody,
    /// All others are silent as well.
    AllSilent,
}

/// What a detector is told when it looks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct View {
    /// The end of the last time in which nobody was looking.
    pub excuse: Time,
    /// Who else can be heard.
    pub witness: Witness,
    /// Somebody else still doubts the way: it does not recover.
    pub barred: bool,
    /// Whether the peer's datagrams come this way: else that none comes means nothing.
    pub expects: bool,
}

#[derive(Clone, Copy, Debug)]
struct Probe {
    nonce: u64,
    at: Time,
    sent: u32,
    late: bool,
}

/// What is known of one way.
#[derive(Clone, Debug)]
pub struct Detector {
    health: Health,
    cause: Cause,
    since: Time,
    rtt: Rtt,
    flight: VecDeque<Probe>,
    last_probe: Option<Time>,
    /// When the last genuine frame came.
    frame: Option<Time>,
    /// When the last probe was answered.
    answered: Option<Time>,
    /// The highest nonce answered, so that answers that overtake each other do no harm.
    newest: u64,
    /// Late in a row.
    unanswered: u32,
    good: u32,
    good_since: Option<Time>,
    relapses: u32,
    /// Whether the present suspicion was more than a hiccup.
    outage: bool,
    recovered: Option<Time>,
    odds: Odds,
    out: Delivery,
    back: Delivery,
    traffic: Traffic,
    /// The least of the round-trip times that came late and all at once, and when the first of them came.
    late_rtt: Option<(Time, Duration)>,
    /// Since when at least [`FEW`] datagrams wait for an answer.
    pressing: Option<Time>,
    owed: Owed,
}

impl Detector {
    /// The detector of a way that is believed to work.
    #[must_use]
    pub const fn new(now: Time) -> Self {
        Self {
            health: Health::Healthy,
            cause: Cause::Answered,
            since: now,
            rtt: Rtt::new(),
            flight: VecDeque::new(),
            last_probe: None,
            frame: None,
            answered: None,
            newest: 0,
            unanswered: 0,
            good: 0,
            good_since: None,
            relapses: 0,
            outage: false,
            recovered: None,
            odds: Odds::new(),
            out: Delivery::new(),
            back: Delivery::new(),
            traffic: Traffic { sent: 0, received: 0, heard: None, waiting: None },
            late_rtt: None,
            pressing: None,
            owed: Owed::new(),
        }
    }

    /// How the way is doing.
    #[must_use]
    pub const fn health(&self) -> Health {
        self.health
    }

    /// Why, and since when.
    #[must_use]
    pub const fn reason(&self) -> (Cause, Time) {
        (self.cause, self.since)
    }

    /// Its round-trip times.
    #[must_use]
    pub const fn rtt(&self) -> &Rtt {
        &self.rtt
    }

    /// What was told last of its traffic.
    #[must_use]
    pub const fn traffic(&self) -> Traffic {
        self.traffic
    }

    /// When the last probe was sent.
    #[must_use]
    pub const fn last_probe(&self) -> Option<Time> {
        self.last_probe
    }

    /// When something was heard on it last, of whatever kind; when it became known if nothing was.
    #[must_use]
    pub fn heard(&self) -> Option<Time> {
        self.frame.max(self.traffic.heard)
    }

    /// When both directions were last known to work.
    #[must_use]
    pub const fn answered(&self) -> Option<Time> {
        self.answered
    }

    /// Whether a probe is late.
    #[must_use]
    pub fn has_late(&self) -> bool {
        self.flight.iter().any(|probe| probe.late)
    }

    /// Whether the last thing known of it is an answer that came after it fell under suspicion, and not the one
    /// that brought it there: it is coming back.
    #[must_use]
    pub fn is_stirring(&self) -> bool {
        self.unanswered == 0 && self.answered.is_some_and(|at| at > self.since)
    }

    /// The share of datagrams lost lately in the worse direction, or of probes where few datagrams pass, in
    /// parts of a thousand. `None` while too little is known.
    #[must_use]
    pub fn loss(&self, now: Time) -> Option<u16> {
        let probes = (self.odds.count() >= KNOWN_PROBES).then(|| self.odds.loss());
        self.delivery_loss(now).or(probes)
    }

    /// The share of datagrams lost lately in the worse direction, in parts of a thousand; `None` where few pass.
    #[must_use]
    pub fn delivery_loss(&self, now: Time) -> Option<u16> {
        self.out.loss(now).max(self.back.loss(now))
    }

    /// The share of probes lost, in parts of a thousand, and how many are known.
    #[must_use]
    pub const fn odds(&self) -> (u16, u32) {
        (self.odds.loss(), self.odds.count())
    }

    /// Forgets what its loss was: it begins anew.
    pub fn clear_loss(&mut self) {
        self.odds.clear();
    }

    /// What lies between the two ends is another one, or the peer counts by another address: what was counted before
    /// belongs to something else.
    pub fn forget_counts(&mut self) {
        self.odds.clear();
        (self.out, self.back) = (Delivery::new(), Delivery::new());
    }

    /// A probe was sent, after `sent` datagrams.
    pub fn probed(&mut self, now: Time, nonce: u64, sent: u32) {
        if self.flight.len() == FLIGHT {
            self.flight.pop_front();
            self.note_odds(false);
        }
        self.flight.push_back(Probe { nonce, at: now, sent, late: false });
        self.last_probe = Some(now);
    }

    /// The probe `nonce` was answered by a peer that had received `received` datagrams and sent `sent`. The time it
    /// took, if it was one of this way's.
    pub fn answer(&mut self, now: Time, nonce: u64, received: u32, sent: u32) -> Option<Duration> {
        let probe = *self.flight.iter().find(|probe| probe.nonce == nonce)?;
        // What was sent before and is not answered by now is lost, or as good as lost.
        while let Some(earlier) =
            self.flight.front().map(|probe| probe.nonce).filter(|earlier| *earlier <= nonce)
        {
            self.flight.pop_front();
            self.note_odds(earlier == nonce);
        }
        let rtt = now - probe.at;
        self.note_rtt(now, rtt, probe.late);
        (self.frame, self.answered, self.unanswered) = (Some(now), Some(now), 0);
        if nonce > self.newest {
            self.newest = nonce;
            self.out.note(now, probe.sent, received);
            self.hear_counts(now, sent);
        }
        if self.health == Health::Suspect && self.good_since.is_none() && now >= self.since + HICCUP {
            self.relapse();
        }
        self.good += 1;
        self.good_since.get_or_insert(probe.at);
        Some(rtt)
    }

    /// The way was away for longer than a hiccup.
    const fn relapse(&mut self) {
        self.relapses = self.relapses.saturating_add(1);
        self.outage = true;
    }

    /// What a stall held back comes all at once, and says nothing of how long answers take. Late answers count once
    /// another one is late on its own: then the way has become longer.
    fn note_rtt(&mut self, now: Time, rtt: Duration, late: bool) {
        let earlier = self.late_rtt.take();
        if !late {
            return self.rtt.sample(rtt);
        }
        match earlier {
            Some((at, least)) if now.since(at) < BUNCH => self.late_rtt = Some((at, least.min(rtt))),
            Some((_, least)) => {
                self.rtt.sample(least);
                self.late_rtt = Some((now, rtt));
            }
            None => self.late_rtt = Some((now, rtt)),
        }
    }

    /// An outage says nothing of what the way loses when it works.
    fn note_odds(&mut self, answered: bool) {
        if self.health == Health::Healthy {
            self.odds.note(answered);
        }
    }

    /// A genuine frame came from a peer that had sent `sent` datagrams.
    pub fn hear(&mut self, now: Time, sent: u32) {
        self.frame = Some(now);
        self.hear_counts(now, sent);
    }

    fn hear_counts(&mut self, now: Time, sent: u32) {
        // Of 64 bits the lower 32 are exchanged.
        self.back.note(now, sent, self.traffic.received as u32);
    }

    /// What has passed so far. Returns how many datagrams were sent since the last time.
    pub fn count(&mut self, now: Time, traffic: Traffic) -> u64 {
        let before = self.traffic.waiting.map(|waiting| waiting.since);
        self.pressing = traffic
            .waiting
            .filter(|waiting| waiting.count >= FEW)
            .map(|waiting| self.pressing.filter(|_| before == Some(waiting.since)).unwrap_or(now));
        if let Some(least) = self.rtt.least() {
            self.owed.note(now, &self.traffic, &traffic, least, FEW);
        }
        let sent = traffic.sent.saturating_sub(self.traffic.sent);
        self.traffic = traffic;
        sent
    }

    /// Somebody else has reason to doubt the way. Returns the evidence if that is news.
    pub fn doubt(&mut self, now: Time, cause: Cause) -> Option<Evidence> {
        (self.health == Health::Healthy).then(|| self.turn(now, Health::Suspect, cause))
    }

    /// Looks at what is due. Returns the evidence if the health changed.
    pub fn assess(&mut self, now: Time, view: View) -> Option<Evidence> {
        let View { excuse, witness, barred, expects } = view;
        self.note_late(now, excuse);
        match self.health {
            Health::Healthy => {
                while let Some(at) =
                    self.recovered.filter(|at| self.relapses > 0 && now >= *at + FORGIVEN_AFTER)
                {
                    (self.relapses, self.recovered) = (self.relapses - 1, Some(at + FORGIVEN_AFTER));
                }
                let cause = self.suspicion(now, excuse, expects)?;
                Some(self.turn(now, Health::Suspect, cause))
            }
            Health::Suspect if self.has_failed(now, excuse, witness) => {
                let cause = self.cause;
                Some(self.turn(now, Health::Failed, cause))
            }
            Health::Suspect | Health::Failed => {
                (!barred && self.has_recovered(now)).then(|| self.turn(now, Health::Healthy, Cause::Answered))
            }
        }
    }

    fn note_late(&mut self, now: Time, excuse: Time) {
        let patience = self.rtt.patience();
        for probe in self.flight.iter_mut().filter(|probe| !probe.late) {
            if probe.at.max(excuse) + patience <= now {
                probe.late = true;
                self.unanswered += 1;
                // One lost among several answered is what the way does when it works.
                self.good = self.good.saturating_sub(1);
                if self.good == 0 {
                    self.good_since = None;
                }
            }
        }
    }

    /// Since when datagrams have waited for an answer that must come.
    #[must_use]
    pub const fn pressing(&self) -> Option<Time> {
        self.pressing
    }

    /// When datagrams that nothing has followed are late, if there are enough.
    fn silence_at(&self, excuse: Time) -> Option<Time> {
        let (waiting, pressing) = (self.traffic.waiting?, self.pressing?);
        // Frames are no answer: the peer's pings come although it hears nothing, and small answers where nothing
        // large arrives.
        let since = pressing.max(excuse);
        let slack = if waiting.count >= MANY { Duration::ZERO } else { ACK_DELAY };
        let late = since + self.rtt.patience() + slack;
        Some(self.owed_at(excuse).map_or(late, |owed| owed.min(late)))
    }

    /// When what was sent before something was heard, but too late to be answered by that, is late, if it is much.
    fn owed_at(&self, excuse: Time) -> Option<Time> {
        let many = self.traffic.waiting.is_some_and(|waiting| waiting.count >= MANY);
        let since = self.owed.since(FEW).filter(|_| many && self.odds.loss() <= QUITE_CLEAN)?;
        let usual = self.rtt.least()? + self.owed.usual();
        Some(since.max(excuse) + self.rtt.patience().max(usual))
    }

    /// Whether what was sent should have been followed by something, and was not.
    #[must_use]
    pub fn is_late(&self, now: Time, excuse: Time) -> bool {
        self.silence_at(excuse).is_some_and(|at| at <= now)
    }

    fn suspicion(&self, now: Time, excuse: Time, expects: bool) -> Option<Cause> {
        let silent = expects && self.is_late(now, excuse);
        if silent && self.traffic.waiting.is_some_and(|waiting| waiting.count >= MANY) {
            return Some(Cause::Silence);
        }
        let late = self.flight.iter().filter(|probe| probe.late).count();
        let heard = self.heard().is_some_and(|at| at + self.rtt.patience() > now);
        let enough = self.odds.suspicious().max(if heard { LATE_PROBES_HEARD } else { 0 });
        if late > 0 && late + usize::from(silent) >= enough {
            return Some(Cause::Unanswered);
        }
        if self.out.is_nothing() || self.back.is_nothing() {
            return Some(Cause::Undelivered);
        }
        self.rtt.has_run_away().then_some(Cause::Latency)
    }

    fn has_failed(&self, now: Time, excuse: Time, witness: Witness) -> bool {
        // Of an idle way the last answer may be long ago: it was not asked.
        let silent_since = self.answered.map_or(self.since, |at| at.max(self.since)).max(excuse);
        let limit = match witness {
            Witness::Others => FAIL_AFTER,
            Witness::Nobody => FAIL_ALONE,
            Witness::AllSilent => FAIL_AT_LAST,
        };
        self.unanswered >= self.odds.conclusive() && now >= silent_since + limit
    }

    /// Over how long a time probes must be answered before the way is trusted again.
    fn hold(&self) -> Duration {
        if self.cause == Cause::NetworkChanged && self.health == Health::Suspect {
            return Duration::ZERO;
        }
        HOLD.saturating_mul(1 << self.relapses.saturating_sub(1).min(6)).min(HOLD_MOST)
    }

    fn has_recovered(&self, now: Time) -> bool {
        // A network that changed is no fault of the way: one answer shows that it is still there.
        let quick = self.hold().is_zero();
        let enough = if quick { 1 } else { GOOD_PROBES };
        self.good >= enough
            && self.good_since.is_some_and(|at| now >= at + self.hold())
            && !self.rtt.has_run_away()
    }

    fn turn(&mut self, now: Time, health: Health, cause: Cause) -> Evidence {
        match health {
            Health::Suspect => {
                (self.good, self.good_since) = (0, None);
                self.out.forgive();
                self.back.forgive();
                self.owed.doubt();
            }
            Health::Healthy => {
                self.recovered = Some(now);
                (self.unanswered, self.good, self.good_since) = (0, 0, None);
                self.flight.retain(|probe| !probe.late);
                self.owed.trust(now, core::mem::take(&mut self.outage));
            }
            Health::Failed => self.relapse(),
        }
        (self.health, self.cause, self.since) = (health, cause, now);
        Evidence {
            cause,
            silent: self.heard().map_or(Duration::ZERO, |at| now - at),
            unanswered: self.unanswered,
            loss: self.loss(now).unwrap_or_else(|| self.odds.loss()),
            rtt: self.rtt.smoothed(),
        }
    }

    /// When [`Self::assess`] may say something new although nothing happens; later than `now`.
    #[must_use]
    pub fn poll_timeout(&self, now: Time, excuse: Time) -> Option<Time> {
        let patience = self.rtt.patience();
        let late = self.flight.iter().find(|probe| !probe.late).map(|probe| probe.at.max(excuse) + patience);
        let own = match self.health {
            Health::Healthy => self.silence_at(excuse),
            Health::Suspect | Health::Failed => {
                self.good_since.filter(|_| self.good >= GOOD_PROBES).map(|at| at + self.hold())
            }
        };
        [late, own].into_iter().flatten().filter(|at| *at > now).min()
    }
}
