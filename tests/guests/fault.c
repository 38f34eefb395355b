/* Runs a command and does something to one system call of it, threads and child processes
 * included.
 *
 *   fault sites FILE REPORT -- COMMAND           writes down which sites there are, and how often
 *   fault fail SITE N ERRNO REPORT -- COMMAND    call N of SITE is not made and returns ERRNO
 *   fault kill SITE N REPORT -- COMMAND          the process dies right before call N of SITE
 *   fault delay SITE N MS REPORT -- COMMAND      call N of SITE begins MS milliseconds late
 *   fault spoil PREFIX N ERRNO REPORT -- COMMAND call N that makes or changes a file whose path
 *                                                begins with PREFIX is not made, returns ERRNO
 *   fault hold NAME FILE REPORT -- COMMAND       the first call that opens a path with NAME in it
 *                                                waits until FILE is there; says "held"
 *
 * A site is a system call, with its request where it has many, and where it comes from: the
 * addresses of the command's own program that stand topmost on the stack, in hexadecimal as one
 * number. Calls of other programs that the command starts are one site for each program and
 * system call. SITE "any" is every call: N then counts the calls of the whole command, in the
 * order in which they begin.
 *
 * The report is one line: how many calls were seen, the number of the call that was met (-1
 * for none) and the command's name of the thread. From then on the command runs untouched.
 * Exits as the command does, with 128 + N after signal N; 99 for trouble of its own.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ptrace.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <sys/user.h>
#include <sys/wait.h>
#include <unistd.h>

enum action { SITES, FAIL, KILL, DELAY, SPOIL, HOLD };

static enum action action;
static long wanted, number, seen, counted, met = -1;
static uint64_t site;
static const char *name, *file, *report;
static char met_in[32] = "-";
static pid_t command, failing, held;
static int done;

static void trouble(const char *what)
{
    perror(what);
    exit(99);
}

static void write_report(void)
{
    FILE *out = fopen(report, "we");
    if (!out)
        trouble(report);
    fprintf(out, "%ld %ld %s\n", seen, met, met_in);
    fclose(out);
}

/* A number in /proc/TID/status. */
static long status_of(pid_t tid, const char *key, char *text)
{
    char path[64], line[256];
    long value = 0;
    snprintf(path, sizeof path, "/proc/%d/status", tid);
    FILE *status = fopen(path, "re");
    if (!status)
        return 0;
    while (fgets(line, sizeof line, status))
        if (!strncmp(line, key, strlen(key))) {
            value = atol(line + strlen(key) + 1);
            if (text)
                sscanf(line + strlen(key) + 1, " %31[^\n]", text);
        }
    fclose(status);
    return value;
}

static void meet(pid_t tid, long call)
{
    met = call;
    status_of(tid, "Name:", met_in);
}

/* ---- where calls come from ---- */

static const uint64_t FNV_BASIS = 0xcbf29ce484222325;

static uint64_t fnv(uint64_t hash, const void *bytes, size_t count)
{
    for (const unsigned char *byte = bytes; count--; byte++)
        hash = (hash ^ *byte) * 0x100000001b3;
    return hash;
}

static struct {
    uint64_t base, start, end;
} text;

/* Where the command's own code is. */
static void find_text(void)
{
    char path[64], exe[4096], line[8192];
    snprintf(path, sizeof path, "/proc/%d/exe", command);
    ssize_t length = readlink(path, exe, sizeof exe - 1);
    if (length < 0)
        trouble(path);
    exe[length] = 0;
    snprintf(path, sizeof path, "/proc/%d/maps", command);
    FILE *maps = fopen(path, "re");
    if (!maps)
        trouble(path);
    while (fgets(line, sizeof line, maps)) {
        unsigned long start, end;
        char access[5];
        if (!strstr(line, exe) || sscanf(line, "%lx-%lx %4s", &start, &end, access) != 3)
            continue;
        if (!text.base)
            text.base = start;
        if (access[2] == 'x')
            text.start = start, text.end = end;
    }
    fclose(maps);
}

/* Processes that run another program, with a number for its name. */
static struct {
    pid_t pid;
    uint64_t name;
} others[256];
static int other_count;

static uint64_t other_program(pid_t tid)
{
    if (other_count == 0)
        return 0;
    pid_t pid = status_of(tid, "Tgid:", 0);
    for (int i = other_count; i-- > 0;)
        if (others[i].pid == pid)
            return others[i].name;
    return 0;
}

static void runs_another_program(pid_t pid)
{
    char called[32] = "";
    status_of(pid, "Name:", called);
    others[other_count].pid = pid;
    others[other_count].name = fnv(FNV_BASIS, called, strlen(called)) | 1;
    if (other_count < 255)
        other_count++;
}

