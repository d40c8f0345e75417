/* SPDX-License-Identifier: Apache-2.0 */
/* The mover's tick: decayed figures, repair after dead children, session counts, gates that
 * requests have shut. */
#include "xnat_tick.h"

#include <errno.h>
#include <signal.h>
#include <stdlib.h>

#include "mod_xnat_balance.h"
#include "xnat_choose.h"
#include "xnat_fleet.h"
#include "xnat_release.h"

#define SECOND_US INT64_C(1000000)
#define FOLD_EVERY_US 100000
#define CHECK_CHILDREN_EVERY_US SECOND_US
/* A session that nobody has used for so long is not at home anywhere that matters. */
#define LIVE_US (30 * 60 * SECOND_US)
/* Slots that one tick looks at: a million sessions shall not cost per cents of a core. */
#define SHARE_MOST 16384
/* A gate that a request has shut is seen to within milliseconds, or has been overlooked. */
#define OVERLOOKED_US 300000
/* Who has taken a place in the ring of wanted sessions fills it at once, or has been killed. */
#define WRITER_US 200000

static uint64_t wanted_seen; /* how far the ring of wanted sessions has been read */
static int64_t folded_us, children_us;

static uint64_t wanted_now(void)
{
    return __atomic_load_n((uint64_t *)&xnat_shm->wanted_next, __ATOMIC_ACQUIRE);
}

/* ---- decayed figures */

