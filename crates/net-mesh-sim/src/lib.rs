//! A simulated internet for net-mesh: hosts, lossy links and NATs, deterministic per seed.
//!
//! | file | the question it answers |
//! |---|---|
//! | [`internet`] | where does a datagram go, and when does it arrive? |
//! | [`host`] | which addresses and ports does a machine have? |
//! | [`nat`] | what does a NAT or firewall do to a packet? |
//! | [`link`] | what does an access link do to a packet? |
//! | [`topology`] | who is behind what, and which address is whose? |
//! | [`oracle`] | what must come true, from the topology alone? |
//! | [`population`] | who is behind what in a plausible mesh? |
//! | [`trace`] | what happened? |
//! | [`world`] | how do thousands of nodes run on top of it? |
//! | [`scenario`] | what happens to one node in a given place? |
//! | `socket` (feature `tokio`) | how does QUIC run on top of it? |
//!
//! It plugs in at two heights: [`World`] runs the protocol crate's nodes without QUIC, thousands of them in one
//! thread; `SimNet` gives complete nodes a UDP socket under tokio's paused clock, tens to hundreds of them.
//!
//! Not modelled: fragmentation and ICMP (a packet above an MTU vanishes), time to live, duplication, ECN,
//! translation of IPv6, port-mapping protocols, access links of a host's interfaces apart (they share one).
//!
//! ```
//! use net_mesh_proto::time::Time;
//! use net_mesh_sim::{Internet, Nat};
//!
//! let mut net = Internet::new(7);
//! let (home, server) = (net.add_behind(Nat::symmetric()), net.add_behind(Nat::direct()));
//! let any = "0.0.0.0:0".parse().unwrap();
//! let (socket, port) = (net.bind(home, any).unwrap(), net.bind(server, any).unwrap().port());
//! let there = (net.ips(server)[0], port).into();
//! net.send(Time::ZERO, home, socket, there, b"hello".to_vec());
//!
//! let arrival = net.poll_delivery(Time::from_millis(20)).unwrap();
//! assert_eq!((arrival.host, arrival.at), (server, Time::from_millis(20)));
//! assert_ne!(arrival.from.ip(), net.ips(home)[0], "seen at the NAT's address");
//! ```
#![forbid(unsafe_code)]

pub mod host;
pub mod internet;
pub mod link;
pub mod nat;
pub mod oracle;
pub mod population;
pub mod scenario;
#[cfg(feature = "tokio")]
pub mod socket;
pub mod topology;
pub mod trace;
pub mod world;

pub use host::{Families, HostId};
pub use internet::{Delivery, Internet};
pub use link::{Bursts, Link};
pub use nat::{Chain, Dependence, Nat, Router};
#[cfg(feature = "tokio")]
pub use socket::{SimHost, SimNet, SimSocket};
pub use topology::{NatId, Place};
pub use trace::{Lost, Trace};
pub use world::{NodeIx, PathKind, World};
