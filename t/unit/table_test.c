/* SPDX-License-Identifier: Apache-2.0 */
/* Session table, one thread: each rule by itself, the order of forgetting, a full table. */
#include "table_help.h"

static xb_table_t *table;
static int child;
static int64_t now = 1000 * S;

static void begin(uint32_t sessions, uint32_t children, uint32_t claims)
{
    table = new_table(sessions, children, claims);
    child = xb_table_child_open(table, 100);
    now = 1000 * S;
}

static void end(const char *name)
{
    is_int(bad_slots(table), 0, "%s: no contradiction", name);
    free_table(table);
}

static xb_insert_t insert(uint64_t tag, unsigned home, unsigned flags, xb_ref_t *ref,
                          bool *forgot)
{
    char text[XB_ID_MAX + 1];
    return xb_table_insert(table, (unsigned)child, tag, make_id(text, tag, 1), home, flags, 3,
                           now, ref, forgot);
}

/* A session with nothing in flight; its slot. */
static uint32_t idle_session(uint64_t tag, unsigned home, unsigned flags)
{
    xb_ref_t ref;
    bool forgot;
    if (insert(tag, home, flags, &ref, &forgot) != XB_INSERT_NEW)
        return XB_SLOT_NONE;
    xb_table_leave(table, &ref, now, 0, 0, 60);
    return ref.slot;
}

static xb_enter_t enter(uint64_t tag, xb_ref_t *ref)
{
    return xb_table_enter(table, (unsigned)child, tag, now, ref);
}

static void leave(const xb_ref_t *ref)
{
    xb_table_leave(table, ref, now, 0, 0, 60);
}

static xb_view_t view(uint32_t slot)
{
    xb_view_t v;
    memset(&v, 0, sizeof v);
    xb_table_view(table, slot, &v);
    return v;
}

static bool gate(uint32_t slot, unsigned target, bool fence, unsigned *token)
{
    return xb_table_gate(table, slot, view(slot).word, target, fence, now, token);
}

/* ---- each rule */

static void test_size(void)
{
    static const xb_table_dim_t wrong[] = {{0, 1, 1},     {XB_SESSIONS_MAX + 1, 1, 1},
                                           {1, 0, 1},     {1, 1, 0},
                                           {1, 65536, 1}, {1, 1, 65536}};
    for (size_t i = 0; i < sizeof wrong / sizeof *wrong; i++)
        is_int((long long)xb_table_size(&wrong[i]), 0, "dimensions %zu out of range", i);
    xb_table_dim_t one = {1000000, 1, 1}, most = {XB_SESSIONS_MAX, 400, 512};
    ok(xb_table_size(&one) <= 256 * 1000000ul, "a session costs at most 256 bytes");
    ok(xb_table_size(&most) > 0, "the largest table has a size");
    begin(1, 1, 1);
    is_int(xb_table_slots(table), 16, "the smallest table has two buckets");
    end("smallest");
}

