//! The protocols of net-mesh, as pure state machines.
//!
//! Nothing here can name a clock, a socket, a thread or a source of entropy: time, bytes and
//! randomness come in as arguments, effects go out as values. The crate is `no_std` so that the
//! compiler holds it to that. Whoever drives it (the async runtime in `net-mesh`, the simulator in
//! `net-mesh-sim`) does three things in a loop: hand in what happened, collect what to do, and
//! come back at the deadline that was named.
//!
//! | folder | the question it answers |
//! |---|---|
//! | [`wire`] | what do the bytes say, and which protocol do they belong to? |
//! | [`reflex`] | at which address do others see me? |
//! | [`classify`] | what does the NAT in front of me do? |
//! | [`membership`] | who is in the mesh, and what do they say of themselves? |
//! | [`peer`] | whom should I have a session with, and which of two sessions is the one? |
//! | [`path`] | which way does a session travel? |
//! | [`portmap`] | is the router to open a port, and can others reach us there? |
//! | [`liveness`] | does the peer hear me on this way? |
//! | [`relay`] | who forwards for whom, and where does a relayed datagram go? |
//! | [`load`] | does one member do too much for the others? |
//! | [`account`] | what does one side of a pair know of the way between them? |
//! | [`routing`] | what is the nearest way over others, and who can introduce? |
//! | [`node`] | the one machine the outside drives, where the others meet |
#![no_std]
#![forbid(unsafe_code)]

extern crate alloc;
#[cfg(test)]
extern crate std;

pub mod account;
pub mod bounded;
pub mod classify;
pub mod drops;
pub mod id;
pub mod liveness;
pub mod load;
pub mod membership;
pub mod nat;
pub mod node;
pub mod outbox;
pub mod path;
pub mod peer;
pub mod portmap;
pub mod reflex;
pub mod relay;
pub mod rendezvous;
pub mod rng;
pub mod route;
pub mod routing;
pub mod time;
pub mod wire;
