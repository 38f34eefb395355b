/* Memory with a file behind it, and memory that several tasks share. */
#include "memory.h"

#include <linux/aio_abi.h>
#include <linux/io_uring.h>
#include <linux/perf_event.h>
#include <linux/userfaultfd.h>
#include <sys/ioctl.h>
#include <sys/shm.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <sys/uio.h>
#include <sys/wait.h>

#ifndef F_SEAL_FUTURE_WRITE
#define F_SEAL_FUTURE_WRITE 0x10
#endif
#ifndef F_SEAL_EXEC
#define F_SEAL_EXEC 0x20
#endif
#ifndef MFD_NOEXEC_SEAL
#define MFD_NOEXEC_SEAL 8U
#endif

enum { RW = PROT_READ | PROT_WRITE, HUGE = 2 << 20 };

/* Files. */

SCENARIO(a_file_mapped_privately) {
    int fd = file_filled("file", 8, 1);
    char *memory = TRY(mmap(NULL, 8 * PAGE, RW, MAP_PRIVATE, fd, 0));
    fill(memory + 2 * PAGE, 2 * PAGE, 2);
    close(fd);
    be_dumped();
    check_filled(memory, 2 * PAGE, 1);
    check_filled(memory + 2 * PAGE, 2 * PAGE, 2);
    CHECK(strstr(maps_line(memory), "/file\n"));
}

SCENARIO(a_file_mapped_read_only_with_pages_of_its_own) {
    int fd = file_filled("file", 4, 3);
    char *memory = TRY(mmap(NULL, 4 * PAGE, RW, MAP_PRIVATE, fd, 0));
    close(fd);
    fill(memory + PAGE, PAGE, 4);
    TRY(mprotect(memory, 4 * PAGE, PROT_READ));
    be_dumped();
    check_access(memory, "r--p");
    check_filled(memory, PAGE, 3);
    check_filled(memory + PAGE, PAGE, 4);
}

SCENARIO(a_file_mapped_shared) {
    int fd = file_filled("file", 4, 5);
    char *memory = TRY(mmap(NULL, 4 * PAGE, RW, MAP_SHARED, fd, 0));
    be_dumped();
    check_access(memory, "rw-s");
    memory[0] = 77;
    char byte;
    CHECK(pread(fd, &byte, 1, 0) == 1 && byte == 77);
}

SCENARIO(a_file_mapped_shared_read_only) {
    close(file_filled("file", 4, 6));
    int fd = TRY(open("file", O_RDONLY));
    char *memory = TRY(mmap(NULL, 4 * PAGE, PROT_READ, MAP_SHARED, fd, 0));
    close(fd);
    be_dumped();
    check_access(memory, "r--s");
    check_filled(memory, 4 * PAGE, 6);
    /* It was open for reading only: it cannot become writable. */
    CHECK(mprotect(memory, PAGE, RW) == -1 && errno == EACCES);
}

SCENARIO(a_file_mapped_shared_that_may_become_writable) {
    int fd = file_filled("file", 4, 7);
    char *memory = TRY(mmap(NULL, 4 * PAGE, PROT_READ, MAP_SHARED, fd, 0));
    close(fd);
    be_dumped();
    TRY(mprotect(memory, PAGE, RW));
    memory[1] = 5;
}

SCENARIO(a_part_of_a_file) {
    int fd = file_filled("file", 10, 8);
    CHECK(write(fd, "tail", 4) == 4);
    char *memory = TRY(mmap(NULL, 4 * PAGE, RW, MAP_PRIVATE, fd, 7 * PAGE));
    close(fd);
    be_dumped();
    char *expected = map_private(10);
    fill(expected, 10 * PAGE, 8);
    CHECK(!memcmp(memory, expected + 7 * PAGE, 3 * PAGE));
    CHECK(!memcmp(memory + 3 * PAGE, "tail\0\0\0", 8));
}

