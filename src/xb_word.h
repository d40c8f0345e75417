/* SPDX-License-Identifier: Apache-2.0 */
/* The one word of a session (rule WORD): state, requests in flight, home, epoch, token and
 * entry sequence in 64 bits, changed only by compare-and-swap. Whoever swaps a word that he has
 * read knows that nothing of all this happened in between.
 *
 *   63    62 61       48 47      38 37       24 23       10 9         0
 *  | state | in flight  |  home    |  epoch    |  token    |  sequence |
 *
 * - state: XB_FREE, XB_STABLE (requests pass), XB_MOVING (the gate is shut)
 * - in flight: requests of the present epoch that were let through and have not ended
 * - home: index of the member that owns the session, XB_MEMBER_NONE while not known
 * - epoch: grows when requests in flight are given up (fence) or the home changes; a request
 *   that ends under another epoch than it began in counts nothing, its answer is not believed
 * - token: grows at each gate; a mover sends, commits or aborts only under the one it drew
 * - sequence: grows with each request let through */
#ifndef XB_WORD_H
#define XB_WORD_H

#include <stdint.h>

enum { XB_FREE = 0, XB_STABLE = 1, XB_MOVING = 2 };

#define XB_INFLIGHT_MAX 0x3fffu
#define XB_EPOCH_MASK 0x3fffu
#define XB_TOKEN_MASK 0x3fffu
#define XB_SEQ_MASK 0x3ffu
#define XB_HOME_MASK 0x3ffu

typedef struct {
    unsigned state, inflight, home, epoch, token, seq;
} xb_word_t;

static inline uint64_t xb_word_pack(xb_word_t w)
{
    return (uint64_t)w.state << 62 | (uint64_t)(w.inflight & XB_INFLIGHT_MAX) << 48 |
           (uint64_t)(w.home & XB_HOME_MASK) << 38 | (uint64_t)(w.epoch & XB_EPOCH_MASK) << 24 |
           (uint64_t)(w.token & XB_TOKEN_MASK) << 10 | (w.seq & XB_SEQ_MASK);
}

static inline xb_word_t xb_word_unpack(uint64_t v)
{
    xb_word_t w = {.state = (unsigned)(v >> 62),
                   .inflight = (unsigned)(v >> 48) & XB_INFLIGHT_MAX,
                   .home = (unsigned)(v >> 38) & XB_HOME_MASK,
                   .epoch = (unsigned)(v >> 24) & XB_EPOCH_MASK,
                   .token = (unsigned)(v >> 10) & XB_TOKEN_MASK,
                   .seq = (unsigned)v & XB_SEQ_MASK};
    return w;
}

/* The same without unpacking, for those who go in and out. */
static inline unsigned xb_word_state(uint64_t v)
{
    return (unsigned)(v >> 62);
}

static inline unsigned xb_word_inflight(uint64_t v)
{
    return (unsigned)(v >> 48) & XB_INFLIGHT_MAX;
}

static inline unsigned xb_word_home(uint64_t v)
{
    return (unsigned)(v >> 38) & XB_HOME_MASK;
}

static inline unsigned xb_word_epoch(uint64_t v)
{
    return (unsigned)(v >> 24) & XB_EPOCH_MASK;
}

/* One more in flight (there is room), under the next sequence number. */
static inline uint64_t xb_word_entered(uint64_t v)
{
    return ((v & ~(uint64_t)XB_SEQ_MASK) | ((v + 1) & XB_SEQ_MASK)) + (UINT64_C(1) << 48);
}

/* One less; there is one. */
static inline uint64_t xb_word_left(uint64_t v)
{
    return v - (UINT64_C(1) << 48);
}

#endif
