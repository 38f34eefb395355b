/* Watches on files. */
#include "scenario.h"

#include <fcntl.h>
#include <poll.h>
#include <stdint.h>
#include <sys/fanotify.h>
#include <sys/inotify.h>
#include <sys/stat.h>

/* Reads one event, and checks of which watch it is, and what it says. */
static void expect(int fd, int watch, uint32_t mask, const char *name) {
    static char buffer[4096];
    static ssize_t have, at;
    if (at >= have) {
        struct pollfd one = {fd, POLLIN, 0};
        CHECK(TRY(poll(&one, 1, 10000)) == 1);
        have = TRY(read(fd, buffer, sizeof(buffer)));
        at = 0;
    }
    struct inotify_event *event = (struct inotify_event *)(buffer + at);
    at += sizeof(*event) + event->len;
    CHECK(event->wd == watch);
    CHECK(event->mask == mask);
    CHECK(!strcmp(event->len ? event->name : "", name));
}

static void expect_nothing(int fd) {
    struct pollfd one = {fd, POLLIN, 0};
    CHECK(TRY(poll(&one, 1, 0)) == 0);
}

static void touch(const char *name) {
    int fd = TRY(open(name, O_WRONLY | O_CREAT, 0600));
    CHECK(write(fd, "x", 1) == 1);
    close(fd);
}

SCENARIO(inotify_on_files_and_folders) {
    int fd = TRY(inotify_init1(IN_NONBLOCK | IN_CLOEXEC));
    TRY(mkdir("dir", 0755));
    touch("file");
    int dir = TRY(inotify_add_watch(fd, "dir", IN_CREATE | IN_DELETE));
    int file = TRY(inotify_add_watch(fd, "file", IN_MODIFY));
    be_dumped();
    touch("dir/new");
    touch("file");
    TRY(unlink("dir/new"));
    expect(fd, dir, IN_CREATE, "new");
    expect(fd, file, IN_MODIFY, "");
    expect(fd, dir, IN_DELETE, "new");
    expect_nothing(fd);
    CHECK(fcntl(fd, F_GETFL) & O_NONBLOCK);
    CHECK(fcntl(fd, F_GETFD) == FD_CLOEXEC);
}

SCENARIO(inotify_whose_watches_have_gaps) {
    int fd = TRY(inotify_init1(0));
    int watches[10];
    for (int i = 0; i < 10; i++) {
        char name[16];
        sprintf(name, "file%d", i);
        touch(name);
        watches[i] = TRY(inotify_add_watch(fd, name, IN_MODIFY));
    }
    for (int i = 0; i < 10; i += 2) TRY(inotify_rm_watch(fd, watches[i]));
    /* That each of them was removed is an event of its own. */
    char buffer[4096];
    TRY(read(fd, buffer, sizeof(buffer)));
    be_dumped();
    touch("file0");
    touch("file7");
    expect(fd, watches[7], IN_MODIFY, "");
    touch("file3");
    expect(fd, watches[3], IN_MODIFY, "");
    expect_nothing(fd);
    TRY(inotify_rm_watch(fd, watches[5]));
}

SCENARIO(inotify_on_what_was_renamed) {
    int fd = TRY(inotify_init1(0));
    touch("before");
    int watch = TRY(inotify_add_watch(fd, "before", IN_MODIFY));
    TRY(rename("before", "after"));
    be_dumped();
    touch("after");
    expect(fd, watch, IN_MODIFY, "");
}

SCENARIO(inotify_on_memory) {
    char name[64];
    sprintf(name, "/dev/shm/dedump-%d", getpid());
    int fd = TRY(inotify_init1(0));
    touch(name);
    int watch = TRY(inotify_add_watch(fd, name, IN_MODIFY));
    be_dumped();
    touch(name);
    expect(fd, watch, IN_MODIFY, "");
    unlink(name);
}

SCENARIO(inotify_without_watches) {
    int fd = TRY(inotify_init1(0));
    be_dumped();
    touch("file");
    int watch = TRY(inotify_add_watch(fd, "file", IN_MODIFY));
    touch("file");
    expect(fd, watch, IN_MODIFY, "");
}

