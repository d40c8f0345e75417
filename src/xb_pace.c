/* SPDX-License-Identifier: Apache-2.0 */
/* Times to small answers, and the estimate that follows from them. All words are relaxed: each
 * is whole in itself, and guards no other memory. */
#include "xb_pace.h"

#include <math.h>
#include <stdatomic.h>
#include <string.h>

#define LOG_UNIT 1024.0  /* logs: sum of ln(us) in these parts */
#define HALF_LIFE_S 30.0 /* of the times */
#define SLOWER 0.25      /* ignored of a difference to the slow side, while nothing is sure */
#define SLOWER_SURE 0.1  /* and of a member that has been found out */
#define SURE 0.5         /* slow, either way */
#define QUICKER 0.05     /* ignored to the quick side */
#define PRIOR 40.0       /* answers that every member is taken to have given at G */
#define GAIN_PER_S 0.01  /* slower than sessions can follow, or it would swing */
#define FADE_S 1000.0    /* a node that is out of use is tried again after some minutes */
#define STEP_MAX_S 1.0   /* no leap after a pause without a tick */

static double load(const _Atomic uint64_t *word)
{
    uint64_t bits = atomic_load_explicit(word, memory_order_relaxed);
    double x;

    memcpy(&x, &bits, sizeof x);
    return x;
}

static void store(_Atomic uint64_t *word, double x)
{
    uint64_t bits;

    memcpy(&bits, &x, sizeof bits);
    atomic_store_explicit(word, bits, memory_order_relaxed);
}

void xb_pace_note(xb_pace_t *p, int64_t us)
{
    uint64_t parts = us > 1 ? (uint64_t)(log((double)us) * LOG_UNIT + 0.5) : 0;

    atomic_fetch_add_explicit(&p->answers, 1, memory_order_relaxed);
    atomic_fetch_add_explicit(&p->logs, parts, memory_order_relaxed);
}

double xb_pace_slow(const xb_pace_t *p)
{
    return load(&p->slow_bits);
}

static double elapsed_s(const xb_pace_t *p, int64_t now_us)
{
    int64_t at_us = atomic_load_explicit(&p->at_us, memory_order_relaxed);

    return at_us && now_us > at_us ? (double)(now_us - at_us) / 1e6 : 0;
}

/* A node that has restarted need not be what it was. */
static void begin_anew(xb_pace_t *p, uint32_t generation)
{
    store(&p->count_bits, 0);
    store(&p->sum_bits, 0);
    store(&p->slow_bits, 0);
    atomic_store_explicit(&p->generation, generation, memory_order_relaxed);
}

/* What has come since the last time is added to what is left of the rest. */
static void collect(const xb_pace_of_t *of, int64_t now_us, double *count, double *sum)
{
    xb_pace_t *p = of->pace;
    uint64_t answers = atomic_load_explicit(&p->answers, memory_order_relaxed);
    uint64_t logs = atomic_load_explicit(&p->logs, memory_order_relaxed);
    uint64_t answers_seen = atomic_load_explicit(&p->answers_seen, memory_order_relaxed);
    uint64_t logs_seen = atomic_load_explicit(&p->logs_seen, memory_order_relaxed);
    double keep = exp2(-elapsed_s(p, now_us) / HALF_LIFE_S);

    if (atomic_load_explicit(&p->generation, memory_order_relaxed) != of->generation)
        begin_anew(p, of->generation);
    *count = load(&p->count_bits) * keep + (double)(answers - answers_seen);
    *sum = load(&p->sum_bits) * keep + (double)(logs - logs_seen) / LOG_UNIT;
    store(&p->count_bits, *count);
    store(&p->sum_bits, *sum);
    atomic_store_explicit(&p->answers_seen, answers, memory_order_relaxed);
    atomic_store_explicit(&p->logs_seen, logs, memory_order_relaxed);
}

/* Less and less of a slower member's from 0.15 before it is found out. A weight that is too low
 * shows less than one that is too high: its member gives most of the answers that it is
 * measured by. */
static double ignored(double slow, double difference)
{
    double slower = SLOWER_SURE + fmax(SURE - fabs(slow), 0);

    return difference > 0 ? fmin(slower, SLOWER) : QUICKER;
}

/* Mean ln of the times, with some answers as they are in the fleet, against the fleet's. */
static double behind(const xb_pace_t *p, double fleet)
{
    double count = load(&p->count_bits), sum = load(&p->sum_bits);
    double difference = (sum + PRIOR * fleet) / (count + PRIOR) - fleet;

    return copysign(fmax(fabs(difference) - ignored(xb_pace_slow(p), difference), 0),
                    difference);
}

void xb_pace_estimate(const xb_pace_of_t *of, unsigned n, int64_t now_us)
{
    double count, sum, all = 0, fleet = 0;

    for (unsigned i = 0; i < n; i++) {
        collect(&of[i], now_us, &count, &sum);
        all += of[i].open ? count : 0;
        fleet += of[i].open ? sum : 0;
    }
    for (unsigned i = 0; i < n; i++) {
        xb_pace_t *p = of[i].pace;
        double dt_s = fmin(elapsed_s(p, now_us), STEP_MAX_S), slow = xb_pace_slow(p);
        double drive = all > 0 ? GAIN_PER_S * behind(p, fleet / all) : 0;

        slow += dt_s * (drive - slow / FADE_S);
        store(&p->slow_bits, fmax(-XB_SLOW_MAX, fmin(XB_SLOW_MAX, slow)));
        atomic_store_explicit(&p->at_us, now_us, memory_order_relaxed);
    }
}
