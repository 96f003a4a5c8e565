//! Networks of real Linux kernels: public hosts, and homes behind NATs, in namespaces of their own.
//!
//! Every place has an address block of its own, as on the Internet: a public host is alone in a /24, and
//! so is the outside of a NAT. The blocks stand for global addresses and never leave the namespaces.

use std::net::{IpAddr, Ipv4Addr, SocketAddr, UdpSocket};
use std::process::Command;
use std::sync::MutexGuard;
use std::time::Duration;

use patchbay::{
    Device, Firewall, FirewallConfig, IpSupport, Ipv4Net, Lab, Nat, Router, RouterBuilder, RouterPreset,
};
use tokio::runtime::Runtime;

use super::line::{Line, Quality};
use super::mesh::PORT;
use super::process::{Place, program, run};
use super::{alone, wait_until};

/// A process enters a user namespace only while it has one thread, so this runs before `main`. There it
/// may build networks without being root, and nothing of them outlives it.
#[ctor::ctor(unsafe)]
#[allow(unsafe_code, reason = "code before main; calls only what patchbay made for this place")]
fn enter_user_namespace() {
    // Building a lab fails with a reason where namespaces are refused; the other tests need none.
    let _ = patchbay::init_userns();
}

/// What stands between a host and the public network.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Behind {
    Nothing,
    FullCone,
    RestrictedCone,
    PortRestricted,
    Symmetric,
    /// A home router behind a carrier's NAT.
    TwoNats,
    /// No translation, but only answers come in.
    Firewall,
    /// The same, and the operator has opened the node's port.
    OpenPort,
    /// A home whose operator has the router forward the node's port.
    ForwardedPort,
    /// A public address to which no UDP comes, and from which none goes.
    NoUdp,
}

/// The addresses of a host that is not behind a NAT.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Family {
    OnlyV6,
    Both,
}

/// How long a host may take to have an address that it was given.
const TAKE_UP: Duration = Duration::from_secs(5);

/// A network under construction. One exists at a time.
pub(crate) struct Net {
    lines: Vec<Line>,
    lab: Lab,
    runtime: Runtime,
    blocks: u8,
    _alone: MutexGuard<'static, ()>,
}

/// A host of a [`Net`].
#[derive(Clone)]
pub(crate) struct Host {
    pub(crate) name: String,
    device: Device,
    /// The address others see.
    pub(crate) outside: IpAddr,
    /// What it has before it, nearest first.
    routers: Vec<Router>,
}

impl Net {
    pub(crate) fn new() -> Self {
        let alone = alone();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let lab = runtime.block_on(Lab::builder().build()).expect("network namespaces can be made");
        Self { lines: Vec::new(), lab, runtime, blocks: 0, _alone: alone }
    }

    /// Adds a host. `name` is for humans and must be new.
    pub(crate) fn host(&mut self, name: &str, behind: Behind) -> Host {
        let isp = self.public_router(&format!("isp-{name}"), firewall(behind));
        match behind {
            Behind::Nothing | Behind::Firewall | Behind::NoUdp => {
                let device = self.device(name, &[&isp]);
                Host { name: name.into(), outside: address(&device), device, routers: vec![isp] }
            }
            Behind::FullCone => self.home(name, Nat::Open, isp),
            Behind::RestrictedCone => {
                let host = self.home(name, Nat::Open, isp);
                filter_by_address(&host.routers[0]);
                host
            }
            Behind::OpenPort => {
                let device = self.device(name, &[&isp]);
                let outside = address(&device);
                open(
                    &isp,
                    &format!(
                        "ip daddr {outside} udp dport {PORT} accept\nip daddr {outside} ct state established,related accept\nip daddr {outside} drop"
                    ),
                );
                Host { name: name.into(), outside, device, routers: vec![isp] }
            }
            Behind::PortRestricted => self.home(name, Nat::Moderate, isp),
            Behind::ForwardedPort => {
                let host = self.home(name, Nat::Moderate, isp);
                forward(&host.routers[0], host.outside, host.ip());
                host
            }
            Behind::Symmetric => self.home(name, Nat::Strict, isp),
            Behind::TwoNats => self.home_behind_a_carrier(name, isp),
        }
    }

