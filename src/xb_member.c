/* SPDX-License-Identifier: Apache-2.0 */
/* Members' counters and their decay. Kill-safe: the tick writes figures that nobody reads yet
 * and puts them in force with one store, so that its death at any point leaves the last state
 * whole. */
#include "xb_member.h"

#include <math.h>
#include <stdatomic.h>
#include <string.h>

_Static_assert(sizeof(xb_figures_t) == 48, "shared layout");
_Static_assert(sizeof(xb_member_t) == 272, "shared layout");
_Static_assert(offsetof(xb_members_t, busy) % _Alignof(xb_member_t) == 0, "shared layout");
_Static_assert(XB_MEMBERS_MAX < XB_MEMBER_NONE, "the index for nobody is not a member's");

/* The figures in plain words, with the raw counters that are already in them. */
typedef struct {
    double traffic, occupancy;
    uint64_t bytes, requests;
    int64_t credit_requests, at_us;
} xb_state_t;

size_t xb_members_size(uint32_t children)
{
    return sizeof(xb_members_t) + sizeof(_Atomic uint32_t) * XB_MEMBERS_MAX * (size_t)children;
}

void xb_members_init(xb_members_t *m, uint32_t children)
{
    memset(m, 0, xb_members_size(children));
    m->children = children;
}

/* Linear probing that never deletes: all who look for a key pass the same slots in the same
 * order, so whoever loses the race for a free one sees the winner's key there. */
unsigned xb_member_find(xb_members_t *m, uint64_t key)
{
    for (unsigned step = 0; step < XB_MEMBERS_MAX; step++) {
        unsigned i = (unsigned)((key + step) % XB_MEMBERS_MAX);
        uint64_t seen = atomic_load_explicit(&m->member[i].key, memory_order_relaxed);

        /* Relaxed: a free slot's fields are zero since before the memory was shared. */
        if (seen == 0 &&
            atomic_compare_exchange_strong_explicit(&m->member[i].key, &seen, key,
                                                    memory_order_relaxed, memory_order_relaxed))
            return i;
        if (seen == key)
            return i;
    }
    return XB_MEMBER_NONE;
}

static bool in_range(const xb_members_t *m, uint32_t child, unsigned i)
{
    return child < m->children && i < XB_MEMBERS_MAX;
}

/* Counts of requests in flight are relaxed: they guard no other memory. */
void xb_member_enter(xb_members_t *m, uint32_t child, unsigned i)
{
    if (in_range(m, child, i))
        atomic_fetch_add_explicit(&m->busy[(size_t)i * m->children + child], 1,
                                  memory_order_relaxed);
}

/* Not below zero: the child's counts may have been cleared meanwhile by one who took it for
 * dead. */
void xb_member_leave(xb_members_t *m, uint32_t child, unsigned i)
{
    if (!in_range(m, child, i))
        return;
    _Atomic uint32_t *busy = &m->busy[(size_t)i * m->children + child];
    uint32_t n = atomic_load_explicit(busy, memory_order_relaxed);

    while (n > 0 && !atomic_compare_exchange_weak_explicit(
                        busy, &n, n - 1, memory_order_relaxed, memory_order_relaxed))
        ;
}

uint32_t xb_member_busy(const xb_members_t *m, unsigned i)
{
    uint32_t sum = 0;

    for (uint32_t child = 0; i < XB_MEMBERS_MAX && child < m->children; child++)
        sum += atomic_load_explicit(&m->busy[(size_t)i * m->children + child],
                                    memory_order_relaxed);
    return sum;
}

void xb_members_clear_child(xb_members_t *m, uint32_t child)
{
    for (unsigned i = 0; in_range(m, child, i); i++)
        atomic_store_explicit(&m->busy[(size_t)i * m->children + child], 0,
                              memory_order_relaxed);
}

static double as_double(uint64_t bits)
{
    double x;

    memcpy(&x, &bits, sizeof x);
    return x;
}