static void fold_balancer(xnat_balancer_t *xb, void *ctx)
{
    static xnat_fleet_t fleet; /* mover thread only */
    int64_t now = *(int64_t *)ctx;
    if (!strcmp(xb->balancer->s->lbpname, "xnat")) {
        xnat_fleet_snapshot(xb, false, now, &fleet);
        xb_member_fold_fleet(xnat_members, fleet.member, fleet.load, fleet.n, &xb->decay, now);
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

/* Makes this process know the way from each member's record to its worker. */
static void meet_members(xnat_balancer_t *xb, void *ctx)
{
    static xnat_fleet_t fleet; /* mover thread only */
    (void)ctx;
    xnat_fleet_snapshot(xb, false, xnat_now_us(), &fleet);
}

/* ---- gates that were shut by others */

/* By slot: the gate that this process has seen to last, by when it was shut, and since when.
 * Two jobs for one gate would ask two nodes to take the session over. Mover thread only; NULL:
 * no memory. */
static struct {
    int64_t gated_us, since_us;
} * tended;

static bool is_tended(uint32_t slot, const xb_view_t *v)
{
    return tended && tended[slot].gated_us == v->gated_us;
}

static void note_tended(uint32_t slot, int64_t gated_us)
{
    if (tended) {
        tended[slot].gated_us = gated_us;
        tended[slot].since_us = xnat_now_us();
    }
}

/* verified: nothing of the session has been sent to another node. */
static void reopen(uint32_t slot, bool verified)
{
    unsigned token;
    if (xb_table_regate(xnat_table, slot, &token)) {
        xb_table_touch(xnat_table, slot, xnat_now_us());
        xb_table_flag(xnat_table, slot, verified ? 0 : XB_SESSION_PARTIAL, 0);
        xb_table_abort(xnat_table, slot, token, 0);
    }
}

/* Shut by a request; else by a mover that is lost. */
static bool is_asked(const xb_view_t *v)
{
    return v->target == XB_MEMBER_NONE || v->target == XNAT_TARGET_ANY ||
           v->target == v->w.home;
}

static void see_to(uint32_t slot, const xb_view_t *v)
{
    note_tended(slot, v->gated_us);
    xnat_balancer_t *xb = xnat_fleet_balancer(v->w.home);
    proxy_worker *home = xnat_fleet_worker(v->w.home);
    if (!xb || !xb->conf.nodes || v->target == XNAT_TARGET_STAYS) {
        reopen(slot, v->target == XNAT_TARGET_STAYS);
        return;
    }
    /* That a lost home may be tried again by now does not make its session an unknown one. */
    bool asked = is_asked(v), revive = v->target == v->w.home;
    bool rescue = v->target == XNAT_TARGET_ANY || !PROXY_WORKER_IS_USABLE(home);
    xnat_job_t job = {.kind = !asked   ? XNAT_JOB_ADOPT
                              : rescue ? XNAT_JOB_RESCUE
                              : revive ? XNAT_JOB_REVIVE
                                       : XNAT_JOB_LOOKUP,
                      .xb = xb,
                      .slot = slot,
                      .tag = v->tag,
                      .from = v->w.home,
                      .to = asked ? v->w.home : v->target,
                      .from_worker = home,
                      .to_worker = xnat_fleet_worker(asked ? v->w.home : v->target),
                      .reason = asked ? XB_MOVE_FAILED : XB_MOVE_DRAIN};
    if (!job.to_worker) {
        reopen(slot, false);
        return;
    }
    /* There is room; a child that stops leaves it to the next holder of the lease. */
    xnat_mover_submit(&job);
}

static bool is_held_up(void)
{
    static uint64_t at;
    static int64_t since_us;
    int64_t now = xnat_now_us();
    if (at != wanted_seen || wanted_seen == wanted_now()) {
        at = wanted_seen;
        since_us = now;
    }
    return now - since_us > WRITER_US;
}

bool xnat_tick_serve(void)
{
    uint32_t slot;
    xb_view_t v;
    while (xnat_mover_has_room(true)) {
        if (!xnat_shm_wanted(&wanted_seen, is_held_up(), &slot)) {
            return true;
        }
        if (slot < xb_table_slots(xnat_table) && xb_table_view(xnat_table, slot, &v) &&
            v.w.state == XB_MOVING && !is_tended(slot, &v)) {
            see_to(slot, &v);
        }
    }
    return false;
}

/* Does nobody tend this gate? Jobs in hand open theirs before the requests that wait there give
 * up; one that was adopted has its own time, whenever its gate was shut. */
static bool is_abandoned(uint32_t slot, const xb_view_t *v, int64_t now)
{
    const xnat_balancer_t *xb = xnat_fleet_balancer(v->w.home);
    bool asked = is_asked(v), seen_to = is_tended(slot, v);
    int64_t age_us = now - (seen_to ? tended[slot].since_us : v->gated_us),
            most = xb ? xb->conf.gate_timeout + SECOND_US : SECOND_US;
    return age_us > most ||
           (asked && wanted_seen == wanted_now() && !seen_to && age_us > OVERLOOKED_US);
}

/* Served as there is room. */
static void adopt(uint32_t slot)
{
    note_tended(slot, 0);
    xnat_shm_want(slot);
}

/* Of a lost mover, and whatever its requests have asked for. */
static void adopt_gates(void)
{
    xb_glance_t g;
    for (uint32_t slot = 0; slot < xb_table_slots(xnat_table); slot++) {
        if (xb_table_glance(xnat_table, slot, &g) && xb_word_state(g.word) == XB_MOVING) {
            adopt(slot);
        }
    }
}

/* ---- the walk */

/* The whole table in twenty ticks, a very large one in more: sessions at home at each member
 * are counted, and gates found that nobody tends. */
static void walk(int64_t now)
{
    static uint32_t next, live[XB_MEMBERS_MAX];
    uint32_t slots = xb_table_slots(xnat_table), share = slots / 20 + 1;
    uint32_t end = next + (share < SHARE_MOST ? share : SHARE_MOST);
    for (; next < slots && next < end; next++) {
        xb_glance_t g;
        xb_view_t v;
        if (!xb_table_glance(xnat_table, next, &g)) {
            continue;
        }
        if (xb_word_home(g.word) < XB_MEMBERS_MAX &&
            !(g.flags & (XB_SESSION_UNPROVEN | XB_SESSION_ENDED)) &&
            now - g.last_us < LIVE_US) {
            live[xb_word_home(g.word)]++;
        }
        if (xb_word_state(g.word) == XB_MOVING && xb_table_view(xnat_table, next, &v) &&
            v.w.state == XB_MOVING && is_abandoned(next, &v, now)) {
            adopt(next);
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

void xnat_tick_begin(void)
{
    xnat_choose_begin();
    if (!tended) {
        tended = calloc(xb_table_slots(xnat_table), sizeof *tended);
    }
    wanted_seen = wanted_now();
    xnat_config_each(meet_members, NULL);
    adopt_gates();
}

void xnat_tick_run(int64_t now)
{
    repair(now);
    if (now - children_us >= CHECK_CHILDREN_EVERY_US) {
        children_us = now;
        check_children();
    }
    if (now - folded_us >= FOLD_EVERY_US) {
        folded_us = now;
        xnat_config_each(fold_balancer, &now);
    }
    walk(now);
    xnat_choose_run(now);
    xnat_release_tick(now);
}
