/* Processes: zombies, stopped ones, sessions, groups, threads, deep and wide trees. */
#include "tasks.h"

#include <fcntl.h>
#include <sched.h>
#include <sys/mman.h>

static void exit_with(int code) {
    pid_t pid = TRY(fork());
    if (pid == 0) _exit(code);
}

SCENARIO(zombies_with_exit_codes) {
    int codes[] = {0, 1, 7, 127};
    for (size_t i = 0; i < COUNT(codes); i++) exit_with(codes[i]);
    siginfo_t info;
    for (size_t i = 0; i < COUNT(codes); i++) TRY(waitid(P_ALL, 0, &info, WEXITED | WNOWAIT));
    usleep(20000);
    be_dumped();
    bool seen[COUNT(codes)] = {false};
    for (size_t i = 0; i < COUNT(codes); i++) {
        int status;
        TRY(wait(&status));
        CHECK(WIFEXITED(status));
        for (size_t j = 0; j < COUNT(codes); j++)
            if (WEXITSTATUS(status) == codes[j]) seen[j] = true;
    }
    for (size_t i = 0; i < COUNT(codes); i++) CHECK(seen[i]);
    CHECK(wait(NULL) == -1 && errno == ECHILD);
}

SCENARIO(zombies_of_signals) {
    int signals[] = {SIGKILL, SIGTERM, SIGALRM, SIGRTMIN + 2};
    pid_t pids[COUNT(signals)];
    for (size_t i = 0; i < COUNT(signals); i++) {
        pids[i] = TRY(fork());
        if (pids[i] == 0) {
            kill(getpid(), signals[i]);
            pause();
        }
        wait_for_state(pids[i], 'Z');
    }
    be_dumped();
    for (size_t i = 0; i < COUNT(signals); i++) {
        int status;
        CHECK(waitpid(pids[i], &status, 0) == pids[i]);
        CHECK(WIFSIGNALED(status) && WTERMSIG(status) == signals[i]);
    }
}

static void ends_in_a_session_of_its_own(void) {
    TRY(setsid());
    child_is_set();
}

static void ends_in_a_group_of_its_own(void) {
    TRY(setpgid(0, 0));
    child_is_set();
}

SCENARIO(zombies_that_led_a_session_or_a_group) {
    pid_t session = start_child(ends_in_a_session_of_its_own);
    pid_t group = start_child(ends_in_a_group_of_its_own);
    wait_for_state(session, 'Z');
    wait_for_state(group, 'Z');
    be_dumped();
    CHECK(stat_field(session, 6) == session);
    CHECK(stat_field(group, 5) == group);
    reap_child(session);
    reap_child(group);
}

static void waits(void) {
    child_is_set();
    wait_to_go();
}

SCENARIO(group_led_by_a_zombie) {
    pid_t leader = start_child(ends_in_a_group_of_its_own);
    wait_for_state(leader, 'Z');
    pid_t member = start_child(waits);
    TRY(setpgid(member, leader));
    be_dumped();
    CHECK(getpgid(member) == leader);
    reap_child(member);
    reap_child(leader);
}

/* In an orphaned group only SIGSTOP stops. */
static void waits_in_a_group_of_its_own(void) {
    TRY(setpgid(0, 0));
    waits();
}

static void stops(int signal) {
    pid_t pid = start_child(waits_in_a_group_of_its_own);
    TRY(kill(pid, signal));
    wait_for_state(pid, 'T');
    int status;
    CHECK(waitpid(pid, &status, WUNTRACED) == pid);
    CHECK(WIFSTOPPED(status) && WSTOPSIG(status) == signal);
    be_dumped();
    usleep(30000);
    CHECK(state_of(pid) == 'T');
    TRY(kill(pid, SIGCONT));
    reap_child(pid);
}

SCENARIO(stopped_by_sigstop) { stops(SIGSTOP); }
SCENARIO(stopped_by_sigtstp) { stops(SIGTSTP); }
SCENARIO(stopped_by_sigttin) { stops(SIGTTIN); }
SCENARIO(stopped_by_sigttou) { stops(SIGTTOU); }

