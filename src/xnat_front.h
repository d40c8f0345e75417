/* SPDX-License-Identifier: Apache-2.0 */
/* Other front ends of the same fleet, seen through a heartbeat key in the store. Their requests
 * are not counted here, so that no session is known to be quiet: voluntary moves are barred
 * while one has been seen lately. Failover goes on. */
#ifndef XNAT_FRONT_H
#define XNAT_FRONT_H

#include "xnat_move.h"

/* Worker of the mover, once a second and balancer: reads who was there last, writes that we
 * are, at each node or as many as one beat takes. */
void xnat_front_beat(xnat_hands_t *hands, const xnat_balancer_t *xb);

/* Any thread. */
bool xnat_front_is_alone(const xnat_balancer_t *xb, int64_t now_us);

#endif
