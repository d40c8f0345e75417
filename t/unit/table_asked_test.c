/* SPDX-License-Identifier: Apache-2.0 */
/* Session table: nodes that were asked to take a session over (rules LATE and TWICE), and
 * sessions that are held since none of them has. */
#include "table_help.h"

static int64_t now = 1000 * S;
static xb_table_t *table;
static uint32_t slot;

static xb_view_t view(void)
{
    xb_view_t v = {0};
    ok(xb_table_view(table, slot, &v), "seen");
    return v;
}

static bool is_asked(unsigned member, bool since)
{
    xb_view_t v = view();
    for (unsigned i = 0; i < v.visited_count; i++)
        if (v.visited[i].member == member)
            return v.visited[i].asked && v.visited[i].since == since;
    return false;
}

static void request(void)
{
    xb_ref_t ref;
    is_int(xb_table_enter(table, 0, 7, now, &ref), XB_ENTER_IN, "a request");
    xb_table_leave(table, &ref, now, 0, 0, 0);
}

static unsigned shut(unsigned target)
{
    unsigned token = 0;
    ok(xb_table_gate(table, slot, view().word, target, false, now, &token), "gate");
    return token;
}

static void test_asked(void)
{
    xb_ref_t ref;
    xb_table_ask(table, slot, 2, now);
    ok(is_asked(2, true), "asked since the last request");
    ok(!is_asked(1, true), "the home is not");
    xb_table_visit(table, slot, 2, now += S);
    ok(is_asked(2, true), "a visit does not change that");
    is_int(xb_table_enter(table, 0, 7, now, &ref), XB_ENTER_IN, "one comes");
    xb_table_withdraw(table, &ref, now);
    ok(is_asked(2, true), "and has not been let through");
    request();
    ok(is_asked(2, false), "a request has come since");
    xb_table_ask(table, slot, XB_MEMBERS_MAX - 1, now);
    ok(is_asked(XB_MEMBERS_MAX - 1, true) && is_asked(2, false), "another is asked");
    xb_table_done(table, slot, 2);
    ok(!is_asked(2, false), "one has done");
    unsigned token = shut(XB_MEMBERS_MAX - 1);
    ok(xb_table_commit(table, slot, token, XB_MEMBERS_MAX - 1, (xb_span_t){"x", 1}, now, 0),
       "the other has it");
    ok(!is_asked(XB_MEMBERS_MAX - 1, true), "and so has done");
}

static void test_held(void)
{
    static xb_members_t members; /* no member has restarted */
    xb_ref_t ref;
    unsigned token = shut(3);
    xb_table_target(table, slot, token, XB_TARGET_HELD);
    ok(xb_table_abort(table, slot, token, 0), "the gate opens");
    is_int(xb_table_enter_at(table, 0, 7, now, &members, &ref), XB_ENTER_REBORN,
           "the next request does not pass");
    request();
    is_int(xb_table_enter_at(table, 0, 7, now, &members, &ref), XB_ENTER_REBORN,
           "though one that has waited did");
    xb_ref_t in[8];
    for (int i = 0; i < 8; i++)
        is_int(xb_table_enter(table, 0, 7, now, &in[i]), XB_ENTER_IN, "a claim");
    is_int(xb_table_enter_at(table, 0, 7, now, &members, &ref), XB_ENTER_REBORN,
           "nor does one for which there is no claim");
    for (int i = 0; i < 8; i++)
        xb_table_leave(table, &in[i], now, 0, 0, 0);
    ok(xb_table_abort(table, slot, shut(1), 0), "the home was asked");
    is_int(xb_table_enter_at(table, 0, 7, now, &members, &ref), XB_ENTER_IN,
           "it is held no more");
    xb_table_leave(table, &ref, now, 0, 0, 0);
}

int main(void)
{
    void (*const test[])(void) = {test_asked, test_held};
    for (unsigned i = 0; i < sizeof test / sizeof test[0]; i++) {
        xb_ref_t ref;
        bool forgot;
        table = new_table(64, 1, 8);
        xb_table_child_open(table, 1);
        is_int(xb_table_insert(table, 0, 7, (xb_span_t){"id", 2}, 1, 0, 3, now, &ref, &forgot),
               XB_INSERT_NEW, "a session at 1");
        slot = ref.slot;
        xb_table_leave(table, &ref, now, 0, 0, 0);
        test[i]();
        is_int(bad_slots(table), 0, "the table is valid");
        free_table(table);
    }
    return done();
}
