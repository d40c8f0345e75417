/* SPDX-License-Identifier: Apache-2.0 */
/* Fuzzes memcached's answers: the same however they are cut, and never out of bounds.
 * Input: 1 byte verb, 1 byte size of the buffer, 1 byte length of the first piece, then the
 * answer. */
#include <assert.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "xb_store_reply.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

#define FRONT 3

static const char *const keys[] = {"k", "abc-n1.tomcat1", "k2"};

static void start(xb_store_reply_t *r, unsigned verb, uint8_t *buf, size_t cap)
{
    if (verb == XB_REPLY_GET) {
        xb_store_reply_get(r, keys, 3, buf, cap);
        r->find = "ab\r";
        r->find_n = 3;
    }
    else
        xb_store_reply_line(r, verb);
}

static void check(const xb_store_reply_t *r, size_t cap)
{
    assert(r->got <= cap && r->got <= r->total && r->total <= XB_STORE_VALUE_MAX);
    assert(r->len <= XB_STORE_LINE_MAX && r->mask < 8);
    if (r->verb == XB_REPLY_GET && r->rc == XB_REPLY_ABSENT)
        assert(r->mask == 0);
    if (r->verb == XB_REPLY_GET && r->rc == XB_REPLY_FOUND)
        assert(r->mask != 0 && r->got == (r->total < cap ? r->total : cap));
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    xb_store_reply_t whole, parts;
    uint8_t *a, *b;
    size_t cap, cut;

    if (size < FRONT)
        return 0;
    cap = data[1];
    cut = data[2] < size - FRONT ? data[2] : size - FRONT;
    a = calloc(1, cap + 1);
    b = calloc(1, cap + 1);
    start(&whole, data[0] % 3, a, cap);
    start(&parts, data[0] % 3, b, cap);
    xb_store_reply_feed(&whole, data + FRONT, size - FRONT);
    check(&whole, cap);
    xb_store_reply_feed(&parts, data + FRONT, cut);
    check(&parts, cap);
    for (size_t i = FRONT + cut; i < size; i++)
        xb_store_reply_feed(&parts, data + i, 1);
    assert(whole.rc == parts.rc && whole.holds == parts.holds);
    if (whole.rc == XB_REPLY_FOUND)
        assert(whole.mask == parts.mask && whole.got == parts.got && memcmp(a, b, cap) == 0);
    assert(a[cap] == 0 && b[cap] == 0);
    free(a);
    free(b);
    return 0;
}
