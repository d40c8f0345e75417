/* SPDX-License-Identifier: Apache-2.0 */
/* Session table whose children are killed: at random moments of a crowd of operations, and
 * after each instruction of every single one. Then nothing may be locked, busy or half done. */
#include <linux/futex.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <sys/ptrace.h>
#include <sys/wait.h>

#include "table_help.h"

#define KILLS 250
#define TAGS 90
#define HELD 12 /* by the parent, which lives */
#define STEPS_MAX 20000

static xb_table_t *table;
static _Atomic uint64_t *done_ops; /* by the child, in shared memory */
static int parent, child;
static unsigned in_lock, with_claims, wrong;

static void expect(bool good, const char *what, unsigned n)
{
    if (!good && wrong++ < 20)
        diag("%s, at %u", what, n);
}

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

/* ---- what the parent finds */

static void recover(pid_t pid)
{
    int row = xb_table_child_dead(table, pid);
    in_lock += atomic_load(&table->dirty) != 0;
    for (uint32_t slot = 0; slot < xb_table_slots(table); slot++) {
        unsigned token;
        if (xb_table_regate(table, slot, &token))
            expect(xb_table_abort(table, slot, token, 0), "a regated gate opens", slot);
    }
    with_claims += xb_table_repair(table) > 0;
    expect(row < 0 || xb_table_child_pid(table, (unsigned)row) == 0, "row of the dead", 0);
}

/* Each session's count is that of the parent's requests; its id is whole or not known. */
static void examine(const xb_ref_t held[HELD], unsigned n)
{
    unsigned dead_rows = 0;
    for (uint32_t slot = 0; slot < xb_table_slots(table); slot++) {
        unsigned mine = 0, token, path;
        char id[XB_ID_MAX + 1];
        xb_view_t v;
        if (!xb_table_view(table, slot, &v))
            continue;
        for (unsigned i = 0; i < HELD; i++)
            mine += held[i].slot == slot && xb_table_current(table, &held[i]);
        expect(v.w.inflight == mine, "requests in flight", n);
        expect(v.w.state == XB_STABLE, "gate", n);
        expect(xb_table_gate(table, slot, v.word, 1, false, S, &token), "can be moved", n);
        if (xb_table_id(table, slot, token, id, &path))
            expect(whole_id(id, atomic_load(&xb_table_tags(table)[slot])), "id", n);
        expect(xb_table_abort(table, slot, token, 0), "can be left", n);
    }
    for (unsigned row = 0; row < table->dim.children; row++)
        dead_rows += xb_row_state(xb_table_row(table, row)) == XB_ROW_DEAD;
    expect(!dead_rows, "no row is left dead", n);
    expect(!bad_slots(table), "contradictions", n);
}

static void begin(uint32_t sessions)
{
    table = new_table(sessions, 3, 6);
    parent = xb_table_child_open(table, getpid());
    wrong = in_lock = with_claims = 0;
}

static bool hold(uint64_t tag, xb_ref_t *ref)
{
    char text[XB_ID_MAX + 1];
    bool forgot;
    return xb_table_enter(table, (unsigned)parent, tag, 2000 * S, ref) == XB_ENTER_IN ||
           xb_table_insert(table, (unsigned)parent, tag, make_id(text, tag, 1), 1, 0, 0,
                           2000 * S, ref, &forgot) == XB_INSERT_NEW;
}

/* ---- killed at random moments, two threads each */

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

/* ---- killed after each instruction of one operation */

static xb_ref_t own;
static uint32_t victim;
static unsigned own_token;
static char text50[XB_ID_MAX + 1], text1[XB_ID_MAX + 1];
static xb_span_t id50, id1;

static void do_insert(void)
{
    bool forgot;
    xb_table_insert(table, (unsigned)child, nth_tag(50), id50, 2, 0, 0, 3000 * S, &own,
                    &forgot);
}

static void do_enter(void)
{
    xb_table_enter(table, (unsigned)child, nth_tag(1), 3000 * S, &own);
}

static void do_leave(void)
{
    xb_table_leave(table, &own, 3000 * S, 0, 50, 60);
}

static void do_learn(void)
{
    xb_table_learn(table, &own, id1, 2);
}

static void do_gate(void)
{
    xb_view_t v;
    xb_table_view(table, victim, &v);
    xb_table_gate(table, victim, v.word, 3, true, 3000 * S, &own_token);
}

static void do_commit(void)
{
    xb_table_commit(table, victim, own_token, 3, id1, 3000 * S, 0);
}