static void test_requests(void)
{
    xb_ref_t a, b, c;
    bool forgot;
    begin(64, 2, 3);
    is_int(enter(7, &a), XB_ENTER_UNKNOWN, "a session that nobody made is unknown");
    is_int(insert(7, 5, XB_SESSION_PARTIAL, &a, &forgot), XB_INSERT_NEW, "made");
    is_int(insert(7, 6, 0, &b, &forgot), XB_INSERT_EXISTS, "made once");
    now += S;
    is_int(enter(7, &b), XB_ENTER_IN, "entered");
    is_int(b.home, 5, "its home");
    xb_view_t v = view(a.slot);
    is_int(v.w.inflight, 2, "two in flight");
    is_int(v.requests, 2, "two requests");
    is_int(v.flags, XB_SESSION_PARTIAL, "flags");
    is_int(v.created_us, 1000 * S, "made at");
    is_int(v.last_us, 1001 * S, "last at");
    is_int(v.visited_count, 1, "home counts as visited");
    is_int(v.visited[0].member, 5, "home is what was visited");
    xb_table_leave(table, &a, now, now + 9 * S, 1000, 60);
    is_int(view(a.slot).bar_until_us, now + 9 * S, "barred by an incomplete answer");
    now += 60 * S;
    xb_table_leave(table, &b, now, 0, 500, 60);
    v = view(a.slot);
    is_int(v.w.inflight, 0, "none in flight");
    is_int(v.bar_until_us, now - 51 * S, "a complete answer leaves the bar");
    ok(v.traffic > 999.9 && v.traffic < 1000.1, "traffic halves in a half-life");
    is_int(enter(7, &a), XB_ENTER_IN, "first claim of three");
    is_int(enter(7, &b), XB_ENTER_IN, "second");
    is_int(enter(7, &c), XB_ENTER_IN, "third");
    uint64_t seen = view(a.slot).word;
    xb_ref_t d = {0};
    unsigned token;
    is_int(enter(7, &d), XB_ENTER_UNCOUNTED, "no claim left");
    ok(d.home == 5 && d.slot == a.slot && xb_table_current(table, &d), "and yet its home");
    is_int(view(a.slot).bar_until_us, now + 600 * S, "then no voluntary move for ten minutes");
    ok(!xb_table_gate(table, a.slot, seen, 1, false, now, &token),
       "nor by what was seen before");
    is_int(insert(8, 5, 0, &d, &forgot), XB_INSERT_FULL, "a new session needs a claim, too");
    leave(&a), leave(&b), leave(&c);
    end("requests");
}

static void test_ids(void)
{
    xb_ref_t ref;
    bool forgot;
    unsigned token, path;
    char id[XB_ID_MAX + 1], longest[XB_ID_MAX + 2];
    begin(64, 1, 8);
    memset(longest, 'x', sizeof longest);
    is_int(xb_table_insert(table, 0, 9, (xb_span_t){longest, XB_ID_MAX + 1}, 1, 0, 0, now, &ref,
                           &forgot),
           XB_INSERT_FULL, "an id that is too long is not stored");
    is_int(xb_table_insert(table, 0, 9, (xb_span_t){longest, XB_ID_MAX}, 1, XB_SESSION_UNPROVEN,
                           255, now, &ref, &forgot),
           XB_INSERT_NEW, "the longest is");
    ok(gate(ref.slot, 2, false, &token), "gate shut though one is in flight");
    ok(xb_table_id(table, ref.slot, token, id, &path), "id under the token");
    is_mem(longest, XB_ID_MAX, id, "it is whole");
    is_int(path, 255, "with its path");
    ok(!xb_table_id(table, ref.slot, token + 1, id, &path), "not under another");
    ok(!xb_table_learn(table, &ref, (xb_span_t){longest, XB_ID_MAX + 1}, -1),
       "too long to learn");
    ok(xb_table_learn(table, &ref, (xb_span_t){"newer", 5}, -1), "learnt behind the gate");
    is_int(view(ref.slot).flags, 0, "which proves the session");
    ok(xb_table_id(table, ref.slot, token, id, &path) && path == 255, "the path is kept");
    is_str(id, "newer", "the newest id");
    ok(xb_table_learn(table, &ref, (xb_span_t){"n", 1}, 4), "learnt with its path");
    ok(xb_table_id(table, ref.slot, token, id, &path) && path == 4, "the path is new");
    ok(xb_table_fence(table, ref.slot, token), "fenced");
    ok(!xb_table_current(table, &ref), "the answer is not to be believed");
    ok(!xb_table_learn(table, &ref, (xb_span_t){"stale", 5}, -1), "nor learnt from");
    ok(xb_table_abort(table, ref.slot, token, 0), "gate opened");
    leave(&ref);
    end("ids");
}

