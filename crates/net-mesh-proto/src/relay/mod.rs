//! Who forwards for whom, over which labels?
//!
//! A relayed datagram is a label and ciphertext. A relay looks the label up, writes another in its place and
//! sends it on; it holds no key for the payload and never waits for anyone.
//!
//! | file | the question it answers |
//! |---|---|
//! | [`table`] | where does a relayed datagram go, and is there room for it? |
//! | [`circuits`] | how do labels come to be, and how do they end? |
//! | [`wire`] | the messages of circuits |

pub mod circuits;
pub mod table;
#[cfg(test)]
mod tests;
pub mod wire;

pub use circuits::{CircuitView, Event, Reason, Relay};
pub use table::{Change, LabelTable, Limits, Stats, Step};
pub use wire::{Message, Refusal};

pub use crate::routing::MAX_HOPS;
