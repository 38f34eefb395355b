//! What belongs to a task: `tests/guests/scenarios/tasks*.c`.

// Names.
restored! {
    name_with_parentheses;
    names_of_threads;
}

// Processes, sessions, groups, threads.
restored! {
    zombies_with_exit_codes;
    zombies_of_signals;
    zombies_that_led_a_session_or_a_group;
    group_led_by_a_zombie;
    stopped_by_sigstop;
    stopped_by_sigtstp;
    stopped_by_sigttin;
    stopped_by_sigttou;
    stopped_and_not_yet_seen_by_its_parent;
    stopped_with_threads;
    stopped_inside_a_call;
    sessions_and_groups;
    group_whose_leader_is_gone;
    subreaper_with_orphans;
    deep_tree;
    wide_tree;
    tree_of_three_hundred;
    chain_of_two_hundred;
    a_hundred_threads;
    threads_that_come_and_go;
    children_that_come_and_go;
    child_made_by_a_sibling;
}

/// The kernel itself needs half a minute for so many forks of forks, and the tests' look into each
/// image as long.
#[test]
fn a_thousand_tasks() {
    if std::env::var_os("DEDUMP_TEST_FULL").is_some() {
        crate::scenarios::restored("tree_of_a_thousand", 1, &[], &[]);
        crate::scenarios::restored("chain_of_a_thousand", 1, &[], &[]);
    }
}

refused! {
    leader_that_has_ended, says ["leading thread has ended"];
    parent_in_vfork, says ["vfork"];
}

refused! {
    stopped_with_a_deadly_signal_waiting, says ["stopped, with signals waiting"];
    session_that_no_ancestor_leads, says ["no ancestor leads"];
}

// Signals.
restored! {
    signal_queued_with_a_value;
    realtime_signals_in_their_order;
    more_signals_than_are_read_at_once;
    signals_of_single_threads;
    signal_of_a_sender_that_has_ended;
    sigchld_that_waits;
    blocked_stop_and_continue_signals;
    blocked_fault_signals;
    masks_of_threads;
    handlers_with_all_flags;
    children_that_nobody_waits_for;
    ignored_signals;
    inside_nested_handlers;
    on_the_alternate_stack;
    alternate_stacks_of_threads;
    signals_that_keep_coming;
    waiting_for_a_signal;
    jump_out_of_a_context;
}

refused! {
    blocked_trap, says ["a SIGTRAP waits"];
}

// Timers.
restored! {
    interval_timers;
    interval_timer_that_keeps_ringing;
    alarm_that_rings_once_after_the_restore;
    timer_whose_signal_waits;
    timers_on_all_clocks;
    timer_with_a_value_that_rings;
    timer_that_tells_nobody;
    timers_that_are_not_set_and_gaps;
    timer_for_one_thread;
    timer_that_calls_a_function;
    timer_that_keeps_ringing;
    timer_on_the_clock_of_another_process;
    time_goes_on;
}

// Interrupted calls.
restored! {
    in_read;
    in_readv;
    in_write_to_a_full_pipe;
    in_accept;
    in_recv;
    in_recv_with_a_time_out;
    in_wait4;
    in_waitid;
    in_futex;
    in_futex_with_a_time_out;
    in_futex_until_a_moment;
    in_a_lock_with_priority_inheritance;
    in_a_condition_with_a_time_out;
    in_nanosleep;
    in_clock_nanosleep_until_a_moment;
    in_poll_without_end;
    in_poll_with_a_time_out;
    in_ppoll_with_a_mask;
    in_select;
    in_select_with_a_time_out;
    in_pselect_with_a_mask;
    in_epoll_wait;
    in_epoll_wait_with_a_time_out;
    in_epoll_pwait_with_a_mask;
    in_sigsuspend;
    in_pause;
    in_read_of_an_eventfd;
    in_read_of_a_timerfd;
    in_read_of_a_signalfd;
    in_open_of_a_fifo;
    in_splice;
    in_msgrcv;
    in_semop;
    calls_one_after_the_other;
    bytes_through_a_pipe;
    fork_that_signals_interrupt;
}

// Credentials.
restored! {
    ordinary_user;
    four_different_users_and_groups;
    three_hundred_groups;
    some_capabilities;
    bounded_capabilities;
    ambient_capabilities_of_a_user;
    securebits;
    all_securebits_locked;
    capabilities_to_be_kept;
    no_new_privileges;
    users_of_threads;
    ordinary_user_with_limits;
}

// Sandboxes.
restored! {
    one_filter;
    ten_filters;
    filters_with_flags;
    filters_of_single_threads;
    one_filter_for_all_threads;
    filters_inherited_and_added_to;
    filter_that_traps;
    filter_that_kills;
    strict_mode;
    ordinary_user_in_a_sandbox;
    filter_that_forbids_what_a_dump_does;
}
refused! {
    filter_with_a_supervisor, says ["seccomp notify"];
}

// Limits, scheduling, attributes.
restored! {
    all_limits;
    nice_values_of_threads;
    scheduling_policies;
    policies_reset_on_fork;
    oom_score_adjustment;
    login_user;
    signals_at_the_parents_death;
    told_of_the_parents_death_after_the_restore;
    child_subreaper;
    not_dumpable;
    dumpable;
    no_huge_pages;
    memory_barriers;
    file_mode_mask;
}

refused! {
    deadline_scheduling, says ["deadline scheduling"];
}
// What restorers do not bring back, and the dump tells.
noted! {
    personality_of_its_own, says ["a personality"];
    processors_of_its_own, says ["bound to some processors"];
    slow_timers, says ["a timer slack"];
    io_priority, says ["an I/O priority"];
    core_dumps_with_other_contents, says ["what core dumps hold"];
    child_that_ends_with_another_signal, says ["by another signal"];
    exit_code_above_127, says ["status above 127"];
    session_whose_leader_is_gone, says ["whose leader is gone"];
}

// What the kernel keeps for the C library, and the processor.
restored! {
    rseq_of_threads;
    rseq_taken_back;
    inside_a_restartable_sequence;
    robust_lock_of_a_thread;
    robust_lock_between_processes;
    no_robust_list;
    word_that_is_cleared_at_the_end;
    address_to_clear_of_the_leader;
    segment_bases_of_threads;
    rounding_of_both_units;
    numbers_on_the_x87_stack;
    widest_vector_registers_of_threads;
    protection_keys;
    direction_and_other_flags;
}
