/* SPDX-License-Identifier: Apache-2.0 */
/* Session table against a simple model of it: random operations from fixed seeds, every answer
 * and every entry compared, children that die among them. */
#include "table_help.h"

#define STEPS 60000
#define TAGS 150
#define REFS 30
#define CHILDREN 3
#define MEMBERS 9

typedef struct {
    bool there, moving;
    uint32_t slot, requests, inactive_s;
    unsigned home, flags, target, path, token, inflight;
    unsigned life; /* epoch: requests of another one count nothing */
    int64_t last_us, bar_us, gated_us, created_us;
    unsigned visited[XB_VISITED_MAX]; /* member + 1 */
    int64_t touched_ms[XB_VISITED_MAX];
    char id[XB_ID_MAX + 1];
} model_t;

typedef struct {
    bool held;
    unsigned tag, life;
    xb_ref_t ref;
} held_t;

static xb_table_t *table;
static model_t model[TAGS];
static held_t held[REFS];
static int child[CHILDREN];
static unsigned claimed[CHILDREN];
static int32_t pids;
static int64_t now;
static uint64_t seed;
static unsigned lives, wrong, versions;
static unsigned counts[12];

static void expect(bool good, const char *what, unsigned tag)
{
    if (!good && wrong++ < 20)
        diag("%s, session %u", what, tag);
}

/* ---- the model */

static int64_t inactive(const model_t *m)
{
    return m->inactive_s ? m->inactive_s : 86400;
}

static bool dead_copy(const model_t *m, unsigned i)
{
    return m->touched_ms[i] * 1000 + (inactive(m) + 60) * S < now;
}

static void visit(model_t *m, unsigned member)
{
    int64_t ms = now / 1000 + 1;
    for (unsigned i = 0; i < XB_VISITED_MAX; i++)
        if (m->visited[i] == member + 1) {
            m->touched_ms[i] = ms > m->touched_ms[i] ? ms : m->touched_ms[i];
            return;
        }
    for (unsigned i = 0; i < XB_VISITED_MAX; i++)
        if (!m->visited[i] || (m->visited[i] != m->home + 1 && dead_copy(m, i))) {
            m->visited[i] = member + 1;
            m->touched_ms[i] = ms;
            return;
        }
    m->flags |= XB_SESSION_CROWDED;
    unsigned at = XB_VISITED_MAX;
    for (unsigned i = 0; i < XB_VISITED_MAX; i++)
        if (m->visited[i] != m->home + 1 &&
            (at == XB_VISITED_MAX || m->touched_ms[i] < m->touched_ms[at]))
            at = i;
    m->visited[at] = member + 1;
    m->touched_ms[at] = ms;
}

/* May a copy live elsewhere? all: dead ones count, too. */
static bool elsewhere(const model_t *m, bool all)
{
    for (unsigned i = 0; i < XB_VISITED_MAX; i++)
        if (m->visited[i] && m->visited[i] != m->home + 1 && (all || !dead_copy(m, i)))
            return true;
    return false;
}

static void reap(model_t *m)
{
    if (m->there && !m->inflight && !m->moving && m->flags & XB_SESSION_ENDED &&
        !elsewhere(m, true))
        m->there = false;
}

/* 0 ended, 1 expired, 2 unproven, 3 proven, 4 to be kept */
static unsigned rank_of(const model_t *m)
{
    if (m->moving || m->inflight)
        return 4;
    if (m->flags & XB_SESSION_ENDED && !elsewhere(m, false))
        return 0;
    if (m->inactive_s && m->last_us + (inactive(m) + 60) * S < now)
        return 1;
    if (m->flags & XB_SESSION_UNPROVEN)
        return 2;
    return m->flags & XB_SESSION_CROWDED || elsewhere(m, false) ? 4 : 3;
}

static bool in_buckets(uint32_t slot, unsigned tag)
{
    uint32_t b[2];
    xb_table_buckets(table, nth_tag(tag), b);
    return slot / XB_BUCKET == b[0] || slot / XB_BUCKET == b[1];
}

