/* SPDX-License-Identifier: Apache-2.0 */
/* Steps of moves: HEADs, marker, proofs. */
#include "xnat_steps.h"

#include "apr_strings.h"

#include "mod_xnat_balance.h"
#include "xb_rule.h"
#include "xnat_fleet.h"
#include "xnat_health.h"
#include "xnat_mover.h"

#define NO_ROUTE "xnat-balance"
#define PROBE_NAME "_xnat_balance_probe"
/* How long the proof's keys may take to show: MSM stores after it has answered, some
 * milliseconds later, and much later on a starved machine. */
#define PROOF_US 2000000
/* The same at the gate of a mover that was lost, whose requests have waited for another one. */
#define ADOPT_US 1500000
/* A rescue goes on to its next target if this one has not so much as touched the old key. */
#define STALE_US 700000
/* A well node answers a HEAD for a page that it does not have within milliseconds. */
#define READY_US 500000
/* Life of a moved marker beyond the session's own: the stale copy's background cycle. */
#define STALE_MARGIN_S 120
/* When a session's own limit is not known. */
#define UNKNOWN_LIFE_S 86400

void xnat_steps_promise(xnat_steps_t *m, xb_worth_t worth)
{
    xb_member_credit(xnat_members, m->promised_to, -m->promised.bytes, -m->promised.requests);
    m->promised = worth;
    m->promised_to = m->to;
    xb_member_credit(xnat_members, m->to, worth.bytes, worth.requests);
}

int64_t xnat_steps_left(const xnat_steps_t *m, int64_t most)
{
    int64_t rest = m->deadline_us - xnat_now_us();
    return rest < 1000 ? 1000 : rest < most ? rest : most;
}

bool xnat_steps_is_ours(const xnat_steps_t *m)
{
    return xb_table_token(xnat_table, m->job->slot, m->token, NULL);
}

bool xnat_steps_parse(const xnat_steps_t *m, const char *text, xb_id_t *out)
{
    return xb_id_parse((xb_span_t){text, strlen(text)}, m->xb->balancer->s->sticky_separator,
                       out) &&
           out->route.n;
}

static bool is_text(xb_span_t span, const char *text)
{
    return strlen(text) == span.n && !memcmp(text, span.p, span.n);
}

/* ---- HEADs */

static void front_of(const xnat_steps_t *m, char host[256], char proto[8])
{
    xnat_shm_balancer_t *rec = &xnat_shm->balancer[m->xb->record];
    uint32_t before, after;
    do {
        before = __atomic_load_n((uint32_t *)&rec->seq, __ATOMIC_ACQUIRE);
        apr_cpystrn(host, rec->host, sizeof rec->host);
        apr_cpystrn(proto, rec->proto, sizeof rec->proto);
        __atomic_thread_fence(__ATOMIC_ACQUIRE);
        after = __atomic_load_n((uint32_t *)&rec->seq, __ATOMIC_RELAXED);
        /* odd for ever if a child was killed while it wrote: what is there will do */
    } while (before != after && !(after & 1));
}

/* 503: an application that is stopped, or not started yet. */
static bool is_well(xnat_probe_rc_t rc, const xnat_probe_answer_t *answer)
{
    return rc == XNAT_PROBE_ANSWERED && answer->status != HTTP_SERVICE_UNAVAILABLE;
}

