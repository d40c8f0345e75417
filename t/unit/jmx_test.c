/* SPDX-License-Identifier: Apache-2.0 */
/* Answers of the JMXProxyServlet, true and false ones, at the edge of an unreadable page. */
#include "xb_jmx.h"

#include "tap.h"

#define H50 "hhhhhhhhhhhhhhhhhhhhhhhhhhhhhhhhhhhhhhhhhhhhhhhhhh"
#define LONG H50 H50 H50 H50 "hhhhhhhhhhhhhhhhh" /* a name of 255 characters */
#define NAME(host, context) "Name: Catalina:type=Manager,host=" host ",context=" context

static const char *text(const char *s)
{
    return guarded(s, strlen(s) + 1);
}

static void heads(void)
{
    ok(xb_jmx_is_ok(text("OK - Number of results: 0\n\n")), "OK");
    const char *const bad[] = {"",        "O",          "OK -",       "ok - x",
                               " OK - x", "Error - no", "<html>OK - "};
    for (unsigned i = 0; i < sizeof bad / sizeof *bad; i++)
        ok(!xb_jmx_is_ok(text(bad[i])), "not OK: '%s'", bad[i]);
}

static void names(void)
{
    static const struct {
        const char *what, *body, *context;
        int n; /* -1: too many */
    } row[] = {
        {"Tomcat's answer",
         "OK - Number of results: 1\n\n" NAME("localhost", "/xnat") "\na: b\n", "/xnat", 1},
        {"no line end", NAME("h", "/"), "/", 1},
        {"CR LF", NAME("h", "/") "\r\n\r\n", "/", 1},
        {"properties in another order", "Name: C:context=/x,host=h,type=Manager\n", "/x", 1},
        {"another context", NAME("h", "/xnat2") "\n" NAME("h", "/xna") "\n", "/xnat", 0},
        {"the context is another's value", "Name: C:type=Manager,x=context=/x,y=/x\n", "/x", 0},
        {"another type", "Name: C:type=Managers,context=/x\n", "/x", 0},
        {"a part of a key", "Name: C:subtype=Manager,context=/x\n", "/x", 0},
        {"no domain", "Name: type=Manager,context=/x\n", "/x", 0},
        {"an attribute, not a name", "modelName: C:type=Manager,context=/x\n", "/x", 0},
        {"name in the middle of a line", "a " NAME("h", "/x") "\n", "/x", 0},
        {"cut in the head", "OK - \nName:", "/x", 0},
        {"an empty name", "Name: \n", "", 0},
        {"an empty value is not any", NAME("h", "/x") "\n", "", 0},
        {"the longest name", NAME(LONG, "/x") "\n", "/x", 1},
        {"one more", NAME(LONG "h", "/x") "\n", "/x", 0},
        {"four hosts",
         NAME("a", "/") "\n" NAME("b", "/") "\n" NAME("c", "/") "\n" NAME("d", "/"), "/", 4},
        {"five hosts",
         NAME("a", "/") "\n" NAME("b", "/") "\n" NAME("c", "/") "\n" NAME("d", "/") "\n" NAME(
             "e", "/"),
         "/", -1},
        {"nothing", "", "/", 0},
    };
    for (unsigned i = 0; i < sizeof row / sizeof *row; i++) {
        xb_jmx_names_t out;
        bool good = xb_jmx_names(text(row[i].body), row[i].context, &out);
        is_int(good ? (int)out.n : -1, row[i].n, "%s", row[i].what);
    }
    xb_jmx_names_t out;
    xb_jmx_names(text("OK - \n" NAME("h", "/x") "\r\nName: other\n"), "/x", &out);
    ok(out.n == 1 && !strcmp(out.text[0], "Catalina:type=Manager,host=h,context=/x"),
       "the name is what stands in its line");
    xb_jmx_names(text(NAME(LONG, "/x")), "/x", &out);
    is_int((int)strlen(out.text[0]), XB_JMX_NAME_SIZE - 1, "a longest one is whole");
}

#define TIME "OK - Operation getLastAccessedTime returned:"

static void times(void)
{
    static const struct {
        const char *body;
        bool whole, there;
    } row[] = {
        {TIME "\n1700000000000\n", true, true},
        {TIME "\r\nSun Nov 1 00:00:00 UTC 2026\r\n", true, true},
        {TIME "\n\n", true, false},
        {TIME "\r\n\r\n", true, false},
        {TIME "\n\n\nx", true, true},
        {TIME "\n", false, false}, /* breaks off */
        {TIME "", false, false},
        {TIME " 5", false, true}, /* not on a line of its own */
        {"OK - Operation expireSession without return value\n", false, false},
        {"OK - Operation getLastAccessedTime return", false, false},
        {"", false, false},
    };
    for (unsigned i = 0; i < sizeof row / sizeof *row; i++) {
        bool there;
        bool whole = xb_jmx_tells_time(text(row[i].body), &there);
        ok(whole == row[i].whole && (!whole || there == row[i].there), "time %u", i);
    }
}

int main(void)
{
    heads();
    names();
    times();
    return done();
}
