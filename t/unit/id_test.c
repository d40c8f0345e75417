/* SPDX-License-Identifier: Apache-2.0 */
/* xb_id: finding and masking against an oracle of stock httpd, splitting, Set-Cookie. */
#include <stdint.h>

#include "tap.h"
#include "stock_oracle.h"

#define BASE "0123456789ABCDEF0123456789ABCDEF"

static void found(bool hit, xb_span_t v, const char *want, const char *what, const char *in)
{
    if (!ok(hit == (want != NULL), "%s in '%s': %s", what, in, want ? "found" : "none") || !hit)
        return;
    is_mem(v.p, v.n, want, "%s in '%s'", what, in);
}

static void urls(void)
{
    static const struct {
        const char *url;
        bool scolon;
        const char *want;
    } t[] = {
        {"/a;jsid=x.n1", false, "x.n1"},
        {"/a;jsid=x.n1;b=c", false, "x.n1;b=c"},
        {"/a;jsid=x.n1;b=c", true, "x.n1"},
        {"/a?jsid=x.n1&b", false, "x.n1"},
        {"/a?b=c&jsid=x.n1", false, "x.n1"},
        {"/a;jsid=x.n1?b", false, "x.n1"},
        {"/a;xjsid=x.n1", false, "x.n1"}, /* no boundary on the left */
        {"/a;jsid=&&?b=c", false, "b=c"}, /* an empty value goes on */
        {"/a;jsid=;b=c", true, "b=c"},
        {"/a;jsid=&?&", false, NULL}, /* nothing but delimiters ends the search */
        {"/a;jsid=&;jsid=x", true, "jsid=x"},
        {"/a;jsid=x;jsid=y", true, "x"}, /* the first one wins */
        {"/jsid/jsid=x", false, "x"},
        {"/jsidjsid=x", false, NULL}, /* the second begins in the skipped byte */
        {"/a;jsid=", false, NULL},
        {"/a;jsid", false, NULL},
        {"/a;JSID=x", false, NULL},
        {"", false, NULL},
    };
    for (size_t i = 0; i < sizeof t / sizeof *t; i++) {
        xb_span_t v = {NULL, 0};
        bool hit = xb_id_in_url(guarded_str(t[i].url), "jsid", t[i].scolon, &v);
        found(hit, v, t[i].want, t[i].scolon ? "scolon" : "url", t[i].url);
    }
}

static void cookies(void)
{
    static const struct {
        const char *header, *want;
    } t[] = {
        {"JSID=x.n1", "x.n1"},
        {"a=b; JSID=x.n1; c=d", "x.n1"},
        {"a=b,JSID=x.n1,c=d", "x.n1"},
        {"a=b\tJSID=x", "x"},
        {"a=b\rJSID\v\f\n=x", "x"},
        {"JSID =x", "x"},
        {"JSID \t = x ", " x "},
        {"XJSID=x", NULL},
        {"XJSID=x; JSID=y", "y"},
        {"JSIDX=x; JSID=y", "y"},
        {"JSID;JSID=y", NULL}, /* stock skips the byte behind the ';' */
        {"JSID; JSID=y", "y"},
        {"JSID=;JSID=y", ""}, /* the first one wins, though empty */
        {"JSID=x; JSID=y.n1", "x"},
        {"JSID=\"x.n1\"", "\"x.n1\""},
        {"JSID=", NULL},
        {"JSID", NULL},
        {"JSID  ", NULL},
        {"a=JSID", NULL},
        {"jsid=x", NULL},
        {"", NULL},
    };
    for (size_t i = 0; i < sizeof t / sizeof *t; i++) {
        xb_span_t v = {NULL, 0};
        bool hit = xb_id_in_cookie(guarded_str(t[i].header), "JSID", &v);
        found(hit, v, t[i].want, "cookie", t[i].header);
    }
}

static void no_name(void)
{
    char text[] = "a=b; =c";
    xb_span_t v;
    ok(!xb_id_in_url(text, "", false, &v), "an empty name is in no URL");
    ok(!xb_id_in_cookie(text, "", &v), "an empty name is no cookie");
    ok(!xb_id_mask_url(text, ""), "an empty name masks nothing");
    is_str(text, "a=b; =c", "and changes nothing");
}

/* xorshift: the same cases on every machine. */
static unsigned next_random(void)
{
    static uint32_t state = 20240229;
    state ^= state << 13;
    state ^= state >> 17;
    state ^= state << 5;
    return state;
}

static void random_text(char *out, size_t most)
{
    static const char alphabet[] = ";,= J?&.a";
    size_t n = next_random() % (most + 1);
    for (size_t i = 0; i < n; i++)
        out[i] = alphabet[next_random() % (sizeof alphabet - 1)];
    out[n] = '\0';
}

