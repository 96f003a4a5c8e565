//! What is open on routers, as far as they have said, so that the operator can be told of what stays open.
//!
//! A router is asked to delete what is given up, and may refuse or stay silent; and whoever is in a hurry does not wait for
//! it. What is here when the node ends is what nobody has deleted.

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Mutex, MutexGuard, PoisonError};

use net_mesh_proto::portmap::{Answer, Failure, Granted, Protocol, Request, RequestId};
use net_mesh_proto::time::Time;

/// Mappings that are remembered, and requests: the node holds one mapping at a time, gives up one in ten seconds at most,
/// and those that cannot be deleted end with their lease. Those that end first are forgotten first.
const MAX: usize = 64;

/// A mapping on a router.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Open {
    protocol: Protocol,
    internal: u16,
    gateway: IpAddr,
    external: SocketAddr,
    /// `None`: never.
    ends: Option<Time>,
}

impl Open {
    const fn ports(&self) -> (Protocol, u16, u16) {
        (self.protocol, self.internal, self.external.port())
    }
}

/// How long a mapping stays.
struct Lasts(Option<std::time::Duration>);

impl fmt::Display for Lasts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Some(rest) => write!(f, "{} s, until its lease ends", rest.as_secs()),
            None => f.write_str("for ever: delete it in the router's settings"),
        }
    }
}

#[derive(Debug, Default)]
struct Kept {
    asked: Vec<(RequestId, Request)>,
    open: Vec<Open>,
}

/// The list.
#[derive(Debug, Default)]
pub(crate) struct Ledger(Mutex<Kept>);

impl Ledger {
    fn kept(&self) -> MutexGuard<'_, Kept> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A router is asked.
    pub(crate) fn asked(&self, id: RequestId, request: Request) {
        let mut kept = self.kept();
        if kept.asked.len() == MAX {
            kept.asked.remove(0);
        }
        kept.asked.push((id, request));
    }

    /// It has answered.
    pub(crate) fn answered(&self, now: Time, id: RequestId, answer: &Answer) {
        let mut kept = self.kept();
        let Some(place) = kept.asked.iter().position(|(asked, _)| *asked == id) else { return };
        let (_, request) = kept.asked.remove(place);
        match (request, answer) {
            (Request::Map { protocol, internal, .. }, Answer::Mapped(granted)) => {
                kept.opened(now, protocol, internal, granted);
            }
            // It is another host's now.
            (
                Request::Map { protocol, internal, external, .. },
                Answer::Failed { failure: Failure::Conflict, .. },
            ) => kept.open.retain(|open| open.ports() != (protocol, internal, external)),
            (Request::Release { protocol, gateway, internal, external, .. }, Answer::Released) => {
                let released = (gateway, (protocol, internal, external));
                kept.open.retain(|open| (open.gateway, open.ports()) != released);
            }
            (Request::Map { .. } | Request::Release { .. }, _) => {}
        }
    }

    /// Tells the operator what stays open, once.
    pub(crate) fn say_what_stays(&self, now: Time) {
        for Open { protocol, gateway, external, ends, .. } in self.take(now) {
            let lasts = Lasts(ends.map(|at| at - now));
            tracing::warn!(%protocol, %gateway, %external, %lasts, "a port stays open on the router");
        }
    }

    /// Forgets everything, for what is open at `now`.
    fn take(&self, now: Time) -> Vec<Open> {
        let mut open = std::mem::take(&mut *self.kept()).open;
        open.retain(|open| open.ends.is_none_or(|at| at > now));
        open
    }
}

