//! Which router is the next hop of this host, and at which of its addresses does that one know it?
//!
//! Linux tells the routing table as text (proc(5)). Elsewhere the router is not known, and found by multicast only.

use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, UdpSocket};

/// Longest table read, in bytes: some 30,000 routes. The default ones of a host with more are found by chance.
const MAX_TABLE: u64 = 4 << 20;

/// `RTF_UP` and `RTF_GATEWAY` (route(8)): in use, and by way of another machine.
const USED: u32 = 0x1 | 0x2;

/// Whether this system tells its default gateway: no gateway then means that there is none.
pub(super) const TELLS_GATEWAY: bool = cfg!(any(target_os = "linux", target_os = "android"));

/// The IPv4 router of the default route, if there is one.
pub(super) fn default_gateway() -> Option<Ipv4Addr> {
    if !TELLS_GATEWAY {
        return None;
    }
    // The table of this thread's network namespace, which may not be the process's.
    let table = io::read_to_string(io::Read::take(
        std::fs::File::open("/proc/thread-self/net/route").ok()?,
        MAX_TABLE,
    ));
    in_table(&table.ok()?)
}

/// The default gateway with the lowest metric in the text of `/proc/net/route`.
fn in_table(table: &str) -> Option<Ipv4Addr> {
    let default = |line: &str| -> Option<(u32, Ipv4Addr)> {
        let fields: Vec<&str> = line.split_whitespace().collect();
        let [_, destination, gateway, flags, _, _, metric, mask, ..] = fields[..] else { return None };
        let hex = |text| u32::from_str_radix(text, 16).ok();
        let is_default = hex(destination)? == 0 && hex(mask)? == 0 && hex(flags)? & USED == USED;
        // In the byte order of the machine, as it lies in memory.
        let gateway = Ipv4Addr::from(hex(gateway)?.to_ne_bytes());
        (is_default && !gateway.is_unspecified()).then_some((metric.parse().ok()?, gateway))
    };
    table.lines().skip(1).filter_map(default).min_by_key(|(metric, _)| *metric).map(|(_, gateway)| gateway)
}

/// The address of this host that packets to `gateway` bear. Nothing is sent.
pub(super) fn address_towards(gateway: Ipv4Addr) -> io::Result<Ipv4Addr> {
    let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0))?;
    socket.connect(SocketAddr::from((gateway, 5351)))?;
    match socket.local_addr()?.ip() {
        IpAddr::V4(ip) => Ok(ip),
        IpAddr::V6(_) => Err(io::ErrorKind::AddrNotAvailable.into()),
    }
}

#[cfg(all(test, target_endian = "little"))]
mod tests {
    use super::*;

    const HEAD: &str =
        "Iface\tDestination\tGateway \tFlags\tRefCnt\tUse\tMetric\tMask\t\tMTU\tWindow\tIRTT\n";

    #[test]
    fn the_default_route_with_the_lowest_metric_leads_to_the_gateway() {
        let table = format!(
            "{HEAD}wlan0\t00000000\t0101A8C0\t0003\t0\t0\t600\t00000000\t0\t0\t0\n\
             eth0\t00000000\t010200C0\t0003\t0\t0\t100\t00000000\t0\t0\t0\n\
             eth0\t000200C0\t00000000\t0001\t0\t0\t100\t00FFFFFF\t0\t0\t0\n"
        );
        assert_eq!(in_table(&table), Some(Ipv4Addr::new(192, 0, 2, 1)));
    }

    #[test]
    fn routes_without_a_gateway_or_not_in_use_or_to_a_half_of_everything_are_none() {
        for line in [
            "tun0\t00000000\t00000000\t0001\t0\t0\t0\t00000000\t0\t0\t0",
            "eth0\t00000000\t010200C0\t0002\t0\t0\t0\t00000000\t0\t0\t0",
            "tun0\t00000000\t0100080A\t0003\t0\t0\t0\t00000080\t0\t0\t0",
            "eth0\t00000000\t010200C0",
            "",
        ] {
            assert_eq!(in_table(&format!("{HEAD}{line}\n")), None, "{line}");
        }
    }

    #[test]
    fn the_address_towards_a_gateway_is_one_of_this_host() {
        assert_eq!(address_towards(Ipv4Addr::LOCALHOST).unwrap(), Ipv4Addr::LOCALHOST);
    }

    proptest::proptest! {
        #[test]
        fn any_text_is_read_without_a_panic(text in "[ \t\n0-9A-Fa-fxé]{0,400}") {
            let _ = in_table(&text);
        }
    }
}
