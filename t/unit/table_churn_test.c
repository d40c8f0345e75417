/* SPDX-License-Identifier: Apache-2.0 */
/* Session table under four processes of four threads, with a mover that gates, commits, gives
 * up and is slow, over far more sessions than fit. */
#include <pthread.h>
#include <sched.h>
#include <sys/wait.h>

#include "table_help.h"

#define PROCESSES 4
#define THREADS 4
#define ROUNDS 15000
#define SESSIONS 60
#define TAGS 130
#define CLAIMS 8
#define HALF_LIFE 60

/* Even sessions are never fenced: while the mover has one's gate shut, nothing of it may run.
 */
typedef struct {
    _Atomic int64_t now;
    _Atomic unsigned running[TAGS], finished, wrong;
    _Atomic unsigned entered, made, displaced, gated, committed, stale, uncounted;
} shared_t;

static xb_table_t *table;
static shared_t *shared;
static int child;

static void wrong(const char *what, unsigned tag)
{
    if (atomic_fetch_add(&shared->wrong, 1) < 10) {
        diag("%s, session %u", what, tag);
        fflush(stdout);
    }
}

static int64_t tick(void)
{
    return atomic_fetch_add(&shared->now, 1000);
}

static unsigned number_of(uint64_t tag)
{
    for (unsigned i = 0; i < TAGS; i++)
        if (nth_tag(i) == tag)
            return i;
    return TAGS;
}

/* ---- requests */

static bool get_in(unsigned tag, uint64_t *seed, xb_ref_t *ref)
{
    char text[XB_ID_MAX + 1];
    bool forgot;
    for (;;) {
        switch (xb_table_enter(table, (unsigned)child, nth_tag(tag), tick(), ref)) {
        case XB_ENTER_IN:
            shared->entered++;
            return true;
        case XB_ENTER_GATE:
            sched_yield();
            continue;
        case XB_ENTER_UNCOUNTED:
            shared->uncounted++;
            return false;
        default:
            break;
        }
        xb_span_t id = make_id(text, nth_tag(tag), below(seed, 9999));
        switch (xb_table_insert(table, (unsigned)child, nth_tag(tag), id, below(seed, 5), 0, 0,
                                tick(), ref, &forgot)) {
        case XB_INSERT_NEW:
            shared->made++;
            shared->displaced += forgot;
            return true;
        case XB_INSERT_FULL:
            return false;
        default:
            continue;
        }
    }
}

static void request(uint64_t *seed)
{
    unsigned tag = below(seed, 4) ? below(seed, TAGS) : below(seed, 4);
    char text[XB_ID_MAX + 1];
    xb_ref_t ref;
    if (!get_in(tag, seed, &ref))
        return;
    shared->running[tag]++;
    if (tag % 2 == 0 && !xb_table_current(table, &ref))
        wrong("given up without a fence", tag);
    if (below(seed, 4) == 0)
        xb_table_learn(table, &ref, make_id(text, nth_tag(tag), below(seed, 9999)), -1);
    if (below(seed, 16) == 0)
        xb_table_visit(table, ref.slot, below(seed, 5), tick());
    if (below(seed, 64) == 0)
        xb_table_flag(table, ref.slot, XB_SESSION_ENDED, 0);
    if (below(seed, 8) == 0)
        sched_yield();
    shared->running[tag]--;
    xb_table_leave(table, &ref, tick(), 0, 100, HALF_LIFE);
}

static void *requests(void *arg)
{
    uint64_t seed = *(uint64_t *)arg;
    for (unsigned n = 0; n < ROUNDS; n++)
        request(&seed);
    return NULL;
}

static void process(unsigned p)
{
    pthread_t thread[THREADS];
    uint64_t seed[THREADS];
    child = xb_table_child_open(table, getpid());
    for (unsigned i = 0; i < THREADS; i++) {
        seed[i] = p * THREADS + i + 1;
        pthread_create(&thread[i], NULL, requests, &seed[i]);
    }
    for (unsigned i = 0; i < THREADS; i++)
        pthread_join(thread[i], NULL);
    xb_table_child_close(table, (unsigned)child);
    shared->finished++;
    _exit(0);
}

/* ---- the mover */

