//! From evidence to findings: a pure function, so that every combination can be tested.
//!
//! **Mapping.** Sockets of A's were seen by P's main port, by P's other port, and by H. Seen at a local
//! address by all: no NAT. P's two ports disagree: address- and port-dependent. They agree, and H
//! disagrees: address-dependent; without a word from P's other port, endpoint-dependent. P and H agree
//! about every socket: endpoint-independent. Some see a local address and others do not: unknown.
//!
//! **Filtering.** A probe that arrived is proof. H's, from an IP the socket never sent to:
//! endpoint-independent. P's from its other port: not port-dependent, and address-dependent once H's
//! silence is established. Silence of P's other port alone already means address- and port-dependent, as
//! any weaker filter would have let it in; provided that port was heard at all somewhere.
//!
//! **Silence** is established by controls. In each slot the helper answers a request and sends the probe
//! in the same instant; a slot counts only if the answer arrived and the probe has had time to. The
//! number of such slots that it takes grows with the loss seen, see [`Series::is_silent`].
//!
//! **Port rule.** All external ports are the local ones: preserving. At least three distinct ones, each within
//! 16 of its neighbour when sorted: sequential. Otherwise random; fewer: unknown.
//!
//! **Confidence** of an axis is 1 minus the chance that the evidence came about otherwise: a proof
//! (arrival, disagreement, a local address) gives 1; `k` silent slots at loss `p` give `1 - p^k`; agreement
//! over `n` sockets gives `1 - 512^-n`, as 512 ports is the smallest block that carriers hand out, from
//! which a destination-dependent NAT might draw the same one twice. The verdict's confidence is the product
//! over both axes, an unknown axis counting one half; with both unknown it is 0.

use alloc::vec::Vec;
use core::net::{IpAddr, SocketAddr};

use crate::nat::{Filtering, Mapping, PortRule, Verdict};

/// The widest step between external ports that counts as sequential.
///
/// A busy NAT opens 35 to 500 mappings a second for others and a classification opens its own within
/// milliseconds of each other; 16 leaves room for those in between. In a random block of 512 ports, six samples
/// as close as that are a 1 in 1000 accident.
const SEQUENTIAL_STEP: u16 = 16;

/// Controlled silent slots that establish silence, for each fraction of controls lost (numerator,
/// denominator), declared mildest first.
///
/// A probe is lost with some probability p and all k of them with p^k. At 10 % a link six slots leave one chance
/// in a million; five would leave ten. Where more is seen to be lost (both ways together, so p is no more than
/// that), k grows to keep p^k near that: 1/4 -> 9, 1/3 -> 12, 1/2 -> 20. Beyond one half nothing is concluded.
const SILENCE: [(u32, u32, u32); 4] = [(1, 6, 6), (1, 4, 9), (1, 3, 12), (1, 2, 20)];

/// The least loss assumed when confidence is computed, whatever was seen in so few slots.
const ASSUMED_LOSS: f32 = 0.1;

/// What a second helper is needed for.
pub const NEEDS_THIRD: &str = "a second member reachable at a public address, on another IP";
/// What the mapping needs when helpers contradict each other.
pub const NEEDS_AGREEMENT: &str = "members that agree on whether there is a NAT";
/// What silence needs to mean something.
pub const NEEDS_ANSWERS: &str = "more answers from the members that help: too much is lost";

/// What any attempt needs.
pub const NEEDS_STEADY: &str = "a network that stays the same while it is examined";

/// A series of probes from one source, and their controls.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Series {
    /// Slots that are old enough to be judged.
    pub slots: u32,
    /// Those of them whose control was answered.
    pub controlled: u32,
    /// Probes that arrived, in whatever slot.
    pub arrived: u32,
}

impl Series {
    /// Whether it is established that nothing gets through.
    #[must_use]
    pub fn is_silent(&self) -> bool {
        let lost = self.slots.saturating_sub(self.controlled);
        let needed = SILENCE.iter().find(|(n, d, _)| lost * d <= self.slots * n).map(|(_, _, k)| *k);
        self.arrived == 0 && needed.is_some_and(|k| self.controlled >= k)
    }

