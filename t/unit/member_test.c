/* SPDX-License-Identifier: Apache-2.0 */
/* Members: registration by threads and processes, requests in flight, decay, readers and ticks.
 */
#include "xb_member.h"

#include <math.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdatomic.h>
#include <sys/time.h>
#include <sys/wait.h>

#include "tap.h"

#define S INT64_C(1000000)
#define CHILDREN 6
#define PROCESSES 4
#define THREADS 8
#define KEYS 200
#define RACES 100
#define TICKS 10000

static const xb_decay_t decay = {
    .half_life_s = 60, .busy_half_life_s = 10, .request_cost = 2e6};

/* Shared with forked children, as httpd's segment is. */
static xb_members_t *new_members(void)
{
    void *p = mmap(NULL, xb_members_size(CHILDREN), PROT_READ | PROT_WRITE,
                   MAP_SHARED | MAP_ANONYMOUS, -1, 0);

    if (p == MAP_FAILED) {
        puts("Bail out! no shared memory");
        exit(1);
    }
    xb_members_init(p, CHILDREN);
    return p;
}

static void free_members(xb_members_t *m)
{
    munmap(m, xb_members_size(CHILDREN));
}

static bool near(double got, double want)
{
    return fabs(got - want) <= 1e-9 * (1 + fabs(want));
}

static void is_figures(const xb_members_t *m, int64_t now, double traffic, double occupancy,
                       const char *name)
{
    double t = -1, o = -1;
    bool known = xb_member_read(m, 0, &decay, now, &t, &o);

    if (!ok(known && near(t, traffic) && near(o, occupancy), "%s", name))
        diag("got %d %.12g %.12g, wanted %.12g %.12g", known, t, o, traffic, occupancy);
}

/* ---- registration */

static uint64_t nth_key(unsigned k)
{
    return (k + 1) * UINT64_C(0x9e3779b97f4a7c15);
}

static void full_table(void)
{
    xb_members_t *m = new_members();
    bool seen[XB_MEMBERS_MAX] = {false}, once = true, again = true;

    /* all keys want the same slot */
    for (uint64_t k = 1; k <= XB_MEMBERS_MAX; k++) {
        unsigned i = xb_member_find(m, k * XB_MEMBERS_MAX);

        once = once && i < XB_MEMBERS_MAX && !seen[i];
        if (i < XB_MEMBERS_MAX)
            seen[i] = true;
    }
    ok(once, "full table: each colliding key has an index of its own");
    is_int(xb_member_find(m, 77), XB_MEMBER_NONE, "full table: no more");
    for (uint64_t k = 1; k <= XB_MEMBERS_MAX; k++)
        again =
            again && m->member[xb_member_find(m, k * XB_MEMBERS_MAX)].key == k * XB_MEMBERS_MAX;
    ok(again, "full table: known keys are still found");
    free_members(m);
}

typedef struct {
    xb_members_t *m;
    pthread_barrier_t *start; /* NULL: at once */
    unsigned index[KEYS];
} finder_t;

static void *find_all(void *arg)
{
    finder_t *f = arg;

    if (f->start)
        pthread_barrier_wait(f->start);
    for (unsigned k = 0; k < KEYS; k++)
        f->index[k] = xb_member_find(f->m, nth_key(k));
    return NULL;
}

static unsigned used_slots(const xb_members_t *m)
{
    unsigned used = 0;

    for (unsigned i = 0; i < XB_MEMBERS_MAX; i++)
        used += m->member[i].key != 0;
    return used;
}

/* True: all threads found the same index for each key, and no key took two. */
static bool race_for_indexes(void)
{
    static finder_t f[THREADS];
    xb_members_t *m = new_members();
    pthread_barrier_t start;
    pthread_t thread[THREADS];
    bool good;

    pthread_barrier_init(&start, NULL, THREADS);
    for (unsigned i = 0; i < THREADS; i++) {
        f[i] = (finder_t){.m = m, .start = &start};
        pthread_create(&thread[i], NULL, find_all, &f[i]);
    }
    for (unsigned i = 0; i < THREADS; i++)
        pthread_join(thread[i], NULL);
    good = used_slots(m) == KEYS;
    for (unsigned i = 0; i < THREADS; i++)
        good = memcmp(f[0].index, f[i].index, sizeof f[0].index) == 0 && good;
    pthread_barrier_destroy(&start);
    free_members(m);
    return good;
}

