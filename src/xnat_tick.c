/* SPDX-License-Identifier: Apache-2.0 */
/* The mover's tick: decayed figures, repair after dead children, session counts, and the choice
 * of what to move (rules 2 and 3 of the protocol). */
#include "xnat_tick.h"

#include <errno.h>
#include <signal.h>

#include "apr_strings.h"

#include "mod_xnat_balance.h"
#include "xb_rule.h"
#include "xnat_fleet.h"
#include "xnat_front.h"
#include "xnat_log.h"
#include "xnat_release.h"

#define SECOND_US INT64_C(1000000)
#define FOLD_EVERY_US 100000
#define OVERLOAD_EVERY_US 250000
#define CHECK_CHILDREN_EVERY_US SECOND_US
/* A session that nobody has used for so long is not at home anywhere that matters. */
#define LIVE_US (30 * 60 * SECOND_US)
/* Moving a session that has been idle for longer does not relieve its node. */
#define ACTIVE_US (60 * SECOND_US)
/* A session that does not leave its draining node is verified when it has been idle for so
 * long. */
#define SETTLED_US (5 * SECOND_US)
/* A node drains for so long before sessions that are never quiet are made to wait. */
#define NEVER_QUIET_US (3 * SECOND_US)
/* A gate that a request has shut is seen to within milliseconds, or has been overlooked. */
#define OVERLOOKED_US 300000
#define TENDED 4096

/* One balancer that wants something moved in this tick. */
typedef struct {
    xnat_balancer_t *xb;
    xnat_fleet_t fleet;
    bool draining, overloaded;
    bool drains[XNAT_FLEET_MAX];
    unsigned from, to; /* positions, when overloaded */
    double cost;
    /* best candidate for overload so far */
    bool found;
    xnat_job_t best;
    double best_traffic;
} plan_t;

#define PLANS_MAX XNAT_BALANCERS_MAX
static plan_t plans[PLANS_MAX]; /* mover thread only; large, so not on its stack */
static unsigned plan_count;
static uint64_t wanted_seen; /* how far the ring of wanted sessions has been read */
static int64_t folded_us, overload_us, children_us;
static int64_t told_us[XB_REFUSALS];              /* refusals of moves that were not begun */
static int64_t draining_since_us[XB_MEMBERS_MAX]; /* 0: not draining */

/* ---- decayed figures */

/* Members that cannot take new sessions are kept at least at the mean of those that can, so
 * that they are not flooded when they come back; newcomers likewise. */
static void fold_fleet(const xnat_balancer_t *xb, const xnat_fleet_t *f, int64_t now)
{
    double traffic = 0, occupancy = 0, weight = 0;
    for (unsigned i = 0; i < f->n; i++) {
        if (f->load[i].flags & XB_LOAD_NEW) {
            traffic += f->load[i].traffic;
            occupancy += f->load[i].occupancy;
            weight += f->load[i].weight;
        }
    }
    for (unsigned i = 0; i < f->n; i++) {
        double t = 0, o = 0, share = weight > 0 ? f->load[i].weight / weight : 0;
        double fair_t = share * traffic, fair_o = share * occupancy;
        bool known = xb_member_read(xnat_members, f->member[i], &xb->decay, now, &t, &o);
        if (known) {
            xb_member_fold(xnat_members, f->member[i], &xb->decay, now);
        }
        if (!known || (!(f->load[i].flags & XB_LOAD_NEW) && (t < fair_t || o < fair_o))) {
            xb_member_join(xnat_members, f->member[i], now, known && t > fair_t ? t : fair_t,
                           known && o > fair_o ? o : fair_o);
        }
    }
}

static void fold_balancer(xnat_balancer_t *xb, void *ctx)
{
    static xnat_fleet_t fleet; /* mover thread only */
    int64_t now = *(int64_t *)ctx;
    if (!strcmp(xb->balancer->s->lbpname, "xnat")) {
        xnat_fleet_snapshot(xb, false, now, &fleet);
        fold_fleet(xb, &fleet, now);
        for (unsigned i = 0; i < fleet.n; i++) { /* the administrator may have changed it */
            char *route = xnat_shm->route[fleet.member[i]].route;
            if (strcmp(route, fleet.worker[i]->s->route)) {
                memcpy(route, fleet.worker[i]->s->route, sizeof fleet.worker[i]->s->route);
            }
        }
    }
}

/* ---- children */

