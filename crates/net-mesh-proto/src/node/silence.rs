//! Does UDP work here at all?
//!
//! A node that asks and hears nothing from anyone is probably behind a firewall that drops UDP, or was given
//! addresses where nobody runs. It cannot tell which, but it can tell that within seconds.

use core::time::Duration;

use crate::time::{Deadline, Time};

/// How long nothing at all must have come back before it is said. QUIC has sent its first packet four times by
/// then, at 0, 0.3, 0.9 and 2.1 s: at 20 % loss each way one answer in 600 is still missing.
pub(super) const SILENT_AFTER: Duration = Duration::from_secs(4);

/// Whether packets come back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Udp {
    /// Something came back.
    Works,
    /// Nothing has come back for several seconds, from anyone.
    Silent,
    /// Nobody was asked yet, or the answers may still come.
    Unknown,
}

/// What was asked and heard.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Silence {
    heard: bool,
    /// Since when questions go unanswered.
    asked: Option<Time>,
    told: bool,
}

impl Silence {
    /// Something was sent that is to be answered.
    pub(super) fn asked(&mut self, now: Time) {
        self.asked.get_or_insert(now);
    }

    /// Something came back.
    pub(super) fn heard(&mut self) {
        *self = Self { heard: true, asked: None, told: false };
    }

    /// The last session has ended: what was asked while there was one, and of whom, says nothing.
    pub(super) fn last_session_down(&mut self) {
        (self.asked, self.told) = (None, false);
    }

    /// The network is another one.
    pub(super) fn network_changed(&mut self) {
        *self = Self::default();
    }

    /// Whether packets come back. Nothing is wrong as long as there is a session: `alone` says there is none.
    pub(super) fn verdict(&self, now: Time, alone: bool) -> Udp {
        match self.asked {
            Some(since) if alone && now.since(since) >= SILENT_AFTER => Udp::Silent,
            _ if self.heard => Udp::Works,
            _ => Udp::Unknown,
        }
    }

    /// True once when it has become silent.
    pub(super) fn falls_silent(&mut self, now: Time, alone: bool) -> bool {
        let news = !self.told && self.verdict(now, alone) == Udp::Silent;
        self.told |= self.asked.is_some_and(|since| now.since(since) >= SILENT_AFTER);
        news
    }

    pub(super) fn poll_timeout(&self) -> Option<Deadline> {
        let due = self.asked.filter(|_| !self.told);
        due.map(|since| Deadline::new(since + SILENT_AFTER, "nothing has come back"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn silence_is_told_once_and_an_answer_ends_it() {
        let at = |secs: u64| Time::from_millis(secs * 1000);
        let mut silence = Silence::default();
        assert_eq!((silence.verdict(at(1), true), silence.poll_timeout()), (Udp::Unknown, None));
        silence.asked(at(1));
        silence.asked(at(4));
        assert_eq!(silence.poll_timeout().map(|d| d.at), Some(at(5)));
        assert!(!silence.falls_silent(at(4), true));
        assert!(silence.falls_silent(at(5), true));
        assert!(!silence.falls_silent(at(6), true), "once");
        assert_eq!((silence.verdict(at(6), true), silence.poll_timeout()), (Udp::Silent, None));
        silence.heard();
        assert_eq!(silence.verdict(at(7), true), Udp::Works);
        silence.asked(at(8));
        assert!(!silence.falls_silent(at(60), false), "a session that is idle is no sign");
        assert_eq!(silence.verdict(at(60), false), Udp::Works);
        silence.network_changed();
        assert_eq!(silence.verdict(at(61), true), Udp::Unknown);
    }
}
