/* SPDX-License-Identifier: Apache-2.0 */
/* Directives: the table, strict parsing, defaults and merging. */
#include "xnat_config.h"

#include <stdlib.h>

#include "apr_strings.h"

#include "mod_xnat_balance.h"
#include "xnat_shm.h"

enum {
    SET_NODES = 1 << 0,
    SET_PREFIX = 1 << 1,
    SET_MC_TIMEOUT = 1 << 2,
    SET_SESSIONS = 1 << 3,
    SET_MOVE = 1 << 4,
    SET_HALF_LIFE = 1 << 5,
    SET_BUSY_HALF_LIFE = 1 << 6,
    SET_REQUEST_COST = 1 << 7,
    SET_THRESHOLD = 1 << 8,
    SET_RATE = 1 << 9,
    SET_REST = 1 << 10,
    SET_GRACE = 1 << 11,
    SET_GATE_TIMEOUT = 1 << 12,
    SET_PROBE = 1 << 13,
    SET_STORE = 1 << 14,
    SET_RELEASE = 1 << 15,
    SET_RELEASE_AUTH = 1 << 16
};

static const xnat_conf_t defaults = {
    .mc_timeout = 50 * 1000,
    .sessions = 65536,
    .move = XNAT_MOVE_ON,
    .half_life = 60 * APR_USEC_PER_SEC,
    .busy_half_life = 10 * APR_USEC_PER_SEC,
    .request_cost = 2 * 1024 * 1024,
    .threshold = 0.20,
    .rate = 2,
    .burst = 10,
    .rest = 60 * APR_USEC_PER_SEC,
    .grace = 250 * 1000,
    .gate_timeout = 5 * APR_USEC_PER_SEC,
};

const char *xnat_move_mode_name(xnat_move_mode_t m)
{
    static const char *const name[] = {"Off", "Drain", "DryRun", "On"};
    return name[m];
}

const char *xnat_store_mode_name(xnat_store_mode_t m)
{
    static const char *const name[] = {"msm-sticky", "msm-nonsticky"};
    return name[m];
}

void *xnat_config_create_server(apr_pool_t *p, server_rec *s)
{
    (void)s;
    return apr_pcalloc(p, sizeof(xnat_conf_t));
}

void *xnat_config_create_dir(apr_pool_t *p, char *dir)
{
    (void)dir;
    return apr_pcalloc(p, sizeof(xnat_conf_t));
}

static void overlay(xnat_conf_t *out, const xnat_conf_t *add)
{
#define TAKE(bit, member)                                                                      \
    if (add->set & (bit)) {                                                                    \
        out->member = add->member;                                                             \
    }
    TAKE(SET_NODES, nodes)
    TAKE(SET_NODES, nodes_text)
    TAKE(SET_PREFIX, prefix)
    TAKE(SET_STORE, store)
    TAKE(SET_MC_TIMEOUT, mc_timeout)
    TAKE(SET_SESSIONS, sessions)
    TAKE(SET_MOVE, move)
    TAKE(SET_HALF_LIFE, half_life)
    TAKE(SET_BUSY_HALF_LIFE, busy_half_life)
    TAKE(SET_REQUEST_COST, request_cost)
    TAKE(SET_THRESHOLD, threshold)
    TAKE(SET_RATE, rate)
    TAKE(SET_RATE, burst)
    TAKE(SET_REST, rest)
    TAKE(SET_GRACE, grace)
    TAKE(SET_GATE_TIMEOUT, gate_timeout)
    TAKE(SET_PROBE, probe)
    TAKE(SET_RELEASE, release)
    TAKE(SET_RELEASE_AUTH, release_file)
    TAKE(SET_RELEASE_AUTH, release_auth)
#undef TAKE
    out->set |= add->set;
}

void *xnat_config_merge(apr_pool_t *p, void *base, void *add)
{
    xnat_conf_t *out = apr_pmemdup(p, base, sizeof(xnat_conf_t));
    overlay(out, add);
    return out;
}