    /// Adds a host whose access line is of the given quality.
    pub(crate) fn host_over(&mut self, name: &str, behind: Behind, quality: Quality) -> Host {
        let host = self.host(name, behind);
        let isp = host.routers.last().unwrap();
        self.lines.push(Line::through(isp, quality));
        host
    }

    /// A host with two uplinks, `eth0` and `eth1`, each behind a NAT and on a line of its own.
    pub(super) fn two_uplinks(&mut self, name: &str, nat: Nat, quality: Quality) -> Host {
        let uplink = |net: &mut Self, n: u64| {
            let isp = net.public_router(&format!("isp{n}-{name}"), Firewall::None);
            net.lines.push(Line::through(&isp, Quality { seed: quality.seed + n, ..quality }));
            let home = net.lab.add_router(&format!("nat{n}-{name}")).upstream(isp.id()).nat(nat);
            (net.build(home), isp)
        };
        let (first, isp) = uplink(self, 0);
        let (second, second_isp) = uplink(self, 1);
        let device = self.device(name, &[&first, &second]);
        let outside = first.uplink_ip().unwrap().into();
        Host { name: name.into(), device, outside, routers: vec![first, second, second_isp, isp] }
    }

    /// Lets the lab do something.
    pub(super) fn run<T>(&self, work: impl Future<Output = T>) -> T {
        self.runtime.block_on(work)
    }

    /// Two hosts in one home network, behind a port-restricted NAT that does not turn around what they send
    /// to its outside.
    pub(crate) fn neighbours(&mut self, names: [&str; 2]) -> [Host; 2] {
        let isp = self.public_router(&format!("isp-{}", names[0]), Firewall::None);
        let first = self.home(names[0], Nat::Moderate, isp.clone());
        let router = first.routers[0].clone();
        let device = self.device(names[1], &[&router]);
        let second =
            Host { name: names[1].into(), device, outside: first.outside, routers: vec![router, isp] };
        [first, second]
    }

    /// A public host with IPv6 addresses.
    pub(crate) fn host_with(&mut self, name: &str, family: Family, firewall: Firewall) -> Host {
        let block = self.block();
        let router = self.lab.add_router(&format!("isp-{name}")).preset(RouterPreset::Public);
        let router = match family {
            Family::OnlyV6 => router.ip_support(IpSupport::V6Only),
            Family::Both => router.downstream_cidr(block),
        };
        let router = self.build(router.firewall(firewall));
        let device = self.device(name, &[&router]);
        // The kernel takes up a new IPv6 address a moment after it was given, also where it looks for no other
        // owner of it.
        let ip = device.ip6().unwrap();
        wait_until("the host has its IPv6 address", TAKE_UP, || {
            device.run_sync(move || Ok(UdpSocket::bind((ip, 0))?)).ok().map(drop)
        });
        Host { name: name.into(), outside: address(&device), device, routers: vec![router] }
    }

    /// Hosts in a row: each is in one network with the one before and in another with the one after, and
    /// no packet goes further than one network.
    pub(crate) fn chain(&mut self, names: &[&str]) -> Vec<Host> {
        let networks: Vec<Router> =
            (1..names.len()).map(|n| self.public_router(&format!("between-{n}"), Firewall::None)).collect();
        let host = |(n, name): (usize, &&str)| {
            let around = n.saturating_sub(1)..(n + 1).min(networks.len());
            let routers: Vec<&Router> = networks[around].iter().collect();
            let device = self.device(name, &routers);
            let place = Place::Inside(device.clone());
            ip(&place, &["route", "del", "default"]);
            device.run_sync(|| Ok(std::fs::write("/proc/sys/net/ipv4/ip_forward", "0")?)).unwrap();
            let routers = routers.into_iter().cloned().collect();
            Host { name: (*name).into(), outside: address(&device), device, routers }
        };
        names.iter().enumerate().map(host).collect()
    }

    fn home(&mut self, name: &str, nat: Nat, isp: Router) -> Host {
        let router = self.build(self.lab.add_router(&format!("nat-{name}")).upstream(isp.id()).nat(nat));
        let device = self.device(name, &[&router]);
        let outside = router.uplink_ip().unwrap().into();
        Host { name: name.into(), device, outside, routers: vec![router, isp] }
    }

