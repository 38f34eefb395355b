/* Targets that make it hard for a dumper: `hostile KIND`. Each sets itself up, says "ready", goes
 * on with whatever it does, and prints "beat" every 50 ms as long as it is well; "BAD ..." if not.
 * When the file "go" is there it checks itself, and says "done". One that stands still has taken
 * a portrait of itself and its children at the start, and compares. `hostile` alone lists the kinds.
 *
 * None outlives the test for long: children die with their parent, the root after LIFETIME.
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

enum { LIFETIME = 120 };

static char **arguments;
static pid_t root;
/* The file that tells to check; the working folder may change. */
static char go[4096];

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

static void say(const char *what)
{
    size_t len = strlen(what);
    if (write(1, what, len) != (ssize_t)len)
        _exit(8);
}

static void (*check)(void);
struct portrait {
    size_t len;
    char text[3 << 20];
};
static struct portrait before, after;
static void compare(void);

static void beat(void)
{
    static double first, last;
    static int checked;
    if (first == 0)
        first = now();
    if (now() < last + 0.05)
        return;
    last = now();
    if (last > first + LIFETIME)
        _exit(7);
    say("beat\n");
    if (!checked && access(go, F_OK) == 0) {
        checked = 1;
        if (before.len > 0)
            compare();
        if (check)
            check();
        say("done\n");
    }
}

static pid_t child(void)
{
    pid_t pid = MUST(fork());
    if (pid == 0)
        prctl(PR_SET_PDEATHSIG, SIGKILL);
    return pid;
}

