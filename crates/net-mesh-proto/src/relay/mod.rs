//! Who forwards for whom, over which labels?
//!
//! A relayed datagram is a label and ciphertext. A relay looks the label up, writes another in its place and
//! sends it on; it holds no key for the payload and never waits for anyone.
//!
//! | file | the question it answers |
//! |---|---|
//! | [`table`] | where does a relayed datagram go, and is there room for it? |
//! | `meter` | whose datagrams may pass when more is asked of a relay than it gives? |
//! | [`circuits`] | how do labels come to be, and how do they end? |
//! | `hop` | what is kept of one circuit? |
//! | `neighbours` | what does each neighbour have here, and how much more may it ask for? |
//! | [`wire`] | the messages of circuits |

pub mod circuits;
mod hop;
mod meter;
mod neighbours;
pub mod table;
#[cfg(test)]
mod tests;
pub mod wire;

pub use circuits::{CircuitView, Event, Reason, Relay};
pub use table::{Change, LabelTable, Limits, Stats, Step, Traffic, UserStats};
pub use wire::{Message, Refusal};

pub use crate::routing::MAX_HOPS;
