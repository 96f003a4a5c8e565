//! What the controller promises.
