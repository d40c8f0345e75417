/* SPDX-License-Identifier: Apache-2.0 */
/* Session table: set-up, look-up, making and forgetting of entries, the lock. */
#include <errno.h>
#include <string.h>

#include "xb_table_layout.h"

static uint64_t up64(uint64_t n)
{
    return (n + 63) & ~UINT64_C(63);
}

/* Everything but magic and lock. False: out of range. */
static bool lay_out(xb_table_t *t, const xb_table_dim_t *dim)
{
    if (dim->sessions < 1 || dim->sessions > XB_SESSIONS_MAX || dim->children < 1 ||
        dim->children > UINT16_MAX || dim->claims < 1 || dim->claims > UINT16_MAX)
        return false;
    uint32_t want = dim->sessions + (dim->sessions + 7) / 8;
    t->version = XB_TABLE_VERSION;
    t->entry_size = sizeof(xb_entry_t);
    t->dim = *dim;
    t->buckets = (want + XB_BUCKET - 1) / XB_BUCKET;
    if (t->buckets < 2)
        t->buckets = 2; /* a tag names two different ones */
    t->slots = t->buckets * XB_BUCKET;
    t->row_size = (uint32_t)up64(sizeof(xb_row_t) + dim->claims * sizeof(uint64_t));
    t->tags_at = sizeof(xb_table_t);
    t->entries_at = t->tags_at + t->slots * sizeof(uint64_t);
    t->rows_at = up64(t->entries_at + (uint64_t)t->slots * sizeof(xb_entry_t));
    t->size = t->rows_at + (uint64_t)dim->children * t->row_size;
    return true;
}

size_t xb_table_size(const xb_table_dim_t *dim)
{
    xb_table_t t;
    return lay_out(&t, dim) ? (size_t)t.size : 0;
}

static bool lock_init(pthread_mutex_t *lock)
{
    pthread_mutexattr_t attr;
    if (pthread_mutexattr_init(&attr))
        return false;
    bool good = !pthread_mutexattr_setpshared(&attr, PTHREAD_PROCESS_SHARED) &&
                !pthread_mutexattr_setrobust(&attr, PTHREAD_MUTEX_ROBUST) &&
                !pthread_mutex_init(lock, &attr);
    pthread_mutexattr_destroy(&attr);
    return good;
}

xb_table_t *xb_table_init(void *mem, const xb_table_dim_t *dim)
{
    xb_table_t *t = mem;
    if (!lay_out(t, dim) || !lock_init(&t->lock))
        return NULL;
    t->magic = XB_TABLE_MAGIC;
    return t;
}

uint32_t xb_table_slots(const xb_table_t *t)
{
    return t->slots;
}

/* ---- the lock */

/* Gives up the requests of a word in the FREE state to come; epoch and token go on, so that
 * nothing that belongs to the forgotten session fits its successor. */
static xb_word_t freed(xb_word_t w)
{
    w.state = XB_FREE;
    w.inflight = 0;
    w.home = 0;
    w.epoch++;
    return w;
}

/* A slot that a dead one was changing: forward if the session was to be found, else back. */
static void repair_locked(xb_table_t *t)
{
    uint32_t dirty = atomic_load(&t->dirty);
    if (!dirty)
        return;
    uint32_t slot = (dirty & ~XB_DIRTY_RENAME) - 1;
    xb_entry_t *e = xb_table_entry(t, slot);
    xb_word_t w = xb_entry_word(e);
    if (dirty & XB_DIRTY_RENAME) {
        if (w.state == XB_STABLE) /* the home has changed, the id perhaps not yet */
            atomic_store(&e->id_len, 0);
    }
    else if (w.state == XB_FREE)
        atomic_store(&xb_table_tags(t)[slot], 0);
    else if (!atomic_load(&xb_table_tags(t)[slot]))
        while (!xb_entry_swap(e, w, freed(w)))
            w = xb_entry_word(e);
    atomic_store(&t->dirty, 0);
}