static void test_moves(void)
{
    xb_ref_t a, b;
    unsigned token, second, inflight;
    uint32_t slot;
    char id[XB_ID_MAX + 1];
    begin(64, 1, 8);
    slot = idle_session(7, 1, 0);
    uint64_t seen = view(slot).word;
    is_int(enter(7, &a), XB_ENTER_IN, "a request comes");
    leave(&a);
    ok(!xb_table_gate(table, slot, seen, 2, false, now, &token), "so the gate stays open");
    is_int(view(slot).target, XB_MEMBER_NONE, "and no target is left behind");
    is_int(enter(7, &a), XB_ENTER_IN, "in flight");
    ok(gate(slot, 2, false, &token), "gate shut without fence");
    is_int(enter(7, &b), XB_ENTER_GATE, "later ones wait");
    is_int(b.home, 1, "and hear where it was");
    ok(xb_table_token(table, slot, token, &inflight) && inflight == 1,
       "the old one still runs");
    ok(xb_table_current(table, &a), "and its answer counts");
    leave(&a);
    ok(xb_table_token(table, slot, token, &inflight) && inflight == 0, "until it ended");
    is_int(view(slot).target, 2, "target");
    is_int(view(slot).gated_us, now, "shut at");
    ok(xb_table_regate(table, slot, &second), "another takes over");
    ok(second != token && !xb_table_token(table, slot, token, NULL), "the first is void");
    ok(!xb_table_commit(table, slot, token, 2, (xb_span_t){"x", 1}, now, 0), "cannot commit");
    ok(!xb_table_abort(table, slot, token, 0), "nor abort");
    ok(!xb_table_fence(table, slot, token), "nor fence");
    xb_table_target(table, slot, token, 5);
    is_int(view(slot).target, 2, "nor say where it leads");
    xb_table_max_inactive(table, slot, token, 5);
    is_int(view(slot).max_inactive_s, 0, "nor tell how long it lives");
    xb_table_max_inactive(table, slot, second, 1800);
    is_int(view(slot).max_inactive_s, 1800, "the second may");
    xb_table_target(table, slot, second, 5);
    is_int(view(slot).target, 5, "both");
    now += 3 * S;
    ok(xb_table_commit(table, slot, second, 2, make_id(id, 7, 2), now, now + 60 * S), "commit");
    xb_view_t v = view(slot);
    is_int(v.w.state, XB_STABLE, "gate open");
    is_int(v.w.home, 2, "at its new home");
    is_int(v.bar_until_us, now + 60 * S, "rests");
    is_int(v.visited_count, 2, "both count as visited");
    is_int(v.visited[0].touched_us, now + 1000, "the old home as of now");
    ok(!xb_table_abort(table, slot, second, 0) && !xb_table_regate(table, slot, &token),
       "after the commit the token is void");
    end("moves");
}

static void test_fence(void)
{
    xb_ref_t a, b;
    unsigned token;
    begin(64, 1, 8);
    uint32_t slot = idle_session(7, 1, 0);
    is_int(enter(7, &a), XB_ENTER_IN, "in flight at a home that dies");
    ok(gate(slot, 2, true, &token), "fenced gate");
    is_int(view(slot).w.inflight, 0, "gives it up");
    ok(xb_table_commit(table, slot, token, 2, (xb_span_t){"x", 1}, now, 0), "commit");
    is_int(enter(7, &b), XB_ENTER_IN, "a request at the new home");
    int64_t before = view(slot).last_us;
    now += 100 * S;
    leave(&a);
    is_int(view(slot).w.inflight, 1, "the old one's end counts nothing");
    is_int(view(slot).last_us, before, "and is no activity");
    is_int(view(slot).visited[0].touched_us, now + 1000, "but its copy lived till now");
    leave(&b);
    is_int(view(slot).w.inflight, 0, "the new one's does");
    is_int(enter(7, &a), XB_ENTER_IN, "in flight at a home that is asked if it has restarted");
    ok(gate(slot, 2, false, &token), "gate without a fence");
    ok(xb_table_commit(table, slot, token, 2, (xb_span_t){"x", 1}, now, 0), "it is");
    ok(xb_table_current(table, &a), "it goes on");
    is_int(view(slot).w.inflight, 1, "and counts");
    leave(&a);
    is_int(view(slot).w.inflight, 0, "until it ends");
    end("fence");
}

