//! A subscription: what the node holds of it, and what the application reads.

use std::collections::BTreeMap;
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, ready};

use futures_util::Stream;
use net_mesh_proto::id::NodeId;
use tokio::sync::{mpsc, watch};
use tokio::time::Instant;

use super::Event;
use super::follow::Followers;
use super::hub::{Channel, Hub, lock};
use super::log::CursorId;
use super::progress::Progress;
use super::segment::{Events, Segment};

/// A segment on its way to the application.
#[derive(Debug)]
struct Batch {
    from: NodeId,
    events: Events,
    missed: u64,
    restarted: bool,
    cost: u64,
    progress: Arc<Progress>,
}

/// How far a subscription has got with one publisher.
#[derive(Clone, Debug)]
pub(super) struct Place {
    /// The publisher's run.
    pub(super) boot: u64,
    /// The first event not held.
    pub(super) next: u64,
    /// How far the application has got.
    pub(super) progress: Arc<Progress>,
    /// It is another run than the one before, and the application does not know yet.
    restarted: bool,
}

/// A subscription, as the node holds it.
pub(super) struct Subscriber {
    pub(super) id: u64,
    own: Arc<Channel>,
    hub: Arc<Hub>,
    queue: mpsc::UnboundedSender<Batch>,
    places: Mutex<BTreeMap<NodeId, Place>>,
    /// The task that follows each publisher.
    pub(super) followers: Mutex<Followers>,
    /// Numbers what publishers are asked and told.
    attempts: AtomicU64,
    done: watch::Sender<bool>,
}

impl Subscriber {
    pub(super) fn new(id: u64, own: Arc<Channel>, hub: Arc<Hub>) -> (Arc<Self>, Subscription) {
        // Bounded by what may be held of each publisher.
        let (queue, batches) = mpsc::unbounded_channel();
        let channel = Arc::clone(&own.name);
        let subscriber = Arc::new(Self {
            id,
            own,
            hub,
            queue,
            places: Mutex::default(),
            followers: Mutex::default(),
            attempts: AtomicU64::new(0),
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

    /// Whether the subscription has ended.
    pub(super) fn is_closed(&self) -> bool {
        *self.done.borrow()
    }

    /// Waits until the subscription ends.
    pub(super) async fn closed(&self) {
        // Cannot fail: the sender is this subscription's.
        let _ = self.done.subscribe().wait_for(|done| *done).await;
    }

    /// A number above all that publishers were told before.
    pub(super) fn next_attempt(&self) -> u64 {
        self.attempts.fetch_add(1, Ordering::Relaxed) + 1
    }

    /// How far it has got with a publisher.
    pub(super) fn place(&self, peer: &NodeId) -> Option<Place> {
        lock(&self.places).get(peer).cloned()
    }

    /// Goes on in the run `boot` of a publisher, from its event `first` if nothing came of that run before.
    pub(super) fn settle(&self, peer: NodeId, boot: u64, first: u64) -> Arc<Progress> {
        let mut places = lock(&self.places);
        let earlier = places.get(&peer);
        if let Some(place) = earlier.filter(|p| p.boot == boot) {
            return Arc::clone(&place.progress);
        }
        let progress = Progress::from(first, earlier.map(|p| &*p.progress));
        // Of a run that follows another one every event was awaited.
        let restarted = earlier.is_some();
        let next = if restarted { 1 } else { first };
        places.insert(peer, Place { boot, next, progress: Arc::clone(&progress), restarted });
        progress
    }

    /// Follows this node's own publishing.
    pub(super) fn follow_own(self: &Arc<Self>) {
        let id = CursorId::Local(self.id);
        let attached = self.own.log().attach(Instant::now(), id, 0, None);
        let Some((generation, first)) = attached else {
            let channel = self.channel();
            tracing::warn!(channel, "too many subscribers: this node's own events will not be heard here");
            return;
        };
        let progress = self.settle(self.hub.me, self.hub.boot, first);
        let subscriber = Arc::clone(self);
        tokio::spawn(async move {
            tokio::select! {
                biased;
                () = subscriber.closed() => {}
                () = subscriber.copy_own(id, generation, &progress, first) => {}
            }
            subscriber.own.log().remove(id, generation);
            subscriber.own.shrunk();
        });
    }

    async fn copy_own(&self, id: CursorId, generation: u64, progress: &Arc<Progress>, first: u64) {
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
                if !self.deliver(self.hub.me, segment, progress) {
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

    /// Queues what is new in a segment. False if the subscription has ended.
    pub(super) fn deliver(&self, from: NodeId, segment: Segment, progress: &Arc<Progress>) -> bool {
        let mut places = lock(&self.places);
        let Some(place) = places.get_mut(&from) else { return false };
        let (next, end) = (place.next, segment.end());
        if end <= next {
            return true;
        }
        let missed = segment.first.saturating_sub(next);
        let cost = segment.cost() as u64;
        progress.hold(cost);
        let events = Events::of(segment, next);
        let restarted = std::mem::take(&mut place.restarted);
        let batch = Batch { from, events, missed, restarted, cost, progress: Arc::clone(progress) };
        if self.queue.send(batch).is_err() {
            return false;
        }
        place.next = end;
        progress.queued();
        true
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
            batch.progress.took_segment(batch.cost);
            self.current = None;
            return None;
        };
        batch.progress.took(seq);
        let (missed, restarted) = (std::mem::take(&mut batch.missed), std::mem::take(&mut batch.restarted));
        let channel = Arc::clone(&self.channel);
        Some(Event { channel, from: batch.from, seq, unix_ms, payload, missed, restarted })
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
