//! How much of what is sent arrives?
//!
//! Two sources: which probes were answered ([`Odds`]), and the counts that the two ends of a way exchange in
//! them ([`Delivery`]), which tell of the packets that matter, in each direction.

use core::time::Duration;

use crate::time::Time;

/// Probes that are judged by.
const ODDS: u32 = 32;

/// Pieces of time that deliveries are counted in, and how many are looked at. What counts is the median of the pieces, so that
/// a burst of loss, or an outage of a second or two, is not taken for the way's habit, and no more than the whole, so
/// that packets which overtake a report are not.
const PIECE: Duration = Duration::from_secs(1);
const PIECES: usize = 8;

/// Fewer packets than this in a piece, fewer pieces than that, and fewer packets in all, say nothing about a share of loss.
const ENOUGH: (u32, usize, u64) = (8, 4, 80);

/// With fewer packets in all than this, a share of loss in this range may be chance: of 80 packets on a way that loses a
/// twentieth, one sample in two hundred shows an eighth, and there is a sample after each answer.
const SURE: u64 = 200;
const UNSURE: core::ops::Range<u16> = 50..250;

/// Packets of which none arrived that are more than chance: at a loss of a fifth, eight in a row are lost once in
/// 400 000 times.
const NONE_OF: u32 = 8;

/// Which of the last probes were answered.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Odds {
    lost: u32,
    count: u32,
}

impl Odds {
    /// None is known.
    #[must_use]
    pub const fn new() -> Self {
        Self { lost: 0, count: 0 }
    }

    /// The fate of a probe.
    pub fn note(&mut self, answered: bool) {
        self.lost = self.lost << 1 | u32::from(!answered);
        self.count = (self.count + 1).min(ODDS);
    }

    /// Forgets them.
    pub fn clear(&mut self) {
        *self = Self::default();
    }

    /// How many are known, at most 32.
    #[must_use]
    pub const fn count(&self) -> u32 {
        self.count
    }

    /// The share that was lost, in parts of a thousand.
    #[must_use]
    pub const fn loss(&self) -> u16 {
        if self.count == 0 {
            return 0;
        }
        // At most 1000.
        (self.lost.count_ones() * 1000 / self.count) as u16
    }

    /// Probes in a row that must be late before a way is worth doubting: about once in a thousand times by chance, which
    /// then costs a second of copies.
    #[must_use]
    pub const fn suspicious(&self) -> usize {
        match self.loss() {
            0..=35 if self.count >= ODDS / 2 => 2,
            // What is not known yet may be bad.
            0..=100 => 3,
            101..=180 => 4,
            181..=260 => 5,
            _ => 6,
        }
    }

    /// Probes in a row that must be lost before it cannot be chance: p^k <= 2e-8, which a busy way, probed four times a
    /// second, meets once in years.
    #[must_use]
    pub const fn conclusive(&self) -> u32 {
        match self.loss() {
            // What is not known yet may be bad.
            0..=100 if self.count < ODDS / 2 => 11,
            0..=10 => 4,
            11..=50 => 6,
            51..=100 => 8,
            101..=200 => 11,
            201..=300 => 15,
            301..=400 => 20,
            _ => 26,
        }
    }
}

/// Between two reports that are looked at: more than the time by which packets usually overtake each other.
const APART: Duration = Duration::from_millis(25);

/// Reports of at least so many packets, so many in a row by which less than half of them arrived, are more than chance.
const HALF_OF: u32 = 12;
const HALVES: u32 = 3;

/// On a way that usually loses hardly anything, so many in a row by which a fifth did not arrive are more than chance, and
/// last longer than a queue takes to overflow: what is large is lost, among much that is not.
const FIFTHS: u32 = 8;

/// What such a way loses at most, in parts of a thousand.
const HARDLY_ANYTHING: u16 = 50;

#[derive(Clone, Copy, Debug, Default)]
struct Piece {
    number: u64,
    sent: u32,
    arrived: u32,
}