xnat_conf_t xnat_config_server(server_rec *s)
{
    xnat_conf_t out = defaults;
    overlay(&out, ap_get_module_config(s->module_config, &xnat_balance_module));
    return out;
}

/* Where a value goes: the server, or a <Proxy "balancer://..."> section. NULL: the wrong place.
 */
static xnat_conf_t *target(cmd_parms *cmd, void *dir, unsigned bit)
{
    xnat_conf_t *conf = dir;
    if (!cmd->path) {
        conf = ap_get_module_config(cmd->server->module_config, &xnat_balance_module);
    }
    else if (ap_cstr_casecmpn(cmd->path, "balancer://", 11)) {
        return NULL;
    }
    conf->set |= bit;
    return conf;
}

static const char *misplaced(cmd_parms *cmd)
{
    return apr_psprintf(cmd->pool,
                        "%s stands in the server configuration, in a virtual host or "
                        "inside <Proxy \"balancer://...\">, not in a section for \"%s\"",
                        cmd->cmd->name, cmd->path);
}

/* Digits and one of `units`, nothing else. Returns the value times the unit's factor, -1 if the
 * text is of another form or too large. */
typedef struct {
    const char *name;
    apr_int64_t factor;
} unit_t;

static apr_int64_t whole_number(const char *text, const unit_t *units)
{
    apr_int64_t value = 0;
    const char *p = text;
    for (; apr_isdigit(*p); p++) {
        if (value > APR_INT64_MAX / 10 - 1) {
            return -1;
        }
        value = value * 10 + (*p - '0');
    }
    for (; p != text && units->name; units++) {
        if (!ap_cstr_casecmp(p, units->name)) {
            return value > APR_INT64_MAX / units->factor ? -1 : value * units->factor;
        }
    }
    return -1;
}

static const unit_t time_units[] = {
    {"", APR_USEC_PER_SEC}, {"s", APR_USEC_PER_SEC},        {"ms", 1000},
    {"min", 60000000},      {"h", APR_INT64_C(3600000000)}, {NULL, 0},
};
static const unit_t byte_units[] = {
    {"", 1}, {"K", 1024}, {"M", 1048576}, {"G", 1073741824}, {NULL, 0}};
static const unit_t plain[] = {{"", 1}, {NULL, 0}};

/* Directives of one time value: name, where it goes and its range, in microseconds. */
typedef struct {
    const char *name;
    unsigned bit;
    size_t offset;
    apr_interval_time_t min, max;
    const char *range;
} time_directive_t;

#define MEMBER(m) offsetof(xnat_conf_t, m)
static const time_directive_t times[] = {
    {XNAT_MC_TIMEOUT, SET_MC_TIMEOUT, MEMBER(mc_timeout), 1000, 5000000, "1ms to 5s"},
    {XNAT_HALF_LIFE, SET_HALF_LIFE, MEMBER(half_life), 100000, 86400000000, "100ms to 24h"},
    {XNAT_BUSY_HALF_LIFE, SET_BUSY_HALF_LIFE, MEMBER(busy_half_life), 50000, 3600000000,
     "50ms to 1h"},
    {XNAT_REST, SET_REST, MEMBER(rest), 0, 86400000000, "0s to 24h"},
    {XNAT_GRACE, SET_GRACE, MEMBER(grace), 10000, 60000000, "10ms to 60s"},
    {XNAT_GATE_TIMEOUT, SET_GATE_TIMEOUT, MEMBER(gate_timeout), 200000, 300000000,
     "200ms to 5min"},
};

