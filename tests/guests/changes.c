/* A program that changes some things, once, when it gets SIGUSR1. What it was before and what it is
 * then is known, so that two dumps can be compared. */
#define _GNU_SOURCE
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

enum { PAGE = 4096, PAGES = 8 };

static void check(int ok, const char *what)
{
    if (!ok) {
        printf("BAD %s\n", what);
        fflush(stdout);
        _exit(9);
    }
}

static void at(int wanted, int fd)
{
    check(fd >= 0 && dup2(fd, wanted) == wanted, "dup2");
    if (fd != wanted)
        close(fd);
}

static int child(void)
{
    int pid = fork();
    check(pid >= 0, "fork");
    if (!pid)
        for (;;)
            pause();
    return pid;
}

static char *map(void *place, int pages, int flags)
{
    char *mapped = mmap(place, pages * PAGE, PROT_READ | PROT_WRITE, MAP_FIXED_NOREPLACE | MAP_ANONYMOUS | flags, -1, 0);
    check(mapped == place, "mmap");
    return mapped;
}

int main(void)
{
    sigset_t orders;
    int signal, ends[2];

    sigemptyset(&orders);
    sigaddset(&orders, SIGUSR1);
    sigprocmask(SIG_BLOCK, &orders, 0);

    check(pipe(ends) == 0, "pipe");
    at(20, ends[0]);
    at(21, ends[1]);
    at(10, open("log", O_RDWR | O_CREAT, 0600));
    check(write(10, "0123456789", 10) == 10, "write");
    at(11, open("gone", O_RDWR | O_CREAT, 0600));
    at(12, open("old", O_RDWR | O_CREAT, 0600));
    at(13, eventfd(7, 0));

    char *memory = map((void *)0x10000000, PAGES, MAP_PRIVATE);
    char *shared = map((void *)0x20000000, PAGES, MAP_SHARED);
    char *dropped = map((void *)0x30000000, 1, MAP_PRIVATE);
    for (int page = 0; page < PAGES; page++) {
        /* One page stays zero. */
        if (page < PAGES - 1)
            memset(memory + page * PAGE, 'a' + page, PAGE);
        memset(shared + page * PAGE, 'A' + page, PAGE);
    }
    *dropped = 1;
    int first = child();
    /* These never change: what the next dump finds must not depend on buffers. */
    printf("child %d\nready\n", first);
    fflush(stdout);

    check(sigwait(&orders, &signal) == 0, "sigwait");
    check(lseek(10, 3, SEEK_SET) == 3, "lseek");
    close(11);
    close(12);
    at(12, open("new", O_RDWR | O_CREAT, 0600));
    check(eventfd_write(13, 5) == 0, "eventfd");
    check(dup2(20, 22) == 22, "dup2");
    check(write(21, "waits", 5) == 5, "write");
    umask(0077);
    memory[1 * PAGE] = 'x';
    memory[3 * PAGE + 100] = 'x';
    memory[(PAGES - 1) * PAGE] = 'x';
    shared[5 * PAGE] = 'x';
    memset(map((void *)0x40000000, 2, MAP_PRIVATE), 'n', 2 * PAGE);
    munmap(dropped, PAGE);
    kill(first, SIGKILL);
    check(waitpid(first, 0, 0) == first, "waitpid");
    printf("child %d\nchanged\n", child());
    fflush(stdout);
    for (;;)
        sigwait(&orders, &signal);
}
