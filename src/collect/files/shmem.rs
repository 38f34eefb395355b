//! Nameless shared memory: memfds, `MAP_SHARED | MAP_ANONYMOUS`, and that of System V.
//!
//! Without a way to the file behind it (see `mapped.rs`) it is read through the mappings of the
//! tree. Which pages are not holes the tasks say (`mincore`), since to read a hole would fill it.

use std::fs::File;
use std::os::fd::AsFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::FileExt;
use std::path::Path;

use nix::errno::Errno;
use nix::sys::stat::FileStat;
use nix::unistd::{Whence, lseek};

use super::{Files, Mapper, Sight, without_deleted_mark};
use crate::collect::memory::{PAGE_BYTES, PageSource};
use crate::collect::notes::{Note, NoteKind};
use crate::error::{Error, IoResultExt, Result, ResultExt, Target};
use crate::proc::memory::TaskMemory;
use crate::proc::smaps::Vma;
use crate::sys::fcntl;

/// What stands before the names of memfds.
const MEMFD_PREFIX: &[u8] = b"/memfd:";
/// What stands before the names of System V shared memory.
pub const SYSTEM_V: &[u8] = b"/SYSV";
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
    pub content: Content,
}

/// Through what shared memory is read.
#[derive(Debug)]
pub enum Content {
    /// The file itself.
    File(File),
    /// Mappings of it.
    Mappings(Vec<Part>),
}

/// A part of shared memory that a task has mapped.
#[derive(Debug)]
pub struct Part {
    memory: TaskMemory,
    address: u64,
    /// Where it is in the segment.
    extent: Extent,
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
        content: Content,
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
            let tids = match sight.target {
                Target::Memory(tid, ..) | Target::Descriptor(tid, _) => vec![tid],
                _ => Vec::new(),
            };
            self.notes.push(Note {
                kind: NoteKind::SystemV,
                tids,
            });
        }
        let extents = match &content {
            Content::File(file) => {
                extents(file, stat.st_size).on("lseek SEEK_DATA", sight.target.clone())?
            }
            Content::Mappings(_) => Vec::new(),
        };
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

    /// Adds a shared mapping, if the segment is read through such.
    pub(super) fn add(&mut self, mapper: Mapper<'_>, vma: &Vma) -> Result<()> {
        let Content::Mappings(parts) = &mut self.content else {
            return Ok(());
        };
        let mapping = &vma.mapping;
        let start = mapping.offset_bytes;
        let extent = Extent {
            start,
            end: start + mapping.size_bytes(),
        };
        let asked = mapper.residency.iter();
        let mut asked = asked.filter(|asked| asked.start == mapping.start);
        // What is in swap nobody tells apart from holes.
        let known = asked.next().filter(|_| vma.swapped_bytes == 0);
        match known {
            Some(known) => self.extents.extend(resident(start, &known.pages)),
            None => self.extents.push(extent),
        }
        merge(&mut self.extents);
        let len = i64::try_from(extent.end).unwrap_or(i64::MAX);
        self.stat.st_size = self.stat.st_size.max(len);
        parts.push(Part {
            memory: TaskMemory::open(mapper.proc_dir, mapper.tid)?,
            address: mapping.start,
            extent,
        });
        Ok(())
    }
}

/// The runs of pages that are in memory, from `start` on.
fn resident(start: u64, pages: &[u8]) -> Vec<Extent> {
    let mut extents = Vec::new();
    let mut from = start;
    for run in pages.chunk_by(|one, next| one & 1 == next & 1) {
        let end = from + run.len() as u64 * PAGE_BYTES;
        if run[0] & 1 == 1 {
            extents.push(Extent { start: from, end });
        }
        from = end;
    }
    extents
}

/// Sorts extents and joins those that touch.
fn merge(extents: &mut Vec<Extent>) {
    extents.sort_unstable_by_key(|extent| extent.start);
    extents.dedup_by(|next, last| {
        let joins = next.start <= last.end;
        if joins {
            last.end = last.end.max(next.end);
        }
        joins
    });
}

impl PageSource for Segment {
    fn read_pages(&self, offset: u64, buffer: &mut [u8]) -> Result<()> {
        // Behind the end of a segment its last page is zero.
        let rest = self.stat.st_size.cast_unsigned().saturating_sub(offset);
        let in_file = usize::try_from(rest)
            .unwrap_or(usize::MAX)
            .min(buffer.len());
        buffer[in_file..].fill(0);
        let buffer = &mut buffer[..in_file];
        match &self.content {
            Content::File(file) => file
                .read_exact_at(buffer, offset)
                .at("read shared memory", self.name_path()),
            Content::Mappings(parts) => self.read_parts(parts, offset, buffer),
        }
    }
}

impl Segment {
    fn read_parts(&self, parts: &[Part], offset: u64, buffer: &mut [u8]) -> Result<()> {
        let mut done = 0;
        while done < buffer.len() {
            let from = offset + done as u64;
            let holds = |part: &&Part| (part.extent.start..part.extent.end).contains(&from);
            let Some(part) = parts.iter().find(holds) else {
                return Err(Error::Image {
                    op: "read shared memory",
                    path: self.name_path().to_owned(),
                    source: std::io::ErrorKind::UnexpectedEof.into(),
                });
            };
            let rest = &mut buffer[done..];
            let len = usize::try_from(part.extent.end - from).unwrap_or(usize::MAX);
            let len = len.min(rest.len());
            let address = part.address + (from - part.extent.start);
            part.memory.read(address, &mut rest[..len])?;
            done += len;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn runs_of_resident_pages() {
        let runs = |pages: &[u8]| -> Vec<(u64, u64)> {
            let found = resident(PAGE_BYTES, pages);
            let pages = |bytes: u64| bytes / PAGE_BYTES;
            let found = found.iter();
            found
                .map(|one| (pages(one.start), pages(one.end)))
                .collect()
        };
        assert_eq!(runs(&[]), []);
        assert_eq!(runs(&[0, 0]), []);
        assert_eq!(runs(&[1, 3, 0, 255, 2]), [(1, 3), (4, 5)]);
    }

    #[test]
    fn extents_of_several_mappings_join() {
        let extent = |start, end| Extent { start, end };
        let mut extents = vec![extent(8, 9), extent(0, 4), extent(2, 3), extent(4, 6)];
        merge(&mut extents);
        assert_eq!(extents, [extent(0, 6), extent(8, 9)]);
    }
}
