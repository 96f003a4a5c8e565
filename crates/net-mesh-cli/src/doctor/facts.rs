//! Facts made up for tests.

use crate::json::doctor::{DoctorJson, StartJson};

/// Facts about nodes that do not exist.
pub(super) struct Facts;

pub(super) fn id(letter: &str) -> String {
    letter.repeat(52)
}

pub(super) fn start(addr: &str, state: &str) -> StartJson {
    let attempts = if state == "silent" { 3 } else { 0 };
    StartJson { addr: addr.parse().unwrap(), state: state.into(), attempts, node_id: None, name: None }
}

impl Facts {
    /// A node at home that reaches three others.
    pub(super) fn working() -> DoctorJson {
        let value = serde_json::json!({
            "running": true,
            "node_id": id("a"),
            "name": "attic",
            "version": "1.2.3",
            "mesh_id": id("m"),
            "listen": ["0.0.0.0:4433", "[::]:4433"],
            "udp": "works",
            "ipv4": { "inside": ["127.0.0.1", "192.168.1.7"], "outside": ["44.10.1.2:4433"] },
            "ipv6": { "inside": [], "outside": [] },
            "nat": {
                "class": "port-restricted", "mapping": "endpoint-independent",
                "filtering": "address-and-port-dependent", "port_rule": "preserving",
                "confidence": 0.99, "age_ms": 61_000, "missing": null
            },
            "ports": { "lowest": 40_001, "highest": 40_009, "count": 3 },
            "hairpin": { "state": "unknown", "seen_with": null },
            "double_nat": { "state": "unknown", "evidence": null },
            "mapping_lifetime": { "keep_alive_ms": 15_000, "expired_after_ms": null, "replaced_after_ms": null },
            "port_mapping": { "state": "off" },
            "port_mapping_built": false,
            "clock": { "ahead_ms": 700, "members": 3 },
            "datagram": { "lowest": 1200, "highest": 1343, "sessions": 3, "black_holes": 0 },
            "members": { "direct": 3, "relayed": 0, "failed": 0, "idle": 0 },
            "relays": { "direct": 2, "members": 2 },
            "start": [{
                "addr": "44.10.9.1:4433", "state": "connected", "attempts": 0,
                "node_id": id("b"), "name": "fra-1"
            }],
        });
        serde_json::from_value(value).unwrap()
    }

    /// A node that was just made and knows nobody.
    pub(super) fn alone() -> DoctorJson {
        let facts = Self::working();
        DoctorJson {
            udp: "unknown".into(),
            clock: None,
            datagram: None,
            ports: None,
            members: crate::json::doctor::ReachedJson::default(),
            relays: crate::json::doctor::RelaysJson::default(),
            start: vec![],
            ..facts
        }
    }
}
