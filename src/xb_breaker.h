/* SPDX-License-Identifier: Apache-2.0 */
/* Circuit breaker of one memcached node, one 64-bit word in shared memory, changed by
 * compare-and-swap; any thread of any process. Closed: calls pass. After a failure it is open
 * for 1 s, doubling to 8 s while tries fail; then one caller at a time may try. */
#ifndef XB_BREAKER_H
#define XB_BREAKER_H

#include <stdbool.h>
#include <stdint.h>

typedef struct {
    _Atomic uint64_t word; /* 0: closed */
} xb_breaker_t;

/* True if the caller may talk to the node now. now_us: a monotonic clock shared by all
 * processes. A caller that was let through must report with xb_breaker_result; one that never
 * does (it was killed) holds the others off for one more open period, no longer. */
bool xb_breaker_allow(xb_breaker_t *b, int64_t now_us);
void xb_breaker_result(xb_breaker_t *b, bool ok, int64_t now_us);

/* True while xb_breaker_allow would refuse; changes nothing. */
bool xb_breaker_is_open(const xb_breaker_t *b, int64_t now_us);

/* Open, and nobody has tried in vain to close it: the trouble may be over in a second. */
bool xb_breaker_is_young(const xb_breaker_t *b);

/* Closed: the last call went well, nothing needs to be tried first. */
bool xb_breaker_is_closed(const xb_breaker_t *b);

#endif