/// What arrived of what was sent one way, by the counts of both ends.
#[derive(Clone, Copy, Debug, Default)]
pub struct Delivery {
    last: Option<(Time, u32, u32)>,
    pieces: [Piece; PIECES],
    /// Packets sent since one last arrived.
    none_of: u32,
    /// Reports in a row by which less than half arrived.
    halves: u32,
    /// Reports in a row by which at least a fifth did not, on a way that is not known for that.
    fifths: u32,
}

impl Delivery {
    /// Nothing is known.
    #[must_use]
    pub const fn new() -> Self {
        Self {
            last: None,
            pieces: [Piece { number: 0, sent: 0, arrived: 0 }; PIECES],
            none_of: 0,
            halves: 0,
            fifths: 0,
        }
    }

    /// One end had sent `sent` packets in all when the other had received `received`. Counts are of 32 bits, and wrap.
    pub fn note(&mut self, now: Time, sent: u32, received: u32) {
        // A report overtakes packets, or is overtaken: of a short time it says too little.
        if self.last.is_some_and(|(at, ..)| now.since(at) < APART) {
            return;
        }
        let Some((_, sent_before, received_before)) = self.last.replace((now, sent, received)) else {
            return;
        };
        let (sent, arrived) = (sent.wrapping_sub(sent_before), received.wrapping_sub(received_before));
        // One of the two began to count anew, or the reports overtook each other.
        if sent > u32::MAX / 2 || arrived > u32::MAX / 2 {
            self.none_of = 0;
            return;
        }
        let number = now.since(Time::ZERO).as_millis() as u64 / PIECE.as_millis() as u64;
        if let Some(piece) = self.pieces.get_mut(number as usize % PIECES) {
            if piece.number != number {
                *piece = Piece { number, ..Piece::default() };
            }
            piece.sent = piece.sent.saturating_add(sent);
            piece.arrived = piece.arrived.saturating_add(arrived);
        }
        if sent >= HALF_OF {
            let fifth = 5 * u64::from(arrived) <= 4 * u64::from(sent);
            let unusual = self.fifths > 0 || self.loss(now).is_some_and(|loss| loss <= HARDLY_ANYTHING);
            self.fifths = if fifth && unusual { self.fifths.saturating_add(1) } else { 0 };
            self.halves = if 2 * arrived < sent { self.halves.saturating_add(1) } else { 0 };
        }
        self.none_of = if arrived > 0 { 0 } else { self.none_of.saturating_add(sent) };
    }

    /// Whether nothing arrives, though much was sent, or hardly anything: where only small packets pass,
    /// acknowledgements still do.
    #[must_use]
    pub const fn is_nothing(&self) -> bool {
        self.none_of >= NONE_OF || self.halves >= HALVES || self.fifths >= FIFTHS
    }

    /// Forgets that nothing arrived: it was acted on.
    pub const fn forgive(&mut self) {
        (self.none_of, self.halves, self.fifths) = (0, 0, 0);
    }

