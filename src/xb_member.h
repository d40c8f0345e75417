/* SPDX-License-Identifier: Apache-2.0 */
/* Shared records of balancer members: what the module counts of them and the decayed figures
 * that the policy reads. In shared memory, found by key, never freed, never moved: an index
 * once handed out stays good until httpd stops. Raw counters are atomic adds from any thread;
 * the decayed figures are written by one tick thread at a time (the lease holder) and read by
 * all through a sequence number. No locks. Times: microseconds of one monotonic clock shared by
 * all processes. */
#ifndef XB_MEMBER_H
#define XB_MEMBER_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "xb_pace.h"
#include "xb_policy.h"

#define XB_MEMBERS_MAX 512
#define XB_CREDIT_UNIT 4096
#define XB_MEMBER_NONE 1023 /* fits the ten bits of a session's home */

/* One state of the decayed figures, and the raw counters as far as they are in it. */
typedef struct {
    _Atomic uint64_t traffic_bits, occupancy_bits; /* doubles */
    _Atomic uint64_t bytes, requests;              /* raw, wrapping; bytes with the credit */
    _Atomic int64_t credit_requests;               /* raw */
    _Atomic int64_t at_us;
} xb_figures_t;

typedef struct {
    _Atomic uint64_t key; /* 0: free. Keyed hash of balancer and worker; set once by CAS */
    /* raw, only grow; any thread */
    _Atomic uint64_t bytes_in, bytes_out; /* from the client, from the node */
    _Atomic uint64_t requests;
    /* Work promised by elections and moves, may be negative: bytes, and requests in flight in
     * 1/XB_CREDIT_UNIT. */
    _Atomic int64_t credit_bytes, credit_requests;
    _Atomic uint64_t elected, moved_in, moved_out, failed_over;
    /* written by the tick */
    xb_figures_t figures[2];     /* [seq & 1] is in force, the other is the tick's to write */
    _Atomic uint32_t seq;        /* grows by one each time; 0: a newcomer without figures */
    _Atomic uint32_t sessions;   /* counted by the tick's walk */
    _Atomic uint32_t generation; /* of the node behind it: grows when it restarted */
    _Atomic uint32_t down;       /* 1: was found not listening, and not up again since */
    _Atomic int64_t reborn_us;   /* when the node was last seen to have restarted; 0: never */
    xb_pace_t pace;
} xb_member_t;

/* Members of one httpd and the requests in flight at them, by child: a dead child's counts are
 * cleared as a whole, so a kill leaves no member busy. */
typedef struct {
    uint32_t children;
    uint32_t pad;
    xb_member_t member[XB_MEMBERS_MAX];
    _Atomic uint32_t busy[]; /* [XB_MEMBERS_MAX][children]: a sum reads few cache lines */
} xb_members_t;

size_t xb_members_size(uint32_t children);
void xb_members_init(xb_members_t *m, uint32_t children);

/* Index of the member with this key, made if need be; XB_MEMBER_NONE when all are taken. key !=
 * 0 */
unsigned xb_member_find(xb_members_t *m, uint64_t key);

/* A request begins or ends at a member, in child `child`. A child or member out of range
 * (XB_MEMBER_NONE) is nobody's: nothing is counted. */
void xb_member_enter(xb_members_t *m, uint32_t child, unsigned i);
void xb_member_leave(xb_members_t *m, uint32_t child, unsigned i);
uint32_t xb_member_busy(const xb_members_t *m, unsigned i); /* over all children */
void xb_members_clear_child(xb_members_t *m, uint32_t child);

/* Work that is to come counts at once: it decays as fast as the work itself, when it comes, is
 * noticed. Negative: it goes away. Any thread. */
void xb_member_credit(xb_members_t *m, unsigned i, double bytes, double requests_in_flight);

typedef struct {
    double half_life_s, busy_half_life_s;
    double request_cost; /* bytes */
} xb_decay_t;

/* The decayed figures as of now: what the tick has folded, decayed on, plus what came since.
 * Any thread. False for a newcomer that the tick has not seen yet (use the fleet's mean). */
bool xb_member_read(const xb_members_t *m, unsigned i, const xb_decay_t *d, int64_t now_us,
                    double *traffic, double *occupancy);

/* Tick only: folds the raw counters into the decayed figures: traffic by 2^(-dt/H), occupancy
 * an exponential mean of requests in flight. Exact for any dt. What came since the last fold
 * counts as of now. */
void xb_member_fold(xb_members_t *m, unsigned i, const xb_decay_t *d, int64_t now_us);

/* Tick only: folds the members of one fleet; member[i] is the index of load[i]. Newcomers, and
 * members that cannot take new sessions, are kept at least at the mean of those that can,
 * weight by weight, so that they are not flooded when they come. */
void xb_member_fold_fleet(xb_members_t *m, const unsigned *member, const xb_load_t *load,
                          unsigned n, const xb_decay_t *d, int64_t now_us);

/* Tick only: sets the decayed figures. */
void xb_member_join(xb_members_t *m, unsigned i, int64_t now_us, double traffic,
                    double occupancy);

#endif
