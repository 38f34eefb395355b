//! What two references to one kernel object must agree on.
//!
//! A fingerprint is made of ingredients. Each must be the same whichever reference it is read
//! through, and whenever it is read during the freeze; then objects with different
//! fingerprints are different, without asking the kernel. Beside each ingredient stands why
//! it cannot separate what is one object. What nearly did that was left out, and is listed,
//! too: a dull fingerprint costs some system calls, a wrong one writes an object twice.
//!
//! Fingerprints are read before anything is run inside a task, as that may change them.

use crate::ids::ObjectId;
use crate::proc::stat::{Layout, Stat};
use crate::proc::status::Status;

/// Of an address space: its [`Layout`].
///
/// * All ten addresses are fields of the kernel's `mm_struct`, which is the object itself.
/// * They change by exec, which makes a new one, and by prctl(PR_SET_MM), which only a task
///   that runs on this address space can call, and all of these are stopped.
/// * The kernel shows them to whoever may ptrace the task and hides them from others; see
///   [`VmFingerprint::is_hidden`].
///
/// After an exec the random position of the stack makes it unique. A forked child looks like
/// its parent.
///
/// Left out: sizes (`VmSize`, `VmPeak`), which our own mappings inside a task change;
/// resident sizes, which reclaim changes even of stopped tasks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct VmFingerprint(Layout);

impl VmFingerprint {
    /// From a task's `stat`.
    #[must_use]
    pub fn of(stat: &Stat) -> Self {
        Self(stat.layout)
    }

    /// Whether the kernel did not let us see: then it says nothing.
    #[must_use]
    pub fn is_hidden(&self) -> bool {
        self.0.is_hidden()
    }

    /// Whether there is no address space.
    #[must_use]
    pub fn is_absent(&self) -> bool {
        self.0.is_absent()
    }
}

/// Of a descriptor table: how many descriptors are open.
///
/// * The table itself is counted, and only tasks that have the table change it: these are
///   stopped. One of them outside of the tree runs on, though. A table that such a task
///   changes during the dump cannot be dumped as of one instant, whether it is recognised or
///   not, so nothing is lost by looking at it.
///
/// Left out: which numbers are open, which takes a list (microseconds for each descriptor, while
/// the count is one call), what the descriptors lead to and close-on-exec (likewise), and
/// `FDSize`, which says less.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct FilesFingerprint {
    open: usize,
}

impl FilesFingerprint {
    /// Of a table with so many open descriptors.
    #[must_use]
    pub fn of(open: usize) -> Self {
        Self { open }
    }
}

/// Of working folder, root and umask: just these.
///
/// * All three are in the kernel's `fs_struct`, which is the object itself, and are changed by
///   chdir, chroot, umask of tasks that have it: these are stopped. (pivot_root by somebody
///   outside replaces the root of every task in the mount namespace; a dump that straddles it
///   is of two instants anyway.)
/// * Device and inode are those of the folder that is held, however it is renamed or covered.
/// * Sharing with a task that runs outside of the tree: as for [`FilesFingerprint`].
///
/// Left out: the paths, which a rename outside of the tree changes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct FsFingerprint {
    /// Device and inode of the working folder: `stat` of `/proc/PID/cwd`.
    pub cwd: (u64, u64),
    /// Device and inode of the root: `stat` of `/proc/PID/root`.
    pub root: (u64, u64),
    /// The file mode creation mask.
    pub umask: Option<u32>,
}

/// Which signals a task ignores and which it handles, bit n - 1 for signal n.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Handled {
    /// Ignored.
    pub ignored: u64,
    /// With a handler.
    pub caught: u64,
}

impl Handled {
    /// From a task's `status`.
    #[must_use]
    pub fn of(status: &Status) -> Self {
        Self {
            ignored: status.signals_ignored,
            caught: status.signals_caught,
        }
    }
}

/// Of a table of signal handlers: what it does with each signal, and the address space the
/// handlers are in.
///
/// * Ignored and caught signals are what the kernel finds in the table, which is the object
///   itself; sigaction changes it, by tasks that have it: these are stopped.
/// * Tasks with one table have one address space: `CLONE_SIGHAND` demands `CLONE_VM`, and exec,
///   the only way to another address space, makes a new table, too.
///
/// Thanks to the address space even a forked child, whose handlers are those of its parent, is
/// told apart without a question.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct SighandFingerprint {
    vm: ObjectId,
    handled: Handled,
}

impl SighandFingerprint {
    /// For a task with this address space.
    #[must_use]
    pub fn of(vm: ObjectId, handled: Handled) -> Self {
        Self { vm, handled }
    }
}

