/* Targets that make it hard for a dumper: `hostile KIND`. Each sets itself up, says "ready", goes
 * on with whatever it does, and prints "beat" every 50 ms as long as it is well; "BAD ..." if not.
 * `hostile` alone lists the kinds.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <poll.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/auxv.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/ioctl.h>
#include <sys/ipc.h>
#include <sys/mman.h>
#include <sys/personality.h>
#include <sys/prctl.h>
#include <sys/ptrace.h>
#include <sys/resource.h>
#include <sys/shm.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <sys/timerfd.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

static char **arguments;

static void bad(const char *what)
{
    printf("BAD %s: %s\n", what, strerror(errno));
    fflush(stdout);
    _exit(9);
}

#define MUST(call) ({ long _r = (long)(call); if (_r == -1) bad(#call); _r; })

static double now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec + t.tv_nsec / 1e9;
}

static void beat(void)
{
    static double last;
    if (now() < last + 0.05)
        return;
    last = now();
    if (write(1, "beat\n", 5) != 5)
        _exit(8);
}

/* A child that does one thing for ever. */
static pid_t worker(void (*work)(void))
{
    pid_t child = MUST(fork());
    if (child == 0) {
        prctl(PR_SET_PDEATHSIG, SIGKILL);
        for (;;)
            work();
    }
    return child;
}

static void *thread_of(void *work)
{
    for (;;)
        ((void (*)(void))work)();
    return NULL;
}

static void thread(void (*work)(void))
{
    pthread_t t;
    if ((errno = pthread_create(&t, NULL, thread_of, (void *)work)))
        bad("pthread_create");
}

static void rest(void) { usleep(1000); }
static void sleep_on(void) { pause(); }

/* ---- names ---- */

static void name_closes_a_bracket(void) { prctl(PR_SET_NAME, "a) R 1 1 1 ("); }
static void name_with_newlines(void) { prctl(PR_SET_NAME, "\nTgid:\t1\n"); }
static void name_of_nothing(void) { prctl(PR_SET_NAME, ""); }
static void name_of_no_text(void) { prctl(PR_SET_NAME, "\xff\xfe\x80\x01\x7f\\\x1b"); }
static void *named_thread(void *unused)
{
    prctl(PR_SET_NAME, ") Z 0\n) (");
    for (;;)
        pause();
    return unused;
}
static void name_of_a_thread(void)
{
    pthread_t t;
    pthread_create(&t, NULL, named_thread, NULL);
}
static void title_overwritten(void)
{
    size_t len = strlen(arguments[0]);
    memset(arguments[0], '\n', len);
}

/* ---- paths ---- */

static int file_at(const char *path)
{
    int fd = MUST(open(path, O_RDWR | O_CREAT, 0600));
    MUST(write(fd, "content", 7));
    return fd;
}
static void path_with_newlines(void) { file_at("a\nb\nflags:\t01\n"); }
static void path_of_no_text(void) { file_at("\xff\xfe\x80"); }
static void path_that_says_deleted(void) { file_at("here (deleted)"); }
static void path_that_said_deleted(void)
{
    file_at("gone (deleted)");
    unlink("gone (deleted)");
}
static void path_with_an_octal_number(void)
{
    int fd = file_at("map\\012ped");
    MUST(ftruncate(fd, 4096));
    if (mmap(NULL, 4096, PROT_READ, MAP_SHARED, fd, 0) == MAP_FAILED)
        bad("mmap");
    close(fd);
}
static void path_mapped_with_newlines(void)
{
    int fd = file_at("map\nped\n7f0000000000-7f0000001000 rwxp 00000000 00:00 0");
    MUST(ftruncate(fd, 4096));
    if (mmap(NULL, 4096, PROT_READ, MAP_PRIVATE, fd, 0) == MAP_FAILED)
        bad("mmap");
    close(fd);
}
static void deep(int folders)
{
    char name[201];
    memset(name, 'd', 200);
    name[200] = 0;
    for (int n = 0; n < folders; n++) {
        MUST(mkdir(name, 0700));
        MUST(chdir(name));
    }
}
static void path_of_4000_bytes(void)
{
    deep(19);
    file_at("file");
}
static void path_longer_than_the_kernel_tells(void)
{
    deep(25);
    file_at("file");
}
static void path_replaced(void)
{
    file_at("old");
    MUST(rename("old", "older"));
    close(file_at("old"));
}
static void folder_deleted(void)
{
    MUST(mkdir("folder", 0700));
    MUST(chdir("folder"));
    MUST(rmdir("../folder"));
}
static void link_loop(void)
{
    MUST(symlink("loop", "loop"));
    MUST(open("loop", O_PATH | O_NOFOLLOW));
}
static void program_deleted(void)
{
    if (!getenv("AGAIN")) {
        setenv("AGAIN", "1", 1);
        MUST(system("cp /proc/$PPID/exe ./program") == 0 ? 0 : -1);
        MUST(execl("./program", "hostile", "program_deleted", NULL));
    }
    unlink("program");
}