static const char *set_time(cmd_parms *cmd, void *dir, const char *arg)
{
    const time_directive_t *d = times;
    while (strcmp(d->name, cmd->cmd->name)) {
        d++;
    }
    apr_int64_t value = whole_number(arg, time_units);
    if (value < d->min || value > d->max) {
        return apr_psprintf(cmd->pool,
                            "%s wants a whole number with ms, s, min or h (s if none), "
                            "%s, not \"%s\"",
                            d->name, d->range, arg);
    }
    xnat_conf_t *conf = target(cmd, dir, d->bit);
    if (!conf) {
        return misplaced(cmd);
    }
    memcpy((char *)conf + d->offset, &value, sizeof(apr_interval_time_t));
    return NULL;
}

static const char *set_nodes(cmd_parms *cmd, void *dir, const char *arg)
{
    xb_msm_nodes_t *nodes = apr_pcalloc(cmd->pool, sizeof *nodes);
    const char *wrong = xb_msm_nodes_parse(arg, nodes);
    if (wrong) {
        return apr_psprintf(cmd->pool, XNAT_NODES ": %s", wrong);
    }
    xnat_conf_t *conf = target(cmd, dir, SET_NODES);
    if (!conf) {
        return misplaced(cmd);
    }
    conf->nodes = nodes;
    conf->nodes_text = arg;
    return NULL;
}

static const char *set_prefix(cmd_parms *cmd, void *dir, const char *arg)
{
    const char *wrong = xb_msm_prefix_check(arg);
    if (wrong) {
        return apr_psprintf(cmd->pool, XNAT_PREFIX ": %s", wrong);
    }
    xnat_conf_t *conf = target(cmd, dir, SET_PREFIX);
    if (!conf) {
        return misplaced(cmd);
    }
    conf->prefix = arg;
    return NULL;
}

static const char *set_store(cmd_parms *cmd, void *dir, const char *arg)
{
    xnat_conf_t *conf = target(cmd, dir, SET_STORE);
    if (!conf) {
        return misplaced(cmd);
    }
    for (xnat_store_mode_t m = XNAT_STORE_STICKY; m <= XNAT_STORE_NONSTICKY; m++) {
        if (!ap_cstr_casecmp(arg, xnat_store_mode_name(m))) {
            conf->store = m;
            return NULL;
        }
    }
    return apr_psprintf(cmd->pool, XNAT_STORE " wants msm-sticky or msm-nonsticky, not \"%s\"",
                        arg);
}

static const char *set_sessions(cmd_parms *cmd, void *dir, const char *arg)
{
    apr_int64_t value = whole_number(arg, plain);
    if (value < 64 || value > XB_SESSIONS_MAX) {
        return apr_psprintf(cmd->pool,
                            XNAT_SESSIONS " wants a whole number from 64 to %u, not "
                                          "\"%s\"",
                            XB_SESSIONS_MAX, arg);
    }
    if (cmd->path || cmd->server->is_virtual) {
        return XNAT_SESSIONS " is one table for the whole server: it stands in the main server "
                             "configuration, outside of any section";
    }
    target(cmd, dir, SET_SESSIONS)->sessions = value;
    return NULL;
}

static const char *set_move(cmd_parms *cmd, void *dir, const char *arg)
{
    xnat_conf_t *conf = target(cmd, dir, SET_MOVE);
    if (!conf) {
        return misplaced(cmd);
    }
    for (xnat_move_mode_t m = XNAT_MOVE_OFF; m <= XNAT_MOVE_ON; m++) {
        if (!ap_cstr_casecmp(arg, xnat_move_mode_name(m))) {
            conf->move = m;
            return NULL;
        }
    }
    return apr_psprintf(cmd->pool, XNAT_MOVE " wants On, Drain, DryRun or Off, not \"%s\"",
                        arg);
}

static const char *set_cost(cmd_parms *cmd, void *dir, const char *arg)
{
    apr_int64_t value = whole_number(arg, byte_units);
    if (value < 0 || value > APR_INT64_C(1099511627776)) {
        return apr_psprintf(cmd->pool,
                            XNAT_REQUEST_COST " wants a number of bytes with K, M or G "
                                              "or none, 0 to 1024G, not \"%s\"",
                            arg);
    }
    xnat_conf_t *conf = target(cmd, dir, SET_REQUEST_COST);
    if (!conf) {
        return misplaced(cmd);
    }
    conf->request_cost = value;
    return NULL;
}

