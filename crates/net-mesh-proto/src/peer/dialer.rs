//! Whom to dial, and when?
//!
//! Reasons, in this order when attempts are short:
//! 1. **wanted**: there is traffic for the peer, or was within the last [`WANT_FOR`];
//! 2. **bootstrap**: the addresses to start from, as long as there is no session at all. Those among them that
//!    belong to nobody known are also tried later, ever more rarely, down to every [`STRAY_EVERY`]: they may lead to a
//!    part of the mesh that is cut off from this one;
//! 3. **small mesh**: up to [`SMALL_MESH`] members, everyone;
//! 4. **anchors**: [`ANCHORS`] sessions to members that anyone can reach, nearest first.
//!
//! Where a member is tried, and whether this node or the member begins, is the business of `ways`. An attempt
//! goes all ways that it names at once; what it names later gets further attempts at once (see `attempts`), for a node that has just started tells its reflexive
//! address a round trip after its private ones, and an attempt at those lasts for seconds. One success is a
//! success; the target has failed when the last attempt has.
//!
//! After a failure a target rests, 1 s doubling to [`MAX_BACKOFF`] with a quarter of jitter; for wanted
//! peers the first few rests are fractions of a second, since an attempt also opens one's own filter, and
//! two ends that want each other must overlap. A rest ends early when the record's addresses or verdict
//! change, when the peer connects to us, or when this node's network changes.
//!
//! In a mesh above [`SMALL_MESH`] a session that this node opened is closed again when nothing was said in it for
//! [`IDLE_AFTER`], unless it is one of the [`ANCHORS`], carries circuits, or its peer is wanted. Only who opened it
//! closes it: for the other side it may be an anchor.
//!
//! At most [`MAX_DIALS`] attempts are under way; rests are remembered for [`MAX_TARGETS`] targets, wishes for
//! [`MAX_WANTED`] peers, and the oldest are forgotten first.

mod goals;
mod starts;

use alloc::collections::BTreeMap;
use alloc::vec::Vec;
use core::net::SocketAddr;
use core::time::Duration;

use super::arbiter::{Arbiter, Session};
use super::attempts::{Attempts, Ended, Target};
pub use super::attempts::{MAX_DIALS, MAX_FURTHER};
use super::local::Local;
use super::ways::{self, GRACE, Help, RELAY_AFTER, Way};
use crate::bounded::BoundedMap;
use crate::id::NodeId;
use crate::membership::{MAX_MEMBERS, Member};
use crate::node::{ConnId, DialFailure, DialId, Direction};
use crate::outbox::Outbox;
use crate::rng::Rng;
use crate::time::{Deadline, Time};
pub use starts::{Start, StartState};

/// How long a peer stays wanted after the last sign of traffic for it. Longer than the longest rest would
/// allow an attempt to come for it; shorter than an idle connection is worth opening anew.
pub const WANT_FOR: Duration = Duration::from_secs(60);

/// Peers wanted at once. Every publisher wants its subscribers, so this is the members' bound.
pub const MAX_WANTED: usize = MAX_MEMBERS;

/// Members, this node included, up to which everyone keeps a session with everyone, unless the node is told
/// otherwise ([`Config::full_mesh`](crate::node::Config::full_mesh)).
pub const SMALL_MESH: usize = 8;

/// Sessions kept to members that anyone can reach. One may fail and one may be far away, and there are
/// still two helpers on different addresses nearby: what classification needs.
pub const ANCHORS: usize = 3;

/// How long a session that nobody needs stays open. A session costs 50 KB and a few packets a minute; opening one
/// costs three round trips and a millisecond of processor time.
pub const IDLE_AFTER: Duration = Duration::from_secs(120);

/// The longest rest between two attempts.
pub const MAX_BACKOFF: Duration = Duration::from_secs(60);

/// How often addresses to start from that belong to nobody known are tried while there are sessions, at last.
pub const STRAY_EVERY: Duration = Duration::from_secs(300);

/// How long until that is done for the first time after an attempt that did not fail; it doubles with each failure. Two members
/// that restarted at once, or after a cut, are a mesh of their own until one of them does.
const STRAY_FIRST: Duration = Duration::from_secs(10);

/// Targets whose rests are remembered.
pub const MAX_TARGETS: usize = MAX_MEMBERS + MAX_BOOTSTRAP;

/// Addresses to start from.
pub const MAX_BOOTSTRAP: usize = 64;

/// Between two calls for a rendezvous with a peer that there is no other way to. How often one is really
/// made is decided there.
const SEEK_AGAIN: Duration = Duration::from_secs(2);

