//! The net-mesh program.
fn main() {}