xnat_probe_rc_t xnat_steps_head(const xnat_steps_t *m, proxy_worker *worker, const char *id,
                                apr_interval_time_t budget, xnat_probe_answer_t *answer)
{
    char path[XNAT_PATH_SIZE + 32], cookie[XB_ID_MAX + PROXY_BALANCER_MAX_STICKY_SIZE + 2];
    char host[256], proto[8];
    const char *below = m->path < XNAT_PATHS_MAX ? xnat_shm->path[m->path].text : "/";
    front_of(m, host, proto);
    apr_snprintf(path, sizeof path, "%s%s" PROBE_NAME, below,
                 below[strlen(below) - 1] == '/' ? "" : "/");
    if (id) {
        apr_snprintf(cookie, sizeof cookie, "%s=%s", m->xb->balancer->s->sticky, id);
    }
    xnat_probe_request_t req = {
        .server = m->xb->server,
        .conf = m->xb->proxy,
        .balancer = m->xb->balancer,
        .worker = worker,
        .path = m->xb->conf.probe ? m->xb->conf.probe : path,
        .host = *host ? host : NULL,
        .cookie = id ? cookie : NULL,
        .forwarded_proto = *proto ? proto : NULL,
        .budget = budget,
    };
    xnat_probe_rc_t rc = xnat_probe_head(m->hands->probe, &req, answer);
    unsigned member = xnat_fleet_member(m->xb->balancer, worker);
    if (is_well(rc, answer)) {
        xnat_health_answered(member);
    }
    else {
        xnat_health_doubt(member);
    }
    return rc;
}

bool xnat_steps_id_in(xnat_steps_t *m, const xnat_probe_answer_t *answer, char *text,
                      size_t size, xb_id_t *out)
{
    bool found = false;
    m->other_path = false;
    for (unsigned i = 0; i < answer->cookies; i++) {
        xb_set_cookie_t cookie;
        if (xb_id_in_set_cookie(answer->set_cookie[i], m->xb->balancer->s->sticky, &cookie) &&
            cookie.value.n && cookie.value.n < size) {
            memcpy(text, cookie.value.p, cookie.value.n);
            text[cookie.value.n] = '\0';
            found = xnat_steps_parse(m, text, out);
            m->other_path =
                m->path < XNAT_PATHS_MAX && !is_text(cookie.path, xnat_shm->path[m->path].text);
        }
    }
    return found;
}

xb_refusal_t xnat_steps_ask(xnat_steps_t *m, proxy_worker *worker, const char *id,
                            const char *own, int64_t patience_us, bool *named)
{
    xnat_probe_answer_t answer;
    char text[XB_ID_MAX + 1];
    xb_id_t said;
    *named = m->barred = false;
    if (xnat_steps_head(m, worker, id, xnat_steps_left(m, patience_us), &answer) !=
        XNAT_PROBE_ANSWERED) {
        return XB_NO_FLUSH;
    }
    m->barred = answer.status == 401 || answer.status == 403;
    bool any = xnat_steps_id_in(m, &answer, text, sizeof text, &said);
    *named = any && !strcmp(text, own);
    return any && !*named ? XB_NO_RENAMED : XB_REFUSALS;
}

xb_refusal_t xnat_steps_ask_home(xnat_steps_t *m, proxy_worker *worker, const char *own,
                                 int64_t patience_us, bool *named)
{
    char id[XB_ID_MAX + sizeof NO_ROUTE + 1];
    apr_snprintf(id, sizeof id, "%.*s%c" NO_ROUTE, (int)m->old.base.n, m->old.base.p,
                 m->xb->balancer->s->sticky_separator);
    return xnat_steps_ask(m, worker, id, own, patience_us, named);
}

/* ---- marker and proof */

void xnat_steps_lives(xnat_steps_t *m, const xb_msm_head_t *header)
{
    m->life_s =
        header->max_inactive_s > 0 ? (uint32_t)header->max_inactive_s : XB_INACTIVE_NEVER;
    xb_table_max_inactive(xnat_table, m->job->slot, m->token, m->life_s);
}

bool xnat_steps_mark(const xnat_steps_t *m, unsigned member)
{
    if (!xnat_keeps_copies(m->xb)) {
        return true; /* wherever the session is looked for, it is there */
    }
    uint32_t life_s = m->life_s == XB_INACTIVE_NEVER ? XB_STORE_FOREVER
                      : m->life_s                    ? m->life_s + STALE_MARGIN_S
                                                     : UNKNOWN_LIFE_S + STALE_MARGIN_S;
    return xnat_move_mark(m->hands, m->xb, &m->old, xnat_shm->route[member].route, life_s);
}

static bool same(xb_span_t a, xb_span_t b)
{
    return a.n == b.n && !memcmp(a.p, b.p, a.n);
}

