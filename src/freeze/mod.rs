//! Stopping a whole tree, and letting it go as it was found.
//!
//! A process is stopped thread by thread until a look at its thread list finds nobody new;
//! only then are its children read, because a running thread may still fork. Each level of
//! the tree is interrupted as a whole before any of it is waited for. A last look over the
//! stopped tree confirms that nobody was missed.

mod examine;
pub mod interrupted;
mod stopped;

use std::collections::HashSet;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use tracing::debug;

pub use examine::examine;
pub use stopped::{Seized, Stopped, wait};

use crate::error::{Error, Result};
use crate::ids::{Pid, Tid};
use crate::proc::ProcDir;
use crate::proc::children::parse_children;
use crate::proc::stat::{Stat, State, parse_stat};
use crate::sys::kcmp;

/// A process of the frozen tree.
#[derive(Debug)]
pub struct Process {
    /// Its pid.
    pub pid: Pid,
    /// Its parent within the tree; `None` for the root.
    pub parent: Option<Pid>,
    /// `/proc/PID`, opened while it was stopped.
    pub proc_dir: ProcDir,
    /// `/proc/PID/stat` as of the freeze.
    pub stat: Stat,
    /// Its threads, leader first; empty for a zombie.
    pub threads: Vec<Stopped>,
}

impl Process {
    /// Whether it has ended and waits to be reaped.
    #[must_use]
    pub fn is_zombie(&self) -> bool {
        self.threads.is_empty()
    }

    /// The thread that leads the process; `None` for a zombie.
    #[must_use]
    pub fn leader(&self) -> Option<&Stopped> {
        self.threads.first()
    }
}

/// A process tree in which nothing runs. Dropping it lets every task go.
#[derive(Debug)]
pub struct FrozenTree {
    /// Root first, parents before their children.
    pub processes: Vec<Process>,
}

/// How the tasks of a tree go on after a dump.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum After {
    /// They are killed.
    Kill,
    /// They run on as if nothing had been.
    LeaveRunning,
    /// They are stopped by `SIGSTOP`.
    LeaveStopped,
}

impl FrozenTree {
    /// The root process.
    #[must_use]
    pub fn root(&self) -> &Process {
        &self.processes[0]
    }

    /// Every stopped thread of the tree.
    pub fn threads(&self) -> impl Iterator<Item = &Stopped> {
        self.processes.iter().flat_map(|process| &process.threads)
    }

    /// Ends the freeze.
    ///
    /// # Errors
    /// [`Error::NotReleased`] names every task that may still be stopped or alive.
    pub fn end(self, after: After) -> Result<()> {
        let mut kept = Vec::new();
        let mut cause = None;
        if after != After::LeaveRunning {
            let signal = if after == After::Kill {
                libc::SIGKILL
            } else {
                libc::SIGSTOP
            };
            for process in self.processes.iter().filter(|process| !process.is_zombie()) {
                let signal = nix::sys::signal::Signal::try_from(signal).ok();
                if let Err(errno) =
                    nix::sys::signal::kill(nix::unistd::Pid::from_raw(process.pid.0), signal)
                    && errno != Errno::ESRCH
                {
                    kept.push(process.pid.leader());
                    cause.get_or_insert(format!("kill: {errno}"));
                }
            }
        }
        let deadline = Instant::now() + Duration::from_secs(10);
        for process in self.processes {
            // Leaders report their death only after the other threads have.
            for thread in process.threads.into_iter().rev() {
                let tid = thread.tid();
                let ended = if after == After::Kill {
                    thread.gone(deadline)
                } else {
                    thread.release()
                };
                if let Err(error) = ended {
                    kept.push(tid);
                    cause.get_or_insert(error.to_string());
                }
            }
        }
        match cause {
            None => Ok(()),
            Some(cause) => Err(Error::NotReleased { tids: kept, cause }),
        }
    }
}

/// Stops a process and everything below it.
///
/// # Errors
/// [`Error::Unsupported`] for what cannot be frozen (a vfork in progress, a tracer, a zombie
/// leader with living threads), [`Error::TimedOut`]; everything already stopped is let go.
pub fn freeze(root: Pid, deadline: Instant) -> Result<FrozenTree> {
    let mut freezer = Freezer {
        deadline,
        known: HashSet::new(),
        processes: Vec::new(),
    };
    freezer.add_level(vec![(root, None)])?;
    match freezer.processes.first() {
        None => return Err(Error::Vanished { tid: root.leader() }),
        Some(process) if process.is_zombie() => {
            return Err(Error::unsupported(
                root,
                "a process that has ended already",
                "it only waits for its parent to notice",
            ));
        }
        Some(_) => {}
    }
    let mut level = 0..freezer.processes.len();
    loop {
        if level.is_empty() {
            // Everything is stopped: whoever is found now was adopted meanwhile.
            level = 0..freezer.processes.len();
            let children = freezer.unknown_children(level)?;
            if children.is_empty() {
                break;
            }
            let end = freezer.processes.len();
            freezer.add_level(children)?;
            level = end..freezer.processes.len();
            continue;
        }
        let children = freezer.unknown_children(level)?;
        let end = freezer.processes.len();
        freezer.add_level(children)?;
        level = end..freezer.processes.len();
    }
    debug!("froze {} processes", freezer.processes.len());
    Ok(FrozenTree {
        processes: freezer.processes,
    })
}

