/* SPDX-License-Identifier: Apache-2.0 */
/* What memcached answers to one command of the text protocol, fed in pieces of any size.
 * Nothing of it is believed: an answer that a memcached would not have given to this command is
 * BAD. No I/O, one thread. Only xb_store.c and tests include this. */
#ifndef XB_STORE_REPLY_H
#define XB_STORE_REPLY_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define XB_STORE_KEYS_MAX 32
#define XB_STORE_VALUE_MAX                                                                     \
    (64u << 20)               /* a longer one is a lie: memcached's default limit is 1 MB */
#define XB_STORE_LINE_MAX 300 /* VALUE, the longest key, flags and length need 286 */

typedef enum { XB_REPLY_MORE, XB_REPLY_FOUND, XB_REPLY_ABSENT, XB_REPLY_BAD } xb_reply_rc_t;

typedef enum { XB_REPLY_GET, XB_REPLY_SET } xb_reply_verb_t;

typedef struct {
    xb_reply_verb_t verb;
    const char *const *keys; /* of a get, at most XB_STORE_KEYS_MAX; the caller's */
    unsigned n;
    uint8_t *buf; /* the first `cap` bytes of values go here; the caller's */
    size_t cap;
    /* set by the caller, or NULL: bytes to look for in the values, whose first one occurs
     * nowhere else in them */
    const char *find;
    size_t find_n;
    /* results */
    bool holds;        /* some value has them */
    uint32_t mask;     /* bit i: keys[i] has a value */
    size_t got, total; /* of the last value: bytes kept, its whole length */
    /* how far it is */
    xb_reply_rc_t rc;
    uint64_t left; /* bytes of value and its line end still to come; 0: within a line */
    unsigned len;
    size_t matched; /* bytes of find, at the end of what has come of a value */
    char line[XB_STORE_LINE_MAX];
} xb_store_reply_t;

void xb_store_reply_get(xb_store_reply_t *r, const char *const *keys, unsigned n, void *buf,
                        size_t cap);
void xb_store_reply_line(xb_store_reply_t *r, xb_reply_verb_t verb);

/* Takes the next bytes. MORE until the answer is complete; bytes beyond its end are BAD. */
xb_reply_rc_t xb_store_reply_feed(xb_store_reply_t *r, const void *bytes, size_t n);

#endif
