/* SPDX-License-Identifier: Apache-2.0 */
/* Fuzzes stored sessions: whatever is called good holds the id and agrees with itself.
 * Input: 1 byte length of the id (top bit: the id is cut out of the value, so that good ones
 * are reached), 6 bytes clock, 2 bytes margin, then the value. It is read as a `validity:` too.
 */
#include <assert.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "xb_msm.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

#define FRONT 9

static int64_t number(const uint8_t *p, size_t n)
{
    int64_t value = 0;
    while (n-- > 0)
        value = value * 256 + *p++;
    return value;
}

static void check_good(const uint8_t *value, size_t got, const char *id, size_t id_len,
                       int64_t now, int64_t margin, const xb_msm_head_t *h)
{
    assert(got >= 44 + id_len && id_len > 0 && memcmp(value + 44, id, id_len) == 0);
    assert(number(value, 2) == 1 || number(value, 2) == 2);
    assert(number(value + 42, 2) == (int64_t)id_len);
    assert(number(value + 2, 2) >= 48 + (int64_t)id_len && value[25] == '1');
    assert(h->created_ms > 0 && h->last_accessed_ms > 0 && h->last_backup_ms >= 0);
    assert(h->this_accessed_ms == number(value + 26, 8) && h->this_accessed_ms > 0);
    assert(h->max_inactive_s <= 0 ||
           h->this_accessed_ms + h->max_inactive_s * INT64_C(1000) > now + margin * 1000);
}

/* The same bytes as a value of `validity:`; at the end of its own piece of memory. */
static void try_validity(const uint8_t *value, size_t got, int64_t now, int64_t margin)
{
    xb_msm_head_t h;
    switch (xb_msm_validity_check(value, got, now, (int32_t)margin, &h)) {
    case XB_MSM_GOOD:
        assert(got == 20 && h.last_accessed_ms == number(value + 4, 8));
        assert(h.last_accessed_ms > 0 && h.this_accessed_ms > 0);
        assert(h.max_inactive_s <= 0 ||
               h.this_accessed_ms + h.max_inactive_s * INT64_C(1000) > now + margin * 1000);
        break;
    case XB_MSM_SHORT:
        assert(got != 20);
        break;
    default:
        assert(got == 20);
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    size_t got, id_len;
    int64_t now, margin;
    uint8_t *value;
    char *id;
    xb_msm_head_t head;

    if (size < FRONT)
        return 0;
    got = size - FRONT;
    id_len = data[0] & 127;
    now = number(data + 1, 6);
    margin = number(data + 7, 2) - 32768;
    value = malloc(got + 1);
    id = malloc(id_len + 1);
    memcpy(value, data + FRONT, got);
    memset(id, 'i', id_len);
    if (data[0] & 128 && got >= 44 + id_len)
        memcpy(id, value + 44, id_len);
    value = realloc(value, got ? got : 1);
    switch (
        xb_msm_value_check(value, got, (xb_span_t){id, id_len}, now, (int32_t)margin, &head)) {
    case XB_MSM_GOOD:
        check_good(value, got, id, id_len, now, margin, &head);
        break;
    case XB_MSM_SHORT:
        assert(got < 44);
        break;
    default:
        assert(got >= 44);
    }
    try_validity(value, got, now, margin);
    free(value);
    free(id);
    return 0;
}