    fn confidence(&self) -> f32 {
        let lost = self.slots.saturating_sub(self.controlled);
        let p = (lost as f32 / self.slots.max(1) as f32).max(ASSUMED_LOSS);
        1.0 - (0..self.controlled).fold(1.0, |chance, _| chance * p)
    }
}

/// How one of A's sockets was seen.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Views {
    /// The socket's local port.
    pub local_port: u16,
    /// By P's main port.
    pub primary: Option<SocketAddr>,
    /// By P's other port.
    pub other: Option<SocketAddr>,
    /// By H.
    pub third: Option<SocketAddr>,
}

impl Views {
    fn all(self) -> impl Iterator<Item = SocketAddr> {
        [self.primary, self.other, self.third].into_iter().flatten()
    }
}

/// All that was seen in an attempt.
#[derive(Clone, Debug, Default)]
pub struct Evidence {
    /// The addresses of the host.
    pub local_ips: Vec<IpAddr>,
    /// How the sockets were seen; the filter socket, which only P's main port may see, is one of them.
    pub views: Vec<Views>,
    /// Whether anything from P's other port reached any of A's sockets.
    pub other_heard: bool,
    /// Probes from P's other port to the filter socket.
    pub from_other: Series,
    /// Probes from H to the filter socket.
    pub from_third: Series,
}

/// External ports that were seen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PortsSeen {
    /// The lowest one.
    pub lowest: u16,
    /// The highest one.
    pub highest: u16,
    /// How many different ones.
    pub count: u16,
}

/// What follows from the evidence.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Findings {
    /// How external addresses are chosen.
    pub mapping: Mapping,
    /// How sure, 0 to 1.
    pub mapping_confidence: f32,
    /// What is let in.
    pub filtering: Filtering,
    /// How sure, 0 to 1.
    pub filtering_confidence: f32,
    /// How external ports are chosen.
    pub port_rule: PortRule,
    /// The external ports, of the later attempt where there were two.
    pub ports: Option<PortsSeen>,
    /// The external address of the filter socket.
    pub mapped: Option<SocketAddr>,
    /// What was missing, where an axis is unknown.
    pub missing: Option<&'static str>,
}

impl Findings {
    /// Nothing, for want of `missing`.
    #[must_use]
    pub const fn nothing(missing: &'static str) -> Self {
        Self {
            mapping: Mapping::Unknown,
            mapping_confidence: 0.0,
            filtering: Filtering::Unknown,
            filtering_confidence: 0.0,
            port_rule: PortRule::Unknown,
            ports: None,
            mapped: None,
            missing: Some(missing),
        }
    }

    /// Whether both axes are known.
    #[must_use]
    pub fn is_complete(&self) -> bool {
        self.mapping != Mapping::Unknown && self.filtering != Filtering::Unknown
    }

    /// The verdict in the form that is published.
    #[must_use]
    pub fn verdict(&self) -> Verdict {
        let axis = |known: bool, confidence: f32| if known { confidence } else { 0.5 };
        let mapping = axis(self.mapping != Mapping::Unknown, self.mapping_confidence);
        let filtering = axis(self.filtering != Filtering::Unknown, self.filtering_confidence);
        let nothing = self.mapping == Mapping::Unknown && self.filtering == Filtering::Unknown;
        Verdict {
            mapping: self.mapping,
            filtering: self.filtering,
            port_rule: self.port_rule,
            confidence: if nothing { 0.0 } else { mapping * filtering },
            mapped: self.mapped,
        }
    }

