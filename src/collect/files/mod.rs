//! Descriptor tables, the open files behind them, and files reached without a descriptor.
//!
//! Everything is read from outside: the link, `stat` and fdinfo of a descriptor, and a
//! duplicate of it for what only `fcntl` tells. A duplicate is an alias of the task's own open
//! file, so nothing is ever changed through it. An open file is examined once, by whichever
//! descriptor leads there first.

mod ghost;
mod in_flight;
mod kinds;
mod links;
mod locks;
mod look;
mod mapped;
mod pipe;
mod shmem;
mod terminal;
mod watches;

use std::collections::{HashMap, HashSet};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::OFlag;
use nix::sys::stat::{FileStat, major, makedev, minor};

pub use ghost::{Chunk, Ghost};
pub use kinds::{EpollTarget, FileKind, Regular};
pub use links::{Links, Remap};
pub use locks::FileLock;
pub use mapped::{Mapper, Residency, ResidencyQuestion};
pub use pipe::PipeContent;
pub use shmem::{ANON_HUGEPAGE, Extent, SYSTEM_V, Segment};
use shmem::{Content, is_secret};
pub use terminal::{Settings, Terminal, TerminalKind};
pub(super) use watches::mounts;
pub use watches::{Fanotify, FanotifyMark, InotifyWatch, MarkedThing, Watched, kernel_device};

use crate::ahead::TableAhead;
use crate::collect::here::Here;
use crate::collect::namespaces::KINDS;
use crate::collect::notes::{Note, NoteKind};
use crate::collect::sockets::{Socket, Sockets};
use crate::error::{Error, Result, ResultExt, Target};
use crate::ids::{Fd, ObjectId, Pid, Tid};
use crate::kcmp::{Claim, FileFingerprint, FileLooks, FileTree, Sighting};
use crate::options::{External, FileChoices, SocketChoices};
use crate::proc::ProcDir;
use crate::proc::fdinfo::{Extras, Fdinfo, TimerfdLines, parse_fdinfo};
use crate::proc::locks::{LockedInodes, OpenFilesLock};
use crate::sys::fcntl::{self, Owner, timerfd_gettime};
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
    /// What else has to be opened in place of a path.
    pub remaps: Vec<Remap>,
    /// Links that were made for that.
    pub links: Links,
    /// Locks and leases.
    pub locks: Vec<FileLock>,
    /// Terminals, each end once.
    pub terminals: Vec<Terminal>,
    /// What restore would not bring back as it was.
    pub notes: Vec<Note>,
    /// What waits in pipes and FIFOs.
    pub pipes: Vec<PipeContent>,
    /// Nameless shared memory.
    pub segments: Vec<Segment>,
    /// What is known of sockets.
    pub sockets: Sockets,
    choices: FileChoices,
    shmem_device: u64,
    /// The device of `/proc`.
    proc_device: u64,
    /// The device of `/dev/pts`.
    terminals_device: u64,
    /// The links that were made, by device and inode.
    linked: HashMap<(u64, u64), ObjectId>,
    /// Files held without a descriptor, by device and inode.
    held: HashMap<(u64, u64), ObjectId>,
    /// Mapped files, by the device and inode that `maps` shows.
    mapped: HashMap<(u64, u64), (ObjectId, bool)>,
    /// Device and inode of each open file, as `stat` gives them.
    inodes: HashMap<ObjectId, (u64, u64)>,
    /// Open files whose inode no other open file has.
    unique: HashSet<ObjectId>,
    /// Open files that may be locked through other descriptors, too.
    lockable: HashSet<ObjectId>,
    /// Processes that pidfds name.
    named: Vec<(Pid, Target)>,
    /// Deleted files that are watched, by device and inode.
    watched: Vec<((u64, u64), Target)>,
    /// Locks of open files that somebody holds, as far as no descriptor was met that does.
    unseen_locks: Vec<OpenFilesLock>,
}

/// What is known of a file before it is examined.
struct Sight<'a> {
    target: Target,
    link: &'a Path,
    stat: &'a FileStat,
    fdinfo: &'a Fdinfo,
    /// Whether the link is known to be a path that leads there.
    is_path: bool,
    /// Who is told about its events.
    owner: Owner,
}

