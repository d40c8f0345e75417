/* SPDX-License-Identifier: Apache-2.0 */
/* Cross-checks of the configuration: set-ups that are well-formed but cannot work are told at
 * `apachectl configtest` and at start. They warn and do not refuse: the same block worked with
 * lbmethod=bytraffic. */
#include "apr_strings.h"

#include "xnat_config.h"
#include "xnat_fleet.h"
#include "xnat_log.h"

static const char *file_of(server_rec *s)
{
    return s->defn_name ? s->defn_name : "the main server";
}

static bool is_ours(const proxy_balancer *b)
{
    return !strcmp(b->s->lbpname, "xnat");
}

static void tell_shared_route(server_rec *s, const proxy_balancer *b, const xnat_conf_t *conf,
                              const proxy_worker *one, const proxy_worker *other)
{
    if (!((one->s->status ^ other->s->status) & PROXY_WORKER_HOT_STANDBY)) {
        xnat_log_server(APLOG_WARNING, 0, s, XB(0111),
                        "%s: members %s and %s have the same route=%s: a session cannot "
                        "tell them apart; each Tomcat needs a jvmRoute of its own",
                        b->s->name, one->s->name, other->s->name, one->s->route);
    }
    else if (conf->nodes) {
        xnat_log_server(APLOG_WARNING, 0, s, XB(0130),
                        "%s: a standby and its primary have the same route=%s: nothing can "
                        "prove that the standby has taken a session over, so that users of the "
                        "primary get 503 while it is out; give the standby a route= and "
                        "jvmRoute of its own",
                        b->s->name, one->s->route);
    }
}

/* Members that share a route, have none though sessions are to stick, or one that MSM does not
 * know as a part of an id. */
static void check_routes(server_rec *s, const proxy_balancer *b, const xnat_conf_t *conf)
{
    proxy_worker **w = (proxy_worker **)b->workers->elts;
    for (int i = 0; i < b->workers->nelts; i++) {
        if (!*w[i]->s->route) {
            if (*b->s->sticky) {
                xnat_log_server(APLOG_WARNING, 0, s, XB(0110),
                                "%s: member %s has no route= although sessions are to stick "
                                "(stickysession=%s): give it the jvmRoute of its Tomcat",
                                b->s->name, w[i]->s->name, b->s->sticky);
            }
            continue;
        }
        if (conf->nodes && strchr(w[i]->s->route, '.')) {
            xnat_log_server(APLOG_WARNING, 0, s, XB(0129),
                            "%s: member %s has route=%s: MSM stores no session of a jvmRoute "
                            "with a . in it, so none can move or be rescued",
                            b->s->name, w[i]->s->name, w[i]->s->route);
        }
        for (int j = 0; j < i; j++) {
            if (!strcmp(w[i]->s->route, w[j]->s->route)) {
                tell_shared_route(s, b, conf, w[j], w[i]);
            }
        }
    }
}

static void check_size(server_rec *s, const proxy_balancer *b)
{
    if (b->workers->nelts > XNAT_FLEET_MAX) {
        xnat_log_server(
            APLOG_WARNING, 0, s, XB(0127),
            "%s: of %d members %d are balanced by their load; the others get a share "
            "of new sessions, which do not move",
            b->s->name, b->workers->nelts, XNAT_FLEET_MAX);
    }
}

/* Names and separator that stock code takes but that lead to no session. */
static void check_sticky(server_rec *s, const proxy_balancer *b, const xnat_conf_t *conf)
{
    const proxy_balancer_shared *own = b->s;
    char sep = own->sticky_separator;
    if (!*own->sticky && !*own->sticky_path) {
        return;
    }
    if (!sep || !(apr_isalnum(sep) || strchr("_.:-", sep)) || (conf->nodes && sep != '.')) {
        xnat_log_server(
            APLOG_WARNING, 0, s, XB(0118),
            "%s: with stickysessionsep=%s sessions stick, but none is recognised, so "
            "none can move: Tomcat puts a . before its route",
            own->name, sep ? (char[]){sep, '\0'} : "Off");
    }
    if (!*own->sticky || !*own->sticky_path) {
        xnat_log_server(
            APLOG_WARNING, 0, s, XB(0119),
            "%s: stickysession=%s|%s has an empty name: httpd takes any parameter for "
            "it; give both names, such as JSESSIONID|jsessionid",
            own->name, own->sticky, own->sticky_path);
    }
}

