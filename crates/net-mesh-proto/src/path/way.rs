//! One way of a session: how far it is proven, when it is probed, and how good it is.

use core::net::SocketAddr;
use core::time::Duration;

use crate::liveness::detector::{CLEAN, KNOWN_PROBES, LOSSY};
use crate::liveness::{Cause, Detector, Health};
use crate::route::Route;
use crate::time::Time;

/// Between the pings of a trial. Loss comes in bursts of up to half a second, and the first tries may all fall into a few
/// of them: seven span over twelve seconds.
pub const PAUSES: [Duration; 7] = [
    Duration::from_millis(100),
    Duration::from_millis(200),
    Duration::from_millis(400),
    Duration::from_millis(800),
    Duration::from_millis(1600),
    Duration::from_millis(3200),
    Duration::from_millis(6400),
];

/// A ping is repeated at once when the peer pings on the same way, unless it is younger than this.
const ON_OCCASION: Duration = Duration::from_millis(10);

/// Between the probes of a way under suspicion: at least this, for a session in use and for one that is not.
const SUSPECT_PROBE: (Duration, Duration) = (Duration::from_millis(200), Duration::from_millis(500));

/// Between the probes of a way that has failed: by its age. A path that heals is to be used again within ten seconds.
const FAILED_PROBE: [(Duration, Duration); 3] = [
    (Duration::from_secs(60), Duration::from_millis(500)),
    (Duration::from_secs(120), Duration::from_secs(1)),
    (Duration::MAX, Duration::from_secs(5)),
];

/// The same once it answers: to be sure soon.
const STIRRING_PROBE: Duration = Duration::from_millis(250);

/// How long a way that has failed is probed. After that a rendezvous or the peer may find it anew.
pub(super) const GIVEN_UP_AFTER: Duration = Duration::from_secs(600);

/// Between the probes of a way that is not in use although it is better in kind, to see whether it is clean again, and of one
/// that may lose less than the way in use.
pub(super) const BENCHED_PROBE: Duration = Duration::from_millis(250);

/// How long a way that lost too much is left alone at least; doubles with each relapse.
const BENCH: Duration = Duration::from_secs(5);

/// A trial that is under way.
#[derive(Clone, Copy, Debug)]
pub(super) struct Trial {
    tries: usize,
    due: Time,
}

/// How good a way is, best first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Standing {
    /// Nothing speaks against it.
    Good,
    /// It loses much of what is sent.
    Lossy,
    /// It was silent, and answers again.
    Stirring,
    /// It was to be tried, and is known from one side only.
    Untried,
    /// It is silent.
    Silent,
    /// It has been silent for long.
    Failed,
}

#[derive(Clone, Debug)]
pub(super) struct Way {
    pub(super) route: Route,
    /// Until it is proven in both directions.
    pub(super) trial: Option<Trial>,
    pub(super) detector: Detector,
    /// Whether the outside was told that packets on it are the session's.
    pub(super) accepted: bool,
    /// When it became known, for choosing what to forget.
    pub(super) since: Time,
    /// It lost too much, until it is clean again.
    pub(super) lossy: bool,
    /// When it may be used again after that.
    benched: Option<(Time, u32)>,
    /// Where the peer sees this node on it, and since when.
    pub(super) seen: Option<(SocketAddr, Time)>,
    /// When this node last sent something on it.
    pub(super) sent_at: Time,
    /// The longest time in which nothing was sent, since the last probe was answered.
    pub(super) pause: Duration,
    /// It is tried because the peer pinged on it, with little.
    pub(super) small: bool,
}

impl Way {
    pub(super) const fn new(now: Time, route: Route) -> Self {
        Self {
            route,
            trial: None,
            detector: Detector::new(now),
            accepted: false,
            since: now,
            lossy: false,
            benched: None,
            seen: None,
            sent_at: now,
            pause: Duration::ZERO,
            small: false,
        }
    }

    pub(super) const fn is_relay(&self) -> bool {
        self.route.circuit().is_some()
    }

    pub(super) const fn health(&self) -> Health {
        self.detector.health()
    }

    /// Whether packets pass in both directions, or did when it was last looked at.
    pub(super) const fn is_proven(&self) -> bool {
        self.trial.is_none()
    }

    /// Something is sent on it.
    pub(super) fn sends(&mut self, now: Time) {
        self.pause = self.pause.max(now.since(self.sent_at));
        self.sent_at = now;
    }

    pub(super) const fn begin_trial(&mut self, now: Time) {
        self.trial = Some(Trial { tries: 0, due: now });
    }

    /// Whether a trial's question has waited for long enough to be asked again on occasion.
    pub(super) fn waits(&self, now: Time) -> bool {
        let last = self.detector.last_probe();
        self.trial.is_some_and(|trial| trial.tries < PAUSES.len())
            && last.is_none_or(|last| now.since(last) >= ON_OCCASION)
    }

