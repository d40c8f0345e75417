/* SPDX-License-Identifier: Apache-2.0 */
/* Collecting the figures of the status page. Counters are read one by one while requests go on,
 * so sums may be off by what happened meanwhile. */
#include "xnat_snapshot.h"

#include <math.h>

#include "apr_strings.h"

#include "mod_xnat_balance.h"
#include "xnat_fleet.h"
#include "xnat_shm.h"

#define ACTIVE_US (300 * APR_USEC_PER_SEC)
/* The longest life of a session whose own is not known, and what Tomcat may be late by. */
#define UNKNOWN_LIFE_S 86400
#define EXPIRY_SLACK_S 60
#define SETTINGS 17

/* While it is collected; arrays grow in the pool. */
typedef struct {
    apr_pool_t *p;
    int64_t now_us;
    xb_report_t *report;
    apr_array_header_t *balancers; /* xb_report_balancer_t */
    apr_array_header_t *nodes;     /* xb_report_node_t */
    unsigned char node_seen[XNAT_STORES_MAX];
    uint64_t sessions[XB_MEMBERS_MAX], active[XB_MEMBERS_MAX];
    uint64_t verified[XB_MEMBERS_MAX], unmovable[XB_MEMBERS_MAX];
    uint32_t life_s; /* the longest that is known */
} collect_t;

/* What happened after the snapshot's time was taken is as old as nothing. */
static uint64_t since(int64_t now, int64_t then)
{
    return now > then ? (uint64_t)(now - then) : 0;
}

static void count_session(collect_t *c, const xb_view_t *v)
{
    uint64_t *state = c->report->session;
    state[v->w.state == XB_MOVING ? XB_REPORT_MOVING : XB_REPORT_STABLE]++;
    state[XB_REPORT_IN_FLIGHT] += v->w.inflight > 0;
    state[XB_REPORT_PARTIAL] += (v->flags & XB_SESSION_PARTIAL) != 0;
    state[XB_REPORT_UNPROVEN] += (v->flags & XB_SESSION_UNPROVEN) != 0;
    state[XB_REPORT_ENDED] += (v->flags & XB_SESSION_ENDED) != 0;
    c->report->remembered++;
    c->life_s = v->max_inactive_s > c->life_s ? v->max_inactive_s : c->life_s;
    if (v->w.home < XB_MEMBERS_MAX && !(v->flags & XB_SESSION_ENDED)) {
        c->verified[v->w.home] += (v->flags & XB_SESSION_VERIFIED) != 0;
        c->unmovable[v->w.home] += (v->flags & XB_SESSION_UNMOVABLE) != 0;
        c->sessions[v->w.home]++;
        c->active[v->w.home] += c->now_us - v->last_us < ACTIVE_US;
    }
}

static void walk_sessions(collect_t *c)
{
    uint32_t slots = xb_table_slots(xnat_table);
    for (uint32_t i = 0; i < slots; i++) {
        xb_view_t view;
        if (xb_table_view(xnat_table, i, &view)) {
            count_session(c, &view);
        }
    }
}

static const char *time_text(apr_pool_t *p, apr_interval_time_t t)
{
    return t % APR_USEC_PER_SEC ? apr_psprintf(p, "%" APR_TIME_T_FMT "ms", t / 1000)
                                : apr_psprintf(p, "%" APR_TIME_T_FMT "s", apr_time_sec(t));
}

static const char *bytes_text(apr_pool_t *p, apr_int64_t n)
{
    static const char unit[] = {'\0', 'K', 'M', 'G', '\0'};
    unsigned i = 0;
    while (n > 0 && n % 1024 == 0 && i < 3) {
        n /= 1024;
        i++;
    }
    return apr_psprintf(p, "%" APR_INT64_T_FMT "%s", n, (char[]){unit[i], '\0'});
}

/* Not by apr_psprintf, which writes .5 for 0.5. */
static const char *rate_text(apr_pool_t *p, const xnat_conf_t *conf)
{
    char text[64];
    snprintf(text, sizeof text, "%g/s %g", conf->rate, conf->burst);
    return apr_pstrdup(p, text);
}

