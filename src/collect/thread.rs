//! What belongs to one thread: registers, signals, credentials, scheduling.
//!
//! [`Capture::of`] takes what must be read before anything runs inside the thread;
//! [`questions`] lists what only the thread itself can ask.

use super::seccomp::Filter;
use crate::error::{Error, Result, ResultExt};
use crate::freeze::Stopped;
use crate::freeze::interrupted::restarted;
use crate::ids::Tid;
use crate::inject::{Batch, Buffer, CallIndex, Results};
use crate::proc::memory::TaskMemory;
use crate::proc::status::Status;
use crate::sys::ptrace::{self, Registers, RseqConfiguration, SIGINFO_BYTES, UserDesc};
use crate::sys::{sched, xstate};

/// A raw `siginfo_t` as it waits in a queue.
pub type QueuedSignal = [u8; SIGINFO_BYTES];

/// The state of a thread at its stop, before anything was run inside it.
#[derive(Clone, Debug)]
pub struct Capture {
    /// The thread.
    pub tid: Tid,
    /// The registers with which the thread goes on if it is let go: those of the stop, out of
    /// a restartable sequence if it was in one.
    pub registers: Registers,
    /// The signal mask to put back, bit n-1 for signal n.
    pub blocked: u64,
    /// The XSAVE area, standard format.
    pub xstate: Vec<u8>,
    /// Signals queued for this thread alone.
    pub signals: Vec<QueuedSignal>,
    /// Where its restartable sequences are registered.
    pub rseq: RseqConfiguration,
    /// The critical section it must be put back into by hand, if any.
    pub rseq_section: Option<u64>,
    /// The three GDT slots of the thread.
    pub tls: Vec<UserDesc>,
    /// Head and length of its robust futex list.
    pub robust_list: (u64, u64),
    /// Its seccomp filters, oldest first.
    pub filters: Vec<Filter>,
}

impl Capture {
    /// Reads a stopped thread.
    ///
    /// # Errors
    /// [`Error::Unsupported`] for syscall user dispatch and unknown rseq layouts;
    /// [`Error::Vanished`].
    pub fn of(thread: &Stopped, memory: &TaskMemory) -> Result<Self> {
        const IA32_CODE_SEGMENT: u64 = 0x23;
        const LARGEST_XSTATE: usize = 16384;
        const TLS_SLOTS: std::ops::RangeInclusive<u32> = 12..=14;
        let tid = thread.tid();
        let mut registers = thread.registers()?;
        if registers.cs == IA32_CODE_SEGMENT {
            return Err(Error::unsupported(
                tid,
                "a 32-bit task",
                "only x86-64 programs are supported",
            ));
        }
        let rseq = ptrace::rseq_configuration(tid).on("ptrace GET_RSEQ_CONFIGURATION", tid)?;
        let rseq_section = leave_critical_section(&mut registers, rseq, memory, tid)?;
        if ptrace::dispatches_syscalls(tid) == Ok(true) {
            return Err(Error::unsupported(
                tid,
                "a thread with syscall user dispatch",
                "the image format has no place for it",
            ));
        }
        let mut xstate = [0; LARGEST_XSTATE];
        let filled = ptrace::register_set(tid, ptrace::NT_X86_XSTATE, &mut xstate)
            .on("ptrace GETREGSET X86_XSTATE", tid)?;
        let xstate = xstate[..filled].to_vec();
        refuse_unknown_state(tid, &xstate)?;
        let mut tls = Vec::with_capacity(3);
        for slot in TLS_SLOTS {
            tls.push(ptrace::thread_area(tid, slot).on("ptrace GET_THREAD_AREA", tid)?);
        }
        let blocked = ptrace::signal_mask(tid).on("ptrace GETSIGMASK", tid)?;
        Ok(Self {
            tid,
            registers,
            blocked,
            xstate,
            signals: ptrace::queued_signals(tid, false).on("ptrace PEEKSIGINFO", tid)?,
            rseq,
            rseq_section,
            tls,
            robust_list: ptrace::robust_list(tid).on("get_robust_list", tid)?,
            filters: Vec::new(),
        })
    }

