/* SPDX-License-Identifier: Apache-2.0 */
/* The report as one plain HTML page: tables, no scripts, nothing loaded from elsewhere. */
#include "xb_report_part.h"

#include <math.h>

/* Wide tables scroll by themselves, so that the page fits a narrow window. */
static const char head[] =
    "<!DOCTYPE html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\"/>\n"
    "<meta name=\"viewport\" content=\"width=device-width\"/>\n"
    "<title>mod_xnat_balance</title>\n<style>\n"
    "body{font:15px/1.4 sans-serif;margin:1em}\n"
    "h1{font-size:1.4em}h2{font-size:1.1em;margin:1.4em 0 .3em;overflow-wrap:anywhere}\n"
    "div{overflow-x:auto}\n"
    "table{border-collapse:collapse;margin:.2em 0}\n"
    "th,td{border:1px solid #bbb;padding:.15em .5em;text-align:left;"
    "font-variant-numeric:tabular-nums}\n"
    "th{background:#eee;font-weight:normal}td.n{text-align:right}\n"
    "</style>\n</head>\n<body>\n<h1>mod_xnat_balance</h1>\n";

static const char *escape(unsigned char c, char buf[8])
{
    (void)buf;
    switch (c) {
    case '&':
        return "&amp;";
    case '<':
        return "&lt;";
    case '>':
        return "&gt;";
    case '"':
        return "&quot;";
    case '\'':
        return "&#39;";
    default:
        return c < 0x20 || c == 0x7f ? XB_REPLACEMENT : NULL;
    }
}

static void text(xb_report_out_t o, const char *s)
{
    xb_out_escaped(o, s, escape);
}

static const char *escape_key(unsigned char c, char buf[8])
{
    return c == '_' ? " " : escape(c, buf);
}

/* A field's name, with its explanation as tool tip. */
static void heading(xb_report_out_t o, const xb_field_t *f)
{
    xb_out(o, "<th title=\"");
    text(o, f->help);
    xb_out(o, "\">");
    xb_out_escaped(o, f->key, escape_key);
    xb_out(o, "</th>");
}

static void status(xb_report_out_t o, unsigned bits)
{
    const char *blank = "";
    unsigned i;
    for (i = 0; i < XB_STATUS_WORDS; i++) {
        if (bits & 1u << i) {
            xb_out(o, blank);
            xb_out(o, xb_status_word(i));
            blank = " ";
        }
    }
}

static void value(xb_report_out_t o, const xb_field_t *f, const void *record)
{
    switch (f->kind) {
    case XB_FIELD_TEXT:
        text(o, xb_field_text(f, record));
        break;
    case XB_FIELD_BOOL:
        xb_out(o, xb_field_number(f, record) ? "yes" : "no");
        break;
    case XB_FIELD_STATUS:
        status(o, (unsigned)xb_field_number(f, record));
        break;
    case XB_FIELD_REAL:
        if (isfinite(xb_field_real(f, record)))
            xb_out_real(o, xb_field_real(f, record));
        else
            xb_out(o, "-");
        break;
    default:
        xb_out_number(o, xb_field_number(f, record));
    }
}

static void cell(xb_report_out_t o, const xb_field_t *f, const void *record)
{
    xb_out(o, f->kind >= XB_FIELD_GAUGE ? "<td class=\"n\">" : "<td>");
    value(o, f, record);
    xb_out(o, "</td>");
}

static void open_part(xb_report_out_t o, const char *title)
{
    xb_out(o, "<h2>");
    text(o, title);
    xb_out(o, "</h2>\n");
}

static void record(xb_report_out_t o, const xb_fields_t *list, const void *rec)
{
    unsigned i;
    xb_out(o, "<div><table>\n");
    for (i = 0; i < list->fields; i++) {
        xb_out(o, "<tr>");
        heading(o, &list->field[i]);
        cell(o, &list->field[i], rec);
        xb_out(o, "</tr>\n");
    }
    xb_out(o, "</table></div>\n");
}

static void open_rows(xb_report_out_t o, const xb_fields_t *list)
{
    unsigned i;
    xb_out(o, "<div><table>\n<tr>");
    for (i = 0; i < list->fields; i++)
        heading(o, &list->field[i]);
    xb_out(o, "</tr>\n");
}

static void row(xb_report_out_t o, const xb_fields_t *list, const void *rec)
{
    unsigned i;
    xb_out(o, "<tr>");
    for (i = 0; i < list->fields; i++)
        cell(o, &list->field[i], rec);
    xb_out(o, "</tr>\n");
}

static void words(xb_report_out_t o, const xb_part_t *p, const xb_report_t *r)
{
    const uint64_t *n = xb_part_words(p, r);
    unsigned i;
    xb_out(o, "<div><table>\n");
    for (i = 0; i < p->words; i++) {
        xb_out(o, "<tr><th>");
        text(o, p->word(i));
        xb_out(o, "</th><td class=\"n\">");
        xb_out_number(o, n[i]);
        xb_out(o, "</td></tr>\n");
    }
    xb_out(o, "</table></div>\n");
}

static void part(xb_report_out_t o, const xb_part_t *p, const xb_report_t *r)
{
    const void *rec;
    unsigned i;
    open_part(o, p->title);
    if (p->kind == XB_PART_RECORD) {
        record(o, &p->fields, r);
    }
    else if (p->kind == XB_PART_WORDS) {
        words(o, p, r);
    }
    else {
        open_rows(o, &p->fields);
        for (i = 0; (rec = p->item(r, i)); i++)
            row(o, &p->fields, rec);
        xb_out(o, "</table></div>\n");
    }
}

static void balancer(xb_report_out_t o, const xb_report_balancer_t *b)
{
    unsigned i;
    open_part(o, b->name);
    open_rows(o, &xb_member_fields);
    for (i = 0; i < b->members; i++)
        row(o, &xb_member_fields, &b->member[i]);
    xb_out(o, "</table></div>\n");
    record(o, &xb_balancer_fields, b);
    xb_out(o, "<div><table>\n");
    for (i = 0; i < b->settings; i++) {
        xb_out(o, "<tr><th>");
        text(o, b->setting[i].name);
        xb_out(o, "</th><td>");
        text(o, b->setting[i].value);
        xb_out(o, "</td></tr>\n");
    }
    xb_out(o, "</table></div>\n");
}

void xb_report_html(const xb_report_t *r, xb_report_out_t o)
{
    unsigned i;
    xb_out(o, head);
    for (i = 0; i < r->balancers; i++)
        balancer(o, &r->balancer[i]);
    for (i = 0; i < xb_parts_count; i++)
        part(o, &xb_parts[i], r);
    xb_out(o, "</body>\n</html>\n");
}