/* As the directives would be written; "" = not given and without default. */
static void settings(apr_pool_t *p, const xnat_conf_t *conf, xb_report_balancer_t *out)
{
    const xb_report_setting_t all[SETTINGS] = {
        {XNAT_NODES, conf->nodes_text},
        {XNAT_PREFIX, conf->prefix},
        {XNAT_STORE, xnat_store_mode_name(conf->store)},
        {XNAT_MC_TIMEOUT, time_text(p, conf->mc_timeout)},
        {XNAT_SESSIONS, apr_psprintf(p, "%u", xnat_shm->dim.sessions)},
        {XNAT_MOVE, xnat_move_mode_name(conf->move)},
        {XNAT_HALF_LIFE, time_text(p, conf->half_life)},
        {XNAT_BUSY_HALF_LIFE, time_text(p, conf->busy_half_life)},
        {XNAT_REQUEST_COST, bytes_text(p, conf->request_cost)},
        {XNAT_THRESHOLD, apr_psprintf(p, "%.2f", conf->threshold)},
        {XNAT_RATE, rate_text(p, conf)},
        {XNAT_REST, time_text(p, conf->rest)},
        {XNAT_GRACE, time_text(p, conf->grace)},
        {XNAT_GATE_TIMEOUT, time_text(p, conf->gate_timeout)},
        {XNAT_PROBE, conf->probe},
        {XNAT_RELEASE, conf->release},
        {XNAT_RELEASE_AUTH, conf->release_file},
    };
    out->setting = apr_pmemdup(p, all, sizeof all);
    out->settings = SETTINGS;
    out->move = xnat_move_mode_name(conf->move);
}

static unsigned status_bits(const proxy_worker *w)
{
    static const struct {
        unsigned httpd, ours;
    } bit[] = {
        {PROXY_WORKER_DRAIN, XB_STATUS_DRN},      {PROXY_WORKER_DISABLED, XB_STATUS_DIS},
        {PROXY_WORKER_STOPPED, XB_STATUS_STOP},   {PROXY_WORKER_IN_ERROR, XB_STATUS_ERR},
        {PROXY_WORKER_HC_FAIL, XB_STATUS_HCFL},   {PROXY_WORKER_HOT_STANDBY, XB_STATUS_STBY},
        {PROXY_WORKER_HOT_SPARE, XB_STATUS_SPAR}, {PROXY_WORKER_IGNORE_ERRORS, XB_STATUS_IGN},
    };
    unsigned bits = PROXY_WORKER_IS_USABLE(w) ? XB_STATUS_OK : 0;
    for (size_t i = 0; i < sizeof bit / sizeof bit[0]; i++) {
        bits |= w->s->status & bit[i].httpd ? bit[i].ours : 0;
    }
    return bits;
}

/* Without user and password, which httpd keeps in a worker's name. */
static const char *worker_url(apr_pool_t *p, proxy_worker *w)
{
    const char *url = ap_proxy_worker_name(p, w);
    const char *host = ap_strstr_c(url, "://"), *at = NULL;
    if (host) {
        host += 3;
        for (const char *s = host; *s && *s != '/'; s++) {
            at = *s == '@' ? s : at;
        }
    }
    return at ? apr_psprintf(p, "%.*s%s", (int)(host - url), url, at + 1) : apr_pstrdup(p, url);
}

/* Sessions that the table does not know may be at home here: from before httpd's start, of
 * another httpd, or those that had no place in the table. They are gone when the node has
 * restarted since, or when they must have died of age. */
static uint64_t unknown_s(const collect_t *c, const xnat_fleet_t *f, unsigned index)
{
    int64_t at = 0, life_s = c->life_s ? c->life_s : UNKNOWN_LIFE_S;
    const int64_t since_us[] = {xnat_shm->forgot_us, xnat_shm->missed_us, xnat_shm->elders_us,
                                xnat_shm->strangers_us[index]};
    for (size_t i = 0; i < sizeof since_us / sizeof since_us[0]; i++) {
        at = since_us[i] > at ? since_us[i] : at;
    }
    int64_t left_us = at + (life_s + EXPIRY_SLACK_S) * APR_USEC_PER_SEC - c->now_us;
    return f->keeps_copies && at && xnat_members->member[index].reborn_us < at && left_us > 0
               ? (uint64_t)(left_us / APR_USEC_PER_SEC) + 1
               : 0;
}

