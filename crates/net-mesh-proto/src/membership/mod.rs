//! (under construction)
/// Addresses in one record, and in one attempt to connect.
pub const MAX_CANDIDATES: usize = 16;
