/* SPDX-License-Identifier: Apache-2.0 */
/* What is measured. Slowdown: response time over that on an idle node. */
#include "sim.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define BINS 4000 /* a percent each */
#define AFTER_S 600.0
#define FLOOD_S 1800.0
#define SPAN 6 /* windows of ten seconds in a minute */

typedef struct {
    double bin[BINS], n, sum;
} histogram_t;

static histogram_t of_class[2], after_event;
static long moves, forced, failed, requests;
static double session_seconds, flood, work_in_all, work_at_node, empty_after = -1,
                                                                 idle_since = -1;
static double served_before;
/* By window: served and capacity of each node. */
static struct window {
    double at, served[SIM_NODES_MAX], capacity[SIM_NODES_MAX], ratio, crowd;
} * window;
static size_t windows, window_room;

static void add(histogram_t *h, double x)
{
    int i = (int)(log(fmax(x, 1.0)) * 100);

    h->bin[i < BINS ? i : BINS - 1]++;
    h->n++;
    h->sum += x;
}

static double quantile(const histogram_t *h, double p)
{
    double sum = 0;

    for (int i = 0; i < BINS; i++) {
        sum += h->bin[i];
        if (sum >= p * h->n && h->n > 0)
            return exp((i + 0.5) / 100.0);
    }
    return 0;
}

void sim_metrics_request(const sim_request_t *r, double slowdown)
{
    if (!sim_measured())
        return;
    add(&of_class[r->class], slowdown);
    if (!r->class && sim.now >= opt.event_at && sim.now < opt.event_at + AFTER_S)
        add(&after_event, slowdown);
}

void sim_metrics_start(double work, int node)
{
    requests++;
    if (sim.now >= opt.event_at && sim.now < opt.event_at + 60) {
        work_in_all += work;
        work_at_node += node == opt.event_node ? work : 0;
    }
}

void sim_metrics_moved(bool is_forced)
{
    forced += is_forced;
    moves += !is_forced && sim_measured();
}

void sim_metrics_failed(void)
{
    failed++;
}

static double served(void)
{
    double sum = 0;

    for (int i = 0; i < sim.nodes; i++) {
        sim_node_advance(&sim.node[i]);
        sum += sim.node[i].served;
    }
    return sum;
}

void sim_metrics_begin_measuring(void)
{
    served_before = served();
}

static void note_flood(void)
{
    double live = 0, weight = 0;

    if (opt.policy == SIM_POOL || sim.now <= opt.event_at || sim.now > opt.event_at + FLOOD_S)
        return;
    for (int i = 0; i < sim.nodes; i++) {
        live += sim_is_open(&sim.node[i]) ? sim.node[i].live : 0;
        weight += sim_is_open(&sim.node[i]) ? sim.node[i].weight : 0;
    }
    const sim_node_t *n = &sim.node[opt.event_node];
    if (live > 0)
        flood = fmax(flood, n->live / live / (n->weight / weight));
}

/* Every ten seconds: use of the nodes and requests in flight, the largest over the mean. */
void sim_metrics_window(void)
{
    static double served_then[SIM_NODES_MAX], occupied_then[SIM_NODES_MAX];
    double most = 0, sum = 0, capacity = 0, crowd = 0, occupied = 0;

    if (windows == window_room) {
        window_room = window_room ? 2 * window_room : 512;
        window = sim_memory(window, window_room, sizeof *window);
    }
    struct window *w = &window[windows++];
    memset(w, 0, sizeof *w);
    w->at = sim.now;
    for (int i = 0; i < sim.nodes; i++) {
        sim_node_t *n = &sim.node[i];
        sim_node_advance(n);
        double s = n->served - served_then[i], o = n->occupied - occupied_then[i];
        double c = n->capacity * n->speed;
        served_then[i] = n->served;
        occupied_then[i] = n->occupied;
        w->served[i] = s;
        if (!sim_is_open(n))
            continue;
        w->capacity[i] = c;
        most = fmax(most, s / c);
        crowd = fmax(crowd, o / c);
        sum += s;
        occupied += o;
        capacity += c;
    }
    w->ratio = sum > 0 ? most / (sum / capacity) : 1;
    w->crowd = occupied > 0 ? crowd / (occupied / capacity) : 1;
    note_flood();
    if (sim_measured())
        session_seconds += 10.0 * sim.live;
}

