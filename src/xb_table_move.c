/* SPDX-License-Identifier: Apache-2.0 */
/* Session table: what a move does to an entry (gate, fence, commit, abort), where a session has
 * been, and its newest id. Gates are shut and opened under the lock only; requests in flight
 * may still end meanwhile, so words are swapped in loops. */
#include <string.h>

#include "xb_rule.h"
#include "xb_table_layout.h"

/* ---- where it has been */

bool xb_table_copy_died(uint32_t max_inactive_s, int64_t touched_us, int64_t now_us)
{
    int64_t life_s = max_inactive_s ? max_inactive_s : XB_INACTIVE_UNKNOWN_S;
    return max_inactive_s != XB_INACTIVE_NEVER &&
           touched_us + (life_s + XB_EXPIRY_SLACK_S) * XB_SECOND_US < now_us;
}

bool xb_entry_copy_died(xb_entry_t *e, uint64_t visited, int64_t now_us)
{
    return xb_table_copy_died(atomic_load(&e->max_inactive_s), xb_visited_us(visited), now_us);
}

/* Milliseconds are rounded up: a copy is never taken for older than it is. */
static uint64_t touch(uint64_t visited, int64_t now_us)
{
    return visited - XB_VISITED_MS(visited) + (uint64_t)(now_us / 1000 + 1);
}

static uint64_t visited_pack(unsigned member, int64_t now_us)
{
    return touch((uint64_t)(member + 1) << 41, now_us);
}

bool xb_entry_revisit(xb_entry_t *e, unsigned member, int64_t now_us)
{
    for (unsigned i = 0; i < XB_VISITED_MAX; i++) {
        uint64_t v = atomic_load(&e->visited[i]);
        while (v && xb_visited_member(v) == member)
            if (xb_visited_us(v) > now_us ||
                atomic_compare_exchange_weak(&e->visited[i], &v, touch(v, now_us)))
                return true;
    }
    return false;
}

/* The place of the node that was visited the longest ago, other than the home: its copy is the
 * first to die. */
static unsigned oldest_visit(xb_entry_t *e, unsigned home)
{
    unsigned at = 0;
    int64_t oldest = INT64_MAX;
    for (unsigned i = 0; i < XB_VISITED_MAX; i++) {
        uint64_t v = atomic_load(&e->visited[i]);
        if (xb_visited_member(v) != home && xb_visited_us(v) < oldest) {
            oldest = xb_visited_us(v);
            at = i;
        }
    }
    return at;
}

void xb_entry_visit_locked(xb_entry_t *e, unsigned member, int64_t now_us)
{
    unsigned home = xb_entry_word(e).home, at = XB_VISITED_MAX;
    if (member == XB_MEMBER_NONE || xb_entry_revisit(e, member, now_us))
        return;
    for (unsigned i = XB_VISITED_MAX; i-- > 0;) {
        uint64_t v = atomic_load(&e->visited[i]);
        if (!v || (xb_visited_member(v) != home && xb_entry_copy_died(e, v, now_us)))
            at = i;
    }
    if (at == XB_VISITED_MAX) {
        atomic_fetch_or(&e->flags, XB_SESSION_CROWDED);
        at = oldest_visit(e, home);
    }
    atomic_store(&e->visited[at], visited_pack(member, now_us));
    xb_entry_stir(e);
}

void xb_table_visit(xb_table_t *t, uint32_t slot, unsigned member, int64_t now_us)
{
    xb_entry_t *e = xb_table_entry(t, slot);
    if (xb_entry_revisit(e, member, now_us) || !xb_table_lock(t))
        return;
    xb_entry_visit_locked(e, member, now_us);
    xb_table_unlock(t);
}

static void done_locked(xb_entry_t *e, unsigned member)
{
    for (unsigned i = 0; i < XB_VISITED_MAX; i++)
        if (xb_visited_member(atomic_load(&e->visited[i])) == member)
            atomic_fetch_and(&e->visited[i], ~XB_VISITED_ASKED);
}

/* Others only touch it meanwhile. */
void xb_table_ask(xb_table_t *t, uint32_t slot, unsigned member, int64_t now_us)
{
    xb_entry_t *e = xb_table_entry(t, slot);
    uint64_t requests = atomic_load(&e->requests) & 0xfff;
    if (!xb_table_lock(t))
        return;
    xb_entry_visit_locked(e, member, now_us);
    for (unsigned i = 0; i < XB_VISITED_MAX; i++) {
        uint64_t v = atomic_load(&e->visited[i]);
        if (xb_visited_member(v) == member)
            atomic_store(&e->visited[i], XB_VISITED_ASKED | requests << 51 |
                                             (v - (XB_VISITED_REQUESTS(v) << 51)));
    }
    xb_table_unlock(t);
}

void xb_table_done(xb_table_t *t, uint32_t slot, unsigned member)
{
    if (!xb_table_lock(t))
        return;
    done_locked(xb_table_entry(t, slot), member);
    xb_table_unlock(t);
}