/* A child that does one thing for ever. */
static pid_t worker(void (*work)(void))
{
    pid_t pid = child();
    if (pid == 0)
        for (;;)
            work();
    return pid;
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

static void rest(void) { usleep(5000); }
static void sleep_on(void) { pause(); }
static void sleep_for_ever(void)
{
    for (;;)
        pause();
}

/* ---- names ---- */

static void name_closes_a_bracket(void) { prctl(PR_SET_NAME, "a) R 1 1 1 ("); }
static void name_with_newlines(void) { prctl(PR_SET_NAME, "\nTgid:\t1\n"); }
static void name_of_nothing(void) { prctl(PR_SET_NAME, ""); }
static void name_of_no_text(void) { prctl(PR_SET_NAME, "\xff\xfe\x80\x01\x7f\\\x1b"); }
static volatile int is_there;
static void wait_until_there(void)
{
    while (!is_there)
        usleep(1000);
}
static void named_thread(void)
{
    prctl(PR_SET_NAME, ") Z 0\n) (");
    is_there = 1;
    sleep_for_ever();
}
static void name_of_a_thread(void)
{
    thread(named_thread);
    wait_until_there();
}
static void title_overwritten(void)
{
    size_t len = strlen(arguments[0]);
    memset(arguments[0], '\n', len);
}

/* ---- paths ---- */

static int kept;
static void check_file(void)
{
    char content[8] = {0};
    if (pread(kept, content, 7, 0) != 7 || strcmp(content, "content"))
        bad("the file's content");
    if (lseek(kept, 0, SEEK_CUR) != 7)
        bad("the file's position");
}
static int file_at(const char *path)
{
    kept = MUST(open(path, O_RDWR | O_CREAT, 0600));
    MUST(write(kept, "content", 7));
    check = check_file;
    return kept;
}
static void path_with_newlines(void) { file_at("a\nb\nflags:\t01\n"); }
static void path_of_no_text(void) { file_at("\xff\xfe\x80"); }
static void path_that_says_deleted(void) { file_at("here (deleted)"); }
static void path_that_said_deleted(void)
{
    file_at("gone (deleted)");
    unlink("gone (deleted)");
}
static char *mapped;
static void check_mapped(void)
{
    if (memcmp(mapped, "content", 8))
        bad("the mapping's content");
}
static void map_file(int fd, int sharing)
{
    MUST(ftruncate(fd, 4096));
    mapped = mmap(NULL, 4096, PROT_READ, sharing, fd, 0);
    if (mapped == MAP_FAILED)
        bad("mmap");
    close(fd);
    check = check_mapped;
}
static void path_with_an_octal_number(void) { map_file(file_at("map\\012ped"), MAP_SHARED); }
static void path_mapped_with_newlines(void)
{
    map_file(file_at("map\nped\n7f0000000000-7f0000001000 rwxp 00000000 00:00 0"), MAP_PRIVATE);
}
static void path_mapped_that_says_deleted(void)
{
    map_file(file_at("zero (deleted)"), MAP_SHARED);
}
static void memory_file_named_strangely(void)
{
    int fd = MUST(memfd_create("a\nb\\012 (deleted)", 0));
    MUST(write(fd, "content", 7));
    map_file(fd, MAP_SHARED);
}
static int listener;
static void check_listener(void)
{
    struct sockaddr_un name = {0};
    socklen_t len = sizeof name;
    MUST(getsockname(listener, (struct sockaddr *)&name, &len));
    int client = MUST(socket(AF_UNIX, SOCK_STREAM, 0));
    MUST(connect(client, (struct sockaddr *)&name, len));
    MUST(accept(listener, NULL, NULL));
}
static void listen_at(const char *name, size_t len)
{
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    memcpy(address.sun_path, name, len);
    listener = MUST(socket(AF_UNIX, SOCK_STREAM, 0));
    MUST(bind(listener, (struct sockaddr *)&address, sizeof(sa_family_t) + len));
    MUST(listen(listener, 5));
    check = check_listener;
}
static void socket_named_strangely(void) { listen_at("so\ncket\xff\x01 (deleted)", 19); }
static void socket_with_zeros_in_its_name(void)
{
    char name[108] = {0};
    sprintf(name + 1, "\n@%d", getpid());
    name[107] = '\n';
    listen_at(name, sizeof name);
}
static void check_fifo(void)
{
    char got[7];
    if (read(kept, got, 7) != 7 || memcmp(got, "content", 7))
        bad("the content of the FIFO");
}
static void fifo_named_strangely(void)
{
    MUST(mkfifo("fi\nfo\xff", 0600));
    kept = MUST(open("fi\nfo\xff", O_RDWR));
    MUST(write(kept, "content", 7));
    check = check_fifo;
}
static void folder_named_strangely(void)
{
    MUST(mkdir("fol\nder (deleted)\xff", 0700));
    MUST(chdir("fol\nder (deleted)\xff"));
    MUST(open(".", O_RDONLY));
}
static void path_of_a_parent_renamed(void)
{
    MUST(mkdir("before", 0700));
    MUST(chdir("before"));
    file_at("file");
    MUST(rename("../before", "../af\nter"));
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
    close(MUST(open("old", O_RDWR | O_CREAT, 0600)));
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
static void program_named_strangely(void)
{
    const char *name = "./pro\ngram) R (deleted)";
    if (!getenv("AGAIN")) {
        setenv("AGAIN", "1", 1);
        MUST(system("cp /proc/$PPID/exe \"./pro\ngram) R (deleted)\"") == 0 ? 0 : -1);
        MUST(execl(name, "hostile", "program_named_strangely", NULL));
    }
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
    printf("highest %ld\n", MUST(dup2(0, limit.rlim_max - 1)));
}
static void fd_far_up(void)
{
    struct rlimit limit;
    MUST(getrlimit(RLIMIT_NOFILE, &limit));
    limit.rlim_cur = limit.rlim_max;
    MUST(setrlimit(RLIMIT_NOFILE, &limit));
    MUST(dup2(0, limit.rlim_max / 2));
}
static void check_high(void) { MUST(fcntl(900, F_GETFD)); }
static void fd_above_the_limit(void)
{
    check = check_high;
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
static int queue;
static void check_queue(void)
{
    char data, space[CMSG_SPACE(sizeof(int))] = {0};
    struct iovec iov = {&data, 1};
    struct msghdr message = {.msg_iov = &iov, .msg_iovlen = 1, .msg_control = space,
                             .msg_controllen = sizeof space};
    if (MUST(recvmsg(queue, &message, 0)) != 1 || data != 'x')
        bad("the message");
    int got;
    memcpy(&got, CMSG_DATA(CMSG_FIRSTHDR(&message)), sizeof got);
    struct stat first, second;
    MUST(fstat(got, &first));
    MUST(fstat(queue, &second));
    if (first.st_ino != second.st_ino)
        bad("the socket in the queue");
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
    queue = ends[1];
    check = check_queue;
}
static long filled;
static void check_pipe(void)
{
    char some[4096];
    long got, all = 0;
    while ((got = read(kept, some, sizeof some)) > 0)
        all += got;
    if (all != filled)
        bad("the pipe's content");
}
static void pipe_that_is_full(void)
{
    int ends[2];
    MUST(pipe2(ends, O_NONBLOCK));
    char some[4096] = {0};
    long put;
    while ((put = write(ends[1], some, sizeof some)) > 0)
        filled += put;
    kept = ends[0];
    check = check_pipe;
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
static char *secret;
static void check_secret(void)
{
    MUST(mprotect(secret, 1 << 20, PROT_READ));
    for (int n = 0; n < 1 << 20; n++)
        if (secret[n] != 7)
            bad("the memory's content");
}
static void memory_nobody_may_read(void)
{
    check = check_secret;
    secret = mapping(0, 1 << 20, PROT_READ | PROT_WRITE);
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
    /* From here on nothing of libc that asks for the time may be called. */
    MUST(munmap((void *)getauxval(AT_SYSINFO_EHDR), 8192));
}
static void sleep_without_vdso(void)
{
    static int naps, checked;
    struct timespec t = {0, 50000000};
    syscall(SYS_nanosleep, &t, NULL);
    if (++naps > LIFETIME * 20)
        _exit(7);
    say("beat\n");
    if (!checked && access(go, F_OK) == 0) {
        checked = 1;
        compare();
        say("done\n");
    }
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

static void all_signals_blocked(void)
{
    sigset_t all;
    sigfillset(&all);
    sigprocmask(SIG_BLOCK, &all, NULL);
}
static void sleep_on_signal(int signal) { (void)signal; }
static void all_signals_ignored(void)
{
    /* Of SIGTRAP criu 4.2 loses it. */
    for (int n = 1; n < 65; n++)
        if (n != SIGTRAP)
            signal(n, SIG_IGN);
}
static void check_signals(void)
{
    sigset_t all;
    sigfillset(&all);
    for (int n = 0; n < 500; n++) {
        siginfo_t info;
        struct timespec none = {0, 0};
        int expected = n / 25 + n % 25 * 20;
        if (sigtimedwait(&all, &info, &none) != SIGRTMIN + n / 25 ||
            info.si_value.sival_int != expected)
            bad("the signals");
    }
}
static void signals_queued(void)
{
    all_signals_blocked();
    for (int n = 0; n < 500; n++)
        MUST(sigqueue(getpid(), SIGRTMIN + n % 20, (union sigval){.sival_int = n}));
    check = check_signals;
}
static void no_limits_left(void)
{
    struct rlimit zero = {0, 0};
    int all[] = {RLIMIT_NPROC, RLIMIT_STACK, RLIMIT_SIGPENDING, RLIMIT_CORE, RLIMIT_MEMLOCK,
                 RLIMIT_MSGQUEUE};
    for (unsigned n = 0; n < sizeof all / sizeof *all; n++)
        MUST(setrlimit(all[n], &zero));
}
static void no_room_for_data(void)
{
    signal(SIGSEGV, sleep_on_signal);
    struct rlimit zero = {0, 0};
    MUST(setrlimit(RLIMIT_DATA, &zero));
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
    char path[40], text[4096];
    sprintf(path, "/proc/self/task/%d/stat", root);
    do {
        int fd = MUST(open(path, O_RDONLY));
        text[MUST(read(fd, text, sizeof text - 1))] = 0;
        close(fd);
    } while (!strstr(text, ") Z "));
    say("ready\n");
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
    syscall(SYS_exit, 0);
}
static void zombies_by_the_hundred(void)
{
    siginfo_t info;
    for (int n = 0; n < 200; n++) {
        pid_t pid = MUST(fork());
        /* Of codes above 127 criu 4.2 loses a bit. */
        if (pid == 0)
            _exit(n % 128);
        MUST(waitid(P_PID, pid, &info, WEXITED | WNOWAIT));
    }
}
static int beside(void *unused)
{
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    for (;;)
        pause();
    return unused != NULL;
}
static void child_that_shares(int flags)
{
    static char stack[65536];
    MUST(clone(beside, stack + sizeof stack, flags | SIGCHLD, NULL));
}
static void child_in_the_same_memory(void) { child_that_shares(CLONE_VM); }
static void child_with_the_same_files(void) { child_that_shares(CLONE_FILES); }
static void in_vfork(void)
{
    int ends[2];
    char there;
    MUST(pipe(ends));
    if (child() == 0) {
        if (vfork() == 0) {
            prctl(PR_SET_PDEATHSIG, SIGKILL);
            MUST(write(ends[1], "", 1));
            sleep_for_ever();
        }
        _exit(0);
    }
    MUST(read(ends[0], &there, 1));
}
static void child_under_a_debugger(void)
{
    pid_t pid = child();
    if (pid == 0) {
        ptrace(PTRACE_TRACEME);
        raise(SIGSTOP);
        for (;;)
            pause();
    }
    waitpid(pid, NULL, 0);
}
static void child_in_namespaces(void)
{
    int ends[2];
    char there;
    MUST(pipe(ends));
    if (child() == 0) {
        MUST(unshare(CLONE_NEWUTS | CLONE_NEWIPC));
        MUST(write(ends[1], "", 1));
        for (;;)
            pause();
    }
    MUST(read(ends[0], &there, 1));
}
/* An orphan, which no death of a parent reaches. */
static void while_the_root_lives(void)
{
    while (kill(root, 0) == 0)
        usleep(200000);
    _exit(0);
}
static void leaderless(int (*lead)(void))
{
    int ends[2];
    char there;
    MUST(pipe(ends));
    pid_t first = MUST(fork());
    if (first == 0) {
        MUST(lead());
        if (fork() == 0) {
            MUST(write(ends[1], "", 1));
            while_the_root_lives();
        }
        MUST(read(ends[0], &there, 1));
        _exit(0);
    }
    waitpid(first, NULL, 0);
}
static int lead_session(void) { return setsid(); }
static int lead_group(void) { return setpgid(0, 0); }
/* Only a tree that takes in its orphans keeps them. */
static void session_without_leader(void)
{
    MUST(prctl(PR_SET_CHILD_SUBREAPER, 1));
    leaderless(lead_session);
}
static void group_without_leader(void)
{
    MUST(prctl(PR_SET_CHILD_SUBREAPER, 1));
    leaderless(lead_group);
}
static void chain_of_children(void)
{
    int ends[2];
    char there;
    MUST(pipe(ends));
    for (int n = 0; n < 60; n++)
        if (child() != 0) {
            if (n == 0)
                break;
            sleep_for_ever();
        }
    if (getpid() != root) {
        MUST(write(ends[1], "", 1));
        sleep_for_ever();
    }
    MUST(read(ends[0], &there, 1));
}
static void threads_by_the_thousand(void)
{
    pthread_attr_t small;
    pthread_attr_init(&small);
    pthread_attr_setstacksize(&small, 16384);
    for (int n = 0; n < 1000; n++) {
        pthread_t t;
        if ((errno = pthread_create(&t, &small, thread_of, (void *)sleep_on)))
            bad("pthread_create");
    }
}
static void fds_of_a_thread(void)
{
    unshare(CLONE_FILES);
    close(0);
    is_there = 1;
    sleep_for_ever();
}
static void fds_of_a_thread_alone(void)
{
    thread(fds_of_a_thread);
    wait_until_there();
}

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
    int ends[2];
    char there;
    MUST(pipe(ends));
    if (child() == 0) {
        struct sock_filter code[] = {
            BPF_STMT(BPF_LD | BPF_W | BPF_ABS, 0),
            BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_pause, 2, 0),
            BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_write, 1, 0),
            BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_KILL_PROCESS),
            BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
        };
        struct sock_fprog program = {5, code};
        prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0);
        MUST(prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &program));
        syscall(SYS_write, ends[1], "", 1);
        for (;;)
            syscall(SYS_pause);
    }
    MUST(read(ends[0], &there, 1));
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
    victim = child();
    if (victim == 0)
        sleep_for_ever();
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

