/* Interval timers and POSIX timers. */
#include "tasks.h"

#include <sys/time.h>

#ifndef SIGEV_THREAD_ID
#define SIGEV_THREAD_ID 4
#endif

static int rings(int seconds, int signal) {
    sigset_t set;
    sigemptyset(&set);
    sigaddset(&set, signal);
    struct timespec limit = {seconds, 0};
    siginfo_t info;
    int found;
    do found = sigtimedwait(&set, &info, &limit);
    while (found == -1 && errno == EINTR);
    return found == signal ? info.si_value.sival_int : -1;
}

static void block(int signal) {
    sigset_t set;
    sigemptyset(&set);
    sigaddset(&set, signal);
    CHECK(pthread_sigmask(SIG_BLOCK, &set, NULL) == 0);
}

SCENARIO(interval_timers) {
    struct itimerval real = {{100, 1}, {200, 2}}, virtual = {{3, 4}, {300, 0}}, prof = {{0, 0}, {400, 9}};
    TRY(setitimer(ITIMER_REAL, &real, NULL));
    TRY(setitimer(ITIMER_VIRTUAL, &virtual, NULL));
    TRY(setitimer(ITIMER_PROF, &prof, NULL));
    be_dumped();
    struct itimerval now;
    TRY(getitimer(ITIMER_REAL, &now));
    CHECK(now.it_interval.tv_sec == 100 && now.it_interval.tv_usec == 1);
    CHECK(now.it_value.tv_sec > 100 && now.it_value.tv_sec <= 200);
    TRY(getitimer(ITIMER_VIRTUAL, &now));
    CHECK(now.it_interval.tv_sec == 3 && now.it_interval.tv_usec == 4);
    CHECK(now.it_value.tv_sec > 200 && now.it_value.tv_sec <= 300);
    TRY(getitimer(ITIMER_PROF, &now));
    CHECK(now.it_interval.tv_sec == 0 && now.it_interval.tv_usec == 0);
    CHECK(now.it_value.tv_sec > 300 && now.it_value.tv_sec <= 400);
}

static volatile sig_atomic_t alarms;
static void on_alarm(int signal) {
    (void)signal;
    alarms++;
}

SCENARIO(interval_timer_that_keeps_ringing) {
    signal(SIGALRM, on_alarm);
    struct itimerval often = {{0, 2000}, {0, 2000}};
    TRY(setitimer(ITIMER_REAL, &often, NULL));
    be_dumped();
    int before = alarms;
    CHECK(before > 0);
    while (alarms < before + 3) usleep(1000);
}

SCENARIO(alarm_that_rings_once_after_the_restore) {
    signal(SIGALRM, on_alarm);
    alarm(3600);
    be_dumped();
    unsigned left = alarm(1);
    CHECK(left > 3000 && left <= 3600);
    while (!alarms) pause();
}

SCENARIO(timer_whose_signal_waits) {
    block(SIGALRM);
    struct itimerval once = {{0, 0}, {0, 1000}};
    TRY(setitimer(ITIMER_REAL, &once, NULL));
    sigset_t pending;
    do sigpending(&pending);
    while (!sigismember(&pending, SIGALRM));
    be_dumped();
    sigpending(&pending);
    CHECK(sigismember(&pending, SIGALRM));
    struct itimerval now;
    TRY(getitimer(ITIMER_REAL, &now));
    CHECK(now.it_value.tv_sec == 0 && now.it_value.tv_usec == 0);
}

static timer_t timer_on(clockid_t clock, int notify, int signal, int value) {
    struct sigevent event = {.sigev_notify = notify, .sigev_signo = signal, .sigev_value.sival_int = value};
    timer_t timer;
    TRY(timer_create(clock, &event, &timer));
    return timer;
}

static void set(timer_t timer, time_t value, time_t interval) {
    struct itimerspec setting = {{interval, 7}, {value, 0}};
    TRY(timer_settime(timer, 0, &setting, NULL));
}

/* Left between half of `value` and all of it. */
static void is_set(timer_t timer, time_t value, time_t interval) {
    struct itimerspec now;
    TRY(timer_gettime(timer, &now));
    CHECK(now.it_interval.tv_sec == interval && now.it_interval.tv_nsec == 7);
    CHECK(now.it_value.tv_sec > value / 2 && now.it_value.tv_sec <= value);
}

SCENARIO(timers_on_all_clocks) {
    clockid_t clocks[] = {CLOCK_REALTIME, CLOCK_MONOTONIC, CLOCK_BOOTTIME, CLOCK_TAI,
                          CLOCK_PROCESS_CPUTIME_ID, CLOCK_THREAD_CPUTIME_ID};
    timer_t timers[COUNT(clocks)];
    for (size_t i = 0; i < COUNT(clocks); i++) {
        timers[i] = timer_on(clocks[i], SIGEV_SIGNAL, SIGRTMIN + i, i);
        set(timers[i], 1000 * (i + 1), i);
    }
    be_dumped();
    for (size_t i = 0; i < COUNT(clocks); i++) is_set(timers[i], 1000 * (i + 1), i);
}

