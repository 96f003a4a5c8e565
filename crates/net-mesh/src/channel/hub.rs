//! The channels of a node, and publishing on them.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use net_mesh_proto::id::{ChannelId, NodeId};
use tokio::sync::Notify;
use tokio::time::{Instant, timeout_at};

use super::log::{Log, Room};
use super::segment::HEADER;
use super::subscribe::{Subscriber, Subscription};
use super::table::{MAX_CHANNELS, Table};
use super::{ChannelConfig, MAX_EVENT, Membership, PublishError, SubscribeError, is_valid_name};
use crate::session::Link;

/// Subscriptions of a node. Each holds a queue and, per publisher, a stream.
pub(super) const MAX_SUBSCRIPTIONS: usize = 1024;

/// A publisher looks this often for subscribers it should have a session with, besides when members change.
const LOOK: Duration = Duration::from_secs(5);

/// A publisher in a tight loop lets others run after this many bytes: on a runtime of one thread, nobody
/// else sends what it publishes. A few segments, so that each turn sends full batches.
const YIELD_AFTER: usize = 64 << 10;

pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A channel's log, and those who wait for it to change.
#[derive(Debug)]
pub(super) struct Channel {
    pub(super) name: Arc<str>,
    id: ChannelId,
    log: Mutex<Log>,
    /// There may be something to send: something was published or acknowledged.
    pub(super) grown: Notify,
    /// Something was acknowledged.
    shrunk: Notify,
    looked: Mutex<Option<(u64, Instant)>>,
    /// Bytes published since a publisher last let others run.
    ran: AtomicUsize,
}

impl Channel {
    /// A channel whose first event will have number `next`.
    pub(super) fn new(name: Arc<str>, config: &ChannelConfig, next: u64) -> Self {
        Self {
            id: ChannelId::of(&name),
            name,
            log: Mutex::new(Log::new(config.log_bytes, config.stall_timeout, next)),
            grown: Notify::new(),
            shrunk: Notify::new(),
            looked: Mutex::new(None),
            ran: AtomicUsize::new(0),
        }
    }

    pub(super) fn log(&self) -> MutexGuard<'_, Log> {
        lock(&self.log)
    }

    /// Something was acknowledged, or a cursor went: there may be room for publishers, and credit for
    /// those who send.
    pub(super) fn shrunk(&self) {
        self.shrunk.notify_waiters();
        self.grown.notify_waiters();
    }
}

#[derive(Default)]
struct State {
    channels: Table,
    subscribers: BTreeMap<u64, Arc<Subscriber>>,
    sessions: BTreeMap<NodeId, Arc<Link>>,
}

/// The channels of a node.
pub(crate) struct Hub {
    pub(super) config: ChannelConfig,
    pub(super) me: NodeId,
    /// This run of the node.
    pub(super) boot: u64,
    members: Arc<dyn Membership>,
    state: Mutex<State>,
    /// Changes when members or sessions do.
    epoch: AtomicU64,
    next_subscription: AtomicU64,
    closed: AtomicBool,
}

impl Hub {
    pub(crate) fn new(
        config: ChannelConfig,
        me: NodeId,
        boot: u64,
        members: Arc<dyn Membership>,
    ) -> Arc<Self> {
        Arc::new(Self {
            config,
            me,
            boot,
            members,
            state: Mutex::default(),
            epoch: AtomicU64::new(0),
            // Unlike those of earlier runs, whose cursors publishers may still hold.
            next_subscription: AtomicU64::new(boot << 20),
            closed: AtomicBool::new(false),
        })
    }

    /// Publishes one event.
    pub(crate) async fn publish(&self, channel: &str, payload: Bytes) -> Result<u64, PublishError> {
        let channel = self.channel_to_publish(channel)?;
        self.publish_on(&channel, &payload).await
    }