/* One that is always somebody else: it forks and ends, the child goes on. Not at
 * full speed: who is frozen first, and last, is a race then that nobody need win. */
static void comet(void)
{
    usleep(3000);
    pid_t pid = fork();
    if (pid == 0) {
        if (kill(root, 0) != 0)
            _exit(0);
        return;
    }
    if (pid > 0)
        _exit(0);
}
static void comets(void)
{
    /* What comets leave goes by itself, also while the root is frozen. */
    signal(SIGCHLD, SIG_IGN);
    MUST(prctl(PR_SET_CHILD_SUBREAPER, 1));
    for (int n = 0; n < 2; n++)
        if (fork() == 0)
            for (;;)
                comet();
}
/* Sixty-two processes within a moment, again and again. */
static void fork_bomb(void)
{
    for (int depth = 0; depth < 5; depth++) {
        pid_t first = fork();
        if (first != 0 && fork() != 0) {
            while (wait(NULL) > 0)
                ;
            if (depth > 0)
                _exit(0);
            return;
        }
        prctl(PR_SET_PDEATHSIG, SIGKILL);
    }
    _exit(0);
}
static void end_of_many_threads(void)
{
    pid_t pid = fork();
    if (pid == 0) {
        for (int n = 0; n < 8; n++)
            thread(sleep_on);
        _exit(0);
    }
    waitpid(pid, NULL, 0);
}
static void *exec_in_a_thread(void *unused)
{
    execl("/proc/self/exe", "hostile", "exec_until", "6", NULL);
    return unused;
}
static void exec_from_a_thread(void)
{
    pid_t pid = fork();
    if (pid == 0) {
        pthread_t t;
        prctl(PR_SET_PDEATHSIG, SIGKILL);
        pthread_create(&t, NULL, exec_in_a_thread, NULL);
        sleep_for_ever();
    }
    waitpid(pid, NULL, 0);
}
static void exec_oneself(void)
{
    char count[24];
    long last = arguments[2] ? atol(arguments[2]) : 0;
    if (last > 0 && last % 32 == 0) {
        say("beat\n");
        if (access(go, F_OK) == 0) {
            say("done\n");
            sleep_for_ever();
        }
    }
    if (last > 60000)
        _exit(7);
    sprintf(count, "%ld", last + 1);
    execl("/proc/self/exe", "hostile", "execs_of_the_root", count, NULL);
    bad("execl");
}
static char *shrinking;
static void truncate_again(void)
{
    MUST(ftruncate(kept, 0));
    MUST(ftruncate(kept, 1 << 20));
    shrinking[4096] = 7;
    shrinking[65536] = 7;
}
static void truncations(void)
{
    kept = MUST(open("shrinking", O_RDWR | O_CREAT, 0600));
    MUST(ftruncate(kept, 1 << 20));
    shrinking = mmap(NULL, 1 << 20, PROT_READ | PROT_WRITE, MAP_SHARED, kept, 0);
    if (shrinking == MAP_FAILED)
        bad("mmap");
    worker(truncate_again);
}
static void bombs(void) { worker(fork_bomb); }
static void two_of_ends(void) { worker(end_of_many_threads); worker(end_of_many_threads); }
static void two_of_thread_execs(void) { worker(exec_from_a_thread); worker(exec_from_a_thread); }
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

