//! Real programs, the real kernel, real CRIU as the restorer.
//!
//! `tests/run` installs what is needed and starts this; see there.

#![allow(clippy::unwrap_used, clippy::panic)]

mod asking;
mod cgroups;
mod compare;
mod coverage;
mod disks;
mod faults;
mod fixtures;
mod guest;
mod hostile;
mod kills;
mod looking;
mod mutations;
mod options;
mod oracle;
mod outside;
mod pages;
mod programs;
mod refusals;
mod restless;
mod restores;
mod running;
mod sandboxes;
mod scenarios;
mod sharing;
mod snapshots;
mod soak;
mod sockets;
mod timeouts;
mod unprivileged;
mod user;
mod verify;
