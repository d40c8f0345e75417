/* SPDX-License-Identifier: Apache-2.0 */
/* What the holder of the mover's lease does when requests wake it, and twenty times a second.
 * Mover thread only. */
#ifndef XNAT_TICK_H
#define XNAT_TICK_H

#include "xnat_mover.h"

/* As a gate's target, by the request that has shut it: away from a lost home, to any member.
 * None (XB_MEMBER_NONE) = where does it live?; the home itself = it has restarted. */
#define XNAT_TARGET_ANY (XB_MEMBER_NONE - 1)
/* Of a gate that was shut to verify a session where it is, or to release a copy of it. */
#define XNAT_TARGET_STAYS (XB_MEMBER_NONE - 3)

/* The lease has just been taken: shut gates of the lost holder are opened, one way or the
 * other. */
void xnat_tick_begin(void);
/* Sees to the gates that requests have shut. False: there is no room for all yet. */
bool xnat_tick_serve(void);
void xnat_tick_run(int64_t now_us);

#endif
