//! Setting a node up and starting it.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use net_mesh_proto::node::Config;
use net_mesh_proto::peer::dialer::SMALL_MESH;
use net_mesh_proto::relay::Limits as RelayLimits;
use tokio::runtime::Handle;
use tokio::time::Instant;

use crate::channel::{ChannelConfig, WallClock};
use crate::driver::Clock;
use crate::error::StartError;
use crate::identity::{Identity, random_32};
use crate::mesh::{Mesh, Parts};
use crate::net::{Network, SystemNetwork};
use crate::socket::{DropCounters, INBOX, MeshSocket};

/// Longest name, in bytes.
const MAX_NAME: usize = 64;

/// A node about to start.
#[must_use = "a builder does nothing until `start` is called"]
pub struct Builder {
    identity: Identity,
    name: Option<String>,
    listen: Vec<SocketAddr>,
    prefer_port: u16,
    bootstrap: Vec<SocketAddr>,
    stun_servers: Vec<SocketAddr>,
    network: Arc<dyn Network>,
    relay: Option<RelayLimits>,
    full_mesh: usize,
    channels: ChannelConfig,
    seed: Option<[u8; 32]>,
    port_mapping: Option<net_mesh_proto::portmap::Settings>,
    unix_ms: Option<u64>,
}

impl Builder {
    pub(crate) fn new(identity: Identity) -> Self {
        Self {
            identity,
            name: None,
            listen: Vec::new(),
            prefer_port: 0,
            bootstrap: Vec::new(),
            stun_servers: Vec::new(),
            network: Arc::new(SystemNetwork),
            relay: Some(RelayLimits::default()),
            full_mesh: SMALL_MESH,
            channels: ChannelConfig::default(),
            seed: None,
            unix_ms: None,
            port_mapping: None,
        }
    }

    /// The name others see: 1 to 64 bytes without control characters. Default: the start of the id.
    pub fn name(mut self, name: impl Into<String>) -> Self {
        self.name = Some(name.into());
        self
    }

    /// An address to listen on, at most one per address family; port 0 lets the system choose.
    ///
    /// Default: both families, on all addresses, at one port the system chooses for both if it can. Sockets are opened once, and a socket
    /// on all addresses (`0.0.0.0`, `[::]`) serves those that come later too, also the first of its family. A family
    /// that the system knows nothing of at the start, or that is not listened on, stays unused.
    pub fn listen(mut self, addr: SocketAddr) -> Self {
        self.listen.push(addr);
        self
    }

    /// The port to take if it is free and [`listen`](Self::listen) names no address, such as the one of the last run: what
    /// others remember of this node, and what firewalls and routers were told, stays true.
    pub fn prefer_port(mut self, port: u16) -> Self {
        self.prefer_port = port;
        self
    }

    /// An address at which some member may be found. Without any, the node waits for others to come.
    pub fn bootstrap(mut self, addr: SocketAddr) -> Self {
        self.bootstrap.push(addr);
        self
    }

    /// A STUN server (RFC 8489) to ask for this node's address besides its peers.
    pub fn stun_server(mut self, addr: SocketAddr) -> Self {
        self.stun_servers.push(addr);
        self
    }

    /// The network to live on. Default: the machine's.
    pub fn network(mut self, network: Arc<dyn Network>) -> Self {
        self.network = network;
        self
    }

    /// What this node carries between other members at most; `None` if nothing. Default:
    /// [`RelayLimits::default`]. What is carried cannot be read here: sessions are encrypted end to end.
    pub fn relay(mut self, limits: Option<RelayLimits>) -> Self {
        self.relay = limits;
        self
    }

    /// Up to how many members, this one included, the node keeps a session with everyone. Default: 8. In a larger
    /// mesh it keeps three to members that anyone can reach, and opens others when there is something to say.
    pub fn full_mesh(mut self, members: usize) -> Self {
        self.full_mesh = members;
        self
    }

    /// Asks the router for a UDP port (PCP, NAT-PMP, UPnP-IGD), and changes its state with that; off unless this is
    /// called. The lease is what is asked for, within 20 s and 24 h; 2 h is the standards' advice.
    ///
    /// Others are told of the port once a member elsewhere has reached it. It is given back by
    /// [`Mesh::shutdown`]; without that the lease ends by itself, where it has an end.
    /// Only on the machine's own [`network`](Self::network), and only for IPv4.
    #[cfg(feature = "port-mapping")]
    pub fn port_mapping(mut self, lease: Duration) -> Self {
        let [high, low, ..] = self.identity.derive("net-mesh port mapping wish v1");
        let wish = Some(u16::from_be_bytes([high, low]));
        self.port_mapping = Some(net_mesh_proto::portmap::Settings { lease, wish });
        self
    }

    /// How much a publisher keeps per channel for subscribers that lag behind, in bytes. Default: 16 MiB.
    pub fn channel_buffer(mut self, bytes: usize) -> Self {
        self.channels.log_bytes = bytes;
        self
    }

