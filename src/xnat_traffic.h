/* SPDX-License-Identifier: Apache-2.0 */
/* Filters that count a balanced request's bytes while they flow and see the head of its answer.
 */
#ifndef XNAT_TRAFFIC_H
#define XNAT_TRAFFIC_H

#include "httpd.h"

#include "xnat_request.h"

void xnat_traffic_register_filters(void);
/* When it is known to be balanced by us, before anything of it is read or sent. */
void xnat_traffic_watch(xnat_request_t *xr);
/* From scheme_handler: a request that asks for a tunnel is counted on its connection. */
void xnat_traffic_watch_tunnel(xnat_request_t *xr, const proxy_worker *worker);
/* At the end of the request, before its memory goes. */
void xnat_traffic_unwatch_tunnel(xnat_request_t *xr);

#endif
