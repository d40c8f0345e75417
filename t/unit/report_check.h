/* SPDX-License-Identifier: Apache-2.0 */
/* Is a text JSON, balanced HTML, Prometheus 0.0.4? Strict, small, for the tests of the report.
 * Each check returns NULL or the place of the first fault. */
#ifndef REPORT_CHECK_H
#define REPORT_CHECK_H

#include <ctype.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>

static bool check_utf8(const unsigned char *s)
{
    while (*s) {
        int n = *s < 0x80 ? 0 : *s >> 5 == 6 ? 1 : *s >> 4 == 14 ? 2 : *s >> 3 == 30 ? 3 : -1;
        unsigned code = n == 0 ? *s : n == 1 ? *s & 31u : n == 2 ? *s & 15u : *s & 7u;
        static const unsigned least[] = {0, 0x80, 0x800, 0x10000};
        int i;
        if (n < 0)
            return false;
        for (i = 0; i < n; i++) {
            if (*++s >> 6 != 2)
                return false;
            code = code << 6 | (*s & 63u);
        }
        if (code < least[n] || code > 0x10ffff || (code >= 0xd800 && code <= 0xdfff))
            return false;
        s++;
    }
    return true;
}

static const char *skip_json(const char *s, bool *bad);

static const char *skip_space(const char *s)
{
    return s + strspn(s, " \n\t\r");
}

static const char *skip_string(const char *s, bool *bad)
{
    for (s++; *s != '"'; s++) {
        if ((unsigned char)*s < 0x20) {
            *bad = true;
            return s;
        }
        if (*s == '\\' && s[1] == 'u' && strspn(s + 2, "0123456789abcdef") >= 4) {
            s += 5;
        }
        else if (*s == '\\') {
            *bad = true;
            return s;
        }
    }
    return s + 1;
}

static const char *skip_number(const char *s, bool *bad)
{
    s += *s == '-';
    *bad |= !isdigit((unsigned char)*s) || (*s == '0' && isdigit((unsigned char)s[1]));
    s += strspn(s, "0123456789");
    if (*s == '.') {
        *bad |= !isdigit((unsigned char)s[1]);
        s += 1 + strspn(s + 1, "0123456789");
    }
    return s;
}

/* Elements of an array or members of an object, behind the opening bracket. */
static const char *skip_elements(const char *s, char close, bool *bad)
{
    s = skip_space(s);
    if (*s == close)
        return s + 1;
    while (!*bad) {
        if (close == '}') {
            s = skip_space(s);
            *bad |= *s != '"';
            if (*bad)
                return s;
            s = skip_space(skip_string(s, bad));
            *bad |= *s != ':';
            if (*bad)
                return s;
            s++;
        }
        s = skip_space(skip_json(s, bad));
        if (*s == close)
            return s + 1;
        *bad |= *s != ',';
        s += !*bad;
    }
    return s;
}

static const char *skip_json(const char *s, bool *bad)
{
    static const char *const words[] = {"true", "false", "null"};
    size_t i;
    s = skip_space(s);
    if (*s == '{')
        return skip_elements(s + 1, '}', bad);
    if (*s == '[')
        return skip_elements(s + 1, ']', bad);
    if (*s == '"')
        return skip_string(s, bad);
    for (i = 0; i < 3; i++) {
        if (strncmp(s, words[i], strlen(words[i])) == 0)
            return s + strlen(words[i]);
    }
    return skip_number(s, bad);
}

static const char *check_json(const char *text)
{
    bool bad = !check_utf8((const unsigned char *)text);
    const char *end = skip_space(skip_json(text, &bad));
    return bad || *end ? end : NULL;
}

