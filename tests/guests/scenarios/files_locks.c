/* File locks and leases. */
#include "scenario.h"

#include <fcntl.h>
#include <signal.h>
#include <sys/file.h>
#include <sys/mman.h>
#include <sys/wait.h>

static int file;

static int new_file(const char *name) {
    int fd = TRY(open(name, O_RDWR | O_CREAT, 0600));
    TRY(ftruncate(fd, 1000));
    return fd;
}

static int set(int fd, int command, int type, off_t start, off_t length) {
    struct flock lock = {.l_type = type, .l_whence = SEEK_SET, .l_start = start, .l_len = length};
    return fcntl(fd, command, &lock);
}

/* In a process of its own, so that our locks are those of somebody else. */
static int found_type, found_start, found_length;
static const char *asked_name;
static off_t asked_start;

static void ask(void) {
    int fd = TRY(open(asked_name, O_RDWR));
    struct flock lock = {.l_type = F_WRLCK, .l_whence = SEEK_SET, .l_start = asked_start, .l_len = 1};
    TRY(fcntl(fd, F_GETLK, &lock));
    CHECK(lock.l_type == found_type);
    if (lock.l_type != F_UNLCK) CHECK(lock.l_start == found_start && lock.l_len == found_length);
}

static void expect(const char *name, off_t at, int type, int start, int length) {
    asked_name = name;
    asked_start = at;
    found_type = type;
    found_start = start;
    found_length = length;
    reap_child(in_child(ask));
}

SCENARIO(posix_locks_on_ranges) {
    file = new_file("file");
    TRY(set(file, F_SETLK, F_WRLCK, 10, 10));
    TRY(set(file, F_SETLK, F_RDLCK, 100, 50));
    TRY(set(file, F_SETLK, F_WRLCK, 500, 0));
    be_dumped();
    expect("file", 12, F_WRLCK, 10, 10);
    expect("file", 120, F_RDLCK, 100, 50);
    expect("file", 999999, F_WRLCK, 500, 0);
    expect("file", 30, F_UNLCK, 0, 0);
}

static void hold_a_range(void) {
    /* Through the descriptor that the parent has, too. */
    TRY(set(file, F_SETLK, F_WRLCK, 200, 10));
    dprintf(1, "child\n");
    wait_to_go();
    sleep(1000);
}

SCENARIO(posix_locks_of_parent_and_child) {
    file = new_file("file");
    TRY(set(file, F_SETLK, F_WRLCK, 0, 10));
    pid_t child = in_child(hold_a_range);
    while (!strstr(slurp("output"), "child")) usleep(1000);
    be_dumped();
    expect("file", 5, F_WRLCK, 0, 10);
    expect("file", 205, F_WRLCK, 200, 10);
    struct flock lock = {.l_type = F_WRLCK, .l_whence = SEEK_SET, .l_start = 200, .l_len = 1};
    TRY(fcntl(file, F_GETLK, &lock));
    CHECK(lock.l_pid == child);
    TRY(kill(child, SIGKILL));
    TRY(waitpid(child, NULL, 0));
    expect("file", 205, F_UNLCK, 0, 0);
}

static void wait_for_a_lock(void) {
    TRY(set(file, F_SETLKW, F_WRLCK, 0, 10));
}

SCENARIO(posix_lock_that_a_child_waits_for) {
    file = new_file("file");
    TRY(set(file, F_SETLK, F_WRLCK, 0, 10));
    pid_t child = in_child(wait_for_a_lock);
    usleep(20000);
    be_dumped();
    CHECK(waitpid(child, NULL, WNOHANG) == 0);
    TRY(set(file, F_SETLK, F_UNLCK, 0, 10));
    reap_child(child);
}

SCENARIO(locks_of_open_files) {
    file = new_file("file");
    int other = TRY(open("file", O_RDWR));
    TRY(set(file, F_OFD_SETLK, F_WRLCK, 10, 10));
    TRY(set(other, F_OFD_SETLK, F_RDLCK, 50, 10));
    int duplicate = TRY(dup(file));
    be_dumped();
    CHECK(set(other, F_OFD_SETLK, F_WRLCK, 15, 1) == -1 && errno == EAGAIN);
    CHECK(set(file, F_OFD_SETLK, F_WRLCK, 55, 1) == -1 && errno == EAGAIN);
    CHECK(set(file, F_OFD_SETLK, F_RDLCK, 55, 1) == 0);
    /* It belongs to the open file, whichever descriptor is closed. */
    close(file);
    CHECK(set(other, F_OFD_SETLK, F_WRLCK, 15, 1) == -1);
    close(duplicate);
    TRY(set(other, F_OFD_SETLK, F_WRLCK, 15, 1));
}

SCENARIO(flocks) {
    file = new_file("file");
    int shared = new_file("shared");
    TRY(flock(file, LOCK_EX));
    TRY(flock(shared, LOCK_SH));
    int other = TRY(open("file", O_RDONLY));
    int reader = TRY(open("shared", O_RDONLY));
    be_dumped();
    CHECK(flock(other, LOCK_SH | LOCK_NB) == -1 && errno == EWOULDBLOCK);
    TRY(flock(file, LOCK_UN));
    TRY(flock(other, LOCK_EX | LOCK_NB));
    TRY(flock(reader, LOCK_SH | LOCK_NB));
    CHECK(flock(reader, LOCK_EX | LOCK_NB) == -1 && errno == EWOULDBLOCK);
}

