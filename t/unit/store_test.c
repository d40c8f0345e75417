/* SPDX-License-Identifier: Apache-2.0 */
/* The store against a server that follows a script, and (see main) against a real memcached. */
#include "xb_store.h"

#include <dirent.h>
#include <time.h>

#include "store_server.h"
#include "tap.h"

#define BUDGET 2000000 /* for calls that should be answered */
#define SHORT 50000    /* for calls that should not */

/* ---- helpers */

static xb_msm_nodes_t nodes = {.count = 1, .node = {{.id = "n1", .host = "127.0.0.1"}}};
static xb_store_t store;

static int64_t now_us(void)
{
    struct timespec t;

    clock_gettime(CLOCK_MONOTONIC, &t);
    return (int64_t)t.tv_sec * 1000000 + t.tv_nsec / 1000;
}

static xb_store_rc_t get(int64_t budget)
{
    char buf[4];
    size_t got, total;

    return xb_store_get(&store, 0, "k", buf, sizeof buf, &got, &total, budget);
}

static unsigned open_files(void)
{
    DIR *dir = opendir("/proc/self/fd");
    unsigned n = 0;

    while (dir && readdir(dir))
        n++;
    closedir(dir);
    return n;
}

/* A busy machine may wake us late, so the best of some tries counts; never early, though. */
static void is_late(const char *name)
{
    int64_t least = INT64_MAX;
    bool good = true;

    for (int i = 0; i < 5 && least > SHORT + 20000; i++) {
        int64_t start = now_us(), took;

        good = get(SHORT) == XB_STORE_LATE && store.peer[0].fd < 0 && good;
        took = now_us() - start;
        least = took < least ? took : least;
        good = good && took >= SHORT;
    }
    if (!ok(good && least <= SHORT + 20000, "%s: LATE in 50 to 70 ms, closed", name))
        diag("took %lld us", (long long)least);
}

/* ---- answers */

static void good_answers(void)
{
    char buf[8] = "#######";
    size_t got = 99, total = 99;
    unsigned before = connections();

    script(ANSWER, "VALUE k 0 6\r\nabcdef\r\nEND\r\n");
    is_int(xb_store_get(&store, 0, "k", buf, 4, &got, &total, BUDGET), XB_STORE_FOUND, "get");
    ok(got == 4 && total == 6 && !memcmp(buf, "abcd###", 8), "get: first bytes, whole length");
    is_str(server.command, "get k\r\n", "get: what was sent");
    is_int(xb_store_get(&store, 0, "k", NULL, 0, &got, &total, BUDGET), XB_STORE_FOUND,
           "get: without room");
    ok(got == 0 && total == 6, "get: length all the same");
    script(ANSWER, "END\r\n");
    is_int(xb_store_get(&store, 0, "k", buf, 4, &got, &total, BUDGET), XB_STORE_ABSENT,
           "get: absent");
    ok(got == 0 && total == 0, "get: absent, nothing got");
    script(BY_BYTE, "VALUE k 0 6\r\nabcdef\r\nEND\r\n");
    is_int(get(BUDGET), XB_STORE_FOUND, "get: an answer byte by byte");
    is_int(connections() - before, 1, "all on one connection");
}

static void other_verbs(void)
{
    const char *keys[] = {"a", "b", "c"};
    uint32_t mask = 99;

    script(ANSWER, "VALUE c 0 2\r\nxx\r\nVALUE a 0 0\r\n\r\nEND\r\n");
    is_int(xb_store_which(&store, 0, keys, 3, &mask, BUDGET), XB_STORE_FOUND, "which");
    is_int(mask, 5, "which: first and third");
    is_str(server.command, "get a b c\r\n", "which: one command");
    script(ANSWER, "END\r\n");
    is_int(xb_store_which(&store, 0, keys, 3, &mask, BUDGET), XB_STORE_ABSENT, "which: none");
    is_int(mask, 0, "which: none");
    script(ANSWER, "STORED\r\n");
    is_int(xb_store_set(&store, 0, "k", "n1 7", 60, BUDGET), XB_STORE_FOUND, "set");
    is_str(server.command, "set k 0 60 4\r\nn1 7\r\n", "set: what was sent");
    script(ANSWER, "STORED\r\n");
    is_int(xb_store_set(&store, 0, "k", "n1", 31 * 86400, BUDGET), XB_STORE_FOUND, "31 days");
    long long date = 0;
    sscanf(server.command, "set k 0 %lld", &date);
    ok(date - time(NULL) - 31 * 86400 + 5 < 10u, "set: more than 30 days is a date, %lld",
       date);
    script(ANSWER, "STORED\r\n");
    is_int(xb_store_set(&store, 0, "k", "n1", XB_STORE_FOREVER, BUDGET), XB_STORE_FOUND,
           "for ever");
    is_str(server.command, "set k 0 0 2\r\nn1\r\n", "set: that is 0");
}

