//! Stopping a whole tree, and letting it go as it was found.
//!
//! A process is stopped thread by thread until a look at its thread list finds nobody new;
//! only then are its children read, because a running thread may still fork. Each level of
//! the tree is interrupted as a whole before any of it is waited for. A last look over the
//! stopped tree confirms that nobody was missed.

mod cgroup;
mod examine;
pub mod interrupted;
mod stopped;

use std::collections::{HashMap, HashSet};
use std::ops::Range;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use tracing::{debug, warn};

pub use cgroup::FreezerCgroup;
pub use examine::examine;
pub use stopped::{Pauses, Seized, Stopped, wait};

use crate::error::{Blockers, Error, Result};
use crate::ids::{Pid, Tid};
use crate::parallel;
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

/// A process tree in which nothing runs, if it is whole. Dropping it lets every task go.
#[derive(Debug)]
pub struct FrozenTree {
    /// Goes first, so that what was found frozen does not run in between.
    cgroup: Option<FreezerCgroup>,
    blockers: Blockers,
    /// Root first, parents before their children.
    pub processes: Vec<Process>,
    /// What stands still with the tree, being in its cgroup.
    bystanders: Vec<Stopped>,
    /// Bystanders that sit in the kernel and will stop when they leave it.
    on_their_way: Vec<Seized>,
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
    /// Tells once what could not be frozen, so that no dump is possible.
    ///
    /// # Errors
    /// [`Error::Blocked`].
    pub fn is_whole(&mut self) -> Result<()> {
        std::mem::take(&mut self.blockers).none()
    }

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
    pub fn end(mut self, after: After) -> Result<()> {
        let mut kept = Vec::new();
        let mut cause = None;
        if after != After::Kill {
            drop(self.cgroup.take());
        }
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
        for bystander in self.bystanders {
            let tid = bystander.tid();
            if let Err(error) = bystander.release() {
                kept.push(tid);
                cause.get_or_insert(error.to_string());
            }
        }
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
        drop(self.on_their_way);
        match cause {
            None => Ok(()),
            Some(cause) => Err(Error::NotReleased { tids: kept, cause }),
        }
    }
}

/// Stops a process and everything below it, and everything in `cgroup`.
///
/// What cannot be frozen (a vfork in progress, a tracer, a zombie leader with living threads)
/// [`FrozenTree::is_whole`] tells, so that all the rest can be looked at as well.
///
/// # Errors
/// [`Error::Blocked`] for the root itself, [`Error::TimedOut`]; everything already stopped is
/// let go.
pub fn freeze(root: Pid, deadline: Instant, cgroup: Option<FreezerCgroup>) -> Result<FrozenTree> {
    let mut freezer = Freezer {
        cgroup,
        deadline,
        known: HashSet::new(),
        seized: HashMap::new(),
        blockers: Blockers::default(),
        out_of_reach: Vec::new(),
        processes: Vec::new(),
    };
    freezer.seize_cgroup()?;
    freezer.add_level(vec![(root, None)])?;
    match freezer.processes.first() {
        None => {
            freezer.blockers.none()?;
            return Err(Error::Vanished { tid: root.leader() });
        }
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
        let is_all_stopped = level.is_empty();
        let children = if is_all_stopped {
            // Whoever is found now was adopted meanwhile.
            freezer.adopted_children()?
        } else {
            freezer.unknown_children(level)?
        };
        if is_all_stopped && children.is_empty() {
            break;
        }
        let end = freezer.processes.len();
        freezer.add_level(children)?;
        level = end..freezer.processes.len();
    }
    let (bystanders, on_their_way) = freezer.stop_bystanders()?;
    debug!("froze {} processes", freezer.processes.len());
    Ok(FrozenTree {
        cgroup: freezer.cgroup,
        blockers: freezer.blockers,
        processes: freezer.processes,
        bystanders,
        on_their_way,
    })
}

/// Long enough for any interruptible task, short enough to name a vfork at once.
const PATIENCE: Duration = Duration::from_millis(20);

