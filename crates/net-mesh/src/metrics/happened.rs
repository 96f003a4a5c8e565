//! What does an event of the node add?

use ::metrics::SharedString;
use net_mesh_proto::node::{DialFailure, Event};
use net_mesh_proto::rendezvous::{Attempt, Decline, Outcome};
use net_mesh_proto::route::Route;

use super::mediators::Mediators;
use super::table;
use crate::mesh::Shared;

/// Why a connection could not be opened.
pub(super) const FAILURES: [&str; 3] = ["timeout", "rejected", "unusable"];

/// How a rendezvous ends, and why so.
pub(super) const ENDS: [(&str, &str); 8] = [
    ("found", "answered"),
    ("timed_out", "nothing_arrived"),
    ("timed_out", "no_answer"),
    ("timed_out", "silence"),
    ("declined", "no_session"),
    ("declined", "busy"),
    ("unanswered", "mediator_silent"),
    ("superseded", "replaced"),
];

/// What happens to the port of a router.
pub(super) const MAPPING_EVENTS: [&str; 12] = [
    "no_router",
    "refused",
    "mapped",
    "renewed",
    "not_renewed",
    "proven",
    "lost",
    "useless",
    "released",
    "not_released",
    "open",
    "closed",
];

/// Records events.
#[derive(Debug, Default)]
pub(crate) struct Happened {
    mediators: Mediators,
}

impl Happened {
    /// Something happened. None of these events comes with a packet: they are at most as many as the node's log has
    /// lines.
    pub(crate) fn event(&mut self, shared: &Shared, event: &Event) {
        match event {
            Event::SessionUp { .. } => table::SESSIONS_OPENED.add([], 1),
            Event::SessionDown { .. } => table::SESSIONS_CLOSED.add([], 1),
            Event::Reflexive(_) => table::REFLEXIVE_CHANGES.add([], 1),
            Event::Classified { verdict, .. } => table::CLASSIFICATIONS.add([verdict.class().word()], 1),
            Event::Path { route, .. } => table::PATH_CHANGES.add([path(*route)], 1),
            Event::Introduced { plan, .. } => table::INTRODUCTIONS.add([plan.name()], 1),
            Event::Rendezvous(attempt) => self.rendezvous(shared, attempt),
            Event::DialFailed { failure, .. } => table::DIALS_FAILED.add([failed(*failure)], 1),
            Event::Health { health, evidence, .. } => {
                table::HEALTH_TRANSITIONS.add([health.name(), evidence.cause.name()], 1);
            }
            Event::Issue { issue, .. } => table::PATH_ISSUES.add([issue.name()], 1),
            Event::MemberChanged { .. }
            | Event::MemberGone { .. }
            | Event::Silent
            | Event::Doubled
            | Event::Dropped { .. }
            | Event::PortMapping(_) => {}
        }
    }

    fn rendezvous(&mut self, shared: &Shared, attempt: &Attempt) {
        let name = |id: &_| shared.member_name(id).unwrap_or_default();
        let mediator = self.mediators.label(attempt.mediator, name);
        let (outcome, reason) = end(attempt);
        let [plan, outcome, reason] = [attempt.plan.name(), outcome, reason].map(SharedString::const_str);
        table::RENDEZVOUS.add_to([plan, outcome, reason, mediator.into()], 1);
        table::CHECKS.add(["sent"], u64::from(attempt.sent));
        table::CHECKS.add(["received"], u64::from(attempt.heard));
    }
}

/// How an attempt ended, in the words of [`ENDS`].
fn end(attempt: &Attempt) -> (&'static str, &'static str) {
    ENDS[match attempt.outcome {
        Some(Outcome::Found { .. }) => 0,
        Some(Outcome::TimedOut) if attempt.sent == 0 => 1,
        Some(Outcome::TimedOut) if attempt.heard > 0 => 2,
        Some(Outcome::TimedOut) => 3,
        Some(Outcome::Declined(Decline::NoSession)) => 4,
        Some(Outcome::Declined(Decline::Busy)) => 5,
        Some(Outcome::Unanswered) => 6,
        // One that is under way is not told of.
        Some(Outcome::Superseded) | None => 7,
    }]
}

const fn path(route: Route) -> &'static str {
    match route {
        Route::Direct(_) => "direct",
        Route::Relayed(_) => "relayed",
    }
}

const fn failed(failure: DialFailure) -> &'static str {
    FAILURES[match failure {
        DialFailure::Timeout => 0,
        DialFailure::Rejected => 1,
        DialFailure::Unusable => 2,
    }]
}

/// The network of the host changed.
pub(crate) fn of_network_change() {
    table::NETWORK_CHANGES.add([], 1);
}

/// Something happened to the port of the router.
pub(crate) fn of_port_mapping_event(word: &'static str) {
    table::PORT_MAPPING_EVENTS.add([word], 1);
}

/// The router was asked.
#[cfg(feature = "port-mapping")]
pub(crate) fn of_router_request(
    protocol: net_mesh_proto::portmap::Protocol,
    request: &'static str,
    result: &'static str,
) {
    table::PORT_MAPPING_REQUESTS.add([protocol.word(), request, result], 1);
}
