//! Things that wait for something.

restored! {
    eventfds_of_all_values;
    eventfd_of_parent_and_child;
    signalfds;
    timerfds_that_run;
    timerfd_that_has_expired;
    timerfds_until_a_moment;
    epoll_of_many_kinds;
    epoll_without_targets;
    epoll_whose_shot_was_fired;
    epoll_whose_target_was_moved;
    epoll_whose_number_leads_elsewhere_now;
    epoll_with_one_file_under_two_numbers;
    epoll_in_epoll;
    epoll_that_a_child_waits_in;
}

refused! {
    eventfd_that_is_full, says ["an eventfd that stands at"];
    eventfd_that_is_a_semaphore, says ["semaphore"];
    epoll_whose_target_only_a_child_has, says ["an epoll that waits for"];
}
