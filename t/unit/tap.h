/* SPDX-License-Identifier: Apache-2.0 */
/* Test Anything Protocol for the C unit tests, and memory that ends at an unreadable page.
 * Wants _GNU_SOURCE (mmap, sysconf) from the compiler's command line or before any #include. */
#ifndef TAP_H
#define TAP_H

#include <stdarg.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#define TAP_PRINTF(text, args) __attribute__((format(printf, text, args), unused)) static

static int tap_count, tap_failed;

/* printf-like names: a loop's cases differ in their names. Bytes that would break the line, or
 * begin a TAP directive, are shown as '?'. */
TAP_PRINTF(2, 3) bool ok(bool good, const char *name, ...)
{
    char text[512];
    va_list args;
    tap_count++;
    if (!good)
        tap_failed++;
    va_start(args, name);
    vsnprintf(text, sizeof text, name, args);
    va_end(args);
    for (char *p = text; *p; p++) {
        if (*p < ' ' || *p > '~' || *p == '#')
            *p = '?';
    }
    printf("%sok %d - %s\n", good ? "" : "not ", tap_count, text);
    return good;
}

TAP_PRINTF(1, 2) void diag(const char *text, ...)
{
    va_list args;
    fputs("# ", stdout);
    va_start(args, text);
    vprintf(text, args);
    va_end(args);
    putchar('\n');
}

TAP_PRINTF(3, 4) bool is_int(long long got, long long want, const char *name, ...)
{
    char text[256];
    va_list args;
    va_start(args, name);
    vsnprintf(text, sizeof text, name, args);
    va_end(args);
    if (!ok(got == want, "%s", text))
        diag("got %lld, wanted %lld", got, want);
    return got == want;
}

/* NULL is a value like others: equal to NULL only. */
TAP_PRINTF(3, 4) bool is_str(const char *got, const char *want, const char *name, ...)
{
    bool same = got && want ? strcmp(got, want) == 0 : got == want;
    char text[256];
    va_list args;
    va_start(args, name);
    vsnprintf(text, sizeof text, name, args);
    va_end(args);
    if (!ok(same, "%s", text))
        diag("got '%s', wanted '%s'", got ? got : "(null)", want ? want : "(null)");
    return same;
}

/* The n bytes of `got` (which need not end with NUL) against a string. */
TAP_PRINTF(4, 5) bool is_mem(const char *got, size_t n, const char *want, const char *name, ...)
{
    bool same = n == strlen(want) && (n == 0 || memcmp(got, want, n) == 0);
    char text[256];
    va_list args;
    va_start(args, name);
    vsnprintf(text, sizeof text, name, args);
    va_end(args);
    if (!ok(same, "%s", text))
        diag("got '%.*s', wanted '%s'", (int)n, n ? got : "", want);
    return same;
}

/* A copy of n bytes that ends right before an unreadable page: a read beyond is a SIGSEGV even
 * without sanitizers. The next call takes the memory again; at most one page. */
__attribute__((unused)) static char *guarded(const void *data, size_t n)
{
    static char *base;
    size_t page = (size_t)sysconf(_SC_PAGESIZE);
    if (n > page) {
        puts("Bail out! more than a page");
        exit(1);
    }
    if (!base) {
        base = mmap(NULL, 2 * page, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        if (base == MAP_FAILED || mprotect(base + page, page, PROT_NONE)) {
            puts("Bail out! no guard page");
            exit(1);
        }
    }
    memset(base, 'J', page); /* what lies before must not count either */
    if (n)
        memcpy(base + page - n, data, n);
    return base + page - n;
}

/* The string with its NUL as the last readable byte. */
__attribute__((unused)) static char *guarded_str(const char *text)
{
    return guarded(text, strlen(text) + 1);
}

/* The plan comes last, so that no test counts its cases; main's return value. */
__attribute__((unused)) static int done(void)
{
    printf("1..%d\n", tap_count);
    return tap_failed ? 1 : 0;
}

#endif
