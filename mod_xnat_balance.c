/* SPDX-License-Identifier: Apache-2.0 */
/* Module record, hooks and the balancer method "xnat". No logic. */
#include "mod_xnat_balance.h"

#include "ap_mpm.h"
#include "ap_provider.h"
#include "http_protocol.h"
#include "mod_proxy.h"
#include "mpm_common.h"

#include "src/xnat_config.h"
#include "src/xnat_mover.h"
#include "src/xnat_probe.h"
#include "src/xnat_request.h"
#include "src/xnat_shm.h"
#include "src/xnat_status.h"
#include "src/xnat_traffic.h"

static void register_hooks(apr_pool_t *p);

module AP_MODULE_DECLARE_DATA __attribute__((visibility("default"))) xnat_balance_module = {
    STANDARD20_MODULE_STUFF, xnat_config_create_dir,
    xnat_config_merge,       xnat_config_create_server,
    xnat_config_merge,       xnat_config_directives,
    register_hooks,          0,
};

/* httpd asks for these by name; both counters they would touch are not used by this method. */
static apr_status_t nothing(proxy_balancer *balancer, server_rec *s)
{
    (void)balancer;
    (void)s;
    return APR_SUCCESS;
}

static apr_status_t sticky_hit(proxy_balancer *balancer, proxy_worker *elected, server_rec *s)
{
    (void)balancer;
    (void)elected;
    (void)s;
    return APR_SUCCESS;
}

static const proxy_balancer_method xnat_method = {
    .name = "xnat",
    .finder = xnat_request_finder,
    .reset = nothing,
    .age = nothing,
    .updatelbstatus = sticky_hit,
};

/* After mod_proxy's own post_config, which makes the balancers' shared records. */
static int post_config(apr_pool_t *pconf, apr_pool_t *plog, apr_pool_t *ptemp, server_rec *s)
{
    (void)plog;
    (void)ptemp;
    if (ap_state_query(AP_SQ_MAIN_STATE) != AP_SQ_MS_CREATE_PRE_CONFIG) {
        xnat_config_check_in_force(s);
    }
    return xnat_shm_post_config(pconf, s);
}

/* In each child, after mod_proxy_balancer has found its shared records there. */
static void child_init(apr_pool_t *pchild, server_rec *s)
{
    if (!xnat_shm) {
        return;
    }
    xnat_shm_child_init(pchild, s);
    xnat_config_attach(pchild, s);
    xnat_mover_child_init(pchild, s);
}

/* Before a child joins its threads: nothing of ours may hold them up. */
static void child_stopping(apr_pool_t *pchild, int graceful)
{
    (void)pchild;
    (void)graceful;
    xnat_mover_stop();
    xnat_probe_stop();
}

/* In the parent. */
static void child_status(server_rec *s, pid_t pid, ap_generation_t gen, int slot,
                         mpm_child_status state)
{
    (void)s;
    (void)gen;
    (void)slot;
    if (state == MPM_CHILD_EXITED || state == MPM_CHILD_LOST_SLOT) {
        xnat_shm_child_exited(pid);
    }
}

static void register_hooks(apr_pool_t *p)
{
    static const char *const after_balancer[] = {"mod_proxy_balancer.c", NULL};

    ap_register_provider(p, PROXY_LBMETHOD, "xnat", "0", &xnat_method);

    ap_hook_check_config(xnat_config_check, NULL, NULL, APR_HOOK_MIDDLE);
    ap_hook_post_config(post_config, after_balancer, NULL, APR_HOOK_LAST);
    ap_hook_child_init(child_init, after_balancer, NULL, APR_HOOK_LAST);
    ap_hook_child_stopping(child_stopping, NULL, NULL, APR_HOOK_REALLY_FIRST);
    ap_hook_child_status(child_status, NULL, NULL, APR_HOOK_MIDDLE);

    /* Each balanced request, in this order. Both proxy hooks end at the first module that
     * answers, so ours run first and decline. */
    proxy_hook_pre_request(xnat_request_pre, NULL, NULL, APR_HOOK_REALLY_FIRST);
    proxy_hook_scheme_handler(xnat_request_sent, NULL, NULL, APR_HOOK_REALLY_FIRST);
    APR_OPTIONAL_HOOK(proxy, request_status, xnat_request_done, NULL, NULL, APR_HOOK_MIDDLE);

    xnat_traffic_register_filters();
    xnat_probe_register_hooks(p);
    xnat_status_register_hooks(p);
}
