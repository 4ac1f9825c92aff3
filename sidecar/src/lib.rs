//! The node's side of leasehold.

pub mod node;