    /// What two attempts found together. An axis on which they contradict each other becomes unknown.
    #[must_use]
    pub fn merge(self, later: Self) -> Self {
        let (mut merged, mut contradicted) = (self, false);
        match (self.mapping, later.mapping) {
            (_, Mapping::Unknown) => {}
            (a, b) if a == b => {
                merged.mapping_confidence = self.mapping_confidence.max(later.mapping_confidence);
            }
            (Mapping::Unknown, _)
            | (Mapping::EndpointDependent, Mapping::AddressDependent | Mapping::AddressAndPortDependent) => {
                merged.mapping = later.mapping;
                merged.mapping_confidence = later.mapping_confidence;
            }
            (Mapping::AddressDependent | Mapping::AddressAndPortDependent, Mapping::EndpointDependent) => {}
            _ => (merged.mapping, contradicted) = (Mapping::Unknown, true),
        }
        match (self.filtering, later.filtering) {
            (_, Filtering::Unknown) => {}
            (a, b) if a == b => {
                merged.filtering_confidence = self.filtering_confidence.max(later.filtering_confidence);
            }
            (Filtering::Unknown, _) => {
                merged.filtering = later.filtering;
                merged.filtering_confidence = later.filtering_confidence;
            }
            _ => (merged.filtering, contradicted) = (Filtering::Unknown, true),
        }
        if later.port_rule != PortRule::Unknown {
            merged.port_rule = later.port_rule;
        }
        merged.ports = later.ports.or(self.ports);
        merged.mapped = later.mapped.or(self.mapped);
        merged.missing = if contradicted {
            Some(NEEDS_STEADY)
        } else if merged.is_complete() {
            None
        } else {
            later.missing.or(self.missing)
        };
        merged
    }
}

/// What follows from `evidence`.
#[must_use]
pub fn judge(evidence: &Evidence) -> Findings {
    let (mapping, mapping_confidence, mapping_missing) = mapping(evidence);
    let (filtering, filtering_confidence, filtering_missing) = filtering(evidence);
    Findings {
        mapping,
        mapping_confidence,
        filtering,
        filtering_confidence,
        port_rule: port_rule(evidence),
        ports: ports_seen(evidence),
        mapped: evidence.views.iter().find_map(|v| v.primary),
        missing: mapping_missing.or(filtering_missing),
    }
}

fn mapping(evidence: &Evidence) -> (Mapping, f32, Option<&'static str>) {
    let views = &evidence.views;
    let is_local =
        |v: &Views, seen: SocketAddr| seen.port() == v.local_port && evidence.local_ips.contains(&seen.ip());
    let seen = views.iter().map(|v| v.all().count()).sum::<usize>();
    let local = views.iter().map(|v| v.all().filter(|a| is_local(v, *a)).count()).sum::<usize>();
    if seen == 0 {
        return (Mapping::Unknown, 0.0, Some(NEEDS_ANSWERS));
    }
    if local == seen {
        return (Mapping::None, 1.0, None);
    }
    if local > 0 {
        return (Mapping::Unknown, 0.0, Some(NEEDS_AGREEMENT));
    }
    let differ = |a: Option<SocketAddr>, b: Option<SocketAddr>| a.zip(b).map(|(a, b)| a != b);
    if views.iter().any(|v| differ(v.primary, v.other) == Some(true)) {
        return (Mapping::AddressAndPortDependent, 1.0, None);
    }
    let by_address: Vec<bool> = views.iter().filter_map(|v| differ(v.primary, v.third)).collect();
    let same_port_views = views.iter().filter(|v| differ(v.primary, v.other) == Some(false)).count();
    if by_address.contains(&true) {
        return if same_port_views == 0 {
            (Mapping::EndpointDependent, 1.0, None)
        } else {
            (Mapping::AddressDependent, agreement(same_port_views), None)
        };
    }
    if by_address.is_empty() {
        return (Mapping::Unknown, 0.0, Some(NEEDS_THIRD));
    }
    (Mapping::EndpointIndependent, agreement(by_address.len()), None)
}

fn agreement(sockets: usize) -> f32 {
    1.0 - (0..sockets).fold(1.0, |chance, _| chance / 512.0)
}

