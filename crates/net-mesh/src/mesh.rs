//! A running node, as the application holds it.

mod services;
mod shutdown;
mod view;

use std::collections::BTreeMap;
use std::fmt;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use net_mesh_proto::drops::DropReason;
use net_mesh_proto::id::{MeshId, NodeId};
use net_mesh_proto::node::{Command, Config, Node};
use net_mesh_proto::time::Time;
use net_mesh_proto::wire::addr::{Scope, scope};
use quinn::{RecvStream, SendStream};
use tokio::sync::{Notify, mpsc, watch};
use tokio::time::{Instant, timeout};

use self::services::{Inbound, Members};
use crate::builder::Builder;
use crate::channel::{ChannelConfig, Hub, PublishError, Publisher, SubscribeError, Subscription};
use crate::driver::{Clock, Driver, SIGNALS, Signal};
use crate::error::{PeerError, ResolveError, StartError};
use crate::identity::Identity;
use crate::net::Network;
use crate::peer::{Path, Pong};
use crate::portmap::{Asker, Ledger};
use crate::session::{HANDSHAKE_TIMEOUT, Link, Sessions, stream};
use crate::socket::{Datagram, DropCounters, MeshSocket};

/// Streams opened by peers that wait for [`Mesh::accept_stream`]. More are refused.
const STREAM_BACKLOG: usize = 64;

/// Datagrams from peers that wait for [`Mesh::recv_datagram`]. More are dropped, as datagrams may be.
const DATAGRAM_BACKLOG: usize = 1024;

/// How long something that needs a session waits for one: an attempt, and a second one.
const SESSION_WAIT: Duration = Duration::from_secs(2 * HANDSHAKE_TIMEOUT.as_secs());

/// How long a ping waits for its answer.
const PING_WAIT: Duration = Duration::from_secs(5);

pub use shutdown::SHUTDOWN_LIMIT;

/// What a node is assembled from.
pub(crate) struct Parts {
    pub(crate) identity: Identity,
    pub(crate) name: String,
    pub(crate) config: Config,
    pub(crate) clock: Clock,
    pub(crate) channels: ChannelConfig,
    pub(crate) seed: [u8; 32],
    pub(crate) quic_seed: Option<[u8; 32]>,
    pub(crate) network: Arc<dyn Network>,
    pub(crate) socket: Arc<MeshSocket>,
    pub(crate) datagrams: mpsc::Receiver<Datagram>,
    pub(crate) drops: Arc<DropCounters>,
}

/// What the parts of a running node share.
pub(crate) struct Shared {
    id: NodeId,
    name: String,
    mesh: MeshId,
    relays: bool,
    clock: Clock,
    pub(crate) socket: Arc<MeshSocket>,
    pub(crate) drops: Arc<DropCounters>,
    /// Tells the driver to end.
    pub(crate) stop: Arc<Notify>,
    /// Tells those who wait for peers that the node is shutting down.
    down: watch::Sender<bool>,
    node: Mutex<Node>,
    links: Mutex<BTreeMap<NodeId, Arc<Link>>>,
    /// Peers whose session was lost or could not be opened, until one is.
    failed: Mutex<BTreeMap<NodeId, ()>>,
    signals: mpsc::Sender<Signal>,
    /// Tells the driver that this node's subscriptions changed.
    pub(crate) subscriptions: Notify,
    /// Counts changes of sessions and members, for those who wait for one.
    changes: watch::Sender<u64>,
    pub(crate) hub: Arc<Hub>,
    /// What is open on routers.
    pub(crate) ledger: Ledger,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Shared {
    pub(crate) const fn node_id(&self) -> NodeId {
        self.id
    }

    pub(crate) const fn relays(&self) -> bool {
        self.relays
    }

    pub(crate) fn node(&self) -> MutexGuard<'_, Node> {
        lock(&self.node)
    }

    pub(crate) fn now(&self) -> Time {
        self.clock.now()
    }