/* ---- descriptors ---- */

static void fd_as_high_as_may_be(void)
{
    struct rlimit limit;
    MUST(getrlimit(RLIMIT_NOFILE, &limit));
    struct rlimit wanted = {1048576, 1048576};
    if (setrlimit(RLIMIT_NOFILE, &wanted) == 0)
        limit = wanted;
    limit.rlim_cur = limit.rlim_max;
    MUST(setrlimit(RLIMIT_NOFILE, &limit));
    MUST(dup2(0, limit.rlim_max - 1));
}
static void fd_above_the_limit(void)
{
    MUST(dup2(0, 900));
    struct rlimit limit = {3, 3};
    MUST(setrlimit(RLIMIT_NOFILE, &limit));
}
static void fds_by_the_thousand(void)
{
    struct rlimit limit = {20000, 20000};
    MUST(setrlimit(RLIMIT_NOFILE, &limit));
    for (int n = 0; n < 5000; n++)
        MUST(n % 2 ? dup(0) : eventfd(n, 0));
}
static void fds_of_a_thread_alone(void);
static void epoll_in_epoll(void)
{
    int outer = MUST(epoll_create1(0)), inner = MUST(epoll_create1(0)), ends[2];
    struct epoll_event event = {.events = EPOLLIN};
    MUST(pipe(ends));
    MUST(epoll_ctl(inner, EPOLL_CTL_ADD, ends[0], &event));
    MUST(epoll_ctl(outer, EPOLL_CTL_ADD, inner, &event));
}
static void epoll_of_a_closed_one(void)
{
    int epoll = MUST(epoll_create1(0)), ends[2];
    struct epoll_event event = {.events = EPOLLIN};
    MUST(pipe(ends));
    MUST(dup(ends[0]));
    MUST(epoll_ctl(epoll, EPOLL_CTL_ADD, ends[0], &event));
    close(ends[0]);
    dup2(0, ends[0]);
}
static void socket_in_its_own_queue(void)
{
    int ends[2];
    MUST(socketpair(AF_UNIX, SOCK_DGRAM, 0, ends));
    char space[CMSG_SPACE(sizeof(int))] = {0};
    struct iovec iov = {"x", 1};
    struct msghdr message = {.msg_iov = &iov, .msg_iovlen = 1, .msg_control = space,
                             .msg_controllen = sizeof space};
    struct cmsghdr *c = CMSG_FIRSTHDR(&message);
    *c = (struct cmsghdr){CMSG_LEN(sizeof(int)), SOL_SOCKET, SCM_RIGHTS};
    memcpy(CMSG_DATA(c), &ends[1], sizeof(int));
    MUST(sendmsg(ends[0], &message, 0));
}
static void pipe_that_is_full(void)
{
    int ends[2];
    MUST(pipe2(ends, O_NONBLOCK));
    char some[4096] = {0};
    while (write(ends[1], some, sizeof some) > 0)
        ;
}

