/* Programs that the folders here are dumps of: `guest NAME`. Built static, so that little memory
 * is touched. Each says "ready" and then waits for signals. */
#define _GNU_SOURCE
#include <fcntl.h>
#include <netinet/in.h>
#include <sched.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/file.h>
#include <sys/inotify.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/timerfd.h>
#include <sys/un.h>
#include <termios.h>
#include <unistd.h>

#define PAGE 4096

static void check(int ok, const char *what) {
    if (!ok) {
        perror(what);
        _exit(1);
    }
}

static void ready(void) { check(write(1, "ready\n", 6) == 6, "ready"); }

static void wait_for_ever(void) {
    for (;;) syscall(SYS_pause);
}

static char *pages(int count, int flags) {
    char *at = mmap(0, count * PAGE, PROT_READ | PROT_WRITE, MAP_ANONYMOUS | flags, -1, 0);
    check(at != MAP_FAILED, "mmap");
    return at;
}

/* What a page holds, so that it is told apart from all others. */
static void fill(char *page, int number) {
    for (int i = 0; i < PAGE; i += 32) snprintf(page + i, 32, "page %d, line %d", number, i / 32);
}

static int child(void *unused) {
    (void)unused;
    wait_for_ever();
    return 0;
}

static void start(int flags) {
    char *stack = pages(2, MAP_PRIVATE);
    check(clone(child, stack + 2 * PAGE, flags, 0) > 0, "clone");
}

/* Threads with signals of their own, blocked and waiting. */
static void threads(void) {
    const int thread = CLONE_VM | CLONE_FILES | CLONE_FS | CLONE_SIGHAND | CLONE_THREAD | CLONE_SYSVSEM;
    signal(SIGUSR1, SIG_IGN);
    start(thread);
    sigset_t set;
    sigemptyset(&set);
    sigaddset(&set, SIGUSR2);
    sigaddset(&set, SIGRTMIN + 3);
    sigprocmask(SIG_BLOCK, &set, 0);
    start(thread);
    raise(SIGUSR2);
    prctl(PR_SET_NAME, "na\xc3\xafve \"guest\"");
    struct itimerspec later = {{100000, 0}, {200000, 5}};
    struct sigevent event = {.sigev_notify = SIGEV_SIGNAL, .sigev_signo = SIGRTMIN + 3};
    timer_t timer;
    check(timer_create(CLOCK_MONOTONIC, &event, &timer) == 0, "timer_create");
    check(timer_settime(timer, 0, &later, 0) == 0, "timer_settime");
}

/* Children that have most pages in common. */
static void forked(void) {
    char *common = pages(4, MAP_PRIVATE);
    char *shared = pages(3, MAP_SHARED);
    for (int i = 0; i < 4; i++) fill(common + i * PAGE, i);
    fill(shared + PAGE, 100);
    for (int i = 0; i < 2; i++) {
        int pid = fork();
        check(pid >= 0, "fork");
        if (pid == 0) {
            fill(common + i * PAGE, 10 + i);
            if (i == 1) setpgid(0, 0);
            ready();
            wait_for_ever();
        }
    }
}

/* One process for each way of sharing. */
static void shared(int with_vm) {
    char *memory = pages(2, MAP_SHARED);
    fill(memory, 1);
    check(dup2(1, 7) == 7, "dup2");
    if (with_vm) {
        start(CLONE_VM | SIGCHLD);
        start(CLONE_VM | CLONE_FILES | CLONE_FS | CLONE_SIGHAND | SIGCHLD);
        start(CLONE_FS | SIGCHLD);
    }
    start(CLONE_FILES | SIGCHLD);
    start(SIGCHLD);
}

static int unix_at(const char *path, size_t len, int type) {
    struct sockaddr_un name = {.sun_family = AF_UNIX};
    memcpy(name.sun_path, path, len);
    int fd = socket(AF_UNIX, type, 0);
    check(bind(fd, (void *)&name, sizeof(sa_family_t) + len) == 0, "bind");
    return fd;
}

