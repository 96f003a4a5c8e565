//! Access lines that lose and delay: first that they do, then that events come through all the same.

use std::time::Duration;

use crate::support::line::{DATAGRAMS, Measured, Quality, measure};
use crate::support::mesh::{Mesh, Way, talk};
use crate::support::net::{Behind, Host, Net};

/// What a busy machine may add to a round trip.
const LATE: Duration = Duration::from_millis(80);

/// Standard deviations that chance does not explain.
const DEVIATIONS: f64 = 6.0;

/// How long a pair may take to be direct on a perfect line, and a hundredfold round trip more on these.
const LIMIT: Duration = Duration::from_secs(40);

/// Fails unless the way between two hosts is as long and as lossy as `lines` lines of this quality.
fn require(measured: Measured, quality: Quality, lines: i32) {
    let rtt = quality.delay * 2 * lines.unsigned_abs();
    assert!(
        measured.rtt >= rtt && measured.rtt < rtt + LATE,
        "a round trip of {rtt:?} was wanted: {measured:?}"
    );
    let loss = 1.0 - (1.0 - quality.loss).powi(lines);
    for lost in measured.lost {
        let deviation = (loss * (1.0 - loss) / f64::from(DATAGRAMS)).sqrt();
        assert!((lost - loss).abs() <= DEVIATIONS * deviation, "a loss of {loss} was wanted: {measured:?}");
    }
}

const fn quality(delay_ms: u64, loss: f64) -> Quality {
    Quality { delay: Duration::from_millis(delay_ms), loss, seed: 0 }
}

/// Two hosts behind NATs, each on an access line of this quality, measured.
fn pair(net: &mut Net, quality: Quality) -> [Host; 2] {
    let stranger = net.host_over("stranger", Behind::Nothing, Quality { seed: 1, ..quality });
    let hosts = [("left", 2), ("right", 3)].map(|(name, seed)| {
        let host = net.host_over(name, Behind::PortRestricted, Quality { seed, ..quality });
        require(measure(&host, &stranger), quality, 2);
        host
    });
    hosts
}

/// The lab first; then both nodes find the direct way, and every event arrives.
fn events_come_through(quality: Quality) {
    let mut net = Net::new();
    let helpers = ["fra", "lon"].map(|name| net.host(name, Behind::Nothing));
    let hosts = pair(&mut net, quality);
    let mesh = Mesh::around(helpers.into(), hosts.into());
    talk(&mesh, &[(2, 3, Way::Direct)], LIMIT);
}

#[test]
fn a_perfect_line_is_not_taken_for_a_bad_one() {
    let mut net = Net::new();
    let hosts = ["left", "right"].map(|name| net.host_over(name, Behind::Nothing, quality(0, 0.0)));
    let measured = measure(&hosts[0], &hosts[1]);
    require(measured, quality(0, 0.0), 2);
    for bad in [quality(100, 0.0), quality(0, 0.01), quality(100, 0.05)] {
        assert!(
            std::panic::catch_unwind(|| require(measured, bad, 2)).is_err(),
            "{measured:?} passes for {bad:?}"
        );
    }
}

#[test]
fn one_packet_in_a_hundred_is_lost() {
    events_come_through(quality(0, 0.01));
}

#[test]
fn one_packet_in_twenty_is_lost() {
    events_come_through(quality(0, 0.05));
}

#[test]
fn every_access_line_has_a_round_trip_of_200_ms() {
    events_come_through(quality(100, 0.0));
}

#[test]
fn every_access_line_has_a_round_trip_of_200_ms_and_loses_one_packet_in_twenty() {
    events_come_through(quality(100, 0.05));
}
