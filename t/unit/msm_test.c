/* SPDX-License-Identifier: Apache-2.0 */
/* xb_msm: node lists, keys, and stored values of every kind that must not be believed. */
#include <stdint.h>

#include "tap.h"
#include "xb_msm.h"

#define BASE "0123456789ABCDEF0123456789ABCDEF"
#define ID BASE "-n1.tomcat1"
#define NOW 1700000000000

static xb_span_t span(const char *text)
{
    return (xb_span_t){text, strlen(text)};
}

/* Nodes written as `id|host|port` with a space between; NULL: a sentence is wanted. */
static void nodes_are(const char *text, const char *want, bool superset)
{
    xb_msm_nodes_t n;
    char got[2048] = "";
    const char *p = guarded_str(text), *wrong = xb_msm_nodes_parse(p, &n);

    if (!ok(!wrong == (want != NULL), "'%s': %s", text, wrong ? wrong : "parsed"))
        return;
    if (wrong) {
        ok(strncmp(wrong, "wants ", 6) == 0, "the sentence says what is wanted");
        return;
    }
    for (unsigned i = 0; i < n.count; i++)
        snprintf(got + strlen(got), sizeof got - strlen(got), "%s%s|%s|%u", i ? " " : "",
                 n.node[i].id, n.node[i].host, n.node[i].port);
    is_str(got, want, "nodes");
    is_int(xb_msm_nodes_superset(p), superset, "'%s': more than MSM takes", text);
}

static void node_lists(void)
{
    nodes_are("n1:h:11211", "n1|h|11211", false);
    nodes_are("n1:h:1,n2:h:2", "n1|h|1 n2|h|2", false);
    nodes_are("n1:h:1 \t\n n2:h:2", "n1|h|1 n2|h|2", false);
    nodes_are("n1:h:1,n2:i:1 n3:j:1", "n1|h|1 n2|i|1 n3|j|1", false);
    nodes_are("n1:h:1, n2:h:2", "n1|h|1 n2|h|2", true); /* the XNAT wiki's own example */
    nodes_are("n1:h:1 ,n2:h:2", "n1|h|1 n2|h|2", true);
    nodes_are(" n1:h:1", "n1|h|1", true);
    nodes_are("n1:h:1 ", "n1|h|1", true);
    nodes_are("h:11211", "|h|11211", false);
    nodes_are("127.0.0.1:11211", "|127.0.0.1|11211", false);
    nodes_are("n_1:my-host_2.example.org:65535", "n_1|my-host_2.example.org|65535", false);
    nodes_are("n1:[::1]:1,n2:[2001:db8::2]:1", "n1|::1|1 n2|2001:db8::2|1", true);
    nodes_are("[::1]:11211", "|::1|11211", true);
    nodes_are("a123456789012345678901234567890:h:1", "a123456789012345678901234567890|h|1",
              false);
    nodes_are("n1:h:1,n2:h:01", NULL, false);
    nodes_are("n1:h:01", "n1|h|1", false);
}

static void bad_node_lists(void)
{
    static const char *const t[] = {"",
                                    " ",
                                    ",",
                                    "n1",
                                    "n1:h",
                                    "n1:h:",
                                    "n1::1",
                                    ":h:1",
                                    "::1",
                                    ":1",
                                    "n1:h:1:",
                                    "n1:h:1:2",
                                    "n1:h:0",
                                    "n1:h:65536",
                                    "n1:h:99999999999999999999",
                                    "n1:h:-1",
                                    "n1:h:+1",
                                    "n1:h:1x",
                                    "n1:h: 1",
                                    "n1 :h:1",
                                    "n1: h:1",
                                    "n1:h:1,",
                                    ",n1:h:1",
                                    "n1:h:1,,n2:h:2",
                                    "n1:h:1, ,n2:h:2",
                                    "n1:h:1;n2:h:2",
                                    "n-1:h:1",
                                    "n.1:h:1",
                                    "n1:h/x:1",
                                    "n1:h\x01:1",
                                    "n1:h\xff:1",
                                    "n\xc3\xa9:h:1",
                                    "n1:h:1,n1:i:1",
                                    "n1:h:1,n2:h:1",
                                    "h:1,i:2",
                                    "n1:h:1,i:2",
                                    "h:1,n2:i:2",
                                    "n1:::1:11211",
                                    "n1:[::1:1",
                                    "n1:::1]:1",
                                    "n1:[]:1",
                                    "n1:[h]:1",
                                    "n1:[::1]",
                                    "n1[::1]:1",
                                    "n1:x[::1]:1",
                                    "n1:[::1]x:1",
                                    "n1:[::1%lo]:1",
                                    "http://h:8091/pools",
                                    "redis://h:6379",
                                    "rediss://h:6379",
                                    "/run/memcached.sock",
                                    "a1234567890123456789012345678901:h:1",
                                    "]:1",
                                    "[:1",
                                    "n1:]:1"};
    for (size_t i = 0; i < sizeof t / sizeof *t; i++)
        nodes_are(t[i], NULL, false);
}

