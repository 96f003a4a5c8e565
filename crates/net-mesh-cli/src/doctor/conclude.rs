//! Can the node work, and what would help? Facts in, a conclusion out.

use std::net::{IpAddr, Ipv4Addr};

use crate::json::doctor::{DoctorJson, DoubleNatJson, FamilyJson};
use crate::json::{NatJson, PortMappingJson};

/// How far a clock may be off before it is worth a word: records are told apart and events dated by it, and what hosts
/// that keep time differ by is below a second.
const CLOCK_OFF_MS: u64 = 120_000;

/// Whether the node can work, and the reason.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// Members are reached.
    Works,
    /// There is nobody to reach.
    Alone,
    /// Nothing comes back over UDP.
    UdpBlocked,
    /// Nothing can be sent to any address to start from.
    NoUsableStart,
    /// Who answers is no member of this mesh, or does not take this node for one.
    Stranger,
    /// Nobody can be reached.
    NobodyReached,
    /// The first attempts are under way.
    NotYet,
}

impl Verdict {
    pub(super) const fn can_work(self) -> bool {
        match self {
            Self::Works | Self::Alone => true,
            Self::UdpBlocked | Self::NoUsableStart | Self::Stranger | Self::NobodyReached | Self::NotYet => {
                false
            }
        }
    }
}

/// Something that would improve it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Hint {
    AllowUdp,
    CheckStart,
    GiveStart,
    Wait,
    Invite,
    JoinAgain,
    SeeLost,
    /// The router could be asked for a port.
    AskRouter,
    /// ... if the program could.
    BuildPortMapping,
    /// A port of the router would be of no use.
    SecondNat,
    LetUdpIn,
    SecondHelper,
    LookAtMesh,
    NoRelay,
    SetClock,
    BlackHoles,
    SilentStarts,
}

/// What follows from the facts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Conclusion {
    pub(super) verdict: Verdict,
    /// Most important first.
    pub(super) hints: Vec<Hint>,
}

pub(super) fn conclude(facts: &DoctorJson) -> Conclusion {
    let verdict = verdict(facts);
    let mut hints = match verdict {
        Verdict::Works => Vec::new(),
        Verdict::Alone => vec![Hint::Invite],
        Verdict::UdpBlocked => vec![Hint::AllowUdp, Hint::CheckStart],
        Verdict::NoUsableStart => vec![Hint::GiveStart],
        Verdict::Stranger => vec![Hint::JoinAgain],
        Verdict::NobodyReached => vec![Hint::CheckStart],
        Verdict::NotYet => vec![Hint::Wait],
    };
    if verdict == Verdict::Works {
        if facts.members.failed > 0 {
            hints.push(Hint::SeeLost);
        }
        hints.extend(for_directness(facts));
        if facts.relays.direct == 0 {
            hints.push(Hint::NoRelay);
        }
        if facts.start.iter().any(|start| start.state == "silent") {
            hints.push(Hint::SilentStarts);
        }
    }
    if clock_is_off(facts) {
        hints.push(Hint::SetClock);
    }
    if facts.datagram.is_some_and(|size| size.black_holes > 0) {
        hints.push(Hint::BlackHoles);
    }
    Conclusion { verdict, hints }
}

fn verdict(facts: &DoctorJson) -> Verdict {
    let members = facts.members;
    let others = members.direct + members.relayed + members.failed + members.idle;
    let starts = || facts.start.iter().filter(|start| start.state != "itself");
    if facts.udp == "blocked" {
        Verdict::UdpBlocked
    } else if members.direct + members.relayed > 0 {
        Verdict::Works
    } else if others == 0 && starts().next().is_none() {
        Verdict::Alone
    } else if others == 0 && starts().all(|start| start.state == "unusable") {
        Verdict::NoUsableStart
    } else if others == 0 && starts().any(|start| start.state == "refused") {
        Verdict::Stranger
    } else if facts.udp == "unknown"
        || (members.failed == 0 && !starts().any(|start| start.state == "silent"))
    {
        Verdict::NotYet
    } else {
        Verdict::NobodyReached
    }
}

