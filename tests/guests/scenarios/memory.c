/* Private memory: how it may be used, what was advised, what is in it. */
#include "memory.h"

#include <alloca.h>
#include <sched.h>
#include <sys/auxv.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <time.h>

#ifndef MADV_GUARD_INSTALL
#define MADV_GUARD_INSTALL 102
#endif
#ifndef SYS_mseal
#define SYS_mseal 462
#endif
#ifndef MAP_DROPPABLE
#define MAP_DROPPABLE 0x08
#endif

/* Access. */

static void keeps_its_content(int access, const char *shown) {
    char *memory = map_private(5);
    fill(memory, 5 * PAGE, 1);
    TRY(mprotect(memory + PAGE, 3 * PAGE, access));
    be_dumped();
    check_access(memory + PAGE, shown);
    check_access(memory, "rw-p");
    TRY(mprotect(memory + PAGE, 3 * PAGE, PROT_READ | PROT_WRITE));
    check_filled(memory, 5 * PAGE, 1);
}

SCENARIO(memory_without_access) { keeps_its_content(PROT_NONE, "---p"); }
SCENARIO(memory_write_only) { keeps_its_content(PROT_WRITE, "-w-p"); }
SCENARIO(memory_read_only) { keeps_its_content(PROT_READ, "r--p"); }
SCENARIO(memory_executable) { keeps_its_content(PROT_READ | PROT_WRITE | PROT_EXEC, "rwxp"); }

SCENARIO(code_made_at_run_time) {
    unsigned char code[] = {0xb8, 42, 0, 0, 0, 0xc3}; /* mov $42, %eax; ret */
    char *memory = map_private(1);
    memcpy(memory, code, sizeof(code));
    TRY(mprotect(memory, PAGE, PROT_EXEC));
    be_dumped();
    CHECK(((int (*)(void))memory)() == 42);
}

SCENARIO(untouched_memory) {
    size_t bytes = 4UL << 30;
    int flags = MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE;
    char *memory = TRY(mmap(NULL, bytes, PROT_READ | PROT_WRITE, flags, -1, 0));
    memory[bytes / 2] = 7;
    be_dumped();
    CHECK(memory[bytes / 2] == 7);
    CHECK(has_flag(memory, "nr"));
    CHECK(smaps_kib(memory, "Rss") < 4096);
    CHECK(memory[0] == 0 && memory[bytes - 1] == 0);
}

SCENARIO(zero_page_that_was_read) {
    char *memory = map_private(600);
    TRY(madvise(memory, 600 * PAGE, MADV_NOHUGEPAGE));
    for (int page = 0; page < 600; page++) CHECK(memory[page * PAGE] == 0);
    fill(memory + 300 * PAGE, PAGE, 2);
    be_dumped();
    CHECK(smaps_kib(memory, "Anonymous") <= 4);
    check_filled(memory + 300 * PAGE, PAGE, 2);
    check_zero(memory, 300 * PAGE);
    check_zero(memory + 301 * PAGE, 299 * PAGE);
}

SCENARIO(zeros_that_were_written) {
    char *memory = map_private(64);
    memset(memory, 0, 64 * PAGE);
    be_dumped();
    check_zero(memory, 64 * PAGE);
    CHECK(smaps_kib(memory, "Anonymous") < 64);
    fill(memory, 64 * PAGE, 3);
    check_filled(memory, 64 * PAGE, 3);
}

SCENARIO(memory_at_a_fixed_low_address) {
    int flags = MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED_NOREPLACE;
    char *memory = TRY(mmap((void *)0x10000, 2 * PAGE, PROT_READ | PROT_WRITE, flags, -1, 0));
    fill(memory, 2 * PAGE, 4);
    be_dumped();
    check_filled(memory, 2 * PAGE, 4);
}

SCENARIO(memory_moved_by_mremap) {
    char *memory = map_private(4), *place = map_private(16);
    fill(memory, 4 * PAGE, 5);
    memory = TRY(mremap(memory, 4 * PAGE, 8 * PAGE, MREMAP_MAYMOVE | MREMAP_FIXED, place + 4 * PAGE));
    be_dumped();
    check_filled(memory, 4 * PAGE, 5);
    check_zero(memory + 4 * PAGE, 4 * PAGE);
}

