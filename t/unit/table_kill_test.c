/* SPDX-License-Identifier: Apache-2.0 */
/* Session table whose children are killed at random moments of a crowd of operations. Then
 * nothing may be locked, busy or half done. */
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <sys/wait.h>

#include "table_kill.h"

#define KILLS 250
#define TAGS 90

static _Atomic uint64_t *done_ops; /* by the child, in shared memory */

/* ---- what the children do */

static uint64_t random_gate(uint64_t *seed, uint32_t slot)
{
    char text[XB_ID_MAX + 1];
    unsigned token;
    xb_view_t v;
    if (!xb_table_view(table, slot, &v) ||
        !xb_table_gate(table, slot, v.word, 3, below(seed, 2), 2000 * S, &token))
        return 0;
    xb_span_t id = make_id(text, atomic_load(&xb_table_tags(table)[slot]), below(seed, 9999));
    if (below(seed, 2))
        return xb_table_commit(table, slot, token, below(seed, 5), id, 2000 * S, 0);
    return xb_table_abort(table, slot, token, 0);
}

static void random_op(uint64_t *seed)
{
    uint64_t tag = nth_tag(below(seed, TAGS));
    char text[XB_ID_MAX + 1];
    bool forgot;
    xb_ref_t ref;
    xb_span_t id = make_id(text, tag, below(seed, 9999));
    if (below(seed, 8) == 0)
        random_gate(seed, below(seed, xb_table_slots(table)));
    if (xb_table_enter(table, (unsigned)child, tag, 2000 * S, &ref) != XB_ENTER_IN &&
        xb_table_insert(table, (unsigned)child, tag, id, 1, 0, 0, 2000 * S, &ref, &forgot) !=
            XB_INSERT_NEW)
        return;
    if (below(seed, 2))
        xb_table_learn(table, &ref, make_id(text, tag, below(seed, 9999)), -1);
    if (below(seed, 8) == 0)
        xb_table_flag(table, ref.slot, XB_SESSION_ENDED, 0);
    xb_table_leave(table, &ref, 2000 * S, 0, 100, 60);
}

static void *random_ops(void *arg)
{
    uint64_t seed = *(uint64_t *)arg;
    for (;;) {
        random_op(&seed);
        atomic_fetch_add(done_ops, 1);
    }
    return NULL;
}

/* ---- two threads each */

static pid_t spawn(uint64_t seed)
{
    pthread_t thread;
    uint64_t seeds[] = {seed, seed + 1};
    fflush(stdout);
    pid_t pid = fork();
    if (pid)
        return pid;
    child = xb_table_child_open(table, getpid());
    pthread_create(&thread, NULL, random_ops, &seeds[0]);
    random_ops(&seeds[1]);
    _exit(0);
}

static void test_random(void)
{
    uint64_t seed = 5;
    xb_ref_t held[HELD];
    begin(40);
    for (unsigned n = 0; n < KILLS && wrong < 20; n++) {
        unsigned holding = below(&seed, 6);
        for (unsigned i = 0; i < HELD; i++)
            held[i].slot = XB_SLOT_NONE;
        for (unsigned i = 0; i < holding; i++)
            if (!hold(nth_tag(below(&seed, 10)), &held[i]))
                held[i].slot = XB_SLOT_NONE;
        uint64_t until = atomic_load(done_ops) + 20 + below(&seed, 400);
        pid_t pid = spawn(seed);
        while (pid > 0 && atomic_load(done_ops) < until)
            sched_yield();
        expect(pid > 0 && !kill(pid, SIGKILL) && waitpid(pid, NULL, 0) == pid, "killed", n);
        recover(pid);
        examine(held, n);
        for (unsigned i = 0; i < holding; i++)
            if (held[i].slot != XB_SLOT_NONE)
                xb_table_leave(table, &held[i], 2000 * S, 0, 0, 60);
    }
    is_int(wrong, 0, "%d killed at random moments: nothing locked, busy or half done", KILLS);
    ok(with_claims > KILLS / 20, "%u of them had requests in flight", with_claims);
    diag("%u were changing the table", in_lock);
    free_table(table);
}

int main(void)
{
    done_ops = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    test_random();
    return done();
}
