//! A copy-on-write copy of a task's memory: a process that was forked off it and sleeps.
//!
//! The task forks a helper that shares its memory, the helper forks the copy and ends, and
//! the task takes the helper's report; all in one batch while the tree is frozen. The copy
//! is nobody's child but that of the system's reaper, so that no list of children changes, no
//! signal is sent to anybody in the tree and no zombie stays there. It has no descriptors but
//! one for the dumper's process, on which it waits: when the dumper ends, however it ends,
//! the copy ends, too.

use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;

use nix::errno::Errno;

use crate::ids::Pid;
use crate::inject::{Batch, CallIndex, Results};
use crate::proc::ProcDir;
use crate::proc::memory::TaskMemory;
use crate::sys::pidfd;

/// The sleeping copy of a task; ends with this value.
#[derive(Debug)]
pub struct Snapshot {
    pid: Pid,
    pidfd: OwnedFd,
    proc_dir: ProcDir,
    memory: Arc<TaskMemory>,
}

/// The calls of a task that make a snapshot.
#[derive(Clone, Copy, Debug)]
pub struct SnapshotCalls {
    helper: CallIndex,
    copy: CallIndex,
}

impl SnapshotCalls {
    /// Appends the calls to the batch of a task.
    ///
    /// A task that takes in orphans would get the copy as its child: it makes none.
    pub fn add_to(batch: &mut Batch) -> Self {
        const FUTEX_CMP_REQUEUE_PRIVATE: u64 = 4 | 128;
        const SHARED_BY_HELPER: i32 =
            libc::CLONE_VM | libc::CLONE_VFORK | libc::CLONE_FILES | libc::CLONE_FS;
        const CLOSE_RANGE_UNSHARE: u64 = 2;
        /// Calls of the copy, of the helper and the copy, and of all three.
        const COPY: u32 = 3;
        const HELPER: u32 = COPY + 5;
        const ALL: u32 = HELPER + 2;

        let number = |flags: i32| u64::from(flags.unsigned_abs());
        let takes_orphans = batch.buffer(16);
        let name = batch.buffer_with(b"dedump-copy\0");
        // struct pollfd: descriptor 0, POLLIN.
        let poll = batch.buffer_with(&[0, 0, 0, 0, 1, 0, 0, 0]);
        batch.call(
            libc::SYS_prctl,
            &[
                number(libc::PR_GET_CHILD_SUBREAPER).into(),
                takes_orphans.into(),
            ],
        );
        // Compares a word with 0 and does nothing else: nobody waits there.
        let nothing = 0.into();
        batch.branch(
            libc::SYS_futex,
            &[
                takes_orphans.into(),
                FUTEX_CMP_REQUEUE_PRIVATE.into(),
                nothing,
                nothing,
                takes_orphans.into(),
                nothing,
            ],
            ALL,
        );
        // The kernel writes the helper's pid to where the task names whom it waits for.
        let wait = batch.upcoming(ALL as usize - 1);
        let helper_flags = number(SHARED_BY_HELPER | libc::CLONE_PARENT_SETTID);
        let helper = batch.branch(
            libc::SYS_clone,
            &[
                helper_flags.into(),
                nothing,
                crate::inject::Argument::FirstArgumentOf(wait),
            ],
            HELPER,
        );
        // The helper: a session of its own, so that no signal to a group reaches the copy, and
        // no descriptors, so that nothing of the task's is kept open.
        batch.call(libc::SYS_setsid, &[]);
        batch.call(
            libc::SYS_prctl,
            &[number(libc::PR_SET_NAME).into(), name.into()],
        );
        batch.call(
            libc::SYS_close_range,
            &[
                nothing,
                u64::from(u32::MAX).into(),
                CLOSE_RANGE_UNSHARE.into(),
            ],
        );
        let copy = batch.branch(libc::SYS_clone, &[number(libc::CLONE_FILES).into()], COPY);
        // The copy: waits for the dumper's end.
        let dumper = u64::from(std::process::id());
        batch.call(libc::SYS_pidfd_open, &[dumper.into()]);
        batch.call(libc::SYS_poll, &[poll.into(), 1.into(), u64::MAX.into()]);
        batch.call(libc::SYS_exit_group, &[nothing]);
        // The helper again.
        batch.call(libc::SYS_exit, &[nothing]);
        // The task.
        // Nobody has this pid: should there be no helper, nobody is waited for.
        let nobody = u64::from(i32::MIN.unsigned_abs());
        batch.call(
            libc::SYS_wait4,
            &[nobody.into(), nothing, number(libc::__WALL).into()],
        );
        Self { helper, copy }
    }

    /// The snapshot that was made; `None` if the task takes in orphans.
    ///
    /// # Errors
    /// Why there is none: no memory for its page tables, a limit of processes.
    pub fn snapshot(self, answers: &Results) -> Result<Option<Snapshot>, Errno> {
        if answers.value(self.helper)? == 0 {
            return Ok(None);
        }
        let pid = i32::try_from(answers.value(self.copy)?).map_err(|_| Errno::ERANGE)?;
        if pid == 0 {
            return Ok(None);
        }
        Snapshot::open(Pid(pid)).map(Some)
    }
}

impl Snapshot {
    fn open(pid: Pid) -> Result<Self, Errno> {
        let pidfd = pidfd::pidfd_open(pid)?;
        let open = || {
            let proc_dir = ProcDir::open(pid)?;
            let memory = TaskMemory::open(&proc_dir, pid.leader())?;
            Ok::<_, crate::error::Error>((proc_dir, memory))
        };
        match open() {
            Ok((proc_dir, memory)) => Ok(Self {
                pid,
                pidfd,
                proc_dir,
                memory: Arc::new(memory),
            }),
            Err(_) => {
                let _ = pidfd::kill(pidfd.as_fd());
                Err(Errno::EACCES)
            }
        }
    }

    /// Its pid.
    #[must_use]
    pub fn pid(&self) -> Pid {
        self.pid
    }

    /// Its `/proc/PID`.
    #[must_use]
    pub fn proc_dir(&self) -> &ProcDir {
        &self.proc_dir
    }

    /// The memory it holds.
    #[must_use]
    pub fn memory(&self) -> Arc<TaskMemory> {
        Arc::clone(&self.memory)
    }
}

impl Drop for Snapshot {
    fn drop(&mut self) {
        let _ = pidfd::kill(self.pidfd.as_fd());
    }
}
