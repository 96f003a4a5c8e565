//! What nodes that never answered are sent at most, whoever asks for it.
//!
//! Addresses come from others: a mediator that lies, or a seeker behind an honest one, can name anybody's. So checks
//! are counted for each address, and for each host (an IPv4 address, or an IPv6 /64), since a host has many
//! ports to name. A genuine answer proves that somebody there takes part, and clears both counts.

use core::net::{IpAddr, SocketAddr};
use core::time::Duration;

use crate::bounded::BoundedMap;
use crate::reflex::server::aggregate;
use crate::time::Time;

/// Checks to one address that never answered, in [`WINDOW`]: three attempts' worth, as plans are tried one
/// after the other, and a fourth for a change that comes right after them.
pub const PER_ADDRESS: u32 = 24;

/// Checks to all addresses of one host that never answered, in [`WINDOW`]. Twelve members behind one address may be
/// met at once, as behind a carrier's NAT; a host that answers nobody is left alone after that.
pub const PER_IP: u32 = 12 * PER_ADDRESS;

/// For how long they are counted.
pub const WINDOW: Duration = Duration::from_secs(60);

/// Addresses counted at a time, and hosts. Introductions are metered, so that in one window a single mediator can
/// hardly name more, and have one forgotten by that.
pub const MAX_ADDRESSES: usize = 4096;

#[derive(Clone, Copy, Debug)]
struct Spent {
    count: u32,
    since: Time,
}

/// Counts of checks.
#[derive(Debug)]
pub(super) struct Budget {
    addresses: BoundedMap<SocketAddr, Spent>,
    hosts: BoundedMap<IpAddr, Spent>,
}

impl Budget {
    pub(super) fn new() -> Self {
        Self { addresses: BoundedMap::new(MAX_ADDRESSES), hosts: BoundedMap::new(MAX_ADDRESSES) }
    }

    /// Counts one check to `to`; false if it must not be sent.
    pub(super) fn take(&mut self, now: Time, to: SocketAddr) -> bool {
        let host = aggregate(to.ip());
        let of_address = current(self.addresses.get(&to), now);
        let of_host = current(self.hosts.get(&host), now);
        if of_address.count >= PER_ADDRESS || of_host.count >= PER_IP {
            return false;
        }
        self.addresses.insert(to, Spent { count: of_address.count + 1, ..of_address });
        self.hosts.insert(host, Spent { count: of_host.count + 1, ..of_host });
        true
    }

    /// A genuine answer came from `addr`.
    pub(super) fn answered(&mut self, addr: SocketAddr) {
        self.addresses.remove(&addr);
        self.hosts.remove(&aggregate(addr.ip()));
    }

    /// How many addresses are counted.
    pub(super) fn len(&self) -> usize {
        self.addresses.len()
    }
}

/// The count of the window that `now` is in.
fn current(known: Option<&Spent>, now: Time) -> Spent {
    let in_window = known.copied().filter(|spent| now - spent.since < WINDOW);
    in_window.unwrap_or(Spent { count: 0, since: now })
}
