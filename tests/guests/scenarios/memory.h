/* What the scenarios about memory have in common. */
#ifndef MEMORY_H
#define MEMORY_H

#include "scenario.h"

#include <fcntl.h>
#include <stdint.h>
#include <sys/mman.h>
#include <sys/syscall.h>

enum { PAGE = 4096 };

/* Words that depend on the seed and on their place, and the check that they are there. */
void fill(void *memory, size_t bytes, uint64_t seed);
void check_filled(const void *memory, size_t bytes, uint64_t seed);
void check_zero(const void *memory, size_t bytes);

/* Private or shared memory of some pages, writable. */
char *map_private(size_t pages);
char *map_shared(size_t pages);

/* Whether the mapping of an address has a flag, as in has_flag(p, "lo"). */
bool has_flag(const void *address, const char *flag);

/* The line of /proc/self/maps about an address, in a static buffer; "" if there is none. */
const char *maps_line(const void *address);

/* The access of the mapping of an address is as told: "r--p". */
void check_access(const void *address, const char *access);

/* A field of smaps about the mapping of an address, in KiB. */
long smaps_kib(const void *address, const char *field);

/* Whether reading, or writing, a byte there ends in a signal. */
bool read_faults(const volatile char *address);
bool write_faults(volatile char *address);

/* Forks a child and waits until it calls is_set_up(); it goes on to wait for the dump. */
pid_t child_set_up(void (*run)(void));
void is_set_up(void);

/* A new file with pages filled with a seed, open for reading and writing. */
int file_filled(const char *name, size_t pages, uint64_t seed);

/* Madvise, or a skip where the kernel does not know the advice. */
void advise(void *memory, size_t bytes, int advice);

#endif
