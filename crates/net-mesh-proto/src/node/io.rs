//! What goes into a node and what comes out of it.

use alloc::boxed::Box;
use alloc::string::String;
use alloc::vec::Vec;
use core::net::{IpAddr, SocketAddr};
use core::time::Duration;

use crate::drops::DropReason;
use crate::id::{ChannelId, MeshId, NodeId};
use crate::liveness::{Evidence, Health, Issue, Traffic};
use crate::nat::Verdict;
use crate::outbox::{SocketId, Transmit};
use crate::portmap;
use crate::relay;
use crate::rendezvous;
use crate::route::Route;

/// A connection, as the driver numbers them. Never reused while a node runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ConnId(pub u64);

/// An attempt to open a connection, as the node numbers them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct DialId(pub u64);

/// Who opened a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Direction {
    /// This node.
    Outgoing,
    /// The peer.
    Incoming,
}

/// Why an attempt to open a connection failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum DialFailure {
    /// Nobody answered at any of the addresses.
    Timeout,
    /// Someone answered who is not a member of this mesh, or not the node that was meant.
    Rejected,
    /// It could not be tried: no usable address, or the socket refused; or it was this node itself.
    Unusable,
}

/// What a node is told when it starts.
#[derive(Clone)]
pub struct Config {
    /// The node's Ed25519 secret key (RFC 8032).
    pub secret: [u8; 32],
    /// The mesh it belongs to; part of what record signatures cover.
    pub mesh: MeshId,
    /// The name others see. At most 64 bytes.
    pub name: String,
    /// Tells this run of the node from earlier ones. Higher is later.
    pub boot: u64,
    /// Milliseconds since the Unix epoch at the moment the node starts; record sequence numbers grow from it.
    pub unix_ms: u64,
    /// Addresses to start from, of members whose ids need not be known.
    pub bootstrap: Vec<SocketAddr>,
    /// STUN servers to ask besides the peers.
    pub stun_servers: Vec<SocketAddr>,
    /// Whether to ask for reflexive addresses, answer such questions, and classify the NAT.
    pub nat_traversal: bool,
    /// What the node carries for others; `None` if nothing.
    pub relay: Option<relay::Limits>,
    /// Members, this node included, up to which it keeps a session with everyone:
    /// [`SMALL_MESH`](crate::peer::dialer::SMALL_MESH) unless there is a reason.
    pub full_mesh: usize,
    /// Whether and how the router is asked for a port; `None`: it is not.
    pub port_mapping: Option<portmap::Settings>,
}

