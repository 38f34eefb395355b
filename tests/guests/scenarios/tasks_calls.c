/* System calls that a dump interrupts: they go on, with what the caller was promised.
 *
 * A call with a time-out may return EINTR, as signal(7) says it does after a stop; no other may.
 * Each thread is known to sleep in its call before the dump. */
#include "tasks.h"

#include <fcntl.h>
#include <linux/futex.h>
#include <poll.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/ipc.h>
#include <sys/msg.h>
#include <sys/select.h>
#include <sys/sem.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/timerfd.h>
#include <sys/uio.h>
#include <sys/un.h>

static int ends[2];

static void put(void) { CHECK(write(ends[1], "x", 1) == 1); }

static void *reads(void *unused) {
    (void)unused;
    char byte;
    CHECK(read(ends[0], &byte, 1) == 1 && byte == 'x');
    return NULL;
}

SCENARIO(in_read) {
    TRY(pipe(ends));
    pthread_t thread = thread_in(SYS_read, reads, NULL);
    be_dumped();
    put();
    join(thread);
}

static void *reads_into_pieces(void *unused) {
    (void)unused;
    char a = 0, b = 0;
    struct iovec pieces[] = {{&a, 1}, {&b, 1}};
    CHECK(readv(ends[0], pieces, 2) == 2 && a == 'x' && b == 'y');
    return NULL;
}

SCENARIO(in_readv) {
    TRY(pipe(ends));
    pthread_t thread = thread_in(SYS_readv, reads_into_pieces, NULL);
    be_dumped();
    CHECK(write(ends[1], "xy", 2) == 2);
    join(thread);
}

static void *writes(void *unused) {
    (void)unused;
    CHECK(write(ends[1], "last", 4) == 4);
    return NULL;
}

SCENARIO(in_write_to_a_full_pipe) {
    TRY(pipe2(ends, O_NONBLOCK));
    char page[4096];
    long filled = 0;
    memset(page, 'f', sizeof(page));
    for (ssize_t wrote; (wrote = write(ends[1], page, sizeof(page))) > 0;) filled += wrote;
    TRY(fcntl(ends[1], F_SETFL, 0));
    TRY(fcntl(ends[0], F_SETFL, 0));
    pthread_t thread = thread_in(SYS_write, writes, NULL);
    be_dumped();
    while (filled > 0) filled -= TRY(read(ends[0], page, sizeof(page)));
    CHECK(read(ends[0], page, 4) == 4 && !memcmp(page, "last", 4));
    join(thread);
}

static struct sockaddr_un address = {.sun_family = AF_UNIX, .sun_path = "socket"};

static void *accepts(void *fd) {
    int connection = TRY(accept((long)fd, NULL, NULL));
    char byte;
    CHECK(read(connection, &byte, 1) == 1 && byte == 'x');
    return NULL;
}

SCENARIO(in_accept) {
    int fd = TRY(socket(AF_UNIX, SOCK_STREAM, 0));
    TRY(bind(fd, (struct sockaddr *)&address, sizeof(address)));
    TRY(listen(fd, 5));
    pthread_t thread = thread_in(SYS_accept, accepts, (void *)(long)fd);
    be_dumped();
    ends[1] = TRY(socket(AF_UNIX, SOCK_STREAM, 0));
    TRY(connect(ends[1], (struct sockaddr *)&address, sizeof(address)));
    put();
    join(thread);
}

static void *receives(void *unused) {
    (void)unused;
    char byte;
    CHECK(recv(ends[0], &byte, 1, MSG_WAITALL) == 1 && byte == 'x');
    return NULL;
}

SCENARIO(in_recv) {
    TRY(socketpair(AF_UNIX, SOCK_STREAM, 0, ends));
    pthread_t thread = thread_in(SYS_recvfrom, receives, NULL);
    be_dumped();
    put();
    join(thread);
}

static void *receives_with_a_limit(void *unused) {
    (void)unused;
    char byte;
    ssize_t got;
    do got = recv(ends[0], &byte, 1, 0);
    while (got == -1 && errno == EINTR);
    CHECK(got == 1 && byte == 'x');
    return NULL;
}

