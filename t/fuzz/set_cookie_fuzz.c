/* SPDX-License-Identifier: Apache-2.0 */
/* Fuzzes the reading of Set-Cookie: what is told lies inside the header and fits together. */
#include <assert.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "xb_id.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void check_span(xb_span_t s, const char *text)
{
    size_t n = strlen(text);
    assert(s.p >= text && s.n <= n && (size_t)(s.p - text) <= n - s.n);
    assert(!s.n || !memchr(s.p, ';', s.n));
    assert(!s.n || (!strchr(" \t", s.p[0]) && !strchr(" \t", s.p[s.n - 1])));
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static const char name[] = "JSESSIONID";
    char *text = malloc(size + 1);
    xb_set_cookie_t c;

    if (size)
        memcpy(text, data, size);
    text[size] = '\0';
    if (xb_id_in_set_cookie(text, name, &c)) {
        check_span(c.value, text);
        check_span(c.path, text);
        assert(strncmp(text + strspn(text, " \t"), name, sizeof name - 1) == 0);
        assert(c.path.n == 0 || c.path.p[0] == '/');
        assert(c.path.n == 0 || c.path.p > c.value.p);
        assert(c.deleted || c.value.n);
    }
    free(text);
    return 0;
}