static uint64_t as_bits(double x)
{
    uint64_t bits;

    memcpy(&bits, &x, sizeof bits);
    return bits;
}

/* Each acquire pairs with a release store of publish(): a word of the next but one state, seen
 * here, makes the changed sequence number visible to the second look. (No fences:
 * ThreadSanitizer does not understand them.) False: a newcomer. */
static bool load_state(const xb_member_t *mb, xb_state_t *s)
{
    uint32_t seq = atomic_load_explicit(&mb->seq, memory_order_acquire), again;

    for (;; seq = again) {
        const xb_figures_t *f = &mb->figures[seq & 1];

        s->traffic = as_double(atomic_load_explicit(&f->traffic_bits, memory_order_acquire));
        s->occupancy =
            as_double(atomic_load_explicit(&f->occupancy_bits, memory_order_acquire));
        s->bytes = atomic_load_explicit(&f->bytes, memory_order_acquire);
        s->requests = atomic_load_explicit(&f->requests, memory_order_acquire);
        s->credit_requests = atomic_load_explicit(&f->credit_requests, memory_order_acquire);
        s->at_us = atomic_load_explicit(&f->at_us, memory_order_acquire);
        again = atomic_load_explicit(&mb->seq, memory_order_acquire);
        if (again == seq)
            return seq != 0;
    }
}

/* One writer at a time. Should a holder of the lease sleep through its end and wake in here,
 * the compare-and-swap keeps it from putting its old state in force. */
static void publish(xb_member_t *mb, const xb_state_t *s)
{
    uint32_t seq = atomic_load_explicit(&mb->seq, memory_order_relaxed);
    uint32_t next = seq + 1 ? seq + 1 : 2; /* 0 means newcomer */
    xb_figures_t *f = &mb->figures[next & 1];

    atomic_store_explicit(&f->traffic_bits, as_bits(s->traffic), memory_order_release);
    atomic_store_explicit(&f->occupancy_bits, as_bits(s->occupancy), memory_order_release);
    atomic_store_explicit(&f->bytes, s->bytes, memory_order_release);
    atomic_store_explicit(&f->requests, s->requests, memory_order_release);
    atomic_store_explicit(&f->credit_requests, s->credit_requests, memory_order_release);
    atomic_store_explicit(&f->at_us, s->at_us, memory_order_release);
    atomic_compare_exchange_strong_explicit(&mb->seq, &seq, next, memory_order_release,
                                            memory_order_relaxed);
}

/* All of it wraps: only differences are used. */
static uint64_t raw_bytes(const xb_member_t *mb)
{
    return atomic_load_explicit(&mb->bytes_in, memory_order_relaxed) +
           atomic_load_explicit(&mb->bytes_out, memory_order_relaxed) +
           (uint64_t)atomic_load_explicit(&mb->credit_bytes, memory_order_relaxed);
}

static uint64_t raw_requests(const xb_member_t *mb)
{
    return atomic_load_explicit(&mb->requests, memory_order_relaxed);
}

static int64_t raw_credit_requests(const xb_member_t *mb)
{
    return atomic_load_explicit(&mb->credit_requests, memory_order_relaxed);
}

/* A double beyond an int64's range has no defined value as one. */
static int64_t whole(double x)
{
    return x > -9e18 && x < 9e18 ? (int64_t)x : 0;
}

void xb_member_credit(xb_members_t *m, unsigned i, double bytes, double requests_in_flight)
{
    if (i >= XB_MEMBERS_MAX)
        return;
    atomic_fetch_add_explicit(&m->member[i].credit_bytes, whole(bytes), memory_order_relaxed);
    atomic_fetch_add_explicit(&m->member[i].credit_requests,
                              whole(requests_in_flight * XB_CREDIT_UNIT), memory_order_relaxed);
}

/* The state at now_us. Not clamped: a debt (more work moved away than was counted here) must
 * decay like any other traffic. A now that lies before the last fold is another thread's older
 * clock. */