struct Freezer {
    /// Goes first, as in [`FrozenTree`].
    cgroup: Option<FreezerCgroup>,
    deadline: Instant,
    known: HashSet<i32>,
    /// Threads of a cgroup that were seized before it was known which process they belong to.
    seized: HashMap<Tid, Seized>,
    blockers: Blockers,
    /// Processes that cannot be frozen; those below them can.
    out_of_reach: Vec<(Pid, ProcDir)>,
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
    /// Seizes every task of a cgroup while it is frozen, and thaws it.
    fn seize_cgroup(&mut self) -> Result<()> {
        let Some(cgroup) = &mut self.cgroup else {
            return Ok(());
        };
        cgroup.freeze(self.deadline)?;
        let tasks = cgroup.tasks();
        for tid in tasks.as_ref().into_iter().flatten() {
            // Why a task of the tree cannot be seized is found out when its turn comes.
            if let Ok(seized) = Seized::interrupt(*tid) {
                self.seized.insert(*tid, seized);
            }
        }
        cgroup.thaw()?;
        tasks.map(drop)
    }

    /// Waits for those of the cgroup that are not in the tree.
    ///
    /// One that does not stop sits in the kernel, as in vfork for a child that stands still:
    /// it runs into its stop should it get out.
    fn stop_bystanders(&mut self) -> Result<(Vec<Stopped>, Vec<Seized>)> {
        let (mut stopped, mut on_their_way) = (Vec::new(), Vec::new());
        if !self.seized.is_empty() {
            let tids: Vec<String> = self.seized.keys().map(ToString::to_string).collect();
            warn!(
                "in the cgroup, but not in the tree, and standing still with it: {}",
                tids.join(", ")
            );
        }
        for seized in std::mem::take(&mut self.seized).into_values() {
            match seized.stopped((Instant::now() + PATIENCE).min(self.deadline)) {
                Ok(Ok(bystander)) => stopped.push(bystander),
                Ok(Err(seized)) => on_their_way.push(seized),
                Err(Error::Vanished { .. }) => {}
                Err(error) => return Err(error),
            }
        }
        Ok((stopped, on_their_way))
    }

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
            let outcome = candidate.seize_threads(&mut self.seized);
            match self.blockers.gather(outcome)? {
                Some(true) => candidates.push(candidate),
                Some(false) => {}
                None => self.give_up(pid),
            }
        }
        for mut candidate in candidates {
            let pid = candidate.pid;
            let outcome = self.stop_all(&mut candidate);
            let outcome = outcome.and_then(|()| candidate.into_process());
            match self.blockers.gather(outcome)? {
                Some(process) => self.processes.extend(process),
                None => self.give_up(pid),
            }
        }
        Ok(())
    }

    /// Waits for every thread of a process, and for those it has started meanwhile.
    fn stop_all(&mut self, candidate: &mut Candidate) -> Result<()> {
        loop {
            let running = std::mem::take(&mut candidate.running);
            for seized in running {
                if let Some(stopped) = self.stop(candidate, seized)? {
                    candidate.stopped.push(stopped);
                }
            }
            candidate.seize_threads(&mut self.seized)?;
            if candidate.running.is_empty() {
                return Ok(());
            }
        }
    }

    /// Remembers a process that cannot be frozen.
    fn give_up(&mut self, pid: Pid) {
        let proc_dir = ProcDir::open(pid).ok();
        self.out_of_reach.extend(proc_dir.map(|dir| (pid, dir)));
    }

    fn stop(&self, candidate: &Candidate, seized: Seized) -> Result<Option<Stopped>> {
        let mut seized = seized;
        loop {
            let tid = seized.tid();
            let look = (Instant::now() + PATIENCE).min(self.deadline);
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
                        "the task sits in an uninterruptible call, or its cgroup is frozen; try \
                             again, raise --timeout, or name the cgroup with --freeze-cgroup"
                            .to_owned(),
                });
            }
        }
    }

    /// Children that some processes have made, or adopted, and that are not part of the tree yet.
    fn unknown_children(&self, range: Range<usize>) -> Result<Vec<(Pid, Option<Pid>)>> {
        self.unknown_children_of(range, usize::MAX)
    }

    /// Children that were adopted after the tree was stopped and are not part of it yet. Nobody
    /// made any, and the kernel gives orphans to the first living thread of a process.
    fn adopted_children(&self) -> Result<Vec<(Pid, Option<Pid>)>> {
        self.unknown_children_of(0..self.processes.len(), 1)
    }

    /// Unknown children of the first few threads of some processes.
    fn unknown_children_of(
        &self,
        range: Range<usize>,
        threads: usize,
    ) -> Result<Vec<(Pid, Option<Pid>)>> {
        let mut found = Vec::new();
        let parse = |pid: Pid, text: &[u8]| {
            parse_children(text).map_err(|e| e.at(format!("/proc/{pid}/task/.../children")))
        };
        let mut add = |pid: Pid, children: Vec<Pid>| {
            let unknown = children
                .into_iter()
                .filter(|child| !self.known.contains(&child.0));
            found.extend(unknown.map(|child| (child, Some(pid))));
        };
        let asked: Vec<_> = self.processes[range]
            .iter()
            .flat_map(|process| {
                let threads = process.threads.iter().take(threads);
                threads.map(|thread| (process.pid, &process.proc_dir, thread.tid()))
            })
            .collect();
        let children = parallel::chunks(&asked, |_, some| {
            let mut text = Vec::new();
            let children = some.iter().map(|(pid, proc_dir, tid)| {
                let filled = proc_dir.read_into(&format!("task/{tid}/children"), &mut text)?;
                parse(*pid, &text[..filled])
            });
            children.collect::<Vec<_>>()
        });
        for ((pid, ..), children) in asked.iter().zip(children.into_iter().flatten()) {
            add(*pid, children?);
        }
        for (pid, proc_dir) in &self.out_of_reach {
            for thread in proc_dir.numbers("task").unwrap_or_default() {
                let text = proc_dir.read(&format!("task/{thread}/children"));
                add(*pid, parse(*pid, &text.unwrap_or_default())?);
            }
        }
        Ok(found)
    }
}