static void check_children(void)
{
    for (unsigned i = 0; i < xnat_shm->dim.children; i++) {
        int32_t pid = xb_table_child_pid(xnat_table, i);
        if (pid > 0 && kill(pid, 0) && errno == ESRCH) {
            xnat_shm_child_exited(pid);
        }
    }
}

static void repair(int64_t now)
{
    unsigned n = xb_table_repair(xnat_table, now + XNAT_BROKEN_US);
    if (n) {
        __atomic_fetch_add((uint64_t *)&xnat_shm->repaired, n, __ATOMIC_RELAXED);
    }
}

/* ---- choosing */

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

static void plan_drains(plan_t *p, int64_t now)
{
    for (unsigned i = 0; i < p->fleet.n; i++) {
        unsigned member = p->fleet.member[i];
        bool drains = PROXY_WORKER_IS_DRAINING(p->fleet.worker[i]) &&
                      p->fleet.load[i].flags & XB_LOAD_USABLE;
        p->drains[i] = drains;
        p->fleet.load[i].sessions *=
            !drains; /* leaves anyway: not to be chosen as overloaded */
        p->draining = p->draining || drains;
        draining_since_us[member] = !drains                     ? 0
                                    : draining_since_us[member] ? draining_since_us[member]
                                                                : now;
    }
}

static void beat(xnat_balancer_t *xb, int64_t now)
{
    _Atomic int64_t *at = &xnat_shm->balancer[xb->record].beat_us;
    if (now - __atomic_load_n((int64_t *)at, __ATOMIC_RELAXED) >= SECOND_US) {
        xnat_job_t job = {.kind = XNAT_JOB_BEAT, .xb = xb};
        __atomic_store_n((int64_t *)at, now, __ATOMIC_RELAXED);
        xnat_mover_submit(&job);
    }
}

/* Another front end, whose requests are not known here. Where any node serves any session, each
 * front end may have homes of its own. */
static bool others_bar(xnat_balancer_t *xb, int64_t now)
{
    if (!xnat_keeps_copies(xb)) {
        return false;
    }
    beat(xb, now);
    return !xnat_front_is_alone(xb, now);
}

static void plan_balancer(xnat_balancer_t *xb, void *ctx)
{
    int64_t now = *(int64_t *)ctx;
    plan_t *p = &plans[plan_count];
    if (strcmp(xb->balancer->s->lbpname, "xnat") || !xb->conf.nodes ||
        xb->conf.move == XNAT_MOVE_OFF || plan_count == PLANS_MAX || store_open(xb, now)) {
        return;
    }
    if (others_bar(xb, now)) {
        return;
    }
    p->xb = xb;
    p->draining = p->overloaded = p->found = false;
    xnat_fleet_snapshot(xb, false, now, &p->fleet);
    p->cost = xb_policy_session_cost(p->fleet.load, p->fleet.n);
    p->cost = p->cost > 0 ? p->cost : xb->decay.request_cost; /* none counted yet */
    plan_drains(p, now);
    if (xb->conf.move != XNAT_MOVE_DRAIN && now - overload_us >= OVERLOAD_EVERY_US) {
        p->overloaded =
            xb_policy_overload(p->fleet.load, p->fleet.n, &xb->policy, &p->from, &p->to);
    }
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
                      .cost = p->cost};
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
    if (now - told_us[why] > 10 * SECOND_US) {
        told_us[why] = now;
        xnat_move_refused(job, why);
    }
}

/* Says what would be moved, once per session and rest: the gate is shut and opened again at
 * once. */
static void dry_run(const xnat_job_t *job, int64_t now)
{
    char digest[XB_DIGEST_SIZE];
    unsigned token;
    int64_t rest = job->xb->conf.rest > SECOND_US ? job->xb->conf.rest : SECOND_US;
    if (!xb_table_gate(xnat_table, job->slot, job->seen, job->from, false, now, &token)) {
        return;
    }
    xb_table_abort(xnat_table, job->slot, token, now + rest);
    xnat_count(&xnat_shm->refusals[XB_NO_DRY_RUN]);
    xnat_log_server(APLOG_NOTICE, 0, job->xb->server, XB(0303),
                    "session %s would be moved from %s to %s (%s), but " XNAT_MOVE " is DryRun",
                    xnat_digest(job->tag, digest), xnat_shm->route[job->from].route,
                    xnat_shm->route[job->to].route, xb_move_name(job->reason));
}