    /// A handle for publishing on one channel.
    pub(crate) fn publisher(self: &Arc<Self>, channel: &str) -> Result<Publisher, PublishError> {
        Ok(Publisher { hub: Arc::clone(self), channel: self.channel_to_publish(channel)? })
    }

    fn channel_to_publish(&self, name: &str) -> Result<Arc<Channel>, PublishError> {
        if !is_valid_name(name) {
            return Err(PublishError::Channel(name.to_owned()));
        }
        self.own_channel(name).ok_or(PublishError::TooManyChannels(MAX_CHANNELS))
    }

    fn own_channel(&self, name: &str) -> Option<Arc<Channel>> {
        lock(&self.state).channels.own(name, &self.config)
    }

    /// The channel called `name`, which `peer` asks for; `None` if there are too many.
    pub(super) fn asked_channel(&self, name: &str, peer: NodeId) -> Option<Arc<Channel>> {
        lock(&self.state).channels.asked(name, peer, &self.config)
    }

    async fn publish_on(&self, channel: &Channel, payload: &[u8]) -> Result<u64, PublishError> {
        if payload.len() > MAX_EVENT {
            return Err(PublishError::TooLarge(payload.len()));
        }
        // Bookkeeping counts as well, so that empty events do not go on for ever either.
        let size = payload.len() + HEADER;
        if channel.ran.fetch_add(size, Ordering::Relaxed) + size > YIELD_AFTER {
            channel.ran.store(0, Ordering::Relaxed);
            tokio::task::yield_now().await;
        }
        let mut now = Instant::now();
        self.look_for_subscribers(channel, now);
        loop {
            if self.closed.load(Ordering::Relaxed) {
                return Err(PublishError::ShutDown);
            }
            let shrunk = channel.shrunk.notified();
            let until = {
                let mut log = channel.log();
                match log.room(now, size) {
                    Room::Free => {
                        let seq = log.push(self.config.clock.unix_ms(), payload);
                        drop(log);
                        channel.grown.notify_waiters();
                        return Ok(seq);
                    }
                    Room::Full(until) => until,
                }
            };
            // Whether it was notified or the time has come, the log is asked again.
            let _ = timeout_at(until, shrunk).await;
            now = Instant::now();
        }
    }

    /// Lets events wait for members that subscribe but have not come, and asks for sessions with them.
    fn look_for_subscribers(&self, channel: &Channel, now: Instant) {
        let epoch = self.epoch.load(Ordering::Relaxed);
        {
            let mut looked = lock(&channel.looked);
            if looked.is_some_and(|(e, at)| e == epoch && now - at < LOOK) {
                return;
            }
            *looked = Some((epoch, now));
        }
        for peer in self.members.subscribers(channel.id) {
            channel.log().expect(now, peer);
            self.members.want(peer);
        }
    }

    /// Subscribes to `channel`.
    pub(crate) fn subscribe(self: &Arc<Self>, channel: &str) -> Result<Subscription, SubscribeError> {
        if !is_valid_name(channel) {
            return Err(SubscribeError::Channel(channel.to_owned()));
        }
        if self.closed.load(Ordering::Relaxed) {
            return Err(SubscribeError::ShutDown);
        }
        let too_many = SubscribeError::TooMany(MAX_SUBSCRIPTIONS);
        let own = self.own_channel(channel).ok_or(too_many.clone())?;
        let id = self.next_subscription.fetch_add(1, Ordering::Relaxed);
        let (subscriber, subscription) = Subscriber::new(id, own, Arc::clone(self));
        {
            // Under one lock with what sessions do, so that no session is missed or followed when it is
            // no longer the one.
            let mut state = lock(&self.state);
            if self.closed.load(Ordering::Relaxed) {
                return Err(SubscribeError::ShutDown);
            }
            if state.subscribers.len() >= MAX_SUBSCRIPTIONS {
                return Err(too_many);
            }
            state.subscribers.insert(id, Arc::clone(&subscriber));
            for link in state.sessions.values() {
                subscriber.follow(link);
            }
        }
        subscriber.follow_own();
        self.members.subscriptions_changed();
        Ok(subscription)
    }

