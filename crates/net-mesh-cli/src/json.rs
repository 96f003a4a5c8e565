//! The JSON that is promised to others: what `--json` prints and what the admin API speaks.
//!
//! Fields are only ever added. Times are in milliseconds unless the name says otherwise; ids are whole
//! node ids as printed; a value that is not known is `null`.

pub(crate) mod doctor;
mod mesh;
mod port_mapping;
pub(crate) mod why;

use std::collections::BTreeMap;
use std::net::SocketAddr;

use net_mesh::{Event, Mesh, NodeId, Path, PeerInfo};
pub(crate) use port_mapping::PortMappingJson;
use serde::{Deserialize, Serialize};

pub(crate) use self::mesh::{LinkJson, MemberJson, RendezvousJson};
pub(crate) use self::why::{AttemptJson, MomentJson, OtherSideJson, WhyJson};
use crate::text::millis;

/// `status --json`, `GET /v1/status`.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct StatusJson {
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
    /// The addresses others see it at.
    pub reflexive: Vec<SocketAddr>,
    /// What is known about its NAT.
    pub nat: NatJson,
    /// The port of the router.
    #[serde(default)]
    pub port_mapping: PortMappingJson,
    /// How many other members are known.
    pub peers: usize,
    /// `works`, `blocked` (nothing has come back for seconds) or `unknown`.
    #[serde(default)]
    pub udp: String,
    /// What is wrong with the network, in one sentence, where something is.
    #[serde(default)]
    pub problem: Option<String>,
    /// What is carried for others; `null` where this node does not relay.
    #[serde(default)]
    pub relay: Option<RelayJson>,
    /// Discarded inputs by reason; reasons that never occurred are left out.
    pub drops: BTreeMap<String, u64>,
}

/// What a node carries for others.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct RelayJson {
    /// Circuits at present.
    pub circuits: usize,
    /// Datagrams forwarded since the start.
    pub packets: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Datagrams that were above what is carried for their neighbour.
    pub limited: u64,
}

/// A port that was opened by hand.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct OpenPortJson {
    /// Where anyone can reach the node.
    pub addr: SocketAddr,
    /// The name of the member that did last.
    pub proven_by: String,
}

impl NatJson {
    /// The class, and how it comes about.
    pub(crate) fn class_words(&self) -> String {
        match (&self.class_without_mapping, &self.open_port) {
            (None, _) => self.class.clone(),
            (Some(own), None) => format!("{} by the port mapping, {own} without it", self.class),
            (Some(own), Some(open)) => format!(
                "{} by the open port {} (reached by {}), {own} without it",
                self.class,
                open.addr,
                crate::text::printable(&open.proven_by)
            ),
        }
    }
}

/// What a node knows about its NAT.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct NatJson {
    /// The familiar name of what others experience.
    pub class: String,
    /// The familiar name of what the NAT does by itself, where a port mapping or an open port leads through it.
    #[serde(default)]
    pub class_without_mapping: Option<String>,
    /// The main port, where it was opened by hand.
    #[serde(default)]
    pub open_port: Option<OpenPortJson>,
    /// How external addresses are chosen.
    pub mapping: String,
    /// What is let in.
    pub filtering: String,
    /// How external ports are chosen.
    pub port_rule: String,
    /// How sure, from 0 to 1.
    pub confidence: f64,
    /// How long ago it was found out.
    pub age_ms: Option<u64>,
    /// What is missing to know more.
    pub missing: Option<String>,
}

/// One element of `peers --json`, `GET /v1/peers`.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct PeerJson {
    /// Who.
    pub node_id: String,
    /// Its name.
    pub name: String,
    /// The class of its NAT.
    pub nat: String,
    /// Whether anyone can reach it by a port mapping of its router.
    #[serde(default)]
    pub port_mapped: bool,
    /// How packets get there.
    pub path: PathJson,
    /// For how long they have.
    #[serde(default)]
    pub since_ms: Option<u64>,
    /// The round-trip time of the path.
    pub rtt_ms: Option<f64>,
    /// The share of packets lost on the path lately, from 0 to 1.
    pub loss: Option<f32>,
    /// `healthy`, `suspect` or `failed`.
    pub health: String,
    /// What is wrong with the network on the way, where it has a name.
    pub issues: Vec<String>,
    /// Bytes sent to it.
    pub tx_bytes: u64,
    /// Bytes received from it.
    pub rx_bytes: u64,
}

/// How packets reach a peer.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct PathJson {
    /// `direct`, `relayed` or `none`.
    pub kind: String,
    /// The UDP address packets are sent to.
    pub addr: Option<SocketAddr>,
    /// The names of the nodes that relay, in order.
    pub via: Vec<String>,
    /// Their ids.
    #[serde(default)]
    pub via_ids: Vec<String>,
}

/// The body of `POST /v1/ping`.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct PingRequest {
    /// A name or a prefix of a node id.
    pub peer: String,
}

/// The answer of `POST /v1/ping`; `ping --json` puts `seq` before it.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct PingJson {
    /// Who answered.
    pub node_id: String,
    /// Its name.
    pub name: String,
    /// The path that was used.
    pub path: PathJson,
    /// The time it took.
    pub rtt_ms: f64,
}

/// The answer of `POST /v1/channels/{channel}`.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct PublishedJson {
    /// How many events the node took.
    pub accepted: u64,
}

/// The answer to any request that failed.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct ErrorJson {
    /// What is wrong, in one sentence.
    pub error: String,
    /// How many events had been accepted before, where events were being published.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub accepted: Option<u64>,
}

