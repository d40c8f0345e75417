/* SPDX-License-Identifier: Apache-2.0 */
/* The report in its three forms: valid whatever the names are, and all figures in each. */
#include "xb_report.h"
#include "report_check.h"
#include "tap.h"

#include <math.h>

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
    }
    memcpy(got.text + got.n, data, n);
    got.text[got.n += n] = '\0';
}

static const char *render(const xb_report_t *r, xb_report_form_t form)
{
    got.n = 0;
    xb_report_write(r, form, (xb_report_out_t){.put = put});
    return got.text;
}

static bool valid(const char *fault, const char *what, const char *name)
{
    ok(fault == NULL, "%s: valid %s", name, what);
    if (fault)
        diag("at: %.60s", fault);
    return fault == NULL;
}

static void all_forms(const xb_report_t *r, const char *name)
{
    valid(check_json(render(r, XB_REPORT_JSON)), "JSON", name);
    valid(check_html(render(r, XB_REPORT_HTML)), "HTML", name);
    valid(check_prom(render(r, XB_REPORT_PROMETHEUS)), "Prometheus", name);
}

/* The name of the test shows the text without line ends. */
static void has(const char *text, const char *part)
{
    const char *name = part + strspn(part, "\n");
    if (!ok(strstr(text, part), "has %.*s", (int)strcspn(name, "\n"), name))
        diag("%.4000s", text);
}

static void hasnt(const char *text, const char *part, const char *name)
{
    ok(!strstr(text, part), "%s", name);
}

/* A small fleet with a different number in each place. */
static xb_report_setting_t setting[] = {{"XnatBalanceHalfLife", "60s"},
                                        {"XnatBalanceRequestCost", "2M"}};
static xb_report_member_t member[] = {
    {.route = "tomcat1",
     .worker = "http://127.0.0.1:8080",
     .status = XB_STATUS_OK | XB_STATUS_DRN,
     .usable = true,
     .weight = 2,
     .score = 1.0625,
     .traffic = 1234567.25,
     .occupancy = 0.5,
     .busy = 1001,
     .sessions = 1002,
     .active = 1003,
     .bytes_in = 1004,
     .bytes_out = 1005,
     .requests = 1006,
     .elected = 1007,
     .moved_in = 1008,
     .moved_out = 1009,
     .failed_over = 1010,
     .generation = 1011},
    {.route = "tomcat2", .worker = "ajp://127.0.0.1:8009", .status = XB_STATUS_ERR},
};
static const xb_report_balancer_t balancer[] = {{.vhost = "xnat.example.org:443",
                                                 .name = "balancer://xnat",
                                                 .lbmethod = "xnat",
                                                 .move = "DryRun",
                                                 .setting = setting,
                                                 .settings = 2,
                                                 .member = member,
                                                 .members = 2}};
static const xb_report_move_t recent[] = {
    {2001, "0123456789", "tomcat1", "tomcat2", "drain", true, 2002},
    {2003, "abcdef0123", "tomcat2", "tomcat1", "probe-late", false, 2004}};
static const xb_report_node_t node[] = {{"n1", "127.0.0.1:11211", true, 2005, 2006}};

static xb_report_t small(void)
{
    xb_report_t r = {.version = "0.1.0",
                     .uptime_s = 3001,
                     .generation = 3002,
                     .clock_s = 3003.5,
                     .balancer = balancer,
                     .balancers = 1,
                     .capacity = 3004,
                     .remembered = 3005,
                     .forgotten = 3006,
                     .not_remembered = 3007,
                     .gate_waits = 3008,
                     .gate_timeouts = 3009,
                     .gate_crowded = 3010,
                     .gate_waiting = 3011,
                     .would_have_moved = 3012,
                     .repaired = 2501,
                     .lost = 2504,
                     .looked_up = 2505,
                     .not_looked_up = 2506,
                     .released = 2507,
                     .uncounted = 2502,
                     .gate_fenced = 2503,
                     .move_ms_sum = 3013,
                     .move_ms_max = 3014,
                     .recent = recent,
                     .recents = 2,
                     .node = node,
                     .nodes = 1,
                     .mover_running = true,
                     .mover_heartbeat_ms = 3015,
                     .mover_busy = 3016};
    unsigned i;
    for (i = 0; i < XB_REPORT_STATES; i++)
        r.session[i] = 4000 + i;
    for (i = 0; i < XB_DECISIONS; i++)
        r.request[i] = 5000 + i;
    for (i = 0; i < XB_MOVE_REASONS; i++)
        r.moved[i] = 6000 + i;
    for (i = 0; i < XB_REFUSALS; i++)
        r.refused[i] = 7000 + i;
    for (i = 0; i < XB_HELDS; i++)
        r.held[i] = 8000 + i;
    member[1].score = INFINITY;
    return r;
}

