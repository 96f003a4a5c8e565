//! How do the commands talk to the running node?
//!
//! HTTP/1.1 over a Unix socket in the home directory; `docs/admin-api.md` is its reference. Whoever may
//! open the socket, which is the home's owner, may do anything the node can do.
//!
//! | file | what |
//! |---|---|
//! | `server` | the node's end: routes, errors, streams |
//! | `client` | the commands' end |
//! | `lines` | cuts a streamed request into events, one a line |
//! | `batches` | joins the events that are ready into one piece of a streamed response |
//! | `frames` | events with any bytes in them, and where one ends |
//! | `socket` | the socket itself, also where its path is longer than the system allows |

mod batches;
pub(crate) mod client;
pub(crate) mod frames;
mod lines;
pub(crate) mod server;
mod socket;

/// The media type of a request body with one event a line.
pub(crate) const LINES: &str = "application/x-net-mesh-lines";

/// The media type of a stream of [`frames`].
pub(crate) const FRAMES: &str = "application/x-net-mesh-frames";

/// The media type of a stream of JSON objects, one a line.
pub(crate) const JSON_LINES: &str = "application/x-ndjson";
