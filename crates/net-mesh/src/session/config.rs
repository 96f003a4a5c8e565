//! How QUIC is set up for sessions, and why.

use std::sync::Arc;
use std::time::Duration;

use quinn::crypto::rustls::{QuicClientConfig, QuicServerConfig};
use quinn::{EndpointConfig, MtuDiscoveryConfig, TransportConfig, VarInt};
use quinn_proto::HashedConnectionIdGenerator;
use quinn_proto::congestion::ControllerFactory;
use thiserror::Error;

use net_mesh_proto::id::NodeId;

use super::congestion::Congestion;
use super::tls;
use crate::identity::Identity;

/// Payload of a UDP datagram that every path carries: IPv6's smallest MTU of 1280 less headers leaves
/// 1232 (RFC 8200 §5), and QUIC needs 1200 (RFC 9000 §14).
const MIN_MTU: u16 = 1200;

/// Largest payload that path discovery may find. A session changes its path without QUIC knowing, so
/// what one path carries the next must carry too: 1400 bytes of the narrowest common link (PPPoE inside
/// a tunnel) less 48 of IPv6 and UDP and 9 of a relay's header.
const MAX_MTU: u16 = 1343;

/// Before the first sample, loss of a first packet is noticed after about three times this. 333 ms
/// (RFC 9002 §6.2.2) would cost a second; 100 ms costs a spurious repeat on paths above 300 ms.
const INITIAL_RTT: Duration = Duration::from_millis(100);

/// Unread data of one stream, in bytes. Twice the bandwidth-delay product of 100 Mbit/s at 160 ms.
const STREAM_WINDOW: u32 = 4 << 20;

/// Unread data of one session, in bytes: what a peer can make this node remember. Sixteen streams that
/// the application leaves unread fill it; subscriptions never do, since they are always read.
const SESSION_WINDOW: u32 = 64 << 20;

/// Unacknowledged data towards one peer, in bytes.
const SEND_WINDOW: u64 = 8 << 20;

/// Streams a peer may have open at a time: its subscriptions, of which a node has at most 1024, and as
/// many pings and streams of the application's.
const MAX_STREAMS: u32 = 2048;

/// Unread datagrams of one session, in bytes.
const DATAGRAM_BUFFER: usize = 1 << 20;

/// Why QUIC could not be set up; says that the identity is unusable with TLS.
#[derive(Debug, Error)]
#[error("the node's certificate cannot be used: {0}")]
pub struct SetupError(String);

fn setup(e: impl ToString) -> SetupError {
    SetupError(e.to_string())
}

/// The generator of connection ids. Its key comes from the node's, so that the mesh socket, which has a
/// generator of its own, recognises the ids that QUIC gave out.
pub(crate) fn connection_ids(identity: &Identity) -> HashedConnectionIdGenerator {
    let key = identity.derive("net-mesh connection ids v1");
    HashedConnectionIdGenerator::from_key(u64::from_be_bytes(key[..8].try_into().unwrap_or_default()))
}

pub(super) fn endpoint(identity: &Identity, seed: Option<[u8; 32]>) -> EndpointConfig {
    let reset = ring::hmac::Key::new(ring::hmac::HMAC_SHA256, &identity.derive("net-mesh reset tokens v1"));
    let mut config = EndpointConfig::new(Arc::new(reset));
    let ids = identity.clone();
    config.cid_generator(move || Box::new(connection_ids(&ids)));
    // Greasing the fixed bit (RFC 9287) would make QUIC look like other protocols on the socket.
    config.grease_quic_bit(false);
    config.rng_seed(seed);
    config
}

/// One connection's settings, with its own congestion control.
pub(super) fn transport(congestion: Arc<dyn ControllerFactory + Send + Sync>) -> Arc<TransportConfig> {
    let mut config = TransportConfig::default();
    let mut mtu = MtuDiscoveryConfig::default();
    mtu.upper_bound(MAX_MTU);
    config
        .initial_rtt(INITIAL_RTT)
        .initial_mtu(MIN_MTU)
        .min_mtu(MIN_MTU)
        .mtu_discovery_config(Some(mtu))
        // Whether the peer is there is watched below QUIC, route by route; a session outlives all of them.
        .max_idle_timeout(None)
        .keep_alive_interval(None)
        .stream_receive_window(VarInt::from_u32(STREAM_WINDOW))
        .receive_window(VarInt::from_u32(SESSION_WINDOW))
        .send_window(SEND_WINDOW)
        .max_concurrent_bidi_streams(VarInt::from_u32(MAX_STREAMS))
        .max_concurrent_uni_streams(VarInt::from_u32(MAX_STREAMS))
        .datagram_receive_buffer_size(Some(DATAGRAM_BUFFER))
        .datagram_send_buffer_size(DATAGRAM_BUFFER)
        .allow_spin(false)
        .congestion_controller_factory(congestion);
    Arc::new(config)
}

pub(super) fn server(identity: &Identity) -> Result<quinn::ServerConfig, SetupError> {
    let tls = QuicServerConfig::try_from(tls::server(identity).map_err(setup)?).map_err(setup)?;
    let mut config = quinn::ServerConfig::with_crypto(Arc::new(tls));
    config
        .transport_config(transport(Congestion::default().factory()))
        // Virtual addresses never change; what is below them is not QUIC's business.
        .migration(false)
        .max_incoming(1024)
        .incoming_buffer_size(64 << 10)
        .incoming_buffer_size_total(16 << 20);
    Ok(config)
}

/// The same for one connection, whose congestion control listens to `congestion`.
pub(super) fn for_connection(
    config: &quinn::ServerConfig,
    congestion: &Congestion,
) -> Arc<quinn::ServerConfig> {
    let mut config = config.clone();
    config.transport_config(transport(congestion.factory()));
    Arc::new(config)
}

pub(super) fn client(
    identity: &Identity,
    peer: Option<NodeId>,
    congestion: &Congestion,
) -> Result<quinn::ClientConfig, SetupError> {
    let tls = QuicClientConfig::try_from(tls::client(identity, peer).map_err(setup)?).map_err(setup)?;
    let mut config = quinn::ClientConfig::new(Arc::new(tls));
    config.transport_config(transport(congestion.factory()));
    Ok(config)
}