static void test_visits(void)
{
    begin(64, 1, 8);
    uint32_t slot = idle_session(7, 1, 0);
    uint64_t seen = view(slot).word;
    unsigned token;
    xb_table_visit(table, slot, 2, now);
    ok(!xb_table_gate(table, slot, seen, 2, false, now, &token), "a visit voids what was seen");
    for (unsigned member = 3; member <= 6; member++)
        xb_table_visit(table, slot, member, now += S);
    is_int(view(slot).visited_count, 6, "six fit");
    is_int(view(slot).flags, 0, "not crowded");
    xb_table_visit(table, slot, 2, now += S);
    is_int(view(slot).visited_count, 6, "again");
    xb_table_unvisit(table, slot, 4);
    xb_table_visit(table, slot, 9, now);
    is_int(view(slot).flags, 0, "a released one makes room");
    xb_table_visit(table, slot, 10, now);
    is_int(view(slot).flags, XB_SESSION_CROWDED, "the seventh does not fit");
    is_int(view(slot).visited_count, 6, "... but has its place");
    is_int(view(slot).visited[2].member, 10, "... that of the oldest");
    now += (86400 + 100) * S;
    xb_table_visit(table, slot, 11, now);
    xb_view_t v = view(slot);
    is_int(v.visited[0].member, 1, "the home's place is never taken");
    is_int(v.visited[1].member, 11, "that of a copy dead of age is");
    is_int(xb_table_rehome(table, slot, 3, 4, now), 1, "failover from a wrong home");
    is_int(xb_table_rehome(table, slot, 1, 12, now), 12, "failover");
    v = view(slot);
    is_int(v.w.home, 12, "is where it lives now");
    ok(gate(slot, 2, false, &token) && xb_table_rehome(table, slot, 12, 1, now) == 12,
       "not behind a gate");
    ok(xb_table_abort(table, slot, token, 0), "gate opened");
    end("visits");
}

/* A copy lives as long as its session may be idle: 30 days are not too many, and one that never
 * dies of disuse has no end. */
static void test_lives(void)
{
    const int64_t day = 86400 * S, begun = 100 * day;
    struct {
        uint32_t inactive_s;
        int64_t lives;
    } c[] = {{0, day}, {1800, 1800 * S}, {30 * 86400, 30 * day}, {400 * 86400, 400 * day}};
    for (unsigned i = 0; i < sizeof c / sizeof *c; i++) {
        ok(!xb_table_copy_died(c[i].inactive_s, begun, begun + c[i].lives + 59 * S) &&
               xb_table_copy_died(c[i].inactive_s, begun, begun + c[i].lives + 61 * S),
           "max inactive %u s: so long, and a minute", c[i].inactive_s);
    }
    ok(!xb_table_copy_died(XB_INACTIVE_NEVER, 0, INT64_MAX), "never is never");
}

static void test_children(void)
{
    xb_ref_t a, b;
    begin(64, 2, 8);
    int other = xb_table_child_open(table, 200);
    is_int(xb_table_child_open(table, 300), -1, "no third row");
    is_int(xb_table_child_pid(table, (unsigned)other), 200, "pid of a row");
    uint32_t slot = idle_session(7, 1, 0);
    is_int(enter(7, &a), XB_ENTER_IN, "ours");
    is_int(xb_table_enter(table, (unsigned)other, 7, now, &b), XB_ENTER_IN, "the other's");
    is_int(xb_table_child_dead(table, 999), -1, "no such child");
    is_int(xb_table_child_dead(table, 200), other, "the other died");
    is_int(xb_table_child_pid(table, (unsigned)other), 0, "so it has no pid");
    is_int(bad_slots(table), 0, "what is not yet repaired is no contradiction");
    is_int(view(slot).w.inflight, 2, "still counted");
    is_int(xb_table_repair(table, 0), 1, "one session counted again");
    is_int(view(slot).w.inflight, 1, "ours is left");
    is_int(xb_table_child_open(table, 300), other, "the row is free again");
    is_int(xb_table_enter(table, (unsigned)other, 7, now, &b), XB_ENTER_IN, "and works");
    xb_table_child_close(table, (unsigned)other);
    is_int(xb_table_child_open(table, 400), -1, "closed with a claim held: to be repaired");
    is_int(xb_table_repair(table, 0), 1, "is repaired");
    is_int(xb_table_child_open(table, 400), other, "and free");
    is_int(view(slot).w.inflight, 1, "ours is left again");
    leave(&a);
    xb_table_child_close(table, (unsigned)child);
    is_int(xb_table_child_open(table, 500), child, "closed with no claim held: free");
    end("children");
}

