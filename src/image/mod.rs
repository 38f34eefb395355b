//! CRIU's image format.

pub mod catalogue;
pub mod files;
pub mod folder;
pub mod framing;
pub mod manifest;
pub mod memory;
pub mod tasks;
pub mod write;

/// temp
#[allow(missing_docs, clippy::all, clippy::pedantic)]
pub mod proto {
    include!(concat!(env!("OUT_DIR"), "/dedump.image.rs"));
}
