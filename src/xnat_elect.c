/* SPDX-License-Identifier: Apache-2.0 */
/* Election of new homes and failover, through httpd's own choice of who is eligible. */
#include "xnat_elect.h"

#include "mod_xnat_balance.h"
#include "xb_rule.h"
#include "xnat_fleet.h"
#include "xnat_gate.h"

#define FAIR_SCORE 1

typedef struct {
    const xnat_fleet_t *fleet;
    const bool *barred; /* by position; NULL: nobody */
} ballot_t;

static int position_of(const xnat_fleet_t *f, const proxy_worker *w)
{
    for (unsigned i = 0; i < f->n; i++) {
        if (f->worker[i] == w) {
            return (int)i;
        }
    }
    return -1;
}

/* A member that the snapshot has no room or no record for carries its fair share, as far as is
 * known; of two such the less chosen one is better. */
static int is_better(proxy_worker *current, proxy_worker *best, void *baton)
{
    const ballot_t *ballot = baton;
    const xb_load_t *load = ballot->fleet->load;
    int i = position_of(ballot->fleet, current);
    int j = best ? position_of(ballot->fleet, best) : -1;
    if (i >= 0 && ballot->barred && ballot->barred[i]) {
        return 0;
    }
    if (!best) {
        return 1;
    }
    if (i >= 0 && j >= 0) {
        return xb_policy_better(load, (unsigned)i, (unsigned)j) < 0;
    }
    return i >= 0   ? load[i].score < FAIR_SCORE
           : j >= 0 ? load[j].score > FAIR_SCORE
                    : current->s->elected < best->s->elected;
}

static proxy_worker *elect(proxy_balancer *b, request_rec *r, const xnat_fleet_t *fleet,
                           const bool *barred)
{
    ballot_t ballot = {fleet, barred};
    return ap_proxy_balancer_get_best_worker(b, r, is_better, &ballot);
}

bool xnat_elect_is_usable(proxy_worker *w, server_rec *s)
{
    static APR_OPTIONAL_FN_TYPE(ap_proxy_retry_worker) * retry;
    if (!retry) {
        retry = APR_RETRIEVE_OPTIONAL_FN(ap_proxy_retry_worker);
    }
    if (!PROXY_WORKER_IS_USABLE(w) && retry) {
        retry("BALANCER", w, s); /* its error state may have run out */
    }
    return PROXY_WORKER_IS_USABLE(w);
}

/* Both called under the balancer's lock. */
static bool are_all_in_error(const proxy_balancer *b)
{
    proxy_worker **w = (proxy_worker **)b->workers->elts;
    int i = 0;
    while (i < b->workers->nelts && PROXY_WORKER_IS_ERROR(w[i])) {
        i++;
    }
    return i == b->workers->nelts;
}

static void try_all_again(proxy_balancer *b, server_rec *s)
{
    proxy_worker **w = (proxy_worker **)b->workers->elts;
    for (int i = 0; i < b->workers->nelts; i++) {
        xnat_elect_is_usable(w[i], s);
    }
    bool force = b->s->forcerecovery && are_all_in_error(b);
    for (int i = 0; force && i < b->workers->nelts; i++) {
        w[i]->s->retries++;
        w[i]->s->status &= ~PROXY_WORKER_IN_ERROR;
    }
}

void xnat_elect_recover(proxy_balancer *b, server_rec *s)
{
    PROXY_THREAD_LOCK(b);
    if (are_all_in_error(b)) {
        try_all_again(b, s);
    }
    PROXY_THREAD_UNLOCK(b);
}

/* Who serves a route, as stock code would look for it: its member, else its hot standby. */
static proxy_worker *usable_of_route(const xnat_fleet_t *fleet, const char *route,
                                     server_rec *s)
{
    for (int standby = 0; standby <= 1 && *route; standby++) {
        for (unsigned i = 0; i < fleet->n; i++) {
            proxy_worker *w = fleet->worker[i];
            if (!strcmp(w->s->route, route) && !PROXY_WORKER_IS_STANDBY(w) == !standby &&
                xnat_elect_is_usable(w, s)) {
                return w;
            }
        }
    }
    return NULL;
}

