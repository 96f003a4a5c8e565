//! Which single change would make most pairs of the mesh direct?
//!
//! For every pair of members it is known from their records whether there is a [plan](super::plan) for it. What
//! would be, if one of them were another, follows from the same function, so nothing here knows a NAT by name.
//!
//! A pair is *direct* if either names a direct link with the other, or both have a family in common and there is a plan;
//! *undecided* if a plan is only tried for want of a verdict; else *relayed*. What is counted is what could be: in a large
//! mesh most pairs have no session.
//!
//! **Cost.** Members are alike if their NATs behave alike and they have the same families, so a table
//! of kinds takes the place of the pairs: at most [`KINDS`] squared calls for a plan, whoever is in the mesh.
//! Members that share an outside IPv4 address are the exception, since they meet in their own network. Those are
//! counted by site, at a cost that grows with the members that share an address and differ in others. Links are an exception, too,
//! and few.
//!
//! It refuses nothing: records say what they like, and a lie costs the liar advice.

use alloc::collections::{BTreeMap, BTreeSet};
use alloc::vec;
use alloc::vec::Vec;
use core::cmp::Reverse;
use core::net::{IpAddr, Ipv4Addr, SocketAddr};

use super::plan::{Side, plans};
use crate::id::NodeId;
use crate::membership::VerdictSummary;
use crate::nat::{Filtering, Mapping, NatClass, PortRule};
use crate::wire::addr::{Scope, scope};

/// Kinds there can be at most: those of mapping, of filtering, and of families. Bounds the table.
pub const KINDS: usize = 6 * 4 * 4;

/// Changes named at most, best first: an operator makes one and looks again.
pub const MAX_CHANGES: usize = 5;

/// Outside IPv4 addresses of one member that are looked at. A NAT with a pool shows a few; more would let members
/// that claim each other's make the counting long.
const MAX_OUTSIDE: usize = 4;

/// Members at public addresses that a classification needs.
const HELPERS: usize = 2;

/// What is known of one member, as its record says it.
#[derive(Clone, Copy, Debug)]
pub struct About<'a> {
    /// Who.
    pub node: NodeId,
    /// What its NAT does, or what others experience where it has a port mapping.
    pub verdict: VerdictSummary,
    /// Where it may be reached.
    pub candidates: &'a [SocketAddr],
    /// With whom it has a direct session, and the round-trip time, which does not matter here.
    pub links: &'a [(NodeId, u16)],
}

/// One thing that an operator can do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Change {
    /// Have the router of this member give it a port, or the member a public address.
    OpenRouter(NodeId),
    /// Let strangers' UDP in at the firewall of this member, which is behind no NAT.
    OpenFirewall(NodeId),
    /// Give this member, which has none, a public IPv4 address.
    GiveIpv4(NodeId),
    /// Give this member an IPv6 address.
    GiveIpv6(NodeId),
    /// Have another member at a public address, so that all can find out what their NATs do.
    AddPublicMember,
}

/// A change, and what it would do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Suggestion {
    /// What to do.
    pub change: Change,
    /// Pairs that are not direct and then would be. For [`Change::AddPublicMember`], pairs of which it would then be
    /// known.
    pub pairs: u64,
    /// Other members at which the same would do as much.
    pub others: u64,
}

/// The pairs of the mesh, and what would help.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Advice {
    /// Members.
    pub members: u64,
    /// Pairs that can be direct.
    pub direct: u64,
    /// Pairs of which it is not known.
    pub undecided: u64,
    /// Pairs that cannot.
    pub relayed: u64,
    /// Members that anyone can reach over IPv4 or IPv6.
    pub open: u64,
    /// The changes that help, best first; at most [`MAX_CHANGES`], of each sort and number of pairs one.
    pub suggestions: Vec<Suggestion>,
}

/// What two members can be to each other, best first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fate {
    Direct = 0,
    Undecided = 1,
    Relayed = 2,
}

/// All that matters of a member but where it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Kind {
    mapping: Mapping,
    filtering: Filtering,
    v4: bool,
    v6: bool,
}

