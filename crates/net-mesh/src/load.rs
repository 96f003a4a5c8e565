//! Members that do much for others, said in the log.

use net_mesh_proto::id::NodeId;
use net_mesh_proto::load::{Seen, Warning, Watch};

use crate::mesh::Shared;

/// Looks once a minute.
#[derive(Default)]
pub(crate) struct Loads {
    watch: Watch,
    introductions: u64,
}

impl Loads {
    /// This node introduced two others.
    pub(crate) fn introduced(&mut self) {
        self.introductions += 1;
    }

    /// Looks, if it is time to.
    pub(crate) fn look(&mut self, shared: &Shared) {
        let now = shared.now();
        if !self.watch.is_due(now) {
            return;
        }
        let mut seen: Seen = shared.node().loads(now);
        seen.bytes.0 = shared.socket.carried().bytes;
        seen.introductions = self.introductions;
        let name = |member: &NodeId| shared.member_name(member).unwrap_or_default();
        for warning in self.watch.look(now, &seen) {
            say(warning, &name);
        }
    }
}

fn say(warning: Warning, name: &dyn Fn(&NodeId) -> String) {
    match warning {
        Warning::Circuits { carried, limit } => tracing::warn!(
            carried,
            limit,
            "this node carries most of the circuits that it may: let another member relay, or raise its limit"
        ),
        Warning::Bytes { carried, limit } => tracing::warn!(
            bytes_per_second = carried,
            limit,
            "this node carries most of what it may: let another member relay, or raise --relay-rate"
        ),
        Warning::Introductions { made, members } => tracing::warn!(
            a_minute = made,
            members,
            "this node introduces others all the time: give another member a public address near them"
        ),
        Warning::Relay { member, carried, all } => tracing::warn!(
            peer = %member.short(), name = name(&member), carried, all,
            "one member carries most of this node's relayed sessions: add a relay there, or let others relay"
        ),
        Warning::Mediator { member, made, all } => tracing::warn!(
            peer = %member.short(), name = name(&member), made, all,
            "one member mediates most of this node's rendezvous: give another member a public address there"
        ),
    }
}
