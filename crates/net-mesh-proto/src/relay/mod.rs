//! Who forwards for whom, over which labels?
//!
//! | file | the question it answers |
//! |---|---|
//! | [`table`] | where does a relayed datagram go? |

pub mod table;

pub use table::{Change, LabelTable, Limits, Step};
