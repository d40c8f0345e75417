/* SPDX-License-Identifier: Apache-2.0 */
/* memcached's answers, parsed strictly and in bounded memory. */
#include "xb_store_reply.h"

#include <string.h>

void xb_store_reply_get(xb_store_reply_t *r, const char *const *keys, unsigned n, void *buf,
                        size_t cap)
{
    *r = (xb_store_reply_t){.verb = XB_REPLY_GET, .keys = keys, .n = n, .buf = buf, .cap = cap};
}

void xb_store_reply_line(xb_store_reply_t *r, xb_reply_verb_t verb)
{
    *r = (xb_store_reply_t){.verb = verb};
}

/* Reads decimal digits up to `end` (exclusive) or the next blank. False: none, too big, or
 * another byte. */
static bool number(const char **at, const char *end, uint64_t max, uint64_t *out)
{
    const char *p = *at;
    uint64_t x = 0;

    for (; p < end && *p != ' '; p++) {
        if (*p < '0' || *p > '9')
            return false;
        x = x * 10 + (uint64_t)(*p - '0');
        if (x > max)
            return false;
    }
    if (p == *at)
        return false;
    *at = p;
    *out = x;
    return true;
}

/* Marks the key as answered. False: not asked for, or answered already. */
static bool claim(xb_store_reply_t *r, const char *key, size_t len)
{
    for (unsigned i = 0; i < r->n; i++) {
        if (!(r->mask & UINT32_C(1) << i) && strlen(r->keys[i]) == len &&
            memcmp(r->keys[i], key, len) == 0) {
            r->mask |= UINT32_C(1) << i;
            return true;
        }
    }
    return false;
}

/* VALUE <key> <flags> <bytes> */
static xb_reply_rc_t value_line(xb_store_reply_t *r)
{
    const char *key = r->line + 6, *end = r->line + r->len, *p;
    uint64_t flags, bytes;

    p = memchr(key, ' ', (size_t)(end - key));
    if (!p || !claim(r, key, (size_t)(p - key)))
        return XB_REPLY_BAD;
    p++;
    if (!number(&p, end, UINT32_MAX, &flags))
        return XB_REPLY_BAD;
    p++; /* at most onto the line end, where there is no number */
    if (!number(&p, end, XB_STORE_VALUE_MAX, &bytes) || p != end)
        return XB_REPLY_BAD;
    r->got = r->matched = 0;
    r->total = (size_t)bytes;
    r->left = bytes + 2;
    return XB_REPLY_MORE;
}

static bool line_is(const xb_store_reply_t *r, const char *word)
{
    return r->len == strlen(word) && memcmp(r->line, word, r->len) == 0;
}

static xb_reply_rc_t whole_line(xb_store_reply_t *r)
{
    switch (r->verb) {
    case XB_REPLY_GET:
        if (line_is(r, "END"))
            return r->mask ? XB_REPLY_FOUND : XB_REPLY_ABSENT;
        if (r->len > 6 && memcmp(r->line, "VALUE ", 6) == 0)
            return value_line(r);
        break;
    case XB_REPLY_SET:
        if (line_is(r, "STORED"))
            return XB_REPLY_FOUND;
        break;
    }
    return XB_REPLY_BAD; /* ERROR, SERVER_ERROR, CLIENT_ERROR, or no memcached at all */
}

/* Takes bytes of a line; returns how many. */
static size_t feed_line(xb_store_reply_t *r, const char *p, size_t n)
{
    const char *nl = memchr(p, '\n', n);
    size_t take = nl ? (size_t)(nl - p) + 1 : n;

    if (take > sizeof r->line - r->len) {
        r->rc = XB_REPLY_BAD;
        return take;
    }
    memcpy(r->line + r->len, p, take);
    r->len += (unsigned)take;
    if (nl) {
        if (r->len < 2 || r->line[r->len - 2] != '\r') {
            r->rc = XB_REPLY_BAD;
            return take;
        }
        r->len -= 2;
        r->rc = whole_line(r);
        r->len = 0;
    }
    return take;
}

/* `find` may lie across pieces of any size. Its first byte occurs only once in it: a match that
 * breaks off can begin anew only at the byte that broke it. */
static void look_for(xb_store_reply_t *r, const char *p, size_t n)
{
    const char *end = p + n;

    while (!r->holds && p < end) {
        if (r->matched == 0 && !(p = memchr(p, r->find[0], (size_t)(end - p))))
            return;
        if (*p != r->find[r->matched])
            r->matched = *p == r->find[0];
        else if (++r->matched == r->find_n)
            r->holds = true;
        p++;
    }
}

/* Takes bytes of a value: keeps its beginning, wants CR LF after its end. */
static size_t feed_value(xb_store_reply_t *r, const char *p, size_t n)
{
    size_t take, keep;

    if (r->left <= 2) {
        if (*p != (r->left == 2 ? '\r' : '\n'))
            r->rc = XB_REPLY_BAD;
        r->left--;
        return 1;
    }
    take = r->left - 2 < n ? (size_t)r->left - 2 : n;
    keep = r->cap - r->got < take ? r->cap - r->got : take;
    if (keep > 0)
        memcpy(r->buf + r->got, p, keep);
    if (r->find)
        look_for(r, p, take);
    r->got += keep;
    r->left -= take;
    return take;
}

xb_reply_rc_t xb_store_reply_feed(xb_store_reply_t *r, const void *bytes, size_t n)
{
    const char *p = bytes;

    while (n > 0 && r->rc != XB_REPLY_BAD) {
        size_t taken;

        if (r->rc != XB_REPLY_MORE) { /* more than was asked for: out of step from now on */
            r->rc = XB_REPLY_BAD;
            break;
        }
        taken = r->left > 0 ? feed_value(r, p, n) : feed_line(r, p, n);
        p += taken;
        n -= taken;
    }
    return r->rc;
}
