/* A tree of forked workers that know every byte of their memory.
 *
 *   pool MIB SHAPE CHILDREN PERCENT
 *
 * MIB of memory are filled; then, with the shape "star", CHILDREN are forked, each of which
 * changes PERCENT of its pages, and so does the parent; with "chain", each child is forked by
 * the one before. Then all obey the file "do": a number and a word, each number once.
 * "change" changes another PERCENT, "same" does so in the same way in all tasks, "verify" checks
 * every word. They say "N done PID", or "BAD ...". The root has a heartbeat.
 */
#define _GNU_SOURCE
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "heartbeat.h"

enum { WORDS = 512 };

static size_t pages, percent;
static uint64_t *memory, *seeds;

static uint64_t mixed(uint64_t x)
{
    x += 0x9e3779b97f4a7c15;
    x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9;
    x = (x ^ (x >> 27)) * 0x94d049bb133111eb;
    return x ^ (x >> 31);
}

static void fill(size_t page, uint64_t seed)
{
    seeds[page] = seed;
    for (size_t i = 0; i < WORDS; i++)
        memory[page * WORDS + i] = mixed(seed + page * WORDS + i);
}

static void change(uint64_t seed)
{
    for (size_t page = 0; page < pages; page++)
        if (mixed(seed * 31 + page) % 100 < percent)
            fill(page, mixed(seed));
}

static void verify(void)
{
    for (size_t page = 0; page < pages; page++)
        for (size_t i = 0; i < WORDS; i++)
            if (memory[page * WORDS + i] != mixed(seeds[page] + page * WORDS + i)) {
                printf("BAD page %zu word %zu of %d\n", page, i, getpid());
                fflush(stdout);
                _exit(9);
            }
}

int main(int count, char **arguments)
{
    if (count != 5)
        return 2;
    pages = strtoul(arguments[1], 0, 10) * 256;
    int is_chain = !strcmp(arguments[2], "chain");
    int children = atoi(arguments[3]);
    percent = strtoul(arguments[4], 0, 10);
    memory = mmap(0, pages * 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    madvise(memory, pages * 4096, MADV_NOHUGEPAGE);
    seeds = mmap(0, pages * 8, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (memory == MAP_FAILED || seeds == MAP_FAILED)
        return 3;
    for (size_t page = 0; page < pages; page++)
        fill(page, 1);

    int ready[2], number = 0, is_root = 1;
    if (pipe(ready))
        return 4;
    for (int child = 1; child <= children; child++) {
        if (fork()) {
            if (is_chain)
                break;
            continue;
        }
        is_root = 0;
        number = child;
        if (!is_chain)
            break;
        /* What the next one inherits is changed before it is forked. */
        change(1000 + number);
    }
    if (!is_chain)
        change(1000 + number);
    if (is_root) {
        char byte;
        for (int child = 0; child < children; child++)
            if (read(ready[0], &byte, 1) != 1)
                return 5;
        heartbeat_start();
        puts("ready");
        fflush(stdout);
    } else if (write(ready[1], "r", 1) != 1) {
        return 6;
    }
    for (long done = 0;; usleep(5000)) {
        char word[16];
        long order = next_order(done, word);
        if (is_root)
            heartbeat_tell();
        if (!order)
            continue;
        done = order;
        if (!strcmp(word, "change"))
            change(order * 100 + number);
        else if (!strcmp(word, "same"))
            change(order * 100);
        else if (!strcmp(word, "verify"))
            verify();
        else
            heartbeat_gap = 0;
        printf("%ld done %d\n", order, getpid());
        fflush(stdout);
    }
}
