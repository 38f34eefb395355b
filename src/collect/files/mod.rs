//! Descriptor tables, the open files behind them, and files reached without a descriptor.
//!
//! Everything is read from outside: the link, `stat` and fdinfo of a descriptor, and a
//! duplicate of it for what only `fcntl` tells. A duplicate is an alias of the task's own open
//! file, so nothing is ever changed through it. An open file is examined once, by whichever
//! descriptor leads there first.

mod ghost;
mod in_flight;
mod kinds;
mod look;
mod mapped;
mod pipe;
mod shmem;

use std::collections::{HashMap, HashSet};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::OFlag;
use nix::sys::stat::FileStat;

pub use ghost::{Chunk, Ghost};
pub use kinds::{EpollTarget, FileKind, Regular};
pub use mapped::{Mapper, Residency, ResidencyQuestion};
pub use pipe::PipeContent;
pub use shmem::{ANON_HUGEPAGE, Extent, SYSTEM_V, Segment};
use shmem::{Content, is_secret};

use crate::ahead::TableAhead;
use crate::collect::notes::Note;
use crate::collect::sockets::Sockets;
use crate::error::{Error, Result, ResultExt, Target};
use crate::ids::{Fd, ObjectId, Pid, Tid};
use crate::kcmp::{Claim, FileFingerprint, FileLooks, FileTree, Sighting};
use crate::options::SocketChoices;
use crate::proc::ProcDir;
use crate::proc::fdinfo::{Extras, Fdinfo};
use crate::proc::locks::LockedInodes;
use crate::sys::fcntl::{self, Owner};
use crate::sys::kcmp::{EpollSlot, Order, Resource, kcmp};
use crate::sys::pidfd::{pidfd_getfd, pidfd_open, pidfd_open_thread};
use look::{Look, Looks, OtherLook, look_at};

/// One descriptor of a table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Descriptor {
    /// Its number.
    pub fd: Fd,
    /// The open file it leads to.
    pub file: ObjectId,
    /// Whether exec closes it.
    pub close_on_exec: bool,
}

/// A descriptor table.
#[derive(Clone, Debug, Default)]
pub struct DescriptorTable {
    /// Its descriptors, ascending.
    pub descriptors: Vec<Descriptor>,
}

impl DescriptorTable {
    /// The file under a number.
    #[must_use]
    pub fn file(&self, fd: Fd) -> Option<ObjectId> {
        let place = self
            .descriptors
            .binary_search_by_key(&fd, |descriptor| descriptor.fd);
        place.ok().map(|place| self.descriptors[place].file)
    }
}

/// An open file, or a path that is held without one.
#[derive(Debug)]
pub struct OpenFile {
    /// The right to write its entry.
    pub claim: Claim,
    /// Open flags without close-on-exec.
    pub flags: u32,
    /// Position in bytes.
    pub position: u64,
    /// Who is told about its events.
    pub owner: Owner,
    /// What it is.
    pub kind: FileKind,
}

/// A table's owner: the task through which its descriptors are read.
#[derive(Clone, Copy, Debug)]
pub struct TableOwner<'a> {
    /// The thread, for kcmp.
    pub tid: Tid,
    /// Its process, for duplicates.
    pub pid: Pid,
    /// Its folder in `/proc`.
    pub proc_dir: &'a ProcDir,
    /// The table of its parent, whose descriptors it may have inherited.
    pub inherited: Option<&'a DescriptorTable>,
    /// Its descriptors, ascending, if they were listed, or were as many before the freeze.
    pub fds: Option<&'a [Fd]>,
    /// Those of which it was asked whether exec closes them, ascending, and the answers.
    pub close_on_exec: Option<&'a [(Fd, bool)]>,
    /// Inodes that anybody has locked, if all of them are known.
    pub locked: Option<&'a LockedInodes>,
    /// What was seen of it before the freeze.
    pub ahead: Option<&'a TableAhead>,
}