static void arguments(void)
{
    static const char *const bad[] = {"", " ", "a b", "a\r\nflush_all", "a\n", "a\tb", "a\x7f"};
    char long_key[252], value[201];
    const char *keys[33], *const inner[] = {"k", "a b"};
    uint32_t mask;
    size_t got, total;
    unsigned sent = 0, before;

    xb_store_close(&store);
    before = connections();
    memset(long_key, 'k', 251);
    long_key[251] = '\0';
    memset(value, 'v', 200);
    value[200] = '\0';
    for (int i = 0; i < 33; i++)
        keys[i] = "k";
    for (size_t i = 0; i <= sizeof bad / sizeof *bad; i++) {
        const char *key = i < sizeof bad / sizeof *bad ? bad[i] : long_key;

        sent += xb_store_get(&store, 0, key, NULL, 0, &got, &total, BUDGET) != XB_STORE_BADKEY;
        sent += xb_store_set(&store, 0, key, "v", 60, BUDGET) != XB_STORE_BADKEY;
    }
    sent += xb_store_which(&store, 0, inner, 2, &mask, BUDGET) != XB_STORE_BADKEY;
    sent += xb_store_which(&store, 0, keys, 0, &mask, BUDGET) != XB_STORE_BADKEY;
    sent += xb_store_which(&store, 0, keys, 33, &mask, BUDGET) != XB_STORE_BADKEY;
    sent += xb_store_set(&store, 0, "k", value, 60, BUDGET) != XB_STORE_BADKEY;
    sent += xb_store_set(&store, 0, "k", "v", 0, BUDGET) != XB_STORE_BADKEY;
    is_int(sent, 0, "keys, values and times that memcached could misread are BADKEY");
    is_int(connections() - before, 0, "and nothing is sent for them");
    is_int(xb_store_set(&store, 1000000, "k", "v", 60, BUDGET), XB_STORE_DOWN,
           "a node that there is not");
}

static void lies(void)
{
    static const char *const lie[] = {
        "VALUE other 0 1\r\nx\r\nEND\r\n",
        "VALUE k 0 5\r\nabc\r\nEND\r\n",
        "VALUE k 0 99999999999\r\n",
        "SERVER_ERROR out of memory\r\n",
        "ERROR\r\n",
        "CLIENT_ERROR line too long\r\n",
        "STORED\r\n",
        "HTTP/1.1 400 Bad Request\r\n\r\n",
    };
    unsigned before;

    for (size_t i = 0; i < sizeof lie / sizeof *lie; i++) {
        script(ANSWER, lie[i]);
        ok(get(BUDGET) == XB_STORE_DOWN && store.peer[0].fd < 0, "a lie is DOWN, closed: %.12s",
           lie[i]);
    }
    script(THEN_CLOSE, "VALUE k 0 5\r\nabc");
    is_int(get(BUDGET), XB_STORE_DOWN, "closed within a value");
    script(THEN_CLOSE, "VALUE k 0 3\r\nabc\r\n");
    is_int(get(BUDGET), XB_STORE_DOWN, "closed without END");
    script(ANSWER, "END\r\n");
    get(BUDGET);
    before = connections();
    script(THEN_CLOSE, "VALUE k 0 3\r\n");
    ok(get(BUDGET) == XB_STORE_DOWN && connections() == before,
       "half an answer: no second try");
    script(FLOOD, "xxxx");
    is_int(get(BUDGET), XB_STORE_DOWN, "an endless line");
    script(ANSWER, "END\r\n");
    is_int(get(BUDGET), XB_STORE_ABSENT, "after all of that: a good answer");
}

/* ---- time */

static void fill_backlog(uint16_t port, int fd[4])
{
    struct sockaddr_in a = {.sin_family = AF_INET,
                            .sin_port = htons(port),
                            .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};

    for (int i = 0; i < 4; i++) {
        fd[i] = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0);
        connect(fd[i], (struct sockaddr *)&a, sizeof a);
    }
}