/* The planned home, its standby, or where the administrator redirects its sessions. NULL: none
 * of them can serve. */
static proxy_worker *planned(const xnat_request_t *xr, const xnat_fleet_t *fleet)
{
    int i = xnat_fleet_position(fleet, xr->plan);
    if (i < 0 || xnat_elect_is_usable(fleet->worker[i], xr->r->server)) {
        return i < 0 ? NULL : fleet->worker[i];
    }
    const proxy_worker_shared *home = fleet->worker[i]->s;
    proxy_worker *w = usable_of_route(fleet, home->route, xr->r->server);
    return w ? w : usable_of_route(fleet, home->redirect, xr->r->server);
}

/* The home cannot serve: the best node that the session has not been at, else the best.
 * Requests of one session that fail over at once agree by the table's word. */
static proxy_worker *fail_over(xnat_request_t *xr, const xnat_fleet_t *fleet)
{
    bool barred[XNAT_FLEET_MAX] = {false};
    xb_view_t view;
    if (!xb_table_view(xnat_table, xr->ref.slot, &view)) {
        return elect(xr->xb->balancer, xr->r, fleet, NULL);
    }
    xnat_fleet_visited(fleet, &view, xnat_now_us(), barred);
    int at = xnat_fleet_position(fleet, view.w.home), before;
    if (view.w.home != xr->home && at >= 0 && PROXY_WORKER_IS_USABLE(fleet->worker[at])) {
        return fleet->worker[at]; /* another request was quicker */
    }
    before = xnat_fleet_position(fleet, xr->stand_in);
    proxy_worker *w = before >= 0 && PROXY_WORKER_IS_USABLE(fleet->worker[before])
                          ? fleet->worker[before] /* it has tried its own node in vain */
                          : elect(xr->xb->balancer, xr->r, fleet, barred);
    w = w ? w : elect(xr->xb->balancer, xr->r, fleet, NULL);
    unsigned member = w ? xnat_fleet_member(xr->xb->balancer, w) : XB_MEMBER_NONE;
    if (member != XB_MEMBER_NONE && xr->entered) {
        unsigned now_at =
            xb_table_rehome(xnat_table, xr->ref.slot, view.w.home, member, xnat_now_us());
        at = xnat_fleet_position(fleet, now_at);
        w = at >= 0 && PROXY_WORKER_IS_USABLE(fleet->worker[at]) ? fleet->worker[at] : w;
    }
    return w;
}

static bool has_been_at(const xb_view_t *v, unsigned member)
{
    unsigned i = 0;
    while (i < v->visited_count && v->visited[i].member != member) {
        i++;
    }
    return i < v->visited_count;
}

/* A stand-in is left only by a request that is alone, so that all that are under way at once
 * are at one node. */
unsigned xnat_elect_return(xnat_request_t *xr, unsigned home)
{
    char text[XB_ID_MAX + 1];
    xb_id_t id;
    xb_view_t v;
    if (!xr->entered || xr->attempts > 1 || home >= XB_MEMBERS_MAX || xnat_moves(xr->xb) ||
        (xr->xb->conf.nodes && !xnat_keeps_copies(xr->xb)) ||
        xb_id_names_route(&xr->id, xnat_shm->route[home].route) ||
        xnat_shm->route[home].balancer != xnat_fleet_key(xr->xb->balancer) ||
        !xb_table_view(xnat_table, xr->ref.slot, &v) || v.w.inflight != 1 || v.w.home != home ||
        !xb_table_newest(xnat_table, xr->ref.slot, text) ||
        !xb_id_parse((xb_span_t){text, strlen(text)}, xr->xb->balancer->s->sticky_separator,
                     &id) ||
        !id.route.n || xb_id_names_route(&id, xnat_shm->route[home].route)) {
        return home;
    }
    unsigned own = xnat_fleet_member_of(xr->xb, id.route);
    proxy_worker *w = xnat_fleet_worker(own);
    if (!w || !has_been_at(&v, own) || !xnat_elect_is_usable(w, xr->r->server) ||
        !xb_table_return(xnat_table, xr->ref.slot, v.word, own, xnat_now_us())) {
        return home;
    }
    xr->stand_in = home;
    xr->ref.home = (uint16_t)own;
    return own;
}