    pub(crate) fn instant(&self, at: Time) -> Instant {
        self.clock.instant(at)
    }

    pub(crate) fn changed(&self) {
        self.hub.members_changed();
        self.changes.send_modify(|n| *n += 1);
    }

    pub(crate) fn member_name(&self, peer: &NodeId) -> Option<String> {
        self.node().member(peer).map(|m| m.record.name.clone())
    }

    /// The way to `peer` at present.
    fn path(&self, peer: &NodeId) -> Path {
        self.node().path(peer).map_or(Path::NONE, |(route, via)| Path::of(route, via))
    }

    pub(crate) fn session_up(&self, link: Arc<Link>) {
        let peer = link.peer;
        lock(&self.links).insert(peer, Arc::clone(&link));
        lock(&self.failed).remove(&peer);
        self.hub.session_up(link);
        self.changed();
    }

    pub(crate) fn session_down(&self, peer: &NodeId) {
        let link = lock(&self.links).remove(peer);
        if !link.is_some_and(|link| link.was_unused()) {
            lock(&self.failed).insert(*peer, ());
        }
        self.hub.session_down(*peer);
        self.changed();
    }

    pub(crate) fn member_gone(&self, peer: &NodeId) {
        lock(&self.failed).remove(peer);
        self.changed();
    }

    pub(crate) fn dial_failed(&self, peer: Option<NodeId>) {
        if let Some(peer) = peer.filter(|p| self.link(p).is_none()) {
            lock(&self.failed).insert(peer, ());
        }
    }

    /// What a future comes to, unless the node shuts down before.
    async fn unless_down<T>(&self, future: impl Future<Output = T>) -> Result<T, PeerError> {
        let mut down = self.down.subscribe();
        tokio::select! {
            biased;
            _ = down.wait_for(|down| *down) => Err(PeerError::ShutDown),
            result = future => Ok(result),
        }
    }

    pub(crate) fn link(&self, peer: &NodeId) -> Option<Arc<Link>> {
        lock(&self.links).get(peer).cloned()
    }

    /// The connections of the sessions.
    pub(crate) fn links(&self) -> Vec<Arc<Link>> {
        lock(&self.links).values().cloned().collect()
    }

    fn say_what_stays(&self) {
        self.ledger.say_what_stays(self.now());
    }

    /// Tells the driver without waiting; when its queue is full the wish is repeated by whoever has it.
    pub(crate) fn command(&self, command: Command) {
        if self.signals.try_send(Signal::Command(command)).is_err() {
            self.drops.count(DropReason::QueueFull);
        }
    }
}

struct Inner {
    shared: Arc<Shared>,
    sessions: Arc<Sessions>,
    streams: tokio::sync::Mutex<mpsc::Receiver<(Arc<Link>, SendStream, RecvStream)>>,
    datagrams: tokio::sync::Mutex<mpsc::Receiver<(NodeId, Bytes)>>,
}

impl Drop for Inner {
    fn drop(&mut self) {
        self.shared.hub.close();
        self.sessions.close();
        self.shared.stop.notify_one();
        self.shared.say_what_stays();
    }
}

/// A node of a mesh. Cheap to clone; the node stops when the last clone is dropped, or at
/// [`shutdown`](Self::shutdown), which also says goodbye.
#[derive(Clone)]
pub struct Mesh {
    inner: Arc<Inner>,
}

impl Mesh {
    /// Sets up a node with `identity`.
    pub fn builder(identity: Identity) -> Builder {
        Builder::new(identity)
    }

