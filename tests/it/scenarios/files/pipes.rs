//! Pipes and FIFOs.

restored! {
    pipe_with_data;
    pipe_without_data;
    pipe_that_is_full;
    pipe_of_another_size;
    pipe_without_a_writer;
    pipe_without_a_reader;
    pipes_to_a_child_that_waits_in_read;
    pipe_with_a_child_that_waits_in_write;
    one_end_under_many_numbers;
    fifo_with_data;
    fifo_between_processes;
    fifo_that_somebody_waits_to_open;
    two_fifos_with_data;
}

refused! {
    pipe_opened_anew, says ["reading and writing at once"];
    pipe_of_packets, says ["packet mode"];
}
