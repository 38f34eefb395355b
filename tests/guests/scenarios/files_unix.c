/* Unix sockets. */
#include "scenario.h"

#include <fcntl.h>
#include <poll.h>
#include <stddef.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/time.h>
#include <sys/un.h>

static void expect(int fd, const char *text) {
    char bytes[256];
    ssize_t got = TRY(recv(fd, bytes, sizeof(bytes), MSG_DONTWAIT));
    CHECK(got == (ssize_t)strlen(text) && !memcmp(bytes, text, got));
}

static void say(int fd, const char *text) {
    CHECK(send(fd, text, strlen(text), MSG_NOSIGNAL) == (ssize_t)strlen(text));
}

static void expect_nothing(int fd) {
    char byte;
    CHECK(recv(fd, &byte, 1, MSG_DONTWAIT) == -1 && errno == EAGAIN);
}

static socklen_t address(struct sockaddr_un *to, const char *name) {
    memset(to, 0, sizeof(*to));
    to->sun_family = AF_UNIX;
    if (name[0] == '@') {
        int length = sprintf(to->sun_path + 1, "%s-%d", name + 1, getpid());
        return offsetof(struct sockaddr_un, sun_path) + 1 + length;
    }
    strcpy(to->sun_path, name);
    return sizeof(*to);
}

static int bound(int type, const char *name) {
    struct sockaddr_un to;
    socklen_t length = address(&to, name);
    int fd = TRY(socket(AF_UNIX, type, 0));
    TRY(bind(fd, (struct sockaddr *)&to, length));
    return fd;
}

static int connected(int type, const char *name) {
    struct sockaddr_un to;
    socklen_t length = address(&to, name);
    int fd = TRY(socket(AF_UNIX, type, 0));
    TRY(connect(fd, (struct sockaddr *)&to, length));
    return fd;
}

static int listening(int type, const char *name) {
    int fd = bound(type, name);
    TRY(listen(fd, 5));
    return fd;
}

SCENARIO(unix_stream_with_data_both_ways) {
    int pair[2];
    TRY(socketpair(AF_UNIX, SOCK_STREAM, 0, pair));
    say(pair[0], "one ");
    say(pair[0], "two");
    say(pair[1], "three");
    be_dumped();
    expect(pair[1], "one two");
    expect(pair[0], "three");
    say(pair[0], "four");
    expect(pair[1], "four");
}

SCENARIO(unix_stream_with_much_data) {
    int pair[2];
    TRY(socketpair(AF_UNIX, SOCK_STREAM, 0, pair));
    int room = 1 << 20;
    TRY(setsockopt(pair[0], SOL_SOCKET, SO_SNDBUFFORCE, &room, sizeof(room)));
    char bytes[1000];
    memset(bytes, 'm', sizeof(bytes));
    size_t sent = 0, found = 0;
    for (int i = 0; i < 500; i++) sent += TRY(send(pair[0], bytes, sizeof(bytes), MSG_DONTWAIT));
    be_dumped();
    ssize_t got;
    while ((got = recv(pair[1], bytes, sizeof(bytes), MSG_DONTWAIT)) > 0) found += got;
    CHECK(found == sent);
}

SCENARIO(unix_datagrams_with_borders) {
    int pair[2];
    TRY(socketpair(AF_UNIX, SOCK_DGRAM, 0, pair));
    say(pair[0], "one");
    say(pair[0], "two two");
    say(pair[0], "three");
    be_dumped();
    expect(pair[1], "one");
    expect(pair[1], "two two");
    expect(pair[1], "three");
    expect_nothing(pair[1]);
}

SCENARIO(unix_packets_with_borders) {
    int pair[2];
    TRY(socketpair(AF_UNIX, SOCK_SEQPACKET, 0, pair));
    say(pair[0], "one");
    say(pair[0], "two two");
    say(pair[1], "back");
    be_dumped();
    expect(pair[1], "one");
    expect(pair[1], "two two");
    expect(pair[0], "back");
    close(pair[0]);
    char byte;
    CHECK(recv(pair[1], &byte, 1, 0) == 0);
}

