/* SPDX-License-Identifier: Apache-2.0 */
/* A HEAD or GET to a member from a background thread, through mod_proxy itself: http, https,
 * ajp and unix sockets (h2 and ws members: in HTTP/1.1) with the member's own settings, under
 * one total deadline, without a trace in the real worker's counters and error state. One
 * xnat_probe_t per thread; nothing here is called from a request. Probes run the hooks
 * create_request, map_to_storage, pre_connection and scheme_handler with a request and a client
 * connection that are made up. */
#ifndef XNAT_PROBE_H
#define XNAT_PROBE_H

#include <stdbool.h>

#include "httpd.h"
#include "mod_proxy.h"

typedef struct xnat_probe_t xnat_probe_t;

/* The hook and the filters through which a running probe meets its connection. */
void xnat_probe_register_hooks(apr_pool_t *p);

/* Process-wide parts: the thread of the deadlines. pchild's pre-cleanup stops it. */
apr_status_t xnat_probe_child_init(apr_pool_t *pchild, server_rec *s);
/* From child_stopping, before threads are joined: every running and later probe is LATE at
 * once; only a look-up of a member's host name in DNS is waited for. */
void xnat_probe_stop(void);

/* For the calling thread; own pool, own allocator. */
apr_status_t xnat_probe_create(xnat_probe_t **out, server_rec *s);
void xnat_probe_destroy(xnat_probe_t *p);

typedef struct {
    server_rec *server;      /* the virtual host whose traffic the balancer carries */
    proxy_server_conf *conf; /* its proxy configuration */
    proxy_balancer *balancer;
    proxy_worker *worker; /* the real one */
    const char *path;     /* absolute, at the node */
    const char *host;     /* Host (and SNI) with ProxyPreserveHost, or NULL: the member's */
    const char *cookie;   /* whole Cookie header, or NULL */
    const char *authorization;   /* or NULL */
    const char *forwarded_proto; /* X-Forwarded-Proto that clients' requests had, or NULL */
    const char *forwarded_for;   /* X-Forwarded-For that the node shall see, or NULL */
    apr_interval_time_t budget;  /* whole call, without DNS */
} xnat_probe_request_t;

typedef enum {
    XNAT_PROBE_ANSWERED, /* a complete head of an answer; status and cookies are filled */
    XNAT_PROBE_REFUSED,  /* no connection could be made */
    XNAT_PROBE_BROKEN,   /* connected, but no whole answer (also after one retry) */
    XNAT_PROBE_LATE      /* deadline, or stopped */
} xnat_probe_rc_t;

#define XNAT_PROBE_COOKIES 16
/* Of a GET's body; the rest is read and thrown away, up to a limit of all that is received. */
#define XNAT_PROBE_BODY_MAX (64 * 1024)

typedef struct {
    int status;
    unsigned cookies;
    const char *set_cookie[XNAT_PROBE_COOKIES]; /* in the probe's pool, until its next call */
    const char *body; /* GET: likewise, ends with '\0'; a node may put others into it */
    size_t body_bytes;
    bool body_cut; /* there was more of it */
} xnat_probe_answer_t;

xnat_probe_rc_t xnat_probe_head(xnat_probe_t *p, const xnat_probe_request_t *req,
                                xnat_probe_answer_t *answer);
/* The same with the body; ANSWERED only if it is whole, as far as its form can tell. */
xnat_probe_rc_t xnat_probe_get(xnat_probe_t *p, const xnat_probe_request_t *req,
                               xnat_probe_answer_t *answer);

#endif
