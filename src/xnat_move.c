/* SPDX-License-Identifier: Apache-2.0 */
/* A move: gate, flush, marker, takeover probe, proof, commit; and what to do without proof. */
#include "xnat_move.h"

#include "apr_strings.h"

#include "mod_xnat_balance.h"
#include "xb_rule.h"
#include "xnat_log.h"
#include "xnat_move_store.h"

#define PROBE_NAME "_xnat_balance_probe"
/* After a refusal the session is left alone for this long; longer if it could not be made
 * quiet, since its user has waited for nothing. */
#define BACK_OFF_US (10 * INT64_C(1000000))
#define NEVER_QUIET_BACK_OFF_US (120 * INT64_C(1000000))
/* How long a busy session's requests may hold the shut gate. */
#define QUIET_US (1 * INT64_C(1000000))
/* How long the proof's keys may take to show: MSM stores after it has answered. */
#define PROOF_US 400000
/* Life of a moved marker beyond the session's own: the stale copy's background cycle. */
#define STALE_MARGIN_S 120
#define UNKNOWN_LIFE_S 86400

/* One move under way. */
typedef struct {
    xnat_hands_t *hands;
    const xnat_job_t *job;
    const xnat_balancer_t *xb;
    unsigned token;
    int64_t begun_us, deadline_us; /* the gate opens before its waiters give up */
    char old_text[XB_ID_MAX + 1], new_text[2 * XB_ID_MAX];
    xb_id_t old, fresh; /* inside the two texts */
    bool
        other_path; /* the last id found in an answer was for another Path than the session's */
    unsigned path;
    uint32_t life_s; /* max inactive of the session */
} move_t;

static int64_t left(const move_t *m, int64_t most)
{
    int64_t rest = m->deadline_us - xnat_now_us();
    return rest < 1000 ? 1000 : rest < most ? rest : most;
}

static bool is_ours(const move_t *m)
{
    return xb_table_token(xnat_table, m->job->slot, m->token, NULL);
}

static bool parse(const move_t *m, const char *text, xb_id_t *out)
{
    return xb_id_parse((xb_span_t){text, strlen(text)}, m->xb->balancer->s->sticky_separator,
                       out) &&
           out->route.n;
}

static bool is_text(xb_span_t span, const char *text)
{
    return strlen(text) == span.n && !memcmp(text, span.p, span.n);
}

/* ---- gate */

/* Requests in flight at a gate that was shut on a busy session: they may end. */
static bool wait_for_quiet(const move_t *m)
{
    unsigned inflight = 0;
    int64_t half = m->xb->conf.gate_timeout / 2,
            end = m->begun_us + (half < QUIET_US ? half : QUIET_US);
    while (xb_table_token(xnat_table, m->job->slot, m->token, &inflight) && inflight &&
           xnat_now_us() < end) {
        apr_sleep(2000);
    }
    return inflight == 0;
}

static bool shut_gate(move_t *m)
{
    const xnat_job_t *job = m->job;
    m->begun_us = xnat_now_us();
    m->deadline_us = m->begun_us + m->xb->conf.gate_timeout * 9 / 10;
    if (job->seen == 0) {
        return xb_table_regate(xnat_table, job->slot, &m->token);
    }
    return xb_table_gate(xnat_table, job->slot, job->seen, job->to, false, m->begun_us,
                         &m->token);
}

/* ---- hEADs */

static void front_of(const move_t *m, char host[256], char proto[8])
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

/* One HEAD with an id of the session, at a path that no servlet serves. */
static xnat_probe_rc_t head(const move_t *m, proxy_worker *worker, const char *id,
                            apr_interval_time_t budget, xnat_probe_answer_t *answer)
{
    char path[XNAT_PATH_SIZE + 32], cookie[XB_ID_MAX + PROXY_BALANCER_MAX_STICKY_SIZE + 2];
    char host[256], proto[8];
    const char *below = m->path != XNAT_PATH_UNKNOWN ? xnat_shm->path[m->path].text : "/";
    front_of(m, host, proto);
    apr_snprintf(path, sizeof path, "%s%s" PROBE_NAME, below,
                 below[strlen(below) - 1] == '/' ? "" : "/");
    apr_snprintf(cookie, sizeof cookie, "%s=%s", m->xb->balancer->s->sticky, id);
    xnat_probe_request_t req = {
        .server = m->xb->server,
        .conf = m->xb->proxy,
        .balancer = m->xb->balancer,
        .worker = worker,
        .path = m->xb->conf.probe ? m->xb->conf.probe : path,
        .host = *host ? host : NULL,
        .cookie = cookie,
        .forwarded_proto = *proto ? proto : NULL,
        .budget = budget,
    };
    return xnat_probe_head(m->hands->probe, &req, answer);
}

