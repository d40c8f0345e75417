/* SPDX-License-Identifier: Apache-2.0 */
/* MSM's node list, storage keys and the head of its session values. */
#include "xb_msm.h"

#include <arpa/inet.h>
#include <stdbool.h>
#include <string.h>

#define HEAD_MIN 44                     /* up to the id */
#define CLOCK_SLACK_MS INT64_C(3600000) /* by which the Tomcats' clocks and ours may differ */

static const char want_nodes[] = "wants nodes like n1:host:11211, separated by commas";

/* \s, \d and \w of Java's Pattern, in which MSM's grammar is written. */
static bool is_space(char c)
{
    return c == ' ' || (c >= '\t' && c <= '\r');
}

static bool is_digit(char c)
{
    return c >= '0' && c <= '9';
}

static bool is_word(char c)
{
    return c == '_' || is_digit(c) || (c >= 'A' && c <= 'Z') || (c >= 'a' && c <= 'z');
}

static bool all(xb_span_t s, bool (*test)(char))
{
    for (size_t i = 0; i < s.n; i++) {
        if (!test(s.p[i]))
            return false;
    }
    return s.n > 0;
}

static bool is_host(char c)
{
    return is_word(c) || c == '.' || c == '-';
}

static bool copy_text(char *out, size_t size, xb_span_t s)
{
    if (s.n >= size)
        return false;
    memcpy(out, s.p, s.n);
    out[s.n] = '\0';
    return true;
}

/* -1: not a number up to 65535. */
static long read_port(xb_span_t s)
{
    long port = 0;
    if (!all(s, is_digit))
        return -1;
    for (size_t i = 0; i < s.n && port <= 65535; i++)
        port = port * 10 + (s.p[i] - '0');
    return port <= 65535 ? port : -1;
}

static bool read_ipv6(xb_span_t inner, xb_msm_node_t *out)
{
    struct in6_addr unused;
    return copy_text(out->host, sizeof out->host, inner) &&
           inet_pton(AF_INET6, out->host, &unused) == 1;
}

/* `id:` or nothing, all that precedes the host. */
static const char *read_node_id(xb_span_t s, xb_msm_node_t *out)
{
    xb_span_t id = {s.p, s.n ? s.n - 1 : 0};
    if (s.n == 0)
        return NULL;
    if (s.p[id.n] != ':' || !all(id, is_word))
        return "wants node ids of letters, digits and _ only";
    if (!copy_text(out->id, sizeof out->id, id))
        return "wants node ids of at most 31 characters";
    return NULL;
}

/* One `[id:]host:port`; `out` is zeroed. */
static const char *read_node(xb_span_t s, xb_msm_node_t *out)
{
    const char *colon = memrchr(s.p, ':', s.n), *at;
    xb_span_t host = s, port;
    long number;

    if (!colon)
        return want_nodes;
    host.n = (size_t)(colon - s.p);
    port = (xb_span_t){colon + 1, s.n - host.n - 1};
    number = read_port(port);
    if (number < 1)
        return "wants a port from 1 to 65535 at the end of each node";
    out->port = (uint16_t)number;
    if (host.n && host.p[host.n - 1] == ']') {
        at = memchr(host.p, '[', host.n);
        if (!at || !read_ipv6((xb_span_t){at + 1, (size_t)(colon - at) - 2}, out))
            return "wants an IPv6 address between [ and ]";
    }
    else {
        at = memchr(host.p, ':', host.n);
        at = at ? at + 1 : host.p;
        host = (xb_span_t){at, (size_t)(colon - at)};
        if (!all(host, is_host) || !copy_text(out->host, sizeof out->host, host))
            return "wants a host name or address in each node, IPv6 in brackets";
    }
    return read_node_id((xb_span_t){s.p, (size_t)(at - s.p)}, out);
}

/* Checks the newest node against those before it. */
static const char *check_newest(const xb_msm_nodes_t *nodes)
{
    const xb_msm_node_t *last = &nodes->node[nodes->count - 1];

    for (const xb_msm_node_t *n = nodes->node; n < last; n++) {
        if (!*n->id || !*last->id)
            return "wants an id for each node if there are several";
        if (strcmp(n->id, last->id) == 0)
            return "wants each node id only once";
        if (n->port == last->port && strcmp(n->host, last->host) == 0)
            return "wants each host and port only once";
    }
    return NULL;
}

static const char *skip_space(const char *p)
{
    while (is_space(*p))
        p++;
    return p;
}

