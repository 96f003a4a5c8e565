//! Who forwards for whom, over which labels?
//!
//! | file | the question it answers |
//! |---|---|
//! | [`table`] | where does a relayed datagram go? |
//! | `meter` | whose datagrams may pass when more is asked of a relay than it gives? |

mod meter;
pub mod table;

pub use table::{Change, LabelTable, Limits, Stats, Step, Traffic, UserStats};

/// Circuits that this node has opened, at a time: one for every member there can be.
pub const MAX_OPENED: usize = 4096;

/// Circuits of others that end at this node, at a time: one from every member there can be.
pub const MAX_ENDED: usize = 4096;