fn filtering(evidence: &Evidence) -> (Filtering, f32, Option<&'static str>) {
    let (other, third) = (&evidence.from_other, &evidence.from_third);
    if third.arrived > 0 {
        return (Filtering::EndpointIndependent, 1.0, None);
    }
    if other.arrived > 0 {
        return if third.is_silent() {
            (Filtering::AddressDependent, third.confidence(), None)
        } else if third.controlled == 0 {
            (Filtering::Unknown, 0.0, Some(NEEDS_THIRD))
        } else {
            (Filtering::Unknown, 0.0, Some(NEEDS_ANSWERS))
        };
    }
    if evidence.other_heard && other.is_silent() {
        return (Filtering::AddressAndPortDependent, other.confidence(), None);
    }
    (Filtering::Unknown, 0.0, Some(NEEDS_ANSWERS))
}

fn distinct_ports(evidence: &Evidence) -> Vec<u16> {
    let seen = evidence.views.iter().flat_map(|v| v.all().map(|seen| seen.port()));
    let mut ports: Vec<u16> = seen.collect();
    ports.sort_unstable();
    ports.dedup();
    ports
}

fn ports_seen(evidence: &Evidence) -> Option<PortsSeen> {
    let ports = distinct_ports(evidence);
    let count = u16::try_from(ports.len()).unwrap_or(u16::MAX);
    Some(PortsSeen { lowest: *ports.first()?, highest: *ports.last()?, count })
}

