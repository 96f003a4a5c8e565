//! What a rendezvous promises.

mod lies;
mod machine;
mod matrix;
mod model;
mod plans;
