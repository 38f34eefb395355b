//! `prlimit(2)`: what a process may have.
#![allow(unsafe_code)]

use nix::errno::Errno;

use crate::ids::Tid;

/// How much data (`RLIMIT_DATA`) a process may have, in bytes; `None` without a limit.
///
/// # Errors
/// `EPERM` another user's process, and no `CAP_SYS_RESOURCE`; `ESRCH` gone.
pub fn data_limit(tid: Tid) -> Result<Option<u64>, Errno> {
    let mut limit = libc::rlimit {
        rlim_cur: 0,
        rlim_max: 0,
    };
    // SAFETY: the kernel fills a live struct; nothing is set.
    let answer =
        unsafe { libc::prlimit(tid.0, libc::RLIMIT_DATA, std::ptr::null(), &raw mut limit) };
    Errno::result(answer)?;
    Ok((limit.rlim_cur != libc::RLIM_INFINITY).then_some(limit.rlim_cur))
}
