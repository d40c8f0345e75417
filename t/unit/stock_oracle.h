/* SPDX-License-Identifier: Apache-2.0 */
/* What stock mod_proxy_balancer does to find a session id, told anew with indexes: the oracle
 * that xb_id is compared with. Where stock would read behind the string, nothing is found. */
#ifndef STOCK_ORACLE_H
#define STOCK_ORACLE_H

#include <stdbool.h>
#include <string.h>

#include "xb_id.h"

static long oracle_next(const char *text, size_t from, const char *name)
{
    size_t n = strlen(text), len = strlen(name);
    for (size_t i = from; i + len <= n; i++) {
        if (memcmp(text + i, name, len) == 0)
            return (long)i;
    }
    return -1;
}

static bool oracle_url(const char *url, const char *name, bool scolon, xb_span_t *value)
{
    size_t n = strlen(url), from = 0;
    for (long hit; (hit = oracle_next(url, from, name)) >= 0;) {
        size_t i = (size_t)hit + strlen(name);
        if (i < n && url[i] == '=' && ++i < n) {
            size_t end;
            while (i < n && (url[i] == '?' || url[i] == '&' || (scolon && url[i] == ';')))
                i++;
            for (end = i; end < n && url[end] != '?' && url[end] != '&'; end++) {
                if (scolon && url[end] == ';')
                    break;
            }
            *value = (xb_span_t){url + i, end - i};
            return i < n;
        }
        from = i + 1; /* the byte behind the name, or behind its '=', is skipped */
    }
    return false;
}

static bool oracle_blank(char c)
{
    return c == ' ' || c == '\t' || c == '\n' || c == '\v' || c == '\f' || c == '\r';
}

static bool oracle_cookie(const char *header, const char *name, xb_span_t *value)
{
    size_t n = strlen(header), from = 0;
    for (long hit; (hit = oracle_next(header, from, name)) >= 0;) {
        size_t i = (size_t)hit;
        char before = i ? header[i - 1] : ';';
        if (before == ';' || before == ',' || oracle_blank(before)) {
            bool equals;
            i += strlen(name);
            while (i < n && oracle_blank(header[i]))
                i++;
            equals = i < n && header[i] == '=';
            i++; /* also over a byte that is no '=' */
            if (equals && i < n) {
                size_t end = i;
                while (end < n && header[end] != ';' && header[end] != ',')
                    end++;
                *value = (xb_span_t){header + i, end - i};
                return true;
            }
        }
        from = i + 1;
    }
    return false;
}

#endif