/* The session's id in an answer's cookies. False: it set none, or one that is not an id. */
static bool id_in_answer(move_t *m, const xnat_probe_answer_t *answer, char *text, size_t size,
                         xb_id_t *out)
{
    bool found = false;
    m->other_path = false;
    for (unsigned i = 0; i < answer->cookies; i++) {
        xb_set_cookie_t cookie;
        if (xb_id_in_set_cookie(answer->set_cookie[i], m->xb->balancer->s->sticky, &cookie) &&
            cookie.value.n && cookie.value.n < size) {
            memcpy(text, cookie.value.p, cookie.value.n);
            text[cookie.value.n] = '\0';
            found = parse(m, text, out);
            m->other_path = m->path != XNAT_PATH_UNKNOWN &&
                            !is_text(cookie.path, xnat_shm->path[m->path].text);
        }
    }
    return found;
}

/* Flush: makes MSM write what it has left unwritten. The home must not rename the session by
 * it: its client would never learn the new name. */
static xb_refusal_t flush(move_t *m)
{
    xnat_probe_answer_t answer;
    char text[XB_ID_MAX + 1];
    xb_id_t id;
    if (!XB_RULE(FLUSH)) {
        return XB_REFUSALS;
    }
    if (head(m, m->job->from_worker, m->old_text, left(m, m->xb->conf.gate_timeout / 4),
             &answer) != XNAT_PROBE_ANSWERED) {
        return XB_NO_FLUSH;
    }
    if (id_in_answer(m, &answer, text, sizeof text, &id) && strcmp(text, m->old_text)) {
        return XB_NO_RENAMED;
    }
    return XB_REFUSALS;
}

/* ---- marker */

static xb_refusal_t check(move_t *m, size_t *total)
{
    xb_msm_head_t header;
    xb_refusal_t why = xnat_move_check(m->hands, m->xb, &m->old, &header, total);
    if (why == XB_REFUSALS) {
        m->life_s = header.max_inactive_s > 0 && header.max_inactive_s < 30 * 86400
                        ? (uint32_t)header.max_inactive_s
                        : UNKNOWN_LIFE_S;
        xb_table_max_inactive(xnat_table, m->job->slot, m->token, m->life_s);
    }
    return why;
}

static bool mark(const move_t *m, unsigned member)
{
    return xnat_move_mark(m->hands, m->xb, &m->old, xnat_shm->route[member].route,
                          m->life_s + STALE_MARGIN_S);
}

/* Pin, presence and header; flush; then header again, since the flush may have written. */
static xb_refusal_t prepare(move_t *m)
{
    size_t total = 0;
    xb_refusal_t why = check(m, &total);
    why = why == XB_REFUSALS ? flush(m) : why;
    if (why != XB_REFUSALS) {
        return why;
    }
    /* MSM stores after it has answered; a large session takes longer. */
    apr_sleep(5000 + (apr_interval_time_t)(total < 4000000 ? total : 4000000) / 40);
    why = check(m, &total);
    if (why == XB_REFUSALS && !mark(m, m->job->from)) {
        why = XB_NO_STORE;
    }
    return why;
}

/* ---- proof */

/* Rule SAMEID: the answer names the same session at the target. */
static bool cookie_proves(move_t *m, const xnat_probe_answer_t *answer)
{
    return id_in_answer(m, answer, m->new_text, sizeof m->new_text, &m->fresh) &&
           m->fresh.base.n == m->old.base.n &&
           !memcmp(m->fresh.base.p, m->old.base.p, m->old.base.n) &&
           is_text(m->fresh.route, xnat_shm->route[m->job->to].route);
}

/* Rule FLIP: the key that was probed is gone and the target's is there. Waits for it a little.
 */
static xnat_keys_t keys_prove(move_t *m)
{
    int64_t end = xnat_now_us() + left(m, PROOF_US);
    apr_interval_time_t nap = 500;
    xnat_keys_t keys = XNAT_KEYS_NEW;
    while (XB_RULE(FLIP) &&
           (keys = xnat_move_keys(m->hands, m->xb, &m->old, &m->fresh)) != XNAT_KEYS_NEW &&
           xnat_now_us() < end) {
        apr_sleep(nap);
        nap = nap < 10000 ? nap * 2 : nap;
    }
    return keys;
}

