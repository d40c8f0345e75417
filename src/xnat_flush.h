/* SPDX-License-Identifier: Apache-2.0 */
/* Flush: the home is made to store what it has not stored yet of a session. Mover's worker
 * threads only, the session's gate shut. */
#ifndef XNAT_FLUSH_H
#define XNAT_FLUSH_H

#include "xnat_steps.h"

/* After the last answer: what MSM was storing meanwhile, perhaps without that answer's write,
 * must not be taken for what the flush stores. */
#define XNAT_SETTLE_US 20000

/* Pin, key and header: may what memcached has be taken over? Fills m->stored_ms and m->bytes.
 */
xb_refusal_t xnat_flush_check(xnat_steps_t *m);

/* The home has so long to answer; that it has stored all is waited for, if it can be seen.
 * m->stored_ms is that of before. XB_NO_FLUSH: no answer (m->named is not set), or it has not;
 * else as above. */
xb_refusal_t xnat_flush(xnat_steps_t *m, int64_t patience_us);

#endif
