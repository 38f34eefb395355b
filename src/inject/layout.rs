//! How the region that is mapped in a task for the time of a visit is laid out.
//!
//! ```text
//!   ├─ code, r-x ────────────────────────────┤├─ data, rw- ───────────────────────────┤
//!   │ interpreter │ epilogue 0 │ epilogue 1 │…││ slot 0 (any size) │ slot 1 │ slot 2 │…│
//! ```
//!
//! A slot holds control words and a batch. Slot 0 is that of the first thread, which stays
//! inside the region until all others have left, and needs slot and epilogue all that time
//! should the dumper die. The others take turns at slots 1 to [`WAVE`].
//!
//! Where `RLIMIT_DATA` allows no more data the region is shared memory, which does not count,
//! writable and executable as a whole. A private one could not be made writable, and whoever
//! runs the interpreter would be sent `SIGSEGV`.

use super::batch::Batch;
use super::code::{EPILOGUE_BYTES, Span};
use super::{PAGE_BYTES, site};
use crate::error::Result;
use crate::ids::Tid;
use crate::proc::limits::parse_data_limit;
use crate::proc::maps::Mapping;
use crate::sys::limits;

/// Threads besides the first one that are visited at a time; bounds the region, not the
/// number of threads.
pub(super) const WAVE: usize = 255;
/// Control words, iovecs and mask in front of each batch.
pub(super) const CONTROL_BYTES: usize = 128;
/// Behind the interpreter.
const EPILOGUES_OFFSET: usize = 512;
/// One more call of the first thread: mprotect.
const PREPARATION_BYTES: usize = 64;

/// How many waves it takes to visit a number of threads, the first one apart.
pub(super) fn waves(threads: usize) -> usize {
    threads.saturating_sub(1).div_ceil(WAVE)
}

/// Where everything of one visit is in its task.
#[derive(Clone, Copy, Debug)]
pub(super) struct Layout {
    pub(super) region: Span,
    code_bytes: u64,
    first_slot_bytes: usize,
    slot_bytes: usize,
    /// Made of shared memory.
    pub(super) is_shared: bool,
}

impl Layout {
    /// Finds room for the batches of some threads.
    pub(super) fn find(mappings: &[Mapping], batches: &[Batch], tid: Tid) -> Result<Self> {
        let room = |bytes: usize| (CONTROL_BYTES + bytes).next_multiple_of(64);
        let (first, others) = batches.split_first().unzip();
        let first_slot_bytes = room(first.map_or(0, Batch::len_bytes) + PREPARATION_BYTES);
        let others = others.unwrap_or_default();
        let slot_bytes = room(others.iter().map(Batch::len_bytes).max().unwrap_or(0));
        let slots = others.len().min(WAVE);
        let code_bytes = pages(EPILOGUES_OFFSET + (1 + slots) * EPILOGUE_BYTES);
        let len = code_bytes + pages(first_slot_bytes + slots * slot_bytes);
        let start = site::find_gap(mappings, len, tid)?;
        Ok(Self {
            region: Span { start, len },
            code_bytes,
            first_slot_bytes,
            slot_bytes,
            is_shared: !may_have_data(mappings, len, tid),
        })
    }

    /// Start and length of what the interpreter reads and writes.
    pub(super) fn data(&self) -> Span {
        Span {
            start: self.region.start + self.code_bytes,
            len: self.region.len - self.code_bytes,
        }
    }

    pub(super) fn slot(&self, slot: usize) -> u64 {
        let before = match slot.checked_sub(1) {
            None => 0,
            Some(others) => self.first_slot_bytes + others * self.slot_bytes,
        };
        self.data().start + before as u64
    }

    pub(super) fn slot_bytes(&self, slot: usize) -> usize {
        if slot == 0 {
            self.first_slot_bytes
        } else {
            self.slot_bytes
        }
    }

    pub(super) fn epilogue(&self, slot: usize) -> u64 {
        self.region.start + (EPILOGUES_OFFSET + slot * EPILOGUE_BYTES) as u64
    }

    /// The interpreter, with room up to the first epilogue.
    pub(super) fn interpreter(&self) -> Vec<u8> {
        let mut code = crate::sys::stub::interpreter().to_vec();
        code.resize(EPILOGUES_OFFSET, 0);
        code
    }
}

/// Whether a task may have `more` bytes of data than it has.
fn may_have_data(mappings: &[Mapping], more: u64, tid: Tid) -> bool {
    let limit = limits::data_limit(tid).unwrap_or_else(|_| {
        let limits = std::fs::read(format!("/proc/{tid}/limits")).unwrap_or_default();
        parse_data_limit(&limits)
    });
    let Some(limit) = limit else { return true };
    let data = mappings
        .iter()
        .filter(|mapping| mapping.access.write && !mapping.access.shared)
        .map(|mapping| mapping.end - mapping.start);
    data.sum::<u64>().saturating_add(more) <= limit
}

fn pages(bytes: usize) -> u64 {
    (bytes as u64).next_multiple_of(PAGE_BYTES)
}
