//! What has the router still to give an answer to, although nobody uses it any more?

use alloc::vec::Vec;
use core::net::SocketAddr;

use super::mapper::PortMapper;
use super::{Answer, Event, Failure, Granted, Protocol, Report, Request, RequestId};
use crate::outbox::Outbox;

/// Deletions under way at most: a search may leave one for each protocol, and none begins while one is under way.
const MAX_RELEASES: usize = 8;

/// A deletion that the router has not answered yet.
#[derive(Clone, Copy, Debug)]
struct Release {
    id: RequestId,
    external: SocketAddr,
    for_ever: bool,
}

/// A request of a search that is over, which may still be granted.
#[derive(Clone, Copy, Debug)]
struct Abandoned {
    id: RequestId,
    protocol: Protocol,
    internal: u16,
}

/// Deletions, and requests that may come to need one.
#[derive(Debug, Default)]
pub(super) struct Debts {
    releases: Vec<Release>,
    abandoned: Option<Abandoned>,
}

impl Debts {
    pub(super) const fn is_empty(&self) -> bool {
        self.releases.is_empty() && self.abandoned.is_none()
    }

    /// Nobody waits for the grant of `id` any more.
    pub(super) fn abandon(&mut self, id: RequestId, protocol: Protocol, internal: u16) {
        self.abandoned = Some(Abandoned { id, protocol, internal });
    }
}

impl PortMapper {
    /// Asks the router to delete `granted`.
    pub(super) fn release_this(
        &mut self,
        protocol: Protocol,
        internal: u16,
        granted: &Granted,
        out: &mut Outbox<Event>,
    ) {
        let Granted { gateway, host, external, lease, .. } = *granted;
        let for_ever = lease.is_none();
        if self.debts.releases.len() >= MAX_RELEASES {
            let detail = "too many deletions are under way".into();
            let failure = Failure::Local;
            return out.event(Event::Report(Report::NotReleased { external, failure, detail, for_ever }));
        }
        let id = self.ids.next();
        self.debts.releases.push(Release { id, external, for_ever });
        let request = Request::Release { protocol, gateway, host, internal, external: external.port() };
        out.event(Event::Router { id, request });
    }

    /// Takes in `answer` if `id` is a debt; returns it if not.
    pub(super) fn settle_debt(
        &mut self,
        id: RequestId,
        answer: Answer,
        out: &mut Outbox<Event>,
    ) -> Option<Answer> {
        if let Some(at) = self.debts.releases.iter().position(|release| release.id == id) {
            let Release { external, for_ever, .. } = self.debts.releases.remove(at);
            out.event(Event::Report(what_became_of_it(external, for_ever, answer)));
            return None;
        }
        let Some(abandoned) = self.debts.abandoned.take_if(|abandoned| abandoned.id == id) else {
            return Some(answer);
        };
        // What was granted too late is given back.
        if let Answer::Mapped(granted) = answer {
            self.release_this(abandoned.protocol, abandoned.internal, &granted, out);
        }
        None
    }
}

fn what_became_of_it(external: SocketAddr, for_ever: bool, answer: Answer) -> Report {
    let (failure, detail) = match answer {
        Answer::Released => return Report::Released { external },
        Answer::Mapped(_) => (Failure::Broken, alloc::string::String::new()),
        Answer::Failed { failure, detail } => (failure, detail),
    };
    Report::NotReleased { external, failure, detail, for_ever }
}
