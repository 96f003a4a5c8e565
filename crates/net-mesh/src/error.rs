//! Errors of the public API: what failed, and what to do.

use std::io;
use std::net::SocketAddr;

use net_mesh_proto::id::NodeId;
use thiserror::Error;

use crate::session::SetupError;

/// Why a node could not start.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum StartError {
    /// An address cannot be listened on.
    #[error("cannot listen on {addr}: {source}; choose another address or port, or stop what uses it")]
    Listen {
        /// Which address.
        addr: SocketAddr,
        /// What the system says.
        source: io::Error,
    },
    /// More than one address of a family was given.
    #[error("cannot listen on {0}: a node listens on at most one IPv4 and one IPv6 address")]
    TooManyListen(SocketAddr),
    /// The name cannot be used.
    #[error("the name {0:?} cannot be used: a name has 1 to 64 bytes and no control characters")]
    Name(String),
    /// The certificate cannot be used.
    #[error(transparent)]
    Setup(#[from] SetupError),
    /// QUIC could not use the socket.
    #[error("the socket cannot be used: {0}")]
    Endpoint(io::Error),
    /// The operating system gives no random numbers.
    #[error("no random numbers: {0}")]
    Random(io::Error),
    /// The builder was used outside a tokio runtime.
    #[error("a node needs a tokio runtime to run in: call `start` inside one")]
    NoRuntime,
}

/// Why something could not be said to a peer.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum PeerError {
    /// There is no such member.
    #[error("{0} is not a member of this mesh, or has not been heard of yet")]
    Unknown(NodeId),
    /// No session could be had in time.
    #[error("{0} could not be reached: there is no direct way to it, or it is down")]
    Unreachable(NodeId),
    /// The session broke in the middle.
    #[error("the session with {peer} broke: {reason}")]
    Broken {
        /// With whom.
        peer: NodeId,
        /// What QUIC says.
        reason: String,
    },
    /// The payload does not fit a datagram.
    #[error("a datagram to {peer} holds at most {limit} bytes")]
    TooLarge {
        /// To whom.
        peer: NodeId,
        /// How much fits, in bytes.
        limit: usize,
    },
    /// The node is shutting down.
    #[error("the node is shutting down")]
    ShutDown,
}

/// Why a text does not name a member.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum ResolveError {
    /// No member has this name, nor an id that starts so.
    #[error("no member is called {0:?} or has an id that starts so; see `peers`")]
    Unknown(String),
    /// More than one does.
    #[error("{text:?} fits {}; use more of the id", .candidates.iter().map(NodeId::short).collect::<Vec<_>>().join(", "))]
    Ambiguous {
        /// What was asked for.
        text: String,
        /// Whom it fits.
        candidates: Vec<NodeId>,
    },
}
