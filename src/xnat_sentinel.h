/* SPDX-License-Identifier: Apache-2.0 */
/* Notices when a node restarts (rule 11): the lease holder keeps one idle connection to each
 * member whose sessions are in a store. It breaks when the node's process ends; if the next
 * connect is refused before one succeeds, the node behind the address has begun a new life, and
 * its record says when. Never sends a byte. */
#ifndef XNAT_SENTINEL_H
#define XNAT_SENTINEL_H

#include "xnat_shm.h"

/* One thread, started and stopped with the mover's workers; runs while *stop is 0. */
void xnat_sentinel_run(server_rec *s, const volatile apr_uint32_t *stop);

#endif