SCENARIO(in_recv_with_a_time_out) {
    TRY(socketpair(AF_UNIX, SOCK_STREAM, 0, ends));
    struct timeval limit = {100, 0};
    TRY(setsockopt(ends[0], SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof(limit)));
    pthread_t thread = thread_in(SYS_recvfrom, receives_with_a_limit, NULL);
    be_dumped();
    put();
    join(thread);
}

static pid_t waited_for;

static void *waits_for_a_child(void *unused) {
    (void)unused;
    int status;
    CHECK(waitpid(waited_for, &status, 0) == waited_for);
    CHECK(WIFEXITED(status) && WEXITSTATUS(status) == 0);
    return NULL;
}

SCENARIO(in_wait4) {
    waited_for = in_child(wait_to_go);
    pthread_t thread = thread_in(SYS_wait4, waits_for_a_child, NULL);
    be_dumped();
    join(thread);
}

static void *waits_for_any_child(void *unused) {
    (void)unused;
    siginfo_t info;
    TRY(waitid(P_ALL, 0, &info, WEXITED));
    CHECK(info.si_pid == waited_for && info.si_status == 0);
    return NULL;
}

SCENARIO(in_waitid) {
    waited_for = in_child(wait_to_go);
    pthread_t thread = thread_in(SYS_waitid, waits_for_any_child, NULL);
    be_dumped();
    join(thread);
}

static int word;
static long futex(int operation, int value, const void *limit) {
    return syscall(SYS_futex, &word, operation, value, limit, NULL, FUTEX_BITSET_MATCH_ANY);
}

static void *waits_at_a_futex(void *unused) {
    (void)unused;
    /* Woken, or called again and found changed. */
    CHECK(futex(FUTEX_WAIT | FUTEX_PRIVATE_FLAG, 0, NULL) == 0 || errno == EAGAIN);
    return NULL;
}

static void wake(void) {
    __atomic_store_n(&word, 1, __ATOMIC_SEQ_CST);
    futex(FUTEX_WAKE | FUTEX_PRIVATE_FLAG, 1, NULL);
}

SCENARIO(in_futex) {
    pthread_t thread = thread_in(SYS_futex, waits_at_a_futex, NULL);
    be_dumped();
    wake();
    join(thread);
}

static void *waits_at_a_futex_for_a_time(void *unused) {
    (void)unused;
    struct timespec limit = {100, 0};
    long answer;
    do answer = futex(FUTEX_WAIT | FUTEX_PRIVATE_FLAG, 0, &limit);
    while (answer == -1 && errno == EINTR);
    CHECK(answer == 0 || errno == EAGAIN);
    return NULL;
}

SCENARIO(in_futex_with_a_time_out) {
    pthread_t thread = thread_in(SYS_futex, waits_at_a_futex_for_a_time, NULL);
    be_dumped();
    wake();
    join(thread);
}

static void *waits_at_a_futex_until(void *unused) {
    (void)unused;
    struct timespec limit;
    TRY(clock_gettime(CLOCK_MONOTONIC, &limit));
    limit.tv_sec += 100;
    CHECK(futex(FUTEX_WAIT_BITSET | FUTEX_PRIVATE_FLAG, 0, &limit) == 0 || errno == EAGAIN);
    return NULL;
}

SCENARIO(in_futex_until_a_moment) {
    pthread_t thread = thread_in(SYS_futex, waits_at_a_futex_until, NULL);
    be_dumped();
    wake();
    join(thread);
}

static pthread_mutex_t mutex;
static void *locks(void *unused) {
    (void)unused;
    CHECK(pthread_mutex_lock(&mutex) == 0);
    CHECK(pthread_mutex_unlock(&mutex) == 0);
    return NULL;
}

