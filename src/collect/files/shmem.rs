//! Nameless shared memory: memfds and `MAP_SHARED | MAP_ANONYMOUS`.

use std::fs::File;
use std::os::fd::AsFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::FileExt;
use std::path::Path;

use nix::errno::Errno;
use nix::sys::stat::FileStat;
use nix::unistd::{Whence, lseek};

use super::{Files, without_deleted_mark};
use crate::collect::memory::{PAGE_BYTES, PageSource};
use crate::error::{Error, IoResultExt, Result, ResultExt, Target};

/// A piece of a segment that is not a hole, in bytes, whole pages.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Extent {
    /// First byte.
    pub start: u64,
    /// First byte behind.
    pub end: u64,
}

/// One piece of shared memory, whoever maps or opened it.
#[derive(Debug)]
pub struct Segment {
    /// Its number among the segments, from 1.
    pub number: u32,
    /// The name given to memfd_create, or `/dev/zero`.
    pub name: Vec<u8>,
    /// Owner, mode, size, inode.
    pub stat: FileStat,
    /// `F_SEAL_*`.
    pub seals: u32,
    /// Where it holds data.
    pub extents: Vec<Extent>,
    /// Access to its pages.
    pub content: File,
}

impl Files {
    /// The segment behind an inode; the first time with the places of its data.
    pub(super) fn segment(
        &mut self,
        target: Target,
        link: &Path,
        stat: &FileStat,
        seals: u32,
        content: File,
    ) -> Result<u32> {
        const SYSTEM_V: &[u8] = b"/SYSV";
        if let Some(known) = self
            .segments
            .iter()
            .find(|segment| segment.stat.st_ino == stat.st_ino)
        {
            return Ok(known.number);
        }
        let name = without_deleted_mark(link);
        let name = name.as_os_str().as_bytes();
        if name.starts_with(SYSTEM_V) {
            return Err(Error::unsupported(
                target,
                "System V shared memory",
                "it can only be dumped with its IPC namespace",
            ));
        }
        let extents = extents(&content, stat.st_size).on("lseek SEEK_DATA", target)?;
        let number = u32::try_from(self.segments.len() + 1).unwrap_or(u32::MAX);
        self.segments.push(Segment {
            number,
            name: name.strip_prefix(b"/memfd:").unwrap_or(name).to_vec(),
            stat: *stat,
            seals,
            extents,
            content,
        });
        Ok(number)
    }
}

fn extents(content: &File, size: i64) -> Result<Vec<Extent>, Errno> {
    let mut extents = Vec::new();
    let mut offset = 0;
    while offset < size {
        let data = match lseek(content.as_fd(), offset, Whence::SeekData) {
            Err(Errno::ENXIO) => break,
            answer => answer?,
        };
        let hole = lseek(content.as_fd(), data, Whence::SeekHole)?;
        extents.push(Extent {
            start: data.cast_unsigned() / PAGE_BYTES * PAGE_BYTES,
            end: hole.cast_unsigned().next_multiple_of(PAGE_BYTES),
        });
        offset = hole;
    }
    Ok(extents)
}

impl Segment {
    /// The name as a path, for messages.
    #[must_use]
    pub fn name_path(&self) -> &Path {
        Path::new(std::ffi::OsStr::from_bytes(&self.name))
    }
}

impl PageSource for Segment {
    fn read_pages(&self, offset: u64, buffer: &mut [u8]) -> Result<()> {
        // Behind the end of a segment its last page is zero.
        let rest = self.stat.st_size.cast_unsigned().saturating_sub(offset);
        let in_file = usize::try_from(rest)
            .unwrap_or(usize::MAX)
            .min(buffer.len());
        buffer[in_file..].fill(0);
        self.content
            .read_exact_at(&mut buffer[..in_file], offset)
            .at("read shared memory", self.name_path())
    }
}