SCENARIO(memory_with_pages_given_back) {
    char *memory = map_private(8);
    fill(memory, 8 * PAGE, 6);
    TRY(madvise(memory + 2 * PAGE, 2 * PAGE, MADV_DONTNEED));
    be_dumped();
    fill(map_private(2), 2 * PAGE, 0);
    check_zero(memory + 2 * PAGE, 2 * PAGE);
    char *expected = map_private(8);
    fill(expected, 8 * PAGE, 6);
    CHECK(!memcmp(memory, expected, 2 * PAGE));
    CHECK(!memcmp(memory + 4 * PAGE, expected + 4 * PAGE, 4 * PAGE));
}

SCENARIO(memory_lazily_freed) {
    char *memory = map_private(8);
    fill(memory, 8 * PAGE, 7);
    TRY(madvise(memory, 8 * PAGE, MADV_FREE));
    memory[0] ^= 0;
    be_dumped();
    /* The kernel may have taken it, page by page. */
    char *expected = map_private(8), *zero = map_private(1);
    fill(expected, 8 * PAGE, 7);
    for (int at = 0; at < 8 * PAGE; at += PAGE)
        CHECK(!memcmp(memory + at, expected + at, PAGE) || !memcmp(memory + at, zero, PAGE));
}

SCENARIO(the_heap) {
    /* Has malloc take its part first. */
    dprintf(1, "begins\n");
    char *before = sbrk(0);
    char *heap = sbrk(100 * PAGE);
    CHECK(heap == before);
    fill(heap, 100 * PAGE, 8);
    CHECK(sbrk(-40 * PAGE) != (void *)-1);
    be_dumped();
    CHECK(sbrk(0) == heap + 60 * PAGE);
    check_filled(heap, 60 * PAGE, 8);
    char *more = sbrk(10 * PAGE);
    CHECK(more == heap + 60 * PAGE);
    check_zero(more, 10 * PAGE);
}

/* Locks. */

SCENARIO(locked_memory) {
    char *memory = map_private(16);
    fill(memory, 16 * PAGE, 9);
    TRY(mlock(memory + 4 * PAGE, 8 * PAGE));
    be_dumped();
    CHECK(has_flag(memory + 4 * PAGE, "lo") && !has_flag(memory, "lo"));
    CHECK(atol(status_field("VmLck")) == 32);
    check_filled(memory, 16 * PAGE, 9);
}

SCENARIO(locked_untouched_memory) {
    char *memory = map_private(16);
    TRY(mlock(memory, 16 * PAGE));
    be_dumped();
    CHECK(has_flag(memory, "lo"));
    CHECK(smaps_kib(memory, "Rss") == 64);
    check_zero(memory, 16 * PAGE);
}

SCENARIO(locked_on_fault) {
    char *memory = map_private(16);
    TRY(mlock2(memory, 16 * PAGE, MLOCK_ONFAULT));
    fill(memory, 4 * PAGE, 10);
    be_dumped();
    CHECK(has_flag(memory, "lo"));
    check_filled(memory, 4 * PAGE, 10);
    check_zero(memory + 4 * PAGE, 12 * PAGE);
}

SCENARIO(locked_read_only_memory) {
    char *memory = map_private(4);
    fill(memory, 4 * PAGE, 11);
    TRY(mprotect(memory, 4 * PAGE, PROT_READ));
    TRY(mlock(memory, 4 * PAGE));
    be_dumped();
    CHECK(has_flag(memory, "lo"));
    check_access(memory, "r--p");
    check_filled(memory, 4 * PAGE, 11);
}

/* Stacks. */

SCENARIO(memory_that_grows_down) {
    size_t room = 300;
    char *reserved = map_private(room);
    TRY(munmap(reserved, room * PAGE));
    char *top = reserved + room * PAGE;
    int flags = MAP_PRIVATE | MAP_ANONYMOUS | MAP_GROWSDOWN | MAP_FIXED;
    char *stack = TRY(mmap(top - 4 * PAGE, 4 * PAGE, PROT_READ | PROT_WRITE, flags, -1, 0));
    fill(stack, 4 * PAGE, 12);
    stack[-1] = 1;
    be_dumped();
    CHECK(has_flag(stack, "gd"));
    check_filled(stack, 4 * PAGE, 12);
    CHECK(stack[-1] == 1);
    stack[-PAGE - 1] = 2;
    CHECK(stack[-PAGE - 1] == 2);
}

