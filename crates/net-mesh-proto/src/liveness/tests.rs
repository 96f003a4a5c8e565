//! What the detector promises.

use super::traffic::Traffic;
use super::{Detector, Health, View, Witness};
use crate::time::Time;

fn ms(ms: u64) -> Time {
    Time::from_millis(ms)
}

/// A way whose probes take 40 ms, and its traffic.
fn used() -> (Detector, Traffic) {
    let mut detector = Detector::new(ms(0));
    for nonce in 1..20 {
        detector.probed(ms(nonce * 100), nonce, 0);
        detector.answer(ms(nonce * 100 + 40), nonce, 0, 0);
    }
    (detector, Traffic::default())
}

#[test]
fn an_acknowledgement_that_nothing_followed_does_not_make_what_is_sent_later_late() {
    let (mut detector, mut traffic) = used();
    traffic.received(ms(2_500), 1);
    traffic.sent(ms(2_500), 1);
    detector.count(ms(2_510), traffic);
    assert!(!detector.is_late(ms(60_000), ms(0)));
    // A minute later there is something to say again.
    traffic.sent(ms(62_500), 20);
    detector.count(ms(62_510), traffic);
    let view = View { excuse: ms(0), witness: Witness::Others, barred: false, expects: true };
    assert_eq!(detector.assess(ms(62_510), view), None);
    assert_eq!(detector.assess(ms(62_550), view), None);
    let evidence = detector.assess(ms(62_600), view);
    assert_eq!(
        (evidence.map(|e| e.cause), detector.health()),
        (Some(super::Cause::Silence), Health::Suspect)
    );
}

#[test]
fn what_a_stall_held_back_does_not_change_how_long_answers_take_and_a_longer_way_does() {
    let (mut detector, _) = used();
    let patience = detector.rtt().patience();
    for nonce in 20..32 {
        detector.probed(ms(nonce * 250), nonce, 0);
    }
    let view = View { excuse: ms(0), witness: Witness::Others, barred: false, expects: true };
    detector.assess(ms(7_999), view);
    (20..32).for_each(|nonce| _ = detector.answer(ms(8_000), nonce, 0, 0));
    detector.probed(ms(8_000), 32, 0);
    detector.answer(ms(8_040), 32, 0, 0);
    assert!(detector.rtt().patience() <= patience);

    for nonce in 33..60 {
        detector.probed(ms(nonce * 250), nonce, 0);
        detector.assess(ms(nonce * 250 + 200), view);
        detector.answer(ms(nonce * 250 + 200), nonce, 0, 0);
    }
    assert!(detector.rtt().patience() > std::time::Duration::from_millis(200), "{:?}", detector.rtt());
}

#[test]
fn an_idle_way_is_not_called_failed_sooner_than_a_busy_one() {
    let (mut detector, _) = used();
    let view = View { excuse: ms(0), witness: Witness::Others, barred: false, expects: true };
    let mut failed = None;
    for step in 0..100 {
        let now = ms(20_000 + step * 100);
        if step % 5 == 0 {
            detector.probed(now, 100 + step, 0);
        }
        detector.assess(now, view);
        if detector.health() == Health::Failed {
            failed.get_or_insert(now - ms(20_000));
        }
    }
    let failed = failed.unwrap();
    assert!(failed > super::detector::FAIL_AFTER && failed < 2 * super::detector::FAIL_AFTER, "{failed:?}");
}
