/* SPDX-License-Identifier: Apache-2.0 */
/* Nodes: processor sharing between clicks and transfers, each request bounded by one thread or
 * one link. Requests of a class get the same rate, so one counter of work per class and a heap
 * of the counts at which they end do for all of them. */
#include "sim.h"

#include <math.h>

bool sim_is_open(const sim_node_t *n)
{
    return n->up && !n->draining;
}

void sim_node_rates(sim_node_t *n)
{
    double own = n == &sim.node[opt.event_node] ? opt.thread : 1;
    double bound = opt.policy == SIM_POOL ? 1 : n->speed * own;
    double capacity = n->capacity * n->speed;
    double click = opt.click_cap * bound, transfer = opt.transfer_cap * bound;
    int all = n->inflight[0] + n->inflight[1];

    n->stale = true;
    n->rate[0] = n->rate[1] = 0;
    if (!all)
        return;
    if (capacity / all <= click) {
        n->rate[0] = n->rate[1] = capacity / all;
        return;
    }
    n->rate[0] = click;
    if (n->inflight[1])
        n->rate[1] = fmin(transfer, (capacity - n->inflight[0] * click) / n->inflight[1]);
}

/* Bytes of transfers count as they flow. */
static void count(sim_node_t *n, int node, double dt)
{
    bool module = opt.policy == SIM_MODULE;
    double lh = log(2) / 60, lq = log(2) / 10; /* of the recommended policy */
    double keep = module ? 0 : exp(-lh * dt), keep_busy = module ? 0 : exp(-lq * dt);

    for (int f = 0; f < opt.fronts; f++) {
        sim_counters_t *c = &n->front[f];
        double flow = c->inflight[1] * n->rate[1];
        if (module) {
            if (flow > 0)
                sim_policy_traffic(node, f, flow * dt);
            continue;
        }
        c->bytes = c->bytes * keep + flow * (1 - keep) / lh;
        c->requests *= keep;
        c->occupancy =
            c->occupancy * keep_busy + (c->inflight[0] + c->inflight[1]) * (1 - keep_busy);
        c->total += flow * dt;
    }
}

void sim_node_advance(sim_node_t *n)
{
    double dt = sim.now - n->last;

    if (dt <= 0)
        return;
    count(n, (int)(n - sim.node), dt);
    for (int k = 0; k < 2; k++) {
        n->served_by[k] += n->rate[k] * dt;
        n->served += n->inflight[k] * n->rate[k] * dt;
    }
    n->occupied += (n->inflight[0] + n->inflight[1]) * dt;
    n->last = sim.now;
    n->stale = true;
}

double sim_node_done_at(sim_node_t *n)
{
    if (!n->stale)
        return n->done_at;
    n->done_at = SIM_NEVER;
    n->done_class = 0;
    for (int k = 0; k < 2; k++) {
        if (n->inflight[k] && n->rate[k] > 0) {
            double left = fmax(0.0, n->queue[k].item[0].key - n->served_by[k]);
            double t = n->last + left / n->rate[k];
            if (t < n->done_at) {
                n->done_at = t;
                n->done_class = k;
            }
        }
    }
    n->stale = false;
    return n->done_at;
}

/* The caller has advanced the node. */
void sim_node_add(int node, int request)
{
    sim_node_t *n = &sim.node[node];
    const sim_request_t *r = &sim.request[request];

    sim_heap_push(&n->queue[r->class],
                  (sim_item_t){n->served_by[r->class] + r->work, 0, request});
    n->inflight[r->class]++;
    n->front[r->front].inflight[r->class]++;
    n->front[r->front].requests += 1;
    sim_policy_enter(node, r->front);
    sim_node_rates(n);
}

int sim_node_remove(int node, int class)
{
    sim_node_t *n = &sim.node[node];
    int request = sim_heap_pop(&n->queue[class]).id;

    n->inflight[class]--;
    n->front[sim.request[request].front].inflight[class]--;
    if (!n->inflight[class])
        n->served_by[class] = 0; /* small numbers are exact */
    return request;
}

int sim_weighted_random(sim_rng_t *r)
{
    double sum = 0;
    int chosen = -1;

    for (int i = 0; i < sim.nodes; i++)
        sum += sim_is_open(&sim.node[i]) ? sim.node[i].weight : 0;
    double u = sim_uniform(r) * sum;
    for (int i = 0; i < sim.nodes; i++) {
        if (sim_is_open(&sim.node[i])) {
            chosen = i;
            if ((u -= sim.node[i].weight) < 0)
                break;
        }
    }
    return chosen;
}