SCENARIO(unix_stream_half_closed) {
    int pair[2], other[2];
    TRY(socketpair(AF_UNIX, SOCK_STREAM, 0, pair));
    TRY(socketpair(AF_UNIX, SOCK_STREAM, 0, other));
    say(pair[0], "last words");
    TRY(shutdown(pair[0], SHUT_WR));
    TRY(shutdown(other[0], SHUT_RD));
    be_dumped();
    char byte;
    expect(pair[1], "last words");
    CHECK(recv(pair[1], &byte, 1, 0) == 0);
    CHECK(send(pair[0], "x", 1, MSG_NOSIGNAL) == -1 && errno == EPIPE);
    say(pair[1], "answer");
    expect(pair[0], "answer");
    CHECK(send(other[1], "x", 1, MSG_NOSIGNAL) == -1 && errno == EPIPE);
    say(other[0], "x");
    expect(other[1], "x");
}

SCENARIO(unix_stream_whose_other_end_is_closed) {
    int pair[2];
    TRY(socketpair(AF_UNIX, SOCK_STREAM, 0, pair));
    close(pair[0]);
    be_dumped();
    char byte;
    CHECK(recv(pair[1], &byte, 1, 0) == 0);
    CHECK(send(pair[1], "x", 1, MSG_NOSIGNAL) == -1 && errno == EPIPE);
}

SCENARIO(unix_stream_with_the_last_words_of_a_closed_end) {
    int pair[2];
    TRY(socketpair(AF_UNIX, SOCK_STREAM, 0, pair));
    say(pair[0], "last words");
    close(pair[0]);
    be_dumped();
    char byte;
    expect(pair[1], "last words");
    CHECK(recv(pair[1], &byte, 1, 0) == 0);
}

SCENARIO(unix_listeners_by_path) {
    char path[200];
    CHECK(getcwd(path, sizeof(path) - 16));
    strcat(path, "/absolute");
    int absolute = listening(SOCK_STREAM, path);
    int relative = listening(SOCK_SEQPACKET, "relative");
    TRY(chmod("relative", 0620));
    TRY(chown("relative", 1234, 5678));
    be_dumped();
    int client = connected(SOCK_STREAM, path);
    int server = TRY(accept(absolute, NULL, NULL));
    say(client, "hello");
    expect(server, "hello");
    client = connected(SOCK_SEQPACKET, "relative");
    server = TRY(accept(relative, NULL, NULL));
    say(server, "hello");
    expect(client, "hello");
    struct stat stat;
    TRY(lstat("relative", &stat));
    CHECK((stat.st_mode & 0777) == 0620 && stat.st_uid == 1234 && stat.st_gid == 5678);
}

SCENARIO(unix_names_that_are_abstract) {
    int stream = listening(SOCK_STREAM, "@stream");
    int datagrams = bound(SOCK_DGRAM, "@datagrams");
    be_dumped();
    int client = connected(SOCK_STREAM, "@stream");
    TRY(accept(stream, NULL, NULL));
    client = connected(SOCK_DGRAM, "@datagrams");
    say(client, "hello");
    expect(datagrams, "hello");
}

SCENARIO(unix_name_chosen_by_the_kernel) {
    int fd = TRY(socket(AF_UNIX, SOCK_DGRAM, 0));
    struct sockaddr_un name = {AF_UNIX};
    TRY(bind(fd, (struct sockaddr *)&name, sizeof(sa_family_t)));
    struct sockaddr_un before, after;
    socklen_t length = sizeof(before);
    TRY(getsockname(fd, (struct sockaddr *)&before, &length));
    be_dumped();
    socklen_t now = sizeof(after);
    TRY(getsockname(fd, (struct sockaddr *)&after, &now));
    CHECK(now == length && !memcmp(&before, &after, now));
}

