/* SPDX-License-Identifier: Apache-2.0 */
/* Session ids: where a request or answer carries one, and what its parts are.
 * Pure functions over spans of the caller's memory, any thread. Finding follows
 * mod_proxy_balancer 2.4.64+ to the letter (URL first, then Cookie, first match wins), because
 * a request that the module reads in another way than stock httpd would be routed twice. */
#ifndef XB_ID_H
#define XB_ID_H

#include <stdbool.h>
#include <stddef.h>

/* Longest id that the module follows (base id, node and route); a longer one is sticky by stock
 * code and never moves. */
#define XB_ID_MAX 103

typedef struct {
    const char *p;
    size_t n;
} xb_span_t;

/* Parts of `<base>[.<route>]`, base = `<text>[-<store node>]`; all inside `whole`. */
typedef struct {
    xb_span_t whole;
    xb_span_t base;  /* survives a move: all before the first separator */
    xb_span_t node;  /* memcached node that holds the session; n == 0: none named */
    xb_span_t route; /* jvmRoute; n == 0: none */
} xb_id_t;

/* Splits an id at the first `sep` (route) and the first '-' of the base (node). False if it is
 * empty, longer than XB_ID_MAX, has nothing before its node or route, or has a byte outside
 * [A-Za-z0-9_.:-]: such an id is never followed, stored, logged or put in a memcached key.
 * sep 0 (stickysessionsep=Off): false, for such a value is a route and names no session. */
bool xb_id_parse(xb_span_t text, char sep, xb_id_t *out);

/* Is this its route? Not if there is no id. */
bool xb_id_names_route(const xb_id_t *id, const char *route);

/* The value of path or query parameter `name` as mod_proxy_balancer's get_path_param() finds it
 * in `url` (a path, or path?query). `scolon` = scolonpathdelim=On. False: none. */
bool xb_id_in_url(const char *url, const char *name, bool scolon, xb_span_t *value);

/* The value of cookie `name` as mod_proxy_balancer's get_cookie_param() finds it in the
 * (merged) Cookie header. False: none. */
bool xb_id_in_cookie(const char *header, const char *name, xb_span_t *value);

/* Makes every place where xb_id_in_url could find `name` unfindable, in place, same length,
 * URL-legal bytes only. Returns the number of places changed. */
size_t xb_id_mask_url(char *url, const char *name);

/* What a Set-Cookie header says of the session cookie `name`. */
typedef struct {
    xb_span_t value; /* n == 0: the cookie is deleted or empty */
    xb_span_t path;  /* n == 0: no Path attribute */
    bool deleted;    /* Max-Age<=0 or an empty value */
} xb_set_cookie_t;

/* False if the header sets another cookie. Attribute names in any case (RFC 6265). */
bool xb_id_in_set_cookie(const char *header, const char *name, xb_set_cookie_t *out);

#endif