SCENARIO(a_mapping_longer_than_its_file) {
    int fd = file_filled("file", 2, 9);
    char *memory = TRY(mmap(NULL, 6 * PAGE, RW, MAP_PRIVATE, fd, 0));
    fill(memory + PAGE, PAGE, 10);
    be_dumped();
    check_filled(memory, PAGE, 9);
    check_filled(memory + PAGE, PAGE, 10);
    CHECK(read_faults(memory + 3 * PAGE));
    TRY(ftruncate(fd, 6 * PAGE));
    CHECK(!read_faults(memory + 3 * PAGE));
}

SCENARIO(a_mapping_of_a_file_cut_short) {
    int fd = file_filled("file", 6, 11);
    char *memory = TRY(mmap(NULL, 6 * PAGE, RW, MAP_PRIVATE, fd, 0));
    fill(memory, 6 * PAGE, 12);
    TRY(ftruncate(fd, PAGE));
    be_dumped();
    check_filled(memory, PAGE, 12);
    CHECK(read_faults(memory + 2 * PAGE));
}

SCENARIO(a_deleted_file_mapped_privately) {
    int fd = file_filled("file", 4, 13);
    char *memory = TRY(mmap(NULL, 4 * PAGE, RW, MAP_PRIVATE, fd, 0));
    fill(memory + PAGE, PAGE, 14);
    close(fd);
    TRY(unlink("file"));
    be_dumped();
    check_filled(memory, PAGE, 13);
    check_filled(memory + PAGE, PAGE, 14);
    CHECK(access("file", F_OK) == -1);
}

static char *common;

static void answer_in_common(void) {
    is_set_up();
    while (*(volatile char *)common != 'q') usleep(1000);
    common[1] = 'a';
}

/* Whether both see what the other writes; the first bytes are used for it. */
static void check_common(pid_t child) {
    common[0] = 'q';
    reap_child(child);
    CHECK(common[1] == 'a');
}

SCENARIO(a_deleted_file_mapped_shared_by_two) {
    int fd = file_filled("file", 4, 15);
    common = TRY(mmap(NULL, 4 * PAGE, RW, MAP_SHARED, fd, 0));
    close(fd);
    TRY(unlink("file"));
    pid_t child = child_set_up(answer_in_common);
    be_dumped();
    char *expected = map_private(4);
    fill(expected, 4 * PAGE, 15);
    CHECK(!memcmp(common + 8, expected + 8, 4 * PAGE - 8));
    check_common(child);
}

SCENARIO(a_deleted_file_mapped_and_open) {
    int fd = file_filled("file", 4, 16);
    char *memory = TRY(mmap(NULL, 4 * PAGE, RW, MAP_SHARED, fd, 0));
    TRY(unlink("file"));
    TRY(lseek(fd, 5, SEEK_SET));
    be_dumped();
    memory[PAGE] = 99;
    char byte;
    CHECK(pread(fd, &byte, 1, PAGE) == 1 && byte == 99);
    CHECK(lseek(fd, 0, SEEK_CUR) == 5);
}

SCENARIO(a_file_in_memory_mapped) {
    /* Not nameless shared memory, but a file on the same kind of file system. */
    char name[64];
    snprintf(name, sizeof(name), "/dev/shm/dedump-scenario-%d", getpid());
    int fd = file_filled(name, 4, 17);
    char *memory = TRY(mmap(NULL, 4 * PAGE, RW, MAP_SHARED, fd, 0));
    char *own = TRY(mmap(NULL, 4 * PAGE, RW, MAP_PRIVATE, fd, 0));
    fill(own, PAGE, 18);
    close(fd);
    be_dumped();
    check_filled(memory, 4 * PAGE, 17);
    check_filled(own, PAGE, 18);
    TRY(unlink(name));
}

static const char of_the_program[3 * PAGE] __attribute__((aligned(PAGE))) = {1};

SCENARIO(a_program_without_one_of_its_pages) {
    TRY(munmap((void *)(of_the_program + PAGE), PAGE));
    be_dumped();
    CHECK(maps_line(of_the_program + PAGE)[0] == 0);
    CHECK(of_the_program[0] == 1 && of_the_program[2 * PAGE] == 0);
}

/* Shared memory without a name. */

SCENARIO(shared_memory_of_one) {
    char *memory = map_shared(8);
    fill(memory, 4 * PAGE, 19);
    be_dumped();
    check_filled(memory, 4 * PAGE, 19);
    check_zero(memory + 4 * PAGE, 4 * PAGE);
    check_access(memory, "rw-s");
}

