//! Targets that make it hard for a dumper. They are in `tests/guests/hostile.c`, check themselves,
//! and end in one of three ways: as a whole round trip, as a dump of a tree that runs on, which
//! no restorer could bring back as it was, or as a clear refusal.

use std::path::Path;

use crate::guest::{Guest, dedump, images, run};
use crate::oracle::{Release, restore};
use crate::restores::dump_with;
use crate::scenarios::check;

/// Tests of kinds that are dumped while they run on, dumped again and killed, and brought back.
macro_rules! restored {
    ($($kind:ident;)*) => {$(
        #[test]
        fn $kind() {
            super::restored(stringify!($kind));
        }
    )*};
}

/// Tests of kinds that are dumped as long as they run on; killing them is refused, with words.
macro_rules! running {
    ($($kind:ident, says [$($word:literal),*];)*) => {$(
        #[test]
        fn $kind() {
            let guest = super::start(stringify!($kind));
            super::runs_on(&guest);
            super::refused(&guest, &[$($word),*]);
        }
    )*};
}

/// Tests of kinds that are refused, with words.
macro_rules! refused {
    ($($kind:ident, says [$($word:literal),*];)*) => {$(
        #[test]
        fn $kind() {
            super::refused(&super::start(stringify!($kind)), &[$($word),*]);
        }
    )*};
}

fn start(kind: &str) -> Guest {
    Guest::of_ours_with("hostile", &[kind])
}

/// A dump of a tree that runs on has no defect, and does no harm.
fn runs_on(guest: &Guest) {
    let (_dir, images) = images();
    let output = run(&mut dedump(guest.pid(), &images, &["--leave-running"]));
    assert!(output.status.success());
    guest.goes_on();
}

fn restored(kind: &str) {
    let mut guest = start(kind);
    runs_on(&guest);
    let (_dir, images) = images();
    dump_with(&mut guest, &images, &[]);
    restore(Release::Criu42, &images);
    guest.goes_on();
    check(&guest);
}

fn refused(guest: &Guest, words: &[&str]) {
    let (_dir, images) = images();
    let output = run(&mut dedump(guest.pid(), &images, &[]));
    assert_eq!(output.status.code(), Some(1));
    assert_says(&output.stderr, words);
    assert_nothing_left(&images);
    guest.goes_on();
    check(guest);
}

fn assert_says(errors: &[u8], words: &[&str]) {
    let errors = String::from_utf8_lossy(errors);
    assert!(errors.contains("dedump: error: "), "{errors}");
    for word in words {
        assert!(errors.contains(word), "no {word:?} in {errors}");
    }
}

fn assert_nothing_left(images: &Path) {
    let left = std::fs::read_dir(images).map_or(0, Iterator::count);
    assert_eq!(left, 0, "{}", images.display());
}

mod restored {
    restored! {
        // Names of tasks.
        name_closes_a_bracket;
        name_with_newlines;
        name_of_nothing;
        name_of_no_text;
        name_of_a_thread;
        title_overwritten;
        // Names of files.
        path_with_newlines;
        path_of_no_text;
        path_that_says_deleted;
        path_that_said_deleted;
        path_with_an_octal_number;
        path_mapped_with_newlines;
        path_mapped_that_says_deleted;
        path_of_4000_bytes;
        path_replaced;
        path_of_a_parent_renamed;
        memory_file_named_strangely;
        socket_named_strangely;
        socket_with_zeros_in_its_name;
        fifo_named_strangely;
        folder_named_strangely;
        folder_deleted;
        link_loop;
        program_deleted;
        program_named_strangely;
        // Descriptors.
        fd_far_up;
        fd_above_the_limit;
        fds_by_the_thousand;
        epoll_in_epoll;
        epoll_of_a_closed_one;
        socket_in_its_own_queue;
        pipe_that_is_full;
        // Memory.
        mappings_at_both_ends;
        mappings_by_the_ten_thousand;
        memory_nobody_may_read;
        memory_behind_the_end_of_its_file;
        locked_memory;
        // Registers, signals, limits.
        stack_pointer_astray;
        all_signals_blocked;
        all_signals_ignored;
        signals_queued;
        no_limits_left;
        no_room_for_data;
        real_time_at_full_speed;
        other_personality;
        // Relatives.
        stop_by_ttin;
        stop_by_stop;
        zombies_by_the_hundred;
        child_with_the_same_files;
        session_without_leader;
        group_without_leader;
        chain_of_children;
        threads_by_the_thousand;
        // Confined.
        deadly_filter_of_a_child;
        filters_by_the_dozen;
        not_dumpable;
        without_privileges;
        // At full speed.
        forks;
        forks_of_forks;
        forks_and_zombies;
        fork_bombs;
        vforks;
        execs;
        execs_of_threads;
        execs_of_the_root;
        ends_of_many_threads;
        orphans;
        comets;
        threads;
        maps;
        truncations;
        files;
        file_names;
        credentials;
        dumpable;
        folders;
        limits;
        timers;
        pipes;
        signals;
        signals_of_others;
        stops;
        all_at_once;
    }
}

mod running {
    running! {
        fds_of_a_thread_alone, says ["descriptors of its own", "--leave-running"];
        child_in_the_same_memory, says ["share their memory", "--leave-running"];
        system_v_memory, says ["System V", "--leave-running"];
        vdso_gone, says ["vdso", "--leave-running"];
    }

    /// criu itself needs numbers above the highest one; the tree is dumped all the same.
    #[test]
    fn fd_as_high_as_may_be() {
        let guest = super::start("fd_as_high_as_may_be");
        super::runs_on(&guest);
        super::check(&guest);
    }

    /// Not restored: criu 4.2 gives up when a task dies that it has not let go yet.
    #[test]
    fn kills() {
        let guest = super::start("kills");
        for _ in 0..3 {
            super::runs_on(&guest);
        }
        super::check(&guest);
    }

    /// Depends on the moment: either traced, and refused, or not.
    #[test]
    fn tracers() {
        let guest = super::start("tracers");
        for _ in 0..5 {
            let (_dir, images) = super::images();
            let output = super::run(&mut super::dedump(guest.pid(), &images, &["-R"]));
            if !output.status.success() {
                super::assert_says(&output.stderr, &["traced by"]);
                super::assert_nothing_left(&images);
            }
            guest.goes_on();
        }
        super::check(&guest);
    }
}

mod refused {
    refused! {
        path_longer_than_the_kernel_tells, says ["cwd", "ENAMETOOLONG"];
        memory_limit_reached, says ["RLIMIT_AS"];
        userfaults, says ["userfaultfd"];
        leader_is_dead, says ["leading thread has ended"];
        in_vfork, says ["vfork"];
        child_under_a_debugger, says ["traced by"];
        child_in_namespaces, says ["another uts namespace", "another ipc namespace"];
    }
}
