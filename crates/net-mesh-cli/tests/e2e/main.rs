//! The real program, as its users run it: processes, sockets, signals, JSON.
//!
//! | module | where the nodes live |
//! |---|---|
//! | `on_a_real_kernel` | behind NATs of the Linux kernel, in network namespaces made by the test |
//! | `every_pair` | behind every pair of NATs, and relayed where no pair of packets can meet |
//! | `special_places` | in one home, behind carriers, in IPv6, where UDP is blocked, in a row |
//! | `bad_lines` | behind access lines that lose and delay |
//! | `first_words` | behind NATs at the ends of long lines, not yet knowing each other |
//! | `failover` | where paths die, relays are killed, uplinks come and go, and NATs forget |
//! | `network_changes` | on a host whose addresses, links and default route change |
//! | `port_mapping` | behind routers that give ports away, or say so |
//! | `open_port` | behind firewalls and routers in which the operator opened a port |
//! | `operators` | behind NATs and dying, as `peers`, `ping` and `why` show it |
//! | `with_coturn` | on loopback, with a STUN client and server that nobody here wrote |
//! | `loopback` | on loopback, two of them, at full speed |
//! | `metrics` | on loopback, read as Prometheus reads them |
//! | `with_prometheus` | on loopback, scraped by a real Prometheus |
//! | `logs` | on loopback, and what they say of it |
//! | `dashboard` | on loopback, asked over HTTP |
//! | `doctor` | on loopback, and in `doctor_in_a_lab` behind NATs and where UDP is blocked |
//! | `in_a_browser` | on loopback and behind NATs, seen through the dashboard |
//! | `the_lab` | in the simulated internet that the program carries |
//! | `wrong_input` | wherever something is wrong |
//!
//! `NET_MESH_BIN` names another build of the program to test, an optimised one for example.
//!
//! Nothing here leaves the machine. The modules that need more than loopback can be left out by name;
//! `cargo xtask test` knows them.
#![allow(clippy::unwrap_used, reason = "test code outside of test functions")]

mod bad_lines;
mod dashboard;
mod doctor;
mod every_pair;
mod failover;
mod first_words;
mod in_a_browser;
mod logs;
mod loopback;
mod metrics;
mod network_changes;
mod on_a_real_kernel;
mod open_port;
mod operators;
mod port_mapping;
mod special_places;
mod support;
mod the_lab;
mod with_coturn;
mod with_prometheus;
mod wrong_input;
