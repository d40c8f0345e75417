/* SPDX-License-Identifier: Apache-2.0 */
/* The life of sessions and requests, events of the scenario, and the loop. */
#include "sim.h"

#include <math.h>

#define FORGET_S 1800.0 /* sessions do not say that they have ended (real model) */
#define COLD_CLICKS 3
#define TICK_S 0.05
#define WINDOW_S 10.0

sim_t sim;

bool sim_measured(void)
{
    return sim.now >= opt.warm;
}

/* ---- homes */

static void unlink_session(sim_session_t *s)
{
    if (s->node < 0)
        return;
    if (s->previous >= 0)
        sim.session[s->previous].next = s->next;
    else
        sim.node[s->node].first = s->next;
    if (s->next >= 0)
        sim.session[s->next].previous = s->previous;
    sim.node[s->node].live--;
    sim.node[s->node].sessions--;
}

void sim_bind(sim_session_t *s, int node)
{
    int id = (int)(s - sim.session);
    sim_node_t *n = &sim.node[node];

    unlink_session(s);
    s->node = node;
    s->visited |= (uint64_t)1 << node;
    s->previous = -1;
    s->next = n->first;
    if (n->first >= 0)
        sim.session[n->first].previous = id;
    n->first = id;
    n->live++;
    n->sessions++;
}

static void end_session(sim_session_t *s)
{
    int node = s->node;

    sim.live--;
    s->live = false;
    if (opt.policy == SIM_POOL || node < 0)
        return;
    unlink_session(s);
    s->node = -1;
    if (opt.real) {
        sim.node[node].sessions++;
        sim_heap_push(&sim.events, (sim_item_t){sim.now + FORGET_S, SIM_EV_FORGET, node});
    }
}

static void rebind(int id, int to, int front)
{
    sim_session_t *s = &sim.session[id];
    int from = s->node;

    sim_policy_rebound(s, from, to, front);
    sim_bind(s, to);
    if (opt.release)
        s->visited = (uint64_t)1 << to;
    s->moved_at = sim.now;
    s->cold = opt.policy == SIM_ANYWHERE ? 0 : COLD_CLICKS + 1;
}

/* ---- requests */

static int new_request(void)
{
    if (sim.free_requests)
        return sim.free_request[--sim.free_requests];
    if (sim.requests == sim.request_room) {
        sim.request_room = sim.request_room ? 2 * sim.request_room : 1024;
        sim.request = sim_memory(sim.request, sim.request_room, sizeof *sim.request);
        sim.free_request =
            sim_memory(sim.free_request, sim.request_room, sizeof *sim.free_request);
    }
    return (int)sim.requests++;
}

static void issue(sim_request_t q)
{
    int r = new_request();

    sim.request[r] = q;
    sim_node_advance(&sim.node[q.node]);
    sim_node_add(q.node, r);
}

/* In the simple model a move costs 5 to 20 ms of a thread at the next request. Afterwards
 * caches are cold. */
static double with_cost_of_move(sim_session_t *s, int class, double work)
{
    if (s->cold <= 0)
        return work;
    if (s->cold-- == COLD_CLICKS + 1)
        return opt.real ? work : work + 0.125 + (0.5 - 0.125) * sim_uniform(&sim.rng);
    return class ? work : work * opt.cold;
}

static void start_request(int id, int class, double work, double bytes, double start,
                          bool background)
{
    sim_session_t *s = &sim.session[id];
    int node = opt.policy == SIM_POOL ? 0 : s->node;
    double ideal = work / (class ? opt.transfer_cap : opt.click_cap);

    s->inflight++;
    s->requests++;
    sim_policy_rebound(s, -1, node, s->front);
    double cost = with_cost_of_move(s, class, work);
    sim_metrics_start(work, node);
    issue((sim_request_t){.session = id,
                          .class = class,
                          .node = node,
                          .front = s->front,
                          .work = cost,
                          .bytes = bytes,
                          .start = start,
                          .ideal = ideal,
                          .background = background});
}

static void go_on(int id)
{
    sim_session_t *s = &sim.session[id];

    if (s->pages_left > 0)
        sim_heap_push(&sim.events, (sim_item_t){sim.now + sim_work_think(s), SIM_EV_START, id});
    else if (!s->inflight)
        end_session(s);
}

static void fail_over(int id, int front)
{
    sim_session_t *s = &sim.session[id];
    int to = sim_policy_fail_over(s, front);

    if (to >= 0 && to != s->node) {
        rebind(id, to, front);
        sim_metrics_moved(true);
    }
}

