//! The publisher's end of a stream that it opened itself: events that wait for a member which is known to
//! subscribe, or for a subscription whose session was lost or closed, sent as soon as there is an authenticated
//! connection.
//!
//! Nothing is decided here. Until the member says that it took the push, another cursor stays where the events
//! wait ([`log`](super::log)): a refusal, an end of the connection or silence cost what was sent in vain, at
//! most the credit, and the member's own request finds everything as it would have without a push.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::time::{Instant, timeout};

use super::handshake::{Push, REFUSED, Taken};
use super::hub::{Channel, Hub, lock};
use super::log::CursorId;
use super::serve::{Ended, Feed, read_acks, write_segments};
use crate::session::{Link, stream};

/// How long a member may take to say whether it takes a push. A working one says so within a round trip;
/// meanwhile the same events are pushed on no other connection with it.
const ANSWER_WAIT: Duration = Duration::from_secs(10);

impl Hub {
    /// Sends what waits on `channel` for the link's peer.
    pub(super) fn push(self: &Arc<Self>, link: &Arc<Link>, channel: &Arc<Channel>) {
        let (now, peer) = (Instant::now(), link.peer);
        let waiting = channel.log().waiting_for(peer);
        for subscription in waiting {
            let begun = channel.log().begin_push(now, peer, subscription);
            if let Some((generation, first)) = begun {
                let push = Push { channel: channel.name.to_string(), boot: self.boot, first, subscription };
                tokio::spawn(run(Arc::clone(link), Arc::clone(channel), generation, push));
            }
        }
    }
}

async fn run(link: Arc<Link>, channel: Arc<Channel>, generation: u64, push: Push) {
    let id = Mutex::new(CursorId::Push(link.peer, push.subscription));
    let feed = Feed { channel: &channel, link: &link, id: &id, generation };
    let ended = send(&feed, &push).await;
    let id = *lock(&id);
    match (id, ended) {
        (CursorId::Push(..), _) | (_, Ended::Unsubscribed) => channel.log().remove(id, generation),
        (_, Ended::Broken) => channel.log().detach(Instant::now(), id, generation),
    }
    channel.shrunk();
}

async fn send(feed: &Feed<'_>, push: &Push) -> Ended {
    let opened = timeout(ANSWER_WAIT, feed.link.open(stream::PUSH)).await;
    let Ok(Ok((mut send, mut recv))) = opened else { return Ended::Broken };
    let peer = feed.link.peer;
    tracing::debug!(peer = %peer.short(), channel = push.channel, first = push.first, "pushing");
    let answers = async {
        let answer = timeout(ANSWER_WAIT, Taken::read(&mut recv)).await;
        let Ok(Ok(Some(Taken { attempt, subscriptions }))) = answer else {
            tracing::debug!(peer = %peer.short(), channel = push.channel, "push not taken");
            return Ended::Broken;
        };
        let now = Instant::now();
        let id = *lock(feed.id);
        let taken = feed.channel.log().push_taken(now, id, feed.generation, attempt, &subscriptions);
        let Some(taken) = taken else { return Ended::Broken };
        *lock(feed.id) = taken;
        read_acks(feed, &mut recv).await
    };
    let segments = async {
        send.write_all(&push.encode()).await?;
        write_segments(feed, &mut send).await
    };
    let ended = tokio::select! {
        biased;
        ended = answers => ended,
        Err(_) = segments => Ended::Broken,
    };
    if matches!(ended, Ended::Broken) {
        // A stream that merely ended would look like one that has brought everything.
        let _ = send.reset(REFUSED);
    }
    ended
}