/* ---- a portrait of those that stand still ---- */

static void add(struct portrait *p, const char *what, size_t len)
{
    if (p->len + len >= sizeof p->text)
        bad("the portrait is too large");
    memcpy(p->text + p->len, what, len);
    p->len += len;
}
static void add_text(struct portrait *p, const char *what) { add(p, what, strlen(what)); }

/* Reads what fits; no memory is asked for, which there may be none of. */
static ssize_t slurp(const char *path, char *into, size_t room)
{
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    ssize_t all = 0, got = 0;
    if (fd < 0)
        return -1;
    while (all < (ssize_t)room - 1 && (got = read(fd, into + all, room - 1 - all)) > 0)
        all += got;
    close(fd);
    into[all] = 0;
    return all;
}

static void add_link(struct portrait *p, const char *what, const char *path)
{
    char link[4200];
    ssize_t len = readlink(path, link, sizeof link - 1);
    add_text(p, what);
    if (len < 0)
        len = sprintf(link, "errno %d", errno);
    link[len] = 0;
    /* Numbers of sockets and pipes, and names of what is deleted, are not to be kept. */
    if (link[0] != '/' && strchr(link, '['))
        *strchr(link, '[') = 0;
    if (len > 10 && !strcmp(link + len - 10, " (deleted)") && access(link, F_OK) != 0)
        strcpy(link, "(deleted)");
    add_text(p, link);
    add_text(p, "\n");
}

