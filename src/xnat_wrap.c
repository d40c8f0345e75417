/* SPDX-License-Identifier: Apache-2.0 */
/* Leaving the route of the client's id for one request. Stock code follows a usable route
 * without asking the balancer method, so the id is hidden from it: cookies taken out, the
 * parameter's name made unfindable in the URL and the query. finder puts URL and query back
 * before stock code builds the node's URL from them; the rest is put back here, whatever
 * happened. The node sees what the client sent. */
#include "apr_strings.h"

#include "mod_xnat_balance.h"
#include "xnat_request.h"

typedef struct xnat_mask_t {
    char **url; /* the caller's, valid while the hooks run */
    char *whole_url;
    char *whole_args;
    apr_table_t *headers;
} xnat_mask_t;

static xnat_mask_t *hide(xnat_request_t *xr, char **url)
{
    request_rec *r = xr->r;
    const char *name = xr->xb->balancer->s->sticky_path;
    xnat_mask_t *mask = apr_palloc(r->pool, sizeof *mask);
    mask->url = url;
    mask->whole_url = *url;
    mask->whole_args = r->args;
    mask->headers = r->headers_in;

    r->headers_in = apr_table_copy(r->pool, r->headers_in);
    apr_table_unset(r->headers_in, "Cookie");
    *url = apr_pstrdup(r->pool, *url);
    xb_id_mask_url(*url, name);
    if (r->args) {
        r->args = apr_pstrdup(r->pool, r->args);
        xb_id_mask_url(r->args, name);
    }
    return mask;
}

void xnat_wrap_restore(xnat_request_t *xr)
{
    if (xr->mask) {
        *xr->mask->url = xr->mask->whole_url;
        xr->r->args = xr->mask->whole_args;
        xr->r->headers_in = xr->mask->headers;
        xr->mask = NULL;
    }
}

/* What stock code sets for a request whose id it has seen. */
static void set_session(xnat_request_t *xr, const proxy_worker *worker)
{
    request_rec *r = xr->r;
    const char *route = apr_pstrmemdup(r->pool, xr->id.route.p, xr->id.route.n);
    apr_table_setn(r->notes, "session-sticky", xr->sticky_used);
    apr_table_setn(r->notes, "session-route", route);
    apr_table_setn(r->subprocess_env, "BALANCER_SESSION_STICKY", xr->sticky_used);
    apr_table_setn(r->subprocess_env, "BALANCER_SESSION_ROUTE", route);
    if (!strcmp(route, worker->s->route)) {
        apr_table_unset(r->subprocess_env, "BALANCER_ROUTE_CHANGED");
    }
}

int xnat_wrap_run(xnat_request_t *xr, proxy_worker **worker, proxy_balancer **balancer,
                  proxy_server_conf *conf, char **url)
{
    xr->wrapped = true;
    xr->mask = hide(xr, url);
    int rv = proxy_run_pre_request(worker, balancer, xr->r, conf, url);
    if (xr->mask) {
        /* Our finder was not asked: the method was switched this very moment. The URL that was
         * built is masked, so stock code does it all again, unmasked and its own way. */
        xnat_wrap_restore(xr);
        if (rv == OK) {
            rv = proxy_run_pre_request(worker, balancer, xr->r, conf, url);
        }
    }
    else if (rv == OK) {
        set_session(xr, *worker);
    }
    xr->wrapped = false;
    return rv;
}
