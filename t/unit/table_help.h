/* SPDX-License-Identifier: Apache-2.0 */
/* What the tests of the session table share: a table that forked children share, too, and a
 * stream of numbers from a seed. */
#ifndef TABLE_HELP_H
#define TABLE_HELP_H

#include <stdint.h>
#include <stdio.h>

#include "tap.h"
#include "xb_table_layout.h"

#define S INT64_C(1000000)

__attribute__((unused)) static xb_table_t *new_table(uint32_t sessions, uint32_t children,
                                                     uint32_t claims)
{
    xb_table_dim_t dim = {sessions, children, claims};
    void *p = mmap(NULL, xb_table_size(&dim), PROT_READ | PROT_WRITE,
                   MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    xb_table_t *t = p == MAP_FAILED ? NULL : xb_table_init(p, &dim);
    if (!t) {
        puts("Bail out! no table");
        exit(1);
    }
    return t;
}

__attribute__((unused)) static void free_table(xb_table_t *t)
{
    munmap(t, t->size);
}

/* splitmix64 */
__attribute__((unused)) static uint64_t draw(uint64_t *seed)
{
    uint64_t z = (*seed += 0x9e3779b97f4a7c15u);
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
    return z ^ (z >> 31);
}

__attribute__((unused)) static unsigned below(uint64_t *seed, unsigned n)
{
    return (unsigned)(draw(seed) >> 33) % n;
}

/* The n-th session's tag. */
__attribute__((unused)) static uint64_t nth_tag(unsigned n)
{
    uint64_t seed = n;
    return draw(&seed) | 1;
}

/* An id that tells whose it is, and by its length where a mixture would begin. */
__attribute__((unused)) static xb_span_t make_id(char text[XB_ID_MAX + 1], uint64_t tag,
                                                 unsigned version)
{
    int n = snprintf(text, XB_ID_MAX + 1, "%016llx-n1.%u.", (unsigned long long)tag, version);
    size_t len = (size_t)n + version % 60;
    memset(text + n, 'a' + (int)(version % 26), len - (size_t)n);
    text[len] = '\0';
    return (xb_span_t){text, len};
}

/* Is it such an id of this tag, whole? */
__attribute__((unused)) static bool whole_id(const char *id, uint64_t tag)
{
    char want[XB_ID_MAX + 1];
    if (strlen(id) < 20)
        return false;
    make_id(want, tag, (unsigned)strtoul(id + 20, NULL, 10));
    return strcmp(id, want) == 0;
}

__attribute__((unused)) static unsigned bad_slots(xb_table_t *t)
{
    uint32_t where;
    unsigned bad = xb_table_validate(t, &where);
    if (bad)
        diag("%u contradictions, first at slot %d", bad, (int)where);
    return bad;
}

/* Requests in flight over all sessions, shut gates. */
__attribute__((unused)) static unsigned busy(const xb_table_t *t, unsigned *gates)
{
    unsigned sum = 0;
    *gates = 0;
    for (uint32_t slot = 0; slot < xb_table_slots(t); slot++) {
        xb_view_t v;
        if (!xb_table_view(t, slot, &v))
            continue;
        sum += v.w.inflight;
        *gates += v.w.state == XB_MOVING;
    }
    return sum;
}

#endif
