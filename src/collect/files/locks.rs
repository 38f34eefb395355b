//! Locks and leases that tasks hold.

use std::os::unix::ffi::OsStrExt;

use tracing::warn;

use super::{Files, TableOwner};
use crate::error::{Error, Result};
use crate::ids::{Fd, Pid};
use crate::proc::locks::{HeldLock, LockKind, parse_held_lock, without_number};
use crate::proc::maps::parse_maps;

/// A lock, and through what it is held.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FileLock {
    /// The process that gets it again.
    pub pid: Pid,
    /// Its descriptor.
    pub fd: Fd,
    /// The lock.
    pub lock: HeldLock,
}

impl Files {
    /// Notes the locks that fdinfo shows of a descriptor. Those of the open file itself are shown
    /// for each descriptor that leads there, and are noted for the first.
    pub(super) fn locks(
        &mut self,
        owner: TableOwner<'_>,
        fd: Fd,
        lines: &[Vec<u8>],
        is_first: bool,
    ) -> Result<()> {
        for line in lines {
            let text = without_number(line);
            self.unseen_locks.retain(|lock| lock.text != text);
            let path = || owner.proc_dir.path_of(&format!("fdinfo/{fd}"));
            let lock = parse_held_lock(line).map_err(|error| error.at(path()))?;
            if !(is_first || lock.kind == LockKind::Posix) {
                continue;
            }
            if !self.choices.file_locks {
                return Err(Error::unsupported(
                    (owner.tid, fd),
                    "a locked file",
                    "let the program release its lock, or give --file-locks (restore needs it, too)",
                ));
            }
            if lock.kind == LockKind::Posix {
                warn_of_mapping(owner, fd)?;
            }
            self.locks.push(FileLock {
                pid: owner.pid,
                fd,
                lock,
            });
        }
        Ok(())
    }

    /// Tells of locks that nothing but a mapping can hold: the descriptor was closed, so that
    /// there is nothing through which restore could lock again.
    pub fn warn_of_lost_locks(&self, in_tree: impl Fn(Pid) -> bool) {
        for lock in &self.unseen_locks {
            if self.mapped.contains_key(&lock.inode) && lock.pid.is_none_or(&in_tree) {
                let text = String::from_utf8_lossy(&lock.text);
                warn!(
                    "a lock without a descriptor is left out: a mapping of its file holds it ({text})"
                );
            }
        }
    }
}

/// Warns of a lock that a restore loses: criu takes the locks first, and closes descriptors that
/// it has made for mappings later; and with the first descriptor of a file that a process closes,
/// whichever it is, it gives up all its locks on that file.
fn warn_of_mapping(owner: TableOwner<'_>, fd: Fd) -> Result<()> {
    let path = owner.proc_dir.read_link(&format!("fd/{fd}"))?;
    let maps = owner.proc_dir.read("maps")?;
    let mappings = parse_maps(&maps).map_err(|error| error.at(owner.proc_dir.path_of("maps")))?;
    let is_mapped = mappings
        .iter()
        .any(|mapping| mapping.inode != 0 && mapping.path == path.as_os_str().as_bytes());
    if is_mapped {
        warn!(
            "{}:{fd}: a lock on {}, which the process has mapped, too: criu gives it up while it \
             restores, and others may take it",
            owner.tid,
            path.display()
        );
    }
    Ok(())
}