impl Kind {
    fn of(about: &About<'_>) -> Self {
        let global_v6 = |addr: &SocketAddr| addr.is_ipv6() && scope(addr.ip()) == Scope::Global;
        Self {
            mapping: about.verdict.mapping,
            filtering: about.verdict.filtering,
            v4: about.candidates.iter().any(SocketAddr::is_ipv4),
            v6: about.candidates.iter().any(global_v6),
        }
    }

    const fn summary(self) -> VerdictSummary {
        let (mapping, filtering) = (self.mapping, self.filtering);
        VerdictSummary { mapping, filtering, port_rule: PortRule::Unknown, confidence: 100 }
    }

    const fn class(self) -> NatClass {
        NatClass::of(self.mapping, self.filtering)
    }

    const fn is_open(self) -> bool {
        matches!(self.class(), NatClass::Direct | NatClass::FullCone)
    }

    /// What it is like to have been given a port, or a public address.
    const fn opened(self) -> Self {
        let (mapping, filtering) = (Mapping::EndpointIndependent, Filtering::EndpointIndependent);
        Self { mapping, filtering, ..self }
    }

    fn with(self, other: Self) -> Fate {
        // Plans look at addresses only to see who is near whom, and who has IPv6; these are of nobody near.
        let v6: [SocketAddr; 1] = [SocketAddr::new(IpAddr::from([0x2001, 0xdb8, 0, 0, 0, 0, 0, 1]), 1)];
        let candidates = |kind: Self| if kind.v6 { &v6[..] } else { &[] };
        let side = |kind: Self| Side { verdict: kind.summary(), candidates: candidates(kind) };
        let both_v6 = self.v6 && other.v6;
        let both_v4 = self.v4 && other.v4;
        if !both_v4 && !both_v6 {
            return Fate::Relayed;
        }
        let unknown = |kind: Self| kind.class() == NatClass::Unknown;
        let sure = both_v6 || self.is_open() || other.is_open();
        let undecided = !sure && (unknown(self) || unknown(other));
        match plans(&side(self), &side(other)) {
            Err(_) => Fate::Relayed,
            Ok(_) if undecided => Fate::Undecided,
            Ok(_) => Fate::Direct,
        }
    }
}

/// How many members there are of each kind.
type Counts = Vec<u64>;

/// Who shares an outside IPv4 address with whom.
struct Sites {
    /// For each member, the number of its set of addresses; `None` without any.
    of_member: Vec<Option<usize>>,
    /// For each set, the members of each kind that share an address with it, itself included.
    near: Vec<Counts>,
}