static void compare(unsigned tag)
{
    const model_t *m = &model[tag];
    uint32_t slot = xb_table_find(table, nth_tag(tag));
    xb_view_t v = {0};
    unsigned n = 0;
    expect((slot != XB_SLOT_NONE) == m->there, "there or not", tag);
    if (slot == XB_SLOT_NONE || !m->there)
        return;
    expect(slot == m->slot && xb_table_view(table, slot, &v), "slot", tag);
    expect(v.w.state == (m->moving ? XB_MOVING : XB_STABLE), "gate", tag);
    expect(v.w.inflight == m->inflight && v.requests == m->requests, "requests", tag);
    expect(v.w.home == m->home && v.flags == m->flags, "home and flags", tag);
    expect(v.last_us == m->last_us && v.bar_until_us == m->bar_us, "times", tag);
    expect(v.created_us == m->created_us && v.max_inactive_s == m->inactive_s, "life", tag);
    expect(v.target == m->target && v.gated_us == m->gated_us, "target", tag);
    for (unsigned i = 0; i < XB_VISITED_MAX; i++)
        if (m->visited[i]) {
            expect(n < v.visited_count && v.visited[n].member + 1 == m->visited[i] &&
                       v.visited[n].touched_us == m->touched_ms[i] * 1000,
                   "visited", tag);
            n++;
        }
    expect(n == v.visited_count, "visited nodes", tag);
}

/* ---- operations, on the table and on the model */

static held_t *free_ref(void)
{
    for (unsigned i = 0; i < REFS; i++)
        if (!held[i].held)
            return &held[i];
    return NULL;
}

static void hold(held_t *h, unsigned tag, unsigned c)
{
    h->held = true;
    h->tag = tag;
    h->life = model[tag].life;
    claimed[c]++;
    expect(h->ref.slot == model[tag].slot && h->ref.home == model[tag].home, "ref", tag);
}

static void op_enter(unsigned tag)
{
    model_t *m = &model[tag];
    unsigned c = below(&seed, CHILDREN);
    held_t *h = free_ref();
    if (!h)
        return;
    xb_enter_t got = xb_table_enter(table, (unsigned)child[c], nth_tag(tag), now, &h->ref);
    if (!m->there) {
        expect(got == XB_ENTER_UNKNOWN, "enter: unknown", tag);
        return;
    }
    if (claimed[c] == table->dim.claims && now + 600 * S > m->bar_us)
        m->bar_us = now + 600 * S;
    if (m->moving || claimed[c] == table->dim.claims) {
        expect(got == (m->moving ? XB_ENTER_GATE : XB_ENTER_UNCOUNTED), "enter: not in", tag);
        expect(h->ref.home == m->home, "enter: home", tag);
        m->requests += !m->moving;
        return;
    }
    expect(got == XB_ENTER_IN, "enter", tag);
    m->inflight++;
    m->requests++;
    m->last_us = now > m->last_us ? now : m->last_us;
    hold(h, tag, c);
    counts[0]++;
}

static void op_leave(held_t *h)
{
    model_t *m = &model[h->tag];
    int64_t bar = below(&seed, 4) ? 0 : now + (int64_t)below(&seed, 10) * S;
    bool current = m->there && m->life == h->life;
    expect(xb_table_current(table, &h->ref) == current, "current", h->tag);
    xb_table_leave(table, &h->ref, now, bar, 5, 60);
    h->held = false;
    for (unsigned c = 0; c < CHILDREN; c++)
        claimed[c] -= child[c] == h->ref.child;
    if (!current) { /* the slot's session of today was perhaps at that home, too: the same
                       effect */
        for (unsigned i = 0; i < TAGS; i++)
            for (unsigned v = 0; v < XB_VISITED_MAX; v++)
                if (model[i].there && model[i].slot == h->ref.slot &&
                    model[i].visited[v] == h->ref.home + 1u &&
                    model[i].touched_ms[v] < now / 1000 + 1)
                    model[i].touched_ms[v] = now / 1000 + 1;
        return;
    }
    m->inflight--;
    m->last_us = now > m->last_us ? now : m->last_us;
    m->bar_us = bar > m->bar_us ? bar : m->bar_us;
    reap(m);
    counts[1]++;
}

/* What insert must do about room: -2 not made, -1 a slot is free, else the rank that must go.
 */