/// The first rest.
const MIN_BACKOFF: Duration = Duration::from_secs(1);

/// Failures after which a wanted peer is treated like any other.
const EAGER_ATTEMPTS: u32 = 3;

/// The rest after each of those, before jitter.
const EAGER_BACKOFF: Duration = Duration::from_millis(250);

/// After a lost session: up to this long, so that both ends, and all who lost the same node, do not fall on
/// it in one instant.
const AFTER_LOSS: Duration = Duration::from_millis(500);

/// Between two looks at the whole: changes come in bursts, and a look costs as much as there are members.
const LOOK_PAUSE: Duration = Duration::from_millis(20);

/// An attempt that the driver has not answered for by then is forgotten. Drivers give up far sooner.
const DIAL_LIMIT: Duration = Duration::from_secs(60);

/// What the dialer tells the node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// Open a connection.
    Dial {
        /// The name of the attempt.
        dial: DialId,
        /// Who must answer.
        peer: Option<NodeId>,
        /// Which ways.
        ways: Vec<Way>,
    },
    /// Look for a direct way to a member that cannot simply be dialled.
    Seek(NodeId),
    /// Close a connection that nobody needs.
    Close(ConnId),
    /// An attempt failed.
    Failed {
        /// Who was meant.
        peer: Option<NodeId>,
        /// The addresses it was tried at.
        addrs: Vec<SocketAddr>,
        /// Why it failed.
        failure: DialFailure,
    },
}

/// What the dialer looks at to decide.
#[derive(Clone, Copy, Debug)]
pub struct View<'a> {
    /// This node's place in the network.
    pub local: &'a Local,
    /// The other members.
    pub members: &'a BTreeMap<NodeId, Member>,
    /// The connections there are.
    pub arbiter: &'a Arbiter,
    /// What others can do for this node.
    pub help: &'a dyn Help,
    /// This node.
    pub me: NodeId,
}

#[derive(Clone, Copy, Debug, Default)]
struct Progress {
    failures: u32,
    rests_until: Time,
    /// When it was last tried.
    tried: Option<Time>,
    /// Who answered an attempt of ours there.
    reached: Option<NodeId>,
    /// Since when it is left to the other side to begin.
    deferred: Option<Time>,
    /// Who answered the last attempt is no member, or does not take this node for one.
    refused: bool,
    /// It is this node.
    itself: bool,
}

/// The dialling machine of one node.
#[derive(Debug)]
pub struct Dialer {
    bootstrap: Vec<SocketAddr>,
    attempts: Attempts,
    targets: BoundedMap<Target, Progress>,
    wanted: BoundedMap<NodeId, Time>,
    /// When there was last something said in the sessions.
    used: BoundedMap<NodeId, Time>,
    look_at: Option<Time>,
    last_look: Option<Time>,
    full_mesh: usize,
    salt: u64,
    rng: Rng,
}

impl Dialer {
    /// A machine that starts from the addresses `bootstrap`, of which the first [`MAX_BOOTSTRAP`] count, and
    /// keeps sessions with everyone as long as there are at most `full_mesh` members, itself included.
    #[must_use]
    pub fn new(mut rng: Rng, bootstrap: &[SocketAddr], full_mesh: usize) -> Self {
        Self {
            bootstrap: bootstrap.iter().take(MAX_BOOTSTRAP).copied().collect(),
            attempts: Attempts::default(),
            targets: BoundedMap::new(MAX_TARGETS),
            wanted: BoundedMap::new(MAX_WANTED),
            used: BoundedMap::new(MAX_MEMBERS),
            look_at: None,
            last_look: None,
            full_mesh,
            salt: rng.u64(),
            rng,
        }
    }

    /// Starts from `addrs` from now on, of which the first [`MAX_BOOTSTRAP`] count. What was begun goes on.
    pub fn set_bootstrap(&mut self, now: Time, addrs: &[SocketAddr]) {
        self.bootstrap = addrs.iter().take(MAX_BOOTSTRAP).copied().collect();
        self.look_soon(now);
    }

    /// There is something to say to `peer`.
    pub fn want(&mut self, now: Time, peer: NodeId) {
        if self.wanted.get(&peer).is_none_or(|until| *until <= now) {
            self.refresh(now, Target::Peer(peer));
        }
        self.wanted.insert(peer, now + WANT_FOR);
        self.look_soon(now);
    }

