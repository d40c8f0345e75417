/* SPDX-License-Identifier: Apache-2.0 */
/* A move: gate, flush, marker, takeover probe, proof, commit; and what to do without proof. */
#include "xnat_move.h"

#include "mod_xnat_balance.h"
#include "xb_rule.h"
#include "xnat_flush.h"
#include "xnat_front.h"
#include "xnat_health.h"
#include "xnat_log.h"
#include "xnat_mover.h"
#include "xnat_rescue.h"
#include "xnat_tick.h"

/* After a refusal the session is left alone for this long; not if it could not be made quiet:
 * that may come of itself. */
#define BACK_OFF_US (10 * INT64_C(1000000))
#define STORE_BACK_OFF_US (2 * INT64_C(1000000))
/* How long a busy session's requests may hold the shut gate. */
#define QUIET_US (1 * INT64_C(1000000))
/* A session that could not be verified is asked for again after this long, as is one that its
 * home was to store for a move and did not. Later if it was given time and nobody uses it: MSM
 * breaks its connection off over a session that is too large, and what it stores of others
 * meanwhile is lost. */
#define VERIFY_AGAIN_US (30 * INT64_C(1000000))
#define STORED_IN_VAIN_US (300 * INT64_C(1000000))
#define MARK_AGAIN_US 20000

/* ---- gate */

/* Requests in flight at a gate that was shut on a busy session: they may end. */
static bool wait_for_quiet(const xnat_steps_t *m)
{
    unsigned inflight = 0;
    int64_t half = m->xb->conf.gate_timeout / 2,
            end = m->begun_us + (half < QUIET_US ? half : QUIET_US);
    while (xb_table_token(xnat_table, m->job->slot, m->token, &inflight) && inflight &&
           xnat_now_us() < end && !xnat_mover_is_stopping()) {
        apr_sleep(2000);
    }
    apr_sleep(XNAT_SETTLE_US);
    return inflight == 0;
}

/* By the tick, of its own accord; the gates of the other jobs are shut already. */
static bool was_chosen(const xnat_job_t *job)
{
    return job->kind == XNAT_JOB_MOVE || job->kind == XNAT_JOB_VERIFY;
}

static bool shut_gate(xnat_steps_t *m)
{
    const xnat_job_t *job = m->job;
    xb_view_t v;
    m->begun_us = xnat_now_us();
    if (!was_chosen(job) && xb_table_view(xnat_table, job->slot, &v)) {
        m->begun_us = v.gated_us; /* its requests have been waiting since */
    }
    m->deadline_us = m->begun_us + m->xb->conf.gate_timeout * 9 / 10;
    if (m->deadline_us < xnat_now_us() + m->xb->conf.gate_timeout / 2) {
        /* It was long in coming up: the first ones have given up, others wait by now. */
        m->deadline_us = xnat_now_us() + m->xb->conf.gate_timeout / 2;
    }
    m->hands->deadline_us = m->deadline_us;
    if (!was_chosen(job)) {
        return xb_table_regate(xnat_table, job->slot, &m->token);
    }
    return xb_table_gate(xnat_table, job->slot, job->seen, job->to, false, m->begun_us,
                         &m->token);
}

/* ---- marker and flush */

/* Pin, presence and header; flush, and again what it has written; the marker. Not every login
 * makes MSM store the session under its new id: one that is to leave a draining node is flushed
 * all the same. */
static xb_refusal_t prepare(xnat_steps_t *m)
{
    xb_refusal_t why = xnat_flush_check(m);
    if (why == XB_REFUSALS || (why == XB_NO_MARKER && m->job->reason == XB_MOVE_DRAIN)) {
        why = xnat_flush(m, m->xb->conf.gate_timeout / 4);
    }
    if (why == XB_REFUSALS && XB_RULE(MPRE) && !xnat_steps_mark(m, m->from)) {
        why = XB_NO_STORE;
    }
    return why;
}

/* An idle session of a draining node: stored it can be taken over when its user comes back,
 * whatever becomes of the node. One that neither the store nor the node knows has ended there.
 * Without a path to ask the node (unaskable), what only a client says and the store does not
 * know counts as ended too: else invented ids would keep a node from being safe to stop. */
