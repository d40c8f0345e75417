/* SPDX-License-Identifier: Apache-2.0 */
/* A balanced request: recognised, let through or held at its session's gate, sent, learned
 * from, ended. Election and failover are in xnat_elect.c. */
#include "xnat_request.h"

#include "apr_atomic.h"
#include "apr_strings.h"

#include "mod_xnat_balance.h"
#include "xb_rule.h"
#include "xnat_elect.h"
#include "xnat_fleet.h"
#include "xnat_gate.h"
#include "xnat_log.h"
#include "xnat_traffic.h"

xnat_request_t *xnat_request_of(request_rec *r)
{
    return ap_get_module_config(r->request_config, &xnat_balance_module);
}

void xnat_request_say(xnat_request_t *xr, xb_decision_t decision, const char *reason,
                      const char *from, const char *to)
{
    apr_table_t *env = xr->r->subprocess_env;
    /* The first time nothing is to be replaced, so nothing need be looked for. */
    void (*put)(apr_table_t *, const char *, const char *) =
        xr->said ? apr_table_setn : apr_table_addn;
    xr->said = true;
    xr->decision = decision;
    put(env, "XNAT_BALANCE_DECISION", xb_decision_name(decision));
    put(env, "XNAT_BALANCE_REASON", reason);
    if (from && to && strcmp(from, to)) {
        apr_table_setn(env, "XNAT_BALANCE_FROM", from);
        apr_table_setn(env, "XNAT_BALANCE_TO", to);
        xr->said_way = true;
    }
    else if (xr->said_way) {
        xr->said_way = false;
        apr_table_unset(env, "XNAT_BALANCE_FROM");
        apr_table_unset(env, "XNAT_BALANCE_TO");
    }
}

/* ---- ended */

static void leave_member(xnat_request_t *xr)
{
    if (xr->member != XB_MEMBER_NONE && xnat_child >= 0) {
        xb_member_leave(xnat_members, (uint32_t)xnat_child, xr->member);
    }
    if (!xr->made_session) {
        /* The election counted on a session that did not come. */
        xb_member_credit(xnat_members, xr->member, -xr->credit.bytes, -xr->credit.requests);
    }
    xr->member = XB_MEMBER_NONE;
    xr->credit = (xb_worth_t){0, 0};
}

/* A request that its home has not outlived says nothing of the home's new life. */
static int64_t last_sign(const xnat_request_t *xr, int64_t now)
{
    return xr->entered_us < xnat_fleet_reborn_us(xr->ref.home) ? xr->entered_us : now;
}

static void leave_session(xnat_request_t *xr)
{
    if (xr->entered) {
        int64_t now = xnat_now_us();
        xb_table_leave(xnat_table, &xr->ref, last_sign(xr, now),
                       xr->complete || !XB_RULE(BROKEN) ? 0 : now + XNAT_BROKEN_US,
                       (double)xr->bytes + xr->xb->decay.request_cost,
                       xr->xb->decay.half_life_s);
        xr->entered = false;
    }
}

#define SMALL_BYTES (256 * 1024)

/* How fast a node answers shows in what is small both ways and no error: uploads are the
 * client's doing, and who fails is quick. */
static void note_pace(const xnat_request_t *xr)
{
    if (xr->member != XB_MEMBER_NONE && xr->complete && xr->head_us >= xr->sent_us &&
        xr->sent_us && xr->bytes <= SMALL_BYTES && xr->r->status < HTTP_BAD_REQUEST) {
        xb_pace_note(&xnat_members->member[xr->member].pace, xr->head_us - xr->sent_us);
    }
}

/* Once per request: when the node's answer has been passed on, or when the request's memory
 * goes. */
static void finish(xnat_request_t *xr)
{
    if (apr_atomic_xchg32(&xr->ended, 1)) {
        return;
    }
    xnat_traffic_unwatch_tunnel(xr);
    leave_session(xr);
    note_pace(xr);
    leave_member(xr);
    xnat_count(&xnat_shm->decisions[xr->decision]);
}

static apr_status_t finish_cleanup(void *data)
{
    finish(data);
    return APR_SUCCESS;
}

int xnat_request_done(int *status, request_rec *r)
{
    xnat_request_t *xr = xnat_request_of(r);
    (void)status;
    if (xr) {
        /* ProxyErrorOverride: the node's answer was whole and never passed our filter. */
        xr->complete = xr->complete || apr_table_get(r->notes, "proxy-error-override");
        finish(xr);
    }
    return DECLINED;
}

/* ---- recognised */

/* Could the parameter be in one of them? Most URLs have no '=' even. */
static bool may_have(const char *url, const char *args, const char *name)
{
    return (args || strchr(url, '=')) && (strstr(url, name) || (args && strstr(args, name)));
}

