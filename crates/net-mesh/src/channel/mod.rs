//! Channels: publish and subscribe.
//!
//! A subscription is a cursor at every publisher. The subscriber opens one stream per subscription and
//! session; the publisher sends the events of its log on it, encoded once for all, and the subscriber
//! acknowledges on the way back what it holds. Because every subscription has its own stream, cursor
//! and queue, none can hold up another one; because an event stays in the log until it is
//! acknowledged, a session may break and come back without loss; and because the log is bounded, a
//! publisher waits for the slowest subscriber that still makes progress ([`log`]).
//!
//! Where there was no session, that would cost the first event a round trip more than it needs: the
//! publisher's connection reaches the subscriber, whose request goes back, and only then events come. So a
//! publisher also *pushes*: as soon as it has an authenticated connection with a member that is expected
//! to subscribe, it opens the stream itself and sends what waits, behind its last word of the handshake.
//! Whether to take it is the subscriber's to decide: it has one task per publisher and subscription, which
//! follows one stream at a time, so that exactly one feeds the subscription whatever both sides open.
//!
//! | file | what |
//! |---|---|
//! | [`segment`] | the bytes |
//! | [`log`] | what is kept, and for whom (pure) |
//! | [`table`] | which channels there are, and whose account they are on |
//! | [`handshake`] | how a stream begins |
//! | [`hub`] | the channels of a node, and publishing |
//! | [`serve`] | the publisher's end of a stream that a subscriber opened |
//! | [`push`] | the publisher's end of a stream that it opened itself |
//! | [`follow`] | the subscriber's end of either |
//! | [`subscribe`] | a subscription, and its queue |
//! | [`progress`] | how far the application has got with it |

mod follow;
mod handshake;
mod hub;
mod log;
mod progress;
mod push;
mod segment;
mod serve;
#[cfg(test)]
mod stream_tests;
mod subscribe;
mod table;
#[cfg(test)]
mod table_tests;
#[cfg(test)]
mod tests;

use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use net_mesh_proto::id::{ChannelId, NodeId};
use thiserror::Error;
use tokio::time::Instant;

pub(crate) use hub::Hub;
pub use hub::Publisher;
pub use subscribe::Subscription;

/// Largest event, in bytes.
pub const MAX_EVENT: usize = 4 << 20;

/// Longest name of a channel, in bytes.
pub(crate) const MAX_CHANNEL_NAME: usize = 255;

/// Checks what arrives as a segment; for fuzzing.
#[doc(hidden)]
pub fn fuzz_segment(bytes: &[u8]) -> bool {
    segment::parse(bytes).is_ok()
}

/// Checks what arrives as a subscription, or as the start of a push; for fuzzing.
#[doc(hidden)]
pub fn fuzz_subscription(bytes: &[u8]) -> bool {
    handshake::Request::parse(bytes).is_ok() || handshake::Push::parse(bytes).is_ok()
}

/// Something that was published.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Event {
    /// Where.
    pub channel: Arc<str>,
    /// By whom.
    pub from: NodeId,
    /// The how-manieth event this is of that publisher's present run on that channel, from 1.
    pub seq: u64,
    /// When, by the publisher's clock: milliseconds since the Unix epoch.
    pub unix_ms: u64,
    /// What.
    pub payload: Bytes,
    /// How many events of the same publisher on the same channel, right before this one, are lost to
    /// this subscription. 0 unless it was stalled or cut off for longer than buffers last, or the publisher has
    /// restarted and had published before this subscription reached it again.
    pub missed: u64,
    /// Whether the publisher has restarted since the event before. What its earlier run had published and could not
    /// deliver is lost as well; how much that was ended with that run, and is not part of `missed`.
    pub restarted: bool,
}

/// Why an event was not published.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum PublishError {
    /// The channel's name cannot be used.
    #[error("{0:?} cannot be a channel: a name has 1 to 255 bytes and no control characters")]
    Channel(String),
    /// The event is too large.
    #[error("an event of {0} bytes is too large: at most {MAX_EVENT} bytes; send more of smaller ones")]
    TooLarge(usize),
    /// There are too many channels.
    #[error("too many channels are in use: at most {0}")]
    TooManyChannels(usize),
    /// The node is shutting down.
    #[error("the node is shutting down")]
    ShutDown,
}

/// Why there is no subscription.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum SubscribeError {
    /// The channel's name cannot be used.
    #[error("{0:?} cannot be a channel: a name has 1 to 255 bytes and no control characters")]
    Channel(String),
    /// There are too many.
    #[error("too many subscriptions: at most {0} on one node")]
    TooMany(usize),
    /// The node is shutting down.
    #[error("the node is shutting down")]
    ShutDown,
}

fn is_valid_name(name: &str) -> bool {
    (1..=MAX_CHANNEL_NAME).contains(&name.len()) && !name.chars().any(char::is_control)
}

/// How channels behave.
#[derive(Clone, Debug)]
pub(crate) struct ChannelConfig {
    /// Encoded events kept per channel, in bytes.
    pub(crate) log_bytes: usize,
    /// How long a cursor without progress may hold up a full log.
    pub(crate) stall_timeout: Duration,
    /// What events are dated by.
    pub(crate) clock: WallClock,
}

impl Default for ChannelConfig {
    fn default() -> Self {
        Self {
            // Twice the bandwidth-delay product of 1 Gbit/s at 60 ms.
            log_bytes: 16 << 20,
            // Longer than any stall of a working consumer that is not a fault: a garbage collection, a
            // slow disk, a Wi-Fi hand-over. Shorter than a publisher would take for a hang.
            stall_timeout: Duration::from_secs(5),
            clock: WallClock::System,
        }
    }
}

/// Where the time of day comes from.
#[derive(Clone, Copy, Debug)]
pub(crate) enum WallClock {
    /// The machine.
    System,
    /// So many milliseconds after the Unix epoch at that instant, and running with the runtime's clock.
    From(u64, Instant),
}

impl WallClock {
    pub(crate) fn unix_ms(self) -> u64 {
        let millis = |d: Duration| u64::try_from(d.as_millis()).unwrap_or(u64::MAX);
        match self {
            Self::System => millis(SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default()),
            Self::From(start, at) => start.saturating_add(millis(at.elapsed())),
        }
    }
}

/// What channels need to know of the mesh.
pub(crate) trait Membership: Send + Sync {
    /// The members whose records say that they subscribe to `channel`.
    fn subscribers(&self, channel: ChannelId) -> Vec<NodeId>;
    /// There is something to say to `peer`.
    fn want(&self, peer: NodeId);
    /// The channels that this node subscribes to have changed; see [`Hub::subscribed`].
    fn subscriptions_changed(&self);
}
