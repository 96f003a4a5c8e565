//! One authenticated connection: its control messages, its streams, its datagrams.

use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use bytes::{BufMut, Bytes, BytesMut};
use net_mesh_proto::id::NodeId;
use net_mesh_proto::node::{ConnId, Switch};
use net_mesh_proto::route::Route;
use quinn::{Connection, ConnectionError, RecvStream, SendStream};
use tokio::sync::mpsc;
use tokio::time::Instant;

use super::congestion::Congestion;
use super::{close, control, stream};
use crate::driver::Signal;
use crate::socket::slots::SlotId;

/// Control messages that may wait for one peer. A peer that leaves this many unread has stopped.
const CONTROL_QUEUE: usize = 1024;

/// A datagram that begins with this byte says nothing: it makes QUIC send and acknowledge.
const KICK: u8 = 0x00;

/// Datagrams of the application's begin with this byte; the rest are the mesh's own.
const APPLICATION_DATAGRAM: u8 = 0x01;

/// A stream that is being served, until it ends.
pub(crate) type Served = Pin<Box<dyn Future<Output = ()> + Send>>;

/// What is done with a peer's streams and datagrams.
pub(crate) trait Services: Send + Sync + 'static {
    /// The connection is up and its peer authenticated; whether it becomes the session is not decided yet.
    fn connected(&self, link: &Arc<Link>);
    /// A peer subscribes to a channel of ours.
    fn events(&self, link: Arc<Link>, send: SendStream, recv: RecvStream) -> Served;
    /// A peer sends events before it was asked to.
    fn push(&self, link: Arc<Link>, send: SendStream, recv: RecvStream) -> Served;
    /// A peer asks for this node's account of the two; `None` to say nothing.
    fn account(&self, peer: NodeId) -> Option<Vec<u8>>;
    /// A peer opened a stream for the application.
    fn stream(&self, link: Arc<Link>, send: SendStream, recv: RecvStream);
    /// A peer sent the application a datagram.
    fn datagram(&self, peer: NodeId, payload: Bytes);
}

/// A connection with a peer.
#[derive(Debug)]
pub(crate) struct Link {
    pub(crate) id: ConnId,
    pub(crate) peer: NodeId,
    /// Where the mesh socket keeps the connection's routes.
    pub(crate) slot: SlotId,
    /// The route on which it was set up.
    pub(crate) route: Route,
    pub(crate) connection: Connection,
    congestion: Congestion,
    control: mpsc::Sender<Vec<u8>>,
    outgoing: Mutex<Option<mpsc::Receiver<Vec<u8>>>>,
    /// This side closed it, because it was not needed.
    unused: AtomicBool,
    /// The application used it since someone last asked.
    active: AtomicBool,
    /// The application has, or had, a stream of its own on it.
    pinned: AtomicBool,
}

impl Link {
    pub(super) fn new(
        id: ConnId,
        peer: NodeId,
        slot: SlotId,
        route: Route,
        (connection, congestion): (Connection, Congestion),
    ) -> Arc<Self> {
        let (control, queue) = mpsc::channel(CONTROL_QUEUE);
        Arc::new(Self {
            id,
            peer,
            slot,
            route,
            connection,
            congestion,
            control,
            outgoing: Mutex::new(Some(queue)),
            unused: AtomicBool::new(false),
            active: AtomicBool::new(false),
            pinned: AtomicBool::new(false),
        })
    }

    /// Notes that the application uses this connection: an event, a datagram or a ping passed. Costs a load
    /// where it is noted already.
    pub(crate) fn touch(&self) {
        if !self.active.load(Ordering::Relaxed) {
            self.active.store(true, Ordering::Relaxed);
        }
    }

    /// Notes that the application has a stream of its own here. What passes on it is between the application
    /// and QUIC, so the connection counts as used from now on for as long as it lives.
    pub(crate) fn pin(&self) {
        self.pinned.store(true, Ordering::Relaxed);
    }

    /// Whether the application used this connection since the last call.
    pub(crate) fn take_activity(&self) -> bool {
        self.active.swap(false, Ordering::Relaxed)
    }

    /// Whether the application has had a stream on it.
    pub(crate) fn is_pinned(&self) -> bool {
        self.pinned.load(Ordering::Relaxed)
    }

    /// Starts the tasks that serve the connection until it closes.
    pub(super) fn run(self: &Arc<Self>, signals: mpsc::Sender<Signal>, services: Arc<dyn Services>) {
        let queue = self.outgoing.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(queue) = queue {
            let connection = self.connection.clone();
            tokio::spawn(async move {
                if let Ok(mut send) = connection.open_uni().await {
                    // What is said here decides whether anything else can be said.
                    let _ = send.set_priority(1);
                    if send.write_all(&[stream::CONTROL]).await.is_ok() {
                        let _ = control::write(send, queue).await;
                    }
                }
            });
        }
        services.connected(self);
        tokio::spawn(Arc::clone(self).accept_uni(signals));
        tokio::spawn(Arc::clone(self).accept_bi(Arc::clone(&services)));
        tokio::spawn(Arc::clone(self).datagrams(services));
    }

    /// A key that only the two ends of this connection know (RFC 8446 §7.5).
    pub(crate) fn session_key(&self) -> [u8; 32] {
        let mut key = [0; 32];
        // Fails only for keys far longer than this. Any other key that nobody knows then does no harm: the
        // session merely keeps its path.
        match self.connection.export_keying_material(&mut key, b"net-mesh liveness v1", b"") {
            Ok(()) => key,
            Err(_) => crate::identity::random_32().unwrap_or(key),
        }
    }

