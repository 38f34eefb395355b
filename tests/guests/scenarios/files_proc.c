/* Files of /proc and /sys, names of processes and namespaces. */
#include "scenario.h"

#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>

static void wait_for_ever(void) {
    pause();
}

static void same_file(int fd, const char *path) {
    struct stat here, there;
    TRY(fstat(fd, &here));
    TRY(stat(path, &there));
    CHECK(here.st_dev == there.st_dev && here.st_ino == there.st_ino);
}

SCENARIO(proc_files_of_the_system) {
    int uptime = TRY(open("/proc/uptime", O_RDONLY));
    int sysctl = TRY(open("/proc/sys/kernel/ostype", O_RDONLY));
    int folder = TRY(open("/proc", O_RDONLY | O_DIRECTORY));
    int device = TRY(open("/sys/devices/system/cpu/online", O_RDONLY));
    be_dumped();
    char text[64] = {0};
    CHECK(read(uptime, text, 63) > 0);
    CHECK(read(sysctl, text, 63) > 0 && !strncmp(text, "Linux", 5));
    CHECK(read(device, text, 63) > 0);
    CHECK(faccessat(folder, "uptime", F_OK, 0) == 0);
}

SCENARIO(proc_files_of_tasks_in_the_tree) {
    char path[64];
    pid_t child = in_child(wait_for_ever);
    int own = TRY(open("/proc/self/status", O_RDONLY));
    int dir = TRY(open("/proc/self", O_RDONLY | O_DIRECTORY));
    sprintf(path, "/proc/%d/stat", child);
    int of_child = TRY(open(path, O_RDONLY));
    sprintf(path, "/proc/self/task/%d/comm", getpid());
    int of_thread = TRY(open(path, O_RDWR));
    be_dumped();
    char text[4096] = {0};
    CHECK(pread(own, text, 4095, 0) > 0 && strstr(text, "Name:\tscenarios"));
    memset(text, 0, sizeof(text));
    CHECK(pread(of_child, text, 4095, 0) > 0 && atoi(text) == child);
    CHECK(write(of_thread, "renamed", 7) == 7);
    CHECK(!strcmp(slurp("/proc/self/comm"), "renamed\n"));
    CHECK(faccessat(dir, "fdinfo", F_OK, 0) == 0);
    TRY(kill(child, SIGKILL));
}

SCENARIO(proc_files_of_a_dead_process) {
    char path[64];
    pid_t child = in_child(wait_for_ever);
    sprintf(path, "/proc/%d", child);
    int dir = TRY(open(path, O_RDONLY | O_DIRECTORY));
    sprintf(path, "/proc/%d/stat", child);
    int file = TRY(open(path, O_RDONLY));
    TRY(kill(child, SIGKILL));
    TRY(waitpid(child, NULL, 0));
    be_dumped();
    char byte;
    CHECK(read(file, &byte, 1) == -1 && errno == ESRCH);
    CHECK(faccessat(dir, "stat", F_OK, 0) == -1);
    CHECK(kill(child, 0) == -1 && errno == ESRCH);
}

SCENARIO(names_of_namespaces) {
    int net = TRY(open("/proc/self/ns/net", O_RDONLY | O_CLOEXEC));
    int mnt = TRY(open("/proc/self/ns/mnt", O_RDONLY));
    int pid = TRY(open("/proc/self/ns/pid", O_RDONLY));
    int user = TRY(open("/proc/self/ns/user", O_RDONLY));
    be_dumped();
    same_file(net, "/proc/self/ns/net");
    same_file(mnt, "/proc/self/ns/mnt");
    same_file(pid, "/proc/self/ns/pid");
    same_file(user, "/proc/self/ns/user");
    CHECK(fcntl(net, F_GETFD) == FD_CLOEXEC);
}

static int passed[2];

static void open_namespace(void) {
    TRY(syscall(SYS_unshare, 0x04000000));
    int fd = TRY(open("/proc/self/ns/uts", O_RDONLY));
    CHECK(write(passed[1], &fd, sizeof(fd)) == sizeof(fd));
    pause();
}

SCENARIO(name_of_a_foreign_namespace) {
    TRY(pipe(passed));
    pid_t child = in_child(open_namespace);
    int fd;
    CHECK(read(passed[0], &fd, sizeof(fd)) == sizeof(fd));
    int pidfd = TRY(syscall(SYS_pidfd_open, child, 0));
    int got = TRY(syscall(SYS_pidfd_getfd, pidfd, fd, 0));
    close(pidfd);
    TRY(kill(child, SIGKILL));
    TRY(waitpid(child, NULL, 0));
    be_dumped();
    CHECK(got > 0);
}

static int pidfd_of(pid_t pid, unsigned flags) {
    int fd = syscall(SYS_pidfd_open, pid, flags);
    if (fd < 0 && errno == ENOSYS) skip("no pidfd");
    return TRY(fd);
}

SCENARIO(pidfds_of_the_tree) {
    pid_t child = in_child(wait_for_ever);
    int own = pidfd_of(getpid(), O_NONBLOCK);
    int other = pidfd_of(child, 0);
    be_dumped();
    TRY(syscall(SYS_pidfd_send_signal, own, 0, NULL, 0));
    CHECK(fcntl(own, F_GETFL) & O_NONBLOCK);
    struct pollfd ended = {other, POLLIN, 0};
    CHECK(TRY(poll(&ended, 1, 0)) == 0);
    TRY(syscall(SYS_pidfd_send_signal, other, SIGKILL, NULL, 0));
    siginfo_t info;
    CHECK(waitid(P_PIDFD, other, &info, WEXITED) == 0);
    CHECK(info.si_pid == child && info.si_status == SIGKILL);
}

SCENARIO(pidfd_of_a_zombie) {
    pid_t child = TRY(fork());
    if (child == 0) _exit(3);
    int fd = pidfd_of(child, 0);
    struct pollfd ended = {fd, POLLIN, 0};
    CHECK(TRY(poll(&ended, 1, -1)) == 1);
    be_dumped();
    siginfo_t info;
    CHECK(waitid(P_PIDFD, fd, &info, WEXITED) == 0);
    CHECK(info.si_pid == child && info.si_status == 3);
}

SCENARIO(pidfds_of_dead_processes) {
    int fds[3];
    for (int i = 0; i < 2; i++) {
        pid_t child = in_child(wait_for_ever);
        fds[i] = pidfd_of(child, 0);
        TRY(kill(child, SIGKILL));
        TRY(waitpid(child, NULL, 0));
    }
    fds[2] = TRY(dup(fds[0]));
    be_dumped();
    for (int i = 0; i < 3; i++) {
        CHECK(syscall(SYS_pidfd_send_signal, fds[i], 0, NULL, 0) == -1 && errno == ESRCH);
        struct pollfd ended = {fds[i], POLLIN, 0};
        CHECK(TRY(poll(&ended, 1, 0)) == 1);
    }
}

SCENARIO(pidfd_of_a_thread) {
    pidfd_of(getpid(), O_EXCL);
    be_dumped();
}

SCENARIO(pidfd_of_the_outside) {
    pidfd_of(getppid(), 0);
    be_dumped();
}
