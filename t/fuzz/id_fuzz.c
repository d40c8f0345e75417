/* SPDX-License-Identifier: Apache-2.0 */
/* Fuzzes finding, masking and splitting ids: stock's oracle agrees, and masked ids stay hidden.
 */
#include <assert.h>
#include <stdint.h>
#include <stdlib.h>

#include "../unit/stock_oracle.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static const char *const names[] = {"JSESSIONID", "J", "JJ", "J.J", "_~-", "a;", "=", " "};

static bool same(bool a, xb_span_t x, bool b, xb_span_t y)
{
    return a == b && (!a || (x.p == y.p && x.n == y.n));
}

static bool inside(xb_span_t s, xb_span_t all)
{
    return s.p >= all.p && s.n <= all.n && (size_t)(s.p - all.p) <= all.n - s.n;
}

static void find(const char *text, const char *name)
{
    xb_span_t x = {NULL, 0}, y = {NULL, 0};
    for (int scolon = 0; scolon < 2; scolon++) {
        bool hit = xb_id_in_url(text, name, scolon, &x);
        assert(same(hit, x, oracle_url(text, name, scolon, &y), y));
    }
    assert(same(xb_id_in_cookie(text, name, &x), x, oracle_cookie(text, name, &y), y));
}

static void check_masked(const char *was, const char *now, const char *name, size_t told)
{
    size_t changed = 0, n = strlen(was);
    assert(strlen(now) == n);
    for (size_t i = 0; i < n; i++) {
        changed += was[i] != now[i];
        assert(was[i] == now[i] || strncmp(was + i, name, strlen(name)) == 0);
    }
    assert(changed == told);
}

static void mask(const char *text, const char *name)
{
    size_t n = strlen(text) + 1, told;
    char *copy = malloc(n);
    xb_span_t v;

    memcpy(copy, text, n);
    told = xb_id_mask_url(copy, name);
    check_masked(text, copy, name, told);
    assert(!oracle_url(copy, name, false, &v) && !oracle_url(copy, name, true, &v));
    assert(!xb_id_in_url(copy, name, false, &v) && !xb_id_in_url(copy, name, true, &v));
    free(copy);
}

static void parse(xb_span_t text)
{
    xb_id_t id;
    if (!xb_id_parse(text, '.', &id))
        return;
    assert(text.n > 0 && text.n <= XB_ID_MAX && id.base.n > 0);
    assert(id.whole.p == text.p && id.whole.n == text.n && id.base.p == text.p);
    assert(inside(id.base, text) && inside(id.node, id.base) && inside(id.route, text));
    assert(!memchr(id.base.p, '.', id.base.n));
    for (size_t i = 0; i < text.n; i++)
        assert(text.p[i] > ' ' && text.p[i] < 0x7f && !strchr("\"'\\,;=/", text.p[i]));
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    const char *name;
    char *text;

    if (size == 0)
        return 0;
    name = names[data[0] % (sizeof names / sizeof *names)];
    text = malloc(size);
    memcpy(text, data + 1, size - 1);
    parse((xb_span_t){text, size - 1});
    text[size - 1] = '\0';
    find(text, name);
    mask(text, name);
    free(text);
    return 0;
}