fn port_rule(evidence: &Evidence) -> PortRule {
    let pairs = || evidence.views.iter().flat_map(|v| v.all().map(|seen| (v.local_port, seen.port())));
    if pairs().next().is_none() {
        return PortRule::Unknown;
    }
    if pairs().all(|(local, external)| local == external) {
        return PortRule::Preserving;
    }
    let ports = distinct_ports(evidence);
    if ports.len() < 3 {
        return PortRule::Unknown;
    }
    if ports.windows(2).all(|w| w[1] - w[0] <= SEQUENTIAL_STEP) {
        PortRule::Sequential
    } else {
        PortRule::Random
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::vec;

    const LOCAL: &str = "198.51.100.7";

    fn at(ip: &str, port: u16) -> Option<SocketAddr> {
        Some(SocketAddr::new(ip.parse().unwrap(), port))
    }

    /// How a socket at local port 5000 + `n` looks through a NAT that maps as `mapping` does.
    fn views(mapping: Mapping, n: u16) -> Views {
        let local_port = 5000 + n;
        let base = 20_000 + n * 100;
        let [primary, other, third] = match mapping {
            Mapping::None => [local_port; 3],
            Mapping::EndpointIndependent | Mapping::Unknown => [base; 3],
            Mapping::AddressDependent => [base, base, base + 40],
            Mapping::AddressAndPortDependent | Mapping::EndpointDependent => [base, base + 20, base + 40],
        };
        Views { local_port, primary: at(LOCAL, primary), other: at(LOCAL, other), third: at(LOCAL, third) }
    }

    fn full(mapping: Mapping, filtering: Filtering) -> Evidence {
        let controls = Series { slots: 8, controlled: 8, arrived: 0 };
        let arrived = |yes: bool| Series { arrived: u32::from(yes), ..controls };
        Evidence {
            local_ips: if mapping == Mapping::None { vec![LOCAL.parse().unwrap()] } else { vec![] },
            views: vec![
                Views { other: None, third: None, ..views(mapping, 0) },
                views(mapping, 1),
                views(mapping, 2),
            ],
            other_heard: true,
            from_other: arrived(filtering != Filtering::AddressAndPortDependent),
            from_third: arrived(filtering == Filtering::EndpointIndependent),
        }
    }

    const MAPPINGS: [Mapping; 4] = [
        Mapping::None,
        Mapping::EndpointIndependent,
        Mapping::AddressDependent,
        Mapping::AddressAndPortDependent,
    ];
    const FILTERS: [Filtering; 3] =
        [Filtering::EndpointIndependent, Filtering::AddressDependent, Filtering::AddressAndPortDependent];

    #[test]
    fn full_evidence_gives_both_axes_of_every_nat() {
        for mapping in MAPPINGS {
            for filtering in FILTERS {
                let found = judge(&full(mapping, filtering));
                assert_eq!((found.mapping, found.filtering, found.missing), (mapping, filtering, None));
                assert!(found.verdict().confidence > 0.999, "{found:?}");
            }
        }
    }

    /// `evidence` without the pieces whose bits are set in `without`.
    fn damaged(mut evidence: Evidence, without: u32) -> Evidence {
        let gone = |bit: u32| without & (1 << bit) != 0;
        for (n, bit) in [(1, 0), (2, 3)] {
            let views = &mut evidence.views[n];
            views.primary = views.primary.filter(|_| !gone(bit));
            views.other = views.other.filter(|_| !gone(bit + 1));
            views.third = views.third.filter(|_| !gone(bit + 2));
        }
        evidence.other_heard &= !gone(6);
        for (series, bit) in [(&mut evidence.from_other, 7), (&mut evidence.from_third, 9)] {
            // Without controls; or, with few of them, without the probes as well.
            if gone(bit) {
                series.controlled = 0;
            }
            if gone(bit + 1) {
                series.arrived = 0;
                series.controlled = series.controlled.min(5);
            }
        }
        evidence
    }

    #[test]
    fn whatever_pieces_are_missing_the_findings_are_right_or_unknown() {
        for mapping in MAPPINGS {
            for filtering in FILTERS {
                for without in 0..1 << 11 {
                    let evidence = damaged(full(mapping, filtering), without);
                    let found = judge(&evidence);
                    let vague = found.mapping == Mapping::EndpointDependent
                        && matches!(mapping, Mapping::AddressDependent | Mapping::AddressAndPortDependent);
                    let context = std::format!("{mapping} {filtering} {without:#b} {found:?}");
                    assert!(
                        found.mapping == mapping || found.mapping == Mapping::Unknown || vague,
                        "{context}"
                    );
                    assert!([filtering, Filtering::Unknown].contains(&found.filtering), "{context}");
                    assert_eq!(found.missing.is_some(), !found.is_complete(), "{context}");
                }
            }
        }
    }

    #[test]
    fn each_missing_piece_is_named() {
        let no_third =
            damaged(full(Mapping::EndpointIndependent, Filtering::AddressDependent), 0b110_0010_0100);
        let found = judge(&no_third);
        assert_eq!((found.mapping, found.filtering), (Mapping::Unknown, Filtering::Unknown));
        assert_eq!(found.missing, Some(NEEDS_THIRD));
        let mute = Evidence {
            other_heard: false,
            ..full(Mapping::EndpointIndependent, Filtering::AddressAndPortDependent)
        };
        assert_eq!(judge(&mute).missing, Some(NEEDS_ANSWERS));
        assert_eq!(judge(&Evidence::default()).missing, Some(NEEDS_ANSWERS));
    }

    #[test]
    fn two_ports_of_one_helper_are_enough_to_know_a_symmetric_nat() {
        let mut evidence = full(Mapping::AddressAndPortDependent, Filtering::AddressAndPortDependent);
        evidence.from_third = Series::default();
        for views in &mut evidence.views {
            views.third = None;
        }
        let found = judge(&evidence);
        assert_eq!(found.mapping, Mapping::AddressAndPortDependent);
        assert_eq!(found.filtering, Filtering::AddressAndPortDependent);
    }

    #[test]
    fn helpers_that_disagree_about_a_local_address_give_no_mapping() {
        let mut evidence = full(Mapping::None, Filtering::EndpointIndependent);
        evidence.views[1].third = at("203.0.113.50", 5001);
        let found = judge(&evidence);
        assert_eq!((found.mapping, found.missing), (Mapping::Unknown, Some(NEEDS_AGREEMENT)));
    }

    #[test]
    fn equal_mappings_of_one_socket_by_chance_do_not_hide_the_other_sockets_difference() {
        let mut evidence = full(Mapping::AddressDependent, Filtering::AddressDependent);
        evidence.views[1].third = evidence.views[1].primary;
        assert_eq!(judge(&evidence).mapping, Mapping::AddressDependent);
    }

    #[test]
    fn silence_takes_six_controlled_slots_and_more_where_more_is_lost() {
        let silent = |slots, controlled| Series { slots, controlled, arrived: 0 }.is_silent();
        assert!(silent(6, 6) && !silent(5, 5));
        assert!(silent(8, 7) && !silent(8, 6));
        assert!(silent(12, 9) && !silent(12, 8));
        assert!(silent(18, 12) && !silent(17, 11));
        assert!(silent(40, 20) && !silent(38, 19));
        assert!(!silent(200, 99), "nothing follows where more than half is lost");
        assert!(!Series { slots: 32, controlled: 32, arrived: 1 }.is_silent(), "an arrival is not silence");
    }

    #[test]
    fn confidence_grows_with_the_number_of_slots_and_halves_for_an_unknown_axis() {
        let mut evidence = full(Mapping::EndpointIndependent, Filtering::AddressAndPortDependent);
        let confidence = |evidence: &Evidence| judge(evidence).verdict().confidence;
        evidence.from_other = Series { slots: 9, controlled: 6 + 3, arrived: 0 };
        let many = confidence(&evidence);
        evidence.from_other = Series { slots: 7, controlled: 6, arrived: 0 };
        let few = confidence(&evidence);
        assert!(0.999 < few && few < many && many <= 1.0, "{few} {many}");
        evidence.other_heard = false;
        let half = confidence(&evidence);
        assert!((0.49..=0.5).contains(&half), "{half}");
        assert!(confidence(&Evidence::default()) == 0.0);
    }

    #[test]
    fn port_rules_follow_from_the_ports() {
        let rule = |ports: &[u16]| {
            let views =
                ports.iter().map(|p| Views { local_port: 7, primary: at(LOCAL, *p), ..Views::default() });
            port_rule(&Evidence { views: views.collect(), ..Evidence::default() })
        };
        assert_eq!(rule(&[7, 7]), PortRule::Preserving);
        assert_eq!(rule(&[100, 103, 101, 117]), PortRule::Sequential);
        assert_eq!(rule(&[100, 103, 130]), PortRule::Random);
        assert_eq!(rule(&[100, 103]), PortRule::Unknown);
        assert_eq!(rule(&[]), PortRule::Unknown);
    }

    #[test]
    fn the_ports_seen_are_counted_once_each() {
        let seen = judge(&full(Mapping::EndpointIndependent, Filtering::AddressDependent)).ports.unwrap();
        assert!(seen.count > 1 && seen.lowest < seen.highest, "{seen:?}");
        let views =
            vec![Views { local_port: 1, primary: at(LOCAL, 7), other: at(LOCAL, 7), third: at(LOCAL, 9) }];
        let ports = judge(&Evidence { views, ..Evidence::default() }).ports;
        assert_eq!(ports, Some(PortsSeen { lowest: 7, highest: 9, count: 2 }));
        assert_eq!(judge(&Evidence::default()).ports, None);
    }

    #[test]
    fn attempts_complete_each_other_and_contradictions_become_unknown() {
        let whole = judge(&full(Mapping::AddressDependent, Filtering::AddressDependent));
        let mapping_only = Findings { filtering: Filtering::Unknown, missing: Some(NEEDS_ANSWERS), ..whole };
        let filter_only = Findings { mapping: Mapping::Unknown, missing: Some(NEEDS_THIRD), ..whole };
        assert_eq!(mapping_only.merge(filter_only), whole);
        let vague = Findings { mapping: Mapping::EndpointDependent, ..whole };
        assert_eq!(vague.merge(whole), whole);
        assert_eq!(whole.merge(vague), whole);
        let other = judge(&full(Mapping::EndpointIndependent, Filtering::EndpointIndependent));
        let merged = whole.merge(other);
        assert_eq!((merged.mapping, merged.filtering), (Mapping::Unknown, Filtering::Unknown));
        assert_eq!(merged.missing, Some(NEEDS_STEADY));
    }
}
