//! The two pieces of machine code that are made anew for each thread.
//!
//! *Epilogue*: puts the general registers back and jumps to where the thread was. It leads
//! back into an interrupted call the way the kernel would have, with the original number or
//! `restart_syscall`, so that a task abandoned by its dumper still sleeps on correctly.
//!
//! *Entry*: one system call, then the signal mask, then an epilogue. It is what the thread
//! runs to map and to unmap the region the interpreter lives in, from a place that outlasts
//! that region: the zero padding behind the vdso's text. It also records where the region
//! is, so that a later dump finds what a killed one left behind.

use crate::freeze::interrupted::restarted;
use crate::sys::ptrace::Registers;

/// Bytes reserved for one epilogue.
pub(super) const EPILOGUE_BYTES: usize = 256;
/// Bytes reserved for the entry.
pub(super) const ENTRY_BYTES: usize = 512;

const ENTRY_MAGIC: &[u8; 16] = b"dedump entry 1\0\0";
/// Magic, then start and length of the region, then code.
const ENTRY_CODE_OFFSET: usize = 32;

/// Machine code that loads all general registers but `rsp`, which the stub never changes,
/// the arithmetic flags, and jumps.
pub(super) fn epilogue(registers: &Registers) -> Vec<u8> {
    const OVERFLOW: u64 = 1 << 11;
    const DIRECTION: u64 = 1 << 10;
    const MOV_EAX: u8 = 0xb8;
    const ADD_AL_1: [u8; 2] = [0x04, 0x01];
    const SAHF: u8 = 0x9e;
    const CLD: u8 = 0xfc;
    const STD: u8 = 0xfd;
    const JMP_NEXT_WORD: [u8; 6] = [0xff, 0x25, 0, 0, 0, 0];

    let go_on = restarted(registers);
    let mut code = Vec::with_capacity(EPILOGUE_BYTES);

    // al + 1 overflows or not, sahf loads the low flags from ah: no stack is touched.
    let al = if go_on.eflags & OVERFLOW == 0 {
        0
    } else {
        0x7f
    };
    code.extend_from_slice(&[MOV_EAX, al, go_on.eflags.to_le_bytes()[0], 0, 0]);
    code.extend_from_slice(&ADD_AL_1);
    code.push(SAHF);
    code.push(if go_on.eflags & DIRECTION == 0 {
        CLD
    } else {
        STD
    });
    for (register, value) in [
        (0, go_on.rax),
        (1, go_on.rcx),
        (2, go_on.rdx),
        (3, go_on.rbx),
        (5, go_on.rbp),
        (6, go_on.rsi),
        (7, go_on.rdi),
        (8, go_on.r8),
        (9, go_on.r9),
        (10, go_on.r10),
        (11, go_on.r11),
        (12, go_on.r12),
        (13, go_on.r13),
        (14, go_on.r14),
        (15, go_on.r15),
    ] {
        load(&mut code, register, value);
    }
    code.extend_from_slice(&JMP_NEXT_WORD);
    code.extend_from_slice(&go_on.rip.to_le_bytes());
    code
}

/// `mov register, value` with a 64-bit constant.
fn load(code: &mut Vec<u8>, register: u8, value: u64) {
    const REX_W: u8 = 0x48;
    const REX_B: u8 = 0x01;
    const MOV_IMMEDIATE: u8 = 0xb8;
    code.push(REX_W | if register < 8 { 0 } else { REX_B });
    code.push(MOV_IMMEDIATE + (register & 7));
    code.extend_from_slice(&value.to_le_bytes());
}

/// A region of our own in a task's memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Span {
    pub(super) start: u64,
    pub(super) len: u64,
}

/// The bytes of the entry as they stand at `address`.
pub(super) fn entry(address: u64, region: Span, mask: u64, registers: &Registers) -> Vec<u8> {
    const SYSCALL: [u8; 2] = [0x0f, 0x05];
    const RSI: u8 = 6;
    let mask_offset = ENTRY_BYTES - 8;

    let mut bytes = ENTRY_MAGIC.to_vec();
    bytes.extend_from_slice(&region.start.to_le_bytes());
    bytes.extend_from_slice(&region.len.to_le_bytes());
    bytes.extend_from_slice(&SYSCALL);
    bytes.extend_from_slice(&[0xb8, 14, 0, 0, 0]); // mov eax, rt_sigprocmask
    bytes.extend_from_slice(&[0xbf, 2, 0, 0, 0]); // mov edi, SIG_SETMASK
    load(&mut bytes, RSI, address + mask_offset as u64);
    bytes.extend_from_slice(&[0x31, 0xd2]); // xor edx, edx
    bytes.extend_from_slice(&[0x41, 0xba, 8, 0, 0, 0]); // mov r10d, 8
    bytes.extend_from_slice(&SYSCALL);
    bytes.extend_from_slice(&epilogue(registers));
    bytes.resize(mask_offset, 0);
    bytes.extend_from_slice(&mask.to_le_bytes());
    bytes
}

/// Where the entry's code starts, given where the entry starts.
pub(super) fn entry_point(address: u64) -> u64 {
    address + ENTRY_CODE_OFFSET as u64
}

/// What stands where an entry would go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Slack {
    /// Nothing but zeros: free.
    Free,
    /// The entry of a dumper that died, and the region it may have left.
    LeftBehind(Span),
    /// Something of the task's own.
    Taken,
}

/// Looks at the bytes where an entry would go.
pub(super) fn slack(bytes: &[u8; ENTRY_BYTES]) -> Slack {
    let word = |at: usize| {
        let mut word = [0; 8];
        word.copy_from_slice(&bytes[at..at + 8]);
        u64::from_le_bytes(word)
    };
    if bytes.iter().all(|byte| *byte == 0) {
        Slack::Free
    } else if bytes.starts_with(ENTRY_MAGIC) {
        Slack::LeftBehind(Span {
            start: word(16),
            len: word(24),
        })
    } else {
        Slack::Taken
    }
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
    fn an_entry_fits_and_is_recognised() {
        let span = Span {
            start: 0x20_0000,
            len: 0x3000,
        };
        let bytes = entry(0x7000, span, 5, &registers());
        let bytes: [u8; ENTRY_BYTES] = bytes.try_into().expect("the entry fills its room");
        assert_eq!(slack(&bytes), Slack::LeftBehind(span));
        assert_eq!(slack(&[0; ENTRY_BYTES]), Slack::Free);
        assert_eq!(slack(&[7; ENTRY_BYTES]), Slack::Taken);
        assert!(epilogue(&registers()).len() <= EPILOGUE_BYTES);
    }
}