static void fill_member(collect_t *c, const xnat_fleet_t *f, unsigned i,
                        xb_report_member_t *out)
{
    unsigned index = f->member[i];
    const xb_member_t *m = &xnat_members->member[index];
    const xb_load_t *load = &f->load[i];
    *out = (xb_report_member_t){
        .route = apr_pstrdup(c->p, f->worker[i]->s->route),
        .worker = worker_url(c->p, f->worker[i]),
        .status = status_bits(f->worker[i]),
        .usable = (load->flags & XB_LOAD_USABLE) != 0,
        .takes_new = (load->flags & XB_LOAD_NEW) != 0,
        .weight = load->weight / 100, /* httpd keeps hundredths */
        .slowness = exp(xb_pace_slow(&m->pace)),
        .score = load->score,
        .traffic = load->traffic,
        .occupancy = load->occupancy,
        .busy = xb_member_busy(xnat_members, index),
        .sessions = c->sessions[index],
        .active = c->active[index],
        .unverified = c->sessions[index] - c->verified[index] - c->unmovable[index],
        .verified = c->verified[index],
        .unmovable = c->unmovable[index],
        .unknown_s = unknown_s(c, f, index),
        .safe_to_stop = PROXY_WORKER_IS_DRAINING(f->worker[i]) &&
                        xb_member_busy(xnat_members, index) == 0 &&
                        c->sessions[index] == c->verified[index] && unknown_s(c, f, index) == 0,
        .bytes_in = m->bytes_in,
        .bytes_out = m->bytes_out,
        .requests = m->requests,
        .elected = m->elected,
        .moved_in = m->moved_in,
        .moved_out = m->moved_out,
        .failed_over = m->failed_over,
        .generation = m->generation,
    };
}

/* Records in shared memory are for members that the module balances: looking at the page must
 * not use them up for others. */
static void members(collect_t *c, xnat_balancer_t *xb, xb_report_balancer_t *out)
{
    if (!xnat_balancer_of(xb->balancer)) {
        return;
    }
    xnat_fleet_t *fleet = apr_palloc(c->p, sizeof *fleet);
    xnat_fleet_snapshot(xb, false, c->now_us, fleet);
    xb_report_member_t *member = apr_palloc(c->p, (fleet->n + 1) * sizeof *member);
    for (unsigned i = 0; i < fleet->n; i++) {
        fill_member(c, fleet, i, &member[i]);
    }
    out->member = member;
    out->members = fleet->n;
}

/* A record of a node is made by whoever names it first; it costs no more than the configuration
 * did. */
static void nodes(collect_t *c, const xb_msm_nodes_t *list)
{
    for (unsigned i = 0; list && i < list->count; i++) {
        const xb_msm_node_t *n = &list->node[i];
        unsigned index = xnat_shm_store(n->host, n->port);
        xnat_shm_store_t *store = &xnat_shm->store[index];
        if (c->node_seen[index]++) {
            continue; /* of another balancer too */
        }
        *(xb_report_node_t *)apr_array_push(c->nodes) = (xb_report_node_t){
            .node = n->id,
            .address = apr_psprintf(c->p, strchr(n->host, ':') ? "[%s]:%u" : "%s:%u", n->host,
                                    (unsigned)n->port),
            .breaker_open = xb_breaker_is_open(&store->breaker, c->now_us),
            .lookups = store->calls,
            .failures = store->failures,
        };
    }
}

/* Name and port, and a number if several virtual hosts have the same with a balancer of this
 * name: programs tell series apart by these two. */
static const char *vhost_name(collect_t *c, const server_rec *s, const char *balancer)
{
    unsigned port = s->port ? s->port : s->addrs ? s->addrs->host_port : 0;
    const char *host = s->server_hostname ? s->server_hostname : "";
    const char *base = port ? apr_psprintf(c->p, "%s:%u", host, port) : apr_pstrdup(c->p, host);
    const char *name = base;
    const xb_report_balancer_t *known = (const xb_report_balancer_t *)c->balancers->elts;
    unsigned same = 1;
    for (int i = 0; i < c->balancers->nelts; i++) {
        if (!strcmp(known[i].vhost, name) && !strcmp(known[i].name, balancer)) {
            name = apr_psprintf(c->p, "%s (%u)", base, ++same);
        }
    }
    return name;
}

static void add_balancer(xnat_balancer_t *xb, void *ctx)
{
    collect_t *c = ctx;
    const proxy_balancer *b = xb->balancer;
    const char *vhost = vhost_name(c, xb->server, b->s->name);
    xb_report_balancer_t *out = apr_array_push(c->balancers);
    out->vhost = vhost;
    out->name = apr_pstrdup(c->p, b->s->name);
    out->lbmethod = apr_pstrdup(c->p, b->s->lbpname);
    settings(c->p, &xb->conf, out);
    members(c, xb, out);
    nodes(c, xb->conf.nodes);
}

