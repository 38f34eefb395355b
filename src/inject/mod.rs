//! Running system calls inside stopped tasks.
//!
//! ```text
//!  dumper                                   task
//!  ───────────────────────────────────────────────────────────────────────────────
//!  writes the entry behind the vdso's text
//!  registers → entry                        mmap a region, stop at the call's exit
//!  writes interpreter, epilogues, batches
//!  registers → interpreter                  mprotect, call, call, call …, phase = 1
//!  sees phase 1, PTRACE_INTERRUPT           (spins, asking whether its tracer lives)
//!  reads all results, puts mask and
//!  registers back; for the last thread:
//!  registers → entry                        munmap the region, stop at the call's exit
//!  mask, registers, zeros over the entry
//! ```
//!
//! One visit runs any number of calls per thread, at full speed, without a stop per call.
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

#[cfg(test)]
mod tests;

use std::time::Instant;

use tracing::debug;

pub use batch::{Argument, Batch, Buffer, CallIndex, Results};

use crate::error::{Error, Result, ResultExt};
use crate::freeze::{Stopped, wait};
use crate::ids::Tid;
use crate::proc::maps::Mapping;
use crate::proc::memory::TaskMemory;
use crate::sys::ptrace::{self, Registers, Seen};
use crate::sys::stub::interpreter;
use code::{ENTRY_BYTES, EPILOGUE_BYTES, Slack, Span};

const PAGE_BYTES: u64 = 4096;
/// Threads visited at a time; bounds the region, not the number of threads.
const SLOTS: usize = 64;
/// Control words, iovecs and mask in front of each batch.
const CONTROL_BYTES: usize = 128;
const EPILOGUES_OFFSET: usize = 512;
const ALL_SIGNALS: u64 = u64::MAX;

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

/// Where in an address space a visit enters, and what an earlier one left there.
#[derive(Clone, Copy, Debug)]
pub struct Site {
    entry: u64,
    left_behind: Option<Span>,
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
}

/// Runs one batch in each of the given threads, which all live in one address space, and
/// leaves every one of them exactly as described by its [`Host`].
///
/// # Errors
/// [`Error::Unsupported`] when the address space has no room for the entry,
/// [`Error::Vanished`] when a thread was killed, [`Error::TimedOut`]; in every case the
/// surviving threads are back in their own state.
pub fn visit(
    memory: &TaskMemory,
    mappings: &[Mapping],
    site: Site,
    hosts: &[Host<'_>],
    batches: &[Batch],
    deadline: Instant,
) -> Result<Vec<Results>> {
    let Some(first) = hosts.first() else {
        return Ok(Vec::new());
    };
    let batch_bytes = batches.iter().map(Batch::len_bytes).max().unwrap_or(0);
    // The first thread makes one more call: mprotect.
    let slot_bytes = (CONTROL_BYTES + batch_bytes + 64).next_multiple_of(64);
    let slots = hosts.len().min(SLOTS);
    let code_bytes = pages(EPILOGUES_OFFSET + slots * EPILOGUE_BYTES);
    let region = Span {
        start: 0,
        len: code_bytes + pages(slots * slot_bytes),
    };
    let region = Span {
        start: find_gap(mappings, region.len, first.thread.tid())?,
        ..region
    };

    let mut visit = Visit {
        memory,
        hosts,
        whereabouts: vec![Whereabouts::Home; hosts.len()],
        entry: site.entry,
        region,
        mapped: false,
        complete: false,
        code_bytes,
        slot_bytes,
        deadline,
    };
    visit.enter(site.left_behind)?;
    let mut results = Vec::with_capacity(hosts.len());
    for start in (0..hosts.len()).step_by(SLOTS) {
        let wave = start..(start + SLOTS).min(hosts.len());
        visit.run_wave(wave, batches, &mut results)?;
    }
    visit.leave()?;
    Ok(results)
}

fn pages(bytes: usize) -> u64 {
    (bytes as u64).next_multiple_of(PAGE_BYTES)
}

/// Where a thread is, seen from its own program.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Whereabouts {
    /// Stopped, mask and registers its own.
    Home,
    /// Stopped on the way: it would run our code.
    Stopped,
    /// Running our code.
    Running,
}

