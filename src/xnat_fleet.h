/* SPDX-License-Identifier: Apache-2.0 */
/* A balancer's members as the policy sees them, and the way from worker to shared record. */
#ifndef XNAT_FLEET_H
#define XNAT_FLEET_H

#include "xnat_config.h"
#include "xnat_shm.h"

#define XNAT_FLEET_MAX 128

/* A snapshot; `worker` pointers stay good (httpd never removes a worker). */
typedef struct {
    unsigned n;
    bool keeps_copies; /* see xnat_keeps_copies */
    proxy_worker *worker[XNAT_FLEET_MAX];
    unsigned member[XNAT_FLEET_MAX]; /* index of the shared record */
    xb_load_t load[XNAT_FLEET_MAX];
} xnat_fleet_t;

/* Keyed hash of the balancer's name in this virtual host. */
uint64_t xnat_fleet_key(const proxy_balancer *b);

/* What this process has met; written once per member, the worker last. */
typedef struct {
    xnat_balancer_t *balancer;
    proxy_worker *worker;
} xnat_fleet_met_t;
extern xnat_fleet_met_t xnat_fleet_met[XB_MEMBERS_MAX];

/* Shared record of a worker of this balancer, made if need be; XB_MEMBER_NONE if there is no
 * room. */
unsigned xnat_fleet_meet(proxy_balancer *b, proxy_worker *w);
/* The index is kept in worker->context, which stock code leaves to others; two threads that set
 * it at once set the same. */
static inline unsigned xnat_fleet_member(proxy_balancer *b, proxy_worker *w)
{
    uintptr_t known = (uintptr_t)__atomic_load_n(&w->context, __ATOMIC_RELAXED);
    return known ? (unsigned)known - 1 : xnat_fleet_meet(b, w);
}
/* And back, in this process; NULL if this process has not met it yet. */
static inline proxy_worker *xnat_fleet_worker(unsigned member)
{
    return member < XB_MEMBERS_MAX
               ? __atomic_load_n(&xnat_fleet_met[member].worker, __ATOMIC_ACQUIRE)
               : NULL;
}
xnat_balancer_t *xnat_fleet_balancer(unsigned member);
/* The member whose route an id names; XB_MEMBER_NONE: none. Takes the balancer's thread lock.
 */
unsigned xnat_fleet_member_of(xnat_balancer_t *xb, xb_span_t route);

/* Takes the snapshot and scores it. `locked`: the caller holds the balancer's thread lock
 * (finder); else it is taken for the copy of the worker list. */
void xnat_fleet_snapshot(xnat_balancer_t *xb, bool locked, int64_t now_us, xnat_fleet_t *out);

/* What a session is worth on average; a request's cost while none is counted. */
xb_worth_t xnat_fleet_worth(const xnat_balancer_t *xb, const xnat_fleet_t *f);

/* Position in the snapshot, -1: not a member of this balancer. By record, or else by route (the
 * same node may be a member of two balancers). */
int xnat_fleet_position(const xnat_fleet_t *f, unsigned member);

/* Where a session may still have a copy, by position: nodes that it has been at, unless the
 * copy must have died of age or with its node (a hint: the proof of a takeover is in the
 * store). */
void xnat_fleet_visited(const xnat_fleet_t *f, const xb_view_t *v, int64_t now_us,
                        bool *visited);
/* When the member's node was last seen to have restarted. */
int64_t xnat_fleet_reborn_us(unsigned member);

#endif
