//! What has the node counted since it was last asked?

use std::collections::BTreeMap;

use net_mesh_proto::drops::DropReason;
use net_mesh_proto::liveness::Health;
use net_mesh_proto::nat::NatClass;
use net_mesh_proto::node::Udp;
use net_mesh_proto::reflex::{Asked, Told};
use net_mesh_proto::route::Route;

use super::table::{self, DIRECTIONS, FAMILIES, PATHS, STATISTICS};
use super::{Metric, Values};
use crate::mesh::Shared;
use crate::net::Network;
use crate::portmap::{PortMapping, PortMappingState};
use crate::socket::Volume;

pub(super) const HEALTHS: [Health; 3] = [Health::Healthy, Health::Suspect, Health::Failed];

/// Why a relayed datagram is not sent on.
pub(super) const RELAY_REASONS: [&str; 4] = ["limit", "unknown_label", "foreign_label", "expired_label"];

pub(super) const MAPPING_STATES: [(PortMappingState, &str); 8] = [
    (PortMappingState::NotNeeded, "not_needed"),
    (PortMappingState::Asking, "asking"),
    (PortMappingState::NoRouter, "no_router"),
    (PortMappingState::Refused, "refused"),
    (PortMappingState::Useless, "useless"),
    (PortMappingState::Unproven, "unproven"),
    (PortMappingState::Proven, "proven"),
    (PortMappingState::Released, "released"),
];

/// Counters of events that begin at zero: a rate counts the first event only if there was a value before it.
const FROM_ZERO: [&Metric; 11] = [
    &table::CLASSIFICATIONS,
    &table::REFLEXIVE_CHANGES,
    &table::NETWORK_CHANGES,
    &table::SESSIONS_OPENED,
    &table::SESSIONS_CLOSED,
    &table::PATH_CHANGES,
    &table::DIALS_FAILED,
    &table::HEALTH_TRANSITIONS,
    &table::PATH_ISSUES,
    &table::CHECKS,
    &table::INTRODUCTIONS,
];

/// The kinds and results of reflex packets, in the order of [`reflex_counts`].
pub(super) const fn reflex_words() -> [(&'static str, &'static str); 10] {
    [
        ("query", "sent"),
        ("query", "answered"),
        ("query", "refused"),
        ("query", "unmatched"),
        ("query", "given_up"),
        ("request", "answered"),
        ("request", "refused"),
        ("request", "rate_limited"),
        ("request", "unusable"),
        ("probe", "answered"),
    ]
}

const fn reflex_counts((asked, told): (Asked, Told)) -> [u64; 10] {
    let Asked { sent, answered, refused, unmatched, given_up } = asked;
    [
        sent,
        answered,
        refused,
        unmatched,
        given_up,
        told.answered,
        told.rejected,
        told.limited,
        told.unusable,
        told.probes,
    ]
}

/// Carries over what is counted in integers of the node's own.
#[derive(Debug, Default)]
pub(crate) struct Publisher {
    /// What was last told of each series. As many as the table has.
    told: BTreeMap<(&'static str, [&'static str; 2]), u64>,
    begun: bool,
}

impl Publisher {
    /// Brings everything up to date. To be called every second or so.
    pub(crate) fn publish(&mut self, shared: &Shared, network: &dyn Network) {
        if !std::mem::replace(&mut self.begun, true) {
            begin();
        }
        self.node(shared);
        self.port_mapping(shared);
        self.sessions(shared);
        self.socket(shared, network);
    }

