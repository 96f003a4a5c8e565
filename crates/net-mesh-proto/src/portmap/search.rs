//! One protocol after the other: which router maps a port?

use alloc::string::String;
use alloc::vec::Vec;
use core::time::Duration;

use super::mapper::{PortMapper, Rest, State, makes_sense, port};
use super::{Answer, Event, Failure, Protocol, REST, Report, Request, RequestId, Status};
use crate::outbox::Outbox;
use crate::time::Time;

/// Other ports tried where one is taken.
const MOVES: u8 = 4;

/// A search: one protocol after the other.
#[derive(Debug)]
pub(super) struct Search {
    /// Those that have not been tried, the next one last.
    left: Vec<Protocol>,
    pub(super) protocol: Protocol,
    pub(super) asked: RequestId,
    external: u16,
    lease: Duration,
    moves: u8,
    /// What someone said who answered.
    refused: Option<(Protocol, Failure, String)>,
    /// What was mapped in a protocol before and was of no use.
    verdict: Option<Status>,
    /// The network has changed since it began.
    pub(super) again: bool,
}

impl PortMapper {
    /// Begins with the first protocol, or goes on with those that have not been tried.
    pub(super) fn search(&mut self, now: Time, out: &mut Outbox<Event>) {
        let State::Resting(rest) = &mut self.state else { return };
        let (mut left, verdict) = (core::mem::take(&mut rest.left), rest.verdict.take());
        if left.is_empty() {
            left = Protocol::ALL.into_iter().rev().collect();
            if let Some(preferred) = self.preferred {
                left.retain(|protocol| *protocol != preferred);
                left.push(preferred);
            }
            self.searched = Some(now);
            return self.try_next(now, Search::new(left, None), out);
        }
        self.try_next(now, Search::new(left, verdict), out);
    }

    fn try_next(&mut self, now: Time, mut search: Search, out: &mut Outbox<Event>) {
        let Some(protocol) = search.left.pop() else {
            return self.nobody_maps(now, search, out);
        };
        // A port at which members see this node already would be open to some of them without any mapping.
        while self.seen.iter().any(|seen| seen.port() == self.wish) || self.internal == Some(self.wish) {
            self.wish = port(&mut self.rng);
        }
        (search.protocol, search.external, search.lease, search.moves) =
            (protocol, self.wish, self.settings.lease, 0);
        self.ask(search, out);
    }

    fn ask(&mut self, mut search: Search, out: &mut Outbox<Event>) {
        let Some(internal) = self.internal else { return };
        search.asked = self.ids.next();
        let Search { protocol, external, lease, .. } = search;
        let request = Request::Map { protocol, internal, external, lease };
        out.event(Event::Router { id: search.asked, request });
        self.state = State::Searching(search);
    }

    fn nobody_maps(&mut self, now: Time, search: Search, out: &mut Outbox<Event>) {
        let at = if search.again { self.later(now, self.pause()) } else { now + REST };
        self.vain = self.vain.saturating_add(1);
        let status = match (search.verdict, search.refused) {
            // That has been reported.
            (Some(useless), _) => useless,
            (None, None) => {
                out.event(Event::Report(Report::NoRouter));
                Status::NoRouter
            }
            (None, Some((protocol, failure, detail))) => {
                out.event(Event::Report(Report::Refused { protocol, failure, detail }));
                Status::Refused { protocol, failure }
            }
        };
        self.state = State::Resting(Rest::new(at, status));
    }

    /// An answer while searching.
    pub(super) fn found(&mut self, now: Time, answer: Answer, out: &mut Outbox<Event>) {
        let State::Searching(mut search) = core::mem::replace(&mut self.state, State::Idle) else { return };
        let (protocol, Some(internal)) = (search.protocol, self.internal) else { return };
        let (failure, detail) = match answer {
            Answer::Mapped(granted) if !makes_sense(&granted) => {
                self.release_this(protocol, internal, &granted, out);
                (Failure::Broken, alloc::format!("it granted {granted:?}"))
            }
            Answer::Mapped(granted) if !self.ips.contains(&granted.host) => {
                self.release_this(protocol, internal, &granted, out);
                let detail = alloc::format!("it leads to {}, where this node does not listen", granted.host);
                (Failure::Broken, detail)
            }
            Answer::Mapped(granted) => {
                return self.hold(now, (protocol, granted), (search.left, search.verdict), out);
            }
            Answer::Released => (Failure::Broken, String::new()),
            Answer::Failed { failure, detail } => (failure, detail),
        };
        match failure {
            Failure::Conflict if search.moves < MOVES => {
                search.moves += 1;
                self.wish = port(&mut self.rng);
                search.external = self.wish;
                return self.ask(search, out);
            }
            Failure::PermanentOnly if search.lease > Duration::ZERO => {
                search.lease = Duration::ZERO;
                return self.ask(search, out);
            }
            Failure::SamePort if internal != search.external => {
                search.external = internal;
                return self.ask(search, out);
            }
            _ => {}
        }
        if !matches!(failure, Failure::NoRouter | Failure::Unsupported | Failure::Local) {
            search.refused.get_or_insert((protocol, failure, detail));
        }
        self.try_next(now, search, out);
    }
}

impl Search {
    fn new(left: Vec<Protocol>, verdict: Option<Status>) -> Self {
        Self {
            left,
            protocol: Protocol::Pcp,
            asked: RequestId(0),
            external: 0,
            lease: Duration::ZERO,
            moves: 0,
            refused: None,
            verdict,
            again: false,
        }
    }
}
