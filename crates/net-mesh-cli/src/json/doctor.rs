//! The JSON of the doctor: facts, and what follows from them.

use std::net::{IpAddr, SocketAddr};

use net_mesh::{Advice, Change, Diagnosis, Mesh, NodeId, StartInfo, StartState};
use serde::{Deserialize, Serialize};

use super::{NatJson, PortMappingJson, StatusJson, display_name, whole_millis};

/// `doctor --json`, `GET /v1/doctor`.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct DoctorJson {
    /// True: the node answers for itself.
    pub running: bool,
    /// This node.
    pub node_id: String,
    /// The name others see.
    pub name: String,
    /// The version of the program.
    pub version: String,
    /// The mesh it belongs to.
    pub mesh_id: String,
    /// The local addresses it listens on.
    pub listen: Vec<SocketAddr>,
    /// `works`, `blocked` or `unknown`.
    pub udp: String,
    /// Its IPv4 addresses.
    pub ipv4: FamilyJson,
    /// Its IPv6 addresses.
    pub ipv6: FamilyJson,
    /// What is known about its NAT.
    pub nat: NatJson,
    /// The external ports that the last classification saw.
    pub ports: Option<PortsJson>,
    /// Whether the NAT turns packets around.
    pub hairpin: HairpinJson,
    /// Whether there is a second NAT behind the first.
    pub double_nat: DoubleNatJson,
    /// How long mappings last.
    pub mapping_lifetime: LifetimeJson,
    /// The port of the router.
    pub port_mapping: PortMappingJson,
    /// Whether the program can ask routers for ports at all.
    pub port_mapping_built: bool,
    /// This host's clock beside those of others.
    pub clock: Option<ClockJson>,
    /// What fits into a datagram.
    pub datagram: Option<DatagramJson>,
    /// The other members, by how they are reached.
    pub members: ReachedJson,
    /// Some of those that are not reached.
    #[serde(default)]
    pub lost: Vec<LostJson>,
    /// Who could carry for this node.
    pub relays: RelaysJson,
    /// The addresses it started from.
    pub start: Vec<StartJson>,
    /// Whether the node can do its work.
    #[serde(default)]
    pub can_work: bool,
    /// The reason, in a sentence.
    #[serde(default)]
    pub verdict: String,
    /// What would improve it, a sentence each, most important first.
    #[serde(default)]
    pub improve: Vec<String>,
}

/// The addresses of one family.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct FamilyJson {
    /// Of the host's interfaces, but for loopback.
    pub inside: Vec<IpAddr>,
    /// As others see the node.
    pub outside: Vec<SocketAddr>,
}

/// External ports.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub(crate) struct PortsJson {
    /// The lowest one.
    pub lowest: u16,
    /// The highest one.
    pub highest: u16,
    /// How many different ones.
    pub count: u16,
}

/// Whether the NAT turns around what goes to its own outside.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct HairpinJson {
    /// `works` or `unknown`: nothing is sent to find out.
    pub state: String,
    /// The name of a member that is reached so.
    pub seen_with: Option<String>,
}

/// Whether one NAT stands behind another.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct DoubleNatJson {
    /// `no-ipv4`, `no-nat`, `no`, `yes`, `likely` or `unknown`.
    pub state: String,
    /// What shows it: `shared-address`, `router-is-inside`, `router-sees-another`, `several-outside`,
    /// `router-agrees`; `null` where nothing does.
    pub evidence: Option<String>,
}

/// What was learned of how long the NAT's mappings last.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub(crate) struct LifetimeJson {
    /// How often idle sessions are kept alive.
    pub keep_alive_ms: u64,
    /// The shortest silence after which a mapping was gone.
    pub expired_after_ms: Option<u64>,
    /// The age at which mappings are replaced although in use.
    pub replaced_after_ms: Option<u64>,
}

/// This host's clock.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub(crate) struct ClockJson {
    /// By how much it is ahead of the median of the others; negative where it is behind.
    pub ahead_ms: i64,
    /// Of how many.
    pub members: usize,
}

/// What fits into a datagram on direct paths, in bytes of UDP payload.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub(crate) struct DatagramJson {
    /// The smallest of all direct sessions.
    pub lowest: u16,
    /// The largest.
    pub highest: u16,
    /// How many direct sessions there are.
    pub sessions: usize,
    /// How often larger ones began to be lost.
    pub black_holes: u64,
}

