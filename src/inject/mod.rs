//! Running system calls inside stopped tasks.
//!
//! ```text
//!  dumper                                   task
//!  ───────────────────────────────────────────────────────────────────────────────
//!  writes the entry behind the vdso's text
//!  registers → entry                        mmap a region, stop behind the call
//!  writes interpreter, epilogues, batches
//!  registers → interpreter                  mprotect, call, call, call …, phase = 1
//!  sees phase 1, PTRACE_INTERRUPT           (waits, asking whether its tracer lives)
//!  reads all results, puts mask and
//!  registers back; for the first thread:
//!  registers → entry                        munmap the region, stop behind the call
//!  mask, registers, zeros over the entry
//! ```
//!
//! One visit runs any number of calls per thread, at full speed, without a stop per call. All
//! processes are visited together, in lock-step: each line above is done for every one of them
//! before the next is waited for, so that the dumper and the tasks work side by side, and a
//! thousand processes do not cost a thousand times the wait for one.
//!
//! **Self-healing.** From the moment a thread's registers point into our code until they are
//! put back, the thread needs no dumper: whatever it executes ends in putting back its own
//! signal mask and registers and going on where it was. Nothing here traps, so
//! no signal state is touched; the restart state of an interrupted call stays in the kernel,
//! because none of the injected calls uses it and `rt_sigreturn` is not involved. A dumper
//! killed in between leaves at most a small private mapping and a few bytes in the vdso's
//! padding; the next visit finds and removes both.

mod batch;
mod code;
mod layout;
mod site;
mod visitor;

#[cfg(test)]
mod tests;

use std::time::Instant;

pub use batch::{Argument, Batch, Buffer, CallIndex, Results};
pub use site::Site;

use crate::error::Result;
use crate::freeze::Stopped;
use crate::proc::maps::Mapping;
use crate::proc::memory::TaskMemory;
use crate::sys::ptrace::Registers;
use visitor::Visitor;

const PAGE_BYTES: u64 = 4096;

/// A thread to be visited, and the state it must be left in.
#[derive(Clone, Copy, Debug)]
pub struct Host<'a> {
    /// The thread.
    pub thread: &'a Stopped,
    /// Its registers, as it shall go on with them.
    pub registers: Registers,
    /// Its blocked signals, bit n-1 for signal n.
    pub blocked: u64,
}

/// The threads of one address space, and what each is to be asked.
#[derive(Debug)]
pub struct Party<'a> {
    /// Their memory.
    pub memory: &'a TaskMemory,
    /// What is mapped there.
    pub mappings: &'a [Mapping],
    /// Where to enter.
    pub site: Site,
    /// The threads; the first one maps and unmaps.
    pub hosts: Vec<Host<'a>>,
    /// One batch for each thread.
    pub batches: Vec<Batch>,
}

/// Runs one batch in each thread of all parties at once, and leaves every thread exactly as
/// described by its [`Host`]. No two parties may have one address space.
///
/// # Errors
/// [`Error::Unsupported`](crate::error::Error::Unsupported) when an address space has no room,
/// [`Error::Vanished`](crate::error::Error::Vanished) when a thread was killed,
/// [`Error::TimedOut`](crate::error::Error::TimedOut); in every case the surviving threads of
/// all parties are back in their own state.
pub fn visit<'a>(parties: &'a [Party<'a>], deadline: Instant) -> Result<Vec<Vec<Results>>> {
    let mut visitors = parties
        .iter()
        .filter(|party| !party.hosts.is_empty())
        .map(|party| Visitor::new(party, deadline))
        .collect::<Result<Vec<_>>>()?;
    let mut step =
        |step: fn(&mut Visitor<'a>) -> Result<()>| visitors.iter_mut().try_for_each(step);
    step(Visitor::remove_left_behind)?;
    step(Visitor::start_mapping)?;
    step(Visitor::enter_call)?;
    step(Visitor::start_first)?;
    step(Visitor::interrupt_first)?;
    step(Visitor::hold_first)?;
    let waves = parties.iter().map(|party| layout::waves(party.hosts.len()));
    for _ in 0..waves.max().unwrap_or(0) {
        step(Visitor::start_wave)?;
        step(Visitor::interrupt_wave)?;
        step(Visitor::end_wave)?;
    }
    step(Visitor::start_unmapping)?;
    step(Visitor::enter_call)?;
    step(Visitor::go_home)?;
    let mut results = visitors.into_iter().map(Visitor::into_results);
    Ok(parties
        .iter()
        .map(|party| {
            if party.hosts.is_empty() {
                Vec::new()
            } else {
                results.next().unwrap_or_default()
            }
        })
        .collect())
}
