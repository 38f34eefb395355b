/* A thread that notices when it may not run, and the orders that a test gives in a file.
 *
 * The longest gap between two beats, in microseconds, is kept in the file "gap"; the order
 * "forget" starts it anew. The file "do" holds a number and a word, each number once. Beside the
 * gap stand how much work was done so far, and when that was looked at, in seconds.
 */
#include <pthread.h>
#include <stdio.h>
#include <string.h>
#include <time.h>

static volatile double heartbeat_gap;
static volatile unsigned long heartbeat_work;

static inline void heartbeat_once(void)
{
    struct timespec pause = {0, 100000}, before, now;
    clock_gettime(CLOCK_MONOTONIC, &before);
    nanosleep(&pause, 0);
    clock_gettime(CLOCK_MONOTONIC, &now);
    double gap = (now.tv_sec - before.tv_sec) * 1e6 + (now.tv_nsec - before.tv_nsec) / 1e3;
    if (gap > heartbeat_gap)
        heartbeat_gap = gap;
}

static void *heartbeat(void *unused)
{
    for (;;)
        heartbeat_once();
    return unused;
}

static inline void heartbeat_start(void)
{
    pthread_t thread;
    pthread_create(&thread, 0, heartbeat, 0);
}

static inline void heartbeat_tell(void)
{
    FILE *file = fopen("gap.new", "w");
    if (!file)
        return;
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    fprintf(file, "%.0f %lu %.6f\n", heartbeat_gap, heartbeat_work, now.tv_sec + now.tv_nsec / 1e9);
    fclose(file);
    rename("gap.new", "gap");
}

/* The next order not yet done, or 0; *word is set to what is to be done. */
static inline long next_order(long done, char word[16])
{
    long order = 0;
    FILE *file = fopen("do", "r");
    if (!file)
        return 0;
    int found = fscanf(file, "%ld %15s", &order, word);
    fclose(file);
    return found == 2 && order > done ? order : 0;
}