/* Numbers that must stand in the text, from..to. */
static void has_numbers(const char *text, const char *form, unsigned from, unsigned to)
{
    unsigned i, missing = 0;
    for (i = from; i <= to; i++) {
        char number[16];
        snprintf(number, sizeof number, "%u", i);
        if (!strstr(text, number)) {
            diag("%s: %u is missing", form, i);
            missing++;
        }
    }
    ok(missing == 0, "%s has the figures %u to %u", form, from, to);
}

static void figures(const xb_report_t *r, xb_report_form_t form, const char *name)
{
    const char *text = render(r, form);
    bool prom = form == XB_REPORT_PROMETHEUS;
    has_numbers(text, name, 1001, 1011);
    has_numbers(text, name, prom ? 2005 : 2001, 2006);
    has_numbers(text, name, 2501, 2507);
    has_numbers(text, name, 3001, prom ? 3012 : 3016);
    has_numbers(text, name, 4000, 4000 + XB_REPORT_STATES - 1);
    has_numbers(text, name, 5000, 5000 + XB_DECISIONS - 1);
    has_numbers(text, name, 6000, 6000 + XB_MOVE_REASONS - 1);
    has_numbers(text, name, 7000, 7000 + XB_REFUSALS - 1);
    has_numbers(text, name, 8000, 8000 + XB_HELDS - 1);
    has(text, "xnat.example.org:443");
    has(text, "balancer://xnat");
    has(text, "http://127.0.0.1:8080");
    has(text, "XnatBalanceHalfLife");
    has(text, "DryRun");
    has(text, "1234567.25");
    has(text, "127.0.0.1:11211");
}

static void small_fleet(void)
{
    xb_report_t r = small();
    const char *text;
    all_forms(&r, "small fleet");
    figures(&r, XB_REPORT_JSON, "JSON");
    figures(&r, XB_REPORT_HTML, "HTML");
    figures(&r, XB_REPORT_PROMETHEUS, "Prometheus");

    text = render(&r, XB_REPORT_JSON);
    has(text, "\"status\":[\"Ok\",\"Drn\"],\"usable\":true,\"takes_new\":false");
    has(text, "\"score\":1.063");
    has(text, "\"score\":null");
    has(text, "\"settings\":{\"XnatBalanceHalfLife\":\"60s\"");
    has(text, "\"why\":\"drain\"");
    text = render(&r, XB_REPORT_HTML);
    has(text, "<td>Ok Drn</td><td>yes</td><td>no</td>");
    text = render(&r, XB_REPORT_PROMETHEUS);
    has(text, "\nxnat_balance_moves_total{reason=\"drain\"} 6001\n");
    has(text, "\nxnat_balance_sessions{state=\"stable\"} 4000\n");
    has(text, "\nxnat_balance_member_bytes_in_total{vhost=\"xnat.example.org:443\","
              "balancer=\"balancer://xnat\",route=\"tomcat1\","
              "worker=\"http://127.0.0.1:8080\"} 1004\n");
    has(text, "worker=\"http://127.0.0.1:8080\",status=\"Drn\"} 1\n");
    has(text, "worker=\"http://127.0.0.1:8080\",status=\"Err\"} 0\n");
    has(text, "worker=\"ajp://127.0.0.1:8009\"} +Inf\n");
    has(text, "\nxnat_balance_move_duration_seconds_total 3.013\n");
    has(text, "\nxnat_balance_mover_heartbeat_age_seconds 3.015\n");
    has(text, "\nxnat_balance_store_breaker_open{node=\"n1\",address=\"127.0.0.1:11211\"} 1\n");
    hasnt(text, "0123456789", "digests are no labels");
}

