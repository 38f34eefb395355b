/* Pipes and FIFOs. */
#include "scenario.h"

#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <sys/stat.h>

static bool readable(int fd) {
    struct pollfd one = {fd, POLLIN, 0};
    return TRY(poll(&one, 1, 0)) == 1 && one.revents & POLLIN;
}

SCENARIO(pipe_with_data) {
    int ends[2];
    TRY(pipe(ends));
    CHECK(write(ends[1], "first ", 6) == 6);
    CHECK(write(ends[1], "second", 6) == 6);
    be_dumped();
    char bytes[32];
    CHECK(read(ends[0], bytes, 32) == 12 && !memcmp(bytes, "first second", 12));
    CHECK(!readable(ends[0]));
}

SCENARIO(pipe_without_data) {
    int ends[2];
    TRY(pipe2(ends, O_NONBLOCK | O_CLOEXEC));
    be_dumped();
    char byte;
    CHECK(read(ends[0], &byte, 1) == -1 && errno == EAGAIN);
    CHECK(write(ends[1], "x", 1) == 1 && read(ends[0], &byte, 1) == 1 && byte == 'x');
    CHECK(fcntl(ends[0], F_GETFD) == FD_CLOEXEC);
}

SCENARIO(pipe_that_is_full) {
    int ends[2];
    TRY(pipe2(ends, O_NONBLOCK));
    char bytes[4096];
    int count = 0;
    memset(bytes, 'f', sizeof(bytes));
    while (write(ends[1], bytes, sizeof(bytes)) == sizeof(bytes)) count++;
    CHECK(count == 16);
    be_dumped();
    CHECK(write(ends[1], bytes, 1) == -1 && errno == EAGAIN);
    int found = 0;
    ssize_t got;
    while ((got = read(ends[0], bytes, sizeof(bytes))) > 0)
        for (ssize_t i = 0; i < got; i++) found += bytes[i] == 'f';
    CHECK(found == count * 4096);
}

SCENARIO(pipe_of_another_size) {
    int large[2], small[2];
    TRY(pipe(large));
    TRY(pipe(small));
    CHECK(fcntl(large[0], F_SETPIPE_SZ, 1 << 20) == 1 << 20);
    CHECK(fcntl(small[0], F_SETPIPE_SZ, 4096) == 4096);
    static char bytes[300000];
    memset(bytes, 'l', sizeof(bytes));
    CHECK(write(large[1], bytes, sizeof(bytes)) == sizeof(bytes));
    be_dumped();
    CHECK(fcntl(large[0], F_GETPIPE_SZ) == 1 << 20);
    CHECK(fcntl(small[0], F_GETPIPE_SZ) == 4096);
    size_t found = 0;
    while (found < sizeof(bytes)) found += TRY(read(large[0], bytes, sizeof(bytes)));
    CHECK(!readable(large[0]));
}

SCENARIO(pipe_without_a_writer) {
    int ends[2];
    TRY(pipe(ends));
    CHECK(write(ends[1], "last words", 10) == 10);
    close(ends[1]);
    be_dumped();
    char bytes[32];
    CHECK(read(ends[0], bytes, 32) == 10 && !memcmp(bytes, "last words", 10));
    CHECK(read(ends[0], bytes, 32) == 0);
}

SCENARIO(pipe_without_a_reader) {
    int ends[2];
    TRY(pipe(ends));
    close(ends[0]);
    signal(SIGPIPE, SIG_IGN);
    be_dumped();
    CHECK(write(ends[1], "x", 1) == -1 && errno == EPIPE);
}

SCENARIO(pipe_of_packets) {
    int ends[2];
    TRY(pipe2(ends, O_DIRECT));
    be_dumped();
    CHECK(write(ends[1], "x", 1) == 1);
}

SCENARIO(pipe_opened_anew) {
    int ends[2];
    TRY(pipe(ends));
    char path[64];
    sprintf(path, "/proc/self/fd/%d", ends[0]);
    int both = TRY(open(path, O_RDWR | O_NONBLOCK));
    close(ends[0]);
    close(ends[1]);
    CHECK(write(both, "to myself", 9) == 9);
    be_dumped();
    char bytes[32];
    CHECK(read(both, bytes, 32) == 9 && !memcmp(bytes, "to myself", 9));
    CHECK(read(both, bytes, 32) == -1 && errno == EAGAIN);
}

static int there[2], back[2];

