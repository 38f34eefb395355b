/* Trees that are not left in peace while they stand still: `restless KIND`. Somebody outside of
 * the tree does KIND to it at full speed, or it never rests itself. All of them say "ready" and
 * print "beat" every 10 ms as long as they are well, "BAD ..." if not. Whoever is outside ends a
 * moment after the tree. `restless` alone lists the kinds.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <linux/sched.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/ptrace.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

enum { WORKERS = 3, CANARIES = 16 * 4096 / 8 };

/* What all of the tree, and whoever disturbs it, know. */
static struct {
    pid_t root;
    volatile pid_t workers[WORKERS];
} *tree;

static uint64_t *canaries;
static int canary_file;

static void bad(const char *what, long found, long expected)
{
    char line[200];
    int length = snprintf(line, sizeof line, "BAD %s of %d: %ld %ld (%s)\n", what, getpid(), found,
                          expected, strerror(errno));
    if (write(1, line, length) != length)
        _exit(8);
    _exit(9);
}

#define MUST(call) ({ long _r = (long)(call); if (_r == -1) bad(#call, _r, 0); _r; })

/* Memory and a file that nobody changes. */
static void lay_canaries(void)
{
    canaries = mmap(0, CANARIES * 8, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    for (uint64_t i = 0; i < CANARIES; i++)
        canaries[i] = i * 0x9e3779b97f4a7c15;
    canary_file = MUST(open("canary", O_RDWR | O_CREAT | O_TRUNC, 0600));
    MUST(write(canary_file, "sings", 5));
}

static void look_at_canaries(void)
{
    char word[6] = "";
    for (uint64_t i = 0; i < CANARIES; i++)
        if (canaries[i] != i * 0x9e3779b97f4a7c15)
            bad("memory", canaries[i], i);
    if (pread(canary_file, word, 5, 0) != 5 || strcmp(word, "sings"))
        bad("file", 0, 0);
}

/* ---- what workers do ---- */

static volatile sig_atomic_t next_value;

static void in_order(int signal, siginfo_t *info, void *context)
{
    (void)context;
    if (info->si_value.sival_int != next_value)
        bad("signal", info->si_value.sival_int, next_value);
    next_value++;
    (void)signal;
}

static void work(void)
{
    for (;;) {
        look_at_canaries();
        usleep(1000);
    }
}

static void start_worker(int number)
{
    pid_t pid = MUST(fork());
    if (pid == 0) {
        MUST(prctl(PR_SET_PDEATHSIG, SIGKILL));
        work();
    }
    tree->workers[number] = pid;
}

/* ---- what is done to them from outside ---- */

static void outside_signals(void)
{
    static int values[WORKERS];
    for (int i = 0; i < WORKERS; i++)
        if (!sigqueue(tree->workers[i], SIGRTMIN + 1, (union sigval){.sival_int = values[i]}))
            values[i]++;
    usleep(20);
}

static void outside_stops(void)
{
    pid_t all[] = {tree->workers[0], tree->workers[1], tree->root};
    for (int i = 0; i < 3; i++) {
        kill(all[i], SIGSTOP);
        if (rand() % 2)
            sched_yield();
        kill(all[i], SIGCONT);
    }
}

static void outside_kills(void)
{
    usleep(rand() % 4000);
    kill(tree->workers[rand() % WORKERS], SIGKILL);
}

static void seize_shortly(pid_t pid)
{
    int status;
    if (pid <= 0 || ptrace(PTRACE_SEIZE, pid, 0, 0))
        return;
    ptrace(PTRACE_INTERRUPT, pid, 0, 0);
    /* One that is being killed does not stop. */
    while (waitpid(pid, &status, __WALL) == pid && WIFSTOPPED(status)) {
        int signal = status >> 16 ? 0 : WSTOPSIG(status);
        if (!ptrace(PTRACE_DETACH, pid, 0, (long)signal))
            break;
    }
}

static void outside_tracer(void)
{
    /* Whoever traces them is traced as well. */
    char path[64], line[256];
    snprintf(path, sizeof path, "/proc/%d/status", tree->workers[0]);
    FILE *status = fopen(path, "re");
    int tracer = 0;
    while (status && fgets(line, sizeof line, status))
        sscanf(line, "TracerPid: %d", &tracer);
    if (status)
        fclose(status);
    if (tracer && tracer != getpid()) {
        seize_shortly(tracer);
        usleep(100);
    }
    if (rand() % 8 == 0)
        seize_shortly(tree->workers[rand() % WORKERS]);
    usleep(200);
}

static void outside_limits(void)
{
    pid_t pid = tree->workers[rand() % WORKERS];
    struct rlimit limit = {4096 + rand() % 4096, 8192};
    cpu_set_t set;
    prlimit(pid, RLIMIT_CORE, &limit, 0);
    setpriority(PRIO_PROCESS, pid, rand() % 10);
    CPU_ZERO(&set);
    CPU_SET(rand() % 2, &set);
    if (rand() % 2)
        CPU_SET(0, &set), CPU_SET(1, &set);
    sched_setaffinity(pid, sizeof set, &set);
}

static void outside_names(void)
{
    /* The file that all have open: renamed, gone, and back. */
    rename("canary", "canary.renamed");
    if (rand() % 2)
        sched_yield();
    rename("canary.renamed", "canary");
}

/* In the tree's own memory and with its own descriptors. */
static void outside_memory(void)
{
    char *memory = mmap(0, 64 * 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (memory == MAP_FAILED)
        return;
    for (int page = 0; page < 64; page += 3)
        memory[page * 4096] = page;
    mprotect(memory + 8 * 4096, 4096, PROT_NONE);
    munmap(memory + 16 * 4096, 8 * 4096);
    munmap(memory, 64 * 4096);
}

static void outside_files(void)
{
    int ends[2], fd = open("/dev/zero", O_RDONLY);
    if (pipe(ends))
        return;
    dup2(fd, 77);
    close(fd);
    close(ends[0]);
    close(77);
    close(ends[1]);
}

/* ---- what never rests inside ---- */

static char own_path[4096];

static void *exec_from_a_thread(void *unused)
{
    char *const arguments[] = {own_path, "exec again", 0};
    execv(own_path, arguments);
    return unused;
}

static void *run_and_end(void *unused)
{
    return unused;
}

static void *start_threads(void *unused)
{
    for (;;) {
        pthread_t few[4];
        for (int i = 0; i < 4; i++)
            if ((errno = pthread_create(&few[i], 0, run_and_end, 0)))
                bad("pthread_create", errno, 0);
        for (int i = 0; i < 4; i++)
            pthread_join(few[i], 0);
    }
    return unused;
}

static void inside_threads(void)
{
    static pthread_t starters[2];
    for (int i = 0; i < 2; i++)
        if (!starters[i])
            pthread_create(&starters[i], 0, start_threads, 0);
}

/* One number for one child after the other. */
static void inside_numbers(void)
{
    static pid_t pid;
    if (!pid)
        pid = MUST(fork());
    else {
        struct clone_args arguments = {
            .exit_signal = SIGCHLD, .set_tid = (uintptr_t)&pid, .set_tid_size = 1};
        long child = syscall(SYS_clone3, &arguments, sizeof arguments);
        if (child < 0)
            /* Somebody else has it now. */
            return;
        if (child == 0)
            _exit(7);
        pid = child;
        int status;
        if (MUST(waitpid(pid, &status, 0)) != pid || status != 7 << 8)
            bad("exit code", status, 7 << 8);
        return;
    }
    if (pid == 0)
        _exit(7);
    MUST(waitpid(pid, 0, 0));
}

static void inside_exec(void)
{
    static pid_t child;
    if (child)
        return;
    child = MUST(fork());
    if (child == 0) {
        MUST(prctl(PR_SET_PDEATHSIG, SIGKILL));
        exec_from_a_thread(0);
        bad("exec", 0, 0);
    }
}

static const struct kind {
    const char *name;
    void (*outside)(void), (*inside)(void);
    /* What the one outside shares with the root. */
    int shares;
} kinds[] = {
    {"signals", outside_signals, 0, 0},
    {"stops", outside_stops, 0, 0},
    {"kills", outside_kills, 0, 0},
    {"tracer", outside_tracer, 0, 0},
    {"limits", outside_limits, 0, 0},
    {"names", outside_names, 0, 0},
    {"memory", outside_memory, 0, CLONE_VM},
    {"files", outside_files, 0, CLONE_FILES | CLONE_FS},
    {"threads", 0, inside_threads, 0},
    {"numbers", 0, inside_numbers, 0},
    {"exec", 0, inside_exec, 0},
};

static const struct kind *kind;

/* A process that is nobody's child in the tree. */
static int disturb(void *unused)
{
    /* The seed differs from one to the next. */
    srand(getpid());
    setsid();
    /* At once when the tree has ended: whoever is restored under the old numbers is left alone. */
    while (!kill(tree->root, 0))
        kind->outside();
    _exit(0);
    (void)unused;
}

static int in_between(void *stack)
{
    int flags = kind->shares | SIGCHLD;
    /* With other memory it goes on with a copy of this stack, with the same one it needs another. */
    if (clone(disturb, stack, flags, 0) < 0)
        bad("clone", 0, 0);
    _exit(0);
}

static void start_outsider(void)
{
    static char stacks[2][65536] __attribute__((aligned(16)));
    int status, flags = kind->shares | CLONE_VFORK | SIGCHLD;
    pid_t pid = MUST(clone(in_between, stacks[0] + 65536, flags, stacks[1] + 65536));
    MUST(waitpid(pid, &status, 0));
}

int main(int count, char **arguments)
{
    if (count < 2) {
        for (size_t i = 0; i < sizeof kinds / sizeof *kinds; i++)
            puts(kinds[i].name);
        return 0;
    }
    if (readlink("/proc/self/exe", own_path, sizeof own_path - 1) < 0)
        bad("own path", 0, 0);
    if (!strcmp(arguments[1], "exec again")) {
        /* Another thread takes the place of the first one, again and again. */
        pthread_t thread;
        usleep(500);
        pthread_create(&thread, 0, exec_from_a_thread, 0);
        for (;;)
            pause();
    }
    for (size_t i = 0; i < sizeof kinds / sizeof *kinds; i++)
        if (!strcmp(arguments[1], kinds[i].name))
            kind = &kinds[i];
    if (!kind)
        return 2;
    tree = mmap(0, 4096, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    tree->root = getpid();
    lay_canaries();
    /* Before there are workers: they may be sent signals at once. */
    struct sigaction action = {.sa_sigaction = in_order, .sa_flags = SA_SIGINFO | SA_RESTART};
    MUST(sigaction(SIGRTMIN + 1, &action, 0));
    for (int i = 0; i < WORKERS; i++)
        start_worker(i);
    if (kind->inside)
        kind->inside();
    if (kind->outside)
        start_outsider();
    puts("ready");
    fflush(stdout);
    struct timespec last = {0}, now;
    for (;;) {
        if (kind->inside)
            kind->inside();
        else
            usleep(1000);
        look_at_canaries();
        for (int i = 0; i < WORKERS; i++)
            if (waitpid(tree->workers[i], 0, WNOHANG) == tree->workers[i]) {
                if (strcmp(kind->name, "kills"))
                    bad("a worker has ended", tree->workers[i], 0);
                start_worker(i);
            }
        clock_gettime(CLOCK_MONOTONIC, &now);
        long passed = (now.tv_sec - last.tv_sec) * 1000 + (now.tv_nsec - last.tv_nsec) / 1000000;
        if (passed >= 10) {
            last = now;
            puts("beat");
            fflush(stdout);
        }
    }
}
