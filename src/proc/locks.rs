//! `/proc/locks`: every file lock and lease of the system; `lock:` lines of fdinfo: those that
//! are held through one descriptor.

use std::collections::HashSet;

use nix::sys::stat::makedev;

use super::text::ParseError;
use crate::ids::Pid;

/// The inodes that have a lock or lease.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LockedInodes {
    inodes: HashSet<(u64, u64)>,
}

impl LockedInodes {
    /// All of the system; `None` where they are not all shown, which is so in a pid namespace:
    /// the list leaves out what belongs to a process that has ended there, or lives elsewhere.
    #[must_use]
    pub fn read() -> Option<Self> {
        /// The inode of the first pid namespace, `PROC_PID_INIT_INO`.
        const FIRST_PID_NAMESPACE: &str = "pid:[4026531836]";
        let namespace = std::fs::read_link("/proc/self/ns/pid").ok()?;
        if namespace.as_os_str() != FIRST_PID_NAMESPACE {
            return None;
        }
        parse_locks(&std::fs::read("/proc/locks").ok()?).ok()
    }

    /// Whether there is a lock on this inode.
    #[must_use]
    pub fn contains(&self, device: u64, inode: u64) -> bool {
        self.inodes.contains(&(device, inode))
    }
}

/// Parses `/proc/locks`.
///
/// # Errors
/// A line that does not say which inode is locked.
///
/// # Sources
/// proc_locks(5); fs/locks.c, `lock_get_status`.
pub fn parse_locks(text: &[u8]) -> Result<LockedInodes, ParseError> {
    let mut inodes = HashSet::new();
    for (index, line) in text.split(|byte| *byte == b'\n').enumerate() {
        if line.is_empty() {
            continue;
        }
        let missing = || ParseError::new(index + 1, "MAJOR:MINOR:INODE", line);
        inodes.insert(inode_in(line).ok_or_else(missing)?);
    }
    Ok(LockedInodes { inodes })
}

/// Device and inode that a line names.
fn inode_in(line: &[u8]) -> Option<(u64, u64)> {
    let mut words = line.split(|byte| *byte == b' ');
    words.find_map(|word| {
        let mut parts = std::str::from_utf8(word).ok()?.split(':');
        let (major, minor) = (parts.next()?, parts.next()?);
        let inode = parts.next()?.parse().ok()?;
        let number = |hex| u64::from_str_radix(hex, 16).ok();
        Some((makedev(number(major)?, number(minor)?), inode))
    })
}

/// A lock of an open file, by whatever leads to that.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OpenFilesLock {
    /// Device and inode.
    pub inode: (u64, u64),
    /// Who took it; `None` where that is not told.
    pub pid: Option<Pid>,
    /// The line without its number, as fdinfo shows it, too.
    pub text: Vec<u8>,
}

/// The locks of open files in `/proc/locks`; a line that makes no sense is none.
#[must_use]
pub fn locks_of_open_files(text: &[u8]) -> Vec<OpenFilesLock> {
    let lines = text.split(|byte| *byte == b'\n');
    lines
        .filter_map(|line| {
            let lock = parse_held_lock(line).ok()?;
            let text = without_number(line);
            let pid = std::str::from_utf8(text).ok()?;
            let pid = pid.split_ascii_whitespace().nth(3)?.parse().ok();
            (lock.kind != LockKind::Posix).then_some(OpenFilesLock {
                inode: inode_in(line)?,
                pid: pid.filter(|pid| *pid > 0).map(Pid),
                text: text.to_vec(),
            })
        })
        .collect()
}

/// A line without the number that stands in front.
#[must_use]
pub fn without_number(line: &[u8]) -> &[u8] {
    let colon = line.iter().position(|byte| *byte == b':');
    line[colon.map_or(0, |colon| colon + 1)..].trim_ascii()
}

/// What kind of lock it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LockKind {
    /// Of a process, on a range: `F_SETLK`.
    Posix,
    /// Of an open file, on all of it: `flock`.
    Flock,
    /// Of an open file, on a range: `F_OFD_SETLK`.
    OpenFile,
    /// A lease: `F_SETLEASE`.
    Lease {
        /// Whether somebody waits for it to be given up.
        is_breaking: bool,
    },
}

/// For what a lock is held.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LockAccess {
    /// For reading, with others.
    Read,
    /// For writing, alone.
    Write,
    /// For nothing: a lease that shall be given up.
    None,
}

/// A lock that is held through a descriptor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HeldLock {
    /// What it is.
    pub kind: LockKind,
    /// For what; of a lease that is breaking, what it shall become.
    pub access: LockAccess,
    /// First byte.
    pub start: i64,
    /// Last byte; `None` up to the end of the file, wherever that is.
    pub end: Option<i64>,
}