/* ---- forgetting */

#define SLOTS 16 /* of the smallest table: every tag may lie in every slot */

static void fill(void)
{
    begin(1, 2, 32);
    for (unsigned i = 0; i < SLOTS; i++) {
        now += S;
        if (idle_session(nth_tag(i), 1, 0) == XB_SLOT_NONE)
            diag("no room for %u", i);
    }
}

static uint32_t slot_of(unsigned i)
{
    return xb_table_find(table, nth_tag(i));
}

/* Makes one more session; the session that it displaced, -1: none, -2: not made. */
static int displaced(unsigned flags, bool *forgot)
{
    static unsigned fresh = 1000;
    bool there[SLOTS];
    xb_ref_t ref;
    for (unsigned i = 0; i < SLOTS; i++)
        there[i] = slot_of(i) != XB_SLOT_NONE;
    if (insert(nth_tag(fresh++), 2, flags, &ref, forgot) != XB_INSERT_NEW)
        return -2;
    for (unsigned i = 0; i < SLOTS; i++)
        if (there[i] && slot_of(i) == XB_SLOT_NONE)
            return (int)i;
    return -1;
}

static void test_unproven_commit(void)
{
    unsigned token;
    bool forgot;
    fill();
    xb_table_flag(table, slot_of(5), XB_SESSION_UNPROVEN, 0);
    ok(gate(slot_of(5), 2, false, &token) &&
           xb_table_commit(table, slot_of(5), token, 2, (xb_span_t){"5.2", 3}, now, 0),
       "an unproven one is at home elsewhere now");
    ok(view(slot_of(5)).flags & XB_SESSION_UNPROVEN, "which proves nothing");
    is_int(displaced(XB_SESSION_UNPROVEN, &forgot), 5, "and it is forgotten first");
    end("unproven commit");
}

/* What counts as a request decides whether a displaced session may have lived. */
static void test_worth(void)
{
    xb_ref_t ref;
    bool forgot;
    fill();
    xb_table_flag(table, slot_of(3), XB_SESSION_UNPROVEN, 0);
    is_int(enter(nth_tag(3), &ref), XB_ENTER_IN, "let in");
    xb_table_withdraw(table, &ref, now);
    ok(view(slot_of(3)).requests == 1 && view(slot_of(3)).w.inflight == 0,
       "and back to the gate: it was none");
    is_int(displaced(XB_SESSION_UNPROVEN, &forgot), 3, "displaced");
    ok(!forgot, "as one that came once");
    is_int(enter(nth_tag(4), &ref), XB_ENTER_IN, "a session in use");
    leave(&ref);
    xb_table_disprove(table, slot_of(4));
    is_int(displaced(XB_SESSION_UNPROVEN, &forgot), 4, "is displaced when it has been lost");
    ok(!forgot, "which is no loss any more");
    end("worth");
}

