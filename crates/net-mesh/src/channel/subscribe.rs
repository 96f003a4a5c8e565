//! The subscriber's end of a stream, and the subscription that the application reads.

use std::collections::BTreeMap;
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::BytesMut;
use futures_util::Stream;
use net_mesh_proto::id::NodeId;
use quinn::{Connection, RecvStream, SendStream};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;
use tokio::time::Instant;

use super::Event;
use super::handshake::{ANSWER, GOODBYE, Request, parse_answer};
use super::hub::{Channel, Hub, lock};
use super::log::CursorId;
use super::segment::{Events, HEADER, Header, Segment};
use crate::session::stream;

/// Segments that wait for the application, from all publishers together. With the streams' windows this
/// bounds what a subscription that is not read makes the node hold.
const QUEUE: usize = 16;

/// Acknowledgements are sent at most this often: they are for the publisher's memory, not its speed.
const ACK_EVERY: Duration = Duration::from_millis(20);

/// ... and at least after this many bytes.
const ACK_AFTER: usize = 256 << 10;

/// First pause before a publisher that ended a stream is asked again; doubles up to [`RETRY_MAX`].
const RETRY: Duration = Duration::from_secs(1);

const RETRY_MAX: Duration = Duration::from_secs(60);

/// A segment on its way to the application.
#[derive(Debug)]
struct Batch {
    from: NodeId,
    events: Events,
    missed: u64,
}

/// How far a subscription has got with one publisher.
#[derive(Clone, Copy, Debug, Default)]
struct Position {
    boot: u64,
    next: u64,
}

/// A subscription, as the node holds it.
pub(super) struct Subscriber {
    id: u64,
    own: Arc<Channel>,
    hub: Arc<Hub>,
    queue: mpsc::Sender<Batch>,
    positions: Mutex<BTreeMap<NodeId, Position>>,
    /// The task that follows each publisher.
    followers: Mutex<BTreeMap<NodeId, JoinHandle<()>>>,
    done: watch::Sender<bool>,
}

impl Subscriber {
    pub(super) fn new(id: u64, own: Arc<Channel>, hub: Arc<Hub>) -> (Arc<Self>, Subscription) {
        let (queue, batches) = mpsc::channel(QUEUE);
        let channel = Arc::clone(&own.name);
        let subscriber = Arc::new(Self {
            id,
            own,
            hub,
            queue,
            positions: Mutex::default(),
            followers: Mutex::default(),
            done: watch::channel(false).0,
        });
        let handle = Handle(Arc::downgrade(&subscriber));
        (subscriber, Subscription { channel, batches, current: None, _handle: handle })
    }

    pub(super) fn channel(&self) -> &str {
        &self.own.name
    }

    /// Ends the subscription; publishers are told.
    pub(super) fn close(&self) {
        self.done.send_replace(true);
    }

    /// Follows this node's own publishing.
    pub(super) fn follow_own(self: &Arc<Self>) {
        let id = CursorId::Local(self.id);
        let attached = self.own.log().attach(Instant::now(), id, None);
        if let Some((generation, first)) = attached {
            lock(&self.positions).insert(self.hub.me, Position { boot: self.hub.boot, next: first });
            let subscriber = Arc::clone(self);
            tokio::spawn(async move {
                let mut done = subscriber.done.subscribe();
                tokio::select! {
                    biased;
                    _ = done.wait_for(|done| *done) => {}
                    () = subscriber.copy_own(id, generation) => {}
                }
                subscriber.own.log().remove(id, generation);
                subscriber.own.shrunk();
            });
        }
    }

    async fn copy_own(&self, id: CursorId, generation: u64) {
        loop {
            let grown = self.own.grown.notified();
            tokio::pin!(grown);
            grown.as_mut().enable();
            let segment = self.own.log().next_for(id, generation);
            match segment {
                Some(segment) => {
                    let end = segment.end();
                    if !self.deliver(self.hub.me, segment).await {
                        return;
                    }
                    self.own.log().ack(Instant::now(), id, generation, end);
                    self.own.shrunk();
                }
                None => grown.await,
            }
        }
    }