static bool locked(xb_table_t *t, int rc)
{
    if (rc == EOWNERDEAD)
        pthread_mutex_consistent(&t->lock);
    else if (rc)
        return false;
    repair_locked(t);
    return true;
}

bool xb_table_lock(xb_table_t *t)
{
    return locked(t, pthread_mutex_lock(&t->lock));
}

void xb_table_unlock(xb_table_t *t)
{
    pthread_mutex_unlock(&t->lock);
}

/* ---- look-up */

uint32_t xb_table_find(const xb_table_t *t, uint64_t tag)
{
    _Atomic uint64_t *tags = xb_table_tags(t);
    uint32_t bucket[2];
    xb_table_buckets(t, tag, bucket);
    __builtin_prefetch(&tags[bucket[1] * XB_BUCKET]); /* both are on their way at once */
    for (unsigned b = 0; b < 2; b++)
        for (uint32_t i = bucket[b] * XB_BUCKET, end = i + XB_BUCKET; i < end; i++)
            if (atomic_load_explicit(&tags[i], memory_order_acquire) == tag)
                return i;
    return XB_SLOT_NONE;
}

unsigned xb_table_path(const xb_table_t *t, uint32_t slot)
{
    return atomic_load_explicit(&xb_table_entry(t, slot)->path, memory_order_relaxed);
}

void xb_table_set_path(xb_table_t *t, uint32_t slot, unsigned path)
{
    atomic_store(&xb_table_entry(t, slot)->path, (uint8_t)path);
}

void xb_table_touch(xb_table_t *t, uint32_t slot, int64_t now_us)
{
    xb_raise(&xb_table_entry(t, slot)->last_us, now_us);
}

unsigned xb_table_home(const xb_table_t *t, uint32_t slot)
{
    xb_word_t w = xb_entry_word(xb_table_entry(t, slot));
    return w.state == XB_FREE ? XB_MEMBER_NONE : w.home;
}

bool xb_table_glance(const xb_table_t *t, uint32_t slot, xb_glance_t *out)
{
    xb_entry_t *e = xb_table_entry(t, slot);
    if (!atomic_load_explicit(&xb_table_tags(t)[slot], memory_order_relaxed))
        return false; /* walks touch no entry that is free */
    out->word = atomic_load(&e->word);
    out->flags = atomic_load_explicit(&e->flags, memory_order_relaxed);
    out->last_us = atomic_load_explicit(&e->last_us, memory_order_relaxed);
    return xb_word_state(out->word) != XB_FREE;
}

bool xb_table_view(const xb_table_t *t, uint32_t slot, xb_view_t *out)
{
    xb_entry_t *e = xb_table_entry(t, slot);
    if (!atomic_load_explicit(&xb_table_tags(t)[slot], memory_order_relaxed))
        return false;
    out->word = atomic_load(&e->word); /* first: what changes later is caught by gate() */
    out->w = xb_word_unpack(out->word);
    if (out->w.state == XB_FREE)
        return false;
    out->tag = atomic_load(&xb_table_tags(t)[slot]);
    out->path = atomic_load(&e->path);
    out->requests = atomic_load(&e->requests);
    out->flags = atomic_load(&e->flags);
    out->max_inactive_s = atomic_load(&e->max_inactive_s);
    out->target = atomic_load(&e->target);
    out->created_us = atomic_load(&e->created_s) * XB_SECOND_US;
    out->last_us = atomic_load(&e->last_us);
    out->bar_until_us = atomic_load(&e->bar_until_us);
    out->gated_us = atomic_load(&e->gated_us);
    uint32_t bits = (uint32_t)(atomic_load(&e->traffic) >> 32);
    float traffic;
    memcpy(&traffic, &bits, sizeof traffic);
    out->traffic = (double)traffic;
    out->visited_count = 0;
    for (unsigned i = 0; i < XB_VISITED_MAX; i++) {
        uint64_t v = atomic_load(&e->visited[i]);
        if (!v)
            continue;
        out->visited[out->visited_count].member = xb_visited_member(v);
        out->visited[out->visited_count].asked = v & XB_VISITED_ASKED;
        out->visited[out->visited_count].since =
            XB_VISITED_REQUESTS(v) == (atomic_load(&e->requests) & 0xfff);
        out->visited[out->visited_count++].touched_us = xb_visited_us(v);
    }
    return true;
}

