/* SPDX-License-Identifier: Apache-2.0 */
/* For t/202-failover.t only: between the choice of a worker and its sending a request waits as
 * many milliseconds as its header X-Delay says for that attempt ("0,300": at the second). */
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

static void register_hooks(apr_pool_t *p)
{
    static const char *const before[] = {"mod_xnat_balance.c", NULL};
    (void)p;
    proxy_hook_scheme_handler(wait_a_while, NULL, before, APR_HOOK_REALLY_FIRST);
}

AP_DECLARE_MODULE(xb_delay) = {
    STANDARD20_MODULE_STUFF, NULL, NULL, NULL, NULL, NULL, register_hooks,
#if defined(AP_MODULE_FLAG_NONE)
    AP_MODULE_FLAG_NONE,
#endif
};
