/* Sandboxes: after a restore the same calls are forbidden, to the same threads. */
#include "tasks.h"

#include <linux/filter.h>
#include <linux/seccomp.h>
#include <stddef.h>

#define NUMBER BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr))
#define RETURN(action) BPF_STMT(BPF_RET | BPF_K, action)

static long install(struct sock_filter *code, size_t length, unsigned flags) {
    struct sock_fprog program = {length, code};
    return TRY(syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, flags, &program));
}

/* Answers one call with an action, and lets all others pass. */
static long answer(int call, unsigned action, unsigned flags) {
    struct sock_filter code[] = {NUMBER, BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, call, 0, 1), RETURN(action),
                                 RETURN(SECCOMP_RET_ALLOW)};
    return install(code, COUNT(code), flags);
}

static bool fails_with(long call, int error) {
    errno = 0;
    return syscall(call) == -1 && errno == error;
}

SCENARIO(one_filter) {
    answer(SYS_getppid, SECCOMP_RET_ERRNO | 99, 0);
    be_dumped();
    CHECK(fails_with(SYS_getppid, 99));
    CHECK(!strcmp(status_field("Seccomp"), "2") && !strcmp(status_field("Seccomp_filters"), "1"));
}

SCENARIO(ten_filters) {
    /* Of several errors the one of the newest filter is given. */
    for (int i = 1; i <= 10; i++) answer(i % 2 ? SYS_getppid : SYS_getpgrp, SECCOMP_RET_ERRNO | i, 0);
    be_dumped();
    CHECK(fails_with(SYS_getppid, 9) && fails_with(SYS_getpgrp, 10));
    CHECK(!strcmp(status_field("Seccomp_filters"), "10"));
    answer(SYS_getppid, SECCOMP_RET_ERRNO | 11, 0);
    CHECK(fails_with(SYS_getppid, 11));
}

SCENARIO(filters_with_flags) {
    answer(SYS_getppid, SECCOMP_RET_ERRNO | 5, SECCOMP_FILTER_FLAG_LOG);
    answer(SYS_getpgrp, SECCOMP_RET_ERRNO | 6, SECCOMP_FILTER_FLAG_SPEC_ALLOW);
    be_dumped();
    CHECK(fails_with(SYS_getppid, 5) && fails_with(SYS_getpgrp, 6));
}

static void *has_its_own(void *error) {
    answer(SYS_getppid, SECCOMP_RET_ERRNO | (long)error, 0);
    thread_is_set();
    wait_to_go();
    CHECK(fails_with(SYS_getppid, (long)error));
    return NULL;
}

static void *has_none(void *unused) {
    (void)unused;
    thread_is_set();
    wait_to_go();
    CHECK(syscall(SYS_getppid) > 0);
    CHECK(!strcmp(status_field("Seccomp"), "0"));
    return NULL;
}

SCENARIO(filters_of_single_threads) {
    pthread_t first = start_thread(has_its_own, (void *)11);
    pthread_t second = start_thread(has_its_own, (void *)22);
    pthread_t third = start_thread(has_none, NULL);
    be_dumped();
    join(first);
    join(second);
    join(third);
    CHECK(!strcmp(status_field("Seccomp"), "0"));
}

static void *has_everybodys(void *unused) {
    (void)unused;
    thread_is_set();
    wait_to_go();
    CHECK(fails_with(SYS_getppid, 33));
    return NULL;
}

SCENARIO(one_filter_for_all_threads) {
    pthread_t first = start_thread(has_everybodys, NULL);
    pthread_t second = start_thread(has_everybodys, NULL);
    answer(SYS_getppid, SECCOMP_RET_ERRNO | 33, SECCOMP_FILTER_FLAG_TSYNC);
    be_dumped();
    join(first);
    join(second);
    CHECK(fails_with(SYS_getppid, 33));
}

static void adds_its_own(void) {
    answer(SYS_getpgrp, SECCOMP_RET_ERRNO | 2, 0);
    child_is_set();
    wait_to_go();
    CHECK(fails_with(SYS_getppid, 1) && fails_with(SYS_getpgrp, 2));
}