/* What was found in a connection's last request: a browser's next one mostly is for the same
 * balancer and comes with the very same cookies. Not for HTTP/2, where each stream has a
 * connection of its own. */
typedef struct {
    const proxy_server_conf *conf;
    xnat_balancer_t *xb;
    size_t name_len; /* of the balancer */
    char sticky[PROXY_BALANCER_MAX_STICKY_SIZE],
        separator; /* balancer-manager can change them */
    xb_id_t id;    /* in `cookie` */
    uint64_t tag;
    char cookie[480]; /* empty: none, or too long to be remembered */
} memo_t;

static memo_t *memo_of(const request_rec *r)
{
    return ap_get_module_config(r->connection->conn_config, &xnat_balance_module);
}

static void note_balancer(const request_rec *r, const proxy_server_conf *conf,
                          xnat_balancer_t *xb)
{
    conn_rec *c = r->connection;
    memo_t *memo = memo_of(r);
    if (c->master || (memo && memo->xb == xb && memo->conf == conf)) {
        return;
    }
    if (!memo) {
        memo = apr_palloc(c->pool, sizeof *memo);
        ap_set_module_config(c->conn_config, &xnat_balance_module, memo);
    }
    memo->conf = conf;
    memo->xb = xb;
    memo->name_len = strlen(xb->balancer->s->name);
    memo->cookie[0] = '\0';
}

/* As ap_proxy_get_balancer would find it. */
static proxy_balancer *recall_balancer(const request_rec *r, const proxy_server_conf *conf,
                                       const char *url)
{
    const memo_t *memo = memo_of(r);
    if (!memo || memo->conf != conf || memo->xb->balancer->s->inactive ||
        strncmp(url, memo->xb->balancer->s->name, memo->name_len) ||
        url[memo->name_len] != '/') {
        return NULL;
    }
    return memo->xb->balancer;
}

/* The id that lies in the text `from`, as it lies in an equal text. */
static xb_id_t transfer(xb_id_t id, const char *from, const char *to)
{
    id.whole.p = to + (id.whole.p - from);
    id.base.p = to + (id.base.p - from);
    id.node.p = to + (id.node.p - from);
    id.route.p = to + (id.route.p - from);
    return id;
}

static bool recall_id(xnat_request_t *xr, const char *cookie)
{
    const memo_t *memo = memo_of(xr->r);
    const proxy_balancer_shared *b = xr->xb->balancer->s;
    if (!memo || memo->xb != xr->xb || !*memo->cookie || strcmp(memo->cookie, cookie) ||
        memo->separator != b->sticky_separator || strcmp(memo->sticky, b->sticky)) {
        return false;
    }
    xr->id = transfer(memo->id, memo->cookie, cookie);
    xr->tag = memo->tag;
    return true;
}

static void note_id(const xnat_request_t *xr, const char *cookie)
{
    const proxy_balancer_shared *b = xr->xb->balancer->s;
    memo_t *memo = memo_of(xr->r);
    size_t n = strlen(cookie);
    if (!memo || memo->xb != xr->xb || n >= sizeof memo->cookie) {
        return;
    }
    memo->separator = b->sticky_separator;
    memcpy(memo->sticky, b->sticky, sizeof memo->sticky);
    memcpy(memo->cookie, cookie, n + 1);
    memo->id = transfer(xr->id, cookie, memo->cookie);
    memo->tag = xr->tag;
}

/* False: not one that the module follows. */
static bool parse_id(xnat_request_t *xr, xb_span_t text)
{
    bool good =
        xb_id_parse(text, xr->xb->balancer->s->sticky_separator, &xr->id) && xr->id.route.n;
    if (good) {
        xr->tag = xnat_tag(xr->id.base);
    }
    else {
        xr->id.whole.n = 0;
    }
    return good;
}

/* The id as stock code will find it: in the URL with its query, then in the cookies. */
static void find_id(xnat_request_t *xr, const char *url)
{
    const proxy_balancer_shared *b = xr->xb->balancer->s;
    request_rec *r = xr->r;
    xb_span_t text;
    const char *cookie;
    if (!*b->sticky || !b->sticky_separator) {
        return;
    }
    if (may_have(url, r->args, b->sticky_path) &&
        xb_id_in_url(r->args ? apr_pstrcat(r->pool, url, "?", r->args, NULL) : url,
                     b->sticky_path, b->scolonsep, &text)) {
        xr->sticky_used = b->sticky_path;
        parse_id(xr, text);
        return;
    }
    cookie = apr_table_get(r->headers_in, "Cookie");
    if (cookie && recall_id(xr, cookie)) {
        xr->sticky_used = b->sticky;
    }
    else if (cookie && xb_id_in_cookie(cookie, b->sticky, &text)) {
        xr->sticky_used = b->sticky;
        if (parse_id(xr, text)) {
            note_id(xr, cookie);
        }
    }
}

