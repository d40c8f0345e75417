/* SPDX-License-Identifier: Apache-2.0 */
/* memcached's answers, true and false ones, each cut at every byte, at the edge of an
 * unreadable page. */
#include "xb_store_reply.h"

#include "tap.h"

static const char *const keys[] = {"k", "abc-n1.tomcat1", "k2"};

typedef struct {
    const char *name, *text;
    size_t n; /* 0: strlen(text) */
    xb_reply_rc_t rc;
    uint32_t mask;
} answer_t;

static void start(xb_store_reply_t *r, xb_reply_verb_t verb, uint8_t *buf, size_t cap)
{
    if (verb == XB_REPLY_GET)
        xb_store_reply_get(r, keys, 3, buf, cap);
    else
        xb_store_reply_line(r, verb);
}

/* Whole, byte by byte, and in two pieces at every place: always the same. */
static void check(xb_reply_verb_t verb, const answer_t *a)
{
    size_t n = a->n ? a->n : strlen(a->text);
    const char *text = guarded(a->text, n);
    xb_store_reply_t r;
    unsigned bad = 0;

    for (size_t cut = 0; cut <= n; cut++) {
        uint8_t buf[4];

        start(&r, verb, buf, sizeof buf);
        xb_store_reply_feed(&r, text, cut);
        bad += xb_store_reply_feed(&r, text + cut, n - cut) != a->rc;
        bad += a->rc == XB_REPLY_FOUND && r.mask != a->mask;
        bad += r.got > sizeof buf || r.got > r.total;
    }
    start(&r, verb, NULL, 0);
    for (size_t i = 0; i < n; i++)
        xb_store_reply_feed(&r, text + i, 1);
    bad += r.rc != a->rc;
    is_int(bad, 0, "%s", a->name);
}

static void gets(void)
{
    static const answer_t answers[] = {
        {"get: absent", "END\r\n", 0, XB_REPLY_ABSENT, 0},
        {"get: one", "VALUE k 0 3\r\nabc\r\nEND\r\n", 0, XB_REPLY_FOUND, 1},
        {"get: longer than the buffer", "VALUE k 0 9\r\n123456789\r\nEND\r\n", 0,
         XB_REPLY_FOUND, 1},
        {"get: empty value", "VALUE k 0 0\r\n\r\nEND\r\n", 0, XB_REPLY_FOUND, 1},
        {"get: line ends and zeros in a value", "VALUE k 0 7\r\n\r\nEND\r\0\r\nEND\r\n", 27,
         XB_REPLY_FOUND, 1},
        {"get: two, any order", "VALUE k2 7 1\r\nx\r\nVALUE k 4294967295 1\r\ny\r\nEND\r\n", 0,
         XB_REPLY_FOUND, 5},
        {"get: all",
         "VALUE k 0 1\r\nx\r\nVALUE abc-n1.tomcat1 0 1\r\ny\r\nVALUE k2 0 1\r\nz\r\nEND\r\n", 0,
         XB_REPLY_FOUND, 7},
        {"get: not complete without END", "VALUE k 0 1\r\nx\r\n", 0, XB_REPLY_MORE, 0},
        {"get: not complete within a value", "VALUE k 0 67108864\r\nx", 0, XB_REPLY_MORE, 0},
        {"get: not complete within a line", "EN", 0, XB_REPLY_MORE, 0},
    };
    for (size_t i = 0; i < sizeof answers / sizeof *answers; i++)
        check(XB_REPLY_GET, &answers[i]);
}

#define LIE(text)                                                                              \
    {                                                                                          \
        "lie: " #text, text, sizeof(text) - 1, XB_REPLY_BAD, 0                                 \
    }

