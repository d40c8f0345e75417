/* SPDX-License-Identifier: Apache-2.0 */
/* Scores, elections, overload moves and the bucket that limits them. Pure, any thread. */
#include "xb_policy.h"

#include "xb_pace.h"

#include <math.h>
#include <stdatomic.h>

#define BETA 4.0         /* weight of requests in flight against traffic */
#define QUEUE_OFFSET 2.0 /* the "+2": keeps Q calm on a nearly idle fleet, and small nodes */
/* Requests in flight, per member, at which they count half: a nearly idle fleet is balanced by
 * traffic alone, or its lightest members would get no session at all for the "+2". */
#define IDLE_QUEUE 0.5
#define AMOUNT_MAX 1e18  /* keeps sums and quotients finite whatever a counter says */
#define IDLE_BYTES 1.0   /* less than a byte in all: there is no traffic to compare */
#define TIME_MAX_NS 1e18 /* some 30 years; sums of four of them still fit an int64 */

static bool is_usable(const xb_load_t *l)
{
    return l->flags & XB_LOAD_USABLE;
}

static bool takes_new(const xb_load_t *l)
{
    const unsigned both = XB_LOAD_USABLE | XB_LOAD_NEW;

    return (l->flags & both) == both;
}

/* A credit may have driven traffic below zero; NaN counts as nothing. */
static double amount(double x)
{
    return x > 0 ? fmin(x, AMOUNT_MAX) : 0;
}

static double weight(const xb_load_t *l)
{
    double lbfactor = l->weight > 0 && l->weight < AMOUNT_MAX ? l->weight : 1;

    return fabs(l->slow) <= XB_SLOW_MAX ? lbfactor * exp(-l->slow) : lbfactor;
}

typedef struct {
    double weight, traffic, queue;
    double heed; /* 0 to 1: how much requests in flight say of this fleet */
} xb_sums_t;

static xb_sums_t sums_of(const xb_load_t *load, unsigned n)
{
    xb_sums_t sum = {0, 0, 0, 0};
    double inflight = 0, idle = 0;

    for (unsigned i = 0; i < n; i++) {
        if (is_usable(&load[i])) {
            sum.weight += weight(&load[i]);
            sum.traffic += amount(load[i].traffic);
            sum.queue += amount(load[i].occupancy) + QUEUE_OFFSET;
            inflight += amount(load[i].occupancy);
            idle += IDLE_QUEUE;
        }
    }
    sum.heed = inflight > 0 ? inflight / (inflight + idle) : 0;
    return sum;
}

void xb_policy_fill_newcomers(xb_load_t *load, unsigned n, const bool *known)
{
    double traffic = 0, occupancy = 0, sum = 0;

    for (unsigned i = 0; i < n; i++) {
        if (known[i]) {
            traffic += load[i].traffic;
            occupancy += load[i].occupancy;
            sum += load[i].weight;
        }
    }
    for (unsigned i = 0; i < n; i++) {
        if (!known[i] && sum > 0) {
            load[i].traffic = load[i].weight * traffic / sum;
            load[i].occupancy = load[i].weight * occupancy / sum;
        }
    }
}

void xb_policy_score(xb_load_t *load, unsigned n)
{
    xb_sums_t sum = sums_of(load, n);

    for (unsigned i = 0; i < n; i++) {
        xb_load_t *l = &load[i];

        l->score = INFINITY;
        if (is_usable(l)) {
            double share = weight(l) / sum.weight;
            double t = sum.traffic < IDLE_BYTES ? 1 : amount(l->traffic) / sum.traffic / share;
            double q = (amount(l->occupancy) + QUEUE_OFFSET) / sum.queue / share;

            l->score = (t + BETA * (1 + sum.heed * (q - 1))) / (1 + BETA);
        }
    }
}

int xb_policy_better(const xb_load_t *load, unsigned a, unsigned b)
{
    if (load[a].score != load[b].score)
        return load[a].score < load[b].score ? -1 : 1;
    return a < b ? -1 : a > b;
}

static bool may_shed(const xb_load_t *l, const xb_policy_t *p)
{
    return is_usable(l) && l->sessions > 0 && l->occupancy >= p->min_occupancy;
}

