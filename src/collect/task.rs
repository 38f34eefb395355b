//! What belongs to a process as a whole: handlers, timers, limits, flags.

use super::thread::{QueuedSignal, Thread, number};
use crate::error::{Error, Result, ResultExt};
use crate::freeze::Process;
use crate::ids::{Fd, Pid};
use crate::inject::{Batch, Buffer, CallIndex, Results};
use crate::proc::stat::Stat;
use crate::proc::status::Status;
use crate::proc::timers::{PosixTimer as TimerLine, parse_timers};
use crate::sys::ptrace;

/// `SIGKILL` and `SIGSTOP` have no handlers.
const SIGNALS_WITHOUT_HANDLER: [u32; 2] = [9, 19];
const HIGHEST_SIGNAL: u32 = 64;
const SIGACTION_BYTES: usize = 32;
const LIMITS: u64 = 16;

/// A signal handler as the kernel keeps it (`struct sigaction` of `rt_sigaction(2)`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Handler {
    /// The signal.
    pub signal: u32,
    /// Function address, 0 for default, 1 for ignore.
    pub handler: u64,
    /// `SA_*`.
    pub flags: u64,
    /// Where the handler returns to.
    pub restorer: u64,
    /// Blocked while it runs.
    pub mask: u64,
}

/// An interval timer, in microseconds (`setitimer`) or nanoseconds (`timer_settime`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Interval {
    /// Period: seconds, then the fraction.
    pub interval: (u64, u64),
    /// Time left: seconds, then the fraction.
    pub value: (u64, u64),
}

/// A timer made by `timer_create(2)`.
#[derive(Clone, Debug)]
pub struct PosixTimer {
    /// What `/proc/PID/timers` says of it.
    pub line: TimerLine,
    /// Its setting, in nanoseconds.
    pub setting: Interval,
    /// How often it expired unseen.
    pub overrun: u32,
}

/// A process: alive, stopped or a zombie.
#[derive(Clone, Debug)]
pub struct Task {
    /// Its pid.
    pub pid: Pid,
    /// `/proc/PID/stat`.
    pub stat: Stat,
    /// What only a living process has.
    pub living: Option<Living>,
}

/// The part of a [`Task`] that ends with it.
#[derive(Clone, Debug)]
pub struct Living {
    /// The signal of the group stop it is in, if it is.
    pub group_stop: Option<i32>,
    /// Its threads, leader first.
    pub threads: Vec<Thread>,
    /// `status` of the leader.
    pub status: Status,
    /// Handlers of the signals 1 to 64 but 9 and 19, in order.
    pub handlers: Vec<Handler>,
    /// Real, virtual and profiling interval timer.
    pub itimers: [Interval; 3],
    /// Its POSIX timers.
    pub timers: Vec<PosixTimer>,
    /// Soft and hard limits, by `RLIMIT_*` number.
    pub limits: Vec<(u64, u64)>,
    /// Signals queued for the process.
    pub signals: Vec<QueuedSignal>,
    /// `/proc/PID/personality`.
    pub personality: u32,
    /// `/proc/PID/loginuid`; all ones when not set.
    pub loginuid: u32,
    /// `/proc/PID/oom_score_adj`.
    pub oom_score_adj: i32,
    /// Whether orphans of its descendants become its children.
    pub child_subreaper: bool,
    /// `PR_GET_DUMPABLE`.
    pub dumpable: u32,
    /// The end of its heap.
    pub brk: u64,
    /// Registered membarrier commands.
    pub membarrier: u32,
}

/// The questions only the process can ask, by their place in the leader's batch.
#[derive(Debug)]
pub struct Questions {
    handlers: Vec<(u32, Option<Buffer>)>,
    itimers: [Buffer; 3],
    timers: Vec<(TimerLine, Buffer, CallIndex)>,
    limits: Vec<Buffer>,
    subreaper: Buffer,
    dumpable: CallIndex,
    brk: CallIndex,
    membarrier: CallIndex,
}