SCENARIO(shared_memory_of_two) {
    common = map_shared(8);
    fill(common + PAGE, 7 * PAGE, 20);
    pid_t child = child_set_up(answer_in_common);
    be_dumped();
    check_filled(common + PAGE, 7 * PAGE, 20);
    check_common(child);
}

static void answer_elsewhere(void) {
    char *place = map_private(8);
    common = TRY(mremap(common, 4 * PAGE, 4 * PAGE, MREMAP_MAYMOVE | MREMAP_FIXED, place));
    answer_in_common();
}

SCENARIO(shared_memory_at_different_places) {
    common = map_shared(4);
    pid_t child = child_set_up(answer_elsewhere);
    be_dumped();
    check_common(child);
}

SCENARIO(shared_memory_mapped_twice) {
    char *memory = map_shared(4);
    fill(memory, 4 * PAGE, 21);
    /* A second view, of its last two pages. */
    char *view = TRY(mremap(memory + 2 * PAGE, 0, 2 * PAGE, MREMAP_MAYMOVE));
    be_dumped();
    check_filled(memory, 4 * PAGE, 21);
    CHECK(!memcmp(view, memory + 2 * PAGE, 2 * PAGE));
    memory[2 * PAGE] = 88;
    CHECK(view[0] == 88);
}

static void only_read_in_common(void) {
    TRY(mprotect(common, 2 * PAGE, PROT_READ));
    is_set_up();
    wait_to_go();
    check_access(common, "r--s");
    check_filled(common, 2 * PAGE, 22);
    CHECK(write_faults(common));
}

SCENARIO(shared_memory_one_may_only_read) {
    common = map_shared(2);
    fill(common, 2 * PAGE, 22);
    pid_t child = child_set_up(only_read_in_common);
    be_dumped();
    check_access(common, "rw-s");
    reap_child(child);
}

SCENARIO(shared_memory_without_access) {
    char *memory = map_shared(4);
    fill(memory, 4 * PAGE, 23);
    TRY(mprotect(memory, 4 * PAGE, PROT_NONE));
    be_dumped();
    check_access(memory, "---s");
    TRY(mprotect(memory, 4 * PAGE, PROT_READ));
    check_filled(memory, 4 * PAGE, 23);
}

SCENARIO(shared_memory_with_holes) {
    size_t pages = 1 << 18;
    char *memory = map_shared(pages);
    fill(memory + 1000 * PAGE, PAGE, 24);
    fill(memory + (pages - 1) * PAGE, PAGE, 25);
    TRY(madvise(memory + 2000 * PAGE, PAGE, MADV_REMOVE));
    be_dumped();
    check_filled(memory + 1000 * PAGE, PAGE, 24);
    check_filled(memory + (pages - 1) * PAGE, PAGE, 25);
    CHECK(smaps_kib(memory, "Rss") < 4096);
    check_zero(memory, PAGE);
}

SCENARIO(shared_memory_of_zeros) {
    char *memory = map_shared(8192);
    memset(memory, 0, 8192 * PAGE);
    memory[5000 * PAGE] = 5;
    be_dumped();
    CHECK(memory[5000 * PAGE] == 5);
    memory[5000 * PAGE] = 0;
    check_zero(memory, 8192 * PAGE);
}

SCENARIO(a_deleted_file_of_zeros) {
    int fd = TRY(open("file", O_RDWR | O_CREAT | O_TRUNC, 0600));
    static char zeros[200 * PAGE];
    CHECK(write(fd, zeros, sizeof(zeros)) == sizeof(zeros));
    CHECK(pwrite(fd, "middle", 6, 100 * PAGE + 5) == 6);
    TRY(ftruncate(fd, 1 << 30));
    TRY(unlink("file"));
    be_dumped();
    struct stat status;
    TRY(fstat(fd, &status));
    CHECK(status.st_size == 1 << 30);
    char text[7] = {0};
    CHECK(pread(fd, text, 6, 100 * PAGE + 5) == 6 && !strcmp(text, "middle"));
    CHECK(pread(fd, zeros, sizeof(zeros), 0) == sizeof(zeros));
    memset(zeros + 100 * PAGE + 5, 0, 6);
    check_zero(zeros, sizeof(zeros));
}

