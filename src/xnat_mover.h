/* SPDX-License-Identifier: Apache-2.0 */
/* The mover: one for the whole server, by a lease in shared memory; its threads live in a
 * child. Every child has a mover thread that waits for the lease; the holder's ticks fold
 * counters, repair what dead children left and choose moves, its workers carry them out. */
#ifndef XNAT_MOVER_H
#define XNAT_MOVER_H

#include "xnat_move.h"

void xnat_mover_child_init(apr_pool_t *pchild, server_rec *s);
/* child_stopping: no more moves from here; the lease goes to another child. */
void xnat_mover_stop(void);

/* From the tick, in the mover's thread: hands a job to a worker, urgent ones (a request waits)
 * before chosen ones; two workers are kept for them. False: no room. A chosen one that is
 * queued already is not queued again. */
bool xnat_mover_submit(const xnat_job_t *job);
bool xnat_mover_has_room(bool urgent);
/* This child is about to end: what can be given up is. */
bool xnat_mover_is_stopping(void);

/* Age of the lease holder's heartbeat in ms. Nobody holds it at the start, and for a moment in
 * a graceful restart: then the time since. */
int64_t xnat_mover_heartbeat_age_ms(void);

#endif
