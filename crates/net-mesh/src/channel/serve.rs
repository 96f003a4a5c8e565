//! The publisher's end of a subscription's stream.

use std::sync::Arc;
use std::time::Duration;

use net_mesh_proto::id::NodeId;
use quinn::{ReadExactError, RecvStream, SendStream, WriteError};
use tokio::time::{Instant, timeout};

use super::handshake::{GOODBYE, Request, answer};
use super::hub::{Channel, Hub};
use super::log::CursorId;

/// How long a peer may take to say what it wants, once it opened a stream for it.
const REQUEST_WAIT: Duration = Duration::from_secs(10);

/// Why a stream ended.
enum Ended {
    /// The subscriber is done with it.
    Unsubscribed,
    /// It broke; the subscriber may come back.
    Broken,
}

impl Hub {
    /// Serves a peer's subscription until its stream ends.
    pub(crate) async fn serve(self: Arc<Self>, peer: NodeId, mut send: SendStream, mut recv: RecvStream) {
        let Ok(Ok(Some(request))) = timeout(REQUEST_WAIT, Request::read(&mut recv)).await else {
            tracing::debug!(peer = %peer.short(), "not a subscription");
            return;
        };
        let Some(channel) = self.channel(&request.channel) else { return };
        let id = CursorId::Remote(peer, request.subscription);
        let resume = request.resume.filter(|(boot, _)| *boot == self.boot).map(|(_, next)| next);
        let attached = channel.log().attach(Instant::now(), id, resume);
        let Some((generation, first)) = attached else { return };
        tracing::debug!(peer = %peer.short(), channel = request.channel, first, "subscribed");
        let acks = read_acks(&channel, id, generation, &mut recv);
        let segments = async {
            send.write_all(&answer(self.boot, first)).await?;
            write_segments(&channel, id, generation, &mut send).await
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

async fn read_acks(channel: &Channel, id: CursorId, generation: u64, recv: &mut RecvStream) -> Ended {
    loop {
        let mut ack = [0; 8];
        match recv.read_exact(&mut ack).await {
            Ok(()) => {}
            Err(ReadExactError::FinishedEarly(_) | ReadExactError::ReadError(_)) => return Ended::Broken,
        }
        match u64::from_be_bytes(ack) {
            GOODBYE => return Ended::Unsubscribed,
            upto => channel.log().ack(Instant::now(), id, generation, upto),
        }
        channel.shrunk();
    }
}

/// Never returns but with an error.
async fn write_segments(
    channel: &Channel,
    id: CursorId,
    generation: u64,
    send: &mut SendStream,
) -> Result<(), WriteError> {
    loop {
        let grown = channel.grown.notified();
        tokio::pin!(grown);
        // Registered before the log is looked at, so that nothing falls between.
        grown.as_mut().enable();
        let segment = channel.log().next_for(id, generation);
        match segment {
            Some(segment) => {
                send.write_all_chunks(&mut [segment.header(), segment.body]).await?;
            }
            None => grown.await,
        }
    }
}
