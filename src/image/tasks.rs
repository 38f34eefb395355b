//! Tasks as images: `core-`, `ids-`, `fs-`, `pstree`.

use super::proto;
use crate::collect::task::{Handler, Interval, Living, PosixTimer, Task};
use crate::collect::thread::{Capture, QueuedSignal, Thread};
use crate::error::{Error, Result};
use crate::freeze::interrupted::restarted_anew;
use crate::proc::timers::{Notify, Receiver};
use crate::sys::ptrace::{Registers, UserDesc};
use crate::sys::sched::{RESET_ON_FORK_BIT, Scheduling};
use crate::sys::xstate;

/// `march` of an x86-64 image.
const X86_64: i32 = 1;
/// `task_state` of a living process.
const TASK_ALIVE: u32 = 1;
/// `task_state` of a zombie.
const TASK_DEAD: u32 = 2;
/// `task_state` of a process in a group stop.
const TASK_STOPPED: u32 = 3;

/// The `pstree.img` entry of a task.
#[must_use]
pub fn pstree_entry(task: &Task, parent: u32) -> proto::PstreeEntry {
    let threads = match &task.living {
        Some(living) => living
            .threads
            .iter()
            .map(|thread| thread.capture.tid.number())
            .collect(),
        None => vec![task.pid.number()],
    };
    proto::PstreeEntry {
        pid: task.pid.number(),
        ppid: parent,
        pgid: task.stat.process_group.cast_unsigned(),
        sid: task.stat.session.cast_unsigned(),
        threads,
    }
}

/// The `core-` entry of a zombie.
#[must_use]
pub fn zombie_core(task: &Task) -> proto::CoreEntry {
    proto::CoreEntry {
        mtype: X86_64,
        tc: Some(proto::TaskCoreEntry {
            task_state: TASK_DEAD,
            exit_code: task.stat.exit_code.cast_unsigned(),
            comm: task.stat.comm.clone(),
            ..Default::default()
        }),
        ..Default::default()
    }
}

/// The `core-` entry of a leading thread.
///
/// # Errors
/// [`Error::Unsupported`] for CPU state without a field.
pub fn leader_core(task: &Task, living: &Living, thread: &Thread) -> Result<proto::CoreEntry> {
    let state = match living.group_stop {
        None => TASK_ALIVE,
        Some(_) => TASK_STOPPED,
    };
    let tc = proto::TaskCoreEntry {
        task_state: state,
        exit_code: 0,
        stop_signo: living.group_stop.map(i32::cast_unsigned),
        personality: living.personality,
        flags: task.stat.flags,
        blk_sigset: thread.capture.blocked,
        comm: task.stat.comm.clone(),
        timers: Some(timers(living)),
        rlimits: Some(proto::TaskRlimitsEntry {
            rlimits: living
                .limits
                .iter()
                .map(|&(cur, max)| proto::RlimitEntry { cur, max })
                .collect(),
        }),
        cg_set: Some(thread.cgroup_set),
        signals_s: Some(queue(&living.signals)),
        loginuid: Some(living.loginuid),
        oom_score_adj: Some(living.oom_score_adj),
        sigactions: living.handlers.iter().map(sigaction).collect(),
        child_subreaper: Some(living.child_subreaper),
        membarrier_registration_mask: (living.membarrier != 0).then_some(living.membarrier),
        ..Default::default()
    };
    let mut core = thread_core(thread)?;
    core.tc = Some(tc);
    // The leader's mask stands in the task part.
    if let Some(thread_core) = &mut core.thread_core {
        thread_core.blk_sigset = None;
    }
    Ok(core)
}

