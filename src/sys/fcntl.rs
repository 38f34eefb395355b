//! `fcntl(2)` questions about an open file, `tee(2)`, `memfd_create(2)`.
#![allow(unsafe_code)]

use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

use nix::errno::Errno;

/// Who is told about an open file's events, and by what signal.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Owner {
    /// `F_SETSIG`; 0 means `SIGIO`.
    pub signal: u32,
    /// `F_OWNER_TID` 0, `F_OWNER_PID` 1, `F_OWNER_PGRP` 2.
    pub kind: u32,
    /// The owner's number; 0 for nobody.
    pub id: u32,
    /// Real uid of who set it.
    pub uid: u32,
    /// Effective uid of who set it.
    pub euid: u32,
}

/// The owner of an open file, by `F_GETOWN_EX`, `F_GETSIG` and `F_GETOWNER_UIDS`.
///
/// # Errors
/// `EBADF` for a file opened with `O_PATH`; `EINVAL` without `CONFIG_CHECKPOINT_RESTORE`.
///
/// # Sources
/// fcntl(2); fs/fcntl.c.
pub fn owner(file: BorrowedFd<'_>) -> Result<Owner, Errno> {
    const F_GETSIG: i32 = 11;
    const F_GETOWN_EX: i32 = 16;
    const F_GETOWNER_UIDS: i32 = 17;
    let mut owner = [0_i32; 2];
    // SAFETY: `struct f_owner_ex` is two ints.
    Errno::result(unsafe { libc::fcntl(file.as_raw_fd(), F_GETOWN_EX, owner.as_mut_ptr()) })?;
    let [kind, id] = owner;
    if id == 0 {
        return Ok(Owner::default());
    }
    // SAFETY: takes no pointer.
    let signal = Errno::result(unsafe { libc::fcntl(file.as_raw_fd(), F_GETSIG) })?;
    let mut uids = [0_u32; 2];
    // SAFETY: the kernel writes two 32-bit user ids.
    Errno::result(unsafe { libc::fcntl(file.as_raw_fd(), F_GETOWNER_UIDS, uids.as_mut_ptr()) })?;
    let [uid, euid] = uids;
    Ok(Owner {
        signal: signal.unsigned_abs(),
        kind: kind.unsigned_abs(),
        id: id.unsigned_abs(),
        uid,
        euid,
    })
}

/// `F_GETFL`: the flags of an open file, as fdinfo shows them but for close-on-exec.
///
/// # Errors
/// `EBADF` not open.
pub fn status_flags(file: BorrowedFd<'_>) -> Result<u32, Errno> {
    // SAFETY: takes no pointer.
    let flags = Errno::result(unsafe { libc::fcntl(file.as_raw_fd(), libc::F_GETFL) })?;
    Ok(flags.cast_unsigned())
}

/// `F_GETPIPE_SZ`: the room of a pipe, in bytes.
///
/// # Errors
/// `EBADF` not a pipe.
pub fn pipe_bytes(pipe: BorrowedFd<'_>) -> Result<u32, Errno> {
    // SAFETY: takes no pointer.
    let bytes = Errno::result(unsafe { libc::fcntl(pipe.as_raw_fd(), libc::F_GETPIPE_SZ) })?;
    Ok(bytes.unsigned_abs())
}

/// `F_SETPIPE_SZ` on a pipe of our own.
///
/// # Errors
/// `EPERM` more than an ordinary user may have; `ENOMEM`.
pub fn set_pipe_bytes(pipe: BorrowedFd<'_>, bytes: u32) -> Result<(), Errno> {
    // SAFETY: takes no pointer.
    Errno::result(unsafe { libc::fcntl(pipe.as_raw_fd(), libc::F_SETPIPE_SZ, bytes) }).map(drop)
}

/// `timerfd_gettime(2)`: makes a periodic timer that is due count what has passed since, and run
/// on.
///
/// # Errors
/// `EINVAL` not a timerfd.
pub fn timerfd_gettime(timer: BorrowedFd<'_>) -> Result<(), Errno> {
    let mut left = std::mem::MaybeUninit::<libc::itimerspec>::uninit();
    // SAFETY: the kernel fills a struct that there is room for; nobody reads it.
    Errno::result(unsafe { libc::timerfd_gettime(timer.as_raw_fd(), left.as_mut_ptr()) }).map(drop)
}

/// `tee(2)`: copies what waits in a pipe into another, consuming nothing; returns the bytes.
///
/// # Errors
/// `EAGAIN` nothing waits; `EINVAL` not pipes; `EBADF` not open for reading.
pub fn tee(from: BorrowedFd<'_>, to: BorrowedFd<'_>, bytes: usize) -> Result<usize, Errno> {
    // SAFETY: takes no pointer.
    let copied = unsafe {
        libc::tee(
            from.as_raw_fd(),
            to.as_raw_fd(),
            bytes,
            libc::SPLICE_F_NONBLOCK,
        )
    };
    Errno::result(copied).map(isize::unsigned_abs)
}

/// `F_GET_SEALS`: what may no longer be done to a memfd.
///
/// # Errors
/// `EINVAL` a file without seals.
pub fn seals(file: BorrowedFd<'_>) -> Result<u32, Errno> {
    const F_GET_SEALS: i32 = 1034;
    // SAFETY: takes no pointer.
    let seals = Errno::result(unsafe { libc::fcntl(file.as_raw_fd(), F_GET_SEALS) })?;
    Ok(seals.unsigned_abs())
}

/// The device of nameless shared memory: memfds, `MAP_SHARED | MAP_ANONYMOUS`, System V.
///
/// # Errors
/// Those of memfd_create(2).
pub fn shmem_device() -> Result<u64, Errno> {
    // SAFETY: the name is a C string.
    let raw = Errno::result(unsafe { libc::memfd_create(c"dedump".as_ptr(), libc::MFD_CLOEXEC) })?;
    // SAFETY: the kernel just gave us this descriptor.
    let memfd = unsafe { OwnedFd::from_raw_fd(raw) };
    Ok(nix::sys::stat::fstat(memfd.as_fd())?.st_dev)
}

/// The device of nameless shared memory in huge pages of a size.
///
/// # Errors
/// `ENODEV` there are no huge pages of this size; those of memfd_create(2).
pub fn hugetlb_device(page_bytes: u64) -> Result<u64, Errno> {
    let flags = libc::MFD_CLOEXEC | hugetlb_flags(page_bytes);
    // SAFETY: the name is a C string.
    let raw = Errno::result(unsafe { libc::memfd_create(c"dedump".as_ptr(), flags) })?;
    // SAFETY: the kernel just gave us this descriptor.
    let memfd = unsafe { OwnedFd::from_raw_fd(raw) };
    Ok(nix::sys::stat::fstat(memfd.as_fd())?.st_dev)
}

/// What asks memfd_create(2) for huge pages of a size.
#[must_use]
pub fn hugetlb_flags(page_bytes: u64) -> u32 {
    libc::MFD_HUGETLB | hugetlb_size_flags(page_bytes)
}

/// The size of huge pages as mmap(2) and memfd_create(2) take it.
#[must_use]
pub fn hugetlb_size_flags(page_bytes: u64) -> u32 {
    page_bytes.trailing_zeros() << libc::MAP_HUGE_SHIFT
}