    /// Follows `peer` over `connection`, in place of any earlier one.
    pub(super) fn follow(self: &Arc<Self>, peer: NodeId, connection: Connection) {
        let mut followers = lock(&self.followers);
        let earlier = followers.remove(&peer);
        let subscriber = Arc::clone(self);
        let task = tokio::spawn(async move {
            if let Some(earlier) = earlier {
                // Two followers at once would deliver twice.
                earlier.abort();
                let _ = earlier.await;
            }
            subscriber.keep_following(peer, connection).await;
        });
        followers.insert(peer, task);
        followers.retain(|_, task| !task.is_finished());
    }

    /// Follows `peer` for as long as the connection lasts: a stream that ends before may be one that the
    /// publisher had no room for.
    async fn keep_following(&self, peer: NodeId, connection: Connection) {
        let mut pause = RETRY;
        while let Err(reason) = self.stream_from(peer, &connection).await {
            if connection.close_reason().is_some() {
                return;
            }
            tracing::warn!(peer = %peer.short(), channel = self.channel(), %reason, "subscription interrupted");
            tokio::time::sleep(pause).await;
            pause = (2 * pause).min(RETRY_MAX);
        }
    }

    async fn stream_from(&self, peer: NodeId, connection: &Connection) -> Result<(), String> {
        let position = lock(&self.positions).get(&peer).copied();
        let request = Request {
            subscription: self.id,
            channel: self.channel().to_owned(),
            resume: position.map(|p| (p.boot, p.next)),
        };
        let failed = |e: &dyn std::fmt::Display| e.to_string();
        let (mut send, mut recv) = connection.open_bi().await.map_err(|e| failed(&e))?;
        send.write_all(&[stream::EVENTS]).await.map_err(|e| failed(&e))?;
        send.write_all(&request.encode()).await.map_err(|e| failed(&e))?;
        let mut answer = [0; ANSWER];
        recv.read_exact(&mut answer).await.map_err(|e| failed(&e))?;
        let (boot, first) = parse_answer(&answer).map_err(|e| failed(&e))?;
        // In another run the sequence starts anew; in the same one a gap shows by itself.
        let next = position.filter(|p| p.boot == boot).map_or(first, |p| p.next);
        lock(&self.positions).insert(peer, Position { boot, next });
        let (acks, held) = watch::channel(Held { next, bytes: 0 });
        let mut done = self.done.subscribe();
        tokio::select! {
            biased;
            _ = done.wait_for(|done| *done) => {}
            result = self.copy_stream(peer, &mut recv, &acks) => return result,
            () = write_acks(&mut send, held) => return Err("the publisher ended it".to_owned()),
        }
        // Best effort: a publisher that does not hear it lets the cursor expire.
        let _ = send.write_all(&GOODBYE.to_be_bytes()).await;
        let _ = send.finish();
        let _ = send.stopped().await;
        Ok(())
    }

    async fn copy_stream(
        &self,
        peer: NodeId,
        recv: &mut RecvStream,
        acks: &watch::Sender<Held>,
    ) -> Result<(), String> {
        let failed = |e: &dyn std::fmt::Display| e.to_string();
        loop {
            let mut header = [0; HEADER];
            recv.read_exact(&mut header).await.map_err(|e| failed(&e))?;
            let header = Header::parse(&header).map_err(|e| failed(&e))?;
            let mut body = BytesMut::zeroed(header.length);
            recv.read_exact(&mut body).await.map_err(|e| failed(&e))?;
            let segment = header.with_body(body.freeze()).map_err(|e| failed(&e))?;
            let end = segment.end();
            if !self.deliver(peer, segment).await {
                return Ok(());
            }
            acks.send_modify(|held| *held = Held { next: end, bytes: held.bytes + header.length });
        }
    }

