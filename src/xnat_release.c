/* SPDX-License-Identifier: Apache-2.0 */
/* Release of stale copies: which, when, and what must be true first. */
#include "xnat_release.h"

#include <pthread.h>

#include "apr_strings.h"

#include "mod_xnat_balance.h"
#include "xb_rule.h"
#include "xnat_fleet.h"
#include "xnat_front.h"
#include "xnat_jmx.h"
#include "xnat_log.h"
#include "xnat_mover.h"
#include "xnat_tick.h"

#define SECOND_US INT64_C(1000000)
/* The table is walked once in so many ticks, that is in a second. */
#define WALK_TICKS 20
/* Jobs at once, fewer than the mover has workers: rescues must not wait for a slow node. */
#define AT_ONCE 4
/* Before the gate is shut, and while it is. */
#define LOOK_US SECOND_US
#define GATE_US (SECOND_US / 2)
/* A node that fails is asked again after 1, 2, 4 ... seconds; a session likewise, some times.
 */
#define NODE_BACK_OFF_MAX 6
#define TRIES 6
/* MSM deletes the key of an expired session once more at the end, when the application's
 * listeners are through and the session can no longer be seen. If that end was not seen, the
 * session must not come back, to the same key, before it has surely come. */
#define UNANSWERED_US (60 * SECOND_US)
#define TRIED 1024

enum { NOT_NOW = XB_HELDS + 1 }; /* beside xb_held_t, where XB_HELDS = released: no failure */

/* This process's; the lock is a leaf and guards all of it. */
static struct {
    pthread_mutex_t lock;
    uint64_t in_work[AT_ONCE]; /* tags; 0: free */
    struct {
        bool works; /* the last question there was answered */
        unsigned failures;
        int64_t next_us;
    } node[XB_MEMBERS_MAX];
    struct {
        uint64_t tag;
        unsigned member, failures;
        int64_t next_us;
    } tried[TRIED];
    /* A session with this cookie path was seen where it was looked for: not to find another
     * there means that it is gone. */
    bool right_place[XNAT_BALANCERS_MAX][XNAT_PATHS_MAX];
} mine = {.lock = PTHREAD_MUTEX_INITIALIZER};

/* Not beside another front end, whose requests at a former home are not seen here. */
static bool releases(const xnat_balancer_t *xb)
{
    return xb->conf.release && xb->conf.nodes && xb->conf.store == XNAT_STORE_STICKY &&
           (xb->conf.move == XNAT_MOVE_ON || xb->conf.move == XNAT_MOVE_DRAIN) &&
           !strcmp(xb->balancer->s->lbpname, "xnat") && xnat_front_is_alone(xb, xnat_now_us());
}

/* ---- what has been tried */

static unsigned tried_at(uint64_t tag, unsigned member)
{
    return (unsigned)((tag ^ member * UINT64_C(0x9e3779b97f4a7c15)) % TRIED);
}

static int64_t back_off_us(unsigned failures)
{
    return SECOND_US << (failures < NODE_BACK_OFF_MAX ? failures : NODE_BACK_OFF_MAX);
}

static bool is_due_locked(uint64_t tag, unsigned member, int64_t now)
{
    unsigned i = tried_at(tag, member);
    bool again = mine.tried[i].tag == tag && mine.tried[i].member == member;
    return now >= mine.node[member].next_us &&
           (!again || (mine.tried[i].failures < TRIES && now >= mine.tried[i].next_us));
}

static void note_node_locked(unsigned member, bool works, int64_t now)
{
    mine.node[member].works = works;
    mine.node[member].next_us = works ? 0 : now + back_off_us(mine.node[member].failures);
    mine.node[member].failures = works ? 0 : mine.node[member].failures + 1;
}

static void note_session_locked(uint64_t tag, unsigned member, int64_t now, int64_t at_least)
{
    unsigned i = tried_at(tag, member);
    bool again = mine.tried[i].tag == tag && mine.tried[i].member == member;
    unsigned failures = again ? mine.tried[i].failures : 0;
    mine.tried[i].tag = tag;
    mine.tried[i].member = member;
    mine.tried[i].failures = failures + 1;
    int64_t wait = back_off_us(failures + 1);
    mine.tried[i].next_us = now + (wait > at_least ? wait : at_least);
}

