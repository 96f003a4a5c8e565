//! The one machine the outside drives, and the only place where the other machines meet.
//!
//! A driver does, for ever:
//! 1. hand in what happened with [`Node::handle`], or [`Node::handle_timeout`] once the instant that
//!    [`Node::poll_timeout`] named has come;
//! 2. carry out everything [`Node::poll_output`] returns, until it returns nothing;
//! 3. wait for the next datagram, connection event, command or timeout.
//!
//! Connections are the driver's: it dials and accepts QUIC, checks certificates, and reports a
//! connection once the peer is authenticated. Control messages then travel as opaque byte strings,
//! reliably and in order, one sequence per connection and direction.
//!
//! ```
//! use net_mesh_proto::id::MeshId;
//! use net_mesh_proto::node::{Config, Input, Node, Output};
//! use net_mesh_proto::time::Time;
//!
//! let start = Time::from_millis(1_000);
//! let config = Config {
//!     secret: [1; 32],
//!     mesh: MeshId::of_root(b"the root's public key"),
//!     name: "kitchen".into(),
//!     boot: 1,
//!     unix_ms: 1_700_000_000_000,
//!     bootstrap: vec!["203.0.113.7:7000".parse()?],
//!     stun_servers: vec![],
//!     nat_traversal: true,
//!     relay: None,
//!     full_mesh: 8,
//!     port_mapping: None,
//! };
//! let mut node = Node::new(start, [2; 32], config);
//! let network = Input::Network {
//!     ips: vec!["192.0.2.4".parse()?],
//!     main: [Some(7000), None],
//!     other: [Some(7001), None],
//! };
//! node.handle(start, network);
//! let mut dialled = Vec::new();
//! while let Some(output) = node.poll_output() {
//!     if let Output::Dial { routes, .. } = output {
//!         dialled.extend(routes.into_iter().filter_map(|route| route.direct()));
//!     }
//! }
//! assert_eq!(dialled, ["203.0.113.7:7000".parse()?]);
//! assert!(node.poll_timeout().is_some_and(|deadline| deadline.at > start));
//! # Ok::<(), std::net::AddrParseError>(())
//! ```
//!
//! | file | the question it answers |
//! |---|---|
//! | `io` | what goes in and what comes out |
//! | `demux` | which machine is a datagram or a control message for? |
//! | `dispatch` | what does an event of the network or of a connection mean to each machine? |
//! | `command` | what does a wish mean? |
//! | `drain` | who hears about what a machine did? |
//! | `traversal` | reflexive addresses and the NAT, as the node wires them |
//! | `portmap` | the port of the router, as the node wires it |
//! | `silence` | does UDP work here at all? |
//! | `health` | what follows from what the ways of sessions report? |
//! | `reach` | ways to peers beyond their addresses, as the node wires them |
//! | `query` | what may the outside look at? |
//! | `load` | what does a node see of who does how much? |
//! | `why` | why is a peer reached the way it is? |
//! | [`control`] | the table of control messages |

mod command;
pub mod control;
mod demux;
mod dispatch;
mod drain;
mod health;
mod io;
mod load;
mod portmap;
mod query;
mod reach;
mod silence;
mod traversal;
mod why;

use alloc::collections::VecDeque;
use core::time::Duration;

pub use io::{Command, Config, ConnId, DialFailure, DialId, Direction, Event, Input, Output, Switch};
pub use query::{MemberView, Sizes};
pub use silence::Udp;
pub use why::Why;

use crate::account::Stories;
use crate::drops::DropCounts;
use crate::id::NodeId;
use crate::membership::{self, Identity, Membership};
use crate::outbox::Outbox;
use crate::peer::{Arbiter, Dialer, Local, arbiter, dialer};
use crate::rng::Rng;
use crate::time::{Deadline, Time};
use portmap::PortMap;
use reach::Reach;
use silence::Silence;
use traversal::Traversal;

/// Between two reports of drops. They are for an operator's eyes, and come in floods.
const REPORT_DROPS: Duration = Duration::from_secs(1);

/// How long a new round-trip time waits for others before it is looked at for the record.
const GATHER_RTTS: Duration = Duration::from_secs(1);

/// A node: every machine, and what connects them.
#[derive(Debug)]
pub struct Node {
    id: NodeId,
    local: Local,
    membership: Membership,
    arbiter: Arbiter,
    dialer: Dialer,
    traversal: Option<Traversal>,
    reach: Reach,
    port_map: PortMap,
    stories: Stories,
    heard: Heard,
    silence: Silence,
    /// When to look at round-trip times again.
    links_at: Option<Time>,
    outputs: VecDeque<Output>,
    drops: DropCounts,
    unreported: DropCounts,
    report_at: Option<Time>,
    last_report: Option<Time>,
}

/// What the machines have to say, until it is drained.
#[derive(Debug, Default)]
struct Heard {
    membership: Outbox<membership::Event>,
    arbiter: Outbox<arbiter::Event>,
    dialer: Outbox<dialer::Event>,
}

