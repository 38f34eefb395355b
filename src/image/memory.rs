//! Address spaces as images: `mm-`, `pagemap-`, `pages-`.

use std::fs::File;
use std::os::unix::fs::FileExt;

use super::framing::{ImageFile, ImageWriter};
use super::proto;
use crate::collect::memory::{AddressSpace, Backing, PAGE_BYTES, PageRun, Vma};
use crate::collect::task::{Living, Task};
use crate::error::{IoResultExt, Result};
use crate::proc::maps::Access;
use crate::proc::memory::TaskMemory;
use crate::proc::smaps::VmFlag;
use crate::progress::Progress;

/// `VmaEntry.status` bits.
mod status {
    pub(super) const REGULAR: u32 = 1 << 0;
    pub(super) const VSYSCALL: u32 = 1 << 2;
    pub(super) const VDSO: u32 = 1 << 3;
    pub(super) const HEAP: u32 = 1 << 5;
    pub(super) const FILE_PRIVATE: u32 = 1 << 6;
    pub(super) const FILE_SHARED: u32 = 1 << 7;
    pub(super) const ANON_PRIVATE: u32 = 1 << 9;
    pub(super) const VVAR: u32 = 1 << 12;
    pub(super) const MEMFD: u32 = 1 << 14;
}

/// `PagemapEntry.flags`: may be served after the task runs again.
const LAZY: u32 = 1 << 1;
/// `PagemapEntry.flags`: the bytes are in the pages file of this folder.
pub(super) const PRESENT: u32 = 1 << 2;

/// More words are refused by restore.
const LONGEST_AUXV: usize = 44;

/// The `mm-` entry of a task.
#[must_use]
pub fn mm_entry(task: &Task, living: &Living, space: &AddressSpace) -> proto::MmEntry {
    let layout = &task.stat.layout;
    proto::MmEntry {
        mm_start_code: layout.start_code,
        mm_end_code: layout.end_code,
        mm_start_data: layout.start_data,
        mm_end_data: layout.end_data,
        mm_start_stack: layout.start_stack,
        mm_start_brk: layout.start_brk,
        mm_brk: living.brk,
        mm_arg_start: layout.arg_start,
        mm_arg_end: layout.arg_end,
        mm_env_start: layout.env_start,
        mm_env_end: layout.env_end,
        exe_file_id: space.exe.number(),
        mm_saved_auxv: space.auxv.iter().copied().take(LONGEST_AUXV).collect(),
        vmas: space.vmas.iter().map(vma_entry).collect(),
        dumpable: i32::try_from(living.dumpable).ok(),
        aios: Vec::new(),
        thp_disabled: living.status.huge_pages_allowed.map(|allowed| !allowed),
    }
}

fn vma_entry(vma: &Vma) -> proto::VmaEntry {
    const ANONYMOUS: i32 = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS;
    let mapping = &vma.smap.mapping;
    let (status, sharing, shmid, fdflags) = match vma.backing {
        Backing::Anonymous => (status::REGULAR | status::ANON_PRIVATE, ANONYMOUS, 0, None),
        Backing::Heap => (
            status::REGULAR | status::ANON_PRIVATE | status::HEAP,
            ANONYMOUS,
            0,
            None,
        ),
        Backing::File {
            file,
            shared,
            access,
        }
        | Backing::Shmem {
            file,
            shared,
            access,
        } => {
            let (kind, flag) = if shared {
                (status::FILE_SHARED, libc::MAP_SHARED)
            } else {
                (status::FILE_PRIVATE, libc::MAP_PRIVATE)
            };
            let memfd = if matches!(vma.backing, Backing::Shmem { .. }) {
                status::MEMFD
            } else {
                0
            };
            (
                status::REGULAR | kind | memfd,
                flag,
                file.number(),
                Some(access),
            )
        }
        Backing::Vdso => (
            status::REGULAR | status::VDSO | status::ANON_PRIVATE,
            ANONYMOUS,
            0,
            None,
        ),
        Backing::Vvar => (
            status::REGULAR | status::VVAR | status::ANON_PRIVATE,
            ANONYMOUS,
            0,
            None,
        ),
        Backing::Vsyscall => (status::VSYSCALL | status::ANON_PRIVATE, ANONYMOUS, 0, None),
    };
    let mut flags = sharing;
    for (flag, map) in [
        (VmFlag::GrowsDown, libc::MAP_GROWSDOWN),
        (VmFlag::Locked, libc::MAP_LOCKED),
        (VmFlag::NoReserve, libc::MAP_NORESERVE),
    ] {
        if vma.smap.flags.contains(flag) {
            flags |= map;
        }
    }
    let madv = madvice(vma);
    proto::VmaEntry {
        start: mapping.start,
        end: mapping.end,
        pgoff: if matches!(vma.backing, Backing::File { .. } | Backing::Shmem { .. }) {
            mapping.offset_bytes
        } else {
            0
        },
        shmid: u64::from(shmid),
        prot: protection(mapping.access),
        flags: flags.cast_unsigned(),
        status,
        fd: -1,
        madv: (madv != 0).then_some(madv),
        fdflags,
    }
}

