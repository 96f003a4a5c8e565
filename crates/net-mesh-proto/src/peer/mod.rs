//! Whom should I have a session with, and which of two sessions is the one?
//!
//! | file | the question it answers |
//! |---|---|
//! | `dialer` | whom to dial, and when |
//! | `attempts` | what is being dialled already, and what has it not been tried at |
//! | `arbiter` | which of the connections to a peer is the session |
//! | [`ways`] | where may a member be tried, and which side begins |
//! | `local` | where this node itself may be reached, and what it can reach |
//! | `wire` | the messages of arbitration |

pub mod arbiter;
mod attempts;
pub mod dialer;
mod local;
pub mod ways;
pub mod wire;

#[cfg(test)]
mod tests;

pub use arbiter::{Arbiter, Session};
pub use dialer::Dialer;
pub use local::Local;
