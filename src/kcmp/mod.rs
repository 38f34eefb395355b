//! Which of the resources of a frozen tree are one kernel object.

pub mod tree;

pub use tree::{Claim, Counters, Sighting};
