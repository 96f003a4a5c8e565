//! Who hears about what a machine did?
//!
//! Effects of one machine are inputs of others; they are carried around until nobody has anything left to
//! say. The chains are short and end: a connection makes a session, a session makes messages, a record
//! makes a dial, and dials and messages leave the node.

use super::control::Control;
use super::reach::Helpers;
use super::{ConnId, Event, Node, Output, REPORT_DROPS};
use crate::drops::DropReason;
use crate::id::NodeId;
use crate::peer::dialer::View;
use crate::route::Route;
use crate::time::Time;
use crate::{membership, peer};

impl Node {
    pub(super) fn drain(&mut self, now: Time) {
        loop {
            if let Some(event) = self.heard.arbiter.pop_event() {
                self.hear_arbiter(now, event);
            } else if let Some(event) = self.heard.membership.pop_event() {
                self.hear_membership(now, event);
            } else if let Some(event) = self.heard.dialer.pop_event() {
                self.hear_dialer(now, event);
            } else if !self.hear_reach(now)
                && !self.hear_traversal(now)
                && !self.hear_port_map(now)
                && !self.look_whom_to_dial(now)
            {
                break;
            }
        }
        self.collect_drops(now);
    }

    fn hear_arbiter(&mut self, now: Time, event: peer::arbiter::Event) {
        match event {
            peer::arbiter::Event::Hello(conn, hello) => self.send(conn, &Control::Hello(hello)),
            peer::arbiter::Event::Adopt(conn, adopt) => self.send(conn, &Control::Adopt(adopt)),
            peer::arbiter::Event::Close(conn) => {
                self.outputs.push_back(Output::CloseConnection { conn });
            }
            peer::arbiter::Event::Up { peer, conn, .. } => self.session_up(now, peer, conn),
            peer::arbiter::Event::Down(peer) => self.session_down(now, peer),
        }
    }

    /// Also when another connection takes over: what was under way on the old one may be lost, and the
    /// peer may have restarted and know nothing.
    fn session_up(&mut self, now: Time, peer: NodeId, conn: ConnId) {
        self.tell(Event::SessionUp { peer, conn });
        self.dialer.session_up(now, peer);
        let session = self.arbiter.session(&peer);
        self.exchange_records(now, peer, session.as_ref().map(|session| session.route));
        if let Some(session) = &session {
            self.reach_session_up(now, session);
        }
        let remote = session.and_then(|session| session.route.direct());
        self.for_traversal(|traversal| {
            if let Some(remote) = remote {
                traversal.session_up(now, peer, remote);
            }
        });
        self.update_links(now);
    }

    /// Records travel over direct sessions: whoever has a circuit has a direct session with its first hop, which
    /// knows them sooner, and a relay need not carry every record once more for each pair.
    pub(super) fn exchange_records(&mut self, now: Time, peer: NodeId, route: Option<Route>) {
        if route.is_some_and(|route| route.direct().is_some()) {
            self.membership.session_up(now, peer, self.id < peer, &mut self.heard.membership);
        } else {
            self.membership.session_down(&peer);
        }
    }

    fn session_down(&mut self, now: Time, peer: NodeId) {
        self.tell(Event::SessionDown { peer });
        self.membership.session_down(&peer);
        self.dialer.session_down(now, peer);
        self.for_traversal(|traversal| traversal.session_down(now, peer));
        self.reach_session_down(now, peer);
        if self.is_alone() {
            self.silence.last_session_down();
        }
        self.update_links(now);
    }

    fn hear_membership(&mut self, now: Time, event: membership::Event) {
        match event {
            membership::Event::Send { to, message } => self.send_to(to, &Control::Membership(message)),
            membership::Event::Changed { peer, reachability } => {
                self.tell(Event::MemberChanged { peer });
                self.dialer.member_changed(now, peer, reachability);
                self.reach.changed();
                if reachability {
                    self.for_rendezvous(|rendezvous| rendezvous.member_changed(now, peer));
                }
                if reachability && self.arbiter.session(&peer).is_some() {
                    self.update_helpers(now);
                }
            }
            membership::Event::Gone { peer } => {
                self.tell(Event::MemberGone { peer });
                self.stories.forget(&peer);
                self.dialer.member_gone(now, peer);
                self.reach.changed();
                self.for_rendezvous(|rendezvous| rendezvous.forget(&peer));
            }
            membership::Event::Doubled => self.tell(Event::Doubled),
        }
    }

    fn hear_dialer(&mut self, now: Time, event: peer::dialer::Event) {
        match event {
            peer::dialer::Event::Dial { dial, peer, ways } => self.dial(now, dial, peer, ways),
            peer::dialer::Event::Seek(peer) => self.seek(now, peer),
            peer::dialer::Event::Close(conn) => self.outputs.push_back(Output::CloseConnection { conn }),
            peer::dialer::Event::Failed { peer, addrs, failure } => {
                self.tell(Event::DialFailed { peer, addrs, failure });
            }
        }
    }

    /// Lets the dialer look around if it is time; returns whether it did. A node that has left dials nobody.
    fn look_whom_to_dial(&mut self, now: Time) -> bool {
        let due = self.dialer.poll_timeout().is_some_and(|deadline| deadline.at <= now);
        if due && self.membership.left() {
            self.dialer.stop();
        } else if due {
            self.refresh_routes(now);
            let own = self.membership.own_draft().verdict.class();
            let help = Helpers { reach: &self.reach, now, own };
            let view = View {
                local: &self.local,
                members: self.membership.members(),
                arbiter: &self.arbiter,
                help: &help,
                me: self.id,
            };
            self.dialer.handle_timeout(now, view, &mut self.heard.dialer);
        }
        due
    }

    pub(super) fn tell(&mut self, event: Event) {
        self.outputs.push_back(Output::Event(event));
    }

    fn send(&mut self, conn: ConnId, control: &Control) {
        self.outputs.push_back(Output::Control { conn, bytes: control.encode() });
    }

    /// Sends in the session with `peer`; a message for whom there is none is not kept.
    pub(super) fn send_to(&mut self, peer: NodeId, control: &Control) {
        match self.arbiter.session(&peer) {
            Some(session) => self.send(session.conn, control),
            None => self.drops_now(DropReason::StaleConnection),
        }
    }

    fn collect_drops(&mut self, now: Time) {
        self.unreported.add(&self.heard.membership.take_drops());
        self.unreported.add(&self.heard.arbiter.take_drops());
        self.unreported.add(&self.heard.dialer.take_drops());
        if let Some(traversal) = &mut self.traversal {
            self.unreported.add(&traversal.take_drops());
        }
        self.unreported.add(&self.reach.take_drops());
        self.unreported.add(&self.port_map.take_drops());
        if self.unreported.iter().next().is_none() {
            return;
        }
        let at = self.last_report.map_or(now, |last| now.max(last + REPORT_DROPS));
        if at > now {
            self.report_at = Some(at);
            return;
        }
        let drops = core::mem::take(&mut self.unreported);
        self.drops.add(&drops);
        for (reason, count) in drops.iter() {
            self.tell(Event::Dropped { reason, count });
        }
        (self.last_report, self.report_at) = (Some(now), None);
    }
}
