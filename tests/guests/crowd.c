/* Much of one thing, and a heartbeat beside it.
 *
 *   crowd eventfds N            N eventfds in one epoll
 *   crowd opens N               N opens of one file
 *   crowd inherited N CHILDREN  the same, inherited by children
 *   crowd files N CHILDREN      in each process N files of its own
 *   crowd pipes N CHILDREN      in each process N pipes of its own
 *   crowd processes N           N children that do nothing
 *   crowd threads N             N threads that do nothing
 *   crowd nothing 0             nothing but the heartbeat
 *   crowd alone 0               not even a thread for it
 *   crowd random MIB            memory that holds random numbers
 *   crowd writer MIB            the same, and a thread that writes a word into page after page
 *   crowd zeros MIB             memory that was written with zeros
 */
#define _GNU_SOURCE
#include <fcntl.h>
#include <stdint.h>
#include <stdlib.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <unistd.h>

#include "heartbeat.h"

static void need(int fine, const char *what)
{
    if (!fine) {
        perror(what);
        _exit(1);
    }
}

static void *idle(void *unused)
{
    for (;;)
        pause();
    return unused;
}

static void eventfds(long count)
{
    int set = epoll_create1(0);
    struct epoll_event event = {.events = EPOLLIN};
    for (long i = 0; i < count; i++) {
        int fd = eventfd(0, 0);
        need(fd >= 0 && !epoll_ctl(set, EPOLL_CTL_ADD, fd, &event), "eventfd");
    }
}

static void opens(long count)
{
    for (long i = 0; i < count; i++)
        need(open("/etc/hostname", O_RDONLY) >= 0, "open");
}

static void files(long count)
{
    char name[64];
    for (long i = 0; i < count; i++) {
        snprintf(name, sizeof name, "file-%d-%ld", getpid(), i);
        need(open(name, O_RDWR | O_CREAT, 0600) >= 0, "open");
    }
}

static void pipes(long count)
{
    int ends[2];
    for (long i = 0; i < count; i++)
        need(!pipe(ends), "pipe");
}

static void nothing(long count)
{
    (void)count;
}

/* Children say when they have what they shall have. */
static void children(long count, void (*fill)(long), long amount)
{
    int ready[2];
    need(!pipe(ready), "pipe");
    for (long i = 0; i < count; i++) {
        pid_t pid = fork();
        need(pid >= 0, "fork");
        if (!pid) {
            fill(amount);
            need(write(ready[1], "r", 1) == 1, "write");
            idle(0);
        }
    }
    char byte;
    for (long i = 0; i < count; i++)
        need(read(ready[0], &byte, 1) == 1, "read");
    close(ready[0]);
    close(ready[1]);
}

static uint64_t *pages;
static size_t page_count;

/* Writes at full speed. */
static void *write_pages(void *unused)
{
    for (size_t page = 0;; page = page + 1 < page_count ? page + 1 : 0) {
        pages[page * 512]++;
        heartbeat_work++;
    }
    return unused;
}

static void memory(long mib, int random)
{
    size_t words = (size_t)mib << 17;
    uint64_t *all = mmap(0, words * 8, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    need(all != MAP_FAILED, "mmap");
    madvise(all, words * 8, MADV_NOHUGEPAGE);
    uint64_t x = 88172645463325252;
    for (size_t i = 0; i < words; i++) {
        x ^= x << 13;
        x ^= x >> 7;
        x ^= x << 17;
        all[i] = random ? x : 0;
    }
    pages = all;
    page_count = words / 512;
}

int main(int count, char **arguments)
{
    if (count < 3)
        return 2;
    struct rlimit limit;
    getrlimit(RLIMIT_NOFILE, &limit);
    limit.rlim_cur = limit.rlim_max;
    setrlimit(RLIMIT_NOFILE, &limit);
    const char *kind = arguments[1];
    long amount = atol(arguments[2]), others = count > 3 ? atol(arguments[3]) : 0;
    if (!strcmp(kind, "eventfds")) {
        eventfds(amount);
    } else if (!strcmp(kind, "opens")) {
        opens(amount);
    } else if (!strcmp(kind, "inherited")) {
        opens(amount);
        children(others, nothing, 0);
    } else if (!strcmp(kind, "files")) {
        children(others, files, amount);
    } else if (!strcmp(kind, "pipes")) {
        children(others, pipes, amount);
    } else if (!strcmp(kind, "processes")) {
        children(amount, nothing, 0);
    } else if (!strcmp(kind, "threads")) {
        pthread_attr_t small;
        pthread_attr_init(&small);
        pthread_attr_setstacksize(&small, 65536);
        for (long i = 0; i < amount; i++) {
            pthread_t thread;
            need(!pthread_create(&thread, &small, idle, 0), "pthread_create");
        }
    } else if (!strcmp(kind, "random") || !strcmp(kind, "zeros") || !strcmp(kind, "writer")) {
        memory(amount, kind[0] != 'z');
        pthread_t thread;
        if (kind[0] == 'w')
            need(!pthread_create(&thread, 0, write_pages, 0), "pthread_create");
    } else if (strcmp(kind, "nothing") && strcmp(kind, "alone")) {
        return 2;
    }
    int alone = !strcmp(kind, "alone");
    if (!alone)
        heartbeat_start();
    puts("ready");
    fflush(stdout);
    for (long done = 0;;) {
        if (!alone)
            usleep(5000);
        for (int beats = 0; alone && beats < 100; beats++)
            heartbeat_once();
        char word[16];
        long order = next_order(done, word);
        heartbeat_tell();
        if (!order)
            continue;
        done = order;
        heartbeat_gap = 0;
        printf("%ld done %d\n", order, getpid());
        fflush(stdout);
    }
}