/* A descriptor of each kind, most of them with something in it. */
static void files(int rare, int net) {
    int fd = open("file", O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0640);
    check(write(fd, "hello\n", 6) == 6, "file");
    fd = open("log", O_WRONLY | O_CREAT | O_APPEND, 0600);
    check(fd >= 0 && open(".", O_DIRECTORY) >= 0 && open("/dev/zero", O_RDONLY) >= 0, "open");

    fd = open("gone", O_RDWR | O_CREAT | O_TRUNC, 0644);
    check(write(fd, "deleted, but open\n", 18) == 18 && unlink("gone") == 0, "ghost");
    fd = open("holes", O_RDWR | O_CREAT | O_TRUNC, 0644);
    check(pwrite(fd, "far", 3, 9 * PAGE) == 3 && unlink("holes") == 0, "holes");

    int ends[2];
    check(pipe(ends) == 0 && write(ends[1], "in the \0 pipe", 13) == 13, "pipe");
    check(mkfifo("fifo", 0600) == 0, "mkfifo");
    fd = open("fifo", O_RDWR | O_NONBLOCK);
    check(write(fd, "in the FIFO", 11) == 11, "fifo");

    int counter = eventfd(5, EFD_NONBLOCK);
    sigset_t set;
    sigemptyset(&set);
    sigaddset(&set, SIGTERM);
    sigaddset(&set, SIGUSR1);
    int signals = signalfd(-1, &set, SFD_CLOEXEC);
    int clock = timerfd_create(CLOCK_MONOTONIC, 0);
    struct itimerspec later = {{7, 8}, {100000, 9}};
    check(timerfd_settime(clock, 0, &later, 0) == 0 && signals >= 0, "timerfd");
    int poll = epoll_create1(0);
    struct epoll_event event = {.events = EPOLLIN | EPOLLET, .data.u64 = UINT64_C(0xfeedfacecafe)};
    check(epoll_ctl(poll, EPOLL_CTL_ADD, counter, &event) == 0, "epoll");
    event.data.u64 = 1;
    check(epoll_ctl(poll, EPOLL_CTL_ADD, ends[0], &event) == 0, "epoll");

    int memory = memfd_create("na\xc3\xafve", MFD_ALLOW_SEALING);
    check(ftruncate(memory, 3 * PAGE) == 0 && pwrite(memory, "sealed", 6, PAGE) == 6, "memfd");
    check(fcntl(memory, F_ADD_SEALS, F_SEAL_GROW | F_SEAL_SHRINK) == 0, "seals");

    int pair[2];
    check(socketpair(AF_UNIX, SOCK_SEQPACKET, 0, pair) == 0, "socketpair");
    check(send(pair[0], "first", 5, 0) == 5 && send(pair[0], "second", 6, 0) == 6, "send");
    check(socketpair(AF_UNIX, SOCK_STREAM, 0, pair) == 0, "socketpair");
    check(send(pair[1], "stream", 6, 0) == 6, "send");
    check(listen(unix_at("sock et=1", 10, SOCK_STREAM), 3) == 0, "listen");
    unix_at("\0abstract \xff name", 16, SOCK_DGRAM);

    if (net) {
        struct sockaddr_in here = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
        fd = socket(AF_INET, SOCK_STREAM, 0);
        check(bind(fd, (void *)&here, sizeof here) == 0 && listen(fd, 5) == 0, "tcp");
        fd = socket(AF_INET, SOCK_DGRAM, 0);
        check(bind(fd, (void *)&here, sizeof here) == 0, "udp");
        struct sockaddr_in6 here6 = {.sin6_family = AF_INET6, .sin6_addr = IN6ADDR_LOOPBACK_INIT};
        fd = socket(AF_INET6, SOCK_DGRAM, 0);
        check(bind(fd, (void *)&here6, sizeof here6) == 0, "udp6");
    }

    if (rare && net) {
        check(socket(AF_NETLINK, SOCK_RAW, 0) >= 0, "netlink");
        check(socket(AF_PACKET, SOCK_DGRAM, 0) >= 0, "packet");
    }
    if (rare) {
        fd = inotify_init1(IN_NONBLOCK);
        check(inotify_add_watch(fd, "file", IN_MODIFY | IN_DELETE_SELF) > 0, "inotify");
        fd = open("file", O_RDONLY);
        check(flock(fd, LOCK_SH) == 0, "flock");
        struct flock range = {.l_type = F_WRLCK, .l_start = 1, .l_len = 2};
        fd = open("file", O_RDWR);
        check(fcntl(fd, F_SETLK, &range) == 0, "lock");
        int master = posix_openpt(O_RDWR | O_NOCTTY);
        check(master >= 0 && grantpt(master) == 0 && unlockpt(master) == 0, "pty");
        fd = open(ptsname(master), O_RDWR | O_NOCTTY);
        check(fd >= 0 && write(master, "typed\n", 6) == 6, "pts");
    }
}

/* Pages that change each time a signal comes. */
static volatile sig_atomic_t round_number;
static void next_round(int signal) {
    (void)signal;
    round_number++;
}

static void chain(void) {
    sigset_t usual, blocked;
    sigprocmask(0, 0, &usual);
    blocked = usual;
    sigaddset(&blocked, SIGUSR1);
    sigprocmask(SIG_BLOCK, &blocked, 0);
    signal(SIGUSR1, next_round);
    char *at = pages(6, MAP_PRIVATE), *shared = pages(4, MAP_SHARED);
    for (int i = 0; i < 6; i++) fill(at + i * PAGE, i);
    for (int i = 0; i < 4; i++) fill(shared + i * PAGE, 100 + i);
    for (;;) {
        fill(at + round_number * PAGE, 1000 * round_number);
        fill(shared + round_number * PAGE, 1000 * round_number + 1);
        ready();
        sigsuspend(&usual);
    }
}

int main(int count, char **words) {
    const char *name = count > 1 ? words[1] : "";
    check(chdir(count > 2 ? words[2] : ".") == 0, "chdir");
    if (!strcmp(name, "threads")) threads();
    else if (!strcmp(name, "forked")) forked();
    else if (!strcmp(name, "shared")) shared(0);
    else if (!strcmp(name, "shared-vm")) shared(1);
    else if (!strcmp(name, "files")) files(0, 1);
    else if (!strcmp(name, "files-rare")) files(1, 1);
    else if (!strcmp(name, "files-local")) files(1, 0);
    else if (!strcmp(name, "chain")) chain();
    else return 2;
    ready();
    wait_for_ever();
}
