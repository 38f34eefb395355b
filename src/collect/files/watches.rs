//! Watches and marks: inotify and fanotify. What they have seen and nobody has read is lost.

use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::{OFlag, open};
use nix::sys::stat::{FileStat, Mode, fstat, lstat};
use tracing::warn;

use super::{Files, Sight};
use crate::error::{IoResultExt, Result, ResultExt, Target};
use crate::proc::fdinfo::{FanotifyTarget, HandleFields, InotifyLine};
use crate::proc::mountinfo::{Mount, parse_mountinfo};
use crate::sys::handle::open_by_handle;
use crate::sys::terminal::waiting_bytes;

/// A file that is watched: its handle, and a path that leads there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Watched {
    /// The handle.
    pub handle: HandleFields,
    /// The path; none of a deleted file that is kept as one.
    pub path: Option<PathBuf>,
}

/// A watch of an inotify.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InotifyWatch {
    /// What fdinfo says of it.
    pub line: InotifyLine,
    /// What it watches.
    pub watched: Watched,
}

/// A fanotify.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Fanotify {
    /// Flags of `fanotify_init(2)`.
    pub flags: u32,
    /// Open flags of the files in its events.
    pub event_flags: u32,
    /// Its marks.
    pub marks: Vec<FanotifyMark>,
}

/// A mark of a fanotify.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FanotifyMark {
    /// `FAN_MARK_*` bits.
    pub flags: u32,
    /// Events.
    pub mask: u32,
    /// Events that are ignored.
    pub ignored_mask: u32,
    /// The device, in kernel encoding.
    pub device: u32,
    /// What it is on.
    pub on: MarkedThing,
}

/// What a mark is on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum MarkedThing {
    /// One file.
    File {
        /// Its inode.
        inode: u64,
        /// What leads there.
        watched: Watched,
    },
    /// A mount.
    Mount {
        /// Its number.
        mount: u32,
        /// Where it is mounted.
        path: PathBuf,
    },
}

/// A device in kernel encoding, as `sdev:` shows it.
#[must_use]
pub fn kernel_device(number: u64) -> u64 {
    nix::sys::stat::major(number) << 20 | nix::sys::stat::minor(number)
}

/// The mounts of our mount namespace, which is that of the tree.
pub(in crate::collect) fn mounts() -> Result<Vec<Mount>> {
    const PATH: &str = "/proc/self/mountinfo";
    let text = std::fs::read(PATH).at("read", PATH)?;
    parse_mountinfo(&text).map_err(|error| error.at(PATH))
}

impl Files {
    pub(super) fn inotify(
        &mut self,
        sight: &Sight<'_>,
        duplicate: BorrowedFd<'_>,
    ) -> Result<Vec<InotifyWatch>> {
        const ONE_SHOT: u32 = 0x8000_0000;
        warn_of_events(duplicate, &sight.target);
        let mut watches = Vec::with_capacity(sight.fdinfo.extras.inotify.len());
        for line in &sight.fdinfo.extras.inotify {
            if line.mask & ONE_SHOT != 0 {
                return Err(sight.refuse(
                    "an inotify with a watch for one event only (IN_ONESHOT)",
                    "restore would make it last; let the program remove the watch",
                ));
            }
            let watched = self.watched(sight, line.inode, line.device, &line.handle)?;
            watches.push(InotifyWatch {
                line: line.clone(),
                watched,
            });
        }
        watches.sort_by_key(|watch| watch.line.watch);
        Ok(watches)
    }

    pub(super) fn fanotify(
        &mut self,
        sight: &Sight<'_>,
        duplicate: BorrowedFd<'_>,
    ) -> Result<Fanotify> {
        warn_of_events(duplicate, &sight.target);
        let lines = sight.fdinfo.extras.fanotify.clone().unwrap_or_default();
        let mut marks = Vec::with_capacity(lines.marks.len());
        for line in lines.marks {
            let (device, on) = match line.target {
                FanotifyTarget::Inode {
                    inode,
                    device,
                    handle,
                } => {
                    let watched = self.watched(sight, inode, device, &handle)?;
                    (device, MarkedThing::File { inode, watched })
                }
                FanotifyTarget::Mount { mount } => {
                    let found = mounts()?.into_iter().find(|one| one.id == mount);
                    let found = found.ok_or_else(|| {
                        sight.refuse(
                            &format!(
                                "a fanotify on mount {mount}, which is not in this mount namespace,"
                            ),
                            "let the program remove the mark",
                        )
                    })?;
                    let device = kernel_device(found.device.number());
                    let path = PathBuf::from(as_os(&found.mount_point));
                    (
                        u32::try_from(device).unwrap_or(0),
                        MarkedThing::Mount { mount, path },
                    )
                }
                FanotifyTarget::FileSystem { .. } => {
                    return Err(sight.refuse(
                        "a fanotify with a mark on a whole file system",
                        "the image format has no place for it; let the program mark mounts or files",
                    ));
                }
            };
            marks.push(FanotifyMark {
                flags: line.flags,
                mask: line.mask,
                ignored_mask: line.ignored_mask,
                device,
                on,
            });
        }
        Ok(Fanotify {
            flags: lines.flags,
            event_flags: lines.event_flags,
            marks,
        })
    }