/* A decimal number such as 0.25, nothing else around it; -1 if not. */
static double decimal(const char *text, const char *end)
{
    const char *p = text;
    for (; p < end && (apr_isdigit(*p) || *p == '.'); p++) {
    }
    char *stop;
    double value = strtod(text, &stop);
    return p == end && stop == end && end > text ? value : -1;
}

static const char *set_threshold(cmd_parms *cmd, void *dir, const char *arg)
{
    double value = decimal(arg, arg + strlen(arg));
    if (!(value >= 0.01 && value <= 100)) {
        return apr_psprintf(cmd->pool,
                            XNAT_THRESHOLD " wants a difference of scores from 0.01 to "
                                           "100, such as 0.20, not \"%s\"",
                            arg);
    }
    xnat_conf_t *conf = target(cmd, dir, SET_THRESHOLD);
    if (!conf) {
        return misplaced(cmd);
    }
    conf->threshold = value;
    return NULL;
}

static const char *set_rate(cmd_parms *cmd, void *dir, const char *arg, const char *burst)
{
    const char *slash, *blank = burst ? NULL : strchr(arg, ' ');
    if (blank) { /* both in one argument */
        burst = blank + 1;
        arg = apr_pstrmemdup(cmd->pool, arg, (apr_size_t)(blank - arg));
    }
    slash = strchr(arg, '/');
    double rate = slash && !strcmp(slash, "/s") ? decimal(arg, slash) : -1;
    apr_int64_t most = burst ? whole_number(burst, plain) : defaults.burst;
    if (!(rate >= 0.01 && rate <= 1000) || most < 1 || most > 10000) {
        return apr_psprintf(cmd->pool,
                            XNAT_RATE
                            " wants moves per second as 0.01/s to 1000/s and "
                            "perhaps a burst from 1 to 10000, such as 2/s 10, not \"%s%s%s\"",
                            arg, burst ? " " : "", burst ? burst : "");
    }
    xnat_conf_t *conf = target(cmd, dir, SET_RATE);
    if (!conf) {
        return misplaced(cmd);
    }
    conf->rate = rate;
    conf->burst = (double)most;
    return NULL;
}

static bool is_path(const char *arg, const char *besides)
{
    bool good = arg[0] == '/' && strlen(arg) < 200;
    for (const char *p = arg; *p; p++) {
        good = good && (apr_isalnum(*p) || strchr(besides, *p));
    }
    return good;
}

static const char *set_probe(cmd_parms *cmd, void *dir, const char *arg)
{
    if (!is_path(arg, "/-_.~!$&'()*+,;=:@%?")) {
        return apr_psprintf(cmd->pool,
                            XNAT_PROBE " wants a path at the nodes that starts with / "
                                       "and needs no quoting, under 200 characters, not \"%s\"",
                            arg);
    }
    xnat_conf_t *conf = target(cmd, dir, SET_PROBE);
    if (!conf) {
        return misplaced(cmd);
    }
    conf->probe = arg;
    return NULL;
}

static const char *set_release(cmd_parms *cmd, void *dir, const char *arg)
{
    if (!is_path(arg, "/-_.~!$&'()*+,;=:@%")) { /* a query is added */
        return apr_psprintf(cmd->pool,
                            XNAT_RELEASE " wants the path of Tomcat's JMXProxyServlet, such as "
                                         "/manager/jmxproxy: it starts with /, needs no "
                                         "quoting, has no query and is under 200 characters, "
                                         "not \"%s\"",
                            arg);
    }
    xnat_conf_t *conf = target(cmd, dir, SET_RELEASE);
    if (!conf) {
        return misplaced(cmd);
    }
    conf->release = arg;
    return NULL;
}