static void tell_held(const xnat_job_t *job, xb_held_t held)
{
    char digest[XB_DIGEST_SIZE];
    xnat_count(&xnat_shm->helds[held]);
    if (xnat_shm_may_tell(&xnat_shm->held_logged_us[held], XNAT_MINUTE_US)) {
        xnat_log_server(
            APLOG_WARNING, 0, job->xb->server, XB(0330),
            "the stale copy of session %s at %s could not be expired: %s (told once "
            "a minute)",
            xnat_digest(job->tag, digest), xnat_shm->route[job->from].route,
            xb_held_name(held));
    }
}

static void tell_released(const xnat_job_t *job)
{
    char digest[XB_DIGEST_SIZE];
    xnat_count(&xnat_shm->released);
    xnat_log_server(APLOG_INFO, 0, job->xb->server, XB(0331),
                    "the stale copy of session %s at %s is gone", xnat_digest(job->tag, digest),
                    xnat_shm->route[job->from].route);
}

/* unanswered: the node was told to expire it, and may still be about it. */
static void settle(const xnat_job_t *job, int outcome, bool unanswered)
{
    int64_t now = xnat_now_us();
    bool of_node = outcome <= XB_HELD_NO_MANAGER;
    pthread_mutex_lock(&mine.lock);
    if (outcome != NOT_NOW && outcome != XB_HELD_NOT_STORED) {
        note_node_locked(job->from, !of_node, now);
    }
    if (unanswered || (!of_node && outcome < XB_HELDS)) {
        note_session_locked(job->tag, job->from, now, unanswered ? UNANSWERED_US : 0);
    }
    pthread_mutex_unlock(&mine.lock);
    if (outcome < XB_HELDS) {
        tell_held(job, (xb_held_t)outcome);
    }
    else if (outcome == XB_HELDS && job->kind != XNAT_JOB_TRY) {
        tell_released(job);
    }
}

/* ---- one copy */

typedef struct {
    xnat_hands_t *hands;
    const xnat_job_t *job; /* from: the former home; slot, tag */
    unsigned home;
    unsigned flags;  /* of the session */
    bool unanswered; /* it was told to expire the copy and has not said that it did */
    bool lost_home;  /* what still hangs there does not matter */
    char live[XB_ID_MAX + 1], former[XB_ID_MAX + 1]; /* the session's id at either */
    xnat_jmx_t jmx;
} release_t;

/* By what the table says of a session: is there a copy at this member that may be released? The
 * bar stands for requests that may still run though nothing is in flight. */
static bool is_wanted(const xb_view_t *v, unsigned member, int64_t now)
{
    const proxy_worker *home = xnat_fleet_worker(v->w.home);
    bool visited = false;
    for (unsigned i = 0; i < v->visited_count; i++) {
        visited = visited || v->visited[i].member == member;
    }
    return visited && v->w.state == XB_STABLE && v->target != XB_TARGET_HELD &&
           v->path < XNAT_PATHS_MAX && v->w.home != member && member < XB_MEMBERS_MAX &&
           !(v->flags & (XB_SESSION_PARTIAL | XB_SESSION_UNPROVEN)) && now >= v->bar_until_us &&
           home && PROXY_WORKER_IS_USABLE(home) && !*home->s->redirect;
}

/* Both ids, from the text of the one at home. The session is known to have been taken over at
 * its home only if it has that one's route; and the copy's name must never be its own. */
static bool name_copy(release_t *r)
{
    char sep = r->job->xb->balancer->s->sticky_separator;
    const char *at_home = xnat_shm->route[r->home].route;
    xb_id_t live, former;
    if (!XB_RULE(COPYID)) {
        apr_cpystrn(r->former, r->live, sizeof r->former);
        return true;
    }
    if (!xb_id_parse((xb_span_t){r->live, strlen(r->live)}, sep, &live) ||
        strlen(at_home) != live.route.n || memcmp(at_home, live.route.p, live.route.n) != 0) {
        return false;
    }
    char text[XB_ID_MAX + PROXY_WORKER_MAX_ROUTE_SIZE + 2];
    apr_snprintf(text, sizeof text, "%.*s%c%s", (int)live.base.n, live.base.p, sep,
                 xnat_shm->route[r->job->from].route);
    apr_cpystrn(r->former, text, sizeof r->former);
    return strcmp(text, r->former) == 0 && strcmp(r->former, r->live) != 0 &&
           xb_id_parse((xb_span_t){text, strlen(text)}, sep, &former) && former.route.n > 0 &&
           former.base.n == live.base.n;
}

