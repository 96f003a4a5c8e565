//! The subscriber's end of a stream, and the subscription that the application reads.

use std::collections::BTreeMap;
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::BytesMut;
use futures_util::Stream;
use net_mesh_proto::id::NodeId;
use quinn::{Connection, RecvStream, SendStream};
use tokio::sync::{Notify, mpsc, watch};
use tokio::task::JoinHandle;
use tokio::time::{Instant, timeout};

use super::handshake::{ANSWER, GOODBYE, Request, parse_answer};
use super::hub::{Channel, Hub, lock};
use super::log::{CREDIT, CursorId};
use super::segment::{Events, FULL, HEADER, Header, Segment};
use super::{Event, MAX_EVENT};
use crate::session::stream;

/// What a publisher may send beyond its credit: the segment that exceeds it.
const EXCESS: u64 = (MAX_EVENT + FULL + HEADER) as u64;

/// Acknowledgements are sent about this often while the application reads.
const ACK_EVERY: Duration = Duration::from_millis(20);

/// ... or within this, once it has not read for a while: a tenth of a publisher's stall time
/// unless it is set otherwise,
const ACK_WITHIN: Duration = Duration::from_millis(500);

/// ... and as soon as it has taken this many bytes.
const ACK_AFTER: u64 = 256 << 10;

/// First pause before a publisher that ended a stream is asked again; doubles up to [`RETRY_MAX`].
const RETRY: Duration = Duration::from_secs(1);

const RETRY_MAX: Duration = Duration::from_secs(60);

/// How long the end of a subscription waits for its goodbye to be sent.
const GOODBYE_WAIT: Duration = Duration::from_secs(2);

/// A segment on its way to the application.
#[derive(Debug)]
struct Batch {
    from: NodeId,
    events: Events,
    missed: u64,
    size: u64,
    progress: Arc<Progress>,
}

/// How far the application has got with what one stream brought.
#[derive(Debug)]
struct Progress {
    /// The first event not taken.
    taken: AtomicU64,
    /// The bytes of the segments taken whole.
    bytes: AtomicU64,
    /// The bytes of the segments queued.
    queued: AtomicU64,
    /// Something was queued, or much was taken.
    news: Notify,
}

impl Progress {
    fn from(next: u64) -> Arc<Self> {
        let (taken, bytes, queued) = (AtomicU64::new(next), AtomicU64::new(0), AtomicU64::new(0));
        Arc::new(Self { taken, bytes, queued, news: Notify::new() })
    }

    fn took(&self, seq: u64) {
        self.taken.store(seq + 1, Ordering::Relaxed);
    }

    fn took_segment(&self, size: u64) {
        let before = self.bytes.fetch_add(size, Ordering::Relaxed);
        if before / ACK_AFTER != (before + size) / ACK_AFTER {
            self.news.notify_one();
        }
    }

    /// Waits until there is something to acknowledge that `said` does not cover, and a little longer unless
    /// it is much.
    async fn beyond(&self, said: u64) -> u64 {
        let mut pause = ACK_EVERY;
        loop {
            // While something is queued the application may take it at any time, and does not tell.
            let idle = self.bytes.load(Ordering::Relaxed) == self.queued.load(Ordering::Relaxed)
                && self.taken.load(Ordering::Relaxed) == said;
            if idle {
                self.news.notified().await;
            }
            let _ = timeout(pause, self.news.notified()).await;
            let taken = self.taken.load(Ordering::Relaxed);
            if taken != said {
                return taken;
            }
            // An application that does not read is asked less and less often.
            pause = (2 * pause).min(ACK_WITHIN);
        }
    }
}

/// How far a subscription has got with one publisher.
#[derive(Clone, Copy, Debug, Default)]
struct Position {
    boot: u64,
    next: u64,
}

/// Held by the task that follows a publisher.
type Turn = Arc<tokio::sync::Mutex<()>>;

/// A subscription, as the node holds it.
pub(super) struct Subscriber {
    id: u64,
    own: Arc<Channel>,
    hub: Arc<Hub>,
    queue: mpsc::UnboundedSender<Batch>,
    positions: Mutex<BTreeMap<NodeId, Position>>,
    /// The task that follows each publisher.
    followers: Mutex<BTreeMap<NodeId, (Turn, JoinHandle<()>)>>,
    done: watch::Sender<bool>,
}

