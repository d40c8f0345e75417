/* SPDX-License-Identifier: Apache-2.0 */
/* The module's own policy and counters, called as src/xnat_fleet.c, xnat_elect.c, xnat_tick.c
 * and xnat_choose.c call them, on the simulator's clock. */
#include "sim.h"

#include <math.h>
#include <stdatomic.h>
#include <string.h>

#include "xb_member.h"
#include "xb_policy.h"

#define MB 1e6
#define FOLD_EVERY_US 100000
#define OVERLOAD_EVERY_US 250000
#define ACTIVE_S 60.0

static xb_members_t *members[SIM_FRONTS_MAX]; /* one front end's, one child */
static unsigned index_of[SIM_NODES_MAX];
static xb_bucket_t bucket[SIM_FRONTS_MAX];
static int64_t folded_us, overload_us;

static struct {
    double traffic, occupancy, inflight;
} published[SIM_FRONTS_MAX][SIM_NODES_MAX];
static double published_at;

typedef struct {
    xb_load_t load[SIM_NODES_MAX];
    unsigned n;
} fleet_t;

static int64_t now_us(void)
{
    return (int64_t)((sim.now + 1000) * 1e6);
}

static xb_decay_t decay(void)
{
    return (xb_decay_t){opt.half_life, opt.busy_half_life, opt.request_cost * MB};
}

void sim_module_begin(void)
{
    for (int f = 0; f < opt.fronts; f++) {
        members[f] = sim_memory(NULL, 1, xb_members_size(1));
        xb_members_init(members[f], 1);
        for (int i = 0; i < sim.nodes; i++)
            index_of[i] = xb_member_find(members[f], (uint64_t)i + 1);
    }
}

static xb_member_t *member(int front, int node)
{
    return &members[front]->member[index_of[node]];
}

void sim_module_traffic(int node, int front, double bytes)
{
    double *rest = &sim.node[node].front[front].residue;
    double whole = floor(bytes * MB + *rest);

    *rest += bytes * MB - whole;
    atomic_fetch_add(&member(front, node)->bytes_out, (uint64_t)whole);
}

void sim_module_enter(int node, int front)
{
    xb_member_enter(members[front], 0, index_of[node]);
    atomic_fetch_add(&member(front, node)->requests, 1);
}

void sim_module_leave(int node, int front, double seconds, bool click)
{
    if (click)
        xb_pace_note(&member(front, node)->pace, (int64_t)(seconds * 1e6));
    xb_member_leave(members[front], 0, index_of[node]);
}

/* It has restarted. Its figures are kept at the mean of the others while it cannot serve. */
void sim_module_join(int node)
{
    for (int f = 0; f < opt.fronts; f++)
        atomic_fetch_add(&member(f, node)->generation, 1);
}

static void add_others(int front, int node, xb_load_t *load)
{
    double keep = exp2(-(sim.now - published_at) / opt.half_life);
    double keep_busy = exp2(-(sim.now - published_at) / opt.busy_half_life);

    for (int f = 0; f < opt.fronts && opt.share; f++) {
        if (f == front)
            continue;
        load->traffic += published[f][node].traffic * keep;
        load->occupancy += published[f][node].occupancy * keep_busy +
                           published[f][node].inflight * (1 - keep_busy);
    }
}

static void snapshot(int front, fleet_t *f)
{
    bool known[SIM_NODES_MAX];
    xb_decay_t d = decay();

    f->n = (unsigned)sim.nodes;
    for (int i = 0; i < sim.nodes; i++) {
        sim_node_t *n = &sim.node[i];
        xb_load_t *load = &f->load[i];
        sim_node_advance(n);
        *load = (xb_load_t){.weight = n->weight,
                            .slow = opt.pace ? xb_pace_slow(&member(front, i)->pace) : 0,
                            .sessions = (uint32_t)n->sessions};
        load->flags = n->up ? XB_LOAD_USABLE : 0;
        load->flags |= sim_is_open(n) ? XB_LOAD_NEW : 0;
        known[i] = xb_member_read(members[front], index_of[i], &d, now_us(), &load->traffic,
                                  &load->occupancy);
        add_others(front, i, load);
    }
    xb_policy_fill_newcomers(f->load, f->n, known);
    xb_policy_score(f->load, f->n);
}

void sim_module_publish(void)
{
    xb_decay_t d = decay();

    for (int f = 0; f < opt.fronts; f++) {
        for (int i = 0; i < sim.nodes; i++) {
            double t = 0, o = 0;
            xb_member_read(members[f], index_of[i], &d, now_us(), &t, &o);
            published[f][i].traffic = t;
            published[f][i].occupancy = o;
            published[f][i].inflight = xb_member_busy(members[f], index_of[i]);
        }
    }
    published_at = sim.now;
}

static void fold(int front)
{
    fleet_t f;
    xb_decay_t d = decay();

    snapshot(front, &f);
    xb_member_fold_fleet(members[front], index_of, f.load, f.n, &d, now_us());
}

