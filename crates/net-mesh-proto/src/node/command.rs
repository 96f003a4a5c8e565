//! What does a wish mean?

use super::{Command, Node};
use crate::id::NodeId;
use crate::time::Time;

impl Node {
    pub(super) fn handle_command(&mut self, now: Time, command: Command) {
        match command {
            Command::Subscriptions(channels) => self.membership.set_subscriptions(now, channels),
            Command::Want { peer } => self.dialer.want(now, peer),
            Command::Discover { peer } => self.discover(now, peer),
            Command::StartFrom(addrs) => self.dialer.set_bootstrap(now, &addrs),
            Command::Reclassify => self.for_traversal(|traversal| traversal.reclassify(now)),
            Command::Leave => {
                self.membership.leave(now, &mut self.heard.membership);
                self.for_mapper(|mapper, out| mapper.leave(out));
            }
        }
    }

    /// Has a session, and tries for a direct way at once where it has none that works.
    fn discover(&mut self, now: Time, peer: NodeId) {
        self.dialer.want(now, peer);
        if self.lacks_a_direct_way(&peer) {
            self.for_rendezvous(|rendezvous| rendezvous.insist(now, &peer));
            self.seek(now, peer);
        }
    }
}