static void carry_out(const xnat_job_t *job, int64_t now)
{
    if (job->xb->conf.move == XNAT_MOVE_DRYRUN) {
        dry_run(job, now);
    }
    else {
        xnat_mover_submit(job);
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
        job.reason = XB_MOVE_DRAIN;
        xnat_mover_submit(&job);
    }
}

/* A session of a draining member: it leaves at its next quiet moment, or is made quiet; one
 * that cannot leave, or need not, is verified. */
static void consider_drain(plan_t *p, uint32_t slot, const xb_view_t *v, unsigned at,
                           int64_t now)
{
    bool visited[XNAT_FLEET_MAX];
    unsigned free_left;
    bool quiet = is_quiet(p, v, now);
    bool never_quiet = !quiet && now - draining_since_us[p->fleet.member[at]] > NEVER_QUIET_US;
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
        p->fleet.load[to].traffic += p->cost; /* the next one may go elsewhere */
        xb_policy_score(p->fleet.load, p->fleet.n);
    }
}

/* A moved session rests: its last gate led to where it is. */
static bool is_resting(const plan_t *p, const xb_view_t *v, int64_t now)
{
    return v->gated_us && v->target == v->w.home && now - v->gated_us < p->xb->conf.rest;
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
    return xnat_release_works(p->xb, slot, v, now);
}

/* A session of the overloaded member. The busiest one of those that do not turn the imbalance
 * round is taken: one move relieves as much as it can. */
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
    const xb_load_t *a = &p->fleet.load[p->from], *b = &p->fleet.load[to];
    double most = (a->traffic / a->weight - b->traffic / b->weight) * b->weight / 2;
    if (a->score - b->score <= p->xb->policy.threshold || (p->found && v->traffic > most) ||
        (p->found && v->traffic < p->best_traffic)) {
        return;
    }
    p->found = true;
    p->best = job;
    p->best_traffic = v->traffic > most ? 0 : v->traffic;
}

