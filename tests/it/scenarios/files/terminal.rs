//! Terminals.

restored! {
    terminal_with_jobs;
    terminal_with_all_its_settings;
    terminal_that_is_raw;
    terminal_with_data_both_ways;
    terminal_with_lines_typed_ahead;
    terminal_with_flags_of_its_own;
    terminals_one_after_the_other;
    terminal_without_a_slave;
    terminal_that_is_locked;
    terminal_in_packet_mode;
    terminal_that_hung_up;
    terminal_that_controls_a_session;
    terminal_with_a_shell_and_a_pipeline;
}