impl Node {
    /// A node that starts at `now`. `seed` is all the randomness it will ever have, so it must be
    /// unpredictable to others, and used once.
    #[must_use]
    pub fn new(now: Time, seed: [u8; 32], config: Config) -> Self {
        let rng = Rng::from_seed(seed);
        let identity = Identity {
            secret: &config.secret,
            mesh: &config.mesh,
            name: &config.name,
            boot: config.boot,
            unix_ms: config.unix_ms,
        };
        let mut membership = Membership::new(now, &rng.fork("membership"), &identity);
        membership.set_relays(now, config.relay.is_some());
        let id = membership.id();
        Self {
            id,
            local: Local::default(),
            membership,
            arbiter: Arbiter::new(id, config.boot),
            dialer: Dialer::new(rng.fork("dialer"), &config.bootstrap, config.full_mesh),
            traversal: config.nat_traversal.then(|| Traversal::new(&rng, config.stun_servers)),
            reach: Reach::new(id, &rng, config.relay, config.nat_traversal),
            port_map: PortMap::new(&rng, config.port_mapping.filter(|_| config.nat_traversal)),
            stories: Stories::default(),
            heard: Heard::default(),
            silence: Silence::default(),
            links_at: None,
            outputs: VecDeque::new(),
            drops: DropCounts::default(),
            unreported: DropCounts::default(),
            report_at: None,
            last_report: None,
        }
    }

    /// Something happened outside.
    pub fn handle(&mut self, now: Time, input: Input<'_>) {
        if matches!(input, Input::Connected { .. } | Input::Control { .. }) {
            self.silence.heard();
        }
        match input {
            Input::Datagram { socket, from, bytes } => self.handle_datagram(now, socket, from, bytes),
            Input::Slept => self.for_mapper(|mapper, out| mapper.slept(now, out)),
            Input::Network { ips, main, other } => self.handle_network(now, ips, main, other),
            Input::SocketOpened { socket, local } => {
                self.for_traversal(|traversal| traversal.socket_opened(now, socket, local));
            }
            Input::SocketFailed { socket } => {
                self.for_traversal(|traversal| traversal.socket_failed(now, socket));
            }
            Input::Connected { conn, peer, direction, dial, route, rtt, key } => {
                self.remember_key(conn, key);
                if let Some(dial) = dial {
                    self.dial_over(dial);
                }
                self.dialer_connected(now, peer, direction, dial, route.direct().is_some());
                self.arbiter.connected(now, conn, peer, direction, route, rtt, &mut self.heard.arbiter);
            }
            Input::DialFailed { dial, failure } => {
                if failure == DialFailure::Rejected {
                    // A refusal has come back.
                    self.silence.heard();
                }
                self.dial_in_vain(now, dial);
                self.dialer.dial_failed(now, dial, failure, &mut self.heard.dialer);
            }
            Input::Control { conn, bytes } => self.handle_control(now, conn, bytes),
            Input::Closed { conn } => self.handle_closed(now, conn),
            Input::Link { conn, rtt, active, pinned } => {
                self.handle_link(now, (conn, rtt), active, pinned);
            }
            Input::Frame { route, bytes } => self.handle_frame(now, route, bytes),
            Input::Traffic { conn, route, traffic } => self.handle_traffic(now, conn, route, traffic),
            Input::RouteRefused { conn, route } => self.route_refused(now, conn, route),
            Input::SendFailed { route } => self.send_failed(now, route),
            Input::PortMapped { id, answer } => self.router_answered(now, id, answer),
            Input::Command(command) => self.handle_command(now, command),
        }
        self.drain(now);
    }

    /// Does what is due at `now`.
    pub fn handle_timeout(&mut self, now: Time) {
        self.arbiter.handle_timeout(now, &mut self.heard.arbiter);
        self.membership.handle_timeout(now, &mut self.heard.membership);
        self.for_traversal(|traversal| traversal.handle_timeout(now));
        self.reach_timeout(now);
        self.port_map.handle_timeout(now);
        if self.links_at.is_some_and(|at| at <= now) {
            self.update_links(now);
        }
        if self.silence.falls_silent(now, self.is_alone()) {
            self.tell(Event::Silent);
        }
        self.drain(now);
    }

    /// When [`Self::handle_timeout`] wants to be called, and why.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<Deadline> {
        let own = [
            self.links_at.map(|at| Deadline::new(at, "look at round-trip times")),
            self.report_at.map(|at| Deadline::new(at, "report drops")),
        ];
        let machines = [
            self.membership.poll_timeout(),
            self.arbiter.poll_timeout(),
            self.dialer.poll_timeout(),
            self.traversal.as_ref().and_then(Traversal::poll_timeout),
            self.silence.poll_timeout(),
            self.reach.poll_timeout(),
            self.port_map.poll_timeout(),
        ];
        machines.into_iter().chain(own).fold(None, Deadline::earliest)
    }

    fn for_traversal(&mut self, act: impl FnOnce(&mut Traversal)) {
        if let Some(traversal) = &mut self.traversal {
            act(traversal);
        }
    }

    /// The next thing to do, if any.
    pub fn poll_output(&mut self) -> Option<Output> {
        self.outputs.pop_front()
    }
}