    pub(crate) fn assemble(parts: Parts) -> Result<Self, StartError> {
        let id = parts.identity.node_id();
        let (signals, received) = mpsc::channel(SIGNALS);
        let (streams_tx, streams) = mpsc::channel(STREAM_BACKLOG);
        let (datagrams_tx, datagrams) = mpsc::channel(DATAGRAM_BACKLOG);
        let members = Arc::new(Members::default());
        let hub = Hub::new(parts.channels, id, parts.config.boot, Arc::clone(&members) as _);
        let clock = parts.clock;
        let shared = Arc::new(Shared {
            id,
            name: parts.name,
            mesh: parts.identity.mesh_id(),
            relays: parts.config.relay.is_some(),
            clock,
            socket: Arc::clone(&parts.socket),
            drops: Arc::clone(&parts.drops),
            stop: Arc::default(),
            down: watch::channel(false).0,
            node: Mutex::new(Node::new(clock.now(), parts.seed, parts.config)),
            links: Mutex::default(),
            failed: Mutex::default(),
            signals: signals.clone(),
            subscriptions: Notify::new(),
            changes: watch::channel(0).0,
            hub: Arc::clone(&hub),
            ledger: Ledger::default(),
        });
        *lock(&members.0) = Arc::downgrade(&shared);
        let services =
            Inbound { hub, members, streams: streams_tx, datagrams: datagrams_tx, drops: parts.drops };
        let nonces = parts.identity.derive("net-mesh port mapping v1");
        let router = Asker::new(parts.network.is_the_machines(), nonces);
        let sessions = Sessions::start(
            parts.identity,
            parts.quic_seed,
            parts.socket,
            signals.clone(),
            Arc::new(services),
        )?;
        let driver = Driver::new(
            Arc::clone(&shared),
            Arc::clone(&sessions),
            (parts.network, router),
            (signals.downgrade(), received),
            parts.datagrams,
        );
        tokio::spawn(driver.run());
        let inner = Inner { shared, sessions, streams: streams.into(), datagrams: datagrams.into() };
        Ok(Self { inner: Arc::new(inner) })
    }

    pub(crate) fn shared(&self) -> &Arc<Shared> {
        &self.inner.shared
    }

    /// This node's id.
    #[must_use]
    pub fn node_id(&self) -> NodeId {
        self.shared().id
    }