static void test_order(void)
{
    static const unsigned made_again[] = {0, XB_SESSION_PARTIAL};
    xb_ref_t ref;
    unsigned token;
    bool forgot;
    fill();
    is_int(enter(nth_tag(0), &ref), XB_ENTER_IN, "0 is in flight");
    ok(gate(slot_of(1), 2, false, &token), "1 is being moved");
    xb_table_visit(table, slot_of(2), 9, now); /* 2 was elsewhere */
    xb_table_flag(table, slot_of(3), XB_SESSION_CROWDED, 0);
    xb_table_flag(table, slot_of(10), XB_SESSION_UNPROVEN, 0);
    xb_table_flag(table, slot_of(9), XB_SESSION_UNPROVEN, 0);
    xb_ref_t twice;
    is_int(enter(nth_tag(10), &twice), XB_ENTER_IN, "10 comes twice");
    leave(&twice);
    ok(gate(slot_of(12), 2, false, &token), "12 is gated");
    xb_table_max_inactive(table, slot_of(12), token, 10);
    ok(xb_table_abort(table, slot_of(12), token, 0), "and not moved");
    xb_ref_t last;
    is_int(enter(nth_tag(14), &last), XB_ENTER_IN, "14's last request");
    xb_table_flag(table, slot_of(14), XB_SESSION_ENDED, 0);
    now += 71 * S;
    is_int(displaced(XB_SESSION_UNPROVEN, &forgot), 12, "first the expired one");
    ok(!forgot, "which is no loss");
    leave(&last);
    is_int(slot_of(14), XB_SLOT_NONE, "an ended session is forgotten with its last answer");
    is_int(displaced(0, &forgot), -1, "so its slot was free");
    is_int(displaced(0, &forgot), 9, "then the unproven ones, longest idle first");
    ok(!forgot, "which is no loss if it came once");
    is_int(displaced(XB_SESSION_UNPROVEN, &forgot), 10, "by an unproven one, too");
    ok(forgot, "which is told if it came twice");
    is_int(displaced(XB_SESSION_UNPROVEN, &forgot), -2, "but it never displaces a proven one");
    for (unsigned i = 0; i < 2; i++)
        is_int(displaced(made_again[i], &forgot), 4 + (int)i,
               "then proven ones, longest idle first");
    for (int i = 6; i < SLOTS; i++)
        if (i != 9 && i != 10 && i != 12 && i != 14)
            is_int(displaced(0, &forgot), i, "and so on");
    is_int(displaced(0, &forgot), -2, "in flight, moving, elsewhere, crowded: kept");
    now += 86400 * S;
    is_int(displaced(0, &forgot), 2, "until the copy elsewhere has died of age");
    end("order");
}

static void test_ended(void)
{
    xb_ref_t ref;
    begin(64, 1, 8);
    uint32_t slot = idle_session(7, 1, 0);
    xb_table_flag(table, slot, XB_SESSION_ENDED, 0);
    is_int(xb_table_find(table, 7), XB_SLOT_NONE,
           "an idle session that ends is forgotten at once");
    slot = idle_session(7, 1, 0);
    unsigned first = view(slot).w.epoch;
    is_int(enter(7, &ref), XB_ENTER_IN, "its successor");
    xb_table_flag(table, slot, XB_SESSION_ENDED, 0);
    ok(xb_table_current(table, &ref), "lives while one is in flight");
    leave(&ref);
    ok(!xb_table_current(table, &ref), "and not longer");
    slot = idle_session(7, 1, 0);
    is_int(view(slot).w.epoch, first + 1, "epochs go on over re-use of a slot");
    is_int(view(slot).flags, 0, "flags do not");
    end("ended");
}

/* Its id may still be good at a former home, so it must lead to where the session ended. */
static void test_ended_elsewhere(void)
{
    unsigned token;
    begin(64, 1, 8);
    uint32_t slot = idle_session(7, 1, 0);
    xb_table_visit(table, slot, 2, now);
    xb_table_flag(table, slot, XB_SESSION_ENDED, 0);
    is_int(xb_table_find(table, 7), slot, "ended, with a copy elsewhere: still known");
    ok(gate(slot, 1, false, &token), "gated");
    xb_table_unvisit(table, slot, 2);
    is_int(xb_table_find(table, 7), slot, "the copy is gone, the gate is shut: still known");
    ok(xb_table_abort(table, slot, token, 0), "opened");
    is_int(xb_table_find(table, 7), XB_SLOT_NONE, "and forgotten");
    end("ended elsewhere");
}

static void test_strays(void)
{
    xb_ref_t at_home, stray;
    char id[XB_ID_MAX + 1];
    unsigned token, path;
    begin(64, 2, 8);
    uint32_t slot = idle_session(7, 1, 0);
    is_int(enter(7, &at_home), XB_ENTER_IN, "a request");
    ok(!xb_table_strays(table, slot, XB_MEMBER_NONE), "at home it is no stray");
    ok(gate(slot, 2, true, &token), "fenced");
    ok(xb_table_strays(table, slot, XB_MEMBER_NONE), "now it is");
    ok(xb_table_commit(table, slot, token, 2, (xb_span_t){"a.2", 3}, now, 0), "moved");
    is_int(enter(7, &stray), XB_ENTER_IN, "another, at the new home");
    ok(xb_table_strays(table, slot, 1), "at the former home one may still run");
    ok(!xb_table_strays(table, slot, 2), "at no other");
    ok(xb_table_id_of(table, slot, 7, id, &path) && !strcmp(id, "a.2"), "its id, gate or not");
    ok(!xb_table_id_of(table, slot, 8, id, &path), "not another's");
    leave(&at_home);
    ok(!xb_table_strays(table, slot, XB_MEMBER_NONE), "until it has ended");
    leave(&stray);
    end("strays");
}

