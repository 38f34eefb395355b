/* Netlink, packet and raw sockets; tun devices. */
#include "scenario.h"

#include <arpa/inet.h>
#include <fcntl.h>
#include <linux/if_packet.h>
#include <linux/if_tun.h>
#include <linux/netlink.h>
#include <linux/rtnetlink.h>
#include <net/ethernet.h>
#include <net/if.h>
#include <netinet/in.h>
#include <netinet/ip_icmp.h>
#include <poll.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/socket.h>

static int netlink(int protocol, unsigned groups, bool bound) {
    int fd = TRY(socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC, protocol));
    struct sockaddr_nl name = {.nl_family = AF_NETLINK, .nl_groups = groups};
    if (bound) TRY(bind(fd, (struct sockaddr *)&name, sizeof(name)));
    return fd;
}

static unsigned port_of(int fd) {
    struct sockaddr_nl name;
    socklen_t length = sizeof(name);
    TRY(getsockname(fd, (struct sockaddr *)&name, &length));
    return name.nl_pid;
}

/* Asks for all links, and gets an answer. */
static void ask_for_links(int fd) {
    struct {
        struct nlmsghdr head;
        struct rtgenmsg body;
    } request = {{sizeof(request), RTM_GETLINK, NLM_F_REQUEST | NLM_F_DUMP, 1, 0}, {AF_UNSPEC}};
    struct sockaddr_nl kernel = {.nl_family = AF_NETLINK};
    TRY(sendto(fd, &request, sizeof(request), 0, (struct sockaddr *)&kernel, sizeof(kernel)));
}

static void expect_links(int fd) {
    static char answer[65536];
    CHECK(recv(fd, answer, sizeof(answer), 0) > 0);
    CHECK(((struct nlmsghdr *)answer)->nlmsg_type == RTM_NEWLINK);
}

/* In groups in which nobody says anything meanwhile. */
SCENARIO(netlink_sockets) {
    int fresh = netlink(NETLINK_ROUTE, 0, false);
    int bound = netlink(NETLINK_ROUTE, 0, true);
    int listening = netlink(NETLINK_ROUTE, RTMGRP_IPV4_MROUTE | RTMGRP_IPV4_RULE, true);
    int uevents = netlink(NETLINK_KOBJECT_UEVENT, 2, true);
    unsigned port = port_of(bound);
    be_dumped();
    CHECK(port_of(bound) == port);
    ask_for_links(fresh);
    expect_links(fresh);
    ask_for_links(bound);
    expect_links(bound);
    struct sockaddr_nl name;
    socklen_t length = sizeof(name);
    TRY(getsockname(listening, (struct sockaddr *)&name, &length));
    CHECK(name.nl_groups == (RTMGRP_IPV4_MROUTE | RTMGRP_IPV4_RULE));
    TRY(getsockname(uevents, (struct sockaddr *)&name, &length));
    CHECK(name.nl_groups == 2);
    CHECK(fcntl(bound, F_GETFD) == FD_CLOEXEC);
}

SCENARIO(netlink_socket_with_an_answer_in_it) {
    int fd = netlink(NETLINK_ROUTE, 0, true);
    ask_for_links(fd);
    be_dumped();
    expect_links(fd);
}

static bool has_packet(int fd, int patience) {
    struct pollfd one = {fd, POLLIN, 0};
    return TRY(poll(&one, 1, patience)) == 1;
}

static void send_to_ourselves(void) {
    int udp = TRY(socket(AF_INET, SOCK_DGRAM, 0));
    struct sockaddr_in to = {AF_INET, htons(9), {htonl(INADDR_LOOPBACK)}};
    TRY(sendto(udp, "x", 1, 0, (struct sockaddr *)&to, sizeof(to)));
    close(udp);
}

