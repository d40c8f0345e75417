/* SPDX-License-Identifier: Apache-2.0 */
/* Session table: children, their claims, and the request path (enter, leave), which takes no
 * lock. A request's claim is INTENT before its session's word counts it and COUNTED after;
 * LEAVING before the word lets it go and free after. So whoever reads a word, counts the claims
 * and then swaps that very word has counted right: each request that came meanwhile moved the
 * word's sequence, each that went its count, and one in between shows by its claim. */
#include <string.h>

#include "xb_table_layout.h"

#define UNCOUNTED_BAR_US (600 * XB_SECOND_US)
#define SETTLE_TRIES 16
/* True of an idle session only. */
#define SEEN_IDLE (XB_SESSION_VERIFIED | XB_SESSION_UNMOVABLE)

/* ---- claims */

/* Where this thread last had a claim: mostly free again, on no other thread's cache line. */
static _Thread_local uint32_t hint = UINT32_MAX;

static inline bool take_claim(xb_table_t *t, unsigned child, uint32_t slot, uint32_t *claim)
{
    if (child >= t->dim.children)
        return false;
    xb_row_t *row = xb_table_row(t, child);
    uint32_t claims = t->dim.claims;
    uint32_t *own = &hint;
    if (*own == UINT32_MAX)
        *own = atomic_fetch_add(&row->next, 8);
    uint32_t i = *own < claims ? *own : *own % claims;
    for (uint32_t n = 0; n < claims; n++) {
        uint64_t none = 0;
        if (!atomic_load_explicit(&row->claim[i], memory_order_relaxed) &&
            atomic_compare_exchange_strong(&row->claim[i], &none,
                                           xb_claim_pack(XB_CLAIM_INTENT, 0, slot))) {
            *own = *claim = i;
            return true;
        }
        i = i + 1 < claims ? i + 1 : 0;
    }
    return false;
}

bool xb_claim_take(xb_table_t *t, unsigned child, uint32_t slot, uint32_t *claim)
{
    return take_claim(t, child, slot, claim);
}

bool xb_claim_count(const xb_table_t *t, uint32_t slot, unsigned epoch, unsigned *count)
{
    *count = 0;
    for (unsigned child = 0; child < t->dim.children; child++) {
        xb_row_t *row = xb_table_row(t, child);
        if (xb_row_state(row) != XB_ROW_LIVING)
            continue;
        for (uint32_t i = 0; i < t->dim.claims; i++) {
            uint64_t claim = atomic_load(&row->claim[i]);
            if (!claim || (uint32_t)claim != slot)
                continue;
            if (xb_claim_state(claim) != XB_CLAIM_COUNTED)
                return false;
            *count += xb_claim_is_counted(claim, epoch, slot);
        }
    }
    return true;
}

/* A claim that is not counted yet may have met the word before its epoch changed. */
static bool is_stray(uint64_t claim, uint32_t slot, unsigned epoch, unsigned member)
{
    unsigned state = xb_claim_state(claim);
    return (uint32_t)claim == slot &&
           (state == XB_CLAIM_INTENT ||
            (state == XB_CLAIM_COUNTED && !xb_claim_is_counted(claim, epoch, slot) &&
             (member == XB_MEMBER_NONE || xb_claim_home(claim) == member)));
}

bool xb_table_strays(const xb_table_t *t, uint32_t slot, unsigned member)
{
    unsigned epoch = xb_entry_word(xb_table_entry(t, slot)).epoch;
    for (unsigned child = 0; child < t->dim.children; child++) {
        xb_row_t *row = xb_table_row(t, child);
        for (uint32_t i = 0; xb_row_state(row) != XB_ROW_FREE && i < t->dim.claims; i++)
            if (is_stray(atomic_load(&row->claim[i]), slot, epoch, member))
                return true;
    }
    return false;
}

/* ---- children */

int xb_table_child_open(xb_table_t *t, int32_t pid)
{
    xb_table_child_dead(t, pid); /* its last bearer's death was missed */
    for (unsigned child = 0; child < t->dim.children; child++) {
        uint64_t none = xb_row_owner(XB_ROW_FREE, 0);
        if (atomic_compare_exchange_strong(&xb_table_row(t, child)->owner, &none,
                                           xb_row_owner(XB_ROW_LIVING, pid)))
            return (int)child;
    }
    return -1;
}