static void register_by_threads(void)
{
    int good = 0;

    for (int i = 0; i < RACES; i++)
        good += race_for_indexes();
    is_int(good, RACES, "8 threads: one index per key, and all see the same");
}

static pid_t fork_child(void)
{
    pid_t pid;

    fflush(stdout);
    pid = fork();
    if (pid < 0) {
        puts("Bail out! no fork");
        exit(1);
    }
    return pid;
}

/* Runs `work` in PROCESSES children, numbered from 0, and waits for them. True: all ended well.
 */
static bool in_processes(bool (*work)(xb_members_t *, unsigned), xb_members_t *m)
{
    pid_t pid[PROCESSES];
    bool good = true;
    int status;

    for (unsigned i = 0; i < PROCESSES; i++) {
        pid[i] = fork_child();
        if (pid[i] == 0)
            _exit(work(m, i) ? 0 : 1);
    }
    for (unsigned i = 0; i < PROCESSES; i++)
        good = waitpid(pid[i], &status, 0) == pid[i] && status == 0 && good;
    return good;
}

static bool register_and_count(xb_members_t *m, unsigned process)
{
    finder_t f = {.m = m, .start = NULL};

    find_all(&f);
    for (unsigned n = 0; n < 20000; n++) {
        xb_member_t *mb = &m->member[f.index[n % KEYS]];

        xb_member_enter(m, process, f.index[n % KEYS]);
        atomic_fetch_add_explicit(&mb->bytes_in, 3, memory_order_relaxed);
        atomic_fetch_add_explicit(&mb->bytes_out, 1000, memory_order_relaxed);
        atomic_fetch_add_explicit(&mb->requests, 1, memory_order_relaxed);
        if (n % 100 != 0)
            xb_member_leave(m, process, f.index[n % KEYS]);
    }
    return true;
}

static void register_by_processes(void)
{
    xb_members_t *m = new_members();
    uint64_t in = 0, out = 0, requests = 0, busy = 0;

    ok(in_processes(register_and_count, m), "4 processes ran");
    is_int(used_slots(m), KEYS, "4 processes: one index per key");
    for (unsigned i = 0; i < XB_MEMBERS_MAX; i++) {
        in += m->member[i].bytes_in;
        out += m->member[i].bytes_out;
        requests += m->member[i].requests;
        busy += xb_member_busy(m, i);
    }
    is_int((long long)requests, PROCESSES * 20000, "4 processes: requests exact");
    is_int((long long)in, PROCESSES * 60000, "4 processes: bytes in exact");
    is_int((long long)out, PROCESSES * 20000000, "4 processes: bytes out exact");
    is_int((long long)busy, PROCESSES * 200, "4 processes: requests in flight exact");
    free_members(m);
}

/* ---- requests in flight */

static void in_flight(void)
{
    xb_members_t *m = new_members();

    xb_member_enter(m, 0, 7);
    xb_member_enter(m, 5, 7);
    xb_member_enter(m, 5, 7);
    xb_member_enter(m, 5, XB_MEMBERS_MAX - 1);
    is_int(xb_member_busy(m, 7), 3, "in flight: over all children");
    xb_member_leave(m, 5, 7);
    is_int(xb_member_busy(m, 7), 2, "in flight: one left");
    xb_members_clear_child(m, 5);
    is_int(xb_member_busy(m, 7), 1, "a dead child leaves no request at a member");
    is_int(xb_member_busy(m, XB_MEMBERS_MAX - 1), 0, "nor at another");
    xb_member_leave(m, 5, 7);
    is_int(xb_member_busy(m, 7), 1, "never below zero");
    xb_member_enter(m, CHILDREN, 7);
    xb_member_enter(m, 0, XB_MEMBER_NONE);
    xb_member_leave(m, CHILDREN, XB_MEMBERS_MAX);
    xb_members_clear_child(m, CHILDREN);
    is_int(xb_member_busy(m, 7), 1, "children and members out of range count nothing");
    is_int(xb_member_busy(m, XB_MEMBER_NONE), 0, "nobody is not busy");
    free_members(m);
}

/* ---- decay */

/* Irregular ticks against the sum of what came at each of them, decayed in one step to the end;
 * one request more is in flight at each. */
