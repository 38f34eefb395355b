//! `sched_getattr(2)`: how a thread is scheduled.
#![allow(unsafe_code)]

use nix::errno::Errno;

use crate::ids::Tid;

/// Scheduling of one thread.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Scheduling {
    /// `SCHED_OTHER` 0, `SCHED_FIFO` 1, `SCHED_RR` 2, `SCHED_BATCH` 3, `SCHED_IDLE` 5, `SCHED_DEADLINE` 6.
    pub policy: u32,
    /// 1 to 99 for the real-time policies, else 0.
    pub priority: u32,
    /// -20 to 19.
    pub nice: i32,
}

#[derive(Default)]
#[repr(C)]
struct SchedAttr {
    size: u32,
    policy: u32,
    flags: u64,
    nice: i32,
    priority: u32,
    deadline: [u64; 3],
    clamps: [u32; 2],
}

/// `setpriority(2)`: lets the others go first, the calling thread and those it will start.
///
/// # Errors
/// `EPERM` it had gone behind even more before.
pub fn go_behind() -> Result<(), Errno> {
    const NICE: i32 = 10;
    // SAFETY: three integers; 0 is the calling thread.
    Errno::result(unsafe { libc::setpriority(libc::PRIO_PROCESS, 0, NICE) }).map(drop)
}

/// `sched_getattr(tid)`; for the real-time policies the nice value comes from `getpriority(2)`,
/// which knows it for every policy.
///
/// # Errors
/// `ESRCH` no such thread.
///
/// # Sources
/// sched_getattr(2), getpriority(2).
pub fn scheduling(tid: Tid) -> Result<Scheduling, Errno> {
    const NICE_OFFSET: i32 = 20;
    let mut attr = SchedAttr::default();
    // SAFETY: the kernel fills at most the given number of bytes of a live struct.
    let answer = unsafe {
        libc::syscall(
            libc::SYS_sched_getattr,
            tid.0,
            &raw mut attr,
            size_of::<SchedAttr>(),
            0,
        )
    };
    Errno::result(answer)?;
    // SAFETY: three integers; the raw call returns 20 - nice, never a negative number.
    let raw = unsafe { libc::syscall(libc::SYS_getpriority, libc::PRIO_PROCESS, tid.0) };
    let raw = Errno::result(raw)?;
    Ok(Scheduling {
        policy: attr.policy,
        priority: attr.priority,
        nice: NICE_OFFSET - i32::try_from(raw).unwrap_or(NICE_OFFSET),
    })
}