/// How many members are reached in which way.
#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize)]
pub(crate) struct ReachedJson {
    /// Straight.
    pub direct: usize,
    /// Over others.
    pub relayed: usize,
    /// Not, since no session could be opened or kept.
    pub failed: usize,
    /// Not, since nothing calls for it.
    pub idle: usize,
}

/// A member that is not reached.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct LostJson {
    /// Who.
    pub node_id: String,
    /// Its name.
    pub name: String,
}

/// How many members could carry for this node.
#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize)]
pub(crate) struct RelaysJson {
    /// Those that carry for others and are reached straight.
    pub direct: usize,
    /// All that carry for others.
    pub members: usize,
}

/// An address to start from.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct StartJson {
    /// The address.
    pub addr: SocketAddr,
    /// `connected`, `answered`, `silent`, `trying`, `not-tried`, `itself` or `unusable`.
    pub state: String,
    /// Attempts in a row that nobody answered.
    pub attempts: u32,
    /// Whose it is, as far as is known.
    pub node_id: Option<String>,
    /// Its name.
    pub name: Option<String>,
}

/// `doctor --json` where no node runs.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct AbsentJson {
    /// False.
    pub running: bool,
    /// The home directory.
    pub home: String,
    /// The version of the program.
    pub version: String,
    /// The name in its settings.
    pub name: Option<String>,
    /// What is wrong with the home, in a sentence.
    pub error: Option<String>,
    /// The address from which this host would send to the rest of the world.
    pub ipv4: Option<IpAddr>,
    /// The same for IPv6.
    pub ipv6: Option<IpAddr>,
    /// The addresses to start from in its settings, and where they lead.
    pub start: Vec<LookupJson>,
    /// How many members' addresses are remembered from earlier runs.
    pub remembered: usize,
    /// False.
    pub can_work: bool,
    /// The reason, in a sentence.
    pub verdict: String,
    /// What to do, a sentence each.
    pub improve: Vec<String>,
}

/// An address to start from that was looked up.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct LookupJson {
    /// As it is written in the settings.
    pub host: String,
    /// What it stands for; nothing where it cannot be looked up.
    pub addrs: Vec<SocketAddr>,
}

/// `doctor --mesh --json`, `GET /v1/doctor/mesh`.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct AdviceJson {
    /// True: the node answers for itself.
    pub running: bool,
    /// This node.
    pub node_id: String,
    /// Its name.
    pub name: String,
    /// Members, this node included.
    pub members: u64,
    /// Of these, those that anyone can reach.
    pub open: u64,
    /// Pairs of members.
    pub pairs: PairsJson,
    /// What would help, best first.
    pub suggestions: Vec<SuggestionJson>,
    /// The best of them, in a sentence.
    #[serde(default)]
    pub verdict: String,
}

/// Pairs of members, by what they can be.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub(crate) struct PairsJson {
    /// Direct.
    pub direct: u64,
    /// Not known, for want of a verdict on a NAT.
    pub undecided: u64,
    /// Only relayed.
    pub relayed: u64,
}

/// A change, and what it would do.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct SuggestionJson {
    /// `allow-udp`, `open-router`, `open-firewall`, `give-ipv4`, `give-ipv6` or `add-public-member`.
    pub change: String,
    /// Where; `null` for a member that is to be added.
    pub node_id: Option<String>,
    /// Its name.
    pub name: Option<String>,
    /// How many pairs it would turn direct; of `add-public-member`, of how many it would be known.
    pub pairs: u64,
    /// Other members at which it would do as much.
    pub others: u64,
}

