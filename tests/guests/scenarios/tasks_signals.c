/* Signals: queues, masks, handlers, stacks. */
#include "tasks.h"

#include <fcntl.h>
#include <ucontext.h>

static void block(int signal) {
    sigset_t set;
    sigemptyset(&set);
    sigaddset(&set, signal);
    CHECK(pthread_sigmask(SIG_BLOCK, &set, NULL) == 0);
}

static void unblock(int signal) {
    sigset_t set;
    sigemptyset(&set);
    sigaddset(&set, signal);
    CHECK(pthread_sigmask(SIG_UNBLOCK, &set, NULL) == 0);
}

/* Takes a pending signal; -1 when there is none. */
static int take(int signal, siginfo_t *info) {
    sigset_t set;
    sigemptyset(&set);
    sigaddset(&set, signal);
    struct timespec none = {0, 0};
    return sigtimedwait(&set, info, &none);
}

SCENARIO(signal_queued_with_a_value) {
    block(SIGUSR1);
    union sigval value = {.sival_ptr = (void *)0x123456789abcdef0};
    TRY(sigqueue(getpid(), SIGUSR1, value));
    be_dumped();
    siginfo_t info;
    CHECK(take(SIGUSR1, &info) == SIGUSR1);
    CHECK(info.si_code == SI_QUEUE && info.si_pid == getpid() && info.si_uid == 0);
    CHECK(info.si_value.sival_ptr == value.sival_ptr);
    CHECK(take(SIGUSR1, &info) == -1 && errno == EAGAIN);
}

SCENARIO(realtime_signals_in_their_order) {
    int first = SIGRTMIN + 1, second = SIGRTMIN + 7;
    block(first);
    block(second);
    for (int i = 0; i < 40; i++) {
        union sigval value = {.sival_int = i};
        TRY(sigqueue(getpid(), second, value));
        if (i % 2) TRY(sigqueue(getpid(), first, value));
    }
    be_dumped();
    siginfo_t info;
    for (int i = 0; i < 40; i++) {
        CHECK(take(second, &info) == second && info.si_value.sival_int == i);
        if (i % 2) CHECK(take(first, &info) == first && info.si_value.sival_int == i);
    }
    CHECK(take(second, &info) == -1 && take(first, &info) == -1);
}

SCENARIO(more_signals_than_are_read_at_once) {
    int signal = SIGRTMIN + 2;
    block(signal);
    for (int i = 0; i < 333; i++) {
        union sigval value = {.sival_int = i};
        TRY(sigqueue(getpid(), signal, value));
    }
    be_dumped();
    siginfo_t info;
    for (int i = 0; i < 333; i++) CHECK(take(signal, &info) == signal && info.si_value.sival_int == i);
    CHECK(take(signal, &info) == -1);
}

static void *has_signals_of_its_own(void *number) {
    long own = (long)number;
    block(SIGUSR1);
    block(SIGRTMIN + 4);
    CHECK(pthread_kill(pthread_self(), SIGUSR1) == 0);
    for (int i = 0; i < 3; i++) {
        union sigval value = {.sival_int = own * 10 + i};
        CHECK(pthread_sigqueue(pthread_self(), SIGRTMIN + 4, value) == 0);
    }
    thread_is_set();
    wait_to_go();
    siginfo_t info;
    CHECK(take(SIGUSR1, &info) == SIGUSR1);
    /* Only the leader may send itself a signal as from tkill, which is how criu does it. */
    CHECK((info.si_code == SI_TKILL || info.si_code == SI_USER) && info.si_pid == getpid());
    for (int i = 0; i < 3; i++)
        CHECK(take(SIGRTMIN + 4, &info) == SIGRTMIN + 4 && info.si_value.sival_int == own * 10 + i);
    CHECK(take(SIGRTMIN + 4, &info) == -1 && take(SIGUSR1, &info) == -1);
    return NULL;
}

SCENARIO(signals_of_single_threads) {
    block(SIGUSR2);
    TRY(kill(getpid(), SIGUSR2));
    pthread_t first = start_thread(has_signals_of_its_own, (void *)1);
    pthread_t second = start_thread(has_signals_of_its_own, (void *)2);
    be_dumped();
    join(first);
    join(second);
    siginfo_t info;
    CHECK(take(SIGUSR1, &info) == -1);
    CHECK(take(SIGUSR2, &info) == SIGUSR2 && info.si_code == SI_USER);
}

static void sends_to_its_parent(void) {
    union sigval value = {.sival_int = -5};
    TRY(sigqueue(getppid(), SIGRTMIN, value));
    child_is_set();
}

SCENARIO(signal_of_a_sender_that_has_ended) {
    block(SIGRTMIN);
    pid_t pid = start_child(sends_to_its_parent);
    reap_child(pid);
    be_dumped();
    siginfo_t info;
    CHECK(take(SIGRTMIN, &info) == SIGRTMIN);
    CHECK(info.si_pid == pid && info.si_value.sival_int == -5);
}