struct Freezer {
    deadline: Instant,
    known: HashSet<i32>,
    processes: Vec<Process>,
}

/// A process on its way into the tree.
struct Candidate {
    pid: Pid,
    parent: Option<Pid>,
    proc_dir: ProcDir,
    running: Vec<Seized>,
    stopped: Vec<Stopped>,
    zombie: bool,
}

impl Freezer {
    /// Stops the given processes with all their threads and appends them to the tree.
    fn add_level(&mut self, processes: Vec<(Pid, Option<Pid>)>) -> Result<()> {
        let own = std::process::id();
        let mut candidates = Vec::with_capacity(processes.len());
        for (pid, parent) in processes {
            if pid.number() == own {
                return Err(Error::unsupported(
                    pid,
                    "a tree that contains the dumper",
                    "start dedump from outside of it",
                ));
            }
            self.known.insert(pid.0);
            let Ok(proc_dir) = ProcDir::open(pid) else {
                continue;
            };
            let mut candidate = Candidate {
                pid,
                parent,
                proc_dir,
                running: Vec::new(),
                stopped: Vec::new(),
                zombie: false,
            };
            if candidate.seize_threads()? {
                candidates.push(candidate);
            }
        }
        for candidate in &mut candidates {
            loop {
                let running = std::mem::take(&mut candidate.running);
                for seized in running {
                    if let Some(stopped) = self.stop(candidate, seized)? {
                        candidate.stopped.push(stopped);
                    }
                }
                candidate.seize_threads()?;
                if candidate.running.is_empty() {
                    break;
                }
            }
        }
        for candidate in candidates {
            self.processes.extend(candidate.into_process()?);
        }
        Ok(())
    }

    fn stop(&self, candidate: &Candidate, seized: Seized) -> Result<Option<Stopped>> {
        // Long enough for any interruptible task, short enough to name a vfork at once.
        let patience = Duration::from_millis(20);
        let mut seized = seized;
        loop {
            let tid = seized.tid();
            let look = (Instant::now() + patience).min(self.deadline);
            seized = match seized.stopped(look) {
                Ok(Ok(stopped)) => return Ok(Some(stopped)),
                Err(Error::Vanished { .. }) => return Ok(None),
                Err(error) => return Err(error),
                Ok(Err(seized)) => seized,
            };
            if let Some(child) = candidate.vfork_child(tid) {
                return Err(Error::unsupported(
                    tid,
                    format!("a task waiting in vfork for its child {child}"),
                    "run the dump again when the child has called exec or exit",
                ));
            }
            if Instant::now() >= self.deadline {
                return Err(Error::TimedOut {
                    stage: "freezing the tree",
                    target: tid.into(),
                    remedy:
                        "the task sits in an uninterruptible call; try again, or raise --timeout"
                            .to_owned(),
                });
            }
        }
    }

    /// Children of some processes that are not part of the tree yet.
    fn unknown_children(&self, range: std::ops::Range<usize>) -> Result<Vec<(Pid, Option<Pid>)>> {
        let mut found = Vec::new();
        for process in &self.processes[range] {
            for thread in &process.threads {
                let text = process
                    .proc_dir
                    .read(&format!("task/{}/children", thread.tid()))?;
                for child in
                    parse_children(&text).map_err(|e| e.at(process.proc_dir.path_of("children")))?
                {
                    if !self.known.contains(&child.0) {
                        found.push((child, Some(process.pid)));
                    }
                }
            }
        }
        Ok(found)
    }
}

impl Candidate {
    /// Seizes and interrupts every thread that is not yet ours; false when the process is gone.
    fn seize_threads(&mut self) -> Result<bool> {
        let known: HashSet<i32> = self
            .running
            .iter()
            .map(Seized::tid)
            .chain(self.stopped.iter().map(Stopped::tid))
            .map(|tid| tid.0)
            .collect();
        let Ok(tids) = self.proc_dir.numbers("task") else {
            return Ok(false);
        };
        for tid in tids.into_iter().filter(|tid| !known.contains(tid)).map(Tid) {
            match Seized::interrupt(tid) {
                Ok(seized) => self.running.push(seized),
                Err(Error::Vanished { .. }) => {}
                Err(Error::Syscall {
                    errno: Errno::EPERM,
                    ..
                }) => self.explain_refusal(tid)?,
                Err(error) => return Err(error),
            }
        }
        Ok(true)
    }

