//! Whom to have a session with: those for whom there is a reason, and no session.

use alloc::collections::{BTreeMap, BTreeSet};
use alloc::vec::Vec;
use core::net::SocketAddr;
use core::time::Duration;

use super::{ANCHORS, Dialer, View, alone, needs_help, ways};
use crate::id::NodeId;
use crate::membership::{Member, Record};
use crate::nat::NatClass;
use crate::peer::arbiter::Session;
use crate::peer::attempts::Target;
use crate::route::Route;
use crate::time::Time;
use crate::wire::addr::{Scope, scope};

impl Dialer {
    pub(super) fn is_anchor(&self, view: &View<'_>, peer: &NodeId) -> bool {
        view.members.get(peer).is_some_and(|member| self.rank(member.record()) == Some(0))
    }

    /// Whom to have a session with and none is there or coming, most important first.
    pub(super) fn goals(&self, now: Time, view: &View<'_>) -> Vec<Target> {
        let (mut goals, mut seen) = (Vec::new(), BTreeSet::new());
        let mut add = |target: Target| {
            if seen.insert(target) {
                goals.push(target);
            }
        };
        let open = |id: &NodeId| self.is_open(view, id);
        for (peer, _) in self.wanted.iter().filter(|(id, _)| open(id)) {
            add(Target::Peer(*peer));
        }
        self.bootstrap_goals(view).into_iter().for_each(&mut add);
        if view.members.len() < self.full_mesh {
            for peer in view.members.keys().filter(|id| open(id)) {
                add(Target::Peer(*peer));
            }
        } else {
            self.anchor_goals(now, view).into_iter().for_each(&mut add);
        }
        goals
    }

    /// Whether there is neither a connection nor an attempt at one, and somewhere to try.
    fn is_open(&self, view: &View<'_>, peer: &NodeId) -> bool {
        let somewhere = |_: &Member| {
            needs_help(peer, view) || !ways(Target::Peer(*peer), view, Duration::ZERO).is_empty()
        };
        !view.arbiter.is_connected(peer)
            && !self.attempts.under_way(Target::Peer(*peer))
            && view.members.get(peer).is_some_and(somewhere)
    }

    fn bootstrap_goals(&self, view: &View<'_>) -> Vec<Target> {
        let alone = alone(view);
        let usable = self.bootstrap.iter().filter(|a| view.local.can_send_to(**a) && !view.local.is_own(**a));
        let due = usable.filter(|addr| {
            let target = Target::Address(**addr);
            let leads_to = self.targets.get(&target).and_then(|progress| progress.reached);
            let pending =
                self.attempts.under_way(target) || leads_to.is_some_and(|id| view.arbiter.is_connected(&id));
            !pending && (alone || !belongs_to_someone(**addr, leads_to, view))
        });
        due.map(|addr| Target::Address(*addr)).collect()
    }

    fn anchor_goals(&self, now: Time, view: &View<'_>) -> Vec<Target> {
        let public = |id: &NodeId| self.is_anchor(view, id);
        // Only what is reached straight helps when relays fail.
        let straight = |s: &Session| s.route.direct().is_some();
        let have = view.arbiter.sessions().filter(|s| straight(s) && public(&s.peer)).count();
        let may_do = |id: &NodeId| view.members.get(id).is_some_and(|m| self.rank(m.record()).is_some());
        let coming = self.attempts.targets().filter_map(Target::peer).filter(may_do).count();
        let mut missing = ANCHORS.saturating_sub(have + coming);
        if missing == 0 {
            return Vec::new();
        }
        let distances = distances(view);
        let open = view.members.iter().filter(|(id, _)| self.is_open(view, id));
        // Who can only be reached with the help of others is no anchor.
        let open = open.filter(|(id, m)| self.rank(m.record()) == Some(0) || !needs_help(id, view));
        let mut ranked: Vec<_> = open
            .filter_map(|(id, member)| {
                let distance = distances.get(id).copied().unwrap_or(u32::MAX);
                Some((self.rank(member.record())?, distance, self.shuffle(id), *id))
            })
            .collect();
        ranked.sort_unstable();
        // Those that rest are named too, for the sake of the alarm, but do not use up what is missing.
        let resting = |id: &NodeId| {
            self.targets.get(&Target::Peer(*id)).is_some_and(|progress| progress.rests_until > now)
        };
        let wanted = ranked.into_iter().map(|(.., id)| id).filter(|id| {
            let rests = resting(id);
            let take = rests || missing > 0;
            missing -= usize::from(take && !rests);
            take
        });
        wanted.map(Target::Peer).collect()
    }

    /// How suitable as an anchor: 0 if anyone can reach it or this node has, 1 if perhaps, `None` if not.
    fn rank(&self, record: &Record) -> Option<u8> {
        let reached = self.targets.get(&Target::Peer(record.node)).is_some_and(|p| p.reached.is_some());
        let global = || record.candidates.iter().any(|a| scope(a.ip()) == Scope::Global);
        match record.verdict.class() {
            NatClass::Direct | NatClass::FullCone => Some(0),
            _ if reached => Some(0),
            NatClass::Unknown if global() => Some(1),
            NatClass::Unknown | NatClass::RestrictedCone | NatClass::PortRestricted | NatClass::Symmetric => {
                None
            }
        }
    }

    /// An order of ids that is this node's own, so that a mesh does not choose the same anchors throughout.
    fn shuffle(&self, id: &NodeId) -> u64 {
        let head = id.0.iter().take(8).fold(0u64, |acc, byte| acc << 8 | u64::from(*byte));
        let mixed = (head ^ self.salt).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        mixed ^ mixed >> 32
    }
}

/// Whether a bootstrap address is that of a member who can be found without it.
fn belongs_to_someone(addr: SocketAddr, leads_to: Option<NodeId>, view: &View<'_>) -> bool {
    leads_to.is_some_and(|id| view.members.contains_key(&id))
        || view.arbiter.sessions().any(|session| session.route == Route::Direct(addr))
        || view.members.values().any(|m| m.record().candidates.contains(&addr))
}

/// Milliseconds to members this node has no session with, by way of the nearest peer that has one.
fn distances(view: &View<'_>) -> BTreeMap<NodeId, u32> {
    let mut distances = BTreeMap::new();
    for session in view.arbiter.sessions() {
        let first = u32::try_from(session.rtt.as_millis()).unwrap_or(u32::MAX);
        let links = view.members.get(&session.peer).map_or(&[][..], |m| &m.record().links);
        for (id, rtt_ms) in links {
            let sum = first.saturating_add(u32::from(*rtt_ms));
            distances.entry(*id).and_modify(|d: &mut u32| *d = sum.min(*d)).or_insert(sum);
        }
    }
    distances
}
