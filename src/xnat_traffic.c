/* SPDX-License-Identifier: Apache-2.0 */
/* Counting filters. Bytes are added while they pass, so a transfer of hours counts from its
 * first second; they sit at the request, above HTTP framing, so http, https, ajp and HTTP/2
 * members count alike. Tunnels bypass a request's filters and are counted at its connection. */
#include "xnat_traffic.h"

#include "apr_buckets.h"

#include "mod_xnat_balance.h"

static ap_filter_rec_t *out_filter, *in_filter, *tunnel_out_filter, *tunnel_in_filter;

/* Bytes of data. *whole: the node's answer ended here as it should; a broken one carries an
 * error bucket. */
static apr_uint64_t survey(const apr_bucket_brigade *bb, bool *whole)
{
    apr_uint64_t n = 0;
    bool broken = false;
    for (apr_bucket *e = APR_BRIGADE_FIRST(bb); e != APR_BRIGADE_SENTINEL(bb);
         e = APR_BUCKET_NEXT(e)) {
        if (!APR_BUCKET_IS_METADATA(e)) {
            n += e->length != (apr_size_t)-1 ? e->length : 0;
        }
        else if (AP_BUCKET_IS_ERROR(e)) {
            broken = true;
        }
        else if (APR_BUCKET_IS_EOS(e)) {
            *whole = *whole || !broken;
        }
    }
    return n;
}

static apr_uint64_t data_length(const apr_bucket_brigade *bb)
{
    bool whole = false;
    return survey(bb, &whole);
}

static void count_out(xnat_request_t *xr, apr_uint64_t n)
{
    xr->bytes += n;
    if (n && xr->member != XB_MEMBER_NONE) {
        __atomic_fetch_add((uint64_t *)&xnat_members->member[xr->member].bytes_out, n,
                           __ATOMIC_RELAXED);
    }
}

static void count_in(xnat_request_t *xr, apr_uint64_t n)
{
    xr->bytes += n;
    if (xr->member != XB_MEMBER_NONE && n) {
        __atomic_fetch_add((uint64_t *)&xnat_members->member[xr->member].bytes_in, n,
                           __ATOMIC_RELAXED);
    }
}

static apr_status_t refuse(ap_filter_t *f, apr_bucket_brigade *bb)
{
    request_rec *r = f->r;
    ap_remove_output_filter(f);
    apr_brigade_cleanup(bb);
    apr_table_clear(r->headers_out);
    apr_table_clear(r->err_headers_out);
    APR_BRIGADE_INSERT_TAIL(
        bb, ap_bucket_error_create(HTTP_BAD_GATEWAY, NULL, r->pool, f->c->bucket_alloc));
    APR_BRIGADE_INSERT_TAIL(bb, apr_bucket_eos_create(f->c->bucket_alloc));
    return ap_pass_brigade(f->next, bb);
}

static apr_status_t pass_out(ap_filter_t *f, apr_bucket_brigade *bb)
{
    xnat_request_t *xr = f->ctx;
    if (xr->r != f->r || xr->ended) { /* the answer of an ErrorDocument */
        ap_remove_output_filter(f);
        return ap_pass_brigade(f->next, bb);
    }
    if (!xr->head_us) {
        xr->head_us = xnat_now_us();
    }
    if (!xr->learned && !xnat_request_learn(xr)) {
        return refuse(f, bb);
    }
    count_out(xr, survey(bb, &xr->complete));
    return ap_pass_brigade(f->next, bb);
}

static apr_status_t pass_in(ap_filter_t *f, apr_bucket_brigade *bb, ap_input_mode_t mode,
                            apr_read_type_e block, apr_off_t want)
{
    apr_status_t rv = ap_get_brigade(f->next, bb, mode, block, want);
    xnat_request_t *xr = f->ctx;
    if (rv == APR_SUCCESS && xr->r == f->r && mode != AP_MODE_SPECULATIVE) {
        count_in(xr, data_length(bb));
    }
    return rv;
}

/* A tunnel is under way when mod_proxy has cut the request's filters down to its connection's.
 */
static bool in_tunnel(const xnat_request_t *xr)
{
    return xr->r->output_filters == xr->r->connection->output_filters;
}

static apr_status_t pass_tunnel_out(ap_filter_t *f, apr_bucket_brigade *bb)
{
    xnat_request_t *xr = f->ctx;
    if (in_tunnel(xr)) {
        count_out(xr, data_length(bb));
    }
    return ap_pass_brigade(f->next, bb);
}

static apr_status_t pass_tunnel_in(ap_filter_t *f, apr_bucket_brigade *bb, ap_input_mode_t mode,
                                   apr_read_type_e block, apr_off_t want)
{
    apr_status_t rv = ap_get_brigade(f->next, bb, mode, block, want);
    xnat_request_t *xr = f->ctx;
    if (rv == APR_SUCCESS && mode != AP_MODE_SPECULATIVE && in_tunnel(xr)) {
        count_in(xr, data_length(bb));
    }
    return rv;
}

void xnat_traffic_register_filters(void)
{
    out_filter =
        ap_register_output_filter("XNAT_BALANCE_OUT", pass_out, NULL, AP_FTYPE_RESOURCE);
    in_filter = ap_register_input_filter("XNAT_BALANCE_IN", pass_in, NULL, AP_FTYPE_RESOURCE);
    tunnel_out_filter = ap_register_output_filter("XNAT_BALANCE_TUNNEL_OUT", pass_tunnel_out,
                                                  NULL, AP_FTYPE_CONNECTION);
    tunnel_in_filter = ap_register_input_filter("XNAT_BALANCE_TUNNEL_IN", pass_tunnel_in, NULL,
                                                AP_FTYPE_CONNECTION);
}

/* HTTP/1 says so in its head; streams of HTTP/2 may have a body that nothing announces. */
static bool may_have_body(const request_rec *r)
{
    return r->proto_num >= HTTP_VERSION(2, 0) ||
           apr_table_get(r->headers_in, "Content-Length") ||
           apr_table_get(r->headers_in, "Transfer-Encoding");
}

/* Behind whatever other modules have put there, and before what writes heads. */
void xnat_traffic_watch(xnat_request_t *xr)
{
    request_rec *r = xr->r;
    ap_add_output_filter_handle(out_filter, xr, r, r->connection);
    if (may_have_body(r)) {
        ap_add_input_filter_handle(in_filter, xr, r, r->connection);
    }
}

/* Only members with upgrade= and those of mod_proxy_wstunnel (ws, wss) switch protocols. */
static bool may_upgrade(const proxy_worker *w)
{
    return *w->s->upgrade || *w->s->scheme == 'w';
}

void xnat_traffic_watch_tunnel(xnat_request_t *xr, const proxy_worker *worker)
{
    request_rec *r = xr->r;
    if (!xr->tunnel_in && (r->method_number == M_CONNECT ||
                           (may_upgrade(worker) && apr_table_get(r->headers_in, "Upgrade")))) {
        xr->tunnel_out = ap_add_output_filter_handle(tunnel_out_filter, xr, r, r->connection);
        xr->tunnel_in = ap_add_input_filter_handle(tunnel_in_filter, xr, r, r->connection);
    }
}

void xnat_traffic_unwatch_tunnel(xnat_request_t *xr)
{
    if (xr->tunnel_in) {
        ap_remove_output_filter(xr->tunnel_out);
        ap_remove_input_filter(xr->tunnel_in);
        xr->tunnel_in = xr->tunnel_out = NULL;
    }
}