SCENARIO(in_a_lock_with_priority_inheritance) {
    pthread_mutexattr_t attributes;
    pthread_mutexattr_init(&attributes);
    CHECK(pthread_mutexattr_setprotocol(&attributes, PTHREAD_PRIO_INHERIT) == 0);
    CHECK(pthread_mutex_init(&mutex, &attributes) == 0);
    CHECK(pthread_mutex_lock(&mutex) == 0);
    pthread_t thread = thread_in(SYS_futex, locks, NULL);
    be_dumped();
    CHECK(pthread_mutex_unlock(&mutex) == 0);
    join(thread);
}

static pthread_cond_t condition = PTHREAD_COND_INITIALIZER;
static pthread_mutex_t plain = PTHREAD_MUTEX_INITIALIZER;
static bool come;
static void *waits_for_a_condition(void *unused) {
    (void)unused;
    CHECK(pthread_mutex_lock(&plain) == 0);
    struct timespec limit;
    TRY(clock_gettime(CLOCK_REALTIME, &limit));
    limit.tv_sec += 100;
    while (!come) CHECK(pthread_cond_timedwait(&condition, &plain, &limit) == 0);
    CHECK(pthread_mutex_unlock(&plain) == 0);
    return NULL;
}

SCENARIO(in_a_condition_with_a_time_out) {
    pthread_t thread = thread_in(SYS_futex, waits_for_a_condition, NULL);
    be_dumped();
    CHECK(pthread_mutex_lock(&plain) == 0);
    come = true;
    CHECK(pthread_cond_signal(&condition) == 0);
    CHECK(pthread_mutex_unlock(&plain) == 0);
    join(thread);
}

static void *sleeps_for_a_while(void *unused) {
    (void)unused;
    /* Long enough to be dumped in. What is left is slept; nothing is slept twice. */
    struct timespec length = {0, 700000000}, left = {0, 0};
    long long before = now_ns(CLOCK_MONOTONIC);
    while (nanosleep(&length, &left) == -1) {
        CHECK(errno == EINTR);
        length = left;
    }
    CHECK(now_ns(CLOCK_MONOTONIC) - before >= 700000000);
    return NULL;
}

SCENARIO(in_nanosleep) {
    pthread_t thread = thread_in(SYS_clock_nanosleep, sleeps_for_a_while, NULL);
    be_dumped();
    join(thread);
}

static void *sleeps_until(void *unused) {
    (void)unused;
    struct timespec end;
    TRY(clock_gettime(CLOCK_MONOTONIC, &end));
    end.tv_sec += 1;
    CHECK(clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &end, NULL) == 0);
    CHECK(now_ns(CLOCK_MONOTONIC) >= end.tv_sec * 1000000000LL + end.tv_nsec);
    return NULL;
}

SCENARIO(in_clock_nanosleep_until_a_moment) {
    pthread_t thread = thread_in(SYS_clock_nanosleep, sleeps_until, NULL);
    be_dumped();
    join(thread);
}

static void *polls(void *limit) {
    struct pollfd poll_fd = {ends[0], POLLIN, 0};
    int found;
    do found = syscall(SYS_poll, &poll_fd, 1, (int)(long)limit);
    while ((long)limit > 0 && found == -1 && errno == EINTR);
    CHECK(found == 1 && poll_fd.revents == POLLIN);
    return NULL;
}

SCENARIO(in_poll_without_end) {
    TRY(pipe(ends));
    pthread_t thread = thread_in(SYS_poll, polls, (void *)-1L);
    be_dumped();
    put();
    join(thread);
}

SCENARIO(in_poll_with_a_time_out) {
    TRY(pipe(ends));
    pthread_t thread = thread_in(SYS_poll, polls, (void *)100000L);
    be_dumped();
    put();
    join(thread);
}

static volatile sig_atomic_t handled;
static void handle(int signal) { handled = signal; }

static sigset_t all_but(int signal) {
    sigset_t set;
    sigfillset(&set);
    sigdelset(&set, signal);
    return set;
}

/* A thread that lets SIGUSR1 through only inside its call. */
static void keep_for_the_call(void) {
    signal(SIGUSR1, handle);
    sigset_t set;
    sigemptyset(&set);
    sigaddset(&set, SIGUSR1);
    CHECK(pthread_sigmask(SIG_BLOCK, &set, NULL) == 0);
}

