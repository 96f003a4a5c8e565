//! The port of the router: what the operator reads about it.

mod info;
mod report;

pub use info::{PortMapping, PortMappingState};
pub(crate) use report::report;