/* Claims that are still held are left to the repair. */
void xb_table_child_close(xb_table_t *t, unsigned child)
{
    xb_row_t *row = xb_table_row(t, child);
    uint32_t held = 0;
    while (held < t->dim.claims && !atomic_load(&row->claim[held]))
        held++;
    if (held == t->dim.claims)
        atomic_store(&row->owner, xb_row_owner(XB_ROW_FREE, 0));
    else
        atomic_store(&row->owner, xb_row_owner(XB_ROW_DEAD, 0));
}

int xb_table_child_dead(xb_table_t *t, int32_t pid)
{
    for (unsigned child = 0; child < t->dim.children; child++) {
        uint64_t living = xb_row_owner(XB_ROW_LIVING, pid);
        if (atomic_compare_exchange_strong(&xb_table_row(t, child)->owner, &living,
                                           xb_row_owner(XB_ROW_DEAD, pid)))
            return (int)child;
    }
    return -1;
}

int32_t xb_table_child_pid(const xb_table_t *t, unsigned child)
{
    uint64_t owner = atomic_load(&xb_table_row(t, child)->owner);
    return owner >> 32 == XB_ROW_LIVING ? (int32_t)(uint32_t)owner : 0;
}

/* Counts one session again; the bar stands before the word says that it is quiet. False: it
 * does not hold still. */
static bool settle(xb_table_t *t, uint32_t slot, int64_t bar_until_us)
{
    if (slot >= t->slots)
        return true; /* died between claim and slot */
    xb_entry_t *e = xb_table_entry(t, slot);
    for (unsigned tries = 0; tries < SETTLE_TRIES; tries++) {
        xb_word_t w = xb_entry_word(e), counted = w;
        if (w.state == XB_FREE)
            return true;
        if (!xb_claim_count(t, slot, w.epoch, &counted.inflight))
            continue;
        if (counted.inflight < w.inflight)
            xb_raise(&e->bar_until_us, bar_until_us);
        counted.seq++;
        if (xb_entry_swap(e, w, counted))
            return true;
    }
    return false;
}

/* The lock is held for one claim at a time; rows of the dead are freed only under it. */
static bool repair_claim(xb_table_t *t, xb_row_t *row, uint32_t i, int64_t bar_until_us,
                         unsigned *settled)
{
    bool still_dead = false;
    if (!xb_table_lock(t))
        return false;
    uint64_t claim = atomic_load(&row->claim[i]);
    if (xb_row_state(row) == XB_ROW_DEAD) {
        still_dead = true;
        if (claim && settle(t, (uint32_t)claim, bar_until_us)) {
            atomic_store(&row->claim[i], 0);
            ++*settled;
        }
    }
    xb_table_unlock(t);
    return still_dead;
}

static void free_row(xb_table_t *t, xb_row_t *row)
{
    uint32_t held = 0;
    if (!xb_table_lock(t))
        return;
    while (held < t->dim.claims && !atomic_load(&row->claim[held]))
        held++;
    if (held == t->dim.claims && xb_row_state(row) == XB_ROW_DEAD)
        atomic_store(&row->owner, xb_row_owner(XB_ROW_FREE, 0));
    xb_table_unlock(t);
}

unsigned xb_table_repair(xb_table_t *t, int64_t bar_until_us)
{
    unsigned settled = 0;
    for (unsigned child = 0; child < t->dim.children; child++) {
        xb_row_t *row = xb_table_row(t, child);
        if (xb_row_state(row) != XB_ROW_DEAD)
            continue;
        for (uint32_t i = 0; i < t->dim.claims; i++)
            if (atomic_load(&row->claim[i]) && !repair_claim(t, row, i, bar_until_us, &settled))
                break;
        free_row(t, row);
    }
    return settled;
}

/* ---- requests */

xb_word_t xb_entry_stir(xb_entry_t *e)
{
    xb_word_t w, next;
    do {
        next = w = xb_entry_word(e);
        if (w.state != XB_STABLE)
            break;
        next.seq++;
    } while (!xb_entry_swap(e, w, next));
    return next;
}

/* The session's last sign of life is older than its home's, or the home was given up in vain.
 */
