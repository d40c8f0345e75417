/* SPDX-License-Identifier: Apache-2.0 */
/* The breaker's word: 0 closed; else bit 0 set, bit 1 a prober is out, bits 2-3 how often the
 * open period was doubled, bits 4-63 the instant in microseconds from which one caller may try.
 */
#include "xb_breaker.h"

#include <stdatomic.h>

#define OPEN UINT64_C(1)
#define PROBING UINT64_C(2)
#define PERIOD_US INT64_C(1000000)
#define DOUBLINGS_MAX 3

static unsigned doublings(uint64_t w)
{
    return (unsigned)(w >> 2) & 3;
}

static int64_t retry_at_us(uint64_t w)
{
    return (int64_t)(w >> 4);
}

static uint64_t opened(unsigned doubled, uint64_t probing, int64_t now_us)
{
    uint64_t until_us = (uint64_t)(now_us + (PERIOD_US << doubled));

    return OPEN | probing | (uint64_t)doubled << 2 | until_us << 4;
}

/* Relaxed, as all accesses here: the word guards no other memory. */
static bool replace(xb_breaker_t *b, uint64_t *w, uint64_t next)
{
    return atomic_compare_exchange_weak_explicit(&b->word, w, next, memory_order_relaxed,
                                                 memory_order_relaxed);
}

bool xb_breaker_allow(xb_breaker_t *b, int64_t now_us)
{
    uint64_t w = atomic_load_explicit(&b->word, memory_order_relaxed);

    while (w) {
        if (now_us < retry_at_us(w))
            return false;
        /* The winner moves the instant on: that holds off the others while it tries, and lets
         * the next one through should it never come back. */
        if (replace(b, &w, opened(doublings(w), PROBING, now_us)))
            return true;
    }
    return true;
}

/* A failure that finds the breaker open without a prober is one of several calls that were
 * under way when the first of them opened it. */
static uint64_t after_failure(uint64_t w, int64_t now_us)
{
    if (!w)
        return opened(0, 0, now_us);
    if (!(w & PROBING))
        return w;
    return opened(doublings(w) < DOUBLINGS_MAX ? doublings(w) + 1 : DOUBLINGS_MAX, 0, now_us);
}

void xb_breaker_result(xb_breaker_t *b, bool ok, int64_t now_us)
{
    uint64_t w = atomic_load_explicit(&b->word, memory_order_relaxed), next;

    do {
        next = ok ? 0 : after_failure(w, now_us);
    } while (next != w && !replace(b, &w, next));
}

bool xb_breaker_is_closed(const xb_breaker_t *b)
{
    return atomic_load_explicit(&b->word, memory_order_relaxed) == 0;
}

bool xb_breaker_is_young(const xb_breaker_t *b)
{
    uint64_t w = atomic_load_explicit(&b->word, memory_order_relaxed);

    return w && doublings(w) == 0;
}

bool xb_breaker_is_open(const xb_breaker_t *b, int64_t now_us)
{
    uint64_t w = atomic_load_explicit(&b->word, memory_order_relaxed);

    return w && now_us < retry_at_us(w);
}