static __attribute__((noinline)) void deep(int left) {
    char *local = alloca(64 * PAGE);
    fill(local, 64 * PAGE, left);
    if (left)
        deep(left - 1);
    else
        be_dumped();
    check_filled(local, 64 * PAGE, left);
}

SCENARIO(a_deep_stack) { deep(20); }

SCENARIO(a_stack_that_was_deep) {
    /* What lies below the stack pointer is kept, too: some programs rely on it. */
    volatile char *stack = (volatile char *)__builtin_frame_address(0);
    stack[-100 * PAGE] = 5;
    be_dumped();
    CHECK(stack[-100 * PAGE] == 5);
}

/* Advice. */

static void advised(int advice, const char *flag) {
    char *memory = map_private(12);
    fill(memory, 12 * PAGE, advice);
    advise(memory + 4 * PAGE, 4 * PAGE, advice);
    if (!has_flag(memory + 4 * PAGE, flag)) skip("the kernel does not keep this advice");
    be_dumped();
    CHECK(has_flag(memory + 4 * PAGE, flag) && !has_flag(memory, flag));
    CHECK(!has_flag(memory + 8 * PAGE, flag));
    check_filled(memory, 12 * PAGE, advice);
}

SCENARIO(advised_sequential) { advised(MADV_SEQUENTIAL, "sr"); }
SCENARIO(advised_random) { advised(MADV_RANDOM, "rr"); }
SCENARIO(advised_dontfork) { advised(MADV_DONTFORK, "dc"); }
SCENARIO(advised_dontdump) { advised(MADV_DONTDUMP, "dd"); }
SCENARIO(advised_mergeable) { advised(MADV_MERGEABLE, "mg"); }
SCENARIO(advised_hugepage) { advised(MADV_HUGEPAGE, "hg"); }
SCENARIO(advised_nohugepage) { advised(MADV_NOHUGEPAGE, "nh"); }
SCENARIO(advised_wipeonfork) { advised(MADV_WIPEONFORK, "wf"); }

SCENARIO(advised_everything_at_once) {
    char *memory = map_private(4);
    fill(memory, 4 * PAGE, 13);
    int all[] = {MADV_RANDOM, MADV_DONTFORK, MADV_DONTDUMP, MADV_MERGEABLE, MADV_NOHUGEPAGE};
    const char *flags[] = {"rr", "dc", "dd", "mg", "nh"};
    for (int i = 0; i < 5; i++) advise(memory, 4 * PAGE, all[i]);
    TRY(mlock(memory, 4 * PAGE));
    be_dumped();
    for (int i = 0; i < 5; i++) CHECK(has_flag(memory, flags[i]));
    CHECK(has_flag(memory, "lo"));
    check_filled(memory, 4 * PAGE, 13);
}

/* Guard pages. */

SCENARIO(guard_pages) {
    char *memory = map_private(16);
    fill(memory, 16 * PAGE, 14);
    advise(memory + 4 * PAGE, 3 * PAGE, MADV_GUARD_INSTALL);
    advise(memory + 15 * PAGE, PAGE, MADV_GUARD_INSTALL);
    be_dumped();
    char *expected = map_private(16);
    fill(expected, 16 * PAGE, 14);
    for (int page = 0; page < 16; page++) {
        bool guarded = (page >= 4 && page < 7) || page == 15;
        CHECK(read_faults(memory + page * PAGE) == guarded);
        if (!guarded) CHECK(!memcmp(memory + page * PAGE, expected + page * PAGE, PAGE));
    }
}

SCENARIO(guard_pages_in_untouched_memory) {
    char *memory = map_private(1000);
    for (int page = 0; page < 1000; page += 10) advise(memory + page * PAGE, PAGE, MADV_GUARD_INSTALL);
    be_dumped();
    for (int page = 0; page < 1000; page++)
        CHECK(read_faults(memory + page * PAGE) == (page % 10 == 0));
}

static char *inherited_guard;