/// Everything about files that was met so far.
#[derive(Debug)]
pub struct Files {
    /// Every open file, each once.
    pub open: Vec<OpenFile>,
    /// Deleted files that are still in use.
    pub ghosts: Vec<Ghost>,
    /// What waits in pipes and FIFOs.
    pub pipes: Vec<PipeContent>,
    /// Nameless shared memory.
    pub segments: Vec<Segment>,
    /// What is known of sockets.
    pub sockets: Sockets,
    /// What today's restorers cannot bring back as it was.
    pub notes: Vec<Note>,
    shmem_device: u64,
    /// Files held without a descriptor, by device and inode.
    held: HashMap<(u64, u64), ObjectId>,
    /// Mapped files, by the device and inode that `maps` shows.
    mapped: HashMap<(u64, u64), (ObjectId, bool)>,
    /// Device and inode of each open file, as `stat` gives them.
    inodes: HashMap<ObjectId, (u64, u64)>,
}

/// What is known of a file before it is examined.
struct Sight<'a> {
    target: Target,
    link: &'a Path,
    stat: &'a FileStat,
    fdinfo: &'a Fdinfo,
    /// Whether the link is known to be a path that leads there.
    is_path: bool,
}

impl Files {
    /// Nothing met yet. `shmem_device` is what files of shared memory are on.
    #[must_use]
    pub fn new(sockets: &SocketChoices, shmem_device: u64) -> Self {
        Self {
            open: Vec::new(),
            ghosts: Vec::new(),
            pipes: Vec::new(),
            segments: Vec::new(),
            notes: Vec::new(),
            sockets: Sockets::new(sockets.clone()),
            shmem_device,
            held: HashMap::new(),
            mapped: HashMap::new(),
            inodes: HashMap::new(),
        }
    }

    /// Reads a descriptor table and every open file in it that was not met before.
    ///
    /// # Errors
    /// [`Error::Blocked`] with every descriptor that the images cannot hold.
    pub fn table(&mut self, owner: TableOwner<'_>, tree: &mut FileTree) -> Result<DescriptorTable> {
        let pidfd = if owner.tid == owner.pid.leader() {
            pidfd_open(owner.pid)
        } else {
            pidfd_open_thread(owner.tid)
        };
        let pidfd = pidfd.on("pidfd_open", owner.tid)?;
        let mut table = DescriptorTable::default();
        let mut epolls = Vec::new();
        let mut refused = HashSet::new();
        let mut blockers = Vec::new();
        let seen = look_at_all(owner, pidfd.as_fd(), tree)?;
        let inherited = seen
            .looks
            .iter()
            .filter(|(_, look)| matches!(look, Look::Inherited { .. }))
            .count();
        tree.asked_elsewhere(inherited as u64, seen.kcmp_calls);
        for (fd, look) in seen.looks {
            let other = match look {
                Look::Inherited {
                    file,
                    close_on_exec,
                } => {
                    table.descriptors.push(Descriptor {
                        fd,
                        file,
                        close_on_exec,
                    });
                    continue;
                }
                Look::Other(other) => other,
            };
            match self.descriptor(owner, fd, *other, pidfd.as_fd(), tree, &mut epolls) {
                Ok(descriptor) => table.descriptors.push(descriptor),
                Err(error @ (Error::Blocked(_) | Error::Unsupported { .. })) => {
                    refused.insert(fd);
                    blockers.push(error);
                }
                Err(error) => return Err(error),
            }
        }
        table.descriptors.sort_unstable_by_key(|one| one.fd);
        for (index, fd, extras) in epolls {
            match self.epoll_targets(owner, fd, &extras, &table, &refused) {
                Ok(targets) => self.open[index].kind = FileKind::Epoll { targets },
                Err(error) => blockers.push(error),
            }
        }
        if blockers.is_empty() {
            Ok(table)
        } else {
            Err(Error::Blocked(blockers))
        }
    }

