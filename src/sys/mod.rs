//! The kernel's interfaces, one safe function per system call or request.
//!
//! The only folder with `unsafe` code. A function keeps the kernel's name, takes plain
//! values, returns the bare errno, and says in its docs what the kernel promises; the
//! caller adds whom it was for (see [`crate::error::ResultExt`]).

pub mod auxv;
pub mod capability;
pub mod cgroupfs;
pub mod fcntl;
pub mod guardian;
pub mod handle;
pub mod heap;
pub mod kcmp;
pub mod limits;
pub mod map;
pub mod netlink;
pub mod pagemap;
pub mod pidfd;
pub mod ptrace;
pub mod sched;
pub mod seek;
pub mod socket;
pub mod stat;
pub mod stub;
pub mod tcp;
pub mod terminal;
pub mod xstate;