int sim_module_elect(int front)
{
    fleet_t f;
    int best = -1;

    snapshot(front, &f);
    for (unsigned i = 0; i < f.n; i++) {
        if (f.load[i].flags & XB_LOAD_NEW &&
            (best < 0 || xb_policy_better(f.load, i, (unsigned)best) < 0))
            best = (int)i;
    }
    if (best >= 0) {
        xb_worth_t mean = xb_policy_mean_worth(f.load, f.n);
        xb_member_credit(members[front], index_of[best], mean.bytes, mean.requests);
    }
    return best;
}

static void visited_of(const sim_session_t *s, bool *visited)
{
    for (int i = 0; i < sim.nodes; i++)
        visited[i] = opt.real && s->visited >> i & 1;
}

int sim_module_fail_over(sim_session_t *s, int front)
{
    fleet_t f;
    bool visited[SIM_NODES_MAX], none[SIM_NODES_MAX] = {false};
    unsigned left;

    snapshot(front, &f);
    visited_of(s, visited);
    int to = xb_policy_target(f.load, f.n, (unsigned)s->node, visited, &left);
    return to >= 0 ? to : xb_policy_target(f.load, f.n, (unsigned)s->node, none, &left);
}

static double own_traffic(const sim_session_t *s)
{
    return s->traffic * MB * exp2(-(sim.now - s->traffic_at) / opt.half_life);
}

void sim_module_rebound(sim_session_t *s, int from, int to, int front)
{
    fleet_t f;

    if (from < 0 || from == to)
        return;
    snapshot(front, &f);
    xb_worth_t worth = xb_policy_mean_worth(f.load, f.n);
    if (sim.node[from].up && own_traffic(s) >= 1)
        worth = xb_policy_own_worth(&f.load[from], own_traffic(s));
    xb_member_credit(members[front], index_of[from], -worth.bytes, -worth.requests);
    xb_member_credit(members[front], index_of[to], worth.bytes, worth.requests);
}

/* ---- moves: xnat_choose.c */

static bool is_quiet(const sim_session_t *s)
{
    return s->live && !s->gated && s->inflight == 0 && sim.now - s->last_at >= opt.grace &&
           sim.now - s->last_at <= ACTIVE_S;
}

static void drain(int node, int front)
{
    for (int id = sim.node[node].first, next; id >= 0; id = next) {
        sim_session_t *s = &sim.session[id];
        bool visited[SIM_NODES_MAX];
        unsigned left;
        fleet_t f;
        next = s->next;
        if (!is_quiet(s))
            continue;
        snapshot(front, &f);
        visited_of(s, visited);
        int to = xb_policy_target(f.load, f.n, (unsigned)node, visited, &left);
        if (to >= 0)
            sim_move(id, to, front, true);
    }
}

/* The last node where a session has not been is kept, unless copies are released. */
static int overload_target(const fleet_t *f, unsigned from, const sim_session_t *s)
{
    bool visited[SIM_NODES_MAX];
    unsigned left;

    visited_of(s, visited);
    int to = xb_policy_target(f->load, f->n, from, visited, &left);
    return left == 0 && opt.real && !opt.release ? -1 : to;
}

static void relieve(int front)
{
    xb_policy_t p = {opt.threshold, opt.min_occupancy};
    xb_choice_t choice = {0};
    fleet_t f;
    unsigned from, to;
    int best = -1, best_to = -1;

    snapshot(front, &f);
    for (unsigned i = 0; i < f.n; i++)
        f.load[i].sessions *= !sim.node[i].draining;
    if (!xb_policy_overload(f.load, f.n, &p, &from, &to))
        return;
    for (int id = sim.node[from].first; id >= 0; id = sim.session[id].next) {
        const sim_session_t *s = &sim.session[id];
        if (s->requests < 2 || !is_quiet(s) || sim.now - s->moved_at < opt.rest)
            continue;
        int target = overload_target(&f, from, s);
        if (target >= 0 &&
            xb_policy_choose(f.load, &p, from, (unsigned)target, own_traffic(s), &choice)) {
            best = id;
            best_to = target;
        }
    }
    double burst = fmax(1, opt.burst / opt.fronts);
    if (best >= 0 && xb_bucket_take(&bucket[front], opt.rate / opt.fronts, burst, now_us()))
        sim_move(best, best_to, front, true);
}

void sim_module_tick(void)
{
    int64_t now = now_us();
    bool fold_now = now - folded_us >= FOLD_EVERY_US;
    bool relieve_now = now - overload_us >= OVERLOAD_EVERY_US;

    for (int f = 0; f < opt.fronts; f++) {
        if (fold_now)
            fold(f);
        for (int i = 0; i < sim.nodes && opt.moves > 0; i++) {
            if (sim.node[i].up && sim.node[i].draining)
                drain(i, f);
        }
        if (relieve_now && opt.moves > 1)
            relieve(f);
    }
    folded_us = fold_now ? now : folded_us;
    overload_us = relieve_now ? now : overload_us;
}
