//! What does a wish mean?

use super::{Command, Node};
use crate::time::Time;

impl Node {
    pub(super) fn handle_command(&mut self, now: Time, command: Command) {
        match command {
            Command::Subscriptions(channels) => self.membership.set_subscriptions(now, channels),
            Command::Want { peer } => self.dialer.want(now, peer),
            Command::Reclassify => self.for_traversal(|traversal| traversal.reclassify(now)),
            Command::Leave => {
                self.membership.leave(now, &mut self.heard.membership);
                self.for_mapper(|mapper, out| mapper.leave(out));
            }
        }
    }
}
