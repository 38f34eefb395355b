# A 32-bit program: says "ready" and waits for ever.
    .globl _start
_start:
    movl $4, %eax
    movl $1, %ebx
    movl $text, %ecx
    movl $6, %edx
    int $0x80
1:  movl $29, %eax
    int $0x80
    jmp 1b
text: .ascii "ready\n"