SCENARIO(unix_name_that_was_deleted) {
    int listener = listening(SOCK_STREAM, "name");
    int client = connected(SOCK_STREAM, "name");
    int server = TRY(accept(listener, NULL, NULL));
    TRY(unlink("name"));
    be_dumped();
    say(client, "hello");
    expect(server, "hello");
    CHECK(access("name", F_OK) == -1);
    struct sockaddr_un name;
    socklen_t length = sizeof(name);
    TRY(getsockname(listener, (struct sockaddr *)&name, &length));
    CHECK(!strcmp(name.sun_path, "name"));
}

SCENARIO(unix_name_taken_by_a_successor) {
    int old = listening(SOCK_STREAM, "name");
    TRY(unlink("name"));
    int new = listening(SOCK_STREAM, "name");
    be_dumped();
    connected(SOCK_STREAM, "name");
    struct pollfd both[] = {{old, POLLIN, 0}, {new, POLLIN, 0}};
    CHECK(TRY(poll(both, 2, 0)) == 1 && both[1].revents == POLLIN);
}

SCENARIO(unix_connections_to_a_listener_that_is_gone) {
    int listener = listening(SOCK_STREAM, "name");
    int client = connected(SOCK_STREAM, "name");
    int server = TRY(accept(listener, NULL, NULL));
    close(listener);
    say(client, "hello");
    be_dumped();
    expect(server, "hello");
    say(server, "answer");
    expect(client, "answer");
}

SCENARIO(unix_connections_that_wait_to_be_accepted) {
    int listener = listening(SOCK_STREAM, "name");
    int clients[3];
    for (int i = 0; i < 3; i++) clients[i] = connected(SOCK_STREAM, "name");
    be_dumped();
    for (int i = 0; i < 3; i++) say(clients[i], "hello");
    for (int i = 0; i < 3; i++) expect(TRY(accept(listener, NULL, NULL)), "hello");
}

SCENARIO(unix_connection_that_waits_with_data) {
    int listener = listening(SOCK_STREAM, "name");
    int client = connected(SOCK_STREAM, "name");
    say(client, "impatient");
    be_dumped();
    expect(TRY(accept(listener, NULL, NULL)), "impatient");
}

SCENARIO(unix_connection_that_was_given_up) {
    int listener = listening(SOCK_STREAM, "name");
    close(connected(SOCK_STREAM, "name"));
    be_dumped();
    TRY(accept(listener, NULL, NULL));
}

SCENARIO(unix_datagrams_to_a_name) {
    int server = bound(SOCK_DGRAM, "server");
    int one = connected(SOCK_DGRAM, "server");
    int two = connected(SOCK_DGRAM, "server");
    int free = TRY(socket(AF_UNIX, SOCK_DGRAM, 0));
    say(one, "from one");
    say(two, "from two");
    be_dumped();
    expect(server, "from one");
    expect(server, "from two");
    say(two, "again");
    expect(server, "again");
    CHECK(send(free, "x", 1, 0) == -1 && errno == ENOTCONN);
}

SCENARIO(unix_socket_connected_to_itself) {
    int fd = bound(SOCK_DGRAM, "@self");
    struct sockaddr_un to;
    socklen_t length = address(&to, "@self");
    TRY(connect(fd, (struct sockaddr *)&to, length));
    say(fd, "to myself");
    be_dumped();
    expect(fd, "to myself");
    say(fd, "again");
    expect(fd, "again");
}

SCENARIO(unix_socket_that_nothing_was_done_to) {
    int stream = TRY(socket(AF_UNIX, SOCK_STREAM, 0));
    int packets = TRY(socket(AF_UNIX, SOCK_SEQPACKET | SOCK_NONBLOCK | SOCK_CLOEXEC, 0));
    be_dumped();
    char byte;
    CHECK(recv(stream, &byte, 1, 0) == -1 && errno == EINVAL);
    CHECK(fcntl(packets, F_GETFL) & O_NONBLOCK);
    CHECK(fcntl(packets, F_GETFD) == FD_CLOEXEC);
}

