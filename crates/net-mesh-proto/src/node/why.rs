//! Why is a peer reached the way it is?

use alloc::format;
use alloc::string::{String, ToString};
use alloc::vec::Vec;
use core::net::SocketAddr;
use core::time::Duration;

use super::Node;
use crate::account::wire::Answer;
use crate::account::{Account, Line, Try};
use crate::drops::DropReason;
use crate::id::NodeId;
use crate::nat::NatClass;
use crate::rendezvous::plan::{self, Side};
use crate::rendezvous::{Attempt, History, Outcome};
use crate::route::Route;
use crate::time::Time;

/// What was decided about the way to a peer, and why.
#[derive(Clone, Debug)]
pub struct Why {
    /// The way its session travels; `None` without a session, or while it has no way.
    pub route: Option<Route>,
    /// The members that relay, in order from here.
    pub via: Vec<NodeId>,
    /// Why that way, in a sentence.
    pub reason: String,
    /// Whether it is relayed, and no plan suits what both sides are behind.
    pub hopeless: bool,
    /// How long nothing has come back on any way of the session, where that is so for some seconds.
    pub silent_for: Option<Duration>,
    /// How long the session has travelled that way, or had none; `None` if there was never one.
    pub since: Option<Duration>,
    /// The attempts at a direct way, oldest first, one that is under way last.
    pub attempts: Vec<Attempt>,
    /// How long until the next attempt, where the pair rests.
    pub rests_for: Option<Duration>,
    /// The addresses of this node that others are told.
    pub own: Vec<SocketAddr>,
    /// The addresses of the peer.
    pub theirs: Vec<SocketAddr>,
}

impl Node {
    /// Why `peer` is reached the way it is; `None` if it is no member.
    #[must_use]
    pub fn why(&self, now: Time, peer: &NodeId) -> Option<Why> {
        let record = self.membership.members().get(peer)?.record();
        let (route, via) = self.path(peer).unzip();
        let via = via.unwrap_or_default();
        let rendezvous = self.reach.rendezvous.as_ref();
        let history = rendezvous.and_then(|r| r.history(peer));
        let under_way = rendezvous.and_then(|r| r.under_way(peer));
        let silent_for = self.silent_for(now, peer);
        let reason = match route {
            Some(_) if silent_for.is_some() => format!(
                "{} does not answer on any way: it is down, or one of the two is cut off; it is tried on",
                self.name(peer)
            ),
            Some(Route::Direct(addr)) => self.why_direct(peer, addr, history),
            Some(Route::Relayed(_)) => self.why_not_direct(now, peer, &via, history, under_way),
            None => self.why_none(now, peer),
        };
        let past = history.into_iter().flat_map(History::attempts);
        let rests = |h: &History| (h.rests_until() > now).then(|| h.rests_until() - now);
        let hopeless = matches!(route, Some(Route::Relayed(_))) && self.hopeless(peer).is_some();
        Some(Why {
            route,
            via,
            reason,
            hopeless,
            silent_for,
            since: self.path_since(now, peer),
            attempts: past.chain(under_way).cloned().collect(),
            rests_for: history.and_then(rests).filter(|_| !matches!(route, Some(Route::Direct(_)))),
            own: self.membership.own_draft().candidates.clone(),
            theirs: record.candidates.clone(),
        })
    }

    /// This node's account of the way between it and `peer`; `None` if that is no member.
    #[must_use]
    pub fn account(&self, now: Time, peer: &NodeId) -> Option<Account> {
        let why = self.why(now, peer)?;
        Some(Account {
            line: Line::of(why.route.map(|route| (route, why.via))),
            since: why.since,
            reason: why.reason,
            rests_for: why.rests_for,
            attempts: why.attempts.iter().map(|attempt| Try::of(now, attempt)).collect(),
            changes: self.stories.told(now, peer),
        })
    }

    /// What `peer` is answered that asks, in its session, for this node's account of their pair. `None` if it is no
    /// member.
    pub fn answer(&mut self, now: Time, peer: NodeId) -> Option<Answer> {
        if !self.membership.members().contains_key(&peer) {
            return None;
        }
        if !self.stories.may_answer(now, peer) {
            self.drops_now(DropReason::RateLimited);
            return Some(Answer::Later);
        }
        self.account(now, &peer).map(Answer::Told)
    }

    /// How long the session with `peer` has travelled the way it does, or had none; `None` if there was never one.
    #[must_use]
    pub fn path_since(&self, now: Time, peer: &NodeId) -> Option<Duration> {
        self.stories.since(peer).map(|since| now.since(since))
    }