static uint64_t site_of(pid_t tid, const struct __ptrace_syscall_info *info)
{
    enum { WORDS = 512, DEPTH = 4 };
    uint64_t stack[WORDS], program = other_program(tid), hash = FNV_BASIS;
    hash = fnv(hash, &program, sizeof program);
    hash = fnv(hash, &info->entry.nr, sizeof info->entry.nr);
    if (program)
        return hash;
    switch (info->entry.nr) {
    case SYS_ptrace:
    case SYS_prctl:
        hash = fnv(hash, &info->entry.args[0], sizeof info->entry.args[0]);
        break;
    case SYS_ioctl:
    case SYS_fcntl:
        hash = fnv(hash, &info->entry.args[1], sizeof info->entry.args[1]);
        break;
    }
    struct iovec here = {stack, sizeof stack}, there = {(void *)info->stack_pointer, sizeof stack};
    ssize_t got = process_vm_readv(tid, &here, 1, &there, 1, 0);
    if (got < 0) {
        /* Up to the end of the page at least. */
        there.iov_len = 4096 - info->stack_pointer % 4096;
        got = process_vm_readv(tid, &here, 1, &there, 1, 0);
    }
    int depth = 0;
    for (ssize_t i = 0; i < got / 8 && depth < DEPTH; i++)
        if (stack[i] >= text.start && stack[i] < text.end) {
            uint64_t offset = stack[i] - text.base;
            hash = fnv(hash, &offset, sizeof offset);
            depth++;
        }
    return hash;
}

enum { PLACES = 1 << 16 };
static struct place {
    uint64_t site;
    long count, call;
    char thread[32];
} places[PLACES];

static void remember(pid_t tid, const struct __ptrace_syscall_info *info)
{
    uint64_t found = site_of(tid, info);
    size_t at = found % PLACES;
    while (places[at].count && places[at].site != found)
        at = (at + 1) % PLACES;
    if (!places[at].count++) {
        places[at].site = found;
        places[at].call = info->entry.nr;
        status_of(tid, "Name:", places[at].thread);
    }
}

static void write_places(void)
{
    FILE *out = fopen(file, "we");
    if (!out)
        trouble(file);
    for (size_t at = 0; at < PLACES; at++)
        if (places[at].count)
            fprintf(out, "%lx %ld %ld %s\n", (unsigned long)places[at].site, places[at].count,
                    places[at].call, places[at].thread);
    fclose(out);
}

/* ---- what calls are about ---- */

/* Reads a path out of the command's memory. */
static int read_path(pid_t tid, uint64_t address, char path[4096])
{
    struct iovec here = {path, 4095}, there = {(void *)address, 0};
    memset(path, 0, 4096);
    /* Up to the end of the page, and into the next one if that is there. */
    there.iov_len = 4096 - address % 4096;
    if (there.iov_len > 4095)
        there.iov_len = 4095;
    return process_vm_readv(tid, &here, 1, &there, 1, 0) > 0;
}

static int opens_name(pid_t tid, const struct __ptrace_syscall_info *info)
{
    char path[4096];
    return info->entry.nr == SYS_openat && read_path(tid, info->entry.args[1], path) &&
           strstr(path, name);
}

static int is_below_prefix(pid_t tid, int fd)
{
    char link[64], path[4096] = "";
    snprintf(link, sizeof link, "/proc/%d/fd/%d", tid, fd);
    return readlink(link, path, sizeof path - 1) > 0 && !strncmp(path, name, strlen(name));
}

static int changes_file(pid_t tid, const struct __ptrace_syscall_info *info)
{
    const __typeof__(info->entry.args[0]) *args = info->entry.args;
    char path[4096];
    switch (info->entry.nr) {
    case SYS_write:
    case SYS_pwrite64:
    case SYS_writev:
    case SYS_pwritev:
    case SYS_pwritev2:
    case SYS_sendfile:
    case SYS_ftruncate:
    case SYS_fallocate:
    case SYS_fsync:
    case SYS_fdatasync:
    case SYS_syncfs:
        return is_below_prefix(tid, args[0]);
    case SYS_copy_file_range:
        return is_below_prefix(tid, args[2]);
    case SYS_openat:
        if (!(args[2] & (O_CREAT | (O_TMPFILE & ~O_DIRECTORY))))
            return 0;
        break;
    case SYS_mkdirat:
    case SYS_renameat:
    case SYS_renameat2:
    case SYS_linkat:
        break;
    default:
        return 0;
    }
    if (is_below_prefix(tid, args[0]))
        return 1;
    return read_path(tid, args[1], path) && !strncmp(path, name, strlen(name));
}

static int is_wanted(pid_t tid, const struct __ptrace_syscall_info *info)
{
    switch (action) {
    case HOLD:
        return opens_name(tid, info);
    case SPOIL:
        return changes_file(tid, info) && ++counted == wanted;
    default:
        return (!site || site_of(tid, info) == site) && ++counted == wanted;
    }
}

/* ---- */

