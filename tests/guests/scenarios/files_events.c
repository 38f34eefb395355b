/* Things that wait for something: eventfd, signalfd, timerfd, epoll. */
#include "scenario.h"

#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdint.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/signalfd.h>
#include <sys/timerfd.h>
#include <time.h>

static uint64_t number(int fd) {
    uint64_t value;
    CHECK(read(fd, &value, sizeof(value)) == sizeof(value));
    return value;
}

SCENARIO(eventfds_of_all_values) {
    int empty = TRY(eventfd(0, EFD_NONBLOCK));
    int some = TRY(eventfd(7, EFD_CLOEXEC));
    int much = TRY(eventfd(UINT32_MAX, EFD_NONBLOCK));
    be_dumped();
    uint64_t value = 1;
    CHECK(read(empty, &value, sizeof(value)) == -1 && errno == EAGAIN);
    CHECK(number(some) == 7);
    CHECK(fcntl(some, F_GETFD) == FD_CLOEXEC);
    CHECK(number(much) == UINT32_MAX);
}

SCENARIO(eventfd_that_is_full) {
    int fd = TRY(eventfd(0, EFD_NONBLOCK));
    uint64_t most = UINT64_MAX - 1;
    CHECK(write(fd, &most, sizeof(most)) == sizeof(most));
    be_dumped();
    CHECK(number(fd) == most);
}

SCENARIO(eventfd_that_is_a_semaphore) {
    int fd = TRY(eventfd(3, EFD_SEMAPHORE));
    be_dumped();
    CHECK(number(fd) == 1);
}

static int shared_fd;

static void add_five(void) {
    wait_to_go();
    uint64_t value = 5;
    CHECK(write(shared_fd, &value, sizeof(value)) == sizeof(value));
}

SCENARIO(eventfd_of_parent_and_child) {
    shared_fd = TRY(eventfd(0, 0));
    pid_t child = in_child(add_five);
    be_dumped();
    CHECK(number(shared_fd) == 5);
    reap_child(child);
}

SCENARIO(signalfds) {
    sigset_t both, one;
    sigemptyset(&both);
    sigaddset(&both, SIGUSR1);
    sigaddset(&both, SIGRTMIN + 5);
    TRY(sigprocmask(SIG_BLOCK, &both, NULL));
    sigemptyset(&one);
    sigaddset(&one, SIGUSR1);
    int fd = TRY(signalfd(-1, &one, SFD_NONBLOCK));
    int other = TRY(signalfd(-1, &both, SFD_CLOEXEC | SFD_NONBLOCK));
    sigemptyset(&one);
    int none = TRY(signalfd(-1, &one, SFD_NONBLOCK));
    union sigval value = {.sival_int = 77};
    TRY(sigqueue(getpid(), SIGRTMIN + 5, value));
    TRY(kill(getpid(), SIGUSR1));
    be_dumped();
    struct signalfd_siginfo info;
    CHECK(read(none, &info, sizeof(info)) == -1 && errno == EAGAIN);
    CHECK(read(fd, &info, sizeof(info)) == sizeof(info) && info.ssi_signo == SIGUSR1);
    CHECK(read(fd, &info, sizeof(info)) == -1 && errno == EAGAIN);
    CHECK(read(other, &info, sizeof(info)) == sizeof(info));
    CHECK(info.ssi_signo == (uint32_t)SIGRTMIN + 5 && info.ssi_int == 77);
}

static int timer(clockid_t clock, int flags, time_t seconds, time_t period) {
    int fd = TRY(timerfd_create(clock, TFD_NONBLOCK));
    struct timespec now = {0};
    if (flags & TFD_TIMER_ABSTIME) TRY(clock_gettime(clock, &now));
    struct itimerspec setting = {{period, 0}, {now.tv_sec + seconds, now.tv_nsec}};
    TRY(timerfd_settime(fd, flags, &setting, NULL));
    return fd;
}

static bool is_about(int fd, time_t seconds, time_t period) {
    struct itimerspec left;
    TRY(timerfd_gettime(fd, &left));
    return left.it_value.tv_sec > seconds - 100 && left.it_value.tv_sec <= seconds &&
           left.it_interval.tv_sec == period;
}