SCENARIO(packet_sockets) {
    int raw = TRY(socket(AF_PACKET, SOCK_RAW, 0));
    struct sockaddr_ll name = {.sll_family = AF_PACKET, .sll_protocol = htons(ETH_P_IP),
                               .sll_ifindex = if_nametoindex("lo")};
    TRY(bind(raw, (struct sockaddr *)&name, sizeof(name)));
    int cooked = TRY(socket(AF_PACKET, SOCK_DGRAM, htons(ETH_P_ARP)));
    int on = 1, value = 0, version = TPACKET_V2, reserve = 64;
    TRY(setsockopt(raw, SOL_PACKET, PACKET_AUXDATA, &on, sizeof(on)));
    TRY(setsockopt(raw, SOL_PACKET, PACKET_VERSION, &version, sizeof(version)));
    TRY(setsockopt(raw, SOL_PACKET, PACKET_RESERVE, &reserve, sizeof(reserve)));
    struct packet_mreq promiscuous = {.mr_ifindex = if_nametoindex("lo"),
                                      .mr_type = PACKET_MR_PROMISC};
    TRY(setsockopt(cooked, SOL_PACKET, PACKET_ADD_MEMBERSHIP, &promiscuous, sizeof(promiscuous)));
    be_dumped();
    socklen_t length = sizeof(value);
    TRY(getsockopt(raw, SOL_PACKET, PACKET_AUXDATA, &value, &length));
    CHECK(value == 1);
    TRY(getsockopt(raw, SOL_PACKET, PACKET_VERSION, &value, &length));
    CHECK(value == TPACKET_V2);
    TRY(getsockopt(raw, SOL_PACKET, PACKET_RESERVE, &value, &length));
    CHECK(value == 64);
    struct sockaddr_ll now;
    length = sizeof(now);
    TRY(getsockname(raw, (struct sockaddr *)&now, &length));
    CHECK(now.sll_ifindex == name.sll_ifindex && now.sll_protocol == htons(ETH_P_IP));
    TRY(setsockopt(cooked, SOL_PACKET, PACKET_DROP_MEMBERSHIP, &promiscuous, sizeof(promiscuous)));
    send_to_ourselves();
    CHECK(has_packet(raw, 10000));
    CHECK(!has_packet(cooked, 0));
}

SCENARIO(packet_socket_with_a_ring) {
    int fd = TRY(socket(AF_PACKET, SOCK_RAW, htons(ETH_P_IP)));
    struct tpacket_req ring = {.tp_block_size = 4096, .tp_block_nr = 4, .tp_frame_size = 2048,
                               .tp_frame_nr = 8};
    TRY(setsockopt(fd, SOL_PACKET, PACKET_RX_RING, &ring, sizeof(ring)));
    be_dumped();
    struct tpacket_stats stats;
    socklen_t length = sizeof(stats);
    TRY(getsockopt(fd, SOL_PACKET, PACKET_STATISTICS, &stats, &length));
    send_to_ourselves();
    CHECK(has_packet(fd, 10000));
    TRY(getsockopt(fd, SOL_PACKET, PACKET_STATISTICS, &stats, &length));
    CHECK(stats.tp_packets > 0);
}

/* Sends an echo request to this machine, and waits for the reply. */
static void ping(int fd, int family) {
    struct icmphdr request = {.type = family == AF_INET ? ICMP_ECHO : 128};
    struct sockaddr_in four = {AF_INET, 0, {htonl(INADDR_LOOPBACK)}};
    struct sockaddr_in6 six = {AF_INET6, 0, 0, in6addr_loopback, 0};
    struct sockaddr *to = family == AF_INET ? (void *)&four : (void *)&six;
    TRY(sendto(fd, &request, sizeof(request), 0, to,
               family == AF_INET ? sizeof(four) : sizeof(six)));
    CHECK(has_packet(fd, 10000));
    TRY(recv(fd, &request, sizeof(request), 0));
    CHECK(request.type == (family == AF_INET ? ICMP_ECHOREPLY : 129));
}

SCENARIO(ping_sockets) {
    int range = TRY(open("/proc/sys/net/ipv4/ping_group_range", O_WRONLY));
    CHECK(write(range, "0 2147483647", 12) == 12);
    close(range);
    int fresh = TRY(socket(AF_INET, SOCK_DGRAM, IPPROTO_ICMP));
    int used = TRY(socket(AF_INET, SOCK_DGRAM, IPPROTO_ICMP));
    int six = TRY(socket(AF_INET6, SOCK_DGRAM, IPPROTO_ICMPV6));
    ping(used, AF_INET);
    ping(six, AF_INET6);
    be_dumped();
    ping(fresh, AF_INET);
    ping(used, AF_INET);
    ping(six, AF_INET6);
}