/* ---- memory ---- */

static void *mapping(unsigned long at, size_t len, int protection)
{
    int flags = MAP_PRIVATE | MAP_ANONYMOUS | (at ? MAP_FIXED_NOREPLACE : 0);
    void *got = mmap((void *)at, len, protection, flags, -1, 0);
    if (got == MAP_FAILED)
        bad("mmap");
    return got;
}
static void mappings_at_both_ends(void)
{
    mapping(0x10000, 4096, PROT_READ | PROT_WRITE);
    mapping(0x7ffffffff000 - 4096, 4096, PROT_READ | PROT_WRITE);
}
static void mappings_by_the_ten_thousand(void)
{
    char *all = mapping(0, 4096UL * 20000, PROT_READ | PROT_WRITE);
    for (int n = 0; n < 20000; n += 2)
        MUST(mprotect(all + 4096L * n, 4096, PROT_READ));
}
static void memory_nobody_may_read(void)
{
    char *secret = mapping(0, 1 << 20, PROT_READ | PROT_WRITE);
    memset(secret, 7, 1 << 20);
    MUST(mprotect(secret, 1 << 20, PROT_NONE));
}
static void memory_behind_the_end_of_its_file(void)
{
    int fd = file_at("short");
    if (mmap(NULL, 1 << 20, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0) == MAP_FAILED)
        bad("mmap");
    if (mmap(NULL, 1 << 20, PROT_READ | PROT_WRITE, MAP_PRIVATE, fd, 0) == MAP_FAILED)
        bad("mmap");
}
static void vdso_gone(void)
{
    /* Nothing of libc may use it any more: its pointer is only read at the start. */
    if (!getenv("AGAIN")) {
        unsigned long at = getauxval(AT_SYSINFO_EHDR);
        MUST(munmap((void *)at, 8192));
    }
}
static void sleep_without_vdso(void)
{
    struct timespec t = {0, 50000000};
    syscall(SYS_nanosleep, &t, NULL);
    if (write(1, "beat\n", 5) != 5)
        _exit(8);
}
static void memory_limit_reached(void)
{
    struct rlimit limit = {1, 1};
    MUST(setrlimit(RLIMIT_AS, &limit));
}
static void system_v_memory(void)
{
    int id = MUST(shmget(IPC_PRIVATE, 1 << 16, 0600));
    char *at = shmat(id, NULL, 0);
    MUST(shmctl(id, IPC_RMID, NULL));
    strcpy(at, "content");
}
static void userfaults(void)
{
    struct { uint64_t api, features, ioctls; } api = {0xaa, 0, 0};
    int fd = MUST(syscall(SYS_userfaultfd, O_CLOEXEC));
    MUST(ioctl(fd, 0xc018aa3f, &api));
}


/* ---- registers, signals, limits ---- */

static void stack_pointer_astray(void);
static void all_signals_blocked(void)
{
    sigset_t all;
    sigfillset(&all);
    sigprocmask(SIG_BLOCK, &all, NULL);
}
static void all_signals_ignored(void)
{
    for (int n = 1; n < 65; n++)
        signal(n, SIG_IGN);
}
static void signals_queued(void)
{
    all_signals_blocked();
    for (int n = 0; n < 500; n++)
        MUST(sigqueue(getpid(), SIGRTMIN + n % 20, (union sigval){.sival_int = n}));
}
static void no_limits_left(void)
{
    struct rlimit zero = {0, 0};
    int all[] = {RLIMIT_NPROC, RLIMIT_STACK, RLIMIT_FSIZE, RLIMIT_SIGPENDING, RLIMIT_CORE,
                 RLIMIT_MEMLOCK, RLIMIT_MSGQUEUE, RLIMIT_DATA};
    for (unsigned n = 0; n < sizeof all / sizeof *all; n++)
        if (all[n] != RLIMIT_FSIZE)
            MUST(setrlimit(all[n], &zero));
}
static void real_time_at_full_speed(void)
{
    struct sched_param param = {1};
    MUST(sched_setscheduler(0, SCHED_RR | SCHED_RESET_ON_FORK, &param));
}
static void spin_a_little(void)
{
    double end = now() + 0.002;
    while (now() < end)
        ;
    usleep(500);
}
static void stop_by_ttin(void)
{
    pid_t child = worker(sleep_on);
    /* In the group of its parent nobody could wake it, and it would not stop. */
    MUST(setpgid(child, child));
    kill(child, SIGTTIN);
    waitpid(child, NULL, WUNTRACED);
}
static void stop_by_stop(void)
{
    pid_t child = worker(sleep_on);
    kill(child, SIGSTOP);
    waitpid(child, NULL, WUNTRACED);
}