static void start_image(int id)
{
    sim_session_t *s = &sim.session[id];
    double bytes, work = sim_work_image(&s->page, &bytes);

    s->pending--;
    if (opt.policy != SIM_POOL && !sim.node[s->node].up)
        fail_over(id, s->front);
    if (opt.policy == SIM_ANYWHERE) {
        int to = sim_policy_before(s, s->front);
        if (to >= 0)
            rebind(id, to, s->front);
    }
    start_request(id, 0, work, bytes, sim.now, false);
}

static void run_page(int id, double start)
{
    sim_session_t *s = &sim.session[id];
    sim_page_t *p = &s->page;

    if (p->images) {
        s->pending = s->page_left = p->images;
        for (int i = 0; i < SIM_PARALLEL && s->pending; i++)
            start_image(id);
        return;
    }
    s->page_left = !p->background;
    start_request(id, p->class, p->work, p->bytes, start, p->background);
    if (p->background)
        go_on(id);
}

/* ---- moves */

void sim_move(int id, int to, int front, bool in_background)
{
    sim_session_t *s = &sim.session[id];

    if (!opt.real || opt.policy == SIM_ANYWHERE) {
        rebind(id, to, front);
        sim_metrics_moved(false);
        return;
    }
    s->gated = true;
    s->to = to;
    s->front = front;
    s->background_move = in_background;
    double work = opt.click_cap * (0.001 + 0.004 * sim_uniform(&sim.rng));
    issue((sim_request_t){.session = id,
                          .node = to,
                          .front = front,
                          .work = work,
                          .start = sim.now,
                          .ideal = work / opt.click_cap,
                          .probe = true});
}

static void start_page(int id, double start);

/* The probe has been answered, or its node has crashed. */
static void end_move(int id, bool done)
{
    sim_session_t *s = &sim.session[id];

    s->gated = false;
    if (done && sim_is_open(&sim.node[s->to])) {
        rebind(id, s->to, s->front);
        sim_metrics_moved(false);
    }
    if (!s->background_move)
        run_page(id, s->waits_since);
    else if (s->waits) {
        s->waits = false;
        start_page(id, s->waits_since);
    }
}

/* ---- pages */

static void start_page(int id, double start)
{
    sim_session_t *s = &sim.session[id];

    if (s->gated) {
        s->waits = true;
        s->waits_since = start;
        return;
    }
    s->front = opt.fronts > 1 ? (int)(sim_uniform(&sim.rng) * opt.fronts) : 0;
    s->page = sim_work_page(s);
    s->pages_left--;
    if (opt.policy == SIM_POOL && s->node < 0) {
        s->node = 0;
        sim.live++;
    }
    else if (opt.policy != SIM_POOL && s->node < 0) {
        sim.live++;
        int node = sim_policy_elect(s->front);
        sim_bind(s, node);
        sim_policy_rebound(s, -2, node, s->front);
    }
    else if (opt.policy != SIM_POOL) {
        int to = -1;
        if (!sim_is_open(&sim.node[s->node]))
            fail_over(id, s->front);
        else
            to = sim_policy_before(s, s->front);
        if (to >= 0) {
            s->waits_since = start;
            sim_move(id, to, s->front, false);
            if (s->gated)
                return;
        }
    }
    run_page(id, start);
}

double sim_session_traffic(sim_session_t *s)
{
    s->traffic *= exp(-log(2) / 60 * (sim.now - s->traffic_at));
    s->traffic_at = sim.now;
    return s->traffic;
}

static void request_ended(int id, bool background)
{
    sim_session_t *s = &sim.session[id];

    s->inflight--;
    s->last_at = sim.now;
    if (background) {
        if (!s->inflight && s->pages_left <= 0 && !s->page_left)
            end_session(s);
        return;
    }
    s->page_left--;
    if (s->pending)
        start_image(id);
    else if (!s->page_left)
        go_on(id);
}

static void finish(sim_node_t *n, int class)
{
    sim_node_advance(n);
    int r = sim_node_remove((int)(n - sim.node), class);
    sim_request_t q = sim.request[r];

    sim.free_request[sim.free_requests++] = r;
    sim_policy_leave(q.node, q.front, sim.now - q.start, !class && !q.probe);
    if (!class && !q.probe) {
        n->front[q.front].total += q.bytes;
        n->front[q.front].bytes += q.bytes;
        if (opt.policy == SIM_MODULE)
            sim_policy_traffic(q.node, q.front, q.bytes);
    }
    sim_node_rates(n);
    if (q.probe) {
        end_move(q.session, true);
        return;
    }
    sim_metrics_request(&q, (sim.now - q.start) / q.ideal);
    sim_session_traffic(&sim.session[q.session]);
    sim.session[q.session].traffic += q.bytes + opt.request_cost;
    request_ended(q.session, q.background);
}

