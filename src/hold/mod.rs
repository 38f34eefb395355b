//! Keeping memory as it was at the freeze, so that the tree may run on while it is written.
//!
//! Large private memory is kept by a [`Snapshot`]; what a fork does not copy, and what costs
//! less to copy than to fork, is put into a nameless file of our own.

mod snapshot;

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::sync::Arc;

use memmap2::MmapMut;
use nix::sys::memfd::{MFdFlags, memfd_create};

pub use snapshot::{Snapshot, SnapshotCalls};

use crate::collect::memory::{PAGE_BYTES, PageSource};
use crate::collect::page_identity::SharedPages;
use crate::collect::tree::Collection;
use crate::error::{Error, IoResultExt, Result, ResultExt, Target};
use crate::proc::memory::TaskMemory;
use crate::sys::map;
use crate::watch::Watch;

/// Where the bytes of some pages are kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct HeldRun {
    start: u64,
    end: u64,
    offset: u64,
}

/// Files and memory in which pages can be kept, made before the freeze.
#[derive(Debug)]
pub struct Room {
    in_memory: File,
    on_disk: File,
    /// Where `on_disk` is, for messages.
    path: PathBuf,
    buffer: MmapMut,
}

impl Room {
    /// Enough for all pages of a small program, little enough for the processor's cache.
    const BUFFER_BYTES: usize = 256 * 1024;

    /// Makes room; `on_disk` is an empty file in the folder `path`, for what is too much for
    /// memory.
    ///
    /// # Errors
    /// memfd_create(2).
    pub fn make(on_disk: File, path: PathBuf) -> Result<Self> {
        let mut buffer = map::buffer(Self::BUFFER_BYTES).at("take memory for", "pages")?;
        // The freeze need not wait for the pages of the buffer itself.
        buffer.fill(1);
        let in_memory = memfd_create("dedump", MFdFlags::MFD_CLOEXEC);
        Ok(Self {
            in_memory: File::from(in_memory.on("memfd_create", Target::Here)?),
            on_disk,
            path,
            buffer,
        })
    }

    /// Takes the room that suits a collection: little goes to memory, which is faster.
    fn choose(self, collection: &Collection) -> Hold {
        const LITTLE_BYTES: u64 = 64 << 20;
        let spaces = collection.spaces.iter();
        let pages: u64 = spaces.map(|space| space.object.pages_scanned()).sum();
        let is_little = pages * PAGE_BYTES + collection.files.shared_bytes() <= LITTLE_BYTES;
        let (file, path) = if is_little {
            (self.in_memory, "memory".into())
        } else {
            (self.on_disk, self.path)
        };
        Hold {
            file,
            path,
            flushed: 0,
            buffer: self.buffer,
            filled: 0,
        }
    }
}

/// A nameless file that keeps pages, the last of them still in memory.
#[derive(Debug)]
struct Hold {
    file: File,
    /// Where it is, for messages.
    path: PathBuf,
    /// Bytes in the file.
    flushed: u64,
    buffer: MmapMut,
    /// Bytes in the buffer, which follow those in the file.
    filled: usize,
}

impl Hold {
    /// Copies pages.
    fn keep(
        &mut self,
        source: &dyn PageSource,
        ranges: impl IntoIterator<Item = (u64, u64)>,
        watch: &Watch,
    ) -> Result<Vec<HeldRun>> {
        let mut runs = Vec::new();
        for (start, end) in ranges {
            runs.push(HeldRun {
                start,
                end,
                offset: self.flushed + self.filled as u64,
            });
            let mut from = start;
            while from < end {
                if self.filled == self.buffer.len() {
                    watch.check()?;
                    self.file
                        .write_all_at(&self.buffer, self.flushed)
                        .at("keep pages in", self.path.as_path())?;
                    self.flushed += self.filled as u64;
                    self.filled = 0;
                }
                let room = &mut self.buffer[self.filled..];
                let len = usize::try_from(end - from).unwrap_or(room.len());
                let len = len.min(room.len());
                source.read_pages(from, &mut room[..len])?;
                self.filled += len;
                from += len as u64;
            }
        }
        Ok(runs)
    }