static int expect_room(unsigned tag, unsigned flags, bool gone[TAGS])
{
    unsigned taken = 0, best = 4;
    int64_t oldest = INT64_MAX;
    for (unsigned i = 0; i < TAGS; i++) {
        const model_t *m = &model[i];
        gone[i] = false;
        if (!m->there || !in_buckets(m->slot, tag))
            continue;
        taken++;
        unsigned r = rank_of(m);
        if (r < best || (r == best && m->last_us < oldest)) {
            best = r;
            oldest = m->last_us;
        }
    }
    if (taken < 2 * XB_BUCKET)
        return -1;
    if (best > (flags & XB_SESSION_UNPROVEN ? 2u : 3u))
        return -2;
    for (unsigned i = 0; i < TAGS; i++)
        gone[i] = model[i].there && in_buckets(model[i].slot, tag) &&
                  rank_of(&model[i]) == best && model[i].last_us == oldest;
    return (int)best;
}

/* Had it more than one request? */
static bool forget_one(unsigned tag, const bool gone[TAGS])
{
    unsigned n = 0;
    bool used = false;
    for (unsigned i = 0; i < TAGS; i++)
        if (model[i].there && xb_table_find(table, nth_tag(i)) == XB_SLOT_NONE) {
            expect(gone[i], "insert: forgot a wrong one", i);
            model[i].there = false;
            used = model[i].requests > 1;
            n++;
        }
    expect(n == 1, "insert: forgot not just one", tag);
    counts[2]++;
    return used;
}

static void op_insert(unsigned tag)
{
    static const unsigned kinds[] = {0, 0, 0, XB_SESSION_PARTIAL, XB_SESSION_UNPROVEN, 3};
    model_t *m = &model[tag];
    unsigned c = below(&seed, CHILDREN), flags = kinds[below(&seed, 6)];
    unsigned home = below(&seed, MEMBERS), path = below(&seed, 256);
    held_t *h = free_ref();
    char text[XB_ID_MAX + 1] = "";
    bool forgot, gone[TAGS];
    if (!h)
        return;
    int room = expect_room(tag, flags, gone);
    xb_span_t id = make_id(text, nth_tag(tag), ++versions);
    xb_insert_t got = xb_table_insert(table, (unsigned)child[c], nth_tag(tag), id, home, flags,
                                      path, now, &h->ref, &forgot);
    if (claimed[c] == table->dim.claims || (!m->there && room == -2)) {
        expect(got == XB_INSERT_FULL, "insert: full", tag);
        counts[3]++;
        return;
    }
    expect(got == (m->there ? XB_INSERT_EXISTS : XB_INSERT_NEW), "insert", tag);
    if (m->there)
        return;
    bool used = room >= 0 && forget_one(tag, gone);
    expect(forgot == (room == 3 || (room == 2 && used)), "insert: tells", tag);
    *m = (model_t){.there = true,
                   .slot = h->ref.slot,
                   .requests = 1,
                   .home = home,
                   .flags = flags,
                   .target = XB_MEMBER_NONE,
                   .path = path,
                   .inflight = 1,
                   .life = ++lives,
                   .last_us = now,
                   .created_us = now / S * S};
    memcpy(m->id, text, sizeof text);
    visit(m, home);
    hold(h, tag, c);
}

static void op_learn(held_t *h)
{
    model_t *m = &model[h->tag];
    char text[XB_ID_MAX + 1] = "";
    int path = (int)below(&seed, 257) - 1;
    bool current = m->there && m->life == h->life;
    xb_span_t id = make_id(text, nth_tag(h->tag), ++versions);
    expect(xb_table_learn(table, &h->ref, id, path) == current, "learn", h->tag);
    if (!current)
        return;
    memcpy(m->id, text, sizeof text);
    m->path = path < 0 ? m->path : (unsigned)path;
    m->flags &= ~(unsigned)(XB_SESSION_UNPROVEN | XB_SESSION_ENDED);
}

