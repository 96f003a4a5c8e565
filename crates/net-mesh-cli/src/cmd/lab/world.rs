//! The small internet of the lab: who is in it, behind what, and what must come true there.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use futures_util::stream;
use net_mesh::net::{Change, Changes, Network};
use net_mesh::{Identity, IdentityError, MeshSecret, NodeKey};
use net_mesh_proto::nat::NatClass;
use net_mesh_proto::rng::Rng;
use net_mesh_sim::oracle::{self, Means, Outlook};
use net_mesh_sim::{Chain, HostId, Internet, Nat, SimHost};

/// The nodes everybody else starts from. Two, on addresses of their own, because telling a NAT's behaviour
/// takes two helpers.
pub(super) const SEEDS: usize = 2;

/// The port the seeds listen on.
pub(super) const SEED_PORT: u16 = 4433;

/// What helps a pair: any member that both have a session with introduces them, and relays for them.
const MEANS: Means = Means { rendezvous: true, relay: true };

/// From the middle of the core to a node's site, one way, in milliseconds: from the next town to another
/// continent.
const DISTANCE_MS: (u64, u64) = (2, 60);

/// One node of the lab.
pub(super) struct Inhabitant {
    pub(super) name: &'static str,
    pub(super) host: HostId,
    /// What its NAT really is.
    pub(super) actual: NatClass,
    key: NodeKey,
}

/// The nodes of the lab, and what must come true for them.
pub(super) struct World {
    pub(super) seed: u64,
    pub(super) nodes: Vec<Inhabitant>,
    /// For each pair, from row to column: the best it can have; `None` for a node and itself.
    pub(super) outlook: Vec<Vec<Option<Outlook>>>,
    /// Where the seeds can be reached.
    pub(super) seeds: Vec<SocketAddr>,
    secret: MeshSecret,
    rng: Rng,
}

impl World {
    /// The world of `seed`, and the internet it is on: the same homes in every one, at other places with
    /// other keys.
    pub(super) fn new(seed: u64) -> (Self, Internet) {
        let rng = Rng::from_u64(seed).fork("lab");
        let mut internet = Internet::new(seed);
        let mut nodes = Vec::new();
        let mut distance = rng.fork("distances");
        for (name, chain) in places() {
            let host = internet.add_behind(chain);
            internet.set_name(host, name);
            let (near, far) = DISTANCE_MS;
            let away = near + distance.below(far - near + 1);
            internet.set_distance(host, Duration::from_millis(away));
            let key = NodeKey::from_bytes(bytes(rng.fork(&format!("key of {name}"))));
            nodes.push(Inhabitant { name, host, actual: oracle::actual(&internet, host).class, key });
        }
        let outlook = nodes
            .iter()
            .map(|a| {
                let to = |b: &Inhabitant| {
                    (a.host != b.host).then(|| oracle::pair(&internet, a.host, b.host, MEANS))
                };
                nodes.iter().map(to).collect()
            })
            .collect();
        let secret = MeshSecret::from_bytes(bytes(rng.fork("mesh secret")));
        let ip = |node: &Inhabitant| internet.ips(node.host).first().copied();
        let seeds = nodes[..SEEDS].iter().filter_map(ip).map(|ip| SocketAddr::new(ip, SEED_PORT)).collect();
        (Self { seed, nodes, outlook, seeds, secret, rng }, internet)
    }

    /// The identity of a node.
    ///
    /// # Errors
    /// If no certificate can be made.
    pub(super) fn identity(&self, node: &Inhabitant) -> Result<Identity, IdentityError> {
        Identity::from_secret(&self.secret, &node.key)
    }

    /// What all of a node's own chance comes from.
    pub(super) fn seed_of(&self, node: &Inhabitant) -> [u8; 32] {
        bytes(self.rng.fork(&format!("choices of {}", node.name)))
    }
}

fn places() -> [(&'static str, Chain); 7] {
    [
        ("seed-1", Nat::direct()),
        ("seed-2", Nat::direct()),
        ("direct", Nat::direct()),
        ("full-cone", Nat::full_cone().into()),
        ("restricted-cone", Nat::restricted_cone().into()),
        ("port-restricted", Nat::port_restricted().into()),
        ("symmetric", Nat::symmetric().into()),
    ]
}

pub(super) fn bytes(mut rng: Rng) -> [u8; 32] {
    let mut bytes = [0; 32];
    for part in bytes.chunks_exact_mut(8) {
        part.copy_from_slice(&rng.u64().to_le_bytes());
    }
    bytes
}

/// A host of the simulated internet as the network of a node.
#[derive(Debug)]
pub(super) struct HostNetwork(pub(super) SimHost);

impl Network for HostNetwork {
    fn bind(&self, addr: SocketAddr) -> io::Result<Arc<dyn quinn::AsyncUdpSocket>> {
        self.0.bind(addr)
    }

    fn ips(&self) -> Vec<IpAddr> {
        self.0.ips()
    }

    fn changes(&self) -> Option<Changes> {
        Some(Box::pin(stream::unfold(self.0.changes(), |mut told| async {
            told.changed().await.ok()?;
            Some((Change::Unknown, told))
        })))
    }
}
