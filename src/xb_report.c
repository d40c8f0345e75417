/* SPDX-License-Identifier: Apache-2.0 */
/* Reading fields and writing numbers and texts, for all three forms of the report. */
#include "xb_report_part.h"

#include <math.h>
#include <string.h>

static const void *at(const xb_field_t *f, const void *record)
{
    return (const char *)record + f->offset;
}

uint64_t xb_field_number(const xb_field_t *f, const void *record)
{
    switch (f->kind) {
    case XB_FIELD_BOOL:
        return *(const bool *)at(f, record);
    case XB_FIELD_STATUS:
        return *(const unsigned *)at(f, record);
    default:
        return *(const uint64_t *)at(f, record);
    }
}

double xb_field_real(const xb_field_t *f, const void *record)
{
    return *(const double *)at(f, record);
}

const char *xb_field_text(const xb_field_t *f, const void *record)
{
    const char *text = *(const char *const *)at(f, record);
    return text ? text : "";
}

const uint64_t *xb_part_words(const xb_part_t *p, const xb_report_t *r)
{
    return (const uint64_t *)((const char *)r + p->offset);
}

void xb_out_n(xb_report_out_t o, const char *data, size_t n)
{
    if (n > 0)
        o.put(o.ctx, data, n);
}

void xb_out(xb_report_out_t o, const char *text)
{
    xb_out_n(o, text, strlen(text));
}

void xb_out_number(xb_report_out_t o, uint64_t n)
{
    char digit[20];
    size_t i = sizeof digit;
    do {
        digit[--i] = (char)('0' + n % 10);
    } while ((n /= 10) > 0);
    xb_out_n(o, digit + i, sizeof digit - i);
}

void xb_out_milli(xb_report_out_t o, uint64_t n)
{
    unsigned milli = (unsigned)(n % 1000);
    char part[4] = {'.', (char)('0' + milli / 100), (char)('0' + milli / 10 % 10),
                    (char)('0' + milli % 10)};
    xb_out_number(o, n / 1000);
    if (milli > 0)
        xb_out_n(o, part, sizeof part);
}

/* Not printf: its decimal point follows the locale, which another module may have set. */
void xb_out_real(xb_report_out_t o, double v)
{
    double size = fabs(v);
    if (v <= -0.0005)
        xb_out(o, "-");
    if (size < 1e15) /* above it a double has no thousandths worth showing */
        xb_out_milli(o, (uint64_t)(size * 1000 + 0.5));
    else
        xb_out_number(o, size < 1.8e19 ? (uint64_t)size : UINT64_MAX);
}

/* Length of the UTF-8 sequence of two to four bytes at s (RFC 3629: no overlong forms, no
 * surrogates), 0 if there is none. Reads no further than the NUL. */
static size_t utf8_length(const unsigned char *s)
{
    unsigned char low = 0x80, high = 0xbf; /* of the second byte */
    size_t i, n;
    if (s[0] >= 0xc2 && s[0] <= 0xdf)
        n = 2;
    else if (s[0] >= 0xe0 && s[0] <= 0xef)
        n = 3;
    else if (s[0] >= 0xf0 && s[0] <= 0xf4)
        n = 4;
    else
        return 0;
    if (s[0] == 0xe0)
        low = 0xa0;
    else if (s[0] == 0xed)
        high = 0x9f;
    else if (s[0] == 0xf0)
        low = 0x90;
    else if (s[0] == 0xf4)
        high = 0x8f;
    if (s[1] < low || s[1] > high)
        return 0;
    for (i = 2; i < n; i++) {
        if (s[i] < 0x80 || s[i] > 0xbf)
            return 0;
    }
    return n;
}

void xb_out_escaped(xb_report_out_t o, const char *text, xb_escape_t *escape)
{
    const unsigned char *s = (const unsigned char *)(text ? text : "");
    const unsigned char *run = s; /* what goes out as it is */
    while (*s) {
        char buf[8];
        size_t n = *s < 0x80 ? 1 : utf8_length(s);
        const char *instead = n > 1 ? NULL : n == 0 ? XB_REPLACEMENT : escape(*s, buf);
        if (instead) {
            xb_out_n(o, (const char *)run, (size_t)(s - run));
            xb_out(o, instead);
            run = s + 1;
        }
        s += n ? n : 1;
    }
    xb_out_n(o, (const char *)run, (size_t)(s - run));
}

void xb_report_write(const xb_report_t *r, xb_report_form_t form, xb_report_out_t out)
{
    switch (form) {
    case XB_REPORT_HTML:
        xb_report_html(r, out);
        break;
    case XB_REPORT_JSON:
        xb_report_json(r, out);
        break;
    case XB_REPORT_PROMETHEUS:
        xb_report_prom(r, out);
        break;
    }
}
