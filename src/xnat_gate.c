/* SPDX-License-Identifier: Apache-2.0 */
/* Entering a session, waiting at its gate, and shutting the gate of one whose home is lost. */
#include "xnat_gate.h"

#include "ap_mpm.h"

#include "mod_xnat_balance.h"
#include "xb_rule.h"
#include "xnat_elect.h"
#include "xnat_fleet.h"
#include "xnat_log.h"
#include "xnat_mover.h"
#include "xnat_tick.h"

/* Without a mover that has been heard of lately nobody would open the gate again. */
#define MOVER_LOST_MS 3000

static void stop_waiting(void)
{
    __atomic_fetch_sub((uint32_t *)&xnat_shm->waiting[xnat_child], 1, __ATOMIC_RELAXED);
}

/* Half of a child's threads at most wait at gates, or half of the children where each has but
 * one: the others keep serving. */
static bool may_wait(void)
{
    static int threads, children;
    if (!threads) {
        int n = 1;
        ap_mpm_query(AP_MPMQ_MAX_DAEMONS, &children);
        ap_mpm_query(AP_MPMQ_MAX_THREADS, &n);
        threads = n > 1 ? n : 1;
    }
    uint32_t own =
        __atomic_add_fetch((uint32_t *)&xnat_shm->waiting[xnat_child], 1, __ATOMIC_RELAXED);
    bool room = threads > 1 ? own <= (uint32_t)threads / 2
                            : xnat_shm_waiting() <= (uint32_t)children / 2;
    if (!room && XB_RULE(CAP)) {
        stop_waiting();
        return false;
    }
    return true;
}

static int refuse(xnat_request_t *xr, const char *reason, _Atomic uint64_t *counter)
{
    xnat_count(counter);
    xnat_request_say(xr, XB_REFUSED, reason, NULL, NULL);
    apr_table_setn(xr->r->err_headers_out, "Retry-After", "1");
    xnat_log_request(APLOG_INFO, 0, xr->r, XB(0201),
                     "503 at the gate of a session on the move: %s", reason);
    return HTTP_SERVICE_UNAVAILABLE;
}

/* Is there a mover that would see to a gate shut by a request? Nor is one shut where any node
 * can serve any session: a failed home is left, an unknown session followed, a restarted node
 * asked without further ado. */
static bool is_tended(const xnat_balancer_t *xb)
{
    return xnat_moves(xb) && xnat_keeps_copies(xb) &&
           xnat_mover_heartbeat_age_ms() < MOVER_LOST_MS;
}

/* One of the session's requests gets through here; the others find the gate shut. The target
 * tells the mover why: any = away from a lost home, the home itself = ask that first. False: it
 * was shut for something else, or the session has another home. */
static bool shut(uint32_t slot, unsigned home, unsigned target, bool fence)
{
    xb_view_t view = {.target = XB_MEMBER_NONE};
    unsigned token;
    while (xb_table_view(xnat_table, slot, &view) && view.w.state == XB_STABLE &&
           view.w.home == home) {
        if (xb_table_gate(xnat_table, slot, view.word, target, fence, xnat_now_us(), &token)) {
            xnat_shm_want(slot);
            return true;
        }
    }
    return view.w.state == XB_MOVING && view.w.home == home && view.target == target;
}

static bool is_held(uint32_t slot, unsigned home)
{
    xb_view_t v;
    return xb_table_view(xnat_table, slot, &v) && v.w.home == home &&
           v.target == XB_TARGET_HELD;
}

/* This balancer's member; the home may be another's with the same nodes, and this process may
 * not have sent the node a request yet. Not under the balancer's lock. */
static proxy_worker *worker_of(const xnat_request_t *xr, unsigned home)
{
    proxy_worker *w = xnat_fleet_balancer(home) == xr->xb ? xnat_fleet_worker(home) : NULL;
    if (!w && home < XB_MEMBERS_MAX) {
        const char *route = xnat_shm->route[home].route;
        w = xnat_fleet_worker(xnat_fleet_member_of(xr->xb, (xb_span_t){route, strlen(route)}));
    }
    return w;
}

/* Its gate is shut for the mover to ask the home first. A home whose error state has run out is
 * tried again: there may be no other request to notice. */
