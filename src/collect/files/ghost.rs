//! Deleted files that a task still uses: their content goes into the images.

use std::fs::File;
use std::os::fd::AsFd;
use std::os::unix::ffi::OsStringExt;
use std::os::unix::fs::FileExt;
use std::path::Path;

use nix::errno::Errno;
use nix::fcntl::{OFlag, open, readlinkat};
use nix::sys::stat::{FileStat, Mode};
use nix::unistd::{Whence, lseek};

use super::{Files, Sight};
use crate::error::{IoResultExt, Result, ResultExt};
use crate::ids::ObjectId;

const SECTOR_BYTES: u64 = 512;

/// A piece of a file that is not a hole.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Chunk {
    /// Where it stands in the file.
    pub offset: u64,
    /// Its bytes.
    pub bytes: Vec<u8>,
}

/// A deleted file.
#[derive(Debug)]
pub struct Ghost {
    /// Its number among the ghosts, from 1.
    pub number: u32,
    /// The entries that refer to it by its former path.
    pub entries: Vec<ObjectId>,
    /// Owner, mode, times.
    pub stat: FileStat,
    /// Over how many folders its former path leads.
    pub depth: usize,
    /// Its content, if it is a regular file.
    pub chunks: Vec<Chunk>,
    /// Where it leads, if it is a symbolic link.
    pub leads_to: Option<Vec<u8>>,
}

impl Files {
    /// Keeps a deleted file, or adds an entry to one that is kept.
    pub(super) fn ghost(&mut self, sight: &Sight<'_>, entry: ObjectId, from: &Path) -> Result<()> {
        let stat = sight.stat;
        let known = self
            .ghosts
            .iter_mut()
            .find(|ghost| ghost.stat.st_dev == stat.st_dev && ghost.stat.st_ino == stat.st_ino);
        if let Some(ghost) = known {
            ghost.entries.push(entry);
            return Ok(());
        }
        let kind = stat.st_mode & libc::S_IFMT;
        let limit = self.choices.ghost_limit_bytes;
        let size = stat.st_blocks.cast_unsigned() * SECTOR_BYTES;
        if kind == libc::S_IFREG && size > limit {
            return Err(sight.refuse(
                &format!(
                    "the deleted file {}, {size} bytes on disk and so above the limit of {limit},",
                    sight.link.display()
                ),
                "let the program close it, or give a larger --ghost-limit",
            ));
        }
        let number = u32::try_from(self.ghosts.len() + 1).unwrap_or(u32::MAX);
        let chunks = match kind {
            libc::S_IFREG => chunks(&File::open(from).at("open", from)?, sight)?,
            _ => Vec::new(),
        };
        let leads_to = if kind == libc::S_IFLNK {
            let link = open(from, OFlag::O_PATH | OFlag::O_CLOEXEC, Mode::empty());
            let link = link.on("open", from)?;
            Some(readlinkat(link.as_fd(), "").on("readlink", sight.link)?)
        } else {
            None
        };
        self.ghosts.push(Ghost {
            number,
            entries: vec![entry],
            stat: *stat,
            depth: sight.link.components().count(),
            chunks,
            leads_to: leads_to.map(OsStringExt::into_vec),
        });
        Ok(())
    }
}

/// Appends those blocks of a piece of a file that hold something other than zeros.
fn push_without_zeros(chunks: &mut Vec<Chunk>, offset: u64, bytes: &[u8]) {
    const BLOCK_BYTES: u64 = 4096;
    let mut at = offset;
    let mut rest = bytes;
    while !rest.is_empty() {
        let room = usize::try_from(BLOCK_BYTES - at % BLOCK_BYTES).unwrap_or(rest.len());
        let (block, behind) = rest.split_at(room.min(rest.len()));
        if block.iter().any(|byte| *byte != 0) {
            match chunks.last_mut() {
                Some(last) if last.offset + last.bytes.len() as u64 == at => {
                    last.bytes.extend_from_slice(block);
                }
                _ => chunks.push(Chunk {
                    offset: at,
                    bytes: block.to_vec(),
                }),
            }
        }
        at += block.len() as u64;
        rest = behind;
    }
}

impl Files {
    /// Whether the file of this device and inode is kept as a ghost.
    pub(super) fn is_ghost(&self, inode: (u64, u64)) -> bool {
        let ghosts = self.ghosts.iter();
        let mut inodes = ghosts.map(|ghost| (ghost.stat.st_dev, ghost.stat.st_ino));
        inodes.any(|known| known == inode)
    }
}

fn chunks(file: &File, sight: &Sight<'_>) -> Result<Vec<Chunk>> {
    let size = sight.stat.st_size;
    let mut chunks = Vec::new();
    let mut offset = 0;
    while offset < size {
        let data = match lseek(file.as_fd(), offset, Whence::SeekData) {
            Err(Errno::ENXIO) => break,
            answer => answer.on("lseek SEEK_DATA", sight.link)?,
        };
        let hole = lseek(file.as_fd(), data, Whence::SeekHole)
            .on("lseek SEEK_HOLE", sight.link)?
            .min(size);
        let mut bytes = vec![0; usize::try_from(hole - data).unwrap_or(0)];
        file.read_exact_at(&mut bytes, data.cast_unsigned())
            .at("read", sight.link)?;
        push_without_zeros(&mut chunks, data.cast_unsigned(), &bytes);
        offset = hole;
    }
    Ok(chunks)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blocks_of_zeros_are_left_out() {
        let mut bytes = vec![0; 5 * 4096 + 10];
        bytes[0] = 1;
        bytes[2 * 4096] = 2;
        bytes[3 * 4096] = 3;
        bytes[5 * 4096 + 9] = 4;
        let mut chunks = Vec::new();
        // It begins in the middle of a block.
        push_without_zeros(&mut chunks, 4096 - 10, &bytes);
        let places: Vec<(u64, usize)> = chunks
            .iter()
            .map(|chunk| (chunk.offset, chunk.bytes.len()))
            .collect();
        assert_eq!(places, [(4086, 10), (8192, 8192), (20480, 4096)]);
        assert!(chunks.iter().all(|chunk| {
            let from = usize::try_from(chunk.offset - 4086).unwrap();
            chunk.bytes == bytes[from..from + chunk.bytes.len()]
        }));
    }
}