SCENARIO(timer_with_a_value_that_rings) {
    block(SIGRTMIN + 3);
    timer_t timer = timer_on(CLOCK_MONOTONIC, SIGEV_SIGNAL, SIGRTMIN + 3, 1234567);
    set(timer, 5000, 0);
    be_dumped();
    is_set(timer, 5000, 0);
    struct itimerspec soon = {{0, 0}, {0, 1000000}};
    TRY(timer_settime(timer, 0, &soon, NULL));
    CHECK(rings(5, SIGRTMIN + 3) == 1234567);
}

SCENARIO(timer_that_tells_nobody) {
    timer_t timer = timer_on(CLOCK_REALTIME, SIGEV_NONE, 0, 0);
    set(timer, 7000, 70);
    be_dumped();
    is_set(timer, 7000, 70);
}

SCENARIO(timers_that_are_not_set_and_gaps) {
    timer_t timers[8];
    for (int i = 0; i < 8; i++) timers[i] = timer_on(CLOCK_MONOTONIC, SIGEV_SIGNAL, SIGUSR1, i);
    for (int i = 0; i < 8; i += 2) TRY(timer_delete(timers[i]));
    set(timers[3], 3000, 3);
    be_dumped();
    is_set(timers[3], 3000, 3);
    struct itimerspec now;
    for (int i = 1; i < 8; i += 2) {
        if (i == 3) continue;
        TRY(timer_gettime(timers[i], &now));
        CHECK(now.it_value.tv_sec == 0 && now.it_value.tv_nsec == 0);
    }
    for (int i = 1; i < 8; i += 2) TRY(timer_delete(timers[i]));
    timer_t next = timer_on(CLOCK_MONOTONIC, SIGEV_SIGNAL, SIGUSR1, 0);
    TRY(timer_delete(next));
}

static void *gets_the_signal(void *tid) {
    block(SIGRTMIN + 5);
    *(pid_t *)tid = my_tid();
    thread_is_set();
    wait_to_go();
    CHECK(rings(5, SIGRTMIN + 5) == 55);
    return NULL;
}

SCENARIO(timer_for_one_thread) {
    block(SIGRTMIN + 5);
    pid_t tid;
    pthread_t thread = start_thread(gets_the_signal, &tid);
    struct {
        union sigval value;
        int signal, notify;
        pid_t tid;
        char rest[44];
    } event = {{.sival_int = 55}, SIGRTMIN + 5, SIGEV_THREAD_ID, tid, {0}};
    int timer;
    TRY(syscall(SYS_timer_create, CLOCK_MONOTONIC, &event, &timer));
    struct itimerspec setting = {{0, 0}, {4000, 0}};
    TRY(syscall(SYS_timer_settime, timer, 0, &setting, NULL));
    be_dumped();
    TRY(syscall(SYS_timer_gettime, timer, &setting));
    CHECK(setting.it_value.tv_sec > 3000);
    setting = (struct itimerspec){{0, 0}, {0, 1000000}};
    TRY(syscall(SYS_timer_settime, timer, 0, &setting, NULL));
    join(thread);
    CHECK(rings(0, SIGRTMIN + 5) == -1);
}

static int calls_back;
static void call_back(union sigval value) {
    __atomic_store_n(&calls_back, value.sival_int, __ATOMIC_SEQ_CST);
}

SCENARIO(timer_that_calls_a_function) {
    struct sigevent event = {.sigev_notify = SIGEV_THREAD,
                             .sigev_notify_function = call_back,
                             .sigev_value.sival_int = 9};
    timer_t timer;
    TRY(timer_create(CLOCK_MONOTONIC, &event, &timer));
    set(timer, 5000, 0);
    be_dumped();
    is_set(timer, 5000, 0);
    struct itimerspec soon = {{0, 0}, {0, 1000000}};
    TRY(timer_settime(timer, 0, &soon, NULL));
    while (__atomic_load_n(&calls_back, __ATOMIC_SEQ_CST) != 9) usleep(1000);
}

SCENARIO(timer_that_keeps_ringing) {
    signal(SIGUSR1, on_alarm);
    timer_t timer = timer_on(CLOCK_MONOTONIC, SIGEV_SIGNAL, SIGUSR1, 0);
    struct itimerspec often = {{0, 3000000}, {0, 3000000}};
    TRY(timer_settime(timer, 0, &often, NULL));
    be_dumped();
    int before = alarms;
    CHECK(before > 0);
    while (alarms < before + 3) usleep(1000);
}

SCENARIO(timer_on_the_clock_of_another_process) {
    clockid_t clock;
    pid_t child = in_child(wait_to_go);
    CHECK(clock_getcpuclockid(child, &clock) == 0);
    timer_t timer = timer_on(clock, SIGEV_SIGNAL, SIGUSR1, 0);
    set(timer, 6000, 6);
    be_dumped();
    is_set(timer, 6000, 6);
    reap_child(child);
}

SCENARIO(time_goes_on) {
    long long monotonic = now_ns(CLOCK_MONOTONIC), boot = now_ns(CLOCK_BOOTTIME);
    be_dumped();
    long long passed = now_ns(CLOCK_MONOTONIC) - monotonic;
    CHECK(passed >= 0 && passed < 120 * 1000000000LL);
    passed = now_ns(CLOCK_BOOTTIME) - boot;
    CHECK(passed >= 0 && passed < 120 * 1000000000LL);
}
