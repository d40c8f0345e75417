/* SPDX-License-Identifier: Apache-2.0 */
/* What a move asks of memcached and tells it. Worker threads of the mover only. Each call is
 * bounded by XnatBalanceMemcachedTimeout and goes through the node's breaker. */
#ifndef XNAT_MOVE_STORE_H
#define XNAT_MOVE_STORE_H

#include "xb_store_reply.h"
#include "xnat_move.h"

/* Are all memcacheds of the list in service? Tries those whose breaker wants a try. */
bool xnat_move_store_up(xnat_hands_t *hands, const xnat_balancer_t *xb);

/* Reads the session under this id and checks that it may be moved: pin marker, presence,
 * header; in non-sticky mode validity and lock too. XB_REFUSALS: it may; *total = bytes of the
 * value. */
xb_refusal_t xnat_move_check(xnat_hands_t *hands, const xnat_balancer_t *xb, const xb_id_t *id,
                             xb_msm_head_t *head, size_t *total);

/* What the session's value says of it, if it is one. */
bool xnat_move_header(xnat_hands_t *hands, const xnat_balancer_t *xb, const xb_id_t *id,
                      xb_msm_head_t *head);

/* Writes the moved marker (rule MPRE): the home's route, on every memcached. False: on none. */
bool xnat_move_mark(xnat_hands_t *hands, const xnat_balancer_t *xb, const xb_id_t *id,
                    const char *route, uint32_t ttl_s);

typedef enum {
    XNAT_KEYS_UNKNOWN,
    XNAT_KEYS_NONE,
    XNAT_KEYS_OLD,
    XNAT_KEYS_NEW,
    XNAT_KEYS_BOTH
} xnat_keys_t;

/* Has the session's memcached failed for the first time, and not been asked again since? */
bool xnat_move_store_may_recover(const xnat_balancer_t *xb, const xb_id_t *id);

/* The home that the moved marker names: true, and its route's text in out; *agreed: not another
 * one on another memcached. false with *known: there is none; without: memcached does not
 * answer.
 */
bool xnat_move_marked(xnat_hands_t *hands, const xnat_balancer_t *xb, const xb_id_t *id,
                      char out[PROXY_WORKER_MAX_ROUTE_SIZE], bool *known, bool *agreed);

/* Which of up to XB_STORE_KEYS_MAX ids of one base, given as texts, have a value: bit i of
 * *mask. */
bool xnat_move_which(xnat_hands_t *hands, const xnat_balancer_t *xb, const xb_id_t *id,
                     const char *const *ids, unsigned n, uint32_t *mask);

/* Which of two ids of one session have a value now. */
xnat_keys_t xnat_move_keys(xnat_hands_t *hands, const xnat_balancer_t *xb, const xb_id_t *old,
                           const xb_id_t *fresh);

/* Heartbeat of front ends on every memcached: writes `mine`; true if another's was there, in
 * seen. */
bool xnat_move_beat(xnat_hands_t *hands, const xnat_balancer_t *xb, const char *fleet,
                    const char *mine, uint32_t ttl_s, char *seen, size_t size);

#endif