/* One line, user:password. NULL: well; what is wrong never quotes it. */
static const char *read_login(apr_pool_t *pool, const char *name, char *line, apr_size_t size)
{
    apr_file_t *file;
    apr_size_t n = 0;
    char why[120];
    apr_status_t rv = apr_file_open(&file, name, APR_READ, APR_OS_DEFAULT, pool);
    if (rv == APR_SUCCESS) {
        rv = apr_file_read_full(file, line, size - 1, &n);
        apr_file_close(file);
    }
    if (rv != APR_SUCCESS && !APR_STATUS_IS_EOF(rv)) {
        return apr_psprintf(pool, XNAT_RELEASE_AUTH ": %s cannot be read: %s", name,
                            apr_strerror(rv, why, sizeof why));
    }
    line[n] = '\0';
    char *end = line + strcspn(line, "\r\n"), *colon = strchr(line, ':');
    bool whole = rv != APR_SUCCESS && end + strspn(end, "\r\n") == line + n;
    *end = '\0';
    bool good =
        whole && colon && colon > line && colon[1] && !*ap_scan_http_field_content(line);
    return good ? NULL
                : apr_psprintf(pool,
                               XNAT_RELEASE_AUTH ": %s must hold one line, user:password, of "
                                                 "at most 254 characters",
                               name);
}

/* Read by the parent, as root, at each start. */
static const char *set_release_auth(cmd_parms *cmd, void *dir, const char *arg)
{
    char line[256];
    const char *name = ap_server_root_relative(cmd->pool, arg);
    xnat_conf_t *conf = target(cmd, dir, SET_RELEASE_AUTH);
    if (!conf) {
        return misplaced(cmd);
    }
    const char *wrong = *arg && name ? read_login(cmd->temp_pool, name, line, sizeof line)
                                     : XNAT_RELEASE_AUTH
                            " wants the name of a file with one line, "
                            "user:password";
    if (!wrong) {
        conf->release_file = arg;
        conf->release_auth =
            apr_pstrcat(cmd->pool, "Basic ", ap_pbase64encode(cmd->temp_pool, line), NULL);
    }
    return wrong ? apr_pstrdup(cmd->pool, wrong) : NULL;
}

#define WHERE (RSRC_CONF | ACCESS_CONF)
const command_rec xnat_config_directives[] = {
    AP_INIT_TAKE1(XNAT_NODES, set_nodes, NULL, WHERE,
                  "memcachedNodes of MSM: n1:host:port,..."),
    AP_INIT_TAKE1(XNAT_PREFIX, set_prefix, NULL, WHERE,
                  "storageKeyPrefix of MSM, as it is stored"),
    AP_INIT_TAKE1(XNAT_STORE, set_store, NULL, WHERE, "msm-sticky or msm-nonsticky"),
    AP_INIT_TAKE1(XNAT_MC_TIMEOUT, set_time, NULL, WHERE, "the most that one look-up may take"),
    AP_INIT_TAKE1(XNAT_SESSIONS, set_sessions, NULL, WHERE, "sessions remembered"),
    AP_INIT_TAKE1(XNAT_MOVE, set_move, NULL, WHERE, "On, Drain, DryRun or Off"),
    AP_INIT_TAKE1(XNAT_HALF_LIFE, set_time, NULL, WHERE, "half-life of counted traffic"),
    AP_INIT_TAKE1(XNAT_BUSY_HALF_LIFE, set_time, NULL, WHERE,
                  "half-life of requests in flight"),
    AP_INIT_TAKE1(XNAT_REQUEST_COST, set_cost, NULL, WHERE, "bytes that one request counts"),
    AP_INIT_TAKE1(XNAT_THRESHOLD, set_threshold, NULL, WHERE,
                  "difference of scores for a move"),
    AP_INIT_TAKE12(XNAT_RATE, set_rate, NULL, WHERE, "overload moves: n/s [burst]"),
    AP_INIT_TAKE1(XNAT_REST, set_time, NULL, WHERE, "how long a moved session rests"),
    AP_INIT_TAKE1(XNAT_GRACE, set_time, NULL, WHERE, "quiet time before a move"),
    AP_INIT_TAKE1(XNAT_GATE_TIMEOUT, set_time, NULL, WHERE, "longest wait at a gate"),
    AP_INIT_TAKE1(XNAT_PROBE, set_probe, NULL, WHERE, "path of the module's HEAD requests"),
    AP_INIT_TAKE1(XNAT_RELEASE, set_release, NULL, WHERE,
                  "path of the nodes' JMXProxyServlet, to expire stale copies"),
    AP_INIT_TAKE1(XNAT_RELEASE_AUTH, set_release_auth, NULL, WHERE,
                  "file with its user:password"),
    {NULL, {NULL}, NULL, 0, RAW_ARGS, NULL},
};