static void is_blocked_again(void) {
    sigset_t set;
    CHECK(pthread_sigmask(SIG_BLOCK, NULL, &set) == 0);
    CHECK(sigismember(&set, SIGUSR1) && !sigismember(&set, SIGTERM));
}

static void *polls_with_a_mask(void *unused) {
    (void)unused;
    sigset_t mask = all_but(SIGUSR1);
    struct pollfd poll_fd = {ends[0], POLLIN, 0};
    CHECK(ppoll(&poll_fd, 1, NULL, &mask) == -1 && errno == EINTR && handled == SIGUSR1);
    is_blocked_again();
    return NULL;
}

SCENARIO(in_ppoll_with_a_mask) {
    TRY(pipe(ends));
    keep_for_the_call();
    pthread_t thread = thread_in(SYS_ppoll, polls_with_a_mask, NULL);
    be_dumped();
    CHECK(pthread_kill(thread, SIGUSR1) == 0);
    join(thread);
}

static void *selects(void *limit) {
    fd_set set;
    int found;
    struct timeval time = {100, 0};
    do {
        FD_ZERO(&set);
        FD_SET(ends[0], &set);
        found = syscall(SYS_select, ends[0] + 1, &set, NULL, NULL, limit ? &time : NULL);
    } while (limit && found == -1 && errno == EINTR);
    CHECK(found == 1 && FD_ISSET(ends[0], &set));
    return NULL;
}

SCENARIO(in_select) {
    TRY(pipe(ends));
    pthread_t thread = thread_in(SYS_select, selects, NULL);
    be_dumped();
    put();
    join(thread);
}

SCENARIO(in_select_with_a_time_out) {
    TRY(pipe(ends));
    pthread_t thread = thread_in(SYS_select, selects, "");
    be_dumped();
    put();
    join(thread);
}

static void *selects_with_a_mask(void *unused) {
    (void)unused;
    sigset_t mask = all_but(SIGUSR1);
    fd_set set;
    FD_ZERO(&set);
    FD_SET(ends[0], &set);
    CHECK(pselect(ends[0] + 1, &set, NULL, NULL, NULL, &mask) == -1 && errno == EINTR);
    CHECK(handled == SIGUSR1);
    is_blocked_again();
    return NULL;
}

SCENARIO(in_pselect_with_a_mask) {
    TRY(pipe(ends));
    keep_for_the_call();
    pthread_t thread = thread_in(SYS_pselect6, selects_with_a_mask, NULL);
    be_dumped();
    CHECK(pthread_kill(thread, SIGUSR1) == 0);
    join(thread);
}

static void *waits_for_events(void *limit) {
    int epoll = TRY(epoll_create1(0));
    struct epoll_event event = {EPOLLIN, {.u64 = 0xabcdef0123456789}};
    TRY(epoll_ctl(epoll, EPOLL_CTL_ADD, ends[0], &event));
    memset(&event, 0, sizeof(event));
    int found;
    do found = epoll_wait(epoll, &event, 1, (int)(long)limit);
    while ((long)limit > 0 && found == -1 && errno == EINTR);
    CHECK(found == 1 && event.events == EPOLLIN && event.data.u64 == 0xabcdef0123456789);
    return NULL;
}

SCENARIO(in_epoll_wait) {
    TRY(pipe(ends));
    pthread_t thread = thread_in(SYS_epoll_wait, waits_for_events, (void *)-1L);
    be_dumped();
    put();
    join(thread);
}

SCENARIO(in_epoll_wait_with_a_time_out) {
    TRY(pipe(ends));
    pthread_t thread = thread_in(SYS_epoll_wait, waits_for_events, (void *)100000L);
    be_dumped();
    put();
    join(thread);
}

static void *waits_for_events_with_a_mask(void *unused) {
    (void)unused;
    sigset_t mask = all_but(SIGUSR1);
    int epoll = TRY(epoll_create1(0));
    struct epoll_event event;
    CHECK(epoll_pwait(epoll, &event, 1, -1, &mask) == -1 && errno == EINTR && handled == SIGUSR1);
    is_blocked_again();
    return NULL;
}

