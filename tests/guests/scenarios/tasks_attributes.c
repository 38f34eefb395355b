/* Limits, scheduling, and the many small things that prctl(2) and /proc set. */
#include "tasks.h"

#include <fcntl.h>
#include <linux/membarrier.h>
#include <sched.h>
#include <sys/mman.h>
#include <sys/personality.h>
#include <sys/resource.h>
#include <sys/stat.h>

SCENARIO(all_limits) {
    struct rlimit before[RLIM_NLIMITS];
    for (int i = 0; i < RLIM_NLIMITS; i++) {
        TRY(getrlimit(i, &before[i]));
        if (i == RLIMIT_NPROC || i == RLIMIT_AS || i == RLIMIT_DATA || i == RLIMIT_CPU) continue;
        /* Lower, each by another amount; what is infinite gets a number. */
        if (before[i].rlim_max == RLIM_INFINITY) before[i].rlim_max = (1UL << 33) + i;
        if (before[i].rlim_cur > before[i].rlim_max) before[i].rlim_cur = before[i].rlim_max - i;
        if (i == RLIMIT_NOFILE) before[i] = (struct rlimit){100, 1000};
        TRY(setrlimit(i, &before[i]));
    }
    be_dumped();
    for (int i = 0; i < RLIM_NLIMITS; i++) {
        struct rlimit now;
        TRY(getrlimit(i, &now));
        CHECK(now.rlim_cur == before[i].rlim_cur && now.rlim_max == before[i].rlim_max);
    }
}

static void *is_nice(void *value) {
    TRY(setpriority(PRIO_PROCESS, my_tid(), (long)value));
    thread_is_set();
    wait_to_go();
    errno = 0;
    CHECK(getpriority(PRIO_PROCESS, my_tid()) == (long)value && errno == 0);
    return NULL;
}

SCENARIO(nice_values_of_threads) {
    int before = getpriority(PRIO_PROCESS, 0);
    pthread_t nice_one = start_thread(is_nice, (void *)19L);
    pthread_t rude_one = start_thread(is_nice, (void *)-20L);
    pthread_t other = start_thread(is_nice, (void *)-1L);
    be_dumped();
    join(nice_one);
    join(rude_one);
    join(other);
    CHECK(getpriority(PRIO_PROCESS, 0) == before);
}

static const struct {
    int policy, priority;
} ways[] = {{SCHED_FIFO, 1}, {SCHED_RR, 50}, {SCHED_BATCH, 0}, {SCHED_IDLE, 0}, {SCHED_OTHER, 0}};

static void *is_scheduled(void *number) {
    long i = (long)number;
    struct sched_param param = {ways[i].priority}, now;
    TRY(sched_setscheduler(0, ways[i].policy, &param));
    thread_is_set();
    wait_to_go();
    CHECK(sched_getscheduler(0) == ways[i].policy);
    TRY(sched_getparam(0, &now));
    CHECK(now.sched_priority == ways[i].priority);
    return NULL;
}

SCENARIO(scheduling_policies) {
    pthread_t threads[COUNT(ways)];
    for (size_t i = 0; i < COUNT(ways); i++) threads[i] = start_thread(is_scheduled, (void *)i);
    be_dumped();
    for (size_t i = 0; i < COUNT(ways); i++) join(threads[i]);
}

static void *is_reset_on_fork(void *policy) {
    struct sched_param priority = {(long)policy == SCHED_RR ? 7 : 0};
    TRY(sched_setscheduler(0, (long)policy | SCHED_RESET_ON_FORK, &priority));
    thread_is_set();
    wait_to_go();
    CHECK(sched_getscheduler(0) == ((long)policy | SCHED_RESET_ON_FORK));
    return NULL;
}

SCENARIO(policies_reset_on_fork) {
    pthread_t real_time = start_thread(is_reset_on_fork, (void *)SCHED_RR);
    pthread_t ordinary = start_thread(is_reset_on_fork, (void *)SCHED_OTHER);
    be_dumped();
    join(real_time);
    join(ordinary);
}

SCENARIO(oom_score_adjustment) {
    spit("/proc/self/oom_score_adj", "777");
    be_dumped();
    CHECK(atoi(slurp("/proc/self/oom_score_adj")) == 777);
}

SCENARIO(login_user) {
    int fd = open("/proc/self/loginuid", O_WRONLY);
    if (fd < 0 || write(fd, "1234", 4) != 4) skip("no loginuid in this kernel, or it is set already");
    close(fd);
    be_dumped();
    CHECK(!strcmp(slurp("/proc/self/loginuid"), "1234"));
}

static void *dies_with_its_parent(void *signal) {
    TRY(prctl(PR_SET_PDEATHSIG, (long)signal));
    thread_is_set();
    wait_to_go();
    int now = 0;
    TRY(prctl(PR_GET_PDEATHSIG, &now));
    CHECK(now == (long)signal);
    return NULL;
}

/* Not in the root: its parent is a test before the dump, and a criu that ends after the restore. */
static void and_its_threads(void) {
    TRY(prctl(PR_SET_PDEATHSIG, SIGUSR1));
    pthread_t other = start_thread(dies_with_its_parent, (void *)(long)SIGTERM);
    pthread_t none = start_thread(dies_with_its_parent, NULL);
    child_is_set();
    join(other);
    join(none);
    int now = 0;
    TRY(prctl(PR_GET_PDEATHSIG, &now));
    CHECK(now == SIGUSR1);
}

SCENARIO(signals_at_the_parents_death) {
    pid_t pid = start_child(and_its_threads);
    be_dumped();
    reap_child(pid);
}

