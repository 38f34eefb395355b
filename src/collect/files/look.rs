//! The first look at every descriptor of a table, on all processors at once.
//!
//! What is seen is handed over in an order that suits the tree of open files; identifying them
//! stays in one place. What was seen before the freeze is used where it still holds:
//!
//! * of a file on a disk, a pipe or a socket a duplicate tells everything that fdinfo does, in
//!   half the time, if the task has said whether exec closes the descriptor, and the system's
//!   list of locks has none on that inode;
//! * of everything else fdinfo is read again through the file that is open since then, and parsed again if it
//!   says something else;
//! * a link to a path is believed if the path leads to the inode that was seen behind the link,
//!   and fdinfo still tells of that inode. The device is part of this and fdinfo does not tell
//!   it: the mount does, on file systems with one device (those with a major number);
//! * the link of a pipe or socket is its inode; that of a thing like an eventfd says its kind,
//!   which the lines of fdinfo do, too.

use std::collections::HashSet;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;

use nix::errno::Errno;
use nix::sys::stat::{FileStat, lstat, major};
use nix::unistd::{Whence, lseek};

use super::TableOwner;
use crate::ahead::{AheadFd, FdinfoNow};
use crate::error::{Result, ResultExt};
use crate::ids::{Fd, ObjectId};
use crate::kcmp::{Expected, FileTree};
use crate::parallel;
use crate::proc::fdinfo::{Fdinfo, parse_fdinfo};
use crate::sys::fcntl::{self, Owner};
use crate::sys::kcmp::{Order, Resource, kcmp};
use crate::sys::pidfd::pidfd_getfd;
use crate::sys::stat::statx;

/// What the first look at a descriptor shows.
#[derive(Debug)]
pub(super) enum Look {
    /// It leads where the same number leads in the parent: nothing more need be known.
    Inherited {
        file: ObjectId,
        close_on_exec: bool,
        /// Lines of locks that the task holds through this descriptor.
        locks: Vec<Vec<u8>>,
    },
    /// Anything else.
    Other(Box<OtherLook>),
}

/// A descriptor that is not inherited.
#[derive(Debug)]
pub(super) struct OtherLook {
    pub(super) fdinfo: Fdinfo,
    /// Link and `stat`, where these say more than fdinfo.
    pub(super) file: Option<FileLook>,
    /// Who is told about its events, where that was asked already.
    pub(super) owner: Option<Owner>,
    pub(super) expected: Expected,
}

/// What a descriptor leads to.
#[derive(Debug)]
pub(super) struct FileLook {
    pub(super) link: PathBuf,
    pub(super) stat: FileStat,
    /// The link is a path that leads there.
    pub(super) is_path: bool,
}

/// What became of looking, and how many questions were put to kcmp.
#[derive(Debug, Default)]
pub(super) struct Looks {
    pub(super) looks: Vec<(Fd, Look)>,
    pub(super) kcmp_calls: u64,
}

/// Looks at all given descriptors.
pub(super) fn look_at(
    owner: TableOwner<'_>,
    pidfd: BorrowedFd<'_>,
    fds: &[Fd],
    tree: &FileTree,
    lockable: &HashSet<ObjectId>,
) -> Result<Looks> {
    // In the order that look-alikes had before the freeze, each stands next to the one before.
    let mut order: Vec<(Option<u32>, Fd)> = fds
        .iter()
        .map(|fd| (owner.known_ahead(*fd).and_then(AheadFd::rank), *fd))
        .collect();
    order.sort();
    let parts = parallel::chunks(&order, |start, some| {
        let before = start.checked_sub(1).map(|place| order[place]);
        look_at_some(owner, pidfd, before, some, tree, lockable)
    });
    let mut all = Looks::default();
    for part in parts {
        let part = part?;
        all.looks.extend(part.looks);
        all.kcmp_calls += part.kcmp_calls;
    }
    Ok(all)
}

impl<'a> TableOwner<'a> {
    fn closes_on_exec(&self, fd: Fd) -> Option<bool> {
        let known = self.close_on_exec?;
        let place = known.binary_search_by_key(&fd, |one| one.0).ok()?;
        Some(known[place].1)
    }

    fn known_ahead(&self, fd: Fd) -> Option<&'a AheadFd> {
        self.ahead.and_then(|table| table.get(fd))
    }
}

