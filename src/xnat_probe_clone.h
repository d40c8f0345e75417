/* SPDX-License-Identifier: Apache-2.0 */
/* Private copies of members for probes: same settings and address, own counters, own state, one
 * connection each. For one thread. */
#ifndef XNAT_PROBE_CLONE_H
#define XNAT_PROBE_CLONE_H

#include <stdbool.h>

#include "xnat_probe.h"

typedef struct xnat_clones_t xnat_clones_t;

xnat_clones_t *xnat_clones_create(apr_pool_t *pool);

/* The member's clone, made anew when the member's settings have changed; NULL on failure. */
proxy_worker *xnat_clones_get(xnat_clones_t *clones, const xnat_probe_request_t *req);
/* Closes its connection and forgets its addresses. */
void xnat_clones_forget(xnat_clones_t *clones, const xnat_probe_request_t *req);

/* Time-outs of mod_proxy's own reads and connects, as a net below the deadline. */
void xnat_clones_set_budget(proxy_worker *clone, const proxy_worker *real,
                            apr_interval_time_t budget);
/* Its scheme and authority with this path. */
char *xnat_clones_url(apr_pool_t *pool, const proxy_worker *clone, const char *path);
/* The real member's connections may be kept. */
bool xnat_clones_reusable(const proxy_worker *real);

#endif
