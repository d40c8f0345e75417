/* SPDX-License-Identifier: Apache-2.0 */
/* Stock balancing, the bounds, and the recommended policy as it was found: an implementation
 * that shares nothing with the module. What is the module's goes to sim_module.c. */
#include "sim.h"

#include <math.h>

#define BETA 2.0
#define OFFSET 1.0
#define HYSTERESIS 0.2
#define REST_S 60.0
#define RATE 2.0
#define MOVES_AT_ONCE 10.0
#define OCCUPIED 2.0

#define LN2 0.693147180559945309417

static struct {
    sim_counters_t node[SIM_NODES_MAX];
} published[SIM_FRONTS_MAX];
static double published_at;
static double tokens[SIM_FRONTS_MAX], tokens_at[SIM_FRONTS_MAX];

static bool is_scored(void)
{
    return opt.policy == SIM_STICKY || opt.policy == SIM_RECOMMENDED;
}

void sim_policy_begin(void)
{
    for (int f = 0; f < opt.fronts; f++)
        tokens[f] = fmax(1, MOVES_AT_ONCE / opt.fronts);
    if (opt.policy == SIM_MODULE)
        sim_module_begin();
}

void sim_policy_traffic(int node, int front, double bytes)
{
    sim_module_traffic(node, front, bytes);
}

void sim_policy_enter(int node, int front)
{
    if (opt.policy == SIM_MODULE)
        sim_module_enter(node, front);
}

void sim_policy_leave(int node, int front, double seconds, bool click)
{
    if (opt.policy == SIM_MODULE)
        sim_module_leave(node, front, seconds, click);
}

void sim_policy_publish(void)
{
    for (int f = 0; f < opt.fronts; f++) {
        for (int i = 0; i < sim.nodes; i++)
            published[f].node[i] = sim.node[i].front[f];
    }
    published_at = sim.now;
    if (opt.policy == SIM_MODULE)
        sim_module_publish();
}

/* A node that joins starts at the fleet's mean. */
void sim_policy_join(int node)
{
    if (opt.policy == SIM_MODULE)
        sim_module_join(node);
    if (!is_scored() && opt.policy != SIM_ANYWHERE)
        return;
    for (int f = 0; f < opt.fronts; f++) {
        double weight = 0, traffic = 0, occupancy = 0;
        for (int i = 0; i < sim.nodes; i++) {
            sim_node_t *n = &sim.node[i];
            if (i == node || !sim_is_open(n))
                continue;
            sim_node_advance(n);
            weight += n->weight;
            traffic += n->front[f].bytes + opt.request_cost * n->front[f].requests;
            occupancy += n->front[f].occupancy;
        }
        sim_counters_t *c = &sim.node[node].front[f];
        c->bytes = traffic / weight * sim.node[node].weight;
        c->requests = 0;
        c->occupancy = occupancy / weight * sim.node[node].weight;
    }
}

/* ---- the recommended score */

typedef struct {
    double traffic, occupancy;
} view_t;

/* What a front end knows of a node: its own counters fresh, the others' as published. */
static view_t view_of(int front, int node)
{
    view_t v = {0, 0};
    double keep = exp(-LN2 / 60 * (sim.now - published_at));
    double keep_busy = exp(-LN2 / 10 * (sim.now - published_at));

    sim_node_advance(&sim.node[node]);
    for (int f = 0; f < opt.fronts; f++) {
        const sim_counters_t *c = &sim.node[node].front[f];
        if (f == front || opt.publish <= 0) {
            v.traffic += c->bytes + opt.request_cost * c->requests;
            v.occupancy += c->occupancy;
        }
        else if (opt.share) {
            c = &published[f].node[node];
            int n = c->inflight[0] + c->inflight[1];
            v.traffic += (c->bytes + opt.request_cost * c->requests) * keep;
            v.occupancy += c->occupancy * keep_busy + n * (1 - keep_busy);
        }
    }
    return v;
}

static double mean_traffic; /* per weight, of the last scores */

static void recommended_scores(int front, double *score)
{
    view_t v[SIM_NODES_MAX];
    double weight = 0, traffic = 0, occupancy = 0;

    for (int i = 0; i < sim.nodes; i++) {
        if (!sim_is_open(&sim.node[i]))
            continue;
        v[i] = view_of(front, i);
        v[i].traffic = fmax(v[i].traffic, 0);
        v[i].occupancy += OFFSET;
        weight += sim.node[i].weight;
        traffic += v[i].traffic;
        occupancy += v[i].occupancy;
    }
    mean_traffic = fmax(traffic / weight, 1e-6);
    for (int i = 0; i < sim.nodes; i++) {
        double w = sim.node[i].weight;
        score[i] = SIM_NEVER;
        if (sim_is_open(&sim.node[i]))
            score[i] = v[i].traffic / w / mean_traffic +
                       BETA * (v[i].occupancy / w / fmax(occupancy / weight, 1e-9));
    }
}

