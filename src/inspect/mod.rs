//! Looking at images: everything here only reads, needs no rights beyond that, and works on any
//! folder, by us or by CRIU, whole or damaged.
//!
//! ```text
//!   level        a folder on the disk
//!     └─► folder     tasks, files, shared memory, with the folders it builds on
//!           ├─ pagemaps    where each page stands, down the chain of folders
//!           ├─ sharing     who has what in common with whom
//!           ├─► tree       who is there, and what do they share?
//!           ├─► size       what takes the room?
//!           ├─► compare    what differs from another folder?
//!           └─► verify     would it restore?
//! ```
//!
//! [`show`] goes through images one by one. What a file says is never trusted: what cannot be read
//! becomes a [`defect::Defect`], and the rest is shown.

mod columns;
pub mod compare;
pub mod defect;
pub mod describe;
pub mod folder;
mod json;
pub mod level;
pub mod memory;
pub mod pagemaps;
pub mod paint;
mod scan;
pub mod sharing;
pub mod show;
pub mod size;
pub mod tree;
mod values;
pub mod verify;
mod words;
