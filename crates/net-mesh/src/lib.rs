//! A mesh runtime for nodes behind NATs: they find each other, open end-to-end encrypted sessions, and
//! publish and consume events as if they were side by side.
mod builder;
mod channel;
mod driver;
mod error;
mod identity;
mod mesh;
pub mod net;
mod peer;
mod session;
mod side;
mod socket;
mod ticket;

pub use builder::Builder;
pub use channel::{Event, MAX_EVENT, PublishError, Publisher, SubscribeError, Subscription};
#[doc(hidden)]
pub use channel::{fuzz_segment, fuzz_subscription};
pub use error::{PeerError, ResolveError, StartError};
pub use identity::{Identity, IdentityError, MeshSecret, NodeKey};
pub use mesh::Mesh;
pub use net_mesh_proto::id::{MeshId, NodeId};
pub use net_mesh_proto::nat::{Filtering, Mapping, NatClass, PortRule};
pub use peer::{Health, Nat, Path, PathKind, PeerInfo, Pong, Status};
pub use quinn::{RecvStream, SendStream};
pub use session::SetupError;
pub use ticket::{MAX_TICKET_ADDRS, Ticket, TicketError};