SCENARIO(packet_socket_with_a_mapped_ring) {
    enum { FRAME = 2048, FRAMES = 8 };
    int fd = TRY(socket(AF_PACKET, SOCK_RAW, htons(ETH_P_IP)));
    struct tpacket_req ring = {.tp_block_size = 4096, .tp_block_nr = 4, .tp_frame_size = FRAME,
                               .tp_frame_nr = FRAMES};
    TRY(setsockopt(fd, SOL_PACKET, PACKET_RX_RING, &ring, sizeof(ring)));
    char *frames = mmap(NULL, FRAME * FRAMES, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    CHECK(frames != MAP_FAILED);
    be_dumped();
    for (int i = 0; i < FRAMES; i++) ((struct tpacket_hdr *)(frames + i * FRAME))->tp_status = 0;
    send_to_ourselves();
    CHECK(has_packet(fd, 10000));
    int taken = 0;
    for (int i = 0; i < FRAMES; i++) {
        struct tpacket_hdr *frame = (void *)(frames + i * FRAME);
        taken += (frame->tp_status & TP_STATUS_USER) != 0 && frame->tp_len > 0;
    }
    CHECK(taken > 0);
}

SCENARIO(packet_ring_without_its_socket) {
    int fd = TRY(socket(AF_PACKET, SOCK_RAW, htons(ETH_P_IP)));
    struct tpacket_req ring = {.tp_block_size = 4096, .tp_block_nr = 1, .tp_frame_size = 2048,
                               .tp_frame_nr = 2};
    TRY(setsockopt(fd, SOL_PACKET, PACKET_RX_RING, &ring, sizeof(ring)));
    CHECK(mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0) != MAP_FAILED);
    close(fd);
    be_dumped();
}

SCENARIO(raw_sockets) {
    int icmp = TRY(socket(AF_INET, SOCK_RAW, IPPROTO_ICMP));
    struct icmp_filter { unsigned data; } filter = {1 << ICMP_ECHO}, found = {0};
    TRY(setsockopt(icmp, 255, 1, &filter, sizeof(filter)));
    int raw = TRY(socket(AF_INET, SOCK_RAW, IPPROTO_RAW));
    int six = TRY(socket(AF_INET6, SOCK_RAW, IPPROTO_ICMPV6));
    int own = TRY(socket(AF_INET, SOCK_RAW, 253));
    struct sockaddr_in here = {AF_INET, 0, {htonl(INADDR_LOOPBACK)}};
    TRY(bind(own, (struct sockaddr *)&here, sizeof(here)));
    be_dumped();
    socklen_t length = sizeof(found);
    TRY(getsockopt(icmp, 255, 1, &found, &length));
    CHECK(found.data == filter.data);
    int value = 0;
    length = sizeof(value);
    TRY(getsockopt(raw, IPPROTO_IP, IP_HDRINCL, &value, &length));
    CHECK(value == 1);
    TRY(getsockopt(six, SOL_SOCKET, SO_PROTOCOL, &value, &length));
    CHECK(value == IPPROTO_ICMPV6);
    struct sockaddr_in now;
    length = sizeof(now);
    TRY(getsockname(own, (struct sockaddr *)&now, &length));
    CHECK(now.sin_addr.s_addr == htonl(INADDR_LOOPBACK));
    TRY(sendto(own, "x", 1, 0, (struct sockaddr *)&here, sizeof(here)));
    CHECK(has_packet(own, 10000));
}

SCENARIO(udp_lite_socket) {
    int fd = socket(AF_INET, SOCK_DGRAM, IPPROTO_UDPLITE);
    if (fd < 0) {
        /* Linux has dropped it. */
        be_dumped();
        return;
    }
    struct sockaddr_in here = {AF_INET, 0, {htonl(INADDR_LOOPBACK)}};
    socklen_t length = sizeof(here);
    TRY(bind(fd, (struct sockaddr *)&here, sizeof(here)));
    TRY(getsockname(fd, (struct sockaddr *)&here, &length));
    be_dumped();
    TRY(sendto(fd, "x", 1, 0, (struct sockaddr *)&here, sizeof(here)));
    CHECK(has_packet(fd, 10000));
}

SCENARIO(tun_device) {
    int fd = TRY(open("/dev/net/tun", O_RDWR));
    struct ifreq name = {.ifr_flags = IFF_TUN | IFF_NO_PI};
    TRY(ioctl(fd, TUNSETIFF, &name));
    be_dumped();
    CHECK(if_nametoindex(name.ifr_name) != 0);
}

SCENARIO(socket_of_many_paths) {
    int fd = socket(AF_INET, SOCK_STREAM, 262 /* IPPROTO_MPTCP */);
    if (fd < 0) skip("no MPTCP");
    be_dumped();
    CHECK(fcntl(fd, F_GETFD) == 0);
}

SCENARIO(socket_of_an_unknown_family) {
    int families[] = {40 /* VSOCK */, 38 /* ALG */, 44 /* XDP */, 15 /* KEY */};
    int fd = -1;
    for (int i = 0; i < 4 && fd < 0; i++)
        for (int type = SOCK_STREAM; type <= SOCK_SEQPACKET && fd < 0; type++)
            fd = socket(families[i], type, families[i] == 15 ? 2 : 0);
    if (fd < 0) skip("no rare families");
    be_dumped();
}
