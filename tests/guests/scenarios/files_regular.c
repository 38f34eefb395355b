/* Files with a path, and those that have lost theirs. */
#include "scenario.h"

#include <dirent.h>
#include <fcntl.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/sysmacros.h>
#include <time.h>

static int new_file(const char *name, const char *content) {
    int fd = TRY(open(name, O_RDWR | O_CREAT | O_EXCL, 0644));
    CHECK(write(fd, content, strlen(content)) == (ssize_t)strlen(content));
    return fd;
}

static void check_content(int fd, const char *content) {
    char found[256] = {0};
    CHECK(pread(fd, found, sizeof(found) - 1, 0) == (ssize_t)strlen(content));
    CHECK(!strcmp(found, content));
}

static ino_t inode(int fd) {
    struct stat stat;
    TRY(fstat(fd, &stat));
    return stat.st_ino;
}

static nlink_t links(int fd) {
    struct stat stat;
    TRY(fstat(fd, &stat));
    return stat.st_nlink;
}

SCENARIO(file_at_a_position) {
    int fd = new_file("file", "0123456789");
    TRY(lseek(fd, 4, SEEK_SET));
    int other = TRY(open("file", O_RDONLY));
    be_dumped();
    CHECK(lseek(fd, 0, SEEK_CUR) == 4);
    CHECK(lseek(other, 0, SEEK_CUR) == 0);
    check_content(fd, "0123456789");
}

SCENARIO(file_far_behind_its_end) {
    int fd = new_file("file", "x");
    TRY(lseek(fd, 5LL << 32, SEEK_SET));
    be_dumped();
    CHECK(lseek(fd, 0, SEEK_CUR) == 5LL << 32);
}

SCENARIO(file_with_all_its_flags) {
    close(new_file("file", "x"));
    int plain = TRY(open("file", O_RDWR | O_APPEND | O_NONBLOCK | O_NOATIME));
    int sync = TRY(open("file", O_WRONLY | O_SYNC));
    int dsync = TRY(open("file", O_WRONLY | O_DSYNC));
    int direct = TRY(open("file", O_RDONLY | O_DIRECT));
    be_dumped();
    const int mask = O_ACCMODE | O_APPEND | O_NONBLOCK | O_NOATIME | O_SYNC | O_DSYNC | O_DIRECT;
    CHECK((fcntl(plain, F_GETFL) & mask) == (O_RDWR | O_APPEND | O_NONBLOCK | O_NOATIME));
    CHECK((fcntl(sync, F_GETFL) & mask) == (O_WRONLY | O_SYNC));
    CHECK((fcntl(dsync, F_GETFL) & mask) == (O_WRONLY | O_DSYNC));
    CHECK((fcntl(direct, F_GETFL) & mask) == (O_RDONLY | O_DIRECT));
}

SCENARIO(log_that_is_appended_to) {
    int fd = TRY(open("log", O_WRONLY | O_APPEND | O_CREAT, 0600));
    CHECK(write(fd, "one ", 4) == 4);
    be_dumped();
    CHECK(write(fd, "two", 3) == 3);
    CHECK(!strcmp(slurp("log"), "one two"));
}

SCENARIO(close_on_exec) {
    int kept = TRY(open("/dev/null", O_RDONLY));
    int closed = TRY(open("/dev/null", O_RDONLY | O_CLOEXEC));
    int duplicate = TRY(fcntl(kept, F_DUPFD_CLOEXEC, 0));
    be_dumped();
    CHECK(fcntl(kept, F_GETFD) == 0);
    CHECK(fcntl(closed, F_GETFD) == FD_CLOEXEC);
    CHECK(fcntl(duplicate, F_GETFD) == FD_CLOEXEC);
}

SCENARIO(descriptors_far_up_and_few_between) {
    int fd = new_file("file", "x");
    CHECK(dup2(fd, 1000) == 1000);
    CHECK(dup2(fd, 517) == 517);
    close(fd);
    be_dumped();
    TRY(lseek(1000, 1, SEEK_SET));
    CHECK(lseek(517, 0, SEEK_CUR) == 1);
    CHECK(fcntl(fd, F_GETFD) == -1);
}

