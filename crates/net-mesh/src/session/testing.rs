//! A connection between two plain endpoints on loopback, for tests of what runs on one.

use std::net::Ipv4Addr;
use std::sync::Arc;

use net_mesh_proto::node::ConnId;
use net_mesh_proto::route::Route;
use quinn::{Connection, Endpoint};

use super::congestion::Congestion;
use super::{Link, config, peer_of};
use crate::identity::{Identity, MeshSecret, NodeKey};
use crate::socket::slots::SlotId;

/// The two ends.
pub(crate) struct Pair {
    /// This node's.
    pub(crate) link: Arc<Link>,
    /// The peer's, which does what the test makes it do.
    pub(crate) peer: Connection,
    _endpoints: [Endpoint; 2],
}

pub(crate) async fn pair(conn: u64) -> Pair {
    let identity = |byte| {
        Identity::from_secret(&MeshSecret::from_bytes([1; 32]), &NodeKey::from_bytes([byte; 32])).unwrap()
    };
    let (ours, theirs) = (identity(1), identity(2));
    let any = (Ipv4Addr::LOCALHOST, 0).into();
    let server = Endpoint::server(config::server(&theirs).unwrap(), any).unwrap();
    let client = Endpoint::client(any).unwrap();
    let to = server.local_addr().unwrap();
    let congestion = Congestion::default();
    let connecting =
        client.connect_with(config::client(&ours, None, &congestion).unwrap(), to, "mesh").unwrap();
    let accepting = async { server.accept().await.unwrap().await.unwrap() };
    let (ours, theirs) = tokio::join!(connecting, accepting);
    let ours = ours.unwrap();
    let link = Link::new(
        ConnId(conn),
        peer_of(&ours).unwrap(),
        SlotId::for_test(conn),
        Route::Direct(to),
        (ours, congestion),
    );
    Pair { link, peer: theirs, _endpoints: [server, client] }
}