/* ---- attaching */

static apr_array_header_t
    *attached; /* of xnat_balancer_t *; this process, this configuration */

bool xnat_config_is_section_of(ap_conf_vector_t *section, const proxy_balancer *b)
{
    const proxy_dir_conf *dir = ap_get_module_config(section, &proxy_module);
    size_t n = strlen(b->s->name);
    return dir && dir->p && !dir->r && !ap_cstr_casecmpn(dir->p, b->s->name, n) &&
           (!dir->p[n] || !strcmp(dir->p + n, "/"));
}

xnat_conf_t xnat_config_in_force(server_rec *s, const proxy_server_conf *proxy,
                                 const proxy_balancer *b)
{
    xnat_conf_t out = xnat_config_server(s);
    ap_conf_vector_t **section = (ap_conf_vector_t **)proxy->sec_proxy->elts;
    for (int i = 0; i < proxy->sec_proxy->nelts; i++) {
        const xnat_conf_t *own = ap_get_module_config(section[i], &xnat_balance_module);
        if (own &&
            xnat_config_is_section_of(section[i], b)) { /* NULL: no directive of ours in it */
            overlay(&out, own);
        }
    }
    return out;
}

static void attach(apr_pool_t *p, server_rec *s, proxy_server_conf *proxy, proxy_balancer *b)
{
    xnat_balancer_t *xb = apr_pcalloc(p, sizeof *xb);
    xb->balancer = b;
    xb->proxy = proxy;
    xb->server = s;
    xb->conf = xnat_config_in_force(s, proxy, b);
    xb->record = xnat_shm_balancer(b->s->sname);
    xb->decay.half_life_s = (double)xb->conf.half_life / APR_USEC_PER_SEC;
    xb->decay.busy_half_life_s = (double)xb->conf.busy_half_life / APR_USEC_PER_SEC;
    xb->decay.request_cost = (double)xb->conf.request_cost;
    xb->policy.threshold = xb->conf.threshold;
    xb->policy.min_occupancy = 2;
    b->context = xb;
    APR_ARRAY_PUSH(attached, xnat_balancer_t *) = xb;
}

void xnat_config_attach(apr_pool_t *p, server_rec *main_server)
{
    attached = apr_array_make(p, 4, sizeof(xnat_balancer_t *));
    for (server_rec *s = main_server; s; s = s->next) {
        proxy_server_conf *proxy = ap_get_module_config(s->module_config, &proxy_module);
        proxy_balancer *b = (proxy_balancer *)proxy->balancers->elts;
        for (int i = 0; i < proxy->balancers->nelts; i++) {
            attach(p, s, proxy, &b[i]);
        }
    }
}

void xnat_config_each(void (*fn)(xnat_balancer_t *b, void *ctx), void *ctx)
{
    for (int i = 0; i < attached->nelts; i++) {
        fn(APR_ARRAY_IDX(attached, i, xnat_balancer_t *), ctx);
    }
}