static int shared, apart;

static void move_both(void) {
    wait_to_go();
    TRY(lseek(shared, 3, SEEK_CUR));
    TRY(lseek(apart, 3, SEEK_CUR));
}

SCENARIO(one_position_for_parent_and_child) {
    shared = new_file("file", "0123456789");
    apart = TRY(open("file", O_RDONLY));
    TRY(lseek(shared, 2, SEEK_SET));
    pid_t child = in_child(move_both);
    close(apart);
    apart = TRY(open("file", O_RDONLY));
    be_dumped();
    reap_child(child);
    CHECK(lseek(shared, 0, SEEK_CUR) == 5);
    CHECK(lseek(apart, 0, SEEK_CUR) == 0);
}

SCENARIO(directory_half_read) {
    TRY(mkdir("dir", 0755));
    int dir = TRY(open("dir", O_RDONLY | O_DIRECTORY));
    for (int i = 0; i < 200; i++) {
        char name[64];
        sprintf(name, "dir/a-file-with-some-name-%d", i);
        close(TRY(open(name, O_CREAT | O_WRONLY, 0600)));
    }
    char buffer[1024];
    int entries = 0;
    long got;
    int told = 0;
    while ((got = syscall(SYS_getdents64, dir, buffer, sizeof(buffer))) > 0) {
        for (long at = 0; at < got; entries++) at += ((struct dirent64 *)(buffer + at))->d_reclen;
        if (!told++) be_dumped();
    }
    CHECK(got == 0);
    CHECK(entries == 202);
}

SCENARIO(opened_as_a_path_alone) {
    close(new_file("file", "x"));
    TRY(symlink("file", "link"));
    TRY(mkdir("dir", 0755));
    int file = TRY(open("file", O_PATH));
    int link = TRY(open("link", O_PATH | O_NOFOLLOW));
    int dir = TRY(open("dir", O_PATH | O_DIRECTORY));
    int device = TRY(open("/dev/null", O_PATH));
    TRY(mkfifo("fifo", 0600));
    int fifo = TRY(open("fifo", O_PATH));
    TRY(mknod("socket", S_IFSOCK | 0600, 0));
    int socket = TRY(open("socket", O_PATH));
    TRY(mknod("block", S_IFBLK | 0600, makedev(7, 77)));
    int block = TRY(open("block", O_PATH));
    be_dumped();
    struct stat stat;
    int others[] = {fifo, socket, block};
    int kinds[] = {S_IFIFO, S_IFSOCK, S_IFBLK};
    for (int i = 0; i < 3; i++) {
        CHECK(fcntl(others[i], F_GETFL) & O_PATH);
        TRY(fstat(others[i], &stat));
        CHECK((stat.st_mode & S_IFMT) == kinds[i] && stat.st_nlink == 1);
    }
    CHECK(fcntl(file, F_GETFL) & O_PATH);
    CHECK(fcntl(device, F_GETFL) & O_PATH);
    CHECK(read(file, &stat, 1) == -1 && errno == EBADF);
    TRY(fstat(link, &stat));
    CHECK(S_ISLNK(stat.st_mode));
    CHECK(mkdirat(dir, "below", 0755) == 0 && access("dir/below", F_OK) == 0);
}

SCENARIO(named_strangely) {
    char long_name[256];
    memset(long_name, 'l', 255);
    long_name[255] = 0;
    const char *names[] = {"two\nlines", "\xff\xfe not text", " blanks ", "it is (deleted)",
                           "back\\slash", "pipe:[1]", long_name};
    int fds[7];
    for (int i = 0; i < 7; i++) fds[i] = new_file(names[i], "x");
    be_dumped();
    for (int i = 0; i < 7; i++) {
        struct stat stat;
        TRY(lstat(names[i], &stat));
        CHECK(stat.st_ino == inode(fds[i]));
    }
}

