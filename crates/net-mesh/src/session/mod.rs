//! Sessions: one QUIC connection per peer, mutual TLS end to end, over the mesh socket.
//!
//! This layer opens and accepts connections, checks who is at the other end, and carries control
//! messages and streams. *Which* connection with a peer is the session is the node's decision.
//!
//! Streams begin with a byte that says what they are for ([`stream`]).

mod config;
mod congestion;
mod connection;
#[cfg(test)]
mod connection_tests;
mod control;
pub(crate) mod stream;
#[cfg(test)]
pub(crate) mod testing;
#[cfg(test)]
mod tests;
mod tls;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use net_mesh_proto::id::NodeId;
use net_mesh_proto::node::{ConnId, DialFailure, DialId, Direction};
use net_mesh_proto::route::Route;
use quinn::{Connection, ConnectionError, Endpoint, Incoming, TokioRuntime};
use rustls::pki_types::CertificateDer;
use tokio::sync::{Semaphore, mpsc};
use tokio::time::{Instant, timeout, timeout_at};

pub use config::SetupError;
pub(crate) use config::connection_ids;
pub(crate) use connection::{Link, Served, Services};

use congestion::Congestion;

use crate::driver::Signal;
use crate::identity::{Identity, node_of};
use crate::socket::MeshSocket;
use crate::socket::slots::SlotId;

/// How long the end waits for peers to hear that their connections are closed.
pub(crate) const CLOSE_WAIT: Duration = Duration::from_millis(500);

/// How long an attempt to connect lasts. QUIC repeats its first packet at 0.3, 0.9, 2.1 and 4.5 s; when
/// both sides try within the same few seconds, their packets open each other's filters.
pub(crate) const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(8);

/// Attempts of one dial. Where a stranger answers first, the peer may still be at one of the other ways:
/// someone else's host may have the peer's private address here.
const MAX_ATTEMPTS: usize = 4;

/// How long a closed connection can still speak: three timeouts (RFC 9000 §10.2) of a slow path.
const LINGER: Duration = Duration::from_secs(3);

/// Handshakes of strangers worked on at a time; more are refused. One costs about a millisecond of
/// processor time and 50 KB.
const MAX_HANDSHAKES: usize = 512;

/// From this many strangers' handshakes on, a newcomer must prove its address first (RFC 9000 §8.1.2).
const RETRY_ABOVE: usize = 128;

/// Codes that a connection is closed with.
pub(crate) mod close {
    /// The node is shutting down.
    pub(crate) const SHUTDOWN: u32 = 0;
    /// Another connection with the same peer is the session, or nobody needs one at present.
    pub(crate) const UNUSED: u32 = 1;
    /// The peer broke the protocol.
    pub(crate) const PROTOCOL: u32 = 2;
    /// The peer does not read what it is told.
    pub(crate) const STALLED: u32 = 3;
    /// This is the node itself.
    pub(crate) const SELF: u32 = 4;
    /// The peer has not answered on any way for minutes.
    pub(crate) const SILENT: u32 = 5;
}

/// Opens and accepts connections.
pub(crate) struct Sessions {
    me: NodeId,
    identity: Identity,
    /// What incoming connections are set up with.
    server: quinn::ServerConfig,
    endpoint: Endpoint,
    socket: Arc<MeshSocket>,
    signals: mpsc::Sender<Signal>,
    services: Arc<dyn Services>,
    handshakes: Arc<Semaphore>,
    next: AtomicU64,
}

impl Sessions {
    /// Starts accepting connections on `socket`.
    pub(crate) fn start(
        identity: Identity,
        seed: Option<[u8; 32]>,
        socket: Arc<MeshSocket>,
        signals: mpsc::Sender<Signal>,
        services: Arc<dyn Services>,
    ) -> Result<Arc<Self>, crate::StartError> {
        let server = config::server(&identity)?;
        let endpoint = Endpoint::new_with_abstract_socket(
            config::endpoint(&identity, seed),
            Some(server.clone()),
            Arc::clone(&socket) as _,
            Arc::new(TokioRuntime),
        )
        .map_err(crate::StartError::Endpoint)?;
        let sessions = Arc::new(Self {
            me: identity.node_id(),
            identity,
            server,
            endpoint,
            socket,
            signals,
            services,
            handshakes: Arc::new(Semaphore::new(MAX_HANDSHAKES)),
            next: AtomicU64::new(0),
        });
        tokio::spawn(Arc::clone(&sessions).accept());
        Ok(sessions)
    }

    async fn accept(self: Arc<Self>) {
        while let Some(incoming) = self.endpoint.accept().await {
            let crowded = self.socket.slots().provisional() > RETRY_ABOVE;
            if crowded && !incoming.remote_address_validated() && incoming.may_retry() {
                // Cannot fail: `may_retry` was asked.
                let _ = incoming.retry();
                continue;
            }
            let Ok(permit) = Arc::clone(&self.handshakes).try_acquire_owned() else {
                incoming.refuse();
                continue;
            };
            match SlotId::of(incoming.remote_address()) {
                Some(slot) if self.socket.slots().hold(slot) => {
                    let sessions = Arc::clone(&self);
                    tokio::spawn(async move {
                        sessions.answer(incoming, slot).await;
                        drop(permit);
                    });
                }
                _ => incoming.ignore(),
            }
        }
    }

    async fn answer(&self, incoming: Incoming, slot: SlotId) {
        let congestion = Congestion::default();
        let config = config::for_connection(&self.server, &congestion);
        let connected = async { incoming.accept_with(config)?.await };
        match timeout(HANDSHAKE_TIMEOUT, connected).await {
            Ok(Ok(connection)) => {
                self.established((connection, congestion), slot, Direction::Incoming, None).await;
            }
            Ok(Err(error)) => {
                tracing::debug!(%error, "handshake of a stranger failed");
                self.socket.slots().release(slot);
            }
            Err(_) => self.socket.slots().release(slot),
        }
    }