static xnat_request_t *begin(request_rec *r, xnat_balancer_t *xb, const char *url)
{
    xnat_request_t *xr = apr_pcalloc(r->pool, sizeof *xr);
    xr->r = r;
    xr->xb = xb;
    xr->plan = xr->member = xr->rescued = xr->stand_in = XB_MEMBER_NONE;
    xr->entered_us = xnat_now_us();
    find_id(xr, url);
    ap_set_module_config(r->request_config, &xnat_balance_module, xr);
    apr_pool_cleanup_register(r->pool, xr, finish_cleanup, apr_pool_cleanup_null);
    xnat_traffic_watch(xr);
    return xr;
}

/* ---- let through */

static const char *route_of(const xnat_request_t *xr)
{
    return apr_pstrmemdup(xr->r->pool, xr->id.route.p, xr->id.route.n);
}

/* The first request after a move. Where ids are never renewed, the move may have gone back to
 * the node that this one names. */
static bool is_first_there(const xnat_request_t *xr, bool named)
{
    xb_view_t view;
    return !(named && xnat_keeps_copies(xr->xb)) &&
           xb_table_view(xnat_table, xr->ref.slot, &view) && view.flags & XB_SESSION_FRESH &&
           xb_table_flag(xnat_table, xr->ref.slot, 0, XB_SESSION_FRESH) & XB_SESSION_FRESH;
}

/* `named`: the id names the home. Others are stragglers, unless no newer id will ever come. */
static void say_home(xnat_request_t *xr, unsigned home, bool named)
{
    const char *to = home < XB_MEMBERS_MAX ? xnat_shm->route[home].route : NULL;
    if (is_first_there(xr, named)) {
        xnat_request_say(xr, XB_MOVED, "session-moved", route_of(xr), to);
    }
    else if (named) {
        xnat_request_say(xr, XB_STAYED, "home", NULL, NULL);
    }
    else if (!xnat_keeps_copies(xr->xb)) {
        xnat_request_say(xr, XB_STAYED, "home-by-table", route_of(xr), to);
    }
    else {
        xnat_request_say(xr, XB_STRAGGLER, "old-id", route_of(xr), to);
    }
}

static bool names_home(const xnat_request_t *xr, unsigned home)
{
    return home >= XB_MEMBERS_MAX || xb_id_names_route(&xr->id, xnat_shm->route[home].route);
}

/* A request that stays is left to stock code; one whose session lives elsewhere is wrapped. */
static int route_request(xnat_request_t *xr, proxy_worker **worker, proxy_balancer **balancer,
                         proxy_server_conf *conf, char **url)
{
    if (xnat_gate_must_look_up(xr)) {
        int rv = xnat_gate_look_up(xr);
        if (rv != OK) {
            return rv;
        }
    }
    if (!xr->known) {
        if (!xr->id.whole.n) {
            xnat_request_say(xr, XB_ELECTED,
                             xr->sticky_used ? "id-without-route" : "no-session", NULL, NULL);
        }
        else {
            xnat_request_say(xr, XB_STAYED, "unknown-session", NULL, NULL);
        }
        return DECLINED;
    }
    unsigned home = xr->attempts > 1 ? xnat_elect_home(xr) : xr->ref.home;
    if (xnat_gate_must_rescue(xr, home)) {
        int rv = xnat_gate_rescue(xr, home);
        if (rv != OK) {
            return rv;
        }
        home = xr->known ? xr->ref.home : home;
    }
    int held = xnat_gate_hold(xr, home);
    if (held != OK) {
        return held;
    }
    bool named = names_home(xr, home);
    if (!named) {
        home = xnat_elect_return(xr, home);
        named = names_home(xr, home);
    }
    xr->home = home;
    say_home(xr, home, named);
    xr->plan = named ? XB_MEMBER_NONE : home;
    return named ? DECLINED : xnat_wrap_run(xr, worker, balancer, conf, url);
}

/* Most that are none are told by a glance. */
static proxy_balancer *balancer_of(request_rec *r, proxy_server_conf *conf, const char *url)
{
    if ((*url | 0x20) != 'b') {
        return NULL;
    }
    proxy_balancer *b = recall_balancer(r, conf, url);
    return b ? b : ap_proxy_get_balancer(r->pool, conf, url, 1);
}

