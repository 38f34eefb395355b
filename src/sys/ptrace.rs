//! `ptrace(2)` requests, waiting for traced threads, and `get_robust_list(2)`.
//!
//! Every request needs the calling *thread* to be the tracer, and all but
//! [`interrupt`] need the tracee to be stopped.
#![allow(unsafe_code)]

use std::ptr;

use nix::errno::Errno;

use crate::ids::Tid;

/// The general registers of an x86-64 thread, as `PTRACE_GETREGS` gives them.
pub type Registers = libc::user_regs_struct;

/// Syscall stops report `SIGTRAP | 0x80`, so that they cannot be taken for a signal.
pub const O_TRACESYSGOOD: u64 = libc::PTRACE_O_TRACESYSGOOD as u64;
/// System calls pass the task's seccomp filters unseen while it is traced; needs `CAP_SYS_ADMIN`.
pub const O_SUSPEND_SECCOMP: u64 = 1 << 21;

/// `NT_PRSTATUS`: the general registers.
pub const NT_PRSTATUS: usize = 1;
/// `NT_X86_XSTATE`: the XSAVE area in standard format.
pub const NT_X86_XSTATE: usize = 0x202;

const PTRACE_GETSIGMASK: libc::c_uint = 0x420a;
const PTRACE_SETSIGMASK: libc::c_uint = 0x420b;
const PTRACE_PEEKSIGINFO: libc::c_uint = 0x4209;
const PTRACE_GET_RSEQ_CONFIGURATION: libc::c_uint = 0x420f;
const PTRACE_GET_SYSCALL_USER_DISPATCH_CONFIG: libc::c_uint = 0x4211;
const PTRACE_GET_THREAD_AREA: libc::c_uint = 25;
const PTRACE_SECCOMP_GET_FILTER: libc::c_uint = 0x420c;
const PTRACE_SECCOMP_GET_METADATA: libc::c_uint = 0x420d;
const PTRACE_EVENT_STOP: i32 = 128;
const SIGSET_BYTES: usize = 8;

/// What a traced thread was last seen doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Seen {
    /// Trapped by `PTRACE_INTERRUPT`; nothing is pending because of it.
    EventStop,
    /// In a group stop by this signal: it was stopped before, or is being stopped now.
    GroupStop(i32),
    /// About to have this signal delivered.
    Signal(i32),
    /// At the entry or the exit of a system call.
    SyscallStop,
    /// Gone: exited or killed, with its wait status.
    Gone(i32),
}

fn request(
    request: libc::c_uint,
    tid: Tid,
    addr: usize,
    data: *mut libc::c_void,
) -> Result<libc::c_long, Errno> {
    // SAFETY: `data` is null, an integer in disguise, or points to a live buffer of the size
    // which the request of the calling function fills; all callers are in this file.
    Errno::result(unsafe { libc::ptrace(request, tid.0, addr, data) })
}

fn number(value: u64) -> *mut libc::c_void {
    ptr::without_provenance_mut(usize::try_from(value).unwrap_or(usize::MAX))
}

/// `PTRACE_SEIZE`: becomes the tracer without stopping the thread.
///
/// # Errors
/// `EPERM` traced by someone else, a zombie, a kernel thread, or no permission; `ESRCH` gone.
pub fn seize(tid: Tid, options: u64) -> Result<(), Errno> {
    request(libc::PTRACE_SEIZE, tid, 0, number(options)).map(drop)
}

/// `PTRACE_SETOPTIONS`: replaces the options given to [`seize`].
///
/// # Errors
/// `EPERM` for [`O_SUSPEND_SECCOMP`] without `CAP_SYS_ADMIN` or by a filtered tracer.
pub fn set_options(tid: Tid, options: u64) -> Result<(), Errno> {
    request(libc::PTRACE_SETOPTIONS, tid, 0, number(options)).map(drop)
}