/* ---- relatives ---- */

static void *outlives_its_leader(void *unused)
{
    for (;;) {
        beat();
        usleep(1000);
    }
    return unused;
}
static void leader_is_dead(void)
{
    pthread_t t;
    pthread_create(&t, NULL, outlives_its_leader, NULL);
    puts("ready");
    fflush(stdout);
    syscall(SYS_exit, 0);
}
static void zombies_by_the_hundred(void)
{
    for (int n = 0; n < 200; n++)
        if (MUST(fork()) == 0)
            _exit(n);
}
static int beside(void *unused)
{
    for (;;)
        pause();
    return unused != NULL;
}
static void child_in_the_same_memory(void)
{
    static char stack[65536];
    MUST(clone(beside, stack + sizeof stack, CLONE_VM | SIGCHLD, NULL));
}
static void child_with_the_same_files(void)
{
    static char stack[65536];
    MUST(clone(beside, stack + sizeof stack, CLONE_FILES | SIGCHLD, NULL));
}
static void in_vfork(void)
{
    pid_t child = fork();
    if (child == 0) {
        if (vfork() == 0)
            for (;;)
                pause();
        _exit(0);
    }
}
static void child_under_a_debugger(void)
{
    pid_t child = MUST(fork());
    if (child == 0) {
        ptrace(PTRACE_TRACEME);
        raise(SIGSTOP);
        for (;;)
            pause();
    }
    waitpid(child, NULL, 0);
}
static void child_in_namespaces(void)
{
    if (MUST(fork()) == 0) {
        MUST(unshare(CLONE_NEWUTS | CLONE_NEWIPC));
        for (;;)
            pause();
    }
}
static void session_without_leader(void)
{
    pid_t child = MUST(fork());
    if (child == 0) {
        setsid();
        if (fork() == 0)
            for (;;)
                pause();
        _exit(0);
    }
    waitpid(child, NULL, 0);
}
static void group_without_leader(void)
{
    pid_t first = MUST(fork());
    if (first == 0) {
        setpgid(0, 0);
        if (fork() == 0)
            for (;;)
                pause();
        usleep(50000);
        _exit(0);
    }
    waitpid(first, NULL, 0);
}
static void chain_of_children(void)
{
    for (int n = 0; n < 60; n++)
        if (MUST(fork()) != 0)
            for (;;)
                pause();
}
static void threads_by_the_thousand(void)
{
    pthread_attr_t small;
    pthread_attr_init(&small);
    pthread_attr_setstacksize(&small, 16384);
    long wanted = getenv("THREADS") ? atol(getenv("THREADS")) : 1000;
    for (long n = 0; n < wanted; n++) {
        pthread_t t;
        if ((errno = pthread_create(&t, &small, thread_of, (void *)sleep_on)))
            bad("pthread_create");
    }
}
static void fds_of_a_thread(void)
{
    unshare(CLONE_FILES);
    close(0);
    for (;;)
        pause();
}
static void fds_of_a_thread_alone(void) { thread(fds_of_a_thread); }

