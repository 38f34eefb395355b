//! Open files on their way through a unix socket, and what else is known of sockets only once
//! all of the tree was read.
//!
//! Peeking at a message gives us descriptors of our own for the files it carries. Through them
//! such a file is compared and examined like any other; where no task has it open too, it gets
//! an entry that no descriptor leads to. It may itself be a socket with a queue.

use std::collections::{HashMap, HashSet};
use std::os::fd::{AsFd, AsRawFd};

use super::look::{Look, look_at};
use super::{FileKind, Files, OpenFile, TableOwner};
use crate::collect::sockets::Socket;
use crate::error::{Error, Result, ResultExt, Target};
use crate::ids::{Fd, ObjectId, Pid};
use crate::kcmp::FileTree;
use crate::proc::ProcDir;
use crate::sys::fcntl::Owner;
use crate::sys::pidfd::pidfd_open;

impl Files {
    /// Identifies what travels in sockets, and checks that every unix socket has its other end.
    ///
    /// # Errors
    /// [`Error::Blocked`] with everything that the images cannot hold.
    pub fn complete_sockets(&mut self, tree: &mut FileTree) -> Result<()> {
        let mut blockers = Vec::new();
        let mut index = 0;
        // Examining a file may add another queue.
        while index < self.sockets.queues.len() {
            self.queued_files(index, tree, &mut blockers)?;
            index += 1;
        }
        match self.sockets.check_peers() {
            Ok(outside) => {
                for socket in outside {
                    self.open.push(OpenFile {
                        claim: tree.claim_fresh()?,
                        flags: 0,
                        position: 0,
                        owner: Owner::default(),
                        kind: FileKind::Socket(Box::new(Socket::Unix(socket))),
                    });
                }
            }
            Err(Error::Blocked(several)) => blockers.extend(several),
            Err(error) => return Err(error),
        }
        self.open = peers_first(std::mem::take(&mut self.open));
        if blockers.is_empty() {
            Ok(())
        } else {
            Err(Error::Blocked(blockers))
        }
    }

    fn queued_files(
        &mut self,
        index: usize,
        tree: &mut FileTree,
        blockers: &mut Vec<Error>,
    ) -> Result<()> {
        let own = Pid(std::process::id().cast_signed());
        let count = self.sockets.queues[index].messages.len();
        for number in 0..count {
            let message = &self.sockets.queues[index].messages[number];
            let fds: Vec<Fd> = message
                .received
                .iter()
                .map(|fd| Fd(fd.as_raw_fd()))
                .collect();
            if fds.is_empty() {
                continue;
            }
            let proc_dir = ProcDir::open(own)?;
            let owner = TableOwner {
                tid: own.leader(),
                pid: own,
                proc_dir: &proc_dir,
                inherited: None,
                fds: None,
                close_on_exec: None,
                locked: None,
                ahead: None,
            };
            let mut rights = Vec::with_capacity(fds.len());
            for fd in fds {
                match self.queued_file(owner, fd, tree) {
                    Ok(file) => rights.push(file),
                    Err(error) => {
                        let target = self.sockets.queues[index].target.clone();
                        blockers.extend(in_queue(error, &target)?);
                    }
                }
            }
            self.sockets.queues[index].messages[number].rights = rights;
        }
        Ok(())
    }

    fn queued_file(
        &mut self,
        owner: TableOwner<'_>,
        fd: Fd,
        tree: &mut FileTree,
    ) -> Result<ObjectId> {
        let pidfd = pidfd_open(owner.pid).on("pidfd_open", owner.tid)?;
        let mut epolls = Vec::new();
        let mut seen = look_at(owner, pidfd.as_fd(), &[fd], tree, &HashSet::new())?;
        match seen.looks.pop() {
            Some((_, Look::Other(look))) => {
                let descriptor =
                    self.descriptor(owner, fd, *look, pidfd.as_fd(), tree, &mut epolls)?;
                let known = self
                    .open
                    .iter()
                    .find(|open| open.claim.id() == descriptor.file);
                let is_terminal =
                    known.is_some_and(|open| matches!(open.kind, FileKind::Terminal { .. }));
                if epolls.is_empty() && !is_terminal {
                    Ok(descriptor.file)
                } else {
                    Err(Error::unsupported(
                        owner.tid,
                        if is_terminal {
                            "a terminal"
                        } else {
                            "an epoll"
                        },
                        "let the program receive it and run the dump again",
                    ))
                }
            }
            // Only what a parent holds is taken for inherited, and we have none.
            Some((_, Look::Inherited { file, .. })) => Ok(file),
            None => Err(Error::Usage(format!("descriptor {fd} was not looked at"))),
        }
    }
}

/// Restore connects a unix socket only to a peer that it has read before.
fn peers_first(files: Vec<OpenFile>) -> Vec<OpenFile> {
    let ends = |file: &OpenFile| match &file.kind {
        FileKind::Socket(socket) => match &**socket {
            Socket::Unix(socket) => Some((socket.diag.inode, socket.diag.peer)),
            _ => None,
        },
        _ => None,
    };
    let peers: Vec<Option<u32>> = files
        .iter()
        .map(|file| ends(file).map(|(_, peer)| peer))
        .collect();
    let places: HashMap<u32, usize> = files
        .iter()
        .enumerate()
        .filter_map(|(place, file)| Some((ends(file)?.0, place)))
        .collect();
    let mut rest: Vec<Option<OpenFile>> = files.into_iter().map(Some).collect();
    let mut sorted = Vec::with_capacity(rest.len());
    for start in 0..rest.len() {
        let mut chain = Vec::new();
        let mut next = Some(start);
        while let Some(place) = next {
            let Some(file) = rest[place].take() else {
                break;
            };
            chain.push(file);
            next = peers[place].and_then(|peer| places.get(&peer).copied());
        }
        sorted.extend(chain.into_iter().rev());
    }
    sorted
}

/// The same complaints about a file that waits in somebody's socket.
fn in_queue(error: Error, target: &Target) -> Result<Vec<Error>> {
    match error {
        Error::Unsupported { what, remedy, .. } => Ok(vec![Error::unsupported(
            target.clone(),
            format!("{what} on its way through a unix socket"),
            remedy,
        )]),
        Error::Blocked(several) => {
            let nested = several.into_iter().map(|error| in_queue(error, target));
            Ok(nested
                .collect::<Result<Vec<_>>>()?
                .into_iter()
                .flatten()
                .collect())
        }
        other => Err(other),
    }
}
