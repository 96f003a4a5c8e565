//! The JSON of the mesh as a whole: who is linked with whom, and what was tried lately.

use net_mesh::{AttemptInfo, LinkInfo, MemberInfo, Mesh, NodeId};
use serde::{Deserialize, Serialize};

use super::{AttemptJson, display_name, whole_millis};
use crate::text::millis;

/// One element of `peers --mesh --json`, `GET /v1/mesh`.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct MemberJson {
    /// Who.
    pub node_id: String,
    /// Its name.
    pub name: String,
    /// The class of its NAT.
    pub nat: String,
    /// Whether it carries traffic between others.
    pub relays: bool,
    /// How long ago this was heard of it; `null` for the node that answers.
    pub age_ms: Option<u64>,
    /// Its direct links.
    pub links: Vec<LinkJson>,
}

/// A direct link of a member.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct LinkJson {
    /// To whom.
    pub node_id: String,
    /// The round-trip time, as that member measures it.
    pub rtt_ms: Option<f64>,
}

/// One element of `GET /v1/rendezvous`.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct RendezvousJson {
    /// With whom.
    pub peer: String,
    /// Its name.
    pub name: String,
    /// What was tried, and what came of it.
    #[serde(flatten)]
    pub attempt: AttemptJson,
}

impl From<MemberInfo> for MemberJson {
    fn from(member: MemberInfo) -> Self {
        let link = |link: LinkInfo| LinkJson { node_id: link.peer.to_string(), rtt_ms: link.rtt.map(millis) };
        Self {
            node_id: member.node_id.to_string(),
            name: member.name,
            nat: member.nat.to_string(),
            relays: member.relays,
            age_ms: member.age.map(whole_millis),
            links: member.links.into_iter().map(link).collect(),
        }
    }
}

impl RendezvousJson {
    pub(crate) fn of(mesh: &Mesh, (peer, attempt): (NodeId, AttemptInfo)) -> Self {
        Self {
            peer: peer.to_string(),
            name: display_name(mesh, &peer),
            attempt: AttemptJson::of(mesh, attempt),
        }
    }

    /// The latest ones, at most `limit`.
    pub(crate) fn latest(mesh: &Mesh, limit: usize) -> Vec<Self> {
        mesh.attempts(limit).into_iter().map(|attempt| Self::of(mesh, attempt)).collect()
    }
}
