//! Access lines that lose and delay: first that they do, then that events come through all the same.

use std::time::Duration;

use crate::support::line::{Measured, Quality, measure};
use crate::support::net::{Behind, Host, Net};

/// What a busy machine may add to a round trip.
const LATE: Duration = Duration::from_millis(80);

/// Deviation of a measured share from the true one that chance does not explain: more than six standard
/// deviations of 3 000 datagrams at the largest loss here.
const CHANCE: f64 = 0.035;

/// Fails unless the way between two hosts is as long and as lossy as `lines` lines of this quality.
fn require(measured: Measured, quality: Quality, lines: i32) {
    let rtt = quality.delay * 2 * lines.unsigned_abs();
    assert!(
        measured.rtt >= rtt && measured.rtt < rtt + LATE,
        "a round trip of {rtt:?} was wanted: {measured:?}"
    );
    let loss = 1.0 - (1.0 - quality.loss).powi(lines);
    for lost in measured.lost {
        assert!((lost - loss).abs() < CHANCE, "a loss of {loss} was wanted: {measured:?}");
        assert!((quality.loss > 0.0) == (lost > 0.0), "{measured:?}");
    }
}

fn pair(net: &mut Net, quality: [Quality; 2]) -> [Host; 2] {
    let [left, right] = quality;
    [net.host_over("left", Behind::PortRestricted, left), net.host_over("right", Behind::Nothing, right)]
}

const fn quality(delay_ms: u64, loss: f64, seed: u64) -> Quality {
    Quality { delay: Duration::from_millis(delay_ms), loss, seed }
}

#[test]
fn the_lab_has_lines_that_lose_and_delay() {
    for (delay_ms, loss) in [(0, 0.0), (0, 0.01), (100, 0.0), (100, 0.05)] {
        let mut net = Net::new();
        let hosts = pair(&mut net, [1, 2].map(|seed| quality(delay_ms, loss, seed)));
        let measured = measure(&hosts[0], &hosts[1]);
        println!("{delay_ms} ms, {loss}: {measured:?}");
        require(measured, quality(delay_ms, loss, 0), 2);
    }
}