/* The session lives behind another balancer, whose cookie this one sees too: its home is not
 * ours to choose. A home that was a member here and is no longer is no foreigner. */
static bool is_foreign(const xnat_request_t *xr, const xnat_fleet_t *fleet, unsigned home)
{
    return home < XB_MEMBERS_MAX && xnat_fleet_position(fleet, home) < 0 &&
           xnat_shm->route[home].balancer != xnat_fleet_key(xr->xb->balancer);
}

/* What stock code would have done with the id, had it not been hidden. NULL: 503. */
static proxy_worker *as_stock(const xnat_request_t *xr, const xnat_fleet_t *fleet)
{
    for (unsigned i = 0; i < fleet->n; i++) {
        const proxy_worker_shared *named = fleet->worker[i]->s;
        if (xb_id_names_route(&xr->id, named->route)) {
            proxy_worker *w = usable_of_route(fleet, named->route, xr->r->server);
            w = w ? w : usable_of_route(fleet, named->redirect, xr->r->server);
            if (w || xr->xb->balancer->s->sticky_force) {
                return w;
            }
            break;
        }
    }
    return elect(xr->xb->balancer, xr->r, fleet, NULL);
}

/* The table does not know the session, and its route cannot be followed. If that is a member's,
 * the session's requests must agree from now on where it goes on. */
static proxy_worker *elect_unknown(xnat_request_t *xr, const xnat_fleet_t *fleet)
{
    proxy_worker *w = elect(xr->xb->balancer, xr->r, fleet, NULL);
    unsigned at = 0;
    if (!w || !xr->id.whole.n) {
        return w;
    }
    while (at < fleet->n && !xb_id_names_route(&xr->id, fleet->worker[at]->s->route)) {
        at++;
    }
    if (at == fleet->n) {
        xnat_request_say(xr, XB_ELECTED, "unknown-route", NULL, NULL);
        return w;
    }
    unsigned member = xnat_fleet_member(xr->xb->balancer, w);
    if (member != XB_MEMBER_NONE) {
        xnat_request_remember(xr, member);
    }
    if (!xr->entered) {
        return w;
    }
    xb_table_visit(xnat_table, xr->ref.slot, fleet->member[at], xnat_now_us());
    int home = xnat_fleet_position(fleet, xr->ref.home);
    xr->home = fleet->member[at];
    return home >= 0 && PROXY_WORKER_IS_USABLE(fleet->worker[home]) ? fleet->worker[home] : w;
}

/* Without shared memory of ours. */
static int has_fewer(proxy_worker *current, proxy_worker *best, void *baton)
{
    (void)baton;
    return !best || current->s->elected * (apr_size_t)best->s->lbfactor <
                        best->s->elected * (apr_size_t)current->s->lbfactor;
}

/* The home could serve when this request was let through to it, and cannot any more; its
 * session may even have been taken over since. The rescue, or the new home's gate, must not be
 * waited for here, under the balancer's lock: httpd finds that the home cannot serve, and comes
 * back (by stock code's ways, which mark a home in error that was only disabled in this
 * moment). Or the home serves again. */
static proxy_worker *lost_meanwhile(const xnat_request_t *xr, const xnat_fleet_t *fleet)
{
    int at = xnat_fleet_position(fleet, xr->home);
    if (at < 0 || !XB_RULE(AGAIN)) {
        return NULL;
    }
    proxy_worker *w = fleet->worker[at];
    bool moved = xr->entered && !xb_table_current(xnat_table, &xr->ref);
    if (PROXY_WORKER_IS_USABLE(w)) {
        return moved ? NULL : w;
    }
    return moved || xnat_gate_must_leave(xr, xr->home, w) ? w : NULL;
}

