/* SPDX-License-Identifier: Apache-2.0 */
/* What the head of a node's answer says of its session: a new one, a new id for a known one, or
 * its end. Runs in the request's thread at the first brigade, before the client can send its
 * next request with the new cookie. */
#include "apr_strings.h"
#include "http_core.h"
#include "http_vhost.h"

#include "mod_xnat_balance.h"
#include "xnat_elect.h"
#include "xnat_log.h"
#include "xnat_request.h"

typedef struct {
    const char *name;
    xb_set_cookie_t cookie;
    bool found;
} search_t;

/* The last one counts, as in a browser. */
static int look(void *rec, const char *key, const char *value)
{
    search_t *search = rec;
    (void)key;
    xb_set_cookie_t cookie;
    if (xb_id_in_set_cookie(value, search->name, &cookie)) {
        search->cookie = cookie;
        search->found = true;
    }
    return 1;
}

/* How clients reach this balancer, for HEADs that must look like theirs. A writer that finds
 * another at it leaves it. */
static void note_front(const xnat_request_t *xr)
{
    xnat_shm_balancer_t *rec = &xnat_shm->balancer[xr->xb->record];
    const proxy_dir_conf *dir = ap_get_module_config(xr->r->per_dir_config, &proxy_module);
    const char *host = dir->preserve_host ? apr_table_get(xr->r->headers_in, "Host") : NULL;
    const char *proto = apr_table_get(xr->r->headers_in, "X-Forwarded-Proto");
    proto = proto && (!strcmp(proto, "https") || !strcmp(proto, "http")) ? proto : "";
    bool ours =
        host && ap_matches_request_vhost(xr->r, xr->r->hostname, ap_get_server_port(xr->r));
    host = host && strlen(host) < sizeof rec->host ? host : "";
    if (rec->host_is_ours && !ours) {
        return; /* what one client makes up does not go into HEADs for all */
    }
    if (!strcmp(rec->host, host) && !strcmp(rec->proto, proto)) {
        return;
    }
    uint32_t seq = __atomic_load_n((uint32_t *)&rec->seq, __ATOMIC_ACQUIRE);
    if (!(seq & 1) && __atomic_compare_exchange_n((uint32_t *)&rec->seq, &seq, seq + 1, 0,
                                                  __ATOMIC_ACQ_REL, __ATOMIC_RELAXED)) {
        apr_cpystrn(rec->host, host, sizeof rec->host);
        rec->host_is_ours = ours;
        apr_cpystrn(rec->proto, proto, sizeof rec->proto);
        __atomic_store_n((uint32_t *)&rec->seq, seq + 2, __ATOMIC_RELEASE);
    }
}

/* The session that the request came with has ended if its cookie was replaced by another id of
 * the same Path; a cookie of another context lives beside it. */
static void end_old(xnat_request_t *xr, unsigned path)
{
    xb_view_t view;
    if (xr->entered && xb_table_view(xnat_table, xr->ref.slot, &view) &&
        (view.path == path || view.flags & XB_SESSION_UNPROVEN)) {
        xb_table_flag(xnat_table, xr->ref.slot, XB_SESSION_ENDED, 0);
    }
}

static void tell_full(const xnat_request_t *xr)
{
    xnat_count(&xnat_shm->not_remembered);
    if (xnat_shm_may_tell(&xnat_shm->crowded_logged_us, 60 * XNAT_MINUTE_US)) {
        xnat_log_server(APLOG_WARNING, 0, xr->r->server, XB(0204),
                        "a new session is not remembered and will not move: each one in its "
                        "place in the table is in use, or was at another node lately; "
                        "raise " XNAT_SESSIONS " (told once an hour)");
    }
}

/* The answer's id is in the table already: another answer brought it just now, or it is that of
 * a session that has ended there, and lives again, here (MSM renames sessions to and fro when
 * its memcacheds come and go). */
static bool enter_again(xnat_request_t *xr, const xb_id_t *id, unsigned path, xb_ref_t *ref)
{
    xb_view_t v;
    int64_t now = xnat_now_us();
    if (xb_table_enter(xnat_table, (unsigned)xnat_child, xnat_tag(id->base), now, ref) !=
        XB_ENTER_IN) {
        return false;
    }
    if (xb_table_view(xnat_table, ref->slot, &v) && v.flags & XB_SESSION_ENDED) {
        xb_table_learn(xnat_table, ref, id->whole, path != XNAT_PATH_UNKNOWN ? (int)path : -1);
        xb_table_rehome(xnat_table, ref->slot, ref->home, xr->member, now);
    }
    return true;
}

