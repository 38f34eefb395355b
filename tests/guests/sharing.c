/* Processes that share whatever the kernel lets them share, in every combination, and threads
 * that stopped sharing. Prints "pair A B FLAGS" for each: what B has in common with A, as the
 * CLONE_ flags that made it so; then "ready".
 */
#define _GNU_SOURCE
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#define STACK 65536

static const int kinds[4] = {CLONE_VM, CLONE_FS, CLONE_FILES, CLONE_SIGHAND};

static int life(void *unused)
{
    for (;;)
        pause();
    return 0;
}

/* A child that shares by flags; with CLONE_PARENT a sibling. */
static void make(int flags, int parent)
{
    char *stack = malloc(STACK);
    int pid = clone(life, stack + STACK, flags | parent | SIGCHLD, 0);
    if (pid < 0)
        dprintf(1, "BAD clone %x\n", flags);
    else
        dprintf(1, "pair %d %d %x\n", getpid(), pid, flags);
}

static void *thread(void *argument)
{
    int without = (int)(long)argument;
    /* the output must stay reachable, so it is copied, not closed */
    if (without && unshare(without))
        dprintf(1, "BAD unshare %x\n", without);
    dprintf(1, "pair %d %ld %x\n", getpid(), syscall(SYS_gettid),
            (CLONE_VM | CLONE_FS | CLONE_FILES | CLONE_SIGHAND) & ~without);
    life(0);
    return 0;
}

int main(void)
{
    pthread_t id;
    int apart[4] = {0, CLONE_FILES, CLONE_FS, CLONE_FILES | CLONE_FS};
    for (int mask = 0; mask < 16; mask++) {
        int flags = 0;
        for (int i = 0; i < 4; i++)
            if (mask & 1 << i)
                flags |= kinds[i];
        if (flags & CLONE_SIGHAND && !(flags & CLONE_VM))
            continue; /* the kernel refuses that */
        make(flags, 0);
        for (int i = 0; i < 2; i++) {
            int parent = i ? CLONE_PARENT : 0;
            if (fork() == 0) {
                make(flags, parent);
                life(0);
            }
        }
    }
    for (int i = 0; i < 4; i++)
        pthread_create(&id, 0, thread, (void *)(long)apart[i]);
    usleep(300000);
    dprintf(1, "ready\n");
    life(0);
}
