//! The kinds of open files.

use std::path::PathBuf;

use super::watches::{Fanotify, InotifyWatch};
use crate::collect::sockets::Socket;
use crate::error::{Error, Result, Target};
use crate::ids::{Fd, ObjectId, Pid};
use crate::proc::fdinfo::{EpollLine, Extras, TimerfdLines};

/// What an open file is.
#[derive(Debug)]
pub enum FileKind {
    /// Something with a path: file, folder, symbolic link, simple device.
    Regular(Regular),
    /// One end of a pipe.
    Pipe {
        /// Its inode.
        pipe: u64,
    },
    /// One end of a FIFO.
    Fifo {
        /// Its inode.
        pipe: u64,
        /// The entry of its path.
        path: ObjectId,
    },
    /// A counter.
    Eventfd {
        /// Its value.
        count: u64,
    },
    /// An epoll set.
    Epoll {
        /// What it waits for.
        targets: Vec<EpollTarget>,
    },
    /// A source of signals.
    Signalfd {
        /// Which, bit n-1 for signal n.
        mask: u64,
    },
    /// A source of timer ticks.
    Timerfd(TimerfdLines),
    /// A terminal.
    Terminal {
        /// Its number among all.
        terminal: u32,
        /// The entry of its path; none if restore is given it from outside.
        path: Option<ObjectId>,
    },
    /// Watches on files.
    Inotify {
        /// The watches, ascending.
        watches: Vec<InotifyWatch>,
    },
    /// Marks on files and mounts.
    Fanotify(Fanotify),
    /// The name of a process.
    Pidfd {
        /// The process; `None` once it was reaped.
        pid: Option<Pid>,
        /// The inode, which is that of the process.
        inode: u64,
    },
    /// The name of a namespace of the tree.
    Namespace {
        /// Its kind, by its place among [`KINDS`](crate::collect::namespaces::KINDS).
        kind: usize,
    },
    /// A socket.
    Socket(Box<Socket>),
    /// Nameless shared memory.
    Memfd {
        /// The number of its segment.
        segment: u32,
    },
}

/// A file with a path.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Regular {
    /// Its path, as the task sees it.
    pub path: PathBuf,
    /// `st_mode`.
    pub mode: u32,
    /// Its size, where restore shall insist on it.
    pub size_bytes: Option<u64>,
    /// Whether restore is given it from outside, under this name.
    pub is_external: bool,
}

/// What an epoll waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EpollTarget {
    /// The descriptor that leads there now.
    pub fd: Fd,
    /// How it was added.
    pub line: EpollLine,
}

/// The link of an eventfd.
pub(super) const EVENTFD_LINK: &[u8] = b"anon_inode:[eventfd]";

/// A file without a path, by the name the kernel gives its kind.
pub(super) fn anonymous(target: Target, link: &[u8], extras: &Extras) -> Result<FileKind> {
    let missing = |what: &str| {
        Error::unsupported(
            target.clone(),
            format!("{what} whose state the kernel does not show,"),
            "a newer kernel is needed",
        )
    };
    match link.strip_prefix(b"anon_inode:").unwrap_or(link) {
        b"[eventfd]" => {
            let count = extras.eventfd_count.ok_or_else(|| missing("an eventfd"))?;
            if count > u64::from(u32::MAX) {
                return Err(Error::unsupported(
                    target,
                    format!("an eventfd that stands at {count}"),
                    "restore keeps 32 bits of it; let the program read it and run the dump again",
                ));
            }
            Ok(FileKind::Eventfd { count })
        }
        b"[eventpoll]" => Ok(FileKind::Epoll {
            targets: Vec::new(),
        }),
        b"[signalfd]" => {
            let mask = extras.sigmask.ok_or_else(|| missing("a signalfd"))?;
            Ok(FileKind::Signalfd { mask })
        }
        b"[timerfd]" => extras
            .timerfd
            .map(FileKind::Timerfd)
            .ok_or_else(|| missing("a timerfd")),
        other => Err(Error::unsupported(
            target.clone(),
            format!("the descriptor {}", String::from_utf8_lossy(other)),
            "this kind of file is not supported yet; let the program close it",
        )),
    }
}
