/* scenarios NAME: one small program for each kernel feature; see scenario.h.
 * scenarios: lists the names. */
#include "scenario.h"

#include <fcntl.h>
#include <sys/wait.h>

static struct {
    const char *name;
    void (*run)(void);
} scenarios[1024];
static int count;

void add_scenario(const char *name, void (*run)(void)) {
    if (count == sizeof(scenarios) / sizeof(scenarios[0])) abort();
    scenarios[count].name = name;
    scenarios[count++].run = run;
}

void complain(const char *file, int line, const char *what, int error) {
    dprintf(1, "BAD %s:%d: %s (errno %d, %s)\n", file, line, what, error, strerror(error));
    _exit(1);
}

void say_ready(void) { dprintf(1, "ready\n"); }

bool told_to_go(void) { return access("go", F_OK) == 0; }

void wait_to_go(void) {
    while (!told_to_go()) usleep(5000);
}

void be_dumped(void) {
    say_ready();
    wait_to_go();
}

void skip(const char *why) {
    dprintf(1, "SKIPPED %s\nready\n", why);
    _exit(0);
}

pid_t in_child(void (*run)(void)) {
    pid_t pid = TRY(fork());
    if (pid == 0) {
        run();
        _exit(0);
    }
    return pid;
}

void reap_child(pid_t pid) {
    int status;
    CHECK(waitpid(pid, &status, 0) == pid);
    CHECK(WIFEXITED(status) && WEXITSTATUS(status) == 0);
}

const char *slurp(const char *path) {
    static char text[65536];
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0) return NULL;
    ssize_t got = 0, length = 0;
    while ((got = read(fd, text + length, sizeof(text) - 1 - length)) > 0) length += got;
    close(fd);
    if (got < 0) return NULL;
    text[length] = 0;
    return text;
}

const char *status_field(const char *name) {
    static _Thread_local char value[256];
    char line[300];
    FILE *status = fopen("/proc/thread-self/status", "re");
    CHECK(status != NULL);
    value[0] = 0;
    size_t length = strlen(name);
    while (fgets(line, sizeof(line), status))
        if (!strncmp(line, name, length) && line[length] == ':')
            sscanf(line + length + 1, " %255[^\n]", value);
    fclose(status);
    return value;
}

int main(int argc, char **argv) {
    for (int i = 0; i < count; i++) {
        if (argc < 2) {
            puts(scenarios[i].name);
        } else if (!strcmp(argv[1], scenarios[i].name)) {
            scenarios[i].run();
            dprintf(1, "done\n");
            /* The test ends us. */
            pause();
        }
    }
    return argc < 2 ? 0 : 2;
}
