//! UPnP-IGD, versions 1 and 2, by the crate `igd-next`.
//!
//! A device is searched for once and remembered. Only what the default gateway says of itself is followed: an answer,
//! or a description, that points to another host is skipped. The crate reads at most 1 MiB of an HTTP answer.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::Duration;

use igd_next::aio::Gateway;
use igd_next::aio::tokio::{Tokio, search_gateway};
use igd_next::{
    AddPortError, GetExternalIpError, PortMappingProtocol, RemovePortError, SearchError, SearchOptions,
};
use net_mesh_proto::portmap::{Failure, Granted};

use super::gateway::address_towards;
use super::router::Refusal;

/// How long devices may take to answer the search and to describe themselves; they are asked to spread answers over three
/// seconds, and routers answer sooner.
const SEARCH: Duration = Duration::from_millis(3500);

/// What the mapping is called in the router's own pages.
const DESCRIPTION: &str = "net-mesh";

/// A router that speaks UPnP, once one was found.
#[derive(Debug)]
pub(super) struct Upnp {
    found: Option<Gateway<Tokio>>,
    /// Where devices are searched for.
    ssdp: SocketAddr,
}

impl Upnp {
    pub(super) fn new(ssdp: SocketAddr) -> Self {
        Self { found: None, ssdp }
    }

    /// The device, searched for unless it is known; `host` is the address of this host towards `gateway`.
    async fn device(&mut self, gateway: Option<Ipv4Addr>, host: Ipv4Addr) -> Result<Gateway<Tokio>, Refusal> {
        let same = |device: &Gateway<Tokio>| gateway.is_none_or(|ip| device.addr.ip() == IpAddr::V4(ip));
        if let Some(device) = self.found.take_if(|device| same(device)) {
            return Ok(device);
        }
        let mut options = SearchOptions::default();
        options.bind_addr = SocketAddr::from((host, 0));
        options.broadcast_address = self.ssdp;
        options.timeout = Some(SEARCH);
        options.single_search_timeout = Some(SEARCH);
        options.allowed_gateway_ips = gateway.into_iter().map(IpAddr::V4).collect();
        let device = search_gateway(options).await?;
        // Another device of the same network may have answered first, and is nobody to be trusted with this.
        if !same(&device) {
            return Err(Refusal::of(
                Failure::NoRouter,
                format!("{} is not the default gateway", device.addr),
            ));
        }
        Ok(device)
    }

    pub(super) async fn map(
        &mut self,
        gateway: Option<Ipv4Addr>,
        host: Ipv4Addr,
        (internal, external): (u16, u16),
        lease: Duration,
    ) -> Result<Granted, Refusal> {
        let device = self.device(gateway, host).await?;
        let ip = device.get_external_ip().await?;
        let seconds = u32::try_from(lease.as_secs()).unwrap_or(u32::MAX);
        // Without a routing table it is known only now whom the address is towards.
        let host = match device.addr.ip() {
            IpAddr::V4(ip) if host.is_unspecified() => {
                address_towards(ip).map_err(|error| Refusal::of(Failure::Local, error))?
            }
            _ => host,
        };
        let inside = SocketAddr::from((host, internal));
        let added = device.add_port(PortMappingProtocol::UDP, external, inside, seconds, DESCRIPTION).await;
        let granted = Granted {
            gateway: device.addr.ip(),
            host: host.into(),
            external: SocketAddr::new(ip, external),
            lease: (seconds > 0).then_some(lease),
            epoch: None,
        };
        // Errors of the device are answers of the same one, which stays; others end what is known of it.
        if !matches!(added, Err(AddPortError::RequestError(_))) {
            self.found = Some(device);
        }
        added?;
        Ok(granted)
    }

    pub(super) async fn release(
        &mut self,
        gateway: Option<Ipv4Addr>,
        host: Ipv4Addr,
        external: u16,
    ) -> Result<(), Refusal> {
        let device = self.device(gateway, host).await?;
        match device.remove_port(PortMappingProtocol::UDP, external).await {
            Ok(()) | Err(RemovePortError::NoSuchPortMapping) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }
}

fn of_request(error: &igd_next::RequestError) -> Failure {
    use igd_next::RequestError;
    match error {
        RequestError::ErrorCode(401 | 402 | 602, _) | RequestError::UnsupportedAction(_) => {
            Failure::Unsupported
        }
        RequestError::ErrorCode(606, _) => Failure::Refused,
        // "no port maps available", "wild card not permitted", and whatever else devices make up.
        RequestError::ErrorCode(501 | 728, _) => Failure::Exhausted,
        RequestError::ErrorCode(..) => Failure::Refused,
        RequestError::IoError(error) if error.kind() == std::io::ErrorKind::TimedOut => Failure::NoRouter,
        RequestError::IoError(_) | RequestError::HyperClientError(_) => Failure::NoRouter,
        _ => Failure::Broken,
    }
}

impl From<SearchError> for Refusal {
    fn from(error: SearchError) -> Self {
        let failure = match &error {
            SearchError::NoResponseWithinTimeout => Failure::NoRouter,
            SearchError::IoError(_) => Failure::Local,
            _ => Failure::Broken,
        };
        Self::of(failure, error)
    }
}

impl From<GetExternalIpError> for Refusal {
    fn from(error: GetExternalIpError) -> Self {
        let failure = match &error {
            GetExternalIpError::ActionNotAuthorized => Failure::Refused,
            GetExternalIpError::RequestError(error) => of_request(error),
        };
        Self::of(failure, error)
    }
}

impl From<AddPortError> for Refusal {
    fn from(error: AddPortError) -> Self {
        let failure = match &error {
            AddPortError::ActionNotAuthorized => Failure::Refused,
            AddPortError::PortInUse => Failure::Conflict,
            AddPortError::SamePortValuesRequired => Failure::SamePort,
            AddPortError::OnlyPermanentLeasesSupported => Failure::PermanentOnly,
            AddPortError::InternalPortZeroInvalid
            | AddPortError::ExternalPortZeroInvalid
            | AddPortError::DescriptionTooLong => Failure::Broken,
            AddPortError::RequestError(error) => of_request(error),
        };
        Self::of(failure, error)
    }
}

impl From<RemovePortError> for Refusal {
    fn from(error: RemovePortError) -> Self {
        let failure = match &error {
            RemovePortError::ActionNotAuthorized => Failure::Refused,
            RemovePortError::NoSuchPortMapping => Failure::Broken,
            RemovePortError::RequestError(error) => of_request(error),
        };
        Self::of(failure, error)
    }
}
