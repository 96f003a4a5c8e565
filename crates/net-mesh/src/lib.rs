//! A mesh runtime for nodes behind NATs: they find each other, open end-to-end encrypted sessions, and
//! publish and consume events as if they were side by side.
//!
//! A node is one [`Mesh`]. It learns the addresses others see it at, finds out what its NAT does, and
//! keeps sessions (QUIC, mutual TLS 1.3) with other members. The application subscribes to channels and
//! publishes on them:
//!
//! ```
//! use net_mesh::{Identity, Mesh, MeshSecret, NodeKey};
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! // Whoever has the secret is a member; a `Ticket` carries it together with addresses.
//! let secret = MeshSecret::generate()?;
//! let loopback = "127.0.0.1:0".parse()?;
//!
//! let berlin = Mesh::builder(Identity::from_secret(&secret, &NodeKey::generate()?)?)
//!     .name("berlin")
//!     .listen(loopback)
//!     .start()
//!     .await?;
//! let mut readings = berlin.subscribe("readings")?;
//!
//! let oslo = Mesh::builder(Identity::from_secret(&secret, &NodeKey::generate()?)?)
//!     .name("oslo")
//!     .listen(loopback)
//!     .bootstrap(berlin.local_addrs()[0])
//!     .start()
//!     .await?;
//! // Once oslo knows that berlin subscribes, nothing it publishes is lost on berlin.
//! while !oslo.peers().iter().any(|peer| peer.name == "berlin") {
//!     oslo.changed().await;
//! }
//! oslo.publish("readings", "21.5 degrees").await?;
//!
//! let event = readings.next().await.expect("the node runs");
//! assert_eq!((event.from, event.seq), (oslo.node_id(), 1));
//! assert_eq!(&event.payload[..], b"21.5 degrees");
//!
//! oslo.shutdown().await;
//! berlin.shutdown().await;
//! # Ok(())
//! # }
//! ```
//!
//! # What is promised
//!
//! - What one publisher publishes on a channel reaches every subscriber in order, without loss and without
//!   duplicates, while both nodes run. A session that breaks and comes back within two minutes changes
//!   nothing of that. Where events are lost all the same, [`Event::missed`] says how many.
//! - A subscriber that is slow makes the publisher wait once the channel's buffer is full; one that takes
//!   nothing at all does so for [`Builder::stall_timeout`] at most. Neither holds up another channel or
//!   another subscription before that.
//! - Everything that a stranger or a member can make a node remember is bounded.
//! - Only members get a session, and only the node that was meant: its key is its id.
//!
//! # Features
//!
//! - `nat-traversal` (default): ask peers for this node's address, classify its NAT, help others to do the
//!   same. Without it a node still joins, and talks to members that can be reached directly.
//! - `port-mapping`: `Builder::port_mapping`, which asks the router for a port.
//!
//! # Metrics and logs
//!
//! A node records [`metrics`] through the facade of that name, and logs with `tracing`: one line for each event that
//! matters, nothing per packet above TRACE.
//!
//! # Runtime
//!
//! A node runs on the tokio runtime that [`Builder::start`] is called in. It is fastest on a
//! current-thread runtime of its own.

mod builder;
mod channel;
mod diagnosis;
mod driver;
mod error;
mod identity;
mod load;
mod members;
mod mesh;
pub mod metrics;
pub mod net;
mod peer;
mod portmap;
mod session;
mod side;
mod socket;
mod ticket;
mod why;

pub use builder::Builder;
pub use channel::{Event, MAX_EVENT, PublishError, Publisher, SubscribeError, Subscription};
#[doc(hidden)]
pub use channel::{fuzz_segment, fuzz_subscription};
pub use diagnosis::{ClockView, DatagramSize, Diagnosis, MappingLifetime, Reached, RelayChoice, StartInfo};
pub use error::{PeerError, ResolveError, StartError};
pub use identity::{Identity, IdentityError, MeshSecret, NodeKey};
pub use members::{LinkInfo, MemberInfo};
pub use mesh::{Mesh, SHUTDOWN_LIMIT};
pub use net_mesh_proto::classify::evidence::PortsSeen;
pub use net_mesh_proto::id::{MeshId, NodeId};
pub use net_mesh_proto::liveness::Issue;
pub use net_mesh_proto::nat::{Filtering, Mapping, NatClass, PortRule};
pub use net_mesh_proto::peer::dialer::StartState;
pub use net_mesh_proto::relay::Limits as RelayLimits;
pub use net_mesh_proto::rendezvous::advice::{Advice, Change, Suggestion};
pub use peer::{Health, Nat, OpenPort, Path, PathKind, PeerInfo, Pong, Relayed, Status, Udp};
pub use portmap::{PortMapping, PortMappingState};
pub use quinn::{RecvStream, SendStream};
pub use session::SetupError;
pub use ticket::{MAX_TICKET_ADDRS, Ticket, TicketError};
pub use why::{AttemptInfo, Moment, OtherSide, Told, Why};

/// The code in the guide to the library is compiled, and what runs on its own is run.
#[cfg(doctest)]
#[doc = include_str!("../../../docs/library.md")]
struct Guide;