fn look_at_some(
    owner: TableOwner<'_>,
    pidfd: BorrowedFd<'_>,
    mut before: Option<(Option<u32>, Fd)>,
    fds: &[(Option<u32>, Fd)],
    tree: &FileTree,
    lockable: &HashSet<ObjectId>,
) -> Result<Looks> {
    let mut seen = Looks {
        looks: Vec::with_capacity(fds.len()),
        kcmp_calls: 0,
    };
    let mut looker = Looker {
        owner,
        pidfd,
        text: Vec::new(),
        last_path: None,
    };
    for &(rank, fd) in fds {
        let inherited = owner.inherited.and_then(|table| table.file(fd));
        let holder =
            inherited.and_then(|file| tree.first_holder(file).map(|holder| (file, holder)));
        let mut same = None;
        if let Some((file, (tid, holder_fd))) = holder {
            let resource = Resource::File(holder_fd, fd);
            seen.kcmp_calls += 1;
            let order = kcmp(tid, owner.tid, resource).on(resource.op(), (owner.tid, fd))?;
            same = (order == Order::Equal).then_some(file);
        }
        let look = match (same, owner.closes_on_exec(fd)) {
            (Some(file), Some(close_on_exec)) if !lockable.contains(&file) => Look::Inherited {
                file,
                close_on_exec,
                locks: Vec::new(),
            },
            (Some(file), _) => {
                let fdinfo = looker.fdinfo(fd)?;
                Look::Inherited {
                    file,
                    close_on_exec: fdinfo.flags & libc::O_CLOEXEC.cast_unsigned() != 0,
                    locks: fdinfo.extras.locks,
                }
            }
            (None, _) => {
                let mut look = looker.other(fd)?;
                look.expected.rank = rank;
                if let (Some(_), Some((Some(_), neighbour))) = (rank, before) {
                    let resource = Resource::File(neighbour, fd);
                    let order =
                        kcmp(owner.tid, owner.tid, resource).on(resource.op(), (owner.tid, fd))?;
                    look.expected.answered = Some((neighbour, order));
                }
                Look::Other(Box::new(look))
            }
        };
        before = Some((rank, fd));
        seen.looks.push((fd, look));
    }
    Ok(seen)
}

/// Looks at one descriptor after the other.
struct Looker<'a> {
    owner: TableOwner<'a>,
    pidfd: BorrowedFd<'a>,
    text: Vec<u8>,
    /// The last path that was followed, and where it led.
    last_path: Option<(&'a AheadFd, FileStat)>,
}

impl<'a> Looker<'a> {
    fn fdinfo(&mut self, fd: Fd) -> Result<Fdinfo> {
        let proc_dir = self.owner.proc_dir;
        let name = || format!("fdinfo/{fd}");
        let filled = match self.owner.known_ahead(fd) {
            Some(known) if known.has_fdinfo() => {
                let now = known
                    .fdinfo_now(&mut self.text)
                    .map_err(|error| Errno::from_raw(error.raw_os_error().unwrap_or(libc::EIO)));
                match now.on("read", proc_dir.path_of(&name()).as_path())? {
                    Some(FdinfoNow::Unchanged(fdinfo)) => return Ok(fdinfo.clone()),
                    Some(FdinfoNow::Changed(filled)) => filled,
                    None => 0,
                }
            }
            _ => proc_dir.read_into(&name(), &mut self.text)?,
        };
        parse_fdinfo(&self.text[..filled]).map_err(|e| e.at(proc_dir.path_of(&name())))
    }

    fn other(&mut self, fd: Fd) -> Result<OtherLook> {
        if let Some(look) = self.by_duplicate(fd)? {
            return Ok(look);
        }
        let fdinfo = self.fdinfo(fd)?;
        // Of an eventfd its fdinfo tells everything there is to know.
        let tells_all = fdinfo.extras.eventfd_count.is_some() && fdinfo.inode.is_some();
        let file = if tells_all {
            None
        } else {
            Some(self.file(fd, &fdinfo)?)
        };
        let needs_duplicate = file.as_ref().is_some_and(|file| {
            matches!(
                file.stat.st_mode & libc::S_IFMT,
                libc::S_IFSOCK | libc::S_IFIFO
            )
        });
        let owner = if fdinfo.flags & libc::O_PATH.cast_unsigned() != 0 {
            Some(Owner::default())
        } else if needs_duplicate {
            None
        } else {
            let target = (self.owner.tid, fd);
            let duplicate = pidfd_getfd(self.pidfd, fd).on("pidfd_getfd", target)?;
            Some(fcntl::owner(duplicate.as_fd()).on("fcntl GETOWN_EX", target)?)
        };
        Ok(OtherLook {
            fdinfo,
            file,
            owner,
            expected: Expected::default(),
        })
    }