    /// Finds a path to a file that is known by its handle.
    fn watched(
        &mut self,
        sight: &Sight<'_>,
        inode: u64,
        device: u32,
        handle: &HandleFields,
    ) -> Result<Watched> {
        let mut found = None;
        let has_handle = !handle.bytes.is_empty();
        for mount in mounts()?.into_iter().filter(|_| has_handle) {
            if kernel_device(mount.device.number()) != u64::from(device) {
                continue;
            }
            let Some(file) = open_on(&mount, handle) else {
                continue;
            };
            let link = std::fs::read_link(format!("/proc/self/fd/{}", file.as_raw_fd()));
            let link = link.at("readlink", "/proc/self/fd")?;
            let stat = fstat(&file).on("fstat", sight.target.clone())?;
            if leads_to(&link, &stat) {
                found = Some((stat, Some(link)));
                break;
            }
            found = found.or(Some((stat, None)));
        }
        match found {
            Some((_, Some(path))) => Ok(Watched {
                handle: handle.clone(),
                path: Some(path),
            }),
            Some((stat, None)) if stat.st_nlink == 0 => {
                let inode = (stat.st_dev, stat.st_ino);
                self.watched.push((inode, sight.target.clone()));
                warn!(
                    "{}: the watch on inode {} may end after a restore, for the file is deleted",
                    sight.target, inode.1
                );
                Ok(Watched {
                    handle: handle.clone(),
                    path: None,
                })
            }
            _ => match self.scan(inode, device) {
                Some(path) => Ok(Watched {
                    handle: handle.clone(),
                    path: Some(path),
                }),
                None => Err(sight.refuse(
                    &format!(
                        "a watch on a file that no path is known to lead to (inode {inode} of device {device:#x})"
                    ),
                    "give --irmap-scan-path a folder above the file, or let the program remove the watch",
                )),
            },
        }
    }

    /// Looks for a file that its handle does not lead to: in the folders that the user gives, then
    /// where watches mostly are.
    fn scan(&self, inode: u64, device: u32) -> Option<PathBuf> {
        /// Where criu looks.
        const USUAL: [&str; 7] = [
            "/etc",
            "/var/spool",
            "/var/log",
            "/usr/share/dbus-1/system-services",
            "/var/lib/polkit-1/localauthority",
            "/usr/share/polkit-1/actions",
            "/lib/udev",
        ];
        let given = self.choices.irmap_scan_paths.iter().cloned();
        let mut below: Vec<PathBuf> = given.chain(USUAL.map(PathBuf::from)).collect();
        below.reverse();
        let mut alone = vec![PathBuf::from("/")];
        while let Some(path) = below.pop().or_else(|| alone.pop()) {
            let Ok(stat) = lstat(&path) else { continue };
            let is_it = stat.st_ino == inode && kernel_device(stat.st_dev) == u64::from(device);
            if is_it {
                return Some(path);
            }
            let is_root = path.as_os_str() == "/";
            let is_folder = stat.st_mode & libc::S_IFMT == libc::S_IFDIR;
            if is_folder && !is_root {
                let entries = std::fs::read_dir(&path).into_iter().flatten().flatten();
                below.extend(entries.map(|entry| entry.path()));
            }
        }
        None
    }
}

/// Opens a file by its handle, on a mount that may have it.
fn open_on(mount: &Mount, handle: &HandleFields) -> Option<OwnedFd> {
    let flags = OFlag::O_RDONLY | OFlag::O_CLOEXEC | OFlag::O_NONBLOCK;
    let here = open(Path::new(as_os(&mount.mount_point)), flags, Mode::empty());
    open_by_handle(here.ok()?.as_fd(), handle.kind, &handle.bytes).ok()
}

fn as_os(bytes: &[u8]) -> &std::ffi::OsStr {
    std::os::unix::ffi::OsStrExt::from_bytes(bytes)
}

fn leads_to(path: &Path, stat: &FileStat) -> bool {
    lstat(path).is_ok_and(|found| (found.st_dev, found.st_ino) == (stat.st_dev, stat.st_ino))
}

fn warn_of_events(duplicate: BorrowedFd<'_>, target: &Target) {
    let waiting: Result<u32, Errno> = waiting_bytes(duplicate);
    if waiting.is_ok_and(|bytes| bytes > 0) {
        warn!("{target}: events that were seen but not read yet are left out");
    }
}
