//! Networks of real Linux kernels: public hosts, and homes behind NATs, in namespaces of their own.
//!
//! Every place has an address block of its own, as on the Internet: a public host is alone in a /24, and
//! so is the outside of a NAT. The blocks stand for global addresses and never leave the namespaces.

use std::net::{IpAddr, Ipv4Addr, SocketAddr, UdpSocket};
use std::process::Command;
use std::sync::MutexGuard;

use patchbay::{Device, Firewall, Ipv4Net, Lab, Nat, Router, RouterBuilder};
use tokio::runtime::Runtime;

use super::alone;
use super::process::{Place, program, run};

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
}

/// A network under construction. One exists at a time.
pub(crate) struct Net {
    lab: Lab,
    runtime: Runtime,
    blocks: u8,
    _alone: MutexGuard<'static, ()>,
}

/// A host of a [`Net`].
pub(crate) struct Host {
    device: Device,
    /// The address others see.
    pub(crate) outside: Ipv4Addr,
}

impl Net {
    pub(crate) fn new() -> Self {
        let alone = alone();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let lab = runtime.block_on(Lab::builder().build()).expect("network namespaces can be made");
        Self { lab, runtime, blocks: 0, _alone: alone }
    }

    /// Adds a host. `name` is for humans and must be new.
    pub(crate) fn host(&mut self, name: &str, behind: Behind) -> Host {
        match behind {
            Behind::Nothing => self.public(name, Firewall::None),
            Behind::Firewall => self.public(name, Firewall::BlockInbound),
            Behind::FullCone => self.home(name, Nat::Open).0,
            Behind::RestrictedCone => {
                let (host, router) = self.home(name, Nat::Open);
                filter_by_address(&router);
                host
            }
            Behind::PortRestricted => self.home(name, Nat::Moderate).0,
            Behind::Symmetric => self.home(name, Nat::Strict).0,
            Behind::TwoNats => self.home_behind_a_carrier(name),
        }
    }

    fn public(&mut self, name: &str, firewall: Firewall) -> Host {
        let router = self.public_router(&format!("isp-{name}"), firewall);
        let device = self.device(name, &router);
        let outside = device.ip().unwrap();
        Host { device, outside }
    }

    fn home(&mut self, name: &str, nat: Nat) -> (Host, Router) {
        let isp = self.public_router(&format!("isp-{name}"), Firewall::None);
        let router = self.build(self.lab.add_router(&format!("nat-{name}")).upstream(isp.id()).nat(nat));
        let device = self.device(name, &router);
        (Host { device, outside: router.uplink_ip().unwrap() }, router)
    }

    fn home_behind_a_carrier(&mut self, name: &str) -> Host {
        let isp = self.public_router(&format!("isp-{name}"), Firewall::None);
        // RFC 6598: the space between a carrier and its subscribers.
        let shared: Ipv4Net = "100.64.7.0/24".parse().unwrap();
        let carrier = self.lab.add_router(&format!("carrier-{name}")).upstream(isp.id());
        let carrier = self.build(carrier.nat(Nat::Moderate).downstream_cidr(shared));
        let router = self.lab.add_router(&format!("nat-{name}")).upstream(carrier.id());
        let router = self.build(router.nat(Nat::Moderate));
        let device = self.device(name, &router);
        Host { device, outside: carrier.uplink_ip().unwrap() }
    }

    /// A router without NAT, with a block of its own behind it.
    fn public_router(&mut self, name: &str, firewall: Firewall) -> Router {
        self.blocks += 1;
        let block = Ipv4Net::new(Ipv4Addr::new(44, 10, self.blocks, 0), 24).unwrap();
        self.build(self.lab.add_router(name).nat(None).firewall(firewall).downstream_cidr(block))
    }

    fn build(&self, router: RouterBuilder) -> Router {
        self.runtime.block_on(router.build()).unwrap()
    }

    fn device(&self, name: &str, router: &Router) -> Device {
        self.runtime.block_on(self.lab.add_device(name).iface("eth0", router.id()).build()).unwrap()
    }
}

/// Address-dependent filtering (RFC 4787 §5): an address may send to an inside endpoint once that very
/// endpoint has sent to it. patchbay's own rule forgets the endpoint: whom any socket behind the NAT has
/// contacted may then send to all of them.
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
    let mut nft = Command::new(program("nft", "nftables"));
    nft.arg(rules);
    run(&Place::Router(router.clone()), nft).ok("nft");
}

impl Host {
    /// The address its interface has.
    pub(crate) fn ip(&self) -> Ipv4Addr {
        self.device.ip().unwrap()
    }

    pub(crate) fn at(&self, port: u16) -> SocketAddr {
        SocketAddr::new(IpAddr::V4(self.ip()), port)
    }

    pub(crate) fn place(&self) -> Place {
        Place::Inside(self.device.clone())
    }

    /// A UDP socket in its network, on a port of the system's choosing, usable from any thread.
    pub(crate) fn socket(&self) -> UdpSocket {
        let addr = self.at(0);
        self.device.run_sync(move || Ok(UdpSocket::bind(addr)?)).unwrap()
    }
}