    /// Queues what is new in a segment. False if the subscription has ended.
    async fn deliver(&self, from: NodeId, segment: Segment) -> bool {
        let Some(Position { next, .. }) = lock(&self.positions).get(&from).copied() else { return false };
        let end = segment.end();
        if end <= next {
            return true;
        }
        let missed = segment.first.saturating_sub(next);
        let batch = Batch { from, events: Events::of(segment, next), missed };
        if self.queue.send(batch).await.is_err() {
            return false;
        }
        // No await lies between queueing and this: a follower that is aborted has done both or neither.
        if let Some(position) = lock(&self.positions).get_mut(&from) {
            position.next = end;
        }
        true
    }
}

/// What is held, for the one who acknowledges it.
#[derive(Clone, Copy)]
struct Held {
    /// The first event not held.
    next: u64,
    /// The bytes that have been received in all.
    bytes: usize,
}

/// Says what is held: a little after it arrives, or at once when it is much.
async fn write_acks(send: &mut SendStream, mut held: watch::Receiver<Held>) {
    let mut said = *held.borrow();
    while held.changed().await.is_ok() {
        let much = held.wait_for(|h| h.bytes - said.bytes >= ACK_AFTER);
        // Dropping the borrow at once, since the other side writes through the same lock.
        let _ = tokio::time::timeout(ACK_EVERY, async { much.await.map(|h| *h) }).await;
        said = *held.borrow_and_update();
        if send.write_all(&said.next.to_be_bytes()).await.is_err() {
            return;
        }
    }
}

/// Ends the subscription when the application lets go of it.
struct Handle(std::sync::Weak<Subscriber>);

impl Drop for Handle {
    fn drop(&mut self) {
        if let Some(subscriber) = self.0.upgrade() {
            subscriber.close();
            subscriber.hub.unsubscribe(subscriber.id);
        }
    }
}

/// A subscription to a channel: a stream of [`Event`]s. Dropping it unsubscribes.
///
/// The events of one publisher come in order; those of several are interleaved fairly. An event that is
/// not read stays in a bounded queue, then in the publisher's log, and then makes the publisher wait.
pub struct Subscription {
    channel: Arc<str>,
    batches: mpsc::Receiver<Batch>,
    current: Option<Batch>,
    _handle: Handle,
}

impl Subscription {
    /// The channel subscribed to.
    #[must_use]
    pub fn channel(&self) -> &str {
        &self.channel
    }

    /// The next event; `None` once the node has shut down and everything held was read. May be cancelled
    /// without losing an event.
    pub async fn next(&mut self) -> Option<Event> {
        std::future::poll_fn(|cx| self.poll(cx)).await
    }

    /// The next event, if one is here already.
    pub fn try_next(&mut self) -> Option<Event> {
        loop {
            if let Some(event) = self.take_current() {
                return Some(event);
            }
            self.current = Some(self.batches.try_recv().ok()?);
        }
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Option<Event>> {
        loop {
            if let Some(event) = self.take_current() {
                return Poll::Ready(Some(event));
            }
            self.current = ready!(self.batches.poll_recv(cx));
            if self.current.is_none() {
                return Poll::Ready(None);
            }
        }
    }

    fn take_current(&mut self) -> Option<Event> {
        let batch = self.current.as_mut()?;
        let (seq, unix_ms, payload) = batch.events.next()?;
        let missed = std::mem::take(&mut batch.missed);
        Some(Event { channel: Arc::clone(&self.channel), from: batch.from, seq, unix_ms, payload, missed })
    }
}

impl Stream for Subscription {
    type Item = Event;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Event>> {
        self.poll(cx)
    }
}

impl std::fmt::Debug for Subscription {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Subscription").field("channel", &self.channel).finish_non_exhaustive()
    }
}