/// What would make more paths direct, as far as it depends on this node.
fn for_directness(facts: &DoctorJson) -> Vec<Hint> {
    let mut hints = Vec::new();
    if facts.nat.class == "unknown" && facts.nat.missing.is_some() {
        hints.push(Hint::SecondHelper);
    }
    if facts.members.relayed == 0 {
        return hints;
    }
    match facts.nat.class.as_str() {
        // Whoever is relayed here, it is not for this node's sake.
        "direct" | "full-cone" => {}
        _ if facts.nat.mapping == "none" => hints.push(Hint::LetUdpIn),
        _ if facts.double_nat.state == "yes" => hints.push(Hint::SecondNat),
        _ if facts.port_mapping.state != "off" => {}
        // Only a router of the host's own network can be asked.
        _ if !facts.ipv4.inside.iter().any(|ip| matches!(ip, IpAddr::V4(ip) if ip.is_private())) => {}
        _ if facts.port_mapping_built => hints.push(Hint::AskRouter),
        _ => hints.push(Hint::BuildPortMapping),
    }
    hints.push(Hint::LookAtMesh);
    hints
}

/// Whether this host's clock, or that of most others, is wrong.
pub(super) fn clock_is_off(facts: &DoctorJson) -> bool {
    facts.clock.is_some_and(|clock| clock.ahead_ms.unsigned_abs() > CLOCK_OFF_MS)
}

/// RFC 6598: what carriers put between their NATs and their subscribers.
pub(super) const fn is_shared(ip: Ipv4Addr) -> bool {
    let [a, b, ..] = ip.octets();
    a == 100 && b >= 64 && b < 128
}

/// Whether one NAT stands behind another, as far as addresses show it.
///
/// A host with an address of the shared space beside one of RFC 1918 proves nothing: overlay networks use that
/// space too.
pub(crate) fn double_nat(ipv4: &FamilyJson, nat: &NatJson, mapping: &PortMappingJson) -> DoubleNatJson {
    let said = |state: &str, evidence: Option<&str>| DoubleNatJson {
        state: state.into(),
        evidence: evidence.map(Into::into),
    };
    let inside: Vec<Ipv4Addr> = ipv4.inside.iter().filter_map(v4).filter(|ip| !ip.is_loopback()).collect();
    let mut outside: Vec<Ipv4Addr> =
        ipv4.outside.iter().map(|addr| addr.ip()).filter_map(|ip| v4(&ip)).collect();
    outside.sort_unstable();
    outside.dedup();
    if inside.is_empty() && outside.iter().all(Ipv4Addr::is_loopback) {
        return said("no-ipv4", None);
    }
    let no_private = !inside.iter().any(|ip| ip.is_private() || is_shared(*ip));
    if nat.mapping == "none" || no_private || outside.iter().any(|ip| inside.contains(ip)) {
        return said("no-nat", None);
    }
    if inside.iter().any(|ip| is_shared(*ip)) && !inside.iter().any(Ipv4Addr::is_private) {
        return said("yes", Some("shared-address"));
    }
    let router = mapping.external.and_then(|addr| v4(&addr.ip()));
    match router {
        Some(ip) if ip.is_private() || is_shared(ip) => said("yes", Some("router-is-inside")),
        Some(ip) if outside.contains(&ip) => said("no", Some("router-agrees")),
        Some(_) if !outside.is_empty() => said("yes", Some("router-sees-another")),
        Some(_) | None if outside.len() > 1 => said("likely", Some("several-outside")),
        Some(_) | None => said("unknown", None),
    }
}

const fn v4(ip: &IpAddr) -> Option<Ipv4Addr> {
    match ip {
        IpAddr::V4(ip) => Some(*ip),
        IpAddr::V6(_) => None,
    }
}

#[cfg(test)]
#[path = "conclude_tests.rs"]
mod tests;