static void too_late(void)
{
    int64_t start;
    int full, fd[4];

    script(TRICKLE, "VALUE k 0 6\r\nabcdef\r\nEND\r\n");
    is_late("a server that trickles");
    script(HANG, "");
    is_late("a server that hangs");
    script(ANSWER, "VALUE k 0 6\r\nabc");
    is_late("a server that hangs within a value");
    script(ANSWER, "VALUE k 0 6\r\nabcdef\r\n");
    is_int(get(SHORT), XB_STORE_FOUND, "a server that hangs after what was asked for: found");
    ok(store.peer[0].fd < 0, "and closed");
    script(FLOOD, "VALUE k 0 67108864\r\n");
    start = now_us();
    is_int(get(5000), XB_STORE_FOUND, "a flood: what was asked for is found");
    ok(now_us() - start < BUDGET && store.peer[0].fd < 0, "the rest is not waited for");
    full = listen_on_loopback(&nodes.node[0].port, 0);
    fill_backlog(nodes.node[0].port, fd);
    xb_store_init(&store, &nodes, NULL);
    is_late("a full backlog");
    nodes.node[0].port = server.port;
    xb_store_init(&store, &nodes, NULL);
    close(full);
    for (int i = 0; i < 4; i++)
        close(fd[i]);
    script(ANSWER, "END\r\n");
    ok(get(0) == XB_STORE_LATE && get(-1) == XB_STORE_LATE, "no time at all is LATE");
    is_int(get(BUDGET), XB_STORE_ABSENT, "after all of that: a good answer");
}

/* ---- connections */

static void refused(void)
{
    uint16_t port;
    int64_t start;

    close(listen_on_loopback(&port, 1));
    nodes.node[0].port = port;
    xb_store_init(&store, &nodes, NULL);
    start = now_us();
    is_int(get(BUDGET), XB_STORE_DOWN, "nobody listens: DOWN");
    ok(now_us() - start < BUDGET / 2, "at once");
    nodes.node[0].port = server.port;
    xb_store_init(&store, &nodes, NULL);
}

static void reconnects(void)
{
    unsigned before;

    script(THEN_CLOSE, "END\r\n");
    get(BUDGET);
    before = connections();
    is_int(get(BUDGET), XB_STORE_ABSENT,
           "closed by the server while idle: answered all the same");
    is_int(connections() - before, 1, "over one new connection");
    script(THEN_SAY, "VALUE k 0 1\r\nx\r\nEND\r\n");
    get(BUDGET);
    closed_within(store.peer[0].fd, 200); /* until it has said more than it was asked */
    before = connections();
    is_int(get(BUDGET), XB_STORE_FOUND, "unasked words while idle are not the next answer");
    is_int(connections() - before, 1, "but the end of that connection");
    script(ANSWER, "END\r\n");
    xb_store_close(&store);
    get(BUDGET);
    before = connections();
    pthread_mutex_lock(&server.lock);
    server.hang_up_once = true;
    pthread_mutex_unlock(&server.lock);
    is_int(get(BUDGET), XB_STORE_ABSENT, "closed under our hands: answered all the same");
    is_int(connections() - before, 1, "over one new connection");
}

/* A connection that looks well until something is sent on it. */
static void broken_pipe(void)
{
    int pair[2];

    script(ANSWER, "END\r\n");
    xb_store_close(&store);
    if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK, 0, pair)) {
        puts("Bail out! no socket");
        exit(1);
    }
    shutdown(pair[0], SHUT_WR);
    store.peer[0].fd = pair[0];
    is_int(get(BUDGET), XB_STORE_ABSENT, "a broken pipe: answered all the same, no signal");
    close(pair[1]);
}

static void gone(void)
{
    unsigned before;

    xb_store_close(&store);
    before = connections();
    script(HANG_UP, "");
    is_int(get(BUDGET), XB_STORE_DOWN,
           "a new connection that is closed without an answer: DOWN");
    is_int(connections() - before, 1, "and not tried for ever");
    script(ANSWER, "END\r\n");
    get(BUDGET);
    script(RESET, "");
    before = connections();
    is_int(get(BUDGET), XB_STORE_DOWN, "reset, twice: DOWN");
    is_int(connections() - before, 1, "one new connection");
    script(ANSWER, "END\r\n");
    is_int(get(BUDGET), XB_STORE_ABSENT, "and well again");
}

static void names(void)
{
    xb_msm_nodes_t two = {.count = 2,
                          .node = {{.host = "localhost"}, {.host = "no..host", .port = 1}}};
    xb_store_names_t found;
    xb_store_t other;
    size_t got, total;

    two.node[0].port = server.port;
    xb_store_close(&store);
    xb_store_names_init(&found, &two);
    xb_store_init(&other, &two, &found);
    is_int(xb_store_get(&other, 0, "k", NULL, 0, &got, &total, BUDGET), XB_STORE_DOWN,
           "a name that has not been looked up is DOWN");
    xb_store_names_find(&found);
    ok(found.node[0].n > 0 && !found.node[0].wanted && found.node[1].wanted,
       "names are looked up for all stores");
    is_int(xb_store_get(&other, 0, "k", NULL, 0, &got, &total, BUDGET), XB_STORE_ABSENT,
           "a host by name, whichever of its addresses answers");
    is_int(xb_store_get(&other, 1, "k", NULL, 0, &got, &total, BUDGET), XB_STORE_DOWN,
           "an unknown name is DOWN");
    xb_store_close(&other);
}

