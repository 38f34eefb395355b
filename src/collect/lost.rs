//! What the images do not hold, or today's restorers do not bring back: found, to be told.

use std::collections::HashMap;

use super::notes::NoteKind;
use super::task::{Living, Task};
use crate::error::{Result, ResultExt};
use crate::freeze::Process;
use crate::ids::{Pid, Tid};
use crate::sys::sched;

/// What a found thing is, and the tasks it is about.
pub type Finding = (NoteKind, Vec<Tid>);

/// What restored tasks have from the restorer, taken from a dumper that was started alike.
#[derive(Clone, Debug)]
pub struct Inheritance {
    affinity: Vec<u64>,
    io_priority: i32,
    timer_slack_ns: u64,
    coredump_filter: Vec<u8>,
}

impl Inheritance {
    /// Asks for the dumper's own.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn own() -> Result<Self> {
        let own = Tid(0);
        Ok(Self {
            affinity: sched::affinity(own).on("sched_getaffinity", own)?,
            io_priority: sched::io_priority(own).on("ioprio_get", own)?,
            timer_slack_ns: nix::sys::prctl::get_timerslack()
                .on("prctl GET_TIMERSLACK", own)?
                .unsigned_abs()
                .into(),
            coredump_filter: std::fs::read("/proc/self/coredump_filter").unwrap_or_default(),
        })
    }

    /// What a living process loses.
    ///
    /// # Errors
    /// When a thread is gone, or `/proc` cannot be read.
    pub fn lost_by(&self, process: &Process, living: &Living) -> Result<Vec<Finding>> {
        let mut found = Vec::new();
        let leader = process.pid.leader();
        let mut find = |kind, tid| found.push((kind, vec![tid]));
        if process.stat.exit_signal != libc::SIGCHLD && process.parent.is_some() {
            find(NoteKind::ExitSignal, leader);
        }
        if living.personality != 0 {
            find(NoteKind::Personality, leader);
        }
        // The file is empty for a process without memory, and absent from some kernels.
        if let Ok(filter) = process.proc_dir.read("coredump_filter")
            && filter != self.coredump_filter
        {
            find(NoteKind::CoredumpFilter, leader);
        }
        if living.group_stop.is_some() && has_deliverable_signals(living) {
            find(NoteKind::StoppedWithSignals, leader);
        }
        for (signal, kind) in [
            (libc::SIGTRAP, NoteKind::PendingTrap),
            (libc::SIGSTOP, NoteKind::PendingStop),
        ] {
            if queues(living).any(|(signals, _)| signals.contains(&signal)) {
                find(kind, leader);
            }
        }
        for thread in &living.threads {
            let tid = thread.capture.tid;
            if sched::affinity(tid).on("sched_getaffinity", tid)? != self.affinity {
                find(NoteKind::Affinity, tid);
            }
            if sched::io_priority(tid).on("ioprio_get", tid)? != self.io_priority {
                find(NoteKind::IoPriority, tid);
            }
            if thread.timer_slack_ns != 0 && thread.timer_slack_ns != self.timer_slack_ns {
                find(NoteKind::TimerSlack, tid);
            }
        }
        Ok(found)
    }
}

/// What a zombie loses.
#[must_use]
pub fn lost_by_zombie(task: &Task) -> Option<Finding> {
    const SEVEN_BITS: i32 = 0x7f;
    let status = task.stat.exit_code;
    let is_exit = status & SEVEN_BITS == 0;
    (is_exit && status >> 8 > SEVEN_BITS).then(|| (NoteKind::ExitStatus, vec![task.pid.leader()]))
}

/// The queues of a process, each with the signals that whoever reads it blocks.
fn queues(living: &Living) -> impl Iterator<Item = (Vec<i32>, u64)> {
    let numbers = |queue: &[super::thread::QueuedSignal]| {
        let number = |signal: &super::thread::QueuedSignal| {
            i32::from_le_bytes([signal[0], signal[1], signal[2], signal[3]])
        };
        queue.iter().map(number).collect::<Vec<_>>()
    };
    let threads = living.threads.iter();
    // A signal of the process goes to any thread that lets it through.
    let blocked_by_all = threads
        .clone()
        .fold(u64::MAX, |all, thread| all & thread.capture.blocked);
    let own = threads.map(move |thread| {
        let capture = &thread.capture;
        (numbers(&capture.signals), capture.blocked)
    });
    own.chain([(numbers(&living.signals), blocked_by_all)])
}

fn has_deliverable_signals(living: &Living) -> bool {
    let mut queues = queues(living);
    queues.any(|(signals, blocked)| {
        let held = blocked | living.status.signals_ignored;
        signals.iter().any(|signal| held & 1 << (signal - 1) == 0)
    })
}

/// Tasks whose session criu cannot put them into as they are: it can only be inherited.
#[must_use]
pub fn sessions(processes: &[Process]) -> Vec<Finding> {
    let places: HashMap<Pid, &Process> = processes
        .iter()
        .map(|process| (process.pid, process))
        .collect();
    let Some(root) = processes.first() else {
        return Vec::new();
    };
    let mut found = Vec::new();
    for process in &processes[1..] {
        let session = process.stat.session;
        let parent = process.parent.and_then(|parent| places.get(&parent));
        let is_inherited = parent.is_some_and(|parent| parent.stat.session == session);
        if session == process.pid.0 || session == root.stat.session || is_inherited {
            continue;
        }
        let mut ancestors = std::iter::successors(parent, |ancestor| {
            ancestor.parent.and_then(|parent| places.get(&parent))
        });
        if process.parent == Some(root.pid) {
            found.push((NoteKind::LeaderlessSession, vec![process.pid.leader()]));
        } else if !ancestors.any(|ancestor| ancestor.pid.0 == session) {
            found.push((NoteKind::ForeignSession, vec![process.pid.leader()]));
        }
    }
    found
}