    /// The next ping of the trial is sent; false if there were enough.
    pub(super) fn try_again(&mut self, now: Time) -> bool {
        let Some(trial) = &mut self.trial else { return false };
        let Some(pause) = PAUSES.get(trial.tries) else { return false };
        (trial.tries, trial.due) = (trial.tries + 1, now + *pause);
        true
    }

    pub(super) fn trial_due(&self) -> Option<Time> {
        self.trial.map(|trial| trial.due)
    }

    pub(super) fn standing(&self) -> Standing {
        match self.health() {
            _ if !self.is_proven() => Standing::Untried,
            Health::Healthy if self.lossy => Standing::Lossy,
            Health::Healthy => Standing::Good,
            Health::Suspect | Health::Failed if self.detector.is_stirring() => Standing::Stirring,
            Health::Suspect => Standing::Silent,
            Health::Failed => Standing::Failed,
        }
    }

    /// Notes whether it loses too much, or is clean again.
    pub(super) fn judge_loss(&mut self, now: Time) {
        let delivered = self.detector.delivery_loss(now);
        let (by_probes, known) = self.detector.odds();
        // A few probes are enough for an all-clear, where packets do not go this way; not for a verdict.
        let loss = delivered.or((known >= KNOWN_PROBES).then_some(by_probes));
        if !self.lossy && delivered.is_some_and(|loss| loss >= LOSSY) {
            self.lossy = true;
        } else if self.lossy
            && loss.is_some_and(|loss| loss <= CLEAN)
            && self.benched.is_none_or(|(until, _)| now >= until)
        {
            self.lossy = false;
        }
    }

    /// Whether much of what is sent fast is lost, and little of what is sent slowly.
    pub(super) fn is_throttled(&self, now: Time) -> bool {
        let (by_probes, known) = self.detector.odds();
        let fast = self.detector.delivery_loss(now).is_some_and(|loss| loss >= LOSSY);
        fast && known >= 2 * KNOWN_PROBES && by_probes <= CLEAN
    }

    /// Another way is used instead, because this one loses too much.
    pub(super) fn bench(&mut self, now: Time) {
        let relapses = self
            .benched
            .map_or(0, |(until, relapses)| if now.since(until) > BENCH * 24 { 0 } else { relapses + 1 });
        let pause = (BENCH * (1 << relapses.min(4))).min(crate::liveness::detector::HOLD_MOST);
        self.benched = Some((now + pause, relapses));
        self.lossy = true;
        self.detector.clear_loss();
    }

    /// The network beneath it is another one: what it lost says nothing of what it will.
    pub(super) fn begin_anew(&mut self) {
        (self.lossy, self.benched) = (false, None);
        self.detector.forget_counts();
    }

    /// When it is probed next while it is not what the session's packets go over.
    pub(super) fn spare_probe(&self, now: Time, busy: bool, standby: Option<Duration>) -> Option<Time> {
        let last = self.detector.last_probe().unwrap_or(self.since);
        let (_, since) = self.detector.reason();
        match self.standing() {
            Standing::Untried => self.trial_due(),
            Standing::Stirring => Some(last + STIRRING_PROBE.max(self.detector.rtt().patience())),
            Standing::Silent => Some(last + self.suspect_pause(busy)),
            Standing::Failed => {
                let age = now.since(since);
                let pause = FAILED_PROBE.iter().find(|(until, _)| age < *until).map(|(_, pause)| *pause);
                pause.filter(|_| age < GIVEN_UP_AFTER).map(|pause| last + pause)
            }
            Standing::Lossy if busy => Some(last + BENCHED_PROBE),
            Standing::Good | Standing::Lossy => standby.map(|pause| last + pause),
        }
    }

    /// Between two probes while it is under suspicion.
    pub(super) fn suspect_pause(&self, busy: bool) -> Duration {
        let (quick, slow) = SUSPECT_PROBE;
        let patience = self.detector.rtt().patience();
        // The first few at the pace of answers, so that a mere hiccup is over soon.
        let first = now_or_soon(self.detector.reason().0);
        if busy { patience.clamp(first, quick) } else { slow }
    }

    /// Whether probes are as long as QUIC's packets: an answer then shows that those pass.
    pub(super) fn pads(&self) -> bool {
        if !self.is_proven() {
            return !self.small;
        }
        // After a change of network all ways are asked at once.
        let all = self.detector.reason().0 == Cause::NetworkChanged;
        self.standing() == Standing::Stirring || (self.health() == Health::Suspect && !all)
    }
}

/// The shortest pause between probes. After a change of network every millisecond counts, and one answer is enough.
const fn now_or_soon(cause: Cause) -> Duration {
    match cause {
        Cause::NetworkChanged | Cause::MappingEnds => Duration::from_millis(50),
        Cause::Silence
        | Cause::Unanswered
        | Cause::Undelivered
        | Cause::Latency
        | Cause::PeerDoubts
        | Cause::SendFailed
        | Cause::Answered => Duration::from_millis(100),
    }
}
