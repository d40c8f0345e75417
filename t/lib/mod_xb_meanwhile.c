/* SPDX-License-Identifier: Apache-2.0 */
/* What may happen while httpd works on a request, on demand of the request's headers:
 *   X-Delay: 0,300    between the choice of a worker and its sending it waits as many
 *                     milliseconds as are said for that attempt
 *   X-Fail: n2        between what mod_xnat_balance sees of the workers and what
 *                     mod_proxy_balancer sees, at the first attempt, the one with that route
 *                     gets into error state, as if another request had just found it dead */
#include <stdlib.h>

#include "httpd.h"
#include "http_config.h"
#include "mod_proxy.h"

static int wait_a_while(request_rec *r, proxy_worker *worker, proxy_server_conf *conf,
                        char *url, const char *proxyname, apr_port_t proxyport)
{
    const char *delays = apr_table_get(r->headers_in, "X-Delay");
    (void)worker;
    (void)conf;
    (void)url;
    (void)proxyname;
    (void)proxyport;
    if (delays) {
        apr_sleep(1000 * atoi(delays));
        delays = ap_strchr_c(delays, ',');
        apr_table_set(r->headers_in, "X-Delay", delays ? delays + 1 : "0");
    }
    return DECLINED;
}

static int fail(proxy_worker **worker, proxy_balancer **balancer, request_rec *r,
                proxy_server_conf *conf, char **url)
{
    const char *route = apr_table_get(r->headers_in, "X-Fail");
    proxy_balancer *b =
        *balancer || !route ? *balancer : ap_proxy_get_balancer(r->pool, conf, *url, 1);
    (void)worker;
    if (!b || !route || apr_table_get(r->notes, "xb-failed")) {
        return DECLINED;
    }
    for (int i = 0; i < b->workers->nelts; i++) {
        proxy_worker *w = APR_ARRAY_IDX(b->workers, i, proxy_worker *);
        if (!strcmp(w->s->route, route)) {
            w->s->error_time = apr_time_now();
            w->s->status |= PROXY_WORKER_IN_ERROR;
        }
    }
    apr_table_setn(r->notes, "xb-failed", "1");
    return DECLINED;
}

static void register_hooks(apr_pool_t *p)
{
    static const char *const ours[] = {"mod_xnat_balance.c", NULL};
    static const char *const stock[] = {"mod_proxy_balancer.c", NULL};
    (void)p;
    proxy_hook_scheme_handler(wait_a_while, NULL, ours, APR_HOOK_REALLY_FIRST);
    proxy_hook_pre_request(fail, ours, stock, APR_HOOK_REALLY_FIRST);
}

AP_DECLARE_MODULE(xb_meanwhile) = {
    STANDARD20_MODULE_STUFF, NULL, NULL, NULL, NULL, NULL, register_hooks,
#if defined(AP_MODULE_FLAG_NONE)
    AP_MODULE_FLAG_NONE,
#endif
};