SCENARIO(stopped_and_not_yet_seen_by_its_parent) {
    pid_t pid = start_child(waits_in_a_group_of_its_own);
    TRY(kill(pid, SIGTSTP));
    wait_for_state(pid, 'T');
    be_dumped();
    int status;
    CHECK(waitpid(pid, &status, WUNTRACED) == pid);
    CHECK(WIFSTOPPED(status) && WSTOPSIG(status) == SIGTSTP);
    TRY(kill(pid, SIGCONT));
    reap_child(pid);
}

static void *sleeps(void *unused) {
    (void)unused;
    thread_is_set();
    wait_to_go();
    return NULL;
}

static void with_threads(void) {
    pthread_t threads[3];
    for (size_t i = 0; i < COUNT(threads); i++) threads[i] = start_thread(sleeps, NULL);
    child_is_set();
    for (size_t i = 0; i < COUNT(threads); i++) join(threads[i]);
}

SCENARIO(stopped_with_threads) {
    pid_t pid = start_child(with_threads);
    TRY(kill(pid, SIGSTOP));
    wait_for_state(pid, 'T');
    be_dumped();
    usleep(30000);
    CHECK(state_of(pid) == 'T');
    TRY(kill(pid, SIGCONT));
    reap_child(pid);
}

static int to_stopped[2];

static void reads_a_pipe(void) {
    child_is_set();
    char byte;
    CHECK(read(to_stopped[0], &byte, 1) == 1 && byte == 'x');
}

SCENARIO(stopped_inside_a_call) {
    TRY(pipe(to_stopped));
    pid_t pid = start_child(reads_a_pipe);
    wait_until_in(pid, SYS_read);
    TRY(kill(pid, SIGSTOP));
    wait_for_state(pid, 'T');
    be_dumped();
    TRY(write(to_stopped[1], "x", 1));
    usleep(20000);
    CHECK(state_of(pid) == 'T');
    TRY(kill(pid, SIGCONT));
    reap_child(pid);
}

static void signals_wait_behind_the_stop(void) {
    child_is_set();
    for (;;) pause();
}

SCENARIO(stopped_with_a_deadly_signal_waiting) {
    pid_t pid = start_child(signals_wait_behind_the_stop);
    TRY(kill(pid, SIGSTOP));
    wait_for_state(pid, 'T');
    TRY(kill(pid, SIGUSR1));
    be_dumped();
    CHECK(state_of(pid) == 'T');
    TRY(kill(pid, SIGCONT));
    int status;
    CHECK(waitpid(pid, &status, 0) == pid);
    CHECK(WIFSIGNALED(status) && WTERMSIG(status) == SIGUSR1);
}

static pid_t *numbers;

static void checks_its_place(void) {
    pid_t group = getpgrp(), session = getsid(0);
    child_is_set();
    wait_to_go();
    CHECK(getpgrp() == group && getsid(0) == session);
}

static void leads_a_group(void) {
    TRY(setpgid(0, 0));
    checks_its_place();
}

static void joins_the_group(void) {
    TRY(setpgid(0, numbers[0]));
    checks_its_place();
}

static void leads_a_session(void) {
    TRY(setsid());
    /* The pipe by which to tell that all is set is needed once more. */
    int tell = dup(set_pipe[1]);
    numbers[0] = start_child(leads_a_group);
    pid_t second = start_child(joins_the_group);
    pid_t third = start_child(checks_its_place);
    set_pipe[1] = tell;
    checks_its_place();
    reap_child(third);
    reap_child(second);
    reap_child(numbers[0]);
}

static pid_t *shared_numbers(void) {
    void *memory = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    CHECK(memory != MAP_FAILED);
    return memory;
}

SCENARIO(sessions_and_groups) {
    numbers = shared_numbers();
    pid_t session = start_child(leads_a_session);
    pid_t outside = start_child(leads_a_group);
    be_dumped();
    CHECK(getsid(0) == getpid());
    reap_child(session);
    reap_child(outside);
}

static void starts_one_and_ends(void) {
    TRY(setpgid(0, 0));
    pid_t own = getpid();
    pid_t child = TRY(fork());
    if (child == 0) {
        CHECK(getpgrp() == own);
        checks_its_place();
        _exit(0);
    }
    _exit(0);
}

