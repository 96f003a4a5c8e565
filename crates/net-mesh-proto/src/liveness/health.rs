//! How a route is doing, and on what evidence.

use core::fmt;
use core::time::Duration;

/// How a route to a peer is doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Health {
    /// What is sent arrives, as far as one can tell.
    Healthy,
    /// Something that should have come has not: packets go another way as well, if there is one.
    Suspect,
    /// Nothing has come for seconds, however often it was asked for: nothing is sent this way but probes.
    Failed,
}

impl Health {
    /// A name for logs and metrics.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Healthy => "healthy",
            Self::Suspect => "suspect",
            Self::Failed => "failed",
        }
    }
}

impl fmt::Display for Health {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

/// What made a route change its health.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Cause {
    /// Much was sent, and nothing came back in the time that answers take.
    Silence,
    /// Probes were not answered in the time that answers take.
    Unanswered,
    /// Probes are answered, but of what was sent between them nothing arrived.
    Undelivered,
    /// Answers take many times as long as they should.
    Latency,
    /// The peer says that it is not well.
    PeerDoubts,
    /// The host's network changed.
    NetworkChanged,
    /// The system refuses to send.
    SendFailed,
    /// A NAT is about to replace the mapping, as it did before.
    MappingEnds,
    /// Probes were answered for long enough.
    Answered,
}

impl Cause {
    /// All causes.
    pub const ALL: [Self; 9] = [
        Self::Silence,
        Self::Unanswered,
        Self::Undelivered,
        Self::Latency,
        Self::PeerDoubts,
        Self::NetworkChanged,
        Self::SendFailed,
        Self::MappingEnds,
        Self::Answered,
    ];

    /// A name for logs and metrics.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Silence => "silence",
            Self::Unanswered => "unanswered",
            Self::Undelivered => "undelivered",
            Self::Latency => "latency",
            Self::PeerDoubts => "peer_doubts",
            Self::NetworkChanged => "network_changed",
            Self::SendFailed => "send_failed",
            Self::MappingEnds => "mapping_ends",
            Self::Answered => "answered",
        }
    }
}

impl fmt::Display for Cause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

/// What is known of a route when its health changes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Evidence {
    /// What decided.
    pub cause: Cause,
    /// For how long nothing had been heard.
    pub silent: Duration,
    /// Probes in a row that were not answered.
    pub unanswered: u32,
    /// Share of what was sent lately that did not arrive, in parts of a thousand.
    pub loss: u16,
    /// The smoothed round-trip time, once measured.
    pub rtt: Option<Duration>,
}

/// What is wrong with the network between this node and a peer, where it has a name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Issue {
    /// A NAT forgets an idle mapping long before the two minutes of RFC 4787 §4.3.
    MappingExpiresEarly,
    /// A NAT replaces a mapping after some time although it is used.
    MappingReplaced,
    /// What is sent slowly arrives, of what is sent fast much is lost.
    Throttled,
    /// Small packets arrive, large ones do not.
    LargePacketsLost,
}

impl Issue {
    /// All issues.
    pub const ALL: [Self; 4] =
        [Self::MappingExpiresEarly, Self::MappingReplaced, Self::Throttled, Self::LargePacketsLost];

    /// A name for logs and metrics.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::MappingExpiresEarly => "mapping_expires_early",
            Self::MappingReplaced => "mapping_replaced",
            Self::Throttled => "throttled",
            Self::LargePacketsLost => "large_packets_lost",
        }
    }
}

impl fmt::Display for Issue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}
