/* What the scenarios about memory have in common. */
#include "memory.h"

#include <setjmp.h>
#include <signal.h>

static uint64_t word_of(uint64_t seed, uint64_t place) {
    uint64_t x = seed * 0x9e3779b97f4a7c15 + place;
    x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9;
    return x ^ (x >> 27);
}

void fill(void *memory, size_t bytes, uint64_t seed) {
    uint64_t *words = memory;
    for (size_t i = 0; i < bytes / 8; i++) words[i] = word_of(seed, i);
}

void check_filled(const void *memory, size_t bytes, uint64_t seed) {
    const uint64_t *words = memory;
    for (size_t i = 0; i < bytes / 8; i++)
        if (words[i] != word_of(seed, i)) {
            dprintf(1, "BAD word %zu at %p in %d: %lx, seed %lx\n", i, (void *)&words[i], getpid(),
                    words[i], seed);
            _exit(1);
        }
}

void check_zero(const void *memory, size_t bytes) {
    const uint64_t *words = memory;
    for (size_t i = 0; i < bytes / 8; i++) CHECK(words[i] == 0);
}

char *map_private(size_t pages) {
    int flags = MAP_PRIVATE | MAP_ANONYMOUS;
    return TRY(mmap(NULL, pages * PAGE, PROT_READ | PROT_WRITE, flags, -1, 0));
}

char *map_shared(size_t pages) {
    int flags = MAP_SHARED | MAP_ANONYMOUS;
    return TRY(mmap(NULL, pages * PAGE, PROT_READ | PROT_WRITE, flags, -1, 0));
}

/* Runs over smaps; calls back with each line of the mapping of an address. */
static void each_line(const void *address, const char *file, void (*take)(const char *, void *),
                      void *to) {
    static char line[8192];
    FILE *smaps = fopen(file, "re");
    CHECK(smaps != NULL);
    bool inside = false;
    while (fgets(line, sizeof(line), smaps)) {
        unsigned long start, end;
        char dash;
        if (sscanf(line, "%lx%c%lx ", &start, &dash, &end) == 3 && dash == '-')
            inside = start <= (unsigned long)address && (unsigned long)address < end;
        if (inside) take(line, to);
    }
    fclose(smaps);
}

struct wanted {
    const char *name;
    long value;
};

static void take_flag(const char *line, void *to) {
    struct wanted *wanted = to;
    if (strncmp(line, "VmFlags:", 8)) return;
    const char *found = strstr(line, wanted->name);
    wanted->value = found && found[-1] == ' ' && found[2] == ' ';
}

bool has_flag(const void *address, const char *flag) {
    struct wanted wanted = {flag, -1};
    each_line(address, "/proc/self/smaps", take_flag, &wanted);
    CHECK(wanted.value >= 0);
    return wanted.value;
}

static void take_kib(const char *line, void *to) {
    struct wanted *wanted = to;
    size_t length = strlen(wanted->name);
    if (!strncmp(line, wanted->name, length) && line[length] == ':')
        wanted->value = strtol(line + length + 1, NULL, 10);
}

long smaps_kib(const void *address, const char *field) {
    struct wanted wanted = {field, -1};
    each_line(address, "/proc/self/smaps", take_kib, &wanted);
    CHECK(wanted.value >= 0);
    return wanted.value;
}

static char found_line[8192];

static void take_line(const char *line, void *to) {
    (void)to;
    snprintf(found_line, sizeof(found_line), "%s", line);
}

const char *maps_line(const void *address) {
    found_line[0] = 0;
    each_line(address, "/proc/self/maps", take_line, NULL);
    return found_line;
}

void check_access(const void *address, const char *access) {
    const char *space = strchr(maps_line(address), ' ');
    CHECK(space && !strncmp(space + 1, access, 4));
}

static sigjmp_buf back;

static void jump_back(int signal) {
    (void)signal;
    siglongjmp(back, 1);
}

static bool faults(volatile char *address, bool write) {
    struct sigaction jump = {.sa_handler = jump_back}, segv, bus;
    TRY(sigaction(SIGSEGV, &jump, &segv));
    TRY(sigaction(SIGBUS, &jump, &bus));
    bool faulted = true;
    if (!sigsetjmp(back, 1)) {
        char byte = write ? 1 : *address;
        if (write) *address = byte;
        faulted = false;
    }
    TRY(sigaction(SIGSEGV, &segv, NULL));
    TRY(sigaction(SIGBUS, &bus, NULL));
    return faulted;
}

bool read_faults(const volatile char *address) { return faults((volatile char *)address, false); }

bool write_faults(volatile char *address) { return faults(address, true); }

static int set_up[2];

pid_t child_set_up(void (*run)(void)) {
    TRY(pipe(set_up));
    pid_t pid = in_child(run);
    char byte;
    close(set_up[1]);
    CHECK(read(set_up[0], &byte, 1) == 1);
    close(set_up[0]);
    return pid;
}

void is_set_up(void) {
    CHECK(write(set_up[1], "s", 1) == 1);
    close(set_up[0]);
    close(set_up[1]);
}

int file_filled(const char *name, size_t pages, uint64_t seed) {
    int fd = TRY(open(name, O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0600));
    char *bytes = malloc(pages * PAGE);
    fill(bytes, pages * PAGE, seed);
    CHECK(write(fd, bytes, pages * PAGE) == (ssize_t)(pages * PAGE));
    free(bytes);
    return fd;
}

void advise(void *memory, size_t bytes, int advice) {
    if (madvise(memory, bytes, advice) == 0) return;
    if (errno == EINVAL) skip("this kernel does not know the advice");
    complain(__FILE__, __LINE__, "madvise", errno);
}