static void echo(void) {
    char bytes[64];
    ssize_t got;
    close(there[1]);
    close(back[0]);
    while ((got = read(there[0], bytes, sizeof(bytes))) > 0)
        CHECK(write(back[1], bytes, got) == got);
    CHECK(got == 0);
}

SCENARIO(pipes_to_a_child_that_waits_in_read) {
    TRY(pipe(there));
    TRY(pipe(back));
    pid_t child = in_child(echo);
    close(there[0]);
    close(back[1]);
    be_dumped();
    char bytes[64];
    CHECK(write(there[1], "ping", 4) == 4);
    CHECK(read(back[0], bytes, 64) == 4 && !memcmp(bytes, "ping", 4));
    close(there[1]);
    CHECK(read(back[0], bytes, 64) == 0);
    reap_child(child);
}

static void write_much(void) {
    static char bytes[200000];
    memset(bytes, 'm', sizeof(bytes));
    /* What is interrupted when it has written some says how much. */
    size_t written = 0;
    while (written < sizeof(bytes)) written += TRY(write(there[1], bytes, sizeof(bytes) - written));
}

SCENARIO(pipe_with_a_child_that_waits_in_write) {
    TRY(pipe(there));
    pid_t child = in_child(write_much);
    close(there[1]);
    while (!readable(there[0])) usleep(1000);
    be_dumped();
    char bytes[5000];
    ssize_t got, found = 0;
    while ((got = read(there[0], bytes, sizeof(bytes))) > 0) found += got;
    CHECK(found == 200000);
    reap_child(child);
}

SCENARIO(one_end_under_many_numbers) {
    int ends[2];
    TRY(pipe(ends));
    for (int i = 0; i < 50; i++) TRY(dup(ends[i % 2]));
    CHECK(write(ends[1], "x", 1) == 1);
    close(ends[0]);
    be_dumped();
    TRY(fcntl(ends[1] + 1, F_SETFL, O_NONBLOCK));
    char byte;
    CHECK(read(ends[1] + 3, &byte, 1) == 1);
    CHECK(read(ends[1] + 3, &byte, 1) == -1 && errno == EAGAIN);
}

SCENARIO(fifo_with_data) {
    TRY(mkfifo("fifo", 0640));
    int both = TRY(open("fifo", O_RDWR));
    int reader = TRY(open("fifo", O_RDONLY | O_NONBLOCK));
    int writer = TRY(open("fifo", O_WRONLY));
    CHECK(write(writer, "in the fifo", 11) == 11);
    close(both);
    be_dumped();
    char bytes[32];
    CHECK(read(reader, bytes, 32) == 11 && !memcmp(bytes, "in the fifo", 11));
    CHECK(read(reader, bytes, 32) == -1 && errno == EAGAIN);
    close(writer);
    CHECK(read(reader, bytes, 32) == 0);
}

static void write_to_fifo(void) {
    int fd = TRY(open("fifo", O_WRONLY));
    wait_to_go();
    CHECK(write(fd, "from below", 10) == 10);
}

SCENARIO(fifo_between_processes) {
    TRY(mkfifo("fifo", 0600));
    pid_t child = in_child(write_to_fifo);
    int fd = TRY(open("fifo", O_RDONLY));
    be_dumped();
    char bytes[32];
    CHECK(read(fd, bytes, 32) == 10 && !memcmp(bytes, "from below", 10));
    CHECK(read(fd, bytes, 32) == 0);
    reap_child(child);
}

static void open_for_writing(void) {
    TRY(open("fifo", O_WRONLY));
}

SCENARIO(fifo_that_somebody_waits_to_open) {
    TRY(mkfifo("fifo", 0600));
    pid_t child = in_child(open_for_writing);
    usleep(20000);
    be_dumped();
    TRY(open("fifo", O_RDONLY));
    reap_child(child);
}

SCENARIO(two_fifos_with_data) {
    const char *names[] = {"one", "two"};
    int fds[2];
    for (int i = 0; i < 2; i++) {
        TRY(mkfifo(names[i], 0600));
        fds[i] = TRY(open(names[i], O_RDWR));
        CHECK(write(fds[i], names[i], 3) == 3);
    }
    TRY(fcntl(fds[1], F_SETPIPE_SZ, 1 << 17));
    be_dumped();
    char bytes[8];
    for (int i = 0; i < 2; i++) CHECK(read(fds[i], bytes, 8) == 3 && !memcmp(bytes, names[i], 3));
    CHECK(fcntl(fds[1], F_GETPIPE_SZ) == 1 << 17);
}
