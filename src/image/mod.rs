//! The image format: what stands where, and how it is written.
//!
//! The only folder that knows the format's words; everything in front of it speaks the
//! kernel's.

pub mod catalogue;
mod cgroups;
pub mod copy;
pub mod files;
pub mod folder;
pub mod framing;
mod locks;
pub mod manifest;
pub mod memory;
pub mod opened;
pub mod page_crcs;
pub mod pages;
pub mod previous;
pub mod proto;
pub mod schema;
mod seccomp;
pub mod sockets;
pub mod tasks;
mod tcp;
mod terminals;
pub mod trusted;
pub mod wire;
pub mod write;
