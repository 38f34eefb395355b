//! Descriptors as they are before the freeze.

use std::collections::HashMap;
use std::fs::File;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};

use nix::fcntl::OFlag;
use nix::sys::stat::{FileStat, major};

use crate::collect::files::descriptors;
use crate::ids::{Fd, ObjectId, Pid};
use crate::kcmp::{FileFingerprint, FileLooks, FileTree};
use crate::parallel;
use crate::proc::ProcDir;
use crate::proc::fdinfo::{Fdinfo, parse_fdinfo};
use crate::sys::kcmp::{Order, Resource, kcmp};

/// A descriptor table before the freeze.
#[derive(Debug, Default)]
pub struct TableAhead {
    /// All numbers, ascending.
    fds: Vec<Fd>,
    /// What is known of those that are not inherited, ascending.
    known: Vec<AheadFd>,
}

/// What a look ahead may use, and how much it found.
#[derive(Debug)]
pub(super) struct Room {
    /// Descriptors of our own that may be used.
    pub(super) left: Countdown,
    /// How many more descriptors that a duplicate tells of are still few.
    pub(super) few: Countdown,
}

/// A number that is counted down by all threads.
#[derive(Debug)]
pub(super) struct Countdown(AtomicUsize);

impl Countdown {
    pub(super) fn from(count: usize) -> Self {
        Self(AtomicUsize::new(count))
    }

    /// Takes one, if there is one left.
    fn take(&self) -> bool {
        let one_less = |left: usize| left.checked_sub(1);
        self.0
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, one_less)
            .is_ok()
    }

    pub(super) fn is_used_up(&self) -> bool {
        self.0.load(Ordering::Relaxed) == 0
    }
}

/// A descriptor before the freeze.
#[derive(Debug)]
pub struct AheadFd {
    fd: Fd,
    /// Its fdinfo, open: it tells of whatever is open under this number when it is read. Not
    /// for a file of which a duplicate tells everything.
    fdinfo_file: Option<File>,
    text: Box<[u8]>,
    fdinfo: Fdinfo,
    /// The text of its link.
    pub link: PathBuf,
    /// What `stat` says of it.
    pub stat: FileStat,
    id: Option<ObjectId>,
    rank: Option<u32>,
}

impl TableAhead {
    /// Reads a table, within `room`.
    pub(super) fn of(
        pid: Pid,
        proc_dir: &ProcDir,
        parent: Option<(Pid, &TableAhead)>,
        room: &Room,
    ) -> Option<Self> {
        let fds = descriptors(proc_dir).ok()?;
        let inherited = |fd: Fd| {
            parent.is_some_and(|(parent, table)| {
                table.fds.binary_search(&fd).is_ok()
                    && kcmp(parent.leader(), pid.leader(), Resource::File(fd, fd))
                        == Ok(Order::Equal)
            })
        };
        let own = parallel::chunks(&fds, |_, fds| {
            fds.iter()
                .copied()
                .filter(|fd| !inherited(*fd))
                .collect::<Vec<_>>()
        });
        let own = own.concat();
        let known = parallel::chunks(&own, |_, fds| {
            let looks = fds.iter().filter_map(|fd| AheadFd::of(proc_dir, *fd, room));
            looks.collect::<Vec<_>>()
        });
        // What was open for a moment only is left out.
        let mut fds = fds;
        let now = descriptors(proc_dir).ok()?;
        fds.retain(|fd| now.binary_search(fd).is_ok());
        Some(Self {
            fds,
            known: known.into_iter().flatten().collect(),
        })
    }

    /// Sorts the open files of this table in among those of others.
    pub(super) fn identify(&mut self, pid: Pid, tree: &mut FileTree) {
        for one in &mut self.known {
            let looks = FileLooks {
                device: one.stat.st_dev,
                inode: one.stat.st_ino,
                mount: one.fdinfo.mount,
                flags: one.fdinfo.flags,
                link: one.link.as_os_str().as_bytes(),
                serial: one.fdinfo.extras.eventfd_id,
            };
            let sighting = tree.identify(pid.leader(), one.fd, FileFingerprint::of(&looks));
            one.id = sighting.ok().map(|sighting| sighting.id());
        }
    }

    pub(super) fn rank(&mut self, ranks: &HashMap<ObjectId, Option<u32>>) {
        for one in &mut self.known {
            one.rank = one.id.and_then(|id| ranks.get(&id).copied().flatten());
        }
    }

    /// All numbers, ascending.
    #[must_use]
    pub fn descriptors(&self) -> &[Fd] {
        &self.fds
    }

    /// What is known of a descriptor.
    #[must_use]
    pub fn get(&self, fd: Fd) -> Option<&AheadFd> {
        let place = self.known.binary_search_by_key(&fd, |one| one.fd);
        place.ok().map(|place| &self.known[place])
    }
}