/* ---- forgetting */

/* False: somebody came in. */
static bool forget_locked(xb_table_t *t, uint32_t slot, xb_word_t w)
{
    atomic_store(&t->dirty, slot + 1);
    bool gone = xb_entry_swap(xb_table_entry(t, slot), w, freed(w));
    if (gone)
        atomic_store(&xb_table_tags(t)[slot], 0);
    atomic_store(&t->dirty, 0);
    return gone;
}

/* Whoever comes with the id of a session that has ended must not reach a former home, where a
 * copy may still be logged in: as long as there may be one, the entry leads to where it ended.
 */
void xb_entry_reap_locked(xb_table_t *t, uint32_t slot)
{
    xb_entry_t *e = xb_table_entry(t, slot);
    xb_word_t w = xb_entry_word(e);
    bool alone = true;
    for (unsigned i = 0; i < XB_VISITED_MAX; i++) {
        uint64_t v = atomic_load(&e->visited[i]);
        alone = alone && (!v || xb_visited_member(v) == w.home);
    }
    if (w.state == XB_STABLE && !w.inflight && alone &&
        atomic_load(&e->flags) & XB_SESSION_ENDED)
        forget_locked(t, slot, w);
}

void xb_table_reap(xb_table_t *t, uint32_t slot, bool wait)
{
    if (!locked(t, wait ? pthread_mutex_lock(&t->lock) : pthread_mutex_trylock(&t->lock)))
        return;
    xb_entry_reap_locked(t, slot);
    xb_table_unlock(t);
}

/* In the order of forgetting. KEEP: in use, or where it has been must not be forgotten. */
enum { RANK_ENDED, RANK_EXPIRED, RANK_UNPROVEN, RANK_PROVEN, RANK_KEEP };

static bool copies_elsewhere(xb_entry_t *e, unsigned home, int64_t now_us)
{
    for (unsigned i = 0; i < XB_VISITED_MAX; i++) {
        uint64_t v = atomic_load(&e->visited[i]);
        if (v && xb_visited_member(v) != home && !xb_entry_copy_died(e, v, now_us))
            return true;
    }
    return false;
}

static unsigned rank(xb_entry_t *e, xb_word_t w, int64_t now_us)
{
    unsigned flags = atomic_load(&e->flags);
    uint32_t inactive_s = atomic_load(&e->max_inactive_s);
    if (w.state != XB_STABLE || w.inflight)
        return RANK_KEEP;
    if (flags & XB_SESSION_ENDED && !copies_elsewhere(e, w.home, now_us))
        return RANK_ENDED;
    if (inactive_s && xb_table_copy_died(inactive_s, atomic_load(&e->last_us), now_us))
        return RANK_EXPIRED;
    if (flags & XB_SESSION_UNPROVEN)
        return RANK_UNPROVEN;
    if (flags & XB_SESSION_CROWDED || copies_elsewhere(e, w.home, now_us))
        return RANK_KEEP;
    return RANK_PROVEN;
}

/* The slot of the tag's two buckets to give up, with its word and rank; none: XB_SLOT_NONE. */
static uint32_t victim(xb_table_t *t, uint64_t tag, int64_t now_us, unsigned *best,
                       xb_word_t *word)
{
    uint32_t bucket[2], slot = XB_SLOT_NONE;
    int64_t oldest = INT64_MAX;
    xb_table_buckets(t, tag, bucket);
    *best = RANK_KEEP;
    for (unsigned n = 0; n < 2 * XB_BUCKET; n++) {
        uint32_t i = bucket[n / XB_BUCKET] * XB_BUCKET + n % XB_BUCKET;
        xb_entry_t *e = xb_table_entry(t, i);
        xb_word_t w = xb_entry_word(e);
        unsigned r = rank(e, w, now_us);
        int64_t last = atomic_load(&e->last_us);
        if (r == RANK_KEEP || r > *best || (r == *best && last >= oldest))
            continue;
        slot = i;
        *best = r;
        oldest = last;
        *word = w;
    }
    return slot;
}

