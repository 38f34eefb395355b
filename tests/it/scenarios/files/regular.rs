//! Files with a path, and those that have lost theirs.

restored! {
    deleted_file_above_the_limit, dump ["--ghost-limit", "3M"];
    file_at_a_position;
    file_far_behind_its_end;
    file_with_all_its_flags;
    log_that_is_appended_to;
    close_on_exec;
    descriptors_far_up_and_few_between;
    one_position_for_parent_and_child;
    directory_half_read;
    opened_as_a_path_alone;
    named_strangely;
    path_of_four_thousand_bytes;
    renamed_file;
    working_folder_that_was_renamed;
    changed_root;
    simple_devices;
    log_of_the_kernel;
    deleted_file;
    deleted_file_under_a_name_used_again;
    deleted_file_with_its_folder;
    deleted_file_of_another_user;
    deleted_file_that_is_empty;
    deleted_file_with_holes;
    deleted_file_that_is_mapped;
    deleted_file_that_is_mapped_and_closed;
    temporary_file_without_a_name;
    deleted_fifo;
    deleted_device;
    deleted_folder;
    deleted_working_folder;
    deleted_working_folder_with_files_and_folders;
    deleted_symbolic_link;
    unlinked_with_another_name, dump ["--link-remap"];
    unlinked_with_another_name_elsewhere, dump ["--link-remap"];
    name_taken_by_another_file, dump ["--link-remap"];
    owners_and_signals;
}

refused! {
    device_with_state, says ["the device"];
    path_that_leads_to_another_file, dump ["--link-remap"], says ["leads to another file"];
}
