//! What must come true, from the topology alone: each host's NAT as others experience it, and which pairs
//! can end up direct.
//!
//! The oracle knows the boxes and nothing of links, timers or protocols. It assumes what a good protocol
//! arranges: with a rendezvous both sides know each other's addresses as seen from outside, both fire, and
//! both answer whatever they hear from. It guesses no ports. It leaves out what comes and goes: expiry, full
//! tables, cut links, poisoned NATs; and ports that a router gives to who asks, which is up to the operator.
//!
//! Where both hosts are inside one translator but not in one network, they know only the addresses seen from
//! the public internet, so the outermost translator they share must hairpin.

use net_mesh_proto::nat::{Filtering, Mapping, NatClass, PortRule, Verdict};

use crate::host::HostId;
use crate::internet::Internet;
use crate::nat::{Dependence, Kind, Nat, Pool};
use crate::topology::NatId;

/// What all boxes around a host amount to, for IPv4, as seen from the public internet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Nature {
    /// The composed mapping: the most dependent one of the chain. [`Mapping::None`] without a translator.
    pub mapping: Mapping,
    /// The composed filtering: the strictest one of the chain.
    pub filtering: Filtering,
    /// Preserving if every translator preserves ports, and where there is none; else the rule of the outermost
    /// one that does not.
    pub ports: PortRule,
    /// The familiar name.
    pub class: NatClass,
    /// No UDP passes at all; a node there can learn nothing, and the other fields mean nothing.
    pub udp_blocked: bool,
}

/// The help that a pair has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Means {
    /// Someone tells both sides of each other and when to fire. Without it each side dials the addresses that
    /// the other one publishes, and that must do.
    pub rendezvous: bool,
    /// Someone forwards for them.
    pub relay: bool,
}

/// How a pair can communicate at best.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Reach {
    /// Straight.
    Direct,
    /// Through a third node.
    Relayed,
    /// Not at all.
    None,
}

/// The best a pair can have, and why.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Outlook {
    /// The best.
    pub reach: Reach,
    /// Why, in a sentence.
    pub reason: &'static str,
}

/// One side of a pair: the boxes that are between it and the other side.
#[derive(Clone, Copy, Debug)]
struct Side {
    blocked: bool,
    /// None where nothing translates.
    mapping: Option<Dependence>,
    /// The strictest filter up to the first box with a dependent mapping: an endpoint sent to through any
    /// mapping is admitted through all.
    near: Dependence,
    /// The strictest filter from that box on: each mapping admits only whom it was used for.
    far: Dependence,
    /// A new mapping may show another IP.
    roams: bool,
}

impl Side {
    fn filtering(&self) -> Dependence {
        self.near.max(self.far)
    }

    fn is_symmetric(&self) -> bool {
        self.mapping.is_some_and(|m| m > Dependence::Independent)
    }

    /// Whether anyone may send to an address it can publish.
    fn is_open(&self) -> bool {
        self.filtering() == Dependence::Independent && !self.is_symmetric()
    }
}

/// What the boxes around `host` amount to.
#[must_use]
pub fn actual(net: &Internet, host: HostId) -> Nature {
    let rules = rules(net, &net.nats(host));
    let side = compose(&rules, true);
    let mapping = side.mapping.map_or(Mapping::None, Dependence::mapping);
    let filtering = side.filtering().filtering();
    let translators = rules.iter().filter(|nat| nat.translates()).map(|nat| nat.ports.rule());
    let ports = translators.fold(PortRule::Preserving, |inner, outer| match (inner, outer) {
        (PortRule::Sequential | PortRule::Random, PortRule::Preserving) => inner,
        _ => outer,
    });
    Nature { mapping, filtering, ports, class: NatClass::of(mapping, filtering), udp_blocked: side.blocked }
}

/// Whether `verdict` says nothing about `nature` that is not true. An unknown axis says nothing; "depends on
/// the endpoint" is true of both ways to depend on it.
///
/// # Errors
/// What is wrong, for a failure message.
pub fn check(nature: &Nature, verdict: &Verdict) -> Result<(), String> {
    let mapping = match verdict.mapping {
        Mapping::Unknown => true,
        Mapping::EndpointDependent => {
            matches!(nature.mapping, Mapping::AddressDependent | Mapping::AddressAndPortDependent)
        }
        known => known == nature.mapping,
    };
    let filtering = [Filtering::Unknown, nature.filtering].contains(&verdict.filtering);
    let ports = match verdict.port_rule {
        PortRule::Unknown => true,
        known => known == nature.ports,
    };
    if mapping && filtering && ports && (!nature.udp_blocked || verdict.class() == NatClass::Unknown) {
        return Ok(());
    }
    Err(format!("found {verdict:?}, but really {nature:?}"))
}

/// How `a` and `b` can communicate at best.
#[must_use]
pub fn pair(net: &Internet, a: HostId, b: HostId, means: Means) -> Outlook {
    let families = [true, false].map(|v4| family(net, a, b, v4, means.rendezvous));
    let best = families.into_iter().flatten().min_by_key(|o| o.reach);
    let Some(outlook) = best else {
        return Outlook { reach: Reach::None, reason: "they have no address family in common" };
    };
    match outlook.reach {
        Reach::Direct => outlook,
        Reach::Relayed if means.relay => outlook,
        Reach::Relayed | Reach::None => Outlook { reach: Reach::None, ..outlook },
    }
}

