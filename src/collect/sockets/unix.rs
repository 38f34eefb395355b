//! Unix sockets: pairs, names, listeners, and what waits in them.

use std::ffi::OsStr;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::sys::stat::{FileStat, fstat, lstat, stat};

use super::queue::{all_messages, first_message};
use super::{SocketOptions, SocketQueue, Sockets};
use crate::error::{Error, IoResultExt, Result, ResultExt, Target};
use crate::ids::ObjectId;
use crate::sys::capability::Capability;
use crate::sys::netlink::UnixDiag;
use crate::sys::socket;

const STREAM: u8 = 1;
const CONNECTED: u8 = 1;
const LISTENING: u8 = 10;
const BOTH_SHUT_DOWN: u8 = 3;

/// The path a unix socket is bound to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SocketName {
    /// `st_mode` of the file.
    pub mode: u32,
    /// Its owner and group.
    pub owner: (u32, u32),
    /// Whether the path does not lead to it any more.
    pub is_deleted: bool,
    /// The folder that a relative name starts from.
    pub folder: Option<PathBuf>,
}

/// A unix socket.
#[derive(Clone, Debug)]
pub struct UnixSocket {
    /// What the kernel says about it; a connection that waits to be accepted has the
    /// listener as its peer.
    pub diag: UnixDiag,
    /// More about its address, if that is a path.
    pub name: Option<SocketName>,
    /// `SOL_SOCKET` options.
    pub options: SocketOptions,
    /// Whether it belongs to a program outside of the tree, which restore finds by its name.
    pub is_outside: bool,
}

impl UnixSocket {
    /// The far end of a socket of the tree: nothing but a name to connect to.
    fn outside(diag: &UnixDiag) -> Self {
        const DATAGRAM: u8 = 2;
        Self {
            diag: UnixDiag {
                kind: DATAGRAM,
                state: LISTENING,
                inode: diag.inode,
                name: diag.name.clone(),
                ..UnixDiag::default()
            },
            name: None,
            options: SocketOptions::default(),
            is_outside: true,
        }
    }
}

impl Sockets {
    pub(super) fn unix(
        &mut self,
        target: &Target,
        inode: u32,
        file: ObjectId,
        fd: BorrowedFd<'_>,
    ) -> Result<UnixSocket> {
        let mut diag = self.unix_diag(target, inode)?;
        self.seen.insert(inode, target.clone());
        if diag.state == LISTENING {
            if diag.pending.contains(&0) {
                return Err(Error::unsupported(
                    target.clone(),
                    "a listening unix socket whose waiting client is gone",
                    "let the program accept it and run the dump again",
                ));
            }
        } else {
            if diag.state == CONNECTED
                && diag.peer == 0
                && diag.kind == STREAM
                && diag.shutdown != BOTH_SHUT_DOWN
            {
                diag.peer = self.waiting_at(target, &diag)?;
            }
            self.queue(target, &diag, file, fd)?;
        }
        Ok(UnixSocket {
            name: name(target, &diag, fd)?,
            options: SocketOptions::read(target, fd)?,
            diag,
            is_outside: false,
        })
    }

    /// The listener that a connection waits at.
    fn waiting_at(&self, target: &Target, diag: &UnixDiag) -> Result<u32> {
        let mut all = self.unix.iter().flat_map(|all| all.values());
        let listener = all.find(|other| other.pending.contains(&diag.inode));
        match listener {
            Some(listener) if diag.send_queue == 0 => Ok(listener.inode),
            Some(_) => Err(Error::unsupported(
                target.clone(),
                "a unix connection that was not accepted yet but carries data",
                "let the other side accept it and run the dump again",
            )),
            None => Err(Error::unsupported(
                target.clone(),
                "a unix connection without another end",
                "let the program close it",
            )),
        }
    }

    /// Reads what waits in a socket, leaving it there.
    fn queue(
        &mut self,
        target: &Target,
        diag: &UnixDiag,
        file: ObjectId,
        fd: BorrowedFd<'_>,
    ) -> Result<()> {
        let is_stream = diag.kind == STREAM;
        if is_stream && diag.receive_queue == 0 {
            return Ok(());
        }
        let first = if is_stream {
            first_message(target, diag, fd)?
        } else {
            None
        };
        let messages = match first {
            Some(first)
                if first.received.is_empty()
                    && first.bytes.len() >= diag.receive_queue as usize =>
            {
                vec![first]
            }
            _ => all_messages(target, diag, fd)?,
        };
        if !messages.is_empty() {
            self.queues.push(SocketQueue {
                target: target.clone(),
                receiver: file,
                messages,
            });
        }
        Ok(())
    }

    /// Checks, once every socket was seen, that each has its other end in the tree, or one
    /// outside that restore may connect to; returns those.
    ///
    /// # Errors
    /// [`Error::Blocked`] with every socket that talks to the outside without leave.
    pub fn check_peers(&self) -> Result<Vec<UnixSocket>> {
        let mut blockers = Vec::new();
        let mut outside = Vec::new();
        let known = self.unix.iter().flat_map(|all| all.values());
        let mut ours: Vec<&UnixDiag> = known
            .filter(|diag| self.seen.contains_key(&diag.inode))
            .collect();
        ours.sort_unstable_by_key(|diag| diag.inode);
        for diag in ours {
            let strangers = diag
                .pending
                .iter()
                .chain(std::iter::once(&diag.peer))
                .filter(|inode| **inode != 0 && !self.seen.contains_key(inode));
            for stranger in strangers {
                match self.stranger(diag, *stranger) {
                    Ok(socket) => outside.push(socket),
                    Err(error) => blockers.push(error),
                }
            }
        }
        outside.sort_unstable_by_key(|socket| socket.diag.inode);
        outside.dedup_by_key(|socket| socket.diag.inode);
        if blockers.is_empty() {
            Ok(outside)
        } else {
            Err(Error::Blocked(blockers))
        }
    }