static void add_status(struct portrait *p, const char *folder, int is_leader)
{
    static const char *kept_lines[] = {"Umask", "Tgid", "Uid", "Gid", "Groups", "SigPnd", "ShdPnd",
                                       "SigBlk", "SigIgn", "SigCgt", "CapInh", "CapPrm", "CapEff",
                                       "CapBnd", "CapAmb", "NoNewPrivs", "Seccomp",
                                       "Seccomp_filters", "VmLck", "Threads"};
    char path[64], text[8192];
    sprintf(path, "%s/comm", folder);
    ssize_t len = slurp(path, text, sizeof text);
    add(p, text, len < 0 ? 0 : len);
    sprintf(path, "%s/stat", folder);
    if (slurp(path, text, sizeof text) > 0) {
        int parent, group, session;
        char state, words[80];
        sscanf(strrchr(text, ')') + 2, "%c %d %d %d", &state, &parent, &group, &session);
        /* Whose child the root is may change. */
        sprintf(words, "%c %d %d %d\n", state == 'R' ? 'S' : state,
                !is_leader || parent == getppid() ? 0 : parent, group, session);
        add_text(p, words);
        /* How it ended. */
        if (state == 'Z')
            add_text(p, strrchr(text, ' '));
    }
    sprintf(path, "%s/status", folder);
    if (slurp(path, text, sizeof text) < 0)
        return;
    for (char *line = text, *end; (end = strchr(line, '\n')); line = end + 1)
        for (unsigned n = 0; n < sizeof kept_lines / sizeof *kept_lines; n++) {
            size_t length = strlen(kept_lines[n]);
            if (!strncmp(line, kept_lines[n], length) && line[length] == ':')
                add(p, line, end + 1 - line);
        }
}