impl Kept {
    fn opened(&mut self, now: Time, protocol: Protocol, internal: u16, granted: &Granted) {
        let Granted { gateway, external, lease, .. } = *granted;
        let new = Open { protocol, internal, gateway, external, ends: lease.map(|lease| now + lease) };
        // With PCP and NAT-PMP it is the port of this host that has a mapping, with UPnP that of the router.
        self.open.retain(|old| {
            let same = match protocol {
                Protocol::Pcp | Protocol::NatPmp => old.internal == internal,
                Protocol::UpnpIgd => old.external.port() == external.port(),
            };
            !(same && (old.protocol, old.gateway) == (protocol, gateway))
                && old.ends.is_none_or(|at| at > now)
        });
        if self.open.len() == MAX {
            let first = self.open.iter().enumerate().min_by_key(|(_, open)| (open.ends.is_none(), open.ends));
            if let Some(place) = first.map(|(place, _)| place) {
                self.open.remove(place);
            }
        }
        self.open.push(new);
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    const AT: Time = Time::from_nanos(5_000_000_000);
    const LEASE: Duration = Duration::from_secs(600);

    fn map(protocol: Protocol, external: u16) -> Request {
        Request::Map { protocol, internal: 7000, external, lease: LEASE }
    }

    fn granted(external: u16, lease: Option<Duration>) -> Answer {
        Answer::Mapped(Granted {
            gateway: IpAddr::from([192, 0, 2, 1]),
            external: SocketAddr::from(([198, 51, 100, 9], external)),
            host: IpAddr::from([192, 0, 2, 7]),
            lease,
            epoch: None,
        })
    }

    fn failed(failure: Failure) -> Answer {
        Answer::Failed { failure, detail: String::new() }
    }

    /// What is open after these requests and their answers, as ports and ends.
    fn open(said: &[(Request, Answer)]) -> Vec<(u16, Option<Time>)> {
        let ledger = Ledger::default();
        for (n, (request, answer)) in said.iter().enumerate() {
            let id = RequestId(n as u64);
            ledger.asked(id, *request);
            ledger.answered(AT, id, answer);
        }
        ledger.take(AT).into_iter().map(|open| (open.external.port(), open.ends)).collect()
    }

    #[test]
    fn what_is_granted_is_open_until_its_lease_ends() {
        let said = [(map(Protocol::Pcp, 1), granted(1, Some(LEASE)))];
        assert_eq!(open(&said), [(1, Some(AT + LEASE))]);
        let ledger = Ledger::default();
        ledger.asked(RequestId(0), said[0].0);
        ledger.answered(AT, RequestId(0), &said[0].1);
        assert_eq!(ledger.take(AT + LEASE), []);
    }

    #[test]
    fn what_is_granted_for_ever_stays() {
        let said = [(map(Protocol::UpnpIgd, 1), granted(1, None))];
        assert_eq!(open(&said), [(1, None)]);
        assert!(Lasts(None).to_string().contains("for ever"));
    }

    #[test]
    fn a_renewal_or_another_port_of_pcp_is_the_same_mapping_and_of_upnp_another_one() {
        let twice = |protocol| {
            [
                (map(protocol, 1), granted(1, Some(LEASE / 2))),
                (map(protocol, 1), granted(1, Some(LEASE))),
                (map(protocol, 2), granted(2, Some(LEASE))),
            ]
        };
        let ends = Some(AT + LEASE);
        assert_eq!(open(&twice(Protocol::Pcp)), [(2, ends)]);
        assert_eq!(open(&twice(Protocol::UpnpIgd)), [(1, ends), (2, ends)]);
    }

    #[test]
    fn what_failed_to_be_renewed_is_still_open_unless_it_is_another_hosts() {
        let (yes, again) = ((map(Protocol::Pcp, 1), granted(1, None)), map(Protocol::Pcp, 1));
        assert_eq!(open(&[yes.clone(), (again, failed(Failure::NoRouter))]), [(1, None)]);
        assert_eq!(open(&[yes, (again, failed(Failure::Conflict))]), []);
    }

    #[test]
    fn what_is_deleted_is_open_no_more_but_for_what_another_router_granted() {
        let release = |gateway| Request::Release {
            protocol: Protocol::Pcp,
            gateway: IpAddr::from([192, 0, 2, gateway]),
            host: IpAddr::from([192, 0, 2, 7]),
            internal: 7000,
            external: 1,
        };
        let yes = (map(Protocol::Pcp, 1), granted(1, None));
        assert_eq!(open(&[yes.clone(), (release(1), Answer::Released)]), []);
        assert_eq!(open(&[yes.clone(), (release(2), Answer::Released)]), [(1, None)]);
        assert_eq!(open(&[yes, (release(1), failed(Failure::Refused))]), [(1, None)]);
    }

    #[test]
    fn requests_and_mappings_without_end_stay_bounded() {
        let ledger = Ledger::default();
        for n in 0..1000 {
            let request = map(Protocol::UpnpIgd, n);
            ledger.asked(RequestId(n.into()), request);
            if n % 2 == 0 {
                let lease = (n % 4 == 0).then_some(LEASE + Duration::from_secs(n.into()));
                ledger.answered(AT, RequestId(n.into()), &granted(n, lease));
            }
        }
        assert!(ledger.kept().asked.len() <= MAX && ledger.kept().open.len() <= MAX);
    }
}
