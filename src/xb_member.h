/* SPDX-License-Identifier: Apache-2.0 */
/* Shared records of balancer members: what the module counts of them and the decayed figures that
 * the policy reads. In shared memory, found by key, never freed, never moved: an index once handed
 * out stays good until httpd stops. Raw counters are atomic adds from any thread; the decayed pair
 * is written by one tick thread at a time (the lease holder) and read by all through a sequence
 * number. No locks. Times: microseconds of one monotonic clock shared by all processes. */
#ifndef XB_MEMBER_H
#define XB_MEMBER_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define XB_MEMBERS_MAX 512
#define XB_MEMBER_NONE 1023 /* fits the ten bits of a session's home */

typedef struct {
    _Atomic uint64_t key; /* 0: free. Keyed hash of balancer and worker; set once by CAS */
    /* raw, only grow; any thread */
    _Atomic uint64_t bytes_in, bytes_out; /* from the client, from the node */
    _Atomic uint64_t requests;
    _Atomic int64_t credit_bytes; /* work promised by elections and moves, may be negative */
    _Atomic uint64_t elected, moved_in, moved_out, failed_over;
    /* decayed, written by the tick */
    _Atomic uint32_t seq; /* odd while the tick writes */
    _Atomic uint32_t sessions; /* counted by the tick's walk */
    _Atomic uint64_t traffic_bits, occupancy_bits; /* doubles */
    _Atomic uint64_t folded; /* raw work already in traffic, as a wrapping uint64 */
    _Atomic int64_t folded_at_us; /* 0: never folded, so a newcomer */
    _Atomic uint32_t generation; /* of the node behind it: grows when it restarted */
    _Atomic uint32_t spare;
} xb_member_t;

/* Members of one httpd and the requests in flight at them, by child: a dead child's row is cleared
 * as a whole, so a kill leaves no member busy. */
typedef struct {
    uint32_t children; /* rows of busy[] */
    uint32_t pad;
    xb_member_t member[XB_MEMBERS_MAX];
    _Atomic uint32_t busy[]; /* [children][XB_MEMBERS_MAX] */
} xb_members_t;

size_t xb_members_size(uint32_t children);
void xb_members_init(xb_members_t *m, uint32_t children);

/* Index of the member with this key, made if need be; XB_MEMBER_NONE when all are taken. key != 0 */
unsigned xb_member_find(xb_members_t *m, uint64_t key);

/* A request begins or ends at a member, in child row `child`. */
void xb_member_enter(xb_members_t *m, uint32_t child, unsigned i);
void xb_member_leave(xb_members_t *m, uint32_t child, unsigned i);
uint32_t xb_member_busy(const xb_members_t *m, unsigned i); /* over all children */
void xb_members_clear_child(xb_members_t *m, uint32_t child);

typedef struct {
    double half_life_s, busy_half_life_s;
    double request_cost; /* bytes */
} xb_decay_t;

/* The decayed figures as of now: what the tick has folded, decayed on, plus what came since. Any
 * thread. False for a newcomer that the tick has not seen yet (use the fleet's mean). */
bool xb_member_read(const xb_members_t *m, unsigned i, const xb_decay_t *d, int64_t now_us,
                    double *traffic, double *occupancy);

/* Tick only: folds the raw counters into the decayed figures: traffic by 2^(-dt/H), occupancy an
 * exponential mean of requests in flight. Exact for any dt. */
void xb_member_fold(xb_members_t *m, unsigned i, const xb_decay_t *d, int64_t now_us);

/* Tick only: sets the decayed figures (a member that joins or cannot serve is kept at the mean of
 * the others, weight by weight, so that it is not flooded when it comes). */
void xb_member_join(xb_members_t *m, unsigned i, const xb_decay_t *d, int64_t now_us,
                    double traffic, double occupancy);

#endif