static void consider(uint32_t slot, int64_t now)
{
    xb_view_t v;
    if (!xb_table_view(xnat_table, slot, &v) || v.w.state != XB_STABLE ||
        v.flags & XB_SESSION_ENDED || now < v.bar_until_us) {
        return;
    }
    for (unsigned i = 0; i < plan_count; i++) {
        int at = xnat_fleet_position(&plans[i].fleet, v.w.home);
        if (at < 0 || plans[i].fleet.member[at] != v.w.home) {
            continue; /* of another balancer with the same nodes: that one's to move */
        }
        if (plans[i].drains[at]) {
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
    if (p->found &&
        xb_bucket_take(&xnat_shm->balancer[p->xb->record].rate, c->rate, c->burst, now)) {
        carry_out(&p->best, now);
    }
}

/* ---- walks */

/* Sessions at home at each member, counted over twenty ticks. */
static void count_sessions(int64_t now)
{
    static uint32_t next, live[XB_MEMBERS_MAX];
    uint32_t slots = xb_table_slots(xnat_table), end = next + slots / 20 + 1;
    for (; next < slots && next < end; next++) {
        xb_view_t v;
        if (xb_table_view(xnat_table, next, &v) && v.w.home < XB_MEMBERS_MAX &&
            !(v.flags & (XB_SESSION_UNPROVEN | XB_SESSION_ENDED)) &&
            now - v.last_us < LIVE_US) {
            live[v.w.home]++;
        }
    }
    if (next < slots) {
        return;
    }
    for (unsigned i = 0; i < XB_MEMBERS_MAX; i++) {
        __atomic_store_n((uint32_t *)&xnat_members->member[i].sessions, live[i],
                         __ATOMIC_RELAXED);
        live[i] = 0;
    }
    next = 0;
}

static void choose_moves(int64_t now)
{
    plan_count = 0;
    xnat_config_each(plan_balancer, &now);
    if (now - overload_us >= OVERLOAD_EVERY_US) {
        overload_us = now;
    }
    for (uint32_t slot = 0; plan_count && slot < xb_table_slots(xnat_table); slot++) {
        consider(slot, now);
    }
    for (unsigned i = 0; i < plan_count; i++) {
        move_overloaded(&plans[i], now);
    }
}

/* Makes this process know the way from each member's record to its worker. */
static void meet_members(xnat_balancer_t *xb, void *ctx)
{
    static xnat_fleet_t fleet; /* mover thread only */
    (void)ctx;
    xnat_fleet_snapshot(xb, false, xnat_now_us(), &fleet);
}

/* ---- gates that were shut by others */

/* Gates that this process has seen to lately; a slot that is overwritten is seen to again. */
typedef struct {
    uint32_t slot;
    int64_t gated_us;
} tended_t;
static tended_t tended[TENDED];

static void reopen(uint32_t slot)
{
    unsigned token;
    if (xb_table_regate(xnat_table, slot, &token)) {
        xb_table_touch(xnat_table, slot, xnat_now_us());
        xb_table_flag(xnat_table, slot, XB_SESSION_PARTIAL, 0);
        xb_table_abort(xnat_table, slot, token, 0);
    }
}

/* A gate without target was shut by a request; one with it by a mover that is lost. */
static void see_to(uint32_t slot, const xb_view_t *v)
{
    tended[slot % TENDED] = (tended_t){slot, v->gated_us};
    xnat_balancer_t *xb = xnat_fleet_balancer(v->w.home);
    proxy_worker *home = xnat_fleet_worker(v->w.home);
    if (!xb || !xb->conf.nodes) {
        reopen(slot);
        return;
    }
    bool revive = v->target == v->w.home, asked = revive || v->target == XB_MEMBER_NONE;
    bool usable = PROXY_WORKER_IS_USABLE(home);
    xnat_job_t job = {.kind = !asked    ? XNAT_JOB_ADOPT
                              : !usable ? XNAT_JOB_RESCUE
                              : revive  ? XNAT_JOB_REVIVE
                                        : XNAT_JOB_LOOKUP,
                      .xb = xb,
                      .slot = slot,
                      .tag = v->tag,
                      .from = v->w.home,
                      .to = asked ? v->w.home : v->target,
                      .from_worker = home,
                      .to_worker = xnat_fleet_worker(asked ? v->w.home : v->target),
                      .reason = asked ? XB_MOVE_FAILED : XB_MOVE_DRAIN};
    if (!job.to_worker || !xnat_mover_submit(&job)) {
        reopen(slot);
    }
}

void xnat_tick_serve(void)
{
    uint32_t slot;
    xb_view_t v;
    while (xnat_mover_has_room() && xnat_shm_wanted(&wanted_seen, &slot)) {
        if (slot < xb_table_slots(xnat_table) && xb_table_view(xnat_table, slot, &v) &&
            v.w.state == XB_MOVING) {
            see_to(slot, &v);
        }
    }
}

/* Does nobody tend this gate? Jobs in hand open theirs before the requests that wait there give
 * up. */
static bool is_abandoned(uint32_t slot, const xb_view_t *v, int64_t now)
{
    const xnat_balancer_t *xb = xnat_fleet_balancer(v->w.home);
    int64_t age_us = now - v->gated_us,
            most = xb ? xb->conf.gate_timeout + SECOND_US : SECOND_US;
    bool asked = v->target == XB_MEMBER_NONE || v->target == v->w.home;
    bool known =
        tended[slot % TENDED].slot == slot && tended[slot % TENDED].gated_us == v->gated_us;
    return age_us > most || (asked && !known && age_us > OVERLOOKED_US);
}

/* all: of a lost mover, and whatever its requests have asked for. */
static void adopt_gates(int64_t now, bool all)
{
    for (uint32_t slot = 0; slot < xb_table_slots(xnat_table); slot++) {
        xb_view_t v;
        if (xb_table_view(xnat_table, slot, &v) && v.w.state == XB_MOVING &&
            (all || is_abandoned(slot, &v, now))) {
            see_to(slot, &v);
        }
    }
}

void xnat_tick_begin(void)
{
    memset(draining_since_us, 0, sizeof draining_since_us);
    wanted_seen = __atomic_load_n((uint64_t *)&xnat_shm->wanted_next, __ATOMIC_ACQUIRE);
    xnat_config_each(meet_members, NULL);
    adopt_gates(xnat_now_us(), true);
}

void xnat_tick_run(int64_t now)
{
    repair(now);
    if (now - children_us >= CHECK_CHILDREN_EVERY_US) {
        children_us = now;
        check_children();
        adopt_gates(now, false);
    }
    if (now - folded_us >= FOLD_EVERY_US) {
        folded_us = now;
        xnat_config_each(fold_balancer, &now);
    }
    count_sessions(now);
    choose_moves(now);
    xnat_release_tick(now);
}
