//! The visit to one address space, step by step; [`visit`](super::visit) has their order.

use std::ops::Range;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use tracing::debug;

use super::batch::{Argument, Batch, Results};
use super::code::{self, ENTRY_BYTES, EPILOGUE_BYTES, Span};
use super::layout::{CONTROL_BYTES, Layout, WAVE};
use super::{Host, Party};
use crate::error::{Error, Result, ResultExt};
use crate::freeze::{Pauses, wait};
use crate::ids::Tid;
use crate::proc::memory::TaskMemory;
use crate::sys::ptrace::{self, Seen};

const ALL_SIGNALS: u64 = u64::MAX;

/// The phase of a thread that has made its calls and waits to be stopped.
const CALLS_MADE: u64 = 1;

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

/// What is known of the region.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Region {
    /// Not there.
    Absent,
    /// On its way: the first thread is in its call to mmap, or behind it.
    AskedFor,
    /// Mapped.
    There,
}

/// A visit under way. Dropped before its end, it brings everybody home.
pub(super) struct Visitor<'a> {
    memory: &'a TaskMemory,
    hosts: &'a [Host<'a>],
    batches: &'a [Batch],
    /// The batch of the first thread, with the call that makes the data writable.
    first_batch: Batch,
    whereabouts: Vec<Whereabouts>,
    entry: u64,
    left_behind: Option<Span>,
    layout: Layout,
    region: Region,
    /// Nothing of ours is left in the task.
    complete: bool,
    /// The threads of the wave under way.
    wave: Range<usize>,
    results: Vec<Results>,
    deadline: Instant,
}

impl<'a> Visitor<'a> {
    /// Finds room; nothing is touched yet.
    pub(super) fn new(party: &'a Party<'a>, deadline: Instant) -> Result<Self> {
        let layout = Layout::find(party.mappings, &party.batches, party.hosts[0].thread.tid())?;
        let mut first_batch = party.batches[0].clone();
        let protection = (libc::PROT_READ | libc::PROT_WRITE).unsigned_abs();
        let data = layout.data();
        let make_writable: [Argument; 3] = [
            data.start.into(),
            data.len.into(),
            u64::from(protection).into(),
        ];
        first_batch.prepare(libc::SYS_mprotect, &make_writable);
        Ok(Self {
            memory: party.memory,
            hosts: &party.hosts,
            batches: &party.batches,
            first_batch,
            whereabouts: vec![Whereabouts::Home; party.hosts.len()],
            entry: party.site.entry,
            left_behind: party.site.left_behind,
            layout,
            region: Region::Absent,
            complete: true,
            wave: 0..1,
            results: Vec::with_capacity(party.hosts.len()),
            deadline,
        })
    }

    pub(super) fn into_results(mut self) -> Vec<Results> {
        std::mem::take(&mut self.results)
    }

    /// Unmaps what a killed dumper left.
    pub(super) fn remove_left_behind(&mut self) -> Result<()> {
        let Some(old) = self.left_behind else {
            return Ok(());
        };
        // The entry notes the old region until that is gone, and the new one from then on.
        self.write_entry(old)?;
        self.start_call(libc::SYS_munmap, [old.start, old.len, 0, 0, 0])?;
        self.enter_call()?;
        self.wait_for_event_stop(0)?;
        debug!("removed what a killed dumper left at {:x}", old.start);
        Ok(())
    }

    /// Sends the first thread to map the region.
    pub(super) fn start_mapping(&mut self) -> Result<()> {
        const FLAGS: i32 = libc::MAP_ANONYMOUS | libc::MAP_FIXED_NOREPLACE;
        let region = self.layout.region;
        let (protection, sharing) = if self.layout.is_shared {
            (
                libc::PROT_READ | libc::PROT_WRITE | libc::PROT_EXEC,
                libc::MAP_SHARED,
            )
        } else {
            (libc::PROT_READ | libc::PROT_EXEC, libc::MAP_PRIVATE)
        };
        self.write_entry(region)?;
        self.region = Region::AskedFor;
        self.start_call(
            libc::SYS_mmap,
            [
                region.start,
                region.len,
                u64::from(protection.unsigned_abs()),
                u64::from((FLAGS | sharing).unsigned_abs()),
                u64::MAX,
            ],
        )
    }

