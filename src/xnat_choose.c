/* SPDX-License-Identifier: Apache-2.0 */
/* The choice of what to move of its own accord: drains and overload (rules 2 and 3 of the
 * protocol). */
#include "xnat_choose.h"

#include <math.h>

#include "mod_xnat_balance.h"
#include "xb_rule.h"
#include "xnat_fleet.h"
#include "xnat_front.h"
#include "xnat_health.h"
#include "xnat_log.h"
#include "xnat_mover.h"
#include "xnat_release.h"
#include "xnat_tick.h"

#define SECOND_US INT64_C(1000000)
/* A look for one session to relieve an overloaded member, or more often where the rate of moves
 * wants it: it costs a walk of the table. */
#define OVERLOAD_EVERY_US 250000
/* Moving a session that has been idle for longer does not relieve its node. */
#ifndef ACTIVE_US
#define ACTIVE_US (60 * SECOND_US)
#endif
/* A session that does not leave its draining node is verified when it has been idle for so
 * long. */
#define SETTLED_US (5 * SECOND_US)
/* A node drains for so long before sessions that are never quiet are made to wait; if that was
 * for nothing, their users are spared another try for a while. */
#define NEVER_QUIET_US (3 * SECOND_US)
#define SPARED_US (120 * SECOND_US)

/* Slots of the table in one tick: a large one is walked in several, or it would cost a core. */
#define SHARE (128 * 1024)
/* DryRun's lines in a minute. */
#define DRY_LINES 10

/* One balancer that wants something moved in this tick. */
typedef struct {
    xnat_balancer_t *xb;
    xnat_fleet_t fleet;
    bool draining, overloaded;
    bool drains[XNAT_FLEET_MAX];
    unsigned from, to; /* positions, when overloaded */
    xb_worth_t mean;   /* of a session */
    /* best candidate for overload so far */
    xb_choice_t choice;
    xnat_job_t best;
} plan_t;

#define PLANS_MAX XNAT_BALANCERS_MAX
static plan_t plans[PLANS_MAX]; /* mover thread only; large, so not on its stack */
static unsigned plan_count;
static int64_t overload_us[XNAT_BALANCERS_MAX];          /* last looks */
static int64_t told_us[XNAT_BALANCERS_MAX][XB_REFUSALS]; /* refusals of what was not begun */
static bool full;                                 /* a job of this tick has found no room */
static bool asked_again;                          /* a held session was, in this tick */
static int64_t draining_since_us[XB_MEMBERS_MAX]; /* 0: not draining */

/* ---- plans */

static bool store_open(const xnat_balancer_t *xb, int64_t now)
{
    for (unsigned i = 0; i < xb->conf.nodes->count; i++) {
        const xb_msm_node_t *n = &xb->conf.nodes->node[i];
        if (xb_breaker_is_open(&xnat_shm->store[xnat_shm_store(n->host, n->port)].breaker,
                               now)) {
            return true;
        }
    }
    return false;
}

/* Disabled as well, it is about to be stopped: who came meanwhile is seen to. */
static bool is_draining(const proxy_worker *w)
{
    return PROXY_WORKER_IS_DRAINING(w) &&
           !PROXY_WORKER_IS(w, PROXY_WORKER_IN_ERROR | PROXY_WORKER_HC_FAIL);
}

static void plan_drains(plan_t *p, int64_t now)
{
    for (unsigned i = 0; i < p->fleet.n; i++) {
        unsigned member = p->fleet.member[i];
        bool drains = is_draining(p->fleet.worker[i]);
        p->drains[i] = drains;
        p->fleet.load[i].sessions *=
            !drains; /* leaves anyway: not to be chosen as overloaded */
        p->draining = p->draining || drains;
        draining_since_us[member] = !drains                     ? 0
                                    : draining_since_us[member] ? draining_since_us[member]
                                                                : now;
    }
}

/* Others must see this front end even if it moves nothing: its requests keep their sessions
 * from being quiet. */