/* What is mapped, whatever it is, and in however many pieces. */
static void add_maps(struct portrait *p, const char *path)
{
    static char text[4 << 20];
    unsigned long from = 0, to = 0;
    char access[5] = "";
    char piece[64];
    if (slurp(path, text, sizeof text) < 0)
        return;
    for (char *line = text, *end; (end = strchr(line, '\n')); line = end + 1) {
        unsigned long start, stop;
        char now[5];
        *end = 0;
        if (strstr(line, "[v"))
            continue;
        sscanf(line, "%lx-%lx %4s", &start, &stop, now);
        if (start != to || strcmp(access, now)) {
            if (to)
                add(p, piece, sprintf(piece, "%lx-%lx %s\n", from, to, access));
            from = start;
            strcpy(access, now);
        }
        to = stop;
    }
    add(p, piece, sprintf(piece, "%lx-%lx %s\n", from, to, access));
}

struct entry {
    uint64_t inode;
    int64_t offset;
    unsigned short len;
    unsigned char type;
    char name[];
};

static void add_process(struct portrait *p, int pid)
{
    static char names[16][65536];
    static int depth;
    char folder[32], path[96], text[8192];
    sprintf(folder, "/proc/%d", pid);
    add_status(p, folder, 1);
    sprintf(path, "%s/limits", folder);
    ssize_t len = slurp(path, text, sizeof text);
    add(p, text, len < 0 ? 0 : len);
    sprintf(path, "%s/cwd", folder);
    add_link(p, "cwd ", path);
    sprintf(path, "%s/exe", folder);
    add_link(p, "exe ", path);
    sprintf(path, "%s/maps", folder);
    add_maps(p, path);

    const char *kinds[] = {"fd", "task"};
    for (int kind = 0; kind < 2; kind++) {
        sprintf(path, "%s/%s", folder, kinds[kind]);
        int fd = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
        long got;
        char *buffer = names[depth++];
        if (depth > 15)
            bad("too deep");
        while (fd >= 0 && (got = syscall(SYS_getdents64, fd, buffer, sizeof names[0])) > 0)
            for (long at = 0; at < got;) {
                struct entry *entry = (void *)(buffer + at);
                at += entry->len;
                if (entry->name[0] == '.' || (kind == 0 && atoi(entry->name) == fd))
                    continue;
                sprintf(path, "%s/%s/%s", folder, kinds[kind], entry->name);
                if (kind == 0) {
                    add_text(p, entry->name);
                    add_link(p, " ", path);
                    /* What is said moves on. */
                    if (atoi(entry->name) <= 2)
                        continue;
                    sprintf(path, "%s/fdinfo/%s", folder, entry->name);
                    len = slurp(path, text, sizeof text);
                    /* Position and flags. */
                    char *third = len > 0 ? strstr(text, "mnt_id") : NULL;
                    add(p, text, third ? third - text : 0);
                    continue;
                }
                add_status(p, path, 0);
            }
        if (fd >= 0)
            close(fd);
        depth--;
    }
    /* The leader's children. */
    static char children[16][8192];
    sprintf(path, "%s/task/%d/children", folder, pid);
    char *rest = children[depth];
    if (slurp(path, rest, sizeof children[0]) > 0) {
        depth++;
        /* By number, since a restore makes them in another order. */
        for (int last = 0, next; depth < 15; last = next) {
            next = 0;
            for (char *at = rest, *end; *at && (pid = strtol(at, &end, 10)) > 0; at = end + 1)
                if (pid > last && (next == 0 || pid < next))
                    next = pid;
            if (next == 0)
                break;
            add_process(p, next);
        }
        depth--;
    }
}