/// Something that happened outside.
#[derive(Clone, Debug)]
pub enum Input<'a> {
    /// A STUN datagram arrived.
    Datagram {
        /// On which socket.
        socket: SocketId,
        /// From which address.
        from: SocketAddr,
        /// The payload.
        bytes: &'a [u8],
    },
    /// A frame of the mesh's own other than a relayed datagram arrived on the main socket.
    Frame {
        /// Which way it came.
        route: Route,
        /// The whole frame.
        bytes: &'a [u8],
    },
    /// The network as it is now: sent at start, and after every change, also one of the default route alone or a
    /// sleep of the host, after which nothing here may look different.
    Network {
        /// The addresses of the host's interfaces.
        ips: Vec<IpAddr>,
        /// The local ports of the main socket: IPv4, IPv6.
        main: [Option<u16>; 2],
        /// The local ports of the other socket: IPv4, IPv6.
        other: [Option<u16>; 2],
    },
    /// The host slept, or this process did not run, for longer than its clock may show: what was granted for a time may have
    /// ended. [`Input::Network`] follows.
    Slept,
    /// A socket asked for with [`Output::OpenSocket`] is open, on this local address.
    SocketOpened {
        /// Which.
        socket: SocketId,
        /// Its local address; the IP may be unspecified.
        local: SocketAddr,
    },
    /// A socket asked for with [`Output::OpenSocket`] could not be opened.
    SocketFailed {
        /// Which.
        socket: SocketId,
    },
    /// A connection is up and the peer is authenticated.
    Connected {
        /// The connection.
        conn: ConnId,
        /// Who is at the other end.
        peer: NodeId,
        /// Who opened it.
        direction: Direction,
        /// The attempt it came from, where this node opened it.
        dial: Option<DialId>,
        /// The way its packets travel.
        route: Route,
        /// The round-trip time measured so far.
        rtt: Duration,
        /// A key that only the two ends know (RFC 8446 §7.5), the same on both.
        key: [u8; 32],
    },
    /// An attempt to open a connection failed.
    DialFailed {
        /// Which attempt.
        dial: DialId,
        /// Why.
        failure: DialFailure,
    },
    /// A control message arrived on a connection.
    Control {
        /// On which.
        conn: ConnId,
        /// The message.
        bytes: &'a [u8],
    },
    /// A connection has ended, for whatever reason.
    Closed {
        /// Which.
        conn: ConnId,
    },
    /// What was measured of a connection lately; told every second or so.
    Link {
        /// Which connection.
        conn: ConnId,
        /// The smoothed round-trip time.
        rtt: Duration,
        /// Whether the application used it since the last time.
        active: bool,
        /// Whether it is kept although nothing may pass: the application has a stream on it.
        pinned: bool,
    },
    /// What has passed over a route of a connection so far. Told soon after it has changed (10 ms are soon), and
    /// always before a timeout is handled or a frame is told: the two ends compare their counts.
    Traffic {
        /// Which connection.
        conn: ConnId,
        /// Which route.
        route: Route,
        /// The counts.
        traffic: Traffic,
    },
    /// The socket did not do what [`Output::Accept`] or [`Output::SetRoute`] said: the route is another peer's.
    RouteRefused {
        /// Which connection.
        conn: ConnId,
        /// Which route.
        route: Route,
    },
    /// The system refused to send a frame over `route`.
    SendFailed {
        /// Which way.
        route: Route,
    },
    /// What became of an [`Output::PortMap`].
    PortMapped {
        /// Which request.
        id: portmap::RequestId,
        /// What the router said, or that it did not.
        answer: portmap::Answer,
    },
    /// The application or the operator wants something.
    Command(Command),
}

/// How a connection changes its route.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Switch {
    /// It does not: only what is sent on a second one changes.
    Keep,
    /// The route before works as well, this one is better.
    Planned,
    /// What was sent lately may be lost: it is sent again, as it was. Also where the route is the same as before.
    Urgent,
}

/// A wish of the application or the operator.
#[derive(Clone, Debug)]
pub enum Command {
    /// The channels this node now subscribes to; replaces what was said before.
    Subscriptions(Vec<ChannelId>),
    /// There is something to say to `peer`: have a session with it.
    Want {
        /// To whom.
        peer: NodeId,
    },
    /// Have a session with `peer` and look for a direct way now, even while the pair rests: at once when first said,
    /// and ever more rarely while it is of no use.
    Discover {
        /// To whom.
        peer: NodeId,
    },
    /// Start from these addresses from now on, instead of those named before.
    StartFrom(Vec<SocketAddr>),
    /// Classify the NAT again now.
    Reclassify,
    /// The node is about to stop: say goodbye to the mesh.
    Leave,
}