static void node_limits(void)
{
    char text[1024] = "", host[300];
    xb_msm_nodes_t n;

    for (int i = 0; i < XB_MSM_NODES_MAX; i++)
        snprintf(text + strlen(text), sizeof text - strlen(text), "%sn%d:h:%d", i ? "," : "", i,
                 i + 1);
    is_str(xb_msm_nodes_parse(text, &n), NULL, "as many nodes as there may be");
    is_int(n.count, XB_MSM_NODES_MAX, "all there");
    snprintf(text + strlen(text), sizeof text - strlen(text), ",more:h:9999");
    is_str(xb_msm_nodes_parse(text, &n), "wants at most 16 nodes", "one more");
    memset(host, 'h', sizeof host);
    memcpy(host + 255, ":1", 3);
    is_str(xb_msm_nodes_parse(host, &n), NULL, "the longest host");
    memcpy(host + 255, "h:1", 4);
    ok(xb_msm_nodes_parse(host, &n) != NULL, "a longer host");
    memset(host, ':', 200);
    ok(xb_msm_nodes_parse(guarded_str(host), &n) != NULL, "colons");
}

/* The grammar is told in MSM's pattern; these say what it takes whatever we take. */
static void supersets(void)
{
    static const struct {
        const char *text;
        bool more;
    } t[] = {
        {"n1:h:1", false},
        {"h:1", false},
        {"a:1,b:2", false}, /* MSM: id a, host "1,b" */
        {"", true},
        {"h", true},
        {"h:", true},
        {":1", true},
        {"n1:h:1:", true},
        {"n1:h:x", true},
        {"n1:h:1;n2:h:2", true},
        {"n1:h:1,,n2:h:2", true},
        {"n1:h:1n2:h:2", true},
        {"n1:h:1,n2:h", true},
        {"n1:h:1,n2:h:2:3", true},
        {"n-1:h:1", true},
        {"n1:h:65536", true},
        {"n1:h:65536,n2:h:1", true},
        {"n1:h:1,n2:2", true},
        {"n1:h:1,:h:2", true},
        {"n1::1", true},
        {":h:1", true},
    };
    for (size_t i = 0; i < sizeof t / sizeof *t; i++)
        is_int(xb_msm_nodes_superset(guarded_str(t[i].text)), t[i].more, "'%s'", t[i].text);
}

static int node_of(const char *list, const char *text)
{
    xb_msm_nodes_t n;
    xb_id_t id;
    if (xb_msm_nodes_parse(list, &n) || !xb_id_parse(span(text), '.', &id))
        return -2;
    return xb_msm_node_of(&n, &id);
}