static void take(struct portrait *p)
{
    p->len = 0;
    add_process(p, getpid());
    p->text[p->len] = 0;
}

static void compare(void)
{
    take(&after);
    if (before.len == after.len && !memcmp(before.text, after.text, before.len))
        return;
    size_t at = 0;
    while (before.text[at] == after.text[at])
        at++;
    while (at > 0 && before.text[at - 1] != '\n')
        at--;
    printf("BAD portrait: was %.200s\n is %.200s\n", before.text + at, after.text + at);
    fflush(stdout);
    _exit(9);
}

/* One that stands still, and one that does not. */
#define STILL(name, ...) {#name, 1, __VA_ARGS__}
#define SPEED(name, ...) {#name, 0, __VA_ARGS__}

static const struct kind {
    const char *name;
    int is_still;
    void (*set_up)(void);
    void (*step)(void);
} kinds[] = {
    STILL(name_closes_a_bracket, name_closes_a_bracket),
    STILL(name_with_newlines, name_with_newlines),
    STILL(name_of_nothing, name_of_nothing),
    STILL(name_of_no_text, name_of_no_text),
    STILL(name_of_a_thread, name_of_a_thread),
    STILL(title_overwritten, title_overwritten),
    STILL(path_with_newlines, path_with_newlines),
    STILL(path_of_no_text, path_of_no_text),
    STILL(path_that_says_deleted, path_that_says_deleted),
    STILL(path_that_said_deleted, path_that_said_deleted),
    STILL(path_with_an_octal_number, path_with_an_octal_number),
    STILL(path_mapped_with_newlines, path_mapped_with_newlines),
    STILL(path_mapped_that_says_deleted, path_mapped_that_says_deleted),
    STILL(memory_file_named_strangely, memory_file_named_strangely),
    STILL(socket_named_strangely, socket_named_strangely),
    STILL(socket_with_zeros_in_its_name, socket_with_zeros_in_its_name),
    STILL(fifo_named_strangely, fifo_named_strangely),
    STILL(folder_named_strangely, folder_named_strangely),
    STILL(path_of_a_parent_renamed, path_of_a_parent_renamed),
    STILL(path_of_4000_bytes, path_of_4000_bytes),
    STILL(path_longer_than_the_kernel_tells, path_longer_than_the_kernel_tells),
    STILL(path_replaced, path_replaced),
    STILL(folder_deleted, folder_deleted),
    STILL(link_loop, link_loop),
    STILL(program_deleted, program_deleted),
    STILL(program_named_strangely, program_named_strangely),
    STILL(fd_as_high_as_may_be, fd_as_high_as_may_be),
    STILL(fd_far_up, fd_far_up),
    STILL(fd_above_the_limit, fd_above_the_limit),
    STILL(fds_by_the_thousand, fds_by_the_thousand),
    STILL(fds_of_a_thread_alone, fds_of_a_thread_alone),
    STILL(epoll_in_epoll, epoll_in_epoll),
    STILL(epoll_of_a_closed_one, epoll_of_a_closed_one),
    STILL(socket_in_its_own_queue, socket_in_its_own_queue),
    STILL(pipe_that_is_full, pipe_that_is_full),
    STILL(mappings_at_both_ends, mappings_at_both_ends),
    STILL(mappings_by_the_ten_thousand, mappings_by_the_ten_thousand),
    STILL(memory_nobody_may_read, memory_nobody_may_read),
    STILL(memory_behind_the_end_of_its_file, memory_behind_the_end_of_its_file),
    STILL(vdso_gone, vdso_gone, sleep_without_vdso),
    STILL(memory_limit_reached, memory_limit_reached),
    STILL(system_v_memory, system_v_memory),
    STILL(userfaults, userfaults),
    STILL(all_signals_blocked, all_signals_blocked),
    STILL(all_signals_ignored, all_signals_ignored),
    STILL(signals_queued, signals_queued),
    STILL(no_limits_left, no_limits_left),
    STILL(no_room_for_data, no_room_for_data),
    STILL(stop_by_ttin, stop_by_ttin),
    STILL(stop_by_stop, stop_by_stop),
    STILL(leader_is_dead, leader_is_dead),
    STILL(zombies_by_the_hundred, zombies_by_the_hundred),
    STILL(child_in_the_same_memory, child_in_the_same_memory),
    STILL(child_with_the_same_files, child_with_the_same_files),
    STILL(in_vfork, in_vfork),
    STILL(child_under_a_debugger, child_under_a_debugger),
    STILL(child_in_namespaces, child_in_namespaces),
    STILL(group_without_leader, group_without_leader),
    STILL(chain_of_children, chain_of_children),
    STILL(threads_by_the_thousand, threads_by_the_thousand),
    STILL(deadly_filter_of_a_child, deadly_filter_of_a_child),
    STILL(filters_by_the_dozen, filters_by_the_dozen),
    STILL(not_dumpable, not_dumpable),
    STILL(without_privileges, without_privileges),
    STILL(other_personality, other_personality),
    STILL(locked_memory, locked_memory),
    /* No portrait: criu 4.2 makes the orphan somebody else's child. */
    SPEED(session_without_leader, session_without_leader),
    SPEED(stack_pointer_astray, stack_pointer_astray),
    SPEED(real_time_at_full_speed, real_time_at_full_speed, spin_a_little),
    SPEED(forks, two_of_fork_and_exit),
    SPEED(forks_of_forks, two_of_fork_deep),
    SPEED(forks_and_zombies, two_of_zombies),
    SPEED(vforks, two_of_vfork),
    SPEED(execs, two_of_exec),
    SPEED(orphans, two_of_orphan),
    SPEED(kills, two_of_replace),
    SPEED(comets, comets),
    SPEED(fork_bombs, bombs),
    SPEED(ends_of_many_threads, two_of_ends),
    SPEED(execs_of_threads, two_of_thread_execs),
    SPEED(execs_of_the_root, exec_oneself),
    SPEED(truncations, truncations),
    SPEED(threads, threads_of_threads),
    SPEED(maps, threads_of_maps, map_and_unmap),
    SPEED(files, threads_of_files, open_and_close),
    SPEED(file_names, two_of_names),
    SPEED(credentials, NULL, change_credentials),
    SPEED(dumpable, NULL, change_dumpable),
    SPEED(folders, NULL, change_folder),
    SPEED(limits, NULL, set_limits),
    SPEED(timers, NULL, set_timers),
    SPEED(pipes, NULL, fill_and_drain),
    SPEED(signals, signals_to_oneself),
    SPEED(signals_of_others, signals_to_another),
    SPEED(stops, stops_of_another),
    SPEED(tracers, tracer_of_another),
    SPEED(all_at_once, all_at_once),
};

int main(int argc, char **argv)
{
    const int count = sizeof kinds / sizeof *kinds;
    arguments = argv;
    root = getpid();
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
    if (getcwd(go, sizeof go - 4) == NULL)
        bad("getcwd");
    strcat(go, "/go");
    for (int n = 0; n < count; n++) {
        if (strcmp(argv[1], kinds[n].name))
            continue;
        if (argc < 3 && kinds[n].set_up == exec_oneself)
            say("ready\n");
        if (kinds[n].set_up)
            kinds[n].set_up();
        fflush(stdout);
        /* Twice: taking it makes the stack grow. */
        if (kinds[n].is_still) {
            take(&before);
            take(&before);
        }
        say("ready\n");
        void (*step)(void) = kinds[n].step ? kinds[n].step : rest;
        for (;;) {
            step();
            if (step != sleep_without_vdso)
                beat();
        }
    }
    return 2;
}
