//! The port of the router: what the operator reads about it.

mod report;

pub(crate) use report::report;