SCENARIO(path_of_four_thousand_bytes) {
    char part[201];
    memset(part, 'd', 200);
    part[200] = 0;
    int here = TRY(open(".", O_RDONLY | O_DIRECTORY));
    for (int i = 0; i < 19; i++) {
        TRY(mkdir(part, 0755));
        TRY(chdir(part));
    }
    int fd = new_file("file", "deep");
    TRY(fchdir(here));
    be_dumped();
    check_content(fd, "deep");
    CHECK(links(fd) == 1);
}

SCENARIO(renamed_file) {
    int fd = new_file("before", "x");
    TRY(rename("before", "after"));
    int into = new_file("moved", "y");
    TRY(mkdir("dir", 0755));
    TRY(rename("moved", "dir/moved"));
    be_dumped();
    struct stat stat;
    TRY(lstat("after", &stat));
    CHECK(stat.st_ino == inode(fd));
    TRY(lstat("dir/moved", &stat));
    CHECK(stat.st_ino == inode(into));
}

SCENARIO(working_folder_that_was_renamed) {
    int here = TRY(open(".", O_RDONLY | O_DIRECTORY));
    TRY(mkdir("before", 0755));
    TRY(chdir("before"));
    TRY(renameat(here, "before", here, "after"));
    say_ready();
    while (faccessat(here, "go", F_OK, 0)) usleep(5000);
    char path[4096];
    CHECK(getcwd(path, sizeof(path)) && !strcmp(strrchr(path, '/'), "/after"));
}

SCENARIO(changed_root) {
    int here = TRY(open(".", O_RDONLY | O_DIRECTORY));
    TRY(mkdir("jail", 0755));
    int inside = TRY(open("jail/inside", O_RDWR | O_CREAT, 0644));
    TRY(chdir("jail"));
    TRY(chroot("."));
    say_ready();
    while (faccessat(here, "go", F_OK, 0)) usleep(5000);
    struct stat stat;
    TRY(lstat("/inside", &stat));
    CHECK(stat.st_ino == inode(inside));
    CHECK(access("/dev/null", F_OK) == -1);
}

SCENARIO(simple_devices) {
    const char *paths[] = {"/dev/null", "/dev/zero", "/dev/full", "/dev/urandom", "/dev/random"};
    int fds[5];
    for (int i = 0; i < 5; i++) fds[i] = TRY(open(paths[i], O_RDWR));
    be_dumped();
    char byte = 1;
    CHECK(read(fds[0], &byte, 1) == 0);
    CHECK(read(fds[1], &byte, 1) == 1 && byte == 0);
    CHECK(write(fds[2], &byte, 1) == -1 && errno == ENOSPC);
    CHECK(read(fds[3], &byte, 1) == 1);
    CHECK(read(fds[4], &byte, 1) == 1);
}

SCENARIO(log_of_the_kernel) {
    int writer = TRY(open("/dev/kmsg", O_WRONLY));
    int reader = TRY(open("/dev/kmsg", O_RDONLY | O_NONBLOCK));
    be_dumped();
    CHECK((fcntl(writer, F_GETFL) & O_ACCMODE) == O_WRONLY);
    TRY(lseek(reader, 0, SEEK_END));
    char byte;
    CHECK(read(reader, &byte, 1) == -1);
}

SCENARIO(device_with_state) {
    int fd = open("/dev/fuse", O_RDWR);
    if (fd < 0) fd = TRY(open("/dev/snapshot", O_RDONLY));
    be_dumped();
}

/* Deleted files. */

SCENARIO(deleted_file) {
    int fd = new_file("file", "still here");
    int reader = TRY(open("file", O_RDONLY));
    TRY(lseek(fd, 3, SEEK_SET));
    TRY(unlink("file"));
    be_dumped();
    check_content(fd, "still here");
    CHECK(lseek(fd, 0, SEEK_CUR) == 3);
    CHECK(links(fd) == 0);
    CHECK(inode(fd) == inode(reader));
    CHECK(access("file", F_OK) == -1);
    CHECK(pwrite(fd, "S", 1, 0) == 1);
    check_content(reader, "Still here");
}