impl Subscriber {
    pub(super) fn new(id: u64, own: Arc<Channel>, hub: Arc<Hub>) -> (Arc<Self>, Subscription) {
        // Bounded by the credit of each publisher.
        let (queue, batches) = mpsc::unbounded_channel();
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
                    () = subscriber.copy_own(id, generation, first) => {}
                }
                subscriber.own.log().remove(id, generation);
                subscriber.own.shrunk();
            });
        }
    }

    async fn copy_own(&self, id: CursorId, generation: u64, first: u64) {
        let progress = Progress::from(first);
        let acks = async {
            let mut said = first;
            loop {
                said = progress.beyond(said).await;
                self.own.log().ack(Instant::now(), id, generation, said);
                self.own.shrunk();
            }
        };
        let segments = async {
            loop {
                let grown = self.own.grown.notified();
                tokio::pin!(grown);
                grown.as_mut().enable();
                let segment = self.own.log().next_for(id, generation);
                let Some(segment) = segment else {
                    grown.await;
                    continue;
                };
                if !self.deliver(self.hub.me, segment, &progress) {
                    return;
                }
            }
        };
        tokio::select! {
            biased;
            () = acks => {}
            () = segments => {}
        }
    }

    /// Follows `peer` over `connection`, in place of any earlier one.
    pub(super) fn follow(self: &Arc<Self>, peer: NodeId, connection: Connection) {
        let mut followers = lock(&self.followers);
        let earlier = followers.remove(&peer);
        // Two followers at once would deliver twice: the later one waits until the earlier one is gone.
        let turn = earlier.map_or_else(Arc::default, |(turn, task)| {
            task.abort();
            turn
        });
        let next_turn = Arc::clone(&turn);
        let subscriber = Arc::clone(self);
        let task = tokio::spawn(async move {
            let _turn = turn.lock_owned().await;
            let mut done = subscriber.done.subscribe();
            // A subscription that ends is said goodbye to on the stream, so that is waited for.
            let following = subscriber.keep_following(peer, connection);
            tokio::pin!(following);
            tokio::select! {
                biased;
                () = &mut following => return,
                _ = done.wait_for(|done| *done) => {}
            }
            let _ = timeout(GOODBYE_WAIT, following).await;
        });
        followers.retain(|_, (_, task)| !task.is_finished());
        followers.insert(peer, (next_turn, task));
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
        let progress = Progress::from(next);
        let mut done = self.done.subscribe();
        tokio::select! {
            biased;
            _ = done.wait_for(|done| *done) => {}
            Err(reason) = self.copy_stream(peer, &mut recv, &progress) => return Err(reason),
            () = write_acks(&mut send, &progress, next) => return Err("the publisher ended it".to_owned()),
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
        progress: &Arc<Progress>,
    ) -> Result<(), String> {
        loop {
            let segment = read_segment(recv).await?;
            let held = progress.queued.load(Ordering::Relaxed) - progress.bytes.load(Ordering::Relaxed);
            // What is on its way to the publisher as an acknowledgement counts there as held still.
            if held > CREDIT + EXCESS {
                return Err("it sends more than it may".to_owned());
            }
            if !self.deliver(peer, segment, progress) {
                return Ok(());
            }
        }
    }

    /// Queues what is new in a segment. False if the subscription has ended.
    fn deliver(&self, from: NodeId, segment: Segment, progress: &Arc<Progress>) -> bool {
        let mut positions = lock(&self.positions);
        let Some(position) = positions.get_mut(&from) else { return false };
        let (next, end) = (position.next, segment.end());
        if end <= next {
            return true;
        }
        let missed = segment.first.saturating_sub(next);
        let size = (segment.body.len() + HEADER) as u64;
        progress.queued.fetch_add(size, Ordering::Relaxed);
        let events = Events::of(segment, next);
        let batch = Batch { from, events, missed, size, progress: Arc::clone(progress) };
        if self.queue.send(batch).is_err() {
            return false;
        }
        position.next = end;
        progress.news.notify_one();
        true
    }
}

/// The next segment of a stream. Memory is taken for what arrives, not for what is announced.
async fn read_segment(recv: &mut RecvStream) -> Result<Segment, String> {
    let mut header = [0; HEADER];
    recv.read_exact(&mut header).await.map_err(|e| e.to_string())?;
    let header = Header::parse(&header).map_err(|e| e.to_string())?;
    let mut body = BytesMut::new();
    while body.len() < header.length {
        let chunk = recv.read_chunk(header.length - body.len(), true).await.map_err(|e| e.to_string())?;
        let chunk = chunk.ok_or("it ended in the middle of a segment")?.bytes;
        // Copied, since a piece would keep the whole buffer it was received in.
        body.extend_from_slice(&chunk);
    }
    header.with_body(body.freeze()).map_err(|e| e.to_string())
}

/// Says what the application has taken, until that cannot be said any more.
async fn write_acks(send: &mut SendStream, progress: &Progress, mut said: u64) {
    loop {
        said = progress.beyond(said).await;
        if send.write_all(&said.to_be_bytes()).await.is_err() {
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
/// The events of one publisher come in order; those of several are interleaved as they arrive. Events that
/// are not read wait here, up to 4 MiB from each publisher, then in the publisher's log, and then make the
/// publisher wait.
pub struct Subscription {
    channel: Arc<str>,
    /// Dropped first: what arrives until then is still welcome.
    _handle: Handle,
    batches: mpsc::UnboundedReceiver<Batch>,
    current: Option<Batch>,
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
        let Some((seq, unix_ms, payload)) = batch.events.next() else {
            batch.progress.took_segment(batch.size);
            self.current = None;
            return None;
        };
        batch.progress.took(seq);
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