    /// Whether there was something to say to `peer` within [`WANT_FOR`].
    #[must_use]
    pub fn is_wanted(&self, now: Time, peer: &NodeId) -> bool {
        self.wanted.get(peer).is_some_and(|until| *until > now)
    }

    /// Attempts at `peer` that have failed in a row.
    #[must_use]
    pub fn failures(&self, peer: &NodeId) -> u32 {
        self.targets.get(&Target::Peer(*peer)).map_or(0, |progress| progress.failures)
    }

    /// Whether an attempt at `peer` is under way.
    #[must_use]
    pub fn is_trying(&self, peer: &NodeId) -> bool {
        self.attempts.under_way(Target::Peer(*peer))
    }

    /// A connection to `peer` came up, straight or through others, from the attempt `dial` where this node
    /// opened it.
    pub fn connected(
        &mut self,
        now: Time,
        peer: NodeId,
        direction: Direction,
        dial: Option<DialId>,
        straight: bool,
    ) {
        let reached = straight.then_some(peer);
        if let Some(ended) = dial.and_then(|dial| self.attempts.end(dial)) {
            self.attempts.settle(ended.target);
            self.update(ended.target, |p| {
                (p.failures, p.rests_until) = (0, now + MIN_BACKOFF);
                p.reached = reached.or(p.reached);
            });
        }
        self.attempts.settle(Target::Peer(peer));
        match direction {
            Direction::Outgoing => {
                self.update(Target::Peer(peer), |p| p.reached = reached.or(p.reached));
            }
            // Its packets come through, so ours may: what failed before is no reason to wait any more.
            Direction::Incoming => {
                if let Some(p) = self.targets.get_mut(&Target::Peer(peer)) {
                    (p.failures, p.rests_until) = (0, p.rests_until.min(now + MIN_BACKOFF));
                }
            }
        }
        self.look_soon(now);
    }

    /// The attempt `dial` found this node itself: an address to start from that is its own.
    pub fn dialled_self(&mut self, now: Time, dial: Option<DialId>) {
        if let Some(ended) = dial.and_then(|dial| self.attempts.end(dial)) {
            self.update(ended.target, |p| (p.rests_until, p.itself) = (now + STRAY_EVERY, true));
        }
        self.look_soon(now);
    }

    /// Something was said in the session with `peer`.
    pub fn used(&mut self, now: Time, peer: NodeId) {
        self.used.insert(peer, now);
    }

    /// The circuit that the attempt `dial` went over has ended before anything came of it: another one may do.
    pub fn circuit_lost(&mut self, now: Time, dial: DialId) {
        if let Some(Ended { target, last: true, .. }) = self.attempts.end(dial) {
            self.fail(now, target);
        }
        self.look_soon(now);
    }

    /// `peer` may now be found where it was not before: what failed is no reason to wait any more.
    pub fn found(&mut self, now: Time, peer: NodeId) {
        self.refresh(now, Target::Peer(peer));
        self.look_soon(now);
    }

    /// There is a session with `peer`.
    pub fn session_up(&mut self, now: Time, peer: NodeId) {
        self.used.insert(peer, now);
        self.update(Target::Peer(peer), |p| p.deferred = None);
        self.refresh(now, Target::Peer(peer));
        self.look_soon(now);
    }

    /// There is no session with `peer` any more.
    pub fn session_down(&mut self, now: Time, peer: NodeId) {
        self.used.remove(&peer);
        let rest = AFTER_LOSS.mul_f64(self.rng.unit());
        self.update(Target::Peer(peer), |p| (p.failures, p.rests_until) = (0, now + rest));
        self.look_soon(now);
    }

    /// A connection to `peer` ended before it was a session.
    pub fn connection_lost(&mut self, now: Time, peer: NodeId) {
        self.fail(now, Target::Peer(peer));
        self.look_soon(now);
    }

    /// An attempt failed.
    pub fn dial_failed(&mut self, now: Time, dial: DialId, failure: DialFailure, out: &mut Outbox<Event>) {
        if let Some(Ended { target, ways, last }) = self.attempts.end(dial) {
            if last {
                self.fail(now, target);
                self.update(target, |progress| progress.refused = failure == DialFailure::Rejected);
            }
            self.look_soon(now);
            let addrs = ways.into_iter().filter_map(Way::addr).collect();
            out.event(Event::Failed { peer: target.peer(), addrs, failure });
        }
    }

    /// This node's network changed: what failed before may work now.
    pub fn network_changed(&mut self, now: Time) {
        for (_, progress) in self.targets.iter_mut() {
            (progress.failures, progress.rests_until, progress.itself) = (0, now, false);
        }
        self.look_soon(now);
    }