    fn home_behind_a_carrier(&mut self, name: &str, isp: Router) -> Host {
        // RFC 6598: the space between a carrier and its subscribers. Every carrier has the same one, as
        // every home has the same network inside: two such hosts have equal private addresses.
        let shared: Ipv4Net = "100.64.7.0/24".parse().unwrap();
        let inside: Ipv4Net = "192.168.1.0/24".parse().unwrap();
        let carrier = self.lab.add_router(&format!("carrier-{name}")).upstream(isp.id());
        let carrier = self.build(carrier.nat(Nat::Moderate).downstream_cidr(shared));
        let router = self.lab.add_router(&format!("nat-{name}")).upstream(carrier.id());
        let router = self.build(router.nat(Nat::Moderate).downstream_cidr(inside));
        let device = self.device(name, &[&router]);
        let outside = carrier.uplink_ip().unwrap().into();
        Host { name: name.into(), device, outside, routers: vec![router, carrier, isp] }
    }

    /// A router without NAT, with a block of its own behind it.
    fn public_router(&mut self, name: &str, firewall: Firewall) -> Router {
        let block = self.block();
        self.build(self.lab.add_router(name).nat(None).firewall(firewall).downstream_cidr(block))
    }

    fn block(&mut self) -> Ipv4Net {
        self.blocks += 1;
        Ipv4Net::new(Ipv4Addr::new(44, 10, self.blocks, 0), 24).unwrap()
    }

    fn build(&self, router: RouterBuilder) -> Router {
        self.runtime.block_on(router.build()).unwrap()
    }

    fn device(&self, name: &str, routers: &[&Router]) -> Device {
        let device = routers.iter().enumerate().fold(self.lab.add_device(name), |device, (n, router)| {
            device.iface(&format!("eth{n}"), router.id())
        });
        self.runtime.block_on(device.build()).unwrap()
    }
}

fn firewall(behind: Behind) -> Firewall {
    match behind {
        Behind::Firewall => Firewall::BlockInbound,
        Behind::NoUdp => {
            let mut config = FirewallConfig::builder();
            config.block_inbound().block_udp();
            Firewall::Custom(config.build())
        }
        _ => Firewall::None,
    }
}

/// The first address of a device, IPv4 before IPv6.
fn address(device: &Device) -> IpAddr {
    let v4 = device.ip().map(IpAddr::V4);
    v4.or(device.ip6().map(IpAddr::V6)).expect("a device has an address")
}

/// Runs `ip` of iproute2.
pub(crate) fn ip(place: &Place, arguments: &[&str]) -> String {
    let mut command = Command::new(program("ip", "iproute2"));
    command.args(arguments);
    run(place, command).ok(&format!("ip {}", arguments.join(" ")))
}

/// Address-dependent filtering (RFC 4787 §5): an address may send to an inside endpoint once that very
/// endpoint has sent to it. patchbay's own rule forgets the endpoint: whom any socket behind the NAT has
/// contacted may then send to all of them.
/// Lets `router` filter what it forwards by these rules.
fn open(router: &Router, rules: &str) {
    let table = format!(
        "table ip operator {{
            chain forward {{
                type filter hook forward priority 10; policy accept;
                {rules}
            }}
        }}"
    );
    nft(router, table);
}

/// Lets `router`, whose address is `outside`, forward the nodes' port to `inside`.
fn forward(router: &Router, outside: IpAddr, inside: IpAddr) {
    let table = format!(
        "table ip operator {{
            chain prerouting {{
                type nat hook prerouting priority dstnat - 10; policy accept;
                ip daddr {outside} udp dport {PORT} dnat to {inside}:{PORT}
            }}
        }}
        insert rule ip filter forward ip daddr {inside} udp dport {PORT} accept"
    );
    nft(router, table);
}

fn nft(router: &Router, rules: String) {
    let mut nft = Command::new(program("nft", "nftables"));
    nft.arg(rules);
    run(&Place::Router(router.clone()), nft).ok("nft");
}

