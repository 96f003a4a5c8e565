//! Since when is an answer owed?
//!
//! What is heard now was said half a round trip ago, in answer to what was sent a whole one ago. So of all that was sent
//! within the last round trip before something was heard, nothing is answered by it. Where packets go steadily, a
//! way that dies is known by that a round trip sooner than by what was sent after the last sign of life: answers
//! that were on their way already, and a peer that repeats what it is not answered, do not hide it.

use alloc::collections::VecDeque;
use core::time::Duration;

use super::traffic::Traffic;
use crate::time::Time;

/// Moments that are remembered.
const MARKS: usize = 16;

/// Between two of them: this, and so much of a round trip.
const LEAST_APART: Duration = Duration::from_millis(5);
const APART: u32 = 8;

/// After a pause in sending of half of this, or of half a round trip, nothing is owed.
const LEAST_PAUSE: Duration = Duration::from_millis(50);

/// How long it is remembered at least by how much answers were late. Processes that are not given a processor, and radios that
/// sleep, are late again and again.
const REMEMBERED: Duration = Duration::from_secs(30);

/// Answers that are later than this were lost, or the way was.
const LATEST: Duration = Duration::from_millis(250);

/// How many times as many datagrams as usual one that comes may answer.
const GENEROUS: u64 = 4;

/// QUIC acknowledges every second packet, or what has come at once.
const EIGHTHS: u64 = 8;
const LEAST_EACH: u64 = 2 * EIGHTHS;
const MOST_EACH: u64 = 1_000 * EIGHTHS;

/// Which datagrams of one way were sent too lately to be answered by what was heard.
#[derive(Clone, Debug)]
pub(super) struct Owed {
    /// How many had been sent by when: the first is the first moment that nothing heard can be an answer to.
    marks: VecDeque<(Time, u64)>,
    /// By how much answers came late, at most, in this time and in the one before.
    late: [Duration; 2],
    since: Time,
    /// By how much they came late while the way is under suspicion. It counts if that turns out to have been for nothing:
    /// what an outage delays is no habit.
    doubtful: Option<Duration>,
    /// When something was last seen to have been sent.
    sent_at: Time,
    /// How many datagrams one that comes answers, usually, in eighths.
    each: u32,
}

impl Owed {
    /// Nothing is owed.
    pub(super) const fn new() -> Self {
        Self {
            marks: VecDeque::new(),
            late: [Duration::ZERO; 2],
            since: Time::ZERO,
            doubtful: None,
            sent_at: Time::ZERO,
            each: LEAST_EACH as u32,
        }
    }

    /// What had passed was `before`, and is `traffic` now, on a way whose answers take `least` at least. Late is what
    /// comes after `few` datagrams have waited for that long.
    pub(super) fn note(&mut self, now: Time, before: &Traffic, traffic: &Traffic, least: Duration, few: u64) {
        if traffic.sent != before.sent {
            // A conversation ends with acknowledgements, which nothing follows. A route that is used again is counted anew.
            let paused = now.since(self.sent_at) > least.max(LEAST_PAUSE) / 2;
            if paused || traffic.sent < before.sent {
                self.marks.clear();
            }
            self.sent_at = now;
        }
        let answers = traffic.received.saturating_sub(before.received);
        if answers > 0 {
            if let Some((owed, at)) = self.since(few).zip(traffic.heard) {
                self.note_late(now, at.since(owed + least));
            }
            self.note_answers(answers, traffic.heard.unwrap_or_default(), least);
        }
        let apart = (least / APART).max(LEAST_APART);
        if self.marks.len() < MARKS && self.marks.back().is_none_or(|(at, _)| *at + apart <= now) {
            self.marks.push_back((now, traffic.sent));
        }
    }

    /// The way is under suspicion from now on.
    pub(super) fn doubt(&mut self) {
        self.doubtful.get_or_insert_default();
    }

    /// It is trusted again, after what was an `outage` or not.
    pub(super) fn trust(&mut self, now: Time, outage: bool) {
        if let Some(late) = self.doubtful.take().filter(|_| !outage) {
            self.note_late(now, late);
        }
    }

    /// So many came, the last at `heard`. Some take a little less than the least that was measured. One that comes where
    /// ten are expected does not answer what ten would.
    fn note_answers(&mut self, answers: u64, heard: Time, least: Duration) {
        let Some((_, before)) = self.marks.front().copied() else { return };
        let most = before + answers.saturating_mul(u64::from(self.each) * GENEROUS / EIGHTHS);
        let old = self.marks.iter().take_while(|(at, _)| *at + least * 3 / 4 <= heard).count();
        let all = self.marks.get(old).or(self.marks.back()).map_or(before, |(_, sent)| *sent) - before;
        let each = (all.saturating_mul(EIGHTHS) / answers).clamp(LEAST_EACH, MOST_EACH);
        // At most `MOST_EACH`.
        self.each = (self.each * 7 + each as u32) / 8;
        for _ in 0..old {
            // The next mark may be as far as it has been answered, and is where the front will be.
            if self.marks.get(1).is_some_and(|(_, sent)| *sent > most) {
                break;
            }
            self.marks.pop_front();
        }
    }

    fn note_late(&mut self, now: Time, late: Duration) {
        if now.since(self.since) >= REMEMBERED {
            (self.late, self.since) = ([Duration::ZERO, self.late[0]], now);
        }
        if late <= LATEST {
            let most = self.doubtful.as_mut().unwrap_or(&mut self.late[0]);
            *most = late.max(*most);
        }
    }

