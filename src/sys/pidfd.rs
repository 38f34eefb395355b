//! `pidfd_open(2)` and `pidfd_getfd(2)`: a grip on a process, and duplicates of its descriptors.
#![allow(unsafe_code)]

use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

use nix::errno::Errno;

use crate::ids::{Fd, Pid, Tid};

/// `pidfd_open(pid, 0)`: a descriptor that names this process and no later one of the same pid.
///
/// # Errors
/// `ESRCH` no such process; `EINVAL` not a thread group leader.
///
/// # Sources
/// pidfd_open(2), since Linux 5.3.
pub fn pidfd_open(pid: Pid) -> Result<OwnedFd, Errno> {
    // SAFETY: the call takes two integers and touches no memory of ours.
    let raw = unsafe { libc::syscall(libc::SYS_pidfd_open, pid.0, 0) };
    owned(raw)
}

/// `pidfd_open(tid, PIDFD_THREAD)`: the same for a single thread, since Linux 6.9.
///
/// # Errors
/// `ESRCH` no such thread; `EINVAL` an older kernel.
pub fn pidfd_open_thread(tid: Tid) -> Result<OwnedFd, Errno> {
    // SAFETY: the call takes two integers and touches no memory of ours.
    let raw = unsafe { libc::syscall(libc::SYS_pidfd_open, tid.0, libc::O_EXCL) };
    owned(raw)
}

/// `pidfd_getfd(pidfd, fd, 0)`: our own descriptor for the open file behind the target's `fd`.
///
/// It is an alias: position, status flags, locks and `SO_PEEK_OFF` are shared with the target.
///
/// # Errors
/// `EBADF` the target has no such descriptor; `EPERM` no ptrace access; `ESRCH` process gone;
/// `EMFILE` our own limit.
///
/// # Sources
/// pidfd_getfd(2), since Linux 5.6.
pub fn pidfd_getfd(pidfd: BorrowedFd<'_>, fd: Fd) -> Result<OwnedFd, Errno> {
    // SAFETY: the call takes three integers and touches no memory of ours.
    let raw = unsafe { libc::syscall(libc::SYS_pidfd_getfd, pidfd.as_raw_fd(), fd.0, 0) };
    owned(raw)
}

/// `pidfd_send_signal(pidfd, SIGKILL)`: ends this process and no later one of the same pid.
///
/// # Errors
/// `ESRCH` already gone; `EPERM`.
pub fn kill(pidfd: BorrowedFd<'_>) -> Result<(), Errno> {
    let nothing = std::ptr::null::<libc::siginfo_t>();
    // SAFETY: without a siginfo the call takes three integers.
    let answer = unsafe {
        libc::syscall(
            libc::SYS_pidfd_send_signal,
            pidfd.as_raw_fd(),
            libc::SIGKILL,
            nothing,
            0,
        )
    };
    Errno::result(answer).map(drop)
}

fn owned(raw: libc::c_long) -> Result<OwnedFd, Errno> {
    let raw = Errno::result(raw)?;
    let raw = i32::try_from(raw).map_err(|_| Errno::EBADF)?;
    // SAFETY: the kernel just returned this descriptor to us and nobody else knows it.
    Ok(unsafe { OwnedFd::from_raw_fd(raw) })
}