static uint32_t make_room_locked(xb_table_t *t, uint64_t tag, unsigned flags, int64_t now_us,
                                 bool *forgot)
{
    unsigned limit = flags & XB_SESSION_UNPROVEN ? RANK_UNPROVEN : RANK_PROVEN;
    for (unsigned tries = 0; tries < 2 * XB_BUCKET; tries++) {
        unsigned r;
        xb_word_t w;
        uint32_t slot = victim(t, tag, now_us, &r, &w);
        if (slot == XB_SLOT_NONE || r > limit)
            break;
        /* An id that came once may have been made up. */
        bool used = atomic_load(&xb_table_entry(t, slot)->requests) > 1;
        if (!forget_locked(t, slot, w))
            continue; /* a request came in */
        *forgot = r == RANK_PROVEN || (r == RANK_UNPROVEN && used);
        return slot;
    }
    return XB_SLOT_NONE;
}

/* ---- making */

/* A free slot in the emptier of the tag's buckets. */
static uint32_t free_slot(const xb_table_t *t, uint64_t tag)
{
    uint32_t bucket[2], slot[2] = {XB_SLOT_NONE, XB_SLOT_NONE};
    unsigned room[2] = {0, 0};
    xb_table_buckets(t, tag, bucket);
    for (unsigned n = 2 * XB_BUCKET; n-- > 0;) {
        unsigned b = n / XB_BUCKET;
        uint32_t i = bucket[b] * XB_BUCKET + n % XB_BUCKET;
        if (atomic_load(&xb_table_tags(t)[i]))
            continue;
        room[b]++;
        slot[b] = i;
    }
    return room[1] > room[0] ? slot[1] : slot[0];
}

void xb_entry_rename_locked(xb_entry_t *e, xb_span_t id)
{
    atomic_store(&e->id_len, 0);
    if (id.n)
        memcpy(e->id, id.p, id.n);
    atomic_store(&e->id_len, (uint8_t)id.n);
}

static void fill_locked(xb_entry_t *e, xb_span_t id, unsigned home, unsigned flags,
                        unsigned path, int64_t now_us)
{
    xb_entry_rename_locked(e, id);
    atomic_store(&e->last_us, now_us);
    atomic_store(&e->bar_until_us, 0);
    atomic_store(&e->traffic, 0);
    atomic_store(&e->requests, 1);
    atomic_store(&e->created_s, (uint32_t)(now_us / XB_SECOND_US));
    atomic_store(&e->max_inactive_s, 0);
    atomic_store(&e->target, XB_MEMBER_NONE);
    atomic_store(&e->flags, (uint8_t)flags);
    atomic_store(&e->path, (uint8_t)path);
    atomic_store(&e->gated_us, 0);
    for (unsigned i = 0; i < XB_VISITED_MAX; i++)
        atomic_store(&e->visited[i], 0);
    xb_entry_visit_locked(e, home, now_us);
}

/* Entry whole, then its word, then its tag: who finds the tag finds all. With its gate open it
 * is made for a request in flight. */
static void publish_locked(xb_table_t *t, uint64_t tag, uint32_t slot, unsigned home, int state)
{
    xb_entry_t *e = xb_table_entry(t, slot);
    xb_word_t w = xb_entry_word(e);
    w.state = (unsigned)state;
    w.inflight = state == XB_STABLE;
    w.home = home;
    w.seq++;
    atomic_store(&e->word, xb_word_pack(w)); /* nobody swaps a free word */
    atomic_store(&xb_table_tags(t)[slot], tag);
}