    /// Takes the first thread from the entry of its call to a stop behind it: an event stop,
    /// from which alone the kernel restarts an interrupted call of the thread's own.
    pub(super) fn enter_call(&mut self) -> Result<()> {
        let tid = self.tid(0);
        loop {
            match self.next_stop(0)? {
                Seen::SyscallStop => break,
                _ => ptrace::cont_to_syscall(tid).on("ptrace SYSCALL", tid)?,
            }
        }
        ptrace::interrupt(tid).on("ptrace INTERRUPT", tid)?;
        ptrace::cont(tid, 0).on("ptrace CONT", tid)
    }

    /// Fills the region and lets the first thread run its batch.
    pub(super) fn start_first(&mut self) -> Result<()> {
        let region = self.layout.region;
        self.wait_for_event_stop(0)?;
        let returned = self.returned()?;
        if returned != region.start {
            self.region = Region::Absent;
            let errno = i32::try_from(returned.wrapping_neg()).unwrap_or(libc::EINVAL);
            return Err(refused_mapping(self.tid(0), Errno::from_raw(errno)));
        }
        self.region = Region::There;
        self.memory
            .write(region.start, &self.layout.interpreter())?;
        self.fill(0..1)?;
        self.start(0, 0)
    }

    /// Waits until the first thread has made its calls, and asks it to stop. It stays in the
    /// region until the end.
    pub(super) fn interrupt_first(&mut self) -> Result<()> {
        self.await_calls(0, 0)?;
        self.interrupt(0)
    }

    /// Waits until the first thread stands still, and takes its results.
    pub(super) fn hold_first(&mut self) -> Result<()> {
        self.wait_for_event_stop(0)?;
        let data = self.slots(0..1)?;
        self.expect_held(0, &data)?;
        self.take_results(0, &data);
        Ok(())
    }

    /// Lets the next threads, as many as there are slots, run their batches.
    pub(super) fn start_wave(&mut self) -> Result<()> {
        let start = self.wave.end;
        self.wave = start..(start + WAVE).min(self.hosts.len());
        if self.wave.is_empty() {
            return Ok(());
        }
        self.fill(self.wave.clone())?;
        for index in self.wave.clone() {
            self.start(index, self.slot_of(index))?;
        }
        Ok(())
    }

    /// Waits until these threads have made their calls, and asks them to stop.
    pub(super) fn interrupt_wave(&mut self) -> Result<()> {
        if self.wave.is_empty() {
            return Ok(());
        }
        // Most of them are there by now: one look at all of them.
        let data = self.slots(self.wave.clone()).unwrap_or_default();
        let mut slots = data.chunks_exact(self.layout.slot_bytes(1));
        for index in self.wave.clone() {
            if slots.next().map(phase) != Some(CALLS_MADE) {
                self.await_calls(index, self.slot_of(index))?;
            }
            self.interrupt(index)?;
        }
        Ok(())
    }

    /// Brings these threads home and takes their results.
    pub(super) fn end_wave(&mut self) -> Result<()> {
        if self.wave.is_empty() {
            return Ok(());
        }
        for index in self.wave.clone() {
            self.wait_for_event_stop(index)?;
        }
        let data = self.slots(self.wave.clone())?;
        for (index, slot) in self
            .wave
            .clone()
            .zip(data.chunks_exact(self.layout.slot_bytes(1)))
        {
            self.expect_held(index, slot)?;
            self.bring_home(index)?;
            self.take_results(index, slot);
        }
        Ok(())
    }

    /// Sends the first thread to unmap the region.
    pub(super) fn start_unmapping(&mut self) -> Result<()> {
        let region = self.layout.region;
        self.start_call(libc::SYS_munmap, [region.start, region.len, 0, 0, 0])
    }

    /// Brings the first thread home and clears the entry.
    pub(super) fn go_home(&mut self) -> Result<()> {
        self.wait_for_event_stop(0)?;
        debug_assert_eq!(self.returned()?, 0, "munmap of our own region");
        self.region = Region::Absent;
        self.bring_home(0)?;
        self.memory.write(self.entry, &[0; ENTRY_BYTES])?;
        self.complete = true;
        Ok(())
    }

    fn tid(&self, index: usize) -> Tid {
        self.hosts[index].thread.tid()
    }

    /// The slot of a thread of the wave under way, or of the first one.
    fn slot_of(&self, index: usize) -> usize {
        if index == 0 {
            0
        } else {
            index - self.wave.start + 1
        }
    }

    fn batch(&self, index: usize) -> &Batch {
        if index == 0 {
            &self.first_batch
        } else {
            &self.batches[index]
        }
    }

