//! Watches on files.

// The file is deleted once more after a restore: an event, at which the kernel ends the watch.
restored_once! {
    inotify_on_a_deleted_file_that_is_open;
}

restored! {
    inotify_on_files_and_folders;
    inotify_whose_watches_have_gaps;
    inotify_on_what_was_renamed;
    inotify_on_memory;
    inotify_without_watches;
    inotify_on_what_only_a_search_finds, dump ["--irmap-scan-path", "/proc/sys/kernel"];
    fanotify_on_a_file;
    fanotify_on_a_folder;
    fanotify_on_a_mount;
}

refused! {
    inotify_for_one_event, says ["IN_ONESHOT"];
}