fn filter_by_address(router: &Router) {
    let wan = router.interfaces().into_iter().find(|iface| iface.ip() == router.uplink_ip()).unwrap();
    let wan = wan.name();
    let rules = format!(
        "table ip by_address {{
            set contacted {{
                type ipv4_addr . inet_service . ipv4_addr
                flags dynamic,timeout
                timeout 300s
                size 8192
            }}
            chain forward {{
                type filter hook forward priority 0; policy accept;
                oifname {wan} update @contacted {{ ip saddr . udp sport . ip daddr }}
                iifname {wan} ip daddr . udp dport . ip saddr @contacted accept
                iifname {wan} drop
            }}
        }}"
    );
    nft(router, rules);
}

impl Host {
    /// The address its (first) interface has.
    pub(crate) fn ip(&self) -> IpAddr {
        address(&self.device)
    }

    pub(crate) fn at(&self, port: u16) -> SocketAddr {
        SocketAddr::new(self.ip(), port)
    }

    /// All the addresses that the lab gave it, with this port.
    pub(crate) fn all_at(&self, port: u16) -> Vec<SocketAddr> {
        let interfaces = self.device.interfaces();
        let v4 = interfaces.iter().filter_map(|i| i.ip()).map(IpAddr::V4);
        let v6 = interfaces.iter().filter_map(|i| i.ip6()).map(IpAddr::V6);
        v4.chain(v6).map(|ip| SocketAddr::new(ip, port)).collect()
    }

    /// Gives it `count` more addresses, at none of which anyone can reach it.
    pub(crate) fn add_useless_addresses(&self, count: u8) {
        for n in 1..=count {
            let addr = match n % 4 {
                0 => format!("10.213.{n}.1/24"),
                1 => format!("172.29.{n}.1/24"),
                // Documentation and benchmarking ranges stand for addresses of networks long left.
                2 => format!("198.51.100.{n}/32"),
                _ => format!("198.18.{n}.1/24"),
            };
            ip(&self.place(), &["addr", "add", &addr, "dev", "eth0"]);
        }
    }

    /// The router next to it.
    pub(crate) fn home(&self) -> &Router {
        &self.routers[0]
    }

    /// The router that carries what it sends to the public network.
    pub(super) fn provider(&self) -> &Router {
        self.routers.last().unwrap()
    }

    /// The address of the router on an interface.
    pub(super) fn gateway(&self, interface: usize) -> String {
        self.routers[interface].downstream_gw().unwrap().to_string()
    }

    pub(crate) fn place(&self) -> Place {
        Place::Inside(self.device.clone())
    }

    /// A UDP socket in its network, on a port of the system's choosing, usable from any thread.
    pub(crate) fn socket(&self) -> UdpSocket {
        self.socket_at(self.ip())
    }

    /// The same with its IPv6 address.
    pub(crate) fn socket_v6(&self) -> UdpSocket {
        self.socket_at(self.device.ip6().unwrap().into())
    }

    /// The same with all its IPv4 addresses.
    pub(crate) fn socket_everywhere(&self) -> UdpSocket {
        self.socket_at(Ipv4Addr::UNSPECIFIED.into())
    }

    fn socket_at(&self, ip: IpAddr) -> UdpSocket {
        self.device.run_sync(move || Ok(UdpSocket::bind((ip, 0))?)).unwrap()
    }

    /// What its routers filter and remember, for a human who looks for a reason.
    /// From now on no UDP comes to it, and none leaves it.
    pub(crate) fn cut_udp(&self) {
        let chain = "type filter hook forward priority -20; policy accept; ip protocol udp drop";
        nft(&self.routers[0], format!("table ip cut {{ chain forward {{ {chain}; }}; }}"));
    }

    pub(crate) fn describe_routers(&self) -> String {
        let show = |router: &Router| {
            let place = Place::Router(router.clone());
            let mut nft = Command::new(program("nft", "nftables"));
            nft.args(["list", "ruleset"]);
            let rules = run(&place, nft).stdout;
            let mut cat = Command::new("sh");
            cat.args(["-c", "grep udp /proc/net/nf_conntrack | head -n 40"]);
            let flows = run(&place, cat).stdout;
            format!("--- router {} ---\n{rules}\nflows:\n{flows}\n", router.name())
        };
        self.routers.iter().map(show).collect()
    }
}