static void ask_home(xnat_request_t *xr)
{
    proxy_worker *w = worker_of(xr, xr->ref.home);
    if (w && !xnat_elect_is_usable(w, xr->r->server)) {
        xnat_elect_recover(xr->xb->balancer, xr->r->server);
    }
    /* Once: nobody may be able to ask that home. */
    xr->revived = shut(xr->ref.slot, xr->ref.home, xr->ref.home, false);
}

/* Enters. A session whose home has restarted gets its gate shut, for one HEAD to bring it back
 * there before its requests race for it (rule 11); so does one that is held, but not by those
 * who have waited for the mover. */
static xb_enter_t try_enter(xnat_request_t *xr, int64_t now)
{
    const xb_members_t *members = XB_RULE(GENERATION) && !xr->revived ? xnat_members : NULL;
    xb_enter_t rc =
        xb_table_enter_at(xnat_table, (unsigned)xnat_child, xr->tag, now, members, &xr->ref);
    if (rc == XB_ENTER_REBORN &&
        (!is_tended(xr->xb) || (xr->waited && is_held(xr->ref.slot, xr->ref.home)))) {
        rc = xb_table_enter(xnat_table, (unsigned)xnat_child, xr->tag, now, &xr->ref);
    }
    if (rc == XB_ENTER_REBORN) {
        ask_home(xr);
        rc = XB_ENTER_GATE;
    }
    return rc;
}

/* How long it may yet wait, at all gates together. */
static int64_t patience(const xnat_request_t *xr)
{
    return xr->xb->conf.gate_timeout - xr->waited_us;
}

/* Waits until the session's move has ended, by looking: the mover may live in another process,
 * and a move takes milliseconds. */
static xb_enter_t wait_at(xnat_request_t *xr)
{
    int64_t begun = xnat_now_us(), now = begun, deadline = begun + patience(xr);
    apr_interval_time_t nap = 500;
    xb_enter_t rc = XB_ENTER_GATE;
    xnat_count(&xnat_shm->gate_waits);
    while (rc == XB_ENTER_GATE && now < deadline) {
        apr_sleep(nap);
        nap = nap < 5000 ? nap * 2 : nap;
        now = xnat_now_us();
        rc = try_enter(xr, now);
    }
    xr->waited_us += now - begun;
    return rc;
}

int xnat_gate_enter(xnat_request_t *xr)
{
    if (!xr->id.whole.n || xr->entered || xnat_child < 0) {
        return OK;
    }
    if (xr->attempts > 1) { /* else it has just come */
        xr->entered_us = xnat_now_us();
    }
    xb_enter_t rc = try_enter(xr, xr->entered_us);
    if (rc == XB_ENTER_GATE && !XB_RULE(GATE)) {
        return OK; /* control build: follows its id as if nothing moved */
    }
    if (rc == XB_ENTER_GATE) {
        if (!may_wait()) {
            return refuse(xr, "gate-crowded", &xnat_shm->gate_crowded);
        }
        xr->waited = true;
        rc = wait_at(xr);
        stop_waiting();
        xr->entered_us = xnat_now_us();
    }
    if (rc == XB_ENTER_GATE && !XB_RULE(503)) {
        return OK; /* control build: goes where its id says */
    }
    if (rc == XB_ENTER_GATE) {
        return refuse(xr, "gate-timeout", &xnat_shm->gate_timeouts);
    }
    if (rc == XB_ENTER_UNCOUNTED) {
        xnat_count(&xnat_shm->lost_claims);
    }
    xr->entered = rc == XB_ENTER_IN;
    xr->known = rc != XB_ENTER_UNKNOWN;
    return OK;
}

/* ---- a lost home */

/* The home is another balancer's member, and serves there: where the same node does not serve
 * here, requests need not wait for what the other balancer's nodes can do. */
static bool is_of_others(const xnat_request_t *xr, unsigned home)
{
    const proxy_worker *w = xnat_fleet_worker(home);
    return w && xnat_fleet_balancer(home) != xr->xb && PROXY_WORKER_IS_USABLE(w);
}

/* The mover has looked already, and found nobody to go on with. */
static bool is_in_vain(const xnat_request_t *xr, unsigned home)
{
    return (xr->rescued == home || xr->revived || xr->waited) && xr->known &&
           is_held(xr->ref.slot, home) && !is_of_others(xr, home);
}

