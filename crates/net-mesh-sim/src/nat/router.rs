//! A box that is asked for ports, and those it has given.
//!
//! What it is asked is what a node asks of a real one ([`Request`]), without the bytes of any protocol: those
//! are for real routers.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use net_mesh_proto::bounded::BoundedMap;
use net_mesh_proto::portmap::{Answer, Failure, Granted, Protocol, Request};
use net_mesh_proto::time::Time;

/// Flows through given ports remembered: as many as a small router does.
const FLOWS: usize = 4096;

/// What a box does when a host inside asks it for a port.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Router {
    /// In which protocol alone it answers; in all of them where `None`.
    pub only: Option<Protocol>,
    /// What comes to the port is let in; otherwise it says so only.
    pub forwards: bool,
    /// Which external address it claims to have, where that is not its own.
    pub claims: Option<IpAddr>,
    /// The longest lease it grants.
    pub lease: Duration,
}

impl Default for Router {
    /// One that does all it should, for an hour.
    fn default() -> Self {
        Self { only: None, forwards: true, claims: None, lease: Duration::from_secs(3600) }
    }
}

#[derive(Clone, Copy, Debug)]
struct Port {
    internal: SocketAddr,
    until: Time,
}

/// The ports a box has given away.
#[derive(Debug)]
pub(super) struct Ports {
    given: BTreeMap<u16, Port>,
    /// Who inside talks to whom outside by way of which port.
    flows: BoundedMap<(SocketAddr, SocketAddr), u16>,
    since: Time,
}

impl Ports {
    pub(super) fn new(now: Time) -> Self {
        Self { given: BTreeMap::new(), flows: BoundedMap::new(FLOWS), since: now }
    }

    /// What the box, whose address is `own`, says to a host inside.
    pub(super) fn ask(
        &mut self,
        now: Time,
        (router, own): (&Router, IpAddr),
        host: IpAddr,
        request: Request,
    ) -> Answer {
        let failed = |failure| Answer::Failed { failure, detail: String::new() };
        match request {
            Request::Map { protocol, .. } | Request::Release { protocol, .. }
                if router.only.is_some_and(|only| only != protocol) =>
            {
                failed(Failure::NoRouter)
            }
            Request::Release { gateway, host: whose, .. } if gateway != own || whose != host => {
                failed(Failure::NoRouter)
            }
            Request::Release { external, .. } => {
                self.given.remove(&external);
                Answer::Released
            }
            Request::Map { internal, external, lease, .. } => {
                let internal = SocketAddr::new(host, internal);
                let taken =
                    self.given.get(&external).is_some_and(|p| p.until > now && p.internal != internal);
                if taken {
                    return failed(Failure::Conflict);
                }
                let lease = lease.min(router.lease);
                self.given.insert(external, Port { internal, until: now + lease });
                Answer::Mapped(Granted {
                    gateway: own,
                    host,
                    external: SocketAddr::new(router.claims.unwrap_or(own), external),
                    lease: Some(lease),
                    epoch: u32::try_from((now - self.since).as_secs()).ok(),
                })
            }
        }
    }

    /// To whom inside a packet for `port` goes, if it was given away.
    pub(super) fn inbound(&mut self, now: Time, src: SocketAddr, port: u16) -> Option<SocketAddr> {
        let internal = self.given.get(&port).filter(|given| given.until > now)?.internal;
        self.flows.insert((internal, src), port);
        Some(internal)
    }

    /// From which port a packet leaves that answers one which came by a given port.
    pub(super) fn outbound(&self, src: SocketAddr, dst: SocketAddr) -> Option<u16> {
        self.flows.get(&(src, dst)).copied()
    }

    /// Ports given away at `now`.
    pub(super) fn len(&self, now: Time) -> usize {
        self.given.values().filter(|given| given.until > now).count()
    }
}
