//! A home router that gives ports away: miniupnpd, as many real routers run it, in a router of a lab.

use std::fs;
use std::process::{Command, Stdio};
use std::time::Duration;

use patchbay::Router;
use tempfile::TempDir;

use super::net::{Host, ip};
use super::process::{Place, Running, program, run};
use super::wait_until;

/// How long the daemon may take to listen.
const START: Duration = Duration::from_secs(10);

/// In which protocols the daemon answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Speaks {
    All,
    /// PCP and, since the daemon cannot tell them apart, not NAT-PMP, by a filter on the version byte.
    Pcp,
    NatPmp,
    Upnp,
}

/// What the router does.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Nature {
    pub(crate) speaks: Speaks,
    /// What comes to a given port is let in.
    pub(crate) forwards: bool,
    /// The external address that it claims to have, where that is not its own.
    pub(crate) claims: Option<&'static str>,
}

impl Default for Nature {
    fn default() -> Self {
        Self { speaks: Speaks::All, forwards: true, claims: None }
    }
}

/// A daemon that gives ports of a home router away.
pub(crate) struct Gateway {
    place: Place,
    dir: TempDir,
    daemon: Option<Running>,
}

impl Gateway {
    /// Sets the router next to `host` up, and starts the daemon there.
    pub(crate) fn new(host: &Host, nature: Nature) -> Self {
        let router = host.home().clone();
        let place = Place::Router(router.clone());
        let (wan, lan) = interfaces(&router, &place);
        nft(&place, &tables(&wan, nature.forwards));
        if let Some(rule) = only(nature.speaks) {
            nft(&place, &rule);
        }
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("conf"), config(&wan, &lan, nature)).unwrap();
        let mut gateway = Self { place, dir, daemon: None };
        gateway.start();
        gateway
    }

    /// Starts the daemon, which must not run.
    pub(crate) fn start(&mut self) {
        let path = |name: &str| self.dir.path().join(name);
        let mut command = Command::new(program("miniupnpd", "miniupnpd-nftables"));
        command.arg("-d").arg("-f").arg(path("conf")).arg("-P").arg(path("pid"));
        command.stdin(Stdio::null());
        command.stdout(fs::File::create(path("out")).unwrap());
        command.stderr(fs::File::create(path("log")).unwrap());
        let mut daemon = Running::start(&self.place, command, path("log"));
        wait_until("miniupnpd listens", START, || {
            assert!(daemon.is_running(), "miniupnpd ended:\n{}", daemon.log());
            let mut ss = Command::new(program("ss", "iproute2"));
            ss.args(["-Hlnu"]);
            let listens = run(&self.place, ss).stdout;
            [":5351 ", ":1900 "].iter().any(|port| listens.contains(port)).then_some(())
        });
        self.daemon = Some(daemon);
    }

    /// Ends the daemon as a router that reboots does: what it has given away is forgotten.
    pub(crate) fn stop(&mut self) {
        let Some(mut daemon) = self.daemon.take() else { return };
        daemon.signal("TERM");
        assert!(daemon.wait(Duration::from_secs(10)).is_some(), "miniupnpd does not end");
        drop(daemon);
        // Its own rules are gone; flows that used them are not.
        let mut flush = Command::new(program("nft", "nftables"));
        flush.args(["flush", "chain", "inet", "miniupnpd", "prerouting"]);
        run(&self.place, flush).ok("nft flush");
    }

    /// Makes the daemon deaf: it runs, keeps what it gave away, and answers nothing any more.
    pub(crate) fn freeze(&mut self) {
        self.daemon.as_mut().expect("the daemon runs").signal("STOP");
    }

    /// The ports that are given away: lines of the kernel's rules.
    pub(crate) fn given(&self) -> Vec<String> {
        let mut list = Command::new(program("nft", "nftables"));
        list.args(["list", "chain", "inet", "miniupnpd", "prerouting"]);
        let rules = run(&self.place, list).ok("nft list");
        rules.lines().filter(|line| line.contains("dnat")).map(|line| line.trim().to_owned()).collect()
    }
}

/// The names of a router's interfaces, outside and inside.
fn interfaces(router: &Router, place: &Place) -> (String, String) {
    let named = |addr: String| {
        let list = ip(place, &["-o", "-4", "addr", "show"]);
        let line = list.lines().find(|line| line.contains(&format!("inet {addr}/")));
        line.and_then(|line| line.split_whitespace().nth(1))
            .unwrap_or_else(|| panic!("{addr}: {list}"))
            .to_owned()
    };
    (named(router.uplink_ip().unwrap().to_string()), named(router.downstream_gw().unwrap().to_string()))
}

fn nft(place: &Place, rules: &str) {
    let mut command = Command::new(program("nft", "nftables"));
    command.arg(rules);
    run(place, command).ok("nft");
}

/// The chains that the daemon fills, and whether the router's filter lets in what they redirect.
fn tables(wan: &str, forwards: bool) -> String {
    let verdict = if forwards { "accept" } else { "drop" };
    let accept = if forwards {
        // The NAT's own filter drops what nobody inside asked for.
        format!("insert rule ip filter forward iifname {wan} ct status dnat accept\n")
    } else {
        String::new()
    };
    format!(
        "table inet miniupnpd {{
            chain forward {{
                type filter hook forward priority -25; policy accept;
            }}
            chain prerouting {{
                type nat hook prerouting priority -100; policy accept;
            }}
            chain postrouting {{
                type nat hook postrouting priority 90; policy accept;
            }}
        }}
        table inet given {{
            chain forward {{
                type filter hook forward priority -30; policy accept;
                iifname {wan} ct state new ct status dnat {verdict}
            }}
        }}
        {accept}"
    )
}

/// PCP's and NAT-PMP's requests come to the same port, and differ in their first byte: 2 and 0.
fn only(speaks: Speaks) -> Option<String> {
    let other = match speaks {
        Speaks::Pcp => 0,
        Speaks::NatPmp => 2,
        Speaks::All | Speaks::Upnp => return None,
    };
    Some(format!(
        "table inet only {{
            chain input {{
                type filter hook input priority 0; policy accept;
                udp dport 5351 @th,64,8 {other} drop
            }}
        }}"
    ))
}

fn config(wan: &str, lan: &str, nature: Nature) -> String {
    let Nature { speaks, claims, .. } = nature;
    let claims = claims.map(|ip| format!("ext_ip={ip}\n")).unwrap_or_default();
    let yes = |on: bool| if on { "yes" } else { "no" };
    format!(
        "{claims}ext_ifname={wan}
listening_ip={lan}
http_port=5000
enable_natpmp={}
enable_upnp={}
secure_mode=yes
min_lifetime=10
max_lifetime=86400
notify_interval=60
clean_ruleset_interval=5
uuid=00000000-0000-4000-8000-000000000001
upnp_table_name=miniupnpd
upnp_nat_table_name=miniupnpd
upnp_forward_chain=forward
upnp_nat_chain=prerouting
upnp_nat_postrouting_chain=postrouting
allow 1024-65535 0.0.0.0/0 1024-65535
deny 0-65535 0.0.0.0/0 0-65535
",
        yes(speaks != Speaks::Upnp),
        yes(matches!(speaks, Speaks::All | Speaks::Upnp)),
    )
}
