/* SPDX-License-Identifier: Apache-2.0 */
/* What a report shows, as data: the three forms render the same list of parts, so that they
 * cannot differ. Included by xb_report*.c only. Constants and pure functions, any thread. */
#ifndef XB_REPORT_PART_H
#define XB_REPORT_PART_H

#include "xb_report.h"

typedef enum {
    XB_FIELD_TEXT,    /* const char * */
    XB_FIELD_BOOL,    /* bool */
    XB_FIELD_STATUS,  /* unsigned, XB_STATUS_ bits */
    XB_FIELD_GAUGE,   /* uint64_t, may go down */
    XB_FIELD_COUNTER, /* uint64_t, only grows */
    XB_FIELD_MS,      /* like GAUGE; Prometheus wants seconds */
    XB_FIELD_MS_SUM,  /* like COUNTER; the same */
    XB_FIELD_REAL     /* double, may be infinite */
} xb_field_kind_t;

typedef struct {
    xb_field_kind_t kind;
    size_t offset;   /* in the record */
    const char *key; /* in JSON; with blanks for '_' the heading in HTML */
    const char
        *metric; /* for Prometheus, without "xnat_balance_" and "_total"; NULL: not there */
    const char *help;
} xb_field_t;

typedef struct {
    const xb_field_t *field;
    unsigned fields;
} xb_fields_t;

typedef enum {
    XB_PART_RECORD, /* fields of xb_report_t itself */
    XB_PART_WORDS,  /* uint64_t[], each with a word */
    XB_PART_LIST    /* array of records */
} xb_part_kind_t;

typedef struct {
    xb_part_kind_t kind;
    unsigned labels; /* LIST: so many first fields are Prometheus labels */
    const char *key, *title;
    xb_fields_t fields;                                    /* RECORD, LIST */
    const void *(*item)(const xb_report_t *r, unsigned i); /* LIST: NULL behind the last */
    /* WORDS: */
    size_t offset;
    const char *(*word)(unsigned i);
    const char *metric, *label, *help;
    unsigned words;
    bool grows;
} xb_part_t;

extern const xb_part_t xb_parts[];
extern const unsigned xb_parts_count;
/* Balancers have settings and members within, so they are no part. */
extern const xb_fields_t xb_balancer_fields, xb_member_fields;

#define XB_STATUS_WORDS 9
const char *xb_status_word(unsigned bit_index);

uint64_t xb_field_number(const xb_field_t *f, const void *record); /* also of BOOL, STATUS */
double xb_field_real(const xb_field_t *f, const void *record);
const char *xb_field_text(const xb_field_t *f, const void *record); /* never NULL */
const uint64_t *xb_part_words(const xb_part_t *p, const xb_report_t *r);

void xb_out(xb_report_out_t o, const char *text);
void xb_out_n(xb_report_out_t o, const char *data, size_t n);
void xb_out_number(xb_report_out_t o, uint64_t n);
void xb_out_milli(xb_report_out_t o, uint64_t n); /* thousandths of one */
void xb_out_real(xb_report_out_t o, double v);    /* finite; three decimals, in any locale */

/* What a form writes in place of an ASCII byte, or NULL: the byte itself. */
typedef const char *xb_escape_t(unsigned char c, char buf[8]);
/* Bytes that are not UTF-8 become U+FFFD. NULL: "". */
void xb_out_escaped(xb_report_out_t o, const char *text, xb_escape_t *escape);

#define XB_REPLACEMENT "\xef\xbf\xbd" /* U+FFFD */

void xb_report_html(const xb_report_t *r, xb_report_out_t o);
void xb_report_json(const xb_report_t *r, xb_report_out_t o);
void xb_report_prom(const xb_report_t *r, xb_report_out_t o);

#endif
