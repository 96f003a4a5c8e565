//! The driver: the one place where the protocol machines meet clocks, sockets and connections.
//!
//! One task owns the loop that [`Node`] prescribes. Everything that happens arrives as a [`Signal`] in
//! one bounded queue; everything the node wants done is done here, and nothing is decided here.

use std::collections::{BTreeMap, HashMap};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use net_mesh_proto::bounded::BoundedMap;
use net_mesh_proto::drops::DropReason;
use net_mesh_proto::id::NodeId;
use net_mesh_proto::membership::MAX_MEMBERS;
use net_mesh_proto::nat::NatClass;
use net_mesh_proto::node::{Command, ConnId, DialFailure, DialId, Direction, Event, Input, Output, Switch};
use net_mesh_proto::outbox::SocketId;
use net_mesh_proto::portmap::{Answer, Report, RequestId};
use net_mesh_proto::rendezvous::Attempt;
use net_mesh_proto::route::Route;
use net_mesh_proto::time::Time;
use tokio::sync::{mpsc, oneshot};
use tokio::task::AbortHandle;
use tokio::time::{Instant, sleep_until};

use crate::load::Loads;
use crate::mesh::Shared;
use crate::metrics::{self, Happened, Publisher};
use crate::net::{self, Network, Watch};
use crate::portmap::Asker;
use crate::session::{Link, Sessions};
use crate::side::SideSocket;
use crate::socket::Datagram;
use crate::socket::slots::SlotId;
use crate::why::AttemptInfo;

/// Signals waiting for the driver. Connections wait when it is full, so a peer's flood of control
/// messages becomes back-pressure on that peer.
pub(crate) const SIGNALS: usize = 1024;

/// How often connections are looked at, and the host's addresses compared where nothing tells of changes.
const TICK: Duration = Duration::from_secs(1);

/// Signals and datagrams taken in one turn of the loop, each.
const SHARE: usize = 64;

/// Between two looks at what has passed over the routes of busy sessions. A fraction of the time in which a dead route is
/// noticed; nothing is looked at while nothing passes.
const SAMPLE: Duration = Duration::from_millis(10);

/// Routes looked at in one go.
const SAMPLES: usize = 256;

/// Something that happened.
pub(crate) enum Signal {
    /// A connection is up and its peer authenticated.
    Connected { link: Arc<Link>, direction: Direction, dial: Option<DialId>, route: Route, rtt: Duration },
    /// An attempt to connect failed.
    DialFailed { dial: DialId, failure: DialFailure },
    /// A control message arrived.
    Control { conn: ConnId, bytes: Vec<u8> },
    /// A connection has ended.
    Closed { conn: ConnId },
    /// A datagram arrived on a socket other than the main one.
    Side { socket: SocketId, from: SocketAddr, bytes: Bytes },
    /// What the router said.
    #[cfg_attr(not(feature = "port-mapping"), allow(dead_code, reason = "nobody asks without it"))]
    PortMapped { id: RequestId, answer: Answer },
    /// The application wants something.
    Command(Command),
    /// Say goodbye, and tell when that is done.
    Leave(oneshot::Sender<()>),
}

/// The state of the driver's loop.
pub(crate) struct Driver {
    shared: Arc<Shared>,
    sessions: Arc<Sessions>,
    network: Arc<dyn Network>,
    signals: mpsc::Receiver<Signal>,
    inbox: mpsc::Receiver<Datagram>,
    /// Sockets besides the main one: the other port, and those for classification.
    sides: BTreeMap<SocketId, SideSocket>,
    /// Connections, as long as the node has not been told that they ended.
    links: BTreeMap<ConnId, Arc<Link>>,
    dials: BTreeMap<DialId, AbortHandle>,
    /// The connections of each slot: one, or two while they replace each other.
    conns: HashMap<SlotId, Vec<ConnId>>,
    /// When the counts of traffic are looked at next, if any has changed.
    sample_at: Option<Instant>,
    sampled: Instant,
    ips: Vec<std::net::IpAddr>,
    router: Asker,
    happened: Happened,
    publisher: Publisher,
    loads: Loads,
    /// What members were called, for the log: who has gone has no record any more.
    names: BoundedMap<NodeId, String>,
    /// Where this queue can be reached, without keeping it open.
    own: mpsc::WeakSender<Signal>,
}

