//! Asking first: what stands in the way of a dump, here and now.

pub mod system;
pub mod tree;
