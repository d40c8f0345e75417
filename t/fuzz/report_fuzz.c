/* SPDX-License-Identifier: Apache-2.0 */
/* Any bytes as names: the three forms of the report stay valid. */
#include "xb_report.h"
#include "../unit/report_check.h"

#include <stdint.h>
#include <stdlib.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static struct {
    char *text;
    size_t n, room;
} got;

static void put(void *ctx, const char *data, size_t n)
{
    (void)ctx;
    if (got.n + n >= got.room) {
        got.room = 2 * (got.n + n) + 1;
        got.text = realloc(got.text, got.room);
        if (!got.text)
            abort();
    }
    memcpy(got.text + got.n, data, n);
    got.text[got.n += n] = '\0';
}

static void must(const xb_report_t *r, xb_report_form_t form, const char *check(const char *))
{
    const char *fault;
    got.n = 0;
    xb_report_write(r, form, (xb_report_out_t){.put = put});
    if ((fault = check(got.text))) {
        fprintf(stderr, "form %d, at: %.80s\n", (int)form, fault);
        abort();
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    char *n = malloc(size + 1); /* exactly as long as the name, so that ASan sees its end */
    if (!n)
        abort();
    if (size > 0)
        memcpy(n, data, size);
    n[size] = '\0';
    xb_report_setting_t s = {n, n};
    xb_report_member_t m = {.route = n, .worker = n};
    xb_report_balancer_t b = {n, n, n, n, &s, 1, &m, 1};
    xb_report_move_t move = {.session = n, .from = n, .to = n, .result = n};
    xb_report_node_t store = {.node = n, .address = n};
    xb_report_t r = {.version = n,
                     .balancer = &b,
                     .balancers = 1,
                     .recent = &move,
                     .recents = 1,
                     .node = &store,
                     .nodes = 1};
    must(&r, XB_REPORT_JSON, check_json);
    must(&r, XB_REPORT_HTML, check_html);
    must(&r, XB_REPORT_PROMETHEUS, check_prom);
    free(n);
    return 0;
}