    /// Tries to connect, and tells the node how it went.
    pub(crate) async fn dial(self: Arc<Self>, dial: DialId, peer: Option<NodeId>, routes: Vec<Route>) {
        if let Err(failure) = self.try_dial(dial, peer, &routes).await {
            tracing::debug!(?peer, ?routes, ?failure, "dial failed");
            let _ = self.signals.send(Signal::DialFailed { dial, failure }).await;
        }
    }

    async fn try_dial(
        &self,
        dial: DialId,
        peer: Option<NodeId>,
        routes: &[Route],
    ) -> Result<(), DialFailure> {
        let slots = self.socket.slots();
        let deadline = Instant::now() + HANDSHAKE_TIMEOUT;
        let mut left: Vec<_> = routes.iter().filter(|r| self.socket.is_usable(**r)).copied().collect();
        let mut failed = DialFailure::Unusable;
        for _ in 0..MAX_ATTEMPTS {
            // When all that is left is used by others, the first failure is the one to tell.
            let slot = slots.dial(peer, &left).ok_or(failed)?;
            match self.connect(peer, slot, deadline).await {
                Ok(connection) => {
                    self.established(connection, slot, Direction::Outgoing, Some(dial)).await;
                    return Ok(());
                }
                Err(failure) => failed = failure,
            }
            let impostor = slots.routes(slot.addr()).and_then(|routes| routes.chosen());
            slots.release(slot);
            let before = left.len();
            left.retain(|route| Some(*route) != impostor);
            if failed != DialFailure::Rejected || left.len() == before || left.is_empty() {
                break;
            }
        }
        Err(failed)
    }

    async fn connect(
        &self,
        peer: Option<NodeId>,
        slot: SlotId,
        deadline: Instant,
    ) -> Result<(Connection, Congestion), DialFailure> {
        let congestion = Congestion::default();
        let config = config::client(&self.identity, peer, &congestion).map_err(|_| DialFailure::Unusable)?;
        // The name is never sent nor checked; QUIC's interface wants one.
        let connecting =
            self.endpoint.connect_with(config, slot.addr(), "mesh").map_err(|_| DialFailure::Unusable)?;
        match timeout_at(deadline, connecting).await {
            Ok(Ok(connection)) => Ok((connection, congestion)),
            Ok(Err(ConnectionError::TimedOut)) | Err(_) => Err(DialFailure::Timeout),
            Ok(Err(error)) => {
                tracing::debug!(?peer, %error, "handshake failed");
                match error {
                    // This end's doing: nobody has said anything.
                    ConnectionError::LocallyClosed | ConnectionError::CidsExhausted => {
                        Err(DialFailure::Unusable)
                    }
                    _ => Err(DialFailure::Rejected),
                }
            }
        }
    }

    async fn established(
        &self,
        (connection, congestion): (Connection, Congestion),
        slot: SlotId,
        direction: Direction,
        dial: Option<DialId>,
    ) {
        let slots = self.socket.slots();
        let peer = peer_of(&connection).filter(|peer| *peer != self.me);
        let route = peer.and_then(|peer| slots.settle(slot, peer));
        let (Some(peer), Some(route)) = (peer, route) else {
            connection.close(close::SELF.into(), b"this is the node itself");
            slots.release(slot);
            if let Some(dial) = dial {
                let failure = DialFailure::Unusable;
                let _ = self.signals.send(Signal::DialFailed { dial, failure }).await;
            }
            return;
        };
        let id = ConnId(self.next.fetch_add(1, Ordering::Relaxed));
        congestion.begin(route);
        let link = Link::new(id, peer, slot, route, (connection.clone(), congestion));
        let rtt = connection.rtt();
        let connected = Signal::Connected { link: Arc::clone(&link), direction, dial, route, rtt };
        if self.signals.send(connected).await.is_err() {
            return;
        }
        link.run(self.signals.clone(), Arc::clone(&self.services));
        // The socket is not kept open for the sake of a slot.
        let (socket, signals) = (Arc::downgrade(&self.socket), self.signals.clone());
        tokio::spawn(async move {
            let reason = connection.closed().await;
            drop(connection);
            if let Some(socket) = socket.upgrade() {
                socket.slots().retire(slot);
            }
            tracing::debug!(?peer, conn = id.0, %reason, "connection closed");
            let _ = signals.send(Signal::Closed { conn: id }).await;
            // What closes it is still to be sent, and repeated to a peer that did not hear it.
            tokio::time::sleep(LINGER).await;
            if let Some(socket) = socket.upgrade() {
                socket.slots().release(slot);
            }
        });
    }

    /// Closes every connection, and accepts no more.
    pub(crate) fn close(&self) {
        self.endpoint.close(close::SHUTDOWN.into(), b"shutting down");
    }

    /// Closes every connection and waits until the peers had a chance to hear of it.
    pub(crate) async fn shutdown(&self) {
        self.close();
        // Closing connections linger for three timeouts (RFC 9000 §10.2); their first packet has left.
        let _ = timeout(CLOSE_WAIT, self.endpoint.wait_idle()).await;
    }
}

/// Who is at the other end of an authenticated connection.
fn peer_of(connection: &Connection) -> Option<NodeId> {
    let identity = connection.peer_identity()?.downcast::<Vec<CertificateDer<'static>>>().ok()?;
    node_of(identity.first()?)
}