static void beat(xnat_balancer_t *xb, int64_t now)
{
    _Atomic int64_t *at = &xnat_shm->balancer[xb->record].beat_us;
    if (xnat_keeps_copies(xb) && *xb->balancer->s->sticky &&
        now - __atomic_load_n((int64_t *)at, __ATOMIC_RELAXED) >= SECOND_US) {
        xnat_job_t job = {.kind = XNAT_JOB_BEAT, .xb = xb};
        __atomic_store_n((int64_t *)at, now, __ATOMIC_RELAXED);
        xnat_mover_submit(&job);
    }
}

/* Another front end, whose requests are not known here. Where any node serves any session, each
 * front end may have homes of its own. */
static bool others_bar(const xnat_balancer_t *xb, int64_t now)
{
    return xnat_keeps_copies(xb) && !xnat_front_is_alone(xb, now);
}

/* A node that has just failed to answer the mover is no target. */
static void bar_silent(plan_t *p)
{
    for (unsigned i = 0; i < p->fleet.n; i++) {
        if (xnat_health_is_silent(p->fleet.member[i])) {
            p->fleet.load[i].flags &= ~(unsigned)XB_LOAD_NEW;
        }
    }
}

static void plan_overload(plan_t *p, int64_t now)
{
    const xnat_conf_t *c = &p->xb->conf;
    int64_t *last = &overload_us[p->xb->record];
    if (c->move != XNAT_MOVE_DRAIN &&
        now - *last >= (int64_t)fmin(OVERLOAD_EVERY_US, SECOND_US / c->rate)) {
        *last = now;
        p->overloaded =
            xb_policy_overload(p->fleet.load, p->fleet.n, &p->xb->policy, &p->from, &p->to);
    }
}

static void plan_balancer(xnat_balancer_t *xb, void *ctx)
{
    int64_t now = *(int64_t *)ctx;
    plan_t *p = &plans[plan_count];
    if (strcmp(xb->balancer->s->lbpname, "xnat") || !xb->conf.nodes) {
        return;
    }
    beat(xb, now);
    if (xb->conf.move == XNAT_MOVE_OFF || plan_count == PLANS_MAX || store_open(xb, now) ||
        others_bar(xb, now)) {
        return;
    }
    p->xb = xb;
    p->draining = p->overloaded = false;
    p->choice = (xb_choice_t){0};
    xnat_fleet_snapshot(xb, false, now, &p->fleet);
    bar_silent(p);
    p->mean = xnat_fleet_worth(xb, &p->fleet);
    plan_drains(p, now);
    plan_overload(p, now);
    plan_count += p->draining || p->overloaded;
}

/* Rule PROB; where no node keeps a copy it does not matter where the session has been. */
static bool is_full_record(const plan_t *p, const xb_view_t *v)
{
    unsigned unsure = XB_SESSION_CROWDED;
    unsure |= XB_RULE(PROB) ? XB_SESSION_PARTIAL | XB_SESSION_UNPROVEN : 0;
    unsigned bars = XB_SESSION_ENDED | (p->fleet.keeps_copies ? unsure : 0);
    return v->w.state == XB_STABLE && !(v->flags & bars);
}

static bool is_quiet(const plan_t *p, const xb_view_t *v, int64_t now)
{
    return (v->w.inflight == 0 || !XB_RULE(QUIET)) && now - v->last_us >= p->xb->conf.grace;
}

/* As of now: the table has it as of the last request's end. */
static double own_traffic(const plan_t *p, const xb_view_t *v, int64_t now)
{
    double idle_s = now > v->last_us ? (double)(now - v->last_us) / SECOND_US : 0;
    return v->traffic * exp2(-idle_s / p->xb->decay.half_life_s);
}

static xnat_job_t job_of(const plan_t *p, uint32_t slot, const xb_view_t *v, unsigned from,
                         int to)
{
    xnat_job_t job = {.xb = p->xb,
                      .slot = slot,
                      .seen = v->word,
                      .tag = v->tag,
                      .from = p->fleet.member[from],
                      .to = XB_MEMBER_NONE,
                      .from_worker = p->fleet.worker[from],
                      .worth = p->mean};
    double own = own_traffic(p, v, xnat_now_us());
    if (own >= 1) {
        job.worth = xb_policy_own_worth(&p->fleet.load[from], own);
    }
    if (to >= 0) {
        job.to = p->fleet.member[to];
        job.to_worker = p->fleet.worker[to];
    }
    return job;
}

