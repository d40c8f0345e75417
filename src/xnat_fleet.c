/* SPDX-License-Identifier: Apache-2.0 */
/* Snapshot of a balancer's members for the policy; workers' shared records. */
#include "xnat_fleet.h"

#include "mod_xnat_balance.h"
#include "xb_rule.h"
#include "xnat_log.h"

uint64_t xnat_fleet_key(const proxy_balancer *b)
{
    return xb_hash(&xnat_shm->key, b->s->sname, strlen(b->s->sname));
}

xnat_fleet_met_t xnat_fleet_met[XB_MEMBERS_MAX];

xnat_balancer_t *xnat_fleet_balancer(unsigned member)
{
    return xnat_fleet_worker(member) ? xnat_fleet_met[member].balancer : NULL;
}

/* Once in the life of the segment, so it does not matter that httpd's lock is held. */
static void tell_full(const proxy_balancer *b, const proxy_worker *w)
{
    const xnat_balancer_t *xb = b->context;
    if (xb && xnat_shm_may_tell(&xnat_shm->full_logged_us, INT64_MAX)) {
        xnat_log_server(
            APLOG_WARNING, 0, xb->server, XB(0106),
            "%s: no record is left for %s: it gets its share of new sessions, which "
            "do not move (told once); stop and start httpd to be rid of members "
            "that have left the configuration",
            b->s->name, w->s->name);
    }
}

/* Keyed by names, never by httpd's slot, which changes with configurations. */
unsigned xnat_fleet_meet(proxy_balancer *b, proxy_worker *w)
{
    struct {
        uint64_t balancer;
        uint32_t def, fnv;
    } id = {xnat_fleet_key(b), w->s->hash.def, w->s->hash.fnv};
    unsigned member = xb_member_find(xnat_members, xb_hash(&xnat_shm->key, &id, sizeof id) | 1);
    if (member == XB_MEMBER_NONE) {
        tell_full(b, w);
        return member;
    }
    memcpy(xnat_shm->route[member].route, w->s->route, sizeof w->s->route);
    xnat_shm->route[member].balancer = id.balancer;
    xnat_fleet_met[member].balancer = b->context;
    __atomic_store_n(&xnat_fleet_met[member].worker, w, __ATOMIC_RELEASE);
    __atomic_store_n(&w->context, (void *)(uintptr_t)(member + 1), __ATOMIC_RELAXED);
    return member;
}

unsigned xnat_fleet_member_of(xnat_balancer_t *xb, xb_span_t route)
{
    proxy_balancer *b = xb->balancer;
    unsigned member = XB_MEMBER_NONE;
    PROXY_THREAD_LOCK(b);
    proxy_worker **w = (proxy_worker **)b->workers->elts;
    for (int i = 0; i < b->workers->nelts && member == XB_MEMBER_NONE; i++) {
        if (strlen(w[i]->s->route) == route.n && !memcmp(w[i]->s->route, route.p, route.n)) {
            member = xnat_fleet_member(b, w[i]);
        }
    }
    PROXY_THREAD_UNLOCK(b);
    return member;
}

static void copy_workers(proxy_balancer *b, xnat_fleet_t *out)
{
    proxy_worker **w = (proxy_worker **)b->workers->elts;
    out->n = 0;
    for (int i = 0; i < b->workers->nelts && out->n < XNAT_FLEET_MAX; i++) {
        unsigned member = xnat_fleet_member(b, w[i]);
        if (member != XB_MEMBER_NONE) {
            out->worker[out->n] = w[i];
            out->member[out->n++] = member;
        }
    }
}

static bool is_open(const proxy_worker *w)
{
    return PROXY_WORKER_IS_USABLE(w) && !PROXY_WORKER_IS_DRAINING(w);
}

/* Marks who may take new sessions in one lbset as httpd's own election would: plain members; as
 * many spares as plain members are out; standbys if there is nobody else. True if anybody may.
 */