impl Sites {
    fn new(members: &[About<'_>], kinds: usize, of_kind: &[usize]) -> Self {
        let mut numbers: BTreeMap<Vec<Ipv4Addr>, usize> = BTreeMap::new();
        let mut holds: Vec<Counts> = Vec::new();
        let mut of_member = Vec::new();
        for (about, kind) in members.iter().zip(of_kind) {
            let ips = outside(about);
            let set = (!ips.is_empty()).then(|| {
                let next = numbers.len();
                *numbers.entry(ips).or_insert(next)
            });
            if let Some(set) = set {
                holds.resize_with(numbers.len(), || vec![0; kinds]);
                holds[set][*kind] += 1;
            }
            of_member.push(set);
        }
        let mut at: BTreeMap<Ipv4Addr, Vec<usize>> = BTreeMap::new();
        for (ips, set) in &numbers {
            ips.iter().for_each(|ip| at.entry(*ip).or_default().push(*set));
        }
        let mut near = vec![Vec::new(); holds.len()];
        let mut counted_for = vec![usize::MAX; holds.len()];
        for (ips, set) in &numbers {
            let mut counts = vec![0; kinds];
            for neighbour in ips.iter().filter_map(|ip| at.get(ip)).flatten() {
                if core::mem::replace(&mut counted_for[*neighbour], *set) != *set {
                    counts.iter_mut().zip(&holds[*neighbour]).for_each(|(sum, held)| *sum += held);
                }
            }
            near[*set] = counts;
        }
        Self { of_member, near }
    }

    /// The members near the `n`th one by kind, itself included; `None` where it has no outside address.
    fn near(&self, n: usize) -> Option<&Counts> {
        Some(&self.near[self.of_member[n]?])
    }
}

/// The outside IPv4 addresses of a member, each once; at most [`MAX_OUTSIDE`].
fn outside(about: &About<'_>) -> Vec<Ipv4Addr> {
    let global = about.candidates.iter().filter(|addr| scope(addr.ip()) == Scope::Global);
    let v4 = global.filter_map(|addr| match addr.ip() {
        IpAddr::V4(ip) => Some(ip),
        IpAddr::V6(_) => None,
    });
    v4.take(MAX_OUTSIDE).collect::<BTreeSet<_>>().into_iter().collect()
}

/// For each member, those it has a direct link with without being near them, by number; whoever of the two names it.
fn linked(members: &[About<'_>]) -> Vec<Vec<usize>> {
    let numbers: BTreeMap<NodeId, usize> = members.iter().enumerate().map(|(n, m)| (m.node, n)).collect();
    let sites: Vec<Vec<Ipv4Addr>> = members.iter().map(outside).collect();
    let are_near = |a: usize, b: usize| sites[a].iter().any(|ip| sites[b].contains(ip));
    let mut linked = vec![Vec::new(); members.len()];
    for (n, about) in members.iter().enumerate() {
        for other in about.links.iter().filter_map(|(peer, _)| numbers.get(peer).copied()) {
            if other != n && !are_near(n, other) {
                linked[n].push(other);
                linked[other].push(n);
            }
        }
    }
    for links in &mut linked {
        links.sort_unstable();
        links.dedup();
    }
    linked
}

/// The members by kind, and what kinds are to each other.
struct Table<'a> {
    members: &'a [About<'a>],
    kinds: Vec<Kind>,
    counts: Counts,
    of_member: Vec<usize>,
    sites: Sites,
    linked: Vec<Vec<usize>>,
}

impl<'a> Table<'a> {
    fn new(members: &'a [About<'a>]) -> Self {
        let all: Vec<Kind> = members.iter().map(Kind::of).collect();
        let kinds: Vec<Kind> = all.iter().copied().collect::<BTreeSet<_>>().into_iter().collect();
        let of_member: Vec<usize> = all.iter().filter_map(|kind| kinds.binary_search(kind).ok()).collect();
        let mut counts = vec![0; kinds.len()];
        of_member.iter().for_each(|kind| counts[*kind] += 1);
        let sites = Sites::new(members, kinds.len(), &of_member);
        Self { members, kinds, counts, of_member, sites, linked: linked(members) }
    }

    /// The other members of each kind that neither are near the `n`th one nor have a link with it, and how many do.
    fn others(&self, n: usize) -> (Counts, u64) {
        let mut far = self.counts.clone();
        let mut near = 0;
        match self.sites.near(n) {
            None => far[self.of_member[n]] -= 1,
            Some(counts) => {
                far.iter_mut().zip(counts).for_each(|(far, near)| *far -= near);
                near = counts.iter().sum::<u64>() - 1;
            }
        }
        self.linked[n].iter().for_each(|other| far[self.of_member[*other]] -= 1);
        (far, near + self.linked[n].len() as u64)
    }

    /// What each kind, after `change`, is to each kind as it is.
    fn fates(&self, change: impl Fn(Kind) -> Kind) -> Vec<Vec<Fate>> {
        let row = |kind: &Kind| self.kinds.iter().map(|other| change(*kind).with(*other)).collect();
        self.kinds.iter().map(row).collect()
    }

    /// Counts the pairs of one sort and another.
    fn pairs(&self, now: &[Vec<Fate>]) -> Advice {
        let mut twice = [0; 3];
        for (n, kind) in self.of_member.iter().enumerate() {
            let (far, near) = self.others(n);
            twice[Fate::Direct as usize] += near;
            far.iter().zip(&now[*kind]).for_each(|(count, fate)| twice[*fate as usize] += count);
        }
        // Each pair was seen from both its ends.
        let [direct, undecided, relayed] = twice.map(|pairs| pairs / 2);
        let open = self.kinds.iter().zip(&self.counts).filter(|(kind, _)| kind.is_open());
        let open = open.map(|(_, count)| count).sum();
        let members = self.members.len() as u64;
        Advice { members, direct, undecided, relayed, open, suggestions: Vec::new() }
    }

    /// The best members for a change, by the number of pairs it would turn direct there.
    fn best(
        &self,
        now: &[Vec<Fate>],
        after: &[Vec<Fate>],
        name: impl Fn(Kind, NodeId) -> Change,
    ) -> Vec<Suggestion> {
        let mut best: BTreeMap<u64, Suggestion> = BTreeMap::new();
        for (n, (about, kind)) in self.members.iter().zip(&self.of_member).enumerate() {
            let (far, _) = self.others(n);
            let fates = now[*kind].iter().zip(&after[*kind]);
            let turned = |((_, (before, after)), count): ((usize, (&Fate, &Fate)), &u64)| {
                if *before != Fate::Direct && *after == Fate::Direct { *count } else { 0 }
            };
            let pairs = fates.enumerate().zip(&far).map(turned).sum();
            if pairs > 0 {
                let change = name(self.kinds[*kind], about.node);
                best.entry(pairs).and_modify(|suggestion| suggestion.others += 1).or_insert(Suggestion {
                    change,
                    pairs,
                    others: 0,
                });
            }
        }
        best.into_values().rev().take(MAX_CHANGES).collect()
    }
}

