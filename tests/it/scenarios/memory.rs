//! Memory: `tests/guests/scenarios/memory.c` and `shared_memory.c`.

use std::sync::{Mutex, PoisonError};

restored! {
    memory_without_access;
    memory_write_only;
    memory_read_only;
    memory_executable;
    code_made_at_run_time;
    untouched_memory;
    zero_page_that_was_read;
    zeros_that_were_written;
    memory_at_a_fixed_low_address;
    memory_moved_by_mremap;
    memory_with_pages_given_back;
    memory_lazily_freed;
    the_heap;
    locked_memory;
    locked_untouched_memory;
    locked_on_fault;
    locked_read_only_memory;
    memory_that_grows_down;
    a_deep_stack;
    a_stack_that_was_deep;
    advised_sequential;
    advised_random;
    advised_dontfork;
    advised_dontdump;
    advised_mergeable;
    advised_hugepage;
    advised_nohugepage;
    advised_wipeonfork;
    advised_everything_at_once;
    guard_pages;
    guard_pages_in_untouched_memory;
    guard_pages_of_a_child;
    transparent_huge_pages;
    a_huge_page_with_a_hole;
    a_huge_page_shared_with_a_child;
    huge_pages_disabled;
    droppable_memory;
    the_vdso;
    many_mappings;
    a_child_with_other_borders;
    a_child_that_gave_pages_back;
    a_child_without_what_was_kept_back;
    a_file_mapped_privately;
    a_file_mapped_read_only_with_pages_of_its_own;
    a_file_mapped_shared;
    a_file_mapped_shared_read_only;
    a_file_mapped_shared_that_may_become_writable;
    a_part_of_a_file;
    a_mapping_longer_than_its_file;
    a_mapping_of_a_file_cut_short;
    a_deleted_file_mapped_privately;
    a_deleted_file_mapped_shared_by_two;
    a_deleted_file_mapped_and_open;
    a_file_in_memory_mapped;
    a_program_without_one_of_its_pages;
    shared_memory_of_one;
    shared_memory_of_two;
    shared_memory_at_different_places;
    shared_memory_mapped_twice;
    shared_memory_one_may_only_read;
    shared_memory_without_access;
    shared_memory_with_holes;
    shared_memory_that_is_locked;
    shared_memory_with_advice;
    dev_zero_shared;
    dev_zero_private;
    memfd_open_only;
    memfd_mapped_only;
    memfd_mapped_privately;
    memfd_open_and_mapped_by_two;
    memfd_that_may_be_sealed;
    memfd_sealed_against_shrinking;
    memfd_sealed_against_growing;
    memfd_sealed_against_writing;
    memfd_sealed_for_good;
    memfd_sealed_against_future_writing;
    memfd_with_holes;
    memfd_that_is_empty;
    memfd_of_an_odd_size;
    memfd_of_another_owner;
    memfd_open_read_only;
    a_ring_of_asynchronous_io;
    a_ring_with_events_nobody_took;
    two_rings_of_different_sizes;
}

refused! {
    sealed_memory, says ["sealed memory"];
    secret_memory, says ["memfd_secret"];
    secret_memory_open_only, says ["memfd_secret"];
    io_uring_mapped, says ["io_uring"];
    userfaultfd_open, says ["userfaultfd"];
    userfaultfd_memory, says ["userfaultfd"];
    perf_event_mapped, says ["perf_event"];
    system_v_shared_memory, says ["System V shared memory"];
}

/// Allows the kernel some huge pages while there are values of this type.
struct HugePages;

/// How many there are, and how many huge pages were allowed before the first one.
static ALLOWED: Mutex<(usize, u64)> = Mutex::new((0, 0));

impl HugePages {
    const SETTING: &str = "/proc/sys/vm/nr_overcommit_hugepages";
    const ENOUGH: u64 = 64;

    fn allow() -> Self {
        let mut allowed = ALLOWED.lock().unwrap_or_else(PoisonError::into_inner);
        if allowed.0 == 0 {
            allowed.1 = std::fs::read_to_string(Self::SETTING)
                .unwrap()
                .trim()
                .parse()
                .unwrap();
            std::fs::write(Self::SETTING, (allowed.1 + Self::ENOUGH).to_string()).unwrap();
        }
        allowed.0 += 1;
        Self
    }
}

impl Drop for HugePages {
    fn drop(&mut self) {
        let mut allowed = ALLOWED.lock().unwrap_or_else(PoisonError::into_inner);
        allowed.0 -= 1;
        if allowed.0 == 0 {
            let _ = std::fs::write(Self::SETTING, allowed.1.to_string());
        }
    }
}

#[test]
fn huge_pages_asked_for() {
    let _pages = HugePages::allow();
    for name in [
        "hugetlb_private",
        "hugetlb_private_of_a_child",
        "hugetlb_shared",
        "hugetlb_memfd",
    ] {
        crate::scenarios::restored(name, 2, &[], &[]);
    }
}
