//! Internet sockets.

restored! {
    tcp_listeners;
    tcp_listener_of_any_address;
    tcp_listeners_that_share_a_port;
    tcp_sockets_that_are_not_connected;
    tcp_options;
    tcp_connection_with_data_both_ways, dump ["--tcp-established"], restore ["--tcp-established"];
    tcp_connection_of_version_six, dump ["--tcp-established"], restore ["--tcp-established"];
    tcp_connection_half_closed, dump ["--tcp-established"], restore ["--tcp-established"];
    tcp_connection_dumped_as_closed, dump ["--tcp-close"], restore ["--tcp-close"];
    udp_sockets;
    udp_socket_shut_down;
    udp_socket_with_a_filter;
}

refused! {
    tcp_connection_without_leave, says ["--tcp-established"];
    udp_socket_corked, says ["corked"];
}