SCENARIO(timerfds_that_run) {
    int relative = timer(CLOCK_MONOTONIC, 0, 1000, 7);
    int absolute = timer(CLOCK_MONOTONIC, TFD_TIMER_ABSTIME, 2000, 0);
    int real = timer(CLOCK_REALTIME, TFD_TIMER_ABSTIME | TFD_TIMER_CANCEL_ON_SET, 3000, 0);
    int boot = timer(CLOCK_BOOTTIME, 0, 4000, 0);
    int idle = TRY(timerfd_create(CLOCK_MONOTONIC, TFD_CLOEXEC));
    be_dumped();
    CHECK(is_about(relative, 1000, 7));
    CHECK(is_about(absolute, 2000, 0));
    CHECK(is_about(real, 3000, 0));
    CHECK(is_about(boot, 4000, 0));
    struct itimerspec left;
    TRY(timerfd_gettime(idle, &left));
    CHECK(left.it_value.tv_sec == 0 && left.it_value.tv_nsec == 0);
}

/* Never early, however the moment was told. */
SCENARIO(timerfds_until_a_moment) {
    int clocks[] = {CLOCK_MONOTONIC, CLOCK_BOOTTIME, CLOCK_REALTIME};
    int fds[3];
    struct itimerspec until[3];
    for (int i = 0; i < 3; i++) {
        fds[i] = TRY(timerfd_create(clocks[i], 0));
        memset(&until[i], 0, sizeof(until[i]));
        TRY(clock_gettime(clocks[i], &until[i].it_value));
        until[i].it_value.tv_sec += 3;
        TRY(timerfd_settime(fds[i], TFD_TIMER_ABSTIME, &until[i], NULL));
    }
    be_dumped();
    for (int i = 0; i < 3; i++) {
        CHECK(number(fds[i]) == 1);
        struct timespec now, then = until[i].it_value;
        TRY(clock_gettime(clocks[i], &now));
        CHECK(now.tv_sec > then.tv_sec || (now.tv_sec == then.tv_sec && now.tv_nsec >= then.tv_nsec));
    }
}

SCENARIO(timerfd_that_has_expired) {
    int once = TRY(timerfd_create(CLOCK_MONOTONIC, 0));
    struct itimerspec soon = {{0, 0}, {0, 1}};
    TRY(timerfd_settime(once, 0, &soon, NULL));
    int often = TRY(timerfd_create(CLOCK_MONOTONIC, 0));
    struct itimerspec ticking = {{1000, 0}, {0, 1}};
    TRY(timerfd_settime(often, 0, &ticking, NULL));
    struct pollfd both[] = {{once, POLLIN, 0}, {often, POLLIN, 0}};
    while (TRY(poll(both, 2, -1)) < 2) {}
    be_dumped();
    CHECK(number(once) == 1);
    CHECK(number(often) == 1);
    CHECK(is_about(often, 1000, 1000));
}

static int add(int epoll, int fd, uint32_t events, uint64_t data) {
    struct epoll_event event = {events, {.u64 = data}};
    return epoll_ctl(epoll, EPOLL_CTL_ADD, fd, &event);
}

/* The data of what is ready, all of them added up. */
static uint64_t ready(int epoll) {
    struct epoll_event events[16];
    int count = TRY(epoll_wait(epoll, events, 16, 0));
    uint64_t sum = 0;
    for (int i = 0; i < count; i++) sum += events[i].data.u64;
    return sum;
}

SCENARIO(epoll_of_many_kinds) {
    int epoll = TRY(epoll_create1(EPOLL_CLOEXEC));
    int ends[2];
    TRY(pipe(ends));
    CHECK(write(ends[1], "x", 1) == 1);
    int event = TRY(eventfd(0, 0));
    int clock = timer(CLOCK_MONOTONIC, 0, 1000, 0);
    TRY(add(epoll, ends[0], EPOLLIN, 1ULL << 40));
    TRY(add(epoll, ends[1], EPOLLOUT, 2));
    TRY(add(epoll, event, EPOLLIN | EPOLLET, 4));
    TRY(add(epoll, clock, EPOLLIN | EPOLLONESHOT, 8));
    be_dumped();
    CHECK(ready(epoll) == (1ULL << 40) + 2);
    uint64_t one = 1;
    CHECK(write(event, &one, sizeof(one)) == sizeof(one));
    CHECK(ready(epoll) == (1ULL << 40) + 2 + 4);
    CHECK(ready(epoll) == (1ULL << 40) + 2);
    CHECK(fcntl(epoll, F_GETFD) == FD_CLOEXEC);
}