static void counters(xb_report_t *r, const xnat_shm_t *m)
{
    for (unsigned i = 0; i < XB_DECISIONS; i++) {
        r->request[i] = m->decisions[i];
    }
    for (unsigned i = 0; i < XB_MOVE_REASONS; i++) {
        r->moved[i] = m->moves[i];
    }
    for (unsigned i = 0; i < XB_REFUSALS; i++) {
        r->refused[i] = m->refusals[i];
    }
    r->would_have_moved = m->refusals[XB_NO_DRY_RUN];
    r->released = m->released;
    for (unsigned i = 0; i < XB_HELDS; i++) {
        r->held[i] = m->helds[i];
    }
    r->forgotten = m->forgotten;
    r->not_remembered = m->not_remembered;
    r->repaired = m->repaired;
    r->lost = m->lost;
    r->revived = m->revived;
    r->looked_up = m->looked_up;
    r->not_looked_up = m->not_looked_up;
    r->uncounted = m->lost_claims;
    r->gate_waits = m->gate_waits;
    r->gate_timeouts = m->gate_timeouts;
    r->gate_crowded = m->gate_crowded;
    r->gate_fenced = m->fenced;
    r->gate_waiting = xnat_shm_waiting();
    r->move_ms_sum = m->move_us_sum / 1000;
    r->move_ms_max = m->move_us_max / 1000;
}

static const char *route_text(apr_pool_t *p, unsigned member)
{
    return member < XB_MEMBERS_MAX
               ? apr_pstrndup(p, xnat_shm->route[member].route, PROXY_WORKER_MAX_ROUTE_SIZE)
               : "";
}

/* Move number n, false if a newer one takes its place right now. */
static bool read_move(collect_t *c, uint64_t n, xb_report_move_t *out)
{
    const xnat_shm_recent_t *slot = &xnat_shm->recent[n % XNAT_RECENT];
    char digest[XB_DIGEST_SIZE];
    if (slot->seq != n + 1) {
        return false;
    }
    xnat_shm_recent_t m = {.at_us = slot->at_us,
                           .digest = slot->digest,
                           .from = slot->from,
                           .to = slot->to,
                           .reason = slot->reason,
                           .refusal = slot->refusal,
                           .took_us = slot->took_us};
    __atomic_thread_fence(__ATOMIC_ACQUIRE);
    if (slot->seq != n + 1 || m.reason >= XB_MOVE_REASONS || m.refusal > XB_REFUSALS) {
        return false;
    }
    out->age_s = since(c->now_us, m.at_us) / APR_USEC_PER_SEC;
    out->session = apr_pstrdup(c->p, xnat_digest(m.digest, digest));
    out->from = route_text(c->p, m.from);
    out->to = route_text(c->p, m.to);
    out->moved = m.refusal == XB_REFUSALS;
    out->result = out->moved ? xb_move_name(m.reason) : xb_refusal_name(m.refusal);
    out->took_ms = m.took_us / 1000;
    return true;
}

static void recent_moves(collect_t *c)
{
    xb_report_move_t *move = apr_palloc(c->p, XNAT_RECENT * sizeof *move);
    uint64_t end = xnat_shm->recent_next;
    unsigned found = 0;
    for (unsigned back = 1; back <= XNAT_RECENT && back <= end; back++) {
        found += read_move(c, end - back, &move[found]);
    }
    c->report->recent = move;
    c->report->recents = found;
}

static void mover(collect_t *c)
{
    uint64_t lease = xnat_shm->lease;
    if (lease) {
        unsigned child = (unsigned)(lease >> 48) - 1;
        c->report->mover_running = xb_table_child_pid(xnat_table, child) != 0;
        c->report->mover_heartbeat_ms =
            since(c->now_us / 1000, (int64_t)(lease & UINT64_C(0xffffffffffff)));
    }
    c->report->mover_busy = xnat_shm_moving();
}

const xb_report_t *xnat_snapshot(apr_pool_t *p)
{
    collect_t *c = apr_pcalloc(p, sizeof *c);
    xb_report_t *r = c->report = apr_pcalloc(p, sizeof *r);
    c->p = p;
    c->now_us = xnat_now_us();
    c->balancers = apr_array_make(p, 4, sizeof(xb_report_balancer_t));
    c->nodes = apr_array_make(p, 4, sizeof(xb_report_node_t));
    r->version = XNAT_VERSION;
    r->uptime_s = (uint64_t)((c->now_us - xnat_shm->started_us) / APR_USEC_PER_SEC);
    r->generation = xnat_shm->generation;
    r->clock_s = (double)c->now_us / APR_USEC_PER_SEC;
    r->capacity = xnat_shm->dim.sessions;
    walk_sessions(c);
    xnat_config_each(add_balancer, c);
    counters(r, xnat_shm);
    recent_moves(c);
    mover(c);
    r->balancer = (const xb_report_balancer_t *)c->balancers->elts;
    r->balancers = (unsigned)c->balancers->nelts;
    r->node = (const xb_report_node_t *)c->nodes->elts;
    r->nodes = (unsigned)c->nodes->nelts;
    return r;
}