    /// This node's name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.shared().name
    }

    /// The mesh's id.
    #[must_use]
    pub fn mesh_id(&self) -> MeshId {
        self.shared().mesh
    }

    /// The addresses this node listens on. The IP is unspecified where it listens on all of the host's.
    #[must_use]
    pub fn local_addrs(&self) -> Vec<SocketAddr> {
        self.shared().socket.local_addrs()
    }

    /// Publishes an event of at most [`MAX_EVENT`](crate::MAX_EVENT) bytes on `channel`, and returns its
    /// sequence number: 1 for the first one that this run of the node publishes there.
    ///
    /// Every subscriber gets the events of one publisher in order, without loss or duplicates, as long as
    /// both nodes run. Waits while the channel's buffer is full; see
    /// [`channel_buffer`](Builder::channel_buffer) and [`stall_timeout`](Builder::stall_timeout).
    ///
    /// # Errors
    /// If the channel's name cannot be used, the event is too large, or the node is shutting down.
    pub async fn publish(&self, channel: &str, payload: impl Into<Bytes>) -> Result<u64, PublishError> {
        self.shared().hub.publish(channel, payload.into()).await
    }

    /// A handle for publishing many events on one channel.
    ///
    /// # Errors
    /// If the channel's name cannot be used.
    pub fn publisher(&self, channel: &str) -> Result<Publisher, PublishError> {
        self.shared().hub.publisher(channel)
    }

    /// Subscribes to `channel`: from now on, and until the subscription is dropped, what any member
    /// publishes there arrives.
    ///
    /// # Errors
    /// If the channel's name cannot be used, or there are too many subscriptions.
    pub fn subscribe(&self, channel: &str) -> Result<Subscription, SubscribeError> {
        self.shared().hub.subscribe(channel)
    }

    /// The name of a member.
    #[must_use]
    pub fn member_name(&self, peer: &NodeId) -> Option<String> {
        if *peer == self.node_id() {
            return Some(self.name().to_owned());
        }
        self.shared().member_name(peer)
    }

    /// The member that `text` names: by its name, or by its id or the start of it.
    ///
    /// # Errors
    /// If there is none, or more than one.
    pub fn resolve(&self, text: &str) -> Result<NodeId, ResolveError> {
        let shared = self.shared();
        let mut known: Vec<(NodeId, String)> =
            shared.node().members().map(|m| (m.record.node, m.record.name.clone())).collect();
        known.push((self.node_id(), self.name().to_owned()));
        let lower = text.to_ascii_lowercase();
        let by_name = known.iter().filter(|(_, name)| name == text).map(|(id, _)| *id);
        let mut candidates: Vec<_> = by_name.collect();
        if candidates.is_empty() && !lower.is_empty() {
            let by_id = known.iter().filter(|(id, _)| id.to_string().starts_with(&lower));
            candidates = by_id.map(|(id, _)| *id).collect();
        }
        match candidates[..] {
            [] => Err(ResolveError::Unknown(text.to_owned())),
            [one] => Ok(one),
            _ => Err(ResolveError::Ambiguous { text: text.to_owned(), candidates }),
        }
    }

    /// Changes the table of labels by hand.
    #[cfg(feature = "bench")]
    #[doc(hidden)]
    pub fn apply_label(&self, change: net_mesh_proto::relay::Change) {
        self.shared().socket.apply(change);
    }

    /// Public addresses of members, worth remembering as places to start from, best known first; at
    /// most 64.
    #[must_use]
    pub fn member_addrs(&self) -> Vec<SocketAddr> {
        let shared = self.shared();
        let straight = |s: net_mesh_proto::peer::Session| s.route.direct();
        let mut addrs: Vec<SocketAddr> = shared.node().sessions().filter_map(straight).collect();
        for member in shared.node().members() {
            addrs.extend(member.record.candidates.iter().filter(|a| scope(a.ip()) == Scope::Global));
        }
        let mut seen = std::collections::HashSet::new();
        addrs.retain(|a| seen.insert(*a));
        addrs.truncate(64);
        addrs
    }

    /// Measures the round trip to `peer` over its session, opening one if there is none.
    ///
    /// # Errors
    /// If the peer is unknown, cannot be reached, or does not answer.
    pub async fn ping(&self, peer: NodeId) -> Result<Pong, PeerError> {
        let link = self.session(peer).await?;
        let broken = |reason: String| PeerError::Broken { peer, reason };
        let sent = Instant::now();
        link.touch();
        let exchange = async {
            let (mut send, mut recv) = link.open(stream::PING).await.map_err(|e| broken(e.to_string()))?;
            send.write_all(b"ping").await.map_err(|e| broken(e.to_string()))?;
            send.finish().map_err(|e| broken(e.to_string()))?;
            recv.read_to_end(16).await.map_err(|e| broken(e.to_string()))
        };
        match timeout(PING_WAIT, exchange).await {
            Ok(Ok(answer)) if answer == b"ping" => {
                Ok(Pong { rtt: sent.elapsed(), path: self.shared().path(&peer) })
            }
            Ok(Ok(_)) => Err(broken("it did not answer the ping".to_owned())),
            Ok(Err(error)) => Err(error),
            Err(_) => Err(broken(format!("no answer within {} s", PING_WAIT.as_secs()))),
        }
    }

    /// Wants a session with `peer`, and looks for a direct path at once where it has none, even if the last attempts
    /// came to nothing: the first time it is said, then 30 s later, and half as often each time that it is of no use,
    /// down to once in ten minutes. So it may be said as often as one likes.
    ///
    /// # Errors
    /// If the peer is unknown.
    pub fn discover(&self, peer: NodeId) -> Result<(), PeerError> {
        let shared = self.shared();
        let known = shared.node().member(&peer).is_some();
        if !known {
            return Err(PeerError::Unknown(peer));
        }
        shared.command(Command::Discover { peer });
        Ok(())
    }

    /// Starts from `addrs` from now on, instead of those that the builder was given or that were named here before: for names
    /// that have to be looked up again. At most 64 count. Members that are known stay known.
    pub fn start_from(&self, addrs: Vec<SocketAddr>) {
        self.shared().command(Command::StartFrom(addrs));
    }

    /// Opens a stream to `peer`, over its session or a new one.
    ///
    /// # Errors
    /// If the peer is unknown or cannot be reached.
    pub async fn open_stream(&self, peer: NodeId) -> Result<(SendStream, RecvStream), PeerError> {
        let link = self.session(peer).await?;
        link.pin();
        let opened = link.open(stream::APPLICATION).await;
        opened.map_err(|e| PeerError::Broken { peer, reason: e.to_string() })
    }

    /// The next stream that a peer opened. At most 64 wait; more are refused.
    ///
    /// # Errors
    /// If the node is shutting down.
    pub async fn accept_stream(&self) -> Result<(NodeId, SendStream, RecvStream), PeerError> {
        let next = async { self.inner.streams.lock().await.recv().await };
        let (link, send, recv) = self.shared().unless_down(next).await?.ok_or(PeerError::ShutDown)?;
        link.pin();
        Ok((link.peer, send, recv))
    }

    /// Sends a datagram to `peer`: unordered, may be lost. 1100 bytes fit on every path.
    ///
    /// # Errors
    /// If the peer is unknown or cannot be reached, or the payload is too large at present.
    pub async fn send_datagram(&self, peer: NodeId, payload: &[u8]) -> Result<(), PeerError> {
        let link = self.session(peer).await?;
        link.send_datagram(payload).map_err(|error| match error {
            quinn::SendDatagramError::TooLarge => {
                let limit = link.connection.max_datagram_size().unwrap_or(1).saturating_sub(1);
                PeerError::TooLarge { peer, limit }
            }
            other => PeerError::Broken { peer, reason: other.to_string() },
        })
    }

    /// The next datagram from any peer. At most 1024 wait; more are dropped.
    ///
    /// # Errors
    /// If the node is shutting down.
    pub async fn recv_datagram(&self) -> Result<(NodeId, Bytes), PeerError> {
        let next = async { self.inner.datagrams.lock().await.recv().await };
        self.shared().unless_down(next).await?.ok_or(PeerError::ShutDown)
    }

    /// Opens a session with `peer` if there is none.
    ///
    /// # Errors
    /// If the peer is unknown or cannot be reached.
    pub async fn connect(&self, peer: NodeId) -> Result<(), PeerError> {
        self.session(peer).await.map(|_| ())
    }

    async fn session(&self, peer: NodeId) -> Result<Arc<Link>, PeerError> {
        let shared = self.shared();
        let mut changes = shared.changes.subscribe();
        let found = async {
            loop {
                if let Some(link) = shared.link(&peer) {
                    return Ok(link);
                }
                let known = shared.node().member(&peer).is_some();
                if !known {
                    return Err(PeerError::Unknown(peer));
                }
                // Said again now and then, in case the driver's queue was full.
                shared.command(Command::Want { peer });
                let _ = timeout(Duration::from_secs(1), changes.changed()).await;
            }
        };
        let found = shared.unless_down(timeout(SESSION_WAIT, found)).await?;
        found.unwrap_or(Err(PeerError::Unreachable(peer)))
    }

    /// Waits until something changed in who is a member or has a session with this node, or until the node
    /// shuts down.
    pub async fn changed(&self) {
        let mut changes = self.shared().changes.subscribe();
        let _ = self.shared().unless_down(changes.changed()).await;
    }
}

impl fmt::Debug for Mesh {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Mesh").field("node", &self.node_id()).field("name", &self.name()).finish()
    }
}
