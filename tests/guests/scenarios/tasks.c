/* What belongs to a task, and helpers of the other files about tasks. */
#include "tasks.h"

#include <fcntl.h>

int set_pipe[2];

pid_t start_child(void (*run)(void)) {
    TRY(pipe(set_pipe));
    pid_t pid = TRY(fork());
    if (pid == 0) {
        close(set_pipe[0]);
        run();
        _exit(0);
    }
    close(set_pipe[1]);
    char byte;
    CHECK(read(set_pipe[0], &byte, 1) == 1);
    close(set_pipe[0]);
    return pid;
}

void child_is_set(void) {
    CHECK(write(set_pipe[1], "", 1) == 1);
    close(set_pipe[1]);
}

static pthread_barrier_t both_there;

pthread_t start_thread(void *(*run)(void *), void *argument) {
    pthread_t thread;
    pthread_barrier_init(&both_there, NULL, 2);
    CHECK(pthread_create(&thread, NULL, run, argument) == 0);
    pthread_barrier_wait(&both_there);
    return thread;
}

void thread_is_set(void) { pthread_barrier_wait(&both_there); }

void join(pthread_t thread) { CHECK(pthread_join(thread, NULL) == 0); }

pid_t my_tid(void) { return syscall(SYS_gettid); }

void wait_until_in(pid_t tid, long call) {
    char path[64];
    snprintf(path, sizeof(path), "/proc/%d/syscall", tid);
    for (;;) {
        const char *text = slurp(path);
        if (text && text[0] != 'r' && atol(text) == call && state_of(tid) == 'S') return;
        usleep(500);
    }
}

static struct {
    void *(*run)(void *);
    void *argument;
    pid_t tid;
} caller;

static void *call_it(void *unused) {
    (void)unused;
    void *(*run)(void *) = caller.run;
    void *argument = caller.argument;
    caller.tid = my_tid();
    thread_is_set();
    return run(argument);
}

pthread_t thread_in(long call, void *(*run)(void *), void *argument) {
    caller.run = run;
    caller.argument = argument;
    pthread_t thread = start_thread(call_it, NULL);
    wait_until_in(caller.tid, call);
    return thread;
}

static const char *behind_name(pid_t pid) {
    char path[64];
    snprintf(path, sizeof(path), "/proc/%d/stat", pid);
    const char *text = slurp(path);
    CHECK(text != NULL);
    const char *end = strrchr(text, ')');
    CHECK(end != NULL);
    return end + 2;
}

char state_of(pid_t pid) { return *behind_name(pid); }

long stat_field(pid_t pid, int field) {
    const char *text = behind_name(pid);
    for (int i = 3; i < field; i++) {
        text = strchr(text, ' ');
        CHECK(text != NULL);
        text++;
    }
    return atol(text);
}

void wait_for_state(pid_t pid, char state) {
    while (state_of(pid) != state) usleep(500);
}

const char *status_of(pid_t pid, const char *name) {
    static char value[256];
    char path[64];
    snprintf(path, sizeof(path), "/proc/%d/status", pid);
    const char *text = slurp(path);
    CHECK(text != NULL);
    value[0] = 0;
    size_t length = strlen(name);
    for (const char *line = text; line; line = strchr(line, '\n')) {
        if (*line == '\n') line++;
        if (!strncmp(line, name, length) && line[length] == ':')
            sscanf(line + length + 1, " %255[^\n]", value);
    }
    return value;
}

void spit(const char *path, const char *text) {
    int fd = TRY(open(path, O_WRONLY));
    ssize_t length = strlen(text);
    CHECK(write(fd, text, length) == length);
    close(fd);
}

long long now_ns(clockid_t clock) {
    struct timespec now;
    TRY(clock_gettime(clock, &now));
    return now.tv_sec * 1000000000LL + now.tv_nsec;
}

SCENARIO(name_with_parentheses) {
    TRY(prctl(PR_SET_NAME, "a) (b\nc"));
    be_dumped();
    char name[16];
    TRY(prctl(PR_GET_NAME, name));
    CHECK(!strcmp(name, "a) (b\nc"));
}

static void *named_thread(void *name) {
    TRY(prctl(PR_SET_NAME, name));
    thread_is_set();
    wait_to_go();
    char found[16];
    TRY(prctl(PR_GET_NAME, found));
    CHECK(!strcmp(found, name));
    return NULL;
}

SCENARIO(names_of_threads) {
    pthread_t full = start_thread(named_thread, "fifteen_letters");
    pthread_t bytes = start_thread(named_thread, "\xff\xfe \t'\"\\");
    pthread_t empty = start_thread(named_thread, "");
    TRY(prctl(PR_SET_NAME, "leader"));
    be_dumped();
    join(full);
    join(bytes);
    join(empty);
    char name[16];
    TRY(prctl(PR_GET_NAME, name));
    CHECK(!strcmp(name, "leader"));
}
