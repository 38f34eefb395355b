//! One thread in our hands, and the promise that it leaves them.
//!
//! [`Seized`] exists from the instant `PTRACE_SEIZE` succeeds; [`Seized::stopped`] turns it
//! into [`Stopped`], on which registers, memory and injection are possible. Dropping either
//! lets the thread go. Tracing belongs to the thread that seized, hence neither is `Send`.

use std::cell::Cell;
use std::marker::PhantomData;
use std::time::{Duration, Instant};

use nix::errno::Errno;

use crate::error::{Error, Result, ResultExt};
use crate::freeze::interrupted::undo_interruption;
use crate::ids::Tid;
use crate::sys::ptrace::{self, Registers, Seen};

/// Not `Send`: ptrace requests are refused from any thread but the one that seized.
type NotSend = PhantomData<*const ()>;

/// A traced thread that may still be running.
#[derive(Debug)]
pub struct Seized {
    tid: Tid,
    held: bool,
    not_send: NotSend,
}

/// A thread in a ptrace stop between two instructions of its own.
#[derive(Debug)]
pub struct Stopped {
    tid: Tid,
    /// The signal of the group stop the thread was in before we came, if it was in one.
    group_stop: Option<i32>,
    /// Its registers, as long as they are known to be these.
    registers: Cell<Option<Registers>>,
    held: bool,
    not_send: NotSend,
}

impl Seized {
    /// Seizes a thread and asks it to stop; [`Seized::stopped`] waits for that.
    ///
    /// # Errors
    /// `EPERM` traced by someone else, a kernel thread, or no permission;
    /// [`Error::Vanished`] when it is gone.
    pub fn interrupt(tid: Tid) -> Result<Self> {
        ptrace::seize(tid, ptrace::O_TRACESYSGOOD).on("ptrace SEIZE", tid)?;
        let seized = Self {
            tid,
            held: true,
            not_send: PhantomData,
        };
        ptrace::interrupt(tid).on("ptrace INTERRUPT", tid)?;
        Ok(seized)
    }

    /// The thread.
    #[must_use]
    pub fn tid(&self) -> Tid {
        self.tid
    }

    /// Waits until the thread has stopped; `None` when the deadline passed first.
    ///
    /// Signals on their way are delivered, so that the thread is as it would have been.
    ///
    /// # Errors
    /// [`Error::Vanished`] when it ended instead.
    pub fn stopped(mut self, deadline: Instant) -> Result<Result<Stopped, Seized>> {
        loop {
            let group_stop = match wait(self.tid, deadline)? {
                None => return Ok(Err(self)),
                Some(Seen::EventStop) => None,
                Some(Seen::GroupStop(signal)) => Some(signal),
                Some(Seen::Signal(signal)) => {
                    ptrace::cont(self.tid, signal).on("ptrace CONT", self.tid)?;
                    continue;
                }
                Some(Seen::SyscallStop) => {
                    ptrace::cont(self.tid, 0).on("ptrace CONT", self.tid)?;
                    continue;
                }
                Some(Seen::Gone(_)) => {
                    self.held = false;
                    return Err(Error::Vanished { tid: self.tid });
                }
            };
            self.held = false;
            let stopped = Stopped {
                tid: self.tid,
                group_stop,
                registers: Cell::new(None),
                held: true,
                not_send: PhantomData,
            };
            if group_stop.is_none() {
                stopped.registers.set(Some(take_up_call(self.tid)?));
            }
            return Ok(Ok(stopped));
        }
    }
}

impl Drop for Seized {
    fn drop(&mut self) {
        // A running thread cannot be detached: stop it first, however briefly. One that cannot be
        // stopped must not keep the others waiting.
        if !self.held {
            return;
        }
        let deadline = Instant::now() + Duration::from_millis(100);
        while let Ok(Some(seen)) = wait(self.tid, deadline) {
            let signal = match seen {
                Seen::Gone(_) => return,
                Seen::Signal(signal) => signal,
                _ => 0,
            };
            if signal != 0 {
                let _ = ptrace::cont(self.tid, signal);
                continue;
            }
            if seen == Seen::EventStop {
                let _ = take_up_call(self.tid);
            }
            let _ = ptrace::detach(self.tid);
            return;
        }
        // Still not stopped: the kernel detaches it when the tracing thread ends.
    }
}

impl Stopped {
    /// The thread.
    #[must_use]
    pub fn tid(&self) -> Tid {
        self.tid
    }

    /// The signal that had stopped the thread before it was seized (`SIGSTOP`, `SIGTSTP`, …).
    #[must_use]
    pub fn group_stop(&self) -> Option<i32> {
        self.group_stop
    }

    /// The general registers with which the thread would go on if nobody changed them.
    ///
    /// # Errors
    /// [`Error::Vanished`] when the thread was killed.
    pub fn registers(&self) -> Result<Registers> {
        match self.registers.get() {
            Some(registers) => Ok(registers),
            None => ptrace::registers(self.tid).on("ptrace GETREGS", self.tid),
        }
    }

    /// Lets calls that are run inside the thread pass its seccomp filters, until it is let go.
    ///
    /// Asked for now and not when seizing: the thread's own calls never pass unseen.
    ///
    /// # Errors
    /// `EPERM` without `CAP_SYS_ADMIN` or by a filtered tracer; [`Error::Vanished`].
    pub fn suspend_seccomp(&self) -> Result<()> {
        let options = ptrace::O_TRACESYSGOOD | ptrace::O_SUSPEND_SECCOMP;
        ptrace::set_options(self.tid, options).on("ptrace SETOPTIONS SUSPEND_SECCOMP", self.tid)
    }

