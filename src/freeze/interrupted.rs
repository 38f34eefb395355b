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

/// The registers with which a copy of the thread starts that has no kernel state of its own: an
/// interrupted call is made again, unless it would then wait longer than it was told. Such a call
/// returns `EINTR`, since what was left of its time is lost.
#[must_use]
pub fn restarted_anew(registers: &Registers) -> Registers {
    match restart_of(registers) {
        Restart::None => *registers,
        // The number of the call stays: it tells a restorer that the thread was in one.
        Restart::SameCall => Registers {
            orig_rax: registers.orig_rax,
            ..restarted(registers)
        },
        Restart::RestartBlock if is_told_the_end_of_its_wait(registers) => Registers {
            orig_rax: registers.orig_rax,
            ..before_call(registers, registers.orig_rax)
        },
        Restart::RestartBlock => Registers {
            rax: EINTR,
            ..*registers
        },
    }
}

/// Whether a call with a restart block would wait until the same moment if it were made anew:
/// it waits for ever, or until a moment that it names.
fn is_told_the_end_of_its_wait(registers: &Registers) -> bool {
    const FUTEX_COMMAND: u64 = 0x7f;
    let Ok(call) = i64::try_from(registers.orig_rax) else {
        return false;
    };
    match call {
        // A negative number of milliseconds.
        libc::SYS_poll => registers.rdx & 1 << 31 != 0,
        libc::SYS_futex => {
            registers.rsi & FUTEX_COMMAND == u64::from(libc::FUTEX_WAIT_BITSET.unsigned_abs())
        }
        _ => false,
    }
}

/// Makes the kernel take up a call that it would end with `EINTR` because of our stop.
///
/// Nearly every call is restarted by the kernel after a stop, or goes on with the time that
/// was left. A few are not; where they would have waited for ever, making the call again is
/// the same as never having been interrupted. With a time-out it would wait longer than it was
/// told, so that such a call returns `EINTR`, as signal(7) says it does after a stop.
///
/// A call with a restart block whose end does not depend on when it was made is made again, too:
/// once it has gone on through `restart_syscall`, the next dump would not see which call it is.
///
/// Returns whether the registers were changed. They say `ERESTARTNOHAND` then: should a
/// handler run when the thread goes on, the call returns `EINTR` after all.
pub fn undo_interruption(registers: &mut Registers) -> bool {
    let Ok(call) = i64::try_from(registers.orig_rax) else {
        return false;
    };
    if restart_of(registers) == Restart::RestartBlock && is_told_the_end_of_its_wait(registers) {
        registers.rax = ERESTARTNOHAND;
        return true;
    }
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
    fn a_copy_makes_a_call_again_whose_end_is_told() {
        let mut poll = registers();
        poll.orig_rax = libc::SYS_poll.unsigned_abs();
        poll.rax = ERESTART_RESTARTBLOCK;
        poll.rdx = 0xffff_ffff;
        let again = restarted_anew(&poll);
        assert_eq!(
            (again.rax, again.rip, again.orig_rax),
            (poll.orig_rax, 0xffe, poll.orig_rax)
        );
        let mut taken_up = poll;
        assert!(undo_interruption(&mut taken_up));
        assert_eq!(restart_of(&taken_up), Restart::SameCall);
        poll.rdx = 1000;
        assert!(!undo_interruption(&mut poll));
        let ended = restarted_anew(&poll);
        assert_eq!((ended.rax, ended.rip), (EINTR, 0x1000));
        let mut wait = poll;
        wait.orig_rax = libc::SYS_futex.unsigned_abs();
        wait.rsi = 9 | 128;
        assert_eq!(restarted_anew(&wait).rip, 0xffe);
        wait.rsi = 128;
        assert_eq!(restarted_anew(&wait).rax, EINTR);
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