/* What of a base id stands before the memcached node. */
static xb_span_t without_node(xb_span_t base)
{
    const char *end = memchr(base.p, '-', base.n);
    return (xb_span_t){base.p, end ? (size_t)(end - base.p) : base.n};
}

/* Under another memcached node it is the session, but no old id leads to it: a Tomcat with its
 * own node in failoverNodes draws a new one for each request that brings an old id. */
bool xnat_steps_cookie_proves(xnat_steps_t *m, const xnat_probe_answer_t *answer)
{
    m->redrawn = false;
    if (!xnat_steps_id_in(m, answer, m->new_text, sizeof m->new_text, &m->fresh) ||
        !xb_id_names_route(&m->fresh, xnat_shm->route[m->to].route)) {
        return false;
    }
    if (XB_RULE(SAMEID) && !same(m->fresh.base, m->old.base)) {
        m->redrawn = same(without_node(m->fresh.base), without_node(m->old.base));
        return false;
    }
    return true;
}

static bool is_old_there(xnat_keys_t keys)
{
    return keys == XNAT_KEYS_OLD || keys == XNAT_KEYS_BOTH;
}

xnat_keys_t xnat_steps_keys_prove(xnat_steps_t *m)
{
    int64_t most = m->job->kind == XNAT_JOB_ADOPT ? ADOPT_US : PROOF_US;
    int64_t begun = xnat_now_us(), end = begun + xnat_steps_left(m, most);
    apr_interval_time_t nap = 500;
    xnat_keys_t keys = XNAT_KEYS_NEW;
    while (XB_RULE(FLIP) &&
           (keys = xnat_move_keys(m->hands, m->xb, &m->old, &m->fresh)) != XNAT_KEYS_NEW &&
           xnat_now_us() < (m->others && is_old_there(keys) ? begun + STALE_US : end)) {
        if (xnat_mover_is_stopping()) {
            m->left = true;
            break;
        }
        apr_sleep(nap);
        nap = nap < 10000 ? nap * 2 : nap;
    }
    m->proved = keys == XNAT_KEYS_NEW;
    return keys;
}

/* ---- takeover */

bool xnat_steps_guess_fresh(xnat_steps_t *m)
{
    char sep[2] = {m->xb->balancer->s->sticky_separator, '\0'};
    apr_snprintf(m->new_text, sizeof m->new_text, "%.*s%s%s", (int)m->old.base.n, m->old.base.p,
                 sep, xnat_shm->route[m->to].route);
    return xnat_steps_parse(m, m->new_text, &m->fresh);
}

bool xnat_steps_taken_unseen(xnat_steps_t *m)
{
    if (!xnat_steps_guess_fresh(m) ||
        (xnat_steps_keys_prove(m) != XNAT_KEYS_NEW && XB_RULE(BOTH))) {
        xb_table_flag(xnat_table, m->job->slot, m->left ? 0 : XB_SESSION_PARTIAL, 0);
        return false;
    }
    return true;
}

static xb_refusal_t no_proof(const xnat_steps_t *m, xnat_probe_rc_t rc)
{
    static const xb_refusal_t refusal[] = {
        [XNAT_PROBE_REFUSED] = XB_NO_PROBE,
        [XNAT_PROBE_BROKEN] = XB_NO_PROBE,
        [XNAT_PROBE_LATE] = XB_NO_PROBE_LATE,
    };
    return rc != XNAT_PROBE_ANSWERED ? refusal[rc]
           : m->redrawn              ? XB_NO_PROOF_NODE
                                     : XB_NO_PROOF_COOKIE;
}

/* Nobody has begun to take it over: while others are left to ask, that is not waited for. */
static bool is_untouched(xnat_steps_t *m)
{
    return m->others && xnat_steps_guess_fresh(m) &&
           xnat_move_keys(m->hands, m->xb, &m->old, &m->fresh) == XNAT_KEYS_OLD;
}

/* Rule 7. A node whose port is open before its applications are would take the session's HEAD
 * and answer too late, or take the session over when nobody looks any more. */