static void check_release(apr_pool_t *pool, server_rec *s, const proxy_balancer *b,
                          const xnat_conf_t *conf)
{
    apr_finfo_t info;
    if (conf->release_file &&
        apr_stat(&info, ap_server_root_relative(pool, conf->release_file), APR_FINFO_PROT,
                 pool) == APR_SUCCESS &&
        info.protection & APR_FPROT_WREAD) {
        xnat_log_server(APLOG_WARNING, 0, s, XB(0124),
                        "%s: every user of this machine can read the password in %s",
                        b->s->name, conf->release_file);
    }
    bool sticky = conf->store == XNAT_STORE_STICKY;
    if (conf->release ? !conf->nodes || !sticky : conf->release_auth != NULL) {
        xnat_log_server(APLOG_WARNING, 0, s, XB(0125), "%s: %s %s does nothing", b->s->name,
                        conf->release ? XNAT_RELEASE : XNAT_RELEASE_AUTH,
                        !conf->release ? "without " XNAT_RELEASE
                        : sticky       ? "without " XNAT_NODES
                                       : "in non-sticky mode");
    }
    else if (conf->release && !conf->release_auth) {
        xnat_log_server(APLOG_WARNING, 0, s, XB(0126),
                        "%s: " XNAT_RELEASE " without " XNAT_RELEASE_AUTH
                        ": Tomcat's manager wants a user and a password",
                        b->s->name);
    }
}

/* What MSM's non-sticky mode asks for, as far as it can be seen from here. */
static void check_nonsticky(server_rec *s, const proxy_balancer *b, const xnat_conf_t *conf)
{
    if (!conf->nodes) {
        xnat_log_server(APLOG_WARNING, 0, s, XB(0121),
                        "%s: " XNAT_STORE " without " XNAT_NODES " does nothing", b->s->name);
        return;
    }
    if (conf->probe) {
        xnat_log_server(APLOG_WARNING, 0, s, XB(0122),
                        "%s: " XNAT_PROBE " does nothing with " XNAT_STORE
                        " msm-nonsticky: no node is asked to take a session over",
                        b->s->name);
    }
    xnat_log_server(APLOG_NOTICE, 0, s, XB(0123),
                    "%s: " XNAT_STORE " msm-nonsticky: make sure that each Tomcat has "
                    "sticky=\"false\" and lockingMode=\"all\" or \"auto\"; that cannot be seen "
                    "from here, and without locks parallel requests lose what they write",
                    b->s->name);
}

static void check_moves(server_rec *s, const proxy_balancer *b, const xnat_conf_t *conf)
{
    if (!conf->nodes) {
        if (conf->prefix) {
            xnat_log_server(APLOG_WARNING, 0, s, XB(0112),
                            "%s: " XNAT_PREFIX " without " XNAT_NODES " does nothing",
                            b->s->name);
        }
        return;
    }
    if (!*b->s->sticky) {
        xnat_log_server(APLOG_WARNING, 0, s, XB(0113),
                        "%s: " XNAT_NODES " is set but stickysession= is not: no session is "
                        "recognised, so none can move",
                        b->s->name);
    }
    if (conf->move == XNAT_MOVE_ON && b->workers->nelts == 2 &&
        conf->store == XNAT_STORE_STICKY && !conf->release) {
        xnat_log_server(APLOG_WARNING, 0, s, XB(0114),
                        "%s: with two members no session moves because of overload: the second "
                        "is kept free for a failure of the first; drains work, and so does "
                        "overload with " XNAT_RELEASE,
                        b->s->name);
    }
    if (b->s->sticky_force) {
        xnat_log_server(APLOG_WARNING, 0, s, XB(0115),
                        "%s: nofailover=On: when a node is down its sessions get 503, although "
                        "they are in memcached",
                        b->s->name);
    }
    if (xb_msm_nodes_superset(conf->nodes_text)) {
        xnat_log_server(APLOG_WARNING, 0, s, XB(0116),
                        XNAT_NODES
                        " \"%s\" is understood here, but MSM wants nodes separated by "
                        "one comma or one blank: its context would not start",
                        conf->nodes_text);
    }
}

/* A virtual host with a ProxyPass of its own gets its own copy of the balancer, with another
 * method: httpd does not inherit it. */
static void check_inherited(server_rec *main_server, server_rec *s, const proxy_balancer *b)
{
    proxy_server_conf *proxy = ap_get_module_config(main_server->module_config, &proxy_module);
    const proxy_balancer *base = (const proxy_balancer *)proxy->balancers->elts;
    for (int i = 0; i < proxy->balancers->nelts; i++) {
        if (s != main_server && is_ours(&base[i]) && !is_ours(b) &&
            !strcmp(base[i].s->name, b->s->name)) {
            xnat_log_server(
                APLOG_WARNING, 0, s, XB(0117),
                "%s has lbmethod=%s in this virtual host (%s) and xnat in the main "
                "server: define the balancer where it is used, or set BalancerInherit "
                "Off",
                b->s->name, b->s->lbpname, file_of(s));
        }
    }
}