static bool is_reborn(const xb_entry_t *e, const xb_members_t *members, unsigned home)
{
    return home < XB_MEMBERS_MAX &&
           (atomic_load_explicit(&members->member[home].reborn_us, memory_order_relaxed) >
                atomic_load_explicit(&e->last_us, memory_order_relaxed) ||
            atomic_load_explicit(&e->target, memory_order_relaxed) == XB_TARGET_HELD);
}

/* The bar stands before the word moves: who still sees the old word cannot shut the gate. */
static xb_enter_t pass_uncounted(xb_table_t *t, unsigned child, uint32_t slot, uint64_t tag,
                                 int64_t now_us, const xb_members_t *members, xb_ref_t *ref)
{
    xb_entry_t *e = xb_table_entry(t, slot);
    xb_raise(&e->bar_until_us, now_us + UNCOUNTED_BAR_US);
    xb_word_t w = xb_entry_stir(e);
    if (w.state == XB_FREE || atomic_load(&xb_table_tags(t)[slot]) != tag)
        return XB_ENTER_UNKNOWN;
    *ref = (xb_ref_t){slot, UINT32_MAX, (uint16_t)child, (uint16_t)w.home, (uint16_t)w.epoch};
    if (w.state != XB_STABLE)
        return XB_ENTER_GATE;
    if (members && is_reborn(e, members, w.home))
        return XB_ENTER_REBORN;
    atomic_fetch_add_explicit(&e->requests, 1, memory_order_relaxed);
    return XB_ENTER_UNCOUNTED;
}

/* Counts the request in the word; *seen is the word it read. */
static xb_enter_t count_in(xb_entry_t *e, const xb_members_t *members, uint64_t *seen)
{
    uint64_t w = *seen = atomic_load(&e->word);
    do {
        *seen = w;
        if (xb_word_state(w) != XB_STABLE)
            return xb_word_state(w) == XB_FREE ? XB_ENTER_UNKNOWN : XB_ENTER_GATE;
        if (members && is_reborn(e, members, xb_word_home(w)))
            return XB_ENTER_REBORN;
        if (xb_word_inflight(w) == XB_INFLIGHT_MAX)
            return XB_ENTER_UNCOUNTED;
    } while (!atomic_compare_exchange_weak(&e->word, &w, xb_word_entered(w)));
    return XB_ENTER_IN;
}

/* A claim's states need no order but that before and after the swaps of the word: who has read
 * the word that a request has swapped in sees the claim that it wrote before (release of the
 * swap), and who sees the claim that it wrote after finds the word swapped when he swaps it
 * himself (release of this store; a swap reads the latest word). */
static void set_claim(_Atomic uint64_t *own, uint64_t claim)
{
    atomic_store_explicit(own, claim, memory_order_release);
}

/* True: it was the last one in flight. */
static bool count_out(xb_entry_t *e, _Atomic uint64_t *own, uint32_t slot, unsigned epoch)
{
    uint64_t w = atomic_load(&e->word);
    bool counted;
    set_claim(own, xb_claim_pack(XB_CLAIM_LEAVING, epoch, slot));
    do
        counted = xb_word_epoch(w) == epoch && xb_word_inflight(w);
    while (counted && !atomic_compare_exchange_weak(&e->word, &w, xb_word_left(w)));
    set_claim(own, 0);
    return counted && xb_word_inflight(w) == 1;
}

xb_enter_t xb_table_enter(xb_table_t *t, unsigned child, uint64_t tag, int64_t now_us,
                          xb_ref_t *ref)
{
    return xb_table_enter_at(t, child, tag, now_us, NULL, ref);
}

