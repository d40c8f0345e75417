/* SPDX-License-Identifier: Apache-2.0 */
/* Questions to Tomcat's JMXProxyServlet about one session at one node: is there a copy of it,
 * and end it. Worker threads of the mover only. What a node answers is not trusted: it can only
 * lead to further questions to itself, and to the belief that it holds no copy. */
#ifndef XNAT_JMX_H
#define XNAT_JMX_H

#include "xb_jmx.h"
#include "xnat_move.h"

typedef struct {
    xnat_probe_t *probe;
    const xnat_balancer_t *xb;
    proxy_worker *worker;
    unsigned member, path; /* index of the session cookie's path, not XNAT_PATH_UNKNOWN */
    int64_t deadline_us;
    xb_jmx_names_t names; /* of the session managers; by xnat_jmx_find */
    unsigned at;          /* which of them has the copy; by xnat_jmx_look */
} xnat_jmx_t;

/* All three: XB_HELDS = the node has answered. */

/* The managers of the context with that path, asked for once per member and path. */
xb_held_t xnat_jmx_find(xnat_jmx_t *jmx);
/* Forgets them: the next find asks. */
void xnat_jmx_forget(const xnat_jmx_t *jmx);
/* *there: is a session with this id in the memory of that JVM? */
xb_held_t xnat_jmx_look(xnat_jmx_t *jmx, const char *id, bool *there);
/* Ends it where it was seen. */
xb_held_t xnat_jmx_expire(xnat_jmx_t *jmx, const char *id);

#endif