void xb_table_unvisit(xb_table_t *t, uint32_t slot, unsigned member)
{
    xb_entry_t *e = xb_table_entry(t, slot);
    if (!xb_table_lock(t))
        return;
    for (unsigned i = 0; i < XB_VISITED_MAX; i++) {
        uint64_t v = atomic_load(&e->visited[i]);
        if (v && xb_visited_member(v) == member)
            atomic_store(&e->visited[i], 0);
    }
    xb_entry_reap_locked(t, slot);
    xb_table_unlock(t);
}

unsigned xb_table_rehome(xb_table_t *t, uint32_t slot, unsigned from, unsigned to,
                         int64_t now_us)
{
    xb_entry_t *e = xb_table_entry(t, slot);
    xb_word_t w, next;
    if (!xb_table_lock(t))
        return xb_entry_word(e).home;
    xb_entry_visit_locked(e, from, now_us);
    xb_entry_visit_locked(e, to, now_us);
    do {
        next = w = xb_entry_word(e);
        if (w.state != XB_STABLE || w.home != from)
            break;
        next.home = to;
        next.seq++;
    } while (!xb_entry_swap(e, w, next));
    if (next.home == to && w.home == from && from != to && w.state == XB_STABLE) {
        atomic_fetch_or(&e->flags, XB_SESSION_ASSUMED);
        done_locked(e, to);
    }
    xb_table_unlock(t);
    return next.home;
}

bool xb_table_return(xb_table_t *t, uint32_t slot, uint64_t seen, unsigned to, int64_t now_us)
{
    xb_entry_t *e = xb_table_entry(t, slot);
    xb_word_t w = xb_word_unpack(seen), next = w;
    if (w.state != XB_STABLE || !xb_table_lock(t))
        return false;
    xb_entry_visit_locked(e, w.home, now_us);
    next.home = to;
    next.seq++;
    bool back = xb_entry_swap(e, w, next);
    if (back) {
        xb_entry_visit_locked(e, to, now_us);
        done_locked(e, to);
    }
    xb_table_unlock(t);
    return back;
}

/* ---- the newest id */

static void rename_locked(xb_entry_t *e, xb_span_t id)
{
    if (XB_RULE(NEWEST))
        xb_entry_rename_locked(e, id);
}

bool xb_table_learn(xb_table_t *t, const xb_ref_t *ref, xb_span_t id, int path)
{
    xb_entry_t *e = xb_table_entry(t, ref->slot);
    if (id.n < 1 || id.n > XB_ID_MAX || path > UINT8_MAX || !xb_table_lock(t))
        return false;
    bool current = xb_table_current(t, ref); /* epochs change under the lock only */
    if (current) {
        rename_locked(e, id);
        if (path >= 0)
            atomic_store(&e->path, (uint8_t)path);
        atomic_fetch_and(&e->flags, (uint8_t) ~(XB_SESSION_UNPROVEN | XB_SESSION_ENDED));
    }
    xb_table_unlock(t);
    return current;
}

bool xb_table_newest(xb_table_t *t, uint32_t slot, char id[XB_ID_MAX + 1])
{
    xb_entry_t *e = xb_table_entry(t, slot);
    if (!xb_table_lock(t))
        return false;
    size_t len = xb_entry_word(e).state == XB_FREE ? 0 : atomic_load(&e->id_len);
    memcpy(id, e->id, len);
    id[len] = '\0';
    xb_table_unlock(t);
    return len > 0;
}

/* ---- the gate */

static bool holds(xb_word_t w, unsigned token)
{
    return w.state == XB_MOVING && (w.token == token || !XB_RULE(TOKEN));
}

static xb_word_t fenced(xb_word_t w)
{
    w.epoch++;
    w.inflight = 0;
    return w;
}

bool xb_table_gate(xb_table_t *t, uint32_t slot, uint64_t seen, unsigned target, bool fence,
                   int64_t now_us, unsigned *token)
{
    xb_entry_t *e = xb_table_entry(t, slot);
    xb_word_t w = XB_RULE(WORD) ? xb_word_unpack(seen) : xb_entry_word(e),
              next = fence ? fenced(w) : w;
    next.state = XB_MOVING;
    next.token = (w.token + 1) & XB_TOKEN_MASK;
    if (w.state != XB_STABLE || !xb_table_lock(t))
        return false;
    if (atomic_load(&e->word) != xb_word_pack(w)) { /* target is another's meanwhile */
        xb_table_unlock(t);
        return false;
    }
    uint16_t old_target = atomic_load(&e->target);
    int64_t old_gated_us = atomic_load(&e->gated_us);
    atomic_store(&e->target, (uint16_t)target); /* before: who finds a shut gate needs them */
    atomic_store(&e->gated_us, now_us);
    bool shut = xb_entry_swap(e, w, next);
    if (shut)
        *token = next.token;
    else if (xb_entry_word(e).state != XB_FREE) {
        atomic_store(&e->target, old_target);
        atomic_store(&e->gated_us, old_gated_us);
    }
    xb_table_unlock(t);
    return shut;
}

bool xb_table_token(const xb_table_t *t, uint32_t slot, unsigned token, unsigned *inflight)
{
    xb_word_t w = xb_entry_word(xb_table_entry(t, slot));
    if (inflight)
        *inflight = w.inflight;
    return holds(w, token);
}