xb_enter_t xb_table_enter_at(xb_table_t *t, unsigned child, uint64_t tag, int64_t now_us,
                             const xb_members_t *members, xb_ref_t *ref)
{
    for (uint32_t slot, claim; (slot = xb_table_find(t, tag)) != XB_SLOT_NONE;) {
        xb_entry_t *e = xb_table_entry(t, slot);
        uint64_t w;
        __builtin_prefetch(e, 1); /* what a request changes lies in one cache line or two */
        __builtin_prefetch(&e->gated_us, 1);
        if (!take_claim(t, child, slot, &claim))
            return pass_uncounted(t, child, slot, tag, now_us, members, ref);
        _Atomic uint64_t *own = &xb_table_row(t, child)->claim[claim];
        xb_enter_t in = count_in(e, members, &w);
        unsigned home = xb_word_home(w), epoch = xb_word_epoch(w);
        if (in != XB_ENTER_IN) {
            set_claim(own, 0);
            ref->slot = slot;
            ref->home = (uint16_t)home;
            return in == XB_ENTER_UNCOUNTED
                       ? pass_uncounted(t, child, slot, tag, now_us, members, ref)
                       : in;
        }
        if (atomic_load(&xb_table_tags(t)[slot]) != tag) { /* forgotten meanwhile */
            count_out(e, own, slot, epoch);
            continue;
        }
        set_claim(own, xb_claim_counted(epoch, slot, home));
        atomic_fetch_add_explicit(&e->requests, 1, memory_order_relaxed);
        if (atomic_load_explicit(&e->flags, memory_order_relaxed) & SEEN_IDLE)
            atomic_fetch_and(&e->flags, (uint8_t)~SEEN_IDLE);
        xb_raise(&e->last_us, now_us);
        *ref = (xb_ref_t){slot, claim, (uint16_t)child, (uint16_t)home, (uint16_t)epoch};
        return XB_ENTER_IN;
    }
    return XB_ENTER_UNKNOWN;
}

/* 2^-x for x >= 0, to three millionths: of 2^-f its Taylor series about the middle, the rest is
 * the exponent's. */
static double halved(double x)
{
    if (x >= 1000)
        return 0;
    unsigned whole = (unsigned)x;
    double y = (x - whole - 0.5) * -0.69314718055994531;
    double part = 1 + y * (1 + y / 2 * (1 + y / 3 * (1 + y / 4 * (1 + y / 5))));
    uint64_t bits = (uint64_t)(1023 - whole) << 52;
    memcpy(&x, &bits, sizeof x);
    return x * part * 0.70710678118654752;
}

/* Decays what is there to now and adds. Clocks of other threads may be a little ahead. */
static void add_traffic(xb_entry_t *e, int64_t now_us, double bytes, double half_life_s)
{
    uint64_t old = atomic_load_explicit(&e->traffic, memory_order_relaxed), next;
    uint32_t now_ms = (uint32_t)(now_us / 1000);
    do {
        uint32_t bits = (uint32_t)(old >> 32), dt = now_ms - (uint32_t)old, at = now_ms;
        float value;
        memcpy(&value, &bits, sizeof value);
        if (dt > UINT32_MAX - 60000)
            at = (uint32_t)old;
        else if (dt && half_life_s > 0)
            value *= (float)halved(dt / (1000 * half_life_s));
        value += (float)bytes;
        memcpy(&bits, &value, sizeof bits);
        next = (uint64_t)bits << 32 | at;
    } while (!atomic_compare_exchange_weak(&e->traffic, &old, next));
}

static inline bool is_current(xb_entry_t *e, const xb_ref_t *ref)
{
    uint64_t w = atomic_load(&e->word);
    return xb_word_state(w) != XB_FREE && xb_word_epoch(w) == ref->epoch;
}

void xb_table_leave(xb_table_t *t, const xb_ref_t *ref, int64_t now_us, int64_t bar_until_us,
                    double bytes, double half_life_s)
{
    xb_entry_t *e = xb_table_entry(t, ref->slot);
    bool ended = false;
    if (is_current(e, ref)) { /* all this before the word says that it is quiet */
        xb_raise(&e->last_us, now_us);
        if (bar_until_us)
            xb_raise(&e->bar_until_us, bar_until_us);
        if (bytes > 0)
            add_traffic(e, now_us, bytes, half_life_s);
        ended = atomic_load(&e->flags) & XB_SESSION_ENDED;
    }
    else
        xb_entry_revisit(e, ref->home, now_us); /* the stale copy was in use till now */
    if (count_out(e, &xb_table_row(t, ref->child)->claim[ref->claim], ref->slot, ref->epoch) &&
        ended)
        xb_table_reap(t, ref->slot, false);
}

void xb_table_withdraw(xb_table_t *t, const xb_ref_t *ref, int64_t now_us)
{
    atomic_fetch_sub_explicit(&xb_table_entry(t, ref->slot)->requests, xb_table_current(t, ref),
                              memory_order_relaxed);
    xb_table_leave(t, ref, now_us, 0, 0, 0);
}

bool xb_table_current(const xb_table_t *t, const xb_ref_t *ref)
{
    return is_current(xb_table_entry(t, ref->slot), ref);
}