    /// How long a subscriber that takes nothing may hold up a publisher whose buffer is full, before it
    /// loses the oldest events (and is told how many). Default: 5 s.
    pub fn stall_timeout(mut self, limit: Duration) -> Self {
        self.channels.stall_timeout = limit;
        self
    }

    /// Makes every choice that is not a key follow from `seed`, and the clock of records start at
    /// `unix_ms`, so that a simulated run can be repeated. Never for a node on a real network: its
    /// transaction ids would be known to whoever knows the seed.
    pub fn reproducible(mut self, seed: [u8; 32], unix_ms: u64) -> Self {
        self.seed = Some(seed);
        self.unix_ms = Some(unix_ms);
        self
    }

    /// Starts the node, on the tokio runtime this is called in. It is fastest on a current-thread runtime
    /// of its own: packets are not handed between threads then.
    ///
    /// # Errors
    /// If the name or an address cannot be used, or the system refuses a socket.
    pub async fn start(mut self) -> Result<Mesh, StartError> {
        Handle::try_current().map_err(|_| StartError::NoRuntime)?;
        let id = self.identity.node_id();
        let name = self.name.clone().unwrap_or_else(|| id.short());
        if name.is_empty() || name.len() > MAX_NAME || name.chars().any(char::is_control) {
            return Err(StartError::Name(name));
        }
        let (inbox, datagrams) = tokio::sync::mpsc::channel(INBOX);
        let drops = Arc::new(DropCounters::default());
        let clock = Clock::start();
        let socket = self.bind(inbox, Arc::clone(&drops), clock)?;
        let seed = match self.seed {
            Some(seed) => seed,
            None => random_32().map_err(StartError::Random)?,
        };
        let unix_ms = self.unix_ms.unwrap_or_else(|| WallClock::System.unix_ms());
        if self.unix_ms.is_some() {
            self.channels.clock = WallClock::From(unix_ms, Instant::now());
        }
        let config = Config {
            secret: *self.identity.key.as_bytes(),
            mesh: self.identity.mesh_id(),
            name: name.clone(),
            // Later runs of a node have a later clock; two within one millisecond cannot be.
            boot: unix_ms,
            unix_ms,
            bootstrap: self.bootstrap,
            stun_servers: self.stun_servers,
            nat_traversal: cfg!(feature = "nat-traversal"),
            relay: self.relay,
            full_mesh: self.full_mesh,
            port_mapping: self.port_mapping,
        };
        Mesh::assemble(Parts {
            identity: self.identity,
            name,
            config,
            clock,
            channels: self.channels,
            seed,
            quic_seed: self.seed,
            network: self.network,
            socket,
            datagrams,
            drops,
        })
    }

    /// A socket of each family. A host without IPv6 (or without IPv4) is still a host.
    fn bind_any(&self) -> Vec<Arc<dyn quinn::AsyncUdpSocket>> {
        let mut sockets = Vec::new();
        let mut port = self.prefer_port;
        for ip in [IpAddr::from(Ipv4Addr::UNSPECIFIED), Ipv6Addr::UNSPECIFIED.into()] {
            let wanted = (port > 0).then(|| self.network.bind((ip, port).into()).ok()).flatten();
            let Some(socket) = wanted.or_else(|| self.network.bind((ip, 0).into()).ok()) else { continue };
            // The same for both, where that can be had: one number to tell a firewall.
            port = if port > 0 { port } else { socket.local_addr().map_or(0, |addr| addr.port()) };
            sockets.push(socket);
        }
        sockets
    }

    fn bind(
        &self,
        inbox: tokio::sync::mpsc::Sender<crate::socket::Datagram>,
        drops: Arc<DropCounters>,
        clock: Clock,
    ) -> Result<Arc<MeshSocket>, StartError> {
        let mut sockets = Vec::new();
        if self.listen.is_empty() {
            sockets = self.bind_any();
            if sockets.is_empty() {
                let source = std::io::Error::other("neither IPv4 nor IPv6 works here");
                return Err(StartError::Listen { addr: (Ipv4Addr::UNSPECIFIED, 0).into(), source });
            }
        }
        for (i, addr) in self.listen.iter().enumerate() {
            if self.listen[..i].iter().any(|a| a.is_ipv6() == addr.is_ipv6()) {
                return Err(StartError::TooManyListen(*addr));
            }
            let bound = self.network.bind(*addr);
            sockets.push(bound.map_err(|source| StartError::Listen { addr: *addr, source })?);
        }
        let ids = crate::session::connection_ids(&self.identity);
        MeshSocket::new(sockets, inbox, drops, ids, clock, self.relay.unwrap_or_default())
            .map_err(StartError::Endpoint)
    }
}

impl fmt::Debug for Builder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Builder").field("identity", &self.identity).finish_non_exhaustive()
    }
}