/* ---- the scenario */

static void crash(int node)
{
    sim_node_t *n = &sim.node[node];

    n->up = false;
    for (int k = 0; k < 2; k++) {
        while (n->inflight[k]) {
            int r = sim_node_remove(node, k);
            sim_request_t q = sim.request[r];
            sim.free_request[sim.free_requests++] = r;
            sim_policy_leave(node, q.front, 0, false);
            sim_metrics_failed();
            sim_node_rates(n);
            if (q.probe)
                end_move(q.session, false);
            else
                request_ended(q.session, q.background);
        }
    }
    sim_node_rates(n);
}

static void pool_event(int step)
{
    sim_node_t *n = &sim.node[0];
    double all = sim.total_capacity, part = sim.event_capacity;

    if (opt.event == SIM_SLOW)
        n->capacity = step == 0 ? all - 0.75 * part : all;
    else if (opt.event == SIM_DRAIN)
        n->capacity = all - part;
    else if (opt.event == SIM_CRASH)
        n->capacity = step == 0 ? all - part : all;
    else if (opt.event == SIM_ADD)
        n->capacity = all;
}

static void scenario(int step)
{
    sim_node_t *n = &sim.node[opt.policy == SIM_POOL ? 0 : opt.event_node];

    sim_node_advance(n);
    if (opt.policy == SIM_POOL)
        pool_event(step);
    else if (opt.event == SIM_SLOW)
        n->speed = step == 0 ? 0.25 : 1;
    else if (opt.event == SIM_DRAIN)
        n->draining = true;
    else if (opt.event == SIM_CRASH && step == 0)
        crash(opt.event_node);
    else if (opt.event == SIM_CRASH || step == 0) {
        n->up = true;
        n->speed = opt.event == SIM_ADD ? 0.5 : 1; /* its caches are cold */
        sim_policy_join(opt.event_node);
    }
    else
        n->speed = 1;
    sim_node_rates(n);
}

static void every(double period, int kind)
{
    sim_heap_push(&sim.events, (sim_item_t){sim.now + period, kind, 0});
}

static void begin(void)
{
    sim_policy_begin();
    if (opt.fronts > 1)
        every(opt.publish, SIM_EV_PUBLISH);
    every(WINDOW_S, SIM_EV_WINDOW);
    if (opt.policy == SIM_MODULE)
        every(TICK_S, SIM_EV_TICK);
    if (opt.event == SIM_STEADY || opt.event == SIM_BURST)
        return;
    sim_heap_push(&sim.events, (sim_item_t){opt.event_at, SIM_EV_EVENT, 0});
    if (opt.event != SIM_DRAIN) {
        double last = opt.event == SIM_ADD ? 120 : 600;
        sim_heap_push(&sim.events, (sim_item_t){opt.event_at + last, SIM_EV_EVENT, 1});
    }
}

static void handle(sim_item_t e)
{
    switch (e.kind) {
    case SIM_EV_START:
        start_page(e.id, sim.now);
        break;
    case SIM_EV_PUBLISH:
        for (int i = 0; i < sim.nodes; i++)
            sim_node_advance(&sim.node[i]);
        sim_policy_publish();
        every(opt.publish, SIM_EV_PUBLISH);
        break;
    case SIM_EV_WINDOW:
        sim_metrics_window();
        every(WINDOW_S, SIM_EV_WINDOW);
        break;
    case SIM_EV_EVENT:
        scenario(e.id);
        break;
    case SIM_EV_TICK:
        sim_module_tick();
        every(TICK_S, SIM_EV_TICK);
        break;
    default:
        sim.node[e.id].sessions--;
    }
}

void sim_run(void)
{
    begin();
    for (bool measuring = false;;) {
        double t = SIM_NEVER;
        sim_node_t *n = NULL;
        for (int i = 0; i < sim.nodes; i++) {
            if (sim_node_done_at(&sim.node[i]) < t) {
                n = &sim.node[i];
                t = n->done_at;
            }
        }
        bool event = sim.events.n && sim.events.item[0].key <= t;
        t = event ? sim.events.item[0].key : t;
        if (t > opt.end)
            break;
        sim.now = t;
        if (event) {
            sim_item_t e = sim_heap_pop(&sim.events);
            if (!measuring && sim_measured()) {
                measuring = true;
                sim_metrics_begin_measuring();
            }
            handle(e);
        }
        else
            finish(n, n->done_class);
        sim_metrics_step();
    }
}