static void check_inherited_guard(void) {
    is_set_up();
    wait_to_go();
    CHECK(read_faults(inherited_guard) && !read_faults(inherited_guard + PAGE));
    check_filled(inherited_guard + PAGE, PAGE, 15);
}

SCENARIO(guard_pages_of_a_child) {
    inherited_guard = map_private(2);
    fill(inherited_guard + PAGE, PAGE, 15);
    advise(inherited_guard, PAGE, MADV_GUARD_INSTALL);
    pid_t child = child_set_up(check_inherited_guard);
    be_dumped();
    CHECK(read_faults(inherited_guard));
    reap_child(child);
}

/* Huge pages that the kernel gives by itself. */

enum { HUGE = 2 << 20 };

/* Two huge pages, aligned. */
static char *map_huge(void) {
    char *memory = map_private(3 * HUGE / PAGE);
    memory = (char *)(((uintptr_t)memory + HUGE - 1) & ~(uintptr_t)(HUGE - 1));
    advise(memory, 2 * HUGE, MADV_HUGEPAGE);
    return memory;
}

SCENARIO(transparent_huge_pages) {
    char *memory = map_huge();
    fill(memory, 2 * HUGE, 16);
    be_dumped();
    CHECK(has_flag(memory, "hg"));
    check_filled(memory, 2 * HUGE, 16);
}

SCENARIO(a_huge_page_with_a_hole) {
    char *memory = map_huge();
    fill(memory, 2 * HUGE, 17);
    TRY(munmap(memory + 100 * PAGE, 10 * PAGE));
    TRY(mprotect(memory + 300 * PAGE, PAGE, PROT_NONE));
    memset(memory + 400 * PAGE, 0, PAGE);
    be_dumped();
    CHECK(maps_line(memory + 100 * PAGE)[0] == 0);
    check_access(memory + 300 * PAGE, "---p");
    check_zero(memory + 400 * PAGE, PAGE);
    TRY(mprotect(memory + 300 * PAGE, PAGE, PROT_READ));
    check_filled(memory, 100 * PAGE, 17);
    char *expected = map_private(2 * HUGE / PAGE);
    fill(expected, 2 * HUGE, 17);
    CHECK(!memcmp(memory + 110 * PAGE, expected + 110 * PAGE, 290 * PAGE));
    CHECK(!memcmp(memory + 401 * PAGE, expected + 401 * PAGE, 2 * HUGE - 401 * PAGE));
}

static char *halved;

static void change_half_of_a_huge_page(void) {
    fill(halved, HUGE / 2, 19);
    is_set_up();
    wait_to_go();
    check_filled(halved, HUGE / 2, 19);
    char *expected = map_private(HUGE / PAGE);
    fill(expected, HUGE, 18);
    CHECK(!memcmp(halved + HUGE / 2, expected + HUGE / 2, HUGE / 2));
}

SCENARIO(a_huge_page_shared_with_a_child) {
    halved = map_huge();
    fill(halved, HUGE, 18);
    pid_t child = child_set_up(change_half_of_a_huge_page);
    be_dumped();
    check_filled(halved, HUGE, 18);
    reap_child(child);
}

SCENARIO(huge_pages_disabled) {
    TRY(prctl(PR_SET_THP_DISABLE, 1, 0, 0, 0));
    char *memory = map_private(4);
    fill(memory, 4 * PAGE, 20);
    be_dumped();
    CHECK(TRY(prctl(PR_GET_THP_DISABLE, 0, 0, 0, 0)) == 1);
    check_filled(memory, 4 * PAGE, 20);
}

/* Kinds of memory that are special. */

SCENARIO(droppable_memory) {
    int access = PROT_READ | PROT_WRITE;
    char *memory = mmap(NULL, 4 * PAGE, access, MAP_DROPPABLE | MAP_ANONYMOUS, -1, 0);
    if (memory == MAP_FAILED) skip("no droppable memory before Linux 6.11");
    fill(memory, 4 * PAGE, 21);
    be_dumped();
    CHECK(has_flag(memory, "dp"));
    /* Its content may be gone at any time. */
    fill(memory, 4 * PAGE, 22);
    check_filled(memory, 4 * PAGE, 22);
}

