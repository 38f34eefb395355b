//! File locks as images: `filelocks`.

use super::proto;
use crate::collect::files::FileLock;
use crate::proc::locks::{LockAccess, LockKind};

/// The `filelocks` entry of a lock.
pub(super) fn file_lock_entry(held: &FileLock) -> proto::FileLockEntry {
    const BREAKING: u32 = 4;
    let (flag, breaking) = match held.lock.kind {
        LockKind::Posix => (1, 0),
        LockKind::Flock => (2, 0),
        LockKind::OpenFile => (4, 0),
        LockKind::Lease { is_breaking: false } => (8, 0),
        LockKind::Lease { is_breaking: true } => (8, BREAKING),
    };
    let access = match held.lock.access {
        LockAccess::Read => 0,
        LockAccess::Write => 1,
        LockAccess::None => 2,
    };
    proto::FileLockEntry {
        flag,
        r#type: access | breaking,
        pid: held.pid.0,
        fd: held.fd.0,
        start: held.lock.start,
        len: held.lock.end.map_or(0, |end| end + 1 - held.lock.start),
    }
}