SCENARIO(epoll_without_targets) {
    int epoll = TRY(epoll_create1(0));
    be_dumped();
    CHECK(ready(epoll) == 0);
    int event = TRY(eventfd(1, 0));
    TRY(add(epoll, event, EPOLLIN, 3));
    CHECK(ready(epoll) == 3);
}

SCENARIO(epoll_whose_shot_was_fired) {
    int epoll = TRY(epoll_create1(0));
    int event = TRY(eventfd(1, 0));
    TRY(add(epoll, event, EPOLLIN | EPOLLONESHOT, 3));
    CHECK(ready(epoll) == 3);
    be_dumped();
    CHECK(ready(epoll) == 0);
    struct epoll_event again = {EPOLLIN | EPOLLONESHOT, {.u64 = 5}};
    TRY(epoll_ctl(epoll, EPOLL_CTL_MOD, event, &again));
    CHECK(ready(epoll) == 5);
}

SCENARIO(epoll_whose_target_was_moved) {
    int epoll = TRY(epoll_create1(0));
    int event = TRY(eventfd(1, 0));
    TRY(add(epoll, event, EPOLLIN, 3));
    int moved = TRY(fcntl(event, F_DUPFD, 100));
    close(event);
    be_dumped();
    CHECK(ready(epoll) == 3);
    CHECK(number(moved) == 1);
    CHECK(ready(epoll) == 0);
}

SCENARIO(epoll_whose_number_leads_elsewhere_now) {
    int epoll = TRY(epoll_create1(0));
    int event = TRY(eventfd(1, 0));
    TRY(add(epoll, event, EPOLLIN, 3));
    int moved = TRY(fcntl(event, F_DUPFD, 100));
    int other = TRY(eventfd(1, 0));
    TRY(dup2(other, event));
    close(other);
    TRY(add(epoll, event, EPOLLIN, 5));
    be_dumped();
    CHECK(ready(epoll) == 8);
    CHECK(number(moved) == 1);
    CHECK(ready(epoll) == 5);
    CHECK(number(event) == 1);
    CHECK(ready(epoll) == 0);
}

SCENARIO(epoll_with_one_file_under_two_numbers) {
    int epoll = TRY(epoll_create1(0));
    int event = TRY(eventfd(1, 0));
    int duplicate = TRY(dup(event));
    TRY(add(epoll, event, EPOLLIN, 3));
    TRY(add(epoll, duplicate, EPOLLIN, 4));
    be_dumped();
    CHECK(ready(epoll) == 7);
    CHECK(number(duplicate) == 1);
    CHECK(ready(epoll) == 0);
}

SCENARIO(epoll_in_epoll) {
    int inner = TRY(epoll_create1(0));
    int outer = TRY(epoll_create1(0));
    int outermost = TRY(epoll_create1(0));
    int event = TRY(eventfd(0, 0));
    TRY(add(outermost, outer, EPOLLIN, 1));
    TRY(add(outer, inner, EPOLLIN, 2));
    TRY(add(inner, event, EPOLLIN, 3));
    be_dumped();
    CHECK(ready(outermost) == 0);
    uint64_t one = 1;
    CHECK(write(event, &one, sizeof(one)) == sizeof(one));
    CHECK(ready(outermost) == 1);
    CHECK(ready(outer) == 2);
    CHECK(ready(inner) == 3);
}

static int shared_epoll;

static void wait_in_epoll(void) {
    struct epoll_event event;
    CHECK(epoll_wait(shared_epoll, &event, 1, -1) == 1 && event.data.u64 == 9);
}

SCENARIO(epoll_that_a_child_waits_in) {
    shared_epoll = TRY(epoll_create1(0));
    int event = TRY(eventfd(0, 0));
    TRY(add(shared_epoll, event, EPOLLIN, 9));
    pid_t child = in_child(wait_in_epoll);
    be_dumped();
    uint64_t one = 1;
    CHECK(write(event, &one, sizeof(one)) == sizeof(one));
    reap_child(child);
}

static int kept_open;

static void keep_open(void) {
    int ends[2];
    CHECK(fcntl(kept_open, F_GETFD) == 0);
    TRY(pipe(ends));
    wait_to_go();
}

SCENARIO(epoll_whose_target_only_a_child_has) {
    int epoll = TRY(epoll_create1(EPOLL_CLOEXEC));
    kept_open = TRY(eventfd(1, 0));
    TRY(add(epoll, kept_open, EPOLLIN, 3));
    pid_t child = in_child(keep_open);
    close(kept_open);
    be_dumped();
    reap_child(child);
}