fn protection(access: Access) -> u32 {
    let bit = |set: bool, flag: i32| if set { flag.cast_unsigned() } else { 0 };
    bit(access.read, libc::PROT_READ)
        | bit(access.write, libc::PROT_WRITE)
        | bit(access.execute, libc::PROT_EXEC)
}

/// Bit n for `madvise` advice n that is in force.
fn madvice(vma: &Vma) -> u64 {
    if matches!(
        vma.backing,
        Backing::Vdso | Backing::Vvar | Backing::Vsyscall
    ) {
        return 0;
    }
    [
        (VmFlag::SequentialRead, libc::MADV_SEQUENTIAL),
        (VmFlag::RandomRead, libc::MADV_RANDOM),
        (VmFlag::DontCopy, libc::MADV_DONTFORK),
        (VmFlag::DontDump, libc::MADV_DONTDUMP),
        (VmFlag::Mergeable, libc::MADV_MERGEABLE),
        (VmFlag::HugePage, libc::MADV_HUGEPAGE),
        (VmFlag::NoHugePage, libc::MADV_NOHUGEPAGE),
        (VmFlag::WipeOnFork, libc::MADV_WIPEONFORK),
    ]
    .into_iter()
    .filter(|(flag, _)| vma.smap.flags.contains(*flag))
    .fold(0, |bits, (_, advice)| bits | 1 << advice)
}

/// Writes the `pagemap-` entries for runs of pages whose bytes stand in `pages-<pages_id>`.
///
/// # Errors
/// Writing.
pub fn write_pagemap(writer: &mut ImageWriter, pages_id: u32, runs: &[PageRun]) -> Result<()> {
    writer.entry(&proto::PagemapHead { pages_id })?;
    for run in runs {
        // More pages than 32 bits can count are split.
        let longest = u64::from(u32::MAX) * PAGE_BYTES;
        let flags = PRESENT | if run.lazy { LAZY } else { 0 };
        let mut start = run.start;
        while start < run.end {
            let end = run.end.min(start.saturating_add(longest));
            writer.entry(&pagemap_entry(start, (end - start) / PAGE_BYTES, flags))?;
            start = end;
        }
    }
    Ok(())
}

/// The entry of a run of pages.
pub(super) fn pagemap_entry(vaddr: u64, pages: u64, flags: u32) -> proto::PagemapEntry {
    // Restorers before 4.2 read the 32-bit count, later ones the other: both are written.
    proto::PagemapEntry {
        vaddr,
        compat_nr_pages: u32::try_from(pages).unwrap_or(u32::MAX),
        nr_pages: Some(pages),
        flags: Some(flags),
        in_parent: None,
    }
}

/// A pages file being filled, and what went into it.
#[derive(Debug)]
pub struct PagesWriter {
    file: File,
    name: String,
    buffer: Vec<u8>,
    filled: usize,
    size_bytes: u64,
    crc: crc32fast::Hasher,
}

impl PagesWriter {
    /// Fits the second-level cache: read from the task and written to the file in one go.
    const BUFFER_BYTES: usize = 512 * 1024;

    /// Starts an empty pages file.
    #[must_use]
    pub fn new(file: File, name: String) -> Self {
        Self {
            file,
            name,
            buffer: vec![0; Self::BUFFER_BYTES],
            filled: 0,
            size_bytes: 0,
            crc: crc32fast::Hasher::new(),
        }
    }

    /// Appends pages of a stopped task, and says which: anonymous pages that hold nothing but
    /// zeros are left out, because that is what a restorer maps there anyway.
    ///
    /// # Errors
    /// A page that cannot be read; writing.
    pub fn copy(
        &mut self,
        memory: &TaskMemory,
        runs: &[PageRun],
        progress: &mut Progress,
    ) -> Result<Vec<PageRun>> {
        let mut kept = Vec::with_capacity(runs.len());
        for run in runs {
            let mut read = |from, buffer: &mut [u8]| {
                progress.advance(buffer.len() as u64);
                memory.read(from, buffer)
            };
            if run.lazy {
                self.copy_without_zeros(run, &mut kept, read)?;
            } else {
                self.copy_with(run.start, run.end, &mut read)?;
                kept.push(*run);
            }
        }
        Ok(kept)
    }

