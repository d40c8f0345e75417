/* SPDX-License-Identifier: Apache-2.0 */
/* Session table under ThreadSanitizer: eight threads of two children, the movers among them,
 * over more sessions than fit; one plays a child that comes and goes. */
#include <pthread.h>
#include <sched.h>

#include "table_help.h"

#define THREADS 8
#define ROUNDS 4000
#define TAGS 60

static xb_table_t *table;
static int child[2];
static _Atomic int64_t now = 1000 * S;
static _Atomic unsigned wrong, commits, entered;

static void request(unsigned c, uint64_t *seed)
{
    uint64_t tag = nth_tag(below(seed, TAGS));
    char text[XB_ID_MAX + 1];
    int64_t at = atomic_fetch_add(&now, 1000);
    bool forgot;
    xb_ref_t ref;
    xb_span_t id = make_id(text, tag, below(seed, 9999));
    xb_enter_t in = xb_table_enter(table, c, tag, at, &ref);
    if (in == XB_ENTER_GATE || in == XB_ENTER_UNCOUNTED)
        return;
    if (in == XB_ENTER_UNKNOWN && xb_table_insert(table, c, tag, id, below(seed, 4), 0, 0, at,
                                                  &ref, &forgot) != XB_INSERT_NEW)
        return;
    entered++;
    if (below(seed, 3) == 0)
        xb_table_learn(table, &ref, make_id(text, tag, below(seed, 9999)), 1);
    if (below(seed, 8) == 0)
        xb_table_visit(table, ref.slot, below(seed, 8), at);
    if (below(seed, 32) == 0)
        xb_table_rehome(table, ref.slot, ref.home, below(seed, 4), at);
    if (below(seed, 32) == 0)
        xb_table_flag(table, ref.slot, XB_SESSION_ENDED, 0);
    xb_table_leave(table, &ref, at, at + S, 100, 60);
}

static void move(uint32_t slot, uint64_t *seed)
{
    char id[XB_ID_MAX + 1];
    unsigned token, path;
    int64_t at = atomic_fetch_add(&now, 1000);
    xb_view_t v;
    if (!xb_table_view(table, slot, &v) ||
        !xb_table_gate(table, slot, v.word, 3, below(seed, 2), at, &token))
        return;
    uint64_t tag = atomic_load(&xb_table_tags(table)[slot]);
    if (!xb_table_id(table, slot, token, id, &path) || !whole_id(id, tag))
        wrong++;
    xb_table_max_inactive(table, slot, token, 1800);
    if (below(seed, 4) == 0 && !xb_table_regate(table, slot, &token))
        wrong++;
    if (below(seed, 4) == 0 && !xb_table_fence(table, slot, token))
        wrong++;
    if (below(seed, 2) ? !xb_table_abort(table, slot, token, at)
                       : !xb_table_commit(table, slot, token, below(seed, 4),
                                          make_id(id, tag, below(seed, 9999)), at, at))
        wrong++;
    commits++;
}

static void *work(void *arg)
{
    unsigned me = *(unsigned *)arg;
    uint64_t seed = me;
    for (unsigned n = 0; n < ROUNDS; n++) {
        if (me > 1)
            request((unsigned)child[me % 2], &seed);
        else if (n % 4 == 0)
            move(below(&seed, xb_table_slots(table)), &seed);
        if (me == 0 && n % 200 == 0)
            wrong += bad_slots(table);
        if (me == 1 && n % 50 == 0) {
            int third = xb_table_child_open(table, 3);
            request((unsigned)third, &seed);
            xb_table_child_dead(table, 3);
            xb_table_repair(table, 0);
        }
        if (n % 64 == 0)
            sched_yield();
    }
    return NULL;
}

int main(void)
{
    pthread_t thread[THREADS];
    unsigned number[THREADS], gates;
    table = new_table(30, 3, 8);
    child[0] = xb_table_child_open(table, 1);
    child[1] = xb_table_child_open(table, 2);
    for (unsigned i = 0; i < THREADS; i++) {
        number[i] = i;
        pthread_create(&thread[i], NULL, work, &number[i]);
    }
    for (unsigned i = 0; i < THREADS; i++)
        pthread_join(thread[i], NULL);
    is_int(wrong, 0, "no rule broken");
    is_int(busy(table, &gates), 0, "no session is busy");
    is_int(gates, 0, "no gate is shut");
    is_int(bad_slots(table), 0, "no contradiction");
    ok(commits > 100 && entered > 1000, "enough happened: %u moves, %u requests", commits,
       entered);
    free_table(table);
    return done();
}