static void nodes_of_ids(void)
{
    is_int(node_of("n1:h:1,n2:h:2", ID), 0, "first");
    is_int(node_of("n1:h:1,n2:h:2", BASE "-n2.t1"), 1, "second");
    is_int(node_of("n1:h:1,n2:h:2", BASE "-n3.t1"), -1, "unknown");
    is_int(node_of("n1:h:1,n2:h:2", BASE "-n.t1"), -1, "a part of a node's name");
    is_int(node_of("n1:h:1,n2:h:2", BASE "-n11.t1"), -1, "more than a node's name");
    is_int(node_of("n1:h:1,n2:h:2", BASE "-N1.t1"), -1, "another case");
    is_int(node_of("n1:h:1,n2:h:2", BASE ".t1"), -1, "no node named");
    is_int(node_of("n1:h:1", BASE ".t1"), -1, "no node named, one known by id");
    is_int(node_of("h:1", BASE ".t1"), 0, "the only node, without id");
    is_int(node_of("h:1", BASE "-n1.t1"), 0, "the only node, whatever follows the dash");
}

static void prefixes(void)
{
    static const char *const bad[] = {"",           "a b",      "a\tb",
                                      "a\nb",       "a\x7f",    "\xc3\xa9",
                                      "a.b",        "a-b",      "www.example.org",
                                      "lock:",      "lock:x",   "bak:",
                                      "validity:x", "static:x", "host,context",
                                      "a,b"};
    static const char *const good[] = {"x",    "localhost:e3b0c442", "/xnat", "lock", "a_b",
                                       "LOCK:"};
    char longest[140];

    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        const char *wrong = xb_msm_prefix_check(guarded_str(bad[i]));
        ok(wrong && strncmp(wrong, "wants ", 6) == 0, "bad prefix %zu: %s", i,
           wrong ? wrong : "taken");
    }
    for (size_t i = 0; i < sizeof good / sizeof *good; i++)
        is_str(xb_msm_prefix_check(guarded_str(good[i])), NULL, "good: %s", good[i]);
    memset(longest, 'p', sizeof longest);
    longest[138] = '\0';
    ok(xb_msm_prefix_check(longest) != NULL, "138 characters are too many");
    longest[137] = '\0';
    is_str(xb_msm_prefix_check(longest), NULL, "137 are not");
}

static void key_is(const char *kind, const char *prefix, const char *id, const char *want)
{
    char key[XB_MSM_KEY_MAX + 1];
    size_t n = xb_msm_key(key, kind, prefix, span(id));
    is_str(key, want, "key '%s' '%s'", kind, prefix ? prefix : "(null)");
    is_int((long long)n, (long long)strlen(want), "its length");
}

static void keys(void)
{
    char key[XB_MSM_KEY_MAX + 1], longest[XB_ID_MAX], prefix[138], much[XB_MSM_KEY_MAX + 1];

    key_is("", NULL, ID, ID);
    key_is("", "", ID, ID);
    key_is("", "localhost:e3b0c442", ID, "localhost:e3b0c442_" ID);
    key_is("lock:", NULL, ID, "lock:" ID);
    key_is("validity:", "p", ID, "validity:p_" ID);
    key_is("", NULL, "", "");
    key_is("lock:", "p", "", "");
    key_is("", "a b", ID, "");
    memset(longest, 'i', sizeof longest);
    memset(prefix, 'p', 137);
    prefix[137] = '\0';
    is_int((long long)xb_msm_key(key, "validity:", prefix, (xb_span_t){longest, XB_ID_MAX}),
           XB_MSM_KEY_MAX, "the longest prefix and id fit");
    is_int((long long)xb_msm_key(key, "validity::", prefix, (xb_span_t){longest, XB_ID_MAX}), 0,
           "a byte more does not");
    memset(much, 'm', sizeof much);
    is_int((long long)xb_msm_key(key, "", NULL, (xb_span_t){much, XB_MSM_KEY_MAX}),
           XB_MSM_KEY_MAX, "250 bytes");
    is_int((long long)xb_msm_key(key, "", NULL, (xb_span_t){much, sizeof much}), 0,
           "251 bytes");
    is_int((long long)xb_msm_key(key, "x", NULL, (xb_span_t){much, SIZE_MAX / 2}), 0, "huge");
}

