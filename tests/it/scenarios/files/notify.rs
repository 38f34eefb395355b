//! Watches on files.

restored! {
    inotify_on_a_deleted_file_that_is_open;
    inotify_on_files_and_folders;
    inotify_whose_watches_have_gaps;
    inotify_on_what_was_renamed;
    inotify_on_memory;
    inotify_without_watches;
    fanotify_on_a_file;
    fanotify_on_a_folder;
    fanotify_on_a_mount;
}

refused! {
    inotify_for_one_event, says ["IN_ONESHOT"];
}
