//! Netlink, packet and raw sockets; tun devices.

restored! {
    netlink_sockets;
    packet_sockets;
    packet_socket_with_a_ring;
    packet_socket_with_a_mapped_ring;
    raw_sockets;
    ping_sockets;
    udp_lite_socket;
}

refused! {
    packet_ring_without_its_socket, says ["a mapping of a socket that has no descriptor"];
    netlink_socket_with_an_answer_in_it, says ["messages waiting"];
    tun_device, says ["tun or tap"];
    socket_of_many_paths, says ["protocol 262"];
    socket_of_an_unknown_family, says ["a socket of family"];
}
