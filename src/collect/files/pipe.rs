//! Pipes and FIFOs, and what waits in them.

use std::io::Read;
use std::os::fd::{AsFd, OwnedFd};

use nix::errno::Errno;
use nix::fcntl::OFlag;

use super::{FileKind, Files, Sight};
use crate::error::{IoResultExt, Result, ResultExt};
use crate::sys::fcntl;

/// The bytes that wait in a pipe or FIFO.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PipeContent {
    /// The inode of the pipe.
    pub pipe: u64,
    /// Whether it has a path.
    pub is_fifo: bool,
    /// Its room, in bytes.
    pub room_bytes: u32,
    /// What was written and not read yet.
    pub bytes: Vec<u8>,
}

impl Files {
    /// An end of a pipe; the first end open for reading shows what waits in it.
    pub(super) fn pipe(
        &mut self,
        sight: &Sight<'_>,
        duplicate: &OwnedFd,
        is_fifo: bool,
    ) -> Result<FileKind> {
        let flags = sight.fdinfo.flags.cast_signed();
        if flags & libc::O_DIRECT != 0 {
            return Err(sight.refuse(
                "a pipe in packet mode",
                "the image format has no place for packet borders",
            ));
        }
        let pipe = sight.stat.st_ino;
        let reads = flags & libc::O_ACCMODE != libc::O_WRONLY && flags & libc::O_PATH == 0;
        if reads
            && !self
                .pipes
                .iter()
                .any(|content| content.pipe == pipe && content.is_fifo == is_fifo)
        {
            let room_bytes = fcntl::pipe_bytes(duplicate.as_fd())
                .on("fcntl GETPIPE_SZ", sight.target.clone())?;
            self.pipes.push(PipeContent {
                pipe,
                is_fifo,
                room_bytes,
                bytes: peek(sight, duplicate, room_bytes)?,
            });
        }
        Ok(FileKind::Pipe { pipe })
    }
}

/// Copies what waits in a pipe into one of our own, which leaves it where it is.
fn peek(sight: &Sight<'_>, duplicate: &OwnedFd, room_bytes: u32) -> Result<Vec<u8>> {
    let (output, input) = nix::unistd::pipe2(OFlag::O_CLOEXEC).on("pipe2", sight.target.clone())?;
    match fcntl::set_pipe_bytes(input.as_fd(), room_bytes) {
        Err(Errno::EPERM) => {
            return Err(sight.refuse(
                &format!("a pipe with room for {room_bytes} bytes"),
                "your user may not have such pipes: run dedump with CAP_SYS_RESOURCE",
            ));
        }
        answer => answer.on("fcntl SETPIPE_SZ", sight.target.clone())?,
    }
    let copied = match fcntl::tee(duplicate.as_fd(), input.as_fd(), room_bytes as usize) {
        Err(Errno::EAGAIN) => 0,
        answer => answer.on("tee", sight.target.clone())?,
    };
    drop(input);
    let mut bytes = Vec::with_capacity(copied);
    std::fs::File::from(output)
        .read_to_end(&mut bytes)
        .at("read", sight.link)?;
    Ok(bytes)
}
