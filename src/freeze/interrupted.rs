//! System calls that our stop has interrupted, and how they go on.

use crate::sys::ptrace::Registers;

const EINTR: u64 = 4_u64.wrapping_neg();
const ERESTARTSYS: u64 = 512_u64.wrapping_neg();
const ERESTARTNOINTR: u64 = 513_u64.wrapping_neg();
const ERESTARTNOHAND: u64 = 514_u64.wrapping_neg();
const ERESTART_RESTARTBLOCK: u64 = 516_u64.wrapping_neg();
const SYSCALL_INSTRUCTION_BYTES: u64 = 2;

/// How the kernel would take an interrupted system call up again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Restart {
    /// The thread was not in a system call, or the call was complete.
    None,
    /// The call is made again with the same arguments.
    SameCall,
    /// `restart_syscall(2)` goes on with what the kernel remembers.
    RestartBlock,
}

/// Tells from the registers of a thread at an event stop how its system call goes on.
#[must_use]
pub fn restart_of(registers: &Registers) -> Restart {
    if registers.orig_rax.cast_signed() < 0 {
        return Restart::None;
    }
    match registers.rax {
        ERESTARTSYS | ERESTARTNOINTR | ERESTARTNOHAND => Restart::SameCall,
        ERESTART_RESTARTBLOCK => Restart::RestartBlock,
        _ => Restart::None,
    }
}

/// The registers with which the thread would be back in user mode, before its call is restarted.
#[must_use]
pub fn restarted(registers: &Registers) -> Registers {
    match restart_of(registers) {
        Restart::None => *registers,
        Restart::SameCall => before_call(registers, registers.orig_rax),
        Restart::RestartBlock => before_call(registers, libc::SYS_restart_syscall.unsigned_abs()),
    }
}

/// The registers in front of the system call instruction that was just left, about to make
/// call `number`.
#[must_use]
fn before_call(registers: &Registers, number: u64) -> Registers {
    Registers {
        rax: number,
        rip: registers.rip - SYSCALL_INSTRUCTION_BYTES,
        orig_rax: u64::MAX,
        ..*registers
    }
}

/// Makes the kernel take up a call that it would end with `EINTR` because of our stop.
///
/// Nearly every call is restarted by the kernel after a stop, or goes on with the time that
/// was left. A few are not; where they would have waited for ever, making the call again is
/// the same as never having been interrupted. With a time-out it would wait longer than it was
/// told, so that such a call returns `EINTR`, as signal(7) says it does after a stop.
///
/// Returns whether the registers were changed. They say `ERESTARTNOHAND` then: should a
/// handler run when the thread goes on, the call returns `EINTR` after all.
pub fn undo_interruption(registers: &mut Registers) -> bool {
    let Ok(call) = i64::try_from(registers.orig_rax) else {
        return false;
    };
    if registers.rax != EINTR {
        return false;
    }
    let low_half = |word: u64| word & u64::from(u32::MAX);
    let waits_for_ever = match call {
        libc::SYS_epoll_wait | libc::SYS_epoll_pwait => {
            low_half(registers.r10) == u64::from(u32::MAX)
        }
        libc::SYS_epoll_pwait2 | libc::SYS_semtimedop => registers.r10 == 0,
        libc::SYS_rt_sigtimedwait => registers.rdx == 0,
        libc::SYS_semop => true,
        _ => false,
    };
    if waits_for_ever {
        registers.rax = ERESTARTNOHAND;
    }
    waits_for_ever
}

#[cfg(test)]
mod tests {
    use super::*;

    fn registers() -> Registers {
        let mut registers = crate::sys::ptrace::no_registers();
        registers.orig_rax = u64::MAX;
        registers.rip = 0x1000;
        registers
    }

    #[test]
    fn an_interrupted_call_is_made_again() {
        let mut before = registers();
        before.orig_rax = 0;
        before.rax = ERESTARTSYS;
        let after = restarted(&before);
        assert_eq!((after.rax, after.rip), (0, 0xffe));
    }

    #[test]
    fn a_sleep_goes_on_through_restart_syscall() {
        let mut before = registers();
        before.orig_rax = 35;
        before.rax = ERESTART_RESTARTBLOCK;
        assert_eq!(restart_of(&before), Restart::RestartBlock);
        assert_eq!(restarted(&before).rax, 219);
    }

    #[test]
    fn a_register_that_looks_like_a_restart_is_left_alone_outside_of_calls() {
        let mut before = registers();
        before.rax = ERESTARTSYS;
        assert_eq!(restarted(&before).rip, before.rip);
    }

    #[test]
    fn only_a_wait_without_end_is_taken_up_again() {
        let mut waiting = registers();
        waiting.orig_rax = libc::SYS_epoll_wait.unsigned_abs();
        waiting.rax = EINTR;
        waiting.r10 = 0xffff_ffff;
        assert!(undo_interruption(&mut waiting));
        assert_eq!(restart_of(&waiting), Restart::SameCall);
        waiting.rax = EINTR;
        waiting.r10 = 60;
        assert!(!undo_interruption(&mut waiting));
        assert_eq!(waiting.rax, EINTR);
    }
}