SCENARIO(sealed_memory) {
    char *memory = map_private(2);
    if (syscall(SYS_mseal, memory, PAGE, 0)) skip("no mseal before Linux 6.10");
    be_dumped();
    CHECK(munmap(memory, PAGE) == -1 && errno == EPERM);
}

SCENARIO(the_vdso) {
    unsigned long vdso = getauxval(AT_SYSINFO_EHDR);
    char line[256];
    snprintf(line, sizeof(line), "%s", maps_line((void *)vdso));
    struct timespec before, after;
    TRY(clock_gettime(CLOCK_MONOTONIC, &before));
    be_dumped();
    CHECK(!memcmp((void *)vdso, "\177ELF", 4));
    CHECK(strstr(maps_line((void *)vdso), "[vdso]") && strstr(line, "[vdso]"));
    TRY(clock_gettime(CLOCK_MONOTONIC, &after));
    CHECK(after.tv_sec > before.tv_sec || after.tv_nsec > before.tv_nsec);
    unsigned cpu;
    TRY(getcpu(&cpu, NULL));
}

SCENARIO(many_mappings) {
    /* Every second page may not be read, so that no two are one mapping. */
    enum { MANY = 60000 };
    char *memory = map_private(MANY);
    for (int page = 0; page < MANY; page++) {
        if (page % 100 == 0) fill(memory + (size_t)page * PAGE, PAGE, page);
        if (page % 2) TRY(mprotect(memory + (size_t)page * PAGE, PAGE, PROT_NONE));
    }
    be_dumped();
    for (int page = 0; page < MANY; page += 100)
        check_filled(memory + (size_t)page * PAGE, PAGE, page);
    check_access(memory + PAGE, "---p");
    check_access(memory + (MANY - 2) * (size_t)PAGE, "rw-p");
    CHECK(read_faults(memory + (MANY - 1) * (size_t)PAGE));
}

/* What a child has of its parent. */

static char *heirloom;

static void change_the_heirloom(void) {
    fill(heirloom + 2 * PAGE, 2 * PAGE, 24);
    TRY(mprotect(heirloom + 6 * PAGE, PAGE, PROT_NONE));
    TRY(munmap(heirloom + 7 * PAGE, PAGE));
    is_set_up();
    wait_to_go();
    check_filled(heirloom, 2 * PAGE, 23);
    check_filled(heirloom + 2 * PAGE, 2 * PAGE, 24);
    check_access(heirloom + 6 * PAGE, "---p");
    CHECK(maps_line(heirloom + 7 * PAGE)[0] == 0);
}

SCENARIO(a_child_with_other_borders) {
    heirloom = map_private(8);
    fill(heirloom, 8 * PAGE, 23);
    pid_t child = child_set_up(change_the_heirloom);
    be_dumped();
    check_filled(heirloom, 8 * PAGE, 23);
    reap_child(child);
}

static void give_the_heirloom_back(void) {
    TRY(madvise(heirloom + PAGE, 2 * PAGE, MADV_DONTNEED));
    is_set_up();
    wait_to_go();
    check_zero(heirloom + PAGE, 2 * PAGE);
    check_filled(heirloom, PAGE, 25);
}

SCENARIO(a_child_that_gave_pages_back) {
    heirloom = map_private(4);
    fill(heirloom, 4 * PAGE, 25);
    pid_t child = child_set_up(give_the_heirloom_back);
    be_dumped();
    check_filled(heirloom, 4 * PAGE, 25);
    reap_child(child);
}

static void lack_the_heirloom(void) {
    is_set_up();
    wait_to_go();
    CHECK(maps_line(heirloom)[0] == 0);
    check_zero(heirloom + 4 * PAGE, 4 * PAGE);
    CHECK(has_flag(heirloom + 4 * PAGE, "wf"));
}

SCENARIO(a_child_without_what_was_kept_back) {
    heirloom = map_private(8);
    fill(heirloom, 8 * PAGE, 26);
    advise(heirloom, 4 * PAGE, MADV_DONTFORK);
    advise(heirloom + 4 * PAGE, 4 * PAGE, MADV_WIPEONFORK);
    pid_t child = child_set_up(lack_the_heirloom);
    be_dumped();
    check_filled(heirloom, 8 * PAGE, 26);
    reap_child(child);
}