impl Driver {
    pub(crate) fn new(
        shared: Arc<Shared>,
        sessions: Arc<Sessions>,
        (network, router): (Arc<dyn Network>, Asker),
        signals: (mpsc::WeakSender<Signal>, mpsc::Receiver<Signal>),
        inbox: mpsc::Receiver<Datagram>,
    ) -> Self {
        Self {
            shared,
            sessions,
            network,
            signals: signals.1,
            own: signals.0,
            inbox,
            sides: BTreeMap::new(),
            links: BTreeMap::new(),
            dials: BTreeMap::new(),
            conns: HashMap::new(),
            sample_at: None,
            sampled: Instant::now(),
            ips: Vec::new(),
            router,
            happened: Happened::default(),
            publisher: Publisher::default(),
            loads: Loads::default(),
            names: BoundedMap::new(MAX_MEMBERS),
        }
    }

    /// Runs until every handle to the mesh is gone or the mesh is shut down.
    pub(crate) async fn run(mut self) {
        metrics::describe();
        self.open_other_port();
        // Before the first look, so that nothing happens between the two.
        let used = [false, true].map(|v6| self.shared.socket.port(v6).is_some());
        let mut watch = Watch::new(&*self.network, used);
        self.network_changed();
        self.drain();
        let mut tick = tokio::time::interval(TICK);
        let stop = Arc::clone(&self.shared.stop);
        let (subscriptions, socket) = (Arc::clone(&self.shared), Arc::clone(&self.shared.socket));
        loop {
            let deadline = self.shared.node().poll_timeout().map(|d| self.shared.instant(d.at));
            let wake = async {
                match deadline {
                    Some(at) => sleep_until(at).await,
                    None => std::future::pending().await,
                }
            };
            let sample_at = self.sample_at;
            let sample = async {
                match sample_at {
                    Some(at) => sleep_until(at).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                biased;
                () = stop.notified() => break,
                () = wake => {}
                () = sample => self.sample(),
                _ = tick.tick() => {
                    self.tick();
                    if !watch.is_told() {
                        self.compare_ips();
                    }
                }
                kinds = watch.changed() => self.network_told(&kinds),
                () = socket.traffic(), if sample_at.is_none() => self.sample_at = Some(self.sampled + SAMPLE),
                () = subscriptions.subscriptions.notified() => {
                    let channels = self.shared.hub.subscribed();
                    self.handle(Input::Command(Command::Subscriptions(channels)));
                }
                Some(datagram) = self.inbox.recv() => {
                    self.sample();
                    self.datagram(&datagram);
                }
                signal = self.signals.recv() => match signal {
                    Some(signal) => self.signal(signal),
                    None => break,
                },
            }
            self.catch_up();
            self.drain();
            // What was decided is carried on by other tasks, which may share this thread.
            tokio::task::yield_now().await;
        }
    }

    /// Takes some of everything that waits, so that a flood of one kind does not starve the others.
    fn catch_up(&mut self) {
        for _ in 0..SHARE {
            let Ok(signal) = self.signals.try_recv() else { break };
            self.signal(signal);
        }
        let due = self.sample_at.is_some_and(|at| at <= Instant::now());
        let timer = self.shared.node().poll_timeout().is_some_and(|d| d.at <= self.shared.now());
        // The two ends of a route compare their counts: a frame is told after what came before it.
        if due || timer || !self.inbox.is_empty() {
            self.sample();
        }
        for _ in 0..SHARE {
            let Ok(datagram) = self.inbox.try_recv() else { break };
            self.datagram(&datagram);
        }
        let now = self.shared.now();
        let mut node = self.shared.node();
        if node.poll_timeout().is_some_and(|d| d.at <= now) {
            node.handle_timeout(now);
        }
    }

    /// Tells the node what has passed over the routes of busy sessions.
    fn sample(&mut self) {
        loop {
            let samples = self.shared.socket.sample(SAMPLES);
            let all = samples.len() < SAMPLES;
            for (slot, route, traffic) in samples {
                for conn in self.conns.get(&slot).into_iter().flatten() {
                    self.handle(Input::Traffic { conn: *conn, route, traffic });
                }
            }
            if all {
                break;
            }
        }
        (self.sample_at, self.sampled) = (None, Instant::now());
    }

    fn datagram(&self, datagram: &Datagram) {
        self.handle(match datagram {
            Datagram::Stun { from, bytes } => Input::Datagram { socket: SocketId::MAIN, from: *from, bytes },
            Datagram::Frame { route, bytes } => Input::Frame { route: *route, bytes },
        });
    }

    fn handle(&self, input: Input<'_>) {
        let now = self.shared.now();
        self.shared.node().handle(now, input);
    }

    fn signal(&mut self, signal: Signal) {
        match signal {
            Signal::Connected { link, direction, dial, route, rtt } => {
                let (conn, peer) = (link.id, link.peer);
                if let Some(dial) = dial {
                    self.dials.remove(&dial);
                }
                let key = link.session_key();
                self.conns.entry(link.slot).or_default().push(conn);
                self.links.insert(conn, link);
                self.handle(Input::Connected { conn, peer, direction, dial, route, rtt, key });
            }
            Signal::DialFailed { dial, failure } => {
                self.dials.remove(&dial);
                self.handle(Input::DialFailed { dial, failure });
            }
            Signal::Control { conn, bytes } => self.handle(Input::Control { conn, bytes: &bytes }),
            Signal::Closed { conn } => {
                if let Some(link) = self.links.remove(&conn)
                    && let Some(conns) = self.conns.get_mut(&link.slot)
                {
                    conns.retain(|other| *other != conn);
                    if conns.is_empty() {
                        self.conns.remove(&link.slot);
                    }
                }
                self.handle(Input::Closed { conn });
            }
            Signal::Side { socket, from, bytes } => {
                self.handle(Input::Datagram { socket, from, bytes: &bytes });
            }
            Signal::PortMapped { id, answer } => self.router_answered(id, answer),
            Signal::Command(command) => self.handle(Input::Command(command)),
            Signal::Leave(done) => {
                self.handle(Input::Command(Command::Leave));
                self.drain();
                self.router.leave();
                let _ = done.send(());
            }
        }
    }

    /// Carries out everything the node wants.
    fn drain(&mut self) {
        loop {
            // The lock must not be held while the wish is carried out.
            let output = self.shared.node().poll_output();
            let Some(output) = output else { break };
            self.carry_out(output);
        }
    }

    fn carry_out(&mut self, output: Output) {
        match output {
            Output::Transmit(t) if t.from == SocketId::MAIN => self.shared.socket.send_raw(t.to, &t.bytes),
            Output::Transmit(t) => match self.sides.get(&t.from) {
                Some(side) => side.send(t.to, &t.bytes, &self.shared.drops),
                None => self.shared.drops.count(DropReason::SendFailed),
            },
            Output::OpenSocket { socket, v6 } => self.open_fresh(socket, v6),
            Output::CloseSocket { socket } => {
                self.sides.remove(&socket);
            }
            Output::Control { conn, bytes } => {
                if let Some(link) = self.links.get(&conn) {
                    link.send_control(bytes);
                }
            }
            Output::Accept { conn, route } => {
                if let Some(link) = self.links.get(&conn)
                    && !self.shared.socket.accept(link.slot, route)
                {
                    self.handle(Input::RouteRefused { conn, route });
                }
            }
            Output::SetRoute { conn, route, also, switch } => self.set_route(conn, route, also, switch),
            Output::Frame { route, bytes } => {
                if !self.shared.socket.send_frame(route, &bytes) {
                    self.handle(Input::SendFailed { route });
                }
            }
            Output::Label(change) => self.shared.socket.apply(change),
            Output::PortMap { id, request } => {
                self.shared.ledger.asked(id, request);
                if let Some(answer) = self.router.ask(&self.own, id, request) {
                    self.router_answered(id, answer);
                }
            }
            Output::Dial { dial, peer, routes } => {
                let task = tokio::spawn(Arc::clone(&self.sessions).dial(dial, peer, routes));
                self.dials.insert(dial, task.abort_handle());
            }
            Output::GiveUp { conn } => {
                if let Some(link) = self.links.get(&conn) {
                    link.close_silent();
                }
            }
            Output::CloseConnection { conn } => {
                if let Some(link) = self.links.get(&conn) {
                    link.close_unused();
                }
            }
            Output::Event(event) => self.event(event),
        }
    }

    fn router_answered(&self, id: RequestId, answer: Answer) {
        self.shared.ledger.answered(self.shared.now(), id, &answer);
        self.handle(Input::PortMapped { id, answer });
        self.shared.changed();
    }

    fn set_route(&self, conn: ConnId, route: Route, also: Option<Route>, switch: Switch) {
        let Some(link) = self.links.get(&conn) else { return };
        let socket = &self.shared.socket;
        let before = socket.route(link.slot).unwrap_or(route);
        if !socket.set_route(link.slot, route, also) {
            return self.handle(Input::RouteRefused { conn, route });
        }
        let rtt = link.connection.rtt();
        link.switched(route, switch);
        if switch == Switch::Urgent {
            let bytes = socket.replay(link.slot, before, rtt);
            tracing::debug!(peer = %link.peer.short(), %before, %route, bytes, "sent again");
        }
    }

    fn event(&mut self, event: Event) {
        self.happened.event(&self.shared, &event);
        match event {
            Event::SessionUp { peer, conn } => {
                if let Some(link) = self.links.get(&conn) {
                    tracing::info!(peer = %peer.short(), name = self.name(&peer), route = %link.route, "session up");
                    self.shared.session_up(Arc::clone(link));
                }
            }
            Event::SessionDown { peer } => {
                tracing::info!(peer = %peer.short(), name = self.name(&peer), "session down");
                self.shared.session_down(&peer);
            }
            Event::MemberChanged { peer } => {
                tracing::debug!(peer = %peer.short(), "record");
                self.names.insert(peer, self.shared.member_name(&peer).unwrap_or_default());
                self.shared.changed();
            }
            Event::MemberGone { peer } => {
                tracing::info!(peer = %peer.short(), name = self.name(&peer), "member gone");
                self.shared.member_gone(&peer);
            }
            Event::Reflexive(addrs) => tracing::info!(?addrs, "reflexive addresses"),
            Event::PortMapping(report) => {
                let by = match &report {
                    Report::Proven { by, .. } | Report::Open { by, .. } => self.name(by),
                    _ => String::new(),
                };
                crate::portmap::report(&report, &by);
                self.shared.changed();
            }
            Event::Classified { verdict, missing } if verdict.class() == NatClass::Unknown => {
                tracing::info!(missing, "NAT not classified");
            }
            Event::Classified { verdict, missing } => tracing::info!(
                class = %verdict.class(), mapping = %verdict.mapping, filtering = %verdict.filtering,
                confidence = verdict.confidence, missing, "NAT classified"
            ),
            Event::Path { peer, route, via } => {
                let via: Vec<String> = via.iter().map(|id| self.name(id)).collect();
                tracing::info!(peer = %peer.short(), name = self.name(&peer), %route, ?via, "path");
                self.shared.changed();
            }
            Event::Introduced { seeker, sought, attempt, plan } => {
                self.loads.introduced();
                tracing::info!(
                    attempt = format!("{attempt:032x}"), seeker = %seeker.short(), seeker_name = self.name(&seeker),
                    sought = %sought.short(), sought_name = self.name(&sought), plan = plan.words(), "introduced"
                );
            }
            Event::Rendezvous(attempt) => self.rendezvous(&attempt),
            Event::DialFailed { peer, addrs, failure } => {
                self.shared.dial_failed(peer);
                // An address to start from is the operator's; a peer behind a NAT is everyday.
                if peer.is_none() && failure == net_mesh_proto::node::DialFailure::Rejected {
                    tracing::warn!(
                        ?addrs,
                        "the address to start from belongs to no member of this mesh, or to one that does not take \
                         this node for a member: wrong ticket or certificate?"
                    );
                } else if peer.is_none() {
                    tracing::warn!(?addrs, ?failure, "no member answered at the address to start from");
                } else {
                    tracing::debug!(peer = ?peer.map(|p| p.short()), ?addrs, ?failure, "peer not reached");
                }
            }
            Event::Health { peer, route, health, evidence } => tracing::info!(
                peer = %peer.short(), name = self.name(&peer), %route, %health, cause = %evidence.cause,
                silent_ms = millis(evidence.silent), unanswered = evidence.unanswered, loss_permille = evidence.loss,
                rtt_ms = evidence.rtt.map(millis), "health"
            ),
            Event::Issue { peer, issue } => tracing::warn!(
                peer = %peer.short(), name = self.name(&peer), %issue, "the network to a peer is at fault"
            ),
            Event::Doubled => tracing::warn!(
                "another node runs with a copy of this node's key: stop one of the two, and let it join anew in another home"
            ),
            Event::Silent => tracing::warn!(
                "nothing has come back over UDP: a firewall drops it, or nobody runs at the addresses to start from"
            ),
            Event::Dropped { reason, count } => tracing::debug!(reason = reason.name(), count, "dropped"),
        }
    }

    /// One line for each attempt at a direct way, with both peers and the mediator.
    fn rendezvous(&self, attempt: &Attempt) {
        let info = AttemptInfo::of(self.shared.now(), attempt);
        let mediator = attempt.mediator.map_or_else(|| "their session".to_owned(), |id| self.name(&id));
        tracing::info!(
            attempt = info.id, node = %self.shared.node_id().short(), peer = %attempt.peer.short(),
            name = self.name(&attempt.peer), mediator, role = info.role, plan = info.plan, outcome = info.outcome,
            packets = info.packets, heard = attempt.heard, took_ms = info.took.map(millis),
            reason = info.reason, "rendezvous"
        );
    }

    /// A peer's name, for the log; empty before its record has come.
    fn name(&self, peer: &NodeId) -> String {
        self.shared.member_name(peer).or_else(|| self.names.get(peer).cloned()).unwrap_or_default()
    }

    fn open_other_port(&mut self) {
        for main in self.shared.socket.local_addrs() {
            // On the same address as the main socket, so that only the port differs.
            self.open(SocketId::OTHER, SocketAddr::new(main.ip(), 0));
        }
    }

    fn open_fresh(&mut self, socket: SocketId, v6: bool) {
        let main = self.shared.socket.local_addrs().into_iter().find(|a| a.is_ipv6() == v6);
        let opened = main.and_then(|main| self.open(socket, SocketAddr::new(main.ip(), 0)));
        match opened {
            Some(local) => self.handle(Input::SocketOpened { socket, local }),
            None => self.handle(Input::SocketFailed { socket }),
        }
    }

    fn open(&mut self, socket: SocketId, addr: SocketAddr) -> Option<SocketAddr> {
        let opened = self.network.bind(addr).and_then(|udp| {
            let side = self.sides.entry(socket).or_default();
            side.add(udp, socket, self.own.clone())
        });
        opened.inspect_err(|error| tracing::warn!(%addr, %error, "socket not opened")).ok()
    }

    fn network_changed(&mut self) {
        self.ips = self.network.ips();
        let main = [false, true].map(|v6| self.shared.socket.port(v6));
        let other = [false, true].map(|v6| self.sides.get(&SocketId::OTHER).and_then(|s| s.port(v6)));
        // A socket bound to one address is reachable on that address alone.
        let bound = self.shared.socket.local_addrs();
        let reachable = |ip: &std::net::IpAddr| {
            bound.iter().any(|b| b.is_ipv6() == ip.is_ipv6() && (b.ip().is_unspecified() || b.ip() == *ip))
        };
        let ips = self.ips.iter().filter(|ip| reachable(ip)).copied().collect();
        self.handle(Input::Network { ips, main, other });
    }

    fn tick(&mut self) {
        self.shared.socket.sweep();
        self.shared.hub.sweep();
        for (conn, link) in &self.links {
            self.handle(Input::Link {
                conn: *conn,
                rtt: link.connection.rtt(),
                active: link.take_activity(),
                pinned: link.is_pinned(),
            });
        }
        self.publisher.publish(&self.shared, &*self.network);
        self.loads.look(&self.shared);
    }

    /// The network told of changes. The node hears of them also where all addresses are what they were.
    fn network_told(&mut self, kinds: &net::Kinds) {
        let before = std::mem::take(&mut self.ips);
        if kinds.contains(&net::Change::Slept) {
            self.handle(Input::Slept);
        }
        self.network_changed();
        let readdressed = before != self.ips;
        metrics::of_network_change();
        tracing::info!(what = net::words(kinds), readdressed, "the network changed");
    }

    fn compare_ips(&mut self) {
        if self.network.ips() != self.ips {
            tracing::info!("the host's addresses changed");
            metrics::of_network_change();
            self.network_changed();
        }
    }
}

impl Drop for Driver {
    fn drop(&mut self) {
        for task in self.dials.values() {
            task.abort();
        }
    }
}

/// For the log: what is longer than 64 bits is a text in JSON.
fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

/// The instant that is [`Time::ZERO`].
#[derive(Clone, Copy, Debug)]
pub(crate) struct Clock {
    start: Instant,
}

impl Clock {
    pub(crate) fn start() -> Self {
        Self { start: Instant::now() }
    }

    pub(crate) fn now(&self) -> Time {
        Time::from_nanos(u64::try_from(self.start.elapsed().as_nanos()).unwrap_or(u64::MAX))
    }

    pub(crate) fn instant(&self, at: Time) -> Instant {
        self.start + Duration::from_nanos(at.as_nanos())
    }
}