SCENARIO(shared_memory_that_is_locked) {
    char *memory = map_shared(4);
    fill(memory, 4 * PAGE, 26);
    TRY(mlock(memory, 4 * PAGE));
    be_dumped();
    CHECK(has_flag(memory, "lo"));
    check_filled(memory, 4 * PAGE, 26);
}

SCENARIO(shared_memory_with_advice) {
    char *memory = map_shared(4);
    fill(memory, 4 * PAGE, 27);
    advise(memory, 4 * PAGE, MADV_DONTFORK);
    advise(memory, 4 * PAGE, MADV_RANDOM);
    be_dumped();
    CHECK(has_flag(memory, "dc") && has_flag(memory, "rr"));
    check_filled(memory, 4 * PAGE, 27);
}

SCENARIO(dev_zero_shared) {
    int fd = TRY(open("/dev/zero", O_RDWR));
    common = TRY(mmap(NULL, 2 * PAGE, RW, MAP_SHARED, fd, 0));
    close(fd);
    fill(common + PAGE, PAGE, 28);
    pid_t child = child_set_up(answer_in_common);
    be_dumped();
    check_filled(common + PAGE, PAGE, 28);
    check_common(child);
}

SCENARIO(dev_zero_private) {
    int fd = TRY(open("/dev/zero", O_RDWR));
    char *memory = TRY(mmap(NULL, 4 * PAGE, RW, MAP_PRIVATE, fd, 0));
    close(fd);
    fill(memory + PAGE, PAGE, 29);
    be_dumped();
    check_zero(memory, PAGE);
    check_filled(memory + PAGE, PAGE, 29);
    check_zero(memory + 2 * PAGE, 2 * PAGE);
}

/* memfd. */

static int memfd(const char *name, unsigned flags, size_t pages, uint64_t seed) {
    int fd = TRY(memfd_create(name, flags));
    TRY(ftruncate(fd, pages * PAGE));
    char *memory = TRY(mmap(NULL, pages * PAGE, RW, MAP_SHARED, fd, 0));
    fill(memory, pages * PAGE, seed);
    TRY(munmap(memory, pages * PAGE));
    return fd;
}

static void check_memfd(int fd, size_t pages, uint64_t seed) {
    char *memory = TRY(mmap(NULL, pages * PAGE, PROT_READ, MAP_PRIVATE, fd, 0));
    check_filled(memory, pages * PAGE, seed);
    TRY(munmap(memory, pages * PAGE));
}

SCENARIO(memfd_open_only) {
    int fd = memfd("a name", 0, 4, 30);
    TRY(lseek(fd, 123, SEEK_SET));
    be_dumped();
    check_memfd(fd, 4, 30);
    CHECK(lseek(fd, 0, SEEK_CUR) == 123);
    char path[64], link[256];
    snprintf(path, sizeof(path), "/proc/self/fd/%d", fd);
    link[TRY(readlink(path, link, sizeof(link) - 1))] = 0;
    CHECK(!strncmp(link, "/memfd:a name", 13));
}

SCENARIO(memfd_mapped_only) {
    int fd = memfd("mapped", 0, 4, 31);
    char *memory = TRY(mmap(NULL, 4 * PAGE, RW, MAP_SHARED, fd, 0));
    close(fd);
    be_dumped();
    check_filled(memory, 4 * PAGE, 31);
}

SCENARIO(memfd_mapped_privately) {
    int fd = memfd("private", 0, 4, 32);
    char *memory = TRY(mmap(NULL, 4 * PAGE, RW, MAP_PRIVATE, fd, 0));
    fill(memory + PAGE, PAGE, 33);
    be_dumped();
    check_filled(memory, PAGE, 32);
    check_filled(memory + PAGE, PAGE, 33);
    check_memfd(fd, 4, 32);
}