/// Adds the questions about the process to its leader's batch.
///
/// # Errors
/// When `/proc/PID/timers` cannot be read.
pub fn questions(process: &Process, status: &Status, batch: &mut Batch) -> Result<Questions> {
    const ITIMERS: u64 = 3;
    const MEMBARRIER_GET_REGISTRATIONS: u64 = 512;
    const SIGCHLD_BIT: u64 = 1 << (libc::SIGCHLD - 1);
    let set = status.signals_ignored | status.signals_caught | SIGCHLD_BIT;
    let handlers = (1..=HIGHEST_SIGNAL)
        .filter(|signal| !SIGNALS_WITHOUT_HANDLER.contains(signal))
        .map(|signal| {
            let buffer = (set & (1 << (signal - 1)) != 0).then(|| {
                let buffer = batch.buffer(SIGACTION_BYTES);
                let arguments = [u64::from(signal).into(), 0.into(), buffer.into(), 8.into()];
                batch.call(libc::SYS_rt_sigaction, &arguments);
                buffer
            });
            (signal, buffer)
        })
        .collect();
    let itimers = [0, 1, 2].map(|which| {
        debug_assert!(which < ITIMERS);
        let buffer = batch.buffer(32);
        batch.call(libc::SYS_getitimer, &[which.into(), buffer.into()]);
        buffer
    });
    let text = process.proc_dir.read("timers")?;
    let lines = parse_timers(&text).map_err(|e| e.at(process.proc_dir.path_of("timers")))?;
    let timers = lines
        .into_iter()
        .map(|line| {
            let buffer = batch.buffer(32);
            let id = u64::from(line.id);
            batch.call(libc::SYS_timer_gettime, &[id.into(), buffer.into()]);
            let overrun = batch.call(libc::SYS_timer_getoverrun, &[id.into()]);
            (line, buffer, overrun)
        })
        .collect();
    let limits = (0..LIMITS)
        .map(|resource| {
            let buffer = batch.buffer(16);
            batch.call(
                libc::SYS_prlimit64,
                &[0.into(), resource.into(), 0.into(), buffer.into()],
            );
            buffer
        })
        .collect();
    let subreaper = batch.buffer(8);
    batch.call(
        libc::SYS_prctl,
        &[number(libc::PR_GET_CHILD_SUBREAPER), subreaper.into()],
    );
    Ok(Questions {
        handlers,
        itimers,
        timers,
        limits,
        subreaper,
        dumpable: batch.call(libc::SYS_prctl, &[number(libc::PR_GET_DUMPABLE)]),
        brk: batch.call(libc::SYS_brk, &[0.into()]),
        membarrier: batch.call(libc::SYS_membarrier, &[MEMBARRIER_GET_REGISTRATIONS.into()]),
    })
}

/// Asks of every descriptor whether exec closes it: much cheaper than reading its fdinfo.
pub fn descriptor_questions(fds: &[Fd], batch: &mut Batch) -> Vec<(Fd, CallIndex)> {
    let f_getfd = u64::from(libc::F_GETFD.unsigned_abs());
    let ask = |fd: &Fd| {
        batch.call(
            libc::SYS_fcntl,
            &[u64::from(fd.0.unsigned_abs()).into(), f_getfd.into()],
        )
    };
    fds.iter()
        .copied()
        .zip(fds.iter().map(ask).collect::<Vec<_>>())
        .collect()
}

impl Living {
    /// Puts together what was read and what the leader was answered.
    ///
    /// # Errors
    /// Reading `/proc`; a question the kernel refused to the task itself.
    pub fn collect(
        process: &Process,
        status: Status,
        threads: Vec<Thread>,
        questions: Questions,
        answers: &Results,
    ) -> Result<Self> {
        let pid = process.pid;
        let inside = |call: CallIndex, op: &'static str| answers.small(call).on(op, pid);
        let interval = |buffer: Buffer| Interval {
            interval: (answers.word(buffer, 0), answers.word(buffer, 1)),
            value: (answers.word(buffer, 2), answers.word(buffer, 3)),
        };
        let handlers = questions
            .handlers
            .into_iter()
            .map(|(signal, buffer)| {
                buffer.map_or(
                    Handler {
                        signal,
                        ..Handler::default()
                    },
                    |buffer| Handler {
                        signal,
                        handler: answers.word(buffer, 0),
                        flags: answers.word(buffer, 1),
                        restorer: answers.word(buffer, 2),
                        mask: answers.word(buffer, 3),
                    },
                )
            })
            .collect();
        let mut timers = Vec::with_capacity(questions.timers.len());
        for (line, buffer, overrun) in questions.timers {
            timers.push(PosixTimer {
                line,
                setting: interval(buffer),
                overrun: inside(overrun, "timer_getoverrun inside")?,
            });
        }
        let leader = pid.leader();
        Ok(Self {
            group_stop: process
                .leader()
                .and_then(crate::freeze::Stopped::group_stop),
            threads,
            status,
            handlers,
            itimers: questions.itimers.map(interval),
            timers,
            limits: questions
                .limits
                .iter()
                .map(|&buffer| (answers.word(buffer, 0), answers.word(buffer, 1)))
                .collect(),
            signals: ptrace::queued_signals(leader, true).on("ptrace PEEKSIGINFO", leader)?,
            personality: read_number(process, "personality", 16)?,
            loginuid: read_number(process, "loginuid", 10).unwrap_or(u32::MAX),
            oom_score_adj: read_number(process, "oom_score_adj", 10)?,
            child_subreaper: answers.half(questions.subreaper, 0) != 0,
            dumpable: inside(questions.dumpable, "prctl GET_DUMPABLE inside")?,
            brk: answers
                .value(questions.brk)
                .on("brk inside", pid)?
                .cast_unsigned(),
            // Kernels before 6.3 cannot tell.
            membarrier: answers.small(questions.membarrier).unwrap_or(0),
        })
    }
}

fn read_number<T: TryFrom<i64>>(process: &Process, name: &str, radix: u32) -> Result<T> {
    let text = process.proc_dir.read(name)?;
    let text = String::from_utf8_lossy(&text);
    let number = i64::from_str_radix(text.trim(), radix)
        .ok()
        .and_then(|number| T::try_from(number).ok());
    number.ok_or_else(|| Error::Parse {
        path: process.proc_dir.path_of(name),
        line: 1,
        expected: "a number",
        found: text.into_owned(),
    })
}