static void scores(int front, double *score)
{
    if (is_scored()) {
        recommended_scores(front, score);
        return;
    }
    for (int i = 0; i < sim.nodes; i++) {
        sim_node_t *n = &sim.node[i];
        sim_counters_t *c = &n->front[front];
        score[i] = SIM_NEVER;
        if (!sim_is_open(n))
            continue;
        sim_node_advance(n);
        if (opt.policy == SIM_BYTRAFFIC)
            score[i] = c->total / n->weight;
        else if (opt.policy == SIM_BYBUSYNESS)
            score[i] = c->inflight[0] + c->inflight[1] - 1e-6 * c->status;
        else if (opt.policy == SIM_BYREQUESTS)
            score[i] = -c->status;
        else {
            double demand = n->inflight[0] * opt.click_cap + n->inflight[1] * opt.transfer_cap;
            score[i] = (demand + opt.click_cap) / (n->capacity * n->speed);
        }
    }
}

static int best_of(const double *score)
{
    int best = -1;

    for (int i = 0; i < sim.nodes; i++) {
        if (score[i] < SIM_NEVER && (best < 0 || score[i] < score[best]))
            best = i;
    }
    return best;
}

int sim_policy_elect(int front)
{
    double score[SIM_NODES_MAX];

    if (opt.policy == SIM_MODULE)
        return sim_module_elect(front);
    scores(front, score);
    return best_of(score);
}

int sim_policy_fail_over(sim_session_t *s, int front)
{
    bool stays =
        sim.node[s->node].up && (opt.policy != SIM_RECOMMENDED && opt.policy != SIM_ANYWHERE);

    if (opt.policy == SIM_MODULE)
        return sim.node[s->node].up ? -1 : sim_module_fail_over(s, front);
    return stays ? -1 : sim_policy_elect(front);
}

static bool take_token(int front)
{
    double most = fmax(1, MOVES_AT_ONCE / opt.fronts);

    tokens[front] =
        fmin(most, tokens[front] + RATE / opt.fronts * (sim.now - tokens_at[front]));
    tokens_at[front] = sim.now;
    if (tokens[front] < 1)
        return false;
    tokens[front] -= 1;
    return true;
}

/* The rules of real moves hold for whoever moves sessions of MSM. */
static bool may_go(const sim_session_t *s, int to)
{
    int left = 0;

    if (!opt.real)
        return true;
    if (s->inflight || s->requests < 2 || s->visited >> to & 1)
        return false;
    for (int i = 0; i < sim.nodes; i++)
        left += i != to && !(s->visited >> i & 1) && sim_is_open(&sim.node[i]);
    return left > 0 || opt.release;
}

int sim_policy_before(sim_session_t *s, int front)
{
    double score[SIM_NODES_MAX];
    int i = s->node;

    if (opt.policy == SIM_ANYWHERE) {
        scores(front, score);
        int b = best_of(score);
        return b != i && score[b] < score[i] ? b : -1;
    }
    if (opt.policy != SIM_RECOMMENDED || !(sim.now - s->moved_at > REST_S))
        return -1;
    scores(front, score);
    int b = best_of(score);
    if (b == i || view_of(front, i).occupancy < OCCUPIED ||
        !(score[i] - score[b] > HYSTERESIS * (1 + BETA)) || !may_go(s, b))
        return -1;
    double x = sim_session_traffic(s);
    if (!(score[b] + x / sim.node[b].weight / mean_traffic <
          score[i] - x / sim.node[i].weight / mean_traffic))
        return -1;
    return take_token(front) ? b : -1;
}

/* from -2: a new session; -1: a request of it goes to its home; else it moves. */
void sim_policy_rebound(sim_session_t *s, int from, int to, int front)
{
    if (opt.policy == SIM_MODULE) {
        sim_module_rebound(s, from, to, front);
        return;
    }
    if (opt.policy == SIM_POOL || from == to)
        return;
    if (from == -1) { /* httpd counts requests of known sessions as well */
        double sum = 0;
        for (int i = 0; i < sim.nodes; i++) {
            sim_node_t *n = &sim.node[i];
            n->front[front].status += sim_is_open(n) ? n->weight : 0;
            sum += sim_is_open(n) ? n->weight : 0;
        }
        sim.node[to].front[front].status -= sum;
    }
    else if (from == -2 && is_scored()) { /* what a session is worth counts at once */
        double traffic = 0, sessions = 0;
        for (int i = 0; i < sim.nodes; i++) {
            if (sim_is_open(&sim.node[i])) {
                traffic += fmax(0, view_of(front, i).traffic);
                sessions += sim.node[i].live;
            }
        }
        s->traffic = sessions > 0 ? traffic / sessions : 0;
        s->traffic_at = sim.now;
        sim_node_advance(&sim.node[to]);
        sim.node[to].front[front].bytes += s->traffic;
    }
    else if (from >= 0) {
        double x = sim_session_traffic(s);
        sim_node_advance(&sim.node[from]);
        sim_node_advance(&sim.node[to]);
        sim.node[from].front[front].bytes -= x;
        sim.node[to].front[front].bytes += x;
    }
}
