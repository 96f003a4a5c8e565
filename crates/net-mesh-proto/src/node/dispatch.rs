//! What does an event of the network or of a connection mean to each machine?

use alloc::vec::Vec;
use core::net::IpAddr;
use core::time::Duration;

use super::{ConnId, DialId, Direction, GATHER_RTTS, Node};
use crate::id::NodeId;
use crate::liveness::Health;
use crate::route::Route;
use crate::time::Time;

impl Node {
    pub(super) fn handle_network(
        &mut self,
        now: Time,
        ips: Vec<IpAddr>,
        main: [Option<u16>; 2],
        other: [Option<u16>; 2],
    ) {
        self.silence.network_changed();
        self.local.set_network(ips, main, other);
        self.membership.set_candidates(now, self.local.candidates());
        self.dialer.network_changed(now);
        self.for_rendezvous(|rendezvous| rendezvous.network_changed(now));
        if let Some(traversal) = &mut self.traversal {
            traversal.network_changed(now, &self.local);
        }
        let local = self.local.clone();
        self.for_mapper(|mapper, out| mapper.network_changed(now, &local, out));
        self.for_open_port(|open, out| open.network_changed(now, out));
        self.recheck_ways(now);
    }

    pub(super) fn dialer_connected(
        &mut self,
        now: Time,
        peer: NodeId,
        direction: Direction,
        dial: Option<DialId>,
        straight: bool,
    ) {
        if peer == self.id {
            self.dialer.dialled_self(now, dial);
        } else {
            self.dialer.connected(now, peer, direction, dial, straight);
        }
    }

    pub(super) fn handle_closed(&mut self, now: Time, conn: ConnId) {
        self.forget_key(conn);
        let Some(peer) = self.arbiter.peer_of(conn) else { return };
        let was_session = self.arbiter.session(&peer).is_some();
        self.arbiter.closed(now, conn, &mut self.heard.arbiter);
        if !was_session && !self.arbiter.is_connected(&peer) {
            self.dialer.connection_lost(now, peer);
        }
    }

    pub(super) fn handle_link(
        &mut self,
        now: Time,
        (conn, rtt): (ConnId, Duration),
        active: bool,
        pinned: bool,
    ) {
        self.arbiter.set_rtt(conn, rtt);
        if let Some(peer) = self.arbiter.peer_of(conn).filter(|_| active || pinned) {
            self.dialer.used(now, peer);
            if active {
                self.session_used(now, peer);
            }
        }
        self.links_at.get_or_insert(now + GATHER_RTTS);
    }

    pub(super) fn handle_frame(&mut self, now: Time, route: Route, bytes: &[u8]) {
        self.silence.heard();
        self.reach_frame(now, route, bytes);
    }

    /// The record names the sessions there are, and classification knows how near they are.
    pub(super) fn update_links(&mut self, now: Time) {
        let milliseconds = |rtt: Duration| u16::try_from(rtt.as_millis()).unwrap_or(u16::MAX);
        let works = |peer: &NodeId| self.reach.paths.health(peer) != Some(Health::Failed);
        let straight = self.arbiter.sessions().filter(|s| s.route.direct().is_some() && works(&s.peer));
        let links = straight.map(|s| (s.peer, milliseconds(s.rtt))).collect();
        self.membership.set_links(now, links);
        self.reach.changed();
        self.links_at = None;
        self.update_helpers(now);
        self.doubt_verdict(now);
    }
}