SCENARIO(in_epoll_pwait_with_a_mask) {
    keep_for_the_call();
    pthread_t thread = thread_in(SYS_epoll_pwait, waits_for_events_with_a_mask, NULL);
    be_dumped();
    CHECK(pthread_kill(thread, SIGUSR1) == 0);
    join(thread);
}

static void *suspends(void *unused) {
    (void)unused;
    sigset_t mask = all_but(SIGUSR1);
    CHECK(sigsuspend(&mask) == -1 && errno == EINTR && handled == SIGUSR1);
    is_blocked_again();
    return NULL;
}

SCENARIO(in_sigsuspend) {
    keep_for_the_call();
    pthread_t thread = thread_in(SYS_rt_sigsuspend, suspends, NULL);
    be_dumped();
    CHECK(pthread_kill(thread, SIGUSR1) == 0);
    join(thread);
}

static void *pauses(void *unused) {
    (void)unused;
    CHECK(syscall(SYS_pause) == -1 && errno == EINTR && handled == SIGUSR1);
    return NULL;
}

SCENARIO(in_pause) {
    signal(SIGUSR1, handle);
    pthread_t thread = thread_in(SYS_pause, pauses, NULL);
    be_dumped();
    CHECK(pthread_kill(thread, SIGUSR1) == 0);
    join(thread);
}

static void *reads_a_number(void *fd) {
    uint64_t number;
    CHECK(read((long)fd, &number, 8) == 8 && number == 1);
    return NULL;
}

SCENARIO(in_read_of_an_eventfd) {
    long fd = TRY(eventfd(0, 0));
    pthread_t thread = thread_in(SYS_read, reads_a_number, (void *)fd);
    be_dumped();
    TRY(eventfd_write(fd, 1));
    join(thread);
}

SCENARIO(in_read_of_a_timerfd) {
    long fd = TRY(timerfd_create(CLOCK_MONOTONIC, 0));
    struct itimerspec setting = {{0, 0}, {3600, 0}};
    TRY(timerfd_settime(fd, 0, &setting, NULL));
    pthread_t thread = thread_in(SYS_read, reads_a_number, (void *)fd);
    be_dumped();
    setting.it_value = (struct timespec){0, 1000000};
    TRY(timerfd_settime(fd, 0, &setting, NULL));
    join(thread);
}

static void *reads_a_signal(void *fd) {
    struct signalfd_siginfo info;
    CHECK(read((long)fd, &info, sizeof(info)) == sizeof(info));
    CHECK(info.ssi_signo == SIGUSR2 && info.ssi_int == 12);
    return NULL;
}

SCENARIO(in_read_of_a_signalfd) {
    sigset_t set;
    sigemptyset(&set);
    sigaddset(&set, SIGUSR2);
    CHECK(pthread_sigmask(SIG_BLOCK, &set, NULL) == 0);
    long fd = TRY(signalfd(-1, &set, 0));
    pthread_t thread = thread_in(SYS_read, reads_a_signal, (void *)fd);
    be_dumped();
    union sigval value = {.sival_int = 12};
    TRY(sigqueue(getpid(), SIGUSR2, value));
    join(thread);
}

static void *opens(void *unused) {
    (void)unused;
    int fd = TRY(open("fifo", O_RDONLY));
    char byte;
    CHECK(read(fd, &byte, 1) == 1 && byte == 'x');
    return NULL;
}

SCENARIO(in_open_of_a_fifo) {
    TRY(mknod("fifo", S_IFIFO | 0600, 0));
    pthread_t thread = thread_in(SYS_openat, opens, NULL);
    be_dumped();
    ends[1] = TRY(open("fifo", O_WRONLY));
    put();
    join(thread);
}

static void *splices(void *to) {
    CHECK(splice(ends[0], NULL, (long)to, NULL, 1, 0) == 1);
    return NULL;
}