static bool same(bool a, xb_span_t x, bool b, xb_span_t y)
{
    return a == b && (!a || (x.p == y.p && x.n == y.n));
}

static bool agrees(const char *text, const char *name)
{
    xb_span_t x = {NULL, 0}, y = {NULL, 0};
    const char *p = guarded_str(text);
    bool good = true;

    for (int scolon = 0; scolon < 2; scolon++)
        good = good &&
               same(xb_id_in_url(p, name, scolon, &x), x, oracle_url(p, name, scolon, &y), y);
    return good && same(xb_id_in_cookie(p, name, &x), x, oracle_cookie(p, name, &y), y);
}

static bool in_no_url(const char *url, const char *name)
{
    xb_span_t v;
    return !xb_id_in_url(url, name, false, &v) && !xb_id_in_url(url, name, true, &v) &&
           !oracle_url(url, name, false, &v) && !oracle_url(url, name, true, &v);
}

/* Only first bytes of the name, as many as told, are others now. */
static bool only_names_changed(const char *was, const char *is, const char *name, size_t told)
{
    size_t changed = 0;
    if (strlen(was) != strlen(is))
        return false;
    for (size_t i = 0; was[i]; i++) {
        if (was[i] == is[i])
            continue;
        changed++;
        if (strncmp(was + i, name, strlen(name)) != 0 || !strchr("_~-", is[i]))
            return false;
    }
    return changed == told;
}

static bool hides(const char *text, const char *args, const char *name)
{
    char whole[80];
    char *p = guarded_str(text);
    size_t told = xb_id_mask_url(p, name), told_args;
    char query[40];

    if (!only_names_changed(text, p, name, told) || !in_no_url(p, name))
        return false;
    snprintf(query, sizeof query, "%s", args);
    told_args = xb_id_mask_url(query, name);
    snprintf(whole, sizeof whole, "%s?%s", p, query);
    if (!only_names_changed(args, query, name, told_args) || !in_no_url(whole, name))
        return false;
    return true;
}

static void random_cases(const char *name)
{
    unsigned differ = 0, shown = 0, hits = 0;
    char text[32], args[32];
    xb_span_t v;

    for (int i = 0; i < 12000; i++) {
        random_text(text, 24);
        random_text(args, 12);
        hits += oracle_url(text, name, true, &v) + oracle_cookie(text, name, &v);
        if (!agrees(text, name)) {
            if (differ++ == 0)
                diag("'%s' is read in another way than by stock", text);
        }
        if (!hides(text, args, name)) {
            if (shown++ == 0)
                diag("'%s' with '%s' is masked badly", text, args);
        }
    }
    is_int(differ, 0, "%s: 12000 random texts are read as stock reads them", name);
    is_int(shown, 0, "%s: masked, nobody finds a thing in them", name);
    ok(hits > 9, "%s: %u of the answers were hits", name, hits);
}

static void masks(void)
{
    char url[] = "/a;jsid=x?b=c&jsid=y&jsid";
    char odd[] = "_~-=x";

    is_int((long long)xb_id_mask_url(url, "jsid"), 2, "two places in a URL");
    is_str(url, "/a;_sid=x?b=c&_sid=y&jsid", "a URL keeps all but the first letters");
    is_int((long long)xb_id_mask_url(odd, "_~-"), 1, "a name of mask bytes");
    is_str(odd, "0~-=x", "is masked with one that it does not have");
}

static void parse_good(void)
{
    static const struct {
        const char *text;
        char sep;
        const char *base, *node, *route;
    } t[] = {
        {BASE "-n1.tomcat1", '.', BASE "-n1", "n1", "tomcat1"},
        {BASE ".tomcat1", '.', BASE, "", "tomcat1"},
        {BASE "-n1", '.', BASE "-n1", "n1", ""},
        {BASE, '.', BASE, "", ""},
        {"a.b.c", '.', "a", "", "b.c"},
        {"a-n1.b-c", '.', "a-n1", "n1", "b-c"},
        {"a.b-n1", '.', "a", "", "b-n1"}, /* that dash is the route's */
        {"a-b-c.d", '.', "a-b-c", "b-c", "d"},
        {"a-.d", '.', "a-", "", "d"},
        {"a-n1.", '.', "a-n1", "n1", ""},
        {"a:b_c", '.', "a:b_c", "", ""},
        {"a-n1.t1:x", ':', "a-n1.t1", "n1.t1", "x"},
    };
    for (size_t i = 0; i < sizeof t / sizeof *t; i++) {
        size_t n = strlen(t[i].text);
        const char *p = guarded(t[i].text, n);
        xb_id_t id;
        if (!ok(xb_id_parse((xb_span_t){p, n}, t[i].sep, &id), "'%s' is an id", t[i].text))
            continue;
        ok(id.whole.p == p && id.whole.n == n, "whole");
        is_mem(id.base.p, id.base.n, t[i].base, "base");
        is_mem(id.node.p, id.node.n, t[i].node, "node");
        is_mem(id.route.p, id.route.n, t[i].route, "route");
    }
}