/* A name with two addresses: at the first one nobody listens. */
static void second_address(void)
{
    xb_msm_nodes_t one = {.count = 1, .node = {{.host = "localhost"}}};
    struct sockaddr_in a = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    xb_store_names_t found;
    xb_store_t other;
    size_t got, total;

    xb_store_names_init(&found, &one);
    found.node[0].wanted = false;
    xb_store_init(&other, &one, &found);
    other.peer[0].addrs = 2;
    other.peer[0].by_name = 1;
    close(listen_on_loopback(&one.node[0].port, 1));
    a.sin_port = htons(one.node[0].port);
    other.peer[0].addr[0].v4 = a;
    a.sin_port = htons(server.port);
    other.peer[0].addr[1].v4 = a;
    is_int(xb_store_get(&other, 0, "k", NULL, 0, &got, &total, BUDGET), XB_STORE_ABSENT,
           "the second address answers");
    is_int(other.peer[0].at, 1, "and is the first to be tried from now on");
    xb_store_close(&other);
    other.peer[0].addr[1] = other.peer[0].addr[0];
    is_int(xb_store_get(&other, 0, "k", NULL, 0, &got, &total, BUDGET), XB_STORE_DOWN,
           "no address answers");
    ok(other.peer[0].addrs == 0 && found.node[0].wanted, "the name is looked up again");
    xb_store_close(&other);
}

static void against_script(void)
{
    pthread_t thread;
    unsigned files;

    server.listener = listen_on_loopback(&server.port, 16);
    nodes.node[0].port = server.port;
    pthread_create(&thread, NULL, run_server, NULL);
    xb_store_init(&store, &nodes, NULL);
    files = open_files();
    good_answers();
    other_verbs();
    arguments();
    lies();
    too_late();
    xb_store_close(&store);
    refused();
    reconnects();
    broken_pipe();
    gone();
    names();
    second_address();
    xb_store_close(&store);
    shutdown(server.listener, SHUT_RDWR);
    pthread_join(thread, NULL);
    is_int(open_files(), files, "no connection left open");
    close(server.listener);
}

/* ---- a real memcached, empty */

static void against_memcached(uint16_t port)
{
    const char *keys[] = {"absent", "xnat-balance:moved:A", "big"};
    char long_key[251], absent_key[251], buf[200], value[200];
    const char *many[32];
    size_t got, total;
    uint32_t mask;

    memset(absent_key, 'x', 250);
    absent_key[250] = '\0';
    memset(long_key, 'k', 250);
    long_key[250] = '\0';
    memset(value, 'v', 199);
    value[199] = '\0';
    nodes.node[0].port = port;
    xb_store_init(&store, &nodes, NULL);
    is_int(xb_store_get(&store, 0, "absent", buf, 200, &got, &total, BUDGET), XB_STORE_ABSENT,
           "get: absent");
    is_int(xb_store_set(&store, 0, keys[1], "n1", 60, BUDGET), XB_STORE_FOUND, "set");
    is_int(xb_store_get(&store, 0, keys[1], buf, 200, &got, &total, BUDGET), XB_STORE_FOUND,
           "get");
    is_mem(buf, got, "n1", "get: the value");
    is_int(xb_store_get(&store, 0, "big", buf, 200, &got, &total, BUDGET), XB_STORE_FOUND,
           "get: a large value");
    ok(got == 200 && total == 900000 && buf[0] == 'B' && buf[199] == 'B', "only its beginning");
    is_int(xb_store_which(&store, 0, keys, 3, &mask, BUDGET), XB_STORE_FOUND, "which");
    is_int(mask, 6, "which: those that are there");
    is_int(xb_store_set(&store, 0, long_key, value, 30 * 86400, BUDGET), XB_STORE_FOUND,
           "set: the longest key, value and time");
    is_int(xb_store_get(&store, 0, long_key, buf, 200, &got, &total, BUDGET), XB_STORE_FOUND,
           "get: the longest key");
    is_mem(buf, got, value, "get: its value");
    for (int i = 0; i < 32; i++)
        many[i] = i == 31 ? long_key : absent_key;
    is_int(xb_store_which(&store, 0, many, 32, &mask, BUDGET), XB_STORE_FOUND,
           "which: 32 of the longest keys");
    is_int(mask, UINT32_C(1) << 31, "which: the last one is there");
    xb_store_close(&store);
}

static void against_frozen(uint16_t port)
{
    nodes.node[0].port = port;
    xb_store_init(&store, &nodes, NULL);
    is_late("a frozen memcached");
}

/* No argument: the script. <port>: memcached with 900000 bytes of B at key "big". <port>
 * frozen: the same, stopped. */
int main(int argc, char **argv)
{
    if (argc > 2)
        against_frozen((uint16_t)atoi(argv[1]));
    else if (argc > 1)
        against_memcached((uint16_t)atoi(argv[1]));
    else
        against_script();
    return done();
}
