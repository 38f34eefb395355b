//! Reading the resources of a frozen tree, each once.

pub mod cgroups;
pub mod clocks;
pub mod files;
pub mod here;
pub mod lost;
pub mod memory;
pub mod namespaces;
pub mod notes;
pub mod page_equality;
pub mod page_identity;
mod reading;
pub mod seccomp;
pub mod sockets;
pub mod task;
pub mod thread;
pub mod tree;
mod vdso;