void sim_metrics_step(void)
{
    const sim_node_t *n = &sim.node[opt.event_node];

    if (opt.event != SIM_DRAIN || opt.policy == SIM_POOL || sim.now < opt.event_at ||
        empty_after >= 0)
        return;
    bool moving = opt.policy >= SIM_RECOMMENDED || opt.policy == SIM_ANYWHERE;
    if (n->inflight[0] + n->inflight[1] > 0 || (!moving && n->live > 0)) {
        idle_since = -1;
        return;
    }
    if (idle_since < 0)
        idle_since = sim.now;
    if (moving || n->live == 0)
        empty_after = idle_since - opt.event_at;
}

/* The largest use over the mean, over a minute. */
static double minute_ratio(const struct window *w)
{
    double most = 0, sum = 0, capacity = 0;

    for (int i = 0; i < sim.nodes; i++) {
        double s = 0, c = 0;
        for (int j = 0; j < SPAN; j++) {
            s += w[j].capacity[i] > 0 ? w[j].served[i] : 0;
            c += w[j].capacity[i];
        }
        if (c > 0) {
            most = fmax(most, s / c);
            sum += s;
            capacity += c;
        }
    }
    return sum > 0 ? most / (sum / capacity) : 1;
}

static int by_value(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;

    return x < y ? -1 : x > y;
}

typedef struct {
    double use, use95, crowd, minute, rebalanced_after;
} ratios_t;

static ratios_t ratios(void)
{
    ratios_t r = {0, 0, 0, 0, -1};
    double n = 0, minutes = 0, *use = sim_memory(NULL, windows + 1, sizeof *use);

    for (size_t i = 0; i < windows; i++) {
        if (window[i].at < opt.warm)
            continue;
        r.use += window[i].ratio;
        r.crowd += window[i].crowd;
        use[(size_t)n++] = window[i].ratio;
    }
    qsort(use, (size_t)n, sizeof *use, by_value);
    r.use95 = n ? use[(size_t)(0.95 * n)] : 0;
    free(use);
    for (size_t i = 0; i + SPAN <= windows; i++) {
        double t = 10.0 * (double)i, ratio = minute_ratio(&window[i]);
        if (t >= opt.warm) {
            r.minute += ratio;
            minutes++;
        }
        if (t >= opt.event_at && r.rebalanced_after < 0 && ratio < 1.2)
            r.rebalanced_after = t - opt.event_at;
    }
    r.use /= n;
    r.crowd /= n;
    r.minute /= minutes;
    return r;
}

static void print_class(const char *name, const histogram_t *h)
{
    printf(" %s50=%.3f %s99=%.3f %s999=%.3f %smean=%.3f", name, quantile(h, .5), name,
           quantile(h, .99), name, quantile(h, .999), name, h->n ? h->sum / h->n : 0);
}

void sim_metrics_print(void)
{
    double work = served() - served_before, weight = 0;
    ratios_t r = ratios();

    for (int i = 0; i < sim.nodes; i++)
        weight += sim.node[i].weight;
    double fair = opt.policy == SIM_POOL ? 1 : sim.node[opt.event_node].weight / weight;
    printf("util=%.3f", work / (sim.total_capacity * (sim.now - opt.warm)));
    print_class("c", &of_class[0]);
    print_class("t", &of_class[1]);
    printf(" ru=%.3f ru95=%.2f ro=%.3f r60=%.3f mv=%.2f", r.use, r.use95, r.crowd, r.minute,
           (double)moves / fmax(1.0, session_seconds / 3600));
    printf(" reb=%.0f empty=%.0f flood=%.2f freq=%.2f", r.rebalanced_after, empty_after, flood,
           work_in_all > 0 ? work_at_node / work_in_all / fair : 0);
    printf(" forced=%ld fails=%ld nreq=%ld ev99=%.3f sessions=%zu\n", forced, failed, requests,
           quantile(&after_event, .99), sim.sessions);
}