static void do_abort(void)
{
    xb_table_abort(table, victim, own_token, 0);
}

static void do_end(void)
{
    xb_table_flag(table, xb_table_find(table, nth_tag(2)), XB_SESSION_ENDED, 0);
}

static void do_close(void)
{
    xb_table_child_close(table, (unsigned)child);
}

static void nothing(void)
{
}

typedef struct {
    const char *name;
    void (*before)(void), (*op)(void);
} stepped_t;

/* Runs `before`, then stops; the parent steps it through `op`. */
static pid_t traced(const stepped_t *s)
{
    fflush(stdout);
    pid_t pid = fork();
    if (pid)
        return pid;
    child = xb_table_child_open(table, getpid());
    s->before();
    if (ptrace(PTRACE_TRACEME, 0, NULL, NULL))
        _exit(2);
    raise(SIGSTOP);
    s->op();
    raise(SIGSTOP);
    _exit(0);
}

/* What the kernel does to a robust lock whose owner dies: glibc has the futex first. */
static void bury(pthread_mutex_t *lock)
{
    _Atomic int *futex = (_Atomic int *)lock;
    if (atomic_load(futex))
        atomic_store(futex, (int)FUTEX_OWNER_DIED);
}

/* As if the child, which stands still, were dead; afterwards all is as it was. */
static void pretend_dead(pid_t pid, const xb_ref_t held[HELD], void *saved, unsigned step)
{
    xb_ref_t ref;
    memcpy(saved, table, table->size);
    bury(&table->lock);
    recover(pid);
    examine(held, step);
    expect(hold(nth_tag(60), &ref), "another can be made", step);
    memcpy(table, saved, table->size);
}

/* A table where insert must displace; sessions 0 and 1 are in flight in the parent, too. */
static void prepare(xb_ref_t held[HELD])
{
    xb_ref_t ref;
    begin(1);
    for (unsigned i = 0; i < HELD; i++)
        held[i].slot = XB_SLOT_NONE;
    hold(nth_tag(0), &held[0]);
    hold(nth_tag(1), &held[1]);
    for (unsigned i = 2; i < xb_table_slots(table); i++)
        if (hold(nth_tag(i), &ref))
            xb_table_leave(table, &ref, 2000 * S, 0, 0, 60);
    victim = xb_table_find(table, nth_tag(1));
    id50 = make_id(text50, nth_tag(50), 33);
    id1 = make_id(text1, nth_tag(1), 44);
}

/* The number of states that another could find the table in; 0: cannot trace. */
static unsigned step_through(const stepped_t *s, unsigned *steps)
{
    xb_ref_t held[HELD];
    unsigned states = 0;
    int status;
    prepare(held);
    void *saved = calloc(1, table->size);
    pid_t pid = traced(s);
    for (*steps = 0; *steps < STEPS_MAX; ++*steps) {
        bool stands = waitpid(pid, &status, 0) == pid && WIFSTOPPED(status);
        if (!stands || (*steps && WSTOPSIG(status) != SIGTRAP))
            break;
        if (memcmp(saved, table, table->size) != 0) {
            states++;
            pretend_dead(pid, held, saved, *steps);
        }
        ptrace(PTRACE_SINGLESTEP, pid, NULL, NULL);
    }
    expect(!states || (WIFSTOPPED(status) && WSTOPSIG(status) == SIGSTOP), "steps", *steps);
    kill(pid, SIGKILL);
    waitpid(pid, &status, 0);
    free(saved);
    free_table(table);
    return states;
}

static void test_stepped(void)
{
    static const stepped_t all[] = {
        {"insert", nothing, do_insert}, {"enter", nothing, do_enter},
        {"leave", do_enter, do_leave},  {"learn", do_enter, do_learn},
        {"gate", do_enter, do_gate},    {"commit", do_gate, do_commit},
        {"abort", do_gate, do_abort},   {"end", nothing, do_end},
        {"close", do_enter, do_close}};
    for (size_t i = 0; i < sizeof all / sizeof *all; i++) {
        unsigned steps, states = step_through(&all[i], &steps);
        if (!states)
            ok(true, "%s # SKIP a child cannot be traced here", all[i].name);
        else
            is_int(wrong, 0, "%s: dead after any of %u instructions, in %u states", all[i].name,
                   steps, states);
        diag("%u while changing the table, %u with requests in flight", in_lock, with_claims);
    }
}

int main(void)
{
    done_ops = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    test_random();
    test_stepped();
    return done();
}