/// What is known of a descriptor before the open file behind it is identified.
#[derive(Clone, Copy, Debug)]
pub struct FileLooks<'a> {
    /// `st_dev` of the file.
    pub device: u64,
    /// `st_ino` of the file.
    pub inode: u64,
    /// `mnt_id` of its fdinfo.
    pub mount: u64,
    /// `flags` of its fdinfo, as they are.
    pub flags: u32,
    /// The text of its link in `/proc/PID/fd`, whatever it is.
    pub link: &'a [u8],
    /// A number that fdinfo shows and no other object of this kind has, such as `eventfd-id`.
    pub serial: Option<u64>,
}

/// Of an open file (the kernel's `struct file`): all that never changes while it is open.
///
/// * Device and inode: a file is opened once, on one inode, and keeps it. Pipes and sockets
///   have inodes of their own, one for each; things like eventfd and epoll have one for all.
/// * Mount: likewise fixed at open; mount ids are given once while anything is open there.
/// * Flags: access mode, `O_PATH`, `O_DIRECTORY`, `O_SYNC` and the like are fixed at open. Not
///   counted are close-on-exec, which belongs to the descriptor, and the flags that
///   fcntl(F_SETFL) and ioctl(FIONBIO, FIOASYNC) change. Tasks of the tree are stopped, but an
///   open file is often shared with one that is not: a shell sets and clears `O_NONBLOCK` on
///   its terminal all the time.
/// * Kind: the name of a file without a path (`anon_inode:[eventfd]`) is that of its kind.
///   Other links are paths, which a rename changes; they do not count.
/// * Serial: a number given when the object was made.
///
/// Left out: the position. Whoever outside of the tree has the same open file moves it: every
/// line that a shell loop outside writes into the log that a task inside inherited. The same
/// goes for what a file waits for or holds (locks, watches, counters, timers).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct FileFingerprint {
    // Compared in this order: what differs most often comes first.
    serial: Option<u64>,
    inode: u64,
    device: u64,
    mount: u64,
    flags: u32,
    kind: u64,
}

/// The flags that belong to a descriptor or that an open file may change.
const CHANGING_FLAGS: i32 = libc::O_CLOEXEC
    | libc::O_APPEND
    | libc::O_NONBLOCK
    | libc::O_ASYNC
    | libc::O_DIRECT
    | libc::O_NOATIME;

impl FileFingerprint {
    /// From what is known of a descriptor.
    #[must_use]
    pub fn of(looks: &FileLooks<'_>) -> Self {
        let mut kind = Digest::new();
        if looks.link.starts_with(b"anon_inode:") {
            kind.add(looks.link);
        }
        Self {
            serial: looks.serial,
            inode: looks.inode,
            device: looks.device,
            mount: looks.mount,
            flags: looks.flags & !CHANGING_FLAGS.cast_unsigned(),
            kind: kind.0,
        }
    }
}

/// FNV-1a. Not a proof of anything: two inputs with one digest cost a question to the kernel.
struct Digest(u64);

impl Digest {
    fn new() -> Self {
        Self(0xcbf2_9ce4_8422_2325)
    }

    fn add(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.0 = (self.0 ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LOOKS: FileLooks<'_> = FileLooks {
        device: 15,
        inode: 1057,
        mount: 17,
        flags: 0o2,
        link: b"anon_inode:[eventfd]",
        serial: Some(3),
    };

    fn same(a: &FileLooks<'_>, b: &FileLooks<'_>) -> bool {
        FileFingerprint::of(a) == FileFingerprint::of(b)
    }

    #[test]
    fn what_one_file_may_show_differently_does_not_separate() {
        for flag in [0o2_000_000, 0o2000, 0o4000, 0o20000, 0o40000, 0o1_000_000] {
            let flags = LOOKS.flags | flag;
            assert!(same(&LOOKS, &FileLooks { flags, ..LOOKS }), "{flag:o}");
        }
        let (before, after) = (b"/log", b"/log.1 (deleted)");
        let before = FileLooks {
            link: before,
            ..LOOKS
        };
        assert!(same(
            &before,
            &FileLooks {
                link: after,
                ..LOOKS
            }
        ));
    }

    #[test]
    fn what_is_fixed_at_open_separates() {
        let others = [
            FileLooks {
                device: 16,
                ..LOOKS
            },
            FileLooks {
                inode: 1058,
                ..LOOKS
            },
            FileLooks { mount: 18, ..LOOKS },
            FileLooks {
                flags: 0o1,
                ..LOOKS
            },
            FileLooks {
                flags: 0o10_000_002,
                ..LOOKS
            },
            FileLooks {
                link: b"anon_inode:[eventpoll]",
                ..LOOKS
            },
            FileLooks {
                link: b"/a",
                ..LOOKS
            },
            FileLooks {
                serial: Some(4),
                ..LOOKS
            },
            FileLooks {
                serial: None,
                ..LOOKS
            },
        ];
        for other in others {
            assert!(!same(&LOOKS, &other), "{other:?}");
        }
    }
}
