/* SPDX-License-Identifier: Apache-2.0 */
/* One run: key=value ..., figures on standard output. */
#include "sim.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

sim_options_t opt = {.policy = SIM_MODULE,
                     .seed = 1,
                     .load = 0.7,
                     .end = 3600,
                     .warm = 600,
                     .size = 1,
                     .capacity = {1, 1, 2, 4},
                     .nodes = 4,
                     .fronts = 1,
                     .publish = 0.5,
                     .share = 1,
                     .unit = 100,
                     .click_cap = 25,
                     .transfer_cap = 50,
                     .click_work = 2,
                     .heavy = 0.05,
                     .transfer_tail = 1.2,
                     .heavy_tail = 1.1,
                     .sine = 0.05,
                     .event_at = 1500,
                     .event_node = 2,
                     .thread = 1,
                     .cold = 1.25,
                     .half_life = 60,
                     .busy_half_life = 10,
                     .request_cost = 2,
                     .threshold = 0.2,
                     .min_occupancy = 2,
                     .rate = 2,
                     .burst = 10,
                     .rest = 60,
                     .grace = 0.25,
                     .pace = 1,
                     .moves = 2};

static const char *const policies[] = {"pool",        "anywhere",   "bytraffic",
                                       "byrequests",  "bybusyness", "sticky",
                                       "recommended", "module",     NULL};
static const char *const events[] = {"steady", "slow", "drain", "crash", "add", "burst", NULL};

static const struct {
    const char *name;
    double *number;
    int *integer;
} keys[] = {{"load", &opt.load, 0},
            {"end", &opt.end, 0},
            {"warm", &opt.warm, 0},
            {"size", &opt.size, 0},
            {"sessions", &opt.sessions, 0},
            {"fronts", 0, &opt.fronts},
            {"publish", &opt.publish, 0},
            {"share", 0, &opt.share},
            {"unit", &opt.unit, 0},
            {"transfer_cap", &opt.transfer_cap, 0},
            {"click_work", &opt.click_work, 0},
            {"heavy", &opt.heavy, 0},
            {"transfer_tail", &opt.transfer_tail, 0},
            {"heavy_tail", &opt.heavy_tail, 0},
            {"real", 0, &opt.real},
            {"release", 0, &opt.release},
            {"event_at", &opt.event_at, 0},
            {"event_node", 0, &opt.event_node},
            {"thread", &opt.thread, 0},
            {"cold", &opt.cold, 0},
            {"half_life", &opt.half_life, 0},
            {"busy_half_life", &opt.busy_half_life, 0},
            {"request_cost", &opt.request_cost, 0},
            {"threshold", &opt.threshold, 0},
            {"min_occupancy", &opt.min_occupancy, 0},
            {"rate", &opt.rate, 0},
            {"burst", &opt.burst, 0},
            {"rest", &opt.rest, 0},
            {"grace", &opt.grace, 0},
            {"pace", 0, &opt.pace},
            {"moves", 0, &opt.moves}};

static void fail(const char *what, const char *arg)
{
    fprintf(stderr, "%s: %s\n", what, arg);
    exit(2);
}

static int one_of(const char *const *names, const char *value)
{
    for (int i = 0; names[i]; i++) {
        if (!strcmp(names[i], value))
            return i;
    }
    fail("not known", value);
    return -1;
}

static int numbers(const char *text, double *out)
{
    int n = 0;

    for (char *end; *text && n < SIM_NODES_MAX; text = *end ? end + 1 : end) {
        out[n] = strtod(text, &end);
        if (end == text || !(out[n] > 0))
            fail("not a list of numbers", text);
        n++;
    }
    return n;
}

static void set(const char *arg)
{
    const char *value = strchr(arg, '=');
    size_t n = value ? (size_t)(value++ - arg) : 0;

    if (!n)
        fail("not key=value", arg);
    if (!strncmp(arg, "policy=", 7))
        opt.policy = (sim_kind_t)one_of(policies, value);
    else if (!strncmp(arg, "event=", 6))
        opt.event = (sim_event_t)one_of(events, value);
    else if (!strncmp(arg, "seed=", 5))
        opt.seed = strtoull(value, NULL, 10);
    else if (!strncmp(arg, "capacity=", 9))
        opt.nodes = numbers(value, opt.capacity);
    else if (!strncmp(arg, "weight=", 7))
        opt.weights = numbers(value, opt.weight);
    else {
        for (size_t i = 0; i < sizeof keys / sizeof *keys; i++) {
            if (strlen(keys[i].name) == n && !strncmp(arg, keys[i].name, n)) {
                if (keys[i].number)
                    *keys[i].number = atof(value);
                else
                    *keys[i].integer = atoi(value);
                return;
            }
        }
        fail("unknown key", arg);
    }
}

static void check(void)
{
    if (opt.weights && opt.weights != opt.nodes)
        fail("out of range", "weight");
    if (opt.fronts < 1 || opt.fronts > SIM_FRONTS_MAX)
        fail("out of range", "fronts");
    if (!(opt.load > 0) || !(opt.click_work > 0) || !(opt.end > opt.warm + 60))
        fail("out of range", "load, click_work or end");
    if (opt.event_node < 0 || opt.event_node >= opt.nodes)
        opt.event_node = opt.nodes - 1;
}

/* Sessions of a site with one node of unit size and full load, in two hours; a little less than
 * there are. */
#define SESSIONS_PER_UNIT 740.0
#define TWO_HOURS 7200.0
#define HISTORY 3600.0 /* as in sim_workload.c */

static double make_nodes(void)
{
    double all = 0;

    for (int i = 0; i < opt.nodes; i++)
        all += opt.capacity[i];
    if (opt.sessions > 0)
        opt.size = opt.sessions * TWO_HOURS / (opt.end + HISTORY) /
                   (SESSIONS_PER_UNIT * opt.load * all);
    all *= opt.unit * opt.size;
    sim.event_capacity = opt.capacity[opt.event_node] * opt.unit * opt.size;
    sim.nodes = opt.policy == SIM_POOL ? 1 : opt.nodes;
    for (int i = 0; i < sim.nodes; i++) {
        sim.node[i].capacity = opt.capacity[i] * opt.unit * opt.size;
        sim.node[i].weight = opt.weights ? opt.weight[i] : opt.capacity[i];
        sim.node[i].speed = 1;
        sim.node[i].up = sim.node[i].stale = true;
        sim.node[i].first = -1;
    }
    if (opt.policy == SIM_POOL)
        sim.node[0].capacity = all;
    if (opt.event == SIM_ADD && opt.policy == SIM_POOL)
        sim.node[0].capacity -= sim.event_capacity;
    else if (opt.event == SIM_ADD)
        sim.node[opt.event_node].up = false;
    return all;
}

int main(int argc, char **argv)
{
    double fit;

    for (int i = 1; i < argc; i++)
        set(argv[i]);
    check();
    sim.rng.word = opt.seed * 77 + 5;
    sim.total_capacity = make_nodes();
    sim_work_prepare(&sim.total_capacity, &fit);
    sim.event_capacity *= fit;
    sim_run();
    sim_metrics_print();
    return 0;
}