typedef enum { REACHES_NONE, REACHES_OTHERS, REACHES_OURS } reach_t;

/* Which balancers, of any server, take the directives of this section. */
static reach_t reach_of(const server_rec *s, ap_conf_vector_t *section)
{
    reach_t reach = REACHES_NONE;
    for (; s; s = s->next) {
        const proxy_server_conf *proxy = ap_get_module_config(s->module_config, &proxy_module);
        const proxy_balancer *b = (const proxy_balancer *)proxy->balancers->elts;
        for (int i = 0; i < proxy->balancers->nelts; i++) {
            if (xnat_config_is_section_of(section, &b[i])) {
                if (is_ours(&b[i])) {
                    return REACHES_OURS;
                }
                reach = REACHES_OTHERS;
            }
        }
    }
    return reach;
}

static void check_section(server_rec *main_server, server_rec *s, ap_conf_vector_t *section)
{
    const xnat_conf_t *own = ap_get_module_config(section, &xnat_balance_module);
    const proxy_dir_conf *dir = ap_get_module_config(section, &proxy_module);
    if (!own || !own->set || !dir) {
        return;
    }
    switch (reach_of(main_server, section)) {
    case REACHES_NONE:
        xnat_log_server(APLOG_WARNING, 0, s, XB(0120),
                        "the XnatBalance directives of <Proxy \"%s\"> reach no balancer: the "
                        "section's name must be that of one, and no pattern",
                        dir->p ? dir->p : "");
        break;
    case REACHES_OTHERS:
        xnat_log_server(APLOG_WARNING, 0, s, XB(0128),
                        "the XnatBalance directives of <Proxy \"%s\"> do nothing: that "
                        "balancer has not lbmethod=xnat",
                        dir->p ? dir->p : "");
        break;
    case REACHES_OURS:
        break;
    }
}

/* Sections whose directives reach nobody: a misspelt name, a pattern, a path behind the name. A
 * virtual host's list begins with the main server's. */
static void check_sections(server_rec *main_server, server_rec *s)
{
    const proxy_server_conf *base =
        ap_get_module_config(main_server->module_config, &proxy_module);
    const proxy_server_conf *proxy = ap_get_module_config(s->module_config, &proxy_module);
    ap_conf_vector_t **section = (ap_conf_vector_t **)proxy->sec_proxy->elts;
    for (int i = s == main_server ? 0 : base->sec_proxy->nelts; i < proxy->sec_proxy->nelts;
         i++) {
        check_section(main_server, s, section[i]);
    }
}

/* Balancers (proxy_balancer *) of the configuration that was checked last that are ours by it.
 */
static apr_array_header_t *ours;

/* BalancerPersist keeps what balancer-manager knew, the method included: a running site to
 * whose file `lbmethod=xnat` is added goes on as it was. */
void xnat_config_check_in_force(server_rec *s)
{
    for (int i = 0; ours && i < ours->nelts; i++) {
        const proxy_balancer *b = APR_ARRAY_IDX(ours, i, const proxy_balancer *);
        if (!is_ours(b)) {
            xnat_log_server(
                APLOG_WARNING, 0, s, XB(0131),
                "%s: lbmethod=xnat of the configuration is not in force, "
                "BalancerPersist has kept %s: choose xnat in balancer-manager, once",
                b->s->name, b->s->lbpname);
        }
    }
}

int xnat_config_check(apr_pool_t *pconf, apr_pool_t *plog, apr_pool_t *ptemp, server_rec *main)
{
    (void)plog;
    ours = apr_array_make(pconf, 4, sizeof(const proxy_balancer *));
    for (server_rec *s = main; s; s = s->next) {
        proxy_server_conf *proxy = ap_get_module_config(s->module_config, &proxy_module);
        proxy_balancer *b = (proxy_balancer *)proxy->balancers->elts;
        check_sections(main, s);
        for (int i = 0; i < proxy->balancers->nelts; i++) {
            check_inherited(main, s, &b[i]);
            if (is_ours(&b[i])) {
                APR_ARRAY_PUSH(ours, const proxy_balancer *) = &b[i];
                xnat_conf_t conf = xnat_config_in_force(s, proxy, &b[i]);
                check_routes(s, &b[i], &conf);
                check_size(s, &b[i]);
                check_sticky(s, &b[i], &conf);
                check_moves(s, &b[i], &conf);
                if (conf.store == XNAT_STORE_NONSTICKY) {
                    check_nonsticky(s, &b[i], &conf);
                }
                check_release(ptemp, s, &b[i], &conf);
            }
        }
    }
    return OK;
}