const char *xb_msm_nodes_parse(const char *text, xb_msm_nodes_t *out)
{
    const char *p = skip_space(text), *wrong;
    xb_span_t item;

    memset(out, 0, sizeof *out);
    if (strstr(text, "://"))
        return "wants memcached nodes; Couchbase and Redis are not supported";
    do {
        item = (xb_span_t){p, strcspn(p, ", \t\n\v\f\r")};
        if (item.n == 0)
            return want_nodes;
        if (out->count == XB_MSM_NODES_MAX)
            return "wants at most 16 nodes";
        wrong = read_node(item, &out->node[out->count++]);
        if (!wrong)
            wrong = check_newest(out);
        if (wrong)
            return wrong;
        p = skip_space(p + item.n);
        if (*p != ',')
            continue;
        p = skip_space(p + 1);
        if (!*p)
            return want_nodes;
    } while (*p);
    return NULL;
}

/* `<port><white space or one comma><id>`: what stands between two colons of different nodes. */
static bool msm_joint(xb_span_t s)
{
    size_t i = 0, k;

    while (i < s.n && is_digit(s.p[i]))
        i++;
    k = i;
    if (k < s.n && s.p[k] == ',')
        k++;
    else {
        while (k < s.n && is_space(s.p[k]))
            k++;
    }
    return k > i && read_port((xb_span_t){s.p, i}) >= 0 &&
           all((xb_span_t){s.p + k, s.n - k}, is_word);
}

/* MSM matches the whole string with (\w+):([^:]+):(\d+)(?:(?:\s+|,)(\w+):([^:]+):(\d+))* or
 * ([^:]+):(\d+); cut at the colons, each piece decides for itself. */
bool xb_msm_nodes_superset(const char *text)
{
    size_t colons = 0, at = 0;
    bool fits = true;

    for (const char *p = text; *p; p++)
        colons += *p == ':';
    for (const char *p = text; fits && at <= colons; at++) {
        xb_span_t piece = {p, strcspn(p, ":")};
        p += piece.n + 1;
        if (at == colons)
            fits = colons > 0 && read_port(piece) >= 0;
        else if (colons == 1 || at % 2)
            fits = piece.n > 0;
        else
            fits = at ? msm_joint(piece) : all(piece, is_word);
    }
    return !fits || (colons > 1 && colons % 2);
}

int xb_msm_node_of(const xb_msm_nodes_t *nodes, const xb_id_t *id)
{
    if (nodes->count == 1 && !*nodes->node[0].id)
        return 0;
    for (unsigned i = 0; i < nodes->count; i++) {
        const char *name = nodes->node[i].id;
        if (strlen(name) == id->node.n && !memcmp(name, id->node.p, id->node.n))
            return (int)i;
    }
    return -1;
}

static bool is_key_byte(char c)
{
    return c > ' ' && c < 0x7f;
}

static bool starts(const char *text, const char *with)
{
    return strncmp(text, with, strlen(with)) == 0;
}

const char *xb_msm_prefix_check(const char *prefix)
{
    xb_span_t s = {prefix, strlen(prefix)};

    if (s.n == 0)
        return "wants a prefix of at least one character";
    if (s.n > XB_MSM_KEY_MAX - sizeof "validity:_" + 1 - XB_ID_MAX)
        return "wants a prefix of at most 137 characters, for a key has at most 250";
    if (!all(s, is_key_byte))
        return "wants a prefix of printable ASCII characters without spaces";
    if (strpbrk(prefix, ".-"))
        return "wants a prefix without . and -, which hide the memcached node from MSM";
    if (starts(prefix, "lock:") || starts(prefix, "bak:") || starts(prefix, "validity:"))
        return "wants a prefix that does not begin with lock:, bak: or validity:";
    if (strchr(prefix, ',') || starts(prefix, "static:"))
        return "wants the prefix as it stands in the keys, not MSM's tokens that make it";
    return NULL;
}

/* Appends to a key; `*n` > XB_MSM_KEY_MAX marks one that cannot be. */
static void key_add(char out[XB_MSM_KEY_MAX + 1], size_t *n, xb_span_t s)
{
    if (*n > XB_MSM_KEY_MAX || s.n == 0)
        return;
    if (s.n > XB_MSM_KEY_MAX - *n || !all(s, is_key_byte)) {
        *n = XB_MSM_KEY_MAX + 1;
        return;
    }
    memcpy(out + *n, s.p, s.n);
    *n += s.n;
}

static void key_add_text(char out[XB_MSM_KEY_MAX + 1], size_t *n, const char *text)
{
    key_add(out, n, (xb_span_t){text, strlen(text)});
}

static size_t key_end(char out[XB_MSM_KEY_MAX + 1], size_t n, xb_span_t id)
{
    key_add(out, &n, id);
    if (id.n == 0 || n > XB_MSM_KEY_MAX)
        n = 0;
    out[n] = '\0';
    return n;
}

