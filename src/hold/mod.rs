//! Keeping memory as it was at the freeze, so that the tree may run on while it is written.
//!
//! Large private memory is kept by a [`Snapshot`]; what a fork does not copy, and what costs
//! less to copy than to fork, is put into a nameless file of our own.

mod snapshot;

use std::collections::HashMap;
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::sync::Arc;

pub use snapshot::{Snapshot, SnapshotCalls};

use crate::collect::memory::PageSource;
use crate::collect::page_identity::SharedPages;
use crate::collect::tree::Collection;
use crate::error::{Error, IoResultExt, Result};
use crate::ids::Tid;
use crate::proc::memory::TaskMemory;

/// Where the bytes of some pages are kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct HeldRun {
    start: u64,
    end: u64,
    offset: u64,
}

/// A nameless file that keeps pages.
#[derive(Debug)]
pub struct Hold {
    file: Arc<File>,
    len: u64,
    buffer: Vec<u8>,
}

impl Hold {
    const BUFFER_BYTES: usize = 256 * 1024;

    /// Starts to keep pages in an empty file.
    #[must_use]
    pub fn new(file: File) -> Self {
        Self {
            file: Arc::new(file),
            len: 0,
            buffer: Vec::new(),
        }
    }

    /// Copies pages.
    ///
    /// # Errors
    /// A page that cannot be read; a full disk.
    pub fn keep(
        &mut self,
        source: &dyn PageSource,
        ranges: impl IntoIterator<Item = (u64, u64)>,
        behind: Option<Arc<TaskMemory>>,
    ) -> Result<Kept> {
        let mut runs: Vec<HeldRun> = Vec::new();
        let mut filled = 0;
        self.buffer.resize(Self::BUFFER_BYTES, 0);
        for (start, end) in ranges {
            runs.push(HeldRun {
                start,
                end,
                offset: self.len + filled as u64,
            });
            let mut from = start;
            while from < end {
                if filled == self.buffer.len() {
                    self.flush(filled)?;
                    filled = 0;
                }
                let room = self.buffer.len() - filled;
                let len = usize::try_from(end - from).unwrap_or(room).min(room);
                source.read_pages(from, &mut self.buffer[filled..filled + len])?;
                filled += len;
                from += len as u64;
            }
        }
        self.flush(filled)?;
        Ok(Kept {
            runs,
            file: Arc::clone(&self.file),
            behind,
        })
    }

    fn flush(&mut self, filled: usize) -> Result<()> {
        let bytes = &self.buffer[..filled];
        self.file
            .write_all_at(bytes, self.len)
            .at("write", "kept pages")?;
        self.len += filled as u64;
        Ok(())
    }
}

/// Pages as they were when they were kept.
#[derive(Debug)]
pub struct Kept {
    /// Ascending.
    runs: Vec<HeldRun>,
    file: Arc<File>,
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
                (Some(run), _) => self
                    .file
                    .read_exact_at(part, run.offset + (from - run.start))
                    .at("read", "kept pages")?,
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
    /// A page that cannot be read; a full disk.
    pub fn of(collection: &Collection, shared: &SharedPages, file: File) -> Result<Self> {
        let mut hold = Hold::new(file);
        let memory_of: HashMap<Tid, &TaskMemory> = collection
            .tasks
            .iter()
            .filter_map(|one| Some((one.task.pid.leader(), &one.holdings.as_ref()?.memory)))
            .collect();
        let mut spaces = Vec::with_capacity(collection.spaces.len());
        for (index, space) in collection.spaces.iter().enumerate() {
            let Some(memory) = memory_of.get(&space.holder) else {
                return Err(Error::Vanished { tid: space.holder });
            };
            let runs = shared.sourced(index, &space.object.pages);
            let ranges = runs.iter().map(|run| (run.start, run.end));
            let snapshot = space.object.snapshot.as_ref().map(Snapshot::memory);
            spaces.push(hold.keep(*memory, ranges, snapshot)?);
        }
        let mut segments = Vec::with_capacity(collection.files.segments.len());
        for segment in &collection.files.segments {
            let ranges = segment
                .extents
                .iter()
                .map(|extent| (extent.start, extent.end));
            segments.push(hold.keep(segment, ranges, None)?);
        }
        Ok(Self { spaces, segments })
    }
}
