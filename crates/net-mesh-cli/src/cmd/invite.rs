//! `invite`: the ticket by which others join.

use std::net::{IpAddr, SocketAddr};

use anyhow::bail;
use clap::Args;
use net_mesh::Ticket;

use super::Misused;
use crate::admin::client::Client;
use crate::home::{Home, Material};
use crate::json::StatusJson;
use crate::{stdout, text};

/// Addresses in a ticket: a few, because it is pasted by hand, and more than one, because one may be down.
const MAX_ADDRS: usize = 8;

/// Print a ticket for the mesh, on one line
///
/// The ticket names addresses to start from: those given, else those at which others see the running node, and those of members
/// it has met.
#[derive(Debug, Args)]
pub(super) struct Invite {
    /// An address at which others can reach this node
    #[arg(long, value_name = "HOST:PORT", value_parser = text::parse_reachable)]
    addr: Vec<String>,
}

impl Invite {
    pub(super) fn run(mut self, home: &Home) -> anyhow::Result<()> {
        self.addr.dedup();
        if self.addr.len() > MAX_ADDRS {
            let why = format!(
                "a ticket names at most {MAX_ADDRS} addresses; who joins learns the others from them"
            );
            return Err(Misused::new("invite", why).into());
        }
        let material = home.material()?;
        let mesh = material.identity()?.mesh_id();
        let addrs = if self.addr.is_empty() { own_addrs(home)? } else { self.addr };
        let secret = match material {
            Material::Secret { secret, .. } => {
                eprintln!("whoever has this ticket can join the mesh: hand it over in private");
                Some(secret)
            }
            Material::Pki { .. } => None,
        };
        stdout::line(&Ticket { mesh, secret, addrs }.to_string())
    }
}

fn own_addrs(home: &Home) -> anyhow::Result<Vec<String>> {
    let status = match super::block_on(Client::new(home).status()) {
        Ok(status) => status,
        Err(error) => bail!("{error:#}; or give an address of this node with --addr HOST:PORT"),
    };
    let mut addrs = reachable(&status);
    let members = home.remembered().into_iter().filter(|addr| is_global(addr.ip()));
    for addr in members {
        if !addrs.contains(&addr) {
            addrs.push(addr);
        }
    }
    if addrs.is_empty() {
        bail!(
            "no address is known at which others can reach this node{}: give one with --addr{}",
            if admits_strangers(&status) { "" } else { " through its NAT" },
            example(&status)
        );
    }
    addrs.truncate(MAX_ADDRS);
    Ok(addrs.iter().map(ToString::to_string).collect())
}

/// Whether a stranger's packet may reach the node at all, as far as it knows.
fn admits_strangers(status: &StatusJson) -> bool {
    matches!(status.nat.class.as_str(), "direct" | "full-cone" | "unknown")
}

/// The addresses of the node that may be reached from anywhere.
fn reachable(status: &StatusJson) -> Vec<SocketAddr> {
    // By a port mapping alone, the other addresses are the NAT's.
    if !admits_strangers(status) || status.nat.class_without_mapping.is_some() {
        let opened = status.nat.open_port.as_ref().map(|open| open.addr);
        return status.port_mapping.proven().or(opened).into_iter().collect();
    }
    let mapped = status.port_mapping.proven();
    let all = mapped.iter().chain(&status.reflexive).chain(&status.listen);
    let mut addrs: Vec<SocketAddr> = Vec::new();
    for addr in all {
        if is_global(addr.ip()) && !addrs.contains(addr) {
            addrs.push(*addr);
        }
    }
    addrs
}

fn example(status: &StatusJson) -> String {
    let local = status.listen.iter().find(|addr| !addr.ip().is_unspecified() && !addr.ip().is_loopback());
    let port = status.listen.first().map(SocketAddr::port);
    match (local, port) {
        (Some(local), _) => format!(", for instance --addr {local} for nodes in the same network"),
        (None, Some(port)) => format!(" HOST:{port}, with a host that others can reach"),
        (None, None) => " HOST:PORT".into(),
    }
}

/// Whether an address means the same host everywhere: not private (RFC 1918), shared (RFC 6598),
/// link-local, loopback, unique local (RFC 4193), unspecified or multicast.
fn is_global(ip: IpAddr) -> bool {
    match ip {
        IpAddr::V4(ip) => {
            let [a, b, ..] = ip.octets();
            let shared = a == 100 && b & 0xc0 == 64;
            !(a == 0
                || shared
                || ip.is_private()
                || ip.is_loopback()
                || ip.is_link_local()
                || ip.is_multicast()
                || ip.is_broadcast())
        }
        IpAddr::V6(ip) => {
            !(ip.is_unspecified()
                || ip.is_loopback()
                || ip.is_multicast()
                || ip.is_unique_local()
                || ip.is_unicast_link_local())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_addresses_that_mean_the_same_everywhere_go_into_a_ticket() {
        for ip in ["203.0.113.7", "100.128.0.1", "198.18.0.1", "2001:db8::1"] {
            assert!(is_global(ip.parse().unwrap()), "{ip}");
        }
        let local = [
            "0.0.0.0",
            "10.1.2.3",
            "100.64.0.1",
            "127.0.0.1",
            "169.254.1.1",
            "172.16.0.1",
            "192.168.1.1",
            "224.0.0.1",
            "255.255.255.255",
            "::",
            "::1",
            "fd00::1",
            "fe80::1",
            "ff02::1",
        ];
        for ip in local {
            assert!(!is_global(ip.parse().unwrap()), "{ip}");
        }
    }
}