static void verify(xnat_steps_t *m, xb_refusal_t unaskable)
{
    xb_view_t v;
    bool held = m->job->held;
    xb_refusal_t why = xnat_flush_check(m);
    if (unaskable != XB_REFUSALS) {
        m->named =
            !xb_table_view(xnat_table, m->job->slot, &v) || !(v.flags & XB_SESSION_UNPROVEN);
        why = why == XB_REFUSALS ? unaskable : why;
    }
    else if (why == XB_REFUSALS || why == XB_NO_MARKER) {
        why = xnat_flush(m, m->xb->conf.gate_timeout / 4);
    }
    bool gone = why == XB_NO_MARKER && !m->named && !(m->barred && XB_RULE(LOGIN)) && !held;
    xb_table_flag(xnat_table, m->job->slot,
                  why == XB_REFUSALS ? XB_SESSION_VERIFIED
                  : gone             ? XB_SESSION_ENDED
                                     : XB_SESSION_UNMOVABLE,
                  why == XB_REFUSALS ? XB_SESSION_UNPROVEN | XB_SESSION_UNMOVABLE : 0);
    if (held) { /* it still is */
        xb_table_target(xnat_table, m->job->slot, m->token, XB_TARGET_HELD);
    }
    xb_table_abort(xnat_table, m->job->slot, m->token,
                   why == XB_REFUSALS
                       ? 0
                       : xnat_now_us() + (m->in_vain ? STORED_IN_VAIN_US : VERIFY_AGAIN_US));
    if (why != XB_REFUSALS && !gone) {
        xnat_move_refused(m->job, why);
    }
}

/* ---- ends */

/* The others only find out, or bring back, what is at home where it is. */
static bool is_a_move(const xnat_steps_t *m)
{
    return m->job->kind != XNAT_JOB_LOOKUP &&
           (m->job->kind != XNAT_JOB_REVIVE || m->to != m->from);
}

static void account(xnat_steps_t *m)
{
    xb_member_t *from = &xnat_members->member[m->from];
    xb_worth_t worth = m->promised.bytes > 0 ? m->promised : m->job->worth;
    xnat_steps_promise(m, worth);
    m->promised = (xb_worth_t){0, 0}; /* kept */
    xb_member_credit(xnat_members, m->from, -worth.bytes, -worth.requests);
    xnat_count(&from->moved_out);
    xnat_count(&xnat_members->member[m->to].moved_in);
    xnat_count(&xnat_shm->moves[m->job->reason]);
}

/* Rule MPRE: the marker names the new home before the gate opens. */
static xb_refusal_t commit(xnat_steps_t *m)
{
    if (!xnat_steps_is_ours(m)) {
        return XB_NO_TOKEN;
    }
    int64_t bar = m->late && XB_RULE(TWICE) ? xnat_now_us() + XNAT_AT_IT_US : 0;
    if (m->to != m->from) {
        if (!xnat_steps_mark(m, m->to)) {
            apr_sleep(MARK_AGAIN_US); /* until then it names the former home */
            xnat_steps_mark(m, m->to);
        }
        xb_table_flag(xnat_table, m->job->slot,
                      XB_SESSION_FRESH | (m->proved ? 0 : XB_SESSION_ASSUMED),
                      XB_SESSION_UNPROVEN | (m->proved ? XB_SESSION_ASSUMED : 0));
    }
    if (!xb_table_commit(xnat_table, m->job->slot, m->token, m->to, m->fresh.whole,
                         xnat_now_us(), bar)) {
        return XB_NO_TOKEN;
    }
    if (is_a_move(m)) {
        account(m);
    }
    return XB_REFUSALS;
}

static void remember(const xnat_steps_t *m, xb_refusal_t outcome)
{
    int64_t now = xnat_now_us();
    xnat_shm_recent_t rec = {.at_us = now,
                             .digest = m->job->tag,
                             .from = (uint16_t)m->from,
                             .to = (uint16_t)m->to,
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
                    xnat_digest(m->job->tag, digest), xnat_shm->route[m->from].route,
                    xnat_shm->route[m->to].route, xb_move_name(m->job->reason),
                    rec.took_us / 1000);
}

