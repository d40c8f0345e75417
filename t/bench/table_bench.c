/* SPDX-License-Identifier: Apache-2.0 */
/* How many requests per second the session table lets in and out again: one thread, then four
 * processes of four and of sixteen threads; over few sessions (in the cache), the default
 * number and a million. All in turn, ROUNDS times, since other work on the machine comes and
 * goes: make bench-table */
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "xb_table.h"

#define SESSIONS 1000000u
#define PAIRS 2000000u
#define ROUNDS 9

static xb_table_t *table;
static unsigned among, pairs;
static int child;

static int64_t now_us(void)
{
    struct timespec at;
    clock_gettime(CLOCK_MONOTONIC, &at);
    return at.tv_sec * INT64_C(1000000) + at.tv_nsec / 1000;
}

static uint64_t nth_tag(unsigned n)
{
    uint64_t z = (n + 1) * 0x9e3779b97f4a7c15u;
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
    return z ^ (z >> 31);
}

static void *requests(void *arg)
{
    unsigned at = *(unsigned *)arg * 7919;
    int64_t now = now_us();
    xb_ref_t ref;
    for (unsigned n = 0; n < pairs; n++) {
        at = at * 1664525 + 1013904223;
        if (xb_table_enter(table, (unsigned)child, nth_tag((at >> 8) % among), now + n, &ref) ==
            XB_ENTER_IN)
            xb_table_leave(table, &ref, now + n, 0, 1000, 60);
    }
    return NULL;
}

static void process(unsigned p, unsigned threads)
{
    pthread_t thread[16];
    unsigned number[16];
    child = xb_table_child_open(table, (int)p + 1);
    for (unsigned i = 0; i < threads; i++) {
        number[i] = p * threads + i;
        pthread_create(&thread[i], NULL, requests, &number[i]);
    }
    for (unsigned i = 0; i < threads; i++)
        pthread_join(thread[i], NULL);
    xb_table_child_close(table, (unsigned)child);
}

static int64_t cpu_us(void)
{
    struct rusage used;
    getrusage(RUSAGE_CHILDREN, &used);
    return (used.ru_utime.tv_sec + used.ru_stime.tv_sec) * INT64_C(1000000) +
           used.ru_utime.tv_usec + used.ru_stime.tv_usec;
}

typedef struct {
    double wall, cpu;
} rate_t;

/* Requests per second and per second of processor time, in millions. */
static rate_t measure(unsigned processes, unsigned threads, unsigned sessions)
{
    int64_t from = now_us(), cpu_from = cpu_us();
    among = sessions;
    pairs = PAIRS / processes / threads;
    for (unsigned p = 0; p < processes; p++)
        if (fork() == 0) {
            process(p, threads);
            _exit(0);
        }
    while (wait(NULL) > 0)
        ;
    double all = pairs * processes * threads;
    return (rate_t){all / (double)(now_us() - from), all / (double)(cpu_us() - cpu_from)};
}

static int by_size(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

static void measure_all(void)
{
    static const unsigned processes[] = {1, 4, 4}, threads[] = {1, 4, 16},
                          sessions[] = {512, 65536, SESSIONS};
    double wall[9][ROUNDS], cpu[9][ROUNDS];
    for (unsigned round = 0; round < ROUNDS; round++)
        for (unsigned i = 0; i < 9; i++) {
            rate_t r = measure(processes[i % 3], threads[i % 3], sessions[i / 3]);
            wall[i][round] = r.wall;
            cpu[i][round] = r.cpu;
        }
    printf("requests in and out, millions; %u times, median (lowest to highest)\n%37s%22s\n",
           ROUNDS, "a second", "a second of a core");
    for (unsigned i = 0; i < 9; i++) {
        qsort(wall[i], ROUNDS, sizeof wall[i][0], by_size);
        qsort(cpu[i], ROUNDS, sizeof cpu[i][0], by_size);
        printf("%7u sessions, %u x %2u %6.2f (%.2f to %.2f) %6.2f (%.2f to %.2f)\n",
               sessions[i / 3], processes[i % 3], threads[i % 3], wall[i][ROUNDS / 2],
               wall[i][0], wall[i][ROUNDS - 1], cpu[i][ROUNDS / 2], cpu[i][0],
               cpu[i][ROUNDS - 1]);
    }
}

int main(void)
{
    xb_table_dim_t dim = {SESSIONS, 8, 64};
    void *mem = mmap(NULL, xb_table_size(&dim), PROT_READ | PROT_WRITE,
                     MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    if (mem == MAP_FAILED || !(table = xb_table_init(mem, &dim)))
        return 1;
    child = xb_table_child_open(table, 1);
    for (unsigned i = 0; i < SESSIONS; i++) {
        xb_ref_t ref;
        bool forgot;
        if (xb_table_insert(table, (unsigned)child, nth_tag(i), (xb_span_t){"id", 2}, 1, 0, 0,
                            1, &ref, &forgot) == XB_INSERT_NEW)
            xb_table_leave(table, &ref, 1, 0, 0, 60);
    }
    xb_table_child_close(table, (unsigned)child);
    printf("%.1f bytes per session\n", (double)xb_table_size(&dim) / SESSIONS);
    measure_all();
    return 0;
}