SCENARIO(unix_options) {
    int pair[2];
    TRY(socketpair(AF_UNIX, SOCK_STREAM, 0, pair));
    int room = 100000, on = 1, value;
    struct timeval time = {3, 500000}, told;
    TRY(setsockopt(pair[0], SOL_SOCKET, SO_SNDBUF, &room, sizeof(room)));
    TRY(setsockopt(pair[0], SOL_SOCKET, SO_PASSCRED, &on, sizeof(on)));
    TRY(setsockopt(pair[0], SOL_SOCKET, SO_RCVTIMEO, &time, sizeof(time)));
    be_dumped();
    socklen_t length = sizeof(value);
    TRY(getsockopt(pair[0], SOL_SOCKET, SO_SNDBUF, &value, &length));
    CHECK(value == 2 * room);
    TRY(getsockopt(pair[0], SOL_SOCKET, SO_PASSCRED, &value, &length));
    CHECK(value == 1);
    TRY(getsockopt(pair[1], SOL_SOCKET, SO_PASSCRED, &value, &length));
    CHECK(value == 0);
    length = sizeof(told);
    TRY(getsockopt(pair[0], SOL_SOCKET, SO_RCVTIMEO, &told, &length));
    CHECK(told.tv_sec == 3 && told.tv_usec >= 496000);
}

/* Sends a byte with open files. */
static void send_files(int socket, const int *fds, int count) {
    char byte = 'f', control[CMSG_SPACE(sizeof(int) * 16)] = {0};
    struct iovec bytes = {&byte, 1};
    struct msghdr message = {.msg_iov = &bytes, .msg_iovlen = 1, .msg_control = control,
                             .msg_controllen = CMSG_SPACE(sizeof(int) * count)};
    struct cmsghdr *head = CMSG_FIRSTHDR(&message);
    head->cmsg_level = SOL_SOCKET;
    head->cmsg_type = SCM_RIGHTS;
    head->cmsg_len = CMSG_LEN(sizeof(int) * count);
    memcpy(CMSG_DATA(head), fds, sizeof(int) * count);
    CHECK(sendmsg(socket, &message, 0) == 1);
}

/* Receives them; how many there were. */
static int receive_files(int socket, int *fds) {
    char byte, control[CMSG_SPACE(sizeof(int) * 16)];
    struct iovec bytes = {&byte, 1};
    struct msghdr message = {.msg_iov = &bytes, .msg_iovlen = 1, .msg_control = control,
                             .msg_controllen = sizeof(control)};
    CHECK(recvmsg(socket, &message, MSG_DONTWAIT) == 1 && byte == 'f');
    struct cmsghdr *head = CMSG_FIRSTHDR(&message);
    CHECK(head && head->cmsg_type == SCM_RIGHTS);
    int count = (head->cmsg_len - CMSG_LEN(0)) / sizeof(int);
    memcpy(fds, CMSG_DATA(head), sizeof(int) * count);
    return count;
}

