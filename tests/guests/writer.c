/* Tasks that write one number everywhere at full speed: at every instant, all places hold the
 * same number or the next one.
 *
 * A sequence number is taken by whoever has the turn, which goes round through a pipe: parent,
 * its child, and so on. With the turn a task writes its number at the start and at the end of
 * its private memory (touching pages in between), in the shared memory, and into its own page;
 * then it passes the turn on. A restored tree goes on from the instant of the dump: what it
 * finds in each place must follow from what it holds in its registers.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>

enum { TASKS = 4, PAGES = 4096, WORDS = 512 };

static void bad(const char *what, uint64_t found, uint64_t wanted)
{
    printf("BAD %s: %lu, not %lu\n", what, found, wanted);
    fflush(stdout);
    _exit(9);
}

static uint64_t *map(int flags, size_t pages)
{
    uint64_t *all = mmap(0, pages * 4096, PROT_READ | PROT_WRITE, flags | MAP_ANONYMOUS, -1, 0);
    if (all == MAP_FAILED)
        bad("mmap", errno, 0);
    return all;
}

int main(void)
{
    uint64_t *shared = map(MAP_SHARED, 64), *private = map(MAP_PRIVATE, PAGES);
    uint64_t *kept_back = map(MAP_PRIVATE, 16);
    /* What a fork does not copy is part of the instant, too. */
    madvise(kept_back, 16 * 4096, MADV_WIPEONFORK);
    for (size_t page = 0; page < PAGES; page++)
        private[page * WORDS] = 0;
    int turns[TASKS][2], me = 0;
    for (int i = 0; i < TASKS; i++)
        if (pipe(turns[i]))
            bad("pipe", errno, 0);
    for (int i = 1; i < TASKS && !me; i++)
        if (!fork())
            me = i;
    uint64_t mine = 0;
    if (!me) {
        uint64_t first = 1;
        if (write(turns[0][1], &first, sizeof first) != sizeof first)
            bad("write", errno, 0);
    }
    for (;;) {
        uint64_t number;
        if (read(turns[me][0], &number, sizeof number) != sizeof number)
            bad("read", errno, 0);
        for (size_t page = 0; page < PAGES; page++)
            if (private[page * WORDS] != mine)
                bad("private memory", private[page * WORDS], mine);
        for (size_t page = 0; page < 16; page++)
            if (kept_back[page * WORDS] != mine)
                bad("memory that is wiped on fork", kept_back[page * WORDS], mine);
        for (size_t page = 0; page < 64; page++)
            if (shared[page * WORDS] != number - 1)
                bad("shared memory", shared[page * WORDS], number - 1);
        mine = number;
        for (size_t page = 0; page < PAGES; page++)
            private[page * WORDS] = number;
        for (size_t page = 0; page < 16; page++)
            kept_back[page * WORDS] = number;
        for (size_t page = 0; page < 64; page++)
            shared[page * WORDS] = number;
        if (number % 200 == 1) {
            printf(number == 1 ? "ready\n" : "turn %lu\n", number);
            fflush(stdout);
        }
        number++;
        if (write(turns[(me + 1) % TASKS][1], &number, sizeof number) != sizeof number)
            bad("write", errno, 0);
        if (me == 0 && number % 4 == 1)
            usleep(100);
    }
}
