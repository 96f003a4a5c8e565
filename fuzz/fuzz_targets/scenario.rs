//! A whole node in a world that the input makes up: datagrams from anyone, control messages from members
//! gone mad, connections that come and go, a network that changes, time that jumps.
//!
//! However it goes: no panic, deadlines that move on, state within its bounds, and no more bytes out to a
//! stranger than it brought.
//!
//! The input is a program: an opcode byte, its operands, the next opcode. What runs out reads as zeros.
#![no_main]

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::Duration;

use libfuzzer_sys::fuzz_target;
use net_mesh_proto::id::{ChannelId, MeshId, NodeId};
use net_mesh_proto::membership::MAX_MEMBERS;
use net_mesh_proto::node::{
    Command, Config, ConnId, DialFailure, DialId, Direction, Input, Node, Output, Sizes,
};
use net_mesh_proto::outbox::SocketId;
use net_mesh_proto::peer::arbiter::MAX_CONNECTIONS;
use net_mesh_proto::peer::dialer::MAX_DIALS;
use net_mesh_proto::portmap::{Answer, Failure, Granted, RequestId, Settings};
use net_mesh_proto::reflex::stun::MAX_SURPLUS;
use net_mesh_proto::route::Route;
use net_mesh_proto::time::Time;

/// Steps of one run. Longer programs find nothing new and slow everything down.
const MAX_STEPS: usize = 256;

fuzz_target!(|program: &[u8]| {
    let mut world = World::new();
    let mut operands = Operands { rest: program };
    for _ in 0..MAX_STEPS {
        let Some((opcode, rest)) = operands.rest.split_first() else { break };
        operands.rest = rest;
        world.step(*opcode, &mut operands);
    }
    world.wait(Duration::from_secs(3_600));
    bounded(world.node.sizes());
});

struct Operands<'a> {
    rest: &'a [u8],
}

impl<'a> Operands<'a> {
    fn byte(&mut self) -> u8 {
        let Some((first, rest)) = self.rest.split_first() else { return 0 };
        self.rest = rest;
        *first
    }

    fn small(&mut self, bound: u8) -> u64 {
        u64::from(self.byte() % bound)
    }

    fn word(&mut self) -> u16 {
        u16::from_be_bytes([self.byte(), self.byte()])
    }

    fn bytes(&mut self) -> &'a [u8] {
        let length = usize::from(self.word()).min(self.rest.len());
        let (head, tail) = self.rest.split_at(length);
        self.rest = tail;
        head
    }

    /// One of a few hosts, some of them private, on a port that hosts share.
    fn addr(&mut self) -> SocketAddr {
        let host = self.byte();
        let ip = if host.is_multiple_of(4) { [192, 168, 1, host] } else { [198, 51, 100, host % 8] };
        SocketAddr::new(IpAddr::V4(Ipv4Addr::from(ip)), 7_000 + u16::from(host % 3))
    }

    fn peer(&mut self) -> NodeId {
        NodeId([self.byte() % 8; 32])
    }
}

struct World {
    node: Node,
    now: Time,
    conns: u64,
    dials: Vec<DialId>,
    sockets: Vec<SocketId>,
    asked: Vec<RequestId>,
}

impl World {
    fn new() -> Self {
        let now = Time::from_millis(1_000);
        let config = Config {
            secret: [1; 32],
            mesh: MeshId([2; 32]),
            name: "fuzzed".into(),
            boot: 1,
            unix_ms: 1_700_000_000_000,
            bootstrap: vec![SocketAddr::from(([198, 51, 100, 1], 7_000))],
            stun_servers: vec![SocketAddr::from(([198, 51, 100, 2], 3_478))],
            nat_traversal: true,
            relay: None,
            port_mapping: Some(Settings::default()),
            full_mesh: 8,
        };
        let node = Node::new(now, [3; 32], config);
        let mut world =
            Self { node, now, conns: 0, dials: Vec::new(), sockets: Vec::new(), asked: Vec::new() };
        let ips = vec![IpAddr::from([198, 51, 100, 7]), IpAddr::from([192, 168, 1, 7])];
        world.handle(Input::Network { ips, main: [Some(7_000), None], other: [Some(7_001), None] });
        world
    }

    fn step(&mut self, opcode: u8, with: &mut Operands<'_>) {
        match opcode % 13 {
            0 | 1 => self.wait(Duration::from_millis(u64::from(with.word()))),
            2 => self.wait(Duration::from_secs(with.small(200))),
            3 => self.datagram(with),
            4 | 5 => {
                let conn = ConnId(with.small(8));
                self.handle(Input::Control { conn, bytes: with.bytes() });
            }
            6 => self.connected(with),
            7 => self.handle(Input::Closed { conn: ConnId(with.small(8)) }),
            8 => {
                let failures = [DialFailure::Timeout, DialFailure::Rejected, DialFailure::Unusable];
                let failure = failures[usize::from(with.byte() % 3)];
                let dial = self.dials.pop().unwrap_or(DialId(with.small(4)));
                self.handle(Input::DialFailed { dial, failure });
            }
            9 => self.socket(with),
            10 => self.router(with),
            11 => {
                let conn = ConnId(with.small(8));
                self.handle(Input::Link {
                    conn,
                    rtt: Duration::from_millis(u64::from(with.word())),
                    active: false,
                    pinned: false,
                });
            }
            _ => self.command(with),
        }
    }