bool xb_policy_overload(const xb_load_t *load, unsigned n, const xb_policy_t *p, unsigned *from,
                        unsigned *to)
{
    int worst = -1, best = -1;

    for (unsigned i = 0; i < n; i++) {
        if (may_shed(&load[i], p) && (worst < 0 || load[i].score > load[worst].score))
            worst = (int)i;
        if (takes_new(&load[i]) && (best < 0 || load[i].score < load[best].score))
            best = (int)i;
    }
    if (worst < 0 || best < 0 || worst == best ||
        !(load[worst].score - load[best].score > p->threshold))
        return false;
    *from = (unsigned)worst;
    *to = (unsigned)best;
    return true;
}

/* What makes both carry the same for their weight. */
static double most_to_move(const xb_load_t *a, const xb_load_t *b)
{
    double gap = amount(a->traffic) / weight(a) - amount(b->traffic) / weight(b);

    return gap / (1 / weight(a) + 1 / weight(b));
}

bool xb_policy_choose(const xb_load_t *load, const xb_policy_t *p, unsigned from, unsigned to,
                      double traffic, xb_choice_t *choice)
{
    double most = most_to_move(&load[from], &load[to]);

    if (!(load[from].score - load[to].score > p->threshold))
        return false;
    if (choice->found && (traffic > most || traffic < choice->traffic))
        return false;
    choice->found = true;
    choice->traffic = traffic > most ? 0 : traffic;
    return true;
}

int xb_policy_target(const xb_load_t *load, unsigned n, unsigned home, const bool *visited,
                     unsigned *free_left)
{
    int best = -1;
    unsigned candidates = 0;

    for (unsigned i = 0; i < n; i++) {
        if (i == home || visited[i] || !takes_new(&load[i]))
            continue;
        candidates++;
        if (best < 0 || xb_policy_better(load, i, (unsigned)best) < 0)
            best = (int)i;
    }
    *free_left = candidates ? candidates - 1 : 0;
    return best;
}

xb_worth_t xb_policy_mean_worth(const xb_load_t *load, unsigned n)
{
    xb_worth_t sum = {0, 0};
    double sessions = 0;

    for (unsigned i = 0; i < n; i++) {
        if (is_usable(&load[i])) {
            sum.bytes += amount(load[i].traffic);
            sum.requests += amount(load[i].occupancy);
            sessions += load[i].sessions;
        }
    }
    return sessions > 0 ? (xb_worth_t){sum.bytes / sessions, sum.requests / sessions}
                        : (xb_worth_t){0, 0};
}

xb_worth_t xb_policy_own_worth(const xb_load_t *home, double traffic)
{
    double own = amount(traffic), all = amount(home->traffic);

    return (xb_worth_t){own, all > 0 ? fmin(own / all, 1) * amount(home->occupancy) : 0};
}

/* The word is the instant, in nanoseconds, at which the bucket will be full again (the
 * "theoretical arrival time" of the generic cell rate algorithm): 0 is a full bucket, and
 * nothing is ever refilled. Nanoseconds, rounded up, so that no rate yields more than it says.
 * A debt made at another rate stands: burst / rate seconds of the old settings at most.
 * Relaxed: the bucket guards no other memory. */
static bool replace(xb_bucket_t *b, uint64_t *old, uint64_t next)
{
    return atomic_compare_exchange_weak_explicit(&b->word, old, next, memory_order_relaxed,
                                                 memory_order_relaxed);
}

bool xb_bucket_take(xb_bucket_t *b, double rate, double burst, int64_t now_us)
{
    if (!(rate > 0) || !(burst >= 1))
        return false;
    int64_t each = (int64_t)ceil(fmin(1e9 / rate, TIME_MAX_NS));
    int64_t room = (int64_t)fmin((burst - 1) * (double)each, TIME_MAX_NS);
    int64_t now = now_us * 1000;
    uint64_t old = atomic_load_explicit(&b->word, memory_order_relaxed);
    int64_t full;

    do {
        full = (int64_t)old > now ? (int64_t)old : now;
        if (full - now > room)
            return false;
    } while (!replace(b, &old, (uint64_t)(full + each)));
    return true;
}
