//! What the ring of packets promises.

use super::*;

fn at(ms: u64) -> Time {
    Time::from_millis(ms)
}

/// The first byte of every packet that is left since `after`.
fn firsts(ring: &mut Ring, after: Option<Time>) -> Vec<u8> {
    let runs = ring.since(at(0), after);
    runs.iter().flat_map(|run| run.bytes.chunks(run.segment).map(|packet| packet[0])).collect()
}

#[test]
fn what_was_sent_since_is_told_oldest_first_and_told_again_when_it_was_lost_again() {
    let mut ring = Ring::default();
    (0..10u8).for_each(|n| ring.push(at(n.into()), &[n; 100], 100));
    let first: Vec<Run> = ring.since(at(20), Some(at(6)));
    assert_eq!(first, [Run { segment: 100, bytes: [[6; 100], [7; 100], [8; 100], [9; 100]].concat() }]);
    assert_eq!(ring.last(), Some(at(20)));
    ring.push(at(21), &[10; 100], 100);
    assert_eq!(firsts(&mut ring, Some(at(20))), [6, 7, 8, 9, 10]);
}

#[test]
fn packets_of_one_length_leave_together_and_the_last_may_be_shorter() {
    let mut ring = Ring::default();
    let batch = |n: u8, len| vec![n; len];
    for (bytes, segment) in [
        (batch(1, 300), 100),
        (batch(2, 100), 100),
        (batch(3, 150), 100),
        (batch(4, 100), 100),
        (batch(5, 40), 40),
        (batch(6, 40), 40),
        (batch(7, 80), 20),
        (batch(8, 70), 70),
    ] {
        ring.push(at(0), &bytes, segment);
    }
    let runs: Vec<_> =
        ring.since(at(0), None).into_iter().map(|run| (run.segment, run.bytes.len())).collect();
    assert_eq!(runs, [(100, 550), (100, 140), (40, 40), (20, 80), (70, 70)]);
}

#[test]
fn a_batch_larger_than_the_ring_leaves_its_last_packets_whole() {
    let mut ring = Ring::default();
    ring.push(at(0), &[1; 1200], 1200);
    let large: Vec<u8> = (0..200_000u32).map(|n| (n / 1200) as u8).collect();
    ring.push(at(1), &large, 1200);
    let kept: Vec<u8> = ring.since(at(0), None).into_iter().flat_map(|run| run.bytes).collect();
    assert!(kept.len() <= RING_BYTES && kept.len() > RING_BYTES - 1200);
    assert_eq!((large.len() - kept.len()) % 1200, 0);
    assert!(large.ends_with(&kept));
}

#[test]
fn nothing_and_packets_without_a_length_do_no_harm() {
    let mut ring = Ring::default();
    ring.push(at(0), &[], 0);
    assert_eq!((ring.last(), ring.buffer.capacity()), (None, 0));
    ring.push(at(0), &[1, 2], 0);
    assert_eq!(ring.since(at(0), None), [Run { segment: 1, bytes: vec![1, 2] }]);
}

#[test]
fn a_session_that_says_little_holds_little() {
    let mut ring = Ring::default();
    (0..10u8).for_each(|n| ring.push(at(0), &[n; 100], 100));
    assert!(ring.buffer.capacity() <= 2000);
}

#[test]
fn small_packets_are_bounded_by_their_number() {
    let mut ring = Ring::default();
    (0..2000u64).for_each(|n| ring.push(at(n), &[n as u8; 30], 30));
    assert_eq!(ring.batches.len(), MAX_BATCHES);
    assert_eq!(firsts(&mut ring, None), (2000 - MAX_BATCHES..2000).map(|n| n as u8).collect::<Vec<_>>());
}

/// Against a list of all batches: what is left is always the last of them, unharmed, and hardly less than fits.
#[test]
fn whatever_the_sizes_the_last_batches_are_left_as_they_were() {
    let mut ring = Ring::default();
    let mut all: Vec<(usize, Vec<u8>)> = Vec::new();
    let mut random = 1u32;
    for step in 0..3000u32 {
        random = random.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        let packets = 1 + (random >> 28) as usize;
        let segment = 50 + (random >> 8) as usize % 1300;
        let bytes: Vec<u8> = (0..packets * segment).map(|i| (step as usize + i) as u8).collect();
        ring.push(at(step.into()), &bytes, segment);
        all.push((segment, bytes));
        assert!(ring.buffer.capacity() <= RING_BYTES);
        let last = &all[all.len() - ring.batches.len()..];
        let held: usize = last.iter().map(|(_, bytes)| bytes.len()).sum();
        // What fits, less the one batch that would not, and less the gap where the buffer ends.
        assert!(step < 30 || held > RING_BYTES - 2 * 16 * 1350, "{held}");
        for (batch, (segment, bytes)) in ring.batches.iter().zip(last) {
            assert_eq!(batch.segment, *segment);
            assert!(
                ring.buffer[batch.bytes.clone()] == **bytes,
                "batch {} of step {step}",
                batch.at.as_millis()
            );
        }
    }
}
