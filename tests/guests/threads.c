/* Fifty threads, each with values of its own in registers, thread-local storage and stack,
 * checked without end. Prints "ready", then "round N" whenever every thread has completed
 * another round; "BAD ..." at the first wrong value.
 */
#define _GNU_SOURCE
#include <pthread.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define THREADS 50

static volatile long rounds[THREADS];
static __thread uint64_t local;

static void bad(const char *what, long thread, uint64_t value)
{
    printf("BAD thread %ld %s %lx\n", thread, what, value);
    fflush(stdout);
    _exit(9);
}

static void *run(void *argument)
{
    uint64_t me = (uintptr_t)argument;
    uint64_t in[4] = {me, me << 16, me << 32, ~me}, out[4];
    uint64_t stack[512];
    local = me * 1000003;
    for (int i = 0; i < 512; i++)
        stack[i] = me * i;
    for (;; rounds[me - 1]++) {
        uint64_t wrong;
        __asm__ volatile(
            "mov %[me], %%rbx\n mov %[me], %%r12\n not %%r12\n mov %[me], %%r13\n shl $20, %%r13\n"
            "mov %[me], %%r14\n mov %[me], %%r15\n vmovdqu %[in], %%ymm3\n vmovdqu %[in], %%ymm12\n"
            /* half of the time inside a system call: getppid leaves these registers alone */
            "mov $2000, %%r10\n"
            "1: mov $110, %%eax\n syscall\n dec %%r10\n jnz 1b\n"
            "xor %[me], %%rbx\n not %%r12\n xor %[me], %%r12\n shr $20, %%r13\n xor %[me], %%r13\n"
            "xor %[me], %%r14\n xor %[me], %%r15\n"
            "or %%r12, %%rbx\n or %%r13, %%rbx\n or %%r14, %%rbx\n or %%r15, %%rbx\n"
            "vpxor %%ymm3, %%ymm12, %%ymm12\n vpor %%ymm3, %%ymm12, %%ymm3\n"
            "vmovdqu %%ymm3, %[out]\n mov %%rbx, %[wrong]\n"
            : [out] "=m"(out), [wrong] "=m"(wrong)
            : [in] "m"(in), [me] "r"(me)
            : "rax", "rbx", "rcx", "r10", "r11", "r12", "r13", "r14", "r15", "xmm3", "xmm12", "cc", "memory");
        if (wrong)
            bad("registers", me, wrong);
        if (memcmp(in, out, sizeof in))
            bad("vector registers", me, out[0]);
        if (local != me * 1000003)
            bad("thread-local storage", me, local);
        for (int i = 0; i < 512; i++)
            if (stack[i] != me * i)
                bad("stack", me, i);
        usleep(2000);
    }
    return 0;
}

int main(void)
{
    pthread_t thread;
    for (uintptr_t i = 1; i <= THREADS; i++)
        if (pthread_create(&thread, 0, run, (void *)i))
            bad("pthread_create", i, 0);
    puts("ready");
    for (long round = 1;; round++) {
        fflush(stdout);
        for (int i = 0; i < THREADS; i++)
            while (rounds[i] < round)
                usleep(1000);
        printf("round %ld\n", round);
        usleep(10000);
    }
}
