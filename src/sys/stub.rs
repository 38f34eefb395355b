//! The code that runs inside a stopped task: bytes only, never called from here.
//!
//! It uses no stack and no vector register, so that a signal frame may land at the task's
//! own stack pointer at any moment and the epilogue has only general registers to put back.
//! It looks at nothing but the block its registers point to; [`crate::inject`] lays that out.
#![allow(unsafe_code)]

use std::arch::global_asm;

// The interpreter. In: rbx = first call record, r12 = control words.
//
// A call record is eight words: number, six arguments, result; number -1 ends the list. The
// upper half of the first word says how many records are skipped after a result other than 0:
// it lets a child and its parent, who both come back from one clone, go different ways.
// Control words: [0] phase, [1] tracer's pid, [2] address of a local iovec, [3] address of a
// remote iovec, [4] address of the signal mask to put back, [5] address of the epilogue,
// [6] and [7] a timespec.
//
// After the last call the task waits to be interrupted. It spins a little, then sleeps for 32
// milliseconds at a time, so that a thousand waiting tasks do not keep the processors busy (in
// pselect6, which has no restart state to disturb), and asks whether its tracer lives:
// process_vm_readv of one byte answers ESRCH once the dumper's memory is gone, zombie or not, and
// anything else while it is there. Without a tracer the task puts its own signal mask back and
// leaves through the epilogue.
global_asm!(
    ".pushsection .rodata.dedump_stub, \"a\"",
    ".globl dedump_stub_start, dedump_stub_end",
    "dedump_stub_start:",
    "2:  mov eax, [rbx]",
    "    cmp eax, -1",
    "    je 3f",
    "    mov rdi, [rbx + 8]",
    "    mov rsi, [rbx + 16]",
    "    mov rdx, [rbx + 24]",
    "    mov r10, [rbx + 32]",
    "    mov r8,  [rbx + 40]",
    "    mov r9,  [rbx + 48]",
    "    syscall",
    "    mov [rbx + 56], rax",
    "    test rax, rax",
    "    jz 6f",
    "    mov ecx, [rbx + 4]",
    "    shl rcx, 6",
    "    add rbx, rcx",
    "6:  add rbx, 64",
    "    jmp 2b",
    "3:  mov qword ptr [r12], 1",
    "4:  mov r13d, 200",
    "5:  pause",
    "    dec r13d",
    "    jnz 5b",
    "    mov eax, 270", // pselect6
    "    xor edi, edi",
    "    xor esi, esi",
    "    xor edx, edx",
    "    xor r10d, r10d",
    "    lea r8, [r12 + 48]",
    "    xor r9d, r9d",
    "    mov qword ptr [r8], 0",
    "    mov qword ptr [r8 + 8], 32000000",
    "    syscall",
    "    mov eax, 310", // process_vm_readv
    "    mov rdi, [r12 + 8]",
    "    mov rsi, [r12 + 16]",
    "    mov edx, 1",
    "    mov r10, [r12 + 24]",
    "    mov r8d, 1",
    "    xor r9d, r9d",
    "    syscall",
    "    cmp rax, -3", // ESRCH
    "    jne 4b",
    "    mov qword ptr [r12], 2",
    "    mov eax, 14", // rt_sigprocmask
    "    mov edi, 2",  // SIG_SETMASK
    "    mov rsi, [r12 + 32]",
    "    xor edx, edx",
    "    mov r10d, 8",
    "    syscall",
    "    jmp [r12 + 40]",
    "dedump_stub_end:",
    ".popsection",
);

unsafe extern "C" {
    static dedump_stub_start: u8;
    static dedump_stub_end: u8;
}

/// The interpreter's bytes; position independent.
#[must_use]
pub fn interpreter() -> &'static [u8] {
    // SAFETY: both symbols are laid down by the assembly above, in this order, in one
    // read-only section that lives as long as the program.
    unsafe {
        let start = &raw const dedump_stub_start;
        let end = &raw const dedump_stub_end;
        std::slice::from_raw_parts(start, end.offset_from_unsigned(start))
    }
}