xb_refusal_t xnat_steps_ready(const xnat_steps_t *m)
{
    xnat_probe_answer_t answer;
    int64_t gate = m->xb->conf.gate_timeout, most = gate / 4 < READY_US ? gate / 4 : READY_US;
    if (!XB_RULE(READY) || xnat_health_is_well(m->to)) {
        return XB_REFUSALS;
    }
    if (xnat_health_is_silent(m->to)) { /* asked again for want of a better one */
        most = gate / 3;
    }
    if (is_well(xnat_steps_head(m, m->to_worker, NULL, xnat_steps_left(m, most), &answer),
                &answer)) {
        return XB_REFUSALS;
    }
    xnat_health_silent(m->to);
    return XB_NO_READY;
}

/* Where nodes have restarted since, nothing is left of the session: their places are free. The
 * gate is shut, so nothing is sent there meanwhile. */
static void forget_reborn(const xnat_steps_t *m)
{
    xb_view_t v;
    for (unsigned i = 0; xb_table_view(xnat_table, m->job->slot, &v) && i < v.visited_count;
         i++) {
        unsigned member = v.visited[i].member;
        if (member != v.w.home && v.visited[i].touched_us < xnat_fleet_reborn_us(member)) {
            xb_table_unvisit(xnat_table, m->job->slot, member);
        }
    }
}

/* Its old home keeps it, if it lives; where it has been is no longer known. */
static xb_refusal_t unproved(const xnat_steps_t *m)
{
    xb_table_flag(xnat_table, m->job->slot, m->left ? 0 : XB_SESSION_PARTIAL, 0);
    return XB_NO_PROOF_KEYS;
}

xb_refusal_t xnat_steps_take_over(xnat_steps_t *m)
{
    xnat_probe_answer_t answer = {0};
    m->stale = false;
    xb_refusal_t ready = xnat_steps_ready(m);
    if (ready != XB_REFUSALS) {
        return ready;
    }
    /* With another lbmethod by now requests no longer heed the gate. */
    if (!xnat_steps_is_ours(m) || !xnat_balancer_of(m->xb->balancer)) {
        return XB_NO_TOKEN;
    }
    forget_reborn(m);
    if (XB_RULE(SENT)) {
        xb_table_ask(xnat_table, m->job->slot, m->to, xnat_now_us());
    }
    xnat_probe_rc_t rc = xnat_steps_head(
        m, m->to_worker, m->old_text,
        xnat_steps_left(m, m->xb->conf.gate_timeout / (m->others ? 4 : 2)), &answer);
    m->asked = m->asked || rc != XNAT_PROBE_REFUSED;
    bool cookie = rc == XNAT_PROBE_ANSWERED && xnat_steps_cookie_proves(m, &answer);
    if (rc == XNAT_PROBE_REFUSED || (rc == XNAT_PROBE_ANSWERED && !cookie)) {
        xb_table_done(xnat_table, m->job->slot, m->to);
    }
    else if (!cookie) {
        m->late = true;
    }
    if (cookie && m->other_path &&
        XB_RULE(PATH)) { /* its true home, in memory, is the one that keeps it */
        xb_table_flag(xnat_table, m->job->slot, XB_SESSION_PARTIAL, 0);
        xb_table_done(xnat_table, m->job->slot, m->to);
        return XB_NO_PROOF_PATH;
    }
    if (cookie) {
        xnat_keys_t keys = xnat_steps_keys_prove(m);
        m->stale = is_old_there(keys) && !m->left && XB_RULE(STALE);
        if (m->stale) {
            xb_table_done(xnat_table, m->job->slot, m->to);
        }
        return keys == XNAT_KEYS_NEW ? XB_REFUSALS : unproved(m);
    }
    if (rc == XNAT_PROBE_LATE && is_untouched(m)) {
        return XB_NO_PROBE_LATE;
    }
    if (rc != XNAT_PROBE_REFUSED && xnat_steps_taken_unseen(m)) {
        return XB_REFUSALS;
    }
    return no_proof(m, rc);
}