static void refused(const char *text, size_t n, char sep, const char *why)
{
    xb_id_t id;
    ok(!xb_id_parse((xb_span_t){guarded(text, n), n}, sep, &id), "refused: %s", why);
}

static void parse_bad(void)
{
    static const char bytes[] = "\r\n \t\"'\\/;,=?&%+*#@!$()<>[]{}|~^`\x01\x7f\x80\xff";
    char text[XB_ID_MAX + 1];
    xb_id_t id;

    refused("", 0, '.', "empty");
    refused(".n1", 3, '.', "a separator first");
    refused(".", 1, '.', "a separator only");
    refused("-n1.t1", 6, '.', "a node without a session");
    refused("abc.t1", 6, '\0', "no separator configured");
    refused("a!t1", 4, '!', "a separator outside the set");
    for (size_t i = 0; i < sizeof bytes; i++) { /* the last one is NUL */
        char inside[] = {'a', bytes[i], 'b', '.', 't'}, last[] = {'a', '.', 't', bytes[i]};
        refused(inside, sizeof inside, '.', "a byte outside the set");
        refused(&inside[1], sizeof inside - 1, '.', "the same as the first");
        refused(last, sizeof last, '.', "the same as the last");
    }
    memset(text, 'a', sizeof text);
    refused(text, sizeof text, '.', "a byte too long");
    ok(xb_id_parse((xb_span_t){text, XB_ID_MAX}, '.', &id), "the longest id");
}

static void set_cookies(void)
{
    static const struct {
        const char *header, *value, *path;
        bool deleted;
    } t[] = {
        {"JSID=x-n1.t1; Path=/xnat; HttpOnly", "x-n1.t1", "/xnat", false},
        {"JSID=x", "x", "", false},
        {" JSID = x ;path = /a ", "x", "/a", false},
        {"JSID=x;PATH=/a;pAtH=/b", "x", "/b", false},
        {"JSID=x;Path=/a;Path=b", "x", "", false},
        {"JSID=x;Path", "x", "", false},
        {"JSID=x;XPath=/a;Pathx=/b", "x", "", false},
        {"JSID=x; Secure; SameSite=Lax; Max-Age=60", "x", "", false},
        {"JSID=x; Max-Age=0; Path=/", "x", "/", true},
        {"JSID=x; max-age=-1", "x", "", true},
        {"JSID=x; max-age=000", "x", "", true},
        {"JSID=x; max-age=-", "x", "", false},
        {"JSID=x; max-age=", "x", "", false},
        {"JSID=x; max-age=0x", "x", "", false},
        {"JSID=x; max-age=0; max-age=9", "x", "", false},
        {"JSID=x; max-age=99999999999999999999999", "x", "", false},
        {"JSID=; Path=/", "", "/", true},
        {"JSID=", "", "", true},
        {"JSID=a=b", "a=b", "", false},
        {"JSID=x;;;Path=/;", "x", "/", false},
        {"JSID=\"x\"", "\"x\"", "", false}, /* quotes belong to the value: no id */
    };
    for (size_t i = 0; i < sizeof t / sizeof *t; i++) {
        xb_set_cookie_t c;
        if (!ok(xb_id_in_set_cookie(guarded_str(t[i].header), "JSID", &c), "'%s'", t[i].header))
            continue;
        is_mem(c.value.p, c.value.n, t[i].value, "value");
        is_mem(c.path.p, c.path.n, t[i].path, "path");
        is_int(c.deleted, t[i].deleted, "deleted");
    }
}

static void other_cookies(void)
{
    static const char *const t[] = {"",        "JSID",      "jsid=x",   "XJSID=x",  "JSIDX=x",
                                    "JSI=D",   "a=JSID=x",  "JSID;=x",  "; JSID=x", "=JSID",
                                    "J SID=x", "a; JSID=x", "JSID; a=b"};
    xb_set_cookie_t c;
    for (size_t i = 0; i < sizeof t / sizeof *t; i++)
        ok(!xb_id_in_set_cookie(guarded_str(t[i]), "JSID", &c), "'%s' is another", t[i]);
    ok(!xb_id_in_set_cookie("=x", "", &c), "an empty name is no cookie");
}

int main(void)
{
    static const char *const names[] = {"J", "a", "Ja", "JJ", "J.J", "=", "; a"};
    urls();
    cookies();
    no_name();
    for (size_t i = 0; i < sizeof names / sizeof *names; i++)
        random_cases(names[i]);
    masks();
    parse_good();
    parse_bad();
    set_cookies();
    other_cookies();
    return done();
}