    fn descriptor(
        &mut self,
        owner: TableOwner<'_>,
        fd: Fd,
        look: OtherLook,
        pidfd: BorrowedFd<'_>,
        tree: &mut FileTree,
        epolls: &mut Vec<(usize, Fd, Extras)>,
    ) -> Result<Descriptor> {
        let OtherLook {
            fdinfo,
            file: looked,
            owner: told,
            expected,
        } = look;
        let descriptor = |file| Descriptor {
            fd,
            file,
            close_on_exec: fdinfo.flags & libc::O_CLOEXEC.cast_unsigned() != 0,
        };
        // Without a look at the link it is an eventfd, and fdinfo has told all.
        let link = looked.as_ref().map_or(kinds::EVENTFD_LINK, |looked| {
            looked.link.as_os_str().as_bytes()
        });
        let inode = looked
            .as_ref()
            .map_or((0, fdinfo.inode.unwrap_or(0)), |looked| {
                (looked.stat.st_dev, looked.stat.st_ino)
            });
        let looks = FileLooks {
            device: inode.0,
            inode: inode.1,
            mount: fdinfo.mount,
            flags: fdinfo.flags,
            link,
            serial: fdinfo.extras.eventfd_id,
        };
        let fingerprint = FileFingerprint::of(&looks);
        let claim = match tree.identify_expected(owner.tid, fd, fingerprint, expected)? {
            Sighting::Again(file) => return Ok(descriptor(file)),
            Sighting::First(claim) => claim,
        };
        let file = claim.id();
        let target: Target = (owner.tid, fd).into();
        let duplicate = || pidfd_getfd(pidfd, fd).on("pidfd_getfd", (owner.tid, fd));
        let kind = match &looked {
            None => kinds::anonymous(target, link, &fdinfo.extras)?,
            Some(looked) => {
                let sight = Sight {
                    target,
                    link: &looked.link,
                    stat: &looked.stat,
                    fdinfo: &fdinfo,
                    is_path: looked.is_path,
                };
                self.examine(
                    &sight,
                    &duplicate,
                    owner.proc_dir,
                    &format!("fd/{fd}"),
                    file,
                    tree,
                )?
            }
        };
        let told = match told {
            Some(owner) => owner,
            None => fcntl::owner(duplicate()?.as_fd()).on("fcntl GETOWN_EX", (owner.tid, fd))?,
        };
        if matches!(kind, FileKind::Epoll { .. }) {
            epolls.push((self.open.len(), fd, fdinfo.extras.clone()));
        }
        self.inodes.insert(file, inode);
        self.open.push(OpenFile {
            claim,
            flags: fdinfo.flags & !libc::O_CLOEXEC.cast_unsigned(),
            position: fdinfo.position,
            owner: told,
            kind,
        });
        Ok(descriptor(file))
    }

    /// Says what an open file is, and reads what belongs to it.
    fn examine(
        &mut self,
        sight: &Sight<'_>,
        duplicate: &dyn Fn() -> Result<OwnedFd>,
        proc_dir: &ProcDir,
        link_name: &str,
        file: ObjectId,
        tree: &mut FileTree,
    ) -> Result<FileKind> {
        const MEM_MAJOR: u64 = 1;
        const MISC_MAJOR: u64 = 10;
        let text = sight.link.as_os_str().as_bytes();
        if sight.fdinfo.extras.locks.iter().any(|_| true) {
            return Err(sight.refuse(
                "a locked file",
                "let the program release its lock; --file-locks is not supported yet",
            ));
        }
        let kind = sight.stat.st_mode & libc::S_IFMT;
        if kind == libc::S_IFREG
            && let Some(page_bytes) = self.shmem_page_bytes(sight.link, sight.stat)
        {
            let content = proc_dir.open_file(link_name, OFlag::O_RDONLY)?;
            let seals =
                fcntl::seals(duplicate()?.as_fd()).on("fcntl GET_SEALS", sight.target.clone())?;
            let segment = self.segment(sight, page_bytes, seals, Content::File(content))?;
            return Ok(FileKind::Memfd { segment });
        }
        if is_secret(sight.link, sight.stat) {
            return Err(sight.refuse_secret());
        }
        match kind {
            _ if text.starts_with(b"anon_inode:") => kinds::anonymous(sight.target.clone(), text, &sight.fdinfo.extras),
            libc::S_IFREG | libc::S_IFDIR | libc::S_IFLNK => {
                let open = || proc_dir.open_file(link_name, OFlag::O_RDONLY);
                self.regular(sight, file, open).map(FileKind::Regular)
            }
            libc::S_IFCHR => match nix::sys::stat::major(sight.stat.st_rdev) {
                MEM_MAJOR | MISC_MAJOR => {
                    let open = || proc_dir.open_file(link_name, OFlag::O_RDONLY);
                    self.regular(sight, file, open).map(FileKind::Regular)
                }
                _ => Err(sight.refuse(
                    &format!("the device {}", sight.link.display()),
                    "start the program without it, e.g. with its terminal replaced by a file or /dev/null",
                )),
            },
            libc::S_IFSOCK => {
                let socket = self.sockets.examine(&sight.target, sight.stat.st_ino, file, duplicate()?.as_fd())?;
                Ok(FileKind::Socket(Box::new(socket)))
            }
            libc::S_IFIFO if text.starts_with(b"pipe:[") => self.pipe(sight, &duplicate()?, false),
            libc::S_IFIFO => {
                let kind = self.pipe(sight, &duplicate()?, true)?;
                let path = self.hold(sight, None, proc_dir, link_name, tree)?;
                match kind {
                    FileKind::Pipe { pipe } => Ok(FileKind::Fifo { pipe, path }),
                    other => Ok(other),
                }
            }
            _ => Err(sight.refuse(&format!("{}", sight.link.display()), "this kind of file is not supported yet")),
        }
    }