SCENARIO(sigchld_that_waits) {
    block(SIGCHLD);
    pid_t pid = TRY(fork());
    if (pid == 0) _exit(42);
    wait_for_state(pid, 'Z');
    be_dumped();
    siginfo_t info;
    CHECK(take(SIGCHLD, &info) == SIGCHLD);
    CHECK(info.si_code == CLD_EXITED && info.si_pid == pid && info.si_status == 42);
    int status;
    CHECK(waitpid(pid, &status, 0) == pid && WEXITSTATUS(status) == 42);
}

SCENARIO(blocked_stop_and_continue_signals) {
    block(SIGTSTP);
    block(SIGTTIN);
    TRY(kill(getpid(), SIGTSTP));
    TRY(kill(getpid(), SIGTTIN));
    be_dumped();
    siginfo_t info;
    CHECK(take(SIGTSTP, &info) == SIGTSTP);
    CHECK(take(SIGTTIN, &info) == SIGTTIN);
}

SCENARIO(blocked_trap) {
    block(SIGTRAP);
    TRY(kill(getpid(), SIGTRAP));
    be_dumped();
    siginfo_t info;
    CHECK(take(SIGTRAP, &info) == SIGTRAP);
}

SCENARIO(blocked_fault_signals) {
    int signals[] = {SIGSEGV, SIGILL, SIGBUS, SIGFPE, SIGSYS};
    for (size_t i = 0; i < COUNT(signals); i++) {
        block(signals[i]);
        TRY(kill(getpid(), signals[i]));
    }
    be_dumped();
    siginfo_t info;
    for (size_t i = 0; i < COUNT(signals); i++)
        CHECK(take(signals[i], &info) == signals[i] && info.si_code == SI_USER);
}

static void *blocks(void *signal) {
    block((long)signal);
    sigset_t before, after;
    CHECK(pthread_sigmask(SIG_BLOCK, NULL, &before) == 0);
    thread_is_set();
    wait_to_go();
    CHECK(pthread_sigmask(SIG_BLOCK, NULL, &after) == 0);
    for (int i = 1; i <= 64; i++) CHECK(sigismember(&before, i) == sigismember(&after, i));
    CHECK(sigismember(&after, (long)signal) == 1);
    return NULL;
}

SCENARIO(masks_of_threads) {
    pthread_t threads[] = {start_thread(blocks, (void *)1L), start_thread(blocks, (void *)31L),
                           start_thread(blocks, (void *)34L), start_thread(blocks, (void *)64L)};
    block(SIGTERM);
    be_dumped();
    for (size_t i = 0; i < COUNT(threads); i++) join(threads[i]);
    CHECK(!strcmp(status_field("SigBlk"), "0000000000004000"));
}

static void handler(int signal) { (void)signal; }
static void informed(int signal, siginfo_t *info, void *context) {
    (void)signal;
    (void)info;
    (void)context;
}

/* The kernel's own view: no libc between. */
struct kernel_action {
    void (*handler)(int);
    unsigned long flags;
    void (*restorer)(void);
    unsigned long mask;
};

SCENARIO(handlers_with_all_flags) {
    unsigned long flags[] = {0,
                             SA_RESTART,
                             SA_NODEFER,
                             SA_RESETHAND,
                             SA_ONSTACK,
                             SA_NOCLDSTOP,
                             SA_NOCLDWAIT,
                             SA_SIGINFO,
                             SA_SIGINFO | SA_RESTART | SA_NODEFER | SA_RESETHAND | SA_ONSTACK,
                             0x800 /* SA_EXPOSE_TAGBITS */};
    struct kernel_action before[65], after;
    for (int signal = 1; signal <= 64; signal++) {
        if (signal == SIGKILL || signal == SIGSTOP || signal == 32 || signal == 33) continue;
        struct sigaction action = {.sa_flags = flags[signal % COUNT(flags)] & ~0x800UL};
        if (action.sa_flags & SA_SIGINFO)
            action.sa_sigaction = informed;
        else
            action.sa_handler = signal % 3 == 0 ? SIG_IGN : signal % 3 == 1 ? handler : SIG_DFL;
        sigaddset(&action.sa_mask, 1 + signal * 7 % 64);
        TRY(sigaction(signal, &action, NULL));
    }
    for (int signal = 1; signal <= 64; signal++)
        TRY(syscall(SYS_rt_sigaction, signal, NULL, &before[signal], 8));
    be_dumped();
    for (int signal = 1; signal <= 64; signal++) {
        TRY(syscall(SYS_rt_sigaction, signal, NULL, &after, 8));
        CHECK(after.handler == before[signal].handler);
        /* What is neither ignored nor caught has no flags that matter, but for SIGCHLD. */
        if (after.handler == SIG_DFL && signal != SIGCHLD) continue;
        CHECK(after.flags == before[signal].flags && after.mask == before[signal].mask);
        CHECK(after.restorer == before[signal].restorer);
    }
}

SCENARIO(children_that_nobody_waits_for) {
    struct sigaction action = {.sa_handler = SIG_DFL, .sa_flags = SA_NOCLDWAIT};
    TRY(sigaction(SIGCHLD, &action, NULL));
    be_dumped();
    if (TRY(fork()) == 0) _exit(3);
    CHECK(wait(NULL) == -1 && errno == ECHILD);
}