static void lies(void)
{
    static const answer_t answers[] = {
        LIE("VALUE other 0 1\r\nx\r\nEND\r\n"),
        LIE("VALUE k 0 1\r\nx\r\nVALUE k 0 1\r\nx\r\nEND\r\n"),
        LIE("VALUE k 0 5\r\nabc\r\nEND\r\n"),
        LIE("VALUE k 0 2\r\nabc\r\nEND\r\n"),
        LIE("VALUE k 0 2\r\nab\rxEND\r\n"),
        LIE("VALUE k 0 67108865\r\n"),
        LIE("VALUE k 0 18446744073709551617\r\n"),
        LIE("VALUE k 0 -1\r\n"),
        LIE("VALUE k 0 +1\r\n"),
        LIE("VALUE k 0 0x10\r\n"),
        LIE("VALUE k 0 \r\n"),
        LIE("VALUE k 0\r\n"),
        LIE("VALUE k\r\n"),
        LIE("VALUE \r\n"),
        LIE("VALUE  k 0 1\r\n"),
        LIE("VALUE k  0 1\r\n"),
        LIE("VALUE k 0 1 \r\n"),
        LIE("VALUE k 0 1 99\r\n"),
        LIE("VALUE k 4294967296 1\r\n"),
        LIE("VALUE k x 1\r\n"),
        LIE("VALUE k\0 0 1\r\n"),
        LIE("value k 0 1\r\n"),
        LIE("END\n"),
        LIE("ENDx\n"),
        LIE("END \r\n"),
        LIE("END\r\r\n"),
        LIE("\n"),
        LIE("\r\n"),
        LIE("END\r\nEND\r\n"),
        LIE("END\r\n\0"),
        LIE("ERROR\r\n"),
        LIE("CLIENT_ERROR bad command line format\r\n"),
        LIE("SERVER_ERROR out of memory\r\n"),
        LIE("STORED\r\n"),
        LIE("HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n"),
        LIE("\0\0\0\0\n"),
    };
    for (size_t i = 0; i < sizeof answers / sizeof *answers; i++)
        check(XB_REPLY_GET, &answers[i]);
}

static void lines(void)
{
    static const answer_t set[] = {
        {"set: stored", "STORED\r\n", 0, XB_REPLY_FOUND, 0},
        LIE("NOT_STORED\r\n"),
        LIE("SERVER_ERROR out of memory storing object\r\n"),
        LIE("STORED\r\nSTORED\r\n"),
        LIE("END\r\n"),
        LIE("VALUE k 0 1\r\nx\r\nEND\r\n"),
    };
    for (size_t i = 0; i < sizeof set / sizeof *set; i++)
        check(XB_REPLY_SET, &set[i]);
}

static void values_kept(void)
{
    static const char text[] = "VALUE k 0 6\r\nabcdef\r\nEND\r\n";
    uint8_t buf[8] = "########";
    xb_store_reply_t r;

    xb_store_reply_get(&r, keys, 1, buf, 4);
    is_int(xb_store_reply_feed(&r, text, sizeof text - 1), XB_REPLY_FOUND, "a value");
    is_int((long long)r.got, 4, "as many bytes as there is room for");
    is_int((long long)r.total, 6, "of so many");
    is_mem((char *)buf, 8, "abcd####", "and not one more");
}

/* Across any two pieces; after a beginning that leads nowhere; in one value of two. */
static void bytes_found(void)
{
    static const char text[] = "VALUE k2 0 3\r\ntno\r\nVALUE k 0 9\r\nxxttt\0_no\r\nEND\r\n";
    static const char *const other[] = {"t\0_yes", "t\0_no!", "t\0no", "tno\r"};
    xb_store_reply_t r;
    size_t n = sizeof text - 1;
    unsigned bad = 0;

    for (size_t cut = 0; cut <= n; cut++) {
        xb_store_reply_get(&r, keys, 3, NULL, 0);
        r.find = "t\0_no";
        r.find_n = 5;
        xb_store_reply_feed(&r, text, cut);
        bad += xb_store_reply_feed(&r, text + cut, n - cut) != XB_REPLY_FOUND || !r.holds;
    }
    is_int(bad, 0, "bytes are found in a value, in whatever pieces it comes");
    bad = 0;
    for (size_t i = 0; i < 4; i++) {
        xb_store_reply_get(&r, keys, 3, NULL, 0);
        r.find = other[i];
        r.find_n = i < 2 ? 6 : 4;
        bad += xb_store_reply_feed(&r, text, n) != XB_REPLY_FOUND || r.holds;
    }
    is_int(bad, 0, "others are not");
}

static void longest_and_endless_lines(void)
{
    char key[251], text[400];
    const char *one[] = {key};
    xb_store_reply_t r;
    uint8_t buf[1];
    unsigned fed = 0;

    memset(key, 'k', 250);
    key[250] = '\0';
    xb_store_reply_get(&r, one, 1, buf, 1);
    snprintf(text, sizeof text, "VALUE %s 4294967295 1\r\nx\r\nEND\r\n", key);
    is_int(xb_store_reply_feed(&r, text, strlen(text)), XB_REPLY_FOUND, "the longest key");
    xb_store_reply_get(&r, one, 1, buf, 1);
    while (fed < 1000 && xb_store_reply_feed(&r, "x", 1) == XB_REPLY_MORE)
        fed++;
    is_int(fed, XB_STORE_LINE_MAX, "an endless line is given up when it is too long");
    is_int(xb_store_reply_feed(&r, "END\r\n", 5), XB_REPLY_BAD, "and stays bad");
}

int main(void)
{
    gets();
    lies();
    lines();
    values_kept();
    bytes_found();
    longest_and_endless_lines();
    return done();
}
