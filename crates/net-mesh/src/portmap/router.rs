//! Carries out what the node wants of the router: one request, one answer, within a bounded time.

use std::fmt::Display;
use std::net::{Ipv4Addr, SocketAddr};
use std::num::NonZeroU16;
use std::time::Duration;

use net_mesh_proto::portmap::{Answer, Failure, Granted, Protocol, Request};
use tokio::time::timeout;

use super::asker::RELEASE_LIMIT;
use super::gateway::{address_towards, default_gateway};
use super::pcp::{self, Between};
use super::upnp::Upnp;

/// The multicast group and port of SSDP (UPnP Device Architecture 2.0 §1.3).
pub(super) const SSDP: SocketAddr =
    SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::new(239, 255, 255, 250)), 1900);

/// How long a request in each protocol may take: PCP three packets, NAT-PMP twice that, UPnP a search and four HTTP
/// requests.
const LIMITS: [(Protocol, Duration); 3] = [
    (Protocol::Pcp, Duration::from_secs(2)),
    (Protocol::NatPmp, Duration::from_secs(4)),
    (Protocol::UpnpIgd, Duration::from_secs(8)),
];

/// How long `request` may take.
pub(super) fn limit(request: &Request) -> Duration {
    match request {
        Request::Map { protocol, .. } => {
            LIMITS.iter().find(|(p, _)| p == protocol).map_or(RELEASE_LIMIT, |(_, limit)| *limit)
        }
        Request::Release { .. } => RELEASE_LIMIT,
    }
}

/// Longest text for the log, in bytes.
const MAX_DETAIL: usize = 200;

/// Why a request was not granted.
#[derive(Debug)]
pub(super) struct Refusal {
    failure: Failure,
    detail: String,
}

impl Refusal {
    /// `detail` may come from the router: it is cut, and what cannot be printed is replaced.
    pub(super) fn of(failure: Failure, detail: impl Display) -> Self {
        let printable = |c: char| if c.is_control() { '\u{fffd}' } else { c };
        let mut text = String::new();
        for c in detail.to_string().chars().map(printable) {
            if text.len() + c.len_utf8() > MAX_DETAIL {
                break;
            }
            text.push(c);
        }
        Self { failure, detail: text }
    }
}

/// Where the router is: what the system says, or what a test does.
#[derive(Clone, Copy, Debug)]
pub(super) struct Place {
    /// `None`: the system's default gateway.
    pub(super) gateway: Option<Ipv4Addr>,
    pub(super) ssdp: SocketAddr,
}

impl Default for Place {
    fn default() -> Self {
        Self { gateway: None, ssdp: SSDP }
    }
}

/// The router, as far as it is known.
#[derive(Debug)]
pub(super) struct Router {
    place: Place,
    secret: [u8; 32],
    upnp: Upnp,
}

impl Router {
    /// `secret` must be known to this node alone, and the same at every start: nonces are made of it.
    pub(super) fn new(place: Place, secret: [u8; 32]) -> Self {
        Self { place, secret, upnp: Upnp::new(place.ssdp) }
    }

    /// The nonce of the mapping of this port. Who knows it can delete the mapping (RFC 6887 §18.1.2), and who has
    /// forgotten it cannot renew it, so it is the same after a crash; and another one in another network, which need not know
    /// that it is the same node.
    fn nonce(&self, between: Between, internal: NonZeroU16) -> crab_nat::pcp::Nonce {
        let Between { gateway, host } = between;
        let bytes =
            crate::identity::derive(&self.secret, &format!("PCP nonce v1 {gateway} {host} {internal}"));
        let word = |i: usize| u32::from_be_bytes([bytes[i], bytes[i + 1], bytes[i + 2], bytes[i + 3]]);
        [word(0), word(4), word(8)]
    }

    /// Deletes what `map`, a request that was cut short, may have been granted; says so if that fails.
    pub(super) async fn undo(&mut self, map: &Request) {
        let Request::Map { protocol, internal, external, .. } = *map else { return };
        if protocol == Protocol::UpnpIgd && !self.upnp.is_found() {
            return;
        }
        let gateway = self.place.gateway.or_else(default_gateway);
        let Some((gateway, host)) = gateway.and_then(|ip| Some((ip, address_towards(ip).ok()?))) else {
            return;
        };
        let (gateway, host) = (gateway.into(), host.into());
        let release = Request::Release { protocol, gateway, host, internal, external };
        if let Answer::Failed { failure, detail } = self.carry_out(release).await {
            tracing::warn!(
                %protocol, port = external, reason = failure.words(), detail,
                "a port was being asked for when the node stopped; if the router opens it, it stays open until its \
                lease ends"
            );
        }
    }

    /// Asks the router, and counts what came of it.
    pub(super) async fn carry_out(&mut self, request: Request) -> Answer {
        let limit = limit(&request);
        let (protocol, word) = match request {
            Request::Map { protocol, .. } => (protocol, "map"),
            Request::Release { protocol, .. } => (protocol, "release"),
        };
        let answer = match timeout(limit, self.ask(request)).await {
            Ok(Ok(answer)) => answer,
            Ok(Err(Refusal { failure, detail })) => Answer::Failed { failure, detail },
            Err(_) => Answer::Failed {
                failure: Failure::NoRouter,
                detail: format!("no end within {} s", limit.as_secs()),
            },
        };
        let result = match &answer {
            Answer::Mapped(_) | Answer::Released => "ok",
            Answer::Failed { failure, .. } => failure.word(),
        };
        crate::metrics::of_router_request(protocol, word, result);
        tracing::debug!(?request, ?answer, "router asked");
        answer
    }

    async fn ask(&mut self, request: Request) -> Result<Answer, Refusal> {
        let gateway = self.place.gateway.or_else(default_gateway);
        let host = match gateway {
            Some(gateway) => address_towards(gateway).map_err(|error| Refusal::of(Failure::Local, error))?,
            None => Ipv4Addr::UNSPECIFIED,
        };
        let between = || {
            gateway
                .map(|gateway| Between { gateway, host })
                .ok_or_else(|| Refusal::of(Failure::NoRouter, "there is no default route"))
        };
        match request {
            Request::Map { protocol, internal, external, lease } => {
                let port = nonzero(internal)?;
                let granted: Granted = match protocol {
                    Protocol::Pcp => {
                        let between = between()?;
                        pcp::map(between, self.nonce(between, port), (port, external), lease).await?
                    }
                    Protocol::NatPmp => pcp::map_old(between()?, (port, external), lease).await?,
                    Protocol::UpnpIgd => self.upnp.map(gateway, host, (internal, external), lease).await?,
                };
                Ok(Answer::Mapped(granted))
            }
            Request::Release { protocol, gateway: by, host: leads_to, internal, external } => {
                // Another network's router at the same address would be asked to close what is not ours.
                let moved = gateway.is_some_and(|now| by != now || leads_to != host);
                if moved {
                    return Err(Refusal::of(
                        Failure::NoRouter,
                        "this host has another router or address by now",
                    ));
                }
                let port = nonzero(internal)?;
                match protocol {
                    Protocol::Pcp => {
                        let between = between()?;
                        pcp::release(between, self.nonce(between, port), port).await?;
                    }
                    Protocol::NatPmp => pcp::release_old(between()?, port).await?,
                    Protocol::UpnpIgd => self.upnp.release(gateway, host, external).await?,
                }
                Ok(Answer::Released)
            }
        }
    }
}

fn nonzero(port: u16) -> Result<NonZeroU16, Refusal> {
    NonZeroU16::new(port).ok_or_else(|| Refusal::of(Failure::Local, "this host has no port to map"))
}