static bool advance(const xb_members_t *m, unsigned i, const xb_decay_t *d, int64_t now_us,
                    xb_state_t *s)
{
    const xb_member_t *mb = &m->member[i];
    bool known = load_state(mb, s);
    uint64_t bytes = raw_bytes(mb),
             requests = raw_requests(mb); /* after: differences are >= 0 */
    int64_t credit = raw_credit_requests(mb);
    double dt_s = known && now_us > s->at_us ? (double)(now_us - s->at_us) / 1e6 : 0;
    double keep = exp2(-dt_s / d->busy_half_life_s);

    s->traffic = s->traffic * exp2(-dt_s / d->half_life_s) +
                 (double)(int64_t)(bytes - s->bytes) +
                 (double)(requests - s->requests) * d->request_cost;
    s->occupancy =
        known ? s->occupancy * keep + xb_member_busy(m, i) * (1 - keep) : xb_member_busy(m, i);
    s->occupancy += (double)(credit - s->credit_requests) / XB_CREDIT_UNIT;
    s->bytes = bytes;
    s->requests = requests;
    s->credit_requests = credit;
    s->at_us = known && s->at_us > now_us ? s->at_us : now_us;
    return known;
}

bool xb_member_read(const xb_members_t *m, unsigned i, const xb_decay_t *d, int64_t now_us,
                    double *traffic, double *occupancy)
{
    xb_state_t s;

    if (i >= XB_MEMBERS_MAX || !advance(m, i, d, now_us, &s))
        return false;
    *traffic = s.traffic > 0 ? s.traffic : 0;
    *occupancy = s.occupancy > 0 ? s.occupancy : 0;
    return true;
}

void xb_member_fold(xb_members_t *m, unsigned i, const xb_decay_t *d, int64_t now_us)
{
    xb_state_t s;

    advance(m, i, d, now_us, &s);
    publish(&m->member[i], &s);
}

void xb_member_join(xb_members_t *m, unsigned i, int64_t now_us, double traffic,
                    double occupancy)
{
    xb_member_t *mb = &m->member[i];
    xb_state_t s = {
        traffic, occupancy, raw_bytes(mb), raw_requests(mb), raw_credit_requests(mb), now_us};

    publish(mb, &s);
}

static void estimate_pace(xb_members_t *m, const unsigned *member, const xb_load_t *load,
                          unsigned n, int64_t now_us)
{
    xb_pace_of_t of[XB_MEMBERS_MAX];

    for (unsigned i = 0; i < n; i++) {
        xb_member_t *mb = &m->member[member[i]];

        of[i] = (xb_pace_of_t){&mb->pace,
                               atomic_load_explicit(&mb->generation, memory_order_relaxed),
                               load[i].flags & XB_LOAD_NEW};
    }
    xb_pace_estimate(of, n, now_us);
}

void xb_member_fold_fleet(xb_members_t *m, const unsigned *member, const xb_load_t *load,
                          unsigned n, const xb_decay_t *d, int64_t now_us)
{
    double traffic = 0, occupancy = 0, weight = 0;

    for (unsigned i = 0; i < n; i++) {
        if (load[i].flags & XB_LOAD_NEW) {
            traffic += load[i].traffic;
            occupancy += load[i].occupancy;
            weight += load[i].weight;
        }
    }
    for (unsigned i = 0; i < n; i++) {
        double t = 0, o = 0, share = weight > 0 ? load[i].weight / weight : 0;
        double fair_t = share * traffic, fair_o = share * occupancy;
        bool known = xb_member_read(m, member[i], d, now_us, &t, &o);

        if (known)
            xb_member_fold(m, member[i], d, now_us);
        if (!known || (!(load[i].flags & XB_LOAD_NEW) && (t < fair_t || o < fair_o)))
            xb_member_join(m, member[i], now_us, fmax(t, fair_t), fmax(o, fair_o));
    }
    estimate_pace(m, member, load, n, now_us);
}