    /// With another mask for the time of a call (`sigsuspend`, `ppoll`, …) the kernel takes
    /// the call up again before it looks for signals. Putting a mask back from outside ends
    /// that state, so that such a thread is put in front of its call right away.
    pub fn settle_temporary_mask(&mut self, effective: u64) {
        if effective != self.blocked {
            self.registers = restarted(&self.registers);
        }
    }
}

/// Refuses a thread that uses parts of the CPU whose state has no place in the images.
fn refuse_unknown_state(tid: Tid, area: &[u8]) -> Result<()> {
    /// Supervisor and housekeeping states that hold nothing a program would miss.
    const HARMLESS: u64 = 1 << 8 | 1 << 10 | 1 << 17;
    let unknown = xstate::present(area).unwrap_or(0) & !xstate::kept() & !HARMLESS;
    let what = match unknown {
        0 => return Ok(()),
        bits if bits & 1 << xstate::AMX_TILE_DATA != 0 => "AMX tile registers in use",
        _ => "CPU state of an unknown kind",
    };
    Err(Error::unsupported(
        tid,
        what,
        "the image format has no place for it",
    ))
}

/// If the thread is inside a restartable sequence, does what the kernel would do: sends it to
/// the abort handler, or reports the section if it asked not to be restarted.
fn leave_critical_section(
    registers: &mut Registers,
    rseq: RseqConfiguration,
    memory: &TaskMemory,
    tid: Tid,
) -> Result<Option<u64>> {
    const RSEQ_CS_OFFSET: u64 = 8;
    const FLAGS_OFFSET: u64 = 16;
    const NO_RESTART_ON_SIGNAL: u32 = 2;
    if rseq.address == 0 {
        return Ok(None);
    }
    let section = memory.word(rseq.address + RSEQ_CS_OFFSET)?;
    if section == 0 {
        return Ok(None);
    }
    // struct rseq_cs: version, flags, start_ip, post_commit_offset, abort_ip.
    let mut words = [0_u64; 4];
    for (index, word) in words.iter_mut().enumerate() {
        *word = memory.word(section + 8 * index as u64)?;
    }
    let [versions, start, length, abort] = words;
    if versions & 0xffff_ffff != 0 {
        return Err(Error::unsupported(
            tid,
            "a restartable sequence of unknown version",
            "update dedump",
        ));
    }
    if registers.rip.wrapping_sub(start) >= length {
        return Ok(None);
    }
    let thread_flags = low_half(memory.word(rseq.address + FLAGS_OFFSET)?);
    let flags = low_half(versions >> 32) | thread_flags;
    if flags & NO_RESTART_ON_SIGNAL != 0 {
        return Ok(Some(section));
    }
    registers.rip = abort;
    Ok(None)
}

fn low_half(word: u64) -> u32 {
    let [a, b, c, d, ..] = word.to_le_bytes();
    u32::from_le_bytes([a, b, c, d])
}

/// The questions only the thread can ask, by their place in its batch.
#[derive(Clone, Copy, Debug)]
pub struct Questions {
    altstack: Buffer,
    tid_address: Buffer,
    parent_death_signal: Buffer,
    securebits: CallIndex,
    timer_slack: CallIndex,
}

/// Adds the questions every thread is asked.
pub fn questions(batch: &mut Batch) -> Questions {
    const STACK_T_BYTES: usize = 24;
    let altstack = batch.buffer(STACK_T_BYTES);
    batch.call(libc::SYS_sigaltstack, &[0.into(), altstack.into()]);
    let tid_address = batch.buffer(8);
    batch.call(
        libc::SYS_prctl,
        &[number(libc::PR_GET_TID_ADDRESS), tid_address.into()],
    );
    let parent_death_signal = batch.buffer(8);
    batch.call(
        libc::SYS_prctl,
        &[number(libc::PR_GET_PDEATHSIG), parent_death_signal.into()],
    );
    let securebits = batch.call(libc::SYS_prctl, &[number(libc::PR_GET_SECUREBITS)]);
    let timer_slack = batch.call(libc::SYS_prctl, &[number(libc::PR_GET_TIMERSLACK)]);
    Questions {
        altstack,
        tid_address,
        parent_death_signal,
        securebits,
        timer_slack,
    }
}

