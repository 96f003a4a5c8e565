//! The kernel's messages about links, addresses and routes, reduced to what matters here (rtnetlink(7)).
//!
//! Three fixed headers and eight attributes are all that is looked at; whatever else a kernel says, now or in later
//! versions, is passed over. Numbers are in the byte order of the machine.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

const NEW_LINK: u16 = 16;
const DEL_LINK: u16 = 17;
const NEW_ADDR: u16 = 20;
const DEL_ADDR: u16 = 21;
const NEW_ROUTE: u16 = 24;
const DEL_ROUTE: u16 = 25;

/// `NLM_F_REPLACE`: what had the same key before is gone, and no message says so.
const REPLACES: u16 = 0x100;

const INET: u8 = 2;
const INET6: u8 = 10;

/// `IFF_UP | IFF_RUNNING`: switched on, and it carries packets.
const RUNNING: u32 = 0x1 | 0x40;

/// `IFA_F_TENTATIVE | IFA_F_DADFAILED`: nobody may send from it yet, or ever.
const UNUSABLE: u32 = 0x40 | 0x08;

const IFA_ADDRESS: u16 = 1;
const IFA_LOCAL: u16 = 2;
const IFA_FLAGS: u16 = 8;

const RTA_OIF: u16 = 4;
const RTA_GATEWAY: u16 = 5;
const RTA_PRIORITY: u16 = 6;
const RTA_MULTIPATH: u16 = 9;
const RTA_TABLE: u16 = 15;

/// The table of a host's own addresses, which addresses tell about already.
const TABLE_LOCAL: u8 = 255;
/// Written by the kernel itself as it takes up an address.
const PROTOCOL_KERNEL: u8 = 2;
/// A copy of a route for one destination, with what was learnt on it.
const CLONED: u32 = 0x200;

/// Routes to at least half of a family's addresses are default routes: some VPNs set two halves, so that the
/// default route proper can stay.
const HALF: u8 = 1;

/// What one message says.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Notice {
    /// An interface carries packets now, or does not.
    Link { index: u32, running: bool },
    /// A host address is there to be used, or is not.
    Address { index: u32, ip: IpAddr, usable: bool },
    /// A default route came or went.
    Default(DefaultRoute),
    /// Another route, to more than one host and not of an interface's own network, came or went.
    Route,
}

#[derive(Debug, PartialEq, Eq)]
pub(super) struct DefaultRoute {
    pub(super) v6: bool,
    /// What routes with the same destination replace each other by: table and priority, as attributes.
    pub(super) rank: Vec<u8>,
    /// Where it leads: interface and gateway, as attributes.
    pub(super) to: Vec<u8>,
    pub(super) added: bool,
    /// It took the place of those of the same rank.
    pub(super) replaces: bool,
}

/// The messages of one datagram from the kernel. What is cut off or of no interest is left out.
pub(super) fn notices(mut datagram: &[u8]) -> Vec<Notice> {
    let mut notices = Vec::new();
    while let Some(length) = u32_at(datagram, 0) {
        let Some(message) = usize::try_from(length).ok().and_then(|length| datagram.get(..length)) else {
            break;
        };
        let (Some(kind), Some(flags), Some(body)) =
            (u16_at(message, 4), u16_at(message, 6), message.get(16..))
        else {
            break;
        };
        notices.extend(match kind {
            NEW_LINK | DEL_LINK => link(body, kind == NEW_LINK),
            NEW_ADDR | DEL_ADDR => address(body, kind == NEW_ADDR),
            NEW_ROUTE | DEL_ROUTE => route(body, kind == NEW_ROUTE, flags & REPLACES != 0),
            _ => None,
        });
        datagram = datagram.get(message.len().next_multiple_of(4)..).unwrap_or_default();
    }
    notices
}

/// `ifinfomsg`: family, padding, type (2), index (4), flags (4), changed flags (4).
fn link(body: &[u8], there: bool) -> Option<Notice> {
    // Bridges report their ports in messages of a family of their own.
    (*body.first()? == 0).then_some(())?;
    let running = there && u32_at(body, 8)? & RUNNING == RUNNING;
    Some(Notice::Link { index: u32_at(body, 4)?, running })
}

/// `ifaddrmsg`: family, prefix length, flags, scope, index (4).
fn address(body: &[u8], there: bool) -> Option<Notice> {
    let index = u32_at(body, 4)?;
    let mut flags = u32::from(*body.get(2)?);
    let (mut own, mut either) = (None, None);
    for (kind, value) in attributes(body.get(8..)?) {
        match kind {
            // On a line between two hosts this is the other one's, and `IFA_LOCAL` is there too.
            IFA_ADDRESS => either = ip(value),
            IFA_LOCAL => own = ip(value),
            IFA_FLAGS => flags = u32_at(value, 0)?,
            _ => {}
        }
    }
    Some(Notice::Address { index, ip: own.or(either)?, usable: there && flags & UNUSABLE == 0 })
}

/// `rtmsg`: family, length of the destination's prefix, of the source's, TOS, table, protocol, scope, type, flags (4).
fn route(body: &[u8], added: bool, replaces: bool) -> Option<Notice> {
    let [family, prefix, _, _, table, protocol, _, _] = *body.first_chunk()?;
    let bits = match family {
        INET => 32,
        INET6 => 128,
        _ => return None,
    };
    if table == TABLE_LOCAL || u32_at(body, 8)? & CLONED != 0 {
        return None;
    }
    if prefix > HALF {
        return (prefix < bits && protocol != PROTOCOL_KERNEL).then_some(Notice::Route);
    }
    let mut route =
        DefaultRoute { v6: family == INET6, rank: vec![prefix, table], to: Vec::new(), added, replaces };
    for (kind, value) in attributes(body.get(12..)?) {
        let part = match kind {
            RTA_TABLE | RTA_PRIORITY => &mut route.rank,
            RTA_OIF | RTA_GATEWAY | RTA_MULTIPATH => &mut route.to,
            _ => continue,
        };
        part.extend(kind.to_ne_bytes());
        part.extend(value);
    }
    Some(Notice::Default(route))
}

/// Each attribute has its length, its kind, and its value, padded to four bytes.
fn attributes(mut bytes: &[u8]) -> impl Iterator<Item = (u16, &[u8])> {
    std::iter::from_fn(move || {
        let length = usize::from(u16_at(bytes, 0)?);
        let kind = u16_at(bytes, 2)?;
        let value = bytes.get(4..length)?;
        bytes = bytes.get(length.next_multiple_of(4)..).unwrap_or_default();
        Some((kind, value))
    })
}

fn ip(value: &[u8]) -> Option<IpAddr> {
    let v4 = <[u8; 4]>::try_from(value).map(|bytes| IpAddr::V4(Ipv4Addr::from(bytes)));
    let v6 = || <[u8; 16]>::try_from(value).map(|bytes| IpAddr::V6(Ipv6Addr::from(bytes)));
    v4.or_else(|_| v6()).ok()
}

fn u16_at(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_ne_bytes(*bytes.get(at..)?.first_chunk()?))
}

fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_ne_bytes(*bytes.get(at..)?.first_chunk()?))
}
