//! Does the peer hear me on this way, and I the peer?
//!
//! Two frames of the mesh's own, [`Ping`](wire::Kind::Ping) and [`Pong`](wire::Kind::Pong), authenticated with a key
//! that only the two ends of a session know. A pong that is genuine proves a way in both directions; neither a
//! mediator nor a relay can make one. Who asks when is the business of [`path`](crate::path).

pub mod detector;
pub mod health;
pub mod loss;
pub mod mapping;
mod owed;
pub mod rtt;
pub mod traffic;
pub mod wire;

#[cfg(test)]
mod tests;

pub use detector::{Detector, View, Witness};
pub use health::{Cause, Evidence, Health, Issue};
pub use traffic::{Traffic, Waiting};

pub use wire::{Frame, Kind, SessionKey};