    /// The entry of a file that a task holds without a descriptor: `cwd`, `root`, `exe`.
    ///
    /// # Errors
    /// When its path no longer leads to it.
    pub fn path(
        &mut self,
        tid: Tid,
        proc_dir: &ProcDir,
        link_name: &str,
        tree: &mut FileTree,
    ) -> Result<ObjectId> {
        let stat = proc_dir.stat(link_name)?;
        if let Some(file) = self.held.get(&(stat.st_dev, stat.st_ino)) {
            return Ok(*file);
        }
        let link = proc_dir.read_link(link_name)?;
        let sight = Sight {
            target: tid.into(),
            link: &link,
            stat: &stat,
            fdinfo: &Fdinfo::default(),
            is_path: false,
        };
        self.hold(&sight, None, proc_dir, link_name, tree)
    }

    /// Gives a file without a descriptor an entry of its own, once per inode.
    fn hold(
        &mut self,
        sight: &Sight<'_>,
        kind: Option<FileKind>,
        proc_dir: &ProcDir,
        link_name: &str,
        tree: &mut FileTree,
    ) -> Result<ObjectId> {
        let inode = (sight.stat.st_dev, sight.stat.st_ino);
        if let Some(file) = self.held.get(&inode) {
            return Ok(*file);
        }
        let claim = tree.claim_fresh()?;
        let file = claim.id();
        let flags = if kind.is_some() {
            libc::O_RDWR
        } else {
            libc::O_RDONLY
        };
        let kind = match kind {
            Some(kind) => kind,
            None => {
                let open = || proc_dir.open_file(link_name, OFlag::O_RDONLY);
                FileKind::Regular(self.regular(sight, file, open)?)
            }
        };
        self.held.insert(inode, file);
        self.open.push(OpenFile {
            claim,
            flags: flags.cast_unsigned(),
            position: 0,
            owner: Owner::default(),
            kind,
        });
        Ok(file)
    }

    /// A file with a path: checks that the path leads to it, or keeps a deleted one as a ghost.
    fn regular(
        &mut self,
        sight: &Sight<'_>,
        file: ObjectId,
        open: impl FnOnce() -> Result<std::fs::File>,
    ) -> Result<Regular> {
        let stat = sight.stat;
        let is_file = stat.st_mode & libc::S_IFMT == libc::S_IFREG;
        let mut path = sight.link.to_owned();
        if stat.st_nlink == 0 {
            if !is_file {
                return Err(sight.refuse(
                    &format!("the deleted {}", path.display()),
                    "only deleted regular files can be dumped",
                ));
            }
            path = without_deleted_mark(&path);
            self.ghost(sight, file, open)?;
        } else if !sight.is_path && !leads_to(&path, stat) {
            if nix::sys::stat::lstat(&path) == Err(Errno::EACCES) {
                return Err(sight.refuse(
                    &format!("{}, which your user cannot reach,", path.display()),
                    "run dedump with CAP_DAC_READ_SEARCH",
                ));
            }
            return Err(sight.refuse(
                &format!(
                    "{}, whose path does not lead to it any more,",
                    path.display()
                ),
                "put the file back under that name; --link-remap is not supported yet",
            ));
        }
        // What is only appended to may grow before restore.
        let append_only = (libc::O_WRONLY | libc::O_APPEND).cast_unsigned();
        let grows = sight.fdinfo.flags & append_only == append_only;
        Ok(Regular {
            path,
            mode: stat.st_mode,
            size_bytes: (is_file && !grows).then_some(stat.st_size.cast_unsigned()),
        })
    }

