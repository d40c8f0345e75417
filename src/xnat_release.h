/* SPDX-License-Identifier: Apache-2.0 */
/* Release of stale copies: after a move the former home still holds the session, and would
 * serve it to whoever comes with the old id, and to the session itself if it came back. Where
 * XnatBalanceRelease says so, that copy is expired, and the node counts as not visited. */
#ifndef XNAT_RELEASE_H
#define XNAT_RELEASE_H

#include "xnat_steps.h"

/* Mover's thread, each tick: looks at some of the table, hands copies to be released to the
 * workers. */
void xnat_release_tick(int64_t now_us);
/* Mover's thread: can copies at the home of this session be released? Asks in the background if
 * it is not known yet. */
bool xnat_release_works(xnat_balancer_t *xb, uint32_t slot, const xb_view_t *v, int64_t now_us);

/* Workers. */
void xnat_release_run(xnat_hands_t *hands, const xnat_job_t *job);
/* In a rescue, at the shut gate: the home is lost and every other node has been visited. True:
 * at least one of them is not any more. */
bool xnat_release_former(xnat_steps_t *m);

#endif