static void irregular_ticks(void)
{
    static const int64_t dt_us[] = {1, 999999, 250, 1000000, 61 * S, 17, 5 * S, 2 * S, 333333};
    enum { N = sizeof dt_us / sizeof *dt_us };
    xb_members_t *m = new_members();
    double left_s = 0, traffic, occupancy;
    int64_t now = 1000 * S;

    for (int i = 0; i < N; i++)
        left_s += (double)dt_us[i] / 1e6;
    traffic = 1e6 * exp(-M_LN2 * left_s / 60);
    occupancy = 4 * exp(-M_LN2 * left_s / 10);
    xb_member_join(m, 0, now, 1e6, 4);
    for (int i = 0; i < N; i++) {
        double dt_s = (double)dt_us[i] / 1e6;

        now += dt_us[i];
        left_s -= dt_s;
        xb_member_enter(m, 0, 0);
        m->member[0].bytes_in += 1000u * (unsigned)i;
        m->member[0].requests += 1;
        traffic += (1000 * i + 2e6) * exp(-M_LN2 * left_s / 60);
        occupancy += (i + 1) * (1 - exp(-M_LN2 * dt_s / 10)) * exp(-M_LN2 * left_s / 10);
        xb_member_fold(m, 0, &decay, now);
    }
    is_figures(m, now, traffic, occupancy, "irregular ticks: as the closed form");
    is_figures(m, now + 60 * S, traffic / 2, N + (occupancy - N) / 64,
               "and a minute later without a tick");
    free_members(m);
}

static void is_member(const xb_members_t *m, unsigned i, int64_t now, double traffic,
                      double occupancy, const char *name)
{
    double t = -1, o = -1;
    bool known = xb_member_read(m, i, &decay, now, &t, &o);

    if (!ok(known && near(t, traffic) && near(o, occupancy), "%s", name))
        diag("got %d %.12g %.12g, wanted %.12g %.12g", known, t, o, traffic, occupancy);
}

/* Two that serve, one that drains with less and one with more than its share, a newcomer. */
static void fold_fleet(void)
{
    enum { N = 5 };
    static const unsigned member[N] = {4, 3, 2, 1, 0};
    const unsigned all = XB_LOAD_USABLE | XB_LOAD_NEW;
    xb_members_t *m = new_members();
    const int64_t now = 5 * S;
    xb_load_t load[N] = {{.weight = 1, .traffic = 100, .occupancy = 3, .flags = all},
                         {.weight = 2, .traffic = 500, .occupancy = 6, .flags = all},
                         {.weight = 2, .traffic = 300, .occupancy = 9, .flags = XB_LOAD_USABLE},
                         {.weight = 1, .traffic = 900, .occupancy = 8},
                         {.weight = 4}};

    for (unsigned i = 0; i < 4; i++)
        xb_member_join(m, member[i], now, load[i].traffic, load[i].occupancy);
    xb_member_fold_fleet(m, member, load, N, &decay, now);
    is_member(m, 4, now, 100, 3, "fleet: who serves has its own figures");
    is_member(m, 3, now, 500, 6, "fleet: and the other");
    is_member(m, 2, now, 400, 9, "fleet: who drains is kept at its share at least");
    is_member(m, 1, now, 900, 8, "fleet: or at what it has");
    is_member(m, 0, now, 800, 12, "fleet: a newcomer begins with its share");
    free_members(m);
}

static void occupancy_mean(void)
{
    xb_members_t *m = new_members();
    int64_t now = 5 * S;

    xb_member_join(m, 0, now, 0, 0);
    for (int i = 0; i < 8; i++)
        xb_member_enter(m, i % CHILDREN, 0);
    is_figures(m, now + 10 * S, 0, 4, "occupancy: half way after one half-life");
    xb_member_fold(m, 0, &decay, now + 10 * S);
    is_figures(m, now + 20 * S, 0, 6, "occupancy: half of the rest after the next");
    xb_member_fold(m, 0, &decay, now + 17 * S);
    xb_member_fold(m, 0, &decay, now + 20 * S);
    is_figures(m, now + 20 * S, 0, 6, "occupancy: the same whatever the ticks between");
    xb_members_clear_child(m, 0);
    xb_members_clear_child(m, 1);
    xb_member_fold(m, 0, &decay, now + 30 * S);
    is_figures(m, now + 30 * S, 0, 5, "occupancy: falls towards what is left");
    free_members(m);
}