    fn copy_without_zeros(
        &mut self,
        run: &PageRun,
        kept: &mut Vec<PageRun>,
        mut read: impl FnMut(u64, &mut [u8]) -> Result<()>,
    ) -> Result<()> {
        const PAGE: usize = 4096;
        let mut from = run.start;
        while from < run.end {
            let room = (self.buffer.len() - self.filled) as u64;
            let len = usize::try_from((run.end - from).min(room)).unwrap_or(0);
            let start = self.filled;
            read(from, &mut self.buffer[start..start + len])?;
            for page in (start..start + len).step_by(PAGE) {
                if is_zero(&self.buffer[page..page + PAGE]) {
                    continue;
                }
                self.buffer.copy_within(page..page + PAGE, self.filled);
                self.filled += PAGE;
                push_page(kept, from + (page - start) as u64);
            }
            from += len as u64;
            if self.filled == self.buffer.len() {
                self.flush()?;
            }
        }
        Ok(())
    }

    /// Appends `start..end` of whatever `read` fills its buffer from.
    ///
    /// # Errors
    /// Those of `read`; writing.
    pub fn copy_with(
        &mut self,
        start: u64,
        end: u64,
        mut read: impl FnMut(u64, &mut [u8]) -> Result<()>,
    ) -> Result<()> {
        let mut from = start;
        while from < end {
            let room = (self.buffer.len() - self.filled) as u64;
            let len = usize::try_from((end - from).min(room)).unwrap_or(0);
            read(from, &mut self.buffer[self.filled..self.filled + len])?;
            self.filled += len;
            from += len as u64;
            if self.filled == self.buffer.len() {
                self.flush()?;
            }
        }
        Ok(())
    }

    fn flush(&mut self) -> Result<()> {
        let bytes = &self.buffer[..self.filled];
        self.file
            .write_all_at(bytes, self.size_bytes)
            .at("write", self.name.as_str())?;
        self.crc.update(bytes);
        self.size_bytes += self.filled as u64;
        self.filled = 0;
        Ok(())
    }

    /// Writes what is still buffered.
    ///
    /// # Errors
    /// Writing.
    pub fn finish(mut self) -> Result<ImageFile> {
        self.flush()?;
        Ok(ImageFile {
            name: self.name,
            size_bytes: self.size_bytes,
            crc32: self.crc.finalize(),
        })
    }
}

fn is_zero(page: &[u8]) -> bool {
    const LINE: [u8; 64] = [0; 64];
    page.chunks_exact(LINE.len()).all(|line| line == LINE)
}

/// Appends one page that may be served late.
fn push_page(runs: &mut Vec<PageRun>, start: u64) {
    match runs.last_mut() {
        Some(last) if last.lazy && last.end == start => last.end += PAGE_BYTES,
        _ => runs.push(PageRun {
            start,
            end: start + PAGE_BYTES,
            lazy: true,
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn zeros_are_left_out_and_the_rest_stays_in_order() {
        let file = tempfile::tempfile().unwrap();
        let mut writer = PagesWriter::new(file.try_clone().unwrap(), "pages".to_owned());
        // Of six pages 0, 3 and 4 hold their number plus one.
        let base = 0x10_0000;
        let run = PageRun {
            start: base,
            end: base + 6 * PAGE_BYTES,
            lazy: true,
        };
        let mut kept = Vec::new();
        let fill = |from: u64, buffer: &mut [u8]| {
            for (index, page) in buffer.chunks_exact_mut(4096).enumerate() {
                let number = u8::try_from((from - base) / PAGE_BYTES).unwrap()
                    + u8::try_from(index).unwrap();
                page.fill(if [0, 3, 4].contains(&number) {
                    number + 1
                } else {
                    0
                });
            }
            Ok(())
        };
        writer.copy_without_zeros(&run, &mut kept, fill).unwrap();
        assert_eq!(writer.finish().unwrap().size_bytes, 3 * PAGE_BYTES);
        let pages: Vec<(u64, u64)> = kept
            .iter()
            .map(|run| ((run.start - base) / PAGE_BYTES, run.pages()))
            .collect();
        assert_eq!(pages, [(0, 1), (3, 2)]);
        let mut bytes = vec![0; 3 * 4096];
        file.read_exact_at(&mut bytes, 0).unwrap();
        assert_eq!([bytes[0], bytes[4096], bytes[8192]], [1, 4, 5]);
    }
}