/* ---- confined ---- */

static void filter(unsigned action)
{
    struct sock_filter code[] = {BPF_STMT(BPF_RET | BPF_K, action)};
    struct sock_fprog program = {1, code};
    MUST(prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0));
    MUST(prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &program));
}
static void deadly_filter_of_a_child(void)
{
    if (MUST(fork()) == 0) {
        struct sock_filter code[] = {
            BPF_STMT(BPF_LD | BPF_W | BPF_ABS, 0),
            BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_pause, 1, 0),
            BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_KILL_PROCESS),
            BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
        };
        struct sock_fprog program = {4, code};
        prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0);
        MUST(prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &program));
        for (;;)
            syscall(SYS_pause);
    }
}
static void filters_by_the_dozen(void)
{
    for (int n = 0; n < 30; n++)
        filter(SECCOMP_RET_ALLOW);
}
static void not_dumpable(void) { prctl(PR_SET_DUMPABLE, 0); }
static void without_privileges(void)
{
    MUST(setgid(65534));
    MUST(setuid(65534));
}
static void other_personality(void) { personality(ADDR_NO_RANDOMIZE | READ_IMPLIES_EXEC); }
static void locked_memory(void) { MUST(mlockall(MCL_CURRENT)); }

/* ---- at full speed ---- */