    /// The other end of a socket, which is not in the tree.
    fn stranger(&self, diag: &UnixDiag, stranger: u32) -> Result<UnixSocket> {
        const DATAGRAM: u8 = 2;
        let refuse = |remedy: &str| {
            let what =
                format!("a unix socket whose other end (inode {stranger}) is outside of the tree");
            Err(Error::unsupported(
                self.seen[&diag.inode].clone(),
                what,
                remedy,
            ))
        };
        let chosen = self.choices.external_unix_inodes.contains(&diag.inode);
        if !self.choices.external_unix && !chosen {
            return refuse(
                "dump both ends together, let the program close it, or give --ext-unix-sk to have it connected again by name",
            );
        }
        let all = self.unix.as_ref();
        match all.and_then(|all| all.get(&stranger)) {
            Some(other) if diag.peer != stranger || other.name.is_empty() => refuse(
                "restore could not connect to it, for it has no name; let the program close it",
            ),
            Some(other) if other.kind == DATAGRAM || chosen => Ok(UnixSocket::outside(other)),
            _ => refuse(&format!(
                "only datagram sockets can be connected again without being told; give --ext-unix-sk={} as well, or let the program close it",
                diag.inode
            )),
        }
    }
}

/// What belongs to an address that is a path.
fn name(target: &Target, diag: &UnixDiag, fd: BorrowedFd<'_>) -> Result<Option<SocketName>> {
    const DELETED: &[u8] = b" (deleted)";
    if diag.file.is_none() {
        return Ok(None);
    }
    let text = diag.name.strip_suffix(&[0]).unwrap_or(&diag.name);
    let path = Path::new(OsStr::from_bytes(text));
    let file = match socket::unix_file(fd) {
        Err(Errno::EPERM) => return name_by_path(target, diag, path).map(Some),
        answer => answer.on("ioctl SIOCUNIXFILE", target.clone())?,
    };
    let bound = fstat(&file).on("fstat", target.clone())?;
    let mut folder = None;
    if path.is_relative() {
        let link = format!("/proc/self/fd/{}", file.as_raw_fd());
        let now = std::fs::read_link(&link).at("readlink", link)?;
        let mut now = now.as_os_str().as_bytes();
        if bound.st_nlink == 0 {
            now = now.strip_suffix(DELETED).unwrap_or(now);
        }
        let Some(start) = now.strip_suffix(text) else {
            return Err(Error::unsupported(
                target.clone(),
                format!(
                    "a unix socket bound to {}, which is {} now,",
                    path.display(),
                    Path::new(OsStr::from_bytes(now)).display()
                ),
                "put the socket back under its name",
            ));
        };
        let start = start.strip_suffix(b"/").unwrap_or(start);
        folder = Some(PathBuf::from(OsStr::from_bytes(start)));
    }
    let whole = folder
        .as_ref()
        .map_or_else(|| path.to_owned(), |folder| folder.join(path));
    let leads_there = stat(&whole)
        .is_ok_and(|found| (found.st_dev, found.st_ino) == (bound.st_dev, bound.st_ino));
    Ok(Some(SocketName {
        mode: bound.st_mode,
        owner: (bound.st_uid, bound.st_gid),
        is_deleted: !leads_there,
        folder,
    }))
}

/// The same without the capability that opens the file behind a socket: what the path leads to,
/// from the working folder of the task if need be, if that is the file.
fn name_by_path(target: &Target, diag: &UnixDiag, path: &Path) -> Result<SocketName> {
    let folder = match target {
        Target::Descriptor(tid, _) if path.is_relative() => {
            std::fs::read_link(format!("/proc/{tid}/cwd")).ok()
        }
        _ => None,
    };
    let whole = folder
        .as_ref()
        .map_or_else(|| path.to_owned(), |folder| folder.join(path));
    let found = lstat(&whole).ok().filter(|_| whole.is_absolute());
    match found.filter(|found| diag.file.is_some_and(|file| is_same_file(found, file))) {
        Some(found) => Ok(SocketName {
            mode: found.st_mode,
            owner: (found.st_uid, found.st_gid),
            is_deleted: false,
            folder,
        }),
        None => Err(Error::unsupported(
            target.clone(),
            format!(
                "a unix socket bound to {}, which does not lead to it,",
                path.display()
            ),
            format!("run dedump with {}", Capability::NetAdmin),
        )),
    }
}

/// Whether `stat` is that of the file that `unix_diag` names by the low half of its inode and by
/// its device as the kernel counts devices.
fn is_same_file(stat: &FileStat, (inode, device): (u32, u32)) -> bool {
    const MINOR_BITS: u32 = 20;
    let is_device =
        stat.st_dev == libc::makedev(device >> MINOR_BITS, device & ((1 << MINOR_BITS) - 1));
    is_device && stat.st_ino & u64::from(u32::MAX) == u64::from(inode)
}