SCENARIO(memfd_open_and_mapped_by_two) {
    int fd = memfd("two", 0, 4, 34);
    common = TRY(mmap(NULL, 4 * PAGE, RW, MAP_SHARED, fd, 0));
    pid_t child = child_set_up(answer_in_common);
    be_dumped();
    check_common(child);
    char bytes[2];
    CHECK(pread(fd, bytes, 2, 0) == 2 && bytes[0] == 'q' && bytes[1] == 'a');
}

static void sealed_memfd(int seals) {
    int fd = memfd("sealed", MFD_ALLOW_SEALING, 2, 35);
    if (seals) TRY(fcntl(fd, F_ADD_SEALS, seals));
    int before = TRY(fcntl(fd, F_GET_SEALS));
    be_dumped();
    check_memfd(fd, 2, 35);
    CHECK(fcntl(fd, F_GET_SEALS) == before);
    CHECK((ftruncate(fd, PAGE) == -1) == !!(seals & F_SEAL_SHRINK));
    CHECK((ftruncate(fd, 4 * PAGE) == -1) == !!(seals & F_SEAL_GROW));
    CHECK((pwrite(fd, "x", 1, 0) == -1) == !!(seals & (F_SEAL_WRITE | F_SEAL_FUTURE_WRITE)));
}

SCENARIO(memfd_that_may_be_sealed) { sealed_memfd(0); }
SCENARIO(memfd_sealed_against_shrinking) { sealed_memfd(F_SEAL_SHRINK); }
SCENARIO(memfd_sealed_against_growing) { sealed_memfd(F_SEAL_GROW); }
SCENARIO(memfd_sealed_against_writing) { sealed_memfd(F_SEAL_WRITE); }
SCENARIO(memfd_sealed_for_good) { sealed_memfd(F_SEAL_SEAL | F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_WRITE); }

SCENARIO(memfd_sealed_against_future_writing) {
    int fd = memfd("future", MFD_ALLOW_SEALING, 2, 36);
    char *memory = TRY(mmap(NULL, 2 * PAGE, RW, MAP_SHARED, fd, 0));
    TRY(fcntl(fd, F_ADD_SEALS, F_SEAL_FUTURE_WRITE));
    be_dumped();
    check_filled(memory, 2 * PAGE, 36);
    memory[0] = 3;
    CHECK(pwrite(fd, "x", 1, 0) == -1 && errno == EPERM);
    CHECK(mmap(NULL, PAGE, RW, MAP_SHARED, fd, 0) == MAP_FAILED);
}

SCENARIO(memfd_with_holes) {
    int fd = TRY(memfd_create("holes", 0));
    TRY(ftruncate(fd, 1L << 30));
    CHECK(pwrite(fd, "first", 5, 0) == 5);
    CHECK(pwrite(fd, "last", 4, (1L << 30) - 4) == 4);
    be_dumped();
    struct stat status;
    TRY(fstat(fd, &status));
    CHECK(status.st_size == 1L << 30 && status.st_blocks < 1024);
    char text[6] = {0};
    CHECK(pread(fd, text, 5, 0) == 5 && !strcmp(text, "first"));
    CHECK(pread(fd, text, 5, (1L << 30) - 4) == 4 && !memcmp(text, "last", 4));
}

SCENARIO(memfd_that_is_empty) {
    int fd = TRY(memfd_create("empty", 0));
    be_dumped();
    struct stat status;
    TRY(fstat(fd, &status));
    CHECK(status.st_size == 0);
    TRY(ftruncate(fd, PAGE));
}

SCENARIO(memfd_of_an_odd_size) {
    int fd = TRY(memfd_create("odd", 0));
    char bytes[5001];
    memset(bytes, 'o', sizeof(bytes));
    CHECK(write(fd, bytes, sizeof(bytes)) == sizeof(bytes));
    be_dumped();
    struct stat status;
    TRY(fstat(fd, &status));
    CHECK(status.st_size == 5001);
    char found[5002];
    CHECK(pread(fd, found, 5002, 0) == 5001 && !memcmp(found, bytes, 5001));
}

