/* SPDX-License-Identifier: Apache-2.0 */
/* The gate of a request's session. Request threads, and the only place where one of them waits:
 * for its own session's moves, in all at most XnatBalanceGateTimeout. */
#ifndef XNAT_GATE_H
#define XNAT_GATE_H

#include "xnat_request.h"

/* Counts the request in its session, after a wait if that is being moved. OK, or 503. */
int xnat_gate_enter(xnat_request_t *xr);

/* Can the mover bring the request's session away from a home that cannot serve? Not under the
 * balancer's lock. */
bool xnat_gate_must_rescue(const xnat_request_t *xr, unsigned home);
/* The same of a home that is this worker; takes no lock. */
bool xnat_gate_must_leave(const xnat_request_t *xr, unsigned home, const proxy_worker *w);
/* Shuts the gate behind a fence, asks the mover, waits, and counts the request in again; all of
 * it anew where the gate was shut for something else. OK (the home may be another now), or
 * 503. */
int xnat_gate_rescue(xnat_request_t *xr, unsigned home);
/* After its session's rescue has ended without one: 503 if the session is held
 * (XB_TARGET_HELD), else OK. */
int xnat_gate_hold(xnat_request_t *xr, unsigned home);

/* May the session have moved without the table knowing? Only while that has forgotten
 * something, and at a bounded rate, since clients can invent ids. */
bool xnat_gate_must_look_up(const xnat_request_t *xr);
/* Has the mover ask the store where it lives, and waits. As above. */
int xnat_gate_look_up(xnat_request_t *xr);

#endif
