//! Socket addresses on the wire, and what kind of network an address belongs to.

use core::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use super::{Malformed, Reader, Writer};

/// Writes an address: family (4 or 6), IP, port.
pub fn write(out: &mut Writer, addr: SocketAddr) {
    match addr.ip() {
        IpAddr::V4(ip) => out.u8(4).bytes(&ip.octets()),
        IpAddr::V6(ip) => out.u8(6).bytes(&ip.octets()),
    }
    .u16(addr.port());
}

/// Reads an address. IPv4-mapped IPv6 addresses are refused, so that one address has one form.
pub fn read(from: &mut Reader<'_>) -> Result<SocketAddr, Malformed> {
    let ip = match from.u8()? {
        4 => IpAddr::V4(Ipv4Addr::from(from.array::<4>()?)),
        6 => {
            let ip = Ipv6Addr::from(from.array::<16>()?);
            if ip.to_ipv4_mapped().is_some() {
                return Err(Malformed::Invalid("an IPv4-mapped address"));
            }
            IpAddr::V6(ip)
        }
        _ => return Err(Malformed::Invalid("an address family")),
    };
    Ok(SocketAddr::new(ip, from.u16()?))
}

/// How far an address reaches, narrowest first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Scope {
    /// Not an address anything can be sent to.
    Unusable,
    /// This machine.
    Loopback,
    /// One link.
    LinkLocal,
    /// A site or an operator: RFC 1918, RFC 4193, and the shared space of RFC 6598.
    Private,
    /// Everywhere.
    Global,
}

/// The scope of `ip`. Documentation and benchmarking ranges count as global: they appear only in labs,
/// where they play that part.
#[must_use]
pub fn scope(ip: IpAddr) -> Scope {
    match ip {
        IpAddr::V4(ip) => {
            let [a, b, ..] = ip.octets();
            if ip.is_unspecified() || ip.is_multicast() || ip.is_broadcast() || a == 0 || a >= 240 {
                Scope::Unusable
            } else if ip.is_loopback() {
                Scope::Loopback
            } else if ip.is_link_local() {
                Scope::LinkLocal
            } else if ip.is_private() || (a == 100 && (64..128).contains(&b)) {
                Scope::Private
            } else {
                Scope::Global
            }
        }
        IpAddr::V6(ip) => {
            if let Some(v4) = ip.to_ipv4_mapped() {
                return scope(IpAddr::V4(v4));
            }
            if ip.is_unspecified() || ip.is_multicast() {
                Scope::Unusable
            } else if ip.is_loopback() {
                Scope::Loopback
            } else if ip.is_unicast_link_local() {
                Scope::LinkLocal
            } else if ip.is_unique_local() {
                Scope::Private
            } else {
                Scope::Global
            }
        }
    }
}
