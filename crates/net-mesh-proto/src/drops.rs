//! Nothing vanishes unnamed: the reasons for which an input is discarded, and their counts.

macro_rules! drop_reasons {
    ($($(#[doc = $doc:literal])+ $variant:ident => $name:literal,)+) => {
        /// Why a datagram or a message was discarded.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        #[non_exhaustive]
        pub enum DropReason { $($(#[doc = $doc])+ $variant,)+ }

        impl DropReason {
            /// Every reason, in the order of their counters.
            pub const ALL: &'static [Self] = &[$(Self::$variant,)+];

            /// The name used in logs, status and metrics.
            #[must_use]
            pub const fn name(self) -> &'static str {
                match self { $(Self::$variant => $name,)+ }
            }
        }
    };
}

drop_reasons! {
    /// The datagram was empty.
    Empty => "empty",
    /// The first byte belongs to none of the protocols on the socket (RFC 9443).
    UnknownFirstByte => "unknown-first-byte",
    /// A frame of ours of a kind that this version does not know.
    UnknownFrame => "unknown-frame",
    /// A QUIC packet from an address that no session uses, and that does not start one.
    UnknownSource => "unknown-source",
    /// A QUIC Initial shorter than the 1200 bytes RFC 9000 §14.1 requires.
    ShortInitial => "short-initial",
    /// A new session was refused because too many are being set up.
    TooManyHandshakes => "too-many-handshakes",
    /// Not a well-formed STUN message (RFC 8489 §5), or without the magic cookie.
    MalformedStun => "malformed-stun",
    /// A STUN message of a method or class that a node does not answer.
    UnsupportedStun => "unsupported-stun",
    /// A STUN request beyond its source's rate.
    RateLimited => "rate-limited",
    /// A STUN response that answers nothing we asked, or comes from elsewhere.
    UnknownTransaction => "unknown-transaction",
    /// A probe or a request to probe that nobody authorised, or no longer.
    UnknownToken => "unknown-token",
    /// A relayed datagram whose label is not known, has expired, or belongs to another neighbour.
    UnknownLabel => "unknown-label",
    /// A relayed datagram beyond what is carried for its neighbour.
    RelayLimit => "relay-limit",
    /// A frame of ours that does not parse.
    MalformedFrame => "malformed-frame",
    /// A frame or a check whose authentication code is wrong.
    BadAuthentication => "bad-authentication",
    /// A request to relay or to introduce that was refused.
    Refused => "refused",
    /// A control message that does not parse.
    MalformedControl => "malformed-control",
    /// A control message of a kind that this version does not know.
    UnknownControl => "unknown-control",
    /// A control message on a connection that is not, or no longer, in use.
    StaleConnection => "stale-connection",
    /// A record that is not signed by the node it speaks of, or speaks for another mesh.
    BadRecord => "bad-record",
    /// A record no newer than the one known.
    OldRecord => "old-record",
    /// A table was full and its rule evicted or refused an entry.
    TableFull => "table-full",
    /// The queue towards the machines was full.
    QueueFull => "queue-full",
    /// The socket would not take the datagram at that moment.
    SendBufferFull => "send-buffer-full",
    /// The operating system refused to send the datagram.
    SendFailed => "send-failed",
}

/// A counter per [`DropReason`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DropCounts([u64; DropReason::ALL.len()]);

impl Default for DropCounts {
    fn default() -> Self {
        Self([0; DropReason::ALL.len()])
    }
}

impl DropCounts {
    /// Counts one drop.
    pub fn count(&mut self, reason: DropReason) {
        self.0[reason as usize] += 1;
    }

    /// How many were dropped for `reason`.
    #[must_use]
    pub fn of(&self, reason: DropReason) -> u64 {
        self.0[reason as usize]
    }

    /// Adds the counts of `other`.
    pub fn add(&mut self, other: &Self) {
        for (mine, theirs) in self.0.iter_mut().zip(other.0) {
            *mine += theirs;
        }
    }

    /// The reasons that occurred, with their counts.
    pub fn iter(&self) -> impl Iterator<Item = (DropReason, u64)> + '_ {
        DropReason::ALL.iter().map(|r| (*r, self.of(*r))).filter(|(_, n)| *n > 0)
    }
}