static void share_a_lock(void) {
    wait_to_go();
    /* The child's descriptor leads to the same open file, so that it gives up the lock. */
    TRY(flock(file, LOCK_UN));
}

SCENARIO(flock_of_parent_and_child) {
    file = new_file("file");
    TRY(flock(file, LOCK_EX));
    pid_t child = in_child(share_a_lock);
    int other = TRY(open("file", O_RDONLY));
    be_dumped();
    reap_child(child);
    TRY(flock(other, LOCK_EX | LOCK_NB));
}

static void wait_for_a_flock(void) {
    int fd = TRY(open("file", O_RDONLY));
    TRY(flock(fd, LOCK_EX));
}

SCENARIO(flock_that_a_child_waits_for) {
    file = new_file("file");
    TRY(flock(file, LOCK_EX));
    pid_t child = in_child(wait_for_a_flock);
    usleep(20000);
    be_dumped();
    CHECK(waitpid(child, NULL, WNOHANG) == 0);
    TRY(flock(file, LOCK_UN));
    reap_child(child);
}

SCENARIO(lock_on_a_deleted_file) {
    file = new_file("file");
    TRY(flock(file, LOCK_EX));
    char path[64];
    sprintf(path, "/proc/self/fd/%d", file);
    int other = TRY(open(path, O_RDONLY));
    TRY(unlink("file"));
    be_dumped();
    CHECK(flock(other, LOCK_SH | LOCK_NB) == -1 && errno == EWOULDBLOCK);
    TRY(flock(file, LOCK_UN));
    TRY(flock(other, LOCK_SH | LOCK_NB));
}

SCENARIO(leases) {
    close(new_file("read"));
    close(new_file("written"));
    int reading = TRY(open("read", O_RDONLY));
    int writing = TRY(open("written", O_RDWR));
    sigset_t io;
    sigemptyset(&io);
    sigaddset(&io, SIGIO);
    TRY(sigprocmask(SIG_BLOCK, &io, NULL));
    TRY(fcntl(reading, F_SETLEASE, F_RDLCK));
    TRY(fcntl(writing, F_SETLEASE, F_WRLCK));
    be_dumped();
    CHECK(fcntl(reading, F_GETLEASE) == F_RDLCK);
    CHECK(fcntl(writing, F_GETLEASE) == F_WRLCK);
    CHECK(open("written", O_RDONLY | O_NONBLOCK) == -1 && errno == EWOULDBLOCK);
    struct timespec patience = {10, 0};
    CHECK(sigtimedwait(&io, NULL, &patience) == SIGIO);
    TRY(fcntl(writing, F_SETLEASE, F_UNLCK));
    TRY(open("written", O_RDONLY | O_NONBLOCK));
}

SCENARIO(lease_that_is_being_broken) {
    close(new_file("file"));
    int writing = TRY(open("file", O_RDWR));
    sigset_t io;
    sigemptyset(&io);
    sigaddset(&io, SIGIO);
    TRY(sigprocmask(SIG_BLOCK, &io, NULL));
    TRY(fcntl(writing, F_SETLEASE, F_WRLCK));
    CHECK(open("file", O_RDONLY | O_NONBLOCK) == -1 && errno == EWOULDBLOCK);
    be_dumped();
    CHECK(fcntl(writing, F_GETLEASE) == F_RDLCK);
    TRY(fcntl(writing, F_SETLEASE, F_UNLCK));
    TRY(open("file", O_RDONLY | O_NONBLOCK));
}

SCENARIO(lock_without_leave) {
    file = new_file("file");
    TRY(flock(file, LOCK_EX));
    be_dumped();
    int other = TRY(open("file", O_RDONLY));
    CHECK(flock(other, LOCK_SH | LOCK_NB) == -1 && errno == EWOULDBLOCK);
}

SCENARIO(lock_of_a_child_without_leave) {
    file = new_file("file");
    pid_t child = in_child(hold_a_range);
    while (!strstr(slurp("output"), "child")) usleep(1000);
    be_dumped();
    struct flock lock = {.l_type = F_WRLCK, .l_whence = SEEK_SET, .l_start = 200, .l_len = 1};
    TRY(fcntl(file, F_GETLK, &lock));
    CHECK(lock.l_pid == child);
}

/* Nothing but the mapping holds the open file, and with it the lock. */
SCENARIO(flock_of_a_mapped_file_that_was_closed) {
    file = new_file("file");
    TRY(flock(file, LOCK_EX));
    CHECK(mmap(NULL, 1000, PROT_READ, MAP_SHARED, file, 0) != MAP_FAILED);
    close(file);
    int other = TRY(open("file", O_RDWR));
    CHECK(flock(other, LOCK_EX | LOCK_NB) == -1 && errno == EWOULDBLOCK);
    close(other);
    be_dumped();
    CHECK(access("file", R_OK) == 0);
}
