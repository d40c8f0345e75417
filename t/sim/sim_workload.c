/* SPDX-License-Identifier: Apache-2.0 */
/* People, REST clients and heavy users: what they ask for, and how many of them make the load.
 * Frozen: docs/simulation.md and t/009-sim.t have figures that follow from it. */
#include "sim.h"

#include <math.h>

#define HISTORY 3600.0 /* sessions that came so long before time 0 are taken up */
#define TAU 6.283185307179586
#define BURST 80 /* sessions within ten seconds */
#define FORGET_S 1800.0

enum { PERSON, REST_CLIENT, HEAVY_USER };

static const double think[] = {5.0, 0.5, 5.0};
static const double transfers[] = {0.03, 0.05, 0.8};

static double normal(sim_rng_t *r)
{
    double radius = sqrt(-2 * log(sim_uniform(r)));

    return radius * cos(TAU * sim_uniform(r));
}

static double bounded_pareto(sim_rng_t *r, double tail, double low, double high)
{
    double ratio = pow(low / high, tail);

    return low / pow(1 - sim_uniform(r) * (1 - ratio), 1 / tail);
}

static sim_session_t new_session(uint64_t id)
{
    sim_session_t s = {.node = -1, .next = -1, .previous = -1, .moved_at = -1e9};

    s.rng.word = opt.seed * 0x100000001B3u + id * 0x9E3779B1u + 12345;
    sim_word(&s.rng);
    double p = sim_uniform(&s.rng);
    s.type = p < opt.heavy ? HEAVY_USER : p < opt.heavy + 0.10 ? REST_CLIENT : PERSON;
    double life = bounded_pareto(&s.rng, 1.5, 360, 3600);
    double service = s.type == HEAVY_USER ? 2.0 : 0.1;
    s.pages_left = (int)(life / (think[s.type] + service));
    s.pages_left = s.pages_left > 1 ? s.pages_left : 1;
    return s;
}

double sim_work_think(sim_session_t *s)
{
    return sim_exponential(&s->rng, think[s->type]);
}

/* Log-normal work of a processor, and an independent log-normal size. */
static double small_request(sim_rng_t *r, double work, double size, double *bytes)
{
    double w = work * exp(normal(r) - 0.5);

    *bytes = size * exp(normal(r));
    return w;
}

double sim_work_image(sim_page_t *p, double *bytes)
{
    return small_request(&p->image_rng, opt.click_work / 4, 0.2, bytes);
}

sim_page_t sim_work_page(sim_session_t *s)
{
    sim_page_t p = {.class = 0};

    sim_word(&s->rng); /* a draw that nothing uses; without it all figures would change */
    p.class = sim_uniform(&s->rng) < transfers[s->type];
    if (p.class) {
        p.work = s->type == HEAVY_USER ? bounded_pareto(&s->rng, opt.heavy_tail, 20, 8000)
                                       : bounded_pareto(&s->rng, opt.transfer_tail, 1, 4000);
        p.bytes = p.work;
        p.background = opt.real && s->type == PERSON;
    }
    else
        p.work = small_request(&s->rng, opt.click_work, 0.010, &p.bytes);
    if (opt.real && !p.class && s->type == PERSON && sim_uniform(&s->rng) < 0.08) {
        p.images = 8 + (int)(33 * sim_uniform(&s->rng));
        p.image_rng.word = sim_word(&s->rng);
    }
    return p;
}

static double work_of(sim_page_t p)
{
    double sum = p.images ? 0 : p.work, bytes;

    for (int i = 0; i < p.images; i++)
        sum += sim_work_image(&p, &bytes);
    return sum;
}

static double time_of(const sim_page_t *p)
{
    if (p->background)
        return 0;
    if (p->images)
        return work_of(*p) / (SIM_PARALLEL * opt.click_cap);
    return p->work / (p->class ? opt.transfer_cap : opt.click_cap);
}

static void add_session(sim_session_t s, double at)
{
    if (sim.sessions == sim.session_room) {
        sim.session_room = sim.session_room ? 2 * sim.session_room : 4096;
        sim.session = sim_memory(sim.session, sim.session_room, sizeof *sim.session);
        sim.arrival = sim_memory(sim.arrival, sim.session_room, sizeof *sim.arrival);
    }
    sim.session[sim.sessions] = s;
    sim.arrival[sim.sessions++] = at;
}

static double arrival(sim_rng_t *r)
{
    for (;;) {
        double t = -HISTORY + sim_uniform(r) * (opt.end + HISTORY);
        if (sim_uniform(r) * (1 + opt.sine) < 1 + opt.sine * sin(TAU * t / 3600))
            return t;
    }
}

/* As many sessions as bring the offered work to load * capacity. */
static void make_sessions(double capacity)
{
    double want = opt.load * capacity * (opt.end + HISTORY), got = 0;
    sim_rng_t r = {opt.seed * 1315423911u + 99};

    for (uint64_t id = 0; got < want; id++) {
        sim_session_t s = new_session(id), c = s;
        while (c.pages_left-- > 0) {
            got += work_of(sim_work_page(&c));
            sim_exponential(&c.rng, 1.0);
        }
        add_session(s, arrival(&r));
    }
}

/* The work that is asked for while the run is measured. */
static double measured_work(void)
{
    double sum = 0;

    for (size_t i = 0; i < sim.sessions; i++) {
        sim_session_t c = sim.session[i];
        double t = sim.arrival[i];
        while (c.pages_left-- > 0) {
            sim_page_t p = sim_work_page(&c);
            if (t >= opt.warm && t < opt.end)
                sum += work_of(p);
            t += time_of(&p) + sim_work_think(&c);
        }
    }
    return sum;
}

static void add_burst(void)
{
    int n = (int)(BURST * opt.size);

    for (int i = 0; i < n; i++)
        add_session(new_session(1000000 + (uint64_t)i), opt.event_at + 10.0 * i / n);
}

/* A session that began before time 0, as far as it is by then; one that has ended is still
 * counted by a module that nobody told. */
static void take_up(size_t i)
{
    sim_session_t *s = &sim.session[i];
    double t = sim.arrival[i];
    bool old = t < 0;

    while (t < 0 && s->pages_left > 0) {
        sim_page_t p = sim_work_page(s);
        s->pages_left--;
        s->requests++;
        t += time_of(&p) + sim_work_think(s);
    }
    if (s->pages_left <= 0) {
        if (opt.real && old && t > -FORGET_S && opt.policy != SIM_POOL) {
            int node = sim_weighted_random(&sim.rng);
            sim.node[node].sessions++;
            sim_heap_push(&sim.events, (sim_item_t){t > 0 ? t + FORGET_S : FORGET_S + t,
                                                    SIM_EV_FORGET, node});
        }
        return;
    }
    s->live = true;
    if (old && opt.policy != SIM_POOL) {
        sim_bind(s, sim_weighted_random(&sim.rng));
        sim.live++;
    }
    if (t < opt.end)
        sim_heap_push(&sim.events, (sim_item_t){t, SIM_EV_START, (int32_t)i});
}

/* The nodes' capacity is fitted so that the load in the measured time is exact. */
void sim_work_prepare(double *capacity, double *fit)
{
    make_sessions(*capacity);
    *fit = measured_work() / (opt.load * *capacity * (opt.end - opt.warm));
    for (int i = 0; i < sim.nodes; i++)
        sim.node[i].capacity *= *fit;
    *capacity *= *fit;
    if (opt.event == SIM_BURST)
        add_burst();
    for (size_t i = 0; i < sim.sessions; i++)
        take_up(i);
}