proxy_worker *xnat_request_finder(proxy_balancer *balancer, request_rec *r)
{
    xnat_request_t *xr = xnat_request_of(r);
    xnat_balancer_t *xb = balancer->context;
    xnat_fleet_t fleet;
    if (!xb || !xnat_shm) {
        return ap_proxy_balancer_get_best_worker(balancer, r, has_fewer, NULL);
    }
    xnat_fleet_snapshot(xb, true, xnat_now_us(), &fleet);
    if (!xr) {
        return elect(balancer, r, &fleet, NULL);
    }
    xnat_wrap_restore(xr);
    if (xr->known && is_foreign(xr, &fleet, xnat_elect_home(xr))) {
        xr->foreign = true;
        xnat_request_say(xr, XB_ELECTED, "unknown-route", NULL, NULL);
        return as_stock(xr, &fleet);
    }
    if (xr->plan != XB_MEMBER_NONE) {
        proxy_worker *w = planned(xr, &fleet);
        if (w || balancer->s->sticky_force) {
            return w;
        }
    }
    if (xr->known) {
        proxy_worker *w = lost_meanwhile(xr, &fleet);
        return w ? w : fail_over(xr, &fleet);
    }
    xr->credit = xb_policy_mean_worth(fleet.load, fleet.n);
    return elect_unknown(xr, &fleet);
}

unsigned xnat_elect_home(const xnat_request_t *xr)
{
    unsigned home = xb_table_home(xnat_table, xr->ref.slot);
    return home == XB_MEMBER_NONE ? xr->ref.home : home;
}

/* It was a member of this balancer, before a restart. A process meets all that are by a
 * snapshot of the fleet, and needs one only once. */
static bool is_gone(const xnat_request_t *xr, unsigned home)
{
    xnat_fleet_t fleet;
    if (xnat_fleet_worker(home) ||
        xnat_shm->route[home].balancer != xnat_fleet_key(xr->xb->balancer)) {
        return false;
    }
    xnat_fleet_snapshot(xr->xb, false, xnat_now_us(), &fleet);
    return !xnat_fleet_worker(home);
}

void xnat_elect_settle(xnat_request_t *xr, unsigned member)
{
    unsigned home = xnat_elect_home(xr);
    if (xr->foreign) {
        return;
    }
    if (home == member) {
        if (xr->decision == XB_STAYED && xr->home != member) {
            xnat_request_say(xr, XB_FAILOVER, "home-unusable", xnat_shm->route[xr->home].route,
                             xnat_shm->route[member].route);
            xnat_count(&xnat_members->member[member].failed_over);
        }
        return;
    }
    /* The same node may be a member of two balancers under one route: that is no change, unless
     * it was this one's, by another address that is none of its members any more. */
    if (home < XB_MEMBERS_MAX &&
        !strcmp(xnat_shm->route[home].route, xnat_shm->route[member].route)) {
        if (is_gone(xr, home)) {
            xb_table_rehome(xnat_table, xr->ref.slot, home, member, xnat_now_us());
        }
        return;
    }
    if (member == xr->home) {
        /* It was on its way when another request failed over: that one's choice holds. */
        xb_table_visit(xnat_table, xr->ref.slot, member, xnat_now_us());
        return;
    }
    xb_table_rehome(xnat_table, xr->ref.slot, xr->home, member, xnat_now_us());
    xb_table_visit(xnat_table, xr->ref.slot, member, xnat_now_us());
    xnat_request_say(xr, XB_FAILOVER, "home-unusable",
                     home < XB_MEMBERS_MAX ? xnat_shm->route[home].route : NULL,
                     xnat_shm->route[member].route);
    xnat_count(&xnat_members->member[member].failed_over);
}

void xnat_elect_credit(xnat_request_t *xr, unsigned member)
{
    xnat_count(&xnat_members->member[member].elected);
    xb_member_credit(xnat_members, member, xr->credit.bytes, xr->credit.requests);
}