void xnat_move_refused(const xnat_job_t *job, xb_refusal_t why)
{
    xnat_count(&xnat_shm->refusals[why]);
    if (xnat_shm_may_tell(&xnat_shm->refusal_logged_us[why], XNAT_MINUTE_US)) {
        char digest[XB_DIGEST_SIZE];
        xnat_log_server(
            APLOG_NOTICE, 0, job->xb->server, XB(0302),
            "session %s stays on %s, not moved to %s (%s): %s%s (told once a minute)",
            xnat_digest(job->tag, digest), xnat_shm->route[job->from].route,
            job->to < XB_MEMBERS_MAX ? xnat_shm->route[job->to].route : "any node",
            xb_move_name(job->reason), xb_refusal_name(why),
            why == XB_NO_PROOF_NODE
                ? " (leave its own memcached node out of that Tomcat's failoverNodes)"
                : "");
    }
}

/* Whose session is it, and where may HEADs with its id go? */
static xb_refusal_t identify(xnat_steps_t *m)
{
    xb_view_t v;
    if (!xb_table_id(xnat_table, m->job->slot, m->token, m->old_text, &m->path) ||
        !xnat_steps_parse(m, m->old_text, &m->old)) {
        return XB_NO_TOKEN;
    }
    m->life_s = xb_table_view(xnat_table, m->job->slot, &v) ? v.max_inactive_s : 0;
    return m->path >= XNAT_PATHS_MAX && !m->xb->conf.probe && xnat_keeps_copies(m->xb)
               ? XB_NO_PATH
               : XB_REFUSALS;
}

/* Non-sticky mode: all that is to change is where the table says that the session is at home. A
 * gate that was shut to ask the home (before a graceful restart changed the mode) just opens.
 */
static xb_refusal_t prefer(xnat_steps_t *m)
{
    if (m->job->kind != XNAT_JOB_MOVE && m->job->kind != XNAT_JOB_ADOPT) {
        return XB_NO_TOKEN;
    }
    if (m->job->wait_for_quiet && !wait_for_quiet(m)) {
        return XB_NO_QUIET;
    }
    m->fresh = m->old;
    return xnat_flush_check(m);
}

/* Requests still counted at a home that cannot serve: the gate was shut without a fence. */
static void leave_behind(const xnat_steps_t *m)
{
    unsigned inflight = 0;
    if (xb_table_token(xnat_table, m->job->slot, m->token, &inflight) && inflight &&
        !wait_for_quiet(m) && XB_RULE(FENCE)) {
        xb_table_fence(xnat_table, m->job->slot, m->token);
    }
}

/* What is in flight at the home goes on: it need not have restarted, its host may only have
 * been out of reach. Its id is the one it had, whatever others have answered. */
static xb_refusal_t revive(xnat_steps_t *m)
{
    xb_refusal_t why = xnat_rescue_revive(m);
    if (why == XB_REFUSALS || m->left || m->late || why == XB_NO_PROBE_LATE) {
        return why;
    }
    if (why == XB_NO_TARGET || why == XB_NO_STORE || m->stale || m->wary) { /* nothing better */
        m->to = m->from;
        why = identify(m) == XB_NO_TOKEN ? XB_NO_TOKEN : XB_REFUSALS;
        m->fresh = m->old;
    }
    return why;
}

/* Steps between gate and commit. */
static xb_refusal_t carry_out(xnat_steps_t *m, xb_refusal_t known)
{
    if (known == XB_NO_TOKEN) {
        return known;
    }
    if (!xnat_keeps_copies(m->xb)) {
        return prefer(m);
    }
    if (m->job->kind == XNAT_JOB_RESCUE) {
        leave_behind(m);
        return xnat_rescue(m);
    }
    if (m->job->kind == XNAT_JOB_LOOKUP) {
        return xnat_rescue_look_up(m);
    }
    if (m->job->kind == XNAT_JOB_REVIVE) {
        return revive(m);
    }
    if (known != XB_REFUSALS) {
        return known;
    }
    if (m->job->kind == XNAT_JOB_MOVE &&
        (xnat_health_is_silent(m->to) || xnat_steps_ready(m) != XB_REFUSALS)) {
        return XB_NO_READY;
    }
    if (m->job->wait_for_quiet && !wait_for_quiet(m)) {
        return XB_NO_QUIET;
    }
    if (m->job->kind == XNAT_JOB_ADOPT) { /* only the keys know */
        return xnat_steps_taken_unseen(m) ? XB_REFUSALS : XB_NO_TOKEN;
    }
    xb_refusal_t why = prepare(m);
    return why == XB_REFUSALS ? xnat_steps_take_over(m) : why;
}

