//! How things stand with the port of the router, as the operator sees it.

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use net_mesh_proto::id::NodeId;
use net_mesh_proto::portmap::{Protocol, Status};
use net_mesh_proto::time::Time;

/// How far asking the router has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum PortMappingState {
    /// This host has no private IPv4 address, so there is no router to ask.
    NotNeeded,
    /// A router is being asked.
    Asking,
    /// None answers in any protocol.
    NoRouter,
    /// One answers, and does not map.
    Refused,
    /// What it mapped is of no use, and has been given back.
    Useless,
    /// A port is mapped, and no member has reached it yet; others are not told of it.
    Unproven,
    /// A port is mapped, a member has reached it, and others are told of it.
    Proven,
    /// The node is leaving, and has given back what it held.
    Released,
}

impl fmt::Display for PortMappingState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::NotNeeded => "not-needed",
            Self::Asking => "asking",
            Self::NoRouter => "no-router",
            Self::Refused => "refused",
            Self::Useless => "useless",
            Self::Unproven => "unproven",
            Self::Proven => "proven",
            Self::Released => "released",
        })
    }
}

/// The port of the router.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct PortMapping {
    /// How far it has come.
    pub state: PortMappingState,
    /// `PCP`, `NAT-PMP` or `UPnP-IGD`, where a router has answered.
    pub protocol: Option<&'static str>,
    /// The router, where it has mapped something.
    pub gateway: Option<IpAddr>,
    /// The address that the router says is open.
    pub external: Option<SocketAddr>,
    /// How long the lease lasts, where it ends.
    pub expires_in: Option<Duration>,
    /// The member that reached it.
    pub proven_by: Option<NodeId>,
    /// Why it is not as it should be, as a sentence.
    pub reason: Option<String>,
}

impl PortMapping {
    /// `status` as the operator sees it at `now`.
    pub(crate) fn of(now: Time, status: &Status) -> Self {
        let word = |protocol: &Protocol| Some(protocol.word());
        let mut info = Self {
            state: PortMappingState::NotNeeded,
            protocol: None,
            gateway: None,
            external: None,
            expires_in: None,
            proven_by: None,
            reason: None,
        };
        match status {
            Status::NotNeeded => info.reason = Some("this host has no private IPv4 address".into()),
            Status::Asking => info.state = PortMappingState::Asking,
            Status::NoRouter => {
                info.state = PortMappingState::NoRouter;
                info.reason = Some(
                    "no router answers; it is tried again when the network changes, and every half hour"
                        .into(),
                );
            }
            Status::Refused { protocol, failure } => {
                info.state = PortMappingState::Refused;
                (info.protocol, info.reason) = (word(protocol), Some(failure.words().into()));
            }
            Status::Useless { protocol, gateway, external, why } => {
                info.state = PortMappingState::Useless;
                (info.protocol, info.gateway) = (word(protocol), Some(*gateway));
                (info.external, info.reason) = (Some(*external), Some(why.to_string()));
            }
            Status::Mapped { protocol, gateway, external, expires, proven_by } => {
                info.state = match proven_by {
                    Some(_) => PortMappingState::Proven,
                    None => PortMappingState::Unproven,
                };
                (info.protocol, info.gateway) = (word(protocol), Some(*gateway));
                (info.external, info.proven_by) = (Some(*external), *proven_by);
                info.expires_in = expires.map(|at| at - now);
                if proven_by.is_none() {
                    info.reason = Some("no member elsewhere has reached it yet".into());
                }
            }
            Status::Left => info.state = PortMappingState::Released,
        }
        info
    }
}