SCENARIO(deleted_file_under_a_name_used_again) {
    int old = new_file("file", "old");
    TRY(unlink("file"));
    int new = new_file("file", "new");
    be_dumped();
    check_content(old, "old");
    check_content(new, "new");
    CHECK(links(old) == 0 && links(new) == 1);
}

SCENARIO(deleted_file_with_its_folder) {
    TRY(mkdir("dir", 0755));
    TRY(mkdir("dir/dir", 0755));
    int fd = new_file("dir/dir/file", "orphan");
    TRY(unlink("dir/dir/file"));
    TRY(rmdir("dir/dir"));
    be_dumped();
    check_content(fd, "orphan");
    CHECK(links(fd) == 0);
}

SCENARIO(deleted_file_of_another_user) {
    int fd = new_file("file", "x");
    TRY(fchown(fd, 1234, 5678));
    TRY(fchmod(fd, 0640));
    struct timespec times[2] = {{1000000000, 5000}, {1100000000, 7000}};
    TRY(futimens(fd, times));
    TRY(unlink("file"));
    be_dumped();
    struct stat stat;
    TRY(fstat(fd, &stat));
    CHECK(stat.st_uid == 1234 && stat.st_gid == 5678);
    CHECK((stat.st_mode & 07777) == 0640);
    CHECK(stat.st_mtim.tv_sec == 1100000000);
}

SCENARIO(deleted_file_that_is_empty) {
    int fd = new_file("file", "");
    TRY(unlink("file"));
    be_dumped();
    struct stat stat;
    TRY(fstat(fd, &stat));
    CHECK(stat.st_size == 0 && stat.st_nlink == 0);
}

SCENARIO(deleted_file_with_holes) {
    int fd = new_file("file", "front");
    CHECK(pwrite(fd, "middle", 6, 3 << 20) == 6);
    TRY(ftruncate(fd, 9 << 20));
    TRY(unlink("file"));
    be_dumped();
    struct stat stat;
    char bytes[16] = {0};
    TRY(fstat(fd, &stat));
    CHECK(stat.st_size == 9 << 20);
    CHECK(stat.st_blocks < 1024);
    CHECK(pread(fd, bytes, 6, 3 << 20) == 6 && !memcmp(bytes, "middle", 6));
    CHECK(pread(fd, bytes, 6, 0) == 6 && !memcmp(bytes, "front\0", 6));
    CHECK(pread(fd, bytes, 8, (9 << 20) - 8) == 8 && !memcmp(bytes, "\0\0\0\0\0\0\0", 8));
}