/// The `core-` entry of any thread but the leader.
///
/// # Errors
/// [`Error::Unsupported`] for CPU state without a field.
pub fn thread_core(thread: &Thread) -> Result<proto::CoreEntry> {
    let capture = &thread.capture;
    let (robust_head, robust_len) = capture.robust_list;
    Ok(proto::CoreEntry {
        mtype: X86_64,
        thread_info: Some(proto::ThreadInfoX86 {
            clear_tid_addr: thread.clear_tid_address,
            gpregs: registers(&restarted_anew(&capture.registers)),
            fpregs: fpregs(capture)?,
            tls: capture.tls.iter().map(user_desc).collect(),
        }),
        thread_core: Some(proto::ThreadCoreEntry {
            futex_rla: robust_head,
            futex_rla_len: u32::try_from(robust_len).unwrap_or(0),
            sched_nice: Some(thread.scheduling.nice),
            sched_policy: Some(policy(&thread.scheduling)),
            sched_prio: Some(thread.scheduling.priority),
            blk_sigset: Some(capture.blocked),
            sas: Some(proto::ThreadSasEntry {
                ss_sp: thread.altstack.sp,
                ss_size: thread.altstack.size_bytes,
                ss_flags: thread.altstack.flags,
            }),
            pdeath_sig: (thread.parent_death_signal != 0).then_some(thread.parent_death_signal),
            signals_p: Some(queue(&capture.signals)),
            creds: Some(creds(thread)),
            comm: Some(thread.status.name.clone()),
            rseq_entry: rseq(capture),
            cg_set: Some(thread.cgroup_set),
            ..Default::default()
        }),
        ..Default::default()
    })
}

/// The policy as `sched_setscheduler(2)` takes it.
fn policy(scheduling: &Scheduling) -> u32 {
    scheduling.policy | u32::from(scheduling.reset_on_fork) << RESET_ON_FORK_BIT
}

fn registers(r: &Registers) -> proto::UserX86RegsEntry {
    proto::UserX86RegsEntry {
        r15: r.r15,
        r14: r.r14,
        r13: r.r13,
        r12: r.r12,
        bp: r.rbp,
        bx: r.rbx,
        r11: r.r11,
        r10: r.r10,
        r9: r.r9,
        r8: r.r8,
        ax: r.rax,
        cx: r.rcx,
        dx: r.rdx,
        si: r.rsi,
        di: r.rdi,
        orig_ax: r.orig_rax,
        ip: r.rip,
        cs: r.cs,
        flags: r.eflags,
        sp: r.rsp,
        ss: r.ss,
        fs_base: r.fs_base,
        gs_base: r.gs_base,
        ds: r.ds,
        es: r.es,
        fs: r.fs,
        gs: r.gs,
        mode: Some(1),
    }
}

/// Cuts the XSAVE area into the fields of the image.
fn fpregs(capture: &Capture) -> Result<proto::UserX86FpregsEntry> {
    let area = capture.xstate.as_slice();
    let short = || {
        Error::unsupported(
            capture.tid,
            "a thread whose XSAVE area is too short",
            "update dedump",
        )
    };
    let present = xstate::present(area).ok_or_else(short)?;
    let word16 = |at: usize| u32::from(u16::from_le_bytes([area[at], area[at + 1]]));
    let word32 = |at: usize| le32(&area[at..at + 4]);
    let word64 = |at: usize| le64(&area[at..at + 8]);
    // What is in its initial state may hold anything: the image wants zeros.
    let component = |number: u32| -> Result<Option<Vec<u8>>> {
        let Some(place) = xstate::component(number) else {
            return Ok(None);
        };
        let bytes = area
            .get(place.offset..place.offset + place.len)
            .ok_or_else(short)?;
        Ok(Some(if present & 1 << number == 0 {
            vec![0; place.len]
        } else {
            bytes.to_vec()
        }))
    };
    let words32 = |bytes: Option<Vec<u8>>| {
        bytes
            .unwrap_or_default()
            .chunks_exact(4)
            .map(le32)
            .collect::<Vec<u32>>()
    };
    let words64 = |bytes: Option<Vec<u8>>| {
        bytes
            .unwrap_or_default()
            .chunks_exact(8)
            .map(le64)
            .collect::<Vec<u64>>()
    };
    Ok(proto::UserX86FpregsEntry {
        cwd: word16(0),
        swd: word16(2),
        twd: u32::from(area[4]),
        fop: word16(6),
        rip: word64(8),
        rdp: word64(16),
        mxcsr: word32(24),
        mxcsr_mask: word32(28),
        st_space: area[32..160].chunks_exact(4).map(le32).collect(),
        xmm_space: area[160..416].chunks_exact(4).map(le32).collect(),
        padding: Vec::new(),
        xsave: Some(proto::UserX86XsaveEntry {
            xstate_bv: present & xstate::kept(),
            ymmh_space: words32(component(2)?),
            bndreg_state: words64(component(3)?),
            bndcsr_state: words64(component(4)?),
            opmask_reg: words64(component(5)?),
            zmm_upper: words64(component(6)?),
            hi16_zmm: words64(component(7)?),
            pkru: words32(component(xstate::PKRU)?),
            cet: None,
        }),
    })
}