static bool open_lbset(xnat_fleet_t *f, int lbset)
{
    unsigned out_of_service = 0, chosen = 0;
    for (unsigned i = 0; i < f->n; i++) {
        const proxy_worker *w = f->worker[i];
        if (w->s->lbset != lbset || PROXY_WORKER_IS_STANDBY(w) || PROXY_WORKER_IS_SPARE(w)) {
            continue;
        }
        if (is_open(w)) {
            f->load[i].flags |= XB_LOAD_NEW;
            chosen++;
        }
        else {
            out_of_service++;
        }
    }
    for (int standby = 0; standby <= 1; standby++) {
        for (unsigned i = 0; i < f->n; i++) {
            const proxy_worker *w = f->worker[i];
            bool kind = standby ? PROXY_WORKER_IS_STANDBY(w) && chosen == 0
                                : PROXY_WORKER_IS_SPARE(w) && out_of_service > 0;
            if (kind && w->s->lbset == lbset && is_open(w)) {
                f->load[i].flags |= XB_LOAD_NEW;
                out_of_service -= standby ? 0 : 1;
                chosen += standby ? 0 : 1;
            }
        }
    }
    for (unsigned i = 0; i < f->n; i++) {
        if (f->worker[i]->s->lbset == lbset && f->load[i].flags & XB_LOAD_NEW) {
            return true;
        }
    }
    return false;
}

static void open_lowest_lbset(xnat_fleet_t *f)
{
    for (int lbset = 0, next; lbset >= 0; lbset = next) {
        if (open_lbset(f, lbset)) {
            return;
        }
        next = -1;
        for (unsigned i = 0; i < f->n; i++) {
            int set = f->worker[i]->s->lbset;
            if (set > lbset && (next < 0 || set < next)) {
                next = set;
            }
        }
    }
}

void xnat_fleet_snapshot(xnat_balancer_t *xb, bool locked, int64_t now_us, xnat_fleet_t *out)
{
    bool known[XNAT_FLEET_MAX];
    out->keeps_copies = xnat_keeps_copies(xb);
    if (locked) {
        copy_workers(xb->balancer, out);
    }
    else {
        PROXY_THREAD_LOCK(xb->balancer);
        copy_workers(xb->balancer, out);
        PROXY_THREAD_UNLOCK(xb->balancer);
    }
    for (unsigned i = 0; i < out->n; i++) {
        xb_load_t *load = &out->load[i];
        *load = (xb_load_t){
            .slow = xb_pace_slow(&xnat_members->member[out->member[i]].pace),
            .weight = out->worker[i]->s->lbfactor > 0 ? out->worker[i]->s->lbfactor : 1};
        load->flags = PROXY_WORKER_IS_USABLE(out->worker[i]) ? XB_LOAD_USABLE : 0;
        load->sessions = __atomic_load_n(
            (uint32_t *)&xnat_members->member[out->member[i]].sessions, __ATOMIC_RELAXED);
        known[i] = xb_member_read(xnat_members, out->member[i], &xb->decay, now_us,
                                  &load->traffic, &load->occupancy);
    }
    open_lowest_lbset(out);
    xb_policy_fill_newcomers(out->load, out->n, known);
    xb_policy_score(out->load, out->n);
}

xb_worth_t xnat_fleet_worth(const xnat_balancer_t *xb, const xnat_fleet_t *f)
{
    xb_worth_t mean = xb_policy_mean_worth(f->load, f->n);
    mean.bytes = mean.bytes > 0 ? mean.bytes : xb->decay.request_cost;
    return mean;
}

int xnat_fleet_position(const xnat_fleet_t *f, unsigned member)
{
    for (unsigned i = 0; i < f->n; i++) {
        if (f->member[i] == member) {
            return (int)i;
        }
    }
    for (unsigned i = 0; member < XB_MEMBERS_MAX && i < f->n; i++) {
        const char *route = xnat_shm->route[member].route;
        if (*route && !strcmp(route, f->worker[i]->s->route)) {
            return (int)i;
        }
    }
    return -1;
}

int64_t xnat_fleet_reborn_us(unsigned member)
{
    return member < XB_MEMBERS_MAX
               ? __atomic_load_n((int64_t *)&xnat_members->member[member].reborn_us,
                                 __ATOMIC_RELAXED)
               : 0;
}

void xnat_fleet_visited(const xnat_fleet_t *f, const xb_view_t *v, int64_t now_us,
                        bool *visited)
{
    memset(visited, 0, sizeof(bool) * XNAT_FLEET_MAX);
    for (unsigned i = 0; f->keeps_copies && i < v->visited_count && XB_RULE(VISITED); i++) {
        unsigned member = v->visited[i].member;
        int64_t touched = v->visited[i].touched_us;
        int at = xnat_fleet_position(f, member);
        if (at >= 0 && touched >= xnat_fleet_reborn_us(member) &&
            !xb_table_copy_died(v->max_inactive_s, touched, now_us)) {
            visited[at] = true;
        }
    }
}