size_t xb_msm_key(char out[XB_MSM_KEY_MAX + 1], const char *kind, const char *prefix,
                  xb_span_t id)
{
    size_t n = 0;

    key_add_text(out, &n, kind);
    if (prefix && *prefix) {
        key_add_text(out, &n, prefix);
        key_add_text(out, &n, "_");
    }
    return key_end(out, n, id);
}

size_t xb_msm_marker_key(char out[XB_MSM_KEY_MAX + 1], const char *what, xb_span_t base)
{
    size_t n = 0;

    key_add_text(out, &n, "xnat-balance:");
    key_add_text(out, &n, what);
    key_add_text(out, &n, ":");
    return key_end(out, n, base);
}

static uint64_t load_be(const uint8_t *p, size_t n)
{
    uint64_t number = 0;
    while (n-- > 0)
        number = number << 8 | *p++;
    return number;
}

static int64_t load_i64(const uint8_t *p)
{
    return (int64_t)load_be(p, 8); /* two's complement, as gcc and clang define it */
}

/* Whether Tomcat could have written these times; both are >= 0, so no difference overflows. */
static bool times_agree(const xb_msm_head_t *h, int64_t now_ms)
{
    return h->created_ms > 0 && h->last_accessed_ms > 0 && h->this_accessed_ms > 0 &&
           h->last_backup_ms >= 0 && h->this_accessed_ms - now_ms <= CLOCK_SLACK_MS &&
           h->last_backup_ms - now_ms <= CLOCK_SLACK_MS &&
           h->created_ms - h->this_accessed_ms <= CLOCK_SLACK_MS &&
           h->last_accessed_ms - h->this_accessed_ms <= CLOCK_SLACK_MS;
}

static bool fields_agree(const uint8_t *value, unsigned version, size_t id_len)
{
    /* The id is followed by lengths of 2 bytes each: 2 in version 1, 4 in version 2. */
    size_t least = HEAD_MIN + id_len + (version == 1 ? 4 : 8);
    size_t attributes = (size_t)load_be(value + 2, 2);

    /* MSM reads the offset as a signed 16-bit number. */
    return attributes >= least && attributes <= INT16_MAX &&
           (value[24] == '0' || value[24] == '1') && value[25] == '1';
}

static bool is_expiring(const xb_msm_head_t *h, int64_t now_ms, int32_t margin_s)
{
    int64_t left_ms = (int64_t)h->max_inactive_s * 1000 - (now_ms - h->this_accessed_ms);
    return h->max_inactive_s > 0 && left_ms <= (int64_t)margin_s * 1000;
}

xb_msm_verdict_t xb_msm_value_check(const uint8_t *value, size_t got, xb_span_t id,
                                    int64_t now_ms, int32_t margin_s, xb_msm_head_t *out)
{
    unsigned version;
    size_t id_len;
    int64_t now = now_ms > 0 ? now_ms : 0;

    memset(out, 0, sizeof *out);
    if (got < HEAD_MIN)
        return XB_MSM_SHORT;
    version = (unsigned)load_be(value, 2);
    if (version != 1 && version != 2)
        return XB_MSM_VERSION;
    out->created_ms = load_i64(value + 4);
    out->last_accessed_ms = load_i64(value + 12);
    out->max_inactive_s = (int32_t)load_be(value + 20, 4);
    out->this_accessed_ms = load_i64(value + 26);
    out->last_backup_ms = load_i64(value + 34);
    id_len = (size_t)load_be(value + 42, 2);
    if (id.n == 0 || id_len != id.n)
        return XB_MSM_OTHERID;
    if (id_len > got - HEAD_MIN)
        return XB_MSM_INVALID;
    if (memcmp(value + HEAD_MIN, id.p, id_len) != 0)
        return XB_MSM_OTHERID;
    if (!fields_agree(value, version, id_len) || !times_agree(out, now))
        return XB_MSM_INVALID;
    return is_expiring(out, now, margin_s) ? XB_MSM_EXPIRING : XB_MSM_GOOD;
}

xb_msm_verdict_t xb_msm_validity_check(const uint8_t *value, size_t total, int64_t now_ms,
                                       int32_t margin_s, xb_msm_head_t *out)
{
    int64_t now = now_ms > 0 ? now_ms : 0;

    if (total != XB_MSM_VALIDITY_SIZE)
        return XB_MSM_SHORT;
    out->max_inactive_s = (int32_t)load_be(value, 4);
    out->last_accessed_ms = load_i64(value + 4);
    out->this_accessed_ms = load_i64(value + 12);
    if (out->last_accessed_ms <= 0 || out->this_accessed_ms <= 0 ||
        out->this_accessed_ms - now > CLOCK_SLACK_MS)
        return XB_MSM_INVALID;
    return is_expiring(out, now, margin_s) ? XB_MSM_EXPIRING : XB_MSM_GOOD;
}