static void op_mark(unsigned tag)
{
    model_t *m = &model[tag];
    unsigned member = below(&seed, MEMBERS), to = below(&seed, MEMBERS),
             what = below(&seed, 16);
    if (!m->there)
        return;
    if (what == 0) {
        xb_table_flag(table, m->slot, XB_SESSION_ENDED, XB_SESSION_PARTIAL);
        m->flags = (m->flags | XB_SESSION_ENDED) & ~(unsigned)XB_SESSION_PARTIAL;
        reap(m);
    }
    else if (what < 4) {
        xb_table_visit(table, m->slot, member, now);
        visit(m, member);
    }
    else if (what < 12) {
        xb_table_unvisit(table, m->slot, member);
        for (unsigned i = 0; i < XB_VISITED_MAX; i++)
            m->visited[i] = m->visited[i] == member + 1 ? 0 : m->visited[i];
        reap(m);
    }
    else if (what < 14) {
        visit(m, member);
        visit(m, to);
        if (!m->moving && m->home == member && member != to) {
            m->home = to;
            m->flags |= XB_SESSION_ASSUMED;
        }
        expect(xb_table_rehome(table, m->slot, member, to, now) == m->home, "rehome", tag);
    }
    else {
        xb_table_flag(table, m->slot, 0, XB_SESSION_CROWDED);
        m->flags &= ~(unsigned)XB_SESSION_CROWDED;
    }
}

static void op_gate(unsigned tag)
{
    model_t *m = &model[tag];
    bool fence = below(&seed, 3) == 0, late = below(&seed, 4) == 0;
    unsigned target = below(&seed, MEMBERS), token = 0;
    xb_view_t v;
    if (!m->there || !xb_table_view(table, m->slot, &v))
        return;
    held_t *h = free_ref();
    bool changed = late && h && !m->moving && claimed[0] < table->dim.claims;
    if (changed) { /* somebody comes and goes after the look */
        xb_table_enter(table, (unsigned)child[0], nth_tag(tag), now, &h->ref);
        m->requests++;
        m->last_us = now > m->last_us ? now : m->last_us;
        m->inflight++;
        hold(h, tag, 0);
        op_leave(h);
        if (!m->there)
            return;
    }
    bool shut = xb_table_gate(table, m->slot, v.word, target, fence, now, &token);
    expect(shut == (!m->moving && !changed), "gate: shut", tag);
    if (!shut)
        return;
    counts[4]++;
    m->moving = true;
    m->token = token;
    m->target = target;
    m->gated_us = now;
    if (fence) {
        m->inflight = 0;
        m->life = ++lives;
    }
}

static void end_move(model_t *m, unsigned tag, unsigned token, bool ours, unsigned what)
{
    char text[XB_ID_MAX + 1] = "";
    unsigned home = below(&seed, MEMBERS);
    int64_t bar = now + (int64_t)below(&seed, 10) * S;
    if (what == 0) {
        expect(xb_table_abort(table, m->slot, token, bar) == ours, "abort", tag);
    }
    else {
        xb_span_t id = make_id(text, nth_tag(tag), ++versions);
        expect(xb_table_commit(table, m->slot, token, home, id, now, bar) == ours, "commit",
               tag);
    }
    if (!ours)
        return;
    counts[5 + what]++;
    m->moving = false;
    m->bar_us = bar > m->bar_us ? bar : m->bar_us;
    if (what == 0)
        reap(m);
    if (what == 0)
        return;
    visit(m, m->home);
    visit(m, home);
    if (m->home != home) {
        m->inflight = 0;
        m->life = ++lives;
    }
    m->home = home;
    m->last_us = now > m->last_us ? now : m->last_us;
    memcpy(m->id, text, sizeof text);
}

