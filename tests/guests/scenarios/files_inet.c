/* Internet sockets. */
#include "scenario.h"

#include <arpa/inet.h>
#include <linux/filter.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <sys/socket.h>
#include <sys/time.h>

static int new_socket(int family, int type, int protocol) {
    return TRY(socket(family, type, protocol));
}

/* The loopback address, with a port. */
static socklen_t local(int family, struct sockaddr_storage *to, int port) {
    memset(to, 0, sizeof(*to));
    to->ss_family = family;
    if (family == AF_INET) {
        struct sockaddr_in *in = (struct sockaddr_in *)to;
        in->sin_addr.s_addr = htonl(INADDR_LOOPBACK);
        in->sin_port = port;
        return sizeof(*in);
    }
    struct sockaddr_in6 *in = (struct sockaddr_in6 *)to;
    in->sin6_addr = in6addr_loopback;
    in->sin6_port = port;
    return sizeof(*in);
}

static int port_of(int fd) {
    struct sockaddr_storage name;
    socklen_t length = sizeof(name);
    TRY(getsockname(fd, (struct sockaddr *)&name, &length));
    /* Both families keep it in the same place. */
    return ((struct sockaddr_in *)&name)->sin_port;
}

static int bound(int family, int type, int protocol) {
    struct sockaddr_storage to;
    socklen_t length = local(family, &to, 0);
    int fd = new_socket(family, type, protocol);
    TRY(bind(fd, (struct sockaddr *)&to, length));
    return fd;
}

static int connected(int family, int type, int protocol, int port) {
    struct sockaddr_storage to;
    socklen_t length = local(family, &to, port);
    int fd = new_socket(family, type, protocol);
    TRY(connect(fd, (struct sockaddr *)&to, length));
    return fd;
}

static void say(int fd, const char *text) {
    CHECK(send(fd, text, strlen(text), MSG_NOSIGNAL) == (ssize_t)strlen(text));
}

/* Reads as many bytes as the text has. */
static void expect(int fd, const char *text) {
    char bytes[256];
    size_t found = 0;
    while (found < strlen(text)) {
        ssize_t got = TRY(recv(fd, bytes + found, strlen(text) - found, 0));
        CHECK(got > 0);
        found += got;
    }
    CHECK(!memcmp(bytes, text, found));
}

static void expect_end(int fd) {
    char byte;
    CHECK(recv(fd, &byte, 1, 0) == 0);
}

static void talks(int listener, int family) {
    int client = connected(family, SOCK_STREAM, 0, port_of(listener));
    int server = TRY(accept(listener, NULL, NULL));
    say(client, "hello");
    expect(server, "hello");
}

SCENARIO(tcp_listeners) {
    int v4 = bound(AF_INET, SOCK_STREAM, 0);
    int v6 = new_socket(AF_INET6, SOCK_STREAM, 0);
    int only = 1, defer = 3;
    TRY(setsockopt(v6, IPPROTO_IPV6, IPV6_V6ONLY, &only, sizeof(only)));
    struct sockaddr_storage to;
    socklen_t length = local(AF_INET6, &to, 0);
    TRY(bind(v6, (struct sockaddr *)&to, length));
    TRY(setsockopt(v4, IPPROTO_TCP, TCP_DEFER_ACCEPT, &defer, sizeof(defer)));
    defer = 0;
    TRY(setsockopt(v4, IPPROTO_TCP, TCP_DEFER_ACCEPT, &defer, sizeof(defer)));
    TRY(listen(v4, 5));
    TRY(listen(v6, 128));
    int port = port_of(v4);
    be_dumped();
    CHECK(port_of(v4) == port);
    talks(v4, AF_INET);
    talks(v6, AF_INET6);
    length = sizeof(only);
    only = 0;
    TRY(getsockopt(v6, IPPROTO_IPV6, IPV6_V6ONLY, &only, &length));
    CHECK(only == 1);
}

SCENARIO(tcp_listener_of_any_address) {
    int fd = new_socket(AF_INET6, SOCK_STREAM, 0);
    struct sockaddr_in6 any = {.sin6_family = AF_INET6};
    TRY(bind(fd, (struct sockaddr *)&any, sizeof(any)));
    TRY(listen(fd, 5));
    be_dumped();
    talks(fd, AF_INET);
    talks(fd, AF_INET6);
}