/// `PTRACE_INTERRUPT`: asks a seized thread to stop; [`wait`] tells when it has.
///
/// # Errors
/// `ESRCH` gone; `EIO` not seized.
pub fn interrupt(tid: Tid) -> Result<(), Errno> {
    request(libc::PTRACE_INTERRUPT, tid, 0, ptr::null_mut()).map(drop)
}

/// `PTRACE_CONT`: lets a stopped thread run, delivering `signal` if nonzero.
///
/// # Errors
/// `ESRCH` not stopped, or gone.
pub fn cont(tid: Tid, signal: i32) -> Result<(), Errno> {
    request(
        libc::PTRACE_CONT,
        tid,
        0,
        number(u64::from(signal.unsigned_abs())),
    )
    .map(drop)
}

/// `PTRACE_SYSCALL`: lets a stopped thread run to the next entry or exit of a system call.
///
/// # Errors
/// `ESRCH` not stopped, or gone.
pub fn cont_to_syscall(tid: Tid) -> Result<(), Errno> {
    request(libc::PTRACE_SYSCALL, tid, 0, ptr::null_mut()).map(drop)
}

/// `PTRACE_DETACH`: ends tracing. A thread whose group is stopped stops again by itself,
/// without telling its parent a second time.
///
/// # Errors
/// `ESRCH` not stopped, or gone.
pub fn detach(tid: Tid) -> Result<(), Errno> {
    request(libc::PTRACE_DETACH, tid, 0, ptr::null_mut()).map(drop)
}

/// All registers zero, to be filled in.
#[must_use]
pub fn no_registers() -> Registers {
    // SAFETY: plain integers, for which zero is a value.
    unsafe { std::mem::zeroed() }
}

/// `PTRACE_GETREGS`.
///
/// # Errors
/// `ESRCH` not stopped, or gone.
pub fn registers(tid: Tid) -> Result<Registers, Errno> {
    let mut registers = no_registers();
    request(
        libc::PTRACE_GETREGS,
        tid,
        0,
        ptr::from_mut(&mut registers).cast(),
    )?;
    Ok(registers)
}

/// `PTRACE_SETREGS`, `orig_rax` included: what it holds decides whether the kernel
/// restarts an interrupted system call when the thread goes on.
///
/// # Errors
/// `ESRCH` not stopped, or gone; `EIO` a value the CPU would not take.
pub fn set_registers(tid: Tid, registers: &Registers) -> Result<(), Errno> {
    let data = ptr::from_ref(registers).cast_mut().cast();
    request(libc::PTRACE_SETREGS, tid, 0, data).map(drop)
}

/// `PTRACE_GETREGSET` into `buffer`; returns the bytes the kernel filled.
///
/// # Errors
/// `ESRCH` not stopped, or gone; `ENODEV` the CPU lacks that set.
pub fn register_set(tid: Tid, note_type: usize, buffer: &mut [u8]) -> Result<usize, Errno> {
    let mut iov = libc::iovec {
        iov_base: buffer.as_mut_ptr().cast(),
        iov_len: buffer.len(),
    };
    request(
        libc::PTRACE_GETREGSET,
        tid,
        note_type,
        ptr::from_mut(&mut iov).cast(),
    )?;
    Ok(iov.iov_len)
}

/// `PTRACE_GETSIGMASK`: the blocked signals, bit n-1 for signal n. Inside `sigsuspend(2)` and
/// its like this is the mask that comes back afterwards.
///
/// # Errors
/// `ESRCH` not stopped, or gone.
pub fn signal_mask(tid: Tid) -> Result<u64, Errno> {
    let mut mask = 0_u64;
    request(
        PTRACE_GETSIGMASK,
        tid,
        SIGSET_BYTES,
        ptr::from_mut(&mut mask).cast(),
    )?;
    Ok(mask)
}