SCENARIO(memfd_of_another_owner) {
    int fd = memfd("owner", 0, 1, 37);
    TRY(fchown(fd, 1234, 5678));
    be_dumped();
    struct stat status;
    TRY(fstat(fd, &status));
    CHECK(status.st_uid == 1234 && status.st_gid == 5678);
    check_memfd(fd, 1, 37);
}

SCENARIO(memfd_open_read_only) {
    int fd = memfd("read", 0, 1, 38);
    char path[64];
    snprintf(path, sizeof(path), "/proc/self/fd/%d", fd);
    int reader = TRY(open(path, O_RDONLY));
    close(fd);
    be_dumped();
    check_memfd(reader, 1, 38);
    CHECK(write(reader, "x", 1) == -1 && errno == EBADF);
    CHECK((fcntl(reader, F_GETFL) & O_ACCMODE) == O_RDONLY);
}

/* Huge pages asked for. The test sees to it that the system has some. */

static void *map_hugetlb(int sharing) {
    int flags = sharing | MAP_ANONYMOUS | MAP_HUGETLB;
    void *memory = mmap(NULL, 2 * HUGE, RW, flags, -1, 0);
    if (memory == MAP_FAILED) skip("no huge pages");
    return memory;
}

SCENARIO(hugetlb_private) {
    char *memory = map_hugetlb(MAP_PRIVATE);
    fill(memory, HUGE, 39);
    be_dumped();
    CHECK(has_flag(memory, "ht"));
    check_filled(memory, HUGE, 39);
    CHECK(memory[HUGE] == 0);
}

static char *huge_heirloom;

static void change_a_huge_page(void) {
    fill(huge_heirloom, PAGE, 41);
    is_set_up();
    wait_to_go();
    check_filled(huge_heirloom, PAGE, 41);
    CHECK(has_flag(huge_heirloom, "ht"));
}

SCENARIO(hugetlb_private_of_a_child) {
    huge_heirloom = map_hugetlb(MAP_PRIVATE);
    fill(huge_heirloom, HUGE, 40);
    pid_t child = child_set_up(change_a_huge_page);
    be_dumped();
    check_filled(huge_heirloom, HUGE, 40);
    reap_child(child);
}

SCENARIO(hugetlb_shared) {
    common = map_hugetlb(MAP_SHARED);
    fill(common + PAGE, HUGE - PAGE, 42);
    pid_t child = child_set_up(answer_in_common);
    be_dumped();
    CHECK(has_flag(common, "ht"));
    check_filled(common + PAGE, HUGE - PAGE, 42);
    check_common(child);
}

SCENARIO(hugetlb_memfd) {
    int fd = memfd_create("huge", MFD_HUGETLB);
    if (fd < 0) skip("no huge pages");
    TRY(ftruncate(fd, 2 * HUGE));
    char *memory = TRY(mmap(NULL, 2 * HUGE, RW, MAP_SHARED, fd, 0));
    fill(memory, HUGE, 43);
    be_dumped();
    CHECK(has_flag(memory, "ht"));
    check_filled(memory, HUGE, 43);
    struct stat status;
    TRY(fstat(fd, &status));
    CHECK(status.st_size == 2 * HUGE && status.st_blksize == HUGE);
}

/* Asynchronous I/O. */

static aio_context_t ring(unsigned requests) {
    aio_context_t context = 0;
    TRY(syscall(SYS_io_setup, requests, &context));
    return context;
}

static void submit(aio_context_t context, int fd, char *buffer, uint64_t mark) {
    struct iocb request = {
        .aio_data = mark,
        .aio_lio_opcode = IOCB_CMD_PWRITE,
        .aio_fildes = fd,
        .aio_buf = (uintptr_t)buffer,
        .aio_nbytes = PAGE,
    }, *requests = &request;
    CHECK(syscall(SYS_io_submit, context, 1, &requests) == 1);
}

static uint64_t next_event(aio_context_t context) {
    struct io_event event;
    CHECK(syscall(SYS_io_getevents, context, 1, 1, &event, NULL) == 1);
    CHECK(event.res == PAGE);
    return event.data;
}