    /// A subscription of this node's own has ended.
    pub(super) fn unsubscribe(&self, id: u64) {
        lock(&self.state).subscribers.remove(&id);
        self.members.subscriptions_changed();
    }

    /// The channels that this node subscribes to.
    pub(crate) fn subscribed(&self) -> Vec<ChannelId> {
        let mut channels: Vec<_> =
            lock(&self.state).subscribers.values().map(|s| ChannelId::of(s.channel())).collect();
        channels.sort_unstable();
        channels.dedup();
        channels
    }

    /// Subscriptions of this node's own to `channel`, by age.
    pub(super) fn subscribers_to(&self, channel: &str) -> Vec<Arc<Subscriber>> {
        let state = lock(&self.state);
        state.subscribers.values().filter(|s| s.channel() == channel).cloned().collect()
    }

    /// There is an authenticated connection. What waits for its peer is sent on it without asking whether it
    /// will be the session: if it will not, it closes, and the peer goes on elsewhere from what it has.
    pub(crate) fn connected(self: &Arc<Self>, link: &Arc<Link>) {
        if self.closed.load(Ordering::Relaxed) {
            return;
        }
        let channels: Vec<_> = lock(&self.state).channels.all().cloned().collect();
        for channel in channels {
            self.push(link, &channel);
        }
    }

    /// There is a session, perhaps in place of another one with the same peer.
    pub(crate) fn session_up(&self, link: Arc<Link>) {
        {
            let mut state = lock(&self.state);
            for subscriber in state.subscribers.values() {
                subscriber.follow(&link);
            }
            state.sessions.insert(link.peer, link);
        }
        self.members_changed();
    }

    /// There is no session with `peer` any more.
    pub(crate) fn session_down(&self, peer: NodeId) {
        lock(&self.state).sessions.remove(&peer);
        self.members_changed();
    }

    /// Forgets the places of those who did not come back, and channels that nobody uses.
    pub(crate) fn sweep(&self) {
        lock(&self.state).channels.sweep(Instant::now());
    }

    /// Members' records changed: there may be new subscribers.
    pub(crate) fn members_changed(&self) {
        self.epoch.fetch_add(1, Ordering::Relaxed);
    }

    /// Ends publishing, and waits until those who are connected have everything. Bounded by the caller.
    pub(crate) async fn drain(&self) {
        self.closed.store(true, Ordering::Relaxed);
        let channels: Vec<_> = lock(&self.state).channels.all().cloned().collect();
        for channel in channels {
            loop {
                let shrunk = channel.shrunk.notified();
                if channel.log().is_drained() {
                    break;
                }
                // Polled besides, because cursors also go without an acknowledgement.
                let _ = timeout_at(Instant::now() + Duration::from_millis(50), shrunk).await;
            }
        }
    }

    /// Ends every subscription of this node's own: they yield what they hold, then nothing.
    pub(crate) fn close(&self) {
        self.closed.store(true, Ordering::Relaxed);
        let mut state = lock(&self.state);
        state.sessions.clear();
        for subscriber in std::mem::take(&mut state.subscribers).values() {
            subscriber.close();
        }
    }
}

/// Publishes on one channel. Cheap to clone.
#[derive(Clone)]
pub struct Publisher {
    hub: Arc<Hub>,
    channel: Arc<Channel>,
}

impl Publisher {
    /// Publishes an event, as [`Mesh::publish`](crate::Mesh::publish) does.
    ///
    /// # Errors
    /// If the event is too large, or the node is shutting down.
    pub async fn publish(&self, payload: impl AsRef<[u8]>) -> Result<u64, PublishError> {
        self.hub.publish_on(&self.channel, payload.as_ref()).await
    }
}

impl std::fmt::Debug for Publisher {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Publisher").field("channel", &self.channel.name).finish_non_exhaustive()
    }
}