/* A request that is just coming in looks like one that may be at the former home. */
static bool has_strays(uint32_t slot, unsigned member)
{
    bool strays = XB_RULE(STRAYS);
    for (int i = 0; strays && i < 5; i++) {
        apr_sleep(i ? 1000 : 0);
        strays = xb_table_strays(xnat_table, slot, member);
    }
    return strays;
}

/* Rule FLIP again: the session must be at its home, by what memcached has. If that is nothing,
 * the session has logged out, or its key has run out while it lives: then it does if it was
 * taken over there, and the home lives; if it is lost, the copy may be all that is left. */
static bool is_at_home(const release_t *r)
{
    const xnat_balancer_t *xb = r->job->xb;
    char sep = xb->balancer->s->sticky_separator;
    xb_msm_head_t head;
    size_t bytes;
    xb_id_t live, former;
    if (!xb_id_parse((xb_span_t){r->live, strlen(r->live)}, sep, &live) ||
        !xb_id_parse((xb_span_t){r->former, strlen(r->former)}, sep, &former)) {
        return false;
    }
    return !XB_RULE(ATHOME) ||
           xnat_move_check(r->hands, xb, &live, &head, &bytes) == XB_REFUSALS ||
           (!r->lost_home && !(r->flags & XB_SESSION_ASSUMED) &&
            xnat_move_keys(r->hands, xb, &former, &live) == XNAT_KEYS_NONE) ||
           r->flags & XB_SESSION_ENDED;
}

/* Not to find it says something only where it would be found, or where it cannot be any more.
 */
static bool is_right_place(const release_t *r, bool seen)
{
    xb_view_t v;
    int64_t reborn_us = xnat_fleet_reborn_us(r->job->from);
    pthread_mutex_lock(&mine.lock);
    bool *right = &mine.right_place[r->job->xb->record][r->jmx.path];
    *right = *right || seen;
    bool known = *right;
    pthread_mutex_unlock(&mine.lock);
    for (unsigned i = 0;
         !known && xb_table_view(xnat_table, r->job->slot, &v) && i < v.visited_count; i++) {
        known = v.visited[i].member == r->job->from && v.visited[i].touched_us < reborn_us;
    }
    return known;
}

static int begin(release_t *r)
{
    r->jmx.probe = r->hands->probe;
    r->jmx.xb = r->job->xb;
    r->jmx.worker = r->job->from_worker;
    r->jmx.member = r->job->from;
    if (r->jmx.path >= XNAT_PATHS_MAX) {
        return NOT_NOW;
    }
    xb_held_t held = xnat_jmx_find(&r->jmx);
    return held;
}

/* At the shut gate: nobody comes in, the home stays what it is. Expired first, then seen to be
 * gone, then not visited any more. */
static int expire(release_t *r, unsigned token)
{
    bool there;
    if (has_strays(r->job->slot, r->lost_home ? r->job->from : XB_MEMBER_NONE)) {
        return NOT_NOW;
    }
    if (!is_at_home(r)) {
        return XB_HELD_NOT_STORED;
    }
    xb_held_t held = xnat_jmx_look(&r->jmx, r->former, &there);
    if (held == XB_HELDS && there) {
        is_right_place(r, true);
        if (!xb_table_token(xnat_table, r->job->slot, token, NULL)) {
            return NOT_NOW;
        }
        held = xnat_jmx_expire(&r->jmx, r->former);
        r->unanswered = held == XB_HELD_UNREACHABLE;
        /* It may yet: what is taken over there meanwhile would end, too. */
        if (r->unanswered && XB_RULE(UNANSWERED)) {
            xb_table_ask(xnat_table, r->job->slot, r->job->from, xnat_now_us());
        }
        there = there && XB_RULE(LOOK);
        if (held == XB_HELDS && XB_RULE(LOOK)) {
            held = xnat_jmx_look(&r->jmx, r->former, &there);
        }
    }
    if (held != XB_HELDS || there) {
        return held != XB_HELDS ? held : XB_HELD_STAYS;
    }
    if (!is_right_place(r, false)) {
        return XB_HELD_NOT_FOUND;
    }
    if (!xb_table_token(xnat_table, r->job->slot, token, NULL)) {
        return NOT_NOW;
    }
    xb_table_unvisit(xnat_table, r->job->slot, r->job->from);
    return XB_HELDS;
}