    fn write_entry(&mut self, region: Span) -> Result<()> {
        let host = self.hosts[0];
        self.complete = false;
        let entry = code::entry(self.entry, region, host.blocked, &host.registers);
        self.memory.write(self.entry, &entry)
    }

    /// Writes epilogues, control words and batches of some threads with neighbouring slots.
    fn fill(&self, threads: Range<usize>) -> Result<()> {
        let first_slot = self.slot_of(threads.start);
        let slot_bytes = self.layout.slot_bytes(first_slot);
        let mut code = Vec::with_capacity(threads.len() * EPILOGUE_BYTES);
        let mut data = Vec::with_capacity(threads.len() * slot_bytes);
        for (place, index) in threads.enumerate() {
            let host = &self.hosts[index];
            let slot = first_slot + place;
            code.extend_from_slice(&code::epilogue(&host.registers));
            code.resize((place + 1) * EPILOGUE_BYTES, 0);
            data.extend_from_slice(&self.control(slot, host.blocked));
            let at = self.layout.slot(slot) + CONTROL_BYTES as u64;
            data.extend_from_slice(&self.batch(index).encode(at));
            data.resize((place + 1) * slot_bytes, 0);
        }
        self.memory.write(self.layout.epilogue(first_slot), &code)?;
        self.memory.write(self.layout.slot(first_slot), &data)
    }

