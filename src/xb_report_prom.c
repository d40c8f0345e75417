/* SPDX-License-Identifier: Apache-2.0 */
/* The report in Prometheus' text format 0.0.4. All samples of a metric stand together, and its
 * label names never change. */
#include "xb_report_part.h"

#include <math.h>

static const char *escape(unsigned char c, char buf[8])
{
    (void)buf;
    switch (c) {
    case '\\':
        return "\\\\";
    case '"':
        return "\\\"";
    case '\n':
        return "\\n";
    default: /* readers differ in what else ends a line */
        return c < 0x20 || c == 0x7f ? XB_REPLACEMENT : NULL;
    }
}

static void name(xb_report_out_t o, const char *metric, bool grows)
{
    xb_out(o, "xnat_balance_");
    xb_out(o, metric);
    xb_out(o, grows ? "_total" : "");
}

static void open_metric(xb_report_out_t o, const char *metric, const char *help, bool grows)
{
    xb_out(o, "# HELP ");
    name(o, metric, grows);
    xb_out(o, " ");
    xb_out(o, help);
    xb_out(o, "\n# TYPE ");
    name(o, metric, grows);
    xb_out(o, grows ? " counter\n" : " gauge\n");
}

/* `before` is '{' for the first label, ',' for another. */
static void label(xb_report_out_t o, const char *before, const char *key, const char *value)
{
    xb_out(o, before);
    xb_out(o, key);
    xb_out(o, "=\"");
    xb_out_escaped(o, value, escape);
    xb_out(o, "\"");
}

static void sample(xb_report_out_t o, uint64_t n)
{
    xb_out(o, " ");
    xb_out_number(o, n);
    xb_out(o, "\n");
}

static void number(xb_report_out_t o, const xb_field_t *f, const void *record)
{
    double v;
    if (f->kind == XB_FIELD_REAL) {
        v = xb_field_real(f, record);
        xb_out(o, " ");
        if (isfinite(v))
            xb_out_real(o, v);
        else
            xb_out(o, isnan(v) ? "NaN" : v > 0 ? "+Inf" : "-Inf");
        xb_out(o, "\n");
    }
    else if (f->kind == XB_FIELD_MS || f->kind == XB_FIELD_MS_SUM) {
        xb_out(o, " ");
        xb_out_milli(o, xb_field_number(f, record));
        xb_out(o, "\n");
    }
    else {
        sample(o, xb_field_number(f, record));
    }
}

static bool grows(const xb_field_t *f)
{
    return f->kind == XB_FIELD_COUNTER || f->kind == XB_FIELD_MS_SUM;
}

static void record(xb_report_out_t o, const xb_fields_t *list, const void *rec)
{
    unsigned i;
    for (i = 0; i < list->fields; i++) {
        const xb_field_t *f = &list->field[i];
        open_metric(o, f->metric, f->help, grows(f));
        name(o, f->metric, grows(f));
        if (f->kind == XB_FIELD_TEXT) { /* a text is the label of a metric that is always 1 */
            label(o, "{", f->key, xb_field_text(f, rec));
            xb_out(o, "}");
            sample(o, 1);
        }
        else {
            number(o, f, rec);
        }
    }
}

static void words(xb_report_out_t o, const xb_part_t *p, const xb_report_t *r)
{
    const uint64_t *n = xb_part_words(p, r);
    unsigned i;
    open_metric(o, p->metric, p->help, p->grows);
    for (i = 0; i < p->words; i++) {
        name(o, p->metric, p->grows);
        label(o, "{", p->label, p->word(i));
        xb_out(o, "}");
        sample(o, n[i]);
    }
}

static void list(xb_report_out_t o, const xb_part_t *p, const xb_report_t *r)
{
    const void *rec;
    unsigned i, k, l;
    for (k = 0; k < p->fields.fields; k++) {
        const xb_field_t *f = &p->fields.field[k];
        if (!f->metric)
            continue;
        open_metric(o, f->metric, f->help, grows(f));
        for (i = 0; (rec = p->item(r, i)); i++) {
            name(o, f->metric, grows(f));
            for (l = 0; l < p->labels; l++)
                label(o, l ? "," : "{", p->fields.field[l].key,
                      xb_field_text(&p->fields.field[l], rec));
            xb_out(o, "}");
            number(o, f, rec);
        }
    }
}

static void open_balancer_sample(xb_report_out_t o, const char *metric, bool total,
                                 const xb_report_balancer_t *b)
{
    name(o, metric, total);
    label(o, "{", "vhost", b->vhost);
    label(o, ",", "balancer", b->name);
}

static void member_sample(xb_report_out_t o, const xb_field_t *f, const xb_report_balancer_t *b,
                          const xb_report_member_t *m)
{
    unsigned i, samples = f->kind == XB_FIELD_STATUS ? XB_STATUS_WORDS : 1;
    for (i = 0; i < samples; i++) {
        open_balancer_sample(o, f->metric, grows(f), b);
        label(o, ",", "route", m->route);
        label(o, ",", "worker", m->worker);
        if (f->kind == XB_FIELD_STATUS) { /* one gauge per word, so that series never vanish */
            label(o, ",", "status", xb_status_word(i));
            xb_out(o, "}");
            sample(o, xb_field_number(f, m) >> i & 1);
        }
        else {
            xb_out(o, "}");
            number(o, f, m);
        }
    }
}

static void members(xb_report_out_t o, const xb_report_t *r)
{
    unsigned k, i, j;
    for (k = 0; k < xb_member_fields.fields; k++) {
        const xb_field_t *f = &xb_member_fields.field[k];
        if (!f->metric)
            continue;
        open_metric(o, f->metric, f->help, grows(f));
        for (i = 0; i < r->balancers; i++) {
            for (j = 0; j < r->balancer[i].members; j++)
                member_sample(o, f, &r->balancer[i], &r->balancer[i].member[j]);
        }
    }
}

static void balancers(xb_report_out_t o, const xb_report_t *r)
{
    unsigned i, j;
    open_metric(o, "balancer_info", "lbmethod and XnatBalanceMove in force.", false);
    for (i = 0; i < r->balancers; i++) {
        open_balancer_sample(o, "balancer_info", false, &r->balancer[i]);
        label(o, ",", "lbmethod", r->balancer[i].lbmethod);
        label(o, ",", "move", r->balancer[i].move);
        xb_out(o, "}");
        sample(o, 1);
    }
    open_metric(o, "setting_info", "Settings in force.", false);
    for (i = 0; i < r->balancers; i++) {
        for (j = 0; j < r->balancer[i].settings; j++) {
            open_balancer_sample(o, "setting_info", false, &r->balancer[i]);
            label(o, ",", "name", r->balancer[i].setting[j].name);
            label(o, ",", "value", r->balancer[i].setting[j].value);
            xb_out(o, "}");
            sample(o, 1);
        }
    }
}

void xb_report_prom(const xb_report_t *r, xb_report_out_t o)
{
    unsigned i;
    for (i = 0; i < xb_parts_count; i++) {
        const xb_part_t *p = &xb_parts[i];
        if (p->kind == XB_PART_RECORD)
            record(o, &p->fields, r);
        else if (p->kind == XB_PART_WORDS)
            words(o, p, r);
        else
            list(o, p, r);
    }
    balancers(o, r);
    members(o, r);
}
