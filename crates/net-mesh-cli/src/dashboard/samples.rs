//! The last minutes in figures: one sample a second of what the node sends, receives and how far its peers are.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use net_mesh::{Health, NodeId, PathKind, PeerInfo};
use serde::Serialize;

use crate::text::millis;

/// Between two samples.
pub(super) const EVERY: Duration = Duration::from_secs(1);

/// Samples kept: ten minutes, in which an operator who has just been called can see what happened.
pub(super) const KEPT: usize = 600;

/// The figures of one moment.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub(super) struct Sample {
    /// When, in milliseconds since the dashboard was started.
    pub(super) at_ms: u64,
    /// Bytes a second sent to all peers since the sample before; UDP payload.
    pub(super) tx: f64,
    /// The same, received.
    pub(super) rx: f64,
    /// The round-trip time in the middle of all sessions, and the longest one.
    pub(super) rtt_ms: Option<f64>,
    pub(super) rtt_max_ms: Option<f64>,
    /// Members by the kind of their path.
    pub(super) direct: usize,
    pub(super) relayed: usize,
    pub(super) none: usize,
    /// Members that are not well.
    pub(super) suspect: usize,
    pub(super) failed: usize,
}

/// The samples, and what the next one is compared with.
#[derive(Debug, Default)]
pub(super) struct Samples {
    kept: VecDeque<Sample>,
    /// Bytes sent and received over each peer's session.
    counted: BTreeMap<NodeId, (u64, u64)>,
}

impl Samples {
    /// The samples, oldest first.
    pub(super) fn all(&self) -> impl Iterator<Item = &Sample> {
        self.kept.iter()
    }

    /// The latest one.
    pub(super) fn last(&self) -> Option<&Sample> {
        self.kept.back()
    }

    /// Takes a sample of `peers`, `now` being the time since the dashboard was started.
    pub(super) fn take(&mut self, now: Duration, peers: &[PeerInfo]) {
        let at_ms = u64::try_from(now.as_millis()).unwrap_or(u64::MAX);
        let elapsed = self.last().map(|last| Duration::from_millis(at_ms.saturating_sub(last.at_ms)));
        let (tx, rx) = self.count(peers.iter().map(|peer| (peer.node_id, (peer.tx_bytes, peer.rx_bytes))));
        let rate = |bytes| elapsed.map_or(0.0, |elapsed| per_second(bytes, elapsed));
        let mut sample = Sample { at_ms, tx: rate(tx), rx: rate(rx), ..Sample::default() };
        for peer in peers {
            match peer.path.kind {
                // A direct path that has failed leads nowhere; who is relayed is still reached.
                PathKind::Direct if peer.health != Health::Failed => sample.direct += 1,
                PathKind::Relayed => sample.relayed += 1,
                _ => sample.none += 1,
            }
            match peer.health {
                Health::Healthy => {}
                Health::Suspect => sample.suspect += 1,
                Health::Failed => sample.failed += 1,
            }
        }
        let reached = peers.iter().filter(|peer| peer.path.kind != PathKind::None);
        let mut rtts: Vec<Duration> = reached.filter_map(|peer| peer.rtt).collect();
        rtts.sort_unstable();
        sample.rtt_ms = rtts.get(rtts.len() / 2).copied().map(millis);
        sample.rtt_max_ms = rtts.last().copied().map(millis);
        self.keep(sample);
    }

    fn keep(&mut self, sample: Sample) {
        if self.kept.len() == KEPT {
            self.kept.pop_front();
        }
        self.kept.push_back(sample);
    }

    /// Bytes sent and received since the last time. The counts of a peer begin anew with each session.
    fn count(&mut self, peers: impl Iterator<Item = (NodeId, (u64, u64))>) -> (u64, u64) {
        let mut counted = BTreeMap::new();
        let mut sum = (0_u64, 0_u64);
        for (peer, now) in peers {
            // Who is seen for the first time may have had its session for long.
            let before = self.counted.get(&peer).copied().unwrap_or(now);
            let since = |now: u64, before: u64| now.checked_sub(before).unwrap_or(now);
            sum.0 = sum.0.saturating_add(since(now.0, before.0));
            sum.1 = sum.1.saturating_add(since(now.1, before.1));
            counted.insert(peer, now);
        }
        self.counted = counted;
        sum
    }
}

fn per_second(bytes: u64, elapsed: Duration) -> f64 {
    // Bytes of a second or so: far below 2^52.
    #[allow(clippy::cast_precision_loss)]
    let bytes = bytes as f64;
    if elapsed.is_zero() { 0.0 } else { (bytes / elapsed.as_secs_f64()).round() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_passed_since_the_last_sample_counts_also_over_a_new_session() {
        let (one, two) = (NodeId([1; 32]), NodeId([2; 32]));
        let mut samples = Samples::default();
        assert_eq!(samples.count([(one, (1_000_000, 5))].into_iter()), (0, 0), "an old session is no news");
        assert_eq!(samples.count([(one, (1_000_300, 15)), (two, (70, 70))].into_iter()), (300, 10));
        assert_eq!(samples.count([(one, (40, 2)), (two, (71, 75))].into_iter()), (41, 7), "a new session");
        assert_eq!(samples.count([(two, (71, 75))].into_iter()), (0, 0));
        assert_eq!(samples.count([(one, (50, 2)), (two, (71, 75))].into_iter()), (0, 0), "it was away");
    }

    #[test]
    fn as_many_samples_are_kept_as_there_is_room_for() {
        let mut samples = Samples::default();
        for second in 0..2_000 {
            samples.take(EVERY * second, &[]);
        }
        let kept: Vec<u64> = samples.all().map(|sample| sample.at_ms).collect();
        assert_eq!((kept.len(), kept[0], kept[KEPT - 1]), (KEPT, 1_400_000, 1_999_000));
        assert_eq!(samples.last().map(|sample| sample.rtt_ms), Some(None));
    }

    #[test]
    fn a_rate_is_per_second_whatever_time_has_passed() {
        assert!((per_second(3_000, Duration::from_millis(1_500)) - 2_000.0).abs() < 1e-9);
        assert!(per_second(3_000, Duration::ZERO).abs() < 1e-9);
    }
}
