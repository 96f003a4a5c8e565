//! What follows from what a session's ways report: the socket is told where packets go, routes avoid who is
//! not well, whoever has lost a way gets another one.

use alloc::vec::Vec;
use core::net::SocketAddr;
use core::time::Duration;

use super::reach::LOOK_AFTER;
use super::{ConnId, Event, Node, Output};
use crate::id::NodeId;
use crate::liveness::{Health, Issue, Traffic};
use crate::path::{self, WayView};
use crate::route::Route;
use crate::time::Time;

/// How long the side that does not keep the circuits of a session leaves it to the other to replace one.
const PATIENCE: Duration = Duration::from_millis(500);

/// How long the other side waits: many may lose their way at once, and are helped in turn.
const SOON: Duration = Duration::from_millis(1);

/// Addresses from a peer's record tried at a time for a session whose way may have gone: those of two families, inside
/// and outside.
const CANDIDATES: usize = 4;

impl Node {
    pub(super) fn hear_paths(&mut self, now: Time, event: path::Event) {
        match event {
            path::Event::Frame { route, bytes } => self.outputs.push_back(Output::Frame { route, bytes }),
            path::Event::Accept { conn, route, .. } => self.outputs.push_back(Output::Accept { conn, route }),
            path::Event::Lines { conn, main, also, switch, .. } => {
                self.outputs.push_back(Output::SetRoute { conn, route: main, also, switch });
            }
            path::Event::Moved { peer, conn, route, .. } => {
                self.reach.stranded.remove(&peer);
                self.arbiter.set_route(conn, route);
                self.moved(now, peer, route);
            }
            path::Event::Health { peer, route, health, evidence } => {
                // Routes lead over neighbours that are well.
                self.reach.changed();
                if health == Health::Failed && route.direct().is_some() {
                    // What it took to find this way may be worth doing again.
                    self.for_rendezvous(|rendezvous| rendezvous.member_changed(now, peer));
                }
                if route.direct().is_some() && (health == Health::Failed || health == Health::Healthy) {
                    self.links_at.get_or_insert(now + SOON);
                }
                self.stories.health(now, peer, route, health, evidence.cause);
                self.tell(Event::Health { peer, route, health, evidence });
            }
            path::Event::Rebound => self.for_traversal(|traversal| traversal.rebound(now)),
            path::Event::Issue { peer, issue } => self.tell(Event::Issue { peer, issue }),
            path::Event::Standby { peer, .. } => {
                if !self.give_circuit(now, peer, false) {
                    self.reach.paths.standby_failed(&peer);
                }
            }
            path::Event::Dead { conn, .. } => self.outputs.push_back(Output::GiveUp { conn }),
            path::Event::Stranded { peer } => {
                // The routes of a moment ago are no good; they are computed once for all that have lost their way.
                self.reach.forget_routes();
                let wait = if self.id < peer { SOON } else { PATIENCE };
                self.reach.stranded.insert(peer, now + wait);
                self.note_path(now, peer);
            }
        }
    }

    /// The session with `peer` travels another way now.
    fn moved(&mut self, now: Time, peer: NodeId, route: Route) {
        if route.direct().is_some() {
            self.for_rendezvous(|rendezvous| rendezvous.succeeded(&peer));
        }
        self.reach.relay.set_link(now, peer, route.direct(), &mut self.reach.heard_relay);
        self.reach.changed();
        self.reach.look_soon(now + LOOK_AFTER);
        self.for_traversal(|traversal| match route {
            Route::Direct(addr) => traversal.session_up(now, peer, addr),
            Route::Relayed(_) => traversal.session_down(now, peer),
        });
        self.exchange_records(now, peer, Some(route));
        self.update_links(now);
        self.tell_path(now, peer);
    }

    /// Tells the outside which way the session with `peer` travels.
    pub(super) fn tell_path(&mut self, now: Time, peer: NodeId) {
        self.note_path(now, peer);
        let Some(route) = self.reach.paths.current(&peer) else { return };
        let via = self.via(route);
        self.tell(Event::Path { peer, route, via });
    }

    /// The members that relay on `route`, in order from here, as far as they are known.
    pub(super) fn via(&self, route: Route) -> Vec<NodeId> {
        let circuit = route.circuit().and_then(|circuit| self.reach.relay.circuit(circuit));
        circuit.map(|view| view.path.to_vec()).unwrap_or_default()
    }

    /// What has passed over a route of a connection.
    pub(super) fn handle_traffic(&mut self, now: Time, conn: ConnId, route: Route, traffic: Traffic) {
        let session = self.arbiter.peer_of(conn).and_then(|peer| self.arbiter.session(&peer));
        if let Some(session) = session.filter(|session| session.conn == conn) {
            let out = &mut self.reach.heard_paths;
            self.reach.paths.handle_traffic(now, &session.peer, route, traffic, out);
        }
    }

    /// The application uses the session with `peer`.
    pub(super) fn session_used(&mut self, now: Time, peer: NodeId) {
        self.reach.paths.used(now, &peer, &mut self.reach.heard_paths);
    }

    /// The socket did not give `route` to a connection.
    pub(super) fn route_refused(&mut self, now: Time, conn: ConnId, route: Route) {
        if let Some(peer) = self.arbiter.peer_of(conn) {
            self.reach.paths.refused(now, &peer, route, &mut self.reach.heard_paths);
        }
    }

    /// The system refuses to send over `route`.
    pub(super) fn send_failed(&mut self, now: Time, route: Route) {
        self.reach.paths.send_failed(now, route, &mut self.reach.heard_paths);
    }

    /// Every session asks at once whether its way is still there, and whether the peer can be reached otherwise.
    pub(super) fn recheck_ways(&mut self, now: Time) {
        self.reach.paths.network_changed(now, &mut self.reach.heard_paths);
        let straight: Vec<NodeId> =
            self.arbiter.sessions().filter(|s| s.route.direct().is_some()).map(|s| s.peer).collect();
        for peer in straight {
            self.try_candidates(now, peer);
        }
        self.reach.changed();
        self.reach.look_soon(now + PATIENCE);
    }

    /// Tries the addresses that `peer` names in its record.
    pub(super) fn try_candidates(&mut self, now: Time, peer: NodeId) {
        let Some(member) = self.membership.members().get(&peer) else { return };
        let worth = member.record().candidates.iter().filter(|addr| self.local.worth_dialling(**addr));
        let addrs: Vec<SocketAddr> = worth.take(CANDIDATES).copied().collect();
        self.reach.paths.try_addrs(now, peer, &addrs, &mut self.reach.heard_paths);
    }

    /// How `peer` is doing, if there is a session with it: its direct way, or the one that its session travels.
    #[must_use]
    pub fn health(&self, peer: &NodeId) -> Option<Health> {
        self.reach.paths.health(peer)
    }

    /// What is known of the way that the session with `peer` travels.
    #[must_use]
    pub fn way(&self, now: Time, peer: &NodeId) -> Option<WayView> {
        self.reach.paths.view(now, peer)
    }

    /// What is wrong with the network to `peer`, as far as it has a name.
    #[must_use]
    pub fn issues(&self, peer: &NodeId) -> Vec<Issue> {
        self.reach.paths.issues(peer)
    }

    /// How often idle sessions are kept alive at present.
    #[must_use]
    pub const fn keep_alive(&self) -> Duration {
        self.reach.paths.lifetimes().keep_alive()
    }
}