SCENARIO(deleted_file_that_is_mapped) {
    int fd = new_file("file", "");
    TRY(ftruncate(fd, 8192));
    char *memory = mmap(NULL, 8192, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    CHECK(memory != MAP_FAILED);
    strcpy(memory + 4096, "mapped");
    TRY(unlink("file"));
    be_dumped();
    CHECK(!strcmp(memory + 4096, "mapped"));
    memory[0] = 'm';
    char byte;
    CHECK(pread(fd, &byte, 1, 0) == 1 && byte == 'm');
}

SCENARIO(deleted_file_that_is_mapped_and_closed) {
    int fd = new_file("file", "");
    TRY(ftruncate(fd, 8192));
    char *memory = mmap(NULL, 8192, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    CHECK(memory != MAP_FAILED);
    strcpy(memory + 4096, "mapped");
    TRY(unlink("file"));
    close(fd);
    be_dumped();
    CHECK(!strcmp(memory + 4096, "mapped"));
}

SCENARIO(temporary_file_without_a_name) {
    int fd = TRY(open(".", O_RDWR | O_TMPFILE, 0600));
    CHECK(write(fd, "nameless", 8) == 8);
    be_dumped();
    check_content(fd, "nameless");
    CHECK(links(fd) == 0);
}

SCENARIO(deleted_file_above_the_limit) {
    int fd = new_file("file", "");
    static char bytes[1 << 20];
    memset(bytes, 'b', sizeof(bytes));
    for (int i = 0; i < 2; i++) CHECK(write(fd, bytes, sizeof(bytes)) == sizeof(bytes));
    TRY(unlink("file"));
    be_dumped();
    struct stat stat;
    char last;
    TRY(fstat(fd, &stat));
    CHECK(stat.st_size == 2 << 20);
    CHECK(pread(fd, &last, 1, (2 << 20) - 1) == 1 && last == 'b');
}

SCENARIO(deleted_fifo) {
    TRY(mkfifo("fifo", 0600));
    int fd = TRY(open("fifo", O_RDWR));
    CHECK(write(fd, "waits", 5) == 5);
    TRY(unlink("fifo"));
    be_dumped();
    char bytes[8];
    CHECK(read(fd, bytes, 8) == 5 && !memcmp(bytes, "waits", 5));
    CHECK(links(fd) == 0);
}

SCENARIO(deleted_device) {
    TRY(mknod("zero", S_IFCHR | 0600, makedev(1, 5)));
    int fd = TRY(open("zero", O_RDWR));
    TRY(unlink("zero"));
    be_dumped();
    char byte = 1;
    CHECK(read(fd, &byte, 1) == 1 && byte == 0);
}

SCENARIO(deleted_folder) {
    TRY(mkdir("dir", 0710));
    int fd = TRY(open("dir", O_RDONLY | O_DIRECTORY));
    TRY(rmdir("dir"));
    be_dumped();
    struct stat stat;
    TRY(fstat(fd, &stat));
    CHECK(S_ISDIR(stat.st_mode) && (stat.st_mode & 0777) == 0710);
    CHECK(openat(fd, "file", O_CREAT | O_WRONLY, 0600) == -1 && errno == ENOENT);
}

SCENARIO(deleted_working_folder) {
    int here = TRY(open(".", O_RDONLY | O_DIRECTORY));
    TRY(mkdir("dir", 0755));
    TRY(chdir("dir"));
    TRY(unlinkat(here, "dir", AT_REMOVEDIR));
    say_ready();
    while (faccessat(here, "go", F_OK, 0)) usleep(5000);
    char path[4096];
    CHECK(getcwd(path, sizeof(path)) == NULL && errno == ENOENT);
}

SCENARIO(deleted_working_folder_with_files_and_folders) {
    int here = TRY(open(".", O_RDONLY | O_DIRECTORY));
    TRY(mkdir("dir", 0755));
    TRY(mkdir("dir/below", 0755));
    TRY(chdir("dir"));
    int first = TRY(open("first", O_RDWR | O_CREAT, 0600));
    int folder = TRY(open("below", O_RDONLY | O_DIRECTORY));
    int second = TRY(open("below/second", O_RDWR | O_CREAT, 0600));
    CHECK(write(first, "first", 5) == 5 && write(second, "second", 6) == 6);
    TRY(unlink("first"));
    TRY(unlink("below/second"));
    TRY(rmdir("below"));
    TRY(unlinkat(here, "dir", AT_REMOVEDIR));
    say_ready();
    while (faccessat(here, "go", F_OK, 0)) usleep(5000);
    char text[8];
    CHECK(pread(first, text, 8, 0) == 5 && !memcmp(text, "first", 5));
    CHECK(pread(second, text, 8, 0) == 6 && !memcmp(text, "second", 6));
    struct stat stat;
    TRY(fstat(folder, &stat));
    CHECK(S_ISDIR(stat.st_mode) && stat.st_nlink == 0);
    CHECK(faccessat(here, "dir", F_OK, 0) == -1 && errno == ENOENT);
}

SCENARIO(deleted_symbolic_link) {
    TRY(symlink("/dev/null", "link"));
    int fd = TRY(open("link", O_PATH | O_NOFOLLOW));
    TRY(unlink("link"));
    be_dumped();
    char target[64] = {0};
    CHECK(readlinkat(fd, "", target, sizeof(target) - 1) == 9 && !strcmp(target, "/dev/null"));
}

/* Files that have another name. */

SCENARIO(unlinked_with_another_name) {
    int fd = new_file("file", "two names");
    TRY(link("file", "other"));
    TRY(lseek(fd, 2, SEEK_SET));
    TRY(unlink("file"));
    be_dumped();
    check_content(fd, "two names");
    struct stat stat;
    TRY(lstat("other", &stat));
    CHECK(stat.st_ino == inode(fd));
    CHECK(lseek(fd, 0, SEEK_CUR) == 2);
    CHECK(stat.st_nlink == 1);
    CHECK(access("file", F_OK) == -1);
}

SCENARIO(unlinked_with_another_name_elsewhere) {
    TRY(mkdir("dir", 0755));
    int fd = new_file("dir/file", "two names");
    int second = TRY(open("dir/file", O_RDONLY));
    TRY(link("dir/file", "other"));
    TRY(unlink("dir/file"));
    TRY(rmdir("dir"));
    be_dumped();
    check_content(fd, "two names");
    struct stat stat;
    TRY(lstat("other", &stat));
    CHECK(stat.st_ino == inode(fd) && stat.st_ino == inode(second));
    CHECK(stat.st_nlink == 1);
}

SCENARIO(name_taken_by_another_file) {
    int fd = new_file("file", "first");
    TRY(link("file", "other"));
    TRY(unlink("file"));
    close(new_file("file", "second"));
    be_dumped();
    check_content(fd, "first");
    struct stat stat;
    TRY(lstat("other", &stat));
    CHECK(stat.st_ino == inode(fd) && stat.st_nlink == 1);
    CHECK(!strcmp(slurp("file"), "second"));
}

SCENARIO(path_that_leads_to_another_file) {
    TRY(mkdir("dir", 0755));
    int fd = new_file("dir/file", "first");
    TRY(mount("none", "dir", "tmpfs", 0, NULL));
    close(new_file("dir/file", "second"));
    be_dumped();
    check_content(fd, "first");
    TRY(umount("dir"));
}

/* Who is told. */

SCENARIO(owners_and_signals) {
    int pipes[6][2];
    for (int i = 0; i < 6; i++) TRY(pipe(pipes[i]));
    TRY(fcntl(pipes[0][0], F_SETOWN, getpid()));
    TRY(fcntl(pipes[1][0], F_SETOWN, -getpgrp()));
    struct f_owner_ex thread = {F_OWNER_TID, syscall(SYS_gettid)};
    TRY(fcntl(pipes[2][0], F_SETOWN_EX, &thread));
    TRY(fcntl(pipes[3][0], F_SETOWN, getpid()));
    TRY(fcntl(pipes[3][0], F_SETSIG, SIGRTMIN + 3));
    TRY(fcntl(pipes[4][0], F_SETOWN, getpid()));
    TRY(fcntl(pipes[4][0], F_SETFL, O_ASYNC | O_NONBLOCK));
    TRY(fcntl(pipes[4][0], F_SETSIG, SIGRTMIN + 4));
    sigset_t blocked;
    sigemptyset(&blocked);
    sigaddset(&blocked, SIGRTMIN + 4);
    TRY(sigprocmask(SIG_BLOCK, &blocked, NULL));
    be_dumped();
    struct f_owner_ex owner;
    TRY(fcntl(pipes[0][0], F_GETOWN_EX, &owner));
    CHECK(owner.type == F_OWNER_PID && owner.pid == getpid());
    TRY(fcntl(pipes[1][0], F_GETOWN_EX, &owner));
    CHECK(owner.type == F_OWNER_PGRP && owner.pid == getpgrp());
    TRY(fcntl(pipes[2][0], F_GETOWN_EX, &owner));
    CHECK(owner.type == F_OWNER_TID && owner.pid == thread.pid);
    CHECK(fcntl(pipes[3][0], F_GETSIG) == SIGRTMIN + 3);
    TRY(fcntl(pipes[5][0], F_GETOWN_EX, &owner));
    CHECK(owner.pid == 0);
    CHECK(fcntl(pipes[4][0], F_GETFL) & O_ASYNC);
    CHECK(write(pipes[4][1], "x", 1) == 1);
    siginfo_t info;
    struct timespec patience = {10, 0};
    CHECK(sigtimedwait(&blocked, &info, &patience) == SIGRTMIN + 4);
    CHECK(info.si_fd == pipes[4][0]);
}
