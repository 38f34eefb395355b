/* Files that come from outside. */
#include "scenario.h"

#include <fcntl.h>
#include <sched.h>
#include <signal.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>

static int passed[2];

static void open_in_a_mount_of_its_own(void) {
    TRY(unshare(CLONE_NEWNS));
    TRY(mount("none", "/", NULL, MS_REC | MS_PRIVATE, NULL));
    TRY(mount("none", "dir", "tmpfs", 0, NULL));
    int hidden = TRY(open("dir/hidden", O_RDWR | O_CREAT, 0600));
    int visible = TRY(open("visible", O_RDWR));
    CHECK(write(hidden, "hidden", 6) == 6);
    int fds[2] = {hidden, visible};
    CHECK(write(passed[1], fds, sizeof(fds)) == sizeof(fds));
    pause();
}

/* Two files that a child in a mount namespace of its own has opened, which has ended since. */
static void from_another_namespace(int *hidden, int *visible) {
    TRY(mkdir("dir", 0755));
    int fd = TRY(open("visible", O_RDWR | O_CREAT, 0600));
    CHECK(write(fd, "visible", 7) == 7);
    close(fd);
    TRY(pipe2(passed, O_CLOEXEC));
    pid_t child = in_child(open_in_a_mount_of_its_own);
    int fds[2];
    CHECK(read(passed[0], fds, sizeof(fds)) == sizeof(fds));
    int pidfd = TRY(syscall(SYS_pidfd_open, child, 0));
    *hidden = TRY(syscall(SYS_pidfd_getfd, pidfd, fds[0], 0));
    *visible = TRY(syscall(SYS_pidfd_getfd, pidfd, fds[1], 0));
    close(pidfd);
    TRY(kill(child, SIGKILL));
    TRY(waitpid(child, NULL, 0));
}

SCENARIO(file_of_another_mount_namespace) {
    int hidden, visible;
    from_another_namespace(&hidden, &visible);
    close(hidden);
    be_dumped();
    char text[16] = {0};
    CHECK(pread(visible, text, 15, 0) == 7 && !strcmp(text, "visible"));
}

SCENARIO(file_that_only_another_mount_namespace_has) {
    int hidden, visible;
    from_another_namespace(&hidden, &visible);
    be_dumped();
    char text[16] = {0};
    CHECK(pread(hidden, text, 15, 0) == 6 && !strcmp(text, "hidden"));
}

SCENARIO(file_of_the_outside) {
    int fd = TRY(open("outside", O_RDONLY | O_CREAT, 0600));
    CHECK(fd == 3);
    be_dumped();
    char text[16] = {0};
    CHECK(pread(fd, text, 15, 0) == 11 && !strcmp(text, "another one"));
}
