//! Can this node work where it is, and what stands in its way?
//!
//! A snapshot of what the node knows anyway: nothing is sent for it, so it costs nothing and changes nothing. What nobody
//! has found out is `None`.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use net_mesh_proto::classify::evidence::PortsSeen;
use net_mesh_proto::id::NodeId;
use net_mesh_proto::peer::dialer::StartState;
use net_mesh_proto::rendezvous::advice::{About, Advice, advise};

use crate::channel::WallClock;
use crate::mesh::Mesh;
use crate::peer::{Health, PathKind, PeerInfo, Status};

/// What a node knows of its own place in the network and in the mesh.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Diagnosis {
    /// What [`Mesh::status`] says.
    pub status: Status,
    /// The addresses of the host's interfaces.
    pub ips: Vec<IpAddr>,
    /// The external ports at which the last classification saw its sockets.
    pub external_ports: Option<PortsSeen>,
    /// A member that is reached at an outside address of this very node's NAT, which therefore turns packets around.
    /// `None` says nothing: nobody tries it.
    pub turned_around: Option<NodeId>,
    /// How long mappings last.
    pub lifetime: MappingLifetime,
    /// How this host's clock compares to those of others, once there are others.
    pub clock: Option<ClockView>,
    /// What fits into a datagram, once there is a direct session.
    pub datagram: Option<DatagramSize>,
    /// The addresses to start from, in the order in which they were given; at most 64.
    pub starts: Vec<StartInfo>,
    /// The other members, by how they are reached.
    pub reach: Reached,
    /// Those that are not reached although there was a session or an attempt at one; the first eight.
    pub lost: Vec<NodeId>,
    /// Who could carry for this node.
    pub relays: RelayChoice,
}

/// What was learned of how long the NAT's mappings last.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MappingLifetime {
    /// How often idle sessions are kept alive at present.
    pub keep_alive: Duration,
    /// The shortest silence after which a mapping was gone, where that has happened.
    pub expired_after: Option<Duration>,
    /// The age at which mappings are replaced although in use, where that has happened twice.
    pub replaced_after: Option<Duration>,
}

/// This host's clock, as the records of others show it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ClockView {
    /// By how much it is ahead of the median of the others, in milliseconds; negative where it is behind. Good to a few
    /// seconds.
    pub ahead_ms: i64,
    /// Of how many members.
    pub members: usize,
}

/// The largest payloads of UDP datagrams that are sent over direct sessions, in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DatagramSize {
    /// The smallest of all sessions.
    pub lowest: u16,
    /// The largest.
    pub highest: u16,
    /// How many sessions there are.
    pub sessions: usize,
    /// How often larger ones began to be lost.
    pub black_holes: u64,
}

/// An address to start from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StartInfo {
    /// The address.
    pub addr: SocketAddr,
    /// What has become of it.
    pub state: StartState,
    /// Whose it is, as far as is known.
    pub node: Option<NodeId>,
}

/// How many of those that are not reached are named.
const MAX_LOST: usize = 8;

/// How many of the other members are reached in which way.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Reached {
    /// Straight.
    pub direct: usize,
    /// Over others.
    pub relayed: usize,
    /// Not, at present, since no session could be opened or kept.
    pub failed: usize,
    /// Not, since nothing calls for a session.
    pub idle: usize,
}

/// Who could carry for this node.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RelayChoice {
    /// Members that carry for others and are reached straight.
    pub direct: usize,
    /// All members that carry for others.
    pub members: usize,
}

impl Mesh {
    /// What this node knows of its place in the network, and what may stand in its way.
    #[must_use]
    pub fn diagnosis(&self) -> Diagnosis {
        let (status, peers) = (self.status(), self.peers());
        let shared = self.shared();
        let wall = WallClock::System.unix_ms();
        let (node, now) = (shared.node(), shared.now());
        let lifetimes = *node.lifetimes();
        let made_at = |member: net_mesh_proto::node::MemberView<'_>| {
            let age = u64::try_from(member.age(now).as_millis()).unwrap_or(u64::MAX);
            (member.record.seq, age)
        };
        let clock = clock(wall, node.members().map(made_at));
        let relaying: Vec<NodeId> =
            node.members().filter(|m| m.record.flags.relays).map(|m| m.record.node).collect();
        let ips = node.local().ips().to_vec();
        let start = |start: net_mesh_proto::peer::dialer::Start| StartInfo {
            addr: start.addr,
            state: start.state,
            node: start.node,
        };
        let starts = node.starts().into_iter().map(start).collect();
        let external_ports = node.external_ports();
        let (reach, lost) = reached(&peers, |peer| node.is_cut_off(now, peer));
        drop(node);
        let straight = |peer: &&PeerInfo| peer.path.kind == PathKind::Direct && peer.health != Health::Failed;
        let carries = |peer: &&PeerInfo| relaying.binary_search(&peer.node_id).is_ok();
        let direct_relays = peers.iter().filter(straight).filter(carries).count();
        Diagnosis {
            turned_around: turned_around(&status.reflexive, &ips, &peers),
            external_ports,
            lifetime: MappingLifetime {
                keep_alive: lifetimes.keep_alive(),
                expired_after: lifetimes.expired_after(),
                replaced_after: lifetimes.replaced_after(),
            },
            clock,
            datagram: self.datagram_size(&peers),
            starts,
            reach,
            lost,
            relays: RelayChoice { direct: direct_relays, members: relaying.len() },
            ips,
            status,
        }
    }

    fn datagram_size(&self, peers: &[PeerInfo]) -> Option<DatagramSize> {
        let direct = |peer: &NodeId| {
            let found = peers.binary_search_by(|known| known.node_id.cmp(peer)).ok();
            found.and_then(|n| peers.get(n)).is_some_and(|known| known.path.kind == PathKind::Direct)
        };
        let links = self.shared().links().into_iter().filter(|link| direct(&link.peer));
        let paths: Vec<_> = links.map(|link| link.connection.stats().path).collect();
        Some(DatagramSize {
            lowest: paths.iter().map(|path| path.current_mtu).min()?,
            highest: paths.iter().map(|path| path.current_mtu).max()?,
            sessions: paths.len(),
            black_holes: paths.iter().map(|path| path.black_holes_detected).sum(),
        })
    }

    /// Which pairs of members can be direct, and which single change would make most others so; from the records
    /// of all.
    #[must_use]
    pub fn advice(&self) -> Advice {
        let shared = self.shared();
        let node = shared.node();
        // Copied, so that the node is not held up by counting.
        let own = node.own_record().cloned();
        let records = own.into_iter().chain(node.members().map(|member| member.record.clone()));
        let records: Vec<_> = records.collect();
        drop(node);
        let about = records.iter().map(|record| About {
            node: record.node,
            verdict: record.verdict,
            candidates: &record.candidates,
            links: &record.links,
        });
        let members: Vec<About<'_>> = about.collect();
        advise(&members)
    }
}