    /// Reads what was kept.
    fn read(&self, offset: u64, bytes: &mut [u8]) -> Result<()> {
        let in_file = usize::try_from(self.flushed.saturating_sub(offset)).unwrap_or(bytes.len());
        let (from_file, from_buffer) = bytes.split_at_mut(in_file.min(bytes.len()));
        self.file
            .read_exact_at(from_file, offset)
            .at("read pages kept in", self.path.as_path())?;
        let start = (offset + from_file.len() as u64).saturating_sub(self.flushed);
        let start = usize::try_from(start).unwrap_or(self.filled);
        from_buffer.copy_from_slice(&self.buffer[start..start + from_buffer.len()]);
        Ok(())
    }
}

/// Pages as they were when they were kept.
#[derive(Debug)]
pub struct Kept {
    /// Ascending.
    runs: Vec<HeldRun>,
    hold: Arc<Hold>,
    /// What is asked for all other pages.
    behind: Option<Arc<TaskMemory>>,
}

impl PageSource for Kept {
    fn read_pages(&self, offset: u64, buffer: &mut [u8]) -> Result<()> {
        let mut done = 0;
        while done < buffer.len() {
            let from = offset + done as u64;
            let rest = &mut buffer[done..];
            let place = self.runs.partition_point(|run| run.end <= from);
            let next = self.runs.get(place);
            let held = next.filter(|run| run.start <= from);
            let until = match (held, next) {
                (Some(run), _) => run.end,
                (None, Some(run)) => run.start,
                (None, None) => u64::MAX,
            };
            let len = usize::try_from(until - from)
                .unwrap_or(rest.len())
                .min(rest.len());
            let part = &mut rest[..len];
            match (held, &self.behind) {
                (Some(run), _) => self.hold.read(run.offset + (from - run.start), part)?,
                (None, Some(memory)) => memory.read(from, part)?,
                (None, None) => part.fill(0),
            }
            done += len;
        }
        Ok(())
    }
}

/// The memory of a tree as it was when it was let go.
#[derive(Debug)]
pub struct KeptMemory {
    /// Private memory, in the order of the collection's address spaces.
    pub spaces: Vec<Kept>,
    /// Shared memory, in the order of the collection's segments.
    pub segments: Vec<Kept>,
}

impl KeptMemory {
    /// Keeps everything that is to be written of the memory of a frozen tree and is in no
    /// snapshot. `shared` says what the address spaces without one have in common.
    ///
    /// # Errors
    /// A page that cannot be read; a full disk; [`Error::TimedOut`].
    pub fn of(
        collection: &Collection,
        shared: &SharedPages,
        room: Room,
        watch: &Watch,
    ) -> Result<Self> {
        let mut hold = room.choose(collection);
        let memory_of = collection.memory_by_leader();
        let mut spaces = Vec::with_capacity(collection.spaces.len());
        for (index, space) in collection.spaces.iter().enumerate() {
            let Some(memory) = memory_of.get(&space.holder) else {
                return Err(Error::Vanished { tid: space.holder });
            };
            let runs = shared.sourced(index, &space.object.pages);
            let ranges = runs.iter().map(|run| (run.start, run.end));
            let snapshot = space.object.snapshot.as_ref().map(Snapshot::memory);
            spaces.push((hold.keep(*memory, ranges, watch)?, snapshot));
        }
        let mut segments = Vec::with_capacity(collection.files.segments.len());
        for segment in &collection.files.segments {
            let ranges = segment
                .extents
                .iter()
                .map(|extent| (extent.start, extent.end));
            segments.push((hold.keep(segment, ranges, watch)?, None));
        }
        let hold = Arc::new(hold);
        let kept = |(runs, behind)| Kept {
            runs,
            hold: Arc::clone(&hold),
            behind,
        };
        Ok(Self {
            spaces: spaces.into_iter().map(kept).collect(),
            segments: segments.into_iter().map(kept).collect(),
        })
    }
}
