/* SPDX-License-Identifier: Apache-2.0 */
/* How fast members answer, and from that how much slower they are than their weights say. Only
 * differences within a fleet count, so nothing is learned from what all nodes share. In shared
 * memory, as a part of a member's record; included by xb_member.h.
 *
 * g: geometric mean of the times to small answers, decayed with a half-life of 30 s, and 40
 * at G besides, so that few say little; G: the same over the fleet; d = ln(g/G). Of a slower
 * member's d 0.25 is ignored, for contents and processors differ, and a small node is a little
 * slower by nature; less if |slow| exceeds 0.35, and 0.1 from 0.5 on: it has been found out. Of
 * a quicker member's d 0.05 is ignored. slow grows by d/100 a second and fades with a time
 * constant of 1000 s. A member's effective weight is weight * exp(-slow), a factor of 1/8 to 8.
 * A member that has restarted begins anew. Source: docs/simulation.md. */
#ifndef XB_PACE_H
#define XB_PACE_H

#include <stdbool.h>
#include <stdint.h>

#define XB_SLOW_MAX 2.0794415416798357 /* ln 8 */

typedef struct {
    _Atomic uint64_t answers, logs; /* raw, only grow; any thread */
    _Atomic uint64_t slow_bits;     /* double; written by the tick, read by any thread */
    /* the tick's own; a holder of the lease that dies in between leaves a sample counted twice
     */
    _Atomic uint64_t answers_seen, logs_seen, count_bits, sum_bits;
    _Atomic int64_t at_us;
    _Atomic uint32_t generation; /* of the node that all this was measured of */
} xb_pace_t;

/* A small answer has begun `us` after its request was sent. Any thread. */
void xb_pace_note(xb_pace_t *p, int64_t us);

/* ln of how much slower the member is than its weight says; 0: as fast as its weight says. Any
 * thread. */
double xb_pace_slow(const xb_pace_t *p);

/* Tick only: a member of the fleet, and what is known of it besides. */
typedef struct {
    xb_pace_t *pace;
    uint32_t generation; /* of its node: another one than last time, and it has restarted */
    bool open;           /* takes new sessions; the others are measured against these */
} xb_pace_of_t;

/* Tick only: all members of one fleet. now_us: of any steady clock. */
void xb_pace_estimate(const xb_pace_of_t *of, unsigned n, int64_t now_us);

#endif