    /// Everything from a duplicate, where that is possible.
    fn by_duplicate(&mut self, fd: Fd) -> Result<Option<OtherLook>> {
        let (Some(known), Some(close_on_exec), Some(locked)) = (
            self.owner.known_ahead(fd),
            self.owner.closes_on_exec(fd),
            self.owner.locked,
        ) else {
            return Ok(None);
        };
        if !known.is_told_by_duplicate() {
            return Ok(None);
        }
        let target = (self.owner.tid, fd);
        let duplicate = pidfd_getfd(self.pidfd, fd).on("pidfd_getfd", target)?;
        let (stat, mount) = statx(duplicate.as_fd()).on("statx", target)?;
        let kind = stat.st_mode & libc::S_IFMT;
        let same = (stat.st_dev, stat.st_ino, kind)
            == (
                known.stat.st_dev,
                known.stat.st_ino,
                known.stat.st_mode & libc::S_IFMT,
            );
        let flags = fcntl::status_flags(duplicate.as_fd()).on("fcntl GETFL", target)?;
        let is_path_only = flags & libc::O_PATH.cast_unsigned() != 0;
        if !same || is_path_only || locked.contains(stat.st_dev, stat.st_ino) {
            return Ok(None);
        }
        let has_path = matches!(kind, libc::S_IFREG | libc::S_IFDIR);
        let position = if has_path {
            lseek(duplicate.as_fd(), 0, Whence::SeekCur).on("lseek", target)?
        } else {
            0
        };
        let cloexec = if close_on_exec { libc::O_CLOEXEC } else { 0 };
        let is_path = has_path && self.leads_there(known);
        let link = if has_path && !is_path {
            self.owner.proc_dir.read_link(&format!("fd/{fd}"))?
        } else {
            known.link.clone()
        };
        Ok(Some(OtherLook {
            fdinfo: Fdinfo {
                position: position.cast_unsigned(),
                flags: flags | cloexec.cast_unsigned(),
                mount,
                inode: Some(stat.st_ino),
                ..Fdinfo::default()
            },
            file: Some(FileLook {
                link,
                stat,
                is_path,
            }),
            owner: Some(fcntl::owner(duplicate.as_fd()).on("fcntl GETOWN_EX", target)?),
            expected: Expected::default(),
        }))
    }

    /// Whether the path that was seen leads to the inode that was seen.
    fn leads_there(&mut self, known: &'a AheadFd) -> bool {
        let stat = match &self.last_path {
            Some((last, stat)) if last.link == known.link => *stat,
            _ => {
                let Ok(stat) = lstat(&known.link) else {
                    return false;
                };
                self.last_path = Some((known, stat));
                stat
            }
        };
        (stat.st_dev, stat.st_ino) == (known.stat.st_dev, known.stat.st_ino)
    }

    fn file(&mut self, fd: Fd, fdinfo: &Fdinfo) -> Result<FileLook> {
        if let Some(known) = self.owner.known_ahead(fd)
            && known.may_be(fdinfo)
            && let Some((stat, is_path)) = self.still(known)
        {
            return Ok(FileLook {
                link: known.link.clone(),
                stat,
                is_path,
            });
        }
        let link = format!("fd/{fd}");
        Ok(FileLook {
            link: self.owner.proc_dir.read_link(&link)?,
            stat: self.owner.proc_dir.stat(&link)?,
            is_path: false,
        })
    }

    /// What `stat` would say, if the link that was seen before must still be right.
    fn still(&mut self, known: &'a AheadFd) -> Option<(FileStat, bool)> {
        let link = known.link.as_os_str().as_bytes();
        if link.starts_with(b"anon_inode:") {
            return known.is_plain_anonymous().then_some((known.stat, false));
        }
        if link.starts_with(b"pipe:[") || link.starts_with(b"socket:[") {
            return Some((known.stat, false));
        }
        let kind = known.stat.st_mode & libc::S_IFMT;
        if !matches!(kind, libc::S_IFREG | libc::S_IFDIR)
            || major(known.stat.st_dev) == 0
            || !link.starts_with(b"/")
        {
            return None;
        }
        if !self.leads_there(known) {
            return None;
        }
        let (_, stat) = self.last_path.as_ref()?;
        (stat.st_mode & libc::S_IFMT == kind).then_some((*stat, true))
    }
}