/// Parses the value of a `lock:` line of fdinfo.
///
/// # Errors
/// A kind of lock that the kernel does not document.
///
/// # Sources
/// proc_locks(5); fs/locks.c, `lock_get_status`.
pub fn parse_held_lock(value: &[u8]) -> Result<HeldLock, ParseError> {
    let wrong = || ParseError::new(0, "a lock, e.g. POSIX ADVISORY WRITE …", value);
    let text = std::str::from_utf8(value).map_err(|_| wrong())?;
    let mut words = text.split_ascii_whitespace().skip(1);
    let mut word = || words.next().ok_or_else(wrong);
    let (kind, state) = (word()?, word()?);
    let kind = match (kind, state) {
        ("POSIX", _) => LockKind::Posix,
        ("FLOCK", _) => LockKind::Flock,
        ("OFDLCK", _) => LockKind::OpenFile,
        ("LEASE", "ACTIVE" | "BREAKING") => LockKind::Lease {
            is_breaking: state == "BREAKING",
        },
        _ => return Err(wrong()),
    };
    let access = match word()? {
        "READ" => LockAccess::Read,
        "WRITE" => LockAccess::Write,
        "UNLCK" => LockAccess::None,
        _ => return Err(wrong()),
    };
    let (_pid, _inode) = (word()?, word()?);
    let number = |word: &str| word.parse().map_err(|_| wrong());
    let start = number(word()?)?;
    let end = match word()? {
        "EOF" => None,
        end => Some(number(end)?),
    };
    Ok(HeldLock {
        kind,
        access,
        start,
        end,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn locks_that_are_held_through_a_descriptor() {
        let lock = parse_held_lock(b"1: POSIX  ADVISORY  WRITE 3548 fe:00:4588 10 19").unwrap();
        let (kind, access) = (LockKind::Posix, LockAccess::Write);
        let expected = HeldLock {
            kind,
            access,
            start: 10,
            end: Some(19),
        };
        assert_eq!(lock, expected);
        let lock = parse_held_lock(b"2: FLOCK  ADVISORY  READ 3548 fe:00:4588 0 EOF").unwrap();
        assert_eq!(
            (lock.kind, lock.access, lock.end),
            (LockKind::Flock, LockAccess::Read, None)
        );
        let lock = parse_held_lock(b"3: OFDLCK ADVISORY  WRITE -1 fe:00:4588 0 EOF").unwrap();
        assert_eq!(lock.kind, LockKind::OpenFile);
        let lock = parse_held_lock(b"4: LEASE  BREAKING  UNLCK 12 fe:00:4588 0 EOF").unwrap();
        assert_eq!(lock.kind, LockKind::Lease { is_breaking: true });
        assert_eq!(lock.access, LockAccess::None);
        for bad in [
            &b"1: DELEG  ACTIVE    READ 12 fe:00:4588 0 EOF"[..],
            b"1: POSIX  ADVISORY  WRITE 3548 fe:00:4588 10",
            b"1: POSIX  ADVISORY  MAYBE 3548 fe:00:4588 10 19",
            b"",
        ] {
            assert!(
                parse_held_lock(bad).is_err(),
                "{}",
                String::from_utf8_lossy(bad)
            );
        }
    }

    #[test]
    fn held_and_awaited_locks_are_found() {
        let text = b"1: POSIX  ADVISORY  WRITE 3548 fe:00:4588 0 EOF\n\
            1: -> POSIX  ADVISORY  WRITE 3549 fe:00:4588 0 EOF\n\
            2: FLOCK  ADVISORY  READ  -1 00:1f:77 0 EOF\n\
            3: LEASE  ACTIVE    READ  12 103:02:9 0 EOF\n";
        let locks = parse_locks(text).unwrap();
        for (major, minor, inode) in [(0xfe, 0, 4588), (0, 0x1f, 77), (0x103, 2, 9)] {
            assert!(locks.contains(makedev(major, minor), inode));
        }
        assert!(!locks.contains(makedev(0xfe, 0), 77));
        assert!(parse_locks(b"1: POSIX  ADVISORY  WRITE 3 <none>:0 0 EOF\n").is_err());
        assert_eq!(parse_locks(b""), Ok(LockedInodes::default()));
    }

    #[test]
    fn locks_of_open_files_are_those_that_stand() {
        let text = b"1: POSIX  ADVISORY  WRITE 3548 fe:00:4588 0 EOF\n\
            2: FLOCK  ADVISORY  READ  77 00:1f:5 0 EOF\n\
            2: -> FLOCK  ADVISORY  WRITE 78 00:1f:5 0 EOF\n\
            3: OFDLCK ADVISORY  READ  -1 103:02:9 0 EOF\n";
        let locks = locks_of_open_files(text);
        let told = |lock: &OpenFilesLock| (lock.inode, lock.pid);
        let expected = [
            ((makedev(0, 0x1f), 5), Some(Pid(77))),
            ((makedev(0x103, 2), 9), None),
        ];
        assert_eq!(locks.iter().map(told).collect::<Vec<_>>(), expected);
        assert_eq!(locks[0].text, b"FLOCK  ADVISORY  READ  77 00:1f:5 0 EOF");
    }

    #[test]
    fn a_lock_taken_here_is_seen() {
        let file = tempfile::tempfile().unwrap();
        let Some(before) = LockedInodes::read() else {
            // Tests run as root of a container that has processes of its own.
            return;
        };
        let stat = nix::sys::stat::fstat(&file).unwrap();
        assert!(!before.contains(stat.st_dev, stat.st_ino));
        file.lock().unwrap();
        let after = LockedInodes::read().unwrap();
        assert!(after.contains(stat.st_dev, stat.st_ino));
    }
}