static void key_bytes(void)
{
    static const char bytes[] = " \r\n\t\x01\x1f\x7f\x80\xff";
    char key[XB_MSM_KEY_MAX + 1];

    for (size_t i = 0; i < sizeof bytes; i++) { /* the last one is NUL */
        char id[] = {'a', bytes[i]};
        const char *p = guarded(id, sizeof id);
        is_int((long long)xb_msm_key(key, "", NULL, (xb_span_t){p, 2}), 0, "byte %02x in a key",
               (unsigned char)bytes[i]);
        is_str(key, "", "the key is empty then");
        is_int((long long)xb_msm_marker_key(key, "pin", (xb_span_t){p, 2}), 0, "in a marker's");
    }
}

static void marker_keys(void)
{
    char key[XB_MSM_KEY_MAX + 1];
    is_int((long long)xb_msm_marker_key(key, "pin", span(BASE "-n1")), 17 + 35, "pin");
    is_str(key, "xnat-balance:pin:" BASE "-n1", "pin's key");
    xb_msm_marker_key(key, "moved", span(BASE));
    is_str(key, "xnat-balance:moved:" BASE, "moved's key");
    is_int((long long)xb_msm_marker_key(key, "pin", span("")), 0, "no base id, no key");
}

/* A value as TranscoderService writes it, and ways to spoil it. */
typedef struct {
    uint8_t b[256];
    size_t n;
} value_t;

static void put(value_t *v, size_t at, uint64_t number, size_t bytes)
{
    while (bytes-- > 0) {
        v->b[at + bytes] = (uint8_t)number;
        number >>= 8;
    }
}

static value_t value(unsigned version, const char *id)
{
    value_t v = {.n = 44 + strlen(id) + (version == 1 ? 4 : 8) + 20};
    put(&v, 0, version, 2);
    put(&v, 2, v.n - 20, 2);
    put(&v, 4, NOW - 600000, 8);
    put(&v, 12, NOW - 60000, 8);
    put(&v, 20, 1800, 4);
    v.b[24] = '0';
    v.b[25] = '1';
    put(&v, 26, NOW - 30000, 8);
    put(&v, 34, NOW - 29000, 8);
    put(&v, 42, strlen(id), 2);
    memcpy(v.b + 44, id, strlen(id));
    return v;
}

static xb_msm_head_t last_head;

static xb_msm_verdict_t verdict(const value_t *v, size_t got, int64_t now, int32_t margin)
{
    const uint8_t *p = (const uint8_t *)guarded(v->b, got);
    return xb_msm_value_check(p, got, span(ID), now, margin, &last_head);
}

static void spoilt(size_t at, uint64_t number, size_t bytes, int want, const char *what)
{
    value_t v = value(2, ID);
    put(&v, at, number, bytes);
    is_int(verdict(&v, v.n, NOW, 30), want, "%s", what);
}

static void good_values(void)
{
    value_t v = value(2, ID), one = value(1, ID);

    is_int(verdict(&v, v.n, NOW, 30), XB_MSM_GOOD, "version 2");
    is_int(last_head.created_ms, NOW - 600000, "creation");
    is_int(last_head.last_accessed_ms, NOW - 60000, "last access");
    is_int(last_head.this_accessed_ms, NOW - 30000, "this access");
    is_int(last_head.last_backup_ms, NOW - 29000, "last backup");
    is_int(last_head.max_inactive_s, 1800, "max inactive");
    is_int(verdict(&one, one.n, NOW, 30), XB_MSM_GOOD, "version 1");
    is_int(verdict(&v, 44 + strlen(ID), NOW, 30), XB_MSM_GOOD, "no byte behind the id needed");
    spoilt(24, '1', 1, XB_MSM_GOOD, "a new session");
    spoilt(34, 0, 8, XB_MSM_GOOD, "never backed up before");
    spoilt(2, 32767, 2, XB_MSM_GOOD, "the farthest attributes that MSM can read");
    spoilt(26, NOW + 3600000, 8, XB_MSM_GOOD, "a clock an hour ahead");
}

