/* SPDX-License-Identifier: Apache-2.0 */
/* Choosing the node of a request that has no home, or whose home cannot serve. Request threads;
 * finder runs under the balancer's thread lock, so nothing here waits. */
#ifndef XNAT_ELECT_H
#define XNAT_ELECT_H

#include "xnat_request.h"

/* As stock code judges: a member whose error state has run out is tried again. */
bool xnat_elect_is_usable(proxy_worker *w, server_rec *s);
/* If all members are in error they are tried again, as before each request that gets as far as
 * httpd's choice (force_recovery in mod_proxy_balancer.c, forcerecovery=). Takes the balancer's
 * thread lock. */
void xnat_elect_recover(proxy_balancer *b, server_rec *s);
/* Where the session of this request is at home now. */
unsigned xnat_elect_home(const xnat_request_t *xr);
/* The request goes to `member`: its session's home follows if httpd has chosen another. */
void xnat_elect_settle(xnat_request_t *xr, unsigned member);
/* A request without session was sent to `member`: count the work that its session will bring.
 */
void xnat_elect_credit(xnat_request_t *xr, unsigned member);

/* Where nothing moves: a session that only stock failover has taken from the node that its
 * newest id names goes back there once that can serve, as with any other method. The home that
 * holds. */
unsigned xnat_elect_return(xnat_request_t *xr, unsigned home);

#endif