int xnat_request_pre(proxy_worker **worker, proxy_balancer **balancer, request_rec *r,
                     proxy_server_conf *conf, char **url)
{
    xnat_request_t *xr = xnat_request_of(r);
    proxy_balancer *b = *balancer;
    if ((xr && xr->wrapped) || !xnat_shm) {
        return DECLINED;
    }
    if (!b && !(b = balancer_of(r, conf, *url))) {
        return DECLINED;
    }
    xnat_balancer_t *xb = xnat_balancer_of(b);
    if (!xb) {
        *balancer = b;
        return DECLINED;
    }
    if (!xr) {
        note_balancer(r, conf, xb);
        xr = begin(r, xb, *url);
    }
    xr->attempts++;
    if (xr->entered && !xb_table_current(xnat_table, &xr->ref)) {
        /* Its session was taken over while it tried the old home in vain: it begins anew. */
        xb_table_withdraw(xnat_table, &xr->ref, xnat_now_us());
        xr->entered = false;
    }
    int rv = xnat_gate_enter(xr);
    if (rv == OK) {
        rv = route_request(xr, worker, balancer, conf, url);
    }
    if (rv == DECLINED) {
        *balancer = b; /* stock code goes on from here and need not look for it again */
    }
    return rv;
}

/* ---- sent */

/* The path in a node's URL; a unix socket's URL has one in front of it. */
static const char *path_of(const char *url)
{
    const char *host = strstr(url, "://");
    return host ? strchr(host + 3, '/') : NULL;
}

const char *xnat_request_node_path(const xnat_request_t *xr)
{
    return xr->node_url ? path_of(xr->node_url) : NULL;
}

unsigned xnat_request_path(const xnat_request_t *xr)
{
    return xnat_shm_path_above(path_of(xr->node_url ? xr->node_url : xr->r->filename));
}

void xnat_request_forgot(const xnat_request_t *xr, bool forgot)
{
    if (!forgot) {
        return;
    }
    __atomic_store_n((int64_t *)&xnat_shm->forgot_us, xnat_now_us(), __ATOMIC_RELAXED);
    xnat_count(&xnat_shm->forgotten);
    if (xnat_shm_may_tell(&xnat_shm->forgot_logged_us, 60 * XNAT_MINUTE_US)) {
        xnat_log_server(APLOG_WARNING, 0, xr->r->server, XB(0203),
                        "the table is full: living sessions are forgotten; raise " XNAT_SESSIONS
                        " (told once an hour)");
    }
}

void xnat_request_remember(xnat_request_t *xr, unsigned member)
{
    bool forgot = false;
    unsigned path = xnat_request_path(xr);
    xb_insert_t rc = xb_table_insert(xnat_table, (unsigned)xnat_child, xr->tag, xr->id.whole,
                                     member, XB_SESSION_PARTIAL | XB_SESSION_UNPROVEN, path,
                                     xnat_now_us(), &xr->ref, &forgot);
    xnat_request_forgot(xr, forgot);
    if (rc == XB_INSERT_EXISTS) {
        rc = xb_table_enter(xnat_table, (unsigned)xnat_child, xr->tag, xnat_now_us(),
                            &xr->ref) == XB_ENTER_IN
                 ? XB_INSERT_NEW
                 : XB_INSERT_EXISTS;
    }
    xr->known = xr->entered = rc == XB_INSERT_NEW; /* so that a retry keeps to its home */
    xr->home = member;
}

/* A session that was remembered before any login has told where its context lies. */
static void find_path(const xnat_request_t *xr)
{
    if (xb_table_path(xnat_table, xr->ref.slot) == XNAT_PATH_UNLEARNED) {
        xb_table_set_path(xnat_table, xr->ref.slot, xnat_request_path(xr));
    }
}

int xnat_request_sent(request_rec *r, proxy_worker *worker, proxy_server_conf *conf, char *url,
                      const char *proxyname, apr_port_t proxyport)
{
    xnat_request_t *xr = xnat_request_of(r);
    (void)conf;
    (void)proxyname;
    (void)proxyport;
    if (!xr || xr->ended) {
        return DECLINED;
    }
    unsigned member = xnat_fleet_member(xr->xb->balancer, worker);
    if (xr->member != XB_MEMBER_NONE) { /* an earlier attempt failed */
        leave_member(xr);
    }
    if (member == XB_MEMBER_NONE || xnat_child < 0) {
        return DECLINED;
    }
    xr->member = member;
    xr->rescued = XB_MEMBER_NONE; /* if that one fails too, the mover is asked again */
    xr->node_url = url;
    xr->sent_us = xnat_now_us();
    xr->head_us = 0;
    xb_member_enter(xnat_members, (uint32_t)xnat_child, member);
    xnat_count(&xnat_members->member[member].requests);
    if (xr->known || xb_id_names_route(&xr->id, worker->s->route)) {
        xr->credit = (xb_worth_t){0, 0}; /* no new session is to be expected */
    }
    if (xr->entered) {
        xnat_elect_settle(xr, member);
        find_path(xr);
    }
    else if (!xr->known && xb_id_names_route(&xr->id, worker->s->route)) {
        xnat_request_remember(xr, member);
    }
    else if (!xr->known) {
        xnat_elect_credit(xr, member);
    }
    xnat_traffic_watch_tunnel(xr, worker);
    return DECLINED;
}