    /// Tells by how much `total` has grown.
    fn total<const N: usize>(&mut self, metric: &Metric, values: [&'static str; N], total: u64) {
        let mut key = [""; 2];
        key[..N].copy_from_slice(&values);
        let told = self.told.entry((metric.name, key)).or_default();
        metric.add(values, total.saturating_sub(*told));
        *told = total;
    }

    fn node(&mut self, shared: &Shared) {
        let now = shared.now();
        let node = shared.node();
        let own = node.experienced_class(now);
        let confidence = node.verdict(now).0.confidence;
        let mut classes = vec![0_u32; NatClass::ALL.len()];
        let mut relaying = u32::from(shared.relays());
        let others = node.members().map(|m| (m.record.verdict.class(), m.record.flags.relays));
        for (class, relays) in others.chain([(own, false)]) {
            classes[usize::from(class.code())] += 1;
            relaying += u32::from(relays);
        }
        let silent = node.udp(now) == Udp::Silent;
        let (reflex, drops, circuits) = (node.reflex_counts(), node.drops(), node.carried());
        drop(node);
        for (class, count) in NatClass::ALL.iter().zip(classes) {
            table::MEMBERS.set([class.word()], f64::from(count));
            table::NAT_CLASS.set([class.word()], f64::from(u8::from(*class == own)));
        }
        table::RELAYING_MEMBERS.set([], f64::from(relaying));
        table::NAT_CONFIDENCE.set([], f64::from(confidence));
        table::UDP_SILENT.set([], f64::from(u8::from(silent)));
        table::RELAY_CIRCUITS.set([], float(circuits));
        for ((kind, result), count) in reflex_words().into_iter().zip(reflex_counts(reflex)) {
            self.total(&table::REFLEX, [kind, result], count);
        }
        for reason in DropReason::ALL {
            self.total(&table::DROPPED, [reason.name()], drops.of(*reason) + shared.drops.of(*reason));
        }
    }

    #[allow(clippy::unused_self, reason = "one of a kind")]
    fn port_mapping(&self, shared: &Shared) {
        let status = shared.node().port_mapping();
        let Some(present) = status.map(|status| PortMapping::of(shared.now(), &status).state) else { return };
        for (state, word) in MAPPING_STATES {
            table::PORT_MAPPING.set([word], f64::from(u8::from(state == present)));
        }
    }

    #[allow(clippy::unused_self, reason = "one of a kind")]
    fn sessions(&self, shared: &Shared) {
        let now = shared.now();
        let (mut rtts, mut losses) = ([Vec::new(), Vec::new()], [Vec::new(), Vec::new()]);
        let (mut without, mut healths) = (0_u32, [0_u32; HEALTHS.len()]);
        let node = shared.node();
        for session in node.sessions() {
            if let Some(health) = node.health(&session.peer)
                && let Some(at) = HEALTHS.iter().position(|h| *h == health)
            {
                healths[at] += 1;
            }
            let Some(route) = node.route(&session.peer) else {
                without += 1;
                continue;
            };
            let path = usize::from(matches!(route, Route::Relayed(_)));
            let way = node.way(now, &session.peer);
            rtts[path].push(way.and_then(|way| way.rtt).unwrap_or(session.rtt).as_secs_f64());
            losses[path].extend(way.and_then(|way| way.loss).map(|permille| f64::from(permille) / 1000.0));
        }
        drop(node);
        table::SESSIONS.set(["none"], f64::from(without));
        for (path, (rtts, losses)) in PATHS.into_iter().zip(rtts.iter_mut().zip(&mut losses)) {
            table::SESSIONS.set([path], float(rtts.len()));
            for (metric, values) in [(&table::SESSION_RTT, rtts), (&table::SESSION_LOSS, losses)] {
                for (statistic, value) in STATISTICS.into_iter().zip(statistics(values)) {
                    metric.set([path, statistic], value);
                }
            }
        }
        for (health, count) in HEALTHS.iter().zip(healths) {
            table::SESSION_HEALTH.set([health.name()], f64::from(count));
        }
    }

    fn socket(&mut self, shared: &Shared, network: &dyn Network) {
        for (direction, paths) in DIRECTIONS.into_iter().zip(shared.socket.passed()) {
            for (path, Volume { packets, bytes }) in PATHS.into_iter().zip(paths) {
                self.total(&table::SESSION_PACKETS, [path, direction], packets);
                self.total(&table::SESSION_BYTES, [path, direction], bytes);
            }
        }
        let carried = shared.socket.carried();
        self.total(&table::RELAY_PACKETS, [], carried.packets);
        self.total(&table::RELAY_BYTES, [], carried.bytes);
        self.total(&table::RELAY_DELIVERED, [], carried.delivered);
        self.total(&table::RELAY_DROPPED_BYTES, [], carried.limited_bytes);
        let dropped = [carried.limited, carried.unknown, carried.foreign, carried.expired];
        for (reason, count) in RELAY_REASONS.into_iter().zip(dropped) {
            self.total(&table::RELAY_DROPPED, [reason], count);
        }
        for local in shared.socket.local_addrs() {
            if let Some(count) = network.overflowed(local) {
                self.total(&table::SOCKET_DROPPED, [FAMILIES[usize::from(local.is_ipv6())]], count);
            }
        }
    }
}

/// Makes series that are there from the start.
fn begin() {
    table::BUILD.set([env!("CARGO_PKG_VERSION")], 1.0);
    for metric in FROM_ZERO {
        let words: Vec<Vec<&'static str>> = metric
            .labels
            .iter()
            .map(|label| match label.values {
                Values::Of(values) => values(),
                Values::Open(_) => Vec::new(),
            })
            .collect();
        match &words[..] {
            [] => metric.add([], 0),
            [values] => values.iter().for_each(|value| metric.add([value], 0)),
            [first, second] => {
                for value in first {
                    second.iter().for_each(|other| metric.add([value, other], 0));
                }
            }
            _ => {}
        }
    }
}

/// Median, ninth decile and maximum; not a number where there are no values.
fn statistics(values: &mut [f64]) -> [f64; 3] {
    values.sort_unstable_by(f64::total_cmp);
    let tenths = |n: usize| (values.len() * n).div_ceil(10).checked_sub(1).and_then(|at| values.get(at));
    [5, 9, 10].map(|n| tenths(n).copied().unwrap_or(f64::NAN))
}

#[allow(clippy::cast_precision_loss, reason = "far below 2^52")]
const fn float(count: usize) -> f64 {
    count as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn statistics_are_values_that_occurred() {
        let mut values: Vec<f64> = (1..=10).rev().map(f64::from).collect();
        assert_eq!(statistics(&mut values), [5.0, 9.0, 10.0]);
        assert_eq!(statistics(&mut [7.0]), [7.0; 3]);
        assert_eq!(statistics(&mut [2.0, 1.0]), [1.0, 2.0, 2.0]);
        assert!(statistics(&mut []).iter().all(|value| value.is_nan()));
    }
}
