/* What a scenario is made of: it sets something up, says that it is ready, and after it was
 * dumped (and, mostly, killed and restored) checks that everything is as it was. */
#ifndef SCENARIO_H
#define SCENARIO_H

#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif

#include <errno.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* Declares a scenario: SCENARIO(name) { … }. A scenario that returns has passed. */
#define SCENARIO(name)                                                                       \
    static void name(void);                                                                  \
    __attribute__((constructor)) static void add_##name(void) { add_scenario(#name, name); } \
    static void name(void)

/* Ends the scenario with a complaint unless the condition holds. */
#define CHECK(condition)                                                                 \
    do {                                                                                 \
        if (!(condition)) complain(__FILE__, __LINE__, #condition, errno);               \
    } while (0)

/* The same for a system call: gives its result. */
#define TRY(call)                                                                        \
    ({                                                                                   \
        __typeof__(call) result_ = (call);                                               \
        if (result_ == (__typeof__(call))-1) complain(__FILE__, __LINE__, #call, errno); \
        result_;                                                                         \
    })

void add_scenario(const char *name, void (*run)(void));
_Noreturn void complain(const char *file, int line, const char *what, int error);

/* Says that everything is set up, and comes back when the test has dumped (and restored). */
void be_dumped(void);

/* The two halves of it, for scenarios that wait in a way of their own. */
void say_ready(void);
bool told_to_go(void);
void wait_to_go(void);

/* Ends the scenario where the kernel lacks something; a failure in CI. */
_Noreturn void skip(const char *why);

/* Forks; the child runs, then exits with 0. Its complaints reach the test. */
pid_t in_child(void (*run)(void));

/* Waits for a child, which must have exited with 0. */
void reap_child(pid_t pid);

/* A word from the status of this thread, as in status_field("SigBlk"), in a buffer of the thread. */
const char *status_field(const char *name);

/* The whole of a small file, in a static buffer; NULL if it cannot be read. */
const char *slurp(const char *path);

#endif
