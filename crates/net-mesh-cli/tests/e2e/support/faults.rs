//! What can happen to a network under running nodes, on real kernels.

use std::fs;
use std::io;
use std::net::IpAddr;
use std::process::Command;

use patchbay::{Nat, Router};

use super::line::Quality;
use super::net::{Host, Net, ip};
use super::process::{Place, program, run};

/// The table of rules that stand for a fault.
const TABLE: &str = "inet fault";

/// Which packets of those between two hosts are dropped without a word.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Hole {
    BothWays,
    There,
    Back,
    /// Both ways, those with more than 600 bytes of UDP payload.
    Large,
}

/// Drops packets between two hosts where the first one's provider would carry them.
pub(crate) fn dig(hole: Hole, from: &Host, to: &Host) {
    let (here, there) = (from.outside, to.outside);
    let rule = |from: IpAddr, to: IpAddr, what: &str| format!("ip saddr {from} ip daddr {to} {what} drop");
    // 600 bytes and the headers of UDP and IPv4.
    let large = "meta length > 628";
    let rules = match hole {
        Hole::BothWays => vec![rule(here, there, ""), rule(there, here, "")],
        Hole::There => vec![rule(here, there, "")],
        Hole::Back => vec![rule(there, here, "")],
        Hole::Large => vec![rule(here, there, large), rule(there, here, large)],
    };
    let chain = format!(
        "table {TABLE} {{\nchain forward {{\ntype filter hook forward priority -20; policy accept\n{}\n}}\n}}",
        rules.join("\n")
    );
    nft(from.provider(), &chain).ok("nft");
}

/// Fills it in.
pub(crate) fn fill(from: &Host) {
    nft(from.provider(), &format!("delete table {TABLE}")).ok("nft");
}

fn nft(router: &Router, rules: &str) -> super::process::Done {
    let mut nft = Command::new(program("nft", "nftables"));
    nft.arg(rules);
    run(&Place::Router(router.clone()), nft)
}

impl Host {
    /// Takes an interface down, or up again with the default route that it had.
    pub(crate) fn plug(&self, interface: usize, up: bool) {
        let name = format!("eth{interface}");
        ip(&self.place(), &["link", "set", &name, if up { "up" } else { "down" }]);
        if up {
            self.route_over(interface);
        }
    }

    /// Moves the default route to an interface.
    pub(crate) fn route_over(&self, interface: usize) {
        let (gateway, name) = (self.gateway(interface), format!("eth{interface}"));
        ip(&self.place(), &["route", "replace", "default", "via", &gateway, "dev", &name]);
    }

    /// Makes its NAT forget all mappings.
    pub(crate) fn flush_nat(&self) {
        self.home().run_sync(|| Ok(flush_connections()?)).unwrap();
    }
}

impl Net {
    /// Puts another kind of NAT before a host, in place of the one it has, which forgets all mappings.
    pub(crate) fn change_nat(&self, host: &Host, nat: Nat) {
        self.run(host.home().set_nat(nat)).unwrap();
        host.flush_nat();
    }

    /// A host with two uplinks, each a home NAT of its own on a line of this quality. The first is in use.
    pub(crate) fn host_with_two_uplinks(&mut self, name: &str, quality: Quality) -> Host {
        self.two_uplinks(name, Nat::Moderate, quality)
    }
}

/// Empties the table of connections of the current network namespace: a message of type
/// `IPCTNL_MSG_CT_DELETE` that names none (`nfnetlink_conntrack.h`).
#[allow(unsafe_code, reason = "netlink sockets are not in std")]
fn flush_connections() -> io::Result<()> {
    const DELETE: u16 = 1 << 8 | 2;
    const REQUEST_AND_ANSWER: u16 = 1 | 4;
    let mut message = Vec::new();
    message.extend_from_slice(&20u32.to_ne_bytes());
    message.extend_from_slice(&DELETE.to_ne_bytes());
    message.extend_from_slice(&REQUEST_AND_ANSWER.to_ne_bytes());
    message.extend_from_slice(&1u32.to_ne_bytes());
    message.extend_from_slice(&[0; 8]);
    let mut answer = [0u8; 64];
    // SAFETY: plain system calls with buffers that live as long as they take; the descriptor is closed.
    let received = unsafe {
        let socket =
            libc::socket(libc::AF_NETLINK, libc::SOCK_RAW | libc::SOCK_CLOEXEC, libc::NETLINK_NETFILTER);
        if socket < 0 {
            return Err(io::Error::last_os_error());
        }
        let sent = libc::send(socket, message.as_ptr().cast(), message.len(), 0);
        let received =
            if sent < 0 { sent } else { libc::recv(socket, answer.as_mut_ptr().cast(), answer.len(), 0) };
        let error = io::Error::last_os_error();
        libc::close(socket);
        if received < 0 {
            return Err(error);
        }
        received
    };
    let code = answer.get(16..20).and_then(|code| code.try_into().ok()).map(i32::from_ne_bytes);
    match code {
        Some(0) if received >= 20 => Ok(()),
        Some(code) => Err(io::Error::from_raw_os_error(-code)),
        None => Err(io::Error::other("no answer")),
    }
}

/// What the kernel says of the interfaces of a host, for failure messages.
pub(crate) fn describe(host: &Host) -> String {
    let mut text = ip(&host.place(), &["-4", "addr"]);
    text += &ip(&host.place(), &["route"]);
    text + &fs::read_to_string("/proc/loadavg").unwrap_or_default()
}
