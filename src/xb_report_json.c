/* SPDX-License-Identifier: Apache-2.0 */
/* The report as JSON (RFC 8259): one object, a key per part. */
#include "xb_report_part.h"

#include <math.h>

static const char *escape(unsigned char c, char buf[8])
{
    static const char hex[] = "0123456789abcdef";
    if (c >= 0x20 && c != '"' && c != '\\' && c != '<' && c != 0x7f)
        return NULL;
    /* '<' too, so that no browser that guesses at types can take the answer for HTML */
    buf[0] = '\\';
    buf[1] = 'u';
    buf[2] = buf[3] = '0';
    buf[4] = hex[c >> 4];
    buf[5] = hex[c & 15];
    buf[6] = '\0';
    return buf;
}

static void string(xb_report_out_t o, const char *text)
{
    xb_out(o, "\"");
    xb_out_escaped(o, text, escape);
    xb_out(o, "\"");
}

static void status(xb_report_out_t o, unsigned bits)
{
    const char *comma = "";
    unsigned i;
    xb_out(o, "[");
    for (i = 0; i < XB_STATUS_WORDS; i++) {
        if (bits & 1u << i) {
            xb_out(o, comma);
            string(o, xb_status_word(i));
            comma = ",";
        }
    }
    xb_out(o, "]");
}

static void real(xb_report_out_t o, double v)
{
    if (isfinite(v))
        xb_out_real(o, v);
    else
        xb_out(o, "null");
}

static void value(xb_report_out_t o, const xb_field_t *f, const void *record)
{
    switch (f->kind) {
    case XB_FIELD_TEXT:
        string(o, xb_field_text(f, record));
        break;
    case XB_FIELD_BOOL:
        xb_out(o, xb_field_number(f, record) ? "true" : "false");
        break;
    case XB_FIELD_STATUS:
        status(o, (unsigned)xb_field_number(f, record));
        break;
    case XB_FIELD_REAL:
        real(o, xb_field_real(f, record));
        break;
    default:
        xb_out_number(o, xb_field_number(f, record));
    }
}

/* "key":value,... without the braces. */
static void fields(xb_report_out_t o, const xb_fields_t *list, const void *record)
{
    unsigned i;
    for (i = 0; i < list->fields; i++) {
        xb_out(o, i ? "," : "");
        string(o, list->field[i].key);
        xb_out(o, ":");
        value(o, &list->field[i], record);
    }
}

static void words(xb_report_out_t o, const xb_part_t *p, const xb_report_t *r)
{
    const uint64_t *n = xb_part_words(p, r);
    unsigned i;
    xb_out(o, "{");
    for (i = 0; i < p->words; i++) {
        xb_out(o, i ? "," : "");
        string(o, p->word(i));
        xb_out(o, ":");
        xb_out_number(o, n[i]);
    }
    xb_out(o, "}");
}

static void list(xb_report_out_t o, const xb_part_t *p, const xb_report_t *r)
{
    const void *record;
    unsigned i;
    xb_out(o, "[");
    for (i = 0; (record = p->item(r, i)); i++) {
        xb_out(o, i ? ",\n{" : "\n{");
        fields(o, &p->fields, record);
        xb_out(o, "}");
    }
    xb_out(o, "]");
}

static void part(xb_report_out_t o, const xb_part_t *p, const xb_report_t *r)
{
    string(o, p->key);
    xb_out(o, ":");
    if (p->kind == XB_PART_WORDS) {
        words(o, p, r);
    }
    else if (p->kind == XB_PART_LIST) {
        list(o, p, r);
    }
    else {
        xb_out(o, "{");
        fields(o, &p->fields, r);
        xb_out(o, "}");
    }
}

static void balancer(xb_report_out_t o, const xb_report_balancer_t *b)
{
    unsigned i;
    xb_out(o, "{");
    fields(o, &xb_balancer_fields, b);
    xb_out(o, ",\"settings\":{");
    for (i = 0; i < b->settings; i++) {
        xb_out(o, i ? "," : "");
        string(o, b->setting[i].name);
        xb_out(o, ":");
        string(o, b->setting[i].value);
    }
    xb_out(o, "},\"members\":[");
    for (i = 0; i < b->members; i++) {
        xb_out(o, i ? ",\n{" : "\n{");
        fields(o, &xb_member_fields, &b->member[i]);
        xb_out(o, "}");
    }
    xb_out(o, "]}");
}

void xb_report_json(const xb_report_t *r, xb_report_out_t o)
{
    unsigned i;
    xb_out(o, "{");
    for (i = 0; i < xb_parts_count; i++) {
        part(o, &xb_parts[i], r);
        xb_out(o, ",\n");
    }
    xb_out(o, "\"balancers\":[");
    for (i = 0; i < r->balancers; i++) {
        xb_out(o, i ? ",\n" : "\n");
        balancer(o, &r->balancer[i]);
    }
    xb_out(o, "]}\n");
}