/// Something for the driver to do.
#[derive(Clone, Debug)]
pub enum Output {
    /// Send a datagram.
    Transmit(Transmit),
    /// Open a UDP socket on a port of the system's choosing, for the IPv6 family if `v6`.
    OpenSocket {
        /// The name it will have.
        socket: SocketId,
        /// The address family.
        v6: bool,
    },
    /// Close a socket that [`Output::OpenSocket`] opened.
    CloseSocket {
        /// Which.
        socket: SocketId,
    },
    /// Send a control message on a connection.
    Control {
        /// On which.
        conn: ConnId,
        /// The message.
        bytes: Vec<u8>,
    },
    /// Open a connection on any of these ways; all of them are tried at once.
    Dial {
        /// The name of the attempt.
        dial: DialId,
        /// Who must answer; any member of the mesh where `None`.
        peer: Option<NodeId>,
        /// Which ways; at most [`MAX_CANDIDATES`](crate::membership::MAX_CANDIDATES) addresses and one circuit.
        routes: Vec<Route>,
    },
    /// Close a connection: it duplicates another one, or is of no use any more.
    CloseConnection {
        /// Which.
        conn: ConnId,
    },
    /// Close a connection whose peer has not answered on any way for minutes.
    GiveUp {
        /// Which.
        conn: ConnId,
    },
    /// Packets that arrive over `route` belong to this connection from now on.
    Accept {
        /// Which connection.
        conn: ConnId,
        /// Over which way.
        route: Route,
    },
    /// Send this connection's packets over `route` from now on, and a copy of each over `also`; packets that arrive
    /// over either belong to the connection too.
    SetRoute {
        /// Which connection.
        conn: ConnId,
        /// Over which way.
        route: Route,
        /// Over which way besides.
        also: Option<Route>,
        /// What becomes of what was sent before.
        switch: Switch,
    },
    /// Send a frame of the mesh's own.
    Frame {
        /// Which way.
        route: Route,
        /// The whole frame.
        bytes: Vec<u8>,
    },
    /// Change the table that relayed datagrams are looked up in.
    Label(relay::Change),
    /// Ask the router. Requests are carried out one after the other, in this order.
    PortMap {
        /// The name of the request.
        id: portmap::RequestId,
        /// What to ask.
        request: portmap::Request,
    },
    /// Tell whoever is interested.
    Event(Event),
}

/// Something the outside may want to know.
#[derive(Clone, Debug)]
pub enum Event {
    /// There is now a session with `peer`, over `conn`, which both sides agree on. Replaces any earlier one.
    SessionUp {
        /// With whom.
        peer: NodeId,
        /// Over which connection.
        conn: ConnId,
    },
    /// There is no session with `peer` any more.
    SessionDown {
        /// With whom.
        peer: NodeId,
    },
    /// A member's record is new or has changed.
    MemberChanged {
        /// Whose.
        peer: NodeId,
    },
    /// A member left or was forgotten.
    MemberGone {
        /// Who.
        peer: NodeId,
    },
    /// The addresses others see this node's main socket at have changed.
    Reflexive(Vec<SocketAddr>),
    /// There is a new verdict on the NAT.
    Classified {
        /// The verdict.
        verdict: Verdict,
        /// What was missing, where an axis stayed unknown; a short phrase.
        missing: Option<&'static str>,
    },
    /// Something happened to the port of the router.
    PortMapping(portmap::Report),
    /// The session with `peer` travels this way now.
    Path {
        /// With whom.
        peer: NodeId,
        /// Which way.
        route: Route,
        /// The members that relay, in order from here, as far as they are known: who ends a circuit knows its
        /// last hop only.
        via: Vec<NodeId>,
    },
    /// A route to `peer` changed its health.
    Health {
        /// To whom.
        peer: NodeId,
        /// Which way.
        route: Route,
        /// What it is now.
        health: Health,
        /// Why.
        evidence: Evidence,
    },
    /// The network between this node and `peer` has a fault with a name; told once in a session.
    Issue {
        /// To whom.
        peer: NodeId,
        /// Which.
        issue: Issue,
    },
    /// This node introduced two others.
    Introduced {
        /// Who asked.
        seeker: NodeId,
        /// Who was sought.
        sought: NodeId,
        /// The number of the attempt.
        attempt: u128,
        /// What they are to try.
        plan: rendezvous::Plan,
    },
    /// An attempt at a direct way is over.
    Rendezvous(Box<rendezvous::Attempt>),
    /// No connection could be opened to `peer`.
    DialFailed {
        /// To whom; `None` for an address to start from.
        peer: Option<NodeId>,
        /// What was tried.
        addrs: Vec<SocketAddr>,
        /// Why it failed.
        failure: DialFailure,
    },
    /// Another run of this node goes on beside this one: somebody has a copy of its key. Told every ten minutes at most.
    Doubled,
    /// Nothing has come back over UDP for several seconds, from anyone; told once for each such time.
    Silent,
    /// Inputs were discarded since the last such event.
    Dropped {
        /// Why.
        reason: DropReason,
        /// How many.
        count: u64,
    },
}
