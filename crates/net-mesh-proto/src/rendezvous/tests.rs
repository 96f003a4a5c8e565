//! What a rendezvous promises.