/* ---- jobs */

/* False: the session has gone, moved or is being moved, or is too busy to be caught. */
static bool shut_gate(release_t *r, unsigned *token)
{
    for (int i = 0; i < 8; i++) {
        xb_view_t v;
        int64_t now = xnat_now_us();
        if (!xb_table_view(xnat_table, r->job->slot, &v) || v.tag != r->job->tag ||
            !is_wanted(&v, r->job->from, now)) {
            return false;
        }
        r->home = v.w.home;
        r->flags = v.flags;
        if (xb_table_gate(xnat_table, r->job->slot, v.word, XNAT_TARGET_STAYS, false, now,
                          token)) {
            return true;
        }
    }
    return false;
}

/* Before the gate is shut: does the node answer, and soon? Users must not wait for one that
 * does not. */
static int look_first(release_t *r)
{
    xb_view_t v;
    bool there;
    r->jmx.deadline_us = xnat_now_us() + LOOK_US;
    if (!xb_table_view(xnat_table, r->job->slot, &v) ||
        !xb_table_id_of(xnat_table, r->job->slot, r->job->tag, r->live, &r->jmx.path)) {
        return NOT_NOW;
    }
    r->home = v.w.home;
    int held = name_copy(r) ? begin(r) : NOT_NOW;
    if (held == XB_HELDS) {
        held = (int)xnat_jmx_look(&r->jmx, r->former, &there);
    }
    if (held == XB_HELDS && !is_right_place(r, there)) {
        held = XB_HELD_NOT_FOUND;
    }
    return held;
}

static int release(release_t *r)
{
    unsigned token, path;
    int outcome = look_first(r);
    if (outcome != XB_HELDS) {
        return outcome;
    }
    if (!shut_gate(r, &token)) {
        return NOT_NOW;
    }
    int64_t budget = r->job->xb->conf.gate_timeout / 4;
    r->jmx.deadline_us = xnat_now_us() + (budget < GATE_US ? budget : GATE_US);
    outcome = xb_table_id(xnat_table, r->job->slot, token, r->live, &path) && name_copy(r) &&
                      path == r->jmx.path
                  ? expire(r, token)
                  : NOT_NOW;
    xb_table_abort(xnat_table, r->job->slot, token, 0);
    return outcome;
}

/* Asked anew, whatever is known. */
static int try_out(release_t *r)
{
    r->jmx.deadline_us = xnat_now_us() + LOOK_US;
    if (!xb_table_id_of(xnat_table, r->job->slot, r->job->tag, r->live, &r->jmx.path)) {
        return NOT_NOW;
    }
    r->jmx.member = r->job->from;
    xnat_jmx_forget(&r->jmx);
    return begin(r);
}

void xnat_release_run(xnat_hands_t *hands, const xnat_job_t *job)
{
    release_t r = {.hands = hands, .job = job};
    int outcome = job->kind == XNAT_JOB_TRY ? try_out(&r) : release(&r);
    if (outcome == XB_HELD_NO_JMX || outcome == XB_HELD_NO_MANAGER) {
        xnat_jmx_forget(&r.jmx); /* the application was deployed anew, perhaps */
    }
    settle(job, outcome, r.unanswered);
    pthread_mutex_lock(&mine.lock);
    for (unsigned i = 0; i < AT_ONCE; i++) {
        if (mine.in_work[i] == job->tag) {
            mine.in_work[i] = 0;
            break;
        }
    }
    pthread_mutex_unlock(&mine.lock);
}