static void cut_values(void)
{
    value_t v = value(2, ID);
    bool right = true;
    for (size_t got = 0; got < 44; got++)
        right = right && verdict(&v, got, NOW, 30) == XB_MSM_SHORT;
    ok(right, "under 44 bytes: short");
    right = true;
    for (size_t got = 44; got < 44 + strlen(ID); got++)
        right = right && verdict(&v, got, NOW, 30) == XB_MSM_INVALID;
    ok(right, "cut within the id: invalid, nothing read behind");
    v.b[0] = 1;
    is_int(xb_msm_value_check(v.b, 1, span(ID), NOW, 30, &last_head), XB_MSM_SHORT, "a ping");
}

static void other_values(void)
{
    value_t shorter = value(2, BASE "-n1.tomcat"), longer = value(2, ID "1"),
            none = value(2, "");
    value_t other = value(2, BASE "-n1.tomcat2"), huge = value(2, ID);
    xb_msm_head_t head;

    is_int(verdict(&shorter, shorter.n, NOW, 30), XB_MSM_OTHERID, "a part of the id");
    is_int(verdict(&longer, longer.n, NOW, 30), XB_MSM_OTHERID, "more than the id");
    is_int(verdict(&none, none.n, NOW, 30), XB_MSM_OTHERID, "no id");
    is_int(verdict(&other, other.n, NOW, 30), XB_MSM_OTHERID, "another route");
    put(&huge, 42, 65535, 2);
    is_int(verdict(&huge, huge.n, NOW, 30), XB_MSM_OTHERID, "an id of 65535 bytes");
    is_int(xb_msm_value_check(none.b, none.n, span(""), NOW, 30, &head), XB_MSM_OTHERID,
           "no id wanted, none there");
}

static void contradictions(void)
{
    size_t least = 44 + strlen(ID) + 8;

    spoilt(0, 0, 2, XB_MSM_VERSION, "version 0");
    spoilt(0, 3, 2, XB_MSM_VERSION, "version 3");
    spoilt(0, 0x0200, 2, XB_MSM_VERSION, "version 2 in the other byte order");
    spoilt(25, '0', 1, XB_MSM_INVALID, "invalidated");
    spoilt(25, 1, 1, XB_MSM_INVALID, "valid is a digit, not a number");
    spoilt(24, 0, 1, XB_MSM_INVALID, "new is a digit");
    spoilt(2, 0, 2, XB_MSM_INVALID, "attributes in the header");
    spoilt(2, least - 1, 2, XB_MSM_INVALID, "attributes in the lengths behind the id");
    spoilt(2, least, 2, XB_MSM_GOOD, "attributes right behind the lengths");
    spoilt(2, 32768, 2, XB_MSM_INVALID, "attributes where MSM reads a negative offset");
    spoilt(4, 0, 8, XB_MSM_INVALID, "never created");
    spoilt(4, UINT64_MAX, 8, XB_MSM_INVALID, "created before 1970");
    spoilt(4, INT64_MAX, 8, XB_MSM_INVALID, "created in the far future");
    spoilt(4, NOW - 30000 + 3600001, 8, XB_MSM_INVALID, "created after it was used");
    spoilt(12, (uint64_t)INT64_MIN, 8, XB_MSM_INVALID, "the smallest last access");
    spoilt(12, INT64_MAX, 8, XB_MSM_INVALID, "the greatest last access");
    spoilt(26, 0, 8, XB_MSM_INVALID, "never accessed");
    spoilt(26, (uint64_t)INT64_MIN, 8, XB_MSM_INVALID, "the smallest this access");
    spoilt(26, INT64_MAX, 8, XB_MSM_INVALID, "the greatest this access");
    spoilt(26, NOW + 3600001, 8, XB_MSM_INVALID, "a clock more than an hour ahead");
    spoilt(34, UINT64_MAX, 8, XB_MSM_INVALID, "backed up before 1970");
    spoilt(34, NOW + 3600001, 8, XB_MSM_INVALID, "backed up in the future");
}

