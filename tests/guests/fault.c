/* Runs a command and does something to one system call of it, threads and child processes
 * included, in the order in which they begin.
 *
 *   fault count REPORT -- COMMAND           only counts
 *   fault fail N ERRNO REPORT -- COMMAND    call N is not made and returns ERRNO
 *   fault kill N REPORT -- COMMAND          the process dies right before call N
 *   fault delay N MS REPORT -- COMMAND      call N begins MS milliseconds late
 *   fault hold NAME FILE REPORT -- COMMAND  the first call that opens a path with NAME in it
 *                                           waits until FILE is there; the report says "held"
 *
 * The report is one line: how many calls were seen, the number of the call that was met (-1
 * for none) and the command's name of the thread. From then on the command runs untouched.
 * Exits as the command does, with 128 + N after signal N; 99 for trouble of its own.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ptrace.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <sys/user.h>
#include <sys/wait.h>
#include <unistd.h>

enum action { COUNT, FAIL, KILL, DELAY, HOLD };

static enum action action;
static long wanted, number, seen, met = -1;
static const char *name, *file, *report;
static char met_in[32] = "-";
static pid_t failing, held;
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
    done = 1;
}

static int opens_name(pid_t tid, const struct __ptrace_syscall_info *info)
{
    char path[4096] = "";
    if (info->entry.nr != SYS_openat)
        return 0;
    struct iovec here = {path, sizeof path - 1}, there = {(void *)info->entry.args[1], 0};
    /* Up to the end of the page, and into the next one if that is there. */
    there.iov_len = 4096 - info->entry.args[1] % 4096;
    if (there.iov_len > sizeof path - 1)
        there.iov_len = sizeof path - 1;
    return process_vm_readv(tid, &here, 1, &there, 1, 0) > 0 && strstr(path, name);
}

/* A thread is about to make a call. */
static void at_entry(pid_t tid, const struct __ptrace_syscall_info *info)
{
    struct user_regs_struct registers;
    seen++;
    if (action == HOLD ? !opens_name(tid, info) : seen != wanted)
        return;
    switch (action) {
    case COUNT:
        return;
    case FAIL:
        if (ptrace(PTRACE_GETREGS, tid, 0, &registers))
            trouble("PTRACE_GETREGS");
        registers.orig_rax = -1;
        if (ptrace(PTRACE_SETREGS, tid, 0, &registers))
            trouble("PTRACE_SETREGS");
        failing = tid;
        met = info->entry.nr;
        status_of(tid, "Name:", met_in);
        return;
    case KILL:
        meet(tid, info->entry.nr);
        kill(status_of(tid, "Tgid:", 0), SIGKILL);
        return;
    case DELAY:
        meet(tid, info->entry.nr);
        usleep(number * 1000);
        return;
    case HOLD:
        meet(tid, info->entry.nr);
        write_report();
        puts("held");
        fflush(stdout);
        held = tid;
        return;
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
    static const char *const words[] = {"count", "fail", "kill", "delay", "hold"};
    static const int values[] = {0, 2, 1, 2, 2};
    if (count < 2)
        return 99;
    while (strcmp(arguments[1], words[action]))
        if (++action > HOLD)
            return 99;
    char **rest = arguments + 2;
    if (action == HOLD)
        name = rest[0], file = rest[1];
    else if (values[action])
        wanted = atol(rest[0]), number = values[action] == 2 ? atol(rest[1]) : 0;
    rest += values[action];
    report = *rest++;
    if (strcmp(*rest++, "--"))
        return 99;

    pid_t command = fork();
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
            if (tid == command)
                code = WIFSIGNALED(status) ? 128 + WTERMSIG(status) : WEXITSTATUS(status);
            continue;
        }
        int signal = WSTOPSIG(status), event = status >> 16;
        if (event == PTRACE_EVENT_EXEC && tid == command)
            started = 1;
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
    write_report();
    return code;
}
