//! What a stream is for: its first byte.

/// Control messages, one direction each.
pub(crate) const CONTROL: u8 = 0x01;
/// A subscription to a channel: opened by the subscriber, events come back.
pub(crate) const EVENTS: u8 = 0x02;
/// A stream of the application's.
pub(crate) const APPLICATION: u8 = 0x03;
/// A ping: whatever is sent comes back.
pub(crate) const PING: u8 = 0x04;
/// Events of a channel that the publisher sends before the subscriber asks: opened by the publisher.
pub(crate) const PUSH: u8 = 0x05;
/// A question for the peer's account of the pair; nothing but the purpose is sent, the answer comes back.
pub(crate) const ACCOUNT: u8 = 0x06;
