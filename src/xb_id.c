/* SPDX-License-Identifier: Apache-2.0 */
/* Finding, masking and splitting session ids as mod_proxy_balancer and MSM do. */
#include "xb_id.h"

#include <stdint.h>
#include <string.h>
#include <strings.h>

/* isspace() of the C locale, in which httpd runs, for any byte. */
static bool is_space(char c)
{
    return c == ' ' || (c >= '\t' && c <= '\r');
}

static bool is_digit(char c)
{
    return c >= '0' && c <= '9';
}

/* Sixteen bytes at once; compilers for any machine know such vectors. */
typedef unsigned char bytes_t __attribute__((vector_size(16)));

/* All ones where a byte may stand in an id: letters, digits, - . : _ */
static inline bytes_t legal(bytes_t c)
{
    bytes_t letter = (c | 0x20) - 'a', digit = c - '0', dash = c - '-';
    return (bytes_t)(letter < 26) | (bytes_t)(digit <= ':' - '0') | (bytes_t)(dash < 2) |
           (bytes_t)(c == '_');
}

static bool is_legal(xb_span_t text)
{
    bytes_t good = ~(bytes_t){0}, part;
    uint64_t half[2];
    for (; text.n >= sizeof part; text.p += sizeof part, text.n -= sizeof part) {
        memcpy(&part, text.p, sizeof part);
        good &= legal(part);
    }
    part = (bytes_t){0} + '0';
    memcpy(&part, text.p, text.n);
    good &= legal(part);
    memcpy(half, &good, sizeof half);
    return (half[0] & half[1]) == UINT64_MAX;
}

/* What follows the first `c`, and what precedes it in `text`. No `c`: all stays in `text`. */
static xb_span_t cut_at(xb_span_t *text, char c)
{
    const char *at = memchr(text->p, c, text->n);
    xb_span_t rest = {text->p + text->n, 0};
    if (at) {
        rest.p = at + 1;
        rest.n = text->n - (size_t)(at + 1 - text->p);
        text->n = (size_t)(at - text->p);
    }
    return rest;
}

bool xb_id_parse(xb_span_t text, char sep, xb_id_t *out)
{
    xb_span_t head;

    if (text.n == 0 || text.n > XB_ID_MAX || sep == '\0' || !is_legal(text))
        return false;
    out->whole = out->base = text;
    out->route = cut_at(&out->base, sep);
    head = out->base;
    out->node = cut_at(&head, '-');
    return head.n > 0; /* "-n1.t1" is a node without a session */
}

bool xb_id_names_route(const xb_id_t *id, const char *route)
{
    return id->whole.n && strncmp(route, id->route.p, id->route.n) == 0 && !route[id->route.n];
}

bool xb_id_in_url(const char *url, const char *name, bool scolon, xb_span_t *value)
{
    const char *delims = scolon ? ";?&" : "?&";
    size_t len = strlen(name);
    const char *p = len ? strstr(url, name) : NULL;

    while (p) {
        p += len;
        if (*p == '=') {
            p++;
            p += strspn(p, delims); /* as apr_strtok(): an empty value is skipped */
            value->p = p;
            value->n = strcspn(p, delims);
            return value->n > 0; /* stock looks no further either */
        }
        if (!*p) /* stock reads past the end here, and after a last '=' */
            return false;
        p = strstr(p + 1, name); /* so "JJ=x" has no J: stock's way */
    }
    return false;
}

static bool cookie_starts(const char *header, const char *p)
{
    return p == header || p[-1] == ';' || p[-1] == ',' || is_space(p[-1]);
}

static const char *skip_space(const char *p)
{
    while (is_space(*p))
        p++;
    return p;
}

bool xb_id_in_cookie(const char *header, const char *name, xb_span_t *value)
{
    size_t len = strlen(name);
    const char *p = len ? strstr(header, name) : NULL;

    while (p) {
        if (cookie_starts(header, p)) {
            p = skip_space(p + len);
            if (*p == '=' && p[1]) {
                value->p = p + 1;
                value->n = strcspn(p + 1, ";,");
                return true;
            }
            if (!*p || !p[1]) /* stock reads past the end here */
                return false;
            p++;
        }
        p = strstr(p + 1, name);
    }
    return false;
}

/* A byte legal in URLs and cookies that `name` does not have: where it stands, no occurrence of
 * the name can begin or go on. Names are at most 63 bytes long (mod_proxy), these are 66. */
static char mask_byte(const char *name)
{
    static const char legal[] = "_~-0123456789abcdefghijklmnopqrstuvwxyz"
                                "ABCDEFGHIJKLMNOPQRSTUVWXYZ.";
    const char *p = legal;
    while (*p && strchr(name, *p))
        p++;
    return *p;
}

size_t xb_id_mask_url(char *url, const char *name)
{
    size_t len = strlen(name), changed = 0;
    char mask = mask_byte(name);

    if (len == 0 || !mask)
        return 0;
    /* An empty value counts too: stock searches path and query as one string. */
    for (char *p = strstr(url, name); p; p = strstr(p + 1, name)) {
        if (p[len] == '=') {
            *p = mask;
            changed++;
        }
    }
    return changed;
}

static xb_span_t trim(xb_span_t s)
{
    for (; s.n && (*s.p == ' ' || *s.p == '\t'); s.p++)
        s.n--;
    while (s.n && (s.p[s.n - 1] == ' ' || s.p[s.n - 1] == '\t'))
        s.n--;
    return s;
}

static bool is_name(xb_span_t s, const char *lower)
{
    return s.n == strlen(lower) && strncasecmp(s.p, lower, s.n) == 0;
}

/* RFC 6265, 5.2.2: `*dead` stays as it is if the value is no number. */
static void read_max_age(xb_span_t v, bool *dead)
{
    bool zero = true;
    size_t i = v.n && *v.p == '-';

    if (i == v.n)
        return;
    for (size_t k = i; k < v.n; k++) {
        if (!is_digit(v.p[k]))
            return;
        zero = zero && v.p[k] == '0';
    }
    *dead = zero || i == 1;
}

bool xb_id_in_set_cookie(const char *header, const char *name, xb_set_cookie_t *out)
{
    xb_span_t rest = {header, strlen(header)}, part = rest, value;
    size_t len = strlen(name);
    bool dead = false;

    rest = cut_at(&part, ';');
    if (!memchr(part.p, '=', part.n))
        return false;
    value = cut_at(&part, '=');
    part = trim(part);
    if (len == 0 || part.n != len || memcmp(part.p, name, len) != 0)
        return false;
    out->value = trim(value);
    out->path = (xb_span_t){header, 0};
    while (rest.n) { /* the last attribute of a name counts */
        part = rest;
        rest = cut_at(&part, ';');
        value = trim(cut_at(&part, '='));
        part = trim(part);
        if (is_name(part, "path"))
            out->path = value.n && *value.p == '/' ? value : (xb_span_t){header, 0};
        else if (is_name(part, "max-age"))
            read_max_age(value, &dead);
    }
    out->deleted = dead || out->value.n == 0;
    return true;
}