/// Compares `wall` to the clocks of others: the sequence number of a record is its maker's time in milliseconds, and its
/// age is known.
fn clock(wall: u64, records: impl Iterator<Item = (u64, u64)>) -> Option<ClockView> {
    let ahead = |(seq, age): (u64, u64)| {
        let theirs = i64::try_from(seq.saturating_add(age)).unwrap_or(i64::MAX);
        i64::try_from(wall).unwrap_or(i64::MAX).saturating_sub(theirs)
    };
    let mut all: Vec<i64> = records.map(ahead).collect();
    all.sort_unstable();
    let ahead_ms = *all.get(all.len() / 2)?;
    Some(ClockView { ahead_ms, members: all.len() })
}

/// A member reached at an outside IPv4 address that this node shares with it, and does not have itself.
fn turned_around(reflexive: &[SocketAddr], ips: &[IpAddr], peers: &[PeerInfo]) -> Option<NodeId> {
    let outside = |ip: IpAddr| reflexive.iter().any(|own| own.ip() == ip) && !ips.contains(&ip);
    let at = |peer: &&PeerInfo| peer.path.addr.is_some_and(|addr| addr.is_ipv4() && outside(addr.ip()));
    peers.iter().find(at).map(|peer| peer.node_id)
}

/// `is_cut_off` says of whom there is a session and no way that works.
fn reached(peers: &[PeerInfo], is_cut_off: impl Fn(&NodeId) -> bool) -> (Reached, Vec<NodeId>) {
    let mut reached = Reached::default();
    let mut lost = Vec::new();
    for peer in peers {
        let failed = match (peer.path.kind, peer.health) {
            (PathKind::Relayed, _) => is_cut_off(&peer.node_id),
            (PathKind::Direct | PathKind::None, Health::Failed) => true,
            _ => is_cut_off(&peer.node_id),
        };
        match peer.path.kind {
            _ if failed => {
                reached.failed += 1;
                lost.push(peer.node_id);
            }
            PathKind::Direct => reached.direct += 1,
            PathKind::Relayed => reached.relayed += 1,
            PathKind::None => reached.idle += 1,
        }
    }
    lost.truncate(MAX_LOST);
    (reached, lost)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_clock_is_held_against_the_median_of_the_others() {
        let now = 1_700_000_000_000;
        let view = |records: &[(u64, u64)]| clock(now, records.iter().copied());
        assert_eq!(view(&[]), None);
        let right = (now - 4_000, 4_000);
        let hour_behind = (now - 3_600_000 - 10_000, 10_000);
        assert_eq!(view(&[hour_behind]), Some(ClockView { ahead_ms: 3_600_000, members: 1 }));
        assert_eq!(view(&[right, hour_behind, right]), Some(ClockView { ahead_ms: 0, members: 3 }));
        assert_eq!(view(&[(now + 60_000, 0)]), Some(ClockView { ahead_ms: -60_000, members: 1 }));
        // Whatever a record says.
        assert_eq!(view(&[(u64::MAX, u64::MAX)]).map(|view| view.members), Some(1));
    }

    #[tokio::test]
    async fn a_node_alone_on_loopback_knows_little_and_says_so() {
        let secret = crate::MeshSecret::generate().unwrap();
        let key = crate::NodeKey::generate().unwrap();
        let start: SocketAddr = "127.0.0.1:9".parse().unwrap();
        let v6: SocketAddr = "[2001:db8::1]:9".parse().unwrap();
        let builder = Mesh::builder(crate::Identity::from_secret(&secret, &key).unwrap())
            .listen("127.0.0.1:0".parse().unwrap())
            .bootstrap(start)
            .bootstrap(v6);
        let mesh = builder.start().await.unwrap();
        let diagnosis = mesh.diagnosis();
        assert_eq!((diagnosis.reach, diagnosis.relays), (Reached::default(), RelayChoice::default()));
        assert!(diagnosis.clock.is_none() && diagnosis.datagram.is_none());
        assert_eq!(diagnosis.starts.iter().map(|start| start.addr).collect::<Vec<_>>(), [start, v6]);
        assert_eq!(diagnosis.starts[1].state, StartState::Unusable);
        mesh.shutdown().await;
    }
}
