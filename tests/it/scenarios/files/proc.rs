//! Files of `/proc` and `/sys`, names of processes and namespaces.

restored! {
    proc_files_of_the_system;
    proc_files_of_tasks_in_the_tree;
    proc_files_of_a_dead_process;
    names_of_namespaces;
    pidfds_of_the_tree;
    pidfd_of_a_zombie;
    pidfds_of_dead_processes;
}

refused! {
    name_of_a_foreign_namespace, says ["uts:["];
    pidfd_of_a_thread, says ["PIDFD_THREAD"];
    pidfd_of_the_outside, says ["a pidfd of"];
}