/* A thread is about to make a call. */
static void at_entry(pid_t tid, const struct __ptrace_syscall_info *info)
{
    struct user_regs_struct registers;
    seen++;
    if (action == SITES) {
        remember(tid, info);
        return;
    }
    if (!is_wanted(tid, info))
        return;
    meet(tid, info->entry.nr);
    switch (action) {
    case FAIL:
    case SPOIL:
        if (ptrace(PTRACE_GETREGS, tid, 0, &registers))
            trouble("PTRACE_GETREGS");
        registers.orig_rax = -1;
        if (ptrace(PTRACE_SETREGS, tid, 0, &registers))
            trouble("PTRACE_SETREGS");
        failing = tid;
        break;
    case KILL:
        done = 1;
        kill(status_of(tid, "Tgid:", 0), SIGKILL);
        break;
    case DELAY:
        done = 1;
        usleep(number * 1000);
        break;
    case HOLD:
        done = 1;
        write_report();
        puts("held");
        fflush(stdout);
        held = tid;
        break;
    case SITES:
        break;
    }
}

static void at_exit(pid_t tid)
{
    struct user_regs_struct registers;
    if (tid != failing)
        return;
    if (ptrace(PTRACE_GETREGS, tid, 0, &registers))
        trouble("PTRACE_GETREGS");
    registers.rax = -number;
    if (ptrace(PTRACE_SETREGS, tid, 0, &registers))
        trouble("PTRACE_SETREGS");
    failing = 0;
    done = 1;
}

int main(int count, char **arguments)
{
    static const char *const words[] = {"sites", "fail", "kill", "delay", "spoil", "hold"};
    static const int values[] = {1, 3, 2, 3, 3, 2};
    if (count < 2)
        return 99;
    while (strcmp(arguments[1], words[action]))
        if (++action > HOLD)
            return 99;
    char **rest = arguments + 2;
    if (rest + values[action] + 3 > arguments + count)
        return 99;
    if (action == SITES) {
        file = rest[0];
    } else if (action == HOLD) {
        name = rest[0], file = rest[1];
    } else {
        name = rest[0];
        site = action == SPOIL || !strcmp(name, "any") ? 0 : strtoul(name, 0, 16);
        wanted = atol(rest[1]);
        number = values[action] == 3 ? atol(rest[2]) : 0;
    }
    rest += values[action];
    report = *rest++;
    if (strcmp(*rest++, "--"))
        return 99;

    command = fork();
    if (command == 0) {
        ptrace(PTRACE_TRACEME, 0, 0, 0);
        raise(SIGSTOP);
        execv(rest[0], rest);
        trouble(rest[0]);
    }
    int status, code = 99;
    if (waitpid(command, &status, 0) != command || !WIFSTOPPED(status))
        trouble("waitpid");
    long options = PTRACE_O_TRACESYSGOOD | PTRACE_O_TRACECLONE | PTRACE_O_TRACEFORK |
                   PTRACE_O_TRACEVFORK | PTRACE_O_TRACEEXEC | PTRACE_O_EXITKILL;
    if (ptrace(PTRACE_SETOPTIONS, command, 0, options) || ptrace(PTRACE_CONT, command, 0, 0))
        trouble("ptrace");
    int started = 0;
    for (;;) {
        /* All others go on while one is held. */
        pid_t tid = waitpid(-1, &status, __WALL | (held ? WNOHANG : 0));
        if (tid < 0)
            break;
        if (tid == 0) {
            usleep(1000);
            if (!access(file, F_OK)) {
                ptrace(PTRACE_DETACH, held, 0, 0L);
                held = 0;
            }
            continue;
        }
        if (!WIFSTOPPED(status)) {
            if (tid == held)
                held = 0;
            if (tid == failing)
                failing = 0, done = 1;
            if (tid == command)
                code = WIFSIGNALED(status) ? 128 + WTERMSIG(status) : WEXITSTATUS(status);
            continue;
        }
        int signal = WSTOPSIG(status), event = status >> 16;
        if (event == PTRACE_EVENT_EXEC) {
            if (tid != command) {
                runs_another_program(tid);
            } else if (!started) {
                started = 1;
                find_text();
            }
        }
        if (signal == (SIGTRAP | 0x80)) {
            struct __ptrace_syscall_info info;
            if (ptrace(PTRACE_GET_SYSCALL_INFO, tid, sizeof info, &info) > 0) {
                if (info.op == PTRACE_SYSCALL_INFO_ENTRY && !done && !failing && started)
                    at_entry(tid, &info);
                else if (info.op == PTRACE_SYSCALL_INFO_EXIT)
                    at_exit(tid);
            }
            signal = 0;
        } else if (event || signal == SIGSTOP) {
            /* An event, or the first stop of a new thread. */
            signal = 0;
        }
        if (tid == held)
            continue;
        /* One that is gone meanwhile reports so. */
        ptrace(done ? PTRACE_DETACH : PTRACE_SYSCALL, tid, 0, (long)signal);
    }
    if (action == SITES)
        write_places();
    write_report();
    return code;
}
