//! Which metrics are there? `docs/metrics.md` is made of this, and a test holds it to it.

use net_mesh_proto::drops::DropReason;
use net_mesh_proto::liveness::{Cause, Health, Issue};
use net_mesh_proto::nat::NatClass;
use net_mesh_proto::portmap;
use net_mesh_proto::rendezvous::Plan;

use super::{Kind, Label, Metric, Values};

macro_rules! metrics {
    ($($name:ident: $kind:ident $text:literal [$($label:ident: $values:expr),*] $help:literal;)+) => {
        $(pub(super) const $name: Metric = Metric {
            name: $text,
            kind: Kind::$kind,
            labels: &[$(Label { name: stringify!($label), values: $values }),*],
            help: $help,
        };)+

        /// Every metric that a node can record, in the order of the documentation.
        #[must_use]
        pub const fn all() -> &'static [Metric] {
            &[$($name),+]
        }
    };
}

/// `direct`, `relayed`: how packets travel.
pub(super) const PATHS: [&str; 2] = ["direct", "relayed"];
/// Whether packets leave or arrive.
pub(super) const DIRECTIONS: [&str; 2] = ["sent", "received"];
pub(super) const FAMILIES: [&str; 2] = ["ipv4", "ipv6"];
pub(super) const STATISTICS: [&str; 3] = ["median", "p90", "max"];

const CLASS: Values = Values::Of(|| NatClass::ALL.iter().map(|class| class.word()).collect());
const PATH: Values = Values::Of(|| PATHS.to_vec());
const DIRECTION: Values = Values::Of(|| DIRECTIONS.to_vec());
const STATISTIC: Values = Values::Of(|| STATISTICS.to_vec());
const HEALTH: Values = Values::Of(|| super::publish::HEALTHS.iter().map(|h: &Health| h.name()).collect());
const PLAN: Values = Values::Of(|| Plan::ALL.iter().map(|plan| plan.name()).collect());
const PROTOCOL: Values = Values::Of(|| portmap::Protocol::ALL.iter().map(|p| p.word()).collect());

