// A family under seccomp; says "ready", and checks itself when a file "go" appears.
#define _GNU_SOURCE
#include <errno.h>
#include <linux/audit.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <pthread.h>
#include <signal.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#define COUNT(array) (sizeof(array) / sizeof((array)[0]))
#define NUMBER BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr))
#define RETURN(action) BPF_STMT(BPF_RET | BPF_K, action)
#define ALLOW(call) BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, call, 0, 1), RETURN(SECCOMP_RET_ALLOW)

static void check(const char *what, long found, long expected) {
    printf("%s %s %ld %ld\n", found == expected ? "ok" : "BAD", what, found, expected);
    fflush(stdout);
}

static void wait_for_go(void) {
    while (access("go", F_OK))
        usleep(20000);
}

static void install(struct sock_filter *code, size_t length, unsigned flags) {
    struct sock_fprog program = {length, code};
    prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0);
    if (syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, flags, &program)) {
        printf("BAD seccomp %d\n", errno);
        fflush(stdout);
        _exit(1);
    }
}

// Makes one call fail with an error.
static void forbid(int call, int error, unsigned flags) {
    struct sock_filter code[] = {
        NUMBER, BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, call, 0, 1),
        RETURN(SECCOMP_RET_ERRNO | error), RETURN(SECCOMP_RET_ALLOW),
    };
    install(code, COUNT(code), flags);
}

static int failure(int call) {
    errno = 0;
    syscall(call);
    return errno;
}

// A process that answers bytes, with whatever sandbox it puts on.
struct child {
    pid_t pid;
    int ask, answer;
};

static struct child start(void (*life)(int, int)) {
    int ask[2], answer[2];
    if (pipe(ask) || pipe(answer))
        exit(1);
    pid_t pid = fork();
    if (pid == 0) {
        life(ask[0], answer[1]);
        syscall(SYS_exit, 0);
    }
    close(ask[0]);
    close(answer[1]);
    struct child child = {pid, ask[1], answer[0]};
    char byte;
    check("child is ready", read(child.answer, &byte, 1), 1);
    return child;
}

static int talk(struct child *child, char byte) {
    char back = 0;
    if (write(child->ask, &byte, 1) != 1 || read(child->answer, &back, 1) != 1)
        return -1;
    return back;
}

static void echo(int ask, int answer) {
    char byte = 'r';
    do
        if (write(answer, &byte, 1) != 1)
            return;
    while (read(ask, &byte, 1) == 1 && byte != 'q' && (byte != 'x' || getuid() + 1));
}

static void strict(int ask, int answer) {
    prctl(PR_SET_SECCOMP, SECCOMP_MODE_STRICT);
    echo(ask, answer);
}

static int spare[2];

static void *echo_on_spare(void *nothing) {
    int *pipes = nothing;
    echo(spare[0], pipes[1]);
    return NULL;
}

// Two threads in one narrow sandbox, both inside read(2).
static void narrow(int ask, int answer) {
    struct sock_filter code[] = {
        NUMBER, ALLOW(SYS_read), ALLOW(SYS_write), ALLOW(SYS_exit),
        RETURN(SECCOMP_RET_KILL_PROCESS),
    };
    pthread_t thread;
    int pipes[2] = {ask, answer};
    char byte;
    (void)byte;
    pthread_create(&thread, NULL, echo_on_spare, pipes);
    usleep(100000);
    install(code, COUNT(code), SECCOMP_FILTER_FLAG_TSYNC);
    echo(ask, answer);
}

static volatile int stage, seen[4];

static void *another(void *nothing) {
    (void)nothing;
    forbid(SYS_getppid, EPERM, SECCOMP_FILTER_FLAG_LOG);
    forbid(SYS_getgid, EXDEV, 0);
    stage = 1;
    while (stage != 2)
        usleep(10000);
    seen[0] = failure(SYS_getppid);
    seen[1] = failure(SYS_getuid);
    seen[2] = failure(SYS_getgid);
    stage = 3;
    return NULL;
}

// Each thread has filters of its own, the leader none.
static void differing(int ask, int answer) {
    pthread_t thread;
    char byte = 0;
    pthread_create(&thread, NULL, another, NULL);
    while (stage != 1)
        usleep(10000);
    if (write(answer, "r", 1) != 1 || read(ask, &byte, 1) != 1)
        return;
    check("leader without filters", failure(SYS_getppid), 0);
    stage = 2;
    while (stage != 3)
        usleep(10000);
    check("first filter of a thread", seen[0], EPERM);
    check("no filter of a thread", seen[1], 0);
    check("second filter of a thread", seen[2], EXDEV);
    if (write(answer, "d", 1) != 1)
        return;
}

static void *together(void *nothing) {
    (void)nothing;
    while (stage != 2)
        usleep(10000);
    seen[0] = failure(SYS_getppid);
    seen[1] = failure(SYS_getuid);
    stage = 3;
    return NULL;
}

// Threads of one branch, to which more filters can be added for all of them.
static void branch(int ask, int answer) {
    pthread_t thread;
    char byte = 0;
    pthread_create(&thread, NULL, together, NULL);
    forbid(SYS_getppid, EPERM, SECCOMP_FILTER_FLAG_TSYNC);
    if (write(answer, "r", 1) != 1 || read(ask, &byte, 1) != 1)
        return;
    forbid(SYS_getuid, EACCES, SECCOMP_FILTER_FLAG_TSYNC);
    stage = 2;
    while (stage != 3)
        usleep(10000);
    check("filter of all threads", seen[0], EPERM);
    check("filter added for all threads", seen[1], EACCES);
    if (write(answer, "d", 1) != 1)
        return;
}

static long status(pid_t pid, const char *field) {
    char name[64], line[256];
    long value = -1;
    snprintf(name, sizeof(name), "/proc/%d/status", pid);
    FILE *file = fopen(name, "r");
    while (file && fgets(line, sizeof(line), file))
        if (!strncmp(line, field, strlen(field)))
            value = atol(line + strlen(field) + 1);
    if (file)
        fclose(file);
    return value;
}

int main(void) {
    if (pipe(spare))
        return 1;
    struct child strict_one = start(strict), narrow_one = start(narrow);
    struct child different = start(differing), synced = start(branch);
    char byte;
    check("second thread", read(narrow_one.answer, &byte, 1), 1);
    puts("ready");
    fflush(stdout);
    wait_for_go();

    int end;
    check("strict mode", status(strict_one.pid, "Seccomp:"), 1);
    check("strict echo", talk(&strict_one, 'a'), 'a');
    check("strict end", talk(&strict_one, 'x'), -1);
    waitpid(strict_one.pid, &end, 0);
    check("strict mode kills", WTERMSIG(end), SIGKILL);

    check("filter mode", status(narrow_one.pid, "Seccomp:"), 2);
    check("no new privileges", status(narrow_one.pid, "NoNewPrivs:"), 1);
    check("narrow echo", talk(&narrow_one, 'b'), 'b');
    check("other thread", write(spare[1], "x", 1), 1);
    waitpid(narrow_one.pid, &end, 0);
    check("filter kills", WTERMSIG(end), SIGSYS);

    check("differing threads", talk(&different, 'g'), 'd');
    check("threads of one branch", talk(&synced, 'g'), 'd');
    puts("done");
    fflush(stdout);
    pause();
    return 0;
}
