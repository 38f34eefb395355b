//! Unix sockets: pairs, names, listeners, and what waits in them.

use std::os::fd::{AsRawFd, BorrowedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use nix::sys::stat::stat;

use super::{SocketOptions, SocketQueue, Sockets};
use crate::error::{Error, IoResultExt, Result, ResultExt, Target};
use crate::ids::ObjectId;
use crate::sys::netlink::UnixDiag;
use crate::sys::socket;

const STREAM: u8 = 1;
const CONNECTED: u8 = 1;
const LISTENING: u8 = 10;
const BOTH_SHUT_DOWN: u8 = 3;

/// The path a unix socket is bound to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SocketName {
    /// Mode, owner and group of the file; absent when it was deleted.
    pub permissions: Option<(u32, u32, u32)>,
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
        if diag.receive_queue == 0 {
            return Ok(());
        }
        let is_stream = diag.kind == STREAM;
        let first = next(target, diag, fd)?;
        let whole = first.len() >= diag.receive_queue as usize;
        let messages = if is_stream && whole {
            vec![first]
        } else {
            all_messages(target, diag, fd)?
        };
        self.queues.push(SocketQueue {
            receiver: file,
            is_stream,
            messages,
        });
        Ok(())
    }

    /// Checks, once every socket was seen, that each has its other end in the tree.
    ///
    /// # Errors
    /// [`Error::Blocked`] with every socket that talks to the outside.
    pub fn check_peers(&self) -> Result<()> {
        let mut blockers = Vec::new();
        let all = self.unix.iter().flat_map(|all| all.values());
        for diag in all.filter(|diag| self.seen.contains_key(&diag.inode)) {
            let target = &self.seen[&diag.inode];
            let strangers = diag
                .pending
                .iter()
                .chain(std::iter::once(&diag.peer))
                .filter(|inode| **inode != 0 && !self.seen.contains_key(inode));
            for stranger in strangers {
                blockers.push(Error::unsupported(
                    target.clone(),
                    format!("a unix socket whose other end (inode {stranger}) is outside of the tree"),
                    "dump both ends together, or let the program close it; --ext-unix-sk is not supported yet",
                ));
            }
        }
        if blockers.is_empty() {
            Ok(())
        } else {
            Err(Error::Blocked(blockers))
        }
    }
}

/// Room for the largest message: send buffers end at `net.core.wmem_max`, which is rarely above.
const MESSAGE_ROOM: usize = 1024 * 1024;

fn next(target: &Target, diag: &UnixDiag, fd: BorrowedFd<'_>) -> Result<Vec<u8>> {
    let room = MESSAGE_ROOM.max(diag.receive_queue as usize);
    let peeked = socket::peek(fd, room).on("recvmsg MSG_PEEK", target.clone())?;
    checked(
        target,
        peeked.map(|peeked| (peeked.bytes, peeked.has_control)),
    )
    .map(Option::unwrap_or_default)
}

fn checked(target: &Target, peeked: Option<(Vec<u8>, bool)>) -> Result<Option<Vec<u8>>> {
    match peeked {
        Some((_, true)) => Err(Error::unsupported(
            target.clone(),
            "a unix socket with descriptors or credentials waiting in it",
            "let the program receive them and run the dump again",
        )),
        Some((bytes, false)) => Ok(Some(bytes)),
        None => Ok(None),
    }
}

/// Moves the place of peeking along the queue and puts it back.
fn all_messages(target: &Target, diag: &UnixDiag, fd: BorrowedFd<'_>) -> Result<Vec<Vec<u8>>> {
    let before = socket::int_option(fd, libc::SOL_SOCKET, libc::SO_PEEK_OFF)
        .on("getsockopt SO_PEEK_OFF", target.clone())?;
    socket::set_peek_offset(fd, 0).on("setsockopt SO_PEEK_OFF", target.clone())?;
    let room = MESSAGE_ROOM.max(diag.receive_queue as usize);
    let mut messages = Vec::new();
    let outcome = loop {
        let peeked = socket::peek(fd, room).on("recvmsg MSG_PEEK", target.clone());
        match peeked.and_then(|peeked| {
            checked(
                target,
                peeked.map(|peeked| (peeked.bytes, peeked.has_control)),
            )
        }) {
            // An empty message does not move the place: everything behind it is out of reach.
            Ok(Some(bytes)) if bytes.is_empty() => {
                break Err(Error::unsupported(
                    target.clone(),
                    "a unix socket with an empty message in its queue",
                    "let the program receive it and run the dump again",
                ));
            }
            Ok(Some(bytes)) => messages.push(bytes),
            Ok(None) => break Ok(messages),
            Err(error) => break Err(error),
        }
    };
    socket::set_peek_offset(fd, before).on("setsockopt SO_PEEK_OFF", target.clone())?;
    outcome
}

/// What belongs to an address that is a path.
fn name(target: &Target, diag: &UnixDiag, fd: BorrowedFd<'_>) -> Result<Option<SocketName>> {
    let Some((_, bound_inode)) = diag.file.map(|(inode, device)| (device, inode)) else {
        return Ok(None);
    };
    let text = diag.name.strip_suffix(&[0]).unwrap_or(&diag.name);
    let path = Path::new(std::ffi::OsStr::from_bytes(text));
    let mut folder = None;
    if path.is_relative() {
        let file = socket::unix_file(fd).on("ioctl SIOCUNIXFILE", target.clone())?;
        let link = format!("/proc/self/fd/{}", file.as_raw_fd());
        let whole = std::fs::read_link(&link).at("readlink", link)?;
        folder = whole
            .as_os_str()
            .as_bytes()
            .strip_suffix(text)
            .map(|start| {
                let start = start.strip_suffix(b"/").unwrap_or(start);
                PathBuf::from(std::ffi::OsStr::from_bytes(start))
            });
        if folder.is_none() {
            return Err(Error::unsupported(
                target.clone(),
                format!(
                    "a unix socket bound to {}, which is {} now,",
                    path.display(),
                    whole.display()
                ),
                "put the socket back under its name",
            ));
        }
    }
    let whole = folder
        .as_ref()
        .map_or_else(|| path.to_owned(), |folder| folder.join(path));
    let found = stat(&whole)
        .ok()
        .filter(|found| found.st_ino == u64::from(bound_inode));
    Ok(Some(SocketName {
        permissions: found.map(|found| (found.st_mode, found.st_uid, found.st_gid)),
        folder,
    }))
}