metrics! {
    BUILD: Gauge "net_mesh_build_info" [version: Values::Open("the version of the program's library, one")]
        "The version that runs; the value is always 1.";
    MEMBERS: Gauge "net_mesh_members" [nat_class: CLASS]
        "Members of the mesh as this node knows them, itself included, by the class of their NAT.";
    RELAYING_MEMBERS: Gauge "net_mesh_relaying_members" []
        "Members that carry traffic for others, this node included if it does.";
    NAT_CLASS: Gauge "net_mesh_nat_class" [nat_class: CLASS]
        "The class of this node's own NAT: 1 for the present one, 0 for the others.";
    NAT_CONFIDENCE: Gauge "net_mesh_nat_confidence_ratio" []
        "How sure the verdict on this node's NAT is, from 0 to 1.";
    CLASSIFICATIONS: Counter "net_mesh_nat_classifications_total" [nat_class: CLASS]
        "Verdicts reached on this node's NAT, by the class they come to.";
    UDP_SILENT: Gauge "net_mesh_udp_silent" []
        "1 while nothing has come back over UDP for seconds from anyone, else 0.";
    REFLEX: Counter "net_mesh_reflex_packets_total" [
        kind: Values::Of(|| super::publish::reflex_words().iter().map(|(kind, _)| *kind).collect()),
        result: Values::Of(|| super::publish::reflex_words().iter().map(|(_, result)| *result).collect())
    ]
        "STUN packets about reflexive addresses. kind=query: this node asks (sent, answered, refused, unmatched answers, and questions given up). kind=request: others ask (answered, refused for unknown attributes, rate_limited, unusable). kind=probe: members that classify their NAT ask, answered.";
    REFLEXIVE_CHANGES: Counter "net_mesh_reflexive_changes_total" []
        "Changes of the addresses at which others see this node.";
    NETWORK_CHANGES: Counter "net_mesh_network_changes_total" []
        "Changes of the host's addresses, links and default routes, as they were told to the node; gathered ones count once.";
    SESSIONS: Gauge "net_mesh_sessions" [path: Values::Of(|| vec!["direct", "relayed", "none"])]
        "Sessions with other members, by how their packets travel; none while a session looks for a way.";
    SESSIONS_OPENED: Counter "net_mesh_sessions_opened_total" []
        "Sessions that came about.";
    SESSIONS_CLOSED: Counter "net_mesh_sessions_closed_total" []
        "Sessions that ended.";
    PATH_CHANGES: Counter "net_mesh_path_changes_total" [path: PATH]
        "Times a session took a way, its first one included, by the kind of that way.";
    SESSION_BYTES: Counter "net_mesh_session_bytes_total" [path: PATH, direction: DIRECTION]
        "Bytes of QUIC packets of sessions; copies sent over a second way count, headers of UDP and of relaying do not.";
    SESSION_PACKETS: Counter "net_mesh_session_packets_total" [path: PATH, direction: DIRECTION]
        "QUIC packets of sessions; copies sent over a second way count.";
    SESSION_RTT: Gauge "net_mesh_session_rtt_seconds" [path: PATH, statistic: STATISTIC]
        "Smoothed round-trip times of the sessions there are, over all of them.";
    SESSION_LOSS: Gauge "net_mesh_session_loss_ratio" [path: PATH, statistic: STATISTIC]
        "Share of packets lost lately, from 0 to 1, over all sessions where it is known.";
    DIALS_FAILED: Counter "net_mesh_dials_failed_total" [failure: Values::Of(|| super::happened::FAILURES.to_vec())]
        "Attempts to open a connection that failed.";
    SESSION_HEALTH: Gauge "net_mesh_session_health" [health: HEALTH]
        "Sessions by how the failure detector sees the peer.";
    HEALTH_TRANSITIONS: Counter "net_mesh_health_transitions_total" [
        health: HEALTH,
        cause: Values::Of(|| Cause::ALL.iter().map(|cause| cause.name()).collect())
    ]
        "Changes of the failure detector's opinion of a path, by the new opinion and what made it change.";
    PATH_ISSUES: Counter "net_mesh_path_issues_total" [
        issue: Values::Of(|| Issue::ALL.iter().map(|issue| issue.name()).collect())
    ]
        "Faults with a name found in the network to a peer; one counts once in a session.";
    RENDEZVOUS: Counter "net_mesh_rendezvous_total" [
        plan: PLAN,
        outcome: Values::Of(|| super::happened::ENDS.iter().map(|(outcome, _)| *outcome).collect()),
        reason: Values::Of(|| super::happened::ENDS.iter().map(|(_, reason)| *reason).collect()),
        mediator: Values::Open("session (the two arranged it themselves), the names of the first 8 mediators, other")
    ]
        "Attempts at a direct way that this node took part in and that are over.";
    CHECKS: Counter "net_mesh_rendezvous_checks_total" [direction: DIRECTION]
        "Check packets of the attempts in net_mesh_rendezvous_total; of those received, the genuine ones.";
    INTRODUCTIONS: Counter "net_mesh_introductions_total" [plan: PLAN]
        "Pairs of other members that this node introduced to each other.";
    RELAY_CIRCUITS: Gauge "net_mesh_relay_circuits" []
        "Circuits of other members that go through this node.";
    RELAY_PACKETS: Counter "net_mesh_relay_packets_total" []
        "Datagrams forwarded for other members.";
    RELAY_BYTES: Counter "net_mesh_relay_bytes_total" []
        "Bytes of the datagrams forwarded for other members, without the headers of relaying.";
    RELAY_DELIVERED: Counter "net_mesh_relay_delivered_packets_total" []
        "Relayed datagrams that were for this node.";
    RELAY_DROPPED: Counter "net_mesh_relay_dropped_packets_total" [
        reason: Values::Of(|| super::publish::RELAY_REASONS.to_vec())
    ]
        "Relayed datagrams that were not sent on: above this node's limit, or with a label that is unknown, another neighbour's, or expired. One that waits for its label and is asked for again counts twice.";
    RELAY_DROPPED_BYTES: Counter "net_mesh_relay_dropped_bytes_total" []
        "Bytes of the datagrams that were not sent on because they were above this node's limit.";
    DROPPED: Counter "net_mesh_dropped_total" [
        reason: Values::Of(|| DropReason::ALL.iter().map(|reason| reason.name()).collect())
    ]
        "Datagrams and messages discarded by the node.";
    SOCKET_DROPPED: Counter "net_mesh_socket_dropped_packets_total" [family: Values::Of(|| FAMILIES.to_vec())]
        "Datagrams that the system discarded because the buffer of the node's socket was full. Linux only.";
    PORT_MAPPING: Gauge "net_mesh_port_mapping" [
        state: Values::Of(|| super::publish::MAPPING_STATES.iter().map(|(_, word)| *word).collect())
    ]
        "How far asking the router for a port has come: 1 for the present state, 0 for the others; absent unless it is asked.";
    PORT_MAPPING_EVENTS: Counter "net_mesh_port_mapping_events_total" [
        event: Values::Of(|| super::happened::MAPPING_EVENTS.to_vec())
    ]
        "What happened to the port of the router, or to one opened by hand.";
    PORT_MAPPING_REQUESTS: Counter "net_mesh_port_mapping_requests_total" [
        protocol: PROTOCOL,
        request: Values::Of(|| vec!["map", "release"]),
        result: Values::Of(|| {
            ["ok"].into_iter().chain(portmap::Failure::ALL.iter().map(|failure| failure.word())).collect()
        })
    ]
        "Requests to the router, by what came of them.";
}
