/* SPDX-License-Identifier: Apache-2.0 */
/* Who gets a new session, and from where to where one should move. Pure functions over a
 * snapshot of a balancer's members, any thread; the same code runs in the module and under
 * simulation. Score of member i over the members that can serve, 1 = balanced:
 *
 *   T = (traffic/w) / (sum traffic / sum w)
 *   Q = ((occupancy+2)/w) / (sum (occupancy+2) / sum w)
 *   k = sum occupancy / (sum occupancy + members/2)
 *   score = (T + beta*(1 + k*(Q-1))) / (1 + beta),  beta = 4
 *
 * w is the effective weight: lbfactor * exp(-slow). The "+2" is worth more at a small node,
 * where chance matters more. k lets an idle fleet go by traffic alone: there Q would favour the
 * heaviest member for its "+2", and the lightest would get no session. Source:
 * docs/simulation.md. */
#ifndef XB_POLICY_H
#define XB_POLICY_H

#include <stdbool.h>
#include <stdint.h>

enum {
    XB_LOAD_USABLE = 1, /* httpd would send it a request now */
    XB_LOAD_NEW = 2
}; /* and may send it a new session: not draining, disabled, standby */

typedef struct {
    double weight;     /* lbfactor, > 0 */
    double slow;       /* xb_pace_slow: ln of how much slower it is than its weight says */
    double traffic;    /* decayed bytes in and out plus the cost of each request */
    double occupancy;  /* decayed mean of requests in flight */
    uint32_t sessions; /* that have it as home */
    unsigned flags;
    double score; /* out */
} xb_load_t;

typedef struct {
    double threshold;     /* by how much the home's score must exceed the target's */
    double min_occupancy; /* a home with fewer requests in flight is not overloaded */
} xb_policy_t;

/* Members whose figures are not known yet count as if they carried their fair share of the
 * others' traffic and requests in flight. */
void xb_policy_fill_newcomers(xb_load_t *load, unsigned n, const bool *known);

/* Fills score for every usable member; unusable ones get +infinity. */
void xb_policy_score(xb_load_t *load, unsigned n);

/* The better of two scored members for a new session: <0 a, >0 b, never 0 for a != b (index
 * breaks ties, so that every process agrees). */
int xb_policy_better(const xb_load_t *load, unsigned a, unsigned b);

/* The pair (from, to) with the largest difference that deserves an overload move; false:
 * balanced. `from` has sessions and is usable, `to` may take new sessions. */
bool xb_policy_overload(const xb_load_t *load, unsigned n, const xb_policy_t *p, unsigned *from,
                        unsigned *to);

/* The session that an overload move takes, as far as its home's sessions have been looked at.
 * Starts as all zero. */
typedef struct {
    bool found;
    double traffic; /* of the one chosen; 0: it would turn the imbalance round */
} xb_choice_t;

/* Is a session of `from`, whose own decayed traffic is this and which could go to `to`, to be
 * taken rather than the one chosen before? If so the choice is now this one. The busiest of
 * those that do not turn the imbalance round is: one move relieves as much as it can. One that
 * does is taken only if there is no other. */
bool xb_policy_choose(const xb_load_t *load, const xb_policy_t *p, unsigned from, unsigned to,
                      double traffic, xb_choice_t *choice);

/* Where one session that must leave `home` should go: the best member that may take it and
 * whose bit is not set in visited[]. -1: none. free_left: how many unvisited candidates remain
 * after it. */
int xb_policy_target(const xb_load_t *load, unsigned n, unsigned home, const bool *visited,
                     unsigned *free_left);

/* What a session is worth: what it adds to its home's figures. */
typedef struct {
    double bytes;    /* decayed traffic */
    double requests; /* in flight */
} xb_worth_t;

/* On average over the usable members; nothing without sessions. */
xb_worth_t xb_policy_mean_worth(const xb_load_t *load, unsigned n);

/* A session whose own decayed traffic is this: its share in the traffic of its home is its
 * share in the requests in flight. */
xb_worth_t xb_policy_own_worth(const xb_load_t *home, double traffic);

/* Token bucket for XnatBalanceMoveRate; one word in shared memory, compare-and-swap, any
 * thread. */
typedef struct {
    _Atomic uint64_t word;
} xb_bucket_t;

/* Look-ups of sessions that nobody knows: clients can invent ids. */
#define XB_LOOKUPS_PER_S 500.0
#define XB_LOOKUPS_BURST (2 * XB_LOOKUPS_PER_S)

/* Takes a token if there is one. rate per second > 0, burst >= 1. */
bool xb_bucket_take(xb_bucket_t *b, double rate, double burst, int64_t now_us);

#endif