impl Files {
    /// The entry of the packet socket with this inode.
    #[must_use]
    pub fn packet_socket(&self, inode: u64) -> Option<ObjectId> {
        self.open.iter().find_map(|file| match &file.kind {
            FileKind::Socket(socket) => match &**socket {
                Socket::Packet(socket) if u64::from(socket.diag.inode) == inode => {
                    Some(file.claim.id())
                }
                _ => None,
            },
            _ => None,
        })
    }

    /// Nothing met yet.
    #[must_use]
    pub fn new(sockets: &SocketChoices, choices: &FileChoices, here: &Here) -> Self {
        Self {
            open: Vec::new(),
            ghosts: Vec::new(),
            remaps: Vec::new(),
            links: Links::default(),
            locks: Vec::new(),
            terminals: Vec::new(),
            notes: Vec::new(),
            choices: choices.clone(),
            proc_device: here.proc_device,
            terminals_device: here.terminals_device,
            linked: HashMap::new(),
            pipes: Vec::new(),
            segments: Vec::new(),
            sockets: Sockets::new(sockets.clone()),
            shmem_device: here.shmem_device,
            held: HashMap::new(),
            mapped: HashMap::new(),
            inodes: HashMap::new(),
            unique: HashSet::new(),
            lockable: HashSet::new(),
            named: Vec::new(),
            watched: Vec::new(),
            unseen_locks: here.locks.clone(),
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
        let seen = look_at_all(owner, pidfd.as_fd(), tree, &self.lockable)?;
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
                    locks,
                } => {
                    match self.locks(owner, fd, &locks, false) {
                        Ok(()) => {}
                        Err(error @ Error::Unsupported { .. }) => blockers.push(error),
                        Err(error) => return Err(error),
                    }
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
        let close_on_exec = fdinfo.flags & libc::O_CLOEXEC.cast_unsigned() != 0;
        let descriptor = |file| Descriptor {
            fd,
            file,
            close_on_exec,
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
        let sighting = tree.identify_expected(owner.tid, fd, fingerprint, expected)?;
        let is_first = matches!(sighting, Sighting::First(_));
        self.locks(owner, fd, &fdinfo.extras.locks, is_first)?;
        let claim = match sighting {
            Sighting::Again(file) => return Ok(descriptor(file)),
            Sighting::First(claim) => claim,
        };
        let file = claim.id();
        let target: Target = (owner.tid, fd).into();
        let duplicate = || pidfd_getfd(pidfd, fd).on("pidfd_getfd", (owner.tid, fd));
        let told = match told {
            Some(owner) => owner,
            None => fcntl::owner(duplicate()?.as_fd()).on("fcntl GETOWN_EX", (owner.tid, fd))?,
        };
        let mut fdinfo = fdinfo;
        if fdinfo.extras.timerfd.is_some_and(TimerfdLines::is_due) {
            // Like the program asking for the time left: what has passed is counted.
            timerfd_gettime(duplicate()?.as_fd()).on("timerfd_gettime", (owner.tid, fd))?;
            let name = format!("fdinfo/{fd}");
            let text = owner.proc_dir.read(&name)?;
            fdinfo = parse_fdinfo(&text).map_err(|e| e.at(owner.proc_dir.path_of(&name)))?;
        }
        if fdinfo.extras.eventfd_semaphore {
            self.note(NoteKind::SemaphoreEventfd, owner.tid);
        }
        let kind = match &looked {
            None => kinds::anonymous(target, link, &fdinfo.extras)?,
            Some(looked) => {
                let sight = Sight {
                    target,
                    link: &looked.link,
                    stat: &looked.stat,
                    fdinfo: &fdinfo,
                    is_path: looked.is_path,
                    owner: told,
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
        if matches!(kind, FileKind::Epoll { .. }) {
            epolls.push((self.open.len(), fd, fdinfo.extras.clone()));
        }
        self.inodes.insert(file, inode);
        let may_be_locked = owner
            .locked
            .is_none_or(|locked| locked.contains(inode.0, inode.1));
        if may_be_locked
            && matches!(&kind, FileKind::Regular(regular) if regular.size_bytes.is_some())
        {
            self.lockable.insert(file);
        }
        if matches!(&kind, FileKind::Socket(_)) {
            self.unique.insert(file);
        }
        self.open.push(OpenFile {
            claim,
            flags: fdinfo.flags & !libc::O_CLOEXEC.cast_unsigned(),
            position: position(&fdinfo, looked.as_ref().map(|looked| &looked.stat)),
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
        let text = sight.link.as_os_str().as_bytes();
        let from = proc_dir.path_of(link_name);
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
        if sight.fdinfo.flags & libc::O_PATH.cast_unsigned() != 0 && text.starts_with(b"/") {
            // Nothing was opened but the path.
            let regular = self.regular(sight, file, &from, tree)?;
            return Ok(FileKind::Regular(regular));
        }
        match kind {
            _ if text == b"anon_inode:inotify" => Ok(FileKind::Inotify {
                watches: self.inotify(sight, duplicate()?.as_fd())?,
            }),
            _ if text == b"anon_inode:[fanotify]" => {
                let fanotify = self.fanotify(sight, duplicate()?.as_fd())?;
                Ok(FileKind::Fanotify(fanotify))
            }
            _ if text == b"anon_inode:[pidfd]" => self.pidfd(sight),
            _ if text.starts_with(b"anon_inode:") => {
                kinds::anonymous(sight.target.clone(), text, &sight.fdinfo.extras)
            }
            libc::S_IFREG if !text.starts_with(b"/") => namespace(sight),
            libc::S_IFREG | libc::S_IFDIR | libc::S_IFLNK => self
                .regular(sight, file, &from, tree)
                .map(FileKind::Regular),
            libc::S_IFCHR if sight.stat.st_rdev == makedev(MISC_MAJOR, TUN_MINOR) => Err(sight
                .refuse(
                    "a tun or tap device",
                    "it can only be dumped with its network namespace; let the program close it",
                )),
            libc::S_IFCHR if is_simple(sight.stat.st_rdev) => self
                .regular(sight, file, &from, tree)
                .map(FileKind::Regular),
            libc::S_IFCHR => self.terminal_file(sight, duplicate()?, &from, tree),
            libc::S_IFSOCK => {
                let socket = self.sockets.examine(
                    &sight.target,
                    sight.stat.st_ino,
                    file,
                    duplicate()?.as_fd(),
                )?;
                Ok(FileKind::Socket(Box::new(socket)))
            }
            libc::S_IFIFO if text.starts_with(b"pipe:[") => self.pipe(sight, duplicate, false),
            libc::S_IFIFO => {
                let kind = self.pipe(sight, duplicate, true)?;
                match kind {
                    FileKind::Pipe { pipe } => {
                        let claim = tree.claim_fresh()?;
                        let regular = self.regular(sight, claim.id(), &from, tree)?;
                        let path = self.push_path(claim, sight, regular);
                        Ok(FileKind::Fifo { pipe, path })
                    }
                    other => Ok(other),
                }
            }
            _ => Err(sight.refuse(
                &format!("{}", sight.link.display()),
                "this kind of file cannot be dumped; let the program close it",
            )),
        }
    }

    /// An entry for the path of something that is opened by it, with the flags it was opened with:
    /// a FIFO, a terminal.
    fn push_path(&mut self, claim: Claim, sight: &Sight<'_>, regular: Regular) -> ObjectId {
        let file = claim.id();
        self.open.push(OpenFile {
            claim,
            flags: sight.fdinfo.flags & !libc::O_CLOEXEC.cast_unsigned(),
            position: 0,
            owner: sight.owner,
            kind: FileKind::Regular(regular),
        });
        file
    }

    /// A character device that is no simple one.
    fn terminal_file(
        &mut self,
        sight: &Sight<'_>,
        duplicate: OwnedFd,
        from: &Path,
        tree: &mut FileTree,
    ) -> Result<FileKind> {
        let Some(kind) = terminal::kind_of(sight.stat.st_rdev) else {
            return Err(sight.refuse(
                &format!("the device {}", sight.link.display()),
                "no restorer knows it; let the program close it",
            ));
        };
        let is_external = self.is_external(External::Terminal {
            rdev: sight.stat.st_rdev,
            dev: sight.stat.st_dev,
        });
        let terminal = self.terminal(sight, kind, is_external, duplicate)?;
        let path = if is_external {
            None
        } else {
            let claim = tree.claim_fresh()?;
            let regular = if sight.stat.st_dev == self.terminals_device {
                // The kernel makes and removes these files by itself.
                Regular {
                    path: without_deleted_mark(sight.link),
                    mode: sight.stat.st_mode,
                    size_bytes: None,
                    is_external: false,
                }
            } else {
                self.regular(sight, claim.id(), from, tree)?
            };
            Some(self.push_path(claim, sight, regular))
        };
        Ok(FileKind::Terminal { terminal, path })
    }

    /// The name of a process.
    fn pidfd(&mut self, sight: &Sight<'_>) -> Result<FileKind> {
        let missing = || {
            sight.refuse(
                "a pidfd of which the kernel does not tell the process",
                "a newer kernel is needed",
            )
        };
        if sight.fdinfo.flags & libc::O_EXCL.cast_unsigned() != 0 {
            return Err(sight.refuse(
                "a pidfd of a single thread (PIDFD_THREAD)",
                "restore knows only those of processes; let the program close it",
            ));
        }
        let pid = match sight.fdinfo.extras.pid.ok_or_else(missing)? {
            -1 => None,
            0 => {
                return Err(sight.refuse(
                    "a pidfd of a process of another pid namespace",
                    "let the program close it",
                ));
            }
            pid => Some(Pid(pid)),
        };
        if let Some(pid) = pid {
            self.named.push((pid, sight.target.clone()));
        }
        Ok(FileKind::Pidfd {
            pid,
            inode: sight.stat.st_ino,
        })
    }

    /// Checks that the processes which pidfds name are in the tree, and that deleted files which
    /// are watched are kept.
    ///
    /// # Errors
    /// [`Error::Blocked`] with every pidfd and watch of something else.
    pub fn complete_names(&self, in_tree: impl Fn(Pid) -> bool) -> Result<()> {
        let strangers = self.named.iter().filter(|(pid, _)| !in_tree(*pid));
        let mut blockers: Vec<Error> = strangers
            .map(|(pid, target)| {
                Error::unsupported(
                    target.clone(),
                    format!("a pidfd of {pid}, which is not in the tree,"),
                    "dump both together, or let the program close it",
                )
            })
            .collect();
        let lost = self
            .watched
            .iter()
            .filter(|(inode, _)| !self.is_ghost(*inode));
        blockers.extend(lost.map(|((_, inode), target)| {
            Error::unsupported(
                target.clone(),
                format!(
                    "a watch on a deleted file (inode {inode}) that nobody in the tree has open"
                ),
                "let the program remove the watch",
            )
        }));
        if blockers.is_empty() {
            Ok(())
        } else {
            Err(Error::Blocked(blockers))
        }
    }

    fn is_external(&self, resource: External) -> bool {
        self.choices.external.contains(&resource)
    }

    fn note(&mut self, kind: NoteKind, tid: Tid) {
        self.notes.push(Note {
            kind,
            tids: vec![tid],
        });
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
            owner: Owner::default(),
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
                let from = proc_dir.path_of(link_name);
                FileKind::Regular(self.regular(sight, file, &from, tree)?)
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

    /// A file with a path: checks that the path leads to it, or sees to it that restore finds the
    /// file all the same. `from` leads to the file for the moment.
    fn regular(
        &mut self,
        sight: &Sight<'_>,
        file: ObjectId,
        from: &Path,
        tree: &mut FileTree,
    ) -> Result<Regular> {
        let stat = sight.stat;
        let is_file = stat.st_mode & libc::S_IFMT == libc::S_IFREG;
        // What is only appended to may grow before restore.
        let append_only = (libc::O_WRONLY | libc::O_APPEND).cast_unsigned();
        let grows = sight.fdinfo.flags & append_only == append_only;
        let mut regular = Regular {
            path: sight.link.to_owned(),
            mode: stat.st_mode,
            size_bytes: (is_file && !grows).then_some(stat.st_size.cast_unsigned()),
            is_external: false,
        };
        let (mount, inode) = (sight.fdinfo.mount, stat.st_ino);
        if self.is_external(External::File { mount, inode }) {
            regular.path = PathBuf::from(format!("file[{mount:x}:{inode:x}]"));
            regular.is_external = true;
            // What restore puts there instead may be of any size.
            regular.size_bytes = None;
            return Ok(regular);
        }
        if stat.st_dev == self.proc_device {
            regular.path = self.in_proc(sight, file);
            return Ok(regular);
        }
        if stat.st_nlink == 0 {
            regular.path = without_deleted_mark(sight.link);
            self.ghost(sight, file, from)?;
        } else if !sight.is_path
            && let Some(path) = self.check_path(sight, file, from, tree)?
        {
            regular.path = path;
        }
        Ok(regular)
    }

    /// Checks that a path leads to the file, or makes a link that does; then the path that restore
    /// shall use for a moment is returned.
    fn check_path(
        &mut self,
        sight: &Sight<'_>,
        file: ObjectId,
        from: &Path,
        tree: &mut FileTree,
    ) -> Result<Option<PathBuf>> {
        let stat = sight.stat;
        // lstat: a link opened with O_PATH | O_NOFOLLOW is itself what was opened.
        let found = nix::sys::stat::lstat(sight.link);
        let refuse = |what: &str, remedy: &str| {
            Err(sight.refuse(&format!("{}, {what},", sight.link.display()), remedy))
        };
        match found {
            Ok(found) if (found.st_dev, found.st_ino) == (stat.st_dev, stat.st_ino) => Ok(None),
            Ok(_) => refuse(
                "whose path leads to another file now",
                "put the file back under that name",
            ),
            Err(Errno::ENOENT | Errno::ENOTDIR) if stat.st_mode & libc::S_IFMT == libc::S_IFDIR => {
                refuse(
                    "whose path does not lead to it any more",
                    "put the folder back under that name",
                )
            }
            Err(Errno::ENOENT | Errno::ENOTDIR) if self.choices.link_remap => {
                self.link(sight, from, file, tree)?;
                let name = without_deleted_mark(sight.link);
                let is_free = nix::sys::stat::lstat(&name).is_err();
                Ok(is_free.then_some(name))
            }
            Err(Errno::ENOENT | Errno::ENOTDIR) => refuse(
                "whose path does not lead to it any more",
                "put the file back under that name, or give --link-remap to have another link made for restore",
            ),
            Err(Errno::EACCES) => refuse(
                "which your user cannot reach",
                "run dedump with CAP_DAC_READ_SEARCH",
            ),
            Err(errno) => Err(errno).on("lstat", sight.link),
        }
    }

    /// The path of a file of `/proc`, seeing to it that a process which has ended is there for
    /// restore.
    fn in_proc(&mut self, sight: &Sight<'_>, entry: ObjectId) -> PathBuf {
        let path = without_deleted_mark(sight.link);
        let number = path
            .components()
            .nth(2)
            .and_then(|part| part.as_os_str().to_str()?.parse().ok());
        let Some(pid) = number else {
            return sight.link.to_owned();
        };
        // The mark is on the folder of the process alone, not on what is in it.
        if path != sight.link || !Path::new(&format!("/proc/{pid}")).exists() {
            self.remaps.push(Remap::DeadProcess { entry, pid });
        }
        path
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
        /// With more targets than this, a number that was added once is believed.
        const MOST_PROVEN: usize = 1000;
        let has_inode =
            |file: ObjectId, inode| self.inodes.get(&file).is_some_and(|known| known.1 == inode);
        let leads = |fd: Fd, slot: EpollSlot| -> Result<bool> {
            let resource = Resource::EpollTarget(fd, slot);
            let order = kcmp(owner.tid, owner.tid, resource);
            Ok(order.on(resource.op(), (owner.tid, fd))? == Order::Equal)
        };
        let mut targets = Vec::with_capacity(extras.epoll.len());
        let mut same_number = HashMap::new();
        let mut numbers = HashMap::new();
        for line in &extras.epoll {
            *numbers.entry(line.fd).or_insert(0_u32) += 1;
        }
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
            let direct = by_number.get(&Fd(line.fd)).copied();
            let direct = direct.filter(|file| has_inode(*file, line.inode));
            // Files of some kinds have one inode for all: the number may be that of another file
            // by now. The kernel looks for the answer among all targets, one by one.
            let is_proven = direct.is_some_and(|file| self.unique.contains(&file))
                || (numbers[&line.fd] == 1 && extras.epoll.len() > MOST_PROVEN);
            let fd = if direct.is_some() && (is_proven || leads(Fd(line.fd), slot)?) {
                Some(Fd(line.fd))
            } else {
                // Moved or duplicated: ask about every descriptor with that inode.
                let mut found = None;
                for one in table
                    .descriptors
                    .iter()
                    .filter(|one| has_inode(one.file, line.inode))
                {
                    if leads(one.fd, slot)? {
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
fn look_at_all(
    owner: TableOwner<'_>,
    pidfd: BorrowedFd<'_>,
    tree: &FileTree,
    lockable: &HashSet<ObjectId>,
) -> Result<Looks> {
    if let Some(fds) = owner.fds {
        // They may be as many as before the freeze and still others. That each of them is open
        // proves that they are the same: every look asks the kernel about its number.
        match look_at(owner, pidfd, fds, tree, lockable) {
            Err(Error::Syscall {
                errno: Errno::ENOENT | Errno::EBADF,
                ..
            }) => {}
            done => return done,
        }
    }
    look_at(owner, pidfd, &descriptors(owner.proc_dir)?, tree, lockable)
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

const MISC_MAJOR: u64 = 10;
const TUN_MINOR: u64 = 200;

/// Whether a character device has no state for each that opens it: memory, and those that only
/// take requests.
fn is_simple(device: u64) -> bool {
    const MEM_MAJOR: u64 = 1;
    /// `/dev/hwrng`, and what controls btrfs, the device mapper and loop devices.
    const REQUESTS: [u64; 4] = [183, 234, 236, 237];
    match (major(device), minor(device)) {
        (MEM_MAJOR, _) => true,
        (MISC_MAJOR, minor) => REQUESTS.contains(&minor),
        _ => false,
    }
}

/// Where restore shall put the position of a file: nowhere in the kernel's log, which cannot be
/// sought in when it is open for writing.
fn position(fdinfo: &Fdinfo, looked: Option<&FileStat>) -> u64 {
    const KMSG_MINOR: u64 = 11;
    let is_log = looked.is_some_and(|stat| {
        stat.st_mode & libc::S_IFMT == libc::S_IFCHR && stat.st_rdev == makedev(1, KMSG_MINOR)
    });
    let writes = fdinfo.flags & libc::O_ACCMODE.cast_unsigned() == libc::O_WRONLY.cast_unsigned();
    if is_log && writes {
        u64::MAX
    } else {
        fdinfo.position
    }
}

/// The name of a namespace, which must be one of the tree's, and so of ours.
fn namespace(sight: &Sight<'_>) -> Result<FileKind> {
    let own = |kind: &&str| {
        nix::sys::stat::stat(format!("/proc/self/ns/{kind}").as_str()).is_ok_and(|found| {
            (found.st_dev, found.st_ino) == (sight.stat.st_dev, sight.stat.st_ino)
        })
    };
    match KINDS.iter().position(own) {
        Some(kind) => Ok(FileKind::Namespace { kind }),
        None => Err(sight.refuse(
            &format!("{}", sight.link.display()),
            "only files with a path and namespaces of the tree can be dumped; let the program close it",
        )),
    }
}
