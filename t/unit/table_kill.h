/* SPDX-License-Identifier: Apache-2.0 */
/* What the tests of killed children share: a parent that holds requests, and what it must find.
 */
#ifndef TABLE_KILL_H
#define TABLE_KILL_H

#include "table_help.h"

#define HELD 12 /* requests of the parent, which lives */

static xb_table_t *table;
static int parent, child;
static unsigned in_lock, with_claims, wrong;

static void expect(bool good, const char *what, unsigned n)
{
    if (!good && wrong++ < 20)
        diag("%s, at %u", what, n);
}

static void recover(pid_t pid)
{
    int row = xb_table_child_dead(table, pid);
    in_lock += atomic_load(&table->dirty) != 0;
    for (uint32_t slot = 0; slot < xb_table_slots(table); slot++) {
        unsigned token;
        if (xb_table_regate(table, slot, &token))
            expect(xb_table_abort(table, slot, token, 0), "a regated gate opens", slot);
    }
    with_claims += xb_table_repair(table, 0) > 0;
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

#endif