/* More sessions than fit, all proven and idle: the new ones get in, few old ones are lost
 * early. */
static void test_full(void)
{
    enum { N = 4096 };
    unsigned early = 0, made = 0;
    begin(N, 1, 8);
    for (unsigned i = 0; i < 2 * N; i++) {
        xb_ref_t ref;
        bool forgot;
        now += 1000;
        made += insert(nth_tag(i), 1, 0, &ref, &forgot) == XB_INSERT_NEW;
        early += i < N && forgot;
        leave(&ref);
    }
    is_int(made, 2LL * N, "each new session is remembered");
    ok(early < N / 100, "less than one in a hundred is lost before the table is full (%u)",
       early);
    end("full");
}

static void test_return(void)
{
    char text[XB_ID_MAX + 1], id[XB_ID_MAX + 1];
    xb_ref_t a, b;
    begin(64, 1, 8);
    uint32_t slot = idle_session(7, 1, 0);
    is_int(enter(7, &a), XB_ENTER_IN, "a request");
    is_int(xb_table_rehome(table, slot, 1, 2, now), 2, "at a stand-in");
    uint64_t seen = view(slot).word;
    is_int(enter(7, &b), XB_ENTER_IN, "another one");
    ok(!xb_table_return(table, slot, seen, 1, now), "it does not go back under that");
    leave(&b);
    ok(xb_table_return(table, slot, view(slot).word, 1, now), "but then");
    is_int(view(slot).w.home, 1, "it is home");
    is_int(view(slot).visited_count, 2, "and has been at both");
    ok(xb_table_learn(table, &a, make_id(text, 7, 9), -1) && xb_table_newest(table, slot, id) &&
           !strcmp(id, text),
       "the newest id");
    leave(&a);
    end("return");
}

static void test_made_shut(void)
{
    char text[XB_ID_MAX + 1], id[XB_ID_MAX + 1];
    unsigned flags = XB_SESSION_PARTIAL | XB_SESSION_UNPROVEN, token, path;
    uint32_t slot, again;
    bool forgot;
    xb_ref_t ref;
    xb_view_t v;

    begin(64, 1, 8);
    is_int(
        xb_table_insert_shut(table, 7, make_id(text, 7, 1), 5, flags, 3, now, &slot, &forgot),
        XB_INSERT_NEW, "made");
    is_int(
        xb_table_insert_shut(table, 7, make_id(text, 7, 1), 6, flags, 3, now, &again, &forgot),
        XB_INSERT_EXISTS, "made once");
    ok(xb_table_view(table, slot, &v) && v.w.state == XB_MOVING && v.w.inflight == 0 &&
           v.w.home == 5 && v.target == XB_MEMBER_NONE && v.gated_us == now,
       "its gate is shut, without a target");
    is_int(xb_table_enter(table, (unsigned)child, 7, now, &ref), XB_ENTER_GATE,
           "no request gets through");
    ok(xb_table_regate(table, slot, &token) && xb_table_id(table, slot, token, id, &path) &&
           !strcmp(id, text) && path == 3,
       "a mover finds its id");
    ok(xb_table_abort(table, slot, token, 0), "and opens the gate");
    is_int(xb_table_enter(table, (unsigned)child, 7, now, &ref), XB_ENTER_IN,
           "they get through");
    xb_table_leave(table, &ref, now, 0, 0, 60);
    end("made shut");
}

int main(void)
{
    test_return();
    test_made_shut();
    test_size();
    test_requests();
    test_ids();
    test_moves();
    test_fence();
    test_visits();
    test_lives();
    test_children();
    test_unproven_commit();
    test_worth();
    test_order();
    test_ended();
    test_ended_elsewhere();
    test_strays();
    test_full();
    return done();
}
