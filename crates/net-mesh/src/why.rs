//! Why a peer is reached the way it is, as the operator sees it.
//!
//! What this node did is one half. The other half is the peer's: it is asked in their session, and answers for this pair
//! alone. A peer that does not, because it runs an older version or the session is broken, leaves the half there is.

use std::net::SocketAddr;
use std::time::Duration;

use net_mesh_proto::account::wire::{Answer, MAX_BYTES};
use net_mesh_proto::account::{self, Account, Change, Entry, Happened, Line, Try, Whose};
use net_mesh_proto::id::NodeId;
use net_mesh_proto::node;
use net_mesh_proto::rendezvous::{Attempt, Outcome};
use net_mesh_proto::time::Time;
use tokio::time::timeout;

use crate::error::PeerError;
use crate::mesh::Mesh;
use crate::peer::{Path, PathKind};
use crate::session::stream;

/// How long the other side's half is waited for.
const ANSWER_WAIT: Duration = Duration::from_secs(2);

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
    /// How long the path has been that; `None` if there was never one.
    pub since: Option<Duration>,
    /// How long nothing has come back on any way of the session, where that is so for some seconds: the path above is the
    /// last one.
    pub silent_for: Option<Duration>,
    /// Whether it is relayed, and nothing is known to be worth trying with the NATs that the two are behind.
    pub hopeless: bool,
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
    /// What the peer says of the pair.
    pub other_side: OtherSide,
    /// What happened, oldest first: attempts, and the last changes of path and health, of both sides where both are
    /// known. The times of the peer's lines are laid on this node's clock where an attempt began on both.
    pub timeline: Vec<Moment>,
}

/// The peer's half of a decision record.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum OtherSide {
    /// It was not asked.
    NotAsked,
    /// It is not known; why, as a clause.
    Unknown(String),
    /// What it says.
    Told(Box<Told>),
}

/// What a peer says of the way between it and this node. Its sentences are its own.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Told {
    /// The way it uses.
    pub path: Path,
    /// For how long.
    pub since: Option<Duration>,
    /// Why that way, in a sentence.
    pub reason: String,
    /// The last attempts as it saw them, oldest first.
    pub attempts: Vec<AttemptInfo>,
    /// How long until it tries again, where it will.
    pub next_attempt: Option<Duration>,
}

/// Something that happened between two members.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Moment {
    /// How long ago.
    pub ago: Duration,
    /// Whether this node says so, and not the peer.
    pub own: bool,
    /// The attempt it is part of.
    pub attempt: Option<String>,
    /// How long after the attempt began on that side.
    pub into: Option<Duration>,
    /// What, as a clause without a subject.
    pub text: String,
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
    fn of(now: Time, node_id: NodeId, name: String, why: node::Why) -> Self {
        let found = why.attempts.iter().rev().find(|a| matches!(a.outcome, Some(Outcome::Found { .. })));
        let told = found.or(why.attempts.last());
        Self {
            node_id,
            name,
            path: why.route.map_or(Path::NONE, |route| Path::of(route, why.via.clone())),
            since: why.since,
            silent_for: why.silent_for,
            hopeless: why.hopeless,
            reason: why.reason,
            plan: told.map(|attempt| attempt.plan.words().to_owned()),
            mediator: told.and_then(|attempt| attempt.mediator),
            own_candidates: why.own,
            their_candidates: why.theirs,
            attempts: why.attempts.iter().map(|attempt| AttemptInfo::of(now, attempt)).collect(),
            next_attempt: why.rests_for,
            other_side: OtherSide::NotAsked,
            timeline: Vec::new(),
        }
    }
}

impl AttemptInfo {
    pub(crate) fn of(now: Time, attempt: &Attempt) -> Self {
        Self::told(&Try::of(now, attempt))
    }

    fn told(attempt: &Try) -> Self {
        Self {
            id: id(attempt.id),
            ago: attempt.ago,
            took: attempt.took,
            plan: attempt.plan.words().to_owned(),
            mediator: attempt.mediator,
            role: if attempt.seeker { "seeker" } else { "sought" },
            outcome: attempt.outcome.map_or("under way", |outcome| outcome.word()),
            packets: attempt.sent,
            reason: attempt.reason(),
        }
    }
}

impl Told {
    fn of(account: &Account) -> Self {
        Self {
            path: path(&account.line),
            since: account.since,
            reason: account.reason.clone(),
            attempts: account.attempts.iter().map(AttemptInfo::told).collect(),
            next_attempt: account.rests_for,
        }
    }
}

impl Mesh {
    /// Why `peer` is reached the way it is, as far as this node knows: its own half.
    ///
    /// # Errors
    /// If the peer is unknown.
    pub fn why(&self, peer: NodeId) -> Result<Why, PeerError> {
        self.why_with(peer, None)
    }