SCENARIO(in_splice) {
    TRY(pipe(ends));
    int others[2];
    TRY(pipe(others));
    pthread_t thread = thread_in(SYS_splice, splices, (void *)(long)others[1]);
    be_dumped();
    put();
    join(thread);
    char byte;
    CHECK(read(others[0], &byte, 1) == 1 && byte == 'x');
}

static void *takes_a_message(void *queue) {
    struct {
        long type;
        char text[8];
    } message;
    CHECK(msgrcv((long)queue, &message, sizeof(message.text), 7, 0) == 3);
    CHECK(message.type == 7 && !memcmp(message.text, "abc", 3));
    return NULL;
}

SCENARIO(in_msgrcv) {
    long queue = TRY(msgget(IPC_PRIVATE, 0600));
    pthread_t thread = thread_in(SYS_msgrcv, takes_a_message, (void *)queue);
    be_dumped();
    struct {
        long type;
        char text[8];
    } message = {7, "abc"};
    TRY(msgsnd(queue, &message, 3, 0));
    join(thread);
    TRY(msgctl(queue, IPC_RMID, NULL));
}

static void *takes_a_semaphore(void *set) {
    struct sembuf down = {0, -1, 0};
    CHECK(semop((long)set, &down, 1) == 0);
    return NULL;
}

SCENARIO(in_semop) {
    long set = TRY(semget(IPC_PRIVATE, 1, 0600));
    TRY(semctl(set, 0, SETVAL, 0));
    /* glibc calls semtimedop without a limit. */
    pthread_t thread = thread_in(SYS_semtimedop, takes_a_semaphore, (void *)set);
    be_dumped();
    struct sembuf up = {0, 1, 0};
    TRY(semop(set, &up, 1));
    join(thread);
    TRY(semctl(set, 0, IPC_RMID));
}

static void *makes_calls_that_fail(void *unused) {
    (void)unused;
    thread_is_set();
    while (!told_to_go()) {
        CHECK(syscall(SYS_close, -1) == -1 && errno == EBADF);
        CHECK(syscall(SYS_getpid) == getpid());
        CHECK(syscall(SYS_lseek, -1, 0, SEEK_SET) == -1 && errno == EBADF);
    }
    return NULL;
}

/* The result of a finished call is kept, and none is made twice or left out. */
SCENARIO(calls_one_after_the_other) {
    pthread_t thread = start_thread(makes_calls_that_fail, NULL);
    be_dumped();
    join(thread);
}

static volatile long counted;

static void *counts_calls(void *fd) {
    thread_is_set();
    while (!told_to_go()) {
        /* One byte in, one byte out: a call made twice, or not at all, is a byte too many. */
        for (int i = 0; i < 50; i++) {
            char byte = counted;
            CHECK(write(((int *)fd)[1], &byte, 1) == 1);
            CHECK(read(((int *)fd)[0], &byte, 1) == 1 && byte == (char)counted);
            counted++;
        }
    }
    return NULL;
}

SCENARIO(bytes_through_a_pipe) {
    TRY(pipe2(ends, 0));
    pthread_t thread = start_thread(counts_calls, ends);
    be_dumped();
    join(thread);
    TRY(fcntl(ends[0], F_SETFL, O_NONBLOCK));
    char byte;
    CHECK(read(ends[0], &byte, 1) == -1 && errno == EAGAIN && counted > 0);
}

static void *forks(void *unused) {
    (void)unused;
    thread_is_set();
    /* Signals make fork fail and start again from within. */
    while (!told_to_go()) {
        pid_t pid = TRY(fork());
        if (pid == 0) _exit(9);
        int status;
        while (waitpid(pid, &status, 0) == -1) CHECK(errno == EINTR);
        CHECK(WEXITSTATUS(status) == 9);
    }
    return NULL;
}

SCENARIO(fork_that_signals_interrupt) {
    signal(SIGUSR1, handle);
    pthread_t thread = start_thread(forks, NULL);
    say_ready();
    while (!told_to_go()) {
        CHECK(pthread_kill(thread, SIGUSR1) == 0);
        usleep(300);
    }
    join(thread);
}