SCENARIO(group_whose_leader_is_gone) {
    TRY(prctl(PR_SET_CHILD_SUBREAPER, 1));
    pid_t leader = start_child(starts_one_and_ends);
    reap_child(leader);
    be_dumped();
    int status;
    CHECK(wait(&status) > 0 && status == 0);
    CHECK(wait(NULL) == -1 && errno == ECHILD);
}

static void starts_one_in_its_session_and_ends(void) {
    pid_t own = TRY(setsid());
    pid_t child = TRY(fork());
    if (child == 0) {
        CHECK(getsid(0) == own);
        checks_its_place();
        dprintf(1, "in its session\n");
        _exit(0);
    }
    _exit(0);
}

/* The session is kept. What criu does not keep, and dedump tells, is whose child it is. */
SCENARIO(session_whose_leader_is_gone) {
    TRY(prctl(PR_SET_CHILD_SUBREAPER, 1));
    pid_t leader = start_child(starts_one_in_its_session_and_ends);
    reap_child(leader);
    be_dumped();
    while (!strstr(slurp("output"), "in its session")) usleep(2000);
    if (wait(NULL) == -1) CHECK(errno == ECHILD);
}

static void has_an_orphan_of_another_session(void) {
    TRY(prctl(PR_SET_CHILD_SUBREAPER, 1));
    int tell = dup(set_pipe[1]);
    pid_t leader = start_child(starts_one_in_its_session_and_ends);
    reap_child(leader);
    set_pipe[1] = tell;
    child_is_set();
    int status;
    CHECK(wait(&status) > 0 && status == 0);
}

SCENARIO(session_that_no_ancestor_leads) {
    pid_t pid = start_child(has_an_orphan_of_another_session);
    be_dumped();
    reap_child(pid);
}

static void subreaper_in_the_middle(void) {
    TRY(prctl(PR_SET_CHILD_SUBREAPER, 1));
    pid_t leader = TRY(fork());
    if (leader == 0) {
        if (TRY(fork()) == 0) {
            checks_its_place();
            _exit(0);
        }
        _exit(0);
    }
    reap_child(leader);
    wait_to_go();
    int reaper = 0;
    TRY(prctl(PR_GET_CHILD_SUBREAPER, &reaper));
    CHECK(reaper == 1);
    int status;
    CHECK(wait(&status) > 0 && status == 0);
    /* Still one: an orphan made now comes to it, too. */
    pid_t parent = TRY(fork());
    if (parent == 0) {
        if (TRY(fork()) == 0) _exit(5);
        _exit(0);
    }
    reap_child(parent);
    CHECK(wait(&status) > 0 && WEXITSTATUS(status) == 5);
}

SCENARIO(subreaper_with_orphans) {
    pid_t pid = start_child(subreaper_in_the_middle);
    be_dumped();
    int reaper = 1;
    TRY(prctl(PR_GET_CHILD_SUBREAPER, &reaper));
    CHECK(reaper == 0);
    reap_child(pid);
}

static int way_out[2];

static void grow(int depth, int width) {
    pid_t pids[64];
    int count = 0;
    if (depth > 0)
        for (; count < width; count++) {
            pids[count] = TRY(fork());
            if (pids[count] == 0) {
                grow(depth - 1, width);
                _exit(0);
            }
        }
    /* Everybody writes one byte when it is there, and nobody leaves before the end. */
    CHECK(write(to_stopped[1], "", 1) == 1);
    char byte;
    CHECK(read(way_out[0], &byte, 1) == 1);
    while (count > 0) reap_child(pids[--count]);
}

static void tree(int depth, int width, int size) {
    TRY(pipe(to_stopped));
    TRY(pipe(way_out));
    pid_t pid = TRY(fork());
    if (pid == 0) {
        grow(depth, width);
        _exit(0);
    }
    char byte;
    for (int i = 0; i < size; i++) CHECK(read(to_stopped[0], &byte, 1) == 1);
    be_dumped();
    for (int i = 0; i < size; i++) CHECK(write(way_out[1], "", 1) == 1);
    reap_child(pid);
}

