//! The publisher's end of a stream that a subscriber opened, and what it shares with one that it opened
//! itself.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use quinn::{ReadExactError, RecvStream, SendStream, WriteError};
use tokio::time::{Instant, timeout};

use super::handshake::{GOODBYE, Request, answer};
use super::hub::{Channel, Hub, lock};
use super::log::CursorId;
use crate::session::Link;

/// How long a peer may take to say what it wants, once it opened a stream for it.
pub(super) const REQUEST_WAIT: Duration = Duration::from_secs(10);

/// Why a stream ended.
pub(super) enum Ended {
    /// The subscriber is done with it.
    Unsubscribed,
    /// It broke; the subscriber may come back.
    Broken,
}

/// What goes over a stream.
pub(super) struct Feed<'a> {
    pub(super) channel: &'a Channel,
    pub(super) link: &'a Link,
    /// Whose events; changes when it becomes known which subscription takes a push.
    pub(super) id: &'a Mutex<CursorId>,
    pub(super) generation: u64,
}

impl Hub {
    /// Serves a peer's subscription until its stream ends.
    pub(crate) async fn serve(self: Arc<Self>, link: Arc<Link>, mut send: SendStream, mut recv: RecvStream) {
        let peer = link.peer;
        let Ok(Ok(Some(request))) = timeout(REQUEST_WAIT, Request::read(&mut recv)).await else {
            tracing::debug!(peer = %peer.short(), "not a subscription");
            return;
        };
        let Some(channel) = self.asked_channel(&request.channel, peer) else {
            tracing::debug!(peer = %peer.short(), channel = request.channel, "too many channels are asked for");
            return;
        };
        let id = CursorId::Remote(peer, request.subscription);
        let resume = request.resume.filter(|(boot, _)| *boot == self.boot).map(|(_, resume)| resume);
        let attached = channel.log().attach(Instant::now(), id, request.attempt, resume);
        let Some((generation, first)) = attached else {
            tracing::debug!(peer = %peer.short(), channel = request.channel, "outdated, or one too many");
            return;
        };
        tracing::debug!(peer = %peer.short(), channel = request.channel, first, "subscribed");
        let feed = Feed { channel: &channel, link: &link, id: &Mutex::new(id), generation };
        let acks = read_acks(&feed, &mut recv);
        let segments = async {
            send.write_all(&answer(self.boot, first)).await?;
            write_segments(&feed, &mut send).await
        };
        let ended = tokio::select! {
            biased;
            ended = acks => ended,
            Err(_) = segments => Ended::Broken,
        };
        match ended {
            Ended::Unsubscribed => channel.log().remove(id, generation),
            Ended::Broken => channel.log().detach(Instant::now(), id, generation),
        }
        channel.shrunk();
    }
}

/// Takes acknowledgements until the stream ends.
pub(super) async fn read_acks(feed: &Feed<'_>, recv: &mut RecvStream) -> Ended {
    loop {
        let mut ack = [0; 8];
        match recv.read_exact(&mut ack).await {
            Ok(()) => {}
            Err(ReadExactError::FinishedEarly(_) | ReadExactError::ReadError(_)) => return Ended::Broken,
        }
        match u64::from_be_bytes(ack) {
            GOODBYE => return Ended::Unsubscribed,
            upto => {
                let id = *lock(feed.id);
                feed.channel.log().ack(Instant::now(), id, feed.generation, upto);
            }
        }
        feed.channel.shrunk();
    }
}

/// Sends segments as there are some and credit for them. Never returns but with an error.
pub(super) async fn write_segments(feed: &Feed<'_>, send: &mut SendStream) -> Result<(), WriteError> {
    loop {
        let grown = feed.channel.grown.notified();
        tokio::pin!(grown);
        // Registered before the log is looked at, so that nothing falls between.
        grown.as_mut().enable();
        let id = *lock(feed.id);
        let segment = feed.channel.log().next_for(id, feed.generation);
        match segment {
            Some(segment) => {
                feed.link.touch();
                send.write_all_chunks(&mut [segment.header(), segment.body]).await?;
            }
            None => grown.await,
        }
    }
}
