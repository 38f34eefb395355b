//! A cgroup hierarchy as a file system, mounted for nobody else to see: `fsopen(2)` and family.
#![allow(unsafe_code)]

use std::ffi::{CString, c_char, c_int, c_uint, c_void};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::ptr;

use nix::errno::Errno;

const SET_FLAG: c_uint = 0;
const SET_STRING: c_uint = 1;
const CREATE: c_uint = 6;

/// Opens the root of a hierarchy, named as in `/proc/PID/cgroup`: its controllers with commas
/// between them, `name=` and its name, or nothing for version 2.
///
/// # Errors
/// `EPERM` without `CAP_SYS_ADMIN`; `EINVAL` and others for a hierarchy that is not there.
///
/// # Sources
/// fsopen(2), fsconfig(2), fsmount(2); kernel/cgroup/cgroup-v1.c.
pub fn open_hierarchy(name: &[u8]) -> Result<OwnedFd, Errno> {
    let context = fsopen(if name.is_empty() {
        c"cgroup2"
    } else {
        c"cgroup"
    })?;
    match name.strip_prefix(b"name=") {
        Some(own) => {
            fsconfig(&context, SET_FLAG, c"none", None)?;
            fsconfig(&context, SET_STRING, c"name", Some(&text(own)?))?;
        }
        None => {
            for controller in name.split(|byte| *byte == b',').filter(|c| !c.is_empty()) {
                fsconfig(&context, SET_FLAG, &text(controller)?, None)?;
            }
        }
    }
    fsconfig(&context, CREATE, c"", None)?;
    fsmount(&context)
}

fn text(bytes: &[u8]) -> Result<CString, Errno> {
    CString::new(bytes).map_err(|_| Errno::EINVAL)
}

fn owned(answer: i64) -> Result<OwnedFd, Errno> {
    let fd = c_int::try_from(Errno::result(answer)?).map_err(|_| Errno::EBADF)?;
    // SAFETY: the kernel has just opened it for us.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

fn fsopen(file_system: &std::ffi::CStr) -> Result<OwnedFd, Errno> {
    const FSOPEN_CLOEXEC: c_uint = 1;
    // SAFETY: a string that ends in 0, and flags.
    owned(unsafe { libc::syscall(libc::SYS_fsopen, file_system.as_ptr(), FSOPEN_CLOEXEC) })
}

fn fsconfig(
    context: &OwnedFd,
    command: c_uint,
    key: &std::ffi::CStr,
    value: Option<&CString>,
) -> Result<(), Errno> {
    let key: *const c_char = if command == CREATE {
        ptr::null()
    } else {
        key.as_ptr()
    };
    let value: *const c_void = value.map_or(ptr::null(), |value| value.as_ptr().cast());
    let nothing: c_int = 0;
    // SAFETY: strings that end in 0, or null where the command takes none.
    let answer = unsafe {
        libc::syscall(
            libc::SYS_fsconfig,
            context.as_raw_fd(),
            command,
            key,
            value,
            nothing,
        )
    };
    Errno::result(answer).map(drop)
}

fn fsmount(context: &OwnedFd) -> Result<OwnedFd, Errno> {
    const FSMOUNT_CLOEXEC: c_uint = 1;
    let attributes: c_uint = 0;
    // SAFETY: a descriptor and flags.
    owned(unsafe {
        libc::syscall(
            libc::SYS_fsmount,
            context.as_raw_fd(),
            FSMOUNT_CLOEXEC,
            attributes,
        )
    })
}
