/* SPDX-License-Identifier: Apache-2.0 */
/* 100,000 invented ids a second, by a virtual clock, as a request takes them: token, look-up or
 * entry. How much is looked up, what becomes of real sessions, and the time for each id. */
#include <time.h>

#include "table_help.h"
#include "xb_policy.h"

#define SESSIONS 65536
#define REAL 40000
#define LATE 2000 /* real ones that log in meanwhile */
#define PER_S 100000
#define SECONDS 5
/* Look-ups that have not come back yet: their gates are shut. */
#define UNDER_WAY 64

static xb_table_t *table;
static unsigned forgotten, refused;

static uint64_t real_tag(unsigned n)
{
    return nth_tag(n);
}

static uint64_t invented_tag(unsigned n)
{
    return nth_tag(1000000 + n);
}

static bool insert(uint64_t tag, unsigned flags, int64_t now)
{
    char text[XB_ID_MAX + 1];
    xb_ref_t ref;
    bool forgot;
    if (xb_table_insert(table, 0, tag, make_id(text, tag, 0), 1, flags, 0, now, &ref,
                        &forgot) != XB_INSERT_NEW)
        return false;
    forgotten += forgot;
    xb_table_leave(table, &ref, now, 0, 1000, 60);
    return true;
}

static void log_in(unsigned n, int64_t now)
{
    xb_ref_t ref;
    refused += !insert(real_tag(n), 0, now);
    if (xb_table_enter(table, 0, real_tag(n), now, &ref) == XB_ENTER_IN)
        xb_table_leave(table, &ref, now, 0, 1000, 60);
}

/* Shut for the mover; the oldest one's is opened: it is nowhere. */
static void look_up(uint64_t tag, int64_t now)
{
    static uint32_t slots[UNDER_WAY];
    static bool used[UNDER_WAY];
    static unsigned next;
    char text[XB_ID_MAX + 1];
    unsigned token;
    bool forgot = false;
    if (used[next] && xb_table_regate(table, slots[next], &token))
        xb_table_abort(table, slots[next], token, 0);
    used[next] = xb_table_insert_shut(table, tag, make_id(text, tag, 0), 1,
                                      XB_SESSION_PARTIAL | XB_SESSION_UNPROVEN, 0, now,
                                      &slots[next], &forgot) == XB_INSERT_NEW;
    forgotten += forgot;
    next = (next + 1) % UNDER_WAY;
}

static unsigned remembered(unsigned from, unsigned end)
{
    unsigned n = 0;
    for (unsigned i = from; i < end; i++) {
        xb_view_t v;
        uint32_t slot = xb_table_find(table, real_tag(i));
        n += slot != XB_SLOT_NONE && xb_table_view(table, slot, &v) && v.requests == 2 &&
             !(v.flags & XB_SESSION_UNPROVEN);
    }
    return n;
}

static double seconds(void)
{
    struct timespec ts;
    clock_gettime(CLOCK_MONOTONIC, &ts);
    return (double)ts.tv_sec + (double)ts.tv_nsec / 1e9;
}

int main(void)
{
    xb_bucket_t bucket = {0};
    unsigned looked_up = 0;
    int64_t now = 1000 * S;
    table = new_table(SESSIONS, 1, 64);
    xb_table_child_open(table, getpid());
    for (unsigned n = 0; n < REAL; n++)
        log_in(n, now += 100);
    is_int(refused, 0, "real sessions");
    uint64_t size = table->size;
    double begun = seconds();
    for (unsigned n = 0; n < PER_S * SECONDS; n++) {
        xb_ref_t ref;
        now += S / PER_S;
        if (xb_table_enter(table, 0, invented_tag(n), now, &ref) != XB_ENTER_UNKNOWN)
            diag("id %u is known", n);
        if (xb_bucket_take(&bucket, XB_LOOKUPS_PER_S, XB_LOOKUPS_BURST, now)) {
            looked_up++;
            look_up(invented_tag(n), now);
        }
        else
            insert(invented_tag(n), XB_SESSION_PARTIAL | XB_SESSION_UNPROVEN, now);
        if (n % (PER_S * SECONDS / LATE) == 0)
            log_in(REAL + n / (PER_S * SECONDS / LATE), now);
    }
    double took = seconds() - begun;
    diag("%d ids: %u looked up; %.2f us for each", PER_S * SECONDS, looked_up,
         1e6 * took / (PER_S * SECONDS));
    /* As docs/threat-model.md says. */
    ok(looked_up <= 500 * SECONDS + 1000, "look-ups: 500 a second and one burst");
    ok(looked_up >= 500 * SECONDS, "... which are made");
    ok(table->size == size && xb_table_slots(table) == SESSIONS * 9 / 8, "no memory is taken");
    is_int(remembered(0, REAL), REAL, "no real session has gone");
    is_int(remembered(REAL, REAL + LATE), LATE, "nor one of those that log in meanwhile");
    is_int(forgotten, 0, "none counts as forgotten");
    is_int(bad_slots(table), 0, "no contradiction");
    free_table(table);
    return done();
}