    /// `PTRACE_SEIZE` said `EPERM`: a zombie is fine, everything else is the reason given.
    fn explain_refusal(&mut self, tid: Tid) -> Result<()> {
        let Ok(text) = self.proc_dir.read(&format!("task/{tid}/status")) else {
            return Ok(());
        };
        let field = |name: &str| {
            let text = String::from_utf8_lossy(&text).into_owned();
            text.lines()
                .find_map(|line| line.strip_prefix(name).map(|value| value.trim().to_owned()))
                .unwrap_or_default()
        };
        if field("State:").starts_with(['Z', 'X']) {
            if tid == self.pid.leader() {
                self.zombie = true;
            }
            return Ok(());
        }
        let tracer = field("TracerPid:");
        let (what, remedy) = if tracer != "0" {
            (
                format!("a task traced by {tracer}"),
                "end the debugger or strace first",
            )
        } else if field("Kthread:") == "1" {
            ("a kernel thread".to_owned(), "name a process of a program")
        } else {
            (
                "a task that ptrace may not seize".to_owned(),
                "run dedump as the task's own user with kernel.yama.ptrace_scope=0, with CAP_SYS_PTRACE, or as root",
            )
        };
        Err(Error::unsupported(tid, what, remedy))
    }

    /// The child that a thread inside vfork(2) waits for.
    ///
    /// It mostly has the address space of its parent, of which a thread that waits
    /// uninterruptibly is otherwise no child's parent. One made by clone(2) need not have it, and
    /// then it is the youngest child of a thread that is in that call.
    fn vfork_child(&self, tid: Tid) -> Option<Pid> {
        let read = |name: &str| self.proc_dir.read(&format!("task/{tid}/{name}")).ok();
        let stat = parse_stat(&read("stat")?).ok()?;
        if stat.state != State::DiskSleep {
            return None;
        }
        let children = parse_children(&read("children")?).ok()?;
        let has_its_memory = |child: &Pid| {
            kcmp::kcmp(tid, child.leader(), kcmp::Resource::Vm) == Ok(kcmp::Order::Equal)
        };
        let child = children.iter().copied().find(has_its_memory);
        child.or_else(|| {
            let call = read("syscall")?;
            waits_for_child(&call).then(|| children.last().copied())?
        })
    }

    fn into_process(mut self) -> Result<Option<Process>> {
        let Ok(text) = self.proc_dir.read("stat") else {
            return Ok(None);
        };
        let stat = parse_stat(&text).map_err(|e| e.at(self.proc_dir.path_of("stat")))?;
        if self.stopped.is_empty() && !self.zombie {
            return Ok(None);
        }
        if self.zombie && !self.stopped.is_empty() {
            return Err(Error::unsupported(
                self.pid,
                "a process whose leading thread has ended while others run",
                "the image format has no place for it",
            ));
        }
        // The kernel lists threads in order of creation, except that exec lets a thread take
        // the leader's place.
        let leader = self.pid.leader();
        self.stopped
            .sort_by_key(|thread| (thread.tid() != leader, thread.tid()));
        Ok(Some(Process {
            pid: self.pid,
            parent: self.parent,
            proc_dir: self.proc_dir,
            stat,
            threads: self.stopped,
        }))
    }
}

/// Whether `/proc/PID/syscall` tells of a call that comes back only when a child has called exec
/// or exit. What clone3(2) was asked for stands in memory: a thread that sleeps in it waits.
fn waits_for_child(text: &[u8]) -> bool {
    let text = String::from_utf8_lossy(text);
    let mut words = text.split_whitespace();
    let call: Option<i64> = words.next().and_then(|word| word.parse().ok());
    let first = words.next().and_then(|word| word.strip_prefix("0x"));
    let first = first.and_then(|word| u64::from_str_radix(word, 16).ok());
    match call {
        Some(libc::SYS_vfork | libc::SYS_clone3) => true,
        Some(libc::SYS_clone) => {
            first.is_some_and(|flags| flags & u64::from(libc::CLONE_VFORK.unsigned_abs()) != 0)
        }
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn calls_that_wait_for_a_child() {
        assert!(waits_for_child(
            b"58 0x0 0x0 0x0 0x0 0x0 0x0 0x7ffc 0x7f01\n"
        ));
        assert!(waits_for_child(
            b"56 0x4111 0x0 0x0 0x0 0x0 0x0 0x7ffc 0x7f01\n"
        ));
        assert!(!waits_for_child(
            b"56 0x111 0x0 0x0 0x0 0x0 0x0 0x7ffc 0x7f01\n"
        ));
        assert!(!waits_for_child(
            b"0 0x4000 0x0 0x0 0x0 0x0 0x0 0x7ffc 0x7f01\n"
        ));
        assert!(!waits_for_child(b"running\n"));
    }
}
