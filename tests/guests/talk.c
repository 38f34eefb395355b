/* Processes that talk to their parent without a pause, over TCP, unix sockets and pipes, and know
 * what is to be said next: `talk PAIRS`. Every line is a number; the child answers with the next
 * one. The parent says "ready", then "beat" every 10 ms as long as all children answer, and each
 * process says "BAD ..." if it hears anything else, is interrupted, or hears nothing any more.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/signal.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

static void bad(const char *what, long found, long expected)
{
    printf("BAD %s of %d: %ld %ld (%s)\n", what, getpid(), found, expected, strerror(errno));
    fflush(stdout);
    _exit(9);
}

/* Two ends each: [0] is read by the parent, [1] written by it; [2] and [3] by the child. */
struct line {
    int ends[4];
};

static void over_tcp(struct line *line)
{
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t length = sizeof address;
    int listener = socket(AF_INET, SOCK_STREAM, 0), client = socket(AF_INET, SOCK_STREAM, 0), one = 1;
    if (bind(listener, (void *)&address, length) || listen(listener, 1) ||
        getsockname(listener, (void *)&address, &length) || connect(client, (void *)&address, length))
        bad("tcp", 0, 0);
    int server = accept(listener, 0, 0);
    setsockopt(client, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
    setsockopt(server, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
    close(listener);
    *line = (struct line){{client, client, server, server}};
}

static void over_unix(struct line *line)
{
    int ends[2];
    if (socketpair(AF_UNIX, SOCK_STREAM, 0, ends))
        bad("socketpair", 0, 0);
    *line = (struct line){{ends[0], ends[0], ends[1], ends[1]}};
}

static void over_pipes(struct line *line)
{
    int to[2], from[2];
    if (pipe(to) || pipe(from))
        bad("pipe", 0, 0);
    *line = (struct line){{from[0], to[1], to[0], from[1]}};
}

static void say(int fd, uint64_t number)
{
    ssize_t count = write(fd, &number, sizeof number);
    if (count != sizeof number)
        bad("write", count, sizeof number);
}

/* What is heard comes in one piece: eight bytes were written at once. */
static void hear(int fd, uint64_t expected)
{
    uint64_t number;
    ssize_t count = read(fd, &number, sizeof number);
    if (count != sizeof number)
        bad("read", count, sizeof number);
    if (number != expected)
        bad("number", number, expected);
}

static void answer(const struct line *line)
{
    for (uint64_t number = 0;; number += 2) {
        hear(line->ends[2], number);
        say(line->ends[3], number + 1);
    }
}

int main(int count, char **arguments)
{
    static void (*const ways[])(struct line *) = {over_tcp, over_unix, over_pipes};
    struct line lines[64];
    int pairs = count > 1 ? atoi(arguments[1]) : 3;
    if (pairs < 1 || pairs > 64)
        return 2;
    for (int i = 0; i < pairs; i++) {
        ways[i % 3](&lines[i]);
        pid_t child = fork();
        if (child < 0)
            bad("fork", 0, 0);
        if (child == 0) {
            prctl(PR_SET_PDEATHSIG, SIGKILL);
            answer(&lines[i]);
        }
        if (lines[i].ends[2] != lines[i].ends[0])
            close(lines[i].ends[2]);
        if (lines[i].ends[3] != lines[i].ends[2])
            close(lines[i].ends[3]);
    }
    puts("ready");
    fflush(stdout);
    struct timespec last = {0}, now;
    for (uint64_t number = 0;; number += 2) {
        for (int i = 0; i < pairs; i++)
            say(lines[i].ends[1], number);
        for (int i = 0; i < pairs; i++)
            hear(lines[i].ends[0], number + 1);
        clock_gettime(CLOCK_MONOTONIC, &now);
        long passed = (now.tv_sec - last.tv_sec) * 1000 + (now.tv_nsec - last.tv_nsec) / 1000000;
        if (passed >= 10) {
            last = now;
            puts("beat");
            fflush(stdout);
        }
        /* Time for others. */
        usleep(200);
    }
}