/* The id that the session has at the target if the takeover happened unseen. */
static void guess_fresh(move_t *m)
{
    char sep[2] = {m->xb->balancer->s->sticky_separator, '\0'};
    apr_snprintf(m->new_text, sizeof m->new_text, "%.*s%s%s", (int)m->old.base.n, m->old.base.p,
                 sep, xnat_shm->route[m->job->to].route);
    parse(m, m->new_text, &m->fresh);
}

/* Rule BOTH, after a probe without proof: the keys say who has it; in doubt a living home does,
 * and the session makes no further voluntary move. */
static bool taken_over_unseen(move_t *m)
{
    guess_fresh(m);
    if (!m->fresh.whole.n || keys_prove(m) != XNAT_KEYS_NEW) {
        xb_table_flag(xnat_table, m->job->slot, XB_SESSION_PARTIAL, 0);
        return false;
    }
    return true;
}

static xb_refusal_t no_proof(xnat_probe_rc_t rc, bool cookie)
{
    static const xb_refusal_t refusal[] = {
        [XNAT_PROBE_REFUSED] = XB_NO_PROBE,
        [XNAT_PROBE_BROKEN] = XB_NO_PROBE,
        [XNAT_PROBE_LATE] = XB_NO_PROBE_LATE,
    };
    return rc != XNAT_PROBE_ANSWERED ? refusal[rc]
           : cookie                  ? XB_NO_PROOF_KEYS
                                     : XB_NO_PROOF_COOKIE;
}

static xb_refusal_t take_over(move_t *m)
{
    xnat_probe_answer_t answer = {0};
    if (!is_ours(m)) {
        return XB_NO_TOKEN;
    }
    xb_table_visit(xnat_table, m->job->slot, m->job->to, xnat_now_us());
    xnat_probe_rc_t rc =
        head(m, m->job->to_worker, m->old_text, left(m, m->xb->conf.gate_timeout / 2), &answer);
    bool cookie = rc == XNAT_PROBE_ANSWERED && cookie_proves(m, &answer);
    if (cookie && m->other_path) { /* its true home, in memory, is the one that keeps it */
        xb_table_flag(xnat_table, m->job->slot, XB_SESSION_PARTIAL, 0);
        return XB_NO_PROOF_PATH;
    }
    if (cookie && keys_prove(m) == XNAT_KEYS_NEW) {
        return XB_REFUSALS;
    }
    if (rc != XNAT_PROBE_REFUSED && taken_over_unseen(m)) {
        return XB_REFUSALS;
    }
    return no_proof(rc, cookie);
}

/* ---- ends */

static void account(const move_t *m)
{
    xb_member_t *from = &xnat_members->member[m->job->from];
    xb_member_t *to = &xnat_members->member[m->job->to];
    xnat_count(&from->moved_out);
    xnat_count(&to->moved_in);
    __atomic_fetch_sub((int64_t *)&from->credit_bytes, (int64_t)m->job->cost, __ATOMIC_RELAXED);
    __atomic_fetch_add((int64_t *)&to->credit_bytes, (int64_t)m->job->cost, __ATOMIC_RELAXED);
    xnat_count(&xnat_shm->moves[m->job->reason]);
}

/* Rule MPRE: the marker names the new home before the gate opens. */
static xb_refusal_t commit(move_t *m)
{
    if (!is_ours(m)) {
        return XB_NO_TOKEN;
    }
    mark(m, m->job->to);
    xb_table_flag(xnat_table, m->job->slot, XB_SESSION_FRESH, 0);
    if (!xb_table_commit(xnat_table, m->job->slot, m->token, m->job->to, m->fresh.whole,
                         xnat_now_us(), 0)) {
        return XB_NO_TOKEN;
    }
    account(m);
    return XB_REFUSALS;
}