xb_insert_t xb_table_insert(xb_table_t *t, unsigned child, uint64_t tag, xb_span_t id,
                            unsigned home, unsigned flags, unsigned path, int64_t now_us,
                            xb_ref_t *ref, bool *forgot)
{
    uint32_t claim, slot;
    xb_insert_t result = XB_INSERT_FULL;
    *forgot = false;
    if (id.n > XB_ID_MAX || path > UINT8_MAX || !xb_claim_take(t, child, XB_SLOT_NONE, &claim))
        return XB_INSERT_FULL;
    _Atomic uint64_t *own = &xb_table_row(t, child)->claim[claim];
    if (!xb_table_lock(t)) {
        atomic_store(own, 0);
        return XB_INSERT_FULL;
    }
    if (xb_table_find(t, tag) != XB_SLOT_NONE)
        result = XB_INSERT_EXISTS;
    else if ((slot = free_slot(t, tag)) != XB_SLOT_NONE ||
             (slot = make_room_locked(t, tag, flags, now_us, forgot)) != XB_SLOT_NONE) {
        xb_entry_t *e = xb_table_entry(t, slot);
        unsigned epoch = xb_entry_word(e).epoch;
        *ref = (xb_ref_t){slot, claim, (uint16_t)child, (uint16_t)home, (uint16_t)epoch};
        atomic_store(own, xb_claim_pack(XB_CLAIM_INTENT, 0, slot));
        atomic_store(&t->dirty, slot + 1);
        fill_locked(e, id, home, flags, path, now_us);
        publish_locked(t, tag, slot, home, XB_STABLE);
        atomic_store(own, xb_claim_counted(epoch, slot, home));
        atomic_store(&t->dirty, 0);
        result = XB_INSERT_NEW;
    }
    if (result != XB_INSERT_NEW)
        atomic_store(own, 0);
    xb_table_unlock(t);
    return result;
}

xb_insert_t xb_table_insert_shut(xb_table_t *t, uint64_t tag, xb_span_t id, unsigned home,
                                 unsigned flags, unsigned path, int64_t now_us, uint32_t *slot,
                                 bool *forgot)
{
    *forgot = false;
    xb_insert_t result = XB_INSERT_FULL;
    if (id.n > XB_ID_MAX || path > UINT8_MAX || !xb_table_lock(t))
        return XB_INSERT_FULL;
    if (xb_table_find(t, tag) != XB_SLOT_NONE)
        result = XB_INSERT_EXISTS;
    else if ((*slot = free_slot(t, tag)) != XB_SLOT_NONE ||
             (*slot = make_room_locked(t, tag, flags, now_us, forgot)) != XB_SLOT_NONE) {
        xb_entry_t *e = xb_table_entry(t, *slot);
        atomic_store(&t->dirty, *slot + 1);
        fill_locked(e, id, home, flags, path, now_us);
        atomic_store(&e->requests, 0);
        atomic_store(&e->gated_us, now_us);
        publish_locked(t, tag, *slot, home, XB_MOVING);
        atomic_store(&t->dirty, 0);
        result = XB_INSERT_NEW;
    }
    xb_table_unlock(t);
    return result;
}

unsigned xb_table_flag(xb_table_t *t, uint32_t slot, unsigned set, unsigned clear)
{
    xb_entry_t *e = xb_table_entry(t, slot);
    atomic_fetch_or(&e->flags, (uint8_t)set);
    unsigned before = atomic_fetch_and(&e->flags, (uint8_t)~clear);
    xb_entry_stir(e);
    if (set & XB_SESSION_ENDED && !xb_entry_word(e).inflight)
        xb_table_reap(t, slot, true);
    return before;
}

void xb_table_disprove(xb_table_t *t, uint32_t slot)
{
    atomic_store(&xb_table_entry(t, slot)->requests, 0);
    xb_table_flag(t, slot, XB_SESSION_UNPROVEN, 0);
}