/* Nothing can be done about it in this tick; without the pause it would be counted twenty times
 * a second for each session. */
static void tell_no_target(const xnat_job_t *job, xb_refusal_t why, int64_t now)
{
    int64_t *told = &told_us[job->xb->record][why];
    if (*told == 0 || now - *told > 10 * SECOND_US) {
        *told = now;
        xnat_move_refused(job, why);
    }
}

/* The lines are bounded, the count is exact. */
static void tell_dry_run(const xnat_job_t *job, int64_t now)
{
    static int64_t since_us;
    static unsigned lines;
    char digest[XB_DIGEST_SIZE];
    xnat_count(&xnat_shm->refusals[XB_NO_DRY_RUN]);
    if (since_us == 0 || now - since_us >= 60 * SECOND_US) {
        since_us = now;
        lines = 0;
    }
    lines++;
    if (lines <= DRY_LINES) {
        xnat_log_server(APLOG_NOTICE, 0, job->xb->server, XB(0303),
                        "session %s would be moved from %s to %s (%s), but " XNAT_MOVE
                        " is DryRun",
                        xnat_digest(job->tag, digest), xnat_shm->route[job->from].route,
                        xnat_shm->route[job->to].route, xb_move_name(job->reason));
    }
    else if (lines == DRY_LINES + 1) {
        xnat_log_server(APLOG_NOTICE, 0, job->xb->server, XB(0305),
                        "more sessions would be moved than are told in a minute: the status "
                        "page counts them (would_have_moved)");
    }
}

/* Says what would be moved, once per session and rest: the gate is shut and opened again at
 * once. */
static void dry_run(const xnat_job_t *job, int64_t now)
{
    unsigned token;
    int64_t rest = job->xb->conf.rest > SECOND_US ? job->xb->conf.rest : SECOND_US;
    if (xb_table_gate(xnat_table, job->slot, job->seen, job->from, false, now, &token)) {
        xb_table_abort(xnat_table, job->slot, token, now + rest);
        tell_dry_run(job, now);
    }
}

static void submit(const xnat_job_t *job)
{
    full = !xnat_mover_submit(job) || full;
}

static void carry_out(const xnat_job_t *job, int64_t now)
{
    if (job->xb->conf.move == XNAT_MOVE_DRYRUN) {
        dry_run(job, now);
    }
    else {
        submit(job);
    }
}

/* An idle session of a draining member stays until its user comes back; it is only made sure
 * that it is in the store then. A move would renew its inactivity timer again and again, and
 * keep logged in who has left. */
static void consider_verify(const plan_t *p, uint32_t slot, const xb_view_t *v, unsigned at,
                            int64_t now)
{
    if (v->w.inflight == 0 && !(v->flags & XB_SESSION_VERIFIED) &&
        now - v->last_us > SETTLED_US && p->xb->conf.move != XNAT_MOVE_DRYRUN) {
        xnat_job_t job = job_of(p, slot, v, at, -1);
        job.kind = XNAT_JOB_VERIFY;
        job.held = v->target == XB_TARGET_HELD && XB_RULE(UNTOUCHED);
        job.to = XNAT_TARGET_STAYS;
        job.reason = XB_MOVE_DRAIN;
        submit(&job);
    }
}

/* Its last gate was to lead elsewhere, and did not. */
static bool is_spared(const xb_view_t *v, int64_t now)
{
    return v->gated_us && now - v->gated_us < SPARED_US && v->target < XB_MEMBERS_MAX &&
           v->target != v->w.home;
}

/* A session of a draining member: it leaves at its next quiet moment, or is made quiet; one
 * that cannot leave, or need not, is verified. */