    /// The share that was usually lost in the last seconds, in parts of a thousand; `None` if too little was sent.
    #[must_use]
    pub fn loss(&self, now: Time) -> Option<u16> {
        let number = now.since(Time::ZERO).as_millis() as u64 / PIECE.as_millis() as u64;
        let (packets, pieces, in_all) = ENOUGH;
        let recent =
            self.pieces.iter().filter(|piece| piece.number + PIECES as u64 > number && piece.sent >= packets);
        let mut losses = [0u16; PIECES];
        let (mut count, mut all_sent, mut all_arrived) = (0, 0u64, 0u64);
        for (loss, piece) in losses.iter_mut().zip(recent) {
            let lost = u64::from(piece.sent.saturating_sub(piece.arrived));
            *loss = u16::try_from(lost * 1000 / u64::from(piece.sent)).unwrap_or(1000);
            count += 1;
            (all_sent, all_arrived) =
                (all_sent + u64::from(piece.sent), all_arrived + u64::from(piece.arrived));
        }
        let known = losses.get_mut(..count).filter(|_| count >= pieces && all_sent >= in_all)?;
        known.sort_unstable();
        let whole = u16::try_from(all_sent.saturating_sub(all_arrived) * 1000 / all_sent).unwrap_or(1000);
        if all_sent < SURE && UNSURE.contains(&whole) {
            return None;
        }
        known.get((count - 1) / 2).map(|median| (*median).min(whole))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_more_a_way_loses_the_more_lost_probes_it_takes() {
        let mut odds = Odds::default();
        assert_eq!((odds.loss(), odds.conclusive()), (0, 11), "nothing is known yet");
        (0..32).for_each(|_| odds.note(true));
        assert_eq!((odds.loss(), odds.conclusive()), (0, 4));
        (0..32).for_each(|n| odds.note(n % 5 != 0));
        assert!((190..=220).contains(&odds.loss()), "{}", odds.loss());
        assert!(odds.conclusive() >= 11);
        // p^k for the loss at the upper end of each step.
        for (loss, k) in [(0.01f64, 4), (0.05, 6), (0.1, 8), (0.2, 11), (0.3, 15), (0.4, 20), (0.5, 26)] {
            assert!(loss.powi(k) <= 2.1e-8, "{loss}^{k} = {}", loss.powi(k));
        }
    }

    #[test]
    fn old_probes_are_forgotten() {
        let mut odds = Odds::default();
        (0..32).for_each(|_| odds.note(false));
        (0..32).for_each(|_| odds.note(true));
        assert_eq!((odds.loss(), odds.count()), (0, 32));
    }

    #[test]
    fn counts_of_both_ends_give_the_loss_of_the_last_seconds() {
        let mut delivery = Delivery::default();
        assert_eq!(delivery.loss(Time::ZERO), None);
        for n in 0..100u32 {
            delivery.note(Time::from_millis(u64::from(n) * 50), n * 20, n * 18);
        }
        assert_eq!(delivery.loss(Time::from_millis(5000)), Some(100));
        assert_eq!(delivery.loss(Time::from_millis(20_000)), None, "long ago");
    }

    #[test]
    fn a_second_in_which_nothing_arrives_is_no_habit() {
        let mut delivery = Delivery::default();
        for n in 0..160u32 {
            let arrived = if n < 60 { n } else { n.max(80) - 20 };
            delivery.note(Time::from_millis(u64::from(n) * 50), n * 20, arrived * 20);
        }
        assert_eq!(delivery.loss(Time::from_millis(8000)), Some(0));
    }

    #[test]
    fn nothing_at_all_is_noticed_at_once_and_counts_that_wrap_or_restart_do_no_harm() {
        let mut delivery = Delivery::default();
        let at = |n: u64| Time::from_millis(n * 25);
        delivery.note(at(1), u32::MAX - 5, 7);
        delivery.note(at(2), 2, 7);
        assert!(delivery.is_nothing(), "eight sent, none arrived");
        delivery.note(at(3), 10, 8);
        assert!(!delivery.is_nothing());
        delivery.note(at(4), 3, 0);
        delivery.note(at(5), 4, 1);
        assert!(!delivery.is_nothing());
    }

    #[test]
    fn a_report_that_overtakes_what_it_speaks_of_says_nothing() {
        let mut delivery = Delivery::default();
        let at = Time::from_millis;
        delivery.note(at(0), 20, 20);
        delivery.note(at(40), 40, 40);
        delivery.note(at(45), 50, 40);
        assert!(!delivery.is_nothing());
        delivery.note(at(80), 60, 60);
        delivery.note(at(120), 80, 60);
        assert!(delivery.is_nothing(), "twenty in forty milliseconds are another matter");
    }

    #[test]
    fn a_fifth_that_is_lost_for_a_while_is_noticed_where_that_is_unusual() {
        let after = |loss: u32, reports: u32| {
            let mut delivery = Delivery::default();
            let (mut sent, mut received) = (0, 0);
            for n in 0..200 + reports {
                let lost = if n < 200 { loss } else { 4 };
                (sent, received) = (sent + 20, received + 20 - lost);
                delivery.note(Time::from_millis(u64::from(n) * 40), sent, received);
            }
            delivery.is_nothing()
        };
        assert!(!after(0, FIFTHS - 1));
        assert!(after(0, FIFTHS));
        assert!(!after(3, 40), "it always loses much");
    }
}