static int from_child[2];

static void has_a_child_that_is_told(void) {
    pid_t pid = TRY(fork());
    if (pid == 0) {
        sigset_t set;
        sigemptyset(&set);
        sigaddset(&set, SIGUSR2);
        CHECK(sigprocmask(SIG_BLOCK, &set, NULL) == 0);
        TRY(prctl(PR_SET_PDEATHSIG, SIGUSR2));
        child_is_set();
        int signal;
        CHECK(sigwait(&set, &signal) == 0 && signal == SIGUSR2);
        CHECK(write(from_child[1], "d", 1) == 1);
        _exit(0);
    }
    wait_to_go();
}

SCENARIO(told_of_the_parents_death_after_the_restore) {
    TRY(pipe(from_child));
    TRY(prctl(PR_SET_CHILD_SUBREAPER, 1));
    pid_t pid = start_child(has_a_child_that_is_told);
    be_dumped();
    CHECK(waitpid(pid, NULL, 0) == pid);
    char byte;
    CHECK(read(from_child[0], &byte, 1) == 1 && byte == 'd');
}

static void is_subreaper(void) {
    TRY(prctl(PR_SET_CHILD_SUBREAPER, 1));
    child_is_set();
    wait_to_go();
    int now = 0;
    TRY(prctl(PR_GET_CHILD_SUBREAPER, &now));
    CHECK(now == 1);
}

SCENARIO(child_subreaper) {
    pid_t pid = start_child(is_subreaper);
    be_dumped();
    reap_child(pid);
}

SCENARIO(not_dumpable) {
    TRY(prctl(PR_SET_DUMPABLE, 0));
    be_dumped();
    CHECK(prctl(PR_GET_DUMPABLE) == 0);
}

SCENARIO(dumpable) {
    TRY(prctl(PR_SET_DUMPABLE, 1));
    be_dumped();
    CHECK(prctl(PR_GET_DUMPABLE) == 1);
}

SCENARIO(no_huge_pages) {
    TRY(prctl(PR_SET_THP_DISABLE, 1, 0, 0, 0));
    be_dumped();
    CHECK(prctl(PR_GET_THP_DISABLE, 0, 0, 0, 0) == 1);
}

SCENARIO(memory_barriers) {
    int commands[] = {MEMBARRIER_CMD_REGISTER_GLOBAL_EXPEDITED, MEMBARRIER_CMD_REGISTER_PRIVATE_EXPEDITED,
                      MEMBARRIER_CMD_REGISTER_PRIVATE_EXPEDITED_SYNC_CORE};
    for (size_t i = 0; i < COUNT(commands); i++) TRY(syscall(SYS_membarrier, commands[i], 0, 0));
    long before = syscall(SYS_membarrier, 512 /* GET_REGISTRATIONS */, 0, 0);
    be_dumped();
    TRY(syscall(SYS_membarrier, MEMBARRIER_CMD_PRIVATE_EXPEDITED, 0, 0));
    TRY(syscall(SYS_membarrier, MEMBARRIER_CMD_PRIVATE_EXPEDITED_SYNC_CORE, 0, 0));
    CHECK(syscall(SYS_membarrier, 512, 0, 0) == before);
}

SCENARIO(file_mode_mask) {
    umask(0137);
    be_dumped();
    CHECK(umask(0) == 0137);
}

/* Not in the images: a restored task has the restorer's. It is told. */
SCENARIO(personality_of_its_own) {
    TRY(personality(ADDR_NO_RANDOMIZE | SHORT_INODE));
    be_dumped();
}

static void *on_one_processor(void *unused) {
    (void)unused;
    cpu_set_t set;
    CPU_ZERO(&set);
    CPU_SET(0, &set);
    TRY(sched_setaffinity(0, sizeof(set), &set));
    thread_is_set();
    wait_to_go();
    return NULL;
}

SCENARIO(processors_of_its_own) {
    pthread_t thread = start_thread(on_one_processor, NULL);
    be_dumped();
    join(thread);
}

SCENARIO(slow_timers) {
    TRY(prctl(PR_SET_TIMERSLACK, 123456));
    be_dumped();
}

SCENARIO(io_priority) {
    TRY(syscall(SYS_ioprio_set, 1, 0, 2 << 13 | 6));
    be_dumped();
}

SCENARIO(core_dumps_with_other_contents) {
    spit("/proc/self/coredump_filter", "0x7f");
    be_dumped();
}

static int ends_silently(void *unused) {
    (void)unused;
    wait_to_go();
    return 0;
}

SCENARIO(child_that_ends_with_another_signal) {
    static char stack[65536];
    signal(SIGUSR1, SIG_IGN);
    TRY(clone(ends_silently, stack + sizeof(stack), SIGUSR1, NULL));
    be_dumped();
}

SCENARIO(deadline_scheduling) {
    struct {
        unsigned size, policy;
        unsigned long flags;
        int nice;
        unsigned priority;
        unsigned long runtime, deadline, period;
    } attributes = {48, SCHED_DEADLINE, 0, 0, 0, 1000000, 50000000, 50000000};
    if (syscall(SYS_sched_setattr, 0, &attributes, 0)) skip("no deadline scheduling");
    be_dumped();
}

SCENARIO(exit_code_above_127) {
    pid_t pid = TRY(fork());
    if (pid == 0) _exit(255);
    wait_for_state(pid, 'Z');
    be_dumped();
    int status;
    CHECK(waitpid(pid, &status, 0) == pid && WIFEXITED(status));
}
