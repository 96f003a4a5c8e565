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
