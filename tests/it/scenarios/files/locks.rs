//! File locks and leases.

restored! {
    posix_locks_on_ranges, dump ["--file-locks"], restore ["--file-locks"];
    posix_locks_of_parent_and_child, dump ["--file-locks"], restore ["--file-locks"];
    posix_lock_that_a_child_waits_for, dump ["--file-locks"], restore ["--file-locks"];
    locks_of_open_files, dump ["--file-locks"], restore ["--file-locks"];
    flocks, dump ["--file-locks"], restore ["--file-locks"];
    flock_of_parent_and_child, dump ["--file-locks"], restore ["--file-locks"];
    flock_that_a_child_waits_for, dump ["--file-locks"], restore ["--file-locks"];
    lock_on_a_deleted_file, dump ["--file-locks"], restore ["--file-locks"];
    leases, dump ["--file-locks"], restore ["--file-locks"];
    lease_that_is_being_broken, dump ["--file-locks"], restore ["--file-locks"];
}

noted! {
    flock_of_a_mapped_file_that_was_closed, dump ["--file-locks"], says ["without a descriptor"];
}

refused! {
    lock_without_leave, says ["--file-locks"];
    lock_of_a_child_without_leave, says ["--file-locks"];
}
