//! UPnP-IGD, versions 1 and 2, by the crate `igd-next`.
//!
//! Only the default gateway is asked, and only what it says of itself is followed: an answer of another device is not
//! heard, and a description that points to another host is skipped. Where the system does not tell its gateway, the first
//! device that answers is taken, and what it says of itself. The crate reads at most 1 MiB of an HTTP answer.
//!
//! A device is searched for once and remembered, also when it fails: it may have to delete what it mapped before. Only a
//! request to *map* that it did not answer makes the next such request search anew.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::Duration;

use igd_next::aio::Gateway;
use igd_next::aio::tokio::{Tokio, search_gateway};
use igd_next::{
    AddPortError, GetExternalIpError, PortMappingProtocol, RemovePortError, RequestError, SearchError,
    SearchOptions,
};
use net_mesh_proto::portmap::{Failure, Granted};

use super::gateway::{TELLS_GATEWAY, address_towards};
use super::router::Refusal;
use super::ssdp::Sieve;

/// How long devices may take to answer the search and to describe themselves: what the gateway alone is given
/// ([`super::ssdp`]), and the three seconds over which devices are asked to spread answers to a multicast. Routers answer sooner.
const SEARCH: Duration = Duration::from_millis(3500);

/// What the mapping is called in the router's own pages.
const DESCRIPTION: &str = "net-mesh";

/// A router that speaks UPnP, once one was found.
#[derive(Debug)]
pub(super) struct Upnp {
    found: Option<Gateway<Tokio>>,
    /// The last request to map was not answered, or its answer was not waited for.
    doubted: bool,
    /// Where devices are searched for.
    ssdp: SocketAddr,
}

impl Upnp {
    pub(super) fn new(ssdp: SocketAddr) -> Self {
        Self { found: None, doubted: false, ssdp }
    }

    /// Whether some device has been asked for anything.
    pub(super) const fn is_found(&self) -> bool {
        self.found.is_some()
    }

    /// The device, if it is known.
    fn known(&self, gateway: Option<Ipv4Addr>) -> Option<Gateway<Tokio>> {
        self.found.clone().filter(|device| gateway.is_none_or(|ip| device.addr.ip() == IpAddr::V4(ip)))
    }

    /// Searches for the device, and remembers it; `host` is the address of this host towards `gateway`.
    async fn search(&mut self, gateway: Option<Ipv4Addr>, host: Ipv4Addr) -> Result<Gateway<Tokio>, Refusal> {
        let mut options = SearchOptions::default();
        options.timeout = Some(SEARCH);
        options.single_search_timeout = Some(SEARCH);
        let device = match gateway {
            Some(gateway) => {
                let failed = |error: std::io::Error| Refusal::of(Failure::Local, error);
                let sieve = Sieve::new(host, gateway, self.ssdp).await.map_err(failed)?;
                options.bind_addr = (Ipv4Addr::LOCALHOST, 0).into();
                options.broadcast_address = sieve.addr().map_err(failed)?;
                // By itself the crate follows whom the datagram is from, but never to loopback, where the sieve is. So it
                // follows to the gateway and to nobody else.
                options.allowed_gateway_ips = vec![gateway.into()];
                tokio::select! {
                    found = search_gateway(options) => found?,
                    error = sieve.run() => return Err(failed(error)),
                }
            }
            // With a routing table, no gateway means that there is none, and a neighbour's device is no substitute.
            None if TELLS_GATEWAY => {
                return Err(Refusal::of(Failure::NoRouter, "there is no default route"));
            }
            None => {
                options.bind_addr = (host, 0).into();
                options.broadcast_address = self.ssdp;
                search_gateway(options).await?
            }
        };
        self.found = Some(device.clone());
        Ok(device)
    }

    pub(super) async fn map(
        &mut self,
        gateway: Option<Ipv4Addr>,
        host: Ipv4Addr,
        (internal, external): (u16, u16),
        lease: Duration,
    ) -> Result<Granted, Refusal> {
        // Set until there is an answer: whoever waits for this may stop to.
        let doubted = std::mem::replace(&mut self.doubted, true);
        let device = match self.known(gateway).filter(|_| !doubted) {
            Some(device) => device,
            None => self.search(gateway, host).await?,
        };
        let granted = add(&device, host, (internal, external), lease).await;
        self.doubted = granted.as_ref().is_err_and(|error| !error.is_an_answer());
        Ok(granted?)
    }

    pub(super) async fn release(
        &mut self,
        gateway: Option<Ipv4Addr>,
        host: Ipv4Addr,
        external: u16,
    ) -> Result<(), Refusal> {
        if let Some(device) = self.known(gateway) {
            match remove(&device, external).await {
                // The device may be elsewhere since it restarted.
                Err(RemovePortError::RequestError(error)) if !is_an_answer(&error) => {}
                done => return Ok(done?),
            }
        }
        let device = self.search(gateway, host).await?;
        Ok(remove(&device, external).await?)
    }
}

async fn add(
    device: &Gateway<Tokio>,
    host: Ipv4Addr,
    (internal, external): (u16, u16),
    lease: Duration,
) -> Result<Granted, Unmapped> {
    let ip = device.get_external_ip().await.map_err(Unmapped::NoAddress)?;
    let seconds = u32::try_from(lease.as_secs()).unwrap_or(u32::MAX);
    // Without a routing table it is known only now whom the address is towards.
    let host = match device.addr.ip() {
        IpAddr::V4(ip) if host.is_unspecified() => address_towards(ip).map_err(Unmapped::Local)?,
        _ => host,
    };
    let inside = SocketAddr::from((host, internal));
    let added = device.add_port(PortMappingProtocol::UDP, external, inside, seconds, DESCRIPTION).await;
    added.map_err(Unmapped::NoPort)?;
    Ok(Granted {
        gateway: device.addr.ip(),
        host: host.into(),
        external: SocketAddr::new(ip, external),
        lease: (seconds > 0).then_some(lease),
        epoch: None,
    })
}

async fn remove(device: &Gateway<Tokio>, external: u16) -> Result<(), RemovePortError> {
    match device.remove_port(PortMappingProtocol::UDP, external).await {
        Ok(()) | Err(RemovePortError::NoSuchPortMapping) => Ok(()),
        Err(error) => Err(error),
    }
}

/// Why a device did not map.
#[derive(Debug)]
enum Unmapped {
    NoAddress(GetExternalIpError),
    NoPort(AddPortError),
    Local(std::io::Error),
}

impl Unmapped {
    /// Whether the device itself says no.
    fn is_an_answer(&self) -> bool {
        match self {
            Self::NoAddress(GetExternalIpError::RequestError(error))
            | Self::NoPort(AddPortError::RequestError(error)) => is_an_answer(error),
            Self::NoAddress(_) | Self::NoPort(_) => true,
            Self::Local(_) => false,
        }
    }
}

impl From<Unmapped> for Refusal {
    fn from(error: Unmapped) -> Self {
        match error {
            Unmapped::NoAddress(error) => error.into(),
            Unmapped::NoPort(error) => error.into(),
            Unmapped::Local(error) => Self::of(Failure::Local, error),
        }
    }
}

const fn is_an_answer(error: &RequestError) -> bool {
    matches!(error, RequestError::ErrorCode(..) | RequestError::UnsupportedAction(_))
}

fn of_request(error: &RequestError) -> Failure {
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