/* Every tag known, closed, in order; no '<', '>' or bare '&' in texts; attributes quoted. */
static const char *check_html(const char *text)
{
    static const char known[] = " html head meta title style body h1 h2 div table tr th td ";
    char open[16][8];
    int depth = 0;
    const char *s = text;
    if (!check_utf8((const unsigned char *)text) || strncmp(s, "<!DOCTYPE html>", 15))
        return s;
    for (s += 15; *s; s++) {
        char tag[10] = " ";
        size_t n;
        bool closing;
        if (*s == '>' || ((unsigned char)*s < 0x20 && *s != '\n') || *s == 0x7f)
            return s;
        if (*s == '&' && strncmp(s, "&amp;", 5) && strncmp(s, "&lt;", 4) &&
            strncmp(s, "&gt;", 4) && strncmp(s, "&quot;", 6) && strncmp(s, "&#39;", 5))
            return s;
        if (*s != '<')
            continue;
        closing = s[1] == '/';
        n = strcspn(s + 1 + closing, " />");
        if (n == 0 || n > 7)
            return s;
        memcpy(tag + 1, s + 1 + closing, n);
        strcpy(tag + 1 + n, " ");
        if (!strstr(known, tag))
            return s;
        tag[1 + n] = '\0';
        if (closing && (depth == 0 || strcmp(open[--depth], tag + 1)))
            return s;
        for (s += 1 + closing + n; *s != '>' && *s; s++) {
            if (*s == '"')
                s += 1 + strcspn(s + 1, "\"");
            if (*s == '<' || *s == '\0')
                return s;
        }
        if (*s != '>')
            return s;
        if (!closing && s[-1] != '/') {
            if (depth == 16)
                return s;
            strcpy(open[depth++], tag + 1);
        }
    }
    return depth == 0 ? NULL : s;
}

static size_t metric_length(const char *s)
{
    return strspn(s, "abcdefghijklmnopqrstuvwxyz_");
}

/* {label="value",...}; the place behind, NULL if wrong. */
static const char *skip_labels(const char *s)
{
    if (*s != '{')
        return s;
    do {
        size_t n = metric_length(++s);
        if (n == 0 || s[n] != '=' || s[n + 1] != '"')
            return NULL;
        for (s += n + 2; *s != '"'; s++) {
            if ((unsigned char)*s < 0x20 || (*s == '\\' && !strchr("\\\"n", *++s)))
                return NULL;
        }
        s++;
    } while (*s == ',');
    return *s == '}' ? s + 1 : NULL;
}

static const char *skip_value(const char *s)
{
    bool bad = false;
    if (strncmp(s, "+Inf", 4) == 0 || strncmp(s, "-Inf", 4) == 0)
        return s + 4;
    if (strncmp(s, "NaN", 3) == 0)
        return s + 3;
    s = skip_number(s, &bad);
    return bad ? NULL : s;
}

/* Two comment lines per metric, the samples of a metric together, counters end in _total. */
static const char *check_prom(const char *text)
{
    char metric[80] = "";
    const char *s = text;
    if (!check_utf8((const unsigned char *)text))
        return s;
    while (*s) {
        const char *line = s;
        char again[100];
        size_t n;
        if (strncmp(s, "# HELP ", 7) == 0) {
            n = metric_length(s += 7);
            if (n == 0 || n >= sizeof metric || s[n] != ' ')
                return line;
            memcpy(metric, s, n);
            metric[n] = '\0';
            snprintf(again, sizeof again, "\n# HELP %s ", metric);
            s = strchr(s, '\n');
            if (!s || strstr(s, again))
                return line;
            snprintf(again, sizeof again, "\n# TYPE %s %s\n", metric,
                     n > 6 && strcmp(metric + n - 6, "_total") == 0 ? "counter" : "gauge");
            if (strncmp(s, again, strlen(again)))
                return line;
            s += strlen(again);
            continue;
        }
        n = metric_length(s);
        if (n == 0 || n != strlen(metric) || strncmp(s, metric, n))
            return line;
        s = skip_labels(s + n);
        if (!s || *s != ' ' || !(s = skip_value(s + 1)) || *s != '\n')
            return line;
        s++;
    }
    return NULL;
}

#endif