    /// By when `few` had been sent that are not answered.
    pub(super) fn since(&self, few: u64) -> Option<Time> {
        let (_, answered) = self.marks.front()?;
        self.marks.iter().find(|(_, sent)| *sent >= answered + few).map(|(at, _)| *at)
    }

    /// How late answers may be without being later than usual: a little later than the latest of them lately. Suspicion
    /// is cheap, so one that is for nothing now and then costs less than to notice every outage later.
    pub(super) fn usual(&self) -> Duration {
        self.late[0].max(self.late[1]) * 5 / 4
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const RTT: Duration = Duration::from_millis(40);

    fn ms(ms: u64) -> Time {
        Time::from_millis(ms)
    }

    /// A packet a millisecond until `end`, of which every second is answered 40 ms and `late` later, looked at every ten.
    fn steady(owed: &mut Owed, end: u64, late: impl Fn(u64) -> u64) -> Traffic {
        let mut traffic = Traffic::default();
        let mut answers: VecDeque<Time> = VecDeque::new();
        for now in 1..=end {
            let before = traffic;
            traffic.sent(ms(now), 1);
            if now % 2 == 0 {
                let at = ms(now + 40 + late(now));
                answers.push_back(answers.back().map_or(at, |last| at.max(*last)));
            }
            while answers.front().is_some_and(|at| *at <= ms(now)) {
                answers.pop_front();
                traffic.received(ms(now), 1);
            }
            if now % 10 == 0 || traffic.received != before.received {
                owed.note(ms(now), &before, &traffic, RTT, 3);
            }
        }
        traffic
    }

    #[test]
    fn what_was_sent_within_a_round_trip_of_the_last_answer_is_not_answered_by_it() {
        let mut owed = Owed::new();
        let traffic = steady(&mut owed, 1_000, |_| 0);
        let heard = traffic.heard.unwrap();
        let since = owed.since(3).unwrap();
        assert!((RTT / 4..=RTT).contains(&(heard - since)), "{since:?}, heard {heard:?}");
        assert_eq!(owed.usual(), Duration::ZERO);
        assert!(owed.marks.len() <= MARKS);
    }

    #[test]
    fn one_that_comes_where_ten_are_expected_does_not_answer_what_ten_would() {
        let mut owed = Owed::new();
        let mut traffic = steady(&mut owed, 1_000, |_| 0);
        for now in [1_010, 1_020, 1_030, 1_040, 1_050, 1_060, 1_070].map(ms) {
            let before = traffic;
            traffic.sent(now, 10);
            owed.note(now, &before, &traffic, RTT, 3);
        }
        let before = traffic;
        traffic.received(ms(1_071), 1);
        owed.note(ms(1_071), &before, &traffic, RTT, 3);
        assert!(owed.since(3).is_some_and(|since| since < ms(1_000)), "{:?}", owed.since(3));
        // Neither do the many that come when it is over leave anything.
        let before = traffic;
        traffic.received(ms(1_120), 35);
        owed.note(ms(1_120), &before, &traffic, RTT, 3);
        assert_eq!(owed.since(3), None);
        let mut anew = Traffic::default();
        anew.sent(ms(1_130), 2);
        owed.note(ms(1_130), &traffic, &anew, RTT, 3);
        let before = anew;
        anew.received(ms(1_140), 1);
        owed.note(ms(1_140), &before, &anew, RTT, 3);
        assert_eq!(owed.since(3), None, "counts may begin anew");
    }

    #[test]
    fn the_acknowledgements_that_end_a_conversation_are_not_owed_an_answer_in_the_next_one() {
        let mut owed = Owed::new();
        let mut traffic = steady(&mut owed, 1_000, |_| 0);
        for now in [1_100, 1_110].map(ms) {
            let before = traffic;
            traffic.sent(now, 10);
            owed.note(now, &before, &traffic, RTT, 3);
        }
        assert!(owed.since(3).is_none_or(|since| since >= ms(1_100)), "{:?}", owed.since(3));
    }

    #[test]
    fn who_is_late_now_and_then_is_expected_to_be_for_a_while() {
        let mut owed = Owed::new();
        steady(&mut owed, 1_000, |sent| if (500..550).contains(&sent) { 550 - sent } else { 0 });
        assert!((RTT / 2..2 * RTT).contains(&owed.usual()), "{:?}", owed.usual());
        owed.note_late(ms(40_000), Duration::ZERO);
        assert!(owed.usual() >= RTT / 2);
        owed.note_late(ms(70_001), Duration::ZERO);
        assert_eq!(owed.usual(), Duration::ZERO, "and then no longer");
        owed.note_late(ms(70_002), LATEST * 2);
        assert_eq!(owed.usual(), Duration::ZERO, "an outage is no habit");
    }

    #[test]
    fn what_comes_late_under_suspicion_counts_if_that_was_for_nothing() {
        for outage in [false, true] {
            let mut owed = Owed::new();
            owed.doubt();
            owed.note_late(ms(1_000), RTT);
            owed.doubt();
            assert_eq!(owed.usual(), Duration::ZERO);
            owed.trust(ms(2_000), outage);
            assert_eq!(owed.usual(), if outage { Duration::ZERO } else { RTT * 5 / 4 });
        }
    }
}