    fn datagram(&mut self, with: &mut Operands<'_>) {
        let socket = SocketId(u32::from(with.byte() % 8));
        let (from, bytes) = (with.addr(), with.bytes());
        self.handle_no_drain(Input::Datagram { socket, from, bytes });
        let mut answered = 0;
        while let Some(output) = self.node.poll_output() {
            if let Output::Transmit(transmit) = &output
                && transmit.to == from
            {
                answered += transmit.bytes.len();
            }
            self.note(output);
        }
        assert!(answered <= bytes.len() + MAX_SURPLUS, "{answered} bytes for {}", bytes.len());
    }

    fn connected(&mut self, with: &mut Operands<'_>) {
        let direction = if with.byte().is_multiple_of(2) { Direction::Outgoing } else { Direction::Incoming };
        let dial = if direction == Direction::Outgoing { self.dials.pop() } else { None };
        let conn = ConnId(self.conns);
        self.conns += 1;
        let (peer, route) = (with.peer(), Route::Direct(with.addr()));
        let rtt = Duration::from_millis(with.small(200));
        self.handle(Input::Connected { conn, peer, direction, dial, route, rtt, key: [0; 32] });
    }

    fn socket(&mut self, with: &mut Operands<'_>) {
        let socket = self.sockets.pop().unwrap_or(SocketId(u32::from(with.byte() % 8)));
        if with.byte().is_multiple_of(4) {
            self.handle(Input::SocketFailed { socket });
        } else {
            let local = SocketAddr::from(([0, 0, 0, 0], with.word()));
            self.handle(Input::SocketOpened { socket, local });
        }
    }

    fn router(&mut self, with: &mut Operands<'_>) {
        let id = self.asked.pop().unwrap_or(RequestId(with.small(8)));
        let answer = match with.byte() % 4 {
            0 => Answer::Released,
            1 => {
                let failure = Failure::ALL[usize::from(with.byte() % 9)];
                Answer::Failed { failure, detail: String::new() }
            }
            _ => Answer::Mapped(Granted {
                gateway: with.addr().ip(),
                host: with.addr().ip(),
                external: with.addr(),
                lease: (!with.byte().is_multiple_of(4)).then(|| Duration::from_secs(u64::from(with.word()))),
                epoch: (!with.byte().is_multiple_of(4)).then(|| u32::from(with.word())),
            }),
        };
        self.handle(Input::PortMapped { id, answer });
    }

    fn command(&mut self, with: &mut Operands<'_>) {
        match with.byte() % 5 {
            0 => self.handle(Input::Command(Command::Reclassify)),
            1 => {
                let peer = with.peer();
                self.handle(Input::Command(Command::Want { peer }));
            }
            2 => {
                let channels = (0..with.byte()).map(|n| ChannelId([n; 8])).collect();
                self.handle(Input::Command(Command::Subscriptions(channels)));
            }
            3 => self.handle(Input::Command(Command::Leave)),
            _ => {
                let ips = (0..with.byte() % 8).map(|_| with.addr().ip()).collect();
                self.handle(Input::Network {
                    ips,
                    main: [Some(with.word()), None],
                    other: [Some(with.word()), None],
                });
            }
        }
    }

    /// Lets time pass, meeting every deadline on the way as a driver does.
    fn wait(&mut self, how_long: Duration) {
        let end = self.now + how_long;
        while let Some(deadline) = self.node.poll_timeout().filter(|deadline| deadline.at <= end) {
            self.now = self.now.max(deadline.at);
            self.node.handle_timeout(self.now);
            self.drain();
            let next = self.node.poll_timeout();
            assert!(next.is_none_or(|next| next.at > self.now), "{deadline:?} then {next:?}");
        }
        self.now = end;
    }

    fn handle(&mut self, input: Input<'_>) {
        self.handle_no_drain(input);
        self.drain();
    }

    fn handle_no_drain(&mut self, input: Input<'_>) {
        self.node.handle(self.now, input);
        bounded(self.node.sizes());
    }

    fn drain(&mut self) {
        while let Some(output) = self.node.poll_output() {
            self.note(output);
        }
    }

    fn note(&mut self, output: Output) {
        match output {
            Output::Dial { dial, .. } => self.dials.push(dial),
            Output::OpenSocket { socket, .. } => self.sockets.push(socket),
            Output::PortMap { id, .. } => self.asked.push(id),
            _ => {}
        }
    }
}

fn bounded(sizes: Sizes) {
    assert!(sizes.members <= MAX_MEMBERS && sizes.buried <= MAX_MEMBERS, "{sizes:?}");
    assert!(sizes.connections <= MAX_CONNECTIONS * MAX_MEMBERS, "{sizes:?}");
    assert!(sizes.dials <= MAX_DIALS && sizes.tokens <= 64 && sizes.proving <= 32, "{sizes:?}");
}
