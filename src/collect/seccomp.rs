//! Seccomp filters of threads.
//!
//! Filters form a tree in the kernel: a new one hangs below those the thread had already. From
//! outside each thread shows its own branch, oldest filter first.

use nix::errno::Errno;

use crate::error::{Error, Result, ResultExt};
use crate::freeze::Stopped;
use crate::ids::Tid;
use crate::proc::status::{Seccomp, Status};
use crate::sys::ptrace;

/// A filter of a thread.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Filter {
    /// Its instructions, 8 bytes each (`struct sock_filter`).
    pub instructions: Vec<u8>,
    /// `SECCOMP_FILTER_FLAG_*`.
    pub flags: u32,
}

/// Reads the filters of a stopped thread, oldest first, and makes sure that calls can be run
/// inside it although filters, or strict mode, forbid them.
///
/// # Errors
/// [`Error::Unsupported`] where the kernel grants that to nobody like us, and for filters it
/// does not show.
pub fn open(thread: &Stopped, status: &Status) -> Result<Vec<Filter>> {
    let tid = thread.tid();
    if status.seccomp == Seccomp::Disabled {
        return Ok(Vec::new());
    }
    match thread.suspend_seccomp() {
        Err(Error::Syscall {
            errno: Errno::EPERM,
            ..
        }) => {
            return Err(Error::unsupported(
                tid,
                "a thread under seccomp",
                "run dedump with CAP_SYS_ADMIN and outside of any seccomp sandbox",
            ));
        }
        answer => answer?,
    }
    let filters = if status.seccomp == Seccomp::Filter {
        filters_of(tid)?
    } else {
        Vec::new()
    };
    let shown = u32::try_from(filters.len()).ok();
    if status
        .seccomp_filters
        .is_some_and(|count| Some(count) != shown)
    {
        return Err(Error::unsupported(
            tid,
            "a thread with seccomp filters that the kernel does not show",
            "start the program without its sandbox",
        ));
    }
    Ok(filters)
}

fn filters_of(tid: Tid) -> Result<Vec<Filter>> {
    let mut filters = Vec::new();
    loop {
        let instructions = match ptrace::seccomp_filter(tid, filters.len()) {
            Err(Errno::ENOENT) => return Ok(filters),
            answer => answer.on("ptrace SECCOMP_GET_FILTER", tid)?,
        };
        let flags = ptrace::seccomp_filter_flags(tid, filters.len())
            .on("ptrace SECCOMP_GET_METADATA", tid)?;
        filters.push(Filter {
            instructions,
            flags,
        });
    }
}
