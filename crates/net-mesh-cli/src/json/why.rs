//! Why a member is reached the way it is, as JSON.

use std::net::SocketAddr;

use net_mesh::{AttemptInfo, Mesh, Moment, OtherSide, Why};
use serde::{Deserialize, Serialize};

use super::{PathJson, display_name, whole_millis};

/// `why PEER --json`, `GET /v1/why/{peer}`.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct WhyJson {
    /// Whose way.
    pub peer: String,
    /// Its name.
    pub name: String,
    /// The way in use.
    pub path: PathJson,
    /// For how long it has been.
    #[serde(default)]
    pub since_ms: Option<u64>,
    /// For how long nothing has come back on any way, where that is so: the path is the last one.
    #[serde(default)]
    pub silent_ms: Option<u64>,
    /// Whether it is relayed, and nothing is known to be worth trying.
    #[serde(default)]
    pub hopeless: bool,
    /// Why that way, in one sentence.
    pub reason: String,
    /// The plan that led to a direct way, or the one tried last.
    pub plan: Option<String>,
    /// Who introduced the two at that.
    pub mediator: Option<String>,
    /// The addresses that the two offered each other.
    pub candidates: CandidatesJson,
    /// The last attempts at a direct way, oldest first.
    pub attempts: Vec<AttemptJson>,
    /// When the next attempt is due.
    pub next_attempt_ms: Option<u64>,
    /// What the peer says of the pair.
    #[serde(default)]
    pub other_side: OtherSideJson,
    /// What happened, oldest first, as both say.
    #[serde(default)]
    pub timeline: Vec<MomentJson>,
}

/// The peer's half of a decision record.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(crate) struct OtherSideJson {
    /// `told`, `unknown` or `not-asked`.
    pub state: String,
    /// Why it is not known, as a clause.
    pub problem: Option<String>,
    /// The way it uses.
    pub path: Option<PathJson>,
    /// For how long it has.
    pub since_ms: Option<u64>,
    /// Why that way, in its words.
    pub reason: Option<String>,
    /// The attempts as it saw them, oldest first.
    pub attempts: Vec<AttemptJson>,
    /// When it tries again.
    pub next_attempt_ms: Option<u64>,
}

/// Something that happened between two members.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct MomentJson {
    /// How long ago.
    pub at_ms_ago: u64,
    /// Who says so: `this` node or the `peer`.
    pub side: String,
    /// The attempt it is part of.
    pub attempt: Option<String>,
    /// How long after the attempt began on that side.
    pub into_ms: Option<u64>,
    /// What.
    pub text: String,
}

/// Addresses at which two nodes may be reached.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct CandidatesJson {
    /// This node's.
    pub own: Vec<SocketAddr>,
    /// The peer's.
    pub theirs: Vec<SocketAddr>,
}

/// One attempt at a direct way.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct AttemptJson {
    /// The same on both sides and at the mediator.
    pub id: String,
    /// How long ago it began.
    pub at_ms_ago: u64,
    /// How long it took; `null` while it lasts.
    pub took_ms: Option<u64>,
    /// What was tried.
    pub plan: String,
    /// Who introduced the two; `null` where they did so over their own session.
    pub mediator: Option<String>,
    /// `seeker` or `sought`.
    pub role: String,
    /// What came of it, in a word.
    pub outcome: String,
    /// Check packets sent.
    pub packets: u32,
    /// What came of it, in a sentence.
    pub reason: String,
}

impl AttemptJson {
    pub(super) fn of(mesh: &Mesh, attempt: AttemptInfo) -> Self {
        Self {
            id: attempt.id,
            at_ms_ago: whole_millis(attempt.ago),
            took_ms: attempt.took.map(whole_millis),
            plan: attempt.plan,
            mediator: attempt.mediator.map(|id| display_name(mesh, &id)),
            role: attempt.role.into(),
            outcome: attempt.outcome.into(),
            packets: attempt.packets,
            reason: attempt.reason,
        }
    }
}

impl WhyJson {
    pub(crate) fn of(mesh: &Mesh, why: Why) -> Self {
        Self {
            peer: why.node_id.to_string(),
            name: why.name,
            path: PathJson::of(mesh, &why.path),
            since_ms: why.since.map(whole_millis),
            silent_ms: why.silent_for.map(whole_millis),
            hopeless: why.hopeless,
            reason: why.reason,
            plan: why.plan,
            mediator: why.mediator.map(|id| display_name(mesh, &id)),
            candidates: CandidatesJson { own: why.own_candidates, theirs: why.their_candidates },
            attempts: why.attempts.into_iter().map(|attempt| AttemptJson::of(mesh, attempt)).collect(),
            next_attempt_ms: why.next_attempt.map(whole_millis),
            other_side: OtherSideJson::of(mesh, why.other_side),
            timeline: why.timeline.into_iter().map(MomentJson::from).collect(),
        }
    }
}

impl OtherSideJson {
    fn of(mesh: &Mesh, other: OtherSide) -> Self {
        match other {
            OtherSide::Told(told) => Self {
                state: "told".into(),
                problem: None,
                path: Some(PathJson::of(mesh, &told.path)),
                since_ms: told.since.map(whole_millis),
                reason: Some(told.reason),
                attempts: told.attempts.into_iter().map(|attempt| AttemptJson::of(mesh, attempt)).collect(),
                next_attempt_ms: told.next_attempt.map(whole_millis),
            },
            OtherSide::Unknown(problem) => {
                Self { state: "unknown".into(), problem: Some(problem), ..Self::default() }
            }
            _ => Self { state: "not-asked".into(), ..Self::default() },
        }
    }
}

impl From<Moment> for MomentJson {
    fn from(moment: Moment) -> Self {
        Self {
            at_ms_ago: whole_millis(moment.ago),
            side: if moment.own { "this" } else { "peer" }.into(),
            attempt: moment.attempt,
            into_ms: moment.into.map(whole_millis),
            text: moment.text,
        }
    }
}
