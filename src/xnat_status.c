/* SPDX-License-Identifier: Apache-2.0 */
/* Answers for the status page, and the module's lines on mod_status' page. All is collected
 * first; while a slow client takes the answer nothing is held. */
#include "xnat_status.h"

#include <math.h>
#include <stdbool.h>

#include "apr_strings.h"
#include "httpd.h"
#include "http_config.h"
#include "http_protocol.h"
#include "http_request.h"
#include "mod_status.h"

#include "xnat_shm.h"
#include "xnat_snapshot.h"

/* Gathers the report's small pieces for ap_rwrite. */
typedef struct {
    request_rec *r;
    size_t n;
    bool gone; /* the client is */
    char data[8192];
} writer_t;

static void flush(writer_t *w)
{
    if (w->n > 0 && !w->gone) {
        w->gone = ap_rwrite(w->data, (int)w->n, w->r) < 0;
    }
    w->n = 0;
}

static void put(void *ctx, const char *data, size_t n)
{
    writer_t *w = ctx;
    while (n > 0 && !w->gone) {
        size_t part = sizeof w->data - w->n < n ? sizeof w->data - w->n : n;
        memcpy(w->data + w->n, data, part);
        w->n += part;
        data += part;
        n -= part;
        if (w->n == sizeof w->data) {
            flush(w);
        }
    }
}

/* False: a format that does not exist. Other parameters are not looked at. */
static bool wanted_form(request_rec *r, xb_report_form_t *form)
{
    char *args = apr_pstrdup(r->pool, r->args ? r->args : ""), *last, *arg;
    *form = XB_REPORT_HTML;
    for (arg = apr_strtok(args, "&", &last); arg; arg = apr_strtok(NULL, "&", &last)) {
        if (!strcmp(arg, "format=json")) {
            *form = XB_REPORT_JSON;
        }
        else if (!strcmp(arg, "format=prometheus")) {
            *form = XB_REPORT_PROMETHEUS;
        }
        else if (!strcmp(arg, "format") || !strncmp(arg, "format=", 7)) {
            return false;
        }
    }
    return true;
}

static void answer_head(request_rec *r, xb_report_form_t form)
{
    static const char *const type[] = {
        [XB_REPORT_HTML] = "text/html; charset=utf-8",
        [XB_REPORT_JSON] = "application/json",
        [XB_REPORT_PROMETHEUS] = "text/plain; version=0.0.4; charset=utf-8",
    };
    ap_set_content_type(r, type[form]);
    apr_table_setn(r->headers_out, "Cache-Control", "no-store");
    apr_table_setn(r->headers_out, "X-Content-Type-Options", "nosniff");
    apr_table_setn(r->headers_out, "Content-Security-Policy",
                   "default-src 'none'; style-src 'unsafe-inline'; frame-ancestors 'none'");
}

static int status_handler(request_rec *r)
{
    xb_report_form_t form;
    if (!r->handler || strcmp(r->handler, "xnat-balance-status") != 0) {
        return DECLINED;
    }
    if (r->method_number != M_GET) {
        ap_allow_standard_methods(r, REPLACE_ALLOW, M_GET, -1);
        return HTTP_METHOD_NOT_ALLOWED;
    }
    if (!wanted_form(r, &form)) {
        return HTTP_BAD_REQUEST;
    }
    if (!xnat_shm) {
        return HTTP_SERVICE_UNAVAILABLE; /* XB0103 in the log says why */
    }
    const xb_report_t *report = xnat_snapshot(r->pool);
    writer_t *w = apr_palloc(r->pool, sizeof *w);
    w->r = r;
    w->n = 0;
    w->gone = false;
    answer_head(r, form);
    xb_report_write(report, form, (xb_report_out_t){.put = put, .ctx = w});
    flush(w);
    return OK;
}

static uint64_t sum(const uint64_t *n, unsigned count)
{
    uint64_t total = 0;
    while (count > 0) {
        total += n[--count];
    }
    return total;
}

static const char *score_text(apr_pool_t *p, double score)
{
    return isfinite(score) ? apr_psprintf(p, "%.2f", score) : "-";
}

/* One "name: value" per line, as ?auto wants it. */
static void short_status(request_rec *r, const xb_report_t *s)
{
    ap_rprintf(r, "XnatBalanceMoves: %" APR_UINT64_T_FMT "\n", sum(s->moved, XB_MOVE_REASONS));
    ap_rprintf(r, "XnatBalanceRefusals: %" APR_UINT64_T_FMT "\n", sum(s->refused, XB_REFUSALS));
    for (unsigned i = 0; i < s->balancers; i++) {
        const xb_report_balancer_t *b = &s->balancer[i];
        for (unsigned j = 0; j < b->members; j++) {
            ap_rvputs(r, "XnatBalanceScore ", ap_escape_logitem(r->pool, b->name), " ",
                      ap_escape_logitem(r->pool, b->member[j].worker), ": ",
                      score_text(r->pool, b->member[j].score), "\n", NULL);
        }
    }
}

static void html_status(request_rec *r, const xb_report_t *s)
{
    ap_rprintf(r,
               "<hr />\n<h2>mod_xnat_balance</h2>\n<p>Sessions moved: %" APR_UINT64_T_FMT
               ", moves refused: %" APR_UINT64_T_FMT "</p>\n<ul>\n",
               sum(s->moved, XB_MOVE_REASONS), sum(s->refused, XB_REFUSALS));
    for (unsigned i = 0; i < s->balancers; i++) {
        const xb_report_balancer_t *b = &s->balancer[i];
        for (unsigned j = 0; j < b->members; j++) {
            ap_rvputs(r, "<li>", ap_escape_html(r->pool, b->name), " ",
                      ap_escape_html(r->pool, b->member[j].worker), ": score ",
                      score_text(r->pool, b->member[j].score), "</li>\n", NULL);
        }
    }
    ap_rputs("</ul>\n", r);
}

static int mod_status_lines(request_rec *r, int flags)
{
    if (!xnat_shm) {
        return OK;
    }
    const xb_report_t *report = xnat_snapshot(r->pool);
    if (flags & AP_STATUS_SHORT) {
        short_status(r, report);
    }
    else {
        html_status(r, report);
    }
    return OK;
}

void xnat_status_register_hooks(apr_pool_t *p)
{
    (void)p;
    ap_hook_handler(status_handler, NULL, NULL, APR_HOOK_MIDDLE);
    APR_OPTIONAL_HOOK(ap, status_hook, mod_status_lines, NULL, NULL, APR_HOOK_MIDDLE);
}