    /// The record of `peer` is new or changed; `reachability` if in its addresses or verdict.
    pub fn member_changed(&mut self, now: Time, peer: NodeId, reachability: bool) {
        if reachability {
            self.refresh(now, Target::Peer(peer));
            self.look_soon(now);
        }
    }

    /// `peer` is no member any more.
    pub fn member_gone(&mut self, now: Time, peer: NodeId) {
        self.attempts.settle(Target::Peer(peer));
        self.targets.remove(&Target::Peer(peer));
        self.look_soon(now);
    }

    /// Looks for nobody until something happens again.
    pub fn stop(&mut self) {
        self.look_at = None;
    }

    /// Attempts under way, for bounds.
    #[must_use]
    pub fn attempts(&self) -> usize {
        self.attempts.len()
    }

    /// When [`Self::handle_timeout`] has something to do.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<Deadline> {
        self.look_at.map(|at| Deadline::new(at, "see whom to dial"))
    }

    /// Dials whom it is time to dial.
    pub fn handle_timeout(&mut self, now: Time, view: View<'_>, out: &mut Outbox<Event>) {
        if self.look_at.is_none_or(|at| at > now) {
            return;
        }
        self.last_look = Some(now);
        self.give_up_on_old_attempts(now);
        self.wanted.retain(|_, until| *until > now);
        let mut next: Option<Time> = None;
        if view.local.is_known() {
            self.follow_up(now, &view, out);
            for target in self.goals(now, &view) {
                let rests_until =
                    self.rests_until(target, &view).max(self.deferred_until(now, target, &view));
                if rests_until > now {
                    next = Some(next.map_or(rests_until, |next| next.min(rests_until)));
                } else if !self.attempts.is_full() {
                    self.begin(now, target, &view, out);
                }
            }
        }
        let idle = self.close_idle(now, &view, out);
        let started = self.attempts.oldest().map(|started| started + DIAL_LIMIT);
        let relays = self.attempts.targets().map(|t| self.attempts.trying_for(now, t));
        let relays =
            relays.filter(|tried| *tried < RELAY_AFTER).map(|tried| now + (RELAY_AFTER - tried)).min();
        let next = next.into_iter().chain(started).chain(relays).chain(idle).min();
        self.look_at = next.map(|at| at.max(now + LOOK_PAUSE));
    }

    fn look_soon(&mut self, now: Time) {
        let at = self.last_look.map_or(now, |last| now.max(last + LOOK_PAUSE));
        self.look_at = Some(self.look_at.map_or(at, |already| already.min(at)));
    }

    fn update(&mut self, target: Target, change: impl FnOnce(&mut Progress)) {
        let mut progress = self.targets.get(&target).copied().unwrap_or_default();
        change(&mut progress);
        self.targets.insert(target, progress);
    }

    fn rests_until(&self, target: Target, view: &View<'_>) -> Time {
        let Some(progress) = self.targets.get(&target) else { return Time::ZERO };
        let stray = target.peer().is_none() && !alone(view);
        let often = STRAY_FIRST.saturating_mul(1 << progress.failures.min(5)).min(STRAY_EVERY);
        let pause = progress.tried.filter(|_| stray).map_or(Time::ZERO, |tried| tried + often);
        progress.rests_until.max(pause)
    }

    /// Ends the rest of `target`, if it is resting.
    fn refresh(&mut self, now: Time, target: Target) {
        if let Some(progress) = self.targets.get_mut(&target) {
            (progress.failures, progress.rests_until) = (0, now);
        }
    }

    fn fail(&mut self, now: Time, target: Target) {
        let eager = target.peer().is_some_and(|peer| self.is_wanted(now, &peer));
        let jitter = 0.75 + 0.5 * self.rng.unit();
        self.update(target, |progress| {
            progress.failures = progress.failures.saturating_add(1);
            progress.rests_until = now + backoff(progress.failures, eager).mul_f64(jitter);
        });
    }

    fn give_up_on_old_attempts(&mut self, now: Time) {
        for dial in self.attempts.lasting(now, DIAL_LIMIT) {
            if let Some(ended) = self.attempts.end(dial).filter(|ended| ended.last) {
                self.fail(now, ended.target);
            }
        }
    }

    /// Tries what became known of targets since they were dialled.
    fn follow_up(&mut self, now: Time, view: &View<'_>, out: &mut Outbox<Event>) {
        for target in self.attempts.targets().collect::<Vec<_>>() {
            if self.attempts.is_full() {
                break;
            }
            let known = ways(target, view, self.attempts.trying_for(now, target));
            let untried = self.attempts.untried(target, known);
            self.dial(now, target, untried, out);
        }
    }

    fn dial(&mut self, now: Time, target: Target, ways: Vec<Way>, out: &mut Outbox<Event>) {
        if ways.is_empty() {
            return;
        }
        let dial = self.attempts.start(now, target, ways.clone());
        self.update(target, |p| p.tried = Some(now));
        out.event(Event::Dial { dial, peer: target.peer(), ways });
    }

    /// Begins with a target that there is neither a connection to nor an attempt at.
    fn begin(&mut self, now: Time, target: Target, view: &View<'_>, out: &mut Outbox<Event>) {
        if let Some(peer) = target.peer().filter(|peer| needs_help(peer, view)) {
            out.event(Event::Seek(peer));
        }
        let ways = ways(target, view, Duration::ZERO);
        if ways.is_empty() {
            // It is up to the rendezvous; should that find nothing, it is asked again.
            self.update(target, |p| p.rests_until = now + SEEK_AGAIN);
        }
        self.dial(now, target, ways, out);
    }

    /// Until when `target` is left to the other side, where that should begin.
    fn deferred_until(&mut self, now: Time, target: Target, view: &View<'_>) -> Time {
        let Some(peer) = target.peer().filter(|peer| !self.is_wanted(now, peer)) else { return Time::ZERO };
        let record = view.members.get(&peer).map(Member::record);
        if record.is_none_or(|record| ways::begins(view.local, view.help, view.me, record)) {
            return Time::ZERO;
        }
        let mut since = now;
        self.update(target, |p| since = *p.deferred.get_or_insert(now));
        since + GRACE
    }

    /// Closes what nobody needs; returns when to look again.
    fn close_idle(&self, now: Time, view: &View<'_>, out: &mut Outbox<Event>) -> Option<Time> {
        if view.members.len() < self.full_mesh {
            return None;
        }
        let is_anchor = |s: &Session| s.route.direct().is_some() && self.is_anchor(view, &s.peer);
        let mut anchors: Vec<_> = view.arbiter.sessions().filter(is_anchor).collect();
        let admits = |id: &NodeId| {
            view.members.get(id).is_some_and(|m| ways::admits_anyone(m.record().verdict.class()))
        };
        anchors.sort_unstable_by_key(|s| (!admits(&s.peer), s.rtt, s.peer));
        anchors.truncate(ANCHORS);
        let spare = view.arbiter.sessions().filter(|s| {
            s.direction == Direction::Outgoing
                && !anchors.iter().any(|anchor| anchor.peer == s.peer)
                && !self.is_wanted(now, &s.peer)
                && !view.help.carries(&s.peer)
        });
        let mut next: Option<Time> = None;
        for session in spare {
            let idle_at = self.used.get(&session.peer).copied().unwrap_or(session.since) + IDLE_AFTER;
            if idle_at <= now {
                out.event(Event::Close(session.conn));
            } else {
                next = Some(next.map_or(idle_at, |next| next.min(idle_at)));
            }
        }
        // What keeps a session may end without a word.
        next.or_else(|| view.arbiter.sessions().next().map(|_| now + IDLE_AFTER))
    }
}

fn alone(view: &View<'_>) -> bool {
    view.arbiter.sessions().next().is_none()
}

/// Whether a rendezvous is worth its packets: the peer cannot simply be dialled, and others can help.
fn needs_help(peer: &NodeId, view: &View<'_>) -> bool {
    view.members.get(peer).is_some_and(|m| ways::needs_help(view.local, view.help, m.record()))
}

/// Where to try `target`, which has been tried for so long already, as far as is known now.
fn ways(target: Target, view: &View<'_>, trying_for: Duration) -> Vec<Way> {
    match target {
        Target::Address(addr) => Vec::from([Way::Addr(addr)]),
        Target::Peer(peer) => view
            .members
            .get(&peer)
            .map(|member| ways::ways(view.local, view.help, member.record(), trying_for))
            .unwrap_or_default(),
    }
}

fn backoff(failures: u32, eager: bool) -> Duration {
    if eager && failures <= EAGER_ATTEMPTS {
        return EAGER_BACKOFF;
    }
    let doublings = failures.saturating_sub(if eager { EAGER_ATTEMPTS + 1 } else { 1 }).min(16);
    (MIN_BACKOFF * (1 << doublings)).min(MAX_BACKOFF)
}
