//! `sched_getattr(2)`: how a thread is scheduled.
#![allow(unsafe_code)]

use nix::errno::Errno;

use crate::ids::Tid;

/// Scheduling of one thread.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Scheduling {
    /// `SCHED_OTHER` 0, `SCHED_FIFO` 1, `SCHED_RR` 2, `SCHED_BATCH` 3, `SCHED_IDLE` 5, `SCHED_DEADLINE` 6.
    pub policy: u32,
    /// Whether children start with the ordinary policy (`SCHED_RESET_ON_FORK`).
    pub reset_on_fork: bool,
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

/// The bit of `SCHED_RESET_ON_FORK` in a policy of `sched_setscheduler(2)`.
pub const RESET_ON_FORK_BIT: u32 = 30;

/// `SCHED_DEADLINE`.
pub const DEADLINE: u32 = 6;

/// `sched_getaffinity(2)`: the processors that a thread may run on, bit n % 64 of word n / 64
/// for processor n.
///
/// # Errors
/// `ESRCH` no such thread.
pub fn affinity(tid: Tid) -> Result<Vec<u64>, Errno> {
    /// As many processors as any kernel is built for.
    const MOST_WORDS: usize = 8192 / 64;
    let mut words = vec![0_u64; MOST_WORDS];
    // SAFETY: the kernel fills at most the given number of bytes of a live buffer.
    let filled = Errno::result(unsafe {
        libc::syscall(
            libc::SYS_sched_getaffinity,
            tid.0,
            MOST_WORDS * 8,
            words.as_mut_ptr(),
        )
    })?;
    words.truncate(usize::try_from(filled).unwrap_or(0) / 8);
    Ok(words)
}

/// `ioprio_get(2)`: the I/O priority of a thread; 0 for none of its own.
///
/// # Errors
/// `ESRCH` no such thread.
pub fn io_priority(tid: Tid) -> Result<i32, Errno> {
    const WHO_PROCESS: i32 = 1;
    // SAFETY: two integers.
    let priority = unsafe { libc::syscall(libc::SYS_ioprio_get, WHO_PROCESS, tid.0) };
    Errno::result(priority).map(|priority| i32::try_from(priority).unwrap_or(0))
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

/// `sched_setscheduler(2)`: the calling thread goes before all that are not of a real-time policy;
/// those it starts do not.
///
/// # Errors
/// `EPERM` without `CAP_SYS_NICE`.
pub fn go_first() -> Result<(), Errno> {
    let parameters = libc::sched_param { sched_priority: 1 };
    let policy = libc::SCHED_FIFO | 1 << RESET_ON_FORK_BIT;
    // SAFETY: the kernel reads a live struct; 0 is the calling thread.
    Errno::result(unsafe { libc::sched_setscheduler(0, policy, &raw const parameters) }).map(drop)
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
    const RESET_ON_FORK: u64 = 1;
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
        reset_on_fork: attr.flags & RESET_ON_FORK != 0,
        priority: attr.priority,
        nice: NICE_OFFSET - i32::try_from(raw).unwrap_or(NICE_OFFSET),
    })
}