static void consider_drain(plan_t *p, uint32_t slot, const xb_view_t *v, unsigned at,
                           int64_t now)
{
    bool visited[XNAT_FLEET_MAX];
    unsigned free_left;
    bool quiet = is_quiet(p, v, now);
    bool never_quiet = !quiet && !is_spared(v, now) &&
                       now - draining_since_us[p->fleet.member[at]] > NEVER_QUIET_US;
    if (!is_full_record(p, v) || now - v->last_us > ACTIVE_US) {
        consider_verify(p, slot, v, at, now);
        return;
    }
    if (!quiet && !never_quiet) {
        return;
    }
    xnat_fleet_visited(&p->fleet, v, now, visited);
    int to = xb_policy_target(p->fleet.load, p->fleet.n, at, visited, &free_left);
    xnat_job_t job = job_of(p, slot, v, at, to);
    job.reason = XB_MOVE_DRAIN;
    job.wait_for_quiet = !quiet;
    if (to < 0) {
        tell_no_target(&job, XB_NO_TARGET, now);
        consider_verify(p, slot, v, at, now);
    }
    else {
        carry_out(&job, now);
        p->fleet.load[to].traffic += job.worth.bytes; /* the next one may go elsewhere */
        p->fleet.load[to].occupancy += job.worth.requests;
        xb_policy_score(p->fleet.load, p->fleet.n);
    }
}

/* A moved session rests: its last gate led to where it is. */
static bool is_resting(const plan_t *p, const xb_view_t *v, int64_t now)
{
    return v->gated_us && (v->target == v->w.home || v->target == XNAT_TARGET_STAYS) &&
           now - v->gated_us < p->xb->conf.rest;
}

/* May an overload move go to the last node where the session has not been? Only if that leaves
 * one copy behind, at a node where copies can be released: soon, or first if the new home fails
 * before. */
static bool may_use_up(const plan_t *p, uint32_t slot, const xb_view_t *v, const bool *visited,
                       int64_t now)
{
    for (unsigned i = 0; i < p->fleet.n; i++) {
        if (visited[i] && i != p->from) {
            return false;
        }
    }
    return !XB_RULE(LAST) || xnat_release_works(p->xb, slot, v, now);
}

/* A session of the overloaded member. */
static void consider_overload(plan_t *p, uint32_t slot, const xb_view_t *v, int64_t now)
{
    bool visited[XNAT_FLEET_MAX];
    unsigned free_left;
    if (v->requests < 2 || !is_quiet(p, v, now) || now - v->last_us > ACTIVE_US ||
        is_resting(p, v, now)) {
        return;
    }
    xnat_fleet_visited(&p->fleet, v, now, visited);
    int to = xb_policy_target(p->fleet.load, p->fleet.n, p->from, visited, &free_left);
    xnat_job_t job = job_of(p, slot, v, p->from, to);
    job.reason = XB_MOVE_OVERLOAD;
    if (to < 0 ||
        (free_left == 0 && p->fleet.keeps_copies && !may_use_up(p, slot, v, visited, now))) {
        tell_no_target(&job, to < 0 ? XB_NO_TARGET : XB_NO_LAST_TARGET, now);
        return;
    }
    if (xb_policy_choose(p->fleet.load, &p->xb->policy, p->from, (unsigned)to,
                         own_traffic(p, v, now), &p->choice)) {
        p->best = job;
    }
}

/* Members from which something is to be moved in this tick, idle sessions too or not. */
static enum { WANT_NONE, WANT_ACTIVE, WANT_ALL } wanted[XB_MEMBERS_MAX];

static void want_members(void)
{
    memset(wanted, 0, sizeof wanted);
    for (unsigned i = 0; i < plan_count; i++) {
        for (unsigned at = 0; at < plans[i].fleet.n; at++) {
            unsigned member = plans[i].fleet.member[at];
            if (plans[i].drains[at]) {
                wanted[member] = WANT_ALL;
            }
            else if (plans[i].overloaded && at == plans[i].from && !wanted[member]) {
                wanted[member] = WANT_ACTIVE;
            }
        }
    }
}

