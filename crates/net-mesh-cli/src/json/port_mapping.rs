//! The port of the router, as JSON.

use std::net::{IpAddr, SocketAddr};

use net_mesh::{Mesh, PortMapping};
use serde::{Deserialize, Serialize};

use super::{display_name, whole_millis};

/// `port_mapping` of `status --json`.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(crate) struct PortMappingJson {
    /// `off`, `not-needed`, `asking`, `no-router`, `refused`, `useless`, `unproven`, `proven` or `released`.
    pub state: String,
    /// `PCP`, `NAT-PMP` or `UPnP-IGD`.
    pub protocol: Option<String>,
    /// The router.
    pub gateway: Option<IpAddr>,
    /// The address that the router says is open.
    pub external: Option<SocketAddr>,
    /// How long the lease lasts.
    pub expires_in_ms: Option<u64>,
    /// The name of the member that reached it.
    pub proven_by: Option<String>,
    /// Why it is not as it should be.
    pub reason: Option<String>,
}

impl PortMappingJson {
    pub(crate) fn of(mesh: &Mesh, mapping: Option<PortMapping>) -> Self {
        let Some(mapping) = mapping else { return Self { state: "off".into(), ..Self::default() } };
        Self {
            state: mapping.state.to_string(),
            protocol: mapping.protocol.map(Into::into),
            gateway: mapping.gateway,
            external: mapping.external,
            expires_in_ms: mapping.expires_in.map(whole_millis),
            proven_by: mapping.proven_by.map(|id| display_name(mesh, &id)),
            reason: mapping.reason,
        }
    }

    /// The address at which anyone can reach the node, once that is known.
    pub(crate) fn proven(&self) -> Option<SocketAddr> {
        self.external.filter(|_| self.state == "proven")
    }

    /// In a line.
    pub(crate) fn words(&self) -> String {
        let mut words = self.state.clone();
        if let Some(external) = self.external {
            words += &format!(", {external}");
        }
        if let (Some(protocol), Some(gateway)) = (&self.protocol, self.gateway) {
            words += &format!(" by {gateway} ({protocol})");
        }
        if let Some(ms) = self.expires_in_ms {
            words += &format!(", renewed before {} pass", crate::text::age(ms));
        }
        if let Some(by) = &self.proven_by {
            words += &format!(", reached by {}", crate::text::printable(by));
        }
        if let Some(reason) = &self.reason {
            words += &format!(": {}", crate::text::printable(reason));
        }
        words
    }
}