/// `PTRACE_SETSIGMASK`.
///
/// # Errors
/// `ESRCH` not stopped, or gone.
pub fn set_signal_mask(tid: Tid, mut mask: u64) -> Result<(), Errno> {
    request(
        PTRACE_SETSIGMASK,
        tid,
        SIGSET_BYTES,
        ptr::from_mut(&mut mask).cast(),
    )
    .map(drop)
}

/// The size of `siginfo_t`.
pub const SIGINFO_BYTES: usize = 128;

/// `PTRACE_PEEKSIGINFO`: the queued signals of the thread, or of its process if `shared`,
/// each as the raw `siginfo_t`, oldest first. Nothing is dequeued.
///
/// # Errors
/// `ESRCH` not stopped, or gone.
pub fn queued_signals(tid: Tid, shared: bool) -> Result<Vec<[u8; SIGINFO_BYTES]>, Errno> {
    const BATCH: i32 = 32;
    #[repr(C)]
    struct PeekArgs {
        offset: u64,
        flags: u32,
        count: i32,
    }
    let mut all = Vec::new();
    loop {
        let mut batch = [[0_u8; SIGINFO_BYTES]; BATCH as usize];
        let mut arguments = PeekArgs {
            offset: all.len() as u64,
            flags: u32::from(shared),
            count: BATCH,
        };
        let address = ptr::from_mut(&mut arguments) as usize;
        let filled = request(PTRACE_PEEKSIGINFO, tid, address, batch.as_mut_ptr().cast())?;
        let filled = usize::try_from(filled).unwrap_or(0).min(batch.len());
        all.extend_from_slice(&batch[..filled]);
        if filled < batch.len() {
            return Ok(all);
        }
    }
}

/// Where a thread's restartable sequences are registered.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct RseqConfiguration {
    /// Address of its `struct rseq`; 0 when not registered.
    pub address: u64,
    /// Size of that struct, in bytes.
    pub size_bytes: u32,
    /// The word that must stand before an abort handler.
    pub signature: u32,
    flags: u32,
    pad: u32,
}

/// `PTRACE_GET_RSEQ_CONFIGURATION`, since Linux 5.13.
///
/// # Errors
/// `ESRCH` not stopped, or gone; `EIO` a kernel without rseq.
pub fn rseq_configuration(tid: Tid) -> Result<RseqConfiguration, Errno> {
    let mut configuration = RseqConfiguration::default();
    let data = ptr::from_mut(&mut configuration).cast();
    request(
        PTRACE_GET_RSEQ_CONFIGURATION,
        tid,
        size_of::<RseqConfiguration>(),
        data,
    )?;
    Ok(configuration)
}

/// `PTRACE_GET_SYSCALL_USER_DISPATCH_CONFIG`: whether system calls of this thread are turned
/// into `SIGSYS`, since Linux 6.4.
///
/// # Errors
/// `ESRCH` not stopped, or gone; `EIO` a kernel without it.
pub fn dispatches_syscalls(tid: Tid) -> Result<bool, Errno> {
    let mut configuration = [0_u64; 4];
    let data = configuration.as_mut_ptr().cast();
    let size = size_of_val(&configuration);
    request(PTRACE_GET_SYSCALL_USER_DISPATCH_CONFIG, tid, size, data)?;
    Ok(configuration[0] != 0)
}

/// `PTRACE_SECCOMP_GET_FILTER`: the instructions of a thread's filter, 8 bytes each; filter 0
/// is its oldest.
///
/// # Errors
/// `ENOENT` it has no such filter; `EACCES` without `CAP_SYS_ADMIN` or by a filtered tracer;
/// `EMEDIUMTYPE` not a classic BPF program; `EINVAL` the thread has no filters.
pub fn seccomp_filter(tid: Tid, index: usize) -> Result<Vec<u8>, Errno> {
    const INSTRUCTION_BYTES: usize = 8;
    let count = request(PTRACE_SECCOMP_GET_FILTER, tid, index, ptr::null_mut())?;
    let count = usize::try_from(count).map_err(|_| Errno::EINVAL)?;
    let mut instructions = vec![0_u8; count * INSTRUCTION_BYTES];
    let data = instructions.as_mut_ptr().cast();
    request(PTRACE_SECCOMP_GET_FILTER, tid, index, data)?;
    Ok(instructions)
}