    /// Why `peer` is reached the way it is, from both ends: the peer is asked over the session, if there is one, and has
    /// two seconds. What it says is its word. It may be asked four times at once, and then once in two seconds.
    ///
    /// # Errors
    /// If the peer is unknown.
    pub async fn why_from_both(&self, peer: NodeId) -> Result<Why, PeerError> {
        let other = self.account_of(peer).await;
        self.why_with(peer, Some(other))
    }

    fn why_with(&self, peer: NodeId, other: Option<Result<Account, String>>) -> Result<Why, PeerError> {
        let shared = self.shared();
        let now = shared.now();
        let (why, own) = {
            let node = shared.node();
            node.why(now, &peer).zip(node.account(now, &peer)).ok_or(PeerError::Unknown(peer))?
        };
        let display = |id: &NodeId| self.member_name(id).unwrap_or_else(|| id.short());
        let mut why = Why::of(now, peer, display(&peer), why);
        let told = other.as_ref().and_then(|other| other.as_ref().ok());
        let entries = account::timeline(&own, told);
        why.timeline = entries.iter().map(|entry| moment(entry, &display)).collect();
        why.other_side = match other {
            None => OtherSide::NotAsked,
            Some(Ok(account)) => OtherSide::Told(Box::new(Told::of(&account))),
            Some(Err(reason)) => OtherSide::Unknown(reason),
        };
        Ok(why)
    }

    /// What `peer` says of the pair, or why it says nothing.
    async fn account_of(&self, peer: NodeId) -> Result<Account, String> {
        let link = self.shared().link(&peer).ok_or("there is no session to ask over")?;
        let exchange = async {
            let (mut send, mut recv) = link.open(stream::ACCOUNT).await.ok()?;
            send.finish().ok()?;
            recv.read_to_end(MAX_BYTES).await.ok()
        };
        let answer = timeout(ANSWER_WAIT, exchange).await;
        let answer = answer.map_err(|_| format!("no answer within {} s", ANSWER_WAIT.as_secs()))?;
        let bytes = answer.ok_or("the session broke, or the peer answers with something else")?;
        if bytes.is_empty() {
            return Err("the peer runs a version that does not tell".to_owned());
        }
        match Answer::decode(&bytes) {
            Ok(Answer::Told(account)) => Ok(account),
            Ok(Answer::Later) => Err("the peer was asked too often: ask again in a few seconds".to_owned()),
            Err(_) => Err("the peer runs a version that tells it otherwise".to_owned()),
        }
    }
}

fn id(attempt: u128) -> String {
    format!("{attempt:032x}")
}

fn path(line: &Line) -> Path {
    match line {
        Line::None => Path::NONE,
        Line::Direct(addr) => Path { kind: PathKind::Direct, addr: Some(*addr), via: Vec::new() },
        Line::Relayed(via) => Path { kind: PathKind::Relayed, addr: None, via: via.clone() },
    }
}

fn moment(entry: &Entry, name: &dyn Fn(&NodeId) -> String) -> Moment {
    let (attempt, text) = match &entry.happened {
        Happened::Began(attempt) => (Some(attempt.id), began(attempt, name)),
        Happened::Ended(attempt) => {
            let outcome = attempt.outcome.map_or("under way", |outcome| outcome.word());
            let text = format!("{outcome}, {} checks sent. {}", attempt.sent, attempt.reason());
            (Some(attempt.id), text)
        }
        Happened::Changed(change) => (None, changed(change, name)),
    };
    let own = entry.whose == Whose::Own;
    Moment { ago: entry.ago, own, attempt: attempt.map(id), into: entry.into, text }
}

fn began(attempt: &Try, name: &dyn Fn(&NodeId) -> String) -> String {
    let plan = attempt.plan.words();
    match (attempt.seeker, &attempt.mediator) {
        (true, Some(mediator)) => format!("asks {} for an introduction ({plan})", name(mediator)),
        (true, None) => format!("proposes a rendezvous over their session ({plan})"),
        (false, Some(mediator)) => format!("is introduced by {} ({plan})", name(mediator)),
        (false, None) => format!("is asked for a rendezvous over their session ({plan})"),
    }
}

fn changed(change: &Change, name: &dyn Fn(&NodeId) -> String) -> String {
    match change {
        Change::Path(Line::None) => "has no path".to_owned(),
        Change::Path(Line::Direct(addr)) => format!("sends directly to {addr}"),
        Change::Path(Line::Relayed(via)) => {
            let names: Vec<String> = via.iter().map(name).collect();
            format!("sends via {}", names.join(" > "))
        }
        Change::Health { direct, health, cause } => {
            let way = direct.map_or_else(|| "a relayed way".to_owned(), |addr| format!("the way to {addr}"));
            format!("finds {way} {health} ({})", cause.name().replace('_', " "))
        }
    }
}