fn family(net: &Internet, a: HostId, b: HostId, v4: bool, rendezvous: bool) -> Option<Outlook> {
    let has = |host| net.ips(host).iter().any(|ip| ip.is_ipv4() == v4);
    if !has(a) || !has(b) {
        return None;
    }
    let (of_a, of_b) = (net.nats(a), net.nats(b));
    let shared = of_a.iter().rev().zip(of_b.iter().rev()).take_while(|(x, y)| x == y).count();
    let (own_a, own_b) = (&of_a[..of_a.len() - shared], &of_b[..of_b.len() - shared]);
    let common = rules(net, &of_a[of_a.len() - shared..]);
    let near = [compose(&rules(net, own_a), v4), compose(&rules(net, own_b), v4)];
    Some(if own_a.is_empty() && own_b.is_empty() {
        direct(if shared == 0 { "both are on the public internet" } else { "both are in one network" })
    } else if own_a.is_empty() || own_b.is_empty() {
        inside_one(near)
    } else if common.iter().any(|nat| nat.kind == Kind::UdpBlock) {
        none("UDP is blocked around both, so nobody tells them their addresses")
    } else if let Some(turn) = common.iter().rposition(|nat| v4 && nat.translates()) {
        if common[turn].hairpin {
            // Packets turn at that box and meet nothing beyond it.
            let far = [own_a, own_b].map(|own| [rules(net, own), common[..=turn].to_vec()].concat());
            judge(far.map(|rules| compose(&rules, v4)), rendezvous)
        } else {
            relayed("they share a translator that does not hairpin, and know no nearer address")
        }
    } else {
        judge(near, rendezvous)
    })
}

/// One is in a network that the other one's boxes stand in: it is reached at its interface's address.
fn inside_one(sides: [Side; 2]) -> Outlook {
    if sides.iter().any(|side| side.blocked) {
        return none("UDP is blocked on one side");
    }
    direct("one side needs no box to be reached by the other, which dials it or is asked to")
}

fn judge(sides: [Side; 2], rendezvous: bool) -> Outlook {
    if sides.iter().any(|side| side.blocked) {
        return none("UDP is blocked on one side");
    }
    if sides.iter().any(Side::is_open) {
        return direct("one side admits anyone at an address it can publish");
    }
    if !rendezvous {
        return relayed("neither side admits a stranger, and nobody introduces them");
    }
    match sides {
        [cone, symmetric] | [symmetric, cone] if !cone.is_symmetric() && symmetric.is_symmetric() => {
            one_symmetric(cone, symmetric)
        }
        [a, b] if settles(a, b) || settles(b, a) => {
            direct("one filter admits strangers, the other any port, and one mapping holds for a whole IP")
        }
        [a, _] if a.is_symmetric() => {
            relayed("both sides are symmetric: neither knows the address that the other one will have")
        }
        _ => direct("both keep one external address, so both can open their filters for it"),
    }
}

fn one_symmetric(cone: Side, symmetric: Side) -> Outlook {
    match (cone.filtering(), symmetric.roams) {
        (Dependence::Independent, _) => direct("one side admits anyone at an address it can publish"),
        (Dependence::Address, false) => {
            direct("the symmetric side's port is unknown, but the other filter asks for its IP only")
        }
        (Dependence::Address, true) => {
            relayed("the symmetric side's next IP is unknown, and the other filter asks for it")
        }
        (Dependence::AddressAndPort, _) => {
            relayed("the symmetric side's next port is unknown, and the other filter asks for it")
        }
    }
}

/// Whether two symmetric sides get through, `x` being the one that hears the other first.
///
/// `y` sends to the address that `x` published, from a new one, y1. That must be let in: `x` admits anyone to
/// its mappings, and what stands before those knows the IP of `y`. `x` answers from a new address, x1: `y`
/// must admit any port of an IP that it sent to, and `x` must have kept its IP. From here `y` sends to x1: the
/// same mapping still, if `y` keeps one per IP; else from y2, which `x` answers from x1 again if *it* keeps
/// one per IP and y2 is on the same IP as y1. Otherwise addresses change for ever.
fn settles(x: Side, y: Side) -> bool {
    let keeps_per_ip = |side: Side| side.mapping == Some(Dependence::Address);
    let hears = x.far == Dependence::Independent
        && match x.near {
            Dependence::Independent => true,
            Dependence::Address => !y.roams,
            Dependence::AddressAndPort => false,
        };
    let is_heard = !x.roams && y.filtering() <= Dependence::Address;
    let stays = keeps_per_ip(y) || (keeps_per_ip(x) && !y.roams);
    x.is_symmetric() && y.is_symmetric() && hears && is_heard && stays
}

const fn direct(reason: &'static str) -> Outlook {
    Outlook { reach: Reach::Direct, reason }
}

const fn relayed(reason: &'static str) -> Outlook {
    Outlook { reach: Reach::Relayed, reason }
}

const fn none(reason: &'static str) -> Outlook {
    Outlook { reach: Reach::None, reason }
}

fn rules(net: &Internet, nats: &[NatId]) -> Vec<Nat> {
    nats.iter().map(|nat| net.topology.gate(*nat).table.rule().clone()).collect()
}

fn compose(rules: &[Nat], v4: bool) -> Side {
    let least = Dependence::Independent;
    let mut side = Side { blocked: false, mapping: None, near: least, far: least, roams: false };
    for nat in rules {
        side.blocked |= nat.kind == Kind::UdpBlock;
        if v4 && nat.translates() {
            side.mapping = side.mapping.max(Some(nat.mapping));
            side.roams |= side.is_symmetric() && matches!(nat.pool, Pool::Arbitrary(n) if n > 1);
        }
        let scope = if side.is_symmetric() { &mut side.far } else { &mut side.near };
        *scope = nat.filtering.max(*scope);
    }
    side
}

#[cfg(test)]
mod tests;