SCENARIO(deep_tree) { tree(60, 1, 61); }
SCENARIO(wide_tree) { tree(1, 60, 61); }
SCENARIO(tree_of_three_hundred) { tree(4, 4, 341); }
/* 1 + 3 + 9 + 27 + 81 + 243 + 729 below one root, each with three children. */
SCENARIO(tree_of_a_thousand) { tree(6, 3, 1093); }
/* As deep as it goes: each has one child. */
SCENARIO(chain_of_two_hundred) { tree(199, 1, 200); }
SCENARIO(chain_of_a_thousand) { tree(999, 1, 1000); }

static void *counts(void *word) {
    unsigned long *counter = word;
    thread_is_set();
    while (!told_to_go()) {
        __atomic_add_fetch(counter, 1, __ATOMIC_RELAXED);
        usleep(10000);
    }
    return NULL;
}

SCENARIO(a_hundred_threads) {
    static pthread_t threads[100];
    static unsigned long counters[100];
    for (size_t i = 0; i < COUNT(threads); i++) threads[i] = start_thread(counts, &counters[i]);
    be_dumped();
    for (size_t i = 0; i < COUNT(threads); i++) join(threads[i]);
}

static unsigned long rounds;

static void *ends_at_once(void *unused) {
    (void)unused;
    __atomic_add_fetch(&rounds, 1, __ATOMIC_RELAXED);
    return NULL;
}

static void *comes_and_goes(void *unused) {
    (void)unused;
    thread_is_set();
    while (!told_to_go()) {
        pthread_t threads[8];
        for (size_t i = 0; i < COUNT(threads); i++)
            CHECK(pthread_create(&threads[i], NULL, ends_at_once, NULL) == 0);
        for (size_t i = 0; i < COUNT(threads); i++) join(threads[i]);
    }
    return NULL;
}

SCENARIO(threads_that_come_and_go) {
    pthread_t first = start_thread(comes_and_goes, NULL);
    pthread_t second = start_thread(comes_and_goes, NULL);
    be_dumped();
    join(first);
    join(second);
    CHECK(rounds > 0);
}

SCENARIO(children_that_come_and_go) {
    say_ready();
    while (!told_to_go()) {
        pid_t pids[4];
        for (size_t i = 0; i < COUNT(pids); i++) {
            pids[i] = TRY(fork());
            if (pids[i] == 0) _exit(i);
        }
        for (size_t i = 0; i < COUNT(pids); i++) {
            int status;
            CHECK(waitpid(pids[i], &status, 0) == pids[i]);
            CHECK(WIFEXITED(status) && WEXITSTATUS(status) == (int)i);
        }
    }
}

static int sibling(void *unused) {
    (void)unused;
    wait_to_go();
    return 3;
}

static pid_t siblings_pid;

static void makes_a_sibling(void) {
    static char stack[65536];
    numbers[0] = TRY(clone(sibling, stack + sizeof(stack), CLONE_PARENT | SIGCHLD, NULL));
    child_is_set();
    wait_to_go();
}

SCENARIO(child_made_by_a_sibling) {
    numbers = shared_numbers();
    pid_t pid = start_child(makes_a_sibling);
    siblings_pid = numbers[0];
    be_dumped();
    reap_child(pid);
    int status;
    CHECK(waitpid(siblings_pid, &status, 0) == siblings_pid);
    CHECK(WIFEXITED(status) && WEXITSTATUS(status) == 3);
}

static void *outlives_the_leader(void *unused) {
    (void)unused;
    wait_for_state(getpid(), 'Z');
    say_ready();
    wait_to_go();
    dprintf(1, "done\n");
    pause();
    return NULL;
}

SCENARIO(leader_that_has_ended) {
    pthread_t thread;
    CHECK(pthread_create(&thread, NULL, outlives_the_leader, NULL) == 0);
    syscall(SYS_exit, 0);
}

static void says_ready_later(void) {
    usleep(50000);
    say_ready();
}

SCENARIO(parent_in_vfork) {
    /* The child says it, in the stack frame of its waiting parent. */
    pid_t pid = vfork();
    if (pid == 0) {
        says_ready_later();
        wait_to_go();
        _exit(0);
    }
    reap_child(pid);
}
