/* SPDX-License-Identifier: Apache-2.0 */
/* memcached, seen through four verbs with one total deadline each. Plain text protocol over
 * non-blocking sockets, and only `get` and `set`: the usual client library bounds each read but not
 * their sum (a server that trickles held it for five seconds), and its "exists" is a write.
 * A store belongs to one thread. Nothing here is called from a request. */
#ifndef XB_STORE_H
#define XB_STORE_H

#include <stddef.h>
#include <stdint.h>

#include "xb_msm.h"

typedef enum {
    XB_STORE_FOUND,
    XB_STORE_ABSENT,
    XB_STORE_DOWN,    /* refused, reset, or an answer that is not memcached's */
    XB_STORE_LATE,    /* the deadline passed; the connection is closed, its answer never read */
    XB_STORE_BADKEY   /* nothing was sent */
} xb_store_rc_t;

/* One thread's connections, embedded in the caller's memory; opened when first needed. */
typedef struct {
    const xb_msm_nodes_t *nodes; /* outlives the store */
    int fd[XB_MSM_NODES_MAX];    /* -1: closed */
} xb_store_t;

void xb_store_init(xb_store_t *st, const xb_msm_nodes_t *nodes);
void xb_store_close(xb_store_t *st);

/* Reads up to `cap` bytes of the value on node `node` (index); *got = bytes kept, *total = length
 * of the whole value. What exceeds cap is read and thrown away within the deadline.
 * budget_us: the most that the call may take, connect included. */
xb_store_rc_t xb_store_get(xb_store_t *st, unsigned node, const char *key, void *buf, size_t cap,
                           size_t *got, size_t *total, int64_t budget_us);

/* Which of `n` keys (at most 32) are there: bit i of *mask. One round trip. */
xb_store_rc_t xb_store_which(xb_store_t *st, unsigned node, const char *const *keys, unsigned n,
                             uint32_t *mask, int64_t budget_us);

/* Stores a marker of ours (value under 200 bytes); ttl_s 1 to 30 days. FOUND = stored. */
xb_store_rc_t xb_store_set(xb_store_t *st, unsigned node, const char *key, const char *value,
                           uint32_t ttl_s, int64_t budget_us);

xb_store_rc_t xb_store_delete(xb_store_t *st, unsigned node, const char *key, int64_t budget_us);

#endif