static void fork_and_exit(void)
{
    pid_t child = fork();
    if (child == 0)
        _exit(0);
    if (child > 0)
        waitpid(child, NULL, 0);
}
static void fork_deep(void)
{
    pid_t child = fork();
    if (child == 0) {
        pid_t grandchild = fork();
        if (grandchild == 0)
            _exit(0);
        if (grandchild > 0)
            waitpid(grandchild, NULL, 0);
        _exit(0);
    }
    if (child > 0)
        waitpid(child, NULL, 0);
}
static void fork_and_leave_zombies(void)
{
    for (int n = 0; n < 8; n++)
        if (fork() == 0)
            _exit(n);
    while (wait(NULL) > 0)
        ;
}
static void vfork_and_exit(void)
{
    pid_t child = vfork();
    if (child == 0)
        _exit(0);
    waitpid(child, NULL, 0);
}
static void exec_again(void)
{
    pid_t child = fork();
    if (child == 0) {
        execl("/proc/self/exe", "hostile", "exec_until", "12", NULL);
        _exit(1);
    }
    waitpid(child, NULL, 0);
}
static void *at_once(void *unused) { return unused; }
static void thread_and_join(void)
{
    pthread_t t[4];
    for (int n = 0; n < 4; n++)
        if (pthread_create(&t[n], NULL, at_once, NULL))
            bad("pthread_create");
    for (int n = 0; n < 4; n++)
        pthread_join(t[n], NULL);
}
static void map_and_unmap(void)
{
    for (int n = 0; n < 20; n++) {
        char *at = mmap(NULL, 65536, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        if (at == MAP_FAILED)
            bad("mmap");
        memset(at, n, 65536);
        mprotect(at, 4096, PROT_READ);
        madvise(at + 8192, 8192, MADV_DONTNEED);
        if (at[4096] != n || at[8192] != 0)
            bad("memory");
        munmap(at, 65536);
    }
}
static void open_and_close(void)
{
    int fds[12];
    for (int n = 0; n < 12; n++)
        fds[n] = n % 3 == 0 ? eventfd(0, 0) : n % 3 == 1 ? open("/dev/null", O_RDWR) : dup(0);
    int ends[2];
    if (pipe(ends) == 0) {
        close(ends[0]);
        close(ends[1]);
    }
    for (int n = 0; n < 12; n++)
        close(fds[n]);
}
static void connect_and_close(void)
{
    int ends[2];
    MUST(socketpair(AF_UNIX, SOCK_STREAM, 0, ends));
    MUST(write(ends[0], "hello", 5));
    char got[5];
    if (read(ends[1], got, 5) != 5)
        bad("read");
    close(ends[0]);
    close(ends[1]);
}
static void change_credentials(void)
{
    MUST(setresuid(-1, 65534, -1));
    MUST(setresuid(-1, 0, -1));
    umask(umask(0) ^ 7);
    prctl(PR_SET_NAME, now() > 1 ? "one" : "two");
}
static void change_dumpable(void)
{
    prctl(PR_SET_DUMPABLE, 0);
    prctl(PR_SET_DUMPABLE, 1);
}
static void change_folder(void)
{
    MUST(chdir("/"));
    MUST(chdir("/proc/self"));
    MUST(chdir("/usr"));
}
static void change_filesystem_names(void)
{
    static int number;
    char old[32], new[32];
    sprintf(old, "name-%d-%d", getpid(), number);
    sprintf(new, "name-%d-%d", getpid(), ++number);
    if (number == 1)
        close(MUST(open(old, O_CREAT | O_RDWR, 0600)));
    int fd = open(old, O_RDWR);
    rename(old, new);
    close(fd);
}
static volatile sig_atomic_t caught;
static void catch(int signal) { caught = signal; }
static void signal_oneself(void)
{
    for (int n = 0; n < 8; n++) {
        caught = 0;
        raise(n % 2 ? SIGUSR1 : SIGRTMIN);
        if (!caught)
            bad("a signal is lost");
    }
}
static pid_t other;
static void signal_another(void)
{
    kill(other, SIGUSR1);
    sched_yield();
}
static void stop_and_go(void)
{
    kill(other, SIGSTOP);
    kill(other, SIGCONT);
    sched_yield();
}
static void trace_another(void)
{
    if (ptrace(PTRACE_SEIZE, other, 0, 0) == 0) {
        ptrace(PTRACE_INTERRUPT, other, 0, 0);
        waitpid(other, NULL, __WALL);
        ptrace(PTRACE_DETACH, other, 0, 0);
    }
}
static void kill_and_replace(void)
{
    static pid_t victim;
    if (victim) {
        kill(victim, SIGKILL);
        waitpid(victim, NULL, 0);
    }
    victim = fork();
    if (victim == 0)
        for (;;)
            pause();
    usleep(500);
}
static void orphan(void)
{
    pid_t child = fork();
    if (child == 0) {
        if (fork() == 0) {
            usleep(300);
            _exit(0);
        }
        _exit(0);
    }
    waitpid(child, NULL, 0);
}
static void set_limits(void)
{
    struct rlimit limit;
    getrlimit(RLIMIT_CORE, &limit);
    limit.rlim_cur = limit.rlim_cur ? 0 : limit.rlim_max;
    setrlimit(RLIMIT_CORE, &limit);
}
static void set_timers(void)
{
    struct itimerval soon = {{0, 0}, {1000, 0}};
    setitimer(ITIMER_REAL, &soon, NULL);
    timer_t timer;
    struct sigevent nothing = {.sigev_notify = SIGEV_NONE};
    if (timer_create(CLOCK_MONOTONIC, &nothing, &timer) == 0)
        timer_delete(timer);
}
static void fill_and_drain(void)
{
    static int ends[2];
    if (!ends[1])
        MUST(pipe(ends));
    char some[1000];
    memset(some, 5, sizeof some);
    MUST(write(ends[1], some, sizeof some));
    if (read(ends[0], some, sizeof some) != sizeof some || some[999] != 5)
        bad("pipe");
}

static void two_of_fork_and_exit(void) { worker(fork_and_exit); worker(fork_and_exit); }
static void two_of_fork_deep(void) { worker(fork_deep); worker(fork_deep); }
static void two_of_zombies(void) { worker(fork_and_leave_zombies); worker(fork_and_leave_zombies); }
static void two_of_vfork(void) { worker(vfork_and_exit); worker(vfork_and_exit); }
static void two_of_exec(void) { worker(exec_again); worker(exec_again); }
static void two_of_orphan(void) { worker(orphan); worker(orphan); }
static void two_of_replace(void) { worker(kill_and_replace); worker(kill_and_replace); }
static void two_of_names(void) { worker(change_filesystem_names); worker(change_filesystem_names); }
static void threads_of_threads(void) { thread(thread_and_join); thread(thread_and_join); }
static void threads_of_maps(void) { thread(map_and_unmap); thread(map_and_unmap); }
static void threads_of_files(void) { thread(open_and_close); thread(connect_and_close); }
static void handlers(void)
{
    signal(SIGUSR1, catch);
    signal(SIGRTMIN, catch);
}
static void signals_to_oneself(void)
{
    handlers();
    worker(signal_oneself);
}
static void signals_to_another(void)
{
    handlers();
    other = getpid();
    worker(signal_another);
    other = worker(sleep_on);
    worker(signal_another);
}
static void stops_of_another(void)
{
    other = worker(spin_a_little);
    worker(stop_and_go);
}
static void tracer_of_another(void)
{
    other = worker(spin_a_little);
    worker(trace_another);
}
static void all_at_once(void)
{
    handlers();
    worker(fork_and_exit);
    worker(thread_and_join);
    worker(map_and_unmap);
    worker(open_and_close);
    worker(change_credentials);
    worker(signal_oneself);
    worker(exec_again);
}

static void stack_astray(void)
{
    /* Nothing of ours may need a stack to be stopped and to go on. */
    __asm__ volatile("mov %%rsp, %%r15\n"
                     "mov $0x1234567, %%rsp\n"
                     "mov $200000, %%ecx\n"
                     "1: dec %%ecx\n"
                     "jnz 1b\n"
                     "mov %%r15, %%rsp\n"
                     :
                     :
                     : "r15", "rcx", "cc", "memory");
}
static void stack_pointer_astray(void) { worker(stack_astray); }

#define KIND(name, ...) {#name, __VA_ARGS__}

static const struct kind {
    const char *name;
    void (*set_up)(void);
    void (*step)(void);
} kinds[] = {
    KIND(name_closes_a_bracket, name_closes_a_bracket),
    KIND(name_with_newlines, name_with_newlines),
    KIND(name_of_nothing, name_of_nothing),
    KIND(name_of_no_text, name_of_no_text),
    KIND(name_of_a_thread, name_of_a_thread),
    KIND(title_overwritten, title_overwritten),
    KIND(path_with_newlines, path_with_newlines),
    KIND(path_of_no_text, path_of_no_text),
    KIND(path_that_says_deleted, path_that_says_deleted),
    KIND(path_that_said_deleted, path_that_said_deleted),
    KIND(path_with_an_octal_number, path_with_an_octal_number),
    KIND(path_mapped_with_newlines, path_mapped_with_newlines),
    KIND(path_of_4000_bytes, path_of_4000_bytes),
    KIND(path_longer_than_the_kernel_tells, path_longer_than_the_kernel_tells),
    KIND(path_replaced, path_replaced),
    KIND(folder_deleted, folder_deleted),
    KIND(link_loop, link_loop),
    KIND(program_deleted, program_deleted),
    KIND(fd_as_high_as_may_be, fd_as_high_as_may_be),
    KIND(fd_above_the_limit, fd_above_the_limit),
    KIND(fds_by_the_thousand, fds_by_the_thousand),
    KIND(fds_of_a_thread_alone, fds_of_a_thread_alone),
    KIND(epoll_in_epoll, epoll_in_epoll),
    KIND(epoll_of_a_closed_one, epoll_of_a_closed_one),
    KIND(socket_in_its_own_queue, socket_in_its_own_queue),
    KIND(pipe_that_is_full, pipe_that_is_full),
    KIND(mappings_at_both_ends, mappings_at_both_ends),
    KIND(mappings_by_the_ten_thousand, mappings_by_the_ten_thousand),
    KIND(memory_nobody_may_read, memory_nobody_may_read),
    KIND(memory_behind_the_end_of_its_file, memory_behind_the_end_of_its_file),
    KIND(vdso_gone, vdso_gone, sleep_without_vdso),
    KIND(memory_limit_reached, memory_limit_reached),
    KIND(system_v_memory, system_v_memory),
    KIND(userfaults, userfaults),
    KIND(stack_pointer_astray, stack_pointer_astray),
    KIND(all_signals_blocked, all_signals_blocked),
    KIND(all_signals_ignored, all_signals_ignored),
    KIND(signals_queued, signals_queued),
    KIND(no_limits_left, no_limits_left),
    KIND(real_time_at_full_speed, real_time_at_full_speed, spin_a_little),
    KIND(stop_by_ttin, stop_by_ttin),
    KIND(stop_by_stop, stop_by_stop),
    KIND(leader_is_dead, leader_is_dead),
    KIND(zombies_by_the_hundred, zombies_by_the_hundred),
    KIND(child_in_the_same_memory, child_in_the_same_memory),
    KIND(child_with_the_same_files, child_with_the_same_files),
    KIND(in_vfork, in_vfork),
    KIND(child_under_a_debugger, child_under_a_debugger),
    KIND(child_in_namespaces, child_in_namespaces),
    KIND(session_without_leader, session_without_leader),
    KIND(group_without_leader, group_without_leader),
    KIND(chain_of_children, chain_of_children),
    KIND(threads_by_the_thousand, threads_by_the_thousand),
    KIND(deadly_filter_of_a_child, deadly_filter_of_a_child),
    KIND(filters_by_the_dozen, filters_by_the_dozen),
    KIND(not_dumpable, not_dumpable),
    KIND(without_privileges, without_privileges),
    KIND(other_personality, other_personality),
    KIND(locked_memory, locked_memory),
    /* At full speed. */
    KIND(forks, two_of_fork_and_exit),
    KIND(forks_of_forks, two_of_fork_deep),
    KIND(forks_and_zombies, two_of_zombies),
    KIND(vforks, two_of_vfork),
    KIND(execs, two_of_exec),
    KIND(orphans, two_of_orphan),
    KIND(kills, two_of_replace),
    KIND(threads, threads_of_threads),
    KIND(maps, threads_of_maps, map_and_unmap),
    KIND(files, threads_of_files, open_and_close),
    KIND(file_names, two_of_names),
    KIND(credentials, NULL, change_credentials),
    KIND(dumpable, NULL, change_dumpable),
    KIND(folders, NULL, change_folder),
    KIND(limits, NULL, set_limits),
    KIND(timers, NULL, set_timers),
    KIND(pipes, NULL, fill_and_drain),
    KIND(signals, signals_to_oneself),
    KIND(signals_of_others, signals_to_another),
    KIND(stops, stops_of_another),
    KIND(tracers, tracer_of_another),
    KIND(all_at_once, all_at_once),
};

int main(int argc, char **argv)
{
    const int count = sizeof kinds / sizeof *kinds;
    arguments = argv;
    if (argc < 2) {
        for (int n = 0; n < count; n++)
            puts(kinds[n].name);
        return 0;
    }
    if (!strcmp(argv[1], "exec_until")) {
        char left[12];
        sprintf(left, "%d", atoi(argv[2]) - 1);
        if (atoi(left) > 0)
            execl("/proc/self/exe", "hostile", "exec_until", left, NULL);
        return 0;
    }
    for (int n = 0; n < count; n++) {
        if (strcmp(argv[1], kinds[n].name))
            continue;
        if (kinds[n].set_up)
            kinds[n].set_up();
        puts("ready");
        fflush(stdout);
        void (*step)(void) = kinds[n].step ? kinds[n].step : rest;
        for (;;) {
            step();
            if (step != sleep_without_vdso)
                beat();
        }
    }
    return 2;
}
