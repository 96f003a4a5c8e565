//! What a node tells of its peers and of itself.

use std::collections::BTreeMap;

use net_mesh_proto::drops::DropReason;
use net_mesh_proto::id::NodeId;

use super::{Mesh, lock};
use crate::peer::{Health, Nat, OpenPort, Path, PeerInfo, Relayed, Status, Udp};
use crate::portmap::PortMapping;

/// What is said where nothing comes back over UDP.
const SILENT: &str = "nothing has come back over UDP from anyone: a firewall drops UDP here, or nobody runs at the \
    addresses to start from; allow outgoing UDP, or join through another member";

impl Mesh {
    /// The other members, by id.
    #[must_use]
    pub fn peers(&self) -> Vec<PeerInfo> {
        let shared = self.shared();
        let mut peers: BTreeMap<NodeId, PeerInfo> = shared
            .node()
            .members()
            .map(|m| {
                let mut info = idle(m.record.node, m.record.name.clone(), m.record.verdict.class());
                info.port_mapped = m.record.flags.mapped;
                (m.record.node, info)
            })
            .collect();
        for peer in lock(&shared.failed).keys() {
            if let Some(info) = peers.get_mut(peer) {
                info.health = Health::Failed;
            }
        }
        for (peer, link) in lock(&shared.links).iter() {
            // A peer whose record has not come yet has no name but its id.
            let unknown = net_mesh_proto::nat::NatClass::Unknown;
            let info = peers.entry(*peer).or_insert_with(|| idle(*peer, peer.short(), unknown));
            let stats = link.connection.stats();
            info.rtt = Some(link.connection.rtt());
            (info.tx_bytes, info.rx_bytes) = (stats.udp_tx.bytes, stats.udp_rx.bytes);
        }
        let node = shared.node();
        let now = shared.now();
        for (peer, info) in &mut peers {
            if let Some(health) = node.health(peer) {
                info.health = health.into();
                info.issues = node.issues(peer);
            }
            if let Some(way) = node.way(now, peer) {
                info.rtt = way.rtt.or(info.rtt);
                info.loss = way.loss.map(|permille| f32::from(permille) / 1000.0);
            }
            info.since = node.path_since(now, peer);
            info.path = node.path(peer).map_or(Path::NONE, |(route, via)| Path::of(route, via));
        }
        drop(node);
        peers.into_values().collect()
    }

    /// What this node knows of itself.
    #[must_use]
    pub fn status(&self) -> Status {
        let shared = self.shared();
        let node = shared.node();
        let (verdict, age, missing) = node.verdict(shared.now());
        let reflexive = node.reflexive();
        let machine_drops = node.drops();
        let peers = node.members().count();
        let udp = match node.udp(shared.now()) {
            net_mesh_proto::node::Udp::Works => Udp::Works,
            net_mesh_proto::node::Udp::Silent => Udp::Blocked,
            net_mesh_proto::node::Udp::Unknown => Udp::Unknown,
        };
        let problem = (udp == Udp::Blocked).then(|| SILENT.to_owned());
        let circuits = node.carried();
        let class = node.experienced_class(shared.now());
        let open_port = node.open_port().map(|(addr, reached_by)| OpenPort { addr, reached_by });
        let mapping = node.port_mapping().map(|status| PortMapping::of(shared.now(), &status));
        drop(node);
        let relay = shared.relays.then(|| {
            let carried = shared.socket.carried();
            Relayed { circuits, packets: carried.packets, bytes: carried.bytes, limited: carried.limited }
        });
        let drops = DropReason::ALL
            .iter()
            .map(|r| (r.name(), machine_drops.of(*r) + shared.drops.of(*r)))
            .filter(|(_, n)| *n > 0)
            .collect();
        Status {
            node_id: shared.id,
            name: shared.name.clone(),
            listen: self.local_addrs(),
            reflexive,
            nat: Nat {
                class,
                class_without_mapping: (class != verdict.class()).then(|| verdict.class()),
                open_port,
                mapping: verdict.mapping,
                filtering: verdict.filtering,
                port_rule: verdict.port_rule,
                confidence: verdict.confidence,
                age,
                missing: missing.map(str::to_owned),
            },
            port_mapping: mapping,
            peers,
            udp,
            problem,
            relay,
            drops,
        }
    }
}

/// A member without a session.
fn idle(node_id: NodeId, name: String, nat: net_mesh_proto::nat::NatClass) -> PeerInfo {
    PeerInfo {
        node_id,
        name,
        nat,
        path: Path::NONE,
        since: None,
        rtt: None,
        loss: None,
        health: Health::Healthy,
        issues: Vec::new(),
        port_mapped: false,
        tx_bytes: 0,
        rx_bytes: 0,
    }
}
