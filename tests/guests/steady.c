/* A program that notices whatever a dump does to it, and says so.
 *
 * Threads wait in every way that a dump may disturb: none of the calls may return early or
 * with EINTR. One thread checks general and vector registers, one the program's own memory.
 * No signal may arrive. Every 100 ms ("fast": 10) it prints "beat" with the number of rounds of each
 * thread; the first violation is printed as "BAD ..." and ends it.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/select.h>
#include <sys/syscall.h>
#include <linux/futex.h>
#include <time.h>
#include <unistd.h>

static volatile long rounds[8];

static void bad(const char *what, long a, long b)
{
    printf("BAD %s: %ld %ld\n", what, a, b);
    fflush(stdout);
    _exit(9);
}

static double now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec + t.tv_nsec / 1e9;
}

static void check(const char *what, int result, int expected, double start, double wanted)
{
    int error = errno;
    double slept = now() - start;
    if (result != expected)
        bad(what, result, error);
    /* poll and epoll count in milliseconds and may be a tick early by their own rounding */
    if (slept < wanted - 0.0005)
        bad(what, (long)(slept * 1e6), -1);
}

static int a_pipe(void)
{
    int ends[2];
    if (pipe(ends))
        bad("pipe", errno, 0);
    return ends[0];
}

static void *in_nanosleep(void *unused)
{
    for (;; rounds[0]++) {
        struct timespec t = {0, 70000000}, rest;
        double start = now();
        check("nanosleep", nanosleep(&t, &rest), 0, start, 0.07);
    }
    return 0;
}

static void *in_poll(void *unused)
{
    struct pollfd fd = {a_pipe(), POLLIN, 0};
    for (;; rounds[1]++) {
        double start = now();
        check("poll", poll(&fd, 1, 60), 0, start, 0.06);
    }
    return 0;
}

static void *in_futex(void *unused)
{
    static int word;
    for (;; rounds[2]++) {
        struct timespec t = {0, 50000000};
        double start = now();
        int result = syscall(SYS_futex, &word, FUTEX_WAIT, 0, &t, 0, 0);
        if (result != -1 || errno != ETIMEDOUT)
            bad("futex", result, errno);
        check("futex", 0, 0, start, 0.05);
    }
    return 0;
}

static void *in_epoll(void *unused)
{
    struct epoll_event event = {.events = EPOLLIN};
    int set = epoll_create1(0);
    epoll_ctl(set, EPOLL_CTL_ADD, a_pipe(), &event);
    for (;;) {
        double start = now();
        /* epoll_wait is not restarted by the kernel after a stop; EINTR is documented */
        int result = epoll_wait(set, &event, 1, 60);
        if (result == -1 && errno == EINTR)
            continue;
        check("epoll_wait", result, 0, start, 0.06);
    }
    return 0;
}

static void *in_select(void *unused)
{
    int fd = a_pipe();
    for (;; rounds[3]++) {
        struct timeval t = {0, 65000};
        fd_set set;
        FD_ZERO(&set);
        FD_SET(fd, &set);
        double start = now();
        check("select", select(fd + 1, &set, 0, 0, &t), 0, start, 0.065);
    }
    return 0;
}

static void *in_read(void *unused)
{
    char byte;
    int fd = a_pipe();
    bad("read", read(fd, &byte, 1), errno);
    return 0;
}

static void *in_pause(void *unused)
{
    bad("pause", pause(), errno);
    return 0;
}

static void *in_sigsuspend(void *unused)
{
    sigset_t all_but_usr1;
    sigfillset(&all_but_usr1);
    sigdelset(&all_but_usr1, SIGUSR1);
    bad("sigsuspend", sigsuspend(&all_but_usr1), errno);
    return 0;
}

static void *in_epoll_for_ever(void *unused)
{
    struct epoll_event event = {.events = EPOLLIN};
    int set = epoll_create1(0);
    epoll_ctl(set, EPOLL_CTL_ADD, a_pipe(), &event);
    bad("epoll_wait without time-out", epoll_wait(set, &event, 1, -1), errno);
    return 0;
}

static void *in_sigwaitinfo(void *unused)
{
    sigset_t usr2;
    sigemptyset(&usr2);
    sigaddset(&usr2, SIGUSR2);
    bad("sigwaitinfo", sigwaitinfo(&usr2, 0), errno);
    return 0;
}