    /// Whether the connection ended because neither side needed it.
    pub(crate) fn was_unused(&self) -> bool {
        match self.connection.close_reason() {
            Some(ConnectionError::ApplicationClosed(closed)) => closed.error_code == close::UNUSED.into(),
            Some(ConnectionError::LocallyClosed) => self.unused.load(Ordering::Relaxed),
            _ => false,
        }
    }

    /// The connection travels over `route` from now on: its congestion control follows, and QUIC is made to send
    /// something at once, so that both sides notice what arrived.
    ///
    /// To be called once the socket sends over `route`, or what is sent at once takes the way before; and before
    /// anything is sent again, so that QUIC's own packets come first.
    pub(crate) fn switched(&self, route: Route, switch: Switch) {
        if self.congestion.switch(Instant::now().into_std(), route, switch) {
            // Fails only where the connection has ended. Both ends of a session accept datagrams.
            let _ = self.connection.send_datagram(Bytes::from_static(&[KICK]));
        }
    }

    /// Closes the connection: another one is the session, or nobody needs one.
    pub(crate) fn close_unused(&self) {
        self.unused.store(true, Ordering::Relaxed);
        self.connection.close(close::UNUSED.into(), b"another connection is in use, or none is needed");
    }

    /// Closes the connection: its peer does not answer any more.
    pub(crate) fn close_silent(&self) {
        self.connection.close(close::SILENT.into(), b"nothing was heard for minutes");
    }

    /// Queues a control message. A peer that does not read them is disconnected.
    pub(crate) fn send_control(&self, message: Vec<u8>) {
        if let Err(mpsc::error::TrySendError::Full(_)) = self.control.try_send(message) {
            tracing::warn!(peer = %self.peer.short(), "peer does not read control messages; disconnecting");
            self.connection.close(close::STALLED.into(), b"control messages unread");
        }
    }

    /// Sends the application's datagram.
    pub(crate) fn send_datagram(&self, payload: &[u8]) -> Result<(), quinn::SendDatagramError> {
        let mut datagram = BytesMut::with_capacity(payload.len() + 1);
        datagram.put_u8(APPLICATION_DATAGRAM);
        datagram.put_slice(payload);
        self.touch();
        self.connection.send_datagram(datagram.freeze())
    }

    /// Opens a bidirectional stream for `purpose`.
    pub(crate) async fn open(&self, purpose: u8) -> Result<(SendStream, RecvStream), quinn::WriteError> {
        let (mut send, recv) = self.connection.open_bi().await?;
        send.write_all(&[purpose]).await?;
        Ok((send, recv))
    }

    async fn accept_uni(self: Arc<Self>, signals: mpsc::Sender<Signal>) {
        let mut control_seen = false;
        while let Ok(mut recv) = self.connection.accept_uni().await {
            match read_purpose(&mut recv).await {
                Some(stream::CONTROL) if !control_seen => {
                    control_seen = true;
                    tokio::spawn(Arc::clone(&self).read_control(recv, signals.clone()));
                }
                Some(stream::CONTROL) => {
                    self.connection.close(close::PROTOCOL.into(), b"a second control stream");
                }
                // A later version may have purposes that this one does not know.
                _ => drop(recv),
            }
        }
    }

    async fn read_control(self: Arc<Self>, mut recv: RecvStream, signals: mpsc::Sender<Signal>) {
        while let Ok(message) = control::read(&mut recv).await {
            let Some(bytes) = message else {
                self.connection.close(close::PROTOCOL.into(), b"control message too long");
                return;
            };
            if signals.send(Signal::Control { conn: self.id, bytes }).await.is_err() {
                return;
            }
        }
    }

    async fn accept_bi(self: Arc<Self>, services: Arc<dyn Services>) {
        while let Ok((send, mut recv)) = self.connection.accept_bi().await {
            let (link, services) = (Arc::clone(&self), Arc::clone(&services));
            // A stream whose first byte is late must not hold up those behind it.
            tokio::spawn(async move {
                match read_purpose(&mut recv).await {
                    Some(stream::EVENTS) => services.events(link, send, recv).await,
                    Some(stream::PUSH) => services.push(link, send, recv).await,
                    Some(stream::APPLICATION) => services.stream(link, send, recv),
                    Some(stream::PING) => {
                        link.touch();
                        echo(send, recv).await;
                    }
                    Some(stream::ACCOUNT) => {
                        if let Some(answer) = services.account(link.peer) {
                            say(send, &answer).await;
                        }
                    }
                    _ => {}
                }
            });
        }
    }

    async fn datagrams(self: Arc<Self>, services: Arc<dyn Services>) {
        while let Ok(mut datagram) = self.connection.read_datagram().await {
            if datagram.first() == Some(&APPLICATION_DATAGRAM) {
                self.touch();
                services.datagram(self.peer, datagram.split_off(1));
            }
        }
    }
}

async fn read_purpose(recv: &mut RecvStream) -> Option<u8> {
    let mut purpose = [0];
    recv.read_exact(&mut purpose).await.ok()?;
    Some(purpose[0])
}

/// Longest ping that is answered, in bytes.
const MAX_PING: usize = 64;

async fn echo(send: SendStream, mut recv: RecvStream) {
    if let Ok(bytes) = recv.read_to_end(MAX_PING).await {
        say(send, &bytes).await;
    }
}

async fn say(mut send: SendStream, bytes: &[u8]) {
    if send.write_all(bytes).await.is_ok() {
        let _ = send.finish();
    }
}