    /// Lets the thread run in short steps until its registers please.
    ///
    /// # Errors
    /// [`Error::Vanished`], [`Error::TimedOut`].
    pub fn run_until(&self, done: impl Fn(&Registers) -> bool, deadline: Instant) -> Result<()> {
        let step = Duration::from_millis(1);
        while !done(&self.registers()?) {
            self.registers.set(None);
            ptrace::cont(self.tid, 0).on("ptrace CONT", self.tid)?;
            std::thread::sleep(step);
            ptrace::interrupt(self.tid).on("ptrace INTERRUPT", self.tid)?;
            loop {
                match wait(self.tid, deadline)? {
                    Some(Seen::GroupStop(_)) => break,
                    Some(Seen::EventStop) => {
                        take_up_call(self.tid)?;
                        break;
                    }
                    Some(Seen::Gone(_)) => return Err(Error::Vanished { tid: self.tid }),
                    Some(Seen::Signal(signal)) => {
                        ptrace::cont(self.tid, signal).on("ptrace CONT", self.tid)?
                    }
                    Some(Seen::SyscallStop) => {
                        ptrace::cont(self.tid, 0).on("ptrace CONT", self.tid)?
                    }
                    None => {
                        return Err(Error::TimedOut {
                            stage: "waiting for a task to leave the code of an earlier dump",
                            target: self.tid.into(),
                            remedy: "run the dump again".to_owned(),
                        });
                    }
                }
            }
        }
        Ok(())
    }

    /// Lets the thread go on from where it is. A thread that was in a group stop stops again.
    ///
    /// # Errors
    /// What the kernel says; a thread that is gone needs no release.
    pub fn release(mut self) -> Result<()> {
        self.held = false;
        match ptrace::detach(self.tid) {
            Err(Errno::ESRCH) => {
                // Killed meanwhile: take its report, so that its parent gets its own.
                let _ = ptrace::wait(self.tid);
                Ok(())
            }
            answer => answer.on("ptrace DETACH", self.tid),
        }
    }

    /// Waits until a thread that was sent `SIGKILL` is gone.
    ///
    /// # Errors
    /// [`Error::NotReleased`] when it is not by the deadline.
    pub fn gone(mut self, deadline: Instant) -> Result<()> {
        self.held = false;
        loop {
            match wait(self.tid, deadline) {
                Ok(Some(Seen::Gone(_)))
                | Err(Error::Syscall {
                    errno: Errno::ECHILD,
                    ..
                }) => return Ok(()),
                Ok(Some(_)) => {
                    // It reports its last stop before it dies; SIGKILL is on its way.
                    let _ = ptrace::cont(self.tid, 0);
                }
                Ok(None) => {
                    return Err(Error::NotReleased {
                        tids: vec![self.tid],
                        cause: "still there after SIGKILL".to_owned(),
                    });
                }
                Err(error) => return Err(error),
            }
        }
    }
}

impl Drop for Stopped {
    fn drop(&mut self) {
        if self.held {
            let _ = ptrace::detach(self.tid);
        }
    }
}

/// Undoes at once what our stop did to a call: the thread may be let go, or we may die, at any
/// moment from now on.
///
/// Returns its registers.
fn take_up_call(tid: Tid) -> Result<Registers> {
    let mut registers = ptrace::registers(tid).on("ptrace GETREGS", tid)?;
    if undo_interruption(&mut registers) {
        ptrace::set_registers(tid, &registers).on("ptrace SETREGS", tid)?;
    }
    Ok(registers)
}

/// Waits for the next report of a traced thread; `None` when the deadline passed first.
///
/// Polls: a stop takes microseconds, and a deadline that holds needs no signal of ours.
///
/// # Errors
/// `ECHILD` when the thread is not traced by us.
pub fn wait(tid: Tid, deadline: Instant) -> Result<Option<Seen>> {
    let mut pauses = Pauses::start();
    loop {
        if let Some(seen) = ptrace::wait(tid).on("wait4", tid)? {
            return Ok(Some(seen));
        }
        if pauses.are_long() && Instant::now() >= deadline {
            return Ok(None);
        }
        pauses.pause();
    }
}

/// The pauses between looks at something that mostly takes microseconds.
///
/// First they only let others run. On a busy machine that may take long each time, so that it is
/// time that counts: afterwards they are short sleeps, from which the kernel wakes us at once.
#[derive(Debug)]
pub struct Pauses {
    started: Instant,
    are_long: bool,
}

impl Pauses {
    /// Before the first look.
    #[must_use]
    pub fn start() -> Self {
        Self {
            started: Instant::now(),
            are_long: false,
        }
    }

    /// Whether it takes longer than usual.
    #[must_use]
    pub fn are_long(&self) -> bool {
        self.are_long
    }

    /// One of them.
    pub fn pause(&mut self) {
        const USUAL: Duration = Duration::from_micros(200);
        if self.are_long {
            std::thread::sleep(Duration::from_micros(50));
        } else {
            std::thread::yield_now();
            self.are_long = self.started.elapsed() >= USUAL;
        }
    }
}