    /// Finds the descriptor behind each target of an epoll.
    fn epoll_targets(
        &self,
        owner: TableOwner<'_>,
        epoll: Fd,
        extras: &Extras,
        table: &DescriptorTable,
        refused: &HashSet<Fd>,
    ) -> Result<Vec<EpollTarget>> {
        let has_inode =
            |file: ObjectId, inode| self.inodes.get(&file).is_some_and(|known| known.1 == inode);
        let mut targets = Vec::with_capacity(extras.epoll.len());
        let mut same_number = HashMap::new();
        let by_number: HashMap<Fd, ObjectId> = table
            .descriptors
            .iter()
            .map(|one| (one.fd, one.file))
            .collect();
        for line in &extras.epoll {
            let offset = same_number
                .entry(line.fd)
                .and_modify(|seen| *seen += 1)
                .or_insert(0_u32);
            let slot = EpollSlot {
                epoll,
                target: Fd(line.fd),
                offset: *offset,
            };
            let direct = by_number
                .get(&Fd(line.fd))
                .is_some_and(|file| has_inode(*file, line.inode));
            let fd = if direct && *offset == 0 {
                Some(Fd(line.fd))
            } else {
                // Moved or duplicated: ask about every descriptor with that inode.
                let mut found = None;
                for one in table
                    .descriptors
                    .iter()
                    .filter(|one| has_inode(one.file, line.inode))
                {
                    let resource = Resource::EpollTarget(one.fd, slot);
                    if kcmp(owner.tid, owner.tid, resource)
                        .on(resource.op(), (owner.tid, one.fd))?
                        == Order::Equal
                    {
                        found = Some(one.fd);
                        break;
                    }
                }
                found
            };
            let Some(fd) = fd else {
                if refused.contains(&Fd(line.fd)) {
                    // Said already, of the descriptor itself.
                    continue;
                }
                return Err(Error::unsupported(
                    (owner.tid, epoll),
                    format!(
                        "an epoll that waits for {}, which is closed in this task,",
                        line.fd
                    ),
                    "let the program remove it with EPOLL_CTL_DEL before it closes the descriptor",
                ));
            };
            targets.push(EpollTarget { fd, line: *line });
        }
        Ok(targets)
    }
}

/// Looks at all descriptors of a table.
fn look_at_all(owner: TableOwner<'_>, pidfd: BorrowedFd<'_>, tree: &FileTree) -> Result<Looks> {
    if let Some(fds) = owner.fds {
        // They may be as many as before the freeze and still others. That each of them is open
        // proves that they are the same: every look asks the kernel about its number.
        match look_at(owner, pidfd, fds, tree) {
            Err(Error::Syscall {
                errno: Errno::ENOENT | Errno::EBADF,
                ..
            }) => {}
            done => return done,
        }
    }
    look_at(owner, pidfd, &descriptors(owner.proc_dir)?, tree)
}

/// How many descriptors a task has, if the kernel tells, which it does since Linux 6.2.
///
/// # Errors
/// Those of fstatat(2).
///
/// # Sources
/// fs/proc/fd.c, `proc_readfd_count`.
pub fn count_descriptors(proc_dir: &ProcDir) -> Result<Option<usize>> {
    // Older kernels say 0, as for no descriptors at all; those are quickly listed.
    let size = usize::try_from(proc_dir.stat("fd")?.st_size).unwrap_or(0);
    Ok((size > 0).then_some(size))
}

/// The numbers of a task's descriptors, ascending.
///
/// # Errors
/// Those of listing its `fd` folder.
pub fn descriptors(proc_dir: &ProcDir) -> Result<Vec<Fd>> {
    let mut fds = proc_dir.numbers("fd")?;
    fds.sort_unstable();
    Ok(fds.into_iter().map(Fd).collect())
}

impl Sight<'_> {
    fn refuse(&self, what: &str, remedy: &str) -> Error {
        Error::unsupported(self.target.clone(), what, remedy)
    }
}

/// The kernel marks the link of a file without a name.
fn without_deleted_mark(link: &Path) -> PathBuf {
    let bytes = link.as_os_str().as_bytes();
    let name = bytes.strip_suffix(b" (deleted)").unwrap_or(bytes);
    PathBuf::from(std::ffi::OsStr::from_bytes(name))
}

fn leads_to(path: &Path, stat: &FileStat) -> bool {
    // lstat: a link opened with O_PATH | O_NOFOLLOW is itself what was opened.
    nix::sys::stat::lstat(path)
        .is_ok_and(|found| found.st_dev == stat.st_dev && found.st_ino == stat.st_ino)
}
