//! Unix sockets.

restored! {
    unix_connections_to_a_listener_that_is_gone;
    unix_stream_with_data_both_ways;
    unix_stream_with_much_data;
    unix_datagrams_with_borders;
    unix_packets_with_borders;
    unix_stream_half_closed;
    unix_stream_whose_other_end_is_closed;
    unix_stream_with_the_last_words_of_a_closed_end;
    unix_listeners_by_path;
    unix_names_that_are_abstract;
    unix_name_chosen_by_the_kernel;
    unix_name_that_was_deleted;
    unix_name_taken_by_a_successor;
    unix_connections_that_wait_to_be_accepted;
    unix_datagrams_to_a_name;
    unix_socket_connected_to_itself;
    unix_socket_that_nothing_was_done_to;
    unix_options;
    unix_queue_with_open_files;
    unix_datagram_queue_with_open_files;
    unix_queue_with_a_socket_in_it;
    unix_pair_with_a_child_that_waits;
}

refused! {
    unix_queue_with_a_terminal_in_it, says ["a terminal on its way"];
    unix_connection_that_waits_with_data, says ["carries data"];
    unix_connection_that_was_given_up, says ["client is gone"];
    unix_queue_with_credentials, says ["SO_PASSCRED"];
    unix_queue_with_an_empty_message, says ["empty message"];
}