SCENARIO(ignored_signals) {
    int signals[] = {SIGHUP, SIGINT, SIGTERM, SIGPIPE, SIGRTMAX};
    for (size_t i = 0; i < COUNT(signals); i++) signal(signals[i], SIG_IGN);
    be_dumped();
    for (size_t i = 0; i < COUNT(signals); i++) TRY(kill(getpid(), signals[i]));
}

static volatile sig_atomic_t depth, deepest, ready_inside;

static void waits_inside(int signal) {
    depth++;
    if (depth > deepest) deepest = depth;
    if (signal == SIGUSR1) raise(SIGUSR2);
    if (signal == SIGUSR2) be_dumped();
    depth--;
}

SCENARIO(inside_nested_handlers) {
    signal(SIGUSR1, waits_inside);
    signal(SIGUSR2, waits_inside);
    double before = 1.5;
    raise(SIGUSR1);
    CHECK(depth == 0 && deepest == 2 && before == 1.5);
    CHECK(!strcmp(status_field("SigBlk"), "0000000000000000"));
}

static char other_stack[65536];

static void on_other_stack(int signal) {
    (void)signal;
    char here;
    CHECK(&here >= other_stack && &here < other_stack + sizeof(other_stack));
    be_dumped();
    stack_t now;
    TRY(sigaltstack(NULL, &now));
    CHECK(now.ss_flags & SS_ONSTACK && now.ss_sp == other_stack);
    CHECK(&here >= other_stack && &here < other_stack + sizeof(other_stack));
}

SCENARIO(on_the_alternate_stack) {
    stack_t stack = {.ss_sp = other_stack, .ss_size = sizeof(other_stack)};
    TRY(sigaltstack(&stack, NULL));
    struct sigaction action = {.sa_handler = on_other_stack, .sa_flags = SA_ONSTACK};
    TRY(sigaction(SIGUSR1, &action, NULL));
    raise(SIGUSR1);
    stack_t now;
    TRY(sigaltstack(NULL, &now));
    CHECK(now.ss_flags == 0 && now.ss_sp == other_stack);
}

static void *has_a_stack(void *unused) {
    (void)unused;
    char *memory = malloc(32768);
    stack_t stack = {.ss_sp = memory, .ss_size = 32768, .ss_flags = 1 << 31 /* SS_AUTODISARM */}, now;
    TRY(sigaltstack(&stack, NULL));
    thread_is_set();
    wait_to_go();
    TRY(sigaltstack(NULL, &now));
    CHECK(now.ss_sp == memory && now.ss_size == 32768 && now.ss_flags == 1 << 31);
    return NULL;
}

SCENARIO(alternate_stacks_of_threads) {
    pthread_t first = start_thread(has_a_stack, NULL);
    pthread_t second = start_thread(has_a_stack, NULL);
    be_dumped();
    join(first);
    join(second);
    stack_t now;
    TRY(sigaltstack(NULL, &now));
    CHECK(now.ss_flags == SS_DISABLE);
}

static volatile long ticks;
static void tick(int signal) {
    (void)signal;
    ticks++;
}

static void *kicks(void *to) {
    thread_is_set();
    /* At most one is ever under way: each has to be seen before the next. */
    for (long sent = 0; !told_to_go(); sent++) {
        CHECK(pthread_kill(*(pthread_t *)to, SIGUSR1) == 0);
        while (ticks <= sent) usleep(100);
        CHECK(ticks == sent + 1);
    }
    return NULL;
}

SCENARIO(signals_that_keep_coming) {
    signal(SIGUSR1, tick);
    pthread_t self = pthread_self();
    pthread_t other = start_thread(kicks, &self);
    be_dumped();
    join(other);
    CHECK(ticks > 0);
}

static void *waits_for_any(void *found) {
    sigset_t set;
    sigemptyset(&set);
    sigaddset(&set, SIGUSR1);
    sigaddset(&set, SIGUSR2);
    siginfo_t info;
    CHECK(sigwaitinfo(&set, &info) == SIGUSR2);
    *(int *)found = info.si_value.sival_int;
    return NULL;
}

SCENARIO(waiting_for_a_signal) {
    block(SIGUSR1);
    block(SIGUSR2);
    int found = 0;
    pthread_t thread = thread_in(SYS_rt_sigtimedwait, waits_for_any, &found);
    be_dumped();
    union sigval value = {.sival_int = 77};
    TRY(sigqueue(getpid(), SIGUSR2, value));
    join(thread);
    CHECK(found == 77);
}

SCENARIO(jump_out_of_a_context) {
    /* A context that was saved before the dump is entered after it. */
    static ucontext_t saved;
    static volatile int times;
    times = 0;
    TRY(getcontext(&saved));
    if (times++ == 0) {
        be_dumped();
        setcontext(&saved);
    }
    CHECK(times == 2);
    unblock(SIGUSR1);
}