impl DoctorJson {
    /// The facts; what follows from them is not filled in.
    pub(crate) fn of(mesh: &Mesh) -> Self {
        let found = mesh.diagnosis();
        let reflexive = found.status.reflexive.clone();
        let family = |v4: bool| FamilyJson {
            inside: found.ips.iter().filter(|ip| ip.is_ipv4() == v4 && !ip.is_loopback()).copied().collect(),
            outside: reflexive.iter().filter(|addr| addr.is_ipv4() == v4).copied().collect(),
        };
        let Diagnosis { external_ports, turned_around, lifetime, clock, datagram, reach, relays, .. } = found;
        let (ipv4, ipv6) = (family(true), family(false));
        let start = found.starts.into_iter().map(|start| StartJson::of(mesh, &start)).collect();
        let lost = |id: &net_mesh::NodeId| LostJson { node_id: id.to_string(), name: display_name(mesh, id) };
        let lost = found.lost.iter().map(lost).collect();
        let status = StatusJson::of(mesh);
        Self {
            running: true,
            double_nat: crate::doctor::double_nat(&ipv4, &status.nat, &status.port_mapping),
            node_id: status.node_id,
            name: status.name,
            version: status.version,
            mesh_id: status.mesh_id,
            listen: status.listen,
            udp: status.udp,
            ipv4,
            ipv6,
            nat: status.nat,
            ports: external_ports.map(|ports| PortsJson {
                lowest: ports.lowest,
                highest: ports.highest,
                count: ports.count,
            }),
            hairpin: HairpinJson {
                state: if turned_around.is_some() { "works" } else { "unknown" }.into(),
                seen_with: turned_around.map(|id| display_name(mesh, &id)),
            },
            mapping_lifetime: LifetimeJson {
                keep_alive_ms: whole_millis(lifetime.keep_alive),
                expired_after_ms: lifetime.expired_after.map(whole_millis),
                replaced_after_ms: lifetime.replaced_after.map(whole_millis),
            },
            port_mapping: status.port_mapping,
            port_mapping_built: cfg!(feature = "port-mapping"),
            clock: clock.map(|clock| ClockJson { ahead_ms: clock.ahead_ms, members: clock.members }),
            datagram: datagram.map(|size| DatagramJson {
                lowest: size.lowest,
                highest: size.highest,
                sessions: size.sessions,
                black_holes: size.black_holes,
            }),
            members: ReachedJson {
                direct: reach.direct,
                relayed: reach.relayed,
                failed: reach.failed,
                idle: reach.idle,
            },
            lost,
            relays: RelaysJson { direct: relays.direct, members: relays.members },
            start,
            can_work: false,
            verdict: String::new(),
            improve: Vec::new(),
        }
    }
}

impl StartJson {
    fn of(mesh: &Mesh, start: &StartInfo) -> Self {
        let (state, attempts) = match start.state {
            StartState::Connected => ("connected", 0),
            StartState::Answered => ("answered", 0),
            StartState::Refused { attempts } => ("refused", attempts),
            StartState::Silent { attempts } => ("silent", attempts),
            StartState::Trying => ("trying", 0),
            StartState::Untried => ("not-tried", 0),
            StartState::Itself => ("itself", 0),
            StartState::Unusable => ("unusable", 0),
        };
        Self {
            addr: start.addr,
            state: state.into(),
            attempts,
            node_id: start.node.map(|id| id.to_string()),
            name: start.node.map(|id| display_name(mesh, &id)),
        }
    }
}

impl AdviceJson {
    /// The counts; the sentence is not filled in.
    pub(crate) fn of(mesh: &Mesh) -> Self {
        let Advice { members, direct, undecided, relayed, open, suggestions } = mesh.advice();
        let suggestion = |change: &str, node: Option<NodeId>, pairs, others| SuggestionJson {
            change: change.into(),
            node_id: node.map(|id| id.to_string()),
            name: node.map(|id| display_name(mesh, &id)),
            pairs,
            others,
        };
        let blocked = mesh.status().udp == net_mesh::Udp::Blocked;
        // Without UDP none of this node's pairs is direct, whatever their records say.
        let here = suggestion("allow-udp", Some(mesh.node_id()), members.saturating_sub(1), 0);
        let named = suggestions.into_iter().map(|s| {
            let (change, node) = match s.change {
                Change::OpenRouter(node) => ("open-router", Some(node)),
                Change::OpenFirewall(node) => ("open-firewall", Some(node)),
                Change::GiveIpv4(node) => ("give-ipv4", Some(node)),
                Change::GiveIpv6(node) => ("give-ipv6", Some(node)),
                Change::AddPublicMember => ("add-public-member", None),
            };
            suggestion(change, node, s.pairs, s.others)
        });
        Self {
            running: true,
            node_id: mesh.node_id().to_string(),
            name: mesh.name().to_owned(),
            members,
            open,
            pairs: PairsJson { direct, undecided, relayed },
            suggestions: blocked.then_some(here).into_iter().chain(named).collect(),
            verdict: String::new(),
        }
    }
}
