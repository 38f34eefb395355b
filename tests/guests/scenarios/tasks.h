/* Helpers of the scenarios about tasks. */
#ifndef TASKS_H
#define TASKS_H

#include "scenario.h"

#include <pthread.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>

#define COUNT(array) (sizeof(array) / sizeof((array)[0]))

/* Forks, and comes back when the child has called child_is_set(). A child that starts children of
 * its own puts set_pipe[1] aside meanwhile. */
extern int set_pipe[2];
pid_t start_child(void (*run)(void));
void child_is_set(void);

/* Starts a thread, and comes back when it has called thread_is_set(). */
pthread_t start_thread(void *(*run)(void *), void *argument);
void thread_is_set(void);
void join(pthread_t thread);

pid_t my_tid(void);

/* Waits until a thread sleeps inside this system call. */
void wait_until_in(pid_t tid, long call);

/* A thread that makes one call, and that is known to sleep in it. */
pthread_t thread_in(long call, void *(*run)(void *), void *argument);

/* The state letter and other numbers of /proc/PID/stat; field 3 is the state. */
char state_of(pid_t pid);
long stat_field(pid_t pid, int field);
void wait_for_state(pid_t pid, char state);

/* A word from /proc/PID/status. */
const char *status_of(pid_t pid, const char *name);

/* Writes a small file. */
void spit(const char *path, const char *text);

long long now_ns(clockid_t clock);

#endif
