//! PCP (RFC 6887) and NAT-PMP (RFC 6886), by the crate `crab_nat`.
//!
//! The crate sends from a socket of its own that is connected to the router, so only what bears the router's address
//! is heard; it reads a datagram of at most 1100 bytes, and ends a request with the first that makes no sense.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::num::NonZeroU16;
use std::time::Duration;

use crab_nat::{
    InternetProtocol, PortMapping, PortMappingOptions, PortMappingType, TimeoutConfig, natpmp, pcp,
};
use net_mesh_proto::portmap::{Failure, Granted};

use super::router::Refusal;

/// Three packets within 1.75 s: the router is in the same network, and answers in milliseconds or not at all.
const TIMING: TimeoutConfig =
    TimeoutConfig { initial_timeout: Duration::from_millis(250), max_retries: 2, max_retry_timeout: None };

/// Where to ask, and on whose behalf.
#[derive(Clone, Copy, Debug)]
pub(super) struct Between {
    pub(super) gateway: Ipv4Addr,
    pub(super) host: Ipv4Addr,
}

fn options(external: u16, lease: Duration) -> PortMappingOptions {
    PortMappingOptions {
        external_port: NonZeroU16::new(external),
        lifetime_seconds: Some(u32::try_from(lease.as_secs()).unwrap_or(u32::MAX)),
        timeout_config: Some(TIMING),
    }
}

fn granted(between: Between, mapping: &PortMapping, external: IpAddr) -> Granted {
    Granted {
        gateway: between.gateway.into(),
        host: between.host.into(),
        external: SocketAddr::new(external.to_canonical(), mapping.external_port().get()),
        lease: Some(Duration::from_secs(mapping.lifetime().into())),
        epoch: Some(mapping.gateway_epoch()),
    }
}

/// Maps by PCP. `nonce` says that it is the same client that renews (RFC 6887 §11.2).
pub(super) async fn map(
    between: Between,
    nonce: pcp::Nonce,
    (internal, external): (NonZeroU16, u16),
    lease: Duration,
) -> Result<Granted, Refusal> {
    let base = pcp::BaseMapRequest::new(
        between.gateway.into(),
        between.host.into(),
        InternetProtocol::Udp,
        internal,
    );
    let mapping = pcp::port_mapping(base, Some(nonce), None, options(external, lease)).await?;
    match mapping.mapping_type() {
        PortMappingType::Pcp { external_ip, .. } => Ok(granted(between, &mapping, external_ip)),
        PortMappingType::NatPmp => Err(Refusal::of(Failure::Broken, "a mapping of another protocol")),
    }
}

/// Deletes by PCP.
pub(super) async fn release(
    between: Between,
    nonce: pcp::Nonce,
    internal: NonZeroU16,
) -> Result<(), Refusal> {
    let range = pcp::DropMappingRange::Single { internal_port: internal, protocol: InternetProtocol::Udp };
    pcp::try_drop_mapping(between.gateway.into(), between.host.into(), nonce, range, Some(TIMING)).await?;
    Ok(())
}

/// Maps by NAT-PMP.
pub(super) async fn map_old(
    between: Between,
    (internal, external): (NonZeroU16, u16),
    lease: Duration,
) -> Result<Granted, Refusal> {
    let gateway = between.gateway.into();
    let ip = natpmp::external_address(gateway, Some(TIMING)).await?;
    let mapping =
        natpmp::port_mapping(gateway, InternetProtocol::Udp, internal, options(external, lease)).await?;
    Ok(granted(between, &mapping, ip.into()))
}

/// Deletes by NAT-PMP.
pub(super) async fn release_old(between: Between, internal: NonZeroU16) -> Result<(), Refusal> {
    let gateway = between.gateway.into();
    natpmp::try_drop_mapping(gateway, InternetProtocol::Udp, Some(internal), Some(TIMING)).await?;
    Ok(())
}

/// Whether an error means that nobody is there: a port that is closed says so (ICMP), one that is filtered does not.
fn of_socket(error: &std::io::Error) -> Failure {
    match error.kind() {
        std::io::ErrorKind::ConnectionRefused
        | std::io::ErrorKind::ConnectionReset
        | std::io::ErrorKind::HostUnreachable
        | std::io::ErrorKind::NetworkUnreachable => Failure::NoRouter,
        _ => Failure::Local,
    }
}

impl From<pcp::Failure> for Refusal {
    fn from(error: pcp::Failure) -> Self {
        let failure = match &error {
            pcp::Failure::Socket(error) => of_socket(error),
            pcp::Failure::Timeout => Failure::NoRouter,
            pcp::Failure::UnsupportedVersion(_)
            | pcp::Failure::UnsupportedOpcode
            | pcp::Failure::UnsupportedOption
            | pcp::Failure::UnsupportedProtocol => Failure::Unsupported,
            pcp::Failure::NotAuthorized(_) | pcp::Failure::AddressMismatch => Failure::Refused,
            pcp::Failure::NetworkFailure(_)
            | pcp::Failure::NoResources(_)
            | pcp::Failure::UserExceededQuota(_)
            | pcp::Failure::ExcessiveRemotePeers => Failure::Exhausted,
            pcp::Failure::CannotProvideExternal(_) => Failure::Conflict,
            pcp::Failure::Nonce
            | pcp::Failure::InvalidResponse(_)
            | pcp::Failure::MalformedRequest
            | pcp::Failure::MalformedOption => Failure::Broken,
        };
        Self::of(failure, error)
    }
}

impl From<natpmp::Failure> for Refusal {
    fn from(error: natpmp::Failure) -> Self {
        let failure = match &error {
            natpmp::Failure::Socket(error) => of_socket(error),
            natpmp::Failure::Timeout => Failure::NoRouter,
            natpmp::Failure::UnsupportedVersion(_) | natpmp::Failure::UnsupportedOpcode => {
                Failure::Unsupported
            }
            natpmp::Failure::NotAuthorized => Failure::Refused,
            natpmp::Failure::NetworkFailure | natpmp::Failure::OutOfResources => Failure::Exhausted,
            natpmp::Failure::InvalidResponse(_) => Failure::Broken,
        };
        Self::of(failure, error)
    }
}