static void remember_new(xnat_request_t *xr, const xb_id_t *id, unsigned path)
{
    xb_ref_t ref;
    bool forgot = false;
    int64_t now = xnat_now_us();
    xb_insert_t rc = xb_table_insert(xnat_table, (unsigned)xnat_child, xnat_tag(id->base),
                                     id->whole, xr->member, 0, path, now, &ref, &forgot);
    if (rc == XB_INSERT_EXISTS && enter_again(xr, id, path, &ref)) {
        rc = XB_INSERT_NEW;
    }
    xnat_request_forgot(xr, forgot);
    if (rc == XB_INSERT_FULL) {
        __atomic_store_n((int64_t *)&xnat_shm->missed_us, now, __ATOMIC_RELAXED);
        tell_full(xr);
    }
    if (rc != XB_INSERT_NEW) {
        return;
    }
    if (xr->entered) { /* this request goes on as one of the new session */
        xb_table_leave(xnat_table, &xr->ref, now, 0, 0, xr->xb->decay.half_life_s);
    }
    xr->ref = ref;
    xr->entered = true;
    xr->tag = xnat_tag(id->base);
    xr->made_session = true;
}

static bool same(xb_span_t a, xb_span_t b)
{
    return a.n == b.n && !memcmp(a.p, b.p, a.n);
}

/* Index of the path below which HEADs may carry this session's id at the node. A HEAD outside
 * the session's own context would let another context take it over, so the cookie's Path is
 * believed only if this request itself went below it (with ProxyPassReverseCookiePath it is the
 * client's view, and XnatBalanceProbe has to say the node's). */
static unsigned path_at_node(const xnat_request_t *xr, xb_span_t path)
{
    const char *sent = xnat_request_node_path(xr);
    bool below = sent && path.n && !strncmp(sent, path.p, path.n) &&
                 (path.p[path.n - 1] == '/' || !sent[path.n] || strchr("/;?", sent[path.n]));
    return below ? xnat_shm_path(path) : XNAT_PATH_UNKNOWN;
}

static void learn_cookie(xnat_request_t *xr, const xb_set_cookie_t *cookie)
{
    xb_id_t id;
    if (cookie->deleted || cookie->value.n == 0) {
        if (xr->entered && cookie->path.n == 0) {
            xb_table_flag(xnat_table, xr->ref.slot, XB_SESSION_ENDED, 0);
        }
        end_old(xr, path_at_node(xr, cookie->path));
        return;
    }
    if (!xb_id_parse(cookie->value, xr->xb->balancer->s->sticky_separator, &id) ||
        id.route.n == 0) {
        return;
    }
    unsigned path = path_at_node(xr, cookie->path);
    if (xr->entered && same(id.base, xr->id.base)) {
        if (!xb_id_names_route(&id, xnat_shm->route[xnat_elect_home(xr)].route)) {
            return; /* from a former home: a failover has overtaken this request */
        }
        xb_table_learn(xnat_table, &xr->ref, id.whole,
                       path != XNAT_PATH_UNKNOWN ? (int)path : -1);
        return;
    }
    end_old(xr, path);
    remember_new(xr, &id, path);
    note_front(xr);
}

static void learn_answer(xnat_request_t *xr)
{
    search_t search = {.name = xr->xb->balancer->s->sticky, .found = false};
    if (!*search.name || xr->member == XB_MEMBER_NONE || xnat_child < 0) {
        return;
    }
    apr_table_do(look, &search, xr->r->headers_out, "Set-Cookie", NULL);
    apr_table_do(look, &search, xr->r->err_headers_out, "Set-Cookie", NULL);
    if (search.found) {
        learn_cookie(xr, &search.cookie);
    }
}

static bool refuse(xnat_request_t *xr)
{
    xnat_count(&xnat_shm->fenced);
    xnat_request_say(xr, XB_REFUSED, "session-moved-meanwhile", NULL, NULL);
    xnat_log_request(APLOG_INFO, 0, xr->r, XB(0202),
                     "502: the session was taken over while the "
                     "former home still worked on this request");
    return false;
}

bool xnat_request_learn(xnat_request_t *xr)
{
    const request_rec *r = xr->r;
    xr->learned = true;
    if (xr->entered && !xb_table_current(xnat_table, &xr->ref)) {
        return refuse(xr);
    }
    /* Most answers set no cookie: that is told sooner than by a walk. */
    if (apr_table_get(r->headers_out, "Set-Cookie") ||
        apr_table_get(r->err_headers_out, "Set-Cookie")) {
        learn_answer(xr);
    }
    return true;
}
