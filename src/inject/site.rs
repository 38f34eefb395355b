//! Where in an address space a visit enters, and where it finds room.

use std::time::Instant;

use super::PAGE_BYTES;
use super::code::{self, ENTRY_BYTES, Slack, Span};
use crate::error::{Error, Result};
use crate::freeze::Stopped;
use crate::ids::Tid;
use crate::proc::maps::Mapping;
use crate::proc::memory::TaskMemory;

/// Where in an address space a visit enters, and what an earlier one left there.
#[derive(Clone, Copy, Debug)]
pub struct Site {
    pub(super) entry: u64,
    pub(super) left_behind: Option<Span>,
}

impl Site {
    /// Finds the site in the address space of some stopped threads.
    ///
    /// Threads that a dead dumper left inside our code are on their way out of it; they are
    /// given the moment they need, so that what is read of them afterwards is their own.
    ///
    /// # Errors
    /// [`Error::Unsupported`] when there is no room for the entry, [`Error::TimedOut`].
    pub fn find(
        memory: &TaskMemory,
        mappings: &[Mapping],
        threads: &[Stopped],
        deadline: Instant,
    ) -> Result<Self> {
        let Some(first) = threads.first() else {
            return Err(Error::Usage("no thread to visit".to_owned()));
        };
        let (entry, left_behind) = find_entry(memory, mappings, first.tid())?;
        if let Some(region) = left_behind {
            for thread in threads {
                let is_inside = |address: u64| {
                    address.wrapping_sub(entry) < ENTRY_BYTES as u64
                        || address.wrapping_sub(region.start) < region.len
                };
                thread.run_until(|registers| !is_inside(registers.rip), deadline)?;
            }
        }
        let left_behind = left_behind.and_then(|region| confirm_left_behind(mappings, region));
        Ok(Self { entry, left_behind })
    }

    /// Whether something of a killed dumper is there, which the visit removes.
    #[must_use]
    pub fn has_left_behind(&self) -> bool {
        self.left_behind.is_some()
    }
}

/// Finds room for the entry: zeros at the end of the vdso, or of another mapped text.
fn find_entry(memory: &TaskMemory, mappings: &[Mapping], tid: Tid) -> Result<(u64, Option<Span>)> {
    let executable = mappings.iter().filter(|mapping| {
        mapping.access.execute && !mapping.access.shared && (mapping.inode != 0 || is_vdso(mapping))
    });
    let (vdso, others): (Vec<_>, Vec<_>) = executable.partition(|mapping| is_vdso(mapping));
    for mapping in vdso.into_iter().chain(others) {
        let address = mapping.end - ENTRY_BYTES as u64;
        let mut bytes = [0; ENTRY_BYTES];
        if memory.read(address, &mut bytes).is_err() {
            continue;
        }
        match code::slack(&bytes) {
            Slack::Free => return Ok((address, None)),
            Slack::LeftBehind(region) => return Ok((address, Some(region))),
            Slack::Taken => {}
        }
    }
    Err(Error::unsupported(
        tid,
        "a task without 512 unused bytes behind its vdso or its program text",
        "system calls cannot be run inside it; start it with the vdso enabled",
    ))
}

fn is_vdso(mapping: &Mapping) -> bool {
    mapping.path == b"[vdso]"
}

/// What a region of shared memory is called.
const SHARED_REGION: &[u8] = b"/dev/zero (deleted)";

/// What a dead dumper says it left is believed only where nothing but its like is mapped.
fn confirm_left_behind(mappings: &[Mapping], region: Span) -> Option<Span> {
    let end = region.start.checked_add(region.len)?;
    let inside: Vec<_> = mappings
        .iter()
        .filter(|mapping| mapping.start < end && region.start < mapping.end)
        .collect();
    let ours = !inside.is_empty()
        && inside.iter().all(|mapping| {
            mapping.start >= region.start
                && mapping.end <= end
                && (mapping.inode == 0 || mapping.path == SHARED_REGION)
        });
    ours.then_some(region)
}

/// The lowest free range of `len` bytes that touches no other mapping.
pub(super) fn find_gap(mappings: &[Mapping], len: u64, tid: Tid) -> Result<u64> {
    const LOWEST: u64 = 0x20_0000;
    const HIGHEST: u64 = 0x7fff_0000_0000;
    let mut free_from = LOWEST;
    for mapping in mappings {
        if mapping.start >= free_from.saturating_add(len + 2 * PAGE_BYTES) {
            break;
        }
        free_from = free_from.max(mapping.end.saturating_add(PAGE_BYTES));
    }
    if free_from >= HIGHEST {
        return Err(Error::unsupported(
            tid,
            "an address space without a free range",
            "system calls cannot be run inside it",
        ));
    }
    Ok(free_from)
}