static void remember(const move_t *m, xb_refusal_t outcome)
{
    int64_t now = xnat_now_us();
    xnat_shm_recent_t rec = {.at_us = now,
                             .digest = m->job->tag,
                             .from = (uint16_t)m->job->from,
                             .to = (uint16_t)m->job->to,
                             .reason = (uint8_t)m->job->reason,
                             .refusal = (uint8_t)outcome,
                             .took_us = (uint32_t)(now - m->begun_us)};
    xnat_shm_recent(&rec);
    if (outcome != XB_REFUSALS) {
        return;
    }
    __atomic_fetch_add((uint64_t *)&xnat_shm->move_us_sum, rec.took_us, __ATOMIC_RELAXED);
    uint64_t most = __atomic_load_n((uint64_t *)&xnat_shm->move_us_max, __ATOMIC_RELAXED);
    while (rec.took_us > most &&
           !__atomic_compare_exchange_n((uint64_t *)&xnat_shm->move_us_max, &most, rec.took_us,
                                        0, __ATOMIC_RELAXED, __ATOMIC_RELAXED)) {
    }
    char digest[XB_DIGEST_SIZE];
    xnat_log_server(APLOG_NOTICE, 0, m->xb->server, XB(0301),
                    "session %s moved from %s to %s (%s) in %u ms",
                    xnat_digest(m->job->tag, digest), xnat_shm->route[m->job->from].route,
                    xnat_shm->route[m->job->to].route, xb_move_name(m->job->reason),
                    rec.took_us / 1000);
}

void xnat_move_refused(const xnat_job_t *job, xb_refusal_t why)
{
    int64_t now = xnat_now_us();
    int64_t last =
        __atomic_load_n((int64_t *)&xnat_shm->refusal_logged_us[why], __ATOMIC_RELAXED);
    xnat_count(&xnat_shm->refusals[why]);
    if (last && now - last < 60 * INT64_C(1000000)) {
        return;
    }
    if (__atomic_compare_exchange_n((int64_t *)&xnat_shm->refusal_logged_us[why], &last, now, 0,
                                    __ATOMIC_RELAXED, __ATOMIC_RELAXED)) {
        char digest[XB_DIGEST_SIZE];
        xnat_log_server(APLOG_NOTICE, 0, job->xb->server, XB(0302),
                        "session %s stays on %s, not moved to %s (%s): %s (told once a minute)",
                        xnat_digest(job->tag, digest), xnat_shm->route[job->from].route,
                        job->to < XB_MEMBERS_MAX ? xnat_shm->route[job->to].route : "any node",
                        xb_move_name(job->reason), xb_refusal_name(why));
    }
}

/* Steps between gate and commit. */
static xb_refusal_t carry_out(move_t *m)
{
    if (!xb_table_id(xnat_table, m->job->slot, m->token, m->old_text, &m->path) ||
        !parse(m, m->old_text, &m->old)) {
        return XB_NO_TOKEN;
    }
    if (m->path == XNAT_PATH_UNKNOWN && !m->xb->conf.probe) {
        return XB_NO_PATH;
    }
    if (m->job->wait_for_quiet && !wait_for_quiet(m)) {
        return XB_NO_QUIET;
    }
    if (m->job->seen == 0) { /* a lost mover's gate: only the keys know */
        m->life_s = UNKNOWN_LIFE_S;
        return taken_over_unseen(m) ? XB_REFUSALS : XB_NO_TOKEN;
    }
    xb_refusal_t why = prepare(m);
    return why == XB_REFUSALS ? take_over(m) : why;
}

void xnat_move_run(xnat_hands_t *hands, const xnat_job_t *job)
{
    move_t m = {.hands = hands, .job = job, .xb = job->xb};
    if (!xnat_move_store_up(hands, job->xb) && job->seen) {
        xnat_move_refused(job, XB_NO_STORE);
        return;
    }
    if (!shut_gate(&m)) {
        return; /* the session has become busy, or somebody else has it: not a refusal */
    }
    xb_refusal_t outcome = carry_out(&m);
    if (outcome == XB_REFUSALS) {
        outcome = commit(&m);
    }
    if (outcome != XB_REFUSALS) {
        xb_table_abort(xnat_table, job->slot, m.token,
                       xnat_now_us() +
                           (outcome == XB_NO_QUIET ? NEVER_QUIET_BACK_OFF_US : BACK_OFF_US));
        xnat_move_refused(job, outcome);
    }
    remember(&m, outcome);
}

void xnat_hands_close(xnat_hands_t *hands)
{
    for (unsigned i = 0; i < hands->stores; i++) {
        xb_store_close(&hands->store[i]);
    }
    if (hands->probe) {
        xnat_probe_destroy(hands->probe);
    }
}