impl AheadFd {
    fn of(proc_dir: &ProcDir, fd: Fd, room: &Room) -> Option<Self> {
        let fdinfo_file = proc_dir
            .open_file(&format!("fdinfo/{fd}"), OFlag::O_RDONLY)
            .ok()?;
        let mut text = Vec::new();
        let filled = read_whole(&fdinfo_file, &mut text).ok()?;
        text.truncate(filled);
        let fdinfo = parse_fdinfo(&text).ok()?;
        let name = format!("fd/{fd}");
        let (link, stat) = (proc_dir.read_link(&name).ok()?, proc_dir.stat(&name).ok()?);
        let by_duplicate = is_told_by_duplicate(&link, &stat);
        // The first ones may turn out to be the only ones.
        let is_one_of_many = by_duplicate && !room.few.take();
        let stays_open = !is_one_of_many && room.left.take();
        let fdinfo_file = stays_open.then_some(fdinfo_file);
        Some(Self {
            fd,
            fdinfo,
            fdinfo_file,
            text: text.into_boxed_slice(),
            link,
            stat,
            id: None,
            rank: None,
        })
    }

    /// Its rank among open files that look the same; see
    /// [`FileTree::ranks`](crate::kcmp::FileTree::ranks).
    #[must_use]
    pub fn rank(&self) -> Option<u32> {
        self.rank
    }

    /// Whether fdinfo is open, so that reading it is cheap.
    #[must_use]
    pub fn has_fdinfo(&self) -> bool {
        self.fdinfo_file.is_some()
    }

    /// Whether the descriptor leads to a file of which a duplicate tells everything.
    #[must_use]
    pub fn is_told_by_duplicate(&self) -> bool {
        is_told_by_duplicate(&self.link, &self.stat)
    }

    /// The descriptor's fdinfo as it is now. The buffer is there to be used again. `None` if it
    /// is not open.
    ///
    /// # Errors
    /// `ENOENT` the number is not open any more.
    pub fn fdinfo_now(&self, buffer: &mut Vec<u8>) -> std::io::Result<Option<FdinfoNow<'_>>> {
        let Some(file) = &self.fdinfo_file else {
            return Ok(None);
        };
        let filled = read_whole(file, buffer)?;
        Ok(Some(if buffer[..filled] == *self.text {
            FdinfoNow::Unchanged(&self.fdinfo)
        } else {
            FdinfoNow::Changed(filled)
        }))
    }

    /// Whether a descriptor with this fdinfo may be the one that was seen: same mount, inode
    /// and kind.
    #[must_use]
    pub fn may_be(&self, now: &Fdinfo) -> bool {
        now.inode.is_some()
            && (now.inode, now.mount) == (self.fdinfo.inode, self.fdinfo.mount)
            && kind(now) == kind(&self.fdinfo)
    }

    /// Whether fdinfo shows that it is a file of a kind that has no path of its own.
    #[must_use]
    pub fn is_plain_anonymous(&self) -> bool {
        kind(&self.fdinfo).iter().any(|is| *is)
    }
}

/// What fdinfo says now.
#[derive(Debug)]
pub enum FdinfoNow<'a> {
    /// The same as before.
    Unchanged(&'a Fdinfo),
    /// Something else: so many bytes of the buffer.
    Changed(usize),
}

/// Files and folders of disks, pipes and sockets: fdinfo says no more of them than `fstat` and
/// `fcntl` of a duplicate, but for locks.
fn is_told_by_duplicate(link: &Path, stat: &FileStat) -> bool {
    let link = link.as_os_str().as_bytes();
    match stat.st_mode & libc::S_IFMT {
        // Where a file is, is asked by lseek, which is more than a question to some devices
        // and file systems without a disk.
        libc::S_IFREG | libc::S_IFDIR => major(stat.st_dev) != 0,
        libc::S_IFIFO => link.starts_with(b"pipe:["),
        libc::S_IFSOCK => link.starts_with(b"socket:["),
        _ => false,
    }
}

/// Eventfd, signalfd, timerfd, epoll that waits for something.
fn kind(fdinfo: &Fdinfo) -> [bool; 4] {
    let extras = &fdinfo.extras;
    [
        extras.eventfd_count.is_some(),
        extras.sigmask.is_some(),
        extras.timerfd.is_some(),
        !extras.epoll.is_empty(),
    ]
}

/// Reads a file of one record from its beginning: the kernel makes the whole record for the
/// first read, and hands out as much as there is room for.
fn read_whole(file: &File, buffer: &mut Vec<u8>) -> std::io::Result<usize> {
    const FIRST_ROOM: usize = 2048;
    buffer.resize(buffer.len().max(FIRST_ROOM), 0);
    let mut filled = 0;
    loop {
        filled += file.read_at(&mut buffer[filled..], filled as u64)?;
        if filled < buffer.len() {
            return Ok(filled);
        }
        buffer.resize(filled * 2, 0);
    }
}
