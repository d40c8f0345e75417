/* SPDX-License-Identifier: Apache-2.0 */
/* Session table whose child is stepped through single operations: as if it died after each of
 * its instructions, and with another's operation between any two. */
#include <linux/futex.h>
#include <pthread.h>
#include <signal.h>
#include <sys/ptrace.h>
#include <sys/wait.h>

#include "table_kill.h"

#define STEPS_MAX 20000
#define POINTS 30

/* ---- killed after each instruction of one operation */

/* What the child has got, for the parent to see. */
typedef struct {
    xb_ref_t ref;
    xb_enter_t entered;
    unsigned token;
    bool gated;
    uint64_t seen;
} got_t;

static got_t *got;
static uint32_t victim; /* slot of session 1 */
static char text50[XB_ID_MAX + 1], text1[XB_ID_MAX + 1];
static xb_span_t id50, id1;

static void do_insert(void)
{
    bool forgot;
    xb_table_insert(table, (unsigned)child, nth_tag(50), id50, 2, 0, 0, 3000 * S, &got->ref,
                    &forgot);
}

static void do_enter(void)
{
    got->entered = xb_table_enter(table, (unsigned)child, nth_tag(1), 3000 * S, &got->ref);
}

static void do_leave(void)
{
    xb_table_leave(table, &got->ref, 3000 * S, 0, 50, 60);
}

static void do_learn(void)
{
    xb_table_learn(table, &got->ref, id1, 2);
}

static void do_look(void)
{
    xb_view_t v;
    xb_table_view(table, victim, &v);
    got->seen = v.word;
}

static void do_gate(void)
{
    got->gated = xb_table_gate(table, victim, got->seen, 3, true, 3000 * S, &got->token);
}

static void look_and_gate(void)
{
    do_look();
    do_gate();
}

static void enter_and_look(void)
{
    do_enter();
    do_look();
}

static void do_commit(void)
{
    xb_table_commit(table, victim, got->token, 3, id1, 3000 * S, 0);
}

