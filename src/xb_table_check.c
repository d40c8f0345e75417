/* SPDX-License-Identifier: Apache-2.0 */
/* Session table: finds contradictions in it. */
#include "xb_table_layout.h"

/* The dead are not counted, but what they had in flight is, until it is repaired. */
static bool dead_row(const xb_table_t *t)
{
    for (unsigned child = 0; child < t->dim.children; child++)
        if (xb_row_state(xb_table_row(t, child)) == XB_ROW_DEAD)
            return true;
    return false;
}

/* Is the count in flight the one that the claims give? True also while it cannot be told. */
static bool inflight_good(const xb_table_t *t, uint32_t slot, xb_word_t w)
{
    xb_entry_t *e = xb_table_entry(t, slot);
    unsigned count;
    return !xb_claim_count(t, slot, w.epoch, &count) || count == w.inflight || dead_row(t) ||
           xb_word_pack(xb_entry_word(e)) != xb_word_pack(w);
}

static bool visited_good(xb_entry_t *e)
{
    for (unsigned i = 0; i < XB_VISITED_MAX; i++) {
        uint64_t v = atomic_load(&e->visited[i]);
        if (v && xb_visited_member(v) >= XB_MEMBER_NONE)
            return false;
        for (unsigned j = 0; v && j < i; j++)
            if (xb_visited_member(atomic_load(&e->visited[j])) == xb_visited_member(v))
                return false;
    }
    return true;
}

static bool slot_good(const xb_table_t *t, uint32_t slot)
{
    xb_entry_t *e = xb_table_entry(t, slot);
    uint64_t tag = atomic_load(&xb_table_tags(t)[slot]);
    xb_word_t w = xb_entry_word(e);
    if (w.state == XB_FREE)
        return !tag && !w.inflight;
    /* in the right bucket, and once */
    if (w.state > XB_MOVING || !tag || xb_table_find(t, tag) != slot)
        return false;
    return (!w.inflight || inflight_good(t, slot, w)) && atomic_load(&e->id_len) <= XB_ID_MAX &&
           visited_good(e);
}

/* A claim in a row: its slot exists, and the session counts at least this one request. */
static bool claim_good(const xb_table_t *t, const xb_row_t *row, uint32_t i)
{
    unsigned state = xb_row_state(row);
    uint64_t claim = atomic_load(&row->claim[i]);
    uint32_t slot = (uint32_t)claim;
    if (!claim || state == XB_ROW_DEAD)
        return true;
    if (state == XB_ROW_FREE)
        return xb_row_state(row) != state;
    if (slot >= t->slots)
        return slot == XB_SLOT_NONE && xb_claim_state(claim) == XB_CLAIM_INTENT;
    xb_entry_t *e = xb_table_entry(t, slot);
    uint64_t word = atomic_load(&e->word);
    xb_word_t w = xb_word_unpack(word);
    if (!xb_claim_is_counted(claim, w.epoch, slot))
        return true;
    return (w.state != XB_FREE && w.inflight) || atomic_load(&row->claim[i]) != claim ||
           atomic_load(&e->word) != word || xb_row_state(row) != state;
}

unsigned xb_table_validate(xb_table_t *t, uint32_t *where)
{
    *where = XB_SLOT_NONE;
    if (t->magic != XB_TABLE_MAGIC || t->version != XB_TABLE_VERSION ||
        t->entry_size != sizeof(xb_entry_t) || t->size != xb_table_size(&t->dim) ||
        !xb_table_lock(t))
        return 1;
    unsigned bad = 0;
    for (unsigned child = 0; child < t->dim.children; child++)
        for (uint32_t i = 0; i < t->dim.claims; i++)
            bad += !claim_good(t, xb_table_row(t, child), i);
    for (uint32_t slot = 0; slot < t->slots; slot++)
        if (!slot_good(t, slot)) {
            if (!bad++ || *where == XB_SLOT_NONE)
                *where = slot;
        }
    xb_table_unlock(t);
    return bad;
}