static void reading_is_folding(void)
{
    xb_members_t *m = new_members();
    double t0, o0, t1, o1;
    bool same = true;
    int64_t now = 0;

    xb_member_join(m, 0, now, 5e6, 2);
    for (int i = 0; i < 200; i++) {
        now += i * 7919;
        m->member[0].bytes_out += 12345;
        m->member[0].requests += i % 3;
        m->member[0].credit_bytes += i % 5 ? -4000 : 9000;
        xb_member_enter(m, i % CHILDREN, 0);
        xb_member_read(m, 0, &decay, now, &t0, &o0);
        xb_member_fold(m, 0, &decay, now);
        xb_member_read(m, 0, &decay, now, &t1, &o1);
        same = same && t0 == t1 && o0 == o1;
    }
    ok(same, "reading equals folding at the same instant, to the bit");
    free_members(m);
}

static void counters_wrap(void)
{
    xb_members_t *m = new_members();
    xb_member_t *mb = &m->member[0];

    mb->bytes_in = UINT64_MAX - 10;
    mb->bytes_out = UINT64_MAX - 20;
    mb->requests = UINT64_MAX;
    xb_member_join(m, 0, 7, 0, 0);
    mb->bytes_in += 100;
    mb->bytes_out += 200;
    mb->requests += 3;
    is_figures(m, 7, 300 + 3 * 2e6, 0, "counters wrap: read");
    xb_member_fold(m, 0, &decay, 7);
    is_figures(m, 7, 300 + 3 * 2e6, 0, "counters wrap: folded");
    free_members(m);
}

static void credit_and_debt(void)
{
    xb_members_t *m = new_members();
    xb_member_t *mb = &m->member[0];

    xb_member_join(m, 0, 7, 1000, 0);
    mb->credit_bytes += 500;
    is_figures(m, 7, 1500, 0, "credit counts at once");
    mb->credit_bytes -= 1700;
    is_figures(m, 7, 0, 0, "a debt reads as zero");
    xb_member_fold(m, 0, &decay, 7);
    mb->bytes_in += 300;
    is_figures(m, 7, 100, 0, "but it is remembered");
    xb_member_fold(m, 0, &decay, 7);
    mb->credit_bytes -= 200;
    xb_member_fold(m, 0, &decay, 7);
    mb->bytes_in += 100;
    is_figures(m, 7 + 60 * S, 50, 0, "and decays like traffic");
    free_members(m);
}

static void newcomers(void)
{
    xb_members_t *m = new_members();
    double t, o;

    m->member[0].bytes_in = 1000;
    xb_member_enter(m, 0, 0);
    ok(!xb_member_read(m, 0, &decay, 9, &t, &o), "a newcomer has no figures");
    ok(!xb_member_read(m, XB_MEMBER_NONE, &decay, 9, &t, &o), "nobody has none either");
    xb_member_fold(m, 0, &decay, 9);
    is_figures(m, 9, 1000, 1, "its first fold takes what is there");
    xb_member_join(m, 0, 10, 77, 3);
    is_figures(m, 10, 77, 3, "joining sets the figures");
    is_figures(m, 3, 77, 3, "a clock that lags does not decay backwards");
    xb_member_fold(m, 0, &decay, 4);
    is_figures(m, 10, 77, 3, "nor does a tick that lags");
    m->member[0].seq = UINT32_MAX;
    m->member[0].figures[1].at_us = 10;
    xb_member_join(m, 0, 11, 78, 4);
    is_figures(m, 11, 78, 4, "the sequence number wraps, and is not a newcomer's");
    free_members(m);
}

static void another_request_cost(void)
{
    xb_members_t *m = new_members();
    xb_decay_t dear = {.half_life_s = 60, .busy_half_life_s = 10, .request_cost = 1e9};
    double t, o;

    m->member[0].requests = 1000000;
    xb_member_join(m, 0, 7, 50, 0);
    m->member[0].requests += 1;
    xb_member_read(m, 0, &dear, 7, &t, &o);
    ok(near(t, 1e9 + 50), "another request cost concerns new requests only");
    free_members(m);
}

/* ---- readers while a tick writes. Both figures are always the same number, and nothing
 * decays. */

static _Atomic bool stop;
static xb_members_t *stress;

static void *tick_on(void *unused)
{
    for (unsigned n = 1; !stop; n++)
        xb_member_join(stress, 0, 1, n, n);
    return unused;
}

