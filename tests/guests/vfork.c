/* Waits in vfork for a child that never calls exec or exit. Prints "ready child PID". */
#define _GNU_SOURCE
#include <stdio.h>
#include <sys/syscall.h>
#include <unistd.h>

int main(void)
{
    if (vfork() == 0) {
        char line[64];
        int length = snprintf(line, sizeof line, "ready child %d\n", (int)syscall(SYS_getpid));
        if (write(1, line, length) != length)
            _exit(1);
        for (;;)
            pause();
    }
    return 0;
}
