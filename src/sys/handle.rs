//! `open_by_handle_at(2)`: files without paths.
#![allow(unsafe_code)]

use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

use nix::errno::Errno;

/// The kernel's `MAX_HANDLE_SZ`.
const MOST_BYTES: usize = 128;

/// `struct file_handle` with room for the longest.
#[repr(C)]
struct Handle {
    len: u32,
    kind: i32,
    bytes: [u8; MOST_BYTES],
}

/// Opens (`O_PATH`) a file by its handle, on the file system of `mount`.
///
/// # Errors
/// `ESTALE` no such file any more, or not on this mount; `EPERM` without
/// `CAP_DAC_READ_SEARCH`; `EINVAL` a handle of another file system's kind.
///
/// # Sources
/// open_by_handle_at(2).
pub fn open_by_handle(mount: BorrowedFd<'_>, kind: u32, bytes: &[u8]) -> Result<OwnedFd, Errno> {
    let mut handle = Handle {
        len: u32::try_from(bytes.len()).map_err(|_| Errno::EINVAL)?,
        kind: kind.cast_signed(),
        bytes: [0; MOST_BYTES],
    };
    let room = handle.bytes.get_mut(..bytes.len()).ok_or(Errno::EINVAL)?;
    room.copy_from_slice(bytes);
    // SAFETY: the kernel reads the header and as many bytes as it says, which are there.
    let raw = unsafe {
        libc::syscall(
            libc::SYS_open_by_handle_at,
            mount.as_raw_fd(),
            &raw mut handle,
            libc::O_PATH | libc::O_CLOEXEC,
        )
    };
    let raw = i32::try_from(Errno::result(raw)?).map_err(|_| Errno::EBADF)?;
    // SAFETY: the kernel just returned this descriptor to us and nobody else knows it.
    Ok(unsafe { OwnedFd::from_raw_fd(raw) })
}