bool xb_table_fence(xb_table_t *t, uint32_t slot, unsigned token)
{
    xb_entry_t *e = xb_table_entry(t, slot);
    if (!xb_table_lock(t))
        return false;
    xb_word_t w = xb_entry_word(e);
    bool ours = holds(w, token);
    while (ours && !xb_entry_swap(e, w, fenced(w)))
        w = xb_entry_word(e);
    xb_table_unlock(t);
    return ours;
}

bool xb_table_id(xb_table_t *t, uint32_t slot, unsigned token, char id[XB_ID_MAX + 1],
                 unsigned *path)
{
    xb_entry_t *e = xb_table_entry(t, slot);
    if (!xb_table_lock(t))
        return false;
    size_t len = holds(xb_entry_word(e), token) ? atomic_load(&e->id_len) : 0;
    memcpy(id, e->id, len);
    id[len] = '\0';
    *path = atomic_load(&e->path);
    xb_table_unlock(t);
    return len > 0;
}

bool xb_table_id_of(xb_table_t *t, uint32_t slot, uint64_t tag, char id[XB_ID_MAX + 1],
                    unsigned *path)
{
    xb_entry_t *e = xb_table_entry(t, slot);
    if (!xb_table_lock(t))
        return false;
    size_t len = atomic_load(&xb_table_tags(t)[slot]) == tag ? atomic_load(&e->id_len) : 0;
    memcpy(id, e->id, len);
    id[len] = '\0';
    *path = atomic_load(&e->path);
    xb_table_unlock(t);
    return len > 0;
}

void xb_table_max_inactive(xb_table_t *t, uint32_t slot, unsigned token, uint32_t seconds)
{
    xb_entry_t *e = xb_table_entry(t, slot);
    if (!xb_table_lock(t))
        return;
    if (holds(xb_entry_word(e), token))
        atomic_store(&e->max_inactive_s, seconds);
    xb_table_unlock(t);
}

void xb_table_target(xb_table_t *t, uint32_t slot, unsigned token, unsigned target)
{
    xb_entry_t *e = xb_table_entry(t, slot);
    if (!xb_table_lock(t))
        return;
    if (holds(xb_entry_word(e), token))
        atomic_store(&e->target, (uint16_t)target);
    xb_table_unlock(t);
}

/* The word before the id: if the committer dies between, the session is at its right home and
 * its id is unknown (the repair sees to that) until the next answer tells it. Where the home
 * stays, its requests in flight are not given up. */
static void commit_locked(xb_table_t *t, uint32_t slot, unsigned home, xb_span_t id)
{
    xb_entry_t *e = xb_table_entry(t, slot);
    xb_word_t w, next;
    atomic_store(&t->dirty, (slot + 1) | XB_DIRTY_RENAME);
    do {
        w = xb_entry_word(e);
        next = w.home == home ? w : fenced(w);
        next.state = XB_STABLE;
        next.home = home;
    } while (!xb_entry_swap(e, w, next));
    rename_locked(e, id);
    atomic_store(&t->dirty, 0);
}

bool xb_table_commit(xb_table_t *t, uint32_t slot, unsigned token, unsigned home, xb_span_t id,
                     int64_t now_us, int64_t bar_until_us)
{
    xb_entry_t *e = xb_table_entry(t, slot);
    if (id.n > XB_ID_MAX || !xb_table_lock(t))
        return false;
    xb_word_t w = xb_entry_word(e);
    bool ours = holds(w, token);
    if (ours) {
        xb_entry_visit_locked(e, w.home, now_us);
        xb_entry_visit_locked(e, home, now_us);
        xb_raise(&e->bar_until_us, bar_until_us);
        xb_raise(&e->last_us, now_us); /* the takeover was an access */
        commit_locked(t, slot, home, id);
        done_locked(e, home);
    }
    xb_table_unlock(t);
    return ours;
}

bool xb_table_abort(xb_table_t *t, uint32_t slot, unsigned token, int64_t bar_until_us)
{
    xb_entry_t *e = xb_table_entry(t, slot);
    if (!xb_table_lock(t))
        return false;
    xb_word_t w = xb_entry_word(e), next;
    bool ours = holds(w, token);
    if (ours) {
        xb_raise(&e->bar_until_us, bar_until_us);
        do {
            next = w = xb_entry_word(e);
            next.state = XB_STABLE;
        } while (!xb_entry_swap(e, w, next));
        xb_entry_reap_locked(t, slot);
    }
    xb_table_unlock(t);
    return ours;
}

bool xb_table_regate(xb_table_t *t, uint32_t slot, unsigned *token)
{
    xb_entry_t *e = xb_table_entry(t, slot);
    xb_word_t w, next;
    if (!xb_table_lock(t))
        return false;
    do {
        next = w = xb_entry_word(e);
        if (w.state != XB_MOVING)
            break;
        *token = next.token = (w.token + 1) & XB_TOKEN_MASK;
    } while (!xb_entry_swap(e, w, next));
    xb_table_unlock(t);
    return w.state == XB_MOVING;
}