    /// The control words the interpreter expects; see `sys/stub.rs`.
    fn control(&self, slot: usize, blocked: u64) -> Vec<u8> {
        let at = self.layout.slot(slot);
        let (local_iovec, remote_iovec, mask, byte) = (at + 64, at + 80, at + 96, at + 104);
        let words = [
            0,
            u64::from(std::process::id()),
            local_iovec,
            remote_iovec,
            mask,
            self.layout.epilogue(slot),
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

    /// Sends the first thread to the entry of one call at the entry.
    fn start_call(&mut self, number: i64, arguments: [u64; 5]) -> Result<()> {
        let tid = self.tid(0);
        let mut registers = self.hosts[0].registers;
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
        self.whereabouts[0] = Whereabouts::Running;
        ptrace::cont_to_syscall(tid).on("ptrace SYSCALL", tid)
    }

    /// What the call at the entry returned.
    fn returned(&self) -> Result<u64> {
        let tid = self.tid(0);
        Ok(ptrace::registers(tid).on("ptrace GETREGS", tid)?.rax)
    }

    /// Lets a thread run the batch in its slot.
    fn start(&mut self, index: usize, slot: usize) -> Result<()> {
        let tid = self.tid(index);
        let mut registers = self.hosts[index].registers;
        registers.rip = self.layout.region.start;
        registers.orig_rax = u64::MAX;
        registers.rbx = self.layout.slot(slot) + CONTROL_BYTES as u64;
        registers.r12 = self.layout.slot(slot);
        ptrace::set_registers(tid, &registers).on("ptrace SETREGS", tid)?;
        self.whereabouts[index] = Whereabouts::Stopped;
        ptrace::set_signal_mask(tid, ALL_SIGNALS).on("ptrace SETSIGMASK", tid)?;
        self.whereabouts[index] = Whereabouts::Running;
        ptrace::cont(tid, 0).on("ptrace CONT", tid)
    }

    /// Waits until a thread has made all its calls.
    fn await_calls(&mut self, index: usize, slot: usize) -> Result<()> {
        const LOOKS_BETWEEN_WAITS: u32 = 16;
        let tid = self.tid(index);
        let mut pauses = Pauses::start();
        let mut looks = 0_u32;
        loop {
            // The task may be gone, and its memory with it: wait4 tells.
            match self.memory.word(self.layout.slot(slot)).unwrap_or(0) {
                0 => {}
                CALLS_MADE => return Ok(()),
                _ => return Err(self.escaped(index)),
            }
            looks += 1;
            if looks.is_multiple_of(LOOKS_BETWEEN_WAITS) || pauses.are_long() {
                match ptrace::wait(tid).on("wait4", tid)? {
                    Some(Seen::Gone(_)) => return Err(self.gone(index)),
                    Some(_) => ptrace::cont(tid, 0).on("ptrace CONT", tid)?,
                    None if Instant::now() >= self.deadline => return Err(timed_out(tid)),
                    None => {}
                }
            }
            pauses.pause();
        }
    }

    /// Asks a thread to stop.
    fn interrupt(&self, index: usize) -> Result<()> {
        let tid = self.tid(index);
        ptrace::interrupt(tid).on("ptrace INTERRUPT", tid)
    }

    /// What stands in the slots of some threads with neighbouring ones.
    fn slots(&self, threads: Range<usize>) -> Result<Vec<u8>> {
        let first = self.slot_of(threads.start);
        let mut data = vec![0; threads.len() * self.layout.slot_bytes(first)];
        self.memory.read(self.layout.slot(first), &mut data)?;
        Ok(data)
    }

    /// Makes sure that a thread which has stopped did so behind its calls.
    fn expect_held(&mut self, index: usize, slot: &[u8]) -> Result<()> {
        if phase(slot) == CALLS_MADE {
            Ok(())
        } else {
            Err(self.escaped(index))
        }
    }

    fn take_results(&mut self, index: usize, slot: &[u8]) {
        let batch = self.batch(index);
        let results = batch.results(&slot[CONTROL_BYTES..CONTROL_BYTES + batch.len_bytes()]);
        self.results.push(results);
    }

    fn wait_for_event_stop(&mut self, index: usize) -> Result<()> {
        let tid = self.tid(index);
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
        let tid = self.tid(index);
        match wait(tid, self.deadline)? {
            Some(Seen::Gone(_)) => Err(self.gone(index)),
            Some(seen) => Ok(seen),
            None => Err(timed_out(tid)),
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

    fn gone(&mut self, index: usize) -> Error {
        self.whereabouts[index] = Whereabouts::Home;
        Error::Vanished {
            tid: self.tid(index),
        }
    }

    /// It has put its own registers back, and those of its stop are old by now.
    fn escaped(&mut self, index: usize) -> Error {
        self.whereabouts[index] = Whereabouts::Home;
        Error::Unsupported {
            target: self.tid(index).into(),
            what: "a task that went on by itself while it was examined".to_owned(),
            remedy: "it took the dumper for dead; run the dump again".to_owned(),
        }
    }

    /// After an error: every thread home, the region gone, as far as the kernel lets us.
    fn heal(&mut self) {
        for index in 0..self.hosts.len() {
            let tid = self.tid(index);
            if self.whereabouts[index] == Whereabouts::Running {
                let _ = ptrace::interrupt(tid);
                let _ = self.wait_for_event_stop(index);
            }
            if index > 0 && self.whereabouts[index] == Whereabouts::Stopped {
                let _ = self.bring_home(index);
            }
        }
        if self.whereabouts[0] == Whereabouts::Stopped {
            let there = match self.region {
                Region::Absent => false,
                Region::AskedFor => self
                    .returned()
                    .is_ok_and(|at| at == self.layout.region.start),
                Region::There => true,
            };
            if there && self.unmap().is_ok() {
                return;
            }
            let _ = self.bring_home(0);
            self.region = if there { Region::There } else { Region::Absent };
        }
        // While the region stays, the entry stays as the note that tells the next dumper of it.
        if self.whereabouts[0] == Whereabouts::Home && self.region == Region::Absent {
            let _ = self.memory.write(self.entry, &[0; ENTRY_BYTES]);
        }
    }

    fn unmap(&mut self) -> Result<()> {
        self.start_unmapping()?;
        self.enter_call()?;
        self.go_home()
    }
}

impl Drop for Visitor<'_> {
    fn drop(&mut self) {
        if !self.complete {
            debug!("bringing tasks home after an error");
            self.deadline = Instant::now() + Duration::from_secs(1);
            self.heal();
        }
    }
}

/// The first control word of a slot.
fn phase(slot: &[u8]) -> u64 {
    let mut word = [0; 8];
    word.copy_from_slice(&slot[..8]);
    u64::from_le_bytes(word)
}

fn refused_mapping(tid: Tid, errno: Errno) -> Error {
    if errno == Errno::ENOMEM {
        return Error::Unsupported {
            target: tid.into(),
            what: "a task whose address space (RLIMIT_AS) or number of mappings \
                (vm.max_map_count) is at its limit"
                .to_owned(),
            remedy: format!(
                "system calls cannot be run inside it; raise the limit (prlimit --pid {tid} \
                    --as=unlimited, sysctl -w vm.max_map_count=131060)"
            ),
        };
    }
    Error::Syscall {
        op: "mmap inside",
        target: tid.into(),
        errno,
    }
}

fn timed_out(tid: Tid) -> Error {
    Error::TimedOut {
        stage: "running system calls inside the tree",
        target: tid.into(),
        remedy: "raise --timeout, or try again when the machine is less busy".to_owned(),
    }
}