static void hostile_names(void)
{
    static const char *const names[] = {
        "\"quo'ted\"",
        "</td><script>alert(1)</script>",
        "\x01\x02\n\r\t\x1f\x7f",
        "back\\slash\\",
        "a\xff"
        "b",
        "\xc3",         /* cut off */
        "\xe2\x82",     /* cut off */
        "\xf0\x9f\x98", /* cut off */
        "\xc0\xaf",     /* overlong */
        "\xe0\x80\xaf", /* overlong */
        "\xf0\x80\x80\xaf",
        "\xed\xa0\x80",     /* surrogate */
        "\xf4\x90\x80\x80", /* beyond U+10FFFF */
        "\xf8\x88\x80\x80\x80",
        "\xc3\xbc\xe2\x82\xac\xf0\x9f\x98\x80",
        "&amp;<b>&",
        "\",\"x\":\"",
        "\"} 1\nforged 2",
        "",
        NULL,
    };
    size_t i;
    for (i = 0; i < sizeof names / sizeof names[0]; i++) {
        const char *n = names[i] ? guarded_str(names[i]) : NULL;
        char name[40];
        xb_report_setting_t s = {n ? n : "NULL", n};
        xb_report_member_t m = {.route = n, .worker = n};
        xb_report_balancer_t b = {n, n, n, n, &s, 1, &m, 1};
        xb_report_move_t move = {.session = n, .from = n, .to = n, .result = n};
        xb_report_node_t store = {.node = n, .address = n};
        xb_report_t r = {.version = n, .balancer = &b, .balancers = 1, .recent = &move};
        r.recents = 1;
        r.node = &store;
        r.nodes = 1;
        snprintf(name, sizeof name, "hostile name %u", (unsigned)i);
        all_forms(&r, name);
        hasnt(render(&r, XB_REPORT_HTML), "<script", "no script in HTML");
        hasnt(render(&r, XB_REPORT_JSON), "<", "nothing like HTML in JSON");
    }
}

static void escapes(void)
{
    xb_report_balancer_t b = {.name = "<\"\\\n&\xff\xc3\xbc"};
    xb_report_t r = {.balancer = &b, .balancers = 1};
    has(render(&r, XB_REPORT_JSON),
        "\"name\":\"\\u003c\\u0022\\u005c\\u000a&\xef\xbf\xbd\xc3\xbc\"");
    has(render(&r, XB_REPORT_HTML),
        "<h2>&lt;&quot;\\\xef\xbf\xbd&amp;\xef\xbf\xbd\xc3\xbc</h2>");
    has(render(&r, XB_REPORT_PROMETHEUS), "balancer=\"<\\\"\\\\\\n&\xef\xbf\xbd\xc3\xbc\",");
}

static void empty(void)
{
    xb_report_t r = {0};
    all_forms(&r, "nothing at all");
}

static void numbers(void)
{
    static const struct {
        double v;
        const char *text;
    } cases[] = {{0, "0"},
                 {1, "1"},
                 {0.5, "0.500"},
                 {0.9996, "1"},
                 {-0.0001, "0"},
                 {-1.25, "-1.250"},
                 {1e15, "1000000000000000"},
                 {-1e300, "-18446744073709551615"},
                 {INFINITY, "null"},
                 {NAN, "null"},
                 {999999.0004, "999999"}};
    size_t i;
    for (i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        xb_report_t r = {.clock_s = cases[i].v};
        char want[64];
        snprintf(want, sizeof want, "\"clock_s\":%s}", cases[i].text);
        has(render(&r, XB_REPORT_JSON), want);
        all_forms(&r, cases[i].text);
    }
}

/* 512 members in each of two balancers, every counter at its end. */
static void full(void)
{
    static xb_report_member_t many[512];
    static char url[512][40];
    xb_report_balancer_t b[2] = {{.name = "a", .member = many, .members = 512},
                                 {.name = "b", .member = many, .members = 512}};
    xb_report_t r;
    const char *text, *s;
    unsigned i, found = 0;
    memset(many, 0xff, sizeof many);
    for (i = 0; i < 512; i++) {
        snprintf(url[i], sizeof url[i], "http://10.0.%u.%u:8080", i / 256, i % 256);
        many[i].route = many[i].worker = url[i];
        many[i].status = XB_STATUS_OK;
        many[i].usable = many[i].takes_new = many[i].safe_to_stop = true;
        many[i].weight = many[i].score = many[i].traffic = many[i].occupancy = 1.7e308;
    }
    r = small();
    r.balancer = b;
    r.balancers = 2;
    r.move_ms_sum = r.move_ms_max = r.uptime_s = UINT64_MAX;
    memset(r.session, 0xff, sizeof r.session);
    memset(r.refused, 0xff, sizeof r.refused);
    all_forms(&r, "512 members");
    text = render(&r, XB_REPORT_JSON);
    for (s = text; (s = strstr(s, "\"bytes_in\":18446744073709551615,")); s++)
        found++;
    is_int(found, 1024, "every member is there, with its counter at the end");
    has(render(&r, XB_REPORT_PROMETHEUS), "seconds_total 18446744073709551.615\n");
}

int main(void)
{
    empty();
    small_fleet();
    escapes();
    hostile_names();
    numbers();
    full();
    free(got.text);
    return done();
}