static unsigned torn_reads(const xb_members_t *m, unsigned reads)
{
    unsigned torn = 0;

    for (unsigned n = 0; n < reads; n++) {
        double t = -1, o = -2;

        torn += !xb_member_read(m, 0, &decay, 1, &t, &o) || t != o;
    }
    return torn;
}

static bool read_on(xb_members_t *m, unsigned process)
{
    (void)process;
    return torn_reads(m, 20000) == 0;
}

static void readers_and_tick(void)
{
    pthread_t tick;

    stress = new_members();
    xb_member_join(stress, 0, 1, 0, 0);
    pthread_create(&tick, NULL, tick_on, NULL);
    ok(in_processes(read_on, stress), "4 processes never see a torn pair while a tick writes");
    is_int(torn_reads(stress, 20000), 0, "nor does a thread");
    stop = true;
    pthread_join(tick, NULL);
    free_members(stress);
}

static void tick_twice(int signal)
{
    static unsigned n;

    (void)signal;
    n++;
    xb_member_join(stress, 0, 1, n, n);
    n++;
    xb_member_join(stress, 0, 1, n, n);
}

/* Two ticks between any two instructions of a reader: a signal is the meanest scheduler. */
static void interrupted_reader(void)
{
    struct itimerval often = {{0, 20}, {0, 20}}, never = {{0, 0}, {0, 0}};
    unsigned torn = 0;

    stress = new_members();
    xb_member_join(stress, 0, 1, 0, 0);
    signal(SIGALRM, tick_twice);
    setitimer(ITIMER_REAL, &often, NULL);
    while (stress->member[0].seq < TICKS)
        torn += torn_reads(stress, 100);
    setitimer(ITIMER_REAL, &never, NULL);
    signal(SIGALRM, SIG_IGN);
    is_int(torn, 0, "a reader interrupted by two ticks, %d times", TICKS / 2);
    free_members(stress);
}

/* A tick killed half-way: its words lie in the state that is not in force. */
static void killed_tick(void)
{
    xb_members_t *m = new_members();
    unsigned torn = 0;

    xb_member_join(m, 0, 1, 5, 5);
    m->member[0].figures[(m->member[0].seq + 1) & 1].traffic_bits = UINT64_MAX;
    is_figures(m, 1, 5, 5, "a half-written state is not read");
    xb_member_fold(m, 0, &decay, 1);
    is_figures(m, 1, 5, 5, "and the next tick writes over it");
    for (int i = 0; i < 20; i++) {
        uint32_t seq = m->member[0].seq;
        pid_t pid = fork_child();

        for (unsigned n = 1; pid == 0; n++)
            xb_member_join(m, 0, 1, n, n);
        while (m->member[0].seq - seq < 100)
            sched_yield();
        kill(pid, SIGKILL);
        waitpid(pid, NULL, 0);
        torn += torn_reads(m, 1);
    }
    is_int(torn, 0, "kill -9 of the ticking process 20 times: figures stay whole");
    free_members(m);
}

/* A credit decays as fast as the work itself, when it comes, is noticed. */
static void credits(void)
{
    xb_members_t *m = new_members();

    xb_member_find(m, XB_MEMBERS_MAX);
    xb_member_join(m, 0, 1 * S, 1000, 3);
    xb_member_credit(m, 0, 500, 0.5);
    is_figures(m, 1 * S, 1500, 3.5, "credit: counts at once");
    xb_member_fold(m, 0, &decay, 1 * S);
    is_figures(m, 11 * S, 1500 * exp2(-1 / 6.0), 1.75, "credit: decays");
    xb_member_credit(m, 0, -500, -8);
    is_figures(m, 11 * S, 1500 * exp2(-1 / 6.0) - 500, 0, "credit: never below zero");
    xb_member_credit(m, 0, NAN, INFINITY);
    xb_member_credit(m, XB_MEMBER_NONE, 500, 1);
    is_figures(m, 11 * S, 1500 * exp2(-1 / 6.0) - 500, 0, "credit: absurd, or nobody's: none");
    free_members(m);
}

int main(void)
{
    full_table();
    register_by_threads();
    register_by_processes();
    in_flight();
    irregular_ticks();
    fold_fleet();
    occupancy_mean();
    reading_is_folding();
    counters_wrap();
    credit_and_debt();
    newcomers();
    another_request_cost();
    readers_and_tick();
    interrupted_reader();
    killed_tick();
    credits();
    return done();
}