SCENARIO(inotify_on_a_deleted_file_that_is_open) {
    int fd = TRY(inotify_init1(0));
    touch("file");
    int file = TRY(open("file", O_RDWR));
    int watch = TRY(inotify_add_watch(fd, "file", IN_MODIFY));
    TRY(unlink("file"));
    be_dumped();
    /* Where the watch ends with the restore, the program is told so. */
    if (inotify_rm_watch(fd, watch) == -1) CHECK(errno == EINVAL);
    expect(fd, watch, IN_IGNORED, "");
    CHECK(write(file, "y", 1) == 1);
}

SCENARIO(inotify_for_one_event) {
    int fd = TRY(inotify_init1(0));
    touch("file");
    int watch = TRY(inotify_add_watch(fd, "file", IN_MODIFY | IN_ONESHOT));
    be_dumped();
    touch("file");
    expect(fd, watch, IN_MODIFY, "");
    expect(fd, watch, IN_IGNORED, "");
}

static uint64_t fan_event(int fd) {
    char buffer[4096];
    struct pollfd one = {fd, POLLIN, 0};
    CHECK(TRY(poll(&one, 1, 10000)) == 1);
    ssize_t got = TRY(read(fd, buffer, sizeof(buffer)));
    struct fanotify_event_metadata *event = (struct fanotify_event_metadata *)buffer;
    CHECK(FAN_EVENT_OK(event, got));
    uint64_t mask = event->mask;
    if (event->fd >= 0) close(event->fd);
    return mask;
}

static int fanotify(unsigned flags) {
    int fd = fanotify_init(FAN_CLASS_NOTIF | flags, O_RDONLY | O_LARGEFILE);
    if (fd < 0 && errno == ENOSYS) skip("no fanotify");
    return TRY(fd);
}

SCENARIO(fanotify_on_a_file) {
    int fd = fanotify(FAN_CLOEXEC | FAN_NONBLOCK);
    touch("file");
    TRY(fanotify_mark(fd, FAN_MARK_ADD, FAN_MODIFY | FAN_OPEN, AT_FDCWD, "file"));
    be_dumped();
    close(TRY(open("file", O_RDONLY)));
    CHECK(fan_event(fd) == FAN_OPEN);
    expect_nothing(fd);
    CHECK(fcntl(fd, F_GETFD) == FD_CLOEXEC);
}

SCENARIO(fanotify_on_a_folder) {
    int fd = fanotify(0);
    TRY(mkdir("dir", 0755));
    TRY(fanotify_mark(fd, FAN_MARK_ADD | FAN_MARK_ONLYDIR,
                      FAN_MODIFY | FAN_EVENT_ON_CHILD, AT_FDCWD, "dir"));
    be_dumped();
    touch("dir/file");
    CHECK(fan_event(fd) == FAN_MODIFY);
}

SCENARIO(fanotify_on_a_mount) {
    int fd = fanotify(0);
    touch("file");
    TRY(fanotify_mark(fd, FAN_MARK_ADD | FAN_MARK_MOUNT, FAN_CLOSE_WRITE, AT_FDCWD, "/"));
    TRY(fanotify_mark(fd, FAN_MARK_ADD | FAN_MARK_IGNORED_MASK | FAN_MARK_IGNORED_SURV_MODIFY,
                      FAN_CLOSE_WRITE, AT_FDCWD, "output"));
    be_dumped();
    touch("file");
    CHECK(fan_event(fd) == FAN_CLOSE_WRITE);
}

/* Files of /proc have no handle by which they could be opened. */
SCENARIO(inotify_on_what_only_a_search_finds) {
    int fd = TRY(inotify_init1(IN_NONBLOCK));
    int watch = TRY(inotify_add_watch(fd, "/proc/sys/kernel/hostname", IN_OPEN));
    be_dumped();
    close(TRY(open("/proc/sys/kernel/hostname", O_RDONLY)));
    expect(fd, watch, IN_OPEN, "");
}
