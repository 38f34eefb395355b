//! Nameless shared memory: memfds and `MAP_SHARED | MAP_ANONYMOUS`.

use std::fs::File;
use std::os::fd::AsFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::FileExt;
use std::path::Path;

use nix::errno::Errno;
use nix::sys::stat::FileStat;
use nix::unistd::{Whence, lseek};

use super::{Files, Sight, without_deleted_mark};
use crate::collect::memory::{PAGE_BYTES, PageSource};
use crate::error::{Error, IoResultExt, Result, ResultExt};
use crate::sys::fcntl;

/// What stands before the names of memfds.
const MEMFD_PREFIX: &[u8] = b"/memfd:";
/// What stands before the names of System V shared memory.
pub const SYSTEM_V: &[u8] = b"/SYSV";
/// It, in messages.
pub const SYSTEM_V_MEMORY: &str = "System V shared memory";
/// What is said about it.
pub const SYSTEM_V_REMEDY: &str = "it can only be dumped with its IPC namespace";
/// The name of anonymous memory in huge pages.
pub const ANON_HUGEPAGE: &[u8] = b"/anon_hugepage";

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
    /// The size of its pages in bytes; more than 4096 for hugetlb.
    pub page_bytes: u64,
    /// Where it holds data.
    pub extents: Vec<Extent>,
    /// Access to its pages.
    pub content: File,
}

impl Files {
    /// The size of the pages of nameless shared memory; `None` for any other file.
    pub(super) fn shmem_page_bytes(&self, link: &Path, stat: &FileStat) -> Option<u64> {
        if stat.st_dev == self.shmem_device {
            return Some(PAGE_BYTES);
        }
        let link = link.as_os_str().as_bytes();
        let block_bytes = stat.st_blksize.cast_unsigned();
        let may_be_huge = block_bytes > PAGE_BYTES
            && block_bytes.is_power_of_two()
            && (link.starts_with(MEMFD_PREFIX) || link.starts_with(ANON_HUGEPAGE));
        let is_huge = may_be_huge && fcntl::hugetlb_device(block_bytes) == Ok(stat.st_dev);
        is_huge.then_some(block_bytes)
    }

    /// How much of shared memory is to be written at most, in bytes.
    #[must_use]
    pub fn shared_bytes(&self) -> u64 {
        let extents = self.segments.iter().flat_map(|segment| &segment.extents);
        extents.map(|extent| extent.end - extent.start).sum()
    }

    /// The segment behind an inode; the first time with the places of its data.
    pub(super) fn segment(
        &mut self,
        sight: &Sight<'_>,
        page_bytes: u64,
        seals: u32,
        content: File,
    ) -> Result<u32> {
        let Sight { link, stat, .. } = *sight;
        if let Some(known) = self.segments.iter().find(|segment| {
            (segment.stat.st_dev, segment.stat.st_ino) == (stat.st_dev, stat.st_ino)
        }) {
            return Ok(known.number);
        }
        let name = without_deleted_mark(link);
        let name = name.as_os_str().as_bytes();
        if name.starts_with(SYSTEM_V) {
            return Err(sight.refuse(SYSTEM_V_MEMORY, SYSTEM_V_REMEDY));
        }
        let extents =
            extents(&content, stat.st_size).on("lseek SEEK_DATA", sight.target.clone())?;
        let number = u32::try_from(self.segments.len() + 1).unwrap_or(u32::MAX);
        self.segments.push(Segment {
            number,
            name: name.strip_prefix(MEMFD_PREFIX).unwrap_or(name).to_vec(),
            stat: *stat,
            seals,
            page_bytes,
            extents,
            content,
        });
        Ok(number)
    }
}

/// Whether a file is memory of memfd_secret(2), which only the task can read. Other than a
/// deleted file of that name, it counts a link.
pub(super) fn is_secret(link: &Path, stat: &FileStat) -> bool {
    stat.st_nlink > 0 && link.as_os_str().as_bytes() == b"/secretmem (deleted)"
}

impl Sight<'_> {
    pub(super) fn refuse_secret(&self) -> Error {
        self.refuse(
            "secret memory (memfd_secret), which nobody but the task can read,",
            "let the program unmap and close it first",
        )
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