SCENARIO(tcp_listeners_that_share_a_port) {
    int fds[3], on = 1, port = 0;
    for (int i = 0; i < 3; i++) {
        struct sockaddr_storage to;
        socklen_t length = local(AF_INET, &to, port);
        fds[i] = new_socket(AF_INET, SOCK_STREAM, 0);
        TRY(setsockopt(fds[i], SOL_SOCKET, SO_REUSEPORT, &on, sizeof(on)));
        TRY(bind(fds[i], (struct sockaddr *)&to, length));
        TRY(listen(fds[i], 5));
        port = port_of(fds[i]);
    }
    be_dumped();
    int client = connected(AF_INET, SOCK_STREAM, 0, port);
    struct pollfd all[] = {{fds[0], POLLIN, 0}, {fds[1], POLLIN, 0}, {fds[2], POLLIN, 0}};
    CHECK(TRY(poll(all, 3, 10000)) == 1);
    close(client);
}

SCENARIO(tcp_sockets_that_are_not_connected) {
    int fresh = new_socket(AF_INET, SOCK_STREAM, 0);
    int only_bound = bound(AF_INET6, SOCK_STREAM, 0);
    int port = port_of(only_bound);
    be_dumped();
    CHECK(port_of(only_bound) == port);
    TRY(listen(only_bound, 1));
    talks(only_bound, AF_INET6);
    CHECK(send(fresh, "x", 1, MSG_NOSIGNAL) == -1 && errno == EPIPE);
}

SCENARIO(tcp_options) {
    int fd = bound(AF_INET, SOCK_STREAM, 0);
    int on = 1, idle = 77, ttl = 9, mark = 5, value;
    struct linger linger = {1, 6};
    struct timeval time = {4, 0};
    TRY(setsockopt(fd, SOL_SOCKET, SO_KEEPALIVE, &on, sizeof(on)));
    TRY(setsockopt(fd, IPPROTO_TCP, TCP_KEEPIDLE, &idle, sizeof(idle)));
    TRY(setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof(on)));
    TRY(setsockopt(fd, IPPROTO_IP, IP_TTL, &ttl, sizeof(ttl)));
    TRY(setsockopt(fd, SOL_SOCKET, SO_MARK, &mark, sizeof(mark)));
    TRY(setsockopt(fd, SOL_SOCKET, SO_LINGER, &linger, sizeof(linger)));
    TRY(setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &time, sizeof(time)));
    TRY(setsockopt(fd, SOL_SOCKET, SO_BINDTODEVICE, "lo", 3));
    be_dumped();
    socklen_t length = sizeof(value);
    TRY(getsockopt(fd, SOL_SOCKET, SO_KEEPALIVE, &value, &length));
    CHECK(value == 1);
    TRY(getsockopt(fd, IPPROTO_TCP, TCP_KEEPIDLE, &value, &length));
    CHECK(value == 77);
    TRY(getsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &value, &length));
    CHECK(value == 1);
    TRY(getsockopt(fd, IPPROTO_IP, IP_TTL, &value, &length));
    CHECK(value == 9);
    TRY(getsockopt(fd, SOL_SOCKET, SO_MARK, &value, &length));
    CHECK(value == 5);
    length = sizeof(linger);
    linger.l_linger = 0;
    TRY(getsockopt(fd, SOL_SOCKET, SO_LINGER, &linger, &length));
    CHECK(linger.l_onoff == 1 && linger.l_linger == 6);
    char device[16];
    length = sizeof(device);
    TRY(getsockopt(fd, SOL_SOCKET, SO_BINDTODEVICE, device, &length));
    CHECK(!strcmp(device, "lo"));
}

static void pair(int family, int *client, int *server) {
    int listener = bound(family, SOCK_STREAM, 0);
    TRY(listen(listener, 1));
    *client = connected(family, SOCK_STREAM, 0, port_of(listener));
    *server = TRY(accept(listener, NULL, NULL));
    close(listener);
}