SCENARIO(unix_queue_with_open_files) {
    int pair[2], ends[2], fds[16];
    TRY(socketpair(AF_UNIX, SOCK_STREAM, 0, pair));
    TRY(pipe(ends));
    CHECK(write(ends[1], "in the pipe", 11) == 11);
    int file = TRY(open("file", O_RDWR | O_CREAT, 0600));
    CHECK(write(file, "in the file", 11) == 11);
    TRY(lseek(file, 3, SEEK_SET));
    int sent[] = {ends[0], file};
    send_files(pair[0], sent, 2);
    send_files(pair[0], &ends[1], 1);
    say(pair[0], "without");
    close(ends[0]);
    close(file);
    be_dumped();
    char bytes[32];
    CHECK(receive_files(pair[1], fds) == 2);
    CHECK(read(fds[0], bytes, 32) == 11 && !memcmp(bytes, "in the pipe", 11));
    CHECK(read(fds[1], bytes, 32) == 8 && !memcmp(bytes, "the file", 8));
    CHECK(receive_files(pair[1], fds + 2) == 1);
    CHECK(write(ends[1], "x", 1) == 1 && read(fds[0], bytes, 32) == 1);
    CHECK(write(fds[2], "y", 1) == 1 && read(fds[0], bytes, 32) == 1);
    expect(pair[1], "without");
}

SCENARIO(unix_datagram_queue_with_open_files) {
    int pair[2], ends[2], fds[16];
    TRY(socketpair(AF_UNIX, SOCK_DGRAM, 0, pair));
    TRY(pipe(ends));
    say(pair[0], "before");
    send_files(pair[0], ends, 2);
    say(pair[0], "after");
    close(ends[0]);
    close(ends[1]);
    be_dumped();
    char byte;
    expect(pair[1], "before");
    CHECK(receive_files(pair[1], fds) == 2);
    expect(pair[1], "after");
    CHECK(write(fds[1], "x", 1) == 1 && read(fds[0], &byte, 1) == 1 && byte == 'x');
}

SCENARIO(unix_queue_with_a_socket_in_it) {
    int pair[2], inner[2], fds[16];
    TRY(socketpair(AF_UNIX, SOCK_STREAM, 0, pair));
    TRY(socketpair(AF_UNIX, SOCK_STREAM, 0, inner));
    say(inner[1], "deep");
    send_files(pair[0], &inner[0], 1);
    close(inner[0]);
    be_dumped();
    CHECK(receive_files(pair[1], fds) == 1);
    expect(fds[0], "deep");
    say(fds[0], "answer");
    expect(inner[1], "answer");
}

SCENARIO(unix_queue_with_a_terminal_in_it) {
    int pair[2], fds[16];
    TRY(socketpair(AF_UNIX, SOCK_STREAM, 0, pair));
    int terminal = TRY(posix_openpt(O_RDWR | O_NOCTTY));
    send_files(pair[0], &terminal, 1);
    be_dumped();
    CHECK(receive_files(pair[1], fds) == 1 && isatty(fds[0]));
}

SCENARIO(unix_queue_with_credentials) {
    int pair[2], on = 1;
    TRY(socketpair(AF_UNIX, SOCK_DGRAM, 0, pair));
    TRY(setsockopt(pair[1], SOL_SOCKET, SO_PASSCRED, &on, sizeof(on)));
    say(pair[0], "who am I");
    be_dumped();
    expect(pair[1], "who am I");
}

SCENARIO(unix_queue_with_an_empty_message) {
    int pair[2];
    TRY(socketpair(AF_UNIX, SOCK_DGRAM, 0, pair));
    CHECK(send(pair[0], "", 0, 0) == 0);
    be_dumped();
    char byte;
    CHECK(recv(pair[1], &byte, 1, MSG_DONTWAIT) == 0);
    expect_nothing(pair[1]);
}

static int to_child[2];

static void answer(void) {
    close(to_child[0]);
    char bytes[64];
    ssize_t got = TRY(recv(to_child[1], bytes, sizeof(bytes), 0));
    CHECK(send(to_child[1], bytes, got, 0) == got);
}

SCENARIO(unix_pair_with_a_child_that_waits) {
    TRY(socketpair(AF_UNIX, SOCK_SEQPACKET, 0, to_child));
    pid_t child = in_child(answer);
    close(to_child[1]);
    be_dumped();
    char bytes[64];
    say(to_child[0], "ping");
    CHECK(recv(to_child[0], bytes, 64, 0) == 4);
    reap_child(child);
}