SCENARIO(a_ring_of_asynchronous_io) {
    int fd = file_filled("file", 1, 44);
    char *buffer = map_private(1);
    fill(buffer, PAGE, 45);
    aio_context_t context = ring(64);
    submit(context, fd, buffer, 1);
    CHECK(next_event(context) == 1);
    be_dumped();
    CHECK(strstr(maps_line((void *)context), "[aio]"));
    submit(context, fd, buffer, 2);
    CHECK(next_event(context) == 2);
    TRY(syscall(SYS_io_destroy, context));
}

SCENARIO(a_ring_with_events_nobody_took) {
    int fd = file_filled("file", 1, 46);
    char *buffer = map_private(1);
    aio_context_t context = ring(8);
    for (uint64_t mark = 1; mark <= 5; mark++) submit(context, fd, buffer, mark);
    CHECK(next_event(context) == 1);
    be_dumped();
    for (uint64_t mark = 2; mark <= 5; mark++) CHECK(next_event(context) == mark);
    submit(context, fd, buffer, 6);
    CHECK(next_event(context) == 6);
}

SCENARIO(two_rings_of_different_sizes) {
    aio_context_t small = ring(1), large = ring(5000);
    int fd = file_filled("file", 1, 47);
    be_dumped();
    char *buffer = map_private(1);
    submit(large, fd, buffer, 1);
    submit(small, fd, buffer, 2);
    CHECK(next_event(small) == 2 && next_event(large) == 1);
}

/* What cannot be dumped. */

SCENARIO(secret_memory) {
    int fd = syscall(SYS_memfd_secret, 0);
    if (fd < 0) skip("no memfd_secret");
    TRY(ftruncate(fd, PAGE));
    char *memory = mmap(NULL, PAGE, RW, MAP_SHARED, fd, 0);
    if (memory == MAP_FAILED) skip("no secret memory");
    memory[0] = 1;
    close(fd);
    be_dumped();
    CHECK(memory[0] == 1);
}

SCENARIO(secret_memory_open_only) {
    int fd = syscall(SYS_memfd_secret, 0);
    if (fd < 0) skip("no memfd_secret");
    be_dumped();
}

SCENARIO(io_uring_mapped) {
    struct io_uring_params parameters = {0};
    int fd = TRY(syscall(SYS_io_uring_setup, 4, &parameters));
    TRY(mmap(NULL, PAGE, RW, MAP_SHARED | MAP_POPULATE, fd, IORING_OFF_SQ_RING));
    close(fd);
    be_dumped();
}

static int userfaultfd(void) {
    int fd = syscall(SYS_userfaultfd, O_CLOEXEC | UFFD_USER_MODE_ONLY);
    if (fd < 0) skip("no userfaultfd");
    struct uffdio_api api = {.api = UFFD_API};
    TRY(ioctl(fd, UFFDIO_API, &api));
    return fd;
}

SCENARIO(userfaultfd_open) {
    userfaultfd();
    be_dumped();
}

SCENARIO(userfaultfd_memory) {
    int fd = userfaultfd();
    char *memory = map_private(4);
    struct uffdio_register range = {
        .range = {(uintptr_t)memory, 4 * PAGE},
        .mode = UFFDIO_REGISTER_MODE_MISSING,
    };
    TRY(ioctl(fd, UFFDIO_REGISTER, &range));
    be_dumped();
}

SCENARIO(perf_event_mapped) {
    struct perf_event_attr attributes = {
        .type = PERF_TYPE_SOFTWARE,
        .size = sizeof(attributes),
        .config = PERF_COUNT_SW_CPU_CLOCK,
        .exclude_kernel = 1,
    };
    int fd = syscall(SYS_perf_event_open, &attributes, 0, -1, -1, 0);
    if (fd < 0) skip("no perf events");
    TRY(mmap(NULL, 2 * PAGE, RW, MAP_SHARED, fd, 0));
    close(fd);
    be_dumped();
}

SCENARIO(system_v_shared_memory) {
    int id = TRY(shmget(IPC_PRIVATE, 2 * PAGE, IPC_CREAT | 0600));
    char *memory = TRY(shmat(id, NULL, 0));
    TRY(shmctl(id, IPC_RMID, NULL));
    memory[0] = 1;
    be_dumped();
    CHECK(memory[0] == 1);
}
