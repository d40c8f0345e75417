/* SPDX-License-Identifier: Apache-2.0 */
/* Simulator of session-affine balancing: nodes share their processors among requests, sessions
 * arrive, live long and are bound to a node. One run per process, one thread. The workload is a
 * function of (seed, load, model) only, so policies meet the very same sessions and requests.
 *
 * Units: work and traffic in MB (of a transfer, or what costs a node as much), capacity in
 * MB/s, time in seconds. docs/simulation.md tells what is modelled and what is left out. */
#ifndef SIM_H
#define SIM_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define SIM_NODES_MAX 16
#define SIM_FRONTS_MAX 8
#define SIM_NEVER 1e300
#define SIM_PARALLEL 6 /* requests that a browser has in flight at once */

typedef enum {
    SIM_POOL,       /* bound: all nodes are one */
    SIM_ANYWHERE,   /* bound: each request goes where there is most room, moves are free */
    SIM_BYTRAFFIC,  /* stock */
    SIM_BYREQUESTS, /* stock */
    SIM_BYBUSYNESS, /* stock */
    SIM_STICKY,     /* the recommended score, elections only */
    SIM_RECOMMENDED,
    SIM_MODULE /* src/xb_policy.c and src/xb_member.c */
} sim_kind_t;

typedef enum { SIM_STEADY, SIM_SLOW, SIM_DRAIN, SIM_CRASH, SIM_ADD, SIM_BURST } sim_event_t;

typedef struct {
    sim_kind_t policy;
    sim_event_t event;
    uint64_t seed;
    double load, end, warm; /* measured from warm to end */
    double size;            /* times as many sessions at nodes as much larger */
    double sessions;        /* 0: as load says; else size follows from it */
    double capacity[SIM_NODES_MAX], weight[SIM_NODES_MAX];
    int nodes, weights, fronts;
    double publish;                       /* period of publication among front ends */
    int share;                            /* 0: front ends know only themselves */
    double unit, click_cap, transfer_cap; /* MB/s of a unit node, of a thread, of a link */
    double click_work, heavy, transfer_tail, heavy_tail, sine;
    int real;    /* parallel requests; moves as they really are */
    int release; /* real: copies left behind are released at once */
    double event_at;
    int event_node;
    double thread; /* how fast requests at event_node are at most, even if it is idle */
    double cold;   /* factor on the work of the three clicks after a move */
    /* module */
    double half_life, busy_half_life, request_cost; /* s, s, MB */
    double threshold, min_occupancy, rate, burst, rest, grace;
    int pace;  /* 0: weights are taken as they are */
    int moves; /* 0: none, 1: drain, 2: all */
} sim_options_t;

extern sim_options_t opt;

/* ---- random numbers: splitmix64, one word of state */

typedef struct {
    uint64_t word;
} sim_rng_t;

double sim_uniform(sim_rng_t *r);
double sim_exponential(sim_rng_t *r, double mean);
uint64_t sim_word(sim_rng_t *r);

/* ---- heaps */

typedef struct {
    double key;
    int32_t kind, id;
} sim_item_t;

typedef struct {
    sim_item_t *item;
    size_t n, room;
} sim_heap_t;

void sim_heap_push(sim_heap_t *h, sim_item_t item);
sim_item_t sim_heap_pop(sim_heap_t *h);

/* ---- workload */

/* What a user asks for at once: one request, or the images of a view. */
typedef struct {
    int class; /* 0: click, 1: transfer */
    double work, bytes;
    int images; /* 0: one request */
    sim_rng_t image_rng;
    bool background; /* the user goes on meanwhile */
} sim_page_t;

typedef struct {
    sim_rng_t rng;
    double moved_at, traffic, traffic_at, last_at, waits_since;
    uint64_t visited;
    sim_page_t page;
    int type, pages_left, node, cold, inflight, page_left, pending, front;
    int requests;
    int next, previous; /* of those at home at the same node; -1: none */
    int to;             /* gate: where it is being moved */
    bool live, gated, waits, background_move;
} sim_session_t;