/// One line of `subscribe --json`.
#[derive(Serialize)]
pub(crate) struct EventJson<'a> {
    channel: &'a str,
    from: String,
    seq: u64,
    /// RFC 3339, UTC, by the publisher's clock.
    time: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    payload: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    payload_base64: Option<String>,
    /// Events of this publisher that were lost right before this one; left out where none were.
    #[serde(skip_serializing_if = "Option::is_none")]
    missed: Option<u64>,
    /// Whether the publisher has restarted since the event before; left out where it has not.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    restarted: bool,
}

impl<'a> EventJson<'a> {
    pub(crate) fn of(event: &'a Event) -> Self {
        let Event { from, seq, unix_ms, missed, restarted, .. } = *event;
        Self { restarted, ..Self::new((&event.channel, from, seq), unix_ms, &event.payload, missed) }
    }

    fn new(
        (channel, from, seq): (&'a str, NodeId, u64),
        unix_ms: u64,
        payload: &'a [u8],
        missed: u64,
    ) -> Self {
        let text = std::str::from_utf8(payload).ok();
        Self {
            channel,
            from: from.to_string(),
            seq,
            time: rfc3339(unix_ms),
            payload: text,
            payload_base64: text.is_none().then(|| data_encoding::BASE64.encode(payload)),
            missed: (missed > 0).then_some(missed),
            restarted: false,
        }
    }
}

/// The last millisecond of the year 9999, beyond which RFC 3339 has no form. The clock that is read
/// here is another node's.
const LAST_MS: u64 = 253_402_300_799_999;

fn rfc3339(unix_ms: u64) -> String {
    let since = std::time::Duration::from_millis(unix_ms.min(LAST_MS));
    humantime::format_rfc3339_millis(std::time::UNIX_EPOCH + since).to_string()
}

impl StatusJson {
    pub(crate) fn of(mesh: &Mesh) -> Self {
        let status = mesh.status();
        let nat = status.nat;
        Self {
            node_id: status.node_id.to_string(),
            name: status.name,
            version: env!("CARGO_PKG_VERSION").into(),
            mesh_id: mesh.mesh_id().to_string(),
            listen: status.listen,
            reflexive: status.reflexive,
            nat: NatJson {
                class: nat.class.to_string(),
                class_without_mapping: nat.class_without_mapping.map(|class| class.to_string()),
                open_port: nat.open_port.map(|open| OpenPortJson {
                    addr: open.addr,
                    proven_by: display_name(mesh, &open.reached_by),
                }),
                mapping: nat.mapping.to_string(),
                filtering: nat.filtering.to_string(),
                port_rule: nat.port_rule.to_string(),
                // Two digits are all that such a number can honestly have.
                confidence: (f64::from(nat.confidence) * 100.0).round() / 100.0,
                age_ms: nat.age.map(whole_millis),
                missing: nat.missing,
            },
            port_mapping: PortMappingJson::of(mesh, status.port_mapping),
            peers: status.peers,
            udp: status.udp.to_string(),
            problem: status.problem,
            relay: status.relay.map(|relay| RelayJson {
                circuits: relay.circuits,
                packets: relay.packets,
                bytes: relay.bytes,
                limited: relay.limited,
            }),
            drops: status.drops.into_iter().map(|(reason, count)| (reason.to_owned(), count)).collect(),
        }
    }
}

impl PeerJson {
    pub(crate) fn of(mesh: &Mesh, peer: PeerInfo) -> Self {
        Self {
            node_id: peer.node_id.to_string(),
            name: peer.name,
            nat: peer.nat.to_string(),
            port_mapped: peer.port_mapped,
            path: PathJson::of(mesh, &peer.path),
            since_ms: peer.since.map(whole_millis),
            rtt_ms: peer.rtt.map(millis),
            loss: peer.loss,
            health: peer.health.to_string(),
            issues: peer.issues.iter().map(ToString::to_string).collect(),
            tx_bytes: peer.tx_bytes,
            rx_bytes: peer.rx_bytes,
        }
    }
}

impl PathJson {
    pub(crate) fn of(mesh: &Mesh, path: &Path) -> Self {
        Self {
            kind: path.kind.to_string(),
            addr: path.addr,
            via: path.via.iter().map(|id| display_name(mesh, id)).collect(),
            via_ids: path.via.iter().map(ToString::to_string).collect(),
        }
    }
}

/// The name of a member; the start of its id where its record has not come yet.
fn display_name(mesh: &Mesh, id: &NodeId) -> String {
    mesh.member_name(id).unwrap_or_else(|| id.short())
}

fn whole_millis(time: std::time::Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn event(payload: &[u8], missed: u64) -> EventJson<'_> {
        EventJson::new(("c/é", NodeId([0; 32]), 3), 1_700_000_000_123, payload, missed)
    }

    #[test]
    fn an_event_with_text_is_text() {
        let line = serde_json::to_string(&event(b"a \"b\"\n", 0)).unwrap();
        let zero = "a".repeat(52);
        let want = format!(
            r#"{{"channel":"c/é","from":"{zero}","seq":3,"time":"2023-11-14T22:13:20.123Z","payload":"a \"b\"\n"}}"#
        );
        assert_eq!(line, want);
    }

    #[test]
    fn an_event_with_other_bytes_is_base64_and_a_gap_is_told() {
        let json = serde_json::to_value(event(&[0xff, 0x00], 4)).unwrap();
        assert_eq!(json["payload_base64"], "/wA=");
        assert_eq!(json["missed"], 4);
        assert!(json.get("payload").is_none());
    }

    #[test]
    fn a_clock_from_the_far_future_still_prints() {
        assert_eq!(rfc3339(u64::MAX), "9999-12-31T23:59:59.999Z");
    }
}