static int64_t back_off(const xnat_steps_t *m, xb_refusal_t outcome)
{
    if (m->in_vain || m->job->kind == XNAT_JOB_VERIFY) {
        return VERIFY_AGAIN_US;
    }
    if (m->late && XB_RULE(TWICE)) {
        return XNAT_AT_IT_US;
    }
    if (!was_chosen(m->job) && m->job->kind != XNAT_JOB_ADOPT) {
        return 0;
    }
    switch (outcome) {
    case XB_NO_STORE:
    case XB_NO_STORE_LATE:
    case XB_NO_LOCK:
    case XB_NO_READY:
        return STORE_BACK_OFF_US; /* says little of the session */
    case XB_NO_QUIET:
        return 0;
    default:
        return BACK_OFF_US;
    }
}

/* A lost home stays lost. If no node has been asked to take the session over, its requests go
 * on at the chosen one all the same, together, and find there what the application makes of an
 * id that it does not know. Else one may be at it still, or would answer from an old copy: rule
 * HOLD, who has waited gets 503, and the next request has the mover look again. */
static void give_up_home(const xnat_steps_t *m)
{
    if ((m->asked || m->wary) && XB_RULE(HOLD)) {
        xb_table_target(xnat_table, m->job->slot, m->token, XB_TARGET_HELD);
    }
    else if (m->to != m->from) {
        xb_table_flag(xnat_table, m->job->slot, XB_SESSION_ASSUMED, 0);
        xb_table_commit(xnat_table, m->job->slot, m->token, m->to, m->old.whole, xnat_now_us(),
                        0);
    }
}

void xnat_move_run(xnat_hands_t *hands, const xnat_job_t *job)
{
    xnat_steps_t m = {.hands = hands,
                      .job = job,
                      .xb = job->xb,
                      .from = job->from,
                      .to = job->to,
                      .from_worker = job->from_worker,
                      .to_worker = job->to_worker};
    hands->deadline_us = 0;
    hands->insist = job->kind == XNAT_JOB_RESCUE || job->kind == XNAT_JOB_ADOPT;
    if (job->kind == XNAT_JOB_BEAT) {
        xnat_front_beat(hands, job->xb);
        return;
    }
    if (!xnat_move_store_up(hands, job->xb) && was_chosen(job)) {
        xnat_move_refused(job, XB_NO_STORE);
        return;
    }
    if (!shut_gate(&m)) {
        return; /* the session has become busy, or somebody else has it: not a refusal */
    }
    xb_refusal_t outcome = identify(&m);
    if (job->kind == XNAT_JOB_VERIFY && outcome != XB_NO_TOKEN) {
        verify(&m, outcome);
        return;
    }
    outcome = carry_out(&m, outcome);
    if (outcome != XB_REFUSALS && m.left) {
        /* The gate stays shut, as if this child had been killed. */
        xnat_steps_promise(&m, (xb_worth_t){0, 0});
        return;
    }
    if (outcome == XB_REFUSALS) {
        outcome = commit(&m);
    }
    else if (outcome != XB_NO_TOKEN &&
             (job->kind == XNAT_JOB_RESCUE || job->kind == XNAT_JOB_REVIVE)) {
        give_up_home(&m);
    }
    if (outcome != XB_REFUSALS) {
        xnat_steps_promise(&m, (xb_worth_t){0, 0});
        xb_table_abort(xnat_table, job->slot, m.token, xnat_now_us() + back_off(&m, outcome));
    }
    if (is_a_move(&m)) {
        if (outcome != XB_REFUSALS) {
            xnat_move_refused(job, outcome);
        }
        remember(&m, outcome);
    }
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
