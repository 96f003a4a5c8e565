//! The one machine the outside drives, and the only place where the other machines meet.
//!
//! A driver does, for ever:
//! 1. hand in what happened with [`Node::handle`], or [`Node::handle_timeout`] once the instant that
//!    [`Node::poll_timeout`] named has come;
//! 2. carry out everything [`Node::poll_output`] returns, until it returns nothing;
//! 3. wait for the next datagram, connection event, command or timeout.
//!
//! Connections are the driver's: it dials and accepts QUIC, checks certificates, and reports a
//! connection once the peer is authenticated. Control messages then travel as opaque byte strings,
//! reliably and in order, one sequence per connection and direction.

mod io;

pub use io::{Command, Config, ConnId, DialFailure, DialId, Direction, Event, Input, Output};
