//! Access lines that lose and delay: first that they do, then that events come through all the same.

use std::thread;
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

/// Whether the way between two hosts is as long and as lossy as two lines of this quality.
fn check(measured: Measured, quality: Quality) -> Result<(), String> {
    let rtt = quality.delay * 4;
    if measured.rtt < rtt || measured.rtt > rtt + LATE {
        return Err(format!("a round trip of {rtt:?} was wanted: {measured:?}"));
    }
    let loss = 1.0 - (1.0 - quality.loss).powi(2);
    let deviation = (loss * (1.0 - loss) / f64::from(DATAGRAMS)).sqrt();
    if measured.lost.iter().any(|lost| (lost - loss).abs() > DEVIATIONS * deviation) {
        return Err(format!("a loss of {loss:.3} was wanted: {measured:?}"));
    }
    Ok(())
}

const fn quality(delay_ms: u64, loss: f64) -> Quality {
    Quality { delay: Duration::from_millis(delay_ms), loss, seed: 0 }
}

/// Two hosts behind NATs, each on an access line of this quality, measured.
fn pair(net: &mut Net, quality: Quality) -> [Host; 2] {
    let stranger = net.host_over("stranger", Behind::Nothing, Quality { seed: 1, ..quality });
    let hosts = [("left", 2), ("right", 3)]
        .map(|(name, seed)| net.host_over(name, Behind::PortRestricted, Quality { seed, ..quality }));
    let measured = thread::scope(|scope| {
        let threads = hosts.each_ref().map(|host| scope.spawn(|| measure(host, &stranger)));
        threads.map(|thread| thread.join().unwrap())
    });
    measured.into_iter().for_each(|measured| check(measured, quality).unwrap());
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
    check(measured, quality(0, 0.0)).unwrap();
    for bad in [quality(100, 0.0), quality(0, 0.01), quality(100, 0.05)] {
        check(measured, bad).expect_err("a perfect line passes for a bad one");
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