static void end_move(uint32_t slot, unsigned token, unsigned tag, uint64_t *seed)
{
    char text[XB_ID_MAX + 1];
    xb_span_t id = make_id(text, nth_tag(tag), below(seed, 9999));
    unsigned old = token;
    if (below(seed, 3) == 0) {
        if (!xb_table_regate(table, slot, &token))
            wrong("a shut gate is not regated", tag);
        if (xb_table_commit(table, slot, old, 4, id, tick(), 0) ||
            xb_table_abort(table, slot, old, 0))
            wrong("a stale token counts", tag);
        shared->stale++;
    }
    if (below(seed, 2)) {
        shared->committed += xb_table_commit(table, slot, token, below(seed, 5), id, tick(), 0);
    }
    else if (!xb_table_abort(table, slot, token, 0))
        wrong("the right token does not count", tag);
    if (xb_table_commit(table, slot, token, 4, id, tick(), 0))
        wrong("a token counts twice", tag);
}

static void move(uint32_t slot, uint64_t *seed)
{
    char id[XB_ID_MAX + 1];
    unsigned token, path;
    xb_view_t v;
    if (!xb_table_view(table, slot, &v))
        return;
    unsigned tag = number_of(atomic_load(&xb_table_tags(table)[slot]));
    bool fence = tag % 2 && below(seed, 2);
    if (v.w.state != XB_STABLE || (v.w.inflight && !fence) ||
        !xb_table_gate(table, slot, v.word, below(seed, 5), fence, tick(), &token))
        return;
    tag = number_of(atomic_load(&xb_table_tags(table)[slot])); /* stands still now */
    if (tag == TAGS) {
        wrong("a gate without a session", slot);
        return;
    }
    if (!fence && tag % 2 == 0 && shared->running[tag])
        wrong("runs behind the gate", tag);
    if (!xb_table_id(table, slot, token, id, &path) || !whole_id(id, nth_tag(tag)))
        wrong("another's or half an id", tag);
    if (below(seed, 4) == 0)
        sched_yield();
    if (!fence && tag % 2 == 0 && shared->running[tag])
        wrong("passed the gate", tag);
    if (xb_table_find(table, nth_tag(tag)) != slot)
        wrong("forgotten behind the gate", tag);
    end_move(slot, token, tag, seed);
    shared->gated++;
}

static void mover(void)
{
    uint64_t seed = 99;
    unsigned walks = 0;
    while (shared->finished < PROCESSES) {
        for (uint32_t slot = 0; slot < xb_table_slots(table); slot++)
            move(slot, &seed);
        if (++walks % 8 == 0 && bad_slots(table))
            wrong("contradictions", walks);
        sched_yield();
    }
    _exit(0);
}

static pid_t spawn(unsigned p)
{
    pid_t pid;
    fflush(stdout);
    if ((pid = fork()) < 0) {
        puts("Bail out! no fork");
        exit(1);
    }
    if (pid)
        return pid;
    if (p < PROCESSES)
        process(p);
    mover();
    return 0;
}

int main(void)
{
    pid_t pid[PROCESSES + 1];
    unsigned gates, good = 0;
    table = new_table(SESSIONS, PROCESSES, CLAIMS);
    shared =
        mmap(NULL, sizeof *shared, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    shared->now = 1000 * S;
    for (unsigned p = 0; p <= PROCESSES; p++)
        pid[p] = spawn(p);
    for (unsigned p = 0; p <= PROCESSES; p++) {
        int status;
        good += waitpid(pid[p], &status, 0) == pid[p] && status == 0;
    }
    is_int(good, PROCESSES + 1, "all processes ended well");
    is_int(shared->wrong, 0, "no rule broken");
    is_int(busy(table, &gates), 0, "no session is busy");
    is_int(gates, 0, "no gate is shut");
    is_int(bad_slots(table), 0, "no contradiction");
    is_int(xb_table_repair(table, 0), 0, "nothing to repair");
    for (unsigned p = 0; p < PROCESSES; p++)
        is_int(xb_table_child_pid(table, p), 0, "row %u is free", p);
    ok(shared->displaced > 100 && shared->gated > 300 && shared->committed > 50 &&
           shared->stale > 50,
       "enough happened");
    diag("entered %u, made %u, displaced %u, uncounted %u, gated %u, committed %u, stale %u",
         shared->entered, shared->made, shared->displaced, shared->uncounted, shared->gated,
         shared->committed, shared->stale);
    return done();
}