static void *in_registers(void *unused)
{
    uint64_t in[4] = {0x1111111111111111, 0x2222222222222222, 0x3333333333333333, 0x4444444444444444}, out[4];
    for (;; rounds[4]++) {
        uint64_t wrong = 0;
        __asm__ volatile(
            "vmovdqu %[in], %%ymm7\n vmovdqu %[in], %%ymm15\n"
            "mov $0x1234567, %%r8\n mov $0x7654321, %%rbx\n mov $0xabcdef, %%rcx\n mov $0x55, %%r11\n"
            "mov $0x77, %%r12\n mov $0x99, %%r14\n mov $0x33, %%rsi\n mov $0x44, %%rdi\n mov $2000000, %%r9\n"
            "1: dec %%r9\n jnz 1b\n"
            "sub $0x1234567, %%r8\n sub $0x7654321, %%rbx\n sub $0xabcdef, %%rcx\n sub $0x55, %%r11\n"
            "sub $0x77, %%r12\n sub $0x99, %%r14\n sub $0x33, %%rsi\n sub $0x44, %%rdi\n"
            "or %%r8, %%rbx\n or %%rcx, %%rbx\n or %%r11, %%rbx\n or %%r12, %%rbx\n or %%r14, %%rbx\n"
            "or %%rsi, %%rbx\n or %%rdi, %%rbx\n"
            "vpxor %%ymm7, %%ymm15, %%ymm15\n vpor %%ymm7, %%ymm15, %%ymm7\n"
            "vmovdqu %%ymm7, %[out]\n mov %%rbx, %[wrong]\n"
            : [out] "=m"(out), [wrong] "=m"(wrong)
            : [in] "m"(in)
            : "r8", "rbx", "rcx", "r9", "r11", "r12", "r14", "rsi", "rdi", "xmm7", "xmm15", "cc", "memory");
        if (wrong)
            bad("general registers", wrong, 0);
        if (memcmp(in, out, sizeof in))
            bad("vector registers", out[0], out[3]);
    }
    return 0;
}

static void *in_memory(void *unused)
{
    size_t words = 1 << 17;
    uint64_t *memory = malloc(words * 8);
    for (uint64_t round = 1;; round++, rounds[5]++) {
        for (size_t i = 0; i < words; i++)
            memory[i] = i * round;
        usleep(20000);
        for (size_t i = 0; i < words; i++)
            if (memory[i] != i * round)
                bad("memory", i, round);
    }
    return 0;
}

static void on_child(int signal)
{
    bad("SIGCHLD", signal, 0);
}

int main(int argc, char **argv)
{
    /* "restarted": only calls that the kernel itself takes up again after a stop; "heap": much
     * memory; "io_uring": something that no dump can hold; "fast": ten times as many beats */
    int restarted = 0, pause_us = 100000;
    char parameters[120] = {0};
    for (int i = 1; i < argc; i++) {
        if (!strcmp(argv[i], "restarted"))
            restarted = 1;
        else if (!strcmp(argv[i], "fast"))
            pause_us = 10000;
        else if (!strcmp(argv[i], "io_uring") && syscall(SYS_io_uring_setup, 1, parameters) < 0)
            bad("io_uring_setup", errno, 0);
        else if (!strcmp(argv[i], "heap")) {
            size_t bytes = 16 << 20;
            volatile char *heap = malloc(bytes);
            for (size_t at = 0; at < bytes; at += 512)
                heap[at] = at / 512;
        }
    }
    void *(*all[])(void *) = {in_nanosleep, in_poll, in_futex, in_epoll, in_select, in_read,
                              in_pause, in_sigsuspend, in_registers, in_memory,
                              in_epoll_for_ever, in_sigwaitinfo};
    size_t count = sizeof all / sizeof *all;
    pthread_t thread;
    signal(SIGCHLD, on_child);
    if (restarted)
        count -= 2;
    for (size_t i = 0; i < count; i++)
        pthread_create(&thread, 0, all[i], 0);
    /* every thread has made its mappings once it has gone round */
    for (int i = 0; i < 6; i++)
        while (!rounds[i])
            usleep(10000);
    usleep(50000);
    puts("ready");
    for (;;) {
        fflush(stdout);
        usleep(pause_us);
        printf("beat %ld %ld %ld %ld %ld %ld\n", rounds[0], rounds[1], rounds[2], rounds[3], rounds[4], rounds[5]);
    }
}