bool xnat_gate_must_leave(const xnat_request_t *xr, unsigned home, const proxy_worker *w)
{
    return xr->known && !PROXY_WORKER_IS_USABLE(w) && !*w->s->redirect &&
           !xr->xb->balancer->s->sticky_force && is_tended(xr->xb) && !is_in_vain(xr, home) &&
           xr->rescued != home;
}

bool xnat_gate_must_rescue(const xnat_request_t *xr, unsigned home)
{
    const proxy_worker *w = worker_of(xr, home);
    if (!w || !xnat_gate_must_leave(xr, home, w)) {
        return false;
    }
    xnat_elect_recover(xr->xb->balancer, xr->r->server);
    return !PROXY_WORKER_IS_USABLE(w);
}

static void step_back(xnat_request_t *xr)
{
    if (xr->entered) {
        xb_table_withdraw(xnat_table, &xr->ref, xnat_now_us());
        xr->entered = false;
    }
}

/* Taken out of service by hand, a node lives: the mover gives requests that are under way there
 * time to end before it raises the fence. */
static bool is_lost(const proxy_worker *w)
{
    return PROXY_WORKER_IS_ERROR(w) || PROXY_WORKER_IS(w, PROXY_WORKER_HC_FAIL);
}

/* A gate that was shut for something else opens with the session where it was: then it is shut
 * again, for the rescue. Where the mover has no answer to that httpd's failover has to do. */
int xnat_gate_rescue(xnat_request_t *xr, unsigned home)
{
    int64_t end = xnat_now_us() + patience(xr);
    do {
        uint32_t slot = xr->ref.slot;
        bool fence = XB_RULE(FENCE) && is_lost(worker_of(xr, home));
        step_back(xr);
        if (shut(slot, home, XNAT_TARGET_ANY, fence) || !XB_RULE(FOUND)) {
            xr->rescued = home; /* once */
        }
        int rv = xnat_gate_enter(xr);
        if (rv != OK || !xr->known || xr->ref.home != home ||
            !xnat_gate_must_rescue(xr, home)) {
            return rv;
        }
    } while (xnat_now_us() < end);
    step_back(xr);
    return refuse(xr, "gate-timeout", &xnat_shm->gate_timeouts);
}

int xnat_gate_hold(xnat_request_t *xr, unsigned home)
{
    if (!is_in_vain(xr, home)) {
        return OK;
    }
    step_back(xr);
    return refuse(xr, "not-taken-over", &xnat_shm->gate_timeouts);
}

/* ---- an unknown session */

/* The longest that a moved marker is written for a session whose own limit is not known. */
#define FORGETFUL_US (86400 * INT64_C(1000000))

bool xnat_gate_must_look_up(const xnat_request_t *xr)
{
    int64_t now, forgot;
    if (xr->known || !xr->id.whole.n || xr->attempts > 1 || xnat_child < 0 ||
        !is_tended(xr->xb)) {
        return false;
    }
    now = xnat_now_us();
    forgot = __atomic_load_n((int64_t *)&xnat_shm->forgot_us, __ATOMIC_RELAXED);
    forgot = forgot ? forgot : xnat_shm->started_us;
    if (now - forgot > FORGETFUL_US) {
        return false;
    }
    bool may = !XB_RULE(RATE) ||
               xb_bucket_take(&xnat_shm->lookups, XB_LOOKUPS_PER_S, XB_LOOKUPS_BURST, now);
    if (!may) {
        xnat_count(&xnat_shm->not_looked_up);
    }
    return may;
}

int xnat_gate_look_up(xnat_request_t *xr)
{
    unsigned member = xnat_fleet_member_of(xr->xb, xr->id.route);
    if (member == XB_MEMBER_NONE) {
        return OK;
    }
    uint32_t slot;
    bool forgot;
    xb_insert_t rc = xb_table_insert_shut(xnat_table, xr->tag, xr->id.whole, member,
                                          XB_SESSION_PARTIAL | XB_SESSION_UNPROVEN,
                                          xnat_request_path(xr), xnat_now_us(), &slot, &forgot);
    xnat_request_forgot(xr, forgot);
    if (rc == XB_INSERT_NEW) {
        xnat_shm_want(slot);
    }
    else if (rc == XB_INSERT_FULL) { /* a gate would cost a real session its place */
        xnat_count(&xnat_shm->not_looked_up);
    }
    return rc == XB_INSERT_FULL ? OK : xnat_gate_enter(xr);
}