impl Candidate {
    /// Seizes and interrupts every thread that is not yet ours; false when the process is gone.
    ///
    /// Those of `seized` were seized before.
    fn seize_threads(&mut self, seized: &mut HashMap<Tid, Seized>) -> Result<bool> {
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
            let seized = match seized.remove(&tid) {
                Some(seized) => Some(seized),
                None => self.seize(tid)?,
            };
            self.running.extend(seized);
        }
        Ok(true)
    }

    /// Seizes and interrupts one thread; `None` when it has ended.
    fn seize(&mut self, tid: Tid) -> Result<Option<Seized>> {
        const TRIES: u32 = 20;
        let mut tries = 1;
        loop {
            match Seized::interrupt(tid) {
                Ok(seized) => return Ok(Some(seized)),
                Err(Error::Vanished { .. }) => return Ok(None),
                Err(Error::Syscall {
                    errno: Errno::EPERM,
                    ..
                }) => {}
                Err(error) => return Err(error),
            }
            match self.explain_refusal(tid) {
                None => return Ok(None),
                // A thread that calls exec takes the number of its leader, and it was that one,
                // a zombie by then, which could not be seized.
                Some((_, false)) if tries < TRIES => {
                    tries += 1;
                    std::thread::sleep(std::time::Duration::from_millis(1));
                }
                Some((error, _)) => return Err(error),
            }
        }
    }

    /// `PTRACE_SEIZE` said `EPERM`: a zombie is fine, everything else is the reason given, with
    /// whether it is beyond doubt.
    fn explain_refusal(&mut self, tid: Tid) -> Option<(Error, bool)> {
        let text = self.proc_dir.read(&format!("task/{tid}/status")).ok()?;
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
            return None;
        }
        let tracer = field("TracerPid:");
        let (what, remedy, is_certain) = if tracer != "0" {
            (
                format!("a task traced by {tracer}"),
                "end the debugger or strace first",
                true,
            )
        } else if field("Kthread:") == "1" {
            (
                "a kernel thread".to_owned(),
                "name a process of a program",
                true,
            )
        } else {
            (
                "a task that ptrace may not seize".to_owned(),
                "run dedump as the task's own user with kernel.yama.ptrace_scope=0, with CAP_SYS_PTRACE, or as root",
                false,
            )
        };
        Some((Error::unsupported(tid, what, remedy), is_certain))
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