fn le32(bytes: &[u8]) -> u32 {
    bytes
        .iter()
        .rev()
        .fold(0, |word, byte| word << 8 | u32::from(*byte))
}

fn le64(bytes: &[u8]) -> u64 {
    bytes
        .iter()
        .rev()
        .fold(0, |word, byte| word << 8 | u64::from(*byte))
}

fn user_desc(desc: &UserDesc) -> proto::UserDescT {
    let bit = |number: u32| desc.bits & 1 << number != 0;
    proto::UserDescT {
        entry_number: desc.entry_number,
        base_addr: desc.base_addr,
        limit: desc.limit,
        seg_32bit: bit(0),
        contents_l: bit(1),
        contents_h: bit(2),
        read_exec_only: bit(3),
        limit_in_pages: bit(4),
        seg_not_present: bit(5),
        usable: bit(6),
    }
}

fn creds(thread: &Thread) -> proto::CredsEntry {
    let status = &thread.status;
    let halves = |set: u64| vec![(set & 0xffff_ffff) as u32, (set >> 32) as u32];
    let mut groups = status.groups.clone();
    groups.sort_unstable();
    proto::CredsEntry {
        uid: status.uids.real,
        gid: status.gids.real,
        euid: status.uids.effective,
        egid: status.gids.effective,
        suid: status.uids.saved,
        sgid: status.gids.saved,
        fsuid: status.uids.filesystem,
        fsgid: status.gids.filesystem,
        cap_inh: halves(status.capabilities.inheritable),
        cap_prm: halves(status.capabilities.permitted),
        cap_eff: halves(status.capabilities.effective),
        cap_bnd: halves(status.capabilities.bounding),
        cap_amb: halves(status.capabilities.ambient),
        secbits: thread.securebits,
        groups,
        no_new_privs: status.no_new_privileges.then_some(1),
        ..Default::default()
    }
}

fn rseq(capture: &Capture) -> Option<proto::RseqEntry> {
    (capture.rseq.address != 0).then_some(proto::RseqEntry {
        rseq_abi_pointer: capture.rseq.address,
        rseq_abi_size: capture.rseq.size_bytes,
        signature: capture.rseq.signature,
        rseq_cs_pointer: capture.rseq_section,
    })
}

fn queue(signals: &[QueuedSignal]) -> proto::SignalQueueEntry {
    let signals = signals
        .iter()
        .map(|signal| proto::SiginfoEntry {
            siginfo: signal.to_vec(),
        })
        .collect();
    proto::SignalQueueEntry { signals }
}

fn sigaction(handler: &Handler) -> proto::SaEntry {
    proto::SaEntry {
        sigaction: handler.handler,
        flags: handler.flags,
        restorer: handler.restorer,
        mask: handler.mask,
        compat_sigaction: Some(false),
        mask_extended: None,
    }
}

fn timers(living: &Living) -> proto::TaskTimersEntry {
    let [real, virt, prof] = living.itimers.map(itimer);
    proto::TaskTimersEntry {
        real,
        virt,
        prof,
        posix: living.timers.iter().map(posix_timer).collect(),
    }
}

fn itimer(timer: Interval) -> proto::ItimerEntry {
    proto::ItimerEntry {
        isec: timer.interval.0,
        iusec: timer.interval.1,
        vsec: timer.value.0,
        vusec: timer.value.1,
    }
}

fn posix_timer(timer: &PosixTimer) -> proto::PosixTimerEntry {
    let (notify, thread) = match (timer.line.notify, timer.line.receiver) {
        (Notify::Signal, Receiver::Process(_)) => (libc::SIGEV_SIGNAL, None),
        (Notify::Signal, Receiver::Thread(tid)) => (libc::SIGEV_THREAD_ID, Some(tid)),
        (Notify::None, _) => (libc::SIGEV_NONE, None),
        (Notify::Thread, _) => (libc::SIGEV_THREAD, None),
    };
    proto::PosixTimerEntry {
        it_id: timer.line.id,
        clock_id: timer.line.clock.cast_unsigned(),
        si_signo: timer.line.signal.cast_unsigned(),
        it_sigev_notify: notify.cast_unsigned(),
        sival_ptr: timer.line.value,
        overrun: timer.overrun,
        isec: timer.setting.interval.0,
        insec: timer.setting.interval.1,
        vsec: timer.setting.value.0,
        vnsec: timer.setting.value.1,
        notify_thread_id: thread,
    }
}
