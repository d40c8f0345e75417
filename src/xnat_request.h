/* SPDX-License-Identifier: Apache-2.0 */
/* A balanced request from its arrival to its end. The functions are httpd's hooks; each runs in
 * the request's own thread. None does I/O; only pre may wait, at the gate of a session that is
 * moved. */
#ifndef XNAT_REQUEST_H
#define XNAT_REQUEST_H

#include "util_filter.h"

#include "xnat_config.h"
#include "xnat_shm.h"

/* What the module knows of one request; in r->request_config, lives as long as the request. */
typedef struct {
    request_rec *r;
    xnat_balancer_t *xb;
    xb_id_t id; /* that the client sent; whole.n == 0: none that the module follows */
    uint64_t tag;
    xb_ref_t ref; /* while `entered` */
    bool entered; /* counted in its session's word */
    int64_t entered_us;
    bool known;        /* the table had its session when it came */
    bool revived;      /* has asked once for its session's revival */
    bool waited;       /* at a gate */
    int64_t waited_us; /* in all */
    bool foreign;      /* its session lives behind another balancer */
    bool wrapped;      /* our own run of the pre_request hooks is under way */
    bool learned;      /* the answer's head has been seen */
    bool said;         /* its decision stands in the environment */
    bool said_way;     /* XNAT_BALANCE_FROM and _TO are set */
    bool made_session; /* the answer opened a new session */
    unsigned attempts;
    unsigned stand_in; /* home that it has left to go back to its own; XB_MEMBER_NONE */
    unsigned rescued;  /* member from which it has asked for its session's rescue since it was
                        * last sent to one; XB_MEMBER_NONE */
    unsigned home;     /* its session's, when this attempt was decided; only while `known` */
    unsigned plan;     /* member that finder must choose; XB_MEMBER_NONE: elect */
    unsigned member;   /* member that it was sent to last; XB_MEMBER_NONE: none yet */
    xb_worth_t credit; /* promised to `member` by the election */
    int64_t sent_us, head_us; /* to `member`; when its answer began, 0: not yet */
    apr_uint64_t bytes;       /* in and out */
    xb_decision_t decision;
    const char *node_url;     /* at the node, as sent */
    bool complete;            /* the node's whole answer has passed */
    const char *sticky_used;  /* name under which the id was found */
    struct xnat_mask_t *mask; /* what finder must put back while wrapped; see xnat_wrap.c */
    ap_filter_t *tunnel_in, *tunnel_out;
    apr_uint32_t ended;
} xnat_request_t;

/* NULL for a request that is not balanced by us. */
xnat_request_t *xnat_request_of(request_rec *r);

/* Says in the environment what was decided; from/to are routes or NULL. */
void xnat_request_say(xnat_request_t *xr, xb_decision_t decision, const char *reason,
                      const char *from, const char *to);

/* Index of the cookie path that its session probably has; XNAT_PATH_UNLEARNED: none is known.
 */
unsigned xnat_request_path(const xnat_request_t *xr);
/* The path at the node, as sent; NULL: nothing has been. */
const char *xnat_request_node_path(const xnat_request_t *xr);
/* Makes an entry for a session that the table does not know, on the client's word, or enters
 * the one that another request has just made. */
void xnat_request_remember(xnat_request_t *xr, unsigned member);

/* After an insert that displaced a session, which other requests may have to look up now:
 * counts it and says so. */
void xnat_request_forgot(const xnat_request_t *xr, bool forgot);

int xnat_request_pre(proxy_worker **worker, proxy_balancer **balancer, request_rec *r,
                     proxy_server_conf *conf, char **url);
proxy_worker *xnat_request_finder(proxy_balancer *balancer, request_rec *r);
/* scheme_handler: the worker is final for this attempt. Declines. */
int xnat_request_sent(request_rec *r, proxy_worker *worker, proxy_server_conf *conf, char *url,
                      const char *proxyname, apr_port_t proxyport);
/* The answer's head is there. False: it must not be relayed (its session was fenced off). */
bool xnat_request_learn(xnat_request_t *xr);
int xnat_request_done(int *status, request_rec *r);

/* xnat_wrap.c: runs the pre_request hooks with the session id hidden, so that stock code elects
 * instead of following the route, and finder returns the plan. Everything is put back. */
int xnat_wrap_run(xnat_request_t *xr, proxy_worker **worker, proxy_balancer **balancer,
                  proxy_server_conf *conf, char **url);
/* From finder: the URL must be whole again before stock code uses it. */
void xnat_wrap_restore(xnat_request_t *xr);

#endif