    /// Notes which way the session with `peer` travels.
    pub(super) fn note_path(&mut self, now: Time, peer: NodeId) {
        let line = Line::of(self.path(&peer));
        self.stories.travels(now, peer, line);
    }

    fn name(&self, id: &NodeId) -> String {
        let record = self.membership.members().get(id).map(|member| member.record());
        record.filter(|r| !r.name.is_empty()).map_or_else(|| id.short(), |r| r.name.clone())
    }

    fn class_of(&self, peer: &NodeId) -> NatClass {
        self.membership.members().get(peer).map_or(NatClass::Unknown, |m| m.record().verdict.class())
    }

    fn why_direct(&self, peer: &NodeId, addr: SocketAddr, history: Option<&History>) -> String {
        let found = history
            .into_iter()
            .flat_map(|h| h.attempts().rev())
            .find(|a| matches!(a.outcome, Some(Outcome::Found { addr: found, .. }) if found == addr));
        let Some(attempt) = found else {
            return format!("direct, because {} could be dialled, or dialled this node", self.name(peer));
        };
        let how = attempt.plan.words();
        match attempt.mediator {
            Some(mediator) => {
                format!(
                    "direct, because a rendezvous succeeded ({how}), introduced by {}",
                    self.name(&mediator)
                )
            }
            None => {
                format!("direct, because a rendezvous succeeded ({how}), arranged over their relayed session")
            }
        }
    }

    fn why_not_direct(
        &self,
        now: Time,
        peer: &NodeId,
        via: &[NodeId],
        history: Option<&History>,
        under_way: Option<&Attempt>,
    ) -> String {
        let names: Vec<String> = via.iter().map(|id| self.name(id)).collect();
        let relayed = format!("relayed via {}", names.join(" > "));
        let classes =
            format!("(this node is {}, {} is {})", self.own_class(), self.name(peer), self.class_of(peer));
        if let Some(reason) = self.hopeless(peer) {
            return format!("{relayed} because {reason} {classes}");
        }
        let Some(history) = history else {
            return match (under_way, &self.reach.rendezvous) {
                (Some(_), _) => format!("{relayed} while a direct way is being tried"),
                (None, None) => format!("{relayed} because NAT traversal is switched off"),
                (None, Some(_)) => {
                    format!("{relayed}; whether there is a direct way is being left to the peer")
                }
            };
        };
        if let Some(attempt) = under_way {
            return format!("{relayed} while a direct way is being tried ({})", attempt.plan.words());
        }
        match history.attempts().last() {
            Some(last) if history.rests_until() > now => format!(
                "{relayed} because the last attempt at a direct way came to nothing {classes}: {}",
                last.reason()
            ),
            Some(_) => format!("{relayed} while a direct way is being proven or tried again"),
            None if history.is_lonely() => {
                format!("{relayed} because no member has a session with both sides to introduce them")
            }
            None => format!("{relayed} while a direct way is about to be tried"),
        }
    }

    /// Why there is no plan for the pair, as a clause. Either side knows it, whichever of the two would seek.
    fn hopeless(&self, peer: &NodeId) -> Option<&'static str> {
        self.reach.rendezvous.as_ref()?;
        let own = self.membership.own_draft();
        let theirs = self.membership.members().get(peer)?.record();
        let [own, theirs] =
            [own, theirs].map(|record| Side { verdict: record.verdict, candidates: &record.candidates });
        plan::plans(&own, &theirs).err()
    }

    /// How long nothing has come back on any way of the session with `peer`, where it is cut off.
    fn silent_for(&self, now: Time, peer: &NodeId) -> Option<Duration> {
        let view = self.way(now, peer).filter(|_| self.is_cut_off(now, peer))?;
        Some(now.since(view.reason.1))
    }

    fn why_none(&self, now: Time, peer: &NodeId) -> String {
        let name = self.name(peer);
        if self.arbiter.session(peer).is_some() {
            return format!("the session with {name} has lost its way, and another one is being looked for");
        }
        if self.dialer.is_trying(peer) {
            return format!("{name} is being tried");
        }
        if self.dialer.is_wanted(now, peer) {
            let relays = self.reach.routes.to(peer).is_some_and(|way| !way.inner.is_empty());
            let others = if relays { "" } else { ", and no member that relays has a direct session with it" };
            return format!("{name} did not answer at any address when it was tried last{others}");
        }
        if self.dialer.failures(peer) > 0 {
            return format!(
                "{name} did not answer at any address when it was tried last; it is tried again at times"
            );
        }
        format!("there is no session with {name}, because nothing has been said to it lately")
    }

    fn own_class(&self) -> String {
        self.membership.own_draft().verdict.class().to_string()
    }
}