/// A `prctl` option as an argument.
pub(super) fn number(option: i32) -> crate::inject::Argument {
    u64::from(option.unsigned_abs()).into()
}

/// The alternate signal stack, as `sigaltstack(2)` tells it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AltStack {
    /// Lowest address.
    pub sp: u64,
    /// Size in bytes.
    pub size_bytes: u64,
    /// `SS_DISABLE`, `SS_ONSTACK`, `SS_AUTODISARM`.
    pub flags: u32,
}

/// Everything about one thread that the images hold.
#[derive(Clone, Debug)]
pub struct Thread {
    /// What was read at the stop.
    pub capture: Capture,
    /// Name, credentials and masks from `status`.
    pub status: Status,
    /// The number of the set of cgroups that it is in.
    pub cgroup_set: u32,
    /// `SECBIT_*`.
    pub securebits: u32,
    /// Its alternate signal stack.
    pub altstack: AltStack,
    /// Where the kernel writes 0 when it ends (`set_tid_address`).
    pub clear_tid_address: u64,
    /// The signal it gets when its parent ends; 0 for none.
    pub parent_death_signal: u32,
    /// Policy, static priority, nice value.
    pub scheduling: sched::Scheduling,
    /// How much later than asked for its timers may ring, in nanoseconds; 0 for a real-time thread.
    pub timer_slack_ns: u64,
}

impl Thread {
    /// Puts together what was captured, read and answered.
    ///
    /// # Errors
    /// What the thread was told when it asked; `ESRCH` when it is gone.
    pub fn collect(
        capture: Capture,
        status: Status,
        cgroup_set: u32,
        questions: Questions,
        answers: &Results,
    ) -> Result<Self> {
        let tid = capture.tid;
        let securebits = answers
            .small(questions.securebits)
            .on("prctl GET_SECUREBITS inside", tid)?;
        let scheduling = sched::scheduling(tid).on("sched_getattr", tid)?;
        if scheduling.policy == sched::DEADLINE {
            return Err(Error::unsupported(
                tid,
                "a thread with deadline scheduling",
                "the image format has no place for it: give the thread another policy first",
            ));
        }
        let timer_slack = answers.value(questions.timer_slack);
        Ok(Self {
            status,
            cgroup_set,
            securebits,
            altstack: AltStack {
                sp: answers.word(questions.altstack, 0),
                flags: answers.half(questions.altstack, 2),
                size_bytes: answers.word(questions.altstack, 2),
            },
            clear_tid_address: answers.word(questions.tid_address, 0),
            parent_death_signal: answers.half(questions.parent_death_signal, 0),
            scheduling,
            timer_slack_ns: timer_slack
                .on("prctl GET_TIMERSLACK inside", tid)?
                .cast_unsigned(),
            capture,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn state_without_a_place_is_refused_by_name() {
        let area = |present: u64| {
            let mut area = vec![0; xstate::HEADER_OFFSET + 64];
            area[xstate::HEADER_OFFSET..][..8].copy_from_slice(&present.to_ne_bytes());
            area
        };
        let said = |present| match refuse_unknown_state(Tid(7), &area(present)) {
            Ok(()) => String::new(),
            Err(error) => error.to_string(),
        };
        assert_eq!(said(xstate::kept() | 1 << 8 | 1 << 17), "");
        assert!(said(1 << 17 | 1 << 18).contains("7: AMX tile registers"));
        assert!(said(1 << 40).contains("unknown kind"));
    }
}