static void do_abort(void)
{
    xb_table_abort(table, victim, got->token, 0);
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

static void bury_child(pid_t pid, int status)
{
    if (!WIFSTOPPED(status))
        return; /* is gone */
    kill(pid, SIGKILL);
    waitpid(pid, &status, 0);
}

/* What the kernel does to a robust lock whose owner dies: glibc has the futex first. */
static void bury(pthread_mutex_t *lock)
{
    _Atomic int *futex = (_Atomic int *)lock;
    if (atomic_load(futex))
        atomic_store(futex, (int)FUTEX_OWNER_DIED);
}

/* At its new home a session has its new id, or none that is known. */
static void examine_commit(unsigned step)
{
    char id[XB_ID_MAX + 1];
    unsigned token, path;
    xb_view_t v;
    if (!xb_table_view(table, victim, &v) || v.w.home != 3 ||
        !xb_table_gate(table, victim, v.word, 1, false, S, &token))
        return;
    if (xb_table_id(table, victim, token, id, &path))
        expect(strcmp(id, text1) == 0, "old id at the new home", step);
    xb_table_abort(table, victim, token, 0);
}

/* As if the child, which stands still, were dead; afterwards all is as it was. */
static void pretend_dead(pid_t pid, const xb_ref_t held[HELD], void *saved, unsigned step)
{
    xb_ref_t ref;
    memcpy(saved, table, table->size);
    bury(&table->lock);
    recover(pid);
    examine(held, step);
    examine_commit(step);
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
    bury_child(pid, status);
    free(saved);
    free_table(table);
    return states;
}

static void test_stepped(void)
{
    static const stepped_t all[] = {
        {"insert", nothing, do_insert},     {"enter", nothing, do_enter},
        {"leave", do_enter, do_leave},      {"learn", do_enter, do_learn},
        {"gate", enter_and_look, do_gate},  {"commit", look_and_gate, do_commit},
        {"abort", look_and_gate, do_abort}, {"end", nothing, do_end},
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

/* ---- another's operation between two instructions */

#define OTHER_PID 777

static xb_enter_t others;

/* A third child, with a request of session 1 in flight, dies and is repaired. */
static void b_repair(void)
{
    xb_table_child_dead(table, OTHER_PID);
    xb_table_repair(table, 0);
}

static void b_displace(void)
{
    xb_ref_t ref;
    if (hold(nth_tag(70), &ref))
        xb_table_leave(table, &ref, 2000 * S, 0, 0, 60);
}

static void b_enter(void)
{
    xb_ref_t ref;
    others = xb_table_enter(table, (unsigned)parent, nth_tag(1), 2000 * S, &ref);
}

typedef struct {
    stepped_t a;
    void (*b)(void);
    bool third;        /* is there a third child? */
    unsigned inflight; /* of session 1 in the end, if the child got in */
} pair_t;

/* Session 1 is the longest idle, so the next to be displaced. */
static void prepare_pair(const pair_t *p)
{
    xb_ref_t ref;
    begin(1);
    for (unsigned i = 1; i <= xb_table_slots(table); i++)
        if (hold(nth_tag(i), &ref))
            xb_table_leave(table, &ref, (2000 + i) * S, 0, 0, 60);
    victim = xb_table_find(table, nth_tag(1));
    memset(got, 0, sizeof *got);
    others = XB_ENTER_UNKNOWN;
    if (!p->third)
        return;
    int third = xb_table_child_open(table, OTHER_PID);
    expect(xb_table_enter(table, (unsigned)third, nth_tag(1), 2000 * S, &ref) == XB_ENTER_IN,
           "the third is in", 0);
}

static void examine_pair(const pair_t *p, unsigned n)
{
    bool in = got->entered == XB_ENTER_IN;
    unsigned gates, sum;
    xb_table_repair(table, 0); /* what could not be settled before */
    expect(bad_slots(table) == 0, "contradictions", n);
    if (p->b == b_enter) {
        expect(got->gated != (others == XB_ENTER_IN), "gate and request exclude each other", n);
        return;
    }
    sum = busy(table, &gates);
    expect(sum == (in ? p->inflight : 0), "requests in flight", n);
    if (in && p->inflight)
        expect(atomic_load(&xb_table_tags(table)[got->ref.slot]) == nth_tag(1) &&
                   xb_table_current(table, &got->ref),
               "in its own session", n);
    expect(p->third || in || xb_table_find(table, nth_tag(1)) == XB_SLOT_NONE,
           "not in only if forgotten", n);
}

/* Lets the other's operation happen after n instructions. How many there are; 0: cannot trace.
 * changed: is told after which of them the table was another. */
static unsigned interleave(const pair_t *p, unsigned n, bool *changed)
{
    int status;
    unsigned steps = 0;
    prepare_pair(p);
    void *saved = calloc(1, table->size);
    pid_t pid = traced(&p->a);
    while (waitpid(pid, &status, 0) == pid && WIFSTOPPED(status) &&
           (steps == 0 || WSTOPSIG(status) == SIGTRAP)) {
        if (steps == n)
            p->b();
        if (changed && steps < STEPS_MAX) {
            changed[steps] = memcmp(saved, table, table->size) != 0;
            memcpy(saved, table, table->size);
        }
        ptrace(steps < n ? PTRACE_SINGLESTEP : PTRACE_CONT, pid, NULL, NULL);
        steps++;
    }
    if (WIFSTOPPED(status) && n < STEPS_MAX)
        examine_pair(p, n);
    bury_child(pid, status);
    free(saved);
    free_table(table);
    return steps;
}

static void test_pairs(void)
{
    static const pair_t all[] = {
        {{"enter while another displaces", nothing, do_enter}, b_displace, false, 1},
        {{"enter while another repairs", nothing, do_enter}, b_repair, true, 1},
        {{"leave while another repairs", do_enter, do_leave}, b_repair, true, 0},
        {{"gate while another enters", do_look, do_gate}, b_enter, false, 0}};
    for (size_t i = 0; i < sizeof all / sizeof *all; i++) {
        static bool changed[STEPS_MAX];
        unsigned bad = 0, points = 0, whole = interleave(&all[i], STEPS_MAX, changed);
        for (unsigned n = 0; n < whole; n++)
            if (changed[n] || n % (1 + whole / POINTS) == 0) {
                interleave(&all[i], n, NULL);
                bad += wrong;
                points++;
            }
        if (whole < 2)
            ok(true, "%s # SKIP a child cannot be traced here", all[i].a.name);
        else
            is_int(bad, 0, "%s, at %u of %u instructions", all[i].a.name, points, whole);
    }
}

int main(void)
{
    got = mmap(NULL, sizeof *got, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    test_stepped();
    test_pairs();
    return done();
}