SCENARIO(tcp_connection_with_data_both_ways) {
    int client, server;
    pair(AF_INET, &client, &server);
    say(client, "to the server");
    say(server, "to the client");
    be_dumped();
    expect(server, "to the server");
    expect(client, "to the client");
    say(client, "again");
    expect(server, "again");
    close(server);
    expect_end(client);
}

SCENARIO(tcp_connection_of_version_six) {
    int client, server;
    pair(AF_INET6, &client, &server);
    say(server, "to the client");
    be_dumped();
    expect(client, "to the client");
    say(client, "to the server");
    expect(server, "to the server");
}

SCENARIO(tcp_connection_half_closed) {
    int client, server;
    pair(AF_INET, &client, &server);
    say(client, "last words");
    TRY(shutdown(client, SHUT_WR));
    struct pollfd end = {server, POLLRDHUP, 0};
    CHECK(TRY(poll(&end, 1, 10000)) == 1);
    be_dumped();
    expect(server, "last words");
    expect_end(server);
    say(server, "answer");
    expect(client, "answer");
    CHECK(send(client, "x", 1, MSG_NOSIGNAL) == -1 && errno == EPIPE);
}

SCENARIO(tcp_connection_dumped_as_closed) {
    int client, server;
    pair(AF_INET, &client, &server);
    be_dumped();
    CHECK(send(client, "x", 1, MSG_NOSIGNAL) == -1);
    CHECK(send(server, "x", 1, MSG_NOSIGNAL) == -1);
}

SCENARIO(tcp_connection_without_leave) {
    int client, server;
    pair(AF_INET, &client, &server);
    be_dumped();
    say(client, "hello");
    expect(server, "hello");
}

SCENARIO(udp_sockets) {
    int server = bound(AF_INET, SOCK_DGRAM, 0);
    int client = connected(AF_INET, SOCK_DGRAM, 0, port_of(server));
    int server6 = bound(AF_INET6, SOCK_DGRAM, 0);
    int client6 = connected(AF_INET6, SOCK_DGRAM, 0, port_of(server6));
    int fresh = new_socket(AF_INET, SOCK_DGRAM, 0);
    int on = 1;
    TRY(setsockopt(fresh, SOL_SOCKET, SO_BROADCAST, &on, sizeof(on)));
    int port = port_of(client);
    be_dumped();
    CHECK(port_of(client) == port);
    say(client, "hello");
    expect(server, "hello");
    say(client6, "hello");
    expect(server6, "hello");
    int value = 0;
    socklen_t length = sizeof(value);
    TRY(getsockopt(fresh, SOL_SOCKET, SO_BROADCAST, &value, &length));
    CHECK(value == 1);
}

SCENARIO(udp_socket_shut_down) {
    int server = bound(AF_INET, SOCK_DGRAM, 0);
    int client = connected(AF_INET, SOCK_DGRAM, 0, port_of(server));
    TRY(shutdown(client, SHUT_RD));
    be_dumped();
    expect_end(client);
    say(client, "hello");
    expect(server, "hello");
}

SCENARIO(udp_socket_with_a_filter) {
    int server = bound(AF_INET, SOCK_DGRAM, 0);
    int client = connected(AF_INET, SOCK_DGRAM, 0, port_of(server));
    /* Lets through what begins with an x behind the 8 bytes of the header. */
    struct sock_filter code[] = {
        BPF_STMT(BPF_LD | BPF_B | BPF_ABS, 8),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, 'x', 0, 1),
        BPF_STMT(BPF_RET | BPF_K, 0xffff),
        BPF_STMT(BPF_RET | BPF_K, 0),
    };
    struct sock_fprog program = {4, code};
    TRY(setsockopt(server, SOL_SOCKET, SO_ATTACH_FILTER, &program, sizeof(program)));
    be_dumped();
    say(client, "no");
    say(client, "xyz");
    expect(server, "xyz");
}

SCENARIO(udp_socket_corked) {
    int server = bound(AF_INET, SOCK_DGRAM, 0);
    int client = connected(AF_INET, SOCK_DGRAM, 0, port_of(server));
    CHECK(send(client, "part", 4, MSG_MORE) == 4);
    be_dumped();
    say(client, "whole");
    expect(server, "partwhole");
}