static void expiry(void)
{
    value_t v = value(2, ID);
    int64_t end = NOW - 30000 + 1800000;

    is_int(verdict(&v, v.n, end - 30001, 30), XB_MSM_GOOD, "30.001 s left, 30 wanted");
    is_int(verdict(&v, v.n, end - 30000, 30), XB_MSM_EXPIRING, "30 s left");
    is_int(verdict(&v, v.n, end, 0), XB_MSM_EXPIRING, "dead");
    is_int(verdict(&v, v.n, end - 1, 0), XB_MSM_GOOD, "a millisecond left, none wanted");
    is_int(verdict(&v, v.n, INT64_MAX, INT32_MIN), XB_MSM_EXPIRING, "the end of time");
    is_int(verdict(&v, v.n, NOW, INT32_MAX), XB_MSM_EXPIRING, "68 years wanted");
    is_int(verdict(&v, v.n, 0, 30), XB_MSM_INVALID, "no clock: all is in the future");
    is_int(verdict(&v, v.n, INT64_MIN, 30), XB_MSM_INVALID, "a clock before 1970");
    put(&v, 20, 0, 4);
    is_int(verdict(&v, v.n, INT64_MAX, 30), XB_MSM_GOOD, "max inactive 0: never");
    put(&v, 20, UINT32_MAX, 4);
    is_int(verdict(&v, v.n, NOW, INT32_MAX), XB_MSM_GOOD, "max inactive -1: never");
    is_int(last_head.max_inactive_s, -1, "and it is told as -1");
    put(&v, 20, INT32_MAX, 4);
    is_int(verdict(&v, v.n, NOW, 30), XB_MSM_GOOD, "the greatest max inactive");
}

static xb_msm_verdict_t validity(int32_t max_s, int64_t last_ms, int64_t this_ms, size_t total,
                                 int64_t now_ms)
{
    value_t v = {.n = XB_MSM_VALIDITY_SIZE};

    put(&v, 0, (uint32_t)max_s, 4);
    put(&v, 4, (uint64_t)last_ms, 8);
    put(&v, 12, (uint64_t)this_ms, 8);
    return xb_msm_validity_check(v.b, total, now_ms, 30, &last_head);
}

static void validities(void)
{
    int64_t end = NOW + 1800000;

    is_int(validity(1800, NOW - 1, NOW, 20, NOW), XB_MSM_GOOD, "validity");
    is_int(last_head.max_inactive_s, 1800, "its max inactive");
    is_int(last_head.last_accessed_ms, NOW - 1, "its last access");
    is_int(last_head.this_accessed_ms, NOW, "its this access");
    is_int(validity(1800, NOW, NOW, 19, NOW), XB_MSM_SHORT, "19 bytes");
    is_int(validity(1800, NOW, NOW, 21, NOW), XB_MSM_SHORT, "21 bytes");
    is_int(validity(1800, NOW, NOW, 0, NOW), XB_MSM_SHORT, "nothing");
    is_int(validity(1800, NOW, NOW, 20, end - 30001), XB_MSM_GOOD, "30.001 s left");
    is_int(validity(1800, NOW, NOW, 20, end - 30000), XB_MSM_EXPIRING, "30 s left");
    is_int(validity(0, NOW, NOW, 20, INT64_MAX), XB_MSM_GOOD, "max inactive 0: never");
    is_int(validity(-1, NOW, NOW, 20, INT64_MAX), XB_MSM_GOOD, "max inactive -1: never");
    is_int(validity(1800, 0, NOW, 20, NOW), XB_MSM_INVALID, "no last access");
    is_int(validity(1800, NOW, INT64_MIN, 20, NOW), XB_MSM_INVALID, "the smallest access");
    is_int(validity(1800, NOW, NOW + 3600001, 20, NOW), XB_MSM_INVALID, "a clock far ahead");
    is_int(validity(1800, NOW, INT64_MAX, 20, INT64_MIN), XB_MSM_INVALID,
           "the greatest access");
}

int main(void)
{
    node_lists();
    bad_node_lists();
    node_limits();
    supersets();
    nodes_of_ids();
    prefixes();
    keys();
    key_bytes();
    marker_keys();
    good_values();
    cut_values();
    other_values();
    contradictions();
    expiry();
    validities();
    return done();
}