SCENARIO(filters_inherited_and_added_to) {
    answer(SYS_getppid, SECCOMP_RET_ERRNO | 1, 0);
    pid_t child = start_child(adds_its_own);
    be_dumped();
    CHECK(fails_with(SYS_getppid, 1) && syscall(SYS_getpgrp) > 0);
    reap_child(child);
}

static volatile sig_atomic_t trapped;
static void on_trap(int signal, siginfo_t *info, void *context) {
    (void)signal;
    (void)context;
    trapped = info->si_syscall;
}

SCENARIO(filter_that_traps) {
    struct sigaction action = {.sa_sigaction = on_trap, .sa_flags = SA_SIGINFO};
    TRY(sigaction(SIGSYS, &action, NULL));
    answer(SYS_getppid, SECCOMP_RET_TRAP, 0);
    be_dumped();
    syscall(SYS_getppid);
    CHECK(trapped == SYS_getppid);
}

static void may_not(void) {
    answer(SYS_getppid, SECCOMP_RET_KILL_PROCESS, 0);
    child_is_set();
    wait_to_go();
    syscall(SYS_getppid);
}

SCENARIO(filter_that_kills) {
    pid_t child = start_child(may_not);
    be_dumped();
    int status;
    CHECK(waitpid(child, &status, 0) == child);
    CHECK(WIFSIGNALED(status) && WTERMSIG(status) == SIGSYS);
}

static int to_strict[2], from_strict[2];

static void in_strict_mode(void) {
    child_is_set();
    TRY(prctl(PR_SET_SECCOMP, SECCOMP_MODE_STRICT));
    char byte;
    if (read(to_strict[0], &byte, 1) == 1 && byte == 'a') syscall(SYS_write, from_strict[1], "b", 1);
    if (read(to_strict[0], &byte, 1) == 1) syscall(SYS_getppid);
    syscall(SYS_exit, 7);
}

SCENARIO(strict_mode) {
    TRY(pipe(to_strict));
    TRY(pipe(from_strict));
    pid_t child = start_child(in_strict_mode);
    while (atoi(status_of(child, "Seccomp")) != 1) usleep(500);
    wait_until_in(child, SYS_read);
    be_dumped();
    char byte;
    CHECK(write(to_strict[1], "a", 1) == 1);
    CHECK(read(from_strict[0], &byte, 1) == 1 && byte == 'b');
    CHECK(write(to_strict[1], "c", 1) == 1);
    int status;
    CHECK(waitpid(child, &status, 0) == child);
    CHECK(WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL);
}

static void user_in_a_sandbox(void) {
    TRY(setresgid(65534, 65534, 65534));
    TRY(setresuid(65534, 65534, 65534));
    TRY(prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0));
    answer(SYS_getppid, SECCOMP_RET_ERRNO | 44, 0);
    child_is_set();
    wait_to_go();
    CHECK(fails_with(SYS_getppid, 44));
    CHECK(prctl(PR_GET_NO_NEW_PRIVS, 0, 0, 0, 0) == 1 && geteuid() == 65534);
}

SCENARIO(ordinary_user_in_a_sandbox) {
    pid_t child = start_child(user_in_a_sandbox);
    be_dumped();
    reap_child(child);
}

/* Calls that restore and dump need inside the task are forbidden to it. */
SCENARIO(filter_that_forbids_what_a_dump_does) {
    /* Printing takes memory: there has to be enough without asking for more. */
    void *volatile room = malloc(100000);
    free(room);
    int calls[] = {SYS_mmap, SYS_munmap, SYS_mprotect, SYS_prctl, SYS_rt_sigaction, SYS_getitimer,
                   SYS_sigaltstack, SYS_timer_gettime, SYS_brk, SYS_membarrier, SYS_process_vm_readv};
    for (size_t i = 0; i < COUNT(calls); i++) answer(calls[i], SECCOMP_RET_KILL_PROCESS, 0);
    be_dumped();
    CHECK(!strcmp(status_field("Seccomp_filters"), "11"));
}

SCENARIO(filter_with_a_supervisor) {
    long listener = answer(SYS_getppid, SECCOMP_RET_USER_NOTIF, SECCOMP_FILTER_FLAG_NEW_LISTENER);
    CHECK(listener >= 0);
    be_dumped();
}