static bool is_wanted(uint32_t slot, int64_t now)
{
    xb_glance_t g;
    if (!xb_table_glance(xnat_table, slot, &g) || xb_word_home(g.word) >= XB_MEMBERS_MAX) {
        return false;
    }
    unsigned want = wanted[xb_word_home(g.word)];
    return want == WANT_ALL || (want == WANT_ACTIVE && now - g.last_us <= ACTIVE_US);
}

/* A session that is held moves only as a request of its own would have it moved: its home is
 * asked first, and a node that has taken it over gets it. Idle, it must not hold up a drain:
 * one in a tick, not to get in the way of rescues. If its home is out of service by now, which
 * lives all the same, it is only verified. */
static void consider_held(const plan_t *p, uint32_t slot, const xb_view_t *v, unsigned at,
                          int64_t now)
{
    unsigned token;
    if (!PROXY_WORKER_IS_USABLE(p->fleet.worker[at])) {
        consider_verify(p, slot, v, at, now);
    }
    else if (!asked_again && xnat_moves(p->xb) && v->w.inflight == 0 &&
             now - v->last_us > SETTLED_US && now - v->gated_us > XNAT_AT_IT_US &&
             xb_table_gate(xnat_table, slot, v->word, v->w.home, false, now, &token)) {
        asked_again = true;
        xnat_shm_want(slot);
    }
}

static void consider(uint32_t slot, int64_t now)
{
    xb_view_t v;
    if (!is_wanted(slot, now)) {
        return;
    }
    if (!xb_table_view(xnat_table, slot, &v) || v.w.state != XB_STABLE ||
        v.flags & XB_SESSION_ENDED || now < v.bar_until_us) {
        return;
    }
    for (unsigned i = 0; i < plan_count; i++) {
        int at = xnat_fleet_position(&plans[i].fleet, v.w.home);
        if (at < 0 || plans[i].fleet.member[at] != v.w.home) {
            continue; /* of another balancer with the same nodes: that one's to move */
        }
        if (v.target == XB_TARGET_HELD && XB_RULE(UNTOUCHED)) {
            if (plans[i].drains[at]) {
                consider_held(&plans[i], slot, &v, (unsigned)at, now);
            }
        }
        else if (plans[i].drains[at]) {
            consider_drain(&plans[i], slot, &v, (unsigned)at, now);
        }
        else if (plans[i].overloaded && (unsigned)at == plans[i].from &&
                 is_full_record(&plans[i], &v)) {
            consider_overload(&plans[i], slot, &v, now);
        }
        return;
    }
}

static void move_overloaded(plan_t *p, int64_t now)
{
    const xnat_conf_t *c = &p->xb->conf;
    if (p->choice.found &&
        xb_bucket_take(&xnat_shm->balancer[p->xb->record].rate, c->rate, c->burst, now)) {
        carry_out(&p->best, now);
    }
}

static bool any_overloaded(void)
{
    for (unsigned i = 0; i < plan_count; i++) {
        if (plans[i].overloaded) {
            return true;
        }
    }
    return false;
}

/* Goes on where the last one ended, or where a job found no room, so that none is passed over
 * for ever. Only overload, which takes the best of the share, looks further then. */
static void walk(int64_t now)
{
    static uint32_t next;
    uint32_t slots = xb_table_slots(xnat_table), n = slots < SHARE ? slots : SHARE, slot = next;
    bool on = any_overloaded(), held_up = false;
    full = asked_again = false;
    want_members();
    for (uint32_t i = 0; plan_count && i < n && (on || !full); i++) {
        slot = slot < slots ? slot : 0;
        consider(slot, now);
        if (full && !held_up) {
            held_up = true;
            next = slot;
        }
        slot++;
    }
    next = held_up ? next : slot;
}

void xnat_choose_run(int64_t now)
{
    plan_count = 0;
    xnat_config_each(plan_balancer, &now);
    walk(now);
    for (unsigned i = 0; i < plan_count; i++) {
        move_overloaded(&plans[i], now);
    }
}

void xnat_choose_begin(void)
{
    memset(draining_since_us, 0, sizeof draining_since_us);
}