/// What the members could be to each other, and the changes that would help most. `members` are all, this node
/// included; of members at which a change would do equally much the first is named.
#[must_use]
pub fn advise(members: &[About<'_>]) -> Advice {
    let table = Table::new(members);
    let now = table.fates(|kind| kind);
    let mut advice = table.pairs(&now);
    let open = |kind: Kind, node| match kind.mapping {
        Mapping::None => Change::OpenFirewall(node),
        _ => Change::OpenRouter(node),
    };
    let mut suggestions = table.best(&now, &table.fates(Kind::opened), open);
    let v4 = |kind: Kind| if kind.v4 { kind } else { Kind { v4: true, ..kind.opened() } };
    suggestions.extend(table.best(&now, &table.fates(v4), |_, node| Change::GiveIpv4(node)));
    let v6 = |kind| Kind { v6: true, ..kind };
    suggestions.extend(table.best(&now, &table.fates(v6), |_, node| Change::GiveIpv6(node)));
    if advice.undecided > 0 && helpers(members) < HELPERS {
        suggestions.push(Suggestion { change: Change::AddPublicMember, pairs: advice.undecided, others: 0 });
    }
    // Most pairs first; of equals the one that is easier to do.
    suggestions.sort_by_key(|s| (Reverse(s.pairs), effort(s.change)));
    suggestions.truncate(MAX_CHANGES);
    advice.suggestions = suggestions;
    advice
}

/// What asks for less first.
const fn effort(change: Change) -> u8 {
    match change {
        Change::OpenRouter(_) | Change::OpenFirewall(_) => 0,
        Change::AddPublicMember => 1,
        Change::GiveIpv4(_) | Change::GiveIpv6(_) => 2,
    }
}

/// Members that can help others to classify themselves: at public addresses of their own, or of whom it is not known.
fn helpers(members: &[About<'_>]) -> usize {
    let public = |about: &&About<'_>| {
        let class = about.verdict.class();
        let no_nat = about.verdict.mapping == Mapping::None || class == NatClass::FullCone;
        no_nat && about.candidates.iter().any(|addr| scope(addr.ip()) == Scope::Global)
    };
    members.iter().filter(public).count()
}

#[cfg(test)]
#[path = "advice_tests.rs"]
mod tests;
