/* SPDX-License-Identifier: Apache-2.0 */
/* memcached, seen through three verbs with one total deadline each. Plain text protocol over
 * non-blocking sockets, and only `get` and `set`: the usual client library bounds
 * each read but not their sum (a server that trickles held it for five seconds), and its
 * "exists" is a write. A store belongs to one thread. Nothing here is called from a request. */
#ifndef XB_STORE_H
#define XB_STORE_H

#include <netinet/in.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "xb_msm.h"
#include "xb_store_names.h"

typedef enum {
    XB_STORE_FOUND,
    XB_STORE_ABSENT,
    XB_STORE_DOWN,  /* refused, reset, unknown host, or an answer that is not memcached's */
    XB_STORE_LATE,  /* the deadline passed; the connection is closed, its answer never read */
    XB_STORE_BADKEY /* an argument that memcached could misread; nothing was sent */
} xb_store_rc_t;

/* One node as this thread knows it. */
typedef struct {
    int fd;            /* -1: closed */
    uint8_t addrs, at; /* addresses known (0: not looked up yet), the one to try first */
    uint8_t by_name;   /* of a name: forgotten when none of them answers */
    xb_store_addr_t addr[XB_STORE_ADDRS_MAX];
} xb_store_peer_t;

/* One thread's connections, embedded in the caller's memory; opened when first needed. */
typedef struct {
    const xb_msm_nodes_t *nodes; /* outlives the store */
    xb_store_names_t *names;     /* likewise */
    xb_store_peer_t peer[XB_MSM_NODES_MAX];
} xb_store_t;

/* names: where the addresses of nodes that are given by name come from. NULL: there is none;
 * such a node is DOWN, as one whose name is not found yet. */
void xb_store_init(xb_store_t *st, const xb_msm_nodes_t *nodes, xb_store_names_t *names);
void xb_store_close(xb_store_t *st);

/* All verbs: node is an index of `nodes`; budget_us is the most that the call may take, connect
 * included. Keys have 1 to 250 bytes, none of them a blank, a control character or DEL. */

/* Reads up to `cap` bytes of the value; *got = bytes kept, *total = length of the whole value.
 * What exceeds cap is read and thrown away within the deadline, or the
 * connection is closed then. */
xb_store_rc_t xb_store_get(xb_store_t *st, unsigned node, const char *key, void *buf,
                           size_t cap, size_t *got, size_t *total, int64_t budget_us);

/* The same, and whether the value has these bytes somewhere, the first of which occurs only
 * once in them. False also for what was not read in time. */
xb_store_rc_t xb_store_search(xb_store_t *st, unsigned node, const char *key, void *buf,
                              size_t cap, size_t *got, size_t *total, xb_span_t find,
                              bool *holds, int64_t budget_us);

/* Which of `n` keys (1 to 32) are there: bit i of *mask; ABSENT: none. One round trip. */
xb_store_rc_t xb_store_which(xb_store_t *st, unsigned node, const char *const *keys, unsigned n,
                             uint32_t *mask, int64_t budget_us);

#define XB_STORE_FOREVER UINT32_MAX

/* Stores a marker of ours (value under 200 bytes) for ttl_s, not 0. FOUND = stored. */
xb_store_rc_t xb_store_set(xb_store_t *st, unsigned node, const char *key, const char *value,
                           uint32_t ttl_s, int64_t budget_us);

#endif
