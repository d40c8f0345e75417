/* SPDX-License-Identifier: Apache-2.0 */
/* The thread that looks up the names of memcacheds, so that no session waits for DNS at its
 * gate. The mover's. */
#ifndef XNAT_NAMES_H
#define XNAT_NAMES_H

#include "httpd.h"

#include "apr_atomic.h"
#include "xb_store_names.h"

/* In a new child, before its threads start: notes all node lists. */
void xnat_names_child_init(apr_pool_t *pool);
/* The addresses of this list; NULL: none is given by name. */
xb_store_names_t *xnat_names_of(const xb_msm_nodes_t *nodes);
/* Is there anything to look up? */
bool xnat_names_any(void);
/* The thread, until *stop. */
void xnat_names_run(const volatile apr_uint32_t *stop);
/* Waits until all names have been looked up once, a second at most. */
void xnat_names_wait(void);

#endif