struct Visit<'a> {
    memory: &'a TaskMemory,
    hosts: &'a [Host<'a>],
    whereabouts: Vec<Whereabouts>,
    entry: u64,
    region: Span,
    mapped: bool,
    /// Nothing of ours is left in the task.
    complete: bool,
    code_bytes: u64,
    slot_bytes: usize,
    deadline: Instant,
}

impl Visit<'_> {
    /// Maps the region, through the first thread, after unmapping an old one.
    fn enter(&mut self, left_behind: Option<Span>) -> Result<()> {
        const FLAGS: i32 = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_FIXED_NOREPLACE;
        let host = self.hosts[0];
        let (memory, at) = (self.memory, self.entry);
        let write_entry =
            |region| memory.write(at, &code::entry(at, region, host.blocked, &host.registers));
        // The entry notes the old region until that is gone, and the new one from then on.
        if let Some(old) = left_behind {
            write_entry(old)?;
            self.call_through_entry(libc::SYS_munmap, [old.start, old.len, 0, 0, 0])?;
            debug!("removed what a killed dumper left at {:x}", old.start);
        }
        write_entry(self.region)?;
        let protection = libc::PROT_READ | libc::PROT_EXEC;
        let returned = self.call_through_entry(
            libc::SYS_mmap,
            [
                self.region.start,
                self.region.len,
                u64::from(protection.unsigned_abs()),
                u64::from(FLAGS.unsigned_abs()),
                u64::MAX,
            ],
        )?;
        if returned != self.region.start {
            let errno = nix::errno::Errno::from_raw(
                i32::try_from(returned.wrapping_neg()).unwrap_or(libc::EINVAL),
            );
            return Err(errno).on("mmap inside", host.thread.tid());
        }
        self.mapped = true;

        let mut code = interpreter().to_vec();
        code.resize(EPILOGUES_OFFSET, 0);
        self.memory.write(self.region.start, &code)
    }

    /// Runs the batches of some threads and brings all of them home but the very first,
    /// which still has to unmap the region.
    fn run_wave(
        &mut self,
        wave: std::ops::Range<usize>,
        batches: &[Batch],
        results: &mut Vec<Results>,
    ) -> Result<()> {
        let mut prepared = Vec::with_capacity(wave.len());
        let mut code = Vec::with_capacity(wave.len() * EPILOGUE_BYTES);
        let mut data = Vec::with_capacity(wave.len() * self.slot_bytes);
        for (slot, index) in wave.clone().enumerate() {
            let mut batch = batches[index].clone();
            if index == 0 {
                batch.prepare(libc::SYS_mprotect, &self.make_writable());
            }
            code.extend_from_slice(&code::epilogue(&self.hosts[index].registers));
            code.resize((slot + 1) * EPILOGUE_BYTES, 0);
            data.extend_from_slice(&self.control(slot, self.hosts[index].blocked));
            data.extend_from_slice(&batch.encode(self.slot(slot) + CONTROL_BYTES as u64));
            data.resize((slot + 1) * self.slot_bytes, 0);
            prepared.push(batch);
        }
        self.memory
            .write(self.region.start + EPILOGUES_OFFSET as u64, &code)?;
        self.memory.write(self.data(), &data)?;

        for (slot, index) in wave.clone().enumerate() {
            self.start(index, slot)?;
            if index == 0 {
                // The others need the memory that the first one makes writable.
                self.finish(index, slot)?;
            }
        }
        for (slot, index) in wave.clone().enumerate() {
            if index != 0 {
                self.finish(index, slot)?;
                self.bring_home(index)?;
            }
        }

        self.memory.read(self.data(), &mut data)?;
        for (slot, batch) in prepared.iter().enumerate() {
            let start = slot * self.slot_bytes + CONTROL_BYTES;
            results.push(batch.results(&data[start..start + batch.len_bytes()]));
        }
        Ok(())
    }

    /// Unmaps the region, brings the first thread home and clears the entry.
    fn leave(&mut self) -> Result<()> {
        let returned = self.call_through_entry(
            libc::SYS_munmap,
            [self.region.start, self.region.len, 0, 0, 0],
        )?;
        debug_assert_eq!(returned, 0, "munmap of our own region");
        self.mapped = false;
        // Back to an event stop: only from there does the kernel restart a call.
        let tid = self.hosts[0].thread.tid();
        ptrace::interrupt(tid).on("ptrace INTERRUPT", tid)?;
        ptrace::cont(tid, 0).on("ptrace CONT", tid)?;
        self.whereabouts[0] = Whereabouts::Running;
        self.wait_for_event_stop(0)?;
        self.bring_home(0)?;
        self.memory.write(self.entry, &[0; ENTRY_BYTES])?;
        self.complete = true;
        Ok(())
    }

    /// Makes the first thread run one call at the entry; it stays stopped at the call's exit.
    fn call_through_entry(&mut self, number: i64, arguments: [u64; 5]) -> Result<u64> {
        let host = self.hosts[0];
        let tid = host.thread.tid();
        let mut registers = host.registers;
        registers.rip = code::entry_point(self.entry);
        registers.orig_rax = u64::MAX;
        registers.rax = number.cast_unsigned();
        [
            registers.rdi,
            registers.rsi,
            registers.rdx,
            registers.r10,
            registers.r8,
        ] = arguments;
        registers.r9 = 0;
        // Registers first: they lead back by themselves, a blocked mask alone would not.
        ptrace::set_registers(tid, &registers).on("ptrace SETREGS", tid)?;
        self.whereabouts[0] = Whereabouts::Stopped;
        ptrace::set_signal_mask(tid, ALL_SIGNALS).on("ptrace SETSIGMASK", tid)?;
        for _entry_then_exit in 0..2 {
            self.whereabouts[0] = Whereabouts::Running;
            ptrace::cont_to_syscall(tid).on("ptrace SYSCALL", tid)?;
            loop {
                match self.next_stop(0)? {
                    Seen::SyscallStop => break,
                    _ => ptrace::cont_to_syscall(tid).on("ptrace SYSCALL", tid)?,
                }
            }
            self.whereabouts[0] = Whereabouts::Stopped;
        }
        Ok(ptrace::registers(tid).on("ptrace GETREGS", tid)?.rax)
    }

    fn start(&mut self, index: usize, slot: usize) -> Result<()> {
        let host = self.hosts[index];
        let tid = host.thread.tid();
        let mut registers = host.registers;
        registers.rip = self.region.start;
        registers.orig_rax = u64::MAX;
        registers.rbx = self.slot(slot) + CONTROL_BYTES as u64;
        registers.r12 = self.slot(slot);
        ptrace::set_registers(tid, &registers).on("ptrace SETREGS", tid)?;
        self.whereabouts[index] = Whereabouts::Stopped;
        ptrace::set_signal_mask(tid, ALL_SIGNALS).on("ptrace SETSIGMASK", tid)?;
        ptrace::cont(tid, 0).on("ptrace CONT", tid)?;
        self.whereabouts[index] = Whereabouts::Running;
        Ok(())
    }

    /// Waits until a thread has made all its calls, and stops it.
    fn finish(&mut self, index: usize, slot: usize) -> Result<()> {
        const LOOKS_BETWEEN_WAITS: u32 = 64;
        let tid = self.hosts[index].thread.tid();
        let mut looks = 0_u32;
        loop {
            // The task may be gone, and its memory with it: wait4 tells.
            let phase = self.memory.word(self.slot(slot)).unwrap_or(0);
            match phase {
                0 => {}
                1 => break,
                _ => return Err(self.escaped(tid)),
            }
            looks += 1;
            if looks.is_multiple_of(LOOKS_BETWEEN_WAITS) {
                match ptrace::wait(tid).on("wait4", tid)? {
                    Some(Seen::Gone(_)) => return Err(self.gone(index)),
                    Some(_) => ptrace::cont(tid, 0).on("ptrace CONT", tid)?,
                    None if Instant::now() >= self.deadline => return Err(self.timed_out(tid)),
                    None => {}
                }
            }
            std::thread::yield_now();
        }
        ptrace::interrupt(tid).on("ptrace INTERRUPT", tid)?;
        self.wait_for_event_stop(index)?;
        if self.memory.word(self.slot(slot))? != 1 {
            return Err(self.escaped(tid));
        }
        Ok(())
    }

    fn wait_for_event_stop(&mut self, index: usize) -> Result<()> {
        let tid = self.hosts[index].thread.tid();
        loop {
            match self.next_stop(index)? {
                Seen::EventStop | Seen::GroupStop(_) => break,
                _ => ptrace::cont(tid, 0).on("ptrace CONT", tid)?,
            }
        }
        self.whereabouts[index] = Whereabouts::Stopped;
        Ok(())
    }

    fn next_stop(&mut self, index: usize) -> Result<Seen> {
        let tid = self.hosts[index].thread.tid();
        match wait(tid, self.deadline)? {
            Some(Seen::Gone(_)) => Err(self.gone(index)),
            Some(seen) => Ok(seen),
            None => Err(self.timed_out(tid)),
        }
    }

    /// Puts a stopped thread's mask and registers back. The mask first: as long as the
    /// registers are not its own, the thread would put both back by itself.
    fn bring_home(&mut self, index: usize) -> Result<()> {
        let host = self.hosts[index];
        let tid = host.thread.tid();
        ptrace::set_signal_mask(tid, host.blocked).on("ptrace SETSIGMASK", tid)?;
        ptrace::set_registers(tid, &host.registers).on("ptrace SETREGS", tid)?;
        self.whereabouts[index] = Whereabouts::Home;
        Ok(())
    }

    fn make_writable(&self) -> [Argument; 3] {
        let protection = (libc::PROT_READ | libc::PROT_WRITE).unsigned_abs();
        [
            self.data().into(),
            (self.region.len - self.code_bytes).into(),
            u64::from(protection).into(),
        ]
    }

    fn data(&self) -> u64 {
        self.region.start + self.code_bytes
    }

    fn slot(&self, slot: usize) -> u64 {
        self.data() + (slot * self.slot_bytes) as u64
    }

    /// The control words the interpreter expects; see `sys/stub.rs`.
    fn control(&self, slot: usize, blocked: u64) -> Vec<u8> {
        let at = self.slot(slot);
        let (local_iovec, remote_iovec, mask, byte) = (at + 64, at + 80, at + 96, at + 104);
        let epilogue = self.region.start + (EPILOGUES_OFFSET + slot * EPILOGUE_BYTES) as u64;
        let words = [
            0,
            u64::from(std::process::id()),
            local_iovec,
            remote_iovec,
            mask,
            epilogue,
            0,
            0,
            // One byte, from address 0 of the tracer: EFAULT while it lives.
            byte,
            1,
            0,
            1,
            blocked,
            0,
            0,
            0,
        ];
        words
            .iter()
            .flat_map(|word: &u64| word.to_le_bytes())
            .collect()
    }

    fn gone(&mut self, index: usize) -> Error {
        self.whereabouts[index] = Whereabouts::Home;
        Error::Vanished {
            tid: self.hosts[index].thread.tid(),
        }
    }

    fn timed_out(&self, tid: Tid) -> Error {
        Error::TimedOut {
            stage: "running system calls inside the tree",
            target: tid.into(),
            remedy: "raise --timeout, or try again when the machine is less busy".to_owned(),
        }
    }

    fn escaped(&self, tid: Tid) -> Error {
        Error::Unsupported {
            target: tid.into(),
            what: "a task that went on by itself while it was examined".to_owned(),
            remedy: "it took the dumper for dead; run the dump again".to_owned(),
        }
    }

    /// After an error: every thread home, the region gone, as far as the kernel lets us.
    fn heal(&mut self) {
        for index in 0..self.hosts.len() {
            let tid = self.hosts[index].thread.tid();
            if self.whereabouts[index] == Whereabouts::Running {
                let _ = ptrace::interrupt(tid);
                let _ = self.wait_for_event_stop(index);
            }
            if index > 0 && self.whereabouts[index] == Whereabouts::Stopped {
                let _ = self.bring_home(index);
            }
        }
        if self.whereabouts[0] == Whereabouts::Stopped {
            if self.mapped && self.leave().is_ok() {
                return;
            }
            let _ = self.bring_home(0);
        }
        // While the region stays, the entry stays as the note that tells the next dumper of it.
        if self.whereabouts[0] == Whereabouts::Home && !self.mapped {
            let _ = self.memory.write(self.entry, &[0; ENTRY_BYTES]);
        }
    }
}

impl Drop for Visit<'_> {
    fn drop(&mut self) {
        if !self.complete {
            debug!("bringing tasks home after an error");
            self.deadline = Instant::now() + std::time::Duration::from_secs(1);
            self.heal();
        }
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
                && mapping.inode == 0
                && !mapping.access.shared
        });
    ours.then_some(region)
}

/// The lowest free range of `len` bytes that touches no other mapping.
fn find_gap(mappings: &[Mapping], len: u64, tid: Tid) -> Result<u64> {
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