/* By the right token, or one before or after it. */
static void op_move(unsigned tag)
{
    model_t *m = &model[tag];
    unsigned token = (m->token + (below(&seed, 3) ? 0 : 16383 + 2 * below(&seed, 2))) & 16383;
    unsigned inflight, path;
    char id[XB_ID_MAX + 1];
    if (!m->there)
        return;
    bool ours = m->moving && token == m->token;
    switch (below(&seed, 7)) {
    case 0:
        expect(xb_table_token(table, m->slot, token, &inflight) == ours &&
                   inflight == m->inflight,
               "token", tag);
        return;
    case 1:
        expect(xb_table_fence(table, m->slot, token) == ours, "fence", tag);
        m->inflight = ours ? 0 : m->inflight;
        m->life = ours ? ++lives : m->life;
        return;
    case 2:
        expect(xb_table_id(table, m->slot, token, id, &path) == ours, "id", tag);
        expect(!ours || (strcmp(id, m->id) == 0 && path == m->path), "id's text", tag);
        return;
    case 3:
        xb_table_max_inactive(table, m->slot, token, below(&seed, 3) * 900);
        if (ours) /* by a second call, so that the model need not guess */
            xb_table_max_inactive(table, m->slot, token,
                                  m->inactive_s = below(&seed, 20) ? 60U * below(&seed, 40)
                                                                   : XB_INACTIVE_NEVER);
        return;
    case 4:
        expect(xb_table_regate(table, m->slot, &token) == m->moving, "regate", tag);
        expect(!m->moving || token == ((m->token + 1) & 16383), "regate's token", tag);
        m->token = m->moving ? token : m->token;
        return;
    default:
        end_move(m, tag, token, ours, below(&seed, 2));
    }
}

static void op_die(void)
{
    unsigned c = below(&seed, CHILDREN), n = 0;
    for (unsigned i = 0; i < REFS; i++) {
        if (!held[i].held || held[i].ref.child != child[c])
            continue;
        model_t *m = &model[held[i].tag];
        held[i].held = false;
        n++;
        if (m->there && m->life == held[i].life)
            m->inflight--;
    }
    int row =
        below(&seed, 2) ? xb_table_child_dead(table, pids - CHILDREN + 1 + (int)c) : child[c];
    expect(row == child[c], "row of the dead", 0);
    xb_table_child_close(table, (unsigned)row);
    expect(xb_table_repair(table, 0) == n && n == claimed[c], "repair", 0);
    claimed[c] = 0;
    counts[7]++;
}

/* All children anew, so that their pids tell their rows. */
static void open_children(void)
{
    for (unsigned c = 0; c < CHILDREN; c++) {
        if (xb_table_child_pid(table, (unsigned)child[c]))
            continue;
        child[c] = xb_table_child_open(table, pids - CHILDREN + 1 + (int)c);
        expect(child[c] >= 0, "a row for the next child", c);
    }
}

static void step(void)
{
    unsigned tag = below(&seed, TAGS), what = below(&seed, 1000);
    held_t *h = &held[below(&seed, REFS)];
    now += what % 50 ? below(&seed, 20) * INT64_C(1000) : below(&seed, 600) * S;
    if (what < 2)
        op_die(), open_children();
    else if (what < 250)
        op_enter(tag);
    else if (what < 500 && h->held)
        op_leave(h);
    else if (what < 650)
        op_insert(tag);
    else if (what < 700 && h->held)
        op_learn(h);
    else if (what < 800)
        op_mark(tag);
    else if (what < 850)
        op_gate(tag);
    else
        op_move(tag);
    compare(tag);
}

static void run(uint64_t from)
{
    table = new_table(50, CHILDREN, 13);
    memset(model, 0, sizeof model);
    memset(held, 0, sizeof held);
    memset(claimed, 0, sizeof claimed);
    now = 1000 * S;
    seed = from;
    wrong = 0;
    pids = CHILDREN;
    for (unsigned c = 0; c < CHILDREN; c++)
        child[c] = xb_table_child_open(table, (int)c + 1);
    for (unsigned n = 1; n <= STEPS && !wrong; n++) {
        step();
        if (n % 1000)
            continue;
        for (unsigned tag = 0; tag < TAGS; tag++)
            compare(tag);
        expect(bad_slots(table) == 0, "contradictions", n);
    }
    is_int(wrong, 0, "seed %d: %d operations as in the model", (int)from, STEPS);
    free_table(table);
}

int main(void)
{
    for (uint64_t s = 1; s <= 5; s++)
        run(s);
    static const char *const name[] = {"entered", "left",    "displaced", "full",
                                       "gated",   "aborted", "committed", "children died"};
    for (unsigned i = 0; i < 8; i++)
        ok(counts[i] > 50, "%s: %u times", name[i], counts[i]);
    return done();
}
