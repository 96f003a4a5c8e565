//! The mesh as this node sees it: who is in it, who has a direct session with whom, and what this node tried.
//!
//! What others do is known from their records, which each renews when its links change. What this node does it
//! knows itself.

use std::time::Duration;

use net_mesh_proto::id::NodeId;
use net_mesh_proto::nat::NatClass;

use crate::mesh::Mesh;
use crate::peer::{Health, PathKind};
use crate::why::AttemptInfo;

/// A member, with its direct links.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct MemberInfo {
    /// Its id.
    pub node_id: NodeId,
    /// The name it goes by. Names need not be unique.
    pub name: String,
    /// What it says of its NAT.
    pub nat: NatClass,
    /// Whether it carries traffic between others.
    pub relays: bool,
    /// How long ago this node heard what it says, to the second; `None` for this node.
    pub age: Option<Duration>,
    /// Its direct links; of another node at most 32, those it has had for longest and then its fastest.
    pub links: Vec<LinkInfo>,
}

/// A direct link of a member.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct LinkInfo {
    /// To whom.
    pub peer: NodeId,
    /// The round-trip time, in whole milliseconds where another node says it.
    pub rtt: Option<Duration>,
}

impl Mesh {
    /// All members, this node first and the others by id, each with its direct links as it says itself.
    ///
    /// A link is usually said by both of its ends. Where only one does, the other one keeps silent about it
    /// because it has too many, or its record is older than the link.
    #[must_use]
    pub fn members(&self) -> Vec<MemberInfo> {
        let own = self.own_links();
        let shared = self.shared();
        let (node, now) = (shared.node(), shared.now());
        let this = MemberInfo {
            node_id: shared.node_id(),
            name: self.name().to_owned(),
            nat: node.experienced_class(now),
            relays: shared.relays(),
            age: None,
            links: own,
        };
        let link = |(peer, rtt): &(NodeId, u16)| LinkInfo {
            peer: *peer,
            rtt: Some(Duration::from_millis(u64::from(*rtt))),
        };
        let others = node.members().map(|member| MemberInfo {
            node_id: member.record.node,
            name: member.record.name.clone(),
            nat: member.record.verdict.class(),
            relays: member.record.flags.relays,
            age: Some(member.age(now)),
            links: member.record.links.iter().map(link).collect(),
        });
        std::iter::once(this).chain(others).collect()
    }

    fn own_links(&self) -> Vec<LinkInfo> {
        let peers = self.peers().into_iter();
        let direct = peers.filter(|peer| peer.path.kind == PathKind::Direct && peer.health != Health::Failed);
        direct.map(|peer| LinkInfo { peer: peer.node_id, rtt: peer.rtt }).collect()
    }

    /// The last attempts of this node at direct ways, with any peer, latest first; at most `limit`. Four are
    /// remembered for each member.
    #[must_use]
    pub fn attempts(&self, limit: usize) -> Vec<(NodeId, AttemptInfo)> {
        let shared = self.shared();
        let (node, now) = (shared.node(), shared.now());
        let mut attempts: Vec<_> = node.attempts().collect();
        attempts.sort_unstable_by_key(|attempt| std::cmp::Reverse((attempt.began, attempt.id)));
        attempts.truncate(limit);
        attempts.into_iter().map(|attempt| (attempt.peer, AttemptInfo::of(now, attempt))).collect()
    }
}