/// `PTRACE_SECCOMP_GET_METADATA`: `SECCOMP_FILTER_FLAG_*` that a filter was installed with, as
/// far as the kernel remembers them.
///
/// # Errors
/// As [`seccomp_filter`]; `EIO` a kernel before 4.16.
pub fn seccomp_filter_flags(tid: Tid, index: usize) -> Result<u32, Errno> {
    let mut metadata = [index as u64, 0];
    let data = metadata.as_mut_ptr().cast();
    request(
        PTRACE_SECCOMP_GET_METADATA,
        tid,
        size_of_val(&metadata),
        data,
    )?;
    u32::try_from(metadata[1]).map_err(|_| Errno::ERANGE)
}

/// One slot of the GDT that belongs to a thread (`struct user_desc`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct UserDesc {
    /// The slot: 12, 13 or 14.
    pub entry_number: u32,
    /// Base address.
    pub base_addr: u32,
    /// Limit, in bytes or pages.
    pub limit: u32,
    /// The bit fields in the order of `struct user_desc`: seg_32bit, contents (2 bits),
    /// read_exec_only, limit_in_pages, seg_not_present, useable.
    pub bits: u32,
}

/// `PTRACE_GET_THREAD_AREA`.
///
/// # Errors
/// `ESRCH` not stopped, or gone; `EINVAL` no such slot.
pub fn thread_area(tid: Tid, slot: u32) -> Result<UserDesc, Errno> {
    let mut desc = UserDesc::default();
    request(
        PTRACE_GET_THREAD_AREA,
        tid,
        slot as usize,
        ptr::from_mut(&mut desc).cast(),
    )?;
    Ok(desc)
}

/// `get_robust_list(2)`: head address and its length in bytes; 0 and 0 when none is set.
///
/// # Errors
/// `ESRCH` gone; `EPERM` no ptrace access.
pub fn robust_list(tid: Tid) -> Result<(u64, u64), Errno> {
    let (mut head, mut len) = (0_u64, 0_u64);
    // SAFETY: both pointers are to live 64-bit words, as the call wants on x86-64.
    let answer = unsafe {
        libc::syscall(
            libc::SYS_get_robust_list,
            tid.0,
            ptr::from_mut(&mut head),
            ptr::from_mut(&mut len),
        )
    };
    Errno::result(answer)?;
    Ok((head, if head == 0 { 0 } else { len }))
}

/// `wait4(tid, WNOHANG | __WALL)`: what the thread reports, `None` while it reports nothing.
///
/// # Errors
/// `ECHILD` the thread is neither traced by us nor our child.
pub fn wait(tid: Tid) -> Result<Option<Seen>, Errno> {
    let mut status = 0;
    // SAFETY: `status` is a live int; no rusage is asked for.
    let answer = unsafe {
        libc::wait4(
            tid.0,
            &raw mut status,
            libc::WNOHANG | libc::__WALL,
            ptr::null_mut(),
        )
    };
    if Errno::result(answer)? == 0 {
        return Ok(None);
    }
    if !libc::WIFSTOPPED(status) {
        return Ok(Some(Seen::Gone(status)));
    }
    let signal = libc::WSTOPSIG(status);
    Ok(Some(match status >> 16 {
        PTRACE_EVENT_STOP if signal == libc::SIGTRAP => Seen::EventStop,
        PTRACE_EVENT_STOP => Seen::GroupStop(signal),
        _ if signal == libc::SIGTRAP | 0x80 => Seen::SyscallStop,
        _ => Seen::Signal(signal),
    }))
}
