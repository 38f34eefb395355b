//! `statx(2)` of an open file.
#![allow(unsafe_code)]

use std::mem::MaybeUninit;
use std::os::fd::{AsRawFd, BorrowedFd};

use nix::errno::Errno;
use nix::sys::stat::{FileStat, makedev};

/// What `fstat` says of an open file, and the id of the mount it was opened on: the `mnt_id` of
/// its fdinfo.
///
/// # Errors
/// `EBADF`; `ENOSYS` where the kernel does not tell the mount (before Linux 5.8).
///
/// # Sources
/// statx(2).
pub fn statx(file: BorrowedFd<'_>) -> Result<(FileStat, u64), Errno> {
    let mut found = MaybeUninit::<libc::statx>::zeroed();
    // SAFETY: an empty path and a struct that the kernel fills.
    let answer = unsafe {
        libc::statx(
            file.as_raw_fd(),
            c"".as_ptr(),
            libc::AT_EMPTY_PATH,
            libc::STATX_BASIC_STATS | libc::STATX_MNT_ID,
            found.as_mut_ptr(),
        )
    };
    Errno::result(answer)?;
    // SAFETY: integers, all of them 0 from the beginning.
    let found = unsafe { found.assume_init() };
    if found.stx_mask & libc::STATX_MNT_ID == 0 {
        return Err(Errno::ENOSYS);
    }
    let mut stat = no_stat();
    let device = |major: u32, minor: u32| makedev(u64::from(major), u64::from(minor));
    stat.st_dev = device(found.stx_dev_major, found.stx_dev_minor);
    stat.st_rdev = device(found.stx_rdev_major, found.stx_rdev_minor);
    stat.st_ino = found.stx_ino;
    stat.st_mode = u32::from(found.stx_mode);
    stat.st_nlink = u64::from(found.stx_nlink);
    stat.st_uid = found.stx_uid;
    stat.st_gid = found.stx_gid;
    stat.st_size = found.stx_size.cast_signed();
    stat.st_blocks = found.stx_blocks.cast_signed();
    stat.st_blksize = i64::from(found.stx_blksize);
    (stat.st_atime, stat.st_atime_nsec) = (found.stx_atime.tv_sec, found.stx_atime.tv_nsec.into());
    (stat.st_mtime, stat.st_mtime_nsec) = (found.stx_mtime.tv_sec, found.stx_mtime.tv_nsec.into());
    (stat.st_ctime, stat.st_ctime_nsec) = (found.stx_ctime.tv_sec, found.stx_ctime.tv_nsec.into());
    Ok((stat, found.stx_mnt_id))
}

/// A `stat` that says nothing: all of it is 0.
#[must_use]
pub fn no_stat() -> FileStat {
    // SAFETY: integers, for which 0 is a value.
    unsafe { MaybeUninit::zeroed().assume_init() }
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsFd;

    use super::*;
    use crate::proc::fdinfo::parse_fdinfo;

    #[test]
    fn statx_says_what_fstat_and_fdinfo_say() {
        let file = std::fs::File::open("/proc/self/exe").unwrap();
        let (stat, mount) = statx(file.as_fd()).unwrap();
        let told = nix::sys::stat::fstat(file.as_fd()).unwrap();
        // Times and blocks of a program that was just built may still change.
        let lasting = |stat: &FileStat| {
            (
                (stat.st_dev, stat.st_ino, stat.st_mode, stat.st_nlink),
                (stat.st_uid, stat.st_gid, stat.st_rdev, stat.st_size),
            )
        };
        assert_eq!(lasting(&stat), lasting(&told));
        let text = std::fs::read(format!("/proc/self/fdinfo/{}", file.as_raw_fd())).unwrap();
        assert_eq!(parse_fdinfo(&text).unwrap().mount, mount);
    }
}