/* The store must show the session at its lost home, else the copy may be all that is left. */
bool xnat_release_former(xnat_steps_t *m)
{
    xb_view_t v;
    bool any = false;
    if (!releases(m->xb) || !xb_table_view(xnat_table, m->job->slot, &v) ||
        v.flags & (XB_SESSION_PARTIAL | XB_SESSION_UNPROVEN | XB_SESSION_ENDED)) {
        return false;
    }
    for (unsigned i = 0; i < v.visited_count && !any; i++) {
        xnat_job_t job = *m->job;
        release_t r = {.hands = m->hands,
                       .job = &job,
                       .home = m->from,
                       .lost_home = true,
                       .jmx.path = m->path};
        job.kind = XNAT_JOB_RELEASE;
        job.from = v.visited[i].member;
        job.from_worker = xnat_fleet_worker(job.from);
        if (job.from == m->from || !job.from_worker ||
            !PROXY_WORKER_IS_USABLE(job.from_worker) ||
            (v.visited[i].asked && v.visited[i].touched_us > xnat_now_us() - XNAT_AT_IT_US)) {
            continue;
        }
        r.jmx.deadline_us = xnat_now_us() + xnat_steps_left(m, 2 * GATE_US);
        apr_cpystrn(r.live, m->old_text, sizeof r.live);
        int outcome = name_copy(&r) ? begin(&r) : NOT_NOW;
        outcome = outcome == XB_HELDS ? expire(&r, m->token) : outcome;
        settle(&job, outcome, r.unanswered);
        any = outcome == XB_HELDS;
    }
    return any;
}

/* ---- the mover's thread */

static bool submit(const xnat_job_t *job)
{
    unsigned at = AT_ONCE;
    pthread_mutex_lock(&mine.lock);
    for (unsigned i = 0; i < AT_ONCE; i++) {
        if (mine.in_work[i] == job->tag) {
            at = AT_ONCE;
            break;
        }
        at = mine.in_work[i] ? at : i;
    }
    bool room = at < AT_ONCE && is_due_locked(job->tag, job->from, xnat_now_us());
    if (room) {
        mine.in_work[at] = job->tag;
    }
    pthread_mutex_unlock(&mine.lock);
    if (room && !xnat_mover_submit(job)) {
        pthread_mutex_lock(&mine.lock);
        mine.in_work[at] = 0;
        pthread_mutex_unlock(&mine.lock);
        room = false;
    }
    return room;
}

static void any_releases(xnat_balancer_t *xb, void *ctx)
{
    *(bool *)ctx = *(bool *)ctx || releases(xb);
}

static bool has_any_stray(uint32_t slot)
{
    return XB_RULE(STRAYS) && xb_table_strays(xnat_table, slot, XB_MEMBER_NONE);
}

/* One copy of a session at a time. */
static void consider(uint32_t slot, int64_t now)
{
    xb_view_t v;
    if (!xb_table_view(xnat_table, slot, &v) || v.visited_count < 2) {
        return;
    }
    xnat_balancer_t *xb = xnat_fleet_balancer(v.w.home);
    for (unsigned i = 0; xb && releases(xb) && i < v.visited_count; i++) {
        unsigned member = v.visited[i].member;
        xnat_job_t job = {.kind = XNAT_JOB_RELEASE,
                          .xb = xb,
                          .slot = slot,
                          .tag = v.tag,
                          .from = member,
                          .from_worker = xnat_fleet_worker(member)};
        if (is_wanted(&v, member, now) && job.from_worker &&
            xnat_fleet_balancer(member) == xb && !has_any_stray(slot) && submit(&job)) {
            return;
        }
    }
}

static bool has_room(void)
{
    pthread_mutex_lock(&mine.lock);
    bool room = false;
    for (unsigned i = 0; i < AT_ONCE; i++) {
        room = room || !mine.in_work[i];
    }
    pthread_mutex_unlock(&mine.lock);
    return room && xnat_mover_has_room(false);
}

void xnat_release_tick(int64_t now)
{
    static uint32_t next;
    static bool any;
    uint32_t slots = xb_table_slots(xnat_table), end = next + slots / WALK_TICKS + 1;
    if (next == 0) {
        any = false;
        xnat_config_each(any_releases, &any);
    }
    for (; any && next < slots && next < end && has_room(); next++) {
        consider(next, now);
    }
    next = any && next < slots ? next : 0;
}

bool xnat_release_works(xnat_balancer_t *xb, uint32_t slot, const xb_view_t *v, int64_t now)
{
    xnat_job_t job = {.kind = XNAT_JOB_TRY,
                      .xb = xb,
                      .slot = slot,
                      .tag = v->tag,
                      .from = v->w.home,
                      .from_worker = xnat_fleet_worker(v->w.home)};
    if (!releases(xb) || job.from >= XB_MEMBERS_MAX || !job.from_worker) {
        return false;
    }
    pthread_mutex_lock(&mine.lock);
    bool works = mine.node[job.from].works, due = now >= mine.node[job.from].next_us;
    pthread_mutex_unlock(&mine.lock);
    if (!works && due) {
        submit(&job);
    }
    return works;
}
