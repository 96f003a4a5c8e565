//! Why a peer is reached the way it is, as the operator sees it.

use std::net::SocketAddr;
use std::time::Duration;

use net_mesh_proto::id::NodeId;
use net_mesh_proto::node;
use net_mesh_proto::rendezvous::{Attempt, Outcome};
use net_mesh_proto::time::Time;

use crate::peer::Path;

/// What was decided about the way to a peer, and why.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Why {
    /// The peer.
    pub node_id: NodeId,
    /// Its name.
    pub name: String,
    /// The way in use.
    pub path: Path,
    /// Why that way, in a sentence.
    pub reason: String,
    /// The plan that led to a direct way, or the one tried last.
    pub plan: Option<String>,
    /// Who introduced the two at that.
    pub mediator: Option<NodeId>,
    /// The addresses this node offered.
    pub own_candidates: Vec<SocketAddr>,
    /// The addresses of the peer.
    pub their_candidates: Vec<SocketAddr>,
    /// The last attempts at a direct way, oldest first; at most four.
    pub attempts: Vec<AttemptInfo>,
    /// How long until the next attempt, where one will be made.
    pub next_attempt: Option<Duration>,
}

/// One attempt at a direct way.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct AttemptInfo {
    /// The same on both sides and at the mediator.
    pub id: String,
    /// How long ago it began.
    pub ago: Duration,
    /// How long it took; `None` while it lasts.
    pub took: Option<Duration>,
    /// What was tried.
    pub plan: String,
    /// Who introduced the two; `None` where they did so over their own session.
    pub mediator: Option<NodeId>,
    /// `seeker` if this node asked for it, `sought` if the peer did.
    pub role: &'static str,
    /// What came of it, in a word.
    pub outcome: &'static str,
    /// Check packets sent.
    pub packets: u32,
    /// What came of it, in a sentence.
    pub reason: String,
}

impl Why {
    pub(crate) fn of(now: Time, node_id: NodeId, name: String, why: node::Why) -> Self {
        let found = why.attempts.iter().rev().find(|a| matches!(a.outcome, Some(Outcome::Found { .. })));
        let told = found.or(why.attempts.last());
        Self {
            node_id,
            name,
            path: why.route.map_or(Path::NONE, |route| Path::of(route, why.via.clone())),
            reason: why.reason,
            plan: told.map(|attempt| attempt.plan.words().to_owned()),
            mediator: told.and_then(|attempt| attempt.mediator),
            own_candidates: why.own,
            their_candidates: why.theirs,
            attempts: why.attempts.iter().map(|attempt| AttemptInfo::of(now, attempt)).collect(),
            next_attempt: why.rests_for,
        }
    }
}

impl AttemptInfo {
    pub(crate) fn of(now: Time, attempt: &Attempt) -> Self {
        Self {
            id: format!("{:032x}", attempt.id),
            ago: now - attempt.began,
            took: attempt.ended.map(|ended| ended - attempt.began),
            plan: attempt.plan.words().to_owned(),
            mediator: attempt.mediator,
            role: if attempt.seeker { "seeker" } else { "sought" },
            outcome: attempt.outcome.map_or("under way", |outcome| outcome.word()),
            packets: attempt.sent,
            reason: attempt.reason(),
        }
    }
}