/* Makes the sessions; capacity and nodes are fitted to them: *fit is the factor. */
void sim_work_prepare(double *capacity, double *fit);
sim_page_t sim_work_page(sim_session_t *s);
double sim_work_image(sim_page_t *p, double *bytes);
double sim_work_think(sim_session_t *s);

/* ---- nodes */

typedef struct { /* one front end's counters of one node */
    double bytes, requests, occupancy, total, status;
    int inflight[2];
    double residue; /* module: a part of a byte */
} sim_counters_t;

typedef struct {
    double capacity, weight, speed, rate[2], served_by[2], last, served, occupied;
    double done_at, small_log; /* mean log time of the last 50 clicks */
    int done_class, inflight[2], sessions, live, first;
    bool up, draining, stale;
    sim_heap_t queue[2];
    sim_counters_t front[SIM_FRONTS_MAX];
} sim_node_t;

typedef struct {
    int session, class, node, front;
    double work, bytes, start, ideal;
    bool probe, background;
} sim_request_t;

typedef struct {
    double now;
    sim_node_t node[SIM_NODES_MAX];
    int nodes, live;
    double total_capacity, event_capacity; /* after calibration */
    sim_session_t *session;
    double *arrival;
    size_t sessions, session_room;
    sim_request_t *request;
    int *free_request;
    size_t requests, free_requests, request_room;
    sim_heap_t events;
    sim_rng_t rng; /* what is not a part of the workload */
} sim_t;

extern sim_t sim;

enum { SIM_EV_START, SIM_EV_PUBLISH, SIM_EV_WINDOW, SIM_EV_EVENT, SIM_EV_TICK, SIM_EV_FORGET };

bool sim_is_open(const sim_node_t *n); /* takes new sessions */
void sim_node_rates(sim_node_t *n);
void sim_node_advance(sim_node_t *n);
double sim_node_done_at(sim_node_t *n);
void sim_node_add(int node, int request);
int sim_node_remove(int node, int class);
int sim_weighted_random(sim_rng_t *r);

/* ---- engine */

bool sim_measured(void);
void sim_bind(sim_session_t *s, int node);
/* The session changes its home now, or when the probe has ended (real model). */
void sim_move(int id, int to, int front, bool in_background);
void sim_run(void);

/* ---- policies: a node for a request's session, and what else happens */

void sim_policy_begin(void);
void sim_policy_traffic(int node, int front, double bytes); /* module; MB */
void sim_policy_enter(int node, int front);
void sim_policy_leave(int node, int front, double seconds, bool click);
void sim_policy_join(int node);
void sim_policy_publish(void);
void sim_policy_rebound(sim_session_t *s, int from, int to, int front);
int sim_policy_elect(int front);
/* The session's home cannot serve. */
int sim_policy_fail_over(sim_session_t *s, int front);
/* Before a request: where the session is to be moved first; -1: nowhere. */
int sim_policy_before(sim_session_t *s, int front);
double sim_session_traffic(sim_session_t *s); /* as of now; MB */

void sim_module_begin(void);
void sim_module_traffic(int node, int front, double bytes);
void sim_module_enter(int node, int front);
void sim_module_leave(int node, int front, double seconds, bool click);
void sim_module_join(int node);
void sim_module_publish(void);
void sim_module_rebound(sim_session_t *s, int from, int to, int front);
int sim_module_elect(int front);
int sim_module_fail_over(sim_session_t *s, int front);
void sim_module_tick(void);

/* ---- metrics */

void sim_metrics_request(const sim_request_t *r, double slowdown);
void sim_metrics_start(double work, int node);
void sim_metrics_window(void);
void sim_metrics_step(void);
void sim_metrics_moved(bool forced);
void sim_metrics_failed(void);
void sim_metrics_begin_measuring(void);
void sim_metrics_print(void);

void *sim_memory(void *old, size_t count, size_t size); /* or exits */

#endif
