//! When is the node told that its network changed?
//!
//! A [`Network`] tells each [`Change`] as it sees it. They come in bursts: a new address brings its routes, a
//! container its interfaces. So the node is told once for what happened within [`GATHER`], and:
//!
//! - an address of a family in use, a default route, a sleep, or what may be any of these: at once, eight times in
//!   a row, and once a second from then on ([`URGENT`], [`EVERY`]);
//! - anything else: once a second at most, the first time at once.
//!
//! Whatever goes on, the node hears of a change within about a second. Where nothing tells of changes, the driver
//! compares addresses once a second.

use std::collections::BTreeSet;
use std::fmt;
use std::time::Duration;

use futures_util::StreamExt as _;
use futures_util::stream::BoxStream;
use tokio::time::{Instant, sleep_until};

use super::Network;

/// What follows a change within this is told together with it: longer than a kernel takes for the parts of one
/// change, and short beside the round trips that the node's answer takes.
const GATHER: Duration = Duration::from_millis(50);

/// Least time between two tellings of what is not urgent, and what one of the urgent ones costs.
///
/// Being told, a node probes all its peers: an interface that flaps must not make it do that all the time.
const EVERY: Duration = Duration::from_secs(1);

/// Urgent tellings in a row.
///
/// Enough for the steps in which a host changes its network (link, address, second family, routes), each told at
/// once.
const URGENT: u32 = 8;

/// Something about the host's network that is different now.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub enum Change {
    /// An address came or went; also one that came back as it was.
    Address {
        /// Whether it is of IPv6.
        v6: bool,
    },
    /// The default route came, went, or leads elsewhere.
    DefaultRoute {
        /// Whether it is that of IPv6.
        v6: bool,
    },
    /// An interface with an address began or ceased to carry packets.
    Link,
    /// Another route.
    Route,
    /// The host slept, or the process was stopped, for some seconds.
    Slept,
    /// There was more to tell than was heard.
    Missed,
    /// Something, and it is not known what: it may be any of these.
    Unknown,
}

/// Changes, as they happen. When it ends, nothing tells of changes any more.
pub type Changes = BoxStream<'static, Change>;

impl fmt::Display for Change {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Address { v6: false } => "IPv4 address",
            Self::Address { v6: true } => "IPv6 address",
            Self::DefaultRoute { v6: false } => "IPv4 default route",
            Self::DefaultRoute { v6: true } => "IPv6 default route",
            Self::Link => "link",
            Self::Route => "route",
            Self::Slept => "slept",
            Self::Missed => "missed",
            Self::Unknown => "unknown",
        })
    }
}

/// Different kinds of changes that happened together.
pub(crate) type Kinds = BTreeSet<Change>;

/// The kinds, for the log.
pub(crate) fn words(kinds: &Kinds) -> String {
    kinds.iter().map(Change::to_string).collect::<Vec<_>>().join(", ")
}

/// Waits for changes of a network, and gathers them.
pub(crate) struct Watch {
    changes: Option<Changes>,
    pace: Pace,
}

impl Watch {
    /// Watches `network` for a node that uses IPv4, IPv6, or both.
    pub(crate) fn new(network: &dyn Network, used: [bool; 2]) -> Self {
        let changes = network.changes();
        if changes.is_none() {
            tracing::info!("this network does not tell of changes: its addresses are compared once a second");
        }
        Self { changes, pace: Pace { used, ..Pace::default() } }
    }

    /// Whether changes are told. If not, [`Self::changed`] waits for ever.
    pub(crate) const fn is_told(&self) -> bool {
        self.changes.is_some()
    }

    /// Waits until the node has to be told, and of what. Nothing is lost when this is dropped before.
    pub(crate) async fn changed(&mut self) -> Kinds {
        loop {
            let due = self.pace.due();
            let time = async {
                match due {
                    Some(at) => sleep_until(at).await,
                    None => std::future::pending().await,
                }
            };
            let change = async {
                match &mut self.changes {
                    Some(changes) => changes.next().await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                biased;
                () = time => return self.pace.take(Instant::now()),
                change = change => match change {
                    Some(change) => self.pace.note(Instant::now(), change),
                    None => {
                        tracing::warn!("changes of the network are no longer told: addresses are compared once a second");
                        self.changes = None;
                    }
                },
            }
        }
    }
}

/// When to tell of what was seen.
#[derive(Debug, Default)]
struct Pace {
    /// The families in use: IPv4, IPv6.
    used: [bool; 2],
    seen: Kinds,
    /// When the first of what was seen happened.
    since: Option<Instant>,
    told: Option<Instant>,
    /// Until when urgent tellings are paid for.
    paid: Option<Instant>,
}

impl Pace {
    fn note(&mut self, now: Instant, change: Change) {
        if let Change::Address { v6 } | Change::DefaultRoute { v6 } = change
            && !self.used[usize::from(v6)]
        {
            return;
        }
        self.seen.insert(change);
        self.since.get_or_insert(now);
    }

    /// When to tell.
    fn due(&self) -> Option<Instant> {
        let gathered = self.since? + GATHER;
        let rested = if self.seen.iter().any(is_urgent) {
            // `URGENT` of them may be owed.
            self.paid.and_then(|paid| paid.checked_sub(EVERY * (URGENT - 1)))
        } else {
            self.told.map(|told| told + EVERY)
        };
        Some(rested.map_or(gathered, |rested| rested.max(gathered)))
    }

    fn take(&mut self, now: Instant) -> Kinds {
        if self.seen.iter().any(is_urgent) {
            self.paid = Some(self.paid.map_or(now, |paid| paid.max(now)) + EVERY);
        }
        self.told = Some(now);
        self.since = None;
        std::mem::take(&mut self.seen)
    }
}

const fn is_urgent(change: &Change) -> bool {
    match change {
        Change::Address { .. } | Change::DefaultRoute { .. } | Change::Slept | Change::Unknown => true,
        Change::Link | Change::Route | Change::Missed => false,
    }
}

#[cfg(test)]
#[path = "watch_tests.rs"]
mod tests;
